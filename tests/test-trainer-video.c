/* normflow: training on videos, with actions and a learned denoiser. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#define SAMPLES 3
#define FRAMES 3
#define ACTIONS 2

static const NfConfig video = {
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
  .noise = NF_NOISE_GAUSSIAN,
  .noise_std = 0.1,
  .family = NF_FAMILY_STARFLOW,
  .rope = TRUE,
  .sos = TRUE,
  .softplus = TRUE,
  .soft_clip = 4,
  .final_norm = TRUE,
  .cond_top_only = TRUE,
  .left_to_right = TRUE,
  .temporal_causal = 1,
  .shallow_local = TRUE,
  .denoiser_layers = 1,
  .frames = FRAMES,
  .action_dim = ACTIONS,
};

static NfTrainOptions
make_options (void)
{
  NfTrainOptions options;
  nf_train_options_init (&options);
  options.steps = 400;
  options.warmup = 0;
  options.lr = 5e-3;
  options.seed = 11;
  return options;
}

static NfModel *
make_model (const NfConfig *config)
{
  g_autoptr (GError) error = NULL;
  NfModel *model = nf_model_new (config, nf_test_device ("cpu"), 3, &error);
  nf_test_ok (model, error);
  return model;
}

static NfTrainer *
make_trainer (NfModel *model, const NfTrainOptions *options)
{
  g_autoptr (GError) error = NULL;
  NfTrainer *trainer = nf_trainer_new (model, options, &error);
  nf_test_ok (trainer, error);
  return trainer;
}

/* Frames whose brightness is what their own action says, and the actions, one-hot: everything is of (seed,
 * step). */
typedef struct
{
  guint8 tiles[SAMPLES * FRAMES * 64];
  float actions[SAMPLES * FRAMES * ACTIONS];
} Data;

static NfTrainBatch
make_data (Data *data, guint64 step)
{
  memset (data->actions, 0, sizeof data->actions);
  for (guint i = 0; i < SAMPLES * FRAMES; i++)
    {
      const guint action = nf_random_uniform (5, step, i) < 0.5;
      data->actions[i * ACTIONS + action] = 1;
      for (guint j = 0; j < 64; j++)
        data->tiles[i * 64 + j] = (guint8)((action ? 180 : 60) + j % 8);
    }
  return (NfTrainBatch){ .B = SAMPLES, .tiles = data->tiles, .actions = data->actions };
}

static NfTrainReport
step (NfTrainer *trainer)
{
  g_autoptr (GError) error = NULL;
  Data data;
  const NfTrainBatch batch = make_data (&data, nf_trainer_get_step (trainer));
  NfTrainReport report;
  nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
  assert_false (report.skipped);
  return report;
}

static GBytes *
state_of (NfTrainer *trainer)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  char *contents = NULL;
  gsize n = 0;
  nf_test_ok (nf_trainer_save (trainer, path, &error), error);
  nf_test_ok (g_file_get_contents (path, &contents, &n, &error), error);
  g_unlink (path);
  return g_bytes_new_take (contents, n);
}

static float *
parameters_of (NfTrainer *trainer, gsize n)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  nf_test_ok (nf_trainer_save (trainer, path, &error), error);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  g_unlink (path);
  nf_test_ok (file, error);
  const NfTensor *tensor = nf_tensor_file_lookup (file, "parameters");
  assert_int_equal (tensor->n_elements, n);
  float *values = g_new (float, n);
  nf_tensor_to_float (tensor, values);
  return values;
}

/* The noisy tokens of step 0: the trainer's noise is a pure function too (Box and Muller of two words). */
static float *
noisy_tokens (const Data *data, const NfTrainOptions *options)
{
  const gsize n = SAMPLES * FRAMES * 64;
  g_autofree float *images = g_new (float, n);
  float *x = g_new (float, n);
  for (gsize i = 0; i < n; i++)
    images[i] = (float)(data->tiles[i] / 127.5 - 1);
  nf_patchify (&video, images, SAMPLES * FRAMES, x);
  for (gsize i = 0; i < n; i++)
    {
      guint32 words[4];
      nf_random_u32x4 (options->seed, 0, (guint64)(i / 64) << 32 | i % 64, words);
      const double u1 = ((words[0] >> 8) + 0.5) * 0x1p-24, u2 = (words[1] >> 8) * 0x1p-24;
      x[i] += (float)(video.noise_std * sqrt (-2 * log (u1)) * cos (2 * G_PI * u2));
    }
  return x;
}

