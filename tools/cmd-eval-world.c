/* normflow eval world: a world model against a world whose truth is known. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "json.h"
#include "plot.h"
#include "scan.h"
#include "world-figures.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME "eval world"
#define SIDE_BY_SIDE 32

/* Where figures go: to the terminal at once, the rest when all is measured. */
typedef struct
{
  JsonBuilder *json;
  GString *table; /* of Markdown */
} Report;

/* VALUES (nullable): null stands for them. */
static void
put_array (JsonBuilder *builder, const char *name, const double *values, guint n)
{
  json_builder_set_member_name (builder, name);
  if (!values)
    {
      json_builder_add_null_value (builder);
      return;
    }
  json_builder_begin_array (builder);
  for (guint i = 0; i < n; i++)
    json_builder_add_double_value (builder, values[i]);
  json_builder_end_array (builder);
}

static void
begin (JsonBuilder *builder, const char *name)
{
  json_builder_set_member_name (builder, name);
  json_builder_begin_object (builder);
}

G_GNUC_PRINTF (2, 3)
static void
row (Report *report, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_string_append_vprintf (report->table, format, arguments);
  va_end (arguments);
  g_string_append (report->table, " |\n");
}

/* Mean over the second half of the pieces. */
static double
settled (const double *values, guint n)
{
  double sum = 0;
  for (guint i = n / 2; i < n; i++)
    sum += values[i];
  return sum / (n - n / 2);
}

static void
report_bits (const NfFigures *figures, const NfFiguresBits *bits, Report *report)
{
  const double model = settled (bits->model, bits->frames), truth = settled (bits->truth, bits->frames),
               samples = (double)nf_config_tokens (figures->config) * nf_config_features (figures->config);
  printf ("bits a frame, given half a window and more: model %.1f, truth %.2f, gap %.1f (%u pieces); first "
          "frame of a piece: %.1f\n",
          model, truth, model - truth, bits->windows, bits->model[0]);
  row (report,
       "| bits a frame, beyond the noise | %.1f; %.0f for the first frame of a piece | the truth: %.2f",
       model, bits->model[0], truth);
  row (report, "| gap | %.1f bits a frame, %.4f bits a sample | 0", model - truth, (model - truth) / samples);
  begin (report->json, "bits");
  nf_json_add_double (report->json, "model", model);
  nf_json_add_double (report->json, "information", truth);
  nf_json_add_double (report->json, "gap", model - truth);
  put_array (report->json, "by_place", bits->model, bits->frames);
  put_array (report->json, "information_by_place", bits->truth, bits->frames);
  json_builder_end_object (report->json);
}

static void
report_surprise (const NfFigures *figures, const NfFiguresSurprise *surprise, Report *report)
{
  const double jump = nf_figures_area (surprise->usual, surprise->altered[NF_ALTER_JUMP]),
               colours = nf_figures_area (surprise->usual, surprise->altered[NF_ALTER_COLOURS]);
  const char *what = figures->pattern == NF_WORLD_GRIDWORLD ? "the map jumps" : "the ball jumps";
  printf ("surprise, area under the ROC curve: jump %.4f, colours %.4f (%u frames of each, %u usual ones)\n",
          jump, colours, surprise->events, surprise->usual->len);
  row (report, "| surprise: %s | AUC %.4f | ≥ 0.99", what, jump);
  row (report, "| surprise: colours turned around | AUC %.4f | ≥ 0.99", colours);
  begin (report->json, "surprise");
  nf_json_add_double (report->json, "jump", jump);
  nf_json_add_double (report->json, "colours", colours);
  nf_json_add_double (report->json, "events", surprise->events);
  nf_json_add_double (report->json, "usual", surprise->usual->len);
  json_builder_end_object (report->json);
}

static double
share (guint64 n, guint64 of)
{
  return of ? (double)n / (double)of : (double)NAN;
}

