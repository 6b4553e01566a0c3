/* normflow bench: this machine's limits, and how near the flow comes to them. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "json.h"
#include "profile.h"

#include "nf-model-private.h"
#include "nf-ops.h"
#include "nf-session-private.h"

#include <dlfcn.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_REPETITIONS 31
#define DEFAULT_BATCH 8
#define MAX_BATCH 4096
/* of a measurement of a limit: long enough to hide the launch, short enough to repeat before each sample */
#define BURST_SECONDS 0.01
#define READ_BYTES (256u << 20) /* more than a processor's caches hold */
#define QUICK_READ_BYTES (32u << 20)

/* Limits are properties of the machine, so their kernels live with the tool. R independent accumulators hide
 * the latency of the fused multiply-add; nothing is read while they run. Reading adds up every value once:
 * work-item i reads vectors i·first, i·first + step, ... so that a CPU's core walks through its own
 * part and a GPU's neighbours read neighbours. */
static const char limit_source[]
    = "#define CAT_(a, b) a##b\n"
      "#define CAT(a, b) CAT_ (a, b)\n"
      "#if VW == 1\n"
      "typedef float T;\n"
      "#else\n"
      "typedef CAT (float, VW) T;\n"
      "#endif\n"
      "#if defined AMX\n"
      "#ifdef BYTES\n"
      "#define TILES \"tdpbssd\"\n"
      "#else\n"
      "#define TILES \"tdpbf16ps\"\n"
      "#endif\n"
      "/* as many tiles of zeros, multiplied and added in turn */\n"
      "__kernel void multiply_add (__global T *out, int n)\n"
      "{\n"
      "  struct { uchar palette, start, zero[14]; ushort row_bytes[16]; uchar rows[16]; } tiles;\n"
      "  uchar *bytes = (uchar *)&tiles;\n"
      "  for (int i = 0; i < 64; i++)\n"
      "    bytes[i] = 0;\n"
      "  tiles.palette = 1;\n"
      "  for (int i = 0; i < 8; i++)\n"
      "    tiles.row_bytes[i] = 64, tiles.rows[i] = 16;\n"
      "  __asm__ volatile (\"ldtilecfg (%0)\" :: \"r\"(&tiles) : \"memory\");\n"
      "  for (int k = 0; k < n; k++)\n"
      "    __asm__ volatile (TILES \" %%tmm6, %%tmm4, %%tmm0\\n\\t\" TILES \" %%tmm7, %%tmm4, "
      "%%tmm1\\n\\t\"\n"
      "                      TILES \" %%tmm6, %%tmm5, %%tmm2\\n\\t\" TILES \" %%tmm7, %%tmm5, %%tmm3\" "
      ":::);\n"
      "  __asm__ volatile (\"tilerelease\");\n"
      "  out[get_global_id (0)] = 0.0f;\n"
      "}\n"
      "#else\n"
      "#ifdef DOT\n"
      "#define ADD(sum, x, y) __asm__ (\"vdpbf16ps %2, %1, %0\" : \"+v\"(sum) : \"v\"(x), \"v\"(y))\n"
      "#elif defined VNNI\n"
      "#define ADD(sum, x, y) __asm__ (\"vpdpwssd %2, %1, %0\" : \"+v\"(sum) : \"v\"(x), \"v\"(y))\n"
      "#elif defined MADD\n"
      "#define ADD(sum, x, y) __asm__ volatile (\"vpmaddwd %3, %2, %1\\n\\tvpaddd %1, %0, %0\" : "
      "\"+v\"(sum), "
      "\"=&v\"(products) : \"v\"(x), \"v\"(y))\n"
      "#else\n"
      "#define ADD(sum, x, y) sum = fma (sum, x, y)\n"
      "#endif\n"
      "__kernel void multiply_add (__global T *out, int n)\n"
      "{\n"
      "  const int at = get_global_id (0);\n"
      "  const T x = out[at], y = x * 0.5f;\n"
      "  T a[R], sum = 0.0f, products;\n"
      "#pragma unroll\n"
      "  for (int i = 0; i < R; i++)\n"
      "    a[i] = (T)(i);\n"
      "  for (int k = 0; k < n; k++)\n"
      "#pragma unroll\n"
      "    for (int i = 0; i < R; i++)\n"
      "      ADD (a[i], x, y);\n"
      "#pragma unroll\n"
      "  for (int i = 0; i < R; i++)\n"
      "    sum += a[i];\n"
      "  out[at] = sum * 0.0f;\n"
      "}\n"
      "#endif\n"
      "__kernel void read_all (__global const T *in, __global T *out, ulong first, ulong step, ulong count)\n"
      "{\n"
      "  T sum[4] = { 0.0f, 0.0f, 0.0f, 0.0f };\n"
      "  in += get_global_id (0) * first;\n"
      "  for (ulong i = 0; i < count; i += 4, in += 4 * step)\n"
      "    {\n"
      "      sum[0] += in[0];\n"
      "      sum[1] += in[step];\n"
      "      sum[2] += in[2 * step];\n"
      "      sum[3] += in[3 * step];\n"
      "    }\n"
      "  out[get_global_id (0)] = sum[0] + sum[1] + sum[2] + sum[3];\n"
      "}\n";

typedef struct
{
  NfDevice *device;
  cl_command_queue queue;
  cl_program program;
  cl_kernel multiply_add, read_all;
  NfBuffer *out, *memory;    /* what is read; NULL where it would be too small */
  cl_ulong count;            /* vectors that a work-item reads */
  const char *by;            /* what makes products with a CPU's instructions for it, NULL: fma() of floats */
  guint width, accumulators; /* VW and R */
  double flops;              /* of an iteration of a work-item */
  size_t items, group;
  cl_int iterations; /* of a burst */
} Limits;

typedef struct
{
  char *what, *size;
  double seconds;      /* medians */
  double gflops, gbps; /* one of them, the other NAN */
  double share;        /* of the limit of that */
  GPtrArray *times;    /* of its commands, NULL without a profile */
} Result;

typedef struct
{
  NfCommand *command;
  char **selected;
  gboolean quick, profile;
  guint batch;
  NfDevice *device;
  Limits limits;
  double multiply_add_gflops, read_gbps;
  GPtrArray *results;
} Bench;

static const char *const kinds[] = { "matmul", "gradient", "attention", "layernorm", "encode", "frame",
                                     "decode", "step",     "train",     "openblas",  NULL };

static void
result_free (Result *result)
{
  g_free (result->what);
  g_free (result->size);
  g_clear_pointer (&result->times, g_ptr_array_unref);
  g_free (result);
}

