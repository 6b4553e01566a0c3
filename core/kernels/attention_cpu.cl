/* Attention on a CPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Compiled per head size: -DDH=features of a head. Keys are kept transposed in blocks of VW (nf_append), so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]     V[b][n][...] row-major, rows v_row apart
 * A query meets keys in blocks of NR from key 0 on, whatever the number of queries: encoding N tokens at once and decoding one by one give
 * the same bits. Which of them it meets is the mask's matter (nf_sight). H / Hkv query heads share a key head. */

#define DV ((DH + VW - 1) / VW) /* vectors of a head */
#if DV <= 4
#define QT 6
#else
#define QT 3
#endif

/* scale·q·k of QT queries with the NR keys of one block. */
static inline void
nf_scores (floatv s[QT][2], __global const float *const q[QT], __global const float *kt, int step, float scale)
{
#pragma unroll
  for (int i = 0; i < QT; i++)
    s[i][0] = s[i][1] = 0.0f;
  for (int e = 0; e < DH; e++)
    {
      const floatv k0 = nf_loadv (kt + e * VW), k1 = nf_loadv (kt + step + e * VW);
#pragma unroll
      for (int i = 0; i < QT; i++)
        {
          s[i][0] = fma ((floatv)(q[i][e]), k0, s[i][0]);
          s[i][1] = fma ((floatv)(q[i][e]), k1, s[i][1]);
        }
    }
#pragma unroll
  for (int i = 0; i < QT; i++)
#pragma unroll
    for (int v = 0; v < 2; v++)
      s[i][v] *= scale;
}

/* -inf where a query does not meet a key. */
static inline void
nf_hide (floatv s[QT][2], const int2 sight[QT], int prefix, int key0)
{
#pragma unroll
  for (int i = 0; i < QT; i++)
#pragma unroll
    for (int v = 0; v < 2; v++)
      {
        const intv key = NF_LANES + (key0 + v * VW);
        const intv seen = (key < (intv)(sight[i].y)) & ((key < (intv)(prefix)) | (key >= (intv)(sight[i].x)));
        s[i][v] = select ((floatv)(-INFINITY), s[i][v], seen);
      }
}

/* What the queries of a tile see: .x to .y some of them (and the prefix), .z to .w all of them. */
static inline int4
nf_tile_sight (const int2 sight[QT])
{
  int4 all = sight[0].xyxy;
#pragma unroll
  for (int i = 1; i < QT; i++)
    all = (int4)(min (all.x, sight[i].x), max (all.y, sight[i].y), max (all.z, sight[i].x), min (all.w, sight[i].y));
  return all;
}

/* The block at key0, or the next that any query of the tile sees. A block that a query does not see leaves it as it is, bit for bit. */
static inline int
nf_seen_block (int4 tile, int prefix, int key0)
{
  return key0 < prefix ? key0 : max (key0, tile.x / NR * NR);
}

static inline int
nf_all_see (int4 tile, int prefix, int key0)
{
  return key0 + NR <= tile.w && (key0 + NR <= prefix || key0 >= tile.z);
}

