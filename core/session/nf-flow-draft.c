/* normflow: pictures decoded from a draft that encoding proves. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-private.h"
#include "nf-random.h"

#include <math.h>
#include <string.h>

/* Latents that were made of 8-bit samples need no exact arithmetic on the way back: values of block 0 fall on
 * one of 256 points each, so an error below half of an 8-bit step in what the blocks before it say is gone.
 * A draft decodes in windows as nf_flow_inverse() does, but
 *
 * - a token has settled when it changes by less than a tolerance,
 * - a sweep goes on with what the token before changed by: x_n += A (x_n-1 - what the sweep read of it),
 * where A, a matrix a block, is how a token answers to the one before it in the mean (Newton's method within
 * the window with the part of the Jacobian that is largest),
 * - a token that enters the window begins as what a linear function of its latent and the token before says,
 * - values of block 0 snap to the points that their places have (NF_DEQUANTISE_LATTICE), not to any of the 32
 *   in a bin.
 *
 * Then the picture is encoded. Encoding is a function, so if latents come out bit for bit the picture is one
 * that has these latents: nothing was lost. Else they were no picture's, or the draft went wrong: all is
 * decoded exactly.
 *
 * A and the linear function are measured on the second picture that was decoded exactly: it takes about as
 * long as eight pictures take to encode, which would be in vain for one alone. */

#define TOLERANCE_DEEP 3e-4 /* of the block that is inverted first: the others pass its errors on */
#define TOLERANCE 1e-3
#define TOLERANCE_ROUNDED 1e-2 /* rounded operands answer any error by about 1e-3 */
#define SHARPER 0.1            /* times the tolerance after a draft that was wrong */
#define N_SHARPER 2
#define RELAX 16         /* drafts that a sharper tolerance serves */
#define LATEST 0.3       /* weight of the latest time of a draft in their mean */
#define NUDGE 0.01f      /* perturbations by which slopes are measured: about an 8-bit step */
#define N_NUDGES 7       /* perturbed pictures, at least */
#define RIDGE 3e-3       /* times the mean square of what is known, of slopes */
#define RIDGE_FAR 3e-2   /* and of the linear function, which is measured on one picture */
#define MAX_FEATURES 192 /* wider tokens would have larger matrices than a step is worth */
#define MAX_SAMPLES 7
#define MEASURED_ON 2 /* which of the pictures that were decoded exactly */
#define TRY_AGAIN 64  /* decodings after which what was slower is tried again */
#define HOPELESS 0.75 /* of the steps token by token: a draft that takes so many is given up */

/* Seconds for so many samples, 0 before they were measured. */
typedef struct
{
  double exact, draft;
  guint decodings;
} Times;

struct _NfFlowDraft
{
  NfBuffer *latents, *natural, *places; /* (B, N, D), places also in block 0's order */
  NfBuffer *before;                     /* (B, window, D) */
  NfBuffer *weights;                    /* of each block slopes (D, D), guess (2 D + 1, D) */
  gboolean measured;
  guint exact;     /* pictures that were decoded exactly, until then */
  guint wait;      /* decodings before the next draft */
  guint misses;    /* decodings one after the other that encoding did not confirm */
  guint sharpness; /* how often the tolerance was sharpened, and how many drafts it has served since */
  guint served;
  Times times[MAX_SAMPLES + 1];
};

typedef struct
{
  NfFlow *flow;
  guint B;
  gboolean (*step) (gpointer data, guint done, guint all);
  gpointer data;
  NfInverseReport *report;
  GError **error;
  guint done;
  guint64 sweeps;
} Drafting;

void
nf_flow_draft_free (NfFlowDraft *draft)
{
  g_clear_pointer (&draft->latents, nf_buffer_free);
  g_clear_pointer (&draft->natural, nf_buffer_free);
  g_clear_pointer (&draft->places, nf_buffer_free);
  g_clear_pointer (&draft->before, nf_buffer_free);
  g_clear_pointer (&draft->weights, nf_buffer_free);
  g_free (draft);
}

static gsize
weights_at (NfFlow *flow, guint t)
{
  const gsize D = flow->shape.D;
  return t * (3 * D + 1) * D;
}