static void
limits_clear (Limits *limits)
{
  if (limits->queue)
    clFinish (limits->queue);
  g_clear_pointer (&limits->out, nf_buffer_free);
  g_clear_pointer (&limits->memory, nf_buffer_free);
  g_clear_pointer (&limits->multiply_add, clReleaseKernel);
  g_clear_pointer (&limits->read_all, clReleaseKernel);
  g_clear_pointer (&limits->program, clReleaseProgram);
  g_clear_pointer (&limits->queue, clReleaseCommandQueue);
}

static void
bench_clear (Bench *bench)
{
  limits_clear (&bench->limits);
  g_clear_object (&bench->device);
  g_clear_pointer (&bench->results, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Bench, bench_clear)

static double
now (void)
{
  return (double)g_get_monotonic_time () / G_USEC_PER_SEC;
}

static int
compare_doubles (const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double
median (double *values, guint n)
{
  qsort (values, n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* Limits */

static gboolean
limits_init (Limits *limits, NfDevice *device, GError **error)
{
  const NfDeviceInfo *info = nf_device_get_info (device);
  const gboolean gpu = info->is_gpu;
  const char *source = limit_source;
  const cl_device_id id = nf_device_get_id (device);
  cl_int status;

  limits->device = device;
  static const struct
  {
    const char *by, *option;
  } forms[] = { { "amx", " -DAMX" }, { "dot", " -DDOT" }, { "madd", " -DMADD" }, { "vnni", " -DVNNI" } };
  const char *bf16 = nf_device_get_bf16_form (device), *f32 = nf_device_get_f32_form (device),
             *form = nf_device_get_form (device), *option = "";
  const gboolean amx = strcmp (form, "amx") == 0, mixed = bf16 && !nf_device_rounds_to_bf16 (device),
                 bytes = nf_device_get_int8_form (device) != NULL;
  /* of a GPU's matrix units no limit is measured: shares there are of float32's */
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    if (strcmp (form, forms[i].by) == 0)
      {
        limits->by = form;
        option = amx && bytes ? " -DAMX -DBYTES" : forms[i].option;
      }
  limits->width = gpu ? 1 : nf_device_get_vector_width (device);
  limits->accumulators = gpu ? 8 : limits->width == 16 ? 24 : 12;
  /* four products of tiles of 16 × 16 by 32, of which one of floats takes six, one of floats by bfloat16 two,
   * or by 64 bytes, of which one of integers of 16 bits takes two;
   * or a vector, of pairs of bfloat16 or of integers, or of floats */
  limits->flops = amx ? 4 * 2.0 * 16 * 16 * 32
                            / (f32     ? 6
                               : mixed ? 2
                                       : 1)
                      : (limits->by ? 4.0 : 2.0) * limits->accumulators * limits->width;
  limits->group = gpu ? 256 : 1;
  limits->items = gpu ? (size_t)info->compute_units * 2048 : (size_t)MAX (info->compute_units, 1) * 4;
  limits->queue = nf_device_new_queue (device, error);
  if (!limits->queue)
    return FALSE;
  limits->program = clCreateProgramWithSource (nf_device_get_context (device), 1, &source, NULL, &status);
  if (status != CL_SUCCESS)
    return nf_cl_error (error, status, "cannot create the kernels that measure limits");
  g_autofree char *options
      = g_strdup_printf ("-cl-std=CL1.2 -DVW=%u -DR=%u%s", limits->width, limits->accumulators, option);
  status = clBuildProgram (limits->program, 1, &id, options, NULL, NULL);
  if (status == CL_SUCCESS)
    limits->multiply_add = clCreateKernel (limits->program, "multiply_add", &status);
  if (status == CL_SUCCESS)
    limits->read_all = clCreateKernel (limits->program, "read_all", &status);
  if (status != CL_SUCCESS)
    return nf_cl_error (error, status, "cannot build the kernels that measure limits");
  limits->out = nf_buffer_new (device, limits->items * limits->width * sizeof (float), error);
  if (!limits->out)
    return FALSE;
  const float zero = 0;
  status = clEnqueueFillBuffer (limits->queue, limits->out->mem, &zero, sizeof zero, 0, limits->out->size, 0,
                                NULL, NULL);
  return status == CL_SUCCESS || nf_cl_error (error, status, "cannot fill a buffer");
}

static gboolean
run_kernel (Limits *limits, cl_kernel kernel, double *seconds, GError **error)
{
  const double start = now ();
  cl_int status = clEnqueueNDRangeKernel (limits->queue, kernel, 1, NULL, &limits->items, &limits->group, 0,
                                          NULL, NULL);
  if (status == CL_SUCCESS)
    status = clFinish (limits->queue);
  *seconds = now () - start;
  return status == CL_SUCCESS || nf_cl_error (error, status, "cannot run a kernel that measures limits");
}

/* GFLOP/s of fused multiply-adds, from one short run. */
static gboolean
burst (Limits *limits, double *gflops, GError **error)
{
  double seconds;
  cl_int status = clSetKernelArg (limits->multiply_add, 0, sizeof limits->out->mem, &limits->out->mem)
                  | clSetKernelArg (limits->multiply_add, 1, sizeof limits->iterations, &limits->iterations);
  if (status != CL_SUCCESS)
    return nf_cl_error (error, status, "cannot set the arguments of a kernel that measures limits");
  if (!run_kernel (limits, limits->multiply_add, &seconds, error))
    return FALSE;
  *gflops = 1e-9 * limits->flops * (double)limits->items * limits->iterations / MAX (seconds, 1e-9);
  return TRUE;
}

static gboolean
measure_multiply_add (Bench *bench, GError **error)
{
  Limits *limits = &bench->limits;
  double samples[MAX_REPETITIONS];
  const guint n = bench->quick ? 5 : 25;

  /* the first run compiles, the second says how long a burst must be */
  limits->iterations = 20000;
  for (guint i = 0; i < 2; i++)
    if (!burst (limits, &samples[0], error))
      return FALSE;
  const double per_iteration = 1e-9 * limits->flops * (double)limits->items;
  limits->iterations = (cl_int)CLAMP (samples[0] * BURST_SECONDS / per_iteration, 1000, 1e8);
  for (guint i = 0; i < n; i++)
    if (!burst (limits, &samples[i], error) || !nf_command_go_on (bench->command, error))
      return FALSE;
  bench->multiply_add_gflops = median (samples, n);
  return TRUE;
}

/* GB/s of reading so many BYTES of memory again and again, from one run; NAN where there is too little of it.
 */
static gboolean
read_burst (Limits *limits, gsize bytes, double *gbps, GError **error)
{
  const gboolean gpu = nf_device_get_info (limits->device)->is_gpu;
  const gsize row = limits->items * limits->width * sizeof (float);
  const cl_ulong count = limits->memory ? MIN (bytes, limits->memory->size) / row / 4 * 4 : 0,
                 first = gpu ? 1 : count, step = gpu ? limits->items : 1;
  double seconds = NAN;
  if (count == 0)
    {
      *gbps = NAN;
      return TRUE;
    }
  cl_int status = clSetKernelArg (limits->read_all, 0, sizeof limits->memory->mem, &limits->memory->mem)
                  | clSetKernelArg (limits->read_all, 1, sizeof limits->out->mem, &limits->out->mem)
                  | clSetKernelArg (limits->read_all, 2, sizeof first, &first)
                  | clSetKernelArg (limits->read_all, 3, sizeof step, &step)
                  | clSetKernelArg (limits->read_all, 4, sizeof count, &count);
  if (status != CL_SUCCESS)
    return nf_cl_error (error, status, "cannot prepare the kernel that reads memory");
  /* the first time brings what caches hold into them */
  for (guint i = 0; i < (count * row < limits->memory->size ? 2 : 1); i++)
    if (!run_kernel (limits, limits->read_all, &seconds, error))
      return FALSE;
  *gbps = 1e-9 * (double)(count * row) / MAX (seconds, 1e-9);
  return TRUE;
}

static gboolean
measure_reading (Bench *bench, GError **error)
{
  Limits *limits = &bench->limits;
  const NfDeviceInfo *info = nf_device_get_info (bench->device);
  const gsize row = limits->items * limits->width * sizeof (float),
              bytes
              = MIN (bench->quick ? QUICK_READ_BYTES : READ_BYTES, info->max_alloc / 2) / row / 4 * 4 * row;
  double samples[MAX_REPETITIONS];
  const guint n = bench->quick ? 3 : 15;

  if (bytes > 0)
    {
      const float zero = 0;
      limits->memory = nf_buffer_new (bench->device, bytes, error);
      if (!limits->memory)
        return FALSE;
      cl_int status = clEnqueueFillBuffer (limits->queue, limits->memory->mem, &zero, sizeof zero, 0, bytes,
                                           0, NULL, NULL);
      if (status != CL_SUCCESS)
        return nf_cl_error (error, status, "cannot fill a buffer");
    }
  /* the first run compiles */
  if (!read_burst (limits, bytes, &samples[0], error))
    return FALSE;
  for (guint i = 0; i < n; i++)
    if (!read_burst (limits, bytes, &samples[i], error) || !nf_command_go_on (bench->command, error))
      return FALSE;
  bench->read_gbps = median (samples, n);
  return TRUE;
}

/* Measurements */

typedef gboolean (*Work) (gpointer data, GError **error);

/* What bounds WORK: multiplications and additions, or bytes to read and write, of a memory of so many. */
typedef struct
{
  double flops, bytes;
  gsize memory;
} Bound;

/* Medians of WORK, each time right after a burst of what bounds it: other programs slow both, so that their
 * ratio says more than either. */
static gboolean
measure_bound (Bench *bench, const char *what, const char *size, Bound bound, Work work, gpointer data,
               GError **error)
{
  double seconds[MAX_REPETITIONS], shares[MAX_REPETITIONS];
  const double budget = bench->quick ? 0.3 : 8;
  const guint least = bench->quick ? 1 : 3;
  guint n = 0;

  nf_progress_update (bench->command->progress, "%s %s", what, size);
  /* the first run compiles and allocates */
  if (!work (data, error))
    return FALSE;
  const double end = now () + budget;
  while (n < least || (n < MAX_REPETITIONS && now () < end))
    {
      double limit;
      if (!nf_command_go_on (bench->command, error)
          || !(bound.bytes > 0 ? read_burst (&bench->limits, bound.memory, &limit, error)
                               : burst (&bench->limits, &limit, error)))
        return FALSE;
      const double start = now ();
      if (!work (data, error))
        return FALSE;
      seconds[n] = MAX (now () - start, 1e-9);
      shares[n] = 1e-9 * (bound.bytes > 0 ? bound.bytes : bound.flops) / seconds[n] / limit;
      n++;
    }
  Result *result = g_new0 (Result, 1);
  result->what = g_strdup (what);
  result->size = g_strdup (size);
  result->seconds = median (seconds, n);
  result->gflops = bound.bytes > 0 ? NAN : 1e-9 * bound.flops / result->seconds;
  result->gbps = bound.bytes > 0 ? 1e-9 * bound.bytes / result->seconds : NAN;
  result->share = median (shares, n);
  g_ptr_array_add (bench->results, result);
  return TRUE;
}

static gboolean
measure (Bench *bench, const char *what, const char *size, double flops, Work work, gpointer data,
         GError **error)
{
  return measure_bound (bench, what, size, (Bound){ .flops = flops }, work, data, error);
}

static gboolean
is_selected (const Bench *bench, const char *kind)
{
  return !bench->selected[0] || g_strv_contains ((const char *const *)bench->selected, kind);
}

static void
fill_random (float *values, gsize n)
{
  nf_random_normal (1, 0, n, 1, values);
}

/* Small parts are repeated within a sample, as launches follow each other in real work. */
#define LAUNCHES 16

typedef struct
{
  NfOps *ops;
  NfMatmul product;
  NfAttention attention;
  NfView x, y, w, b;
  NfBuffer *values;
  guint M, d;
} Part;

static gboolean
run_matmul (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_matmul (part->ops, &part->product);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_attention (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_attention (part->ops, &part->attention);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_matmul_tn (gpointer data, GError **error)
{
  Part *part = data;
  const NfMatmul *p = &part->product;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_matmul_tn (part->ops, p->A, p->lda, FALSE, p->R, p->ldr, FALSE, p->C, p->M, p->N, p->K);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_attention_backward (gpointer data, GError **error)
{
  Part *part = data;
  const NfAttention *a = &part->attention;
  const NfAttentionBackward backward = { .qkv = a->Q,
                                         .out = a->out,
                                         .dout = part->x,
                                         .dqkv = part->y,
                                         .keys = a->keys,
                                         .values = part->values,
                                         .stats = a->stats,
                                         .N = a->Nq,
                                         .B = a->B,
                                         .H = a->H,
                                         .scale = a->scale };
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_attention_backward (part->ops, &backward);
  return nf_ops_finish (part->ops, error);
}

static gboolean
run_layernorm (gpointer data, GError **error)
{
  Part *part = data;
  for (guint i = 0; i < LAUNCHES; i++)
    nf_ops_norm (part->ops, NF_NORM_LAYER, part->x, part->w, part->b, nf_view (NULL, 0), part->y, FALSE,
                 part->M, part->d);
  return nf_ops_finish (part->ops, error);
}

/* Divides the time that measure() noted for a sample among its N parts. */
static void
divide_last (Bench *bench, guint n)
{
  Result *result = bench->results->pdata[bench->results->len - 1];
  result->seconds /= n;
}

/* N random floats on the device; NULL is reported by nf_ops_finish(). */
static NfBuffer *
random_buffer (NfOps *ops, gsize n)
{
  NfBuffer *buffer = nf_ops_alloc (ops, n);
  if (!buffer)
    return NULL;
  g_autofree float *values = g_new (float, n);
  fill_random (values, n);
  nf_ops_write (ops, nf_view (buffer, 0), values, n * sizeof (float));
  return buffer;
}

static gboolean
bench_matmul (Bench *bench, guint M, guint N, guint K, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) A = random_buffer (ops, (gsize)M * (K + 16));
  g_autoptr (NfBuffer) W = random_buffer (ops, (gsize)N * K);
  g_autoptr (NfBuffer) B = nf_ops_alloc (ops, nf_ops_packed_size (ops, N, K, TRUE));
  g_autoptr (NfBuffer) bias = random_buffer (ops, N);
  g_autoptr (NfBuffer) C = random_buffer (ops, (gsize)M * N);
  /* as layers leave them where they can: left rows, else floats apart by no power of two */
  const guint left = nf_ops_left_step (ops, K);
  g_autoptr (NfBuffer) rows = nf_ops_alloc (ops, (gsize)M * MAX (left, 1));
  if (W && B)
    nf_ops_pack (ops, nf_view (W, 0), nf_view (B, 0), N, K, TRUE);
  if (A && W && rows && left > 0)
    nf_ops_norm (ops, NF_NORM_LAYER, nf_view (A, 0), nf_view (W, 0), nf_view (NULL, 0), nf_view (NULL, 0),
                 nf_view (rows, 0), TRUE, M, K);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .product = { .A = nf_view (left > 0 ? rows : A, 0),
                             .lda = left > 0 ? left : K + 16,
                             .B = nf_view (B, 0),
                             .bias = nf_view (bias, 0),
                             .C = nf_view (C, 0),
                             .ldc = N,
                             .M = M,
                             .N = N,
                             .K = K,
                             .flags = NF_MATMUL_BIAS | (left > 0 ? NF_MATMUL_LEFT_A : 0) } };
  g_autofree char *size = g_strdup_printf ("%u×%u×%u", M, N, K);
  if (!measure (bench, "matmul", size, LAUNCHES * 2.0 * M * N * K, run_matmul, &part, error))
    return FALSE;
  divide_last (bench, LAUNCHES);
  return TRUE;
}

/* The gradient of a weight (N, K) from M rows. */
static gboolean
bench_matmul_tn (Bench *bench, guint M, guint N, guint K, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) A = random_buffer (ops, (gsize)M * N);
  g_autoptr (NfBuffer) X = random_buffer (ops, (gsize)M * K);
  g_autoptr (NfBuffer) C = nf_ops_alloc (ops, (gsize)N * K);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .product = { .A = nf_view (A, 0),
                             .lda = N,
                             .R = nf_view (X, 0),
                             .ldr = K,
                             .C = nf_view (C, 0),
                             .M = M,
                             .N = N,
                             .K = K } };
  g_autofree char *size = g_strdup_printf ("weight, %u×%u×%u", M, N, K);
  if (!measure (bench, "gradient", size, LAUNCHES * 2.0 * M * N * K, run_matmul_tn, &part, error))
    return FALSE;
  divide_last (bench, LAUNCHES);
  return TRUE;
}

/* B samples of N tokens, H heads of 64 features. */
static gboolean
bench_attention (Bench *bench, guint B, guint N, guint H, gboolean backward, GError **error)
{
  const guint DH = 64, d = H * DH;
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, DH, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) qkv = random_buffer (ops, (gsize)B * N * 3 * d);
  g_autoptr (NfBuffer) keys = nf_ops_alloc (ops, nf_ops_keys_size (ops, B, H, N));
  g_autoptr (NfBuffer) values = nf_ops_alloc (ops, nf_ops_keys_size (ops, B, H, N));
  g_autoptr (NfBuffer) out = nf_ops_alloc (ops, (gsize)B * N * d);
  g_autoptr (NfBuffer) stats = nf_ops_alloc (ops, 2 * (gsize)B * N * H);
  g_autoptr (NfBuffer) dout = random_buffer (ops, (gsize)B * N * d);
  g_autoptr (NfBuffer) dqkv = nf_ops_alloc (ops, (gsize)B * N * 3 * d);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  const gsize batch = (gsize)N * 3 * d;
  nf_ops_append (ops, nf_view (qkv, d), 3 * d, batch, FALSE, keys, 0, N, N, B, H);
  Part part = { .ops = ops,
                .attention = { .Q = nf_view (qkv, 0),
                               .q_row = 3 * d,
                               .q_batch = batch,
                               .out = nf_view (out, 0),
                               .out_row = d,
                               .out_batch = (gsize)N * d,
                               .keys = keys,
                               .capacity = N,
                               .stats = backward ? stats : NULL,
                               .Nq = N,
                               .B = B,
                               .H = H,
                               .split = B,
                               .scale = 0.125f,
                               .scale2 = 0.125f },
                .values = values,
                .x = nf_view (dout, 0),
                .y = nf_view (dqkv, 0) };
  g_autofree char *size
      = g_strdup_printf ("%sB %u, N %u, H %u, DH %u", backward ? "attention, " : "", B, N, H, DH);
  const double flops = LAUNCHES * 2.0 * B * H * DH * N * (N + 1);
  if (!backward)
    {
      if (!measure (bench, "attention", size, flops, run_attention, &part, error))
        return FALSE;
    }
  else
    {
      /* scores again, then the gradients of P, V, Q and K: five products where forward has two */
      nf_ops_attention (ops, &part.attention);
      if (!measure (bench, "gradient", size, 2.5 * flops, run_attention_backward, &part, error))
        return FALSE;
    }
  divide_last (bench, LAUNCHES);
  return TRUE;
}

static gboolean
bench_layernorm (Bench *bench, guint M, guint d, GError **error)
{
  g_autoptr (NfOps) ops = nf_ops_new (bench->device, 64, 48, error);
  if (!ops)
    return FALSE;
  g_autoptr (NfBuffer) x = random_buffer (ops, (gsize)M * d);
  g_autoptr (NfBuffer) y = nf_ops_alloc (ops, (gsize)M * d);
  g_autoptr (NfBuffer) wb = random_buffer (ops, 2 * (gsize)d);
  if (!nf_ops_finish (ops, error))
    return FALSE;
  Part part = { .ops = ops,
                .x = nf_view (x, 0),
                .y = nf_view (y, 0),
                .w = nf_view (wb, 0),
                .b = nf_view (wb, d),
                .M = M,
                .d = d };
  g_autofree char *size = g_strdup_printf ("%u×%u", M, d);
  /* each value is read and written once */
  if (!measure_bound (bench, "layernorm", size,
                      (Bound){ .bytes = LAUNCHES * 2.0 * sizeof (float) * M * d,
                               .memory = 2 * sizeof (float) * (gsize)M * d },
                      run_layernorm, &part, error))
    return FALSE;
  divide_last (bench, LAUNCHES);
  return TRUE;
}

/* OpenBLAS, beside our products: found by name so that nothing depends on it. */

enum
{
  CBLAS_ROW_MAJOR = 101,
  CBLAS_NO_TRANSPOSE = 111,
};

typedef void (*Sgemm) (int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                       int lda, const float *b, int ldb, float beta, float *c, int ldc);

typedef struct
{
  Sgemm sgemm;
  int M, N, K;
  float *A, *B, *C;
} Blas;

static gboolean
run_sgemm (gpointer data, GError **error)
{
  Blas *blas = data;
  for (guint i = 0; i < LAUNCHES; i++)
    blas->sgemm (CBLAS_ROW_MAJOR, CBLAS_NO_TRANSPOSE, CBLAS_NO_TRANSPOSE, blas->M, blas->N, blas->K, 1,
                 blas->A, blas->K, blas->B, blas->N, 0, blas->C, blas->N);
  return TRUE;
}

static gboolean
bench_openblas (Bench *bench, guint M, guint N, guint K, GError **error)
{
  void *library = dlopen ("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  Blas blas = { .M = (int)M, .N = (int)N, .K = (int)K };

  if (library)
    blas.sgemm = (Sgemm)dlsym (library, "cblas_sgemm");
  if (!blas.sgemm)
    {
      /* its threads may outlive us, so the library stays loaded where it was used */
      if (library)
        dlclose (library);
      if (bench->selected[0])
        nf_progress_note (bench->command->progress, "openblas left out: there is no libopenblas.so.0 with "
                                                    "cblas_sgemm() (Debian: libopenblas0)");
      return TRUE;
    }
  g_autofree float *A = g_new (float, (gsize)M *K), *B = g_new (float, (gsize)K *N),
                   *C = g_new (float, (gsize)M *N);
  fill_random (A, (gsize)M * K);
  fill_random (B, (gsize)K * N);
  blas.A = A;
  blas.B = B;
  blas.C = C;
  g_autofree char *size = g_strdup_printf ("%u×%u×%u", M, N, K);
  if (!measure (bench, "openblas", size, LAUNCHES * 2.0 * M * N * K, run_sgemm, &blas, error))
    return FALSE;
  divide_last (bench, LAUNCHES);
  return TRUE;
}

/* Models */

typedef struct
{
  NfSession *session;
  NfTrainer *trainer;
  guint B;
  float *x, *z;
  guint8 *tiles;
  NfFrame frame;
} Run;

static gboolean
run_encode (gpointer data, GError **error)
{
  Run *run = data;
  return nf_session_encode (run->session, run->x, run->B, NULL, run->z, NULL, NULL, error);
}

static gboolean
run_frame (gpointer data, GError **error)
{
  Run *run = data;
  NfScore score;
  return nf_session_encode_frame (run->session, &run->frame, run->z, &score, NULL, error);
}

/* Token by token: windows settle at once on a model whose weights are as they began, which says nothing. */
static gboolean
run_decode (gpointer data, GError **error)
{
  Run *run = data;
  const NfDecodeOptions options = { .method = NF_DECODE_SEQUENTIAL };
  return nf_session_decode (run->session, run->z, run->B, NULL, &options, run->x, error);
}

/* Decoding B samples token by token reads, at every step of a block, its weights, and of each sample the keys
 * and values so far; the first token of a block without a start token is what it is. Blocks come one after
 * the other: the memory is that of the largest one's. */
static Bound
bound_steps (NfModel *model, NfOps *ops, guint B)
{
  const double element = 4.0 / nf_device_values_per_word (nf_model_get_device (model));
  Bound bound = { 0 };

  for (guint t = 0; t < nf_model_count_blocks (model); t++)
    {
      const NfFlowBlock *block = nf_model_get_block (model, t);
      const NfTransformerShape *shape = &block->transformer.shape;
      const gboolean local
          = nf_model_get_config (model)->shallow_local && t + 1 < nf_model_count_blocks (model);
      /* a frame's tokens where frames are samples of their own */
      const double N = local ? nf_model_get_shape (model)->frame : nf_model_get_shape (model)->N,
                   steps = block->sos.buffer ? N : N - 1, samples = B * (nf_model_get_shape (model)->N / N),
                   inner = (double)shape->H * shape->head_dim, keys = 2.0 * shape->Hkv * shape->head_dim,
                   layer = shape->d * (inner + keys) + inner * shape->d
                           + (shape->gated ? 3.0 : 2.0) * shape->d * shape->hidden,
                   ends
                   = (double)block->in.n_in * block->in.n_out + (double)block->out.n_in * block->out.n_out,
                   weights = element * (shape->K * layer + ends),
                   row = samples * shape->K * shape->Hkv * (double)nf_ops_key_bytes (ops);
      bound.bytes += steps * weights + row * steps * (steps + 1) / 2;
      bound.memory = MAX (bound.memory, (gsize)(weights + row * N));
    }
  return bound;
}

static gboolean
run_train (gpointer data, GError **error)
{
  Run *run = data;
  NfTrainReport report;
  const NfTrainBatch batch = { .B = run->B, .tiles = run->tiles };
  return nf_trainer_step (run->trainer, &batch, &report, error);
}

/* Gradients of weights are wanted, and products make them. */
static gboolean
takes_gradients (Bench *bench, const char *what)
{
  if (!is_selected (bench, what))
    return FALSE;
  if (nf_device_has_gradients (bench->device))
    return TRUE;
  nf_progress_note (bench->command->progress, "%s left out: in %s there are no gradients of weights", what,
                    nf_device_get_precision (bench->device));
  return FALSE;
}

/* measure(), and if a profile is wanted WORK once more, its commands timed by OPS. */
static gboolean
measure_model (Bench *bench, const char *what, const char *size, Bound bound, Work work, Run *run, NfOps *ops,
               GError **error)
{
  if (!measure_bound (bench, what, size, bound, work, run, error))
    return FALSE;
  if (!bench->profile)
    return TRUE;
  Result *result = bench->results->pdata[bench->results->len - 1];
  if (!nf_ops_start_profile (ops, error) || !work (run, error))
    return FALSE;
  result->times = nf_ops_end_profile (ops, error);
  return result->times != NULL;
}

/* A model to measure: that of --model or the bundled one, or, of a configuration, one of random weights. */
typedef struct
{
  char *name;
  gboolean loaded;
  const char *file; /* NULL: the bundled one */
  NfConfig config;
} Size;

/* Of the model in FILE, which outlives it. */
static Size *
size_new_of_file (const char *file)
{
  Size *size = g_new0 (Size, 1);

  size->name = g_path_get_basename (file);
  size->file = file;
  size->loaded = TRUE;
  return size;
}

static void
size_free (Size *size)
{
  g_free (size->name);
  g_free (size);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Size, size_free)

/* Of a name such as 64x64p4-512, 64x64p4-512-4x4 or 64x64p4-480-4x4h48: sides and patches in pixels, width,
 * blocks, layers of each, and values of a head. */
static Size *
size_new (const char *name, GError **error)
{
  static const char pattern[]
      = "^(\\d{1,4})x(\\d{1,4})p(\\d{1,4})-(\\d{1,5})(?:-(\\d{1,3})x(\\d{1,3}))?(?:h(\\d{1,3}))?$";
  const char *said = strcmp (name, "tiny") == 0 ? "16x16p4-64-2x2" : name;
  g_autoptr (GRegex) regex = g_regex_new (pattern, 0, 0, NULL);
  g_autoptr (GMatchInfo) match = NULL;
  guint numbers[7] = { 0, 0, 0, 0, 4, 4, 64 };
  g_autoptr (Size) size = g_new0 (Size, 1);

  size->name = g_strdup (name);
  size->loaded = strcmp (name, "bundled") == 0;
  if (size->loaded)
    return g_steal_pointer (&size);
  if (!g_regex_match (regex, said, 0, &match))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "what is known are tiny, bundled and names such as 64x64p4-512, 64x64p4-512-4x4 (sides, "
                   "patch, width, blocks and layers) or 64x64p4-480-4x4h48 (values of a head), not \"%s\"",
                   name);
      return NULL;
    }
  for (int i = 0; i < g_match_info_get_match_count (match) - 1; i++)
    {
      g_autofree char *number = g_match_info_fetch (match, i + 1);
      if (*number)
        numbers[i] = (guint)g_ascii_strtoull (number, NULL, 10);
    }
  if (numbers[0] != numbers[1])
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "a model's picture is a square, %s is none", name);
      return NULL;
    }
  size->config = (NfConfig){ .channels = 3,
                             .img_size = numbers[0],
                             .patch_size = numbers[2],
                             .width = numbers[3],
                             .n_blocks = numbers[4],
                             .n_layers = numbers[5],
                             .nvp = TRUE,
                             .head_dim = numbers[6],
                             .expansion = 4,
                             .layout = NF_PIXELS_RGB };
  return nf_config_check (&size->config, name, error) ? g_steal_pointer (&size) : NULL;
}

