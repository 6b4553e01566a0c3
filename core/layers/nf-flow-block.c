/* normflow: an autoregressive flow block. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-block.h"

#include <math.h>

static guint
output_width (const NfBlockShape *shape)
{
  return shape->nvp ? 2 * shape->D : shape->D;
}

NfAffine
nf_block_affine (const NfBlockShape *shape, guint B)
{
  return (NfAffine){
    .B = B,
    .N = shape->N,
    .D = shape->D,
    .S = shape->N,
    .frame = shape->N,
    .shift = TRUE,
    .scale = shape->nvp ? NF_SCALE_EXP : NF_SCALE_NONE,
  };
}

/* Buffers that a list owns */

static GPtrArray *
new_owner (void)
{
  return g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
}

/* NULL after a failure, which OPS keeps; operations then do nothing, so that callers need not look. */
static NfBuffer *
own (NfOps *ops, GPtrArray *owner, gsize floats)
{
  NfBuffer *buffer = nf_ops_alloc (ops, floats);
  if (buffer)
    g_ptr_array_add (owner, buffer);
  return buffer;
}

/* N buffers of their own if KEEP, else one, N times. */
static NfBuffer **
own_each (NfOps *ops, GPtrArray *owner, gboolean keep, guint n, gsize floats)
{
  NfBuffer **list = g_new0 (NfBuffer *, n);
  for (guint i = 0; i < n; i++)
    list[i] = i == 0 || keep ? own (ops, owner, floats) : list[0];
  return list;
}

/* Forward */

gsize
nf_tape_floats (const NfBlockShape *shape, gboolean keep)
{
  const gsize layer = 8 * (gsize)shape->d + (keep ? 2 : 1) * (gsize)shape->hidden + 2 * shape->H;
  return shape->N * ((keep ? shape->K : 1) * layer + 2 * (gsize)shape->d + output_width (shape));
}

NfTape *
nf_tape_new (NfOps *ops, const NfBlockShape *shape, guint B, gboolean keep)
{
  NfTape *tape = g_new0 (NfTape, 1);
  const gsize M = (gsize)B * shape->N, d = shape->d;
  GPtrArray *owner = tape->buffers = new_owner ();

  tape->keep = keep;
  tape->B = B;
  tape->h = own_each (ops, owner, keep, shape->K + 1, M * d);
  tape->a1 = own_each (ops, owner, keep, shape->K, M * d);
  tape->qkv = own_each (ops, owner, keep, shape->K, M * 3 * d);
  tape->attention = own_each (ops, owner, keep, shape->K, M * d);
  tape->hidden = own_each (ops, owner, keep, shape->K, M * shape->hidden);
  if (keep)
    {
      tape->a2 = own_each (ops, owner, TRUE, shape->K, M * d);
      tape->middle = own_each (ops, owner, TRUE, shape->K, M * d);
      tape->stats = own_each (ops, owner, TRUE, shape->K, 2 * M * shape->H);
      tape->before = own_each (ops, owner, TRUE, shape->K, M * shape->hidden);
    }
  else
    {
      /* the residual stream is updated in place */
      tape->a2 = g_memdup2 (tape->a1, shape->K * sizeof (NfBuffer *));
      tape->middle = g_memdup2 (tape->h, shape->K * sizeof (NfBuffer *));
      tape->stats = g_new0 (NfBuffer *, shape->K);
      tape->before = g_new0 (NfBuffer *, shape->K);
    }
  tape->o = own (ops, owner, M * output_width (shape));
  tape->keys = own (ops, owner, nf_ops_keys_size (ops, B, shape->H, shape->N));
  return tape;
}

void
nf_tape_free (NfTape *tape)
{
  g_ptr_array_unref (tape->buffers);
  g_free (tape->h);
  g_free (tape->a1);
  g_free (tape->a2);
  g_free (tape->qkv);
  g_free (tape->attention);
  g_free (tape->stats);
  g_free (tape->middle);
  g_free (tape->before);
  g_free (tape->hidden);
  g_free (tape);
}

/* Dense rows of whole buffers. */
static void
linear (NfOps *ops, const NfLinear *layer, NfBuffer *x, NfBuffer *y, guint M, guint flags, NfBuffer *residual,
        NfBuffer *before)
{
  const NfLinearExtra extra
      = { .flags = flags, .residual = nf_view (residual, 0), .before = nf_view (before, 0) };
  nf_linear_forward (ops, layer, nf_view (x, 0), nf_view (y, 0), M, &extra);
}

static float
attention_scale (const NfBlockShape *shape)
{
  return (float)(1.0 / sqrt (shape->head_dim));
}

