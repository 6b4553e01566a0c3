/* normflow: an autoregressive flow block. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-block.h"

guint
nf_block_rows (const NfBlockSequence *sequence)
{
  return sequence->prefix + sequence->N + sequence->N / sequence->frame * sequence->extra;
}

guint
nf_block_row (const NfBlockSequence *sequence, guint n)
{
  return sequence->prefix + n + (n / sequence->frame + 1) * sequence->extra;
}

/* The first row that is computed: a past has those before. */
static guint
first_row (const NfBlockSequence *sequence)
{
  return sequence->rows.past ? sequence->rows.first : 0;
}

/* Tokens that a past leaves out: those of all frames but the last, whose rows lie together. */
static guint
count_left_out (const NfBlockSequence *sequence)
{
  const guint n = sequence->N - sequence->frame;
  if (!sequence->rows.past)
    return 0;
  g_assert (sequence->rows.first == nf_block_row (sequence, n));
  return n;
}

/* Of tokens U of a sequence, those that are not left out. */
static NfView
skip_left_out (const NfFlowBlock *block, const NfBlockSequence *sequence, NfView u)
{
  return nf_view_add (u, (gsize)count_left_out (sequence) * block->D);
}

static gboolean
has_gaps (const NfBlockSequence *sequence)
{
  return !sequence->rows.past && (sequence->prefix || sequence->extra);
}

NfAffine
nf_block_affine (const NfFlowBlock *block, const NfBlockSequence *sequence, guint B)
{
  const gboolean past = sequence->rows.past != NULL;
  return (NfAffine){
    .B = B,
    .N = sequence->N - count_left_out (sequence),
    .D = block->D,
    .S = nf_block_rows (sequence),
    .prefix = past ? sequence->rows.first : sequence->prefix,
    .extra = past ? 0 : sequence->extra,
    .frame = sequence->frame,
    .shift = !block->sos.buffer,
    .scale = block->scale,
    .soft_clip = block->soft_clip,
    .most = block->max_log_scale,
    .per_unit_in = sequence->on_lattice ? block->per_unit_in : 0,
    .per_unit_out = sequence->on_lattice ? block->per_unit_out : 0,
    .snapped = sequence->snapped,
  };
}

static NfBuffer *
own (NfOps *ops, GPtrArray *owner, gsize floats)
{
  NfBuffer *buffer = nf_ops_alloc (ops, floats);
  if (buffer)
    g_ptr_array_add (owner, buffer);
  return buffer;
}

static GPtrArray *
new_owner (void)
{
  return g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
}

/* Between dense rows and their places among the others in a sequence */

void
nf_block_move_tokens (NfOps *ops, const NfBlockSequence *sequence, guint B, guint d, NfView dense, NfView all,
                      gboolean out)
{
  const gsize frame = (gsize)sequence->frame * d, S = (gsize)nf_block_rows (sequence) * d;
  const guint frames = sequence->N / sequence->frame;
  for (guint b = 0; b < B; b++)
    {
      const NfView packed = nf_view_add (dense, (gsize)b * sequence->N * d),
                   spread = nf_view_add (all, b * S + (gsize)nf_block_row (sequence, 0) * d);
      const gsize step = frame + (gsize)sequence->extra * d;
      if (out)
        nf_ops_copy_rows (ops, spread, step, packed, frame, frame, frames);
      else
        nf_ops_copy_rows (ops, packed, frame, spread, step, frame, frames);
    }
}

/* The rows of the text. DENSE (B, prefix, d). */
static void
move_text (NfOps *ops, const NfBlockSequence *sequence, guint B, guint d, NfView dense, NfView all,
           gboolean out)
{
  const gsize text = (gsize)sequence->prefix * d, S = (gsize)nf_block_rows (sequence) * d;
  if (out)
    nf_ops_copy_rows (ops, all, S, dense, text, text, B);
  else
    nf_ops_copy_rows (ops, dense, text, all, S, text, B);
}

