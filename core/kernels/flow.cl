/* The affine step of a flow block, forward, backward and inverse. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Block order is the order in which a block's own sequence runs. u (B, N, D) is the block's input in that order, o (B, S, 2D) what the network says
 * (raw scale, then shift mu; only mu, (B, S, D), if the model is volume-preserving), of which the first `prefix` rows say nothing. Token n uses row
 * prefix + n, or, with `shift`, row prefix + n-1 and token 0 stays as it is. If `extra` is 1, without shift, a row that says nothing comes before those of
 * each frame.
 *   z = (u - mu)/sigma,  log |dz/du| = -sum log sigma                      (Zhai et al. 2024, arXiv 2412.06329, eq. 4 to 6)
 * A flip reverses the tokens of each frame. */

enum
{
  NF_SCALE_NONE,
  NF_SCALE_EXP,     /* log sigma = raw, within limits */
  NF_SCALE_SOFTPLUS /* sigma = log(1 + exp(raw + log(e - 1))): 1 for raw 0 (Gu et al. 2025, arXiv 2506.06276) */
};

/* `most` is NfConfig's max_log_scale, infinite for none; the other end goes with it (NF_LEAST_LOG_SCALE of nf-config.h). */
#define NF_LEAST_LOG_SCALE -6.0f
static inline floatv
nf_limit_scale (floatv raw, float most)
{
  return most < INFINITY ? fmax (fmin (raw, most), NF_LEAST_LOG_SCALE) : raw;
}

static inline int
nf_flipped (int n, int frame, int flip)
{
  return flip ? n - n % frame + frame - 1 - n % frame : n;
}

/* ln x of a normal x > 0: x = 2^n m with m in [sqrt(1/2), sqrt 2), log(1 + f) = f - f²/2 + f³ P(f), P by interpolation at Chebyshev nodes (relative error
 * below 1e-8). */
static inline floatv
nf_logv (floatv x)
{
  const intv n = (nf_as_intv (x) - 0x3f3504f3) >> 23;
  const floatv f = nf_as_floatv (nf_as_intv (x) - (n << 23)) - 1.0f, t = NF_CAT (convert_float, VW) (n);
  floatv p = fma (f, (floatv)(0.0697161108f), (floatv)(-0.114797339f));
  p = fma (p, f, (floatv)(0.116854198f));
  p = fma (p, f, (floatv)(-0.124256872f));
  p = fma (p, f, (floatv)(0.142490581f));
  p = fma (p, f, (floatv)(-0.166678026f));
  p = fma (p, f, (floatv)(0.200007156f));
  p = fma (p, f, (floatv)(-0.24999997f));
  p = fma (p, f, (floatv)(0.333333313f));
  p = fma (t, (floatv)(1.42860677e-6f), fma (p * f, f * f, -0.5f * f * f));
  return fma (t, (floatv)(0.693145752f), p + f);
}

/* tanh x: an odd polynomial up to 5/8 (relative error below 1e-8), beyond it 1 - 2/(1 + exp 2x). */
static inline floatv
nf_tanhv (floatv x)
{
  const floatv s = x * x;
  floatv p = fma (s, (floatv)(0.00229274505f), (floatv)(-0.00834394526f));
  p = fma (p, s, (floatv)(0.0217689183f));
  p = fma (p, s, (floatv)(-0.0539592579f));
  p = fma (p, s, (floatv)(0.133333042f));
  p = fma (p, s, (floatv)(-0.333333343f));
  p = fma (p * s, x, x);
  const floatv far = copysign (1.0f - 2.0f / (1.0f + nf_expv (2.0f * fabs (x))), x);
  return select (p, far, isgreater (fabs (x), (floatv)(0.625f)));
}

/* a tanh(x/a); a = 0 leaves x as it is. */
static inline floatv
nf_soft_clip (floatv x, float a)
{
  return a > 0.0f ? a * nf_tanhv (x / a) : x;
}

#define NF_SOFTPLUS_AT_0 0.541324854612918f /* log(e - 1) */

/* sigma of a clipped raw scale under softplus: log(1 + e^y) = max(y, 0) + log(1 + e^-|y|), the latter with what rounding 1 + t lost. */
static inline floatv
nf_softplus_sigma (floatv raw)
{
  const floatv y = raw + NF_SOFTPLUS_AT_0, t = nf_expv (-fabs (y)), one_t = 1.0f + t;
  return fmax (y, 0.0f) + (nf_logv (one_t) + (t - (one_t - 1.0f)) / one_t);
}

/* d log sigma/d raw under softplus. */
static inline floatv
nf_softplus_slope (floatv raw, floatv sigma)
{
  return 1.0f / ((1.0f + nf_expv (-(raw + NF_SOFTPLUS_AT_0))) * sigma);
}

/* The nearest multiple of 1/per_unit, a power of two, and of so many bits that a step grows from 8 on, as a float's does (of 2^-21 from 4 on: it has one bit
 * less than a float): what was rounded on the way to a large value must stay under half a step, too. What is half way goes up (from 8 on outwards), always:
 * values a step apart stay so, where to the even one every other multiple would be that of two. 0 leaves x as it is. */
