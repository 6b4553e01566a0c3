/* normflow: the configuration that weights belong to. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-checkpoint.h"
#include "nf-json.h"
#include "nf-recipe.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_FILE (1 << 20)
#define OFFICIAL_HEAD_DIM 64
#define OFFICIAL_STARFLOW_NOISE 0.3
#define OFFICIAL_STARFLOW_PATCH 4
#define OFFICIAL_STARFLOW_PLANES 3
#define DENOISER "learnable_self_denoiser"

/* Members found so far, and the names of those that nothing says. */
typedef struct
{
  NfTensorFile *file;
  JsonObject *members;
  GPtrArray *open;   /* of static strings */
  gboolean told;     /* somebody wrote a configuration, in which what is left out has its official default */
  gboolean recipe;   /* ... and it was of official training, whose noise has a default too */
  gboolean misnamed; /* the file's name says a patch that its tokens cannot have */
  guint first, T;    /* the first block that has weights, and one more than the last */
} Config;

/* Tensors */

static const NfTensor *find (const Config *c, const char *format, ...) G_GNUC_PRINTF (2, 3);

static const NfTensor *
find (const Config *c, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *name = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  return nf_tensor_file_lookup (c->file, name);
}

/* Size I of the tensor, 0 if there is none. Larger ones than a configuration can hold are as impossible as
 * the largest. */
static guint
size_of (const NfTensor *tensor, guint i)
{
  return tensor && i < tensor->n_dims ? (guint)MIN (tensor->dims[i], G_MAXINT32) : 0;
}

/* A tensor of the first block that has any: blocks without layers have none. */
static const NfTensor *
find_first (const Config *c, const char *name)
{
  return find (c, "blocks.%u.%s", c->first, name);
}

/* How many of the tensors FORMAT there are, counted from 0; FORMAT has one %u. */
static guint
count (const Config *c, const char *prefix, const char *suffix)
{
  guint n = 0;
  while (find (c, "%s%u%s", prefix, n, suffix))
    n++;
  return n;
}

/* The whole square root, or 0. */
static guint
root_of (guint square)
{
  guint root = 0;
  while ((guint64)(root + 1) * (root + 1) <= square)
    root++;
  return root * root == square ? root : 0;
}

/* Members */

static gboolean
has (const Config *c, const char *name)
{
  return json_object_has_member (c->members, name);
}

/* The member if it is a number that can be a size, else 0. */
static guint
get (const Config *c, const char *name)
{
  JsonNode *node = json_object_get_member (c->members, name);
  const gint64 value = node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_INT64
                           ? json_node_get_int (node)
                           : 0;
  return (guint)CLAMP (value, 0, G_MAXINT32);
}

/* What shapes say counts where nobody said anything. */
static void
say (Config *c, const char *name, guint value)
{
  if (!has (c, name))
    json_object_set_int_member (c->members, name, value);
}

static void
say_if (Config *c, const char *name, gboolean value)
{
  if (!has (c, name))
    json_object_set_boolean_member (c->members, name, value);
}

static void
say_text (Config *c, const char *name, const char *value)
{
  if (!has (c, name))
    json_object_set_string_member (c->members, name, value);
}

/* A value of 0 is not known. */
static void
say_or_ask (Config *c, const char *name, guint value)
{
  if (value)
    say (c, name, value);
  else if (!has (c, name))
    g_ptr_array_add (c->open, (gpointer)name);
}

/* Shapes say nothing of it; who wrote a configuration without it meant the default. */
static void
ask (Config *c, const char *name)
{
  if (!has (c, name) && !c->told)
    g_ptr_array_add (c->open, (gpointer)name);
}

/* What both families share. */

/* OFFICIAL: no other width of heads can be what nobody said. */
static void
say_head_dim (Config *c, gboolean official)
{
  const NfTensor *norm = find_first (c, "attn_blocks.0.attention.query_norm.weight"),
                 *rope = find (c, "feat_rope.freqs_cos");
  say_or_ask (c, "head_dim",
              norm                        ? size_of (norm, 0)
              : rope && size_of (rope, 1) ? size_of (rope, 1)
              : c->told || official       ? OFFICIAL_HEAD_DIM
                                          : 0);
}