/* One step: the flow's gradients and the denoiser's are those that a session computes for the same noisy
 * tokens and actions, each apart. */
static void
test_gradients (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = make_model (&video);
  const gsize n = nf_model_count_parameters (model);
  g_autofree float *flow = g_new (float, n), *denoiser = g_new (float, n);
  Data data;
  double loss, denoiser_loss, norm = 0;
  make_data (&data, 0);
  g_autofree float *x = noisy_tokens (&data, &options);
  {
    g_autoptr (NfSession) session = nf_test_session (model);
    nf_test_ok (nf_session_set_actions (session, data.actions, SAMPLES, &error), error);
    nf_test_ok (nf_session_gradients (session, x, SAMPLES, NULL, &loss, NULL, flow, &error), error);
    nf_test_ok (nf_session_denoiser_gradients (session, x, SAMPLES, video.noise_std, NULL, &denoiser_loss,
                                               denoiser, &error),
                error);
  }
  guint of_flow = 0, of_denoiser = 0;
  for (gsize i = 0; i < n; i++)
    {
      assert_true (flow[i] == 0 || denoiser[i] == 0);
      of_flow += flow[i] != 0;
      of_denoiser += denoiser[i] != 0;
      norm += pow ((double)flow[i] + (double)denoiser[i], 2);
    }
  assert_true (of_flow > 0 && of_denoiser > 0);
  norm = sqrt (norm);

  g_autoptr (NfTrainer) trainer = make_trainer (model, &options);
  g_autofree float *before = parameters_of (trainer, n);
  const NfTrainReport report = step (trainer);
  g_autofree float *after = parameters_of (trainer, n);
  assert_true (fabs (report.loss - loss) < 1e-5 * fabs (loss));
  assert_true (fabs (report.denoiser_loss - denoiser_loss) < 1e-4 * denoiser_loss);
  if (!(fabs (report.grad_norm - norm) < 1e-3 * norm))
    fail_msg ("the norm is %g, not %g", report.grad_norm, norm);
  guint moved = 0;
  for (gsize i = 0; i < n; i++)
    {
      const double gradient = (double)flow[i] + (double)denoiser[i],
                   change = (double)after[i] - (double)before[i] * (1 - options.lr * options.weight_decay);
      if (fabs (gradient) < 1e-4)
        continue;
      moved++;
      if (fabs (change + copysign (options.lr, gradient)) > 0.01 * options.lr)
        fail_msg ("parameter %zu moved by %g, its gradient is %g", i, change, gradient);
    }
  assert_true (moved > n / 20);
}

static double
evaluate (NfTrainer *trainer, const NfTrainBatch *batch)
{
  g_autoptr (GError) error = NULL;
  double loss;
  nf_test_ok (nf_trainer_evaluate (trainer, batch, FALSE, &loss, &error), error);
  return loss;
}