static inline floatv
nf_round_to (floatv x, float per_unit)
{
  if (per_unit == 0.0f)
    return x;
  const int dropped = max (21 + 127 - (as_int (per_unit) >> 23), 1), half_step = 1 << (dropped - 1);
  const floatv near = floor (x * per_unit + 0.5f) / per_unit, far = nf_as_floatv ((nf_as_intv (x) + half_step) & -2 * half_step);
  return select (near, far, isgreaterequal (fabs (x), (floatv)(8.0f)));
}

/* z to multiples of 1/per_unit, such that z sigma + mu is u once it is rounded to 1/per_unit_u, as u is. Where sigma steps of z are nearly one of u, the
 * nearest z may be half a step off, and what floats round on the way decides: then it is the next one, or, where steps of z are finer, one between. Lanes
 * that miss u nevertheless are counted in `missed`. */
static inline floatv
nf_round_for (floatv z, floatv u, floatv sigma, floatv mu, float per_unit, float per_unit_u, floatv *missed)
{
  const floatv rounded = nf_round_to (z, per_unit);
  if (per_unit_u == 0.0f)
    return rounded;
  const floatv by = u - nf_round_to (fma (rounded, sigma, mu), per_unit_u);
  if (!any (isnotequal (by, (floatv)(0.0f))))
    return rounded;
  const floatv next = nf_round_to (rounded + by / sigma, per_unit), between = nf_round_to (rounded + by / (sigma + sigma), per_unit);
  const floatv chosen = select (between, next, isequal (nf_round_to (fma (next, sigma, mu), per_unit_u), u));
  *missed += select ((floatv)(1.0f), (floatv)(0.0f), isequal (nf_round_to (fma (chosen, sigma, mu), per_unit_u), u));
  return chosen;
}

/* Values of 8-bit samples lie on a lattice: (k + (j + 1/2)/steps)/128 - 1 with uniform noise, 2k/255 - 1 without (steps 0). With Gaussian noise
 * (steps < 0) they are multiples of 1/(128 -steps), as large as they like. What is no number stays so, for clamp() may make one of it. */
static inline floatv
nf_snap (floatv x, int steps)
{
  if (steps < 0)
    return rint (x * (-128.0f * steps)) / (-128.0f * steps);
  const floatv at = steps ? clamp (floor ((x + 1.0f) * (128.0f * steps)), 0.0f, 256.0f * steps - 1.0f)
                          : clamp (rint ((x + 1.0f) * 127.5f), 0.0f, 255.0f);
  return select (steps ? (at + 0.5f) / (128.0f * steps) - 1.0f : at * (2.0f / 255.0f) - 1.0f, x, isnan (x));
}

/* A token's basis W (D, D) is orthonormal, and its rows are the basis vectors: t = W y and back y = Wᵀ t. In memory it is W, then Wᵀ, each with rows of
 * NF_BASIS_ROW floats of which the last ones may be zeros; then for each NF_BASIS_PART of their columns, as in nf-ops.c, the first row that is not
 * zero there and the one behind the last, neither of them less than those of the part before. */
#define NF_BASIS_PARTS(D) (((D) + NF_BASIS_PART - 1) / NF_BASIS_PART)
#define NF_BASIS_ROW(D) (NF_BASIS_PARTS (D) * NF_BASIS_PART)

/* to[i .. i + count VW) = what the rows of M are in sum, each as often as `from` says. Places of padding in `to` are written, too. */
#define NF_ADD_ROWS(count)                                                                                             \
  for (; i + (count) * VW <= row; i += (count) * VW)                                                                   \
    {                                                                                                                  \
      const int first = (int)rows[2 * (i / NF_BASIS_PART)], end = (int)rows[2 * ((i + (count) * VW - 1) / NF_BASIS_PART) + 1]; \
      floatv sums[count];                                                                                              \
      for (int k = 0; k < (count); k++)                                                                                \
        sums[k] = 0.0f;                                                                                                \
      for (int j = first; j < end; j++)                                                                                \
        for (int k = 0; k < (count); k++)                                                                              \
          sums[k] = fma (nf_loadv (M + j * row + i + k * VW), (floatv)(from[j]), sums[k]);                             \
      for (int k = 0; k < (count); k++)                                                                                \
        nf_storev (sums[k], to + i + k * VW);                                                                          \
    }

static inline void
nf_change_basis (__global const float *M, __global const float *rows, const float from[D_MAX], float to[D_MAX], int D)
{
  const int row = NF_BASIS_ROW (D);
  int i = 0;
  NF_ADD_ROWS (4)
  NF_ADD_ROWS (2)
  NF_ADD_ROWS (1)
}

static inline void
nf_to_basis (__global const float *basis, const float y[D_MAX], __global float *t, int D)
{
  const int size = D * NF_BASIS_ROW (D);
  float to[D_MAX];
  nf_change_basis (basis + size, basis + 2 * size, y, to, D);
  for (int i = 0; i < D; i++)
    t[i] = to[i];
}
static inline void
nf_from_basis (__global const float *basis, __global const float *t, float y[D_MAX], int D)
{
  float from[D_MAX];
  for (int i = 0; i < D; i++)
    from[i] = t[i];
  nf_change_basis (basis, basis + 2 * D * NF_BASIS_ROW (D), from, y, D);
}