/* The rows of the actions. DENSE (B, frames, d). */
static void
move_actions (NfOps *ops, const NfBlockSequence *sequence, guint B, guint d, NfView dense, NfView all,
              gboolean out)
{
  const gsize step = (gsize)(sequence->frame + 1) * d, S = (gsize)nf_block_rows (sequence) * d;
  const guint frames = sequence->N / sequence->frame;
  for (guint b = 0; b < B; b++)
    {
      const NfView packed = nf_view_add (dense, (gsize)b * frames * d),
                   spread = nf_view_add (all, b * S + (gsize)sequence->prefix * d);
      if (out)
        nf_ops_copy_rows (ops, spread, step, packed, d, d, frames);
      else
        nf_ops_copy_rows (ops, packed, d, spread, step, d, frames);
    }
}

/* Forward */

gsize
nf_block_tape_floats (const NfFlowBlock *block, const NfBlockSequence *sequence, gboolean keep)
{
  const gsize S = nf_block_rows (sequence);
  return nf_tape_floats (&block->transformer.shape, (guint)S, keep) + S * block->out.n_out
         + (block->final_norm.w.buffer ? S * block->transformer.shape.d : 0)
         + (block->sos.buffer ? (gsize)sequence->N * block->D : 0);
}

NfBlockTape *
nf_block_tape_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, guint B,
                   gboolean keep)
{
  NfBlockTape *tape = g_new0 (NfBlockTape, 1);
  const NfTransformerShape *shape = &block->transformer.shape;
  const guint S = nf_block_rows (sequence);
  const gsize M = (gsize)B * S;

  tape->buffers = new_owner ();
  tape->layers = nf_tape_new (ops, shape, S, B, keep);
  tape->o = own (ops, tape->buffers, M * block->out.n_out);
  if (block->sos.buffer)
    tape->shifted = own (ops, tape->buffers, (gsize)B * sequence->N * block->D);
  tape->last
      = block->final_norm.w.buffer ? own (ops, tape->buffers, M * shape->d) : tape->layers->h[shape->K];
  return tape;
}

void
nf_block_tape_free (NfBlockTape *tape)
{
  nf_tape_free (tape->layers);
  g_ptr_array_unref (tape->buffers);
  g_free (tape);
}

/* What rows read is replaced where the condition says so: by other tokens of U, or by zeros if it is a NULL
 * buffer. SHIFTED (B, N, D): row n reads token n-1. */
static void
substitute (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
            const NfCondition *condition, NfView u, NfView shifted)
{
  const gsize D = block->D, N = sequence->N, frame = sequence->frame;
  for (guint i = 0; i < condition->n_substitutes; i++)
    {
      const NfSubstitute *s = &condition->substitutes[i];
      const gsize to = s->b * N + s->f * frame + s->to + 1;
      /* nothing reads the last token */
      const guint count = s->f * frame + s->to + (s->count - 1) * frame + 1 < N ? s->count : s->count - 1;
      if (u.buffer)
        nf_ops_copy_rows (ops, nf_view_add (u, (s->b * N + s->f * frame + s->from) * D), frame * D,
                          nf_view_add (shifted, to * D), frame * D, D, count);
      for (guint f = 0; !u.buffer && f < count; f++)
        nf_ops_fill (ops, nf_view_add (shifted, (to + f * frame) * D), 0.0f, D);
    }
}

/* The first rows of the residual stream: tokens, text and actions. */
static void
enter (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, NfBlockTape *tape, NfView u,
       guint B, const NfCondition *condition)
{
  const guint N = sequence->N, n0 = count_left_out (sequence), count = N - n0, d = block->transformer.shape.d;
  const gboolean gaps = has_gaps (sequence);
  const NfView h = nf_view (tape->layers->h[0], (gsize)first_row (sequence) * d),
               /* not yet in use when the first layer begins; it has room for floats */
      dense = gaps ? nf_view (tape->layers->a1[0], 0) : h,
               shifted = skip_left_out (block, sequence, nf_view (tape->shifted, 0));
  const NfLinearExtra position
      = { .residual = nf_view_add (block->ordered_position, (gsize)n0 * d), .r_mod = count };

  g_assert (n0 == 0 || condition->n_substitutes == 0);
  if (block->sos.buffer)
    {
      nf_ops_shift_in (ops, u, block->sos, shifted, n0, count, B, N, block->D);
      substitute (ops, block, sequence, condition, u, shifted);
    }
  nf_linear_forward (ops, &block->in, block->sos.buffer ? shifted : skip_left_out (block, sequence, u), dense,
                     B * count, &position);
  if (gaps)
    nf_block_move_tokens (ops, sequence, B, d, dense, h, FALSE);
  if (gaps && sequence->prefix)
    {
      nf_linear_forward (ops, &block->text, condition->text, dense, B * sequence->prefix, NULL);
      move_text (ops, sequence, B, d, dense, h, FALSE);
    }
  if (gaps && sequence->extra)
    {
      nf_linear_forward (ops, &block->action, condition->actions, dense, B * (N / sequence->frame), NULL);
      move_actions (ops, sequence, B, d, dense, h, FALSE);
    }
  if (block->n_classes > 0)
    nf_ops_class_embed (ops, h, block->classes, condition->labels, B, count, d, block->n_classes);
}

