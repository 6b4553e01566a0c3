/* normflow info: what a file is. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "json.h"
#include "latents.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>

#define NAME_WIDTH 18

typedef struct
{
  const char *path;
  NfTensorFile *file;
  guint64 size;
  gboolean tensors;
} Info;

/* Trainable values: everything but the prior's variance, causal masks and rotations. */
static guint64
count_parameters (NfTensorFile *file)
{
  guint64 n = 0;

  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);

      if (strcmp (tensor->name, "var") != 0 && !g_str_has_suffix (tensor->name, ".attn_mask")
          && !g_str_has_prefix (tensor->name, "feat_rope."))
        n += tensor->n_elements;
    }
  return n;
}

/* Keys of the metadata, sorted, but those in SHOWN. (transfer container) */
static GList *
other_keys (NfTensorFile *file, const char *const *shown)
{
  GHashTable *metadata = nf_tensor_file_get_all_metadata (file);
  GList *keys = g_list_sort (g_hash_table_get_keys (metadata), (GCompareFunc)strcmp);

  for (GList *i = keys; i;)
    {
      GList *next = i->next;

      if (g_strv_contains (shown, i->data))
        keys = g_list_delete_link (keys, i);
      i = next;
    }
  return keys;
}

/* Text */

static void print_row (const char *name, const char *format, ...) G_GNUC_PRINTF (2, 3);

static void
print_row (const char *name, const char *format, ...)
{
  va_list args;

  printf ("%-*s ", NAME_WIDTH, name);
  va_start (args, format);
  vprintf (format, args);
  va_end (args);
  putchar ('\n');
}

/* Metadata come from outside: control characters stay off the terminal. (transfer full) */
static char *
clean (const char *value)
{
  GString *text = g_string_new (NULL);

  for (const char *c = value; *c; c = g_utf8_next_char (c))
    {
      gunichar letter = g_utf8_get_char (c);

      g_string_append_unichar (text, g_unichar_iscntrl (letter) ? ' ' : letter);
    }
  return g_string_free (text, FALSE);
}

static void
print_value (const char *value)
{
  g_autofree char *text = clean (value);

  puts (text);
}

static char *
scalar_text (JsonNode *node)
{
  if (JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_STRING)
    return json_node_dup_string (node);
  return json_to_string (node, FALSE);
}

/* A record such as the one of training is shown member by member, everything else as it is. */
static void
print_metadata (const char *key, const char *value)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autofree char *name = clean (key);
  JsonNode *root;
  JsonObjectIter iter;
  const char *member;
  JsonNode *node;

  if (!json_parser_load_from_data (parser, value, -1, NULL) || !(root = json_parser_get_root (parser))
      || !JSON_NODE_HOLDS_OBJECT (root))
    {
      printf ("%-*s ", NAME_WIDTH, name);
      print_value (value);
      return;
    }
  puts (name);
  json_object_iter_init_ordered (&iter, json_node_get_object (root));
  while (json_object_iter_next_ordered (&iter, &member, &node))
    {
      g_autofree char *text = scalar_text (node), *inner = clean (member);

      printf ("  %-*s ", NAME_WIDTH - 2, inner);
      print_value (text);
    }
}

static void
print_tensors (NfTensorFile *file)
{
  puts ("\ntensors");
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      g_autofree char *shape = nf_shape_to_text (tensor->n_dims, tensor->dims);

      printf ("  %-4s %-20s ", nf_dtype_name (tensor->dtype), shape);
      print_value (tensor->name);
    }
}

static void
print_file (const Info *info, const char *what)
{
  g_autofree char *name = g_filename_display_name (info->path);
  g_autofree char *size = g_format_size_full (info->size, G_FORMAT_SIZE_IEC_UNITS);

  print_row ("file", "%s", name);
  print_row ("kind", "%s", what);
  print_row ("size", "%s (%" G_GUINT64_FORMAT " bytes)", size, info->size);
}

/* What has members, or rows, of its own. */
static const char *const model_members[] = { "config", NULL };
static const char *const model_rows[] = { "config", "classes", NULL };

static void
print_blocks (const NfConfig *config)
{
  g_autoptr (GString) layers = g_string_new (NULL);
  const guint heads = config->n_heads ? config->n_heads : config->width / config->head_dim;
  if (nf_config_lists_layers (config))
    for (guint t = 0; t < config->n_blocks; t++)
      g_string_append_printf (layers, "%s%u", t ? "-" : "", nf_config_layers (config, t));
  else
    g_string_printf (layers, "%u", nf_config_layers (config, 0));
  print_row ("flow", "%u blocks of %s layers, %s", config->n_blocks, layers->str,
             config->nvp ? "shift and scale (NVP)" : "shift only (volume-preserving)");
  print_row ("transformers", "width %u (heads: %u, of %u each), MLP of %u", config->width, heads,
             config->head_dim, config->expansion * config->width);
  if (config->top_width)
    print_row ("deep block", "width %u", config->top_width);
}