/* What a model cannot do is no failure. Returns: TRUE, for REFUSAL is noted. */
static gboolean
leave_out (Bench *bench, const char *what, const char *size, const GError *refusal)
{
  nf_progress_note (bench->command->progress, "%s of %s left out: %s", what, size, refusal->message);
  return TRUE;
}

static gboolean
bench_train (Bench *bench, const NfConfig *config, const char *size, double flops, GError **error)
{
  const gsize bytes = (gsize)bench->batch * nf_config_frames (config) * nf_config_tile_bytes (config);
  g_autoptr (GRand) random = g_rand_new_with_seed (1);
  g_autofree guint8 *tiles = g_malloc (bytes);
  g_autoptr (GError) refusal = NULL;
  NfTrainOptions options;

  nf_train_options_init (&options);
  options.steps = MAX_REPETITIONS + 1;
  if (!nf_trainer_check (config, &options, &refusal))
    return leave_out (bench, "train", size, refusal);
  for (gsize i = 0; i < bytes; i++)
    tiles[i] = (guint8)g_rand_int (random);
  /* a model of its own: training changes it */
  g_autoptr (NfModel) model = nf_model_new (config, bench->device, 1, error);
  if (!model)
    return FALSE;
  g_autoptr (NfTrainer) trainer = nf_trainer_new (model, &options, error);
  if (!trainer)
    return FALSE;
  Run run = { .trainer = trainer, .B = bench->batch, .tiles = tiles };
  /* forward, and backward with respect to inputs and to parameters */
  return measure_model (bench, "train", size, (Bound){ .flops = 3 * flops }, run_train, &run,
                        nf_trainer_get_ops (trainer), error);
}

