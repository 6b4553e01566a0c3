/* normflow: what every flow must be, on every form of the kernels. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Models of several shapes with random weights, beside the reference in double precision and by themselves.
 */
#include "nf-test.h"

#include <math.h>

#define FORWARD_TOLERANCE 1e-5
#define OTHER_TOLERANCE 1e-4
#define SCALE 0.15 /* of log-scales and shifts */

static const NfConfig configs[] = {
  /* like bundled models: chroma at half size, in the basis of the DCT */
  { .channels = 3,
    .img_size = 12,
    .patch_size = 4,
    .width = 48,
    .n_blocks = 3,
    .n_layers = 2,
    .nvp = TRUE,
    .head_dim = 24,
    .expansion = 2,
    .layout = NF_PIXELS_YUV420,
    .basis = NF_BASIS_DCT,
    .max_log_scale = 0.1 },
  /* like official ones: classes, more layers, sizes that fill no vector */
  { .channels = 3,
    .img_size = 10,
    .patch_size = 2,
    .width = 40,
    .n_blocks = 2,
    .n_layers = 3,
    .nvp = TRUE,
    .n_classes = 3,
    .head_dim = 20,
    .expansion = 3,
    .layout = NF_PIXELS_RGB },
  /* volume-preserving, one feature a token */
  { .channels = 1,
    .img_size = 5,
    .patch_size = 1,
    .width = 20,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = FALSE,
    .head_dim = 20,
    .expansion = 4,
    .layout = NF_PIXELS_GRAY },
  /* a sample of one token: nothing is before it, so blocks leave it as it is */
  { .channels = 3,
    .img_size = 4,
    .patch_size = 4,
    .width = 24,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = TRUE,
    .head_dim = 24,
    .expansion = 2,
    .layout = NF_PIXELS_RGB },
};

/* One model and a batch. */
typedef struct
{
  NfReference *reference;
  NfModel *model;
  NfSession *session;
  guint B;
  gsize N, n; /* tokens, values of a sample */
  const gint *labels;
  double *x;
} Case;

static void
case_clear (Case *c)
{
  g_clear_pointer (&c->reference, nf_reference_free);
  g_clear_object (&c->session);
  g_clear_object (&c->model);
  g_free (c->x);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Case, case_clear)

static void
case_open (Case *c, const char *form)
{
  static const gint labels[] = { 2, -1, 0, 1, 1, 0, 2, -1 };
  c->labels = c->reference->config->n_classes > 0 ? labels : NULL;
  assert_true (c->B <= G_N_ELEMENTS (labels) || !c->labels);
  c->N = c->reference->N;
  c->n = c->N * c->reference->D;
  c->model = nf_test_model (c->reference, form);
  c->session = nf_test_session (c->model);
  c->x = nf_test_random (c->B, c->B * c->n);
}

static void
case_init (Case *c, guint i, guint B, const char *form)
{
  *c = (Case){ .reference = nf_reference_new (&configs[i]), .B = B };
  nf_reference_randomise (c->reference, 100 + i, SCALE);
  case_open (c, form);
}

static void
encode (Case *c, const float *x, guint B, const gint *labels, float *z, float *log_det)
{
  g_autoptr (GError) error = NULL;
  nf_test_ok (nf_session_encode (c->session, x, B, labels, z, NULL, log_det, &error), error);
}

/* The same numbers as in double precision */

static void
check_encode (Case *c)
{
  g_autofree double *z = g_new (double, c->B * c->n), *log_det = g_new (double, c->B * c->N);
  g_autofree float *x = nf_test_to_float (c->x, c->B * c->n), *got = g_new (float, c->B * c->n),
                   *got_log_det = g_new (float, c->B * c->N);
  encode (c, x, c->B, c->labels, got, got_log_det);
  nf_reference_encode (c->reference, c->x, c->B, c->labels, z, NULL, log_det);
  nf_test_close_float ("latents", got, z, c->B * c->n, FORWARD_TOLERANCE);
  nf_test_close_float ("log-determinants", got_log_det, log_det, c->B * c->N, FORWARD_TOLERANCE);
}

