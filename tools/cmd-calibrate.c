/* normflow calibrate: a threshold from normal footage. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "json.h"
#include "scan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <json-glib/json-glib.h>

#define NAME "calibrate"
#define MAX_WINDOW 10000
/* Quantile above which the tail is taken for exponential, and under which a raised score must fall to count
 * as normal again. */
#define TAIL 0.9
#define NORMAL 0.95
#define ENOUGH 10

typedef struct
{
  GArray *smoothed; /* over all files */
  double *ring;
  guint window;
  guint used;
  guint next;
} Calibration;

static void
calibration_clear (Calibration *calibration)
{
  g_clear_pointer (&calibration->smoothed, g_array_unref);
  g_free (calibration->ring);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Calibration, calibration_clear)

/* The mean of the latest WINDOW scores, as flowencode's smoothing-window has it: of fewer at a file's start.
 */
static gboolean
add_frame (const NfScanFrame *frame, gpointer data, GError **error)
{
  Calibration *calibration = data;
  double sum = 0, mean;

  calibration->ring[calibration->next] = frame->score.bits_per_dim;
  calibration->next = (calibration->next + 1) % calibration->window;
  calibration->used = MIN (calibration->used + 1, calibration->window);
  for (guint i = 0; i < calibration->used; i++)
    sum += calibration->ring[i];
  mean = sum / calibration->used;
  g_array_append_val (calibration->smoothed, mean);
  return TRUE;
}

/* The score that a share RATE of normal frames exceeds. With ENOUGH frames beyond it, the quantile itself;
 * else the footage is too short to show it, and the tail above the 90 % quantile is carried on as an
 * exponential with its mean excess (peaks over threshold). Never below the highest score seen then. */
static double
threshold_of (const double *sorted, guint n, double rate, gboolean *extrapolated)
{
  double tail = nf_scan_quantile (sorted, n, TAIL), excess = 0;
  guint over = 0;

  *extrapolated = n * rate < ENOUGH;
  if (!*extrapolated)
    return nf_scan_quantile (sorted, n, 1 - rate);
  for (guint i = 0; i < n; i++)
    if (sorted[i] > tail)
      {
        excess += sorted[i] - tail;
        over++;
      }
  excess = over ? excess / over : 0;
  return MAX (tail + excess * log ((1 - TAIL) / MIN (rate, 1 - TAIL)), sorted[n - 1]);
}

/* For gst-launch-1.0, and then for the shell. */
static char *
quote (const char *text)
{
  g_autoptr (GString) word = g_string_new (text);

  /* it takes \ and " as a shell does, and ends a word at blanks other than spaces, but in quotes */
  if (strpbrk (text, "\\\"\t\n\v\f\r"))
    {
      g_string_replace (word, "\\", "\\\\", 0);
      g_string_replace (word, "\"", "\\\"", 0);
      g_string_prepend_c (word, '"');
      g_string_append_c (word, '"');
    }
  return strpbrk (word->str, " \"'\\$`*?!{}[]();&|<>#~") ? g_shell_quote (word->str) : g_strdup (word->str);
}

/* Of flowencode, where there is a VALUE. */
static void
print_property (const char *name, const char *value)
{
  g_autofree char *quoted = value ? quote (value) : NULL;
  if (quoted)
    printf (" %s=%s", name, quoted);
}

static const char rule[] = "threshold: the smoothed score that a share SHARE of normal frames exceeds. Where "
                           "the footage is too short to show it\n"
                           "(fewer than 10 frames beyond), the scores above the 90 % quantile are "
                           "extrapolated as an exponential tail.\n"
                           "threshold-hysteresis: down to the 95 % quantile, so that an anomaly ends when "
                           "scores are ordinary again.";

