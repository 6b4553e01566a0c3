/* NVIDIA's tensor cores, from compute capability 8.0 on. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A warp of 32 work-items multiplies 16 × 8 words by 8 × 8. In a work-item, with g = lane / 4 and t = lane % 4, are
 *   of the left operand     rows g, g + 8, words t;  the same, words t + 4
 *   of the right operand    words t, t + 4 of column g
 *   of the sums             row g, columns 2t, 2t + 1;  the same of row g + 8
 * A word is two bfloat16, or a float of which the upper 19 bits count. A float is the sum of two such, to 2^-21, so that three products make one of
 * floats. Sums are cut off, not rounded: what must be as good as fma() has them begin anew now and then, and adds up what they come to.
 * -DNF_BF16_MMA=1: products of bfloat16; -DNF_F32_MMA=1: of floats. */

#define NF_MMA (NF_F32_MMA || (NF_BF16_MMA && !NF_BF16_WEIGHTS))

#if NF_BF16_MMA || NF_F32_MMA

#define NF_WARP 32

/* What instructions take for a place in local memory. As a pointer it may be one of a window in all of memory, which begins at a multiple of 2^24. */
NF_INLINED uint
nf_address (__local const void *p)
{
  return (uint)(size_t)p & 0xffffffu;
}

/* A word goes from global to local memory by itself, or, if `wide`, four that begin where 16 bytes do; zeros past the first `bytes`. Copies are closed
 * into groups; the wait is for all but the last `n` of these. */
NF_INLINED void
nf_copy (__local void *to, __global const void *from, int wide, int bytes)
{
  const uint at = nf_address (to);
  if (wide)
    __asm__ volatile ("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(at), "l"((size_t)from), "r"(bytes) : "memory");
  else
    __asm__ volatile ("cp.async.ca.shared.global [%0], [%1], 4, %2;" : : "r"(at), "l"((size_t)from), "r"(bytes) : "memory");
}

NF_INLINED void
nf_copy_words (__local uint *to, __global const uint *from, int wide, int words)
{
  if (wide)
    nf_copy (to, from, 1, 4 * words);
  else
#pragma unroll 1
    for (int w = 0; w < 4; w++)
      nf_copy (to + w, from + (w < words ? w : 0), 0, w < words ? 4 : 0);
}

NF_INLINED void
nf_close_copies (void)
{
  __asm__ volatile ("cp.async.commit_group;" : : : "memory");
}
#define nf_wait_copies(n) __asm__ volatile ("cp.async.wait_group %0;" : : "n"(n) : "memory")

/* 16 rows of 8 words in local memory; a work-item says where the lane % 16th of these begins, and lanes from 16 on four words further. */
NF_INLINED void
nf_load_fragment (uint a[4], uint at)
{
  __asm__ volatile ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                    : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                    : "r"(at)
                    : "memory");
}

#define NF_MMA_OF(name, instruction)                                                                                   \
  NF_INLINED void name (float c[4], const uint a[4], const uint b[2])                                                  \
  {                                                                                                                    \
    __asm__ volatile (instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                   \
                      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                 \
                      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
  }
NF_MMA_OF (nf_mma_halves, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
NF_MMA_OF (nf_mma_floats, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")

/* The float that the tensor cores take for x, and what is left. */
NF_INLINED uint
nf_upper (uint x)
{
  return x & 0xffffe000u;
}
NF_INLINED uint
nf_lower (uint x)
{
  return as_uint (as_float (x) - as_float (nf_upper (x)));
}

/* An operand, with what is left of it where that counts. */
#if NF_F32_MMA
typedef struct
{
  uint upper[4], lower[4];
} NfLeft;
typedef struct
{
  uint upper[2], lower[2];
} NfRight;
#else
typedef struct
{
  uint upper[4];
} NfLeft;
typedef struct
{
  uint upper[2];
} NfRight;
#endif

NF_INLINED NfLeft
nf_left (const uint a[4])
{
  NfLeft left;
#pragma unroll
  for (int i = 0; i < 4; i++)
    {
#if NF_F32_MMA
      left.upper[i] = nf_upper (a[i]);
      left.lower[i] = nf_lower (a[i]);
#else
      left.upper[i] = a[i];
#endif
    }
  return left;
}

NF_INLINED NfRight
nf_right (uint b0, uint b1)
{
#if NF_F32_MMA
  const NfRight right = { { nf_upper (b0), nf_upper (b1) }, { nf_lower (b0), nf_lower (b1) } };
#else
  const NfRight right = { { b0, b1 } };
#endif
  return right;
}

/* c += a b: of floats, all of them, or as good as their upper 19 bits. */
NF_INLINED void
nf_mma (float c[4], const NfLeft *a, const NfRight *b)
{
#if NF_F32_MMA
  nf_mma_floats (c, a->lower, b->upper);
  nf_mma_floats (c, a->upper, b->lower);
#endif
  nf_mma_floats (c, a->upper, b->upper);
}

/* A float that is rounded when it is cut off, where nothing that is left counts. */
NF_INLINED uint
nf_round_upper (uint x)
{
#if NF_F32_MMA
  return x;
#else
  return x + 0x1000u;
#endif
}

/* What the four work-items of a row have, in each of them. */
NF_INLINED float
nf_from_lane (float x, int other)
{
  float y;
  __asm__ volatile ("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(other));
  return y;
}
NF_INLINED float
nf_row_sum (float x)
{
  x += nf_from_lane (x, 1);
  return x + nf_from_lane (x, 2);
}
NF_INLINED float
nf_row_max (float x)
{
  x = fmax (x, nf_from_lane (x, 1));
  return fmax (x, nf_from_lane (x, 2));
}

#endif
