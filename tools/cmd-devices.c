/* normflow devices: the OpenCL devices. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "json.h"

#include <stdio.h>
#include <string.h>

#define MAX_NAME 40
#define MAX_LINE 100

/* SPEC (nullable) without the precision. */
static char *
any_precision (const char *spec)
{
  g_auto (GStrv) parts = g_strsplit (spec ? spec : "", ",", -1);
  g_autoptr (GString) rest = g_string_new (parts[0]);
  for (guint i = 1; parts[0] && parts[i]; i++)
    if (!g_str_has_prefix (g_strstrip (parts[i]), "precision"))
      g_string_append_printf (rest, ",%s", parts[i]);
  return g_string_free (g_steal_pointer (&rest), FALSE);
}

/* How a device is opened; NULL is what cannot be. */
typedef struct
{
  char *reason, *kernels;
  guint vectors;                                  /* floats in one; 0: unknown */
  char *f32, *bf16, *bf16_weights, *int8_weights; /* what makes products, see nf_device_get_form() */
} Ways;

static void
ways_clear (Ways *self)
{
  g_free (self->reason);
  g_free (self->kernels);
  g_free (self->f32);
  g_free (self->bf16);
  g_free (self->bf16_weights);
  g_free (self->int8_weights);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Ways, ways_clear)

static char *
find_form (const char *spec, const char *precision)
{
  g_autofree char *whole = g_strdup_printf ("%s,precision=%s", spec, precision);
  g_autoptr (NfDevice) device = nf_device_open (whole, NULL);

  return device ? g_strdup (nf_device_get_form (device)) : NULL;
}

/* Of the device, as ASKED (nullable) says where it is the one that is CHOSEN. */
static void
ways_find (Ways *self, const NfDeviceInfo *info, gboolean chosen, const char *asked)
{
  g_autofree char *spec = chosen ? any_precision (asked) : g_strdup (info->id);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = info->usable ? nf_device_open (spec, &error) : NULL;

  if (!device)
    {
      self->reason = g_strdup (info->usable ? error->message : info->reason);
      return;
    }
  self->kernels = g_strdup (nf_device_get_kernels (device));
  self->vectors = nf_device_get_vector_width (device);
  self->f32 = find_form (spec, "f32");
  self->bf16 = find_form (spec, "bf16");
  self->bf16_weights = find_form (spec, "bf16-weights");
  self->int8_weights = find_form (spec, "int8-weights");
}

static void
print_json (GPtrArray *devices, NfDevice *opened, const char *asked)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autofree char *text = NULL;
  const char *chosen = opened ? nf_device_get_info (opened)->id : NULL;

  json_builder_begin_array (builder);
  for (guint i = 0; i < devices->len; i++)
    {
      const NfDeviceInfo *info = devices->pdata[i];
      const gboolean is_chosen = g_strcmp0 (info->id, chosen) == 0;
      g_auto (Ways) ways = { 0 };

      ways_find (&ways, info, is_chosen, asked);
      json_builder_begin_object (builder);
      nf_json_add_string (builder, "id", info->id);
      nf_json_add_string (builder, "name", info->name);
      nf_json_add_string (builder, "platform", info->platform);
      nf_json_add_string (builder, "driver", info->driver);
      nf_json_add_string (builder, "type", info->is_gpu ? "gpu" : "cpu");
      nf_json_add_int (builder, "compute_units", info->compute_units);
      nf_json_add_int (builder, "clock_mhz", info->clock_mhz);
      nf_json_add_int (builder, "global_memory", info->global_memory);
      nf_json_add_int (builder, "local_memory", info->local_memory);
      nf_json_add_int (builder, "max_alloc", info->max_alloc);
      nf_json_add_int (builder, "vector_width", ways.vectors ? ways.vectors : info->vector_width);
      nf_json_add_bool (builder, "fp16", info->fp16);
      nf_json_add_bool (builder, "fp64", info->fp64);
      nf_json_add_bool (builder, "bf16", info->bf16);
      nf_json_add_string (builder, "bf16_form", ways.bf16);
      nf_json_add_string (builder, "bf16_weights_form", ways.bf16_weights);
      nf_json_add_string (builder, "int8_weights_form", ways.int8_weights);
      nf_json_add_string (builder, "f32_form", ways.f32);
      nf_json_add_string (builder, "kernels", ways.kernels);
      nf_json_add_bool (builder, "usable", ways.kernels != NULL);
      nf_json_add_string (builder, "reason", ways.reason);
      nf_json_add_bool (builder, "chosen", is_chosen);
      if (is_chosen)
        {
          nf_json_add_string (builder, "precision", nf_device_get_precision (opened));
          nf_json_add_string (builder, "launch", nf_device_get_launch (opened));
        }
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  text = nf_json_text (builder, TRUE);
  puts (text);
}

