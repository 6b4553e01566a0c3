/* normflow: encode, decode, denoise, gradients. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"

#include <math.h>
#include <string.h>

G_DEFINE_FINAL_TYPE (NfSession, nf_session, G_TYPE_OBJECT)

static void
nf_session_finalize (GObject *object)
{
  NfSession *self = NF_SESSION (object);

  nf_staging_clear (&self->staging);
  g_clear_pointer (&self->drawn, nf_buffer_free);
  g_clear_pointer (&self->grid, nf_buffer_free);
  g_clear_pointer (&self->black, nf_buffer_free);
  g_clear_pointer (&self->flow, nf_flow_free);
  nf_missed_list_clear (&self->missed);
  g_free (self->shown.latents);
  g_array_unref (self->shown.corrections);
  g_free (self->half_square);
  g_free (self->log_det);
  g_free (self->misses);
  g_free (self->text);
  g_free (self->text_digest);
  g_free (self->text_path);
  g_free (self->null_text);
  g_free (self->actions);
  g_clear_object (&self->cancellable);
  g_clear_object (&self->model);
  G_OBJECT_CLASS (nf_session_parent_class)->finalize (object);
}

static void
nf_session_class_init (NfSessionClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_session_finalize;
}

static void
nf_session_init (NfSession *self)
{
  self->shown.corrections = g_array_new (FALSE, FALSE, sizeof (NfCorrection));
  self->text_at = -1;
  self->share = 1;
}

NfSession *
nf_session_new (NfModel *model, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (model), NULL);
  g_autoptr (NfFlow) flow = nf_flow_new (model, error);
  if (!flow)
    return NULL;

  NfSession *self = g_object_new (NF_TYPE_SESSION, NULL);
  self->model = g_object_ref (model);
  self->flow = g_steal_pointer (&flow);
  self->text_digest = nf_session_digest_text (nf_model_get_config (model), NULL, 0);
  return self;
}

NfOps *
nf_session_get_ops (NfSession *self)
{
  return nf_flow_get_ops (self->flow);
}

NfModel *
nf_session_get_model (NfSession *self)
{
  g_return_val_if_fail (NF_IS_SESSION (self), NULL);
  return self->model;
}

void
nf_session_set_cancellable (NfSession *self, GCancellable *cancellable)
{
  g_return_if_fail (NF_IS_SESSION (self));
  g_set_object (&self->cancellable, cancellable);
}

void
nf_session_set_progress (NfSession *self, NfProgressFunc progress, gpointer data)
{
  g_return_if_fail (NF_IS_SESSION (self));
  self->progress = progress;
  self->progress_data = data;
}

void
nf_session_get_stats (NfSession *self, NfSessionStats *stats)
{
  g_return_if_fail (NF_IS_SESSION (self) && stats);
  *stats = self->stats;
  stats->device_bytes = nf_device_get_allocated (nf_model_get_device (self->model));
}

gboolean
nf_session_go_on (NfSession *self, GError **error)
{
  if (!g_cancellable_is_cancelled (self->cancellable))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "the work was cancelled");
  return FALSE;
}

gboolean
nf_session_next_batch (NfSession *self, GError **error)
{
  NfOps *ops = nf_flow_get_ops (self->flow);
  nf_ops_pace (ops);
  if (nf_session_go_on (self, error))
    return TRUE;
  nf_ops_finish (ops, NULL);
  return FALSE;
}

gboolean
nf_session_tell_decode (gpointer data, guint done, guint all)
{
  NfDecodeProgress *progress = data;
  NfSession *self = progress->session;
  const gint64 now = g_get_monotonic_time ();
  progress->most = MAX (progress->most, (double)done / all);
  const double call = (progress->before + progress->batch * progress->most) / progress->all,
               fraction = self->before + self->share * call;

  if (self->progress && (now - self->last_progress >= NF_PROGRESS_INTERVAL || fraction >= 1))
    {
      self->last_progress = now;
      self->progress ("decode", fraction, self->progress_data);
    }
  return !g_cancellable_is_cancelled (self->cancellable);
}

gboolean
nf_session_check_labels (NfSession *self, const gint *labels, guint B, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  for (guint i = 0; labels && i < B; i++)
    {
      if (!nf_config_check_class (config, labels[i], error))
        return FALSE;
      if (labels[i] >= 0 && self->n_text > 0)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "class %d is given beside text features: a class of this model is its text",
                       labels[i]);
          return FALSE;
        }
    }
  return TRUE;
}

gboolean
nf_session_check_condition (NfSession *self, const gint *labels, guint B, GError **error)
{
  const struct
  {
    const char *what;
    guint n;
  } set[] = { { "text features", self->text_at < 0 ? self->n_text : 1 }, { "actions", self->n_actions } };
  for (guint i = 0; i < G_N_ELEMENTS (set); i++)
    if (set[i].n > 1 && set[i].n != B)
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s are of %u samples, but %u samples are given",
                     set[i].what, set[i].n, B);
        return FALSE;
      }
  return nf_session_check_labels (self, labels, B, error);
}

/* Rows of VALUES (n rows of WIDTH) of samples first .. first+count-1: themselves, or copies of a single one
 * in COPY. */
