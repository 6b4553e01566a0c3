/* Attention on a CPU with online softmax (Dao et al. 2022): no N×N matrix. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Compiled per head size: -DDH=features of a head. nf_append keeps keys transposed in blocks of VW, so that VW scores are one vector, and a head's
 * values after them:
 *   Kt[n / VW][DH][n % VW]     V[n][DH]
 * or two of each in a word, in bfloat16.
 * A query meets keys in blocks of NR and parts of KEYS from key 0 on, whatever the number of queries: encoding N tokens at once and decoding one
 * by one give the same bits. Which of them it meets is the mask's matter (nf_sight). H / Hkv query heads share a key head.
 * Everything is made of products of a tile: QT rows × 2 vectors of accumulators, as in matmul_cpu.cl. With AMX attention_amx.cl has the tiles
 * instead. */

#if NF_BF16_AMX
#define QT NF_ROWS_OF_AMX
#elif VW == 16
#define QT NF_ROWS_OF_16
#else
#define QT NF_ROWS_OF_8
#endif

/* What the queries of a tile see: .x to .y some of them (and the prefix), .z to .w all of them. */
static inline int4
nf_tile_sight (const int2 *sight, int n)
{
  int4 all = sight[0].xyxy;
  for (int i = 1; i < n; i++)
    all = (int4)(min (all.x, sight[i].x), max (all.y, sight[i].y), max (all.z, sight[i].x), min (all.w, sight[i].y));
  return all;
}

/* The block at key0, or the next that any query of the tile sees. A block that a query does not see leaves it as it is, bit for bit. */
static inline int
nf_seen_block (int4 tile, int prefix, int key0)
{
  return key0 < prefix ? key0 : max (key0, tile.x / NR * NR);
}
#define NF_SEEN_BLOCKS(key0, first, end)                                                                               \
  for (int key0 = nf_seen_block (tile, prefix, first); key0 < (end); key0 = nf_seen_block (tile, prefix, key0 + NR))

static inline int
nf_all_see (int4 tile, int prefix, int key0)
{
  return key0 + NR <= tile.w && (key0 + NR <= prefix || key0 >= tile.z);
}

/* -inf where a query does not meet a key. */
static inline floatv
nf_hide (floatv s, int2 sight, int prefix, int key0)
{
  const intv key = NF_LANES + key0;
  const intv seen = (key < (intv)(sight.y)) & ((key < (intv)(prefix)) | (key >= (intv)(sight.x)));
  return select ((floatv)(-INFINITY), s, seen);
}

/* The larger of two scores, b of those that are no numbers: one instruction, as fmax() is not. */
static inline floatv
nf_larger (floatv a, floatv b)
{
  return select (b, a, a > b);
}

/* The rows of a head of a sample, and what is asked of them. */
typedef struct
{
  __global const float *Q;
  __global const NfKey *Kt, *V;
  __global float *out, *stats;
  int q_row, out_row, left, halves, h, q0, Nq, prefix;
  float scale;
  size_t ahead; /* from its keys to those that are read next: 0 if these are its own */
  int8 mask;
} NfHead;

/* One vector of a result, feature e of head h, or two: into a row of floats, or of what a product reads. */
static inline void
nf_leave (floatv v, const NfHead *t, __global float *out, int e)
{
  const int lanes = DH - e;
  if (NF_LEFT_FLOATS || !t->left)
    {
      nf_store_head (v, out + t->h * DH + e, lanes);
      return;
    }
  __global ushort *to = (__global ushort *)out + t->h * DH + e;
  if (lanes >= VW)
    {
      nf_store_halves (v, to);
      return;
    }
  float lane[VW];
  nf_storev (v, lane);
  for (int i = 0; i < lanes; i++)
    to[i] = nf_half (lane[i]);
}

static inline void
nf_leave_pair (floatv a, floatv b, const NfHead *t, __global float *out, int e)
{
#if NF_PLANES > 1
  if (t->left) /* whole steps of a product: DH is a multiple of 32 */
    {
      nf_store_left_pair (a, b, out, t->h * DH + e);
      return;
    }
#endif
  nf_leave (a, t, out, e);
  nf_leave (b, t, out, e + VW);
}

