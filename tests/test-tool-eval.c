/* normflow: the command evaluates, calibrates and measures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-folder.h"

#include <json-glib/json-glib.h>

/* Models of a size by name and of a file; what one cannot do is left out, what cannot be a model is refused.
 */
static void
test_bench (void **state)
{
  static const char *const wanted[]
      = { "encode 16x16p4-64-1x1, batch 2", "frame 16x16p4-64-1x1, 64×48", "train 16x16p4-64-1x1, batch 2",
          "encode starflow_v.weights.safetensors, batch 2" };
  g_autofree char *file = nf_test_file ("golden", "starflow_v.weights.safetensors"),
                  *text = good (ARGUMENTS ("bench", "-q", "--quick", "--json", "--batch", "2", "--sizes",
                                           "16x16p4-64-1x1", "--model", file, "encode", "frame", "train"));
  g_autoptr (JsonNode) root = json_from_string (text, NULL);
  assert_non_null (root);
  JsonArray *results = json_object_get_array_member (json_node_get_object (root), "results");
  assert_int_equal (json_array_get_length (results), G_N_ELEMENTS (wanted));
  for (guint i = 0; i < G_N_ELEMENTS (wanted); i++)
    {
      JsonObject *result = json_array_get_object_element (results, i);
      g_autofree char *name = g_strdup_printf ("%s %s", json_object_get_string_member (result, "what"),
                                               json_object_get_string_member (result, "size"));
      assert_string_equal (name, wanted[i]);
      assert_true (json_object_get_double_member (result, "share") > 0);
    }
  BAD (2, "square", "bench", "--sizes", "16x8p4-64");
  BAD (2, "patch_size 5", "bench", "--sizes", "16x16p5-64");
  BAD (2, "16x16p4-64-2", "bench", "--sizes", "tiny,16x16p4-64-2");
}

/* Each method is compared, gets no value wrong, and its profile adds up to no more than what passed. */
static void
test_bench_decode (void **state)
{
  g_autofree char *text = good (ARGUMENTS ("bench", "decode", "-q", "-m", model, "-t", "1", "--seconds", "0",
                                           "--frame", "1", "--profile", video));
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  guint methods = 0, profiles = 0;
  for (guint i = 0; lines[i]; i++)
    {
      double numbers[8], device, passed;
      char name[16];
      if (sscanf (lines[i], " 1 %15[a-z, ] %lf %lf× %lf× %lf %lf %lf %lf %lf", name, &numbers[0], &numbers[1],
                  &numbers[2], &numbers[3], &numbers[4], &numbers[5], &numbers[6], &numbers[7])
          == 9)
        {
          methods++;
          assert_true (numbers[0] > 0 && numbers[3] > 0 && numbers[4] >= numbers[3]);
          assert_true (numbers[6] <= 0 && numbers[7] <= 0);
        }
      if (sscanf (lines[i], "1 tile, %15[a-z, ]: %*u commands, %lf ms of %lf ms", name, &device, &passed)
          == 3)
        {
          profiles++;
          assert_true (device > 0 && device <= passed);
          assert_non_null (strstr (lines[i + 1], "LAUNCHES"));
          assert_true (strstr (text, "nf_matmul") != NULL);
        }
    }
  assert_in_range (methods, 3, 5);
  assert_int_equal (profiles, methods + 1); /* encoding */

  /* a tile that is what it was is recalled at once, at no speed */
  g_autofree char *still = in_folder ("still.y4m");
  g_autoptr (GString) frames = g_string_new ("YUV4MPEG2 W16 H16 F25:1 C420jpeg\n");
  for (guint i = 0; i < 3; i++)
    {
      g_string_append (frames, "FRAME\n");
      for (guint j = 0; j < 16 * 16 * 3 / 2; j++)
        g_string_append_c (frames, (char)(40 + j % 16 * 3));
    }
  assert_true (g_file_set_contents (still, frames->str, (gssize)frames->len, NULL));
  g_autofree char *unchanged = good (ARGUMENTS ("bench", "decode", "-q", "-m", model, "-t", "1", "--seconds",
                                                "0", "--frame", "1", "--method", "draft", still));
  const char *recalling = strstr (unchanged, "recalling");
  if (!recalling || !strstr (recalling, " unchanged ") || strstr (recalling, "×"))
    fail_msg ("%s", unchanged);

  /* of one method, beside what it is to be faster than */
  g_autofree char *one = good (ARGUMENTS ("bench", "decode", "-q", "-m", model, "-t", "1", "--seconds", "0",
                                          "--method", "jacobi", video));
  assert_true (strstr (one, "sequential") && strstr (one, "jacobi") && !strstr (one, "auto"));

  /* among other words it is one of them */
  g_autofree char *words = good (ARGUMENTS ("bench", "decode", "encode", "-q", "--quick"));
  assert_true (strstr (words, "\ndecode ") && strstr (words, "\nencode "));
}

