/* normflow: the whole flow on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow.h"

#include <string.h>

#define ENCODE_ROWS 2048   /* rows of a product when encoding: more brings nothing */
#define GRADIENT_ROWS 1024 /* and when training */
#define DECODE_SAMPLES                                                                                       \
  48 /* side by side when decoding: whole row tiles, and their keys stay in the cache                        \
      */
#define TAPE_BYTES                                                                                           \
  (1024u << 20) /* memory for what the backward pass needs; above it blocks are computed again */
#define DECODE_BYTES (1024u << 20) /* memory for keys and values */
#define STEPS_AHEAD 16 /* token steps enqueued before waiting: bounds the queue, and tells progress */

struct _NfFlow
{
  NfModel *model;
  NfOps *ops;
  guint T;

  guint batch[NF_FLOW_GRADIENTS + 1]; /* samples at a time, 0 before the memory is there */
  guint capacity;                     /* samples that the buffers below hold */
  NfBuffer *input, *output, *spare;   /* (B, N, D) */
  NfBuffer *half_square, *log_det;    /* (B, N) */
  NfBuffer *labels;                   /* (2B) ints */

  NfTape *tape;      /* for encoding */
  GPtrArray *tapes;  /* for gradients: one a block, or a single one */
  GPtrArray *inputs; /* for gradients: input of each block but the first */
  NfBlockScratch *scratch;
  NfBlockCache *cache; /* for decoding */
};

static void
clear_buffers (NfFlow *flow)
{
  g_clear_pointer (&flow->input, nf_buffer_free);
  g_clear_pointer (&flow->output, nf_buffer_free);
  g_clear_pointer (&flow->spare, nf_buffer_free);
  g_clear_pointer (&flow->half_square, nf_buffer_free);
  g_clear_pointer (&flow->log_det, nf_buffer_free);
  g_clear_pointer (&flow->labels, nf_buffer_free);
}

NfFlow *
nf_flow_new (NfModel *model, GError **error)
{
  g_autoptr (NfFlow) flow = g_new0 (NfFlow, 1);
  flow->model = g_object_ref (model);
  flow->T = nf_model_get_config (model)->n_blocks;
  flow->ops = nf_model_new_ops (model, error);
  return flow->ops ? g_steal_pointer (&flow) : NULL;
}

void
nf_flow_free (NfFlow *flow)
{
  clear_buffers (flow);
  g_clear_pointer (&flow->tape, nf_tape_free);
  g_clear_pointer (&flow->tapes, g_ptr_array_unref);
  g_clear_pointer (&flow->inputs, g_ptr_array_unref);
  g_clear_pointer (&flow->scratch, nf_block_scratch_free);
  g_clear_pointer (&flow->cache, nf_block_cache_free);
  g_clear_pointer (&flow->ops, nf_ops_free);
  g_clear_object (&flow->model);
  g_free (flow);
}

NfOps *
nf_flow_get_ops (NfFlow *flow)
{
  return flow->ops;
}

NfBuffer *
nf_flow_get_input (NfFlow *flow)
{
  return flow->input;
}

NfBuffer *
nf_flow_get_output (NfFlow *flow)
{
  return flow->output;
}

NfBuffer *
nf_flow_get_half_square (NfFlow *flow)
{
  return flow->half_square;
}

NfBuffer *
nf_flow_get_log_det (NfFlow *flow)
{
  return flow->log_det;
}

/* Memory */

static guint
choose_batch (NfFlow *flow, NfFlowWork work)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  gsize batch;
  switch (work)
    {
    case NF_FLOW_ENCODE:
      return MAX (ENCODE_ROWS / shape->N, 1);
    case NF_FLOW_GRADIENTS:
      return MAX (GRADIENT_ROWS / shape->N, 1);
    case NF_FLOW_DECODE:
    case NF_FLOW_DECODE_GUIDED:
      batch = DECODE_BYTES / (nf_block_cache_floats (shape) * sizeof (float))
              / (work == NF_FLOW_DECODE ? 1 : 2);
      return CLAMP (batch, 1, DECODE_SAMPLES);
    default:
      g_assert_not_reached ();
    }
}

static void
reserve_samples (NfFlow *flow, guint B)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const gsize tokens = (gsize)B * shape->N;
  if (B <= flow->capacity)
    return;

  clear_buffers (flow);
  flow->input = nf_ops_alloc (flow->ops, tokens * shape->D);
  flow->output = nf_ops_alloc (flow->ops, tokens * shape->D);
  flow->spare = nf_ops_alloc (flow->ops, tokens * shape->D);
  flow->half_square = nf_ops_alloc (flow->ops, tokens);
  flow->log_det = nf_ops_alloc (flow->ops, tokens);
  flow->labels = nf_ops_alloc (flow->ops, 2 * (gsize)B);
  flow->capacity = B;
}

