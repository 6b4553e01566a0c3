/* normflow: the command trains on worlds and videos with actions, and holds models against worlds.
 * SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-folder.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <sys/stat.h>

static const char config[]
    = "{\"family\": \"starflow\", \"img_size\": 16, \"patch_size\": 8, \"channels\": 32, \"num_blocks\": 2, "
      "\"layers_per_block\": 1, \"head_dim\": 32, \"rope\": true, \"sos\": true, \"use_softplus\": true, "
      "\"seq_order\": \"L2R\", \"temporal_causal\": 1, \"shallow_block_local\": true, \"frames\": 4, "
      "\"pixel_layout\": \"rgb\", \"noise_type\": \"gaussian\", \"noise_std\": 0.1}";

/* A run on a world that was interrupted and went on is the run that was not; then the model is evaluated. */
static void
test_world (void **state)
{
  g_autofree char *whole = in_folder ("whole.safetensors"), *parts = in_folder ("parts.safetensors"),
                  *json = in_folder ("figures.json");
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) error = NULL;
#define ON_PONG                                                                                              \
  "--world", "pong", "--actions", "--config", config, "--denoiser", "1", "--steps", "6", "--batch", "3",     \
      "--validation-tiles", "4", "--seed", "5", "-q"
  GOOD ("train", "-o", whole, ON_PONG);
  GOOD ("train", "-o", parts, ON_PONG, "--stop-after", "3");
  GOOD ("train", "-o", parts, "--resume", "-q");
  assert_same_files ("whole.safetensors.checkpoint", "parts.safetensors.checkpoint");

  g_autofree char *sheet = in_folder ("sheet.png"), *plot = in_folder ("plot.png"),
                  *markdown = in_folder ("table.md"), *table = NULL;
  g_autofree char *text
      = good (ARGUMENTS ("eval", "world", whole, "--world", "pong", "--windows", "2", "--events", "1",
                         "--seeds", "3", "--frames", "60", "--timed", "4", "--json", json, "--markdown",
                         markdown, "--sheet", sheet, "--plot", plot, "-q"));
  assert_non_null (strstr (text, "bits a frame"));
  assert_non_null (strstr (text, "surprise"));
  assert_non_null (strstr (text, "roll-outs: 3 of 60 frames"));
  assert_non_null (strstr (text, "time of a drawn frame"));
  nf_test_ok (json_parser_load_from_file (parser, json, &error), error);
  JsonObject *root = json_node_get_object (json_parser_get_root (parser)),
             *bits = json_object_get_object_member (root, "bits"),
             *rolls = json_object_get_object_member (root, "roll_outs");
  const double gap = json_object_get_double_member (bits, "gap");
  assert_true (gap > 0); /* nobody knows more than there is to know */
  assert_int_equal (json_array_get_length (json_object_get_array_member (bits, "by_place")), 4);
  /* the gap is to the information of what happened, which is its entropy on the average only */
  assert_false (json_object_has_member (bits, "entropy")
                || json_object_has_member (bits, "entropy_by_place"));
  JsonArray *by_place = json_object_get_array_member (bits, "information_by_place");
  const double information = json_object_get_double_member (bits, "information");
  assert_true (fabs (json_object_get_double_member (bits, "model") - information - gap) < 1e-9);
  assert_true (
      fabs ((json_array_get_double_element (by_place, 2) + json_array_get_double_element (by_place, 3)) / 2
            - information)
      < 1e-9);
  /* the world itself, read in the same way, is what it is to be */
  assert_true (json_object_get_double_member (rolls, "world_one_ball") == 1);
  assert_true (json_object_get_double_member (rolls, "world_walls") == 1);
  assert_true (json_object_get_double_member (rolls, "walls") < 1);
  assert_true (json_object_get_double_member (rolls, "world_paddle_obeys") > 0.99);
  assert_true (json_object_get_double_member (rolls, "one_ball") < 1); /* six steps of training */
  JsonArray *by_time = json_object_get_array_member (rolls, "one_ball_by_time");
  assert_int_equal (json_array_get_length (by_time), 3); /* of 25, 25 and 10 frames */
  const double one
      = (25 * json_array_get_double_element (by_time, 0) + 25 * json_array_get_double_element (by_time, 1)
         + 10 * json_array_get_double_element (by_time, 2))
        / 60;
  assert_true (fabs (one - json_object_get_double_member (rolls, "one_ball")) < 1e-9);
  assert_true (json_object_get_double_member (json_object_get_object_member (root, "time"), "median_ms") > 0);
  assert_true (g_file_test (sheet, G_FILE_TEST_EXISTS) && g_file_test (plot, G_FILE_TEST_EXISTS));
  nf_test_ok (g_file_get_contents (markdown, &table, NULL, &error), error);
  assert_non_null (strstr (table, "| paddle where the action leads |"));
  /* the same once more, and with another way to denoise */
  g_autofree char *again
      = good (ARGUMENTS ("eval", "world", whole, "--world", "pong", "--windows", "2", "--events", "1",
                         "--seeds", "3", "--frames", "60", "--timed", "0", "-q"));
  assert_memory_equal (text, again, strlen (again));
  GOOD ("eval", "world", whole, "--world", "pong", "--windows", "0", "--events", "0", "--seeds", "1",
        "--frames", "3", "--timed", "2", "--denoise", "score", "-q");

  /* positions that a model has not are zeros: it is what it was, and can be trained on with them, and with a
   * past that has errors */
  g_autofree char *placed = in_folder ("placed.safetensors"), *after = in_folder ("after.safetensors");
  GOOD ("convert", "--set", "frame_positions=true", whole, placed, "-q");
  g_autofree char *same
      = good (ARGUMENTS ("eval", "world", placed, "--world", "pong", "--windows", "2", "--events", "1",
                         "--seeds", "3", "--frames", "60", "--timed", "0", "-q"));
  assert_string_equal (same, again);
  GOOD ("train", "-o", after, "--init", placed, "--world", "pong", "--actions", "--steps", "2", "--batch",
        "3", "--validation-tiles", "4", "--context-errors", "0.3", "-q");
  BAD (2, "--context-errors", "train", "-o", after, "--init", placed, "--world", "pong", "--steps", "2",
       "--context-errors", "1.5", "-q");
  g_autofree char *described = good (ARGUMENTS ("info", after));
  assert_non_null (strstr (described, "learned positions in a frame"));

  /* another world has other actions */
  BAD (1, "action_dim 3, gridworld has 5", "eval", "world", whole, "--world", "gridworld", "-q");
}

