/* The gated MLP's gate (Shazeer 2020, arXiv 2002.05202). SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * gelu_tanh(x) = x/2 (1 + tanh y) = x s, s = 1/(1 + exp(-2y)), y = sqrt(2/pi) (x + 0.044715 x³). A work-item has `vectors` vectors of the n values. */

/* 2y, which beyond |x| = 16 plays no part. */
static inline floatv
nf_gate_argument (floatv x)
{
  return 1.59576912f * fma (x * x * x, (floatv)(0.044715f), x);
}

/* If `left` is not 0 hidden is left rows of a product, rows of `width` values so many words apart. Both are multiples of VW then. */
NF_KERNEL void
nf_gate (NF_ITEM __global const float *gate, ulong gate_at, __global const float *up, ulong up_at, __global float *hidden, ulong hidden_at, int left,
         int width, ulong n, int vectors)
{
  const size_t first = get_global_id (0) * vectors * VW, end = min (n, (ulong)(first + (size_t)vectors * VW));
  gate += gate_at;
  up += up_at;
  hidden += hidden_at;
  for (size_t i = first; i < end; i += VW)
    {
      const int lanes = (int)min (end - i, (size_t)VW);
      const floatv x = nf_load_head (gate + i, lanes);
      const floatv e = nf_expv (-nf_gate_argument (clamp (x, -16.0f, 16.0f)));
      const floatv v = x / (e + 1.0f) * nf_load_head (up + i, lanes);
      if (left)
        nf_store_left (v, hidden + i / width * left, i % width);
      else
        nf_store_head (v, hidden + i, lanes);
    }
}

/* dgate = dhidden up (s + x s (1 - s) (2y)'), dup = dhidden gelu_tanh(gate). dup may be dhidden. */
NF_KERNEL void
nf_gate_backward (NF_ITEM __global const float *gate, ulong gate_at, __global const float *up, ulong up_at, __global const float *dhidden,
                  ulong dhidden_at, __global float *dgate, ulong dgate_at, __global float *dup, ulong dup_at, ulong n, int vectors)
{
  const size_t first = get_global_id (0) * vectors * VW, end = min (n, (ulong)(first + (size_t)vectors * VW));
  gate += gate_at;
  up += up_at;
  dhidden += dhidden_at;
  dgate += dgate_at;
  dup += dup_at;
  for (size_t i = first; i < end; i += VW)
    {
      const int lanes = (int)min (end - i, (size_t)VW);
      const floatv x = nf_load_head (gate + i, lanes), near = clamp (x, -16.0f, 16.0f), d = nf_load_head (dhidden + i, lanes);
      const floatv e = nf_expv (-nf_gate_argument (near)), s = 1.0f / (e + 1.0f);
      const floatv slope = 1.59576912f * fma (near * near, (floatv)(0.134145f), (floatv)(1.0f));
      nf_store_head (d * nf_load_head (up + i, lanes) * fma (near * slope, e * s * s, s), dgate + i, lanes);
      nf_store_head (d * (x * s), dup + i, lanes);
    }
}
