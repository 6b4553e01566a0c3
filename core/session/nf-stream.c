/* normflow: video frame by frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-stream-private.h"

#include "nf-random.h"
#include "nf-score-private.h"
#include "nf-session-private.h"

#include <math.h>
#include <string.h>

#define NOISE_SEED 0x65736961u /* of the noise that frames get; its stream is the frame's number */
#define MAX_BATCH 4096u

G_DEFINE_FINAL_TYPE (NfStream, nf_stream, G_TYPE_OBJECT)

static void
window_clear (NfStreamWindow *window)
{
  nf_stream_window_clear_denoiser (window);
  g_clear_pointer (&window->cache, nf_block_cache_free);
  g_clear_pointer (&window->u, nf_buffer_free);
  g_clear_pointer (&window->actions, nf_buffer_free);
}

static void
window_forget (NfStreamWindow *window)
{
  window->frames = window->denoised = 0;
  window->begun = FALSE;
}

static void
nf_stream_finalize (GObject *object)
{
  NfStream *self = NF_STREAM (object);
  NfBuffer **const buffers[] = { &self->input,   &self->u,       &self->between[0], &self->between[1],
                                 &self->z,       &self->latents, &self->log_det,    &self->half_square,
                                 &self->changes, &self->noise,   &self->text,       &self->misses };

  for (guint i = 0; i < G_N_ELEMENTS (buffers); i++)
    g_clear_pointer (buffers[i], nf_buffer_free);
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    window_clear (&self->windows[i]);
  g_clear_pointer (&self->tapes, g_ptr_array_unref);
  g_clear_pointer (&self->caches, g_ptr_array_unref);
  g_clear_pointer (&self->score, nf_stream_score_free);
  for (guint b = 0; self->staging && b < self->B; b++)
    nf_staging_clear (&self->staging[b]);
  g_clear_pointer (&self->flow, nf_flow_free);
  g_free (self->staging);
  g_free (self->planes);
  g_free (self->tape);
  g_free (self->cache);
  g_free (self->half_square_host);
  g_free (self->log_det_host);
  g_free (self->misses_host);
  nf_missed_list_clear (&self->missed);
  g_free (self->no_action);
  g_free (self->text_digest);
  g_free (self->noises);
  g_free (self->noise_nats);
  g_clear_pointer (&self->held, g_array_unref);
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
  self->held = g_array_new (FALSE, FALSE, sizeof (NfStreamHeld));
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
  else if (!config->temporal_causal)
    lacks = "it sees later frames (temporal_causal is 0)";
  else if (!config->shallow_local)
    lacks = "its shallow blocks see more than one frame (shallow_block_local is false), which a window that "
            "moves on would change";
  else if (!config->sos)
    lacks = "it has no start token (sos is false)";
  if (!lacks)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "the model cannot code a stream of frames: %s%s", lacks,
               config->frames ? "; all frames of a sample it codes as tokens (nf_session_encode())" : "");
  return FALSE;
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
      self->tape[t] = nf_block_tape_new (self->ops, block, sequence, self->B, FALSE);
      self->cache[t]
          = nf_block_cache_new (self->ops, block, sequence, self->B, MIN (NF_FLOW_WINDOW, self->N), FALSE);
      g_ptr_array_add (self->tapes, self->tape[t]);
      g_ptr_array_add (self->caches, self->cache[t]);
    }
}