/* A token's values, as decoding made them, to those that encoding had. */
static inline void
nf_snap_token (float t[D_MAX], __global const float *basis, int has_basis, int steps, int D)
{
  const int size = D * NF_BASIS_ROW (D);
  float y[D_MAX];
  if (!has_basis)
    {
      for (int i = 0; i < D; i += VW)
        nf_storev (nf_snap (nf_loadv (t + i), steps), t + i);
      return;
    }
  nf_change_basis (basis, basis + 2 * size, t, y, D);
  for (int i = 0; i < D; i += VW)
    nf_storev (nf_snap (nf_loadv (y + i), steps), y + i);
  nf_change_basis (basis + size, basis + 2 * size, y, t, D);
}

/* Candidates of a sweep may fly off to infinity before they settle. A row that is no number would spoil those before it, which weigh its values by 0: so
 * values end here, whose squares, and so norms, are finite. One token at a time they do, too, and find the same. */
#define NF_FARTHEST 1e16f

static inline floatv
nf_not_farther (floatv v)
{
  return select (v, copysign ((floatv)(NF_FARTHEST), v), isgreater (fabs (v), (floatv)(NF_FARTHEST)));
}

/* mu, sigma and log sigma of values i .. i+VW-1 of a token of D, of which `lanes` are there, by the row o of the network. */
static inline void
nf_read_step (__global const float *o, int i, int lanes, int D, int scale, float soft_clip, float most, floatv *mu, floatv *sigma, floatv *log_sigma)
{
  *mu = nf_soft_clip (nf_load_head (o + (scale == NF_SCALE_NONE ? 0 : D) + i, lanes), soft_clip);
  const floatv raw = scale == NF_SCALE_NONE ? (floatv)(0.0f) : nf_soft_clip (nf_load_head (o + i, lanes), soft_clip);
  if (scale == NF_SCALE_EXP)
    {
      *log_sigma = nf_limit_scale (raw, most);
      *sigma = nf_expv (*log_sigma); /* what decoding multiplies by */
    }
  else if (scale == NF_SCALE_SOFTPLUS)
    {
      *sigma = nf_softplus_sigma (raw);
      *log_sigma = select ((floatv)(0.0f), nf_logv (*sigma), NF_LANES < (intv)(lanes));
    }
}

/* How many samples of a token decoding will snap to another point than that of u: z, o as nf_affine has them of the token. */
static inline float
nf_count_lost (__global const float *z, __global const float *u, __global const float *o, int D, int moves, int scale, float soft_clip, float most,
               float per_unit_u, int steps, __global const float *basis, int has_basis)
{
  floatv lost = 0.0f;
  float found[D_MAX], was[D_MAX];
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      floatv mu = 0.0f, sigma = 1.0f, log_sigma;
      if (moves)
        nf_read_step (o, i, lanes, D, scale, soft_clip, most, &mu, &sigma, &log_sigma);
      const floatv v = nf_round_to (fma (nf_load_head (z + i, lanes), sigma, mu), per_unit_u), x = nf_load_head (u + i, lanes);
      if (has_basis)
        {
          nf_storev (v, found + i);
          nf_storev (x, was + i);
        }
      else
        lost += select ((floatv)(1.0f), (floatv)(0.0f), isequal (nf_snap (v, steps), nf_snap (x, steps)));
    }
  if (has_basis)
    {
      float y[D_MAX], at[D_MAX];
      nf_change_basis (basis, basis + 2 * D * NF_BASIS_ROW (D), found, y, D);
      nf_change_basis (basis, basis + 2 * D * NF_BASIS_ROW (D), was, at, D);
      for (int i = 0; i < D; i += VW)
        lost += select ((floatv)(0.0f), (floatv)(1.0f),
                        isnotequal (nf_snap (nf_loadv (y + i), steps), nf_snap (nf_loadv (at + i), steps)) & (NF_LANES < (intv)(D - i)));
    }
  return nf_sumv (lost);
}

/* Corrections are of four ints, as NfCorrection: sample, block, place n D + i in the block's order, and the value's bits. A list has four more before
 * the first of them: how many there are, also where there is room for less. Of a token of which decoding does not find all of u this adds those that it
 * does not find: z, o as nf_affine has them of the token. */
