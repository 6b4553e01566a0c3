/* normflow: `normflow verify` against the official numbers, in each form of the kernels and with each method
 * of decoding. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-fixture.h"

#include <stdio.h>
#include <string.h>
#include <glib/gstdio.h>

static const char *const cases[]
    = { "tarflow_uncond",    "tarflow_class",     "tarflow_vp",          "starflow_text",
        "starflow_wide",     "starflow_r2l_exp",  "starflow_gqa_swiglu", "starflow_v",
        "starflow_v_square", "starflow_v_single", "starflow_v_text",     "starflow_v_local_text",
        "starflow_v_whole",  "starflow_v_ahead",  "starflow_denoiser",   "starflow_narrow_heads" };

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

/* A file of the golden case NAME: PART is "weights" or "expected". */
static char *
golden (const char *name, const char *part)
{
  g_autofree char *file = g_strdup_printf ("%s.%s.safetensors", name, part);
  return nf_test_file ("golden", file);
}

/* Runs verify on WEIGHTS, or those of NAME. */
static Result
run (const char *name, const char *weights, const char *kernels, const char *method, const char *precision)
{
  g_autofree char *own_weights = golden (name, "weights"), *expected = golden (name, "expected");
  const char *const words[]
      = { "verify", "--method", method, "--precision", precision, weights ? weights : own_weights,
          expected, NULL };
  g_autoptr (GSubprocessLauncher) launcher = g_subprocess_launcher_new (TOOL_PIPES);
  g_subprocess_launcher_setenv (launcher, "NORMFLOW_KERNELS", kernels, TRUE);
  g_autoptr (GSubprocess) process = tool_spawn (launcher, words);
  return tool_finish (process);
}

static void
verify (const char *name, const char *kernels, const char *method, const char *precision)
{
  g_autofree char *expected = golden (name, "expected"),
                  *told = g_strdup_printf ("in %s; relative errors that pass: ", precision);
  g_auto (Result) result = run (name, NULL, kernels, method, precision);
  const char *output = result.output;
  guint passed = 0, skipped = 0;
  const char *last = strstr (output, " passed, 0 failed");
  while (last && last > output && last[-1] != '\n')
    last--;
  if (last)
    sscanf (last, "%u passed, 0 failed, %u skipped", &passed, &skipped);
  if (result.status != 0 || passed + skipped != count_expected (expected) || strstr (output, "unknown ")
      || !strstr (result.errors, told) || (skipped > 0 && !g_str_has_suffix (precision, "-weights")))
    fail_msg ("%s, kernels %s, method %s, %s: %s%s", name, kernels, method, precision, output, result.errors);

  /* nothing but gradients of parameters, and what comes with those of the denoiser */
  g_auto (GStrv) lines = g_strsplit (output, "\n", -1);
  for (guint i = 0; lines[i]; i++)
    if (g_str_has_prefix (lines[i], "skip") && !strstr (lines[i], "denoise.train.")
        && (!strstr (lines[i], "grad.") || strstr (lines[i], "grad.x")))
      fail_msg ("%s, %s: %s", name, precision, lines[i]);
}

static void
test_cases (void **state)
{
  const char *kernels = *state;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    verify (cases[i], kernels, "auto", "f32");
}

static void
test_methods (void **state)
{
  static const char *const methods[] = { "sequential", "jacobi" };
  const char *kernels = *state;
  for (guint m = 0; m < G_N_ELEMENTS (methods); m++)
    {
      verify ("tarflow_class", kernels, methods[m], "f32");
      verify ("starflow_text", kernels, methods[m], "f32");
      verify ("starflow_r2l_exp", kernels, methods[m], "f32");
      verify ("starflow_v", kernels, methods[m], "f32");
    }
}

/* In other precisions errors are larger and pass. */
static void
test_precisions (void **state)
{
  for (const char *const *precision = nf_device_precisions (); *precision; precision++)
    for (guint i = 0; strcmp (*precision, "f32") && i < G_N_ELEMENTS (cases); i++)
      verify (cases[i], "cpu", "auto", *precision);
}

/* Two rows of the first matrix with PART in its name are exchanged: a wrong model, in all precisions. */
static void
check_wrong (const char *name, const char *part)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights = golden (name, "weights"), *changed = nf_test_temporary (".safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (weights, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  g_autofree float *values = NULL;
  for (guint i = 0; i < n; i++)
    {
      NfTensor *t = &tensors[i];
      if (values || t->n_dims != 2 || !strstr (t->name, part))
        continue;
      const gsize row = t->dims[1];
      values = g_new (float, t->n_elements);
      nf_tensor_to_float (t, values);
      for (gsize k = 0; k < row; k++)
        {
          const float first = values[k];
          values[k] = values[row + k];
          values[row + k] = first;
        }
      t->dtype = NF_DTYPE_F32;
      t->data = (const guint8 *)values;
    }
  assert_non_null (values);
  nf_test_ok (nf_tensor_file_write (changed, tensors, n, nf_tensor_file_get_all_metadata (file), &error),
              error);
  for (const char *const *precision = nf_device_precisions (); *precision; precision++)
    {
      g_auto (Result) result = run (name, changed, "cpu", "auto", *precision);
      if (result.status != 1 || !strstr (result.output, "FAIL forward.z "))
        fail_msg ("%s with rows of %s exchanged, %s: %s%s", name, part, *precision, result.output,
                  result.errors);
    }
  g_unlink (changed);
}