static void
say_expansion (Config *c, guint width)
{
  const NfTensor *plain = find_first (c, "attn_blocks.0.mlp.main.0.weight"),
                 *gate = find_first (c, "attn_blocks.0.mlp.gate_proj.weight");
  const guint hidden = size_of (plain ? plain : gate, 0);
  say_or_ask (c, "expansion", width && hidden % width == 0 ? hidden / width : 0);
}

/* Whether somebody said a deviation, which only Gaussian noise has. */
static gboolean
has_deviation (const Config *c)
{
  JsonNode *node = json_object_get_member (c->members, "noise_std");
  return node && JSON_NODE_HOLDS_VALUE (node) && json_node_get_double (node) > 0;
}

/* TARFlow */

/* Official training calls its files DATA_model_p_d_T_K_NOISE.pth, NOISE being "uniform" or a standard
 * deviation. */
typedef struct
{
  char *base;        /* what the rest points into */
  guint p;           /* 0 if it is no such name, or of another model */
  const char *noise; /* what follows the numbers */
} Name;

static void
name_clear (Name *name)
{
  g_free (name->base);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Name, name_clear)

static void
read_name (const Config *c, Name *name)
{
  name->base = g_path_get_basename (nf_tensor_file_get_path (c->file));
  const char *numbers = strstr (name->base, "_model_");
  guint p, d, T, K;
  int end = 0;
  if (!numbers || sscanf (numbers, "_model_%u_%u_%u_%u_%n", &p, &d, &T, &K, &end) != 4 || end == 0
      || d != get (c, "channels") || T != get (c, "num_blocks") || K != get (c, "layers_per_block"))
    return;
  name->p = p;
  name->noise = numbers + end;
}

static gboolean
is_yuv420 (guint64 D, guint64 p)
{
  return p % 2 == 0 && 2 * D == 3 * p * p;
}

/* A token has C p² features, or 3 p²/2 (yuv420, ours). Where neither a configuration nor the name says p, it
 * is one of 3 planes or of 1: no number is both, since 3 is not the square of a fraction. */
static void
say_patch (Config *c, const Name *name, guint D)
{
  const guint C = get (c, "in_channels");
  guint64 p = get (c, "patch_size");
  JsonNode *layout = json_object_get_member (c->members, "pixel_layout");
  if (!p && !C && !layout && name->p)
    {
      p = name->p;
      if (D % (p * p) != 0 && !is_yuv420 (D, p))
        {
          c->misnamed = TRUE;
          return;
        }
      say (c, "patch_size", name->p);
    }
  if (p && !C && D % (p * p) != 0 && is_yuv420 (D, p))
    say_text (c, "pixel_layout", "yuv420");
  if (p || C)
    {
      say (c, "in_channels", p && D % (p * p) == 0 ? (guint)(D / (p * p)) : 3);
      say_or_ask (c, "patch_size", C && D % C == 0 ? root_of (D / C) : 0);
    }
  else if (layout && JSON_NODE_HOLDS_VALUE (layout) && json_node_get_value_type (layout) == G_TYPE_STRING
           && strcmp (json_node_get_string (layout), "yuv420") == 0)
    {
      say (c, "in_channels", 3);
      say_or_ask (c, "patch_size", 2 * (guint64)D % 3 == 0 ? root_of ((guint)(2 * (guint64)D / 3)) : 0);
    }
  else if (D % 3 == 0 && root_of (D / 3))
    {
      say (c, "in_channels", 3);
      say (c, "patch_size", root_of (D / 3));
    }
  else if (root_of (D))
    {
      say (c, "in_channels", 1);
      say (c, "patch_size", root_of (D));
    }
  else
    say_or_ask (c, "patch_size", 0);
}

/* TEXT is behind what a name says of the noise: an ending, or what somebody added. */
static gboolean
ends_name (const char *text)
{
  return !g_ascii_isalnum (*text) && !(*text == '.' && g_ascii_isdigit (text[1]));
}

