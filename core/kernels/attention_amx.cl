/* Attention by a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What attention_cpu.cl does with a tile of queries where the CPU has AMX: queries, keys, values and weights are rounded to bfloat16, sums are of
 * floats. Keys and values come from nf_append in blocks of NR keys, as a product reads them:
 *   K  words (DHP / 2, NR), two features of a key each     V  words (DHP / 32, NR / 2, 32), a feature of two keys each
 * In parts of KEYS keys: all scores, their exponentials, then the sum of values. Blocks and parts begin at fixed keys, so that a row's sums do not
 * depend on the tile that it is in. */

#define KEYS 256 /* softmax is brought up to date after so many keys, whose scores fit the first-level cache */
#define NF_SCORES (KEYS + 16) /* from row to row */

#define NF_LOG2_E 1.44269504f
#define NF_LN_2 0.693147181f

/* 2^x for x <= 0, to 4e-6 of it: a weight has 8 bits. From -127 down it is 0. */
static inline floatv
nf_exp2v (floatv x)
{
  const floatv rounder = NF_ROUNDER;
  x = x > (floatv)(-127.0f) ? x : (floatv)(-127.0f);
  const floatv t = x + rounder, f = x - (t - rounder);
  floatv p = fma (f, (floatv)(0.00958285294f), (floatv)(0.0559064262f));
  p = fma (p, f, (floatv)(0.240240991f));
  p = fma (p, f, (floatv)(0.693124175f));
  p = fma (p, f, (floatv)(1.0f));
  return nf_as_floatv (nf_as_intv (p) + (nf_as_intv (t) << 23));
}

/* c += a · b of a step of 32 values: rows of a A_ROW words apart, of b 32 words. Pointers of any kind. b passes by the first-level cache. */
#define NF_TILE_STEP(a, a_row, b, lower)                                                                                    \
  do                                                                                                                   \
    {                                                                                                                  \
      __asm__ volatile ("tileloaddt1 (%1,%3,1), %%tmm6\n\t"                                                              \
                        "tileloadd (%0,%2,1), %%tmm4\n\t"                                                              \
                        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"                                                         \
                        "tileloaddt1 64(%1,%3,1), %%tmm7\n\t"                                                            \
                        "tdpbf16ps %%tmm7, %%tmm4, %%tmm1" ::"r"(a),                                                   \
                        "r"(b), "r"((ulong)(4 * (a_row))), "r"((ulong)128)                                             \
                        : "memory");                                                                                   \
      if (lower)                                                                                                       \
        __asm__ volatile ("tileloadd (%0,%1,1), %%tmm5\n\t"                                                            \
                          "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"                                                       \
                          "tdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::"r"((a) + NF_TILE_ROWS * (a_row)),                      \
                          "r"((ulong)(4 * (a_row)))                                                                    \
                          : "memory");                                                                                 \
    }                                                                                                                  \
  while (0)

/* c to and from rows of floats, ROW apart. */
#define NF_MOVE(instruction, first, second, c, row, lower)                                                             \
  do                                                                                                                   \
    {                                                                                                                  \
      __asm__ volatile (instruction (first, "tmm0") "\n\t" instruction (second, "tmm1") ::"r"(c),                      \
                        "r"((ulong)(4 * (row)))                                                                        \
                        : "memory");                                                                                   \
      if (lower)                                                                                                       \
        __asm__ volatile (instruction (first, "tmm2") "\n\t" instruction (second, "tmm3") ::"r"((c)                    \
                                                                                                + NF_TILE_ROWS * (row)), \
                          "r"((ulong)(4 * (row)))                                                                      \
                          : "memory");                                                                                 \
    }                                                                                                                  \
  while (0)
#define NF_TILE_STORE(at, tile) "tilestored %%" tile ", " at
#define NF_TILE_LOAD(at, tile) "tileloadd " at ", %%" tile
#define NF_STORE_TILES(c, row, lower) NF_MOVE (NF_TILE_STORE, "(%0,%1,1)", "64(%0,%1,1)", c, row, lower)
#define NF_LOAD_TILES(c, row, lower) NF_MOVE (NF_TILE_LOAD, "(%0,%1,1)", "64(%0,%1,1)", c, row, lower)