/* A whole frame, with all that becomes of it between host and device. */
static gboolean
bench_frame (Bench *bench, NfSession *session, const char *name, GError **error)
{
  const guint width = bench->quick ? 64 : 1280, height = bench->quick ? 48 : 720;
  NfModel *model = nf_session_get_model (session);
  const NfConfig *config = nf_model_get_config (model);
  const gboolean yuv = config->layout == NF_PIXELS_YUV420;
  const gsize pixels = (gsize)width * height;
  g_autoptr (GError) failure = NULL;
  NfGrid grid;

  if (!nf_grid_init (&grid, config, width, height, error))
    return FALSE;
  g_autofree guint8 *bytes = g_malloc (3 * pixels);
  g_autofree float *latents = g_new (float, nf_grid_latents (&grid));
  g_autoptr (GRand) random = g_rand_new_with_seed (1);
  /* nearly even: noise is so unlikely that its latents overflow */
  for (gsize i = 0; i < 3 * pixels; i++)
    bytes[i] = (guint8)(128 + g_rand_int (random) % 8);
  Run run = { .session = session, .z = latents, .frame = { .width = width, .height = height } };
  for (guint c = 0; c < 3; c++)
    {
      const gint half = (gint)width / 2;
      guint8 *chroma = bytes + pixels + (c == 2 ? pixels / 4 : 0);
      run.frame.planes[c] = yuv ? c == 0 ? (NfPlane){ bytes, (gint)width, 1 } : (NfPlane){ chroma, half, 1 }
                                : (NfPlane){ bytes + c, 3 * (gint)width, 3 };
    }
  g_autofree char *label = g_strdup_printf ("%s, %u×%u", name, width, height);
  const double flops = nf_model_get_flops (model) * grid.tiles_x * grid.tiles_y;
  if (measure_model (bench, "frame", label, (Bound){ .flops = flops }, run_frame, &run,
                     nf_flow_get_ops (session->flow), &failure))
    return TRUE;
  if (g_error_matches (failure, NF_ERROR, NF_ERROR_UNSUPPORTED))
    return leave_out (bench, "frame", name, failure);
  g_propagate_error (error, g_steal_pointer (&failure));
  return FALSE;
}

