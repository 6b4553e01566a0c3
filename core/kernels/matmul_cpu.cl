/* Matrix products on a CPU. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 *   nf_matmul      C (M, N) = A (M, K) · B (K, N), then what follows a product: bias, GELU, residual. A and B are nf_elements: with bfloat16
 *                  K, lda and offsets count words of two values. With -DNF_BF16_WEIGHTS=1 only B is in such words.
 *
 *          NR                     One work-item keeps a tile of MR rows × NR columns of C in registers (2 MR vectors) and walks down k:
 *        ┌────┐ B, panel          two loads of B, MR broadcasts of A, 2 MR fused multiply-adds. B is packed so that a panel is read as
 *      K │    │                   one stream; it stays in the second-level cache for the `tiles` row tiles of a work-item.
 *        └────┘                   Each element of C is one chain of fma() over k, whatever M is: results do not depend on the batch.
 *   ┌───┐┌────┐
 * MR│ A ││ C  │
 *   └───┘└────┘
 *
 * With AMX matmul_amx.cl has the tiles instead. */

/* What a tile will need after its product, and where it goes, is on its way to the cache meanwhile. */
static inline void
nf_expect (const NfMatmul *t, int m0, int n0, int rows)
{
  for (int i = 0; i < rows; i++)
    {
      const int m = m0 + i;
      for (int e = n0; e < min (n0 + NR, t->N); e += VW)
        {
          NF_PREFETCH_TO_WRITE (t->C + (size_t)m * t->ldc + (t->flags & NF_HALVES ? e / 2 : e));
          if (t->flags & NF_RESIDUAL)
            NF_PREFETCH (t->R + (size_t)(m % t->rmod) * t->ldr + e);
          if (t->flags & (NF_SAVE | NF_GELU_SLOPE))
            NF_PREFETCH (t->P + (size_t)m * t->N + e);
        }
    }
}

/* What follows a vector of a product at row m, column n, of which `lanes` are there. */
static inline __attribute__ ((always_inline)) floatv
nf_follow (const NfMatmul *t, floatv v, int m, int n, int lanes)
{
  if (t->flags & NF_BIAS)
    v += nf_load_head (t->bias + n, lanes);
  if (t->flags & NF_SAVE)
    nf_store_head (v, t->P + (size_t)m * t->N + n, lanes);
  if (t->flags & NF_GELU)
    v = nf_geluv (v);
  if (t->flags & NF_GELU_SLOPE)
    v *= nf_gelu_slopev (nf_load_head (t->P + (size_t)m * t->N + n, lanes));
  if (t->flags & NF_RESIDUAL)
    v += nf_load_head (t->R + (size_t)(m % t->rmod) * t->ldr + n, lanes);
  if (t->flags & NF_ACCUMULATE)
    v += nf_load_head (t->C + (size_t)m * t->ldc + n, lanes);
  return v;
}

static inline __attribute__ ((always_inline)) void
nf_finish (const NfMatmul *t, floatv v, int m, int n)
{
  const int lanes = t->N - n;
  if (lanes <= 0)
    return;
  v = nf_follow (t, v, m, n, lanes);
  if (t->flags & NF_HALVES)
    nf_store_left (v, t->C + (size_t)m * t->ldc, n);
  else
    nf_store_head (v, t->C + (size_t)m * t->ldc + n, lanes);
}

/* Rows m .. end-1 of the panel b, whose first column is n0. */
static void nf_rows (const NfMatmul *t, __global const nf_element *b, int m, int end, int n0);

#if !NF_AMX
/* Row k of a panel. Floats multiply floats: bfloat16 in words of two become these. */
#if NF_BF16_WEIGHTS
typedef floatv nf_factorv;
#define NF_PANEL_ROW(k) ((size_t)(k) / 2 * NR)
#define NF_RIGHT(b, k) nf_as_floatv ((nf_loadv ((b) + NF_PANEL_ROW (k)) << ((k) % 2 ? 0u : 16u)) & 0xffff0000u)
#else
typedef nf_elementv nf_factorv;
#define NF_PANEL_ROW(k) ((size_t)(k) * NR)
#define NF_RIGHT(b, k) nf_loadv ((b) + NF_PANEL_ROW (k))
#endif

/* acc += a b, of both halves with bfloat16: the upper one first, as the instruction does it. */
#if !NF_BF16 || NF_BF16_WEIGHTS
#define NF_ADD(acc, a, b) acc = fma (a, b, acc)
#elif NF_BF16_DOT
#define NF_ADD(acc, a, b) __asm__ ("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
#else
#define NF_ADD(acc, a, b)                                                                                              \
  acc = fma (nf_as_floatv ((a) & 0xffff0000u), nf_as_floatv ((b) & 0xffff0000u), acc);                                 \
  acc = fma (nf_as_floatv ((a) << 16), nf_as_floatv ((b) << 16), acc)
#endif

/* A panel comes from a cache whose latency hides only behind this many steps of k; few rows have little to hide it behind. */
#define NF_AHEAD(mr) ((mr) >= 6 ? 16 : 96)
#define NF_FETCH_PANEL(b, mr)                                                                                          \
  NF_PREFETCH ((b) + NF_AHEAD (mr) * NR);                                                                              \
  NF_PREFETCH ((b) + NF_AHEAD (mr) * NR + VW)

