/* Matrix products on a GPU. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernel as in matmul_cpu.cl. A work-group computes a tile of TILE_M rows × TILE_N columns of C: slices of A and B of TILE_K are brought to
 * local memory by all, the next one on its way while this one is added up.
 * Each work-item adds to ROWS × COLUMNS elements, each one chain of fma() over k, as on a CPU. With NF_BF16_MMA, bfloat16 on NVIDIA from compute
 * capability 8.0 on, a warp of 32 work-items adds 16 k at a time to 32 × 32 elements on the tensor cores. Either way the order of the sum is the
 * same for every M: results do not depend on the batch.
 * With NF_BF16_WEIGHTS k counts words of B, and A is floats, two for such a word; for the tensor cores each becomes the sum of two bfloat16. */

#define TILE_M 128
#define TILE_N 64
#define ROWS 8
#define COLUMNS 4
#define GROUP_X (TILE_N / COLUMNS)
#define GROUP_Y (TILE_M / ROWS)
#define GROUP_ITEMS (GROUP_X * GROUP_Y)

#if NF_BF16_WEIGHTS
typedef float2 nf_left_pair;

static inline float2
nf_left (const NfMatmul *t, int m, int k, int end)
{
  if (m >= t->M || k >= end)
    return 0.0f;
  __global const float *a = t->A + (size_t)m * t->lda + 2 * k;
  return (float2)(a[0], 2 * k + 1 < t->values ? a[1] : 0.0f);
}
#else
typedef nf_element nf_left_pair;

static inline nf_element
nf_left (const NfMatmul *t, int m, int k, int end)
{
  if (m >= t->M || k >= end)
    return 0;
  return t->flags & NF_PANELS ? t->A[((size_t)(m / MR) * t->K + k) * MR + m % MR] : t->A[(size_t)m * t->lda + k];
}
#endif

static inline nf_element
nf_right (const NfMatmul *t, int k, int n, int end)
{
  return k < end && n < t->N ? t->B[((size_t)(n / NR) * t->K + k) * NR + n % NR] : 0;
}

/* What follows the product, of one element. */
static inline void
nf_finish (const NfMatmul *t, float v, int m, int n)
{
  if (m >= t->M || n >= t->N)
    return;
  if (t->flags & NF_BIAS)
    v += t->bias[n];
  if (t->flags & NF_SAVE)
    t->P[(size_t)m * t->N + n] = v;
  if (t->flags & NF_GELU)
    v = nf_gelu (v);
  if (t->flags & NF_GELU_SLOPE)
    v *= nf_gelu_slope (t->P[(size_t)m * t->N + n]);
  if (t->flags & NF_RESIDUAL)
    v += t->R[(size_t)(m % t->rmod) * t->ldr + n];
  __global float *c = t->C + (size_t)m * t->ldc;
  if (t->flags & NF_HALVES)
    ((__global ushort *)c)[n] = nf_half (v);
  else
    c[n] = t->flags & NF_ACCUMULATE ? v + c[n] : v;
}

/* Elements of a slice that a work-item brings. */
#define TILE_K 16
#define BRING_A (TILE_M * TILE_K / GROUP_ITEMS)
#define BRING_B (TILE_N * TILE_K / GROUP_ITEMS)

typedef struct
{
  nf_left_pair a[BRING_A];
  nf_element b[BRING_B];
} NfSlice;

/* Neighbouring work-items read what lies side by side: along k of a row, along the rows of a panel, along the columns of B. */
#define NF_A_ROW(i) (panels ? (i) % TILE_M : (i) / TILE_K)
#define NF_A_K(i) (panels ? (i) / TILE_M : (i) % TILE_K)

static inline void
nf_bring (const NfMatmul *t, NfSlice *slice, int item, int m0, int n0, int k0, int end)
{
  const int panels = t->flags & NF_PANELS;
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      slice->a[j] = nf_left (t, m0 + NF_A_ROW (i), k0 + NF_A_K (i), end);
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      slice->b[j] = nf_right (t, k0 + i / TILE_N, n0 + i % TILE_N, end);
    }
}

#if NF_BF16_MMA

/* Words of two values; rows are so long that the 32 work-items of a warp meet 32 banks. */
#define A_ROW (TILE_K + 4)
#define B_ROW (TILE_N + 8)
#define A_PLANE (TILE_M * A_ROW)
#if NF_BF16_WEIGHTS
#define PLANES 2
#else
#define PLANES 1
#endif
#define NF_LOCAL_A uint a[PLANES * A_PLANE]
#define NF_LOCAL_B uint b[TILE_K * B_ROW]
#define WARP_M 32
#define WARP_N 32

/* What is left of x less the bfloat16 that it was rounded to; nothing if that is infinite. */
static inline float
nf_rest (float x, uint rounded)
{
  return isinf (as_float (rounded)) ? 0.0f : x - as_float (rounded);
}

