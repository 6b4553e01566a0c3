/* normflow: the whole flow on a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow-private.h"

#include <math.h>
#include <string.h>

#define ENCODE_ROWS 2048   /* rows of a product when encoding: more brings nothing to a CPU */
#define GRADIENT_ROWS 1024 /* and when training */
#define GPU_FACTOR 8       /* a GPU wants more, to be busy */
/* Side by side when decoding: whole row tiles of products (12), and enough rows to reach their best rate. */
#define DECODE_SAMPLES 72
/* Fewer where the cache then holds what a block's steps read, but no less: a step costs its weights once. */
#define DECODE_FEWEST 8
/* Memory for what the backward pass needs; above it blocks are computed again. */
#define TAPE_BYTES (1024u << 20)
#define DECODE_BYTES (1024u << 20) /* memory for keys and values, or for the samples themselves */
#define ROPE_BASE 10000.0
#define THIRD_AXIS 8 /* angles of frames and text */

static void
clear_buffers (NfFlow *flow)
{
  g_clear_pointer (&flow->input, nf_buffer_free);
  g_clear_pointer (&flow->output, nf_buffer_free);
  g_clear_pointer (&flow->spare, nf_buffer_free);
  g_clear_pointer (&flow->ordered, nf_buffer_free);
  g_clear_pointer (&flow->log_scales, nf_buffer_free);
  g_clear_pointer (&flow->half_square, nf_buffer_free);
  g_clear_pointer (&flow->log_det, nf_buffer_free);
  g_clear_pointer (&flow->misses, nf_buffer_free);
  g_clear_pointer (&flow->labels, nf_buffer_free);
  g_clear_pointer (&flow->text, nf_buffer_free);
  g_clear_pointer (&flow->local_text, nf_buffer_free);
  g_clear_pointer (&flow->actions, nf_buffer_free);
  g_clear_pointer (&flow->changes, nf_buffer_free);
  for (guint t = 0; t < flow->T; t++)
    g_clear_pointer (&flow->known[t], nf_buffer_free);
  flow->capacity = 0;
}

static void
release (NfFlow *flow, NfFlowWork work)
{
  switch (work)
    {
    case NF_FLOW_ENCODE:
      g_clear_pointer (&flow->tapes, g_ptr_array_unref);
      break;
    case NF_FLOW_GRADIENTS:
      g_clear_pointer (&flow->kept, g_ptr_array_unref);
      g_clear_pointer (&flow->inputs, g_ptr_array_unref);
      g_clear_pointer (&flow->scratches, g_ptr_array_unref);
      break;
    case NF_FLOW_DECODE:
    case NF_FLOW_DECODE_GUIDED:
      g_clear_pointer (&flow->caches, g_ptr_array_unref);
      flow->batch[NF_FLOW_DECODE] = flow->batch[NF_FLOW_DECODE_GUIDED] = 0;
      break;
    case NF_FLOW_DENOISER:
    case NF_FLOW_DENOISER_GRADIENTS:
      g_clear_pointer (&flow->denoiser, nf_block_tape_free);
      g_clear_pointer (&flow->denoiser_scratch, nf_block_scratch_free);
      flow->batch[NF_FLOW_DENOISER] = flow->batch[NF_FLOW_DENOISER_GRADIENTS] = 0;
      break;
    case NF_FLOW_N_WORKS:
      g_assert_not_reached ();
    }
  flow->batch[work] = 0;
}

static void
release_all (NfFlow *flow)
{
  for (NfFlowWork work = 0; work < NF_FLOW_N_WORKS; work++)
    release (flow, work);
  if (flow->draft)
    nf_flow_draft_free (flow->draft, flow->T);
  flow->draft = NULL;
  clear_buffers (flow);
}

/* Positions and sequences */

/* Angles of a position: rows and columns share half of them (2 axes), or all but THIRD_AXIS, which are of
 * text and frames (3). */
static void
fill_angles (double *angles, guint half, gboolean third, double row, double column, double depth)
{
  const guint side = third ? half - THIRD_AXIS : half, n = side / 2;
  for (guint i = 0; i < n; i++)
    {
      const double frequency = pow (ROPE_BASE, -2.0 * i / side);
      angles[i] = row * frequency;
      angles[n + i] = column * frequency;
    }
  for (guint i = 0; third && i < THIRD_AXIS; i++)
    angles[side + i] = depth * pow (ROPE_BASE, -(double)i / THIRD_AXIS);
}

/* Cosines and sines of the rows of a sequence of FRAMES frames; see the official get_positions (arXiv
 * 2506.06276, 2511.20462): rows and columns are scaled by the side of a square of the same area, text fills
 * the third axis up to pt_seq_len. */
