/* normflow: a flow backwards. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-private.h"

#include <math.h>
#include <string.h>

/* One primitive serves all: nf_block_extend() takes a window of candidate tokens through the network, meeting
 * what lies before them in the cache, and nf_ops_affine_inverse() makes new candidates of what it says.
 *
 * Sequentially the window is one token. In parallel (Jacobi within the window, Gauss-Seidel across; Song et
 * al. 2021, arXiv 2002.03629; Liu et al. 2025, arXiv 2505.12849) the window slides: token n of a sweep is
 * exact if every token before it already had its final value, so the sweep settles its first token and each
 * one after a run of tokens that did not change, and the next sweep begins behind them. Rows of settled
 * tokens have read settled tokens only: their keys and values are those of the accepted values, bit for bit
 * what one token at a time gives. */

/* Token steps that are enqueued before waiting, which tells progress and takes as long as a step of a small
 * model: so many that it comes once in about WAIT_EVERY seconds. With a deadline the first wait is after one,
 * since what is enqueued when it passes is still to come. */
#define LEAST_AHEAD 16
#define MOST_AHEAD 256
#define WAIT_EVERY 0.01
/* From here on a step of one token of each is bound by arithmetic: sweeps would only add some. */
#define MANY_SAMPLES 8
/* Of so many samples for each core the tokens left come sooner one by one than by sweeping them once. */
#define MANY_FOR_A_CORE 8
#define TRIAL 16     /* least tokens that say how fast a window is */
#define TRIALS 3     /* decodings in which token by token is timed: other work on the machine spoils some */
#define PATIENCE 4   /* sweeps after which a trial that is behind ends */
#define TRY_AGAIN 64 /* decodings after which the windows are tried again: machines and videos change */
#define CLEARLY 1.25 /* faster by this much is faster */
#define BEHIND 2     /* slower by this much is hopeless */

static const guint paces[NF_FLOW_N_PACES] = { 1, 8, 16, NF_FLOW_WINDOW };

typedef struct
{
  NfFlow *flow;
  const NfDecodeOptions *options;
  NfInverseReport *report;
  gboolean (*step) (gpointer data, guint done, guint all);
  gpointer data;
  GError **error;
  const NfTokens *tokens;             /* whose lattice values snap to */
  gint64 deadline;                    /* monotonic time, 0 for none */
  guint done, all;                    /* tokens of the sequences of all blocks */
  guint least_ahead, ahead, enqueued; /* steps to enqueue before the next wait, and since the last one */
  gint64 waited;                      /* monotonic time of that */

  /* the block that is being inverted */
  guint t, B; /* samples: frames count where the block is local */
  const NfFlowBlock *block;
  NfDecodeBlock way;
  const NfBlockSequence *sequence;
  NfBlockCache *cache;
  NfBuffer *changes; /* work memory of parallel decoding */
  guint first, end;  /* token of the sequence that corrections count from; behind the last that is wanted */
  guint entered;     /* windows held the tokens before this one, which have a guess */
  guint widest;      /* window */
  NfCondition condition;
  NfAffine affine;
  gboolean guided, snap;
  gboolean goes_on; /* later frames read the block's keys and values */
  float temperature;
  NfBuffer *z, *x; /* in the block's order */
} Inversion;

static gboolean
reach (Inversion *self, guint tokens, gboolean wait)
{
  if (wait && !nf_ops_finish (self->flow->ops, self->error))
    return FALSE;
  self->done += tokens;
  if (!wait || !self->step || self->step (self->data, self->done, self->all))
    return TRUE;
  g_set_error (self->error, NF_ERROR, NF_ERROR_CANCELLED, "decoding was cancelled");
  return FALSE;
}

/* What the network says of tokens n0 .. n0+count-1. */
static void
predict (Inversion *self, guint n0, guint count)
{
  const guint first = self->block->sos.buffer ? n0 : n0 - 1, branches = self->guided ? 2 : 1;
  if (self->sequence->extra && n0 % self->sequence->frame == 0)
    nf_block_begin_frame (self->flow->ops, self->block, self->sequence, self->cache, self->B, branches,
                          &self->condition, n0 / self->sequence->frame);
  nf_block_extend (self->flow->ops, self->block, self->sequence, self->cache, nf_view (self->x, 0), self->B,
                   branches, &self->condition, first, count, self->temperature);
  self->report->passes++;
  self->report->rows += (guint64)self->B * branches * count;
}

