/* Products of floats by integers of 8 bits on a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What nf_matmul of matmul_cpu.cl does with a panel: tiles of MR = 16 rows × NR = 32 columns of C. A is integers of 16 bits (NF_ROUND_ROW), whose upper
 * and lower bytes are two operands of the matrix unit, with sums of their own; B is bytes as they are. A step is 64 values of k.
 *
 *   - A part, NF_PART steps, is as many products as the other instructions add up exactly before sums become floats: so the same bits come out.
 *   - A part of a panel stays in the first-level cache while all rows are multiplied with it; floats wait in `kept` for the next one.
 *   - What a tile's sums become, and what follows a product, is vector arithmetic: it is done while the matrix unit is busy with the next tile.
 *   - One or two rows wait for B to be read, and vpdpbusd takes them by words of four values. */

#define NF_PART 8
#define NF_TOGETHER 2 /* panels that meet a part of A */
#define NF_STEP_PANEL (NF_DEPTH * NR) /* words of a step in a panel */
#define NF_LINES (NF_STEP_PANEL / 16)
#define NF_STEPS_AHEAD 8 /* where rows are too few to leave time for the next panel */
#define NF_HALF (NF_TILE_ROWS * NR) /* sums of upper bytes; those of lower ones follow */

/* Rows of a tile that wait for what follows, while the next tile is multiplied. */
typedef struct
{
  const uint *sums; /* of row 0 */
  float *kept;      /* likewise */
  int row, rows, m, n;
  bool first, last; /* part */
  __global const nf_element *scales;
  __global const uint *row_scale;
  NfTwoRows two; /* the next two, in loops that know what follows */
} NfWaiting;

/* What sums of upper and lower bytes are together. Their size is below 2^31, but the former's alone may not be. */
static inline __attribute__ ((always_inline)) floatv
nf_join_bytes (uintv upper, uintv lower)
{
  return NF_CAT (convert_float, VW) (nf_as_intv ((upper << 8) + lower));
}

/* The two vectors of the next row: what has been added up, and whole with the last part. */
static inline __attribute__ ((always_inline)) void
nf_take_row (const NfMatmul *t, NfWaiting *w, floatv v[2])
{
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      float *kept = w->kept + w->row * NR + i * VW;
      const uint *sums = w->sums + w->row * NR + i * VW;
      v[i] = nf_join_bytes (nf_loadv (sums), nf_loadv (sums + NF_HALF));
      if (!w->first)
        v[i] += nf_loadv (kept);
      if (w->last)
        v[i] *= nf_as_floatv (nf_loadv (w->scales + i * VW)) * as_float (*w->row_scale);
      else
        nf_storev (v[i], kept);
    }
  w->row_scale += t->lda;
  w->row++;
}

/* One row or two, of which the compiler knows the KIND unless that is -1. */
static inline __attribute__ ((always_inline)) void
nf_finish_bytes (const NfMatmul *t, NfWaiting *w, int kind)
{
  floatv v[4];
  const int m = w->m + w->row;
  if (kind < 0 && (w->row + 1 == w->rows || !NF_FINISHES_TWO (t, w->n)))
    {
      nf_take_row (t, w, v);
      if (w->last)
        nf_finish_row (t, v[0], v[1], m, w->n);
      return;
    }
  nf_take_row (t, w, v);
  nf_take_row (t, w, v + 2);
  if (!w->last)
    return;
  if (kind < 0)
    {
      const NfTwoRows two = nf_two_rows (t, m, w->n, t->flags);
      nf_finish_two (t, v, &two, t->flags);
      return;
    }
  nf_finish_two (t, v, &w->two, kind);
  w->two.m += 2;
  w->two.c += 2 * (size_t)t->ldc;
  if (kind & NF_RESIDUAL)
    w->two.r += 2 * w->two.r_step;
}

