/* normflow: a training run and its settings. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "train-run.h"
#include "files.h"
#include "json.h"
#include "nf-json.h"

#include <math.h>
#include <stddef.h>
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

static void
add_exact_all (JsonBuilder *builder, const char *name, const double *values, guint n)
{
  json_builder_set_member_name (builder, name);
  json_builder_begin_array (builder);
  for (guint i = 0; i < n; i++)
    add_exact (builder, NULL, values[i]);
  json_builder_end_array (builder);
}

/* How a setting is kept. */
typedef enum
{
  KEPT_WHOLE,
  KEPT_NUMBER,
  KEPT_EXACT,
  KEPT_SCALES, /* n_scales of them */
  KEPT_SWITCH,
  KEPT_TEXT,  /* NULL is kept as "" */
  KEPT_TEXTS, /* NULL is left out */
  KEPT_NAME,  /* of a file or folder, as a text */
  KEPT_NAMES,
  KEPT_SOURCES,
} Kind;

typedef struct
{
  const char *name;
  Kind kind;
  gsize offset;   /* in NfTrainRun */
  gboolean later; /* runs that began before there was such a thing have none: it stays what it was */
} Setting;

/* Where MEMBER is; what is compared, without being looked at, are pointers of one type. */
#define AT(Type, member)                                                                                     \
  (offsetof (NfTrainRun, member) + 0 * sizeof ((Type *)NULL == &((NfTrainRun *)NULL)->member))
#define WHOLE(member) KEPT_WHOLE, AT (guint64, member)
#define NUMBER(member) KEPT_NUMBER, AT (guint, member)
#define EXACT(member) KEPT_EXACT, AT (double, member)
#define SCALES(member) KEPT_SCALES, AT (double, member)
#define SWITCH(member) KEPT_SWITCH, AT (gboolean, member)
#define TEXT(member) KEPT_TEXT, AT (char *, member)
#define TEXTS(member) KEPT_TEXTS, AT (char **, member)
#define NAME(member) KEPT_NAME, AT (char *, member)
#define NAMES(member) KEPT_NAMES, AT (char **, member)
#define SOURCES(member) KEPT_SOURCES, AT (GArray *, member)

/* All that is kept, in this order, after the configuration. */
static const Setting all_settings[] = {
  { "steps", WHOLE (train.steps) },
  { "warmup", WHOLE (train.warmup) },
  { "lr", EXACT (train.lr) },
  { "lr_min", EXACT (train.lr_min) },
  { "beta1", EXACT (train.beta1) },
  { "beta2", EXACT (train.beta2) },
  { "eps", EXACT (train.eps) },
  { "weight_decay", EXACT (train.weight_decay) },
  { "clip", EXACT (train.clip) },
  { "ema", EXACT (train.ema) },
  { "label_dropout", EXACT (train.label_dropout) },
  { "action_dropout", EXACT (train.action_dropout) },
  { "context_errors", EXACT (train.context_errors), TRUE },
  { "seed", WHOLE (train.seed) },
  { "batch", NUMBER (batch) },
  { "holdout", EXACT (holdout) },
  { "scales", SCALES (scales[0]) },
  { "labels", SWITCH (labels) },
  { "classes", TEXTS (classes), TRUE },
  { "captions", NAME (captions), TRUE },
  { "captions_digest", TEXT (captions_digest), TRUE },
  { "actions", SWITCH (actions) },
  { "world", TEXT (world) },
  { "validate_every", WHOLE (validate_every) },
  { "validation_tiles", NUMBER (validation_tiles) },
  { "files", NAMES (files) },
  { "validation", NAMES (validation) },
  { "sources", SOURCES (sources), TRUE },
  { "validation_sources", SOURCES (validation_sources), TRUE },
  { "init", NAME (init) },
  { "command", TEXT (command) },
  { "log", NAME (log), TRUE },
  { "log_every", WHOLE (log_every), TRUE },
  { "samples", NAME (samples), TRUE },
  { "sample_every", WHOLE (sample_every), TRUE },
  { "precision", TEXT (precision), TRUE },
  { "multiplied_by", TEXT (arithmetic), TRUE },
  { "best", EXACT (best) },
  { "best_tiles", WHOLE (best_tiles), TRUE },
  { "best_step", WHOLE (best_step) },
  { "skipped", WHOLE (skipped) },
  { "other_output", SWITCH (other_output), TRUE },
  { "seconds", EXACT (seconds) },
};

