/* normflow: OpenCL devices. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-device-private.h"
#include "nf-amx.h"
#include "nf-cpu.h"
#include "nf-pages.h"
#include "nf-program-cache.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <CL/cl_ext.h>

/* More than a long name with all that can be said and preferred; messages repeat it. */
#define MAX_SPEC_LENGTH 1024
#define INSTALL_HINT "install an OpenCL driver, on Debian: apt install pocl-opencl-icd"

struct _NfDevice
{
  GObject parent_instance;

  NfCpu *cpu; /* of the machine */
  NfDeviceInfo *info;
  cl_device_id id;
  cl_context context;
  gboolean gpu_kernels;
  guint vector_width;
  NfPrecision precision;
  NfBf16Form bf16_form;   /* of products with bfloat16 */
  NfF32Form f32_form;     /* of products of floats */
  NfInt8Form int8_form;   /* of floats by integers */
  const char *arithmetic; /* nf_device_get_arithmetic() */
  gboolean lists;         /* launches may be command lists */
  NfProgramCache *programs;

  GMutex lock;
  guint64 allocated;
};

G_DEFINE_FINAL_TYPE (NfDevice, nf_device, G_TYPE_OBJECT)

/* Errors */

#define MEMORY_HINT "use smaller frames, a smaller batch or a device with more memory"

