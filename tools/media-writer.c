/* normflow: media files are written. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "media-look.h"
#include "nf-error.h"

#include <errno.h>
#include <string.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>

struct _NfMediaWriter
{
  char *path;
  NfPixelLayout layout;
  guint width;
  guint height;
  AVFormatContext *format; /* NULL for pictures: a packet is a file */
  AVCodecContext *codec;
  AVStream *stream;
  AVFrame *frame;
  AVPacket *packet;
  struct SwsContext *sws;
  guint64 n_pictures; /* written */
  gint64 count;
  gboolean closed;
  gboolean whole; /* with its end */
};

void
nf_media_writer_free (NfMediaWriter *self)
{
  if (!self)
    return;
  sws_freeContext (self->sws);
  av_frame_free (&self->frame);
  av_packet_free (&self->packet);
  avcodec_free_context (&self->codec);
  if (self->format)
    {
      if (self->format->pb && !(self->format->oformat->flags & AVFMT_NOFILE))
        avio_closep (&self->format->pb);
      avformat_free_context (self->format);
    }
  g_free (self->path);
  g_free (self);
}

char *
nf_media_picture_name (const char *path, guint64 index)
{
  const gsize size = strlen (path) + 64;
  g_autofree char *name = g_malloc (size);

  /* libav counts them from 1 */
  return index < G_MAXINT && av_get_frame_filename (name, (int)size, path, (int)index + 1) >= 0
             ? g_steal_pointer (&name)
             : NULL;
}

gboolean
nf_media_is_sequence (const char *path)
{
  g_autofree char *first = nf_media_is_picture (path) ? nf_media_picture_name (path, 0) : NULL;

  return first != NULL;
}

gboolean
nf_media_can_break_off (const char *path)
{
  static const char *const known[] = { "mkv", "y4m", NULL };
  return nf_media_has_any_ending (path, known);
}

gboolean
nf_media_check_name (const char *path, GError **error)
{
  static const char *const known[] = { "mkv", "mp4", "mov", "m4v", "y4m", "png", NULL };
  if (nf_media_has_any_ending (path, known))
    return TRUE;
  g_set_error (
      error, NF_ERROR, NF_ERROR_ARGUMENT,
      "%s: the file's name must end in .mkv (lossless), .mp4, .mov, .y4m or .png to say how to write it",
      path);
  return FALSE;
}

/* Container, encoder and pixel format by the file's extension. */
static const AVCodec *
choose_encoder (NfMediaWriter *self, const char **container, enum AVPixelFormat *pixels, GError **error)
{
  static const char *const mkv[] = { "mkv", NULL }, *const mp4[] = { "mp4", "mov", "m4v", NULL },
                           *const y4m[] = { "y4m", NULL };
  const AVCodec *codec = NULL;

  if (!nf_media_check_name (self->path, error))
    return NULL;
  if (nf_media_has_any_ending (self->path, mkv))
    {
      *container = "matroska";
      codec = avcodec_find_encoder_by_name ("ffv1");
      *pixels = self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_0RGB32 : nf_libav_format (self->layout);
    }
  else if (nf_media_has_any_ending (self->path, mp4))
    {
      *container = nf_media_has_ending (self->path, "mov") ? "mov" : "mp4";
      codec = avcodec_find_encoder_by_name ("libx264");
      if (!codec)
        codec = avcodec_find_encoder_by_name ("mpeg4");
      *pixels = AV_PIX_FMT_YUV420P;
    }
  else if (nf_media_has_any_ending (self->path, y4m))
    {
      *container = "yuv4mpegpipe";
      codec = avcodec_find_encoder_by_name ("wrapped_avframe");
      *pixels = self->layout == NF_PIXELS_GRAY ? AV_PIX_FMT_GRAY8 : AV_PIX_FMT_YUV420P;
    }
  else
    {
      codec = avcodec_find_encoder_by_name ("png");
      *pixels = self->layout == NF_PIXELS_GRAY ? AV_PIX_FMT_GRAY8 : AV_PIX_FMT_RGB24;
    }
  if (!codec || !nf_libav_takes (codec, *pixels))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s: libav was built without an encoder for it",
                   self->path);
      return NULL;
    }
  return codec;
}

/* Y'CbCr becomes RGB by the range and matrix that it has. */
static gboolean
prepare_conversion (NfMediaWriter *self, GError **error)
{
  AVCodecContext *codec = self->codec;
  const int *matrix = sws_getCoefficients (
      codec->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)codec->colorspace);

  if (self->layout != NF_PIXELS_YUV420 || codec->pix_fmt != AV_PIX_FMT_RGB24)
    return TRUE;
  self->sws = sws_getContext (codec->width, codec->height, nf_libav_format (self->layout), codec->width,
                              codec->height, codec->pix_fmt, NF_LIBAV_SWS_FLAGS, NULL, NULL, NULL);
  if (!self->sws)
    return nf_libav_fail (error, NF_ERROR_UNSUPPORTED, AVERROR (EINVAL), self->path, "conversion to RGB");
  (void)sws_setColorspaceDetails (self->sws, matrix, codec->color_range == AVCOL_RANGE_JPEG, matrix, 1, 0,
                                  1 << 16, 1 << 16);
  /* the picture itself is RGB */
  codec->color_range = AVCOL_RANGE_UNSPECIFIED;
  codec->colorspace = AVCOL_SPC_UNSPECIFIED;
  codec->chroma_sample_location = AVCHROMA_LOC_UNSPECIFIED;
  return TRUE;
}

