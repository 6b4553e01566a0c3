/* normflow: a training run and its settings. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "train-run.h"
#include "files.h"
#include "json.h"
#include "nf-json.h"

#include <math.h>
#include <string.h>

#include <glib/gstdio.h>

static void
source_clear (gpointer data)
{
  g_free (((NfTrainSource *)data)->name);
}

GArray *
nf_train_sources_new (void)
{
  GArray *sources = g_array_new (FALSE, FALSE, sizeof (NfTrainSource));

  g_array_set_clear_func (sources, source_clear);
  return sources;
}

void
nf_train_run_clear (NfTrainRun *run)
{
  g_strfreev (run->files);
  g_strfreev (run->validation);
  g_strfreev (run->classes);
  g_clear_pointer (&run->sources, g_array_unref);
  g_clear_pointer (&run->validation_sources, g_array_unref);
  g_free (run->init);
  g_free (run->captions);
  g_free (run->captions_digest);
  g_free (run->world);
  g_free (run->command);
  g_free (run->log);
  g_free (run->samples);
  g_free (run->precision);
  g_free (run->arithmetic);
}

void
nf_train_places_clear (NfTrainPlaces *places)
{
  g_free (places->output);
  g_free (places->checkpoint);
}

gboolean
nf_train_has_captions (const NfTrainRun *run)
{
  return run->captions && *run->captions;
}

/* Settings beside the checkpoint */

/* Names of files are bytes, JSON is UTF-8: one that is not is kept as a URI has it. No other that is kept
 * begins so: it is absolute, or has no slash. */
#define AS_BYTES "file://"

/* (transfer full) */
static char *
name_to_text (const char *name)
{
  if (g_utf8_validate (name, -1, NULL))
    return g_strdup (name);
  g_autofree char *escaped = g_uri_escape_string (name, "/", FALSE);
  return g_strconcat (AS_BYTES, escaped, NULL);
}

/* NULL if TEXT tells none. (transfer full) */
static char *
name_from_text (const char *text)
{
  return g_str_has_prefix (text, AS_BYTES) ? g_uri_unescape_string (text + strlen (AS_BYTES), NULL)
                                           : g_strdup (text);
}

/* Of a file or folder (nullable). */
static void
add_name (JsonBuilder *builder, const char *member, const char *name)
{
  g_autofree char *text = name_to_text (name ? name : "");
  nf_json_add_string (builder, member, text);
}

