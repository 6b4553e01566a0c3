/* normflow train: maximum likelihood on videos and pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "clips.h"
#include "command.h"
#include "common.h"
#include "files.h"
#include "media.h"
#include "train-config.h"
#include "train-job.h"
#include "train-run.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include <glib/gstdio.h>

#define NAME "train"

/* The command line without the directories of files: models tell how they were made, not where. */
static char *
plain_command (int argc, char **argv)
{
  g_autoptr (GString) text = g_string_new ("normflow");

  for (int i = 0; i < argc; i++)
    {
      const char *slash = strchr (argv[i], '{') ? NULL : strrchr (argv[i], G_DIR_SEPARATOR);
      const char *equals = g_str_has_prefix (argv[i], "--") ? strchr (argv[i], '=') : NULL;
      g_autofree char *plain = NULL;
      g_autofree char *quoted = NULL;

      /* A folder given as "clips/" keeps its name. */
      if (slash && !slash[1])
        {
          g_autofree char *base = g_path_get_basename (argv[i]);

          plain = g_strdup (base);
        }
      else if (slash && equals && equals < slash)
        plain = g_strdup_printf ("%.*s%s", (int)(equals - argv[i] + 1), argv[i], slash + 1);
      else
        plain = g_strdup (slash ? slash + 1 : argv[i]);
      quoted = strpbrk (plain, " \"'\\$`*?{}[]();&|<>") || !*plain ? g_shell_quote (plain) : g_strdup (plain);
      g_string_append_printf (text, " %s", quoted);
    }
  return g_utf8_make_valid (text->str, (gssize)text->len);
}

static void
make_absolute (char **path)
{
  g_autofree char *given = *path;

  *path = g_canonicalize_filename (given, NULL);
}

static void
make_all_absolute (char **paths)
{
  for (gsize i = 0; paths && paths[i]; i++)
    make_absolute (&paths[i]);
}

/* What the command line says. Settings of the run that need no check are in RUN already; of the others NULL,
 * NF_NOT_GIVEN and G_MININT64 say nothing. */
typedef struct
{
  NfTrainRun run;
  NfTrainPlaces places;
  NfTrainShape shape;
  char **files;  /* not owned */
  char *setting; /* one that is given, without its dashes, or NULL */
  char *captions, *scales, *log, *samples;
  double lr_min, label_dropout, action_dropout, holdout;
  gint64 steps, stop_after, warmup, seed, validate_every, sample_every, cache;
  gint64 log_every; /* -1: not given */
  int batch, validation_tiles;
  gboolean overwrite;
} Options;

static void
options_init (Options *options)
{
  *options = (Options){ .run = { .best = INFINITY, .holdout = 0.1, .sample_every = 1000 },
                        .places = { .save_every = 300 },
                        .shape = { .patch = -1,
                                   .width = -1,
                                   .top_width = -1,
                                   .blocks = -1,
                                   .head_dim = -1,
                                   .frames = -1,
                                   .denoiser = -1,
                                   .noise_std = NF_NOT_GIVEN },
                        .lr_min = NF_NOT_GIVEN,
                        .label_dropout = NF_NOT_GIVEN,
                        .action_dropout = NF_NOT_GIVEN,
                        .holdout = NF_NOT_GIVEN,
                        .steps = G_MININT64,
                        .stop_after = G_MININT64,
                        .warmup = G_MININT64,
                        .validate_every = G_MININT64,
                        .sample_every = G_MININT64,
                        .log_every = -1,
                        .cache = 1024,
                        .batch = 64,
                        .validation_tiles = 512 };
  nf_train_options_init (&options->run.train);
  options->run.train.clip = 1;
  options->run.train.ema = 0.999;
  options->run.train.action_dropout = 0.1;
}

