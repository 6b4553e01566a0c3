/* normflow: the official implementation's numbers. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define FORWARD_TOLERANCE 1e-5
#define OTHER_TOLERANCE 1e-4
/* The files hold single precision, the reference computes in double. */
#define REFERENCE_TOLERANCE 1e-6
/* Of bfloat16's weights: half a unit of 2^-8 each, in sums of which most cancels out; and what is left of
 * that where the reference has the same weights: values of 16 bits and the lattices between blocks. */
#define WEIGHTS_TOLERANCE 5e-3
#define SAME_WEIGHTS_TOLERANCE 5e-5
/* Likewise of integers: half a unit of 1/127 of the largest weight of an output; and with the same weights,
 * where keys and values are bfloat16: half a unit of 2^-8. */
#define BYTES_TOLERANCE 2e-2
#define HALF_KEYS_TOLERANCE 3e-3

static const char *const cases[] = { "tarflow_uncond", "tarflow_class", "tarflow_vp" };

/* What is compared: the reference (session NULL) or the library. */
typedef struct
{
  NfReference *reference;
  NfSession *session;
  NfTensorFile *expected;
  guint B;
  gint *labels;
  gsize n; /* values of all samples */
  double *x, *noise;
} Case;

static void
case_clear (Case *c)
{
  g_clear_pointer (&c->reference, nf_reference_free);
  g_clear_object (&c->session);
  g_clear_object (&c->expected);
  g_free (c->labels);
  g_free (c->x);
  g_free (c->noise);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Case, case_clear)

static double *
read_tensor (const Case *c, const char *name, gsize n)
{
  const NfTensor *tensor = nf_tensor_file_lookup (c->expected, name);
  if (!tensor || tensor->n_elements != n)
    fail_msg ("%s is missing or not of %" G_GSIZE_FORMAT " elements", name, n);
  double *out = g_new (double, n);
  nf_tensor_to_double (tensor, out);
  return out;
}

static void
case_init (Case *c, const char *name, const char *kernels)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *weights_name = g_strconcat (name, ".weights.safetensors", NULL),
                  *expected_name = g_strconcat (name, ".expected.safetensors", NULL);
  g_autofree char *weights = nf_test_file ("golden", weights_name),
                  *expected = nf_test_file ("golden", expected_name);

  *c = (Case){ .expected = nf_tensor_file_open (expected, &error) };
  nf_test_ok (c->expected, error);
  g_autoptr (NfConfig) config
      = nf_config_from_json (nf_tensor_file_get_metadata (c->expected, "config"), expected, &error);
  nf_test_ok (config, error);
  c->reference = nf_reference_new (config);
  nf_test_ok (nf_reference_read (c->reference, weights, &error), error);
  if (kernels)
    {
      g_autoptr (NfModel) model = nf_model_load (weights, nf_test_device (kernels), NULL, NULL, NULL, &error);
      nf_test_ok (model, error);
      c->session = nf_test_session (model);
    }

  const NfTensor *x = nf_tensor_file_lookup (c->expected, "input.x");
  assert_non_null (x);
  c->B = (guint)x->dims[0];
  c->n = (gsize)c->B * c->reference->N * c->reference->D;
  g_autofree double *images = read_tensor (c, "input.x", c->n);
  c->x = g_new (double, c->n);
  nf_reference_patchify (c->reference, images, c->B, c->x);
  c->noise = read_tensor (c, "sample.noise", c->n);
  if (config->n_classes > 0)
    {
      g_autofree double *classes = read_tensor (c, "input.y", c->B);
      c->labels = g_new (gint, c->B);
      for (guint b = 0; b < c->B; b++)
        c->labels[b] = (gint)classes[b];
    }
}

/* Compares with the tensor NAME. */
static void
check (const Case *c, const char *name, const double *values, gsize n, double tolerance)
{
  g_autofree double *expected = read_tensor (c, name, n);
  nf_test_close (name, values, expected, n, c->session ? tolerance : REFERENCE_TOLERANCE);
}

