/* normflow: the command, each sub-command as a user runs it. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include "nf-parameters.h"
#include "random-model.h"
#include "tool-folder.h"

#include <cairo.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <signal.h>
#include <unistd.h>

/* NAME.y4m holds frames FIRST .. FIRST+N-1 of the video, whatever its header says. */
static void
assert_frames (const char *name, gsize first, gsize n)
{
  g_autoptr (GBytes) all = contents ("video.y4m"), part = contents (name);
  const gsize frame = 6 + SAMPLES, size = g_bytes_get_size (part);
  assert_true (size > n * frame);
  const guint8 *wanted
      = (const guint8 *)g_bytes_get_data (all, NULL) + g_bytes_get_size (all) - (FRAMES - first) * frame,
      *got = (const guint8 *)g_bytes_get_data (part, NULL) + size - n * frame;
  assert_int_equal (got[-1], '\n');
  assert_memory_equal (got, wanted, n * frame);
}

static void
assert_png (const char *name)
{
  g_autoptr (GBytes) bytes = contents (name);
  assert_true (g_bytes_get_size (bytes) > 100);
  assert_memory_equal (g_bytes_get_data (bytes, NULL), "\x89PNG\r\n\x1a\n", 8);
}

/* What they have in common */

static void
test_overview (void **state)
{
  static const char *const names[]
      = { "bench", "calibrate", "convert", "decode", "denoise", "devices", "encode",
          "eval",  "hints",     "info",    "sample", "sheet",   "train",   "verify" };
  g_autofree char *overview = good (ARGUMENTS ("--help")), *version = good (ARGUMENTS ("--version"));
  assert_non_null (strstr (version, "normflow"));
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *help = good (ARGUMENTS (names[i], "--help"));
      assert_non_null (strstr (overview, names[i]));
      assert_non_null (strstr (help, "Usage:"));
      BAD (2, "--nonsense", names[i], "--nonsense");
    }
  /* what is empty is no default, and no folder either */
  BAD (2, "--layers is empty", "train", "-o", "no.safetensors", "--steps", "1", "--layers", "", video);
  BAD (2, "--scales is empty", "train", "-o", "no.safetensors", "--steps", "1", "--scales", "", video);
  BAD (2, "--log is empty", "train", "-o", "no.safetensors", "--steps", "1", "--log", "", video);
  BAD (2, "--samples is empty", "train", "-o", "no.safetensors", "--steps", "1", "--samples", "", video);
  BAD (2, "--validation is empty", "train", "-o", "no.safetensors", "--steps", "1", "--validation", "",
       video);
  BAD (2, "--model is empty", "eval", "--model", "", video);
  BAD (2, "--sizes is empty", "bench", "--sizes", "");
  BAD (2, "an argument is empty", "train", "-o", "no.safetensors", "--steps", "1", "");
  BAD (2, "an argument is empty", "info", "");
  BAD (2, "an argument is empty", "convert", "", "no.safetensors");
  BAD (2, "an argument is empty", "encode", video, "");
  g_auto (Result) unknown = run (ARGUMENTS ("encod"));
  assert_int_equal (unknown.status, 2);
  assert_non_null (strstr (unknown.errors, "did you mean encode?"));
}

static void
test_models_and_devices (void **state)
{
  g_autofree char *devices = good (ARGUMENTS ("devices")), *empty = in_folder ("empty.safetensors"),
                  *cut = in_folder ("cut.safetensors");
  g_autoptr (GBytes) whole = contents ("model.safetensors");
  assert_true (strlen (devices) > 20);
  /* as a specification would have it */
  g_autofree char *gpu_kernels
      = good (ARGUMENTS ("devices", "--json", "-d", "cpu,kernels=gpu,precision=bf16"));
  assert_non_null (strstr (gpu_kernels, "\"kernels\" : \"gpu\""));
  assert_non_null (strstr (gpu_kernels, "\"bf16_form\" : \"fma\""));
  g_autofree char *fma = good (ARGUMENTS ("devices", "--json", "-d", "cpu,bf16=fma"));
  assert_non_null (strstr (fma, "\"bf16_form\" : \"fma\""));
  assert_true (g_file_set_contents (empty, "", 0, NULL));
  assert_true (
      g_file_set_contents (cut, g_bytes_get_data (whole, NULL), (gssize)g_bytes_get_size (whole) / 2, NULL));
  BAD (1, "no-such-model", "eval", "-m", "no-such-model", video);
  BAD (1, "/nowhere/model.safetensors", "eval", "-m", "/nowhere/model.safetensors", video);
  BAD (1, "empty.safetensors", "eval", "-m", empty, video);
  BAD (1, "truncated", "eval", "-m", cut, video);
  BAD (1, "video.y4m", "eval", "-m", video, video);
  BAD (1, "no-such-device", "eval", "-m", model, "-d", "no-such-device", video);
}

/* What no file and no device could make right is wrong usage, and said before anything is begun. */
static void
test_wrong_usage (void **state)
{
  BAD (2, "--scales 0.001: up to 16 numbers from 1/64", TRAIN, "-o", "no.safetensors", "--steps", "1",
       "--scales", "0.001", video);
  BAD (2, "--minutes M", TRAIN, "-o", "no.safetensors", "--steps", "1", "--minutes", "nan", video);
  BAD (2, "--minutes M", TRAIN, "-o", "no.safetensors", "--minutes", "inf", video);
  BAD (2, "sides are 16 to", "train", "-o", "no.safetensors", "--steps", "1", "--family", "starflow",
       "--frames", "2", "--patch", "4", "--world", "pong", "--size", "8x8");
  BAD (2, "--size: a world of 8x8 pixels is not possible", "world", "-s", "8x8", "pong", "no.mkv");
  BAD (2, "precision \"f16\"", "eval", "-m", "no-such-model", "-d", "no-such-device,precision=f16", video);
  BAD (2, "each once", "eval", "-m", "no-such-model", "-d", "cpu,precision=bf16", "--precision", "f32",
       video);
  BAD (2, "\"1:\" is not a device", "devices", "-d", "1:");
  BAD (2, "--noise uniform has none", "convert", "--noise", "uniform", "--noise-std", "0.1", "no-such-model",
       "no.safetensors");
  BAD (2, "--map-frame 3 is not one of", "eval", "-m", "no-such-model", "--map", "no.png", "--map-frame", "3",
       "--every", "2", video);
  BAD (2, "--map-frame 4 is not one of", "eval", "-m", "no-such-model", "--map", "no.png", "--map-frame", "4",
       "--every", "2", "-n", "2", video);
  BAD (1, "no-such-model", "eval", "-m", "no-such-model", "--map", "no.png", "--map-frame", "2", "--every",
       "2", "-n", "2", video);
}

static void
test_info (void **state)
{
  g_autofree char *text = good (ARGUMENTS ("info", "--tensors", model));
  assert_non_null (strstr (text, "16x16"));
  assert_non_null (strstr (text, "blocks.1.proj_out.weight"));
  BAD (1, "there is no model nothing.safetensors in", "info", "nothing");
  BAD (1, "there is no model file nothing.safetensors, nor", "info", "nothing.safetensors");
  BAD (1, "there is no model file nothing.pth, nor", "info", "nothing.pth");
  BAD (1, "there is no model file nothing.pt, nor", "eval", "-m", "nothing.pt", video);
  BAD (1, "there is no model file ./nothing", "info", "./nothing");
  BAD (1, ". is not a regular file, and there is no model of that name in", "info", ".");
  BAD (1, "video.y4m", "info", video);
}

/* What no number of JSON says is null. */
static void
test_info_not_finite (void **state)
{
  g_autofree char *path = in_folder ("infinite.safetensors");
  g_autoptr (GError) error = NULL;
  GOOD ("encode", "-q", "-m", model, "-n", "2", video, "infinite.safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  float bits[] = { 1, (float)INFINITY };
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    if (strcmp (tensors[i].name, "bits_per_dim") == 0)
      tensors[i].data = (const guint8 *)bits;
  nf_test_ok (nf_tensor_file_write (path, tensors, nf_tensor_file_count (file),
                                    nf_tensor_file_get_all_metadata (file), &error),
              error);
  g_autofree char *text = good (ARGUMENTS ("info", "--json", "infinite.safetensors"));
  if (!strstr (text, "\"bits_per_dim_min\" : 1.0") || !strstr (text, "\"bits_per_dim_max\" : null"))
    fail_msg ("%s", text);
}

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

/* There and back */

/* A file of more than the model's layout holds is encoded, and what is left of it is said. */
static void
test_lossy_input (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GString) clip = g_string_new ("YUV4MPEG2 W16 H16 F5:1 C444 XCOLORRANGE=FULL\nFRAME\n");
  g_autofree char *path = in_folder ("444.y4m");
  for (guint i = 0; i < 3 * 16 * 16; i++)
    g_string_append_c (clip, (char)(i * 7));
  nf_test_ok (g_file_set_contents (path, clip->str, (gssize)clip->len, &error), error);
  g_auto (Result) result = run (ARGUMENTS ("encode", "-m", model, "444.y4m", "444.safetensors"));
  assert_int_equal (result.status, 0);
  assert_non_null (strstr (result.errors, "colour becomes 4:2:0"));
  /* and how the samples are meant goes with them */
  g_autofree char *info = good (ARGUMENTS ("info", "444.safetensors"));
  assert_non_null (strstr (info, "color_range=pc"));
  GOOD ("decode", "-q", "-m", model, "444.safetensors", "420.y4m");
  g_autoptr (GBytes) decoded = contents ("420.y4m");
  assert_non_null (g_strstr_len (g_bytes_get_data (decoded, NULL), (gssize)g_bytes_get_size (decoded),
                                 "XCOLORRANGE=FULL"));
}

/* far.y4m: a frame that the bundled models know, and two that are far from all that they have learnt. */
static void
draw_far_clip (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GString) clip = g_string_new ("YUV4MPEG2 W32 H32 F5:1 C420jpeg\n");
  g_autofree char *path = in_folder ("far.y4m");
  for (guint n = 0; n < 3; n++)
    {
      g_string_append (clip, "FRAME\n");
      /* a grey one, then noise of luma and chroma */
      for (guint i = 0; i < 32 * 32 * 3 / 2; i++)
        g_string_append_c (clip, n ? (char)(256 * nf_random_uniform (n, 0, i)) : (char)128);
    }
  nf_test_ok (g_file_set_contents (path, clip->str, (gssize)clip->len, &error), error);
}

/* Frames that may not come back in every byte are counted, also with --quiet: with --half, since without it
 * there are corrections where they are needed, with which they do. */
static void
test_far_frames (void **state)
{
  draw_far_clip ();
  g_auto (Result) far = run (
      ARGUMENTS ("encode", "-q", "--half", "-m", "normflow-yuv420-32-small", "far.y4m", "far.safetensors"));
  assert_int_equal (far.status, 0);
  if (!strstr (far.errors, "note: 2 of 3 frames of far.y4m may not come back in every byte; the first, "
                           "frame 1, has parts far from all"))
    fail_msg ("no note of frames that may not come back: %s", far.errors);
  g_auto (Result) near = run (ARGUMENTS ("encode", "-q", "--half", "-m", "normflow-yuv420-32-small", "-n",
                                         "1", "far.y4m", "near.safetensors"));
  assert_int_equal (near.status, 0);
  assert_string_equal (near.errors, "");
}

/* far.safetensors with its corrections changed: word WORD of the first becomes VALUE, and a correction has
 * WORDS of them; decoding says WRONG. */
static void
assert_refused (guint word, gint32 value, guint64 words, const char *wrong)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *from = in_folder ("far.safetensors"), *to = in_folder ("wrong.safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (from, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = g_new0 (NfTensor, n);
  g_autofree gint32 *changed = NULL;
  for (guint i = 0; i < n; i++)
    {
      tensors[i] = *nf_tensor_file_get (file, i);
      if (!g_str_equal (tensors[i].name, "corrections"))
        continue;
      assert_true (tensors[i].dims[0] > 0);
      changed = g_memdup2 (tensors[i].data, tensors[i].n_elements * sizeof *changed);
      changed[word] = GINT32_TO_LE (value);
      tensors[i].data = (const guint8 *)changed;
      tensors[i].dims[0] = tensors[i].dims[0] * tensors[i].dims[1] / words;
      tensors[i].dims[1] = words;
      tensors[i].n_elements = tensors[i].dims[0] * words;
    }
  assert_non_null (changed);
  static const char *const strings[]
      = { "format",       "model_digest", "model",     "width",        "height",
          "pixel_layout", "frame_rate",   "precision", "multiplied_by" };
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint i = 0; i < G_N_ELEMENTS (strings); i++)
    g_hash_table_insert (metadata, (gpointer)strings[i],
                         (gpointer)nf_tensor_file_get_metadata (file, strings[i]));
  nf_test_ok (nf_tensor_file_write (to, tensors, n, metadata, &error), error);
  g_auto (Result) result
      = run (ARGUMENTS ("decode", "-m", "normflow-yuv420-32-small", "wrong.safetensors", "wrong.y4m"));
  assert_int_equal (result.status, 1);
  if (!strstr (result.errors, wrong))
    fail_msg ("word %u = %d: %s", word, value, result.errors);
}

