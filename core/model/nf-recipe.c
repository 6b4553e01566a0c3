/* normflow: official training configurations. SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A document with one member "arguments", a list of single NAME: VALUE pairs, or these pairs alone. Names are
 * those of the training programs' options. */
#include "nf-recipe.h"
#include "nf-error-private.h"
#include "nf-json.h"

#include <math.h>
#include <string.h>
#include <yaml.h>

#define MAX_ARGUMENTS 256

/* Names that differ from the model's. */
static const char *const renamed[][2] = {
  { "channel_size", "in_channels" },
  { "blocks", "num_blocks" },
};

static const char *const kept[] = { "patch_size",
                                    "channels",
                                    "top_block_channels",
                                    "txt_size",
                                    "pt_seq_len",
                                    "nvp",
                                    "rope",
                                    "sos",
                                    "seq_order",
                                    "head_dim",
                                    "num_heads",
                                    "num_kv_heads",
                                    "use_softplus",
                                    "soft_clip",
                                    "use_swiglu",
                                    "use_qk_norm",
                                    "use_post_norm",
                                    "use_final_norm",
                                    "use_bias",
                                    "norm_type",
                                    "cond_top_only",
                                    "temporal_causal",
                                    "shallow_block_local",
                                    "learnable_self_denoiser",
                                    "conditional_denoiser",
                                    "denoiser_window",
                                    "noise_std",
                                    "noise_type",
                                    "local_attn_window",
                                    NULL };

/* Would change what is computed, and have to be off. */
static const char *const unsupported[] = { "adaln", "use_pretrained_lm", NULL };

/* Read by hand. */
static const char *const special[] = { "img_size", "layers_per_block", "vae", "vid_size", NULL };

/* Of data, optimiser and samples; and what no official network has a use for. */
static const char *const training[] = { "acc",
                                        "batch_size",
                                        "caption_column",
                                        "cfg",
                                        "compile",
                                        "cond_noise_level",
                                        "data",
                                        "dataset",
                                        "drop_image",
                                        "drop_label",
                                        "dry_run",
                                        "epoch_length",
                                        "epochs",
                                        "finetuned_vae",
                                        "fp8",
                                        "fps_cond",
                                        "fsdp",
                                        "fsdp_text_encoder",
                                        "grad_clip",
                                        "grad_skip",
                                        "gradient_checkpoint",
                                        "gradient_checkpoint_mlp",
                                        "last_frame_cond",
                                        "latent_norm_regularization",
                                        "logdir",
                                        "loss_scaling",
                                        "lr",
                                        "min_lr",
                                        "mix_aspect",
                                        "no_flip",
                                        "noise_embed_denoiser",
                                        "num_samples",
                                        "resume",
                                        "resume_epoch",
                                        "resume_path",
                                        "sample_batch_size",
                                        "sample_freq",
                                        "save_every",
                                        "secondary_batch_size",
                                        "secondary_dataset",
                                        "secondary_img_size",
                                        "secondary_ratio",
                                        "secondary_vid_size",
                                        "text",
                                        "train_seed",
                                        "use_8bit_adam",
                                        "use_mm_attn",
                                        "vae_decoder_factor",
                                        "video_to_video",
                                        "wandb_name",
                                        "warmup_steps",
                                        "wds",
                                        NULL };

/* By how much autoencoders make pictures smaller, and videos shorter. */
static const struct
{
  const char *name;
  guint space, time;
} autoencoders[] = {
  { "sd-vae", 8, 1 },
  { "sdxl-vae", 8, 1 },
  { "Wan2.1", 8, 4 },
  { "Wan2.2", 16, 4 },
};

/* YAML */

/* The next event, which the caller deletes. Anchors would let a small document become a large one. */
static gboolean
next_event (yaml_parser_t *parser, yaml_event_t *event, const char *origin, GError **error)
{
  if (!yaml_parser_parse (parser, event))
    return nf_error_malformed (error, origin, "it is not YAML: %s in line %" G_GSIZE_FORMAT,
                               parser->problem ? parser->problem : "something is wrong",
                               parser->problem_mark.line + 1);
  const yaml_char_t *anchor = event->type == YAML_ALIAS_EVENT            ? event->data.alias.anchor
                              : event->type == YAML_SCALAR_EVENT         ? event->data.scalar.anchor
                              : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.anchor
                              : event->type == YAML_MAPPING_START_EVENT  ? event->data.mapping_start.anchor
                                                                         : NULL;
  if (!anchor)
    return TRUE;
  yaml_event_delete (event);
  return nf_error_malformed (error, origin, "it uses anchors, which no official configuration does");
}