static void
add_names (JsonBuilder *builder, const char *member, char **names)
{
  json_builder_set_member_name (builder, member);
  json_builder_begin_array (builder);
  for (gsize i = 0; names && names[i]; i++)
    {
      g_autofree char *text = name_to_text (names[i]);
      json_builder_add_string_value (builder, text);
    }
  json_builder_end_array (builder);
}

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
add_sources (JsonBuilder *builder, const char *name, const GArray *sources)
{
  json_builder_set_member_name (builder, name);
  json_builder_begin_array (builder);
  for (guint i = 0; i < sources->len; i++)
    {
      const NfTrainSource *source = &g_array_index (sources, NfTrainSource, i);

      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "name");
      json_builder_add_string_value (builder, source->name);
      nf_json_add_int (builder, "frames", source->frames);
      nf_json_add_int (builder, "bytes", source->bytes);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

char *
nf_train_settings_path (const char *checkpoint)
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

gboolean
nf_train_save_settings (const NfTrainRun *run, const char *checkpoint, GError **error)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autoptr (GError) local = NULL;
  g_autofree char *config = nf_config_to_json (&run->config);
  g_autofree char *path = nf_train_settings_path (checkpoint);
  /* always the same name, so that what a killed run leaves is written over, not beside */
  g_autofree char *part = g_strconcat (path, ".part", NULL);
  g_autofree char *text = NULL;

  json_builder_begin_object (builder);
  nf_json_add_string (builder, "config", config);
  nf_json_add_int (builder, "steps", run->train.steps);
  nf_json_add_int (builder, "warmup", run->train.warmup);
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
  nf_json_add_int (builder, "seed", run->train.seed);
  nf_json_add_int (builder, "batch", run->batch);
  add_exact (builder, "holdout", run->holdout);
  json_builder_set_member_name (builder, "scales");
  json_builder_begin_array (builder);
  for (guint i = 0; i < run->n_scales; i++)
    add_exact (builder, NULL, run->scales[i]);
  json_builder_end_array (builder);
  nf_json_add_bool (builder, "labels", run->labels);
  if (run->classes)
    add_strings (builder, "classes", run->classes);
  add_name (builder, "captions", run->captions);
  nf_json_add_string (builder, "captions_digest", run->captions_digest ? run->captions_digest : "");
  nf_json_add_bool (builder, "actions", run->actions);
  nf_json_add_string (builder, "world", run->world ? run->world : "");
  nf_json_add_int (builder, "validate_every", run->validate_every);
  nf_json_add_int (builder, "validation_tiles", run->validation_tiles);
  add_names (builder, "files", run->files);
  add_names (builder, "validation", run->validation);
  add_sources (builder, "sources", run->sources);
  add_sources (builder, "validation_sources", run->validation_sources);
  add_name (builder, "init", run->init);
  nf_json_add_string (builder, "command", run->command);
  add_name (builder, "log", run->log);
  nf_json_add_int (builder, "log_every", run->log_every);
  add_name (builder, "samples", run->samples);
  nf_json_add_int (builder, "sample_every", run->sample_every);
  nf_json_add_string (builder, "precision", run->precision);
  nf_json_add_string (builder, "multiplied_by", run->arithmetic);
  add_exact (builder, "best", run->best);
  nf_json_add_int (builder, "best_tiles", run->best_tiles);
  nf_json_add_int (builder, "best_step", run->best_step);
  nf_json_add_int (builder, "skipped", run->skipped);
  nf_json_add_bool (builder, "other_output", run->other_output);
  add_exact (builder, "seconds", run->seconds);
  json_builder_end_object (builder);
  text = nf_json_text (builder, TRUE);
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

/* A value of this type: json-glib makes zeros of others. */
static JsonNode *
settings_value (Settings *settings, const char *name, GType type)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_VALUE);

  if (!node || json_node_get_value_type (node) == type)
    return node;
  if (!settings->wrong)
    settings->wrong = name;
  return NULL;
}

static guint64
settings_int (Settings *settings, const char *name)
{
  JsonNode *node = settings_value (settings, name, G_TYPE_INT64);

  if (node && json_node_get_int (node) < 0 && !settings->wrong)
    settings->wrong = name;
  return node ? (guint64)json_node_get_int (node) : 0;
}

static gboolean
settings_bool (Settings *settings, const char *name)
{
  JsonNode *node = settings_value (settings, name, G_TYPE_BOOLEAN);
  return node && json_node_get_boolean (node);
}

static char *
settings_string (Settings *settings, const char *name)
{
  JsonNode *node = settings_value (settings, name, G_TYPE_STRING);
  return g_strdup (node ? json_node_get_string (node) : "");
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

/* The name that TEXT tells; empty if it tells none. */
static char *
name_of (Settings *settings, const char *member, const char *text)
{
  char *name = name_from_text (text);

  if (!name && !settings->wrong)
    settings->wrong = member;
  return name ? name : g_strdup ("");
}

static char *
settings_name (Settings *settings, const char *member)
{
  g_autofree char *text = settings_string (settings, member);
  return name_of (settings, member, text);
}

static char **
settings_names (Settings *settings, const char *member)
{
  char **names = settings_strings (settings, member);

  for (gsize i = 0; names[i]; i++)
    {
      g_autofree char *text = names[i];
      names[i] = name_of (settings, member, text);
    }
  return names;
}

static GArray *
settings_sources (Settings *settings, const char *name)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_ARRAY);
  GArray *sources = nf_train_sources_new ();

  for (guint i = 0; node && i < json_array_get_length (json_node_get_array (node)); i++)
    {
      JsonNode *element = json_array_get_element (json_node_get_array (node), i);
      Settings member = { JSON_NODE_HOLDS_OBJECT (element) ? json_node_get_object (element) : NULL, NULL };

      if (member.object)
        {
          const NfTrainSource source = { settings_string (&member, "name"), settings_int (&member, "frames"),
                                         settings_int (&member, "bytes") };

          g_array_append_val (sources, source);
        }
      if ((!member.object || member.wrong) && !settings->wrong)
        settings->wrong = name;
    }
  return sources;
}

