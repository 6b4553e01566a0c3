/* normflow: the command trains, is stopped and goes on. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-folder.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void
test_train (void **state)
{
  GOOD (TRAIN, "-o", "whole.safetensors", "--steps", "24", "--log", "whole.ndjson", video);
  GOOD (TRAIN, "-o", "parts.safetensors", "--steps", "24", "--stop-after", "9", "--log", "parts.ndjson",
        video);
  GOOD ("train", "-q", "-o", "parts.safetensors", "--resume", "--stop-after", "17");
  GOOD ("train", "-q", "-o", "parts.safetensors", "--resume");
  assert_same_files ("whole.safetensors.checkpoint", "parts.safetensors.checkpoint");
  /* its log, too, goes on, a line for each step as the run began with */
  assert_int_equal (count ("parts.ndjson", "\"event\":\"resume\""), 2);
  assert_int_equal (count ("parts.ndjson", "\"event\":\"step\""), 24);
  /* a run without one keeps it from when it is first given */
  GOOD (TRAIN, "-o", "late.safetensors", "--steps", "6", "--stop-after", "2", video);
  GOOD ("train", "-q", "-o", "late.safetensors", "--resume", "--stop-after", "4", "--log", "late.ndjson");
  GOOD ("train", "-q", "-o", "late.safetensors", "--resume", "--log-every", "2");
  assert_int_equal (count ("late.ndjson", "\"event\":\"step\""), 3);
  GOOD ("eval", "-q", "-m", "whole.safetensors", "--check", "--frames", "1", video);
  /* one that came to its end goes on to another, by its learning rate as if it had been the end */
  GOOD (TRAIN, "-o", "short.safetensors", "--steps", "6", "--lr-min", "1e-3", "--lr", "1e-3", video);
  GOOD (TRAIN, "-o", "long.safetensors", "--steps", "9", "--lr-min", "1e-3", "--lr", "1e-3", video);
  BAD (1, "has done 6 steps: --resume goes on with --steps of more", "train", "-q", "-o", "short.safetensors",
       "--resume", "--steps", "6");
  g_auto (Result) ended = run (ARGUMENTS ("train", "-o", "short.safetensors", "--resume"));
  assert_non_null (strstr (ended.errors, "--resume --steps N goes on"));
  GOOD ("train", "-q", "-o", "short.safetensors", "--resume", "--steps", "9", "--stop-after", "7");
  GOOD ("train", "-q", "-o", "short.safetensors", "--resume");
  assert_same_files ("long.safetensors.checkpoint", "short.safetensors.checkpoint");
  BAD (2, "--steps", "train", "-q", "-o", "short.safetensors", "--resume", "--steps", "0");

  g_autoptr (GBytes) log = contents ("whole.ndjson");
  g_autofree char *text = g_strndup (g_bytes_get_data (log, NULL), g_bytes_get_size (log));
  assert_non_null (strstr (text, "\"event\":\"start\""));
  assert_non_null (strstr (text, "\"event\":\"validation\",\"step\":24"));
  g_autofree char *info = good (ARGUMENTS ("info", "whole.safetensors"));
  assert_non_null (strstr (info, "normflow train"));

  /* what is held out is measured alike, whatever a step's batch is */
  g_autofree char *held[2] = { NULL, NULL };
  for (guint i = 0; i < 2; i++)
    {
      GOOD ("train", "-q", "-o", "held.safetensors", "--init", "whole.safetensors", "--lr", "0", "--steps",
            "1", "--batch", i ? "1" : "5", "--validation-tiles", "12", "--log", "held.ndjson", video);
      g_autoptr (GBytes) lines = contents ("held.ndjson");
      g_autofree char *said = g_strndup (g_bytes_get_data (lines, NULL), g_bytes_get_size (lines));
      held[i] = g_strndup (strstr (strstr (said, "\"event\":\"validation\""), "\"loss\""), 24);
    }
  assert_string_equal (held[0], held[1]);

  BAD (2, "--lr-min", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--lr", "1e-4", "--lr-min", "1e-3",
       video);
  BAD (2, "--steps", TRAIN, "-o", "wrong.safetensors", video);
  BAD (2, "--output", TRAIN, "--steps", "2", video);
  BAD (1, "nothing", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "nothing");
  BAD (1, "resume", "train", "-q", "-o", "wrong.safetensors", "--resume");
  BAD (2, "lr", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--lr", "5", video);
  BAD (2, "--context-errors", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--context-errors", "2",
       video);
  BAD (2, "--world", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--world", "pong");
  BAD (2, "patch_size", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--patch", "5", video);
  BAD (2, "learned denoiser", "train", "-o", "wrong.safetensors", "--steps", "2", "--family", "starflow",
       "--frames", "4", "--denoiser", "1", video);
  BAD (2, "context_errors", TRAIN, "-o", "wrong.safetensors", "--steps", "2", "--context-errors", "0.5",
       video);
  BAD (2, "leave out --lr", "train", "-q", "-o", "parts.safetensors", "--resume", "--lr", "0.1");
  BAD (2,
       "leave out --warmup; beside --resume can be given --output, --checkpoint, --stop-after, --save-every, "
       "--log",
       "train", "-q", "-o", "parts.safetensors", "--resume", "--warmup", "3");
  BAD (2, "leave out --batch", "train", "-q", "-o", "parts.safetensors", "--resume", "--batch=4");
  BAD (2, "--precision \"bf16-weights\" is not one of: f32, bf16, auto", TRAIN, "-o", "wrong.safetensors",
       "--steps", "2", "--precision", "bf16-weights", video);
  BAD (2, "--precision \"f8\" is not one of: f32, bf16, bf16-weights, int8-weights, auto", "eval", "-m",
       model, "--precision", "f8", video);
  BAD (1, "there is no folder /nowhere", TRAIN, "-o", "/nowhere/wrong.safetensors", "--steps", "2", video);
  /* what is written beside it has a longer name */
  g_autofree char *long_name = g_strnfill (235, 'n');
  BAD (1, "n.checkpoint: cannot be written: ", TRAIN, "-o", long_name, "--steps", "2", video);
  g_autofree char *help = good (ARGUMENTS ("train", "--help")), *others = good (ARGUMENTS ("eval", "--help"));
  assert_null (strstr (help, "-weights"));
  assert_non_null (strstr (others, "bf16-weights, int8-weights"));
  assert_missing ("wrong.safetensors");
}

/* The value of a member of a run's settings. */
static char *
setting (const char *name, const char *member)
{
  g_autofree char *path = in_folder (name), *text = NULL, *key = g_strdup_printf ("\"%s\" : ", member);
  assert_true (g_file_get_contents (path, &text, NULL, NULL));
  const char *at = strstr (text, key);
  assert_non_null (at);
  at += strlen (key);
  return g_strndup (at, strcspn (at, ",\n"));
}

/* What is validated only because a run was stopped there is nothing that its model is the best of. */
static void
test_stopped_best (void **state)
{
#define SETTINGS "judged.safetensors.checkpoint.json"
  GOOD (TRAIN, "-o", "whole.safetensors", "--steps", "24", video);
  GOOD (TRAIN, "-o", "judged.safetensors", "--steps", "24", "--stop-after", "9", video);
  g_autofree char *none = setting (SETTINGS, "best_step"), *nothing = setting (SETTINGS, "best");
  assert_string_equal (none, "0");
  assert_string_equal (nothing, "\"inf\"");
  GOOD ("info", "judged.safetensors"); /* but there is a model to look at */
  GOOD ("train", "-q", "-o", "judged.safetensors", "--resume", "--stop-after", "17");
  g_autofree char *first = setting (SETTINGS, "best_step");
  assert_string_equal (first, "10");
  GOOD ("train", "-q", "-o", "judged.safetensors", "--resume");
  g_autofree char *best = setting (SETTINGS, "best"),
                  *whole = setting ("whole.safetensors.checkpoint.json", "best");
  assert_string_equal (best, whole);
#undef SETTINGS
}

/* With OUTPUT gone, or another one named, the best is what is found from there on: there is a model at the
 * end. */
static void
test_lost_output (void **state)
{
  g_autofree char *lost = in_folder ("lost.safetensors");
  GOOD (TRAIN, "-o", "lost.safetensors", "--steps", "24", "--stop-after", "14", video);
  g_remove (lost);
  GOOD ("train", "-q", "-o", "lost.safetensors", "--resume", "--stop-after", "16");
  GOOD ("info", "lost.safetensors");
  GOOD ("train", "-q", "-o", "lost.safetensors", "--resume");
  g_remove (lost);
  /* nothing is left to train */
  g_auto (Result) last = run (ARGUMENTS ("train", "-o", "lost.safetensors", "--resume"));
  assert_int_equal (last.status, 0);
  assert_non_null (strstr (last.errors, "lost.safetensors is not there"));
  GOOD ("info", "lost.safetensors");
  GOOD ("train", "-q", "-o", "elsewhere.safetensors", "--checkpoint", "lost.safetensors.checkpoint",
        "--resume");
  GOOD ("info", "elsewhere.safetensors");
}

/* Sends SIGINT to the thread of PROCESS that waits for it, so that no other's system call is interrupted. */
static void
interrupt_gently (GSubprocess *process)
{
  const char *id = g_subprocess_get_identifier (process), *thread;
  g_autofree char *tasks = g_strdup_printf ("/proc/%s/task", id);
  g_autoptr (GDir) dir = g_dir_open (tasks, 0, NULL);
  gboolean sent = FALSE;
  while (dir && !sent && (thread = g_dir_read_name (dir)))
    {
      g_autofree char *path = g_build_filename (tasks, thread, "comm", NULL), *name = NULL;
      if (g_file_get_contents (path, &name, NULL, NULL) && g_str_has_prefix (name, "signals"))
        sent = syscall (SYS_tgkill, atoi (id), atoi (thread), SIGINT) == 0;
    }
  assert_true (sent);
}

/* A run whose log is PIPE, which nobody reads, waits for that before its first step: there it is
 * interrupted. */
static void
interrupt_unbegun (const char *pipe, const char *const *arguments)
{
  g_autoptr (GSubprocess) process = spawn (arguments);
  g_autoptr (GString) errors = g_string_new (NULL);
  while (!strstr (errors->str, "device: "))
    {
      char part[256];
      const gssize n
          = g_input_stream_read (g_subprocess_get_stderr_pipe (process), part, sizeof part, NULL, NULL);
      if (n <= 0)
        fail_msg ("it ended before: %s", errors->str);
      g_string_append_len (errors, part, n);
    }
  interrupt_gently (process);
  g_usleep (50000);
  const int reader = g_open (pipe, O_RDONLY | O_CLOEXEC, 0);
  assert_true (reader >= 0);
  g_auto (Result) result = tool_finish (process);
  close (reader);
  assert_int_equal (result.status, 130);
  assert_non_null (strstr (result.errors, "interrupted"));
}

/* What a run has learnt is not lost because its line is given again, nor because another one was meant to
 * take its place and has learnt nothing. */
static void
test_begun_again (void **state)
{
#define AGAIN "-o", "again.safetensors"
  g_autofree char *log = in_folder ("again.ndjson"), *pipe = in_folder ("again.pipe"),
                  *settings = in_folder ("again.safetensors.checkpoint.json"), *text = NULL;
  g_autoptr (GError) error = NULL;
  if (!g_file_test ("/proc/self/task", G_FILE_TEST_EXISTS))
    skip ();
  assert_int_equal (mkfifo (pipe, 0700), 0);
  GOOD (TRAIN, AGAIN, "--steps", "6", "--stop-after", "2", video);
  g_autoptr (GBytes) begun = contents ("again.safetensors.checkpoint");
  BAD (1, "again.safetensors.checkpoint: it is no model but, as it says itself, \"normflow checkpoint\"",
       "info", "again.safetensors.checkpoint");
  BAD (1, "again.safetensors.checkpoint is at step 2 of 6 of another run: give --resume", TRAIN, AGAIN,
       "--steps", "9", video);
  BAD (2, "--overwrite", "train", "-q", AGAIN, "--resume", "--overwrite");
  interrupt_unbegun (pipe, ARGUMENTS (UNQUIET, AGAIN, "--steps", "9", "--overwrite", "--log", pipe, video));
  g_autoptr (GBytes) kept = contents ("again.safetensors.checkpoint");
  assert_true (g_bytes_equal (begun, kept));
  /* nor is one lost that cannot be read */
  nf_test_ok (g_file_get_contents (settings, &text, NULL, &error), error);
  nf_test_ok (g_file_set_contents (settings, "{}", -1, &error), error);
  BAD (1, "missing or not what it should be; --overwrite", TRAIN, AGAIN, "--steps", "9", video);
  nf_test_ok (g_file_set_contents (settings, text, -1, &error), error);
  GOOD (TRAIN, AGAIN, "--steps", "4", "--overwrite", video);

  /* a whole run is written over as any output is, once there is something to write */
  g_autoptr (GBytes) best = contents ("again.safetensors"), whole = contents ("again.safetensors.checkpoint");
  interrupt_unbegun (pipe, ARGUMENTS (UNQUIET, AGAIN, "--steps", "9", "--log", pipe, video));
  g_autoptr (GBytes) same_best = contents ("again.safetensors"),
                     same = contents ("again.safetensors.checkpoint");
  assert_true (g_bytes_equal (best, same_best) && g_bytes_equal (whole, same));
  g_autoptr (GSubprocess) process = spawn (
      ARGUMENTS (TRAIN, AGAIN, "--steps", "100000", "--validate-every", "100000", "--log", log, video));
  for (guint i = 0;
       i < 1200 && (!g_file_test (log, G_FILE_TEST_EXISTS) || !count ("again.ndjson", "\"step\":2,")); i++)
    g_usleep (20000);
  g_subprocess_send_signal (process, SIGINT);
  g_auto (Result) stopped = tool_finish (process);
  assert_int_equal (stopped.status, 130);
  assert_non_null (strstr (stopped.errors, "is still the model that was there"));
  g_autoptr (GBytes) best_still = contents ("again.safetensors");
  assert_true (g_bytes_equal (best, best_still));
  /* nor to a few more of them */
  const guint done = count ("again.ndjson", "\"event\":\"step\"");
  g_autoptr (GSubprocess) resumed = spawn (ARGUMENTS ("train", "-q", AGAIN, "--resume"));
  for (guint i = 0; i < 1200 && count ("again.ndjson", "\"event\":\"step\"") < done + 2; i++)
    g_usleep (20000);
  g_subprocess_send_signal (resumed, SIGINT);
  g_auto (Result) stopped_again = tool_finish (resumed);
  assert_int_equal (stopped_again.status, 130);
  g_autoptr (GBytes) best_yet = contents ("again.safetensors");
  assert_true (g_bytes_equal (best, best_yet));
  GOOD (TRAIN, AGAIN, "--steps", "1", "--overwrite", video);
#undef AGAIN
}

/* A run that was killed has written lines of steps that its checkpoint does not hold, the last one in part:
 * they come again. */
static void
test_killed_log (void **state)
{
  g_autofree char *log = in_folder ("killed.ndjson"), *text = NULL;
  g_autoptr (GError) error = NULL;
  GOOD (TRAIN, "-o", "killed.safetensors", "--steps", "14", "--stop-after", "8", "--log", "killed.ndjson",
        video);
  nf_test_ok (g_file_get_contents (log, &text, NULL, &error), error);
  g_autoptr (GString) killed = g_string_new (text);
  /* a line that is damaged hides none behind it */
  g_string_insert_len (killed, 0, "{\"event\":\0\0\n", 12);
  g_autoptr (GBytes) before = g_bytes_new (killed->str, killed->len);
  for (guint step = 9; step < 12; step++)
    g_string_append_printf (killed, "{\"event\":\"step\",\"step\":%u,\"loss\":1.0}\n", step);
  g_string_append (killed, "{\"event\":\"step\",\"st");
  nf_test_ok (g_file_set_contents (log, killed->str, (gssize)killed->len, &error), error);
  GOOD ("train", "-q", "-o", "killed.safetensors", "--resume");
  g_autoptr (GBytes) all = contents ("killed.ndjson");
  assert_true (g_bytes_get_size (all) > g_bytes_get_size (before));
  assert_memory_equal (g_bytes_get_data (all, NULL), g_bytes_get_data (before, NULL),
                       g_bytes_get_size (before));
  /* count() reads text */
  nf_test_ok (g_file_set_contents (log, (const char *)g_bytes_get_data (all, NULL) + 12,
                                   (gssize)g_bytes_get_size (all) - 12, &error),
              error);
  assert_int_equal (count ("killed.ndjson", "\"event\":\"step\""), 14);
  assert_int_equal (count ("killed.ndjson", "\"event\":\"step\",\"step\":9,"), 1);

  /* not those of another run that the log was of */
  GOOD (TRAIN, "-o", "unlogged.safetensors", "--steps", "6", "--stop-after", "2", video);
  GOOD ("train", "-q", "-o", "unlogged.safetensors", "--resume", "--log", "killed.ndjson");
  assert_int_equal (count ("killed.ndjson", "\"event\":\"step\""), 14 + 4);
}

/* Validations may take most of the time: they are measured, too. */
static void
test_minutes (void **state)
{
  double step, validation, minutes;
  guint steps;
  g_auto (Result) timed
      = run (ARGUMENTS ("train", "-o", "timed.safetensors", "--minutes", "0.05", "--batch", "1", "--size",
                        "16", "--width", "32", "--blocks", "2", "--layers", "1", "--head-dim", "16",
                        "--validation-tiles", "64", "--validate-every", "2", video));
  assert_int_equal (timed.status, 0);
  const char *part = strstr (timed.errors, " a validation: "), *line = part;
  assert_non_null (part);
  while (line > timed.errors && line[-1] != '\n')
    line--;
  assert_int_equal (sscanf (line, "%lf s a step, %lf s a validation: --minutes %lf is --steps %u", &step,
                            &validation, &minutes, &steps),
                    4);
  assert_true (step > 0 && validation > 0 && minutes == 0.05);
  if (steps > 1)
    assert_true (steps * (step + validation / 2) <= 1.05 * 60 * minutes);
}

/* A mean over fewer files, the others having no finite loss, is not better for being less. */
static void
test_best_of_all (void **state)
{
  static const struct
  {
    const char *tiles; /* of the best so far; NULL in settings from before they were kept */
    gboolean replaced;
  } cases[] = { { "3", TRUE }, { "8", FALSE }, { NULL, FALSE } };
#define SETTINGS "counted.safetensors.checkpoint.json"
  g_autofree char *settings = in_folder (SETTINGS);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *text = NULL;
      GOOD (TRAIN, "-o", "counted.safetensors", "--steps", "24", "--stop-after", "12", video);
      g_autofree char *best = setting (SETTINGS, "best"), *tiles = setting (SETTINGS, "best_tiles"),
                      *found = g_strdup_printf ("\"best\" : %s", best),
                      *counted = g_strdup_printf ("\"best_tiles\" : %s", tiles),
                      *changed = g_strdup_printf ("\"%s\" : %s", cases[i].tiles ? "best_tiles" : "unknown",
                                                  cases[i].tiles ? cases[i].tiles : "0");
      assert_string_equal (tiles, "8");
      nf_test_ok (g_file_get_contents (settings, &text, NULL, &error), error);
      g_autoptr (GString) edited = g_string_new (text);
      assert_int_equal (g_string_replace (edited, found, "\"best\" : \"-100\"", 0), 1);
      assert_int_equal (g_string_replace (edited, counted, changed, 0), 1);
      nf_test_ok (g_file_set_contents (settings, edited->str, -1, &error), error);
      GOOD ("train", "-q", "-o", "counted.safetensors", "--resume");
      g_autofree char *step = setting (SETTINGS, "best_step");
      if (cases[i].replaced)
        assert_in_range (g_ascii_strtoull (step, NULL, 10), 20, 24);
      else
        assert_string_equal (step, "10");
    }
#undef SETTINGS
}

/* What a run began from is in its checkpoint: it goes on without. */
static void
test_resumed_init (void **state)
{
  g_autofree char *start = in_folder ("start.safetensors"), *gone = in_folder ("gone.safetensors"),
                  *init = NULL;
#define BEGAN                                                                                                \
  "train", "-q", "--init", "start.safetensors", "--steps", "12", "--batch", "4", "--validation-tiles", "8"
  write_model (start, 5);
  GOOD (BEGAN, "-o", "going.safetensors", video);
  GOOD (BEGAN, "-o", "parted.safetensors", "--stop-after", "5", video);
  init = setting ("parted.safetensors.checkpoint.json", "init");
  assert_int_equal (init[1], G_DIR_SEPARATOR);
  assert_int_equal (g_rename (start, gone), 0);
  GOOD ("train", "-q", "-o", "parted.safetensors", "--resume");
  assert_same_files ("going.safetensors.checkpoint", "parted.safetensors.checkpoint");
#undef BEGAN
}

/* A resumed run keeps the precision and the pictures that it began with. */
static void
test_resumed_settings (void **state)
{
  g_autofree char *samples = in_folder ("samples"), *picture = in_folder ("samples/step-00000006.png"),
                  *settings = in_folder ("exact.safetensors.checkpoint.json"), *text = NULL;
  g_autoptr (GError) error = NULL;
  GOOD (TRAIN, "-o", "exact.safetensors", "--steps", "6", "--precision", "bf16", video);
  GOOD (TRAIN, "-o", "stopped.safetensors", "--steps", "6", "--precision", "bf16", "--stop-after", "2",
        "--samples", samples, "--sample-every", "3", video);
  BAD (1, "of the run, bf16, not in f32", "train", "-q", "-o", "stopped.safetensors", "--resume",
       "--precision", "f32");
  BAD (1, "of the run, bf16, not in f32", "train", "-q", "-o", "stopped.safetensors", "--resume", "--device",
       "cpu,precision=f32");
  g_setenv ("NORMFLOW_PRECISION", "f32", TRUE);
  GOOD ("train", "-q", "-o", "stopped.safetensors", "--resume", "--stop-after", "4");
  g_setenv ("NORMFLOW_PRECISION", "bf16", TRUE);
  GOOD (TRAIN, "-o", "told.safetensors", "--steps", "6", "--stop-after", "2", video);
  g_unsetenv ("NORMFLOW_PRECISION");
  GOOD ("train", "-q", "-o", "stopped.safetensors", "--resume", "--precision", "bf16");
  GOOD ("train", "-q", "-o", "told.safetensors", "--resume");
  assert_same_files ("exact.safetensors.checkpoint", "stopped.safetensors.checkpoint");
  assert_same_files ("exact.safetensors.checkpoint", "told.safetensors.checkpoint");
  assert_true (g_file_test (picture, G_FILE_TEST_EXISTS));

  /* settings from before it was kept say nothing of it */
  nf_test_ok (g_file_get_contents (settings, &text, NULL, &error), error);
  g_autoptr (GString) old = g_string_new (text);
  assert_int_equal (g_string_replace (old, "\"precision\" : \"bf16\",", "", 0), 1);
  nf_test_ok (g_file_set_contents (settings, old->str, -1, &error), error);
  GOOD ("train", "-q", "-o", "exact.safetensors", "--resume");
  assert_int_equal (count ("exact.safetensors.checkpoint.json", "\"precision\" : \"f32\""), 1);
  g_string_replace (old, "\"log\"", "\"precision\" : \"f32,kernels=gpu\", \"log\"", 0);
  nf_test_ok (g_file_set_contents (settings, old->str, -1, &error), error);
  BAD (1, "member \"precision\"", "train", "-q", "-o", "exact.safetensors", "--resume");
}

/* Settings that are none are refused in one line, also where they are empty or no number. */
static void
test_settings (void **state)
{
  static const struct
  {
    const char *from, *to, *part; /* all of the file, if FROM is NULL */
  } cases[] = {
    { NULL, "", "settings of the run is not a JSON object" },
    { NULL, "[]", "settings of the run is not a JSON object" },
    { NULL, "{}", "member \"config\"" },
    { "\"lr\"", "\"lr\" : 1, \"lr\"", "\"lr\" twice" },
    { "\"best\" : \"", "\"best\" : \"nan\", \"no\" : \"", "member \"best\"" },
    { "\"best\" : \"", "\"best\" : \"-inf\", \"no\" : \"", "member \"best\"" },
    { "\"scales\" :", "\"scales\" : [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], \"no\" :",
      "json: member \"scales\"" },
    { "\"seconds\" : \"", "\"seconds\" : \"nan\", \"no\" : \"", "member \"seconds\"" },
    { "\"seconds\" : \"", "\"seconds\" : \"inf\", \"no\" : \"", "member \"seconds\"" },
    { "\"warmup\" :", "\"warmup\" : \"5\", \"no\" :", "json: member \"warmup\"" },
    { "\"batch\" :", "\"batch\" : \"4\", \"no\" :", "json: member \"batch\"" },
    { "\"batch\" :", "\"batch\" : 4.5, \"no\" :", "json: member \"batch\"" },
    { "\"validate_every\" :", "\"validate_every\" : \"\", \"no\" :", "json: member \"validate_every\"" },
    { "\"labels\" :", "\"labels\" : \"nan\", \"no\" :", "json: member \"labels\"" },
    { "\"actions\" :", "\"actions\" : 0, \"no\" :", "json: member \"actions\"" },
    { "\"other_output\" :", "\"other_output\" : [], \"no\" :", "json: member \"other_output\"" },
    { "\"log\" :", "\"log\" : \"file:///a%zz\", \"no\" :", "json: member \"log\"" },
    { "\"files\" :", "\"files\" : [\"file:///a%00\"], \"no\" :", "json: member \"files\"" },
    { "\"command\" :", "\"command\" : 5, \"no\" :", "json: member \"command\"" },
    { "\"lr\" :", "\"lr\" : \"1e308\", \"no\" :", "json: lr 1e+308: must be" },
    { "\"lr_min\" :", "\"lr_min\" : \"1\", \"no\" :", "json: lr_min 1: must be" },
    { "\"beta1\" :", "\"beta1\" : \"7\", \"no\" :", "json: training option beta1" },
    { "\"best\" : \"", "\"best\" : \"inf\", \"no\" : \"", NULL }
  };
  g_autofree char *path = in_folder ("set.safetensors.checkpoint.json"), *log = in_folder ("set.ndjson"),
                  *text = NULL;
  g_autoptr (GError) error = NULL;
  GOOD (TRAIN, "-o", "set.safetensors", "--steps", "3", "--stop-after", "2", "--log", log, video);
  /* lines of the log that are none of a step */
  assert_true (g_file_set_contents (log, "\n{}\n{\"step\":[]}\n{\"step\":\"9\"}\n", -1, NULL));
  nf_test_ok (g_file_get_contents (path, &text, NULL, &error), error);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GString) edited = g_string_new (cases[i].from ? text : cases[i].to);
      if (cases[i].from)
        assert_int_equal (g_string_replace (edited, cases[i].from, cases[i].to, 0), 1);
      nf_test_ok (g_file_set_contents (path, edited->str, -1, &error), error);
      g_auto (Result) result = run (ARGUMENTS ("train", "-q", "-o", "set.safetensors", "--resume"));
      if (cases[i].part ? result.status != 1 || !strstr (result.errors, cases[i].part)
                              || strchr (result.errors, '\n') != strrchr (result.errors, '\n')
                        : result.status != 0 || strstr (result.errors, "CRITICAL"))
        fail_msg ("%s: %d and %s", cases[i].to, result.status, result.errors);
    }
}

