/* normflow: texts, classes and actions that sessions are given. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session-fixture.h"

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

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    { "text, kernels=cpu", test_text, NULL, NULL, (void *)"cpu" },
    { "text, kernels=gpu", test_text, NULL, NULL, (void *)"cpu,kernels=gpu" },
    { "long text", test_long_text, NULL, NULL, (void *)"cpu" },
    cmocka_unit_test (test_bad_text),
    cmocka_unit_test (test_refused_text),
    cmocka_unit_test (test_refused_actions),
    cmocka_unit_test (test_one_hot),
  };
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests_name ("session-text", tests, NULL, NULL);
}
