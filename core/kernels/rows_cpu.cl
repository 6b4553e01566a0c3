/* Work on whole rows, one work-item a row. SPDX-License-Identifier: LGPL-2.1-or-later */

/* A row is short: what the next ones need is on its way to the cache meanwhile. */
#define NF_ROWS_AHEAD 3

static inline floatv
nf_centred (__global const float *x, int lanes, float mean)
{
  const floatv c = nf_load_head (x, lanes) - mean;
  return lanes < VW ? select ((floatv)(0.0f), c, NF_LANES < (intv)(lanes)) : c;
}

/* Mean (0 if rms) and 1/deviation of a row; eps 1e-5, or 1e-6 of the mean square alone. Two chains of sums hide each other's latency. */
static inline float2
nf_moments (__global const float *x, int d, int rms)
{
  floatv sum[2] = { 0.0f, 0.0f }, square[2] = { 0.0f, 0.0f };
  float mean = 0.0f;
  if (!rms)
    {
      for (int i = 0; i < d; i += 2 * VW)
        {
          sum[0] += nf_load_head (x + i, d - i);
          sum[1] += nf_load_head (x + i + VW, d - i - VW);
        }
      mean = nf_sumv (sum[0] + sum[1]) / d;
    }
  for (int i = 0; i < d; i += 2 * VW)
    {
      NF_PREFETCH (x + NF_ROWS_AHEAD * d + i);
      NF_PREFETCH (x + NF_ROWS_AHEAD * d + i + VW);
      const floatv c0 = nf_centred (x + i, d - i, mean), c1 = nf_centred (x + i + VW, d - i - VW, mean);
      square[0] = fma (c0, c0, square[0]);
      square[1] = fma (c1, c1, square[1]);
    }
  return (float2)(mean, 1.0f / sqrt (nf_sumv (square[0] + square[1]) / d + (rms ? 1e-6f : 1e-5f)));
}

/* A row of what follows. */
typedef struct
{
  __global const float *x, *w, *b, *R;
  float2 moments;
  bool rms, add;
} NfNormed;

/* Values i .. i+lanes-1 of it. */
static inline floatv
nf_normed (const NfNormed *of, int i, int lanes)
{
  const floatv c = (nf_load_head (of->x + i, lanes) - of->moments.x) * of->moments.y, w = nf_load_head (of->w + i, lanes);
  const floatv v = of->rms ? c * (w + 1.0f) : fma (c, w, nf_load_head (of->b + i, lanes));
  return of->add ? v + nf_load_head (of->R + i, lanes) : v;
}

#if NF_INT8_MADD
NF_ROUND_ROW (nf_round_normed, const NfNormed *, nf_normed)
#endif

/* y[r,:] = (x[r,:] - mean) rstd w + b (layer norm, Ba et al. 2016) or x[r,:] rstd (1 + w) (rms, Zhang & Sennrich 2019), then + R[r,:] if `add`.
 * x, R, y (M, d); y may be x, R may be y. If `left` is not 0 y is left rows of a product, none of the others, rows of so many words, and d a multiple
 * of 32.
 * Global size (M). */
NF_KERNEL_OF_ONE void
nf_norm (NF_ITEM __global const float *x, ulong x_at, __global const float *w, ulong w_at, ulong b_at, __global const float *R, ulong R_at, int add,
         __global float *y, ulong y_at, int left, int rms, int d)
{
  const size_t row = (size_t)get_global_id (0) * d;
  x += x_at + row;
  y += y_at + (left ? get_global_id (0) * left : row);
  const NfNormed normed = { .x = x, .w = w + w_at, .b = w + b_at, .R = R + R_at + row, .moments = nf_moments (x, d, rms), .rms = rms, .add = add };
  if (left)
    {
#if NF_INT8_MADD
      nf_round_normed (&normed, d, (__global uint *)y);
#else
      for (int i = 0; i < d; i += 2 * VW)
        {
          floatv v[2];
          NF_PREFETCH_TO_WRITE (y + left + i / 2);
          for (int j = 0; j < 2; j++)
            v[j] = nf_normed (&normed, i + j * VW, VW);
          nf_store_left_pair (v[0], v[1], y, i);
        }
#endif
      return;
    }
  for (int i = 0; i < d; i += VW)
    {
      NF_PREFETCH_TO_WRITE (y + d + i);
      nf_store_head (nf_normed (&normed, i, d - i), y + i, d - i);
    }
}