/* A run goes on where something else multiplies, and says so. */
static void
test_resumed_form (void **state)
{
  g_autoptr (NfDevice) device = nf_device_open ("auto,f32=fma", NULL);
  g_autofree char *ours = g_strdup_printf ("\"multiplied_by\" : \"%s\"", nf_device_get_arithmetic (device)),
                  *narrow = g_strdup_printf ("by %s so far and are by fma-4 from here on",
                                             nf_device_get_arithmetic (device));
  g_setenv ("NORMFLOW_F32", "fma", TRUE);
  GOOD (TRAIN, "-o", "by.safetensors", "--steps", "6", "--stop-after", "2", video);
  g_auto (Result) same = run (ARGUMENTS ("train", "-o", "by.safetensors", "--resume", "--stop-after", "3"));
  assert_int_equal (same.status, 0);
  assert_null (strstr (same.errors, "bit for bit"));
  /* it asks for what did it, where nothing else is said and it is at hand */
  g_unsetenv ("NORMFLOW_F32");
  g_auto (Result) asked = run (ARGUMENTS ("train", "-o", "by.safetensors", "--resume", "--stop-after", "4"));
  assert_int_equal (asked.status, 0);
  assert_null (strstr (asked.errors, "bit for bit"));
  assert_int_equal (count ("by.safetensors.checkpoint.json", ours), 1);
  g_setenv ("NORMFLOW_F32", "fma", TRUE);
  replace_in ("by.safetensors.checkpoint.json", "\"multiplied_by\" : \"fma", "\"multiplied_by\" : \"abc");
  g_auto (Result) another
      = run (ARGUMENTS ("train", "-o", "by.safetensors", "--resume", "--stop-after", "5"));
  assert_int_equal (another.status, 0);
  assert_non_null (strstr (another.errors, "by abc"));
  assert_int_equal (count ("by.safetensors.checkpoint.json", ours), 1);
  g_auto (Result) slim = run (
      ARGUMENTS ("train", "-o", "by.safetensors", "--resume", "--stop-after", "6", "-d", "auto,vectors=4"));
  assert_int_equal (slim.status, 0);
  assert_non_null (strstr (slim.errors, narrow));
  replace_in ("by.safetensors.checkpoint.json", "\"multiplied_by\" : \"fma-4\"",
              "\"multiplied_by\" : \"\\n.-4\"");
  BAD (1, "member \"multiplied_by\"", "train", "-q", "-o", "by.safetensors", "--resume");
  g_unsetenv ("NORMFLOW_F32");
}

