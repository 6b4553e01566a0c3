/* normflow: pictures decoded from a draft that encoding proves. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-private.h"
#include "nf-hints.h"
#include "nf-random.h"

#include <math.h>
#include <string.h>

/* Latents that were made of 8-bit samples need no exact arithmetic on the way back: values of block 0 fall on
 * one of 256 points each, so an error below half of an 8-bit step in what the blocks before it say is gone.
 * A draft decodes in windows as nf_flow_inverse() does, but
 *
 * - a token has settled when it changes by less than a tolerance,
 * - values of block 0 snap to the points that their places have (NF_DEQUANTISE_LATTICE), not to any of the 32
 *   in a bin,
 * and with hints (nf-hints.h), once there are some,
 * - a sweep goes on with what the token before changed by: x_n += A (x_n-1 - what the sweep read of it),
 * where A, a matrix a block, is how a token answers to the one before it in the mean (Newton's method within
 * the window with the part of the Jacobian that is largest),
 * - a token that enters the window begins as what a linear function of its latent and the token before says.
 *
 * A picture of the same tiles as the draft before, as in a video, recalls that: a token that enters begins as
 * what it was then, moved on by what its latent and the token before it moved by.
 *
 * Then the picture is encoded. Encoding is a function, so if latents come out bit for bit the picture is one
 * that has these latents: nothing was lost. Else the draft goes on from what it found, with a sharper
 * tolerance; and if that does not help, the latents were no picture's, or it went wrong: all is decoded
 * exactly.
 *
 * Hints are read from a file beside the model, or from the cache. If there are none a session measures them
 * on its second picture: that takes as long as about five pictures take to encode, too long for one alone. */

#define TOLERANCE_DEEP 3e-4 /* of the block that is inverted first: the others pass its errors on */
#define TOLERANCE 1e-3
#define TOLERANCE_ROUNDED 1e-2 /* rounded operands answer any error by about 1e-3 */
#define SHARPER 0.1            /* times the tolerance after a draft that was wrong */
#define N_SHARPER 2
#define RELAX 16         /* drafts that a sharper tolerance serves */
#define LATEST 0.3       /* weight of the latest time of a draft in their mean */
#define NUDGE 0.01f      /* perturbations by which slopes are measured: about an 8-bit step */
#define N_NUDGES 4       /* perturbed pictures, at least */
#define MAX_FEATURES 192 /* wider tokens would have larger matrices than a step is worth */
#define MAX_SAMPLES 8
#define NO_TILE G_MAXUINT
#define MEASURED_ON 2 /* which of the pictures of a session that were drafts or decoded exactly */
#define TRY_AGAIN 64  /* decodings after which what was slower is tried again */
#define HOPELESS 0.75 /* of the steps token by token: a draft that takes so many is given up */
#define HALF_STEP (1.0 / 256)
#define ASTRAY 0.5       /* of half a step: values of a picture's draft are nearer to their points */
#define ENOUGH_ASTRAY 12 /* tokens that are looked at */
#define N_WINDOWS 4
#define STEPS 8 /* of one token each, for their time: the first ones wait for weights */
#define STEP_TRIALS 3
#define CLEARLY 0.35 /* of what steps seemed to take: needs no better knowledge */
#define MEASUREMENTS 2

/* Windows to choose from. Of the passes token by token, drafts take about SHARE times the window to the power
 * of GAIN (models of 256 tokens, trained on real frames). */
static const guint windows[N_WINDOWS] = { 16, 32, 64, 128 };
#define SHARE_RECALLED 0.7
#define SHARE_HINTED 1.25
#define SHARE 1.9
#define GAIN (-0.5)
#define TRIALS 2
#define ABOUT 1.1
#define BEHIND 1.5 /* costs as many times as much as the best: a clear loser */

/* What was seen of drafts of so many samples. */
typedef struct
{
  guint window;              /* 0 before it was chosen */
  guint blocks;              /* on which windows were tried */
  double seconds[N_WINDOWS]; /* least time of a pass of each window, 0 before it was tried */
  double exact;              /* seconds, 0 before they were measured */
  guint measured;            /* whole pictures it is of; 0: of a few steps */
  double draft[2];           /* likewise, of a draft of its own, and of one that recalls the one before */
  gboolean promising;        /* with hints drafts would be faster than token by token, it seems */
  gboolean worthwhile;       /* those that recall would be: worth a slower one to be recalled */
  guint decodings;
} Pace;