static void
reserve (NfStream *self)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize tokens = (gsize)self->B * self->N, frame = tokens * self->D;

  reserve_blocks (self);
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    {
      NfStreamWindow *window = &self->windows[i];
      /* a whole frame at a time when it is known; the score of a noisy one goes back through those before it
       */
      window->cache
          = nf_block_cache_new (self->ops, nf_stream_deep_block (self), nf_stream_deep_sequence (self),
                                self->B, MAX (self->N, NF_FLOW_WINDOW), self->noisy);
      window->u = nf_ops_alloc (self->ops, self->F * frame);
      if (config->action_dim)
        window->actions = nf_ops_alloc (self->ops, (gsize)self->B * self->F * config->action_dim);
      if (self->noisy && nf_model_get_denoiser (self->model))
        window->y = nf_ops_alloc (self->ops, self->F * frame);
    }
  if (config->txt_size)
    {
      const gsize text = (gsize)self->B * config->txt_size * config->txt_dim;
      if ((self->text = nf_ops_alloc (self->ops, text)))
        nf_flow_write_classes (self->ops, config, nf_view (self->text, 0), NULL, self->B);
      self->text_digest = nf_session_digest_text (config, NULL, 0);
    }
  self->input = nf_ops_alloc (self->ops, frame);
  self->u = nf_ops_alloc (self->ops, frame);
  self->between[0] = nf_ops_alloc (self->ops, frame);
  self->between[1] = nf_ops_alloc (self->ops, frame);
  self->latents = nf_ops_alloc (self->ops, frame);
  self->z = nf_ops_alloc (self->ops, self->F * frame);
  self->log_det = nf_ops_alloc (self->ops, tokens);
  self->misses = nf_ops_alloc (self->ops, 2 * tokens);
  self->half_square = nf_ops_alloc (self->ops, tokens);
  self->changes = nf_ops_alloc (self->ops, (gsize)self->B * MAX (self->N, NF_FLOW_WINDOW));
  self->half_square_host = g_new (float, tokens);
  self->log_det_host = g_new (float, tokens);
  self->misses_host = g_new (float, 2 * tokens);
  self->no_action = g_new0 (float, (gsize)self->B *MAX (config->action_dim, 1));
  self->staging = g_new0 (NfStaging, self->B);
  self->planes = g_new0 (NfPlanes, self->B);
  if (!self->noisy)
    return;
  self->noise = nf_ops_alloc (self->ops, (gsize)self->N * self->D);
  self->noises = g_new (float, (gsize)self->N * self->D);
  self->noise_nats = g_new (float, self->N);
}

/* Frames that the denoiser was trained to look ahead. */
static guint
most_look_ahead (NfStream *self)
{
  const NfConfig *config = nf_model_get_config (self->model);
  return self->noisy && nf_model_get_denoiser (self->model) && config->temporal_causal > 1
             ? config->temporal_causal - 1
             : 0;
}

static guint
usual_look_ahead (NfStream *self)
{
  return nf_flow_choose_denoise (self->flow, NF_DENOISE_AUTO) == NF_DENOISE_LEARNED ? most_look_ahead (self)
                                                                                    : 0;
}

NfStream *
nf_stream_new (NfModel *model, GError **error)
{
  return nf_stream_new_batch (model, 1, error);
}

NfStream *
nf_stream_new_batch (NfModel *model, guint B, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (model), NULL);
  const NfConfig *config = nf_model_get_config (model);
  if (!check_model (config, error))
    return NULL;
  if (B < 1 || B > MAX_BATCH)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%u streams side by side: it must be 1 to %u", B,
                   MAX_BATCH);
      return NULL;
    }
  g_autoptr (NfFlow) flow = nf_flow_new (model, error);
  if (!flow)
    return NULL;

  g_autoptr (NfStream) self = g_object_new (NF_TYPE_STREAM, NULL);
  self->model = g_object_ref (model);
  self->flow = g_steal_pointer (&flow);
  self->ops = nf_flow_get_ops (self->flow);
  self->B = B;
  self->T = nf_model_count_blocks (model);
  self->F = config->frames;
  self->N = nf_config_tokens (config);
  self->D = nf_config_features (config);
  self->context = self->F / 2;
  self->noise_seed = NOISE_SEED;
  self->noisy = nf_config_is_noisy (config);
  self->tokens = *nf_model_get_tokens (model);
  if (self->noisy)
    self->tokens.steps = -NF_LATTICE;
  nf_flow_set_on_lattice (self->flow, &self->tokens);
  self->look_ahead = usual_look_ahead (self);
  reserve (self);
  return nf_ops_finish (self->ops, error) ? g_steal_pointer (&self) : NULL;
}