static const struct
{
  cl_int status;
  const char *name;
  const char *hint;
  NfError code;
} statuses[] = {
  { CL_DEVICE_NOT_FOUND, "CL_DEVICE_NOT_FOUND", INSTALL_HINT, NF_ERROR_DEVICE },
  { CL_DEVICE_NOT_AVAILABLE, "CL_DEVICE_NOT_AVAILABLE", "another program may be holding the device",
    NF_ERROR_DEVICE },
  { CL_COMPILER_NOT_AVAILABLE, "CL_COMPILER_NOT_AVAILABLE", "install a driver with a compiler",
    NF_ERROR_DEVICE },
  { CL_MEM_OBJECT_ALLOCATION_FAILURE, "CL_MEM_OBJECT_ALLOCATION_FAILURE", MEMORY_HINT, NF_ERROR_NO_MEMORY },
  { CL_OUT_OF_RESOURCES, "CL_OUT_OF_RESOURCES",
    "the device ran out of registers, memory or time; use smaller frames or a smaller batch",
    NF_ERROR_DEVICE },
  { CL_OUT_OF_HOST_MEMORY, "CL_OUT_OF_HOST_MEMORY", MEMORY_HINT, NF_ERROR_NO_MEMORY },
  { CL_PROFILING_INFO_NOT_AVAILABLE, "CL_PROFILING_INFO_NOT_AVAILABLE", NULL, NF_ERROR_DEVICE },
  { CL_MEM_COPY_OVERLAP, "CL_MEM_COPY_OVERLAP", NULL, NF_ERROR_DEVICE },
  { CL_IMAGE_FORMAT_MISMATCH, "CL_IMAGE_FORMAT_MISMATCH", NULL, NF_ERROR_DEVICE },
  { CL_IMAGE_FORMAT_NOT_SUPPORTED, "CL_IMAGE_FORMAT_NOT_SUPPORTED", NULL, NF_ERROR_DEVICE },
  { CL_BUILD_PROGRAM_FAILURE, "CL_BUILD_PROGRAM_FAILURE", NULL, NF_ERROR_BUILD },
  { CL_MAP_FAILURE, "CL_MAP_FAILURE", NULL, NF_ERROR_DEVICE },
  { CL_MISALIGNED_SUB_BUFFER_OFFSET, "CL_MISALIGNED_SUB_BUFFER_OFFSET", NULL, NF_ERROR_DEVICE },
  { CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
    "an earlier command failed", NF_ERROR_DEVICE },
  { CL_COMPILE_PROGRAM_FAILURE, "CL_COMPILE_PROGRAM_FAILURE", NULL, NF_ERROR_BUILD },
  { CL_LINKER_NOT_AVAILABLE, "CL_LINKER_NOT_AVAILABLE", NULL, NF_ERROR_DEVICE },
  { CL_LINK_PROGRAM_FAILURE, "CL_LINK_PROGRAM_FAILURE", NULL, NF_ERROR_BUILD },
  { CL_DEVICE_PARTITION_FAILED, "CL_DEVICE_PARTITION_FAILED", NULL, NF_ERROR_DEVICE },
  { CL_KERNEL_ARG_INFO_NOT_AVAILABLE, "CL_KERNEL_ARG_INFO_NOT_AVAILABLE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_VALUE, "CL_INVALID_VALUE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_DEVICE_TYPE, "CL_INVALID_DEVICE_TYPE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_PLATFORM, "CL_INVALID_PLATFORM", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_DEVICE, "CL_INVALID_DEVICE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_CONTEXT, "CL_INVALID_CONTEXT", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_QUEUE_PROPERTIES, "CL_INVALID_QUEUE_PROPERTIES", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_COMMAND_QUEUE, "CL_INVALID_COMMAND_QUEUE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_HOST_PTR, "CL_INVALID_HOST_PTR", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_MEM_OBJECT, "CL_INVALID_MEM_OBJECT", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_IMAGE_FORMAT_DESCRIPTOR, "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_IMAGE_SIZE, "CL_INVALID_IMAGE_SIZE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_SAMPLER, "CL_INVALID_SAMPLER", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_BINARY, "CL_INVALID_BINARY", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_BUILD_OPTIONS, "CL_INVALID_BUILD_OPTIONS", NULL, NF_ERROR_BUILD },
  { CL_INVALID_PROGRAM, "CL_INVALID_PROGRAM", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_PROGRAM_EXECUTABLE, "CL_INVALID_PROGRAM_EXECUTABLE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_KERNEL_NAME, "CL_INVALID_KERNEL_NAME", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_KERNEL_DEFINITION, "CL_INVALID_KERNEL_DEFINITION", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_KERNEL, "CL_INVALID_KERNEL", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_ARG_INDEX, "CL_INVALID_ARG_INDEX", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_ARG_VALUE, "CL_INVALID_ARG_VALUE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_ARG_SIZE, "CL_INVALID_ARG_SIZE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_KERNEL_ARGS, "CL_INVALID_KERNEL_ARGS", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_WORK_DIMENSION, "CL_INVALID_WORK_DIMENSION", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_WORK_GROUP_SIZE, "CL_INVALID_WORK_GROUP_SIZE",
    "the device takes no work-groups of this size; try the suffix ,kernels=cpu to its name",
    NF_ERROR_DEVICE },
  { CL_INVALID_WORK_ITEM_SIZE, "CL_INVALID_WORK_ITEM_SIZE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_GLOBAL_OFFSET, "CL_INVALID_GLOBAL_OFFSET", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_EVENT_WAIT_LIST, "CL_INVALID_EVENT_WAIT_LIST", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_EVENT, "CL_INVALID_EVENT", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_OPERATION, "CL_INVALID_OPERATION", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_BUFFER_SIZE, "CL_INVALID_BUFFER_SIZE", MEMORY_HINT, NF_ERROR_DEVICE },
  { CL_INVALID_GLOBAL_WORK_SIZE, "CL_INVALID_GLOBAL_WORK_SIZE", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_PROPERTY, "CL_INVALID_PROPERTY", NULL, NF_ERROR_DEVICE },
  { CL_INVALID_COMPILER_OPTIONS, "CL_INVALID_COMPILER_OPTIONS", NULL, NF_ERROR_BUILD },
  { CL_INVALID_LINKER_OPTIONS, "CL_INVALID_LINKER_OPTIONS", NULL, NF_ERROR_BUILD },
  { CL_PLATFORM_NOT_FOUND_KHR, "CL_PLATFORM_NOT_FOUND_KHR", INSTALL_HINT, NF_ERROR_NO_DEVICE },
};

gboolean
nf_cl_error (GError **error, cl_int status, const char *attempt, ...)
{
  va_list arguments;
  va_start (arguments, attempt);
  g_autofree char *what = g_strdup_vprintf (attempt, arguments);
  va_end (arguments);

  for (gsize i = 0; i < G_N_ELEMENTS (statuses); i++)
    if (statuses[i].status == status)
      {
        const char *hint = statuses[i].hint;
        g_set_error (error, NF_ERROR, (gint)statuses[i].code, "%s: %s (%d)%s%s", what, statuses[i].name,
                     status, hint ? "; " : "", hint ? hint : "");
        return FALSE;
      }
  g_set_error (error, NF_ERROR, NF_ERROR_DEVICE, "%s: OpenCL status %d", what, status);
  return FALSE;
}

/* Listing */

typedef struct
{
  NfDeviceInfo *info;
  cl_platform_id platform;
  cl_device_id id;
} Candidate;

static void
candidate_free (gpointer data)
{
  Candidate *candidate = data;

  g_clear_pointer (&candidate->info, nf_device_info_free);
  g_free (candidate);
}

void
nf_device_info_free (NfDeviceInfo *info)
{
  if (!info)
    return;
  g_free (info->id);
  g_free (info->name);
  g_free (info->platform);
  g_free (info->driver);
  g_free (info->reason);
  g_free (info);
}

/* Drivers pad their strings and need not keep to UTF-8. */
static char *
clean_string (const char *text)
{
  return g_strstrip (g_utf8_make_valid (text, -1));
}

static char *
get_device_string (cl_device_id id, cl_device_info what)
{
  size_t size = 0;
  if (clGetDeviceInfo (id, what, 0, NULL, &size) != CL_SUCCESS || size == 0)
    return g_strdup ("");

  g_autofree char *text = g_malloc0 (size + 1);
  if (clGetDeviceInfo (id, what, size, text, NULL) != CL_SUCCESS)
    return g_strdup ("");
  return clean_string (text);
}

static char *
get_platform_string (cl_platform_id platform, cl_platform_info what)
{
  size_t size = 0;
  if (clGetPlatformInfo (platform, what, 0, NULL, &size) != CL_SUCCESS || size == 0)
    return g_strdup ("");

  g_autofree char *text = g_malloc0 (size + 1);
  if (clGetPlatformInfo (platform, what, size, text, NULL) != CL_SUCCESS)
    return g_strdup ("");
  return clean_string (text);
}

static guint
get_device_uint (cl_device_id id, cl_device_info what)
{
  cl_uint value = 0;
  return clGetDeviceInfo (id, what, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

static guint64
get_device_ulong (cl_device_id id, cl_device_info what)
{
  cl_ulong value = 0;
  return clGetDeviceInfo (id, what, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

static gboolean
get_device_bool (cl_device_id id, cl_device_info what)
{
  cl_bool value = CL_FALSE;
  return clGetDeviceInfo (id, what, sizeof value, &value, NULL) == CL_SUCCESS && value;
}

/* TRUE if the space-separated list LIST contains WORD. */
static gboolean
has_word (const char *list, const char *word)
{
  g_auto (GStrv) words = g_strsplit_set (list, " \t", -1);
  return g_strv_contains ((const char *const *)words, word);
}

#define MMA_CAPABILITY 8 /* NVIDIA's mma.sync with bfloat16 and with tf32 (PTX ISA 7.0) */

static gboolean
has_bf16 (const NfCpu *cpu, cl_device_id id, gboolean is_gpu, const char *extensions)
{
  if (!is_gpu)
    return nf_cpu_has (cpu, "avx512_bf16");
  return has_word (extensions, "cl_nv_device_attribute_query")
         && get_device_uint (id, CL_DEVICE_COMPUTE_CAPABILITY_MAJOR_NV) >= MMA_CAPABILITY;
}

/* NULL if everything we need is there. */
static char *
find_reason (cl_device_id id)
{
  if (!get_device_bool (id, CL_DEVICE_AVAILABLE))
    return g_strdup ("the driver says the device is not available");
  if (!get_device_bool (id, CL_DEVICE_COMPILER_AVAILABLE))
    return g_strdup ("the driver has no compiler");
  if (!get_device_bool (id, CL_DEVICE_ENDIAN_LITTLE))
    return g_strdup ("the device is not little endian");

  g_autofree char *version = get_device_string (id, CL_DEVICE_OPENCL_C_VERSION);
  guint major, minor;
  if (sscanf (version, "OpenCL C %u.%u", &major, &minor) != 2)
    return g_strdup_printf ("the driver does not state its OpenCL C version (\"%s\")", version);
  if (major < 1 || (major == 1 && minor < 2))
    return g_strdup_printf ("OpenCL C 1.2 is needed, the driver has %u.%u", major, minor);
  return NULL;
}

static Candidate *
describe_device (const NfCpu *cpu, cl_platform_id platform, guint platform_index, cl_device_id id,
                 guint device_index)
{
  cl_device_type type = 0;
  if (clGetDeviceInfo (id, CL_DEVICE_TYPE, sizeof type, &type, NULL) != CL_SUCCESS
      || !(type & (CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU)))
    return NULL;

  g_autofree char *extensions = get_device_string (id, CL_DEVICE_EXTENSIONS);
  g_autofree char *platform_version = get_platform_string (platform, CL_PLATFORM_VERSION);
  g_autofree char *driver_version = get_device_string (id, CL_DRIVER_VERSION);
  NfDeviceInfo *info = g_new0 (NfDeviceInfo, 1);
  info->id = g_strdup_printf ("%u:%u", platform_index, device_index);
  info->name = get_device_string (id, CL_DEVICE_NAME);
  info->platform = get_platform_string (platform, CL_PLATFORM_NAME);
  info->driver = g_strdup_printf ("%s, driver %s", platform_version, driver_version);
  info->is_gpu = (type & CL_DEVICE_TYPE_GPU) != 0;
  info->reason = find_reason (id);
  info->usable = info->reason == NULL;
  info->compute_units = get_device_uint (id, CL_DEVICE_MAX_COMPUTE_UNITS);
  info->clock_mhz = get_device_uint (id, CL_DEVICE_MAX_CLOCK_FREQUENCY);
  info->global_memory = get_device_ulong (id, CL_DEVICE_GLOBAL_MEM_SIZE);
  info->local_memory = get_device_ulong (id, CL_DEVICE_LOCAL_MEM_SIZE);
  info->max_alloc = get_device_ulong (id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  info->cache = get_device_ulong (id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE);
  info->vector_width = get_device_uint (id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT);
  info->fp16 = has_word (extensions, "cl_khr_fp16");
  info->fp64 = has_word (extensions, "cl_khr_fp64");
  info->bf16 = has_bf16 (cpu, id, info->is_gpu, extensions);

  Candidate *candidate = g_new0 (Candidate, 1);
  candidate->info = info;
  candidate->platform = platform;
  candidate->id = id;
  return candidate;
}

/* Drivers make their devices when they are asked for the first time, and not all see to it that a thread that
 * asks meanwhile waits until they are there (PoCL 3.1). */
static GMutex asking;

/* Every CPU and GPU as a Candidate. The indices count all devices, so that they agree with what clinfo shows.
 */
static GPtrArray *
enumerate (const NfCpu *cpu, GError **error)
{
  g_autoptr (GMutexLocker) lock = g_mutex_locker_new (&asking);
  g_autoptr (GPtrArray) candidates = g_ptr_array_new_with_free_func (candidate_free);
  cl_uint n_platforms = 0;
  cl_int status = clGetPlatformIDs (0, NULL, &n_platforms);
  if (status == CL_PLATFORM_NOT_FOUND_KHR || (status == CL_SUCCESS && n_platforms == 0))
    return g_steal_pointer (&candidates);

  g_autofree cl_platform_id *platforms = g_new0 (cl_platform_id, MAX (n_platforms, 1));
  if (status == CL_SUCCESS)
    status = clGetPlatformIDs (n_platforms, platforms, NULL);
  if (status != CL_SUCCESS)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                   "the OpenCL loader fails with status %d; check the drivers listed in /etc/OpenCL/vendors",
                   status);
      return NULL;
    }

  for (cl_uint p = 0; p < n_platforms; p++)
    {
      cl_uint n_devices = 0;
      status = clGetDeviceIDs (platforms[p], CL_DEVICE_TYPE_ALL, 0, NULL, &n_devices);
      if (status != CL_SUCCESS || n_devices == 0)
        {
          g_debug ("OpenCL platform %u has no devices (status %d)", p, status);
          continue;
        }

      g_autofree cl_device_id *ids = g_new0 (cl_device_id, n_devices);
      status = clGetDeviceIDs (platforms[p], CL_DEVICE_TYPE_ALL, n_devices, ids, NULL);
      if (status != CL_SUCCESS)
        {
          g_debug ("OpenCL platform %u does not list its devices (status %d)", p, status);
          continue;
        }
      for (cl_uint d = 0; d < n_devices; d++)
        {
          Candidate *candidate = describe_device (cpu, platforms[p], p, ids[d], d);
          if (candidate)
            g_ptr_array_add (candidates, candidate);
        }
    }
  return g_steal_pointer (&candidates);
}

GPtrArray *
nf_device_list (GError **error)
{
  g_autoptr (NfCpu) cpu = nf_cpu_read ();
  g_autoptr (GPtrArray) candidates = enumerate (cpu, error);
  if (!candidates)
    return NULL;

  GPtrArray *list = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_device_info_free);
  for (guint i = 0; i < candidates->len; i++)
    {
      Candidate *candidate = candidates->pdata[i];
      g_ptr_array_add (list, g_steal_pointer (&candidate->info));
    }
  return list;
}

/* Choosing */

typedef enum
{
  KERNELS_BY_DEVICE,
  KERNELS_CPU,
  KERNELS_GPU,
} Kernels;

/* How kernels are compiled, as far as it was said. */
typedef struct
{
  Kernels kernels;
  guint vectors;                 /* 0: the device decides */
  const char *precision;         /* NULL: not said */
  const char *bf16, *f32, *int8; /* likewise */
  const char *launch;            /* likewise */
} Form;

static gboolean
parse_kernels (const char *value, const char *where, Kernels *kernels, GError **error)
{
  if (g_ascii_strcasecmp (value, "cpu") == 0)
    *kernels = KERNELS_CPU;
  else if (g_ascii_strcasecmp (value, "gpu") == 0)
    *kernels = KERNELS_GPU;
  else
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: kernel variant \"%s\" is neither cpu nor gpu",
                   where, value);
      return FALSE;
    }
  return TRUE;
}

static gboolean
parse_vectors (const char *value, const char *where, guint *vectors, GError **error)
{
  static const char *const widths[] = { "4", "8", "16", NULL };
  if (!g_strv_contains (widths, value))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: vectors of \"%s\" floats: only 4, 8 and 16 exist",
                   where, value);
      return FALSE;
    }
  *vectors = (guint)g_ascii_strtoull (value, NULL, 10);
  return TRUE;
}