/* A world without actions, and a model in the pixels of cameras. */
static void
test_other_worlds (void **state)
{
  g_autofree char *yuv = g_strdup_printf ("%.*s\"yuv420\", \"noise_type\": \"uniform\"}",
                                          (int)(strstr (config, "\"rgb\"") - config), config);
  static const char *const worlds[] = { "bounce", "gridworld" }, *const of_court[] = {
    "one_ball",         "walls",         "world_one_ball", "world_walls",
    "one_ball_by_time", "walls_by_time", "speeds",         "world_speeds"
  };
  g_autofree char *json = in_folder ("figures.json"), *markdown = in_folder ("table.md");
  g_autoptr (GError) error = NULL;
  for (guint i = 0; i < G_N_ELEMENTS (worlds); i++)
    {
      GOOD ("train", "-o", model, "--world", worlds[i], "--config", i ? yuv : config, "--steps", "2",
            "--batch", "2", "--validation-tiles", "2", "-q");
      g_autoptr (JsonParser) parser = json_parser_new ();
      g_autofree char *table = NULL;
      g_autofree char *text = good (ARGUMENTS ("eval", "world", model, "--world", worlds[i], "--windows", "2",
                                               "--events", "2", "--seeds", "2", "--frames", "8", "--timed",
                                               "2", "--json", json, "--markdown", markdown, "-q"));
      assert_non_null (strstr (text, "area under the ROC curve"));
      assert_null (strstr (text, "paddle"));
      assert_int_equal (strstr (text, "walls in place") != NULL, i == 0);
      assert_int_equal (strstr (text, "one ball") != NULL, i == 0);
      assert_int_equal (strstr (text, "speed") != NULL, i == 0);
      assert_null (strstr (text, "nan"));
      nf_test_ok (g_file_get_contents (markdown, &table, NULL, &error), error);
      assert_int_equal (strstr (table, "one ball") != NULL, i == 0);
      assert_null (strstr (table, "nan"));
      nf_test_ok (json_parser_load_from_file (parser, json, &error), error);
      JsonObject *rolls
          = json_object_get_object_member (json_node_get_object (json_parser_get_root (parser)), "roll_outs");
      for (guint m = 0; m < G_N_ELEMENTS (of_court); m++)
        {
          assert_true (json_object_has_member (rolls, of_court[m]));
          assert_int_equal (json_object_get_null_member (rolls, of_court[m]), i == 1);
        }
      assert_true (json_object_get_null_member (rolls, "paddle_obeys_by_time"));
      assert_false (json_object_get_null_member (rolls, "brightness_drift"));
    }
}

