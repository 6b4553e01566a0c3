/* normflow: 8-bit frames through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include "nf-device-private.h"
#include "nf-hints.h"
#include "random-model.h"

#include <math.h>
#include <unistd.h>

#define S 8
#define P 4
#define GUARD 0xa5

static const NfPixelLayout layouts[] = { NF_PIXELS_YUV420, NF_PIXELS_RGB, NF_PIXELS_GRAY };
static const guint sizes[][2] = { { 1, 1 }, { 8, 8 }, { 13, 7 }, { 2, 37 }, { 40, 3 }, { 33, 26 } };

static NfReference *
make_reference (NfPixelLayout layout, NfBasis basis, guint n_classes)
{
  NfConfig config = random_picture_config (layout, S, P, 3);
  config.n_classes = n_classes;
  config.basis = basis;
  NfReference *reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 31 + layout, 0.1);
  return reference;
}

static NfSession *
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

static void
picture_clear (Picture *picture)
{
  g_free (picture->memory);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Picture, picture_clear)

static guint
count_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

static void
extent (const Picture *picture, guint plane, guint *width, guint *height)
{
  const guint halves = picture->layout == NF_PIXELS_YUV420 && plane > 0 ? 2 : 1;
  *width = (picture->frame.width + halves - 1) / halves;
  *height = (picture->frame.height + halves - 1) / halves;
  if (picture->frame.interlaced && halves == 2)
    *height += *height % 2;
}

/* PACKED: chroma of yuv420 interleaved as in NV12, rgb with a fourth byte as in RGBx. */
static void
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

static guint8 *
sample (const Picture *picture, guint plane, guint x, guint y)
{
  const NfPlane *p = &picture->frame.planes[plane];
  return p->data + (gsize)y * (gsize)p->stride + (gsize)x * (gsize)p->step;
}

/* Extremes, edges, slopes and noise. */
static void
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
static char *
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

static void
assert_same_picture (const Picture *a, const Picture *b)
{
  g_autofree char *difference = compare_pictures (a, b);
  if (difference)
    fail_msg ("%s", difference);
}

/* Nothing was written but samples, and fourth bytes, which are 255. */
static void
assert_guarded (Picture *picture)
{
  const gboolean fourth = picture->frame.planes[0].step == 4;
  for (guint i = 0; i < count_planes (picture->layout); i++)
    {
      guint width, height;
      extent (picture, i, &width, &height);
      for (guint y = 0; y < height; y++)
        for (guint x = 0; x < width; x++)
          *sample (picture, i, x, y) = GUARD;
    }
  for (guint y = 0; fourth && y < picture->frame.height; y++)
    for (guint x = 0; x + 1 < picture->frame.width; x++)
      {
        assert_int_equal (*(sample (picture, 0, x, y) + 3), 255);
        *(sample (picture, 0, x, y) + 3) = GUARD;
      }
  for (gsize i = 0; i < picture->size; i++)
    if (picture->memory[i] != GUARD)
      fail_msg ("byte %zu of %zu around a frame of %ux%u was written", i, picture->size, picture->frame.width,
                picture->frame.height);
}

static float *
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

static void
check_round_trip (NfSession *session, NfPixelLayout layout, const guint size[2], gboolean packed,
                  gboolean interlaced)
{
  g_autoptr (GError) error = NULL;
  g_auto (Picture) in = { 0 }, plain = { 0 }, out = { 0 };
  NfGrid grid;
  picture_init (&in, layout, size[0], size[1], packed);
  picture_init (&plain, layout, size[0], size[1], FALSE);
  picture_init (&out, layout, size[0], size[1], packed);
  in.frame.interlaced = plain.frame.interlaced = out.frame.interlaced = interlaced;
  picture_draw (&in, size[0]);
  picture_draw (&plain, size[0]);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL),
                   *same = encode (session, &plain, &grid, NULL, NULL);
  assert_int_equal (grid.tiles_x, (size[0] + S - 1) / S);
  assert_int_equal (grid.tiles_y, (size[1] + S - 1) / S);
  assert_int_equal (grid.grid_width, grid.tiles_x * S / P);
  assert_int_equal (grid.grid_height, grid.tiles_y * S / P);
  assert_memory_equal (latents, same, nf_grid_latents (&grid) * sizeof *latents);
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
  assert_same_picture (&in, &out);
  assert_guarded (&out);
}

static void
test_round_trip (void **state)
{
  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    {
      g_autoptr (NfSession) session
          = open_session (layouts[l], l == 0 ? NF_BASIS_DCT : NF_BASIS_PIXEL, *state);
      for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
        {
          check_round_trip (session, layouts[l], sizes[s], FALSE, FALSE);
          check_round_trip (session, layouts[l], sizes[s], FALSE, TRUE);
          if (layouts[l] != NF_PIXELS_GRAY)
            check_round_trip (session, layouts[l], sizes[s], TRUE, FALSE);
        }
    }
}

/* Decodes LATENTS into OUT and says how; AFRESH: by nothing of what was decoded before. */
static NfDecodeReport
decode_after (NfSession *session, const float *latents, NfDecodeMethod method, gboolean afresh,
              const Picture *out)
{
  g_autoptr (GError) error = NULL;
  const NfDecodeOptions options = { .snap = TRUE, .method = method, .afresh = afresh };
  NfDecodeReport report;
  nf_test_ok (nf_session_decode_frame (session, latents, -1, &options, &out->frame, &error), error);
  nf_session_get_decode_report (session, &report);
  return report;
}

static NfDecodeReport
decode_as (NfSession *session, const float *latents, NfDecodeMethod method, const Picture *out)
{
  return decode_after (session, latents, method, TRUE, out);
}

/* What is drafted is what sequential decoding says, be the latents a picture's, a picture's with one value
 * changed, or drawn. */
static void
check_drafts (const char *form, NfPixelLayout layout, NfBasis basis, guint width, guint height)
{
  enum
  {
    WHOLE,
    CHANGED,
    DRAWN,
    N_CASES
  };
  const gboolean rounded = g_str_has_suffix (form, "bf16");
  g_autoptr (GError) error = NULL;
  NfGrid grid;

  for (guint i = 0; i < N_CASES; i++)
    {
      g_autoptr (NfSession) session = open_session (layout, basis, form);
      g_auto (Picture) first = { 0 }, second = { 0 }, out = { 0 }, wanted = { 0 };
      picture_init (&first, layout, width, height, FALSE);
      picture_init (&second, layout, width, height, FALSE);
      picture_init (&out, layout, width, height, FALSE);
      picture_init (&wanted, layout, width, height, FALSE);
      picture_draw (&first, 1);
      picture_draw (&second, 2);
      nf_test_ok (
          nf_grid_init (&grid, nf_model_get_config (nf_session_get_model (session)), width, height, &error),
          error);
      const gsize n = nf_grid_latents (&grid);
      const guint tiles = grid.tiles_x * grid.tiles_y;
      g_autofree float *latents = g_new (float, n);

      /* the first picture already, whatever the clock says */
      nf_test_ok (nf_session_encode_frame (session, &second.frame, latents, NULL, NULL, &error), error);
      if (i == CHANGED)
        latents[n / 2] += 0.3f;
      else if (i == DRAWN)
        nf_random_normal (3, 0, n, 1, latents);
      const NfDecodeReport report = decode_as (session, latents, NF_DECODE_DRAFT, &out),
                           plain = decode_as (session, latents, NF_DECODE_SEQUENTIAL, &wanted);
      assert_memory_equal (out.memory, wanted.memory, wanted.size);
      if (i == WHOLE)
        {
          assert_memory_equal (out.memory, second.memory, second.size);
          if (!rounded)
            assert_int_equal (report.drafted, tiles);
        }
      else
        {
          assert_int_equal (report.drafted, 0);
          assert_true (report.rows > plain.rows);
        }
      assert_true (report.residual == 0);
      assert_int_equal (plain.drafted, 0);

      /* and what comes later is right, too */
      nf_test_ok (nf_session_encode_frame (session, &first.frame, latents, NULL, NULL, &error), error);
      for (guint again = 0; again < 4; again++)
        {
          decode_as (session, latents, again < 2 ? NF_DECODE_DRAFT : NF_DECODE_AUTO, &out);
          assert_memory_equal (out.memory, first.memory, first.size);
        }
    }
}

static void
test_drafted (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (layouts); i++)
    for (guint basis = 0; basis < 2; basis++)
      {
        check_drafts (*state, layouts[i], (NfBasis)basis, 8, 8);
        check_drafts (*state, layouts[i], (NfBasis)basis, 13, 11);
      }
}

/* Shares of decoding that were told: the last one, and whether each was more than the one before. */
typedef struct
{
  double last;
  gboolean rises;
} Told;

static void
note_progress (const char *phase, double fraction, gpointer data)
{
  Told *told = data;
  told->rises = told->rises && fraction >= told->last;
  told->last = fraction;
}

/* Progress goes on to its end, by drafts that are confirmed and by those that are given up. */
static void
test_progress_of_drafts (void **state)
{
  g_autoptr (NfSession) session = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, *state);
  g_auto (Picture) in = { 0 }, out = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_RGB, 2 * S, S, FALSE);
  picture_init (&out, NF_PIXELS_RGB, 2 * S, S, FALSE);
  picture_draw (&in, 1);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
  for (guint drawn = 0; drawn < 2; drawn++)
    {
      Told told = { .rises = TRUE };
      nf_session_set_progress (session, note_progress, &told);
      const NfDecodeReport report = decode_as (session, latents, NF_DECODE_DRAFT, &out);
      assert_true ((report.drafted > 0) == !drawn);
      assert_true (told.rises);
      assert_true (told.last == 1);
      nf_random_normal (3, 0, nf_grid_latents (&grid), 1, latents);
    }
}

/* A model of 64 tokens, whose file stays at *PATH. */
static NfModel *
load_model (const char *form, char **path)
{
  const NfConfig config = random_picture_config (NF_PIXELS_GRAY, 32, 4, 3);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 17, 0.1);
  *path = nf_test_temporary (".safetensors");
  nf_test_ok (nf_reference_write (reference, *path, &error), error);
  NfModel *model = nf_model_load (*path, nf_test_device (form), NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  return model;
}

/* Decodes pictures 0 .. n-1, also latents that are none's, and checks them. Returns tiles that were drafted.
 */
static guint
check_pictures (NfSession *session, guint n)
{
  g_autoptr (GError) error = NULL;
  g_auto (Picture) in = { 0 }, out = { 0 }, wanted = { 0 };
  NfGrid grid;
  guint drafted = 0;
  picture_init (&in, NF_PIXELS_GRAY, 32, 32, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 32, 32, FALSE);
  picture_init (&wanted, NF_PIXELS_GRAY, 32, 32, FALSE);
  for (guint i = 0; i < n; i++)
    {
      picture_draw (&in, i);
      g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
      drafted += decode_as (session, latents, NF_DECODE_DRAFT, &out).drafted;
      assert_memory_equal (out.memory, in.memory, in.size);
    }
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  nf_random_normal (3, 0, nf_grid_latents (&grid), 1, latents);
  assert_int_equal (decode_as (session, latents, NF_DECODE_DRAFT, &out).drafted, 0);
  decode_as (session, latents, NF_DECODE_SEQUENTIAL, &wanted);
  assert_memory_equal (out.memory, wanted.memory, wanted.size);
  return drafted;
}

/* A picture like the one before it is drafted from that, in fewer rows; whatever comes, it is right. */
static void
test_recalled (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL;
  g_autoptr (NfModel) model = load_model (*state, &path);
  g_autoptr (NfSession) session = nf_test_session (model), other = nf_test_session (model);
  g_auto (Picture) in = { 0 }, out = { 0 };
  guint64 recalled = 0, afresh = 0;
  NfGrid grid;
  picture_init (&in, NF_PIXELS_GRAY, 64, 32, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 64, 32, FALSE);
  const NfPlane *plane = &in.frame.planes[0];
  for (guint i = 0; i < 12; i++)
    {
      if (i % 6 == 0)
        picture_draw (&in, i); /* another scene */
      for (guint tile = 0; tile < 2; tile++)
        if (i % 4 != 3 || tile == 1) /* sometimes in one of the tiles alone */
          plane->data[(i + 7) * plane->stride + tile * 32 + 2 * i] += 1;
      g_autofree float *latents = encode (other, &in, &grid, NULL, NULL);
      const NfDecodeReport report = decode_after (session, latents, NF_DECODE_DRAFT, FALSE, &out);
      assert_memory_equal (out.memory, in.memory, in.size);
      assert_int_equal (report.drafted, i % 4 != 3 ? 2 : 1);
      const NfDecodeReport plain = decode_as (other, latents, NF_DECODE_DRAFT, &out);
      assert_memory_equal (out.memory, in.memory, in.size);
      if (i % 6 != 0)
        {
          recalled += report.rows;
          afresh += plain.rows;
        }
    }
  assert_true (recalled < 0.9 * afresh);
  /* latents of no picture come out as they do token by token, and the next picture is right again */
  g_autofree float *drawn = g_new (float, nf_grid_latents (&grid)),
                   *latents = encode (other, &in, &grid, NULL, NULL);
  nf_random_normal (3, 0, nf_grid_latents (&grid), 1, drawn);
  g_auto (Picture) wanted = { 0 };
  picture_init (&wanted, NF_PIXELS_GRAY, 64, 32, FALSE);
  for (guint i = 0; i < 2; i++)
    {
      assert_int_equal (decode_after (session, drawn, NF_DECODE_DRAFT, FALSE, &out).drafted, 0);
      decode_as (other, drawn, NF_DECODE_SEQUENTIAL, &wanted);
      assert_memory_equal (out.memory, wanted.memory, wanted.size);
      assert_int_equal (decode_after (session, latents, NF_DECODE_DRAFT, FALSE, &out).drafted, 2);
      assert_memory_equal (out.memory, in.memory, in.size);
    }
  g_unlink (path);
}

static char *
read_all (const char *path, gsize *size)
{
  g_autoptr (GError) error = NULL;
  char *contents;
  nf_test_ok (g_file_get_contents (path, &contents, size, &error), error);
  return contents;
}

static void
count_warning (const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer data)
{
  (void)domain, (void)level;
  assert_non_null (strstr (message, ".hints.safetensors"));
  ++*(guint *)data;
}

/* Hints that are wrong make nothing wrong. FILL: what weights are; 0 for random ones. */
static void
write_hints (const char *path, const char *digest, float fill)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfHints) hints = nf_hints_new (3, 16);
  float *weights = (float *)nf_hints_get (hints);
  nf_random_normal (1, 0, 3 * NF_HINTS_FLOATS (16), 1, weights);
  for (gsize i = 0; fill != 0 && i < 3 * NF_HINTS_FLOATS (16); i++)
    weights[i] = fill;
  nf_test_ok (nf_hints_write (hints, path, digest, &error), error);
}