static const char *const precision_names[]
    = { [NF_PRECISION_F32] = "f32",
        [NF_PRECISION_BF16] = "bf16",
        [NF_PRECISION_BF16_WEIGHTS] = "bf16-weights",
        [NF_PRECISION_INT8_WEIGHTS] = "int8-weights",
        NULL },
    *const bf16_names[]
    = { [NF_BF16_FMA] = "fma", [NF_BF16_DOT] = "dot", [NF_BF16_AMX] = "amx", [NF_BF16_MMA] = "mma", NULL },
        *const f32_names[]
        = { [NF_F32_FMA] = "fma", [NF_F32_AMX] = "amx", [NF_F32_MMA] = "mma", "auto", NULL },
            *const int8_names[] = { [NF_INT8_FMA] = "fma",
                                    [NF_INT8_MADD] = "madd",
                                    [NF_INT8_VNNI] = "vnni",
                                    [NF_INT8_AMX] = "amx",
                                    NULL },
                   *const launch_names[] = { "lists", "each", NULL };

/* VALUE among NAMES; ERROR begins with what it would be. */
static gboolean
parse_name (const char *value, const char *const *names, const char *where, const char *what,
            const char **name, GError **error)
{
  for (; *names; names++)
    if (strcmp (value, *names) == 0)
      {
        *name = *names;
        return TRUE;
      }
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, what, where, value);
  return FALSE;
}

static gboolean
parse_precision (const char *value, const char *where, const char **precision, GError **error)
{
  if (strcmp (value, "auto") == 0)
    {
      *precision = "auto";
      return TRUE;
    }
  return parse_name (value, precision_names, where,
                     "%s: precision \"%s\" is not one of: f32, bf16, bf16-weights, int8-weights, auto",
                     precision, error);
}

static gboolean
parse_bf16 (const char *value, const char *where, const char **bf16, GError **error)
{
  return parse_name (value, bf16_names, where,
                     "%s: products of bfloat16 by \"%s\": only by amx, dot, mma and fma", bf16, error);
}

static gboolean
parse_f32 (const char *value, const char *where, const char **f32, GError **error)
{
  return parse_name (value, f32_names, where,
                     "%s: products of floats by \"%s\": only by amx, mma, fma and auto", f32, error);
}

static gboolean
parse_int8 (const char *value, const char *where, const char **int8, GError **error)
{
  return parse_name (value, int8_names, where,
                     "%s: products of integers by \"%s\": only by amx, vnni, madd and fma", int8, error);
}

static gboolean
parse_launch (const char *value, const char *where, const char **launch, GError **error)
{
  return parse_name (value, launch_names, where, "%s: launches of \"%s\": only lists and each exist", launch,
                     error);
}

/* What FORM leaves open is as in OTHER. */
static void
fill_form (Form *form, const Form *other)
{
  if (form->kernels == KERNELS_BY_DEVICE)
    form->kernels = other->kernels;
  if (form->vectors == 0)
    form->vectors = other->vectors;
  if (!form->precision)
    form->precision = other->precision;
  if (!form->bf16)
    form->bf16 = other->bf16;
  if (!form->f32)
    form->f32 = other->f32;
  if (!form->int8)
    form->int8 = other->int8;
  if (!form->launch)
    form->launch = other->launch;
}