static void
forward_layer (NfOps *ops, const NfBlockShape *shape, const NfLayerWeights *weights, NfTape *tape, guint l,
               guint B)
{
  const guint N = shape->N, M = B * N, d = shape->d;
  const gsize batch = (gsize)N * 3 * d;

  nf_ops_norm (ops, NF_NORM_LAYER, nf_view (tape->h[l], 0), weights->attention_norm.w,
               weights->attention_norm.b, nf_view (NULL, 0), nf_view (tape->a1[l], 0), M, d);
  linear (ops, &weights->qkv, tape->a1[l], tape->qkv[l], M, 0, NULL, NULL);
  nf_ops_append (ops, nf_view (tape->qkv[l], d), 3 * d, batch, tape->keys, 0, N, N, B, shape->H);
  const NfAttention attention = {
    .Q = nf_view (tape->qkv[l], 0),
    .q_row = 3 * d,
    .q_batch = batch,
    .V = nf_view (tape->qkv[l], 2 * d),
    .v_row = 3 * d,
    .v_batch = batch,
    .out = nf_view (tape->attention[l], 0),
    .out_row = d,
    .out_batch = (gsize)N * d,
    .keys = tape->keys,
    .capacity = N,
    .stats = tape->stats[l],
    .Nq = N,
    .B = B,
    .H = shape->H,
    .split = B,
    .scale = attention_scale (shape),
    .scale2 = attention_scale (shape),
  };
  nf_ops_attention (ops, &attention);
  linear (ops, &weights->proj, tape->attention[l], tape->middle[l], M, 0, tape->h[l], NULL);
  nf_ops_norm (ops, NF_NORM_LAYER, nf_view (tape->middle[l], 0), weights->mlp_norm.w, weights->mlp_norm.b,
               nf_view (NULL, 0), nf_view (tape->a2[l], 0), M, d);
  linear (ops, &weights->fc1, tape->a2[l], tape->hidden[l], M, NF_MATMUL_GELU, NULL, tape->before[l]);
  linear (ops, &weights->fc2, tape->hidden[l], tape->h[l + 1], M, 0, tape->middle[l], NULL);
}

/* h = u W_in + b + position, for rows whose positions are (r_mod, d) from POSITION on. */
static void
project_in (NfOps *ops, const NfBlockWeights *weights, NfView u, guint u_row, NfView position, guint r_mod,
            NfView h, guint M)
{
  const NfLinearExtra extra = { .x_row = u_row, .residual = position, .r_mod = r_mod };
  nf_linear_forward (ops, &weights->in, u, h, M, &extra);
}

void
nf_block_forward (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights, NfTape *tape,
                  NfView u, guint B, NfBuffer *labels, NfView z, NfBuffer *log_det, gboolean out_flip,
                  gboolean accumulate)
{
  const guint N = shape->N, M = B * N;

  project_in (ops, weights, u, shape->D, weights->ordered_position, N, nf_view (tape->h[0], 0), M);
  if (shape->n_classes > 0)
    nf_ops_class_embed (ops, nf_view (tape->h[0], 0), weights->classes, labels, B, N, shape->d,
                        shape->n_classes);
  for (guint l = 0; l < shape->K; l++)
    forward_layer (ops, shape, &weights->layers[l], tape, l, B);
  linear (ops, &weights->out, tape->h[shape->K], tape->o, M, 0, NULL, NULL);
  const NfAffine affine = nf_block_affine (shape, B);
  nf_ops_affine (ops, &affine, u, tape->o, z, log_det, nf_view (NULL, 0), weights->flip, out_flip,
                 accumulate);
}

/* Backward */

NfBlockScratch *
nf_block_scratch_new (NfOps *ops, const NfBlockShape *shape, guint B)
{
  NfBlockScratch *scratch = g_new0 (NfBlockScratch, 1);
  const gsize M = (gsize)B * shape->N, d = shape->d, keys = nf_ops_keys_size (ops, B, shape->H, shape->N);
  GPtrArray *owner = scratch->buffers = new_owner ();

  scratch->dh = own (ops, owner, M * d);
  scratch->da = own (ops, owner, M * d);
  scratch->dyc = own (ops, owner, M * d);
  scratch->dout = own (ops, owner, M * d);
  scratch->dqkv = own (ops, owner, M * 3 * d);
  scratch->dhidden = own (ops, owner, M * shape->hidden);
  scratch->d_o = own (ops, owner, M * output_width (shape));
  scratch->keys = own (ops, owner, keys);
  scratch->values = own (ops, owner, keys);
  return scratch;
}

void
nf_block_scratch_free (NfBlockScratch *scratch)
{
  g_ptr_array_unref (scratch->buffers);
  g_free (scratch);
}

