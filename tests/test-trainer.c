/* normflow: training: the step, what is skipped, checkpoints. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define B 6

static const NfConfig configs[] = {
  { .channels = 3,
    .img_size = 8,
    .patch_size = 4,
    .width = 32,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = TRUE,
    .head_dim = 16,
    .expansion = 2,
    .layout = NF_PIXELS_YUV420,
    .basis = NF_BASIS_DCT },
  { .channels = 1,
    .img_size = 6,
    .patch_size = 3,
    .width = 24,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = TRUE,
    .n_classes = 3,
    .head_dim = 12,
    .expansion = 2,
    .layout = NF_PIXELS_GRAY },
  { .channels = 1,
    .img_size = 8,
    .patch_size = 4,
    .width = 32,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = FALSE,
    .head_dim = 16,
    .expansion = 2,
    .layout = NF_PIXELS_GRAY,
    .noise = NF_NOISE_GAUSSIAN,
    .noise_std = 0.05 },
  /* a STARFlow's classes are text of one token, the last feature of it no class */
  { .family = NF_FAMILY_STARFLOW,
    .channels = 1,
    .img_size = 8,
    .patch_size = 4,
    .width = 32,
    .n_blocks = 2,
    .n_layers = 1,
    .nvp = TRUE,
    .head_dim = 32,
    .expansion = 2,
    .layout = NF_PIXELS_GRAY,
    .sos = TRUE,
    .rope = TRUE,
    .softplus = TRUE,
    .cond_top_only = TRUE,
    .left_to_right = TRUE,
    .txt_size = 1,
    .txt_dim = 4 },
};

static const gint labels[B] = { 0, 2, 1, 1, -1, 0 };

/* A trainer of a fresh model. */
typedef struct
{
  NfModel *model;
  NfTrainer *trainer;
  gsize tile;
  const gint *labels;
  const float *text, *null_text;
} Run;

static void
run_clear (Run *run)
{
  g_clear_object (&run->trainer);
  g_clear_object (&run->model);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static NfTrainOptions
make_options (void)
{
  NfTrainOptions options;
  nf_train_options_init (&options);
  options.steps = 40;
  options.warmup = 4;
  options.lr = 2e-3;
  options.clip = 1;
  options.ema = 0.9;
  options.label_dropout = 0.3;
  options.seed = 11;
  return options;
}

static void
run_init (Run *run, guint i, const NfTrainOptions *options)
{
  g_autoptr (GError) error = NULL;
  *run = (Run){ .model = nf_model_new (&configs[i], nf_test_device ("cpu"), 3, &error) };
  nf_test_ok (run->model, error);
  run->trainer = nf_trainer_new (run->model, options, &error);
  nf_test_ok (run->trainer, error);
  run->tile = nf_config_tile_bytes (&configs[i]);
  run->labels = nf_config_classes (&configs[i]) > 0 ? labels : NULL;
}

/* Tiles of step STEP: smooth, each brighter than the one before, a little noise. */
static guint8 *
make_tiles (const Run *run, guint64 step)
{
  guint8 *tiles = g_malloc (B * run->tile);
  for (gsize i = 0; i < B * run->tile; i++)
    tiles[i] = (guint8)(60 + 20 * (i / run->tile) + 30 * sin ((double)i * 0.3)
                        + 10 * nf_random_uniform (7, step, i));
  return tiles;
}

static NfTrainReport
step (Run *run)
{
  g_autoptr (GError) error = NULL;
  g_autofree guint8 *tiles = make_tiles (run, nf_trainer_get_step (run->trainer));
  NfTrainReport report;
  const NfTrainBatch batch = { B, tiles, run->labels, NULL, run->text, run->null_text };
  nf_test_ok (nf_trainer_step (run->trainer, &batch, &report, &error), error);
  return report;
}

static void
steps (Run *run, guint n)
{
  for (guint i = 0; i < n; i++)
    assert_false (step (run).skipped);
}

/* What the trainer would write: its state as bytes. */
static GBytes *
state_of (Run *run)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint"), *bytes = NULL;
  gsize size;
  nf_test_ok (nf_trainer_save (run->trainer, path, &error), error);
  nf_test_ok (g_file_get_contents (path, &bytes, &size, &error), error);
  g_unlink (path);
  return g_bytes_new_take (g_steal_pointer (&bytes), size);
}

static void
assert_same_state (Run *a, Run *b)
{
  g_autoptr (GBytes) first = state_of (a), second = state_of (b);
  assert_true (g_bytes_equal (first, second));
}