/* Frames of a video model, of a file and drawn: as many as were asked for, each method's. */
static void
test_bench_decode_video (void **state)
{
  static const char *const methods[] = { "sequential", "jacobi", "auto" };
  GOOD ("world", "-q", "-n", "6", "pong", "bench.mkv");
  for (guint drawn = 0; drawn < 2; drawn++)
    {
      g_auto (Result) result = run (ARGUMENTS ("bench", "decode", "-q", PONG, "--seconds", "0", "--frames",
                                               "3", "--frame", "2", "--profile", drawn ? NULL : "bench.mkv"));
      guint found = 0, encoded = 0;
      assert_int_equal (result.status, 0);
      g_auto (GStrv) lines = g_strsplit (result.output, "\n", -1);
      for (guint i = 0; lines[i]; i++)
        {
          double time, speed, encodes, residual;
          guint passes, rows, differing, largest;
          char name[16];
          encoded += sscanf (lines[i], " 3 (encode) %lf", &time) == 1;
          if (sscanf (lines[i], " 3 %15[a-z] %lf %lf× %lf× %u %u %lf %u %u", name, &time, &speed, &encodes,
                      &passes, &rows, &residual, &differing, &largest)
              != 9)
            continue;
          assert_true (found < G_N_ELEMENTS (methods));
          assert_string_equal (name, methods[found++]);
          assert_true (time > 0 && speed > 0 && encodes > 0 && rows >= passes && passes >= 3);
          assert_true (residual <= 0 && differing == 0 && largest == 0);
        }
      assert_int_equal (encoded, 1);
      assert_int_equal (found, G_N_ELEMENTS (methods));
      assert_non_null (strstr (result.output, "3 frames, sequential: "));
    }
  g_autofree char *one = good (
      ARGUMENTS ("bench", "decode", "-q", PONG, "--seconds", "0", "-n", "1", "--method", "sequential"));
  assert_true (strstr (one, "sequential") && !strstr (one, "jacobi"));
  BAD (1, "frames from frame 2 on, not 999: give --frames or --frame less", "bench", "decode", "-q", PONG,
       "-n", "999", "--frame", "2", "bench.mkv");
  BAD (2, "--frames takes 1 to", "bench", "decode", "-q", PONG, "-n", "0");
}

static double
number_of (JsonObject *object, const char *name)
{
  assert_true (json_object_has_member (object, name));
  return json_object_get_double_member (object, name);
}

