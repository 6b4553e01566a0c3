/* Matrix products on a CPU. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 *   nf_matmul      C (M, N) = A (M, K) · B (K, N), then what follows a product: bias, GELU, residual. A and B are nf_elements: with bfloat16
 *                  K, lda and offsets count words of two values. With -DNF_BF16_WEIGHTS=1 only B is in such words, with -DNF_INT8_WEIGHTS=1 in words
 *                  of four, and K counts values.
 *
 *          NR                     One work-item keeps a tile of MR rows × NR columns of C in registers (2 MR vectors) and walks down k:
 *        ┌────┐ B, panel          two loads of B, MR broadcasts of A, 2 MR fused multiply-adds. B is packed so that a panel is read as
 *      K │    │                   one stream; it stays in the second-level cache for the `tiles` row tiles of a work-item.
 *        └────┘                   Each element of C is one chain of fma() over k, whatever M is: results do not depend on the batch.
 *   ┌───┐┌────┐
 * MR│ A ││ C  │
 *   └───┘└────┘
 *
 * With AMX matmul_amx.cl has the tiles instead, or, where B is integers, matmul_amx_int8.cl. */

/* What GELU gets lies in rows of P as what follows it lies in C: of floats, or of bfloat16 if this is left rows of a product. */
#if NF_BF16 && !NF_BF16_WEIGHTS
#define NF_SAVES_HALVES(flags) ((flags) & NF_LEFT)
#else
#define NF_SAVES_HALVES(flags) 0
#endif
#define NF_SAVED_STEP(t, flags) ((size_t)(NF_SAVES_HALVES (flags) ? (t)->ldc : (t)->N))

static inline __attribute__ ((always_inline)) floatv
nf_load_saved (__global const float *row, int n, int lanes, int flags)
{
#if NF_BF16 && !NF_BF16_WEIGHTS
  if (NF_SAVES_HALVES (flags))
    return nf_as_floatv (nf_load_halves ((__global const ushort *)row + n) << 16);
#endif
  return nf_load_head (row + n, lanes);
}

/* What follows a vector of a product at row m, column n, of which `lanes` are there; of rows of bfloat16 all are. */
static inline __attribute__ ((always_inline)) floatv
nf_follow (const NfMatmul *t, floatv v, int m, int n, int lanes)
{
  if (t->flags & NF_BIAS)
    v += nf_load_head (t->bias + n, lanes);
  if (t->flags & NF_SAVE && NF_SAVES_HALVES (t->flags))
    nf_store_left (v, t->P + m * NF_SAVED_STEP (t, t->flags), n);
  else if (t->flags & NF_SAVE)
    nf_store_head (v, t->P + m * NF_SAVED_STEP (t, t->flags) + n, lanes);
  if (t->flags & NF_GELU)
    v = nf_geluv (v);
  if (t->flags & NF_GELU_SLOPE)
    v *= nf_gelu_slopev (nf_load_saved (t->P + m * NF_SAVED_STEP (t, t->flags), n, lanes, t->flags));
  if (t->flags & NF_RESIDUAL)
    v += nf_load_head (t->R + (size_t)(m % t->rmod) * t->ldr + n, lanes);
  if (t->flags & NF_ACCUMULATE)
    v += nf_load_head (t->C + (size_t)m * t->ldc + n, lanes);
  return v;
}

/* A vector of row m of C, of columns that may not all be there. A call would cost what is busy with the matrix unit its registers. */
#if NF_AMX
static inline __attribute__ ((always_inline)) void
#else
static __attribute__ ((noinline)) void
#endif
nf_finish_part (const NfMatmul *t, floatv v, int m, int n)
{
  __global float *c = t->C + (size_t)m * t->ldc;
  if (n >= t->N)
    return;
  v = nf_follow (t, v, m, n, t->N - n);
  if (t->flags & NF_LEFT)
    nf_store_left (v, c, n);
  else
    nf_store_head (v, c + n, t->N - n);
}

