/* Matrices into panels, the order in which products read them. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A panel holds `width` columns of a matrix, NR on the right of a product and MR (transposed) on its left, row after row:
 *   P[c / width][r][c % width] = X[r, c]
 * Columns past the last one are zero. X is W (rows ld apart), or Wᵀ if transposed: W (N, K) as in a state_dict, (out features, in features), is
 * packed transposed for y = x Wᵀ and as it is for dx = dy W.
 * With bfloat16 a row of a panel holds two rows of X, the first in the lower halves of its words; a row that is missing at the end is zero, and so
 * are the rows of a panel up to a multiple of NF_DEPTH.
 * Integers of eight bits are the values of a column divided by 1/127 of the largest, which is their scale: a first row of floats. Then come words of four
 * values of k, of each column on a GPU and for the matrix unit; otherwise a row's bytes lie side by side, or, for vpmaddwd, those of two rows by pairs. */

#if NF_INT8_WEIGHTS
#define NF_FOUR 4 /* values in a word */
#if NF_INT8_AMX
#define NF_BYTE(r, i, width) (((size_t)(r) / NF_FOUR * (width) + (i)) * NF_FOUR + (r) % NF_FOUR)
#elif NF_INT8_MADD
#define NF_BYTE(r, i, width) ((size_t)(r) / 2 * 2 * (width) + 2 * (i) + (r) % 2)
#else
#define NF_BYTE(r, i, width) ((size_t)(r) * (width) + (i))
#endif

/* Of `rows` values, `step` apart. What is not finite makes the scale so, and with it what a product comes to. */
static inline float
nf_scale (__global const float *x, int rows, size_t step)
{
  float largest = 0.0f;
  for (int r = 0; r < rows; r++)
    {
      const float size = fabs (x[r * step]);
      largest = size > largest || isnan (size) ? size : largest;
    }
  return largest / 127.0f;
}

static inline char
nf_integer (float x, float scale)
{
  return scale > 0.0f ? convert_char_sat_rte (x / scale) : 0;
}
#elif NF_BF16
#define NF_STEP 2 /* rows of X in a row of a panel */
#define NF_ELEMENT(first, second) nf_pair (first, second)
#define NF_ELEMENTV(first, second) nf_pairv (first, second)
#else
#define NF_STEP 1
#define NF_ELEMENT(first, second) (first)
#define NF_ELEMENTV(first, second) (first)
#endif

#if NF_INT8_WEIGHTS

/* Global size: on a GPU (panels width, 1), the former as a multiple of NF_GROUP, a work-item for each column; on a CPU (1, panels). */
#if NF_GPU_KERNELS
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_pack (__global const float *W, ulong W_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int column = get_global_id (0), panel = column / width, elements = (rows + NF_FOUR - 1) / NF_FOUR;
  const size_t down = transposed ? 1 : ld;
  W += W_at + column * (transposed ? (size_t)ld : 1);
  P += P_at + (size_t)panel * (NF_SCALES + elements) * width + column % width;
  if (panel * width >= columns)
    return;
  const int there = column < columns ? rows : 0;
  const float scale = nf_scale (W, there, down);
  P[0] = as_uint (scale);
  for (int e = 0; e < elements; e++)
    {
      uint word = 0;
      for (int i = 0; i < NF_FOUR; i++)
        if (NF_FOUR * e + i < there)
          word |= (uint)(uchar)nf_integer (W[(NF_FOUR * e + i) * down], scale) << 8 * i;
      P[(size_t)(NF_SCALES + e) * width] = word;
    }
}
#else
NF_KERNEL void
nf_pack (NF_ITEM __global const float *W, ulong W_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int panel = get_global_id (1), elements = ((rows + NF_FOUR - 1) / NF_FOUR + NF_DEPTH - 1) / NF_DEPTH * NF_DEPTH;
  const size_t down = transposed ? 1 : ld, across = transposed ? ld : 1;
  P += P_at + (size_t)panel * (NF_SCALES + elements) * width;
  for (int i = 0; i < width; i++)
    {
      const int column = panel * width + i, there = column < columns ? rows : 0;
      __global const float *x = W + W_at + column * across;
      __global char *to = (__global char *)(P + NF_SCALES * width);
      const float scale = nf_scale (x, there, down);
      P[i] = as_uint (scale);
      for (int r = 0; r < NF_FOUR * elements; r++)
        to[NF_BYTE (r, i, width)] = r < there ? nf_integer (x[r * down], scale) : 0;
    }
}

