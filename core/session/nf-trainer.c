/* normflow: maximum-likelihood training. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-random.h"
#include "nf-score-private.h"
#include "nf-session-private.h"

#include <math.h>
#include <string.h>

#define EXPLOSION 20.0                    /* times the mean gradient norm: the step is skipped */
#define NORM_MEMORY 0.98                  /* of the running mean of gradient norms */
#define NORM_SETTLED 20                   /* steps before that mean is trusted */
#define VARIANCE_RATE 0.1                 /* of the prior's variance in volume-preserving models */
#define DROPOUT_STREAM ((guint64)1 << 62) /* random streams beside that of the noise, which is the step */
#define EVALUATE_STREAM ((guint64)1 << 63)
#define ACTION_STREAM ((guint64)3 << 61)
#define ERROR_STREAM ((guint64)5 << 60)

struct _NfTrainer
{
  GObject parent_instance;

  NfModel *model;
  NfFlow *flow;
  NfTrainOptions options;
  gsize n; /* parameters */

  NfBuffer *gradients, *m, *v, *average, *saved;
  NfBuffer *partial; /* of the gradient's norm */
  NfBuffer *tiles;   /* 8-bit */
  gsize tiles_size;
  NfBuffer *z;                /* of volume-preserving models, as many samples as go through at a time */
  NfBuffer *residual;         /* of the learned denoiser, as many samples as go through at a time */
  NfBuffer *residual_squares; /* parts of their sum */

  guint64 step;    /* seen */
  guint64 updates; /* made: less those skipped */
  double norm;     /* running mean */
  gboolean spoilt; /* the device failed while parameters changed: what it holds is none of a run */
};

G_DEFINE_FINAL_TYPE (NfTrainer, nf_trainer, G_TYPE_OBJECT)

NfOps *
nf_trainer_get_ops (NfTrainer *self)
{
  return nf_flow_get_ops (self->flow);
}

void
nf_train_options_init (NfTrainOptions *options)
{
  *options = (NfTrainOptions){
    .steps = 10000,
    .warmup = 100,
    .lr = 1e-4,
    .lr_min = 1e-6,
    .beta1 = 0.9,
    .beta2 = 0.95,
    .eps = 1e-8,
    .weight_decay = 1e-4,
  };
}

double
nf_loss_to_bits_per_dim (double loss)
{
  return (loss + NF_HALF_LOG_2PI) / G_LN2 + NF_SAMPLE_BITS;
}

static void
nf_trainer_finalize (GObject *object)
{
  NfTrainer *self = NF_TRAINER (object);
  NfBuffer **buffers[]
      = { &self->gradients, &self->m,     &self->v, &self->average,  &self->saved,
          &self->partial,   &self->tiles, &self->z, &self->residual, &self->residual_squares };

  for (guint i = 0; i < G_N_ELEMENTS (buffers); i++)
    g_clear_pointer (buffers[i], nf_buffer_free);
  g_clear_pointer (&self->flow, nf_flow_free);
  g_clear_object (&self->model);
  G_OBJECT_CLASS (nf_trainer_parent_class)->finalize (object);
}

static void
nf_trainer_class_init (NfTrainerClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_trainer_finalize;
}

static void
nf_trainer_init (NfTrainer *self)
{
}

static gboolean
check_options (const NfTrainOptions *o, GError **error)
{
  const struct
  {
    const char *name;
    double value, low, high;
  } ranges[] = {
    { "lr", o->lr, 0, 1 },
    { "lr_min", o->lr_min, 0, 1 },
    { "beta1", o->beta1, 0, 0.999999 },
    { "beta2", o->beta2, 0, 0.999999 },
    { "eps", o->eps, 1e-30, 1 },
    { "weight_decay", o->weight_decay, 0, 1 },
    { "clip", o->clip, 0, 1e30 },
    { "ema", o->ema, 0, 0.9999999 },
    { "label_dropout", o->label_dropout, 0, 1 },
    { "action_dropout", o->action_dropout, 0, 1 },
    { "context_errors", o->context_errors, 0, 1 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (ranges); i++)
    if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                     "training option %s is %g; it must lie between %g and %g", ranges[i].name,
                     ranges[i].value, ranges[i].low, ranges[i].high);
        return FALSE;
      }
  return TRUE;
}

