/* normflow train: maximum likelihood on videos and pictures. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "captions.h"
#include "command.h"
#include "common.h"
#include "media.h"
#include "nf-json.h"
#include "progress.h"
#include "reels.h"

#include <errno.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>
#include <normflow.h>

#define NAME "train"
#define MEASURED_STEPS 20
#define MAX_SKIPPED 100
#define VALIDATION_BYTES (64u << 20)
#define MAX_VALIDATION 4096
#define SHEET_TILES 8

/* What a step draws from a file depends on what is in it; this tells most other files of the same name. */
typedef struct
{
  char *name; /* for people */
  guint64 frames;
  guint64 bytes;
} Source;

static void
source_clear (gpointer data)
{
  g_free (((Source *)data)->name);
}

static GArray *
sources_new (void)
{
  GArray *sources = g_array_new (FALSE, FALSE, sizeof (Source));

  g_array_set_clear_func (sources, source_clear);
  return sources;
}

/* Everything that decides what a run computes; kept beside the checkpoint so that --resume needs no other
 * option. */
typedef struct
{
  NfConfig config;
  NfTrainOptions train;
  guint batch;
  double holdout;
  double scales[16];
  guint n_scales;
  gboolean labels;
  char *captions; /* file of text features, or NULL or empty */
  char *captions_digest;
  gboolean actions;
  char *world; /* simulated instead of files, or NULL or empty */
  guint64 validate_every;
  guint validation_tiles;
  char **files;
  char **validation;
  GArray *sources; /* all files in FILES; NULL before they are opened, and in settings from before they were
                      kept */
  char *init;
  char *command;
  char *log;
  guint64 log_every;
  char *samples; /* folder of pictures, or NULL */
  guint64 sample_every;
  char *precision; /* of matrix products; NULL before there is a device, and in settings from before it was
                      kept */
  char *form;      /* what multiplies in it, likewise */
  /* Where the run stands. */
  double best;
  guint64 best_tiles; /* that its mean is over: those with a finite loss */
  guint64 best_step;
  guint64 skipped;
  double seconds;
} Run;

typedef struct
{
  char *output;
  char *checkpoint;
  double save_every;
  guint64 cache;
  guint64 stop_after;
  gboolean resume;
  gboolean other_log; /* than that of the run so far */
  double minutes;
} Places;

static void
run_clear (Run *run)
{
  g_strfreev (run->files);
  g_strfreev (run->validation);
  g_clear_pointer (&run->sources, g_array_unref);
  g_free (run->init);
  g_free (run->captions);
  g_free (run->captions_digest);
  g_free (run->world);
  g_free (run->command);
  g_free (run->log);
  g_free (run->samples);
  g_free (run->precision);
  g_free (run->form);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Run, run_clear)

static void
places_clear (Places *places)
{
  g_free (places->output);
  g_free (places->checkpoint);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Places, places_clear)

/* Settings beside the checkpoint */

static void
add_strings (JsonBuilder *builder, const char *name, char **strings)
{
  json_builder_set_member_name (builder, name);
  json_builder_begin_array (builder);
  for (gsize i = 0; strings && strings[i]; i++)
    json_builder_add_string_value (builder, strings[i]);
  json_builder_end_array (builder);
}

static void
add_double (JsonBuilder *builder, const char *name, double value)
{
  json_builder_set_member_name (builder, name);
  /* JSON has no infinity and no NaN. */
  if (isfinite (value))
    json_builder_add_double_value (builder, value);
  else
    json_builder_add_null_value (builder);
}

static void
add_int (JsonBuilder *builder, const char *name, guint64 value)
{
  json_builder_set_member_name (builder, name);
  json_builder_add_int_value (builder, (gint64)value);
}

static void
add_sources (JsonBuilder *builder, const GArray *sources)
{
  json_builder_set_member_name (builder, "sources");
  json_builder_begin_array (builder);
  for (guint i = 0; i < sources->len; i++)
    {
      const Source *source = &g_array_index (sources, Source, i);

      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "name");
      json_builder_add_string_value (builder, source->name);
      add_int (builder, "frames", source->frames);
      add_int (builder, "bytes", source->bytes);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

static char *
builder_text (JsonBuilder *builder, gboolean pretty)
{
  g_autoptr (JsonGenerator) generator = json_generator_new ();
  g_autoptr (JsonNode) root = json_builder_get_root (builder);

  json_generator_set_root (generator, root);
  json_generator_set_pretty (generator, pretty);
  return json_generator_to_data (generator, NULL);
}

static char *
settings_path (const char *checkpoint)
{
  return g_strconcat (checkpoint, ".json", NULL);
}

/* As text: it comes back bit for bit, and json-glib's scanner cannot read all the numbers its generator
 * writes. */
static void
add_exact (JsonBuilder *builder, const char *name, double value)
{
  char text[G_ASCII_DTOSTR_BUF_SIZE];

  if (name)
    json_builder_set_member_name (builder, name);
  json_builder_add_string_value (builder, g_ascii_dtostr (text, sizeof text, value));
}

static gboolean
save_settings (const Run *run, const char *checkpoint, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (GError) local = NULL;
  g_autofree char *config = nf_config_to_json (&run->config);
  g_autofree char *path = settings_path (checkpoint);
  /* always the same name, so that what a killed run leaves is written over, not beside */
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  g_autofree char *text = NULL;

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "config");
  json_builder_add_string_value (builder, config);
  add_int (builder, "steps", run->train.steps);
  add_int (builder, "warmup", run->train.warmup);
  add_exact (builder, "lr", run->train.lr);
  add_exact (builder, "lr_min", run->train.lr_min);
  add_exact (builder, "beta1", run->train.beta1);
  add_exact (builder, "beta2", run->train.beta2);
  add_exact (builder, "eps", run->train.eps);
  add_exact (builder, "weight_decay", run->train.weight_decay);
  add_exact (builder, "clip", run->train.clip);
  add_exact (builder, "ema", run->train.ema);
  add_exact (builder, "label_dropout", run->train.label_dropout);
  add_exact (builder, "action_dropout", run->train.action_dropout);
  add_exact (builder, "context_errors", run->train.context_errors);
  add_int (builder, "seed", run->train.seed);
  add_int (builder, "batch", run->batch);
  add_exact (builder, "holdout", run->holdout);
  json_builder_set_member_name (builder, "scales");
  json_builder_begin_array (builder);
  for (guint i = 0; i < run->n_scales; i++)
    add_exact (builder, NULL, run->scales[i]);
  json_builder_end_array (builder);
  json_builder_set_member_name (builder, "labels");
  json_builder_add_boolean_value (builder, run->labels);
  json_builder_set_member_name (builder, "captions");
  json_builder_add_string_value (builder, run->captions ? run->captions : "");
  json_builder_set_member_name (builder, "captions_digest");
  json_builder_add_string_value (builder, run->captions_digest ? run->captions_digest : "");
  json_builder_set_member_name (builder, "actions");
  json_builder_add_boolean_value (builder, run->actions);
  json_builder_set_member_name (builder, "world");
  json_builder_add_string_value (builder, run->world ? run->world : "");
  add_int (builder, "validate_every", run->validate_every);
  add_int (builder, "validation_tiles", run->validation_tiles);
  add_strings (builder, "files", run->files);
  add_strings (builder, "validation", run->validation);
  add_sources (builder, run->sources);
  json_builder_set_member_name (builder, "init");
  json_builder_add_string_value (builder, run->init ? run->init : "");
  json_builder_set_member_name (builder, "command");
  json_builder_add_string_value (builder, run->command);
  json_builder_set_member_name (builder, "log");
  json_builder_add_string_value (builder, run->log ? run->log : "");
  add_int (builder, "log_every", run->log_every);
  json_builder_set_member_name (builder, "samples");
  json_builder_add_string_value (builder, run->samples ? run->samples : "");
  add_int (builder, "sample_every", run->sample_every);
  json_builder_set_member_name (builder, "precision");
  json_builder_add_string_value (builder, run->precision);
  json_builder_set_member_name (builder, "multiplied_by");
  json_builder_add_string_value (builder, run->form);
  add_exact (builder, "best", run->best);
  add_int (builder, "best_tiles", run->best_tiles);
  add_int (builder, "best_step", run->best_step);
  add_int (builder, "skipped", run->skipped);
  add_exact (builder, "seconds", run->seconds);
  json_builder_end_object (builder);
  text = builder_text (builder, TRUE);
  if (!g_file_set_contents_full (part, text, -1, G_FILE_SET_CONTENTS_NONE, 0666, &local))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the settings of the run cannot be written: %s", path,
                   local->message);
      g_unlink (part);
      return FALSE;
    }
  return nf_publish (part, path, error);
}

/* Reads members of the settings, of the right type; the first wrong one is remembered. */
typedef struct
{
  JsonObject *object;
  const char *wrong;
} Settings;

static JsonNode *
settings_node (Settings *settings, const char *name, JsonNodeType type)
{
  JsonNode *node = json_object_get_member (settings->object, name);

  if (node && JSON_NODE_TYPE (node) == type)
    return node;
  if (!settings->wrong)
    settings->wrong = name;
  return NULL;
}

static double
node_double (Settings *settings, const char *name, JsonNode *node)
{
  const char *text = node && JSON_NODE_HOLDS_VALUE (node) ? json_node_get_string (node) : NULL;
  char *end = NULL;
  double value = text ? g_ascii_strtod (text, &end) : 0;

  if ((!text || end == text || *end || isnan (value)) && !settings->wrong)
    settings->wrong = name;
  return value;
}

static double
settings_double (Settings *settings, const char *name)
{
  return node_double (settings, name, settings_node (settings, name, JSON_NODE_VALUE));
}

static guint64
settings_int (Settings *settings, const char *name)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_VALUE);

  if (node && json_node_get_int (node) < 0 && !settings->wrong)
    settings->wrong = name;
  return node ? (guint64)json_node_get_int (node) : 0;
}

static char *
settings_string (Settings *settings, const char *name)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_VALUE);
  const char *text = node ? json_node_get_string (node) : NULL;

  if (node && !text && !settings->wrong)
    settings->wrong = name;
  return g_strdup (text ? text : "");
}

static char **
settings_strings (Settings *settings, const char *name)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_ARRAY);
  g_autoptr (GPtrArray) strings = g_ptr_array_new ();

  for (guint i = 0; node && i < json_array_get_length (json_node_get_array (node)); i++)
    {
      JsonNode *element = json_array_get_element (json_node_get_array (node), i);
      const char *text = JSON_NODE_HOLDS_VALUE (element) ? json_node_get_string (element) : NULL;

      if (text)
        g_ptr_array_add (strings, g_strdup (text));
      else if (!settings->wrong)
        settings->wrong = name;
    }
  g_ptr_array_add (strings, NULL);
  return (char **)g_ptr_array_steal (strings, NULL);
}

