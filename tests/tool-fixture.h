/* normflow: tests that run the command. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-test.h"

#include <stdarg.h>

#define TOOL_PIPES (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE)

/* How a run ended. */
typedef struct
{
  int status;
  char *output, *errors;
} Result;

static inline void
result_clear (Result *result)
{
  g_free (result->output);
  g_free (result->errors);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Result, result_clear)

/* The command with WORDS, started by LAUNCHER. */
static inline GSubprocess *
tool_spawn (GSubprocessLauncher *launcher, const char *const *words)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) command = g_ptr_array_new ();
  assert_non_null (g_getenv ("NORMFLOW_TOOL"));
  g_ptr_array_add (command, (gpointer)g_getenv ("NORMFLOW_TOOL"));
  for (; *words; words++)
    g_ptr_array_add (command, (gpointer)*words);
  g_ptr_array_add (command, NULL);
  GSubprocess *process = g_subprocess_launcher_spawnv (launcher, (const char *const *)command->pdata, &error);
  nf_test_ok (process, error);
  return process;
}

/* Reads what it says until it ends, by itself. */
static inline Result
tool_finish (GSubprocess *process)
{
  g_autoptr (GError) error = NULL;
  Result result = { 0 };
  nf_test_ok (g_subprocess_communicate_utf8 (process, NULL, NULL, &result.output, &result.errors, &error),
              error);
  if (!g_subprocess_get_if_exited (process))
    fail_msg ("killed by signal %d: %s", g_subprocess_get_term_sig (process), result.errors);
  result.status = g_subprocess_get_exit_status (process);
  if (result.errors && strstr (result.errors, "CRITICAL **"))
    fail_msg ("%s", result.errors);
  return result;
}

#define ARGUMENTS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static inline Result
tool_run (const char *const *words)
{
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (TOOL_PIPES);
  g_autoptr (GSubprocess) process = tool_spawn (launcher, words);
  return tool_finish (process);
}

/* Runs it with FIRST and those after it up to NULL. */
static inline Result
tool_run_list (const char *first, va_list rest)
{
  g_autoptr (GPtrArray) words = g_ptr_array_new ();
  for (const char *word = first; word; word = va_arg (rest, const char *))
    g_ptr_array_add (words, (gpointer)word);
  g_ptr_array_add (words, NULL);
  return tool_run ((const char *const *)words->pdata);
}