/* The two vectors of row m of C at columns n on. Whole columns need no tests of their number, so that the arithmetic of several rows overlaps. */
static inline __attribute__ ((always_inline)) void
nf_finish_row (const NfMatmul *t, floatv v0, floatv v1, int m, int n)
{
  __global float *c = t->C + (size_t)m * t->ldc;
  if (n + NR > t->N)
    {
      nf_finish_part (t, v0, m, n);
      nf_finish_part (t, v1, m, n + VW);
      return;
    }
  v0 = nf_follow (t, v0, m, n, VW);
  v1 = nf_follow (t, v1, m, n + VW, VW);
  if (t->flags & NF_LEFT)
    nf_store_left_pair (v0, v1, c, n);
  else
    {
      nf_storev (v0, c + n);
      nf_storev (v1, c + n + VW);
    }
}

/* Rows m and m + 1 of C from columns n on, and what follows a product there. */
typedef struct
{
  int m, n;
  floatv bias[2];
  __global float *c, *p; /* row m of C and of P, from its first column: left rows count otherwise */
  __global const float *r;
  size_t r_step; /* to row m + 1 */
} NfTwoRows;

static inline __attribute__ ((always_inline)) NfTwoRows
nf_two_rows (const NfMatmul *t, int m, int n, int kind)
{
  NfTwoRows rows = { .m = m, .n = n, .c = t->C + (size_t)m * t->ldc };
  if (kind & (NF_SAVE | NF_GELU_SLOPE))
    rows.p = t->P + m * NF_SAVED_STEP (t, kind);
  if (kind & NF_RESIDUAL)
    {
      const int row = m < t->rmod ? m : m % t->rmod;
      rows.r = t->R + (size_t)row * t->ldr + n;
      rows.r_step = row + 1 < t->rmod ? (size_t)t->ldr : -(size_t)row * t->ldr;
    }
  for (int v = 0; v < 2; v++)
    rows.bias[v] = t->flags & NF_BIAS ? nf_loadv (t->bias + n + v * VW) : (floatv)(-0.0f); /* changes no sum */
  return rows;
}

/* Can nf_finish_two() take columns n on? */
#define NF_FINISHES_TWO(t, n) ((n) + NR <= (t)->N && !((t)->flags & NF_ACCUMULATE))

/* Two rows at once, two vectors each: the arithmetic of four hides its latency. As nf_follow() and nf_finish_row() do it, in the same order. KIND, flags
 * that the compiler may know, then leaves no tests of these. */
static inline __attribute__ ((always_inline)) void
nf_finish_two (const NfMatmul *t, floatv v[4], const NfTwoRows *rows, int kind)
{
#pragma unroll
  for (int i = 0; i < 4; i++)
    v[i] += rows->bias[i % 2];
  if (kind & NF_SAVE && NF_SAVES_HALVES (kind))
#pragma unroll
    for (int i = 0; i < 2; i++)
      nf_store_left_pair (v[2 * i], v[2 * i + 1], rows->p + i * NF_SAVED_STEP (t, kind), rows->n);
  else if (kind & NF_SAVE)
#pragma unroll
    for (int i = 0; i < 4; i++)
      nf_storev (v[i], rows->p + i / 2 * NF_SAVED_STEP (t, kind) + rows->n + i % 2 * VW);
  if (kind & NF_GELU)
#pragma unroll
    for (int i = 0; i < 4; i++)
      v[i] = nf_geluv (v[i]);
  if (kind & NF_GELU_SLOPE)
#pragma unroll
    for (int i = 0; i < 4; i++)
      v[i] *= nf_gelu_slopev (nf_load_saved (rows->p + i / 2 * NF_SAVED_STEP (t, kind), rows->n + i % 2 * VW, VW, kind));
  if (kind & NF_RESIDUAL)
#pragma unroll
    for (int i = 0; i < 4; i++)
      v[i] += nf_loadv (rows->r + i / 2 * rows->r_step + i % 2 * VW);
  if (kind & NF_LEFT)
#pragma unroll
    for (int i = 0; i < 2; i++)
      nf_store_left_pair (v[2 * i], v[2 * i + 1], rows->c + i * (size_t)t->ldc, rows->n);
  else
#pragma unroll
    for (int i = 0; i < 4; i++)
      nf_storev (v[i], rows->c + i / 2 * (size_t)t->ldc + rows->n + i % 2 * VW);
}