static GArray *
settings_sources (Settings *settings, const char *name)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_ARRAY);
  GArray *sources = sources_new ();

  for (guint i = 0; node && i < json_array_get_length (json_node_get_array (node)); i++)
    {
      JsonNode *element = json_array_get_element (json_node_get_array (node), i);
      Settings member = { JSON_NODE_HOLDS_OBJECT (element) ? json_node_get_object (element) : NULL, NULL };

      if (member.object)
        {
          const Source source = { settings_string (&member, "name"), settings_int (&member, "frames"),
                                  settings_int (&member, "bytes") };

          g_array_append_val (sources, source);
        }
      if ((!member.object || member.wrong) && !settings->wrong)
        settings->wrong = name;
    }
  return sources;
}

static gboolean
load_settings (Run *run, const char *checkpoint, GError **error)
{
  g_autofree char *path = settings_path (checkpoint), *text = NULL;
  g_autofree char *what = g_strconcat (path, ": the settings of the run", NULL);
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autoptr (GError) local = NULL;
  g_autoptr (NfConfig) config = NULL;
  g_autofree char *config_text = NULL;
  Settings settings = { NULL, NULL };
  JsonNode *scales;
  gsize length;

  if (!g_file_test (path, G_FILE_TEST_EXISTS))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND,
                   "%s: there is no run to resume; leave out --resume to start one", path);
      return FALSE;
    }
  if (!g_file_get_contents (path, &text, &length, &local))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: the settings of the run cannot be read: %s", path,
                   local->message);
      return FALSE;
    }
  settings.object = nf_json_parse_object (parser, text, length, what, error);
  if (!settings.object)
    return FALSE;
  config_text = settings_string (&settings, "config");
  if (*config_text)
    {
      config = nf_config_from_json (config_text, path, error);
      if (!config)
        return FALSE;
      run->config = *config;
    }
  run->train.steps = settings_int (&settings, "steps");
  run->train.warmup = settings_int (&settings, "warmup");
  run->train.lr = settings_double (&settings, "lr");
  run->train.lr_min = settings_double (&settings, "lr_min");
  run->train.beta1 = settings_double (&settings, "beta1");
  run->train.beta2 = settings_double (&settings, "beta2");
  run->train.eps = settings_double (&settings, "eps");
  run->train.weight_decay = settings_double (&settings, "weight_decay");
  run->train.clip = settings_double (&settings, "clip");
  run->train.ema = settings_double (&settings, "ema");
  run->train.label_dropout = settings_double (&settings, "label_dropout");
  run->train.action_dropout = settings_double (&settings, "action_dropout");
  /* runs that began before there were such things have none */
  if (json_object_has_member (settings.object, "context_errors"))
    run->train.context_errors = settings_double (&settings, "context_errors");
  if (json_object_has_member (settings.object, "log"))
    run->log = settings_string (&settings, "log");
  if (json_object_has_member (settings.object, "log_every"))
    run->log_every = settings_int (&settings, "log_every");
  if (json_object_has_member (settings.object, "samples"))
    run->samples = settings_string (&settings, "samples");
  if (run->samples && !*run->samples)
    g_clear_pointer (&run->samples, g_free);
  if (json_object_has_member (settings.object, "sample_every"))
    run->sample_every = settings_int (&settings, "sample_every");
  if (json_object_has_member (settings.object, "precision"))
    {
      run->precision = settings_string (&settings, "precision");
      if (!g_strv_contains (nf_device_precisions (), run->precision) && !settings.wrong)
        settings.wrong = "precision";
    }
  if (json_object_has_member (settings.object, "multiplied_by"))
    {
      run->form = settings_string (&settings, "multiplied_by");
      if (!nf_is_word (run->form) && !settings.wrong)
        settings.wrong = "multiplied_by";
    }
  run->train.seed = settings_int (&settings, "seed");
  run->batch = (guint)MIN (settings_int (&settings, "batch"), G_MAXUINT);
  run->holdout = settings_double (&settings, "holdout");
  scales = settings_node (&settings, "scales", JSON_NODE_ARRAY);
  run->n_scales
      = scales ? MIN (json_array_get_length (json_node_get_array (scales)), G_N_ELEMENTS (run->scales)) : 0;
  for (guint i = 0; i < run->n_scales; i++)
    run->scales[i]
        = node_double (&settings, "scales", json_array_get_element (json_node_get_array (scales), i));
  run->labels = settings_node (&settings, "labels", JSON_NODE_VALUE)
                && json_object_get_boolean_member (settings.object, "labels");
  if (json_object_has_member (settings.object, "captions"))
    run->captions = settings_string (&settings, "captions");
  if (json_object_has_member (settings.object, "captions_digest"))
    run->captions_digest = settings_string (&settings, "captions_digest");
  run->actions = settings_node (&settings, "actions", JSON_NODE_VALUE)
                 && json_object_get_boolean_member (settings.object, "actions");
  run->world = settings_string (&settings, "world");
  run->validate_every = settings_int (&settings, "validate_every");
  run->validation_tiles = (guint)MIN (settings_int (&settings, "validation_tiles"), G_MAXUINT);
  run->files = settings_strings (&settings, "files");
  run->validation = settings_strings (&settings, "validation");
  if (json_object_has_member (settings.object, "sources"))
    run->sources = settings_sources (&settings, "sources");
  run->init = settings_string (&settings, "init");
  run->command = settings_string (&settings, "command");
  /* before it was kept, it was taken to be all */
  run->best_tiles = G_MAXUINT64;
  if (json_object_has_member (settings.object, "best_tiles"))
    run->best_tiles = settings_int (&settings, "best_tiles");
  run->best_step = settings_int (&settings, "best_step");
  run->skipped = settings_int (&settings, "skipped");
  run->seconds = settings_double (&settings, "seconds");
  if (!(run->seconds >= 0 && isfinite (run->seconds)) && !settings.wrong)
    settings.wrong = "seconds";
  run->best = settings_double (&settings, "best");
  if (settings.wrong)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: member \"%s\" is missing or not what it should be",
                   path, settings.wrong);
      return FALSE;
    }
  return TRUE;
}

/* Options */

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

static gboolean
parse_scales (Run *run, const char *text, GError **error)
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

typedef struct
{
  char *config;
  char *layout;
  char *basis;
  char *noise;
  char *family;
  char *size;
  char *layers;
  int patch;
  int width;
  int top_width;
  int blocks;
  int head_dim;
  int frames;
  int denoiser;
  gboolean vp;
  double noise_std;
  JsonObject *members; /* of CONFIG, or NULL */
} Shape;

static void
shape_clear (Shape *shape)
{
  g_free (shape->config);
  g_free (shape->layout);
  g_free (shape->basis);
  g_free (shape->noise);
  g_free (shape->family);
  g_free (shape->size);
  g_free (shape->layers);
  g_clear_pointer (&shape->members, json_object_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Shape, shape_clear)

static gboolean
wrong_choice (const char *option, const char *value, const char *choices, GError **error)
{
  g_autofree char *shown = nf_shorten (value);

  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s %s: choose one of %s", option, shown, choices);
  return FALSE;
}

static gboolean
set_size (guint *member, const char *option, int value, GError **error)
{
  if (value == -1)
    return TRUE;
  if (value < 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s %d: must be 1 or more", option, value);
      return FALSE;
    }
  *member = (guint)value;
  return TRUE;
}

/* --size S or WxH. */
static gboolean
set_sides (NfConfig *config, const char *text, GError **error)
{
  char *end = NULL;
  const guint64 side = text ? g_ascii_strtoull (text, &end, 10) : 1;
  guint width, height;
  if (!text)
    return TRUE;
  config->rows = config->columns = 0;
  if (end > text && !*end && side >= 1 && side <= G_MAXINT)
    {
      config->img_size = (guint)side;
      return TRUE;
    }
  if (!nf_parse_size (text, &width, &height))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--size %s: must be a side in pixels, or WxH such as 64x48", text);
      return FALSE;
    }
  config->img_size = MAX (width, height);
  if (width == height)
    return TRUE;
  if (config->family != NF_FAMILY_STARFLOW)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--size %s: tiles of a TARFlow are square", text);
      return FALSE;
    }
  config->columns = width;
  config->rows = height;
  return TRUE;
}

/* --layers K or K,K,…: of each block, the one next to the pixels first. */
static gboolean
set_layers (NfConfig *config, const char *text, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (text ? text : "", ",", -1);
  const guint n = g_strv_length (parts);
  if (!text)
    return TRUE;
  memset (config->layers, 0, sizeof config->layers);
  for (guint i = 0; i < n; i++)
    {
      char *end = NULL;
      const guint64 layers = g_ascii_strtoull (parts[i], &end, 10);
      if (end == parts[i] || *end || layers < 1 || layers > 256 || (n > 1 && n != config->n_blocks))
        {
          g_set_error (
              error, NF_ERROR, NF_ERROR_ARGUMENT,
              "--layers %s: must be a number from 1 to 256, or one for each of the %u blocks with commas "
              "between them",
              text, config->n_blocks);
          return FALSE;
        }
      if (n > 1)
        config->layers[i] = (guint)layers;
      if (i == 0)
        config->n_layers = (guint)layers;
    }
  return TRUE;
}

static gboolean
lacks (JsonObject *members, const char *name)
{
  return !members || !json_object_has_member (members, name);
}

/* What a STARFlow is made of, as the published ones but for the text; GIVEN (nullable) has members of
 * --config, which stay as they are. */
static void
become_starflow (NfConfig *config, gboolean video, JsonObject *given)
{
  config->family = NF_FAMILY_STARFLOW;
  if (lacks (given, "num_blocks"))
    config->n_blocks = 2;
  if (lacks (given, "rope"))
    config->rope = TRUE;
  if (lacks (given, "sos"))
    config->sos = TRUE;
  if (lacks (given, "use_softplus"))
    config->softplus = TRUE;
  if (lacks (given, "seq_order"))
    config->left_to_right = TRUE;
  if (lacks (given, "cond_top_only"))
    config->cond_top_only = TRUE;
  if (lacks (given, "soft_clip"))
    config->soft_clip = 4;
  if (lacks (given, "use_final_norm"))
    config->final_norm = TRUE;
  if (video)
    {
      if (lacks (given, "temporal_causal"))
        config->temporal_causal = 1;
      if (lacks (given, "shallow_block_local"))
        config->shallow_local = TRUE;
    }
}