static void
print_starflow (const NfConfig *config)
{
  const struct
  {
    gboolean set;
    const char *name;
  } switches[] = {
    { config->rope, config->half_split_rope ? "rotary positions (halves)" : "rotary positions" },
    { !config->rope, "learned positions" },
    { config->frame_positions, "learned positions in a frame" },
    { config->sos, "start token" },
    { config->softplus, "softplus scale" },
    { !config->softplus, "exp scale" },
    { config->soft_clip > 0, "soft clip" },
    { config->rms_norm, "RMSNorm" },
    { config->final_norm, "final norm" },
    { config->qk_norm, "norm of queries and keys" },
    { config->post_norm, "norm behind layers" },
    { config->no_bias, "no bias" },
    { config->gated, "gated MLP" },
    { config->n_kv_heads > 0, "shared keys" },
    { config->shallow_local, "shallow blocks see one frame" },
    { config->controls, "continuous controls" },
  };
  g_autoptr (GString) text = g_string_new (NULL);
  for (guint i = 0; i < G_N_ELEMENTS (switches); i++)
    if (switches[i].set)
      g_string_append_printf (text, "%s%s", text->len ? ", " : "", switches[i].name);
  print_row ("switches", "%s", text->str);
  if (config->txt_size)
    print_row ("text", "%u tokens of %u features, on %s", config->txt_size, config->txt_dim,
               config->cond_top_only ? "the deep block" : "all blocks");
  if (config->denoiser_layers)
    {
      g_autofree char *frames = config->temporal_causal && config->denoiser_frames
                                    ? g_strdup_printf ("%u frames", config->denoiser_frames)
                                    : g_strdup ("all frames");
      print_row ("denoiser", "%u layers, %s at a time%s", config->denoiser_layers, frames,
                 config->denoiser_text ? ", sees the text" : "");
    }
  if (config->action_dim)
    print_row ("actions", "%u numbers", config->action_dim);
}

static void
print_classes (const Info *info, const NfConfig *config)
{
  const char *names = nf_tensor_file_get_metadata (info->file, "classes");
  g_autofree char *list = names ? nf_class_list (names, G_MAXUINT) : NULL;
  if (names)
    print_row ("classes", "%s", list);
  else if (config->n_classes)
    print_row ("classes", "%u", config->n_classes);
  else if (config->family == NF_FAMILY_TARFLOW)
    print_row ("classes", "none");
}

static void
print_model (const Info *info, const NfConfig *config, const char *digest)
{
  static const char *const noises[] = { [NF_NOISE_UNIFORM] = "uniform", [NF_NOISE_GAUSSIAN] = "Gaussian" };
  g_autoptr (GList) keys = other_keys (info->file, model_rows);

  print_file (info, config->family == NF_FAMILY_TARFLOW ? "TARFlow model"
                    : config->frames                    ? "STARFlow-V model"
                                                        : "STARFlow model");
  print_row ("digest", "%s", digest);
  print_row ("parameters", "%" G_GUINT64_FORMAT, count_parameters (info->file));
  print_row (config->frames ? "frame" : "image", "%ux%u %s, %s", nf_config_columns (config),
             nf_config_rows (config), config->layout == NF_PIXELS_LATENT ? "places" : "pixels",
             nf_pixel_layout_name (config->layout));
  if (config->frames)
    print_row ("frames", "%u", config->frames);
  print_row ("tokens", "%u of %u features (patches of %ux%u, %s basis)", nf_config_tokens (config),
             nf_config_features (config), config->patch_size, config->patch_size,
             config->basis == NF_BASIS_DCT ? "DCT" : "pixel");
  print_blocks (config);
  if (config->max_log_scale > 0)
    print_row ("scales", "%.4g at most in each block, %.4g at least", exp (config->max_log_scale),
               exp (NF_LEAST_LOG_SCALE));
  if (config->family == NF_FAMILY_STARFLOW)
    print_starflow (config);
  print_classes (info, config);
  if (config->noise == NF_NOISE_GAUSSIAN)
    print_row ("noise", "%s, standard deviation %g on the [-1, 1] scale", noises[config->noise],
               config->noise_std);
  else if (config->layout != NF_PIXELS_LATENT)
    print_row ("noise", "%s (dequantisation of 8-bit samples)%s", noises[config->noise],
               nf_checkpoint_says_noise (info->file, NULL, NULL) ? "" : ": nothing says another");
  for (GList *i = keys; i; i = i->next)
    print_metadata (i->data, nf_tensor_file_get_metadata (info->file, i->data));
  if (info->tensors)
    print_tensors (info->file);
}