static void
test_hints (void **state)
{
  enum
  {
    PICTURES = 4
  };
  g_autoptr (GError) error = NULL;
  g_autofree char *path = NULL, *cache = g_dir_make_tmp ("normflow-XXXXXX", &error),
                  *kept = g_strdup (g_getenv ("NORMFLOW_CACHE"));
  nf_test_ok (cache, error);
  g_autoptr (NfModel) model = load_model (*state, &path);
  const char *digest = nf_model_get_digest (model);
  g_setenv ("NORMFLOW_CACHE", cache, TRUE);
  g_autofree char *beside = nf_hints_path_beside (path), *cached = nf_hints_path_cached (digest);
  assert_true (g_str_has_prefix (cached, cache));
  assert_false (g_file_test (cached, G_FILE_TEST_EXISTS));

  /* a session measures them on its second picture, for those to come and for other sessions */
  g_autoptr (NfSession) first = nf_test_session (model);
  assert_false (nf_session_write_hints (first, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  assert_int_equal (check_pictures (first, PICTURES), PICTURES);
  gsize size, other_size;
  g_autofree char *measured = read_all (cached, &size);
  g_autoptr (NfSession) second = nf_test_session (model);
  assert_int_equal (check_pictures (second, 1), 1);
  nf_test_ok (nf_session_write_hints (second, NULL, &error), error);
  g_autofree char *same = read_all (beside, &other_size);
  assert_int_equal (size, other_size);
  assert_memory_equal (measured, same, size);

  /* measured on pictures that are given: others than those of one */
  g_auto (Picture) picture = { 0 };
  picture_init (&picture, NF_PIXELS_GRAY, 64, 32, FALSE);
  picture_draw (&picture, 9);
  nf_test_ok (nf_session_measure_hints (second, &picture.frame, &error), error);
  nf_test_ok (nf_session_write_hints (second, beside, &error), error);
  g_autofree char *fitted = read_all (beside, &other_size);
  assert_int_equal (size, other_size);
  assert_true (memcmp (measured, fitted, size) != 0);
  assert_int_equal (check_pictures (second, PICTURES), PICTURES);

  /* wrong ones cost time */
  static const float fills[] = { 0, 1, 1e30f, -1e-30f };
  for (guint i = 0; i < G_N_ELEMENTS (fills); i++)
    {
      write_hints (beside, digest, fills[i]);
      g_autoptr (NfSession) session = nf_test_session (model);
      check_pictures (session, PICTURES);
    }

  /* and what is no file of hints for this model is left alone, with a warning */
  guint warnings = 0;
  const guint handler = g_log_set_handler ("normflow", G_LOG_LEVEL_WARNING, count_warning, &warnings);
  for (guint i = 0; i < 5; i++)
    {
      if (i == 0)
        write_hints (beside, "0123", 1);
      else if (i == 1)
        write_hints (beside, digest, NAN);
      else if (i == 2)
        nf_test_ok (g_file_set_contents (beside, measured, (gssize)size / 2, &error), error);
      else if (i == 3)
        {
          g_autoptr (NfHints) narrow = nf_hints_new (3, 8);
          nf_test_ok (nf_hints_write (narrow, beside, digest, &error), error);
        }
      else
        {
          g_autofree char *weights = read_all (path, &other_size);
          nf_test_ok (g_file_set_contents (beside, weights, (gssize)other_size, &error), error);
        }
      assert_null (nf_hints_read (beside, digest, 3, 16, &error));
      assert_non_null (strstr (error->message, beside));
      g_clear_error (&error);
      g_autoptr (NfSession) session = nf_test_session (model);
      check_pictures (session, 1);
      assert_int_equal (warnings, i + 1);
    }
  g_log_remove_handler ("normflow", handler);
  g_unlink (beside);
  g_unlink (cached);
  g_unlink (path);
  g_rmdir (cache);
  g_setenv ("NORMFLOW_CACHE", kept ? kept : "", TRUE);
}

/* Tiles of many tokens. */
#define LARGE 32
static NfConfig
large_config (guint n_blocks)
{
  return random_picture_config (NF_PIXELS_RGB, LARGE, P, n_blocks);
}

/* Of models that answer strongly, candidates of sweeps fly off beyond all floats before they settle. What
 * comes out is what one token at a time gives, even where that is no picture any more; but a draft that is
 * confirmed is the picture itself, which steps of the second model may miss by a value. */
static void
test_flying_candidates (void **state)
{
  const NfConfig config = large_config (2);
  static const double scales[] = { 0.4, 0.45, 0.7 };
  static const NfDecodeMethod methods[] = { NF_DECODE_JACOBI, NF_DECODE_AUTO, NF_DECODE_DRAFT };
  for (guint s = 0; s < G_N_ELEMENTS (scales); s++)
    {
      g_autoptr (NfReference) reference = nf_reference_new (&config);
      nf_reference_randomise (reference, 7, scales[s]);
      g_autoptr (NfModel) model = nf_test_model (reference, *state);
      g_autoptr (NfSession) session = nf_test_session (model);
      g_auto (Picture) in = { 0 }, out = { 0 }, wanted = { 0 };
      NfGrid grid;
      picture_init (&in, NF_PIXELS_RGB, LARGE, LARGE, FALSE);
      picture_init (&out, NF_PIXELS_RGB, LARGE, LARGE, FALSE);
      picture_init (&wanted, NF_PIXELS_RGB, LARGE, LARGE, FALSE);
      picture_draw (&in, 1);
      g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
      decode_as (session, latents, NF_DECODE_SEQUENTIAL, &wanted);
      if (s == 0)
        assert_same_picture (&in, &wanted);
      for (guint i = 0; i < G_N_ELEMENTS (methods); i++)
        {
          decode_as (session, latents, methods[i], &out);
          g_autofree char *difference = compare_pictures (&in, &out);
          if (difference || methods[i] == NF_DECODE_JACOBI)
            assert_same_picture (&wanted, &out);
        }
    }
}

/* Samples of a decoding with OPTIONS, and its report. */
static float *
decode_tokens (NfSession *session, const float *latents, gsize n, const NfDecodeOptions *options,
               NfDecodeReport *report)
{
  g_autoptr (GError) error = NULL;
  float *samples = g_new (float, n);
  nf_test_ok (nf_session_decode (session, latents, 1, NULL, options, samples, &error), error);
  nf_session_get_decode_report (session, report);
  return samples;
}

/* Each block is decoded with the window, the guess and the tolerance that were given for it. */
static void
test_blocks (void **state)
{
  enum
  {
    T = 3,
    ALL_OF_THEM = T,
    MANY = 9
  };
  const NfConfig config = large_config (T);
  const guint N = nf_config_tokens (&config);
  const gsize n = (gsize)N * nf_config_features (&config);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 7, 0.15);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  g_autofree float *latents = g_new (float, n);
  NfDecodeReport report;
  nf_random_normal (3, 0, n, 1, latents);
  g_autofree float *wanted
      = decode_tokens (session, latents, n, &(NfDecodeOptions){ .method = NF_DECODE_SEQUENTIAL }, &report);
  const guint64 one_by_one = report.passes;
  assert_int_equal (one_by_one, T * (N - 1)); /* the first token of each is not asked for */

  /* to the fixed point, in one way and another, and what the method says where a window is 0 */
  static const char *const exact[] = { "1,1,1", "16,1,3:zeros", "0,5:latent:0,1", "32:frame,0:zeros,7" };
  for (guint i = 0; i < G_N_ELEMENTS (exact); i++)
    for (NfDecodeMethod method = NF_DECODE_AUTO; method <= NF_DECODE_JACOBI; method++)
      {
        NfDecodeOptions options = { .method = method };
        nf_test_ok (nf_decode_options_set_blocks (&options, exact[i], &error), error);
        g_autofree float *samples = decode_tokens (session, latents, n, &options, &report);
        if (memcmp (samples, wanted, n * sizeof *samples) != 0)
          fail_msg ("blocks %s, method %s: not as token by token", exact[i], nf_decode_method_name (method));
        if (i == 0)
          assert_int_equal (report.passes, one_by_one);
      }

  /* one sweep of each window: passes say how wide they were, values where they started */
  NfDecodeOptions options = { .method = NF_DECODE_JACOBI, .max_sweeps = 1 };
  nf_test_ok (nf_decode_options_set_blocks (&options, "16,16,16", &error), error);
  g_autofree float *plain = decode_tokens (session, latents, n, &options, &report);
  const guint64 swept = report.passes;
  assert_true (swept < one_by_one && report.residual > 0);
  for (guint t = 0; t < T; t++)
    {
      NfDecodeOptions other = options;
      other.blocks[t].window = 1;
      g_free (decode_tokens (session, latents, n, &other, &report));
      assert_int_equal (report.passes, swept - swept / T + one_by_one / T);
      other.blocks[t] = (NfDecodeBlock){ .window = 16, .guess = NF_GUESS_ZEROS };
      g_autofree float *samples = decode_tokens (session, latents, n, &other, &report);
      assert_int_equal (report.passes, swept);
      assert_memory_not_equal (samples, plain, n * sizeof *samples);
    }

  /* a tolerance saves passes of the block that it is for, within which a value has settled */
  options.max_sweeps = 0;
  g_free (decode_tokens (session, latents, n, &options, &report));
  const guint64 settled = report.passes;
  guint64 saved[T + 1];
  for (guint t = 0; t <= T; t++)
    {
      NfDecodeOptions other = options;
      for (guint i = 0; i < T; i++)
        other.blocks[i].tolerance = i == t || t == ALL_OF_THEM ? 0.01 : 0;
      g_free (decode_tokens (session, latents, n, &other, &report));
      assert_true (report.residual == 0 && report.passes < settled);
      saved[t] = settled - report.passes;
    }
  assert_true (saved[ALL_OF_THEM] > MAX (MAX (saved[0], saved[1]), saved[2]));

  /* whatever the method, and of many samples, too */
  for (guint t = 0; t < T; t++)
    options.blocks[t].tolerance = 0.01;
  for (NfDecodeMethod method = NF_DECODE_AUTO; method <= NF_DECODE_JACOBI; method++)
    {
      g_autofree float *many = g_new (float, MANY *n), *samples = g_new (float, MANY *n);
      for (guint b = 0; b < MANY; b++)
        memcpy (many + b * n, latents, n * sizeof *many);
      options.method = method;
      nf_test_ok (nf_session_decode (session, many, MANY, NULL, &options, samples, &error), error);
      nf_session_get_decode_report (session, &report);
      assert_int_equal (report.passes, settled - saved[ALL_OF_THEM]);
    }

  /* one that has a large tolerance says nothing of the others */
  options.max_sweeps = 1;
  options.blocks[0].tolerance = options.blocks[1].tolerance = 0;
  options.blocks[2].tolerance = 1e6;
  g_free (decode_tokens (session, latents, n, &options, &report));
  assert_true (report.residual > 0);
  options.blocks[0].tolerance = options.blocks[1].tolerance = 1e6;
  g_free (decode_tokens (session, latents, n, &options, &report));
  assert_true (report.residual == 0);

  /* others than the model's */
  options.n_blocks = 2;
  assert_false (nf_session_decode (session, latents, 1, NULL, &options, plain, &error));
  assert_non_null (strstr (error->message, "2 blocks are decoded, but the model has 3"));
  g_clear_error (&error);
  options.n_blocks = T;
  options.blocks[1].tolerance = NAN;
  assert_false (nf_session_decode (session, latents, 1, NULL, &options, plain, &error));
  assert_non_null (strstr (error->message, "block 1: tolerance nan"));
}

static void
test_blocks_text (void **state)
{
  static const char *const wrong[] = { ",",
                                       "16,",
                                       "x",
                                       "-1",
                                       "65537",
                                       "16:",
                                       "16:best",
                                       "16:zeros:",
                                       "16:zeros:2",
                                       "16:zeros:-1",
                                       "16:zeros:nan",
                                       "16:zeros:0.1x",
                                       "16:zeros:0.1:3",
                                       "16 16" };
  g_autoptr (GString) many = g_string_new ("1");
  g_autoptr (GError) error = NULL;
  NfDecodeOptions options = { .tolerance = 0.5 };

  (void)state;
  nf_test_ok (nf_decode_options_set_blocks (&options, " 16 , 0:zeros,1:frame: 1e-3", &error), error);
  assert_int_equal (options.n_blocks, 3);
  assert_int_equal (options.blocks[0].window, 16);
  assert_int_equal (options.blocks[1].guess, NF_GUESS_ZEROS);
  assert_int_equal (options.blocks[2].guess, NF_GUESS_FRAME);
  assert_true (options.blocks[2].tolerance == 1e-3);
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      assert_false (nf_decode_options_set_blocks (&options, wrong[i], &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT) && strstr (error->message, wrong[i]));
      g_clear_error (&error);
      assert_int_equal (options.n_blocks, 3);
    }
  for (guint t = 1; t < NF_MAX_BLOCKS; t++)
    g_string_append (many, ",1");
  nf_test_ok (nf_decode_options_set_blocks (&options, many->str, &error), error);
  assert_int_equal (options.n_blocks, NF_MAX_BLOCKS);
  g_string_append (many, ",1");
  assert_false (nf_decode_options_set_blocks (&options, many->str, &error));
  nf_test_ok (nf_decode_options_set_blocks (&options, NULL, NULL), error);
  assert_int_equal (options.n_blocks, 0);
}

/* A budget that suffices costs nothing: frames of one tile and of many are decoded as without one. What does
 * not suffice is kept by sweeping the rest once, and said to have been, unless there are so many tiles that
 * finding the rest takes less. */
static void
test_budget (void **state)
{
  enum
  {
    MANY = 9, /* tiles, which go token by token */
    MOST = 72 /* at a time */
  };
  const NfConfig config = large_config (2);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 7, 0.2);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  const guint cores = nf_device_count_cores (nf_model_get_device (model)),
              counts[] = { 1, MANY, MIN (8 * cores, MOST) };
  for (guint c = 0; c < G_N_ELEMENTS (counts); c++)
    {
      const guint tiles = counts[c];
      const gboolean many = tiles >= MANY, ends = tiles < 8 * cores;
      g_autoptr (NfSession) session = nf_test_session (model);
      g_auto (Picture) out = { 0 }, wanted = { 0 };
      NfGrid grid;
      picture_init (&out, NF_PIXELS_RGB, tiles * LARGE, LARGE, FALSE);
      picture_init (&wanted, NF_PIXELS_RGB, tiles * LARGE, LARGE, FALSE);
      nf_test_ok (nf_grid_init (&grid, &config, tiles * LARGE, LARGE, &error), error);
      g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
      nf_random_normal (5, 0, nf_grid_latents (&grid), 1, latents);
      NfDecodeOptions options = { .drawn = TRUE, .afresh = TRUE };
      NfDecodeReport exact = { 0 }, report;
      gint64 took = 0;
      /* without a budget, with a generous one, none to speak of, and what ends somewhere in the middle */
      for (guint i = 0; i < 4; i++)
        {
          const double budgets[] = { 0, 1e6, 1e-3, 0.5e-3 * (double)took };
          const gint64 begin = g_get_monotonic_time ();
          options.budget_ms = budgets[i];
          nf_test_ok (nf_session_decode_frame (session, latents, -1, &options,
                                               i == 0 ? &wanted.frame : &out.frame, &error),
                      error);
          nf_session_get_decode_report (session, &report);
          if (i == 0)
            {
              exact = report;
              took = g_get_monotonic_time () - begin;
            }
          else if (i == 1)
            assert_same_picture (&wanted, &out);
          if (many && (i == 1 || !ends))
            {
              assert_int_equal (report.passes, exact.passes);
              assert_int_equal (report.rows, exact.rows);
            }
          if (i == 2 && ends)
            assert_true (report.passes < exact.passes);
          assert_true (i == 3 || (report.residual > 0) == (i == 2 && ends));
        }
    }
}

