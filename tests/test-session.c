/* normflow: 8-bit frames through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session-fixture.h"

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

/* There and back */

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

/* Scores */

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

/* Cancelling, and threads */

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

/* Times */

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

/* Frames in memory */

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
    cmocka_unit_test (test_interlaced),
    cmocka_unit_test (test_interlaced_without_room),
    cmocka_unit_test (test_planes_apart),
    cmocka_unit_test (test_other_size),
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
