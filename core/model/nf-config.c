/* normflow: the configuration of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-config.h"
#include "nf-json.h"

#include <string.h>

#define MAX_JSON 65536
#define MAX_FEATURES 4096
#define MAX_TOKENS 65536
#define MAX_PARAMETERS ((guint64)1 << 34)

G_DEFINE_BOXED_TYPE (NfConfig, nf_config, nf_config_copy, nf_config_free)

NfConfig *
nf_config_copy (const NfConfig *config)
{
  return g_memdup2 (config, sizeof *config);
}

void
nf_config_free (NfConfig *config)
{
  g_free (config);
}

/* Names */

static const char *const layout_names[]
    = { [NF_PIXELS_RGB] = "rgb", [NF_PIXELS_GRAY] = "gray", [NF_PIXELS_YUV420] = "yuv420" };
static const char *const noise_names[] = { [NF_NOISE_UNIFORM] = "uniform", [NF_NOISE_GAUSSIAN] = "gaussian" };
static const char *const basis_names[] = { [NF_BASIS_PIXEL] = "pixel", [NF_BASIS_DCT] = "dct" };

static gboolean
find_name (const char *const *names, guint n, const char *name, guint *value)
{
  for (guint i = 0; i < n; i++)
    if (g_strcmp0 (names[i], name) == 0)
      {
        *value = i;
        return TRUE;
      }
  return FALSE;
}

const char *
nf_pixel_layout_name (NfPixelLayout layout)
{
  g_return_val_if_fail ((guint)layout < G_N_ELEMENTS (layout_names), NULL);
  return layout_names[layout];
}

gboolean
nf_pixel_layout_from_name (const char *name, NfPixelLayout *layout)
{
  guint value;
  if (!find_name (layout_names, G_N_ELEMENTS (layout_names), name, &value))
    return FALSE;
  *layout = (NfPixelLayout)value;
  return TRUE;
}

/* Derived sizes */

guint
nf_config_tokens (const NfConfig *config)
{
  const guint side = config->img_size / config->patch_size;
  return side * side;
}

guint
nf_config_features (const NfConfig *config)
{
  const guint square = config->patch_size * config->patch_size;
  return config->layout == NF_PIXELS_YUV420 ? square * 3 / 2 : config->channels * square;
}

guint
nf_config_tile_bytes (const NfConfig *config)
{
  return nf_config_tokens (config) * nf_config_features (config);
}

/* Checking */

static gboolean impossible (GError **error, const char *origin, const char *format, ...) G_GNUC_PRINTF (3, 4);

static gboolean
impossible (GError **error, const char *origin, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: the configuration is impossible: %s", origin, text);
  return FALSE;
}

gboolean
nf_config_check (const NfConfig *config, const char *origin, GError **error)
{
  const struct
  {
    const char *name;
    guint value, low, high;
  } ranges[] = {
    { "in_channels", config->channels, 1, 64 },       { "img_size", config->img_size, 1, 4096 },
    { "patch_size", config->patch_size, 1, 64 },      { "channels", config->width, 1, 16384 },
    { "num_blocks", config->n_blocks, 1, 256 },       { "layers_per_block", config->n_layers, 1, 256 },
    { "num_classes", config->n_classes, 0, 1000000 }, { "head_dim", config->head_dim, 1, 512 },
    { "expansion", config->expansion, 1, 64 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (ranges); i++)
    if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
      return impossible (error, origin, "%s is %u, it must be %u to %u", ranges[i].name, ranges[i].value,
                         ranges[i].low, ranges[i].high);
  if (config->img_size % config->patch_size != 0)
    return impossible (error, origin, "patch_size %u does not divide img_size %u", config->patch_size,
                       config->img_size);
  if (config->width % config->head_dim != 0)
    return impossible (error, origin, "channels (the width) %u is not a multiple of head_dim %u",
                       config->width, config->head_dim);
  if ((guint)config->layout >= G_N_ELEMENTS (layout_names)
      || (guint)config->noise >= G_N_ELEMENTS (noise_names)
      || (guint)config->basis >= G_N_ELEMENTS (basis_names))
    return impossible (error, origin, "pixel_layout, noise_type or basis is not one of ours");
  const guint planes = config->layout == NF_PIXELS_GRAY ? 1 : 3;
  if (config->channels != planes)
    return impossible (error, origin, "in_channels is %u, pixel_layout %s has %u", config->channels,
                       layout_names[config->layout], planes);
  if (config->layout == NF_PIXELS_YUV420 && config->patch_size % 2 != 0)
    return impossible (error, origin, "patch_size %u is odd, pixel_layout yuv420 needs an even one",
                       config->patch_size);
  if (nf_config_features (config) > MAX_FEATURES)
    return impossible (error, origin, "a token has %u features, at most %d are possible",
                       nf_config_features (config), MAX_FEATURES);
  const guint64 side = config->img_size / config->patch_size;
  if (side * side < 2 || side * side > MAX_TOKENS)
    return impossible (error, origin, "an image has %" G_GUINT64_FORMAT " tokens, possible are 2 to %d",
                       side * side, MAX_TOKENS);
  if (!(config->noise_std >= 0 && config->noise_std <= 2))
    return impossible (error, origin, "noise_std is %g, it must be 0 to 2", config->noise_std);

  const guint64 d = config->width, D = nf_config_features (config);
  const guint64 layer = (4 + 2 * (guint64)config->expansion) * d * d;
  const guint64 block = config->n_layers * layer + d * (3 * D + side * side + config->n_classes);
  if (block > MAX_PARAMETERS || block * config->n_blocks > MAX_PARAMETERS)
    return impossible (error, origin, "it has more than %" G_GUINT64_FORMAT " parameters", MAX_PARAMETERS);
  return TRUE;
}

/* JSON */

typedef enum
{
  MEMBER_REQUIRED,
  MEMBER_OPTIONAL,
} Need;

static gboolean
wrong_type (const char *origin, const char *member, const char *wanted, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: configuration member \"%s\" must be %s", origin, member,
               wanted);
  return FALSE;
}