static void
test_eval (void **state)
{
  g_autofree char *scores = good (ARGUMENTS ("eval", "-q", "-m", model, "--peers", "--check", "--plot",
                                             "plot.png", "--map", "map.png", video));
  g_auto (GStrv) lines = g_strsplit (g_strstrip (scores), "\n", -1);
  assert_int_equal (g_strv_length (lines), FRAMES);
  for (guint i = 0; i < FRAMES; i++)
    {
      g_autoptr (JsonParser) parser = json_parser_new ();
      assert_true (json_parser_load_from_data (parser, lines[i], -1, NULL));
      JsonObject *object = json_node_get_object (json_parser_get_root (parser));
      const double bits = number_of (object, "bits_per_dim"), dims = number_of (object, "dims"),
                   nats = number_of (object, "log_likelihood");
      assert_int_equal (json_object_get_int_member (object, "frame"), i);
      assert_int_equal ((int)dims, SAMPLES);
      assert_true (ABS (bits + nats / dims / G_LN2) < 1e-6);
      assert_true (number_of (object, "png_bits") > 0 && number_of (object, "ffv1_bits") > 0);
      assert_true (number_of (object, "differing") == 0);
    }
  assert_png ("plot.png");
  assert_png ("map.png");
  g_autofree char *gains
      = good (ARGUMENTS ("eval", "-q", "-m", model, "--denoise", "0.05", "--frames", "2", video));
  assert_non_null (strstr (gains, "hqdn3d"));
  assert_non_null (strstr (gains, "nlmeans"));
  /* of what is no noise in 8 bits there is no ratio */
  g_autofree char *none
      = good (ARGUMENTS ("eval", "-q", "-m", model, "--denoise", "0.000001", "--frames", "1", video));
  assert_non_null (strstr (none, "1 frame: noisy - dB; flow "));
  assert_null (strstr (none, "inf"));
  assert_null (strstr (none, "nan"));
  BAD (1, "normflow-pong-64 is a model of videos", "eval", "-q", "-m", "normflow-pong-64", "--denoise",
       "0.05", video);
  /* what is no bits of 8-bit samples is not held against PNG's */
  g_auto (Result) noisy
      = run (ARGUMENTS ("eval", "-q", "-m", "normflow-yuv420-32-noisy", "--peers", "-n", "1", video));
  assert_int_equal (noisy.status, 0);
  assert_non_null (strstr (noisy.errors, "do not compare"));
  assert_null (strstr (noisy.errors, "(flow"));
  g_auto (Result) exact = run (ARGUMENTS ("eval", "-q", "-m", model, "--peers", "-n", "1", video));
  assert_non_null (strstr (exact.errors, "(flow"));
  /* of a model of videos: each frame given those before it, and files on their own */
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "4", "drawn.mkv");
  g_autofree char *of_videos = good (ARGUMENTS ("eval", "-q", "-m", "normflow-pong-64", "--check", "--map",
                                                "map.png", "drawn.mkv", "drawn.mkv"));
  g_auto (GStrv) frames = g_strsplit (of_videos, "\n", -1);
  assert_true (g_strv_length (frames) >= 8);
  for (guint f = 0; f < 4; f++)
    assert_string_equal (frames[f], frames[4 + f]);
  g_autoptr (GRegex) known = g_regex_new ("\"bits_per_dim\":([0-9.e-]+)", 0, 0, NULL);
  double bits[2];
  for (guint f = 0; f < 2; f++)
    {
      g_autoptr (GMatchInfo) match = NULL;
      assert_true (g_regex_match (known, frames[f], 0, &match));
      g_autofree char *number = g_match_info_fetch (match, 1);
      bits[f] = g_ascii_strtod (number, NULL);
    }
  /* whoever knows the first frame knows most of the second */
  assert_true (bits[1] < 0.5 * bits[0]);
  BAD (1, "64x64", "eval", "-q", "-m", "normflow-pong-64", video);
  GOOD ("world", "pong", "played.mkv", "-q", "-n", "12", "-p", "random");
  g_autofree char *untold = good (ARGUMENTS ("eval", "-q", "-m", "normflow-pong-64", "played.mkv"));
  g_autofree char *told
      = good (ARGUMENTS ("eval", "-q", "-m", "normflow-pong-64", "--check", "--actions", "played.mkv"));
  assert_string_not_equal (told, untold);
  BAD (1, "drawn.mkv.actions.ndjson", "eval", "-q", "-m", "normflow-pong-64", "--actions", "drawn.mkv");
  g_autofree char *of_played = in_folder ("played.mkv.actions.ndjson"),
                  *of_drawn = in_folder ("drawn.mkv.actions.ndjson");
  /* of which nothing is known are as those that nothing is told of */
  g_autoptr (GBytes) known_actions = contents ("played.mkv.actions.ndjson");
  g_autoptr (GString) unknown = g_string_new (NULL);
  for (guint f = 0; f < 12; f++)
    g_string_append_printf (unknown, "{\"frame\":%u,\"action\":null}\n", f);
  assert_true (g_file_set_contents (of_played, unknown->str, -1, NULL));
  g_autofree char *told_nothing
      = good (ARGUMENTS ("eval", "-q", "-m", "normflow-pong-64", "--actions", "played.mkv"));
  assert_string_equal (told_nothing, untold);
  assert_true (g_file_set_contents (of_played, g_bytes_get_data (known_actions, NULL),
                                    (gssize)g_bytes_get_size (known_actions), NULL));
  assert_true (g_rename (of_played, of_drawn) == 0);
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "14", "drawn.mkv");
  BAD (1, "ends before frame 12", "eval", "-q", "-m", "normflow-pong-64", "--actions", "drawn.mkv");
  BAD (1, "action_dim", "eval", "-q", "-m", model, "--actions", video);
  BAD (2, "--denoise", "eval", "-q", "-m", "normflow-pong-64", "--actions", "--denoise", "0.1", "drawn.mkv");
  BAD (2, "--every", "eval", "-m", model, "--every", "0", video);
  BAD (2, "--denoise", "eval", "-m", model, "--denoise", "x", video);
  BAD (1, "/nowhere/", "eval", "-q", "-m", model, "--json", "/nowhere/scores.ndjson", video);
  BAD (1, "nothing.mkv", "eval", "-q", "-m", model, "nothing.mkv");
}

