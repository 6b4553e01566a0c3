/* normflow: devices and what they compute by, as text. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-device-spec.h"

#include <string.h>

/* More than a long name with all that can be said and preferred; messages repeat it. */
#define MAX_SPEC_LENGTH 1024

const char *const nf_precision_names[] = { [NF_PRECISION_F32] = "f32",
                                           [NF_PRECISION_BF16] = "bf16",
                                           [NF_PRECISION_BF16_WEIGHTS] = "bf16-weights",
                                           [NF_PRECISION_INT8_WEIGHTS] = "int8-weights",
                                           NULL };
const char *const nf_bf16_names[]
    = { [NF_BF16_FMA] = "fma", [NF_BF16_DOT] = "dot", [NF_BF16_AMX] = "amx", [NF_BF16_MMA] = "mma", NULL };
const char *const nf_f32_names[]
    = { [NF_F32_FMA] = "fma", [NF_F32_AMX] = "amx", [NF_F32_MMA] = "mma", "auto", NULL };
const char *const nf_int8_names[] = {
  [NF_INT8_FMA] = "fma", [NF_INT8_MADD] = "madd", [NF_INT8_VNNI] = "vnni", [NF_INT8_AMX] = "amx", NULL
};
const char *const nf_launch_names[] = { "lists", "each", NULL };

const char *const *
nf_device_precisions (void)
{
  return nf_precision_names;
}

/* What to open */

static gboolean
parse_kernels (const char *value, const char *where, NfKernels *kernels, GError **error)
{
  if (g_ascii_strcasecmp (value, "cpu") == 0)
    *kernels = NF_KERNELS_CPU;
  else if (g_ascii_strcasecmp (value, "gpu") == 0)
    *kernels = NF_KERNELS_GPU;
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
  return parse_name (value, nf_precision_names, where,
                     "%s: precision \"%s\" is not one of: f32, bf16, bf16-weights, int8-weights, auto",
                     precision, error);
}

static gboolean
parse_bf16 (const char *value, const char *where, const char **bf16, GError **error)
{
  return parse_name (value, nf_bf16_names, where,
                     "%s: products of bfloat16 by \"%s\": only by amx, dot, mma and fma", bf16, error);
}

static gboolean
parse_f32 (const char *value, const char *where, const char **f32, GError **error)
{
  return parse_name (value, nf_f32_names, where,
                     "%s: products of floats by \"%s\": only by amx, mma, fma and auto", f32, error);
}

static gboolean
parse_int8 (const char *value, const char *where, const char **int8, GError **error)
{
  return parse_name (value, nf_int8_names, where,
                     "%s: products of integers by \"%s\": only by amx, vnni, madd and fma", int8, error);
}

static gboolean
parse_launch (const char *value, const char *where, const char **launch, GError **error)
{
  return parse_name (value, nf_launch_names, where, "%s: launches of \"%s\": only lists and each exist",
                     launch, error);
}

/* What FORM leaves open is as in OTHER. */
static void
fill_form (NfDeviceForm *form, const NfDeviceForm *other)
{
  if (form->kernels == NF_KERNELS_BY_DEVICE)
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
parse_form (const char *part, const char *spec, const char *where, NfDeviceForm *form, GError **error)
{
  if (g_str_has_prefix (part, "kernels=") && form->kernels == NF_KERNELS_BY_DEVICE)
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

gboolean
nf_device_spec_is_index (const char *name)
{
  gsize before = strspn (name, "0123456789");
  gsize after = name[before] == ':' ? strspn (name + before + 1, "0123456789") : 0;
  return before > 0 && after > 0 && name[before + 1 + after] == '\0';
}

/* Splits SPEC into NAME ("" if it has none), FORM, and USUAL, what is to be where nothing else is said. WHERE
 * names its source in messages. */
static gboolean
parse_spec (const char *spec, const char *where, char **name, NfDeviceForm *form, NfDeviceForm *usual,
            GError **error)
{
  if (strlen (spec) > MAX_SPEC_LENGTH || !g_utf8_validate (spec, -1, NULL))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: a device specification is at most %d bytes of UTF-8", where, MAX_SPEC_LENGTH);
      return FALSE;
    }

  g_auto (GStrv) parts = g_strsplit (spec, ",", -1);
  *form = *usual = (NfDeviceForm){ 0 };
  for (guint i = 1; parts[0] && parts[i]; i++)
    {
      char *part = g_strstrip (parts[i]), *mark = strstr (part, "?=");
      NfDeviceForm one = { 0 };
      if (mark)
        memmove (mark, mark + 1, strlen (mark));
      if (!parse_form (part, spec, where, mark ? &one : form, error))
        return FALSE;
      fill_form (usual, &one);
    }

  g_autofree char *device = g_strstrip (g_strdup (parts[0] ? parts[0] : ""));
  if (strchr (device, '=') || (is_index_like (device) && !nf_device_spec_is_index (device)))
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
  NfDeviceForm form, usual;
  return !spec || parse_spec (spec, "device", &name, &form, &usual, error);
}

gboolean
nf_device_spec_resolve (const char *spec, char **name, NfDeviceForm *form, NfDeviceForm *preferred,
                        GError **error)
{
  g_autofree char *device = NULL;
  NfDeviceForm usual;
  if (!parse_spec (spec ? spec : "", "device", &device, form, &usual, error))
    return FALSE;

  const char *environment = g_getenv ("NORMFLOW_DEVICE");
  if (*device == '\0' && environment)
    {
      NfDeviceForm theirs, their_usual;
      g_clear_pointer (&device, g_free);
      if (!parse_spec (environment, "NORMFLOW_DEVICE", &device, &theirs, &their_usual, error))
        return FALSE;
      fill_form (form, &theirs);
      fill_form (&their_usual, &usual);
      usual = their_usual;
    }

  environment = g_getenv ("NORMFLOW_KERNELS");
  if (form->kernels == NF_KERNELS_BY_DEVICE && environment && *environment
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
  *preferred = (NfDeviceForm){ .bf16 = usual.bf16, .f32 = usual.f32, .int8 = usual.int8 };
  usual.bf16 = usual.f32 = usual.int8 = NULL;
  fill_form (form, &usual);

  *name = *device ? g_steal_pointer (&device) : g_strdup ("auto");
  return TRUE;
}

/* What multiplies */

#define USUAL_WIDTH 16
#define WIDTH_MARK "-" /* between what multiplies and a width */

const char *
nf_arithmetic_name (const char *form, gboolean gpu_kernels, guint vector_width)
{
  if (strcmp (form, "mma") == 0 || (!gpu_kernels && vector_width == USUAL_WIDTH))
    return form;
  g_autofree char *text = gpu_kernels ? g_strconcat (form, WIDTH_MARK "gpu", NULL)
                                      : g_strdup_printf ("%s" WIDTH_MARK "%u", form, vector_width);
  return g_intern_string (text);
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
  parsed.integers = strcmp (precision, nf_precision_names[NF_PRECISION_INT8_WEIGHTS]) == 0
                    && g_strv_contains (nf_int8_names, parsed.form)
                    && strcmp (parsed.form, nf_int8_names[NF_INT8_FMA]) != 0;
  parsed.rounds = parsed.integers || strcmp (precision, nf_precision_names[NF_PRECISION_BF16]) == 0;
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
  const char *const *known = bf16 ? nf_bf16_names : int8 ? nf_int8_names : nf_f32_names;
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