gboolean
nf_trainer_check (const NfConfig *config, const NfTrainOptions *options, GError **error)
{
  g_return_val_if_fail (config && options, FALSE);
  if (!check_options (options, error))
    return FALSE;
  if (config->layout == NF_PIXELS_LATENT)
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                           "a model of another model's latents cannot be trained");
      return FALSE;
    }
  if (options->context_errors > 0 && !(config->frames && config->temporal_causal && config->sos))
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "training option context_errors is %g: errors of the past need a model of videos whose deep "
          "block sees frame after frame (frames, temporal_causal) and has a start token (sos)",
          options->context_errors);
      return FALSE;
    }
  if (config->denoiser_layers && !nf_config_is_noisy (config))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "the model has a learned denoiser (learnable_self_denoiser), which learns from Gaussian "
                   "noise: noise_type must be gaussian and noise_std above 0");
      return FALSE;
    }
  return TRUE;
}

NfTrainer *
nf_trainer_new (NfModel *model, const NfTrainOptions *options, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (model) && options, NULL);
  g_autoptr (NfTrainer) self = g_object_new (NF_TYPE_TRAINER, NULL);
  self->model = g_object_ref (model);
  self->options = *options;
  self->n = nf_model_count_parameters (model);
  if (!nf_trainer_check (nf_model_get_config (model), options, error)
      || !nf_model_check_gradients (model, error) || !nf_model_make_private (model, error))
    return NULL;
  self->flow = nf_model_need_theta (model, error) ? nf_flow_new (model, error) : NULL;
  const guint at_a_time = self->flow ? nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error) : 0;
  if (at_a_time == 0 || !nf_ops_list_gradients (nf_flow_get_ops (self->flow), error))
    return NULL;

  NfOps *ops = nf_flow_get_ops (self->flow);
  const NfSampleShape *shape = nf_model_get_shape (model);
  if (!nf_model_get_config (model)->nvp)
    self->z = nf_ops_alloc (ops, (gsize)at_a_time * shape->N * shape->D);
  if (nf_model_get_denoiser (model))
    {
      const guint batch = nf_flow_prepare (self->flow, NF_FLOW_DENOISER_GRADIENTS, error);
      const gsize n = (gsize)batch * shape->N * shape->D;
      if (batch == 0)
        return NULL;
      self->residual = nf_ops_alloc (ops, n);
      self->residual_squares = nf_ops_alloc (ops, nf_ops_sum_parts (n));
    }
  self->gradients = nf_ops_alloc (ops, self->n);
  self->m = nf_ops_alloc (ops, self->n);
  self->v = nf_ops_alloc (ops, self->n);
  self->partial = nf_ops_alloc (ops, nf_ops_sum_parts (self->n));
  if (options->ema > 0)
    {
      self->average = nf_ops_alloc (ops, self->n);
      if (self->average)
        nf_ops_copy (ops, nf_view (nf_model_get_theta (model), 0), nf_view (self->average, 0), self->n);
    }
  return nf_ops_finish (ops, error) ? g_steal_pointer (&self) : NULL;
}

static gboolean
check_whole (NfTrainer *self, GError **error)
{
  if (!self->spoilt)
    return TRUE;
  g_set_error_literal (error, NF_ERROR, NF_ERROR_DEVICE,
                       "the device failed while parameters were being changed, so they are lost: nothing is "
                       "trained with them or written; go on from the last checkpoint (normflow train "
                       "--resume, nf_trainer_restore())");
  return FALSE;
}

guint64
nf_trainer_get_step (NfTrainer *self)
{
  g_return_val_if_fail (NF_IS_TRAINER (self), 0);
  return self->step;
}

/* Data */

static gboolean
upload_tiles (NfTrainer *self, const NfTrainBatch *batch, NfPlanes *planes, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = (gsize)batch->B * nf_config_frames (config);
  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint width = nf_config_columns (config), height = nf_config_rows (config),
              halves = config->layout == NF_PIXELS_YUV420 ? 2 : 1;
  const gsize bytes = nf_config_tile_bytes (config), luma = (gsize)width * height,
              chroma = luma / (halves * halves);

  if (n * bytes > self->tiles_size)
    {
      g_clear_pointer (&self->tiles, nf_buffer_free);
      self->tiles_size = n * bytes;
      self->tiles = nf_ops_alloc (ops, (self->tiles_size + 3) / 4);
      if (!self->tiles)
        {
          self->tiles_size = 0;
          return nf_ops_finish (ops, error);
        }
    }
  nf_ops_write (ops, nf_view (self->tiles, 0), batch->tiles, n * bytes);
  *planes = (NfPlanes){
    .bytes = self->tiles,
    .at = { 0, luma, luma + chroma },
    .stride = { (gint)width, (gint)(width / halves), (gint)(width / halves) },
    .step = { 1, 1, 1 },
    .width = width,
    .height = height,
    .chroma_height = height / halves,
    .tiles_x = 1,
    .tile_bytes = bytes,
  };
  return TRUE;
}

