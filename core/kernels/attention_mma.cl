/* Attention on NVIDIA's tensor cores (mma.cl). SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernels as in attention_gpu.cl, which serves larger heads. A work-group has SIDE rows of scores, a warp 16 of them, against columns in
 * blocks of SIDE. Scores stay in the registers of whoever made them: as a left operand, row g, words t and t + 4, they weigh what belongs to columns
 * 2t and 2t + 1. */

#define NF_ATTENTION_MMA (NF_MMA && DH <= 64)

#if NF_ATTENTION_MMA

#define SIDE NF_QUERIES_OF_GPU
#define STEPS ((DH + 7) / 8)
#define HEAD (8 * STEPS)
#define PITCH (HEAD + 4)    /* of rows in local memory: eight of them lie in different banks, and so do two by two of four */
#define KEY_PITCH (SIDE + 8) /* of features of keys: four lie in different banks */
#define TILES (SIDE / 8)

/* Words that begin where 16 bytes do, in each row. */
NF_INLINED int
nf_is_wide (__global const float *rows, size_t row_pitch)
{
  return DH % 4 == 0 && row_pitch % 4 == 0 && ((size_t)rows & 15) == 0;
}

/* Features of rows 0 .. count-1, row_pitch apart, on their way; zeros elsewhere. */
NF_INLINED void
nf_bring (__local float *tile, __global const float *rows, size_t row_pitch, int count)
{
  const int wide = nf_is_wide (rows, row_pitch);
#pragma unroll 2
  for (int j = 0; j < SIDE * HEAD / 4 / NF_GROUP; j++)
    {
      const int i = j * NF_GROUP + get_local_id (0), r = i / (HEAD / 4), e = i % (HEAD / 4) * 4, words = r < count ? clamp (DH - e, 0, 4) : 0;
      nf_copy_words ((__local uint *)tile + r * PITCH + e, (__global const uint *)rows + r * row_pitch + e, wide, words);
    }
}

/* Keys first .. first+count-1 in blocks of VW, feature by feature; `first` is a multiple of SIDE. */
NF_INLINED void
nf_bring_keys (__local float *tile, __global const float *Kt, int first, int count)
{
  const int wide = ((size_t)Kt & 15) == 0;
#pragma unroll 2
  for (int j = 0; j < SIDE * HEAD / 4 / NF_GROUP; j++)
    {
      const int i = j * NF_GROUP + get_local_id (0), e = i / (SIDE / 4), r = i % (SIDE / 4) * 4, key = first + r,
                words = e < DH ? clamp (count - r, 0, 4) : 0;
      nf_copy_words ((__local uint *)tile + e * KEY_PITCH + r,
                     (__global const uint *)Kt + ((size_t)(key / VW) * DH + e) * VW + key % VW, wide, words);
    }
}

/* Features 8 step … of a warp's rows. */
NF_INLINED NfLeft
nf_bring_left (__local const float *rows, int step, int lane)
{
  uint words[4];
  nf_load_fragment (words, nf_address (rows + lane % 16 * PITCH + lane / 16 * 4 + 8 * step));
#pragma unroll
  for (int i = 0; i < 4; i++)
    words[i] = nf_round_upper (words[i]);
  return nf_left (words);
}

NF_INLINED NfRight
nf_bring_right (float first, float second)
{
  return nf_right (nf_round_upper (as_uint (first)), nf_round_upper (as_uint (second)));
}

/* Weights of columns 8 j … as a left operand. */
NF_INLINED NfLeft
nf_weights (const float s[4])
{
  const uint words[4] = { nf_round_upper (as_uint (s[0])), nf_round_upper (as_uint (s[2])), nf_round_upper (as_uint (s[1])),
                          nf_round_upper (as_uint (s[3])) };
  return nf_left (words);
}

/* sum of weights × rows of Y, features 8 step … */
NF_INLINED void
nf_weigh (float sum[4], const NfLeft weights[TILES], __local const float *Y, int step, int g, int t)
{
  sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
#pragma unroll
  for (int j = 0; j < TILES; j++)
    {
      __local const float *y = Y + (8 * j + 2 * t) * PITCH + 8 * step + g;
      const NfRight right = nf_bring_right (y[0], y[PITCH]);
      nf_mma (sum, &weights[j], &right);
    }
}