/* A budget is for all batches that tiles go through in, not for each. */
static void
test_budget_of_batches (void **state)
{
  enum
  {
    TILES = 6 * 72
  };
  const NfConfig config = large_config (2);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 7, 0.2);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  g_auto (Picture) out = { 0 };
  NfGrid grid;
  picture_init (&out, NF_PIXELS_RGB, TILES * LARGE, LARGE, FALSE);
  nf_test_ok (nf_grid_init (&grid, &config, TILES * LARGE, LARGE, &error), error);
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  nf_random_normal (5, 0, nf_grid_latents (&grid), 1, latents);
  NfDecodeOptions options = { .drawn = TRUE, .afresh = TRUE, .method = NF_DECODE_JACOBI, .max_sweeps = 4 };
  NfDecodeReport reports[2];
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (NfSession) session = nf_test_session (model);
      guint ms = i ? 200 : 0; /* at the first batch, more than all may take */
      nf_session_set_progress (session, nf_test_linger, &ms);
      options.budget_ms = i ? 100 : 0;
      nf_test_ok (nf_session_decode_frame (session, latents, -1, &options, &out.frame, &error), error);
      nf_session_get_decode_report (session, &reports[i]);
    }
  assert_true (reports[1].passes < reports[0].passes * 2 / 3);
}

/* A frame's rows from bottom to top. */
static void
test_upside_down (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_session (NF_PIXELS_GRAY, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) in = { 0 }, out = { 0 }, flipped = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_GRAY, 13, 11, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 13, 11, FALSE);
  picture_init (&flipped, NF_PIXELS_GRAY, 13, 11, FALSE);
  picture_draw (&in, 4);
  for (guint y = 0; y < 11; y++)
    for (guint x = 0; x < 13; x++)
      *sample (&flipped, 0, x, 10 - y) = *sample (&in, 0, x, y);
  flipped.frame.planes[0].data = sample (&flipped, 0, 0, 10);
  flipped.frame.planes[0].stride = -flipped.frame.planes[0].stride;
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL),
                   *same = encode (session, &flipped, &grid, NULL, NULL);
  assert_memory_equal (latents, same, nf_grid_latents (&grid) * sizeof *latents);
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
  assert_same_picture (&in, &out);
}

static void
assert_refused (gboolean done, GError **error, int code, const char *part)
{
  assert_false (done);
  if (!g_error_matches (*error, NF_ERROR, code) || !strstr ((*error)->message, part))
    fail_msg ("\"%s\" (%d) does not speak of %s", (*error)->message, (*error)->code, part);
  g_clear_error (error);
}

/* Tiles of the last frame's latents are not decoded again, and the frame is right nevertheless. */
static void
test_kept_tiles (void **state)
{
  enum
  {
    ACROSS = 5,
    DOWN = 3
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) encoder = open_session (NF_PIXELS_YUV420, NF_BASIS_DCT, *state),
                        session = open_session (NF_PIXELS_YUV420, NF_BASIS_DCT, *state);
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_auto (Picture) in = { 0 }, out = { 0 };
  const NfDecodeOptions other = { .snap = TRUE, .method = NF_DECODE_JACOBI },
                        afresh = { .snap = TRUE, .afresh = TRUE };
  NfDecodeReport report;
  NfGrid grid;
  picture_init (&in, NF_PIXELS_YUV420, ACROSS * S - 3, DOWN * S, FALSE);
  picture_init (&out, NF_PIXELS_YUV420, ACROSS * S - 3, DOWN * S, FALSE);
  picture_draw (&in, 3);
  const struct
  {
    const NfDecodeOptions *options;
    guint changed, kept; /* tiles that change before; samples of each */
    gboolean encode;     /* by the same session before */
  } steps[] = { { NULL, 0, 0, FALSE },
                { NULL, 0, ACROSS * DOWN, FALSE },
                { NULL, 1, ACROSS * DOWN - 1, FALSE },
                { NULL, 4, ACROSS * DOWN - 4, FALSE },
                { NULL, ACROSS * DOWN, 0, FALSE },
                { &other, 0, 0, FALSE },
                { &other, 2, ACROSS * DOWN - 2, FALSE },
                { NULL, 0, 0, FALSE },
                { &afresh, 0, 0, FALSE },
                { NULL, 0, ACROSS * DOWN, FALSE },
                { NULL, 0, 0, TRUE } };
  for (guint i = 0; i < G_N_ELEMENTS (steps); i++)
    {
      /* every fourth tile, and its neighbour in the end */
      for (guint j = 0; j < steps[i].changed; j++)
        {
          const guint tile = (j * 4 + i) % (ACROSS * DOWN);
          *sample (&in, 0, tile % ACROSS * S + 1 + j % 2, tile / ACROSS * S + 2) ^= 0x11;
        }
      g_autofree float *latents = encode (encoder, &in, &grid, NULL, NULL);
      if (steps[i].encode)
        {
          g_autofree float *same = encode (session, &in, &grid, NULL, NULL);
          assert_memory_equal (latents, same, nf_grid_latents (&grid) * sizeof *latents);
        }
      nf_test_ok (nf_session_decode_frame (session, latents, -1, steps[i].options, &out.frame, &error),
                  error);
      assert_same_picture (&in, &out);
      nf_session_get_decode_report (session, &report);
      if (report.kept != steps[i].kept)
        fail_msg ("step %u: %u tiles were kept, not %u", i, report.kept, steps[i].kept);
      assert_true ((report.rows == 0) == (report.kept == ACROSS * DOWN));
    }

  /* a frame that was not finished is not remembered */
  g_autofree float *latents = encode (encoder, &in, &grid, NULL, NULL);
  latents[0] += 1;
  g_cancellable_cancel (cancellable);
  nf_session_set_cancellable (session, cancellable);
  assert_refused (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), &error,
                  NF_ERROR_CANCELLED, "cancel");
  nf_session_set_cancellable (session, NULL);
  latents[0] -= 1;
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
  nf_session_get_decode_report (session, &report);
  assert_int_equal (report.kept, 0);
}

/* What a session remembers of a model is of no use any more once that was trained. */
static void
test_trained_meanwhile (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfReference) reference = make_reference (NF_PIXELS_GRAY, NF_BASIS_PIXEL, 0);
  g_autoptr (NfModel) model = nf_test_model (reference, "cpu");
  g_autoptr (NfSession) session = nf_test_session (model);
  g_autofree char *path = nf_test_temporary (".hints.safetensors");
  const NfTrainOptions options = { .lr = 0.05, .lr_min = 0.05, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
  guint8 tile[S * S];
  NfTrainReport report;
  NfGrid grid;
  g_auto (Picture) in = { 0 }, before = { 0 }, after = { 0 }, fresh = { 0 };
  Picture *const pictures[] = { &in, &before, &after, &fresh };
  for (guint i = 0; i < G_N_ELEMENTS (pictures); i++)
    picture_init (pictures[i], NF_PIXELS_GRAY, 3 * S, 2 * S, FALSE);
  picture_draw (&in, 6);
  for (guint i = 0; i < sizeof tile; i++)
    tile[i] = (guint8)(i * 37);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
  nf_test_ok (nf_session_measure_hints (session, &in.frame, &error), error);
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &before.frame, &error), error);
  assert_same_picture (&in, &before);

  NfTrainer *trainer = nf_trainer_new (model, &options, &error);
  nf_test_ok (trainer, error);
  for (guint i = 0; i < 3; i++)
    nf_test_ok (nf_trainer_step (trainer, &(NfTrainBatch){ 1, tile, NULL, NULL }, &report, &error), error);
  g_object_unref (trainer);

  assert_refused (nf_session_write_hints (session, path, &error), &error, NF_ERROR_ARGUMENT, "measure");
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &after.frame, &error), error);
  g_autoptr (NfSession) another = nf_test_session (model);
  nf_test_ok (nf_session_decode_frame (another, latents, -1, NULL, &fresh.frame, &error), error);
  assert_same_picture (&fresh, &after);
  assert_memory_not_equal (before.memory, after.memory, after.size);
}

/* Several frames at once are what they are one by one, also where a batch ends within a frame, or a frame is
 * the one before it again. */
static void
test_frames_at_once (void **state)
{
  enum
  {
    FRAMES = 9,
    ACROSS = 4,
    DOWN = 3,
    TILES = ACROSS * DOWN
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) encoder = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, *state),
                        session = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, *state);
  Picture in[FRAMES], out[FRAMES];
  NfFrame frames[FRAMES];
  float *latents[FRAMES];
  NfDecodeReport report;
  NfGrid grid;
  for (guint i = 0; i < FRAMES; i++)
    {
      picture_init (&in[i], NF_PIXELS_RGB, ACROSS * S, DOWN * S - 2, FALSE);
      picture_init (&out[i], NF_PIXELS_RGB, ACROSS * S, DOWN * S - 2, i % 2);
      picture_draw (&in[i], i == 3 || i == 8 ? i - 1 : i);
      if (i == 8)
        *sample (&in[i], 2, 2 * S + 1, S + 1) ^= 0x21;
      frames[i] = out[i].frame;
      latents[i] = encode (encoder, &in[i], &grid, NULL, NULL);
    }
  const guint at_once = nf_session_get_frames_at_once (session, ACROSS * S, DOWN * S - 2, &error);
  nf_test_ok (at_once > 0, error);
  /* else no batch ends within a frame */
  assert_true (at_once < FRAMES);
  nf_test_ok (
      nf_session_decode_frames (session, (const float *const *)latents, FRAMES, -1, NULL, frames, &error),
      error);
  nf_session_get_decode_report (session, &report);
  assert_int_equal (report.kept, TILES + TILES - 1);
  for (guint i = 0; i < FRAMES; i++)
    {
      assert_same_picture (&in[i], &out[i]);
      assert_guarded (&out[i]);
    }

  /* and they go on from the last of those before */
  nf_test_ok (
      nf_session_decode_frames (session, (const float *const *)latents + 8, 1, -1, NULL, frames, &error),
      error);
  nf_session_get_decode_report (session, &report);
  assert_int_equal (report.kept, TILES);
  assert_same_picture (&in[8], &out[0]);

  frames[4].width -= 1;
  assert_refused (
      nf_session_decode_frames (session, (const float *const *)latents, FRAMES, -1, NULL, frames, &error),
      &error, NF_ERROR_ARGUMENT, "one size");
  for (guint i = 0; i < FRAMES; i++)
    {
      picture_clear (&in[i]);
      picture_clear (&out[i]);
      g_free (latents[i]);
    }
}

/* A tile's latents depend on no other tile, and the first of two is the only one of a frame of one. */
static void
test_tiles (void **state)
{
  g_autoptr (NfSession) session = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) both = { 0 };
  NfGrid grid, half;
  picture_init (&both, NF_PIXELS_RGB, 2 * S, S, FALSE);
  picture_draw (&both, 4);
  Picture first = both; /* a view */
  first.frame.width = S;
  g_autofree float *before = encode (session, &both, &grid, NULL, NULL),
                   *own = encode (session, &first, &half, NULL, NULL);
  *sample (&both, 1, S + 3, 5) ^= 0x10;
  g_autofree float *after = encode (session, &both, &grid, NULL, NULL);
  const guint side = S / P, row_size = side * grid.features;
  guint changed = 0;
  for (guint row = 0; row < side; row++)
    {
      const float *a = before + 2 * row * row_size, *b = after + 2 * row * row_size;
      assert_memory_equal (a, own + row * row_size, row_size * sizeof *a);
      assert_memory_equal (a, b, row_size * sizeof *a);
      changed += memcmp (a + row_size, b + row_size, row_size * sizeof *a) != 0;
    }
  assert_true (changed > 0);
}

/* Products of and by bfloat16 move scores by less than 0.005 bits/dim, and do not depend on how many tiles
 * there are. */
static void
test_precision (void **state)
{
  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    {
      g_autoptr (NfSession) full = open_session (layouts[l], NF_BASIS_DCT, "cpu"),
                            half = open_session (layouts[l], NF_BASIS_DCT, *state);
      g_auto (Picture) picture = { 0 };
      NfGrid grid, own;
      NfScore wanted, score;
      picture_init (&picture, layouts[l], 5 * S, 3 * S, FALSE);
      picture_draw (&picture, 7);
      g_autofree float *z = encode (full, &picture, &grid, &wanted, NULL),
                       *rounded = encode (half, &picture, &grid, &score, NULL);
      assert_true (fabs (score.bits_per_dim - wanted.bits_per_dim) < 0.005);
      /* it is another arithmetic */
      assert_memory_not_equal (z, rounded, nf_grid_latents (&grid) * sizeof *z);
      Picture first = picture; /* a view */
      first.frame.width = first.frame.height = S;
      g_autofree float *alone = encode (half, &first, &own, NULL, NULL);
      const gsize row = (gsize)own.grid_width * own.features;
      for (guint r = 0; r < own.grid_height; r++)
        assert_memory_equal (alone + r * row, rounded + r * row * grid.tiles_x, row * sizeof *alone);
    }
}