/* A file that cannot be read does not keep others from being scored. */
static void
test_eval_unreadable (void **state)
{
  g_autofree char *mixed = in_folder ("mixed"), *first = in_folder ("mixed/a.y4m"),
                  *broken = in_folder ("mixed/b.mkv"), *last = in_folder ("mixed/c.y4m"),
                  *json = in_folder ("mixed.ndjson");
  assert_int_equal (g_mkdir (mixed, 0777), 0);
  write_video (first);
  write_video (last);
  assert_true (g_file_set_contents (broken, "no video", -1, NULL));
  for (guint named = 0; named < 2; named++)
    {
      g_auto (Result) result
          = named ? run (ARGUMENTS ("eval", "-q", "-m", model, "-n", "2", first, broken, last))
                  : run (ARGUMENTS ("eval", "-q", "-m", model, "-n", "2", mixed));
      g_auto (GStrv) lines = g_strsplit (g_strstrip (result.output), "\n", -1);
      assert_int_equal (result.status, 1);
      assert_int_equal (g_strv_length (lines), 4);
      assert_non_null (strstr (lines[3], "c.y4m"));
      assert_non_null (strstr (result.errors, "normflow eval: "));
      assert_non_null (strstr (result.errors, "b.mkv: cannot be opened"));
      assert_non_null (strstr (result.errors, "2 of 3 files: "));
    }
  g_auto (Result) denoised
      = run (ARGUMENTS ("eval", "-q", "-m", model, "-n", "1", "--denoise", "0.1", mixed));
  assert_int_equal (denoised.status, 1);
  assert_non_null (strstr (denoised.output, "c.y4m"));
  /* with nothing to write, what was there stays */
  assert_true (g_file_set_contents (json, "kept", -1, NULL));
  BAD (1, "b.mkv: cannot be opened", "eval", "-q", "-m", model, "--json", json, broken);
  assert_int_equal (count ("mixed.ndjson", "kept"), 1);
}

static void
test_calibrate (void **state)
{
  g_autofree char *text = good (ARGUMENTS ("calibrate", "-q", "-m", model, "--json", video));
  g_autoptr (JsonParser) parser = json_parser_new ();
  assert_true (json_parser_load_from_data (parser, text, -1, NULL));
  JsonObject *object = json_node_get_object (json_parser_get_root (parser));
  assert_true (number_of (object, "threshold") > 0);
  /* counts are whole */
  assert_non_null (strstr (text, "\"frames\":24,"));
  assert_non_null (strstr (text, "\"smoothing_window\":5,"));
  BAD (1, "nothing.mkv", "calibrate", "-q", "-m", model, "nothing.mkv");
}

/* The line is for a shell, and what that leaves of it for gst-launch-1.0, which takes \ and " as a shell does
 * and ends a word at a tab or a new line. */
static void
test_calibrate_names (void **state)
{
  static const struct
  {
    const char *name, *quoted;
  } cases[] = { { "plain.y4m", "plain.y4m" },       { "a b.y4m", "'a b.y4m'" },
                { "it's.y4m", "'it'\\''s.y4m'" },   { "a\\b.y4m", "'\"a\\\\b.y4m\"'" },
                { "a\"b.y4m", "'\"a\\\"b.y4m\"'" }, { "a\tb.y4m", "'\"a\tb.y4m\"'" },
                { "a\nb.y4m", "'\"a\nb.y4m\"'" } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *path = in_folder (cases[i].name);
      write_video (path);
      g_autofree char *text
          = good (ARGUMENTS ("calibrate", "-q", "-m", model, cases[i].name)),
          *wanted = g_strdup_printf ("\ngst-launch-1.0 -m filesrc location=%s ! decodebin", cases[i].quoted);
      if (!strstr (text, wanted))
        fail_msg ("wanted %s in: %s", wanted, text);
    }
}

/* The printed threshold is rounded, but no normal score is above it for that. */
static void
test_rounded_threshold (void **state)
{
  for (guint window = 1; window <= 5; window++)
    {
      g_autofree char *number = g_strdup_printf ("%u", window);
      g_autofree char *words
          = good (ARGUMENTS ("calibrate", "-q", "-m", model, "--smoothing-window", number, video)),
          *json
          = good (ARGUMENTS ("calibrate", "-q", "-m", model, "--smoothing-window", number, "--json", video));
      g_autoptr (JsonParser) parser = json_parser_new ();
      const char *shown = strstr (words, "threshold=");
      assert_true (json_parser_load_from_data (parser, json, -1, NULL));
      assert_non_null (shown);
      const double threshold = number_of (json_node_get_object (json_parser_get_root (parser)), "threshold"),
                   printed = g_ascii_strtod (shown + strlen ("threshold="), NULL);
      assert_true (printed >= threshold && printed < threshold + 1.001e-4);
    }
}