/* Files of latents say what decoding would not find, and then it does; what is no such thing is refused. */
static void
test_corrections (void **state)
{
  g_autofree char *clip = in_folder ("far.y4m"), *back = in_folder ("back.y4m"), *before = NULL,
                  *after = NULL;
  gsize n_before, n_after;
  const gsize frames = 3 * (strlen ("FRAME\n") + 32 * 32 * 3 / 2);
  draw_far_clip ();
  g_auto (Result) encoded
      = run (ARGUMENTS ("encode", "-m", "normflow-yuv420-32-small", "far.y4m", "far.safetensors"));
  assert_int_equal (encoded.status, 0);
  assert_null (strstr (encoded.errors, "may not come back"));
  g_auto (Result) decoded
      = run (ARGUMENTS ("decode", "-m", "normflow-yuv420-32-small", "far.safetensors", "back.y4m"));
  assert_int_equal (decoded.status, 0);
  assert_true (g_file_get_contents (clip, &before, &n_before, NULL)
               && g_file_get_contents (back, &after, &n_after, NULL));
  assert_true (n_before > frames && n_after > frames);
  assert_memory_equal (before + n_before - frames, after + n_after - frames, frames);

  assert_refused (0, 3, 5, "corrections must be of (corrections, 5)");
  assert_refused (0, -1, 5, "corrections must be of (corrections, 5)");
  assert_refused (0, 1, 1, "corrections must be of (corrections, 5)");
  assert_refused (1, 1, 5, "there is no such sample");
  assert_refused (2, 99, 5, "there is no such block");
  assert_refused (3, 8 * 8 * 24, 5, "there is no such place");
  assert_refused (4, 0x7f800000, 5, "not finite");
}

/* A sequence of pictures has no gaps: nothing of it is left out unseen. */
static void
test_gap (void **state)
{
  g_autofree char *fourth = in_folder ("gap-0004.png");
  GOOD ("denoise", "-q", "-m", model, "-s", "0", "-n", "10", video, "gap-%04d.png");
  GOOD ("encode", "-q", "-m", model, "gap-%04d.png", "whole.safetensors");
  assert_int_equal (g_unlink (fourth), 0);
  BAD (1, "gap-0004.png is missing, but 6 pictures from gap-0005.png on are there", "encode", "-q", "-m",
       model, "gap-%04d.png", "gap.safetensors");
  assert_missing ("gap.safetensors");
}

/* The run says NOTE of uneven times, or, with NULL, nothing. */
static void
watch_times (const char *note, const char *const *arguments)
{
  g_auto (Result) result = run (arguments);
  assert_int_equal (result.status, 0);
  if (note ? !strstr (result.errors, note) : strstr (result.errors, "uneven") != NULL)
    fail_msg ("%s: wanted %s in: %s", arguments[0], note ? note : "no note", result.errors);
}

static void
make_gif (const char *name, guint8 delay)
{
  /* four pictures of 4×4 in four colours, each shown for so many hundredths of a second */
  static const guint8 head[] = "GIF89a\4\0\4\0\x81\0\0\0\0\0PPP\xa0\xa0\xa0\xff\xff\xff",
                      picture[] = "\x2c\0\0\0\0\4\0\4\0\0\2\xa";
  static const guint8 codes[4][12]
      = { "\x04\x08\x10\x20\x40\x80\x00\x01\x02\x05", "\x4c\x98\x30\x61\xc2\x84\x09\x13\x26\x05",
          "\x94\x28\x51\xa2\x44\x89\x12\x25\x4a\x05", "\xdc\xb8\x71\xe3\xc6\x8d\x1b\x37\x6e\x05" };
  g_autoptr (GByteArray) gif = g_byte_array_new ();
  g_autofree char *path = in_folder (name);
  g_byte_array_append (gif, head, sizeof head - 1);
  for (guint i = 0; i < 4; i++)
    {
      const guint8 control[] = { 0x21, 0xf9, 4, 0, i == 2 ? delay : 4, 0, 0, 0 };
      g_byte_array_append (gif, control, sizeof control);
      g_byte_array_append (gif, picture, sizeof picture - 1);
      g_byte_array_append (gif, codes[i], 11);
    }
  g_byte_array_append (gif, (const guint8 *)";", 1);
  assert_true (g_file_set_contents (path, (const char *)gif->data, gif->len, NULL));
}

/* Latents, and videos that are written, have one rate: that other times are not kept is said. */
static void
test_uneven_times (void **state)
{
  make_gif ("even.gif", 4);
  make_gif ("uneven.gif", 20);
  watch_times (NULL, ARGUMENTS ("encode", "-m", model, "even.gif", "gif.safetensors"));
  watch_times (NULL, ARGUMENTS ("denoise", "-m", model, "-s", "0.1", "even.gif", "gif.mkv"));
  watch_times ("uneven times (frame 3 0.2 s after the one before); decoding writes 25 a second",
               ARGUMENTS ("encode", "-m", model, "uneven.gif", "gif.safetensors"));
  watch_times ("normflow denoise: note: the frames of uneven.gif come at uneven times (frame 3 0.2 s after "
               "the one before); gif.mkv has 25 a second",
               ARGUMENTS ("denoise", "-m", model, "-s", "0.1", "uneven.gif", "gif.mkv"));
  watch_times (NULL, ARGUMENTS ("denoise", "-q", "-m", model, "-s", "0.1", "uneven.gif", "gif.mkv"));
  watch_times (NULL, ARGUMENTS ("denoise", "-m", model, "-s", "0.1", "uneven.gif", "gif-%d.png"));
}

/* The run writes video, and says SAID of its times, once, or nothing (NULL). */
static void
watch_note (const char *said, const char *const *arguments)
{
  g_auto (Result) result = run (arguments);
  const char *note = strstr (result.errors, "does not hold the times");
  assert_int_equal (result.status, 0);
  if ((note != NULL) != (said != NULL) || (said && !strstr (result.errors, said))
      || (note && strstr (note + 1, "does not hold the times")))
    fail_msg ("%s: wanted %s in: %s", arguments[0], said ? said : "no note", result.errors);
}

/* Matroska has no times for more than a frame each millisecond, which is said by all that write it. */
static void
test_fast_times (void **state)
{
  static const char *const names[] = { "fast.mkv", "fast-again.y4m", "slow.mkv" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      const char *said = i ? NULL : "fast.mkv does not hold the times of 4000 frames a second";
      if (i != 1)
        {
          GOOD ("sample", "-q", "-m", model, "--frames", "3", "--rate", i ? "1000" : "4000", "fast.y4m");
          GOOD ("encode", "-q", "-m", model, "fast.y4m", "fast.safetensors");
        }
      watch_note (said, ARGUMENTS ("decode", "-m", model, "fast.safetensors", names[i]));
      if (i)
        continue;
      watch_note (NULL, ARGUMENTS ("decode", "-q", "-m", model, "fast.safetensors", names[i]));
      watch_note (said, ARGUMENTS ("sample", "-m", model, "--frames", "3", "--rate", "4000", names[i]));
      watch_note (said, ARGUMENTS ("denoise", "-m", model, "-s", "0.1", "fast.y4m", names[i]));
    }
  watch_note ("pong-000000.mkv does not",
              ARGUMENTS ("world", "-n", "1", "-c", "3", "-s", "32x32", "--rate", "4000", "pong", "fast"));
}

/* Where N bytes begin in a file's. */
static guint
find (GBytes *bytes, const char *wanted, gsize n)
{
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);
  for (gsize i = 0; i + n <= size; i++)
    if (memcmp (data + i, wanted, n) == 0)
      return (guint)i;
  fail_msg ("what is to be changed is not in the file");
  return 0;
}

/* A copy of FROM with bytes put in the place of as many. */
static void
copy_with (const char *from, const char *to, const char *old, const char *by, gsize n)
{
  g_autoptr (GBytes) bytes = contents (from);
  g_autofree char *path = in_folder (to);
  const gsize size = g_bytes_get_size (bytes);
  g_autofree guint8 *data = g_memdup2 (g_bytes_get_data (bytes, NULL), size);
  memcpy (data + find (bytes, old, n), by, n);
  assert_true (g_file_set_contents (path, (const char *)data, (gssize)size, NULL));
}

/* A frame that comes a millisecond late is told where times are milliseconds, and not what those round. */
static void
test_uneven_fast_times (void **state)
{
  GOOD ("sample", "-q", "-m", model, "--frames", "4", "--rate", "600", "even.mkv");
  /* the block of track 1 whose time is 5 */
  copy_with ("even.mkv", "late.mkv", "\x81\0\5\x80", "\x81\0\6\x80", 4);
  g_auto (Result) late = run (ARGUMENTS ("encode", "-m", model, "late.mkv", "late.safetensors"));
  assert_int_equal (late.status, 0);
  if (!strstr (late.errors, "uneven times (frame 3 0.003 s after the one before); decoding writes 600 a"))
    fail_msg ("%s", late.errors);
  GOOD ("sample", "-q", "-m", model, "--frames", "4", "--rate", "700", "even.mkv");
  g_auto (Result) even = run (ARGUMENTS ("encode", "-m", model, "even.mkv", "even.safetensors"));
  assert_int_equal (even.status, 0);
  assert_null (strstr (even.errors, "uneven"));
}

/* What is wrong in latents is told of their file. */
static void
test_wrong_latents (void **state)
{
  GOOD ("encode", "-q", "-m", model, "-n", "1", video, "right.safetensors");
  copy_with ("right.safetensors", "look.safetensors", "\"look\":\"c", "\"look\":\"x", 9);
  BAD (1, "look.safetensors: the look", "decode", "-q", "-m", model, "look.safetensors", "wrong.mkv");
  /* the first latent is a NaN */
  g_autoptr (GBytes) bytes = contents ("right.safetensors");
  const guint8 *data = g_bytes_get_data (bytes, NULL);
  const gsize header = 8 + (data[0] | (gsize)data[1] << 8 | (gsize)data[2] << 16);
  copy_with ("right.safetensors", "nan.safetensors", (const char *)data + header, "\0\0\xc0\x7f", 4);
  BAD (1, "nan.safetensors, frame 0", "decode", "-q", "-m", model, "nan.safetensors", "wrong.mkv");
  assert_missing ("wrong.mkv");
}

/* Makes the file TO of FROM, with PART of its header, the first, become TEXT. */
static void
edit_header (const char *from, const char *to, const char *part, const char *text)
{
  g_autoptr (GBytes) bytes = contents (from);
  g_autoptr (GByteArray) made = g_byte_array_new ();
  g_autofree char *path = in_folder (to);
  gsize size;
  const guint8 *data = g_bytes_get_data (bytes, &size);
  const guint at = find (bytes, part, strlen (part)), after = at + (guint)strlen (part);
  guint64 header;
  memcpy (&header, data, 8);
  header = GUINT64_TO_LE (GUINT64_FROM_LE (header) + strlen (text) - strlen (part));
  g_byte_array_append (made, (const guint8 *)&header, 8);
  g_byte_array_append (made, data + 8, at - 8);
  g_byte_array_append (made, (const guint8 *)text, (guint)strlen (text));
  g_byte_array_append (made, data + after, (guint)size - after);
  assert_true (g_file_set_contents (path, (const char *)made->data, made->len, NULL));
}

#define METADATA "\"__metadata__\":{"
#define HOSTILE "\\u001b[31mred\\nline\\u009b2J"

/* Keys of metadata are from outside, too. */
static void
test_metadata_keys (void **state)
{
  edit_header ("model.safetensors", "keys.safetensors", METADATA, METADATA "\"\\u001b[2J\":\"123456789\",");
  g_autofree char *text = good (ARGUMENTS ("info", "keys.safetensors"));
  assert_non_null (strstr (text, " [2J"));
  assert_null (strchr (text, '\033'));
}

/* The command fails with one line, of no great length, that a terminal takes for letters. */
static void
assert_plain_error (const char *what, const char *const *arguments)
{
  g_auto (Result) result = run (arguments);
  if (result.status != 1 || strlen (result.errors) > 1000 || strchr (result.errors, '\033')
      || strstr (result.errors, "\302\233") || strchr (result.errors, '\n') != strrchr (result.errors, '\n'))
    fail_msg ("%s: exit status %d and %.2000s", what, result.status, result.errors);
}