/* Noisy tokens of samples first .. first+count-1 into the flow's input, and what conditions them. */
static void
set_input (NfTrainer *self, const NfPlanes *planes, const NfTrainBatch *batch, guint first, guint count,
           guint64 stream)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint frames = nf_config_frames (config);
  const NfFlowCondition condition = {
    .labels = batch->labels ? batch->labels + first : NULL,
    .text = batch->text ? batch->text + (gsize)first * config->txt_size * config->txt_dim : NULL,
    .actions = batch->actions ? batch->actions + (gsize)first * frames * config->action_dim : NULL,
  };
  nf_ops_pixels_to_tokens (nf_flow_get_ops (self->flow), planes, nf_model_get_tokens (self->model),
                           first * frames, count * frames,
                           config->noise == NF_NOISE_UNIFORM ? NF_DEQUANTISE_UNIFORM : NF_DEQUANTISE_GAUSSIAN,
                           (float)config->noise_std, self->options.seed, stream, NULL,
                           nf_view (nf_flow_get_input (self->flow), 0));
  nf_flow_set_condition (self->flow, &condition, count, 1);
}

/* Adds the sums of half squares and log-determinants of COUNT samples; waits. */
static gboolean
add_sums (NfTrainer *self, guint count, double sums[2], GError **error)
{
  NfOps *ops = nf_flow_get_ops (self->flow);
  const gsize n = (gsize)count * nf_model_get_shape (self->model)->N;
  g_autofree float *half_square = g_new (float, n), *log_det = g_new (float, n);

  nf_ops_read_later (ops, nf_view (nf_flow_get_half_square (self->flow), 0), half_square,
                     n * sizeof *half_square);
  nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), log_det, n * sizeof *log_det);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  for (gsize i = 0; i < n; i++)
    {
      sums[0] += (double)half_square[i];
      sums[1] += (double)log_det[i];
    }
  return TRUE;
}

static gboolean
check_batch (NfTrainer *self, const NfTrainBatch *batch, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = (gsize)batch->B * nf_config_frames (config) * config->action_dim;
  const guint classes = nf_config_classes (config);
  if (batch->B < 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "a batch of 0 samples is empty");
      return FALSE;
    }
  for (guint i = 0; batch->labels && !batch->text && i < batch->B; i++)
    if (batch->labels[i] < -1 || batch->labels[i] >= (gint)MAX (classes, 1))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                     "class %d is out of range: the model has %u classes (-1 is none)", batch->labels[i],
                     classes);
        return FALSE;
      }
  const gsize text = (gsize)config->txt_size * config->txt_dim;
  if ((batch->text || batch->null_text) && !text)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "the model sees no text (txt_size is 0)");
      return FALSE;
    }
  if ((batch->text && !nf_session_check_finite ("text features", batch->text, batch->B * text, error))
      || (batch->null_text
          && !nf_session_check_finite ("text features of none", batch->null_text, text, error)))
    return FALSE;
  if (batch->actions && !config->action_dim)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "the model knows no actions (action_dim is 0)");
      return FALSE;
    }
  for (gsize i = 0; batch->actions && i < n; i++)
    if (!isfinite (batch->actions[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "an action of sample %" G_GSIZE_FORMAT " is not finite",
                     i / (n / batch->B));
        return FALSE;
      }
  return TRUE;
}

/* Labels with some of them dropped, of texts at least whether there are any; NULL if there are none. */
static gint *
drop_labels (NfTrainer *self, const NfTrainBatch *batch)
{
  if (!batch->labels && !batch->text)
    return NULL;
  gint *kept = g_new0 (gint, batch->B);
  if (batch->labels)
    memcpy (kept, batch->labels, batch->B * sizeof *kept);
  for (guint i = 0; i < batch->B; i++)
    if (nf_random_uniform (self->options.seed, DROPOUT_STREAM | self->step, i) < self->options.label_dropout)
      kept[i] = -1;
  return kept;
}

/* Texts with what says nothing in the place of those without one of LABELS (nullable); NULL if nothing is
 * told. */
static float *
tell (NfTrainer *self, const NfTrainBatch *batch, const gint *labels)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize one = (gsize)config->txt_size * config->txt_dim;
  if (!batch->text && (!batch->null_text || (labels && nf_config_classes (config) > 0)))
    return NULL;
  float *told = g_new0 (float, batch->B *one);
  for (guint i = 0; i < batch->B; i++)
    {
      const float *text
          = batch->text && !(labels && labels[i] < 0) ? batch->text + i * one : batch->null_text;
      if (text)
        memcpy (told + i * one, text, one * sizeof *told);
      else if (config->txt_size == 1)
        told[(i + 1) * one - 1] = 1;
    }
  return told;
}

