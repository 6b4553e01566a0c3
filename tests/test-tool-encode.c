/* normflow: the command encodes and decodes. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-folder.h"

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
  g_autofree char *from = in_folder ("far.safetensors"), *to = in_folder ("changed.safetensors");
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
      = run (ARGUMENTS ("decode", "-m", "normflow-yuv420-32-small", "changed.safetensors", "wrong.y4m"));
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
  g_autofree char *info = good (ARGUMENTS ("info", "far.safetensors"));
  assert_non_null (strstr (info, "values that decoding would not find"));
  g_auto (Result) decoded
      = run (ARGUMENTS ("decode", "-m", "normflow-yuv420-32-small", "far.safetensors", "back.y4m"));
  assert_int_equal (decoded.status, 0);
  assert_true (g_file_get_contents (clip, &before, &n_before, NULL));
  assert_true (g_file_get_contents (back, &after, &n_after, NULL));
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

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_encode_decode),     cmocka_unit_test (test_sequence_names),
    cmocka_unit_test (test_lossy_input),       cmocka_unit_test (test_far_frames),
    cmocka_unit_test (test_corrections),       cmocka_unit_test (test_gap),
    cmocka_unit_test (test_uneven_times),      cmocka_unit_test (test_fast_times),
    cmocka_unit_test (test_uneven_fast_times), cmocka_unit_test (test_encode_stream),
    cmocka_unit_test (test_lossy_output),      cmocka_unit_test (test_wrong_latents),
  };
  return cmocka_run_group_tests_name ("tool-encode", tests, set_up, tear_down);
}