static void
check_decode (Case *c, const NfDecodeOptions *options)
{
  g_autoptr (GError) error = NULL;
  g_autofree double *x = g_new (double, c->B * c->n);
  g_autofree float *z = nf_test_to_float (c->x, c->B * c->n), *got = g_new (float, c->B * c->n);
  nf_test_ok (nf_session_decode (c->session, z, c->B, c->labels, options, got, &error), error);
  nf_reference_decode (c->reference, c->x, c->B, c->labels, options, x);
  nf_test_close_float ("sample", got, x, c->B * c->n, OTHER_TOLERANCE);
}

static void
check_gradients (Case *c)
{
  g_autoptr (GError) error = NULL;
  double loss;
  g_autofree double *grad_x = g_new (double, c->B * c->n);
  g_autofree float *x = nf_test_to_float (c->x, c->B * c->n), *got = g_new (float, c->B * c->n),
                   *all = g_new (float, nf_model_count_parameters (c->model));
  nf_test_ok (nf_session_gradients (c->session, x, c->B, c->labels, &loss, got, all, &error), error);
  const double want = nf_reference_gradients (c->reference, c->x, c->B, c->labels, grad_x);
  nf_test_close ("loss", &loss, &want, 1, FORWARD_TOLERANCE);
  nf_test_close_float ("gradient of x", got, grad_x, c->B * c->n, OTHER_TOLERANCE);
  for (guint i = 0; i < c->reference->parameters->len; i++)
    {
      const NfReferenceParameter *parameter = c->reference->parameters->pdata[i];
      gsize offset, n;
      assert_true (nf_model_get_parameter (c->model, parameter->name, &offset, &n));
      assert_int_equal (n, parameter->n);
      nf_test_close_float (parameter->name, all + offset, parameter->gradient, n, OTHER_TOLERANCE);
    }
}

static void
check_denoise (Case *c)
{
  g_autoptr (GError) error = NULL;
  g_autofree double *x = g_new (double, c->B * c->n);
  g_autofree float *y = nf_test_to_float (c->x, c->B * c->n), *got = g_new (float, c->B * c->n);
  nf_test_ok (nf_session_denoise (c->session, y, c->B, c->labels, 0.15, got, &error), error);
  nf_reference_denoise (c->reference, c->x, c->B, c->labels, 0.15, x);
  nf_test_close_float ("denoised", got, x, c->B * c->n, OTHER_TOLERANCE);
}

static void
test_reference (void **state)
{
  const NfDecodeOptions guided = { .guidance = 1.5, .annealed = TRUE },
                        unconditional = { .guidance = 0.7, .attention_temperature = 1.4 };
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_auto (Case) c = { 0 };
      case_init (&c, i, 3, *state);
      check_encode (&c);
      check_decode (&c, NULL);
      check_decode (&c, c.labels ? &guided : &unconditional);
      check_gradients (&c);
      check_denoise (&c);
    }
}

/* Tokens of one value, whose last product has one or two outputs: rows, in its gradients, of a product that
 * is wide enough for several panels to a work-item. */
static void
test_few_outputs (void **state)
{
  for (guint i = 0; i < 2; i++)
    {
      const NfConfig config = { .channels = 1,
                                .img_size = 3,
                                .patch_size = 1,
                                .width = 128 * CLAMP (g_get_num_processors (), 1, 4),
                                .n_blocks = 2,
                                .n_layers = 1,
                                .nvp = i == 0,
                                .head_dim = 64,
                                .expansion = 1,
                                .layout = NF_PIXELS_GRAY };
      g_auto (Case) c = { .reference = nf_reference_new (&config), .B = 2 };
      nf_reference_randomise (c.reference, 200, 0.05);
      case_open (&c, *state);
      check_gradients (&c);
    }
}

/* By itself */

static void
test_round_trip (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (Case) c = { 0 };
      case_init (&c, i, 5, *state);
      const gsize all = c.B * c.n;
      g_autofree float *x = nf_test_to_float (c.x, all), *z = g_new (float, all), *back = g_new (float, all);
      encode (&c, x, c.B, c.labels, z, NULL);
      for (gsize j = 0; j < all; j++)
        z[j] = (float)((double)z[j] / sqrt (c.reference->variance[j % c.n]));
      nf_test_ok (nf_session_decode (c.session, z, c.B, c.labels, NULL, back, &error), error);
      nf_test_close_float ("there and back", back, c.x, all, FORWARD_TOLERANCE);
    }
}