/* Scores, from the latents and by the reference. */
static void
test_scores (void **state)
{
  g_autoptr (NfReference) reference = make_reference (NF_PIXELS_GRAY, NF_BASIS_PIXEL, 0);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const guint size[] = { 3 * S, 2 * S }, tokens = size[0] * size[1] / (P * P), samples = size[0] * size[1];
  g_auto (Picture) picture = { 0 };
  NfGrid grid;
  NfScore score;
  picture_init (&picture, NF_PIXELS_GRAY, size[0], size[1], FALSE);
  picture_draw (&picture, 9);
  g_autofree float *map = g_new (float, tokens), *latents = encode (session, &picture, &grid, &score, map);

  double prior = 0, bits = 0;
  for (guint i = 0; i < samples; i++)
    prior -= ((double)latents[i] * (double)latents[i] + log (2 * G_PI)) / 2;
  for (guint i = 0; i < tokens; i++)
    bits += (double)map[i] * P * P;
  assert_int_equal (score.num_dims, samples);
  assert_true (fabs (score.log_prior - prior) < 1e-5 * fabs (prior));
  assert_true (fabs (score.log_likelihood - (score.log_prior + score.log_det - 7 * G_LN2 * samples))
               < 1e-9 * fabs (score.log_likelihood));
  assert_true (fabs (score.bits_per_dim + score.log_likelihood / samples / G_LN2) < 1e-9);
  assert_true (fabs (score.bits_per_dim - bits / samples) < 1e-5 * score.bits_per_dim);

  /* the same tiles by the reference; samples are in the middles of 32 steps of their bins */
  g_autofree float *decoded = g_new (float, samples), *z = g_new (float, samples);
  g_autofree double *x = g_new (double, samples), *log_det = g_new (double, tokens),
                    *wanted = g_new (double, samples);
  g_autoptr (GError) error = NULL;
  const guint side = S / P, N = side * side, D = P * P, tiles = grid.tiles_x * grid.tiles_y;
  for (guint t = 0; t < tiles; t++)
    for (guint n = 0; n < N; n++)
      memcpy (
          z + (t * N + n) * D,
          latents
              + ((t / grid.tiles_x * side + n / side) * grid.grid_width + t % grid.tiles_x * side + n % side)
                    * D,
          D * sizeof *z);
  const NfDecodeOptions snap = { .snap = TRUE };
  nf_test_ok (nf_session_decode (session, z, tiles, NULL, &snap, decoded, &error), error);
  double sum = 0;
  for (guint i = 0; i < samples; i++)
    {
      const guint t = i / (N * D), n = i / D % N, f = i % D,
                  at_x = t % grid.tiles_x * S + n % side * P + f % P,
                  at_y = t / grid.tiles_x * S + n / side * P + f / P;
      const double value = ((double)decoded[i] + 1) * 128, inside = value - floor (value);
      x[i] = (double)decoded[i];
      assert_int_equal ((int)floor (value), *sample (&picture, 0, at_x, at_y));
      assert_true (fabs (inside * 32 - floor (inside * 32) - 0.5) < 1e-3);
    }
  nf_reference_encode (reference, x, tiles, NULL, wanted, NULL, log_det);
  nf_test_close_float ("latents", z, wanted, samples, 1e-5);
  for (guint i = 0; i < tokens; i++)
    sum += log_det[i];
  assert_true (fabs (score.log_det - sum) < 1e-5 * (1 + fabs (sum)));
}

/* Padding costs bits, which are divided by real samples only. */
static void
test_padding_costs (void **state)
{
  g_autoptr (NfSession) session = open_session (NF_PIXELS_YUV420, NF_BASIS_DCT, "cpu");
  g_auto (Picture) small = { 0 };
  NfGrid grid;
  NfScore score;
  picture_init (&small, NF_PIXELS_YUV420, 5, 3, FALSE);
  picture_draw (&small, 2);
  g_autofree float *latents = encode (session, &small, &grid, &score, NULL);
  assert_int_equal (score.num_dims, 5 * 3 + 2 * 3 * 2);
  assert_int_equal (nf_grid_latents (&grid), S * S * 3 / 2);
  assert_true (fabs (score.log_likelihood - (score.log_prior + score.log_det - 7 * G_LN2 * S * S * 1.5))
               < 1e-9 * fabs (score.log_likelihood));
}

/* Denoising */

static void
test_denoise (void **state)
{
  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfSession) session = open_session (layouts[l], NF_BASIS_PIXEL, *state);
      g_auto (Picture) in = { 0 }, out = { 0 }, place = { 0 };
      picture_init (&in, layouts[l], 21, 14, FALSE);
      picture_init (&out, layouts[l], 21, 14, TRUE);
      picture_init (&place, layouts[l], 21, 14, FALSE);
      picture_draw (&in, 6);
      picture_draw (&place, 6);
      nf_test_ok (nf_session_denoise_frame (session, &in.frame, 0, &out.frame, &error), error);
      assert_same_picture (&in, &out);
      nf_test_ok (nf_session_denoise_frame (session, &in.frame, 0.1, &out.frame, &error), error);
      nf_test_ok (nf_session_denoise_frame (session, &place.frame, 0.1, &place.frame, &error), error);
      assert_same_picture (&place, &out);
      guint changed = 0;
      for (guint y = 0; y < 14; y++)
        for (guint x = 0; x < 21; x++)
          changed += *sample (&in, 0, x, y) != *sample (&out, 0, x, y);
      assert_true (changed > 20);
      assert_guarded (&out);
    }
}

/* Where value I of the tokens of one grey tile lies. */
static guint
column_of (guint i)
{
  return i / (P * P) % (S / P) * P + i % P;
}

static guint
row_of (guint i)
{
  return i / (P * P) / (S / P) * P + i % (P * P) / P;
}

/* A step along the score, whichever way the blocks run. */
static void
test_denoised_frame (void **state)
{
  for (guint n_blocks = 1; n_blocks <= 3; n_blocks++)
    for (guint left_to_right = 0; left_to_right < 2; left_to_right++)
      {
        g_autoptr (GError) error = NULL;
        NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, n_blocks);
        config.rope = TRUE;
        config.left_to_right = left_to_right;
        config.family = NF_FAMILY_STARFLOW;
        config.noise = NF_NOISE_GAUSSIAN;
        config.noise_std = 0.3;
        g_autofree char *path = nf_test_temporary (".safetensors");
        random_model_write (path, &config, nf_test_device (*state), 5 + n_blocks);
        g_autoptr (NfModel) model = nf_model_load (path, nf_test_device (*state), NULL, NULL, NULL, &error);
        g_unlink (path);
        nf_test_ok (model, error);
        g_autoptr (NfSession) session = nf_test_session (model);
        g_auto (Picture) in = { 0 }, out = { 0 };
        float y[S * S], x[S * S];
        picture_init (&in, NF_PIXELS_GRAY, S, S, FALSE);
        picture_init (&out, NF_PIXELS_GRAY, S, S, FALSE);
        picture_draw (&in, 6);
        for (guint i = 0; i < S * S; i++)
          y[i] = (float)*sample (&in, 0, column_of (i), row_of (i)) / 127.5f - 1;
        nf_test_ok (nf_session_denoise (session, y, 1, NULL, 0.5, x, &error), error);
        nf_test_ok (nf_session_denoise_frame (session, &in.frame, 0.5, &out.frame, &error), error);
        double moved = 0;
        for (guint i = 0; i < S * S; i++)
          {
            const double wanted = CLAMP (127.5 * ((double)x[i] + 1), 0, 255);
            assert_true (fabs (*sample (&out, 0, column_of (i), row_of (i)) - wanted) < 0.51);
            moved = MAX (moved, fabs ((double)x[i] - (double)y[i]));
          }
        assert_true (moved > 0.1);
      }
}

/* What is refused */

static void
test_refused (void **state)
{
  g_autoptr (NfReference) reference = make_reference (NF_PIXELS_GRAY, NF_BASIS_PIXEL, 2);
  g_autoptr (NfModel) model = nf_test_model (reference, "cpu");
  g_autoptr (NfSession) session = nf_test_session (model);
  g_autoptr (GError) error = NULL;
  g_auto (Picture) in = { 0 }, out = { 0 };
  NfGrid grid;
  const NfDecodeOptions bad = { .guidance = (double)NAN };
  picture_init (&in, NF_PIXELS_GRAY, 9, 9, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 9, 9, FALSE);
  picture_draw (&in, 6);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
  const float kept = latents[5];
  double loss;

  assert_refused (nf_session_decode_frame (session, latents, 2, NULL, &out.frame, &error), &error,
                  NF_ERROR_ARGUMENT, "class 2");
  assert_refused (nf_session_decode_frame (session, latents, -1, &bad, &out.frame, &error), &error,
                  NF_ERROR_ARGUMENT, "guidance");
  static const struct
  {
    NfDecodeOptions options;
    const char *part;
  } unknown[] = { { { .method = (NfDecodeMethod)77 }, "method 77" },
                  { { .guide = 77 }, "guide 77" },
                  { { .guess = (NfGuess)77 }, "guess 77" },
                  { { .denoise = (NfDenoise)77 }, "denoise 77" } };
  for (guint i = 0; i < G_N_ELEMENTS (unknown); i++)
    assert_refused (nf_session_decode_frame (session, latents, -1, &unknown[i].options, &out.frame, &error),
                    &error, NF_ERROR_ARGUMENT, unknown[i].part);
  assert_refused (nf_session_prepare (session, (NfSessionWork)77, &error), &error, NF_ERROR_ARGUMENT, "77");
  latents[5] = (float)-INFINITY;
  assert_refused (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), &error,
                  NF_ERROR_DATA, "latents");
  assert_refused (nf_session_gradients (session, latents, 1, NULL, &loss, NULL, NULL, &error), &error,
                  NF_ERROR_DATA, "tokens");
  latents[5] = kept;
  assert_refused (nf_session_denoise_frame (session, &in.frame, -1, &out.frame, &error), &error,
                  NF_ERROR_ARGUMENT, "sigma");
  assert_refused (nf_session_denoise_frame (session, &in.frame, (double)NAN, &out.frame, &error), &error,
                  NF_ERROR_ARGUMENT, "sigma");
  assert_refused (nf_grid_init (&grid, nf_model_get_config (model), 0, 9, &error), &error, NF_ERROR_ARGUMENT,
                  "0");
  assert_refused (nf_grid_init (&grid, nf_model_get_config (model), 9, 16385, &error), &error,
                  NF_ERROR_ARGUMENT, "16385");
  assert_refused (nf_grid_init (&grid, nf_model_get_config (model), G_MAXUINT, G_MAXUINT, &error), &error,
                  NF_ERROR_ARGUMENT, "16384");

  /* none of it spoilt the session */
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
  assert_same_picture (&in, &out);
}

static void
test_cancel (void **state)
{
  g_autoptr (NfSession) session = open_session (NF_PIXELS_GRAY, NF_BASIS_PIXEL, "cpu");
  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_autoptr (GError) error = NULL;
  g_auto (Picture) in = { 0 }, out = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_GRAY, 9, 9, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 9, 9, FALSE);
  picture_draw (&in, 6);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
  nf_session_set_cancellable (session, cancellable);
  g_cancellable_cancel (cancellable);
  assert_refused (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), &error,
                  NF_ERROR_CANCELLED, "");
  assert_refused (nf_session_encode_frame (session, &in.frame, latents, NULL, NULL, &error), &error,
                  NF_ERROR_CANCELLED, "");
  g_cancellable_reset (cancellable);
  nf_test_ok (nf_session_encode_frame (session, &in.frame, latents, NULL, NULL, &error), error);
  nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
  assert_same_picture (&in, &out);
}

typedef struct
{
  GCancellable *cancellable;
  gulong wait; /* microseconds */
} Cancelling;

static gpointer
cancel_later (gpointer data)
{
  const Cancelling *cancelling = data;
  g_usleep (cancelling->wait);
  g_cancellable_cancel (cancelling->cancellable);
  return NULL;
}

/* Encodes or denoises a frame; FALSE once it was cancelled. */
static gboolean
work_on_frame (NfSession *session, gboolean denoise, const Picture *in, float *latents, const Picture *out)
{
  g_autoptr (GError) error = NULL;
  const gboolean done = denoise ? nf_session_denoise_frame (session, &in->frame, 0.1, &out->frame, &error)
                                : nf_session_encode_frame (session, &in->frame, latents, NULL, NULL, &error);
  if (!done && !g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED))
    fail_msg ("%s", error->message);
  return done;
}

/* A frame of many batches ends within them when another thread says so, and the next one is what it was. */
static void
test_cancel_in_the_middle (void **state)
{
  enum
  {
    WIDTH = 1024,
    HEIGHT = 1024,
    ATTEMPTS = 5 /* a thread may be late */
  };
  g_autoptr (NfSession) session = open_session (NF_PIXELS_GRAY, NF_BASIS_PIXEL, *state);
  g_auto (Picture) in = { 0 }, before = { 0 }, after = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_GRAY, WIDTH, HEIGHT, FALSE);
  picture_init (&before, NF_PIXELS_GRAY, WIDTH, HEIGHT, FALSE);
  picture_init (&after, NF_PIXELS_GRAY, WIDTH, HEIGHT, FALSE);
  picture_draw (&in, 6);
  g_autofree float *latents = encode (session, &in, &grid, NULL, NULL),
                   *again = g_new (float, nf_grid_latents (&grid));

  for (guint denoise = 0; denoise < 2; denoise++)
    {
      assert_true (work_on_frame (session, denoise, &in, latents, &before)); /* the first one compiles */
      const gint64 start = g_get_monotonic_time ();
      assert_true (work_on_frame (session, denoise, &in, latents, &before));
      const gint64 whole = g_get_monotonic_time () - start;
      gboolean done = TRUE;
      for (guint i = 0; i < ATTEMPTS && done; i++)
        {
          g_autoptr (GCancellable) cancellable = g_cancellable_new ();
          Cancelling cancelling = { cancellable, (gulong)whole / 4 };
          nf_session_set_cancellable (session, cancellable);
          GThread *thread = g_thread_new ("cancel", cancel_later, &cancelling);
          done = work_on_frame (session, denoise, &in, again, &after);
          g_thread_join (thread);
          nf_session_set_cancellable (session, NULL);
        }
      if (done)
        fail_msg ("%s goes on to its end, %.0f ms, whoever cancels", denoise ? "denoising" : "encoding",
                  1e-3 * (double)whole);
      assert_true (work_on_frame (session, denoise, &in, again, &after));
    }
  assert_memory_equal (latents, again, nf_grid_latents (&grid) * sizeof *latents);
  assert_same_picture (&before, &after);
}

typedef struct
{
  NfModel *model;
  Picture *in;
  gboolean same;
} Job;

static gpointer
work (gpointer data)
{
  Job *job = data;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = nf_session_new (job->model, &error);
  g_auto (Picture) out = { 0 };
  NfGrid grid;
  picture_init (&out, job->in->layout, job->in->frame.width, job->in->frame.height, FALSE);
  job->same
      = session
        && nf_grid_init (&grid, nf_model_get_config (job->model), out.frame.width, out.frame.height, NULL);
  g_autofree float *latents = job->same ? g_new (float, nf_grid_latents (&grid)) : NULL;
  for (guint i = 0; i < 5 && job->same; i++)
    {
      job->same = nf_session_encode_frame (session, &job->in->frame, latents, NULL, NULL, NULL)
                  && nf_session_decode_frame (session, latents, -1, NULL, &out.frame, NULL);
      for (guint y = 0; y < out.frame.height && job->same; y++)
        job->same = memcmp (sample (&out, 0, 0, y), sample (job->in, 0, 0, y), out.frame.width) == 0;
    }
  return NULL;
}

/* A narrow model's keys and values are small, but so many samples side by side as these allow may be large:
 * memory is taken for as many as fit in as much. */
static void
test_wide_tokens (void **state)
{
  const NfConfig config = { .family = NF_FAMILY_STARFLOW,
                            .channels = 64,
                            .img_size = 256,
                            .patch_size = 8,
                            .width = 4,
                            .n_blocks = 1,
                            .n_layers = 1,
                            .nvp = TRUE,
                            .head_dim = 4,
                            .expansion = 2,
                            .rope = TRUE,
                            .sos = TRUE,
                            .softplus = TRUE,
                            .layout = NF_PIXELS_LATENT };
  g_autoptr (GError) error = NULL;
  NfDevice *device = nf_test_device ("cpu");
  g_autoptr (NfModel) model = nf_model_new (&config, device, 1, &error);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);
  const guint64 before = nf_device_get_allocated (device);
  g_autofree float *z = g_new0 (float, nf_config_tile_bytes (&config)),
                   *x = g_new (float, nf_config_tile_bytes (&config));
  nf_test_ok (nf_session_decode (session, z, 1, NULL, NULL, x, &error), error);
  assert_true (nf_device_get_allocated (device) - before < (guint64)5 << 28);
}