/* Queries first .. first+QT-1 of a head, as far as there are any. */
static void nf_attend (const NfHead *t, int first);

/* Queries q0 .. q0+Nq-1 of each sample against the keys that they see. Samples from `split` on use scale2 (the unguided branch's attention
 * temperature). out rows are out_row apart; with NF_LEAVES_LEFT as a product reads them and out_row and out_batch in words; with NF_READS_LEFT, for the
 * matrix unit, Q is such rows, and q_row and q_batch count words. stats, if kept, gets the softmax's maximum and sum, (B, H, keys, 2), where the query has its
 * place.
 * Global size (query tiles, H, B); blocks is even, so that a block of NR keys is always there. */
NF_KERNEL_OF_ONE void
nf_attention (NF_ITEM __global const float *Q, ulong Q_at, int q_row, ulong q_batch, __global const float *Kt, ulong Kt_at, int blocks,
              __global float *out, ulong out_at, int out_row, ulong out_batch, int left, __global float *stats, int keep_stats, int q0, int Nq,
              float scale, float scale2, int split, int H, int Hkv, int8 mask)
{
  const int h = get_global_id (1), hkv = h / (H / Hkv), b = get_global_id (2);
  __global const NfKey *keys = (__global const NfKey *)(Kt + Kt_at) + ((size_t)b * Hkv + hkv) * NF_HEAD (blocks, 1);
  const NfHead head = { .Q = Q + Q_at + b * q_batch + h * (left & NF_READS_LEFT ? DH / 2 : DH),
                        .Kt = keys,
                        .V = keys + NF_KEYS (blocks),
                        .out = out + out_at + b * out_batch,
                        .stats = keep_stats ? stats + (((size_t)b * H + h) * NF_N_KEYS (mask) + q0) * 2 : 0,
                        .q_row = q_row,
                        .out_row = out_row,
                        .left = left & NF_LEAVES_LEFT,
                        .halves = left & NF_READS_LEFT,
                        .h = h,
                        .q0 = q0,
                        .Nq = Nq,
                        .prefix = NF_PREFIX (mask),
                        .scale = b < split ? scale : scale2,
                        .ahead = Nq <= QT && (h + 1) % (H / Hkv) == 0 ? NF_HEAD (blocks, 1) : 0,
                        .mask = mask };
  nf_attend (&head, get_global_id (0) * QT);
}

#if !NF_BF16_AMX
#define KEYS 256 /* softmax is brought up to date after so many keys, a multiple of NR: their scores fit the first-level cache */

static inline void
nf_load_row (__global const float *x, int lanes, floatv v[2])
{
  v[0] = nf_load_head (x, lanes);
  v[1] = nf_load_head (x + VW, lanes - VW);
}

/* Feature e of the NR keys of a block from kt on; a pair of vectors of a value, of which there are `lanes`. */
#define NF_KEY_STEP NF_KEYS (2) /* from one block to the next */
#if NF_HALF_KEYS
#define NF_VALUE_PAIR VW /* from two vectors of a value to the next two */
static inline void
nf_load_two (__global const NfKey *p, floatv x[2])
{
  const uintv words = nf_loadv (p);
  x[0] = nf_as_floatv (words << 16);
  x[1] = nf_as_floatv (words & 0xffff0000u);
}
#define nf_load_keys(kt, e, x) nf_load_two ((kt) + (e)*VW, x)
#define nf_load_value(v, lanes, x) nf_load_two (v, x)
#else
#define nf_load_value nf_load_row
#define NF_VALUE_PAIR (2 * VW)
static inline void
nf_load_keys (__global const NfKey *kt, int e, floatv x[2])
{
  x[0] = nf_loadv (kt + e * VW);
  x[1] = nf_loadv (kt + DH * VW + e * VW);
}
#endif

#define NF_KEYS_AHEAD 8
#define NF_EXPECT_ROW(p, row, words)                                                                                   \
  _Pragma ("unroll") for (int line_ = 0; line_ < (words); line_ += 16) NF_PREFETCH ((p) + NF_KEYS_AHEAD * (row) + line_)
