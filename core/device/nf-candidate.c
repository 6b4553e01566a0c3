/* normflow: the OpenCL devices that there are. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-candidate.h"
#include "nf-device-spec.h"
#include "nf-program-cache.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <CL/cl_ext.h>

static void
candidate_free (gpointer data)
{
  NfCandidate *candidate = data;

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

gboolean
nf_cl_has_extension (cl_device_id id, const char *name)
{
  g_autofree char *extensions = get_device_string (id, CL_DEVICE_EXTENSIONS);
  return has_word (extensions, name);
}

static gboolean
has_bf16 (const NfCpu *cpu, cl_device_id id, gboolean is_gpu, const char *extensions)
{
  if (!is_gpu)
    return nf_cpu_has (cpu, "avx512_bf16");
  return has_word (extensions, "cl_nv_device_attribute_query")
         && get_device_uint (id, CL_DEVICE_COMPUTE_CAPABILITY_MAJOR_NV) >= NF_MMA_CAPABILITY;
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

static NfCandidate *
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

  NfCandidate *candidate = g_new0 (NfCandidate, 1);
  candidate->info = info;
  candidate->platform = platform;
  candidate->id = id;
  return candidate;
}

/* Drivers make their devices when they are asked for the first time, and not all see to it that a thread that
 * asks meanwhile waits until they are there (PoCL 3.1). */
static GMutex asking;

/* The indices count all devices, so that they agree with what clinfo shows. */
GPtrArray *
nf_candidates_list (const NfCpu *cpu, GError **error)
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
          NfCandidate *candidate = describe_device (cpu, platforms[p], p, ids[d], d);
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
  g_autoptr (GPtrArray) candidates = nf_candidates_list (cpu, error);
  if (!candidates)
    return NULL;

  GPtrArray *list = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_device_info_free);
  for (guint i = 0; i < candidates->len; i++)
    {
      NfCandidate *candidate = candidates->pdata[i];
      g_ptr_array_add (list, g_steal_pointer (&candidate->info));
    }
  return list;
}

/* Choosing */

static gboolean
matches (const NfDeviceInfo *info, const char *name)
{
  if (g_ascii_strcasecmp (name, "auto") == 0)
    return TRUE;
  if (g_ascii_strcasecmp (name, "cpu") == 0)
    return !info->is_gpu;
  if (g_ascii_strcasecmp (name, "gpu") == 0)
    return info->is_gpu;
  if (nf_device_spec_is_index (name))
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
      const NfDeviceInfo *info = ((NfCandidate *)candidates->pdata[i])->info;
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
                       "there is no OpenCL device with %s=%s: unset that, or " NF_INSTALL_HINT, variables[i],
                       value);
          return;
        }
    }
  if (vendors && g_dir_read_name (vendors))
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                 "there is no OpenCL device, though " VENDORS " lists drivers: they find none, or cannot be "
                 "loaded, as where memory is limited (ulimit -v). Or " NF_INSTALL_HINT);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE, "there is no OpenCL device: " NF_INSTALL_HINT);
}

NfCandidate *
nf_candidates_choose (GPtrArray *candidates, const char *name, GError **error)
{
  if (candidates->len == 0)
    {
      const char *closed = find_closed_cache ();
      if (closed)
        g_set_error (error, NF_ERROR, NF_ERROR_NO_DEVICE,
                     "there is no OpenCL device; PoCL has none where it cannot write what it compiles, and "
                     "%s cannot be written: set POCL_CACHE_DIR to a folder that can. Or " NF_INSTALL_HINT,
                     closed);
      else
        explain_none (error);
      return NULL;
    }

  NfCandidate *best = NULL;
  const NfDeviceInfo *refused = NULL;
  for (guint i = 0; i < candidates->len; i++)
    {
      NfCandidate *candidate = candidates->pdata[i];
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

/* Opening */

cl_context
nf_candidate_open (const NfCandidate *candidate, GError **error)
{
  cl_int status;
  const cl_context_properties properties[]
      = { CL_CONTEXT_PLATFORM, (cl_context_properties)candidate->platform, 0 };
  g_mutex_lock (&asking);
  cl_context context = clCreateContext (properties, 1, &candidate->id, NULL, NULL, &status);
  g_mutex_unlock (&asking);
  if (status == CL_SUCCESS)
    return context;
  nf_cl_error (error, status, "cannot open device %s %s", candidate->info->id, candidate->info->name);
  return NULL;
}

char *
nf_candidate_identify (const NfCandidate *candidate, const NfCpu *cpu)
{
  g_autofree char *platform_vendor = get_platform_string (candidate->platform, CL_PLATFORM_VENDOR);
  g_autofree char *vendor = get_device_string (candidate->id, CL_DEVICE_VENDOR);
  g_autofree char *version = get_device_string (candidate->id, CL_DEVICE_VERSION);
  /* PoCL compiles for the very processor it runs on, whose name says too little. */
  g_autofree char *flags = candidate->info->is_gpu ? g_strdup ("") : g_strjoinv (" ", cpu->flags);
  return g_strjoin ("\n", candidate->info->platform, platform_vendor, candidate->info->driver,
                    candidate->info->name, vendor, version, flags, NULL);
}