/* The parameters as they are written. */
static float *
parameters_of (Run *run)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  nf_test_ok (nf_trainer_save (run->trainer, path, &error), error);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  g_unlink (path);
  nf_test_ok (file, error);
  const NfTensor *tensor = nf_tensor_file_lookup (file, "parameters");
  assert_non_null (tensor);
  assert_int_equal (tensor->n_elements, nf_model_count_parameters (run->model));
  float *values = g_new (float, tensor->n_elements);
  nf_tensor_to_float (tensor, values);
  return values;
}

/* The step */

/* The first step of AdamW moves each parameter by its whole learning rate against the sign of its gradient,
 * besides the decay (Loshchilov and Hutter 2019, arXiv 1711.05101). Gaussian noise of no width: the gradient
 * is that of a session for the same pixels. */
static void
test_first_step (void **state)
{
  NfConfig config = configs[2];
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  config.nvp = TRUE;
  config.noise_std = 0;
  options.warmup = 0;
  options.ema = options.clip = 0;
  options.weight_decay = 0.1;
  run.model = nf_model_new (&config, nf_test_device ("cpu"), 3, &error);
  nf_test_ok (run.model, error);
  run.tile = nf_config_tile_bytes (&config);

  const gsize n = nf_model_count_parameters (run.model), dimensions = B * run.tile;
  g_autofree guint8 *tiles = make_tiles (&run, 0);
  g_autofree float *images = g_new (float, dimensions), *x = g_new (float, dimensions),
                   *gradient = g_new (float, n);
  for (gsize i = 0; i < dimensions; i++)
    images[i] = (float)(tiles[i] / 127.5 - 1);
  nf_patchify (&config, images, B, x);
  double loss, norm = 0;
  {
    g_autoptr (NfSession) session = nf_test_session (run.model);
    nf_test_ok (nf_session_gradients (session, x, B, NULL, &loss, NULL, gradient, &error), error);
  }
  for (gsize i = 0; i < n; i++)
    norm += (double)gradient[i] * (double)gradient[i];
  norm = sqrt (norm);

  run.trainer = nf_trainer_new (run.model, &options, &error);
  nf_test_ok (run.trainer, error);
  g_autofree float *before = parameters_of (&run);
  const NfTrainReport report = step (&run);
  g_autofree float *after = parameters_of (&run);
  assert_int_equal (report.step, 1);
  assert_true (fabs (report.loss - loss) < 1e-5 * fabs (loss));
  assert_true (fabs (report.grad_norm - norm) < 1e-4 * norm);
  assert_true (isnan (report.bits_per_dim));
  assert_true (fabs (report.lr - options.lr) < 1e-12);
  guint moved = 0;
  for (gsize i = 0; i < n; i++)
    {
      const double kept = (double)before[i] * (1 - options.lr * options.weight_decay),
                   change = (double)after[i] - kept;
      if (fabs ((double)gradient[i]) < 1e-5) /* not much more than eps and rounding */
        continue;
      moved++;
      if (fabs (change + copysign (options.lr, (double)gradient[i])) > 0.01 * options.lr)
        fail_msg ("parameter %zu moved by %g, its gradient is %g", i, change, (double)gradient[i]);
    }
  assert_true (moved > n / 20);
}

/* The variance of a volume-preserving model's prior follows z of the weights before each update (official
 * code: a tenth of the mean square), and likelihoods are by it. */