#define NF_EXPECT_KEYS(p)                                                                                              \
  _Pragma ("unroll") for (int vector_ = 0; vector_ < (NF_HALF_KEYS ? 1 : 2); vector_++)                                \
      NF_PREFETCH ((p) + vector_ * DH * VW)

/* The products, of n rows: nf_dots_n: s = x·k with the NR keys of the block kt. nf_sums_n: acc += w x, w (n, count) rows w_row apart, of pairs of
 * vectors of rows of x; nf_means_n likewise, of values. */
#define NF_SUMS(name, n, Row, load, words)                                                                             \
  static inline __attribute__ ((always_inline)) void NF_CAT (name, n) (                                                \
      floatv sum[n][2], const float *w, int w_row, __global const Row *x, int x_row, int lanes, int count)             \
  {                                                                                                                    \
    floatv acc[n][2];                                                                                                  \
    _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                     \
    {                                                                                                                  \
      acc[i][0] = sum[i][0];                                                                                           \
      acc[i][1] = sum[i][1];                                                                                           \
    }                                                                                                                  \
    for (int j = 0; j < count; j++, x += x_row)                                                                        \
      {                                                                                                                \
        floatv xj[2];                                                                                                  \
        load (x, lanes, xj);                                                                                           \
        NF_EXPECT_ROW (x, x_row, words);                                                                               \
        _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                 \
        {                                                                                                              \
          const floatv wj = w[i * w_row + j];                                                                          \
          acc[i][0] = fma (wj, xj[0], acc[i][0]);                                                                      \
          acc[i][1] = fma (wj, xj[1], acc[i][1]);                                                                      \
        }                                                                                                              \
      }                                                                                                                \
    _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                     \
    {                                                                                                                  \
      sum[i][0] = acc[i][0];                                                                                           \
      sum[i][1] = acc[i][1];                                                                                           \
    }                                                                                                                  \
  }
#define NF_PRODUCTS(n)                                                                                                 \
  static inline __attribute__ ((always_inline)) void NF_CAT (nf_dots_, n) (                                            \
      floatv s[n][2], __global const float *const x[n], __global const NfKey *kt, float scale)                         \
  {                                                                                                                    \
    floatv acc[n][2];                                                                                                  \
    _Pragma ("unroll") for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = 0.0f;                                       \
    for (int e = 0; e < DH; e++)                                                                                       \
      {                                                                                                                \
        floatv k[2];                                                                                                   \
        nf_load_keys (kt, e, k);                                                                                       \
        NF_EXPECT_KEYS (kt + NF_KEY_STEP + e * VW);                                                                    \
        _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                 \
        {                                                                                                              \
          const floatv xe = x[i][e];                                                                                   \
          acc[i][0] = fma (xe, k[0], acc[i][0]);                                                                       \
          acc[i][1] = fma (xe, k[1], acc[i][1]);                                                                       \
        }                                                                                                              \
      }                                                                                                                \
    _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                     \
    {                                                                                                                  \
      s[i][0] = acc[i][0] * scale;                                                                                     \
      s[i][1] = acc[i][1] * scale;                                                                                     \
    }                                                                                                                  \
  }
#if VW == 16
NF_PRODUCTS (12)
NF_SUMS (nf_means_, 12, NfKey, nf_load_value, NF_VALUE_PAIR)
NF_SUMS (nf_sums_, 12, float, nf_load_row, 2 * VW)
#define nf_dots nf_dots_12
#define nf_sums nf_sums_12
#else
NF_PRODUCTS (6)
NF_SUMS (nf_means_, 6, NfKey, nf_load_value, NF_VALUE_PAIR)
NF_SUMS (nf_sums_, 6, float, nf_load_row, 2 * VW)
#define nf_dots nf_dots_6
#define nf_sums nf_sums_6
#endif

/* Scores s of n rows, 1 or 2, of the keys of a part, up to `end`, become exp(s - most); `total` is their sum. An exponential is one long chain: several
 * are side by side. */
