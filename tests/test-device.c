/* normflow: choosing devices, the kernel cache, memory. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"
#include "nf-cpu.h"
#include "nf-device-private.h"

#include <gio/gio.h>
#include <stdio.h>

static const char *program_name;

static void
assert_contains (const char *text, const char *part)
{
  if (!strstr (text, part))
    fail_msg ("\"%s\" does not mention \"%s\"", text, part);
}

static NfDevice *
open_device (const char *spec)
{
  g_autoptr (GError) error = NULL;
  NfDevice *device = nf_device_open (spec, &error);
  nf_test_ok (device, error);
  return device;
}

static void
check_refused (const char *spec, NfError code, const char *mentions)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (spec, &error);
  assert_null (device);
  if (!g_error_matches (error, NF_ERROR, (gint)code))
    fail_msg ("\"%s\": wrong kind of error: %s", spec, error->message);
  assert_contains (error->message, mentions);
}

static int
clear_environment (void **state)
{
  g_unsetenv ("NORMFLOW_DEVICE");
  g_unsetenv ("NORMFLOW_KERNELS");
  g_unsetenv ("NORMFLOW_BF16");
  g_unsetenv ("NORMFLOW_F32");
  g_unsetenv ("NORMFLOW_INT8");

  g_setenv ("NORMFLOW_PRECISION", "bf16", TRUE);
  g_autoptr (NfDevice) half = open_device ("cpu");
  assert_string_equal (nf_device_get_precision (half), "bf16");
  g_autoptr (NfDevice) full = open_device ("cpu,precision=f32");
  assert_string_equal (nf_device_get_precision (full), "f32");
  g_setenv ("NORMFLOW_PRECISION", "bf16-weights", TRUE);
  g_autoptr (NfDevice) mixed = open_device ("cpu");
  assert_string_equal (nf_device_get_precision (mixed), "bf16-weights");
  /* what holds where nothing else is said */
  g_autoptr (NfDevice) said = open_device ("cpu,precision?=bf16");
  assert_string_equal (nf_device_get_precision (said), "bf16-weights");
  g_setenv ("NORMFLOW_PRECISION", "half", TRUE);
  check_refused ("cpu", NF_ERROR_ARGUMENT, "NORMFLOW_PRECISION");
  g_unsetenv ("NORMFLOW_PRECISION");
  return 0;
}

/* Listing and choosing */

static void
test_list (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) list = nf_device_list (&error);
  nf_test_ok (list, error);
  assert_true (list->len > 0);
  for (guint i = 0; i < list->len; i++)
    {
      const NfDeviceInfo *info = list->pdata[i];
      guint platform, number;
      assert_int_equal (sscanf (info->id, "%u:%u", &platform, &number), 2);
      assert_true (info->name[0] != '\0' && g_utf8_validate (info->name, -1, NULL));
      assert_true (info->usable == (info->reason == NULL));
      assert_true (info->compute_units > 0 && info->vector_width > 0);
      assert_true (info->max_alloc > 0 && info->max_alloc <= info->global_memory);
    }
}

static void
test_specifications (void **state)
{
  g_autoptr (NfDevice) any = open_device ("auto");
  g_autoptr (NfDevice) cpu = open_device ("cpu");
  const NfDeviceInfo *info = nf_device_get_info (cpu);
  assert_false (info->is_gpu);
  assert_string_equal (nf_device_get_kernels (cpu), "cpu");
  const guint width = nf_device_get_vector_width (cpu);
  assert_true (width == 4 || width == 8 || width == 16);

  g_autoptr (NfDevice) nothing = open_device (NULL);
  g_autoptr (NfDevice) empty = open_device ("");
  assert_string_equal (nf_device_get_info (nothing)->id, nf_device_get_info (any)->id);
  assert_string_equal (nf_device_get_info (empty)->id, nf_device_get_info (any)->id);

  g_autoptr (NfDevice) by_number = open_device (info->id);
  assert_string_equal (nf_device_get_info (by_number)->id, info->id);
  g_autofree char *part = g_utf8_substring (info->name, 1, MAX (g_utf8_strlen (info->name, -1) - 1, 2));
  g_autofree char *shouted = g_utf8_strup (part, -1);
  g_autoptr (NfDevice) by_name = open_device (shouted);
  assert_non_null (strstr (nf_device_get_info (by_name)->name, part));
  g_autofree char *spaced = g_strdup_printf ("  %s , kernels=GPU", info->id);
  g_autoptr (NfDevice) other_kernels = open_device (spaced);
  assert_string_equal (nf_device_get_kernels (other_kernels), "gpu");

  /* all that can be said at once, and then be preferred */
  g_autofree char *all = g_strconcat (
      info->name,
      ",kernels=cpu,vectors=16,precision=int8-weights,bf16=fma,f32=auto,int8=fma,launch=each,kernels?=gpu,"
      "vectors?=16,precision?=bf16-weights,bf16?=fma,f32?=auto,int8?=madd,launch?=lists",
      NULL);
  g_autofree char *preferred = nf_device_prefer (all, "int8-weights", "madd");
  g_autoptr (NfDevice) said = open_device (preferred);
  assert_string_equal (nf_device_get_int8_form (said), "fma");
}

static void
check_prefers (const char *spec, const char *precision, const char *form, const char *expected)
{
  g_autofree char *text = nf_device_prefer (spec, precision, form);
  assert_string_equal (text, expected);
}