/* New values of these tokens, and by how much they changed if CHANGES is not NULL. */
static void
apply (Inversion *self, guint n0, guint count, NfBuffer *changes)
{
  const NfDecodeOptions *options = self->options;
  const guint guide = options->guide ? options->guide : NF_GUIDE_SCALE | NF_GUIDE_SHIFT,
              last = self->sequence->N - 1;
  const double step = options->annealed && last > 0 ? options->guidance / last : 0,
               w = options->annealed ? step * n0 : options->guidance;
  const NfInverse inverse = {
    .n0 = n0,
    .count = count,
    .o_rows = count,
    .guidance = self->guided ? self->block->guidance : NF_GUIDANCE_NONE,
    .w_scale0 = guide & NF_GUIDE_SCALE ? (float)w : 0.0f,
    .w_scale_step = guide & NF_GUIDE_SCALE ? (float)step : 0.0f,
    .w_shift0 = guide & NF_GUIDE_SHIFT ? (float)w : 0.0f,
    .w_shift_step = guide & NF_GUIDE_SHIFT ? (float)step : 0.0f,
    .keep_first = n0 == 0 && !self->block->sos.buffer,
    .snap = self->snap,
    .changes = changes,
    .corrected = nf_corrected_block (&self->flow->corrected, self->t, self->first),
  };
  nf_ops_affine_inverse (self->flow->ops, &self->affine, &inverse, nf_view (self->z, 0), nf_view (self->x, 0),
                         self->cache->o, self->tokens);
}

/* Tokens 0 .. given-1 of x are known: their keys and values come of them. Returns the first token to find. */
static guint
pass_given (Inversion *self, guint given)
{
  const guint window = self->cache->layers->count, frame = self->sequence->frame;
  /* without a start token the row of the last known token is the next one's to read */
  for (guint n = self->block->sos.buffer ? 0 : 1; n < given;)
    {
      const guint count = MIN (MIN (window, given - n), frame - n % frame);
      predict (self, n, count);
      n += count;
    }
  self->done += given;
  return given;
}

/* A step of one token was enqueued. */
static gboolean
reach_step (Inversion *self)
{
  const gboolean wait = ++self->enqueued >= self->ahead;
  if (!reach (self, 1, wait))
    return FALSE;
  if (!wait)
    return TRUE;
  const gint64 now = g_get_monotonic_time ();
  const double steps = self->enqueued * WAIT_EVERY * 1e6 / (double)MAX (now - self->waited, 1);
  self->ahead = (guint)CLAMP (steps, self->least_ahead, MIN (2 * self->ahead, MOST_AHEAD));
  self->enqueued = 0;
  self->waited = now;
  return TRUE;
}

static gboolean
is_late (const Inversion *self)
{
  return self->deadline && g_get_monotonic_time () >= self->deadline;
}

/* Whether sweeping what is left once ends sooner than finding it. */
static gboolean
saves_by_sweeping (const Inversion *self)
{
  return self->B < MANY_FOR_A_CORE * nf_device_count_cores (nf_ops_get_device (self->flow->ops));
}

/* Tokens *first .. end-1, one by one, until it is late, if ending EARLY is of use; *first becomes the next
 * one. They may still be on their way. */
static gboolean
run_sequential (Inversion *self, guint *first, guint end, gboolean early)
{
  for (guint n = *first; n < end && !(early && is_late (self)); *first = ++n)
    {
      if (n > 0 || self->block->sos.buffer)
        predict (self, n, 1);
      apply (self, n, 1, NULL);
      if (!reach_step (self))
        return FALSE;
    }
  return TRUE;
}

/* Candidates before the first sweep: the latents themselves, or zeros, or for later frames of a video the
 * frame before. */
static void
guess (Inversion *self, guint first)
{
  const gsize N = self->sequence->N, D = self->block->D;
  for (guint b = 0; b < self->B && first < self->end; b++)
    {
      const gsize at = (b * N + first) * D, n = (self->end - first) * D;
      if (self->way.guess == NF_GUESS_ZEROS)
        nf_ops_fill (self->flow->ops, nf_view (self->x, at), 0.0f, n);
      else
        nf_ops_copy (self->flow->ops, nf_view (self->z, at), nf_view (self->x, at), n);
    }
}

/* Tokens that a window up to END is the first to hold become those of the frame before, as far as these are
 * found by now. */