static const float *
select_rows (const float *values, guint n, gsize width, guint first, guint count, float **copy)
{
  if (!values || n == 0)
    return NULL;
  if (n > 1)
    return values + first * width;
  *copy = g_new (float, count *width);
  for (guint i = 0; i < count; i++)
    memcpy (*copy + i * width, values, width * sizeof *values);
  return *copy;
}

void
nf_session_condition (NfSession *self, const gint *labels, guint first, guint count, guint branches)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize text = (gsize)config->txt_size * config->txt_dim,
              actions = (gsize)shape->N / shape->frame * config->action_dim;
  const gsize at = self->text_at > 0 ? (gsize)self->text_at * text : 0;
  const guint n_text = self->text_at < 0 ? self->n_text : 1;
  g_autofree float *text_copy = NULL, *null_copy = NULL, *action_copy = NULL;
  NfFlowCondition condition = {
    .labels = labels ? labels + first : NULL,
    .text = select_rows (self->text ? self->text + at : NULL, n_text, text, first, count, &text_copy),
    .null_text
    = select_rows (self->null_text ? self->null_text + at : NULL, n_text, text, first, count, &null_copy),
    .actions = select_rows (self->actions, self->n_actions, actions, first, count, &action_copy),
  };
  nf_flow_set_condition (self->flow, &condition, count, branches);
}

static void
keep_floats (const float *values, gsize n, float **to)
{
  g_free (*to);
  *to = values ? g_memdup2 (values, n * sizeof *values) : NULL;
}

gboolean
nf_session_set_text (NfSession *self, const float *text, const float *null_text, guint B, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && (B > 0 || !text), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = (gsize)B * config->txt_size * config->txt_dim;
  if (text && !config->txt_size)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "text features are given, but the model sees no text");
      return FALSE;
    }
  /* what is there stays until what is new is known to be good */
  if (!text)
    null_text = NULL;
  if ((text && !nf_session_check_finite ("text features", text, n, error))
      || (null_text && !nf_session_check_finite ("text features of no caption", null_text, n, error)))
    return FALSE;
  keep_floats (text, n, &self->text);
  keep_floats (null_text, n, &self->null_text);
  g_free (self->text_digest);
  self->text_digest = nf_session_digest_text (config, text, B);
  g_clear_pointer (&self->text_path, g_free);
  self->n_text = text ? B : 0;
  self->text_at = -1;
  self->shown.valid = FALSE;
  return TRUE;
}

const char *
nf_session_get_text_digest (NfSession *self)
{
  g_return_val_if_fail (NF_IS_SESSION (self), NULL);
  return self->text_digest;
}

guint
nf_session_count_texts (NfSession *self)
{
  g_return_val_if_fail (NF_IS_SESSION (self), 0);
  return self->n_text;
}

void
nf_session_choose_text (NfSession *self, gint i)
{
  g_return_if_fail (NF_IS_SESSION (self) && i >= -1 && i < (gint)self->n_text);
  self->text_at = i;
  self->shown.valid = FALSE;
}

gboolean
nf_session_set_actions (NfSession *self, const float *actions, guint B, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && (B > 0 || !actions), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  if (actions && !config->action_dim)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "actions are given, but the model takes none");
      return FALSE;
    }
  const gsize n = (gsize)B * shape->N / shape->frame * config->action_dim;
  if (actions && !nf_session_check_finite ("actions", actions, n, error))
    return FALSE;
  keep_floats (actions, n, &self->actions);
  self->n_actions = actions ? B : 0;
  return TRUE;
}

