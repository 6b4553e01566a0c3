/* Work on whole rows, one work-item a row. SPDX-License-Identifier: LGPL-2.1-or-later */

/* y[r,:] = (x[r,:] - mean) rstd w + b, eps 1e-5 (Ba et al. 2016). x, y (M, d). Global size (M). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_layernorm (__global const float *x, ulong x_at, __global const float *w, ulong w_at, ulong b_at, __global float *y,
              ulong y_at, int d)
{
  const size_t row = (size_t)get_global_id (0) * d;
  x += x_at + row;
  y += y_at + row;
  floatv sum = 0.0f;
  for (int i = 0; i < d; i += VW)
    sum += nf_load_head (x + i, d - i);
  const float mean = nf_sumv (sum) / d;
  floatv square = 0.0f;
  for (int i = 0; i < d; i += VW)
    {
      floatv c = nf_load_head (x + i, d - i) - mean;
      if (d - i < VW)
        c = select ((floatv)(0.0f), c, NF_LANES < (intv)(d - i));
      square = fma (c, c, square);
    }
  const float rstd = 1.0f / sqrt (nf_sumv (square) / d + 1e-5f);
  for (int i = 0; i < d; i += VW)
    {
      const int lanes = d - i;
      const floatv c = (nf_load_head (x + i, lanes) - mean) * rstd;
      nf_store_head (fma (c, nf_load_head (w + w_at + i, lanes), nf_load_head (w + b_at + i, lanes)), y + i, lanes);
    }
}

/* Backward of the above: dx += rstd (g - mean(g) - c mean(g c)), g = dy w, c the normalised x; what dw needs is written to dyc = dy c.
 * All (M, d). Global size (M). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_layernorm_backward (__global const float *x, ulong x_at, __global const float *w, ulong w_at, __global const float *dy,
                       ulong dy_at, __global float *dyc, ulong dyc_at, __global float *dx, ulong dx_at, int d)
{
  const size_t row = (size_t)get_global_id (0) * d;
  x += x_at + row;
  dy += dy_at + row;
  dyc += dyc_at + row;
  dx += dx_at + row;
  floatv sum = 0.0f;
  for (int i = 0; i < d; i += VW)
    sum += nf_load_head (x + i, d - i);
  const float mean = nf_sumv (sum) / d;
  floatv square = 0.0f;
  for (int i = 0; i < d; i += VW)
    {
      floatv c = nf_load_head (x + i, d - i) - mean;
      if (d - i < VW)
        c = select ((floatv)(0.0f), c, NF_LANES < (intv)(d - i));
      square = fma (c, c, square);
    }
  const float rstd = 1.0f / sqrt (nf_sumv (square) / d + 1e-5f);
  floatv sum_g = 0.0f, sum_gc = 0.0f;
  for (int i = 0; i < d; i += VW)
    {
      const int lanes = d - i;
      const floatv c = (nf_load_head (x + i, lanes) - mean) * rstd, dyi = nf_load_head (dy + i, lanes);
      const floatv g = dyi * nf_load_head (w + w_at + i, lanes);
      sum_g += g;
      sum_gc = fma (g, c, sum_gc);
      nf_store_head (dyi * c, dyc + i, lanes);
    }
  const float mean_g = nf_sumv (sum_g) / d, mean_gc = nf_sumv (sum_gc) / d;
  for (int i = 0; i < d; i += VW)
    {
      const int lanes = d - i;
      const floatv c = (nf_load_head (x + i, lanes) - mean) * rstd;
      const floatv g = nf_load_head (dy + i, lanes) * nf_load_head (w + w_at + i, lanes);
      nf_store_head (nf_load_head (dx + i, lanes) + rstd * (g - mean_g - c * mean_gc), dx + i, lanes);
    }
}

/* s[n] (+)= sum over m of x[m, n]. x (M, N). Global size (N / VW, rounded up). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_column_sums (__global const float *x, ulong x_at, int ldx, __global float *s, ulong s_at, int M, int N, int accumulate)
{
  const int n = get_global_id (0) * VW, lanes = N - n;
  floatv sum = 0.0f;
  x += x_at + n;
  for (int m = 0; m < M; m++, x += ldx)
    sum += nf_load_head (x, lanes);
  s += s_at + n;
  nf_store_head (accumulate ? sum + nf_load_head (s, lanes) : sum, s, lanes);
}