/* NAME -> VALUE, both strings; a list of scalars as a value becomes one string with spaces. */
static gboolean
read_pairs (yaml_parser_t *parser, GHashTable *pairs, const char *origin, GError **error)
{
  g_autofree char *name = NULL;
  g_autoptr (GString) list = NULL;
  g_autofree char *word = NULL; /* of the list of arguments, but none itself */
  guint depth = 0, documents = 0;
  gboolean in_list = FALSE, had_list = FALSE, done = FALSE;

  while (!done)
    {
      yaml_event_t event;
      if (!next_event (parser, &event, origin, error))
        return FALSE;
      gboolean good = TRUE;
      const char *text = event.type == YAML_SCALAR_EVENT ? (const char *)event.data.scalar.value : NULL;
      switch (event.type)
        {
        case YAML_SCALAR_EVENT:
          if (list)
            g_string_append_printf (list, "%s%s", list->len ? " " : "", text);
          else if (depth == 0 || g_hash_table_size (pairs) == MAX_ARGUMENTS)
            good = FALSE;
          else if (in_list && depth == 1)
            {
              good = FALSE;
              word = nf_shorten (text);
            }
          else if (!name)
            name = g_strdup (text);
          else
            {
              good = strcmp (name, "arguments") != 0 && !g_hash_table_contains (pairs, name);
              if (good)
                g_hash_table_insert (pairs, g_steal_pointer (&name), g_strdup (text));
            }
          break;
        case YAML_SEQUENCE_START_EVENT:
          if (list || depth == 0)
            good = FALSE;
          else if (!name || strcmp (name, "arguments") == 0)
            {
              good = name != NULL && !had_list && depth == 1;
              in_list = had_list = TRUE;
              g_clear_pointer (&name, g_free);
            }
          else
            list = g_string_new (NULL);
          break;
        case YAML_SEQUENCE_END_EVENT:
          if (list)
            {
              good = !g_hash_table_contains (pairs, name);
              if (good)
                g_hash_table_insert (pairs, g_steal_pointer (&name),
                                     g_string_free (g_steal_pointer (&list), FALSE));
            }
          else
            in_list = FALSE;
          break;
        case YAML_MAPPING_START_EVENT:
          /* of the document, of "arguments", or of one in its list */
          good = !list && depth < 2 && (depth == 0 || in_list || (name && strcmp (name, "arguments") == 0));
          if (good)
            g_clear_pointer (&name, g_free);
          depth++;
          break;
        case YAML_MAPPING_END_EVENT:
          depth--;
          break;
        case YAML_STREAM_END_EVENT:
          done = TRUE;
          break;
        case YAML_DOCUMENT_START_EVENT:
          documents++;
          break;
        case YAML_DOCUMENT_END_EVENT:
        case YAML_STREAM_START_EVENT:
          break;
        default:
          good = FALSE;
        }
      yaml_event_delete (&event);
      if (documents > 1)
        return nf_error_malformed (error, origin, "it holds several documents, a configuration is one");
      if (word)
        return nf_error_malformed (
            error, origin, "\"%s\" in the list of arguments has no value: it must be NAME: VALUE", word);
      if (!good)
        {
          g_autofree char *shown = nf_shorten (name ? name : "");
          return nf_error_malformed (error, origin, "it is no list of training arguments%s%s%s",
                                     name ? ", at \"" : "", shown,
                                     name ? "\", which is there twice or not a plain value" : "");
        }
    }
  return TRUE;
}

/* Values */

/* With a sign, without a digit before the point: as official programs read it; but in decimal alone. */
static gboolean
read_decimal (const char *text, double *value)
{
  char *end = NULL;
  if (!*text || text[strspn (text, "0123456789+-.eE")])
    return FALSE;
  *value = g_ascii_strtod (text, &end);
  return !*end && isfinite (*value);
}

static JsonNode *
make_node (const char *text)
{
  JsonNode *node = json_node_new (JSON_NODE_VALUE);
  double value;
  gint64 whole = 0;
  if (g_ascii_string_to_signed (text, 10, G_MININT32, G_MAXINT32, &whole, NULL))
    json_node_set_int (node, whole);
  else if (read_decimal (text, &value))
    json_node_set_double (node, value);
  else if (g_ascii_strcasecmp (text, "true") == 0 || g_ascii_strcasecmp (text, "false") == 0)
    json_node_set_boolean (node, g_ascii_strcasecmp (text, "true") == 0);
  else
    json_node_set_string (node, text);
  return node;
}

static gboolean
is_off (const char *text)
{
  static const char *const off[] = { "", "0", "false", "False", "none", "None", "null", "~", NULL };
  return g_strv_contains (off, text);
}

/* What YAML writes where an option was not given. */
static gboolean
is_null (const char *text)
{
  static const char *const null[] = { "", "null", "Null", "NULL", "~", "None", NULL };
  return g_strv_contains (null, text);
}