/* Sessions of one model at the same time. */
static void
test_threads (void **state)
{
  g_autoptr (NfReference) reference = make_reference (NF_PIXELS_GRAY, NF_BASIS_PIXEL, 0);
  g_autoptr (NfModel) model = nf_test_model (reference, "cpu");
  Picture pictures[4];
  Job jobs[4];
  GThread *threads[4];
  for (guint i = 0; i < 4; i++)
    {
      picture_init (&pictures[i], NF_PIXELS_GRAY, 30 + i, 20, FALSE);
      picture_draw (&pictures[i], i);
      jobs[i] = (Job){ model, &pictures[i], FALSE };
      threads[i] = g_thread_new ("session", work, &jobs[i]);
    }
  for (guint i = 0; i < 4; i++)
    {
      g_thread_join (threads[i]);
      assert_true (jobs[i].same);
      picture_clear (&pictures[i]);
    }
}

/* Text */

static NfSession *
open_text_session (guint tokens, const char *spec)
{
  g_autoptr (GError) error = NULL;
  const NfConfig config = random_text_config (tokens);
  g_autoptr (NfDevice) device = nf_device_open (spec, &error);
  nf_test_ok (device, error);
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write_scaled (path, &config, device, 3, 0.2);
  g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  g_unlink (path);
  return nf_test_session (model);
}

static void
load_text (NfSession *session, const char *name, guint B, guint nulls, guint64 seed)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_text_write (path, name, B, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, nulls, seed);
  nf_test_ok (nf_session_load_text (session, path, &error), error);
  g_unlink (path);
  assert_int_equal (nf_session_count_texts (session), B);
}

/* Frames come back with the text that encoded them, and with no other. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_text_session (RANDOM_TEXT_TOKENS, *state);
  g_auto (Picture) in = { 0 }, out = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_YUV420, 19, 11, FALSE);
  picture_init (&out, NF_PIXELS_YUV420, 19, 11, FALSE);
  picture_draw (&in, 4);

  g_autofree float *without = encode (session, &in, &grid, NULL, NULL);
  load_text (session, "text", 1, 0, 8);
  g_autofree float *with = encode (session, &in, &grid, NULL, NULL);
  const gsize bytes = nf_grid_latents (&grid) * sizeof *with;
  assert_memory_not_equal (with, without, bytes);
  nf_test_ok (nf_session_decode_frame (session, with, -1, NULL, &out.frame, &error), error);
  assert_memory_equal (in.memory, out.memory, in.size);

  /* the same under another name; guided away from nothing but itself it stays the same */
  load_text (session, "whatever", 1, 1, 8);
  g_autofree float *again = encode (session, &in, &grid, NULL, NULL);
  assert_memory_equal (with, again, bytes);

  load_text (session, "text", 1, 0, 9);
  nf_test_ok (nf_session_decode_frame (session, with, -1, NULL, &out.frame, &error), error);
  assert_memory_not_equal (in.memory, out.memory, in.size);

  /* of several, frames take the one that is chosen */
  load_text (session, "input.text", 3, 0, 8);
  assert_false (nf_session_decode_frame (session, with, -1, NULL, &out.frame, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "text features are of 3 samples"));
  g_clear_error (&error);
  nf_session_choose_text (session, 0);
  nf_test_ok (nf_session_decode_frame (session, with, -1, NULL, &out.frame, &error), error);
  assert_memory_equal (in.memory, out.memory, in.size);
  nf_session_choose_text (session, 2);
  nf_test_ok (nf_session_decode_frame (session, with, -1, NULL, &out.frame, &error), error);
  assert_memory_not_equal (in.memory, out.memory, in.size);
}

#define TELLS_EVERY (G_USEC_PER_SEC / 10)

typedef struct
{
  char *told; /* phases, and how often */
  double before;
  gint64 time;      /* of the last call, monotonic */
  const char *stop; /* the phase in whose middle it is cancelled */
  GCancellable *cancellable;
} Loading;

static void
on_loading (const char *phase, double fraction, gpointer data)
{
  Loading *loading = data;
  g_autofree char *told = loading->told;
  assert_true (fraction >= 0 && fraction <= 1);
  assert_true (fraction == 0 || fraction > loading->before);
  const gint64 now = g_get_monotonic_time ();
  if (fraction > 0 && fraction < 1 && now - loading->time < TELLS_EVERY / 2)
    fail_msg ("told of %g of \"%s\" %g ms after the last time", fraction, phase,
              1e-3 * (double)(now - loading->time));
  loading->before = fraction;
  loading->told = g_strconcat (told ? told : "", *phase == 'l' ? "l" : "b", NULL);
  if (loading->stop && strcmp (phase, loading->stop) == 0)
    {
      if (fraction > 0)
        g_cancellable_cancel (loading->cancellable);
      else
        g_usleep (TELLS_EVERY); /* until it is told of what comes next */
    }
  loading->time = now;
}

/* Devices that compute differently have weights of their own, others share them. */
static void
test_shared (void **state)
{
  static const char *const specs[]
      = { "cpu,kernels=cpu,vectors=8,precision=f32,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=f32",
          "cpu,kernels=gpu,precision=f32,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=bf16,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=int8-weights,int8=fma,launch=each",
          "cpu,kernels=cpu,vectors=8,precision=int8-weights,launch=each" };
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  g_autoptr (GPtrArray) models = g_ptr_array_new_with_free_func (g_object_unref);
  random_model_write (path, &config, nf_test_device ("cpu"), 21);
  for (guint i = 0; i < G_N_ELEMENTS (specs); i++)
    {
      g_autoptr (NfDevice) device = nf_device_open (specs[i], &error),
                           again = nf_device_open (specs[i], &error);
      nf_test_ok (device && again, error);
      g_ptr_array_add (models, nf_model_load (path, device, NULL, NULL, NULL, &error));
      nf_test_ok (models->pdata[i], error);
      g_autoptr (NfModel) same = nf_model_load (path, again, NULL, NULL, NULL, &error);
      assert_ptr_equal (same, models->pdata[i]);
      for (guint j = 0; j < i; j++)
        {
          NfDevice *other = nf_model_get_device (models->pdata[j]);
          const gboolean alike
              = g_str_equal (nf_device_get_kernels (device), nf_device_get_kernels (other))
                && g_str_equal (nf_device_get_precision (device), nf_device_get_precision (other))
                && g_strcmp0 (nf_device_get_int8_form (device), nf_device_get_int8_form (other)) == 0
                && g_str_equal (nf_device_get_launch (device), nf_device_get_launch (other));
          assert_int_equal (models->pdata[i] == models->pdata[j], alike);
        }
    }
  g_unlink (path);
}

/* Loads a model of NOTE under "training". */
static NfModel *
load_noted (const char *path, const char *note)
{
  g_autoptr (GError) error = NULL;
  NfModel *model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  assert_string_equal (nf_model_get_path (model), path);
  assert_string_equal (nf_model_get_metadata (model, "training"), note);
  return model;
}

/* A file elsewhere, or another one there, is a model of its own, of whatever weights. */
static void
test_shared_files (void **state)
{
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors"),
                  *folder = g_path_get_dirname (path), *name = g_path_get_basename (path),
                  *roundabout = g_build_filename (folder, ".", name, NULL);
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  random_model_write (copy, &config, nf_test_device ("cpu"), 21);
  g_autoptr (NfModel) source
      = nf_model_load_unshared (copy, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (source, error);
  g_hash_table_insert (metadata, (gpointer) "training", (gpointer) "a");
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  nf_test_ok (nf_model_save (source, copy, metadata, &error), error);
  g_autoptr (NfModel) model = load_noted (path, "a");
  g_autoptr (NfModel) again = load_noted (path, "a");
  g_autoptr (NfModel) elsewhere = load_noted (copy, "a");
  g_autoptr (NfModel) same = nf_model_load (roundabout, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (same, error);
  assert_ptr_equal (again, model);
  assert_ptr_equal (same, model);
  assert_ptr_not_equal (elsewhere, model);
  g_unlink (copy);
  assert_int_equal (symlink (path, copy), 0);
  g_autoptr (NfModel) linked = load_noted (copy, "a");
  assert_ptr_not_equal (linked, model);

  /* as it was, and with other notes */
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  g_autoptr (NfModel) rewritten = load_noted (path, "a");
  assert_ptr_equal (rewritten, model);
  g_hash_table_insert (metadata, (gpointer) "training", (gpointer) "b");
  nf_test_ok (nf_model_save (source, path, metadata, &error), error);
  g_autoptr (NfModel) other = load_noted (path, "b");
  g_autoptr (NfModel) other_again = load_noted (path, "b");
  assert_ptr_not_equal (other, model);
  assert_ptr_equal (other_again, other);
  g_unlink (path);
  g_unlink (copy);
}

/* A model's file may be replaced while it is loaded. Written into, nothing more is read of it. */
static void
test_changed_file (void **state)
{
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  const gsize n = 8 * 8 * 3 / 2;
  NfDevice *device = nf_test_device ("cpu");
  g_autofree float *x = g_new0 (float, n), *gradient = g_new (float, n);
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors"),
                  *other = nf_test_temporary (".safetensors"), *old = NULL, *new = NULL;
  gsize size = 0, new_size = 0;
  double loss;
  g_autoptr (GError) error = NULL;
  random_model_write (path, &config, device, 31);
  random_model_write (other, &config, device, 32);
  nf_test_ok (g_file_get_contents (path, &old, &size, &error), error);
  nf_test_ok (g_file_get_contents (other, &new, &new_size, &error), error);
  assert_int_equal (size, new_size);

  for (guint cut = 0; cut < 2; cut++)
    {
      nf_test_ok (g_file_set_contents (path, old, (gssize)size, &error), error);
      g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
      nf_test_ok (model, error);
      g_autoptr (NfSession) session = nf_test_session (model);
      g_usleep (20000); /* the time of a change is no finer than the kernel's clock */
      FILE *file = g_fopen (path, cut ? "w" : "r+");
      assert_non_null (file);
      if (!cut)
        assert_int_equal (fwrite (new, 1, size, file), size);
      fclose (file);
      assert_false (nf_session_gradients (session, x, 1, NULL, &loss, gradient, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      assert_non_null (strstr (error->message, path));
      assert_non_null (strstr (error->message, "renaming"));
      g_clear_error (&error);
      assert_false (nf_model_save (model, copy, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      g_clear_error (&error);

      /* whoever loads the same from the file, sound again, is not given it; that file may go */
      nf_test_ok (g_file_set_contents (path, old, (gssize)size, &error), error);
      g_autoptr (NfModel) sound = nf_model_load (path, device, NULL, NULL, NULL, &error);
      nf_test_ok (sound, error);
      assert_ptr_not_equal (sound, model);
      assert_int_equal (g_rename (other, path), 0);
      nf_test_ok (g_file_set_contents (other, new, (gssize)size, &error), error);
      g_autoptr (NfSession) again = nf_test_session (sound);
      nf_test_ok (nf_session_gradients (again, x, 1, NULL, &loss, gradient, NULL, &error), error);
      g_unlink (path);
      nf_test_ok (nf_model_save (sound, copy, NULL, &error), error);
    }
  g_unlink (path);
  g_unlink (copy);
  g_unlink (other);
}

/* Loading is told of as it goes on, and ends where it is cancelled. */
static void
test_loading_tells (void **state)
{
  static const char *const stops[] = { "load", "build", NULL };
  const NfConfig config = { .channels = 3,
                            .img_size = 16,
                            .patch_size = 4,
                            .width = 64,
                            .n_blocks = 3,
                            .n_layers = 4,
                            .nvp = TRUE,
                            .head_dim = 32,
                            .expansion = 4 };
  g_autoptr (GError) none = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &none);
  nf_test_ok (device, none);
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write (path, &config, device, 5);
  for (guint i = 0; i < G_N_ELEMENTS (stops); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GCancellable) cancellable = g_cancellable_new ();
      Loading loading = { .stop = stops[i], .cancellable = cancellable };
      g_autoptr (NfModel) model = nf_model_load (path, device, on_loading, &loading, cancellable, &error);
      g_autofree char *told = loading.told;
      const gsize loads = strspn (told, "l"), builds = strlen (told + loads);
      assert_int_equal (strspn (told + loads, "b"), builds);
      assert_true (loads >= 1);
      if (stops[i])
        {
          assert_null (model);
          assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED));
          assert_true (loading.before > 0 && loading.before < 0.6);
          assert_int_equal (builds > 0, i > 0);
          continue;
        }
      nf_test_ok (model, error);
      assert_true (builds >= 2 && loading.before == 1);
    }
  g_unlink (path);
}

static void
test_bad_text (void **state)
{
  static const struct
  {
    const char *name, *mentions;
    guint tokens, features, B, nulls;
  } cases[] = {
    { "text", "(B, 2, 3)", 3, 3, 1, 0 },
    { "input.text", "input.text is F32 (1, 2, 4)", 2, 4, 1, 0 },
    { "text", "null_text is of 3 samples, the text of 2", 2, 3, 2, 3 },
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_text_session (RANDOM_TEXT_TOKENS, "cpu"),
                        deaf = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, "cpu");
  g_autofree char *path = nf_test_temporary (".safetensors"),
                  *weights = nf_test_file ("golden", "starflow_text.weights.safetensors");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      random_text_write (path, cases[i].name, cases[i].B, cases[i].tokens, cases[i].features, cases[i].nulls,
                         1);
      assert_false (nf_session_load_text (session, path, &error));
      if (!g_error_matches (error, NF_ERROR, NF_ERROR_DATA) || !strstr (error->message, path)
          || !strstr (error->message, cases[i].mentions))
        fail_msg ("case %u: \"%s\" does not mention \"%s\"", i, error->message, cases[i].mentions);
      g_clear_error (&error);
    }
  assert_false (nf_session_load_text (session, weights, &error));
  assert_non_null (strstr (error->message, "holds no tensor text"));
  g_clear_error (&error);
  random_text_write (path, "text", 1, 2, 3, 0, 1);
  assert_false (nf_session_load_text (deaf, path, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "sees no text"));
  g_clear_error (&error);

  /* guidance without, and with a file that has half of what it needs */
  g_autofree char *lacking = g_strconcat (path, " lacks the tensor null_text", NULL);
  const char *const lacks[] = { "no text is set", lacking, "text was set without them" };
  const NfDecodeOptions guided = { .snap = TRUE, .guidance = 2 };
  const float latents[8 * 8 * 3 / 2] = { 0 };
  g_auto (Picture) picture;
  picture_init (&picture, NF_PIXELS_YUV420, 8, 8, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (lacks); i++)
    {
      if (i == 1)
        nf_test_ok (nf_session_load_text (session, path, &error), error);
      else if (i == 2)
        nf_test_ok (nf_session_set_text (session, latents, NULL, 1, &error), error);
      assert_false (nf_session_decode_frame (session, latents, -1, &guided, &picture.frame, &error));
      if (!strstr (error->message, lacks[i]))
        fail_msg ("\"%s\" does not mention \"%s\"", error->message, lacks[i]);
      g_clear_error (&error);
    }
  g_unlink (path);
}

/* What was set stays when something else is refused. */
static void
test_refused_text (void **state)
{
  const float good[RANDOM_TEXT_FEATURES] = { 0.3f, 0.2f, 0.1f }, bad[RANDOM_TEXT_FEATURES] = { 0, NAN, 0 };
  const gint second = 1;
  float latents[8 * 8 * 3 / 2], before[G_N_ELEMENTS (latents)], after[G_N_ELEMENTS (latents)];
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_text_session (1, "cpu");
  nf_random_normal (5, 0, G_N_ELEMENTS (latents), 1, latents);
  for (guint with_text = 0; with_text < 2; with_text++)
    {
      const gint *labels = with_text ? NULL : &second;
      nf_test_ok (nf_session_set_text (session, with_text ? good : NULL, NULL, 1, &error), error);
      nf_test_ok (nf_session_decode (session, latents, 1, labels, NULL, before, &error), error);
      for (guint i = 0; i < 2; i++)
        {
          assert_false (nf_session_set_text (session, i ? bad : good, i ? NULL : bad, 1, &error));
          g_clear_error (&error);
          assert_int_equal (nf_session_count_texts (session), with_text);
          nf_test_ok (nf_session_decode (session, latents, 1, labels, NULL, after, &error), error);
          assert_memory_equal (before, after, sizeof before);
        }
    }
}

static void
test_refused_actions (void **state)
{
  const NfConfig config = random_video_config ();
  const gsize n = (gsize)RANDOM_VIDEO_WIDTH * RANDOM_VIDEO_HEIGHT * 3 * RANDOM_VIDEO_FRAMES;
  float actions[RANDOM_VIDEO_FRAMES * RANDOM_VIDEO_ACTIONS] = { 0, 1, 0, 1 };
  g_autofree float *latents = g_new (float, n), *before = g_new (float, n), *after = g_new (float, n);
  g_autofree char *path = nf_test_temporary (".safetensors");
  g_autoptr (GError) error = NULL;
  random_model_write_scaled (path, &config, nf_test_device ("cpu"), 5, RANDOM_VIDEO_SCALE);
  g_autoptr (NfModel) model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);
  nf_random_normal (5, 0, n, 1, latents);
  nf_test_ok (nf_session_set_actions (session, actions, 1, &error), error);
  nf_test_ok (nf_session_decode (session, latents, 1, NULL, NULL, before, &error), error);
  actions[4] = (float)INFINITY;
  assert_false (nf_session_set_actions (session, actions, 1, &error));
  g_clear_error (&error);
  nf_test_ok (nf_session_decode (session, latents, 1, NULL, NULL, after, &error), error);
  assert_memory_equal (before, after, n * sizeof *before);
}