/* The lines of a step of 32 values, of a right operand of NR columns, that will be read later. */
static inline void
nf_fetch_step (__global const float *b)
{
  for (int line = 0; line < 16 * NR; line += 16)
    NF_PREFETCH_FAR (b + line);
}

/* A row's features as words, zeros up to DHP. */
static inline void
nf_halve_row (__global const float *x, uint *y)
{
#pragma unroll
  for (int e = 0; e < DHP; e += 2 * VW)
    nf_storev (nf_halves (nf_load_head (x + e, DH - e), nf_load_head (x + e + VW, DH - e - VW)), y + e / 2);
}

/* The largest lane; none is NaN. */
static inline float
nf_topv (floatv v)
{
  const float8 e = v.lo > v.hi ? v.lo : v.hi;
  const float4 q = e.lo > e.hi ? e.lo : e.hi;
  const float2 h = q.lo > q.hi ? q.lo : q.hi;
  return h.x > h.y ? h.x : h.y;
}

#define NF_ROWS 4 /* whose chains of operations overlap */

/* Scores of `blocks` blocks of ROWS rows, NF_ROWS at most, become their weights in words, what was before shrinks by the results; m, in powers of two,
 * and l are brought up to date. */
static inline __attribute__ ((always_inline)) void
nf_soften (float (*p)[NF_SCORES], int rows, int blocks, float scale, float *m, float *l, float shrink[NF_ROWS])
{
  floatv top[NF_ROWS], sum[NF_ROWS];
  float from[NF_ROWS];
#pragma unroll
  for (int r = 0; r < rows; r++)
    {
      top[r] = -INFINITY;
      sum[r] = 0.0f;
    }
  for (int i = 0; i < blocks * NR; i += NR)
#pragma unroll
    for (int r = 0; r < rows; r++)
      {
        const floatv s0 = nf_loadv (p[r] + i), s1 = nf_loadv (p[r] + i + VW);
        top[r] = s0 > top[r] ? s0 : top[r]; /* what is no number is left out */
        top[r] = s1 > top[r] ? s1 : top[r];
      }
#pragma unroll
  for (int r = 0; r < rows; r++)
    {
      const float highest = nf_topv (top[r]) * scale, most = highest > m[r] ? highest : m[r];
      from[r] = most == -INFINITY ? 0.0f : most;
      shrink[r] = m[r] == most ? 1.0f : nf_exp2v ((floatv)(m[r] - from[r])).s0;
      m[r] = most;
    }
  for (int i = 0; i < blocks * NR; i += NR)
#pragma unroll
    for (int r = 0; r < rows; r++)
      {
        const floatv w0 = nf_exp2v (fma (nf_loadv (p[r] + i), (floatv)(scale), (floatv)(-from[r])));
        const floatv w1 = nf_exp2v (fma (nf_loadv (p[r] + i + VW), (floatv)(scale), (floatv)(-from[r])));
        sum[r] += w0 + w1;
        nf_storev (nf_as_floatv (nf_halves (w0, w1)), p[r] + i / 2);
      }
#pragma unroll
  for (int r = 0; r < rows; r++)
    l[r] = fma (l[r], shrink[r], nf_sumv (sum[r]));
}

