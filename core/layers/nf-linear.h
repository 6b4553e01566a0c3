/* normflow: a linear layer. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-ops.h"

/* Not installed. y = x Wᵀ + b with W (n_out, n_in) and b (n_out) among the parameters, and W packed for both
 * directions. bias may be a NULL buffer (none), backward too (no gradients asked for). */
typedef struct
{
  NfView w, bias;
  NfView forward, backward;
  guint n_out, n_in;
} NfLinear;

/* What a layer does besides: FLAGS of NfMatmulFlags that need no operand, R (M, n_out) added to the result
 * with rows repeating after r_mod (0: no repetition), BEFORE (M, n_out) keeps what an activation gets. NULL
 * buffers mean none. x_row and y_row are floats from a row to the next, 0 for dense ones. */
typedef struct
{
  guint flags;
  guint x_row, y_row;
  NfView residual;
  guint r_mod;
  NfView before;
} NfLinearExtra;

/* M rows of x to M rows of y. EXTRA may be NULL. */
void nf_linear_forward (NfOps *ops, const NfLinear *layer, NfView x, NfView y, guint M,
                        const NfLinearExtra *extra);

/* What is left rows of a product: the layer's input, the gradient of its output, that of its input, which is
 * then not accumulated. Where gradients read these. */
typedef enum
{
  NF_LEFT_X = 1,
  NF_LEFT_DY = 2,
  NF_LEFT_DX = 4,
} NfLinearLeft;

/* dx (M, n_in) = dy W, += with ACCUMULATE, times GELU'(before) if BEFORE's buffer is not NULL. dW += dyᵀ x
 * and db += the sum of dy's rows at the parameters' places in GRADIENTS, unless that is NULL. A NULL buffer
 * for dx: not wanted. LEFT: of NfLinearLeft. */
void nf_linear_backward (NfOps *ops, const NfLinear *layer, NfView x, NfView dy, NfView dx, guint M,
                         gboolean accumulate, NfView before, guint left, NfBuffer *gradients);
