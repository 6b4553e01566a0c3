/* normflow: frames of a stream without their noise. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-stream-private.h"

#include "nf-session-private.h"

/* A model of Gaussian noise draws noisy frames, and those it remembers. What is shown is the posterior mean
 * of the clean frame, x = y + sigma² ∇ log p(y | the frames before it) (Tweedie), where the gradient is what
 * a learned denoiser says (flow-score matching, arXiv 2511.20462) or, without one, that of the flow itself.
 */

/* The learned denoiser */

/* Rows of COUNT frames from f on through the denoiser, upon the keys and values of those before them. Those
 * of f stay; the others are put there again when they have seen what they are to see. The text sees the
 * window's first frames, goes through with them, and stays. */
static void
extend_denoiser (NfStream *self, NfStreamWindow *window, guint f, guint count)
{
  const NfFlowBlock *denoiser = nf_model_get_denoiser (self->model);
  const NfBlockSequence *sequence = &self->flow->sequences[self->T];
  const NfCondition condition = nf_stream_condition (self, NULL, 0);
  const NfView y = nf_view (window->y, 0);
  if (f == 0)
    nf_block_begin_among (self->ops, denoiser, sequence, window->denoiser, y, self->B, &condition,
                          count * self->N);
  nf_block_extend (self->ops, denoiser, sequence, window->denoiser, y, self->B, 1, &condition, f * self->N,
                   count * self->N, 1.0f);
}

/* Takes the memory of both windows when the first frame is drawn: a stream that only encodes has no use for
 * it. */
static gboolean
begin_denoiser (NfStream *self, GError **error)
{
  const guint ahead = MAX (nf_model_get_config (self->model)->temporal_causal, 1) - 1;
  if (self->windows[0].denoiser)
    return TRUE;
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    self->windows[i].denoiser
        = nf_block_cache_new (self->ops, nf_model_get_denoiser (self->model), &self->flow->sequences[self->T],
                              self->B, (ahead + 1) * self->N, FALSE);
  if (nf_ops_finish (self->ops, error))
    return TRUE;
  /* not whole */
  for (guint i = 0; i < G_N_ELEMENTS (self->windows); i++)
    g_clear_pointer (&self->windows[i].denoiser, nf_block_cache_free);
  return FALSE;
}

/* Frames up to f join what the denoiser remembers; returns how many frames' rows went through with f. */
static guint
catch_up (NfStream *self, NfStreamWindow *window, guint f, guint known)
{
  const guint ahead = nf_stream_get_look_ahead (self);
  guint count = 0;
  for (; window->denoised <= f; window->denoised++)
    {
      count = MIN (ahead + 1, known - window->denoised);
      extend_denoiser (self, window, window->denoised, count);
    }
  return count;
}

void
nf_stream_denoiser_follow (NfStream *self, NfStreamWindow *window, const NfStreamWindow *from)
{
  const guint ahead = nf_stream_get_look_ahead (self);
  /* not before a frame was denoised, which then takes all frames before it; afterwards each at once, so that
   * no frame takes longer than another */
  if (!from->denoiser || from->denoised + ahead < from->frames || window->frames < ahead)
    return;
  catch_up (self, window, window->frames - ahead, window->frames + 1);
}

static gboolean
denoise_learned (NfStream *self, NfStreamWindow *window, guint f, guint known, GError **error)
{
  const gsize frame = (gsize)self->N * self->D;
  const NfView said = nf_view (self->between[1], 0);
  if (!begin_denoiser (self, error))
    return FALSE;
  const guint count = catch_up (self, window, f, known);
  nf_ops_copy_rows (self->ops, nf_view (window->denoiser->o, 0), count * frame, said, frame, frame, self->B);
  nf_ops_denoise (self->ops, nf_view (self->input, 0), said, nf_view (self->latents, 0),
                  (float)NF_FLOW_DENOISER_CONSTANT, self->B * frame);
  return TRUE;
}