static void
say_noise (Config *c, const Name *name)
{
  if (has (c, "noise_type") || has_deviation (c) || !name->p)
    return;
  char *behind = NULL;
  const double std = g_ascii_strtod (name->noise, &behind);
  behind -= behind > name->noise && behind[-1] == '.'; /* of an ending */
  const gboolean uniform
      = g_str_has_prefix (name->noise, "uniform") && ends_name (name->noise + strlen ("uniform")),
      gaussian = g_ascii_isdigit (*name->noise) && std <= 2 && ends_name (behind);
  if ((uniform || gaussian) && name->p != get (c, "patch_size"))
    ask (c, "noise_type"); /* of a model that is not quite this one */
  else if (uniform)
    say_text (c, "noise_type", "uniform");
  else if (gaussian)
    {
      say_text (c, "noise_type", "gaussian");
      if (!has (c, "noise_std"))
        json_object_set_double_member (c->members, "noise_std", std);
    }
}

static void
say_tarflow (Config *c)
{
  const NfTensor *in = find_first (c, "proj_in.weight");
  const guint d = size_of (in, 0), D = size_of (in, 1),
              side = root_of (size_of (find_first (c, "pos_embed"), 0));
  g_auto (Name) name = { 0 };

  say_text (c, "family", "tarflow");
  say (c, "channels", d);
  say (c, "num_blocks", count (c, "blocks.", ".proj_in.weight"));
  say (c, "layers_per_block", count (c, "blocks.0.attn_blocks.", ".attention.qkv.weight"));
  read_name (c, &name);
  say_patch (c, &name, D);
  say_or_ask (c, "img_size", MIN (side, 4096) * MIN (get (c, "patch_size"), 4096));
  say (c, "num_classes", size_of (find_first (c, "class_embed"), 0));
  say_if (c, "nvp", size_of (find_first (c, "proj_out.weight"), 0) != D);
  say_head_dim (c, d > 0 && d % OFFICIAL_HEAD_DIM == 0); /* of which the official code has no other */
  say_expansion (c, d);
  say_noise (c, &name);
}

/* STARFlow */

static void
say_layers (Config *c, guint T)
{
  if (has (c, "layers_per_block"))
    return;
  JsonArray *array = json_array_new ();
  for (guint t = 0; t < T; t++)
    {
      g_autofree char *prefix = g_strdup_printf ("blocks.%u.attn_blocks.", t);
      json_array_add_int_element (array, count (c, prefix, ".attention.qkv.weight"));
    }
  json_object_set_array_member (c->members, "layers_per_block", array);
}

/* The buffer "var" has as many rows as positions are scaled to, squared, which are the image tokens of
 * training unless pt_seq_len says otherwise; masks and rotations have one for each text token more. */
static void
say_positions (Config *c, gboolean text)
{
  const guint p = MIN (get (c, "patch_size"), 4096), var = size_of (find (c, "var"), 0),
              learned = size_of (find_first (c, "pos_embed"), 0), side = root_of (learned ? learned : var);
  const NfTensor *mask = find_first (c, "attn_mask"), *rope = find (c, "feat_rope.freqs_cos");
  const guint rotations = size_of (rope, 0), all = mask ? size_of (mask, 0) : rotations;
  const guint64 pt = get (c, "pt_seq_len"), image = mask || !pt ? var : pt * pt;

  say_or_ask (c, "img_size", MIN (side, 4096) * p);
  if (!text)
    say (c, "txt_size", 0);
  else
    say_or_ask (c, "txt_size", image && all > image ? (guint)(all - image) : 0);
  const guint txt = get (c, "txt_size"), scaled = rotations > txt ? root_of (rotations - txt) : 0;
  if (scaled && (var ? scaled != root_of (var) : p && get (c, "img_size") / p != scaled))
    say (c, "pt_seq_len", scaled);
  else if (root_of (var) && p && get (c, "img_size") / p != root_of (var))
    say (c, "pt_seq_len", root_of (var));
  else if (!learned && !var && !rotations)
    ask (c, "pt_seq_len");
}

/* Blocks have one number of heads, unless each has as many as its width holds; where these leave a rest, no
 * num_heads says it, and the configuration's check tells that width. */