/* Rows m0 .. end-1 of PANELS panels from column n0 on. A part of A meets NF_TOGETHER panels before the next part does. */
static inline __attribute__ ((always_inline)) void
nf_byte_tiles (const NfMatmul *t, __global const nf_element *b0, int m0, int end, int n0, int panels, int kind)
{
  uint sums[2][2 * NF_HALF] __attribute__ ((aligned (64)));
  float kept[NF_TOGETHER * NF_MOST_TILES][NF_HALF] __attribute__ ((aligned (64)));
  const int steps = NF_BYTE_STEPS (t->K), parts = (steps + NF_PART - 1) / NF_PART, count = (end - m0 + MR - 1) / MR;
  const int ahead_lines = (NF_LINES + count - 1) / count;
  const size_t size = NF_PANEL (t->K);
  const ulong lda = 4 * (ulong)t->lda;
  int configured = 0, slot = 0;
  NfWaiting waiting = { 0 };
  for (int i = 0, together; i < panels; i += together, b0 += together * size)
    {
      together = parts > 1 ? min (NF_TOGETHER, panels - i) : 1;
      for (int part = 0, first = 0, last; part < parts; part++, first = last)
        {
          last = min (first + NF_PART, steps);
          const int turns = last - first, each = (MR + turns - 1) / turns;
          for (int j = 0; j < together; j++)
            {
              __global const nf_element *panel = b0 + j * size, *from = panel + NR + first * NF_STEP_PANEL;
              __global const nf_element *ahead = count == 1          ? from + NF_STEPS_AHEAD * NF_STEP_PANEL
                                                 : j + 1 < together ? from + size
                                                 : part + 1 < parts ? b0 + NR + last * NF_STEP_PANEL
                                                                    : panel + size;
              __global const uint *a = t->A + (size_t)m0 * t->lda + first * NF_STEP_LEFT;
              for (int tile = 0; tile < count; tile++, a += MR * (size_t)t->lda, slot = !slot)
                {
                  const int m = m0 + tile * MR, rows = kind < 0 ? min (MR, end - m) : MR;
                  __global const uint *left = a;
                  ulong b = (ulong)from;
                  if (configured != rows)
                    {
                      nf_amx_configure (rows, rows);
                      configured = rows;
                    }
                  nf_amx_zero ();
                  for (int k = 0; k < turns; k++, left += NF_STEP_LEFT, b += 4 * NF_STEP_PANEL)
                    {
                      for (int line = 0; line < ahead_lines; line++, ahead += 16)
                        NF_PREFETCH_FAR (ahead);
                      nf_amx_multiply_bytes (left, lda, b);
                      for (int until = waiting.row + each; waiting.row < min (until, waiting.rows);)
                        nf_finish_bytes (t, &waiting, kind);
                    }
                  nf_amx_store ((float *)sums[slot], true);
                  waiting = (NfWaiting){ .sums = sums[slot],
                                         .kept = kept[j * count + tile],
                                         .rows = rows,
                                         .m = m,
                                         .n = n0 + (i + j) * NR,
                                         .first = part == 0,
                                         .last = part == parts - 1,
                                         .scales = panel,
                                         .row_scale = t->A + (size_t)m * t->lda + steps * NF_STEP_LEFT };
                  if (kind >= 0 && waiting.last)
                    waiting.two = nf_two_rows (t, m, waiting.n, kind);
                }
            }
        }
    }
  while (waiting.row < waiting.rows)
    nf_finish_bytes (t, &waiting, kind);
  nf_amx_release ();
}

#define NF_BYTE_TILES(name, kind)                                                                                      \
  static __attribute__ ((noinline)) void name (const NfMatmul *t, __global const nf_element *b, int m0, int end,       \
                                               int n0, int panels)                                                     \
  {                                                                                                                    \
    nf_byte_tiles (t, b, m0, end, n0, panels, kind);                                                                   \
  }
NF_BYTE_TILES (nf_byte_tiles_any, -1)
NF_BYTE_TILES (nf_byte_tiles_plain, 0)
NF_BYTE_TILES (nf_byte_tiles_residual, NF_RESIDUAL)
NF_BYTE_TILES (nf_byte_tiles_hidden, NF_GELU)

/* One or two rows of WIDE panels. The instruction takes bytes on the left without their signs: upper ones 128 too large, which the sums of B alone then
 * take off again. */
#define NF_ADD_BYTES(sum, a, b) __asm__ ("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#define NF_FETCH_WORDS (96 * NR) /* what is read so much later is fetched */