/* What is said of an earlier device becomes part of a specification only as far as it is known. */
static void
test_prefer (void **state)
{
  check_prefers ("cpu", "f32", "amx", "cpu,precision?=f32,f32?=amx");
  check_prefers (NULL, "bf16-weights", "dot", ",precision?=bf16-weights,bf16?=dot");
  check_prefers ("gpu,vectors=4", "int8-weights", "fma", "gpu,vectors=4,precision?=int8-weights,int8?=fma");
  check_prefers ("", "int8-weights", "dot", ",precision?=int8-weights");
  /* any that gives the same bits will do */
  check_prefers ("", "int8-weights", "vnni", ",precision?=int8-weights");
  check_prefers ("", "int8-weights", "madd-8", ",precision?=int8-weights,vectors?=8");
  check_prefers ("", "int8-weights", "fma-8", ",precision?=int8-weights,int8?=fma");
  check_prefers ("", "bf16", "fma-4", ",precision?=bf16,bf16?=fma,vectors?=4");
  check_prefers ("", "bf16", "fma", ",precision?=bf16,bf16?=fma,vectors?=16");
  check_prefers ("", "bf16", "fma-gpu", ",precision?=bf16,bf16?=fma");
  check_prefers ("", "bf16", "fma-9", ",precision?=bf16,bf16?=fma");
  check_prefers ("", "f32", "fma-8", ",precision?=f32,f32?=fma");
  assert_true (nf_device_arithmetic_agrees ("int8-weights", "amx", "madd"));
  assert_false (nf_device_arithmetic_agrees ("int8-weights", "amx", "madd-8"));
  assert_true (nf_device_arithmetic_agrees ("int8-weights", "fma-8", "fma"));
  assert_true (nf_device_arithmetic_agrees ("f32", "fma-8", "fma"));
  assert_true (nf_device_arithmetic_agrees ("bf16-weights", "fma-8", "fma-gpu"));
  assert_false (nf_device_arithmetic_agrees ("bf16", "fma-8", "fma"));
  assert_true (nf_device_arithmetic_agrees ("int8-weights", "fma", "fma"));
  assert_false (nf_device_arithmetic_agrees ("int8-weights", "vnni", "fma"));
  assert_false (nf_device_arithmetic_agrees ("bf16", "amx", "dot"));
  check_prefers ("cpu", "bf16", "fma,kernels=gpu", "cpu,precision?=bf16");
  check_prefers ("cpu", "bf16", "fma-8,kernels=gpu", "cpu,precision?=bf16,bf16?=fma");
  check_prefers ("cpu", "bf16", "", "cpu,precision?=bf16");
  check_prefers ("cpu", "bf16", NULL, "cpu,precision?=bf16");
}

/* What holds where nothing else is said. */
static void
test_usual (void **state)
{
  g_autoptr (NfDevice) usual = open_device ("cpu,precision?=bf16,bf16=fma");
  assert_string_equal (nf_device_get_precision (usual), "bf16");
  g_autoptr (NfDevice) said = open_device ("cpu,precision?=bf16,precision=f32");
  assert_string_equal (nf_device_get_precision (said), "f32");
  g_autoptr (NfDevice) first = open_device ("cpu,precision?=bf16-weights,precision?=bf16");
  assert_string_equal (nf_device_get_precision (first), "bf16-weights");
  g_autoptr (NfDevice) kernels = open_device ("cpu,kernels?=gpu,vectors?=4");
  assert_string_equal (nf_device_get_kernels (kernels), "gpu");
  assert_int_equal (nf_device_get_vector_width (kernels), 4);
  /* what multiplies, where the device can: matrix units of a GPU are none of a CPU's */
  g_autoptr (NfDevice) cannot = open_device ("cpu,kernels=cpu,f32?=mma,bf16?=mma");
  assert_string_equal (nf_device_get_form (cannot), "fma");
  g_autoptr (NfDevice) can = open_device ("cpu,precision=int8-weights,int8?=fma");
  assert_string_equal (nf_device_get_form (can), "fma");
  g_autoptr (NfDevice) not_asked = open_device ("cpu,kernels=cpu,precision=bf16,bf16=fma,bf16?=mma");
  assert_string_equal (nf_device_get_form (not_asked), "fma");
  check_refused ("cpu,kernels=cpu,precision=bf16,bf16=mma,bf16?=fma", NF_ERROR_NO_DEVICE, "mma");
  check_refused ("cpu,f32?=abc", NF_ERROR_ARGUMENT, "abc");
  check_refused ("cpu,precision?=half", NF_ERROR_ARGUMENT, "half");
  check_refused ("cpu,precision=bf16,precision=bf16", NF_ERROR_ARGUMENT, "each once");
  check_refused ("cpu?=gpu", NF_ERROR_ARGUMENT, "not a device");

  /* a device of the environment says more than a caller's default, and less than its word */
  g_setenv ("NORMFLOW_DEVICE", "cpu,precision=bf16-weights,f32?=fma", TRUE);
  g_autoptr (NfDevice) theirs = open_device (",precision?=bf16");
  assert_string_equal (nf_device_get_precision (theirs), "bf16-weights");
  g_autoptr (NfDevice) ours = open_device (",precision=f32,f32?=auto");
  assert_string_equal (nf_device_get_form (ours), nf_device_get_f32_form (ours));
  assert_string_equal (nf_device_get_f32_form (ours), "fma");
  g_unsetenv ("NORMFLOW_DEVICE");

  for (const char *const *name = nf_device_precisions (); *name; name++)
    {
      g_autofree char *spec = g_strdup_printf ("cpu,precision=%s", *name);
      g_autoptr (NfDevice) device = open_device (spec);
      assert_string_equal (nf_device_get_precision (device), *name);
    }
}