/* Share of the roll-outs in each stretch of time; null if the world HAS not what is counted. */
static void
put_by_time (const NfFiguresRollOuts *rolls, const char *name, gboolean has, const double *counts,
             JsonBuilder *builder)
{
  g_autofree double *shares = g_new (double, rolls->model.stretches);
  for (guint i = 0; i < rolls->model.stretches; i++)
    shares[i] = counts[i] / (rolls->seeds * MIN (NF_FIGURES_STRETCH, rolls->length - i * NF_FIGURES_STRETCH));
  put_array (builder, name, has ? shares : NULL, rolls->model.stretches);
}

/* Whether the world is a court with walls and a ball; a map has neither. */
static gboolean
is_court (const NfFigures *figures)
{
  return figures->pattern != NF_WORLD_GRIDWORLD;
}

static void
describe_roll_outs (const NfFigures *figures, const NfFiguresRollOuts *rolls, Report *report)
{
  const NfFiguresSeen *model = &rolls->model, *world = &rolls->world;
  const double one = 100 * share (model->one_ball, model->frames),
               walls = 100 * share (model->walls, model->frames);
  g_autofree char *obeyed = nf_words ("%.2f", 100 * share (model->obeyed, model->paddles)),
                  *speed = nf_words ("%.3f", nf_figures_mean_speed (model)),
                  *true_speed = nf_words ("%.3f", nf_figures_mean_speed (world)),
                  *variation = nf_words ("%.3f", nf_figures_speed_variation (model, world));
  printf ("roll-outs: %u of %u frames, temperature %g\n", rolls->seeds, rolls->length, rolls->temperature);
  if (!is_court (figures))
    {
      row (report, "| roll-outs | %u of %u frames, temperature %g | ", rolls->seeds, rolls->length,
           rolls->temperature);
      return;
    }
  printf ("  one ball in %.2f %% of frames, walls in place in %.2f %%", one, walls);
  if (model->paddles)
    printf (", paddle where the action leads in %s %%", obeyed);
  printf ("\n  speed %s pixels a frame, world %s; distributions differ by %s (total variation)\n", speed,
          true_speed, variation);
  row (report, "| roll-outs, %u of %u frames, temperature %g: frames with exactly one ball | %.2f %% | all",
       rolls->seeds, rolls->length, rolls->temperature, one);
  row (report, "| walls where they belong | %.2f %% | all", walls);
  if (model->paddles)
    row (report, "| paddle where the action leads | %s %% | ≥ 98 %%", obeyed);
  row (report, "| speed of the ball, pixels a frame | %s; total variation %s | the world's: %s; 0", speed,
       variation, true_speed);
}