static inline void
nf_keep (const NfMatmul *t, const NfSlice *slice, int item, __local uint *a, __local uint *b)
{
  const int panels = t->flags & NF_PANELS;
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      __local uint *to = a + NF_A_ROW (i) * A_ROW + NF_A_K (i);
#if NF_BF16_WEIGHTS
      const float2 x = slice->a[j];
      const uint rounded = nf_pair (x.x, x.y);
      to[0] = rounded;
      to[A_PLANE] = nf_pair (nf_rest (x.x, rounded << 16), nf_rest (x.y, rounded & 0xffff0000u));
#else
      to[0] = slice->a[j];
#endif
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      b[i / TILE_N * B_ROW + i % TILE_N] = slice->b[j];
    }
}

/* A warp's tile in fragments of 16 × 8, four elements of each in a work-item: rows lane / 4 and that + 8, columns 2 (lane % 4) and that + 1. */
typedef struct
{
  float c[WARP_M / 16][WARP_N / 8][4];
} NfSums;

static inline void
nf_begin (NfSums *sums)
{
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++)
      sums->c[i][j][0] = sums->c[i][j][1] = sums->c[i][j][2] = sums->c[i][j][3] = 0.0f;
}

static inline void
nf_add_slice (NfSums *sums, __local const uint *a, __local const uint *b, int item)
{
  const int warp = item / 32, lane = item % 32, row = warp / (TILE_N / WARP_N) * WARP_M + lane / 4,
            column = warp % (TILE_N / WARP_N) * WARP_N + lane / 4, k = lane % 4;
#pragma unroll
  for (int k0 = 0; k0 < TILE_K; k0 += 8)
    {
      uint right[WARP_N / 8][2];
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j++)
        {
          __local const uint *p = b + (k0 + k) * B_ROW + column + 8 * j;
          right[j][0] = p[0];
          right[j][1] = p[4 * B_ROW];
        }
#pragma unroll
      for (int plane = PLANES - 1; plane >= 0; plane--)
        {
          uint left[WARP_M / 16][4];
#pragma unroll
          for (int i = 0; i < WARP_M / 16; i++)
            {
              __local const uint *p = a + plane * A_PLANE + (row + 16 * i) * A_ROW + k0 + k;
              left[i][0] = p[0];
              left[i][1] = p[8 * A_ROW];
              left[i][2] = p[4];
              left[i][3] = p[8 * A_ROW + 4];
            }
#pragma unroll
          for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
            for (int j = 0; j < WARP_N / 8; j++)
              __asm__ volatile ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                                : "+f"(sums->c[i][j][0]), "+f"(sums->c[i][j][1]), "+f"(sums->c[i][j][2]), "+f"(sums->c[i][j][3])
                                : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i][2]), "r"(left[i][3]), "r"(right[j][0]), "r"(right[j][1]));
        }
    }
}

static inline void
nf_finish_tile (const NfMatmul *t, const NfSums *sums, int item, int m0, int n0)
{
  const int warp = item / 32, lane = item % 32, m = m0 + warp / (TILE_N / WARP_N) * WARP_M + lane / 4,
            n = n0 + warp % (TILE_N / WARP_N) * WARP_N + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++)
      {
        nf_finish (t, sums->c[i][j][0], m + 16 * i, n + 8 * j);
        nf_finish (t, sums->c[i][j][1], m + 16 * i, n + 8 * j + 1);
        nf_finish (t, sums->c[i][j][2], m + 16 * i + 8, n + 8 * j);
        nf_finish (t, sums->c[i][j][3], m + 16 * i + 8, n + 8 * j + 1);
      }
}

#else

/* Floats, k by k: of a word of bfloat16 the upper half first, as the instruction of a CPU adds them. Rows end so that work-items along k meet
 * different banks. */
#if NF_BF16
#define VALUES 2 /* of an element */
#define NF_PUT(to, k, row, at, element)                                                                                \
  to[2 * (k) * (row) + (at)] = as_float ((element) & 0xffff0000u), to[(2 * (k) + 1) * (row) + (at)] = as_float ((element) << 16)
#else
#define VALUES 1
#define NF_PUT(to, k, row, at, element) to[(k) * (row) + (at)] = element
#endif
#if NF_BF16_WEIGHTS
#define NF_PUT_LEFT(to, k, row, at, pair) to[2 * (k) * (row) + (at)] = (pair).y, to[(2 * (k) + 1) * (row) + (at)] = (pair).x
#else
#define NF_PUT_LEFT NF_PUT
#endif
#define A_ROW (TILE_M + 4)
#define B_ROW TILE_N
#define NF_LOCAL_A float a[VALUES * TILE_K * A_ROW]
#define NF_LOCAL_B float b[VALUES * TILE_K * B_ROW]