/* Actions without those of some samples; NULL if there are none. */
static float *
drop_actions (NfTrainer *self, const NfTrainBatch *batch)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = (gsize)nf_config_frames (config) * config->action_dim;
  if (!batch->actions)
    return NULL;
  float *kept = g_memdup2 (batch->actions, batch->B * n * sizeof *kept);
  for (guint i = 0; i < batch->B; i++)
    if (nf_random_uniform (self->options.seed, ACTION_STREAM | self->step, i) < self->options.action_dropout)
      memset (kept + i * n, 0, n * sizeof *kept);
  return kept;
}

/* Patches of samples FIRST .. FIRST+COUNT-1 that are shown wrong: which, by which, and when. */
static GArray *
make_errors (NfTrainer *self, guint first, guint count)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint N = nf_config_tokens (config), F = nf_config_frames (config);
  const guint64 stream = ERROR_STREAM | self->step;
  GArray *errors = g_array_new (FALSE, FALSE, sizeof (NfSubstitute));
  for (guint i = 0; i < count * N && N > 1 && self->options.context_errors > 0; i++)
    {
      guint32 random[4];
      nf_random_u32x4 (self->options.seed, stream, (guint64)first * N + i, random);
      if (random[0] * 0x1p-32 >= self->options.context_errors)
        continue;
      const guint f = random[1] % F, to = i % N;
      const NfSubstitute error = { .b = i / N,
                                   .f = f,
                                   .count = 1 + random[2] % (F - f),
                                   .to = to,
                                   .from = (to + 1 + random[3] % (N - 1)) % N };
      g_array_append_val (errors, error);
    }
  return errors;
}

/* A step */

/* As the official code: from lr_min to lr in the steps of warm-up, and back along a cosine. */
static double
learning_rate (NfTrainer *self)
{
  const NfTrainOptions *o = &self->options;
  if (self->step < o->warmup)
    return o->lr_min + (o->lr - o->lr_min) * (double)self->step / (double)o->warmup;
  const double done = (double)(self->step - o->warmup),
               all = (double)MAX (o->steps - MIN (o->steps, o->warmup), 1);
  return o->lr_min + 0.5 * (o->lr - o->lr_min) * (1 + cos (G_PI * MIN (done / all, 1)));
}

/* Adds the squares of N values to SUM; waits. */
static gboolean
add_squares (NfTrainer *self, NfBuffer *values, gsize n, NfBuffer *parts, double *sum, GError **error)
{
  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint n_parts = nf_ops_sum_parts (n);
  g_autofree float *partial = g_new (float, n_parts);

  nf_ops_sum_squares (ops, nf_view (values, 0), n, parts);
  if (!nf_ops_read (ops, nf_view (parts, 0), partial, n_parts * sizeof *partial, error))
    return FALSE;
  for (guint i = 0; i < n_parts; i++)
    *sum += (double)partial[i];
  return TRUE;
}

/* Flow-score matching, after nf_flow_backward(), without substitutes, of COUNT of the samples that have
 * DIMENSIONS values in all: the output holds the gradient of their mean negative log-likelihood, and the
 * input is still there. Adds the squared residuals to SQUARES and the gradients of their mean to those of the
 * step. */
static gboolean
learn_denoiser (NfTrainer *self, guint count, double dimensions, double *squares, GError **error)
{
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const gsize n = (gsize)count * shape->N * shape->D;
  const double sigma = nf_model_get_config (self->model)->noise_std;
  NfOps *ops = nf_flow_get_ops (self->flow);
  const NfView residual = nf_view (self->residual, 0);

  nf_ops_copy (ops, nf_view (nf_flow_get_output (self->flow), 0), residual, n);
  nf_flow_run_denoiser (self->flow, count);
  const NfView output = nf_view (nf_flow_get_output (self->flow), 0);
  nf_ops_denoise (ops, output, residual, residual,
                  (float)(sigma * sigma / NF_FLOW_DENOISER_CONSTANT * dimensions), n);
  if (!add_squares (self, self->residual, n, self->residual_squares, squares, error))
    return FALSE;
  nf_ops_fill (ops, output, 0.0f, n);
  nf_ops_denoise (ops, output, residual, output, (float)(-2 / dimensions), n);
  nf_flow_denoiser_backward (self->flow, count, self->gradients);
  return TRUE;
}

