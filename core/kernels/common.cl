/* normflow: what every kernel file starts with, behind launch.h. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The host passes -DVW=16|8|4, the floats of a native vector, -DNF_GPU_KERNELS=0|1, for products of bfloat16 -DNF_BF16=1, and, if a CPU's instructions
 * make these, -DNF_BF16_DOT=1 (vdpbf16ps) or -DNF_BF16_AMX=1 (its matrix unit). -DNF_F32_AMX=1: its matrix unit makes products of floats.
 * -DNF_BF16_WEIGHTS=1 with -DNF_BF16=1: only matrices on the right of products are in bfloat16; -DNF_WEIGHTS_AMX=1: by the matrix unit.
 * -DNF_INT8_WEIGHTS=1: these are integers of eight bits, times a scale for each column; -DNF_INT8_MADD=1: what they multiply is made integers of 16 bits, by
 * vpmaddwd, or, with -DNF_INT8_VNNI=1, by vpdpwssd, or, with -DNF_INT8_AMX=1, by the matrix unit. -DNF_FETCH_FEW=0: matrices are not fetched ahead for
 * products of few rows.
 * Letters for sizes: B batch, N tokens, D features, d width, H heads, DH features of a head, M rows (B·N or B).
 * Results must not depend on the batch size nor on the vector width of a load: every sum has one order, products are accumulated by fma(), and
 * nothing is compiled with fast-math. */

#pragma OPENCL FP_CONTRACT OFF

#ifndef VW
#define VW 16
#endif
#ifndef NF_BF16_WEIGHTS
#define NF_BF16_WEIGHTS 0
#endif
#ifndef NF_INT8_WEIGHTS
#define NF_INT8_WEIGHTS 0
#endif
#ifndef NF_INT8_MADD
#define NF_INT8_MADD 0
#endif
#ifndef NF_INT8_AMX
#define NF_INT8_AMX 0
#endif
#ifndef NF_FETCH_FEW
#define NF_FETCH_FEW 1
#endif

/* A kernel is what one work-item does. In a command list (list.cl) that is a function, which is called for one item after the other. */
#ifndef NF_LIST
#define NF_LIST 0
#endif
#if NF_LIST
#define NF_KERNEL static __attribute__ ((unused))
#define NF_KERNEL_OF_ONE NF_KERNEL
#define NF_ITEM const uint3 nf_item, const uint3 nf_items,
#define get_global_id(dimension) ((size_t)nf_item[dimension])
#define get_global_size(dimension) ((size_t)nf_items[dimension])
#else
#define NF_KERNEL __kernel
#define NF_KERNEL_OF_ONE __kernel __attribute__ ((reqd_work_group_size (1, 1, 1)))
#define NF_ITEM
#endif

#define NF_CAT_(a, b) a##b
#define NF_CAT(a, b) NF_CAT_ (a, b)
typedef NF_CAT (float, VW) floatv;
typedef NF_CAT (int, VW) intv;
typedef NF_CAT (uint, VW) uintv;
typedef NF_CAT (ushort, VW) ushortv;
#define nf_loadv(p) NF_CAT (vload, VW) (0, p)

/* PoCL's vstore16 is four stores of four lanes; what reads the vector soon after would wait for them. A vector that need not lie as one is one store. */
#ifdef __x86_64__
#define NF_STORE(V, T, space)                                                                                          \
  static inline __attribute__ ((overloadable, always_inline)) void nf_storev (V v, space T *p)                         \
  {                                                                                                                    \
    typedef V Anywhere __attribute__ ((aligned (4), may_alias));                                                       \
    *(space Anywhere *)p = v;                                                                                          \
  }
NF_STORE (floatv, float, __global)
NF_STORE (floatv, float, __private)
NF_STORE (uintv, uint, __global)
NF_STORE (uintv, uint, __private)
NF_STORE (ushortv, ushort, __global)
#else
#define nf_storev(v, p) NF_CAT (vstore, VW) (v, 0, p)
#endif
#define nf_as_floatv NF_CAT (as_float, VW)
#define nf_as_intv NF_CAT (as_int, VW)
#define nf_as_uintv NF_CAT (as_uint, VW)

