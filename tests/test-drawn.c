/* normflow: what is drawn from models of Gaussian noise, and whole videos. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "stream-fixture.h"

#include <math.h>
#include <stdlib.h>

#define B 3
#define SIDE 16

static NfConfig
picture_config (NfNoise noise)
{
  NfConfig config = random_picture_config (NF_PIXELS_RGB, SIDE, 4, 3);
  config.n_classes = 2;
  config.noise = noise;
  config.noise_std = 0.3;
  return config;
}

/* Of weights that leave samples near the unit's size, whatever is drawn. */
static NfModel *
calm_model (const NfConfig *config, const char *kernels)
{
  return model_new_scaled (config, kernels, 0.02);
}

static float *
draw (guint64 seed, gsize n)
{
  float *z = g_new (float, n);
  nf_random_normal (seed, 0, n, 1, z);
  return z;
}

static void
assert_near (const float *a, const float *b, gsize n)
{
  for (gsize i = 0; i < n; i++)
    if (!(fabsf (a[i] - b[i]) <= 2e-5f * (1 + fabsf (b[i]))))
      fail_msg ("value %" G_GSIZE_FORMAT ": %.8g and %.8g", i, (double)a[i], (double)b[i]);
}

static gsize
count_other (const float *a, const float *b, gsize n)
{
  gsize other = 0;
  for (gsize i = 0; i < n; i++)
    other += a[i] != b[i];
  return other;
}