static void
update (NfTrainer *self, double norm, double lr)
{
  const NfTrainOptions *o = &self->options;
  NfOps *ops = nf_flow_get_ops (self->flow);
  const double t = (double)++self->updates;
  /* the average forgets its beginning */
  const double ema = MIN (o->ema, (1 + t) / (10 + t));
  const NfAdamW adamw = {
    .theta = nf_model_get_theta (self->model),
    .grad = self->gradients,
    .m = self->m,
    .v = self->v,
    .average = self->average,
    .n = self->n,
    .clip = o->clip > 0 && norm > o->clip ? (float)(o->clip / norm) : 1.0f,
    .lr = (float)lr,
    .beta1 = (float)o->beta1,
    .beta2 = (float)o->beta2,
    .fix1 = (float)(1 / (1 - pow (o->beta1, t))),
    .fix2 = (float)(1 / (1 - pow (o->beta2, t))),
    .eps = (float)o->eps,
    .decay = (float)o->weight_decay,
    .ema = self->average ? (float)ema : -1.0f,
  };
  nf_ops_adamw (ops, &adamw);
  nf_model_repack (self->model, ops);
}

/* Adds the squares of the step's z, of COUNT samples, to those of each latent of a frame; waits. */
static gboolean
add_latents (NfTrainer *self, guint count, double *square, GError **error)
{
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const gsize n = (gsize)count * shape->N * shape->D, latents = (gsize)shape->frame * shape->D;
  g_autofree float *z = g_new (float, n);
  if (!nf_ops_read (nf_flow_get_ops (self->flow), nf_view (self->z, 0), z, n * sizeof *z, error))
    return FALSE;
  for (gsize i = 0; i < n; i++)
    square[i % latents] += (double)z[i] * (double)z[i];
  return TRUE;
}

/* The prior's variance of a volume-preserving model follows the mean square of z, which the weights before
 * the update gave (Zhai et al., official code: lerp by 0.1). SQUARE has the sums of B samples. */
static void
follow_variance (NfTrainer *self, const double *square, guint B)
{
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const gsize n = (gsize)shape->frame * shape->D;
  const double count = (double)B * shape->N / shape->frame;
  const float *old = nf_model_get_variance (self->model);
  g_autofree float *variance = g_new (float, n);
  for (gsize i = 0; i < n; i++)
    variance[i] = (float)((1 - VARIANCE_RATE) * (double)old[i] + VARIANCE_RATE * square[i] / count);
  nf_model_set_variance (self->model, nf_flow_get_ops (self->flow), variance);
}

/* What the prior's variance adds to a loss that takes N(0, I) for the prior, in nats per dimension. SQUARE
 * has the sums of B samples. */
static double
loss_of_variance (NfTrainer *self, const double *square, guint B)
{
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const gsize n = (gsize)shape->frame * shape->D;
  const double count = (double)B * shape->N / shape->frame;
  const float *variance = nf_model_get_variance (self->model);
  double sum = 0;
  for (gsize i = 0; i < n; i++)
    {
      const double deviation = (double)nf_model_deviation (variance[i]);
      sum += 0.5 * square[i] / count * (1 / (deviation * deviation) - 1) + log (deviation);
    }
  return sum / (double)n;
}

/* Loss and gradients of a step, and the sums of squares of its z for follow_variance(). */
static gboolean
add_gradients (NfTrainer *self, const NfPlanes *planes, const NfTrainBatch *batch, double *loss,
               double *denoiser_loss, double *square, GError **error)
{
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const double dimensions = (double)batch->B * shape->N * shape->D;
  const guint at_a_time = nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error);
  NfOps *ops = nf_flow_get_ops (self->flow);
  double sums[2] = { 0, 0 }, squares = 0;
  if (at_a_time == 0)
    return FALSE;

  nf_ops_fill (ops, nf_view (self->gradients, 0), 0.0f, self->n);
  for (guint first = 0; first < batch->B; first += at_a_time)
    {
      const guint count = MIN (at_a_time, batch->B - first);
      set_input (self, planes, batch, first, count, self->step);
      g_autoptr (GArray) errors = make_errors (self, first, count);
      nf_flow_set_substitutes (self->flow, (const NfSubstitute *)(gconstpointer)errors->data, errors->len);
      nf_flow_backward (self->flow, count, (float)(1 / dimensions), self->z, self->gradients);
      nf_flow_set_substitutes (self->flow, NULL, 0);
      if (!add_sums (self, count, sums, error) || (self->z && !add_latents (self, count, square, error)))
        return FALSE;
      /* the denoiser sees the frames as they are, and the score of those is not that under a wrong past */
      if (self->residual && errors->len > 0)
        nf_flow_backward (self->flow, count, (float)(1 / dimensions), NULL, NULL);
      if (self->residual && !learn_denoiser (self, count, dimensions, &squares, error))
        return FALSE;
    }
  *loss = (sums[0] - sums[1]) / dimensions;
  *denoiser_loss = self->residual ? squares / dimensions : (double)NAN;
  return TRUE;
}