struct _NfFlowDraft
{
  guint64 generation;                   /* of the model that all of this is of */
  NfBuffer *latents, *natural, *places; /* (B, N, D), places also in block 0's order */
  NfBuffer *before;                     /* (B, window, D) */
  NfBuffer *changes;                    /* (2, B, window) */
  NfBuffer *weights;                    /* the hints: of each block slopes (D, D), guess (2 D + 1, D) */
  NfMissedList missed;                  /* what decoding would not find of the draft */
  NfRecall *found;                      /* T: the last drafts of these tiles, in the block's order */
  guint tiles[MAX_SAMPLES];             /* NO_TILE: of none */
  NfHints *hints;                       /* NULL: none */
  gboolean given;                       /* they are of a file beside the model */
  gboolean rounded;                     /* operands of products are rounded */
  guint measured;                       /* pictures that they were measured on here */
  guint pictures;                       /* that were decoded */
  guint wait;                           /* decodings before the next draft */
  guint misses;                         /* decodings one after the other that encoding did not confirm */
  guint sharpness; /* how often the tolerance was sharpened, and how many drafts it has served since */
  guint served;
  Pace paces[MAX_SAMPLES + 1];
};

typedef enum
{
  DRAFT_DONE,
  DRAFT_SLOW,   /* it would take longer than token by token */
  DRAFT_LATE,   /* it does */
  DRAFT_ASTRAY, /* these latents are no picture's */
} Outcome;

typedef struct
{
  NfFlow *flow;
  guint B;
  gboolean (*step) (gpointer data, guint done, guint all);
  gpointer data;
  NfInverseReport *report;
  GError **error;
  Pace *pace;
  gboolean insist; /* whatever the clock says */
  guint done;
  guint64 sweeps;
  gboolean recall; /* tokens that enter begin as those of the draft before */
  gboolean again;  /* the draft begins where the last one ended */
  Outcome outcome;
} Drafting;

/* FALSE if decoding was cancelled. */
static gboolean
tell (const Drafting *self, guint done)
{
  if (!self->step || self->step (self->data, done, self->flow->T * self->flow->shape.N))
    return TRUE;
  g_set_error (self->error, NF_ERROR, NF_ERROR_CANCELLED, "decoding was cancelled");
  return FALSE;
}

/* A block on its way. */
typedef struct
{
  Drafting *draft;
  const NfFlowBlock *block;
  const NfBlockSequence *sequence;
  NfBlockCache *cache;
  NfCondition condition;
  NfAffine affine;
  NfBuffer *z, *x; /* in the block's order */
  NfView places;
  NfRecall *found;
  NfView guess;     /* without a buffer if there is none */
  guint shift;      /* rows that a token's is before it */
  guint n, entered; /* the next token to settle; tokens before this one have a guess */
  guint astray;     /* tokens settled far from any point */
  double tolerance;
} Sweeping;

void
nf_flow_draft_free (NfFlowDraft *draft, guint T)
{
  for (guint t = 0; t < T; t++)
    {
      g_clear_pointer (&draft->found[t].z, nf_buffer_free);
      g_clear_pointer (&draft->found[t].x, nf_buffer_free);
      g_clear_pointer (&draft->found[t].sigmas, nf_buffer_free);
    }
  g_clear_pointer (&draft->latents, nf_buffer_free);
  g_clear_pointer (&draft->natural, nf_buffer_free);
  g_clear_pointer (&draft->places, nf_buffer_free);
  g_clear_pointer (&draft->before, nf_buffer_free);
  g_clear_pointer (&draft->changes, nf_buffer_free);
  g_clear_pointer (&draft->weights, nf_buffer_free);
  g_clear_pointer (&draft->hints, nf_hints_free);
  nf_missed_list_clear (&draft->missed);
  g_free (draft->found);
  g_free (draft);
}

/* Hints */

/* From now on drafts go by HINTS, or by none. */
static void
take_hints (NfFlow *flow, NfHints *hints)
{
  NfFlowDraft *draft = flow->draft;
  if (draft->hints != hints)
    g_clear_pointer (&draft->hints, nf_hints_free);
  draft->hints = hints;
  if (hints)
    nf_ops_write (flow->ops, nf_view (draft->weights, 0), nf_hints_get (hints),
                  flow->T * NF_HINTS_FLOATS (flow->shape.D) * sizeof (float));
  for (guint t = 0; t < flow->T; t++)
    draft->found[t].slopes = nf_view (hints ? draft->weights : NULL, t * NF_HINTS_FLOATS (flow->shape.D));
  for (guint B = 0; B <= MAX_SAMPLES; B++) /* it will be another time from now on */
    draft->paces[B].draft[FALSE] = draft->paces[B].draft[TRUE] = 0;
}

/* Those beside the model, or else in the cache. What is wrong with a file costs time only: it is left alone.
 */
static void
find_hints (NfFlow *flow)
{
  const char *model = nf_model_get_path (flow->model);
  if (!model)
    return;
  const char *digest = nf_model_get_digest (flow->model);
  g_autofree char *beside = nf_hints_path_beside (model), *cached = nf_hints_path_cached (digest);
  const char *const paths[] = { beside, cached };
  for (guint i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      g_autoptr (GError) error = NULL;
      NfHints *hints = paths[i] ? nf_hints_read (paths[i], digest, flow->T, flow->shape.D, &error) : NULL;
      if (hints)
        {
          take_hints (flow, hints);
          flow->draft->given = i == 0;
          return;
        }
      if (error && !g_error_matches (error, NF_ERROR, NF_ERROR_NOT_FOUND))
        g_warning ("%s; single pictures are decoded without these hints (normflow hints makes new ones)",
                   error->message);
    }
}