static NfView
make_table (NfFlow *flow, const NfBlockSequence *sequence, guint grid_rows, guint grid_columns,
            gboolean one_axis)
{
  const NfConfig *config = nf_model_get_config (flow->model);
  const guint half = config->head_dim / 2, S = nf_block_rows (sequence), F = flow->shape.frame,
              extra = sequence->extra;
  const gboolean third = config->txt_size || config->frames;
  const double side = config->pt_seq_len ? config->pt_seq_len : config->img_size / config->patch_size,
               unit = side / sqrt ((double)grid_rows * grid_columns);
  g_autofree float *table = g_new (float, (gsize)S *half * 2);
  g_autofree double *angles = g_new (double, half);

  for (guint r = 0; r < S; r++)
    {
      const guint after = r - sequence->prefix, f = after / (F + extra), n = after % (F + extra);
      if (one_axis)
        for (guint i = 0; i < half; i++)
          angles[i] = r * pow (ROPE_BASE, -(double)i / half);
      else if (r < sequence->prefix)
        fill_angles (angles, half, third, 0, 0, r * side / sequence->prefix);
      else if (n < extra)
        fill_angles (angles, half, third, 0, 0, f);
      else
        fill_angles (angles, half, third, (n - extra) / grid_columns * unit,
                     (n - extra) % grid_columns * unit, f);
      for (guint i = 0; i < half; i++)
        {
          table[((gsize)r * half + i) * 2] = (float)cos (angles[i]);
          table[((gsize)r * half + i) * 2 + 1] = (float)sin (angles[i]);
        }
    }
  NfBuffer *buffer = nf_ops_alloc (flow->ops, (gsize)S * half * 2);
  if (buffer)
    {
      g_ptr_array_add (flow->tables, buffer);
      nf_ops_write (flow->ops, nf_view (buffer, 0), table, (gsize)S * half * 2 * sizeof *table);
    }
  return nf_view (buffer, 0);
}

static gboolean
same_sequence (const NfBlockSequence *a, const NfBlockSequence *b)
{
  return a->N == b->N && a->frame == b->frame && a->prefix == b->prefix && a->extra == b->extra;
}

static gboolean
is_local (NfFlow *flow, guint t)
{
  return nf_model_get_config (flow->model)->shallow_local && t + 1 < flow->T;
}

/* Whether blocks of one frame see text: each frame then has its sample's before it. */
static gboolean
has_local_text (NfFlow *flow)
{
  return is_local (flow, 0) && flow->sequences[0].prefix;
}

guint
nf_flow_samples (NfFlow *flow, guint t, guint B)
{
  return is_local (flow, t) ? B * flow->frames : B;
}

static void
make_sequences (NfFlow *flow, guint rows, guint columns)
{
  const NfConfig *config = nf_model_get_config (flow->model);
  const guint frame = flow->shape.frame;

  g_ptr_array_unref (flow->tables);
  flow->tables = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  for (guint t = 0; t < flow->T + (nf_model_get_denoiser (flow->model) ? 1 : 0); t++)
    {
      NfBlockSequence *sequence = &flow->sequences[t];
      const gboolean denoiser = t == flow->T, deep = t + 1 == flow->T,
                     local = !denoiser && is_local (flow, t);
      const NfFlowBlock *block
          = denoiser ? nf_model_get_denoiser (flow->model) : nf_model_get_block (flow->model, t);
      *sequence = (NfBlockSequence){
        .N = local ? frame : flow->shape.N,
        .frame = local ? frame : flow->turn,
        .prefix = block->text.w.buffer ? config->txt_size : 0,
        .extra = deep && config->action_dim ? 1 : 0,
        .on_lattice = flow->on_lattice,
        .snapped = t == 0 ? flow->snapped : NULL,
      };
      sequence->rows.S = nf_block_rows (sequence);
      const gboolean framed = config->frames && config->temporal_causal;
      if (denoiser)
        sequence->rows.mask
            = (NfMask){ .kind = NF_MASK_FRAMES,
                        .prefix = sequence->prefix,
                        .frame = frame,
                        /* else all see all */
                        .ahead = framed ? config->temporal_causal : flow->frames,
                        .window
                        = framed && config->denoiser_frames ? config->denoiser_frames - 1 : 1u << 20 };
      if (!config->rope)
        continue;
      const gboolean one_axis = deep && config->rope_1d;
      for (guint i = 0; i < t && !sequence->rows.table.buffer && !one_axis; i++)
        if (same_sequence (sequence, &flow->sequences[i]) && !(i + 1 == flow->T && config->rope_1d))
          sequence->rows.table = flow->sequences[i].rows.table;
      if (!sequence->rows.table.buffer)
        sequence->rows.table
            = make_table (flow, sequence, rows / config->patch_size, columns / config->patch_size, one_axis);
    }
}

const NfSampleShape *
nf_flow_get_shape (NfFlow *flow)
{
  return &flow->shape;
}

struct _NfFlowSize
{
  guint frames, rows, columns, turn;
  NfSampleShape shape;
  NfBlockSequence *sequences;
  GPtrArray *tables; /* that these refer to */
};

NfFlowSize *
nf_flow_keep_size (NfFlow *flow)
{
  NfFlowSize *size = g_new (NfFlowSize, 1);
  *size = (NfFlowSize){ .frames = flow->frames,
                        .rows = flow->rows,
                        .columns = flow->columns,
                        .turn = flow->turn,
                        .shape = flow->shape,
                        .sequences = g_memdup2 (flow->sequences, (flow->T + 1) * sizeof *flow->sequences),
                        .tables = g_ptr_array_ref (flow->tables) };
  return size;
}