gboolean
nf_trainer_step (NfTrainer *self, const NfTrainBatch *batch, NfTrainReport *report, GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && batch && batch->tiles && report, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  NfPlanes planes;
  double loss, squares = 0;
  if (!check_whole (self, error) || !check_batch (self, batch, error)
      || !upload_tiles (self, batch, &planes, error))
    return FALSE;

  g_autofree gint *labels = drop_labels (self, batch);
  g_autofree float *actions = drop_actions (self, batch);
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  g_autofree double *square = self->z ? g_new0 (double, (gsize)shape->frame * shape->D) : NULL;
  g_autofree float *text = tell (self, batch, labels);
  const NfTrainBatch kept = { batch->B, batch->tiles, labels, actions, text, NULL };
  if (!add_gradients (self, &planes, &kept, &loss, &report->denoiser_loss, square, error)
      || !add_squares (self, self->gradients, self->n, self->partial, &squares, error))
    return FALSE;

  /* before the variance follows this batch */
  report->nll = loss + (self->z ? loss_of_variance (self, square, batch->B) : 0);
  const double norm = sqrt (squares), lr = learning_rate (self);
  const gboolean exploded = isfinite (norm) && self->updates >= NORM_SETTLED && norm > EXPLOSION * self->norm;
  report->skipped = !isfinite (loss) || !isfinite (norm) || exploded;
  if (!report->skipped)
    {
      update (self, norm, lr);
      if (self->z)
        follow_variance (self, square, batch->B);
    }
  /* an exploded norm counts as the limit: what stays large is soon not an explosion any more */
  if (!report->skipped || exploded)
    self->norm = self->norm == 0
                     ? norm
                     : NORM_MEMORY * self->norm + (1 - NORM_MEMORY) * MIN (norm, EXPLOSION * self->norm);
  self->step++;
  report->step = self->step;
  report->loss = loss;
  report->bits_per_dim
      = config->noise == NF_NOISE_UNIFORM ? nf_loss_to_bits_per_dim (report->nll) : (double)NAN;
  report->grad_norm = norm;
  report->lr = lr;
  self->spoilt = !nf_ops_finish (nf_flow_get_ops (self->flow), error);
  return !self->spoilt;
}

static gboolean
evaluate (NfTrainer *self, const NfTrainBatch *given, double *nll, GError **error)
{
  g_autofree float *text = tell (self, given, given->labels);
  const NfTrainBatch told = { given->B, given->tiles, given->labels, given->actions, text, NULL },
                     *batch = &told;

  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const guint at_a_time = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error);
  NfPlanes planes;
  double sums[2] = { 0, 0 };
  if (at_a_time == 0 || !upload_tiles (self, batch, &planes, error))
    return FALSE;

  for (guint first = 0; first < batch->B; first += at_a_time)
    {
      const guint count = MIN (at_a_time, batch->B - first);
      set_input (self, &planes, batch, first, count, EVALUATE_STREAM);
      nf_flow_forward (self->flow, count, NULL);
      nf_flow_standardise (self->flow, count);
      if (!add_sums (self, count, sums, error))
        return FALSE;
    }
  double log_deviation = 0; /* of a frame */
  for (guint i = 0; i < shape->frame; i++)
    log_deviation += (double)nf_model_get_log_deviations (self->model)[i];
  *nll = (sums[0] - sums[1]) / ((double)batch->B * shape->N * shape->D)
         + log_deviation / ((double)shape->frame * shape->D);
  return TRUE;
}

/* Puts FROM in the place of the model's parameters. */
static void
set_theta (NfTrainer *self, NfBuffer *from)
{
  NfOps *ops = nf_flow_get_ops (self->flow);
  nf_ops_copy (ops, nf_view (from, 0), nf_view (nf_model_get_theta (self->model), 0), self->n);
  nf_model_repack (self->model, ops);
}

gboolean
nf_trainer_use_model (NfTrainer *self, NfTrainerFunc func, gpointer data, GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && func, FALSE);
  NfOps *ops = nf_flow_get_ops (self->flow);
  if (!check_whole (self, error))
    return FALSE;
  if (!self->average)
    return func (self->model, data, error);

  if (!self->saved)
    self->saved = nf_ops_alloc (ops, self->n);
  if (!self->saved)
    return nf_ops_finish (ops, error);
  nf_ops_copy (ops, nf_view (nf_model_get_theta (self->model), 0), nf_view (self->saved, 0), self->n);
  /* there is a copy before anything is put in their place */
  if (!nf_ops_finish (ops, error))
    return FALSE;
  set_theta (self, self->average);
  /* sessions have queues of their own */
  const gboolean used = nf_ops_finish (ops, error) && func (self->model, data, error);
  if (!used)
    nf_ops_finish (ops, NULL); /* a failure that is still kept would drop the way back */
  set_theta (self, self->saved);
  self->spoilt = !nf_ops_finish (ops, used ? error : NULL);
  return used && !self->spoilt;
}

