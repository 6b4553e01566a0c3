/* Matrix products on a GPU. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernel as in matmul_cpu.cl. A work-group computes a tile of NF_TILE_M rows × NF_TILE_N columns of C: slices of A and B of TILE_K are
 * brought to local memory by all, the next ones on their way while one is added up.
 * Each work-item adds to NF_ITEM_ROWS × NF_ITEM_COLUMNS elements, each one chain of fma() over k, as on a CPU. With tensor cores (mma.cl) a warp of 32
 * work-items adds 16 k at a time (8 of floats) to 32 × 32 elements. Either way the order of the sum is the same for every M: results do not depend on
 * the batch.
 * With NF_BF16_WEIGHTS k counts words of B, and A is floats, two for such a word; for the tensor cores each becomes the sum of two bfloat16. With
 * NF_INT8_WEIGHTS these are four. */

#define GROUP_ITEMS (NF_GROUP_X * NF_GROUP_Y)

/* What follows the product: of one row, and of its elements. */
typedef struct
{
  __global const float *bias, *R;
  __global float *C, *P;
  int N, flags;
#if NF_SCALES
  __global const nf_element *B;
  int K;
#endif
} NfRow;

NF_INLINED NfRow
nf_row (const NfMatmul *t, int m)
{
  NfRow row = { .bias = t->bias, .C = t->C + (size_t)m * t->ldc, .P = t->P + (size_t)m * t->N, .N = t->N, .flags = t->flags };
  row.R = t->flags & NF_RESIDUAL ? t->R + (size_t)(m % t->rmod) * t->ldr : t->R;
#if NF_SCALES
  row.B = t->B;
  row.K = t->K;
#endif
  return row;
}

NF_INLINED void
nf_finish (const NfRow *row, float v, int n)
{
  if (n >= row->N)
    return;
#if NF_SCALES
  v *= as_float (row->B[(size_t)(n / NR) * (NF_SCALES + row->K) * NR + n % NR]);
#endif
  if (row->flags & NF_BIAS)
    v += row->bias[n];
  if (row->flags & NF_SAVE)
    row->P[n] = v;
  if (row->flags & NF_GELU)
    v = nf_gelu (v);
  if (row->flags & NF_GELU_SLOPE)
    v *= nf_gelu_slope (row->P[n]);
  if (row->flags & NF_RESIDUAL)
    v += row->R[n];
  if (row->flags & NF_LEFT)
    ((__global ushort *)row->C)[n] = nf_half (v);
  else
    row->C[n] = row->flags & NF_ACCUMULATE ? v + row->C[n] : v;
}

#if NF_INT8_WEIGHTS
#define TILE_K 8 /* local memory for no more */
#else
#define TILE_K 16
#endif

#if NF_MMA

/* Slices go from global to local memory by themselves, STAGES - 1 of them on their way. */
#define STAGES 3

#else

/* Slices come by way of registers. A work-item knows where its elements are, in the first slice; all move by the same from slice to slice. Rows and
 * columns that are not there are taken from the last one: what they make is not kept. */
#if NF_BF16_WEIGHTS
typedef float2 nf_left_words;
#define NF_LEFT_WORDS 2
#elif NF_INT8_WEIGHTS
typedef float4 nf_left_words;
#define NF_LEFT_WORDS 4
#else
typedef nf_element nf_left_words;
#define NF_LEFT_WORDS 1
#endif

/* Elements of a slice that a work-item brings. */
#define BRING_A (NF_TILE_M * TILE_K / GROUP_ITEMS)
#define BRING_B (NF_TILE_N * TILE_K / GROUP_ITEMS)

typedef struct
{
  nf_left_words a[BRING_A];
  nf_element b[BRING_B];
} NfSlice;

typedef struct
{
  __global const nf_left_element *A;
  __global const nf_element *B;
  int a[BRING_A], b[BRING_B], a_step, b_step;
} NfPlaces;

/* Neighbouring work-items read what lies side by side: along k of a row, along the rows of a panel, along the columns of B. */
#define NF_A_ROW(i) (panels ? (i) % NF_TILE_M : (i) / TILE_K)
#define NF_A_K(i) (panels ? (i) / NF_TILE_M : (i) % TILE_K)
#define NF_B_K(i) ((i) / NF_TILE_N)