void
nf_block_predict (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, NfBlockTape *tape,
                  NfView u, guint B, const NfCondition *condition)
{
  const NfTransformerShape *shape = &block->transformer.shape;
  const guint first = first_row (sequence), M = B * (nf_block_rows (sequence) - first);
  const gsize at = (gsize)first * shape->d;

  enter (ops, block, sequence, tape, u, B, condition);
  nf_transformer_forward (ops, &block->transformer, &sequence->rows, tape->layers, B);
  if (block->final_norm.w.buffer)
    nf_ops_norm (ops, NF_NORM_RMS, nf_view (tape->layers->h[shape->K], at), block->final_norm.w,
                 block->final_norm.b, nf_view (NULL, 0), nf_view (tape->last, at), FALSE, M, shape->d);
  nf_linear_forward (ops, &block->out, nf_view (tape->last, at),
                     nf_view (tape->o, (gsize)first * block->out.n_out), M, NULL);
}

void
nf_block_forward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, NfBlockTape *tape,
                  NfView u, guint B, const NfCondition *condition, NfView z, NfBuffer *log_det,
                  const NfMissed *missed, NfView log_scales, gboolean out_flip, gboolean accumulate)
{
  NfAffine affine = nf_block_affine (block, sequence, B);

  affine.missed = missed;
  nf_block_predict (ops, block, sequence, tape, u, B, condition);
  nf_ops_affine (ops, &affine, skip_left_out (block, sequence, u), tape->o, z, log_det, log_scales,
                 block->flip, out_flip, accumulate);
}

/* Backward */

NfBlockScratch *
nf_block_scratch_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, guint B)
{
  NfBlockScratch *scratch = g_new0 (NfBlockScratch, 1);
  const guint S = nf_block_rows (sequence);

  scratch->buffers = new_owner ();
  scratch->layers = nf_tape_scratch_new (ops, &block->transformer.shape, S, B);
  scratch->d_o = own (ops, scratch->buffers, (gsize)B * S * block->out.n_out);
  if (block->sos.buffer)
    scratch->dshifted = own (ops, scratch->buffers, (gsize)B * sequence->N * block->D);
  return scratch;
}

void
nf_block_scratch_free (NfBlockScratch *scratch)
{
  nf_tape_scratch_free (scratch->layers);
  g_ptr_array_unref (scratch->buffers);
  g_free (scratch);
}

/* From the gradient of the first rows to those of tokens, text, actions and what embeds them. du is added to.
 */