#if NF_INT8_AMX
#define NF_PANEL(K) ((size_t)NR + NF_BYTE_STEPS (K) * NF_DEPTH * NR) /* words of a panel */
#elif NF_AMX
#define NF_PANEL(K) ((size_t)(((K) + NF_STEP_VALUES - 1) / NF_STEP_VALUES) * NF_DEPTH * NR) /* words of a panel */
#endif
#if NF_AMX
/* Rows m0 .. end-1 of so many panels, the first of which is b, whose first column is n0. */
static void nf_panels (const NfMatmul *t, __global const nf_element *b, int m0, int end, int n0, int panels);

/* What follows the product T besides a bias, for loops that know it; what is added to C becomes a residual. -1 where there can be none. */
static inline int
nf_know_kind (NfMatmul *t)
{
  const int kind = t->flags & (NF_GELU | NF_RESIDUAL | NF_LEFT | NF_SAVE | NF_GELU_SLOPE | NF_ACCUMULATE);
  if (kind == NF_ACCUMULATE)
    {
      t->R = t->C;
      t->ldr = t->ldc;
      t->rmod = t->M;
      return NF_RESIDUAL;
    }
  return kind == NF_RESIDUAL && t->rmod < t->M ? -1 : kind;
}
#endif

#if !NF_AMX
/* Vector i of two in row k of a panel. Floats multiply floats: bfloat16 in words of two and bytes become these. A word of bytes holds no column: bytes lie
 * as other elements would, so that one instruction makes a vector of them, and their sums get the columns' scales, which lie before them. */
#define NF_STEP_WORDS (NR / NF_RIGHT_VALUES) /* of a step of k, in the panel */
#define NF_PANEL_ROW(k) ((size_t)((k) / NF_WHOLE_STEPS) * NF_WHOLE_STEPS * NF_STEP_WORDS)
#if NF_BF16_WEIGHTS
#define NF_WHOLE_STEPS 2 /* in a row */
#define NF_RIGHT(b, i, k) nf_as_floatv ((nf_loadv ((b) + NF_PANEL_ROW (k) + (i) * VW) << ((k) % 2 ? 0u : 16u)) & 0xffff0000u)
typedef floatv nf_factorv;
#elif NF_INT8_MADD
#define NF_WHOLE_STEPS 1
#define NF_RIGHT(b, i, k) nf_widen ((b) + NF_PANEL_ROW (k) + (i) * VW / 2)
typedef uintv nf_factorv;

/* A word of two integers for each column. */
static inline uintv
nf_widen (__global const nf_element *p)
{
  typedef char Bytes __attribute__ ((ext_vector_type (2 * VW)));
  typedef short Shorts __attribute__ ((ext_vector_type (2 * VW)));
  typedef Bytes Anywhere __attribute__ ((aligned (1), may_alias));
  return __builtin_astype (__builtin_convertvector (*(__global const Anywhere *)p, Shorts), uintv);
}
#elif NF_INT8_WEIGHTS
#define NF_WHOLE_STEPS 1
#define NF_RIGHT(b, i, k) NF_CAT (convert_float, VW) (nf_loadv ((__global const char *)((b) + NF_PANEL_ROW (k)) + (i) * VW))
typedef floatv nf_factorv;
#else
#define NF_WHOLE_STEPS 1
#define NF_RIGHT(b, i, k) nf_loadv ((b) + NF_PANEL_ROW (k) + (i) * VW)
typedef nf_elementv nf_factorv;
#endif