/* A class of a STARFlow is one-hot text of one token, no class its last place. */
static void
test_one_hot (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_text_session (1, "cpu");
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  const float second[RANDOM_TEXT_FEATURES] = { 0, 1, 0 }, none[RANDOM_TEXT_FEATURES] = { 0, 0, 1 };
  const NfDecodeOptions guided = { .snap = TRUE, .guidance = 2 };
  float latents[8 * 8 * 3 / 2];
  Picture pictures[4], unlabelled[2];
  assert_int_equal (nf_config_classes (config), RANDOM_TEXT_FEATURES);
  nf_random_normal (1, 0, G_N_ELEMENTS (latents), 1, latents);
  for (guint i = 0; i < G_N_ELEMENTS (pictures); i++)
    {
      picture_init (&pictures[i], NF_PIXELS_YUV420, 8, 8, FALSE);
      nf_test_ok (nf_session_set_text (session, i == 3 ? second : NULL, none, i == 3 ? 1 : 0, &error), error);
      nf_test_ok (nf_session_decode_frame (session, latents, i == 3 ? -1 : (gint)i, &guided,
                                           &pictures[i].frame, &error),
                  error);
    }
  assert_memory_equal (pictures[1].memory, pictures[3].memory, pictures[1].size);
  assert_memory_not_equal (pictures[0].memory, pictures[1].memory, pictures[1].size);
  assert_memory_not_equal (pictures[1].memory, pictures[2].memory, pictures[1].size);
  for (guint i = 0; i < G_N_ELEMENTS (unlabelled); i++)
    {
      picture_init (&unlabelled[i], NF_PIXELS_YUV420, 8, 8, FALSE);
      nf_test_ok (nf_session_set_text (session, i ? none : NULL, NULL, i, &error), error);
      nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &unlabelled[i].frame, &error), error);
    }
  assert_memory_equal (unlabelled[0].memory, unlabelled[1].memory, unlabelled[0].size);

  assert_false (nf_session_decode_frame (session, latents, 1, NULL, &pictures[0].frame, &error));
  assert_non_null (strstr (error->message, "beside text features"));
  g_clear_error (&error);
  nf_test_ok (nf_session_set_text (session, NULL, NULL, 0, &error), error);
  assert_false (nf_session_decode_frame (session, latents, 3, NULL, &pictures[0].frame, &error));
  assert_non_null (strstr (error->message, "3 classes"));
  for (guint i = 0; i < G_N_ELEMENTS (pictures); i++)
    picture_clear (&pictures[i]);
  for (guint i = 0; i < G_N_ELEMENTS (unlabelled); i++)
    picture_clear (&unlabelled[i]);
}

/* A loaded model takes its matrices once, packed; gradients and training take more, and the numbers stay. */
static void
test_memory (void **state)
{
  g_autoptr (GError) error = NULL;
  const double share = strstr (*state, "int8") ? 0.45 : strstr (*state, "bf16") ? 0.7 : 1.2;
  const gboolean trains = !strstr (*state, "weights");
  g_autoptr (NfDevice) device = nf_device_open (*state, &error);
  nf_test_ok (device, error);
  const NfConfig config = { .channels = 3,
                            .img_size = 16,
                            .patch_size = 4,
                            .width = 128,
                            .n_blocks = 2,
                            .n_layers = 3,
                            .nvp = TRUE,
                            .head_dim = 32,
                            .expansion = 4 };
  g_autofree char *path = nf_test_temporary (".safetensors"), *copy = nf_test_temporary (".safetensors");
  random_model_write (path, &config, device, 5);
  const guint64 before = nf_device_get_allocated (device);
  g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  const double n = (double)nf_model_count_parameters (model) * sizeof (float),
               loaded = (double)(nf_device_get_allocated (device) - before);
  if (loaded > share * n)
    fail_msg ("%.0f bytes for %.0f of parameters", loaded, n);

  g_autofree char *digest = nf_model_digest_of_file (path, &error);
  assert_string_equal (nf_model_get_digest (model), digest);
  const NfTrainOptions options = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
  g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, &error);
  g_unlink (path);
  if (!trains)
    {
      assert_null (trainer);
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
      assert_non_null (strstr (error->message, nf_device_get_precision (device)));
      return;
    }
  nf_test_ok (trainer, error);
  assert_true ((double)(nf_device_get_allocated (device) - before) > 5 * n);
  nf_test_ok (nf_trainer_save_model (trainer, copy, NULL, &error), error);
  g_autofree char *again = nf_model_digest_of_file (copy, &error);
  assert_string_equal (again, digest);
  g_unlink (copy);
}

static void
test_stats (void **state)
{
  g_autoptr (NfSession) session = open_session (NF_PIXELS_GRAY, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) in = { 0 };
  NfGrid grid;
  NfSessionStats stats;
  picture_init (&in, NF_PIXELS_GRAY, 9, 9, FALSE);
  picture_draw (&in, 6);
  for (guint i = 0; i < 3; i++)
    {
      g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
    }
  nf_session_get_stats (session, &stats);
  assert_int_equal (stats.frames, 3);
  assert_true (stats.kernel_seconds > 0 && stats.last_frame_seconds > 0 && stats.device_bytes > 0);
}

/* A call that fails leaves no picture behind that is none: the next frame is not taken for it. */
static void
test_failure_forgets (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_session (NF_PIXELS_YUV420, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) in = { 0 }, out = { 0 }, other = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_YUV420, 24, 24, FALSE);
  picture_init (&out, NF_PIXELS_YUV420, 24, 24, FALSE);
  picture_init (&other, NF_PIXELS_YUV420, 20, 24, FALSE); /* as many tiles */
  picture_draw (&in, 3);
  g_autofree float *z = encode (session, &in, &grid, NULL, NULL);
  for (int turn = 0; turn < 2; turn++)
    {
      nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &out.frame, &error), error);
      NfFrame wrong = other.frame;
      wrong.planes[0].stride = turn ? 3 : wrong.planes[0].stride;
      g_autofree float *bad = g_memdup2 (z, nf_grid_latents (&grid) * sizeof *z);
      bad[0] = NAN;
      if (turn)
        assert_false (nf_session_denoise_frame (session, &wrong, 0.1, &other.frame, &error));
      else
        assert_false (nf_session_decode_frame (session, bad, -1, NULL, &other.frame, &error));
      assert_non_null (error);
      g_clear_error (&error);
      memset (out.memory, GUARD, out.size);
      nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &out.frame, &error), error);
      assert_memory_equal (in.memory, out.memory, in.size);
    }
}

/* Interlaced frames with a row of chroma more: its samples count, they are in the padding of frames without,
 * and frames of either kind do not go through at once, nor is one taken for the other. */
static void
test_interlaced (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_session (NF_PIXELS_YUV420, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) in = { 0 }, out = { 0 };
  NfGrid grid;
  NfScore score;
  guint width, height;
  picture_init (&in, NF_PIXELS_YUV420, 10, 18, FALSE);
  picture_init (&out, NF_PIXELS_YUV420, 10, 18, FALSE);
  picture_draw (&in, 3);
  g_autofree float *plain = encode (session, &in, &grid, &score, NULL);
  assert_int_equal (score.num_dims, 10 * 18 + 2 * 5 * 9);
  in.frame.interlaced = TRUE;
  nf_frame_plane_size (&in.frame, NF_PIXELS_YUV420, 2, &width, &height);
  assert_int_equal (width, 5);
  assert_int_equal (height, 10);
  for (guint i = 1; i < 3; i++)
    for (guint x = 0; x < width; x++)
      *sample (&in, i, x, 9) = *sample (&in, i, x, 8); /* as padding has it */
  g_autofree float *latents = encode (session, &in, &grid, &score, NULL);
  assert_int_equal (score.num_dims, 10 * 18 + 2 * 5 * 10);
  assert_memory_equal (latents, plain, nf_grid_latents (&grid) * sizeof *latents);

  for (guint turn = 0; turn < 4; turn++)
    {
      out.frame.interlaced = turn % 2;
      memset (out.memory, GUARD, out.size);
      nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
      assert_int_equal (*sample (&out, 1, 0, 9), turn % 2 ? *sample (&in, 1, 0, 9) : GUARD);
    }
  const float *both[] = { latents, latents };
  const NfFrame frames[] = { in.frame, { .width = in.frame.width, .height = in.frame.height } };
  assert_refused (nf_session_decode_frames (session, both, 2, -1, NULL, frames, &error), &error,
                  NF_ERROR_ARGUMENT, "frame 1 of 2 is not interlaced");
  in.frame.interlaced = FALSE;
  out.frame.interlaced = TRUE;
  assert_refused (nf_session_denoise_frame (session, &in.frame, 0.1, &out.frame, &error), &error,
                  NF_ERROR_ARGUMENT, "an interlaced frame cannot be denoised into one that is not");
}

/* Tiles whose height is no multiple of 4 may have no room for that row. */
static void
test_interlaced_without_room (void **state)
{
  const NfConfig config = { .channels = 3,
                            .img_size = 6,
                            .patch_size = 2,
                            .width = 16,
                            .n_blocks = 1,
                            .n_layers = 1,
                            .nvp = TRUE,
                            .head_dim = 16,
                            .expansion = 2,
                            .layout = NF_PIXELS_YUV420 };
  static const guint heights[] = { 6, 9, 10, 14 };
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 3, 0.1);
  g_autoptr (NfModel) model = nf_test_model (reference, "cpu");
  g_autoptr (NfSession) session = nf_test_session (model);
  for (guint i = 0; i < G_N_ELEMENTS (heights); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (Picture) in = { 0 }, out = { 0 };
      NfGrid grid;
      picture_init (&in, NF_PIXELS_YUV420, 6, heights[i], FALSE);
      picture_init (&out, NF_PIXELS_YUV420, 6, heights[i], FALSE);
      in.frame.interlaced = out.frame.interlaced = i > 0;
      picture_draw (&in, 3);
      g_autofree float *latents = encode (session, &in, &grid, NULL, NULL);
      nf_test_ok (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), error);
      assert_same_picture (&in, &out);
      if (i > 0)
        continue;
      in.frame.interlaced = out.frame.interlaced = TRUE;
      const char *part = "6x6 has 4 rows of chroma, but tiles of 6 rows have room for 3";
      assert_refused (nf_session_encode_frame (session, &in.frame, latents, NULL, NULL, &error), &error,
                      NF_ERROR_UNSUPPORTED, part);
      assert_refused (nf_session_decode_frame (session, latents, -1, NULL, &out.frame, &error), &error,
                      NF_ERROR_UNSUPPORTED, part);
    }
}

/* Three planes whose samples lie apart are no pixels with room between them: nothing else is written. */
static void
test_planes_apart (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = open_session (NF_PIXELS_RGB, NF_BASIS_PIXEL, "cpu");
  g_auto (Picture) in = { 0 };
  const guint width = 9, height = 2, step = 4, stride = step * width;
  /* each plane ends with its last sample; one after the other, from the last to the first */
  const gsize plane = stride * (height - 1) + step * (width - 1) + 1;
  g_autofree guint8 *memory = g_malloc (3 * plane);
  NfFrame frame = { .width = width, .height = height };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_RGB, width, height, FALSE);
  picture_draw (&in, 5);
  memset (memory, GUARD, 3 * plane);
  for (guint i = 0; i < 3; i++)
    frame.planes[i] = (NfPlane){ memory + (2 - i) * plane, (gint)stride, (gint)step };
  g_autofree float *z = encode (session, &in, &grid, NULL, NULL);
  nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &frame, &error), error);
  for (guint i = 0; i < 3; i++)
    for (gsize at = 0; at < plane; at++)
      {
        const guint x = at % stride / step, y = (guint)(at / stride);
        assert_int_equal (frame.planes[i].data[at], at % step ? GUARD : *sample (&in, i, x, y));
      }
}