NF_INLINED NfPlaces
nf_places (const NfMatmul *t, int item, int m0, int n0, int first)
{
  const int panels = t->flags & NF_PANELS;
  NfPlaces places = { .A = t->A + (panels ? ((size_t)(m0 / MR) * t->K + first) * MR : (size_t)m0 * t->lda + NF_LEFT_WORDS * first),
                      .B = t->B + ((size_t)(n0 / NR) * (NF_SCALES + t->K) + NF_SCALES + first) * NR,
                      .a_step = panels ? TILE_K * MR : TILE_K * NF_LEFT_WORDS,
                      .b_step = TILE_K * NR };
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      const int i = j * GROUP_ITEMS + item, m = min (m0 + NF_A_ROW (i), t->M - 1);
      places.a[j] = panels ? ((m / MR - m0 / MR) * t->K + NF_A_K (i)) * MR + m % MR : (m - m0) * t->lda + NF_LEFT_WORDS * NF_A_K (i);
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    {
      const int i = j * GROUP_ITEMS + item, n = min (n0 + i % NF_TILE_N, t->N - 1);
      places.b[j] = ((n / NR - n0 / NR) * (NF_SCALES + t->K) + NF_B_K (i)) * NR + n % NR;
    }
  return places;
}

/* Slice k0 of those up to `end`. */
NF_INLINED void
nf_bring (const NfMatmul *t, NfPlaces *places, NfSlice *slice, int item, int k0, int end)
{
  const int panels = t->flags & NF_PANELS, whole = k0 + TILE_K <= end;
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      __global const nf_left_element *a = places->A + places->a[j];
#if NF_BF16_WEIGHTS
      const int k = k0 + NF_A_K (j * GROUP_ITEMS + item);
      slice->a[j] = (float2)(whole || k < end ? a[0] : 0.0f, 2 * k + 1 < t->values && (whole || k < end) ? a[1] : 0.0f);
#elif NF_INT8_WEIGHTS
      const int k = k0 + NF_A_K (j * GROUP_ITEMS + item), left = whole || k < end ? t->values - 4 * k : 0;
      slice->a[j] = (float4)(left > 0 ? a[0] : 0.0f, left > 1 ? a[1] : 0.0f, left > 2 ? a[2] : 0.0f, left > 3 ? a[3] : 0.0f);
#else
      slice->a[j] = whole || k0 + NF_A_K (j * GROUP_ITEMS + item) < end ? a[0] : 0;
#endif
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    slice->b[j] = whole || k0 + NF_B_K (j * GROUP_ITEMS + item) < end ? places->B[places->b[j]] : 0;
  places->A += places->a_step;
  places->B += places->b_step;
}

#endif

#if NF_BF16_MMA || NF_F32_MMA

/* Words; rows are so long that the 32 work-items of a warp meet 32 banks, and begin where four words are copied at once. */
#define A_ROW (TILE_K + 4)
#define B_ROW (NF_TILE_N + 8)
#define A_PLANE (NF_TILE_M * A_ROW)
#define B_PLANE (TILE_K * B_ROW)
#define WARP_M 32
#define WARP_N 32

#if NF_BF16_WEIGHTS
#define PLANES 2
#define NF_LOCAL_A uint __attribute__ ((aligned (16))) a[PLANES * A_PLANE]
#define NF_LOCAL_B uint __attribute__ ((aligned (16))) b[B_PLANE]

/* What is left of x less the bfloat16 that it was rounded to; nothing if that is infinite. */
NF_INLINED float
nf_rest (float x, uint rounded)
{
  return isinf (as_float (rounded)) ? 0.0f : x - as_float (rounded);
}

NF_INLINED void
nf_keep (const NfMatmul *t, const NfSlice *slice, int item, __local uint *a, __local uint *b)
{
  const int panels = t->flags & NF_PANELS;
#pragma unroll
  for (int j = 0; j < BRING_A; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      __local uint *to = a + NF_A_ROW (i) * A_ROW + NF_A_K (i);
      const float2 x = slice->a[j];
      const uint rounded = nf_pair (x.x, x.y);
      to[0] = rounded;
      to[A_PLANE] = nf_pair (nf_rest (x.x, rounded << 16), nf_rest (x.y, rounded & 0xffff0000u));
    }
#pragma unroll
  for (int j = 0; j < BRING_B; j++)
    {
      const int i = j * GROUP_ITEMS + item;
      b[i / NF_TILE_N * B_ROW + i % NF_TILE_N] = slice->b[j];
    }
}

