/* normflow: a linear layer. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-linear.h"

void
nf_linear_forward (NfOps *ops, const NfLinear *layer, NfView x, NfView y, guint M, const NfLinearExtra *extra)
{
  static const NfLinearExtra nothing = { 0 };
  const NfLinearExtra *e = extra ? extra : &nothing;
  const guint x_row = nf_ops_row_step (ops, layer->n_in, e->flags & NF_MATMUL_LEFT_A),
              y_row = nf_ops_row_step (ops, layer->n_out, e->flags & NF_MATMUL_LEFT);
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
nf_linear_backward (NfOps *ops, const NfLinear *layer, NfView x, NfView dy, NfView dx, guint M,
                    gboolean accumulate, NfView before, guint left, NfBuffer *gradients)
{
  const guint dy_row = nf_ops_row_step (ops, layer->n_out, left & NF_LEFT_DY);
  if (gradients)
    {
      nf_ops_matmul_tn (ops, dy, dy_row, left & NF_LEFT_DY, x,
                        nf_ops_row_step (ops, layer->n_in, left & NF_LEFT_X), left & NF_LEFT_X,
                        nf_view (gradients, layer->w.at), M, layer->n_out, layer->n_in);
      if (layer->bias.buffer)
        nf_ops_column_sums (ops, dy, dy_row, left & NF_LEFT_DY, nf_view (gradients, layer->bias.at), M,
                            layer->n_out);
    }
  if (!dx.buffer)
    return;
  const NfMatmul product = {
    .A = dy,
    .lda = dy_row,
    .B = layer->backward,
    .C = dx,
    .ldc = nf_ops_row_step (ops, layer->n_in, left & NF_LEFT_DX),
    .P = before,
    .M = M,
    .N = layer->n_in,
    .K = layer->n_out,
    .flags = (accumulate ? NF_MATMUL_ACCUMULATE : 0) | (before.buffer ? NF_MATMUL_GELU_SLOPE : 0)
             | (left & NF_LEFT_DY ? NF_MATMUL_LEFT_A : 0) | (left & NF_LEFT_DX ? NF_MATMUL_LEFT : 0),
  };
  nf_ops_matmul (ops, &product);
}