gboolean
nf_flow_prepare_draft (NfFlow *flow, GError **error)
{
  const NfTokens *tokens = nf_model_get_tokens (flow->model);
  const gsize N = flow->shape.N, D = flow->shape.D;

  if (flow->draft)
    return TRUE;
  if (tokens->steps <= 0 || flow->frames != 1 || D > MAX_FEATURES || N < 2)
    return TRUE;
  for (guint t = 0; t < flow->T; t++)
    if (flow->sequences[t].prefix || flow->sequences[t].extra || flow->sequences[t].N != N)
      return TRUE;
  /* work memory of encoding must be there before latents are: it may take their place */
  if (!nf_flow_prepare (flow, NF_FLOW_ENCODE, error))
    return FALSE;
  if (flow->batch[NF_FLOW_ENCODE] < 2)
    return TRUE;

  NfFlowDraft *draft = flow->draft = g_new0 (NfFlowDraft, 1);
  draft->latents = nf_ops_alloc (flow->ops, MAX_SAMPLES * N * D);
  draft->natural = nf_ops_alloc (flow->ops, MAX_SAMPLES * N * D);
  draft->places = nf_ops_alloc (flow->ops, MAX_SAMPLES * N * D);
  draft->before = nf_ops_alloc (flow->ops, (gsize)MAX_SAMPLES * NF_FLOW_WINDOW * D);
  draft->weights = nf_ops_alloc (flow->ops, weights_at (flow, flow->T));
  return nf_ops_finish (flow->ops, error);
}

guint
nf_flow_drafts (NfFlow *flow)
{
  return flow->draft ? MIN (MAX_SAMPLES, flow->batch[NF_FLOW_ENCODE]) : 0;
}

NfBuffer *
nf_flow_get_places (NfFlow *flow)
{
  return flow->draft->natural;
}

/* Drafts */

/* x of block t from z, both in its order; whether it is worth going on is *HOPE. */
static gboolean
draft_block (Drafting *self, guint t, NfBuffer *z, NfBuffer *x, NfView places, double tolerance,
             gboolean *hope)
{
  NfFlow *flow = self->flow;
  NfFlowDraft *draft = flow->draft;
  NfOps *ops = flow->ops;
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  const NfBlockSequence *sequence = &flow->sequences[t];
  const NfTokens *tokens = nf_model_get_tokens (flow->model);
  const NfCondition condition = nf_flow_condition (flow, t);
  const NfAffine affine = nf_block_affine (block, sequence, self->B);
  const guint B = self->B, N = flow->shape.N, shift = block->sos.buffer ? 0 : 1,
              window = MIN (flow->cache[t]->layers->count, NF_FLOW_WINDOW);
  const gsize D = flow->shape.D, sample = N * D;
  const NfView slopes = nf_view (draft->weights, weights_at (flow, t)), far = nf_view_add (slopes, D * D);
  g_autofree float *changes = g_new (float, (gsize)B *window);

  nf_ops_copy_rows (ops, nf_view (z, 0), sample, nf_view (x, 0), sample, D, B);
  if (shift) /* the first token stays as it is */
    nf_ops_settle (ops, nf_view (x, 0), draft->before, slopes, places, tokens, flow->changes, B, N, 0, 1);
  for (guint n = shift, entered = 1; n < N;)
    {
      const guint count = MIN (window, N - n);
      const NfInverse inverse = { .n0 = n, .count = count, .o_rows = count };
      guint settled = count;

      if (n + count > entered)
        nf_ops_foresee (ops, nf_view (z, 0), nf_view (x, 0), far, B, N, (guint)D, entered,
                        n + count - entered);
      entered = n + count;
      nf_ops_copy_rows (ops, nf_view (x, n * D), sample, nf_view (draft->before, 0), count * D, count * D, B);
      nf_block_extend (ops, block, sequence, flow->cache[t], nf_view (x, 0), B, 1, &condition, n - shift,
                       count, 1.0f);
      nf_ops_affine_inverse (ops, &affine, &inverse, nf_view (z, 0), nf_view (x, 0), flow->cache[t]->o,
                             tokens);
      nf_ops_settle (ops, nf_view (x, 0), draft->before, slopes, places, tokens, flow->changes, B, N, n,
                     count);
      if (!nf_ops_read (ops, nf_view (flow->changes, 0), changes, (gsize)B * count * sizeof *changes,
                        self->error))
        return FALSE;
      self->report->passes++;
      self->report->rows += (guint64)B * count;
      /* the first one that moved has read settled ones; its own row has not read it */
      for (guint b = 0; b < B; b++)
        for (guint i = 0; i < settled; i++)
          if (!((double)changes[(gsize)b * count + i] <= tolerance))
            settled = i + 1;
      n += settled;
      self->done += settled;
      if (self->step && !self->step (self->data, self->done, flow->T * N))
        {
          g_set_error (self->error, NF_ERROR, NF_ERROR_CANCELLED, "decoding was cancelled");
          return FALSE;
        }
      if (++self->sweeps > HOPELESS * flow->T * N)
        {
          *hope = FALSE;
          return TRUE;
        }
    }
  return TRUE;
}

