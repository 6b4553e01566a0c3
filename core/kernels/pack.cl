/* Matrices into panels, the order in which products read them. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A panel holds `width` columns of a matrix, NR on the right of a product and MR (transposed) on its left, row after row:
 *   P[c / width][r][c % width] = X[r, c]
 * Columns past the last one are zero. X is W (rows ld apart), or Wᵀ if transposed: W (N, K) as in a state_dict, (out features, in features), is
 * packed transposed for y = x Wᵀ and as it is for dx = dy W. */

#define NF_PACK_ROWS 64 /* of a work-item */

/* Global size (rows / NF_PACK_ROWS, panels). */
__kernel void
nf_pack (__global const float *W, ulong W_at, int ld, __global float *P, ulong P_at, int rows, int columns, int width,
         int transposed)
{
  const int first = get_global_id (0) * NF_PACK_ROWS, count = min (NF_PACK_ROWS, rows - first);
  const int column = get_global_id (1) * width, inside = min (width, columns - column);
  __global float *p = P + P_at + ((size_t)get_global_id (1) * rows + first) * width;
  W += W_at + (transposed ? (size_t)column * ld + first : (size_t)first * ld + column);
  if (transposed || inside < width)
    for (int r = 0; r < count; r++, p += width)
      for (int i = 0; i < width; i++)
        p[i] = i >= inside ? 0.0f : transposed ? W[(size_t)i * ld + r] : W[(size_t)r * ld + i];
  else if (width == NR)
    for (int r = 0; r < count; r++, p += NR, W += ld)
      {
        nf_storev (nf_loadv (W), p);
        nf_storev (nf_loadv (W + VW), p + VW);
      }
  else
    for (int r = 0; r < count; r++, p += MR, W += ld)
      for (int i = 0; i < MR; i += 2)
        vstore2 (vload2 (0, W + i), 0, p + i);
}
