/* normflow bench: what the device can do at most. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bench.h"

#include <math.h>
#include <string.h>

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

void
nf_bench_limits_clear (NfBenchLimits *limits)
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

gboolean
nf_bench_limits_init (NfBenchLimits *limits, NfDevice *device, GError **error)
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
run_kernel (NfBenchLimits *limits, cl_kernel kernel, double *seconds, GError **error)
{
  const double start = nf_bench_now ();
  cl_int status = clEnqueueNDRangeKernel (limits->queue, kernel, 1, NULL, &limits->items, &limits->group, 0,
                                          NULL, NULL);
  if (status == CL_SUCCESS)
    status = clFinish (limits->queue);
  *seconds = nf_bench_now () - start;
  return status == CL_SUCCESS || nf_cl_error (error, status, "cannot run a kernel that measures limits");
}

gboolean
nf_bench_burst (NfBenchLimits *limits, double *gflops, GError **error)
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

gboolean
nf_bench_measure_multiply_add (NfBench *bench, GError **error)
{
  NfBenchLimits *limits = &bench->limits;
  double samples[NF_BENCH_MAX_REPETITIONS];
  const guint n = bench->quick ? 5 : 25;

  /* the first run compiles, the second says how long a burst must be */
  limits->iterations = 20000;
  for (guint i = 0; i < 2; i++)
    if (!nf_bench_burst (limits, &samples[0], error))
      return FALSE;
  const double per_iteration = 1e-9 * limits->flops * (double)limits->items;
  limits->iterations = (cl_int)CLAMP (samples[0] * BURST_SECONDS / per_iteration, 1000, 1e8);
  for (guint i = 0; i < n; i++)
    if (!nf_bench_burst (limits, &samples[i], error) || !nf_command_go_on (bench->command, error))
      return FALSE;
  bench->multiply_add_gflops = nf_bench_median (samples, n);
  return TRUE;
}

gboolean
nf_bench_read_burst (NfBenchLimits *limits, gsize bytes, double *gbps, GError **error)
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

gboolean
nf_bench_measure_reading (NfBench *bench, GError **error)
{
  NfBenchLimits *limits = &bench->limits;
  const NfDeviceInfo *info = nf_device_get_info (bench->device);
  const gsize row = limits->items * limits->width * sizeof (float),
              bytes
              = MIN (bench->quick ? QUICK_READ_BYTES : READ_BYTES, info->max_alloc / 2) / row / 4 * 4 * row;
  double samples[NF_BENCH_MAX_REPETITIONS];
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
  if (!nf_bench_read_burst (limits, bytes, &samples[0], error))
    return FALSE;
  for (guint i = 0; i < n; i++)
    if (!nf_bench_read_burst (limits, bytes, &samples[i], error) || !nf_command_go_on (bench->command, error))
      return FALSE;
  bench->read_gbps = nf_bench_median (samples, n);
  return TRUE;
}
