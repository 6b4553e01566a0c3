/* normflow: video frame by frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream-fixture.h"

#include <math.h>

#define ROUNDED_TOLERANCE 1e-5 /* of values between blocks on lattices, beside others */
#define PATCH 4

static NfStream *
stream_new (NfModel *model)
{
  g_autoptr (GError) error = NULL;
  NfStream *stream = nf_stream_new (model, &error);
  nf_test_ok (stream, error);
  return stream;
}

static NfFrame
view (guint8 *samples)
{
  NfFrame frame = { .width = WIDTH, .height = HEIGHT };
  for (guint i = 0; i < 3; i++)
    frame.planes[i] = (NfPlane){ samples + i, 3 * WIDTH, 3 };
  return frame;
}

static void
encode (NfStream *stream, guint8 *samples, const float *action, float *z, NfScore *score, float *map)
{
  g_autoptr (GError) error = NULL;
  const NfFrame frame = view (samples);
  nf_test_ok (nf_stream_encode (stream, &frame, action, z, score, map, &error), error);
}

static void
decode (NfStream *stream, const float *z, const float *action, const NfDecodeOptions *options,
        guint8 *samples)
{
  g_autoptr (GError) error = NULL;
  const NfFrame frame = view (samples);
  nf_test_ok (nf_stream_decode (stream, z, action, FALSE, options, &frame, &error), error);
}

#define TEXT (RANDOM_TEXT_TOKENS * RANDOM_TEXT_FEATURES)

static void
fill_text (guint64 seed, float text[TEXT])
{
  nf_random_normal (seed, 0, TEXT, 1, text);
}

static void
assert_same_text (const char *a, const char *b)
{
  assert_int_equal (g_strcmp0 (a, b), 0);
}

/* The first frames are what the whole model says of them, text in front of its deep block or of all: every
 * bit of latents and scores. */
static void
test_equals_session (void **state)
{
  /* with few bits tokens are rounded between blocks, as a stream's always are: then all bits are the same */
  static const char *const kernels[]
      = { "cpu", "gpu", "cpu,precision=bf16-weights", "gpu,precision=bf16-weights" };
  for (guint k = 0; k < 4 * G_N_ELEMENTS (kernels); k++)
    {
      g_autoptr (GError) error = NULL;
      NfConfig config = random_video_config ();
      config.frame_positions = k % 2;
      if (k % 4 > 1)
        random_config_see_text (&config, k % 2);
      g_autoptr (NfModel) model = model_new (&config, kernels[k / 4]);
      g_autoptr (NfStream) stream = stream_new (model);
      g_autoptr (NfSession) session = nf_test_session (model);
      float text[TEXT];
      fill_text (k, text);
      const char *const before = config.txt_size ? NF_NO_TEXT : NULL;
      assert_same_text (nf_stream_get_text_digest (stream), before);
      assert_same_text (nf_session_get_text_digest (session), before);
      if (config.txt_size)
        {
          nf_test_ok (nf_stream_set_text (stream, text, 1, &error), error);
          nf_test_ok (nf_session_set_text (session, text, NULL, 1, &error), error);
          assert_int_equal (strlen (nf_session_get_text_digest (session)), 16);
          assert_same_text (nf_stream_get_text_digest (stream), nf_session_get_text_digest (session));
        }
      const gsize n = nf_stream_count_latents (stream), tokens = nf_config_tokens (&config),
                  D = nf_config_features (&config);
      g_autofree float *z = g_new (float, FRAMES *n), *x = g_new (float, FRAMES *n),
                       *whole = g_new (float, FRAMES *n), *log_det = g_new (float, FRAMES *tokens);
      float actions[FRAMES][ACTIONS] = { 0 };
      NfScore scores[FRAMES];
      guint8 samples[BYTES];

      for (guint f = 0; f < FRAMES; f++)
        {
          fill (samples, f);
          if (action_of (f))
            memcpy (actions[f], action_of (f), sizeof actions[f]);
          assert_int_equal (nf_stream_get_length (stream), f);
          encode (stream, samples, action_of (f), z + f * n, &scores[f], NULL);
          /* the lattice's middle of the bin is not known here: its tokens come from decoding without a flow
           */
        }

      /* tokens of the frames: what the latents decode to, snapped to the lattice */
      const NfDecodeOptions options = { .snap = TRUE, .method = NF_DECODE_SEQUENTIAL };
      nf_test_ok (nf_session_set_actions (session, actions[0], 1, &error), error);
      nf_test_ok (nf_session_decode (session, z, 1, NULL, &options, x, &error), error);
      nf_test_ok (nf_session_encode (session, x, 1, NULL, whole, NULL, log_det, &error), error);
      const gboolean rounds = strchr (kernels[k / 4], ',') != NULL;
      g_autofree double *wanted = nf_test_to_double (whole, FRAMES * n);
      nf_test_close_float ("latents of a stream", z, wanted, FRAMES * n, rounds ? 0 : ROUNDED_TOLERANCE);
      for (guint f = 0; f < FRAMES; f++)
        {
          double sum = 0;
          for (gsize i = 0; i < tokens; i++)
            sum += (double)log_det[f * tokens + i];
          assert_true (fabs (sum - scores[f].log_det)
                       <= (rounds ? 1e-9 : ROUNDED_TOLERANCE) * MAX (fabs (sum), (double)tokens));
          assert_int_equal (scores[f].num_dims, BYTES);
        }
      /* and those tokens are of these very pixels */
      for (guint f = 0; f < FRAMES; f++)
        {
          fill (samples, f);
          for (guint t = 0; t < tokens; t++)
            for (guint i = 0; i < D; i++)
              {
                const guint c = i % 3, place = i / 3, y = t / (WIDTH / PATCH) * PATCH + place / PATCH,
                            column = t % (WIDTH / PATCH) * PATCH + place % PATCH;
                const double value = ((double)x[f * n + t * D + i] + 1) * 128;
                assert_int_equal ((int)floor (value), samples[(y * WIDTH + column) * 3 + c]);
              }
        }
    }
}