void
nf_flow_size_free (NfFlowSize *size)
{
  g_free (size->sequences);
  g_ptr_array_unref (size->tables);
  g_free (size);
}

/* To sequences that were made for another lattice. */
static void
tell_lattices (NfFlow *flow)
{
  for (guint t = 0; t < flow->T; t++)
    {
      flow->sequences[t].on_lattice = flow->on_lattice;
      flow->sequences[t].snapped = t == 0 ? flow->snapped : NULL;
    }
}

void
nf_flow_restore_size (NfFlow *flow, const NfFlowSize *size)
{
  if (flow->tables == size->tables) /* no other was set */
    return;
  release_all (flow);
  flow->frames = size->frames;
  flow->rows = size->rows;
  flow->columns = size->columns;
  flow->turn = size->turn;
  flow->shape = size->shape;
  memcpy (flow->sequences, size->sequences, (flow->T + 1) * sizeof *flow->sequences);
  g_ptr_array_unref (flow->tables);
  flow->tables = g_ptr_array_ref (size->tables);
  tell_lattices (flow);
}

gboolean
nf_flow_is_of_one_size (NfFlow *flow)
{
  const NfConfig *config = nf_model_get_config (flow->model);
  return !config->rope || config->frame_positions;
}

gboolean
nf_flow_set_size (NfFlow *flow, guint rows, guint columns, guint frames, GError **error)
{
  g_autoptr (NfConfig) config = nf_config_copy (nf_model_get_config (flow->model));
  const gboolean same = rows == nf_config_rows (config) && columns == nf_config_columns (config);
  if (rows == 0 || columns == 0) /* which a configuration takes for img_size */
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "samples of %ux%u pixels are empty", columns, rows);
      return FALSE;
    }
  if (nf_flow_is_of_one_size (flow) && (!same || frames != config->frames))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "samples of %ux%u and %u frames are not possible: positions of this model are learned for "
                   "%ux%u and %u frames",
                   columns, rows, MAX (frames, 1), nf_config_columns (config), nf_config_rows (config),
                   nf_config_frames (config));
      return FALSE;
    }
  if ((frames > 0) != (config->frames > 0))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   config->frames ? "this is a model of videos, a sample of 0 frames is empty"
                                  : "this is a model of images, videos are not possible");
      return FALSE;
    }
  config->rows = rows;
  config->columns = columns;
  config->frames = frames;
  if (!nf_config_check (config, "size of a sample", error))
    return FALSE;
  g_autoptr (NfFlowSize) before = nf_flow_keep_size (flow);
  release_all (flow);
  flow->frames = nf_config_frames (config);
  flow->rows = rows;
  flow->columns = columns;
  flow->shape = *nf_model_get_shape (flow->model);
  flow->shape.frame = nf_config_tokens (config);
  flow->shape.N = flow->shape.frame * flow->frames;
  flow->turn = config->frames && !config->temporal_causal && !config->shallow_local ? flow->shape.N
                                                                                    : flow->shape.frame;
  make_sequences (flow, rows, columns);
  if (nf_ops_finish (flow->ops, error))
    return TRUE;
  nf_flow_restore_size (flow, before);
  return FALSE;
}

void
nf_flow_get_size (NfFlow *flow, guint *rows, guint *columns)
{
  *rows = flow->rows;
  *columns = flow->columns;
}

void
nf_flow_set_on_lattice (NfFlow *flow, const NfTokens *snapped)
{
  flow->snapped = snapped;
  flow->on_lattice = snapped || nf_device_values_per_word (nf_model_get_device (flow->model)) > 1;
  tell_lattices (flow);
}

void
nf_flow_list_missed (NfFlow *flow, const NfMissedList *list, guint first)
{
  flow->missed = list;
  flow->first_sample = first;
}

void
nf_flow_correct (NfFlow *flow, const NfCorrections *samples, guint B)
{
  flow->corrections = samples;
  flow->n_corrections = B;
  nf_corrected_set (&flow->corrected, flow->ops, samples, B, flow->T, flow->shape.frame, flow->shape.D);
}

gboolean
nf_flow_set_frames (NfFlow *flow, guint frames, GError **error)
{
  return frames == flow->frames || nf_flow_set_size (flow, flow->rows, flow->columns, frames, error);
}

/* Making */

NfFlow *
nf_flow_new (NfModel *model, GError **error)
{
  const NfConfig *config = nf_model_get_config (model);
  g_autoptr (NfFlow) flow = g_new0 (NfFlow, 1);
  flow->model = g_object_ref (model);
  flow->T = nf_model_count_blocks (model);
  flow->tables = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  flow->sequences = g_new0 (NfBlockSequence, flow->T + 1);
  flow->encoding = g_new0 (NfBlockTape *, flow->T);
  flow->learning = g_new0 (NfBlockTape *, flow->T);
  flow->scratch = g_new0 (NfBlockScratch *, flow->T);
  flow->cache = g_new0 (NfBlockCache *, flow->T);
  flow->known = g_new0 (NfBuffer *, flow->T);
  flow->ops = nf_model_new_ops (model, error);
  nf_flow_set_on_lattice (flow, NULL);
  if (!flow->ops
      || !nf_flow_set_size (flow, nf_config_rows (config), nf_config_columns (config), config->frames, error))
    return NULL;
  return g_steal_pointer (&flow);
}

