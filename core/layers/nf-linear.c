/* normflow: a linear layer. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-linear.h"

void
nf_linear_forward (NfOps *ops, const NfLinear *layer, NfView x, NfView y, guint M, const NfLinearExtra *extra)
{
  static const NfLinearExtra nothing = { 0 };
  const NfLinearExtra *e = extra ? extra : &nothing;
  const guint x_row = e->flags & NF_MATMUL_LEFT_A ? nf_ops_left_step (ops, layer->n_in) : layer->n_in,
              y_row = e->flags & NF_MATMUL_LEFT ? nf_ops_left_step (ops, layer->n_out) : layer->n_out;
  const NfMatmul product = {
    .A = x,
    .lda = e->x_row ? e->x_row : x_row,
    .B = layer->forward,
    .bias = layer->bias,
    .C = y,
    .ldc = e->y_row ? e->y_row : y_row,
    .R = e->residual,
    .ldr = layer->n_out,
    .r_mod = e->r_mod ? e->r_mod : M,
    .P = e->before,
    .M = M,
    .N = layer->n_out,
    .K = layer->n_in,
    .flags = e->flags | (layer->bias.buffer ? NF_MATMUL_BIAS : 0)
             | (e->residual.buffer ? NF_MATMUL_RESIDUAL : 0) | (e->before.buffer ? NF_MATMUL_SAVE : 0),
  };
  nf_ops_matmul (ops, &product);
}

void
nf_linear_backward (NfOps *ops, const NfLinear *layer, NfView x, NfView dy, NfView dx, guint M, guint flags,
                    NfView before, NfBuffer *gradients)
{
  if (gradients)
    {
      nf_ops_matmul_tn (ops, dy, layer->n_out, x, layer->n_in, nf_view (gradients, layer->w.at), M,
                        layer->n_out, layer->n_in);
      if (layer->bias.buffer)
        nf_ops_column_sums (ops, dy, layer->n_out, nf_view (gradients, layer->bias.at), M, layer->n_out);
    }
  if (!dx.buffer)
    return;
  const NfMatmul product = {
    .A = dy,
    .lda = layer->n_out,
    .B = layer->backward,
    .C = dx,
    .ldc = layer->n_in,
    .P = before,
    .M = M,
    .N = layer->n_in,
    .K = layer->n_out,
    .flags = flags | (before.buffer ? NF_MATMUL_GELU_SLOPE : 0),
  };
  nf_ops_matmul (ops, &product);
}