gboolean
nf_session_set_size (NfSession *self, guint rows, guint columns, guint frames, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), FALSE);
  if (!nf_flow_set_size (self->flow, rows, columns, frames, error))
    return FALSE;
  self->n_actions = 0; /* which were those of so many frames */
  self->shown.valid = FALSE;
  return TRUE;
}

void
nf_session_get_decode_report (NfSession *self, NfDecodeReport *report)
{
  g_return_if_fail (NF_IS_SESSION (self) && report);
  *report = (NfDecodeReport){ self->report.passes, self->report.rows, self->report.residual, self->kept,
                              self->report.drafted };
}

guint
nf_session_share (guint all, guint limit)
{
  const guint times = (all + limit - 1) / limit;
  return times ? (all + times - 1) / times : limit;
}

NfDecodeOptions
nf_session_spend (const NfDecodeOptions *options, gint64 start)
{
  NfDecodeOptions left = *options;
  const double spent = (double)(g_get_monotonic_time () - start) / 1000;
  /* 0 would be no limit */
  if (left.budget_ms > 0)
    left.budget_ms = MAX (left.budget_ms - spent, G_MINDOUBLE);
  return left;
}

gboolean
nf_session_check_options (NfSession *self, const NfDecodeOptions *options, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  if (!nf_decode_options_check (options, config, error))
    return FALSE;
  if (config->family == NF_FAMILY_TARFLOW || options->guidance == 0)
    return TRUE;
  if (options->annealed || (options->guide && options->guide != (NF_GUIDE_SCALE | NF_GUIDE_SHIFT))
      || (options->attention_temperature != 0 && options->attention_temperature != 1)
      || options->guidance < 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "guidance of a STARFlow is positive and acts on scale and shift together, without "
                   "annealing or attention "
                   "temperature");
      return FALSE;
    }
  /* that of no class is known */
  if (config->txt_size && !self->null_text && (self->text || !nf_config_classes (config)))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "guidance needs the text features of no caption: %s%s",
                   self->text_path ? self->text_path : "",
                   self->text_path ? " lacks the tensor null_text"
                   : self->text    ? "text was set without them"
                                   : "no text is set, whose file has them in the tensor null_text");
      return FALSE;
    }
  return TRUE;
}

gboolean
nf_session_check_finite (const char *what, const float *x, gsize n, GError **error)
{
  for (gsize i = 0; i < n; i++)
    if (!isfinite (x[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s: value %" G_GSIZE_FORMAT " is %g, not a finite number", what, i, (double)x[i]);
        return FALSE;
      }
  return TRUE;
}

gboolean
nf_session_check_computed (NfModel *model, const char *what, const float *x, gsize n, GError **error)
{
  return nf_session_check_finite (what, x, n, NULL) || nf_model_refuse_computed (model, what, error);
}

/* Tokens */

/* What blocks say that change nothing. */
static void
fill_identities (const NfConfig *config, const float *x, gsize n, const NfTrace *trace)
{
  for (guint t = 0; t < config->n_blocks; t++)
    {
      if (!nf_config_is_identity (config, t))
        continue;
      if (trace->blocks)
        memcpy (trace->blocks + t * n, t ? trace->blocks + (t - 1) * n : x, n * sizeof *x);
      if (trace->log_scales)
        memset (trace->log_scales + t * n, 0, n * sizeof *x);
    }
}

gboolean
nf_session_encode_traced (NfSession *self, const float *x, guint B, const gint *labels, float *z,
                          const NfTrace *trace, GError **error)
{
  static const NfTrace nothing = { 0 };
  g_return_val_if_fail (NF_IS_SESSION (self) && x && z, FALSE);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize N = shape->N, n = N * shape->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error);
  trace = trace ? trace : &nothing;
  if (batch == 0 || !nf_session_check_condition (self, labels, B, error)
      || !nf_session_check_finite ("tokens", x, B * n, error))
    return FALSE;
  nf_flow_set_on_lattice (self->flow, NULL);

  NfOps *ops = nf_flow_get_ops (self->flow);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      const NfFlowTrace part = { .blocks = trace->blocks ? trace->blocks + first * n : NULL,
                                 .log_scales = trace->log_scales ? trace->log_scales + first * n : NULL,
                                 .stride = B * n };
      if (!nf_session_go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), x + first * n, count * n * sizeof *x);
      nf_session_condition (self, labels, first, count, 1);
      nf_flow_forward (self->flow, count, &part);
      if (trace->log_det)
        nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), trace->log_det + first * N,
                           count * N * sizeof (float));
      if (!nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), z + first * n,
                        count * n * sizeof *z, error))
        return FALSE;
    }
  fill_identities (nf_model_get_config (self->model), x, B * n, trace);
  return nf_session_check_computed (self->model, "latents", z, B * n, error);
}