/* What a video's text tells of it is learned, and a text that is left out is as none. */
static void
test_captions (void **state)
{
  NfConfig config = video;
  NfTrainOptions options = make_options ();
  config.action_dim = 0;
  config.txt_size = 2;
  config.txt_dim = 4;
  options.steps = 200;
  g_autoptr (NfModel) model = make_model (&config);
  g_autoptr (NfTrainer) trainer = make_trainer (model, &options);
  float text[2][SAMPLES * 8], null_text[8] = { 0 };
  guint8 tiles[SAMPLES * FRAMES * 64];
  NfTrainBatch batch = { .B = SAMPLES, .tiles = tiles, .null_text = null_text };
  null_text[0] = 1;
  for (guint64 s = 0; s <= options.steps; s++)
    {
      g_autoptr (GError) error = NULL;
      NfTrainReport report;
      for (guint i = 0; i < SAMPLES; i++)
        {
          const guint bright = nf_random_uniform (5, s, i) < 0.5;
          for (guint j = 0; j < 8; j++)
            text[0][8 * i + j] = (float)nf_random_uniform (6, bright, j) - 0.5f;
          for (guint j = 0; j < 8; j++)
            text[1][8 * i + j] = (float)nf_random_uniform (6, !bright, j) - 0.5f;
          memset (tiles + (gsize)i * FRAMES * 64, bright ? 180 : 60, (gsize)FRAMES * 64);
        }
      batch.text = text[0];
      if (s == options.steps)
        break;
      nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
      assert_true (!report.skipped && isfinite (report.denoiser_loss));
    }
  const double right = evaluate (trainer, &batch);
  batch.text = text[1];
  const double wrong = evaluate (trainer, &batch);
  batch.labels = (const gint[SAMPLES]){ -1, -1, -1 };
  const double left_out = evaluate (trainer, &batch);
  batch.text = NULL;
  batch.labels = NULL;
  const double none = evaluate (trainer, &batch);
  /* of the first frame: the second can be told from it */
  if (!(right < wrong - 0.1) || left_out != none)
    fail_msg ("%g with the text, %g with another, %g left out, %g with none", right, wrong, left_out, none);
}

/* Row t of the actions is what leads to frame t: a model that learned frames which their actions decide knows
 * them with the actions where they belong, not with those of a frame earlier or later; and it makes them. */
static void
test_action_rows (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = make_model (&video);
  g_autoptr (NfTrainer) trainer = make_trainer (model, &options);
  Data data;
  NfTrainReport report = { 0 };
  for (guint i = 0; i < options.steps; i++)
    report = step (trainer);

  float moved[SAMPLES * FRAMES * ACTIONS];
  NfTrainBatch batch = make_data (&data, 1000);
  const double right = evaluate (trainer, &batch);
  batch.actions = NULL;
  const double none = evaluate (trainer, &batch);
  for (int shift = -1; shift <= 1; shift += 2)
    {
      for (int i = 0; i < SAMPLES * FRAMES; i++)
        memcpy (moved + i * ACTIONS,
                data.actions + (i + shift + SAMPLES * FRAMES) % (SAMPLES * FRAMES) * ACTIONS,
                ACTIONS * sizeof *moved);
      batch.actions = moved;
      const double wrong = evaluate (trainer, &batch);
      if (!(right < wrong - 0.5 && right < none - 0.5))
        fail_msg ("%g with the actions, %g with those %+d, %g without", right, wrong, shift, none);
    }
  assert_true (isfinite (report.denoiser_loss));

  /* the action of the last frame decides that frame, and no other can be told from it */
  g_autoptr (NfSession) session = nf_test_session (model);
  const gsize n = FRAMES * 64;
  float z[FRAMES * 64] = { 0 }, x[FRAMES * 64], y[FRAMES * 64], means[ACTIONS];
  for (gsize i = 0; i < n; i++)
    x[i] = (float)(data.tiles[i] / 127.5
                   - 1); /* any pixels: what is given does not matter to the last frame */
  for (guint action = 0; action < ACTIONS; action++)
    {
      float actions[FRAMES * ACTIONS];
      memcpy (actions, data.actions, sizeof actions);
      actions[(FRAMES - 1) * ACTIONS] = action == 0;
      actions[(FRAMES - 1) * ACTIONS + 1] = action == 1;
      nf_test_ok (nf_session_set_actions (session, actions, 1, &error), error);
      nf_test_ok (nf_session_continue (session, x, 1, FRAMES - 1, z, NULL, y, &error), error);
      assert_memory_equal (x, y, (FRAMES - 1) * 64 * sizeof *x);
      means[action] = 0;
      for (gsize i = n - 64; i < n; i++)
        means[action] += y[i] / 64;
    }
  assert_true (means[0] < -0.2f && means[1] > 0.2f);
}

/* PARAMETERS, MOMENTS of a checkpoint (LISTED values), by name. */
static float *
read_values (const char *path, const char *name, gsize n)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, &error);
  nf_test_ok (file, error);
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  assert_int_equal (tensor->n_elements, n);
  float *values = g_new (float, n);
  nf_tensor_to_float (tensor, values);
  return values;
}

