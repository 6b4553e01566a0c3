/* Causal attention on a CPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Compiled per head size: -DDH=features of a head. Keys are kept transposed in blocks of VW (nf_append), so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]     V[b][n][...] row-major, rows v_row apart
 * A query meets keys in blocks of NR from key 0 on, whatever the number of queries: encoding N tokens at once and decoding one by one give
 * the same bits. */

#define DV ((DH + VW - 1) / VW) /* vectors of a head */
#if DV <= 4
#define QT 6
#else
#define QT 3
#endif

/* scale·q·k of QT queries with the NR keys of one block, -inf where a key comes after its query. */
static inline void
nf_scores (floatv s[QT][2], __global const float *const q[QT], __global const float *kt, int step, float scale, int key0,
           const int last[QT])
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
      s[i][v] = select ((floatv)(-INFINITY), s[i][v] * scale, NF_LANES + (key0 + v * VW) <= (intv)(last[i]));
}

/* Queries q0 .. q0+Nq-1 of each sample against keys 0 .. their own. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart; stats, if kept, gets the softmax's maximum and sum, (B, H, N, 2).
 * Global size (query tiles, H, B); blocks is even, so that a block of NR keys is always there. */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global const float *V, ulong V_at, int v_row, ulong v_batch, __global float *out, ulong out_at, int out_row,
              ulong out_batch, __global float *stats, int keep_stats, int q0, int Nq, float scale, float scale2, int split,
              int H)
{
  const int h = get_global_id (1), b = get_global_id (2), first = get_global_id (0) * QT;
  const float sc = b < split ? scale : scale2;
  __global const float *q[QT];
  int last[QT];
#pragma unroll
  for (int i = 0; i < QT; i++)
    {
      const int n = min (first + i, Nq - 1);
      q[i] = Q + Q_at + b * q_batch + (size_t)n * q_row + h * DH;
      last[i] = q0 + n;
    }
  Kt += Kt_at + ((size_t)b * H + h) * blocks * DH * VW;
  V += V_at + b * v_batch + h * DH;
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
  const int keys = last[QT - 1] + 1;
  for (int key0 = 0; key0 < keys; key0 += NR)
    {
      floatv s[QT][2];
      float p[QT][NR];
      nf_scores (s, q, Kt + (size_t)(key0 / VW) * DH * VW, DH * VW, sc, key0, last);
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
      const int count = min (NR, keys - key0);
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
        const float r = 1.0f / l[i];
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

/* Backward of one head over a whole sequence. qkv, dqkv (B, N, 3d); out, dout (B, N, d); Kt, Vt from nf_append; stats from nf_attention.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout. Global size (H, B). */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, float scale)
{
  const int h = get_global_id (0), b = get_global_id (1), d = H * DH, row = 3 * d;
  const size_t head = (size_t)b * N * row + h * DH;
  __global const float *Q = qkv + qkv_at + head, *K = Q + d;
  __global float *dQ = dqkv + dqkv_at + head, *dK = dQ + d, *dV = dK + d;
  out += out_at + (size_t)b * N * d + h * DH;
  dout += dout_at + (size_t)b * N * d + h * DH;
  stats += ((size_t)b * H + h) * N * 2;
  Kt += ((size_t)b * H + h) * blocks * DH * VW;
  Vt += ((size_t)b * H + h) * blocks * DH * VW;
  for (int n = 0; n < N; n++)
    for (int e = 0; e < DV; e++)
      {
        nf_store_head ((floatv)(0.0f), dK + (size_t)n * row + e * VW, DH - e * VW);
        nf_store_head ((floatv)(0.0f), dV + (size_t)n * row + e * VW, DH - e * VW);
      }
  for (int first = 0; first < N; first += QT)
    {
      __global const float *q[QT], *g[QT];
      int last[QT];
      float m[QT], rl[QT], dot[QT];
      floatv dq[QT][DV];
#pragma unroll
      for (int i = 0; i < QT; i++)
        {
          const int n = min (first + i, N - 1);
          q[i] = Q + (size_t)n * row;
          g[i] = dout + (size_t)n * d;
          /* a query past the end sees no key: its probabilities are 0 and add nothing */
          last[i] = first + i < N ? n : -1;
          m[i] = stats[2 * n];
          rl[i] = 1.0f / stats[2 * n + 1];
          floatv s = 0.0f;
#pragma unroll
          for (int e = 0; e < DV; e++)
            {
              s = fma (nf_load_head (g[i] + e * VW, DH - e * VW), nf_load_head (out + (size_t)n * d + e * VW, DH - e * VW), s);
              dq[i][e] = 0.0f;
            }
          dot[i] = nf_sumv (s);
        }
      const int keys = min (first + QT, N);
      for (int key0 = 0; key0 < keys; key0 += NR)
        {
          floatv s[QT][2], dp[QT][2];
          float p[QT][NR], ds[QT][NR];
          const size_t block = (size_t)(key0 / VW) * DH * VW;
          nf_scores (s, q, Kt + block, DH * VW, scale, key0, last);
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
          const int count = min (NR, keys - key0);
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
            nf_store_head (dq[i][e], dQ + (size_t)(first + i) * row + e * VW, DH - e * VW);
    }
}