gboolean
nf_session_encode (NfSession *self, const float *x, guint B, const gint *labels, float *z, float *blocks,
                   float *log_det, GError **error)
{
  const NfTrace trace = { .blocks = blocks, .log_det = log_det };
  return nf_session_encode_traced (self, x, B, labels, z, &trace, error);
}

gboolean
nf_session_decode (NfSession *self, const float *z, guint B, const gint *labels,
                   const NfDecodeOptions *options, float *x, GError **error)
{
  static const NfDecodeOptions plain = { 0 };
  g_return_val_if_fail (NF_IS_SESSION (self) && x && z, FALSE);
  options = options ? options : &plain;
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  const gboolean guided = options->guidance != 0;
  const gint64 start = g_get_monotonic_time ();
  if (!nf_session_check_condition (self, labels, B, error) || !nf_session_check_options (self, options, error)
      || !nf_session_check_finite ("latents", z, B * n, error))
    return FALSE;
  NfDecodeOptions how;
  const guint limit = nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error);
  if (limit == 0 || !nf_session_prepare_drawn (self, options, &how, error))
    return FALSE;
  nf_flow_set_on_lattice (self->flow, NULL);

  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint batch = nf_session_share (B, limit);
  self->report = (NfInverseReport){ 0 };
  self->kept = 0;
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      NfDecodeProgress progress = { self, first, count, B };
      if (!nf_session_go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), z + first * n, count * n * sizeof *z);
      nf_session_condition (self, labels, first, count, guided ? 2 : 1);
      const NfDecodeOptions rest = nf_session_spend (&how, start);
      if (!nf_flow_inverse (self->flow, count, &rest, 0, nf_session_tell_decode, &progress, &self->report,
                            error)
          || !nf_session_finish_drawn (self, &how, labels, first, count, error)
          || !nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), x + first * n,
                           count * n * sizeof *x, error))
        return FALSE;
    }
  return nf_session_check_computed (self->model, "decoded tokens", x, B * n, error);
}

gboolean
nf_session_add_gradients (NfSession *self, const float *x, guint B, const gint *labels, float g,
                          double sums[2], float *grad_x, NfBuffer *gradients, GError **error)
{
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize N = shape->N, n = N * shape->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error);
  if (batch == 0)
    return FALSE;
  nf_flow_set_on_lattice (self->flow, NULL);

  NfOps *ops = nf_flow_get_ops (self->flow);
  g_autofree float *half_square = g_new (float, batch *N), *log_det = g_new (float, batch *N);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      if (!nf_session_go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), x + first * n, count * n * sizeof *x);
      nf_session_condition (self, labels, first, count, 1);
      nf_flow_backward (self->flow, count, g, NULL, gradients);
      if (grad_x)
        nf_ops_read_later (ops, nf_view (nf_flow_get_output (self->flow), 0), grad_x + first * n,
                           count * n * sizeof *grad_x);
      nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), log_det,
                         count * N * sizeof *log_det);
      if (!nf_ops_read (ops, nf_view (nf_flow_get_half_square (self->flow), 0), half_square,
                        count * N * sizeof *half_square, error))
        return FALSE;
      for (gsize i = 0; i < count * N; i++)
        {
          sums[0] += (double)half_square[i];
          sums[1] += (double)log_det[i];
        }
    }
  return TRUE;
}