static void
options_clear (Options *options)
{
  nf_train_run_clear (&options->run);
  nf_train_places_clear (&options->places);
  nf_train_shape_clear (&options->shape);
  g_free (options->setting);
  g_free (options->captions);
  g_free (options->scales);
  g_free (options->log);
  g_free (options->samples);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

static gboolean
parse_scales (NfTrainRun *run, const char *text, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (text, ",", -1);

  for (gsize i = 0; parts[i]; i++)
    {
      char *end = NULL;
      double scale = g_ascii_strtod (parts[i], &end);

      if (end == parts[i] || *end || !(scale >= NF_CLIPS_MIN_SCALE && scale <= 1)
          || i >= G_N_ELEMENTS (run->scales))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "--scales %s: up to %" G_GSIZE_FORMAT
                       " numbers from 1/64 to 1 with commas between them, such as 1,0.5",
                       text, G_N_ELEMENTS (run->scales));
          return FALSE;
        }
      run->scales[i] = scale;
      run->n_scales = (guint)i + 1;
    }
  return TRUE;
}

/* Whether there are worlds of that size. */
static gboolean
check_world (const NfTrainRun *run, GError **error)
{
  NfWorldPattern pattern;
  g_autoptr (NfWorld) world = NULL;

  if (!run->world || !nf_world_pattern_from_name (run->world, &pattern))
    return TRUE;
  world = nf_world_new (pattern, nf_config_columns (&run->config), nf_config_rows (&run->config), 0, error);
  return world != NULL;
}

/* SETTINGS: the file that RUN is from, or NULL for options. */
static gboolean
check_run (const NfTrainRun *run, const char *settings, GError **error)
{
  const NfTrainOptions *train = &run->train;
  const struct
  {
    const char *option;
    double value;
    double low;
    double high;
  } ranges[] = { { "batch", run->batch, 1, 65536 },
                 { "steps", (double)train->steps, 1, 1e12 },
                 { "lr", train->lr, 0, 1 },
                 { "lr-min", train->lr_min, 0, train->lr },
                 { "weight-decay", train->weight_decay, 0, 1 },
                 { "clip", train->clip, 0, 1e9 },
                 { "ema", train->ema, 0, 0.999999 },
                 { "label-dropout", train->label_dropout, 0, 1 },
                 { "action-dropout", train->action_dropout, 0, 1 },
                 { "context-errors", train->context_errors, 0, 1 },
                 { "holdout", run->holdout, 0, 0.9 },
                 { "validation-tiles", run->validation_tiles, 0, 1 << 20 } };

  for (gsize i = 0; i < G_N_ELEMENTS (ranges); i++)
    if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
      {
        g_autofree char *member = g_strdelimit (g_strdup (ranges[i].option), "-", '_');
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s%s%s %g: must be from %g to %g",
                     settings ? settings : "", settings ? ": " : "--", settings ? member : ranges[i].option,
                     ranges[i].value, ranges[i].low, ranges[i].high);
        return FALSE;
      }
  /* those of --init are known later */
  if ((run->init && *run->init)
      || (nf_config_check (&run->config, settings ? "the model" : "the options", error)
          && nf_trainer_check (&run->config, train, error) && check_world (run, error)))
    return TRUE;
  if (settings)
    g_prefix_error (error, "%s: ", settings);
  return FALSE;
}

/* With --init, the configuration is that of the model. */
static gboolean
read_init (NfTrainRun *run, GError **error)
{
  g_autofree char *path = nf_model_find (run->init, error);
  g_autoptr (NfTensorFile) file = path ? nf_tensor_file_open (path, error) : NULL;
  g_autoptr (NfConfig) config = file ? nf_checkpoint_config (file, NULL, NULL, error) : NULL;

  if (config)
    run->config = *config;
  return config != NULL;
}

/* What would do nothing for a model of videos; what a run that goes on began with is let be. */
static gboolean
check_video_options (const Options *options, GError **error)
{
  const NfTrainRun *run = &options->run;
  const gboolean begins = !options->places.resume, world = run->world && *run->world;
  const struct
  {
    gboolean given;
    const char *text;
  } idle[] = {
    { begins && run->validation && run->validation[0],
      "--validation is for models of pictures: of videos, the last --holdout of each is validated on" },
    { begins && run->labels, "--labels are for models of pictures: videos have --actions" },
    { world && nf_train_has_captions (run), "--captions are for files: a world has none" },
    { begins && run->n_scales > 0, "--scales are for models of pictures: videos are shrunk to --size" },
    { options->holdout != NF_NOT_GIVEN && world,
      "--holdout is for files: a world is validated on samples of its own" },
    { options->samples != NULL,
      "--samples are for models of pictures: normflow sample draws videos from OUTPUT" },
  };

  for (gsize i = 0; run->config.frames && i < G_N_ELEMENTS (idle); i++)
    if (idle[i].given)
      {
        g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT, idle[i].text);
        return FALSE;
      }
  return TRUE;
}