/* Single options over the configuration. */
static gboolean
make_config (NfConfig *config, const Shape *shape, GError **error)
{
  if (shape->family)
    {
      if (strcmp (shape->family, "tarflow") && strcmp (shape->family, "starflow"))
        return wrong_choice ("--family", shape->family, "tarflow, starflow", error);
      if (!strcmp (shape->family, "starflow"))
        become_starflow (config, shape->frames > 0 || config->frames > 0, shape->members);
      else
        config->family = NF_FAMILY_TARFLOW;
    }
  if (config->family != NF_FAMILY_STARFLOW
      && (shape->frames != -1 || shape->top_width != -1 || shape->denoiser != -1))
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT,
                           "--frames, --top-width and --denoiser go with --family starflow");
      return FALSE;
    }
  if (shape->layout)
    {
      if (!nf_pixel_layout_from_name (shape->layout, &config->layout))
        return wrong_choice ("--layout", shape->layout, "yuv420, rgb, gray", error);
      config->channels = config->layout == NF_PIXELS_GRAY ? 1 : 3;
    }
  if (shape->basis)
    {
      if (strcmp (shape->basis, "pixel") && strcmp (shape->basis, "dct"))
        return wrong_choice ("--basis", shape->basis, "pixel, dct", error);
      config->basis = strcmp (shape->basis, "dct") ? NF_BASIS_PIXEL : NF_BASIS_DCT;
    }
  if (shape->noise)
    {
      if (strcmp (shape->noise, "uniform") && strcmp (shape->noise, "gaussian"))
        return wrong_choice ("--noise", shape->noise, "uniform, gaussian", error);
      config->noise = strcmp (shape->noise, "gaussian") ? NF_NOISE_UNIFORM : NF_NOISE_GAUSSIAN;
      if (config->noise == NF_NOISE_GAUSSIAN && config->noise_std == 0)
        config->noise_std = 0.05;
      if (config->noise != NF_NOISE_GAUSSIAN)
        config->noise_std = 0;
    }
  if (shape->noise_std != NF_NOT_GIVEN)
    {
      if (config->noise != NF_NOISE_GAUSSIAN || !(shape->noise_std > 0 && shape->noise_std <= 1))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "--noise-std %g: goes with --noise gaussian, from above 0 to 1", shape->noise_std);
          return FALSE;
        }
      config->noise_std = shape->noise_std;
    }
  if ((config->noise == NF_NOISE_GAUSSIAN) != (config->noise_std > 0))
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          config->noise_std > 0
              ? "--config: noise_std %g, but uniform noise has none; --noise uniform takes it away, "
                "--noise gaussian means it"
              : "--config: noise_std is %g, and noise_type gaussian needs one above 0: say it there or "
                "by --noise-std; or --noise uniform",
          config->noise_std);
      return FALSE;
    }
  if (shape->vp)
    config->nvp = FALSE;
  return set_sides (config, shape->size, error)
         && set_size (&config->patch_size, "--patch", shape->patch, error)
         && set_size (&config->width, "--width", shape->width, error)
         && set_size (&config->n_blocks, "--blocks", shape->blocks, error)
         && set_size (&config->top_width, "--top-width", shape->top_width, error)
         && set_layers (config, shape->layers, error)
         && set_size (&config->frames, "--frames", shape->frames, error)
         && set_size (&config->denoiser_layers, "--denoiser", shape->denoiser, error)
         && set_size (&config->head_dim, "--head-dim", shape->head_dim, error);
}

/* What models are without --config. */
static const NfConfig plain = { .channels = 3,
                                .img_size = 32,
                                .patch_size = 4,
                                .width = 192,
                                .n_blocks = 4,
                                .n_layers = 2,
                                .nvp = TRUE,
                                .head_dim = 64,
                                .expansion = 4,
                                .layout = NF_PIXELS_YUV420,
                                .basis = NF_BASIS_PIXEL,
                                .noise = NF_NOISE_UNIFORM };

/* The members of the JSON object TEXT; NULL if it is none. */
static JsonObject *
parse_members (const char *text)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  JsonNode *root = json_parser_load_from_data (parser, text, -1, NULL) ? json_parser_get_root (parser) : NULL;
  return root && JSON_NODE_HOLDS_OBJECT (root) ? json_object_ref (json_node_get_object (root)) : NULL;
}

/* NULL if MEMBERS has no text of that name. */
static const char *
text_of (JsonObject *members, const char *name)
{
  JsonNode *node = json_object_get_member (members, name);
  return node && JSON_NODE_HOLDS_VALUE (node) ? json_node_get_string (node) : NULL;
}

/* A configuration without sizes that each one has only says what is to be other than without it: the text of
 * a whole one, as options and GIVEN make it. NULL without an error if GIVEN is whole. */
static char *
complete_config (const Shape *shape, JsonObject *given, GError **error)
{
  static const char *const needed[]
      = { "img_size", "patch_size", "channels", "num_blocks", "layers_per_block" };
  guint n = 0;
  while (n < G_N_ELEMENTS (needed) && !lacks (given, needed[n]))
    n++;
  if (n == G_N_ELEMENTS (needed))
    return NULL;

  /* what decides about other members */
  NfConfig base = plain;
  Shape options = *shape;
  const char *given_layout = text_of (given, "pixel_layout");
  NfPixelLayout layout;
  if (!options.family && g_strcmp0 (text_of (given, "family"), "starflow") == 0)
    options.family = (char *)"starflow";
  if (!options.noise && g_strcmp0 (text_of (given, "noise_type"), "gaussian") == 0)
    options.noise = (char *)"gaussian";
  if (!options.layout && given_layout && nf_pixel_layout_from_name (given_layout, &layout))
    options.layout = (char *)given_layout;
  JsonNode *node = json_object_get_member (given, "frames");
  const gint64 frames = node && JSON_NODE_HOLDS_VALUE (node) ? json_node_get_int (node) : 0;
  if (options.frames == -1 && g_strcmp0 (options.family, "starflow") == 0 && frames > 0 && frames <= G_MAXINT)
    options.frames = (int)frames;
  /* these are checked against what GIVEN may say */
  options.layers = NULL;
  options.noise_std = NF_NOT_GIVEN;
  options.members = given;
  if (!make_config (&base, &options, error))
    return NULL;
  g_autofree char *json = nf_config_to_json (&base);
  g_autoptr (JsonObject) members = parse_members (json);
  g_autoptr (GList) names = json_object_get_members (given);
  for (GList *name = names; name; name = name->next)
    json_object_set_member (members, name->data, json_object_dup_member (given, name->data));
  /* options that GIVEN would contradict */
  if (shape->family)
    json_object_set_string_member (members, "family", shape->family);
  if (shape->layers)
    json_object_set_int_member (members, "layers_per_block", (gint64)base.n_layers);
  if (shape->layout)
    {
      json_object_set_string_member (members, "pixel_layout", shape->layout);
      json_object_set_int_member (members, "in_channels", (gint64)base.channels);
    }
  if (!lacks (given, "img_size") && lacks (given, "hw") && !lacks (members, "hw"))
    json_object_remove_member (members, "hw");
  if (!shape->layout && !lacks (given, "in_channels") && lacks (given, "pixel_layout"))
    json_object_remove_member (members, "pixel_layout");
  g_autoptr (JsonNode) root = json_node_init_object (json_node_alloc (), members);
  return json_to_string (root, FALSE);
}

/* What single options go over: the defaults, or what --config says, whose MEMBERS are then not NULL. */
static gboolean
read_config (NfConfig *config, Shape *shape, GError **error)
{
  const char *given = shape->config;
  g_autoptr (NfConfig) parsed = NULL;
  g_autoptr (GError) local = NULL;
  g_autofree char *text = NULL, *whole = NULL;

  *config = plain;
  if (!given)
    return TRUE;
  if (given[0] != '{' && !g_file_get_contents (given, &text, NULL, &local))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "--config %s: %s", given, local->message);
      return FALSE;
    }
  const char *json = text ? text : given;
  shape->members = parse_members (json);
  if (shape->members && !(whole = complete_config (shape, shape->members, &local)) && local)
    {
      g_propagate_error (error, g_steal_pointer (&local));
      return FALSE;
    }
  parsed = nf_config_from_json (whole ? whole : json, text ? given : "--config", error);
  if (parsed)
    *config = *parsed;
  return parsed != NULL;
}

static gboolean
shape_given (const Shape *shape)
{
  const int sizes[] = { shape->patch,  shape->width,    shape->top_width, shape->blocks,
                        shape->frames, shape->denoiser, shape->head_dim };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    if (sizes[i] != -1)
      return TRUE;
  return shape->config || shape->layout || shape->basis || shape->noise || shape->family || shape->size
         || shape->layers || shape->vp || shape->noise_std != NF_NOT_GIVEN;
}

/* Whether there are worlds of that size. */
static gboolean
check_world (const Run *run, GError **error)
{
  NfWorldPattern pattern;
  g_autoptr (NfWorld) world = NULL;

  if (!run->world || !nf_world_pattern_from_name (run->world, &pattern))
    return TRUE;
  world = nf_world_new (pattern, nf_config_columns (&run->config), nf_config_rows (&run->config), 0, error);
  return world != NULL;
}

static gboolean
check_run (const Run *run, GError **error)
{
  const NfTrainOptions *train = &run->train;
  const struct
  {
    const char *option;
    double value;
    double low;
    double high;
  } ranges[] = { { "--batch", run->batch, 1, 65536 },
                 { "--steps", (double)train->steps, 1, 1e12 },
                 { "--lr", train->lr, 0, 1 },
                 { "--lr-min", train->lr_min, 0, train->lr },
                 { "--weight-decay", train->weight_decay, 0, 1 },
                 { "--clip", train->clip, 0, 1e9 },
                 { "--ema", train->ema, 0, 0.999999 },
                 { "--label-dropout", train->label_dropout, 0, 1 },
                 { "--action-dropout", train->action_dropout, 0, 1 },
                 { "--context-errors", train->context_errors, 0, 1 },
                 { "--holdout", run->holdout, 0, 0.9 },
                 { "--validation-tiles", run->validation_tiles, 0, 1 << 20 } };

  for (gsize i = 0; i < G_N_ELEMENTS (ranges); i++)
    if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s %g: must be from %g to %g", ranges[i].option,
                     ranges[i].value, ranges[i].low, ranges[i].high);
        return FALSE;
      }
  /* those of --init are known later */
  return (run->init && *run->init)
         || (nf_config_check (&run->config, "the options", error)
             && nf_trainer_check (&run->config, train, error) && check_world (run, error));
}

/* With --init, the configuration is that of the model. */
static gboolean
read_init (Run *run, GError **error)
{
  g_autofree char *path = nf_model_find (run->init, error);
  g_autoptr (NfTensorFile) file = path ? nf_tensor_file_open (path, error) : NULL;
  g_autoptr (NfConfig) config = file ? nf_checkpoint_config (file, NULL, NULL, error) : NULL;

  if (config)
    run->config = *config;
  return config != NULL;
}

static gboolean
has_captions (const Run *run)
{
  return run->captions && *run->captions;
}

/* What would do nothing for a model of videos; what a run that goes on began with is let be. */
static gboolean
check_video_options (const Run *run, gboolean begins, gboolean holdout, gboolean samples, GError **error)
{
  const gboolean world = run->world && *run->world;
  const struct
  {
    gboolean given;
    const char *text;
  } idle[] = {
    { begins && run->validation && run->validation[0],
      "--validation is for models of pictures: of videos, the last --holdout of each is validated on" },
    { begins && run->labels, "--labels are for models of pictures: videos have --actions" },
    { world && has_captions (run), "--captions are for files: a world has none" },
    { begins && run->n_scales > 0, "--scales are for models of pictures: videos are shrunk to --size" },
    { holdout && world, "--holdout is for files: a world is validated on samples of its own" },
    { samples, "--samples are for models of pictures: normflow sample draws videos from OUTPUT" },
  };

  for (gsize i = 0; run->config.frames && i < G_N_ELEMENTS (idle); i++)
    if (idle[i].given)
      {
        g_set_error_literal (error, NF_ERROR, NF_ERROR_ARGUMENT, idle[i].text);
        return FALSE;
      }
  return TRUE;
}

