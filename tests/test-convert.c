/* normflow: `normflow convert` and `info` of PyTorch checkpoints. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "tool-fixture.h"
#include "torch-writer.h"

#include <math.h>

static char *output; /* of conversions */

static int
set_up (void **state)
{
  output = nf_test_temporary (".safetensors");
  return 0;
}

static int
tear_down (void **state)
{
  g_unlink (output);
  g_clear_pointer (&output, g_free);
  return 0;
}

static char *run (int status, const char *first, ...) G_GNUC_NULL_TERMINATED;

/* Runs the command; what it prints is of interest if all goes well, else what it says is wrong. (transfer
 * full) */
static char *
run (int status, const char *first, ...)
{
  va_list rest;
  va_start (rest, first);
  g_auto (Result) result = tool_run_list (first, rest);
  va_end (rest);
  if (result.status != status)
    fail_msg ("%s: the exit status is not %d: %s%s", first, status, result.output, result.errors);
  return status ? g_steal_pointer (&result.errors) : g_steal_pointer (&result.output);
}

static void
check_mentions (char *text, const char *mentions)
{
  if (!strstr (text, mentions))
    fail_msg ("\"%s\" does not mention \"%s\"", text, mentions);
  g_free (text);
}

static char *
digest_of (const char *path)
{
  g_autoptr (GError) error = NULL;
  char *digest = nf_model_digest_of_file (path, &error);
  nf_test_ok (digest, error);
  return digest;
}