/* One KEY=VALUE after the device's name; each at most once. */
static gboolean
parse_form (const char *part, const char *spec, const char *where, Form *form, GError **error)
{
  if (g_str_has_prefix (part, "kernels=") && form->kernels == KERNELS_BY_DEVICE)
    return parse_kernels (part + strlen ("kernels="), where, &form->kernels, error);
  if (g_str_has_prefix (part, "vectors=") && form->vectors == 0)
    return parse_vectors (part + strlen ("vectors="), where, &form->vectors, error);
  if (g_str_has_prefix (part, "precision=") && !form->precision)
    return parse_precision (part + strlen ("precision="), where, &form->precision, error);
  if (g_str_has_prefix (part, "bf16=") && !form->bf16)
    return parse_bf16 (part + strlen ("bf16="), where, &form->bf16, error);
  if (g_str_has_prefix (part, "f32=") && !form->f32)
    return parse_f32 (part + strlen ("f32="), where, &form->f32, error);
  if (g_str_has_prefix (part, "int8=") && !form->int8)
    return parse_int8 (part + strlen ("int8="), where, &form->int8, error);
  if (g_str_has_prefix (part, "launch=") && !form->launch)
    return parse_launch (part + strlen ("launch="), where, &form->launch, error);
  g_set_error (
      error, NF_ERROR, NF_ERROR_ARGUMENT,
      "%s: \"%s\" in \"%s\" is not understood; after a device come only ,kernels=cpu or ,kernels=gpu, "
      ",vectors=4, 8 or 16, ,precision=f32, bf16, bf16-weights, int8-weights or auto, ,bf16=amx, dot, mma or "
      "fma, "
      ",f32=amx, mma, fma or auto, ,int8=amx, vnni, madd or fma, and ,launch=lists or each, each once; ?= "
      "for = "
      "is "
      "where nothing else is "
      "said",
      where, part, spec);
  return FALSE;
}

/* TRUE if NAME is made of digits and colons only: meant as PLATFORM:DEVICE. */
static gboolean
is_index_like (const char *name)
{
  return strchr (name, ':') && strspn (name, "0123456789:") == strlen (name);
}

static gboolean
is_index (const char *name)
{
  gsize before = strspn (name, "0123456789");
  gsize after = name[before] == ':' ? strspn (name + before + 1, "0123456789") : 0;
  return before > 0 && after > 0 && name[before + 1 + after] == '\0';
}

/* Splits SPEC into NAME ("" if it has none), FORM, and USUAL, what is to be where nothing else is said. WHERE
 * names its source in messages. */
static gboolean
parse_spec (const char *spec, const char *where, char **name, Form *form, Form *usual, GError **error)
{
  if (strlen (spec) > MAX_SPEC_LENGTH || !g_utf8_validate (spec, -1, NULL))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: a device specification is at most %d bytes of UTF-8", where, MAX_SPEC_LENGTH);
      return FALSE;
    }

  g_auto (GStrv) parts = g_strsplit (spec, ",", -1);
  *form = *usual = (Form){ 0 };
  for (guint i = 1; parts[0] && parts[i]; i++)
    {
      char *part = g_strstrip (parts[i]), *mark = strstr (part, "?=");
      Form one = { 0 };
      if (mark)
        memmove (mark, mark + 1, strlen (mark));
      if (!parse_form (part, spec, where, mark ? &one : form, error))
        return FALSE;
      fill_form (usual, &one);
    }

  g_autofree char *device = g_strstrip (g_strdup (parts[0] ? parts[0] : ""));
  if (strchr (device, '=') || (is_index_like (device) && !is_index (device)))
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "%s: \"%s\" is not a device; give auto, cpu, gpu, PLATFORM:DEVICE (two numbers) or part of a "
          "name",
          where, device);
      return FALSE;
    }
  *name = g_steal_pointer (&device);
  return TRUE;
}

gboolean
nf_device_check (const char *spec, GError **error)
{
  g_autofree char *name = NULL;
  Form form, usual;
  return !spec || parse_spec (spec, "device", &name, &form, &usual, error);
}

/* What to open: the caller's word, where it says nothing the environment's, else "auto". What is only
 * preferred of products goes to PREFERRED. */
static gboolean
resolve_spec (const char *spec, char **name, Form *form, Form *preferred, GError **error)
{
  g_autofree char *device = NULL;
  Form usual;
  if (!parse_spec (spec ? spec : "", "device", &device, form, &usual, error))
    return FALSE;

  const char *environment = g_getenv ("NORMFLOW_DEVICE");
  if (*device == '\0' && environment)
    {
      Form theirs, their_usual;
      g_clear_pointer (&device, g_free);
      if (!parse_spec (environment, "NORMFLOW_DEVICE", &device, &theirs, &their_usual, error))
        return FALSE;
      fill_form (form, &theirs);
      fill_form (&their_usual, &usual);
      usual = their_usual;
    }

  environment = g_getenv ("NORMFLOW_KERNELS");
  if (form->kernels == KERNELS_BY_DEVICE && environment && *environment
      && !parse_kernels (environment, "NORMFLOW_KERNELS", &form->kernels, error))
    return FALSE;
  environment = g_getenv ("NORMFLOW_PRECISION");
  if (!form->precision && environment && *environment
      && !parse_precision (environment, "NORMFLOW_PRECISION", &form->precision, error))
    return FALSE;
  environment = g_getenv ("NORMFLOW_BF16");
  if (!form->bf16 && environment && *environment
      && !parse_bf16 (environment, "NORMFLOW_BF16", &form->bf16, error))
    return FALSE;
  environment = g_getenv ("NORMFLOW_F32");
  if (!form->f32 && environment && *environment
      && !parse_f32 (environment, "NORMFLOW_F32", &form->f32, error))
    return FALSE;
  environment = g_getenv ("NORMFLOW_INT8");
  if (!form->int8 && environment && *environment
      && !parse_int8 (environment, "NORMFLOW_INT8", &form->int8, error))
    return FALSE;
  environment = g_getenv ("NORMFLOW_LAUNCH");
  if (!form->launch && environment && *environment
      && !parse_launch (environment, "NORMFLOW_LAUNCH", &form->launch, error))
    return FALSE;
  *preferred = (Form){ .bf16 = usual.bf16, .f32 = usual.f32, .int8 = usual.int8 };
  usual.bf16 = usual.f32 = usual.int8 = NULL;
  fill_form (form, &usual);

  *name = *device ? g_steal_pointer (&device) : g_strdup ("auto");
  return TRUE;
}

static gboolean
matches (const NfDeviceInfo *info, const char *name)
{
  if (g_ascii_strcasecmp (name, "auto") == 0)
    return TRUE;
  if (g_ascii_strcasecmp (name, "cpu") == 0)
    return !info->is_gpu;
  if (g_ascii_strcasecmp (name, "gpu") == 0)
    return info->is_gpu;
  if (is_index (name))
    return strcmp (info->id, name) == 0;

  g_autofree char *folded_info = g_utf8_casefold (info->name, -1);
  g_autofree char *folded_name = g_utf8_casefold (name, -1);
  return strstr (folded_info, folded_name) != NULL;
}