void
nf_stream_window_clear_denoiser (NfStreamWindow *window)
{
  g_clear_pointer (&window->denoiser, nf_block_cache_free);
  g_clear_pointer (&window->y, nf_buffer_free);
}

/* A step along the score */

static NfBuffer *
own (NfStreamScore *score, NfOps *ops, gsize floats)
{
  NfBuffer *buffer = nf_ops_alloc (ops, floats);
  if (buffer)
    g_ptr_array_add (score->buffers, buffer);
  return buffer;
}

static NfStreamScore *
score_new (NfStream *self)
{
  NfStreamScore *score = g_new0 (NfStreamScore, 1);
  const gsize frame = (gsize)self->N * self->D;

  score->buffers = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  score->tapes = g_new0 (NfBlockTape *, self->T + 1);
  score->scratches = g_new0 (NfBlockScratch *, self->T + 1);
  score->inputs = g_new0 (NfBuffer *, self->T + 1);
  for (guint t = 0; t < self->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (self->model, t);
      score->tapes[t] = nf_block_tape_new (self->ops, block, &self->flow->sequences[t], 1, TRUE);
      score->scratches[t] = nf_block_scratch_new (self->ops, block, &self->flow->sequences[t], 1);
      score->inputs[t] = own (score, self->ops, frame);
    }
  score->z = own (score, self->ops, frame);
  score->d[0] = own (score, self->ops, frame);
  score->d[1] = own (score, self->ops, frame);
  score->log_det = own (score, self->ops, self->N);
  score->half_square = own (score, self->ops, self->N);
  return score;
}

void
nf_stream_score_free (NfStreamScore *score)
{
  for (guint t = 0; score->tapes[t]; t++)
    {
      nf_block_tape_free (score->tapes[t]);
      nf_block_scratch_free (score->scratches[t]);
    }
  g_ptr_array_unref (score->buffers);
  g_free (score->tapes);
  g_free (score->scratches);
  g_free (score->inputs);
  g_free (score);
}

/* Whether what block t writes runs the other way than it reads: the next block wants it so, the latents are
 * in natural order. */
static gboolean
turns (NfStream *self, guint t)
{
  const gboolean next = t + 1 < self->T && nf_model_get_block (self->model, t + 1)->flip;
  return nf_model_get_block (self->model, t)->flip != next;
}

/* The deep block's part, of stream b: from the frames up to f to du of frame f. The terms of the frames
 * before do not depend on it, and their rows do not see it: what they are to it the window remembers. */
static NfView
score_deep (NfStream *self, NfStreamWindow *window, guint b, guint f)
{
  NfStreamScore *score = self->score;
  const guint t = self->T - 1;
  const NfFlowBlock *block = nf_stream_deep_block (self);
  const NfCondition condition = nf_stream_condition (self, window, b);
  const NfView u = nf_view (window->u, b * nf_stream_window_step (self)), none = nf_view (NULL, 0);
  NfBlockSequence sequence = *nf_stream_deep_sequence (self);

  sequence.N = (f + 1) * self->N;
  sequence.rows.S = nf_block_rows (&sequence);
  sequence.rows.first = nf_block_row (&sequence, f * self->N);
  sequence.rows.past = window->cache->layers;
  sequence.rows.sample = b;
  nf_block_forward (self->ops, block, &sequence, score->tapes[t], u, 1, &condition, nf_view (score->z, 0),
                    score->log_det, NULL, none, turns (self, t), FALSE);
  nf_ops_prior (self->ops, nf_view (score->z, 0), score->d[1], score->half_square, 1.0f, self->N, self->D);
  nf_block_backward (self->ops, block, &sequence, score->tapes[t], score->scratches[t], u, 1, &condition,
                     nf_view (score->d[1], 0), nf_view (score->d[0], 0), turns (self, t), 1.0f, NULL);
  return nf_view (score->d[0], 0);
}