static void
nf_attend (const NfHead *t, int first)
{
  const int prefix = t->prefix, n = min (QT, t->Nq - first);
  const bool lower = n > NF_TILE_ROWS;
  const float scale = t->scale * NF_LOG2_E;
  uint q[QT][DHP / 2] __attribute__ ((aligned (64)));
  float p[QT][NF_SCORES] __attribute__ ((aligned (64))), acc[QT][DHP] __attribute__ ((aligned (64)));
  float m[QT], l[QT];
  int2 sight[QT];
  for (int i = 0; i < n; i++)
    {
      sight[i] = nf_sight (t->mask, t->q0 + first + i);
      if (t->halves)
#pragma unroll
        for (int e = 0; e < DHP / 2; e += VW)
          nf_storev (nf_loadv ((__global const uint *)t->Q + (size_t)(first + i) * t->q_row + e), q[i] + e);
      else
        nf_halve_row (t->Q + (size_t)(first + i) * t->q_row, q[i]);
      m[i] = -INFINITY;
      l[i] = 0.0f;
      for (int e = 0; e < DHP; e += VW)
        nf_storev ((floatv)(0.0f), acc[i] + e);
    }
  const int4 tile = nf_tile_sight (sight, n);
  nf_amx_configure (min (n, NF_TILE_ROWS), n - NF_TILE_ROWS);
  for (int part = nf_seen_block (tile, prefix, 0) / KEYS * KEYS; part < tile.y; part += KEYS)
    {
      __global const float *values[KEYS / NR];
      int blocks = 0;
      NF_SEEN_BLOCKS (key0, part, min (part + KEYS, tile.y))
      {
        __global const float *k = t->Kt + (size_t)(key0 / NR) * NF_KEY_BLOCK;
        float *s = p[0] + blocks * NR;
        nf_amx_zero ();
#pragma unroll
        for (int e = 0; e < DHP; e += 32)
          {
            if (t->ahead)
              nf_fetch_step (k + t->ahead + e / 2 * NR);
            NF_TILE_STEP (q[0] + e / 2, DHP / 2, k + e / 2 * NR, lower);
          }
        NF_STORE_TILES (s, NF_SCORES, lower);
        if (!nf_all_see (tile, prefix, key0))
          for (int i = 0; i < n; i++, s += NF_SCORES)
            {
              nf_storev (nf_hide (nf_loadv (s), sight[i], prefix, key0), s);
              nf_storev (nf_hide (nf_loadv (s + VW), sight[i], prefix, key0 + VW), s + VW);
            }
        values[blocks++] = k + NF_KEY_BLOCK / 2;
      }
      if (blocks == 0)
        continue;
      for (int i = 0, rows; i < n; i += rows)
        {
          float shrink[NF_ROWS];
          rows = n - i < NF_ROWS ? 1 : NF_ROWS;
          if (rows == NF_ROWS)
            nf_soften (p + i, NF_ROWS, blocks, scale, m + i, l + i, shrink);
          else
            nf_soften (p + i, 1, blocks, scale, m + i, l + i, shrink);
          for (int r = 0; r < rows; r++)
            if (shrink[r] != 1.0f)
              for (int e = 0; e < DHP; e += VW)
                nf_storev (nf_loadv (acc[i + r] + e) * shrink[r], acc[i + r] + e);
        }
#pragma unroll
      for (int e = 0; e < DHP; e += 32)
        {
          NF_LOAD_TILES (acc[0] + e, DHP, lower);
          for (int i = 0; i < blocks; i++)
            {
              if (t->ahead)
                nf_fetch_step (values[i] + t->ahead + e * NR / 2);
              NF_TILE_STEP ((const uint *)p[0] + i * NR / 2, NF_SCORES, values[i] + e * NR / 2, lower);
            }
          NF_STORE_TILES (acc[0] + e, DHP, lower);
        }
    }
  nf_amx_release ();
  for (int i = 0; i < n; i++)
    {
      const float r = l[i] > 0.0f ? 1.0f / l[i] : 0.0f;
      __global float *o = t->out + (size_t)(first + i) * t->out_row;
#pragma unroll
      for (int e = 0; e < DH; e += VW)
        nf_leave (nf_loadv (acc[i] + e) * r, t, o, e);
      if (t->stats)
        {
          t->stats[2 * (first + i)] = m[i] * NF_LN_2;
          t->stats[2 * (first + i) + 1] = l[i];
        }
    }
}