void
nf_flow_free (NfFlow *flow)
{
  release_all (flow);
  g_ptr_array_unref (flow->tables);
  g_free (flow->sequences);
  g_free (flow->encoding);
  g_free (flow->learning);
  g_free (flow->scratch);
  g_free (flow->cache);
  g_free (flow->known);
  nf_corrected_clear (&flow->corrected);
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
nf_flow_get_misses (NfFlow *flow)
{
  return flow->misses;
}

NfBuffer *
nf_flow_get_log_det (NfFlow *flow)
{
  return flow->log_det;
}

/* Memory */

/* Samples whose keys and values fit half of a CPU's cache beside a block's weights, each sample `copies`
 * times; DECODE_FEWEST at least. Half: what a step reads is read once in each step, so that of more than fits
 * nothing is found again, and a cache has rows, codes and others' work as well. G_MAXUINT if weights alone do
 * not fit it, and on a GPU, which hides that reading. */
static guint
count_in_cache (NfFlow *flow, guint copies)
{
  const NfDeviceInfo *info = nf_device_get_info (nf_ops_get_device (flow->ops));
  const gsize cache = info->cache / 2;
  gsize most = G_MAXUINT;
  if (info->is_gpu)
    return G_MAXUINT;
  for (guint t = 0; t < flow->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const gsize weights = nf_block_packed_floats (block, flow->ops) * sizeof (float),
                  sample = nf_cache_floats (flow->ops, &block->transformer.shape,
                                            nf_block_rows (&flow->sequences[t]), 0)
                           * sizeof (float) * nf_flow_samples (flow, t, copies);
      if (weights >= cache)
        return G_MAXUINT;
      most = MIN (most, (cache - weights) / MAX (sample, 1));
    }
  return (guint)MAX (most, DECODE_FEWEST);
}

/* Of a sample, in the block that has the most: text and actions have rows, too. */
static guint
count_rows (NfFlow *flow)
{
  guint rows = flow->shape.N;
  for (guint t = 0; t < flow->T; t++)
    rows = MAX (rows, nf_flow_samples (flow, t, 1) * nf_block_rows (&flow->sequences[t]));
  return rows;
}

static guint
choose_batch (NfFlow *flow, NfFlowWork work)
{
  const gboolean is_gpu = nf_device_get_info (nf_ops_get_device (flow->ops))->is_gpu;
  const guint factor = is_gpu ? GPU_FACTOR : 1, copies = work == NF_FLOW_DECODE_GUIDED ? 2 : 1;
  /* of the four buffers of reserve_samples(), which in wide tokens of a narrow model are the larger ones */
  gsize floats = 4 * (gsize)flow->shape.N * flow->shape.D, batch;
  switch (work)
    {
    case NF_FLOW_ENCODE:
      return MAX (ENCODE_ROWS * factor / count_rows (flow), 1);
    case NF_FLOW_GRADIENTS:
    case NF_FLOW_DENOISER:
    case NF_FLOW_DENOISER_GRADIENTS:
      return MAX (GRADIENT_ROWS * factor / count_rows (flow), 1);
    case NF_FLOW_DECODE:
    case NF_FLOW_DECODE_GUIDED:
      for (guint t = 0; t < flow->T; t++)
        {
          const gsize block = nf_block_cache_floats (flow->ops, nf_model_get_block (flow->model, t),
                                                     &flow->sequences[t], NF_FLOW_WINDOW)
                              * nf_flow_samples (flow, t, 1);
          floats = MAX (floats, block);
        }
      batch = DECODE_BYTES / (floats * sizeof (float)) / copies;
      return CLAMP ((guint)MIN (batch, count_in_cache (flow, copies)), 1, DECODE_SAMPLES);
    case NF_FLOW_N_WORKS:
    default:
      g_assert_not_reached ();
    }
}

static void
reserve_samples (NfFlow *flow, guint B)
{
  const NfConfig *config = nf_model_get_config (flow->model);
  const gsize tokens = (gsize)B * flow->shape.N, D = flow->shape.D;
  if (B <= flow->capacity)
    return;

  clear_buffers (flow);
  flow->input = nf_ops_alloc (flow->ops, tokens * D);
  flow->output = nf_ops_alloc (flow->ops, tokens * D);
  flow->spare = nf_ops_alloc (flow->ops, tokens * D);
  flow->ordered = nf_ops_alloc (flow->ops, tokens * D);
  flow->half_square = nf_ops_alloc (flow->ops, tokens);
  flow->log_det = nf_ops_alloc (flow->ops, tokens);
  flow->misses = nf_ops_alloc (flow->ops, 2 * tokens);
  flow->labels = nf_ops_alloc (flow->ops, 2 * (gsize)B);
  flow->changes = nf_ops_alloc (flow->ops, 2 * (gsize)B * flow->frames * NF_FLOW_WINDOW);
  if (config->txt_size)
    flow->text = nf_ops_alloc (flow->ops, 2 * (gsize)B * config->txt_size * config->txt_dim);
  if (has_local_text (flow))
    flow->local_text
        = nf_ops_alloc (flow->ops, 2 * (gsize)B * flow->frames * config->txt_size * config->txt_dim);
  if (config->action_dim)
    flow->actions = nf_ops_alloc (flow->ops, 2 * (gsize)B * flow->frames * config->action_dim);
  flow->capacity = B;
}

guint
nf_flow_find_alike (NfFlow *flow, guint t)
{
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  for (guint i = 0; i < t; i++)
    {
      const NfFlowBlock *other = nf_model_get_block (flow->model, i);
      if (memcmp (&block->transformer.shape, &other->transformer.shape, sizeof block->transformer.shape) == 0
          && same_sequence (&flow->sequences[t], &flow->sequences[i]))
        return i;
    }
  return t;
}

static void
reserve_gradients (NfFlow *flow, guint B)
{
  gsize floats = 0;
  for (guint t = 0; t < flow->T; t++)
    floats += nf_block_tape_floats (nf_model_get_block (flow->model, t), &flow->sequences[t], TRUE)
              * nf_flow_samples (flow, t, B);
  flow->recompute = floats * sizeof (float) > TAPE_BYTES;

  flow->kept = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_tape_free);
  flow->scratches = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_scratch_free);
  flow->inputs = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  for (guint t = 0; t < flow->T; t++)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const NfBlockSequence *sequence = &flow->sequences[t];
      const guint samples = nf_flow_samples (flow, t, B), alike = nf_flow_find_alike (flow, t);
      if (!flow->recompute || alike == t)
        g_ptr_array_add (flow->kept,
                         flow->learning[t] = nf_block_tape_new (flow->ops, block, sequence, samples, TRUE));
      else
        flow->learning[t] = flow->learning[alike];
      if (alike == t)
        g_ptr_array_add (flow->scratches,
                         flow->scratch[t] = nf_block_scratch_new (flow->ops, block, sequence, samples));
      else
        flow->scratch[t] = flow->scratch[alike];
      NfBuffer *buffer = nf_ops_alloc (flow->ops, (gsize)B * flow->shape.N * flow->shape.D);
      if (buffer)
        g_ptr_array_add (flow->inputs, buffer);
    }
}

