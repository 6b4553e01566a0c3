/* normflow: runs of the command in a folder of their own. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "tool-fixture.h"

#include "random-model.h"

#define WIDTH 41
#define HEIGHT 27
#define FRAMES 24
#define SAMPLES (WIDTH * HEIGHT + 2 * ((WIDTH + 1) / 2) * ((HEIGHT + 1) / 2))

/* A tiny model, another one, and a video, in a folder of their own. */
static char *folder, *model, *other, *video;

static inline char *
in_folder (const char *name)
{
  return g_build_filename (folder, name, NULL);
}

/* Standard output goes to OUTPUT, which is closed here, or, with -1, is read by tool_finish(). */
static inline GSubprocess *
spawn_into (int output, const char *const *arguments)
{
  g_autoptr (GSubprocessLauncher) launcher
      = g_subprocess_launcher_new (output < 0 ? TOOL_PIPES : G_SUBPROCESS_FLAGS_STDERR_PIPE);
  if (output >= 0)
    g_subprocess_launcher_take_stdout_fd (launcher, output);
  g_subprocess_launcher_set_cwd (launcher, folder);
  return tool_spawn (launcher, arguments);
}

static inline GSubprocess *
spawn (const char *const *arguments)
{
  return spawn_into (-1, arguments);
}

static inline Result
run (const char *const *arguments)
{
  g_autoptr (GSubprocess) process = spawn (arguments);
  return tool_finish (process);
}

/* A run that must work; its standard output. */
static inline char *
good (const char *const *arguments)
{
  g_auto (Result) result = run (arguments);
  if (result.status != 0)
    fail_msg ("%s: exit status %d: %s", arguments[0], result.status, result.errors);
  return g_steal_pointer (&result.output);
}

#define GOOD(...)                                                                                            \
  G_STMT_START { g_autofree char *output_ = good (ARGUMENTS (__VA_ARGS__)); }                                \
  G_STMT_END

/* A run that must end with STATUS and one line of error that speaks of PART. */
static inline void
bad (int status, const char *part, const char *const *arguments)
{
  g_auto (Result) result = run (arguments);
  g_autofree char *prefix = g_strdup_printf ("normflow %s", arguments[0]);
  if (result.status != status || !strstr (result.errors, part) || !strstr (result.errors, prefix))
    fail_msg ("%s %s: wanted exit status %d and \"%s\", got %d and: %s", arguments[0], arguments[1], status,
              part, result.status, result.errors);
}

#define BAD(status, part, ...) bad (status, part, ARGUMENTS (__VA_ARGS__))

static inline GBytes *
contents (const char *name)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = in_folder (name), *bytes = NULL;
  gsize size;
  nf_test_ok (g_file_get_contents (path, &bytes, &size, &error), error);
  return g_bytes_new_take (g_steal_pointer (&bytes), size);
}

static inline void
assert_same_files (const char *a, const char *b)
{
  g_autoptr (GBytes) first = contents (a), second = contents (b);
  if (!g_bytes_equal (first, second))
    fail_msg ("%s and %s differ", a, b);
}

/* NAME.y4m holds frames FIRST .. FIRST+N-1 of the video, whatever its header says. */
static inline void
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

static inline void
assert_png (const char *name)
{
  g_autoptr (GBytes) bytes = contents (name);
  assert_true (g_bytes_get_size (bytes) > 100);
  assert_memory_equal (g_bytes_get_data (bytes, NULL), "\x89PNG\r\n\x1a\n", 8);
}

/* Where N bytes begin in a file's. */
static inline guint
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

static inline void
assert_missing (const char *name)
{
  g_autofree char *path = in_folder (name);
  assert_false (g_file_test (path, G_FILE_TEST_EXISTS));
}

static inline void
write_model (const char *path, guint64 seed)
{
  const NfConfig config = random_picture_config (NF_PIXELS_YUV420, 16, 4, 2);
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  g_autoptr (GError) error = NULL;
  nf_reference_randomise (reference, seed, 0.05);
  nf_test_ok (nf_reference_write (reference, path, &error), error);
}

/* Raw frames with a small header: what comes back is compared byte by byte. */
static inline void
write_video (const char *path)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  g_autoptr (GError) error = NULL;
  g_autofree char *header = g_strdup_printf ("YUV4MPEG2 W%d H%d F25:1 Ip A1:1 C420jpeg\n", WIDTH, HEIGHT);
  g_byte_array_append (bytes, (const guint8 *)header, (guint)strlen (header));
  for (guint n = 0; n < FRAMES; n++)
    {
      g_byte_array_append (bytes, (const guint8 *)"FRAME\n", 6);
      for (guint i = 0; i < SAMPLES; i++)
        {
          const guint8 value = (guint8)(40 + i % WIDTH * 3 + n * 5 + 12 * nf_random_uniform (n, 0, i));
          g_byte_array_append (bytes, &value, 1);
        }
    }
  nf_test_ok (g_file_set_contents (path, (const char *)bytes->data, bytes->len, &error), error);
}

static inline int
set_up (void **state)
{
  folder = g_dir_make_tmp ("normflow-tool-XXXXXX", NULL);
  model = in_folder ("model.safetensors");
  other = in_folder ("other.safetensors");
  video = in_folder ("video.y4m");
  write_model (model, 1);
  write_model (other, 2);
  write_video (video);
  return 0;
}

static inline int
tear_down (void **state)
{
  nf_test_remove (folder);
  g_free (folder);
  g_free (model);
  g_free (other);
  g_free (video);
  return 0;
}

/* How often PART stands in the file NAME. */
static inline guint
count (const char *name, const char *part)
{
  g_autofree char *path = in_folder (name), *text = NULL;
  guint n = 0;
  assert_true (g_file_get_contents (path, &text, NULL, NULL));
  for (const char *at = text; (at = strstr (at, part)); at++)
    n++;
  return n;
}

/* Puts TO, as long as FROM, in its place in the file NAME. */
static inline void
replace_in (const char *name, const char *from, const char *to)
{
  g_autofree char *path = in_folder (name), *bytes = NULL;
  gsize size;
  assert_int_equal (strlen (from), strlen (to));
  assert_true (g_file_get_contents (path, &bytes, &size, NULL));
  char *at = g_strstr_len (bytes + 8, (gssize)size - 8, from);
  assert_non_null (at);
  memcpy (at, to, strlen (to));
  assert_true (g_file_set_contents (path, bytes, (gssize)size, NULL));
}

#define TRAIN UNQUIET, "-q"
#define UNQUIET                                                                                              \
  "train", "--batch", "4", "--size", "16", "--width", "32", "--blocks", "2", "--layers", "1", "--head-dim",  \
      "16", "--validation-tiles", "8", "--validate-every", "10", "--log-every", "1", "--seed", "3"

#define PONG "-q", "-m", "normflow-pong-64"