static void
report_roll_outs (const NfFigures *figures, const NfFiguresRollOuts *rolls, Report *report)
{
  const NfFiguresSeen *model = &rolls->model, *world = &rolls->world;
  const gboolean court = is_court (figures);
  const guint64 frames = court ? model->frames : 0, world_frames = court ? world->frames : 0;
  const double edge = (double)rolls->edge * rolls->seeds,
               brightness = (model->brightness[1] - model->brightness[0]) / edge,
               contrast = (model->contrast[1] - model->contrast[0]) / edge;
  describe_roll_outs (figures, rolls, report);
  printf ("  drift from first to last %u frames: brightness %+.2f, contrast %+.2f 8-bit steps\n", rolls->edge,
          brightness, contrast);
  row (report, "| drift of brightness, contrast (8-bit steps) | %+.2f, %+.2f | 0", brightness, contrast);
  begin (report->json, "roll_outs");
  nf_json_add_double (report->json, "seeds", rolls->seeds);
  nf_json_add_double (report->json, "length", rolls->length);
  nf_json_add_double (report->json, "temperature", rolls->temperature);
  nf_json_add_double (report->json, "one_ball", share (model->one_ball, frames));
  nf_json_add_double (report->json, "walls", share (model->walls, frames));
  nf_json_add_double (report->json, "paddle_obeys", share (model->obeyed, model->paddles));
  nf_json_add_double (report->json, "speed", nf_figures_mean_speed (model));
  nf_json_add_double (report->json, "world_speed", nf_figures_mean_speed (world));
  nf_json_add_double (report->json, "speed_total_variation", nf_figures_speed_variation (model, world));
  nf_json_add_double (report->json, "brightness_drift", brightness);
  nf_json_add_double (report->json, "contrast_drift", contrast);
  nf_json_add_double (report->json, "world_one_ball", share (world->one_ball, world_frames));
  nf_json_add_double (report->json, "world_walls", share (world->walls, world_frames));
  nf_json_add_double (report->json, "world_paddle_obeys", share (world->obeyed, world->paddles));
  nf_json_add_double (report->json, "stretch", NF_FIGURES_STRETCH);
  put_by_time (rolls, "one_ball_by_time", court, model->one_by_time, report->json);
  put_by_time (rolls, "walls_by_time", court, model->walls_by_time, report->json);
  put_by_time (rolls, "paddle_obeys_by_time", model->paddles > 0, model->obeyed_by_time, report->json);
  nf_json_add_double (report->json, "speed_bin", NF_FIGURES_SPEED_BIN);
  put_array (report->json, "speeds", court ? model->speeds : NULL, NF_FIGURES_SPEED_BINS);
  put_array (report->json, "world_speeds", court ? world->speeds : NULL, NF_FIGURES_SPEED_BINS);
  json_builder_end_object (report->json);
}

/* Milliseconds that a SHARE of COUNT frames from FIRST on stay under. */
static double
quantile (const NfFiguresTime *time, guint first, guint count, double share_of)
{
  g_autofree double *sorted = nf_scan_sorted ((const double *)(gpointer)time->seconds->data + first, count);
  return nf_scan_quantile (sorted, count, share_of) * 1e3;
}

static void
report_time (const NfFiguresTime *time, Report *report)
{
  const guint n = time->frames, tenth = MAX (n / 10, 1);
  const double median = quantile (time, 0, n, 0.5), slow = quantile (time, 0, n, 0.99),
               first = quantile (time, 0, tenth, 0.5), last = quantile (time, n - tenth, tenth, 0.5),
               grown = ((double)time->resident[1] - (double)time->resident[0]) / (1 << 20);
  printf ("time of a drawn frame, one stream: median %.1f ms, 99th percentile %.1f ms (%u frames)\n", median,
          slow, n);
  printf ("  median of the first tenth %.1f ms, of the last %.1f ms; memory after the first tenth %.1f MiB, "
          "%+.1f MiB at the end\n",
          first, last, (double)time->resident[0] / (1 << 20), grown);
  row (report, "| time of a frame: median, 99th percentile | %.1f, %.1f ms | ≤ 33 ms", median, slow);
  row (report,
       "| over %u frames: median of the first and the last tenth, memory that was added after the first | "
       "%.1f, "
       "%.1f ms, %+.1f MiB | flat",
       n, first, last, grown);
  begin (report->json, "time");
  nf_json_add_double (report->json, "frames", n);
  nf_json_add_double (report->json, "median_ms", median);
  nf_json_add_double (report->json, "p99_ms", slow);
  nf_json_add_double (report->json, "first_tenth_median_ms", first);
  nf_json_add_double (report->json, "last_tenth_median_ms", last);
  nf_json_add_double (report->json, "resident_mib", (double)time->resident[0] / (1 << 20));
  nf_json_add_double (report->json, "resident_growth_mib", grown);
  json_builder_end_object (report->json);
}

/* Pictures */