/* Options that are no settings of a run: where this process reads and writes, how often, and how far it goes.
 */
static const char *const places_options[]
    = { "output",       "checkpoint", "stop-after", "save-every", "log",      "log-every",      "samples",
        "sample-every", "cache",      "steps",      "validation", "captions", "validate-every", NULL };

/* The first option that is one of the run's settings, without its dashes. */
static char *
find_setting (int argc, char **argv, const GOptionEntry *entries)
{
  for (int i = 1; i < argc && strcmp (argv[i], "--") != 0; i++)
    for (const GOptionEntry *entry = entries; entry->long_name; entry++)
      {
        const gsize length = strlen (entry->long_name);

        if (g_str_has_prefix (argv[i], "--") && strncmp (argv[i] + 2, entry->long_name, length) == 0
            && (!argv[i][2 + length] || argv[i][2 + length] == '=')
            && strcmp (entry->long_name, "resume") != 0
            && !g_strv_contains (places_options, entry->long_name))
          return g_strdup (entry->long_name);
      }
  return NULL;
}

/* With --resume --steps N the run, and with it the learning rate's cosine, ends elsewhere than it was to. */
static gboolean
end_elsewhere (NfTrainRun *run, const char *checkpoint, guint64 steps, GError **error)
{
  guint64 done;

  if (!nf_trainer_saved_step (checkpoint, &done, error))
    return FALSE;
  if (steps <= done)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s has done %" G_GUINT64_FORMAT
                   " steps: --resume goes on with --steps of more than these",
                   checkpoint, done);
      return FALSE;
    }
  run->train.steps = steps;
  return TRUE;
}

/* What a run that goes on reads has moved since: to FILES, VALIDATION and CAPTIONS, each of which may be
 * none. */
static gboolean
read_elsewhere (NfTrainRun *run, char **files, char **validation, const char *captions, GError **error)
{
  const char *wrong = *files && run->world && *run->world                    ? "files"
                      : validation && !(run->validation && *run->validation) ? "--validation"
                      : captions && !nf_train_has_captions (run)             ? "--captions"
                                                                             : NULL;
  if (wrong)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--resume goes on with the run, which began without %s: name none", wrong);
      return FALSE;
    }
  if (*files)
    {
      g_strfreev (run->files);
      run->files = g_strdupv (files);
      make_all_absolute (run->files);
    }
  if (validation)
    {
      g_strfreev (run->validation);
      run->validation = g_strdupv (validation);
      make_all_absolute (run->validation);
    }
  if (captions)
    {
      g_free (run->captions);
      run->captions = g_canonicalize_filename (captions, NULL);
    }
  return TRUE;
}

static gboolean
add_inputs (GPtrArray *inputs, char **paths, GError **error)
{
  g_autoptr (GPtrArray) files = nf_media_list ((const char *const *)paths, error);

  for (guint i = 0; files && i < files->len; i++)
    {
      g_ptr_array_add (inputs, g_strdup (files->pdata[i]));
      g_ptr_array_add (inputs, g_strconcat (files->pdata[i], NF_ACTIONS_SUFFIX, NULL));
    }
  return files != NULL;
}

/* What a run reads. Those that have moved are named again where it goes on. (transfer full) */
static GPtrArray *
list_inputs (const NfTrainPlaces *places, const NfTrainRun *run, const char *config, GError **error)
{
  g_autoptr (GPtrArray) inputs = g_ptr_array_new_with_free_func (g_free);

  if (!add_inputs (inputs, run->files, error))
    {
      if (places->resume && !places->moved)
        g_prefix_error (error, "files of a run that have moved are named after --resume: ");
      return NULL;
    }
  if (!add_inputs (inputs, run->validation, error))
    {
      if (places->resume && !places->validation_moved)
        g_prefix_error (error, "files of a run that have moved are named by --validation: ");
      return NULL;
    }
  if (run->init && *run->init)
    g_ptr_array_add (inputs, nf_model_find (run->init, NULL));
  if (nf_train_has_captions (run))
    g_ptr_array_add (inputs, g_strdup (run->captions));
  if (config && config[0] != '{')
    g_ptr_array_add (inputs, g_strdup (config));
  return g_steal_pointer (&inputs);
}