typedef struct
{
  double mean;
  double least;
  double most;
} Bits;

static Bits
summarise_bits (NfLatentsReader *reader)
{
  const guint64 n = nf_latents_reader_get_info (reader)->n_frames;
  Bits bits = { 0, G_MAXDOUBLE, -G_MAXDOUBLE };

  for (guint64 i = 0; i < n; i++)
    {
      double value = (double)nf_latents_reader_get_bits_per_dim (reader, i);

      bits.mean += value / (double)n;
      bits.least = MIN (bits.least, value);
      bits.most = MAX (bits.most, value);
    }
  return bits;
}

static void
print_latents (const Info *info, NfLatentsReader *reader)
{
  const NfLatentsInfo *latents = nf_latents_reader_get_info (reader);
  Bits bits = summarise_bits (reader);

  print_file (info, "latents of a video");
  print_row ("frames", "%" G_GUINT64_FORMAT " of %ux%u pixels, %s, %d/%d a second", latents->n_frames,
             latents->width, latents->height, nf_pixel_layout_name (latents->layout), latents->rate_n,
             latents->rate_d);
  print_row ("latents", "%u rows of %u tokens of %u features, %s", latents->grid_height, latents->grid_width,
             latents->features, latents->half ? "float16" : "float32");
  if (latents->look)
    {
      printf ("%-*s ", NAME_WIDTH, "look");
      print_value (latents->look);
    }
  if (latents->context >= 0)
    {
      g_autofree char *keys = latents->key_int_max ? g_strdup_printf ("every %u frames", latents->key_int_max)
                                                   : g_strdup ("the first alone");
      g_autofree char *told = latents->action_dim
                                  ? g_strdup_printf (", %u features of actions", latents->action_dim)
                                  : g_strdup ("");

      print_row ("stream", "context of %d frames, key frames: %s%s", latents->context, keys, told);
    }
  if (latents->precision)
    print_row ("made in", "%s%s%s", latents->precision, latents->arithmetic ? " by " : "",
               latents->arithmetic ? latents->arithmetic : "");
  if (latents->text)
    print_row ("text", "%s", latents->text);
  print_row ("bits/dim", "%.4f on average, %.4f to %.4f", bits.mean, bits.least, bits.most);
  if (latents->n_corrections)
    print_row ("corrections", "%" G_GUINT64_FORMAT " values that decoding would not find",
               latents->n_corrections);
  printf ("%-*s ", NAME_WIDTH, "model");
  print_value (latents->model);
  print_row ("model digest", "%s", latents->digest);
  if (info->tensors)
    print_tensors (info->file);
}

/* JSON */

static void
add_tensors (JsonBuilder *builder, NfTensorFile *file)
{
  json_builder_set_member_name (builder, "tensors");
  json_builder_begin_array (builder);
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);

      json_builder_begin_object (builder);
      nf_json_add_string (builder, "name", tensor->name);
      nf_json_add_string (builder, "dtype", nf_dtype_name (tensor->dtype));
      json_builder_set_member_name (builder, "shape");
      json_builder_begin_array (builder);
      for (guint j = 0; j < tensor->n_dims; j++)
        json_builder_add_int_value (builder, (gint64)tensor->dims[j]);
      json_builder_end_array (builder);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
}

static void
add_metadata (JsonBuilder *builder, NfTensorFile *file)
{
  g_autoptr (GList) keys = other_keys (file, model_members);

  json_builder_set_member_name (builder, "metadata");
  json_builder_begin_object (builder);
  for (GList *i = keys; i; i = i->next)
    {
      const char *value = nf_tensor_file_get_metadata (file, i->data);
      JsonNode *node = json_from_string (value, NULL);

      json_builder_set_member_name (builder, i->data);
      if (node && !JSON_NODE_HOLDS_VALUE (node) && !JSON_NODE_HOLDS_NULL (node))
        json_builder_add_value (builder, node);
      else
        {
          if (node)
            json_node_unref (node);
          json_builder_add_string_value (builder, value);
        }
    }
  json_builder_end_object (builder);
}