/* The checkpoint FROM with other parameters. */
static void
write_parameters (const char *from, const float *values, const char *to)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (from, &error);
  nf_test_ok (file, error);
  const guint n = nf_tensor_file_count (file);
  g_autofree NfTensor *tensors = nf_test_tensors (file);
  for (guint i = 0; i < n; i++)
    if (strcmp (tensors[i].name, "parameters") == 0)
      tensors[i].data = (const guint8 *)values;
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, (gpointer) "config", (gpointer)nf_tensor_file_get_metadata (file, "config"));
  nf_test_ok (nf_tensor_file_write (to, tensors, n, metadata, &error), error);
}

/* A step on frames whose patches differ from each other. */
static NfTrainReport
step_in_patches (NfTrainer *trainer)
{
  g_autoptr (GError) error = NULL;
  Data data;
  const NfTrainBatch batch = make_data (&data, nf_trainer_get_step (trainer));
  NfTrainReport report;
  for (guint i = 0; i < SAMPLES * FRAMES * 64; i++)
    data.tiles[i] = (guint8)(data.tiles[i] / 4 + 60 * (i % 8 / 4) + 110 * (i % 64 / 32));
  nf_test_ok (nf_trainer_step (trainer, &batch, &report, &error), error);
  assert_false (report.skipped);
  return report;
}

/* Errors of the past: the gradient of what the deep block says is that of the loss with these errors, by
 * differences along it: of all of it, of the product that reads the tokens,
 * and of their positions in a frame. */
static void
test_context_errors (void **state)
{
  NfConfig config = video;
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  config.denoiser_layers = 0;
  config.frame_positions = TRUE;
  /* weights of their size after some steps: proj_out begins as zeros, which hide everything before it */
  g_autofree char *start = nf_test_temporary (".checkpoint"), *stepped = nf_test_temporary (".checkpoint"),
                  *moved = nf_test_temporary (".checkpoint");
  g_autoptr (NfModel) model = make_model (&config);
  g_autoptr (NfTrainer) first = make_trainer (model, &options);
  for (guint i = 0; i < 40; i++)
    step_in_patches (first);
  nf_test_ok (nf_trainer_save (first, start, &error), error);

  options.context_errors = 0.7;
  options.beta1 = 0; /* the first moment is the gradient */
  options.clip = 0;
  g_autoptr (NfModel) other = make_model (&config);
  g_autoptr (NfTrainer) trainer = make_trainer (other, &options);
  const gsize n = nf_model_count_parameters (other);
  nf_test_ok (nf_trainer_restore (trainer, start, &error), error);
  const double loss = step_in_patches (trainer).loss;
  nf_test_ok (nf_trainer_save (trainer, stepped, &error), error);
  g_autofree float *parameters = read_values (start, "parameters", n),
                   *gradient = read_values (stepped, "moment1", n), *values = g_new (float, n);

  /* without errors the loss is another one */
  nf_test_ok (nf_trainer_restore (first, start, &error), error);
  const double clean = step_in_patches (first).loss;
  if (fabs (loss - clean) < 1e-4)
    fail_msg ("%g with errors, %g without", loss, clean);

  /* the deep block's parameters are listed last, and are like those of the block before, with positions and
   * actions besides; what goes on to that block through a wrong patch is left out, so that its gradient is
   * none of the loss */
  const gsize D = 16, d = 32, N = 4, deep = (n - (ACTIONS * d + d + N * d)) / 2, in = deep + D,
              positions = in + d * D + d;
  const gsize from[] = { deep, in, positions }, to[] = { n, positions, positions + N * d };
  for (guint part = 0; part < G_N_ELEMENTS (from); part++)
    {
      const double reach = 0.01;
      double norm = 0, losses[2];
      for (gsize i = from[part]; i < to[part]; i++)
        norm += (double)gradient[i] * (double)gradient[i];
      norm = sqrt (norm);
      for (guint side = 0; side < 2; side++)
        {
          memcpy (values, parameters, n * sizeof *values);
          for (gsize i = from[part]; i < to[part]; i++)
            values[i] += (float)((side ? reach : -reach) / norm * (double)gradient[i]);
          write_parameters (start, values, moved);
          nf_test_ok (nf_trainer_restore (trainer, moved, &error), error);
          losses[side] = step_in_patches (trainer).loss;
        }
      const double slope = (losses[1] - losses[0]) / (2 * reach);
      if (!(norm > 0) || fabs (slope - norm) > 0.02 * norm)
        fail_msg ("part %u: the loss rises by %g, its gradient says %g", part, slope, norm);
    }
  g_unlink (start);
  g_unlink (stepped);
  g_unlink (moved);
}