__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global float *out, ulong out_at, int out_row, ulong out_batch, int left, __global float *stats, int keep_stats, int q0, int Nq,
              float scale, float scale2, int split, int H, int Hkv, int8 mask)
{
  __local float __attribute__ ((aligned (16))) keys_of[2][HEAD * KEY_PITCH], values_of[2][SIDE * PITCH];
  const int first = get_group_id (0) * SIDE, count = min (SIDE, Nq - first), h = get_global_id (1), hkv = h / (H / Hkv), b = get_global_id (2);
  const int lane = get_local_id (0) % NF_WARP, g = lane / 4, t = lane % 4, row0 = get_local_id (0) / NF_WARP * 16, prefix = NF_PREFIX (mask);
  const int live = row0 < count;
  const float sc = b < split ? scale : scale2;
  float acc[STEPS][4], m[2] = { -INFINITY, -INFINITY }, l[2] = { 0.0f, 0.0f };
  NfLeft q[STEPS];
  int2 sight[2];
  Q += Q_at + b * q_batch + (size_t)first * q_row + h * DH;
  Kt += Kt_at + ((size_t)b * Hkv + hkv) * NF_HEAD (blocks, 1);
  __global const float *V = Kt + NF_KEYS (blocks);
  nf_bring (values_of[1], Q, q_row, count);
  nf_close_copies ();
  nf_wait_copies (0);
  barrier (CLK_LOCAL_MEM_FENCE);
#pragma unroll
  for (int e = 0; e < STEPS; e++)
    {
      q[e] = nf_bring_left (values_of[1] + row0 * PITCH, e, lane);
      acc[e][0] = acc[e][1] = acc[e][2] = acc[e][3] = 0.0f;
    }
#pragma unroll
  for (int i = 0; i < 2; i++)
    sight[i] = nf_sight (mask, q0 + first + min (row0 + g + 8 * i, count - 1));
  const int from = nf_sight (mask, q0 + first).x / SIDE * SIDE, end = nf_sight (mask, q0 + first + count - 1).y;
  int key0 = prefix > 0 ? 0 : from, next, at = 0;
  nf_bring_keys (keys_of[0], Kt, key0, min (SIDE, end - key0));
  nf_bring (values_of[0], V + (size_t)key0 * DH, DH, min (SIDE, end - key0));
  for (; key0 < end; key0 = next, at = 1 - at)
    {
      __local const float *K = keys_of[at], *Y = values_of[at];
      next = key0 + SIDE < prefix ? key0 + SIDE : max (key0 + SIDE, from);
      nf_close_copies ();
      barrier (CLK_LOCAL_MEM_FENCE); /* what was read before may be written over */
      if (next < end)
        {
          nf_bring_keys (keys_of[1 - at], Kt, next, min (SIDE, end - next));
          nf_bring (values_of[1 - at], V + (size_t)next * DH, DH, min (SIDE, end - next));
        }
      nf_close_copies ();
      nf_wait_copies (1);
      barrier (CLK_LOCAL_MEM_FENCE);
      if (!live)
        continue;
      float s[TILES][4];
#pragma unroll
      for (int j = 0; j < TILES; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
      for (int e = 0; e < STEPS; e++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
          {
            __local const float *k = K + (8 * e + t) * KEY_PITCH + 8 * j + g;
            const NfRight right = nf_bring_right (k[0], k[4 * KEY_PITCH]);
            nf_mma (s[j], &q[e], &right);
          }
      float shrink[2];
#pragma unroll
      for (int i = 0; i < 2; i++)
        {
          float top = m[i], sum = 0.0f;
#pragma unroll
          for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int c = 0; c < 2; c++)
              {
                s[j][2 * i + c] = nf_sees (sight[i], prefix, key0 + 8 * j + 2 * t + c) ? s[j][2 * i + c] * sc : -INFINITY;
                top = fmax (top, s[j][2 * i + c]);
              }
          top = nf_row_max (top);
#pragma unroll
          for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int c = 0; c < 2; c++)
              {
                s[j][2 * i + c] = s[j][2 * i + c] == -INFINITY ? 0.0f : nf_exp (s[j][2 * i + c] - top);
                sum += s[j][2 * i + c];
              }
          shrink[i] = m[i] == top ? 1.0f : nf_exp (m[i] - top);
          l[i] = fma (l[i], shrink[i], nf_row_sum (sum));
          m[i] = top;
        }
      NfLeft p[TILES];
#pragma unroll
      for (int j = 0; j < TILES; j++)
        p[j] = nf_weights (s[j]);
#pragma unroll
      for (int e = 0; e < STEPS; e++)
        {
          float sum[4];
          nf_weigh (sum, p, Y, e, g, t);
#pragma unroll
          for (int c = 0; c < 4; c++)
            acc[e][c] = fma (acc[e][c], shrink[c / 2], sum[c]);
        }
    }
  out += out_at + b * out_batch;
#pragma unroll
  for (int i = 0; i < 2; i++)
    {
      const int n = row0 + g + 8 * i;
      if (n >= count)
        continue;
      const float r = l[i] > 0.0f ? 1.0f / l[i] : 0.0f; /* a query that sees nothing gets nothing */
      __global float *to = out + (size_t)(first + n) * out_row;
#pragma unroll
      for (int e = 0; e < STEPS; e++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          {
            const int at = 8 * e + 2 * t + c;
            if (at < DH && left)
              ((__global ushort *)to)[h * DH + at] = nf_half (acc[e][2 * i + c] * r);
            else if (at < DH)
              to[h * DH + at] = acc[e][2 * i + c] * r;
          }
      if (keep_stats && t == 0)
        {
          __global float *stat = stats + (((size_t)b * H + h) * NF_N_KEYS (mask) + q0 + first + n) * 2;
          stat[0] = m[i];
          stat[1] = l[i];
        }
    }
}

/* What the backward pass knows of a query: maximum and 1/sum of its scores, dout·out. */
typedef struct
{
  float top[SIDE], r[SIDE], dot[SIDE];
} NfQueries;

/* A warp has every second one, AT_ONCE of them at a time. */
#define AT_ONCE 4

NF_INLINED void
nf_bring_queries (__local NfQueries *queries, __global const float *stats, __global const float *out, __global const float *dout,
                  size_t row_pitch, int count)
{
  const int lane = get_local_id (0) % NF_WARP, warps = NF_GROUP / NF_WARP;
#pragma unroll 1
  for (int first = get_local_id (0) / NF_WARP; first < SIDE; first += AT_ONCE * warps)
    {
      float sum[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++)
        {
          const int n = first + i * warps;
          sum[i] = 0.0f;
#pragma unroll
          for (int e = 0; e < HEAD; e += NF_WARP)
            if (n < count && e + lane < DH)
              sum[i] = fma (dout[n * row_pitch + e + lane], out[n * row_pitch + e + lane], sum[i]);
        }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++)
        {
#pragma unroll
          for (int other = NF_WARP / 2; other > 0; other /= 2)
            sum[i] += nf_from_lane (sum[i], other);
          if (lane == 0)
            queries->dot[first + i * warps] = sum[i];
        }
    }
  for (int n = get_local_id (0); n < SIDE; n += NF_GROUP)
    {
      queries->top[n] = n < count ? stats[2 * n] : 0.0f;
      queries->r[n] = n < count ? 1.0f / stats[2 * n + 1] : 0.0f;
    }
}