/* What files say is shown in messages, but nothing of it reaches the terminal that is no letter. */
static void
test_hostile_texts (void **state)
{
  static const char *const keys[]
      = { "precision", "look",         "multiplied_by", "text_digest",  "frame_rate",
          "context",   "model_digest", "model",         "multiplied_by" };
  g_autofree char *letters = g_strnfill (100000, 'a');
  GOOD ("encode", "-q", "-m", model, "-n", "1", video, "hostile.safetensors");
  g_autoptr (GBytes) bytes = contents ("hostile.safetensors");
  for (guint i = 0; i < G_N_ELEMENTS (keys); i++)
    {
      /* the last time it is a word, though a long one */
      g_autofree char *part = g_strdup_printf ("\"%s\":", keys[i]),
                      *text = g_strdup_printf ("\"%s\":\"%s%s\",", keys[i],
                                               i + 1 < G_N_ELEMENTS (keys) ? HOSTILE : "", letters),
                      *instead = g_strdup_printf ("%s\"other\":", text),
                      *first = g_strdup_printf (METADATA "%s", text);
      const gboolean there
          = g_strstr_len ((const char *)g_bytes_get_data (bytes, NULL) + 8, 2000, part) != NULL;
      edit_header ("hostile.safetensors", "edited.safetensors", there ? part : METADATA,
                   there ? instead : first);
      assert_plain_error (keys[i],
                          ARGUMENTS ("decode", "-q", "-m", other, "edited.safetensors", "hostile.y4m"));
    }
  edit_header ("model.safetensors", "edited.safetensors", "\"blocks.0.proj_out.bias\":", "\"" HOSTILE "\":");
  assert_plain_error ("tensor", ARGUMENTS ("eval", "-q", "-m", "edited.safetensors", video));
}

/* Decodes RIGHT to OUT; whether that is said to lose something, and what. */
static void
decode_note (const char *right, const char *from, const char *out, const char *note)
{
  g_auto (Result) result = run (ARGUMENTS ("decode", "-m", from, right, out));
  assert_int_equal (result.status, 0);
  if (note ? !strstr (result.errors, note) : strstr (result.errors, "note:") != NULL)
    fail_msg ("%s: wanted %s in: %s", out, note ? note : "no note", result.errors);
}

static void
test_lossy_output (void **state)
{
  GOOD ("encode", "-q", "-m", model, "-n", "1", video, "planes.safetensors");
  decode_note ("planes.safetensors", model, "planes.png", "note: planes.png does not hold the very bytes");
  decode_note ("planes.safetensors", model, "planes.mkv", NULL);
  decode_note ("planes.safetensors", model, "planes.y4m", NULL);
  GOOD ("world", "pong", "rgb.mkv", "-q", "-n", "1");
  GOOD ("encode", "-q", "-m", "normflow-pong-64", "rgb.mkv", "rgb.safetensors");
  decode_note ("rgb.safetensors", "normflow-pong-64", "rgb.y4m", "RGB becomes 4:2:0");
  decode_note ("rgb.safetensors", "normflow-pong-64", "rgb.mp4", "with loss");
  decode_note ("rgb.safetensors", "normflow-pong-64", "rgb.png", NULL);
  decode_note ("rgb.safetensors", "normflow-pong-64", "rgb-again.mkv", NULL);
}

/* A picture's name is one of a sequence if it has a number; any other % is a letter. */
static void
test_sequence_names (void **state)
{
  g_auto (Result) stopped = { 0 };
  GOOD ("encode", "-q", "-m", model, "--frames", "3", video, "three.safetensors");
  BAD (1, "put one %04d into its name", "decode", "-q", "-m", model, "three.safetensors", "x%s.png");
  stopped = run (ARGUMENTS ("decode", "-q", "-m", model, "three.safetensors", "x%05n.png"));
  assert_int_equal (stopped.status, 1);
  assert_non_null (strstr (stopped.errors, "x%05n.png holds the first frame\n"));
  /* a fragment does not replace what is whole */
  GOOD ("decode", "-q", "-m", model, "--frames", "1", "three.safetensors", "whole.png");
  GOOD ("decode", "-q", "-m", model, "--frames", "1", "three.safetensors", "same.png");
  g_auto (Result) again
      = run (ARGUMENTS ("decode", "-q", "-m", model, "--first", "1", "three.safetensors", "whole.png"));
  assert_int_equal (again.status, 1);
  assert_non_null (
      strstr (again.errors, "whole.partial.png holds the first frame, and the file that was there stays\n"));
  assert_same_files ("whole.png", "same.png");
  assert_png ("whole.partial.png");
  BAD (1, "is one picture, but videos here have 3 frames", "sample", "-q", "-m", "normflow-pong-64",
       "--frames", "3", "video.png");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "1", "video.png");
  GOOD ("decode", "-q", "-m", model, "three.safetensors", "100%%-%02d.png");
  assert_png ("100%-03.png");
  GOOD ("sample", "-q", "-m", model, "--count", "2", "50%.png");
  GOOD ("sample", "-q", "-m", model, "--count", "2", "plain.png");
  assert_same_files ("50%.png", "plain.png");
  g_auto (Result) one = run (ARGUMENTS ("eval", "-q", "-m", model, "--frames", "1", video));
  assert_non_null (strstr (one.errors, ": 1 frame, "));
}

static void
test_encode_decode (void **state)
{
  g_autofree char *latents = in_folder ("latents.safetensors"), *noise = in_folder ("noise.safetensors");
  GOOD ("encode", "-q", "-m", model, video, latents);
  GOOD ("decode", "-q", "-m", model, latents, "again.y4m");
  assert_frames ("again.y4m", 0, FRAMES);
  GOOD ("decode", "-q", "-m", model, "--first", "3", "-n", "2", "--method", "jacobi", latents, "part.y4m");
  assert_frames ("part.y4m", 3, 2);

  g_autofree char *info = good (ARGUMENTS ("info", latents));
  assert_non_null (strstr (info, "41x27"));
  GOOD ("encode", "-q", "-m", model, "--half", "-n", "2", video, "half.safetensors");
  GOOD ("decode", "-q", "-m", model, "half.safetensors", "half.mkv");

  /* latents say in which precision they were made, and are decoded in it */
  GOOD ("encode", "-q", "-m", model, "--precision", "bf16", video, "rounded.safetensors");
  GOOD ("decode", "-q", "-m", model, "rounded.safetensors", "rounded.y4m");
  assert_frames ("rounded.y4m", 0, FRAMES);
  g_autofree char *rounded = good (ARGUMENTS ("info", "rounded.safetensors"));
  assert_non_null (strstr (rounded, "bf16"));
  g_auto (Result) other_way
      = run (ARGUMENTS ("decode", "-q", "-m", model, "--precision", "f32", "rounded.safetensors", "f32.y4m"));
  assert_int_equal (other_way.status, 0);
  assert_non_null (strstr (other_way.errors, "made in bf16 and are decoded in f32"));
  /* and by what multiplied, where it is not what is usual */
  g_setenv ("NORMFLOW_INT8", "fma", TRUE);
  GOOD ("encode", "-q", "-m", model, "-d", "auto,vectors=16", "--precision", "int8-weights", video,
        "plain.safetensors");
  g_unsetenv ("NORMFLOW_INT8");
  g_auto (Result) alike = run (ARGUMENTS ("decode", "-q", "-m", model, "plain.safetensors", "plain.y4m"));
  assert_string_equal (alike.errors, "");
  assert_frames ("plain.y4m", 0, FRAMES);
  g_autofree char *plain = good (ARGUMENTS ("info", "plain.safetensors")),
                  *members = good (ARGUMENTS ("info", "--json", "plain.safetensors"));
  assert_non_null (strstr (plain, "int8-weights by fma"));
  assert_non_null (strstr (members, "\"precision\" : \"int8-weights\""));
  assert_non_null (strstr (members, "\"multiplied_by\" : \"fma\""));
  /* forms that give the same bits decode each other's */
  replace_in ("plain.safetensors", "\"multiplied_by\":\"fma\"", "\"multiplied_by\":\"amx\"");
  g_autoptr (NfDevice) madd = nf_device_open ("auto,vectors=16,precision=int8-weights,int8=madd", NULL);
  g_setenv ("NORMFLOW_INT8", madd ? "madd" : "fma", TRUE);
  g_auto (Result) same = run (
      ARGUMENTS ("decode", "-q", "-m", model, "-d", "auto,vectors=16", "plain.safetensors", "plain.y4m"));
  g_unsetenv ("NORMFLOW_INT8");
  assert_int_equal (strstr (same.errors, "made in int8-weights by amx") != NULL, !madd);
  replace_in ("plain.safetensors", "\"multiplied_by\":\"amx\"", "\"multiplied_by\":\"abc\"");
  g_auto (Result) unlike = run (ARGUMENTS ("decode", "-q", "-m", model, "plain.safetensors", "plain.y4m"));
  assert_int_equal (unlike.status, 0);
  assert_non_null (strstr (unlike.errors, "made in int8-weights by abc and are decoded by"));
  replace_in ("plain.safetensors", "\"multiplied_by\":\"abc\"", "\"multiplied_by\":\"a,c\"");
  BAD (1, "multiplied_by is \"a,c\"", "decode", "-q", "-m", model, "plain.safetensors", "plain.y4m");
  /* where operands are rounded the width of vectors tells, too, and is taken from the latents */
  GOOD ("encode", "-q", "-m", model, "-d", "auto,vectors=8", "--precision", "bf16", video,
        "narrow.safetensors");
  g_auto (Result) narrow = run (ARGUMENTS ("decode", "-q", "-m", model, "narrow.safetensors", "narrow.y4m"));
  assert_string_equal (narrow.errors, "");
  assert_frames ("narrow.y4m", 0, FRAMES);
  g_auto (Result) wide = run (
      ARGUMENTS ("decode", "-q", "-m", model, "-d", "auto,vectors=4", "narrow.safetensors", "narrow.y4m"));
  assert_int_equal (wide.status, 0);
  assert_non_null (strstr (wide.errors, "made in bf16 by fma-8 and are decoded by fma-4"));

  g_autoptr (GError) error = NULL;
  g_autofree char *ours = nf_model_digest_of_file (model, &error),
                  *theirs = nf_model_digest_of_file (other, &error);
  ours[12] = theirs[12] = 0;
  BAD (1, ours, "decode", "-q", "-m", other, latents, "wrong.y4m");
  BAD (1, theirs, "decode", "-q", "-m", other, latents, "wrong.y4m");
  BAD (1, "other.safetensors", "decode", "-q", "-m", model, other, "wrong.y4m");
  BAD (2, "wrong.xyz", "decode", "-q", "-m", model, latents, "wrong.xyz");
  BAD (1, "nothing.mkv", "encode", "-q", "-m", model, "nothing.mkv", "wrong.safetensors");
  BAD (1, "/nowhere/", "encode", "-q", "-m", model, video, "/nowhere/wrong.safetensors");
  BAD (1, "model.safetensors", "encode", "-q", "-m", model, model, "wrong.safetensors");
  BAD (2, "LATENTS.safetensors", "encode", "-q", video);
  assert_missing ("wrong.y4m");
  assert_missing ("wrong.safetensors");
  assert_true (g_file_set_contents (noise, "not what it says", -1, NULL));
  BAD (1, "noise.safetensors", "decode", "-q", "-m", model, noise, "wrong.y4m");
}