/* Whether what is written at last can be. */
static gboolean
check_places (const NfTrainPlaces *places, const NfTrainRun *run, const char *config, GError **error)
{
  g_autoptr (GPtrArray) inputs = list_inputs (places, run, config, error), outputs = g_ptr_array_new ();
  g_autofree char *settings = nf_train_settings_path (places->checkpoint),
                  *picture = run->samples ? g_build_filename (run->samples, "step.png", NULL) : NULL;

  g_ptr_array_add (outputs, places->output);
  g_ptr_array_add (outputs, places->checkpoint);
  g_ptr_array_add (outputs, settings);
  if (!inputs || !nf_check_outputs (run->log && *run->log ? run->log : NULL, outputs, inputs, error))
    return FALSE;
  if (run->samples && g_mkdir_with_parents (run->samples, 0777) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "--samples %s: %s", run->samples, g_strerror (errno));
      return FALSE;
    }
  return !picture || nf_check_output (picture, NULL, error);
}

/* Options of where and how far, of the model, and of how it is trained: ENTRIES in the order of the help. */
static void
add_place_entries (GArray *entries, Options *options)
{
  const GOptionEntry places[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &options->places.output,
      "The model to write: the best on held-out tiles", "MODEL.safetensors" },
    { "checkpoint", 0, 0, G_OPTION_ARG_FILENAME, &options->places.checkpoint,
      "State of the run (default: OUTPUT.checkpoint)", "PATH" },
    { "resume", 0, 0, G_OPTION_ARG_NONE, &options->places.resume,
      "Continue where the checkpoint was saved, with its settings and files", NULL },
    { "overwrite", 0, 0, G_OPTION_ARG_NONE, &options->overwrite,
      "Start anew even where there is a checkpoint of an unfinished run", NULL },
    { "init", 0, 0, G_OPTION_ARG_FILENAME, &options->run.init, "Start from a model's weights", "MODEL" },
    { "validation", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->run.validation,
      "Whole file or folder to validate on as well (repeatable)", "FILE" },
    { "log", 0, 0, G_OPTION_ARG_FILENAME, &options->log, "Losses as NDJSON; --resume continues it", "FILE" },
    { "log-every", 0, 0, G_OPTION_ARG_INT64, &options->log_every, "Steps between its lines (default: 10)",
      "STEPS" },
    { "samples", 0, 0, G_OPTION_ARG_FILENAME, &options->samples,
      "Folder for pictures of samples; --resume continues in it", "FOLDER" },
    { "sample-every", 0, 0, G_OPTION_ARG_INT64, &options->sample_every, "Steps between them (default: 1000)",
      "STEPS" },
    { "save-every", 0, 0, G_OPTION_ARG_DOUBLE, &options->places.save_every,
      "Seconds between checkpoints (default: 300)", "SECONDS" },
    { "cache", 0, 0, G_OPTION_ARG_INT64, &options->cache,
      "MiB of decoded frames to keep in memory (default: 1024)", "MIB" },
  };
  g_array_append_vals (entries, places, G_N_ELEMENTS (places));
}

