/* normflow: where the weights of blocks lie. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-blocks.h"

#include <math.h>

/* Finding */

typedef struct
{
  const NfConfig *config;
  const NfParameters *parameters;
  NfBuffer *theta;
} Finder;

static NfView find (const Finder *finder, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* The parameter of this name, or a NULL buffer. */
static NfView
find (const Finder *finder, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *name = g_strdup_vprintf (format, arguments);
  va_end (arguments);

  const NfParameter *parameter = nf_parameters_lookup (finder->parameters, name);
  return parameter ? nf_view (finder->theta, parameter->at) : nf_view (NULL, 0);
}

static NfNorm
find_norm (const Finder *finder, const char *prefix, const char *name)
{
  return (NfNorm){ .w = find (finder, "%s.%s.weight", prefix, name),
                   .b = find (finder, "%s.%s.bias", prefix, name) };
}

static NfLinear
find_linear (const Finder *finder, const char *prefix, const char *name)
{
  g_autofree char *weight = g_strdup_printf ("%s.%s.weight", prefix, name);
  const NfParameter *parameter = nf_parameters_lookup (finder->parameters, weight);
  if (!parameter)
    return (NfLinear){ 0 };
  return (NfLinear){
    .w = nf_view (finder->theta, parameter->at),
    .bias = find (finder, "%s.%s.bias", prefix, name),
    .n_out = (guint)parameter->dims[0],
    .n_in = (guint)parameter->dims[1],
  };
}

static void
find_layer (const Finder *finder, const char *prefix, NfLayerWeights *layer)
{
  const gboolean gated = finder->config->gated;
  layer->attention_norm = find_norm (finder, prefix, "attention.norm");
  layer->attention_post = find_norm (finder, prefix, "attention.post_norm");
  layer->query_norm = find (finder, "%s.attention.query_norm.weight", prefix);
  layer->key_norm = find (finder, "%s.attention.key_norm.weight", prefix);
  layer->qkv = find_linear (finder, prefix, "attention.qkv");
  layer->proj = find_linear (finder, prefix, "attention.proj");
  layer->mlp_norm = find_norm (finder, prefix, "mlp.norm");
  layer->mlp_post = find_norm (finder, prefix, "mlp.post_norm");
  layer->gate = find_linear (finder, prefix, "mlp.gate_proj");
  layer->fc1 = find_linear (finder, prefix, gated ? "mlp.up_proj" : "mlp.main.0");
  layer->fc2 = find_linear (finder, prefix, gated ? "mlp.down_proj" : "mlp.main.2");
}

static void
find_network (const Finder *finder, const char *prefix, guint K, guint d, NfFlowBlock *block)
{
  const NfConfig *config = finder->config;
  const guint H = config->n_heads ? config->n_heads : d / config->head_dim;

  block->transformer.shape = (NfTransformerShape){
    .d = d,
    .hidden = config->expansion * d,
    .K = K,
    .H = H,
    .Hkv = config->n_kv_heads ? config->n_kv_heads : H,
    .head_dim = config->head_dim,
    .norm = config->rms_norm ? NF_NORM_RMS : NF_NORM_LAYER,
    .qk_norm = config->qk_norm,
    .post_norm = config->post_norm,
    .gated = config->gated,
    .half_split = config->half_split_rope,
  };
  block->D = nf_config_features (config);
  block->in = find_linear (finder, prefix, "proj_in");
  block->out = find_linear (finder, prefix, "proj_out");
  block->text = find_linear (finder, prefix, "proj_txt");
  block->action = find_linear (finder, prefix, "proj_action");
  block->final_norm = find_norm (finder, prefix, "final_norm");
  block->transformer.layers = g_new0 (NfLayerWeights, K);
  for (guint l = 0; l < K; l++)
    {
      g_autofree char *inner = g_strdup_printf ("%s.attn_blocks.%u", prefix, l);
      find_layer (finder, inner, &block->transformer.layers[l]);
    }
}

/* TARFlow and right-to-left STARFlows begin forwards, left-to-right ones backwards. */
static gboolean
runs_backwards (const NfConfig *config, guint t)
{
  return (t + (config->left_to_right ? 1 : 0)) % 2 == 1;
}

/* Positions of block t in the order of its sequence, where they are not those that are stored. */
static gsize
ordered_floats (const NfConfig *config, guint t)
{
  const gsize floats = (gsize)nf_config_tokens (config) * nf_config_width (config, t);
  if (config->frame_positions && t + 1 == config->n_blocks)
    return floats * nf_config_frames (config);
  return !config->rope && runs_backwards (config, t) ? floats : 0;
}

static void
find_block (const Finder *finder, guint t, NfBuffer *ordered_positions, gsize *at, NfFlowBlock *block)
{
  const NfConfig *config = finder->config;
  const gboolean starflow = config->family == NF_FAMILY_STARFLOW;
  g_autofree char *prefix = g_strdup_printf ("blocks.%u", t);

  find_network (finder, prefix, nf_config_layers (config, t), nf_config_width (config, t), block);
  block->index = t;
  block->flip = runs_backwards (config, t);
  block->sos = find (finder, "%s.sos_embed", prefix);
  block->position = block->ordered_position = find (finder, "%s.pos_embed", prefix);
  block->classes = find (finder, "%s.class_embed", prefix);
  block->n_classes = config->n_classes;
  block->scale = !config->nvp ? NF_SCALE_NONE : config->softplus ? NF_SCALE_SOFTPLUS : NF_SCALE_EXP;
  block->soft_clip = (float)config->soft_clip;
  block->max_log_scale = config->max_log_scale > 0 ? (float)config->max_log_scale : INFINITY;
  block->guidance = starflow ? NF_GUIDANCE_PRODUCT : NF_GUIDANCE_EXTRAPOLATE;
  if (config->frame_positions && t + 1 == config->n_blocks)
    block->position = find (finder, "%s.frame_embed", prefix);
  const gsize ordered = ordered_floats (config, t);
  if (ordered)
    {
      block->ordered_position = nf_view (ordered_positions, *at);
      *at += ordered;
    }
}

NfBlocks *
nf_blocks_new (const NfConfig *config, const NfParameters *parameters, NfBuffer *theta, NfBuffer *ordered)
{
  NfBlocks *blocks = g_new0 (NfBlocks, 1);
  const Finder finder = { config, parameters, theta };
  gsize at = 0;

  blocks->flow = g_new0 (NfFlowBlock, config->n_blocks);
  for (guint t = 0; t < config->n_blocks; t++)
    if (!nf_config_is_identity (config, t))
      find_block (&finder, t, ordered, &at, &blocks->flow[blocks->T++]);
  if (config->denoiser_layers)
    {
      blocks->denoiser = g_new0 (NfFlowBlock, 1);
      find_network (&finder, NF_DENOISER, config->denoiser_layers, config->width, blocks->denoiser);
    }
  return blocks;
}

/* Half a step of z, sigma times as large in u, must stay under half a step of u: steps shrink from block to
 * block, as far as float32 reaches. The data's own lattice has 12 bits: 15 leave sigma, and a basis that adds
 * errors up, room for 4 in block 0. 19 leave it for what float32 itself rounds. Without products of few bits
 * latents are to be those of the formulas, which steps from 17 bits on move by 1e-5 to 1.2e-4 of their size,
 * from 15 on four times as far; from 18 on, up to half of a real picture's tokens were found a step away
 * between blocks, from 17 on one in a hundred at most. A model that limits sigma has steps that hold for
 * every sigma. With few bits a value that is missed may cost a tile, so that each step has to hold: from five
 * blocks on steps go on to 21, where floats from 4 on have none to spare. Eight blocks then have a bit each,
 * and real pictures miss one value in 10^5 instead of one in 50. */
#define FIRST_BITS 15
#define FIRST_BITS_OF_FLOATS 17
#define LAST_BITS 19
#define LAST_BITS_OF_MANY 21
#define MANY 5

/* Of lattices that become finer STEPS times. */
static guint
first_bits (const NfBlocks *blocks, guint steps, gboolean few_bits)
{
  const double limit = blocks->flow[0].max_log_scale / G_LN2;
  if (few_bits)
    return FIRST_BITS;
  if (!(limit < LAST_BITS))
    return FIRST_BITS_OF_FLOATS;
  const gint wanted = LAST_BITS - (gint)steps * (gint)ceil (limit - 1e-3);
  return (guint)CLAMP (wanted, FIRST_BITS, FIRST_BITS_OF_FLOATS);
}

void
nf_blocks_round (NfBlocks *blocks, gboolean few_bits)
{
  const guint last = MAX (blocks->T, 3) - 2, first = first_bits (blocks, last, few_bits),
              more = (few_bits && blocks->T >= MANY ? LAST_BITS_OF_MANY : LAST_BITS) - first;
  for (guint t = 1; t < blocks->T; t++)
    {
      const guint bits = first + (more * (t - 1) + last / 2) / last;
      blocks->flow[t - 1].per_unit_out = blocks->flow[t].per_unit_in = (float)(1u << bits);
    }
}

void
nf_blocks_free (NfBlocks *blocks)
{
  for (guint t = 0; t < blocks->T; t++)
    g_free (blocks->flow[t].transformer.layers);
  if (blocks->denoiser)
    g_free (blocks->denoiser->transformer.layers);
  g_free (blocks->denoiser);
  g_free (blocks->flow);
  g_free (blocks);
}

gsize
nf_blocks_ordered_floats (const NfConfig *config)
{
  gsize floats = 0;
  for (guint t = 0; t < config->n_blocks; t++)
    if (!nf_config_is_identity (config, t))
      floats += ordered_floats (config, t);
  return floats;
}

/* Packing */

typedef void (*LinearFunc) (NfLinear *layer, NfOps *ops, gpointer data);

static void
for_each_linear_of (NfFlowBlock *block, NfOps *ops, LinearFunc func, gpointer data)
{
  NfLinear *const outer[] = { &block->in, &block->text, &block->action, &block->out };
  for (guint i = 0; i < G_N_ELEMENTS (outer); i++)
    if (outer[i]->w.buffer)
      func (outer[i], ops, data);
  for (guint l = 0; l < block->transformer.shape.K; l++)
    {
      NfLayerWeights *weights = &block->transformer.layers[l];
      NfLinear *const inner[]
          = { &weights->qkv, &weights->proj, &weights->gate, &weights->fc1, &weights->fc2 };
      for (guint i = 0; i < G_N_ELEMENTS (inner); i++)
        if (inner[i]->w.buffer)
          func (inner[i], ops, data);
    }
}

static void
for_each_linear (NfBlocks *blocks, NfOps *ops, LinearFunc func, gpointer data)
{
  for (guint t = 0; t < blocks->T; t++)
    for_each_linear_of (&blocks->flow[t], ops, func, data);
  if (blocks->denoiser)
    for_each_linear_of (blocks->denoiser, ops, func, data);
}

typedef struct
{
  NfBuffer *packed;
  gboolean backward;
  gsize at;
} Place;

static void
count (NfLinear *layer, NfOps *ops, gpointer data)
{
  Place *place = data;
  place->at += nf_ops_packed_size (ops, layer->n_out, layer->n_in, !place->backward);
}

static void
put (NfLinear *layer, NfOps *ops, gpointer data)
{
  Place *place = data;
  *(place->backward ? &layer->backward : &layer->forward) = nf_view (place->packed, place->at);
  count (layer, ops, data);
}

typedef struct
{
  NfMatrixFunc matrix;
  gpointer data;
  gboolean forward;
} Packing;

static void
pack (NfLinear *layer, NfOps *ops, gpointer data)
{
  const Packing *packing = data;
  const NfView w = packing->matrix ? packing->matrix (layer, packing->data) : layer->w;
  if (!w.buffer)
    return;
  if (packing->forward)
    nf_ops_pack (ops, w, layer->forward, layer->n_out, layer->n_in, TRUE);
  if (layer->backward.buffer)
    nf_ops_pack (ops, w, layer->backward, layer->n_out, layer->n_in, FALSE);
}

gsize
nf_block_packed_floats (const NfFlowBlock *block, NfOps *ops)
{
  Place place = { NULL };
  for_each_linear_of ((NfFlowBlock *)block, ops, count, &place); /* count() changes none */
  return place.at;
}

gsize
nf_blocks_packed_floats (NfBlocks *blocks, NfOps *ops, gboolean backward)
{
  Place place = { .backward = backward };
  for_each_linear (blocks, ops, count, &place);
  return place.at;
}

void
nf_blocks_place (NfBlocks *blocks, NfOps *ops, NfBuffer *packed, gboolean backward)
{
  Place place = { .packed = packed, .backward = backward };
  for_each_linear (blocks, ops, put, &place);
}

void
nf_blocks_pack (NfBlocks *blocks, NfOps *ops, gboolean forward, NfMatrixFunc matrix, gpointer data)
{
  Packing packing = { matrix, data, forward };
  for_each_linear (blocks, ops, pack, &packing);
}

void
nf_blocks_order_positions (NfBlocks *blocks, NfOps *ops, const NfConfig *config)
{
  const guint N = nf_config_tokens (config);
  for (guint t = 0; t < blocks->T; t++)
    {
      const NfFlowBlock *block = &blocks->flow[t];
      const gsize floats = ordered_floats (config, block->index),
                  frame = (gsize)N * block->transformer.shape.d;
      for (gsize at = 0; at < floats; at += frame)
        nf_ops_reorder (ops, block->position, nf_view_add (block->ordered_position, at), 1, N,
                        block->transformer.shape.d, block->flip, N, nf_view (NULL, 0));
    }
}