int
nf_cmd_calibrate (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Calibration) calibration = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfStream) stream = NULL;
  g_autoptr (GPtrArray) files = NULL;
  g_autofree double *sorted = NULL;
  gint64 frames = G_MININT64;
  int window = 5;
  double rate = 0.001, threshold, shown, hysteresis, median;
  char threshold_text[G_ASCII_DTOSTR_BUF_SIZE], hysteresis_text[G_ASCII_DTOSTR_BUF_SIZE];
  gboolean json = FALSE, extrapolated = FALSE;
  NfScan scan = { .every = 1, .score = TRUE };
  guint n;
  const GOptionEntry entries[]
      = { { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most N frames of each file", "N" },
          { "smoothing-window", 0, 0, G_OPTION_ARG_INT, &window,
            "Frames whose mean score is compared (default: 5)", "N" },
          { "false-alarm-rate", 0, 0, G_OPTION_ARG_DOUBLE, &rate,
            "Share of normal frames that may exceed the threshold (default: 0.001)", "SHARE" },
          { "json", 0, 0, G_OPTION_ARG_NONE, &json, "The result as one line of JSON", NULL },
          { NULL } };

  if (!nf_command_parse (&command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE,
                         "FILE|FOLDER…",
                         "Suggests flowencode's threshold and threshold-hysteresis from footage in which "
                         "nothing unusual happens.",
                         rule, 1, G_MAXINT))
    return NF_EXIT_USAGE;
  if (!nf_settle_number (&frames) || window < 1 || window > MAX_WINDOW || !(rate > 0 && rate < 0.1))
    return nf_command_usage (
        &command,
        "--frames takes 1 or more, --smoothing-window 1 to %d, --false-alarm-rate above 0, below 0.1",
        MAX_WINDOW);
  scan.frames = (guint64)frames;
  calibration.window = (guint)window;
  calibration.ring = g_new0 (double, calibration.window);
  calibration.smoothed = g_array_new (FALSE, FALSE, sizeof (double));

  files = nf_media_list ((const char *const *)argv + 1, &error);
  session = files ? nf_command_open (&command, &error) : NULL;
  if (session)
    nf_command_open_stream (&command, session, &stream, &error);
  scan.stream = stream;
  for (guint i = 0; session && i < files->len && !error; i++)
    {
      calibration.used = calibration.next = 0;
      nf_scan_file (session, files->pdata[i], &scan, command.progress, add_frame, &calibration, &error);
    }
  nf_progress_clear (command.progress);
  n = calibration.smoothed->len;
  if (!error && n < 20)
    g_set_error (&error, NF_ERROR, NF_ERROR_DATA,
                 "%u frame%s too little: take footage of at least 20, better of some minutes", n,
                 n == 1 ? " tells" : "s tell");
  if (error)
    return nf_command_fail (&command, error);

  sorted = nf_scan_sorted ((const double *)(gpointer)calibration.smoothed->data, n);
  median = nf_scan_quantile (sorted, n, 0.5);
  threshold = threshold_of (sorted, n, rate, &extrapolated);
  /* never below a score that it is to be above of */
  shown = ceil (threshold * 1e4) / 1e4;
  hysteresis = threshold - MIN (nf_scan_quantile (sorted, n, NORMAL), threshold);
  g_ascii_formatd (threshold_text, sizeof threshold_text, "%.4f", shown);
  g_ascii_formatd (hysteresis_text, sizeof hysteresis_text, "%.4f", hysteresis + (shown - threshold));
  if (json)
    {
      g_autoptr (JsonBuilder) builder = json_builder_new ();
      g_autofree char *text = NULL;

      json_builder_begin_object (builder);
      nf_json_add_double (builder, "threshold", threshold);
      nf_json_add_double (builder, "threshold_hysteresis", hysteresis);
      nf_json_add_int (builder, "smoothing_window", (guint64)window);
      nf_json_add_double (builder, "false_alarm_rate", rate);
      nf_json_add_int (builder, "frames", n);
      nf_json_add_double (builder, "min", sorted[0]);
      nf_json_add_double (builder, "median", median);
      nf_json_add_double (builder, "p95", nf_scan_quantile (sorted, n, 0.95));
      nf_json_add_double (builder, "p99", nf_scan_quantile (sorted, n, 0.99));
      nf_json_add_double (builder, "max", sorted[n - 1]);
      nf_json_add_bool (builder, "extrapolated", extrapolated);
      nf_json_add_string (builder, "model_digest", nf_model_get_digest (nf_session_get_model (session)));
      json_builder_end_object (builder);
      text = nf_json_text (builder, FALSE);
      printf ("%s\n", text);
      return 0;
    }

  printf ("%u frames of normal footage, mean of %d frames, bits/dim:\n"
          "  lowest %.4f, 5 %% %.4f, median %.4f, 95 %% %.4f, 99 %% %.4f, highest %.4f\n",
          n, window, sorted[0], nf_scan_quantile (sorted, n, 0.05), median,
          nf_scan_quantile (sorted, n, 0.95), nf_scan_quantile (sorted, n, 0.99), sorted[n - 1]);
  printf ("  threshold=%s: exceeded by a share of %g%s\n"
          "  threshold-hysteresis=%s: down to the 95 %% quantile\n"
          "Frames close in time are alike: what counts is how much different normal footage this was.\n",
          threshold_text, rate,
          extrapolated ? " if the tail goes on as it begins (more footage would show it)" : "",
          hysteresis_text);
  g_autofree char *quoted_file = quote (files->pdata[0]);
  printf ("\ngst-launch-1.0 -m filesrc location=%s ! decodebin ! videoconvert ! flowencode", quoted_file);
  print_property ("model", command.model);
  print_property ("text", command.text);
  print_property ("precision", command.precision);
  printf (" threshold=%s threshold-hysteresis=%s smoothing-window=%d ! fakesink\n", threshold_text,
          hysteresis_text, window);
  return 0;
}