static void
add_model_entries (GArray *entries, Options *options)
{
  NfTrainShape *shape = &options->shape;
  const GOptionEntry of_model[] = {
    { "config", 0, 0, G_OPTION_ARG_STRING, &shape->config,
      "Configuration: a JSON file or its text; single options override it", "JSON" },
    { "layout", 0, 0, G_OPTION_ARG_STRING, &shape->layout, "yuv420 (default), rgb or gray", "LAYOUT" },
    { "family", 0, 0, G_OPTION_ARG_STRING, &shape->family, "tarflow (default) or starflow", "FAMILY" },
    { "frames", 0, 0, G_OPTION_ARG_INT, &shape->frames,
      "Frames of a sample, for a STARFlow of videos: whole frames, shrunk to its size (default: none)", "F" },
    { "size", 0, 0, G_OPTION_ARG_STRING, &shape->size, "Side of a tile in pixels (default: 32), or WxH",
      "S" },
    { "patch", 0, 0, G_OPTION_ARG_INT, &shape->patch, "Side of a patch (default: 4)", "P" },
    { "width", 0, 0, G_OPTION_ARG_INT, &shape->width, "Width of the transformers (default: 192)", "D" },
    { "blocks", 0, 0, G_OPTION_ARG_INT, &shape->blocks, "Flow blocks (default: 4)", "T" },
    { "top-width", 0, 0, G_OPTION_ARG_INT, &shape->top_width,
      "Width of the last block (default: that of the others)", "D" },
    { "layers", 0, 0, G_OPTION_ARG_STRING, &shape->layers, "Layers of every block, or of each (default: 2)",
      "K[,K…]" },
    { "denoiser", 0, 0, G_OPTION_ARG_INT, &shape->denoiser,
      "Layers of a learned denoiser, trained beside a flow with Gaussian noise (default: none)", "K" },
    { "head-dim", 0, 0, G_OPTION_ARG_INT, &shape->head_dim, "Features of a head (default: 64)", "N" },
    { "basis", 0, 0, G_OPTION_ARG_STRING, &shape->basis, "pixel (default) or dct", "BASIS" },
    { "vp", 0, 0, G_OPTION_ARG_NONE, &shape->vp, "Volume-preserving blocks", NULL },
    { "noise", 0, 0, G_OPTION_ARG_STRING, &shape->noise, "uniform (default) or gaussian", "NOISE" },
    { "noise-std", 0, 0, G_OPTION_ARG_DOUBLE, &shape->noise_std,
      "Standard deviation of Gaussian noise, [-1, 1] scale (default: 0.05)", "STD" },
  };
  g_array_append_vals (entries, of_model, G_N_ELEMENTS (of_model));
}

static void
add_training_entries (GArray *entries, Options *options)
{
  NfTrainRun *run = &options->run;
  const GOptionEntry training[] = {
    { "steps", 0, 0, G_OPTION_ARG_INT64, &options->steps,
      "Steps of the whole run; with --resume, the step that it ends at", "N" },
    { "stop-after", 0, 0, G_OPTION_ARG_INT64, &options->stop_after,
      "Stop after this step as Ctrl-C does; --resume continues", "STEP" },
    { "minutes", 0, 0, G_OPTION_ARG_DOUBLE, &options->places.minutes,
      "Instead of --steps: as many as take about this long", "M" },
    { "batch", 0, 0, G_OPTION_ARG_INT, &options->batch, "Tiles per step (default: 64)", "B" },
    { "lr", 0, 0, G_OPTION_ARG_DOUBLE, &run->train.lr, "Peak learning rate (default: 1e-4)", "LR" },
    { "lr-min", 0, 0, G_OPTION_ARG_DOUBLE, &options->lr_min,
      "Final learning rate (default: 1e-6, or the peak)", "LR" },
    { "warmup", 0, 0, G_OPTION_ARG_INT64, &options->warmup,
      "Steps of warm-up (default: a fiftieth of all, at most 2000)", "STEPS" },
    { "weight-decay", 0, 0, G_OPTION_ARG_DOUBLE, &run->train.weight_decay,
      "AdamW's weight decay (default: 1e-4)", "W" },
    { "clip", 0, 0, G_OPTION_ARG_DOUBLE, &run->train.clip,
      "Largest gradient norm, 0 for no limit (default: 1)", "NORM" },
    { "ema", 0, 0, G_OPTION_ARG_DOUBLE, &run->train.ema,
      "Decay of the averaged weights, 0 for none (default: 0.999)", "DECAY" },
    { "labels", 0, 0, G_OPTION_ARG_NONE, &run->labels, "One class for each folder that files lie in", NULL },
    { "captions", 0, 0, G_OPTION_ARG_FILENAME, &options->captions,
      "Text features of each file, in tensors named after the files", "FEATURES.safetensors" },
    { "label-dropout", 0, 0, G_OPTION_ARG_DOUBLE, &options->label_dropout,
      "Share of labels or captions left out (default: 0)", "SHARE" },
    { "world", 0, 0, G_OPTION_ARG_STRING, &run->world,
      nf_world_help ("Train on a simulated world instead of files"), "WORLD" },
    { "actions", 0, 0, G_OPTION_ARG_NONE, &run->actions,
      "Tell the model the world's actions, or those in FILE" NF_ACTIONS_SUFFIX " beside each video", NULL },
    { "action-dropout", 0, 0, G_OPTION_ARG_DOUBLE, &options->action_dropout,
      "Share of samples whose actions are left out (default: 0.1)", "SHARE" },
    { "context-errors", 0, 0, G_OPTION_ARG_DOUBLE, &run->train.context_errors,
      "Share of the patches of a video's past that are replaced by others (default: 0)", "SHARE" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &options->seed, "Seed of weights, tiles and noise (default: 0)",
      "SEED" },
    { "scales", 0, 0, G_OPTION_ARG_STRING, &options->scales,
      "Factors to shrink frames by, one of them at random (default: 1)", "1,0.5,…" },
    { "holdout", 0, 0, G_OPTION_ARG_DOUBLE, &options->holdout,
      "Last share of each video, or folder of pictures, kept for validation (default: 0.1)", "SHARE" },
    { "validate-every", 0, 0, G_OPTION_ARG_INT64, &options->validate_every,
      "Steps between validations (default: a fiftieth of all, at least 25, at most 2000)", "STEPS" },
    { "validation-tiles", 0, 0, G_OPTION_ARG_INT, &options->validation_tiles,
      "Tiles of a validation, 0 for none (default: 512)", "N" },
  };
  g_array_append_vals (entries, training, G_N_ELEMENTS (training));
}