/* The first option that is one of the run's settings, without its dashes: all but those that say where to
 * write, how often, and on what. */
static char *
find_setting (int argc, char **argv, const GOptionEntry *entries)
{
  static const char *const others[]
      = { "output",       "checkpoint", "resume", "log",        "log-every", "samples",
          "sample-every", "save-every", "cache",  "stop-after", NULL };

  for (int i = 1; i < argc && strcmp (argv[i], "--") != 0; i++)
    for (const GOptionEntry *entry = entries; entry->long_name; entry++)
      {
        const gsize length = strlen (entry->long_name);

        if (g_str_has_prefix (argv[i], "--") && strncmp (argv[i] + 2, entry->long_name, length) == 0
            && (!argv[i][2 + length] || argv[i][2 + length] == '=')
            && !g_strv_contains (others, entry->long_name))
          return g_strdup (entry->long_name);
      }
  return NULL;
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

/* No output may take the place of what is read, or of another one. */
static gboolean
check_files (const Places *places, const Run *run, const char *config, GError **error)
{
  g_autoptr (GPtrArray) inputs = g_ptr_array_new_with_free_func (g_free), outputs = g_ptr_array_new ();
  g_autofree char *settings = settings_path (places->checkpoint);

  if (!add_inputs (inputs, run->files, error) || !add_inputs (inputs, run->validation, error))
    return FALSE;
  g_ptr_array_add (outputs, places->output);
  g_ptr_array_add (outputs, places->checkpoint);
  g_ptr_array_add (outputs, settings);
  if (run->log && *run->log)
    g_ptr_array_add (outputs, run->log);
  if (run->init && *run->init)
    g_ptr_array_add (inputs, g_strdup (run->init));
  if (has_captions (run))
    g_ptr_array_add (inputs, g_strdup (run->captions));
  if (config && config[0] != '{')
    g_ptr_array_add (inputs, g_strdup (config));
  return nf_check_outputs (outputs, inputs, error);
}

/* Whether what is written at last can be. */
static gboolean
check_places (const Places *places, const Run *run, const char *config, GError **error)
{
  g_autofree char *settings = settings_path (places->checkpoint),
                  *picture = run->samples ? g_build_filename (run->samples, "step.png", NULL) : NULL;

  if (!nf_check_output (places->output, NULL, error) || !nf_check_output (places->checkpoint, NULL, error)
      || !nf_check_output (settings, NULL, error)
      || (run->log && *run->log && !nf_check_folder (run->log, error)))
    return FALSE;
  if (!check_files (places, run, config, error))
    return FALSE;
  if (run->samples && g_mkdir_with_parents (run->samples, 0777) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "--samples %s: %s", run->samples, g_strerror (errno));
      return FALSE;
    }
  return !picture || nf_check_output (picture, NULL, error);
}

/* Training */

typedef struct
{
  Run *run;
  const Places *places;
  NfCommand *command;
  NfDevice *device;
  NfModel *model;
  NfTrainer *trainer;
  NfClips *clips;       /* of images, */
  NfReels *reels;       /* or of videos */
  NfCaptions *captions; /* of either, or NULL */
  GPtrArray *validation;
  guint n_tiles;        /* of validation */
  NfProgress *progress; /* the command's */
  FILE *log;
  gint64 started; /* of this process */
  double before;  /* seconds of earlier processes of the run */
  double validation_loss;
  guint n_finite; /* tiles that it is the mean of */
} Job;

static void
job_clear (Job *job)
{
  g_clear_object (&job->trainer);
  g_clear_object (&job->model);
  g_clear_object (&job->device);
  g_clear_pointer (&job->clips, nf_clips_free);
  g_clear_pointer (&job->reels, nf_reels_free);
  g_clear_pointer (&job->captions, nf_captions_free);
  g_clear_pointer (&job->validation, g_ptr_array_unref);
  if (job->log)
    fclose (job->log);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Job, job_clear)

static gboolean
interrupted (const Job *job)
{
  return g_cancellable_is_cancelled (job->command->cancellable);
}

static double
job_seconds (const Job *job)
{
  return job->before + (double)(g_get_monotonic_time () - job->started) / G_USEC_PER_SEC;
}

static gboolean
is_uniform (const Job *job)
{
  return job->run->config.noise == NF_NOISE_UNIFORM;
}

/* What people are shown: bits per dimension if there are any, else the loss itself. */
static double
shown (const Job *job, double loss)
{
  return is_uniform (job) ? nf_loss_to_bits_per_dim (loss) : loss;
}

static const char *
unit (const Job *job)
{
  return is_uniform (job) ? "bits/dim" : "nats/dim";
}

static gboolean
write_log (Job *job, JsonBuilder *builder, GError **error)
{
  g_autofree char *text = NULL;

  json_builder_end_object (builder);
  if (!job->log)
    return TRUE;
  text = builder_text (builder, FALSE);
  if (fprintf (job->log, "%s\n", text) < 0 || fflush (job->log) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s", job->run->log,
                   g_strerror (errno));
      return FALSE;
    }
  return TRUE;
}

static JsonBuilder *
begin_log (const char *event, guint64 step)
{
  JsonBuilder *builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "event");
  json_builder_add_string_value (builder, event);
  add_int (builder, "step", step);
  return builder;
}

static gboolean
make_model (Job *job, GError **error)
{
  Run *run = job->run;

  g_clear_object (&job->trainer);
  g_clear_object (&job->model);
  /* a run that goes on has all of it in its checkpoint, so what it began from may be gone */
  job->model
      = run->init && *run->init && !job->places->resume
            ? nf_model_load_unshared (run->init, job->device, nf_progress_model, job->progress, NULL, error)
            : nf_model_new (&run->config, job->device, run->train.seed, error);
  if (!job->model)
    return FALSE;
  job->trainer = nf_trainer_new (job->model, &run->train, error);
  return job->trainer != NULL;
}

/* The batch of step STEP, valid until the next call. */
static gboolean
get_batch (Job *job, guint64 step, NfTrainBatch *batch, GError **error)
{
  *batch = (NfTrainBatch){ .B = job->run->batch };
  if (job->clips)
    batch->tiles = nf_clips_batch (job->clips, step, &batch->labels, error);
  return (job->reels ? nf_reels_batch (job->reels, step, batch, error) : batch->tiles != NULL)
         && (!job->captions
             || nf_captions_tell (job->captions, batch, job->run->train.seed, step * batch->B, error));
}

static guint
count_files (const Job *job)
{
  return job->reels ? nf_reels_count (job->reels) : nf_clips_count (job->clips);
}

static const char *
get_file (const Job *job, guint i)
{
  return job->reels ? nf_reels_get_path (job->reels, i) : nf_clips_get_path (job->clips, i);
}

/* Mean loss over the validation tiles; each file's share goes to the log. A file whose loss is not finite
 * (nothing like what was trained on) is told of and left out: one such file must not hide how the others
 * fare. */
static gboolean
validate (Job *job, GError **error)
{
  const NfConfig *config = &job->run->config;
  const gsize frames = nf_config_frames (config), sample = frames * nf_config_tile_bytes (config);
  const gsize text = (gsize)config->txt_size * config->txt_dim * sizeof (float);
  /* whatever a step's batch is: each tile has noise by its number in such a group */
  const guint at_once = (guint)CLAMP (VALIDATION_BYTES / (sample + text), 1, MAX_VALIDATION);
  guint64 step = nf_trainer_get_step (job->trainer);
  g_autoptr (JsonBuilder) builder = begin_log ("validation", step);
  double total = 0;
  guint n_finite = 0;

  json_builder_set_member_name (builder, "files");
  json_builder_begin_array (builder);
  for (guint i = 0; i < job->validation->len; i++)
    {
      const NfClipsValidation *set = job->validation->pdata[i];
      double sum = 0;

      for (guint t = 0; t < set->n_tiles; t += at_once)
        {
          NfTrainBatch batch = {
            .B = MIN (at_once, set->n_tiles - t),
            .tiles = set->tiles + t * sample,
            .labels = set->labels ? set->labels + t : NULL,
            .actions = set->actions ? set->actions + t * frames * config->action_dim : NULL,
          };
          double loss;

          if ((job->captions && !nf_captions_tell (job->captions, &batch, job->run->train.seed, t, error))
              || !nf_trainer_evaluate (job->trainer, &batch, TRUE, &loss, error))
            return FALSE;
          sum += batch.B * loss;
        }
      if (isfinite (sum))
        {
          total += sum;
          n_finite += set->n_tiles;
        }
      else
        nf_progress_note (job->progress,
                          "step %" G_GUINT64_FORMAT ": the loss of %s is not finite; it is left out", step,
                          set->name);
      g_autofree char *name = g_filename_display_name (set->name);
      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "name");
      json_builder_add_string_value (builder, name);
      json_builder_set_member_name (builder, "unseen");
      json_builder_add_boolean_value (builder, set->unseen);
      add_double (builder, "loss", sum / set->n_tiles);
      add_double (builder, "bits_per_dim",
                  is_uniform (job) ? nf_loss_to_bits_per_dim (sum / set->n_tiles) : NAN);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  job->validation_loss = n_finite ? total / n_finite : NAN;
  job->n_finite = n_finite;
  add_double (builder, "loss", job->validation_loss);
  add_double (builder, "bits_per_dim",
              is_uniform (job) ? nf_loss_to_bits_per_dim (job->validation_loss) : NAN);
  add_double (builder, "seconds", job_seconds (job));
  return write_log (job, builder, error);
}

static guint64
default_validate_every (guint64 steps)
{
  return CLAMP (steps / 50, 25, 2000);
}

/* How many steps, and the validations among them, take SECONDS. */
static double
steps_in (const Run *run, double seconds, double per_step, double per_validation)
{
  double steps = seconds / MAX (per_step, 1e-6);

  /* how often is validated depends on the steps; from above, this comes down to where both fit */
  for (guint i = 0; i < 50; i++)
    {
      const guint64 every
          = run->validate_every ? run->validate_every : default_validate_every ((guint64)MIN (steps, 1e12));

      steps = seconds / MAX (per_step + per_validation / (double)every, 1e-6);
    }
  return CLAMP (steps, 1, 1e12);
}

/* Fixes the number of steps once, from the speed of the first few, so that the schedule depends on nothing
 * but a number that is recorded. */