static void
reserve_encoding (NfFlow *flow, guint B)
{
  flow->tapes = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_tape_free);
  for (guint t = 0; t < flow->T; t++)
    {
      const guint alike = nf_flow_find_alike (flow, t);
      if (alike < t)
        flow->encoding[t] = flow->encoding[alike];
      else
        g_ptr_array_add (flow->tapes, flow->encoding[t] = nf_block_tape_new (
                                          flow->ops, nf_model_get_block (flow->model, t), &flow->sequences[t],
                                          nf_flow_samples (flow, t, B), FALSE));
    }
}

static void
reserve_decoding (NfFlow *flow, guint rows)
{
  flow->caches = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_block_cache_free);
  for (guint t = 0; t < flow->T; t++)
    {
      const guint alike = nf_flow_find_alike (flow, t);
      if (alike < t)
        flow->cache[t] = flow->cache[alike];
      else
        g_ptr_array_add (flow->caches, flow->cache[t] = nf_block_cache_new (
                                           flow->ops, nf_model_get_block (flow->model, t),
                                           &flow->sequences[t], nf_flow_samples (flow, t, rows),
                                           MIN (NF_FLOW_WINDOW, flow->sequences[t].N), FALSE));
    }
}

static void
reserve_denoiser (NfFlow *flow, guint B, gboolean gradients)
{
  const NfFlowBlock *denoiser = nf_model_get_denoiser (flow->model);
  if (flow->denoiser && !gradients)
    return;
  g_clear_pointer (&flow->denoiser, nf_block_tape_free);
  flow->denoiser = nf_block_tape_new (flow->ops, denoiser, &flow->sequences[flow->T], B, gradients);
  if (gradients)
    flow->denoiser_scratch = nf_block_scratch_new (flow->ops, denoiser, &flow->sequences[flow->T], B);
}