static inline __attribute__ ((always_inline)) void
nf_exponentials (int n, float (*s)[KEYS], int4 tile, int prefix, int part, int end, const float *most, floatv *total)
{
  total[0] = total[n - 1] = 0.0f;
  NF_SEEN_BLOCKS (key0, part, end)
  {
    const int at = key0 - part;
    floatv w[2][2];
    _Pragma ("unroll") for (int i = 0; i < n; i++)
    {
      const floatv s0 = nf_loadv (s[i] + at), s1 = nf_loadv (s[i] + at + VW);
      w[i][0] = select (nf_expv (s0 - most[i]), (floatv)(0.0f), s0 == (floatv)(-INFINITY));
      w[i][1] = select (nf_expv (s1 - most[i]), (floatv)(0.0f), s1 == (floatv)(-INFINITY));
    }
    _Pragma ("unroll") for (int i = 0; i < n; i++)
    {
      nf_storev (w[i][0], s[i] + at);
      nf_storev (w[i][1], s[i] + at + VW);
      total[i] = total[i] + w[i][0] + w[i][1];
    }
  }
}

/* name: queries first .. first+n-1 of a head. Scores of KEYS keys, their exponentials, then the sum of these keys' values: a row needs one largest
 * score and one sum for all of them, and accumulators stay in registers. */
#define NF_ATTEND(name, n)                                                                                             \
  static void name (const NfHead *t, int first)                                                                        \
  {                                                                                                                    \
    const int prefix = t->prefix;                                                                                      \
    __global const float *q[n];                                                                                        \
    int2 sight[n];                                                                                                     \
    floatv acc[PAIRS][n][2], top[n], sum[n];                                                                           \
    float m[n], l[n], p[n][KEYS];                                                                                      \
    for (int i = 0; i < n; i++)                                                                                        \
      {                                                                                                                \
        const int row = min (first + i, t->Nq - 1);                                                                    \
        sight[i] = nf_sight (t->mask, t->q0 + row);                                                                    \
        q[i] = t->Q + (size_t)row * t->q_row;                                                                          \
        m[i] = -INFINITY;                                                                                              \
        l[i] = 0.0f;                                                                                                   \
        for (int e = 0; e < PAIRS; e++)                                                                                \
          acc[e][i][0] = acc[e][i][1] = 0.0f;                                                                          \
      }                                                                                                                \
    const int4 tile = nf_tile_sight (sight, n);                                                                        \
    for (int part = nf_seen_block (tile, prefix, 0) / KEYS * KEYS; part < tile.y; part += KEYS)                        \
      {                                                                                                                \
        const int end = min (part + KEYS, tile.y);                                                                     \
        for (int i = 0; i < n; i++)                                                                                    \
          top[i] = -INFINITY;                                                                                          \
        NF_SEEN_BLOCKS (key0, part, end)                                                                               \
        {                                                                                                              \
          floatv s[n][2];                                                                                              \
          NF_CAT (nf_dots_, n) (s, q, t->Kt + key0 / NR * NF_KEY_STEP, t->scale);                                      \
          if (!nf_all_see (tile, prefix, key0))                                                                        \
            _Pragma ("unroll") for (int i = 0; i < n; i++)                                                             \
              {                                                                                                        \
                s[i][0] = nf_hide (s[i][0], sight[i], prefix, key0);                                                   \
                s[i][1] = nf_hide (s[i][1], sight[i], prefix, key0 + VW);                                              \
              }                                                                                                        \
          _Pragma ("unroll") for (int i = 0; i < n; i++)                                                               \
          {                                                                                                            \
            nf_storev (s[i][0], p[i] + key0 - part);                                                                   \
            nf_storev (s[i][1], p[i] + key0 - part + VW);                                                              \
            top[i] = nf_larger (top[i], nf_larger (s[i][0], s[i][1]));                                                 \
          }                                                                                                            \
        }                                                                                                              \
        float most[n];                                                                                                 \
        _Pragma ("unroll") for (int i = 0; i < n; i++) most[i] = fmax (m[i], nf_maxv (top[i]));                        \
        for (int i = 0; i < n; i += 2)                                                                                 \
          nf_exponentials (2, p + i, tile, prefix, part, end, most + i, sum + i);                                      \
        _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                 \
          {                                                                                                            \
            const float shrink = m[i] == most[i] ? 1.0f : nf_exp (m[i] - most[i]);                                     \
            l[i] = fma (l[i], shrink, nf_sumv (sum[i]));                                                               \
            m[i] = most[i];                                                                                            \
            for (int e = 0; e < PAIRS; e++)                                                                            \
              {                                                                                                        \
                acc[e][i][0] *= shrink;                                                                                \
                acc[e][i][1] *= shrink;                                                                                \
              }                                                                                                        \
          }                                                                                                            \
        _Pragma ("unroll") for (int e = 0; e < PAIRS; e++) NF_SEEN_BLOCKS (key0, part, end)                            \
            NF_CAT (nf_means_, n) (acc[e], &p[0][key0 - part], KEYS,                                                   \
                                   t->V + (size_t)key0 * NF_VALUE + e * NF_VALUE_PAIR, NF_VALUE,                       \
                                   DH - e * 2 * VW, min (NR, end - key0));                                             \
      }                                                                                                                \
    for (int i = 0; i < n && first + i < t->Nq; i++)                                                                   \
      {                                                                                                                \
        const float r = l[i] > 0.0f ? 1.0f / l[i] : 0.0f; /* a query that sees nothing gets nothing */                 \
        __global float *o = t->out + (size_t)(first + i) * t->out_row;                                                 \
        _Pragma ("unroll") for (int e = 0; e < PAIRS; e++)                                                             \
            nf_leave_pair (acc[e][i][0] * r, acc[e][i][1] * r, t, o, e * 2 * VW);                                      \
        if (t->stats)                                                                                                  \
          {                                                                                                            \
            t->stats[2 * (first + i)] = m[i];                                                                          \
            t->stats[2 * (first + i) + 1] = l[i];                                                                      \
          }                                                                                                            \
      }                                                                                                                \
  }