/* FALSE means NF_EXIT_USAGE, here and in the checks that follow, which say what is wrong. */
static gboolean
parse (NfCommand *command, Options *options, int argc, char **argv)
{
  g_autoptr (GArray) entries = g_array_new (TRUE, FALSE, sizeof (GOptionEntry));

  add_place_entries (entries, options);
  add_model_entries (entries, options);
  add_training_entries (entries, options);
  options->run.command = plain_command (argc, argv);
  options->setting = find_setting (argc, argv, (const GOptionEntry *)(gpointer)entries->data);
  if (!nf_command_parse (command, &argc, &argv, (const GOptionEntry *)(gpointer)entries->data,
                         NF_COMMAND_DEVICE | NF_COMMAND_GRADIENTS, "FILE|FOLDER…",
                         "Trains a flow by exact maximum likelihood on tiles of videos and pictures.",
                         "Ctrl-C saves checkpoint and model; --resume continues bit for bit.", 0, G_MAXINT))
    return FALSE;
  options->files = argv + 1;
  return TRUE;
}

static gboolean
check_names (NfCommand *command, const Options *options)
{
  const NfTrainPlaces *places = &options->places;
  const char *world = options->run.world;
  g_autoptr (GError) error = NULL;
  NfWorldPattern pattern;

  if (world && !nf_world_pattern_from_name (world, &pattern))
    nf_command_wrong_choice (command, "--world", world, nf_world_choices ());
  else if (!places->output)
    nf_command_usage (command, "--output MODEL.safetensors is missing");
  else if (!places->resume && world && *options->files)
    nf_command_usage (command, "--world takes the place of files: name none");
  else if (!places->resume && !world && !*options->files)
    nf_command_usage (command, "name the videos, pictures or folders to train on");
  else if (!nf_check_ending (places->output, "safetensors", &error)
           || !nf_check_ending (places->checkpoint, "safetensors", &error)
           || !nf_check_ending (options->log, "json", &error))
    nf_command_usage (command, "%s", error->message);
  else
    return TRUE;
  return FALSE;
}

/* How long the run is to be, and whether it begins. */
static gboolean
check_length (NfCommand *command, Options *options)
{
  const NfTrainPlaces *places = &options->places;

  if (!nf_settle_number (&options->steps))
    nf_command_usage (command, "--steps takes 1 or more");
  else if (!(places->minutes >= 0 && isfinite (places->minutes))
           || (!places->resume && (options->steps > 0) == (places->minutes > 0)))
    nf_command_usage (command, "give either --steps N or --minutes M, more than 0");
  else if (places->resume && options->overwrite)
    nf_command_usage (command, "--resume goes on with a run, --overwrite begins one in its place: give one");
  else if (places->resume && options->setting)
    {
      g_autofree char *others = g_strjoinv (", --", (char **)places_options);

      nf_command_usage (
          command,
          "--resume goes on with the settings of the run: leave out --%s; beside --resume can be given --%s, "
          "the device, and files that have moved",
          options->setting, others);
    }
  else
    return TRUE;
  return FALSE;
}