/* Drivers may state every option they were built with. */
static void
print_cut (const char *platform, const char *driver)
{
  g_autofree char *line = g_strdup_printf ("%s, %s", platform, driver);

  if (g_utf8_strlen (line, -1) > MAX_LINE)
    strcpy (g_utf8_offset_to_pointer (line, MAX_LINE - 3), "...");
  printf ("       %s\n", line);
}

static const char *
or_dash (const char *text)
{
  return text ? text : "-";
}

static void
print_table (GPtrArray *devices, const char *chosen, const char *precision, const char *asked)
{
  gboolean any = FALSE;
  int width = 4;

  for (guint i = 0; i < devices->len; i++)
    {
      const NfDeviceInfo *info = devices->pdata[i];

      width = CLAMP ((int)g_utf8_strlen (info->name, -1), width, MAX_NAME);
    }
  printf ("  ID   %-*s  TYPE  UNITS      CLOCK      MEMORY  VECTOR  FP16  FP64  F32   BF16  BF16-WEIGHTS  "
          "INT8-WEIGHTS  KERNELS\n",
          width, "NAME");
  for (guint i = 0; i < devices->len; i++)
    {
      const NfDeviceInfo *info = devices->pdata[i];
      gboolean is_chosen = g_strcmp0 (info->id, chosen) == 0;
      g_auto (Ways) ways = { 0 };
      g_autofree char *name = g_utf8_substring (info->name, 0, MIN (width, g_utf8_strlen (info->name, -1)));

      ways_find (&ways, info, is_chosen, asked);
      any = any || is_chosen;
      printf ("%c %-4s %s%*s  %-4s %6u  %5u MHz  %6.1f GiB  %6u  %-4s  %-4s  %-4s  %-4s  %-12s  %-12s  %s\n",
              is_chosen ? '*' : ' ', info->id, name, width - (int)g_utf8_strlen (name, -1), "",
              info->is_gpu ? "GPU" : "CPU", info->compute_units, info->clock_mhz,
              (double)info->global_memory / (1 << 30), ways.vectors ? ways.vectors : info->vector_width,
              info->fp16 ? "yes" : "no", info->fp64 ? "yes" : "no", or_dash (ways.f32), or_dash (ways.bf16),
              or_dash (ways.bf16_weights), or_dash (ways.int8_weights), or_dash (ways.kernels));
      print_cut (info->platform, info->driver);
      if (ways.reason)
        printf ("       not usable: %s\n", ways.reason);
    }
  if (any)
    printf (
        "\n* is what normflow uses, with matrix products in %s; --device and --precision, or the environment "
        "variables\nNORMFLOW_DEVICE and NORMFLOW_PRECISION, say otherwise.\n",
        precision);
}

int
nf_cmd_devices (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_autoptr (GError) error = NULL, unfit = NULL;
  g_autoptr (GPtrArray) devices = NULL;
  g_autoptr (NfDevice) device = NULL;
  const char *chosen = NULL;
  gboolean json = FALSE;
  const GOptionEntry entries[]
      = { { "json", 0, 0, G_OPTION_ARG_NONE, &json, "As JSON, with every detail", NULL }, { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_DEVICE, NULL,
          "Lists the OpenCL devices, marks the one that would be used, and says what each can do.",
          "--device DEVICE shows which one a specification means.", 0, 0))
    return NF_EXIT_USAGE;
  devices = nf_device_list (&error);
  if (!devices)
    return nf_command_fail (&command, error);
  device = nf_device_open (command.device, &unfit);
  if (device)
    chosen = nf_device_get_info (device)->id;
  const char *precision = device ? nf_device_get_precision (device) : NULL;
  if (json)
    print_json (devices, device, command.device);
  else if (devices->len)
    print_table (devices, chosen, precision, command.device);
  return device ? 0 : nf_command_fail (&command, unfit);
}