/* A CPU keeps MR rows × NR columns of a product in registers: 2 MR vectors of its 32 or 16, or four tiles of its matrix unit. Packed matrices lie in
 * panels of so many rows or columns, see pack.cl. */
#define NR (2 * VW)
#if NF_BF16_AMX || NF_F32_AMX || NF_WEIGHTS_AMX || NF_INT8_AMX
#define NF_AMX 1
#endif
#if NF_INT8_AMX
#define MR NF_ROWS_OF_AMX_INT8
#elif NF_AMX
#define MR NF_ROWS_OF_AMX
#elif VW == 16
#define MR NF_ROWS_OF_16
#else
#define MR NF_ROWS_OF_8
#endif

#if VW == 16
#define NF_LANES (intv) (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#elif VW == 8
#define NF_LANES (intv) (0, 1, 2, 3, 4, 5, 6, 7)
#else
#define NF_LANES (intv) (0, 1, 2, 3)
#endif

/* What is at p on its way to the first-level cache, to be written if so it is, or to the second-level cache. __builtin_prefetch() takes no pointer to
 * global memory with newer compilers, and prefetch() does nothing with PoCL. */
#ifdef __x86_64__
#define NF_PREFETCH(p) __asm__ volatile ("prefetcht0 %0" : : "m"(*(p)))
#define NF_PREFETCH_TO_WRITE(p) __asm__ volatile ("prefetchw %0" : : "m"(*(p)))
#define NF_PREFETCH_FAR(p) __asm__ volatile ("prefetcht1 %0" : : "m"(*(p)))
#else
#define NF_PREFETCH(p) prefetch (p, 1)
#define NF_PREFETCH_TO_WRITE(p) prefetch (p, 1)
#define NF_PREFETCH_FAR(p) prefetch (p, 1)
#endif

#if !NF_GPU_KERNELS
/* VW rows of VW floats into columns: each round interleaves the first half of the vectors with the second. */
static inline void
nf_transpose (floatv x[VW])
{
  floatv y[VW];
#pragma unroll
  for (int round = 1; round < VW; round *= 2)
    {
#pragma unroll
      for (int i = 0; i < VW / 2; i++)
        {
          y[2 * i].even = x[i].lo;
          y[2 * i].odd = x[i + VW / 2].lo;
          y[2 * i + 1].even = x[i].hi;
          y[2 * i + 1].odd = x[i + VW / 2].hi;
        }
#pragma unroll
      for (int i = 0; i < VW; i++)
        x[i] = y[i];
    }
}
#endif

/* Sum of the lanes, always in this order: halves onto each other. */
static inline float
nf_sum4 (float4 v)
{
  float2 h = v.lo + v.hi;
  return h.x + h.y;
}
static inline float
nf_sumv (floatv v)
{
#if VW == 16
  float8 e = v.lo + v.hi;
  return nf_sum4 (e.lo + e.hi);
#elif VW == 8
  return nf_sum4 (v.lo + v.hi);
#else
  return nf_sum4 (v);
#endif
}
static inline float
nf_maxv (floatv v)
{
#if VW == 16
  float8 e = fmax (v.lo, v.hi);
  float4 q = fmax (e.lo, e.hi);
#elif VW == 8
  float4 q = fmax (v.lo, v.hi);
#else
  float4 q = v;
#endif
  float2 h = fmax (q.lo, q.hi);
  return fmax (h.x, h.y);
}

/* The first n lanes from p, zero in the others; n may be VW or more. Behind the end of each buffer there is something to read (NF_PADDING), but not
 * where there is nothing to load. */