/* Options that say something of others. */
static gboolean
check_pairs (NfCommand *command, const Options *options)
{
  const gboolean label_dropout = options->label_dropout != NF_NOT_GIVEN;
  const NfTrainRun *run = &options->run;

  if (run->init && nf_train_shape_given (&options->shape))
    nf_command_usage (command,
                      "--init takes the configuration from the model: give no options of the model with it");
  else if (label_dropout && !run->labels && !options->captions)
    nf_command_usage (command,
                      "--label-dropout leaves out what --labels or --captions tell: give one of them");
  else if (run->labels && options->captions)
    nf_command_usage (command, "--labels and --captions are two ways to tell what is seen: give one");
  else if (options->action_dropout != NF_NOT_GIVEN && !run->actions)
    nf_command_usage (command, "--action-dropout leaves out what --actions tells: give both");
  else
    return TRUE;
  return FALSE;
}

static gboolean
check_numbers (NfCommand *command, Options *options)
{
  if (options->batch < 1 || (options->log_every < 1 && options->log_every != -1)
      || !nf_settle_number (&options->stop_after) || !nf_settle_number (&options->validate_every))
    nf_command_usage (command, "--batch, --log-every, --stop-after and --validate-every take 1 or more");
  else if (options->warmup != G_MININT64 && options->warmup < 0)
    nf_command_usage (command, "--warmup takes no negative number");
  else if ((options->sample_every < 0 && options->sample_every != G_MININT64) || options->cache < 0
           || options->cache > 1 << 20 || !(options->places.save_every >= 0) || options->validation_tiles < 0
           || options->seed < 0)
    nf_command_usage (command, "--sample-every, --cache (in MiB, up to 1048576), --save-every, "
                               "--validation-tiles and --seed take no negative values");
  else
    return TRUE;
  return FALSE;
}

static void
set_places (Options *options)
{
  NfTrainPlaces *places = &options->places;

  if (!places->checkpoint)
    places->checkpoint = g_strconcat (places->output, ".checkpoint", NULL);
  places->cache = (guint64)options->cache << 20;
  places->stop_after = (guint64)options->stop_after;
}

/* The run is that of the checkpoint. */
static gboolean
resume_run (Options *options, GError **error)
{
  NfTrainRun *run = &options->run;
  NfTrainPlaces *places = &options->places;
  g_auto (GStrv) validation = g_steal_pointer (&run->validation);
  g_autofree char *settings = nf_train_settings_path (places->checkpoint);

  g_clear_pointer (&run->command, g_free);
  places->moved = *options->files != NULL;
  places->validation_moved = validation != NULL;
  if (!nf_train_load_settings (run, places->checkpoint, error) || !check_run (run, settings, error)
      || !read_elsewhere (run, options->files, validation, options->captions, error)
      || (options->steps && !end_elsewhere (run, places->checkpoint, (guint64)options->steps, error)))
    return FALSE;
  if (options->validate_every)
    run->validate_every = (guint64)options->validate_every;
  return check_run (run, NULL, error);
}

static void
set_run (NfTrainRun *run, const Options *options)
{
  NfTrainOptions *train = &run->train;

  run->batch = (guint)options->batch;
  run->validation_tiles = (guint)options->validation_tiles;
  run->validate_every = (guint64)options->validate_every;
  if (options->holdout != NF_NOT_GIVEN)
    run->holdout = options->holdout;
  train->steps = options->steps ? (guint64)options->steps : 1;
  train->seed = (guint64)options->seed;
  train->warmup = options->warmup < 0 ? G_MAXUINT64 : (guint64)options->warmup;
  train->lr_min = options->lr_min != NF_NOT_GIVEN ? options->lr_min : MIN (train->lr_min, train->lr);
  if (options->label_dropout != NF_NOT_GIVEN)
    train->label_dropout = options->label_dropout;
  if (options->action_dropout != NF_NOT_GIVEN)
    train->action_dropout = options->action_dropout;
  /* Absolute, so that --resume works from any folder. */
  run->files = g_strdupv (options->files);
  make_all_absolute (run->files);
  make_all_absolute (run->validation);
  run->captions = options->captions ? g_canonicalize_filename (options->captions, NULL) : NULL;
  /* a bundled model's name stays one */
  if (run->init && g_file_test (run->init, G_FILE_TEST_EXISTS))
    make_absolute (&run->init);
}