static char *
describe_all (GPtrArray *candidates)
{
  g_autoptr (GString) text = g_string_new (NULL);
  for (guint i = 0; i < candidates->len; i++)
    {
      const NfDeviceInfo *info = ((Candidate *)candidates->pdata[i])->info;
      g_string_append_printf (text, "%s%s %s (%s)", i ? ", " : "", info->id, info->name,
                              info->is_gpu ? "GPU" : "CPU");
      if (!info->usable)
        g_string_append_printf (text, " not usable: %s", info->reason);
    }
  return g_string_free (g_steal_pointer (&text), FALSE);
}

/* Where PoCL keeps what it compiles, if nobody may write there: it then has no devices. */
static const char *
find_closed_cache (void)
{
  const char *folder = nf_pocl_cache_folder ();
  return g_mkdir_with_parents (folder, 0700) == 0 && g_access (folder, W_OK) == 0 ? NULL : folder;
}

/* The first usable match, GPUs before CPUs if NAME leaves that open. */
#define VENDORS "/etc/OpenCL/vendors"

/* There is no device. */
static void
explain_none (GError **error)
{
  static const char *const variables[] = { "OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "POCL_DEVICES" };
  g_autoptr (GDir) vendors = g_dir_open (VENDORS, 0, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (variables); i++)
    {
      const char *value = g_getenv (variables[i]);
      if (value && *value)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                       "there is no OpenCL device with %s=%s: unset that, or " INSTALL_HINT, variables[i],
                       value);
          return;
        }
    }
  if (vendors && g_dir_read_name (vendors))
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                 "there is no OpenCL device, though " VENDORS " lists drivers: they find none, or cannot be "
                 "loaded, as where memory is limited (ulimit -v). Or " INSTALL_HINT);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE, "there is no OpenCL device: " INSTALL_HINT);
}

static Candidate *
choose (GPtrArray *candidates, const char *name, GError **error)
{
  if (candidates->len == 0)
    {
      const char *closed = find_closed_cache ();
      if (closed)
        g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                     "there is no OpenCL device; PoCL has none where it cannot write what it compiles, and "
                     "%s cannot be written: set POCL_CACHE_DIR to a folder that can. Or " INSTALL_HINT,
                     closed);
      else
        explain_none (error);
      return NULL;
    }

  Candidate *best = NULL;
  const NfDeviceInfo *refused = NULL;
  for (guint i = 0; i < candidates->len; i++)
    {
      Candidate *candidate = candidates->pdata[i];
      if (!matches (candidate->info, name))
        continue;
      if (!candidate->info->usable)
        refused = candidate->info;
      else if (!best || (candidate->info->is_gpu && !best->info->is_gpu))
        best = candidate;
    }
  if (best)
    return best;

  g_autofree char *all = describe_all (candidates);
  if (refused)
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE, "device \"%s\" is not usable: %s; there is: %s", name,
                 refused->reason, all);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                 "no OpenCL device fits \"%s\"; there is: %s; choose one of these or install a driver", name,
                 all);
  return NULL;
}

/* The device */

static void
nf_device_init (NfDevice *self)
{
  g_mutex_init (&self->lock);
}

static void
nf_device_finalize (GObject *object)
{
  NfDevice *self = NF_DEVICE (object);

  g_clear_pointer (&self->programs, nf_program_cache_free);
  if (self->context)
    clReleaseContext (self->context);
  g_clear_pointer (&self->info, nf_device_info_free);
  g_clear_pointer (&self->cpu, nf_cpu_free);
  g_mutex_clear (&self->lock);
  G_OBJECT_CLASS (nf_device_parent_class)->finalize (object);
}

static void
nf_device_class_init (NfDeviceClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_device_finalize;
}

/* Everything about device and driver that a compiled program may depend on. */
static char *
get_identity (const NfCpu *cpu, const Candidate *candidate)
{
  g_autofree char *platform_vendor = get_platform_string (candidate->platform, CL_PLATFORM_VENDOR);
  g_autofree char *vendor = get_device_string (candidate->id, CL_DEVICE_VENDOR);
  g_autofree char *version = get_device_string (candidate->id, CL_DEVICE_VERSION);
  /* PoCL compiles for the very processor it runs on, whose name says too little. */
  g_autofree char *flags = candidate->info->is_gpu ? g_strdup ("") : g_strjoinv (" ", cpu->flags);
  return g_strjoin ("\n", candidate->info->platform, platform_vendor, candidate->info->driver,
                    candidate->info->name, vendor, version, flags, NULL);
}

static gboolean
is_amd (NfDevice *self)
{
  return strcmp (self->cpu->maker, "AuthenticAMD") == 0;
}

/* The compiled kernels of SELF; AMX if products are made by it, whatever the forms say. */
static NfProgramCache *
new_programs (NfDevice *self, const char *identity, gboolean amx)
{
  static const char *const kinds[]
      = { [NF_PRECISION_F32] = "",
          [NF_PRECISION_BF16] = " -DNF_BF16=1",
          [NF_PRECISION_BF16_WEIGHTS] = " -DNF_BF16=1 -DNF_BF16_WEIGHTS=1",
          [NF_PRECISION_INT8_WEIGHTS] = " -DNF_INT8_WEIGHTS=1" },
      *const units[] = { [NF_PRECISION_F32] = " -DNF_F32_AMX=1",
                         [NF_PRECISION_BF16] = " -DNF_BF16_AMX=1",
                         [NF_PRECISION_BF16_WEIGHTS] = " -DNF_WEIGHTS_AMX=1",
                         [NF_PRECISION_INT8_WEIGHTS] = " -DNF_INT8_MADD=1 -DNF_INT8_AMX=1" },
             *const int8_forms[] = { [NF_INT8_FMA] = "",
                                     [NF_INT8_MADD] = " -DNF_INT8_MADD=1",
                                     [NF_INT8_VNNI] = " -DNF_INT8_MADD=1 -DNF_INT8_VNNI=1" },
             *const forms[]
             = { [NF_BF16_FMA] = "", [NF_BF16_DOT] = " -DNF_BF16_DOT=1", [NF_BF16_MMA] = " -DNF_BF16_MMA=1" };
  const char *form = amx                              ? units[self->precision]
                     : nf_device_uses_bf16 (self)     ? forms[self->bf16_form]
                     : self->int8_form != NF_INT8_FMA ? int8_forms[self->int8_form]
                     : self->f32_form == NF_F32_MMA   ? " -DNF_F32_MMA=1"
                                                      : "";
  g_autofree char *all
      = g_strdup_printf ("-DVW=%u -DNF_GPU_KERNELS=%d -DNF_FETCH_FEW=%d%s%s", self->vector_width,
                         self->gpu_kernels ? 1 : 0, is_amd (self) ? 0 : 1, kinds[self->precision], form);
  return nf_program_cache_new (self->context, self->id, identity, all);
}

/* NULL if products by AMX work, as SELF is opened, and its programs then are those for it. Else why they do
 * not. */
static char *
try_amx (NfDevice *self, const char *identity)
{
  const NfDeviceInfo *info = self->info;

  if (self->gpu_kernels || info->is_gpu)
    return g_strdup ("kernels are those for a GPU");
  if (self->vector_width != 16)
    return g_strdup_printf ("kernels are compiled for vectors of %u floats, not 16", self->vector_width);
  self->programs = new_programs (self, identity, TRUE);
  char *fault = nf_amx_find_fault (info, self->cpu, self->precision == NF_PRECISION_INT8_WEIGHTS,
                                   self->programs, self->context, self->id);
  if (!fault)
    return NULL;
  g_clear_pointer (&self->programs, nf_program_cache_free);
  g_debug ("device %s: no products by AMX: %s", info->id, fault);
  return fault;
}