static void
test_variance (void **state)
{
  NfConfig config = configs[2];
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  config.noise_std = 0;
  options.warmup = 0;
  options.lr = 0.02;
  run.model = nf_model_new (&config, nf_test_device ("cpu"), 3, &error);
  nf_test_ok (run.model, error);
  run.tile = nf_config_tile_bytes (&config);
  run.trainer = nf_trainer_new (run.model, &options, &error);
  nf_test_ok (run.trainer, error);
  g_autoptr (NfSession) session = nf_test_session (run.model);

  const gsize n = B * run.tile;
  g_autofree float *images = g_new (float, n), *x = g_new (float, n), *z = g_new (float, n),
                   *variance = g_new (float, run.tile);
  g_autofree double *wanted = g_new (double, run.tile);
  for (gsize j = 0; j < run.tile; j++)
    wanted[j] = 1;
  for (guint i = 0; i < 4; i++)
    {
      g_autofree guint8 *tiles = make_tiles (&run, i);
      for (gsize j = 0; j < n; j++)
        images[j] = (float)(tiles[j] / 127.5 - 1);
      nf_patchify (&config, images, B, x);
      nf_test_ok (nf_session_encode (session, x, B, NULL, z, NULL, NULL, &error), error);
      double loss = 0, seen;
      for (gsize j = 0; j < run.tile; j++)
        {
          double square = 0;
          for (guint b = 0; b < B; b++)
            square += (double)z[b * run.tile + j] * (double)z[b * run.tile + j];
          loss += (square / B / wanted[j] + log (wanted[j])) / 2 / (double)run.tile;
          wanted[j] = 0.9 * wanted[j] + 0.1 * square / B;
        }
      nf_test_ok (
          nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, FALSE, &seen, &error),
          error);
      const NfTrainReport report = step (&run);
      if (!(fabs (seen - loss) < 1e-5) || !(fabs (report.nll - loss) < 1e-5))
        fail_msg ("step %u: a likelihood of %g is %g evaluated and %g reported", i, loss, seen, report.nll);
    }

  g_autofree char *path = nf_test_temporary (".checkpoint");
  nf_test_ok (nf_trainer_save (run.trainer, path, &error), error);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  g_unlink (path);
  nf_test_ok (file, error);
  const NfTensor *var = nf_tensor_file_lookup (file, "var");
  assert_int_equal (var->n_elements, run.tile);
  nf_tensor_to_float (var, variance);
  for (gsize j = 0; j < run.tile; j++)
    if (fabs ((double)variance[j] - wanted[j]) > 1e-5 * wanted[j])
      fail_msg ("the variance of latent %zu is %g, not %g", j, (double)variance[j], wanted[j]);
}

static void
test_schedule (void **state)
{
  NfTrainOptions options = make_options ();
  g_auto (Run) run = { 0 };
  options.steps = 12;
  run_init (&run, 0, &options);
  for (guint i = 0; i < options.steps; i++)
    {
      const double done = ((double)i - 4) / 8,
                   wanted
                   = i < 4 ? options.lr_min + (options.lr - options.lr_min) * i / 4
                           : options.lr_min + (options.lr - options.lr_min) * (1 + cos (G_PI * done)) / 2;
      assert_true (fabs (step (&run).lr - wanted) < 1e-12);
    }
}

static void
test_learns (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      const NfTrainOptions options = make_options ();
      g_autoptr (GError) error = NULL;
      g_auto (Run) run = { 0 };
      run_init (&run, i, &options);
      g_autofree guint8 *tiles = make_tiles (&run, 1000);
      double before, after, average;
      nf_test_ok (nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, run.labels, NULL }, FALSE,
                                       &before, &error),
                  error);
      steps (&run, (guint)options.steps);
      nf_test_ok (nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, run.labels, NULL }, FALSE,
                                       &after, &error),
                  error);
      nf_test_ok (nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, run.labels, NULL }, TRUE,
                                       &average, &error),
                  error);
      if (!(after < before - 0.05 && average < before - 0.05 && average != after))
        fail_msg ("model %u: %g before, %g after, %g averaged", i, before, after, average);
    }
}

/* Looking changes nothing, and sees the same again. */
static void
test_evaluate (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 }, other = { 0 };
  run_init (&run, 0, &options);
  run_init (&other, 0, &options);
  g_autofree guint8 *tiles = make_tiles (&run, 1000);
  double first, again;
  steps (&run, 3);
  steps (&other, 3);
  nf_test_ok (
      nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, TRUE, &first, &error),
      error);
  nf_test_ok (
      nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, TRUE, &again, &error),
      error);
  assert_true (first == again);
  steps (&run, 2);
  steps (&other, 2);
  assert_same_state (&run, &other);
}

/* The loss of RUN, a new model, is that of a session that sees TEXT, and it learns to look at that. */
static void
check_told (Run *run, const NfConfig *given, const float *text)
{
  NfConfig config = *given;
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  config.noise = NF_NOISE_GAUSSIAN;
  config.noise_std = 0;
  options.label_dropout = 0;
  run->model = nf_model_new (&config, nf_test_device ("cpu"), 3, &error);
  nf_test_ok (run->model, error);
  run->tile = nf_config_tile_bytes (&config);
  run->trainer = nf_trainer_new (run->model, &options, &error);
  nf_test_ok (run->trainer, error);
  g_autoptr (NfSession) session = nf_test_session (run->model);

  const gsize n = B * run->tile;
  g_autofree float *images = g_new (float, n), *x = g_new (float, n), *z = g_new (float, n),
                   *log_det = g_new (float, B * 4);
  for (guint i = 0; i < 4; i++)
    {
      g_autofree guint8 *tiles = make_tiles (run, i);
      const NfTrainBatch told = { B, tiles, run->labels, NULL, run->text, run->null_text };
      for (gsize j = 0; j < n; j++)
        images[j] = (float)(tiles[j] / 127.5 - 1);
      nf_patchify (&config, images, B, x);
      nf_test_ok (nf_session_set_text (session, text, NULL, B, &error), error);
      nf_test_ok (nf_session_encode (session, x, B, NULL, z, NULL, log_det, &error), error);
      double loss = 0, seen, unseen;
      for (gsize j = 0; j < n; j++)
        loss += (double)z[j] * (double)z[j] / 2 / (double)n;
      for (guint j = 0; j < B * 4; j++)
        loss -= (double)log_det[j] / (double)n;
      nf_test_ok (nf_trainer_evaluate (run->trainer, &told, FALSE, &seen, &error), error);
      nf_test_ok (
          nf_trainer_evaluate (run->trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, FALSE, &unseen, &error),
          error);
      /* a new model does not look at anything */
      if (!(fabs (seen - loss) < 1e-5) || (i > 0 && !(fabs (unseen - seen) > 1e-7)))
        fail_msg ("step %u: %g is %g when told and %g without", i, loss, seen, unseen);
      steps (run, 1);
    }
}

