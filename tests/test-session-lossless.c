/* normflow: pictures that are hard to get back in every byte. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session-fixture.h"

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

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_doubt),
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
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("session-lossless", tests, NULL, NULL);
}