static void
keep_hints (NfFlow *flow)
{
  g_autoptr (GError) error = NULL;
  if (!nf_model_get_path (flow->model) || flow->draft->given)
    return;
  const char *digest = nf_model_get_digest (flow->model);
  g_autofree char *path = nf_hints_path_cached (digest), *folder = path ? g_path_get_dirname (path) : NULL;
  /* a cache that cannot be written costs time, not correctness: never an error */
  if (path && g_mkdir_with_parents (folder, 0700) == 0
      && !nf_hints_write (flow->draft->hints, path, digest, &error))
    g_debug ("hints: %s", error->message);
}

/* Whether there is a draft, and none that knows the model as it was before training. */
static gboolean
is_current (NfFlow *flow)
{
  return flow->draft && flow->draft->generation == nf_model_get_generation (flow->model);
}

gboolean
nf_flow_prepare_draft (NfFlow *flow, GError **error)
{
  const NfTokens *tokens = nf_model_get_tokens (flow->model);
  const gsize N = flow->shape.N, D = flow->shape.D, window = MIN (windows[N_WINDOWS - 1], N);

  if (is_current (flow))
    return TRUE;
  if (flow->draft) /* of other weights */
    nf_flow_draft_free (g_steal_pointer (&flow->draft), flow->T);
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
  const gsize samples = nf_flow_drafts (flow), all = samples * N * D;
  draft->generation = nf_model_get_generation (flow->model);
  draft->rounded = nf_device_rounds_to_bf16 (nf_model_get_device (flow->model));
  draft->latents = nf_ops_alloc (flow->ops, all);
  draft->natural = nf_ops_alloc (flow->ops, all);
  draft->places = nf_ops_alloc (flow->ops, all);
  draft->before = nf_ops_alloc (flow->ops, samples * window * D);
  draft->changes = nf_ops_alloc (flow->ops, 2 * samples * window);
  draft->weights = nf_ops_alloc (flow->ops, flow->T * NF_HINTS_FLOATS (D));
  for (guint b = 0; b < MAX_SAMPLES; b++)
    draft->tiles[b] = NO_TILE;
  draft->found = g_new0 (NfRecall, flow->T);
  for (guint t = 0; t < flow->T; t++)
    {
      draft->found[t].z = nf_ops_alloc (flow->ops, all);
      draft->found[t].x = nf_ops_alloc (flow->ops, all);
      draft->found[t].sigmas = nf_ops_alloc (flow->ops, all);
    }
  if (nf_ops_finish (flow->ops, error))
    {
      find_hints (flow);
      if (nf_ops_finish (flow->ops, error))
        return TRUE;
    }
  /* what there was memory for is no draft */
  nf_flow_draft_free (g_steal_pointer (&flow->draft), flow->T);
  return FALSE;
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

/* Tokens that the work memory of decoding has rows for, of each of B samples. */
static guint
get_capacity (NfFlow *flow, guint B)
{
  guint least = flow->shape.N;
  for (guint t = 0; t < flow->T; t++)
    least = MIN (least, flow->cache[t]->layers->rows * flow->cache[t]->layers->count / B);
  return least;
}

/* COUNT tokens from the next one on once through the network. */
static void
sweep (Sweeping *self, guint count)
{
  Drafting *drafting = self->draft;
  NfFlow *flow = drafting->flow;
  NfFlowDraft *draft = flow->draft;
  NfOps *ops = flow->ops;
  const NfTokens *tokens = nf_model_get_tokens (flow->model);
  const guint B = drafting->B, N = flow->shape.N, n = self->n;
  const gsize D = flow->shape.D, sample = N * D;
  const NfInverse inverse = { .n0 = n, .count = count, .o_rows = count, .sigmas = self->found->sigmas };

  if (n + count > self->entered)
    {
      if (drafting->recall)
        nf_ops_recall (ops, nf_view (self->z, 0), nf_view (self->x, 0), self->found, B, N, (guint)D,
                       self->entered, n + count - self->entered);
      else if (self->guess.buffer)
        nf_ops_foresee (ops, nf_view (self->z, 0), nf_view (self->x, 0), self->guess, B, N, (guint)D,
                        self->entered, n + count - self->entered);
      self->entered = n + count;
    }
  nf_ops_copy_rows (ops, nf_view (self->x, n * D), sample, nf_view (draft->before, 0), count * D, count * D,
                    B);
  nf_block_extend (ops, self->block, self->sequence, self->cache, nf_view (self->x, 0), B, 1,
                   &self->condition, n - self->shift, count, 1.0f);
  nf_ops_affine_inverse (ops, &self->affine, &inverse, nf_view (self->z, 0), nf_view (self->x, 0),
                         self->cache->o, tokens);
  nf_ops_settle (ops, nf_view (self->x, 0), draft->before, self->found->slopes, self->places, tokens,
                 draft->changes, B, N, n, count);
  drafting->report->passes++;
  drafting->report->rows += (guint64)B * count;
  drafting->sweeps++;
}

/* Sweeps COUNT tokens, and goes on behind those that have settled. */
static gboolean
advance (Sweeping *self, guint count)
{
  Drafting *drafting = self->draft;
  NfFlow *flow = drafting->flow;
  const guint B = drafting->B;
  const gsize all = (gsize)B * count;
  g_autofree float *changes = g_new (float, 2 * all);
  guint settled = count;

  sweep (self, count);
  if (!nf_ops_read (flow->ops, nf_view (flow->draft->changes, 0), changes, 2 * all * sizeof *changes,
                    drafting->error))
    return FALSE;
  /* the first one that moved has read settled ones; its own row has not read it */
  for (guint b = 0; b < B; b++)
    for (guint i = 0; i < settled; i++)
      if (!((double)changes[(gsize)b * count + i] <= self->tolerance))
        settled = i + 1;
  for (guint i = 0; i < settled && self->places.buffer; i++)
    {
      double least = 1; /* of the samples: some of them may be pictures */
      for (guint b = 0; b < B; b++)
        least = MIN (least, (double)changes[all + b * count + i]);
      self->astray += least > ASTRAY * HALF_STEP;
    }
  self->n += settled;
  drafting->done += settled;
  if (!tell (drafting, drafting->done))
    return FALSE;
  if (self->n >= ENOUGH_ASTRAY && 2 * self->astray > self->n)
    drafting->outcome = DRAFT_ASTRAY;
  else if (drafting->sweeps > HOPELESS * flow->T * flow->shape.N)
    drafting->outcome = DRAFT_LATE;
  return TRUE;
}

/* How long a pass of window i takes for what it brings. */
static double
get_cost (const Pace *pace, guint i)
{
  return pace->seconds[i] > 0 ? pace->seconds[i] * pow (windows[i], GAIN) : G_MAXDOUBLE;
}

/* Tries windows on the tokens at hand, which settle by that as they would anyhow, and chooses. A machine has
 * other work, too: the least of several times is the pass's own, and each block of a first draft adds some.
 */
static gboolean
try_windows (Sweeping *self)
{
  Drafting *drafting = self->draft;
  Pace *pace = drafting->pace;
  const guint N = drafting->flow->shape.N, capacity = get_capacity (drafting->flow, drafting->B);
  guint best = 0;

  for (guint i = 0; i < N_WINDOWS && windows[i] <= capacity; i++)
    {
      for (guint n = 0; n < TRIALS && self->n + windows[i] <= N; n++)
        {
          const gint64 start = g_get_monotonic_time ();
          if (!advance (self, windows[i]))
            return FALSE;
          const double seconds = 1e-6 * (double)(g_get_monotonic_time () - start);
          if (pace->seconds[i] == 0 || seconds < pace->seconds[i])
            pace->seconds[i] = seconds;
        }
      if (get_cost (pace, i) < get_cost (pace, best))
        best = i;
      else if (get_cost (pace, i) > BEHIND * get_cost (pace, best))
        break; /* still larger ones would be still further behind */
      /* as would any be behind steps of one token */
      if (pace->exact > 0 && !drafting->insist
          && drafting->flow->T * N * SHARE_HINTED * get_cost (pace, best) > BEHIND * pace->exact)
        break;
    }
  /* a wider one that is about as good waits less often for what is not the pass's own */
  for (guint i = best + 1; i < N_WINDOWS; i++)
    if (get_cost (pace, i) < ABOUT * get_cost (pace, best))
      best = i;
  pace->window = MIN (windows[best], capacity);
  return TRUE;
}

/* Compares drafts with steps of one token each, which are tokens found, too. */
static gboolean
try_steps (Sweeping *self)
{
  Drafting *drafting = self->draft;
  NfFlow *flow = drafting->flow;
  Pace *pace = drafting->pace;
  const guint T = flow->T, N = flow->shape.N;

  for (guint n = 0; n < STEP_TRIALS && self->n + STEPS < N; n++)
    {
      if (!nf_ops_finish (flow->ops, drafting->error))
        return FALSE;
      const gint64 start = g_get_monotonic_time ();
      for (guint i = 0; i < STEPS; i++, self->n++, drafting->done++)
        sweep (self, 1);
      if (!nf_ops_finish (flow->ops, drafting->error))
        return FALSE;
      const double seconds = 1e-6 * (double)(g_get_monotonic_time () - start) / STEPS * T * N;
      if (n == 0 || seconds < pace->exact)
        pace->exact = seconds;
    }
  return TRUE;
}

/* The draft is given up where it seems to take longer than token by token. */
static void
compare (Sweeping *self)
{
  Drafting *drafting = self->draft;
  Pace *pace = drafting->pace;
  const guint T = drafting->flow->T, N = drafting->flow->shape.N;
  double best = G_MAXDOUBLE, pass = 0;

  for (guint i = 0; i < N_WINDOWS; i++)
    if (get_cost (pace, i) < best)
      {
        best = get_cost (pace, i);
        pass = pace->seconds[i] / windows[i];
      }
  if (pace->exact == 0 || best == G_MAXDOUBLE) /* too few tokens to tell */
    return;
  g_debug ("drafts of %u: token by token takes %.3g s, a pass of %u tokens %.3g ms", drafting->B, pace->exact,
           pace->window, 1e3 * pass * pace->window);
  const double hinted = T * N * (SHARE_HINTED * best + pass), plain = T * N * (SHARE * best + pass),
               draft = drafting->flow->draft->hints ? hinted : plain;
  pace->promising = hinted < pace->exact;
  if (draft > pace->exact && !drafting->insist)
    {
      pace->draft[drafting->recall] = draft;
      pace->worthwhile = T * N * (SHARE_RECALLED * best + pass) < pace->exact;
      drafting->outcome = DRAFT_SLOW;
    }
}

/* x of block t from z, both in its order. */
static gboolean
draft_block (Drafting *drafting, guint t, NfBuffer *z, NfBuffer *x, NfView places, double tolerance)
{
  NfFlow *flow = drafting->flow;
  NfFlowDraft *draft = flow->draft;
  NfOps *ops = flow->ops;
  const guint B = drafting->B, N = flow->shape.N;
  const gsize D = flow->shape.D, sample = N * D, all = B * sample;
  const NfView none = nf_view (NULL, 0);
  NfRecall *found = &draft->found[t];
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  Sweeping self = {
    .draft = drafting,
    .block = block,
    .sequence = &flow->sequences[t],
    .cache = flow->cache[t],
    .condition = nf_flow_condition (flow, t),
    .affine = nf_block_affine (block, &flow->sequences[t], B),
    .z = z,
    .x = x,
    .places = places,
    .found = found,
    .guess = draft->hints ? nf_view_add (found->slopes, D * D) : none,
    .shift = block->sos.buffer ? 0 : 1,
    .entered = drafting->again ? N : 1,
    .tolerance = tolerance,
  };

  if (drafting->again)
    nf_ops_copy (ops, nf_view (found->x, 0), nf_view (x, 0), all);
  nf_ops_copy_rows (ops, nf_view (z, 0), sample, nf_view (x, 0), sample, drafting->again ? D : sample, B);
  if (self.shift) /* the first token stays as it is */
    {
      nf_ops_settle (ops, nf_view (x, 0), draft->before, none, places, nf_model_get_tokens (flow->model),
                     draft->changes, B, N, 0, 1);
      self.n = 1;
    }
  const gboolean first = drafting->pace->window == 0 && drafting->pace->exact == 0;
  if (first && !try_steps (&self))
    return FALSE;
  if (drafting->pace->blocks < flow->T)
    {
      drafting->pace->blocks++;
      if (!try_windows (&self))
        return FALSE;
    }
  if (first)
    compare (&self);
  while (self.n < N && drafting->outcome == DRAFT_DONE)
    if (!advance (&self, MIN (drafting->pace->window, N - self.n)))
      return FALSE;
  nf_ops_copy (ops, nf_view (z, 0), nf_view (found->z, 0), all);
  nf_ops_copy (ops, nf_view (x, 0), nf_view (found->x, 0), all);
  return TRUE;
}

/* Whether what decoding would not find of the picture that was encoded is what was said of the latents. */
static gboolean
certify_corrections (Drafting *self, NfMissedList *list, gboolean *certain)
{
  NfFlow *flow = self->flow;
  if (!nf_missed_list_read (list, flow->ops, certain, self->error))
    return FALSE;
  const NfCorrections got = nf_missed_list_get (list);
  for (guint b = 0; b < self->B && *certain; b++)
    {
      const NfCorrections of_sample = nf_corrections_of_sample (&got, b);
      *certain = nf_corrections_equal (&of_sample, &flow->corrections[b]);
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
  const gboolean corrected = flow->corrected.N > 0;
  NfMissedList *list = &flow->draft->missed;
  g_autofree float *wanted = g_new (float, n), *got = g_new (float, n);

  nf_ops_copy (flow->ops, nf_view (flow->output, 0), nf_view (flow->input, 0), n);
  if (corrected)
    nf_missed_list_begin (list, flow->ops, 0);
  nf_flow_list_missed (flow, corrected ? list : NULL, 0);
  nf_flow_forward (flow, self->B, NULL);
  nf_flow_list_missed (flow, NULL, 0);
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
  return !*certain || !corrected || certify_corrections (self, list, certain);
}

/* The output of the input, if *CERTAIN. The input stays. */
static gboolean
draft_all (Drafting *self, gboolean *certain)
{
  NfFlow *flow = self->flow;
  NfFlowDraft *draft = flow->draft;
  const guint N = flow->shape.N, D = flow->shape.D;
  const NfView none = nf_view (NULL, 0);
  const double sharp = pow (SHARPER, draft->sharpness);
  NfBuffer *from = flow->input;
  gboolean was = FALSE;

  *certain = FALSE;
  for (guint t = flow->T; t-- > 0;)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const gboolean last = t + 1 == flow->T;
      const double tolerance = t == 0           ? 0
                               : draft->rounded ? TOLERANCE_ROUNDED
                               : last           ? sharp * TOLERANCE_DEEP
                                                : sharp * TOLERANCE;
      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (flow->spare, 0), self->B, N, D,
                      block->flip != was, N, last ? nf_model_get_deviations (flow->model) : none);
      if (t == 0)
        nf_ops_reorder (flow->ops, nf_view (draft->natural, 0), nf_view (draft->places, 0), self->B, N, D,
                        block->flip, N, none);
      if (!draft_block (self, t, flow->spare, flow->output, t ? none : nf_view (draft->places, 0), tolerance))
        return FALSE;
      if (self->outcome != DRAFT_DONE)
        return TRUE;
      from = flow->output;
      was = block->flip;
    }
  if (was)
    {
      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (flow->spare, 0), self->B, N, D, TRUE, N, none);
      flow->output = flow->spare;
      flow->spare = from;
    }
  return certify (self, certain);
}