#if NF_INT8_MADD
/* Rows of x (M, K), ldx apart, as products read them on their left, ldy words apart. Global size (M). */
NF_KERNEL_OF_ONE void
nf_make_left (NF_ITEM __global const float *x, ulong x_at, int ldx, __global uint *y, int ldy, int K)
{
  nf_round_row (x + x_at + (size_t)get_global_id (0) * ldx, K, y + (size_t)get_global_id (0) * ldy);
}
#endif
#endif

#elif NF_GPU_KERNELS

/* The same two kernels with a work-item for each element that is written. Global size (panels width, elements of a column), the former as a multiple of
 * NF_GROUP. */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_pack (__global const float *W, ulong W_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int column = get_global_id (0), panel = column / width, r = get_global_id (1) * NF_STEP, elements = get_global_size (1);
  const size_t down = transposed ? 1 : ld, across = transposed ? ld : 1, at = W_at + r * down + column * across;
  if (panel * width >= columns)
    return;
  P[P_at + ((size_t)panel * elements + get_global_id (1)) * width + column % width]
      = column >= columns ? 0 : NF_ELEMENT (W[at], r + 1 < rows ? W[at + down] : 0.0f);
}

#if NF_BF16 && !NF_BF16_WEIGHTS
/* Global size (words of a row, M), the former as a multiple of NF_GROUP. */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_make_left (__global const float *x, ulong x_at, int ldx, __global uint *y, int ldy, int K)
{
  const int i = 2 * get_global_id (0);
  x += x_at + (size_t)get_global_id (1) * ldx + i;
  if (i < K)
    y[(size_t)get_global_id (1) * ldy + i / 2] = nf_pair (x[0], i + 1 < K ? x[1] : 0.0f);
}
#endif

#else

/* Global size (rows / NF_PACK_ROWS, panels). P_at counts elements. */
NF_KERNEL void
nf_pack (NF_ITEM __global const float *W, ulong W_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int first = get_global_id (0) * NF_PACK_ROWS, count = min (NF_PACK_ROWS, rows - first);
  const int length = ((rows + NF_STEP - 1) / NF_STEP + NF_DEPTH - 1) / NF_DEPTH * NF_DEPTH; /* of a panel */
  const int column = get_global_id (1) * width, inside = min (width, columns - column);
  const size_t down = transposed ? 1 : ld, across = transposed ? ld : 1;
  const size_t step = NF_STEP * down;
  __global nf_element *p = P + P_at + ((size_t)get_global_id (1) * length + first / NF_STEP) * width;
  int r = 0;
  W += W_at + first * down + column * across;
  if (!transposed && inside == width)
    for (; r + NF_STEP <= count; r += NF_STEP, p += width, W += step)
      {
        if (width == NR)
          {
            nf_storev (NF_ELEMENTV (nf_loadv (W), nf_loadv (W + down)), p);
            nf_storev (NF_ELEMENTV (nf_loadv (W + VW), nf_loadv (W + down + VW)), p + VW);
          }
        else
          for (int i = 0; i < MR; i++)
            p[i] = NF_ELEMENT (W[i], W[down + i]);
      }
  if (transposed && inside == width && width == NR)
    for (; r + VW <= count; r += VW, p += VW / NF_STEP * NR, W += VW)
      for (int part = 0; part < NR; part += VW)
        {
          floatv x[VW];
          for (int i = 0; i < VW; i++)
            x[i] = nf_loadv (W + (part + i) * across);
          nf_transpose (x);
          for (int i = 0; i < VW; i += NF_STEP)
            nf_storev (NF_ELEMENTV (x[i], x[i + NF_STEP - 1]), p + i / NF_STEP * NR + part);
        }
  for (; r < count; r += NF_STEP, p += width, W += step)
    for (int i = 0; i < width; i++)
      {
        const size_t at = i * across;
        p[i] = i >= inside ? 0 : NF_ELEMENT (W[at], r + 1 < count ? W[at + down] : 0.0f);
      }
  for (int at = (first + r) / NF_STEP; first + count == rows && at < length; at++, p += width)
    for (int i = 0; i < width; i++)
      p[i] = 0;
}

#if NF_AMX || (NF_BF16 && !NF_BF16_WEIGHTS)
/* Rows of x (M, K), ldx apart, as products read them on their left, ldy words apart; zeros up to a whole step. Global size (M). */
NF_KERNEL_OF_ONE void
nf_make_left (NF_ITEM __global const float *x, ulong x_at, int ldx, __global uint *y, int ldy, int K)
{
  const size_t row = get_global_id (0);
  x += x_at + row * ldx;
  y += row * ldy;
  int i = 0;
#if NF_PLANES > 1
  for (; i < K; i += 2 * VW)
    nf_store_left_pair (nf_load_head (x + i, K - i), nf_load_head (x + i + VW, K - i - VW), y, i);
#else
  for (; i + 2 * VW <= K; i += 2 * VW)
    nf_store_left_pair (nf_loadv (x + i), nf_loadv (x + i + VW), y, i);
  for (; i < K; i += 2)
    y[i / 2] = nf_pair (x[i], i + 1 < K ? x[i + 1] : 0.0f);
  for (i = (K + 1) / 2; i % NF_DEPTH; i++)
    y[i] = 0;
#endif
}
#endif