/* Of a model of videos: each frame given those before it, and what was done. */
static void
test_encode_stream (void **state)
{
  GOOD ("world", "pong", "pong.mkv", "-q", "-n", "12", "-p", "random");
  GOOD ("encode", PONG, "--actions", "--context", "2", "pong.mkv", "told.safetensors");
  GOOD ("encode", PONG, "--context", "2", "pong.mkv", "untold.safetensors");
  GOOD ("decode", PONG, "told.safetensors", "pong-again.mkv");
  /* the same frames: so the same latents */
  GOOD ("encode", PONG, "--context", "2", "pong-again.mkv", "again.safetensors");
  assert_same_files ("again.safetensors", "untold.safetensors");
  g_autofree char *info = good (ARGUMENTS ("info", "told.safetensors"));
  assert_non_null (strstr (info, "context of 2 frames"));
  assert_non_null (strstr (info, "3 features of actions"));

  /* a file that says it has larger frames than the model is refused before anything is read of it */
  g_autofree char *told = in_folder ("told.safetensors"), *wide = in_folder ("wide.safetensors"), *all = NULL;
  gsize size;
  assert_true (g_file_get_contents (told, &all, &size, NULL));
  char *at = g_strstr_len (all + 8, 4096, "\"width\":\"64\"");
  assert_non_null (at);
  memcpy (at + 9, "99", 2);
  assert_true (g_file_set_contents (wide, all, (gssize)size, NULL));
  BAD (1, "99x64", "decode", PONG, wide, "wrong.mkv");
  assert_missing ("wrong.mkv");

  /* decoding begins at the last key frame */
  GOOD ("encode", PONG, "--key-int-max", "4", "pong.mkv", "keys.safetensors");
  GOOD ("decode", PONG, "keys.safetensors", "whole%02d.png");
  GOOD ("decode", PONG, "--first", "6", "-n", "3", "--method", "jacobi", "keys.safetensors", "part%02d.png");
  assert_same_files ("part01.png", "whole07.png");
  assert_same_files ("part03.png", "whole09.png");
  g_autofree char *keys = good (ARGUMENTS ("info", "--json", "keys.safetensors"));
  assert_non_null (strstr (keys, "\"key_int_max\" : 4"));
  for (guint i = 1; i <= 12; i++)
    {
      g_autofree char *name = g_strdup_printf ("whole%02u.png", i);
      g_autofree char *path = in_folder (name);
      assert_int_equal (g_unlink (path), 0);
    }

  BAD (1, "must be 0 to 7", "encode", PONG, "--context", "8", "pong.mkv", "wrong.safetensors");
  BAD (2, "--key-int-max", "encode", PONG, "--key-int-max", "-1", "pong.mkv", "wrong.safetensors");
  BAD (1, "64x64", "encode", PONG, video, "wrong.safetensors");
  BAD (1, "--key-int-max", "encode", "-q", "-m", model, "--key-int-max", "4", video, "wrong.safetensors");
  BAD (1, "action_dim", "encode", "-q", "-m", "normflow-room-64x48", "--actions", "pong.mkv",
       "wrong.safetensors");
  assert_missing ("wrong.safetensors");
  GOOD ("sheet", PONG, "-n", "2", "pong.mkv", "sheet.png");
  assert_png ("sheet.png");
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

/* Lines are JSON, and pictures have titles, whatever bytes a file's name has. */
static void
test_file_names (void **state)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (GBytes) bytes = contents ("video.y4m");
  g_autofree char *odd = in_folder ("caf\xe9.y4m"), *lines = NULL, *path = in_folder ("odd.ndjson");
  assert_true (
      g_file_set_contents (odd, g_bytes_get_data (bytes, NULL), (gssize)g_bytes_get_size (bytes), NULL));
  GOOD ("eval", "-q", "-m", model, "-n", "1", "--json", "odd.ndjson", "--plot", "odd-plot.png", "--map",
        "odd-map.png", odd);
  assert_true (g_file_get_contents (path, &lines, NULL, NULL));
  nf_test_ok (json_parser_load_from_data (parser, lines, -1, &error), error);
  JsonObject *object = json_node_get_object (json_parser_get_root (parser));
  assert_true (g_str_has_suffix (json_object_get_string_member (object, "file"), "/caf\357\277\275.y4m"));
  GOOD ("eval", "-q", "-m", model, "-n", "1", "--denoise", "0.05", "--json", "odd.ndjson", odd);
  g_free (lines);
  assert_true (g_file_get_contents (path, &lines, NULL, NULL));
  assert_true (g_utf8_validate (lines, -1, NULL));
  GOOD ("sheet", "-q", "-m", model, "-n", "1", odd, "odd-sheet.png");
  GOOD (TRAIN, "--steps", "1", "-o", "odd.safetensors", "--log", "odd.log", odd);
  g_autofree char *log = in_folder ("odd.log");
  g_free (lines);
  assert_true (g_file_get_contents (log, &lines, NULL, NULL));
  assert_true (g_utf8_validate (lines, -1, NULL));
}

/* What is written is what its name says, if that says anything. */
static void
test_endings (void **state)
{
  BAD (2, "wrong.jpg: what is written is .png", "sheet", "-q", "-m", model, video, "wrong.jpg");
  BAD (2, "wrong.jpg: what is written is .png", "eval", "-q", "-m", model, "--plot", "wrong.jpg", video);
  BAD (2, "wrong.PDF: what is written is .png", "eval", "-q", "-m", model, "--map", "wrong.PDF", video);
  BAD (2, "wrong.pth: what is written is .safetensors", "convert", model, "wrong.pth");
  BAD (2, "wrong.pth: what is written is .safetensors", "encode", "-q", "-m", model, video, "wrong.pth");
  BAD (2, "wrong.mkv: what is written is .safetensors", "hints", "-q", "-m", model, "-o", "wrong.mkv", video);
  BAD (2, "wrong.pth: what is written is .safetensors", TRAIN, "-o", "wrong.pth", "--steps", "1", video);
  BAD (2, "wrong.png: what is written is .safetensors", TRAIN, "-o", "no.safetensors", "--checkpoint",
       "wrong.png", "--steps", "1", video);
  BAD (2, "-: is no file's name", "convert", model, "-");
  BAD (2, "-: is no file's name", "eval", "-q", "-m", model, "--json", "-", video);
  /* an option that takes a file's name takes the one to read, if no other follows */
  g_autoptr (GBytes) before = contents ("video.y4m");
  BAD (2, "video.y4m: what is written is .json", "eval", "-q", "-m", model, "--json", "video.y4m", model);
  BAD (2, "wrong.MPG: what is written is .json", "eval", "-q", "-m", model, "--json", "wrong.MPG", video);
  BAD (2, "video.y4m: what is written is .json", TRAIN, "-o", "no.safetensors", "--steps", "1", "--log",
       "video.y4m", model);
  BAD (2, "video.y4m: what is written is .json", "eval", "world", model, "--world", "pong", "--json",
       "video.y4m");
  BAD (2, "wrong.safetensors: what is written is .md", "eval", "world", model, "--world", "pong",
       "--markdown", "wrong.safetensors");
  g_autoptr (GBytes) after = contents ("video.y4m");
  assert_true (g_bytes_equal (before, after));
  static const char *const texts[]
      = { "scores.json", "scores.ndjson", "scores.jsonl", "scores.txt", "scores" };
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    BAD (1, "nothing.mkv", "eval", "-q", "-m", model, "--json", texts[i], "nothing.mkv");
  GOOD ("convert", model, "plain-name");
  GOOD ("convert", model, "plain.stage1");
  assert_missing ("wrong.pth");
  assert_missing ("-");
}

/* No frame is read for what cannot be written. */
static void
test_folders_for_files (void **state)
{
  g_autofree char *taken = in_folder ("taken"), *settings = in_folder ("taken.safetensors.checkpoint.json");
  assert_true (g_mkdir (taken, 0777) == 0 && g_mkdir (settings, 0777) == 0);
  static const char *const options[] = { "--plot", "--map", "--json" };
  for (guint i = 0; i < G_N_ELEMENTS (options); i++)
    {
      g_auto (Result) result = run (ARGUMENTS ("eval", "-m", model, "-n", "1", options[i], "taken", video));
      assert_int_equal (result.status, 1);
      if (*result.output
          || strcmp (result.errors, "normflow eval: taken: is a folder; name a file to write\n") != 0)
        fail_msg ("%s: %s%s", options[i], result.output, result.errors);
    }
  /* nor for a device, which a picture would take the place of, or where there is no room for the name that a
   * picture has before; lines of JSON are written where they are */
  g_autofree char *device = in_folder ("device"), *long_name = g_strnfill (250, 'x');
  assert_true (symlink ("/dev/null", device) == 0);
  const char *const wrong[][2]
      = { { "device", "device: is not a regular file" }, { long_name, "x: cannot be written: File name" } };
  for (guint i = 0; i < 2 * G_N_ELEMENTS (wrong); i++)
    {
      const char *option = options[i % 2], *const *said = wrong[i / 2];
      g_auto (Result) result = run (ARGUMENTS ("eval", "-m", model, "-n", "1", option, said[0], video));
      assert_int_equal (result.status, 1);
      if (*result.output || !strstr (result.errors, said[1]))
        fail_msg ("%s: %s%s", option, result.output, result.errors);
    }
  GOOD ("eval", "-q", "-m", model, "-n", "1", "--json", "device", video);
  GOOD ("eval", "-q", "-m", model, "-n", "1", "--json", long_name, video);
  static const char *const outputs[][3]
      = { { "taken.safetensors", "ok.ndjson", "taken.safetensors.checkpoint.json: is a folder" },
          { "ok.safetensors", "taken", "taken: is a folder" },
          { "ok.safetensors", "ok.safetensors.checkpoint.json", "is to hold two outputs" } };
  for (guint i = 0; i < G_N_ELEMENTS (outputs); i++)
    {
      g_auto (Result) result
          = run (ARGUMENTS (TRAIN, "--steps", "1", "-o", outputs[i][0], "--log", outputs[i][1], video));
      assert_int_equal (result.status, 1);
      if (!strstr (result.errors, outputs[i][2]) || strstr (result.errors, "device:"))
        fail_msg ("%s: %s", outputs[i][2], result.errors);
    }
  BAD (1, "--samples", TRAIN, "--steps", "1", "-o", "ok.safetensors", "--samples", video, video);
  BAD (1, "cannot be made: Not a directory", "world", "-q", "-c", "2", "pong", "video.y4m/worlds");
}