static inline floatv
nf_load_head (__global const float *p, int n)
{
  if (n >= VW)
    return nf_loadv (p);
  if (n <= 0)
    return (floatv)(0.0f);
  return select ((floatv)(0.0f), nf_loadv (p), NF_LANES < (intv)(n));
}
/* What is behind them may be another work-item's: it is left alone. */
static inline void
nf_store_head4 (float4 v, __global float *p, int n)
{
  if (n >= 4)
    {
      vstore4 (v, 0, p);
      return;
    }
  if (n & 2)
    vstore2 (v.lo, 0, p);
  if (n & 1)
    p[n & 2] = n & 2 ? v.z : v.x;
}
#define NF_STORE_HEAD(lanes, half)                                                                                                                   \
  static inline void NF_CAT (nf_store_head, lanes) (NF_CAT (float, lanes) v, __global float *p, int n)                                               \
  {                                                                                                                                                  \
    if (n < half)                                                                                                                                    \
      {                                                                                                                                              \
        NF_CAT (nf_store_head, half) (v.lo, p, n);                                                                                                   \
        return;                                                                                                                                      \
      }                                                                                                                                              \
    NF_CAT (vstore, half) (v.lo, 0, p);                                                                                                              \
    NF_CAT (nf_store_head, half) (v.hi, p + half, n - half);                                                                                         \
  }
NF_STORE_HEAD (8, 4)
NF_STORE_HEAD (16, 8)
static inline void
nf_store_head (floatv v, __global float *p, int n)
{
  if (n >= VW)
    nf_storev (v, p);
  else if (n > 0)
    NF_CAT (nf_store_head, VW) (v, p, n);
}

/* What a product multiplies. With -DNF_BF16=1 two bfloat16 of consecutive k, the first in the lower half of a word; k then counts words. With
 * -DNF_BF16_WEIGHTS=1 that is the right operand; the left one is floats, or, with AMX, planes of them. With -DNF_INT8_WEIGHTS=1 the right operand has
 * four integers in a word, and the left one is floats, or, with -DNF_INT8_MADD=1, two integers in a word. */
#if NF_BF16 || NF_INT8_WEIGHTS
typedef uint nf_element;
typedef uintv nf_elementv;
#else
typedef float nf_element;
typedef floatv nf_elementv;
#endif

/* Steps of k in an element on the right, which are values or words on the left, and rows of elements in a panel before these. */
#if NF_INT8_WEIGHTS
#define NF_RIGHT_VALUES (NF_INT8_MADD ? 2 : 4)
#define NF_SCALES 1 /* one of floats */
#elif NF_BF16_WEIGHTS
#define NF_RIGHT_VALUES 2
#define NF_SCALES 0
#else
#define NF_RIGHT_VALUES 1
#define NF_SCALES 0
#endif
#define NF_RIGHT_ELEMENTS(K) (((K) + NF_RIGHT_VALUES - 1) / NF_RIGHT_VALUES) /* of K steps */

/* The matrix unit multiplies bfloat16 only. A float is the sum of three of them: itself rounded to one, what is left rounded to one, and what is left
 * then, which is one; the sum of the first two has 16 bits. A step of 32 values of k is so many planes, one, two or three, of 16 words in a row of the
 * left operand, which comes in this form; on the right three get it while they are multiplied. */
#if NF_F32_AMX
#define NF_PLANES 3
#define NF_RIGHT_PLANES 3
#elif NF_WEIGHTS_AMX
#define NF_PLANES 2
#define NF_RIGHT_PLANES 1
#else
#define NF_PLANES 1
#define NF_RIGHT_PLANES 1
#endif
#if NF_PLANES > 1 || NF_INT8_MADD
typedef uint nf_left_element;
#elif NF_BF16_WEIGHTS || NF_INT8_WEIGHTS
typedef float nf_left_element;
#else
typedef nf_element nf_left_element;
#endif

#if !NF_GPU_KERNELS && NF_PLANES == 1 && (!NF_BF16 || NF_BF16_WEIGHTS) && !NF_INT8_MADD
#define NF_LEFT_FLOATS 1 /* what products have on their left is not made into anything else */
#else
#define NF_LEFT_FLOATS 0
#endif