/* Measuring */

static void
copy_ordered (const float *from, float *to, gsize N, gsize D, gboolean flip)
{
  for (gsize n = 0; n < N; n++)
    memcpy (to + n * D, from + (flip ? N - 1 - n : n) * D, D * sizeof *to);
}

/* Adds to HINTS what block t's input u and output z (N, D) show, both in its order. */
static gboolean
measure_block (Drafting *self, guint t, const float *u, const float *z, NfHints *hints)
{
  NfFlow *flow = self->flow;
  NfOps *ops = flow->ops;
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  const NfBlockSequence *sequence = &flow->sequences[t];
  const guint R = MIN (flow->batch[NF_FLOW_ENCODE], N_NUDGES + 1), N = flow->shape.N,
              shift = block->sos.buffer ? 0 : 1;
  const gsize D = flow->shape.D, n = N * D;
  const NfCondition condition = nf_flow_condition (flow, t);
  const NfAffine affine = nf_block_affine (block, sequence, R);
  const NfInverse inverse = { .n0 = 1, .count = N - 1, .o_rows = N, .o_first = 1 - shift };
  g_autofree float *nudged = g_new (float, R *n), *answers = g_new (float, R *n), *moved = g_new (float, D);

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
                moved[d] = nudged[r * n + i - D + d] - u[i - D + d];
                answer[d] -= answers[i + d];
              }
            nf_hints_add_answer (hints, t, moved, answer);
          }
    }
  for (gsize i = D; i < n; i += D)
    nf_hints_add_token (hints, t, u + i - D, z + i, u + i);
  return TRUE;
}