static gboolean
measure_steps (Job *job, double minutes, GError **error)
{
  Run *run = job->run;
  gint64 start = 0;
  double per_step, per_validation = 0;

  if (!make_model (job, error))
    return FALSE;
  /* The first steps build kernels, decode the first frames and warm up; only the rest is measured. */
  for (guint64 i = 0; i < MEASURED_STEPS && !interrupted (job); i++)
    {
      NfTrainBatch batch;
      NfTrainReport report;

      if (i == MEASURED_STEPS / 4)
        start = g_get_monotonic_time ();
      if (!get_batch (job, i, &batch, error) || !nf_trainer_step (job->trainer, &batch, &report, error))
        return FALSE;
      nf_progress_update (job->progress, "measuring the speed, step %u of %d", (guint)i + 1, MEASURED_STEPS);
    }
  per_step
      = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC / (MEASURED_STEPS - MEASURED_STEPS / 4);
  if (job->n_tiles && !interrupted (job))
    {
      start = g_get_monotonic_time ();
      if (!validate (job, error))
        return FALSE;
      per_validation = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      job->validation_loss = NAN;
    }
  /* A fiftieth for checkpoints and samples. */
  run->train.steps = (guint64)steps_in (run, 0.98 * minutes * 60, per_step, per_validation);
  nf_progress_note (job->progress,
                    "%.4f s a step, %.4f s a validation: --minutes %g is --steps %" G_GUINT64_FORMAT,
                    per_step, per_validation, minutes, run->train.steps);
  return TRUE;
}

static gboolean
save_model (Job *job, const char *path, GError **error)
{
  const Run *run = job->run;
  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, g_free);
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (GPtrArray) classes = g_ptr_array_new ();
  guint64 step = nf_trainer_get_step (job->trainer);

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "command");
  json_builder_add_string_value (builder, run->command);
  add_int (builder, "seed", run->train.seed);
  add_int (builder, "step", step);
  add_int (builder, "steps", run->train.steps);
  add_int (builder, "tiles", step * run->batch);
  if (job->n_tiles)
    {
      add_double (builder, "validation_loss", job->validation_loss);
      if (is_uniform (job))
        add_double (builder, "validation_bits_per_dim", nf_loss_to_bits_per_dim (job->validation_loss));
    }
  json_builder_set_member_name (builder, "files");
  json_builder_begin_array (builder);
  for (guint i = 0; i < MIN (count_files (job), 64); i++)
    {
      g_autofree char *name = g_filename_display_basename (get_file (job, i));

      json_builder_add_string_value (builder, name);
    }
  json_builder_end_array (builder);
  add_int (builder, "n_files", count_files (job));
  if (run->world && *run->world)
    {
      json_builder_set_member_name (builder, "world");
      json_builder_add_string_value (builder, run->world);
    }
  json_builder_end_object (builder);
  g_hash_table_insert (metadata, (char *)"training", builder_text (builder, FALSE));

  for (guint i = 0; job->clips && run->labels && i < nf_clips_get_classes (job->clips); i++)
    g_ptr_array_add (classes, (char *)nf_clips_get_class (job->clips, i));
  if (classes->len)
    {
      g_ptr_array_add (classes, NULL);
      g_hash_table_insert (metadata, (char *)"classes", g_strjoinv ("\n", (char **)classes->pdata));
    }
  return nf_trainer_save_model (job->trainer, path, metadata, error);
}

/* Means over different files do not compare: a model that has something finite to say of more of them is
 * better. */
static gboolean
is_best (const Job *job)
{
  const guint64 before = MIN (job->run->best_tiles, job->n_tiles);

  if (!isfinite (job->validation_loss))
    return FALSE;
  if (!isfinite (job->run->best) || job->n_finite == before)
    return job->validation_loss < job->run->best;
  return job->n_finite > before;
}

/* Validates; the best model so far becomes the output. Without validation, the latest does. */
static gboolean
judge (Job *job, GError **error)
{
  if (!job->n_tiles)
    return save_model (job, job->places->output, error);
  if (!validate (job, error))
    return FALSE;
  if (is_best (job))
    {
      job->run->best = job->validation_loss;
      job->run->best_tiles = job->n_finite;
      job->run->best_step = nf_trainer_get_step (job->trainer);
      return save_model (job, job->places->output, error);
    }
  return TRUE;
}

/* Where a run was stopped, at no step of its own for judge(). The whole run would not have validated here, so
 * this is nothing to be better than; but with no model yet there is one to look at. */
static gboolean
judge_stopped (Job *job, GError **error)
{
  if (job->n_tiles && isfinite (job->run->best))
    return TRUE;
  if (job->n_tiles && !validate (job, error))
    return FALSE;
  return (job->n_tiles && !isfinite (job->validation_loss)) || save_model (job, job->places->output, error);
}

static gboolean
save_checkpoint (Job *job, GError **error)
{
  job->run->seconds = job_seconds (job);
  return nf_trainer_save (job->trainer, job->places->checkpoint, error)
         && save_settings (job->run, job->places->checkpoint, error);
}

/* A sheet of samples from the prior, made with a copy of the weights, since the trainer's own are in use. */
static gboolean
write_samples (Job *job, GError **error)
{
  const NfConfig *config = &job->run->config;
  const NfDecodeOptions options = { .drawn = TRUE };
  const guint columns = nf_config_columns (config), rows = nf_config_rows (config),
              width = columns * CLAMP (4096 / columns, 1, SHEET_TILES),
              height = rows * CLAMP (4096 / rows, 1, SHEET_TILES);
  guint64 step = nf_trainer_get_step (job->trainer);
  g_autofree char *name = g_strdup_printf ("step-%08" G_GUINT64_FORMAT ".png", step);
  g_autofree char *path = g_build_filename (job->run->samples, name, NULL);
  g_autofree char *weights = g_strconcat (path, ".safetensors", NULL);
  g_autoptr (NfModel) model = NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfPicture) sheet = NULL;
  g_autofree float *latents = NULL;
  NfGrid grid;
  gsize n;

  if (!nf_grid_init (&grid, config, width, height, error) || !save_model (job, weights, error))
    return FALSE;
  model = nf_model_load (weights, job->device, NULL, NULL, NULL, error);
  g_unlink (weights);
  if (!model)
    return FALSE;
  session = nf_session_new (model, error);
  if (!session)
    return FALSE;
  /* as samples that are told nothing are trained */
  const float *nothing = job->captions ? nf_captions_get_nothing (job->captions) : NULL;
  if (nothing && !nf_session_set_text (session, nothing, NULL, 1, error))
    return FALSE;
  n = nf_grid_latents (&grid);
  latents = g_new (float, n);
  nf_random_normal (job->run->train.seed, 0, n, 1.0, latents);
  sheet = nf_picture_new (config->layout, width, height);
  return nf_session_decode_frame (session, latents, -1, &options, &sheet->frame, error)
         && nf_media_write_png (path, config->layout, &sheet->frame, error);
}

static gboolean
log_step (Job *job, const NfTrainReport *report, GError **error)
{
  g_autoptr (JsonBuilder) builder = begin_log (report->skipped ? "skipped" : "step", report->step);

  add_double (builder, "loss", report->loss);
  add_double (builder, "bits_per_dim", report->bits_per_dim);
  if (job->run->config.denoiser_layers)
    add_double (builder, "denoiser_loss", report->denoiser_loss);
  add_double (builder, "grad_norm", report->grad_norm);
  add_double (builder, "lr", report->lr);
  add_int (builder, "tiles", report->step * job->run->batch);
  add_double (builder, "seconds", job_seconds (job));
  return write_log (job, builder, error);
}

static void
show_step (Job *job, const NfTrainReport *report, double smooth, double rate)
{
  guint64 steps = job->run->train.steps;
  g_autofree char *left = nf_progress_duration (rate > 0 ? (double)(steps - report->step) / rate : NAN);
  g_autofree char *held = job->n_tiles && isfinite (job->validation_loss)
                              ? g_strdup_printf (" (held out %.4f)", shown (job, job->validation_loss))
                              : g_strdup ("");

  /* What matters most stands first: narrow terminals cut the rest off. */
  nf_progress_update (job->progress,
                      "step %" G_GUINT64_FORMAT "/%" G_GUINT64_FORMAT
                      "  %.4f %s%s  %s left  %.2f steps/s  %.0f tiles/s  |g| %.3g  lr %.2e",
                      report->step, steps, smooth, unit (job), held, left, rate, rate * job->run->batch,
                      report->grad_norm, report->lr);
}

static gboolean
train (Job *job, GError **error)
{
  Run *run = job->run;
  const Places *places = job->places;
  const guint64 last = places->stop_after ? MIN (places->stop_after, run->train.steps) : run->train.steps;
  guint64 first = nf_trainer_get_step (job->trainer), judged = G_MAXUINT64, saved = first;
  gint64 last_save = g_get_monotonic_time (), last_step = last_save;
  double smooth = NAN, seconds_per_step = NAN;
  NfTrainReport report = { .step = first };
  guint skipped_in_a_row = 0;

  while (report.step < last && !interrupted (job))
    {
      NfTrainBatch batch;
      gint64 now;

      if (!get_batch (job, nf_trainer_get_step (job->trainer), &batch, error)
          || !nf_trainer_step (job->trainer, &batch, &report, error))
        return FALSE;
      now = g_get_monotonic_time ();
      /* The first step also waits for kernels and frames. */
      if (report.step > first + 1)
        {
          double seconds = (double)(now - last_step) / G_USEC_PER_SEC;

          seconds_per_step = isnan (seconds_per_step) ? seconds : 0.95 * seconds_per_step + 0.05 * seconds;
        }
      if (report.skipped)
        {
          run->skipped++;
          if (++skipped_in_a_row >= MAX_SKIPPED)
            {
              g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                           "%d steps in a row had no usable gradient: the run has diverged; use a lower --lr "
                           "or a longer --warmup",
                           MAX_SKIPPED);
              return FALSE;
            }
          /* A long row of them is told now and then. */
          if (skipped_in_a_row <= 3 || skipped_in_a_row % 25 == 0)
            nf_progress_note (job->progress,
                              "step %" G_GUINT64_FORMAT
                              " skipped: loss %g, gradient norm %g (%" G_GUINT64_FORMAT " skipped so far)",
                              report.step, report.loss, report.grad_norm, run->skipped);
        }
      else
        {
          double value = shown (job, report.nll);

          skipped_in_a_row = 0;
          smooth = isnan (smooth) ? value : 0.95 * smooth + 0.05 * value;
        }
      if (isfinite (seconds_per_step))
        show_step (job, &report, smooth, 1 / seconds_per_step);
      if ((report.skipped || report.step % run->log_every == 0) && !log_step (job, &report, error))
        return FALSE;
      if (run->validate_every && report.step % run->validate_every == 0)
        {
          if (!judge (job, error))
            return FALSE;
          judged = report.step;
        }
      if (run->samples && run->sample_every && report.step % run->sample_every == 0)
        {
          g_autoptr (GError) local = NULL;

          /* A picture that cannot be written is no reason to lose a run. */
          if (!write_samples (job, &local))
            nf_progress_note (job->progress, "normflow " NAME ": %s", local->message);
        }
      now = g_get_monotonic_time ();
      if ((double)(now - last_save) / G_USEC_PER_SEC >= places->save_every)
        {
          if (!save_checkpoint (job, error))
            return FALSE;
          last_save = g_get_monotonic_time ();
          saved = report.step;
        }
      last_step = g_get_monotonic_time ();
    }
  if (report.step > 0 && judged != report.step
      && !(report.step < run->train.steps ? judge_stopped (job, error) : judge (job, error)))
    return FALSE;
  if (saved != report.step || report.step == first)
    return save_checkpoint (job, error);
  return TRUE;
}