/* What is no number has no bytes: it is an error that names the model and the frame, however that is decoded.
 */
static void
test_not_finite (void **state)
{
  static const NfDecodeOptions ways[] = {
    { .drawn = TRUE },
    { .snap = TRUE },
    { .snap = TRUE, .method = NF_DECODE_SEQUENTIAL },
    { .snap = TRUE, .method = NF_DECODE_JACOBI, .window = 2 },
  };
  static const NfNoise noises[] = { NF_NOISE_UNIFORM, NF_NOISE_GAUSSIAN };
  g_autoptr (GError) error = NULL;
  g_auto (Picture) in = { 0 }, out = { 0 };
  picture_init (&in, NF_PIXELS_GRAY, 13, 7, FALSE);
  picture_init (&out, NF_PIXELS_GRAY, 13, 7, FALSE);
  picture_draw (&in, 6);
  for (guint i = 0; i < G_N_ELEMENTS (noises); i++)
    {
      NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, 2);
      config.noise = noises[i];
      config.noise_std = i ? 0.1 : 0;
      g_autofree char *path = nf_test_temporary (".safetensors");
      random_model_write_damaged (path, &config, nf_test_device (*state));
      g_autoptr (NfModel) model = nf_model_load (path, nf_test_device (*state), NULL, NULL, NULL, &error);
      g_unlink (path);
      nf_test_ok (model, error);
      g_autoptr (NfSession) session = nf_test_session (model);
      NfGrid grid;
      nf_test_ok (nf_grid_init (&grid, &config, 13, 7, &error), error);
      g_autofree float *z = g_new (float, nf_grid_latents (&grid)),
                       *made = g_new (float, nf_grid_latents (&grid));
      nf_random_normal (1, 0, nf_grid_latents (&grid), 1, z);
      for (guint j = 0; j < G_N_ELEMENTS (ways); j++)
        assert_refused (nf_session_decode_frame (session, z, -1, &ways[j], &out.frame, &error), &error,
                        NF_ERROR_DATA, path);
      assert_refused (nf_session_encode_frame (session, &in.frame, made, NULL, NULL, &error), &error,
                      NF_ERROR_DATA, path);
      assert_refused (nf_session_encode (session, z, 1, NULL, made, NULL, NULL, &error), &error,
                      NF_ERROR_DATA, path);
      assert_refused (nf_session_prepare (session, NF_SESSION_ENCODE, &error), &error, NF_ERROR_DATA,
                      "latents of the frame are not finite");
      const float *const latents[] = { z, z };
      const NfFrame frames[] = { out.frame, out.frame };
      assert_refused (nf_session_decode_frames (session, latents, 2, -1, ways, frames, &error), &error,
                      NF_ERROR_DATA, "frame 0 of 2: samples of the frame are not finite");
      assert_refused (nf_session_denoise_frame (session, &in.frame, 0.1, &out.frame, &error), &error,
                      NF_ERROR_DATA, "samples of the frame are not finite");
    }
}

enum
{
  PLAIN_W = 96,
  PLAIN_H = 64
};

/* A byte between LEAST and LEAST + N - 1. */
static guint8
choose_byte (guint32 *seed, guint least, guint n)
{
  *seed = *seed * 1664525 + 1013904223;
  return (guint8)(least + (*seed >> 16) % n);
}

/* COUNT colours of video. */
static void
choose_colours (guint32 *seed, guint8 colours[][3], guint count)
{
  for (guint c = 0; c < count; c++)
    for (guint i = 0; i < 3; i++)
      colours[c][i] = choose_byte (seed, 16, i ? 225 : 220);
}

/* Three strips of plain bars, or, every other picture, squares of two colours. */
static void
draw_plain (const NfFrame *frame, guint number, guint32 *seed)
{
  enum
  {
    W = PLAIN_W,
    H = PLAIN_H,
    SIDE = 4
  };
  const guint bars = 3 + number % 6;
  const gboolean squares = number % 2;
  guint8 colours[3 * 8][3], lives[H / SIDE][W / SIDE];
  choose_colours (seed, colours, squares ? 2 : 3 * bars);
  for (guint y = 0; squares && y < H / SIDE; y++)
    for (guint x = 0; x < W / SIDE; x++)
      lives[y][x] = choose_byte (seed, 0, 10) < 3;
  for (guint i = 0; i < 3; i++)
    for (guint y = 0; y < (i ? H / 2 : H); y++)
      for (guint x = 0; x < (i ? W / 2 : W); x++)
        {
          const guint row = i ? 2 * y : y, column = i ? 2 * x : x,
                      strip = 3 * row < 2 * H   ? 0
                              : 4 * row < 3 * H ? 1
                                                : 2,
                      colour = squares ? lives[row / SIDE][column / SIDE] : strip * bars + column * bars / W;
          frame->planes[i].data[y * (i ? W / 2 : W) + x] = colours[colour][i];
        }
}

/* Plain bars and squares are unlike a camera's pictures, too, though many score little: those come back. */
static void
test_plain (void **state)
{
  static const char *const models[] = { "normflow-yuv420-32-small", "normflow-yuv420-32" };
  enum
  {
    W = PLAIN_W,
    H = PLAIN_H,
    BYTES = W * H * 3 / 2
  };
  guint8 samples[BYTES], again[BYTES];
  NfFrame in
      = { .width = W,
          .height = H,
          .planes
          = { { samples, W, 1 }, { samples + W * H, W / 2, 1 }, { samples + W * H + W * H / 4, W / 2, 1 } } },
      out = in;
  for (guint i = 0; i < 3; i++)
    out.planes[i].data = again + (in.planes[i].data - samples);
  for (guint m = 0; m < G_N_ELEMENTS (models); m++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfModel) model
          = nf_model_load (models[m], nf_test_device (*state), NULL, NULL, NULL, &error);
      nf_test_ok (model, error);
      g_autoptr (NfSession) session = nf_session_new (model, &error);
      nf_test_ok (session, error);
      NfGrid grid;
      nf_test_ok (nf_grid_init (&grid, nf_model_get_config (model), W, H, &error), error);
      g_autofree float *z = g_new (float, nf_grid_latents (&grid));
      guint32 seed = 1;
      guint tame = 0;
      for (guint f = 0; f < 40; f++)
        {
          draw_plain (&in, f, &seed);
          NfScore score;
          nf_test_ok (nf_session_encode_frame (session, &in, z, &score, NULL, &error), error);
          nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &out, &error), error);
          assert_int_equal (score.limited, nf_model_get_config (model)->max_log_scale > 0);
          tame += score.bits_per_dim < 100;
          const gboolean sure = nf_score_get_doubt (&score) == NF_DOUBT_NONE;
          if ((sure || score.bits_per_dim < 100) && memcmp (samples, again, BYTES) != 0)
            fail_msg ("%s: picture %u, of %g bits/dim, came back changed", models[m], f, score.bits_per_dim);
        }
      assert_true (tame > 20);
    }
}

/* Rows of text count when it is chosen how many samples go through at a time: few tokens do not make many of
 * them. */
static void
test_long_text (void **state)
{
  const NfConfig config = random_text_config (1024);
  const gsize values = (gsize)nf_config_tokens (&config) * nf_config_features (&config),
              text = 1024 * RANDOM_TEXT_FEATURES;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = nf_model_new (&config, nf_test_device (*state), 1, &error);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);
  g_autofree float *x = g_new0 (float, values), *z = g_new0 (float, values), *features = g_new0 (float, text);
  nf_test_ok (nf_session_set_text (session, features, NULL, 1, &error), error);
  nf_test_ok (nf_session_encode (session, x, 1, NULL, z, NULL, NULL, &error), error);
  NfSessionStats stats;
  nf_session_get_stats (session, &stats);
  /* of one sample about 2 MB */
  assert_true (stats.device_bytes < 64 << 20);
}

/* Why a frame may not come back: it is far, or decoding misses values where that matters. */
static void
test_doubt (void **state)
{
  static const struct
  {
    NfScore score;
    NfDoubt doubt;
  } cases[] = {
    { { .bits_per_dim = 3 }, NF_DOUBT_NONE },
    { { .bits_per_dim = 3, .rounded = TRUE, .limited = TRUE }, NF_DOUBT_NONE },
    { { .bits_per_dim = 3, .n_missed = 1 }, NF_DOUBT_NONE },
    { { .bits_per_dim = 3, .n_missed = 1, .limited = TRUE }, NF_DOUBT_FAR },
    { { .bits_per_dim = 3, .n_missed = 1, .rounded = TRUE }, NF_DOUBT_PRECISION },
    { { .bits_per_dim = 3, .n_missed = 1, .rounded = TRUE, .limited = TRUE }, NF_DOUBT_PRECISION },
    { { .bits_per_dim = NF_SCORE_FAR }, NF_DOUBT_FAR },
    { { .bits_per_dim = NF_SCORE_FAR, .n_missed = 1, .rounded = TRUE }, NF_DOUBT_FAR },
    { { .bits_per_dim = NAN }, NF_DOUBT_FAR },
    { { .bits_per_dim = 3, .n_lost = 1 }, NF_DOUBT_FAR },
    { { .bits_per_dim = 3, .n_lost = 1, .limited = TRUE }, NF_DOUBT_FAR },
    { { .bits_per_dim = 3, .n_lost = 1, .rounded = TRUE }, NF_DOUBT_PRECISION },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    if (nf_score_get_doubt (&cases[i].score) != cases[i].doubt)
      fail_msg ("case %u", i);
  assert_null (nf_doubt_describe (NF_DOUBT_NONE));
  assert_non_null (strstr (nf_doubt_describe (NF_DOUBT_FAR), "far from all"));
  assert_non_null (strstr (nf_doubt_describe (NF_DOUBT_PRECISION), "so few bits"));
}

/* Log-scales of block T of NAME are about LOG_SCALE. */
static void
widen (NfReference *reference, guint t, double log_scale)
{
  g_autofree char *name = g_strdup_printf ("blocks.%u.proj_out.bias", t);
  NfReferenceParameter *bias = nf_reference_parameter (reference, name);
  for (gsize i = 0; i < bias->n / 2; i++)
    bias->value[i] = (double)(float)(bias->value[i] + log_scale);
}

/* Z, of the picture IN that SESSION encoded last, decoded in every way with what encoding said of it. */
static void
assert_corrected (NfSession *session, const float *z, const Picture *in)
{
  static const NfDecodeMethod methods[]
      = { NF_DECODE_SEQUENTIAL, NF_DECODE_JACOBI, NF_DECODE_AUTO, NF_DECODE_DRAFT };
  NfCorrections corrections;
  nf_session_get_corrections (session, &corrections);
  for (guint m = 0; m < G_N_ELEMENTS (methods); m++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (Picture) out;
      const NfDecodeOptions options
          = { .snap = TRUE, .method = methods[m], .afresh = TRUE, .corrections = &corrections };
      picture_init (&out, in->layout, in->frame.width, in->frame.height, FALSE);
      nf_test_ok (nf_session_decode_frame (session, z, -1, &options, &out.frame, &error), error);
      g_autofree char *wrong = compare_pictures (in, &out);
      if (wrong)
        fail_msg ("%s, with %" G_GSIZE_FORMAT " corrections: %s", nf_decode_method_name (methods[m]),
                  corrections.n, wrong);
    }
}

/* A model may diverge in training: block 0 then has scales that the data's lattice does not hold. A frame
 * that comes back changed is one whose samples were said to be lost, and if none is it comes back. */
static void
test_diverged (void **state)
{
  enum
  {
    W = 2 * S,
    H = S
  };
  for (guint form = 0; form < 4; form++)
    for (guint wide = 0; wide < 5; wide++)
      {
        NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, 2);
        config.basis = form & 1 ? NF_BASIS_DCT : NF_BASIS_PIXEL;
        config.noise = form & 2 ? NF_NOISE_GAUSSIAN : NF_NOISE_UNIFORM;
        config.noise_std = form & 2 ? 0.05 : 0;
        g_autoptr (NfReference) reference = nf_reference_new (&config);
        nf_reference_randomise (reference, 5 + form, 0.1);
        widen (reference, 0, 2.5 * wide);
        g_autoptr (NfModel) model = nf_test_model (reference, *state);
        g_autoptr (NfSession) session = nf_test_session (model);
        g_autofree float *z = g_new (float, W *H);
        for (guint f = 0; f < 3; f++)
          {
            g_autoptr (GError) error = NULL;
            g_auto (Picture) in, out;
            NfScore score;
            picture_init (&in, NF_PIXELS_GRAY, W, H, FALSE);
            picture_init (&out, NF_PIXELS_GRAY, W, H, FALSE);
            picture_draw (&in, f);
            nf_test_ok (nf_session_encode_frame (session, &in.frame, z, &score, NULL, &error), error);
            nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &out.frame, &error), error);
            g_autofree char *wrong = compare_pictures (&in, &out);
            assert_true (score.bits_per_dim < NF_SCORE_FAR);
            assert_int_equal (score.n_missed, 0);
            assert_int_equal (nf_score_get_doubt (&score) != NF_DOUBT_NONE, score.n_lost > 0);
            if (wrong && !score.n_lost)
              fail_msg ("form %u, scales %u, picture %u: %s", form, wide, f, wrong);
            assert_corrected (session, z, &in);
            /* exp (10) is more than any of these lattices holds */
            assert_true (wide == 0 ? !score.n_lost : wide < 4 || (score.n_lost && wrong));
          }
      }
}

/* Of eight blocks few bits, too, miss nothing, as long as scales stay below 2; where they do not it is said,
 * and what decoding has to know. */
static void
test_many_blocks (void **state)
{
  enum
  {
    W = 96,
    H = 64
  };
  static const guint blocks[] = { 8, 8, 14 };
  static const double spreads[] = { 0.1, 0.2, 0.13 };
  for (guint wide = 0; wide < 3; wide++)
    {
      const NfConfig config = random_picture_config (NF_PIXELS_GRAY, 2 * S, P, blocks[wide]);
      g_autoptr (NfReference) reference = nf_reference_new (&config);
      nf_reference_randomise (reference, 5, spreads[wide]);
      g_autoptr (NfModel) model = nf_test_model (reference, *state);
      g_autoptr (NfSession) session = nf_test_session (model);
      g_autofree float *z = g_new (float, W *H);
      guint changed = 0;
      for (guint f = 0; f < 4; f++)
        {
          g_autoptr (GError) error = NULL;
          g_auto (Picture) in, out;
          NfScore score;
          picture_init (&in, NF_PIXELS_GRAY, W, H, FALSE);
          picture_init (&out, NF_PIXELS_GRAY, W, H, FALSE);
          picture_draw (&in, f);
          nf_test_ok (nf_session_encode_frame (session, &in.frame, z, &score, NULL, &error), error);
          nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &out.frame, &error), error);
          assert_int_equal (nf_score_get_doubt (&score) != NF_DOUBT_NONE, wide > 0);
          g_autofree char *wrong = compare_pictures (&in, &out);
          if (wrong && !wide)
            fail_msg ("picture %u: %s", f, wrong);
          changed += wrong != NULL;
          NfCorrections corrections;
          nf_session_get_corrections (session, &corrections);
          assert_int_equal (corrections.n, score.n_missed + score.n_lost);
          assert_corrected (session, z, &in);
        }
      assert_true (wide == 1 || (wide > 0) == (changed > 0));
    }
}

