/* normflow: streams of models of Gaussian noise. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream-fixture.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define SIGMA 0.1
#define NOISE_SEED 0x65736961u /* what streams draw the noise of frames from: part of the format */

/* Of a model of noisy videos; LAYERS of its denoiser, 0 for none. */
static NfConfig
noisy_config (guint layers)
{
  NfConfig config = random_video_config ();
  config.noise = NF_NOISE_GAUSSIAN;
  config.noise_std = SIGMA;
  config.denoiser_layers = layers;
  config.width = 64; /* no fewer features than a token has values: such a denoiser is asked */
  config.denoiser_frames = layers > 1 ? 3 : 0;
  return config;
}

static NfStream *
stream_new (NfModel *model, guint B)
{
  g_autoptr (GError) error = NULL;
  NfStream *stream = nf_stream_new_batch (model, B, &error);
  nf_test_ok (stream, error);
  return stream;
}

/* RGB, or planes of yuv420 in the same memory. */
static NfFrame
view (guint8 *samples, NfPixelLayout layout)
{
  NfFrame frame = { .width = WIDTH, .height = HEIGHT };
  for (guint i = 0; i < 3; i++)
    frame.planes[i] = layout == NF_PIXELS_RGB ? (NfPlane){ samples + i, 3 * WIDTH, 3 }
                      : i == 0                ? (NfPlane){ samples, WIDTH, 1 }
                                              : (NfPlane){ samples + i * WIDTH * HEIGHT, WIDTH / 2, 1 };
  return frame;
}

static NfPixelLayout
layout_of (NfStream *stream)
{
  return nf_model_get_config (nf_stream_get_model (stream))->layout;
}

static void
encode (NfStream *stream, guint8 *samples, guint n, float *z, NfScore *score, float *map)
{
  g_autoptr (GError) error = NULL;
  const NfFrame frame = view (samples, layout_of (stream));
  nf_test_ok (nf_stream_encode (stream, &frame, action_of (n), z, score, map, &error), error);
}

static void
decode (NfStream *stream, const float *z, guint n, gboolean drawn, const NfDecodeOptions *options,
        guint8 *samples)
{
  g_autoptr (GError) error = NULL;
  const NfFrame frame = view (samples, layout_of (stream));
  nf_test_ok (nf_stream_decode (stream, z, action_of (n), drawn, options, &frame, &error), error);
}

/* Real frames come back in every byte, far beyond the window; a receiver that came at a key frame remembers
 * the same. */
static void
check_lossless (const NfConfig *config, const char *kernels, guint length)
{
  enum
  {
    KEY = 13
  };
  static const NfDecodeOptions ways[] = {
    { .snap = TRUE },
    { .snap = TRUE, .method = NF_DECODE_SEQUENTIAL },
    { .snap = TRUE, .method = NF_DECODE_JACOBI, .guess = NF_GUESS_FRAME, .window = 4 },
  };
  g_autoptr (NfModel) model = model_new (config, kernels);
  g_autoptr (NfStream) encoder = stream_new (model, 1);
  g_autoptr (NfStream) decoder = stream_new (model, 1);
  g_autoptr (NfStream) late = stream_new (model, 1);
  const gsize n = nf_stream_count_latents (encoder),
              bytes = config->layout == NF_PIXELS_RGB ? BYTES : WIDTH * HEIGHT * 5 / 4;
  g_autofree float *z = g_new (float, n), *again = g_new (float, n);
  guint8 samples[BYTES], decoded[BYTES];

  for (guint f = 0; f < length; f++)
    {
      if (f % KEY == 0)
        {
          nf_stream_reset (encoder);
          nf_stream_reset (decoder);
          nf_stream_reset (late);
        }
      fill (samples, f);
      /* planes of yuv420 are wider apart than their samples */
      encode (encoder, samples, f, z, NULL, NULL);
      memcpy (decoded, samples, sizeof decoded);
      for (gsize i = 0; i < bytes; i++)
        decoded[i] ^= 255;
      decode (decoder, z, f, FALSE, &ways[f / 3 % G_N_ELEMENTS (ways)], decoded);
      assert_memory_equal (samples, decoded, bytes);
      if (f >= KEY)
        decode (late, z, f, FALSE, NULL, decoded);
      assert_memory_equal (samples, decoded, bytes);
    }
  NfScore scores[3];
  NfStream *const streams[] = { encoder, decoder, late };
  fill (samples, length);
  for (guint i = 0; i < G_N_ELEMENTS (streams); i++)
    {
      encode (streams[i], samples, length, i ? again : z, &scores[i], NULL);
      if (i)
        assert_memory_equal (z, again, n * sizeof *z);
      assert_memory_equal (&scores[0], &scores[i], sizeof scores[0]);
    }
}

