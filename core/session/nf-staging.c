/* normflow: 8-bit frames on their way to the device and back. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-staging.h"

#include "nf-model-private.h"

#include <string.h>

static guint
count_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

/* Whether the three planes are samples of the same pixels, with room for more between these. Pointers into
 * other memory are compared as numbers. */
static gboolean
interleave (const NfFrame *frame)
{
  const NfPlane *planes = frame->planes;
  const guintptr places[] = { (guintptr)planes[0].data, (guintptr)planes[1].data, (guintptr)planes[2].data };
  guintptr first = places[0], last = places[0];
  for (guint i = 1; i < G_N_ELEMENTS (places); i++)
    {
      if (planes[i].step != planes[0].step || planes[i].stride != planes[0].stride)
        return FALSE;
      first = MIN (first, places[i]);
      last = MAX (last, places[i]);
    }
  return planes[0].step > 3 && last - first < (guintptr)planes[0].step;
}

/* Where the word is that follows the samples, in words. */
static gsize
odd_at (gsize size)
{
  return (size + 3) / 4;
}

gboolean
nf_staging_prepare (NfStaging *staging, NfOps *ops, NfPixelLayout layout, guint tile_height,
                    const NfFrame *frame, NfPlanes *planes, GError **error)
{
  gsize at = 0;
  *planes = (NfPlanes){ .width = frame->width, .height = frame->height };
  for (guint i = 0; i < count_planes (layout); i++)
    {
      guint width, height;
      nf_frame_plane_size (frame, layout, i, &width, &height);
      const gint64 extent = (gint64)(width - 1) * frame->planes[i].step + 1;
      if (!frame->planes[i].data)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "plane %u of a %ux%u frame has no samples", i,
                       frame->width, frame->height);
          return FALSE;
        }
      if (frame->planes[i].step < 1 || ABS ((gint64)frame->planes[i].stride) < extent)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "plane %u of a %ux%u frame has a stride of %d bytes and a step of %d; a row takes "
                       "%" G_GINT64_FORMAT,
                       i, frame->width, frame->height, frame->planes[i].stride, frame->planes[i].step,
                       extent);
          return FALSE;
        }
      if (i > 0)
        planes->chroma_height = height;
      planes->at[i] = at;
      planes->stride[i] = (gint)width;
      planes->step[i] = 1;
      at += (gsize)width * height;
    }
  const guint room = (frame->height + tile_height - 1) / tile_height * tile_height;
  if (layout == NF_PIXELS_YUV420 && 2 * planes->chroma_height > room)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          "an interlaced frame of %ux%u has %u rows of chroma, but tiles of %u rows have room for %u "
          "of them; progressive frames, or a height that is a multiple of 4, need no more",
          frame->width, frame->height, planes->chroma_height, tile_height, room / 2);
      return FALSE;
    }
  if (at != staging->size || !staging->buffer)
    {
      g_clear_pointer (&staging->buffer, nf_buffer_free);
      g_free (staging->bytes);
      staging->size = 0;
      staging->bytes = (guint8 *)g_try_new (guint32, odd_at (at) + 1);
      if (!staging->bytes)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for a frame of %ux%u", frame->width,
                       frame->height);
          return FALSE;
        }
      staging->size = at;
      staging->buffer = nf_ops_alloc (ops, odd_at (at) + 1);
    }
  planes->bytes = staging->buffer;
  planes->odd = odd_at (at);
  return staging->buffer || nf_ops_finish (ops, error);
}

void
nf_staging_upload (NfStaging *staging, NfOps *ops, NfPixelLayout layout, const NfFrame *frame)
{
  guint8 *to = staging->bytes;

  for (guint i = 0; i < count_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[i];
      guint width, height;
      nf_frame_plane_size (frame, layout, i, &width, &height);
      for (guint y = 0; y < height; y++, to += width)
        {
          const guint8 *from = plane->data + (gssize)y * plane->stride;
          if (plane->step == 1)
            memcpy (to, from, width);
          else
            for (guint x = 0; x < width; x++)
              to[x] = from[(gsize)x * plane->step];
        }
    }
  nf_ops_write (ops, nf_view (staging->buffer, 0), staging->bytes, staging->size);
}

gboolean
nf_staging_download (NfStaging *staging, NfOps *ops, NfModel *model, const NfFrame *frame, GError **error)
{
  const NfPixelLayout layout = nf_model_get_config (model)->layout;
  const gsize odd = odd_at (staging->size) * sizeof (guint32);
  const guint8 *from = staging->bytes;
  guint32 is_odd;

  if (!nf_ops_read (ops, nf_view (staging->buffer, 0), staging->bytes, odd + sizeof is_odd, error))
    return FALSE;
  memcpy (&is_odd, staging->bytes + odd, sizeof is_odd);
  if (is_odd)
    {
      nf_staging_forget (staging, ops);
      return nf_model_refuse_computed (model, "samples of the frame", error);
    }
  /* what lies between the samples of a row and belongs to none; before the first and after the last there may
   * be nothing */
  if (layout == NF_PIXELS_RGB && interleave (frame))
    {
      const NfPlane *planes = frame->planes;
      guint8 *first = MIN (MIN (planes[0].data, planes[1].data), planes[2].data),
             *last = MAX (MAX (planes[0].data, planes[1].data), planes[2].data);
      for (guint y = 0; y < frame->height; y++)
        memset (first + (gssize)y * planes->stride, 255,
                (gsize)(frame->width - 1) * (gsize)planes->step + (gsize)(last - first) + 1);
    }
  for (guint i = 0; i < count_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[i];
      guint width, height;
      nf_frame_plane_size (frame, layout, i, &width, &height);
      for (guint y = 0; y < height; y++, from += width)
        {
          guint8 *to = plane->data + (gssize)y * plane->stride;
          if (plane->step == 1)
            memcpy (to, from, width);
          else
            for (guint x = 0; x < width; x++)
              to[(gsize)x * plane->step] = from[x];
        }
    }
  return TRUE;
}

void
nf_staging_forget (NfStaging *staging, NfOps *ops)
{
  if (staging->buffer)
    nf_ops_fill (ops, nf_view (staging->buffer, odd_at (staging->size)), 0.0f, 1);
}

void
nf_staging_clear (NfStaging *staging)
{
  g_clear_pointer (&staging->buffer, nf_buffer_free);
  g_clear_pointer (&staging->bytes, g_free);
  staging->size = 0;
}