/* Adds to HINTS what a picture x (N, D), in natural order, shows. Input and output are used up. */
static gboolean
measure (Drafting *self, const float *x, NfHints *hints)
{
  static const NfFlowCondition nothing = { 0 };
  NfFlow *flow = self->flow;
  const guint T = flow->T;
  const gsize N = flow->shape.N, D = flow->shape.D, n = N * D;
  const guint all = nf_model_get_config (flow->model)->n_blocks; /* with those that change nothing */
  g_autofree float *blocks = g_new (float, all *n), *u = g_new (float, n), *z = g_new (float, n);
  const NfFlowTrace trace = { .blocks = blocks, .stride = n };

  nf_flow_set_condition (flow, &nothing, MIN (flow->batch[NF_FLOW_ENCODE], N_NUDGES + 1), 1);
  nf_ops_write (flow->ops, nf_view (flow->input, 0), x, n * sizeof *x);
  nf_flow_forward (flow, 1, &trace);
  if (!nf_ops_finish (flow->ops, self->error))
    return FALSE;
  self->report->passes += T;
  self->report->rows += T * N;
  const float *in = x;
  for (guint t = 0; t < T; t++)
    {
      const gboolean flip = nf_model_get_block (flow->model, t)->flip;
      const float *out = blocks + nf_model_get_block (flow->model, t)->index * n;
      copy_ordered (in, u, N, D, flip);
      copy_ordered (out, z, N, D, flip);
      in = out;
      if (!measure_block (self, t, u, z, hints))
        return FALSE;
    }
  return TRUE;
}