/* The run is that of the options. Returns: 0, or the exit status after it was said what is wrong. */
static int
begin_run (NfCommand *command, Options *options)
{
  NfTrainRun *run = &options->run;
  NfTrainShape *shape = &options->shape;
  g_autoptr (GError) error = NULL;

  set_run (run, options);
  /* what is in a file is not the command line's fault */
  if (!nf_train_read_config (&run->config, shape, &error))
    return shape->config[0] == '{' ? nf_command_usage (command, "%s", error->message)
                                   : nf_command_fail (command, error);
  if ((options->scales && !parse_scales (run, options->scales, &error))
      || !nf_train_make_config (&run->config, shape, &error) || !check_run (run, NULL, &error))
    return nf_command_usage (command, "%s", error->message);
  if (run->init && !read_init (run, &error))
    return nf_command_fail (command, error);
  return 0;
}

/* Whether options fit the run's model. */
static gboolean
check_model (NfCommand *command, const Options *options)
{
  const NfTrainRun *run = &options->run;
  const gboolean captions = nf_train_has_captions (run);
  g_autoptr (GError) error = NULL;

  if (!check_video_options (options, &error))
    nf_command_usage (command, "%s", error->message);
  else if (captions && run->config.family != NF_FAMILY_STARFLOW)
    nf_command_usage (command, "--captions are for models that see text: --family starflow");
  else if (run->config.txt_size > 1 && !captions)
    nf_command_usage (command, "the model sees text: --captions says what of each file");
  else if (!run->config.frames && ((run->world && *run->world) || run->actions))
    nf_command_usage (command,
                      "--world and --actions go with a model of videos: --family starflow --frames F");
  else
    return TRUE;
  return FALSE;
}

/* Log and samples, which a run that goes on may have elsewhere, or at other steps. */
static gboolean
set_log_and_samples (NfCommand *command, Options *options)
{
  NfTrainRun *run = &options->run;

  if (options->log)
    {
      g_autofree char *before = g_steal_pointer (&run->log);

      run->log = g_canonicalize_filename (options->log, NULL);
      options->places.other_log = g_strcmp0 (run->log, before) != 0;
    }
  if (options->log_every != -1 || !run->log_every)
    run->log_every = options->log_every != -1 ? (guint64)options->log_every : 10;
  if (options->samples)
    {
      g_free (run->samples);
      run->samples = g_canonicalize_filename (options->samples, NULL);
    }
  if (options->sample_every == G_MININT64)
    return TRUE;
  if (!run->samples)
    {
      nf_command_usage (command, "--sample-every says how often --samples are drawn: give both");
      return FALSE;
    }
  run->sample_every = (guint64)options->sample_every;
  return TRUE;
}

int
nf_cmd_train (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Options) options;
  NfTrainPlaces *places = &options.places;
  g_autoptr (GError) error = NULL;

  options_init (&options);
  if (!parse (&command, &options, argc, argv) || !check_names (&command, &options)
      || !check_length (&command, &options) || !check_pairs (&command, &options)
      || !check_numbers (&command, &options))
    return NF_EXIT_USAGE;
  set_places (&options);
  if (places->resume && !resume_run (&options, &error))
    return nf_command_fail (&command, error);
  const int status = places->resume ? 0 : begin_run (&command, &options);
  if (status != 0)
    return status;
  if (!check_model (&command, &options) || !set_log_and_samples (&command, &options))
    return NF_EXIT_USAGE;
  if (!check_places (places, &options.run, options.shape.config, &error)
      || (!places->resume && !options.overwrite && !nf_train_check_begun (places->checkpoint, &error)))
    return nf_command_fail (&command, error);

  nf_command_catch_signals (&command);
  if (!nf_train_job (&command, &options.run, places, &error))
    return nf_command_fail (&command, error);
  return g_cancellable_is_cancelled (command.cancellable) ? NF_EXIT_INTERRUPTED : 0;
}