guint
nf_flow_prepare (NfFlow *flow, NfFlowWork work, GError **error)
{
  if (flow->batch[work] > 0)
    return flow->batch[work];
  if ((work == NF_FLOW_DENOISER || work == NF_FLOW_DENOISER_GRADIENTS)
      && !nf_model_get_denoiser (flow->model))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "the model has no learned denoiser");
      return 0;
    }
  if ((work == NF_FLOW_GRADIENTS || work == NF_FLOW_DENOISER_GRADIENTS)
      && !nf_model_need_backward (flow->model, error))
    return 0;

  const guint B = choose_batch (flow, work);
  reserve_samples (flow, B);
  switch (work)
    {
    case NF_FLOW_ENCODE:
      reserve_encoding (flow, B);
      break;
    case NF_FLOW_GRADIENTS:
      reserve_gradients (flow, B);
      break;
    case NF_FLOW_DENOISER:
    case NF_FLOW_DENOISER_GRADIENTS:
      reserve_denoiser (flow, B, work == NF_FLOW_DENOISER_GRADIENTS);
      break;
    case NF_FLOW_DECODE:
    case NF_FLOW_DECODE_GUIDED:
      break; /* nf_flow_need_caches(): many samples' would take long to make for a single one */
    case NF_FLOW_N_WORKS:
      g_assert_not_reached ();
    }
  if (!nf_ops_finish (flow->ops, error))
    {
      release_all (flow);
      return 0;
    }
  return flow->batch[work] = B;
}

gboolean
nf_flow_need_caches (NfFlow *flow, guint rows, GError **error)
{
  const guint held = flow->caches ? flow->cache_rows : 0;
  if (rows <= held)
    return TRUE;
  g_clear_pointer (&flow->caches, g_ptr_array_unref);
  /* not a little more each time */
  flow->cache_rows = MAX (rows, MIN (2 * held, flow->batch[NF_FLOW_DECODE]));
  reserve_decoding (flow, flow->cache_rows);
  if (nf_ops_finish (flow->ops, error))
    return TRUE;
  g_clear_pointer (&flow->caches, g_ptr_array_unref);
  return FALSE;
}

/* Conditions */

void
nf_flow_write_classes (NfOps *ops, const NfConfig *config, NfView text, const gint *labels, guint count)
{
  const gsize one = (gsize)config->txt_size * config->txt_dim;
  if (config->txt_size != 1)
    {
      nf_ops_fill (ops, text, 0.0f, count * one);
      return;
    }
  g_autofree float *classes = g_new0 (float, count *one);
  for (guint i = 0; i < count; i++)
    classes[i * one + (labels && labels[i] >= 0 ? (gsize)labels[i] : one - 1)] = 1.0f;
  nf_ops_write (ops, text, classes, count * one * sizeof *classes);
}

void
nf_flow_set_condition (NfFlow *flow, const NfFlowCondition *condition, guint B, guint branches)
{
  const NfConfig *config = nf_model_get_config (flow->model);
  if (config->n_classes > 0)
    {
      g_autofree cl_int *all = g_new (cl_int, 2 * (gsize)B);
      for (guint i = 0; i < 2 * B; i++)
        all[i] = condition->labels && i < B ? condition->labels[i] : -1;
      nf_ops_write (flow->ops, nf_view (flow->labels, 0), all, (gsize)branches * B * sizeof *all);
    }
  const gsize text = (gsize)B * config->txt_size * config->txt_dim,
              actions = (gsize)B * flow->frames * config->action_dim;
  for (guint branch = 0; branch < branches; branch++)
    {
      const float *told = branch ? condition->null_text : condition->text;
      if (told)
        nf_ops_write (flow->ops, nf_view (flow->text, branch * text), told, text * sizeof *told);
      else if (config->txt_size)
        nf_flow_write_classes (flow->ops, config, nf_view (flow->text, branch * text),
                               branch ? NULL : condition->labels, B);
      if (condition->actions && branch == 0)
        nf_ops_write (flow->ops, nf_view (flow->actions, 0), condition->actions,
                      actions * sizeof *condition->actions);
      else if (config->action_dim)
        nf_ops_fill (flow->ops, nf_view (flow->actions, branch * actions), 0.0f, actions);
    }
  const gsize sample = text / B;
  for (guint i = 0; has_local_text (flow) && i < branches * B * flow->frames; i++)
    nf_ops_copy (flow->ops, nf_view (flow->text, i / flow->frames * sample),
                 nf_view (flow->local_text, i * sample), sample);
}

void
nf_flow_set_substitutes (NfFlow *flow, const NfSubstitute *substitutes, guint n)
{
  flow->substitutes = substitutes;
  flow->n_substitutes = n;
}

NfCondition
nf_flow_condition (NfFlow *flow, guint t)
{
  const gboolean local = t < flow->T && is_local (flow, t), deep = t + 1 == flow->T;
  return (NfCondition){ .text = nf_view (local ? flow->local_text : flow->text, 0),
                        .actions = nf_view (flow->actions, 0),
                        .labels = flow->labels,
                        .substitutes = deep ? flow->substitutes : NULL,
                        .n_substitutes = deep ? flow->n_substitutes : 0 };
}

/* Forward and backward */

/* Whether the values between block t-1 and t run backwards: block t wants them so; the input and the output
 * do not. */
static gboolean
order (NfFlow *flow, guint t)
{
  return t > 0 && t < flow->T && nf_model_get_block (flow->model, t)->flip;
}

static void
reorder (NfFlow *flow, NfBuffer *from, NfBuffer *to, guint B, gboolean flip, NfView scale)
{
  nf_ops_reorder (flow->ops, nf_view (from, 0), nf_view (to, 0), B, flow->shape.N, flow->shape.D, flip,
                  flow->turn, scale);
}

