/* normflow: pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "nf-error.h"

#include <math.h>
#include <string.h>

#define READ_PAST 64 /* bytes behind its planes that swscale may read */

guint
nf_picture_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

void
nf_picture_extent (NfPixelLayout layout, guint plane, guint width, guint height, guint *plane_width,
                   guint *plane_height)
{
  gboolean half = layout == NF_PIXELS_YUV420 && plane > 0;

  *plane_width = half ? (width + 1) / 2 : width;
  *plane_height = half ? (height + 1) / 2 : height;
}

static void
picture_clear (gpointer data)
{
  NfPicture *picture = data;

  g_free (picture->data);
}

NfPicture *
nf_picture_new (NfPixelLayout layout, guint width, guint height)
{
  NfPicture *picture = g_atomic_rc_box_new0 (NfPicture);
  gsize offset = 0;

  picture->layout = layout;
  picture->frame.width = width;
  picture->frame.height = height;
  picture->seconds = NAN;
  picture->size = nf_frame_samples (layout, width, height);
  picture->data = g_malloc (picture->size + READ_PAST);
  memset (picture->data + picture->size, 0, READ_PAST);
  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      guint w, h;

      nf_picture_extent (layout, i, width, height, &w, &h);
      picture->frame.planes[i] = (NfPlane){ picture->data + offset, (gint)w, 1 };
      offset += (gsize)w * h;
    }
  return picture;
}

NfPicture *
nf_picture_new_like (const NfPicture *like)
{
  NfPicture *picture = nf_picture_new (like->layout, like->frame.width, like->frame.height);
  picture->matrix = like->matrix;
  picture->full = like->full;
  return picture;
}

NfPicture *
nf_picture_ref (NfPicture *picture)
{
  return g_atomic_rc_box_acquire (picture);
}

void
nf_picture_unref (NfPicture *picture)
{
  if (picture)
    g_atomic_rc_box_release_full (picture, picture_clear);
}

NfPicture *
nf_picture_scale (NfPicture *picture, guint width, guint height, GError **error)
{
  g_autoptr (NfPicture) scaled = NULL;
  struct SwsContext *sws;
  enum AVPixelFormat format = nf_libav_format (picture->layout);
  guint8 *from[4];
  int from_stride[4];
  gboolean good;

  nf_libav_init ();
  if (!width || !height || width > NF_MAX_SIDE || height > NF_MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "cannot scale a picture to %ux%u: sides go from 1 to %d", width, height, NF_MAX_SIDE);
      return NULL;
    }
  sws = sws_getContext ((int)picture->frame.width, (int)picture->frame.height, format, (int)width,
                        (int)height, format, SWS_AREA | NF_LIBAV_SWS_EXACT, NULL, NULL, NULL);
  scaled = nf_picture_new (picture->layout, width, height);
  scaled->index = picture->index;
  scaled->seconds = picture->seconds;
  scaled->matrix = picture->matrix;
  scaled->full = picture->full;
  nf_libav_planes (picture->layout, &picture->frame, from, from_stride);
  good = sws
         && nf_libav_convert (sws, (const guint8 *const *)from, from_stride, (int)picture->frame.height,
                              scaled);
  sws_freeContext (sws);
  if (!good)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "cannot scale a picture from %ux%u to %ux%u",
                   picture->frame.width, picture->frame.height, width, height);
      return NULL;
    }
  return g_steal_pointer (&scaled);
}

NfPicture *
nf_picture_to_rgb (NfPicture *picture, GError **error)
{
  g_autoptr (NfPicture) rgb = NULL;
  guint width = picture->frame.width, height = picture->frame.height;
  struct SwsContext *sws;
  guint8 *from[4];
  int from_stride[4];
  gboolean good;

  if (picture->layout == NF_PIXELS_RGB)
    return nf_picture_ref (picture);
  rgb = nf_picture_new (NF_PIXELS_RGB, width, height);
  if (picture->layout == NF_PIXELS_GRAY)
    {
      for (guint i = 0; i < 3; i++)
        memcpy (rgb->frame.planes[i].data, picture->data, picture->size);
      return g_steal_pointer (&rgb);
    }
  nf_libav_init ();
  sws = sws_getContext ((int)width, (int)height, nf_libav_format (picture->layout), (int)width, (int)height,
                        nf_libav_format (NF_PIXELS_RGB), NF_LIBAV_SWS_FLAGS, NULL, NULL, NULL);
  if (sws)
    {
      const int *matrix = nf_libav_matrix (picture->matrix);
      (void)sws_setColorspaceDetails (sws, matrix, picture->full, matrix, 1, 0, 1 << 16, 1 << 16);
    }
  nf_libav_planes (picture->layout, &picture->frame, from, from_stride);
  good = sws && nf_libav_convert (sws, (const guint8 *const *)from, from_stride, (int)height, rgb);
  sws_freeContext (sws);
  if (!good)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "a picture of %ux%u cannot be converted to RGB",
                   width, height);
      return NULL;
    }
  return g_steal_pointer (&rgb);
}