/* Whether the picture in the output has the latents in draft->latents. They go to the input again, and the
 * picture stays in the output. */
static gboolean
certify (Drafting *self, gboolean *certain)
{
  NfFlow *flow = self->flow;
  const gsize n = (gsize)self->B * flow->shape.N * flow->shape.D;
  g_autofree float *wanted = g_new (float, n), *got = g_new (float, n);

  nf_ops_copy (flow->ops, nf_view (flow->output, 0), nf_view (flow->input, 0), n);
  nf_flow_forward (flow, self->B, NULL);
  nf_flow_standardise (flow, self->B);
  nf_ops_read_later (flow->ops, nf_view (flow->draft->latents, 0), wanted, n * sizeof *wanted);
  if (!nf_ops_read (flow->ops, nf_view (flow->output, 0), got, n * sizeof *got, self->error))
    return FALSE;
  nf_ops_copy (flow->ops, nf_view (flow->input, 0), nf_view (flow->output, 0), n);
  nf_ops_copy (flow->ops, nf_view (flow->draft->latents, 0), nf_view (flow->input, 0), n);
  self->report->passes += flow->T;
  self->report->rows += (guint64)flow->T * self->B * flow->shape.N;
  *certain = TRUE;
  for (gsize i = 0; i < n && *certain; i++)
    *certain = wanted[i] == got[i];
  return TRUE;
}

/* The output of the input, if *CERTAIN. The input stays. */
static gboolean
draft_all (Drafting *self, gboolean *certain)
{
  NfFlow *flow = self->flow;
  NfFlowDraft *draft = flow->draft;
  const guint N = flow->shape.N, D = flow->shape.D;
  const NfView none = nf_view (NULL, 0);
  const gboolean rounded = nf_device_rounds_operands (nf_model_get_device (flow->model));
  const double sharp = pow (SHARPER, draft->sharpness);
  NfBuffer *from = flow->input;
  gboolean was = FALSE, hope = TRUE;

  *certain = FALSE;
  for (guint t = flow->T; t-- > 0 && hope;)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const gboolean last = t + 1 == flow->T;
      const double tolerance = t == 0    ? 0
                               : rounded ? TOLERANCE_ROUNDED
                               : last    ? sharp * TOLERANCE_DEEP
                                         : sharp * TOLERANCE;
      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (flow->spare, 0), self->B, N, D,
                      block->flip != was, N, last ? nf_model_get_deviations (flow->model) : none);
      if (t == 0)
        nf_ops_reorder (flow->ops, nf_view (draft->natural, 0), nf_view (draft->places, 0), self->B, N, D,
                        block->flip, N, none);
      if (!draft_block (self, t, flow->spare, flow->output, t ? none : nf_view (draft->places, 0), tolerance,
                        &hope))
        return FALSE;
      from = flow->output;
      was = block->flip;
    }
  if (!hope)
    return TRUE;
  if (was)
    {
      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (flow->spare, 0), self->B, N, D, TRUE, N, none);
      flow->output = flow->spare;
      flow->spare = from;
    }
  return certify (self, certain);
}

/* Measuring */

/* Adds rows of x (P) and y (D) to the sums of xxᵀ and xyᵀ. */
static void
add_row (double *squares, double *products, const double *x, gsize P, const float *y, gsize D)
{
  for (gsize i = 0; i < P; i++)
    {
      for (gsize j = 0; j <= i; j++)
        squares[i * P + j] += x[i] * x[j];
      for (gsize j = 0; j < D; j++)
        products[i * D + j] += x[i] * (double)y[j];
    }
}

/* W (P, D) with the least |xW - y|² + ridge |W|², by Cholesky's decomposition; SQUARES is overwritten. */
static void
solve (double *squares, double *products, gsize P, gsize D, double ridge, float *W)
{
  double mean = 0;
  for (gsize i = 0; i < P; i++)
    mean += squares[i * P + i] / (double)P;
  for (gsize i = 0; i < P; i++)
    {
      double *row = squares + i * P;
      row[i] += ridge * mean + G_MINDOUBLE;
      for (gsize j = 0; j <= i; j++)
        {
          const double *other = squares + j * P;
          double s = row[j];
          for (gsize k = 0; k < j; k++)
            s -= row[k] * other[k];
          row[j] = j < i ? s / other[j] : sqrt (MAX (s, G_MINDOUBLE));
        }
      for (gsize d = 0; d < D; d++)
        {
          double s = products[i * D + d];
          for (gsize k = 0; k < i; k++)
            s -= row[k] * products[k * D + d];
          products[i * D + d] = s / row[i];
        }
    }
  for (gsize i = P; i-- > 0;)
    for (gsize d = 0; d < D; d++)
      {
        double s = products[i * D + d];
        for (gsize k = i + 1; k < P; k++)
          s -= squares[k * P + i] * products[k * D + d];
        products[i * D + d] = s / squares[i * P + i];
        W[i * D + d] = (float)products[i * D + d];
      }
}