typedef struct
{
  NfTrainer *self;
  const NfTrainBatch *batch;
  double *nll;
} Evaluation;

static gboolean
evaluate_model (NfModel *model, gpointer data, GError **error)
{
  const Evaluation *evaluation = data;
  return evaluate (evaluation->self, evaluation->batch, evaluation->nll, error);
}

gboolean
nf_trainer_evaluate (NfTrainer *self, const NfTrainBatch *batch, gboolean use_ema, double *nll,
                     GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && batch && batch->tiles && nll, FALSE);
  if (!check_whole (self, error) || !check_batch (self, batch, error))
    return FALSE;
  return use_ema ? nf_trainer_use_model (self, evaluate_model, &(Evaluation){ self, batch, nll }, error)
                 : evaluate (self, batch, nll, error);
}

/* Checkpoints: values in the order of the list of parameters */

#define N_STATE 3 /* step, updates, norm */

static float *
download (NfTrainer *self, NfBuffer *buffer, const char *what, GError **error)
{
  g_autofree float *values = g_try_new (float, self->n);
  if (!values)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " values of %s",
                   self->n, what);
      return NULL;
    }
  if (!nf_ops_read (nf_flow_get_ops (self->flow), nf_view (buffer, 0), values, self->n * sizeof *values,
                    error))
    return NULL;
  for (gsize i = 0; i < self->n; i++)
    if (!isfinite (values[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s holds values that are not finite; nothing was written", what);
        return NULL;
      }
  return g_steal_pointer (&values);
}

gboolean
nf_trainer_save (NfTrainer *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && path, FALSE);
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const double state[N_STATE] = { (double)self->step, (double)self->updates, self->norm };
  const struct
  {
    const char *name;
    NfBuffer *buffer;
  } parts[] = { { "parameters", nf_model_get_theta (self->model) },
                { "moment1", self->m },
                { "moment2", self->v },
                { "average", self->average } };
  g_autoptr (GPtrArray) owned = g_ptr_array_new_with_free_func (g_free);
  NfTensor tensors[G_N_ELEMENTS (parts) + 2];
  guint n = 0;

  if (!check_whole (self, error))
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    {
      if (!parts[i].buffer)
        continue;
      g_autofree float *theta = download (self, parts[i].buffer, parts[i].name, error);
      float *values = theta ? g_try_new (float, self->n) : NULL;
      if (theta && !values)
        g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " values of %s",
                     self->n, parts[i].name);
      if (!values)
        return FALSE;
      nf_parameters_list (nf_model_get_parameters (self->model), theta, values);
      g_ptr_array_add (owned, values);
      tensors[n++] = (NfTensor){ .name = (char *)parts[i].name,
                                 .dtype = NF_DTYPE_F32,
                                 .n_dims = 1,
                                 .dims = { self->n },
                                 .n_elements = self->n,
                                 .data = (const guint8 *)values };
    }
  tensors[n++] = (NfTensor){ .name = (char *)"state",
                             .dtype = NF_DTYPE_F64,
                             .n_dims = 1,
                             .dims = { N_STATE },
                             .n_elements = N_STATE,
                             .data = (const guint8 *)state };
  tensors[n++] = (NfTensor){ .name = (char *)"var",
                             .dtype = NF_DTYPE_F32,
                             .n_dims = 2,
                             .dims = { shape->frame, shape->D },
                             .n_elements = (guint64)shape->frame * shape->D,
                             .data = (const guint8 *)nf_model_get_variance (self->model) };

  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  g_hash_table_insert (metadata, g_strdup ("format"), g_strdup ("normflow checkpoint"));
  g_hash_table_insert (metadata, g_strdup ("config"), nf_config_to_json (nf_model_get_config (self->model)));
  return nf_tensor_file_write (path, tensors, n, metadata, error);
}

static gboolean
read_part (NfTensorFile *file, const char *name, NfDtype dtype, guint64 n, gpointer out, GError **error)
{
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  if (!tensor || tensor->dtype != dtype || tensor->n_elements != n)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s is not a whole checkpoint: %s is %s",
                   nf_tensor_file_get_path (file), name, tensor ? "of the wrong type or size" : "missing");
      return FALSE;
    }
  if (dtype == NF_DTYPE_F64)
    nf_tensor_to_double (tensor, out);
  else
    nf_tensor_to_float (tensor, out);
  for (guint64 i = 0; i < n; i++)
    if (!isfinite (dtype == NF_DTYPE_F64 ? ((double *)out)[i] : (double)((float *)out)[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s holds values that are not finite",
                     nf_tensor_file_get_path (file), name);
        return FALSE;
      }
  return TRUE;
}

