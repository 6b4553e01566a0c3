/* The affine step of a flow block, forward, backward and inverse. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Block order is the order in which a block's own sequence runs. u (B, N, D) is the block's input in that order, o (B, N, 2D) what the network says
 * (log-scale alpha, then shift mu; only mu, (B, N, D), if the model is volume-preserving). Token n uses row n-1 of o; token 0 stays as it is.
 *   z = (u - mu) exp(-alpha),  log |dz/du| = -sum alpha                      (Zhai et al. 2024, arXiv 2412.06329, eq. 4 to 6) */

/* z goes to row N-1-n if out_flip (the next block runs the other way). log_det (B, N) in natural order, reversed to the block's if flip;
 * added to what is there if accumulate. Global size (B N). */
__kernel void
nf_affine (__global const float *u, ulong u_at, __global const float *o, __global float *z, ulong z_at, __global float *log_det,
           int N, int D, int nvp, int flip, int out_flip, int accumulate)
{
  const int m = get_global_id (0), b = m / N, n = m % N;
  const int width = nvp ? 2 * D : D;
  u += u_at + (size_t)m * D;
  z += z_at + ((size_t)b * N + (out_flip ? N - 1 - n : n)) * D;
  o += (size_t)(m - 1) * width;
  floatv sum = 0.0f;
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      floatv v = nf_load_head (u + i, lanes);
      if (n > 0)
        {
          v -= nf_load_head (o + width - D + i, lanes);
          if (nvp)
            {
              const floatv alpha = nf_load_head (o + i, lanes);
              sum += alpha;
              v *= nf_expv (-alpha);
            }
        }
      nf_store_head (v, z + i, lanes);
    }
  __global float *l = log_det + (size_t)b * N + (flip ? N - 1 - n : n);
  *l = (accumulate ? *l : 0.0f) - nf_sumv (sum);
}

/* dz (rows as nf_affine wrote z), dL/dlog-determinant = -g per value: du (B, N, D), d_o like o. Global size (B N). */
__kernel void
nf_affine_backward (__global const float *u, ulong u_at, __global const float *o, __global const float *dz, ulong dz_at,
                    __global float *du, ulong du_at, __global float *d_o, int N, int D, int nvp, int out_flip, float g)
{
  const int m = get_global_id (0), b = m / N, n = m % N;
  const int width = nvp ? 2 * D : D;
  u += u_at + (size_t)m * D;
  du += du_at + (size_t)m * D;
  dz += dz_at + ((size_t)b * N + (out_flip ? N - 1 - n : n)) * D;
  /* token n owns row n-1; token 0 clears the last row, which nobody uses */
  __global float *d_row = d_o + ((size_t)b * N + (n > 0 ? n - 1 : N - 1)) * width;
  o += (size_t)(m - 1) * width;
  for (int i = 0; i < D; i += VW)
    {
      const int lanes = D - i;
      floatv v = nf_load_head (dz + i, lanes), d_shift = 0.0f, d_scale = 0.0f;
      if (n > 0)
        {
          if (nvp)
            {
              const floatv e = nf_expv (-nf_load_head (o + i, lanes));
              const floatv z = (nf_load_head (u + i, lanes) - nf_load_head (o + D + i, lanes)) * e;
              d_scale = g - v * z;
              v *= e;
            }
          d_shift = -v;
        }
      nf_store_head (v, du + i, lanes);
      nf_store_head (d_shift, d_row + width - D + i, lanes);
      if (nvp)
        nf_store_head (d_scale, d_row + i, lanes);
    }
}

/* dz = g z and z²/2 summed over each token. Global size (B N). */
__kernel void
nf_prior (__global const float *z, ulong z_at, __global float *dz, int keep, __global float *half_square, float g, int D)
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

/* Values of 8-bit samples lie on a lattice: (k + (j + 1/2)/steps)/128 - 1 with uniform noise, 2k/255 - 1 without (steps 0). */
static inline float
nf_snap (float x, int steps)
{
  if (steps == 0)
    return clamp (rint ((x + 1.0f) * 127.5f), 0.0f, 255.0f) * (2.0f / 255.0f) - 1.0f;
  const float at = clamp (floor ((x + 1.0f) * (128.0f * steps)), 0.0f, 256.0f * steps - 1.0f);
  return (at + 0.5f) / (128.0f * steps) - 1.0f;
}

/* Token t in its basis (D, D), orthonormal, rows are basis vectors: t = W y and back y = Wᵀ t. */
static inline void
nf_to_basis (__global const float *W, const float y[D_MAX], __global float *t, int D)
{
  for (int i = 0; i < D; i++)
    {
      float s = 0.0f;
      for (int j = 0; j < D; j++)
        s = fma (W[i * D + j], y[j], s);
      t[i] = s;
    }
}
static inline void
nf_from_basis (__global const float *W, __global const float *t, float y[D_MAX], int D)
{
  for (int j = 0; j < D; j++)
    y[j] = 0.0f;
  for (int i = 0; i < D; i++)
    for (int j = 0; j < D; j++)
      y[j] = fma (W[i * D + j], t[i], y[j]);
}