/* A weight that a type cannot hold is not the input's fault. */
static void
test_too_large (void **state)
{
  static const struct
  {
    const char *dtype;
    float largest, above;
    const char *mentions;
  } cases[] = {
    { "f16", -65519, -65520,
      "blocks.0.proj_in.bias holds -65520, which is too large for --dtype f16; take bf16 or f32" },
    { "bf16", 3.39e38f, 3.4e38f, "holds 3.4e+38, which is too large for --dtype bf16; take f32" },
  };
  g_autofree char *golden = nf_test_file ("golden", "tarflow_vp.weights.safetensors"),
                  *large = nf_test_temporary (".safetensors");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (golden, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  NfTensor *changed = NULL;
  for (guint i = 0; i < n && !changed; i++)
    if (strcmp (tensors[i].name, "blocks.0.proj_in.bias") == 0)
      changed = &tensors[i];
  assert_non_null (changed);
  g_autofree float *bias = g_new0 (float, changed->n_elements);
  changed->dtype = NF_DTYPE_F32;
  changed->data = (const guint8 *)bias;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    for (guint fits = 0; fits < 2; fits++)
      {
        bias[1] = fits ? cases[i].largest : cases[i].above;
        nf_test_ok (nf_tensor_file_write (large, tensors, n, nf_tensor_file_get_all_metadata (file), &error),
                    error);
        char *text = run (fits ? 0 : 1, "convert", "-t", cases[i].dtype, large, output, NULL);
        check_mentions (text, fits ? "" : cases[i].mentions);
      }
  /* nothing is read of a mask */
  bias[1] = 0;
  for (guint i = 0; i < n; i++)
    if (strcmp (tensors[i].name, "blocks.0.attn_mask") == 0)
      changed = &tensors[i];
  assert_true (strcmp (changed->name, "blocks.0.attn_mask") == 0);
  g_autofree float *mask = g_new0 (float, changed->n_elements);
  mask[1] = -1e9f;
  changed->dtype = NF_DTYPE_F32;
  changed->data = (const guint8 *)mask;
  nf_test_ok (nf_tensor_file_write (large, tensors, n, nf_tensor_file_get_all_metadata (file), &error),
              error);
  g_free (run (0, "convert", "-t", "f16", large, output, NULL));
  g_unlink (large);
}

static void
test_converting (void **state)
{
  g_autofree char *torch = nf_test_file ("golden", "tarflow_vp.pth"),
                  *twin = nf_test_file ("golden", "tarflow_vp.weights.safetensors"),
                  *wanted = digest_of (twin);
  check_mentions (run (0, "convert", torch, output, NULL), wanted);
  g_autofree char *digest = digest_of (output);
  assert_string_equal (digest, wanted);
  check_mentions (run (0, "convert", "--config", twin, torch, output, NULL), wanted);
  check_mentions (run (0, "info", torch, NULL), wanted);
  check_mentions (run (0, "info", "--json", "--tensors", torch, NULL), "\"blocks.1.proj_out.bias\"");

  /* what options say, and in another type */
  check_mentions (run (0, "convert", "--noise", "gaussian", "--noise-std", "0.05", "--dtype", "bf16", torch,
                       output, NULL),
                  output);
  check_mentions (run (0, "info", output, NULL), "Gaussian, standard deviation 0.05");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (output, &error);
  nf_test_ok (file, error);
  assert_int_equal (nf_tensor_file_lookup (file, "blocks.0.proj_in.weight")->dtype, NF_DTYPE_BF16);

  /* a deviation, however it is said, is of Gaussian noise */
  check_mentions (run (0, "convert", "--set", "noise_std=0.07", torch, output, NULL), output);
  check_mentions (run (0, "info", output, NULL), "Gaussian, standard deviation 0.07");
  check_mentions (
      run (1, "convert", "--set", "noise_std=0.07", "--set", "noise_type=uniform", torch, output, NULL),
      "noise_std 0.07: goes with Gaussian noise");
}

/* A STARFlow whose file says nothing of its configuration. */
static void
test_asking (void **state)
{
  g_autofree char *twin = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *wanted = digest_of (twin), *bare = nf_test_temporary (".safetensors");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (twin, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  nf_test_ok (nf_tensor_file_write (bare, tensors, n, NULL, &error), error);

  check_mentions (run (1, "convert", bare, output, NULL), "do not say patch_size, ");
  check_mentions (run (1, "info", bare, NULL), "--config FILE");
  assert_false (g_file_test (output, G_FILE_TEST_EXISTS));
  check_mentions (run (1, "convert", "--config", twin, "--set", "num_blocks=2", bare, output, NULL),
                  "layers_per_block");
  check_mentions (run (1, "convert", "--config", twin, "--set", "rope=false", bare, output, NULL),
                  "blocks.0.pos_embed");
  assert_false (g_file_test (output, G_FILE_TEST_EXISTS));
  check_mentions (run (0, "convert", "--config", twin, bare, output, NULL), wanted);
  g_unlink (bare);
}

/* What a configuration says by a default is not taken from the weights again. */
static void
test_contradiction (void **state)
{
  g_autofree char *video = nf_test_file ("golden", "starflow_v.weights.safetensors"),
                  *text = nf_test_file ("golden", "starflow_text.weights.safetensors");
  check_mentions (run (1, "convert", "--set", "top_block_channels=64", video, output, NULL),
                  "starflow_v.weights.safetensors: tensor blocks.2.");
  check_mentions (run (1, "convert", "--set", "txt_size=0", "--set", "txt_dim=0", text, output, NULL),
                  "starflow_text.weights.safetensors");
  assert_false (g_file_test (output, G_FILE_TEST_EXISTS));
  check_mentions (run (0, "convert", "--set", "top_block_channels=64", text, output, NULL), output);
}

/* The mean of a model and itself is itself; of it and one of three times its weights, twice it. */
static void
test_mean (void **state)
{
  g_autofree char *model = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *wanted = digest_of (model),
                  *other = nf_test_file ("golden", "tarflow_vp.weights.safetensors"),
                  *threefold = nf_test_temporary (".safetensors");
  g_autoptr (GError) error = NULL;
  check_mentions (run (0, "convert", "--mean", model, model, output, NULL), wanted);
  /* a bundled one is known by its name, as IN is */
  check_mentions (
      run (1, "convert", "--mean", "normflow-yuv420-32-small", "normflow-yuv420-32", output, NULL),
      "is of another configuration");
  check_mentions (run (1, "convert", "--mean", "no-such-model", model, output, NULL), "no-such-model: ");

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (model, &error);
  nf_test_ok (file, error);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  g_autoptr (GPtrArray) data = g_ptr_array_new_with_free_func (g_free);
  guint n = 0;
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    if (!g_str_has_prefix (tensors[i].name, "feat_rope.")) /* which a file may lack */
      tensors[n++] = tensors[i];
  assert_true (n < nf_tensor_file_count (file));
  for (guint i = 0; i < n; i++)
    {
      assert_int_equal (tensors[i].dtype, NF_DTYPE_F32);
      if (!g_str_has_prefix (tensors[i].name, "blocks."))
        continue;
      float *values = g_new (float, tensors[i].n_elements);
      nf_tensor_to_float (&tensors[i], values);
      for (guint64 j = 0; j < tensors[i].n_elements; j++)
        values[j] *= 3;
      tensors[i].data = (const guint8 *)values;
      g_ptr_array_add (data, values);
    }
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", (gpointer)nf_tensor_file_get_metadata (file, "config"));
  nf_test_ok (nf_tensor_file_write (threefold, tensors, n, metadata, &error), error);
  g_free (run (0, "convert", "--mean", threefold, model, output, NULL));
  g_autoptr (NfTensorFile) mean = nf_tensor_file_open (output, &error);
  nf_test_ok (mean, error);
  const NfTensor *is = nf_tensor_file_lookup (mean, "blocks.1.proj_in.weight"),
                 *was = nf_tensor_file_lookup (file, "blocks.1.proj_in.weight");
  g_autofree float *a = g_new (float, is->n_elements), *b = g_new (float, is->n_elements);
  nf_tensor_to_float (is, a);
  nf_tensor_to_float (was, b);
  for (guint64 i = 0; i < is->n_elements; i++)
    assert_true (fabsf (a[i] - 2 * b[i]) <= 1e-6f * fabsf (b[i]));
  g_unlink (threefold);

  check_mentions (run (1, "convert", "--mean", other, model, output, NULL), "another configuration");
  check_mentions (run (1, "convert", "--mean", "/nothing", model, output, NULL), "/nothing");
}

/* What IN is told counts for the other model, too, where that one has no configuration of its own or several
 * sets of weights. */
static void
test_mean_of_bare (void **state)
{
  g_autofree char *twin = nf_test_file ("golden", "starflow_text.weights.safetensors"),
                  *wanted = digest_of (twin), *bare = nf_test_temporary (".pth"),
                  *states = nf_test_temporary (".pth");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (twin, &error);
  nf_test_ok (file, error);
  for (guint several = 0; several < 2; several++)
    {
      GByteArray *pickle = g_byte_array_new ();
      NF_PUT (pickle, "\x80\x02");
      if (several)
        {
          NF_PUT (pickle, "}(");
          nf_put_string (pickle, "model");
          nf_put_file (pickle, file, "");
          nf_put_string (pickle, "ema");
        }
      nf_put_file (pickle, file, "");
      nf_put (pickle, several ? "u." : ".", several ? 2 : 1);
      g_autoptr (GByteArray) bytes = nf_zip_file (pickle, file);
      nf_test_ok (
          g_file_set_contents (several ? states : bare, (const char *)bytes->data, bytes->len, &error),
          error);
    }
  /* the other model has less than IN is told */
  check_mentions (run (1, "convert", "--mean", bare, bare, output, NULL), "do not say patch_size, ");
  check_mentions (run (0, "convert", "--config", twin, "--mean", bare, bare, output, NULL), wanted);
  check_mentions (run (0, "convert", "--mean", bare, twin, output, NULL), wanted);
  check_mentions (
      run (0, "convert", "--config", twin, "--state", "ema", "--mean", states, states, output, NULL), wanted);
  check_mentions (
      run (0, "convert", "--config", twin, "--state", "ema", "--mean", bare, states, output, NULL), wanted);
  check_mentions (run (1, "convert", "--config", twin, "--mean", states, bare, output, NULL),
                  "several sets of weights");
  check_mentions (
      run (0, "convert", "--set", "soft_clip=2", "--config", twin, "--mean", bare, bare, output, NULL),
      output);
  /* one that has a configuration has that one */
  check_mentions (
      run (1, "convert", "--set", "soft_clip=2", "--config", twin, "--mean", twin, bare, output, NULL),
      "another configuration");
  g_unlink (bare);
  g_unlink (states);
}

static void
test_misuse (void **state)
{
  g_autofree char *torch = nf_test_file ("golden", "tarflow_vp.pth");
  check_mentions (run (2, "convert", torch, NULL), "convert");
  check_mentions (run (2, "convert", "--dtype", "f8", torch, output, NULL), "--dtype");
  check_mentions (run (1, "convert", "--set", "wheels", torch, output, NULL), "NAME=VALUE");
  check_mentions (run (1, "convert", "--set", "wheels=4", torch, output, NULL), "wheels");
  check_mentions (run (1, "convert", "--state", "ema", torch, output, NULL), "ema");
  check_mentions (run (2, "convert", torch, torch, NULL), "tarflow_vp.pth");
  assert_false (g_file_test (output, G_FILE_TEST_EXISTS));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (test_too_large, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_converting, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_asking, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_contradiction, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_mean, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_mean_of_bare, set_up, tear_down),
    cmocka_unit_test_setup_teardown (test_misuse, set_up, tear_down),
  };
  return cmocka_run_group_tests_name ("convert", tests, NULL, NULL);
}
