/* normflow: a transformer. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-transformer.h"

#include <math.h>

/* Floats of a row of queries, keys and values. */
static guint
row_floats (const NfTransformerShape *shape)
{
  return (shape->H + 2 * shape->Hkv) * shape->head_dim;
}

/* Features of a head that keys take, at most. */
static guint
padded_head (const NfTransformerShape *shape)
{
  return (shape->head_dim + 31) / 32 * 32;
}

static float
attention_scale (const NfTransformerShape *shape)
{
  return (float)(1.0 / sqrt (shape->head_dim));
}

static gboolean
has_heads (const NfTransformerShape *shape, const NfSequence *sequence)
{
  return shape->qk_norm || sequence->table.buffer;
}

/* Left rows */

/* What only products read is written as they read it; that a backward pass reads it, too, is no reason
 * against it where it would round the floats first. */
static NfLeftRows
choose_left (NfOps *ops, const NfTransformerShape *shape, gboolean keep)
{
  const gboolean products_alone = !keep || nf_ops_gradients_read_left (ops);
  return (NfLeftRows){ .a = products_alone && nf_ops_left_step (ops, shape->d) > 0,
                       .attention = !keep && nf_ops_attention_writes_left (ops)
                                    && nf_ops_left_step (ops, shape->H * shape->head_dim) > 0,
                       .hidden = products_alone && nf_ops_writes_parts_left (ops)
                                 && nf_ops_left_step (ops, shape->hidden) > 0 };
}

/* So are queries, keys and values, where nothing but attention reads them. */
static gboolean
leaves_left_qkv (NfOps *ops, const NfTransformerShape *shape, const NfSequence *sequence, gboolean keep)
{
  const guint row = nf_ops_left_step (ops, row_floats (shape));
  return !keep && !has_heads (shape, sequence) && nf_ops_attention_reads_left (ops) && row > 0
         && row <= row_floats (shape);
}