#define NF_FEW_TILE(name, ROWS, WIDE)                                                                                  \
  static inline void name (const NfMatmul *t, __global const nf_element *b, int n0)                                    \
  {                                                                                                                    \
    const int steps = NF_BYTE_STEPS (t->K);                                                                            \
    const size_t size = NF_PANEL (t->K);                                                                               \
    floatv out[WIDE][2 * ROWS];                                                                                        \
    for (int first = 0, last; first < steps; first = last)                                                             \
      {                                                                                                                \
        last = min (first + NF_PART, steps);                                                                           \
        uintv upper[WIDE][2 * ROWS], lower[WIDE][2 * ROWS], alone[WIDE][2];                                            \
        _Pragma ("unroll") for (int w = 0; w < WIDE; w++)                                                              \
        {                                                                                                              \
          alone[w][0] = alone[w][1] = 0;                                                                               \
          _Pragma ("unroll") for (int i = 0; i < 2 * ROWS; i++) upper[w][i] = lower[w][i] = 0;                         \
        }                                                                                                              \
        for (int step = first; step < last; step++)                                                                    \
          for (int word = 0; word < NF_STEP_BYTES / 4; word++)                                                         \
            {                                                                                                          \
              __global const uint *a = t->A + step * NF_STEP_LEFT + word;                                              \
              __global const nf_element *p = b + NR + step * NF_STEP_PANEL + word * NR;                                \
              uintv a_upper[ROWS], a_lower[ROWS];                                                                      \
              _Pragma ("unroll") for (int m = 0; m < ROWS; m++)                                                        \
              {                                                                                                        \
                a_upper[m] = (uintv)(a[m * (size_t)t->lda]) ^ 0x80808080u;                                             \
                a_lower[m] = (uintv)(a[m * (size_t)t->lda + NF_STEP_BYTES / 4]);                                       \
              }                                                                                                        \
              _Pragma ("unroll") for (int w = 0; w < WIDE; w++)                                                        \
              _Pragma ("unroll") for (int i = 0; i < 2; i++)                                                           \
              {                                                                                                        \
                const uintv factor = nf_loadv (p + w * size + i * VW);                                                 \
                NF_PREFETCH (p + w * size + i * VW + NF_FETCH_WORDS);                                                  \
                NF_ADD_BYTES (alone[w][i], (uintv)(0x01010101u), factor);                                              \
                _Pragma ("unroll") for (int m = 0; m < ROWS; m++)                                                      \
                {                                                                                                      \
                  NF_ADD_BYTES (upper[w][2 * m + i], a_upper[m], factor);                                              \
                  NF_ADD_BYTES (lower[w][2 * m + i], a_lower[m], factor);                                              \
                }                                                                                                      \
              }                                                                                                        \
            }                                                                                                          \
        _Pragma ("unroll") for (int w = 0; w < WIDE; w++)                                                              \
        _Pragma ("unroll") for (int i = 0; i < 2 * ROWS; i++)                                                          \
        {                                                                                                              \
          const floatv v = nf_join_bytes (upper[w][i] - (alone[w][i % 2] << 7), lower[w][i]);                          \
          out[w][i] = first > 0 ? out[w][i] + v : v;                                                                   \
        }                                                                                                              \
      }                                                                                                                \
    _Pragma ("unroll") for (int w = 0; w < WIDE; w++)                                                                  \
    _Pragma ("unroll") for (int m = 0; m < ROWS; m++)                                                                  \
    {                                                                                                                  \
      const float scale = as_float (t->A[m * (size_t)t->lda + steps * NF_STEP_LEFT]);                                  \
      const floatv v0 = out[w][2 * m] * (nf_as_floatv (nf_loadv (b + w * size)) * scale),                              \
                   v1 = out[w][2 * m + 1] * (nf_as_floatv (nf_loadv (b + w * size + VW)) * scale);                     \
      nf_finish_row (t, v0, v1, m, n0 + w * NR);                                                                       \
    }                                                                                                                  \
  }
NF_FEW_TILE (nf_one_row, 1, 1)
NF_FEW_TILE (nf_one_row_of_4, 1, 4)
NF_FEW_TILE (nf_two_rows_of_1, 2, 1)
NF_FEW_TILE (nf_two_rows_of_2, 2, 2)

static void
nf_few_rows (const NfMatmul *t, __global const nf_element *b, int panels, int n0)
{
  const size_t size = NF_PANEL (t->K);
  const bool one = t->M == 1;
  for (const int wide = one ? 4 : 2; panels >= wide; panels -= wide, b += wide * size, n0 += wide * NR)
    if (one)
      nf_one_row_of_4 (t, b, n0);
    else
      nf_two_rows_of_2 (t, b, n0);
  for (; panels > 0; panels--, b += size, n0 += NR)
    if (one)
      nf_one_row (t, b, n0);
    else
      nf_two_rows_of_1 (t, b, n0);
}

/* COUNT tiles of rows of PANELS whole panels, if there is a loop that knows what follows their product; FALSE otherwise. */
static bool
nf_try_whole (const NfMatmul *t, __global const nf_element *b, int m0, int count, int n0, int panels)
{
  if (panels <= 0 || count < 1)
    return false;
  NfMatmul product = *t;
  switch (nf_know_kind (&product))
    {
    case 0:
      nf_byte_tiles_plain (&product, b, m0, m0 + count * MR, n0, panels);
      return true;
    case NF_RESIDUAL:
      nf_byte_tiles_residual (&product, b, m0, m0 + count * MR, n0, panels);
      return true;
    case NF_GELU:
      nf_byte_tiles_hidden (&product, b, m0, m0 + count * MR, n0, panels);
      return true;
    }
  return false;
}

/* PANELS panels, of rows m0 .. end-1. */
static void
nf_panels (const NfMatmul *t, __global const nf_element *b, int m0, int end, int n0, int panels)
{
  if (t->M <= NF_FEW_ROWS && !(t->flags & (NF_SAVE | NF_GELU_SLOPE)))
    {
      nf_few_rows (t, b, panels, n0);
      return;
    }
  const int count = (end - m0) / MR, whole = min (panels, (t->N - n0) / NR), done = m0 + count * MR;
  if (!nf_try_whole (t, b, m0, count, n0, whole))
    {
      nf_byte_tiles_any (t, b, m0, end, n0, panels);
      return;
    }
  if (done < end)
    nf_byte_tiles_any (t, b, done, end, n0, whole);
  if (whole < panels)
    nf_byte_tiles_any (t, b + whole * NF_PANEL (t->K), m0, end, n0 + whole * NR, panels - whole);
}