static inline void
nf_list_missed (__global const float *z, __global const float *u, __global const float *o, int D, int moves, int scale, float soft_clip, float most,
                float per_unit_u, int steps, __global const float *basis, int has_basis, int sample, int block, int n, __global float *list, int room)
{
  volatile __global int *entries = (volatile __global int *)list;
  float found[D_MAX];
  for (int i = 0; i < D; i += VW)
    {
      floatv mu = 0.0f, sigma = 1.0f, log_sigma;
      if (moves)
        nf_read_step (o, i, D - i, D, scale, soft_clip, most, &mu, &sigma, &log_sigma);
      nf_storev (nf_round_to (nf_not_farther (fma (nf_load_head (z + i, D - i), sigma, mu)), per_unit_u), found + i);
    }
  if (steps != -1)
    nf_snap_token (found, basis, has_basis, steps, D);
  for (int i = 0; i < D; i++)
    if (found[i] != u[i])
      {
        const int at = atomic_inc (entries);
        if (at >= room)
          continue;
        entries[4 * at + 4] = sample;
        entries[4 * at + 5] = block;
        entries[4 * at + 6] = n * D + i;
        entries[4 * at + 7] = as_int (u[i]);
      }
}

/* Samples that are nearer to their points than this snap to them however they lie: half a step of the finest lattice is 2^-13. The square of the
 * distance is that of all samples of a token in sum, which is the same in an orthonormal basis. */
#define NF_SURELY_FOUND 0x1p-28f

/* z goes to flipped rows if out_flip (the next block runs the other way). log_det (B, N) in natural order, flipped to the block's if flip; added to
 * what is there if accumulate. z is rounded to multiples of 1/per_unit, u was to those of 1/per_unit_u. log_scales (B, N, D) gets -log sigma in the
 * block's order if keep_scales. misses (B, N, 2), as log_det, gets how many values of u are not found again if keep_misses, and how many samples of
 * the frame are not, if decoding will snap them: snap_steps as of nf_affine_inverse, -1 where it does not. list gets what these are to be, if there is
 * room: of block `block`, and of samples from first_sample on. Global size (B N). */
NF_KERNEL void
nf_affine (NF_ITEM __global const float *u, ulong u_at, __global const float *o, __global float *z, ulong z_at, __global float *log_det,
           __global float *log_scales, ulong log_scales_at, int keep_scales, int N, int D, int S, int prefix, int extra, int frame, int shift,
           int scale, float soft_clip, float most, float per_unit, float per_unit_u, int flip, int out_flip, int accumulate,
           __global float *misses, int keep_misses, int snap_steps, __global const float *basis, int has_basis, __global float *list, int room,
           int first_sample, int block)
{
  const int m = get_global_id (0), b = m / N, n = m % N, moves = !shift || n > 0;
  const int width = scale == NF_SCALE_NONE ? D : 2 * D;
  u += u_at + (size_t)m * D;
  z += z_at + ((size_t)b * N + nf_flipped (n, frame, out_flip)) * D;
  log_scales += log_scales_at + (size_t)m * D;
  o += ((size_t)b * S + prefix + (n / frame + 1) * extra + (moves ? n - shift : 0)) * width;
  floatv sum = 0.0f, missed = 0.0f, off = 0.0f;
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      const floatv x = nf_load_head (u + i, lanes);
      floatv mu = 0.0f, sigma = 1.0f, log_sigma = 0.0f;
      if (moves)
        {
          nf_read_step (o, i, lanes, D, scale, soft_clip, most, &mu, &sigma, &log_sigma);
          sum += log_sigma;
        }
      const floatv v = nf_round_for ((x - mu) / sigma, x, sigma, mu, per_unit, per_unit_u, &missed), by = fma (v, sigma, mu) - x;
      off = fma (by, by, off);
      missed += select ((floatv)(0.0f), (floatv)(1.0f), isgreater (fabs (x), (floatv)(NF_FARTHEST)));
      nf_store_head (v, z + i, lanes);
      if (keep_scales)
        nf_store_head (-log_sigma, log_scales + i, lanes);
    }
  const size_t at = (size_t)b * N + nf_flipped (n, frame, flip);
  log_det[at] = (accumulate ? log_det[at] : 0.0f) - nf_sumv (sum);
  if (!keep_misses)
    return;
  float lost = 0.0f;
  if (snap_steps != -1 && !(nf_sumv (off) < NF_SURELY_FOUND))
    lost = nf_count_lost (z, u, o, D, moves, scale, soft_clip, most, per_unit_u, snap_steps, basis, has_basis);
  const float away = nf_sumv (missed);
  if (room > 0 && away + lost > 0.0f)
    nf_list_missed (z, u, o, D, moves, scale, soft_clip, most, per_unit_u, snap_steps, basis, has_basis, first_sample + b, block, n, list, room);
  misses[2 * at] = (accumulate ? misses[2 * at] : 0.0f) + away;
  misses[2 * at + 1] = (accumulate ? misses[2 * at + 1] : 0.0f) + lost;
}

/* dz (rows as nf_affine wrote z), dL/dlog-determinant = -g per value: du (B, N, D), d_o like o; rows of o that say nothing of a token get 0.
 * Global size (B max(S, prefix + N)). */