/* dx += the gradient through a norm whose output has gradient dy. */
static void
norm_backward (NfOps *ops, const NfNorm *norm, NfBuffer *x, NfBuffer *dy, NfBuffer *dyc, NfBuffer *dx,
               guint M, guint d, NfBuffer *gradients)
{
  nf_ops_norm_backward (ops, NF_NORM_LAYER, nf_view (x, 0), norm->w, nf_view (dy, 0), nf_view (dyc, 0),
                        nf_view (dx, 0), TRUE, M, d);
  if (!gradients)
    return;
  nf_ops_column_sums (ops, nf_view (dyc, 0), d, nf_view (gradients, norm->w.at), M, d);
  nf_ops_column_sums (ops, nf_view (dy, 0), d, nf_view (gradients, norm->b.at), M, d);
}

/* scratch->dh goes from the gradient of the layer's output to that of its input. */
static void
backward_layer (NfOps *ops, const NfBlockShape *shape, const NfLayerWeights *weights, const NfTape *tape,
                NfBlockScratch *s, guint l, guint B, NfBuffer *gradients)
{
  const guint N = shape->N, M = B * N, d = shape->d;
  const gsize batch = (gsize)N * 3 * d;

  nf_linear_backward (ops, &weights->fc2, nf_view (tape->hidden[l], 0), nf_view (s->dh, 0),
                      nf_view (s->dhidden, 0), M, 0, nf_view (tape->before[l], 0), gradients);
  nf_linear_backward (ops, &weights->fc1, nf_view (tape->a2[l], 0), nf_view (s->dhidden, 0),
                      nf_view (s->da, 0), M, 0, nf_view (NULL, 0), gradients);
  norm_backward (ops, &weights->mlp_norm, tape->middle[l], s->da, s->dyc, s->dh, M, d, gradients);

  nf_linear_backward (ops, &weights->proj, nf_view (tape->attention[l], 0), nf_view (s->dh, 0),
                      nf_view (s->dout, 0), M, 0, nf_view (NULL, 0), gradients);
  nf_ops_append (ops, nf_view (tape->qkv[l], d), 3 * d, batch, s->keys, 0, N, N, B, shape->H);
  nf_ops_append (ops, nf_view (tape->qkv[l], 2 * d), 3 * d, batch, s->values, 0, N, N, B, shape->H);
  const NfAttentionBackward attention = {
    .qkv = nf_view (tape->qkv[l], 0),
    .out = nf_view (tape->attention[l], 0),
    .dout = nf_view (s->dout, 0),
    .dqkv = nf_view (s->dqkv, 0),
    .keys = s->keys,
    .values = s->values,
    .stats = tape->stats[l],
    .N = N,
    .B = B,
    .H = shape->H,
    .scale = attention_scale (shape),
  };
  nf_ops_attention_backward (ops, &attention);
  nf_linear_backward (ops, &weights->qkv, nf_view (tape->a1[l], 0), nf_view (s->dqkv, 0), nf_view (s->da, 0),
                      M, 0, nf_view (NULL, 0), gradients);
  norm_backward (ops, &weights->attention_norm, tape->h[l], s->da, s->dyc, s->dh, M, d, gradients);
}

void
nf_block_backward (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights, const NfTape *tape,
                   NfBlockScratch *s, NfView u, guint B, NfBuffer *labels, NfView dz, NfView du,
                   gboolean out_flip, float g, NfBuffer *gradients)
{
  const guint N = shape->N, M = B * N, d = shape->d;

  const NfAffine affine = nf_block_affine (shape, B);
  nf_ops_affine_backward (ops, &affine, u, tape->o, dz, du, s->d_o, out_flip, g);
  nf_linear_backward (ops, &weights->out, nf_view (tape->h[shape->K], 0), nf_view (s->d_o, 0),
                      nf_view (s->dh, 0), M, 0, nf_view (NULL, 0), gradients);
  for (guint l = shape->K; l-- > 0;)
    backward_layer (ops, shape, &weights->layers[l], tape, s, l, B, gradients);
  if (gradients)
    {
      nf_ops_position_backward (ops, nf_view (s->dh, 0), nf_view (gradients, weights->position.at), B, N, d,
                                weights->flip, N);
      if (shape->n_classes > 0)
        nf_ops_class_embed_backward (ops, nf_view (s->dh, 0), nf_view (gradients, weights->classes.at),
                                     labels, B, N, d, shape->n_classes);
    }
  nf_linear_backward (ops, &weights->in, u, nf_view (s->dh, 0), du, M, NF_MATMUL_ACCUMULATE,
                      nf_view (NULL, 0), gradients);
}

/* Decoding */