/* The same tensor cores multiply bfloat16 and tf32. */
static gboolean
has_mma (const NfDeviceInfo *info)
{
  return info->is_gpu && info->bf16;
}

/* Why there are none. */
static char *
explain_mma (void)
{
  return g_strdup_printf ("it takes the GPU kernels on an NVIDIA GPU of compute capability %d.0 or more",
                          MMA_CAPABILITY);
}

/* Decides what multiplies floats: fma(), unless WANTED says amx or mma, or auto where either can be. AMX does
 * more rows in less time, but a single row, as in decoding token by token, takes it longer. */
static gboolean
choose_f32 (NfDevice *self, const char *wanted, const char *identity, GError **error)
{
  const gboolean automatic = g_strcmp0 (wanted, "auto") == 0;
  g_autofree char *fault = NULL;

  if (!wanted || strcmp (wanted, f32_names[NF_F32_FMA]) == 0)
    return TRUE;
  if (automatic ? self->gpu_kernels : strcmp (wanted, f32_names[NF_F32_MMA]) == 0)
    {
      if (self->gpu_kernels && has_mma (self->info))
        self->f32_form = NF_F32_MMA;
      else
        fault = explain_mma ();
    }
  else if (!(fault = try_amx (self, identity)))
    self->f32_form = NF_F32_AMX;
  if (!fault || automatic)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
               "%s %s does no products of floats by %s: %s; leave f32= out, or unset NORMFLOW_F32",
               self->info->id, self->info->name, wanted, fault);
  return FALSE;
}

/* Decides what multiplies bfloat16: what WANTED names, or, if that is NULL, the fastest. A CPU's instructions
 * are for vectors of sixteen floats and for CPU kernels only, the tensor cores for GPU kernels. Floats by
 * bfloat16 take vdpbf16ps as long as multiply-adds. */
static gboolean
choose_bf16 (NfDevice *self, const char *wanted, const char *identity, GError **error)
{
  const gboolean dot = self->precision == NF_PRECISION_BF16;
  const NfDeviceInfo *info = self->info;
  g_autofree char *fault = NULL;

  self->bf16_form = NF_BF16_FMA;
  if (g_strcmp0 (wanted, "fma") == 0)
    return TRUE;
  if (self->gpu_kernels && (!wanted || strcmp (wanted, "mma") == 0) && has_mma (info))
    {
      self->bf16_form = NF_BF16_MMA;
      return TRUE;
    }
  if (g_strcmp0 (wanted, "mma") == 0)
    fault = explain_mma ();
  else if ((self->gpu_kernels || info->is_gpu) && !wanted)
    return TRUE;
  else if (self->gpu_kernels || info->is_gpu)
    fault = g_strdup ("kernels are those for a GPU");
  else if (self->vector_width != 16)
    fault = g_strdup_printf ("kernels are compiled for vectors of %u floats, not 16", self->vector_width);
  else if (g_strcmp0 (wanted, "dot") == 0)
    fault = !dot         ? g_strdup_printf ("with precision=%s only one operand is bfloat16; fma is as fast",
                                            precision_names[self->precision])
            : info->bf16 ? NULL
                         : g_strdup ("the CPU has no AVX512_BF16");
  else if (!(fault = try_amx (self, identity)))
    {
      self->bf16_form = NF_BF16_AMX;
      return TRUE;
    }
  if (wanted && fault)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                   "%s %s does no products of bfloat16 by %s: %s; leave bf16= out, or unset NORMFLOW_BF16",
                   info->id, info->name, wanted, fault);
      return FALSE;
    }
  if (wanted || (dot && self->vector_width == 16 && info->bf16))
    self->bf16_form = NF_BF16_DOT;
  return TRUE;
}

/* Decides what multiplies floats by integers of 8 bits: what WANTED names, or, if that is NULL, the fastest.
 * Instructions for it are of CPUs with vectors of eight floats or more, and PoCL takes them as they are. */
static gboolean
choose_int8 (NfDevice *self, const char *wanted, const char *identity, GError **error)
{
  const NfDeviceInfo *info = self->info;
  const char *needed = self->vector_width == 16 ? "avx512bw" : "avx2", *fault = NULL;
  const gboolean vnni = self->vector_width == 16 && nf_cpu_has (self->cpu, "avx512_vnni");
  g_autofree char *without_amx = NULL;

  if (g_strcmp0 (wanted, int8_names[NF_INT8_FMA]) == 0)
    return TRUE;
  if (!wanted || strcmp (wanted, int8_names[NF_INT8_AMX]) == 0)
    {
      without_amx = try_amx (self, identity);
      if (!without_amx)
        {
          self->int8_form = NF_INT8_AMX;
          return TRUE;
        }
    }
  if (wanted && without_amx)
    fault = without_amx;
  else if (self->gpu_kernels || info->is_gpu)
    fault = "kernels are those for a GPU";
  else if (strcmp (info->platform, NF_POCL) != 0)
    fault = "only PoCL compiles them";
  else if (self->vector_width < 8)
    fault = "kernels are compiled for vectors of 4 floats, not 8 or 16";
  else if (!nf_cpu_has (self->cpu, needed))
    fault = self->vector_width == 16 ? "the CPU has no AVX512BW" : "the CPU has no AVX2";
  else if (g_strcmp0 (wanted, int8_names[NF_INT8_VNNI]) == 0 && !vnni)
    fault = "the CPU has no AVX512_VNNI, or kernels are compiled for other vectors than of 16 floats";
  if (!fault)
    self->int8_form = vnni && g_strcmp0 (wanted, int8_names[NF_INT8_MADD]) != 0 ? NF_INT8_VNNI : NF_INT8_MADD;
  if (!fault || !wanted)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
               "%s %s does no products of integers by %s: %s; leave int8= out, or unset NORMFLOW_INT8",
               info->id, info->name, wanted, fault);
  return FALSE;
}

typedef gboolean (*ChooseFunc) (NfDevice *self, const char *wanted, const char *identity, GError **error);

/* As ASKED, else as PREFERRED if that can be, else as it is without a word. */
static gboolean
choose_product (NfDevice *self, ChooseFunc choose_one, const char *asked, const char *preferred,
                const char *identity, GError **error)
{
  return (!asked && preferred && choose_one (self, preferred, identity, NULL))
         || choose_one (self, asked, identity, error);
}

/* Decides whether launches come as lists: where they can, unless WANTED says each. */
static gboolean
choose_launch (NfDevice *self, const char *wanted, GError **error)
{
  const NfDeviceInfo *info = self->info;
  if (g_strcmp0 (wanted, "each") == 0)
    return TRUE;
  g_autofree char *extensions = get_device_string (self->id, CL_DEVICE_EXTENSIONS);
  self->lists = !info->is_gpu && !self->gpu_kernels && strcmp (info->platform, NF_POCL) == 0
                && has_word (extensions, "cl_khr_int64_base_atomics");
  if (self->lists || !wanted)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
               "%s %s takes no launches as lists, only CPU kernels by PoCL with atomics of 64 bits do; leave "
               "launch= out, or unset NORMFLOW_LAUNCH",
               info->id, info->name);
  return FALSE;
}

/* Products of bfloat16 are faster than those of floats. By kinds of processors and not by measuring, since
 * what is decided here changes results: on AMD's cores vdpbf16ps does twice the work of a multiply-add of
 * floats in its time, on Intel's half of it. */
