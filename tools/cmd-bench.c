/* normflow bench: this machine's limits, and how near the flow comes to them. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "bench.h"
#include "command.h"
#include "json.h"
#include "profile.h"

#include "nf-ops.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_BATCH 8
#define MAX_BATCH 4096

static const char *const kinds[] = { "matmul", "gradient", "attention", "layernorm", "encode", "frame",
                                     "decode", "step",     "train",     "openblas",  NULL };

static void
result_free (NfBenchResult *result)
{
  g_free (result->what);
  g_free (result->size);
  g_clear_pointer (&result->times, g_ptr_array_unref);
  g_free (result);
}

static void
bench_clear (NfBench *bench)
{
  nf_bench_limits_clear (&bench->limits);
  g_clear_object (&bench->device);
  g_clear_pointer (&bench->results, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfBench, bench_clear)

double
nf_bench_now (void)
{
  return (double)g_get_monotonic_time () / G_USEC_PER_SEC;
}

static int
compare_doubles (const void *a, const void *b)
{
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double
nf_bench_median (double *values, guint n)
{
  qsort (values, n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* Measuring */

gboolean
nf_bench_measure_bound (NfBench *bench, const char *what, const char *size, NfBenchBound bound,
                        NfBenchWork work, gpointer data, GError **error)
{
  double seconds[NF_BENCH_MAX_REPETITIONS], shares[NF_BENCH_MAX_REPETITIONS];
  const double budget = bench->quick ? 0.3 : 8;
  const guint least = bench->quick ? 1 : 3;
  guint n = 0;

  nf_progress_update (bench->command->progress, "%s %s", what, size);
  /* the first run compiles and allocates */
  if (!work (data, error))
    return FALSE;
  const double end = nf_bench_now () + budget;
  while (n < least || (n < NF_BENCH_MAX_REPETITIONS && nf_bench_now () < end))
    {
      double limit;
      if (!nf_command_go_on (bench->command, error)
          || !(bound.bytes > 0 ? nf_bench_read_burst (&bench->limits, bound.memory, &limit, error)
                               : nf_bench_burst (&bench->limits, &limit, error)))
        return FALSE;
      const double start = nf_bench_now ();
      if (!work (data, error))
        return FALSE;
      seconds[n] = MAX (nf_bench_now () - start, 1e-9);
      shares[n] = 1e-9 * (bound.bytes > 0 ? bound.bytes : bound.flops) / seconds[n] / limit;
      n++;
    }
  NfBenchResult *result = g_new0 (NfBenchResult, 1);
  result->what = g_strdup (what);
  result->size = g_strdup (size);
  result->seconds = nf_bench_median (seconds, n);
  result->gflops = bound.bytes > 0 ? NAN : 1e-9 * bound.flops / result->seconds;
  result->gbps = bound.bytes > 0 ? 1e-9 * bound.bytes / result->seconds : NAN;
  result->share = nf_bench_median (shares, n);
  g_ptr_array_add (bench->results, result);
  return TRUE;
}

gboolean
nf_bench_measure (NfBench *bench, const char *what, const char *size, double flops, NfBenchWork work,
                  gpointer data, GError **error)
{
  return nf_bench_measure_bound (bench, what, size, (NfBenchBound){ .flops = flops }, work, data, error);
}

gboolean
nf_bench_selects (const NfBench *bench, const char *kind)
{
  return !bench->selected[0] || g_strv_contains ((const char *const *)bench->selected, kind);
}

void
nf_bench_fill_random (float *values, gsize n)
{
  nf_random_normal (1, 0, n, 1, values);
}

gboolean
nf_bench_takes_gradients (NfBench *bench, const char *what)
{
  if (!nf_bench_selects (bench, what))
    return FALSE;
  if (nf_device_has_gradients (bench->device))
    return TRUE;
  nf_progress_note (bench->command->progress, "%s left out: in %s there are no gradients of weights", what,
                    nf_device_get_precision (bench->device));
  return FALSE;
}

void
nf_bench_divide_last (NfBench *bench, guint n)
{
  NfBenchResult *result = bench->results->pdata[bench->results->len - 1];
  result->seconds /= n;
}

