/* normflow bench: what its measurements share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"

#include "nf-device-private.h"

G_BEGIN_DECLS

#define NF_BENCH_MAX_REPETITIONS 31

/* What measures how much the device can do at most. */
typedef struct
{
  NfDevice *device;
  cl_command_queue queue;
  cl_program program;
  cl_kernel multiply_add, read_all;
  NfBuffer *out, *memory;    /* what is read; NULL where it would be too small */
  const char *by;            /* what makes products with a CPU's instructions for it, NULL: fma() of floats */
  guint width, accumulators; /* VW and R */
  double flops;              /* of an iteration of a work-item */
  size_t items, group;
  cl_int iterations; /* of a burst */
} NfBenchLimits;

/* A line of the table. */
typedef struct
{
  char *what, *size;
  double seconds;      /* medians */
  double gflops, gbps; /* one of them, the other NAN */
  double share;        /* of the limit of that */
  GPtrArray *times;    /* of its commands, NULL without a profile */
} NfBenchResult;

/* One run of the sub-command. */
typedef struct
{
  NfCommand *command;
  char **selected; /* kinds of measurements; none: all */
  gboolean quick, profile;
  guint batch;
  NfDevice *device;
  NfBenchLimits limits;
  double multiply_add_gflops, read_gbps; /* the limits, NAN where one is not known */
  GPtrArray *results;                    /* (element-type NfBenchResult) */
} NfBench;

/* What is measured, once. */
typedef gboolean (*NfBenchWork) (gpointer data, GError **error);

/* What bounds WORK: multiplications and additions, or bytes to read and write, of a memory of so many. */
typedef struct
{
  double flops, bytes;
  gsize memory;
} NfBenchBound;

/* A model to measure: that of --model or the bundled one, or, of a configuration, one of random weights. */
typedef struct
{
  char *name;
  gboolean loaded;
  const char *file; /* NULL: the bundled one */
  NfConfig config;
} NfBenchSize;

double nf_bench_now (void); /* in seconds */

/* Sorts VALUES. */
double nf_bench_median (double *values, guint n);

/* N values of a normal distribution, always the same. */
void nf_bench_fill_random (float *values, gsize n);

/* Limits */

gboolean nf_bench_limits_init (NfBenchLimits *limits, NfDevice *device, GError **error);
void nf_bench_limits_clear (NfBenchLimits *limits);

/* GFLOP/s of fused multiply-adds, from one short run. */
gboolean nf_bench_burst (NfBenchLimits *limits, double *gflops, GError **error);

/* GB/s of reading so many BYTES of memory again and again, from one run; NAN where there is too little of it.
 */
gboolean nf_bench_read_burst (NfBenchLimits *limits, gsize bytes, double *gbps, GError **error);

/* Medians of many; those of multiply-adds come first. */
gboolean nf_bench_measure_multiply_add (NfBench *bench, GError **error);
gboolean nf_bench_measure_reading (NfBench *bench, GError **error);

/* Measuring */

/* Whether measurements of KIND are wanted; of gradients of weights, also whether there are such, else a note.
 */
gboolean nf_bench_selects (const NfBench *bench, const char *kind);
gboolean nf_bench_takes_gradients (NfBench *bench, const char *kind);

/* A result of WORK with DATA, medians, each time right after a burst of what bounds it: other programs slow
 * both, so that their ratio says more than either. */
gboolean nf_bench_measure_bound (NfBench *bench, const char *what, const char *size, NfBenchBound bound,
                                 NfBenchWork work, gpointer data, GError **error);
gboolean nf_bench_measure (NfBench *bench, const char *what, const char *size, double flops, NfBenchWork work,
                           gpointer data, GError **error);

/* Divides the time of the last result, which is of a sample, among its N parts. */
void nf_bench_divide_last (NfBench *bench, guint n);

/* Parts of the flow */

/* (M, K) times (K, N). */
gboolean nf_bench_matmul (NfBench *bench, guint M, guint N, guint K, GError **error);

/* The gradient of a weight (N, K) from M rows. */
gboolean nf_bench_matmul_tn (NfBench *bench, guint M, guint N, guint K, GError **error);

/* B samples of N tokens, H heads of 64 features. */
gboolean nf_bench_attention (NfBench *bench, guint B, guint N, guint H, gboolean backward, GError **error);

/* M rows of D values. */
gboolean nf_bench_layernorm (NfBench *bench, guint M, guint d, GError **error);

/* The same product by OpenBLAS, which is found by name so that nothing depends on it. */
gboolean nf_bench_openblas (NfBench *bench, guint M, guint N, guint K, GError **error);

/* Models */

/* Of a name such as 64x64p4-512, 64x64p4-512-4x4 or 64x64p4-480-4x4h48: sides and patches in pixels, width,
 * blocks, layers of each, and values of a head; or tiny or bundled. */
NfBenchSize *nf_bench_size_new (const char *name, GError **error);

/* Of the model in FILE, which outlives it. */
NfBenchSize *nf_bench_size_new_of_file (const char *file);

void nf_bench_size_free (NfBenchSize *size);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBenchSize, nf_bench_size_free)

/* All that is selected of a model. */
gboolean nf_bench_model (NfBench *bench, const NfBenchSize *size, GError **error);

G_END_DECLS