/* Another file of the same name is not what a run goes on with. */
static void
test_resumed_files (void **state)
{
  g_autofree char *clips = in_folder ("clips"), *clip = in_folder ("clips/b.y4m"),
                  *first = in_folder ("clips/a.y4m"), *text = NULL, *bytes = NULL,
                  *settings = in_folder ("same.safetensors.checkpoint.json"),
                  *part = in_folder ("same.safetensors.checkpoint.json.part");
  g_autoptr (GError) error = NULL;
  gsize size;
  assert_int_equal (g_mkdir (clips, 0777), 0);
  write_video (clip);
  nf_test_ok (g_file_get_contents (clip, &bytes, &size, &error), error);
  GOOD (TRAIN, "-o", "same.safetensors", "--steps", "6", "--stop-after", "2", clips);
  /* what a run that was killed left of its settings is not left for ever */
  assert_true (g_file_set_contents (part, "{", -1, NULL));
  GOOD ("train", "-q", "-o", "same.safetensors", "--resume", "--stop-after", "3");
  assert_missing ("same.safetensors.checkpoint.json.part");

  /* two frames less */
  nf_test_ok (g_file_set_contents (clip, bytes, (gssize)(size - 2 * (6 + SAMPLES)), &error), error);
  BAD (1, "b.y4m is not what the run began with: it has 22 frames in", "train", "-q", "-o",
       "same.safetensors", "--resume");
  write_video (clip);
  write_video (first);
  BAD (1, "a.y4m is not what the run began with: it was not there", "train", "-q", "-o", "same.safetensors",
       "--resume");
  assert_int_equal (g_rename (clip, first), 0);
  BAD (1, "b.y4m is not what the run began with: it is no longer there", "train", "-q", "-o",
       "same.safetensors", "--resume");
  assert_int_equal (g_rename (first, clip), 0);
  GOOD ("train", "-q", "-o", "same.safetensors", "--resume", "--stop-after", "4");

  /* they may have moved, but are the same */
  g_autofree char *moved = in_folder ("moved");
  assert_int_equal (g_rename (clips, moved), 0);
  BAD (1, "clips", "train", "-q", "-o", "same.safetensors", "--resume");
  BAD (1, "b.y4m is not what the run began with: none of the files named is b.y4m", "train", "-q", "-o",
       "same.safetensors", "--resume", video);
  BAD (1, "began without --validation", "train", "-q", "-o", "same.safetensors", "--resume", "--validation",
       video);
  BAD (1, "began without --captions", "train", "-q", "-o", "same.safetensors", "--resume", "--captions",
       video);
  GOOD ("train", "-q", "-o", "same.safetensors", "--resume", "--stop-after", "5", "moved");
  GOOD ("train", "-q", "-o", "same.safetensors", "--resume");
  GOOD (TRAIN, "-o", "unmoved.safetensors", "--steps", "6", moved);
  assert_same_files ("unmoved.safetensors.checkpoint", "same.safetensors.checkpoint");
  assert_int_equal (g_rename (moved, clips), 0);
  GOOD (TRAIN, "-o", "same.safetensors", "--steps", "6", "--stop-after", "4", "--overwrite", clips);

  /* what it is judged by, too */
  g_autofree char *judge = in_folder ("judge.y4m"), *judges = in_folder ("judges"),
                  *judge_moved = in_folder ("judges/judge.y4m");
  assert_int_equal (g_mkdir (judges, 0777), 0);
  write_video (judge);
  GOOD (TRAIN, "-o", "judge.safetensors", "--steps", "4", "--stop-after", "1", "--validation", judge, clips);
  assert_int_equal (g_rename (judge, judge_moved), 0);
  BAD (1, "are named by --validation: ", "train", "-q", "-o", "judge.safetensors", "--resume");
  BAD (1, "is not what the run began with", "train", "-q", "-o", "judge.safetensors", "--resume",
       "--validation", video);
  GOOD ("train", "-q", "-o", "judge.safetensors", "--resume", "--stop-after", "2", "--validation", judges,
        "--validate-every", "1");
  /* one that is damaged by now is left out elsewhere, and why is told */
  write_video (first);
  nf_test_ok (g_file_set_contents (clip, "YUV4", -1, &error), error);
  assert_int_equal (g_rename (clips, moved), 0);
  BAD (1, "b.y4m is not what the run began with: it was left out (", "train", "-q", "-o", "judge.safetensors",
       "--resume", "moved");
  /* but not of another, whose name only ends like that */
  g_autofree char *damaged = in_folder ("moved/b.y4m"), *other_damaged = in_folder ("moved/bb.y4m");
  assert_int_equal (g_rename (damaged, other_damaged), 0);
  BAD (1, "b.y4m is not what the run began with: none of the files named is b.y4m", "train", "-q", "-o",
       "judge.safetensors", "--resume", "moved");
  assert_int_equal (g_remove (other_damaged), 0);
  assert_int_equal (g_rename (moved, clips), 0);
  write_video (clip);
  g_remove (first);
  /* pictures are held out folder by folder */
  static const char *const picture_folders[] = { "pictures-a", "pictures-b", "pictures-c" };
  for (guint i = 0; i < G_N_ELEMENTS (picture_folders); i++)
    {
      g_autofree char *path = in_folder (picture_folders[i]);
      assert_int_equal (g_mkdir (path, 0777), 0);
    }
  GOOD ("sample", "-q", "-m", model, "--count", "1", "pictures-a/1.png");
  GOOD ("sample", "-q", "-m", model, "--count", "1", "pictures-b/2.png");
  GOOD (TRAIN, "-o", "pictures.safetensors", "--steps", "4", "--stop-after", "1", "pictures-a", "pictures-b");
  g_autofree char *a = in_folder ("pictures-a/1.png"), *a_moved = in_folder ("pictures-c/1.png"),
                  *b = in_folder ("pictures-b/2.png"), *b_moved = in_folder ("pictures-c/2.png");
  assert_int_equal (g_rename (a, a_moved), 0);
  GOOD ("train", "-q", "-o", "pictures.safetensors", "--resume", "--stop-after", "2", "pictures-c",
        "pictures-b");
  assert_int_equal (g_rename (b, b_moved), 0);
  BAD (1, "2.png is not what the run began with: folders part the files otherwise", "train", "-q", "-o",
       "pictures.safetensors", "--resume", "pictures-c");

  /* settings from before they were kept say nothing of them */
  nf_test_ok (g_file_get_contents (settings, &text, NULL, &error), error);
  g_autoptr (GString) old = g_string_new (text);
  assert_int_equal (g_string_replace (old, "\"sources\"", "\"nothing\"", 0), 1);
  nf_test_ok (g_file_set_contents (settings, old->str, -1, &error), error);
  write_video (first);
  GOOD ("train", "-q", "-o", "same.safetensors", "--resume", "--stop-after", "5");
  g_remove (first);
  BAD (1, "a.y4m is not what the run began with: it is no longer there", "train", "-q", "-o",
       "same.safetensors", "--resume");
}