/* Classes of a STARFlow are the text that says so, and are learned. */
static void
test_classes_as_text (void **state)
{
  g_auto (Run) run = { .labels = labels };
  float text[B * 4] = { 0 };
  for (guint b = 0; b < B; b++)
    text[4 * b + (labels[b] < 0 ? 3 : (guint)labels[b])] = 1;
  check_told (&run, &configs[3], text);
}

#define TOKENS 3
#define FEATURES 5

static NfConfig
make_captions (float *text, float *null_text)
{
  NfConfig config = configs[3];
  config.txt_size = TOKENS;
  config.txt_dim = FEATURES;
  nf_random_normal (5, 0, B * TOKENS * FEATURES, 1, text);
  nf_random_normal (5, 1, TOKENS * FEATURES, 1, null_text);
  return config;
}

/* Captions, too; a sample without a label is told what says nothing. */
static void
test_captions (void **state)
{
  float text[B * TOKENS * FEATURES], seen[B * TOKENS * FEATURES], null_text[TOKENS * FEATURES];
  g_auto (Run) run = { .labels = labels, .text = text, .null_text = null_text };
  const NfConfig config = make_captions (text, null_text);
  for (guint b = 0; b < B; b++)
    memcpy (seen + b * TOKENS * FEATURES, labels[b] < 0 ? null_text : text + b * TOKENS * FEATURES,
            sizeof null_text);
  check_told (&run, &config, seen);

  g_autoptr (GError) error = NULL;
  g_autofree guint8 *tiles = make_tiles (&run, 0);
  double loss;
  /* without captions what says nothing is told whether there are labels or not */
  const gint none[B] = { -1, -1, -1, -1, -1, -1 };
  double losses[2];
  for (guint i = 0; i < 2; i++)
    nf_test_ok (nf_trainer_evaluate (run.trainer,
                                     &(NfTrainBatch){ B, tiles, i ? none : NULL, NULL, NULL, null_text },
                                     FALSE, &losses[i], &error),
                error);
  assert_true (losses[0] == losses[1]);

  /* what cannot be told is refused */
  text[TOKENS] = INFINITY;
  assert_false (nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL, text, NULL }, FALSE,
                                     &loss, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA));
}

/* Captions that are all left out are those of nothing. */
static void
test_captions_left_out (void **state)
{
  float text[B * TOKENS * FEATURES], nothing[B * TOKENS * FEATURES], null_text[TOKENS * FEATURES];
  const NfConfig config = make_captions (text, null_text);
  double losses[2];
  for (guint b = 0; b < B; b++)
    memcpy (nothing + b * TOKENS * FEATURES, null_text, sizeof null_text);
  for (guint i = 0; i < 2; i++)
    {
      NfTrainOptions options = make_options ();
      g_autoptr (GError) error = NULL;
      g_auto (Run) run = { .text = i ? nothing : text, .null_text = i ? NULL : null_text };
      options.label_dropout = i ? 0 : 1;
      run.model = nf_model_new (&config, nf_test_device ("cpu"), 3, &error);
      nf_test_ok (run.model, error);
      run.tile = nf_config_tile_bytes (&config);
      run.trainer = nf_trainer_new (run.model, &options, &error);
      nf_test_ok (run.trainer, error);
      steps (&run, 4);
      losses[i] = step (&run).loss;
    }
  assert_true (losses[0] == losses[1]);
}