static void
reserve_gradients (NfFlow *flow, guint B)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const gsize bytes = nf_tape_floats (shape, TRUE) * B * sizeof (float);
  const guint n_tapes = bytes <= TAPE_BYTES / flow->T ? flow->T : 1;

  flow->tapes = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_tape_free);
  for (guint i = 0; i < n_tapes; i++)
    g_ptr_array_add (flow->tapes, nf_tape_new (flow->ops, shape, B, TRUE));
  flow->inputs = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  for (guint t = 1; t < flow->T; t++)
    {
      NfBuffer *buffer = nf_ops_alloc (flow->ops, (gsize)B * shape->N * shape->D);
      if (buffer)
        g_ptr_array_add (flow->inputs, buffer);
    }
  flow->scratch = nf_block_scratch_new (flow->ops, shape, B);
}

static void
release (NfFlow *flow, NfFlowWork work)
{
  switch (work)
    {
    case NF_FLOW_ENCODE:
      g_clear_pointer (&flow->tape, nf_tape_free);
      break;
    case NF_FLOW_GRADIENTS:
      g_clear_pointer (&flow->tapes, g_ptr_array_unref);
      g_clear_pointer (&flow->inputs, g_ptr_array_unref);
      g_clear_pointer (&flow->scratch, nf_block_scratch_free);
      break;
    case NF_FLOW_DECODE:
    case NF_FLOW_DECODE_GUIDED:
      g_clear_pointer (&flow->cache, nf_block_cache_free);
      break;
    }
}

guint
nf_flow_prepare (NfFlow *flow, NfFlowWork work, GError **error)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  if (flow->batch[work] > 0)
    return flow->batch[work];
  if (work == NF_FLOW_GRADIENTS && !nf_model_need_backward (flow->model, error))
    return 0;

  const guint B = choose_batch (flow, work), rows = work == NF_FLOW_DECODE_GUIDED ? 2 * B : B;
  reserve_samples (flow, B);
  if (work == NF_FLOW_ENCODE)
    flow->tape = nf_tape_new (flow->ops, shape, B, FALSE);
  else if (work == NF_FLOW_GRADIENTS)
    reserve_gradients (flow, B);
  else if (!flow->cache || flow->cache->rows < rows)
    {
      g_clear_pointer (&flow->cache, nf_block_cache_free);
      flow->cache = nf_block_cache_new (flow->ops, shape, rows);
    }
  if (!nf_ops_finish (flow->ops, error))
    {
      release (flow, work);
      clear_buffers (flow);
      flow->capacity = 0;
      memset (flow->batch, 0, sizeof flow->batch);
      return 0;
    }
  return flow->batch[work] = B;
}

void
nf_flow_set_labels (NfFlow *flow, const gint *labels, guint B, guint branches)
{
  if (nf_model_get_shape (flow->model)->n_classes == 0)
    return;
  g_autofree cl_int *all = g_new (cl_int, 2 * (gsize)B);
  for (guint i = 0; i < 2 * B; i++)
    all[i] = labels && i < B ? labels[i] : -1;
  nf_ops_write (flow->ops, nf_view (flow->labels, 0), all, (gsize)branches * B * sizeof *all);
}

/* Forward and backward */

/* Block t's output is written in the order of the block after it, the last one's in natural order. */
static gboolean
flips_output (NfFlow *flow, guint t)
{
  return t + 1 < flow->T || nf_model_get_block (flow->model, t)->flip;
}

void
nf_flow_forward (NfFlow *flow, guint B, float *blocks, gsize blocks_stride)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const gsize n = (gsize)B * shape->N * shape->D;
  NfBuffer *from = flow->input, *between[2] = { flow->spare, flow->output };

  for (guint t = 0; t < flow->T; t++)
    {
      const gboolean last = t + 1 == flow->T;
      /* alternate so that the last block writes the output */
      NfBuffer *to = between[(flow->T - t) % 2];
      nf_block_forward (flow->ops, shape, nf_model_get_block (flow->model, t), flow->tape, nf_view (from, 0),
                        B, flow->labels, nf_view (to, 0), flow->log_det, flips_output (flow, t), t > 0);
      if (blocks)
        {
          NfBuffer *natural = to;
          if (!last && t % 2 == 0)
            {
              natural = flow->input; /* free by now: block 0 has read it */
              nf_ops_reorder (flow->ops, nf_view (to, 0), nf_view (natural, 0), B, shape->N, shape->D, TRUE,
                              shape->N, nf_view (NULL, 0));
            }
          nf_ops_read_later (flow->ops, nf_view (natural, 0), blocks + t * blocks_stride, n * sizeof (float));
        }
      from = to;
    }
  nf_ops_prior (flow->ops, nf_view (flow->output, 0), NULL, flow->half_square, 1.0f, B * shape->N, shape->D);
}