/* Errors of the past are the deep block's: the denoiser, which sees the frames as they are, learns from them
 * what it learns without. */
static void
test_denoiser_of_errors (void **state)
{
  static const double shares[] = { 0, 0.1, 0.7 };
  g_autoptr (GError) error = NULL;
  NfTrainOptions options = make_options ();
  NfTrainReport clean = { 0 };
  double unused;
  Data data;
  make_data (&data, 0);
  g_autofree char *start = nf_test_temporary (".checkpoint"), *stepped = nf_test_temporary (".checkpoint");
  g_autofree float *x = noisy_tokens (&data, &options), *without = NULL;
  /* weights of their size after some steps, as in test_context_errors() */
  g_autoptr (NfModel) model = make_model (&video);
  g_autoptr (NfTrainer) first = make_trainer (model, &options);
  for (guint i = 0; i < 40; i++)
    step_in_patches (first);
  nf_test_ok (nf_trainer_save (first, start, &error), error);
  const gsize n = nf_model_count_parameters (model);
  g_autofree float *denoiser = g_new (float, n); /* not 0 where it has its parameters */
  g_autoptr (NfSession) session = nf_test_session (model);
  nf_test_ok (
      nf_session_denoiser_gradients (session, x, SAMPLES, video.noise_std, NULL, &unused, denoiser, &error),
      error);

  options.beta1 = 0; /* the first moment is the gradient */
  options.clip = 0;
  for (guint share = 0; share < G_N_ELEMENTS (shares); share++)
    {
      options.context_errors = shares[share];
      g_autoptr (NfModel) other = make_model (&video);
      g_autoptr (NfTrainer) trainer = make_trainer (other, &options);
      nf_test_ok (nf_trainer_restore (trainer, start, &error), error);
      const NfTrainReport report = step_in_patches (trainer);
      nf_test_ok (nf_trainer_save (trainer, stepped, &error), error);
      g_autofree float *gradient = read_values (stepped, "moment1", n);
      guint moved[2] = { 0, 0 }, of_denoiser = 0;
      for (gsize i = 0; without && i < n; i++)
        {
          moved[denoiser[i] != 0] += gradient[i] != without[i];
          of_denoiser += denoiser[i] != 0;
        }
      if (without && (report.loss == clean.loss || moved[0] == 0))
        fail_msg ("a share of %g is no error of any patch", shares[share]);
      if (without && (report.denoiser_loss != clean.denoiser_loss || moved[1] > 0))
        fail_msg (
            "with a share of %g the denoiser's loss is %.9g, without %.9g; %u of its %u gradients differ",
            shares[share], report.denoiser_loss, clean.denoiser_loss, moved[1], of_denoiser);
      if (!without)
        {
          clean = report;
          without = g_steal_pointer (&gradient);
        }
    }
  g_unlink (start);
  g_unlink (stepped);
}

/* Samples lose all of their actions or none: with a share of 1 it is as if there were none. */
static void
test_action_dropout (void **state)
{
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) with = make_model (&video), without = make_model (&video);
  options.action_dropout = 1;
  g_autoptr (NfTrainer) dropping = make_trainer (with, &options);
  options.action_dropout = 0;
  g_autoptr (NfTrainer) other = make_trainer (without, &options);
  step (dropping);
  Data data;
  NfTrainBatch batch = make_data (&data, 0);
  NfTrainReport report;
  batch.actions = NULL;
  nf_test_ok (nf_trainer_step (other, &batch, &report, &error), error);
  g_autoptr (GBytes) a = state_of (dropping), b = state_of (other);
  assert_true (g_bytes_equal (a, b));
}

/* In bfloat16, and as many samples as go side by side: the first rows of the residual stream, floats, have
 * room where bfloat16 will be. */