/* Backward of the above: dx (+)= rstd (g - mean(g) - c mean(g c)), g = dy w, c the normalised x; with rms g = dy (1 + w) and mean(g) falls out.
 * What dw needs is written to dyc = dy c. dx may be dy unless it accumulates. All (M, d). Global size (M). */
NF_KERNEL_OF_ONE void
nf_norm_backward (NF_ITEM __global const float *x, ulong x_at, __global const float *w, ulong w_at, __global const float *dy, ulong dy_at,
                  __global float *dyc, ulong dyc_at, __global float *dx, ulong dx_at, int accumulate, int rms, int d)
{
  const size_t row = (size_t)get_global_id (0) * d;
  const float offset = rms ? 1.0f : 0.0f;
  x += x_at + row;
  dy += dy_at + row;
  dyc += dyc_at + row;
  dx += dx_at + row;
  const float2 moments = nf_moments (x, d, rms);
  floatv sum_g = 0.0f, sum_gc = 0.0f;
  for (int i = 0; i < d; i += VW)
    {
      const int lanes = d - i;
      const floatv c = (nf_load_head (x + i, lanes) - moments.x) * moments.y, dyi = nf_load_head (dy + i, lanes);
      const floatv g = dyi * (nf_load_head (w + w_at + i, lanes) + offset);
      sum_g += g;
      sum_gc = fma (g, c, sum_gc);
      nf_store_head (dyi * c, dyc + i, lanes);
    }
  const float mean_g = rms ? 0.0f : nf_sumv (sum_g) / d, mean_gc = nf_sumv (sum_gc) / d;
  for (int i = 0; i < d; i += VW)
    {
      const int lanes = d - i;
      const floatv c = (nf_load_head (x + i, lanes) - moments.x) * moments.y;
      const floatv g = nf_load_head (dy + i, lanes) * (nf_load_head (w + w_at + i, lanes) + offset);
      const floatv v = moments.y * (g - mean_g - c * mean_gc);
      nf_store_head (accumulate ? nf_load_head (dx + i, lanes) + v : v, dx + i, lanes);
    }
}

#define NF_SUM_ROWS_AHEAD 8

/* s[n] (+)= sum over m of x[m, n]. x (M, N), rows ldx apart; HALVES: of bfloat16 as products read them, ldx words apart. Global size (N / VW divided
 * by what a work-item takes, rounded up). */
NF_KERNEL_OF_ONE void
nf_column_sums (NF_ITEM __global const float *x, ulong x_at, int ldx, __global float *s, ulong s_at, int M, int N, int accumulate, int halves)
{
  const int vectors = (N + VW - 1) / VW, items = get_global_size (0), each = (vectors + items - 1) / items;
  const int n0 = get_global_id (0) * each * VW, n_end = min (N, n0 + each * VW);
  x += x_at;
  for (int n = n0; n < n_end; n += NF_SUM_VECTORS * VW)
    {
      const int count = min (NF_SUM_VECTORS, (n_end - n + VW - 1) / VW), whole = n + count * VW <= N;
      floatv sum[NF_SUM_VECTORS] = { 0 };
      for (int m = 0; m < M; m++)
        {
          __global const float *row = x + (size_t)m * ldx;
          __global const ushort *words = (__global const ushort *)row + n;
#pragma unroll
          for (int v = 0; v < NF_SUM_VECTORS; v++)
            if (v >= count)
              continue;
#if NF_BF16 && !NF_BF16_WEIGHTS
            else if (halves)
              sum[v] += nf_as_floatv (nf_load_halves (words + v * VW) << 16);
#endif
            else
              {
                NF_PREFETCH (row + NF_SUM_ROWS_AHEAD * (size_t)ldx + n + v * VW);
                sum[v] += whole ? nf_loadv (row + n + v * VW) : nf_load_head (row + n + v * VW, N - n - v * VW);
              }
        }
      for (int v = 0; v < count; v++)
        {
          const int at = n + v * VW, lanes = N - at;
          nf_store_head (accumulate ? sum[v] + nf_load_head (s + s_at + at, lanes) : sum[v], s + s_at + at, lanes);
        }
    }
}
