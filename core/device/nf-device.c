/* normflow: OpenCL devices. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-device-private.h"
#include "nf-amx.h"
#include "nf-candidate.h"
#include "nf-device-spec.h"
#include "nf-program-cache.h"

#include <string.h>

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
                          NF_MMA_CAPABILITY);
}

/* Decides what multiplies floats: fma(), unless WANTED says amx or mma, or auto where either can be. AMX does
 * more rows in less time, but a single row, as in decoding token by token, takes it longer. */
static gboolean
choose_f32 (NfDevice *self, const char *wanted, const char *identity, GError **error)
{
  const gboolean automatic = g_strcmp0 (wanted, "auto") == 0;
  g_autofree char *fault = NULL;

  if (!wanted || strcmp (wanted, nf_f32_names[NF_F32_FMA]) == 0)
    return TRUE;
  if (automatic ? self->gpu_kernels : strcmp (wanted, nf_f32_names[NF_F32_MMA]) == 0)
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
                                            nf_precision_names[self->precision])
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

  if (g_strcmp0 (wanted, nf_int8_names[NF_INT8_FMA]) == 0)
    return TRUE;
  if (!wanted || strcmp (wanted, nf_int8_names[NF_INT8_AMX]) == 0)
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
  else if (g_strcmp0 (wanted, nf_int8_names[NF_INT8_VNNI]) == 0 && !vnni)
    fault = "the CPU has no AVX512_VNNI, or kernels are compiled for other vectors than of 16 floats";
  if (!fault)
    self->int8_form
        = vnni && g_strcmp0 (wanted, nf_int8_names[NF_INT8_MADD]) != 0 ? NF_INT8_VNNI : NF_INT8_MADD;
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
  self->lists = !info->is_gpu && !self->gpu_kernels && strcmp (info->platform, NF_POCL) == 0
                && nf_cl_has_extension (self->id, "cl_khr_int64_base_atomics");
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

NfDevice *
nf_device_open (const char *spec, GError **error)
{
  g_autofree char *name = NULL;
  NfDeviceForm form, preferred;
  if (!nf_device_spec_resolve (spec, &name, &form, &preferred, error))
    return NULL;
  g_autoptr (NfCpu) cpu = nf_cpu_read ();
  g_autoptr (GPtrArray) candidates = nf_candidates_list (cpu, error);
  if (!candidates)
    return NULL;
  NfCandidate *candidate = nf_candidates_choose (candidates, name, error);
  if (!candidate)
    return NULL;

  cl_context context = nf_candidate_open (candidate, error);
  if (!context)
    return NULL;

  g_autoptr (NfDevice) self = g_object_new (NF_TYPE_DEVICE, NULL);
  g_autofree char *identity = nf_candidate_identify (candidate, cpu);
  self->cpu = g_steal_pointer (&cpu);
  self->info = g_steal_pointer (&candidate->info);
  self->id = candidate->id;
  self->context = context;
  self->gpu_kernels
      = form.kernels == NF_KERNELS_BY_DEVICE ? self->info->is_gpu : form.kernels == NF_KERNELS_GPU;
  const guint native = self->info->vector_width;
  self->vector_width = form.vectors                         ? form.vectors
                       : self->info->is_gpu || native >= 16 ? 16
                       : native >= 8                        ? 8
                                                            : 4;
  const gboolean automatic = g_strcmp0 (form.precision, "auto") == 0;
  const char *precision = automatic ? "bf16" : form.precision ? form.precision : "f32";
  while (strcmp (precision, nf_precision_names[self->precision]) != 0)
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
  self->arithmetic = nf_arithmetic_name (nf_device_get_form (self), self->gpu_kernels, self->vector_width);
  g_debug ("device %s %s, %s kernels, vectors of %u, products of %s%s%s", self->info->id, self->info->name,
           nf_device_get_kernels (self), self->vector_width, nf_device_get_precision (self), " by ",
           nf_device_uses_bf16 (self)                     ? nf_bf16_names[self->bf16_form]
           : self->precision == NF_PRECISION_INT8_WEIGHTS ? nf_int8_names[self->int8_form]
                                                          : nf_f32_names[self->f32_form]);
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

const char *
nf_device_get_precision (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return nf_precision_names[self->precision];
}

const char *
nf_device_get_bf16_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return nf_device_uses_bf16 (self) ? nf_bf16_names[self->bf16_form] : NULL;
}

const char *
nf_device_get_f32_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->precision == NF_PRECISION_F32 ? nf_f32_names[self->f32_form] : NULL;
}

const char *
nf_device_get_int8_form (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return self->precision == NF_PRECISION_INT8_WEIGHTS ? nf_int8_names[self->int8_form] : NULL;
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

const char *
nf_device_get_launch (NfDevice *self)
{
  g_return_val_if_fail (NF_IS_DEVICE (self), NULL);
  return nf_launch_names[!self->lists];
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

gboolean
nf_device_reserve (NfDevice *self, gsize size, GError **error)
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
                   "; " NF_MEMORY_HINT,
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
                 " are taken; " NF_MEMORY_HINT,
                 info->name, size, allocated, info->global_memory);
  return fits;
}

void
nf_device_unreserve (NfDevice *self, gsize size)
{
  g_mutex_lock (&self->lock);
  self->allocated -= size;
  g_mutex_unlock (&self->lock);
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