/* Hints from the picture in the output, which stays. */
static gboolean
measure_output (Drafting *self)
{
  NfFlow *flow = self->flow;
  const gsize all = (gsize)self->B * flow->shape.N * flow->shape.D;
  g_autofree float *x = g_new (float, all);
  g_autoptr (NfHints) hints = nf_hints_new (flow->T, flow->shape.D);

  if (!nf_ops_read (flow->ops, nf_view (flow->output, 0), x, all * sizeof *x, self->error)
      || !measure (self, x, hints))
    return FALSE;
  nf_ops_write (flow->ops, nf_view (flow->output, 0), x, all * sizeof *x);
  nf_hints_fit (hints, 1);
  take_hints (flow, g_steal_pointer (&hints));
  keep_hints (flow);
  return nf_ops_finish (flow->ops, self->error);
}

gboolean
nf_flow_measure_hints (NfFlow *flow, const float *x, GError **error)
{
  NfFlowDraft *draft = flow->draft;
  NfInverseReport report = { 0 };
  Drafting self = { .flow = flow, .B = 1, .report = &report, .error = error };
  g_autoptr (NfHints) fresh = draft->measured ? NULL : nf_hints_new (flow->T, flow->shape.D);
  NfHints *hints = fresh ? fresh : draft->hints;

  if (!measure (&self, x, hints))
    return FALSE;
  nf_hints_fit (hints, ++draft->measured);
  take_hints (flow, fresh ? g_steal_pointer (&fresh) : hints);
  return nf_ops_finish (flow->ops, error);
}