static gboolean
run_all (NfBench *bench, GPtrArray *models, GError **error)
{
  static const guint products[][3]
      = { { 256, 2304, 768 }, { 1024, 1024, 1024 }, { 256, 2048, 512 }, { 2048, 2048, 512 },
          { 12, 2304, 768 },  { 8, 2048, 512 },     { 1, 2048, 512 } };

  if (!nf_bench_limits_init (&bench->limits, bench->device, error)
      || !nf_bench_measure_multiply_add (bench, error) || !nf_bench_measure_reading (bench, error))
    return FALSE;
  for (guint i = 0; nf_bench_selects (bench, "matmul") && i < G_N_ELEMENTS (products); i++)
    if ((!bench->quick || i == 0)
        && !nf_bench_matmul (bench, products[i][0], products[i][1], products[i][2], error))
      return FALSE;
  if (nf_bench_selects (bench, "openblas")
      && !nf_bench_openblas (bench, products[0][0], products[0][1], products[0][2], error))
    return FALSE;
  if (nf_bench_selects (bench, "attention")
      && !nf_bench_attention (bench, bench->quick ? 1 : 8, 256, 8, FALSE, error))
    return FALSE;
  if (nf_bench_takes_gradients (bench, "gradient")
      && (!nf_bench_matmul_tn (bench, bench->quick ? 256 : 1024, 2048, 512, error)
          || !nf_bench_attention (bench, bench->quick ? 1 : 8, 256, 8, TRUE, error)))
    return FALSE;
  if (nf_bench_selects (bench, "layernorm")
      && !nf_bench_layernorm (bench, bench->quick ? 256 : 32768, 512, error))
    return FALSE;
  for (guint i = 0; i < models->len; i++)
    if (!nf_bench_model (bench, models->pdata[i], error))
      return FALSE;
  return TRUE;
}

/* Reports */

/* Of what products the limit is: of floats where fewer bits have no instructions of their own. */
static const char *
get_limit_precision (const NfBench *bench)
{
  return bench->limits.by ? nf_device_get_precision (bench->device) : "f32";
}

static void
print_table (const NfBench *bench)
{
  const NfDeviceInfo *info = nf_device_get_info (bench->device);

  printf ("%s %s, %u compute units, %s kernels, products in %s\n", info->id, info->name, info->compute_units,
          nf_device_get_kernels (bench->device), nf_device_get_precision (bench->device));
  const char *precision = get_limit_precision (bench);
  printf ("limits: %.1f GFLOP/s multiply-add, %s%s%s", bench->multiply_add_gflops,
          strcmp (precision, "f32") == 0                   ? "single precision"
          : strcmp (precision, "bf16") == 0                ? "bfloat16"
          : nf_device_values_per_word (bench->device) == 4 ? "integers of 16 and 8 bits"
                                                           : "floats and bfloat16",
          bench->limits.by ? " by " : "", bench->limits.by ? bench->limits.by : "");
  if (!isnan (bench->read_gbps))
    printf ("; %.1f GB/s reading memory", bench->read_gbps);
  int width = 28;
  for (guint i = 0; i < bench->results->len; i++)
    width = MAX (width, (int)g_utf8_strlen (((NfBenchResult *)bench->results->pdata[i])->size, -1));
  printf ("\n\n%-10s %-*s %12s %15s %8s\n", "", width, "SIZE", "TIME", "RATE", "SHARE");
  for (guint i = 0; i < bench->results->len; i++)
    {
      const NfBenchResult *r = bench->results->pdata[i];
      const gboolean memory = isnan (r->gflops);
      printf ("%-10s %s%*s %9.3f ms %7.1f %-7s %6.1f %%\n", r->what, r->size,
              width - (int)g_utf8_strlen (r->size, -1), "", 1e3 * r->seconds, memory ? r->gbps : r->gflops,
              memory ? "GB/s" : "GFLOP/s", 100 * r->share);
    }
  for (guint i = 0; i < bench->results->len; i++)
    {
      const NfBenchResult *r = bench->results->pdata[i];
      g_autofree char *what = g_strdup_printf ("%s %s", r->what, r->size);
      if (r->times)
        nf_profile_print (what, r->times, 0);
    }
}

static void
add_profile (JsonBuilder *builder, GPtrArray *times)
{
  json_builder_set_member_name (builder, "profile");
  json_builder_begin_array (builder);
  for (guint i = 0; i < times->len; i++)
    {
      const NfOpsTime *time = times->pdata[i];
      json_builder_begin_object (builder);
      nf_json_add_string (builder, "command", time->name);
      json_builder_set_member_name (builder, "launches");
      json_builder_add_int_value (builder, (gint64)time->launches);
      nf_json_add_double (builder, "seconds", time->seconds);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

static void
print_json (const NfBench *bench)
{
  const NfDeviceInfo *info = nf_device_get_info (bench->device);
  g_autoptr (JsonBuilder) builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "device");
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "id", info->id);
  nf_json_add_string (builder, "name", info->name);
  nf_json_add_string (builder, "driver", info->driver);
  nf_json_add_string (builder, "kernels", nf_device_get_kernels (bench->device));
  nf_json_add_string (builder, "precision", nf_device_get_precision (bench->device));
  json_builder_set_member_name (builder, "compute_units");
  json_builder_add_int_value (builder, info->compute_units);
  json_builder_end_object (builder);
  json_builder_set_member_name (builder, "limits");
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "of", get_limit_precision (bench));
  nf_json_add_string (builder, "by", bench->limits.by);
  nf_json_add_double (builder, "multiply_add_gflops", bench->multiply_add_gflops);
  nf_json_add_double (builder, "read_gbps", bench->read_gbps);
  json_builder_end_object (builder);
  json_builder_set_member_name (builder, "results");
  json_builder_begin_array (builder);
  for (guint i = 0; i < bench->results->len; i++)
    {
      const NfBenchResult *r = bench->results->pdata[i];
      json_builder_begin_object (builder);
      nf_json_add_string (builder, "what", r->what);
      nf_json_add_string (builder, "size", r->size);
      nf_json_add_double (builder, "seconds", r->seconds);
      nf_json_add_double (builder, "gflops", r->gflops);
      nf_json_add_double (builder, "gbps", r->gbps);
      nf_json_add_double (builder, "share", r->share);
      if (r->times)
        add_profile (builder, r->times);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  json_builder_end_object (builder);
  g_autofree char *text = nf_json_text (builder, TRUE);
  puts (text);
}

