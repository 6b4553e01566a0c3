/* Keys and values that attention has met, and which of them a query meets. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Keys are kept transposed in blocks of VW, so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]
 * Values stay where the product wrote them, row-major. The backward pass wants values in the form of keys too. */

/* Transposes rows [n0, n0+count) of keys (and of values, for the backward pass) into blocks. src rows are row apart, samples batch apart.
 * Global size (count, H, B), H heads of keys. */
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

/* A mask as the host passes it, NfMask: .s0 keys end at the query's own place (else with the frame `ahead`), .s1 tokens of the prefix, .s2 tokens
 * of a frame (0: no frames), .s3 the frame of the last key less that of the query, .s4 the window in frames, .s5 keys that there are. */
#define NF_PREFIX(mask) ((mask).s1)

/* A query at `place` meets keys [.x, .y) and, below .y, those of the prefix. */
static inline int2
nf_sight (int8 mask, int place)
{
  const int causal = mask.s0, prefix = mask.s1, frame = mask.s2, ahead = mask.s3, window = mask.s4, keys = mask.s5;
  const int f = frame && place >= prefix ? (place - prefix) / frame : 0;
  return (int2)(frame && place >= prefix ? prefix + max (f + ahead - window, 0) * frame : 0,
                causal ? place + 1 : min (prefix + (f + ahead + 1) * frame, keys));
}

static inline int
nf_sees (int2 sight, int prefix, int key)
{
  return key < sight.y && (key < prefix || key >= sight.x);
}