static gboolean
bench_model (Bench *bench, const Size *size, GError **error)
{
  if (!is_selected (bench, "encode") && !is_selected (bench, "frame") && !is_selected (bench, "decode")
      && !is_selected (bench, "step") && !is_selected (bench, "train"))
    return TRUE;

  g_autoptr (NfModel) model = NULL;
  if (size->loaded)
    {
      const char *file = size->file;
      g_autoptr (GError) missing = NULL;
      model = nf_model_load (file, bench->device, NULL, NULL, bench->command->cancellable, &missing);
      if (!file && g_error_matches (missing, NF_ERROR, NF_ERROR_NOT_FOUND))
        {
          nf_progress_note (bench->command->progress, "bundled model left out: %s", missing->message);
          return TRUE;
        }
      if (!model)
        {
          g_propagate_error (error, g_steal_pointer (&missing));
          return FALSE;
        }
    }
  else
    model = nf_model_new (&size->config, bench->device, 1, error);
  if (!model)
    return FALSE;

  const NfConfig *config = nf_model_get_config (model);
  const gsize n = (gsize)bench->batch * nf_config_frames (config) * nf_config_tokens (config)
                  * nf_config_features (config);
  const double flops = bench->batch * nf_model_get_flops (model);
  g_autofree char *label = g_strdup_printf ("%s, batch %u", size->name, bench->batch);
  if (is_selected (bench, "encode") || is_selected (bench, "frame") || is_selected (bench, "decode")
      || is_selected (bench, "step"))
    {
      g_autofree float *x = g_new (float, n), *z = g_new (float, n);
      g_autoptr (NfSession) session = nf_session_new (model, error);
      if (!session)
        return FALSE;
      nf_session_set_cancellable (session, bench->command->cancellable);
      fill_random (x, n);
      fill_random (z, n);
      /* nearly even, as the frames of bench_frame() */
      for (gsize i = 0; i < n; i++)
        x[i] *= 0.02f;
      Run run = { .session = session, .B = bench->batch, .x = x, .z = z };
      NfOps *ops = nf_flow_get_ops (session->flow);
      if (is_selected (bench, "encode")
          && !measure_model (bench, "encode", label, (Bound){ .flops = flops }, run_encode, &run, ops, error))
        return FALSE;
      if (is_selected (bench, "frame") && !bench_frame (bench, session, size->name, error))
        return FALSE;
      if (is_selected (bench, "decode")
          && !measure_model (bench, "decode", label, (Bound){ .flops = flops }, run_decode, &run, ops, error))
        return FALSE;
      const Bound steps = bound_steps (model, ops, bench->batch);
      if (is_selected (bench, "step") && steps.bytes > 0)
        {
          if (!measure_model (bench, "step", label, steps, run_decode, &run, ops, error))
            return FALSE;
          divide_last (bench, nf_model_get_shape (model)->N);
        }
    }
  return !takes_gradients (bench, "train") || bench_train (bench, config, label, flops, error);
}

