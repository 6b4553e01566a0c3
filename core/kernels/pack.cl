/* Weights into panels. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * W is (N, K), row-major, as in a state_dict (out features, in features).
 *   transposed 1: panels over N for y = x Wᵀ:   P[n / NR][k][n % NR] = W[n][k]
 *   transposed 0: panels over K for dx = dy W:  P[k / NR][n][k % NR] = W[n][k]
 * Columns past the last one are zero. Global size (rows of a panel, panels). */
__kernel void
nf_pack (__global const float *W, ulong W_at, __global float *P, ulong P_at, int N, int K, int transposed)
{
  const int row = get_global_id (0), panel = get_global_id (1);
  const int columns = transposed ? N : K, rows = transposed ? K : N;
  __global float *p = P + P_at + ((size_t)panel * rows + row) * NR;
  for (int i = 0; i < NR; i++)
    {
      const int column = panel * NR + i;
      const size_t at = transposed ? (size_t)column * K + row : (size_t)row * K + column;
      p[i] = column < columns ? W[W_at + at] : 0.0f;
    }
}