NF_KERNEL void
nf_affine_backward (NF_ITEM __global const float *u, ulong u_at, __global const float *o, __global const float *dz, ulong dz_at, __global float *du,
                    ulong du_at, __global float *d_o, int N, int D, int S, int prefix, int extra, int frame, int shift, int scale,
                    float soft_clip, float most, int out_flip, float g)
{
  const int rows = max (S, prefix + N), b = get_global_id (0) / rows, row = get_global_id (0) % rows, after = row - prefix;
  /* -1 where the row is one of the prefix or comes before a frame */
  const int n = after < 0 || after % (frame + extra) < extra ? -1 : after - (after / (frame + extra) + 1) * extra;
  const int width = scale == NF_SCALE_NONE ? D : 2 * D, moves = !shift || n > 0;
  d_o += (size_t)b * S * width;
  o += (size_t)b * S * width;
  if (row < S && (n < 0 || n + shift >= N))
    for (int i = 0; i < width; i++)
      d_o[(size_t)row * width + i] = 0.0f;
  if (n < 0 || n >= N)
    return;
  u += u_at + ((size_t)b * N + n) * D;
  du += du_at + ((size_t)b * N + n) * D;
  dz += dz_at + ((size_t)b * N + nf_flipped (n, frame, out_flip)) * D;
  o += (size_t)(row - (moves ? shift : 0)) * width;
  d_o += (size_t)(row - (moves ? shift : 0)) * width;
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      const floatv v = nf_load_head (dz + i, lanes);
      if (!moves)
        {
          nf_store_head (v, du + i, lanes);
          continue;
        }
      const floatv mu = nf_soft_clip (nf_load_head (o + width - D + i, lanes), soft_clip);
      floatv slope_mu = 1.0f, before = v;
      if (soft_clip > 0.0f)
        slope_mu = fma (-mu / soft_clip, mu / soft_clip, (floatv)(1.0f));
      if (scale != NF_SCALE_NONE)
        {
          const floatv raw = nf_soft_clip (nf_load_head (o + i, lanes), soft_clip), c = nf_load_head (u + i, lanes) - mu;
          floatv z, slope = 1.0f;
          if (scale == NF_SCALE_EXP)
            {
              const floatv log_sigma = nf_limit_scale (raw, most), e = nf_expv (-log_sigma);
              z = c * e;
              before = v * e;
              slope = select ((floatv)(0.0f), (floatv)(1.0f), raw == log_sigma);
            }
          else
            {
              const floatv sigma = nf_softplus_sigma (raw);
              z = c / sigma;
              before = v / sigma;
              slope = nf_softplus_slope (raw, sigma);
            }
          if (soft_clip > 0.0f)
            slope *= fma (-raw / soft_clip, raw / soft_clip, (floatv)(1.0f));
          nf_store_head ((g - v * z) * slope, d_o + i, lanes);
        }
      nf_store_head (before, du + i, lanes);
      nf_store_head (-before * slope_mu, d_o + width - D + i, lanes);
    }
}

/* dz = g z and z²/2 summed over each token. Global size (B N). */
NF_KERNEL void
nf_prior (NF_ITEM __global const float *z, ulong z_at, __global float *dz, int keep, __global float *half_square, float g, int D)
{
  const int m = get_global_id (0);
  z += z_at + (size_t)m * D;
  dz += (size_t)m * D;
  floatv sum = 0.0f;
  for (int i = 0; i < D; i += VW)
    {
      const floatv v = nf_load_head (z + i, D - i);
      sum = fma (v, v, sum);
      if (keep)
        nf_store_head (v * g, dz + i, D - i);
    }
  half_square[m] = 0.5f * nf_sumv (sum);
}

enum
{
  NF_GUIDANCE_NONE,
  NF_GUIDANCE_EXTRAPOLATE, /* raw and mu go on beyond the guided branch's */
  NF_GUIDANCE_PRODUCT      /* the density p_c^(1+w) / p_u^w, sigma_u no less than sigma_c (Gu et al. 2025, arXiv 2506.06276, proposition 2) */
};

/* Tokens n0 .. n0+count-1 of x (B, N, D) become z sigma + mu of the same tokens of z, in block order; row r of the guided branch for sample b is
 * b o_rows + o_first + r, the unguided branch's samples come after all of these. weights: of the scale and what is added to it from token to token,
 * then the same for mu. keep_first: token n0 is only copied and snapped. snap_steps -1: no snapping. x is rounded
 * to multiples of 1/per_unit, as nf_affine rounded it. changes (B, count), if wanted, gets the largest
 * change of a value, sigmas (B, N, D), if wanted, the sigma of these tokens. Where corrected_N is not 0 corrections has, from corrections_at on, for each of
 * corrected_N tokens of a sample, of which the first is token corrected_first, where in it the token's corrections begin, and in one place more where the
 * last end; each is the number of a value and what it is to be. Global size (B count). */