NfModel *
nf_stream_get_model (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), NULL);
  return self->model;
}

guint
nf_stream_get_batch (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return self->B;
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

guint
nf_stream_get_look_ahead (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  /* a frame that is held must still be in the window */
  return MIN (self->look_ahead, self->context);
}

gboolean
nf_stream_set_look_ahead (NfStream *self, gint frames, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  if (frames < -1 || frames > (gint)most_look_ahead (self))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a look-ahead of %d frames: the model was trained with %u, or -1 for that", frames,
                   most_look_ahead (self));
      return FALSE;
    }
  self->look_ahead = frames < 0 ? usual_look_ahead (self) : (guint)frames;
  nf_stream_reset (self);
  return TRUE;
}

guint
nf_stream_get_held (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return self->held->len;
}

gboolean
nf_stream_is_shown (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  return self->shown;
}

void
nf_stream_set_noise_seed (NfStream *self, guint64 seed)
{
  g_return_if_fail (NF_IS_STREAM (self));
  self->noise_seed = seed;
  nf_stream_reset (self);
}

const char *
nf_stream_get_text_digest (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), NULL);
  return self->text_digest;
}

/* FALSE; an ERROR of stream B says so. */
static gboolean
fail_stream (const NfStream *self, guint b, GError **error)
{
  if (self->B > 1)
    g_prefix_error (error, "stream %u of %u: ", b, self->B);
  return FALSE;
}

/* X has ONE values of each of N streams: all, or one for all. */
static gboolean
check_finite (const NfStream *self, const char *what, const float *x, guint n, gsize one, GError **error)
{
  for (guint b = 0; b < n; b++)
    if (!nf_session_check_finite (what, x + b * one, one, error))
      return n > 1 ? fail_stream (self, b, error) : FALSE;
  return TRUE;
}

gboolean
nf_stream_set_text (NfStream *self, const float *text, guint n, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize one = (gsize)config->txt_size * config->txt_dim;
  if (text && (!config->txt_size || (n != 1 && n != self->B)))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   config->txt_size
                       ? "text features of %u samples are given for %u streams: one of each, or one for all"
                       : "text features are given, but the model sees no text",
                   n, self->B);
      return FALSE;
    }
  if (text && !check_finite (self, "text features", text, n, one, error))
    return FALSE;
  nf_stream_reset (self);
  if (!config->txt_size)
    return TRUE;
  g_free (self->text_digest);
  self->text_digest = nf_session_digest_text (config, text, n);
  if (!text)
    nf_flow_write_classes (self->ops, config, nf_view (self->text, 0), NULL, self->B);
  for (guint b = 0; text && b < self->B; b++)
    nf_ops_write (self->ops, nf_view (self->text, b * one), text + (n > 1 ? b * one : 0), one * sizeof *text);
  return nf_ops_finish (self->ops, error);
}