static gboolean
read_size (JsonObject *object, const char *origin, const char *member, Need need, guint *value,
           GError **error)
{
  JsonNode *node = json_object_get_member (object, member);
  if (!node)
    {
      if (need == MEMBER_OPTIONAL)
        return TRUE;
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: the configuration lacks \"%s\"", origin, member);
      return FALSE;
    }
  if (!JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) != G_TYPE_INT64)
    return wrong_type (origin, member, "a whole number", error);
  const gint64 number = json_node_get_int (node);
  if (number < 0 || number > G_MAXINT32)
    return wrong_type (origin, member, "a whole number from 0 to 2147483647", error);
  *value = (guint)number;
  return TRUE;
}

static gboolean
read_boolean (JsonObject *object, const char *origin, const char *member, gboolean *value, GError **error)
{
  JsonNode *node = json_object_get_member (object, member);
  if (!node)
    return TRUE;
  if (JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_BOOLEAN)
    *value = json_node_get_boolean (node);
  else if (JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_INT64
           && (json_node_get_int (node) == 0 || json_node_get_int (node) == 1))
    *value = json_node_get_int (node) == 1;
  else
    return wrong_type (origin, member, "true or false", error);
  return TRUE;
}

static gboolean
read_name (JsonObject *object, const char *origin, const char *member, const char *const *names, guint n,
           guint *value, GError **error)
{
  JsonNode *node = json_object_get_member (object, member);
  if (!node)
    return TRUE;
  if (JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == G_TYPE_STRING
      && find_name (names, n, json_node_get_string (node), value))
    return TRUE;
  g_autoptr (GString) wanted = g_string_new ("one of");
  for (guint i = 0; i < n; i++)
    g_string_append_printf (wanted, "%s \"%s\"", i ? "," : "", names[i]);
  return wrong_type (origin, member, wanted->str, error);
}

/* Members of official STARFlow models, some of which name no family. */
static const char *const starflow_members[]
    = { "txt_size", "txt_dim", "rope", "sos", "use_softplus", "seq_order", "temporal_causal", NULL };

static gboolean
check_members (JsonObject *object, const char *origin, GError **error)
{
  static const char *const known[] = { "family",      "in_channels", "img_size",         "patch_size",
                                       "channels",    "num_blocks",  "layers_per_block", "nvp",
                                       "num_classes", "head_dim",    "expansion",        "pixel_layout",
                                       "basis",       "noise_type",  "noise_std",        NULL };
  for (guint i = 0; starflow_members[i]; i++)
    if (json_object_has_member (object, starflow_members[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                     "%s: configuration member \"%s\" is one of STARFlow; only TARFlow models are supported",
                     origin, starflow_members[i]);
        return FALSE;
      }
  g_autoptr (GList) members = json_object_get_members (object);
  for (GList *i = members; i; i = i->next)
    if (!g_strv_contains (known, i->data))
      {
        g_autofree char *name = nf_json_shorten (i->data);
        g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                     "%s: configuration member \"%s\" is not one of a TARFlow that we know", origin, name);
        return FALSE;
      }
  return TRUE;
}