static void
test_labels (void **state)
{
  static const gint high[B] = { 0, 0, 3 }, low[B] = { -2 };
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  NfTrainReport report;
  double loss;
  run_init (&run, 1, &options);
  g_autofree guint8 *tiles = make_tiles (&run, 0);
  assert_false (nf_trainer_step (run.trainer, &(NfTrainBatch){ B, tiles, high, NULL }, &report, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT) && strstr (error->message, "class 3"));
  g_clear_error (&error);
  assert_false (
      nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, low, NULL }, FALSE, &loss, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT) && strstr (error->message, "class -2"));
  g_clear_error (&error);
  assert_false (nf_trainer_step (run.trainer, &(NfTrainBatch){ 0, tiles, NULL, NULL }, &report, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT) && strstr (error->message, "0 samples"));
  assert_int_equal (nf_trainer_get_step (run.trainer), 0);
}

static void
test_options (void **state)
{
  static const struct
  {
    gsize offset;
    double value;
    const char *name;
  } wrong[] = {
    { G_STRUCT_OFFSET (NfTrainOptions, lr), -1, "lr" },
    { G_STRUCT_OFFSET (NfTrainOptions, lr), (double)NAN, "lr" },
    { G_STRUCT_OFFSET (NfTrainOptions, lr_min), 2, "lr_min" },
    { G_STRUCT_OFFSET (NfTrainOptions, beta1), 1, "beta1" },
    { G_STRUCT_OFFSET (NfTrainOptions, beta2), 1, "beta2" },
    { G_STRUCT_OFFSET (NfTrainOptions, eps), 0, "eps" },
    { G_STRUCT_OFFSET (NfTrainOptions, weight_decay), (double)INFINITY, "weight_decay" },
    { G_STRUCT_OFFSET (NfTrainOptions, clip), -1, "clip" },
    { G_STRUCT_OFFSET (NfTrainOptions, ema), 1, "ema" },
    { G_STRUCT_OFFSET (NfTrainOptions, label_dropout), 1.5, "label_dropout" },
  };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = nf_model_new (&configs[0], nf_test_device ("cpu"), 3, &error);
  nf_test_ok (model, error);
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      NfTrainOptions options = make_options ();
      G_STRUCT_MEMBER (double, &options, wrong[i].offset) = wrong[i].value;
      assert_null (nf_trainer_new (model, &options, &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
      if (!strstr (error->message, wrong[i].name))
        fail_msg ("\"%s\" does not speak of %s", error->message, wrong[i].name);
      g_clear_error (&error);
    }
}

/* What is skipped */

/* A trainer of a model from a file, in which the first N values of a parameter of both blocks are VALUE. */
static void
run_init_with (Run *run, const char *parameter, guint n, double value, const NfTrainOptions *options)
{
  g_autoptr (NfReference) reference = nf_reference_new (&configs[0]);
  g_autoptr (GError) error = NULL;
  nf_reference_randomise (reference, 1, 0.01);
  for (guint t = 0; t < configs[0].n_blocks; t++)
    {
      g_autofree char *name = g_strdup_printf ("blocks.%u.%s", t, parameter);
      for (guint i = 0; i < n; i++)
        nf_reference_parameter (reference, name)->value[i] = value;
    }
  run->model = nf_test_model (reference, "cpu");
  run->trainer = nf_trainer_new (run->model, options, &error);
  nf_test_ok (run->trainer, error);
  run->tile = nf_config_tile_bytes (&configs[0]);
}

/* Finite weights whose loss is not. Nothing moves, and what is written is the model as it was. */
static void
test_not_finite (void **state)
{
  static const struct
  {
    const char *parameter;
    double value;
  } spoilt[] = { { "proj_out.bias", -1e30 }, { "proj_in.weight", 1e30 } };
  for (guint i = 0; i < G_N_ELEMENTS (spoilt); i++)
    {
      const NfTrainOptions options = make_options ();
      g_autoptr (GError) error = NULL;
      g_auto (Run) run = { 0 };
      run_init_with (&run, spoilt[i].parameter, 1, spoilt[i].value, &options);
      g_autofree float *before = parameters_of (&run);
      for (guint k = 1; k <= 3; k++)
        {
          const NfTrainReport report = step (&run);
          if (!report.skipped || (isfinite (report.loss) && isfinite (report.grad_norm)))
            fail_msg ("%s: loss %g, gradient %g", spoilt[i].parameter, report.loss, report.grad_norm);
          assert_int_equal (report.step, k);
        }
      g_autofree float *after = parameters_of (&run);
      assert_memory_equal (before, after, nf_model_count_parameters (run.model) * sizeof *before);

      g_autofree char *path = nf_test_temporary (".safetensors");
      nf_test_ok (nf_trainer_save_model (run.trainer, path, NULL, &error), error);
      g_autofree char *digest = nf_model_digest_of_file (path, &error);
      g_unlink (path);
      nf_test_ok (digest, error);
    }
}

/* A batch whose gradient is far larger than those before. */
static void
test_explosion (void **state)
{
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  NfTrainReport report;
  options.lr = options.lr_min = 1e-6;
  /* log-scales of -1.5 in both blocks: what is not in the middle is far out */
  run_init_with (&run, "proj_out.bias", 24, -1.5, &options);
  g_autofree guint8 *calm = g_malloc (B * run.tile), *wild = g_malloc (B * run.tile);
  memset (calm, 128, B * run.tile);
  memset (wild, 255, B * run.tile);
  for (guint i = 0; i < 25; i++)
    {
      nf_test_ok (nf_trainer_step (run.trainer, &(NfTrainBatch){ B, calm, NULL, NULL }, &report, &error),
                  error);
      assert_false (report.skipped);
    }
  const double norm = report.grad_norm;
  g_autofree float *before = parameters_of (&run);
  nf_test_ok (nf_trainer_step (run.trainer, &(NfTrainBatch){ B, wild, NULL, NULL }, &report, &error), error);
  assert_true (isfinite (report.loss) && report.grad_norm > 20 * norm);
  assert_true (report.skipped);
  g_autofree float *after = parameters_of (&run);
  assert_memory_equal (before, after, nf_model_count_parameters (run.model) * sizeof *before);

  /* and the run goes on, also if it stays so */
  nf_test_ok (nf_trainer_step (run.trainer, &(NfTrainBatch){ B, calm, NULL, NULL }, &report, &error), error);
  assert_false (report.skipped);
  guint skipped = 0;
  do
    nf_test_ok (nf_trainer_step (run.trainer, &(NfTrainBatch){ B, wild, NULL, NULL }, &report, &error),
                error);
  while (report.skipped && ++skipped < 100);
  assert_true (skipped < 100);
}

/* Checkpoints */

static void
check_resume (guint i)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  g_auto (Run) whole = { 0 }, first = { 0 }, second = { 0 };
  run_init (&whole, i, &options);
  steps (&whole, 13);

  run_init (&first, i, &options);
  steps (&first, 7);
  nf_test_ok (nf_trainer_save (first.trainer, path, &error), error);
  guint64 saved = 0;
  nf_test_ok (nf_trainer_saved_step (path, &saved, &error), error);
  assert_int_equal (saved, 7);
  run_init (&second, i, &options);
  steps (&second, 2); /* which restoring forgets */
  nf_test_ok (nf_trainer_restore (second.trainer, path, &error), error);
  g_unlink (path);
  assert_int_equal (nf_trainer_get_step (second.trainer), 7);
  steps (&second, 6);
  assert_same_state (&whole, &second);
  steps (&first, 6); /* saving changes nothing either */
  assert_same_state (&whole, &first);
}