static void
describe (Job *job)
{
  const NfConfig *config = &job->run->config;
  g_autofree char *text = nf_config_to_json (config);

  nf_progress_note (job->progress, "model: %" G_GUINT64_FORMAT " parameters, %.3f GFLOP a tile, %s",
                    nf_model_count_parameters (job->model), nf_model_get_flops (job->model) * 1e-9, text);
  if (job->reels && !nf_reels_count (job->reels))
    nf_progress_note (job->progress, "data: the world %s, %u samples held out", job->run->world,
                      job->n_tiles);
  else
    nf_progress_note (
        job->progress, "data: %u files, %" G_GUINT64_FORMAT " frames to train on, %u %s held out",
        count_files (job), job->reels ? nf_reels_get_frames (job->reels) : nf_clips_get_frames (job->clips),
        job->n_tiles, job->reels ? "samples" : "tiles");
  nf_progress_note (job->progress, "device: %s; %" G_GUINT64_FORMAT " steps of %u tiles",
                    nf_device_get_info (job->device)->name, job->run->train.steps, job->run->batch);
}

/* Lines of steps after STEP are those of a run that was killed before it saved them: they come again. */
static gboolean
cut_log (const char *path, guint64 step, GError **error)
{
  g_autofree char *text = NULL;
  g_autoptr (GError) local = NULL;
  g_auto (GStrv) lines = NULL;
  g_autoptr (GString) kept = NULL;
  gsize length;

  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR) || !g_file_get_contents (path, &text, &length, NULL))
    return TRUE;
  kept = g_string_sized_new (length + 1);
  lines = g_strsplit (text, "\n", -1);
  for (gsize i = 0; lines[i] && (lines[i][0] || lines[i + 1]); i++)
    {
      g_autoptr (JsonObject) line = parse_members (lines[i]);

      /* nor is the line kept that it was writing */
      if ((!line && !lines[i + 1])
          || (line && json_object_get_int_member_with_default (line, "step", 0) > (gint64)step))
        continue;
      g_string_append_printf (kept, "%s\n", lines[i]);
    }
  if (kept->len == length || g_file_set_contents (path, kept->str, (gssize)kept->len, &local))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s; --log names another",
               path, local->message);
  return FALSE;
}

static gboolean
open_log (Job *job, GError **error)
{
  g_autoptr (JsonBuilder) builder = NULL;

  if (!job->run->log || !*job->run->log)
    return TRUE;
  if (job->places->resume && !job->places->other_log
      && !cut_log (job->run->log, nf_trainer_get_step (job->trainer), error))
    return FALSE;
  job->log = g_fopen (job->run->log, job->places->resume ? "a" : "w");
  if (!job->log)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s; --log names another",
                   job->run->log, g_strerror (errno));
      return FALSE;
    }
  builder = begin_log (job->places->resume ? "resume" : "start", nf_trainer_get_step (job->trainer));
  json_builder_set_member_name (builder, "command");
  json_builder_add_string_value (builder, job->run->command);
  add_int (builder, "steps", job->run->train.steps);
  add_int (builder, "batch", job->run->batch);
  add_int (builder, "parameters", nf_model_count_parameters (job->model));
  json_builder_set_member_name (builder, "device");
  json_builder_add_string_value (builder, nf_device_get_info (job->device)->name);
  return write_log (job, builder, error);
}

/* N classes of the data are those of the model: of a STARFlow a text of one token, whose last feature is no
 * class. */
static gboolean
settle_classes (Job *job, guint n, GError **error)
{
  NfConfig *config = &job->run->config;
  const gboolean text = config->family == NF_FAMILY_STARFLOW;

  /* else --config, the checkpoint or the model of --init said how many */
  if (!config->n_classes && !config->txt_size && !job->places->resume && !(job->run->init && *job->run->init))
    {
      config->n_classes = text ? 0 : n;
      config->txt_size = text;
      config->txt_dim = text ? n + 1 : 0;
    }
  const guint classes = nf_config_classes (config), has = text && classes ? classes - 1 : classes;
  if (has == n)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "the files lie in %u folders, but the model has %u classes",
               n, has);
  return FALSE;
}

/* The text of a new model is that of the data. */
static gboolean
open_captions (Job *job, GError **error)
{
  Run *run = job->run;
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; job->clips && i < nf_clips_get_classes (job->clips); i++)
    g_ptr_array_add (names, g_strdup (nf_clips_get_class (job->clips, i)));
  for (guint i = 0; job->reels && i < nf_reels_count (job->reels); i++)
    g_ptr_array_add (names, g_path_get_basename (nf_reels_get_path (job->reels, i)));
  job->captions = nf_captions_open (run->captions, names, error);
  if (!job->captions)
    return FALSE;
  if (!run->config.txt_size && !job->places->resume && !(run->init && *run->init)
      && !nf_captions_get_size (job->captions, &run->config, error))
    return FALSE;
  if (!nf_config_check (&run->config, run->captions, error)
      || !nf_captions_check (job->captions, &run->config, error))
    return FALSE;

  const char *digest = nf_captions_get_digest (job->captions);
  if (run->captions_digest && strcmp (run->captions_digest, digest) != 0)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_DATA,
          "%s holds other text than the run began with: put that back, or start another run from the "
          "model with --init",
          run->captions);
      return FALSE;
    }
  g_free (run->captions_digest);
  run->captions_digest = g_strdup (digest);
  return TRUE;
}

/* Tiles to train on. */
static gboolean
open_clips (Job *job, GError **error)
{
  Run *run = job->run;
  const NfClipsOptions options = { .layout = run->config.layout,
                                   .width = nf_config_columns (&run->config),
                                   .height = nf_config_rows (&run->config),
                                   .batch = run->batch,
                                   .seed = run->train.seed,
                                   .holdout = run->holdout,
                                   .scales = run->scales,
                                   .n_scales = run->n_scales,
                                   .labels = run->labels          ? NF_CLIPS_FOLDERS
                                             : has_captions (run) ? NF_CLIPS_NAMES
                                                                  : NF_CLIPS_NO_LABELS,
                                   .cache = job->places->cache };

  job->clips = nf_clips_new ((const char *const *)run->files, &options, error);
  if (!job->clips)
    return FALSE;
  if ((run->labels && !settle_classes (job, nf_clips_get_classes (job->clips), error))
      || (has_captions (run) && !open_captions (job, error)))
    return FALSE;
  job->validation = run->validation_tiles ? nf_clips_validation (
                        job->clips, (const char *const *)run->validation, run->validation_tiles, error)
                                          : g_ptr_array_new ();
  return job->validation != NULL;
}

/* Videos to train on. */
static gboolean
open_reels (Job *job, GError **error)
{
  Run *run = job->run;
  NfConfig *config = &run->config;
  NfWorldPattern pattern;

  if (run->world && *run->world)
    {
      if (!nf_world_pattern_from_name (run->world, &pattern))
        return wrong_choice ("--world", run->world, "bounce, pong, gridworld", error);
      if (run->actions && !config->action_dim)
        config->action_dim = nf_world_pattern_actions (pattern);
      if (config->action_dim && config->action_dim < nf_world_pattern_actions (pattern))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has %u actions, the model has action_dim %u",
                       run->world, nf_world_pattern_actions (pattern), config->action_dim);
          return FALSE;
        }
      job->reels = nf_reels_new_world (pattern, config, run->batch, run->train.seed, error);
    }
  else
    job->reels = nf_reels_new_files ((const char *const *)run->files, config, run->batch, run->train.seed,
                                     run->holdout, run->actions, error);
  if (!job->reels)
    return FALSE;
  if (has_captions (run))
    {
      nf_reels_label_files (job->reels);
      if (!open_captions (job, error))
        return FALSE;
    }
  if (run->actions && !config->action_dim)
    {
      config->action_dim = nf_reels_get_actions (job->reels);
      if (!config->action_dim)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                       "--actions: all actions beside the videos are unknown (null), so there are none to "
                       "learn: leave --actions out, or say how many the model is to know (action_dim in "
                       "--config)");
          return FALSE;
        }
      nf_reels_set_action_dim (job->reels, config->action_dim);
    }
  const gboolean controls = nf_reels_have_controls (job->reels);
  if (run->actions && !job->places->resume && !(run->init && *run->init) && controls)
    config->controls = TRUE;
  if (run->actions && config->controls != controls)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s tells %s, but the model is one of %s (controls in its configuration)",
                   run->world && *run->world ? "the world" : "what lies beside the videos",
                   controls ? "controls" : "actions", config->controls ? "controls" : "actions");
      return FALSE;
    }
  job->validation = nf_reels_validation (job->reels, run->validation_tiles, error);
  return job->validation != NULL;
}

static gboolean
has_source (const GArray *sources, const char *name)
{
  for (guint i = 0; i < sources->len; i++)
    if (!strcmp (g_array_index (sources, Source, i).name, name))
      return TRUE;
  return FALSE;
}

/* Whether file I of NOW is that of what the run BEGAN with; either list may have ended. */
static gboolean
check_source (const GArray *began, const GArray *now, guint i, GError **error)
{
  const Source *a = i < began->len ? &g_array_index (began, Source, i) : NULL,
               *b = i < now->len ? &g_array_index (now, Source, i) : NULL;
  g_autofree char *what = NULL;

  if (a && b && !strcmp (a->name, b->name))
    {
      if (a->frames == b->frames && a->bytes == b->bytes)
        return TRUE;
      what = g_strdup_printf ("it has %" G_GUINT64_FORMAT " frames in %" G_GUINT64_FORMAT
                              " bytes, and had %" G_GUINT64_FORMAT " in %" G_GUINT64_FORMAT,
                              b->frames, b->bytes, a->frames, a->bytes);
    }
  else if (!b || (a && !has_source (now, a->name)))
    {
      b = a;
      what = g_strdup ("it is no longer there");
    }
  else
    what = g_strdup (has_source (began, b->name) ? "it had another place among them" : "it was not there");
  g_autofree char *shown = nf_shorten (b->name);
  g_set_error (error, NF_ERROR, NF_ERROR_DATA,
               "%s is not what the run began with: %s; --resume goes on with the same files: put them back, "
               "or start another run from the model with --init",
               shown, what);
  return FALSE;
}

