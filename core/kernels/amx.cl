/* The matrix unit of a CPU, AMX. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Eight tiles of up to 16 rows of 16 words, used as
 *
 *              b0 b1     b 6, 7: 16 rows of a panel (see pack.cl) by 16 of its columns, words of two consecutive k
 *          a0  c0 c1     a 4, 5: rows of A, 16 words of k
 *          a1  c2 c3     c 0 … 3: floats; c += a · b
 *
 * An instruction adds, to an element of c, the sum of the 16 products of lower halves plus that of the upper ones; each sum starts from zero and
 * takes its products in the order of k. So a result depends on neither the rows of a tile nor the other ones.
 * Tiles are a thread's state: a work-item configures them before and releases them after its use. The compiler knows nothing of them. */

#define NF_TILE_ROWS 16

/* Rows of a0, c0, c1 and of a1, c2, c3; all tiles become zero. */
static inline void
nf_amx_configure (int upper, int lower)
{
  struct
  {
    uchar palette, start, zero[14];
    ushort row_bytes[16];
    uchar rows[16];
  } tiles __attribute__ ((aligned (64)));
  ulong *words = (ulong *)&tiles;
  for (int i = 0; i < 8; i++)
    words[i] = 0;
  tiles.palette = 1;
  for (int i = 0; i < 8; i++)
    {
      tiles.row_bytes[i] = 4 * 16;
      tiles.rows[i] = i >= 6 ? NF_TILE_ROWS : i == 2 || i == 3 || i == 5 ? max (lower, 1) : upper;
    }
  __asm__ volatile ("ldtilecfg (%0)" ::"r"(&tiles) : "memory");
}

static inline void
nf_amx_release (void)
{
  __asm__ volatile ("tilerelease" ::: "memory");
}