static inline void
nf_keep (const NfMatmul *t, const NfSlice *slice, int item, __local float *a, __local float *b)
{
  const int panels = t->flags & NF_PANELS;
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      NF_PUT_LEFT (a, NF_A_K (i), A_ROW, NF_A_ROW (i), slice->a[j]);
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      NF_PUT (b, i / TILE_N, B_ROW, i % TILE_N, slice->b[j]);
    }
}

typedef struct
{
  float4 c[ROWS];
} NfSums;

static inline void
nf_begin (NfSums *sums)
{
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    sums->c[i] = 0.0f;
}

static inline void
nf_add_slice (NfSums *sums, __local const float *a, __local const float *b, int item)
{
  a += item / GROUP_X * ROWS;
  b += item % GROUP_X * COLUMNS;
#pragma unroll
  for (int k = 0; k < VALUES * TILE_K; k++)
    {
      const float8 left = vload8 (0, a + k * A_ROW);
      const float4 right = vload4 (0, b + k * B_ROW);
      sums->c[0] = fma ((float4)(left.s0), right, sums->c[0]);
      sums->c[1] = fma ((float4)(left.s1), right, sums->c[1]);
      sums->c[2] = fma ((float4)(left.s2), right, sums->c[2]);
      sums->c[3] = fma ((float4)(left.s3), right, sums->c[3]);
      sums->c[4] = fma ((float4)(left.s4), right, sums->c[4]);
      sums->c[5] = fma ((float4)(left.s5), right, sums->c[5]);
      sums->c[6] = fma ((float4)(left.s6), right, sums->c[6]);
      sums->c[7] = fma ((float4)(left.s7), right, sums->c[7]);
    }
}

static inline void
nf_finish_tile (const NfMatmul *t, const NfSums *sums, int item, int m0, int n0)
{
  const int m = m0 + item / GROUP_X * ROWS, n = n0 + item % GROUP_X * COLUMNS;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    {
      const float4 c = sums->c[i];
      nf_finish (t, c.x, m + i, n);
      nf_finish (t, c.y, m + i, n + 1);
      nf_finish (t, c.z, m + i, n + 2);
      nf_finish (t, c.w, m + i, n + 3);
    }
}

#endif

/* Global size (ceil(N/64) 16, ceil(M/128) 16, parts). Arguments as for a CPU, K counts values where only B is bfloat16; `tiles` and `ldb` have no meaning here. With several parts each has its share of
 * K, and part p goes to C + p M ldc. */
__kernel __attribute__ ((reqd_work_group_size (GROUP_X, GROUP_Y, 1))) void
nf_matmul (__global const nf_left_element *A, ulong A_at, int lda, __global const nf_element *B, ulong B_at, __global const float *bias,
           ulong bias_at, __global const float *R, ulong R_at, int ldr, int rmod, __global float *C, ulong C_at, int ldc,
           __global float *P, ulong P_at, int M, int N, int K, int flags, int tiles, int ldb)
{
  __local NF_LOCAL_A;
  __local NF_LOCAL_B;
  const int item = get_local_id (1) * GROUP_X + get_local_id (0), m0 = get_group_id (1) * TILE_M, n0 = get_group_id (0) * TILE_N,
            part = get_group_id (2), parts = get_num_groups (2), elements = NF_BF16_WEIGHTS ? (K + 1) / 2 : K, share = (elements + parts - 1) / parts;
  const int first = part * share, end = min (elements, first + share);
  const NfMatmul t = { .A = A + A_at, .B = B + B_at, .bias = bias + bias_at, .R = R + R_at, .C = C + C_at + (size_t)part * M * ldc,
                       .P = P + P_at, .M = M, .N = N, .K = elements, .values = K, .lda = lda, .ldc = ldc, .ldr = ldr, .rmod = rmod, .flags = flags };
#if NF_BF16_MMA
  const int live = 1; /* a warp stays together */
#else
  const int live = m0 + item / GROUP_X * ROWS < M && n0 + item % GROUP_X * COLUMNS < N;
#endif
  NfSlice slice;
  NfSums sums;
  nf_begin (&sums);
  nf_bring (&t, &slice, item, m0, n0, first, end);
  for (int k0 = first; k0 < end; k0 += TILE_K)
    {
      nf_keep (&t, &slice, item, a, b);
      barrier (CLK_LOCAL_MEM_FENCE);
      if (k0 + TILE_K < end)
        nf_bring (&t, &slice, item, m0, n0, k0 + TILE_K, end);
      if (live)
        nf_add_slice (&sums, a, b, item);
      barrier (CLK_LOCAL_MEM_FENCE);
    }
  nf_finish_tile (&t, &sums, item, m0, n0);
}