/* Names may be any bytes: a run that was stopped finds what is called so, and those that are text are kept as
 * they are. */
static void
test_odd_names (void **state)
{
  g_autofree char *odd = in_folder ("o\xe9%41d"), *clip = in_folder ("o\xe9%41d/caf\xe9.y4m"),
                  *plain = in_folder ("sch\303\266n%41.y4m"), *judge = in_folder ("o\xe9%41d/judge.y4m"),
                  *moved = in_folder ("moved\xff"), *other_clip = in_folder ("moved\xff/caf\xe9.y4m"),
                  *other_judge = in_folder ("moved\xff/judge.y4m"),
                  *picture = in_folder ("pictures\xe9/step-00000004.png");
  assert_int_equal (g_mkdir (odd, 0777), 0);
  write_video (clip);
  write_video (plain);
  write_video (judge);
#define ODD TRAIN, "--steps", "6", "--validation", judge, clip, plain
  GOOD (ODD, "-o", "odd-whole.safetensors");
  GOOD (ODD, "-o", "odd.safetensors", "--stop-after", "2", "--log", "log\xe9", "--samples", "pictures\xe9",
        "--sample-every", "2");
  assert_int_equal (count ("odd.safetensors.checkpoint.json", "/sch\303\266n%41.y4m\""), 2);
  assert_int_equal (count ("odd.safetensors.checkpoint.json", "/o%E9%2541d/caf%E9.y4m\""), 1);
  BAD (1, "of another run: give --resume", ODD, "-o", "odd.safetensors");
  GOOD ("train", "-q", "-o", "odd.safetensors", "--resume", "--stop-after", "4");
  assert_int_equal (count ("log\xe9", "\"event\":\"step\""), 4);
  assert_true (g_file_test (picture, G_FILE_TEST_EXISTS));
  assert_int_equal (g_rename (odd, moved), 0);
  GOOD ("train", "-q", "-o", "odd.safetensors", "--resume", "--stop-after", "5", "--validation", other_judge,
        other_clip, plain);
  GOOD ("train", "-q", "-o", "odd.safetensors", "--resume");
  assert_same_files ("odd-whole.safetensors.checkpoint", "odd.safetensors.checkpoint");
#undef ODD
}

