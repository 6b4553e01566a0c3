/* normflow: OpenCL devices. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/**
 * NfDeviceInfo:
 * @id: "PLATFORM:DEVICE", the two indices, usable as a device specification
 * @name: the device's own name
 * @platform: the OpenCL platform's name
 * @driver: platform and driver version
 * @is_gpu: a GPU (else a CPU; accelerators and custom devices are never listed)
 * @usable: FALSE if something we need is missing, see @reason
 * @reason: (nullable): why the device is not usable
 * @compute_units: cores or multiprocessors
 * @clock_mhz: clock in MHz as the driver states it
 * @global_memory: bytes
 * @local_memory: bytes per work-group
 * @max_alloc: bytes of the largest single buffer
 * @cache: bytes of its largest cache, 0 if the driver does not say
 * @vector_width: floats in a native vector
 * @fp16: half precision arithmetic
 * @fp64: double precision arithmetic
 * @bf16: bfloat16 dot products (CPU instruction or matrix units)
 *
 * What can be known of a device without compiling anything on it.
 */
typedef struct
{
  char *id;
  char *name;
  char *platform;
  char *driver;
  gboolean is_gpu;
  gboolean usable;
  char *reason;
  guint compute_units;
  guint clock_mhz;
  guint64 global_memory;
  guint64 local_memory;
  guint64 max_alloc;
  guint64 cache;
  guint vector_width;
  gboolean fp16;
  gboolean fp64;
  gboolean bf16;
} NfDeviceInfo;

/** nf_device_info_free: @info: (nullable) (transfer full): what is freed; the array of nf_device_list() frees
 * its elements itself. */
void nf_device_info_free (NfDeviceInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfDeviceInfo, nf_device_info_free)

/**
 * NfDevice:
 *
 * One OpenCL device with a context. Immutable after opening, so it may be shared by threads; command queues
 * belong to sessions.
 */
#define NF_TYPE_DEVICE (nf_device_get_type ())
G_DECLARE_FINAL_TYPE (NfDevice, nf_device, NF, DEVICE, GObject)

/**
 * nf_device_list:
 * @error: return location
 *
 * Any thread.
 *
 * Returns: (transfer container) (element-type NfDeviceInfo): every CPU and GPU that an installed OpenCL
 * driver offers, platform by platform; empty if there is none. The array owns its elements. NULL with
 * %NF_ERROR_NO_DEVICE only if the OpenCL loader itself fails.
 */
GPtrArray *nf_device_list (GError **error);

/**
 * nf_device_open:
 * @spec: (nullable): `auto` (a GPU, else a CPU), `cpu`, `gpu`, `PLATFORM:DEVICE`, or part of a device's name,
 * any case. NULL or "" means the environment variable `NORMFLOW_DEVICE`, else `auto`. A suffix `,kernels=cpu`
 * or `,kernels=gpu` forces a kernel variant (the GPU variant runs everywhere, slowly on a CPU: it is how it
 * is tested); without it the environment variable `NORMFLOW_KERNELS` is heard, else the device decides. A
 * suffix `,vectors=4`, `8` or `16` compiles for vectors of so many floats whatever the device's own are. A
 * suffix `,precision=bf16` keeps weights in bfloat16 and rounds what they are multiplied by to it, with sums
 * in float32; `bf16-weights` rounds weights only; `int8-weights` makes these integers of 8 bits, times a
 * scale for each output; `f32`, which is the default, rounds nothing; `auto` is bf16 where that is faster
 * than f32: with AMX, with AVX512_BF16 of a processor by AMD, or on a GPU with matrix units for it. Without
 * it the environment variable `NORMFLOW_PRECISION` is heard. A suffix `,bf16=amx`, `dot`, `mma` or `fma`,
 * else the environment variable `NORMFLOW_BF16`, says what multiplies bfloat16, see
 * nf_device_get_bf16_form(); without it the fastest is taken. A suffix `,f32=amx`, `mma`, `fma` or `auto`
 * (amx or mma where it can be), else `NORMFLOW_F32`, says what multiplies floats, see
 * nf_device_get_f32_form(); without it `fma` does. A suffix `,int8=amx`, `vnni`, `madd` or `fma`, else
 * `NORMFLOW_INT8`, says what multiplies weights in integers, see nf_device_get_int8_form(); without it the
 * fastest. What it is decides bits of results, so decode as you encoded. A suffix `,launch=lists` or `each`,
 * else `NORMFLOW_LAUNCH`, says whether many launches of kernels become one, see nf_device_get_launch(). A
 * suffix with `?=` for `=`, such as `,precision?=bf16`, holds where neither another one nor the environment
 * says otherwise; `,bf16?=`, `,f32?=` and `,int8?=` only where the device can, the first of each that comes.
 * @error: return location
 *
 * Any thread.
 *
 * Returns: (transfer full): the device, or NULL with %NF_ERROR_NO_DEVICE (nothing fits: the message lists
 * what there is and what to install; or `bf16`, `f32`, `int8` or `launch` asks for what the device cannot do:
 * why not), %NF_ERROR_ARGUMENT (malformed @spec, or environment), or what the driver says that does not open
 * it, mostly %NF_ERROR_DEVICE or %NF_ERROR_NO_MEMORY.
 */
NfDevice *nf_device_open (const char *spec, GError **error);