/* The same sample alone, and among others, at another place of another batch: the same bits. */
static void
test_batches (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_autoptr (GError) error = NULL;
      g_auto (Case) c = { 0 };
      case_init (&c, i, 7, *state);
      const gsize all = c.B * c.n;
      g_autofree float *x = nf_test_to_float (c.x, all), *z = g_new (float, all),
                       *log_det = g_new (float, c.B *c.N), *samples = g_new (float, all),
                       *denoised = g_new (float, all), *one = g_new (float, MAX (c.n, c.N)),
                       *one_log_det = g_new (float, c.N);
      encode (&c, x, c.B, c.labels, z, log_det);
      nf_test_ok (nf_session_decode (c.session, x, c.B, c.labels, NULL, samples, &error), error);
      nf_test_ok (nf_session_denoise (c.session, x, c.B, c.labels, 0.1, denoised, &error), error);
      for (guint b = 0; b < c.B; b++)
        {
          const gint *label = c.labels ? c.labels + b : NULL;
          encode (&c, x + b * c.n, 1, label, one, one_log_det);
          assert_memory_equal (one, z + b * c.n, c.n * sizeof *one);
          assert_memory_equal (one_log_det, log_det + b * c.N, c.N * sizeof *one);
          nf_test_ok (nf_session_decode (c.session, x + b * c.n, 1, label, NULL, one, &error), error);
          assert_memory_equal (one, samples + b * c.n, c.n * sizeof *one);
          nf_test_ok (nf_session_denoise (c.session, x + b * c.n, 1, label, 0.1, one, &error), error);
          assert_memory_equal (one, denoised + b * c.n, c.n * sizeof *one);
        }
    }
}

/* Again, and in another session of the same model: the same bits. */
static void
test_again (void **state)
{
  g_autoptr (GError) error = NULL;
  g_auto (Case) c = { 0 };
  case_init (&c, 0, 2, *state);
  const gsize all = c.B * c.n, n_parameters = nf_model_count_parameters (c.model);
  g_autofree float *x = nf_test_to_float (c.x, all), *z = g_new (float, all), *again = g_new (float, all),
                   *grad = g_new (float, n_parameters), *grad_again = g_new (float, n_parameters);
  double loss, loss_again;
  encode (&c, x, c.B, NULL, z, NULL);
  nf_test_ok (nf_session_gradients (c.session, x, c.B, NULL, &loss, NULL, grad, &error), error);
  g_clear_object (&c.session);
  c.session = nf_test_session (c.model);
  nf_test_ok (nf_session_gradients (c.session, x, c.B, NULL, &loss_again, NULL, grad_again, &error), error);
  encode (&c, x, c.B, NULL, again, NULL);
  assert_memory_equal (z, again, all * sizeof *z);
  assert_memory_equal (grad, grad_again, n_parameters * sizeof *grad);
  assert_true (loss == loss_again);
}

/* All blocks but ONE say nothing: shift and log-scale 0. */
static void
silence_others (NfReference *reference, guint one)
{
  for (guint t = 0; t < reference->T; t++)
    {
      g_autofree char *weight = g_strdup_printf ("blocks.%u.proj_out.weight", t),
                      *bias = g_strdup_printf ("blocks.%u.proj_out.bias", t);
      NfReferenceParameter *parts[]
          = { nf_reference_parameter (reference, weight), nf_reference_parameter (reference, bias) };
      for (guint i = 0; t != one && i < G_N_ELEMENTS (parts); i++)
        memset (parts[i]->value, 0, parts[i]->n * sizeof (double));
    }
}

/* A block's latent depends on no token after its own in the block's order, and its log-determinant not even
 * on its own: seen bit for bit by changing one token. */
static void
check_causality (guint i, guint block, const char *form)
{
  g_auto (Case) c = { .reference = nf_reference_new (&configs[i]), .B = 1 };
  nf_reference_randomise (c.reference, 200 + i, SCALE);
  silence_others (c.reference, block);
  case_open (&c, form);
  const gsize D = c.reference->D, N = c.N;
  g_autofree float *x = nf_test_to_float (c.x, c.n), *z = g_new (float, c.n), *log_det = g_new (float, N),
                   *changed = g_new (float, c.n), *changed_log_det = g_new (float, N);
  encode (&c, x, 1, c.labels, z, log_det);
  for (gsize n = 0; n < N; n += 3)
    {
      g_autofree float *kept = g_memdup2 (x + n * D, D * sizeof *x);
      guint later = 0;
      for (gsize f = 0; f < D; f++)
        x[n * D + f] += 0.25f;
      encode (&c, x, 1, c.labels, changed, changed_log_det);
      for (gsize m = 0; m < N; m++)
        {
          const gboolean before = block % 2 == 0 ? m < n : m > n,
                         same = memcmp (z + m * D, changed + m * D, D * sizeof *z) == 0;
          if (before && !same)
            fail_msg ("block %u: token %zu depends on token %zu", block, m, n);
          if ((before || m == n) && log_det[m] != changed_log_det[m])
            fail_msg ("block %u: the scale of token %zu depends on token %zu", block, m, n);
          later += !before && m != n && !same;
        }
      /* and something does depend on it, unless nothing comes after */
      assert_true (later > 0 || n == (block % 2 == 0 ? N - 1 : 0));
      memcpy (x + n * D, kept, D * sizeof *x);
    }
}