gboolean
nf_session_read_gradients (NfSession *self, NfBuffer *gradients, float *out, GError **error)
{
  const gsize n = nf_model_count_parameters (self->model);
  g_autofree float *theta = g_try_new (float, n);
  if (!theta)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " gradients", n);
      return FALSE;
    }
  if (!nf_ops_read (nf_flow_get_ops (self->flow), nf_view (gradients, 0), theta, n * sizeof *theta, error))
    return FALSE;
  nf_parameters_list (nf_model_get_parameters (self->model), theta, out);
  return TRUE;
}

gboolean
nf_session_gradients (NfSession *self, const float *x, guint B, const gint *labels, double *loss,
                      float *grad_x, float *grad_parameters, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && loss && B > 0, FALSE);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize dimensions = (gsize)B * shape->N * shape->D, n = nf_model_count_parameters (self->model);
  NfOps *ops = nf_flow_get_ops (self->flow);
  double sums[2] = { 0, 0 };
  g_autoptr (NfBuffer) gradients = NULL;

  if (!nf_session_check_condition (self, labels, B, error)
      || !nf_session_check_finite ("tokens", x, dimensions, error))
    return FALSE;
  if (grad_parameters)
    {
      if (!nf_model_check_gradients (self->model, error))
        return FALSE;
      gradients = nf_ops_alloc (ops, n);
      if (!gradients)
        return nf_ops_finish (ops, error);
    }
  if (!nf_session_add_gradients (self, x, B, labels, (float)(1.0 / (double)dimensions), sums, grad_x,
                                 gradients, error))
    return FALSE;
  *loss = (sums[0] - sums[1]) / (double)dimensions;
  return !gradients || nf_session_read_gradients (self, gradients, grad_parameters, error);
}

/* Images of floats */

/* Moves images to tokens or back, in the order of features that the official code of the family has. */
static void
move_patches (const NfConfig *config, float *images, guint B, float *tokens, gboolean to_tokens)
{
  const gsize width = nf_config_columns (config), height = nf_config_rows (config), p = config->patch_size,
              C = config->channels, columns = width / p, N = nf_config_tokens (config),
              D = nf_config_features (config);
  const gboolean interleaved = config->family == NF_FAMILY_STARFLOW;

  for (gsize b = 0; b < B; b++)
    for (gsize n = 0; n < N; n++)
      for (gsize f = 0; f < D; f++)
        {
          const gsize c = interleaved ? f % C : f / (p * p), place = interleaved ? f / C : f % (p * p),
                      y = n / columns * p + place / p, x = n % columns * p + place % p;
          float *pixel = images + ((b * C + c) * height + y) * width + x,
                *value = tokens + (b * N + n) * D + f;
          if (to_tokens)
            *value = *pixel;
          else
            *pixel = *value;
        }
}

/* Tokens into the model's basis, or out of it. */
static void
change_basis (const NfConfig *config, float *tokens, guint B, gboolean out)
{
  if (config->basis == NF_BASIS_PIXEL)
    return;
  const gsize D = nf_config_features (config), n = (gsize)B * nf_config_tokens (config);
  g_autofree float *basis = g_new (float, D *D), *token = g_new (float, D);

  nf_model_fill_basis (config, basis);
  for (gsize i = 0; i < n; i++, tokens += D)
    {
      memcpy (token, tokens, D * sizeof *token);
      for (gsize a = 0; a < D; a++)
        {
          double sum = 0;
          for (gsize b = 0; b < D; b++)
            sum += (double)basis[out ? b * D + a : a * D + b] * (double)token[b];
          tokens[a] = (float)sum;
        }
    }
}

void
nf_patchify (const NfConfig *config, const float *images, guint B, float *tokens)
{
  g_return_if_fail (config && images && tokens && config->layout != NF_PIXELS_YUV420);
  move_patches (config, (float *)images, B, tokens, TRUE);
  change_basis (config, tokens, B, FALSE);
}

void
nf_unpatchify (const NfConfig *config, const float *tokens, guint B, float *images)
{
  g_return_if_fail (config && images && tokens && config->layout != NF_PIXELS_YUV420);
  const gsize n = (gsize)B * nf_config_tokens (config) * nf_config_features (config);
  g_autofree float *copy = g_memdup2 (tokens, n * sizeof *copy);
  change_basis (config, copy, B, TRUE);
  move_patches (config, images, B, copy, FALSE);
}