/* A run goes on with the files that it began with, all of them and as they were. */
static gboolean
check_sources (Job *job, GError **error)
{
  g_autoptr (GArray) sources = sources_new ();
  const GArray *began = job->run->sources;

  for (guint i = 0; i < count_files (job); i++)
    {
      const char *path = get_file (job, i);
      GStatBuf status;

      if (g_stat (path, &status) != 0)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: %s", path, g_strerror (errno));
          return FALSE;
        }
      const Source source
          = { g_filename_display_name (path),
              job->reels ? nf_reels_get_length (job->reels, i) : nf_clips_get_length (job->clips, i),
              (guint64)status.st_size };
      g_array_append_val (sources, source);
    }
  for (guint i = 0; began && i < MAX (began->len, sources->len); i++)
    if (!check_source (began, sources, i, error))
      return FALSE;
  g_clear_pointer (&job->run->sources, g_array_unref);
  job->run->sources = g_steal_pointer (&sources);
  return TRUE;
}

/* A run goes on in the precision that it began in, whatever the environment says by now, and by what
 * multiplied where that is at hand. */
static gboolean
open_device (Job *job, GError **error)
{
  Run *run = job->run;
  if (run->precision)
    nf_command_require (job->command, "precision", run->precision);
  /* a run that begins, of floats: training has many rows, and nothing is decoded as it was encoded */
  nf_command_prefer (job->command, run->precision ? run->precision : "f32", run->form ? run->form : "auto");
  job->device = nf_command_open_device (job->command, error);
  if (!job->device)
    return FALSE;
  const char *precision = nf_device_get_precision (job->device);
  if (run->precision && strcmp (run->precision, precision) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--resume goes on in the precision of the run, %s, not in %s: leave it out, or start "
                   "another run from the model with --init",
                   run->precision, precision);
      return FALSE;
    }
  if (!run->precision)
    run->precision = g_strdup (precision);
  /* it may go on where there is no such thing */
  const char *form = nf_device_get_form (job->device);
  if (run->form && strcmp (run->form, form) != 0)
    nf_progress_note (
        job->progress,
        "products were made by %s so far and are by %s from here on: the run is not bit for bit "
        "what it would have been",
        run->form, form);
  g_free (run->form);
  run->form = g_strdup (form);
  return TRUE;
}

static gboolean
run_job (NfCommand *command, Run *run, const Places *places, GError **error)
{
  g_auto (Job) job = { .command = command,
                       .progress = command->progress,
                       .run = run,
                       .places = places,
                       .validation_loss = NAN,
                       .before = run->seconds };
  g_autofree char *duration = NULL;
  gboolean trained, whole;

  job.started = g_get_monotonic_time ();
  if (!open_device (&job, error))
    return FALSE;
  /* With given weights, their configuration is the one. */
  if (run->init && *run->init && !places->resume)
    {
      job.model
          = nf_model_load_unshared (run->init, job.device, nf_progress_model, job.progress, NULL, error);
      if (!job.model)
        return FALSE;
      run->config = *nf_model_get_config (job.model);
    }

  /* at last with actions and classes that the data told */
  if (!(run->config.frames ? open_reels (&job, error) : open_clips (&job, error))
      || !check_sources (&job, error) || !nf_config_check (&run->config, "the options", error))
    return FALSE;
  for (guint i = 0; i < job.validation->len; i++)
    job.n_tiles += ((NfClipsValidation *)job.validation->pdata[i])->n_tiles;

  if (places->minutes > 0 && !places->resume && !measure_steps (&job, places->minutes, error))
    return FALSE;
  if (run->train.warmup == G_MAXUINT64)
    run->train.warmup = CLAMP (run->train.steps / 50, 1, 2000);
  if (!run->validate_every)
    run->validate_every = default_validate_every (run->train.steps);
  if (!make_model (&job, error))
    return FALSE;
  if (places->resume && !nf_trainer_restore (job.trainer, places->checkpoint, error))
    return FALSE;
  describe (&job);
  if (places->resume)
    nf_progress_note (job.progress, "resuming after step %" G_GUINT64_FORMAT,
                      nf_trainer_get_step (job.trainer));
  if (places->resume && isfinite (run->best) && !g_file_test (places->output, G_FILE_TEST_EXISTS))
    {
      nf_progress_note (job.progress,
                        "%s is not there: it will be the best model from here on, not that of step "
                        "%" G_GUINT64_FORMAT,
                        places->output, run->best_step);
      run->best = INFINITY;
      run->best_tiles = run->best_step = 0;
    }
  if (!open_log (&job, error))
    return FALSE;

  trained = train (&job, error);
  if (!trained && nf_trainer_get_step (job.trainer) > 0)
    {
      g_autoptr (GError) local = NULL;

      /* Whatever stopped it, what was learnt is kept. */
      if (save_checkpoint (&job, &local))
        nf_progress_note (job.progress, "checkpoint saved: %s", places->checkpoint);
      else
        nf_progress_note (job.progress, "no checkpoint was saved: %s", local->message);
    }
  if (!trained)
    return FALSE;

  if (nf_trainer_get_step (job.trainer) == 0)
    return nf_command_go_on (command, error);
  if (job.n_tiles && !isfinite (run->best) && !isfinite (job.validation_loss))
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_DATA,
                           "no finite loss on the held-out tiles, so no model was written: the run has "
                           "diverged; use a lower --lr "
                           "or a longer --warmup");
      return FALSE;
    }
  duration = nf_progress_duration (job_seconds (&job));
  whole = nf_trainer_get_step (job.trainer) >= run->train.steps;
  nf_progress_note (job.progress, "%s after step %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " and %s%s",
                    whole ? "done" : "stopped", nf_trainer_get_step (job.trainer), run->train.steps, duration,
                    whole ? "" : "; --resume goes on");
  if (job.n_tiles && isfinite (run->best))
    nf_progress_note (job.progress, "best held-out %s: %.4f at step %" G_GUINT64_FORMAT, unit (&job),
                      shown (&job, run->best), run->best_step);
  if (run->skipped)
    nf_progress_note (job.progress, "steps skipped: %" G_GUINT64_FORMAT, run->skipped);
  if (job.clips && nf_clips_get_damaged (job.clips))
    nf_progress_note (job.progress, "frames that could not be decoded and were replaced: %" G_GUINT64_FORMAT,
                      nf_clips_get_damaged (job.clips));
  if (g_file_test (places->output, G_FILE_TEST_EXISTS))
    nf_progress_note (job.progress, "model: %s", places->output);
  return TRUE;
}