static void
add_setting (JsonBuilder *builder, const Setting *setting, const NfTrainRun *run)
{
  const char *name = setting->name;
  const void *at = (const guint8 *)run + setting->offset;

  switch (setting->kind)
    {
    case KEPT_WHOLE:
      nf_json_add_int (builder, name, *(const guint64 *)at);
      break;
    case KEPT_NUMBER:
      nf_json_add_int (builder, name, *(const guint *)at);
      break;
    case KEPT_EXACT:
      add_exact (builder, name, *(const double *)at);
      break;
    case KEPT_SCALES:
      add_exact_all (builder, name, at, run->n_scales);
      break;
    case KEPT_SWITCH:
      nf_json_add_bool (builder, name, *(const gboolean *)at);
      break;
    case KEPT_TEXT:
      nf_json_add_string (builder, name, *(char *const *)at ? *(char *const *)at : "");
      break;
    case KEPT_TEXTS:
      if (*(char **const *)at)
        add_strings (builder, name, *(char **const *)at);
      break;
    case KEPT_NAME:
      add_name (builder, name, *(char *const *)at);
      break;
    case KEPT_NAMES:
      add_names (builder, name, *(char **const *)at);
      break;
    case KEPT_SOURCES:
      add_sources (builder, name, *(GArray *const *)at);
      break;
    }
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
  for (gsize i = 0; i < G_N_ELEMENTS (all_settings); i++)
    add_setting (builder, &all_settings[i], run);
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

/* At most MOST, into VALUES. Returns: how many. */
static guint
settings_doubles (Settings *settings, const char *name, double *values, guint most)
{
  JsonNode *node = settings_node (settings, name, JSON_NODE_ARRAY);
  JsonArray *array = node ? json_node_get_array (node) : NULL;
  const guint n = array ? json_array_get_length (array) : 0;

  if (n > most)
    {
      settings->wrong = settings->wrong ? settings->wrong : name;
      return 0;
    }
  for (guint i = 0; i < n; i++)
    values[i] = node_double (settings, name, json_array_get_element (array, i));
  return n;
}

static void
read_setting (Settings *settings, const Setting *setting, NfTrainRun *run)
{
  const char *name = setting->name;
  void *at = (guint8 *)run + setting->offset;

  switch (setting->kind)
    {
    case KEPT_WHOLE:
      *(guint64 *)at = settings_int (settings, name);
      break;
    case KEPT_NUMBER:
      *(guint *)at = (guint)MIN (settings_int (settings, name), G_MAXUINT);
      break;
    case KEPT_EXACT:
      *(double *)at = settings_double (settings, name);
      break;
    case KEPT_SCALES:
      run->n_scales = settings_doubles (settings, name, at, G_N_ELEMENTS (run->scales));
      break;
    case KEPT_SWITCH:
      *(gboolean *)at = settings_bool (settings, name);
      break;
    case KEPT_TEXT:
      *(char **)at = settings_string (settings, name);
      break;
    case KEPT_TEXTS:
      *(char ***)at = settings_strings (settings, name);
      break;
    case KEPT_NAME:
      *(char **)at = settings_name (settings, name);
      break;
    case KEPT_NAMES:
      *(char ***)at = settings_names (settings, name);
      break;
    case KEPT_SOURCES:
      *(GArray **)at = settings_sources (settings, name);
      break;
    }
}

/* Values of the right type that say nothing. */
static void
check_values (Settings *settings, const NfTrainRun *run)
{
  const char *wrong = run->precision && !g_strv_contains (nf_device_precisions (), run->precision)
                          ? "precision"
                      : run->arithmetic && !nf_is_word (run->arithmetic)     ? "multiplied_by"
                      : !(run->seconds >= 0 && isfinite (run->seconds))      ? "seconds"
                      : run->best == -INFINITY /* nothing would be better */ ? "best"
                                                                             : NULL;

  if (!settings->wrong)
    settings->wrong = wrong;
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
  /* before it was kept, it was taken to be all */
  run->best_tiles = G_MAXUINT64;
  for (gsize i = 0; i < G_N_ELEMENTS (all_settings); i++)
    if (!all_settings[i].later || json_object_has_member (settings.object, all_settings[i].name))
      read_setting (&settings, &all_settings[i], run);
  check_values (&settings, run);
  if (run->samples && !*run->samples)
    g_clear_pointer (&run->samples, g_free);
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