/* Two frames of the same latents that are told apart by their corrections alone: a tile is not taken for the
 * one that was decoded before. */
static void
test_corrected_tiles (void **state)
{
  enum
  {
    W = 2 * S,
    H = S
  };
  NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, 2);
  config.noise = NF_NOISE_GAUSSIAN;
  config.noise_std = 0.05;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 5, 0.1);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const gsize half = W * H / 2;
  /* the last value of the second tile, of the block that makes the picture */
  const NfCorrection items[2] = { { 1, 0, (guint32)half - 1, 2 * 200 / 255.0f - 1 },
                                  { 1, 0, (guint32)half - 1, 2 * 7 / 255.0f - 1 } };
  const NfCorrections corrections[3] = { { items, 1 }, { items + 1, 1 }, { NULL, 0 } };
  g_autofree float *z = g_new (float, W *H);
  g_auto (Picture) in, first, second, third, alone;
  Picture *const out[3] = { &first, &second, &third };
  g_autoptr (GError) error = NULL;

  picture_init (&in, NF_PIXELS_GRAY, W, H, FALSE);
  picture_init (&alone, NF_PIXELS_GRAY, W, H, FALSE);
  picture_draw (&in, 1);
  nf_test_ok (nf_session_encode_frame (session, &in.frame, z, NULL, NULL, &error), error);
  const float *latents[3] = { z, z, z };
  NfFrame frames[3];
  for (guint i = 0; i < 3; i++)
    {
      picture_init (out[i], NF_PIXELS_GRAY, W, H, FALSE);
      frames[i] = out[i]->frame;
    }
  NfDecodeOptions options = { .snap = TRUE, .corrections = corrections };
  nf_test_ok (nf_session_decode_frames (session, latents, 3, -1, &options, frames, &error), error);
  NfDecodeReport report;
  nf_session_get_decode_report (session, &report);
  assert_int_equal (report.kept, 2); /* the first tile of two frames */
  for (guint i = 0; i < 3; i++)
    {
      options.corrections = &corrections[i];
      nf_test_ok (nf_session_decode_frame (session, z, -1, &options, &alone.frame, &error), error);
      g_autofree char *wrong = compare_pictures (&alone, out[i]);
      assert_null (wrong);
      const NfPlane *plane = &alone.frame.planes[0];
      const guint8 corner = plane->data[(H - 1) * plane->stride + (W - 1) * plane->step];
      assert_int_equal (corner == 200, i == 0);
      assert_int_equal (corner == 7, i == 1);
    }
  g_autofree char *same = compare_pictures (&in, &third);
  assert_null (same);
}

/* What is no correction of these latents is refused before anything is computed. */
static void
test_bad_corrections (void **state)
{
  const NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, 2);
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  g_autoptr (NfModel) model = nf_test_model (reference, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  static const struct
  {
    NfCorrection items[2];
    const char *wrong;
  } cases[] = {
    { { { 2, 0, 0, 0 }, { 2, 0, 1, 0 } }, "no such sample" },
    { { { 0, 2, 0, 0 }, { 1, 0, 1, 0 } }, "no such block" },
    { { { 0, 0, S * S, 0 }, { 1, 0, 1, 0 } }, "no such place" },
    { { { 0, 0, 0, 0 }, { 1, 1, G_MAXUINT32, 0 } }, "no such place" },
    { { { 0, 0, 0, 0 }, { 0, 0, 1, INFINITY } }, "not finite" },
    { { { 0, 0, 0, NAN }, { 0, 0, 1, 0 } }, "not finite" },
    { { { 0, 0, 1, 0 }, { 0, 0, 1, 0 } }, "not in order" },
    { { { 0, 1, 0, 0 }, { 0, 0, 1, 0 } }, "not in order" },
    { { { 1, 0, 0, 0 }, { 0, 0, 1, 0 } }, "not in order" },
  };
  g_autofree float *z = g_new0 (float, 2 * S * S);
  g_auto (Picture) out;
  picture_init (&out, NF_PIXELS_GRAY, 2 * S, S, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      const NfCorrections corrections = { cases[i].items, 2 };
      const NfDecodeOptions options = { .snap = TRUE, .corrections = &corrections };
      assert_false (nf_session_decode_frame (session, z, -1, &options, &out.frame, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      if (!strstr (error->message, cases[i].wrong))
        fail_msg ("case %u: %s", i, error->message);
    }
}

/* Frames are taken in tiles of the model's own size. */
static void
test_other_size (void **state)
{
  g_autoptr (GError) error = NULL;
  NfConfig config = random_picture_config (NF_PIXELS_GRAY, S, P, 2);
  config.rope = TRUE;
  config.family = NF_FAMILY_STARFLOW;
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write (path, &config, nf_test_device ("cpu"), 7);
  g_autoptr (NfModel) model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);
  g_auto (Picture) in = { 0 };
  NfGrid grid;
  picture_init (&in, NF_PIXELS_GRAY, 16, 16, FALSE);
  picture_draw (&in, 1);
  g_autofree float *z = encode (session, &in, &grid, NULL, NULL);
  nf_test_ok (nf_session_set_size (session, 2 * S, S, 0, &error), error);
  assert_false (nf_session_encode_frame (session, &in.frame, z, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
  assert_non_null (strstr (error->message, "nf_session_set_size()"));
  g_clear_error (&error);
  assert_false (nf_session_decode_frame (session, z, -1, NULL, &in.frame, &error));
  g_clear_error (&error);
  nf_test_ok (nf_session_set_size (session, S, S, 0, &error), error);
  nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &in.frame, &error), error);
  for (guint i = 0; i < 2; i++)
    assert_refused (nf_session_set_size (session, i * S, (1 - i) * S, 0, &error), &error, NF_ERROR_ARGUMENT,
                    "are empty");
  nf_test_ok (nf_session_decode_frame (session, z, -1, NULL, &in.frame, &error), error);
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    { "there and back, kernels=cpu", test_round_trip, NULL, NULL, (void *)"cpu" },
    { "there and back, kernels=gpu", test_round_trip, NULL, NULL, (void *)"gpu" },
    { "there and back, bfloat16", test_round_trip, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "there and back, bfloat16 by fma()", test_round_trip, NULL, NULL,
      (void *)"cpu,vectors=8,precision=bf16" },
    { "there and back, bfloat16, kernels=gpu", test_round_trip, NULL, NULL, (void *)"gpu,precision=bf16" },
    { "there and back, weights in bfloat16", test_round_trip, NULL, NULL,
      (void *)"cpu,precision=bf16-weights" },
    { "there and back, weights in bfloat16 by fma()", test_round_trip, NULL, NULL,
      (void *)"cpu,vectors=8,precision=bf16-weights" },
    { "there and back, weights in bfloat16, kernels=gpu", test_round_trip, NULL, NULL,
      (void *)"gpu,precision=bf16-weights" },
    { "there and back, weights in integers", test_round_trip, NULL, NULL,
      (void *)"cpu,precision=int8-weights" },
    { "there and back, weights in integers by fma()", test_round_trip, NULL, NULL,
      (void *)"cpu,vectors=8,precision=int8-weights,int8=fma" },
    { "there and back, weights in integers, kernels=gpu", test_round_trip, NULL, NULL,
      (void *)"gpu,precision=int8-weights" },
    { "progress of drafts", test_progress_of_drafts, NULL, NULL, (void *)"cpu" },
    { "drafts, kernels=cpu", test_drafted, NULL, NULL, (void *)"cpu" },
    { "drafts, kernels=gpu", test_drafted, NULL, NULL, (void *)"gpu" },
    { "recalled drafts, kernels=cpu", test_recalled, NULL, NULL, (void *)"cpu" },
    { "recalled drafts, kernels=gpu", test_recalled, NULL, NULL, (void *)"gpu" },
    { "not finite, kernels=cpu", test_not_finite, NULL, NULL, (void *)"cpu" },
    { "not finite, kernels=gpu", test_not_finite, NULL, NULL, (void *)"gpu" },
    { "drafts, bfloat16", test_drafted, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "drafts, weights in bfloat16", test_drafted, NULL, NULL, (void *)"cpu,precision=bf16-weights" },
    { "drafts, weights in integers", test_drafted, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    { "blocks, kernels=cpu", test_blocks, NULL, NULL, (void *)"cpu" },
    { "blocks, kernels=gpu", test_blocks, NULL, NULL, (void *)"gpu" },
    cmocka_unit_test (test_blocks_text),
    { "flying candidates, kernels=cpu", test_flying_candidates, NULL, NULL, (void *)"cpu" },
    { "flying candidates, kernels=gpu", test_flying_candidates, NULL, NULL, (void *)"gpu" },
    { "flying candidates, bfloat16", test_flying_candidates, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "flying candidates, weights in bfloat16", test_flying_candidates, NULL, NULL,
      (void *)"cpu,precision=bf16-weights" },
    { "flying candidates, weights in integers", test_flying_candidates, NULL, NULL,
      (void *)"cpu,precision=int8-weights" },
    { "budget, kernels=cpu", test_budget, NULL, NULL, (void *)"cpu" },
    { "budget, kernels=gpu", test_budget, NULL, NULL, (void *)"gpu" },
    { "budget of batches", test_budget_of_batches, NULL, NULL, (void *)"cpu" },
    { "hints, kernels=cpu", test_hints, NULL, NULL, (void *)"cpu" },
    { "hints, kernels=gpu", test_hints, NULL, NULL, (void *)"gpu" },
    { "kept tiles, kernels=cpu", test_kept_tiles, NULL, NULL, (void *)"cpu" },
    { "kept tiles, kernels=gpu", test_kept_tiles, NULL, NULL, (void *)"gpu" },
    { "kept tiles, bfloat16", test_kept_tiles, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "kept tiles, weights in integers", test_kept_tiles, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    cmocka_unit_test (test_trained_meanwhile),
    { "frames at once, kernels=cpu", test_frames_at_once, NULL, NULL, (void *)"cpu" },
    { "frames at once, kernels=gpu", test_frames_at_once, NULL, NULL, (void *)"gpu" },
    { "frames at once, bfloat16", test_frames_at_once, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "frames at once, weights in integers", test_frames_at_once, NULL, NULL,
      (void *)"cpu,precision=int8-weights" },
    { "bfloat16, kernels=cpu", test_precision, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "bfloat16, kernels=gpu", test_precision, NULL, NULL, (void *)"gpu,precision=bf16" },
    { "weights in bfloat16, kernels=cpu", test_precision, NULL, NULL, (void *)"cpu,precision=bf16-weights" },
    { "weights in bfloat16 by fma()", test_precision, NULL, NULL,
      (void *)"cpu,precision=bf16-weights,bf16=fma" },
    { "weights in bfloat16, kernels=gpu", test_precision, NULL, NULL, (void *)"gpu,precision=bf16-weights" },
    { "weights in integers, kernels=cpu", test_precision, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    { "weights in integers by fma()", test_precision, NULL, NULL,
      (void *)"cpu,precision=int8-weights,int8=fma" },
    { "weights in integers, kernels=gpu", test_precision, NULL, NULL, (void *)"gpu,precision=int8-weights" },
    { "scores, kernels=cpu", test_scores, NULL, NULL, (void *)"cpu" },
    { "scores, kernels=gpu", test_scores, NULL, NULL, (void *)"gpu" },
    { "denoise, kernels=cpu", test_denoise, NULL, NULL, (void *)"cpu" },
    { "denoise, kernels=gpu", test_denoise, NULL, NULL, (void *)"gpu" },
    { "denoised frame, kernels=cpu", test_denoised_frame, NULL, NULL, (void *)"cpu" },
    { "denoised frame, kernels=gpu", test_denoised_frame, NULL, NULL, (void *)"gpu" },
    { "text, kernels=cpu", test_text, NULL, NULL, (void *)"cpu" },
    { "text, kernels=gpu", test_text, NULL, NULL, (void *)"cpu,kernels=gpu" },
    { "memory, f32", test_memory, NULL, NULL, (void *)"cpu" },
    { "memory, bfloat16", test_memory, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "memory, weights in bfloat16", test_memory, NULL, NULL, (void *)"cpu,precision=bf16-weights" },
    { "memory, weights in integers", test_memory, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    cmocka_unit_test (test_loading_tells),
    cmocka_unit_test (test_shared),
    cmocka_unit_test (test_shared_files),
    cmocka_unit_test (test_changed_file),
    cmocka_unit_test (test_failure_forgets),
    cmocka_unit_test (test_interlaced),
    cmocka_unit_test (test_interlaced_without_room),
    cmocka_unit_test (test_planes_apart),
    cmocka_unit_test (test_doubt),
    { "long text", test_long_text, NULL, NULL, (void *)"cpu" },
    { "plain pictures, f32", test_plain, NULL, NULL, (void *)"cpu" },
    { "plain pictures, bfloat16", test_plain, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "a diverged model, f32", test_diverged, NULL, NULL, (void *)"cpu" },
    { "a diverged model, f32, kernels=gpu", test_diverged, NULL, NULL, (void *)"gpu" },
    { "a diverged model, bfloat16", test_diverged, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "a diverged model, weights in integers", test_diverged, NULL, NULL,
      (void *)"cpu,precision=int8-weights" },
    { "corrected tiles", test_corrected_tiles, NULL, NULL, (void *)"cpu" },
    { "corrected tiles, kernels=gpu", test_corrected_tiles, NULL, NULL, (void *)"gpu" },
    { "corrections that are none", test_bad_corrections, NULL, NULL, (void *)"cpu" },
    { "many blocks, bfloat16", test_many_blocks, NULL, NULL, (void *)"cpu,precision=bf16" },
    { "many blocks, bfloat16, kernels=gpu", test_many_blocks, NULL, NULL, (void *)"gpu,precision=bf16" },
    { "many blocks, weights in integers", test_many_blocks, NULL, NULL,
      (void *)"cpu,precision=int8-weights" },
    { "plain pictures, weights in integers", test_plain, NULL, NULL, (void *)"cpu,precision=int8-weights" },
    cmocka_unit_test (test_other_size),
    cmocka_unit_test (test_bad_text),
    cmocka_unit_test (test_refused_text),
    cmocka_unit_test (test_refused_actions),
    cmocka_unit_test (test_one_hot),
    cmocka_unit_test (test_upside_down),
    cmocka_unit_test (test_tiles),
    cmocka_unit_test (test_padding_costs),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_cancel),
    { "cancel in the middle, lists", test_cancel_in_the_middle, NULL, NULL, (void *)"cpu" },
    { "cancel in the middle, each", test_cancel_in_the_middle, NULL, NULL, (void *)"cpu,launch=each" },
    cmocka_unit_test (test_wide_tokens),
    cmocka_unit_test (test_threads),
    cmocka_unit_test (test_stats),
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("session", tests, NULL, NULL);
}