static void
say_heads (Config *c, guint d)
{
  const NfTensor *last = find (c, "blocks.%u.attn_blocks.0.attention.proj.weight", c->T - 1);
  const guint dh = get (c, "head_dim"),
              inner = size_of (find_first (c, "attn_blocks.0.attention.proj.weight"), 1),
              rows = size_of (find_first (c, "attn_blocks.0.attention.qkv.weight"), 0),
              top = size_of (last, 1);
  if (dh == 0 || inner % dh != 0 || rows < inner)
    return;
  if (inner == top && (inner != d || top != size_of (last, 0)))
    say (c, "num_heads", inner / dh);
  if (rows != 3 * inner && (rows - inner) % (2 * dh) == 0)
    say (c, "num_kv_heads", (rows - inner) / (2 * dh));
}

static void
say_denoiser (Config *c)
{
  const guint layers = count (c, DENOISER ".attn_blocks.", ".attention.qkv.weight");
  say_if (c, DENOISER, layers > 0);
  if (layers == 0)
    return;
  say (c, "denoiser_layers", layers);
  say_if (c, "conditional_denoiser", find (c, DENOISER ".proj_txt.weight") != NULL);
  ask (c, "denoiser_window");
}

/* Official training adds noise unless it is told otherwise. */
static void
say_official_noise (Config *c)
{
  say_text (c, "noise_type", "gaussian");
  JsonNode *type = json_object_get_member (c->members, "noise_type");
  if (!has (c, "noise_std") && JSON_NODE_HOLDS_VALUE (type)
      && json_node_get_value_type (type) == G_TYPE_STRING
      && g_strcmp0 (json_node_get_string (type), "gaussian") == 0)
    json_object_set_double_member (c->members, "noise_std", OFFICIAL_STARFLOW_NOISE);
}

static void
say_starflow (Config *c)
{
  const guint T = c->T;
  const NfTensor *in = find_first (c, "proj_in.weight"), *top = find (c, "blocks.%u.proj_in.weight", T - 1),
                 *text = find (c, "blocks.%u.proj_txt.weight", T - 1);
  const guint d = size_of (in, 0), D = size_of (in, 1), C = get (c, "in_channels");
  g_autofree char *layer = g_strdup_printf ("blocks.%u.attn_blocks.0", c->first);

  say_text (c, "family", "starflow");
  if (c->recipe && !has (c, "patch_size") && C == 0
      && D == OFFICIAL_STARFLOW_PLANES * OFFICIAL_STARFLOW_PATCH * OFFICIAL_STARFLOW_PATCH)
    say (c, "patch_size", OFFICIAL_STARFLOW_PATCH);
  say_or_ask (c, "patch_size", C && D % C == 0 ? root_of (D / C) : 0);
  const guint64 square = (guint64)get (c, "patch_size") * get (c, "patch_size");
  if (square && D % square == 0)
    say (c, "in_channels", (guint)(D / square));
  say (c, "channels", d);
  say (c, "num_blocks", T);
  say_layers (c, T);
  if (size_of (top, 0) != d)
    say (c, "top_block_channels", size_of (top, 0));
  say_positions (c, text != NULL);
  say (c, "txt_dim", size_of (text, 1));
  say_if (c, "cond_top_only", text && c->first + 1 < T && !find_first (c, "proj_txt.weight"));
  const guint actions = size_of (find (c, "blocks.%u.proj_action.weight", T - 1), 1);
  if (actions)
    say (c, "action_dim", actions);

  say_head_dim (c, FALSE);
  say_heads (c, d);
  say_expansion (c, d);
  say_if (c, "rope", !find_first (c, "pos_embed"));
  say_if (c, "sos", find_first (c, "sos_embed") != NULL);
  say_if (c, "use_final_norm", find_first (c, "final_norm.weight") != NULL);
  say_if (c, "use_qk_norm", find (c, "%s.attention.query_norm.weight", layer) != NULL);
  say_if (c, "use_post_norm", find (c, "%s.attention.post_norm.weight", layer) != NULL);
  say_if (c, "use_bias", find (c, "%s.attention.qkv.bias", layer) != NULL);
  say_if (c, "use_swiglu", find (c, "%s.mlp.gate_proj.weight", layer) != NULL);
  say_text (c, "norm_type",
            find (c, "%s.attention.norm.bias", layer)     ? "layer_norm"
            : find (c, "%s.attention.norm.weight", layer) ? "rms_norm"
                                                          : "none");
  say_denoiser (c);
  if (c->recipe)
    say_official_noise (c);

  ask (c, "use_softplus");
  ask (c, "soft_clip");
  ask (c, "seq_order");
  if (!find_first (c, "pos_embed"))
    ask (c, "hf_style_rope");
  ask (c, "temporal_causal");
  if (get (c, "temporal_causal"))
    {
      ask (c, "shallow_block_local");
      say_or_ask (c, "frames", 0);
    }
}