#if VW == 16
NF_ATTEND (nf_attend_tile, 12)
#else
NF_ATTEND (nf_attend_tile, 6)
#endif

/* One query by itself, with the same sums in the same order. A tile has chains of fma() side by side in its rows; here these are of two blocks of
 * keys, and of all features of a value. */
#define ROW_LINES ((NF_VALUE + 15) / 16)
#define NF_EXPECT_VALUES(v) _Pragma ("unroll") for (int line_ = 0; line_ < ROW_LINES; line_++) NF_PREFETCH ((v) + line_ * 16)

/* s: scores of the keys of `n` blocks from kt on. */
#define NF_DOTS_OF_ONE(n)                                                                                              \
  {                                                                                                                    \
    floatv acc[n][2];                                                                                                  \
    _Pragma ("unroll") for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = 0.0f;                                       \
    for (int e = 0; e < DH; e++)                                                                                       \
      {                                                                                                                \
        const floatv qe = q[e];                                                                                        \
        _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                 \
        {                                                                                                              \
          floatv k[2];                                                                                                 \
          nf_load_keys (kt + i * NF_KEY_STEP, e, k);                                                                   \
          NF_EXPECT_KEYS (kt + ahead + i * NF_KEY_STEP + e * VW);                                                      \
          acc[i][0] = fma (qe, k[0], acc[i][0]);                                                                       \
          acc[i][1] = fma (qe, k[1], acc[i][1]);                                                                       \
        }                                                                                                              \
      }                                                                                                                \
    _Pragma ("unroll") for (int i = 0; i < n; i++)                                                                     \
    {                                                                                                                  \
      s[2 * i] = acc[i][0] * t->scale;                                                                                 \
      s[2 * i + 1] = acc[i][1] * t->scale;                                                                             \
    }                                                                                                                  \
  }

