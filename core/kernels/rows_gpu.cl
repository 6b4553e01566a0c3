/* Work on whole rows, one work-group a row. SPDX-License-Identifier: LGPL-2.1-or-later */

/* Arrays that a function is given are registers only where it is not called. */
#define NF_INLINED static inline __attribute__ ((always_inline))

/* The sum over a work-group, known to all of it; always added up in the same order. */
static inline float
nf_group_sum (__local float *part, float v)
{
  const int i = get_local_id (0);
  part[i] = v;
  barrier (CLK_LOCAL_MEM_FENCE);
  for (int half_size = NF_GROUP / 2; half_size > 0; half_size /= 2)
    {
      if (i < half_size)
        part[i] += part[i + half_size];
      barrier (CLK_LOCAL_MEM_FENCE);
    }
  const float sum = part[0];
  barrier (CLK_LOCAL_MEM_FENCE);
  return sum;
}

/* Mean (0 if rms) and 1/deviation of a row; eps 1e-5, or 1e-6 of the mean square alone. */
static inline float2
nf_moments (__global const float *x, int d, int rms, __local float *part)
{
  float sum = 0.0f, square = 0.0f, mean = 0.0f;
  if (!rms)
    {
      for (int i = get_local_id (0); i < d; i += NF_GROUP)
        sum += x[i];
      mean = nf_group_sum (part, sum) / d;
    }
  for (int i = get_local_id (0); i < d; i += NF_GROUP)
    square = fma (x[i] - mean, x[i] - mean, square);
  return (float2)(mean, 1.0f / sqrt (nf_group_sum (part, square) / d + (rms ? 1e-6f : 1e-5f)));
}

/* y[r,:] = (x[r,:] - mean) rstd w + b (layer norm, Ba et al. 2016) or x[r,:] rstd (1 + w) (rms, Zhang & Sennrich 2019), then + R[r,:] if `add`.
 * x, R, y (M, d); y may be x, R may be y. If `left` is not 0 y is left rows of a product, rows of so many words. Global size (M NF_GROUP). */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_norm (__global const float *x, ulong x_at, __global const float *w, ulong w_at, ulong b_at, __global const float *R, ulong R_at, int add,
         __global float *y, ulong y_at, int left, int rms, int d)
{
  __local float part[NF_GROUP];
  const size_t row = (size_t)get_group_id (0) * d;
  x += x_at + row;
  y += y_at + (left ? get_group_id (0) * left : row);
  R += R_at + row;
  const float2 moments = nf_moments (x, d, rms, part);
  for (int i = get_local_id (0); i < d; i += NF_GROUP)
    {
      const float c = (x[i] - moments.x) * moments.y, v = rms ? c * (w[w_at + i] + 1.0f) : fma (c, w[w_at + i], w[b_at + i]);
      const float sum = add ? v + R[i] : v;
      if (left)
        ((__global ushort *)y)[i] = nf_half (sum);
      else
        y[i] = sum;
    }
}

/* Backward of the above: dx (+)= rstd (g - mean(g) - c mean(g c)), g = dy w, c the normalised x; with rms g = dy (1 + w) and mean(g) falls out.
 * What dw needs is written to dyc = dy c. dx may be dy unless it accumulates. All (M, d). Global size (M NF_GROUP). */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_norm_backward (__global const float *x, ulong x_at, __global const float *w, ulong w_at, __global const float *dy, ulong dy_at,
                  __global float *dyc, ulong dyc_at, __global float *dx, ulong dx_at, int accumulate, int rms, int d)
{
  __local float part[NF_GROUP];
  const size_t row = (size_t)get_group_id (0) * d;
  const float offset = rms ? 1.0f : 0.0f;
  x += x_at + row;
  w += w_at;
  dy += dy_at + row;
  dyc += dyc_at + row;
  dx += dx_at + row;
  const float2 moments = nf_moments (x, d, rms, part);
  float sum_g = 0.0f, sum_gc = 0.0f;
  for (int i = get_local_id (0); i < d; i += NF_GROUP)
    {
      const float c = (x[i] - moments.x) * moments.y, g = dy[i] * (w[i] + offset);
      sum_g += g;
      sum_gc = fma (g, c, sum_gc);
      dyc[i] = dy[i] * c;
    }
  const float mean_g = rms ? 0.0f : nf_group_sum (part, sum_g) / d, mean_gc = nf_group_sum (part, sum_gc) / d;
  for (int i = get_local_id (0); i < d; i += NF_GROUP)
    {
      const float c = (x[i] - moments.x) * moments.y, v = moments.y * (dy[i] * (w[i] + offset) - mean_g - c * mean_gc);
      dx[i] = accumulate ? dx[i] + v : v;
    }
}

/* s[n] (+)= sum over m of x[m, n]. x (M, N). A work-group has NF_GROUP columns, NF_SUM_LINES work-items each; global size
 * (ceil(N / NF_GROUP) NF_GROUP, parts NF_SUM_LINES). With several parts each has its share of the rows, and part p goes to s + p N. */

__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, NF_SUM_LINES, 1))) void
nf_column_sums (__global const float *x, ulong x_at, int ldx, __global float *s, ulong s_at, int M, int N, int accumulate)
{
  __local float line[NF_SUM_LINES][NF_GROUP];
  const int n = get_global_id (0), y = get_local_id (1), share = (M + get_num_groups (1) - 1) / get_num_groups (1),
            first = get_group_id (1) * share, end = min (M, first + share);
  float sum = 0.0f;
  x += x_at + n;
  if (n < N)
    for (int m = first + y; m < end; m += NF_SUM_LINES)
      sum += x[(size_t)m * ldx];
  line[y][get_local_id (0)] = sum;
  barrier (CLK_LOCAL_MEM_FENCE);
  if (y > 0 || n >= N)
    return;
  for (int i = 1; i < NF_SUM_LINES; i++)
    sum += line[i][get_local_id (0)];
  s += s_at + (size_t)get_group_id (1) * N + n;
  *s = accumulate ? sum + *s : sum;
}
