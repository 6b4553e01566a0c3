/* normflow: where the weights of blocks lie. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-flow-block.h"
#include "nf-parameters.h"

/* Not installed. The blocks of a flow as layers want them: shapes from the configuration, views of the
 * parameters on a device, and places among the packed weights. */
typedef struct
{
  guint T;               /* blocks that change something */
  NfFlowBlock *flow;     /* T */
  NfFlowBlock *denoiser; /* a network that says D values of each token, or NULL */
} NfBlocks;

/* THETA holds the parameters, or those that are no matrices. Positions of blocks that run backwards go to
 * REVERSED, one after the other. */
NfBlocks *nf_blocks_new (const NfConfig *config, const NfParameters *parameters, NfBuffer *theta,
                         NfBuffer *ordered);
void nf_blocks_free (NfBlocks *blocks);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBlocks, nf_blocks_free)

/* Gives values between blocks the small steps that they are multiples of where they are rounded
 * (NfBlockSequence), so that decoding finds each of them again exactly: the network then reads the very bits
 * that it read when encoding. Else it answers an error, of float32's last bit too, with a larger one, which
 * between pictures unlike those that it was trained on grows from token to token; a product of FEW_BITS
 * answers that bit with a change in the third digit, and takes larger steps. */
void nf_blocks_round (NfBlocks *blocks, gboolean few_bits);

/* Floats that REVERSED needs. */
gsize nf_blocks_ordered_floats (const NfConfig *config);

/* Floats of the packed weights of a block, forward. */
gsize nf_block_packed_floats (const NfFlowBlock *block, NfOps *ops);

/* Floats of all packed weights for one direction, and giving each its place in PACKED. */
gsize nf_blocks_packed_floats (NfBlocks *blocks, NfOps *ops, gboolean backward);
void nf_blocks_place (NfBlocks *blocks, NfOps *ops, NfBuffer *packed, gboolean backward);

/* Where the matrix of LAYER lies now, which is what is enqueued next reads. */
typedef NfView (*NfMatrixFunc) (const NfLinear *layer, gpointer data);

/* Packs every matrix for the forward pass, if it has a place for the backward pass, or for that alone. FIND
 * is asked for each; NULL: they are all among the parameters. */
void nf_blocks_pack (NfBlocks *blocks, NfOps *ops, gboolean forward, NfMatrixFunc matrix, gpointer data);

/* Reorders the positions of blocks that run backwards. */
void nf_blocks_order_positions (NfBlocks *blocks, NfOps *ops, const NfConfig *config);