/* Nothing that is read, and no other output, is written over. */
static void
test_overwriting (void **state)
{
  g_autofree char *read = in_folder ("read.y4m"), *first = in_folder ("first/same.y4m"),
                  *second = in_folder ("second/same.y4m"), *first_folder = in_folder ("first"),
                  *second_folder = in_folder ("second"), *here = in_folder ("./both.png");
  g_autoptr (GBytes) bytes = contents ("video.y4m");
  const char *const copies[] = { read, first, second };
  assert_true (g_mkdir (first_folder, 0777) == 0 && g_mkdir (second_folder, 0777) == 0);
  for (guint i = 0; i < G_N_ELEMENTS (copies); i++)
    assert_true (g_file_set_contents (copies[i], g_bytes_get_data (bytes, NULL),
                                      (gssize)g_bytes_get_size (bytes), NULL));
  static const char *const links[] = { "linked.png", "linked" };
  for (guint i = 0; i < G_N_ELEMENTS (links); i++)
    {
      g_autofree char *linked = in_folder (links[i]);
      assert_true (symlink ("read.y4m", linked) == 0);
    }

  BAD (1, "is input and output", "eval", "-q", "-m", model, "-n", "1", "--json", "linked", read);
  BAD (1, "is input and output", "eval", "-q", "-m", model, "-n", "1", "--plot", "linked.png", read);
  BAD (1, "is input and output", "eval", "-q", "-m", model, "-n", "1", "--map", "linked.png", read);
  BAD (1, "is input and output", "eval", "-q", "-m", "linked", "-n", "1", "--json", "linked", video);
  BAD (1, "two outputs", "eval", "-q", "-m", model, "-n", "1", "--json", "both", "--plot", "./both", read);
  BAD (1, "two outputs", "eval", "-q", "-m", model, "-n", "1", "--map", "both.png", "--plot", here, read);
  BAD (1, "is input and output", "hints", "-q", "-m", model, "-o", "linked", read);
  BAD (1, "is input and output", "hints", "-q", "-m", other, "-o", other, read);
  BAD (1, "is input and output", "encode", "-q", "-m", other, read, other);
  /* models that are given by name, or not at all, have files, too */
  static const char *const outputs[] = { "bundled.safetensors", "bundled.json" };
  g_autofree char *bundled = nf_model_find (NULL, NULL);
  assert_non_null (bundled);
  for (guint i = 0; i < G_N_ELEMENTS (outputs); i++)
    {
      g_autofree char *path = in_folder (outputs[i]);
      assert_true (symlink (bundled, path) == 0);
    }
  BAD (1, "is input and output", "encode", "-q", "-n", "1", read, outputs[0]);
  BAD (1, "is input and output", "encode", "-q", "-m", "normflow-yuv420-32", "-n", "1", read, outputs[0]);
  BAD (1, "is input and output", "hints", "-q", "-o", outputs[0], read);
  BAD (1, "is input and output", "eval", "-q", "-n", "1", "--json", outputs[1], read);
  BAD (1, "is input and output", "train", "-q", "--init", "normflow-yuv420-32", "--steps", "2", "-o",
       outputs[0], read);
  BAD (1, "is input and output", TRAIN, "--steps", "2", "-o", "linked", read);
  BAD (1, "is input and output", TRAIN, "--steps", "2", "-o", "no.safetensors", "--log", "linked", read);
  BAD (1, "is input and output", TRAIN, "--steps", "2", "-o", "no.safetensors", "--checkpoint", "linked",
       read);
  BAD (1, "two outputs", TRAIN, "--steps", "2", "-o", "no", "--log", "no", read);
  BAD (1, "two outputs", TRAIN, "--steps", "2", "-o", "no.safetensors", "--checkpoint", "no.safetensors",
       read);
  assert_missing ("no.safetensors");
  assert_missing ("both.png");
  assert_same_files ("read.y4m", "video.y4m");

  BAD (1, "is input and output", "sample", "-q", "-m", other, other);
  BAD (1, "is input and output", "convert", "-q", "--mean", other, model, other);
  BAD (2, "same file", "denoise", "-q", "-m", model, "--noise", "0.1", "--noisy", "./no.mkv", "-n", "1", read,
       "no.mkv");
  assert_missing ("no.mkv");
  BAD (2, "same file", "denoise", "-q", "-m", model, "--noise", "0.1", "--noisy", "n%d.png", "-n", "2", read,
       "n%01d.png");
  BAD (2, "same file", "denoise", "-q", "-m", model, "--noise", "0.1", "--noisy", "n%d.png", "-n", "3", read,
       "n3.png");
  BAD (2, "same file", "denoise", "-q", "-m", model, "--noise", "0.1", "--noisy", "n%d.png", "-n", "12", read,
       "n1%d.png");
  assert_missing ("n1.png");
  /* a model may have any name */
  g_autofree char *named = in_folder ("named.mkv"), *drawn = in_folder ("named.png");
  g_autoptr (GBytes) weights = contents ("other.safetensors");
  const char *const names[] = { named, drawn };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    assert_true (g_file_set_contents (names[i], g_bytes_get_data (weights, NULL),
                                      (gssize)g_bytes_get_size (weights), NULL));
  GOOD ("encode", "-q", "-m", named, "-n", "1", read, "named.safetensors");
  BAD (1, "is input and output", "decode", "-q", "-m", named, "named.safetensors", named);
  BAD (1, "is input and output", "denoise", "-q", "-m", named, "-s", "0.1", "-n", "1", read, named);
  BAD (1, "is input and output", "sheet", "-q", "-m", drawn, "-n", "1", read, drawn);
  /* a picture of a sequence */
  GOOD ("denoise", "-q", "-m", model, "-s", "0", "-n", "1", video, "s-001.png");
  g_autoptr (GBytes) before = contents ("s-001.png");
  BAD (1, "is input and output", "denoise", "-q", "-m", model, "-s", "0.3", "s-001.png", "s-%03d.png");
  g_autoptr (GBytes) after = contents ("s-001.png");
  assert_true (g_bytes_equal (before, after));
  GOOD ("denoise", "-q", "-m", model, "-s", "0", "s-001.png", "t-%03d.png");
  assert_png ("t-001.png");

  /* files of one name have a plot each */
  GOOD ("eval", "-q", "-m", model, "-n", "2", "--plot", "plots.png", first, second);
  assert_png ("plots-same.png");
  assert_png ("plots-same-2.png");

  /* what is written only if something is read leaves what there was */
  g_autofree char *old = in_folder ("old.ndjson");
  assert_true (g_file_set_contents (old, "old", -1, NULL));
  assert_true (g_file_set_contents (read, "no video", -1, NULL));
  BAD (1, "read.y4m", "eval", "-q", "-m", model, "--json", "old.ndjson", read);
  assert_int_equal (count ("old.ndjson", "old"), 1);
  GOOD ("eval", "-q", "-m", model, "-n", "2", "--json", "old.ndjson", video);
  assert_int_equal (count ("old.ndjson", "bits_per_dim"), 2);
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

/* No room for what is written: it is the output that is named. */
static void
test_convert_without_room (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *errors = NULL, *copy = in_folder ("no-room.safetensors");
  g_autoptr (GSubprocess) process
      = g_subprocess_new (G_SUBPROCESS_FLAGS_STDERR_PIPE, &error, "sh", "-c",
                          "trap '' XFSZ; ulimit -f 1; exec \"$0\" convert \"$1\" \"$2\"",
                          g_getenv ("NORMFLOW_TOOL"), model, copy, NULL);
  nf_test_ok (process, error);
  nf_test_ok (g_subprocess_communicate_utf8 (process, NULL, NULL, NULL, &errors, &error), error);
  assert_true (g_subprocess_get_if_exited (process));
  assert_int_equal (g_subprocess_get_exit_status (process), 1);
  assert_non_null (strstr (errors, "no-room.safetensors: "));
  assert_null (strstr (errors, "model.safetensors"));
  assert_missing ("no-room.safetensors");
}

/* The second time they are found. */
static void
test_hints (void **state)
{
  GOOD ("hints", "-q", "-m", model, "--pictures", "3", "--output", "hints.safetensors", video);
  GOOD ("hints", "-q", "-m", model, "--pictures", "3", "--output", "again.safetensors", video);
  assert_same_files ("hints.safetensors", "again.safetensors");
  BAD (1, "hints.safetensors: it is no model but, as it says itself, \"normflow hints\"", "info",
       "hints.safetensors");
  GOOD ("hints", "-q", "-m", model, "--pictures", "3", video);
  assert_same_files ("hints.safetensors", "model.hints.safetensors");
  GOOD ("encode", "-q", "-m", model, "--frames", "2", video, "few.safetensors");
  GOOD ("decode", "-q", "-m", model, "few.safetensors", "plain.y4m", "--method", "sequential");
  GOOD ("decode", "-q", "-m", model, "few.safetensors", "drafted.y4m", "--method", "draft");
  assert_same_files ("plain.y4m", "drafted.y4m");
  /* damaged ones cost time alone, and a line says so */
  g_autofree char *damaged = in_folder ("model.hints.safetensors");
  assert_true (g_file_set_contents (damaged, "damaged", -1, NULL));
  g_auto (Result) without
      = run (ARGUMENTS ("decode", "-q", "-m", model, "few.safetensors", "drafted.y4m", "--method", "draft"));
  assert_int_equal (without.status, 0);
  assert_true (g_str_has_prefix (without.errors, "normflow decode: "));
  assert_non_null (strstr (without.errors, "decoded without these hints"));
  assert_int_equal (strchr (without.errors, '\n')[1], 0);
  assert_same_files ("plain.y4m", "drafted.y4m");
  assert_int_equal (g_unlink (damaged), 0);
  assert_int_equal (g_mkdir (damaged, 0777), 0);
  g_auto (Result) folder_there = run (ARGUMENTS ("hints", "-m", model, "--pictures", "3", video));
  assert_int_equal (folder_there.status, 1);
  assert_true (
      g_str_has_suffix (folder_there.errors, "model.hints.safetensors: is a folder; name a file to write\n"));
  assert_int_equal (g_rmdir (damaged), 0);
  BAD (2, "--pictures", "hints", "-m", model, "--pictures", "0", video);
  BAD (1, "nothing.mkv", "hints", "-q", "-m", model, "nothing.mkv");
}

/* Pictures */

static void
test_sample (void **state)
{
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "a.png");
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "b.png");
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "8", "c.png");
  assert_png ("a.png");
  assert_same_files ("a.png", "b.png");
  g_autoptr (GBytes) a = contents ("a.png"), c = contents ("c.png");
  assert_false (g_bytes_equal (a, c));
  /* letters of an ending are of either case */
  GOOD ("sample", "-q", "-m", model, "--count", "4", "--seed", "7", "A.PNG");
  assert_same_files ("a.png", "A.PNG");
  GOOD ("sheet", "-q", "-m", model, "-n", "1", video, "SHEET.Png");
  BAD (1, "the model is one of pictures", "sample", "-q", "-m", model, "a.SafeTensors");
  GOOD ("sample", "-q", "-m", model, "--count", "3", "d.mkv");
  BAD (1, "class", "sample", "-q", "-m", model, "--class", "5", "e.png");
  BAD (2, "e.xyz", "sample", "-q", "-m", model, "e.xyz");
  BAD (2, "must end in", "sample", "-q", "-m", "nothing.safetensors", "e.jpg"); /* before there is a model */
}

/* One is not called several. */
static void
test_one (void **state)
{
  const struct
  {
    const char *said;
    const char *const *arguments;
  } cases[]
      = { { "1 picture of 16x16 in", ARGUMENTS ("sample", "-m", model, "-n", "1", "one.png") },
          { "1 video of 1 frame of 64x64 in",
            ARGUMENTS ("sample", "-m", "normflow-pong-64", "--frames", "1", "one.mkv") },
          { "1 frame of 41x27, ", ARGUMENTS ("encode", "-m", model, "-n", "1", video, "one.safetensors") },
          { "1 frame of 41x27, ", ARGUMENTS ("decode", "-m", model, "one.safetensors", "one.y4m") },
          { "1 frame of 64x64 in", ARGUMENTS ("world", "pong", "-n", "1", "one-world.mkv") },
          { "2 frames of 64x64 in", ARGUMENTS ("world", "pong", "-n", "2", "one-world.mkv") } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text = good (cases[i].arguments);
      if (!strstr (text, cases[i].said))
        fail_msg ("%s", text);
    }
}

/* What a limit ended early is told, as decode tells it, whatever is drawn; without one nothing is. */
static void
test_residual (void **state)
{
#define HURRIED "--method", "jacobi", "--max-sweeps", "1"
  g_autofree char *latent_video = nf_test_file ("golden", "starflow_v.weights.safetensors");
  const char *const *const cases[] = {
    ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", HURRIED, "hurried.mkv"),
    ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", HURRIED, "hurried.png"),
    ARGUMENTS ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", HURRIED, "hurried.mkv"),
    ARGUMENTS ("sample", "-q", "-m", latent_video, "-n", "9", HURRIED, "hurried.safetensors"),
    ARGUMENTS ("sample", "-q", "-m", latent_video, "--frames", "11", "--context", "2", HURRIED,
               "hurried.safetensors"),
    ARGUMENTS ("eval", "world", "normflow-pong-64", "--world", "pong", "--windows", "0", "--events", "0",
               "--seeds", "0", "--timed", "2", HURRIED),
    ARGUMENTS ("eval", "-q", "-m", model, "--check", "-n", "1", HURRIED, video),
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_auto (Result) result = run (cases[i]);
      /* what was hurried is no longer what was encoded */
      const gboolean checked = i + 1 == G_N_ELEMENTS (cases);
      g_autofree char *told = g_strdup_printf (
          "normflow %s%s: values that were taken before they had settled were off by up to ", cases[i][0],
          strcmp (cases[i][1], "world") == 0 ? " world" : "");
      if ((result.status != 0) != checked || !strstr (result.errors, told))
        fail_msg ("case %u: %d: %s", i, result.status, result.errors);
    }
  g_auto (Result) calm
      = run (ARGUMENTS ("sample", "-q", "-m", model, "-n", "2", "--method", "jacobi", "calm.mkv"));
  assert_string_equal (calm.errors, "");
#undef HURRIED
}

/* Samples of a model of another model's latents are floats; encoding gives back what was drawn. */
static void
test_sample_floats (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *path = in_folder ("floats.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--count", "9", "--seed", "3", "floats.safetensors");
  BAD (1, ".safetensors", "sample", "-q", "-m", weights, "--count", "1", "wrong.png");
  BAD (1, "one of pictures", "sample", "-q", "-m", model, "--count", "1", "wrong.safetensors");
  BAD (2, "--size", "sample", "-q", "-m", weights, "--size", "5", "wrong.safetensors");
  BAD (1, "no frames", "sample", "-q", "-m", weights, "--given", "floats.safetensors", "wrong.safetensors");
  BAD (1, "--frames", "sample", "-q", "-m", weights, "--count", "2", "--frames", "2", "wrong.safetensors");
  BAD (2, "wavelets", "sample", "-q", "-m", weights, "--denoise", "wavelets", "wrong.safetensors");
  assert_missing ("wrong.safetensors");

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *samples = nf_tensor_file_lookup (file, "samples");
  assert_non_null (samples);
  assert_true (samples->n_dims == 4 && samples->dims[0] == 9 && samples->dims[1] == 4 && samples->dims[2] == 8
               && samples->dims[3] == 8);
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  nf_test_ok (device, error);
  g_autoptr (NfModel) loaded = nf_model_load (weights, device, NULL, NULL, NULL, &error);
  nf_test_ok (loaded, error);
  g_autoptr (NfSession) session = nf_session_new (loaded, &error);
  nf_test_ok (session, error);
  const gsize n = 4 * 8 * 8;
  g_autofree float *pixels = g_new (float, 9 * n), *tokens = g_new (float, 9 * n), *z = g_new (float, 9 * n),
                   *drawn = g_new (float, n);
  nf_tensor_to_float (samples, pixels);
  nf_patchify (nf_model_get_config (loaded), pixels, 9, tokens);
  nf_test_ok (nf_session_encode (session, tokens, 9, NULL, z, NULL, NULL, &error), error);
  for (guint i = 0; i < 9; i++)
    {
      nf_random_normal (3, i, n, 1, drawn);
      for (gsize k = 0; k < n; k++)
        assert_true (fabsf (z[i * n + k] - drawn[k]) < 1e-3f);
    }
}

static void
check_samples (const char *name, guint64 count, guint64 frames, guint64 rows, guint64 columns)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder (name);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *samples = nf_tensor_file_lookup (file, "samples");
  assert_non_null (samples);
  assert_int_equal (samples->n_dims, 5);
  assert_true (samples->dims[0] == count && samples->dims[1] == frames && samples->dims[2] == 6
               && samples->dims[3] == rows && samples->dims[4] == columns);
}

/* Videos: of another model's latents, of any length and size, and as continuations; of pixels, side by side.
 */
