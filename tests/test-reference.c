/* normflow: the reference itself, by finite differences. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define B 2

static const NfConfig configs[] = {
  { .channels = 1,
    .img_size = 6,
    .patch_size = 3,
    .width = 8,
    .n_blocks = 2,
    .n_layers = 2,
    .nvp = TRUE,
    .head_dim = 4,
    .expansion = 2,
    .layout = NF_PIXELS_GRAY },
  { .channels = 3,
    .img_size = 4,
    .patch_size = 2,
    .width = 12,
    .n_blocks = 3,
    .n_layers = 1,
    .nvp = TRUE,
    .max_log_scale = 0.3,
    .n_classes = 3,
    .head_dim = 4,
    .expansion = 4,
    .layout = NF_PIXELS_RGB },
  { .channels = 1,
    .img_size = 6,
    .patch_size = 2,
    .width = 6,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = FALSE,
    .head_dim = 3,
    .expansion = 2,
    .layout = NF_PIXELS_GRAY },
};
static const gint labels[B] = { 2, -1 };

static NfReference *
make (guint i, gsize *n)
{
  NfReference *reference = nf_reference_new (&configs[i]);
  nf_reference_randomise (reference, i + 1, 0.4);
  *n = (gsize)reference->N * reference->D;
  return reference;
}

static const gint *
labels_of (const NfReference *reference)
{
  return reference->config->n_classes > 0 ? labels : NULL;
}

static void
test_round_trip (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      gsize n;
      g_autoptr (NfReference) reference = make (i, &n);
      g_autofree double *x = nf_test_random (i, B * n), *z = g_new (double, B *n),
                        *back = g_new (double, B *n);
      nf_reference_encode (reference, x, B, labels_of (reference), z, NULL, NULL);
      for (gsize j = 0; j < B * n; j++)
        z[j] /= sqrt (reference->variance[j % n]);
      nf_reference_decode (reference, z, B, labels_of (reference), NULL, back);
      nf_test_close ("round trip", back, x, B * n, 1e-12);
    }
}

/* Derivative of the loss by *VALUE. */
static double
slope (NfReference *reference, double *value, const double *x)
{
  const double step = 1e-5, middle = *value;
  *value = middle + step;
  const double above = nf_reference_gradients (reference, x, B, labels_of (reference), NULL);
  *value = middle - step;
  const double below = nf_reference_gradients (reference, x, B, labels_of (reference), NULL);
  *value = middle;
  return (above - below) / (2 * step);
}

static void
test_gradients (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      gsize n;
      g_autoptr (NfReference) reference = make (i, &n);
      g_autofree double *x = nf_test_random (i, B * n), *grad_x = g_new (double, B *n),
                        *slopes = g_new (double, B *n);
      nf_reference_gradients (reference, x, B, labels_of (reference), grad_x);
      g_autoptr (GPtrArray) gradients = g_ptr_array_new_with_free_func (g_free);
      for (guint p = 0; p < reference->parameters->len; p++)
        {
          const NfReferenceParameter *parameter = reference->parameters->pdata[p];
          g_ptr_array_add (gradients, g_memdup2 (parameter->gradient, parameter->n * sizeof (double)));
        }
      for (gsize j = 0; j < B * n; j++)
        slopes[j] = slope (reference, &x[j], x);
      nf_test_close ("gradient of x", grad_x, slopes, B * n, 1e-7);

      /* a few values of each parameter */
      for (guint p = 0; p < reference->parameters->len; p++)
        {
          NfReferenceParameter *parameter = reference->parameters->pdata[p];
          const gsize step = MAX (parameter->n / 5, 1);
          double size = 0;
          for (gsize j = 0; j < parameter->n; j++)
            size = MAX (size, fabs (((double *)gradients->pdata[p])[j]));
          for (gsize j = p % step; j < parameter->n; j += step)
            {
              const double is = ((double *)gradients->pdata[p])[j],
                           wanted = slope (reference, &parameter->value[j], x);
              if (fabs (is - wanted) > 1e-6 * size + 1e-9)
                fail_msg ("%s, value %zu: gradient %.9g, slope %.9g", parameter->name, j, is, wanted);
            }
        }
    }
}