/* The backward pass takes SIDE queries and as many keys at a time. Sums of squares of them, of rows of NR: so operands are
 *   of keys     kt, vt by features, k by rows        of queries  q, g as they are, qt, gt their columns, two queries in a word
 * and what is made of them: weights p and gradients of scores ds as right operands, two queries in a word, ds as a left one, too. */
#define SIDE 128
#define TILES (SIDE / NR)

typedef struct
{
  __global const float *Q, *out, *dout, *stats; /* of the head */
  __global float *dQ;
  int row, d, N, prefix;
  float scale;
  int8 mask;
} NfBackward;

/* Of a part of the keys. Sums are columns of the results: (features, keys). */
typedef struct
{
  uint kt[TILES][NF_KEY_BLOCK / 2], vt[TILES][NF_KEY_BLOCK / 2], k[TILES][NF_KEY_BLOCK / 2];
  float dk[DHP][SIDE], dv[DHP][SIDE];
} NfKeyPart __attribute__ ((aligned (64)));

typedef struct
{
  uint q[NR][DHP / 2], g[NR][DHP / 2], qt[DHP][SIDE / 2], gt[DHP][SIDE / 2];
  uint ds_left[SIDE][SIDE / 2], ds[TILES][SIDE / 2][NR], p[TILES][SIDE / 2][NR];
  bool seen[TILES][TILES]; /* tiles of queries, blocks of keys */
} NfQueryPart __attribute__ ((aligned (64)));

/* Columns of NR rows, of which there are `count`: words of two rows, y + (SIDE / 2) e of feature e. */
static void
nf_columns (__global const float *x, int row, int count, uint *y)
{
  for (int e = 0; e < DHP; e += VW)
    {
      floatv words[VW];
#pragma unroll
      for (int i = 0; i < VW; i++)
        words[i] = nf_as_floatv (nf_zip_rows (x, row, 2 * i, count, e));
      nf_transpose (words);
#pragma unroll
      for (int i = 0; i < VW; i++)
        nf_storev (nf_as_uintv (words[i]), y + (e + i) * (SIDE / 2));
    }
}