static void
test_resume (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    check_resume (i);
}

/* The file that a trainer writes is the model that it evaluates. */
static void
test_saved_model (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  g_auto (Run) run = { 0 }, other = { 0 };
  double wanted, got;
  run_init (&run, 0, &options);
  steps (&run, 9);
  g_autofree guint8 *tiles = make_tiles (&run, 1000);
  nf_test_ok (
      nf_trainer_evaluate (run.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, TRUE, &wanted, &error),
      error);
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "training", (gpointer) "of a test");
  nf_test_ok (nf_trainer_save_model (run.trainer, path, metadata, &error), error);

  other.model = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (other.model, error);
  assert_string_equal (nf_model_get_metadata (other.model, "training"), "of a test");
  other.trainer = nf_trainer_new (other.model, &options, &error);
  nf_test_ok (other.trainer, error);
  nf_test_ok (
      nf_trainer_evaluate (other.trainer, &(NfTrainBatch){ B, tiles, NULL, NULL }, FALSE, &got, &error),
      error);
  assert_true (got == wanted);
}

/* Tokens that MODEL makes of the latents that DATA begins with, behind them. */
static gboolean
draw (NfModel *model, gpointer data, GError **error)
{
  const NfDecodeOptions options = { 0 };
  g_autoptr (NfSession) session = nf_session_new (model, error);
  const gsize n = (gsize)nf_config_tokens (nf_model_get_config (model))
                  * nf_config_features (nf_model_get_config (model));
  return session && nf_session_decode (session, data, 1, NULL, &options, (float *)data + n, error);
}