/* Of a folder, videos that cannot be used are left out and said, as are pictures that are held out; one that
 * is trained on is replaced, and said when it was its turn. A run goes on without what was left out, too. */
static void
test_left_out (void **state)
{
  static const char *const broken[] = { "some/b.mkv", "some/c.y4m", "some/3.png", "some/9.png" };
  g_autofree char *some = in_folder ("some"), *third = in_folder (broken[2]), *film = in_folder (broken[0]),
                  *other_film = in_folder (broken[1]), *bytes = NULL;
  g_autoptr (GError) error = NULL;
  gsize size;
  assert_int_equal (g_mkdir (some, 0777), 0);
  GOOD ("sample", "-q", "-m", model, "--count", "9", "some/%d.png");
  nf_test_ok (g_file_get_contents (third, &bytes, &size, &error), error);
  for (guint i = 0; i < G_N_ELEMENTS (broken); i++)
    {
      g_autofree char *path = in_folder (broken[i]);
      nf_test_ok (g_file_set_contents (path, bytes, (gssize)size / 2, &error), error);
    }
#define SOME TRAIN, "--holdout", "0.2", "--steps", "4"
  g_auto (Result) begun = run (ARGUMENTS (SOME, "-o", "some.safetensors", "--stop-after", "2", some));
  assert_int_equal (begun.status, 0);
  assert_non_null (strstr (begun.errors, "left out, 3 of 11 files: "));
  for (guint i = 0; i < G_N_ELEMENTS (broken); i++)
    assert_non_null (strstr (begun.errors, broken[i]));
  const char *replaced = strstr (begun.errors, "and were replaced: ");
  assert_true (replaced && strstr (replaced, "3.png"));
  assert_non_null (strstr (begun.errors, "data: 9 files, 7 frames to train on"));
  g_remove (film);
  g_remove (other_film);
  GOOD ("train", "-q", "-o", "some.safetensors", "--resume", "--stop-after", "3");
  /* one that was mended was none of the run's */
  write_video (other_film);
  BAD (1, "c.y4m is not what the run began with: it was not there, or was left out", "train", "-q", "-o",
       "some.safetensors", "--resume");
  g_remove (other_film);
  GOOD ("train", "-q", "-o", "some.safetensors", "--resume");
  GOOD (SOME, "-o", "sound.safetensors", some);
  assert_same_files ("some.safetensors.checkpoint", "sound.safetensors.checkpoint");

  /* evaluation holds out what training does */
  g_auto (Result) held = run (ARGUMENTS ("eval", "-q", "-m", model, "--holdout", "0.2", some));
  assert_true (strstr (held.output, "8.png") && !strstr (held.output, "7.png"));

  g_autofree char *only = in_folder ("only"), *spoilt = in_folder ("only/bad.png");
  assert_int_equal (g_mkdir (only, 0777), 0);
  nf_test_ok (g_file_set_contents (spoilt, bytes, (gssize)size / 2, &error), error);
  /* without a first step nothing is written, nor is another run's log */
  g_autofree char *log = in_folder ("kept.ndjson"), *kept = NULL;
  nf_test_ok (g_file_set_contents (log, "{}\n", -1, &error), error);
  BAD (1, "bad.png: ", TRAIN, "-o", "no.safetensors", "--steps", "1", "--log", "kept.ndjson", only);
  nf_test_ok (g_file_get_contents (log, &kept, NULL, &error), error);
  assert_string_equal (kept, "{}\n");
  GOOD (TRAIN, "-o", "yes.safetensors", "--steps", "1", "--log", "kept.ndjson", "--log-every", "1", video);
  assert_int_equal (count ("kept.ndjson", "{}"), 0);
  assert_int_equal (count ("kept.ndjson", "\"event\":\"start\""), 1);
  assert_int_equal (count ("kept.ndjson", "\"event\":\"step\""), 1);
  BAD (1, "what is held out of ", TRAIN, "-o", "no.safetensors", "--steps", "1", "--validation", only, video);
  assert_missing ("no.safetensors");
  g_auto (Result) besides
      = run (ARGUMENTS (TRAIN, "-o", "besides.safetensors", "--steps", "1", "--validation-tiles", "32",
                        "--validation", some, "--validation", only, video));
  assert_int_equal (besides.status, 0);
  assert_non_null (strstr (besides.errors, "only/bad.png"));
#undef SOME
}

