/* normflow: the ways in which sessions decode. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session-fixture.h"

#include "nf-device-private.h"
#include "nf-hints.h"

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

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
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
    cmocka_unit_test (test_failure_forgets),
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("session-decode", tests, NULL, NULL);
}