int
nf_cmd_train (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Run) run
      = { .best = INFINITY, .batch = 64, .holdout = 0.1, .validation_tiles = 512, .sample_every = 1000 };
  g_auto (Places) places = { .save_every = 300 };
  g_auto (Shape) shape = { .patch = -1,
                           .width = -1,
                           .top_width = -1,
                           .blocks = -1,
                           .head_dim = -1,
                           .frames = -1,
                           .denoiser = -1,
                           .noise_std = NF_NOT_GIVEN };
  g_autoptr (GError) error = NULL;
  g_autofree char *captions = NULL, *scales = NULL, *log = NULL, *samples = NULL, *setting = NULL;
  double lr_min = NF_NOT_GIVEN, label_dropout = NF_NOT_GIVEN, action_dropout = NF_NOT_GIVEN,
         holdout = NF_NOT_GIVEN;
  gint64 steps = 0, stop_after = G_MININT64, warmup = G_MININT64, seed = 0, validate_every = G_MININT64,
         sample_every = G_MININT64, log_every = -1, cache = 1024;
  int batch = 64, validation_tiles = 512;
  NfTrainOptions *t = &run.train;

  nf_train_options_init (t);
  t->clip = 1;
  t->ema = 0.999;
  t->action_dropout = 0.1;
  {
    const GOptionEntry entries[] = {
      { "output", 'o', 0, G_OPTION_ARG_FILENAME, &places.output, "The model: the best on held-out tiles",
        "MODEL.safetensors" },
      { "checkpoint", 0, 0, G_OPTION_ARG_FILENAME, &places.checkpoint,
        "State of the run (default: OUTPUT.checkpoint)", "PATH" },
      { "resume", 0, 0, G_OPTION_ARG_NONE, &places.resume,
        "Go on where the checkpoint was saved, with its settings and files", NULL },
      { "init", 0, 0, G_OPTION_ARG_FILENAME, &run.init, "Start from a model's weights", "MODEL" },
      { "validation", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &run.validation,
        "Whole file or folder to validate on besides (repeatable)", "FILE" },
      { "log", 0, 0, G_OPTION_ARG_FILENAME, &log, "Losses as NDJSON; --resume goes on with it", "FILE" },
      { "log-every", 0, 0, G_OPTION_ARG_INT64, &log_every, "Steps between its lines (default: 10)", "STEPS" },
      { "samples", 0, 0, G_OPTION_ARG_FILENAME, &samples,
        "Folder for pictures of samples; --resume goes on with it", "FOLDER" },
      { "sample-every", 0, 0, G_OPTION_ARG_INT64, &sample_every, "Steps between them (default: 1000)",
        "STEPS" },
      { "save-every", 0, 0, G_OPTION_ARG_DOUBLE, &places.save_every,
        "Seconds between checkpoints (default: 300)", "SECONDS" },
      { "cache", 0, 0, G_OPTION_ARG_INT64, &cache, "Decoded frames to keep in memory (default: 1024)",
        "MIB" },
      { "config", 0, 0, G_OPTION_ARG_STRING, &shape.config,
        "Configuration: a JSON file or its text; single options go over it", "JSON" },
      { "layout", 0, 0, G_OPTION_ARG_STRING, &shape.layout, "yuv420 (default), rgb or gray", "LAYOUT" },
      { "family", 0, 0, G_OPTION_ARG_STRING, &shape.family, "tarflow (default) or starflow", "FAMILY" },
      { "frames", 0, 0, G_OPTION_ARG_INT, &shape.frames,
        "Frames of a sample: a STARFlow of videos, whole frames shrunk to its size", "F" },
      { "size", 0, 0, G_OPTION_ARG_STRING, &shape.size, "Side of a tile in pixels (default: 32), or WxH",
        "S" },
      { "patch", 0, 0, G_OPTION_ARG_INT, &shape.patch, "Side of a patch (default: 4)", "P" },
      { "width", 0, 0, G_OPTION_ARG_INT, &shape.width, "Width of the transformers (default: 192)", "D" },
      { "blocks", 0, 0, G_OPTION_ARG_INT, &shape.blocks, "Flow blocks (default: 4)", "T" },
      { "top-width", 0, 0, G_OPTION_ARG_INT, &shape.top_width, "Width of the last block, if it differs",
        "D" },
      { "layers", 0, 0, G_OPTION_ARG_STRING, &shape.layers, "Layers of a block, or of each (default: 2)",
        "K[,K…]" },
      { "denoiser", 0, 0, G_OPTION_ARG_INT, &shape.denoiser,
        "Layers of a learned denoiser, trained beside a flow with Gaussian noise (default: none)", "K" },
      { "head-dim", 0, 0, G_OPTION_ARG_INT, &shape.head_dim, "Features of a head (default: 64)", "N" },
      { "basis", 0, 0, G_OPTION_ARG_STRING, &shape.basis, "pixel (default) or dct", "BASIS" },
      { "vp", 0, 0, G_OPTION_ARG_NONE, &shape.vp, "Volume-preserving blocks", NULL },
      { "noise", 0, 0, G_OPTION_ARG_STRING, &shape.noise, "uniform (default) or gaussian", "NOISE" },
      { "noise-std", 0, 0, G_OPTION_ARG_DOUBLE, &shape.noise_std,
        "Standard deviation of Gaussian noise, [-1, 1] scale (default: 0.05)", "STD" },

      { "steps", 0, 0, G_OPTION_ARG_INT64, &steps, "Steps of the whole run", "N" },
      { "stop-after", 0, 0, G_OPTION_ARG_INT64, &stop_after,
        "Stop after this step as Ctrl-C does; --resume goes on", "STEP" },
      { "minutes", 0, 0, G_OPTION_ARG_DOUBLE, &places.minutes,
        "Instead: as many steps as take about this long", "M" },
      { "batch", 0, 0, G_OPTION_ARG_INT, &batch, "Tiles of a step (default: 64)", "B" },
      { "lr", 0, 0, G_OPTION_ARG_DOUBLE, &t->lr, "Peak learning rate", "LR" },
      { "lr-min", 0, 0, G_OPTION_ARG_DOUBLE, &lr_min, "Last learning rate (default: 1e-6, or the peak)",
        "LR" },
      { "warmup", 0, 0, G_OPTION_ARG_INT64, &warmup,
        "Steps of warm-up (default: a fiftieth of all, at most 2000)", "STEPS" },
      { "weight-decay", 0, 0, G_OPTION_ARG_DOUBLE, &t->weight_decay, "AdamW's weight decay (default: 1e-4)",
        "W" },
      { "clip", 0, 0, G_OPTION_ARG_DOUBLE, &t->clip, "Largest gradient norm, 0 for any (default: 1)",
        "NORM" },
      { "ema", 0, 0, G_OPTION_ARG_DOUBLE, &t->ema,
        "Decay of the averaged weights, 0 for none (default: 0.999)", "DECAY" },
      { "labels", 0, 0, G_OPTION_ARG_NONE, &run.labels, "A class for each folder that files lie in", NULL },
      { "captions", 0, 0, G_OPTION_ARG_FILENAME, &captions,
        "Text features of each file, in tensors called as the files are", "FEATURES.safetensors" },
      { "label-dropout", 0, 0, G_OPTION_ARG_DOUBLE, &label_dropout, "Share of labels or captions left out",
        "SHARE" },
      { "world", 0, 0, G_OPTION_ARG_STRING, &run.world,
        "Train on a simulated world instead of files: pong, bounce, gridworld", "WORLD" },
      { "actions", 0, 0, G_OPTION_ARG_NONE, &run.actions,
        "Tell the world's actions, or those in FILE" NF_ACTIONS_SUFFIX " beside each video", NULL },
      { "action-dropout", 0, 0, G_OPTION_ARG_DOUBLE, &action_dropout,
        "Share of samples whose actions are left out (default: 0.1)", "SHARE" },
      { "context-errors", 0, 0, G_OPTION_ARG_DOUBLE, &t->context_errors,
        "Share of a video's patches that the past is shown with another one of (default: 0)", "SHARE" },
      { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of weights, tiles and noise (default: 0)", "SEED" },
      { "scales", 0, 0, G_OPTION_ARG_STRING, &scales,
        "Factors that frames are shrunk by at random (default: 1)", "1,0.5,…" },
      { "holdout", 0, 0, G_OPTION_ARG_DOUBLE, &holdout,
        "Last share of each video, or folder of pictures, kept for validation (default: 0.1)", "SHARE" },
      { "validate-every", 0, 0, G_OPTION_ARG_INT64, &validate_every,
        "Steps between validations (default: a fiftieth of all, at least 25, at most 2000)", "STEPS" },
      { "validation-tiles", 0, 0, G_OPTION_ARG_INT, &validation_tiles,
        "Tiles of a validation, 0 for none (default: 512)", "N" },
      { NULL }
    };

    run.command = plain_command (argc, argv);
    setting = find_setting (argc, argv, entries);
    if (!nf_command_parse (&command, &argc, &argv, entries, NF_COMMAND_DEVICE | NF_COMMAND_GRADIENTS,
                           "FILE|FOLDER…",
                           "Trains a flow by exact maximum likelihood on tiles of videos and pictures.",
                           "Ctrl-C saves checkpoint and model; --resume goes on bit for bit.", 0, G_MAXINT))
      return NF_EXIT_USAGE;
  }
  NfWorldPattern pattern;
  if (run.world && !nf_world_pattern_from_name (run.world, &pattern))
    return nf_command_usage (&command, "--world \"%s\" is none of pong, bounce, gridworld", run.world);
  if (!places.output || (places.resume || run.world ? argc > 1 : argc < 2))
    return nf_command_usage (&command, "%s",
                             !places.output ? "--output MODEL.safetensors is missing"
                             : places.resume
                                 ? "--resume takes files and settings from the checkpoint: name none"
                             : run.world ? "--world takes the place of files: name none"
                                         : "name the videos, pictures or folders to train on");
  if (!nf_check_ending (places.output, "safetensors", &error)
      || !nf_check_ending (places.checkpoint, "safetensors", &error) || !nf_check_ending (log, NULL, &error))
    return nf_command_usage (&command, "%s", error->message);
  if (!(places.minutes >= 0 && isfinite (places.minutes))
      || (!places.resume && (steps > 0) == (places.minutes > 0)))
    return nf_command_usage (&command, "give either --steps N or --minutes M, more than 0");
  if (places.resume && setting)
    return nf_command_usage (&command,
                             "--resume goes on with the settings of the run: leave out --%s; files to write, "
                             "how often, and the device can be given",
                             setting);
  if (run.init && shape_given (&shape))
    return nf_command_usage (
        &command, "--init takes the configuration from the model: give no options of the model with it");
  if (label_dropout != NF_NOT_GIVEN && !run.labels && !captions)
    return nf_command_usage (&command,
                             "--label-dropout leaves out what --labels or --captions tell: give one of them");
  if (run.labels && captions)
    return nf_command_usage (&command, "--labels and --captions are two ways to tell what is seen: give one");
  if (action_dropout != NF_NOT_GIVEN && !run.actions)
    return nf_command_usage (&command, "--action-dropout leaves out what --actions tells: give both");
  if (label_dropout != NF_NOT_GIVEN)
    t->label_dropout = label_dropout;
  if (action_dropout != NF_NOT_GIVEN)
    t->action_dropout = action_dropout;
  if (holdout != NF_NOT_GIVEN)
    run.holdout = holdout;
  if (batch < 1 || (log_every < 1 && log_every != -1) || !nf_settle_number (&stop_after)
      || !nf_settle_number (&validate_every))
    return nf_command_usage (&command,
                             "--batch, --log-every, --stop-after and --validate-every take 1 or more");
  if (warmup != G_MININT64 && warmup < 0)
    return nf_command_usage (&command, "--warmup takes no negative number");
  if ((sample_every < 0 && sample_every != G_MININT64) || cache < 0 || cache > 1 << 20
      || !(places.save_every >= 0) || validation_tiles < 0 || seed < 0 || steps < 0)
    return nf_command_usage (&command, "--sample-every, --cache (in MiB, up to 1048576), --save-every, "
                                       "--validation-tiles, --seed and --steps take no negative values");
  if (!places.checkpoint)
    places.checkpoint = g_strconcat (places.output, ".checkpoint", NULL);
  places.cache = (guint64)cache << 20;
  places.stop_after = (guint64)stop_after;
  if (places.resume)
    {
      g_clear_pointer (&run.command, g_free);
      if (!load_settings (&run, places.checkpoint, &error))
        goto failed;
    }
  else
    {
      run.batch = (guint)batch;
      run.validation_tiles = (guint)validation_tiles;
      run.validate_every = (guint64)validate_every;
      t->steps = steps ? (guint64)steps : 1;
      t->seed = (guint64)seed;
      t->warmup = warmup < 0 ? G_MAXUINT64 : (guint64)warmup;
      t->lr_min = lr_min != NF_NOT_GIVEN ? lr_min : MIN (t->lr_min, t->lr);
      /* Absolute, so that --resume works from any folder. */
      run.files = g_strdupv (argv + 1);
      for (gsize i = 0; run.files[i]; i++)
        make_absolute (&run.files[i]);
      for (gsize i = 0; run.validation && run.validation[i]; i++)
        make_absolute (&run.validation[i]);
      if (captions)
        make_absolute (&captions);
      run.captions = g_steal_pointer (&captions);
      /* a bundled model's name stays one */
      if (run.init && g_file_test (run.init, G_FILE_TEST_EXISTS))
        make_absolute (&run.init);
      /* what is in a file is not the command line's fault */
      if (!read_config (&run.config, &shape, &error))
        return shape.config[0] == '{' ? nf_command_usage (&command, "%s", error->message)
                                      : nf_command_fail (&command, error);
      if ((scales && !parse_scales (&run, scales, &error)) || !make_config (&run.config, &shape, &error)
          || !check_run (&run, &error))
        return nf_command_usage (&command, "%s", error->message);
      if (run.init && !read_init (&run, &error))
        goto failed;
    }
  if (places.resume && !check_run (&run, &error))
    goto failed;
  if (!check_video_options (&run, !places.resume, holdout != NF_NOT_GIVEN, samples != NULL, &error))
    return nf_command_usage (&command, "%s", error->message);
  if (has_captions (&run) && run.config.family != NF_FAMILY_STARFLOW)
    return nf_command_usage (&command, "--captions are for models that see text: --family starflow");
  if (run.config.txt_size > 1 && !has_captions (&run))
    return nf_command_usage (&command, "the model sees text: --captions says what of each file");
  if (!run.config.frames && ((run.world && *run.world) || run.actions))
    return nf_command_usage (&command,
                             "--world and --actions go with a model of videos: --family starflow --frames F");
  if (log)
    {
      g_autofree char *before = g_steal_pointer (&run.log);

      run.log = g_canonicalize_filename (log, NULL);
      places.other_log = g_strcmp0 (run.log, before) != 0;
    }
  if (log_every != -1 || !run.log_every)
    run.log_every = log_every != -1 ? (guint64)log_every : 10;
  if (samples)
    {
      g_free (run.samples);
      run.samples = g_canonicalize_filename (samples, NULL);
    }
  if (sample_every != G_MININT64 && !run.samples)
    return nf_command_usage (&command, "--sample-every says how often --samples are drawn: give both");
  if (sample_every != G_MININT64)
    run.sample_every = (guint64)sample_every;
  if (!check_places (&places, &run, shape.config, &error))
    goto failed;

  nf_command_catch_signals (&command);
  if (!run_job (&command, &run, &places, &error))
    goto failed;
  return g_cancellable_is_cancelled (command.cancellable) ? NF_EXIT_INTERRUPTED : 0;

failed:
  return nf_command_fail (&command, error);
}
