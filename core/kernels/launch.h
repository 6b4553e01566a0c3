/* What kernels and who launches them agree on. SPDX-License-Identifier: LGPL-2.1-or-later */

/* A tile: rows of a product (MR of common.cl) and queries of attention (QT of attention_cpu.cl) that meet
 * what is on the right together. */
#define NF_ROWS_OF_8 6 /* with vectors of eight floats or four */
#define NF_ROWS_OF_16 12
#define NF_ROWS_OF_AMX 32
#define NF_ROWS_OF_AMX_INT8 16
#define NF_QUERIES_OF_GPU 32 /* and keys, SIDE of attention_gpu.cl and attention_mma.cl */

/* Products on a CPU */
#define NF_MOST_TILES 16  /* of rows, that a work-item has by AMX */
#define NF_FEW_ROWS 2     /* so many have instructions of their own, of integers */
#define NF_STEP_VALUES 32 /* of k, that AMX multiplies at a time */
#define NF_STEP_BYTES 64  /* likewise, of integers */
#define NF_PACK_ROWS 64   /* of what a work-item packs */
#define NF_LEFT_BLOCKS 4  /* vectors of columns of what it packs for the left */

/* Products on a GPU: a work-group has a tile of C, a work-item so many of its rows and columns. */
#define NF_TILE_M 128
#define NF_TILE_N 64
#define NF_ITEM_ROWS 8
#define NF_ITEM_COLUMNS 4
#define NF_GROUP_X (NF_TILE_N / NF_ITEM_COLUMNS)
#define NF_GROUP_Y (NF_TILE_M / NF_ITEM_ROWS)

/* Other kernels on a GPU: work-items of a work-group, such as share a row. */
#define NF_GROUP 64
#define NF_SUM_LINES 4 /* for each column of nf_column_sums, so many times NF_GROUP */

/* Vectors that a work-item has */
#define NF_SUM_VECTORS 4 /* of a row, in nf_column_sums, at most: so many chains of sums */
#define NF_ADAMW_VECTORS 64

#define NF_BASIS_PART 16 /* columns of a token's basis (flow.cl) with one range of rows */

/* Flags of nf_append */
#define NF_VALUES_TOO 1
#define NF_FROM_LEFT 2

/* Flags of nf_attention, on a CPU */
#define NF_LEAVES_LEFT 1
#define NF_READS_LEFT 2