NF_KERNEL void
nf_affine_inverse (NF_ITEM __global const float *z, ulong z_at, __global float *x, ulong x_at, __global const float *o, int B, int N, int D, int n0, int count,
                   int o_rows, int o_first, int scale, float soft_clip, float most, float per_unit, int guidance, float4 weights, int keep_first, int snap_steps,
                   __global const float *basis, int has_basis, __global float *changes, int keep_changes, __global float *sigmas, int keep_sigmas,
                   __global const float *corrections, ulong corrections_at, int corrected_N, int corrected_first)
{
  const int b = get_global_id (0) / count, r = get_global_id (0) % count, width = scale == NF_SCALE_NONE ? D : 2 * D;
  const int moves = !keep_first || r > 0;
  const float w_scale = fma (weights.y, (float)r, weights.x), w_shift = fma (weights.w, (float)r, weights.z);
  float before[D_MAX];
  z += z_at + ((size_t)b * N + n0 + r) * D;
  x += x_at + ((size_t)b * N + n0 + r) * D;
  __global const float *c = o + ((size_t)b * o_rows + o_first + r) * width, *f = c + (size_t)B * o_rows * width;
  if (keep_changes)
    for (int i = 0; i < D; i++)
      before[i] = x[i];
  if (keep_sigmas)
    sigmas += ((size_t)b * N + n0 + r) * D;
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      floatv v = nf_load_head (z + i, lanes);
      if (moves)
        {
          floatv mu = nf_soft_clip (nf_load_head (c + width - D + i, lanes), soft_clip), mu_f = 0.0f, raw = 0.0f, raw_f = 0.0f, sigma = 1.0f;
          if (guidance)
            mu_f = nf_soft_clip (nf_load_head (f + width - D + i, lanes), soft_clip);
          if (scale != NF_SCALE_NONE)
            {
              raw = nf_soft_clip (nf_load_head (c + i, lanes), soft_clip);
              if (guidance)
                raw_f = nf_soft_clip (nf_load_head (f + i, lanes), soft_clip);
            }
          if (guidance == NF_GUIDANCE_EXTRAPOLATE)
            {
              mu = fma ((floatv)(w_shift), mu - mu_f, mu);
              raw = fma ((floatv)(w_scale), raw - raw_f, raw);
            }
          if (scale == NF_SCALE_EXP)
            sigma = nf_expv (nf_limit_scale (raw, most));
          else if (scale == NF_SCALE_SOFTPLUS)
            sigma = nf_softplus_sigma (raw);
          if (guidance == NF_GUIDANCE_PRODUCT)
            {
              floatv sigma_f = 1.0f;
              if (scale != NF_SCALE_NONE)
                sigma_f = scale == NF_SCALE_EXP ? nf_expv (raw_f) : nf_softplus_sigma (raw_f);
              const floatv ratio = fmin (sigma / sigma_f, 1.0f), s = ratio * ratio, k = fma (-w_scale, s, (floatv)(1.0f + w_scale));
              /* mu_c + (w s/k) (mu_c - mu_u) */
              mu = fma (w_scale * s / k, mu - mu_f, mu);
              sigma /= sqrt (k);
            }
          v = fma (v, sigma, mu);
          if (keep_sigmas)
            nf_store_head (sigma, sigmas + i, lanes);
        }
      nf_store_head (nf_round_to (nf_not_farther (v), per_unit), x + i, lanes);
    }
  if (snap_steps != -1)
    {
      float t[D_MAX];
      for (int i = 0; i < D; i++)
        t[i] = x[i];
      nf_snap_token (t, basis, has_basis, snap_steps, D);
      for (int i = 0; i < D; i++)
        x[i] = t[i];
    }
  if (corrected_N > 0)
    {
      __global const int *words = (__global const int *)corrections;
      const ulong at = corrections_at + (size_t)b * corrected_N + n0 - corrected_first + r;
      for (int w = words[at]; w < words[at + 1]; w += 2)
        x[words[w]] = as_float (words[w + 1]);
    }
  if (keep_changes)
    {
      /* what is no number stays so: an iteration that went astray has not settled */
      float most = 0.0f;
      for (int i = 0; i < D; i++)
        {
          const float change = fabs (x[i] - before[i]);
          most = isnan (most) || change <= most ? most : change;
        }
      changes[get_global_id (0)] = most;
    }
}

/* to += from W of vectors of D values, W (D, D). */
static inline void
nf_mix (const float *from, __global const float *W, float *to, int D)
{
  for (int i = 0; i < D; i++)
    for (int j = 0; j < D; j++)
      to[j] = fma (from[i], W[(size_t)i * D + j], to[j]);
}

/* Tokens n0 .. n0+count-1 of x (B, N, D) become weights (2 D + 1, D) of the token before, of z, and of 1, one after the other. n0 > 0. Global size (B). */
NF_KERNEL void
nf_foresee (NF_ITEM __global const float *z, ulong z_at, __global float *x, ulong x_at, __global const float *weights, ulong weights_at, int N, int D, int n0,
            int count)
{
  float from[D_MAX], to[D_MAX];
  z += z_at + ((size_t)get_global_id (0) * N + n0) * D;
  x += x_at + ((size_t)get_global_id (0) * N + n0) * D;
  weights += weights_at;
  for (int r = 0; r < count; r++, x += D, z += D)
    {
      for (int i = 0; i < D; i++)
        to[i] = weights[(size_t)2 * D * D + i];
      for (int i = 0; i < D; i++)
        from[i] = x[i - D];
      nf_mix (from, weights, to, D);
      for (int i = 0; i < D; i++)
        from[i] = z[i];
      nf_mix (from, weights + (size_t)D * D, to, D);
      for (int i = 0; i < D; i++)
        x[i] = to[i];
    }
}