/* Positions within a frame are the same in each frame, wherever in the window it is: a window that began anew
 * knows them too; and they are what tells equal tokens apart. */
static void
test_frame_positions (void **state)
{
  NfConfig config = random_video_config ();
  config.frame_positions = TRUE;
  config.action_dim = 0;
  for (guint backwards = 0; backwards < 2; backwards++)
    {
      config.left_to_right = !backwards;
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autoptr (NfStream) encoder = stream_new (model);
      g_autoptr (NfStream) decoder = stream_new (model);
      g_autofree float *z = g_new (float, nf_stream_count_latents (encoder));
      guint8 samples[BYTES], decoded[BYTES];
      for (guint f = 0; f < 4 * FRAMES; f++)
        {
          fill (samples, f);
          encode (encoder, samples, NULL, z, NULL, NULL);
          memset (decoded, 0, sizeof decoded);
          decode (decoder, z, NULL, NULL, decoded);
          assert_memory_equal (samples, decoded, BYTES);
        }
    }
}

/* Text is seen in all frames, also of windows that began anew; each of streams side by side sees its own. */
static void
test_text (void **state)
{
  for (guint top_only = 0; top_only < 2; top_only++)
    {
      g_autoptr (GError) error = NULL;
      NfConfig config = random_video_config ();
      random_config_see_text (&config, top_only);
      g_autoptr (NfModel) model = model_new (&config, "cpu");
      g_autoptr (NfStream) none = stream_new (model);
      g_autoptr (NfStream) encoder = stream_new (model);
      g_autoptr (NfStream) decoder = stream_new (model);
      g_autoptr (NfStream) both = nf_stream_new_batch (model, 2, &error);
      nf_test_ok (both, error);
      const gsize n = nf_stream_count_latents (encoder);
      g_autofree float *z = g_new (float, n), *other = g_new (float, n), *pair = g_new (float, 2 * n);
      float texts[2][TEXT] = { 0 };
      guint8 samples[BYTES], decoded[BYTES];
      fill_text (1, texts[1]);
      nf_test_ok (nf_stream_set_text (encoder, texts[1], 1, &error), error);
      nf_test_ok (nf_stream_set_text (decoder, texts[1], 1, &error), error);
      nf_test_ok (nf_stream_set_text (both, texts[0], 2, &error), error);
      for (guint f = 0; f < 4 * FRAMES; f++)
        {
          fill (samples, f);
          const NfFrame two[2] = { view (samples), view (samples) };
          const float actions[2][ACTIONS] = { 0 };
          encode (encoder, samples, NULL, z, NULL, NULL);
          encode (none, samples, NULL, other, NULL, NULL);
          assert_memory_not_equal (z, other, n * sizeof *z);
          nf_test_ok (nf_stream_encode (both, two, actions[0], pair, NULL, NULL, &error), error);
          assert_memory_equal (pair, other, n * sizeof *z);
          assert_memory_equal (pair + n, z, n * sizeof *z);
          memset (decoded, 0, sizeof decoded);
          decode (decoder, z, NULL, NULL, decoded);
          assert_memory_equal (samples, decoded, BYTES);
        }
      nf_test_ok (nf_stream_set_text (encoder, NULL, 0, &error), error);
      fill (samples, 0);
      nf_stream_reset (none);
      encode (encoder, samples, NULL, z, NULL, NULL);
      encode (none, samples, NULL, other, NULL, NULL);
      assert_memory_equal (z, other, n * sizeof *z);
      assert_false (nf_stream_set_text (both, texts[0], 3, &error));
      assert_non_null (strstr (error->message, "3 samples"));
      g_clear_error (&error);
      texts[1][2] = (float)NAN;
      assert_false (nf_stream_set_text (both, texts[0], 2, &error));
      assert_true (g_str_has_prefix (error->message, "stream 1 of 2: "));
      g_clear_error (&error);
      assert_false (nf_stream_set_text (encoder, texts[1], 1, &error));
      assert_false (g_str_has_prefix (error->message, "stream"));
      g_clear_error (&error);
      NfFrame two[2] = { view (samples), view (samples) };
      two[1].width++;
      assert_false (nf_stream_encode (both, two, NULL, pair, NULL, NULL, &error));
      assert_true (g_str_has_prefix (error->message, "stream 1 of 2: a frame has"));
    }
}