static gboolean
run_all (Bench *bench, GPtrArray *models, GError **error)
{
  static const guint products[][3]
      = { { 256, 2304, 768 }, { 1024, 1024, 1024 }, { 256, 2048, 512 }, { 2048, 2048, 512 },
          { 12, 2304, 768 },  { 8, 2048, 512 },     { 1, 2048, 512 } };

  if (!limits_init (&bench->limits, bench->device, error) || !measure_multiply_add (bench, error)
      || !measure_reading (bench, error))
    return FALSE;
  for (guint i = 0; is_selected (bench, "matmul") && i < G_N_ELEMENTS (products); i++)
    if ((!bench->quick || i == 0)
        && !bench_matmul (bench, products[i][0], products[i][1], products[i][2], error))
      return FALSE;
  if (is_selected (bench, "openblas")
      && !bench_openblas (bench, products[0][0], products[0][1], products[0][2], error))
    return FALSE;
  if (is_selected (bench, "attention")
      && !bench_attention (bench, bench->quick ? 1 : 8, 256, 8, FALSE, error))
    return FALSE;
  if (takes_gradients (bench, "gradient")
      && (!bench_matmul_tn (bench, bench->quick ? 256 : 1024, 2048, 512, error)
          || !bench_attention (bench, bench->quick ? 1 : 8, 256, 8, TRUE, error)))
    return FALSE;
  if (is_selected (bench, "layernorm") && !bench_layernorm (bench, bench->quick ? 256 : 32768, 512, error))
    return FALSE;
  for (guint i = 0; i < models->len; i++)
    if (!bench_model (bench, models->pdata[i], error))
      return FALSE;
  return TRUE;
}

