/* Attention on a GPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The same kernels as in attention_cpu.cl, on the same keys (append.cl) and values. rows_gpu.cl and append.cl come before this file:
 * NF_INLINED, nf_sight().
 *
 *              Y        A work-group has a tile of SIDE × SIDE scores of a head, a work-item ROWS × ROWS of them: rows ty + LINES i, columns
 *           ┌─────┐     tx + LINES j. Operands come to local memory CHUNK features at a time, so that its need is the same for all head sizes.
 *     ┌───┐ ├─────┤     What scores weigh goes the same way: a work-item has four features, 4 tx …, of each chunk for its rows.
 *   X │   │ │  S  │
 *     └───┘ └─────┘     A query meets keys in blocks of SIDE from key 0 on, whatever the number of queries and samples. */

#if !NF_ATTENTION_MMA

#define SIDE NF_QUERIES_OF_GPU
#define LINES 8 /* NF_GROUP = LINES² */
#define ROWS (SIDE / LINES)
#define CHUNK 32
#define CHUNKS ((DH + CHUNK - 1) / CHUNK)
#define PITCH (CHUNK + 4) /* of rows in local memory: eight of them lie in different banks */
/* Sums of chunks are in registers only where loops over them are unrolled. Those of heads beyond 256 features do not fit, and PoCL, which follows
 * every path between barriers, would not end. */
#if CHUNKS > 8
#define NF_UNROLL_CHUNKS _Pragma ("unroll 1")
#else
#define NF_UNROLL_CHUNKS _Pragma ("unroll")
#endif

typedef struct
{
  float4 at[SIDE][PITCH / 4];
} NfTile;

/* Features e0 … of rows 0 .. count-1, row_pitch apart; zeros elsewhere. */
static inline void
nf_bring (__local NfTile *tile, __global const float *rows, size_t row_pitch, int count, int e0)
{
  __local float *to = (__local float *)tile;
  const int e = get_local_id (0) % CHUNK;
  for (int r = get_local_id (0) / CHUNK; r < SIDE; r += NF_GROUP / CHUNK)
    to[r * PITCH + e] = r < count && e0 + e < DH ? rows[r * row_pitch + e0 + e] : 0.0f;
}

/* The same of keys first .. first+count-1 in blocks of VW. */
static inline void
nf_bring_keys (__local NfTile *tile, __global const float *Kt, int first, int count, int e0)
{
  __local float *to = (__local float *)tile;
  const int r = get_local_id (0) % SIDE, key = first + r;
  Kt += (size_t)(key / VW) * DH * VW + key % VW;
  for (int e = get_local_id (0) / SIDE; e < CHUNK; e += NF_GROUP / SIDE)
    to[r * PITCH + e] = r < count && e0 + e < DH ? Kt[(e0 + e) * VW] : 0.0f;
}

/* s += X Yᵀ of a chunk, each a chain of fma() over features. Only the first `lines` of the rows of a work-item are needed. */
static inline void
nf_score (float s[ROWS][ROWS], __local const NfTile *X, __local const NfTile *Y, int tx, int ty, int lines)
{
  for (int e = 0; e < CHUNK / 4; e++)
    {
      float4 y[ROWS];
#pragma unroll
      for (int j = 0; j < ROWS; j++)
        y[j] = Y->at[tx + LINES * j][e];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        if (i < lines)
          {
            const float4 x = X->at[ty + LINES * i][e];
#pragma unroll
            for (int j = 0; j < ROWS; j++)
              s[i][j] = fma (x.w, y[j].w, fma (x.z, y[j].z, fma (x.y, y[j].y, fma (x.x, y[j].x, s[i][j]))));
          }
    }
}

/* acc += P Y of a chunk, each a chain of fma() over the rows of Y. */
static inline void
nf_weigh (float4 acc[ROWS], __local const NfTile *P, __local const NfTile *Y, int tx, int ty, int lines)
{
  for (int j = 0; j < SIDE / 4; j++)
    {
      const float4 y0 = Y->at[4 * j][tx], y1 = Y->at[4 * j + 1][tx], y2 = Y->at[4 * j + 2][tx], y3 = Y->at[4 * j + 3][tx];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        if (i < lines)
          {
            const float4 p = P->at[ty + LINES * i][j];
            acc[i] = fma (p.w, y3, fma (p.z, y2, fma (p.y, y1, fma (p.x, y0, acc[i]))));
          }
    }
}

static inline void
nf_put (__local NfTile *tile, int row, int column, float v)
{
  ((__local float *)tile)[row * PITCH + column] = v;
}

