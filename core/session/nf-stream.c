/* normflow: video frame by frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-stream.h"

#include "nf-flow-private.h"
#include "nf-random.h"
#include "nf-session-private.h"

#include <math.h>
#include <string.h>

/* A window of frames: what the deep block reads, its keys and values, and the actions that led to them. */
typedef struct
{
  guint frames;
  NfBlockCache *cache;
  NfBuffer *u;       /* (F, frame, D), in the deep block's order */
  NfBuffer *actions; /* (F, action_dim), or NULL */
} Window;

struct _NfStream
{
  GObject parent_instance;

  NfModel *model;
  NfFlow *flow;
  NfOps *ops; /* the flow's */
  GCancellable *cancellable;

  guint F, N, D, T; /* frames of a window, tokens of a frame */
  guint context;
  guint64 index;
  Window windows[2]; /* the one in use, and the one that comes after it */
  guint current;

  GPtrArray *tapes, *caches;
  NfBlockTape **tape;   /* T - 1: shallow blocks, one frame */
  NfBlockCache **cache; /* T: and the deep block's of the window in use */
  NfBuffer *input, *between[2], *z, *latents, *log_det, *half_square, *changes;
  NfStaging staging;
  float *half_squares, *log_dets; /* on the host, per token */
  float *no_action;

  NfInverseReport report;
  NfSessionStats stats;
};

G_DEFINE_FINAL_TYPE (NfStream, nf_stream, G_TYPE_OBJECT)

static void
window_clear (Window *window)
{
  g_clear_pointer (&window->cache, nf_block_cache_free);
  g_clear_pointer (&window->u, nf_buffer_free);
  g_clear_pointer (&window->actions, nf_buffer_free);
}

static void
nf_stream_finalize (GObject *object)
{
  NfStream *self = NF_STREAM (object);
  NfBuffer **const buffers[] = { &self->input,   &self->between[0], &self->between[1],  &self->z,
                                 &self->latents, &self->log_det,    &self->half_square, &self->changes };

  for (guint i = 0; i < G_N_ELEMENTS (buffers); i++)
    g_clear_pointer (buffers[i], nf_buffer_free);
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    window_clear (&self->windows[i]);
  g_clear_pointer (&self->tapes, g_ptr_array_unref);
  g_clear_pointer (&self->caches, g_ptr_array_unref);
  nf_staging_clear (&self->staging);
  g_clear_pointer (&self->flow, nf_flow_free);
  g_free (self->tape);
  g_free (self->cache);
  g_free (self->half_squares);
  g_free (self->log_dets);
  g_free (self->no_action);
  g_clear_object (&self->cancellable);
  g_clear_object (&self->model);
  G_OBJECT_CLASS (nf_stream_parent_class)->finalize (object);
}

static void
nf_stream_class_init (NfStreamClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_stream_finalize;
}

static void
nf_stream_init (NfStream *self)
{
}

/* Making */

static gboolean
check_model (const NfConfig *config, GError **error)
{
  const char *lacks = NULL;
  if (!config->frames)
    lacks = "it is one of images (frames is 0)";
  else if (config->layout == NF_PIXELS_LATENT)
    lacks = "it is one of another model's latents (pixel_layout latent)";
  else if (!config->shallow_local)
    lacks = "its shallow blocks see more than one frame (shallow_block_local is false)";
  else if (!config->sos)
    lacks = "it has no start token (sos is false)";
  else if (config->txt_size)
    lacks = "it sees text (txt_size), which streams have none of";
  if (!lacks)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "the model cannot code a stream of frames: %s", lacks);
  return FALSE;
}

static const NfFlowBlock *
deep_block (NfStream *self)
{
  return nf_model_get_block (self->model, self->T - 1);
}

static const NfBlockSequence *
deep_sequence (NfStream *self)
{
  return &self->flow->sequences[self->T - 1];
}