static void
test_wrong_models (void **state)
{
  check_wrong ("tarflow_class", "qkv.weight");
  check_wrong ("starflow_text", "qkv.weight");
}

/* The golden case NAME but that one tensor has a last dimension of WIDTH: refused by its name, before
 * anything is computed. */
static void
check_refused (const char *name, const char *tensor, guint64 width, const char *reason)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights = golden (name, "weights"), *expected = golden (name, "expected"),
                  *changed = nf_test_temporary (".safetensors");
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (expected, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  g_autofree float *values = NULL;
  for (guint i = 0; i < n; i++)
    {
      NfTensor *t = &tensors[i];
      if (strcmp (t->name, tensor) != 0)
        continue;
      t->n_elements = t->n_elements / t->dims[t->n_dims - 1] * width;
      t->dims[t->n_dims - 1] = width;
      t->dtype = NF_DTYPE_F32;
      values = g_new0 (float, t->n_elements);
      t->data = (const guint8 *)values;
    }
  assert_non_null (values);
  nf_test_ok (nf_tensor_file_write (changed, tensors, n, NULL, &error), error);

  g_auto (Result) result = tool_run (ARGUMENTS ("verify", "--quiet", weights, changed));
  g_unlink (changed);
  if (result.status == 0 || !strstr (result.errors, tensor) || !strstr (result.errors, reason)
      || strstr (result.output, "forward"))
    fail_msg ("%s with %s of width %" G_GUINT64_FORMAT ": %s%s", name, tensor, width, result.output,
              result.errors);
}

static void
test_refused (void **state)
{
  check_refused ("starflow_text", "input.text", 25, "this model needs real numbers (B, 6, 24)");
  check_refused ("starflow_v", "input.text", 8, "this model needs real numbers (B, 6, 24)");
  check_refused ("starflow_v", "sample.text_with_null", 23, "sample.text_with_null");
  check_refused ("tarflow_class", "input.x", 3, "input.x");
}

/* A copy of the file PATH that says nothing of itself, and lacks the tensor WITHOUT (nullable). (transfer
 * full) */
static char *
strip (const char *path, const char *without)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  char *bare = nf_test_temporary (".safetensors");
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  guint n = 0;
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    if (g_strcmp0 (tensors[i].name, without) != 0)
      tensors[n++] = tensors[i];
  nf_test_ok (nf_tensor_file_write (bare, tensors, n, NULL, &error), error);
  return bare;
}

/* Weights that do not say their configuration: --config does, or else what is expected of them. */
static void
test_configuration (void **state)
{
  static const char *const names[] = { "starflow_text", "starflow_v", "tarflow_vp" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *weights = golden (names[i], "weights"), *expected = golden (names[i], "expected"),
                      *bare = strip (weights, NULL);
      g_auto (Result) result = tool_run (ARGUMENTS ("verify", bare, expected));
      if (result.status != 0 || !strstr (result.output, " passed, 0 failed"))
        fail_msg ("%s without a configuration: %s%s", names[i], result.output, result.errors);
      g_unlink (bare);
    }

  g_autofree char *weights = golden ("starflow_text", "weights"),
                  *expected = golden ("starflow_text", "expected"), *bare = strip (weights, NULL),
                  *nothing = strip (expected, NULL);
  g_auto (Result) unsaid = tool_run (ARGUMENTS ("verify", bare, nothing));
  assert_int_equal (unsaid.status, 1);
  assert_non_null (strstr (unsaid.errors, "do not say patch_size, "));
  g_auto (Result) told = tool_run (ARGUMENTS ("verify", "--config", weights, bare, nothing));
  assert_int_equal (told.status, 0);
  assert_non_null (strstr (told.output, " passed, 0 failed"));
  g_auto (Result) set = tool_run (ARGUMENTS ("verify", "--set", "use_softplus=false", bare, expected));
  assert_int_equal (set.status, 1);
  assert_non_null (strstr (set.output, "FAIL forward.z "));
  g_auto (Result) wrong = tool_run (ARGUMENTS ("verify", "--set", "rope=false", weights, expected));
  assert_int_equal (wrong.status, 1);
  assert_non_null (strstr (wrong.errors, "blocks.0.pos_embed"));
  g_unlink (bare);
  g_unlink (nothing);
}

/* Nothing is computed without the text that it was expected with, and what is missing is named. */
static void
test_without_text (void **state)
{
  g_autofree char *weights = golden ("starflow_text", "weights"),
                  *expected = golden ("starflow_text", "expected"), *bare = strip (expected, "input.text");
  g_auto (Result) result = tool_run (ARGUMENTS ("verify", weights, bare));
  g_unlink (bare);
  assert_int_equal (result.status, 1);
  if (!strstr (result.errors, "without input.text, which is missing")
      || !strstr (result.output, "FAIL forward.z inf"))
    fail_msg ("%s%s", result.output, result.errors);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    { "every case, kernels for CPUs", test_cases, NULL, NULL, (void *)"cpu" },
    { "every case, kernels for GPUs", test_cases, NULL, NULL, (void *)"gpu" },
    { "methods of decoding, kernels for CPUs", test_methods, NULL, NULL, (void *)"cpu" },
    { "methods of decoding, kernels for GPUs", test_methods, NULL, NULL, (void *)"gpu" },
    cmocka_unit_test (test_precisions),
    cmocka_unit_test (test_wrong_models),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_configuration),
    cmocka_unit_test (test_without_text),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