/* What --config says of a STARFlow stays, also where --family says that it is one. */
static void
test_given_members (void **state)
{
  static const char given[]
      = "{\"family\": \"starflow\", \"img_size\": 16, \"patch_size\": 8, \"channels\": "
        "32, \"num_blocks\": 3, "
        "\"layers_per_block\": 1, \"head_dim\": 32, \"use_final_norm\": false, \"soft_clip\": 2, "
        "\"seq_order\": \"R2L\", \"pixel_layout\": \"rgb\"}";
  g_autoptr (GError) error = NULL;
  GOOD ("train", "-o", model, "--config", given, "--family", "starflow", "--frames", "2", "--world", "pong",
        "--steps", "1", "--batch", "1", "--validation-tiles", "1", "-q");
  g_autoptr (NfModel) loaded = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (loaded, error);
  const NfConfig *is = nf_model_get_config (loaded);
  assert_int_equal (is->n_blocks, 3);
  assert_false (is->final_norm || is->left_to_right);
  assert_true (is->soft_clip == 2);
  assert_true (is->sos && is->softplus && is->rope && is->temporal_causal);
}

/* A --config without all sizes says only what is to differ; options complete it, and go over it. */
static void
test_few_members (void **state)
{
  static const char given[] = "{\"frame_positions\": true, \"img_size\": 64, \"num_blocks\": 3}";
  g_autoptr (GError) error = NULL;
  GOOD ("train", "-o", model, "--config", given, "--family", "starflow", "--frames", "2", "--size", "16",
        "--patch", "8", "--width", "64", "--layers", "1,1,2", "--world", "pong", "--steps", "1", "--batch",
        "1", "--validation-tiles", "1", "-q");
  g_autoptr (NfModel) loaded = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (loaded, error);
  const NfConfig *is = nf_model_get_config (loaded);
  assert_true (is->frame_positions && is->sos && is->temporal_causal);
  assert_int_equal (is->img_size, 16);
  assert_int_equal (is->n_blocks, 3);
  assert_int_equal (nf_config_layers (is, 2), 2);
  assert_int_equal (is->layout, NF_PIXELS_YUV420);

  GOOD ("train", "-o", model, "--config",
        "{\"family\": \"starflow\", \"img_size\": 16, \"patch_size\": 8, \"channels\": 64, \"frames\": 2, "
        "\"pixel_layout\": \"gray\"}",
        "--layers", "1", "--world", "pong", "--steps", "1", "--batch", "1", "--validation-tiles", "1", "-q");
  g_autoptr (NfModel) gray = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (gray, error);
  is = nf_model_get_config (gray);
  assert_int_equal (nf_config_columns (is), 16);
  assert_int_equal (is->channels, 1);
  assert_true (is->temporal_causal && is->shallow_local);

  /* options go over members that mean the same */
  GOOD ("train", "-o", model, "--config", "{\"pixel_layout\": \"rgb\", \"layers_per_block\": [2, 1]}",
        "--family", "starflow", "--frames", "2", "--layout", "gray", "--blocks", "3", "--layers", "1",
        "--size", "16", "--patch", "8", "--width", "64", "--world", "pong", "--steps", "1", "--batch", "1",
        "--validation-tiles", "1", "-q");

  BAD (2, "\"rope\" is not one of a TARFlow", "train", "-o", model, "--config", "{\"rope\": true}", "--world",
       "pong", "--steps", "1");
}