static void
reserve_blocks (NfStream *self)
{
  self->tapes = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_tape_free);
  self->caches = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_cache_free);
  self->tape = g_new0 (NfBlockTape *, self->T);
  self->cache = g_new0 (NfBlockCache *, self->T);
  for (guint t = 0; t + 1 < self->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (self->model, t);
      const NfBlockSequence *sequence = &self->flow->sequences[t];
      const guint alike = nf_flow_find_alike (self->flow, t);
      if (alike < t)
        {
          self->tape[t] = self->tape[alike];
          self->cache[t] = self->cache[alike];
          continue;
        }
      self->tape[t] = nf_block_tape_new (self->ops, block, sequence, 1, FALSE);
      self->cache[t] = nf_block_cache_new (self->ops, block, sequence, 1, MIN (NF_FLOW_WINDOW, self->N));
      g_ptr_array_add (self->tapes, self->tape[t]);
      g_ptr_array_add (self->caches, self->cache[t]);
    }
}

static void
reserve (NfStream *self)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize frame = (gsize)self->N * self->D;

  reserve_blocks (self);
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    {
      Window *window = &self->windows[i];
      /* a whole frame at a time when it is known */
      window->cache = nf_block_cache_new (self->ops, deep_block (self), deep_sequence (self), 1,
                                          MAX (self->N, NF_FLOW_WINDOW));
      window->u = nf_ops_alloc (self->ops, self->F * frame);
      if (config->action_dim)
        window->actions = nf_ops_alloc (self->ops, (gsize)self->F * config->action_dim);
    }
  self->input = nf_ops_alloc (self->ops, frame);
  self->between[0] = nf_ops_alloc (self->ops, frame);
  self->between[1] = nf_ops_alloc (self->ops, frame);
  self->latents = nf_ops_alloc (self->ops, frame);
  self->z = nf_ops_alloc (self->ops, self->F * frame);
  self->log_det = nf_ops_alloc (self->ops, self->N);
  self->half_square = nf_ops_alloc (self->ops, self->N);
  self->changes = nf_ops_alloc (self->ops, MAX (self->N, NF_FLOW_WINDOW));
  self->half_squares = g_new (float, self->N);
  self->log_dets = g_new (float, self->N);
  self->no_action = g_new0 (float, MAX (config->action_dim, 1));
}

NfStream *
nf_stream_new (NfModel *model, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (model), NULL);
  const NfConfig *config = nf_model_get_config (model);
  if (!check_model (config, error))
    return NULL;
  g_autoptr (NfFlow) flow = nf_flow_new (model, error);
  if (!flow)
    return NULL;

  g_autoptr (NfStream) self = g_object_new (NF_TYPE_STREAM, NULL);
  self->model = g_object_ref (model);
  self->flow = g_steal_pointer (&flow);
  self->ops = nf_flow_get_ops (self->flow);
  self->T = config->n_blocks;
  self->F = config->frames;
  self->N = nf_config_tokens (config);
  self->D = nf_config_features (config);
  self->context = self->F / 2;
  reserve (self);
  return nf_ops_finish (self->ops, error) ? g_steal_pointer (&self) : NULL;
}

NfModel *
nf_stream_get_model (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), NULL);
  return self->model;
}

void
nf_stream_set_cancellable (NfStream *self, GCancellable *cancellable)
{
  g_return_if_fail (NF_IS_STREAM (self));
  g_set_object (&self->cancellable, cancellable);
}

gboolean
nf_stream_set_context (NfStream *self, guint context, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  if (context >= self->F)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a context of %u frames does not fit the model's window of %u: it must be 0 to %u",
                   context, self->F, self->F - 1);
      return FALSE;
    }
  self->context = context;
  nf_stream_reset (self);
  return TRUE;
}

guint
nf_stream_get_context (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return self->context;
}