/* Words to allocate for a row: there is room for floats, too. */
static guint
row_room (NfOps *ops, gboolean left, guint N)
{
  return left ? nf_ops_row_size (ops, N) : N;
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

/* The same buffers under another name. */
static NfBuffer **
alias (NfBuffer **list, guint n)
{
  return g_memdup2 (list, n * sizeof (NfBuffer *));
}

/* Forward */

gsize
nf_tape_floats (const NfTransformerShape *shape, guint S, gboolean keep)
{
  const gsize d = shape->d, row = row_floats (shape), inner = (gsize)shape->H * shape->head_dim;
  gsize layer = 2 * d + row + inner + shape->hidden;
  if (!keep) /* left rows may be 3/2 of those of floats; those that a tape keeps are not */
    layer += (d + inner + shape->hidden + 1) / 2;
  if (shape->post_norm)
    layer += 2 * d;
  if (shape->gated)
    layer += 2 * (gsize)shape->hidden;
  if (keep)
    layer += 2 * d + 2 * shape->H + (shape->gated ? 0 : shape->hidden) + (shape->qk_norm ? row : 0);
  return S * ((keep ? shape->K : 1) * layer + d + 2 * (gsize)shape->Hkv * padded_head (shape));
}

NfTape *
nf_tape_new (NfOps *ops, const NfTransformerShape *shape, guint S, guint B, gboolean keep)
{
  NfTape *tape = g_new0 (NfTape, 1);
  const gsize M = (gsize)B * S, d = shape->d, row = row_floats (shape);
  const guint K = shape->K;
  const NfLeftRows left = choose_left (ops, shape, keep);
  const gsize a = M * row_room (ops, left.a, shape->d);
  GPtrArray *owner = tape->buffers = new_owner ();

  tape->keep = keep;
  tape->left = left;
  tape->h = own_each (ops, owner, keep, K + 1, M * d);
  tape->a1 = own_each (ops, owner, keep, K, a);
  tape->raw = own_each (ops, owner, keep, K, M * row);
  tape->attention
      = own_each (ops, owner, keep, K, M * row_room (ops, left.attention, shape->H * shape->head_dim));
  tape->hidden = own_each (ops, owner, keep, K, M * row_room (ops, left.hidden, shape->hidden));
  tape->qkv = keep && shape->qk_norm ? own_each (ops, owner, TRUE, K, M * row) : alias (tape->raw, K);
  if (shape->post_norm)
    {
      tape->sub1 = own_each (ops, owner, keep, K, M * d);
      tape->sub2 = own_each (ops, owner, keep, K, M * d);
    }
  if (shape->gated)
    {
      tape->gate = own_each (ops, owner, keep, K, M * shape->hidden);
      tape->before = own_each (ops, owner, keep, K, M * shape->hidden);
    }
  if (keep)
    {
      tape->a2 = own_each (ops, owner, TRUE, K, a);
      tape->middle = own_each (ops, owner, TRUE, K, M * d);
      tape->stats = own_each (ops, owner, TRUE, K, 2 * M * shape->H);
      if (!shape->gated) /* as hidden */
        tape->before = own_each (ops, owner, TRUE, K, M * row_room (ops, left.hidden, shape->hidden));
    }
  else
    {
      /* the residual stream is updated in place */
      tape->a2 = alias (tape->a1, K);
      tape->middle = alias (tape->h, K);
      tape->stats = g_new0 (NfBuffer *, K);
      if (!shape->gated)
        tape->before = g_new0 (NfBuffer *, K);
    }
  tape->keys = own (ops, owner, nf_ops_keys_size (ops, B, shape->Hkv, S));
  return tape;
}

void
nf_tape_free (NfTape *tape)
{
  g_ptr_array_unref (tape->buffers);
  g_free (tape->h);
  g_free (tape->a1);
  g_free (tape->a2);
  g_free (tape->raw);
  g_free (tape->qkv);
  g_free (tape->attention);
  g_free (tape->stats);
  g_free (tape->sub1);
  g_free (tape->middle);
  g_free (tape->gate);
  g_free (tape->before);
  g_free (tape->hidden);
  g_free (tape->sub2);
  g_free (tape);
}

static guint
from_left (gboolean left)
{
  return left ? NF_MATMUL_LEFT_A : 0;
}

/* Of M rows from FIRST on. */
static void
norm (NfOps *ops, const NfTransformerShape *shape, const NfNorm *weights, NfBuffer *x, NfBuffer *y,
      gboolean left, guint first, guint M)
{
  nf_ops_norm (ops, shape->norm, nf_view (x, (gsize)first * shape->d), weights->w, weights->b,
               nf_view (NULL, 0), nf_view (y, (gsize)first * nf_ops_row_step (ops, shape->d, left)), left, M,
               shape->d);
}

/* h_out = h + LAYER(x), by way of SUB and the norm POST if there is one. */
static void
add_sublayer (NfOps *ops, const NfTransformerShape *shape, const NfLinear *layer, const NfNorm *post,
              NfBuffer *x, gboolean left, NfBuffer *sub, NfBuffer *h, NfBuffer *h_out, guint first, guint M)
{
  const gsize at = (gsize)first * shape->d;
  const NfView from = nf_view (x, (gsize)first * nf_ops_row_step (ops, layer->n_in, left)),
               residual = nf_view (h, at), to = nf_view (h_out, at), between = nf_view (sub, at);
  NfLinearExtra extra = { .flags = from_left (left) };
  if (!shape->post_norm)
    {
      extra.residual = residual;
      nf_linear_forward (ops, layer, from, to, M, &extra);
      return;
    }
  nf_linear_forward (ops, layer, from, between, M, &extra);
  nf_ops_norm (ops, NF_NORM_RMS, between, post->w, post->b, residual, to, FALSE, M, shape->d);
}

/* hidden = activation of a. BEFORE, what the activation gets, has no buffer if nobody asks for it; GATE is
 * there if gated. */
static void
activate (NfOps *ops, const NfTransformerShape *shape, const NfLayerWeights *weights, NfView a, NfView gate,
          NfView before, NfView hidden, NfLeftRows left, guint M)
{
  NfLinearExtra extra = { .flags = from_left (left.a) };
  if (!shape->gated)
    {
      extra.flags |= NF_MATMUL_GELU | (left.hidden ? NF_MATMUL_LEFT : 0);
      extra.before = before;
      nf_linear_forward (ops, &weights->fc1, a, hidden, M, &extra);
      return;
    }
  nf_linear_forward (ops, &weights->gate, a, gate, M, &extra);
  nf_linear_forward (ops, &weights->fc1, a, before, M, &extra);
  nf_ops_gate (ops, gate, before, hidden, left.hidden, M, shape->hidden);
}

/* COUNT rows of each of B samples, rows of samples BATCH apart, at positions from Q0 on. */
static NfHeads
describe_heads (const NfTransformerShape *shape, const NfSequence *sequence, const NfLayerWeights *weights,
                NfView from, NfView to, gsize batch, guint q0, guint count, guint B)
{
  return (NfHeads){
    .from = from,
    .to = to,
    .q_norm = weights->query_norm,
    .k_norm = weights->key_norm,
    .table = sequence->table,
    .row = row_floats (shape),
    .batch = batch,
    .position0 = q0,
    .count = count,
    .B = B,
    .H = shape->H,
    .Hkv = shape->Hkv,
    .half_split = shape->half_split,
  };
}

static void
forward_layer (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence, NfTape *tape,
               guint l, guint B)
{
  const NfTransformerShape *shape = &transformer->shape;
  const NfLayerWeights *weights = &transformer->layers[l];
  const NfCache *past = sequence->past;
  const guint S = sequence->S, first = past ? sequence->first : 0, M = B * (S - first), dh = shape->head_dim,
              H = shape->H, Hkv = shape->Hkv, d = shape->d;
  const NfLeftRows left = tape->left;
  const gboolean left_qkv = leaves_left_qkv (ops, shape, sequence, tape->keep);
  const guint row = left_qkv ? nf_ops_left_step (ops, row_floats (shape)) : row_floats (shape);
  const gsize batch = (gsize)S * row, a_at = (gsize)first * nf_ops_row_step (ops, d, left.a),
              hidden_at = (gsize)first * nf_ops_row_step (ops, shape->hidden, left.hidden),
              wide = (gsize)first * shape->hidden;
  const NfView qkv = nf_view (tape->qkv[l], 0), raw = nf_view (tape->raw[l], (gsize)first * row);
  const NfLinearExtra extra = { .flags = from_left (left.a) | (left_qkv ? NF_MATMUL_LEFT : 0) };

  norm (ops, shape, &weights->attention_norm, tape->h[l], tape->a1[l], left.a, first, M);
  nf_linear_forward (ops, &weights->qkv, nf_view (tape->a1[l], a_at), raw, M, &extra);
  if (past)
    nf_ops_copy (ops, nf_view (past->qkv[l], (gsize)sequence->sample * past->S * row), qkv,
                 (gsize)first * row);
  if (has_heads (shape, sequence))
    {
      const NfHeads heads = describe_heads (
          shape, sequence, weights, raw, nf_view_add (qkv, (gsize)first * row), batch, first, S - first, B);
      nf_ops_heads (ops, &heads);
    }
  nf_ops_append (ops, nf_view_add (qkv, H * dh / (left_qkv ? 2 : 1)), row, batch, left_qkv, tape->keys, 0, S,
                 S, B, Hkv);
  const NfAttention attention = {
    .Q = nf_view_add (qkv, (gsize)first * row),
    .q_row = row,
    .q_batch = batch,
    .out = nf_view (tape->attention[l], (gsize)first * H * dh),
    .out_row = H * dh,
    .out_batch = (gsize)S * H * dh,
    .left = left.attention,
    .q_left = left_qkv,
    .keys = tape->keys,
    .capacity = S,
    .stats = tape->stats[l],
    .q0 = first,
    .Nq = S - first,
    .B = B,
    .H = H,
    .Hkv = Hkv,
    .split = B,
    .scale = attention_scale (shape),
    .scale2 = attention_scale (shape),
    .mask = sequence->mask,
  };
  nf_ops_attention (ops, &attention);
  add_sublayer (ops, shape, &weights->proj, &weights->attention_post, tape->attention[l], left.attention,
                tape->sub1 ? tape->sub1[l] : NULL, tape->h[l], tape->middle[l], first, M);
  norm (ops, shape, &weights->mlp_norm, tape->middle[l], tape->a2[l], left.a, first, M);
  activate (ops, shape, weights, nf_view (tape->a2[l], a_at),
            nf_view (tape->gate ? tape->gate[l] : NULL, wide),
            nf_view (tape->before[l], shape->gated ? wide : hidden_at), nf_view (tape->hidden[l], hidden_at),
            left, M);
  add_sublayer (ops, shape, &weights->fc2, &weights->mlp_post, tape->hidden[l], left.hidden,
                tape->sub2 ? tape->sub2[l] : NULL, tape->middle[l], tape->h[l + 1], first, M);
}

void
nf_transformer_forward (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                        NfTape *tape, guint B)
{
  g_assert (!sequence->past || (B == 1 && tape->keep && sequence->past->keeps_rows));
  for (guint l = 0; l < transformer->shape.K; l++)
    forward_layer (ops, transformer, sequence, tape, l, B);
}

/* Backward */

NfTapeScratch *
nf_tape_scratch_new (NfOps *ops, const NfTransformerShape *shape, guint S, guint B)
{
  NfTapeScratch *scratch = g_new0 (NfTapeScratch, 1);
  const gsize M = (gsize)B * S, d = shape->d, dh = shape->head_dim,
              keys = nf_ops_backward_keys_size (ops, B, shape->Hkv, S);
  GPtrArray *owner = scratch->buffers = new_owner ();

  scratch->dh = own (ops, owner, M * d);
  scratch->da = own (ops, owner, M * d);
  scratch->dyc = own (ops, owner, M * d);
  scratch->dqkv = own (ops, owner, M * row_floats (shape));
  scratch->dout = own (ops, owner, M * shape->H * dh);
  scratch->dhidden = own (ops, owner, M * shape->hidden);
  scratch->keys = own (ops, owner, keys);
  scratch->values = own (ops, owner, keys);
  if (shape->post_norm)
    scratch->dsub = own (ops, owner, M * d);
  if (shape->gated)
    scratch->dgate = own (ops, owner, M * shape->hidden);
  if (shape->qk_norm)
    scratch->dheads = own (ops, owner, M * (shape->H + shape->Hkv) * dh);
  return scratch;
}

void
nf_tape_scratch_free (NfTapeScratch *scratch)
{
  g_ptr_array_unref (scratch->buffers);
  g_free (scratch);
}

void
nf_norm_backward (NfOps *ops, NfNormKind kind, const NfNorm *weights, NfView x, NfView dy, NfView dyc,
                  NfView dx, gboolean accumulate, guint M, guint d, NfBuffer *gradients)
{
  if (gradients && kind == NF_NORM_LAYER)
    nf_ops_column_sums (ops, dy, d, FALSE, nf_view (gradients, weights->b.at), M, d);
  nf_ops_norm_backward (ops, kind, x, weights->w, dy, dyc, dx, accumulate, M, d);
  if (gradients)
    nf_ops_column_sums (ops, dyc, d, FALSE, nf_view (gradients, weights->w.at), M, d);
}

/* The gradient of a sub-layer's last product, dh or what its post-norm makes of it. */
static NfView
through_post (NfOps *ops, const NfTransformerShape *shape, const NfNorm *post, NfBuffer *sub,
              NfTapeScratch *s, guint first, guint M, NfBuffer *gradients)
{
  const gsize at = (gsize)first * shape->d;
  if (!shape->post_norm)
    return nf_view (s->dh, at);
  nf_norm_backward (ops, NF_NORM_RMS, post, nf_view (sub, at), nf_view (s->dh, at), nf_view (s->dyc, at),
                    nf_view (s->dsub, at), FALSE, M, shape->d, gradients);
  return nf_view (s->dsub, at);
}

static void
backward_mlp (NfOps *ops, const NfTransformerShape *shape, const NfLayerWeights *weights, const NfTape *tape,
              NfTapeScratch *s, guint l, guint first, guint M, NfBuffer *gradients)
{
  const NfLeftRows left = tape->left;
  const gsize at = (gsize)first * shape->d, wide = (gsize)first * shape->hidden,
              hidden_at = (gsize)first * nf_ops_row_step (ops, shape->hidden, left.hidden);
  const NfView dy = through_post (ops, shape, &weights->mlp_post, tape->sub2 ? tape->sub2[l] : NULL, s, first,
                                  M, gradients),
               hidden = nf_view (tape->hidden[l], hidden_at),
               before = nf_view (tape->before[l], shape->gated ? wide : hidden_at), none = nf_view (NULL, 0),
               a = nf_view (tape->a2[l], (gsize)first * nf_ops_row_step (ops, shape->d, left.a)),
               da = nf_view (s->da, at), dhidden = nf_view (s->dhidden, wide);
  const guint of_a = left.a ? NF_LEFT_X : 0;

  if (!shape->gated)
    {
      /* products alone read the gradient, too */
      nf_linear_backward (ops, &weights->fc2, hidden, dy, dhidden, M, FALSE, before,
                          left.hidden ? NF_LEFT_X | NF_LEFT_DX : 0, gradients);
      nf_linear_backward (ops, &weights->fc1, a, dhidden, da, M, FALSE, none,
                          of_a | (left.hidden ? NF_LEFT_DY : 0), gradients);
    }
  else
    {
      const NfView dgate = nf_view (s->dgate, wide);
      nf_linear_backward (ops, &weights->fc2, hidden, dy, dhidden, M, FALSE, none,
                          left.hidden ? NF_LEFT_X : 0, gradients);
      nf_ops_gate_backward (ops, nf_view (tape->gate[l], wide), before, dhidden, dgate, dhidden,
                            (gsize)M * shape->hidden);
      nf_linear_backward (ops, &weights->fc1, a, dhidden, da, M, FALSE, none, of_a, gradients);
      nf_linear_backward (ops, &weights->gate, a, dgate, da, M, TRUE, none, of_a, gradients);
    }
  nf_norm_backward (ops, shape->norm, &weights->mlp_norm, nf_view (tape->middle[l], at), da,
                    nf_view (s->dyc, at), nf_view (s->dh, at), TRUE, M, shape->d, gradients);
}

static void
backward_attention (NfOps *ops, const NfTransformerShape *shape, const NfSequence *sequence,
                    const NfLayerWeights *weights, const NfTape *tape, NfTapeScratch *s, guint l, guint B,
                    NfBuffer *gradients)
{
  const guint S = sequence->S, first = sequence->first, M = B * (S - first), row = row_floats (shape),
              dh = shape->head_dim, H = shape->H, Hkv = shape->Hkv;
  const gsize batch = (gsize)S * row, at = (gsize)first * shape->d, heads_at = (gsize)first * H * dh;
  const NfView dy = through_post (ops, shape, &weights->attention_post, tape->sub1 ? tape->sub1[l] : NULL, s,
                                  first, M, gradients),
               qkv = nf_view (tape->qkv[l], 0), da = nf_view (s->da, at), none = nf_view (NULL, 0),
               dqkv = nf_view (s->dqkv, 0);

  nf_linear_backward (ops, &weights->proj, nf_view (tape->attention[l], heads_at), dy,
                      nf_view (s->dout, heads_at), M, FALSE, none, 0, gradients);
  const NfAttentionBackward attention = {
    .qkv = qkv,
    .out = nf_view (tape->attention[l], 0),
    .dout = nf_view (s->dout, 0),
    .dqkv = dqkv,
    .keys = s->keys,
    .values = s->values,
    .stats = tape->stats[l],
    .N = S,
    .B = B,
    .H = H,
    .Hkv = Hkv,
    .mask = sequence->mask,
    .scale = attention_scale (shape),
  };
  nf_ops_attention_backward (ops, &attention);
  if (has_heads (shape, sequence))
    {
      const NfHeads heads
          = describe_heads (shape, sequence, weights, nf_view (tape->raw[l], 0), qkv, batch, 0, S, B);
      const gboolean wanted = gradients && shape->qk_norm;
      nf_ops_heads_backward (ops, &heads, dqkv, s->dheads,
                             wanted ? nf_view (gradients, weights->query_norm.at) : none,
                             wanted ? nf_view (gradients, weights->key_norm.at) : none);
    }
  const gboolean left_a = tape->left.a;
  nf_linear_backward (
      ops, &weights->qkv, nf_view (tape->a1[l], (gsize)first * nf_ops_row_step (ops, shape->d, left_a)),
      nf_view_add (dqkv, (gsize)first * row), da, M, FALSE, none, left_a ? NF_LEFT_X : 0, gradients);
  nf_norm_backward (ops, shape->norm, &weights->attention_norm, nf_view (tape->h[l], at), da,
                    nf_view (s->dyc, at), nf_view (s->dh, at), TRUE, M, shape->d, gradients);
}

void
nf_transformer_backward (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                         const NfTape *tape, NfTapeScratch *scratch, guint B, NfBuffer *gradients)
{
  const guint first = sequence->first;
  g_assert (first == 0 || (B == 1 && !gradients));
  for (guint l = transformer->shape.K; l-- > 0;)
    {
      const NfLayerWeights *weights = &transformer->layers[l];
      backward_mlp (ops, &transformer->shape, weights, tape, scratch, l, first, B * (sequence->S - first),
                    gradients);
      backward_attention (ops, &transformer->shape, sequence, weights, tape, scratch, l, B, gradients);
    }
}

/* Decoding */

gsize
nf_cache_floats (NfOps *ops, const NfTransformerShape *shape, guint S, guint count)
{
  const gsize d = shape->d, inner = (gsize)shape->H * shape->head_dim;
  return shape->K * nf_ops_keys_size (ops, 1, shape->Hkv, S)
         + count
               * (row_floats (shape) + 2 * d + inner + (shape->gated ? 3 : 1) * (gsize)shape->hidden
                  + (shape->post_norm ? d : 0)
                  /* left rows may be 3/2 of those of floats */
                  + (d + inner + shape->hidden + 1) / 2);
}

NfCache *
nf_cache_new (NfOps *ops, const NfTransformerShape *shape, guint rows, guint S, guint count,
              gboolean keeps_rows)
{
  NfCache *cache = g_new0 (NfCache, 1);
  const gsize M = (gsize)rows * count, d = shape->d;
  GPtrArray *owner = cache->buffers = new_owner ();

  cache->rows = rows;
  cache->S = S;
  cache->count = count;
  cache->keys = own_each (ops, owner, TRUE, shape->K, nf_ops_keys_size (ops, rows, shape->Hkv, S));
  cache->keeps_rows = keeps_rows;
  cache->qkv = own_each (ops, owner, keeps_rows, shape->K,
                         (gsize)rows * (keeps_rows ? S : count) * row_floats (shape));
  cache->h = own (ops, owner, M * d);
  cache->a = own (ops, owner, M * nf_ops_row_size (ops, shape->d));
  cache->attention = own (ops, owner, M * nf_ops_row_size (ops, shape->H * shape->head_dim));
  cache->hidden = own (ops, owner, M * nf_ops_row_size (ops, shape->hidden));
  if (shape->gated)
    cache->gate = own (ops, owner, 2 * M * shape->hidden);
  if (shape->post_norm)
    cache->sub = own (ops, owner, M * d);
  return cache;
}

void
nf_cache_free (NfCache *cache)
{
  g_ptr_array_unref (cache->buffers);
  g_free (cache->keys);
  g_free (cache->qkv);
  g_free (cache);
}

static void
extend_layer (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence, NfCache *cache,
              guint l, guint R, guint q0, guint count, guint split, float temperature)
{
  const NfTransformerShape *shape = &transformer->shape;
  const NfLayerWeights *weights = &transformer->layers[l];
  const guint M = R * count, row = row_floats (shape), dh = shape->head_dim, H = shape->H, Hkv = shape->Hkv,
              d = shape->d;
  const gsize batch = (gsize)(cache->keeps_rows ? cache->S : count) * row;
  const NfView qkv = nf_view (cache->qkv[l], cache->keeps_rows ? (gsize)q0 * row : 0),
               a = nf_view (cache->a, 0);
  const NfLeftRows left = choose_left (ops, shape, FALSE);
  const gsize a_row = nf_ops_row_step (ops, d, left.a);

  norm (ops, shape, &weights->attention_norm, cache->h, cache->a, left.a, 0, M);
  /* kept rows of one sequence lie together, single ones of many sequences evenly apart; else sequence by
   * sequence */
  const guint launches = cache->keeps_rows && count > 1 ? R : 1;
  for (guint i = 0; i < launches; i++)
    {
      const NfLinearExtra extra = { .flags = from_left (left.a), .y_row = count > 1 ? row : (guint)batch };
      nf_linear_forward (ops, &weights->qkv, nf_view_add (a, (gsize)i * count * a_row),
                         nf_view_add (qkv, i * batch), M / launches, &extra);
    }
  if (has_heads (shape, sequence))
    {
      const NfHeads heads = describe_heads (shape, sequence, weights, qkv, qkv, batch, q0, count, R);
      nf_ops_heads (ops, &heads);
    }
  nf_ops_append (ops, nf_view_add (qkv, H * dh), row, batch, FALSE, cache->keys[l], q0, count, cache->S, R,
                 Hkv);
  const NfAttention attention = {
    .Q = qkv,
    .q_row = row,
    .q_batch = batch,
    .out = nf_view (cache->attention, 0),
    .out_row = H * dh,
    .out_batch = (gsize)count * H * dh,
    .left = left.attention,
    .keys = cache->keys[l],
    .capacity = cache->S,
    .q0 = q0,
    .Nq = count,
    .B = R,
    .H = H,
    .Hkv = Hkv,
    .split = split,
    .scale = attention_scale (shape),
    .scale2 = attention_scale (shape) / temperature,
    .mask = sequence->mask,
  };
  nf_ops_attention (ops, &attention);
  add_sublayer (ops, shape, &weights->proj, &weights->attention_post, cache->attention, left.attention,
                cache->sub, cache->h, cache->h, 0, M);
  norm (ops, shape, &weights->mlp_norm, cache->h, cache->a, left.a, 0, M);
  const NfView gate = nf_view (cache->gate, 0),
               before = nf_view (cache->gate, cache->gate ? (gsize)M * shape->hidden : 0);
  activate (ops, shape, weights, a, gate, before, nf_view (cache->hidden, 0), left, M);
  add_sublayer (ops, shape, &weights->fc2, &weights->mlp_post, cache->hidden, left.hidden, cache->sub,
                cache->h, cache->h, 0, M);
}

void
nf_transformer_extend (NfOps *ops, const NfTransformer *transformer, const NfSequence *sequence,
                       NfCache *cache, guint R, guint q0, guint count, guint split, float temperature)
{
  for (guint l = 0; l < transformer->shape.K; l++)
    extend_layer (ops, transformer, sequence, cache, l, R, q0, count, split, temperature);
}