/* Sessions see the model that would be written; the trainer then goes on as if there had been none. */
static void
test_used_model (void **state)
{
  const NfTrainOptions options = make_options ();
  for (guint i = 0; i < G_N_ELEMENTS (configs); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = nf_test_temporary (".safetensors");
      g_auto (Run) run = { 0 }, alone = { 0 };
      const gsize n = (gsize)nf_config_tokens (&configs[i]) * nf_config_features (&configs[i]);
      g_autofree float *values = g_new (float, 2 * n), *wanted = g_new (float, 2 * n);
      run_init (&run, i, &options);
      run_init (&alone, i, &options);
      steps (&run, 5);
      steps (&alone, 5);
      nf_random_normal (1, 0, n, 1, values);
      memcpy (wanted, values, n * sizeof *values);
      nf_test_ok (nf_trainer_use_model (run.trainer, draw, values, &error), error);
      nf_test_ok (nf_trainer_save_model (run.trainer, path, NULL, &error), error);
      g_autoptr (NfModel) saved = nf_model_load (path, nf_test_device ("cpu"), NULL, NULL, NULL, &error);
      g_unlink (path);
      nf_test_ok (saved, error);
      nf_test_ok (draw (saved, wanted, &error), error);
      assert_memory_equal (values, wanted, 2 * n * sizeof *values);
      steps (&run, 3);
      steps (&alone, 3);
      assert_same_state (&run, &alone);
    }
}

/* Whoever loads a file has the model of all who do, and would see it trained: only one's own is. */
static void
test_whose_model (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  g_auto (Run) run = { 0 };
  run_init (&run, 0, &options);
  nf_test_ok (nf_trainer_save_model (run.trainer, path, NULL, &error), error);

  NfDevice *device = nf_test_device ("cpu");
  g_autoptr (NfModel) model = nf_model_load (path, device, NULL, NULL, NULL, &error),
                      same = nf_model_load (path, device, NULL, NULL, NULL, &error),
                      own = nf_model_load_unshared (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model && same && own, error);
  assert_ptr_equal (model, same);
  assert_ptr_not_equal (own, model);
  assert_null (nf_trainer_new (model, &options, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT));
  assert_non_null (strstr (error->message, path));
  g_clear_error (&error);
  g_autoptr (NfTrainer) trainer = nf_trainer_new (own, &options, &error);
  nf_test_ok (trainer, error);
  g_clear_object (&model);
  g_clear_object (&same);

  /* nor is one that is being trained handed out */
  model = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (model, error);
  g_autoptr (NfTrainer) other = nf_trainer_new (model, &options, &error);
  nf_test_ok (other, error);
  same = nf_model_load (path, device, NULL, NULL, NULL, &error);
  nf_test_ok (same, error);
  assert_ptr_not_equal (same, model);
  g_unlink (path);
}

static void
assert_not_restored (Run *run, const char *path, int code, const char *part)
{
  g_autoptr (GError) error = NULL;
  assert_false (nf_trainer_restore (run->trainer, path, &error));
  if (!g_error_matches (error, NF_ERROR, code) || !strstr (error->message, part)
      || !strstr (error->message, path))
    fail_msg ("\"%s\" does not speak of %s", error->message, part);
}

/* PATH again with one tensor's first value another one, or without it. */
static void
rewrite (const char *path, const char *name, gboolean keep, float first)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  g_autofree NfTensor *tensors = g_new (NfTensor, nf_tensor_file_count (file));
  g_autofree guint8 *bytes = NULL;
  guint n = 0;
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      NfTensor tensor = *nf_tensor_file_get (file, i);
      if (strcmp (tensor.name, name) == 0)
        {
          if (!keep)
            continue;
          bytes = g_memdup2 (tensor.data, tensor.n_elements * nf_dtype_size (tensor.dtype));
          if (tensor.dtype == NF_DTYPE_F64)
            ((double *)(gpointer)bytes)[0] = (double)first;
          else
            ((float *)(gpointer)bytes)[0] = first;
          tensor.data = bytes;
        }
      tensors[n++] = tensor;
    }
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", (gpointer)nf_tensor_file_get_metadata (file, "config"));
  nf_test_ok (nf_tensor_file_write (path, tensors, n, metadata, &error), error);
}