gboolean
nf_train_load_settings (NfTrainRun *run, const char *checkpoint, GError **error)
{
  g_autofree char *path = nf_train_settings_path (checkpoint), *text = NULL;
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
    run->log = settings_name (&settings, "log");
  if (json_object_has_member (settings.object, "log_every"))
    run->log_every = settings_int (&settings, "log_every");
  if (json_object_has_member (settings.object, "samples"))
    run->samples = settings_name (&settings, "samples");
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
      run->arithmetic = settings_string (&settings, "multiplied_by");
      if (!nf_is_word (run->arithmetic) && !settings.wrong)
        settings.wrong = "multiplied_by";
    }
  run->train.seed = settings_int (&settings, "seed");
  run->batch = (guint)MIN (settings_int (&settings, "batch"), G_MAXUINT);
  run->holdout = settings_double (&settings, "holdout");
  scales = settings_node (&settings, "scales", JSON_NODE_ARRAY);
  run->n_scales = scales ? json_array_get_length (json_node_get_array (scales)) : 0;
  if (run->n_scales > G_N_ELEMENTS (run->scales))
    {
      run->n_scales = 0;
      settings.wrong = settings.wrong ? settings.wrong : "scales";
    }
  for (guint i = 0; i < run->n_scales; i++)
    run->scales[i]
        = node_double (&settings, "scales", json_array_get_element (json_node_get_array (scales), i));
  run->labels = settings_bool (&settings, "labels");
  if (json_object_has_member (settings.object, "classes"))
    run->classes = settings_strings (&settings, "classes");
  if (json_object_has_member (settings.object, "captions"))
    run->captions = settings_name (&settings, "captions");
  if (json_object_has_member (settings.object, "captions_digest"))
    run->captions_digest = settings_string (&settings, "captions_digest");
  run->actions = settings_bool (&settings, "actions");
  run->world = settings_string (&settings, "world");
  run->validate_every = settings_int (&settings, "validate_every");
  run->validation_tiles = (guint)MIN (settings_int (&settings, "validation_tiles"), G_MAXUINT);
  run->files = settings_names (&settings, "files");
  run->validation = settings_names (&settings, "validation");
  if (json_object_has_member (settings.object, "sources"))
    run->sources = settings_sources (&settings, "sources");
  if (json_object_has_member (settings.object, "validation_sources"))
    run->validation_sources = settings_sources (&settings, "validation_sources");
  run->init = settings_name (&settings, "init");
  run->command = settings_string (&settings, "command");
  /* before it was kept, it was taken to be all */
  run->best_tiles = G_MAXUINT64;
  if (json_object_has_member (settings.object, "best_tiles"))
    run->best_tiles = settings_int (&settings, "best_tiles");
  run->best_step = settings_int (&settings, "best_step");
  run->skipped = settings_int (&settings, "skipped");
  if (json_object_has_member (settings.object, "other_output"))
    run->other_output = settings_bool (&settings, "other_output");
  run->seconds = settings_double (&settings, "seconds");
  if (!(run->seconds >= 0 && isfinite (run->seconds)) && !settings.wrong)
    settings.wrong = "seconds";
  run->best = settings_double (&settings, "best");
  if (run->best == -INFINITY && !settings.wrong) /* nothing would be better */
    settings.wrong = "best";
  if (settings.wrong)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: member \"%s\" is missing or not what it should be",
                   path, settings.wrong);
      return FALSE;
    }
  return TRUE;
}

gboolean
nf_train_check_begun (const char *checkpoint, GError **error)
{
  g_autofree char *settings = nf_train_settings_path (checkpoint);
  g_auto (NfTrainRun) run = { 0 };
  g_autoptr (GError) local = NULL;
  guint64 step;

  /* either alone is nothing that could go on */
  if (!g_file_test (checkpoint, G_FILE_TEST_EXISTS) || !g_file_test (settings, G_FILE_TEST_EXISTS))
    return TRUE;
  if (!nf_trainer_saved_step (checkpoint, &step, &local)
      || !nf_train_load_settings (&run, checkpoint, &local))
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s; --overwrite begins a run in its place",
                 local->message);
  else if (step > 0 && step < run.train.steps)
    g_set_error (
        error, NF_ERROR, NF_ERROR_ARGUMENT,
        "%s is at step %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
        " of another run: give --resume to go on with it, --overwrite to begin anew in its place, or "
        "another --output",
        checkpoint, step, run.train.steps);
  else
    return TRUE;
  return FALSE;
}