/* A deviation belongs to Gaussian noise, and Gaussian noise has one. */
static void
test_noise (void **state)
{
  BAD (1, "--noise-std 0.1: goes with Gaussian noise", "convert", "--noise-std", "0.1", model,
       "no.safetensors");
  BAD (1, "needs a standard deviation", "convert", "--noise", "gaussian", model, "no.safetensors");
  BAD (1, "needs a standard deviation", "convert", "--noise", "gaussian", "--noise-std", "0", model,
       "no.safetensors");
  BAD (2, "noise_std 0.1, but uniform noise has none", TRAIN, "-o", "no.safetensors", "--steps", "1",
       "--config", "{\"noise_std\": 0.1}", video);
  BAD (2, "noise_std is 0, and noise_type gaussian needs one", TRAIN, "-o", "no.safetensors", "--steps", "1",
       "--config", "{\"noise_type\": \"gaussian\", \"noise_std\": 0}", video);
  assert_missing ("no.safetensors");
  GOOD ("convert", "--noise", "gaussian", "--noise-std", "0.1", model, "gaussian.safetensors");
  GOOD ("convert", "--noise", "uniform", "gaussian.safetensors", "uniform.safetensors");
}

/* A copy of a model whose classes are called otherwise. */
static void
replace_class_names (const char *from, const char *to, const char *names)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (from, &error);
  nf_test_ok (file, error);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  GHashTable *metadata = nf_tensor_file_get_all_metadata (file);
  g_hash_table_replace (metadata, g_strdup ("classes"), g_strdup (names));
  nf_test_ok (nf_tensor_file_write (to, tensors, nf_tensor_file_count (file), metadata, &error), error);
}

/* How many classes there are is not said twice, each time something else. */
static void
test_labels (void **state)
{
  g_autofree char *labelled = in_folder ("labelled"), *left = in_folder ("labelled/left"),
                  *right = in_folder ("labelled/sch\303\266n rechts"),
                  *first = in_folder ("labelled/left/a.y4m"),
                  *second = in_folder ("labelled/sch\303\266n rechts/b.y4m");
  assert_true (g_mkdir (labelled, 0777) == 0 && g_mkdir (left, 0777) == 0 && g_mkdir (right, 0777) == 0);
  write_video (first);
  write_video (second);
  BAD (1, "the files lie in 2 folders, but the model has 5 classes", TRAIN, "-o", "no.safetensors", "--steps",
       "1", "--labels", "--config", "{\"num_classes\": 5}", labelled);
  assert_missing ("no.safetensors");
  GOOD (TRAIN, "-o", "labels.safetensors", "--steps", "1", "--labels", "--config", "{\"num_classes\": 2}",
        labelled);
  GOOD (TRAIN, "-o", "labels.safetensors", "--steps", "1", "--labels", labelled);
  g_autofree char *listed = good (ARGUMENTS ("info", "labels.safetensors"));
  assert_non_null (strstr (listed, "\nclasses            0 left, 1 sch\303\266n rechts\n"));
  GOOD ("sample", "-q", "-m", "labels.safetensors", "--class", "1", "number.png");
  GOOD ("sample", "-q", "-m", "labels.safetensors", "-c", "sch\303\266n rechts", "name.png");
  assert_same_files ("number.png", "name.png");
  g_autofree char *numbered = in_folder ("numbered.safetensors"), *named = in_folder ("labels.safetensors");
  replace_class_names (named, numbered, "1\nup");
  g_auto (Result) number_first
      = run (ARGUMENTS ("sample", "-m", "numbered.safetensors", "--class", "1", "doubtful.png"));
  assert_non_null (strstr (number_first.errors, "--class 1 is the number of the class up; the class that is "
                                                "called 1 has the number 0"));
  assert_same_files ("doubtful.png", "number.png");
  replace_class_names (named, numbered, "3\n2");
  GOOD ("sample", "-q", "-m", "numbered.safetensors", "--class", "2", "called.png");
  assert_same_files ("called.png", "number.png");
  BAD (1, "--class up: the model has the classes 0 left, 1 sch\303\266n rechts", "sample", "-q", "-m",
       "labels.safetensors", "--class", "up", "no.png");
  BAD (1, "--class 2: the model has the classes 0 left, 1 sch", "sample", "-q", "-m", "labels.safetensors",
       "--class", "2", "no.png");
  BAD (1, "--class left: the model has no classes", "sample", "-q", "-m", model, "--class", "left", "no.png");
  GOOD ("sample", "-q", "-m", model, "--class", "-1", "none.png");
  BAD (2, "--class -2: classes are counted from 0", "sample", "-q", "-m", model, "--class", "-2", "no.png");

  /* those of a STARFlow are a text of one token, with a place for no class */
  GOOD (TRAIN, "-o", "told.safetensors", "--steps", "4", "--stop-after", "2", "--family", "starflow",
        "--head-dim", "32", "--labels", "--label-dropout", "0.5", labelled);
  GOOD ("train", "-q", "-o", "told.safetensors", "--resume");
  g_autofree char *told = good (ARGUMENTS ("info", "--json", "told.safetensors"));
  assert_non_null (strstr (told, "\"txt_dim\" : 3"));
  assert_non_null (strstr (told, "\"classes\" : \"left\\nsch"));
  GOOD ("sample", "-q", "-m", "told.safetensors", "--class", "left", "told.png");
  GOOD ("sample", "-q", "-m", "told.safetensors", "--class", "1", "--guidance", "2", "told.png");
  BAD (1, "class 3", "sample", "-q", "-m", "told.safetensors", "--class", "3", "no.png");
  BAD (1, "the files lie in 2 folders, but the model has 4 classes", TRAIN, "-o", "no.safetensors", "--steps",
       "1", "--family", "starflow", "--head-dim", "32", "--labels", "--config",
       "{\"txt_size\": 1, \"txt_dim\": 5}", labelled);

  /* what goes on from a model calls its classes as that does */
  g_autofree char *middle = in_folder ("labelled/middle");
#define FROM_TOLD                                                                                            \
  "train", "-q", "-o", "tuned.safetensors", "--init", "told.safetensors", "--batch", "2",                    \
      "--validation-tiles", "2", "--labels", labelled
  assert_int_equal (g_rename (left, middle), 0);
  BAD (1, "folder middle is not one of the classes left, sch\303\266n rechts", FROM_TOLD, "--steps", "1");
  assert_missing ("tuned.safetensors");
  g_autofree char *aside = in_folder ("aside");
  assert_int_equal (g_rename (middle, aside), 0);
  GOOD (FROM_TOLD, "--steps", "2", "--stop-after", "1");
  GOOD ("train", "-q", "-o", "tuned.safetensors", "--resume");
  g_autofree char *tuned = good (ARGUMENTS ("info", "--json", "tuned.safetensors"));
  assert_non_null (strstr (tuned, "left\\nsch"));
#undef FROM_TOLD
}