/* Far beyond the window, with key frames, and with other ways of decoding: every byte; and the decoder
 * remembers what the encoder does. */
static void
test_lossless (void **state)
{
  enum
  {
    LENGTH = 200,
    KEY = 61
  };
  static const NfDecodeOptions ways[] = {
    { .snap = TRUE },
    { .snap = TRUE, .method = NF_DECODE_SEQUENTIAL },
    { .snap = TRUE, .method = NF_DECODE_JACOBI, .guess = NF_GUESS_FRAME, .window = 4 },
  };
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) encoder = stream_new (model);
  g_autoptr (NfStream) decoder = stream_new (model);
  g_autoptr (NfStream) late = stream_new (model);
  const gsize n = nf_stream_count_latents (encoder);
  g_autofree float *z = g_new (float, n), *again = g_new (float, n);
  guint8 samples[BYTES], decoded[BYTES];

  assert_int_equal (nf_stream_get_context (encoder), FRAMES / 2);
  for (guint f = 0; f < LENGTH; f++)
    {
      const NfDecodeOptions *options = &ways[f / 3 % G_N_ELEMENTS (ways)];
      if (f % KEY == 0)
        {
          nf_stream_reset (encoder);
          nf_stream_reset (decoder);
          if (f > KEY)
            nf_stream_reset (late);
        }
      fill (samples, f);
      encode (encoder, samples, action_of (f), z, NULL, NULL);
      memset (decoded, 0, sizeof decoded);
      decode (decoder, z, action_of (f), options, decoded);
      assert_memory_equal (samples, decoded, BYTES);
      assert_int_equal (nf_stream_get_index (decoder), f % KEY + 1);
      /* one that came in the middle, at a key frame */
      if (f >= 2 * KEY)
        {
          memset (decoded, 0, sizeof decoded);
          decode (late, z, action_of (f), NULL, decoded);
          assert_memory_equal (samples, decoded, BYTES);
        }
    }
  /* all three say the same of a next frame, to the last bit */
  NfScore scores[3];
  fill (samples, LENGTH);
  encode (encoder, samples, NULL, z, &scores[0], NULL);
  encode (decoder, samples, NULL, again, &scores[1], NULL);
  assert_memory_equal (z, again, n * sizeof *z);
  encode (late, samples, NULL, again, &scores[2], NULL);
  assert_memory_equal (z, again, n * sizeof *z);
  assert_memory_equal (&scores[0], &scores[1], sizeof scores[0]);
  assert_memory_equal (&scores[0], &scores[2], sizeof scores[0]);
}

/* Values that decoding will not find are counted of videos' frames, too: of narrow scales none, of wide ones
 * in few bits some, which is said; and decoding that is told them finds every byte. */
