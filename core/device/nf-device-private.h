/* normflow: what the library's own layers know of a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include "nf-device.h"
#include "nf-error.h"

/* Not installed. Everything here may be called from any thread. */

/* CL_PLATFORM_NAME of the one driver that is known by name: it compiles inline assembly, and keeps kernels.
 */
#define NF_POCL "Portable Computing Language"

cl_context nf_device_get_context (NfDevice *self);
cl_device_id nf_device_get_id (NfDevice *self);

/* TRUE if the GPU variant of the kernels is used (work-groups, local memory). */
gboolean nf_device_uses_gpu_kernels (NfDevice *self);

/* Of matrix products. */
typedef enum
{
  NF_PRECISION_F32,
  NF_PRECISION_BF16,
  NF_PRECISION_BF16_WEIGHTS,
  NF_PRECISION_INT8_WEIGHTS,
} NfPrecision;

/* Values in a word of the matrices that products keep: one float, two bfloat16 (NF_BF16 of the kernels) or
 * four integers (NF_INT8_WEIGHTS), with a scale for each column. */
guint nf_device_values_per_word (NfDevice *self);

/* TRUE if the matrices that products keep are of bfloat16. */
gboolean nf_device_uses_bf16 (NfDevice *self);

/* TRUE if what they are multiplied by is rounded to it, too; else NF_BF16_WEIGHTS of the kernels. */
gboolean nf_device_rounds_to_bf16 (NfDevice *self);

/* FALSE if one operand of a product has to be a matrix that is kept: gradients of parameters are products of
 * others. */
gboolean nf_device_has_gradients (NfDevice *self);

/* What makes them: rounding and fma(), the CPU's vdpbf16ps (NF_BF16_DOT), its matrix unit (NF_BF16_AMX,
 * NF_WEIGHTS_AMX), or NVIDIA's tensor cores (NF_BF16_MMA).
 */
typedef enum
{
  NF_BF16_FMA,
  NF_BF16_DOT,
  NF_BF16_AMX,
  NF_BF16_MMA,
} NfBf16Form;

/* What makes products of floats: fma(), a CPU's matrix unit (NF_F32_AMX of the kernels), or NVIDIA's tensor
 * cores (NF_F32_MMA). */
typedef enum
{
  NF_F32_FMA,
  NF_F32_AMX,
  NF_F32_MMA,
} NfF32Form;

/* What makes products of floats and integers of 8 bits: fma(), or a CPU's vpmaddwd (NF_INT8_MADD), vpdpwssd
 * (NF_INT8_VNNI) or its matrix unit (NF_INT8_AMX), with the same results, of floats that were rounded to
 * integers of 16 bits. */
typedef enum
{
  NF_INT8_FMA,
  NF_INT8_MADD,
  NF_INT8_VNNI,
  NF_INT8_AMX,
} NfInt8Form;

NfBf16Form nf_device_get_bf16 (NfDevice *self);

/* NF_INT8_FMA as well if there are no such products. */
NfInt8Form nf_device_get_int8 (NfDevice *self);

/* TRUE if products round what weights are multiplied by to one bfloat16 (bf16), or to integers of 16 bits
 * (int8-weights but by fma()). Two bfloat16, which bf16-weights make of a float by amx and mma, do not count:
 * no frame was seen to lose anything by them. */
gboolean nf_device_rounds_factors (NfDevice *self);

/* TRUE if a CPU's matrix unit makes products, in either precision. */
gboolean nf_device_uses_amx (NfDevice *self);

/* TRUE if launches come as command lists. */
gboolean nf_device_launches_lists (NfDevice *self);

/* Everything that decides how it computes; free with g_free(). Devices of the same text may share what is on
 * one of them. */
char *nf_device_describe_computing (NfDevice *self);

/* A CPU's cores that this process may keep busy; compute units of another device. */
guint nf_device_count_cores (NfDevice *self);

/* A new in-order queue; release with clReleaseCommandQueue(). */
cl_command_queue nf_device_new_queue (NfDevice *self, GError **error);

/* The program made of the embedded kernel files FILES (names in core/kernels, NULL-terminated, concatenated
 * in this order, each after a #line directive), compiled with OPTIONS: from this process, else from the disk
 * cache, else compiled and cached. "launch.h" and "common.cl" are always put first. Nobody owns it but the
 * device. NULL with NF_ERROR_BUILD and the build log. */
cl_program nf_device_get_program (NfDevice *self, const char *const *files, const char *options,
                                  GError **error);

/* Where a PART of what is kept between runs is: its folder in the user's cache, the one folder that
 * NORMFLOW_CACHE names, or NULL if nothing is to be kept ("0"). It need not exist. */
char *nf_cache_folder (const char *part);

/* For nf-buffer.c: counts SIZE bytes as allocated, FALSE with NF_ERROR_NO_MEMORY or NF_ERROR_ARGUMENT if the
 * device cannot have them; and no longer. */
gboolean nf_device_reserve (NfDevice *self, gsize size, GError **error);
void nf_device_unreserve (NfDevice *self, gsize size);

/* A device buffer that counts towards nf_device_get_allocated() and keeps the device alive. */
typedef struct _NfBuffer NfBuffer;
struct _NfBuffer
{
  cl_mem mem;
  gsize size;
  void *memory; /* of the host, where a CPU has it; all zero as it was made. NULL elsewhere */
  NfDevice *device;
};

/* SIZE bytes, uninitialised unless they are in memory of the host. NULL with NF_ERROR_NO_MEMORY naming size
 * and device; checked against the device's limits first. */
NfBuffer *nf_buffer_new (NfDevice *device, gsize size, GError **error);
void nf_buffer_free (NfBuffer *buffer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfBuffer, nf_buffer_free)

/* What to do, in errors. */
#define NF_INSTALL_HINT "install an OpenCL driver, on Debian: apt install pocl-opencl-icd"
#define NF_MEMORY_HINT "use smaller frames, a smaller batch or a device with more memory"

/* Sets ERROR from an OpenCL status: what was attempted (printf style), the status by name and, where there is
 * one, what to do. Returns FALSE. */
gboolean nf_cl_error (GError **error, cl_int status, const char *attempt, ...) G_GNUC_PRINTF (3, 4);