int
nf_cmd_bench (int argc, char **argv)
{
  /* it has options and a table of its own; a word of this one's after it is no video */
  if (argc > 1 && strcmp (argv[1], "decode") == 0 && !(argc > 2 && g_strv_contains (kinds, argv[2])))
    {
      argv[1] = (char *)"bench decode";
      return nf_cmd_bench_decode (argc - 1, argv + 1);
    }

  g_auto (NfCommand) command = { 0 };
  g_auto (NfBench) bench = { .command = &command };
  g_autoptr (GError) error = NULL;
  g_autofree char *chosen = NULL;
  g_auto (GStrv) names = NULL;
  g_autoptr (GPtrArray) models = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_bench_size_free);
  gboolean json = FALSE;
  gint batch = DEFAULT_BATCH;
  const GOptionEntry entries[]
      = { { "sizes", 's', 0, G_OPTION_ARG_STRING, &chosen,
            "Models, comma-separated: tiny, bundled, or of random weights by name: 64x64p4-512 has 64x64 "
            "pixels, patches of 4, width 512, and 4 blocks of 4 layers unless -BxL follows (default: "
            "tiny,bundled,64x64p4-512, none with --model; with --quick: tiny)",
            "NAMES" },
          { "batch", 'b', 0, G_OPTION_ARG_INT, &batch, "Tiles side by side (default: 8)", "B" },
          { "quick", 0, 0, G_OPTION_ARG_NONE, &bench.quick, "Few and small measurements: does it run at all?",
            NULL },
          { "profile", 'p', 0, G_OPTION_ARG_NONE, &bench.profile,
            "Where the time of models goes: each kernel's launches and time on the device", NULL },
          { "json", 0, 0, G_OPTION_ARG_NONE, &json, "As JSON", NULL },
          { NULL } };
  g_autofree char *list = g_strjoinv (", ", (char **)kinds);

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "[WHAT...]",
          "Measures what this machine can do at most, then how much of it the flow gets.",
          "WHAT is any of matmul, gradient (of weights and of attention), attention, layernorm, encode, "
          "frame (a whole one of 1280x720), decode (token by token), step (of that, a token of all blocks), "
          "train, openblas; \"normflow bench decode [VIDEO]\" compares methods of decoding and has options "
          "of its own. Times are medians. SHARE is relative to the multiply-adds, or memory reads, measured "
          "right before each sample; what stays in a core's own cache from one time to the next can exceed "
          "100 %.",
          0, (int)g_strv_length ((char **)kinds)))
    return NF_EXIT_USAGE;
  for (int i = 1; i < argc; i++)
    if (!g_strv_contains (kinds, argv[i]))
      return nf_command_wrong_choice (&command, "WHAT", argv[i], list);
  if (batch < 1 || batch > MAX_BATCH)
    return nf_command_usage (&command, "--batch takes 1 to %d", MAX_BATCH);
  names = g_strsplit (chosen          ? chosen
                      : command.model ? ""
                      : bench.quick   ? "tiny"
                                      : "tiny,bundled,64x64p4-512",
                      ",", -1);
  for (guint i = 0; names[i]; i++)
    {
      NfBenchSize *size = nf_bench_size_new (names[i], &error);
      if (!size)
        return nf_command_usage (&command, "--sizes: %s", error->message);
      g_ptr_array_add (models, size);
    }
  if (command.model)
    g_ptr_array_add (models, nf_bench_size_new_of_file (command.model));

  bench.selected = argv + 1;
  bench.batch = (guint)batch;
  bench.results = g_ptr_array_new_with_free_func ((GDestroyNotify)result_free);
  bench.device = nf_command_open_device (&command, &error);
  if (!bench.device || !run_all (&bench, models, &error))
    return nf_command_fail (&command, error);
  nf_progress_clear (command.progress);
  if (json)
    print_json (&bench);
  else
    print_table (&bench);
  return 0;
}