gsize
nf_block_cache_floats (const NfBlockShape *shape)
{
  const gsize N = shape->N, d = shape->d;
  /* keys are padded to whole blocks, at most 32 tokens */
  return shape->K * (N * 3 * d + (N + 32) * d) + 3 * d + shape->hidden + output_width (shape);
}

NfBlockCache *
nf_block_cache_new (NfOps *ops, const NfBlockShape *shape, guint rows)
{
  NfBlockCache *cache = g_new0 (NfBlockCache, 1);
  const gsize R = rows, d = shape->d;
  GPtrArray *owner = cache->buffers = new_owner ();

  cache->rows = rows;
  cache->keys = own_each (ops, owner, TRUE, shape->K, nf_ops_keys_size (ops, rows, shape->H, shape->N));
  cache->qkv = own_each (ops, owner, TRUE, shape->K, R * shape->N * 3 * d);
  cache->h = own (ops, owner, R * d);
  cache->a = own (ops, owner, R * d);
  cache->attention = own (ops, owner, R * d);
  cache->hidden = own (ops, owner, R * shape->hidden);
  cache->o = own (ops, owner, R * output_width (shape));
  return cache;
}

void
nf_block_cache_free (NfBlockCache *cache)
{
  g_ptr_array_unref (cache->buffers);
  g_free (cache->keys);
  g_free (cache->qkv);
  g_free (cache);
}

static void
step_layer (NfOps *ops, const NfBlockShape *shape, const NfLayerWeights *weights, NfBlockCache *cache,
            guint l, guint rows, guint split, guint n, float temperature)
{
  const guint d = shape->d;
  const gsize batch = (gsize)shape->N * 3 * d, at = (gsize)n * 3 * d;

  nf_ops_norm (ops, NF_NORM_LAYER, nf_view (cache->h, 0), weights->attention_norm.w,
               weights->attention_norm.b, nf_view (NULL, 0), nf_view (cache->a, 0), rows, d);
  const NfLinearExtra qkv = { .y_row = (guint)batch };
  nf_linear_forward (ops, &weights->qkv, nf_view (cache->a, 0), nf_view (cache->qkv[l], at), rows, &qkv);
  nf_ops_append (ops, nf_view (cache->qkv[l], at + d), 3 * d, batch, cache->keys[l], n, 1, shape->N, rows,
                 shape->H);
  const NfAttention attention = {
    .Q = nf_view (cache->qkv[l], at),
    .q_row = 3 * d,
    .q_batch = batch,
    .V = nf_view (cache->qkv[l], 2 * d),
    .v_row = 3 * d,
    .v_batch = batch,
    .out = nf_view (cache->attention, 0),
    .out_row = d,
    .out_batch = d,
    .keys = cache->keys[l],
    .capacity = shape->N,
    .q0 = n,
    .Nq = 1,
    .B = rows,
    .H = shape->H,
    .split = split,
    .scale = attention_scale (shape),
    .scale2 = attention_scale (shape) / temperature,
  };
  nf_ops_attention (ops, &attention);
  linear (ops, &weights->proj, cache->attention, cache->h, rows, 0, cache->h, NULL);
  nf_ops_norm (ops, NF_NORM_LAYER, nf_view (cache->h, 0), weights->mlp_norm.w, weights->mlp_norm.b,
               nf_view (NULL, 0), nf_view (cache->a, 0), rows, d);
  linear (ops, &weights->fc1, cache->a, cache->hidden, rows, NF_MATMUL_GELU, NULL, NULL);
  linear (ops, &weights->fc2, cache->hidden, cache->h, rows, 0, cache->h, NULL);
}

void
nf_block_step (NfOps *ops, const NfBlockShape *shape, const NfBlockWeights *weights, NfBlockCache *cache,
               NfView u, guint B, guint branches, guint n, NfBuffer *labels, float temperature)
{
  const guint rows = B * branches;
  const NfView position = nf_view_add (weights->ordered_position, (gsize)n * shape->d);

  for (guint branch = 0; branch < branches; branch++)
    project_in (ops, weights, nf_view_add (u, (gsize)n * shape->D), shape->N * shape->D, position, 1,
                nf_view (cache->h, (gsize)branch * B * shape->d), B);
  if (shape->n_classes > 0)
    nf_ops_class_embed (ops, nf_view (cache->h, 0), weights->classes, labels, rows, 1, shape->d,
                        shape->n_classes);
  for (guint l = 0; l < shape->K; l++)
    step_layer (ops, shape, &weights->layers[l], cache, l, rows, B, n, temperature);
  linear (ops, &weights->out, cache->h, cache->o, rows, 0, NULL, NULL);
}
