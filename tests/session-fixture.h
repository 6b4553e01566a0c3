/* normflow: pictures for tests of sessions. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-test.h"

#include "random-model.h"

#define S 8
#define P 4
#define GUARD 0xa5

static const NfPixelLayout layouts[] = { NF_PIXELS_YUV420, NF_PIXELS_RGB, NF_PIXELS_GRAY };
static const guint sizes[][2] = { { 1, 1 }, { 8, 8 }, { 13, 7 }, { 2, 37 }, { 40, 3 }, { 33, 26 } };

static inline NfReference *
make_reference (NfPixelLayout layout, NfBasis basis, guint n_classes)
{
  NfConfig config = random_picture_config (layout, S, P, 3);
  config.n_classes = n_classes;
  config.basis = basis;
  NfReference *reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 31 + layout, 0.1);
  return reference;
}

static inline NfSession *
open_session (NfPixelLayout layout, NfBasis basis, const char *form)
{
  g_autoptr (NfReference) reference = make_reference (layout, basis, 0);
  g_autoptr (NfModel) model = nf_test_model (reference, form);
  return nf_test_session (model);
}

/* A frame in memory of its own, with room around every row that nobody may touch. */
typedef struct
{
  NfFrame frame;
  NfPixelLayout layout;
  gsize size;
  guint8 *memory;
} Picture;

static inline void
picture_clear (Picture *picture)
{
  g_free (picture->memory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Picture, picture_clear)

static inline guint
count_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

static inline void
extent (const Picture *picture, guint plane, guint *width, guint *height)
{
  const guint halves = picture->layout == NF_PIXELS_YUV420 && plane > 0 ? 2 : 1;
  *width = (picture->frame.width + halves - 1) / halves;
  *height = (picture->frame.height + halves - 1) / halves;
  if (picture->frame.interlaced && halves == 2)
    *height += *height % 2;
}

/* PACKED: chroma of yuv420 interleaved as in NV12, rgb with a fourth byte as in RGBx. */
static inline void
picture_init (Picture *picture, NfPixelLayout layout, guint width, guint height, gboolean packed)
{
  const gsize stride = 4 * (gsize)width + 24, plane = stride * (height + 2);
  *picture = (Picture){ .frame = { .width = width, .height = height }, .layout = layout, .size = 3 * plane };
  picture->memory = g_malloc (picture->size);
  memset (picture->memory, GUARD, picture->size);
  for (guint i = 0; i < count_planes (layout); i++)
    {
      const gboolean together = packed && (layout == NF_PIXELS_RGB || (layout == NF_PIXELS_YUV420 && i > 0));
      const guint room = together ? (layout == NF_PIXELS_RGB ? 0 : 1) : i, within = !together ? 0
                                                                                    : layout == NF_PIXELS_RGB
                                                                                        ? i
                                                                                        : i - 1;
      picture->frame.planes[i] = (NfPlane){ .data = picture->memory + room * plane + stride + 8 + within,
                                            .stride = (gint)stride,
                                            .step = !together                 ? 1
                                                    : layout == NF_PIXELS_RGB ? 4
                                                                              : 2 };
    }
}

static inline guint8 *
sample (const Picture *picture, guint plane, guint x, guint y)
{
  const NfPlane *p = &picture->frame.planes[plane];
  return p->data + (gsize)y * (gsize)p->stride + (gsize)x * (gsize)p->step;
}

/* Extremes, edges, slopes and noise. */
static inline void
picture_draw (Picture *picture, guint seed)
{
  for (guint i = 0; i < count_planes (picture->layout); i++)
    {
      guint width, height;
      extent (picture, i, &width, &height);
      for (guint y = 0; y < height; y++)
        for (guint x = 0; x < width; x++)
          {
            const double noise = nf_random_uniform (seed, i, (guint64)y * 16384 + x);
            const guint kind = (x / 5 + y / 7 + seed) % 4;
            *sample (picture, i, x, y) = kind == 0   ? 0
                                         : kind == 1 ? 255
                                         : kind == 2 ? (guint8)(256 * noise)
                                                     : (guint8)(3 * x + 2 * y + 8 * noise);
          }
    }
}

/* NULL, or where they differ. (transfer full) */
static inline char *
compare_pictures (const Picture *a, const Picture *b)
{
  for (guint i = 0; i < count_planes (a->layout); i++)
    {
      guint width, height;
      extent (a, i, &width, &height);
      for (guint y = 0; y < height; y++)
        for (guint x = 0; x < width; x++)
          if (*sample (a, i, x, y) != *sample (b, i, x, y))
            return g_strdup_printf ("plane %u of %ux%u at %u,%u: %u and %u", i, a->frame.width,
                                    a->frame.height, x, y, *sample (a, i, x, y), *sample (b, i, x, y));
    }
  return NULL;
}

static inline void
assert_same_picture (const Picture *a, const Picture *b)
{
  g_autofree char *difference = compare_pictures (a, b);
  if (difference)
    fail_msg ("%s", difference);
}

static inline float *
encode (NfSession *session, const Picture *picture, NfGrid *grid, NfScore *score, float *map)
{
  g_autoptr (GError) error = NULL;
  nf_test_ok (nf_grid_init (grid, nf_model_get_config (nf_session_get_model (session)), picture->frame.width,
                            picture->frame.height, &error),
              error);
  float *latents = g_new (float, nf_grid_latents (grid));
  nf_test_ok (nf_session_encode_frame (session, &picture->frame, latents, score, map, &error), error);
  return latents;
}

static inline void
assert_refused (gboolean done, GError **error, int code, const char *part)
{
  assert_false (done);
  if (!g_error_matches (*error, NF_ERROR, code) || !strstr ((*error)->message, part))
    fail_msg ("\"%s\" (%d) does not speak of %s", (*error)->message, (*error)->code, part);
  g_clear_error (error);
}