gboolean
nf_flow_read_hints (NfFlow *flow, const char *path, GError **error)
{
  NfHints *hints
      = path ? nf_hints_read (path, nf_model_get_digest (flow->model), flow->T, flow->shape.D, error) : NULL;
  if (path && !hints)
    return FALSE;
  take_hints (flow, hints);
  flow->draft->given = TRUE;
  flow->draft->measured = 0;
  return nf_ops_finish (flow->ops, error);
}

NfHints *
nf_flow_get_hints (NfFlow *flow)
{
  return is_current (flow) ? flow->draft->hints : NULL;
}

/* Choosing */

/* Whether a draft is tried, going by what was faster for as many samples. With rounded operands many are not
 * confirmed, and a single picture would lose by that: a session tries its later ones, with hints. A draft of
 * its own that is slower than token by token may be what those of later pictures recall, and these be faster:
 * that is tried once, and again when they were. Unless drafts are clearly faster than it seemed to be, two
 * pictures are decoded token by token, to know, and now and then again. */
static gboolean
choose (NfFlowDraft *draft, Pace *pace, gboolean recall)
{
  if (draft->wait > 0)
    {
      draft->wait--;
      return FALSE;
    }
  if (draft->rounded && (!draft->hints || draft->pictures < MEASURED_ON))
    {
      pace->promising = TRUE;
      return FALSE;
    }
  if (pace->worthwhile && !recall)
    {
      pace->worthwhile = FALSE;
      return TRUE;
    }
  if (pace->measured < MEASUREMENTS && pace->draft[recall] > CLEARLY * pace->exact)
    return FALSE;
  if (pace->exact > 0 && ++pace->decodings > TRY_AGAIN)
    {
      if (pace->draft[recall] > pace->exact)
        *pace = (Pace){ .exact = pace->exact, .measured = pace->measured, .promising = pace->promising };
      else
        pace->measured = pace->decodings = 0;
    }
  return pace->exact == 0 || pace->draft[recall] <= pace->exact;
}

/* What is known of tiles */

/* What was found of these tiles is not known any more. */
static void
forget_tiles (NfFlowDraft *draft, const guint *tiles, guint B)
{
  for (guint b = 0; b < B; b++)
    for (guint place = 0; place < MAX_SAMPLES; place++)
      if (draft->tiles[place] == tiles[b])
        draft->tiles[place] = NO_TILE;
}

/* What is known of two tiles changes places. */
static void
exchange (NfFlow *flow, guint a, guint b)
{
  NfFlowDraft *draft = flow->draft;
  const gsize n = (gsize)flow->shape.N * flow->shape.D;
  const guint tile = draft->tiles[a];

  draft->tiles[a] = draft->tiles[b];
  draft->tiles[b] = tile;
  for (guint t = 0; t < flow->T; t++)
    {
      NfBuffer *const buffers[] = { draft->found[t].z, draft->found[t].x, draft->found[t].sigmas };
      for (guint i = 0; i < G_N_ELEMENTS (buffers); i++)
        {
          nf_ops_copy (flow->ops, nf_view (buffers[i], a * n), nf_view (flow->spare, 0), n);
          nf_ops_copy (flow->ops, nf_view (buffers[i], b * n), nf_view (buffers[i], a * n), n);
          nf_ops_copy (flow->ops, nf_view (flow->spare, 0), nf_view (buffers[i], b * n), n);
        }
    }
}

/* Whether all of these tiles are known. */
static gboolean
is_known (const NfFlowDraft *draft, const guint *tiles, guint B)
{
  gboolean taken[MAX_SAMPLES] = { FALSE };

  for (guint b = 0; b < B; b++)
    {
      guint place = 0;
      while (place < MAX_SAMPLES && (taken[place] || draft->tiles[place] != tiles[b]))
        place++;
      if (place == MAX_SAMPLES)
        return FALSE;
      taken[place] = TRUE;
    }
  return TRUE;
}

/* Brings what is known of these tiles in their order, and what is known of others behind them as far as there
 * is room. */