#else

#define PLANES 1
#define NF_LOCAL_A uint __attribute__ ((aligned (16))) a[STAGES * A_PLANE]
#define NF_LOCAL_B uint __attribute__ ((aligned (16))) b[STAGES * B_PLANE]

/* Slice k0 of those up to `end` on its way, by fours of words where `wide`. */
NF_INLINED void
nf_copy_slice (const NfMatmul *t, int item, int m0, int n0, int k0, int end, int wide, __local uint *a, __local uint *b)
{
  if (t->flags & NF_PANELS)
    {
#pragma unroll 1
      for (int j = 0; j < NF_TILE_M * TILE_K / GROUP_ITEMS; j++)
        {
          const int i = j * GROUP_ITEMS + item, r = i % NF_TILE_M, k = i / NF_TILE_M, m = m0 + r, there = m < t->M && k0 + k < end;
          nf_copy (a + r * A_ROW + k, t->A + (there ? ((size_t)(m / MR) * t->K + k0 + k) * MR + m % MR : 0), 0, there ? 4 : 0);
        }
    }
  else
    {
#pragma unroll
      for (int j = 0; j < NF_TILE_M * TILE_K / 4 / GROUP_ITEMS; j++)
        {
          const int i = j * GROUP_ITEMS + item, r = i / (TILE_K / 4), k = i % (TILE_K / 4) * 4, words = m0 + r < t->M ? clamp (end - k0 - k, 0, 4) : 0;
          nf_copy_words (a + r * A_ROW + k, (__global const uint *)(t->A + (words ? (size_t)(m0 + r) * t->lda + k0 + k : 0)), wide, words);
        }
    }
#pragma unroll
  for (int j = 0; j < NF_TILE_N * TILE_K / 4 / GROUP_ITEMS; j++)
    {
      const int i = j * GROUP_ITEMS + item, k = i / (NF_TILE_N / 4), column = i % (NF_TILE_N / 4) * 4, n = n0 + column, there = n < t->N && k0 + k < end;
      nf_copy_words (b + k * B_ROW + column, (__global const uint *)(t->B + (there ? ((size_t)(n / NR) * t->K + k0 + k) * NR + n % NR : 0)), wide,
                     there ? 4 : 0);
    }
}

#endif

/* A warp's tile in fragments of 16 × 8. */
typedef struct
{
  float c[WARP_M / 16][WARP_N / 8][4];
} NfSums;

NF_INLINED void
nf_begin (NfSums *sums)
{
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
    for (int j = 0; j < WARP_N / 8; j++)
      sums->c[i][j][0] = sums->c[i][j][1] = sums->c[i][j][2] = sums->c[i][j][3] = 0.0f;
}

/* += the product of words 8 k of 16 rows, for each plane, and of 32 columns. */
NF_INLINED void
nf_add_words (float c[WARP_N / 8][4], __local const uint *a, const NfRight right[WARP_N / 8])
{
#pragma unroll
  for (int plane = PLANES - 1; plane >= 0; plane--)
    {
      uint words[4];
      nf_load_fragment (words, nf_address (a + plane * A_PLANE));
      const NfLeft left = nf_left (words);
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j++)
#if NF_BF16_MMA
        nf_mma_halves (c[j], left.upper, right[j].upper);
#else
        nf_mma (c[j], &left, &right[j]);
#endif
    }
}

NF_INLINED void
nf_bring_right (NfRight right[WARP_N / 8], __local const uint *b)
{
#pragma unroll
  for (int j = 0; j < WARP_N / 8; j++)
    right[j] = nf_right (b[8 * j], b[4 * B_ROW + 8 * j]);
}