void
nf_stream_reset (NfStream *self)
{
  g_return_if_fail (NF_IS_STREAM (self));
  self->windows[0].frames = self->windows[1].frames = 0;
  self->index = 0;
}

guint64
nf_stream_get_index (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return self->index;
}

guint
nf_stream_get_length (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  const guint frames = self->windows[self->current].frames;
  return frames == self->F ? self->context : frames;
}

gsize
nf_stream_get_latents (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return (gsize)self->N * self->D;
}

/* Windows */

/* The window that the next frame goes into. */
static Window *
open_window (NfStream *self)
{
  if (self->windows[self->current].frames == self->F)
    {
      self->windows[self->current].frames = 0;
      self->current = !self->current;
    }
  return &self->windows[self->current];
}

static NfView
window_frame (NfStream *self, const Window *window, guint f)
{
  return nf_view (window->u, (gsize)f * self->N * self->D);
}

static NfCondition
window_condition (const Window *window)
{
  return (NfCondition){ .actions = nf_view (window->actions, 0) };
}

/* The frame after the last one, and its action, go through the deep block. */
static void
extend (NfStream *self, const Window *window)
{
  const NfCondition condition = window_condition (window);
  nf_block_begin_frame (self->ops, deep_block (self), deep_sequence (self), window->cache, 1, 1, &condition,
                        window->frames);
  nf_block_extend (self->ops, deep_block (self), deep_sequence (self), window->cache, nf_view (window->u, 0),
                   1, 1, &condition, window->frames * self->N, self->N, 1.0f);
}

/* The frame is complete. The next window takes those of its frames that this one has by now. */
static void
close_frame (NfStream *self)
{
  const guint skipped = self->F - self->context, A = nf_model_get_config (self->model)->action_dim;
  Window *window = &self->windows[self->current], *next = &self->windows[!self->current];
  window->frames++;
  self->index++;
  for (; next->frames + skipped < window->frames; next->frames++)
    {
      const guint f = next->frames + skipped;
      nf_ops_copy (self->ops, window_frame (self, window, f), window_frame (self, next, next->frames),
                   (gsize)self->N * self->D);
      if (A)
        nf_ops_copy (self->ops, nf_view (window->actions, (gsize)f * A),
                     nf_view (next->actions, (gsize)next->frames * A), A);
      extend (self, next);
    }
}

/* Coding */

static gboolean
go_on (NfStream *self, GError **error)
{
  if (!g_cancellable_is_cancelled (self->cancellable))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "coding was cancelled");
  return FALSE;
}

static gboolean
tell (gpointer data, guint done, guint all)
{
  return go_on (data, NULL);
}

static gboolean
check_frame (NfStream *self, const NfFrame *frame, const float *action, NfPlanes *planes, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint width = nf_config_columns (config), height = nf_config_rows (config);
  if (frame->width != width || frame->height != height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a frame has %ux%u pixels, the model of videos takes %ux%u only; scale it before",
                   frame->width, frame->height, width, height);
      return FALSE;
    }
  if (action && !config->action_dim)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "an action is given, but the model takes none (action_dim is 0)");
      return FALSE;
    }
  if (action && !nf_session_check_finite ("action", action, config->action_dim, error))
    return FALSE;
  if (!nf_staging_prepare (&self->staging, self->ops, config->layout, frame, planes, error))
    return FALSE;
  planes->tiles_x = 1;
  return go_on (self, error);
}

static void
write_action (NfStream *self, const Window *window, const float *action)
{
  const gsize A = nf_model_get_config (self->model)->action_dim;
  if (A)
    nf_ops_write (self->ops, nf_view (window->actions, window->frames * A), action ? action : self->no_action,
                  A * sizeof *action);
}