#if NF_BF16 && !NF_BF16_WEIGHTS
/* As nf_pack(), of rows of bfloat16 as products read them on their left, ld words apart. */
NF_KERNEL void
nf_pack_halves (NF_ITEM __global const uint *X, ulong X_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width)
{
  const int first = get_global_id (0) * NF_PACK_ROWS, end = min (rows, first + NF_PACK_ROWS);
  const int length = ((rows + 1) / 2 + NF_DEPTH - 1) / NF_DEPTH * NF_DEPTH; /* of a panel */
  const int column = get_global_id (1) * width, inside = min (width, columns - column);
  __global nf_element *p = P + P_at + ((size_t)get_global_id (1) * length + first / 2) * width;
  for (int r = first; r < end; r += 2, p += width)
    {
      const bool two = r + 1 < end;
      __global const ushort *x = (__global const ushort *)(X + X_at + (size_t)r * ld) + column, *y = x + (two ? 2 * (size_t)ld : 0);
      const uint lower = two ? 0xffffu : 0u;
      int i = 0;
      for (; i + VW <= inside; i += VW)
        nf_storev (nf_load_halves (x + i) | (nf_load_halves (y + i) & lower) << 16, p + i);
      for (; i < width; i++)
        p[i] = i >= inside ? 0 : x[i] | (y[i] & lower) << 16;
    }
  for (int at = (end + 1) / 2; end == rows && at < length; at++, p += width)
    for (int i = 0; i < width; i++)
      p[i] = 0;
}
#endif

#if NF_AMX
/* The left operand of a product Xᵀ · Y for the matrix unit: word j of row c of Y, rows ldy apart, is X[2j, c] and X[2j + 1, c] (in the first plane,
 * if there are more); zeros up to a whole step. HALVES: X is rows of bfloat16, ldx words apart, as products read them. Global size (rows of X / 32,
 * columns / (NF_LEFT_BLOCKS VW)). */
NF_KERNEL_OF_ONE void
nf_pack_left (NF_ITEM __global const float *X, ulong X_at, int ldx, __global uint *Y, int ldy, int rows, int columns, int halves)
{
  const int first = get_global_id (0) * NF_STEP_VALUES, count = min (NF_STEP_VALUES, rows - first);
  const int column = get_global_id (1) * NF_LEFT_BLOCKS * VW, end = min (columns, column + NF_LEFT_BLOCKS * VW);
  X += X_at + (size_t)first * ldx;
  Y += get_global_id (0) * NF_LEFT_DEPTH;
  for (int c = column; c < end; c += VW)
    {
      const int inside = end - c;
      floatv planes[NF_PLANES][16];
      for (int i = 0; i < 16; i++)
        {
#if NF_PLANES == 1
          if (halves)
            {
              __global const ushort *x = (__global const ushort *)(X + (size_t)2 * i * ldx) + c;
              const uintv lower = 2 * i < count ? nf_load_halves (x) : (uintv)(0), upper = 2 * i + 1 < count ? nf_load_halves (x + 2 * ldx) : (uintv)(0);
              planes[0][i] = nf_as_floatv (lower | upper << 16);
              continue;
            }
#endif
          __global const float *x = X + (size_t)2 * i * ldx + c;
          const floatv even = 2 * i < count ? nf_load_head (x, inside) : (floatv)(0.0f);
          const floatv odd = 2 * i + 1 < count ? nf_load_head (x + ldx, inside) : (floatv)(0.0f);
#if NF_PLANES > 1
          uintv lower[NF_PLANES], upper[NF_PLANES];
          nf_split (even, lower);
          nf_split (odd, upper);
          for (int p = 0; p < NF_PLANES; p++)
            planes[p][i] = nf_as_floatv (lower[p] >> 16 | upper[p]);
#else
          planes[0][i] = nf_as_floatv (nf_pairv (even, odd));
#endif
        }
      for (int p = 0; p < NF_PLANES; p++)
        {
          nf_transpose (planes[p]);
          for (int i = 0; i < min (VW, inside); i++)
            nf_storev (nf_as_uintv (planes[p][i]), Y + (size_t)(c + i) * ldy + 16 * p);
        }
    }
}
#endif

#endif