static void
leave (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, const NfBlockTape *tape,
       NfBlockScratch *scratch, NfView u, guint B, const NfCondition *condition, NfView du,
       NfBuffer *gradients)
{
  const guint N = sequence->N, count = N - count_left_out (sequence), d = block->transformer.shape.d;
  const NfView dh = nf_view (scratch->layers->dh, (gsize)first_row (sequence) * d), none = nf_view (NULL, 0),
               gathered = nf_view (scratch->layers->da, 0);
  const NfView dense = has_gaps (sequence) ? gathered : dh;

  if (gradients && sequence->prefix)
    {
      move_text (ops, sequence, B, d, gathered, dh, TRUE);
      nf_linear_backward (ops, &block->text, condition->text, gathered, none, B * sequence->prefix, FALSE,
                          none, 0, gradients);
    }
  if (gradients && sequence->extra)
    {
      move_actions (ops, sequence, B, d, gathered, dh, TRUE);
      nf_linear_backward (ops, &block->action, condition->actions, gathered, none, B * (N / sequence->frame),
                          FALSE, none, 0, gradients);
    }
  if (has_gaps (sequence))
    nf_block_move_tokens (ops, sequence, B, d, gathered, dh, TRUE);
  if (gradients && block->position.buffer)
    nf_ops_position_backward (ops, dense, nf_view (gradients, block->position.at), B * N / sequence->frame,
                              sequence->frame, d, block->flip, sequence->frame);
  if (gradients && block->n_classes > 0)
    nf_ops_class_embed_backward (ops, dense, nf_view (gradients, block->classes.at), condition->labels, B, N,
                                 d, block->n_classes);
  if (!block->sos.buffer)
    {
      nf_linear_backward (ops, &block->in, skip_left_out (block, sequence, u), dense, du, B * count, TRUE,
                          none, 0, gradients);
      return;
    }
  const NfView dshifted = nf_view (scratch->dshifted, 0);
  nf_linear_backward (ops, &block->in, skip_left_out (block, sequence, nf_view (tape->shifted, 0)), dense,
                      dshifted, B * count, FALSE, none, 0, gradients);
  substitute (ops, block, sequence, condition, none, dshifted);
  nf_ops_shift_in_backward (ops, dshifted, du, gradients ? nf_view (gradients, block->sos.at) : none, B,
                            count, block->D);
}

void
nf_block_predict_backward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                           const NfBlockTape *tape, NfBlockScratch *scratch, NfView u, guint B,
                           const NfCondition *condition, NfView du, NfBuffer *gradients)
{
  const NfTransformerShape *shape = &block->transformer.shape;
  const guint first = sequence->rows.first, M = B * (nf_block_rows (sequence) - first);
  const gsize at = (gsize)first * shape->d;
  const NfView dh = nf_view (scratch->layers->dh, at);

  nf_linear_backward (ops, &block->out, nf_view (tape->last, at),
                      nf_view (scratch->d_o, (gsize)first * block->out.n_out), dh, M, FALSE,
                      nf_view (NULL, 0), 0, gradients);
  if (block->final_norm.w.buffer)
    nf_norm_backward (ops, NF_NORM_RMS, &block->final_norm, nf_view (tape->layers->h[shape->K], at), dh,
                      nf_view (scratch->layers->dyc, at), dh, FALSE, M, shape->d, gradients);
  nf_transformer_backward (ops, &block->transformer, &sequence->rows, tape->layers, scratch->layers, B,
                           gradients);
  leave (ops, block, sequence, tape, scratch, u, B, condition, du, gradients);
}

void
nf_block_backward (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                   const NfBlockTape *tape, NfBlockScratch *scratch, NfView u, guint B,
                   const NfCondition *condition, NfView dz, NfView du, gboolean out_flip, float g,
                   NfBuffer *gradients)
{
  const NfAffine affine = nf_block_affine (block, sequence, B);

  nf_ops_affine_backward (ops, &affine, skip_left_out (block, sequence, u), tape->o, dz, du, scratch->d_o,
                          out_flip, g);
  nf_block_predict_backward (ops, block, sequence, tape, scratch, u, B, condition, du, gradients);
}

/* Decoding */

gsize
nf_block_cache_floats (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, guint count)
{
  return nf_cache_floats (ops, &block->transformer.shape, nf_block_rows (sequence), count)
         + (gsize)count * (block->D + block->out.n_out);
}

NfBlockCache *
nf_block_cache_new (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, guint rows,
                    guint count, gboolean keeps_rows)
{
  NfBlockCache *cache = g_new0 (NfBlockCache, 1);

  cache->buffers = new_owner ();
  /* the text goes through at once, and where it sees tokens with them */
  const gboolean among = sequence->rows.mask.kind == NF_MASK_FRAMES;
  cache->layers = nf_cache_new (ops, &block->transformer.shape, rows, nf_block_rows (sequence),
                                among ? sequence->prefix + count : MAX (count, sequence->prefix), keeps_rows);
  cache->shifted = own (ops, cache->buffers, (gsize)rows * count * block->D);
  cache->o = own (ops, cache->buffers, (gsize)rows * count * block->out.n_out);
  return cache;
}

void
nf_block_cache_free (NfBlockCache *cache)
{
  nf_cache_free (cache->layers);
  g_ptr_array_unref (cache->buffers);
  g_free (cache);
}

