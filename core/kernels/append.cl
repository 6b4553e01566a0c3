/* Keys and values that attention has met, and which of them a query meets. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Keys are kept transposed in blocks of VW, so that VW scores are one vector:
 *   Kt[b][h][n / VW][DH][n % VW]
 * and after all of them, for attention, the head's values, row after row:
 *   V[n][DH]
 * The backward pass has values in the form of keys, without these. Where a CPU's products round what weights multiply, keys and values are bfloat16,
 * half of what a step of decoding reads of them; a word has what two vectors of floats have in a lane, the first one's in its lower half:
 *   Kt[b][h][n / NR][DH][n % VW]     V[n][DH / (2 VW)][e % VW]
 * The matrix unit has blocks of NR keys and their values in bfloat16, see attention_amx.cl:
 *   Kt[b][h][n / NR][NF_KEY_BLOCK] */
#if ((NF_BF16 && !NF_BF16_WEIGHTS && !NF_BF16_AMX) || NF_INT8_WEIGHTS) && !NF_GPU_KERNELS
#define NF_HALF_KEYS 1
#else
#define NF_HALF_KEYS 0
#endif
#if NF_BF16_AMX
#define DHP ((DH + 31) / 32 * 32) /* features of a head, and zeros up to whole steps of a product */
#define NF_KEY_BLOCK (DHP * NR)   /* words: keys, then values */
#else
#define DHP DH
#endif
#define PAIRS ((DH + 2 * VW - 1) / (2 * VW)) /* of vectors in a head */

/* Floats, or words, of a value, and of the keys of a head (for the matrix unit its keys and values); from one head to the next, with values or not. */
#if NF_HALF_KEYS
typedef uint NfKey;
#define NF_VALUE (PAIRS * VW)
#define NF_KEYS(blocks) ((size_t)(blocks) / 2 * DH * VW)
#else
typedef float NfKey;
#define NF_VALUE DH
#define NF_KEYS(blocks) ((size_t)(blocks)*DHP * VW)
#endif
#if NF_BF16_AMX
#define NF_HEAD(blocks, values) NF_KEYS (blocks)
#else
#define NF_HEAD(blocks, values) (NF_KEYS (blocks) + ((values) ? (size_t)(blocks)*VW * NF_VALUE : 0))
#endif

#define NF_SINGLE_ROWS 2 /* of a block, which sooner take their places one by one */

/* Transposes rows [n0, n0+count) of keys (or of values, for the backward pass) into blocks and, with NF_VALUES_TOO, keeps the values that lie after the H
 * heads of keys in a row (for the matrix unit always). src rows are row apart, samples batch apart. Global size (count, H, B) on a GPU, a row of a head
 * each; on a CPU (blocks that are touched, H, B), of VW rows, or of NR where these are bfloat16. For the matrix unit, with NF_FROM_LEFT, src is left
 * rows of a product, row and batch count words. */
#if NF_BF16_AMX

/* Up to 32 features of a row from e on, as 16 words. HALVES: these are what x points to, and 32 features are there or none. */
static inline uintv
nf_load_words (__global const float *x, int e, int lanes, bool halves)
{
  if (halves)
    return lanes > 0 ? nf_loadv ((__global const uint *)x + e / 2) : (uintv)(0);
  return nf_halves (nf_load_head (x + e, lanes), nf_load_head (x + e + VW, lanes - VW));
}

