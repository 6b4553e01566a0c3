/* normflow: the command as a whole: usage, names, outputs, and how it ends. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "tool-folder.h"

#include "nf-parameters.h"

#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <signal.h>
#include <unistd.h>

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
    cmocka_unit_test (test_cache_folder),
    cmocka_unit_test (test_too_large_for_device),
    cmocka_unit_test (test_hints),
    cmocka_unit_test (test_interrupted_world),
    cmocka_unit_test (test_left_alone),
    cmocka_unit_test (test_unread_output),
    cmocka_unit_test (test_closed),
    cmocka_unit_test (test_no_room),
    cmocka_unit_test (test_metadata_keys),
    cmocka_unit_test (test_hostile_texts),
    cmocka_unit_test (test_idle_options),
    cmocka_unit_test (test_convert_without_room),
    cmocka_unit_test (test_file_names),
    cmocka_unit_test (test_endings),
    cmocka_unit_test (test_folders_for_files),
    cmocka_unit_test (test_overwriting),
  };
  return cmocka_run_group_tests_name ("tool", tests, set_up, tear_down);
}