/* Ctrl-C in the middle: saved, and it goes on as if nothing had been. */
static void
test_interrupted (void **state)
{
  g_autofree char *log = in_folder ("interrupted.ndjson"), *settings = NULL;
  g_autoptr (GSubprocess) process = spawn (ARGUMENTS (TRAIN, "-o", "interrupted.safetensors", "--steps",
                                                      "100000", "--warmup", "10", "--log", log, video));
  gboolean begun = FALSE;
  for (guint i = 0; i < 1200 && !begun; i++)
    {
      g_autofree char *text = NULL;
      g_usleep (50000);
      begun = g_file_get_contents (log, &text, NULL, NULL) && strstr (text, "\"event\":\"step\",\"step\":12");
    }
  assert_true (begun);
  /* twice, as timeout(1) does: the process, then its group */
  g_subprocess_send_signal (process, SIGINT);
  g_usleep (10000);
  g_subprocess_send_signal (process, SIGINT);
  g_auto (Result) result = tool_finish (process);
  assert_int_equal (result.status, 130);
  assert_non_null (strstr (result.errors, "--resume goes on"));
  GOOD ("info", "interrupted.safetensors");

  /* as many steps at once, and as many after the interruption */
  g_autoptr (GError) error = NULL;
  g_autofree char *checkpoint = in_folder ("interrupted.safetensors.checkpoint");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (checkpoint, &error);
  nf_test_ok (file, error);
  double state_values[3];
  nf_tensor_to_double (nf_tensor_file_lookup (file, "state"), state_values);
  assert_true (state_values[0] >= 12);
  g_autofree char *end = g_strdup_printf ("%d", (int)state_values[0] + 5);
  GOOD ("train", "-q", "-o", "interrupted.safetensors", "--resume", "--stop-after", end);
  GOOD (TRAIN, "-o", "straight.safetensors", "--steps", "100000", "--warmup", "10", "--stop-after", end,
        video);
  assert_same_files ("interrupted.safetensors.checkpoint", "straight.safetensors.checkpoint");
}