static inline void
nf_amx_zero (void)
{
  __asm__ volatile ("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::: "memory");
}

/* c += a · b. Rows of A are LDA bytes apart, the lower tile's begin at a1; rows of b 32 words. A streams past the first-level cache, so that b stays
 * in it for the next rows. */
static inline void
nf_amx_multiply (__global const uint *a0, __global const uint *a1, ulong lda, ulong b)
{
  __asm__ volatile ("tileloadd (%2,%4,1), %%tmm6\n\t"
                    "tileloaddt1 (%0,%3,1), %%tmm4\n\t"
                    "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
                    "tileloadd 64(%2,%4,1), %%tmm7\n\t"
                    "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                    "tileloaddt1 (%1,%3,1), %%tmm5\n\t"
                    "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
                    "tdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::"r"(a0),
                    "r"(a1), "r"(b), "r"(lda), "r"((ulong)128)
                    : "memory");
}
/* The same of the upper rows alone. */
static inline void
nf_amx_multiply_upper (__global const uint *a0, ulong lda, ulong b)
{
  __asm__ volatile ("tileloadd (%1,%3,1), %%tmm6\n\t"
                    "tileloadd (%0,%2,1), %%tmm4\n\t"
                    "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
                    "tileloadd 64(%1,%3,1), %%tmm7\n\t"
                    "tdpbf16ps %%tmm7, %%tmm4, %%tmm1" ::"r"(a0),
                    "r"(b), "r"(lda), "r"((ulong)128)
                    : "memory");
}

#if NF_INT8_AMX
/* Of integers of 16 bits and of 8: the upper bytes of A, signed, times b are added to c 0 and 1, the lower ones, unsigned, to c 2 and 3, with 64 values
 * of k in a row of a tile and four in a word. These c are integers. */
static inline void
nf_amx_multiply_bytes (__global const uint *a, ulong lda, ulong b)
{
  __asm__ volatile ("tileloadd (%1,%3,1), %%tmm6\n\t"
                    "tileloaddt1 (%0,%2,1), %%tmm4\n\t"
                    "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\t"
                    "tileloadd 64(%1,%3,1), %%tmm7\n\t"
                    "tdpbssd %%tmm7, %%tmm4, %%tmm1\n\t"
                    "tileloaddt1 64(%0,%2,1), %%tmm5\n\t"
                    "tdpbusd %%tmm6, %%tmm5, %%tmm2\n\t"
                    "tdpbusd %%tmm7, %%tmm5, %%tmm3" ::"r"(a),
                    "r"(b), "r"(lda), "r"((ulong)128)
                    : "memory");
}
#endif

/* The same for floats as sums h + m + l of bfloat16 (nf_split): h h, h m, m h, h l, l h and m m. What is left out, m l, l m and l l, is below 2^-22 of
 * the product. Planes of A are 64 bytes apart, those of b 2048; from one product to the next one operand stays in its tiles. First l h, m h, h h, then
 * with h of A in its place h l, h m, m m: one after the other, so that other arithmetic goes on between them. */
#define NF_A0(plane, tile) "tileloadd " #plane "*64(%0,%3,1), %%tmm" #tile "\n\t"
#define NF_A1(plane, tile) "tileloadd " #plane "*64(%1,%3,1), %%tmm" #tile "\n\t"
#define NF_B(plane, tile) "tileloadd " #plane "*2048+" #tile "*64-6*64(%2,%4,1), %%tmm" #tile "\n\t"
#define NF_DOT(b, a, c) "tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c "\n\t"
#define NF_NEXT_A(plane) NF_A0 (plane, 4) NF_DOT (6, 4, 0) NF_DOT (7, 4, 1) NF_A1 (plane, 5) NF_DOT (6, 5, 2) NF_DOT (7, 5, 3)
#define NF_NEXT_B(plane) NF_B (plane, 6) NF_DOT (6, 4, 0) NF_DOT (6, 5, 2) NF_B (plane, 7) NF_DOT (7, 4, 1) NF_DOT (7, 5, 3)
#define NF_NEXT_A_UPPER(plane) NF_A0 (plane, 4) NF_DOT (6, 4, 0) NF_DOT (7, 4, 1)
#define NF_NEXT_B_UPPER(plane) NF_B (plane, 6) NF_DOT (6, 4, 0) NF_B (plane, 7) NF_DOT (7, 4, 1)
#define NF_OPERANDS ::"r"(a0), "r"(a1), "r"(b), "r"(lda), "r"((ulong)128) : "memory"

static inline __attribute__ ((always_inline)) void
nf_amx_multiply_planes (__global const uint *a0, __global const uint *a1, ulong lda, ulong b, int product, bool lower)
{
#define NF_PRODUCT(number, whole, upper)                                                                               \
  case number:                                                                                                         \
    if (lower)                                                                                                         \
      __asm__ volatile (whole NF_OPERANDS);                                                                            \
    else                                                                                                               \
      __asm__ volatile (upper NF_OPERANDS);                                                                            \
    break
  switch (product)
    {
      NF_PRODUCT (0, NF_B (0, 6) NF_B (0, 7) NF_NEXT_A (2), NF_B (0, 6) NF_B (0, 7) NF_NEXT_A_UPPER (2));
      NF_PRODUCT (1, NF_NEXT_A (1), NF_NEXT_A_UPPER (1));
      NF_PRODUCT (2, NF_NEXT_A (0), NF_NEXT_A_UPPER (0));
      NF_PRODUCT (3, NF_NEXT_B (2), NF_NEXT_B_UPPER (2));
      NF_PRODUCT (4, NF_NEXT_B (1), NF_NEXT_B_UPPER (1));
      NF_PRODUCT (5, NF_NEXT_A (1), NF_NEXT_A_UPPER (1));
    }
}

/* The same for sums of two bfloat16 on the left, l and h, and one on the right: l b, h b. */
static inline void
nf_amx_multiply_sums (__global const uint *a0, __global const uint *a1, ulong lda, ulong b, bool lower)
{
  if (lower)
    __asm__ volatile (NF_B (0, 6) NF_B (0, 7) NF_NEXT_A (1) NF_NEXT_A (0) NF_OPERANDS);
  else
    __asm__ volatile (NF_B (0, 6) NF_B (0, 7) NF_NEXT_A_UPPER (1) NF_NEXT_A_UPPER (0) NF_OPERANDS);
}

/* c to and from rows of 32 floats. */
static inline void
nf_amx_store (float *c, bool lower)
{
  __asm__ volatile ("tilestored %%tmm0, (%0,%1,1)\n\ttilestored %%tmm1, 64(%0,%1,1)" ::"r"(c), "r"((ulong)128) : "memory");
  if (lower)
    __asm__ volatile ("tilestored %%tmm2, 2048(%0,%1,1)\n\ttilestored %%tmm3, 2112(%0,%1,1)" ::"r"(c), "r"((ulong)128)
                      : "memory");
}
static inline void
nf_amx_load (const float *c, bool lower)
{
  __asm__ volatile ("tileloadd (%0,%1,1), %%tmm0\n\ttileloadd 64(%0,%1,1), %%tmm1" ::"r"(c), "r"((ulong)128) : "memory");
  if (lower)
    __asm__ volatile ("tileloadd 2048(%0,%1,1), %%tmm2\n\ttileloadd 2112(%0,%1,1), %%tmm3" ::"r"(c), "r"((ulong)128)
                      : "memory");
}