/* Videos with their actions beside them. */
static void
test_files (void **state)
{
  g_autofree char *clip = in_folder ("clip.mkv"), *actions = g_strconcat (clip, NF_ACTIONS_SUFFIX, NULL);
  g_autoptr (GError) error = NULL;
  GOOD ("world", "pong", clip, "--frames", "40", "--size", "32x32", "--seed", "3", "-q");
#define FILES                                                                                                \
  "train", "-o", model, "--config", config, "--steps", "2", "--batch", "2", "--validation-tiles", "2",       \
      "--holdout", "0.2", "--actions", "-q", clip
  GOOD (FILES);
  g_autoptr (NfModel) loaded = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (loaded, error);
  assert_int_equal (nf_model_get_config (loaded)->action_dim, 3);

  /* named twice, it is taken once */
  g_autofree char *twice = in_folder ("twice.checkpoint");
  GOOD (FILES, clip, "--checkpoint", twice);
  assert_same_files ("model.safetensors.checkpoint", "twice.checkpoint");
  g_autofree char *settings = g_strconcat (twice, ".json", NULL), *text = NULL;
  assert_true (g_file_get_contents (settings, &text, NULL, NULL));
  const char *frames = strstr (text, "\"frames\" : ");
  assert_true (frames && !strstr (frames + 1, "\"frames\" : "));

  /* continuous controls in their place */
  g_autoptr (GString) controls = g_string_new (NULL);
  for (guint i = 0; i < 40; i++)
    g_string_append_printf (controls, "{\"frame\":%u,\"controls\":[%g,%g]}\n", i, sin (i), i / 40.0);
  nf_test_ok (g_file_set_contents (actions, controls->str, -1, &error), error);
  GOOD (FILES);
  g_autoptr (NfModel) steered = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (steered, error);
  assert_int_equal (nf_model_get_config (steered)->action_dim, 2);
  assert_true (nf_model_get_config (steered)->controls);
  /* which are no actions, not those of a world either where there are as many */
  g_autofree char *as_many = g_strdup_printf ("{\"action_dim\": 3, \"controls\": true, %s", config + 1),
                  *of_as_many = in_folder ("as-many.safetensors");
  GOOD ("train", "-o", of_as_many, "--config", as_many, "--steps", "1", "--batch", "1", "--validation-tiles",
        "1", "-q", clip);
  BAD (1, "the model is one of continuous controls", "eval", "world", of_as_many, "--world", "pong",
       "--windows", "1", "--seeds", "0", "--events", "0", "--timed", "0", "-q");
  g_autoptr (GString) two = g_string_new (NULL);
  g_autofree char *steering = in_folder ("steering.safetensors");
  for (guint i = 0; i < 40; i++)
    g_string_append_printf (two, "{\"frame\":%u,\"action\":%u}\n", i, i % 2);
  assert_int_equal (g_rename (model, steering), 0);
#define INIT(from)                                                                                           \
  "train", "-o", other, "--init", from, "--steps", "1", "--batch", "1", "--actions", "-q", clip
  nf_test_ok (g_file_set_contents (actions, two->str, -1, &error), error);
  BAD (1, "tells actions", INIT (steering));
  GOOD (FILES);
  nf_test_ok (g_file_set_contents (actions, controls->str, -1, &error), error);
  BAD (1, "tells controls", INIT (model));
  /* unknown ones are told as none is: by zeros; where nothing is known, nothing is learned of actions */
  g_autoptr (GString) some = g_string_new (NULL), none = g_string_new (NULL);
  g_autofree char *replayed = in_folder ("replayed.mkv");
  for (guint i = 0; i < 40; i++)
    {
      g_string_append_printf (some, "{\"frame\":%u,\"action\":%s}\n", i, i % 2 ? "null" : "1");
      g_string_append_printf (none, "{\"frame\":%u,\"action\":null}\n", i);
    }
  nf_test_ok (g_file_set_contents (actions, some->str, -1, &error), error);
  GOOD (FILES);
  g_autoptr (NfModel) of_some = nf_model_load (model, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  nf_test_ok (of_some, error);
  assert_int_equal (nf_model_get_config (of_some)->action_dim, 2);
  BAD (1, "line 2: \"action\" is null", "world", "pong", replayed, "-a", actions, "-q");
  nf_test_ok (g_file_set_contents (actions, none->str, -1, &error), error);
  GOOD (INIT (model));
  BAD (1, "are unknown", FILES);
  nf_test_ok (g_file_set_contents (actions, two->str, -1, &error), error);
  GOOD ("train", "-o", other, "--init", model, "--steps", "1", "--batch", "1", "--actions", "-q", clip,
        "--action-dropout", "1", "--checkpoint", "dropped.checkpoint");
  assert_same_files ("other.safetensors.checkpoint", "dropped.checkpoint");

  g_string_truncate (controls, controls->len / 2);
  nf_test_ok (g_file_set_contents (actions, controls->str, -1, &error), error);
  BAD (1, NF_ACTIONS_SUFFIX, FILES);

  g_unlink (actions);
  BAD (1, NF_ACTIONS_SUFFIX, FILES);
}

/* What a folder has that no sample can be of is left out. */
static void
test_left_out (void **state)
{
  static const char *const names[] = { "a.mkv", "b.mkv", "c.mkv", "d.png", "e.mkv" };
  g_autofree char *clips = in_folder ("clips"), *paths[5] = { NULL };
  g_autoptr (GError) error = NULL;
  assert_int_equal (g_mkdir (clips, 0777), 0);
  for (guint i = 0; i < 5; i++)
    paths[i] = g_build_filename (clips, names[i], NULL);
  for (guint i = 0; i < 3; i++)
    GOOD ("world", "pong", paths[i], "--frames", i == 1 ? "3" : "20", "--size", "16x16", "-q");
  g_autofree char *actions = g_strconcat (paths[2], NF_ACTIONS_SUFFIX, NULL);
  g_unlink (actions);
  GOOD ("world", "pong", paths[3], "--frames", "1", "--size", "16x16", "-q");
  nf_test_ok (g_file_set_contents (paths[4], "no video", -1, &error), error);
#define SOME                                                                                                 \
  "train", "-o", model, "--config", config, "--steps", "2", "--batch", "2", "--validation-tiles", "2", "-q"
  GOOD (SOME, "--actions", clips);
  BAD (1, "b.mkv: there are 2 frames to train on", SOME, "--actions", clips, paths[1]);
  BAD (1, NF_ACTIONS_SUFFIX, SOME, "--actions", clips, paths[2]);
  BAD (1, "e.mkv: ", SOME, clips, paths[4]);
  for (guint i = 1; i < 5; i++)
    g_unlink (paths[i]);
  g_autofree char *checkpoint = g_strconcat (model, ".checkpoint", NULL),
                  *kept = in_folder ("kept.checkpoint");
  assert_int_equal (g_rename (checkpoint, kept), 0);
  GOOD (SOME, "--actions", clips);
  assert_same_files ("model.safetensors.checkpoint", "kept.checkpoint");
  nf_test_ok (g_file_set_contents (paths[0], "no video", -1, &error), error);
  BAD (1, "none of the 1 files can be used: ", SOME, clips);
#undef SOME
}

/* So many actions of so wide a model that their vectors would not be counted in 32 bits. */
static void
test_many_actions (void **state)
{
  g_autofree char *clip = in_folder ("clip.mkv"), *actions = g_strconcat (clip, NF_ACTIONS_SUFFIX, NULL),
                  *wide = g_strdup_printf ("{\"action_dim\": 65536, %s", config + 1);
  g_autoptr (GString) lines = g_string_new (NULL);
  g_autoptr (GError) error = NULL;
  GOOD ("train", "-o", model, "--config", wide, "--world", "pong", "--actions", "--steps", "1", "--batch",
        "1", "--validation-tiles", "1", "-q");
  GOOD ("world", "pong", clip, "--frames", "3", "--size", "16x16", "-q");
  for (guint i = 0; i < 65537; i++)
    g_string_append_printf (lines, "{\"frame\":%u,\"action\":%u}\n", i, i == 1 ? 65535 : 1);
  nf_test_ok (g_file_set_contents (actions, lines->str, -1, &error), error);
  GOOD ("eval", "-m", model, "--actions", "--check", "-q", clip);
}

static void
test_refusals (void **state)
{
  g_autofree char *clip = in_folder ("clip.mkv"), *actions = g_strconcat (clip, NF_ACTIONS_SUFFIX, NULL),
                  *samples = in_folder ("samples");
  BAD (2, "--frames F", "train", "-o", model, "--world", "pong", "--steps", "1");
  BAD (2, "tetris", "train", "-o", model, "--world", "tetris", "--config", config, "--steps", "1");
  BAD (2, "--world is empty", "train", "-o", model, "--world", "", "--config", config, "--steps", "1");
  /* what would do nothing for a model of videos */
#define VIDEOS "train", "-o", model, "--config", config, "--steps", "1", "--batch", "1"
  BAD (2, "--validation is", VIDEOS, "--validation", clip, clip);
  BAD (2, "--labels are", VIDEOS, "--labels", "--label-dropout", "0.1", clip);
  BAD (2, "--scales are", VIDEOS, "--scales", "1,0.5", clip);
  BAD (2, "--holdout is", VIDEOS, "--holdout", "0.2", "--world", "pong");
  BAD (2, "normflow sample", VIDEOS, "--samples", samples, "--world", "pong");
  BAD (2, "--scales are", "train", "-o", model, "--init", "normflow-pong-64", "--scales", "1,0.5", "--steps",
       "1", clip);
  GOOD (VIDEOS, "--world", "pong", "--validation-tiles", "1", "-q");
  BAD (2, "normflow sample", "train", "-o", model, "--resume", "--samples", samples);
  assert_false (g_file_test (samples, G_FILE_TEST_EXISTS));
  BAD (2, "takes the place of files", "train", "-o", model, "--world", "pong", "--config", config, "--steps",
       "1", "clip.mkv");
  BAD (2, "--family starflow", "train", "-o", model, "--frames", "4", "--steps", "1", "clip.mkv");
  BAD (2, "Gaussian noise", "train", "-o", model, "--world", "pong", "--config", config, "--noise", "uniform",
       "--denoiser", "1", "--steps", "1");
  BAD (2, "--world is missing, one of: bounce, pong, gridworld", "eval", "world", model);
  BAD (1, "there is no folder /nowhere", "eval", "world", model, "--world", "pong", "--sheet",
       "/nowhere/a.png");
  BAD (2, "a.jpg: what is written is .png", "eval", "world", model, "--world", "pong", "--sheet", "a.jpg");
  BAD (1, "two outputs", "eval", "world", model, "--world", "pong", "--json", samples, "--markdown", samples);
  g_autofree char *pipe = nf_test_temporary (".json");
  assert_int_equal (mkfifo (pipe, 0600), 0);
  BAD (1, "is not a regular file", "eval", "world", model, "--world", "pong", "--json", pipe);
  g_unlink (pipe);
  BAD (2, "must end in", "world", "pong", "clip.jpg");
  GOOD ("world", "pong", clip, "--frames", "9", "-q");
  BAD (1, "is input and output", "world", "pong", clip, "-a", actions, "--frames", "4", "-q");
  BAD (2, "wavelets", "eval", "world", model, "--world", "pong", "--denoise", "wavelets");
  BAD (2, "gridworld has none", "eval", "world", model, "--world", "gridworld", "--plot", "a.png");
  BAD (2, "--seeds is 0", "eval", "world", model, "--world", "pong", "--seeds", "0", "--sheet", "a.png");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (test_world, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_other_worlds, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_given_members, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_few_members, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_files, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_left_out, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_many_actions, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_refusals, set_up, tear_down),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