/* What products read has so many elements of k (of a packed matrix; of a row on the left) or a multiple of it, zeros at the end. */
#if NF_BF16_AMX || NF_WEIGHTS_AMX || NF_INT8_AMX
#define NF_DEPTH 16
#elif NF_F32_AMX
#define NF_DEPTH 32
#else
#define NF_DEPTH 1
#endif
#define NF_LEFT_DEPTH (16 * NF_PLANES) /* words of a row in a step of AMX */

/* What is added to a float, or to each of a vector, to round it to an integer, which the sum then has in its lower bits. */
#define NF_ROUNDER 12582912.0f

/* The upper half of a float, rounded to nearest, ties to even. */
#define NF_TO_BF16(bits) (((bits) + 0x7fffu + (((bits) >> 16) & 1u)) >> 16)

/* What rounds vectors of them: a CPU with AVX512_BF16 (or AMX) has an instruction, which takes denormal floats for zero, as its products do. */
#define NF_ROUND_BY_CPU ((NF_BF16_DOT || NF_BF16_AMX || NF_WEIGHTS_AMX) && VW == 16)

#if NF_ROUND_BY_CPU
/* All of first, then all of second. */
static inline uintv
nf_halves (floatv first, floatv second)
{
  uintv halves;
  __asm__ ("vcvtne2ps2bf16 %1, %2, %0" : "=v"(halves) : "v"(first), "v"(second));
  return halves;
}
#endif

static inline uint
nf_pair (float first, float second)
{
  const uint low = as_uint (first), high = as_uint (second);
  return NF_TO_BF16 (low) | NF_TO_BF16 (high) << 16;
}
static inline uintv
nf_pairv (floatv first, floatv second)
{
  const uintv low = nf_as_uintv (first), high = nf_as_uintv (second);
  return NF_TO_BF16 (low) | NF_TO_BF16 (high) << 16;
}

/* VW bfloat16, in the lower halves of words. */
static inline uintv
nf_load_halves (__global const ushort *p)
{
  return NF_CAT (convert_uint, VW) (NF_CAT (vload, VW) (0, p));
}