static void
test_lossless (void **state)
{
  for (guint layers = 0; layers < 3; layers++)
    {
      const NfConfig config = noisy_config (layers);
      check_lossless (&config, "cpu", 40);
    }
  NfConfig config = noisy_config (1);
  check_lossless (&config, "gpu", 16);
  check_lossless (&config, "cpu,precision=bf16", 40);
  config.basis = NF_BASIS_DCT;
  config.layout = NF_PIXELS_YUV420;
  check_lossless (&config, "cpu", 40);
}

/* The tokens of a frame as they are remembered. */
static void
noisy_tokens (const NfConfig *config, const guint8 *samples, guint n, float *y)
{
  float image[BYTES], noise[BYTES];
  for (guint c = 0; c < 3; c++)
    for (guint i = 0; i < WIDTH * HEIGHT; i++)
      image[c * WIDTH * HEIGHT + i] = samples[i * 3 + c] * (2.0f / 255.0f) - 1;
  nf_patchify (config, image, 1, y);
  nf_random_normal (NOISE_SEED, n, BYTES, SIGMA, noise);
  for (guint i = 0; i < BYTES; i++)
    y[i] = rintf ((y[i] + noise[i]) * 4096) / 4096;
}

/* A score is that of the noisy frame less that of its noise, and the sum of its map. */
static void
test_scores (void **state)
{
  g_autoptr (GError) error = NULL;
  const NfConfig config = noisy_config (0);
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model, 1);
  g_autoptr (NfSession) session = nf_test_session (model);
  const guint N = nf_config_tokens (&config), D = nf_config_features (&config);
  g_autofree float *y = g_new (float, FRAMES *BYTES), *whole = g_new (float, FRAMES *BYTES),
                   *log_det = g_new (float, FRAMES *N), *z = g_new (float, BYTES), *map = g_new (float, N);
  float actions[FRAMES][ACTIONS] = { 0 }, noise[BYTES];
  guint8 samples[BYTES];

  for (guint f = 0; f < FRAMES; f++)
    {
      fill (samples, f);
      noisy_tokens (&config, samples, f, y + (gsize)f * BYTES);
      if (action_of (f))
        memcpy (actions[f], action_of (f), sizeof actions[f]);
    }
  nf_test_ok (nf_session_set_actions (session, actions[0], 1, &error), error);
  nf_test_ok (nf_session_encode (session, y, 1, NULL, whole, NULL, log_det, &error), error);
  for (guint f = 0; f < FRAMES; f++)
    {
      NfScore score;
      double nats = 0, mapped = 0;
      fill (samples, f);
      encode (stream, samples, f, z, &score, map);
      g_autofree double *wanted = nf_test_to_double (whole + (gsize)f * BYTES, BYTES);
      /* values between blocks of a stream lie on lattices */
      nf_test_close_float ("latents", z, wanted, BYTES, 1e-5);
      nf_random_normal (NOISE_SEED, f, BYTES, 1, noise);
      for (guint i = 0; i < BYTES; i++)
        nats += ((double)z[i] * (double)z[i] - (double)noise[i] * (double)noise[i]) / 2 - log (SIGMA);
      for (guint i = 0; i < N; i++)
        {
          nats -= (double)log_det[f * N + i];
          mapped += (double)map[i] * D;
        }
      if (fabs (nats + score.log_likelihood) > 1e-5 * fabs (nats) + 1e-3)
        fail_msg ("frame %u: %g nats, should be %g", f, -score.log_likelihood, nats);
      assert_true (fabs (score.bits_per_dim * BYTES * G_LN2 - nats) < 1e-5 * fabs (nats) + 1e-3);
      assert_true (fabs (mapped / BYTES - score.bits_per_dim) < 1e-5);
    }
}