static void
guess_frame (Inversion *self, guint n, guint end)
{
  const gsize D = self->block->D, N = self->sequence->N;
  const guint F = self->sequence->frame;
  guint count;
  for (guint i = MAX (MAX (n, self->entered), F); i < end; i += count)
    {
      count = MIN (F, end - i);
      nf_ops_copy_rows (self->flow->ops, nf_view (self->x, (i - F) * D), N * D, nf_view (self->x, i * D),
                        N * D, count * D, self->B);
    }
  self->entered = MAX (self->entered, end);
}

/* How many leading tokens of a window have settled, and the largest change among those that are accepted
 * without having, which is above the tolerance of their own block. */
static guint
count_settled (const float *changes, guint B, guint count, double tolerance, gboolean accept,
               double *residual)
{
  guint settled = count;
  for (guint b = 0; b < B; b++)
    for (guint i = 0; i < settled; i++)
      if (!((double)changes[(gsize)b * count + i] <= tolerance))
        {
          /* this one has read settled tokens only; those behind it have not */
          settled = i + 1;
          break;
        }
  const guint taken = accept ? count : settled;
  for (guint b = 0; b < B; b++)
    for (guint i = settled; i < taken; i++)
      {
        const double change = (double)changes[(gsize)b * count + i];
        if (!(change <= tolerance)) /* what is no number any more is off by more than any */
          *residual = MAX (*residual, isnan (change) ? (double)INFINITY : change);
      }
  return taken;
}

/* Tokens *first .. end-1, and perhaps some beyond, in windows; *first becomes the next one. Candidates are
 * there. Ends early where it finds fewer than LEAST tokens a second, and when it is late and there are wider
 * windows. */
static gboolean
run_parallel (Inversion *self, guint *first, guint end, guint window, double least)
{
  const NfDecodeOptions *options = self->options;
  const guint frame = self->sequence->frame;
  const guint begin = *first;
  const gint64 start = g_get_monotonic_time ();
  g_autofree float *changes = g_new (float, (gsize)self->B *window);
  guint sweeps = 0, all_sweeps = 0;

  for (guint n = *first; n < end; *first = n)
    {
      const guint behind = self->sequence->extra ? n - n % frame + frame : self->end,
                  count = MIN (window, behind - n);
      if (n == 0 && !self->block->sos.buffer)
        {
          apply (self, n++, 1, NULL);
          self->done++;
          continue;
        }
      if (self->way.guess == NF_GUESS_FRAME)
        guess_frame (self, n, n + count);
      predict (self, n, count);
      apply (self, n, count, self->changes);
      if (!nf_ops_read (self->flow->ops, nf_view (self->changes, 0), changes,
                        (gsize)self->B * count * sizeof *changes, self->error))
        return FALSE;
      sweeps++;
      const gboolean late = (options->max_sweeps && sweeps >= options->max_sweeps) || is_late (self);
      const guint taken
          = count_settled (changes, self->B, count, self->way.tolerance, late, &self->report->residual);
      /* values that were accepted although they moved were not what their rows have read; those behind do */
      if (taken > 1 && (late || self->way.tolerance > 0) && (n + taken < self->end || self->goes_on))
        predict (self, n, taken);
      n += taken;
      if (taken == count || late)
        sweeps = 0;
      if (!reach (self, taken, TRUE))
        return FALSE;
      if (++all_sweeps >= PATIENCE && 1e6 * (n - begin) < least * (double)(g_get_monotonic_time () - start))
        end = n;
      if (late && window < self->widest)
        end = n;
    }
  return TRUE;
}

/* Tokens from *first on until it is late, *first becomes the next one: each stretch of them with the window
 * that was fastest for this block so far; windows that were not tried yet are, on a stretch. What comes out
 * is the same. */