/* Score: x^ - y = sigma² times the slope of log p, here of one sample. */
static void
test_denoise (void **state)
{
  const double sigma = 0.1, step = 1e-5;
  gsize n;
  g_autoptr (NfReference) reference = make (1, &n);
  g_autofree double *y = nf_test_random (7, n), *x = g_new (double, n), *score = g_new (double, n),
                    *wanted = g_new (double, n);
  nf_reference_denoise (reference, y, 1, labels, sigma, x);
  for (gsize j = 0; j < n; j++)
    {
      const double middle = y[j];
      y[j] = middle + step;
      const double above = nf_reference_gradients (reference, y, 1, labels, NULL);
      y[j] = middle - step;
      const double below = nf_reference_gradients (reference, y, 1, labels, NULL);
      y[j] = middle;
      score[j] = (x[j] - y[j]) / (sigma * sigma);
      wanted[j] = -(double)n * (above - below) / (2 * step);
    }
  nf_test_close ("score", score, wanted, n, 1e-7);
}

static void
test_log_determinant (void **state)
{
  const double step = 1e-5;
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      gsize n;
      double sum = 0;
      g_autoptr (NfReference) reference = make (i, &n);
      g_autofree double *x = nf_test_random (i, n), *above = g_new (double, n), *below = g_new (double, n),
                        *J = g_new (double, n *n), *log_det = g_new (double, reference->N);
      for (gsize j = 0; j < n; j++)
        {
          const double middle = x[j];
          x[j] = middle + step;
          nf_reference_encode (reference, x, 1, labels_of (reference), above, NULL, NULL);
          x[j] = middle - step;
          nf_reference_encode (reference, x, 1, labels_of (reference), below, NULL, NULL);
          x[j] = middle;
          for (gsize k = 0; k < n; k++)
            J[k * n + j] = (above[k] - below[k]) / (2 * step);
        }
      nf_reference_encode (reference, x, 1, labels_of (reference), above, NULL, log_det);
      for (gsize j = 0; j < reference->N; j++)
        sum += log_det[j];
      const double wanted = nf_test_log_determinant (J, n);
      if (fabs (sum - wanted) > 1e-7 * (1 + fabs (wanted)))
        fail_msg ("log-determinant %.9g, that of the Jacobian %.9g", sum, wanted);
    }
}

/* The density integrates to 1: a sum over a grid in the four dimensions of the smallest image. */
static void
test_density (void **state)
{
  const NfConfig config = { .channels = 1,
                            .img_size = 2,
                            .patch_size = 1,
                            .width = 4,
                            .n_blocks = 2,
                            .n_layers = 1,
                            .nvp = TRUE,
                            .head_dim = 4,
                            .expansion = 2,
                            .layout = NF_PIXELS_GRAY };
  const guint steps = 25;
  const double side = 14, width = side / steps;
  double sum = 0;
  g_autoptr (NfReference) reference = nf_reference_new (&config);
  nf_reference_randomise (reference, 5, 0.2);
  for (guint i = 0; i < steps * steps * steps * steps; i++)
    {
      double x[4], z[4], log_det[4], log_p = 0;
      guint rest = i;
      for (guint j = 0; j < 4; j++, rest /= steps)
        x[j] = ((rest % steps) + 0.5) * width - side / 2;
      nf_reference_encode (reference, x, 1, NULL, z, NULL, log_det);
      for (guint j = 0; j < 4; j++)
        log_p += log_det[j] - 0.5 * z[j] * z[j] - 0.5 * log (2 * G_PI);
      sum += exp (log_p) * width * width * width * width;
    }
  if (fabs (sum - 1) > 5e-3)
    fail_msg ("the density integrates to %g", sum);
}

static void
test_guidance (void **state)
{
  gsize n;
  g_autoptr (NfReference) reference = make (1, &n);
  g_autofree double *z = nf_test_random (3, B * n), *plain = g_new (double, B *n), *x = g_new (double, B *n);
  const gint none[B] = { -1, -1 };
  const NfDecodeOptions strong = { .guidance = 3, .guide = NF_GUIDE_SCALE | NF_GUIDE_SHIFT };
  /* both branches say the same: nothing changes */
  nf_reference_decode (reference, z, B, none, NULL, plain);
  nf_reference_decode (reference, z, B, none, &strong, x);
  nf_test_close ("guidance towards itself", x, plain, B * n, 1e-12);
  /* and something does where they differ */
  nf_reference_decode (reference, z, B, labels, NULL, plain);
  nf_reference_decode (reference, z, B, labels, &strong, x);
  assert_true (nf_reference_error (x, plain, n) > 1e-3);
  nf_test_close ("the sample without a class", x + n, plain + n, n, 1e-12);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_round_trip), cmocka_unit_test (test_gradients),
    cmocka_unit_test (test_denoise),    cmocka_unit_test (test_log_determinant),
    cmocka_unit_test (test_density),    cmocka_unit_test (test_guidance),
  };
  return cmocka_run_group_tests_name ("reference", tests, NULL, NULL);
}