static void
test_counts_misses (void **state)
{
  NfConfig config = random_video_config ();
  config.n_blocks = 8;
  for (guint t = 0; t < config.n_blocks; t++)
    config.layers[t] = 1;
  for (guint wide = 0; wide < 2; wide++)
    {
      g_autoptr (NfModel) model = model_new_scaled (&config, "cpu,precision=bf16", wide ? 0.3 : 0.02);
      g_autoptr (NfStream) stream = nf_stream_new (model, NULL), decoder = nf_stream_new (model, NULL);
      g_autofree float *z = g_new (float, nf_stream_count_latents (stream));
      guint8 samples[BYTES], decoded[BYTES];
      guint64 missed = 0;
      for (guint f = 0; f < 4; f++)
        {
          NfScore score;
          fill (samples, f);
          encode (stream, samples, action_of (f), z, &score, NULL);
          NfCorrections corrections;
          nf_stream_get_corrections (stream, &corrections);
          const NfDecodeOptions options = { .snap = TRUE, .corrections = &corrections };
          decode (decoder, z, action_of (f), &options, decoded);
          assert_memory_equal (samples, decoded, BYTES);
          assert_int_equal (corrections.n > 0, score.n_missed + score.n_lost > 0);
          missed += score.n_missed;
          assert_true (wide || score.n_lost == 0);
          assert_true (score.rounded);
          assert_int_equal (nf_score_get_doubt (&score) != NF_DOUBT_NONE,
                            score.n_missed > 0 || score.n_lost > 0 || score.bits_per_dim >= NF_SCORE_FAR);
        }
      assert_int_equal (missed > 0, wide);
    }
}