static void
test_causality (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    for (guint block = 0; block < 2; block++)
      check_causality (i, block, *state);
}

/* The kernels' own log-determinant beside that of their own Jacobian, by finite differences; all 2n of them
 * are one batch. */
static void
test_log_determinant (void **state)
{
  const NfConfig config = { .channels = 1,
                            .img_size = 6,
                            .patch_size = 3,
                            .width = 24,
                            .n_blocks = 3,
                            .n_layers = 1,
                            .nvp = TRUE,
                            .head_dim = 24,
                            .expansion = 2,
                            .layout = NF_PIXELS_GRAY };
  const float step = 1.0f / 256;
  g_auto (Case) c = { .reference = nf_reference_new (&config), .B = 1 };
  nf_reference_randomise (c.reference, 9, SCALE);
  case_open (&c, *state);
  const gsize n = c.n;
  double sum = 0;
  g_autofree float *x = g_new (float, 2 * n * n), *z = g_new (float, 2 * n * n),
                   *log_det = g_new (float, 2 * n * c.N), *middle = nf_test_to_float (c.x, n);
  g_autofree double *J = g_new (double, n *n);
  for (gsize b = 0; b < 2 * n; b++)
    {
      memcpy (x + b * n, middle, n * sizeof *x);
      x[b * n + b / 2] += b % 2 ? -step : step;
    }
  encode (&c, x, (guint)(2 * n), NULL, z, log_det);
  for (gsize j = 0; j < n; j++)
    for (gsize k = 0; k < n; k++)
      J[k * n + j] = ((double)z[2 * j * n + k] - (double)z[(2 * j + 1) * n + k]) / (2 * (double)step);
  encode (&c, middle, 1, NULL, z, log_det);
  for (gsize i = 0; i < c.N; i++)
    sum += (double)log_det[i];
  const double wanted = nf_test_log_determinant (J, n);
  assert_true (fabs (sum) > 0.5);
  if (fabs (sum - wanted) > 2e-3 * (1 + fabs (wanted)))
    fail_msg ("log-determinant %g, that of the Jacobian %g", sum, wanted);
}

/* Images and tokens; of the configuration alone, no kernels. */
static void
test_patches (void **state)
{
  for (guint i = 1; i < G_N_ELEMENTS (configs); i++)
    {
      NfConfig config = configs[i];
      g_autoptr (NfReference) reference = nf_reference_new (&config);
      const gsize p = config.patch_size, n = (gsize)reference->N * reference->D, all = 2 * n;
      g_autofree double *images = nf_test_random (i, all), *want = g_new (double, all);
      g_autofree float *single = nf_test_to_float (images, all), *tokens = g_new (float, all),
                       *back = g_new (float, all);
      nf_reference_patchify (reference, images, 2, want);
      nf_patchify (&config, single, 2, tokens);
      nf_test_close_float ("tokens", tokens, want, all, 0);
      nf_unpatchify (&config, tokens, 2, back);
      assert_memory_equal (back, single, all * sizeof *back);

      /* the DCT-II by its definition: orthonormal, plane by plane */
      config.basis = NF_BASIS_DCT;
      nf_patchify (&config, single, 2, tokens);
      g_autofree double *dct = g_new0 (double, all);
      for (gsize at = 0; at < all; at += p * p)
        for (gsize v = 0; v < p; v++)
          for (gsize u = 0; u < p; u++)
            for (gsize y = 0; y < p; y++)
              for (gsize x = 0; x < p; x++)
                dct[at + v * p + u] += want[at + y * p + x] * (v ? sqrt (2.0 / p) : sqrt (1.0 / p))
                                       * (u ? sqrt (2.0 / p) : sqrt (1.0 / p))
                                       * cos (G_PI * (2 * y + 1) * v / (2.0 * p))
                                       * cos (G_PI * (2 * x + 1) * u / (2.0 * p));
      nf_test_close_float ("tokens in the basis of the DCT", tokens, dct, all, 1e-6);
      nf_unpatchify (&config, tokens, 2, back);
      nf_test_close_float ("back from the DCT", back, images, all, 1e-6);
    }
}

