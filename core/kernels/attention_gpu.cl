/* Attention on a GPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernels as in attention_cpu.cl, on the same keys (append.cl) and values. A query meets keys in blocks of KEYS from key 0 on, whatever the
 * number of queries and samples. rows_gpu.cl and append.cl come before this file: GROUP, nf_group_sum(), nf_sight(). */

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

/* Queries q0 .. q0+Nq-1 of each sample against the keys that they see. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart, with `halves` of bfloat16 for a product and out_row and out_batch in words of two; stats, if kept, gets the softmax's maximum and sum, (B, H, N, 2).
 * A work-group has one query: a work-item has one key of a block, then some features of the output. Global size (Nq GROUP, H, B). */
__kernel __attribute__ ((reqd_work_group_size (GROUP, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global const float *V, ulong V_at, int v_row, ulong v_batch, __global float *out, ulong out_at, int out_row,
              ulong out_batch, int halves, __global float *stats, int keep_stats, int q0, int Nq, float scale, float scale2, int split,
              int H, int Hkv, int8 mask)
{
  __local float part[GROUP], q[DH], p[KEYS];
  const int n = get_group_id (0), h = get_global_id (1), hkv = h / (H / Hkv), b = get_global_id (2), item = get_local_id (0);
  const int prefix = NF_PREFIX (mask);
  const int2 sight = nf_sight (mask, q0 + n);
  const float sc = b < split ? scale : scale2;
  float acc[FEATURES], m = -INFINITY, l = 0.0f;
  Q += Q_at + b * q_batch + (size_t)n * q_row + h * DH;
  Kt += Kt_at + ((size_t)b * Hkv + hkv) * blocks * DH * VW;
  V += V_at + b * v_batch + hkv * DH;
  for (int e = item; e < DH; e += GROUP)
    q[e] = Q[e];
#pragma unroll
  for (int i = 0; i < FEATURES; i++)
    acc[i] = 0.0f;
  barrier (CLK_LOCAL_MEM_FENCE);
  /* blocks between the prefix and what the query sees are passed over */
  const int from = sight.x / KEYS * KEYS;
  for (int key0 = prefix > 0 ? 0 : from; key0 < sight.y; key0 = key0 + KEYS < prefix ? key0 + KEYS : max (key0 + KEYS, from))
    {
      const int key = key0 + item, count = min (KEYS, sight.y - key0), seen = nf_sees (sight, prefix, key);
      float s = -INFINITY;
      if (seen)
        {
          __global const float *k = Kt + (size_t)(key / VW) * DH * VW + key % VW;
          s = 0.0f;
          for (int e = 0; e < DH; e++)
            s = fma (q[e], k[e * VW], s);
          s *= sc;
        }
      const float top = fmax (m, nf_group_max (part, s));
      const float shrink = m == top ? 1.0f : nf_exp (m - top);
      const float pk = seen ? nf_exp (s - top) : 0.0f;
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
  const float r = l > 0.0f ? 1.0f / l : 0.0f; /* a query that sees nothing gets nothing */
  out += out_at + b * out_batch + (size_t)n * out_row;
#pragma unroll
  for (int i = 0; i < FEATURES; i++)
    if (i * GROUP + item < DH)
      {
        const int e = h * DH + i * GROUP + item;
        if (halves)
          ((__global ushort *)out)[e] = nf_half (acc[i] * r);
        else
          out[e] = acc[i] * r;
      }
  if (keep_stats && item == 0)
    {
      stats += (((size_t)b * H + h) * Nq + n) * 2;
      stats[0] = m;
      stats[1] = l;
    }
}

/* Backward of a key head, and of the query heads that share it, over a whole sequence. qkv, dqkv (B, N, (H + 2 Hkv) DH); out, dout (B, N, H DH);
 * Kt, Vt from nf_append; stats from nf_attention.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout.
 * A work-item has a query and meets the keys that it sees, then has a key and meets the queries that see it: nothing is written by two.
 * Global size (Hkv GROUP, B). */
__kernel __attribute__ ((reqd_work_group_size (GROUP, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask, float scale)
{
  __local float m[GROUP], rl[GROUP], dot[GROUP];
  const int hkv = get_group_id (0), b = get_global_id (1), item = get_local_id (0), d = H * DH, row = d + 2 * Hkv * DH, share = H / Hkv;
  const int prefix = NF_PREFIX (mask), causal = mask.s0;
  const size_t sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global const float *Q = qkv + qkv_at + sample, *K = qkv + qkv_at + key_head, *V = K + Hkv * DH;
  __global float *dQ = dqkv + dqkv_at + sample, *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH;
  out += out_at + (size_t)b * N * d;
  dout += dout_at + (size_t)b * N * d;
  stats += (size_t)b * H * N * 2;
  Kt += ((size_t)b * Hkv + hkv) * blocks * DH * VW;
  Vt += ((size_t)b * Hkv + hkv) * blocks * DH * VW;

  for (int h = hkv * share; h < (hkv + 1) * share; h++)
    for (int n = item; n < N; n += GROUP)
      {
        const int2 sight = nf_sight (mask, n);
        const size_t at = (size_t)n * d + h * DH;
        __global const float *q = Q + (size_t)n * row + h * DH, *g = dout + at, *o = out + at, *stat = stats + ((size_t)h * N + n) * 2;
        const float top = stat[0], r = 1.0f / stat[1];
        float dq[DH], go = 0.0f;
        for (int e = 0; e < DH; e++)
          {
            go = fma (g[e], o[e], go);
            dq[e] = 0.0f;
          }
        for (int j = prefix > 0 ? 0 : sight.x; j < sight.y; j = j + 1 < prefix ? j + 1 : max (j + 1, sight.x))
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
          dQ[(size_t)n * row + h * DH + e] = dq[e];
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
      for (int h = hkv * share; h < (hkv + 1) * share; h++)
        for (int n0 = causal ? key0 : 0; n0 < N; n0 += GROUP)
          {
            const int count = min (GROUP, N - n0);
            if (item < count)
              {
                const size_t at = (size_t)(n0 + item) * d + h * DH, stat = ((size_t)h * N + n0 + item) * 2;
                float go = 0.0f;
                for (int e = 0; e < DH; e++)
                  go = fma (dout[at + e], out[at + e], go);
                m[item] = stats[stat];
                rl[item] = 1.0f / stats[stat + 1];
                dot[item] = go;
              }
            barrier (CLK_LOCAL_MEM_FENCE);
            for (int i = causal ? max (key - n0, 0) : 0; i < count; i++)
              {
                if (!nf_sees (nf_sight (mask, n0 + i), prefix, key))
                  continue;
                __global const float *q = Q + (size_t)(n0 + i) * row + h * DH, *g = dout + (size_t)(n0 + i) * d + h * DH;
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
