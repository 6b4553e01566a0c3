/* Matrix products on a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What nf_matmul of matmul_cpu.cl does with a panel where the CPU has AMX: tiles of MR = 32 rows × NR = 32 columns of C. A step is 32 values of k: of A
 * NF_LEFT_DEPTH words of a row, NF_PLANES planes of pairs of bfloat16; of B 16 rows of NR such pairs for each plane, or floats to become these.
 *
 *   - A part of a panel, NF_PART steps of k, is multiplied with all rows before the next: it stays in the first-level cache, and C waits in `kept`.
 *     Chains of sums go on where they stopped, so parts change no result.
 *   - Where B is floats, the next part is split into planes (NfSplit) while the matrix unit is busy with this one. Packed or rows of a matrix as it is,
 *     floats cost the same.
 *   - What follows a product (nf_finish_row) is vector arithmetic and writing. It is done for one tile while the matrix unit is busy with the next.
 *   - The next panel, which the same thread will most likely read, comes to the second-level cache meanwhile. A single tile of rows leaves no time
 *     for it; with two planes there is some for what it reads itself NF_STEPS_AHEAD steps later.
 *
 * nf_rows does so with any rows of one panel. Where B is bfloat16 nf_whole_tiles, at the end, does it faster with rows that make whole tiles and several
 * panels. An element's sum is the same. */

#define NF_PART (NF_RIGHT_PLANES == 3 ? 4 : 16) /* 24 or 32 KiB */
#define NF_TOGETHER 2 /* panels of nf_whole_tiles that meet a part of A */
#define NF_STEPS_AHEAD (NF_PLANES == 2 ? 6 : 0)
#define NF_LINES (NF_DEPTH * NR / 16) /* cache lines of a step */
#define NF_PLANE (16 * NR) /* words */

/* Rows of B, floats, on their way into planes of words of two consecutive k. */
typedef struct
{
  __global const float *from; /* row `row` */
  size_t ld, ahead;           /* rows are ld apart; what will be read later lies `ahead` further on */
  int row, end;
  uint *to;
} NfSplit;

/* The upper halves of words, those of x below those of y. */
static inline uintv
nf_upper_pair (floatv x, floatv y)
{
  return nf_as_uintv (x) >> 16 | (nf_as_uintv (y) & 0xffff0000u);
}

static inline void
nf_split_pair (floatv x, floatv y, uint *to)
{
#if NF_RIGHT_PLANES == 3
  /* as nf_split(), but the second plane is cut off, not rounded, which takes less; an infinity leaves NaN, which nf_mend() sees */
  const uintv upper = (uintv)(0xffff0000u), x0 = (nf_as_uintv (x) + 0x8000u) & upper, y0 = (nf_as_uintv (y) + 0x8000u) & upper;
  const floatv xr = x - nf_as_floatv (x0), yr = y - nf_as_floatv (y0);
  const floatv xl = xr - nf_as_floatv (nf_as_uintv (xr) & upper), yl = yr - nf_as_floatv (nf_as_uintv (yr) & upper);
  nf_storev (x0 >> 16 | y0, to);
  nf_storev (nf_upper_pair (xr, yr), to + NF_PLANE);
  nf_storev (nf_upper_pair (xl, yl), to + 2 * NF_PLANE);
#else
  nf_storev (nf_pairv (x, y), to);
#endif
}

/* So many pairs of rows, if there are so many; rows from `rows` on are zero. */
static inline void
nf_split_rows (NfSplit *s, int pairs, int rows)
{
  for (; pairs > 0 && s->row < s->end; pairs--, s->row += 2, s->from += 2 * s->ld)
    {
      __global const float *x = s->from, *y = x + s->ld;
      for (int v = 0; v < NR; v += VW)
        if (s->row + 1 < rows)
          {
            NF_PREFETCH_FAR (x + s->ahead + v);
            NF_PREFETCH_FAR (y + s->ahead + v);
            nf_split_pair (nf_loadv (x + v), nf_loadv (y + v), s->to + v);
          }
        else
          nf_split_pair (s->row < rows ? nf_loadv (x + v) : (floatv)(0.0f), (floatv)(0.0f), s->to + v);
      s->to += NR;
      if (s->row % NF_STEP_VALUES == NF_STEP_VALUES - 2)
        s->to += (NF_RIGHT_PLANES - 1) * NF_PLANE;
    }
}

