/* Causal attention on a GPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernels as in attention_cpu.cl, on the same keys (append.cl) and values. A query meets keys in blocks of KEYS from key 0 on, whatever the
 * number of queries and samples. rows_gpu.cl comes before this file: GROUP, nf_group_sum(). */

#define KEYS GROUP
#define FEATURES ((DH + GROUP - 1) / GROUP) /* of a work-item */

static inline float
nf_group_max (__local float *part, float v)
{
  const int i = get_local_id (0);
  part[i] = v;
  barrier (CLK_LOCAL_MEM_FENCE);
  for (int half_size = GROUP / 2; half_size > 0; half_size /= 2)
    {
      if (i < half_size)
        part[i] = fmax (part[i], part[i + half_size]);
      barrier (CLK_LOCAL_MEM_FENCE);
    }
  const float top = part[0];
  barrier (CLK_LOCAL_MEM_FENCE);
  return top;
}

/* Queries q0 .. q0+Nq-1 of each sample against keys 0 .. their own. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart; stats, if kept, gets the softmax's maximum and sum, (B, H, N, 2).
 * A work-group has one query: a work-item has one key of a block, then some features of the output. Global size (Nq GROUP, H, B). */
__kernel __attribute__ ((reqd_work_group_size (GROUP, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global const float *V, ulong V_at, int v_row, ulong v_batch, __global float *out, ulong out_at, int out_row,
              ulong out_batch, __global float *stats, int keep_stats, int q0, int Nq, float scale, float scale2, int split,
              int H)
{
  __local float part[GROUP], q[DH], p[KEYS];
  const int n = get_group_id (0), h = get_global_id (1), b = get_global_id (2), item = get_local_id (0);
  const int keys = q0 + n + 1;
  const float sc = b < split ? scale : scale2;
  float acc[FEATURES], m = -INFINITY, l = 0.0f;
  Q += Q_at + b * q_batch + (size_t)n * q_row + h * DH;
  Kt += Kt_at + ((size_t)b * H + h) * blocks * DH * VW;
  V += V_at + b * v_batch + h * DH;
  for (int e = item; e < DH; e += GROUP)
    q[e] = Q[e];
#pragma unroll
  for (int i = 0; i < FEATURES; i++)
    acc[i] = 0.0f;
  barrier (CLK_LOCAL_MEM_FENCE);
  for (int key0 = 0; key0 < keys; key0 += KEYS)
    {
      const int key = key0 + item, count = min (KEYS, keys - key0);
      float s = -INFINITY;
      if (key < keys)
        {
          __global const float *k = Kt + (size_t)(key / VW) * DH * VW + key % VW;
          s = 0.0f;
          for (int e = 0; e < DH; e++)
            s = fma (q[e], k[e * VW], s);
          s *= sc;
        }
      const float top = fmax (m, nf_group_max (part, s));
      const float shrink = m == top ? 1.0f : nf_exp (m - top);
      const float pk = key < keys ? nf_exp (s - top) : 0.0f;
      p[item] = pk;
      l = fma (l, shrink, nf_group_sum (part, pk));
      m = top;
#pragma unroll
      for (int i = 0; i < FEATURES; i++)
        {
          const int e = i * GROUP + item;
          acc[i] *= shrink;
          if (e < DH)
            for (int j = 0; j < count; j++)
              acc[i] = fma (p[j], V[(size_t)(key0 + j) * v_row + e], acc[i]);
        }
      barrier (CLK_LOCAL_MEM_FENCE);
    }
  const float r = 1.0f / l;
  out += out_at + b * out_batch + (size_t)n * out_row + h * DH;
#pragma unroll
  for (int i = 0; i < FEATURES; i++)
    if (i * GROUP + item < DH)
      out[i * GROUP + item] = acc[i] * r;
  if (keep_stats && item == 0)
    {
      stats += (((size_t)b * H + h) * Nq + n) * 2;
      stats[0] = m;
      stats[1] = l;
    }
}

/* Backward of one head over a whole sequence. qkv, dqkv (B, N, 3d); out, dout (B, N, d); Kt, Vt from nf_append; stats from nf_attention.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout.
 * A work-item has a query and meets all keys up to it, then has a key and meets all queries from it on: nothing is written by two.
 * Global size (H GROUP, B). */
__kernel __attribute__ ((reqd_work_group_size (GROUP, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, float scale)
{
  __local float m[GROUP], rl[GROUP], dot[GROUP];
  const int h = get_group_id (0), b = get_global_id (1), item = get_local_id (0), d = H * DH, row = 3 * d;
  const size_t head = (size_t)b * N * row + h * DH;
  __global const float *Q = qkv + qkv_at + head, *K = Q + d, *V = K + d;
  __global float *dQ = dqkv + dqkv_at + head, *dK = dQ + d, *dV = dK + d;
  out += out_at + (size_t)b * N * d + h * DH;
  dout += dout_at + (size_t)b * N * d + h * DH;
  stats += ((size_t)b * H + h) * N * 2;
  Kt += ((size_t)b * H + h) * blocks * DH * VW;
  Vt += ((size_t)b * H + h) * blocks * DH * VW;

  for (int n = item; n < N; n += GROUP)
    {
      __global const float *q = Q + (size_t)n * row, *g = dout + (size_t)n * d, *o = out + (size_t)n * d;
      const float top = stats[2 * n], r = 1.0f / stats[2 * n + 1];
      float dq[DH], go = 0.0f;
      for (int e = 0; e < DH; e++)
        {
          go = fma (g[e], o[e], go);
          dq[e] = 0.0f;
        }
      for (int j = 0; j <= n; j++)
        {
          __global const float *k = K + (size_t)j * row, *v = V + (size_t)j * row;
          float s = 0.0f, dp = 0.0f;
          for (int e = 0; e < DH; e++)
            {
              s = fma (q[e], k[e], s);
              dp = fma (g[e], v[e], dp);
            }
          const float ds = nf_exp (s * scale - top) * r * (dp - go) * scale;
          for (int e = 0; e < DH; e++)
            dq[e] = fma (ds, k[e], dq[e]);
        }
      for (int e = 0; e < DH; e++)
        dQ[(size_t)n * row + e] = dq[e];
    }

  for (int key0 = 0; key0 < N; key0 += GROUP)
    {
      const int key = min (key0 + item, N - 1);
      float k[DH], v[DH], dk[DH], dv[DH];
      for (int e = 0; e < DH; e++)
        {
          const size_t at = ((size_t)(key / VW) * DH + e) * VW + key % VW;
          k[e] = Kt[at];
          v[e] = Vt[at];
          dk[e] = dv[e] = 0.0f;
        }
      for (int n0 = key0; n0 < N; n0 += GROUP)
        {
          const int count = min (GROUP, N - n0);
          if (item < count)
            {
              const int n = n0 + item;
              float go = 0.0f;
              for (int e = 0; e < DH; e++)
                go = fma (dout[(size_t)n * d + e], out[(size_t)n * d + e], go);
              m[item] = stats[2 * n];
              rl[item] = 1.0f / stats[2 * n + 1];
              dot[item] = go;
            }
          barrier (CLK_LOCAL_MEM_FENCE);
          for (int i = max (key - n0, 0); i < count; i++)
            {
              __global const float *q = Q + (size_t)(n0 + i) * row, *g = dout + (size_t)(n0 + i) * d;
              float s = 0.0f, dp = 0.0f;
              for (int e = 0; e < DH; e++)
                {
                  s = fma (q[e], k[e], s);
                  dp = fma (g[e], v[e], dp);
                }
              const float pk = nf_exp (s * scale - m[i]) * rl[i], ds = pk * (dp - dot[i]) * scale;
              for (int e = 0; e < DH; e++)
                {
                  dk[e] = fma (ds, q[e], dk[e]);
                  dv[e] = fma (pk, g[e], dv[e]);
                }
            }
          barrier (CLK_LOCAL_MEM_FENCE);
        }
      if (key0 + item < N)
        for (int e = 0; e < DH; e++)
          {
            dK[(size_t)key * row + e] = dk[e];
            dV[(size_t)key * row + e] = dv[e];
          }
    }
}