/* -∇ log p(y | past) of stream b's frame; in natural order. */
static NfView
score_frame (NfStream *self, NfStreamWindow *window, guint b, guint f)
{
  NfStreamScore *score = self->score;
  const NfCondition condition = nf_stream_condition (self, NULL, b);
  const NfView none = nf_view (NULL, 0), y = nf_view (self->input, (gsize)b * self->N * self->D);
  const gboolean flip = nf_model_get_block (self->model, 0)->flip;

  nf_ops_reorder (self->ops, y, nf_view (score->inputs[0], 0), 1, self->N, self->D, flip, self->N, none);
  for (guint t = 0; t + 1 < self->T; t++)
    nf_block_forward (self->ops, nf_model_get_block (self->model, t), &self->flow->sequences[t],
                      score->tapes[t], nf_view (score->inputs[t], 0), 1, &condition,
                      nf_view (score->inputs[t + 1], 0), score->log_det, NULL, none, turns (self, t), FALSE);
  NfView dz = score_deep (self, window, b, f);
  for (guint t = self->T - 1; t-- > 0;)
    {
      /* the deep block's gradient is in d[0] */
      const NfView du = nf_view (score->d[(self->T - 1 - t) % 2], 0);
      nf_block_backward (self->ops, nf_model_get_block (self->model, t), &self->flow->sequences[t],
                         score->tapes[t], score->scratches[t], nf_view (score->inputs[t], 0), 1, &condition,
                         dz, du, turns (self, t), 1.0f, NULL);
      dz = du;
    }
  nf_ops_reorder (self->ops, dz, nf_view (score->z, 0), 1, self->N, self->D, flip, self->N, none);
  return nf_view (score->z, 0);
}

static gboolean
denoise_by_score (NfStream *self, NfStreamWindow *window, guint f, GError **error)
{
  const double sigma = nf_model_get_config (self->model)->noise_std;
  const gsize frame = (gsize)self->N * self->D;
  if (!nf_model_need_backward (self->model, error))
    return FALSE;
  if (!self->score)
    {
      self->score = score_new (self);
      if (!nf_ops_finish (self->ops, error))
        {
          g_clear_pointer (&self->score, nf_stream_score_free);
          return FALSE;
        }
    }
  for (guint b = 0; b < self->B; b++)
    {
      const NfView gradient = score_frame (self, window, b, f);
      /* all of it is worked on vectors at a time: a frame ends where the next begins */
      nf_ops_denoise (self->ops, nf_view (self->input, b * frame), gradient,
                      nf_view (self->latents, b * frame), (float)(sigma * sigma), frame);
    }
  return TRUE;
}

gboolean
nf_stream_denoise (NfStream *self, NfStreamWindow *window, guint f, guint known, GError **error)
{
  const gsize frame = (gsize)self->N * self->D;
  if (window->y)
    nf_ops_copy_rows (self->ops, nf_stream_window_frame (self, window->y, f), nf_stream_window_step (self),
                      nf_view (self->input, 0), frame, frame, self->B);
  switch (nf_flow_choose_denoise (self->flow, self->denoise))
    {
    case NF_DENOISE_SCORE:
      return denoise_by_score (self, window, f, error);
    case NF_DENOISE_LEARNED:
      return denoise_learned (self, window, f, known, error);
    case NF_DENOISE_NONE:
    case NF_DENOISE_AUTO:
    default:
      nf_ops_copy (self->ops, nf_view (self->input, 0), nf_view (self->latents, 0), self->B * frame);
      return TRUE;
    }
}

gboolean
nf_stream_set_denoise (NfStream *self, NfDenoise denoise, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  if (!nf_decode_options_check (&(NfDecodeOptions){ .denoise = denoise }, config, error)
      || (self->noisy && !nf_flow_check_denoise (self->flow, denoise, error)))
    return FALSE;
  self->denoise = denoise;
  return TRUE;
}
