/* normflow: what all that is done with libav needs. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "nf-error.h"

#include <string.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>

gboolean
nf_libav_fail (GError **error, int code, int status, const char *path, const char *what)
{
  char text[AV_ERROR_MAX_STRING_SIZE] = "";

  av_strerror (status, text, sizeof text);
  g_set_error (error, NF_ERROR, code, "%s: %s: %s", path, what, text);
  return FALSE;
}

void
nf_libav_init (void)
{
  static gsize once = 0;

  if (g_once_init_enter (&once))
    {
      av_log_set_level (AV_LOG_QUIET);
      g_once_init_leave (&once, 1);
    }
}

enum AVPixelFormat
nf_libav_format (NfPixelLayout layout)
{
  switch (layout)
    {
    case NF_PIXELS_YUV420:
      return AV_PIX_FMT_YUV420P;
    case NF_PIXELS_GRAY:
      return AV_PIX_FMT_GRAY8;
    default:
      return AV_PIX_FMT_GBRP;
    }
}

void
nf_libav_planes (NfPixelLayout layout, const NfFrame *frame, guint8 *data[4], int stride[4])
{
  static const guint gbr[3] = { 1, 2, 0 };

  for (guint i = 0; i < 4; i++)
    {
      data[i] = NULL;
      stride[i] = 0;
    }
  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[layout == NF_PIXELS_RGB ? gbr[i] : i];

      data[i] = plane->data;
      stride[i] = plane->stride;
    }
}

void
nf_libav_copy_rows (guint8 *to, gssize to_stride, const guint8 *from, gssize from_stride, gssize from_step,
                    guint width, guint height)
{
  for (guint y = 0; y < height; y++, to += to_stride, from += from_stride)
    {
      if (from_step == 1)
        memcpy (to, from, width);
      else
        for (guint x = 0; x < width; x++)
          to[x] = from[x * from_step];
    }
}

NfPicture *
nf_libav_pack (NfPixelLayout layout, const NfFrame *frame)
{
  NfPicture *picture = nf_picture_new (layout, frame->width, frame->height);

  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      guint w, h;

      nf_picture_extent (layout, i, frame->width, frame->height, &w, &h);
      nf_libav_copy_rows (picture->frame.planes[i].data, picture->frame.planes[i].stride,
                          frame->planes[i].data, frame->planes[i].stride, frame->planes[i].step, w, h);
    }
  return picture;
}

gboolean
nf_libav_convert (struct SwsContext *sws, const guint8 *const *from, const int *from_stride, int from_height,
                  const NfPicture *to)
{
  const NfFrame *frame = &to->frame;
  guint8 *data[4];
  int stride[4];
  AVFrame *padded = av_frame_alloc ();
  gboolean good = padded != NULL;

  if (good)
    {
      padded->format = nf_libav_format (to->layout);
      padded->width = (int)frame->width;
      padded->height = (int)frame->height;
      good = av_frame_get_buffer (padded, 0) >= 0
             && sws_scale (sws, from, from_stride, 0, from_height, padded->data, padded->linesize)
                    == padded->height;
    }
  nf_libav_planes (to->layout, frame, data, stride);
  if (good)
    av_image_copy (data, stride, (const guint8 **)padded->data, padded->linesize, padded->format,
                   padded->width, padded->height);
  av_frame_free (&padded);
  return good;
}

const int *
nf_libav_matrix (int colorspace)
{
  return sws_getCoefficients (
      colorspace == AVCOL_SPC_UNSPECIFIED || colorspace == AVCOL_SPC_RGB ? SWS_CS_DEFAULT : colorspace);
}

gboolean
nf_libav_takes (const AVCodec *codec, enum AVPixelFormat format)
{
  for (const enum AVPixelFormat *f = codec->pix_fmts; f && *f != AV_PIX_FMT_NONE; f++)
    if (*f == format)
      return TRUE;
  return codec->pix_fmts == NULL;
}

gboolean
nf_libav_fill (AVFrame *to, NfPixelLayout layout, const NfFrame *frame, struct SwsContext **sws,
               const char *path, GError **error)
{
  g_autoptr (NfPicture) packed = NULL;
  guint8 *data[4];
  int stride[4];
  int status = av_frame_make_writable (to);

  if (status < 0)
    return nf_libav_fail (error, NF_ERROR_NO_MEMORY, status, path, "frame");
  if (to->format == nf_libav_format (layout))
    {
      nf_libav_planes (layout, frame, data, stride);
      for (guint i = 0; i < nf_picture_planes (layout); i++)
        {
          static const guint gbr[3] = { 1, 2, 0 };
          guint w, h, source = layout == NF_PIXELS_RGB ? gbr[i] : i;

          nf_picture_extent (layout, i, frame->width, frame->height, &w, &h);
          nf_libav_copy_rows (to->data[i], to->linesize[i], data[i], stride[i], frame->planes[source].step, w,
                              h);
        }
      return TRUE;
    }
  packed = nf_libav_pack (layout, frame);
  nf_libav_planes (layout, &packed->frame, data, stride);
  *sws = sws_getCachedContext (*sws, (int)frame->width, (int)frame->height, nf_libav_format (layout),
                               to->width, to->height, to->format, NF_LIBAV_SWS_FLAGS, NULL, NULL, NULL);
  if (!*sws
      || sws_scale (*sws, (const guint8 *const *)data, stride, 0, (int)frame->height, to->data, to->linesize)
             < 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s: a %s frame cannot be converted to %s", path,
                   nf_pixel_layout_name (layout), av_get_pix_fmt_name (to->format));
      return FALSE;
    }
  return TRUE;
}

AVFrame *
nf_libav_frame_new (enum AVPixelFormat format, guint width, guint height)
{
  AVFrame *frame = av_frame_alloc ();

  if (!frame)
    return NULL;
  frame->format = format;
  frame->width = (int)width;
  frame->height = (int)height;
  if (av_frame_get_buffer (frame, 0) < 0)
    av_frame_free (&frame);
  return frame;
}

int
nf_libav_ffv1_level (guint width, guint height)
{
  return MIN (width, height) < 32 ? 1 : 3;
}