/* Lane by lane, the first one's in the lower halves. */
static inline uintv
nf_zip (floatv first, floatv second)
{
  typedef ushort Halves __attribute__ ((ext_vector_type (32)));
  const Halves halves = __builtin_astype (nf_halves (first, second), Halves);
  return __builtin_astype (__builtin_shufflevector (halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10,
                                                    26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                           uintv);
}

/* Words of 16 features from e on of two rows, of which there are `count`. */
static inline uintv
nf_zip_rows (__global const float *x, int row, int i, int count, int e)
{
  return nf_zip (nf_load_head (x + (size_t)i * row + e, i < count ? DH - e : 0),
                 nf_load_head (x + (size_t)(i + 1) * row + e, i + 1 < count ? DH - e : 0));
}

/* A block of NR rows, of which there are `count`, the others zero, in the two forms of a product's right operand: two features of a row in a word
 * (DHP / 2, NR), and a feature of two rows in a word (DHP / 32, NR / 2, 32). */
#define NF_BLOCK_FORMS(space)                                                                                          \
  static inline void NF_CAT (nf_by_features_, space) (__global const float *x, int row, int count, __##space uint *y,  \
                                                      bool halves)                                                     \
  {                                                                                                                    \
    for (int e = 0; e < DHP; e += 32)                                                                                  \
      for (int n = 0; n < NR; n += VW)                                                                                 \
        {                                                                                                              \
          floatv words[VW];                                                                                            \
          _Pragma ("unroll") for (int i = 0; i < VW; i++) words[i]                                                     \
              = nf_as_floatv (nf_load_words (x + (size_t)(n + i) * row, e, n + i < count ? DH - e : 0, halves));       \
          nf_transpose (words);                                                                                        \
          _Pragma ("unroll") for (int i = 0; i < VW; i++)                                                              \
              nf_storev (nf_as_uintv (words[i]), y + (e / 2 + i) * NR + n);                                            \
        }                                                                                                              \
  }                                                                                                                    \
  static void NF_CAT (nf_by_rows_, space) (__global const float *x, int row, int count, __##space uint *y)             \
  {                                                                                                                    \
    for (int e = 0; e < DHP; e += VW)                                                                                  \
      for (int i = 0; i < NR; i += 2)                                                                                  \
        nf_storev (nf_zip_rows (x, row, i, count, e), y + e / 32 * 16 * NR + i / 2 * 32 + e % 32);                     \
  }
NF_BLOCK_FORMS (global)
NF_BLOCK_FORMS (private)

/* The second of them, of NR rows of halves. */
static inline void
nf_halves_by_rows (__global const float *x, int row, __global uint *y)
{
  typedef ushort Halves __attribute__ ((ext_vector_type (32)));
  for (int e = 0; e < DHP; e += 32)
    for (int i = 0; i < NR; i += 2)
      {
        const Halves first = __builtin_astype (nf_load_words (x + (size_t)i * row, e, 32, true), Halves);
        const Halves second = __builtin_astype (nf_load_words (x + (size_t)(i + 1) * row, e, 32, true), Halves);
        __global uint *to = y + e * (NR / 2) + i / 2 * 32;
        nf_storev (__builtin_astype (__builtin_shufflevector (first, second, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41,
                                                              10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47),
                                     uintv),
                   to);
        nf_storev (__builtin_astype (__builtin_shufflevector (first, second, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56,
                                                              25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63),
                                     uintv),
                   to + VW);
      }
}

/* One row into column n of a block. The next head's lines come meanwhile, which lie `ahead` words further on. */
static void
nf_append_row (__global const float *k, __global const float *v, __global uint *keys, __global uint *values, int n, size_t ahead, bool halves)
{
  const uintv kept = (uintv)(n % 2 ? 0xffffu : 0xffff0000u);
  const uint shift = n % 2 * 16;
  for (int e = 0; e < DHP; e += 32)
    {
      __global uint *column = keys + e / 2 * NR + n, *row = values + e / 2 * NR + n / 2 * 32;
      uint words[VW];
      nf_storev (nf_load_words (k, e, DH - e, halves), words);
      for (int i = 0; i < VW; i++)
        {
          NF_PREFETCH_TO_WRITE (column + ahead + i * NR);
          column[i * NR] = words[i];
        }
      const uintv pairs = nf_load_words (v, e, DH - e, halves);
      for (int i = 0; i < 2; i++)
        {
          NF_PREFETCH_TO_WRITE (row + ahead + i * VW);
          const uintv features = convert_uint16 (as_ushort16 (i ? pairs.hi : pairs.lo));
          nf_storev ((nf_loadv (row + i * VW) & kept) | features << shift, row + i * VW);
        }
    }
}

NF_KERNEL_OF_ONE void
nf_append (NF_ITEM __global const float *src, ulong src_at, int row, ulong batch, __global float *Kt, ulong Kt_at, int n0, int count, int blocks, int H,
           int flags)
{
  const int h = get_global_id (1), b = get_global_id (2), block = n0 / NR + get_global_id (0);
  const int first = max (n0, block * NR), end = min (n0 + count, (block + 1) * NR);
  const bool halves = flags & NF_FROM_LEFT;
  const int head = halves ? DH / 2 : DH;
  __global const float *k = src + src_at + b * batch + h * head + (size_t)(first - n0) * row, *v = k + H * head;
  __global uint *keys = (__global uint *)(Kt + Kt_at) + ((size_t)b * H + h) * NF_HEAD (blocks, flags & NF_VALUES_TOO) + (size_t)block * NF_KEY_BLOCK;
  __global uint *values = keys + NF_KEY_BLOCK / 2;
  if (end - first == NR)
    {
      nf_by_features_global (k, row, NR, keys, halves);
      if (halves)
        nf_halves_by_rows (v, row, values);
      else
        nf_by_rows_global (v, row, NR, values);
      return;
    }
  /* the weight of a value that is not there yet is 0, and so has the value to be: it might be no number */
  if (first == block * NR)
    for (int i = 0; i < NF_KEY_BLOCK / 2; i += VW)
      nf_storev ((uintv)(0u), values + i);
  for (int n = first; n < end; n++, k += row, v += row)
    nf_append_row (k, v, keys, values, n - block * NR, NF_HEAD (blocks, flags & NF_VALUES_TOO), halves);
}

#elif NF_HALF_KEYS

/* A block of NR rows in columns, of which rows begin .. end-1 alone, if others are KEPT, are there and written. */
static inline __attribute__ ((always_inline)) void
nf_transpose_block (__global const float *x, int row, int begin, int end, __global uint *keys, bool kept)
{
  const intv lower_rows = NF_LANES, upper_rows = NF_LANES + (intv)(VW);
  const uintv lower = nf_as_uintv (lower_rows >= (intv)(begin) && lower_rows < (intv)(end)) & (uintv)(0xffffu),
              upper = nf_as_uintv (upper_rows >= (intv)(begin) && upper_rows < (intv)(end)) & (uintv)(0xffff0000u), wanted = lower | upper;
  for (int e = 0; e < DH; e += VW)
    {
      const int lanes = DH - e;
      floatv words[VW];
#pragma unroll
      for (int i = 0; i < VW; i++)
        {
          const bool has_lower = !kept || (i >= begin && i < end), has_upper = !kept || (VW + i >= begin && VW + i < end);
          words[i] = nf_as_floatv (nf_pairv (nf_load_head (x + (ptrdiff_t)(i - begin) * row + e, has_lower ? lanes : 0),
                                             nf_load_head (x + (ptrdiff_t)(VW + i - begin) * row + e, has_upper ? lanes : 0)));
        }
      nf_transpose (words);
#pragma unroll
      for (int i = 0; i < VW; i++)
        if (i < lanes)
          {
            __global uint *to = keys + (e + i) * VW;
            const uintv word = nf_as_uintv (words[i]);
            nf_storev (kept ? (nf_loadv (to) & ~wanted) | (word & wanted) : word, to);
          }
    }
}

NF_KERNEL_OF_ONE void
nf_append (NF_ITEM __global const float *src, ulong src_at, int row, ulong batch, __global float *Kt, ulong Kt_at, int n0, int count, int blocks, int H,
           int flags)
{
  const int h = get_global_id (1), b = get_global_id (2), block = n0 / NR + get_global_id (0);
  const int first = max (n0, block * NR), end = min (n0 + count, (block + 1) * NR);
  __global const float *k = src + src_at + b * batch + h * DH + (size_t)(first - n0) * row;
  __global uint *head = (__global uint *)(Kt + Kt_at) + ((size_t)b * H + h) * NF_HEAD (blocks, flags & NF_VALUES_TOO);
  __global uint *keys = head + block * NF_KEYS (2);
  if (flags & NF_VALUES_TOO)
    for (int n = first; n < end; n++)
      for (int p = 0; p < PAIRS; p++)
        {
          __global const float *v = k + (size_t)(n - first) * row + H * DH + p * 2 * VW;
          const int lanes = DH - p * 2 * VW;
          nf_storev (nf_pairv (nf_load_head (v, lanes), nf_load_head (v + VW, lanes - VW)),
                     head + NF_KEYS (blocks) + (size_t)n * NF_VALUE + p * VW);
        }
  if (end - first == NR)
    {
      nf_transpose_block (k, row, 0, NR, keys, false);
      return;
    }
  if (end - first > NF_SINGLE_ROWS)
    {
      nf_transpose_block (k, row, first - block * NR, end - block * NR, keys, true);
      return;
    }
  for (int n = first; n < end; n++, k += row)
    for (int e = 0; e < DH; e += VW)
      {
        __global uint *next = keys + NF_HEAD (blocks, flags & NF_VALUES_TOO) + e * VW; /* head */
        __global ushort *to = (__global ushort *)(keys + e * VW) + n % VW * 2 + n / VW % 2;
        uint halves[VW];
        nf_storev (nf_pairv (nf_load_head (k + e, DH - e), 0.0f), halves);
        for (int i = 0; i < min (VW, DH - e); i++)
          {
            NF_PREFETCH_TO_WRITE (next + i * VW);
            to[i * 2 * VW] = (ushort)halves[i];
          }
      }
}

#else

#if !NF_GPU_KERNELS
/* A block of VW rows in columns, of which rows begin .. end-1 alone, if others are KEPT, are there and written. */
static inline __attribute__ ((always_inline)) void
nf_transpose_block (__global const float *x, int row, int begin, int end, __global float *keys, bool kept)
{
  const intv wanted = NF_LANES >= (intv)(begin) && NF_LANES < (intv)(end);
  for (int e = 0; e < DH; e += VW)
    {
      const int lanes = DH - e;
      floatv columns[VW];
#pragma unroll
      for (int i = 0; i < VW; i++)
        columns[i] = nf_load_head (x + (ptrdiff_t)(i - begin) * row + e, !kept || (i >= begin && i < end) ? lanes : 0);
      nf_transpose (columns);
#pragma unroll
      for (int i = 0; i < VW; i++)
        if (i < lanes)
          {
            __global float *to = keys + (e + i) * VW;
            nf_storev (kept ? select (nf_loadv (to), columns[i], wanted) : columns[i], to);
          }
    }
}
#endif

NF_KERNEL_OF_ONE void
nf_append (NF_ITEM __global const float *src, ulong src_at, int row, ulong batch, __global float *Kt, ulong Kt_at, int n0, int count, int blocks, int H,
           int flags)
{
  const int h = get_global_id (1), b = get_global_id (2);
  src += src_at + b * batch + h * DH;
  Kt += Kt_at + ((size_t)b * H + h) * NF_HEAD (blocks, flags & NF_VALUES_TOO);
#if NF_GPU_KERNELS
  const int first = n0 + get_global_id (0), end = first + 1;
#else
  const int block = n0 / VW + get_global_id (0), first = max (n0, block * VW), end = min (n0 + count, (block + 1) * VW);
#endif
  if (flags & NF_VALUES_TOO)
    for (int n = first; n < end; n++)
      for (int i = 0; i < DH; i++)
        Kt[NF_KEYS (blocks) + (size_t)n * DH + i] = src[(size_t)(n - n0) * row + H * DH + i];
#if !NF_GPU_KERNELS
  __global const float *k = src + (size_t)(first - n0) * row;
  __global float *keys = Kt + (size_t)block * DH * VW;
  if (end - first == VW)
    {
      nf_transpose_block (k, row, 0, VW, keys, false);
      return;
    }
  if (end - first > NF_SINGLE_ROWS)
    {
      nf_transpose_block (k, row, first - block * VW, end - block * VW, keys, true);
      return;
    }
#endif
  for (int n = first; n < end; n++)
    for (int i = 0; i < DH; i++)
      {
        __global float *to = Kt + ((size_t)(n / VW) * DH + i) * VW + n % VW;
#if !NF_GPU_KERNELS
        NF_PREFETCH_TO_WRITE (to + NF_HEAD (blocks, flags & NF_VALUES_TOO)); /* the next head's */
#endif
        *to = src[(size_t)(n - n0) * row + i];
      }
}

#endif

/* A mask as the host passes it, NfMask: .s0 keys end at the query's own place (else with the frame `ahead`), .s1 tokens of the prefix, .s2 tokens
 * of a frame (0: no frames), .s3 the frame of the last key less that of the query, .s4 the window in frames, .s5 keys that there are. */
#define NF_PREFIX(mask) ((mask).s1)
#define NF_N_KEYS(mask) ((mask).s5)

/* A query at `place` meets keys [.x, .y) and, below .y, those of the prefix. */
static inline int2
nf_sight (int8 mask, int place)
{
  const int causal = mask.s0, prefix = mask.s1, frame = mask.s2, ahead = mask.s3, window = mask.s4, keys = mask.s5;
  const int behind = place - prefix, f = !frame ? 0 : behind >= 0 ? behind / frame : -((frame - 1 - behind) / frame);
  return (int2)(frame && (behind >= 0 || !causal) ? prefix + max (f + ahead - window, 0) * frame : 0,
                causal ? place + 1 : min (prefix + (max (f, 0) + ahead + 1) * frame, keys));
}

static inline int
nf_sees (int2 sight, int prefix, int key)
{
  return key < sight.y && (key < prefix || key >= sight.x);
}
