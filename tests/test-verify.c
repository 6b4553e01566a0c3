/* normflow: `normflow verify` against the official numbers, in each form of the kernels and with each method
 * of decoding. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

static const char *const cases[]
    = { "tarflow_uncond",   "tarflow_class",       "tarflow_vp", "starflow_text",     "starflow_wide",
        "starflow_r2l_exp", "starflow_gqa_swiglu", "starflow_v", "starflow_v_square", "starflow_v_single" };

/* Tensors of EXPECTED that are not inputs. */
static guint
count_expected (const char *path)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  guint n = 0;
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const char *name = nf_tensor_file_get (file, i)->name;
      n += !g_str_has_prefix (name, "input.") && strcmp (name, "sample.noise") != 0
           && strcmp (name, "sample.text_with_null") != 0;
    }
  return n;
}

static void
verify (const char *name, const char *kernels, const char *method)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights_name = g_strconcat (name, ".weights.safetensors", NULL),
                  *expected_name = g_strconcat (name, ".expected.safetensors", NULL),
                  *weights = nf_test_file ("golden", weights_name),
                  *expected = nf_test_file ("golden", expected_name), *output = NULL, *errors = NULL;
  const char *const command[]
      = { g_getenv ("NORMFLOW_TOOL"), "verify", "--quiet", "--method", method, weights, expected, NULL };
  g_autoptr (GSubprocessLauncher) launcher
      = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  assert_non_null (command[0]);
  g_subprocess_launcher_setenv (launcher, "NORMFLOW_KERNELS", kernels, TRUE);
  g_autoptr (GSubprocess) process = g_subprocess_launcher_spawnv (launcher, command, &error);
  nf_test_ok (process, error);
  nf_test_ok (g_subprocess_communicate_utf8 (process, NULL, NULL, &output, &errors, &error), error);

  g_autofree char *last = g_strdup_printf ("%u passed, 0 failed\n", count_expected (expected));
  if (!g_subprocess_get_if_exited (process) || g_subprocess_get_exit_status (process) != 0
      || !g_str_has_suffix (output, last) || strstr (output, "unknown "))
    fail_msg ("%s, kernels %s, method %s: expected %s%s%s", name, kernels, method, last, output, errors);
}

static void
test_cases (void **state)
{
  const char *kernels = *state;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    verify (cases[i], kernels, "auto");
}

static void
test_methods (void **state)
{
  static const char *const methods[] = { "sequential", "jacobi" };
  const char *kernels = *state;
  for (guint m = 0; m < G_N_ELEMENTS (methods); m++)
    {
      verify ("tarflow_class", kernels, methods[m]);
      verify ("starflow_text", kernels, methods[m]);
      verify ("starflow_r2l_exp", kernels, methods[m]);
      verify ("starflow_v", kernels, methods[m]);
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    { "every case, kernels for CPUs", test_cases, NULL, NULL, (void *)"cpu" },
    { "every case, kernels for GPUs", test_cases, NULL, NULL, (void *)"gpu" },
    { "methods of decoding, kernels for CPUs", test_methods, NULL, NULL, (void *)"cpu" },
    { "methods of decoding, kernels for GPUs", test_methods, NULL, NULL, (void *)"gpu" },
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