#if NF_PLANES > 1
/* A chain of bfloat16's products is no number where float32's is infinite, or an operand is, or it has gone through the largest float; such elements of
 * C are found again, by fma(). */
static __attribute__ ((noinline)) floatv
nf_mend (const NfMatmul *t, __global const nf_element *b, size_t ldb, floatv v, int m)
{
  __global const ushort *a = (__global const ushort *)(t->A + (size_t)m * t->lda);
  floatv sum = 0.0f;
  for (int k = 0; k < t->K; k++)
    {
      const int at = k / 32 * (32 * NF_PLANES) + k % 32;
      float value = as_float (a[at] << 16) + as_float (a[at + 32] << 16);
#if NF_PLANES == 3
      value += as_float (a[at + 64] << 16);
      const floatv right = nf_loadv (b + k * ldb);
#else
      const uintv words = nf_loadv (b + (t->ldb ? k : k / 2) * ldb);
      const floatv right = nf_as_floatv (t->ldb ? words : k % 2 ? words & 0xffff0000u : words << 16);
#endif
      sum = fma ((floatv)(value), right, sum);
    }
  return select (v, sum, (nf_as_uintv (v) & 0x7f800000u) == 0x7f800000u);
}
#endif

/* A row of a tile, at `from`: row m of C and columns n on. */
static inline __attribute__ ((always_inline)) void
nf_finish_tile_row (const NfMatmul *t, const float *from, int m, int n, __global const nf_element *b, size_t ldb)
{
  floatv v0 = nf_loadv (from), v1 = nf_loadv (from + VW);
#if NF_PLANES > 1
  if (nf_any_infinite (v0, v1))
    {
      v0 = nf_mend (t, b, ldb, v0, m);
      v1 = nf_mend (t, b + VW, ldb, v1, m);
    }
#endif
  nf_finish_row (t, v0, v1, m, n);
}

#if NF_PLANES < 3
/* Rows m and m + 1 of C. */
static inline __attribute__ ((always_inline)) void
nf_finish_tile_rows (const NfMatmul *t, const float *from, int m, int n, __global const nf_element *b, size_t ldb)
{
  floatv v[4];
  bool two = NF_FINISHES_TWO (t, n);
#pragma unroll
  for (int i = 0; i < 4; i++)
    v[i] = nf_loadv (from + i * VW);
#if NF_PLANES == 2
  two = two && !nf_any_infinite (v[0], v[1]) && !nf_any_infinite (v[2], v[3]);
#endif
  if (two)
    {
      const NfTwoRows rows = nf_two_rows (t, m, n, t->flags);
      nf_finish_two (t, v, &rows, t->flags);
    }
  else
    for (int i = 0; i < 2; i++)
      nf_finish_tile_row (t, from + i * NR, m + i, n, b, ldb);
}
#endif

/* Rows `finished` to `until` of the tile before; of three planes in portions too small for pairs. */
#if NF_PLANES < 3
#define NF_FINISH_PAIRS(until)                                                                                         \
  for (; finished + 1 < (until); finished += 2)                                                                        \
  nf_finish_tile_rows (t, done + finished * NR, m - MR + finished, n0, panel, ldb)
#else
#define NF_FINISH_PAIRS(until) (void)0
#endif
#define NF_FINISH(until)                                                                                               \
  do                                                                                                                   \
    {                                                                                                                  \
      NF_FINISH_PAIRS (until);                                                                                         \
      for (; finished < (until); finished++)                                                                           \
        nf_finish_tile_row (t, done + finished * NR, m - MR + finished, n0, panel, ldb);                                    \
    }                                                                                                                  \
  while (0)