/* The same of tokens whose golden values are images. */
static void
check_images (const Case *c, const char *name, const double *tokens, double tolerance)
{
  g_autofree double *images = g_new (double, c->n);
  nf_reference_unpatchify (c->reference, tokens, c->B, images);
  check (c, name, images, c->n, tolerance);
}

static void
encode (const Case *c, double *z, double *blocks, double *log_det)
{
  g_autoptr (GError) error = NULL;
  const gsize N = c->reference->N, T = c->reference->T;
  if (!c->session)
    {
      nf_reference_encode (c->reference, c->x, c->B, c->labels, z, blocks, log_det);
      return;
    }
  g_autofree float *x = nf_test_to_float (c->x, c->n), *fz = g_new (float, c->n),
                   *fblocks = g_new (float, T * c->n), *flog_det = g_new (float, c->B *N);
  nf_test_ok (nf_session_encode (c->session, x, c->B, c->labels, fz, fblocks, flog_det, &error), error);
  for (gsize i = 0; i < T * c->n; i++)
    blocks[i] = (double)fblocks[i];
  for (gsize i = 0; i < c->n; i++)
    z[i] = (double)fz[i];
  for (gsize i = 0; i < c->B * N; i++)
    log_det[i] = (double)flog_det[i];
}

static void
check_forward (const Case *c)
{
  const gsize N = c->reference->N, T = c->reference->T;
  g_autofree double *z = g_new (double, c->n), *blocks = g_new (double, T * c->n),
                    *log_det = g_new (double, c->B *N), *means = g_new0 (double, c->B);
  encode (c, z, blocks, log_det);
  check (c, "forward.z", z, c->n, FORWARD_TOLERANCE);
  for (gsize t = 0; t < T; t++)
    {
      g_autofree char *name = g_strdup_printf ("forward.block%zu", t);
      check (c, name, blocks + t * c->n, c->n, FORWARD_TOLERANCE);
    }
  for (gsize i = 0; i < c->B * N; i++)
    means[i / N] += log_det[i] / (double)(N * c->reference->D);
  check (c, "forward.logdet_mean", means, c->B, FORWARD_TOLERANCE);
}

static void
check_gradients (const Case *c)
{
  g_autoptr (GError) error = NULL;
  g_autofree double *grad_x = g_new (double, c->n);
  double loss = 0;
  if (!c->session)
    loss = nf_reference_gradients (c->reference, c->x, c->B, c->labels, grad_x);
  else
    {
      NfModel *model = nf_session_get_model (c->session);
      g_autofree float *x = nf_test_to_float (c->x, c->n), *fgrad_x = g_new (float, c->n),
                       *all = g_new (float, nf_model_count_parameters (model));
      nf_test_ok (nf_session_gradients (c->session, x, c->B, c->labels, &loss, fgrad_x, all, &error), error);
      for (gsize i = 0; i < c->n; i++)
        grad_x[i] = (double)fgrad_x[i];
      for (guint i = 0; i < c->reference->parameters->len; i++)
        {
          NfReferenceParameter *parameter = c->reference->parameters->pdata[i];
          gsize offset, n;
          assert_true (nf_model_get_parameter (model, parameter->name, &offset, &n));
          assert_int_equal (n, parameter->n);
          for (gsize j = 0; j < n; j++)
            parameter->gradient[j] = (double)all[offset + j];
        }
    }
  check (c, "forward.loss", &loss, 1, FORWARD_TOLERANCE);
  check_images (c, "grad.x", grad_x, OTHER_TOLERANCE);

  guint checked = 0;
  for (guint i = 0; i < c->reference->parameters->len; i++)
    {
      const NfReferenceParameter *parameter = c->reference->parameters->pdata[i];
      g_autofree char *name = g_strconcat ("grad.", parameter->name, NULL);
      if (!nf_tensor_file_lookup (c->expected, name))
        continue;
      check (c, name, parameter->gradient, parameter->n, OTHER_TOLERANCE);
      checked++;
    }
  assert_true (checked > c->reference->parameters->len / 2);
}