static gboolean
read_number (const char *origin, const char *name, const char *text, guint least, guint64 *number,
             GError **error)
{
  if (g_ascii_string_to_unsigned (text, 10, least, G_MAXINT32, number, NULL))
    return TRUE;
  g_autofree char *shown = nf_shorten (text);
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: %s is \"%s\", not a whole number from %u to %d", origin,
               name, shown, least, G_MAXINT32);
  return FALSE;
}

/* "2 2 24", for one block each, or one number for all. */
static gboolean
read_layers (const char *origin, const char *text, JsonObject *object, GError **error)
{
  g_auto (GStrv) parts = g_strsplit_set (text, " ,[]", -1);
  g_autoptr (JsonArray) array = json_array_new ();
  for (char **part = parts; *part; part++)
    {
      guint64 number;
      if (!**part)
        continue;
      if (!read_number (origin, "layers_per_block", *part, 0, &number, error))
        return FALSE;
      json_array_add_int_element (array, (gint64)number);
    }
  const guint n = json_array_get_length (array);
  if (n > 1) /* official training does not look at "blocks" then */
    json_object_set_int_member (object, "num_blocks", n);
  json_object_set_array_member (object, "layers_per_block", g_steal_pointer (&array));
  return TRUE;
}

/* Pictures and videos are measured before the autoencoder, the model's after it. Of an unknown one the shapes
 * must say. */
static gboolean
read_sizes (GHashTable *pairs, const char *origin, JsonObject *object, GError **error)
{
  const char *vae = g_hash_table_lookup (pairs, "vae"), *size = g_hash_table_lookup (pairs, "img_size"),
             *video = g_hash_table_lookup (pairs, "vid_size");
  guint space = vae && !is_off (vae) ? 0 : 1, time = space;
  guint64 number;
  for (guint i = 0; vae && i < G_N_ELEMENTS (autoencoders); i++)
    if (strstr (vae, autoencoders[i].name))
      {
        space = autoencoders[i].space;
        time = autoencoders[i].time;
      }
  if (size && space)
    {
      if (!read_number (origin, "img_size", size, 1, &number, error))
        return FALSE;
      json_object_set_int_member (object, "img_size", (gint64)number / space);
    }
  if (video && !is_off (video) && time)
    {
      g_autofree char *frames = g_strndup (video, strcspn (video, ":"));
      if (!read_number (origin, "vid_size", frames, 1, &number, error))
        return FALSE;
      json_object_set_int_member (object, "frames", (gint64)(number - 1) / time + 1);
    }
  return TRUE;
}

static JsonObject *
make_members (GHashTable *pairs, const char *origin, GError **error)
{
  g_autoptr (JsonObject) object = json_object_new ();
  g_autoptr (GList) names = g_list_sort (g_hash_table_get_keys (pairs), (GCompareFunc)strcmp);
  for (GList *i = names; i; i = i->next)
    {
      const char *name = i->data, *value = g_hash_table_lookup (pairs, name), *target = name;
      for (guint r = 0; r < G_N_ELEMENTS (renamed); r++)
        if (strcmp (name, renamed[r][0]) == 0)
          target = renamed[r][1];
      const gboolean member = target != name || g_strv_contains (kept, name);
      if (member && is_null (value))
        continue;
      if (member)
        json_object_set_member (object, target, make_node (value));
      else if (g_strv_contains (unsupported, name) && !is_off (value))
        {
          g_autofree char *shown = nf_shorten (value);
          g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                       "%s: argument %s is %s: no official network with it can be built, it must be off",
                       origin, name, shown);
          return NULL;
        }
      else if (!g_strv_contains (unsupported, name) && !g_strv_contains (special, name)
               && !g_strv_contains (training, name))
        {
          g_autofree char *shown = nf_shorten (name);
          g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                       "%s: argument \"%s\" is not one of official training", origin, shown);
          return NULL;
        }
    }
  const char *layers = g_hash_table_lookup (pairs, "layers_per_block");
  if ((layers && !read_layers (origin, layers, object, error)) || !read_sizes (pairs, origin, object, error))
    return NULL;
  return g_steal_pointer (&object);
}

JsonObject *
nf_recipe_read (const char *yaml, gsize length, const char *origin, GError **error)
{
  g_autoptr (GHashTable) pairs = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  yaml_parser_t parser;
  if (!yaml_parser_initialize (&parser))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory to read it", origin);
      return NULL;
    }
  yaml_parser_set_input_string (&parser, (const unsigned char *)yaml, length);
  const gboolean read = read_pairs (&parser, pairs, origin, error);
  yaml_parser_delete (&parser);
  if (!read)
    return NULL;
  if (g_hash_table_size (pairs) == 0)
    {
      nf_error_malformed (error, origin, "it holds no training arguments");
      return NULL;
    }
  return make_members (pairs, origin, error);
}