static void
nf_rows (const NfMatmul *t, __global const nf_element *panel, int m0, int end, int n0)
{
  const bool splits = NF_RIGHT_PLANES > 1 || t->ldb > 0;
  uint planes[2][NF_PART * NF_RIGHT_PLANES * NF_PLANE] __attribute__ ((aligned (64)));
  float kept[NF_MOST_TILES][MR * NR] __attribute__ ((aligned (64)));
  const int count = (end - m0 + MR - 1) / MR, steps = (t->K + NF_STEP_VALUES - 1) / NF_STEP_VALUES, tail = end - m0 - (count - 1) * MR;
  const int parts = count > 1 ? (steps + NF_PART - 1) / NF_PART : splits ? steps : 1;
  const int steps_ahead = count > 1 ? steps : NF_STEPS_AHEAD, ahead_lines = splits || steps_ahead == 0 ? 0 : (NF_LINES + count - 1) / count;
  const ulong lda = 4 * (ulong)t->lda;
  const size_t ldb = t->ldb ? t->ldb : NR;
  const int rows_of_b = t->ldb ? t->K : steps * NF_STEP_VALUES;
  __global const nf_element *ahead = panel + (size_t)steps_ahead * NF_DEPTH * NR;
  NfSplit split = { .from = (__global const float *)panel, .ld = ldb, .to = planes[0] };
  int configured = 0;
  split.ahead = count == 1 ? 2 * NF_STEP_VALUES * ldb : t->ldb ? NR : (size_t)steps * NF_DEPTH * NR;
  if (splits)
    {
      split.end = steps / parts * NF_STEP_VALUES;
      nf_split_rows (&split, split.end / 2, rows_of_b);
    }
  for (int part = 0, first = 0; part < parts; part++)
    {
      const int last = steps * (part + 1) / parts, after = part + 1 < parts ? steps * (part + 2) / parts : last;
      const bool ends = part == parts - 1;
      const int turns_of_part = count * (last - first), pairs = ((after - last) * (NF_STEP_VALUES / 2) + turns_of_part - 1) / turns_of_part;
      split.to = planes[(part + 1) % 2];
      split.end = splits ? after * NF_STEP_VALUES : 0;
      /* in the last part one more turn finishes the last tile */
      for (int i = 0; i < count + ends; i++)
        {
          const bool multiply = i < count;
          const int m = m0 + i * MR, rows = i == count - 1 ? tail : MR, turns = multiply ? last - first : 1;
          const bool lower = rows > NF_TILE_ROWS;
          float *c = kept[parts > 1 ? i : i % 2];
          const float *done = kept[parts > 1 ? max (i - 1, 0) : (i + 1) % 2];
          __global const uint *a0 = t->A + (size_t)m * t->lda + first * NF_LEFT_DEPTH, *a1 = a0 + NF_TILE_ROWS * (size_t)t->lda;
          ulong b = splits ? (ulong)planes[part % 2] : (ulong)(panel + (size_t)first * NF_DEPTH * NR);
          const int last_row = i == count ? tail : MR, each = (MR + turns - 1) / turns;
          int finished = ends && i > 0 ? 0 : last_row;
          if (multiply && configured != rows)
            {
              nf_amx_configure (min (rows, NF_TILE_ROWS), rows - NF_TILE_ROWS);
              configured = rows;
            }
          if (multiply && part == 0)
            nf_amx_zero ();
          else if (multiply && count > 1)
            nf_amx_load (c, lower);
          for (int k = 0; k < turns; k++, a0 += NF_LEFT_DEPTH, a1 += NF_LEFT_DEPTH, b += 4 * NF_RIGHT_PLANES * NF_PLANE)
            {
              const int first_row = finished;
              if (multiply)
                {
                  for (int line = 0; line < ahead_lines; line++, ahead += 16)
                    NF_PREFETCH_FAR (ahead);
#if NF_PLANES == 3
                  for (int product = 0, split_pairs = 0; product < 6; product++)
                    {
                      /* few rows leave most of the time to splitting, which small portions would slow down */
                      const int until_pair = lower ? pairs * (product + 1) / 6 : (product + 1) / 3 * pairs / 2;
                      nf_amx_multiply_planes (a0, a1, lda, b, product, lower);
                      nf_split_rows (&split, until_pair - split_pairs, rows_of_b);
                      split_pairs = until_pair;
                      NF_FINISH (min (last_row, first_row + each * (product + 1) / 6));
                    }
#elif NF_PLANES == 2
                  nf_amx_multiply_sums (a0, a1, lda, b, lower);
                  nf_split_rows (&split, pairs, rows_of_b);
#else
                  if (lower)
                    nf_amx_multiply (a0, a1, lda, b);
                  else
                    nf_amx_multiply_upper (a0, lda, b);
                  nf_split_rows (&split, pairs, rows_of_b);
#endif
                }
              NF_FINISH (min (first_row + each, last_row));
            }
          if (multiply && (ends || count > 1))
            nf_amx_store (c, lower);
        }
      first = last;
    }
  nf_amx_release ();
}