/* A window that began anew is one that was given the kept frames from the start. */
static void
test_begins_anew (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  for (guint context = 0; context < FRAMES; context++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfStream) stream = stream_new (model);
      g_autoptr (NfStream) fresh = stream_new (model);
      const gsize n = nf_stream_count_latents (stream);
      g_autofree float *z = g_new (float, n), *other = g_new (float, n);
      guint8 samples[BYTES];

      nf_test_ok (nf_stream_set_context (stream, context, &error), error);
      for (guint f = 0; f < FRAMES + 1; f++)
        {
          fill (samples, f);
          assert_int_equal (nf_stream_get_length (stream), f < FRAMES ? f : context);
          encode (stream, samples, action_of (f), z, NULL, NULL);
        }
      for (guint f = FRAMES - context; f < FRAMES + 1; f++)
        {
          fill (samples, f);
          encode (fresh, samples, action_of (f), other, NULL, NULL);
        }
      assert_memory_equal (z, other, n * sizeof *z);
      assert_false (nf_stream_set_context (stream, FRAMES, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
    }
}

/* The action given with a frame is what its latents and those of later frames depend on, and no earlier
 * ones. */
static void
test_action_indices (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *plain = g_new (float, 4 * n), *z = g_new (float, 4 * n);
  guint8 samples[BYTES];
  for (guint changed = 0; changed < 4; changed++)
    {
      float *pass[2] = { plain, z };
      for (guint p = 0; p < 2; p++)
        {
          nf_stream_reset (stream);
          for (guint f = 0; f < 4; f++)
            {
              fill (samples, f);
              encode (stream, samples, action_of (p == 1 && f == changed ? 2 : 1), pass[p] + f * n, NULL,
                      NULL);
            }
        }
      for (guint f = 0; f < 4; f++)
        {
          const gboolean same = memcmp (plain + f * n, z + f * n, n * sizeof *z) == 0;
          if (same != (f < changed))
            fail_msg ("the action of frame %u %s frame %u", changed, same ? "does not reach" : "changes", f);
        }
    }
}

/* Real past, drawn future: what was drawn, encoded again from its bytes, leaves the same memory. */
static void
test_continuation (void **state)
{
  g_autoptr (GError) error = NULL;
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  g_autoptr (NfStream) again = stream_new (model);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *z = g_new (float, n), *other = g_new (float, n);
  guint8 samples[BYTES], twin[BYTES];
  const NfFrame frame = view (samples);
  NfScore score, same;

  for (guint f = 0; f < 3 * FRAMES; f++)
    {
      if (f < 3)
        {
          fill (samples, f);
          encode (stream, samples, action_of (f), z, NULL, NULL);
        }
      else
        {
          nf_test_ok (nf_stream_sample (stream, 9, f, 0.8, action_of (f), NULL, z, &frame, &error), error);
          nf_random_normal (9, f, n, 0.8, other);
          assert_memory_equal (z, other, n * sizeof *z);
        }
      encode (again, samples, action_of (f), other, NULL, NULL);
    }
  fill (twin, 99);
  encode (stream, twin, NULL, z, &score, NULL);
  encode (again, twin, NULL, other, &same, NULL);
  assert_memory_equal (z, other, n * sizeof *z);
  assert_memory_equal (&score, &same, sizeof score);

  /* another past, another future of the same latents */
  nf_stream_reset (stream);
  fill (samples, 40);
  encode (stream, samples, NULL, z, NULL, NULL);
  nf_test_ok (nf_stream_sample (stream, 9, 3, 0.8, NULL, NULL, NULL, &frame, &error), error);
  memcpy (twin, samples, sizeof twin);
  nf_stream_reset (stream);
  fill (samples, 41);
  encode (stream, samples, NULL, z, NULL, NULL);
  nf_test_ok (nf_stream_sample (stream, 9, 3, 0.8, NULL, NULL, NULL, &frame, &error), error);
  assert_memory_not_equal (twin, samples, sizeof twin);
}

/* The score is the sum of its map, and depends on the past. */
static void
test_scores (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  const gsize n = nf_stream_count_latents (stream), tokens = nf_config_tokens (&config);
  g_autofree float *z = g_new (float, n), *map = g_new (float, tokens);
  guint8 samples[BYTES];
  NfScore alone, after;
  double sum = 0;

  fill (samples, 1);
  encode (stream, samples, NULL, z, &alone, NULL);
  nf_stream_reset (stream);
  fill (samples, 0);
  encode (stream, samples, NULL, z, NULL, NULL);
  fill (samples, 1);
  encode (stream, samples, NULL, z, &after, map);
  for (gsize i = 0; i < tokens; i++)
    sum += (double)map[i] / (double)tokens;
  assert_true (fabs (sum - after.bits_per_dim) < 1e-5);
  assert_true (alone.bits_per_dim != after.bits_per_dim);
}

/* A budget that is too short is kept, and said to be. */
static void
test_budget (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *z = g_new (float, n);
  guint8 samples[BYTES];
  NfDecodeReport exact, hasty;

  nf_random_normal (1, 1, n, 1, z);
  decode (stream, z, NULL, NULL, samples);
  nf_stream_get_decode_report (stream, &exact);
  nf_stream_reset (stream);
  decode (stream, z, NULL, &(NfDecodeOptions){ .snap = TRUE, .method = NF_DECODE_JACOBI, .max_sweeps = 1 },
          samples);
  nf_stream_get_decode_report (stream, &hasty);
  assert_true (exact.residual == 0);
  assert_true (hasty.residual > 0);
  assert_true (hasty.passes < exact.passes);
}

static void
test_refusals (void **state)
{
  g_autoptr (GError) error = NULL;
  NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *z = g_new0 (float, n);
  guint8 samples[BYTES] = { 0 };
  const float wrong[ACTIONS] = { 0, NAN, 0 };
  NfFrame frame = view (samples);

  frame.width--;
  assert_false (nf_stream_encode (stream, &frame, NULL, z, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, "11x8"));
  assert_non_null (strstr (error->message, "12x8"));
  g_clear_error (&error);
  frame.width++;
  assert_false (nf_stream_encode (stream, &frame, wrong, z, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
  g_clear_error (&error);
  assert_false (nf_stream_decode (stream, z, NULL, FALSE, &(NfDecodeOptions){ .snap = TRUE, .guidance = 1 },
                                  &frame, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
  g_clear_error (&error);
  encode (stream, samples, NULL, z, NULL, NULL);
  assert_int_equal (nf_stream_get_index (stream), 1);
  z[3] = INFINITY;
  assert_false (nf_stream_decode (stream, z, NULL, FALSE, NULL, &frame, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
  assert_int_equal (nf_stream_get_index (stream), 0); /* the context is lost */
  g_clear_error (&error);
  encode (stream, samples, NULL, z, NULL, NULL);
  assert_false (nf_stream_sample (stream, 1, 1, 3, NULL, NULL, NULL, &frame, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_int_equal (nf_stream_get_index (stream), 0);
  g_clear_error (&error);

  g_autoptr (GCancellable) cancellable = g_cancellable_new ();
  g_cancellable_cancel (cancellable);
  nf_stream_set_cancellable (stream, cancellable);
  assert_false (nf_stream_encode (stream, &frame, NULL, z, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED));
  g_clear_error (&error);

  /* models of images, and of videos without a start token */
  config.frames = config.action_dim = config.temporal_causal = 0;
  config.shallow_local = FALSE;
  g_autoptr (NfModel) image = nf_model_new (&config, nf_test_device ("cpu"), 1, &error);
  nf_test_ok (image, error);
  assert_null (nf_stream_new (image, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
  g_clear_error (&error);
  config = random_video_config ();
  config.sos = FALSE;
  config.action_dim = 0; /* which needs one */
  g_autoptr (NfModel) startless = nf_model_new (&config, nf_test_device ("cpu"), 1, &error);
  nf_test_ok (startless, error);
  assert_null (nf_stream_new (startless, &error));
  assert_non_null (strstr (error->message, "sos"));
  g_clear_error (&error);

  /* an action for a model that takes none */
  config = random_video_config ();
  config.action_dim = 0;
  g_autoptr (NfModel) passive = nf_model_new (&config, nf_test_device ("cpu"), 1, &error);
  nf_test_ok (passive, error);
  g_autoptr (NfStream) other = stream_new (passive);
  assert_false (nf_stream_encode (other, &frame, action_of (1), z, NULL, NULL, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
}

/* Memory does not grow, whatever the length. */
static void
test_bounded (void **state)
{
  const NfConfig config = random_video_config ();
  g_autoptr (NfModel) model = model_new (&config, "cpu");
  g_autoptr (NfStream) stream = stream_new (model);
  const gsize n = nf_stream_count_latents (stream);
  g_autofree float *z = g_new (float, n);
  guint8 samples[BYTES];
  NfSessionStats before, after;

  fill (samples, 0);
  encode (stream, samples, NULL, z, NULL, NULL);
  decode (stream, z, NULL, NULL, samples);
  nf_stream_get_stats (stream, &before);
  for (guint f = 0; f < 10 * FRAMES; f++)
    encode (stream, samples, NULL, z, NULL, NULL);
  nf_stream_get_stats (stream, &after);
  assert_int_equal (after.device_bytes, before.device_bytes);
  assert_int_equal (after.frames, before.frames + 10 * FRAMES);
  assert_true (after.kernel_seconds > before.kernel_seconds);
}

/* Pictures that have nothing to do with what a model was trained on: it answers the last bit of a value
 * between blocks with a larger change, and so on from token to token. */
static void
test_unfamiliar (void **state)
{
  static const char *const models[] = { "normflow-pong-64-fine", "normflow-pong-64", "normflow-bounce-64" };
  const guint side = 64, bytes = 3 * side * side;
  g_autofree guint8 *samples = g_malloc (bytes), *again = g_malloc (bytes);
  for (guint c = 0; c < G_N_ELEMENTS (models); c++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfModel) model = nf_model_load (models[c], nf_test_device ("cpu"), NULL, NULL, NULL, &error);
      nf_test_ok (model, error);
      g_autoptr (NfStream) there = stream_new (model), back = stream_new (model);
      g_autofree float *z = g_new (float, nf_stream_count_latents (there));
      NfFrame in = { .width = side, .height = side }, out = in;
      for (guint i = 0; i < 3; i++)
        {
          in.planes[i] = (NfPlane){ samples + i, 3 * (gint)side, 3 };
          out.planes[i] = (NfPlane){ again + i, 3 * (gint)side, 3 };
        }
      for (guint f = 0; f < 8; f++)
        {
          /* black, gray, squares, a slope; each twice */
          for (guint i = 0; i < bytes; i++)
            {
              const guint x = i / 3 % side, y = i / 3 / side;
              const guint8 values[]
                  = { 0, 128, (guint8)((x / 8 + y / 8) % 2 ? 255 : 0), (guint8)(255 * y / (side - 1)) };
              samples[i] = values[f / 2];
            }
          nf_test_ok (nf_stream_encode (there, &in, NULL, z, NULL, NULL, &error), error);
          nf_test_ok (nf_stream_decode (back, z, NULL, FALSE, NULL, &out, &error), error);
          for (guint i = 0; i < bytes; i++)
            if (samples[i] != again[i])
              fail_msg ("%s, frame %u: sample %u is %u, was %u", models[c], f, i, again[i], samples[i]);
        }
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_equals_session), cmocka_unit_test (test_text),
    cmocka_unit_test (test_lossless),       cmocka_unit_test (test_counts_misses),
    cmocka_unit_test (test_begins_anew),    cmocka_unit_test (test_frame_positions),
    cmocka_unit_test (test_action_indices), cmocka_unit_test (test_continuation),
    cmocka_unit_test (test_scores),         cmocka_unit_test (test_budget),
    cmocka_unit_test (test_refusals),       cmocka_unit_test (test_bounded),
    cmocka_unit_test (test_unfamiliar),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