/* What each file shows is told by a tensor of its name; the model then sees text of that size. */
static void
test_captions (void **state)
{
  g_autofree char *captions = in_folder ("captions.safetensors"),
                  *missing = in_folder ("missing-captions.safetensors"),
                  *wide = in_folder ("wide-captions.safetensors"), *name = g_path_get_basename (video);
  random_text_write (captions, name, 2, 3, 8, 1, 1);
  random_text_write (missing, "nothing.mp4", 1, 3, 8, 1, 1);
  random_text_write (wide, name, 1, 3, 9, 1, 1);
  BAD (1, "holds no text of video.y4m", TRAIN, "-o", "no.safetensors", "--steps", "1", "--family", "starflow",
       "--head-dim", "32", "--captions", missing, video);
  BAD (2, "--family starflow", TRAIN, "-o", "no.safetensors", "--steps", "1", "--captions", captions, video);
  BAD (2, "--labels and --captions", TRAIN, "-o", "no.safetensors", "--steps", "1", "--labels", "--captions",
       captions, video);
  GOOD (TRAIN, "-o", "captioned.safetensors", "--steps", "4", "--stop-after", "2", "--family", "starflow",
        "--head-dim", "32", "--captions", captions, "--label-dropout", "0.5", video);
  GOOD ("train", "-q", "-o", "captioned.safetensors", "--resume");
  GOOD (TRAIN, "-o", "at-once.safetensors", "--steps", "4", "--family", "starflow", "--head-dim", "32",
        "--captions", captions, "--label-dropout", "0.5", video);
  g_autofree char *told = good (ARGUMENTS ("info", "--json", "captioned.safetensors")),
                  *same = good (ARGUMENTS ("info", "--json", "at-once.safetensors")), *digest = NULL;
  assert_non_null (strstr (told, "\"txt_size\" : 3"));
  assert_null (strstr (told, "\"classes\""));
  digest = g_strndup (strstr (told, "\"digest\""), 40);
  assert_non_null (strstr (same, digest));
  BAD (2, "--captions says", "train", "-q", "-o", "no.safetensors", "--steps", "1", "--init",
       "captioned.safetensors", video);
  /* videos, too */
  GOOD (TRAIN, "-o", "captioned-video.safetensors", "--steps", "2", "--family", "starflow", "--frames", "2",
        "--noise", "gaussian", "--noise-std", "0.1", "--denoiser", "1", "--head-dim", "32", "--captions",
        captions, "--label-dropout", "0.5", video);
  g_autofree char *moving = good (ARGUMENTS ("info", "--json", "captioned-video.safetensors"));
  assert_non_null (strstr (moving, "\"txt_dim\" : 8"));
  BAD (2, "a world has none", TRAIN, "-o", "no.safetensors", "--steps", "1", "--family", "starflow",
       "--head-dim", "32", "--frames", "2", "--world", "pong", "--captions", captions);
  BAD (1, "(B, 3, 8)", "train", "-q", "-o", "no.safetensors", "--steps", "1", "--init",
       "captioned.safetensors", "--captions", wide, video);
  assert_missing ("no.safetensors");
  /* a run goes on with the text that it began with, which nothing takes the place of */
  BAD (1, "captions.safetensors", TRAIN, "-o", captions, "--steps", "1", "--family", "starflow", "--head-dim",
       "32", "--captions", captions, video);
  GOOD (TRAIN, "-o", "other-text.safetensors", "--steps", "4", "--stop-after", "2", "--family", "starflow",
        "--head-dim", "32", "--captions", captions, video);
  /* one that began before that was kept, from here on */
  replace_in ("other-text.safetensors.checkpoint.json", "\"captions_digest\"", "\"captions_before\"");
  GOOD ("train", "-q", "-o", "other-text.safetensors", "--resume", "--stop-after", "3");
  /* wherever it is by now */
  g_autofree char *elsewhere = in_folder ("elsewhere-text.safetensors");
  assert_int_equal (g_rename (captions, elsewhere), 0);
  GOOD ("train", "-q", "-o", "other-text.safetensors", "--resume", "--captions", elsewhere);
  random_text_write (elsewhere, name, 2, 3, 8, 1, 2);
  BAD (1, "other text than the run began with", "train", "-q", "-o", "other-text.safetensors", "--resume");
}