/* Pixels on the device through the shallow blocks into the window. */
static void
forward_shallow (NfStream *self, const NfPlanes *planes, const Window *window)
{
  const NfTokens *tokens = nf_model_get_tokens (self->model);
  const NfCondition condition = { 0 };
  const NfView u = window_frame (self, window, window->frames), none = nf_view (NULL, 0);
  gboolean flip = nf_model_get_block (self->model, 0)->flip;
  NfView from = nf_view (self->input, 0);

  nf_ops_pixels_to_tokens (self->ops, planes, tokens, 0, 1,
                           tokens->steps ? NF_DEQUANTISE_LATTICE : NF_DEQUANTISE_NONE, 0.0f, 0, 0, from);
  if (flip || self->T == 1)
    {
      const NfView ordered = self->T == 1 ? u : nf_view (self->between[1], 0);
      nf_ops_reorder (self->ops, from, ordered, 1, self->N, self->D, flip, self->N, none);
      from = ordered;
    }
  for (guint t = 0; t + 1 < self->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (self->model, t);
      const gboolean next = nf_model_get_block (self->model, t + 1)->flip;
      const NfView to = t + 2 == self->T ? u : nf_view (self->between[t % 2], 0);
      nf_block_forward (self->ops, block, &self->flow->sequences[t], self->tape[t], from, 1, &condition, to,
                        self->log_det, none, flip != next, t > 0);
      from = to;
      flip = next;
    }
}

static gboolean
encode (NfStream *self, const NfFrame *frame, const float *action, float *latents, NfScore *score,
        float *score_map, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const NfBlockSequence alone = { .N = self->N, .frame = self->N };
  const NfAffine affine = nf_block_affine (deep_block (self), &alone, 1);
  const gboolean flip = deep_block (self)->flip;
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  if (!check_frame (self, frame, action, &planes, error))
    return FALSE;

  Window *window = open_window (self);
  nf_staging_upload (&self->staging, self->ops, config->layout, frame);
  write_action (self, window, action);
  const double upload = nf_stats_lap (&time);
  forward_shallow (self, &planes, window);
  extend (self, window);
  nf_ops_affine (self->ops, &affine, window_frame (self, window, window->frames), window->cache->o,
                 nf_view (self->latents, 0), self->log_det, nf_view (NULL, 0), flip, flip, self->T > 1);
  nf_ops_prior (self->ops, nf_view (self->latents, 0), NULL, self->half_square, 1.0f, self->N, self->D);
  close_frame (self);
  nf_ops_read_later (self->ops, nf_view (self->half_square, 0), self->half_squares, self->N * sizeof (float));
  nf_ops_read_later (self->ops, nf_view (self->log_det, 0), self->log_dets, self->N * sizeof (float));
  if (!nf_ops_finish (self->ops, error))
    return FALSE;
  const double kernels = nf_stats_lap (&time);
  const gsize n = nf_stream_get_latents (self);
  if (!nf_ops_read (self->ops, nf_view (self->latents, 0), latents, n * sizeof *latents, error)
      || !nf_session_check_finite ("latents", latents, n, error))
    return FALSE;
  if (score)
    nf_score_fill (config, self->half_squares, self->log_dets, self->N,
                   nf_frame_samples (config->layout, frame->width, frame->height), score);
  for (guint i = 0; score_map && i < self->N; i++)
    score_map[i] = nf_score_token (config, self->half_squares[i], self->log_dets[i]);
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

gboolean
nf_stream_encode (NfStream *self, const NfFrame *frame, const float *action, float *latents, NfScore *score,
                  float *score_map, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self) && frame && latents, FALSE);
  if (encode (self, frame, action, latents, score, score_map, error))
    return TRUE;
  nf_stream_reset (self);
  return FALSE;
}