/* What is not a model's: refused, and the session goes on. */
static void
test_arguments (void **state)
{
  g_auto (Case) c = { 0 };
  case_init (&c, 1, 1, *state);
  g_autofree float *x = nf_test_to_float (c.x, c.n), *z = g_new (float, c.n),
                   *bad = nf_test_to_float (c.x, c.n);
  const gint high = 3, low = -2;
  const NfDecodeOptions infinite = { .guidance = (double)INFINITY },
                        negative = { .attention_temperature = -1 };
  g_autoptr (GError) error = NULL;
  bad[7] = NAN;

#define assert_refused(call, code_, part)                                                                    \
  G_STMT_START                                                                                               \
  {                                                                                                          \
    assert_false (call);                                                                                     \
    assert_true (g_error_matches (error, NF_ERROR, code_));                                                  \
    if (!strstr (error->message, part))                                                                      \
      fail_msg ("\"%s\" does not speak of %s", error->message, part);                                        \
    g_clear_error (&error);                                                                                  \
  }                                                                                                          \
  G_STMT_END

  assert_refused (nf_session_encode (c.session, x, 1, &high, z, NULL, NULL, &error), NF_ERROR_ARGUMENT,
                  "class 3");
  assert_refused (nf_session_encode (c.session, x, 1, &low, z, NULL, NULL, &error), NF_ERROR_ARGUMENT,
                  "class -2");
  assert_refused (nf_session_encode (c.session, bad, 1, NULL, z, NULL, NULL, &error), NF_ERROR_DATA,
                  "finite");
  assert_refused (nf_session_decode (c.session, bad, 1, NULL, NULL, z, &error), NF_ERROR_DATA, "finite");
  assert_refused (nf_session_decode (c.session, x, 1, NULL, &infinite, z, &error), NF_ERROR_ARGUMENT,
                  "guidance");
  assert_refused (nf_session_decode (c.session, x, 1, NULL, &negative, z, &error), NF_ERROR_ARGUMENT,
                  "temperature");
  assert_refused (nf_session_denoise (c.session, x, 1, NULL, -0.1, z, &error), NF_ERROR_ARGUMENT, "sigma");
  assert_refused (nf_session_denoise (c.session, x, 1, NULL, (double)NAN, z, &error), NF_ERROR_ARGUMENT,
                  "sigma");
  nf_test_ok (nf_session_encode (c.session, x, 1, NULL, z, NULL, NULL, &error), error);
}

int
main (void)
{
  static char *forms[] = { "cpu", "cpu,vectors=8", "cpu,vectors=4", "gpu" };
  static const struct
  {
    const char *name;
    CMUnitTestFunction run;
  } tests[] = {
    { "as in double precision", test_reference },
    { "few outputs", test_few_outputs },
    { "there and back", test_round_trip },
    { "batches", test_batches },
    { "again", test_again },
    { "causality", test_causality },
    { "log-determinant", test_log_determinant },
  };
  struct CMUnitTest all[G_N_ELEMENTS (forms) * G_N_ELEMENTS (tests) + 2];
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  gsize n = 0;
  for (guint f = 0; f < G_N_ELEMENTS (forms); f++)
    for (guint t = 0; t < G_N_ELEMENTS (tests); t++)
      {
        char *name = g_strdup_printf ("%s, kernels=%s", tests[t].name, forms[f]);
        g_ptr_array_add (names, name);
        all[n++] = (struct CMUnitTest){ name, tests[t].run, NULL, NULL, forms[f] };
      }
  all[n++] = (struct CMUnitTest){ "patches", test_patches, NULL, NULL, NULL };
  all[n++] = (struct CMUnitTest){ "arguments", test_arguments, NULL, NULL, forms[0] };
  return cmocka_run_group_tests_name ("properties", all, NULL, NULL);
}