/* Tokens that are drawn lose their noise by the step of nf_session_denoise(), each under its own class. */
static void
test_drawn_tokens (void **state)
{
  g_autoptr (GError) error = NULL;
  const NfConfig config = picture_config (NF_NOISE_GAUSSIAN);
  g_autoptr (NfModel) model = calm_model (&config, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const gsize n = B * SIDE * SIDE * 3;
  const gint labels[B] = { 0, -1, 1 };
  NfDecodeOptions options = { .guidance = 1.5, .drawn = TRUE };
  g_autofree float *z = draw (1, n), *x = g_new (float, n), *noisy = g_new (float, n),
                   *clean = g_new (float, n);

  nf_test_ok (nf_session_decode (session, z, B, labels, &options, x, &error), error);
  options.drawn = FALSE;
  nf_test_ok (nf_session_decode (session, z, B, labels, &options, noisy, &error), error);
  nf_test_ok (nf_session_denoise (session, noisy, B, labels, config.noise_std, clean, &error), error);
  assert_near (x, clean, n);
  assert_true (count_other (x, noisy, n) > n / 2);

  options = (NfDecodeOptions){ .guidance = 1.5, .drawn = TRUE, .denoise = NF_DENOISE_NONE };
  nf_test_ok (nf_session_decode (session, z, B, labels, &options, x, &error), error);
  assert_memory_equal (x, noisy, n * sizeof *x);
  options.denoise = NF_DENOISE_LEARNED;
  assert_false (nf_session_decode (session, z, B, labels, &options, x, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
}

/* FLOATS (SIDE·tiles wide) against 8-bit samples of one tile: within one step, and mostly the same. */
static void
check_tile (const NfConfig *config, const float *tokens, const guint8 *samples, gsize stride)
{
  const gsize n = 3 * SIDE * SIDE;
  g_autofree float *image = g_new (float, n);
  guint other = 0;
  nf_unpatchify (config, tokens, 1, image);
  for (gsize i = 0; i < n; i++)
    {
      const gsize c = i / (SIDE * SIDE), y = i / SIDE % SIDE, x = i % SIDE;
      const float wanted = fminf (fmaxf (rintf ((image[i] + 1) * 127.5f), 0), 255);
      const float is = samples[c * stride * SIDE + y * stride + x];
      assert_true (fabsf (is - wanted) <= 1);
      other += is != wanted;
    }
  assert_true (other < n / 100);
}

static NfFrame
frame_of (guint8 *samples, guint width, guint height)
{
  NfFrame frame = { .width = width, .height = height };
  for (guint i = 0; i < 3; i++)
    frame.planes[i] = (NfPlane){ samples + (gsize)i * width * height, (gint)width, 1 };
  return frame;
}

static void
check_pictures (NfModel *model)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = nf_test_session (model);
  const gsize n = 3 * SIDE * SIDE;
  const gint label = 1;
  const NfDecodeOptions options = { .snap = TRUE, .drawn = TRUE }, lossless = { .snap = TRUE };
  guint8 samples[2 * 3 * SIDE * SIDE], again[2 * 3 * SIDE * SIDE];
  const NfFrame frame = frame_of (samples, 2 * SIDE, SIDE), second = frame_of (again, 2 * SIDE, SIDE);
  g_autofree float *z = draw (2, 2 * n), *grid = g_new (float, 2 * n), *x = g_new (float, 2 * n);
  const gint both[2] = { label, label };

  /* tiles side by side: rows of a grid */
  for (guint tile = 0; tile < 2; tile++)
    for (guint row = 0; row < SIDE / 4; row++)
      memcpy (grid + (row * 2 + tile) * 4 * 48, z + tile * n + row * 4 * 48, 4 * 48 * sizeof *grid);
  nf_test_ok (nf_session_decode_frame (session, grid, label, &options, &frame, &error), error);
  nf_test_ok (nf_session_decode (session, z, 2, both, &options, x, &error), error);
  for (guint tile = 0; tile < 2; tile++)
    check_tile (nf_model_get_config (model), x + tile * n, samples + tile * SIDE, 2 * SIDE);

  /* a frame that the session has shown is not one that was drawn */
  nf_test_ok (nf_session_decode_frame (session, grid, label, &lossless, &second, &error), error);
  assert_memory_not_equal (samples, again, sizeof samples);
}

/* Pictures that are drawn are those tokens, rounded once, after the last was found; their noise is that of
 * the label's model. Many values of the model of uniform noise lie beyond white and black. */
static void
test_drawn_pictures (void **state)
{
  const NfConfig configs[] = { picture_config (NF_NOISE_GAUSSIAN), picture_config (NF_NOISE_UNIFORM) };
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_autoptr (NfModel) model = model_new_scaled (&configs[i], *state, i ? 0.1 : 0.02);
      check_pictures (model);
    }
}

static NfConfig
video_config (guint denoiser_layers)
{
  NfConfig config = random_video_config ();
  config.action_dim = 0;
  config.noise = NF_NOISE_GAUSSIAN;
  config.noise_std = 0.3;
  config.denoiser_layers = denoiser_layers;
  config.temporal_causal = 2;
  return config;
}

/* Videos lose their noise by the learned denoiser, or by score without one; so do given frames that they
 * continue. */
static void
test_drawn_videos (void **state)
{
  for (guint layers = 0; layers < 2; layers++)
    {
      g_autoptr (GError) error = NULL;
      NfConfig config = video_config (layers);
      config.width = 64; /* a denoiser as wide as a token */
      g_autoptr (NfModel) model = calm_model (&config, *state);
      g_autoptr (NfSession) session = nf_test_session (model);
      const gsize n = FRAMES * WIDTH * HEIGHT * 3;
      const NfDecodeOptions drawn = { .drawn = TRUE };
      g_autofree float *z = draw (3, 2 * n), *x = g_new (float, 2 * n), *noisy = g_new (float, 2 * n),
                       *clean = g_new (float, 2 * n);

      for (guint given = 0; given < 3; given += 2)
        {
          g_autofree float *past = draw (4, 2 * n);
          if (given)
            {
              nf_test_ok (nf_session_continue (session, past, 2, given, z, &drawn, x, &error), error);
              nf_test_ok (nf_session_continue (session, past, 2, given, z, NULL, noisy, &error), error);
              for (guint b = 0; b < 2; b++)
                assert_memory_equal (noisy + b * n, past + b * n, n / FRAMES * given * sizeof *noisy);
            }
          else
            {
              nf_test_ok (nf_session_decode (session, z, 2, NULL, &drawn, x, &error), error);
              nf_test_ok (nf_session_decode (session, z, 2, NULL, NULL, noisy, &error), error);
            }
          if (layers)
            nf_test_ok (nf_session_denoise_learned (session, noisy, 2, config.noise_std, 0, clean, &error),
                        error);
          else
            nf_test_ok (nf_session_denoise (session, noisy, 2, NULL, config.noise_std, clean, &error), error);
          assert_near (x, clean, 2 * n);
          assert_true (count_other (x, noisy, 2 * n) > n);
        }
      x[5] = (float)NAN;
      assert_false (nf_session_continue (session, x, 2, 1, z, NULL, noisy, &error));
      assert_non_null (strstr (error->message, "given"));
      g_clear_error (&error);

      /* what is finite, but overflows on its way, is told */
      for (gsize i = 0; i < n / FRAMES; i++)
        x[i] = G_MAXFLOAT;
      assert_false (nf_session_continue (session, x, 2, 1, z, NULL, noisy, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      assert_non_null (strstr (error->message, "decoded tokens"));
    }
}

/* So do images whose model has a denoiser, each under its own text. */
static void
test_drawn_images (void **state)
{
  g_autoptr (GError) error = NULL;
  NfConfig config = video_config (1);
  config.frames = 0;
  config.width = 64;
  config.denoiser_text = TRUE;
  random_config_see_text (&config, TRUE);
  g_autoptr (NfModel) model = calm_model (&config, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const NfDecodeOptions drawn = { .drawn = TRUE };
  const gsize one = RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES;
  g_autofree float *z = draw (3, B * BYTES), *x = g_new (float, B *BYTES), *noisy = g_new (float, B *BYTES),
                   *clean = g_new (float, B *BYTES), *text = draw (7, B * one);

  nf_test_ok (nf_session_set_text (session, text, NULL, B, &error), error);
  nf_test_ok (nf_session_decode (session, z, B, NULL, &drawn, x, &error), error);
  nf_test_ok (nf_session_decode (session, z, B, NULL, NULL, noisy, &error), error);
  for (guint b = 0; b < B; b++)
    {
      nf_test_ok (nf_session_set_text (session, text + b * one, NULL, 1, &error), error);
      nf_test_ok (nf_session_denoise_learned (session, noisy + b * BYTES, 1, config.noise_std, 0,
                                              clean + b * BYTES, &error),
                  error);
    }
  assert_near (x, clean, B * BYTES);
  assert_true (count_other (x, noisy, B * BYTES) > BYTES);
}

/* Tokens of a whole video become the pixels that a stream decodes. */
static void
test_shown_videos (void **state)
{
  g_autoptr (GError) error = NULL;
  NfConfig config = random_video_config ();
  config.action_dim = 0;
  g_autoptr (NfModel) model = calm_model (&config, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  g_autoptr (NfStream) stream = nf_stream_new (model, &error);
  nf_test_ok (stream, error);
  const gsize n = FRAMES * WIDTH * HEIGHT * 3;
  guint8 streamed[FRAMES][BYTES], shown[FRAMES][BYTES], samples[BYTES];
  NfFrame frames[FRAMES];
  g_autofree float *z = g_new (float, n), *x = g_new (float, n);

  for (guint f = 0; f < FRAMES; f++)
    {
      const NfFrame in = frame_of (samples, WIDTH, HEIGHT), out = frame_of (streamed[f], WIDTH, HEIGHT);
      fill (samples, f);
      frames[f] = frame_of (shown[f], WIDTH, HEIGHT);
      nf_test_ok (nf_stream_encode (stream, &in, NULL, z + f * BYTES, NULL, NULL, &error), error);
      memcpy (out.planes[0].data, samples, BYTES);
    }
  nf_test_ok (nf_session_decode (session, z, 1, NULL, NULL, x, &error), error);
  nf_test_ok (nf_session_show_video (session, x, frames, &error), error);
  assert_memory_equal (shown, streamed, sizeof shown);

  frames[1].width -= 4;
  assert_false (nf_session_show_video (session, x, frames, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  const NfConfig picture = picture_config (NF_NOISE_UNIFORM);
  g_autoptr (NfModel) of_pictures = model_new (&picture, *state);
  g_autoptr (NfSession) other = nf_test_session (of_pictures);
  assert_false (nf_session_show_video (other, x, frames, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
}

/* COUNT frames of each of two videos, from places of videos of so many frames. */
static void
take (const float *from, guint from_frames, guint from_place, float *to, guint to_frames, guint to_place,
      guint count)
{
  const gsize frame = WIDTH * HEIGHT * 3;
  for (guint b = 0; b < 2; b++)
    memcpy (to + (b * to_frames + to_place) * frame, from + (b * from_frames + from_place) * frame,
            count * frame * sizeof *to);
}

/* Videos that are longer than a sample: each window continues the one before, and frames lose their noise
 * with what the denoiser is to see of later ones. */
static void
test_long_videos (void **state)
{
  enum
  {
    CONTEXT = 3,
    ALL = 2 * FRAMES - CONTEXT + 2, /* two whole windows, and two frames in a third */
    FRAME = WIDTH * HEIGHT * 3
  };
  for (guint i = 0; i < 8; i++)
    {
      g_autoptr (GError) error = NULL;
      const guint given = i % 2 ? 2 : 0, layers = i / 2 % 2, ahead = layers ? 1 : 0;
      const gboolean whole = i >= 4; /* windows have learned positions, the last one, too */
      NfConfig config = video_config (layers);
      config.width = 64;
      config.frame_positions = whole;
      g_autoptr (NfModel) model = calm_model (&config, *state);
      g_autoptr (NfSession) session = nf_test_session (model);
      NfDecodeOptions options = { .method = NF_DECODE_SEQUENTIAL };
      g_autofree float *z = draw (5, 2 * ALL * FRAME), *past = draw (6, 2 * ALL * FRAME),
                       *noisy = g_new (float, 2 * ALL * FRAME), *clean = g_new (float, 2 * ALL * FRAME),
                       *wanted = g_new (float, 2 * ALL * FRAME), *x = g_new0 (float, 2 * FRAMES * FRAME),
                       *y = g_new (float, 2 * FRAMES * FRAME), *part = g_new (float, 2 * FRAMES * FRAME);
      const float *known = given ? past : NULL;
      nf_test_ok (nf_session_roll (session, known, 2, given, ALL, CONTEXT, z, &options, noisy, &error),
                  error);
      options.drawn = TRUE;
      nf_test_ok (nf_session_roll (session, known, 2, given, ALL, CONTEXT, z, &options, clean, &error),
                  error);
      options.drawn = FALSE;
      for (guint start = 0, first = given, step; start < ALL; start += step)
        {
          const guint count = MIN (FRAMES, ALL - start), left = ALL - start - count,
                      /* with what is before it, and all it is to see */
              from = start ? first - ahead : 0, end = left ? count - ahead : count;
          nf_test_ok (nf_session_set_size (session, HEIGHT, WIDTH, count, &error), error);
          take (z, ALL, start, part, count, 0, count);
          take (start ? noisy : past, ALL, start, x, count, 0, first);
          if (first)
            nf_test_ok (nf_session_continue (session, x, 2, first, part, &options, y, &error), error);
          else
            nf_test_ok (nf_session_decode (session, part, 2, NULL, &options, y, &error), error);
          take (noisy, ALL, start, part, count, 0, count);
          assert_near (part, y, (gsize)2 * count * FRAME);
          if (layers)
            nf_test_ok (nf_session_denoise_learned (session, part, 2, config.noise_std, 0, y, &error), error);
          else
            nf_test_ok (nf_session_denoise (session, part, 2, NULL, config.noise_std, y, &error), error);
          take (y, count, from, wanted, ALL, start + from, end - from);
          step = left ? MIN (FRAMES - CONTEXT, whole ? left : FRAMES) : count;
          first = count - step;
        }
      assert_near (clean, wanted, (gsize)2 * ALL * FRAME);
      assert_true (count_other (clean, noisy, (gsize)2 * ALL * FRAME) > ALL * FRAME);
      /* what does not fit */
      nf_test_ok (nf_session_set_size (session, HEIGHT, WIDTH, FRAMES, &error), error);
      assert_false (nf_session_roll (session, known, 2, given, ALL, FRAMES, z, &options, noisy, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      g_clear_error (&error);
      assert_false (nf_session_roll (session, past, 2, FRAMES, ALL, 1, z, &options, noisy, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      g_clear_error (&error);
      if (whole)
        {
          assert_false (nf_session_roll (session, NULL, 2, 0, FRAMES - 1, 1, z, &options, noisy, &error));
          assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
          continue;
        }
      /* one that fits a window is one */
      nf_test_ok (nf_session_roll (session, NULL, 2, 0, FRAMES - 1, 1, z, &options, noisy, &error), error);
      nf_test_ok (nf_session_set_size (session, HEIGHT, WIDTH, FRAMES - 1, &error), error);
      nf_test_ok (nf_session_decode (session, z, 2, NULL, &options, y, &error), error);
      assert_near (noisy, y, (gsize)2 * (FRAMES - 1) * FRAME);
    }
}

/* A budget is for all windows of a video, not for each. */
static void
test_budget_of_windows (void **state)
{
  enum
  {
    WINDOWS = 6,
    ALL = WINDOWS * (FRAMES - 1) + 1,
    FRAME = WIDTH * HEIGHT * 3
  };
  g_autoptr (GError) error = NULL;
  const NfConfig config = video_config (0);
  g_autoptr (NfModel) model = calm_model (&config, *state);
  NfDecodeOptions options = { .method = NF_DECODE_JACOBI, .max_sweeps = 4 };
  NfDecodeReport reports[2];
  g_autofree float *z = draw (5, ALL * FRAME), *y = g_new (float, ALL *FRAME);
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (NfSession) session = nf_test_session (model);
      guint ms = i ? 200 : 0; /* at the first window, more than all may take */
      nf_session_set_progress (session, nf_test_linger, &ms);
      options.budget_ms = i ? 100 : 0;
      nf_test_ok (nf_session_roll (session, NULL, 1, 0, ALL, 1, z, &options, y, &error), error);
      nf_session_get_decode_report (session, &reports[i]);
    }
  assert_true (reports[1].passes < reports[0].passes * 3 / 4);
}

/* What a stream shows of a frame that it draws under a text is what a session draws of it, whose only frame
 * it is. */
static void
test_drawn_streams (void **state)
{
  for (guint i = 0; i < 4; i++)
    {
      g_autoptr (GError) error = NULL;
      const gboolean top_only = i % 2;
      const NfDenoise denoise = i < 2 ? NF_DENOISE_SCORE : NF_DENOISE_LEARNED;
      NfConfig config = video_config (1);
      config.frames = 1;
      config.denoiser_text = TRUE;
      random_config_see_text (&config, top_only);
      g_autoptr (NfModel) model = model_new (&config, *state);
      g_autoptr (NfSession) session = nf_test_session (model);
      g_autoptr (NfStream) stream = nf_stream_new (model, &error);
      nf_test_ok (stream, error);
      const NfDecodeOptions drawn = { .drawn = TRUE, .denoise = denoise };
      g_autofree float *z = g_new (float, BYTES), *x = g_new (float, BYTES),
                       *text = draw (7, RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES);
      guint8 whole[BYTES], shown[BYTES];
      const NfFrame frames[] = { frame_of (whole, WIDTH, HEIGHT), frame_of (shown, WIDTH, HEIGHT) };
      guint other = 0;

      nf_random_normal (9, 0, BYTES, 1, z);
      nf_test_ok (nf_session_set_text (session, text, NULL, 1, &error), error);
      nf_test_ok (nf_stream_set_text (stream, text, 1, &error), error);
      nf_test_ok (nf_stream_set_denoise (stream, denoise, &error), error);
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &drawn, x, &error), error);
      nf_test_ok (nf_session_show_video (session, x, &frames[0], &error), error);
      nf_test_ok (nf_stream_decode (stream, z, NULL, TRUE, NULL, &frames[1], &error), error);
      assert_true (nf_stream_is_shown (stream));
      for (guint s = 0; s < BYTES; s++)
        {
          other += whole[s] != shown[s];
          assert_true (abs (whole[s] - shown[s]) <= 1);
        }
      assert_true (other < BYTES / 50);
    }
}

/* What is finite, but no number any more on its way through the model, is told, not given. */
static void
test_overflow (void **state)
{
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = calm_model (&config, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const gsize n = nf_config_tile_bytes (&config);
  g_autofree float *z = draw (1, n), *x = g_new (float, n);
  float text[RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES];
  for (guint i = 0; i < G_N_ELEMENTS (text); i++)
    text[i] = G_MAXFLOAT;
  nf_test_ok (nf_session_set_text (session, text, NULL, 1, &error), error);
  assert_false (nf_session_decode (session, z, 1, NULL, NULL, x, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
  assert_non_null (strstr (error->message, "decoded tokens"));
}

/* Where nothing moves, what a token was in the frame before is what it is: windows that do not begin where
 * frames do settle at once, too. */
static void
test_frame_guess (void **state)
{
  NfConfig config = random_video_config ();
  config.action_dim = 0; /* with actions no window holds tokens of two frames */
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = model_new (&config, *state);
  g_autoptr (NfSession) session = nf_test_session (model);
  const guint tokens = nf_config_tokens (&config);
  const gsize frame = (gsize)tokens * nf_config_features (&config), n = frame * config.frames;
  g_autofree float *still = draw (5, frame), *x = g_new (float, n), *z = g_new (float, n),
                   *one_by_one = g_new (float, n);
  for (guint f = 0; f < config.frames; f++)
    memcpy (x + f * frame, still, frame * sizeof *x);
  nf_test_ok (nf_session_encode (session, x, 1, NULL, z, NULL, NULL, &error), error);
  NfDecodeOptions options = { .method = NF_DECODE_SEQUENTIAL };
  nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, one_by_one, &error), error);

  for (guint window = tokens - 2; window <= 2 * tokens + 1; window++)
    {
      NfDecodeReport latent, before;
      options = (NfDecodeOptions){ .method = NF_DECODE_JACOBI, .window = window };
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, x, &error), error);
      assert_memory_equal (x, one_by_one, n * sizeof *x);
      options.guess = NF_GUESS_FRAME;
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, x, &error), error);
      assert_memory_equal (x, one_by_one, n * sizeof *x);

      options.tolerance = 1e-3;
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, x, &error), error);
      nf_session_get_decode_report (session, &before);
      options.guess = NF_GUESS_LATENT;
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, x, &error), error);
      nf_session_get_decode_report (session, &latent);
      if (before.passes + config.frames > latent.passes)
        fail_msg ("windows of %u tokens: %" G_GUINT64_FORMAT " passes, %" G_GUINT64_FORMAT " from latents",
                  window, before.passes, latent.passes);
    }
}

static void
assert_named (gboolean done, GError **error, const char *what, const char *path)
{
  g_autofree char *begin = g_strconcat (what, " are not finite: ", NULL);
  assert_false (done);
  assert_true (g_error_matches (*error, NF_ERROR, NF_ERROR_DATA));
  if (!g_str_has_prefix ((*error)->message, begin) || !strstr ((*error)->message, path))
    fail_msg ("%s", (*error)->message);
  g_clear_error (error);
}

/* What a damaged model makes of tokens is an error that names it. */
static void
test_damaged_model (void **state)
{
  g_autoptr (GError) error = NULL;
  NfConfig config = video_config (1);
  config.width = 64;
  const gsize n = FRAMES * WIDTH * HEIGHT * 3;
  g_autofree float *z = draw (3, n), *x = draw (4, n), *y = g_new (float, n);
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write_damaged (path, &config, nf_test_device ("cpu"));
  g_autoptr (NfModel) model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (model, error);
  g_autoptr (NfSession) session = nf_test_session (model);

  assert_named (nf_session_decode (session, z, 1, NULL, NULL, y, &error), &error, "decoded tokens", path);
  assert_named (nf_session_continue (session, x, 1, 1, z, NULL, y, &error), &error, "decoded tokens", path);
  assert_named (nf_session_denoise (session, x, 1, NULL, config.noise_std, y, &error), &error,
                "denoised tokens", path);
  assert_named (nf_session_predict_noise (session, x, 1, y, &error), &error, "the denoiser's values", path);
  assert_named (nf_session_denoise_learned (session, x, 1, config.noise_std, 0, y, &error), &error,
                "the denoiser's values", path);
}

/* What is wrong with tokens that are given is not said of the model. */
static void
test_given_tokens (void **state)
{
  static const char text[] = "tokens: value 5 is nan";
  g_autoptr (GError) error = NULL;
  NfConfig config = video_config (1);
  const gsize n = FRAMES * WIDTH * HEIGHT * 3;
  g_autofree float *x = draw (4, n), *y = g_new (float, n);
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfSession) session = nf_test_session (model);

  x[5] = NAN;
  for (guint i = 0; i < 4; i++)
    {
      assert_false (i == 0   ? nf_session_denoise (session, x, 1, NULL, config.noise_std, y, &error)
                    : i == 1 ? nf_session_predict_noise (session, x, 1, y, &error)
                    : i == 2 ? nf_session_denoise_learned (session, x, 1, config.noise_std, 0, y, &error)
                             : nf_session_encode (session, x, 1, NULL, y, NULL, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      if (!g_str_has_prefix (error->message, text))
        fail_msg ("call %u: %s", i, error->message);
      g_clear_error (&error);
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    { "drawn tokens, kernels=cpu", test_drawn_tokens, NULL, NULL, (void *)"cpu" },
    { "drawn tokens, kernels=gpu", test_drawn_tokens, NULL, NULL, (void *)"gpu" },
    { "drawn pictures, kernels=cpu", test_drawn_pictures, NULL, NULL, (void *)"cpu" },
    { "drawn pictures, kernels=gpu", test_drawn_pictures, NULL, NULL, (void *)"gpu" },
    { "overflow, kernels=cpu", test_overflow, NULL, NULL, (void *)"cpu" },
    { "overflow, kernels=gpu", test_overflow, NULL, NULL, (void *)"gpu" },
    { "drawn videos, kernels=cpu", test_drawn_videos, NULL, NULL, (void *)"cpu" },
    { "drawn videos, kernels=gpu", test_drawn_videos, NULL, NULL, (void *)"gpu" },
    { "drawn images, kernels=cpu", test_drawn_images, NULL, NULL, (void *)"cpu" },
    { "drawn images, kernels=gpu", test_drawn_images, NULL, NULL, (void *)"gpu" },
    { "long videos, kernels=cpu", test_long_videos, NULL, NULL, (void *)"cpu" },
    { "long videos, kernels=gpu", test_long_videos, NULL, NULL, (void *)"gpu" },
    { "guess of frames", test_frame_guess, NULL, NULL, (void *)"cpu" },
    { "budget of windows", test_budget_of_windows, NULL, NULL, (void *)"cpu" },
    { "drawn streams, kernels=cpu", test_drawn_streams, NULL, NULL, (void *)"cpu" },
    { "drawn streams, kernels=gpu", test_drawn_streams, NULL, NULL, (void *)"gpu" },
    { "shown videos, kernels=cpu", test_shown_videos, NULL, NULL, (void *)"cpu" },
    { "shown videos, kernels=gpu", test_shown_videos, NULL, NULL, (void *)"gpu" },
    { "damaged model", test_damaged_model, NULL, NULL, NULL },
    { "given tokens", test_given_tokens, NULL, NULL, NULL },
  };
  return cmocka_run_group_tests_name ("drawn", tests, NULL, NULL);
}
