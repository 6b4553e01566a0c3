/* What products on a CPU and on a GPU have in common. SPDX-License-Identifier: LGPL-2.1-or-later */

/* What follows a product: as in nf-ops.h. */
#define NF_BIAS 1
#define NF_GELU 2
#define NF_RESIDUAL 4
#define NF_SAVE 8 /* keep the value before GELU in P */
#define NF_ACCUMULATE 16
#define NF_GELU_SLOPE 32 /* C = product × GELU'(P): the backward pass through GELU */
#define NF_LEFT 128 /* C is left rows of another product (nf-ops.h), ldc counts words */
#define NF_ROUND 256 /* A is floats that are integers on the left of a product: a work-item makes its own of these */
#define NF_PANELS 64 /* A lies in panels of MR rows (nf_pack): rows of a large power of two apart would fight for the same cache lines */

typedef struct
{
  __global const nf_left_element *A;
  __global const nf_element *B;
  __global const float *bias, *R;
  __global float *C, *P;
  int M, N, K, lda, ldb, ldc, ldr, rmod, flags;
  int first;  /* row of a work-item, on a CPU */
  int values; /* of k, on a GPU where A is floats and B words of several */
} NfMatmul;
