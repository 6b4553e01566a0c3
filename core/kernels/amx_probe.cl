/* Does the matrix unit work? SPDX-License-Identifier: LGPL-2.1-or-later */

/* C (32, 32) = A · b, A (32 rows of 16 words) and after it b (16 rows of 32 words); once for each work-item. With integers A is 16 rows of 32 words, the
 * first half of C sums of upper bytes and the second one of lower ones. */
__kernel __attribute__ ((reqd_work_group_size (1, 1, 1))) void
nf_amx_probe (__global const uint *A, __global float *C)
{
  float c[32 * 32] __attribute__ ((aligned (64)));
  nf_amx_configure (NF_TILE_ROWS, NF_TILE_ROWS);
#if NF_INT8_AMX
  nf_amx_multiply_bytes (A, 4 * 32, (ulong)(A + 32 * 16));
#else
  nf_amx_multiply (A, A + NF_TILE_ROWS * 16, 4 * 16, (ulong)(A + 32 * 16));
#endif
  nf_amx_store (c, true);
  nf_amx_release ();
  C += get_global_id (0) * 32 * 32;
  for (int i = 0; i < 32 * 32; i++)
    C[i] = c[i];
}