const char *
nf_media_writer_describe_loss (const char *path, NfPixelLayout layout)
{
  static const char *const lossy[] = { "mp4", "mov", "m4v", NULL }, *const y4m[] = { "y4m", NULL };

  if (nf_media_has_any_ending (path, lossy))
    return layout == NF_PIXELS_RGB ? "RGB becomes 4:2:0, and is coded with loss" : "it is coded with loss";
  if (nf_media_has_any_ending (path, y4m) && layout == NF_PIXELS_RGB)
    return "RGB becomes 4:2:0";
  return nf_media_is_picture (path) && layout == NF_PIXELS_YUV420 ? "Y'CbCr becomes RGB, rounded" : NULL;
}

const char *
nf_media_writer_describe_times (const char *path, int rate_n, int rate_d)
{
  static const char *const mkv[] = { "mkv", NULL };

  return nf_media_has_any_ending (path, mkv) && rate_n > 1000 * (gint64)rate_d
             ? "times are whole milliseconds in it"
             : NULL;
}

gboolean
nf_media_check_look (const char *look, GError **error)
{
  AVCodecContext *codec = avcodec_alloc_context3 (NULL);
  gboolean known;

  if (!codec)
    return nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), "look", "codec");
  codec->pix_fmt = AV_PIX_FMT_YUV420P;
  known = nf_look_give (look, NF_PIXELS_YUV420, codec, error);
  avcodec_free_context (&codec);
  return known;
}

/* FFV1 and raw frames keep the order of fields; what others code are whole frames. */
static void
give_fields (NfMediaWriter *self)
{
  AVCodecContext *codec = self->codec;

  if (codec->codec_id != AV_CODEC_ID_FFV1 && codec->codec_id != AV_CODEC_ID_WRAPPED_AVFRAME)
    codec->field_order = AV_FIELD_UNKNOWN;
  self->frame->interlaced_frame = codec->field_order > AV_FIELD_PROGRESSIVE;
  self->frame->top_field_first = codec->field_order == AV_FIELD_TT || codec->field_order == AV_FIELD_BT;
}

static gboolean
open_container (NfMediaWriter *self, const char *container, GError **error)
{
  g_autofree char *url = g_strconcat ("file:", self->path, NULL);
  const int status = avformat_alloc_output_context2 (&self->format, NULL, container, url);

  if (status < 0)
    return nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
  self->stream = avformat_new_stream (self->format, NULL);
  return self->stream || nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), self->path, "stream");
}

static gboolean
write_header (NfMediaWriter *self, GError **error)
{
  int status = 0;

  avcodec_parameters_from_context (self->stream->codecpar, self->codec);
  self->stream->time_base = self->codec->time_base;
  self->stream->sample_aspect_ratio = self->codec->sample_aspect_ratio;
  self->stream->avg_frame_rate = self->codec->framerate;
  if (!(self->format->oformat->flags & AVFMT_NOFILE))
    status = avio_open (&self->format->pb, self->format->url, AVIO_FLAG_WRITE);
  if (status >= 0)
    status = avformat_write_header (self->format, NULL);
  return status >= 0 || nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
}