/* FROM as block 0 wants it: itself, or ORDERED. */
static NfBuffer *
order_input (NfFlow *flow, NfBuffer *from, NfBuffer *ordered, guint B)
{
  if (!nf_model_get_block (flow->model, 0)->flip)
    return from;
  reorder (flow, from, ordered, B, TRUE, nf_view (NULL, 0));
  return ordered;
}

static void
forward_block (NfFlow *flow, guint t, NfBlockTape *tape, NfBuffer *from, NfBuffer *to, guint B,
               NfBuffer *log_det, NfView log_scales, gboolean accumulate)
{
  const NfFlowBlock *block = nf_model_get_block (flow->model, t);
  const NfCondition condition = nf_flow_condition (flow, t);
  const NfMissed missed = nf_missed_list_of_block (flow->missed, flow->misses, t, flow->first_sample);
  nf_block_forward (flow->ops, block, &flow->sequences[t], tape, nf_view (from, 0),
                    nf_flow_samples (flow, t, B), &condition, nf_view (to, 0), log_det, &missed, log_scales,
                    block->flip != order (flow, t + 1), accumulate);
}

void
nf_flow_forward (NfFlow *flow, guint B, const NfFlowTrace *trace)
{
  const gsize n = (gsize)B * flow->shape.N * flow->shape.D;
  NfBuffer *const between[2] = { flow->spare, flow->output };
  const NfView none = nf_view (NULL, 0);
  /* alternate so that the last block writes the output; the first reads what nothing writes before it has */
  NfBuffer *from = order_input (flow, flow->input, flow->ordered, B);

  if (trace && trace->log_scales && !flow->log_scales)
    flow->log_scales = nf_ops_alloc (flow->ops, (gsize)flow->capacity * flow->shape.N * flow->shape.D);
  for (guint t = 0; t < flow->T; t++)
    {
      NfBuffer *to = between[(flow->T - t) % 2];
      const guint index = nf_model_get_block (flow->model, t)->index;
      const NfView log_scales = trace && trace->log_scales ? nf_view (flow->log_scales, 0) : none;
      forward_block (flow, t, flow->encoding[t], from, to, B, flow->log_det, log_scales, t > 0);
      if (trace && trace->blocks)
        {
          NfBuffer *natural = to;
          if (order (flow, t + 1))
            reorder (flow, to, natural = flow->input, B, TRUE, none); /* free by now: block 0 has read it */
          nf_ops_read_later (flow->ops, nf_view (natural, 0), trace->blocks + index * trace->stride,
                             n * sizeof (float));
        }
      if (trace && trace->log_scales)
        nf_ops_read_later (flow->ops, log_scales, trace->log_scales + index * trace->stride,
                           n * sizeof (float));
      from = to;
    }
  nf_ops_prior (flow->ops, nf_view (flow->output, 0), NULL, flow->half_square, 1.0f, B * flow->shape.N,
                flow->shape.D);
}

/* FROM, in block t's order, is what it reads of frames that are given. */
static void
keep_known (NfFlow *flow, guint t, NfBuffer *from, guint B)
{
  const gsize sample = (gsize)flow->shape.N * flow->shape.D;
  if (is_local (flow, t))
    return;
  if (!flow->known[t])
    flow->known[t] = nf_ops_alloc (flow->ops, flow->capacity * sample);
  nf_ops_copy (flow->ops, nf_view (from, 0), nf_view (flow->known[t], 0), B * sample);
}

void
nf_flow_forward_known (NfFlow *flow, guint B)
{
  NfBuffer *const between[2] = { flow->spare, flow->output };
  NfBuffer *from = order_input (flow, flow->input, flow->ordered, B);
  for (guint t = 0; t < flow->T; t++)
    {
      keep_known (flow, t, from, B);
      if (t + 1 < flow->T)
        forward_block (flow, t, flow->encoding[t], from, between[t % 2], B, flow->log_det, nf_view (NULL, 0),
                       t > 0);
      from = between[t % 2];
    }
}

void
nf_flow_standardise (NfFlow *flow, guint B)
{
  const NfView precisions = nf_model_get_precisions (flow->model);
  NfBuffer *z = flow->output;
  if (!precisions.buffer)
    return;
  reorder (flow, z, flow->spare, B, FALSE, precisions);
  flow->output = flow->spare;
  flow->spare = z;
  nf_ops_prior (flow->ops, nf_view (flow->output, 0), NULL, flow->half_square, 1.0f, B * flow->shape.N,
                flow->shape.D);
}