/* Launches come as lists where they can. */
static void
test_launch (void **state)
{
  g_autoptr (NfDevice) usual = open_device ("cpu"), each = open_device ("cpu,launch=each"),
                       gpu_kernels = open_device ("cpu,kernels=gpu");
  const gboolean pocl = strcmp (nf_device_get_info (usual)->platform, NF_POCL) == 0;
  assert_string_equal (nf_device_get_launch (usual), pocl ? "lists" : "each");
  assert_string_equal (nf_device_get_launch (each), "each");
  assert_string_equal (nf_device_get_launch (gpu_kernels), "each");
  check_refused ("cpu,kernels=gpu,launch=lists", NF_ERROR_NO_DEVICE, "as lists");
  g_setenv ("NORMFLOW_LAUNCH", "each", TRUE);
  g_autoptr (NfDevice) theirs = open_device ("cpu");
  g_unsetenv ("NORMFLOW_LAUNCH");
  assert_string_equal (nf_device_get_launch (theirs), "each");
}

/* What multiplies floats. */
static void
test_f32_forms (void **state)
{
  g_autoptr (NfDevice) fma = open_device ("cpu,f32=fma");
  assert_string_equal (nf_device_get_f32_form (fma), "fma");
  g_autoptr (NfDevice) half = open_device ("cpu,precision=bf16,f32=fma");
  assert_null (nf_device_get_f32_form (half));
  g_autoptr (NfDevice) narrow = open_device ("cpu,vectors=8");
  assert_string_equal (nf_device_get_f32_form (narrow), "fma");
  g_autoptr (NfDevice) gpu_kernels = open_device ("cpu,kernels=gpu");
  assert_string_equal (nf_device_get_f32_form (gpu_kernels), "fma");
  g_autoptr (NfDevice) quietly = open_device ("cpu,kernels=gpu,f32=auto");
  assert_string_equal (nf_device_get_f32_form (quietly), "fma");
  check_refused ("cpu,vectors=8,f32=amx", NF_ERROR_NO_DEVICE, "vectors of 8");
  check_refused ("cpu,kernels=gpu,f32=amx", NF_ERROR_NO_DEVICE, "for a GPU");
  check_refused ("cpu,kernels=gpu,f32=mma", NF_ERROR_NO_DEVICE, "NVIDIA GPU");

  /* the matrix unit is taken if it is asked for and works */
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) full = open_device ("cpu");
  assert_string_equal (nf_device_get_f32_form (full), "fma");
  g_autoptr (NfDevice) amx = nf_device_open ("cpu,f32=amx", &error);
  g_autoptr (NfDevice) best = open_device ("cpu,f32=auto");
  assert_string_equal (nf_device_get_f32_form (best), amx ? "amx" : "fma");
  if (!amx)
    assert_int_equal (error->code, NF_ERROR_NO_DEVICE);
  else
    {
      assert_string_equal (nf_device_get_f32_form (amx), "amx");
      g_setenv ("NORMFLOW_F32", "amx", TRUE);
      g_autoptr (NfDevice) theirs = open_device ("cpu");
      assert_string_equal (nf_device_get_f32_form (theirs), "amx");
    }
  g_setenv ("NORMFLOW_F32", "mmx", TRUE);
  check_refused ("cpu", NF_ERROR_ARGUMENT, "mmx");
  g_unsetenv ("NORMFLOW_F32");
}