static void
copy_ordered (const float *from, float *to, gsize N, gsize D, gboolean flip)
{
  for (gsize n = 0; n < N; n++)
    memcpy (to + n * D, from + (flip ? N - 1 - n : n) * D, D * sizeof *to);
}

/* Slopes and guess of block t from its input u and output z (N, D), both in its order. */
static gboolean
measure_block (Drafting *self, guint t, const float *u, const float *z)
{
  NfFlow *flow = self->flow;
  NfOps *ops = flow->ops;
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  const NfBlockSequence *sequence = &flow->sequences[t];
  const guint R = MIN (flow->batch[NF_FLOW_ENCODE], N_NUDGES + 1), N = flow->shape.N,
              shift = block->sos.buffer ? 0 : 1;
  const gsize D = flow->shape.D, n = N * D, P = 2 * D + 1;
  const NfCondition condition = nf_flow_condition (flow, t);
  const NfAffine affine = nf_block_affine (block, sequence, R);
  const NfInverse inverse = { .n0 = 1, .count = N - 1, .o_rows = N, .o_first = 1 - shift };
  g_autofree float *nudged = g_new (float, R *n), *answers = g_new (float, R *n),
                   *weights = g_new (float, weights_at (flow, 1));
  g_autofree double *squares = g_new0 (double, P *P), *products = g_new0 (double, P *D),
                    *x = g_new (double, P);

  for (guint done = 0; done < N_NUDGES; done += R - 1)
    {
      nf_random_normal (t, done, (R - 1) * n, (double)NUDGE, nudged + n);
      for (guint r = 0; r < R; r++)
        {
          for (gsize i = 0; i < n; i++)
            nudged[r * n + i] = u[i] + (r ? nudged[r * n + i] : 0);
          memcpy (answers + r * n, z, n * sizeof *z);
        }
      nf_ops_write (ops, nf_view (flow->input, 0), nudged, R * n * sizeof *nudged);
      nf_ops_write (ops, nf_view (flow->spare, 0), answers, R * n * sizeof *answers);
      nf_block_predict (ops, block, sequence, flow->encoding[t], nf_view (flow->input, 0), R, &condition);
      nf_ops_affine_inverse (ops, &affine, &inverse, nf_view (flow->spare, 0), nf_view (flow->output, 0),
                             flow->encoding[t]->o, nf_model_get_tokens (flow->model));
      if (!nf_ops_read (ops, nf_view (flow->output, 0), answers, R * n * sizeof *answers, self->error))
        return FALSE;
      self->report->passes++;
      self->report->rows += (guint64)R * N;
      for (gsize r = 1; r < R; r++)
        for (gsize i = D; i < n; i += D)
          {
            float *answer = answers + r * n + i;
            for (gsize d = 0; d < D; d++)
              {
                x[d] = (double)(nudged[r * n + i - D + d] - u[i - D + d]);
                answer[d] -= answers[i + d];
              }
            add_row (squares, products, x, D, answer, D);
          }
    }
  solve (squares, products, D, D, RIDGE, weights);
  memset (squares, 0, P * P * sizeof *squares);
  memset (products, 0, P * D * sizeof *products);
  for (gsize i = D; i < n; i += D)
    {
      for (gsize d = 0; d < D; d++)
        {
          x[d] = (double)u[i - D + d];
          x[D + d] = (double)z[i + d];
        }
      x[2 * D] = 1;
      add_row (squares, products, x, P, u + i, D);
    }
  solve (squares, products, P, D, RIDGE_FAR, weights + D * D);
  nf_ops_write (ops, nf_view (flow->draft->weights, weights_at (flow, t)), weights,
                weights_at (flow, 1) * sizeof *weights);
  return TRUE;
}