void
nf_flow_backward (NfFlow *flow, guint B, float g, NfBuffer *z, NfBuffer *gradients)
{
  const NfView none = nf_view (NULL, 0);
  NfBuffer **inputs = (NfBuffer **)flow->inputs->pdata, *d[2] = { flow->spare, flow->output };
  if (flow->inputs->len < flow->T)
    return; /* memory failed, which the operations have kept */

  /* inputs[0] holds the input only if its order changes */
  NfBuffer *first = order_input (flow, flow->input, inputs[0], B);
  for (guint t = 0; t < flow->T; t++)
    forward_block (flow, t, flow->learning[t], t ? inputs[t] : first,
                   t + 1 < flow->T ? inputs[t + 1] : flow->spare, B, flow->log_det, none, t > 0);
  if (z)
    nf_ops_copy (flow->ops, nf_view (flow->spare, 0), nf_view (z, 0),
                 (gsize)B * flow->shape.N * flow->shape.D);
  /* alternate so that block 0 writes the output */
  guint into = (flow->T + 1) % 2;
  nf_ops_prior (flow->ops, nf_view (flow->spare, 0), d[into], flow->half_square, g, B * flow->shape.N,
                flow->shape.D);
  for (guint t = flow->T; t-- > 0; into = !into)
    {
      const NfFlowBlock *block = nf_model_get_block (flow->model, t);
      const NfCondition condition = nf_flow_condition (flow, t);
      NfBuffer *u = t ? inputs[t] : first;
      if (flow->recompute && t + 1 < flow->T)
        /* only the tape is wanted: z goes to where the next input was, the log-determinant to where it cannot
         * be seen */
        forward_block (flow, t, flow->learning[t], u, inputs[t + 1], B, flow->scratch[t]->d_o, none, FALSE);
      nf_block_backward (flow->ops, block, &flow->sequences[t], flow->learning[t], flow->scratch[t],
                         nf_view (u, 0), nf_flow_samples (flow, t, B), &condition, nf_view (d[into], 0),
                         nf_view (d[!into], 0), block->flip != order (flow, t + 1), g, gradients);
    }
  if (!nf_model_get_block (flow->model, 0)->flip)
    return;
  reorder (flow, flow->output, flow->spare, B, TRUE, none);
  flow->output = d[0];
  flow->spare = d[1];
}

/* Taking noise away */

gboolean
nf_flow_check_denoise (NfFlow *flow, NfDenoise denoise, GError **error)
{
  if (denoise != NF_DENOISE_LEARNED || nf_model_get_denoiser (flow->model))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "the model has no learned denoiser; a step along its score is possible");
  return FALSE;
}

NfDenoise
nf_flow_choose_denoise (NfFlow *flow, NfDenoise denoise)
{
  const NfFlowBlock *denoiser = nf_model_get_denoiser (flow->model);
  if (!nf_config_is_noisy (nf_model_get_config (flow->model)))
    return NF_DENOISE_NONE;
  if (denoise != NF_DENOISE_AUTO)
    return denoise;
  /* it says D values of each token by a projection of its features, and fewer cannot say what is noise */
  return denoiser && denoiser->transformer.shape.d >= flow->shape.D ? NF_DENOISE_LEARNED : NF_DENOISE_SCORE;
}

void
nf_flow_denoise (NfFlow *flow, NfDenoise how, guint B)
{
  const double sigma = nf_model_get_config (flow->model)->noise_std;
  if (how == NF_DENOISE_LEARNED)
    nf_flow_run_denoiser (flow, B);
  else
    nf_flow_backward (flow, B, 1.0f, NULL, NULL);
  nf_ops_denoise (flow->ops, nf_view (flow->input, 0), nf_view (flow->output, 0), nf_view (flow->output, 0),
                  (float)(how == NF_DENOISE_LEARNED ? NF_FLOW_DENOISER_CONSTANT : sigma * sigma),
                  (gsize)B * flow->shape.N * flow->shape.D);
}

/* The learned denoiser */

void
nf_flow_run_denoiser (NfFlow *flow, guint B)
{
  const NfFlowBlock *denoiser = nf_model_get_denoiser (flow->model);
  const NfBlockSequence *sequence = &flow->sequences[flow->T];
  const NfCondition condition = nf_flow_condition (flow, flow->T);
  nf_block_predict (flow->ops, denoiser, sequence, flow->denoiser, nf_view (flow->input, 0), B, &condition);
  nf_block_move_tokens (flow->ops, sequence, B, flow->shape.D, nf_view (flow->output, 0),
                        nf_view (flow->denoiser->o, 0), TRUE);
}

void
nf_flow_denoiser_backward (NfFlow *flow, guint B, NfBuffer *gradients)
{
  const NfFlowBlock *denoiser = nf_model_get_denoiser (flow->model);
  const NfBlockSequence *sequence = &flow->sequences[flow->T];
  const NfCondition condition = nf_flow_condition (flow, flow->T);
  const NfView d_o = nf_view (flow->denoiser_scratch->d_o, 0);
  nf_ops_fill (flow->ops, d_o, 0.0f, (gsize)B * nf_block_rows (sequence) * flow->shape.D);
  nf_block_move_tokens (flow->ops, sequence, B, flow->shape.D, nf_view (flow->output, 0), d_o, FALSE);
  nf_block_predict_backward (flow->ops, denoiser, sequence, flow->denoiser, flow->denoiser_scratch,
                             nf_view (flow->input, 0), B, &condition, nf_view (flow->spare, 0), gradients);
}