void
nf_flow_standardise (NfFlow *flow, guint B)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const NfView precisions = nf_model_get_precisions (flow->model);
  NfBuffer *z = flow->output;
  if (!precisions.buffer)
    return;
  nf_ops_reorder (flow->ops, nf_view (z, 0), nf_view (flow->spare, 0), B, shape->N, shape->D, FALSE, shape->N,
                  precisions);
  flow->output = flow->spare;
  flow->spare = z;
  nf_ops_prior (flow->ops, nf_view (flow->output, 0), NULL, flow->half_square, 1.0f, B * shape->N, shape->D);
}

void
nf_flow_backward (NfFlow *flow, guint B, float g, NfBuffer *gradients)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const gboolean recompute = flow->tapes->len < flow->T;
  NfBuffer *d[2] = { flow->spare, flow->output };

  for (guint t = 0; t < flow->T; t++)
    {
      NfBuffer *from = t ? flow->inputs->pdata[t - 1] : flow->input;
      NfBuffer *to = t + 1 < flow->T ? flow->inputs->pdata[t] : flow->spare;
      nf_block_forward (flow->ops, shape, nf_model_get_block (flow->model, t),
                        flow->tapes->pdata[recompute ? 0 : t], nf_view (from, 0), B, flow->labels,
                        nf_view (to, 0), flow->log_det, flips_output (flow, t), t > 0);
    }
  /* alternate so that block 0 writes the output */
  guint into = (flow->T + 1) % 2;
  nf_ops_prior (flow->ops, nf_view (flow->spare, 0), d[into], flow->half_square, g, B * shape->N, shape->D);
  for (guint t = flow->T; t-- > 0; into = !into)
    {
      const NfBlockWeights *weights = nf_model_get_block (flow->model, t);
      NfBuffer *u = t ? flow->inputs->pdata[t - 1] : flow->input;
      NfTape *tape = flow->tapes->pdata[recompute ? 0 : t];
      if (recompute && t + 1 < flow->T)
        /* only the tape is wanted: z goes to where the next input was, the log-determinant to where it cannot
         * be seen */
        nf_block_forward (flow->ops, shape, weights, tape, nf_view (u, 0), B, flow->labels,
                          nf_view (flow->inputs->pdata[t], 0), flow->scratch->da, flips_output (flow, t),
                          FALSE);
      nf_block_backward (flow->ops, shape, weights, tape, flow->scratch, nf_view (u, 0), B, flow->labels,
                         nf_view (d[into], 0), nf_view (d[!into], 0), flips_output (flow, t), g, gradients);
    }
}

/* Inverse */

gboolean
nf_flow_inverse (NfFlow *flow, guint B, const NfDecodeOptions *options,
                 gboolean (*step) (gpointer data, guint done, guint all), gpointer data, GError **error)
{
  const NfBlockShape *shape = nf_model_get_shape (flow->model);
  const guint N = shape->N, guide = options->guide ? options->guide : NF_GUIDE_SCALE | NF_GUIDE_SHIFT;
  const gboolean guided = options->guidance != 0;
  const float temperature = options->attention_temperature > 0 ? (float)options->attention_temperature : 1.0f;
  NfBuffer *from = flow->input, *to = flow->T % 2 ? flow->output : flow->spare;

  for (guint t = flow->T; t-- > 0;)
    {
      const NfBlockWeights *weights = nf_model_get_block (flow->model, t);
      const gboolean last = t + 1 == flow->T;
      const NfAffine affine = nf_block_affine (shape, B);
      NfInverse inverse = { .count = 1,
                            .o_rows = 1,
                            .guidance = guided ? NF_GUIDANCE_EXTRAPOLATE : NF_GUIDANCE_NONE,
                            .snap = options->snap && t == 0 };

      nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (to, 0), B, N, shape->D, !last || weights->flip,
                      N, last ? nf_model_get_deviations (flow->model) : nf_view (NULL, 0));
      for (guint n = 0; n < N; n++)
        {
          const double w = options->guidance * (options->annealed ? (double)n / (N - 1) : 1);
          inverse.n0 = n;
          inverse.keep_first = n == 0;
          inverse.w_scale0 = guide & NF_GUIDE_SCALE ? (float)w : 0.0f;
          inverse.w_shift0 = guide & NF_GUIDE_SHIFT ? (float)w : 0.0f;
          if (n > 0 || inverse.snap)
            nf_ops_affine_inverse (flow->ops, &affine, &inverse, nf_view (to, 0), nf_view (to, 0),
                                   flow->cache->o, nf_model_get_tokens (flow->model));
          if (n + 1 < N)
            nf_block_step (flow->ops, shape, weights, flow->cache, nf_view (to, 0), B, guided ? 2 : 1, n,
                           flow->labels, temperature);
          if (n % STEPS_AHEAD == 0 || n + 1 == N)
            {
              if (!nf_ops_finish (flow->ops, error))
                return FALSE;
              if (step && !step (data, (flow->T - 1 - t) * N + n + 1, flow->T * N))
                {
                  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "decoding was cancelled");
                  return FALSE;
                }
            }
        }
      from = to;
      to = from == flow->output ? flow->spare : flow->output;
    }
  return TRUE;
}