static gboolean
favours_bf16 (NfDevice *self)
{
  if (self->info->is_gpu)
    return self->info->bf16;
  return self->bf16_form == NF_BF16_AMX || (self->bf16_form == NF_BF16_DOT && is_amd (self));
}

#define USUAL_WIDTH 16
#define WIDTH_MARK "-" /* between what multiplies and a width */

/* Stays when the device goes. */
static const char *
describe_arithmetic (NfDevice *self)
{
  const char *form = nf_device_get_form (self);
  if (strcmp (form, "mma") == 0 || (!self->gpu_kernels && self->vector_width == USUAL_WIDTH))
    return form;
  g_autofree char *text = self->gpu_kernels
                              ? g_strconcat (form, WIDTH_MARK "gpu", NULL)
                              : g_strdup_printf ("%s" WIDTH_MARK "%u", form, self->vector_width);
  return g_intern_string (text);
}

NfDevice *
nf_device_open (const char *spec, GError **error)
{
  g_autofree char *name = NULL;
  Form form, preferred;
  if (!resolve_spec (spec, &name, &form, &preferred, error))
    return NULL;
  g_autoptr (NfCpu) cpu = nf_cpu_read ();
  g_autoptr (GPtrArray) candidates = enumerate (cpu, error);
  if (!candidates)
    return NULL;
  Candidate *candidate = choose (candidates, name, error);
  if (!candidate)
    return NULL;

  cl_int status;
  const cl_context_properties properties[]
      = { CL_CONTEXT_PLATFORM, (cl_context_properties)candidate->platform, 0 };
  g_mutex_lock (&asking);
  cl_context context = clCreateContext (properties, 1, &candidate->id, NULL, NULL, &status);
  g_mutex_unlock (&asking);
  if (status != CL_SUCCESS)
    {
      nf_cl_error (error, status, "cannot open device %s %s", candidate->info->id, candidate->info->name);
      return NULL;
    }

  g_autoptr (NfDevice) self = g_object_new (NF_TYPE_DEVICE, NULL);
  g_autofree char *identity = get_identity (cpu, candidate);
  self->cpu = g_steal_pointer (&cpu);
  self->info = g_steal_pointer (&candidate->info);
  self->id = candidate->id;
  self->context = context;
  self->gpu_kernels = form.kernels == KERNELS_BY_DEVICE ? self->info->is_gpu : form.kernels == KERNELS_GPU;
  const guint native = self->info->vector_width;
  self->vector_width = form.vectors                         ? form.vectors
                       : self->info->is_gpu || native >= 16 ? 16
                       : native >= 8                        ? 8
                                                            : 4;
  const gboolean automatic = g_strcmp0 (form.precision, "auto") == 0;
  const char *precision = automatic ? "bf16" : form.precision ? form.precision : "f32";
  while (strcmp (precision, precision_names[self->precision]) != 0)
    self->precision++;
  if (nf_device_uses_bf16 (self)
      && !choose_product (self, choose_bf16, form.bf16, preferred.bf16, identity, error))
    return NULL;
  if (automatic && !favours_bf16 (self))
    {
      g_clear_pointer (&self->programs, nf_program_cache_free);
      self->precision = NF_PRECISION_F32;
      self->bf16_form = NF_BF16_FMA;
    }
  if (self->precision == NF_PRECISION_F32
      && !choose_product (self, choose_f32, form.f32, preferred.f32, identity, error))
    return NULL;
  if (self->precision == NF_PRECISION_INT8_WEIGHTS
      && !choose_product (self, choose_int8, form.int8, preferred.int8, identity, error))
    return NULL;
  if (!self->programs)
    self->programs = new_programs (self, identity, FALSE);
  if (!choose_launch (self, form.launch, error))
    return NULL;
  self->arithmetic = describe_arithmetic (self);
  g_debug ("device %s %s, %s kernels, vectors of %u, products of %s%s%s", self->info->id, self->info->name,
           nf_device_get_kernels (self), self->vector_width, nf_device_get_precision (self), " by ",
           nf_device_uses_bf16 (self)                     ? bf16_names[self->bf16_form]
           : self->precision == NF_PRECISION_INT8_WEIGHTS ? int8_names[self->int8_form]
                                                          : f32_names[self->f32_form]);
  return g_steal_pointer (&self);
}

const NfDeviceInfo *
nf_device_get_info (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->info;
}

const char *
nf_device_get_kernels (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->gpu_kernels ? "gpu" : "cpu";
}

const char *const *
nf_device_precisions (void)
{
  return precision_names;
}

const char *
nf_device_get_precision (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return precision_names[self->precision];
}

const char *
nf_device_get_bf16_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return nf_device_uses_bf16 (self) ? bf16_names[self->bf16_form] : NULL;
}

const char *
nf_device_get_f32_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->precision == NF_PRECISION_F32 ? f32_names[self->f32_form] : NULL;
}

const char *
nf_device_get_int8_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->precision == NF_PRECISION_INT8_WEIGHTS ? int8_names[self->int8_form] : NULL;
}

const char *
nf_device_get_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  const char *bf16 = nf_device_get_bf16_form (self), *f32 = nf_device_get_f32_form (self);
  return bf16 ? bf16 : f32 ? f32 : nf_device_get_int8_form (self);
}

const char *
nf_device_get_arithmetic (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->arithmetic;
}

/* What nf_device_get_arithmetic() says, apart. */
typedef struct
{
  char *form;
  const char *width; /* behind the form; "" if it is usual */
  gboolean integers; /* multiplied by integers */
  gboolean rounds;   /* what is multiplied: sums in another order come out as other values */
} Arithmetic;

static void
arithmetic_clear (Arithmetic *self)
{
  g_free (self->form);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Arithmetic, arithmetic_clear)

static Arithmetic
parse_arithmetic (const char *precision, const char *text)
{
  const char *mark = strstr (text, WIDTH_MARK);
  Arithmetic parsed = { .form = mark ? g_strndup (text, (gsize)(mark - text)) : g_strdup (text),
                        .width = mark ? mark + strlen (WIDTH_MARK) : "" };
  parsed.integers = strcmp (precision, precision_names[NF_PRECISION_INT8_WEIGHTS]) == 0
                    && g_strv_contains (int8_names, parsed.form)
                    && strcmp (parsed.form, int8_names[NF_INT8_FMA]) != 0;
  parsed.rounds = parsed.integers || strcmp (precision, precision_names[NF_PRECISION_BF16]) == 0;
  return parsed;
}

gboolean
nf_device_arithmetic_agrees (const char *precision, const char *arithmetic, const char *other)
{
  g_return_val_if_fail (precision && arithmetic && other, FALSE);
  g_auto (Arithmetic) a = parse_arithmetic (precision, arithmetic), b = parse_arithmetic (precision, other);
  return (strcmp (a.form, b.form) == 0 || (a.integers && b.integers))
         && (!a.rounds || strcmp (a.width, b.width) == 0);
}