void
nf_block_begin (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, NfBlockCache *cache,
                guint B, guint branches, const NfCondition *condition)
{
  const guint rows = B * branches;
  if (sequence->prefix == 0)
    return;
  nf_linear_forward (ops, &block->text, condition->text, nf_view (cache->layers->h, 0),
                     rows * sequence->prefix, NULL);
  nf_transformer_extend (ops, &block->transformer, &sequence->rows, cache->layers, rows, 0, sequence->prefix,
                         rows, 1.0f);
}

void
nf_block_begin_among (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                      NfBlockCache *cache, NfView u, guint B, const NfCondition *condition, guint count)
{
  const guint L = sequence->prefix, d = block->transformer.shape.d;
  g_assert (!block->sos.buffer && !block->ordered_position.buffer);
  if (L == 0)
    return;
  for (guint b = 0; b < B; b++)
    {
      const NfView h = nf_view (cache->layers->h, (gsize)b * (L + count) * d);
      nf_linear_forward (ops, &block->text, nf_view_add (condition->text, (gsize)b * L * block->text.n_in), h,
                         L, NULL);
      nf_linear_forward (ops, &block->in, nf_view_add (u, (gsize)b * sequence->N * block->D),
                         nf_view_add (h, (gsize)L * d), count, NULL);
    }
  nf_transformer_extend (ops, &block->transformer, &sequence->rows, cache->layers, B, 0, L + count, B, 1.0f);
}

void
nf_block_begin_frame (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence,
                      NfBlockCache *cache, guint B, guint branches, const NfCondition *condition, guint f)
{
  const guint rows = B * branches, frames = sequence->N / sequence->frame, width = block->action.n_in;
  if (sequence->extra == 0)
    return;
  const NfLinearExtra extra = { .x_row = frames * width };
  nf_linear_forward (ops, &block->action, nf_view_add (condition->actions, (gsize)f * width),
                     nf_view (cache->layers->h, 0), rows, &extra);
  nf_transformer_extend (ops, &block->transformer, &sequence->rows, cache->layers, rows,
                         sequence->prefix + f * (sequence->frame + 1), 1, rows, 1.0f);
}

void
nf_block_extend (NfOps *ops, const NfFlowBlock *block, const NfBlockSequence *sequence, NfBlockCache *cache,
                 NfView u, guint B, guint branches, const NfCondition *condition, guint n0, guint count,
                 float temperature)
{
  const guint rows = B * branches, N = sequence->N, D = block->D, d = block->transformer.shape.d,
              M = rows * count;
  const gsize sample = (gsize)count * d;
  const NfView h = nf_view (cache->layers->h, 0),
               position = nf_view_add (block->ordered_position, (gsize)n0 * d);

  if (block->sos.buffer)
    {
      const NfLinearExtra extra = { .residual = position, .r_mod = count };
      nf_ops_shift_in (ops, u, block->sos, nf_view (cache->shifted, 0), n0, count, B, N, D);
      nf_linear_forward (ops, &block->in, nf_view (cache->shifted, 0), h, B * count, &extra);
    }
  else
    {
      /* a row of each of many samples, or many rows of one */
      const guint launches = count > 1 ? B : 1;
      const NfLinearExtra extra = { .x_row = count > 1 ? D : N * D, .residual = position, .r_mod = count };
      for (guint b = 0; b < launches; b++)
        nf_linear_forward (ops, &block->in, nf_view_add (u, ((gsize)b * N + n0) * D),
                           nf_view_add (h, b * sample), B * count / launches, &extra);
    }
  for (guint branch = 1; branch < branches; branch++)
    nf_ops_copy (ops, h, nf_view_add (h, branch * B * sample), B * sample);
  if (block->n_classes > 0)
    nf_ops_class_embed (ops, h, block->classes, condition->labels, rows, count, d, block->n_classes);
  nf_transformer_extend (ops, &block->transformer, &sequence->rows, cache->layers, rows,
                         nf_block_row (sequence, n0), count, B, temperature);
  if (block->final_norm.w.buffer)
    nf_ops_norm (ops, NF_NORM_RMS, h, block->final_norm.w, block->final_norm.b, nf_view (NULL, 0), h, FALSE,
                 M, d);
  nf_linear_forward (ops, &block->out, h, nf_view (cache->o, 0), M, NULL);
}