/* Embedded classes and blocks that preserve volume are of TARFlow alone. */
static gboolean
is_tarflow (const Config *c)
{
  const guint D = size_of (find_first (c, "proj_in.weight"), 1);
  return find_first (c, "class_embed") || (D && size_of (find_first (c, "proj_out.weight"), 0) == D);
}

/* It has tensors or members that no TARFlow has. */
static gboolean
is_starflow (const Config *c)
{
  static const char *const names[]
      = { "sos_embed", "final_norm.weight", "attn_blocks.0.attention.query_norm.weight",
          "attn_blocks.0.attention.post_norm.weight", "attn_blocks.0.mlp.gate_proj.weight" };
  if (nf_config_looks_like_starflow (c->members))
    return TRUE;
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if (find_first (c, names[i]))
      return TRUE;
  return find (c, "feat_rope.freqs_cos") || find (c, DENOISER ".proj_in.weight")
         || !find_first (c, "pos_embed") || find (c, "blocks.%u.proj_txt.weight", c->T - 1);
}

/* Sources */

/* Adds members that are not yet there. */
static void
add_members (Config *c, JsonObject *object)
{
  JsonObjectIter iter;
  const char *name;
  JsonNode *node;
  json_object_iter_init (&iter, object);
  while (json_object_iter_next (&iter, &name, &node))
    if (!has (c, name))
      json_object_set_member (c->members, name, json_node_copy (node));
  c->told = TRUE;
}

static gboolean
add_json (Config *c, const char *json, gsize length, const char *origin, GError **error)
{
  g_autoptr (JsonParser) parser = json_parser_new ();
  g_autofree char *what = g_strdup_printf ("%s: the configuration", origin);
  JsonObject *object = nf_json_parse_object (parser, json, length, what, error);
  if (object)
    add_members (c, object);
  return object != NULL;
}

static gboolean
add_metadata (Config *c, NfTensorFile *file, GError **error)
{
  const char *json = nf_tensor_file_get_metadata (file, "config");
  return json && add_json (c, json, strlen (json), nf_tensor_file_get_path (file), error);
}

/* JSON, YAML, or a file of tensors with a configuration */
static gboolean
add_file (Config *c, const char *path, GError **error)
{
  g_autoptr (GError) local = NULL;
  g_autofree char *text = NULL;
  gsize length;
  GStatBuf status;

  if (g_str_has_suffix (path, ".safetensors"))
    {
      g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
      if (!file)
        return FALSE;
      if (nf_tensor_file_get_metadata (file, "config"))
        return add_metadata (c, file, error);
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: it has no \"config\" in its __metadata__", path);
      return FALSE;
    }
  if (g_stat (path, &status) == 0 && (!S_ISREG (status.st_mode) || status.st_size > MAX_FILE))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   S_ISREG (status.st_mode) ? "%s: it is no configuration, which is a small JSON or YAML file"
                                            : "%s: it is not a regular file, as a configuration is",
                   path);
      return FALSE;
    }
  if (!g_file_get_contents (path, &text, &length, &local))
    {
      g_set_error (error, NF_ERROR,
                   g_error_matches (local, G_FILE_ERROR, G_FILE_ERROR_NOENT) ? NF_ERROR_NOT_FOUND
                                                                             : NF_ERROR_READ,
                   "%s", local->message);
      return FALSE;
    }
  gsize at = nf_json_measure_mark (text, length);
  while (at < length && g_ascii_isspace (text[at]))
    at++;
  if (at < length && text[at] == '{')
    return add_json (c, text + at, length - at, path, error);
  g_autoptr (JsonObject) object = nf_recipe_read (text, length, path, error);
  if (object)
    add_members (c, object);
  c->recipe = object != NULL;
  return object != NULL;
}