/* Weights and gradients of scores of the queries of tile `at`, first .. first+NR-1, and of the keys from `key` on. */
static void
nf_weigh (const NfBackward *t, const NfKeyPart *keys, NfQueryPart *part, int at, int first, int key)
{
  const int prefix = t->prefix, rows = min (NR, t->N - first);
  int2 sight[NR];
  float from[NR], rl[NR], dot[NR];
  float s[NR][NR] __attribute__ ((aligned (64))), dp[NR][NR] __attribute__ ((aligned (64)));
  __global const float *q = t->Q + (size_t)first * t->row, *g = t->dout + (size_t)first * t->d, *out = t->out + (size_t)first * t->d;
  for (int i = 0; i < NR; i++)
    {
      /* a query past the end sees no key: its weights are 0 and add nothing */
      const int there = i < rows, n = first + min (i, rows - 1);
      const float m = t->stats[2 * n], l = t->stats[2 * n + 1];
      sight[i] = there ? nf_sight (t->mask, n) : (int2)(0);
      from[i] = m == -INFINITY ? 0.0f : m * NF_LOG2_E;
      rl[i] = l > 0.0f ? 1.0f / l : 0.0f;
      floatv sum = 0.0f;
      for (int e = 0; e < DH; e += VW)
        sum = fma (nf_load_head (g + (size_t)(n - first) * t->d + e, DH - e), nf_load_head (out + (size_t)(n - first) * t->d + e, DH - e), sum);
      dot[i] = nf_sumv (sum);
      nf_halve_row (q + (size_t)(n - first) * t->row, part->q[i]);
      nf_halve_row (g + (size_t)(n - first) * t->d, part->g[i]);
    }
  nf_columns (q, t->row, rows, part->qt[0] + at * NR / 2);
  nf_columns (g, t->d, rows, part->gt[0] + at * NR / 2);
  const int4 tile = nf_tile_sight (sight, NR), there = nf_tile_sight (sight, rows);
  for (int block = 0; block < TILES; block++)
    {
      const int key0 = key + block * NR, all = nf_all_see (tile, prefix, key0);
      const float scale = t->scale * NF_LOG2_E;
      part->seen[at][block] = key0 < there.y && key0 == nf_seen_block (there, prefix, key0);
      if (!part->seen[at][block])
        continue;
      nf_amx_zero ();
#pragma unroll
      for (int e = 0; e < DHP; e += 32)
        NF_TILE_STEP (part->q[0] + e / 2, DHP / 2, keys->kt[block] + e / 2 * NR, true);
      NF_STORE_TILES (s[0], NR, true);
      nf_amx_zero ();
#pragma unroll
      for (int e = 0; e < DHP; e += 32)
        NF_TILE_STEP (part->g[0] + e / 2, DHP / 2, keys->vt[block] + e / 2 * NR, true);
      NF_STORE_TILES (dp[0], NR, true);
      for (int i = 0; i < NR && !all; i++)
        {
          nf_storev (nf_hide (nf_loadv (s[i]), sight[i], prefix, key0), s[i]);
          nf_storev (nf_hide (nf_loadv (s[i] + VW), sight[i], prefix, key0 + VW), s[i] + VW);
        }
      for (int i = 0; i < NR; i += 2)
        {
          floatv p[2][2], ds[2][2];
#pragma unroll
          for (int r = 0; r < 2; r++)
#pragma unroll
            for (int v = 0; v < 2; v++)
              {
                p[r][v] = nf_exp2v (fma (nf_loadv (s[i + r] + v * VW), (floatv)(scale), (floatv)(-from[i + r]))) * rl[i + r];
                ds[r][v] = p[r][v] * (nf_loadv (dp[i + r] + v * VW) - dot[i + r]) * t->scale;
              }
#pragma unroll
          for (int v = 0; v < 2; v++)
            {
              nf_storev (nf_halves (ds[v][0], ds[v][1]), part->ds_left[at * NR + i + v] + block * NR / 2);
              nf_storev (nf_zip (p[0][v], p[1][v]), part->p[block][(at * NR + i) / 2] + v * VW);
              nf_storev (nf_zip (ds[0][v], ds[1][v]), part->ds[block][(at * NR + i) / 2] + v * VW);
            }
        }
    }
}

/* to[e .. e+31][the keys of a block] += the sum over queries of a tile that see it: left · right, for all features and blocks. */
static void
nf_gather (float (*to)[SIDE], const uint (*left)[SIDE / 2], uint (*right)[SIDE / 2][NR], const NfQueryPart *part, int tiles)
{
  for (int block = 0; block < TILES; block++)
    for (int e = 0; e < DHP; e += 32)
      {
        NF_LOAD_TILES (to[e] + block * NR, SIDE, true);
        for (int at = 0; at < tiles; at++)
          if (part->seen[at][block])
            NF_TILE_STEP (left[e] + at * NR / 2, SIDE / 2, right[block][at * NR / 2], true);
        NF_STORE_TILES (to[e] + block * NR, SIDE, true);
      }
}

/* Adds ds · k to rows of dQ. */
static void
nf_add_queries (const NfBackward *t, const NfKeyPart *keys, const NfQueryPart *part, int at, int first)
{
  float sum[NR][32] __attribute__ ((aligned (64)));
  for (int e = 0; e < DHP; e += 32)
    {
      nf_amx_zero ();
      for (int block = 0; block < TILES; block++)
        if (part->seen[at][block])
          NF_TILE_STEP (part->ds_left[at * NR] + block * NR / 2, SIDE / 2, keys->k[block] + e * NR / 2, true);
      NF_STORE_TILES (sum[0], 32, true);
      for (int i = 0; i < min (NR, t->N - first); i++)
        for (int v = 0; v < 32; v += VW)
          {
            __global float *dq = t->dQ + (size_t)(first + i) * t->row + e + v;
            const int lanes = DH - e - v;
            if (lanes > 0)
              nf_store_head (nf_load_head (dq, lanes) + nf_loadv (sum[i] + v), dq, lanes);
          }
    }
}