/* Of a folder's pictures those are left that train keeps away. */
static void
test_eval_holdout (void **state)
{
  g_autofree char *shots = in_folder ("shots");
  g_mkdir (shots, 0700);
  GOOD ("sample", "-q", "-m", model, "--count", "5", "shots/%d.png");
  GOOD ("eval", "-q", "-m", model, "--holdout", "0.3", "--json", "held.ndjson", "shots");
  assert_int_equal (count ("held.ndjson", "\"bits_per_dim\""), 2);
  assert_int_equal (count ("held.ndjson", "\"file\":\"shots/4.png\""), 1);
  assert_int_equal (count ("held.ndjson", "\"file\":\"shots/5.png\""), 1);
  GOOD ("eval", "-q", "-m", model, "--json", "held.ndjson", "shots");
  assert_int_equal (count ("held.ndjson", "\"bits_per_dim\""), 5);
  BAD (1, "trained on", "eval", "-q", "-m", model, "--holdout", "0.3", "shots/1.png");
}

/* Frames of another size than a model of videos takes are scaled as training scales them, if asked for. */
static void
test_scaled (void **state)
{
  BAD (1, "takes 64x64 only; scale it before (--scale does it)\n", "encode", PONG, video, "no.safetensors");
  BAD (1, "takes 64x64 only; scale it before (--scale does it)\n", "eval", PONG, video);
  BAD (1, "takes 64x64 only; scale it before\n", "sheet", PONG, video, "no.png");
  g_auto (Result) scaled = run (ARGUMENTS ("eval", PONG, "--scale", "--check", "-n", "3", video));
  assert_int_equal (scaled.status, 0);
  assert_non_null (strstr (scaled.errors, ": 3 frames of 64x64 (scaled from 41x27), "));
  g_autofree char *said = good (
      ARGUMENTS ("encode", "-m", "normflow-pong-64", "--scale", "-n", "3", video, "scaled.safetensors"));
  assert_non_null (strstr (said, "3 frames of 64x64 (scaled from 41x27), "));
  /* shown, frames are as wide for their height as before */
  g_autofree char *latents = good (ARGUMENTS ("info", "--json", "scaled.safetensors"));
  assert_non_null (strstr (latents, "sample_aspect_ratio=41/27"));
  /* scaled once, they come back as they are */
  GOOD ("decode", "-q", "-m", "normflow-pong-64", "scaled.safetensors", "scaled.mkv");
  g_autoptr (GRegex) names = g_regex_new ("\"file\":\"[^\"]*\"", 0, 0, NULL);
  g_autofree char *again = good (ARGUMENTS ("eval", PONG, "--check", "-n", "3", "scaled.mkv")),
                  *wanted = g_regex_replace_literal (names, scaled.output, -1, 0, "", 0, NULL),
                  *got = g_regex_replace_literal (names, again, -1, 0, "", 0, NULL);
  assert_string_equal (got, wanted);
  BAD (1, "--scale is for models of videos, and", "eval", "-q", "-m", model, "--scale", video);
  BAD (1, "--scale is for models of videos, and", "encode", "-q", "-m", model, "--scale", video,
       "no.safetensors");
  BAD (1, "--scale is for models of videos, and", "eval", "-q", "--scale", "--denoise", "0.1", video);
}