NF_INLINED void
nf_add_slice (NfSums *sums, __local const uint *a, __local const uint *b, int item)
{
  const int warp = item / NF_WARP, lane = item % NF_WARP, row = warp / (NF_TILE_N / WARP_N) * WARP_M + lane % 16,
            column = warp % (NF_TILE_N / WARP_N) * WARP_N + lane / 4;
  a += row * A_ROW + lane / 16 * 4;
  b += lane % 4 * B_ROW + column;
  NfRight right[WARP_N / 8];
#if NF_F32_MMA
#pragma unroll
  for (int i = 0; i < WARP_M / 16; i++)
    {
      float c[WARP_N / 8][4] = { { 0.0f } };
#pragma unroll
      for (int k0 = 0; k0 < TILE_K; k0 += 8)
        {
          nf_bring_right (right, b + k0 * B_ROW);
          nf_add_words (c, a + 16 * i * A_ROW + k0, right);
        }
#pragma unroll
      for (int j = 0; j < WARP_N / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          sums->c[i][j][e] += c[j][e];
    }
#else
#pragma unroll
  for (int k0 = 0; k0 < TILE_K; k0 += 8)
    {
      nf_bring_right (right, b + k0 * B_ROW);
#pragma unroll
      for (int i = 0; i < WARP_M / 16; i++)
        nf_add_words (sums->c[i], a + 16 * i * A_ROW + k0, right);
    }
#endif
}

NF_INLINED void
nf_finish_tile (const NfMatmul *t, const NfSums *sums, int item, int m0, int n0)
{
  const int warp = item / 32, lane = item % 32, m = m0 + warp / (NF_TILE_N / WARP_N) * WARP_M + lane / 4,
            n = n0 + warp % (NF_TILE_N / WARP_N) * WARP_N + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < WARP_M / 8; i++)
    if (m + 8 * i < t->M)
      {
        const NfRow to = nf_row (t, m + 8 * i);
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++)
          {
            nf_finish (&to, sums->c[i / 2][j][i % 2 * 2], n + 8 * j);
            nf_finish (&to, sums->c[i / 2][j][i % 2 * 2 + 1], n + 8 * j + 1);
          }
      }
}

#else

/* Floats, k by k: of a word of bfloat16 the upper half first, as the instruction of a CPU adds them. Rows end so that work-items along k meet
 * different banks. */
#if NF_BF16
#define VALUES 2 /* of an element */
#define NF_PUT(to, k, row, at, element)                                                                                \
  to[2 * (k) * (row) + (at)] = as_float ((element) & 0xffff0000u), to[(2 * (k) + 1) * (row) + (at)] = as_float ((element) << 16)
#elif NF_INT8_WEIGHTS
#define VALUES 4
#define NF_PUT(to, k, row, at, element)                                                                                \
  _Pragma ("unroll") for (int i_ = 0; i_ < 4; i_++) to[(4 * (k) + i_) * (row) + (at)] = (float)(char)((element) >> 8 * i_)
#else
#define VALUES 1
#define NF_PUT(to, k, row, at, element) to[(k) * (row) + (at)] = element
#endif
#if NF_BF16_WEIGHTS
#define NF_PUT_LEFT(to, k, row, at, pair) to[2 * (k) * (row) + (at)] = (pair).y, to[(2 * (k) + 1) * (row) + (at)] = (pair).x
#elif NF_INT8_WEIGHTS
#define NF_PUT_LEFT(to, k, row, at, four)                                                                              \
  to[4 * (k) * (row) + (at)] = (four).x, to[(4 * (k) + 1) * (row) + (at)] = (four).y, to[(4 * (k) + 2) * (row) + (at)] = (four).z, \
                          to[(4 * (k) + 3) * (row) + (at)] = (four).w
#else
#define NF_PUT_LEFT NF_PUT
#endif
#define A_ROW (NF_TILE_M + 4)
#define B_ROW NF_TILE_N
#define NF_LOCAL_A float a[VALUES * TILE_K * A_ROW]
#define NF_LOCAL_B float b[VALUES * TILE_K * B_ROW]

NF_INLINED void
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
      NF_PUT (b, i / NF_TILE_N, B_ROW, i % NF_TILE_N, slice->b[j]);
    }
}

typedef struct
{
  float4 c[NF_ITEM_ROWS];
} NfSums;

NF_INLINED void
nf_begin (NfSums *sums)
{
#pragma unroll
  for (int i = 0; i < NF_ITEM_ROWS; i++)
    sums->c[i] = 0.0f;
}