/* Two rows for each roll-out that was kept: the model's frames, and the world's. */
static gboolean
plot_sheet (const NfFigures *figures, const NfFiguresRollOuts *rolls, const char *path, GError **error)
{
  const guint n = rolls->model.pictures->len, columns = n / rolls->kept, rows = 2 * rolls->kept;
  g_autoptr (GPtrArray) captions = g_ptr_array_new_with_free_func (g_free),
                        notes = g_ptr_array_new_with_free_func (g_free), pictures = g_ptr_array_new ();
  g_autofree char *title
      = g_strdup_printf ("%s: roll-outs of the model, and under each the world's own, seed %" G_GUINT64_FORMAT
                         ", temperature %g",
                         nf_world_pattern_name (figures->pattern), figures->seed, rolls->temperature);
  for (guint i = 0; i < columns; i++)
    g_ptr_array_add (captions, g_strdup_printf ("frame %u", rolls->moments[i]));
  for (guint r = 0; r < rows; r++)
    for (guint i = 0; i < columns; i++)
      {
        const NfFiguresSeen *seen = r % 2 ? &rolls->world : &rolls->model;
        g_ptr_array_add (pictures, g_ptr_array_index (seen->pictures, i * rolls->kept + r / 2));
        g_ptr_array_add (notes, g_strdup_printf (r % 2 ? "world %u" : "model %u", r / 2 + 1));
      }
  return nf_plot_sheet (path, title, title, (const char *const *)captions->pdata, columns,
                        (NfPicture *const *)pictures->pdata, (const char *const *)notes->pdata, rows, error);
}

static gboolean
plot_curves (const NfFigures *figures, const NfFiguresRollOuts *rolls, const char *path, GError **error)
{
  const guint n = rolls->model.stretches;
  const double *counts[] = { rolls->model.one_by_time, rolls->model.obeyed_by_time,
                             rolls->model.walls_by_time, rolls->world.one_by_time };
  static const char *const names[] = { "exactly one ball", "paddle where the action leads",
                                       "walls where they belong", "exactly one ball, in the world itself" };
  g_autofree double *x = g_new (double, n), *y = g_new (double, n *G_N_ELEMENTS (counts));
  NfPlotCurve curves[G_N_ELEMENTS (counts)];
  guint n_curves = 0;
  for (guint i = 0; i < n; i++)
    {
      const guint frames = MIN (NF_FIGURES_STRETCH, rolls->length - i * NF_FIGURES_STRETCH);
      x[i] = i * NF_FIGURES_STRETCH + frames / 2.0;
      for (guint c = 0; c < G_N_ELEMENTS (counts); c++)
        y[c * n + i] = 100 * counts[c][i] / ((double)frames * rolls->seeds);
    }
  for (guint c = 0; c < G_N_ELEMENTS (counts); c++)
    if (c != 1 || rolls->model.paddles)
      curves[n_curves++] = (NfPlotCurve){ .name = names[c], .x = x, .y = y + c * n, .n = n };
  g_autofree char *title = g_strdup_printf ("%u roll-out%s of %s", rolls->seeds, rolls->seeds == 1 ? "" : "s",
                                            nf_world_pattern_name (figures->pattern));
  return nf_plot_curves (path, title, title, "frame of the roll-out", "% of frames", curves, n_curves, error);
}

static gboolean
check_model (const NfFigures *figures, GError **error)
{
  const NfConfig *config = figures->config;
  const guint actions = nf_world_pattern_actions (figures->pattern);
  if (!config->frames || !config->shallow_local || config->layout == NF_PIXELS_LATENT)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          "the model is not a world model: it must be one of videos whose shallow blocks see one frame");
      return FALSE;
    }
  if (config->controls)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "the model is one of continuous controls (controls in its configuration), %s has actions",
                   nf_world_pattern_name (figures->pattern));
      return FALSE;
    }
  if (config->action_dim && config->action_dim != actions)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "the model has action_dim %u, %s has %u actions",
                   config->action_dim, nf_world_pattern_name (figures->pattern), actions);
      return FALSE;
    }
  return TRUE;
}

typedef struct
{
  char *world, *json, *markdown, *sheet, *plot, *denoise;
  int windows, seeds, length, events, timed;
  gint64 seed;
  double temperature;
} Options;