NF_INLINED void
nf_write_rows (__global float *to, size_t row_pitch, int count, float acc[STEPS][4], int row0, int g, int t)
{
#pragma unroll
  for (int i = 0; i < 2; i++)
    if (row0 + g + 8 * i < count)
      {
        __global float *row = to + (row0 + g + 8 * i) * row_pitch;
#pragma unroll
        for (int e = 0; e < STEPS; e++)
#pragma unroll
          for (int c = 0; c < 2; c++)
            if (8 * e + 2 * t + c < DH)
              row[8 * e + 2 * t + c] = acc[e][2 * i + c];
      }
}

NF_INLINED void
nf_begin (float acc[STEPS][4])
{
#pragma unroll
  for (int e = 0; e < STEPS; e++)
    acc[e][0] = acc[e][1] = acc[e][2] = acc[e][3] = 0.0f;
}

__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask, float scale)
{
  __local float __attribute__ ((aligned (16))) X[2][SIDE * PITCH], Y[2][SIDE * PITCH];
  __local NfQueries queries;
  const int tiles = (N + SIDE - 1) / SIDE, of_keys = get_group_id (0) >= tiles, first = (get_group_id (0) - (of_keys ? tiles : 0)) * SIDE;
  const int count = min (SIDE, N - first), hkv = get_global_id (1), b = get_global_id (2), d = H * DH, share = H / Hkv;
  const int lane = get_local_id (0) % NF_WARP, g = lane / 4, t = lane % 4, row0 = get_local_id (0) / NF_WARP * 16, live = row0 < count;
  const int prefix = NF_PREFIX (mask), causal = mask.s0;
  const size_t row = d + 2 * Hkv * DH, sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global const float *Q = qkv + qkv_at + sample, *K = qkv + qkv_at + key_head, *V = K + Hkv * DH;
  __global float *dQ = dqkv + dqkv_at + sample, *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH;
  float acc[2][STEPS][4];
  out += out_at + (size_t)b * N * d;
  dout += dout_at + (size_t)b * N * d;
  stats += (size_t)b * H * N * 2;

  const int from = of_keys ? (causal ? first : 0) : nf_sight (mask, first).x / SIDE * SIDE;
  const int end = of_keys ? N : nf_sight (mask, first + count - 1).y, passed = of_keys ? 0 : prefix;
  nf_begin (acc[0]);
  nf_begin (acc[1]);
  for (int h = hkv * share; h < (hkv + 1) * share; h++)
    {
      __global const float *q = Q + h * DH, *go = dout + h * DH;
      /* rows of the tile, columns of the block: with queries x1 = q, x2 = dout, y1 = k, y2 = v, with keys the other way round */
      barrier (CLK_LOCAL_MEM_FENCE);
      nf_bring (X[0], (of_keys ? K : q) + first * row, row, count);
      nf_bring (X[1], of_keys ? V + first * row : go + (size_t)first * d, of_keys ? row : d, count);
      if (!of_keys)
        nf_bring_queries (&queries, stats + ((size_t)h * N + first) * 2, out + (size_t)first * d + h * DH, go + (size_t)first * d, d, count);
      for (int at = passed > 0 ? 0 : from; at < end; at = at + SIDE < passed ? at + SIDE : max (at + SIDE, from))
        {
          const int columns = min (SIDE, end - at), query0 = of_keys ? at : first, n_queries = of_keys ? columns : count;
          barrier (CLK_LOCAL_MEM_FENCE);
          nf_bring (Y[0], (of_keys ? q : K) + at * row, row, columns);
          nf_bring (Y[1], of_keys ? go + (size_t)at * d : V + at * row, of_keys ? d : row, columns);
          nf_close_copies ();
          if (of_keys)
            nf_bring_queries (&queries, stats + ((size_t)h * N + at) * 2, out + (size_t)at * d + h * DH, go + (size_t)at * d, d, columns);
          nf_wait_copies (0);
          barrier (CLK_LOCAL_MEM_FENCE);
          if (!live)
            continue;
          float s[TILES][4], dp[TILES][4];
#pragma unroll
          for (int j = 0; j < TILES; j++)
            s[j][0] = s[j][1] = s[j][2] = s[j][3] = dp[j][0] = dp[j][1] = dp[j][2] = dp[j][3] = 0.0f;
#pragma unroll
          for (int e = 0; e < STEPS; e++)
            {
              const NfLeft x1 = nf_bring_left (X[0] + row0 * PITCH, e, lane), x2 = nf_bring_left (X[1] + row0 * PITCH, e, lane);
#pragma unroll
              for (int j = 0; j < TILES; j++)
                {
                  const int y = (8 * j + g) * PITCH + 8 * e + t;
                  const NfRight y1 = nf_bring_right (Y[0][y], Y[0][y + 4]), y2 = nf_bring_right (Y[1][y], Y[1][y + 4]);
                  nf_mma (s[j], &x1, &y1);
                  nf_mma (dp[j], &x2, &y2);
                }
            }
          NfLeft p[TILES], ds[TILES];
#pragma unroll
          for (int j = 0; j < TILES; j++)
            {
#pragma unroll
              for (int c = 0; c < 4; c++)
                {
                  const int r = row0 + g + c / 2 * 8, column = 8 * j + 2 * t + c % 2, n = of_keys ? column : r,
                            key = of_keys ? first + r : at + column;
                  const int seen = n < n_queries && key < N && nf_sees (nf_sight (mask, query0 + n), prefix, key);
                  s[j][c] = seen ? nf_exp (s[j][c] * scale - queries.top[n]) * queries.r[n] : 0.0f;
                  dp[j][c] = s[j][c] * (dp[j][c] - queries.dot[n]) * scale;
                }
              p[j] = nf_weights (s[j]);
              ds[j] = nf_weights (dp[j]);
            }
#pragma unroll
          for (int e = 0; e < STEPS; e++)
            {
              float sum[4];
              nf_weigh (sum, ds, Y[0], e, g, t);
#pragma unroll
              for (int c = 0; c < 4; c++)
                acc[0][e][c] += sum[c];
              if (!of_keys)
                continue;
              nf_weigh (sum, p, Y[1], e, g, t);
#pragma unroll
              for (int c = 0; c < 4; c++)
                acc[1][e][c] += sum[c];
            }
        }
      if (!of_keys)
        {
          nf_write_rows (dQ + first * row + h * DH, row, count, acc[0], row0, g, t);
          nf_begin (acc[0]);
        }
    }
  if (of_keys)
    {
      nf_write_rows (dK + first * row, row, count, acc[0], row0, g, t);
      nf_write_rows (dV + first * row, row, count, acc[1], row0, g, t);
    }
}

#endif