static void
nf_attend_one (const NfHead *t)
{
  const int prefix = t->prefix;
  const int2 sight = nf_sight (t->mask, t->q0);
  const int4 tile = sight.xyxy;
  __global const float *q = t->Q;
  floatv acc[2 * PAIRS];
  float m = -INFINITY, l = 0.0f, p[KEYS];
#pragma unroll
  for (int e = 0; e < 2 * PAIRS; e++)
    acc[e] = 0.0f;
  const int first = nf_seen_block (tile, prefix, 0);
  for (int part = first / KEYS * KEYS; part < tile.y; part += KEYS)
    {
      const int end = min (part + KEYS, tile.y), begin = nf_seen_block (tile, prefix, part);
      floatv top = -INFINITY;
      for (int i = begin; i < min (begin + NF_KEYS_AHEAD, end); i++)
        NF_EXPECT_VALUES (t->V + (size_t)i * NF_VALUE);
      for (int key0 = begin; key0 < end;)
        {
          /* the block after it as well, if there is one that is seen; meanwhile come those after them, or the next head's first */
          const int next = nf_seen_block (tile, prefix, key0 + NR), both = next == key0 + NR && next < end;
          const int after = both ? nf_seen_block (tile, prefix, next + NR) : next;
          const size_t ahead = after < tile.y ? (after - key0) / NR * NF_KEY_STEP : t->ahead - (key0 - first) / NR * NF_KEY_STEP;
          __global const NfKey *kt = t->Kt + key0 / NR * NF_KEY_STEP;
          floatv s[4];
          if (both)
            NF_DOTS_OF_ONE (2)
          else
            NF_DOTS_OF_ONE (1)
          for (int i = 0; i < (both ? 4 : 2); i++)
            {
              floatv v = s[i];
              if (!nf_all_see (tile, prefix, key0 + i / 2 * NR))
                v = nf_hide (v, sight, prefix, key0 + i * VW);
              nf_storev (v, p + key0 - part + i * VW);
              top = nf_larger (top, v);
            }
          key0 = after;
        }
      const float most = fmax (m, nf_maxv (top));
      floatv total;
      nf_exponentials (1, &p, tile, prefix, part, end, &most, &total);
      const float shrink = m == most ? 1.0f : nf_exp (m - most);
      l = fma (l, shrink, nf_sumv (total));
      m = most;
#pragma unroll
      for (int e = 0; e < 2 * PAIRS; e++)
        acc[e] *= shrink;
      NF_SEEN_BLOCKS (key0, part, end)
        {
          __global const NfKey *v = t->V + (size_t)key0 * NF_VALUE;
          for (int key = key0; key < min (key0 + NR, end); key++, v += NF_VALUE)
            {
              const floatv w = p[key - part];
              if (key + NF_KEYS_AHEAD < end)
                NF_EXPECT_VALUES (v + NF_KEYS_AHEAD * NF_VALUE);
#pragma unroll
              for (int e = 0; e < PAIRS; e++)
                {
                  floatv x[2];
                  nf_load_value (v + e * NF_VALUE_PAIR, DH - e * 2 * VW, x);
                  acc[2 * e] = fma (w, x[0], acc[2 * e]);
                  acc[2 * e + 1] = fma (w, x[1], acc[2 * e + 1]);
                }
            }
        }
    }
  const float r = l > 0.0f ? 1.0f / l : 0.0f; /* a query that sees nothing gets nothing */
#pragma unroll
  for (int e = 0; e < 2 * PAIRS; e += 2)
    nf_leave_pair (acc[e] * r, acc[e + 1] * r, t, t->out, e * VW);
  if (t->stats)
    {
      t->stats[0] = m;
      t->stats[1] = l;
    }
}

static void
nf_attend (const NfHead *t, int first)
{
  if (t->Nq == 1)
    nf_attend_one (t);
  else
    nf_attend_tile (t, first);
}

/* The backward pass takes QUERIES queries and PART keys at a time, whose weights and gradients of scores fit the first-level cache. PART is a
 * multiple of NR and of QT. */
#define QUERIES (4 * QT)
#define PART 96

typedef struct
{
  __global const float *Q, *K, *out, *dout, *stats; /* of the head */
  __global const NfKey *Kt, *Vt;
  __global float *dQ;
  int row, d, N, prefix;
  float scale;
  int8 mask;
} NfBackward;