/* Files of one name are told apart, wherever they are named. */
static void
test_eval_same_names (void **state)
{
  static const char *const options[][2] = { { "--holdout", "0.5" }, { "--denoise", "0.05" }, { "-n", "1" } };
  g_autofree char *twins = in_folder ("twins"), *a = in_folder ("twins/a"), *b = in_folder ("twins/b");
  assert_true (g_mkdir (twins, 0700) == 0 && g_mkdir (a, 0700) == 0 && g_mkdir (b, 0700) == 0);
  GOOD ("sample", "-q", "-m", model, "--count", "2", "twins/a/%d.png");
  GOOD ("sample", "-q", "-m", model, "--count", "2", "twins/b/%d.png");
  for (guint i = 0; i < G_N_ELEMENTS (options); i++)
    for (guint named = 0; named < 2; named++)
      {
        g_auto (Result) result
            = named ? run (ARGUMENTS ("eval", "-q", "-m", model, options[i][0], options[i][1], "--json",
                                      "twins.ndjson", "./twins/a", "twins//b/"))
                    : run (ARGUMENTS ("eval", "-q", "-m", model, options[i][0], options[i][1], "--json",
                                      "twins.ndjson", "twins"));
        assert_int_equal (result.status, 0);
        assert_int_equal (
            count ("twins.ndjson", named ? "\"file\":\"./twins/a/2.png\"" : "\"file\":\"twins/a/2.png\""), 1);
        assert_int_equal (
            count ("twins.ndjson", named ? "\"file\":\"twins//b/2.png\"" : "\"file\":\"twins/b/2.png\""), 1);
        assert_non_null (strstr (result.output, "twins/a/2.png: "));
      }
}

/* Frames of a video are scored as they are among all others, whichever are asked for: the very numbers if the
 * stream begins where the video does, else others by the noise that it adds. */
static void
test_eval_some (void **state)
{
  static const guint starts[] = { 5, 12 };
  g_autoptr (GRegex) known = g_regex_new ("\"frame\":([0-9]+),.*\"bits_per_dim\":([0-9.e-]+),", 0, 0, NULL);
  GOOD ("world", "pong", "some.mkv", "-q", "-n", "23", "-p", "random");
  g_autofree char *all = good (ARGUMENTS ("eval", PONG, "--actions", "some.mkv"));
  g_auto (GStrv) wanted = g_strsplit (all, "\n", -1);
  for (guint i = 0; i < G_N_ELEMENTS (starts); i++)
    {
      g_autofree char *share = g_strdup_printf ("%g", (22.5 - starts[i]) / 23),
                      *text = good (ARGUMENTS ("eval", PONG, "--actions", "--holdout", share, "--every", "2",
                                               "-n", "2", "--check", "some.mkv"));
      g_auto (GStrv) lines = g_strsplit (g_strstrip (text), "\n", -1);
      assert_int_equal (g_strv_length (lines), 2);
      for (guint f = 0; f < 2; f++)
        {
          g_autoptr (GMatchInfo) one = NULL, other_one = NULL;
          assert_true (g_regex_match (known, lines[f], 0, &one));
          assert_true (g_regex_match (known, wanted[starts[i] + 2 * f], 0, &other_one));
          g_autofree char *number = g_match_info_fetch (one, 1), *bits = g_match_info_fetch (one, 2),
                          *same = g_match_info_fetch (other_one, 1),
                          *exact = g_match_info_fetch (other_one, 2);
          assert_string_equal (number, same);
          assert_non_null (strstr (lines[f], "\"differing\":0"));
          /* a first frame, which nothing is known before, has ten times as many */
          if (fabs (g_ascii_strtod (bits, NULL) - g_ascii_strtod (exact, NULL)) > (i ? 0.002 : 0))
            fail_msg ("frame %s: %s and %s", number, bits, exact);
        }
    }
  GOOD ("sheet", PONG, "-n", "2", "--every", "5", "some.mkv", "some.png");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_bench),
    cmocka_unit_test (test_bench_decode),
    cmocka_unit_test (test_bench_decode_video),
    cmocka_unit_test (test_eval),
    cmocka_unit_test (test_eval_unreadable),
    cmocka_unit_test (test_calibrate),
    cmocka_unit_test (test_calibrate_names),
    cmocka_unit_test (test_eval_holdout),
    cmocka_unit_test (test_scaled),
    cmocka_unit_test (test_eval_same_names),
    cmocka_unit_test (test_eval_some),
    cmocka_unit_test (test_rounded_threshold),
    cmocka_unit_test (test_noise),
    cmocka_unit_test (test_labels),
    cmocka_unit_test (test_captions),
  };
  return cmocka_run_group_tests_name ("tool-eval", tests, set_up, tear_down);
}