void
nf_stream_reset (NfStream *self)
{
  g_return_if_fail (NF_IS_STREAM (self));
  window_forget (&self->windows[0]);
  window_forget (&self->windows[1]);
  g_array_set_size (self->held, 0);
  for (guint b = 0; b < self->B; b++)
    nf_staging_forget (&self->staging[b], self->ops);
  self->index = 0;
  self->shown = FALSE;
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
nf_stream_count_latents (NfStream *self)
{
  g_return_val_if_fail (NF_IS_STREAM (self), 0);
  return (gsize)self->B * self->N * self->D;
}

/* Windows */

/* The window that the next frame goes into. */
static NfStreamWindow *
open_window (NfStream *self)
{
  if (self->windows[self->current].frames == self->F)
    {
      window_forget (&self->windows[self->current]);
      self->current = !self->current;
    }
  return &self->windows[self->current];
}

NfCondition
nf_stream_condition (NfStream *self, const NfStreamWindow *window, guint b)
{
  const NfConfig *config = nf_model_get_config (self->model);
  return (NfCondition){
    .text = nf_view (self->text, (gsize)b * config->txt_size * config->txt_dim),
    .actions = nf_view (window ? window->actions : NULL, (gsize)b * self->F * config->action_dim),
  };
}

/* The text goes through the deep block before anything else. */
static void
begin (NfStream *self, NfStreamWindow *window)
{
  const NfCondition condition = nf_stream_condition (self, window, 0);
  if (!window->begun)
    nf_block_begin (self->ops, nf_stream_deep_block (self), nf_stream_deep_sequence (self), window->cache,
                    self->B, 1, &condition);
  window->begun = TRUE;
}

/* The frame after the last one, and its action, go through the deep block. */
static void
extend (NfStream *self, NfStreamWindow *window)
{
  const NfCondition condition = nf_stream_condition (self, window, 0);
  begin (self, window);
  nf_block_begin_frame (self->ops, nf_stream_deep_block (self), nf_stream_deep_sequence (self), window->cache,
                        self->B, 1, &condition, window->frames);
  nf_block_extend (self->ops, nf_stream_deep_block (self), nf_stream_deep_sequence (self), window->cache,
                   nf_view (window->u, 0), self->B, 1, &condition, window->frames * self->N, self->N, 1.0f);
}

/* Frame F of one window becomes the next frame of another, in a buffer that both have: SIZE floats a frame.
 */
static void
hand_on (NfStream *self, NfBuffer *from, guint f, NfBuffer *to, guint place, gsize size)
{
  if (from)
    nf_ops_copy_rows (self->ops, nf_view (from, f * size), self->F * size, nf_view (to, place * size),
                      self->F * size, size, self->B);
}

/* The frame is complete. The next window takes those of its frames that this one has by now. */
static void
close_frame (NfStream *self)
{
  const guint skipped = self->F - self->context, A = nf_model_get_config (self->model)->action_dim;
  const gsize frame = (gsize)self->N * self->D;
  NfStreamWindow *window = &self->windows[self->current], *next = &self->windows[!self->current];
  window->frames++;
  self->index++;
  for (; next->frames + skipped < window->frames; next->frames++)
    {
      const guint f = next->frames + skipped;
      hand_on (self, window->u, f, next->u, next->frames, frame);
      hand_on (self, window->y, f, next->y, next->frames, frame);
      hand_on (self, window->actions, f, next->actions, next->frames, A);
      extend (self, next);
      nf_stream_denoiser_follow (self, next, window);
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
check_frames (NfStream *self, const NfFrame *frames, const float *actions, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint width = nf_config_columns (config), height = nf_config_rows (config);
  for (guint b = 0; b < self->B; b++)
    {
      if (frames[b].width != width || frames[b].height != height)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "a frame has %ux%u pixels, the model of videos takes %ux%u only; scale it before",
                       frames[b].width, frames[b].height, width, height);
          return fail_stream (self, b, error);
        }
      if (!nf_staging_prepare (&self->staging[b], self->ops, config->layout, height, &frames[b],
                               &self->planes[b], error))
        return fail_stream (self, b, error);
      self->planes[b].tiles_x = 1;
    }
  if (actions && !config->action_dim)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "an action is given, but the model takes none (action_dim is 0)");
      return FALSE;
    }
  if (actions && !check_finite (self, "action", actions, self->B, config->action_dim, error))
    return FALSE;
  return go_on (self, error);
}

static void
write_actions (NfStream *self, const NfStreamWindow *window, const float *actions)
{
  const gsize A = nf_model_get_config (self->model)->action_dim;
  for (guint b = 0; A > 0 && b < self->B; b++)
    nf_ops_write (self->ops, nf_view (window->actions, (b * (gsize)self->F + window->frames) * A),
                  (actions ? actions : self->no_action) + b * A, A * sizeof *actions);
}

