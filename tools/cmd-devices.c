/* normflow devices: the OpenCL devices. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"

#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>

#define MAX_NAME 40
#define MAX_LINE 100

/* What would make products of PRECISION on the device, see nf_device_get_form(); NULL if it cannot be opened.
 */
static char *
find_form (const NfDeviceInfo *info, const char *precision)
{
  g_autofree char *spec = g_strdup_printf ("%s,precision=%s", info->id, precision);
  g_autoptr (NfDevice) device = info->usable ? nf_device_open (spec, NULL) : NULL;

  if (!device)
    return NULL;
  return g_strdup (nf_device_get_form (device));
}

/* Kernel variant that the device gets, NULL if it cannot be opened; REASON then says why. */
static char *
find_kernels (const NfDeviceInfo *info, char **reason)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = NULL;

  if (!info->usable)
    {
      *reason = g_strdup (info->reason);
      return NULL;
    }
  device = nf_device_open (info->id, &error);
  if (!device)
    {
      *reason = g_strdup (error->message);
      return NULL;
    }
  return g_strdup (nf_device_get_kernels (device));
}

static void
add_bool (JsonBuilder *builder, const char *name, gboolean value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_boolean_value (builder, value);
}

static void
add_int (JsonBuilder *builder, const char *name, guint64 value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_int_value (builder, (gint64)MIN (value, (guint64)G_MAXINT64));
}

static void
add_string (JsonBuilder *builder, const char *name, const char *value)
{
  json_builder_set_member_name (builder, name);
  if (value)
    json_builder_add_string_value (builder, value);
  else
    json_builder_add_null_value (builder);
}

static void
print_json (GPtrArray *devices, NfDevice *opened)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (JsonNode) root = NULL;
  g_autofree char *text = NULL;
  const char *chosen = opened ? nf_device_get_info (opened)->id : NULL;

  json_builder_begin_array (builder);
  for (guint i = 0; i < devices->len; i++)
    {
      const NfDeviceInfo *info = devices->pdata[i];
      g_autofree char *reason = NULL;
      g_autofree char *kernels = find_kernels (info, &reason), *form = find_form (info, "bf16"),
                      *weights_form = find_form (info, "bf16-weights"),
                      *int8_form = find_form (info, "int8-weights"), *f32_form = find_form (info, "f32");

      json_builder_begin_object (builder);
      add_string (builder, "id", info->id);
      add_string (builder, "name", info->name);
      add_string (builder, "platform", info->platform);
      add_string (builder, "driver", info->driver);
      add_string (builder, "type", info->is_gpu ? "gpu" : "cpu");
      add_int (builder, "compute_units", info->compute_units);
      add_int (builder, "clock_mhz", info->clock_mhz);
      add_int (builder, "global_memory", info->global_memory);
      add_int (builder, "local_memory", info->local_memory);
      add_int (builder, "max_alloc", info->max_alloc);
      add_int (builder, "vector_width", info->vector_width);
      add_bool (builder, "fp16", info->fp16);
      add_bool (builder, "fp64", info->fp64);
      add_bool (builder, "bf16", info->bf16);
      add_string (builder, "bf16_form", form);
      add_string (builder, "bf16_weights_form", weights_form);
      add_string (builder, "int8_weights_form", int8_form);
      add_string (builder, "f32_form", f32_form);
      add_string (builder, "kernels", kernels);
      add_bool (builder, "usable", kernels != NULL);
      add_string (builder, "reason", reason);
      add_bool (builder, "chosen", g_strcmp0 (info->id, chosen) == 0);
      if (g_strcmp0 (info->id, chosen) == 0)
        {
          add_string (builder, "precision", nf_device_get_precision (opened));
          add_string (builder, "launch", nf_device_get_launch (opened));
        }
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  root = json_builder_get_root (builder);
  text = json_to_string (root, TRUE);
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

static void
print_table (GPtrArray *devices, const char *chosen, const char *precision)
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
      g_autofree char *reason = NULL;
      g_autofree char *kernels = find_kernels (info, &reason), *form = find_form (info, "bf16"),
                      *weights_form = find_form (info, "bf16-weights"),
                      *int8_form = find_form (info, "int8-weights"), *f32_form = find_form (info, "f32");
      g_autofree char *name = g_utf8_substring (info->name, 0, MIN (width, g_utf8_strlen (info->name, -1)));

      any = any || is_chosen;
      printf ("%c %-4s %s%*s  %-4s %6u  %5u MHz  %6.1f GiB  %6u  %-4s  %-4s  %-4s  %-4s  %-12s  %-12s  %s\n",
              is_chosen ? '*' : ' ', info->id, name, width - (int)g_utf8_strlen (name, -1), "",
              info->is_gpu ? "GPU" : "CPU", info->compute_units, info->clock_mhz,
              (double)info->global_memory / (1 << 30), info->vector_width, info->fp16 ? "yes" : "no",
              info->fp64 ? "yes" : "no", f32_form ? f32_form : "-", form ? form : "-",
              weights_form ? weights_form : "-", int8_form ? int8_form : "-", kernels ? kernels : "-");
      print_cut (info->platform, info->driver);
      if (reason)
        printf ("       not usable: %s\n", reason);
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
    print_json (devices, device);
  else if (devices->len)
    print_table (devices, chosen, precision);
  return device ? 0 : nf_command_fail (&command, unfit);
}