static void
line_up (NfFlow *flow, const guint *tiles, guint B)
{
  NfFlowDraft *draft = flow->draft;
  const guint places = nf_flow_drafts (flow);
  gboolean there[MAX_SAMPLES] = { FALSE };
  guint last = places;

  for (guint b = 0; b < B; b++)
    for (guint from = 0; from < places && !there[b]; from++)
      if (draft->tiles[from] == tiles[b] && !(from < B && there[from]))
        {
          if (from != b)
            exchange (flow, b, from);
          there[b] = TRUE;
        }
  for (guint b = 0; b < B; b++)
    if (!there[b] && draft->tiles[b] != NO_TILE)
      {
        guint to = B;
        while (to < places && draft->tiles[to] != NO_TILE)
          to++;
        if (to == places && last > B)
          to = --last;
        if (to < places)
          exchange (flow, b, to);
      }
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

  for (guint begin = draft->sharpness;; draft->sharpness++, self->again = TRUE)
    {
      self->done = 0;
      if (!draft_all (self, certain))
        return FALSE;
      if (*certain || draft->rounded || draft->sharpness == N_SHARPER || self->outcome != DRAFT_DONE)
        {
          if (!*certain)
            draft->sharpness = begin;
          break;
        }
    }
  if (*certain)
    {
      self->report->drafted += self->B;
      draft->misses = 0;
      if (draft->sharpness > 0 && ++draft->served > RELAX)
        {
          draft->sharpness--;
          draft->served = 0;
        }
    }
  else if ((self->outcome != DRAFT_SLOW && self->outcome != DRAFT_LATE) || self->again)
    miss (draft);
  return TRUE;
}

gboolean
nf_flow_inverse_picture (NfFlow *flow, guint B, const guint *tiles, const NfDecodeOptions *options,
                         gboolean (*step) (gpointer data, guint done, guint all), gpointer data,
                         NfInverseReport *report, GError **error)
{
  NfFlowDraft *draft = flow->draft;
  Drafting self = {
    flow, B, step, data, report, error, .pace = &draft->paces[B], .insist = options->method == NF_DECODE_DRAFT
  };
  const gsize n = (gsize)B * flow->shape.N * flow->shape.D;
  gboolean certain = FALSE;

  g_assert (B > 0 && B <= nf_flow_drafts (flow));
  Pace *pace = self.pace;
  const gint64 begin = g_get_monotonic_time ();
  /* rows of the widest window, where that many samples might be decoded */
  const guint window = MIN (windows[N_WINDOWS - 1], flow->shape.N), samples = B * window / NF_FLOW_WINDOW;
  if (!nf_flow_need_caches (flow, CLAMP (samples, B, MAX (B, flow->batch[NF_FLOW_DECODE])), error))
    return FALSE;
  nf_ops_copy (flow->ops, nf_view (flow->input, 0), nf_view (draft->latents, 0), n);
  self.recall = is_known (draft, tiles, B) && !options->afresh;
  const gboolean tried = self.insist || choose (draft, pace, self.recall);
  if (tried)
    {
      line_up (flow, tiles, B);
      for (guint b = 0; b < B; b++)
        draft->tiles[b] = NO_TILE;
      if (!try_drafts (&self, &certain))
        return FALSE;
      if (certain && !tell (&self, flow->T * flow->shape.N))
        return FALSE;
      if (certain)
        memcpy (draft->tiles, tiles, B * sizeof *tiles);
    }
  else
    forget_tiles (draft, tiles, B); /* it would be more and more out of date */

  const gint64 start = g_get_monotonic_time ();
  if (!certain)
    {
      nf_ops_copy (flow->ops, nf_view (draft->latents, 0), nf_view (flow->input, 0), n);
      if (!nf_flow_inverse (flow, B, options, 0, step, data, report, error))
        return FALSE;
      const double seconds = 1e-6 * (double)(g_get_monotonic_time () - start);
      if (pace->measured < MEASUREMENTS) /* the least: blocks try windows in the first one */
        pace->exact = pace->measured ? MIN (pace->exact, seconds) : seconds;
      else
        pace->exact += LATEST * (seconds - pace->exact);
      pace->measured++;
    }
  if (!nf_ops_finish (flow->ops, error))
    return FALSE;
  if (tried && (certain || self.outcome != DRAFT_SLOW))
    {
      const double seconds = 1e-6 * (double)(g_get_monotonic_time () - begin);
      double *mean = &pace->draft[self.recall];
      *mean += *mean > 0 ? LATEST * (seconds - *mean) : seconds;
      if (certain && self.recall)
        pace->worthwhile = *mean < pace->exact;
    }
  draft->pictures++;
  if (draft->hints || draft->wait > 0 || !(pace->promising || self.insist) || draft->pictures < MEASURED_ON)
    return TRUE;
  if (!certain && !certify (&self, &certain))
    return FALSE;
  if (certain)
    return measure_output (&self);
  miss (draft);
  return nf_ops_finish (flow->ops, error);
}