/* Counts and norm of a checkpoint, as nf_trainer_save() lists them. */
static gboolean
read_state (NfTensorFile *file, double state[N_STATE], GError **error)
{
  if (!read_part (file, "state", NF_DTYPE_F64, N_STATE, state, error))
    return FALSE;
  if (state[0] < 0 || state[1] < 0 || state[1] > state[0] || state[0] > 1e15 || state[0] != floor (state[0])
      || state[1] != floor (state[1]))
    g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: state says %g updates in %g steps",
                 nf_tensor_file_get_path (file), state[1], state[0]);
  else if (state[2] < 0)
    g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: state says a mean norm of %g",
                 nf_tensor_file_get_path (file), state[2]);
  else
    return TRUE;
  return FALSE;
}

gboolean
nf_trainer_saved_step (const char *path, guint64 *step, GError **error)
{
  g_return_val_if_fail (path && step, FALSE);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  double state[N_STATE];
  if (!file || !read_state (file, state, error))
    return FALSE;
  *step = (guint64)state[0];
  return TRUE;
}

/* LISTED values, as a checkpoint has them, into BUFFER. */
static void
take_up (NfTrainer *self, const float *listed, NfBuffer *buffer)
{
  g_autofree float *values = g_new (float, self->n);
  nf_parameters_unlist (nf_model_get_parameters (self->model), listed, values);
  nf_ops_write (nf_flow_get_ops (self->flow), nf_view (buffer, 0), values, self->n * sizeof *values);
}

gboolean
nf_trainer_restore (NfTrainer *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && path, FALSE);
  const NfSampleShape *shape = nf_model_get_shape (self->model);
  const gsize latents = (gsize)shape->frame * shape->D;
  NfOps *ops = nf_flow_get_ops (self->flow);
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  if (!file)
    return FALSE;
  const NfConfig *ours = nf_model_get_config (self->model);
  const char *json = nf_tensor_file_get_metadata (file, "config");
  if (!json)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s is no checkpoint of training: it has no configuration", path);
      return FALSE;
    }
  g_autoptr (NfConfig) theirs = nf_config_from_json (json, path, error);
  if (!theirs)
    return FALSE;
  if (!nf_config_equal (ours, theirs))
    {
      g_autofree char *is = nf_config_to_json (theirs), *wanted = nf_config_to_json (ours);
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s is a checkpoint of another model: %s, not %s", path,
                   is, wanted);
      return FALSE;
    }

  /* all of it is read and checked before any of it is taken up */
  double state[N_STATE];
  g_autofree float *theta = g_new (float, self->n), *m = g_new (float, self->n), *v = g_new (float, self->n),
                   *average = g_new (float, self->n), *variance = g_new (float, latents);
  if (!read_part (file, "parameters", NF_DTYPE_F32, self->n, theta, error)
      || !read_part (file, "moment1", NF_DTYPE_F32, self->n, m, error)
      || !read_part (file, "moment2", NF_DTYPE_F32, self->n, v, error)
      || (self->average && !read_part (file, "average", NF_DTYPE_F32, self->n, average, error))
      || !read_state (file, state, error) || !read_part (file, "var", NF_DTYPE_F32, latents, variance, error))
    return FALSE;
  /* what no step leaves, and another would make NaN of */
  for (gsize i = 0; i < self->n; i++)
    if (v[i] < 0 || m[i] * m[i] > FLT_MAX)
      {
        g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                     "%s: moment1 and moment2 of parameter %" G_GSIZE_FORMAT " are %g and %g", path, i,
                     (double)m[i], (double)v[i]);
        return FALSE;
      }
  take_up (self, theta, nf_model_get_theta (self->model));
  take_up (self, m, self->m);
  take_up (self, v, self->v);
  if (self->average)
    take_up (self, average, self->average);
  nf_model_set_variance (self->model, ops, variance);
  nf_model_repack (self->model, ops);
  self->step = (guint64)state[0];
  self->updates = (guint64)state[1];
  self->norm = state[2];
  self->spoilt = !nf_ops_finish (ops, error);
  return !self->spoilt;
}

gboolean
nf_trainer_save_model (NfTrainer *self, const char *path, GHashTable *metadata, GError **error)
{
  g_return_val_if_fail (NF_IS_TRAINER (self) && path, FALSE);
  if (!check_whole (self, error))
    return FALSE;
  g_autofree float *theta
      = download (self, self->average ? self->average : nf_model_get_theta (self->model), "the model", error);
  return theta && nf_model_write (self->model, theta, path, metadata, error);
}