static gboolean
run_fastest (Inversion *self, guint *first)
{
  NfPaces *known = &self->flow->paces[self->t];
  const guint N = self->end, half = (N - *first) / 2;

  if (known->B != self->B || known->guided != self->guided || ++known->decodings > TRY_AGAIN)
    *known = (NfPaces){ .B = self->B, .guided = self->guided };
  for (guint n = *first, tried = 0; n < N && !is_late (self); *first = n)
    {
      guint pace = 0;
      gboolean trial = FALSE;
      double best = 0;
      for (guint i = 0; i < NF_FLOW_N_PACES; i++)
        best = MAX (best, known->rate[i]);
      for (guint i = 0; i < NF_FLOW_N_PACES && !trial; i++)
        if (paces[i] > self->widest)
          break;
        else if ((i == 0 ? known->trials <= MIN (known->decodings, TRIALS - 1) : known->rate[i] == 0)
                 && tried < half && N - n >= MAX (paces[i], TRIAL))
          {
            pace = i;
            trial = TRUE;
          }
        else if (known->rate[i] > CLEARLY * known->rate[pace])
          pace = i;
        else if (known->rate[i] > 0 && known->rate[i] * BEHIND < known->rate[0])
          break; /* wider ones would be further behind */

      const guint window = paces[pace], begin = n, end = trial ? n + MAX (window, TRIAL) : N;
      /* what was enqueued before is not the trial's */
      if (trial && !nf_ops_finish (self->flow->ops, self->error))
        return FALSE;
      const gint64 start = g_get_monotonic_time ();
      if (window > 1 ? !run_parallel (self, &n, end, window, trial ? best : 0)
                     : !run_sequential (self, &n, end, TRUE))
        return FALSE;
      /* what was ended early says nothing of speed */
      if (trial && !is_late (self))
        {
          if (!nf_ops_finish (self->flow->ops, self->error))
            return FALSE;
          tried += n - begin;
          const double rate = 1e6 * (n - begin) / (double)MAX (g_get_monotonic_time () - start, 1);
          known->rate[pace] = MAX (known->rate[pace], rate);
          known->trials += pace == 0;
        }
    }
  return TRUE;
}

/* Tokens from first on. Those that are not there when it is late are swept once. */
static gboolean
find_tokens (Inversion *self, guint first)
{
  const NfDecodeOptions *options = self->options;
  const guint capacity = MIN (self->cache->layers->count, NF_FLOW_WINDOW);
  const gboolean sweeps = options->method == NF_DECODE_JACOBI || options->max_sweeps > 0;
  const guint window = self->way.window;
  const gboolean chosen = options->n_blocks && window > 1;

  /* windows of one are for tokens that are found; if it is late, the rest is swept as widely as ever */
  self->widest = window > 1 ? MIN (window, capacity) : capacity;
  if (window == 1
      || (!chosen && (options->method == NF_DECODE_SEQUENTIAL || (!sweeps && self->B >= MANY_SAMPLES))))
    {
      if (!run_sequential (self, &first, self->end, saves_by_sweeping (self)))
        return FALSE;
      if (first == self->end)
        return TRUE;
      guess (self, first);
    }
  else
    {
      guess (self, first);
      if (!sweeps && !window && !run_fastest (self, &first))
        return FALSE;
    }
  return run_parallel (self, &first, self->end, self->widest, 0);
}

/* x of block t from z, both in its order. GIVEN leading tokens of x are known. */
static gboolean
invert_block (Inversion *self, guint given)
{
  nf_block_begin (self->flow->ops, self->block, self->sequence, self->cache, self->B, self->guided ? 2 : 1,
                  &self->condition);
  return find_tokens (self, pass_given (self, given));
}

/* Block t is the next to be inverted, on B samples. */
static void
set_block (Inversion *self, guint t, guint B)
{
  const NfDecodeOptions *options = self->options;
  self->t = t;
  self->B = B;
  self->block = nf_model_get_block (self->flow->model, t);
  self->way = options->n_blocks ? options->blocks[t]
                                : (NfDecodeBlock){ options->window, options->guess, options->tolerance };
  self->sequence = &self->flow->sequences[t];
  self->first = 0;
  self->end = self->sequence->N;
  self->entered = 0;
  self->affine = nf_block_affine (self->block, self->sequence, B);
  self->snap = options->snap && t == 0;
}

static Inversion
inversion (NfFlow *flow, const NfDecodeOptions *options,
           gboolean (*step) (gpointer data, guint done, guint all), gpointer data, NfInverseReport *report,
           GError **error)
{
  const gboolean limited = options->budget_ms > 0 && options->method != NF_DECODE_SEQUENTIAL;
  const guint least_ahead = limited ? 1 : LEAST_AHEAD;
  return (Inversion){
    .flow = flow,
    .options = options,
    .report = report,
    .step = step,
    .data = data,
    .error = error,
    .tokens = nf_model_get_tokens (flow->model),
    .deadline = limited ? g_get_monotonic_time () + (gint64)(options->budget_ms * 1000) : 0,
    .temperature = options->attention_temperature > 0 ? (float)options->attention_temperature : 1.0f,
    .least_ahead = least_ahead,
    .ahead = least_ahead,
    .waited = g_get_monotonic_time (),
  };
}