static void
nf_put_columns (__global float *to, int row, int count, const float (*from)[SIDE])
{
  for (int n = 0; n < count; n += VW)
    for (int e = 0; e < DH; e += VW)
      {
        floatv x[VW];
#pragma unroll
        for (int i = 0; i < VW; i++)
          x[i] = nf_loadv (from[e + i] + n);
        nf_transpose (x);
        for (int i = 0; i < min (VW, count - n); i++)
          nf_store_head (x[i], to + (size_t)(n + i) * row + e, DH - e);
      }
}

/* As in attention_cpu.cl; Kt and Vt are not read. */
NF_KERNEL_OF_ONE void
nf_attention_backward (NF_ITEM __global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask,
                       float scale)
{
  const int hkv = get_global_id (0), b = get_global_id (1), d = H * DH, row = d + 2 * Hkv * DH, share = H / Hkv, prefix = NF_PREFIX (mask);
  const size_t sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global const float *K = qkv + qkv_at + key_head, *V = K + Hkv * DH;
  __global float *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH, *dQ = dqkv + dqkv_at + sample + hkv * share * DH;
  NfKeyPart keys;
  NfQueryPart part;
  for (int n = 0; n < N; n++)
    for (int e = 0; e < share * DH; e += VW)
      nf_store_head ((floatv)(0.0f), dQ + (size_t)n * row + e, share * DH - e);
  nf_amx_configure (NF_TILE_ROWS, NF_TILE_ROWS);
  for (int key = 0; key < N; key += SIDE)
    {
      for (int block = 0; block < TILES; block++)
        {
          const size_t at = (size_t)(key + block * NR) * row;
          const int count = N - key - block * NR;
          nf_by_features_private (K + at, row, count, keys.kt[block], false);
          nf_by_features_private (V + at, row, count, keys.vt[block], false);
          nf_by_rows_private (K + at, row, count, keys.k[block]);
        }
      for (int e = 0; e < DHP; e++)
        for (int n = 0; n < SIDE; n += VW)
          {
            nf_storev ((floatv)(0.0f), keys.dk[e] + n);
            nf_storev ((floatv)(0.0f), keys.dv[e] + n);
          }
      for (int h = 0; h < share; h++)
        {
          const size_t head = (size_t)b * N * d + (hkv * share + h) * DH;
          const NfBackward t = { .Q = qkv + qkv_at + sample + (hkv * share + h) * DH,
                                 .out = out + out_at + head,
                                 .dout = dout + dout_at + head,
                                 .stats = stats + ((size_t)b * H + hkv * share + h) * N * 2,
                                 .dQ = dQ + h * DH,
                                 .row = row,
                                 .d = d,
                                 .N = N,
                                 .prefix = prefix,
                                 .scale = scale,
                                 .mask = mask };
          for (int first = 0; first < N; first += SIDE)
            {
              const int tiles = (min (SIDE, N - first) + NR - 1) / NR;
              /* places only grow: what the first query sees begins where no other's does, and the last one's ends where no other's does */
              const int begin = nf_sight (mask, first).x, end = nf_sight (mask, min (first + SIDE, N) - 1).y;
              if (key >= end || (key >= prefix && key + SIDE <= begin))
                continue;
              for (int at = 0; at < tiles; at++)
                nf_weigh (&t, &keys, &part, at, first + at * NR, key);
              nf_gather (keys.dv, part.gt, part.p, &part, tiles);
              nf_gather (keys.dk, part.qt, part.ds, &part, tiles);
              for (int at = 0; at < tiles; at++)
                nf_add_queries (&t, &keys, &part, at, first + at * NR);
            }
        }
      nf_put_columns (dK + (size_t)key * row, row, min (SIDE, N - key), keys.dk);
      nf_put_columns (dV + (size_t)key * row, row, min (SIDE, N - key), keys.dv);
    }
  nf_amx_release ();
}