/* What drafts need, from the picture in the output, which stays. */
static gboolean
measure (Drafting *self)
{
  static const NfFlowCondition nothing = { 0 };
  NfFlow *flow = self->flow;
  const guint T = flow->T;
  const gsize N = flow->shape.N, D = flow->shape.D, n = N * D, all = self->B * n;
  g_autofree float *x = g_new (float, all), *blocks = g_new (float, T *n), *u = g_new (float, n),
                   *z = g_new (float, n);
  const NfFlowTrace trace = { .blocks = blocks, .stride = n };

  if (!nf_ops_read (flow->ops, nf_view (flow->output, 0), x, all * sizeof *x, self->error))
    return FALSE;
  nf_flow_set_condition (flow, &nothing, MIN (flow->batch[NF_FLOW_ENCODE], N_NUDGES + 1), 1);
  nf_ops_copy (flow->ops, nf_view (flow->output, 0), nf_view (flow->input, 0), n);
  nf_flow_forward (flow, 1, &trace);
  if (!nf_ops_finish (flow->ops, self->error))
    return FALSE;
  self->report->passes += T;
  self->report->rows += T * N;
  for (guint t = 0; t < T; t++)
    {
      const gboolean flip = nf_model_get_block (flow->model, t)->flip;
      copy_ordered (t ? blocks + (t - 1) * n : x, u, N, D, flip);
      copy_ordered (blocks + t * n, z, N, D, flip);
      if (!measure_block (self, t, u, z))
        return FALSE;
    }
  nf_ops_write (flow->ops, nf_view (flow->output, 0), x, all * sizeof *x);
  flow->draft->measured = TRUE;
  return TRUE;
}

/* Choosing */

/* Whether a draft is tried, going by what was faster for as many samples. */
static gboolean
choose (NfFlowDraft *draft, Times *times)
{
  if (draft->wait > 0)
    {
      draft->wait--;
      return FALSE;
    }
  if (!draft->measured || times->exact == 0)
    return FALSE;
  if (times->draft > times->exact && ++times->decodings > TRY_AGAIN)
    *times = (Times){ .exact = times->exact };
  return times->draft <= times->exact;
}

/* These latents were no picture's, so it seems: the next ones are not either, perhaps. */
static void
miss (NfFlowDraft *draft)
{
  draft->wait = MIN ((1u << draft->misses) - 1, TRY_AGAIN);
  draft->misses = MIN (draft->misses + 1, 8);
}

/* A draft with the tolerance that served last, then with sharper ones. */
static gboolean
try_drafts (Drafting *self, gboolean *certain)
{
  NfFlowDraft *draft = self->flow->draft;
  const gboolean rounded = nf_device_rounds_operands (nf_model_get_device (self->flow->model));

  for (guint begin = draft->sharpness;; draft->sharpness++)
    {
      self->done = 0;
      self->sweeps = 0;
      if (!draft_all (self, certain))
        return FALSE;
      if (*certain || rounded || draft->sharpness == N_SHARPER)
        {
          if (!*certain)
            draft->sharpness = begin;
          break;
        }
    }
  if (*certain)
    self->report->drafted += self->B;
  if (*certain)
    draft->misses = 0;
  else
    miss (draft);
  if (*certain && draft->sharpness > 0 && ++draft->served > RELAX)
    {
      draft->sharpness--;
      draft->served = 0;
    }
  return TRUE;
}

gboolean
nf_flow_inverse_picture (NfFlow *flow, guint B, const NfDecodeOptions *options,
                         gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                         NfInverseReport *report, GError **error)
{
  NfFlowDraft *draft = flow->draft;
  Drafting self = { flow, B, step, data, report, error };
  const gsize n = (gsize)B * flow->shape.N * flow->shape.D;
  gboolean certain = FALSE;

  g_assert (B > 0 && B <= nf_flow_drafts (flow));
  Times *times = &draft->times[B];
  const gint64 begin = g_get_monotonic_time ();
  nf_ops_copy (flow->ops, nf_view (flow->input, 0), nf_view (draft->latents, 0), n);
  const gboolean tried = choose (draft, times);
  if (tried && !try_drafts (&self, &certain))
    return FALSE;

  const gint64 start = g_get_monotonic_time ();
  if (!certain)
    {
      nf_ops_copy (flow->ops, nf_view (draft->latents, 0), nf_view (flow->input, 0), n);
      if (!nf_flow_inverse (flow, B, options, 0, step, data, report, error))
        return FALSE;
      times->exact = 1e-6 * (double)(g_get_monotonic_time () - start);
    }
  if (!nf_ops_finish (flow->ops, error))
    return FALSE;
  if (tried)
    {
      const double seconds = 1e-6 * (double)(g_get_monotonic_time () - begin);
      times->draft += times->draft > 0 ? LATEST * (seconds - times->draft) : seconds;
    }
  if (draft->measured || draft->wait > 0 || ++draft->exact < MEASURED_ON)
    return TRUE;
  if (!certify (&self, &certain))
    return FALSE;
  if (certain)
    return measure (&self) && nf_ops_finish (flow->ops, error);
  miss (draft);
  return nf_ops_finish (flow->ops, error);
}