/** nf_device_check: Returns: FALSE with %NF_ERROR_ARGUMENT if @spec (nullable) is malformed, whatever devices
 * there are. */
gboolean nf_device_check (const char *spec, GError **error);

/** nf_device_get_info: Returns: (transfer none): what is known of the device; good as long as that is. */
const NfDeviceInfo *nf_device_get_info (NfDevice *self);

/** nf_device_get_kernels: Returns: the kernel variant in use, "cpu" or "gpu". */
const char *nf_device_get_kernels (NfDevice *self);

/** nf_device_precisions: Returns: (transfer none): what nf_device_get_precision() may be, with NULL at the
 * end. */
const char *const *nf_device_precisions (void);

/** nf_device_get_precision: Returns: of matrix products, "f32", "bf16", "bf16-weights" or "int8-weights".
 */
const char *nf_device_get_precision (NfDevice *self);

/**
 * nf_device_get_bf16_form:
 * @self: the device
 *
 * Returns: (nullable): what multiplies bfloat16, decided when the device was opened: "amx" (the matrix unit
 * of a CPU, through PoCL; in bf16-weights a float is the sum of two bfloat16), where that does not work "dot"
 * (AVX512_BF16's `vdpbf16ps`, in bf16 only), "mma" (an NVIDIA GPU's tensor cores), else "fma" (as floats).
 * NULL if products are not in bf16 or bf16-weights.
 */
const char *nf_device_get_bf16_form (NfDevice *self);

/**
 * nf_device_get_f32_form:
 * @self: the device
 *
 * Returns: (nullable): what multiplies floats, decided when the device was opened: "amx" (the matrix unit of
 * a CPU, through PoCL: each float as the sum of three bfloat16, the errors are those of float32), "mma" (an
 * NVIDIA GPU's tensor cores: each float as the sum of two of 19 bits, errors of 2^-21 of a factor), else
 * "fma". NULL if products are not in f32.
 */
const char *nf_device_get_f32_form (NfDevice *self);

/**
 * nf_device_get_int8_form:
 * @self: the device
 *
 * Returns: (nullable): what multiplies weights in integers of 8 bits, decided when the device was opened:
 * "amx", "vnni" or "madd" (AMX for bytes, `vpdpwssd` of AVX512_VNNI, `vpmaddwd` of AVX2 or AVX-512, through
 * PoCL, with the same results: rows that weights multiply become integers of 16 bits, times a scale for each
 * row, and sums of 512 products are exact), else "fma" (as floats, which are not rounded). NULL if products
 * are not in int8-weights.
 */
const char *nf_device_get_int8_form (NfDevice *self);

/** nf_device_get_vector_width: Returns: floats in the vectors that CPU kernels are compiled for: 16, 8 or 4.
 * 16 also with GPU kernels, where it only shapes packed weights. */
guint nf_device_get_vector_width (NfDevice *self);

/** nf_device_get_form: Returns: what multiplies in the device's precision: the one of the three above that is
 * not NULL. */
const char *nf_device_get_form (NfDevice *self);

/**
 * nf_device_get_arithmetic:
 * @self: the device
 *
 * Returns: what decides how results round in the device's precision: nf_device_get_form(), and, where sums of
 * norms and of attention do not go by vectors of sixteen floats, behind "-" by what they go: "fma-8",
 * "madd-8", "fma-4", "fma-gpu" (GPU kernels, but for "mma", which only these have). See
 * nf_device_arithmetic_agrees().
 */
const char *nf_device_get_arithmetic (NfDevice *self);

/**
 * nf_device_arithmetic_agrees:
 * @precision: one of nf_device_precisions()
 * @arithmetic: see nf_device_get_arithmetic()
 * @other: likewise
 *
 * Returns: TRUE if what one encodes the other decodes to the same samples: products are the same, and either
 * sums are, too, or what is multiplied is not rounded, so that an error stays as small as it is (f32,
 * bf16-weights, and int8-weights by "fma").
 */
gboolean nf_device_arithmetic_agrees (const char *precision, const char *arithmetic, const char *other);

/**
 * nf_device_prefer:
 * @spec: (nullable): a specification, see nf_device_open()
 * @precision: one of nf_device_precisions()
 * @arithmetic: (nullable): of the device that is to be followed, see nf_device_get_arithmetic(); NULL or an
 *   unknown name: whatever there is; so, too, if what is usual agrees with it
 *
 * Returns: (transfer full): @spec with both as preferences: to decode as was encoded, to go on as was begun,
 * unless @spec or the environment says otherwise.
 */
char *nf_device_prefer (const char *spec, const char *precision, const char *arithmetic);

/**
 * nf_device_get_launch:
 * @self: the device
 *
 * Returns: how kernels are launched: "lists", many as one, where CPU kernels run by PoCL, else "each".
 * Results are the same.
 */
const char *nf_device_get_launch (NfDevice *self);

/** nf_device_get_build_seconds: Returns: seconds spent so far compiling or loading kernels on this device. */
double nf_device_get_build_seconds (NfDevice *self);

/** nf_device_get_allocated: Returns: bytes of device memory that buffers of this device hold now, those of
 * all its models, sessions, streams and trainers. Any thread. */
guint64 nf_device_get_allocated (NfDevice *self);

G_END_DECLS