/* The noise of frame INDEX, and what it costs: a function of its number and place alone. */
static void
draw_noise (NfStream *self, guint64 index)
{
  const double sigma = nf_model_get_config (self->model)->noise_std;
  const gsize n = (gsize)self->N * self->D;
  if (!self->noisy)
    return;
  nf_random_normal (self->noise_seed, index, n, sigma, self->noises);
  for (guint i = 0; i < self->N; i++)
    {
      double squares = 0;
      for (gsize j = (gsize)i * self->D; j < (gsize)(i + 1) * self->D; j++)
        squares += (double)self->noises[j] * (double)self->noises[j];
      self->noise_nats[i]
          = (float)(squares / (2 * sigma * sigma) + self->D * (log (sigma) + NF_HALF_LOG_2PI));
    }
  nf_ops_write (self->ops, nf_view (self->noise, 0), self->noises, n * sizeof *self->noises);
}

/* Pixels on the device become the frame's tokens: what is remembered of it. */
static void
read_pixels (NfStream *self)
{
  const NfDequantise mode = self->noisy          ? NF_DEQUANTISE_GIVEN
                            : self->tokens.steps ? NF_DEQUANTISE_LATTICE
                                                 : NF_DEQUANTISE_NONE;
  for (guint b = 0; b < self->B; b++)
    nf_ops_pixels_to_tokens (self->ops, &self->planes[b], &self->tokens, 0, 1, mode, 0.0f, 0, 0, self->noise,
                             nf_view (self->input, (gsize)b * self->N * self->D));
}

/* Tokens x (B, N, D) become pixels; NOISE is known to be in them, unless it is NULL. */
static void
write_pixels (NfStream *self, NfBuffer *x, NfBuffer *noise)
{
  for (guint b = 0; b < self->B; b++)
    nf_ops_tokens_to_pixels (self->ops, nf_view (x, (gsize)b * self->N * self->D), &self->planes[b],
                             &self->tokens, 0, 1, noise);
}

/* The frame's tokens are what the denoiser reads of the window. */
static void
keep_tokens (NfStream *self, const NfStreamWindow *window)
{
  const gsize frame = (gsize)self->N * self->D;
  if (window->y)
    nf_ops_copy_rows (self->ops, nf_view (self->input, 0), frame,
                      nf_stream_window_frame (self, window->y, window->frames), nf_stream_window_step (self),
                      frame, self->B);
}

/* Tokens of the frame through the shallow blocks into the window. LIST, unless it is NULL, gets what decoding
 * is not to find. */
static void
forward_shallow (NfStream *self, const NfStreamWindow *window, const NfMissedList *list)
{
  const NfCondition condition = nf_stream_condition (self, NULL, 0);
  const gsize frame = (gsize)self->N * self->D;
  const NfView u = nf_view (self->u, 0), none = nf_view (NULL, 0);
  gboolean flip = nf_model_get_block (self->model, 0)->flip;
  NfView from = nf_view (self->input, 0);

  if (flip || self->T == 1)
    {
      const NfView ordered = self->T == 1 ? u : nf_view (self->between[1], 0);
      nf_ops_reorder (self->ops, from, ordered, self->B, self->N, self->D, flip, self->N, none);
      from = ordered;
    }
  for (guint t = 0; t + 1 < self->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (self->model, t);
      const gboolean next = nf_model_get_block (self->model, t + 1)->flip;
      const NfView to = t + 2 == self->T ? u : nf_view (self->between[t % 2], 0);
      const NfMissed missed = nf_missed_list_of_block (list, self->misses, t, 0);
      nf_block_forward (self->ops, block, &self->flow->sequences[t], self->tape[t], from, self->B, &condition,
                        to, self->log_det, &missed, none, flip != next, t > 0);
      from = to;
      flip = next;
    }
  nf_ops_copy_rows (self->ops, u, frame, nf_stream_window_frame (self, window->u, window->frames),
                    nf_stream_window_step (self), frame, self->B);
  keep_tokens (self, window);
}