static void
test_bf16_forms (void **state)
{
  g_autoptr (NfDevice) full = open_device ("cpu,precision=f32");
  assert_null (nf_device_get_bf16_form (full));
  g_autoptr (NfDevice) fma = open_device ("cpu,precision=bf16,bf16=fma");
  assert_string_equal (nf_device_get_bf16_form (fma), "fma");
  g_autoptr (NfDevice) half = open_device ("cpu,precision=bf16");
  g_autoptr (NfDevice) narrow = open_device ("cpu,precision=bf16,vectors=8");
  assert_string_equal (nf_device_get_bf16_form (narrow), "fma");
  check_refused ("cpu,precision=bf16,vectors=8,bf16=dot", NF_ERROR_NO_DEVICE, "vectors of 8");
  check_refused ("cpu,precision=bf16,vectors=8,bf16=amx", NF_ERROR_NO_DEVICE, "vectors of 8");
  g_autoptr (NfDevice) gpu_kernels = open_device ("cpu,precision=bf16,kernels=gpu,bf16?=amx");
  assert_string_equal (nf_device_get_bf16_form (gpu_kernels), "fma");
  check_refused ("cpu,precision=bf16,kernels=gpu,bf16=amx", NF_ERROR_NO_DEVICE, "for a GPU");
  check_refused ("cpu,precision=bf16,kernels=gpu,bf16=dot", NF_ERROR_NO_DEVICE, "for a GPU");

  /* where AMX works it is taken, and is why "auto" means bf16; what works can also be asked for */
  g_autoptr (NfDevice) automatic = open_device ("cpu,precision=auto");
  static const char *const forms[] = { "amx", "dot" };
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *spec = g_strdup_printf ("cpu,precision=bf16,bf16=%s", forms[i]);
      g_autoptr (NfDevice) device = nf_device_open (spec, &error);
      if (device)
        assert_string_equal (nf_device_get_bf16_form (device), forms[i]);
      else
        assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_NO_DEVICE));
      if (i == 0 && device)
        {
          assert_string_equal (nf_device_get_bf16_form (half), "amx");
          assert_string_equal (nf_device_get_precision (automatic), "bf16");
        }
      if (i == 0 && !device)
        assert_string_not_equal (nf_device_get_bf16_form (half), "amx");
    }
  /* floats by bfloat16: as those of bfloat16, but that vdpbf16ps gains nothing */
  g_autoptr (NfDevice) mixed = open_device ("cpu,precision=bf16-weights");
  assert_null (nf_device_get_f32_form (mixed));
  assert_string_equal (nf_device_get_bf16_form (mixed),
                       strcmp (nf_device_get_bf16_form (half), "amx") == 0 ? "amx" : "fma");
  g_autoptr (NfDevice) mixed_fma = open_device ("cpu,precision=bf16-weights,bf16=fma");
  assert_string_equal (nf_device_get_bf16_form (mixed_fma), "fma");
  check_refused ("cpu,vectors=16,precision=bf16-weights,bf16=dot", NF_ERROR_NO_DEVICE, "bf16-weights");
  check_refused ("cpu,precision=bf16-weights,vectors=8,bf16=amx", NF_ERROR_NO_DEVICE, "vectors of 8");

  /* floats by integers */
  g_autoptr (NfDevice) bytes = open_device ("cpu,precision=int8-weights");
  assert_null (nf_device_get_f32_form (bytes));
  assert_null (nf_device_get_bf16_form (bytes));
  assert_null (nf_device_get_int8_form (mixed));
  g_autoptr (NfDevice) by_madd = nf_device_open ("cpu,precision=int8-weights,int8=madd", NULL);
  g_autoptr (NfDevice) by_vnni = nf_device_open ("cpu,precision=int8-weights,int8=vnni", NULL);
  g_autoptr (NfDevice) by_amx = nf_device_open ("cpu,precision=int8-weights,int8=amx", NULL);
  assert_string_equal (nf_device_get_int8_form (bytes), by_amx    ? "amx"
                                                        : by_vnni ? "vnni"
                                                        : by_madd ? "madd"
                                                                  : "fma");
  assert_true (by_madd || !by_vnni);
  assert_true (by_vnni || !by_amx);
  g_setenv ("NORMFLOW_INT8", "fma", TRUE);
  g_autoptr (NfDevice) bytes_fma = open_device ("cpu,precision=int8-weights");
  assert_string_equal (nf_device_get_int8_form (bytes_fma), "fma");
  g_setenv ("NORMFLOW_INT8", "mmx", TRUE);
  check_refused ("cpu,precision=int8-weights", NF_ERROR_ARGUMENT, "NORMFLOW_INT8");
  g_unsetenv ("NORMFLOW_INT8");
  g_autoptr (NfDevice) on_gpu = open_device ("cpu,kernels=gpu,precision=int8-weights");
  assert_string_equal (nf_device_get_int8_form (on_gpu), "fma");
  check_refused ("cpu,kernels=gpu,precision=int8-weights,int8=madd", NF_ERROR_NO_DEVICE, "GPU");
  check_refused ("cpu,vectors=4,precision=int8-weights,int8=madd", NF_ERROR_NO_DEVICE, "vectors of 4");
  check_refused ("cpu,vectors=8,precision=int8-weights,int8=vnni", NF_ERROR_NO_DEVICE, "VNNI");
  check_refused ("cpu,vectors=8,precision=int8-weights,int8=amx", NF_ERROR_NO_DEVICE, "vectors of 8");
  check_refused ("cpu,kernels=gpu,precision=int8-weights,int8=amx", NF_ERROR_NO_DEVICE, "GPU");

  if (strcmp (nf_device_get_bf16_form (half), "fma") == 0) /* floats beat emulation */
    assert_string_equal (nf_device_get_precision (automatic), "f32");

  g_setenv ("NORMFLOW_BF16", "fma", TRUE);
  g_autoptr (NfDevice) theirs = open_device ("cpu,precision=bf16");
  assert_string_equal (nf_device_get_bf16_form (theirs), "fma");
  g_setenv ("NORMFLOW_BF16", "mmx", TRUE);
  check_refused ("cpu,precision=bf16", NF_ERROR_ARGUMENT, "mmx");
  g_unsetenv ("NORMFLOW_BF16");
}