static void
test_sample_videos (void **state)
{
  g_autofree char *weights = nf_test_file ("golden", "starflow_v.weights.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--count", "2", "--frames", "3", "three.safetensors");
  check_samples ("three.safetensors", 2, 3, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--size", "3x2", "small.safetensors");
  check_samples ("small.safetensors", 1, 5, 2, 3);
  GOOD ("sample", "-q", "-m", weights, "--given", "three.safetensors", "--count", "2", "on.safetensors");
  check_samples ("on.safetensors", 2, 5, 4, 6);
  BAD (1, "3 frames", "sample", "-q", "-m", weights, "--given", "three.safetensors", "--count", "2",
       "--frames", "3", "wrong.safetensors");
  /* frames that are the same have noise that is not */
  GOOD ("convert", "-q", "--noise", "gaussian", "--noise-std", "0.3", weights, "noisy-video.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--frames", "3", "one.safetensors");
  GOOD ("sample", "-q", "-m", "noisy-video.safetensors", "--given", "one.safetensors", "--count", "2",
        "--denoise", "none", "noises.safetensors");
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder ("noises.safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *noises = nf_tensor_file_lookup (file, "samples");
  const gsize frame = 6 * 4 * 6;
  g_autofree float *values = g_new (float, noises->n_elements);
  nf_tensor_to_float (noises, values);
  assert_int_equal (noises->n_elements, 2 * 5 * frame);
  for (guint i = 0; i < 3; i++)
    assert_memory_not_equal (values + i * frame, values + (5 + i) * frame, frame * sizeof *values);
  BAD (1, "given", "sample", "-q", "-m", weights, "--given", "small.safetensors", "wrong.safetensors");
  GOOD ("sample", "-q", "-m", weights, "--frames", "11", "--context", "2", "long.safetensors");
  check_samples ("long.safetensors", 1, 11, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--frames", "7", "--given", "three.safetensors", "--count", "2",
        "long.safetensors");
  check_samples ("long.safetensors", 2, 7, 4, 6);
  GOOD ("sample", "-q", "-m", weights, "--frames", "7", "--context", "0", "long.safetensors");
  check_samples ("long.safetensors", 1, 7, 4, 6);
  BAD (1, "--context 5", "sample", "-q", "-m", weights, "--frames", "9", "--context", "5",
       "wrong.safetensors");
  BAD (1, "--context 2", "sample", "-q", "-m", weights, "--frames", "4", "--context", "2",
       "wrong.safetensors");
  BAD (1, "--context 2", "sample", "-q", "-m", "normflow-yuv420-32", "--context", "2", "wrong.mkv");
  BAD (1, "--context 0", "sample", "-q", "-m", "normflow-pong-64", "--context", "0", "wrong.mkv");
  BAD (1, "1 to 7", "sample", "-q", "-m", "normflow-pong-64", "--context", "8", "wrong.mkv");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "10", "--context", "2", "two.mkv");
  BAD (1, "learned", "sample", "-q", "-m", "normflow-yuv420-32-noisy", "--denoise", "learned", "wrong.mkv");
  BAD (1, "--given", "sample", "-q", "-m", "normflow-pong-64", "--given", "three.safetensors", "wrong.mkv");
  assert_missing ("wrong.safetensors");

  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", "--seed", "3", "one-%d.png");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", "--seed", "2", "--count", "2",
        "two-%d.png");
  assert_missing ("one-3.png");
  assert_png ("two-2.png");
}

static cairo_surface_t *
read_png (const char *name)
{
  g_autofree char *path = in_folder (name);
  cairo_surface_t *surface = cairo_image_surface_create_from_png (path);
  assert_int_equal (cairo_surface_status (surface), CAIRO_STATUS_SUCCESS);
  return surface;
}

static guint32
pixel (cairo_surface_t *surface, int x, int y)
{
  const guint8 *row = cairo_image_surface_get_data (surface) + y * cairo_image_surface_get_stride (surface);
  guint32 value;
  memcpy (&value, row + x * (int)sizeof value, sizeof value);
  return value & 0xffffff;
}

/* Pictures that are higher than wide, and of several tiles: on a sheet they are as they are alone. */
static void
test_sample_tall (void **state)
{
  const int sizes[][2] = { { 4, 8 }, { 10, 9 } };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  NfConfig config = random_picture_config (NF_PIXELS_GRAY, 8, 2, 2);
  config.rope = TRUE;
  config.rows = 8;
  config.columns = 4;
  config.family = NF_FAMILY_STARFLOW;
  g_autofree char *tall = in_folder ("tall.safetensors");
  random_model_write (tall, &config, device, 3);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      const int width = sizes[i][0], height = sizes[i][1];
      g_autofree char *size = g_strdup_printf ("%dx%d", width, height);
      GOOD ("sample", "-q", "-m", tall, "--count", "3", "--seed", "7", i ? "--size" : "-q", i ? size : "-q",
            "tall.png");
      GOOD ("sample", "-q", "-m", tall, "--count", "3", "--seed", "7", i ? "--size" : "-q", i ? size : "-q",
            "tall-%d.png");
      cairo_surface_t *sheet = read_png ("tall.png");
      const int gap = (cairo_image_surface_get_width (sheet) - 2 * width) / 3;
      for (int k = 0; k < 3; k++)
        {
          g_autofree char *name = g_strdup_printf ("tall-%d.png", k + 1);
          cairo_surface_t *one = read_png (name);
          assert_int_equal (cairo_image_surface_get_width (one), width);
          assert_int_equal (cairo_image_surface_get_height (one), height);
          for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
              assert_int_equal (pixel (one, x, y), pixel (sheet, gap + k % 2 * (width + gap) + x,
                                                          gap + k / 2 * (height + height % 2 + gap) + y));
          cairo_surface_destroy (one);
        }
      cairo_surface_destroy (sheet);
    }
}

/* Latents lie where their samples do, in whichever order a token has them: flows that change nothing show the
 * same. */
static void
test_sheet_of_either_family (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  g_autofree char *picture = in_folder ("stripes.png");
  cairo_surface_t *surface = cairo_image_surface_create (CAIRO_FORMAT_RGB24, 16, 8);
  cairo_surface_flush (surface);
  for (int y = 0; y < 8; y++)
    for (int x = 0; x < 16; x++)
      {
        const guint32 value = 0x1e64c8 + 0x141e28 * (guint)(x % 3) + 0x60000 * (guint)(y % 4);
        memcpy (cairo_image_surface_get_data (surface) + y * cairo_image_surface_get_stride (surface) + x * 4,
                &value, sizeof value);
      }
  cairo_surface_mark_dirty (surface);
  assert_int_equal (cairo_surface_write_to_png (surface, picture), CAIRO_STATUS_SUCCESS);
  cairo_surface_destroy (surface);
  for (guint i = 0; i < 2; i++)
    {
      NfConfig config = random_picture_config (NF_PIXELS_RGB, 8, 4, 2);
      config.rope = i == 1;
      config.family = i ? NF_FAMILY_STARFLOW : NF_FAMILY_TARFLOW;
      config.noise = NF_NOISE_GAUSSIAN;
      config.noise_std = 0.1;
      g_autofree char *same = in_folder (i ? "star.safetensors" : "tar.safetensors");
      random_model_write_scaled (same, &config, device, 3, 0);
      GOOD ("sheet", "-q", "-m", same, "-n", "1", picture, i ? "star.png" : "tar.png");
    }
  assert_same_files ("tar.png", "star.png");
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

/* How much green differs from one pixel of a row to the next. */
static double
roughness (const char *name)
{
  cairo_surface_t *surface = read_png (name);
  const int width = cairo_image_surface_get_width (surface),
            height = cairo_image_surface_get_height (surface);
  double sum = 0;
  for (int y = 0; y < height; y++)
    for (int x = 1; x < width; x++)
      sum += abs ((int)(pixel (surface, x, y) >> 8 & 255) - (int)(pixel (surface, x - 1, y) >> 8 & 255));
  cairo_surface_destroy (surface);
  return sum / (width * height);
}

/* Sheets of training lose the noise of a model of noisy pictures, as samples do. */
static void
test_train_samples (void **state)
{
  const char *noisy = "normflow-yuv420-32-noisy";
  g_autofree char *path = g_strdup_printf ("%s/%s.safetensors", g_getenv ("NORMFLOW_MODEL_PATH"), noisy);
  /* nothing else is written beside them meanwhile: here it could not be */
  g_autofree char *beside = in_folder ("sheets/step-00000001.png.safetensors");
  assert_int_equal (g_mkdir_with_parents (beside, 0777), 0);
  GOOD ("train", "-q", "-o", "noisy.safetensors", "--init", path, "--steps", "1", "--batch", "1", "--lr",
        "1e-9", "--validation-tiles", "0", "--samples", "sheets", "--sample-every", "1", video);
  GOOD ("sample", "-q", "-m", noisy, "--count", "1", "--size", "256x256", "--denoise", "none", "noise.png");
  assert_true (roughness ("sheets/step-00000001.png") < 0.8 * roughness ("noise.png"));
}

/* Text features: the same text gives the same bytes, and so does one text for each picture. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open ("cpu", &error);
  nf_test_ok (device, error);
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autofree char *seeing = in_folder ("seeing.safetensors"), *text = in_folder ("text.safetensors"),
                  *four = in_folder ("four.safetensors"), *wide = in_folder ("wide.safetensors");
  random_model_write_scaled (seeing, &config, device, 3, 0.2);
  random_text_write (text, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 1, 1);
  random_text_write (four, "text", 4, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 1, 1);
  random_text_write (wide, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES + 1, 1, 1);

  /* a threshold of scores with a text is for a pipeline with it */
  g_autofree char *line
      = good (ARGUMENTS ("calibrate", "-q", "-m", seeing, "--text", text, "--precision", "f32", video)),
      *wanted = g_strdup_printf (" model=%s text=%s precision=f32 threshold=", seeing, text);
  assert_non_null (strstr (line, wanted));

  GOOD ("sample", "-q", "-m", seeing, "--text", text, "--count", "2", "0.y4m");
  GOOD ("sample", "-q", "-m", seeing, "--text", four, "--count", "4", "1.y4m");
  GOOD ("sample", "-q", "-m", seeing, "--text", text, "--guidance", "2", "--count", "2", "2.y4m");
  g_autoptr (GBytes) one = contents ("0.y4m"), each = contents ("1.y4m"), guided = contents ("2.y4m");
  const gsize header
      = (gsize)(strchr (g_bytes_get_data (one, NULL), '\n') - (const char *)g_bytes_get_data (one, NULL)),
      frame = (g_bytes_get_size (one) - header) / 2;
  const char *a = g_bytes_get_data (one, NULL), *b = g_bytes_get_data (each, NULL);
  assert_memory_equal (a, b, header + frame);
  assert_memory_not_equal (a + header + frame, b + header + frame, frame);
  assert_false (g_bytes_equal (one, guided));
  GOOD ("sample", "-q", "-m", seeing, "--text", four, "--count", "4", "1.png");

  GOOD ("encode", "-q", "-m", seeing, "--text", text, "0.y4m", "seen.safetensors");
  g_auto (Result) alike
      = run (ARGUMENTS ("decode", "-q", "-m", seeing, "--text", text, "seen.safetensors", "again.y4m"));
  assert_int_equal (alike.status, 0);
  assert_string_equal (alike.errors, "");
  assert_same_files ("0.y4m", "again.y4m");
  /* latents say which text was seen */
  g_auto (Result) unlike = run (ARGUMENTS ("decode", "-q", "-m", seeing, "seen.safetensors", "other.y4m"));
  assert_int_equal (unlike.status, 0);
  assert_non_null (strstr (unlike.errors, "but those of --text are none"));
  assert_non_null (strstr (unlike.errors, "give the file that they were made with"));
  g_autofree char *seen = good (ARGUMENTS ("info", "--json", "seen.safetensors"));
  assert_non_null (strstr (seen, "\"text_digest\" : \""));
  GOOD ("encode", "-q", "-m", seeing, "0.y4m", "unseen.safetensors");
  g_auto (Result) surplus
      = run (ARGUMENTS ("decode", "-q", "-m", seeing, "--text", text, "unseen.safetensors", "unseen.y4m"));
  assert_int_equal (surplus.status, 0);
  assert_non_null (strstr (surplus.errors, "made with the text features none"));
  assert_non_null (strstr (surplus.errors, "leave it out"));
  g_autoptr (GBytes) other_text = contents ("other.y4m");
  assert_false (g_bytes_equal (one, other_text));

  BAD (1, "is input and output", "encode", "-q", "-m", seeing, "--text", text, "0.y4m", text);
  BAD (1, "text is F32 (1, 2, 4); this model needs real numbers (B, 2, 3)", "encode", "-q", "-m", seeing,
       "--text", wide, "0.y4m", "bad.safetensors");
  assert_missing ("bad.safetensors");
  BAD (1, "sees no text", "eval", "-q", "-m", model, "--text", text, video);
  BAD (1, "4 samples", "sample", "-q", "-m", seeing, "--text", four, "--count", "3", "bad.png");
  BAD (1, "4 samples", "encode", "-q", "-m", seeing, "--text", four, "0.y4m", "bad.safetensors");
  BAD (1, "lead away from: --text", "sample", "-q", "-m", seeing, "--guidance", "2", "bad.png");
}

