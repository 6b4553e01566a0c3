/* Matrix products on a GPU. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernel as in matmul_cpu.cl. A work-group of (NR, 8) computes a tile of 64 rows × NR columns of C: slices of A and B of TILE_K are brought
 * to local memory by all, then each work-item adds them to its column of 8 rows. Each element is one chain of fma() over k, as on a CPU. */

#define TILE_M 64
#define TILE_K 16
#define ROWS 8 /* of a work-item */
#define GROUP_Y (TILE_M / ROWS)
#define GROUP_ITEMS (NR * GROUP_Y)

#define NF_BIAS 1
#define NF_GELU 2
#define NF_RESIDUAL 4
#define NF_SAVE 8 /* keep the value before GELU in P */
#define NF_ACCUMULATE 16
#define NF_GELU_SLOPE 32 /* C = product × GELU'(P): the backward pass through GELU */
#define NF_HALVES 128 /* C is bfloat16 for another product, ldc counts words of two */
#define NF_PANELS 64 /* A lies in panels of MR rows (nf_pack) */

/* An element's value, or values, into rows of a slice: the upper half of a word first, as the instruction of a CPU adds them. */
#if NF_BF16
#define VALUES 2 /* of an element */
#define NF_PUT(slice, k, at, element)                                                                                  \
  slice[2 * (k)][at] = as_float ((element) & 0xffff0000u), slice[2 * (k) + 1][at] = as_float ((element) << 16)
#else
#define VALUES 1
#define NF_PUT(slice, k, at, element) slice[k][at] = element
#endif
#define SLICE (TILE_K / VALUES) /* elements of a slice */

static inline void
nf_add_slice (float acc[ROWS], __local float a[TILE_K][TILE_M], __local float b[TILE_K][NR], int count)
{
  const int x = get_local_id (0), y = get_local_id (1) * ROWS;
  for (int k = 0; k < count; k++)
    {
      const float bk = b[k][x];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        acc[i] = fma (a[k][y + i], bk, acc[i]);
    }
}

/* Global size (panels NR, ceil(M/64) 8). Arguments as for a CPU; `tiles` has no meaning here. */
__kernel __attribute__ ((reqd_work_group_size (NR, GROUP_Y, 1))) void
nf_matmul (__global const nf_element *A, ulong A_at, int lda, __global const nf_element *B, ulong B_at, __global const float *bias,
           ulong bias_at, __global const float *R, ulong R_at, int ldr, int rmod, __global float *C, ulong C_at, int ldc,
           __global float *P, ulong P_at, int M, int N, int K, int flags, int tiles)
{
  __local float a[TILE_K][TILE_M], b[TILE_K][NR];
  const int item = get_local_id (1) * NR + get_local_id (0), m0 = get_group_id (1) * TILE_M;
  const int n = get_global_id (0);
  float acc[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    acc[i] = 0.0f;
  A += A_at;
  B += B_at + (size_t)get_group_id (0) * K * NR;
  for (int k0 = 0; k0 < K; k0 += SLICE)
    {
      const int count = min (SLICE, K - k0);
      for (int i = item; i < TILE_M * SLICE; i += GROUP_ITEMS)
        {
          const int m = i / SLICE, k = i % SLICE;
          const size_t at = flags & NF_PANELS ? ((size_t)((m0 + m) / MR) * K + k0 + k) * MR + (m0 + m) % MR
                                              : (size_t)(m0 + m) * lda + k0 + k;
          const nf_element element = m0 + m < M && k < count ? A[at] : 0;
          NF_PUT (a, k, m, element);
        }
      for (int i = item; i < count * NR; i += GROUP_ITEMS)
        {
          const nf_element element = B[(size_t)k0 * NR + i];
          NF_PUT (b, i / NR, i % NR, element);
        }
      barrier (CLK_LOCAL_MEM_FENCE);
      nf_add_slice (acc, a, b, VALUES * count);
      barrier (CLK_LOCAL_MEM_FENCE);
    }
  for (int i = 0; i < ROWS; i++)
    {
      const int m = m0 + get_local_id (1) * ROWS + i;
      if (m >= M || n >= N)
        continue;
      float v = acc[i];
      if (flags & NF_BIAS)
        v += bias[bias_at + n];
      if (flags & NF_SAVE)
        P[P_at + (size_t)m * N + n] = v;
      if (flags & NF_GELU)
        v = nf_gelu (v);
      if (flags & NF_GELU_SLOPE)
        v *= nf_gelu_slope (P[P_at + (size_t)m * N + n]);
      if (flags & NF_RESIDUAL)
        v += R[R_at + (size_t)(m % rmod) * ldr + n];
      __global float *c = C + C_at + (size_t)m * ldc + n;
      if (flags & NF_HALVES)
        ((__global ushort *)(C + C_at + (size_t)m * ldc))[n] = nf_half (v);
      else
        *c = flags & NF_ACCUMULATE ? v + *c : v;
    }
}