/* Of one stream, from what was read of all. The noise that was added does not count as news. */
static void
fill_scores (NfStream *self, guint b, NfScore *score, float *map)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const float *half_square = self->half_square_host + (gsize)b * self->N;
  float *log_det = self->log_det_host + (gsize)b * self->N;
  double noise = 0;
  if (score)
    nf_score_fill (self->model, half_square, log_det, self->misses_host + 2 * (gsize)b * self->N, self->N,
                   self->staging[b].size, score);
  for (guint i = 0; self->noisy && i < self->N; i++)
    {
      noise += (double)self->noise_nats[i];
      log_det[i] += self->noise_nats[i];
    }
  if (score)
    {
      score->log_likelihood += noise;
      score->bits_per_dim = -score->log_likelihood / ((double)score->num_dims * G_LN2);
    }
  for (guint i = 0; map && i < self->N; i++)
    map[i] = nf_score_token (config, half_square[i], log_det[i]);
}

static gboolean
encode (NfStream *self, const NfFrame *frames, const float *actions, float *latents, NfScore *scores,
        float *score_maps, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const NfBlockSequence alone = { .N = self->N,
                                  .frame = self->N,
                                  .on_lattice = nf_stream_deep_sequence (self)->on_lattice,
                                  .snapped = nf_stream_deep_sequence (self)->snapped };
  NfAffine affine = nf_block_affine (nf_stream_deep_block (self), &alone, self->B);
  const gboolean flip = nf_stream_deep_block (self)->flip;
  const gsize tokens = (gsize)self->B * self->N, one = (gsize)self->N * self->D, n = self->B * one;
  gint64 time = g_get_monotonic_time ();
  if (!check_frames (self, frames, actions, error))
    return FALSE;

  NfStreamWindow *window = open_window (self);
  for (guint b = 0; b < self->B; b++)
    nf_staging_upload (&self->staging[b], self->ops, config->layout, &frames[b]);
  write_actions (self, window, actions);
  draw_noise (self, self->index);
  const double upload = nf_stats_lap (&time);
  read_pixels (self);
  /* of as many as all values: a window does not go back, so it cannot be done once more */
  nf_missed_list_begin (&self->missed, self->ops, (guint)MIN (self->T * n, NF_MOST_CORRECTIONS));
  forward_shallow (self, window, &self->missed);
  extend (self, window);
  const NfMissed missed = nf_missed_list_of_block (&self->missed, self->misses, self->T - 1, 0);
  affine.missed = &missed;
  nf_ops_affine (self->ops, &affine, nf_view (self->u, 0), window->cache->o, nf_view (self->latents, 0),
                 self->log_det, nf_view (NULL, 0), flip, flip, self->T > 1);
  nf_ops_prior (self->ops, nf_view (self->latents, 0), NULL, self->half_square, 1.0f, (guint)tokens, self->D);
  close_frame (self);
  nf_ops_read_later (self->ops, nf_view (self->half_square, 0), self->half_square_host,
                     tokens * sizeof (float));
  nf_ops_read_later (self->ops, nf_view (self->log_det, 0), self->log_det_host, tokens * sizeof (float));
  nf_ops_read_later (self->ops, nf_view (self->misses, 0), self->misses_host, 2 * tokens * sizeof (float));
  if (!nf_ops_finish (self->ops, error))
    return FALSE;
  gboolean whole = !nf_missed_any (self->misses_host, tokens);
  if (!whole && !nf_missed_list_read (&self->missed, self->ops, &whole, error))
    return FALSE;
  const double kernels = nf_stats_lap (&time);
  if (!nf_ops_read (self->ops, nf_view (self->latents, 0), latents, n * sizeof *latents, error))
    return FALSE;
  for (guint b = 0; b < self->B; b++)
    if (!nf_session_check_computed (self->model, "latents of the frame", latents + b * one, one, error))
      return fail_stream (self, b, error);
  for (guint b = 0; (scores || score_maps) && b < self->B; b++)
    fill_scores (self, b, scores ? &scores[b] : NULL, score_maps ? score_maps + (gsize)b * self->N : NULL);
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

gboolean
nf_stream_encode (NfStream *self, const NfFrame *frame, const float *action, float *latents, NfScore *score,
                  float *score_map, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self) && frame && latents, FALSE);
  if (self->held->len > 0) /* what was decoded, shown later, is found by its distance from the last frame */
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%u decoded frames are held: nf_stream_drain() has them before anything is encoded",
                   self->held->len);
      return FALSE;
    }
  if (encode (self, frame, action, latents, score, score_map, error))
    return TRUE;
  nf_stream_reset (self);
  return FALSE;
}