static void
test_refusals (void **state)
{
  g_autofree char *endless = g_strnfill (1025, 'x');
  g_autoptr (NfDevice) any = open_device ("auto");

  check_refused ("a device that nobody made", NF_ERROR_NO_DEVICE, nf_device_get_info (any)->name);
  check_refused ("7:9", NF_ERROR_NO_DEVICE, "7:9");
  check_refused ("99999999999999999999:0", NF_ERROR_NO_DEVICE, "there is");
  check_refused ("1:2:3", NF_ERROR_ARGUMENT, "1:2:3");
  check_refused (":1", NF_ERROR_ARGUMENT, "PLATFORM:DEVICE");
  check_refused ("1:", NF_ERROR_ARGUMENT, "PLATFORM:DEVICE");
  check_refused ("kernels=cpu", NF_ERROR_ARGUMENT, "kernels=cpu");
  check_refused ("cpu,kernels=tpu", NF_ERROR_ARGUMENT, "tpu");
  check_refused ("cpu,fast", NF_ERROR_ARGUMENT, "fast");
  check_refused ("cpu,vectors=5", NF_ERROR_ARGUMENT, "\"5\"");
  check_refused ("cpu,precision=f16", NF_ERROR_ARGUMENT, "f16");
  check_refused ("cpu,precision=f32,precision=bf16", NF_ERROR_ARGUMENT, "precision=bf16");
  check_refused ("cpu,bf16=amy", NF_ERROR_ARGUMENT, "amy");
  check_refused ("cpu,int8=dot", NF_ERROR_ARGUMENT, "dot");
  check_refused ("cpu,bf16=fma,bf16=fma", NF_ERROR_ARGUMENT, "bf16=fma");
  check_refused ("cpu,f32=dot", NF_ERROR_ARGUMENT, "dot");
  check_refused ("cpu,f32=fma,f32=fma", NF_ERROR_ARGUMENT, "f32=fma");
  check_refused ("cpu,launch=one", NF_ERROR_ARGUMENT, "launches of \"one\": only lists and each exist");
  check_refused ("cpu,launch=each,launch=each", NF_ERROR_ARGUMENT, "launch=each");
  check_refused ("cpu,vectors=4,vectors=4", NF_ERROR_ARGUMENT, "vectors=4");
  check_refused ("cpu,kernels=cpu,kernels=gpu", NF_ERROR_ARGUMENT, "kernels=gpu");
  check_refused ("cpu,", NF_ERROR_ARGUMENT, "cpu,");
  check_refused (endless, NF_ERROR_ARGUMENT, "at most");
  check_refused ("\xff\xfe", NF_ERROR_ARGUMENT, "UTF-8");

  g_autoptr (GPtrArray) list = nf_device_list (NULL);
  assert_non_null (list);
  for (guint i = 0; i < list->len; i++)
    if (((const NfDeviceInfo *)list->pdata[i])->is_gpu)
      return;
  check_refused ("gpu", NF_ERROR_NO_DEVICE, "install a driver");
}

static void
test_environment (void **state)
{
  g_setenv ("NORMFLOW_DEVICE", "cpu,kernels=gpu", TRUE);
  g_autoptr (NfDevice) theirs = open_device (NULL);
  assert_string_equal (nf_device_get_kernels (theirs), "gpu");
  assert_false (nf_device_get_info (theirs)->is_gpu);
  /* what the caller says comes first */
  g_autoptr (NfDevice) ours = open_device ("cpu,kernels=cpu");
  assert_string_equal (nf_device_get_kernels (ours), "cpu");
  g_autoptr (NfDevice) part = open_device (",kernels=cpu");
  assert_string_equal (nf_device_get_kernels (part), "cpu");
  g_autoptr (NfDevice) narrow = open_device ("cpu,vectors=4,kernels=cpu");
  assert_int_equal (nf_device_get_vector_width (narrow), 4);

  g_setenv ("NORMFLOW_KERNELS", "gpu", TRUE);
  g_autoptr (NfDevice) variant = open_device ("cpu");
  assert_string_equal (nf_device_get_kernels (variant), "gpu");
  g_setenv ("NORMFLOW_KERNELS", "tpu", TRUE);
  check_refused ("cpu", NF_ERROR_ARGUMENT, "NORMFLOW_KERNELS");
  g_unsetenv ("NORMFLOW_KERNELS");
  g_setenv ("NORMFLOW_DEVICE", "1:2:3", TRUE);
  check_refused (NULL, NF_ERROR_ARGUMENT, "NORMFLOW_DEVICE");
}

/* Other processes. This program, run with "--child", opens a CPU, builds a program, uses it, and says how it
 * came by it. */

static gboolean
use_program (NfDevice *device, GError **error)
{
  static const char *const files[] = { "pack.cl", NULL };
  const float W[4] = { 1, 2, 3, 4 };
  float first[2];
  const cl_ulong zero = 0;
  const cl_int one = 1, two = 2;
  const size_t global[] = { 1, 1 };

  cl_program program = nf_device_get_program (device, files, NULL, error);
  if (!program)
    return FALSE;
  /* asked again, it is the same */
  assert_ptr_equal (program, nf_device_get_program (device, files, NULL, error));
  assert_true (nf_device_get_build_seconds (device) > 0);
  cl_command_queue queue = nf_device_new_queue (device, error);
  g_autoptr (NfBuffer) in = nf_buffer_new (device, sizeof W, error);
  g_autoptr (NfBuffer) out = nf_buffer_new (device, sizeof W, error);
  if (!queue || !in || !out)
    return FALSE;
  cl_kernel kernel = clCreateKernel (program, "nf_pack", NULL);
  cl_int status = clEnqueueWriteBuffer (queue, in->mem, CL_TRUE, 0, sizeof W, W, 0, NULL, NULL);
  status |= clSetKernelArg (kernel, 0, sizeof in->mem, &in->mem);
  status |= clSetKernelArg (kernel, 1, sizeof zero, &zero);
  status |= clSetKernelArg (kernel, 2, sizeof two, &two);
  status |= clSetKernelArg (kernel, 3, sizeof out->mem, &out->mem);
  status |= clSetKernelArg (kernel, 4, sizeof zero, &zero);
  for (cl_uint i = 5; i <= 7; i++) /* rows, columns, width */
    status |= clSetKernelArg (kernel, i, sizeof two, &two);
  status |= clSetKernelArg (kernel, 8, sizeof one, &one); /* transposed */
  status |= clEnqueueNDRangeKernel (queue, kernel, 2, NULL, global, NULL, 0, NULL, NULL);
  status |= clEnqueueReadBuffer (queue, out->mem, CL_TRUE, 0, sizeof first, first, 0, NULL, NULL);
  clReleaseKernel (kernel);
  clReleaseCommandQueue (queue);
  if (status != CL_SUCCESS || first[0] != W[0] || first[1] != W[2])
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "the kernel does not do its work");
      return FALSE;
    }
  return TRUE;
}