static void
test_bf16_batch (void **state)
{
  enum
  {
    B = 2,
    SIDE = 64
  };
  static guint8 tiles[B * FRAMES * SIDE * SIDE];
  NfConfig config = video;
  NfTrainOptions options = make_options ();
  NfTrainReport reports[2];
  Data data;
  config.width = 128;
  config.img_size = SIDE;
  for (guint i = 0; i < G_N_ELEMENTS (tiles); i++)
    tiles[i] = (guint8)(i % 251);
  const float *actions = make_data (&data, 0).actions;
  const NfTrainBatch batch = { .B = B, .tiles = tiles, .actions = actions };
  static const char *const precisions[] = { "f32", "bf16" };
  for (guint i = 0; i < G_N_ELEMENTS (precisions); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *spec = g_strconcat ("cpu,precision=", precisions[i], NULL);
      g_autoptr (NfDevice) device = nf_device_open (spec, &error);
      nf_test_ok (device, error);
      g_autoptr (NfModel) model = nf_model_new (&config, device, 3, &error);
      nf_test_ok (model, error);
      g_autoptr (NfTrainer) trainer = make_trainer (model, &options);
      nf_test_ok (nf_trainer_step (trainer, &batch, &reports[i], &error), error);
    }
  assert_true (fabs (reports[1].loss - reports[0].loss) < 2e-2);
  assert_true (fabs (reports[1].grad_norm / reports[0].grad_norm - 1) < 2e-2);
}

/* A run that was saved and taken up again is the run that was not. */
static void
test_resume (void **state)
{
  NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".checkpoint");
  g_autoptr (NfModel) whole_model = make_model (&video), model = make_model (&video),
                      again = make_model (&video);
  options.action_dropout = 0.4;
  options.context_errors = 0.3;
  options.ema = 0.9;
  g_autoptr (NfTrainer) whole = make_trainer (whole_model, &options), first = make_trainer (model, &options),
                        second = make_trainer (again, &options);
  for (guint i = 0; i < 7; i++)
    step (whole);
  for (guint i = 0; i < 4; i++)
    step (first);
  nf_test_ok (nf_trainer_save (first, path, &error), error);
  step (second); /* which restoring forgets */
  nf_test_ok (nf_trainer_restore (second, path, &error), error);
  g_unlink (path);
  for (guint i = 0; i < 3; i++)
    step (second);
  g_autoptr (GBytes) a = state_of (whole), b = state_of (second);
  assert_true (g_bytes_equal (a, b));
}

static void
test_refusals (void **state)
{
  const NfTrainOptions options = make_options ();
  g_autoptr (GError) error = NULL;
  NfConfig config = video;
  NfTrainReport report;
  Data data;
  NfTrainBatch batch = make_data (&data, 0);

  config.noise = NF_NOISE_UNIFORM;
  g_autoptr (NfModel) uniform = make_model (&config);
  assert_null (nf_trainer_new (uniform, &options, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_CONFIG)
               && strstr (error->message, "learnable_self_denoiser"));
  g_clear_error (&error);

  config = video;
  config.action_dim = 0;
  g_autoptr (NfModel) deaf = make_model (&config);
  g_autoptr (NfTrainer) trainer = make_trainer (deaf, &options);
  assert_false (nf_trainer_step (trainer, &batch, &report, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_ARGUMENT) && strstr (error->message, "action_dim"));
  g_clear_error (&error);

  g_autoptr (NfModel) model = make_model (&video);
  g_autoptr (NfTrainer) other = make_trainer (model, &options);
  data.actions[FRAMES * ACTIONS] = (float)NAN;
  assert_false (nf_trainer_step (other, &batch, &report, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_DATA) && strstr (error->message, "sample 1"));
  assert_int_equal (nf_trainer_get_step (other), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_gradients),
    cmocka_unit_test (test_action_rows),
    cmocka_unit_test (test_action_dropout),
    cmocka_unit_test (test_bf16_batch),
    cmocka_unit_test (test_resume),
    cmocka_unit_test (test_refusals),
    cmocka_unit_test (test_context_errors),
    cmocka_unit_test (test_captions),
    cmocka_unit_test (test_denoiser_of_errors),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
