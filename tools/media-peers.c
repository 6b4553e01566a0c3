/* normflow: what other encoders make of frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "nf-error.h"

#include <libavutil/pixdesc.h>

typedef struct
{
  AVCodecContext *codec;
  AVFrame *frame;
} Coder;

struct _NfMediaPeers
{
  NfPixelLayout layout;
  guint width;
  guint height;
  Coder png[3];
  Coder ffv1[2]; /* small and large context model */
  AVPacket *packet;
  struct SwsContext *sws;
};

static void
coder_clear (Coder *coder)
{
  avcodec_free_context (&coder->codec);
  av_frame_free (&coder->frame);
}

static void
peers_reset (NfMediaPeers *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (self->png); i++)
    coder_clear (&self->png[i]);
  for (guint i = 0; i < G_N_ELEMENTS (self->ffv1); i++)
    coder_clear (&self->ffv1[i]);
  self->width = self->height = 0;
}

NfMediaPeers *
nf_media_peers_new (NfPixelLayout layout)
{
  NfMediaPeers *self = g_new0 (NfMediaPeers, 1);

  nf_libav_init ();
  self->layout = layout;
  return self;
}

void
nf_media_peers_free (NfMediaPeers *self)
{
  if (!self)
    return;
  peers_reset (self);
  av_packet_free (&self->packet);
  sws_freeContext (self->sws);
  g_free (self);
}

static gboolean
coder_open (Coder *coder, const char *name, enum AVPixelFormat pixels, guint width, guint height,
            const char *context, GError **error)
{
  const AVCodec *codec = avcodec_find_encoder_by_name (name);
  AVDictionary *options = NULL;
  int status;

  if (!codec || !nf_libav_takes (codec, pixels))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "libav was built without the encoder %s for %s",
                   name, av_get_pix_fmt_name (pixels));
      return FALSE;
    }
  coder->codec = avcodec_alloc_context3 (codec);
  coder->frame = nf_libav_frame_new (pixels, width, height);
  if (!coder->codec || !coder->frame)
    return nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), name, "encoder");
  coder->frame->pts = 0;
  coder->codec->width = (int)width;
  coder->codec->height = (int)height;
  coder->codec->pix_fmt = pixels;
  coder->codec->time_base = (AVRational){ 1, 25 };
  coder->codec->thread_count = 1;
  coder->codec->gop_size = 1;
  if (codec->id == AV_CODEC_ID_PNG)
    {
      coder->codec->compression_level = 9;
      av_dict_set (&options, "pred", "mixed", 0);
    }
  else
    {
      coder->codec->level = nf_libav_ffv1_level (width, height);
      av_dict_set (&options, "coder", "range_def", 0);
      av_dict_set (&options, "context", context, 0);
      av_dict_set (&options, "slicecrc", "0", 0);
    }
  status = avcodec_open2 (coder->codec, codec, &options);
  av_dict_free (&options);
  return status >= 0
         || nf_libav_fail (error, NF_ERROR_UNSUPPORTED, status, name, "the encoder cannot be opened");
}

static gboolean
coder_measure (NfMediaPeers *self, Coder *coder, guint64 *bits, GError **error)
{
  int status;

  coder->frame->pts++;
  status = avcodec_send_frame (coder->codec, coder->frame);
  while (status >= 0)
    {
      status = avcodec_receive_packet (coder->codec, self->packet);
      if (status >= 0)
        {
          *bits += 8 * (guint64)self->packet->size;
          av_packet_unref (self->packet);
        }
    }
  return status == AVERROR (EAGAIN)
         || nf_libav_fail (error, NF_ERROR_UNSUPPORTED, status, coder->codec->codec->name,
                           "a frame cannot be encoded");
}

gboolean
nf_media_peers_measure (NfMediaPeers *self, const NfFrame *frame, NfMediaBits *bits, GError **error)
{
  guint n_png = self->layout == NF_PIXELS_YUV420 ? 3 : 1;
  guint64 ffv1[2] = { 0, 0 };

  *bits = (NfMediaBits){ 0 };
  if (!self->packet)
    self->packet = av_packet_alloc ();
  if (frame->width != self->width || frame->height != self->height)
    {
      peers_reset (self);
      for (guint i = 0; i < n_png; i++)
        {
          guint w, h;

          nf_picture_extent (self->layout, i, frame->width, frame->height, &w, &h);
          if (!coder_open (&self->png[i], "png",
                           self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_RGB24 : AV_PIX_FMT_GRAY8, w, h, NULL,
                           error))
            return FALSE;
        }
      for (guint i = 0; i < 2; i++)
        if (!coder_open (&self->ffv1[i], "ffv1",
                         self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_0RGB32 : nf_libav_format (self->layout),
                         frame->width, frame->height, i ? "1" : "0", error))
          return FALSE;
      self->width = frame->width;
      self->height = frame->height;
    }

  for (guint i = 0; i < n_png; i++)
    {
      NfFrame plane = *frame;

      if (self->layout != NF_PIXELS_RGB)
        {
          nf_picture_extent (self->layout, i, frame->width, frame->height, &plane.width, &plane.height);
          plane.planes[0] = frame->planes[i];
        }
      if (!nf_libav_fill (self->png[i].frame, self->layout == NF_PIXELS_RGB ? NF_PIXELS_RGB : NF_PIXELS_GRAY,
                          &plane, &self->sws, "png", error)
          || !coder_measure (self, &self->png[i], &bits->png, error))
        return FALSE;
    }
  for (guint i = 0; i < 2; i++)
    if (!nf_libav_fill (self->ffv1[i].frame, self->layout, frame, &self->sws, "ffv1", error)
        || !coder_measure (self, &self->ffv1[i], &ffv1[i], error))
      return FALSE;
  bits->ffv1 = MIN (ffv1[0], ffv1[1]);
  return TRUE;
}
