/* Keys and values that attention has met. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Keys are kept transposed in blocks of VW, so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]
 * Values stay where the product wrote them, row-major. The backward pass wants values in the form of keys too. */

/* Transposes rows [n0, n0+count) of keys (and of values, for the backward pass) into blocks. src rows are row apart, samples batch apart.
 * Global size (count, H, B). */
__kernel void
nf_append (__global const float *src, ulong src_at, int row, ulong batch, __global float *Kt, ulong Kt_at, int n0, int blocks,
           int H)
{
  const int n = n0 + get_global_id (0), h = get_global_id (1), b = get_global_id (2);
  __global const float *k = src + src_at + b * batch + (size_t)get_global_id (0) * row + h * DH;
  __global float *to = Kt + Kt_at + (((size_t)b * H + h) * blocks + n / VW) * DH * VW + n % VW;
  for (int i = 0; i < DH; i++)
    to[i * VW] = k[i];
}