static gboolean
decode (NfStream *self, const float *latents, const float *action, const NfDecodeOptions *options,
        const NfFrame *frame, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = nf_stream_get_latents (self);
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  if (!nf_decode_options_check (options, error))
    return FALSE;
  if (options->guidance != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "guidance %g: a stream is decoded without",
                   options->guidance);
      return FALSE;
    }
  if (!check_frame (self, frame, action, &planes, error)
      || !nf_session_check_finite ("latents", latents, n, error))
    return FALSE;

  Window *window = open_window (self);
  self->cache[self->T - 1] = window->cache;
  self->report = (NfInverseReport){ 0 };
  write_action (self, window, action);
  nf_ops_write (self->ops, nf_view (self->latents, 0), latents, n * sizeof *latents);
  const double upload = nf_stats_lap (&time);
  const NfFlowFrame inverse = { .f = window->frames,
                                .caches = self->cache,
                                .condition = window_condition (window),
                                .u = window->u,
                                .z = self->z,
                                .x = self->between[0],
                                .changes = self->changes,
                                .latents = self->latents };
  NfBuffer *x = nf_flow_inverse_frame (self->flow, &inverse, options, tell, self, &self->report, error);
  if (!x)
    return FALSE;
  nf_ops_tokens_to_pixels (self->ops, nf_view (x, 0), &planes, nf_model_get_tokens (self->model), 0, 1);
  /* what an encoder would remember of this frame */
  forward_shallow (self, &planes, window);
  extend (self, window);
  close_frame (self);
  if (!nf_ops_finish (self->ops, error))
    return FALSE;
  const double kernels = nf_stats_lap (&time);
  if (!nf_staging_download (&self->staging, self->ops, config->layout, frame, error))
    return FALSE;
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

gboolean
nf_stream_decode (NfStream *self, const float *latents, const float *action, const NfDecodeOptions *options,
                  const NfFrame *frame, GError **error)
{
  static const NfDecodeOptions lossless = { .snap = TRUE };
  g_return_val_if_fail (NF_IS_STREAM (self) && latents && frame, FALSE);
  if (decode (self, latents, action, options ? options : &lossless, frame, error))
    return TRUE;
  nf_stream_reset (self);
  return FALSE;
}

gboolean
nf_stream_sample (NfStream *self, guint64 seed, guint64 number, double temperature, const float *action,
                  const NfDecodeOptions *options, float *latents, const NfFrame *frame, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self) && frame, FALSE);
  if (!(temperature >= 0 && temperature <= 2))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "temperature %g is out of range: 0 to 2", temperature);
      return FALSE;
    }
  const gsize n = nf_stream_get_latents (self);
  g_autofree float *drawn = latents ? NULL : g_new (float, n);
  float *z = latents ? latents : drawn;
  nf_random_normal (seed, number, n, temperature, z);
  return nf_stream_decode (self, z, action, options, frame, error);
}

void
nf_stream_get_decode_report (NfStream *self, NfDecodeReport *report)
{
  g_return_if_fail (NF_IS_STREAM (self) && report);
  *report = (NfDecodeReport){ self->report.passes, self->report.rows, self->report.residual };
}

gboolean
nf_stream_prepare (NfStream *self, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const guint width = nf_config_columns (config), height = nf_config_rows (config);
  const NfSessionStats stats = self->stats;
  g_autofree guint8 *samples = g_malloc0 ((gsize)width * height);
  g_autofree float *latents = g_new0 (float, nf_stream_get_latents (self));
  NfFrame frame = { .width = width, .height = height };

  for (guint i = 0; i < G_N_ELEMENTS (frame.planes); i++)
    frame.planes[i] = (NfPlane){ samples, (gint)width, 1 };
  nf_stream_reset (self);
  const gboolean done = nf_stream_encode (self, &frame, NULL, latents, NULL, NULL, error)
                        && nf_stream_decode (self, latents, NULL, NULL, &frame, error);
  nf_stream_reset (self);
  self->stats = stats;
  return done;
}

void
nf_stream_get_stats (NfStream *self, NfSessionStats *stats)
{
  g_return_if_fail (NF_IS_STREAM (self) && stats);
  *stats = self->stats;
  stats->device_bytes = nf_device_get_allocated (nf_model_get_device (self->model));
}
