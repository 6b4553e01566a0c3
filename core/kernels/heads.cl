/* Queries and keys between product and attention. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Rows are [H query heads | Hkv key heads | Hkv value heads] of DH features, `row` floats apart, samples `batch` apart. Each query and key head goes
 * through an RMS norm with unit offset and is then turned by the angles of its position (Su et al. 2021, arXiv 2104.09864). */

/* Pairs (2i, 2i+1) of x by angles given as pairs (cos, sin); way -1 turns back. */
static inline floatv
nf_turn_pairs (floatv x, floatv angle, float way)
{
  floatv y;
  y.even = fma (x.odd * -way, angle.odd, x.even * angle.even);
  y.odd = fma (x.even * way, angle.odd, x.odd * angle.even);
  return y;
}

/* One head: y = turned x × factor (1 + w). w is read if `normed`, angles (DH/2, 2) if `rotated`; half_split pairs feature i with i + DH/2.
 * y may be x. */
static inline void
nf_turn_head (__global const float *x, __global const float *w, int normed, float factor, __global const float *angles, int rotated,
              int half_split, float way, __global float *y)
{
  if (!rotated || !half_split)
    {
      for (int i = 0; i < DH; i += VW)
        {
          floatv v = nf_load_head (x + i, DH - i);
          if (normed)
            v = v * factor * (nf_load_head (w + i, DH - i) + 1.0f);
          if (rotated)
            v = nf_turn_pairs (v, nf_load_head (angles + i, DH - i), way);
          nf_store_head (v, y + i, DH - i);
        }
      return;
    }
  for (int i = 0; i < DH / 2; i += VW)
    {
      const int lanes = DH / 2 - i;
      floatv a = nf_load_head (x + i, lanes), b = nf_load_head (x + DH / 2 + i, lanes);
      if (normed)
        {
          a = a * factor * (nf_load_head (w + i, lanes) + 1.0f);
          b = b * factor * (nf_load_head (w + DH / 2 + i, lanes) + 1.0f);
        }
      const floatv t0 = nf_load_head (angles + 2 * i, 2 * lanes), t1 = nf_load_head (angles + 2 * i + VW, 2 * lanes - VW);
      const floatv c = (floatv)(t0.even, t1.even), s = (floatv)(t0.odd, t1.odd) * way;
      nf_store_head (fma (-b, s, a * c), y + i, lanes);
      nf_store_head (fma (a, s, b * c), y + DH / 2 + i, lanes);
    }
}

static inline float
nf_head_factor (__global const float *x)
{
  floatv square = 0.0f;
  for (int i = 0; i < DH; i += VW)
    {
      const floatv v = nf_load_head (x + i, DH - i);
      square = fma (v, v, square);
    }
  return 1.0f / sqrt (nf_sumv (square) / DH + 1e-6f);
}

/* `heads` of each row: all, or not the values if they are where they should be. Row r of a sample has position position0 + r.
 * Global size (count B, work-items that share a row's heads). */
NF_KERNEL void
nf_heads (NF_ITEM __global const float *from, ulong from_at, __global float *to, ulong to_at, __global const float *q_norm, ulong q_norm_at,
          __global const float *k_norm, ulong k_norm_at, int normed, __global const float *table, ulong table_at, int rotated, int half_split,
          ulong row, ulong batch, int position0, int count, int H, int Hkv, int heads)
{
  const int b = get_global_id (0) / count, r = get_global_id (0) % count;
  table += table_at + (size_t)(position0 + r) * (DH / 2 * 2);
  for (int h = get_global_id (1); h < heads; h += get_global_size (1))
    {
      const size_t at = b * batch + r * row + (size_t)h * DH;
      __global const float *x = from + from_at + at, *w = h < H ? q_norm + q_norm_at : k_norm + k_norm_at;
      const int turned = h < H + Hkv;
      nf_turn_head (x, w, turned && normed, turned && normed ? nf_head_factor (x) : 1.0f, table, turned && rotated, half_split, 1.0f,
                    to + to_at + at);
    }
}

/* Gradients of the above in place: d holds those of what nf_heads wrote and gets those of what it read, `from`. products (B count, H + Hkv, DH), with
 * norms only, gets what the gradients of the norms are sums of. */
NF_KERNEL void
nf_heads_backward (NF_ITEM __global const float *from, ulong from_at, __global float *d, ulong d_at, __global const float *q_norm, ulong q_norm_at,
                   __global const float *k_norm, ulong k_norm_at, int normed, __global const float *table, ulong table_at, int rotated,
                   int half_split, ulong row, ulong batch, int position0, int count, int H, int Hkv, __global float *products)
{
  const int b = get_global_id (0) / count, r = get_global_id (0) % count;
  table += table_at + (size_t)(position0 + r) * (DH / 2 * 2);
  for (int h = get_global_id (1); h < H + Hkv; h += get_global_size (1))
    {
      const size_t at = b * batch + r * row + (size_t)h * DH;
      __global const float *x = from + from_at + at, *w = h < H ? q_norm + q_norm_at : k_norm + k_norm_at;
      __global float *g = d + d_at + at;
      if (rotated)
        nf_turn_head (g, w, 0, 1.0f, table, 1, half_split, -1.0f, g);
      if (!normed)
        continue;
      __global float *product = products + (get_global_id (0) * (H + Hkv) + h) * DH;
      const float factor = nf_head_factor (x);
      floatv sum = 0.0f;
      for (int i = 0; i < DH; i += VW)
        {
          const floatv p = nf_load_head (g + i, DH - i) * (nf_load_head (x + i, DH - i) * factor);
          nf_store_head (p, product + i, DH - i);
          sum = fma (p, nf_load_head (w + i, DH - i) + 1.0f, sum);
        }
      const float mean = nf_sumv (sum) / DH;
      for (int i = 0; i < DH; i += VW)
        {
          const floatv c = nf_load_head (x + i, DH - i) * factor;
          nf_store_head ((nf_load_head (g + i, DH - i) * (nf_load_head (w + i, DH - i) + 1.0f) - c * mean) * factor, g + i, DH - i);
        }
    }
}
