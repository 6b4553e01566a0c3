/* Matrices into panels, the order in which products read them. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A panel holds `width` columns of a matrix, NR on the right of a product and MR (transposed) on its left, row after row:
 *   P[c / width][r][c % width] = X[r, c]
 * Columns past the last one are zero. X is W (rows ld apart), or Wᵀ if transposed: W (N, K) as in a state_dict, (out features, in features), is
 * packed transposed for y = x Wᵀ and as it is for dx = dy W.
 * With bfloat16 a row of a panel holds two rows of X, the first in the lower halves of its words; a row that is missing at the end is zero. */

#define NF_PACK_ROWS 64 /* of a work-item */

#if NF_BF16
#define NF_STEP 2 /* rows of X in a row of a panel */
#define NF_ELEMENT(first, second) nf_pair (first, second)
#define NF_ELEMENTV(first, second) nf_pairv (first, second)
#else
#define NF_STEP 1
#define NF_ELEMENT(first, second) (first)
#define NF_ELEMENTV(first, second) (first)
#endif

/* Global size (rows / NF_PACK_ROWS, panels). P_at counts elements. */
__kernel void
nf_pack (__global const float *W, ulong W_at, int ld, __global nf_element *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int first = get_global_id (0) * NF_PACK_ROWS, count = min (NF_PACK_ROWS, rows - first);
  const int column = get_global_id (1) * width, inside = min (width, columns - column);
  const size_t down = transposed ? 1 : ld, across = transposed ? ld : 1;
  const size_t step = NF_STEP * down;
  __global nf_element *p = P + P_at + ((size_t)get_global_id (1) * ((rows + NF_STEP - 1) / NF_STEP) + first / NF_STEP) * width;
  int r = 0;
  W += W_at + first * down + column * across;
  if (!transposed && inside == width)
    for (; r + NF_STEP <= count; r += NF_STEP, p += width, W += step)
      if (width == NR)
        {
          nf_storev (NF_ELEMENTV (nf_loadv (W), nf_loadv (W + down)), p);
          nf_storev (NF_ELEMENTV (nf_loadv (W + VW), nf_loadv (W + down + VW)), p + VW);
        }
      else
        for (int i = 0; i < MR; i++)
          p[i] = NF_ELEMENT (W[i], W[down + i]);
  for (; r < count; r += NF_STEP, p += width, W += step)
    for (int i = 0; i < width; i++)
      {
        const size_t at = i * across;
        p[i] = i >= inside ? 0 : NF_ELEMENT (W[at], r + 1 < count ? W[at + down] : 0.0f);
      }
}

#if NF_BF16
/* Rows of x (M, K), ldx apart, as words of two values, ldy words apart; an odd row ends with a zero. Global size (M). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_halve (__global const float *x, ulong x_at, int ldx, __global uint *y, int ldy, int K)
{
  const size_t row = get_global_id (0);
  x += x_at + row * ldx;
  y += row * ldy;
  int i = 0;
  for (; i + 2 * VW <= K; i += 2 * VW)
    {
      const floatv a = nf_loadv (x + i), b = nf_loadv (x + i + VW);
      const uintv low = nf_as_uintv (a), high = nf_as_uintv (b);
      NF_CAT (vstore, VW) (NF_CAT (convert_ushort, VW) (NF_TO_BF16 (low)), 0, (__global ushort *)y + i);
      NF_CAT (vstore, VW) (NF_CAT (convert_ushort, VW) (NF_TO_BF16 (high)), 0, (__global ushort *)y + i + VW);
    }
  for (; i < K; i += 2)
    y[i / 2] = nf_pair (x[i], i + 1 < K ? x[i + 1] : 0.0f);
}
#endif