/* Queries q0 .. q0+Nq-1 of each sample against the keys that they see. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart; stats, if kept, gets the softmax's maximum and sum, (B, H, N, 2).
 * Global size (query tiles, H, B); blocks is even, so that a block of NR keys is always there. */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global const float *V, ulong V_at, int v_row, ulong v_batch, __global float *out, ulong out_at, int out_row,
              ulong out_batch, __global float *stats, int keep_stats, int q0, int Nq, float scale, float scale2, int split,
              int H, int Hkv, int8 mask)
{
  const int h = get_global_id (1), hkv = h / (H / Hkv), b = get_global_id (2), first = get_global_id (0) * QT, prefix = NF_PREFIX (mask);
  const float sc = b < split ? scale : scale2;
  __global const float *q[QT];
  int2 sight[QT];
#pragma unroll
  for (int i = 0; i < QT; i++)
    {
      const int n = min (first + i, Nq - 1);
      q[i] = Q + Q_at + b * q_batch + (size_t)n * q_row + h * DH;
      sight[i] = nf_sight (mask, q0 + n);
    }
  const int4 tile = nf_tile_sight (sight);
  Kt += Kt_at + ((size_t)b * Hkv + hkv) * blocks * DH * VW;
  V += V_at + b * v_batch + hkv * DH;
  floatv acc[QT][DV];
  float m[QT], l[QT];
#pragma unroll
  for (int i = 0; i < QT; i++)
    {
      m[i] = -INFINITY;
      l[i] = 0.0f;
#pragma unroll
      for (int e = 0; e < DV; e++)
        acc[i][e] = 0.0f;
    }
  for (int key0 = nf_seen_block (tile, prefix, 0); key0 < tile.y; key0 = nf_seen_block (tile, prefix, key0 + NR))
    {
      floatv s[QT][2];
      float p[QT][NR];
      nf_scores (s, q, Kt + (size_t)(key0 / VW) * DH * VW, DH * VW, sc);
      if (!nf_all_see (tile, prefix, key0))
        nf_hide (s, sight, prefix, key0);
#pragma unroll
      for (int i = 0; i < QT; i++)
        {
          const float top = fmax (m[i], nf_maxv (fmax (s[i][0], s[i][1])));
          const float shrink = m[i] == top ? 1.0f : nf_exp (m[i] - top);
          const floatv p0 = select (nf_expv (s[i][0] - top), (floatv)(0.0f), s[i][0] == (floatv)(-INFINITY));
          const floatv p1 = select (nf_expv (s[i][1] - top), (floatv)(0.0f), s[i][1] == (floatv)(-INFINITY));
          nf_storev (p0, p[i]);
          nf_storev (p1, p[i] + VW);
          l[i] = fma (l[i], shrink, nf_sumv (p0 + p1));
          m[i] = top;
#pragma unroll
          for (int e = 0; e < DV; e++)
            acc[i][e] *= shrink;
        }
      const int count = min (NR, tile.y - key0);
      for (int j = 0; j < count; j++)
        {
          __global const float *v = V + (size_t)(key0 + j) * v_row;
#pragma unroll
          for (int e = 0; e < DV; e++)
            {
              const floatv ve = nf_load_head (v + e * VW, DH - e * VW);
#pragma unroll
              for (int i = 0; i < QT; i++)
                acc[i][e] = fma ((floatv)(p[i][j]), ve, acc[i][e]);
            }
        }
    }
#pragma unroll
  for (int i = 0; i < QT; i++)
    if (first + i < Nq)
      {
        const float r = l[i] > 0.0f ? 1.0f / l[i] : 0.0f; /* a query that sees nothing gets nothing */
        __global float *o = out + out_at + b * out_batch + (size_t)(first + i) * out_row + h * DH;
#pragma unroll
        for (int e = 0; e < DV; e++)
          nf_store_head (acc[i][e] * r, o + e * VW, DH - e * VW);
        if (keep_stats)
          {
            __global float *t = stats + (((size_t)b * H + h) * Nq + first + i) * 2;
            t[0] = m[i];
            t[1] = l[i];
          }
      }
}

/* Backward of a key head, and of the query heads that share it, over a whole sequence. qkv, dqkv (B, N, (H + 2 Hkv) DH); out, dout (B, N, H DH);
 * Kt, Vt from nf_append; stats from nf_attention.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout. Global size (Hkv, B). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask,
                       float scale)
{
  const int hkv = get_global_id (0), b = get_global_id (1), d = H * DH, row = d + 2 * Hkv * DH, share = H / Hkv, prefix = NF_PREFIX (mask);
  const size_t sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global const float *K = qkv + qkv_at + key_head;
  __global float *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH;
  out += out_at + (size_t)b * N * d;
  dout += dout_at + (size_t)b * N * d;
  stats += (size_t)b * H * N * 2;
  Kt += ((size_t)b * Hkv + hkv) * blocks * DH * VW;
  Vt += ((size_t)b * Hkv + hkv) * blocks * DH * VW;
  for (int n = 0; n < N; n++)
    for (int e = 0; e < DV; e++)
      {
        nf_store_head ((floatv)(0.0f), dK + (size_t)n * row + e * VW, DH - e * VW);
        nf_store_head ((floatv)(0.0f), dV + (size_t)n * row + e * VW, DH - e * VW);
      }
  for (int h = hkv * share; h < (hkv + 1) * share; h++)
    for (int first = 0; first < N; first += QT)
      {
        __global const float *q[QT], *g[QT];
        int2 sight[QT];
        float m[QT], rl[QT], dot[QT];
        floatv dq[QT][DV];
#pragma unroll
        for (int i = 0; i < QT; i++)
          {
            const int n = min (first + i, N - 1);
            const size_t at = (size_t)n * d + h * DH, stat = ((size_t)h * N + n) * 2;
            q[i] = qkv + qkv_at + sample + (size_t)n * row + h * DH;
            g[i] = dout + at;
            /* a query past the end sees no key: its probabilities are 0 and add nothing */
            sight[i] = nf_sight (mask, n);
            if (first + i >= N)
              sight[i].y = 0;
            m[i] = stats[stat];
            rl[i] = 1.0f / stats[stat + 1];
            floatv s = 0.0f;