/* NfConfig for models, NULL for latents. */
static void
print_json (const Info *info, const NfConfig *config, const char *digest, NfLatentsReader *reader)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autofree char *name = g_filename_display_name (info->path);
  g_autofree char *text = NULL;

  json_builder_begin_object (builder);
  nf_json_add_string (builder, "file", name);
  nf_json_add_string (builder, "kind", config ? "model" : "latents");
  nf_json_add_int (builder, "size", info->size);
  if (config)
    {
      g_autofree char *json = nf_config_to_json (config);

      nf_json_add_string (builder, "digest", digest);
      nf_json_add_int (builder, "parameters", count_parameters (info->file));
      nf_json_add_int (builder, "tokens", nf_config_tokens (config));
      nf_json_add_int (builder, "features", nf_config_features (config));
      json_builder_set_member_name (builder, "config");
      json_builder_add_value (builder, json_from_string (json, NULL));
      add_metadata (builder, info->file);
    }
  else
    {
      const NfLatentsInfo *latents = nf_latents_reader_get_info (reader);
      Bits bits = summarise_bits (reader);
      g_autofree char *rate = g_strdup_printf ("%d/%d", latents->rate_n, latents->rate_d);

      nf_json_add_int (builder, "frames", latents->n_frames);
      nf_json_add_int (builder, "width", latents->width);
      nf_json_add_int (builder, "height", latents->height);
      nf_json_add_string (builder, "pixel_layout", nf_pixel_layout_name (latents->layout));
      nf_json_add_string (builder, "frame_rate", rate);
      if (latents->precision)
        nf_json_add_string (builder, "precision", latents->precision);
      if (latents->arithmetic)
        nf_json_add_string (builder, "multiplied_by", latents->arithmetic);
      if (latents->text)
        nf_json_add_string (builder, "text_digest", latents->text);
      if (latents->look)
        nf_json_add_string (builder, "look", latents->look);
      nf_json_add_int (builder, "grid_height", latents->grid_height);
      nf_json_add_int (builder, "grid_width", latents->grid_width);
      nf_json_add_int (builder, "features", latents->features);
      nf_json_add_string (builder, "dtype", latents->half ? "F16" : "F32");
      nf_json_add_int (builder, "corrections", latents->n_corrections);
      if (latents->context >= 0)
        {
          nf_json_add_int (builder, "context", (guint64)latents->context);
          nf_json_add_int (builder, "key_int_max", latents->key_int_max);
          nf_json_add_int (builder, "action_dim", latents->action_dim);
        }
      nf_json_add_double (builder, "bits_per_dim", bits.mean);
      nf_json_add_double (builder, "bits_per_dim_min", bits.least);
      nf_json_add_double (builder, "bits_per_dim_max", bits.most);
      nf_json_add_string (builder, "model", latents->model);
      nf_json_add_string (builder, "model_digest", latents->digest);
    }
  if (info->tensors)
    add_tensors (builder, info->file);
  json_builder_end_object (builder);
  text = nf_json_text (builder, TRUE);
  puts (text);
}

static gboolean
show_latents (const Info *info, gboolean json, GError **error)
{
  g_autoptr (NfLatentsReader) reader = nf_latents_reader_open (info->file, error);

  if (!reader)
    return FALSE;
  if (json)
    print_json (info, NULL, NULL, reader);
  else
    print_latents (info, reader);
  return TRUE;
}

/* Reads all weights, so that what it shows can be loaded. */
static gboolean
show_model (const Info *info, gboolean json, GError **error)
{
  g_autofree char *digest = nf_model_digest_of_file (info->path, error);
  g_autoptr (NfConfig) config = NULL;

  if (!digest)
    return FALSE;
  config = nf_checkpoint_config (info->file, NULL, NULL, error);
  if (!config)
    return FALSE;
  if (json)
    print_json (info, config, digest, NULL);
  else
    print_model (info, config, digest);
  return TRUE;
}

int
nf_cmd_info (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfTensorFile) file = NULL;
  g_autofree char *path = NULL;
  Info info = { 0 };
  GStatBuf status;
  gboolean json = FALSE;
  const GOptionEntry entries[]
      = { { "tensors", 't', 0, G_OPTION_ARG_NONE, &info.tensors, "Also list every tensor", NULL },
          { "json", 0, 0, G_OPTION_ARG_NONE, &json, "As JSON", NULL },
          { NULL } };

  if (!nf_command_parse (&command, &argc, &argv, entries, NF_COMMAND_MODEL, "[MODEL|LATENTS]",
                         "Checks a model, or a file of latents, and says what it is. Needs no OpenCL device.",
                         "Without a file it describes the bundled model.", 0, 1))
    return NF_EXIT_USAGE;
  if (argc > 1 && command.model)
    return nf_command_usage (&command, "name the model once: \"%s\" or --model \"%s\"", argv[1],
                             command.model);
  path = nf_model_find (argc > 1 ? argv[1] : command.model, &error);
  file = path ? nf_tensor_file_open (path, &error) : NULL;
  if (!file)
    return nf_command_fail (&command, error);
  info.path = path;
  info.file = file;
  info.size = g_stat (path, &status) == 0 ? (guint64)status.st_size : 0;
  if (!(nf_latents_is_file (file) ? show_latents (&info, json, &error) : show_model (&info, json, &error)))
    return nf_command_fail (&command, error);
  return 0;
}