/* Tokens n0 .. n0+count-1 of x (B, N, D) become what they were in samples that are alike, old_x with old_z and sigmas (B, N, D), moved on, one after the
 * other: by sigma times what z moved by, and by slopes (D, D) times what the token before moved by unless MOVING is 0. n0 > 0. Global size (B). */
NF_KERNEL void
nf_recall (NF_ITEM __global const float *z, ulong z_at, __global float *x, ulong x_at, __global const float *old_z, __global const float *old_x,
           __global const float *sigmas, __global const float *slopes, ulong slopes_at, int moving, int N, int D, int n0, int count)
{
  const size_t at = ((size_t)get_global_id (0) * N + n0) * D;
  float moved[D_MAX], to[D_MAX];
  z += z_at + at;
  x += x_at + at;
  old_z += at;
  old_x += at;
  sigmas += at;
  slopes += slopes_at;
  for (int r = 0; r < count; r++, x += D, z += D, old_x += D, old_z += D, sigmas += D)
    {
      for (int i = 0; i < D; i++)
        to[i] = fma (sigmas[i], z[i] - old_z[i], old_x[i]);
      if (moving)
        {
          for (int i = 0; i < D; i++)
            moved[i] = x[i - D] - old_x[i - D];
          nf_mix (moved, slopes, to, D);
        }
      for (int i = 0; i < D; i++)
        x[i] = clamp (to[i], -NF_FARTHEST, NF_FARTHEST);
    }
}

/* Tokens n0 .. n0+count-1 of x (B, N, D) are what a sweep says that read BEFORE (B, count, D). Each is moved on by slopes (D, D) times what the token before
 * it moved by unless MOVING is 0, and, if PLACED, to the nearest of the values that an 8-bit sample has at its place: places (B, N, D), in the basis of
 * pixels, are those of samples of 0. changes (2, B, count) gets the largest change of a value, and how far at most PLACED moved one. Global size (B). */
NF_KERNEL void
nf_settle (NF_ITEM __global float *x, ulong x_at, __global const float *before, __global const float *slopes, ulong slopes_at, int moving,
           __global const float *places, ulong places_at, int placed, __global const float *basis, int has_basis, __global float *changes, int N, int D,
           int n0, int count)
{
  const int b = get_global_id (0);
  float moved[D_MAX], to[D_MAX];
  x += x_at + ((size_t)b * N + n0) * D;
  before += (size_t)b * count * D;
  places += places_at + ((size_t)b * N + n0) * D;
  slopes += slopes_at;
  for (int r = 0; r < count; r++, x += D, before += D, places += D)
    {
      float most = 0.0f, off = 0.0f;
      for (int i = 0; i < D; i++)
        to[i] = x[i];
      if (moving && r > 0)
        nf_mix (moved, slopes, to, D);
      for (int i = 0; i < D; i++)
        x[i] = to[i];
      if (placed)
        {
          if (has_basis)
            nf_from_basis (basis, x, to, D);
          for (int i = 0; i < D; i++)
            {
              const float place = clamp (rint ((to[i] - places[i]) * 128.0f), 0.0f, 255.0f) / 128.0f + places[i];
              off = fmax (off, fabs (to[i] - place));
              if (!isnan (to[i])) /* which stays so */
                to[i] = place;
            }
          if (has_basis)
            nf_to_basis (basis, to, x, D);
          else
            for (int i = 0; i < D; i++)
              x[i] = to[i];
        }
      for (int i = 0; i < D; i++)
        {
          moved[i] = x[i] - before[i];
          most = isnan (most) || fabs (moved[i]) <= most ? most : fabs (moved[i]);
        }
      changes[b * count + r] = most;
      changes[((int)get_global_size (0) + b) * count + r] = off;
    }
}

/* to (B, count, D) = tokens n0-1 .. n0+count-2 of u (B, N, D), token -1 is sos (D). Global size (B count). */
NF_KERNEL void
nf_shift_in (NF_ITEM __global const float *u, ulong u_at, __global const float *sos, ulong sos_at, __global float *to, ulong to_at, int n0, int count, int N,
             int D)
{
  const int b = get_global_id (0) / count, n = n0 + get_global_id (0) % count - 1;
  __global const float *from = n < 0 ? sos + sos_at : u + u_at + ((size_t)b * N + n) * D;
  to += to_at + get_global_id (0) * D;
  for (int i = 0; i < D; i += VW)
    nf_store_head (nf_load_head (from + i, D - i), to + i, D - i);
}