#pragma unroll
            for (int e = 0; e < DV; e++)
              {
                s = fma (nf_load_head (g[i] + e * VW, DH - e * VW), nf_load_head (out + at + e * VW, DH - e * VW), s);
                dq[i][e] = 0.0f;
              }
            dot[i] = nf_sumv (s);
          }
        const int4 tile = nf_tile_sight (sight);
        for (int key0 = nf_seen_block (tile, prefix, 0); key0 < tile.y; key0 = nf_seen_block (tile, prefix, key0 + NR))
          {
            floatv s[QT][2], dp[QT][2];
            float p[QT][NR], ds[QT][NR];
            const size_t block = (size_t)(key0 / VW) * DH * VW;
            nf_scores (s, q, Kt + block, DH * VW, scale);
            if (!nf_all_see (tile, prefix, key0))
              nf_hide (s, sight, prefix, key0);
#pragma unroll
            for (int i = 0; i < QT; i++)
              dp[i][0] = dp[i][1] = 0.0f;
            for (int e = 0; e < DH; e++)
              {
                const floatv v0 = nf_loadv (Vt + block + e * VW), v1 = nf_loadv (Vt + block + DH * VW + e * VW);
#pragma unroll
                for (int i = 0; i < QT; i++)
                  {
                    dp[i][0] = fma ((floatv)(g[i][e]), v0, dp[i][0]);
                    dp[i][1] = fma ((floatv)(g[i][e]), v1, dp[i][1]);
                  }
              }
#pragma unroll
            for (int i = 0; i < QT; i++)
#pragma unroll
              for (int v = 0; v < 2; v++)
                {
                  const intv masked = s[i][v] == (floatv)(-INFINITY);
                  const floatv pv = select (nf_expv (s[i][v] - m[i]) * rl[i], (floatv)(0.0f), masked);
                  nf_storev (pv, p[i] + v * VW);
                  nf_storev (select (pv * (dp[i][v] - dot[i]) * scale, (floatv)(0.0f), masked), ds[i] + v * VW);
                }
            const int count = min (NR, tile.y - key0);
            for (int j = 0; j < count; j++)
              {
                const size_t at = (size_t)(key0 + j) * row;
#pragma unroll
                for (int e = 0; e < DV; e++)
                  {
                    const int lanes = DH - e * VW;
                    const floatv k = nf_load_head (K + at + e * VW, lanes);
                    floatv dk = nf_load_head (dK + at + e * VW, lanes), dv = nf_load_head (dV + at + e * VW, lanes);
#pragma unroll
                    for (int i = 0; i < QT; i++)
                      {
                        dq[i][e] = fma ((floatv)(ds[i][j]), k, dq[i][e]);
                        dk = fma ((floatv)(ds[i][j]), nf_load_head (q[i] + e * VW, lanes), dk);
                        dv = fma ((floatv)(p[i][j]), nf_load_head (g[i] + e * VW, lanes), dv);
                      }
                    nf_store_head (dk, dK + at + e * VW, lanes);
                    nf_store_head (dv, dV + at + e * VW, lanes);
                  }
              }
          }
#pragma unroll
        for (int i = 0; i < QT; i++)
          if (first + i < N)
            for (int e = 0; e < DV; e++)
              nf_store_head (dq[i][e], dqkv + dqkv_at + sample + (size_t)(first + i) * row + h * DH + e * VW, DH - e * VW);
      }
}