char *
nf_checkpoint_find_config (NfTensorFile *file)
{
  static const char *const endings[] = { ".yaml", ".yml", ".json" };
  g_return_val_if_fail (NF_IS_TENSOR_FILE (file), NULL);
  const char *path = nf_tensor_file_get_path (file), *dot = strrchr (path, '.');
  if (nf_tensor_file_get_metadata (file, "config"))
    return g_strdup (path);
  for (guint i = 0; dot && !strchr (dot, G_DIR_SEPARATOR) && i < G_N_ELEMENTS (endings); i++)
    {
      g_autofree char *beside = g_strdup_printf ("%.*s%s", (int)(dot - path), path, endings[i]);
      if (g_file_test (beside, G_FILE_TEST_IS_REGULAR))
        return g_steal_pointer (&beside);
    }
  return NULL;
}

static gboolean
add_setting (Config *c, const char *setting, GError **error)
{
  const char *equals = strchr (setting, '=');
  if (!equals || equals == setting)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "\"%s\" is not NAME=VALUE", setting);
      return FALSE;
    }
  g_autofree char *name = g_strndup (setting, (gsize)(equals - setting));
  g_autofree char *object = g_strdup_printf ("{\"value\": %s}", equals + 1);
  g_autoptr (JsonParser) parser = json_parser_new ();
  JsonObject *parsed = nf_json_parse_object (parser, object, strlen (object), setting, NULL);
  if (parsed && json_object_has_member (parsed, "value") && json_object_get_size (parsed) == 1)
    json_object_set_member (c->members, name, json_node_copy (json_object_get_member (parsed, "value")));
  else
    json_object_set_string_member (c->members, name, equals + 1);
  return TRUE;
}

/* All that somebody said. ORIGIN is where most of it is from. */
static gboolean
add_sources (Config *c, const char *path, const char *const *settings, char **origin, GError **error)
{
  for (guint i = 0; settings && settings[i]; i++)
    if (!add_setting (c, settings[i], error))
      return FALSE;
  const char *weights = nf_tensor_file_get_path (c->file);
  g_autofree char *source = path ? g_strdup (path) : nf_checkpoint_find_config (c->file);
  *origin = g_strdup (source ? source : weights);
  if (!path && g_strcmp0 (source, weights) == 0)
    return add_metadata (c, c->file, error);
  return !source || add_file (c, source, error);
}

/* Official STARFlow arguments have "nvp" without any effect but to be on. */
static void
drop_nvp (Config *c)
{
  JsonNode *nvp = json_object_get_member (c->members, "nvp");
  if (nvp && JSON_NODE_HOLDS_VALUE (nvp)
      && (json_node_get_value_type (nvp) == G_TYPE_INT64 ? json_node_get_int (nvp) == 1
                                                         : json_node_get_boolean (nvp)))
    json_object_remove_member (c->members, "nvp");
}

/* Where there are no weights at all; other files of ours say what they are. */
static void
refuse_other (const Config *c, GError **error)
{
  const char *path = nf_tensor_file_get_path (c->file),
             *format = nf_tensor_file_get_metadata (c->file, "format");
  g_autofree char *kind = format && g_str_has_prefix (format, "normflow") ? nf_shorten (format) : NULL;

  if (kind)
    g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: it is no model but, as it says itself, \"%s\"", path,
                 kind);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                 "%s: it holds no weights of a flow: tensor blocks.0.proj_in.weight is missing", path);
}