/* Reports */

/* Of what products the limit is: of floats where fewer bits have no instructions of their own. */
static const char *
get_limit_precision (const Bench *bench)
{
  return bench->limits.by ? nf_device_get_precision (bench->device) : "f32";
}

static void
print_table (const Bench *bench)
{
  const NfDeviceInfo *info = nf_device_get_info (bench->device);

  printf ("%s %s, %u compute units, %s kernels, products in %s\n", info->id, info->name, info->compute_units,
          nf_device_get_kernels (bench->device), nf_device_get_precision (bench->device));
  const char *precision = get_limit_precision (bench);
  printf ("limits: %.1f GFLOP/s multiply-add, %s%s%s", bench->multiply_add_gflops,
          strcmp (precision, "f32") == 0                   ? "single precision"
          : strcmp (precision, "bf16") == 0                ? "bfloat16"
          : nf_device_values_per_word (bench->device) == 4 ? "integers of 16 and 8 bits"
                                                           : "floats and bfloat16",
          bench->limits.by ? " by " : "", bench->limits.by ? bench->limits.by : "");
  if (!isnan (bench->read_gbps))
    printf ("; %.1f GB/s reading memory", bench->read_gbps);
  int width = 28;
  for (guint i = 0; i < bench->results->len; i++)
    width = MAX (width, (int)g_utf8_strlen (((Result *)bench->results->pdata[i])->size, -1));
  printf ("\n\n%-10s %-*s %12s %15s %8s\n", "", width, "SIZE", "TIME", "RATE", "SHARE");
  for (guint i = 0; i < bench->results->len; i++)
    {
      const Result *r = bench->results->pdata[i];
      const gboolean memory = isnan (r->gflops);
      printf ("%-10s %s%*s %9.3f ms %7.1f %-7s %6.1f %%\n", r->what, r->size,
              width - (int)g_utf8_strlen (r->size, -1), "", 1e3 * r->seconds, memory ? r->gbps : r->gflops,
              memory ? "GB/s" : "GFLOP/s", 100 * r->share);
    }
  for (guint i = 0; i < bench->results->len; i++)
    {
      const Result *r = bench->results->pdata[i];
      g_autofree char *what = g_strdup_printf ("%s %s", r->what, r->size);
      if (r->times)
        nf_profile_print (what, r->times, 0);
    }
}