/* What sums are until they leave, where those from step k on have to, and what becomes of them. Integers have room for 258 pairs of products. */
#if NF_INT8_MADD
typedef intv nf_partv;
#define NF_SUMS_END(k, K) min (K, (k) + 256)
#define NF_LEAVE(v, sum, first) v = ((first) ? (floatv)(0.0f) : v) + NF_CAT (convert_float, VW) (sum)
#define NF_SCALED(v, b, i, row) ((v) * (nf_as_floatv (nf_loadv ((b) + ((i) - 2) * VW)) * as_float ((row)[K])))
#else
typedef floatv nf_partv;
#define NF_SUMS_END(k, K) K
#define NF_LEAVE(v, sum, first) v = sum
#if NF_SCALES
#define NF_SCALED(v, b, i, row) ((v) * nf_as_floatv (nf_loadv ((b) + ((i) - 2) * VW)))
#else
#define NF_SCALED(v, b, i, row) (v)
#endif
#endif

/* acc += a b, of both halves with bfloat16: the upper one first, as the instruction does it. */
#if NF_INT8_VNNI
#define NF_ADD(acc, a, b) __asm__ ("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
#elif NF_INT8_MADD
#define NF_ADD(acc, a, b)                                                                                              \
  {                                                                                                                    \
    intv products;                                                                                                     \
    __asm__ ("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(a), "v"(b));                                                 \
    acc += products;                                                                                                   \
  }
#elif !NF_BF16 || NF_BF16_WEIGHTS
#define NF_ADD(acc, a, b) acc = fma (a, b, acc)
#elif NF_BF16_DOT
#define NF_ADD(acc, a, b) __asm__ ("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
#else
#define NF_ADD(acc, a, b)                                                                                              \
  acc = fma (nf_as_floatv ((a) & 0xffff0000u), nf_as_floatv ((b) & 0xffff0000u), acc);                                 \
  acc = fma (nf_as_floatv ((a) << 16), nf_as_floatv ((b) << 16), acc)
#endif

#define NF_CACHE_LINE 16 /* words of a cache line */
#define NF_PANEL(K) ((size_t)(NF_SCALES + NF_RIGHT_ELEMENTS (K)) * NR) /* words of a panel */

/* A panel comes from a cache whose latency hides only behind this many steps of k; few rows have little to hide it behind. AMD's cores find out by
 * themselves what few rows read next, one line after the other, and are the slower for being told. */
#define NF_AHEAD(mr) ((mr) >= 6 ? 16 : NF_FETCH_FEW ? 96 : 0)
#define NF_FETCH_PANEL(b, mr, step)                                                                                    \
  {                                                                                                                    \
    if (NF_AHEAD (mr) > 0 && (step) * NF_STEP_WORDS % NF_CACHE_LINE == 0)                                              \
      NF_PREFETCH ((b) + NF_AHEAD (mr) * NR);                                                                          \
    if (NF_AHEAD (mr) > 0 && NF_STEP_WORDS > NF_CACHE_LINE)                                                            \
      NF_PREFETCH ((b) + NF_AHEAD (mr) * NR + NF_CACHE_LINE);                                                          \
  }

#define NF_STEPS 4 /* of k in a turn of a tile's loop */
#define NF_TURN_LINES max (NF_STEPS * NF_STEP_WORDS / NF_CACHE_LINE, 1) /* of the panel, in a turn */

#define NF_FEW_LINES 4 /* of the next panel's, where there are few tiles of rows; words of several values are read in less time */

/* What is on its way to the caches while a tile is multiplied: rows of C and what is added to them, one after the other, since a core has few places
 * for lines on their way, which its panel needs, too; and the next panel to the second-level cache, of the lines that a turn reads so many by each of
 * the first tiles: one, or where tiles are few NF_FEW_LINES. */
typedef struct
{
  __global const float *c, *other;
  ulong ldc, ld_other;
  ulong row, each; /* in 2^-32 */
  size_t next_panel;
} NfExpected;

/* Where column n of row m of C is, n even. */
static inline __global float *
nf_place (const NfMatmul *t, int m, int n)
{
  return t->C + (size_t)m * t->ldc + (!NF_LEFT_FLOATS && t->flags & NF_LEFT ? n / 2 : n);
}

/* Of rows m0 .. m0+rows-1, columns n0 on, LINES of the next panel in a turn. */
static inline NfExpected
nf_expect (const NfMatmul *t, int m0, int n0, int rows, int lines)
{
  NfExpected e = { .c = nf_place (t, m0, n0), .ldc = t->ldc };
  e.each = ((ulong)rows << 32) / max (t->K / NF_STEPS, 1) + 1;
  const int at = (m0 - t->first + rows - 1) / MR * lines;
  if (at < NF_TURN_LINES)
    e.next_panel = NF_PANEL (t->K) + at * NF_CACHE_LINE;
  e.other = e.c;
  e.ld_other = e.ldc;
  if (t->flags & NF_RESIDUAL)
    {
      e.other = t->R + (size_t)(m0 % t->rmod) * t->ldr + n0;
      e.ld_other = t->ldr;
    }
  else if (t->flags & (NF_SAVE | NF_GELU_SLOPE))
    {
      e.other = t->P + (size_t)m0 * t->N + n0;
      e.ld_other = t->N;
    }
  return e;
}

/* In a turn that has come to b in its panel. */
static inline void
nf_fetch_expected (NfExpected *e, __global const nf_element *b, int lines)
{
  const ulong row = e->row >> 32;
  e->row += e->each;
  _Pragma ("unroll") for (int line = 0; line < min (lines, NF_TURN_LINES); line++) NF_PREFETCH_FAR (b + e->next_panel + line * NF_CACHE_LINE);
  if (e->row >> 32 == row)
    return;
  __global const float *c = e->c + row * e->ldc, *other = e->other + row * e->ld_other;
  NF_PREFETCH_TO_WRITE (c);
  NF_PREFETCH (other);
  if (NR > NF_CACHE_LINE)
    {
      NF_PREFETCH_TO_WRITE (c + NF_CACHE_LINE);
      NF_PREFETCH (other + NF_CACHE_LINE);
    }
}

/* What rows of `wide` panels end with, at once, where nothing is fetched turn by turn: they would wait for it, one panel after the other. */
static inline void
nf_fetch_end (const NfMatmul *t, int m0, int n0, int rows, int wide)
{
  for (int n = n0; n < n0 + wide * NR; n += NF_CACHE_LINE)
    {
      if (t->flags & NF_BIAS)
        NF_PREFETCH (t->bias + n);
      for (int m = m0; m < m0 + rows && t->flags & NF_RESIDUAL; m++)
        NF_PREFETCH (t->R + (size_t)(m < t->rmod ? m : m % t->rmod) * t->ldr + n);
      for (int m = m0; m < m0 + rows; m++)
        NF_PREFETCH_TO_WRITE (nf_place (t, m, n));
    }
}

/* Rows m0 .. m0+rows-1 of C, as tiles leave them. */
static __attribute__ ((noinline)) void
nf_finish_rows (const NfMatmul *t, const floatv *v, int m0, int n0, int rows)
{
  int i = 0;
  if (NF_FINISHES_TWO (t, n0))
    for (; i + 1 < rows; i += 2)
      {
        floatv two[4] = { v[2 * i], v[2 * i + 1], v[2 * i + 2], v[2 * i + 3] };
        const NfTwoRows pair = nf_two_rows (t, m0 + i, n0, t->flags);
        nf_finish_two (t, two, &pair, t->flags);
      }
  for (; i < rows; i++)
    nf_finish_row (t, v[2 * i], v[2 * i + 1], m0 + i, n0);
}

/* Row m of so many panels. */
static __attribute__ ((noinline)) void
nf_finish_panels (const NfMatmul *t, const floatv *v, int m, int n0, int panels)
{
  for (int w = 0; w < panels; w++)
    nf_finish_row (t, v[2 * w], v[2 * w + 1], m, n0 + w * NR);
}

/* Where a tile reads A: rows of A itself, by a pointer for each three, since an address can be so many rows after a pointer without an addition, and
 * additions take the places of multiply-adds. A compiler that knew where these pointers come from would keep one, and add for each row. */
#ifdef __x86_64__
#define NF_HIDE(p) __asm__ volatile ("" : "+r"(p))
#else
#define NF_HIDE(p)
#endif
#define NF_THREES(mr) (((mr) + 2) / 3)
#define NF_AT_ROW(mr, i, k) from[(i) / 3][(i) % 3 * ld + (k)]
#define NF_PASS_ROWS(mr, steps)                                                                                        \
  _Pragma ("unroll") for (int j = 0; j < NF_THREES (mr); j++)                                                          \
  {                                                                                                                    \
    from[j] += steps;                                                                                                  \
    NF_HIDE (from[j]);                                                                                                 \
  }
/* ... or a panel of A. */
#define NF_AT_PANEL(mr, i, k) from[0][(k) * (mr) + (i)]
#define NF_PASS_PANEL(mr, steps) from[0] += (steps) * (mr)

/* One step of k, the next but `ahead`, in panel w. */
#define NF_STEP_DOWN(mr, w, k, ahead, AT)                                                                              \
  {                                                                                                                    \
    __global const nf_element *row = b + (w) * panel;                                                                  \
    const nf_factorv b0 = NF_RIGHT (row, 0, (k) + (ahead)), b1 = NF_RIGHT (row, 1, (k) + (ahead));                     \
    NF_FETCH_PANEL (row + NF_PANEL_ROW ((k) + (ahead)), mr, ahead)                                                     \
    _Pragma ("unroll") for (int i = 0; i < mr; i++)                                                                    \
    {                                                                                                                  \
      const nf_factorv av = (nf_factorv)(AT (mr, i, ahead));                                                           \
      NF_ADD (acc[w][i][0], av, b0);                                                                                   \
      NF_ADD (acc[w][i][1], av, b1);                                                                                   \
    }                                                                                                                  \
  }

/* Rows m0 .. m0+mr-1 of `wide` panels. The accumulators leave through memory, so that what follows the product is one loop and not 2 mr copies. */
#define NF_TILE(name, mr, wide, lines, lda, AT, PASS)                                                                  \
  static inline void name (const NfMatmul *t, __global const nf_element *restrict b, int m0, int n0)                   \
  {                                                                                                                    \
    nf_partv acc[wide][mr][2];                                                                                         \
    floatv out[wide][2 * mr];                                                                                          \
    const int K = t->K, rows = min (mr, t->M - m0);                                                                    \
    const size_t ld = lda, panel = NF_PANEL (K);                                                                       \
    __global const nf_left_element *from[NF_THREES (mr)];                                                              \
    NfExpected expected = nf_expect (t, m0, n0, rows, lines);                                                          \
    if (NF_AHEAD (mr) == 0)                                                                                            \
      nf_fetch_end (t, m0, n0, rows, wide);                                                                            \
    _Pragma ("unroll") for (int j = 0; j < NF_THREES (mr); j++) from[j] = t->A + (m0 + 3 * j) * ld;                    \
    b += NF_SCALES * NR;                                                                                               \
    int k = 0;                                                                                                         \
    do                                                                                                                 \
      {                                                                                                                \
        const int first = k, end = NF_SUMS_END (k, K);                                                                 \
        _Pragma ("unroll") for (int w = 0; w < wide; w++)                                                              \
        _Pragma ("unroll") for (int i = 0; i < mr; i++) acc[w][i][0] = acc[w][i][1] = 0;                               \
        for (; k + NF_STEPS <= end; k += NF_STEPS)                                                                     \
          {                                                                                                            \
            if (NF_AHEAD (mr) > 0)                                                                                     \
              nf_fetch_expected (&expected, b + NF_PANEL_ROW (k), lines);                                              \
            _Pragma ("unroll") for (int ahead = 0; ahead < NF_STEPS; ahead++)                                          \
            _Pragma ("unroll") for (int w = 0; w < wide; w++) NF_STEP_DOWN (mr, w, k, ahead, AT)                       \
            PASS (mr, NF_STEPS);                                                                                       \
          }                                                                                                            \
        for (; k < end; k++)                                                                                           \
          {                                                                                                            \
            _Pragma ("unroll") for (int w = 0; w < wide; w++) NF_STEP_DOWN (mr, w, k, 0, AT)                           \
            PASS (mr, 1);                                                                                              \
          }                                                                                                            \
        _Pragma ("unroll") for (int w = 0; w < wide; w++)                                                              \
        _Pragma ("unroll") for (int i = 0; i < mr; i++)                                                                \
        {                                                                                                              \
          NF_LEAVE (out[w][2 * i], acc[w][i][0], first == 0);                                                          \
          NF_LEAVE (out[w][2 * i + 1], acc[w][i][1], first == 0);                                                      \
        }                                                                                                              \
      }                                                                                                                \
    while (NF_INT8_MADD && k < K);                                                                                     \
    for (int w = 0; w < wide; w++)                                                                                     \
      {                                                                                                                \
        for (int i = 0; NF_SCALES && i < rows; i++)                                                                    \
          {                                                                                                            \
            out[w][2 * i] = NF_SCALED (out[w][2 * i], b + w * panel, 0, t->A + (m0 + i) * ld);                         \
            out[w][2 * i + 1] = NF_SCALED (out[w][2 * i + 1], b + w * panel, 1, t->A + (m0 + i) * ld);                 \
          }                                                                                                            \
        if (mr > 1)                                                                                                    \
          nf_finish_rows (t, out[w], m0, n0 + w * NR, rows);                                                           \
      }                                                                                                                \
    if (mr == 1)                                                                                                       \
      nf_finish_panels (t, out[0], m0, n0, wide);                                                                      \
  }

#define NF_ROW_TILE(mr) NF_TILE (nf_tile_##mr, mr, 1, 1, t->lda, NF_AT_ROW, NF_PASS_ROWS)
#define NF_FEW_TILE(mr) NF_TILE (nf_tile_##mr##_of_few, mr, 1, NF_FEW_LINES, t->lda, NF_AT_ROW, NF_PASS_ROWS)
#define NF_WIDE_TILE(mr, wide) NF_TILE (nf_tile_##mr##_of_##wide, mr, wide, 1, t->lda, NF_AT_ROW, NF_PASS_ROWS)
NF_TILE (nf_tile_panel, MR, 1, 1, K, NF_AT_PANEL, NF_PASS_PANEL)
NF_ROW_TILE (1)
NF_WIDE_TILE (1, 2)
NF_WIDE_TILE (1, 4)
NF_ROW_TILE (2)
NF_WIDE_TILE (2, 2)
NF_ROW_TILE (3)
NF_ROW_TILE (4)
NF_ROW_TILE (6)
#if MR > 6
NF_ROW_TILE (8)
NF_ROW_TILE (12)
NF_FEW_TILE (8)
NF_FEW_TILE (12)
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
  /* the last rows in tiles whose chains do not wait for each other, where there are such */
#if MR > 6
  const int few = NF_FETCH_FEW && NF_TURN_LINES > NF_FEW_LINES && end - m <= 3 * MR;
  for (; m + MR <= end && m + MR + 4 != end; m += MR)
    if (few)
      nf_tile_12_of_few (t, b, m, n0);
    else
      nf_tile_max (t, b, m, n0);
  for (; m + 8 <= end; m += 8)
    if (few)
      nf_tile_8_of_few (t, b, m, n0);
    else
      nf_tile_8 (t, b, m, n0);
  if (m + 6 <= end)
    {
      nf_tile_6 (t, b, m, n0);
      m += 6;
    }
  if (m + 4 <= end)
    {
      nf_tile_4 (t, b, m, n0);
      m += 4;
    }
#else
  for (int left = end - m; left >= MR && left != 7 && left != 8 && left != 11; left -= MR, m += MR)
    nf_tile_max (t, b, m, n0);
  for (; m + 4 <= end; m += 4)
    nf_tile_4 (t, b, m, n0);
#endif
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

/* The one or two rows of a product in `panels` panels: chains of several do not wait for each other. */
static void
nf_few_rows (const NfMatmul *t, __global const nf_element *b, int panels, int n0)
{
  const size_t panel = NF_PANEL (t->K);
  for (; t->M == 1 && panels >= 4; panels -= 4, b += 4 * panel, n0 += 4 * NR)
    nf_tile_1_of_4 (t, b, 0, n0);
  for (; panels >= 2; panels -= 2, b += 2 * panel, n0 += 2 * NR)
    if (t->M == 1)
      nf_tile_1_of_2 (t, b, 0, n0);
    else
      nf_tile_2_of_2 (t, b, 0, n0);
  if (panels > 0)
    nf_rows (t, b, 0, t->M, n0);
}
#endif

/* Global size (panels of N, groups of `tiles` row tiles); fewer than there are panels share these among them, if rows are one or two, or with AMX. With
 * NF_ROUND P is memory for their left rows, ldb words apart. With AMX, and where only B is bfloat16, K counts values; with AMX B may be no panels but rows of
 * floats, ldb apart. C rows are ldc apart, R (residual) rows are m % rmod, ldr apart. */
NF_KERNEL_OF_ONE void
nf_matmul (NF_ITEM __global const nf_left_element *A, ulong A_at, int lda, __global const nf_element *B, ulong B_at, __global const float *bias, ulong bias_at,
           __global const float *R, ulong R_at, int ldr, int rmod, __global float *C, ulong C_at, int ldc,
           __global float *P, ulong P_at, int M, int N, int K, int flags, int tiles, int ldb)
{
  const int panels = (N + NR - 1) / NR, items = get_global_size (0), each = (panels + items - 1) / items;
  const int panel = get_global_id (0) * each;
  if (panel >= panels)
    return;
  NfMatmul t = { .A = A + A_at, .B = B + B_at, .bias = bias + bias_at, .R = R + R_at, .C = C + C_at, .P = P + P_at,
                 .M = M, .N = N, .K = K, .lda = lda, .ldb = ldb, .ldc = ldc, .ldr = ldr, .rmod = rmod,
                 .flags = flags, .first = get_global_id (1) * tiles * MR };
#if NF_INT8_MADD
#if !NF_AMX
  t.K = (K + 1) / 2;
#endif
  if (flags & NF_ROUND)
    {
      t.A = (__global const uint *)t.P + (size_t)get_global_id (0) * M * ldb;
      t.lda = ldb;
      for (int m = 0; m < M; m++)
        nf_round_row ((__global const float *)A + A_at + (size_t)m * lda, K, (__global uint *)t.P + ((size_t)get_global_id (0) * M + m) * ldb);
    }
#endif
  const int m = t.first, end = min (M, m + tiles * MR), count = min (each, panels - panel);
#if NF_AMX
  const bool as_it_is = ldb > 0 && !(flags & NF_ROUND);
  nf_panels (&t, t.B + panel * (as_it_is ? NR : NF_PANEL (K)), m, end, panel * NR, count);
#else
  __global const nf_element *b = t.B + panel * NF_PANEL (t.K);
  if (each > 1)
    nf_few_rows (&t, b, count, panel * NR);
  else
    nf_rows (&t, b, m, end, panel * NR);
#endif
}