/* Of queries first .. first+QT-1 and keys key_first .. key_end-1: weights p, gradients of scores ds, and dQ, to which is added unless key_first is 0. */
static void
nf_weigh (const NfBackward *t, int first, int key_first, int key_end, float (*p)[PART], float (*ds)[PART])
{
  const int prefix = t->prefix, rows = min (QT, t->N - first);
  __global const float *q[QT], *g[QT];
  int2 sight[QT];
  float m[QT], rl[QT], dot[QT];
  for (int i = 0; i < QT; i++)
    {
      const int n = min (first + i, t->N - 1);
      q[i] = t->Q + (size_t)n * t->row;
      g[i] = t->dout + (size_t)n * t->d;
      /* a query past the end sees no key: its weights are 0 and add nothing */
      sight[i] = nf_sight (t->mask, n);
      if (i >= rows)
        sight[i].y = 0;
      m[i] = t->stats[2 * n];
      rl[i] = 1.0f / t->stats[2 * n + 1];
      floatv s = 0.0f;
      for (int e = 0; e < DH; e += VW)
        s = fma (nf_load_head (g[i] + e, DH - e), nf_load_head (t->out + (size_t)n * t->d + e, DH - e), s);
      dot[i] = nf_sumv (s);
    }
  const int4 tile = nf_tile_sight (sight, QT);
  for (int key0 = key_first; key0 < key_end; key0 += NR)
    {
      floatv s[QT][2], dp[QT][2];
      const size_t block = key0 / NR * NF_KEY_STEP;
      const int at = key0 - key_first, all = nf_all_see (tile, prefix, key0);
      if (key0 >= tile.y || key0 < nf_seen_block (tile, prefix, key0))
        {
          for (int i = 0; i < QT; i++)
            for (int v = 0; v < NR; v += VW)
              {
                nf_storev ((floatv)(0.0f), p[i] + at + v);
                nf_storev ((floatv)(0.0f), ds[i] + at + v);
              }
          continue;
        }
      nf_dots (s, q, t->Kt + block, t->scale);
      nf_dots (dp, g, t->Vt + block, 1.0f);
      for (int i = 0; i < QT; i++)
        for (int v = 0; v < 2; v++)
          {
            const floatv sv = all ? s[i][v] : nf_hide (s[i][v], sight[i], prefix, key0 + v * VW);
            const intv hidden = sv == (floatv)(-INFINITY);
            const floatv pv = select (nf_expv (sv - m[i]) * rl[i], (floatv)(0.0f), hidden);
            nf_storev (pv, p[i] + at + v * VW);
            nf_storev (select (pv * (dp[i][v] - dot[i]) * t->scale, (floatv)(0.0f), hidden), ds[i] + at + v * VW);
          }
    }
#pragma unroll
  for (int e = 0; e < 2 * PAIRS; e += 2)
    {
      const int lanes = DH - e * VW;
      __global float *dq = t->dQ + (size_t)first * t->row + e * VW;
      floatv acc[QT][2];
      for (int i = 0; i < QT; i++)
        {
          const int there = key_first > 0 && i < rows;
          acc[i][0] = there ? nf_load_head (dq + (size_t)i * t->row, lanes) : (floatv)(0.0f);
          acc[i][1] = there ? nf_load_head (dq + (size_t)i * t->row + VW, lanes - VW) : (floatv)(0.0f);
        }
      nf_sums (acc, ds[0], PART, t->K + (size_t)key_first * t->row + e * VW, t->row, lanes, min (key_end, tile.y) - key_first);
      for (int i = 0; i < rows; i++)
        {
          nf_store_head (acc[i][0], dq + (size_t)i * t->row, lanes);
          nf_store_head (acc[i][1], dq + (size_t)i * t->row + VW, lanes - VW);
        }
    }
}

/* to[key] += the sum over rows `from` .. count-1 of w[row][key] x[row], for `keys` of QT keys. */
static void
nf_gather (__global float *to, int row, int keys, const float *w, __global const float *x, int x_row, int from, int count)
{
#pragma unroll
  for (int e = 0; e < 2 * PAIRS; e += 2)
    {
      const int lanes = DH - e * VW;
      floatv acc[QT][2];
#pragma unroll
      for (int i = 0; i < QT; i++)
        {
          acc[i][0] = nf_load_head (to + (size_t)min (i, keys - 1) * row + e * VW, lanes);
          acc[i][1] = nf_load_head (to + (size_t)min (i, keys - 1) * row + e * VW + VW, lanes - VW);
        }
      __global const float *xn = x + (size_t)from * x_row + e * VW;
      for (int n = from; n < count; n++, xn += x_row)
        {
          const floatv x0 = nf_load_head (xn, lanes), x1 = nf_load_head (xn + VW, lanes - VW);
          NF_EXPECT_ROW (xn, x_row, 2 * VW);
#pragma unroll
          for (int i = 0; i < QT; i++)
            {
              const floatv wi = w[n * PART + i];
              acc[i][0] = fma (wi, x0, acc[i][0]);
              acc[i][1] = fma (wi, x1, acc[i][1]);
            }
        }
      for (int i = 0; i < keys; i++)
        {
          nf_store_head (acc[i][0], to + (size_t)i * row + e * VW, lanes);
          nf_store_head (acc[i][1], to + (size_t)i * row + e * VW + VW, lanes - VW);
        }
    }
}