static inline void
nf_snap_token (__global float *t, __global const float *basis, int has_basis, int steps, int D)
{
  if (!has_basis)
    {
      for (int i = 0; i < D; i++)
        t[i] = nf_snap (t[i], steps);
      return;
    }
  float y[D_MAX];
  nf_from_basis (basis, t, y, D);
  for (int i = 0; i < D; i++)
    y[i] = nf_snap (y[i], steps);
  nf_to_basis (basis, y, t, D);
}

/* One step of decoding: token n of u (B, N, D), in block order, becomes u exp(alpha) + mu; o (B or 2B, 2D or D) is what the network said after
 * token n-1, the unguided branch's rows after the guided ones. Guidance: alpha + w (alpha - alpha_u), the same for mu. n = 0 only snaps.
 * snap_steps < 0: no snapping. Global size (B). */
__kernel void
nf_affine_inverse (__global float *u, ulong u_at, __global const float *o, int B, int N, int n, int D, int nvp, float w_scale, float w_shift,
                   int guided, int snap_steps, __global const float *basis, int has_basis)
{
  const int b = get_global_id (0), width = nvp ? 2 * D : D;
  u += u_at + ((size_t)b * N + n) * D;
  __global const float *c = o + (size_t)b * width, *v = o + (size_t)(B + b) * width;
  for (int i = 0; n > 0 && i < D; i += VW)
    {
      const int lanes = D - i;
      floatv mu = nf_load_head (c + width - D + i, lanes), x = nf_load_head (u + i, lanes);
      if (guided)
        mu = fma ((floatv)(w_shift), mu - nf_load_head (v + width - D + i, lanes), mu);
      if (nvp)
        {
          floatv alpha = nf_load_head (c + i, lanes);
          if (guided)
            alpha = fma ((floatv)(w_scale), alpha - nf_load_head (v + i, lanes), alpha);
          x *= nf_expv (alpha);
        }
      nf_store_head (x + mu, u + i, lanes);
    }
  if (snap_steps >= 0)
    nf_snap_token (u, basis, has_basis, snap_steps, D);
}

/* to[b, n] = from[b, m], m = N-1-n (flip) or n, times scale[m] if scaled (the prior's standard deviations). Global size (B N). */
__kernel void
nf_reorder (__global const float *from, ulong from_at, __global float *to, ulong to_at, int N, int D, int flip,
            __global const float *scale, ulong scale_at, int scaled)
{
  const int row = get_global_id (0), b = row / N, n = row % N, m = flip ? N - 1 - n : n;
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
__kernel void
nf_grid (__global float *tokens, ulong tokens_at, __global float *grid, int tile0, int tiles_x, int side, int D, int to_grid)
{
  const int n = get_global_id (0), tile = tile0 + get_global_id (1);
  const int row = tile / tiles_x * side + n / side, column = tile % tiles_x * side + n % side;
  __global float *t = tokens + tokens_at + ((size_t)get_global_id (1) * side * side + n) * D;
  __global float *g = grid + ((size_t)row * tiles_x * side + column) * D;
  for (int i = 0; i < D; i++)
    if (to_grid)
      g[i] = t[i];
    else
      t[i] = g[i];
}

/* y + sigma² ∇ log p(y): x = y - k dL/dx. Global size (values / VW, rounded up; buffers are padded). */
__kernel void
nf_denoise (__global const float *y, ulong y_at, __global const float *grad, ulong grad_at, __global float *x, ulong x_at, float k)
{
  const size_t i = get_global_id (0) * VW;
  nf_storev (fma ((floatv)(-k), nf_loadv (grad + grad_at + i), nf_loadv (y + y_at + i)), x + x_at + i);
}

/* h[b, n, :] += the class's embedding, the mean of all for label -1. Global size (B N). */
__kernel void
nf_class_embed (__global float *h, ulong h_at, __global const float *E, ulong E_at, __global const int *labels, int N, int d, int classes)
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
__kernel void
nf_class_embed_backward (__global const float *dh, ulong dh_at, __global float *dE, ulong dE_at, __global const int *labels, int B, int N,
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
__kernel void
nf_position_backward (__global const float *dh, ulong dh_at, __global float *dpos, ulong dpos_at, int B, int N, int d, int flip)
{
  const int i = get_global_id (0), n = get_global_id (1);
  float sum = 0.0f;
  dh += dh_at;
  for (int b = 0; b < B; b++)
    sum += dh[((size_t)b * N + (flip ? N - 1 - n : n)) * d + i];
  dpos[dpos_at + (size_t)n * d + i] += sum;
}