/* Rows m0 .. m0+mr-1 of one panel; row i at inner index k is a[AT]. The accumulators leave through memory, so that what follows the product is
 * one loop and not 2 mr copies. */
#define NF_TILE(name, mr, lda, AT)                                                                                     \
  static inline void name (const NfMatmul *t, __global const nf_element *restrict b, int m0, int n0)                        \
  {                                                                                                                    \
    floatv acc[mr][2], out[2 * mr];                                                                                    \
    const int K = t->K, ld = lda, rows = min (mr, t->M - m0);                                                          \
    __global const nf_left_element *restrict a = t->A + (size_t)m0 * ld;                                               \
    nf_expect (t, m0, n0, rows);                                                                                       \
    _Pragma ("unroll") for (int i = 0; i < mr; i++) acc[i][0] = acc[i][1] = 0.0f;                                      \
    for (int k = 0; k < K; k++)                                                                                        \
      {                                                                                                                \
        const nf_factorv b0 = NF_RIGHT (b, k), b1 = NF_RIGHT (b + VW, k);                                              \
        NF_FETCH_PANEL (b + NF_PANEL_ROW (k), mr);                                                                     \
        _Pragma ("unroll") for (int i = 0; i < mr; i++)                                                                \
        {                                                                                                              \
          const nf_factorv av = (nf_factorv)(a[AT]);                                                                   \
          NF_ADD (acc[i][0], av, b0);                                                                                  \
          NF_ADD (acc[i][1], av, b1);                                                                                  \
        }                                                                                                              \
      }                                                                                                                \
    _Pragma ("unroll") for (int i = 0; i < mr; i++)                                                                    \
    {                                                                                                                  \
      out[2 * i] = acc[i][0];                                                                                          \
      out[2 * i + 1] = acc[i][1];                                                                                      \
    }                                                                                                                  \
    for (int i = 0; i < 2 * rows; i++)                                                                                 \
      nf_finish (t, out[i], m0 + i / 2, n0 + i % 2 * VW);                                                              \
  }

#define NF_ROW_TILE(mr) NF_TILE (nf_tile_##mr, mr, t->lda, i *ld + k)
NF_TILE (nf_tile_panel, MR, K, k *MR + i)
NF_ROW_TILE (1)
NF_ROW_TILE (2)
NF_ROW_TILE (3)
NF_ROW_TILE (6)
#if MR > 6
NF_ROW_TILE (8)
NF_ROW_TILE (12)
#define nf_tile_max nf_tile_12
#else
#define nf_tile_max nf_tile_6
#endif

static void
nf_rows (const NfMatmul *t, __global const nf_element *b, int m, int end, int n0)
{
  if (t->flags & NF_PANELS)
    {
      for (; m < end; m += MR)
        nf_tile_panel (t, b, m, n0);
      return;
    }
  for (; m + MR <= end; m += MR)
    nf_tile_max (t, b, m, n0);
#if MR > 6
  if (m + 8 <= end)
    {
      nf_tile_8 (t, b, m, n0);
      m += 8;
    }
#endif
  if (m + 6 <= end)
    {
      nf_tile_6 (t, b, m, n0);
      m += 6;
    }
  if (m + 3 <= end)
    {
      nf_tile_3 (t, b, m, n0);
      m += 3;
    }
  if (m + 2 <= end)
    {
      nf_tile_2 (t, b, m, n0);
      m += 2;
    }
  if (m < end)
    nf_tile_1 (t, b, m, n0);
}
#endif

/* Global size (panels of N, groups of `tiles` row tiles). With AMX, and where only B is bfloat16, K counts values; with AMX B may be no panels but rows of floats, ldb apart. C rows are ldc apart, R (residual) rows are m % rmod, ldr apart. */
NF_KERNEL_OF_ONE void
nf_matmul (NF_ITEM __global const nf_left_element *A, ulong A_at, int lda, __global const nf_element *B, ulong B_at, __global const float *bias, ulong bias_at,
           __global const float *R, ulong R_at, int ldr, int rmod, __global float *C, ulong C_at, int ldc,
           __global float *P, ulong P_at, int M, int N, int K, int flags, int tiles, int ldb)
{
  const int panel = get_global_id (0);
  const NfMatmul t = { .A = A + A_at, .B = B + B_at, .bias = bias + bias_at, .R = R + R_at, .C = C + C_at, .P = P + P_at,
                       .M = M, .N = N, .K = K, .lda = lda, .ldb = ldb, .ldc = ldc, .ldr = ldr, .rmod = rmod,
                       .flags = flags };
#if NF_AMX
  __global const nf_element *b = t.B + (ldb ? (size_t)panel * NR : (size_t)panel * ((K + NF_STEP_VALUES - 1) / NF_STEP_VALUES) * NF_DEPTH * NR);
#else
  __global const nf_element *b = t.B + panel * NF_PANEL_ROW (K + NF_BF16_WEIGHTS);
#endif
  const int m = get_global_id (1) * tiles * MR;
  nf_rows (&t, b, m, min (M, m + tiles * MR), panel * NR);
}