#if NF_PLANES < 3
/* Two rows of a tile, at `from`, that wait to be finished, and how many pairs there are, while the next tile is multiplied. */
typedef struct
{
  const float *from;
  int pairs;
  NfTwoRows rows;
  __global const nf_element *panel;
} NfWaiting;

/* Finishes them, of which the compiler knows the KIND. */
static inline __attribute__ ((always_inline)) void
nf_finish_waiting (const NfMatmul *t, NfWaiting *w, int kind)
{
  NfTwoRows *rows = &w->rows;
  floatv v[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    v[i] = nf_loadv (w->from + i * VW);
#if NF_PLANES == 2
  if (nf_any_infinite (v[0], v[1]) || nf_any_infinite (v[2], v[3]))
    for (int i = 0; i < 2; i++)
      nf_finish_tile_row (t, w->from + i * NR, rows->m + i, rows->n, w->panel, NR);
  else
#endif
    nf_finish_two (t, v, rows, kind);
  w->from += 2 * NR;
  w->pairs--;
  rows->m += 2;
  rows->c += 2 * (size_t)t->ldc;
  if (kind & (NF_SAVE | NF_GELU_SLOPE))
    rows->p += 2 * NF_SAVED_STEP (t, kind);
  if (kind & NF_RESIDUAL)
    rows->r += 2 * rows->r_step;
}

/* COUNT whole tiles from row m0 on of PANELS panels from column n0 on. The last rows, too, are finished while the next panel's first tile is multiplied.
 * A part of A meets NF_TOGETHER panels before the next part does. */
static inline __attribute__ ((always_inline)) void
nf_whole_tiles (const NfMatmul *t, __global const nf_element *b0, int m0, int count, int n0, int panels, int kind)
{
  float kept[NF_TOGETHER * NF_MOST_TILES][MR * NR] __attribute__ ((aligned (64)));
  const int steps = (t->K + NF_STEP_VALUES - 1) / NF_STEP_VALUES, parts = (steps + NF_PART - 1) / NF_PART;
  const int ahead_lines = (NF_LINES + count - 1) / count;
  const size_t size = NF_PANEL (t->K);
  const ulong lda = 4 * (ulong)t->lda;
  NfWaiting waiting = { 0 };
  nf_amx_configure (NF_TILE_ROWS, NF_TILE_ROWS);
  for (int i = 0, together; i < panels; i += together, b0 += together * size)
    {
      together = parts > 1 ? min (NF_TOGETHER, panels - i) : 1;
      for (int part = 0, first = 0, last; part < parts; part++, first = last)
        {
          last = steps * (part + 1) / parts;
          const int turns = last - first, each = (MR / 2 + turns - 1) / turns;
          for (int j = 0; j < together; j++)
            {
              __global const nf_element *panel = b0 + j * size, *from = panel + (size_t)first * NF_DEPTH * NR;
              __global const nf_element *ahead = j + 1 < together    ? from + size
                                                 : part + 1 < parts ? b0 + (size_t)last * NF_DEPTH * NR
                                                                    : panel + size;
              __global const uint *a = t->A + (size_t)m0 * t->lda + first * NF_LEFT_DEPTH;
              for (int tile = 0; tile < count; tile++, a += MR * (size_t)t->lda)
                {
                  float *c = kept[parts > 1 ? j * count + tile : 0];
                  __global const uint *upper = a, *lower = a + NF_TILE_ROWS * (size_t)t->lda;
                  ulong b = (ulong)from;
                  if (part == 0)
                    nf_amx_zero ();
                  else
                    nf_amx_load (c, true);
                  for (int k = 0; k < turns; k++, upper += NF_LEFT_DEPTH, lower += NF_LEFT_DEPTH, b += 4 * NF_PLANE)
                    {
                      for (int line = 0; line < ahead_lines; line++, ahead += 16)
                        NF_PREFETCH_FAR (ahead);
#if NF_PLANES == 2
                      nf_amx_multiply_sums (upper, lower, lda, b, true);
#else
                      nf_amx_multiply (upper, lower, lda, b);
#endif
                      for (int pair = 0; pair < each && waiting.pairs > 0; pair++)
                        nf_finish_waiting (t, &waiting, kind);
                    }
                  nf_amx_store (c, true);
                  if (part == parts - 1)
                    waiting = (NfWaiting){ .from = c,
                                           .pairs = MR / 2,
                                           .rows = nf_two_rows (t, m0 + tile * MR, n0 + (i + j) * NR, kind),
                                           .panel = panel };
                }
            }
        }
    }
  while (waiting.pairs > 0)
    nf_finish_waiting (t, &waiting, kind);
  nf_amx_release ();
}

#define NF_WHOLE(name, kind)                                                                                           \
  static __attribute__ ((noinline)) void name (const NfMatmul *t, __global const nf_element *b, int m0, int count,     \
                                               int n0, int panels)                                                     \
  {                                                                                                                    \
    nf_whole_tiles (t, b, m0, count, n0, panels, kind);                                                                \
  }
NF_WHOLE (nf_whole_plain, 0)
NF_WHOLE (nf_whole_residual, NF_RESIDUAL)
NF_WHOLE (nf_whole_left, NF_LEFT)
NF_WHOLE (nf_whole_hidden, NF_GELU | NF_LEFT)
#if NF_LIST != 1 /* training alone has these */
NF_WHOLE (nf_whole_saved, NF_SAVE | NF_GELU | NF_LEFT)
NF_WHOLE (nf_whole_slope, NF_GELU_SLOPE | NF_LEFT)
#endif

/* Multiplies so many whole tiles of whole panels, or does nothing and returns false: they may be too few, and not all that may follow a product has a
 * loop of its own. */
static bool
nf_try_whole (const NfMatmul *t, __global const nf_element *b, int m0, int count, int n0, int panels)
{
  if (panels <= 0 || count < 2)
    return false;
  NfMatmul product = *t;
  switch (nf_know_kind (&product))
    {
    case 0:
      nf_whole_plain (&product, b, m0, count, n0, panels);
      return true;
    case NF_RESIDUAL:
      nf_whole_residual (&product, b, m0, count, n0, panels);
      return true;
    case NF_LEFT:
      nf_whole_left (&product, b, m0, count, n0, panels);
      return true;
    case NF_GELU | NF_LEFT:
      nf_whole_hidden (&product, b, m0, count, n0, panels);
      return true;
#if NF_LIST != 1
    case NF_SAVE | NF_GELU | NF_LEFT:
      nf_whole_saved (&product, b, m0, count, n0, panels);
      return true;
    case NF_GELU_SLOPE | NF_LEFT:
      nf_whole_slope (&product, b, m0, count, n0, panels);
      return true;
#endif
    }
  return false;
}
#endif

/* PANELS panels, of rows m0 .. end-1. */
static void
nf_panels (const NfMatmul *t, __global const nf_element *b, int m0, int end, int n0, int panels)
{
  const size_t panel = t->ldb ? NR : NF_PANEL (t->K);
  int done = m0, whole = 0;
#if NF_PLANES < 3
  const int count = (end - m0) / MR, columns = min (panels, (t->N - n0) / NR);
  if (t->ldb == 0 && nf_try_whole (t, b, m0, count, n0, columns))
    {
      done += count * MR;
      whole = columns;
    }
#endif
  for (int i = 0; i < panels; i++)
    if (i >= whole || done < end)
      nf_rows (t, b + i * panel, i < whole ? done : m0, end, n0 + i * NR);
}