/* Queries q0 .. q0+Nq-1 of each sample against the keys that they see. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart, with `left` as a product reads them and out_row and out_batch in words; stats, if kept, gets the
 * softmax's maximum and sum, (B, H, keys, 2), where the query has its place.
 * Global size (Nq / SIDE NF_GROUP, H, B), rounded up. */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_attention (__global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global float *out, ulong out_at, int out_row, ulong out_batch, int left, __global float *stats, int keep_stats, int q0, int Nq,
              float scale, float scale2, int split, int H, int Hkv, int8 mask)
{
  __local NfTile X, Y, P;
  __local float4 part[SIDE][LINES / 4];
  __local float *parts = (__local float *)part;
  const int first = get_group_id (0) * SIDE, count = min (SIDE, Nq - first), h = get_global_id (1), hkv = h / (H / Hkv), b = get_global_id (2);
  const int tx = get_local_id (0) % LINES, ty = get_local_id (0) / LINES, lines = (count + LINES - 1) / LINES, prefix = NF_PREFIX (mask);
  const float sc = b < split ? scale : scale2;
  float4 acc[CHUNKS][ROWS];
  float m[ROWS], l[ROWS];
  int2 sight[ROWS];
  Q += Q_at + b * q_batch + (size_t)first * q_row + h * DH;
  Kt += Kt_at + ((size_t)b * Hkv + hkv) * NF_HEAD (blocks, 1);
  __global const float *V = Kt + NF_KEYS (blocks);
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    {
      m[i] = -INFINITY;
      l[i] = 0.0f;
      sight[i] = nf_sight (mask, q0 + first + min (ty + LINES * i, count - 1));
      NF_UNROLL_CHUNKS
      for (int c = 0; c < CHUNKS; c++)
        acc[c][i] = 0.0f;
    }
  /* what is seen moves on with the query: blocks between the prefix and what the first one sees are passed over */
  const int from = nf_sight (mask, q0 + first).x / SIDE * SIDE, end = nf_sight (mask, q0 + first + count - 1).y;
  for (int key0 = prefix > 0 ? 0 : from; key0 < end; key0 = key0 + SIDE < prefix ? key0 + SIDE : max (key0 + SIDE, from))
    {
      const int keys = min (SIDE, end - key0);
      float s[ROWS][ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < ROWS; j++)
          s[i][j] = 0.0f;
      for (int c = 0; c < CHUNKS; c++)
        {
          nf_bring (&X, Q, q_row, count, c * CHUNK);
          nf_bring_keys (&Y, Kt, key0, keys, c * CHUNK);
          barrier (CLK_LOCAL_MEM_FENCE);
          nf_score (s, &X, &Y, tx, ty, lines);
          barrier (CLK_LOCAL_MEM_FENCE);
        }
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        {
          float top = -INFINITY;
#pragma unroll
          for (int j = 0; j < ROWS; j++)
            {
              s[i][j] = nf_sees (sight[i], prefix, key0 + tx + LINES * j) ? s[i][j] * sc : -INFINITY;
              top = fmax (top, s[i][j]);
            }
          parts[(ty + LINES * i) * LINES + tx] = top;
        }
      barrier (CLK_LOCAL_MEM_FENCE);
      float top[ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        {
          const float4 tops = fmax (part[ty + LINES * i][0], part[ty + LINES * i][1]);
          top[i] = fmax (m[i], fmax (fmax (tops.x, tops.y), fmax (tops.z, tops.w)));
        }
      barrier (CLK_LOCAL_MEM_FENCE);
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        {
          float sum = 0.0f;
#pragma unroll
          for (int j = 0; j < ROWS; j++)
            {
              const float p = s[i][j] == -INFINITY ? 0.0f : nf_exp (s[i][j] - top[i]);
              nf_put (&P, ty + LINES * i, tx + LINES * j, p);
              sum += p;
            }
          parts[(ty + LINES * i) * LINES + tx] = sum;
        }
      for (int c = 0; c < CHUNKS; c++)
        {
          nf_bring (&Y, V + (size_t)key0 * DH, DH, keys, c * CHUNK);
          barrier (CLK_LOCAL_MEM_FENCE);
          if (c == 0)
#pragma unroll
            for (int i = 0; i < ROWS; i++)
              {
                const float shrink = m[i] == top[i] ? 1.0f : nf_exp (m[i] - top[i]);
                const float4 sums = part[ty + LINES * i][0] + part[ty + LINES * i][1];
                l[i] = fma (l[i], shrink, sums.x + sums.y + (sums.z + sums.w));
                m[i] = top[i];
                NF_UNROLL_CHUNKS
                for (int e = 0; e < CHUNKS; e++)
                  acc[e][i] *= shrink;
              }
          nf_weigh (acc[c], &P, &Y, tx, ty, lines);
          barrier (CLK_LOCAL_MEM_FENCE);
        }
    }
  out += out_at + b * out_batch;
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    {
      const int n = ty + LINES * i;
      if (n >= count)
        continue;
      const float r = l[i] > 0.0f ? 1.0f / l[i] : 0.0f; /* a query that sees nothing gets nothing */
      __global float *to = out + (size_t)(first + n) * out_row;
      NF_UNROLL_CHUNKS
      for (int c = 0; c < CHUNKS; c++)
        {
          const float v[4] = { acc[c][i].x * r, acc[c][i].y * r, acc[c][i].z * r, acc[c][i].w * r };
#pragma unroll
          for (int k = 0; k < 4; k++)
            {
              const int e = c * CHUNK + 4 * tx + k;
              if (e < DH && left)
                ((__global ushort *)to)[h * DH + e] = nf_half (v[k]);
              else if (e < DH)
                to[h * DH + e] = v[k];
            }
        }
      if (keep_stats && tx == 0)
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

/* Two work-items share a query. */
static inline void
nf_bring_queries (__local NfQueries *queries, __local float *part, __global const float *stats, __global const float *out,
                  __global const float *dout, size_t row_pitch, int count)
{
  const int n = get_local_id (0) / 2, half_row = get_local_id (0) % 2;
  float sum = 0.0f;
  if (n < count)
    for (int e = half_row; e < DH; e += 2)
      sum = fma (dout[n * row_pitch + e], out[n * row_pitch + e], sum);
  part[get_local_id (0)] = sum;
  barrier (CLK_LOCAL_MEM_FENCE);
  if (half_row == 0)
    {
      queries->dot[n] = part[2 * n] + part[2 * n + 1];
      queries->top[n] = n < count ? stats[2 * n] : 0.0f;
      queries->r[n] = n < count ? 1.0f / stats[2 * n + 1] : 0.0f;
    }
}

static inline void
nf_write_rows (__global float *to, size_t row_pitch, int count, float4 acc[CHUNKS][ROWS], int tx, int ty)
{
#pragma unroll
  for (int i = 0; i < ROWS; i++)
    if (ty + LINES * i < count)
      {
        __global float *row = to + (ty + LINES * i) * row_pitch;
        NF_UNROLL_CHUNKS
        for (int c = 0; c < CHUNKS; c++)
          {
            const float v[4] = { acc[c][i].x, acc[c][i].y, acc[c][i].z, acc[c][i].w };
#pragma unroll
            for (int k = 0; k < 4; k++)
              if (c * CHUNK + 4 * tx + k < DH)
                row[c * CHUNK + 4 * tx + k] = v[k];
          }
      }
}

/* Backward of a key head, and of the query heads that share it, over a whole sequence. qkv, dqkv (B, N, (H + 2 Hkv) DH); out, dout (B, N, H DH);
 * stats from nf_attention; Kt, Vt are the CPU's.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout.
 * The first half of the work-groups have tiles of queries and meet the keys that those see, the others have tiles of keys and meet the queries
 * that see those: nothing is written by two. Global size (2 N / SIDE NF_GROUP, Hkv, B), N / SIDE rounded up. */
__kernel __attribute__ ((reqd_work_group_size (NF_GROUP, 1, 1))) void
nf_attention_backward (__global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask, float scale)
{
  __local NfTile X[2], Y[2], P[2];
  __local NfQueries queries;
  __local float part[NF_GROUP];
  const int tiles = (N + SIDE - 1) / SIDE, of_keys = get_group_id (0) >= tiles, first = (get_group_id (0) - (of_keys ? tiles : 0)) * SIDE;
  const int count = min (SIDE, N - first), hkv = get_global_id (1), b = get_global_id (2), d = H * DH, share = H / Hkv;
  const int tx = get_local_id (0) % LINES, ty = get_local_id (0) / LINES, lines = (count + LINES - 1) / LINES;
  const int prefix = NF_PREFIX (mask), causal = mask.s0;
  const size_t row = d + 2 * Hkv * DH, sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global const float *Q = qkv + qkv_at + sample, *K = qkv + qkv_at + key_head, *V = K + Hkv * DH;
  __global float *dQ = dqkv + dqkv_at + sample, *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH;
  float4 acc[2][CHUNKS][ROWS];
  out += out_at + (size_t)b * N * d;
  dout += dout_at + (size_t)b * N * d;
  stats += (size_t)b * H * N * 2;

  /* blocks of keys that queries first .. first+count-1 see, or of queries that may see such keys */
  const int from = of_keys ? (causal ? first : 0) : nf_sight (mask, first).x / SIDE * SIDE;
  const int end = of_keys ? N : nf_sight (mask, first + count - 1).y, passed = of_keys ? 0 : prefix;
#pragma unroll
  for (int t = 0; t < 2; t++)
    NF_UNROLL_CHUNKS
    for (int c = 0; c < CHUNKS; c++)
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        acc[t][c][i] = 0.0f;
  for (int h = hkv * share; h < (hkv + 1) * share; h++)
    {
      __global const float *q = Q + h * DH, *g = dout + h * DH;
      /* rows of the tile, columns of the block: with queries x1 = q, x2 = dout, y1 = k, y2 = v, with keys the other way round */
      __global const float *x1 = (of_keys ? K : q) + first * row, *x2 = of_keys ? V + first * row : g + (size_t)first * d;
      const size_t x2_row = of_keys ? row : d, y2_row = of_keys ? d : row;
      for (int at = passed > 0 ? 0 : from; at < end; at = at + SIDE < passed ? at + SIDE : max (at + SIDE, from))
        {
          const int columns = min (SIDE, end - at), query0 = of_keys ? at : first, n_queries = of_keys ? columns : count;
          __global const float *y1 = (of_keys ? q : K) + at * row, *y2 = of_keys ? g + (size_t)at * d : V + at * row;
          float s[ROWS][ROWS], dp[ROWS][ROWS];
#pragma unroll
          for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < ROWS; j++)
              s[i][j] = dp[i][j] = 0.0f;
          nf_bring_queries (&queries, part, stats + ((size_t)h * N + query0) * 2, out + (size_t)query0 * d + h * DH, g + (size_t)query0 * d, d,
                            n_queries);
          for (int c = 0; c < CHUNKS; c++)
            {
              nf_bring (&X[0], x1, row, count, c * CHUNK);
              nf_bring (&X[1], x2, x2_row, count, c * CHUNK);
              nf_bring (&Y[0], y1, row, columns, c * CHUNK);
              nf_bring (&Y[1], y2, y2_row, columns, c * CHUNK);
              barrier (CLK_LOCAL_MEM_FENCE);
              nf_score (s, &X[0], &Y[0], tx, ty, lines);
              nf_score (dp, &X[1], &Y[1], tx, ty, lines);
              barrier (CLK_LOCAL_MEM_FENCE);
            }
#pragma unroll
          for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < ROWS; j++)
              {
                const int r = ty + LINES * i, column = tx + LINES * j, n = of_keys ? column : r, key = (of_keys ? first : at) + (of_keys ? r : column);
                const int seen = n < n_queries && key < N && nf_sees (nf_sight (mask, query0 + n), prefix, key);
                const float p = seen ? nf_exp (s[i][j] * scale - queries.top[n]) * queries.r[n] : 0.0f;
                nf_put (&P[0], r, column, p * (dp[i][j] - queries.dot[n]) * scale);
                if (of_keys)
                  nf_put (&P[1], r, column, p);
              }
          NF_UNROLL_CHUNKS
          for (int c = 0; c < CHUNKS; c++)
            {
              if (CHUNKS > 1)
                {
                  nf_bring (&Y[0], y1, row, columns, c * CHUNK);
                  if (of_keys)
                    nf_bring (&Y[1], y2, y2_row, columns, c * CHUNK);
                }
              barrier (CLK_LOCAL_MEM_FENCE);
              nf_weigh (acc[0][c], &P[0], &Y[0], tx, ty, lines);
              if (of_keys)
                nf_weigh (acc[1][c], &P[1], &Y[1], tx, ty, lines);
              barrier (CLK_LOCAL_MEM_FENCE);
            }
        }
      if (!of_keys)
        {
          nf_write_rows (dQ + first * row + h * DH, row, count, acc[0], tx, ty);
          NF_UNROLL_CHUNKS
          for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < ROWS; i++)
              acc[0][c][i] = 0.0f;
        }
    }
  if (of_keys)
    {
      nf_write_rows (dK + first * row, row, count, acc[0], tx, ty);
      nf_write_rows (dV + first * row, row, count, acc[1], tx, ty);
    }
}

#endif