NF_INLINED void
nf_add_slice (NfSums *sums, __local const float *a, __local const float *b, int item)
{
  a += item / NF_GROUP_X * NF_ITEM_ROWS;
  b += item % NF_GROUP_X * NF_ITEM_COLUMNS;
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

NF_INLINED void
nf_finish_tile (const NfMatmul *t, const NfSums *sums, int item, int m0, int n0)
{
  const int m = m0 + item / NF_GROUP_X * NF_ITEM_ROWS, n = n0 + item % NF_GROUP_X * NF_ITEM_COLUMNS;
#pragma unroll
  for (int i = 0; i < NF_ITEM_ROWS; i++)
    {
      const float4 c = sums->c[i];
      if (m + i < t->M)
        {
          const NfRow to = nf_row (t, m + i);
          nf_finish (&to, c.x, n);
          nf_finish (&to, c.y, n + 1);
          nf_finish (&to, c.z, n + 2);
          nf_finish (&to, c.w, n + 3);
        }
    }
}

#endif

/* Global size (ceil(N/64) 16, ceil(M/128) 16, parts). Arguments as for a CPU, K counts values where only B is bfloat16; `tiles` and `ldb` have no meaning
 * here. With several parts each has its share of K, and part p goes to C + p M ldc. */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP_X, NF_GROUP_Y, 1))) void
nf_matmul (__global const nf_left_element *A, ulong A_at, int lda, __global const nf_element *B, ulong B_at, __global const float *bias,
           ulong bias_at, __global const float *R, ulong R_at, int ldr, int rmod, __global float *C, ulong C_at, int ldc,
           __global float *P, ulong P_at, int M, int N, int K, int flags, int tiles, int ldb)
{
  __local NF_LOCAL_A;
  __local NF_LOCAL_B;
  const int item = get_local_id (1) * NF_GROUP_X + get_local_id (0), m0 = get_group_id (1) * NF_TILE_M, n0 = get_group_id (0) * NF_TILE_N,
            part = get_group_id (2), parts = get_num_groups (2), elements = NF_RIGHT_ELEMENTS (K);
  /* whole slices for each part but the last */
  const int share = ((elements + parts - 1) / parts + TILE_K - 1) / TILE_K * TILE_K, first = min (part * share, elements),
            end = min (elements, first + share);
  const NfMatmul t = { .A = A + A_at, .B = B + B_at, .bias = bias + bias_at, .R = R + R_at, .C = C + C_at + (size_t)part * M * ldc,
                       .P = P + P_at, .M = M, .N = N, .K = elements, .values = K, .lda = lda, .ldc = ldc, .ldr = ldr, .rmod = rmod, .flags = flags };
  NfSums sums;
  nf_begin (&sums);
#if NF_MMA
  const int wide = (((size_t)t.A | (size_t)t.B) & 15) == 0 && lda % 4 == 0;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++)
    {
      if (first + s * TILE_K < end)
        nf_copy_slice (&t, item, m0, n0, first + s * TILE_K, end, wide, a + s * A_PLANE, b + s * B_PLANE);
      nf_close_copies ();
    }
  for (int k0 = first, stage = 0, next = STAGES - 1; k0 < end; k0 += TILE_K)
    {
      /* the oldest is there, for all, and what was read before may be written over */
      nf_wait_copies (STAGES - 2);
      barrier (CLK_LOCAL_MEM_FENCE);
      if (k0 + (STAGES - 1) * TILE_K < end)
        nf_copy_slice (&t, item, m0, n0, k0 + (STAGES - 1) * TILE_K, end, wide, a + next * A_PLANE, b + next * B_PLANE);
      nf_close_copies ();
      nf_add_slice (&sums, a + stage * A_PLANE, b + stage * B_PLANE, item);
      stage = stage + 1 == STAGES ? 0 : stage + 1;
      next = next + 1 == STAGES ? 0 : next + 1;
    }
#else
#if NF_BF16_MMA
  const int live = 1; /* a warp stays together */
#else
  const int live = m0 + item / NF_GROUP_X * NF_ITEM_ROWS < M && n0 + item % NF_GROUP_X * NF_ITEM_COLUMNS < N;
#endif
  NfPlaces places = nf_places (&t, item, m0, n0, first);
  NfSlice slice;
  if (first < end)
    nf_bring (&t, &places, &slice, item, first, end);
  for (int k0 = first; k0 < end; k0 += TILE_K)
    {
      nf_keep (&t, &slice, item, a, b);
      barrier (CLK_LOCAL_MEM_FENCE);
      if (k0 + TILE_K < end)
        nf_bring (&t, &places, &slice, item, k0 + TILE_K, end);
      if (live)
        nf_add_slice (&sums, a, b, item);
      barrier (CLK_LOCAL_MEM_FENCE);
    }
#endif
  nf_finish_tile (&t, &sums, item, m0, n0);
}