/* Real frames, then drawn ones: what is drawn and what is shown, against the library's videos in one piece.
 * Each window anew is such a piece. TEXT: the flow and its denoiser see one. */
static void
check_drawn (guint layers, guint look_ahead, gboolean text)
{
  enum
  {
    REAL = 3,
    LENGTH = 4 * FRAMES
  };
  g_autoptr (GError) error = NULL;
  NfConfig config = noisy_config (layers);
  config.temporal_causal = look_ahead + 1;
  if (text)
    random_config_see_text (&config, TRUE);
  config.denoiser_text = text;
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model, 1);
  g_autoptr (NfSession) session = nf_test_session (model);
  float features[RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES];
  nf_random_normal (11, 0, G_N_ELEMENTS (features), 1, features);
  nf_test_ok (!text || nf_stream_set_text (stream, features, 1, &error), error);
  nf_test_ok (!text || nf_session_set_text (session, features, NULL, 1, &error), error);
  const guint context = nf_stream_get_context (stream);
  assert_int_equal (nf_stream_get_look_ahead (stream), look_ahead);
  g_autofree float *y = g_new0 (float, LENGTH *BYTES), *z = g_new0 (float, LENGTH *BYTES),
                   *clean = g_new (float, FRAMES *BYTES), *image = g_new (float, BYTES);
  float actions[LENGTH][ACTIONS] = { 0 };
  guint8 samples[BYTES];
  double worst = 0, moved = 0;
  for (guint f = 0, start = 0; f < LENGTH; f++)
    {
      if (f - start == FRAMES)
        start = f - context;
      const guint known = f - start;
      const gsize first = (gsize)start * BYTES, at = (gsize)f * BYTES;
      if (action_of (f))
        memcpy (actions[f], action_of (f), sizeof actions[f]);
      if (f < REAL)
        {
          fill (samples, f);
          encode (stream, samples, f, z + at, NULL, NULL);
          noisy_tokens (&config, samples, f, y + at);
          continue;
        }
      nf_random_normal (9, f, BYTES, 1, z + at);
      decode (stream, z + at, f, TRUE, NULL, samples);

      nf_test_ok (nf_session_set_size (session, HEIGHT, WIDTH, known + 1, &error), error);
      nf_test_ok (nf_session_set_actions (session, actions[start], 1, &error), error);
      const NfDecodeOptions options = { .method = NF_DECODE_SEQUENTIAL };
      nf_test_ok (nf_session_continue (session, y + first, 1, known, z + first, &options, clean, &error),
                  error);
      for (guint i = 0; i < BYTES; i++)
        y[at + i] = clean[(gsize)known * BYTES + i];
      /* the frame that has seen what it is to see */
      assert_int_equal (nf_stream_is_shown (stream), f >= REAL + look_ahead);
      assert_int_equal (nf_stream_get_held (stream), MIN (f + 1 - REAL, look_ahead));
      if (!nf_stream_is_shown (stream))
        continue;
      const gsize shown = (gsize)(known - look_ahead) * BYTES;
      if (layers)
        nf_test_ok (nf_session_denoise_learned (session, y + first, 1, SIGMA, 0, clean, &error), error);
      else
        nf_test_ok (nf_session_denoise (session, y + first, 1, NULL, SIGMA, clean, &error), error);
      nf_unpatchify (&config, clean + shown, 1, image);
      for (guint c = 0; c < 3; c++)
        for (guint i = 0; i < WIDTH * HEIGHT; i++)
          {
            const double value = ((double)image[c * WIDTH * HEIGHT + i] + 1) * 127.5;
            worst = MAX (worst, fabs (CLAMP (value, 0, 255) - samples[i * 3 + c]));
          }
      for (guint i = 0; i < BYTES; i++)
        moved += fabs ((double)y[first + shown + i] - (double)clean[shown + i]) * 127.5 / BYTES / LENGTH;
    }
  /* half a step of rounding */
  if (worst > 0.6)
    fail_msg ("%u layers: a sample is %g steps from what it should be", layers, worst);
  if (moved < 0.5)
    fail_msg ("%u layers: denoising hardly does anything: %g steps", layers, moved);
}