static int
run_child (void)
{
  g_autoptr (GError) error = NULL;
  /* panels of two columns and two rows, as no matrix unit wants them */
  g_autoptr (NfDevice) device = nf_device_open ("cpu,f32=fma", &error);
  if (device && use_program (device, &error))
    return 0;
  printf ("%s\n", error->message);
  return 1;
}

/* What the child printed. VARIABLE=VALUE is added to its environment. */
static char *
ask_child (const char *variable, const char *value, gboolean succeeds)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GSubprocessLauncher) launcher
      = g_subprocess_launcher_new (G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_MERGE);
  char *text = NULL;
  g_subprocess_launcher_setenv (launcher, "G_MESSAGES_DEBUG", "normflow", TRUE);
  g_subprocess_launcher_setenv (launcher, variable, value, TRUE);
  g_autoptr (GSubprocess) child
      = g_subprocess_launcher_spawn (launcher, &error, program_name, "--child", NULL);
  nf_test_ok (child, error);
  nf_test_ok (g_subprocess_communicate_utf8 (child, NULL, NULL, &text, NULL, &error), error);
  if (!g_subprocess_get_if_exited (child) || (g_subprocess_get_exit_status (child) == 0) != succeeds)
    fail_msg ("the child with %s=%s ended in another way than expected: %s", variable, value, text);
  return text;
}

static void
test_no_driver (void **state)
{
  g_autofree char *nowhere = nf_test_temporary ("");
  assert_int_equal (g_mkdir (nowhere, 0700), 0);
  g_autofree char *text = ask_child ("OCL_ICD_VENDORS", nowhere, FALSE);
  g_rmdir (nowhere);
  assert_contains (text, "there is no OpenCL device with OCL_ICD_VENDORS=");
  assert_contains (text, "apt install pocl-opencl-icd");
}

/* The only file in a directory. */
static char *
only_file (const char *directory)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GDir) dir = g_dir_open (directory, 0, &error);
  nf_test_ok (dir, error);
  g_autofree char *name = g_strdup (g_dir_read_name (dir));
  assert_non_null (name);
  assert_null (g_dir_read_name (dir));
  return g_build_filename (directory, name, NULL);
}

typedef enum
{
  DAMAGE_FLIP,
  DAMAGE_TRUNCATE,
  DAMAGE_EMPTY,
  DAMAGE_GROW,
  DAMAGE_LENGTH,
  DAMAGE_FOREIGN, /* well-formed, but not what the driver wrote */
  N_DAMAGES,
} Damage;

#define HEADER 52
#define DIGEST_AT 20

static void
damage_file (const char *path, Damage damage)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *contents = NULL;
  gsize size;
  nf_test_ok (g_file_get_contents (path, &contents, &size, &error), error);
  assert_true (size > HEADER + 100);
  switch (damage)
    {
    case DAMAGE_FLIP:
      contents[size / 2] ^= 1;
      break;
    case DAMAGE_TRUNCATE:
      size /= 2;
      break;
    case DAMAGE_EMPTY:
      size = 0;
      break;
    case DAMAGE_GROW:
      contents = g_realloc (contents, size + 1);
      contents[size++] = 0;
      break;
    case DAMAGE_LENGTH:
      memset (contents + 12, 0xff, 8);
      break;
    case DAMAGE_FOREIGN:
      {
        g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
        gsize digest_size = 32;
        memset (contents + HEADER, 'x', size - HEADER);
        g_checksum_update (checksum, (const guchar *)contents + HEADER, (gssize)(size - HEADER));
        g_checksum_get_digest (checksum, (guint8 *)contents + DIGEST_AT, &digest_size);
        break;
      }
    case N_DAMAGES:
      g_assert_not_reached ();
    }
  nf_test_ok (g_file_set_contents (path, contents, (gssize)size, &error), error);
}

static void
test_cache (void **state)
{
  g_autofree char *directory = nf_test_temporary ("");
  g_autofree char *first = ask_child ("NORMFLOW_CACHE", directory, TRUE);
  assert_contains (first, "compiled in");
  g_autofree char *path = only_file (directory);
  g_autofree char *second = ask_child ("NORMFLOW_CACHE", directory, TRUE);
  assert_contains (second, "loaded in");
  for (Damage damage = 0; damage < N_DAMAGES; damage++)
    {
      damage_file (path, damage);
      g_autofree char *again = ask_child ("NORMFLOW_CACHE", directory, TRUE);
      assert_contains (again, "compiled in");
      g_autofree char *repaired = ask_child ("NORMFLOW_CACHE", directory, TRUE);
      assert_contains (repaired, "loaded in");
    }
  g_unlink (path);
  g_rmdir (directory);
}