gboolean
nf_flow_inverse (NfFlow *flow, guint B, const NfDecodeOptions *options, guint given,
                 gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                 NfInverseReport *report, GError **error)
{
  const guint N = flow->shape.N, D = flow->shape.D, frame = flow->shape.frame;
  NfInverseReport unread = { 0 };
  Inversion self = inversion (flow, options, step, data, report ? report : &unread, error);
  self.changes = flow->changes;
  for (guint t = 0; t < flow->T; t++)
    self.all += flow->sequences[t].N;
  if (!nf_flow_need_caches (flow, options->guidance != 0 ? 2 * B : B, error))
    return FALSE;

  NfBuffer *from = flow->input;
  for (guint t = flow->T; t-- > 0;)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const gboolean last = t + 1 == flow->T,
                     was = last ? FALSE : nf_model_get_block (flow->model, t + 1)->flip;
      NfBuffer *known = given ? flow->known[t] : NULL;
      set_block (&self, t, nf_flow_samples (flow, t, B));
      self.condition = nf_flow_condition (flow, t);
      self.cache = flow->cache[t];
      /* guidance of STARFlow needs a condition; TARFlow's second branch may differ by its attention alone */
      self.guided
          = options->guidance != 0
            && (block->guidance == NF_GUIDANCE_EXTRAPOLATE || self.sequence->prefix || self.sequence->extra);
      self.z = flow->spare;
      self.x = flow->output;
      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (self.z, 0), B, N, D, block->flip != was,
                      flow->turn, last ? nf_model_get_deviations (flow->model) : nf_view (NULL, 0));
      if (known)
        nf_ops_copy (flow->ops, nf_view (known, 0), nf_view (self.x, 0), (gsize)B * N * D);
      if (!invert_block (&self, known ? given * frame : 0))
        return FALSE;
      from = self.x;
    }
  if (nf_model_get_block (flow->model, 0)->flip)
    {
      NfBuffer *x = flow->output;
      nf_ops_reorder (flow->ops, nf_view (x, 0), nf_view (flow->spare, 0), B, N, D, TRUE, flow->turn,
                      nf_view (NULL, 0));
      flow->output = flow->spare;
      flow->spare = x;
    }
  return reach (&self, 0, TRUE);
}

NfBuffer *
nf_flow_inverse_frame (NfFlow *flow, const NfFlowFrame *frame, const NfDecodeOptions *options,
                       gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                       NfInverseReport *report, GError **error)
{
  const guint B = frame->B, F = flow->shape.frame, D = flow->shape.D, N = flow->shape.N, first = frame->f * F;
  const gsize sample = (gsize)F * D;
  const NfView none = nf_view (NULL, 0), x = nf_view (frame->x, 0), z = nf_view (frame->z, 0);
  Inversion self = inversion (flow, options, step, data, report, error);
  NfView from = nf_view (frame->latents, 0);
  gboolean was = FALSE;

  self.condition = frame->condition;
  self.changes = frame->changes;
  self.tokens = frame->tokens;
  self.z = frame->z;
  self.all = flow->T * F;
  for (guint t = flow->T; t-- > 0;)
    {
      const gboolean deep = t + 1 == flow->T;
      set_block (&self, t, B);
      self.cache = frame->caches[t];
      self.x = deep ? frame->u : frame->x;
      self.first = deep ? first : 0;
      self.end = deep ? first + F : F;
      self.goes_on = deep;
      nf_ops_reorder (flow->ops, from, deep ? x : z, B, F, D, self.block->flip != was, F, none);
      /* the deep block's sequence has other frames between those of this one */
      if (deep)
        nf_ops_copy_rows (flow->ops, x, sample, nf_view_add (z, (gsize)first * D), (gsize)N * D, sample, B);
      if (!deep) /* whose text went before its first frame */
        nf_block_begin (flow->ops, self.block, self.sequence, self.cache, B, 1, &self.condition);
      if (!find_tokens (&self, deep ? first : 0))
        return NULL;
      if (deep)
        nf_ops_copy_rows (flow->ops, nf_view (frame->u, (gsize)first * D), (gsize)N * D, x, sample, sample,
                          B);
      from = x;
      was = self.block->flip;
    }
  nf_ops_reorder (flow->ops, from, nf_view (frame->latents, 0), B, F, D, was, F, none);
  return reach (&self, 0, TRUE) ? frame->latents : NULL;
}