/* Whether the process catches SIGINT by now. */
static gboolean
catches (GSubprocess *process)
{
  g_autofree char *path = g_strdup_printf ("/proc/%s/status", g_subprocess_get_identifier (process)),
                  *text = NULL;
  const char *mask;
  assert_true (g_file_get_contents (path, &text, NULL, NULL));
  mask = strstr (text, "SigCgt:");
  assert_non_null (mask);
  return g_ascii_strtoull (mask + strlen ("SigCgt:"), NULL, 16) >> (SIGINT - 1) & 1;
}

/* Ctrl-C before the first step is no divergence. */
static void
test_interrupted_at_start (void **state)
{
  if (!g_file_test ("/proc/self/status", G_FILE_TEST_EXISTS))
    skip ();
  g_autoptr (GSubprocess) process
      = spawn (ARGUMENTS (TRAIN, "-o", "unbegun.safetensors", "--steps", "100000", video));
  while (!catches (process))
    g_usleep (1000);
  g_subprocess_send_signal (process, SIGINT);
  g_auto (Result) result = tool_finish (process);
  assert_null (strstr (result.errors, "diverged"));
  assert_int_equal (result.status, 130);
  assert_non_null (strstr (result.errors, "interrupted"));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_train),
    cmocka_unit_test (test_stopped_best),
    cmocka_unit_test (test_lost_output),
    cmocka_unit_test (test_begun_again),
    cmocka_unit_test (test_minutes),
    cmocka_unit_test (test_killed_log),
    cmocka_unit_test (test_best_of_all),
    cmocka_unit_test (test_resumed_init),
    cmocka_unit_test (test_resumed_settings),
    cmocka_unit_test (test_settings),
    cmocka_unit_test (test_resumed_form),
    cmocka_unit_test (test_resumed_files),
    cmocka_unit_test (test_odd_names),
    cmocka_unit_test (test_left_out),
    cmocka_unit_test (test_interrupted),
    cmocka_unit_test (test_interrupted_at_start),
  };
  return cmocka_run_group_tests_name ("tool-train", tests, set_up, tear_down);
}