/* What a product reads next: values rounded to bfloat16, one after the other. */
static inline void
nf_store_halves (floatv v, __global ushort *p)
{
#if NF_ROUND_BY_CPU
  typedef ushort16 Anywhere __attribute__ ((aligned (2), may_alias));
  ushort16 halves;
  __asm__ ("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(v));
  *(__global Anywhere *)p = halves;
#else
  const uintv bits = nf_as_uintv (v);
  NF_CAT (vstore, VW) (NF_CAT (convert_ushort, VW) (NF_TO_BF16 (bits)), 0, p);
#endif
}

#if NF_PLANES > 1
/* The bfloat16 that x is the sum of, as the upper halves of words. Rounding to nearest, half away from zero, leaves 16 and then 8 bits, exactly; of
 * two planes the second is rounded, to 2^-17 of x. What would round to infinity is cut off instead; an infinity is followed by zeros, a NaN by NaNs.
 * What is below 2^-126 counts as zero in products. */
static inline void
nf_split (floatv x, uintv planes[NF_PLANES])
{
  const uintv bits = nf_as_uintv (x), size = bits & 0x7fffffffu, upper = (uintv)(0xffff0000u);
  const uintv rounded = select (bits + 0x8000u, bits, size >= 0x7f7f8000u) & upper;
  planes[0] = select (rounded, bits | 0x400000u, size > 0x7f800000u) & upper;
  const floatv rest = select (x - nf_as_floatv (planes[0]), (floatv)(0.0f), size == 0x7f800000u);
  planes[1] = (nf_as_uintv (rest) + 0x8000u) & upper;
#if NF_PLANES == 3
  planes[2] = nf_as_uintv (rest - nf_as_floatv (planes[1])) & upper;
#endif
}
#endif

/* Values i .. i+VW-1 of a row that a product reads on its left; i is a multiple of VW. */
static inline void
nf_store_left (floatv v, __global void *row, int i)
{
#if NF_PLANES > 1
  uintv planes[NF_PLANES];
  __global ushort *to = (__global ushort *)row + i / 32 * (32 * NF_PLANES) + i % 32;
  nf_split (v, planes);
  for (int p = 0; p < NF_PLANES; p++)
    vstore16 (convert_ushort16 (planes[p] >> 16), 0, to + 32 * p);
#elif NF_LEFT_FLOATS
  nf_storev (v, (__global float *)row + i);
#else
  nf_store_halves (v, (__global ushort *)row + i);
#endif
}

#if NF_PLANES > 1
/* Is any value infinite or a NaN? */
static inline bool
nf_any_infinite (floatv a, floatv b)
{
  bool any;
  __asm__ ("vfpclassps $0x99, %1, %%k1\n\tvfpclassps $0x99, %2, %%k2\n\tkortestw %%k1, %%k2" : "=@ccnz"(any) : "v"(a), "v"(b) : "k1", "k2");
  return any;
}

/* Of the words of a, then of those of b. */
static inline uintv
nf_upper_halves (uintv a, uintv b)
{
  typedef ushort Halves __attribute__ ((ext_vector_type (32)));
  return __builtin_astype (__builtin_shufflevector (__builtin_astype (a, Halves), __builtin_astype (b, Halves), 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21,
                                                    23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63),
                           uintv);
}
#endif

/* The same of 2 VW values, of which i is a multiple: a whole step with planes. What nf_split() takes care of leaves something infinite or a NaN. */
static inline void
nf_store_left_pair (floatv a, floatv b, __global void *row, int i)
{
#if NF_PLANES > 1
  const uintv upper = (uintv)(0xffff0000u), a0 = (nf_as_uintv (a) + 0x8000u) & upper, b0 = (nf_as_uintv (b) + 0x8000u) & upper;
  const floatv ra = a - nf_as_floatv (a0), rb = b - nf_as_floatv (b0);
  const uintv a1 = (nf_as_uintv (ra) + 0x8000u) & upper, b1 = (nf_as_uintv (rb) + 0x8000u) & upper;
  if (!nf_any_infinite (ra, rb))
    {
      __global uint *to = (__global uint *)row + i / 32 * NF_LEFT_DEPTH;
      nf_storev (nf_upper_halves (a0, b0), to);
      nf_storev (nf_upper_halves (a1, b1), to + 16);
#if NF_PLANES == 3
      nf_storev (nf_upper_halves (nf_as_uintv (ra - nf_as_floatv (a1)), nf_as_uintv (rb - nf_as_floatv (b1))), to + 32);
#endif
      return;
    }
#elif NF_ROUND_BY_CPU
  nf_storev (nf_halves (a, b), (__global uint *)row + i / 2);
  return;
#endif
  nf_store_left (a, row, i);
  nf_store_left (b, row, i + VW);
}

#if NF_INT8_MADD
#define NF_SMALLEST 1e-30f /* what is below it counts as zero: its inverse would be too large */
#define NF_MOST 32767.0f

#define NF_INTEGERS(x, inverse) nf_as_uintv ((x) * (inverse) + NF_ROUNDER) /* of 16 bits, in the lower half */

static inline floatv
nf_values (__global const float *x, int i, int lanes)
{
  return nf_load_head (x + i, lanes);
}

#if NF_INT8_AMX
/* A step is NF_STEP_BYTES upper bytes, then as many lower ones; zeros up to a whole step. */
#define NF_BYTE_STEPS(K) (((K) + NF_STEP_BYTES - 1) / NF_STEP_BYTES)
#define NF_STEP_LEFT (2 * NF_STEP_BYTES / 4) /* words of a step */
#define NF_INTEGER_WORDS(K) (NF_BYTE_STEPS (K) * NF_STEP_LEFT)

/* Values k .. k+VW-1 of K. */
static inline void
nf_store_integers (uintv integers, __global uint *y, int k, int K)
{
  typedef uchar Bytes __attribute__ ((ext_vector_type (VW)));
  typedef Bytes Anywhere __attribute__ ((aligned (1), may_alias));
  __global uchar *to = (__global uchar *)(y + k / NF_STEP_BYTES * NF_STEP_LEFT) + k % NF_STEP_BYTES;
  *(__global Anywhere *)to = __builtin_convertvector (integers >> 8, Bytes);
  *(__global Anywhere *)(to + NF_STEP_BYTES) = __builtin_convertvector (integers, Bytes);
}

#define NF_INTEGERS_END(K) (NF_BYTE_STEPS (K) * NF_STEP_BYTES)
#else
/* Two in a word. */
#define NF_INTEGER_WORDS(K) (((K) + 1) / 2)
#define NF_INTEGERS_END(K) (K)

static inline void
nf_store_integers (uintv integers, __global uint *y, int k, int K)
{
  __global ushort *to = (__global ushort *)y + k;
  if (K - k >= VW)
    nf_storev (NF_CAT (convert_ushort, VW) (integers & 0xffffu), to);
  else
    for (int i = 0; i < (K - k + 1) / 2 * 2; i++) /* what is not a value is zero */
      to[i] = (ushort)integers[i];
}
#endif

/* K values of a row become multiples of 1/32767 of the largest; behind them stands what they are multiples of. What is not finite makes that so, and with
 * it all that a product of the row comes to. VALUES (x, i, lanes) are values i .. i+lanes-1 of the row that is described by x, of a type X. */
#define NF_ROUND_ROW(name, X, VALUES)                                                                                  \
  static inline void name (X x, int K, __global uint *y)                                                               \
  {                                                                                                                    \
    intv sizes[2] = { 0, 0 };                                                                                          \
    int k = 0;                                                                                                         \
    for (; k + 2 * VW <= K; k += 2 * VW)                                                                               \
      {                                                                                                                \
        sizes[0] = max (sizes[0], nf_as_intv (VALUES (x, k, VW)) & 0x7fffffff);                                        \
        sizes[1] = max (sizes[1], nf_as_intv (VALUES (x, k + VW, VW)) & 0x7fffffff);                                   \
      }                                                                                                                \
    for (; k < K; k += VW)                                                                                             \
      sizes[0] = max (sizes[0], nf_as_intv (VALUES (x, k, K - k)) & 0x7fffffff);                                       \
    const float inverse = nf_find_inverse (max (sizes[0], sizes[1]), y + NF_INTEGER_WORDS (K));                        \
    for (k = 0; k + VW <= K; k += VW)                                                                                  \
      nf_store_integers (NF_INTEGERS (VALUES (x, k, VW), inverse), y, k, K);                                           \
    for (; k < NF_INTEGERS_END (K); k += VW)                                                                           \
      nf_store_integers (NF_INTEGERS (VALUES (x, k, K - k), inverse), y, k, K);                                        \
  }

/* 1/unit of a row whose largest size, as bits, is among `sizes`; the unit is stored. */
static inline float
nf_find_inverse (intv sizes, __global uint *unit)
{
#if VW == 16
  const int8 eight = max (sizes.lo, sizes.hi);
  const int4 four = max (eight.lo, eight.hi);
#else
  const int4 four = max (sizes.lo, sizes.hi);
#endif
  const int2 two = max (four.lo, four.hi);
  const float size = as_float (max (two.x, two.y));
  *unit = as_uint (size < NF_SMALLEST ? 0.0f : size / NF_MOST);
  return size >= NF_SMALLEST && size < INFINITY ? NF_MOST / size : 0.0f;
}

NF_ROUND_ROW (nf_round_row, __global const float *, nf_values)
#endif

static inline ushort
nf_half (float v)
{
  const uint bits = as_uint (v);
  return NF_TO_BF16 (bits);
}

/* exp and GELU with its slope, written out so that a vector costs what its arithmetic costs and every device gets the same bits.
 * exp: 2^n e^r with |r| <= ln 2 / 2, e^r by its Taylor series of degree 7 (error below 1e-8); arguments are clamped to [-87, 88]. */
#define NF_MATH(T, I, AS_T, AS_I, S)                                                                                   \
  static inline T nf_exp##S (T x)                                                                                      \
  {                                                                                                                    \
    const T rounder = (T)(NF_ROUNDER);                                                                                 \
    x = fmin (fmax (x, (T)(-87.0f)), (T)(88.0f));                                                                      \
    T t = fma (x, (T)(1.44269504f), rounder);                                                                          \
    I n = AS_I (t) - AS_I (rounder);                                                                                   \
    t -= rounder;                                                                                                      \
    T r = fma (t, (T)(-0.693145752f), x);                                                                              \
    r = fma (t, (T)(-1.42860677e-6f), r);                                                                              \
    T p = fma (r, (T)(1.98412698e-4f), (T)(1.38888889e-3f));                                                           \
    p = fma (p, r, (T)(8.33333333e-3f));                                                                               \
    p = fma (p, r, (T)(4.16666667e-2f));                                                                               \
    p = fma (p, r, (T)(1.66666667e-1f));                                                                               \
    p = fma (p, r, (T)(0.5f));                                                                                         \
    p = fma (p, r, (T)(1.0f));                                                                                         \
    p = fma (p, r, (T)(1.0f));                                                                                         \
    return p * AS_T ((n + 127) << 23);                                                                                 \
  }

#if NF_BF16 && !NF_BF16_WEIGHTS
/* For operands of bfloat16, by polynomials of degree 10 of t = min(|x|, 9/2) - 9/4: GELU(x) = max(x, 0) - g(t), to 1.6e-5, which is under half of
 * the last bit of a bfloat16 from 0.01 on, and its slope 1/2 ± h(t), to 1e-4. Both fitted with the least largest error. */
#define NF_GELU_MATH(T, S)                                                                                             \
  static inline T nf_gelu##S (T x)                                                                                     \
  {                                                                                                                    \
    T t = fabs (x);                                                                                                    \
    t = (T)(4.5f) < t ? (T)(4.5f) : t;                                                                                 \
    t -= (T)(2.25f);                                                                                                   \
    T p = fma (t, (T)(1.32817969e-5f), (T)(-1.54899881e-5f));                                                          \
    p = fma (p, t, (T)(-2.73608806e-4f));                                                                              \
    p = fma (p, t, (T)(6.11592142e-4f));                                                                               \
    p = fma (p, t, (T)(1.59727584e-3f));                                                                               \
    p = fma (p, t, (T)(-7.56449671e-3f));                                                                              \
    p = fma (p, t, (T)(7.89537095e-3f));                                                                               \
    p = fma (p, t, (T)(1.29524628e-2f));                                                                               \
    p = fma (p, t, (T)(-4.86993827e-2f));                                                                              \
    p = fma (p, t, (T)(5.91205545e-2f));                                                                               \
    p = fma (p, t, (T)(-2.74977256e-2f));                                                                              \
    return p + ((T)(0.0f) < x ? x : (T)(0.0f));                                                                        \
  }                                                                                                                    \
  static inline T nf_gelu_slope##S (T x)                                                                               \
  {                                                                                                                    \
    T t = fabs (x);                                                                                                    \
    t = (T)(4.5f) < t ? (T)(4.5f) : t;                                                                                 \
    t -= (T)(2.25f);                                                                                                   \
    T p = fma (t, (T)(-1.12285143e-5f), (T)(1.19451557e-4f));                                                          \
    p = fma (p, t, (T)(-1.46425773e-5f));                                                                              \
    p = fma (p, t, (T)(-2.0600108e-3f));                                                                               \
    p = fma (p, t, (T)(3.81066231e-3f));                                                                               \
    p = fma (p, t, (T)(9.18056164e-3f));                                                                               \
    p = fma (p, t, (T)(-3.71323936e-2f));                                                                              \
    p = fma (p, t, (T)(3.20339724e-2f));                                                                               \
    p = fma (p, t, (T)(3.85296829e-2f));                                                                               \
    p = fma (p, t, (T)(-9.75304246e-2f));                                                                              \
    p = fma (p, t, (T)(5.59142232e-1f));                                                                               \
    return (T)(0.5f) + copysign (p, x);                                                                                \
  }
#else
/* GELU(x) = x Phi(x), where Phi(x) = 1/2 + x p(x^2 - a^2/2) up to |x| = a = 5.4, and its slope is of this form up to 5.8. p has the least largest error;
 * with roundings 1.1e-7 of |x| and 2.8e-7, as far as 1 + erf(x) goes in floats. A NaN stays one. */
#define NF_GELU_MATH(T, S)                                                                                             \
  static inline T nf_gelu##S (T x)                                                                                     \
  {                                                                                                                    \
    const T t = x < (T)(-5.4f) ? (T)(-5.4f) : x, u = (T)(5.4f) < t ? (T)(5.4f) : t, s = fma (u, u, (T)(-14.58f));      \
    T p = fma (s, (T)(2.0027718e-20f), (T)(-7.64365706e-19f));                                                         \
    p = fma (p, s, (T)(9.48166034e-18f));                                                                              \
    p = fma (p, s, (T)(-1.87457139e-16f));                                                                             \
    p = fma (p, s, (T)(8.42904e-15f));                                                                                 \
    p = fma (p, s, (T)(-2.25553842e-13f));                                                                             \
    p = fma (p, s, (T)(4.72629574e-12f));                                                                              \
    p = fma (p, s, (T)(-9.96979027e-11f));                                                                             \
    p = fma (p, s, (T)(2.045079e-9f));                                                                                 \
    p = fma (p, s, (T)(-3.90777792e-8f));                                                                              \
    p = fma (p, s, (T)(7.10721451e-7f));                                                                               \
    p = fma (p, s, (T)(-1.26499554e-5f));                                                                              \
    p = fma (p, s, (T)(2.28151344e-4f));                                                                               \
    p = fma (p, s, (T)(-0.00448066229f));                                                                              \
    p = fma (p, s, (T)(0.130928114f));                                                                                 \
    return t * fma (u, p, (T)(0.5f));                                                                                  \
  }                                                                                                                    \
  static inline T nf_gelu_slope##S (T x)                                                                               \
  {                                                                                                                    \
    const T t = x < (T)(-5.8f) ? (T)(-5.8f) : x, u = (T)(5.8f) < t ? (T)(5.8f) : t, s = fma (u, u, (T)(-16.82f));      \
    T p = fma (s, (T)(-4.23809881e-24f), (T)(1.78719745e-22f));                                                        \
    p = fma (p, s, (T)(-1.20616535e-21f));                                                                             \
    p = fma (p, s, (T)(2.51579673e-21f));                                                                              \
    p = fma (p, s, (T)(-2.0699438e-18f));                                                                              \
    p = fma (p, s, (T)(6.81964556e-17f));                                                                              \
    p = fma (p, s, (T)(-1.19965192e-15f));                                                                             \
    p = fma (p, s, (T)(2.41293005e-14f));                                                                              \
    p = fma (p, s, (T)(-5.59581298e-13f));                                                                             \
    p = fma (p, s, (T)(1.0889626e-11f));                                                                               \
    p = fma (p, s, (T)(-1.82945409e-10f));                                                                             \
    p = fma (p, s, (T)(2.87436785e-9f));                                                                               \
    p = fma (p, s, (T)(-4.2870834e-8f));                                                                               \
    p = fma (p, s, (T)(6.26697386e-7f));                                                                               \
    p = fma (p, s, (T)(-9.70814381e-6f));                                                                              \
    p = fma (p, s, (T)(1.71911714e-4f));                                                                               \
    p = fma (p, s, (T)(-0.00366572361f));                                                                              \
    p = fma (p, s, (T)(0.121998779f));                                                                                 \
    return fma (u, p, (T)(0.5f));                                                                                      \
  }
#endif

NF_MATH (floatv, intv, nf_as_floatv, nf_as_intv, v)
NF_MATH (float, int, as_float, as_int, )
NF_GELU_MATH (floatv, v)
NF_GELU_MATH (float, )