/* Of the whole sequence: du[b, n] += dto[b, n+1]; dsos += sum over b of dto[b, 0] if wanted. Global size (D / VW, rounded up, N). */
NF_KERNEL void
nf_shift_in_backward (NF_ITEM __global const float *dto, ulong dto_at, __global float *du, ulong du_at, __global float *dsos, ulong dsos_at, int want_sos, int B,
                      int N, int D)
{
  const int i = get_global_id (0) * VW, n = get_global_id (1), lanes = D - i;
  dto += dto_at + (size_t)n * D + i;
  if (n == 0 && want_sos)
    {
      floatv sum = 0.0f;
      for (int b = 0; b < B; b++)
        sum += nf_load_head (dto + (size_t)b * N * D, lanes);
      dsos += dsos_at + i;
      nf_store_head (nf_load_head (dsos, lanes) + sum, dsos, lanes);
    }
  if (n == 0)
    return;
  du += du_at + (size_t)(n - 1) * D + i;
  for (size_t at = 0; at < (size_t)B * N * D; at += (size_t)N * D)
    nf_store_head (nf_load_head (du + at, lanes) + nf_load_head (dto + at, lanes), du + at, lanes);
}

/* to[b, n] = from[b, m], m = n, or n reversed within its frame (flip), times scale[m] if scaled (the prior's standard deviations). Global size (B N). */
NF_KERNEL void
nf_reorder (NF_ITEM __global const float *from, ulong from_at, __global float *to, ulong to_at, int N, int D, int flip, int frame,
            __global const float *scale, ulong scale_at, int scaled)
{
  const int row = get_global_id (0), b = row / N, n = row % N, m = nf_flipped (n, frame, flip);
  from += from_at + ((size_t)b * N + m) * D;
  to += to_at + (size_t)row * D;
  scale += scale_at + (size_t)m * D;
  for (int i = 0; i < D; i += VW)
    {
      const floatv v = nf_load_head (from + i, D - i);
      nf_store_head (scaled ? v * nf_load_head (scale + i, D - i) : v, to + i, D - i);
    }
}

/* Tokens of tiles [tile0, tile0 + tiles) <-> the grid of a frame, (grid_height, grid_width, D). Global size (tokens of a tile, tiles). */
NF_KERNEL void
nf_grid (NF_ITEM __global float *tokens, ulong tokens_at, __global float *grid, int tile0, int tiles_x, int columns, int rows, int D,
         int to_grid)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  const int row = tile / tiles_x * rows + n / columns, column = tile % tiles_x * columns + n % columns;
  __global float *t = tokens + tokens_at + ((size_t)get_global_id (1) * rows * columns + n) * D;
  __global float *g = grid + ((size_t)row * tiles_x * columns + column) * D;
  for (int i = 0; i < D; i++)
    if (to_grid)
      g[i] = t[i];
    else
      t[i] = g[i];
}

/* y + sigma² ∇ log p(y): x = y - k dL/dx. Global size (values / VW, rounded up; buffers are padded). */
NF_KERNEL void
nf_denoise (NF_ITEM __global const float *y, ulong y_at, __global const float *grad, ulong grad_at, __global float *x, ulong x_at, float k)
{
  const size_t i = get_global_id (0) * VW;
  nf_storev (fma ((floatv)(-k), nf_loadv (grad + grad_at + i), nf_loadv (y + y_at + i)), x + x_at + i);
}

/* h[b, n, :] += the class's embedding, the mean of all for label -1. Global size (B N). */
NF_KERNEL void
nf_class_embed (NF_ITEM __global float *h, ulong h_at, __global const float *E, ulong E_at, __global const int *labels, int N, int d, int classes)
{
  const int m = get_global_id (0), label = labels[m / N];
  h += h_at + (size_t)m * d;
  E += E_at;
  for (int i = 0; i < d; i++)
    {
      float e = 0.0f;
      if (label >= 0)
        e = E[(size_t)label * d + i];
      else
        {
          for (int c = 0; c < classes; c++)
            e += E[(size_t)c * d + i];
          e /= classes;
        }
      h[i] += e;
    }
}

/* dE += from dh (B, N, d). Global size (d, classes). */
NF_KERNEL void
nf_class_embed_backward (NF_ITEM __global const float *dh, ulong dh_at, __global float *dE, ulong dE_at, __global const int *labels, int B, int N,
                         int d, int classes)
{
  const int i = get_global_id (0), c = get_global_id (1);
  float sum = 0.0f;
  dh += dh_at;
  for (int b = 0; b < B; b++)
    if (labels[b] == c || labels[b] < 0)
      {
        float s = 0.0f;
        for (int n = 0; n < N; n++)
          s += dh[((size_t)b * N + n) * d + i];
        sum += labels[b] < 0 ? s / classes : s;
      }
  dE[dE_at + (size_t)c * d + i] += sum;
}

/* dpos[n] += sum over b of dh[b, n], n in natural order. Global size (d, N). */
NF_KERNEL void
nf_position_backward (NF_ITEM __global const float *dh, ulong dh_at, __global float *dpos, ulong dpos_at, int B, int N, int d, int flip, int frame)
{
  const int i = get_global_id (0), n = get_global_id (1);
  float sum = 0.0f;
  dh += dh_at;
  for (int b = 0; b < B; b++)
    sum += dh[((size_t)b * N + nf_flipped (n, frame, flip)) * d + i];
  dpos[dpos_at + (size_t)n * d + i] += sum;
}