static void
test_cache_that_cannot_be (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *file = nf_test_temporary (""), *below = g_build_filename (file, "cache", NULL);
  nf_test_ok (g_file_set_contents (file, "x", 1, &error), error);
  for (guint i = 0; i < 2; i++)
    {
      g_autofree char *text = ask_child ("NORMFLOW_CACHE", i ? file : below, TRUE);
      assert_contains (text, "compiled in");
    }
  g_unlink (file);
  /* "0" keeps nothing */
  g_autofree char *off = ask_child ("NORMFLOW_CACHE", "0", TRUE);
  assert_contains (off, "compiled in");
  assert_false (g_file_test ("0", G_FILE_TEST_EXISTS));
}

/* Programs */

static void
test_build_errors (void **state)
{
  static const char *const missing[] = { "no-such-file.cl", NULL };
  static const char *const heads[] = { "append.cl", NULL };
  g_autoptr (GError) not_found = NULL, log = NULL;
  g_autoptr (NfDevice) device = open_device ("cpu");
  assert_null (nf_device_get_program (device, missing, NULL, &not_found));
  assert_true (g_error_matches (not_found, NF_ERROR, NF_ERROR_NOT_FOUND));
  assert_contains (not_found->message, "no-such-file.cl");
  /* the head's size must be given */
  assert_null (nf_device_get_program (device, heads, NULL, &log));
  assert_true (g_error_matches (log, NF_ERROR, NF_ERROR_BUILD));
  assert_contains (log->message, "append.cl");
  assert_contains (log->message, "DH");
}

/* Memory */

static void
test_memory (void **state)
{
  g_autoptr (NfDevice) device = open_device ("cpu");
  const NfDeviceInfo *info = nf_device_get_info (device);
  g_autoptr (GPtrArray) buffers = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_buffer_free);
  assert_int_equal (nf_device_get_allocated (device), 0);
  const struct
  {
    gsize size;
    NfError code;
  } wrong[] = { { 0, NF_ERROR_ARGUMENT },
                { (gsize)info->max_alloc + 1, NF_ERROR_NO_MEMORY },
                { G_MAXSIZE, NF_ERROR_NO_MEMORY } };
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;
      assert_null (nf_buffer_new (device, wrong[i].size, &error));
      assert_true (g_error_matches (error, NF_ERROR, (gint)wrong[i].code));
      if (wrong[i].size)
        assert_contains (error->message, info->name);
    }
  assert_int_equal (nf_device_get_allocated (device), 0);

  g_autoptr (GError) error = NULL;
  g_autoptr (NfBuffer) small = nf_buffer_new (device, 1000, &error);
  nf_test_ok (small, error);
  assert_int_equal (nf_device_get_allocated (device), 1000);
  /* all of it at once: the last is refused, whoever notices first */
  g_autoptr (GError) full = NULL;
  for (guint i = 0; !full; i++)
    {
      NfBuffer *buffer = nf_buffer_new (device, info->max_alloc, &full);
      if (buffer)
        g_ptr_array_add (buffers, buffer);
      assert_true (nf_device_get_allocated (device) <= info->global_memory);
      assert_true ((guint64)i <= info->global_memory / info->max_alloc);
    }
  assert_true (g_error_matches (full, NF_ERROR, NF_ERROR_NO_MEMORY));
  assert_contains (full->message, "smaller");
  g_clear_pointer (&buffers, g_ptr_array_unref);
  assert_int_equal (nf_device_get_allocated (device), 1000);
  g_clear_pointer (&small, nf_buffer_free);
  assert_int_equal (nf_device_get_allocated (device), 0);
}

/* Around the sizes from which on a CPU's are large pages: every byte is there, other buffers' stay as they
 * are, and what was asked for before a buffer was freed still happens. */
static void
test_large_buffers (void **state)
{
  const gsize sizes[] = { (2 << 20) - 4, 2 << 20, (3 << 20) + 4, (6 << 20) - 4, 8 << 20 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = open_device ("cpu");
  cl_command_queue queue = nf_device_new_queue (device, &error);
  NfBuffer *buffers[G_N_ELEMENTS (sizes)];
  g_autofree guint32 *words = g_malloc (8 << 20), *back = g_malloc0 (8 << 20);

  nf_test_ok (queue, error);
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      buffers[i] = nf_buffer_new (device, sizes[i], &error);
      nf_test_ok (buffers[i], error);
      if (buffers[i]->memory)
        {
          assert_int_equal (
              clEnqueueReadBuffer (queue, buffers[i]->mem, CL_TRUE, 0, sizes[i], back, 0, NULL, NULL),
              CL_SUCCESS);
          for (gsize w = 0; w < sizes[i] / 4; w++)
            assert_int_equal (back[w], 0);
          memset (back, 1, sizes[i]);
        }
      for (gsize w = 0; w < sizes[i] / 4; w++)
        words[w] = (guint32)w * 2654435761u + i;
      assert_int_equal (
          clEnqueueWriteBuffer (queue, buffers[i]->mem, CL_TRUE, 0, sizes[i], words, 0, NULL, NULL),
          CL_SUCCESS);
    }
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      assert_int_equal (
          clEnqueueReadBuffer (queue, buffers[i]->mem, CL_FALSE, 0, sizes[i], back, 0, NULL, NULL),
          CL_SUCCESS);
      nf_buffer_free (buffers[i]);
      assert_int_equal (clFinish (queue), CL_SUCCESS);
      for (gsize w = 0; w < sizes[i] / 4; w++)
        assert_int_equal (back[w], (guint32)w * 2654435761u + i);
    }
  assert_int_equal (nf_device_get_allocated (device), 0);
  clReleaseCommandQueue (queue);
}