static void
test_drawn (void **state)
{
  for (guint text = 0; text < 2; text++)
    {
      check_drawn (0, 0, text);
      check_drawn (1, 0, text);
      check_drawn (2, 0, text);
      /* of more layers frames behind have seen less than in a whole video */
      check_drawn (1, 1, text);
      check_drawn (1, 2, text);
    }
}

/* With a look-ahead frames come as many calls later, real ones in every byte; what is remembered is the same;
 * and at the end those that were held come too. */
static void
test_look_ahead (void **state)
{
  enum
  {
    AHEAD = 2,
    REAL = 4,
    LENGTH = 3 * FRAMES
  };
  g_autoptr (GError) error = NULL;
  NfConfig config = noisy_config (2);
  config.temporal_causal = AHEAD + 1;
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) encoder = stream_new (model, 1);
  g_autoptr (NfStream) at_once = stream_new (model, 1);
  g_autoptr (NfStream) later = stream_new (model, 1);
  float z[BYTES], other[BYTES];
  guint8 samples[BYTES], shown[BYTES];
  const NfFrame frame = view (shown, NF_PIXELS_RGB);
  nf_test_ok (nf_stream_set_look_ahead (at_once, 0, &error), error);
  assert_false (nf_stream_set_look_ahead (at_once, -2, NULL));
  assert_false (nf_stream_set_look_ahead (at_once, AHEAD + 1, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  for (guint f = 0; f < LENGTH; f++)
    {
      const gboolean draw = f >= REAL;
      fill (samples, f);
      if (draw)
        nf_random_normal (8, f, BYTES, 1, z);
      else
        encode (encoder, samples, f, z, NULL, NULL);
      decode (at_once, z, f, draw, NULL, shown);
      assert_true (nf_stream_is_shown (at_once));
      decode (later, z, f, draw, NULL, shown);
      assert_int_equal (nf_stream_is_shown (later), f >= AHEAD);
      if (f >= AHEAD && f - AHEAD < REAL)
        {
          fill (samples, f - AHEAD);
          assert_memory_equal (samples, shown, BYTES);
        }
    }
  /* nothing is encoded before they are shown, and that takes none of them away */
  assert_false (nf_stream_encode (later, &frame, NULL, other, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  g_clear_error (&error);
  /* nor is anything decoded of latents that are none */
  other[0] = NAN;
  assert_false (nf_stream_decode (later, other, NULL, TRUE, NULL, &frame, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
  g_clear_error (&error);
  assert_false (nf_stream_is_shown (later));
  for (guint i = 0; i < AHEAD; i++)
    {
      assert_int_equal (nf_stream_get_held (later), AHEAD - i);
      nf_test_ok (nf_stream_drain (later, &frame, &error), error);
      assert_true (nf_stream_is_shown (later));
    }
  nf_test_ok (nf_stream_drain (later, &frame, &error), error);
  assert_false (nf_stream_is_shown (later));
  fill (samples, 99);
  encode (at_once, samples, 99, z, NULL, NULL);
  encode (later, samples, 99, other, NULL, NULL);
  assert_memory_equal (z, other, sizeof z);
  nf_stream_reset (later);
  assert_int_equal (nf_stream_get_held (later), 0);
  nf_test_ok (nf_stream_prepare (later, &error), error);
}

/* How frames are denoised is no matter of what is remembered; a model without a denoiser refuses a learned
 * one. */
static void
test_denoise_methods (void **state)
{
  static const char *const names[] = { "auto", "learned", "score", "none" };
  g_autoptr (GError) error = NULL;
  const NfConfig config = noisy_config (1), plain = noisy_config (0);
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfModel) without = model_new (&plain, "cpu");
  g_autoptr (NfStream) other = stream_new (without, 1);
  guint8 shown[G_N_ELEMENTS (names)][BYTES], samples[BYTES];
  float z[BYTES], first[BYTES];
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autoptr (NfStream) stream = stream_new (model, 1);
      NfDenoise denoise;
      assert_true (nf_denoise_from_name (names[i], &denoise));
      nf_test_ok (nf_stream_set_denoise (stream, denoise, &error), error);
      for (guint f = 0; f < 2 * FRAMES; f++)
        {
          nf_random_normal (2, f, BYTES, 1, z);
          decode (stream, z, f, TRUE, NULL, shown[i]);
        }
      fill (samples, 1);
      encode (stream, samples, 1, z, NULL, NULL);
      if (i == 0)
        memcpy (first, z, sizeof z);
      assert_memory_equal (first, z, sizeof z);
    }
  assert_memory_equal (shown[0], shown[1], BYTES);
  assert_memory_not_equal (shown[1], shown[2], BYTES);
  assert_memory_not_equal (shown[2], shown[3], BYTES);
  NfDenoise unused;
  assert_false (nf_denoise_from_name ("wavelets", &unused));
  /* other noise, other latents */
  g_autoptr (NfStream) seeded = stream_new (model, 1);
  fill (samples, 1);
  encode (seeded, samples, 1, first, NULL, NULL);
  nf_stream_set_noise_seed (seeded, 1);
  encode (seeded, samples, 1, z, NULL, NULL);
  assert_memory_not_equal (first, z, sizeof z);
  assert_false (nf_stream_set_denoise (other, NF_DENOISE_LEARNED, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
  g_clear_error (&error);
  assert_false (nf_stream_set_denoise (other, (NfDenoise)9, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "denoise 9"));
}

/* A decoder of spliced latents, one that encoded the real frames itself, and one that came at the key frame:
 * the same frames, the same memory. */
static void
test_splice (void **state)
{
  for (guint layers = 0; layers < 2; layers++)
    {
      g_autoptr (GError) error = NULL;
      const NfConfig config = noisy_config (layers);
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autoptr (NfStream) source = stream_new (model, 1);
      g_autoptr (NfStream) decoder = stream_new (model, 1);
      g_autoptr (NfStream) late = stream_new (model, 1);
      const gsize n = nf_stream_count_latents (source);
      g_autofree float *z = g_new (float, n), *other = g_new (float, n);
      guint8 samples[BYTES], decoded[BYTES], joined[BYTES];
      NfScore score, same;
      const NfFrame frame = view (samples, NF_PIXELS_RGB);
      for (guint f = 0; f < 6 * FRAMES; f++)
        {
          /* real, drawn; then a key frame that is real, and one that is drawn */
          const guint key = f < 2 * FRAMES ? 0 : f < 4 * FRAMES ? 2 * FRAMES : 4 * FRAMES;
          const gboolean draw = key == 4 * FRAMES || f >= key + 3;
          if (f == key)
            {
              nf_stream_reset (source);
              nf_stream_reset (decoder);
              nf_stream_reset (late);
            }
          if (draw)
            {
              nf_test_ok (nf_stream_sample (source, 4, f, 1, action_of (f), NULL, z, &frame, &error), error);
              nf_random_normal (4, f, n, 1, other);
              assert_memory_equal (z, other, n * sizeof *z);
            }
          else
            {
              fill (samples, f);
              encode (source, samples, f, z, NULL, NULL);
            }
          decode (decoder, z, f, draw, &(NfDecodeOptions){ .snap = TRUE, .method = NF_DECODE_SEQUENTIAL },
                  decoded);
          assert_memory_equal (samples, decoded, BYTES);
          if (key > 0)
            {
              decode (late, z, f, draw, NULL, joined);
              assert_memory_equal (samples, joined, BYTES);
            }
        }
      fill (samples, 99);
      encode (source, samples, 99, z, &score, NULL);
      encode (decoder, samples, 99, other, &same, NULL);
      assert_memory_equal (z, other, n * sizeof *z);
      assert_memory_equal (&score, &same, sizeof score);
      encode (late, samples, 99, other, &same, NULL);
      assert_memory_equal (z, other, n * sizeof *z);
    }
}

/* Streams side by side are those streams, each alone: every bit, of models with and without noise. */
static void
test_side_by_side (void **state)
{
  enum
  {
    B = 3
  };
  for (guint kind = 0; kind < 4; kind++)
    {
      g_autoptr (GError) error = NULL;
      NfConfig config = kind == 3 ? random_video_config () : noisy_config (kind);
      if (kind == 2)
        random_config_see_text (&config, TRUE);
      config.denoiser_text = kind == 2;
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autoptr (NfStream) all = stream_new (model, B);
      NfStream *one[B];
      const gsize n = nf_stream_count_latents (all) / B, tokens = nf_config_tokens (&config);
      g_autofree float *z = g_new (float, B *n), *alone = g_new (float, n), *maps = g_new (float, B *tokens),
                       *map = g_new (float, tokens);
      float text[B][RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES];
      guint8 samples[B][BYTES], same[BYTES];
      NfFrame frames[B];
      NfScore scores[B], score;
      assert_int_equal (nf_stream_get_batch (all), B);
      for (guint b = 0; b < B; b++)
        {
          one[b] = stream_new (model, 1);
          frames[b] = view (samples[b], NF_PIXELS_RGB);
          nf_random_normal (12, b, G_N_ELEMENTS (text[b]), 1, text[b]);
          nf_test_ok (kind != 2 || nf_stream_set_text (one[b], text[b], 1, &error), error);
        }
      nf_test_ok (kind != 2 || nf_stream_set_text (all, text[0], B, &error), error);
      for (guint f = 0; f < 3 * FRAMES; f++)
        {
          float actions[B][ACTIONS] = { 0 };
          const gboolean draw = f >= 4;
          for (guint b = 0; b < B; b++)
            {
              actions[b][(b + f) % ACTIONS] = 1;
              fill (samples[b], f + 100 * b);
            }
          if (draw)
            nf_test_ok (nf_stream_sample (all, 70, f, 0.9, actions[0], NULL, z, frames, &error), error);
          else
            nf_test_ok (nf_stream_encode (all, frames, actions[0], z, scores, maps, &error), error);
          for (guint b = 0; b < B; b++)
            {
              const NfFrame frame = view (same, NF_PIXELS_RGB);
              memcpy (same, samples[b], BYTES);
              if (draw)
                nf_test_ok (
                    nf_stream_sample (one[b], 70 + b, f, 0.9, actions[b], NULL, alone, &frame, &error),
                    error);
              else
                {
                  nf_test_ok (nf_stream_encode (one[b], &frame, actions[b], alone, &score, map, &error),
                              error);
                  assert_memory_equal (&score, &scores[b], sizeof score);
                  assert_memory_equal (map, maps + b * tokens, tokens * sizeof *map);
                }
              assert_memory_equal (alone, z + b * n, n * sizeof *z);
              assert_memory_equal (same, samples[b], BYTES);
            }
        }
      for (guint b = 0; b < B; b++)
        g_object_unref (one[b]);
      assert_null (nf_stream_new_batch (model, 0, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
    }
}

/* Kilobytes of this process that are in memory. */
static guint64
resident (void)
{
  g_autofree char *text = NULL;
  guint64 size, pages;
  if (!g_file_get_contents ("/proc/self/statm", &text, NULL, NULL)
      || sscanf (text, "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, &size, &pages) != 2)
    return 0;
  return pages * (guint64)sysconf (_SC_PAGESIZE) / 1024;
}

/* Thousands of frames, real and drawn, take no more memory than hundreds, on the device and on the host, and
 * no more work for each. */
static void
test_endless (void **state)
{
  enum
  {
    SOON = 500,
    LENGTH = 2500
  };
  for (guint layers = 0; layers < 2; layers++)
    {
      const NfConfig config = noisy_config (layers);
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autoptr (NfStream) stream = stream_new (model, 1);
      const NfDecodeOptions options = { .snap = TRUE, .method = NF_DECODE_SEQUENTIAL };
      guint64 kilobytes = 0, rows = 0;
      gsize device = 0;
      float z[BYTES];
      guint8 samples[BYTES];
      for (guint f = 0; f < LENGTH; f++)
        {
          NfDecodeReport report;
          NfSessionStats stats;
          nf_random_normal (1, f, BYTES, 1, z);
          decode (stream, z, f, TRUE, &options, samples);
          nf_stream_get_decode_report (stream, &report);
          nf_stream_get_stats (stream, &stats);
          if (f == SOON)
            {
              kilobytes = resident ();
              device = stats.device_bytes;
              rows = report.rows;
            }
          if (f >= SOON)
            {
              assert_int_equal (stats.device_bytes, device);
              assert_int_equal (report.rows, rows);
            }
        }
      /* what an allocator and a driver may still take: far less than a frame's latents each time */
      const guint64 grown = resident () - MIN (kilobytes, resident ());
      if (grown * 1024 > (LENGTH - SOON) * sizeof z / 8)
        fail_msg ("%u frames took %" G_GUINT64_FORMAT " KiB of memory", LENGTH - SOON, grown);
    }
}

/* Denoising brings a frame with the model's noise closer to the frame without: the bundled model of pong, on
 * latents of frames that are decoded as if they had been drawn. */
static void
check_closer (NfDenoise denoise, double most)
{
  enum
  {
    SIDE = 64,
    SIZE = SIDE * SIDE * 3
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model
      = nf_model_load ("normflow-pong-64", nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  g_autoptr (NfStream) encoder = stream_new (model, 1);
  g_autoptr (NfStream) decoder = stream_new (model, 1);
  nf_test_ok (nf_stream_set_denoise (decoder, denoise, &error), error);
  g_autoptr (NfWorld) world = nf_world_new (NF_WORLD_PONG, SIDE, SIDE, 3, &error);
  nf_test_ok (world, error);
  g_autofree float *z = g_new (float, SIZE);
  guint8 truth[SIZE], shown[SIZE];
  NfFrame true_frame = { .width = SIDE, .height = SIDE }, frame = true_frame;
  double squares = 0;
  const double sigma = nf_model_get_config (model)->noise_std * 127.5;
  const guint length = 2 * nf_model_get_config (model)->frames;
  for (guint i = 0; i < 3; i++)
    {
      true_frame.planes[i] = (NfPlane){ truth + i, 3 * SIDE, 3 };
      frame.planes[i] = (NfPlane){ shown + i, 3 * SIDE, 3 };
    }
  for (guint f = 0; f < length; f++)
    {
      nf_world_render (world, NF_PIXELS_RGB, &true_frame);
      nf_test_ok (nf_stream_encode (encoder, &true_frame, NULL, z, NULL, NULL, &error), error);
      nf_test_ok (nf_stream_decode (decoder, z, NULL, TRUE, NULL, &frame, &error), error);
      for (guint i = 0; i < SIZE; i++)
        squares += (double)(shown[i] - truth[i]) * (shown[i] - truth[i]) / SIZE / length;
      nf_test_ok (nf_world_step (world, nf_world_follow (world), &error), error);
    }
  if (!(sqrt (squares) < most * sigma))
    fail_msg ("shown frames are %.2f steps from the truth, the noise is %.2f", sqrt (squares), sigma);
}

static void
test_closer_to_the_truth (void **state)
{
  check_closer (NF_DENOISE_SCORE, 0.5);
  check_closer (NF_DENOISE_LEARNED, 1);
}

static void
assert_refused (gboolean done, GError **error, const char *begin)
{
  assert_false (done);
  assert_true (g_error_matches (*error, NF_ERROR, NF_ERROR_DATA));
  if (!g_str_has_prefix ((*error)->message, begin))
    fail_msg ("%s", (*error)->message);
  g_clear_error (error);
}

/* What is no number has no bytes: it is an error once the frame is shown, however it was decoded. */
static void
test_not_finite (void **state)
{
  for (guint layers = 0; layers < 4; layers++)
    {
      const NfConfig config = layers < 3 ? noisy_config (layers) : random_video_config ();
      g_autoptr (GError) error = NULL;
      g_autofree char *path = nf_test_temporary (".safetensors");
      random_model_write_damaged (path, &config, nf_test_device ("cpu"));
      g_autoptr (NfModel) model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
      g_unlink (path);
      nf_test_ok (model, error);
      g_autoptr (NfStream) stream = stream_new (model, 2);
      const gsize n = nf_stream_count_latents (stream);
      g_autofree float *z = g_new (float, n);
      guint8 samples[2][BYTES];
      const NfFrame frames[] = { view (samples[0], config.layout), view (samples[1], config.layout) };
      memset (samples, 0, sizeof samples);
      assert_false (nf_stream_encode (stream, frames, NULL, z, NULL, NULL, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
      if (!strstr (error->message, path)
          || !g_str_has_prefix (error->message, "stream 0 of 2: latents of the frame are no"))
        fail_msg ("%s", error->message);
      g_clear_error (&error);
      nf_random_normal (1, 0, n, 1, z);
      for (gboolean drawn = FALSE; drawn <= TRUE; drawn++)
        {
          gboolean done = TRUE;
          for (guint f = 0; done && f <= nf_stream_get_look_ahead (stream); f++)
            done = nf_stream_decode (stream, z, NULL, drawn, NULL, frames, &error);
          assert_false (done);
          assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
          if (!strstr (error->message, path) || !g_str_has_prefix (error->message, "stream 0 of 2: samples"))
            fail_msg ("%s", error->message);
          g_clear_error (&error);
        }
    }
}

/* What is not finite of one stream alone is said of that one. */
static void
test_not_finite_of_one (void **state)
{
  const float huge = 3e38f;
  g_autoptr (GError) error = NULL;
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model, 2);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *z = g_new (float, n);
  guint8 samples[2][BYTES];
  const NfFrame frames[] = { view (samples[0], config.layout), view (samples[1], config.layout) };
  const float unknown[2 * ACTIONS] = { [ACTIONS] = NAN },
                          high[2 * ACTIONS] = { [ACTIONS] = huge, huge, huge };

  memset (samples, 0, sizeof samples);
  assert_refused (nf_stream_encode (stream, frames, high, z, NULL, NULL, &error), &error,
                  "stream 1 of 2: latents of the frame are not finite");
  assert_refused (nf_stream_encode (stream, frames, unknown, z, NULL, NULL, &error), &error,
                  "stream 1 of 2: action: value 0 is nan");
  nf_random_normal (1, 0, n, 1, z);
  z[n / 2 + 3] = NAN;
  assert_refused (nf_stream_decode (stream, z, NULL, TRUE, NULL, frames, &error), &error,
                  "stream 1 of 2: latents: value 3 is nan");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_lossless),
    cmocka_unit_test (test_scores),
    cmocka_unit_test (test_drawn),
    cmocka_unit_test (test_look_ahead),
    cmocka_unit_test (test_denoise_methods),
    cmocka_unit_test (test_splice),
    cmocka_unit_test (test_side_by_side),
    cmocka_unit_test (test_closer_to_the_truth),
    cmocka_unit_test (test_endless),
    cmocka_unit_test (test_not_finite),
    cmocka_unit_test (test_not_finite_of_one),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
