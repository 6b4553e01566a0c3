/* Keys and values that attention has met, and which of them a query meets. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Keys are kept transposed in blocks of VW, so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]
 * Values stay where the product wrote them, row-major. The backward pass wants values in the form of keys too. */

/* Transposes rows [n0, n0+count) of keys (and of values, for the backward pass) into blocks. src rows are row apart, samples batch apart. H heads of
 * keys. Global size (count, H, B) on a GPU, a row of a head each; on a CPU (blocks of VW rows that are touched, H, B). */
#if !NF_GPU_KERNELS
/* VW rows of VW floats into columns: each round interleaves the first half of the vectors with the second. */
static inline void
nf_transpose (floatv x[VW])
{
  floatv y[VW];
#pragma unroll
  for (int round = 1; round < VW; round *= 2)
    {
#pragma unroll
      for (int i = 0; i < VW / 2; i++)
        {
          y[2 * i].even = x[i].lo;
          y[2 * i].odd = x[i + VW / 2].lo;
          y[2 * i + 1].even = x[i].hi;
          y[2 * i + 1].odd = x[i + VW / 2].hi;
        }
#pragma unroll
      for (int i = 0; i < VW; i++)
        x[i] = y[i];
    }
}
#endif

__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_append (__global const float *src, ulong src_at, int row, ulong batch, __global float *Kt, ulong Kt_at, int n0, int count, int blocks, int H)
{
  const int h = get_global_id (1), b = get_global_id (2);
  src += src_at + b * batch + h * DH;
  Kt += Kt_at + ((size_t)b * H + h) * blocks * DH * VW;
#if NF_GPU_KERNELS
  const int first = n0 + get_global_id (0), end = first + 1;
#else
  const int block = n0 / VW + get_global_id (0), first = max (n0, block * VW), end = min (n0 + count, (block + 1) * VW);
  if (end - first == VW)
    {
      __global const float *k = src + (size_t)(first - n0) * row;
      __global float *to = Kt + (size_t)block * DH * VW;
      for (int e = 0; e < DH; e += VW)
        {
          const int lanes = DH - e;
          floatv x[VW];
#pragma unroll
          for (int i = 0; i < VW; i++)
            x[i] = nf_load_head (k + (size_t)i * row + e, lanes);
          nf_transpose (x);
#pragma unroll
          for (int i = 0; i < VW; i++)
            if (i < lanes)
              nf_storev (x[i], to + (e + i) * VW);
        }
      return;
    }
#endif
  for (int n = first; n < end; n++)
    for (int i = 0; i < DH; i++)
      Kt[((size_t)(n / VW) * DH + i) * VW + n % VW] = src[(size_t)(n - n0) * row + i];
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