/* Which blocks have weights. That one in between has none, only a configuration can mean. */
static gboolean
find_blocks (Config *c, GError **error)
{
  const guint counted = count (c, "blocks.", ".proj_in.weight");
  c->first = NF_MAX_BLOCKS;
  for (guint t = 0; t < NF_MAX_BLOCKS; t++)
    if (find (c, "blocks.%u.proj_in.weight", t))
      {
        c->first = MIN (c->first, t);
        c->T = t + 1;
      }
  if (c->T > 0 && (counted == c->T || has (c, "layers_per_block")))
    return TRUE;
  if (c->T == 0)
    refuse_other (c, error);
  else
    g_set_error (
        error, NF_ERROR, NF_ERROR_CONFIG,
        "%s: tensor blocks.%u.proj_in.weight is missing; if that block has no layers, a layers_per_block "
        "with a 0 must say so (--config, --set)",
        nf_tensor_file_get_path (c->file), counted);
  return FALSE;
}

static gboolean
complete (Config *c, GError **error)
{
  JsonNode *family = json_object_get_member (c->members, "family");
  const gboolean said
      = family && JSON_NODE_HOLDS_VALUE (family) && json_node_get_value_type (family) == G_TYPE_STRING;
  if (!find_blocks (c, error))
    return FALSE;
  if (said ? strcmp (json_node_get_string (family), "starflow") == 0 : !is_tarflow (c) && is_starflow (c))
    {
      drop_nvp (c);
      say_starflow (c);
    }
  else if (c->recipe && !said && !is_tarflow (c)) /* of STARFlow's training, or written for a TARFlow */
    say_or_ask (c, "family", 0);
  else
    say_tarflow (c);
  if (c->misnamed)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_CONFIG,
          "%s: its name says a patch_size that does not divide its tokens of %u features; rename it, or "
          "tell patch_size and noise_type by normflow convert, with --config FILE or --set NAME=VALUE",
          nf_tensor_file_get_path (c->file), size_of (find_first (c, "proj_in.weight"), 1));
      return FALSE;
    }
  if (c->open->len == 0)
    return TRUE;
  g_autoptr (GString) names = g_string_new (NULL);
  for (guint i = 0; i < c->open->len; i++)
    g_string_append_printf (names, "%s%s",
                            i == 0                 ? ""
                            : i + 1 < c->open->len ? ", "
                                                   : " and ",
                            (const char *)c->open->pdata[i]);
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
               "%s: its weights do not say %s; tell them by normflow convert, with --config FILE (the YAML "
               "that it was trained with, or "
               "JSON) or --set NAME=VALUE, or put that file beside it under the same name with the ending "
               ".yaml or .json",
               nf_tensor_file_get_path (c->file), names->str);
  return FALSE;
}

NfConfig *
nf_checkpoint_config (NfTensorFile *file, const char *path, const char *const *settings, GError **error)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (file), NULL);
  g_autoptr (JsonObject) members = json_object_new ();
  g_autoptr (GPtrArray) open = g_ptr_array_new ();
  Config config = { .file = file, .members = members, .open = open };
  g_autofree char *origin = NULL;
  if (!add_sources (&config, path, settings, &origin, error) || !complete (&config, error))
    return NULL;
  if (settings && settings[0])
    {
      g_autofree char *set = g_strjoinv (", ", (char **)settings), *before = g_steal_pointer (&origin);
      origin = g_strdup_printf ("%s with %s", before, set);
    }
  return nf_config_from_object (members, origin, error);
}

gboolean
nf_checkpoint_says_noise (NfTensorFile *file, const char *path, const char *const *settings)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (file), FALSE);
  g_autoptr (JsonObject) members = json_object_new ();
  g_autoptr (GPtrArray) open = g_ptr_array_new ();
  Config config = { .file = file, .members = members, .open = open };
  g_autofree char *origin = NULL;
  return add_sources (&config, path, settings, &origin, NULL) && complete (&config, NULL)
         && (config.told || has (&config, "noise_type") || has_deviation (&config));
}

gboolean
nf_checkpoint_is_idle (const NfConfig *config, const char *name)
{
  g_return_val_if_fail (config && name, FALSE);
  guint t;
  int end = 0;
  if (sscanf (name, "blocks.%u.attn_mask%n", &t, &end) == 1 && end > 0 && name[end] == '\0')
    return t < config->n_blocks;
  return config->family == NF_FAMILY_STARFLOW
         && (strcmp (name, "feat_rope.freqs_cos") == 0 || strcmp (name, "feat_rope.freqs_sin") == 0);
}