/* Backward of a key head, and of the query heads that share it, over a whole sequence. qkv, dqkv (B, N, (H + 2 Hkv) DH); out, dout (B, N, H DH);
 * Kt, Vt from nf_append; stats from nf_attention.
 * P = exp(S - m)/l, dP = dout·V, dS = scale P (dP - dout·out), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dout. Global size (Hkv, B). */
NF_KERNEL_OF_ONE void
nf_attention_backward (NF_ITEM __global const float *qkv, ulong qkv_at, __global const float *Kt, __global const float *Vt, int blocks,
                       __global const float *out, ulong out_at, __global const float *dout, ulong dout_at,
                       __global const float *stats, __global float *dqkv, ulong dqkv_at, int N, int H, int Hkv, int8 mask,
                       float scale)
{
  const int hkv = get_global_id (0), b = get_global_id (1), d = H * DH, row = d + 2 * Hkv * DH, share = H / Hkv, prefix = NF_PREFIX (mask);
  const size_t sample = (size_t)b * N * row, key_head = sample + d + hkv * DH;
  __global float *dK = dqkv + dqkv_at + key_head, *dV = dK + Hkv * DH;
  float p[QUERIES][PART], ds[QUERIES][PART];
  for (int n = 0; n < N; n++)
    for (int e = 0; e < DH; e += VW)
      {
        nf_store_head ((floatv)(0.0f), dK + (size_t)n * row + e, DH - e);
        nf_store_head ((floatv)(0.0f), dV + (size_t)n * row + e, DH - e);
      }
  for (int h = hkv * share; h < (hkv + 1) * share; h++)
    {
      const size_t head = (size_t)b * N * d + h * DH;
      const NfBackward t = { .Q = qkv + qkv_at + sample + h * DH,
                             .K = qkv + qkv_at + key_head,
                             .Kt = (__global const NfKey *)Kt + ((size_t)b * Hkv + hkv) * NF_HEAD (blocks, 0),
                             .Vt = (__global const NfKey *)Vt + ((size_t)b * Hkv + hkv) * NF_HEAD (blocks, 0),
                             .out = out + out_at + head,
                             .dout = dout + dout_at + head,
                             .stats = stats + ((size_t)b * H + h) * N * 2,
                             .dQ = dqkv + dqkv_at + sample + h * DH,
                             .row = row,
                             .d = d,
                             .N = N,
                             .prefix = prefix,
                             .scale = scale,
                             .mask = mask };
      for (int first = 0; first < N; first += QUERIES)
        {
          const int count = min (QUERIES, N - first);
          /* places only grow: what the first query sees begins where no other's does, and the last one's ends where no other's does */
          const int begin = nf_sight (mask, first).x, end = min (nf_sight (mask, first + count - 1).y, N);
          for (int part = 0; part < max (end, 1); part += PART)
            {
              const int part_end = min (part + PART, N);
              if (part > 0 && part >= prefix && part + PART <= begin)
                continue;
              for (int n = 0; n < count; n += QT)
                nf_weigh (&t, first + n, part, part_end, p + n, ds + n);
              for (int key = part; key < part_end; key += QT)
                {
                  const int keys = min (QT, part_end - key), from = mask.s0 ? max (key - first, 0) : 0;
                  const size_t at = (size_t)key * row;
                  if (from >= count)
                    break;
                  nf_gather (dV + at, row, keys, &p[0][key - part], t.dout + (size_t)first * d, d, from, count);
                  nf_gather (dK + at, row, keys, &ds[0][key - part], t.Q + (size_t)first * row, row, from, count);
                }
            }
        }
    }
}
#endif