void
nf_stream_get_corrections (NfStream *self, NfCorrections *corrections)
{
  g_return_if_fail (NF_IS_STREAM (self) && corrections);
  *corrections = nf_missed_list_get (&self->missed);
}

/* The oldest of the frames that are held becomes pixels; KNOWN frames of the window are there. */
static gboolean
show_held (NfStream *self, NfStreamWindow *window, guint known, GError **error)
{
  const NfStreamHeld held = g_array_index (self->held, NfStreamHeld, 0);
  const gsize frame = (gsize)self->N * self->D;
  const guint f = window->frames - (guint)(self->index - held.index);
  g_array_remove_index (self->held, 0);
  self->shown = TRUE;
  if (held.drawn)
    {
      if (!nf_stream_denoise (self, window, f, known, error))
        return FALSE;
      write_pixels (self, self->latents, NULL);
      return TRUE;
    }
  nf_ops_copy_rows (self->ops, nf_stream_window_frame (self, window->y, f), nf_stream_window_step (self),
                    nf_view (self->latents, 0), frame, frame, self->B);
  draw_noise (self, held.index);
  write_pixels (self, self->latents, self->noise);
  return TRUE;
}

/* What was found in self->latents becomes what is remembered and, now or later, what is shown. */
static gboolean
finish_frame (NfStream *self, NfStreamWindow *window, gboolean drawn, GError **error)
{
  const guint ahead = nf_stream_get_look_ahead (self), known = window->frames + 1;
  const gboolean estimated = drawn && self->noisy;
  if (estimated)
    {
      /* the noisy frame itself is remembered, and decoding left it in the window */
      nf_ops_copy (self->ops, nf_view (self->latents, 0), nf_view (self->input, 0),
                   nf_stream_count_latents (self));
      keep_tokens (self, window);
    }
  else
    {
      /* what an encoder would remember of these pixels */
      write_pixels (self, self->latents, self->noise);
      read_pixels (self);
      forward_shallow (self, window, NULL);
      extend (self, window);
    }
  self->shown = ahead == 0;
  if (ahead > 0)
    {
      const NfStreamHeld held = { self->index, estimated };
      g_array_append_val (self->held, held);
      if (self->held->len > ahead && !show_held (self, window, known, error))
        return FALSE;
    }
  else if (estimated)
    {
      if (!nf_stream_denoise (self, window, window->frames, known, error))
        return FALSE;
      write_pixels (self, self->latents, NULL);
    }
  close_frame (self);
  return TRUE;
}

/* The flow puts these in the place of what it finds of the frame. */
static void
correct (NfStream *self, const NfCorrections *corrections)
{
  static const NfCorrections none = { 0 };
  g_autofree NfCorrections *streams = g_new (NfCorrections, self->B);
  for (guint b = 0; b < self->B; b++)
    streams[b] = nf_corrections_of_sample (corrections ? corrections : &none, b);
  nf_flow_correct (self->flow, streams, self->B);
}

/* Pixels on the device, if there are any, into FRAMES. */
static gboolean
download (NfStream *self, const NfFrame *frames, GError **error)
{
  for (guint b = 0; self->shown && b < self->B; b++)
    if (!nf_staging_download (&self->staging[b], self->ops, self->model, &frames[b], error))
      return fail_stream (self, b, error);
  return TRUE;
}