static gboolean
check_family (JsonObject *object, const char *origin, GError **error)
{
  JsonNode *node = json_object_get_member (object, "family");
  if (!node)
    return TRUE;
  if (!JSON_NODE_HOLDS_VALUE (node) || json_node_get_value_type (node) != G_TYPE_STRING)
    return wrong_type (origin, "family", "\"tarflow\"", error);
  if (strcmp (json_node_get_string (node), "tarflow") == 0)
    return TRUE;
  g_autofree char *family = nf_json_shorten (json_node_get_string (node));
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "%s: models of the family \"%s\" are not supported, only \"tarflow\"", origin, family);
  return FALSE;
}

static gboolean
read_members (JsonObject *object, const char *origin, NfConfig *config, GError **error)
{
  const struct
  {
    const char *member;
    Need need;
    guint *value;
  } sizes[] = {
    { "in_channels", MEMBER_OPTIONAL, &config->channels },
    { "img_size", MEMBER_REQUIRED, &config->img_size },
    { "patch_size", MEMBER_REQUIRED, &config->patch_size },
    { "channels", MEMBER_REQUIRED, &config->width },
    { "num_blocks", MEMBER_REQUIRED, &config->n_blocks },
    { "layers_per_block", MEMBER_REQUIRED, &config->n_layers },
    { "num_classes", MEMBER_OPTIONAL, &config->n_classes },
    { "head_dim", MEMBER_OPTIONAL, &config->head_dim },
    { "expansion", MEMBER_OPTIONAL, &config->expansion },
  };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    if (!read_size (object, origin, sizes[i].member, sizes[i].need, sizes[i].value, error))
      return FALSE;

  guint layout = config->channels == 1 ? NF_PIXELS_GRAY : NF_PIXELS_RGB, noise = NF_NOISE_UNIFORM,
        basis = NF_BASIS_PIXEL;
  if (!read_boolean (object, origin, "nvp", &config->nvp, error)
      || !read_name (object, origin, "pixel_layout", layout_names, G_N_ELEMENTS (layout_names), &layout,
                     error)
      || !read_name (object, origin, "noise_type", noise_names, G_N_ELEMENTS (noise_names), &noise, error)
      || !read_name (object, origin, "basis", basis_names, G_N_ELEMENTS (basis_names), &basis, error))
    return FALSE;
  config->layout = (NfPixelLayout)layout;
  config->noise = (NfNoise)noise;
  config->basis = (NfBasis)basis;

  JsonNode *node = json_object_get_member (object, "noise_std");
  if (node)
    {
      if (!JSON_NODE_HOLDS_VALUE (node)
          || (json_node_get_value_type (node) != G_TYPE_DOUBLE
              && json_node_get_value_type (node) != G_TYPE_INT64))
        return wrong_type (origin, "noise_std", "a number", error);
      config->noise_std = json_node_get_double (node);
    }
  return TRUE;
}

NfConfig *
nf_config_from_json (const char *json, const char *origin, GError **error)
{
  g_return_val_if_fail (json && origin, NULL);
  g_autoptr (JsonParser) parser = json_parser_new_immutable ();
  const gsize length = strlen (json);
  if (length > MAX_JSON)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: a configuration of %" G_GSIZE_FORMAT " bytes is too long, at most %d", origin, length,
                   MAX_JSON);
      return NULL;
    }
  g_autofree char *what = g_strdup_printf ("%s: the configuration", origin);
  JsonObject *object = nf_json_parse_object (parser, json, length, what, error);
  if (!object)
    return NULL;

  g_autoptr (NfConfig) config = g_new0 (NfConfig, 1);
  config->channels = 3;
  config->head_dim = 64;
  config->expansion = 4;
  config->nvp = TRUE;
  if (!check_family (object, origin, error) || !check_members (object, origin, error)
      || !read_members (object, origin, config, error) || !nf_config_check (config, origin, error))
    return NULL;
  return g_steal_pointer (&config);
}

char *
nf_config_to_json (const NfConfig *config)
{
  g_return_val_if_fail (config, NULL);
  char std[G_ASCII_DTOSTR_BUF_SIZE];
  g_ascii_dtostr (std, sizeof std, config->noise_std);
  return g_strdup_printf (
      "{\"family\": \"tarflow\", \"in_channels\": %u, \"img_size\": %u, \"patch_size\": %u, \"channels\": "
      "%u, "
      "\"num_blocks\": %u, \"layers_per_block\": %u, \"nvp\": %s, \"num_classes\": %u, \"head_dim\": %u, "
      "\"expansion\": %u, \"pixel_layout\": \"%s\", \"basis\": \"%s\", \"noise_type\": \"%s\", "
      "\"noise_std\": %s}",
      config->channels, config->img_size, config->patch_size, config->width, config->n_blocks,
      config->n_layers, config->nvp ? "true" : "false", config->n_classes, config->head_dim,
      config->expansion, layout_names[config->layout], basis_names[config->basis], noise_names[config->noise],
      std);
}