static void
test_bad_checkpoints (void **state)
{
  static const struct
  {
    const char *tensor;
    gboolean keep;
    float first;
    int code;
  } wrong[] = { { "moment1", TRUE, NAN, NF_ERROR_DATA },     { "parameters", TRUE, NAN, NF_ERROR_DATA },
                { "moment1", TRUE, 3e38f, NF_ERROR_FORMAT }, { "moment2", TRUE, -1, NF_ERROR_FORMAT },
                { "moment2", FALSE, 0, NF_ERROR_FORMAT },    { "state", FALSE, 0, NF_ERROR_FORMAT },
                { "state", TRUE, 2.5f, NF_ERROR_FORMAT },    { "state", TRUE, 1, NF_ERROR_FORMAT } };
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint"), *bytes = NULL;
  g_auto (Run) run = { 0 }, other = { 0 }, untouched = { 0 };
  gsize size;
  run_init (&run, 0, &options);
  run_init (&untouched, 0, &options);
  run_init (&other, 2, &options);
  steps (&run, 2);
  steps (&untouched, 2);
  nf_test_ok (nf_trainer_save (run.trainer, path, &error), error);
  assert_not_restored (&other, path, NF_ERROR_CONFIG, "another model");

  nf_test_ok (g_file_get_contents (path, &bytes, &size, &error), error);
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      nf_test_ok (g_file_set_contents (path, bytes, (gssize)size, &error), error);
      rewrite (path, wrong[i].tensor, wrong[i].keep, wrong[i].first);
      assert_not_restored (&run, path, wrong[i].code, wrong[i].tensor);
    }
  nf_test_ok (g_file_set_contents (path, bytes, (gssize)size * 2 / 3, &error), error);
  assert_not_restored (&run, path, NF_ERROR_FORMAT, "truncated");
  g_unlink (path);
  assert_not_restored (&run, path, NF_ERROR_NOT_FOUND, "");

  /* nothing of any of them was taken up */
  steps (&run, 2);
  steps (&untouched, 2);
  assert_same_state (&run, &untouched);
}

/* The same configuration in other words is the same. */
static void
test_other_words (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  g_auto (Run) run = { 0 }, other = { 0 };
  run_init (&run, 0, &options);
  run_init (&other, 0, &options);
  steps (&run, 2);
  nf_test_ok (nf_trainer_save (run.trainer, path, &error), error);

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfConfig *config = nf_model_get_config (run.model);
  g_autofree char *number = g_strdup_printf ("\"layers_per_block\": %u,", config->n_layers),
                  *list = g_strdup_printf ("\"layers_per_block\" : [%u],", config->n_layers);
  g_autoptr (GString) json = g_string_new (nf_tensor_file_get_metadata (file, "config"));
  assert_int_equal (g_string_replace (json, number, list, 0), 1);
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", json->str);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  nf_test_ok (nf_tensor_file_write (path, tensors, n, metadata, &error), error);

  nf_test_ok (nf_trainer_restore (other.trainer, path, &error), error);
  assert_same_state (&run, &other);
  g_unlink (path);
}

static gpointer
ask_digest (gpointer model)
{
  return (gpointer)nf_model_get_digest (model);
}

/* Any thread may ask for a digest, and keep it: training makes another. */
static void
test_digest (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  GThread *threads[4];
  run_init (&run, 0, &options);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("digest", ask_digest, run.model);
  const char *digest = nf_model_get_digest (run.model);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    assert_ptr_equal (g_thread_join (threads[i]), digest);
  assert_int_equal (strlen (digest), 64);
  g_autofree char *copy = g_strdup (digest);
  steps (&run, 2);
  assert_string_not_equal (nf_model_get_digest (run.model), copy);
  steps (&run, 1);
  assert_string_equal (digest, copy);
}

static void
test_save_elsewhere (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_auto (Run) run = { 0 };
  run_init (&run, 0, &options);
  assert_false (nf_trainer_save (run.trainer, "/nowhere/at/all.checkpoint", &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_WRITE));
  assert_non_null (strstr (error->message, "/nowhere/at/all.checkpoint"));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_first_step),      cmocka_unit_test (test_variance),
    cmocka_unit_test (test_schedule),        cmocka_unit_test (test_learns),
    cmocka_unit_test (test_evaluate),        cmocka_unit_test (test_classes_as_text),
    cmocka_unit_test (test_captions),        cmocka_unit_test (test_captions_left_out),
    cmocka_unit_test (test_labels),          cmocka_unit_test (test_options),
    cmocka_unit_test (test_not_finite),      cmocka_unit_test (test_explosion),
    cmocka_unit_test (test_resume),          cmocka_unit_test (test_saved_model),
    cmocka_unit_test (test_bad_checkpoints), cmocka_unit_test (test_save_elsewhere),
    cmocka_unit_test (test_other_words),     cmocka_unit_test (test_digest),
    cmocka_unit_test (test_used_model),      cmocka_unit_test (test_whose_model),
  };
  return cmocka_run_group_tests_name ("trainer", tests, NULL, NULL);
}