static void
test_denoise (void **state)
{
  GOOD ("denoise", "-q", "-m", model, "--sigma", "0", "-n", "3", video, "same.y4m");
  assert_frames ("same.y4m", 0, 3);
  GOOD ("denoise", "-q", "-m", model, "--noise", "0.05", "--noisy", "noisy.mkv", "-n", "2", video,
        "clean.mkv");
  g_autofree char *none
      = good (ARGUMENTS ("denoise", "-q", "-m", model, "--noise", "0.000001", "-n", "1", video, "clean.mkv"));
  assert_non_null (strstr (none, "1e-06: - dB, denoised: "));
  assert_null (strstr (none, "inf"));
  /* what a model that was trained with uniform noise does is said, once, if anything is done */
  static const char *const noted = "note: normflow-yuv420-32-small was not trained with Gaussian noise";
  for (guint i = 0; i < 4; i++)
    {
      const char *of = i == 3 ? "normflow-yuv420-32-noisy" : "normflow-yuv420-32-small";
      g_auto (Result) result = run (ARGUMENTS ("denoise", "-m", of, "-s", i == 1 ? "0" : "0.1", "-n", "1",
                                               video, "clean.mkv", i == 2 ? "-q" : NULL));
      assert_int_equal (result.status, 0);
      const char *note = strstr (result.errors, i == 0 ? noted : "Gaussian");
      if ((note != NULL) != (i == 0) || (note && strstr (note + 1, noted)))
        fail_msg ("run %u: %s", i, result.errors);
    }
  GOOD ("sheet", "-q", "-m", model, "-n", "2", video, "sheet.png");
  assert_png ("sheet.png");
  BAD (2, "sigma", "denoise", "-q", "-m", model, video, "clean.mkv");
  BAD (2, "sigma", "denoise", "-q", "-m", model, "--sigma", "-1", video, "clean.mkv");
  BAD (1, "normflow-pong-64 is a model of videos, which takes no noise out of single frames: denoise",
       "denoise", "-q", "-m", "normflow-pong-64", "--sigma", "0.1", "nothing.mkv", "clean.mkv");
  BAD (1, "--tiles is for models of pictures, which normflow-pong-64 is not", "bench", "decode", "-q", "-m",
       "normflow-pong-64", "--tiles", "1");
  BAD (1, "--frames is for models of videos", "bench", "decode", "-q", "-m", model, "--frames", "1");
  g_autofree char *latents = nf_test_file ("golden", "starflow_text.weights.safetensors");
  g_auto (Result) refused = run (ARGUMENTS ("bench", "decode", "-q", "-m", latents));
  assert_int_equal (refused.status, 1);
  assert_non_null (strstr (refused.errors, "a model of another model's latents, which has no pictures"));
  assert_non_null (strstr (refused.errors, "normflow bench step decode -m "));
  assert_string_equal (refused.output, "");
  /* before there is a model */
  BAD (2, "must end in", "denoise", "-m", "nothing.safetensors", "--sigma", "0.1", video, "clean.jpg");
  BAD (2, "noisy.jpg", "denoise", "-m", "nothing.safetensors", "--noise", "0.1", "--noisy", "noisy.jpg",
       video, "clean.mkv");
}