char *
nf_device_prefer (const char *spec, const char *precision, const char *arithmetic)
{
  g_return_val_if_fail (precision, NULL);
  const gboolean bf16 = g_str_has_prefix (precision, "bf16"), int8 = g_str_has_prefix (precision, "int8");
  const char *const *known = bf16 ? bf16_names : int8 ? int8_names : f32_names;
  const char *option = bf16 ? "bf16" : int8 ? "int8" : "f32";
  GString *text = g_string_new (spec);
  g_string_append_printf (text, ",precision?=%s", precision);
  g_auto (Arithmetic) wanted = parse_arithmetic (precision, arithmetic ? arithmetic : "");
  if (!g_strv_contains (known, wanted.form))
    return g_string_free (text, FALSE);
  if (!wanted.integers)
    g_string_append_printf (text, ",%s?=%s", option, wanted.form);
  /* any CPU computes in other widths than its own, but for instructions that take all of theirs */
  if (wanted.rounds && (strcmp (wanted.width, "8") == 0 || strcmp (wanted.width, "4") == 0))
    g_string_append_printf (text, ",vectors?=%s", wanted.width);
  else if (wanted.rounds && !*wanted.width && strcmp (wanted.form, "fma") == 0)
    g_string_append_printf (text, ",vectors?=%d", USUAL_WIDTH);
  return g_string_free (text, FALSE);
}

const char *
nf_device_get_launch (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return launch_names[!self->lists];
}

double
nf_device_get_build_seconds (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), 0);
  return nf_program_cache_get_seconds (self->programs);
}

guint64
nf_device_get_allocated (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), 0);
  g_mutex_lock (&self->lock);
  guint64 allocated = self->allocated;
  g_mutex_unlock (&self->lock);
  return allocated;
}

cl_context
nf_device_get_context (NfDevice *self)
{
  return self->context;
}

cl_device_id
nf_device_get_id (NfDevice *self)
{
  return self->id;
}

gboolean
nf_device_uses_gpu_kernels (NfDevice *self)
{
  return self->gpu_kernels;
}

guint
nf_device_values_per_word (NfDevice *self)
{
  static const guint values[] = { [NF_PRECISION_F32] = 1,
                                  [NF_PRECISION_BF16] = 2,
                                  [NF_PRECISION_BF16_WEIGHTS] = 2,
                                  [NF_PRECISION_INT8_WEIGHTS] = 4 };
  return values[self->precision];
}

gboolean
nf_device_uses_bf16 (NfDevice *self)
{
  return nf_device_values_per_word (self) == 2;
}

gboolean
nf_device_rounds_to_bf16 (NfDevice *self)
{
  return self->precision == NF_PRECISION_BF16;
}

gboolean
nf_device_has_gradients (NfDevice *self)
{
  return self->precision == NF_PRECISION_F32 || self->precision == NF_PRECISION_BF16;
}

NfInt8Form
nf_device_get_int8 (NfDevice *self)
{
  return self->int8_form;
}

gboolean
nf_device_rounds_factors (NfDevice *self)
{
  return nf_device_rounds_to_bf16 (self) || nf_device_get_int8 (self) != NF_INT8_FMA;
}

NfBf16Form
nf_device_get_bf16 (NfDevice *self)
{
  return self->bf16_form;
}

gboolean
nf_device_uses_amx (NfDevice *self)
{
  return self->bf16_form == NF_BF16_AMX || self->f32_form == NF_F32_AMX || self->int8_form == NF_INT8_AMX;
}

gboolean
nf_device_launches_lists (NfDevice *self)
{
  return self->lists;
}

char *
nf_device_describe_computing (NfDevice *self)
{
  return g_strdup_printf ("%s %s launch=%s", self->info->id, nf_program_cache_get_defines (self->programs),
                          nf_device_get_launch (self));
}

guint
nf_device_count_cores (NfDevice *self)
{
  const guint units = MAX (self->info->compute_units, 1);
  return self->info->is_gpu ? units : MIN (units, self->cpu->count);
}

guint
nf_device_get_vector_width (NfDevice *self)
{
  return self->vector_width;
}

cl_command_queue
nf_device_new_queue (NfDevice *self, GError **error)
{
  cl_int status;
  cl_command_queue queue = clCreateCommandQueue (self->context, self->id, 0, &status);
  if (status == CL_SUCCESS)
    return queue;
  nf_cl_error (error, status, "cannot create a command queue on %s", self->info->name);
  return NULL;
}

cl_program
nf_device_get_program (NfDevice *self, const char *const *files, const char *options, GError **error)
{
  return nf_program_cache_get (self->programs, files, options, error);
}

/* Buffers */

/* Counts SIZE bytes as allocated if the device can have them. */
static gboolean
reserve (NfDevice *self, gsize size, GError **error)
{
  const NfDeviceInfo *info = self->info;
  if (size == 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "a device buffer needs at least one byte");
      return FALSE;
    }
  if (size > info->max_alloc)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "%s takes no buffer of %" G_GSIZE_FORMAT " bytes, at most %" G_GUINT64_FORMAT
                   "; " MEMORY_HINT,
                   info->name, size, info->max_alloc);
      return FALSE;
    }

  g_mutex_lock (&self->lock);
  guint64 allocated = self->allocated;
  gboolean fits = allocated <= info->global_memory && size <= info->global_memory - allocated;
  if (fits)
    self->allocated += size;
  g_mutex_unlock (&self->lock);
  if (!fits)
    g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                 "%s has no room for %" G_GSIZE_FORMAT " bytes: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                 " are taken; " MEMORY_HINT,
                 info->name, size, allocated, info->global_memory);
  return fits;
}

static void
unreserve (NfDevice *self, gsize size)
{
  g_mutex_lock (&self->lock);
  self->allocated -= size;
  g_mutex_unlock (&self->lock);
}

static void CL_CALLBACK
free_pages (cl_mem mem, void *pages)
{
  (void)mem;
  nf_pages_free (pages);
}

/* A CPU computes in MEMORY of ours: in large pages, if it gets them. */
static cl_mem
new_memory (NfDevice *device, gsize size, void **memory, cl_int *status)
{
  *memory = NULL;
  if (device->info->is_gpu)
    return clCreateBuffer (device->context, CL_MEM_READ_WRITE, size, NULL, status);
  NfPages *pages = nf_pages_new (size);
  *status = CL_MEM_OBJECT_ALLOCATION_FAILURE;
  if (!pages)
    return NULL;
  *memory = nf_pages_get_memory (pages);
  cl_mem mem
      = clCreateBuffer (device->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, size, *memory, status);
  if (*status == CL_SUCCESS)
    *status = clSetMemObjectDestructorCallback (mem, free_pages, pages);
  if (*status == CL_SUCCESS)
    return mem;
  if (mem)
    clReleaseMemObject (mem);
  nf_pages_free (pages);
  return NULL;
}

NfBuffer *
nf_buffer_new (NfDevice *device, gsize size, GError **error)
{
  if (!reserve (device, size, error))
    return NULL;

  cl_int status;
  void *memory;
  cl_mem mem = new_memory (device, size, &memory, &status);
  if (status != CL_SUCCESS)
    {
      unreserve (device, size);
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "%s refuses a buffer of %" G_GSIZE_FORMAT " bytes (OpenCL status %d); " MEMORY_HINT,
                   device->info->name, size, status);
      return NULL;
    }

  NfBuffer *buffer = g_new (NfBuffer, 1);
  buffer->mem = mem;
  buffer->size = size;
  buffer->memory = memory;
  buffer->device = g_object_ref (device);
  return buffer;
}

void
nf_buffer_free (NfBuffer *buffer)
{
  clReleaseMemObject (buffer->mem);
  unreserve (buffer->device, buffer->size);
  g_object_unref (buffer->device);
  g_free (buffer);
}