static gboolean
decode (NfStream *self, const float *latents, const float *actions, gboolean drawn,
        const NfDecodeOptions *options, const NfFrame *frames, GError **error)
{
  const gsize n = nf_stream_count_latents (self);
  gint64 time = g_get_monotonic_time ();
  if (!nf_decode_options_check (options, nf_model_get_config (self->model), error))
    return FALSE;
  if (options->guidance != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "guidance %g: streams of videos are decoded without, it must be 0", options->guidance);
      return FALSE;
    }
  if (!check_frames (self, frames, actions, error)
      || (options->corrections
          && !nf_corrections_check (options->corrections, nf_model_get_config (self->model), self->B,
                                    (gsize)self->N * self->D, error)))
    return FALSE;

  NfStreamWindow *window = open_window (self);
  self->cache[self->T - 1] = window->cache;
  self->report = (NfInverseReport){ 0 };
  write_actions (self, window, actions);
  if (!drawn)
    draw_noise (self, self->index);
  nf_ops_write (self->ops, nf_view (self->latents, 0), latents, n * sizeof *latents);
  const double upload = nf_stats_lap (&time);
  begin (self, window);
  NfDecodeOptions how = *options;
  if (drawn && self->noisy)
    how.snap = FALSE; /* a drawn frame lies on no lattice */
  const NfFlowFrame inverse = { .B = self->B,
                                .f = window->frames,
                                .caches = self->cache,
                                .condition = nf_stream_condition (self, window, 0),
                                .u = window->u,
                                .z = self->z,
                                .x = self->between[0],
                                .changes = self->changes,
                                .latents = self->latents,
                                .tokens = &self->tokens };
  correct (self, options->corrections);
  const gboolean found
      = nf_flow_inverse_frame (self->flow, &inverse, &how, tell, self, &self->report, error) != NULL;
  nf_flow_correct (self->flow, NULL, 0);
  if (!found || !finish_frame (self, window, drawn, error) || !nf_ops_finish (self->ops, error))
    return FALSE;
  const double kernels = nf_stats_lap (&time);
  if (!download (self, frames, error))
    return FALSE;
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

gboolean
nf_stream_decode (NfStream *self, const float *latents, const float *action, gboolean drawn,
                  const NfDecodeOptions *options, const NfFrame *frame, GError **error)
{
  static const NfDecodeOptions lossless = { .snap = TRUE };
  g_return_val_if_fail (NF_IS_STREAM (self) && latents && frame, FALSE);
  const gboolean sound = check_finite (self, "latents", latents, self->B, (gsize)self->N * self->D, error);
  self->shown = FALSE;
  if (sound && decode (self, latents, action, drawn, options ? options : &lossless, frame, error))
    return TRUE;
  if (sound || self->held->len == 0)
    nf_stream_reset (self);
  return FALSE;
}

gboolean
nf_stream_drain (NfStream *self, const NfFrame *frame, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self) && frame, FALSE);
  NfStreamWindow *window = &self->windows[self->current];
  self->shown = FALSE;
  if (self->held->len == 0)
    return TRUE;
  if (check_frames (self, frame, NULL, error) && show_held (self, window, window->frames, error)
      && nf_ops_finish (self->ops, error) && download (self, frame, error))
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
      nf_stream_reset (self);
      return FALSE;
    }
  const gsize n = nf_stream_count_latents (self), one = n / self->B;
  g_autofree float *drawn = latents ? NULL : g_new (float, n);
  float *z = latents ? latents : drawn;
  for (guint b = 0; b < self->B; b++)
    nf_random_normal (seed + b, number, one, temperature, z + b * one);
  return nf_stream_decode (self, z, action, TRUE, options, frame, error);
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
  g_autofree float *latents = g_new0 (float, nf_stream_count_latents (self));
  g_autofree NfFrame *frames = g_new0 (NfFrame, self->B);

  for (guint b = 0; b < self->B; b++)
    {
      frames[b].width = width;
      frames[b].height = height;
      for (guint i = 0; i < G_N_ELEMENTS (frames[b].planes); i++)
        frames[b].planes[i] = (NfPlane){ samples, (gint)width, 1 };
    }
  nf_stream_reset (self);
  gboolean done = nf_stream_encode (self, frames, NULL, latents, NULL, NULL, error);
  for (guint i = 0; done && i <= nf_stream_get_look_ahead (self); i++)
    done = nf_stream_decode (self, latents, NULL, self->noisy, NULL, frames, error);
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