/* What would do nothing, or is no number, is refused. */
static void
test_idle_options (void **state)
{
  BAD (2, "--attention-temperature", "sample", "-q", "-m", model, "--attention-temperature", "0.5",
       "wrong.png");
  BAD (2, "--context", "sample", "-q", "-m", "normflow-pong-64", "--context", "-1", "wrong.mkv");
  BAD (2, "--context", "encode", "-q", "-m", "normflow-pong-64", "--context", "-1", video,
       "wrong.safetensors");
  BAD (2, "--map", "eval", "-q", "-m", model, "--map-frame", "1", "-n", "2", video);
  BAD (2, "--map-frame", "eval", "-q", "-m", model, "--map", "wrong.png", "--map-frame", "-1", "-n", "2",
       video);
  /* 0 is no way to leave an option out */
  BAD (2, "--count is 1 to 1000000", "sample", "-q", "-m", model, "--count", "0", "wrong.png");
  BAD (2, "--frames is 1 to 1000000", "sample", "-q", "-m", model, "--frames", "0", "wrong.png");
  BAD (2, "--frames 1 or more", "decode", "-q", "-m", model, "-n", "0", "wrong.safetensors", "wrong.mkv");
  BAD (2, "--frames takes 1 or more", "encode", "-q", "-m", model, "-n", "0", video, "wrong.safetensors");
  BAD (2, "--frames takes 1 or more", "denoise", "-q", "-s", "0.1", "-n", "0", video, "wrong.mkv");
  BAD (2, "--noise 0 is out of range", "denoise", "-q", "-s", "0.1", "--noise", "0", video, "wrong.mkv");
  BAD (2, "--frames and --every take 1 or more", "eval", "-q", "-m", model, "-n", "0", video);
  BAD (2, "--frames takes 1 or more", "calibrate", "-q", "-m", model, "-n", "0", video);
  BAD (2, "take 1 or more", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--stop-after", "0", video);
  BAD (2, "take 1 or more", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--validate-every", "0", video);
  BAD (2, "--labels or --captions", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--label-dropout",
       "0.5", video);
  BAD (2, "give both", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--action-dropout", "0.5", video);
  BAD (2, "--warmup", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--warmup", "-1", video);
  BAD (2, "--sample-every says", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--sample-every", "5",
       video);
  BAD (2, "--seed is that of --noise", "denoise", "-q", "-m", model, "-s", "0.1", "--seed", "3", video,
       "wrong.mkv");
  static const char *const decoding[][2]
      = { { "method", "jacobi" }, { "guess", "zeros" },  { "window", "4" },   { "tolerance", "0.1" },
          { "blocks", "1,2" },    { "max-sweeps", "2" }, { "budget-ms", "9" } };
  for (guint i = 0; i < G_N_ELEMENTS (decoding); i++)
    {
      g_autofree char *option = g_strconcat ("--", decoding[i][0], NULL),
                      *text = g_strconcat (option, " says how --check decodes", NULL);
      BAD (2, text, "eval", "-q", "-m", model, option, decoding[i][1], "-n", "1", video);
    }
  static const char *const choices[][3] = {
    { "sample a.png", "--method", "auto, sequential, jacobi, draft" },
    { "sample a.png", "--guess", "latent, zeros, frame" },
    { "sample a.png", "--denoise", "auto, learned, score, none" },
    { "sample a.png", "--guide", "a, b, ab" },
    { "convert a b.safetensors", "--pixel-layout", "rgb, gray, yuv420" },
    { "convert a b.safetensors", "--noise", "uniform, gaussian" },
    { "convert a b.safetensors", "--dtype", "f32, f16, bf16" },
    { "world pong a.mkv", "--layout", "rgb, gray, yuv420" },
    { "world pong a.mkv", "--policy", "none, random, follow, mixed" },
    { "eval world a", "--world", "bounce, pong, gridworld" },
    { "eval world a --world pong", "--denoise", "auto, learned, score, none" },
    { "train -o a.safetensors --steps 1", "--world", "bounce, pong, gridworld" },
    { "train -o a.safetensors --steps 1 a.mkv", "--family", "tarflow, starflow" },
    { "train -o a.safetensors --steps 1 a.mkv", "--layout", "rgb, gray, yuv420" },
    { "train -o a.safetensors --steps 1 a.mkv", "--basis", "pixel, dct" },
    { "train -o a.safetensors --steps 1 a.mkv", "--noise", "uniform, gaussian" },
    { "verify a b.safetensors", "--method", "auto, sequential, jacobi, draft" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (choices); i++)
    {
      g_autofree char *line = g_strjoin (" ", choices[i][0], choices[i][1], "wrong", NULL),
                      *text
                      = g_strdup_printf ("%s \"wrong\" is not one of: %s\n", choices[i][1], choices[i][2]);
      g_auto (GStrv) words = g_strsplit (line, " ", -1);
      bad (2, text, (const char *const *)words);
    }
  BAD (2, "PATTERN \"wrong\" is not one of: bounce, pong, gridworld\n", "world", "wrong", "a.mkv");
  BAD (2, "WHAT \"wrong\" is not one of: matmul, ", "bench", "wrong");
  GOOD ("eval", "-q", "-m", model, "--check", "--method", "jacobi", "-n", "1", video);
  GOOD ("sample", "-q", "-m", model, "--method", "sequential", "--blocks", "0,4", "guess.png");
  BAD (2, "--blocks says of each block what --guess says of all", "sample", "-m", model, "--blocks", "4",
       "--guess", "zeros", "wrong.png");
  BAD (2, "\"4x\" of block 1 is not WINDOW, WINDOW:GUESS or WINDOW:GUESS:TOLERANCE,", "sample", "-m", model,
       "--blocks", "4,4x", "wrong.png");
  BAD (1, "blocks say how 1 blocks are decoded, but the model has", "sample", "-m", model, "--blocks", "4",
       "wrong.png");
  BAD (2, "--window is for sweeps", "sample", "-m", model, "--method", "sequential", "--window", "4",
       "wrong.png");
  BAD (2, "--tolerance is for sweeps", "sample", "-m", model, "--method", "sequential", "--tolerance", "0.1",
       "wrong.png");
  BAD (2, "--guess is for sweeps", "sample", "-m", model, "--method", "sequential", "--guess", "zeros",
       "wrong.png");
  GOOD ("sample", "-q", "-m", model, "--guess", "frame", "guess.png");
  GOOD ("sample", "-q", "-m", "normflow-pong-64", "--frames", "2", "--guess", "frame", "guess.mkv");
  BAD (2, "--max-sweeps is for sweeps", "sample", "-m", model, "--method", "sequential", "--max-sweeps", "2",
       "wrong.png");
  BAD (2, "--budget-ms is for sweeps", "sample", "-m", model, "--method", "sequential", "--budget-ms", "9",
       "wrong.png");
  BAD (2, "take 1 or more", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--batch", "0", video);
  BAD (2, "--noise-std", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--noise", "gaussian",
       "--noise-std", "nan", video);
  BAD (2, "out of range", "denoise", "-q", "-m", model, "-s", "nan", video, "wrong.mkv");
  BAD (2, "out of range", "denoise", "-q", "-m", model, "-s", "nan", "--noise", "0.1", video, "wrong.mkv");
  BAD (2, "out of range", "convert", "-q", "--noise-std", "nan", model, "wrong.safetensors");
  BAD (2, "--frames is 1 to", "world", "pong", "wrong.mkv", "-q", "-n", "0");
  BAD (2, "--clips is 1 to", "world", "pong", "wrong", "-q", "-n", "1", "-c", "0");
  assert_missing ("wrong.safetensors");
  assert_missing ("wrong.mkv");
}

/* Bytes of the largest file whose name begins so. */
static goffset
size_of_temporary (const char *prefix)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  goffset size = 0;
  while ((name = g_dir_read_name (dir)))
    {
      g_autofree char *path = in_folder (name);
      GStatBuf status;
      if (g_str_has_prefix (name, prefix) && g_stat (path, &status) == 0)
        size = MAX (size, status.st_size);
    }
  return size;
}

/* What there was stays, and so do its actions; the fragment has its own. */
static void
test_interrupted_world (void **state)
{
  GOOD ("world", "pong", "-q", "-n", "20", "played.mkv");
  g_autoptr (GBytes) video_before = contents ("played.mkv"),
                     actions_before = contents ("played.mkv.actions.ndjson");
  g_autoptr (GSubprocess) process
      = spawn (ARGUMENTS ("world", "pong", "--seed", "2", "-n", "1000000", "played.mkv"));
  /* once there are some seconds of it */
  for (guint i = 0; i < 1200 && size_of_temporary (".played.") < 20000; i++)
    g_usleep (50000);
  g_subprocess_send_signal (process, SIGINT);
  g_auto (Result) result = tool_finish (process);
  assert_int_equal (result.status, 130);
  assert_non_null (strstr (result.errors, "played.partial.mkv holds the first"));
  g_autoptr (GBytes) video_after = contents ("played.mkv"),
                     actions_after = contents ("played.mkv.actions.ndjson");
  assert_true (g_bytes_equal (video_before, video_after) && g_bytes_equal (actions_before, actions_after));
  GOOD ("eval", "-q", "-m", "normflow-pong-64", "--actions", "-n", "2", "played.partial.mkv");
}

/* A terminal that is closed, and Ctrl-C that also ended who reads what is said: nothing is left half done. */
static void
test_left_alone (void **state)
{
  static const struct
  {
    int signal;
    gboolean unread;
  } cases[] = { { SIGHUP, FALSE }, { SIGINT, TRUE }, { SIGPIPE, FALSE } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (GSubprocess) process = spawn (ARGUMENTS ("world", "pong", "-n", "1000000", "alone.mkv"));
      for (guint j = 0; j < 1200 && size_of_temporary (".alone.") < 20000; j++)
        g_usleep (50000);
      if (cases[i].unread)
        g_input_stream_close (g_subprocess_get_stderr_pipe (process), NULL, NULL);
      g_subprocess_send_signal (process, cases[i].signal);
      nf_test_ok (g_subprocess_wait (process, NULL, &error), error);
      assert_true (g_subprocess_get_if_exited (process));
      assert_int_equal (g_subprocess_get_exit_status (process), 130);
      assert_int_equal (size_of_temporary (".alone."), 0);
      GOOD ("eval", "-q", "-m", "normflow-pong-64", "--actions", "-n", "2", "alone.mkv");
      g_autofree char *path = in_folder ("alone.mkv");
      assert_int_equal (g_remove (path), 0);
    }
}

/* What nobody reads is an interruption, what cannot be written a failure, whatever is said. */
static void
test_unread_output (void **state)
{
  const char *const *const said[] = { ARGUMENTS ("eval", "-q", "-m", model, "-n", "2", video),
                                      ARGUMENTS ("info", "--tensors", model),
                                      ARGUMENTS ("sample", "-m", model, "-n", "1", "said.png"),
                                      ARGUMENTS ("eval", "--help"),
                                      ARGUMENTS ("help", "eval"),
                                      ARGUMENTS ("train", "-h"),
                                      ARGUMENTS ("--help"),
                                      ARGUMENTS ("--version") };
  for (guint i = 0; i < G_N_ELEMENTS (said); i++)
    {
      int unread[2];
      assert_true (pipe (unread) == 0 && close (unread[0]) == 0);
      g_autoptr (GSubprocess) first = spawn_into (unread[1], said[i]),
                              second = spawn_into (g_open ("/dev/full", O_WRONLY, 0), said[i]);
      g_auto (Result) interrupted = tool_finish (first), failed = tool_finish (second);
      if (interrupted.status != 130 || strstr (interrupted.errors, "written") || failed.status != 1
          || !strstr (failed.errors, "cannot be written"))
        fail_msg ("%s: %d and %s%d and %s", said[i][0], interrupted.status, interrupted.errors, failed.status,
                  failed.errors);
    }
}

static void
close_standard (gpointer data)
{
  for (int i = 0; i < 3; i++)
    if (GPOINTER_TO_UINT (data) & 1u << i)
      close (i);
}

/* Runs it with the descriptors closed whose bits CLOSED has. */
static Result
run_closed (guint closed, const char *const *arguments)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (TOOL_PIPES);
  g_subprocess_launcher_set_cwd (launcher, folder);
  g_subprocess_launcher_set_child_setup (launcher, close_standard, GUINT_TO_POINTER (closed), NULL);
  g_autoptr (GSubprocess) process = tool_spawn (launcher, arguments);
  return tool_finish (process);
}

/* What the command opens does not take the places of standard input and outputs that it was started without,
 * where what is said would go to it: that cannot be written, and all else is done. */
static void
test_closed (void **state)
{
  GOOD ("encode", "-q", "-m", model, "-n", "2", video, "closed.safetensors");
  for (guint closed = 1; closed < 8; closed++)
    {
      const int unsaid = closed & 1u << 1 ? 1 : 0;
      g_autofree char *path = in_folder ("closed.y4m");
      g_auto (Result) decoded
          = run_closed (closed, ARGUMENTS ("decode", "-m", model, "closed.safetensors", "closed.y4m")),
          trained
          = run_closed (closed, ARGUMENTS (UNQUIET, "--steps", "1", "-o", "closed-model.safetensors", video)),
          told = run_closed (closed, ARGUMENTS ("info", model));
      if (decoded.status != unsaid || trained.status != 0 || told.status != unsaid)
        fail_msg ("%u: %d, %d and %d", closed, decoded.status, trained.status, told.status);
      if (unsaid && !(closed & 1u << 2))
        assert_non_null (strstr (told.errors, "standard output cannot be written"));
      assert_int_equal (g_remove (path), 0);
    }
}

/* What there was room for stays where there is none for more, also if only the end finds out. */
static void
test_no_room (void **state)
{
  static const struct
  {
    const char *name, *frames;
    guint blocks; /* of 512 bytes */
  } cases[] = { { "room.mkv", "3000", 200 }, { "room.y4m", "3000", 200 }, { "end.y4m", "2", 20 } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *errors = NULL, *path = in_folder (cases[i].name),
                      *program = g_strdup_printf ("trap '' XFSZ; ulimit -f %u; exec '%s' \"$@\"",
                                                  cases[i].blocks, g_getenv ("NORMFLOW_TOOL"));
      int status;
      const char *const command[] = { "/bin/sh", "-c", program,         "sh",          "world", "pong",
                                      "-q",      "-n", cases[i].frames, cases[i].name, NULL };
      nf_test_ok (g_spawn_sync (folder, (char **)command, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, &errors,
                                &status, &error),
                  error);
      assert_int_equal (WEXITSTATUS (status), 1);
      g_auto (GStrv) lines = g_strsplit (errors, "\n", -1);
      assert_int_equal (g_strv_length (lines), 3);
      assert_true (strstr (lines[0], cases[i].name) && strstr (lines[0], "as many as could be written"));
      assert_true (strstr (lines[1], cases[i].name) && strstr (lines[1], "File too large"));
      GOOD ("eval", "-q", "-m", "normflow-pong-64", "-n", "1", cases[i].name);
      assert_int_equal (g_remove (path), 0);
    }
}

/* Bytes of the largest buffer of the device that the command chooses. */
static guint64
largest_buffer (void)
{
  g_autofree char *text = good (ARGUMENTS ("devices", "--json", "--device", "cpu"));
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) error = NULL;
  nf_test_ok (json_parser_load_from_data (parser, text, -1, &error), error);
  JsonArray *devices = json_node_get_array (json_parser_get_root (parser));
  for (guint i = 0; i < json_array_get_length (devices); i++)
    {
      JsonObject *device = json_array_get_object_element (devices, i);
      if (json_object_get_boolean_member (device, "chosen"))
        return (guint64)json_object_get_int_member (device, "max_alloc");
    }
  fail_msg ("no device is chosen: %s", text);
  return 0;
}

/* A file of the weights of CONFIG, a hole but for its header. */
static void
write_hole (const NfConfig *config, const char *path)
{
  g_autoptr (NfParameters) parameters = nf_parameters_new (config);
  g_autoptr (GString) header = g_string_new ("{");
  guint64 at = 0;
  for (guint i = 0; i < parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (parameters->list, NfParameter, i);
      const guint64 end = at + sizeof (float) * parameter->n;
      g_string_append_printf (header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "",
                              parameter->name);
      for (guint k = 0; k < parameter->n_dims; k++)
        g_string_append_printf (header, "%s%" G_GUINT64_FORMAT, k ? "," : "", parameter->dims[k]);
      g_string_append_printf (header, "],\"data_offsets\":[%" G_GUINT64_FORMAT ",%" G_GUINT64_FORMAT "]}", at,
                              end);
      at = end;
    }
  g_string_append_c (header, '}');
  while (header->len % 8)
    g_string_append_c (header, ' ');
  const guint64 length = GUINT64_TO_LE ((guint64)header->len);
  FILE *file = g_fopen (path, "wb");
  assert_non_null (file);
  assert_int_equal (fwrite (&length, sizeof length, 1, file), 1);
  assert_int_equal (fwrite (header->str, header->len, 1, file), 1);
  assert_int_equal (fflush (file), 0);
  assert_int_equal (ftruncate (fileno (file), (off_t)(sizeof length + header->len + at)), 0);
  fclose (file);
}

/* PoCL would blame the kernels. */
static void
test_cache_folder (void **state)
{
  g_autofree char *before = g_strdup (g_getenv ("POCL_CACHE_DIR"));
  g_setenv ("POCL_CACHE_DIR", video, TRUE);
  BAD (1, "video.y4m is no folder; set POCL_CACHE_DIR to one", "encode", "-q", "-m", model, video,
       "none.safetensors");
  if (before)
    g_setenv ("POCL_CACHE_DIR", before, TRUE);
  else
    g_unsetenv ("POCL_CACHE_DIR");
}

/* Weights that a device has no room for are refused by their shapes alone, and what has room is said. */
static void
test_too_large_for_device (void **state)
{
  g_autofree char *path = in_folder ("large.safetensors"), *limit = g_strdup (g_getenv ("POCL_MEMORY_LIMIT"));
  NfConfig config = { .family = NF_FAMILY_TARFLOW,
                      .channels = 3,
                      .img_size = 8,
                      .patch_size = 4,
                      .n_blocks = 1,
                      .n_layers = 1,
                      .head_dim = 64,
                      .expansion = 4,
                      .nvp = TRUE };
  g_setenv ("POCL_MEMORY_LIMIT", "1", TRUE);
  const guint64 room = largest_buffer ();
  g_auto (Result) result = { 0 };
  if (room <= 1 << 30)
    {
      /* a third more, in its 12 square matrices */
      while (3 * 12 * sizeof (float) * config.width * config.width < 4 * room)
        config.width += config.head_dim;
      write_hole (&config, path);
      result = run (ARGUMENTS ("sample", "-m", "large.safetensors", "--device", "cpu", "--precision", "f32",
                               "--count", "1", "large.png"));
      assert_int_equal (g_remove (path), 0);
    }
  if (limit)
    g_setenv ("POCL_MEMORY_LIMIT", limit, TRUE);
  else
    g_unsetenv ("POCL_MEMORY_LIMIT");
  if (room > 1 << 30)
    skip ();
  if (result.status != 1 || !strstr (result.errors, "large.safetensors: its weights take ")
      || !strstr (result.errors, "room for them in bf16, bf16-weights or int8-weights (option --precision"))
    fail_msg ("exit status %d: %s", result.status, result.errors);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_overview),
    cmocka_unit_test (test_models_and_devices),
    cmocka_unit_test (test_wrong_usage),
    cmocka_unit_test (test_info),
    cmocka_unit_test (test_info_not_finite),
    cmocka_unit_test (test_bench),
    cmocka_unit_test (test_bench_decode),
    cmocka_unit_test (test_bench_decode_video),
    cmocka_unit_test (test_cache_folder),
    cmocka_unit_test (test_too_large_for_device),
    cmocka_unit_test (test_encode_decode),
    cmocka_unit_test (test_sequence_names),
    cmocka_unit_test (test_lossy_input),
    cmocka_unit_test (test_far_frames),
    cmocka_unit_test (test_corrections),
    cmocka_unit_test (test_corrections),
    cmocka_unit_test (test_gap),
    cmocka_unit_test (test_uneven_times),
    cmocka_unit_test (test_fast_times),
    cmocka_unit_test (test_uneven_fast_times),
    cmocka_unit_test (test_encode_stream),
    cmocka_unit_test (test_eval),
    cmocka_unit_test (test_eval_unreadable),
    cmocka_unit_test (test_calibrate),
    cmocka_unit_test (test_calibrate_names),
    cmocka_unit_test (test_hints),
    cmocka_unit_test (test_sample),
    cmocka_unit_test (test_one),
    cmocka_unit_test (test_residual),
    cmocka_unit_test (test_sample_floats),
    cmocka_unit_test (test_sample_videos),
    cmocka_unit_test (test_eval_holdout),
    cmocka_unit_test (test_scaled),
    cmocka_unit_test (test_eval_same_names),
    cmocka_unit_test (test_eval_some),
    cmocka_unit_test (test_train_samples),
    cmocka_unit_test (test_sample_tall),
    cmocka_unit_test (test_sheet_of_either_family),
    cmocka_unit_test (test_text),
    cmocka_unit_test (test_denoise),
    cmocka_unit_test (test_interrupted_world),
    cmocka_unit_test (test_left_alone),
    cmocka_unit_test (test_unread_output),
    cmocka_unit_test (test_closed),
    cmocka_unit_test (test_no_room),
    cmocka_unit_test (test_lossy_output),
    cmocka_unit_test (test_wrong_latents),
    cmocka_unit_test (test_metadata_keys),
    cmocka_unit_test (test_hostile_texts),
    cmocka_unit_test (test_idle_options),
    cmocka_unit_test (test_rounded_threshold),
    cmocka_unit_test (test_noise),
    cmocka_unit_test (test_labels),
    cmocka_unit_test (test_captions),
    cmocka_unit_test (test_convert_without_room),
    cmocka_unit_test (test_file_names),
    cmocka_unit_test (test_endings),
    cmocka_unit_test (test_folders_for_files),
    cmocka_unit_test (test_overwriting),
  };
  return cmocka_run_group_tests_name ("tool", tests, set_up, tear_down);
}