static void
check_samples (const Case *c)
{
  static const struct
  {
    const char *name;
    NfDecodeOptions options;
  } samples[] = {
    { "sample.plain", { 0 } },
    { "sample.cfg1.5_ab", { .guidance = 1.5 } },
    { "sample.cfg1.5_ab_annealed", { .guidance = 1.5, .annealed = TRUE } },
    { "sample.cfg2_a", { .guidance = 2, .guide = NF_GUIDE_SCALE } },
    { "sample.temp0.7_guid1_ab", { .guidance = 1, .attention_temperature = 0.7 } },
    { "sample.temp1.3_guid0.5_b_annealed",
      { .guidance = 0.5, .guide = NF_GUIDE_SHIFT, .annealed = TRUE, .attention_temperature = 1.3 } },
  };
  guint checked = 0;

  for (guint i = 0; i < G_N_ELEMENTS (samples); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree double *x = g_new (double, c->n);
      if (!nf_tensor_file_lookup (c->expected, samples[i].name))
        continue;
      if (!c->session)
        nf_reference_decode (c->reference, c->noise, c->B, c->labels, &samples[i].options, x);
      else
        {
          g_autofree float *noise = nf_test_to_float (c->noise, c->n), *fx = g_new (float, c->n);
          nf_test_ok (nf_session_decode (c->session, noise, c->B, c->labels, &samples[i].options, fx, &error),
                      error);
          for (gsize j = 0; j < c->n; j++)
            x[j] = (double)fx[j];
        }
      check_images (c, samples[i].name, x, OTHER_TOLERANCE);
      checked++;
    }
  assert_true (checked >= 3);
}

static void
check_denoise (const Case *c)
{
  g_autoptr (GError) error = NULL;
  const char *text = nf_tensor_file_get_metadata (c->expected, "denoise_noise_std");
  assert_non_null (text);
  const double sigma = g_ascii_strtod (text, NULL);
  g_autofree double *x = g_new (double, c->n);
  if (!c->session)
    nf_reference_denoise (c->reference, c->x, c->B, c->labels, sigma, x);
  else
    {
      g_autofree float *y = nf_test_to_float (c->x, c->n), *fx = g_new (float, c->n);
      nf_test_ok (nf_session_denoise (c->session, y, c->B, c->labels, sigma, fx, &error), error);
      for (gsize i = 0; i < c->n; i++)
        x[i] = (double)fx[i];
    }
  check_images (c, "denoise.score.x", x, OTHER_TOLERANCE);
}

/* STATE: kernel variant, or NULL for the reference. */
static void
test_golden (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_auto (Case) c = { 0 };
      case_init (&c, cases[i], *state);
      check_forward (&c);
      check_gradients (&c);
      check_samples (&c);
      check_denoise (&c);
    }
}

static void
round_to_bf16 (double *x, gsize n)
{
  for (gsize j = 0; j < n; j++)
    {
      int exponent;
      const double mantissa = frexp (x[j], &exponent);
      x[j] = ldexp (rint (ldexp (mantissa, 8)), exponent - 8);
    }
}

/* N weights of an output become multiples of 1/127 of the largest. */
static void
round_to_bytes (double *x, gsize n)
{
  double largest = 0;
  for (gsize j = 0; j < n; j++)
    largest = fmax (largest, fabs (x[j]));
  const float unit = (float)largest / 127.0f;
  for (gsize j = 0; j < n && unit > 0; j++)
    x[j] = (double)rintf ((float)x[j] / unit) * (double)unit;
}