static void
add_profile (JsonBuilder *builder, GPtrArray *times)
{
  json_builder_set_member_name (builder, "profile");
  json_builder_begin_array (builder);
  for (guint i = 0; i < times->len; i++)
    {
      const NfOpsTime *time = times->pdata[i];
      json_builder_begin_object (builder);
      nf_json_add_string (builder, "command", time->name);
      json_builder_set_member_name (builder, "launches");
      json_builder_add_int_value (builder, (gint64)time->launches);
      nf_json_add_double (builder, "seconds", time->seconds);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

static void
print_json (const Bench *bench)
{
  const NfDeviceInfo *info = nf_device_get_info (bench->device);
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "device");
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "id", info->id);
  nf_json_add_string (builder, "name", info->name);
  nf_json_add_string (builder, "driver", info->driver);
  nf_json_add_string (builder, "kernels", nf_device_get_kernels (bench->device));
  nf_json_add_string (builder, "precision", nf_device_get_precision (bench->device));
  json_builder_set_member_name (builder, "compute_units");
  json_builder_add_int_value (builder, info->compute_units);
  json_builder_end_object (builder);
  json_builder_set_member_name (builder, "limits");
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "of", get_limit_precision (bench));
  nf_json_add_string (builder, "by", bench->limits.by);
  nf_json_add_double (builder, "multiply_add_gflops", bench->multiply_add_gflops);
  nf_json_add_double (builder, "read_gbps", bench->read_gbps);
  json_builder_end_object (builder);
  json_builder_set_member_name (builder, "results");
  json_builder_begin_array (builder);
  for (guint i = 0; i < bench->results->len; i++)
    {
      const Result *r = bench->results->pdata[i];
      json_builder_begin_object (builder);
      nf_json_add_string (builder, "what", r->what);
      nf_json_add_string (builder, "size", r->size);
      nf_json_add_double (builder, "seconds", r->seconds);
      nf_json_add_double (builder, "gflops", r->gflops);
      nf_json_add_double (builder, "gbps", r->gbps);
      nf_json_add_double (builder, "share", r->share);
      if (r->times)
        add_profile (builder, r->times);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  g_autofree char *text = nf_json_text (builder, TRUE);
  puts (text);
}

int
nf_cmd_bench (int argc, char **argv)
{
  /* it has options and a table of its own; a word of this one's after it is no video */
  if (argc > 1 && strcmp (argv[1], "decode") == 0 && !(argc > 2 && g_strv_contains (kinds, argv[2])))
    {
      argv[1] = (char *)"bench decode";
      return nf_cmd_bench_decode (argc - 1, argv + 1);
    }

  g_auto (NfCommand) command = { 0 };
  g_auto (Bench) bench = { .command = &command };
  g_autoptr (GError) error = NULL;
  g_autofree char *chosen = NULL;
  g_auto (GStrv) names = NULL;
  g_autoptr (GPtrArray) models = g_ptr_array_new_with_free_func ((GDestroyNotify)size_free);
  gboolean json = FALSE;
  gint batch = DEFAULT_BATCH;
  const GOptionEntry entries[]
      = { { "sizes", 's', 0, G_OPTION_ARG_STRING, &chosen,
            "Models, comma-separated: tiny, bundled, or of random weights by name: 64x64p4-512 has 64x64 "
            "pixels, patches of 4, width 512, and 4 blocks of 4 layers unless -BxL follows (default: "
            "tiny,bundled,64x64p4-512, none with --model; with --quick: tiny)",
            "NAMES" },
          { "batch", 'b', 0, G_OPTION_ARG_INT, &batch, "Tiles side by side (default: 8)", "B" },
          { "quick", 0, 0, G_OPTION_ARG_NONE, &bench.quick, "Few and small measurements: does it run at all?",
            NULL },
          { "profile", 'p', 0, G_OPTION_ARG_NONE, &bench.profile,
            "Where the time of models goes: each kernel's launches and time on the device", NULL },
          { "json", 0, 0, G_OPTION_ARG_NONE, &json, "As JSON", NULL },
          { NULL } };
  g_autofree char *list = g_strjoinv (", ", (char **)kinds);

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "[WHAT...]",
          "Measures what this machine can do at most, then how much of it the flow gets.",
          "WHAT is any of matmul, gradient (of weights and of attention), attention, layernorm, encode, "
          "frame (a whole one of 1280x720), decode (token by token), step (of that, a token of all blocks), "
          "train, openblas; \"normflow bench decode [VIDEO]\" compares methods of decoding and has options "
          "of its own. Times are medians. SHARE is relative to the multiply-adds, or memory reads, measured "
          "right before each sample; what stays in a core's own cache from one time to the next can exceed "
          "100 %.",
          0, (int)g_strv_length ((char **)kinds)))
    return NF_EXIT_USAGE;
  for (int i = 1; i < argc; i++)
    if (!g_strv_contains (kinds, argv[i]))
      return nf_command_wrong_choice (&command, "WHAT", argv[i], list);
  if (batch < 1 || batch > MAX_BATCH)
    return nf_command_usage (&command, "--batch takes 1 to %d", MAX_BATCH);
  names = g_strsplit (chosen          ? chosen
                      : command.model ? ""
                      : bench.quick   ? "tiny"
                                      : "tiny,bundled,64x64p4-512",
                      ",", -1);
  for (guint i = 0; names[i]; i++)
    {
      Size *size = size_new (names[i], &error);
      if (!size)
        return nf_command_usage (&command, "--sizes: %s", error->message);
      g_ptr_array_add (models, size);
    }
  if (command.model)
    g_ptr_array_add (models, size_new_of_file (command.model));

  bench.selected = argv + 1;
  bench.batch = (guint)batch;
  bench.results = g_ptr_array_new_with_free_func ((GDestroyNotify)result_free);
  bench.device = nf_command_open_device (&command, &error);
  if (!bench.device || !run_all (&bench, models, &error))
    return nf_command_fail (&command, error);
  nf_progress_clear (command.progress);
  if (json)
    print_json (&bench);
  else
    print_table (&bench);
  return 0;
}