/* A buffer keeps its device. */
static void
test_lifetime (void **state)
{
  g_autoptr (GError) error = NULL;
  NfDevice *device = open_device ("cpu");
  NfBuffer *buffer = nf_buffer_new (device, 64, &error);
  nf_test_ok (buffer, error);
  g_object_add_weak_pointer (G_OBJECT (device), (gpointer *)&device);
  g_object_unref (device);
  assert_non_null (device);
  nf_buffer_free (buffer);
  assert_null (device);
}

static gpointer
open_one (gpointer data)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  if (!device)
    g_atomic_int_inc ((gint *)data);
  return NULL;
}

/* TEXT in the file NAME of a folder that is made with all around it. */
static void
write_file (const char *folder, const char *name, const char *text)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = g_build_filename (folder, name, NULL), *parent = g_path_get_dirname (path);
  assert_int_equal (g_mkdir_with_parents (parent, 0700), 0);
  nf_test_ok (g_file_set_contents (path, text, -1, &error), error);
}

static guint
read_share (const char *folder, const char *groups)
{
  g_autofree char *list = g_build_filename (folder, "list", NULL);
  write_file (folder, "list", groups);
  return nf_cpu_read_share (list, folder);
}

/* What control groups of either version leave of the processors: the least of a group and those around it. */
static void
test_share (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *folder = g_dir_make_tmp ("normflow-XXXXXX", &error);
  nf_test_ok (folder, error);
  assert_true (nf_cpu_read_share ("/nowhere", folder) == G_MAXUINT);
  assert_true (read_share (folder, "0::/a/b\n") == G_MAXUINT);
  write_file (folder, "a/cpu.max", "250000 100000\n");
  write_file (folder, "a/b/cpu.max", "max 100000\n");
  assert_int_equal (read_share (folder, "0::/a/b\n"), 3);
  write_file (folder, "a/b/cpu.max", "50000 100000\n");
  assert_int_equal (read_share (folder, "0::/a/b\n"), 1);
  assert_int_equal (read_share (folder, "0::/a\n"), 3);
  assert_true (read_share (folder, "0::/\n") == G_MAXUINT);

  /* of version 1 a container sees its own group as the outermost, whatever its path */
  write_file (folder, "cpu/cpu.cfs_quota_us", "-1\n");
  write_file (folder, "cpu/cpu.cfs_period_us", "100000\n");
  assert_true (read_share (folder, "12:memory:/a\n4:cpu,cpuacct:/far/away\n0::/\n") == G_MAXUINT);
  write_file (folder, "cpu/cpu.cfs_quota_us", "400000\n");
  assert_int_equal (read_share (folder, "12:memory:/a\n4:cpu,cpuacct:/far/away\n0::/\n"), 4);
  write_file (folder, "cpu/far/cpu.cfs_quota_us", "150000\n");
  write_file (folder, "cpu/far/cpu.cfs_period_us", "100000\n");
  assert_int_equal (read_share (folder, "4:cpu:/far/away\n"), 2);
  assert_true (read_share (folder, "4:cpuset:/far/away\n5:cpuacct:/far\nnothing\n") == G_MAXUINT);
  nf_test_remove (folder);
}

/* The first thing that this process does: drivers make their devices then. */
static void
test_opened_by_several (void **state)
{
  GThread *threads[4];
  gint failed = 0;
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    threads[i] = g_thread_new ("opens", open_one, &failed);
  for (guint i = 0; i < G_N_ELEMENTS (threads); i++)
    g_thread_join (threads[i]);
  assert_int_equal (failed, 0);
}

int
main (int argc, char **argv)
{
  static const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_opened_by_several),
    cmocka_unit_test (test_list),
    cmocka_unit_test_setup_teardown (test_specifications, clear_environment, clear_environment),
    cmocka_unit_test (test_prefer),
    cmocka_unit_test_setup_teardown (test_usual, clear_environment, clear_environment),
    cmocka_unit_test_setup_teardown (test_f32_forms, clear_environment, clear_environment),
    cmocka_unit_test_setup_teardown (test_launch, clear_environment, clear_environment),
    cmocka_unit_test_setup_teardown (test_bf16_forms, clear_environment, clear_environment),
    cmocka_unit_test_setup_teardown (test_refusals, clear_environment, clear_environment),
    cmocka_unit_test_setup_teardown (test_environment, clear_environment, clear_environment),
    cmocka_unit_test (test_no_driver),
    cmocka_unit_test (test_cache),
    cmocka_unit_test (test_cache_that_cannot_be),
    cmocka_unit_test (test_build_errors),
    cmocka_unit_test (test_memory),
    cmocka_unit_test (test_large_buffers),
    cmocka_unit_test (test_lifetime),
    cmocka_unit_test (test_share),
  };
  if (argc == 2 && strcmp (argv[1], "--child") == 0)
    return run_child ();
  program_name = argv[0];
  return cmocka_run_group_tests_name ("device", tests, NULL, NULL);
}