static void
options_clear (Options *options)
{
  g_free (options->world);
  g_free (options->json);
  g_free (options->markdown);
  g_free (options->sheet);
  g_free (options->plot);
  g_free (options->denoise);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

static gboolean
evaluate (NfFigures *figures, const Options *options, Report *report, GError **error)
{
  g_auto (NfFiguresBits) bits = { .windows = (guint)options->windows };
  g_auto (NfFiguresSurprise) surprise = { .events = (guint)options->events };
  g_auto (NfFiguresRollOuts) rolls = { .seeds = (guint)options->seeds,
                                       .length = (guint)options->length,
                                       .kept = (guint)MIN (options->seeds, 3),
                                       .temperature = options->temperature };
  NfProgress *progress = figures->command->progress;
  if (bits.windows)
    {
      if (!nf_figures_measure_bits (figures, &bits, error))
        return FALSE;
      nf_progress_clear (progress);
      report_bits (figures, &bits, report);
    }
  if (surprise.events)
    {
      if (!nf_figures_measure_surprise (figures, &surprise, error))
        return FALSE;
      nf_progress_clear (progress);
      report_surprise (figures, &surprise, report);
    }
  if (rolls.seeds)
    {
      if (!nf_figures_roll_out (figures, &rolls, error))
        return FALSE;
      nf_progress_clear (progress);
      report_roll_outs (figures, &rolls, report);
      if ((options->sheet && !plot_sheet (figures, &rolls, options->sheet, error))
          || (options->plot && !plot_curves (figures, &rolls, options->plot, error)))
        return FALSE;
    }
  if (options->timed)
    {
      g_auto (NfFiguresTime) time = { .frames = (guint)options->timed };
      if (!nf_figures_time_frames (figures, &time, options->temperature, error))
        return FALSE;
      nf_progress_clear (progress);
      report_time (&time, report);
    }
  return TRUE;
}

static gboolean
write_json (JsonBuilder *builder, const char *path, GError **error)
{
  json_builder_end_object (builder);
  g_autofree char *text = nf_json_text (builder, TRUE);
  return g_file_set_contents (path, text, -1, error);
}

int
nf_cmd_eval_world (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Options) options
      = { .windows = 64, .seeds = 20, .length = 1000, .events = 200, .timed = 300, .temperature = 1 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (GString) table = g_string_new ("| | measured | wanted |\n|---|---|---|\n");
  NfFigures figures = { .command = &command, .side_by_side = SIDE_BY_SIDE };
  Report report = { .json = builder, .table = table };
  const GOptionEntry entries[] = {
    { "world", 'w', 0, G_OPTION_ARG_STRING, &options.world, nf_world_help ("The world, must be given"),
      "WORLD" },
    { "windows", 0, 0, G_OPTION_ARG_INT, &options.windows,
      "Pieces that bits are measured on, 0 for none (default: 64)", "N" },
    { "events", 0, 0, G_OPTION_ARG_INT, &options.events, "Surprises of each kind, 0 for none (default: 200)",
      "N" },
    { "seeds", 0, 0, G_OPTION_ARG_INT, &options.seeds, "Roll-outs, 0 for none (default: 20)", "N" },
    { "frames", 'n', 0, G_OPTION_ARG_INT, &options.length, "Frames of a roll-out (default: 1000)", "N" },
    { "timed", 0, 0, G_OPTION_ARG_INT, &options.timed,
      "Frames of one stream that are timed, 0 for none (default: 300)", "N" },
    { "temperature", 't', 0, G_OPTION_ARG_DOUBLE, &options.temperature,
      "Standard deviation of a roll-out's latents (default: 1)", "T" },
    { "denoise", 0, 0, G_OPTION_ARG_STRING, &options.denoise,
      "How drawn frames are denoised: auto, learned, score or none (default: auto)", "HOW" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &options.seed, "Seed of worlds and noise (default: 0)", "SEED" },
    { "json", 0, 0, G_OPTION_ARG_FILENAME, &options.json, "Also write the figures as JSON", "FILE" },
    { "markdown", 0, 0, G_OPTION_ARG_FILENAME, &options.markdown, "Also write the figures as a table",
      "FILE" },
    { "sheet", 0, 0, G_OPTION_ARG_FILENAME, &options.sheet, "A picture of roll-outs beside the world's own",
      "PNG" },
    { "plot", 0, 0, G_OPTION_ARG_FILENAME, &options.plot, "Curves of the roll-outs over time", "PNG" },
    { NULL }
  };
  gboolean done = FALSE;

  if (!nf_command_parse (&command, &argc, &argv, entries, NF_COMMAND_DEVICE | NF_COMMAND_DECODING, "MODEL",
                         "Compares a model with a world whose truth is known: bits per frame with the true "
                         "information, surprise, roll-outs.",
                         NULL, 1, 1))
    return NF_EXIT_USAGE;
  if (!options.world)
    return nf_command_usage (&command, "--world is missing, one of: %s", nf_world_choices ());
  if (!nf_world_pattern_from_name (options.world, &figures.pattern))
    return nf_command_wrong_choice (&command, "--world", options.world, nf_world_choices ());
  if (options.windows < 0 || options.seeds < 0 || options.events < 0 || options.timed < 0
      || options.length < 1 || options.seed < 0 || !(options.temperature >= 0 && options.temperature <= 2))
    return nf_command_usage (&command,
                             "--windows, --seeds, --events, --timed and --seed take no negative numbers, "
                             "--frames 1 or more, --temperature 0 to 2");
  if (options.denoise && !nf_denoise_from_name (options.denoise, &figures.denoise))
    return nf_command_wrong_choice (&command, "--denoise", options.denoise, NF_DENOISE_CHOICES);
  if ((options.sheet || options.plot) && !options.seeds)
    return nf_command_usage (&command, "--sheet and --plot show roll-outs, but --seeds is 0");
  if (options.plot && !is_court (&figures))
    return nf_command_usage (&command,
                             "--plot shows balls, walls and paddles, and %s has none; --sheet shows frames",
                             options.world);
  if (!nf_check_ending (options.sheet, "png", &error) || !nf_check_ending (options.plot, "png", &error)
      || !nf_check_ending (options.json, "json", &error) || !nf_check_ending (options.markdown, "md", &error))
    return nf_command_usage (&command, "%s", error->message);
  command.model = g_strdup (argv[1]);
  const char *const outputs[] = { options.json, options.markdown, options.sheet, options.plot };
  g_autoptr (GPtrArray) inputs = g_ptr_array_new (), written = g_ptr_array_new ();
  for (guint i = 0; i < G_N_ELEMENTS (outputs); i++)
    g_ptr_array_add (written, (gpointer)outputs[i]);
  if (!nf_command_check_outputs (&command, NULL, written, inputs, &error))
    return nf_command_fail (&command, error);

  nf_command_catch_signals (&command);
  session = nf_command_open (&command, &error);
  if (session)
    {
      figures.model = nf_session_get_model (session);
      figures.config = nf_model_get_config (figures.model);
      figures.seed = (guint64)options.seed;
      figures.width = nf_config_columns (figures.config);
      figures.height = nf_config_rows (figures.config);
      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "world");
      json_builder_add_string_value (builder, options.world);
      json_builder_set_member_name (builder, "model_digest");
      json_builder_add_string_value (builder, nf_model_get_digest (figures.model));
      done = check_model (&figures, &error) && evaluate (&figures, &options, &report, &error)
             && (!options.json || write_json (builder, options.json, &error))
             && (!options.markdown || g_file_set_contents (options.markdown, table->str, -1, &error));
    }
  if (done)
    nf_command_tell_residual (&command);
  return done ? 0 : nf_command_fail (&command, error);
}