static void
round_matrices (NfReference *reference, gboolean bytes)
{
  for (guint i = 0; i < reference->parameters->len; i++)
    {
      NfReferenceParameter *parameter = reference->parameters->pdata[i];
      if (!g_str_has_suffix (parameter->name, ".weight") || parameter->n_dims != 2)
        continue;
      const gsize row = parameter->dims[1];
      for (gsize at = 0; at < parameter->n; at += row)
        (bytes ? round_to_bytes : round_to_bf16) (parameter->value + at, row);
    }
}

/* Weights of few bits: what their rounding makes of the official numbers, and that nothing else is rounded,
 * or no more than to 16 bits. For gradients integers have other scales, those of inputs.
 */
static void
test_weights (void **state)
{
  const gboolean bytes = strstr (*state, "int8") != NULL, madd = strstr (*state, "madd") != NULL;
  const double same
      = bytes && g_str_has_prefix (*state, "cpu") ? HALF_KEYS_TOLERANCE : SAME_WEIGHTS_TOLERANCE;
  if (madd)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfDevice) device = nf_device_open (*state, &error);
      if (g_error_matches (error, NF_ERROR, NF_ERROR_NO_DEVICE))
        skip ();
      nf_test_ok (device, error);
    }
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (Case) c = { 0 };
      case_init (&c, cases[i], *state);
      const gsize N = c.reference->N, T = c.reference->T;
      g_autofree double *z = g_new (double, c.n), *blocks = g_new (double, T *c.n),
                        *log_det = g_new (double, c.B *N), *want = g_new (double, c.n);
      encode (&c, z, blocks, log_det);
      check (&c, "forward.z", z, c.n, bytes ? BYTES_TOLERANCE : WEIGHTS_TOLERANCE);
      round_matrices (c.reference, bytes);
      nf_reference_encode (c.reference, c.x, c.B, c.labels, want, blocks, log_det);
      nf_test_close ("the same weights", z, want, c.n, same);

      g_autofree float *x = nf_test_to_float (c.x, c.n), *grad_x = g_new (float, c.n),
                       *all = g_new (float, nf_model_count_parameters (nf_session_get_model (c.session)));
      g_autofree double *got = g_new (double, c.n), *want_grad = g_new (double, c.n);
      double loss;
      assert_false (nf_session_gradients (c.session, x, c.B, c.labels, &loss, NULL, all, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_UNSUPPORTED));
      g_clear_error (&error);
      nf_test_ok (nf_session_gradients (c.session, x, c.B, c.labels, &loss, grad_x, NULL, &error), error);
      for (gsize j = 0; j < c.n; j++)
        got[j] = (double)grad_x[j];
      const double want_loss = nf_reference_gradients (c.reference, c.x, c.B, c.labels, want_grad);
      nf_test_close ("loss", &loss, &want_loss, 1, same);
      nf_test_close ("gradient of x", got, want_grad, c.n, bytes ? BYTES_TOLERANCE : 2 * same);
    }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    { "the reference", test_golden, NULL, NULL, NULL },
    { "kernels for CPUs", test_golden, NULL, NULL, (void *)"cpu" },
    { "kernels for GPUs", test_golden, NULL, NULL, (void *)"gpu" },
    { "weights in bfloat16", test_weights, NULL, NULL, (void *)"cpu,precision=bf16-weights" },
    { "weights in bfloat16 by fma()", test_weights, NULL, NULL,
      (void *)"cpu,precision=bf16-weights,bf16=fma" },
    { "weights in bfloat16, kernels for GPUs", test_weights, NULL, NULL,
      (void *)"gpu,precision=bf16-weights" },
    { "weights in integers", test_weights, NULL, NULL, (void *)"cpu,precision=int8-weights,int8=fma" },
    { "weights in integers by vpmaddwd", test_weights, NULL, NULL,
      (void *)"cpu,precision=int8-weights,int8=madd" },
    { "weights in integers, kernels for GPUs", test_weights, NULL, NULL,
      (void *)"gpu,precision=int8-weights" },
  };
  return cmocka_run_group_tests_name ("golden", tests, NULL, NULL);
}