NfMediaWriter *
nf_media_writer_open (const char *path, NfPixelLayout layout, guint width, guint height, int rate_n,
                      int rate_d, const char *look, GError **error)
{
  g_autoptr (NfMediaWriter) self = g_new0 (NfMediaWriter, 1);
  const char *container = NULL; /* pictures have none */
  enum AVPixelFormat pixels = AV_PIX_FMT_NONE;
  const AVCodec *codec;
  int status;

  nf_libav_init ();
  self->path = g_strdup (path);
  self->layout = layout;
  self->width = width;
  self->height = height;
  if (!width || !height || width > NF_MAX_SIDE || height > NF_MAX_SIDE || rate_n < 1 || rate_d < 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: cannot write frames of %ux%u at %d/%d a second",
                   path, width, height, rate_n, rate_d);
      return NULL;
    }
  codec = choose_encoder (self, &container, &pixels, error);
  if (!codec)
    return NULL;
  if (container && !open_container (self, container, error))
    return NULL;
  self->codec = avcodec_alloc_context3 (codec);
  self->packet = av_packet_alloc ();
  self->frame = nf_libav_frame_new (pixels, width, height);
  if (!self->codec || !self->packet || !self->frame)
    {
      nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), path, "encoder");
      return NULL;
    }
  self->codec->width = (int)width;
  self->codec->height = (int)height;
  self->codec->pix_fmt = pixels;
  self->codec->time_base = (AVRational){ rate_d, rate_n };
  self->codec->framerate = (AVRational){ rate_n, rate_d };
  self->codec->thread_count = 1;
  if (!nf_look_give (look, layout, self->codec, error) || !prepare_conversion (self, error))
    return NULL;
  give_fields (self);
  if (codec->id == AV_CODEC_ID_FFV1)
    {
      self->codec->level = nf_libav_ffv1_level (width, height);
      self->codec->gop_size = 1;
    }
  else if (codec->id == AV_CODEC_ID_H264)
    av_opt_set (self->codec->priv_data, "crf", "16", 0);
  else if (codec->id == AV_CODEC_ID_MPEG4)
    {
      self->codec->flags |= AV_CODEC_FLAG_QSCALE;
      self->codec->global_quality = 2 * FF_QP2LAMBDA;
    }
  if (self->format && self->format->oformat->flags & AVFMT_GLOBALHEADER)
    self->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  status = avcodec_open2 (self->codec, codec, NULL);
  if (status < 0)
    {
      g_autofree char *what = g_strdup_printf ("encoder %s refuses %ux%u (odd sides? .mkv takes any size)",
                                               codec->name, width, height);

      nf_libav_fail (error, NF_ERROR_UNSUPPORTED, status, path, what);
      return NULL;
    }
  return !self->format || write_header (self, error) ? g_steal_pointer (&self) : NULL;
}

/* The packet as a file with its name, which has it once it is complete. */
static gboolean
write_picture (NfMediaWriter *self, GError **error)
{
  g_autofree char *next = nf_media_picture_name (self->path, self->n_pictures);
  const char *path = next ? next : self->path;
  g_autoptr (GError) local = NULL;
  const char *why;

  if (g_file_set_contents_full (path, (const char *)self->packet->data, self->packet->size,
                                G_FILE_SET_CONTENTS_CONSISTENT, 0666, &local))
    {
      self->n_pictures++;
      return TRUE;
    }
  /* what comes before speaks of the name that the file has while it is written */
  why = strrchr (local->message, ':');
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: cannot be written%s", path, why ? why : "");
  return FALSE;
}

static gboolean
write_packets (NfMediaWriter *self, const AVFrame *frame, GError **error)
{
  int status = avcodec_send_frame (self->codec, frame);

  if (status < 0 && status != AVERROR_EOF)
    return nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "a frame cannot be encoded");
  for (;;)
    {
      status = avcodec_receive_packet (self->codec, self->packet);
      if (status == AVERROR (EAGAIN) || status == AVERROR_EOF)
        return TRUE;
      if (status < 0)
        return nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "a frame cannot be encoded");
      if (!self->format)
        {
          const gboolean written = write_picture (self, error);

          av_packet_unref (self->packet);
          if (!written)
            return FALSE;
          continue;
        }
      if (!self->packet->duration)
        self->packet->duration = 1;
      av_packet_rescale_ts (self->packet, self->codec->time_base, self->stream->time_base);
      self->packet->stream_index = self->stream->index;
      status = av_interleaved_write_frame (self->format, self->packet);
      av_packet_unref (self->packet);
      if (status < 0)
        return nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
    }
}

gboolean
nf_media_writer_put (NfMediaWriter *self, const NfFrame *frame, GError **error)
{
  if (frame->width != self->width || frame->height != self->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: a frame of %ux%u in a file of %ux%u", self->path,
                   frame->width, frame->height, self->width, self->height);
      return FALSE;
    }
  if (!nf_libav_fill (self->frame, self->layout, frame, &self->sws, self->path, error))
    return FALSE;
  self->frame->pts = self->count++;
  self->frame->quality = self->codec->global_quality;
  return write_packets (self, self->frame, error);
}

gboolean
nf_media_writer_close (NfMediaWriter *self, GError **error)
{
  int status;

  if (self->closed && self->whole)
    return TRUE;
  if (self->closed)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: is not complete", self->path);
      return FALSE;
    }
  self->closed = TRUE;
  if (!write_packets (self, NULL, error))
    return FALSE;
  status = self->format ? av_write_trailer (self->format) : 0;
  if (status >= 0 && self->format && self->format->pb && !(self->format->oformat->flags & AVFMT_NOFILE))
    status = avio_closep (&self->format->pb);
  self->whole = status >= 0;
  return self->whole || nf_libav_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be completed");
}

gboolean
nf_media_write_png (const char *path, NfPixelLayout layout, const NfFrame *frame, GError **error)
{
  g_autoptr (NfMediaWriter) writer = NULL;

  if (!nf_media_has_ending (path, "png"))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: the picture's name must end in .png", path);
      return FALSE;
    }
  writer = nf_media_writer_open (path, layout, frame->width, frame->height, 25, 1, NULL, error);
  return writer && nf_media_writer_put (writer, frame, error) && nf_media_writer_close (writer, error);
}
