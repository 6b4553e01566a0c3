/* normflow: a CPU's matrix unit. SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE /* syscall() */
#include "nf-amx.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

/* From Linux' asm/prctl.h, which older headers lack: may this process use the state component TILE_DATA? */
#define REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

#define SIDE 32  /* rows and columns of the small product */
#define WORDS 16 /* of a row of A, two values each */

/* Takes ROWS of WORDS words: bfloat16 of small integers, different ones everywhere it matters. */
static void
fill_words (guint32 *words, guint n, guint seed)
{
  for (guint i = 0; i < n; i++)
    {
      const float low = (float)((int)((i * 7 + seed) % 13) - 6),
                  high = (float)((int)((i * 5 + seed) % 11) - 5);
      guint32 low_bits, high_bits;
      memcpy (&low_bits, &low, sizeof low);
      memcpy (&high_bits, &high, sizeof high);
      words[i] = low_bits >> 16 | (high_bits & 0xffff0000);
    }
}

static float
get_half (guint32 word, guint half)
{
  const guint32 bits = half ? word & 0xffff0000 : word << 16;
  float value;
  memcpy (&value, &bits, sizeof value);
  return value;
}

/* Sums of integers this small are exact in whatever order. */
static gboolean
is_product (const guint32 *A, const guint32 *b, const float *C)
{
  for (guint row = 0; row < SIDE; row++)
    for (guint column = 0; column < SIDE; column++)
      {
        float sum = 0;
        for (guint k = 0; k < 2 * WORDS; k++)
          sum += get_half (A[row * WORDS + k / 2], k % 2) * get_half (b[k / 2 * SIDE + column], k % 2);
        if (C[row * SIDE + column] != sum)
          return FALSE;
      }
  return TRUE;
}

static int
get_byte (const guint32 *words, gsize i, gboolean has_sign)
{
  const guint8 byte = words[i / 4] >> 8 * (i % 4) & 0xff;
  return has_sign ? (gint8)byte : byte;
}

/* The same of bytes, of which A has upper and lower ones in rows of their own sums. */
static gboolean
is_product_of_bytes (const guint32 *A, const guint32 *b, const gint32 *C)
{
  for (guint half = 0; half < 2; half++)
    for (guint row = 0; row < SIDE / 2; row++)
      for (guint column = 0; column < SIDE; column++)
        {
          int sum = 0;
          for (guint k = 0; k < 4 * WORDS; k++)
            sum += get_byte (A, (row * 2 + half) * 4 * WORDS + k, half == 0)
                   * get_byte (b, (k / 4 * SIDE + column) * 4 + k % 4, TRUE);
          if (C[(half * SIDE / 2 + row) * SIDE + column] != sum)
            return FALSE;
        }
  return TRUE;
}

/* Two products for each compute unit, so that likely every thread of the driver does one. */
static cl_int
run_probe (cl_program program, cl_context context, cl_device_id id, guint items, const guint32 *A,
           const guint32 *b, guint32 *C)
{
  const size_t operand = SIDE * WORDS * sizeof *A, result = (size_t)items * SIDE * SIDE * sizeof *C;
  const size_t global = items, local = 1;
  cl_int status[4] = { 0 };
  cl_kernel kernel = clCreateKernel (program, "nf_amx_probe", &status[0]);
  cl_command_queue queue = clCreateCommandQueue (context, id, 0, &status[1]);
  cl_mem in = clCreateBuffer (context, CL_MEM_READ_WRITE, 2 * operand, NULL, &status[2]);
  cl_mem out = clCreateBuffer (context, CL_MEM_READ_WRITE, result, NULL, &status[3]);
  cl_int failed = status[0] ? status[0] : status[1] ? status[1] : status[2] ? status[2] : status[3];
  if (!failed)
    failed = clEnqueueWriteBuffer (queue, in, CL_TRUE, 0, operand, A, 0, NULL, NULL);
  if (!failed)
    failed = clEnqueueWriteBuffer (queue, in, CL_TRUE, operand, operand, b, 0, NULL, NULL);
  if (!failed)
    failed = clSetKernelArg (kernel, 0, sizeof in, &in);
  if (!failed)
    failed = clSetKernelArg (kernel, 1, sizeof out, &out);
  if (!failed)
    failed = clEnqueueNDRangeKernel (queue, kernel, 1, NULL, &global, &local, 0, NULL, NULL);
  if (!failed)
    failed = clEnqueueReadBuffer (queue, out, CL_TRUE, 0, result, C, 0, NULL, NULL);
  if (kernel)
    clReleaseKernel (kernel);
  if (queue)
    clReleaseCommandQueue (queue);
  if (in)
    clReleaseMemObject (in);
  if (out)
    clReleaseMemObject (out);
  return failed;
}

static gboolean
has_all (const NfCpu *cpu, const char *const *flags)
{
  while (*flags && nf_cpu_has (cpu, *flags))
    flags++;
  return !*flags;
}

static gboolean
get_permission (void)
{
#if defined(__linux__) && defined(__x86_64__)
  return syscall (SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  errno = ENOSYS;
  return FALSE;
#endif
}

char *
nf_amx_find_fault (const NfDeviceInfo *info, const NfCpu *cpu, gboolean bytes, NfProgramCache *programs,
                   cl_context context, cl_device_id id)
{
  const char *const needed[]
      = { "amx_tile", "avx512f", "avx512bw", bytes ? "amx_int8" : "amx_bf16", bytes ? "avx512_vnni" : NULL,
          NULL };
  static const char *const files[] = { "amx.cl", "amx_probe.cl", NULL };

  if (info->is_gpu || !has_all (cpu, needed))
    return g_strdup_printf ("the device has no AMX for %s", bytes ? "bytes, or no AVX512_VNNI" : "bfloat16");
  if (strcmp (info->platform, NF_POCL) != 0)
    return g_strdup_printf ("the driver %s is not PoCL, which compiles its instructions", info->platform);
  if (!get_permission ())
    return g_strdup_printf ("Linux does not let this process use AMX: %s", g_strerror (errno));

  g_autoptr (GError) error = NULL;
  cl_program program = nf_program_cache_get (programs, files, "", &error);
  if (!program)
    return g_strdup_printf ("the driver does not compile AMX: %s", error->message);
  const guint items = 2 * MAX (info->compute_units, 1);
  guint32 A[SIDE * WORDS], b[SIDE * WORDS];
  g_autofree guint32 *C = g_new0 (guint32, (gsize)items * SIDE * SIDE);
  fill_words (A, SIDE * WORDS, 1);
  fill_words (b, SIDE * WORDS, 2);
  cl_int status = run_probe (program, context, id, items, A, b, C);
  /* kernels are compiled as they are launched, see nf_program_cache_get() */
  if (status != CL_SUCCESS)
    status = run_probe (program, context, id, items, A, b, C);
  if (status != CL_SUCCESS)
    return g_strdup_printf ("a first product by AMX fails: OpenCL status %d", status);
  for (guint i = 0; i < items; i++)
    if (bytes ? !is_product_of_bytes (A, b, (const gint32 *)C + (gsize)i * SIDE * SIDE)
              : !is_product (A, b, (const float *)C + (gsize)i * SIDE * SIDE))
      return g_strdup ("a first product by AMX is wrong");
  return NULL;
}
