/* normflow: the configuration of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-config.h"
#include "nf-json.h"

#include <string.h>

#define MAX_JSON 65536
#define OFFICIAL_DENOISER_LAYERS 8
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

static const char *const layout_names[] = { [NF_PIXELS_RGB] = "rgb",
                                            [NF_PIXELS_GRAY] = "gray",
                                            [NF_PIXELS_YUV420] = "yuv420",
                                            [NF_PIXELS_LATENT] = "latent" };
static const char *const noise_names[] = { [NF_NOISE_UNIFORM] = "uniform", [NF_NOISE_GAUSSIAN] = "gaussian" };
static const char *const family_names[]
    = { [NF_FAMILY_TARFLOW] = "tarflow", [NF_FAMILY_STARFLOW] = "starflow" };
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
nf_config_rows (const NfConfig *config)
{
  return config->rows ? config->rows : config->img_size;
}

guint
nf_config_columns (const NfConfig *config)
{
  return config->columns ? config->columns : config->img_size;
}

guint
nf_config_tokens (const NfConfig *config)
{
  return nf_config_rows (config) / config->patch_size * (nf_config_columns (config) / config->patch_size);
}

guint
nf_config_frames (const NfConfig *config)
{
  return MAX (config->frames, 1);
}

gboolean
nf_config_lists_layers (const NfConfig *config)
{
  /* equal ones are said by one number, in whichever way they were given */
  for (guint t = 1; t < config->n_blocks; t++)
    if (nf_config_layers (config, t) != nf_config_layers (config, 0))
      return TRUE;
  return FALSE;
}

guint
nf_config_layers (const NfConfig *config, guint t)
{
  return config->layers[t] ? config->layers[t] : config->n_layers;
}

gboolean
nf_config_is_identity (const NfConfig *config, guint t)
{
  return nf_config_layers (config, t) == 0;
}

guint
nf_config_width (const NfConfig *config, guint t)
{
  return t + 1 == config->n_blocks && config->top_width ? config->top_width : config->width;
}

gboolean
nf_config_has_text (const NfConfig *config, guint t)
{
  return config->txt_size > 0 && (t + 1 == config->n_blocks || !config->cond_top_only);
}

gboolean
nf_config_is_noisy (const NfConfig *config)
{
  g_return_val_if_fail (config, FALSE);
  return config->noise == NF_NOISE_GAUSSIAN && config->noise_std > 0;
}

guint
nf_config_classes (const NfConfig *config)
{
  return config->txt_size == 1 ? config->txt_dim : config->n_classes;
}

gboolean
nf_config_check_class (const NfConfig *config, gint label, GError **error)
{
  const gint classes = (gint)nf_config_classes (config);
  if (label >= -1 && label < classes)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "class %d is out of range: the model has %d classes (-1 is none)", label, classes);
  return FALSE;
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

/* Sizes that the kernels and the memory can hold. */
static gboolean
check_ranges (const NfConfig *config, const char *origin, GError **error)
{
  if (config->n_blocks < 1 || config->n_blocks > NF_MAX_BLOCKS)
    return impossible (error, origin, "num_blocks is %u, it must be 1 to %d", config->n_blocks,
                       NF_MAX_BLOCKS);
  const struct
  {
    const char *name;
    guint value, low, high;
  } ranges[] = {
    { "in_channels", config->channels, 1, 64 },
    { "img_size", config->img_size, 1, 4096 },
    { "patch_size", config->patch_size, 1, 64 },
    { "channels", config->width, 1, 16384 },
    { "layers_per_block", config->n_layers, 0, 256 },
    { "num_classes", config->n_classes, 0, 1000000 },
    { "head_dim", config->head_dim, 1, 512 },
    { "expansion", config->expansion, 1, 64 },
    { "top_block_channels", config->top_width, 0, 16384 },
    { "num_heads", config->n_heads, 0, 1024 },
    { "num_kv_heads", config->n_kv_heads, 0, 1024 },
    { "txt_size", config->txt_size, 0, 4096 },
    { "txt_dim", config->txt_dim, 0, 65536 },
    { "pt_seq_len", config->pt_seq_len, 0, 4096 },
    { "temporal_causal", config->temporal_causal, 0, 64 },
    { "denoiser_layers", config->denoiser_layers, 0, 256 },
    { "denoiser_window", config->denoiser_frames, 0, 65536 },
    { "hw", nf_config_rows (config), 1, 4096 },
    { "hw", nf_config_columns (config), 1, 4096 },
    { "frames", config->frames, 0, 65536 },
    { "action_dim", config->action_dim, 0, 65536 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (ranges); i++)
    if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
      return impossible (error, origin, "%s is %u, it must be %u to %u", ranges[i].name, ranges[i].value,
                         ranges[i].low, ranges[i].high);
  for (guint t = 0; t < config->n_blocks; t++)
    {
      const guint layers = nf_config_layers (config, t);
      if (layers > 256)
        return impossible (error, origin, "layers_per_block is %u for block %u, it must be 0 to 256", layers,
                           t);
      if (layers == 0 && (config->family == NF_FAMILY_TARFLOW || t + 1 == config->n_blocks))
        return impossible (
            error, origin,
            "layers_per_block is 0 for block %u: only blocks of a STARFlow before its last one "
            "can be left out",
            t);
    }
  return TRUE;
}

/* What pixels and tokens are made of. */
static gboolean
check_tokens (const NfConfig *config, const char *origin, GError **error)
{
  const guint p = config->patch_size;
  if (config->img_size % p != 0)
    return impossible (error, origin, "patch_size %u does not divide img_size %u", p, config->img_size);
  if (nf_config_rows (config) % p != 0 || nf_config_columns (config) % p != 0)
    return impossible (error, origin, "patch_size %u does not divide hw [%u, %u]", p, nf_config_rows (config),
                       nf_config_columns (config));
  if ((guint)config->family >= G_N_ELEMENTS (family_names)
      || (guint)config->layout >= G_N_ELEMENTS (layout_names)
      || (guint)config->noise >= G_N_ELEMENTS (noise_names)
      || (guint)config->basis >= G_N_ELEMENTS (basis_names))
    return impossible (error, origin, "family, pixel_layout, noise_type or basis is not one of ours");
  const guint planes = config->layout == NF_PIXELS_GRAY ? 1 : 3;
  if (config->layout != NF_PIXELS_LATENT && config->channels != planes)
    return impossible (error, origin, "in_channels is %u, pixel_layout %s has %u", config->channels,
                       layout_names[config->layout], planes);
  if (config->layout == NF_PIXELS_YUV420 && p % 2 != 0)
    return impossible (error, origin, "patch_size %u is odd, pixel_layout yuv420 needs an even one", p);
  if (nf_config_features (config) > MAX_FEATURES)
    return impossible (error, origin, "a token has %u features, at most %d are possible",
                       nf_config_features (config), MAX_FEATURES);
  const guint64 tokens = (guint64)nf_config_tokens (config) * nf_config_frames (config);
  if (tokens < 1 || tokens > MAX_TOKENS)
    return impossible (error, origin, "a sample has %" G_GUINT64_FORMAT " tokens, possible are 1 to %d",
                       tokens, MAX_TOKENS);
  if (!(config->noise_std >= 0 && config->noise_std <= 2))
    return impossible (error, origin, "noise_std is %g, it must be 0 to 2", config->noise_std);
  if (!(config->max_log_scale >= 0 && config->max_log_scale <= 80))
    return impossible (error, origin, "max_log_scale is %g, it must be 0 to 80", config->max_log_scale);
  if (config->max_log_scale > 0 && config->family != NF_FAMILY_TARFLOW)
    return impossible (error, origin, "max_log_scale is of TARFlow alone");
  return TRUE;
}

/* Heads of block t's width. */
static gboolean
check_heads (const NfConfig *config, const char *origin, guint width, GError **error)
{
  if (!config->n_heads && width % config->head_dim != 0)
    return impossible (error, origin, "channels (the width) %u is not a multiple of head_dim %u", width,
                       config->head_dim);
  const guint heads = config->n_heads ? config->n_heads : width / config->head_dim;
  if (config->n_kv_heads && heads % config->n_kv_heads != 0)
    return impossible (error, origin, "num_kv_heads %u does not divide the %u heads of width %u",
                       config->n_kv_heads, heads, width);
  return TRUE;
}

static gboolean
check_starflow (const NfConfig *config, const char *origin, GError **error)
{
  if (config->n_classes)
    return impossible (error, origin,
                       "num_classes is %u; classes of a STARFlow are text of one one-hot token "
                       "(txt_size 1, txt_dim the number of classes)",
                       config->n_classes);
  if (!config->nvp)
    return impossible (error, origin, "nvp is false, a STARFlow always scales");
  if (config->txt_size && !config->txt_dim)
    return impossible (error, origin, "txt_size is %u, but txt_dim is 0", config->txt_size);
  if (config->txt_dim && !config->txt_size)
    return impossible (error, origin, "txt_dim is %u, but txt_size is 0", config->txt_dim);
  if (!(config->soft_clip >= 0 && config->soft_clip <= 1000))
    return impossible (error, origin, "soft_clip is %g, it must be 0 to 1000", config->soft_clip);
  if (config->rope && config->head_dim % 2 != 0)
    return impossible (error, origin, "head_dim %u is odd, rope turns pairs of features", config->head_dim);
  const gboolean third = config->txt_size || config->frames;
  if (config->rope && (config->head_dim % 4 != 0 || (third && config->head_dim < 16)))
    return impossible (error, origin,
                       "head_dim %u cannot be shared by the %s of rope; it must be a multiple of 4%s",
                       config->head_dim, third ? "three axes" : "two axes", third ? ", at least 16" : "");
  if (!config->rope && (config->half_split_rope || config->rope_1d))
    return impossible (error, origin, "hf_style_rope or rope_1d is set, but rope is false");
  if (!config->rope && config->frames)
    return impossible (error, origin,
                       "a video model without rope is not supported: it has no positions in time");
  if (config->frames && !config->temporal_causal && config->shallow_local
      && (config->n_blocks - 1 + (config->left_to_right ? 1 : 0)) % 2 == 1)
    return impossible (
        error, origin,
        "shallow_block_local with temporal_causal 0 is not supported where the last block runs "
        "backwards: others turn frames around, it the whole video; with seq_order %s it does not",
        config->left_to_right ? "R2L" : "L2R");
  if (config->action_dim
      && !(config->frames && config->temporal_causal && config->shallow_local && config->sos))
    return impossible (error, origin,
                       "action_dim is %u: actions need a video model with a start token (frames, "
                       "temporal_causal, shallow_block_local, sos)",
                       config->action_dim);
  if (config->controls && !config->action_dim)
    return impossible (error, origin, "controls is set, but action_dim, how many there are, is 0");
  if (config->frame_positions && !(config->frames && config->temporal_causal && config->shallow_local))
    return impossible (
        error, origin,
        "frame_positions is set: it is of video models whose deep block sees frame after frame "
        "(frames, temporal_causal, shallow_block_local)");
  return TRUE;
}

/* What one sample has, in the widest layer and of actions, are numbers that fit into the ints of kernels. */
static gboolean
check_sample (const NfConfig *config, const char *origin, GError **error)
{
  const guint64 frames = nf_config_frames (config),
                rows = config->txt_size + frames * (nf_config_tokens (config) + (config->action_dim ? 1 : 0));
  for (guint t = 0; t < config->n_blocks; t++)
    {
      const guint64 d = nf_config_width (config, t),
                    H = config->n_heads ? config->n_heads : d / config->head_dim,
                    Hkv = config->n_kv_heads ? config->n_kv_heads : H, qkv = (H + 2 * Hkv) * config->head_dim,
                    row = MAX (qkv, config->expansion * d);
      if (rows * row > G_MAXINT32)
        return impossible (error, origin,
                           "%" G_GUINT64_FORMAT " tokens of a sample, with %" G_GUINT64_FORMAT
                           " values each where channels (the width) is %" G_GUINT64_FORMAT
                           ", are more than %d values",
                           rows, row, d, G_MAXINT32);
    }
  if (frames * config->action_dim > G_MAXINT32)
    return impossible (error, origin,
                       "%" G_GUINT64_FORMAT " frames, with action_dim %u, have more than %d values", frames,
                       config->action_dim, G_MAXINT32);
  return TRUE;
}

gboolean
nf_config_check (const NfConfig *config, const char *origin, GError **error)
{
  if (!check_ranges (config, origin, error) || !check_tokens (config, origin, error)
      || !check_heads (config, origin, config->width, error)
      || (config->top_width && !check_heads (config, origin, config->top_width, error))
      || (config->family == NF_FAMILY_STARFLOW && !check_starflow (config, origin, error)))
    return FALSE;

  const guint64 D = nf_config_features (config), N = nf_config_tokens (config);
  guint64 all = 0;
  for (guint t = 0; t < config->n_blocks; t++)
    {
      const guint64 d = nf_config_width (config, t);
      const guint64 layer = (4 + 2 * (guint64)config->expansion) * d * d;
      const guint64 block = nf_config_layers (config, t) * layer + d * (3 * D + N + config->n_classes);
      all += block;
      if (block > MAX_PARAMETERS || all > MAX_PARAMETERS)
        return impossible (error, origin, "it has more than %" G_GUINT64_FORMAT " parameters",
                           MAX_PARAMETERS);
    }
  return check_sample (config, origin, error);
}

/* JSON */

/* What kind of value a member has, and where it goes. */
typedef enum
{
  MEMBER_SIZE,
  MEMBER_BOOLEAN,
  MEMBER_NUMBER,
} MemberKind;

typedef struct
{
  const char *name;
  MemberKind kind;
  gsize offset;
  enum
  {
    OF_BOTH,
    OF_TARFLOW,
    OF_STARFLOW,
  } family;
  gboolean required;
  gboolean inverted; /* a boolean that says the opposite of ours */
} Member;

#define MEMBER(name, kind, field, ...)                                                                       \
  {                                                                                                          \
    name, kind, G_STRUCT_OFFSET (NfConfig, field), __VA_ARGS__                                               \
  }

/* In the order in which they are written; members that need more than a value are read and written by hand.
 */
static const Member members[] = {
  MEMBER ("in_channels", MEMBER_SIZE, channels, OF_BOTH),
  MEMBER ("img_size", MEMBER_SIZE, img_size, OF_BOTH, TRUE),
  MEMBER ("patch_size", MEMBER_SIZE, patch_size, OF_BOTH, TRUE),
  MEMBER ("channels", MEMBER_SIZE, width, OF_BOTH, TRUE),
  MEMBER ("num_blocks", MEMBER_SIZE, n_blocks, OF_BOTH, TRUE),
  MEMBER ("nvp", MEMBER_BOOLEAN, nvp, OF_TARFLOW),
  MEMBER ("max_log_scale", MEMBER_NUMBER, max_log_scale, OF_TARFLOW),
  MEMBER ("num_classes", MEMBER_SIZE, n_classes, OF_TARFLOW),
  MEMBER ("head_dim", MEMBER_SIZE, head_dim, OF_BOTH),
  MEMBER ("expansion", MEMBER_SIZE, expansion, OF_BOTH),
  MEMBER ("top_block_channels", MEMBER_SIZE, top_width, OF_STARFLOW),
  MEMBER ("num_heads", MEMBER_SIZE, n_heads, OF_STARFLOW),
  MEMBER ("num_kv_heads", MEMBER_SIZE, n_kv_heads, OF_STARFLOW),
  MEMBER ("txt_size", MEMBER_SIZE, txt_size, OF_STARFLOW),
  MEMBER ("txt_dim", MEMBER_SIZE, txt_dim, OF_STARFLOW),
  MEMBER ("pt_seq_len", MEMBER_SIZE, pt_seq_len, OF_STARFLOW),
  MEMBER ("rope", MEMBER_BOOLEAN, rope, OF_STARFLOW),
  MEMBER ("hf_style_rope", MEMBER_BOOLEAN, half_split_rope, OF_STARFLOW),
  MEMBER ("rope_1d", MEMBER_BOOLEAN, rope_1d, OF_STARFLOW),
  MEMBER ("frame_positions", MEMBER_BOOLEAN, frame_positions, OF_STARFLOW),
  MEMBER ("sos", MEMBER_BOOLEAN, sos, OF_STARFLOW),
  MEMBER ("use_softplus", MEMBER_BOOLEAN, softplus, OF_STARFLOW),
  MEMBER ("soft_clip", MEMBER_NUMBER, soft_clip, OF_STARFLOW),
  MEMBER ("use_final_norm", MEMBER_BOOLEAN, final_norm, OF_STARFLOW),
  MEMBER ("use_qk_norm", MEMBER_BOOLEAN, qk_norm, OF_STARFLOW),
  MEMBER ("use_post_norm", MEMBER_BOOLEAN, post_norm, OF_STARFLOW),
  MEMBER ("use_bias", MEMBER_BOOLEAN, no_bias, OF_STARFLOW, FALSE, TRUE),
  MEMBER ("use_swiglu", MEMBER_BOOLEAN, gated, OF_STARFLOW),
  MEMBER ("cond_top_only", MEMBER_BOOLEAN, cond_top_only, OF_STARFLOW),
  MEMBER ("temporal_causal", MEMBER_SIZE, temporal_causal, OF_STARFLOW),
  MEMBER ("shallow_block_local", MEMBER_BOOLEAN, shallow_local, OF_STARFLOW),
  MEMBER ("conditional_denoiser", MEMBER_BOOLEAN, denoiser_text, OF_STARFLOW),
  MEMBER ("frames", MEMBER_SIZE, frames, OF_STARFLOW),
  MEMBER ("action_dim", MEMBER_SIZE, action_dim, OF_STARFLOW),
  MEMBER ("controls", MEMBER_BOOLEAN, controls, OF_STARFLOW),
  MEMBER ("noise_std", MEMBER_NUMBER, noise_std, OF_BOTH),
};

static const char *const by_hand[]
    = { "family", "layers_per_block", "pixel_layout", "basis", "noise_type", NULL };
static const char *const by_hand_starflow[]
    = { "norm_type",       "seq_order", "learnable_self_denoiser", "denoiser_layers",
        "denoiser_window", "hw",        "local_attn_window",       NULL };

/* Of the official constructor, without effect on what is computed: how it trains, and what no block reads. */
static const char *const ignored[]
    = { "use_checkpoint", "use_checkpoint_mlp", "use_mm_attn", "noise_embed_denoiser", NULL };

/* Of the official constructor, which would change the network, but with which none can be built. */
static const char *const unsupported[] = { "use_pretrained_lm", "use_adaln", NULL };

static gboolean
is_of (const Member *member, NfFamily family)
{
  return member->family == OF_BOTH || (member->family == OF_TARFLOW) == (family == NF_FAMILY_TARFLOW);
}

static gboolean
wrong_type (const char *origin, const char *member, const char *wanted, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: configuration member \"%s\" must be %s", origin, member,
               wanted);
  return FALSE;
}

static gboolean
holds (JsonNode *node, GType type)
{
  return JSON_NODE_HOLDS_VALUE (node) && json_node_get_value_type (node) == type;
}

static gboolean
read_size (JsonNode *node, const char *origin, const char *member, guint *value, GError **error)
{
  const gint64 number = holds (node, G_TYPE_INT64) ? json_node_get_int (node) : -1;
  if (number < 0 || number > G_MAXINT32)
    return wrong_type (origin, member, "a whole number from 0 to 2147483647", error);
  *value = (guint)number;
  return TRUE;
}

static gboolean
read_boolean (JsonNode *node, const char *origin, const char *member, gboolean *value, GError **error)
{
  if (holds (node, G_TYPE_BOOLEAN))
    *value = json_node_get_boolean (node);
  else if (holds (node, G_TYPE_INT64) && (json_node_get_int (node) == 0 || json_node_get_int (node) == 1))
    *value = json_node_get_int (node) == 1;
  else
    return wrong_type (origin, member, "true or false", error);
  return TRUE;
}

static gboolean
read_member (JsonObject *object, const char *origin, const Member *member, NfConfig *config, GError **error)
{
  JsonNode *node = json_object_get_member (object, member->name);
  gpointer field = (guint8 *)config + member->offset;
  if (!node && member->required)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: the configuration lacks \"%s\"", origin,
                   member->name);
      return FALSE;
    }
  /* the official default of many is None */
  if (!node || (!member->required && JSON_NODE_HOLDS_NULL (node)))
    return TRUE;
  switch (member->kind)
    {
    case MEMBER_SIZE:
      return read_size (node, origin, member->name, field, error);
    case MEMBER_BOOLEAN:
      {
        gboolean value = FALSE;
        if (!read_boolean (node, origin, member->name, &value, error))
          return FALSE;
        *(gboolean *)field = member->inverted ? !value : value;
        return TRUE;
      }
    case MEMBER_NUMBER:
      if (!holds (node, G_TYPE_DOUBLE) && !holds (node, G_TYPE_INT64))
        return wrong_type (origin, member->name, "a number", error);
      *(double *)field = json_node_get_double (node);
      /* 0 has a meaning of its own */
      if (*(double *)field != 0 && (float)*(double *)field == 0)
        return wrong_type (origin, member->name, "0 or a number that a float can hold", error);
      return TRUE;
    }
  g_return_val_if_reached (FALSE);
}

static gboolean
read_name (JsonObject *object, const char *origin, const char *member, const char *const *names, guint n,
           guint *value, GError **error)
{
  JsonNode *node = json_object_get_member (object, member);
  if (!node || (holds (node, G_TYPE_STRING) && find_name (names, n, json_node_get_string (node), value)))
    return TRUE;
  g_autoptr (GString) wanted = g_string_new ("one of");
  for (guint i = 0; i < n; i++)
    g_string_append_printf (wanted, "%s \"%s\"", i ? "," : "", names[i]);
  return wrong_type (origin, member, wanted->str, error);
}

/* A list of whole numbers; N must be its length, or one. */
static gboolean
read_list (JsonNode *node, const char *origin, const char *member, guint n, guint *values, GError **error)
{
  JsonArray *array = JSON_NODE_HOLDS_ARRAY (node) ? json_node_get_array (node) : NULL;
  const guint length = array ? json_array_get_length (array) : 0;
  if (!array || (length != n && length != 1))
    {
      g_autofree char *wanted = g_strdup_printf ("a list of %u whole numbers", n);
      return wrong_type (origin, member, wanted, error);
    }
  for (guint i = 0; i < n; i++)
    if (!read_size (json_array_get_element (array, length == 1 ? 0 : i), origin, member, &values[i], error))
      return FALSE;
  return TRUE;
}

static gboolean
read_layers (JsonObject *object, const char *origin, NfConfig *config, GError **error)
{
  JsonNode *node = json_object_get_member (object, "layers_per_block");
  if (!node)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: the configuration lacks \"layers_per_block\"",
                   origin);
      return FALSE;
    }
  if (!JSON_NODE_HOLDS_ARRAY (node))
    return read_size (node, origin, "layers_per_block", &config->n_layers, error);
  if (config->n_blocks < 1 || config->n_blocks > NF_MAX_BLOCKS)
    return nf_config_check (config, origin, error);
  if (!read_list (node, origin, "layers_per_block", config->n_blocks, config->layers, error))
    return FALSE;
  /* one number says it if they are equal; it stands for no other where there is a 0 */
  config->n_layers = config->layers[0];
  gboolean equal = TRUE;
  for (guint t = 1; t < config->n_blocks; t++)
    {
      equal = equal && config->layers[t] == config->layers[0];
      config->n_layers = config->layers[t] ? config->n_layers : 0;
    }
  if (equal)
    memset (config->layers, 0, sizeof config->layers);
  return TRUE;
}

static gboolean
is_off (JsonNode *node)
{
  return JSON_NODE_HOLDS_NULL (node) || (holds (node, G_TYPE_BOOLEAN) && !json_node_get_boolean (node))
         || (holds (node, G_TYPE_INT64) && json_node_get_int (node) == 0);
}

static gboolean
check_members (JsonObject *object, const char *origin, NfFamily family, GError **error)
{
  g_autoptr (GList) names = json_object_get_members (object);
  for (GList *i = names; i; i = i->next)
    {
      const char *name = i->data;
      gboolean known = g_strv_contains (by_hand, name);
      if (family == NF_FAMILY_STARFLOW)
        known = known || g_strv_contains (by_hand_starflow, name) || g_strv_contains (ignored, name)
                || (g_strv_contains (unsupported, name) && is_off (json_object_get_member (object, name)));
      for (guint m = 0; m < G_N_ELEMENTS (members) && !known; m++)
        known = strcmp (members[m].name, name) == 0 && is_of (&members[m], family);
      if (known)
        continue;
      g_autofree char *shortened = nf_shorten (name);
      if (family == NF_FAMILY_STARFLOW && g_strv_contains (unsupported, name))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                       "%s: configuration member \"%s\" is set: no official network with it can be built, it "
                       "must be off",
                       origin, name);
          return FALSE;
        }
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: configuration member \"%s\" is not one of a %s that we know", origin, shortened,
                   family == NF_FAMILY_STARFLOW ? "STARFlow" : "TARFlow");
      return FALSE;
    }
  return TRUE;
}

/* Constructors name no family. */
gboolean
nf_config_looks_like_starflow (JsonObject *object)
{
  static const char *const telling[]
      = { "txt_size", "txt_dim", "rope", "sos", "use_softplus", "seq_order", "temporal_causal", NULL };
  for (guint i = 0; telling[i]; i++)
    if (json_object_has_member (object, telling[i]))
      return TRUE;
  return FALSE;
}

static gboolean
read_family (JsonObject *object, const char *origin, NfFamily *family, GError **error)
{
  JsonNode *node = json_object_get_member (object, "family");
  guint value = nf_config_looks_like_starflow (object) ? NF_FAMILY_STARFLOW : NF_FAMILY_TARFLOW;
  if (node && !holds (node, G_TYPE_STRING))
    return wrong_type (origin, "family", "\"tarflow\" or \"starflow\"", error);
  if (node && !find_name (family_names, G_N_ELEMENTS (family_names), json_node_get_string (node), &value))
    {
      g_autofree char *name = nf_shorten (json_node_get_string (node));
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: models of the family \"%s\" are not supported, only \"tarflow\" and \"starflow\"",
                   origin, name);
      return FALSE;
    }
  *family = (NfFamily)value;
  return TRUE;
}

static gboolean
read_starflow (JsonObject *object, const char *origin, NfConfig *config, GError **error)
{
  static const char *const norms[] = { "layer_norm", "rms_norm" }, *const orders[] = { "R2L", "L2R" };
  guint norm = 0, order = 0, hw[2] = { 0, 0 };
  gboolean denoiser = FALSE;
  JsonNode *node;
  if (!read_name (object, origin, "norm_type", norms, G_N_ELEMENTS (norms), &norm, error)
      || !read_name (object, origin, "seq_order", orders, G_N_ELEMENTS (orders), &order, error))
    return FALSE;
  config->rms_norm = norm == 1;
  config->left_to_right = order == 1;

  if ((node = json_object_get_member (object, "hw")) && !JSON_NODE_HOLDS_NULL (node))
    {
      if (!read_list (node, origin, "hw", 2, hw, error))
        return FALSE;
      config->rows = hw[0] == config->img_size && hw[1] == config->img_size ? 0 : hw[0];
      config->columns = config->rows || hw[1] != config->img_size ? hw[1] : 0;
    }
  if ((node = json_object_get_member (object, "learnable_self_denoiser")) && !JSON_NODE_HOLDS_NULL (node)
      && !read_boolean (node, origin, "learnable_self_denoiser", &denoiser, error))
    return FALSE;
  /* in official code it bounds what decoding remembers; within it all frames are seen */
  guint window = 0;
  if ((node = json_object_get_member (object, "local_attn_window")) && !JSON_NODE_HOLDS_NULL (node)
      && !read_size (node, origin, "local_attn_window", &window, error))
    return FALSE;
  if (window && window < config->frames)
    return impossible (
        error, origin,
        "local_attn_window is %u, less than the %u frames of a sample: frames should be at most "
        "the window, longer videos are streams",
        window, config->frames);
  config->denoiser_layers = denoiser ? OFFICIAL_DENOISER_LAYERS : 0;
  if ((node = json_object_get_member (object, "denoiser_layers"))
      && !read_size (node, origin, "denoiser_layers", &config->denoiser_layers, error))
    return FALSE;
  if (config->denoiser_layers && !denoiser)
    return impossible (error, origin,
                       "denoiser_layers is %u, but learnable_self_denoiser is not true: there is no denoiser "
                       "without it",
                       config->denoiser_layers);
  /* in official code None is all of them, and 0 the last alone */
  if ((node = json_object_get_member (object, "denoiser_window")) && !JSON_NODE_HOLDS_NULL (node))
    {
      if (!read_size (node, origin, "denoiser_window", &config->denoiser_frames, error))
        return FALSE;
      config->denoiser_frames++;
    }
  /* the official default of a top block is the width of the others */
  if (config->top_width == config->width)
    config->top_width = 0;
  return TRUE;
}

static gboolean
read_members (JsonObject *object, const char *origin, NfConfig *config, GError **error)
{
  for (guint i = 0; i < G_N_ELEMENTS (members); i++)
    if (is_of (&members[i], config->family) && !read_member (object, origin, &members[i], config, error))
      return FALSE;
  if (!read_layers (object, origin, config, error)
      || (config->family == NF_FAMILY_STARFLOW && !read_starflow (object, origin, config, error)))
    return FALSE;

  guint layout = config->channels == 1   ? NF_PIXELS_GRAY
                 : config->channels == 3 ? NF_PIXELS_RGB
                                         : NF_PIXELS_LATENT,
        basis = NF_BASIS_PIXEL;
  /* who says a deviation means the only noise that has one */
  guint noise = config->noise_std > 0 ? NF_NOISE_GAUSSIAN : NF_NOISE_UNIFORM;
  if (!read_name (object, origin, "pixel_layout", layout_names, G_N_ELEMENTS (layout_names), &layout, error)
      || !read_name (object, origin, "noise_type", noise_names, G_N_ELEMENTS (noise_names), &noise, error)
      || !read_name (object, origin, "basis", basis_names, G_N_ELEMENTS (basis_names), &basis, error))
    return FALSE;
  config->layout = (NfPixelLayout)layout;
  config->noise = (NfNoise)noise;
  config->basis = (NfBasis)basis;
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
  return object ? nf_config_from_object (object, origin, error) : NULL;
}

NfConfig *
nf_config_from_object (JsonObject *object, const char *origin, GError **error)
{
  g_autoptr (NfConfig) config = g_new0 (NfConfig, 1);
  config->channels = 3;
  config->head_dim = 64;
  config->expansion = 4;
  config->nvp = TRUE;
  if (!read_family (object, origin, &config->family, error)
      || !check_members (object, origin, config->family, error)
      || !read_members (object, origin, config, error) || !nf_config_check (config, origin, error))
    return NULL;
  return g_steal_pointer (&config);
}

static void
write_starflow (GString *json, const NfConfig *config)
{
  g_string_append_printf (json, ", \"norm_type\": \"%s\", \"seq_order\": \"%s\"",
                          config->rms_norm ? "rms_norm" : "layer_norm",
                          config->left_to_right ? "L2R" : "R2L");
  g_string_append_printf (json, ", \"hw\": [%u, %u]", nf_config_rows (config), nf_config_columns (config));
  g_string_append_printf (json, ", \"learnable_self_denoiser\": %s",
                          config->denoiser_layers ? "true" : "false");
  if (config->denoiser_layers && config->denoiser_layers != OFFICIAL_DENOISER_LAYERS)
    g_string_append_printf (json, ", \"denoiser_layers\": %u", config->denoiser_layers);
  if (config->denoiser_frames)
    g_string_append_printf (json, ", \"denoiser_window\": %u", config->denoiser_frames - 1);
}

char *
nf_config_to_json (const NfConfig *config)
{
  g_return_val_if_fail (config, NULL);
  g_autoptr (GString) json = g_string_new (NULL);
  char number[G_ASCII_DTOSTR_BUF_SIZE];

  g_string_append_printf (json, "{\"family\": \"%s\"", family_names[config->family]);
  for (guint i = 0; i < G_N_ELEMENTS (members); i++)
    {
      const Member *member = &members[i];
      gconstpointer field = (const guint8 *)config + member->offset;
      const guint size = *(const guint *)field;
      if (!is_of (member, config->family))
        continue;
      /* sizes of STARFlow that are 0 are "as it is by default" or "none"; but who reads temporal_causal asks
       * for frames */
      if (member->family == OF_STARFLOW && member->kind == MEMBER_SIZE && size == 0
          && !(field == &config->frames && config->temporal_causal))
        continue;
      /* what is ours is not in official files */
      if ((field == &config->max_log_scale && config->max_log_scale == 0)
          /* and a deep block's width that is that of the others is none */
          || (field == &config->top_width && config->top_width == config->width)
          || (field == &config->frame_positions && !config->frame_positions)
          || (field == &config->controls && !config->controls))
        continue;
      g_string_append_printf (json, ", \"%s\": ", member->name);
      if (member->kind == MEMBER_SIZE)
        g_string_append_printf (json, "%u", size);
      else if (member->kind == MEMBER_BOOLEAN)
        g_string_append (json, (*(const gboolean *)field != 0) != member->inverted ? "true" : "false");
      else
        g_string_append (json, g_ascii_dtostr (number, sizeof number, *(const double *)field));
      if (strcmp (member->name, "num_blocks") != 0)
        continue;
      g_string_append (json, ", \"layers_per_block\": ");
      const gboolean list = nf_config_lists_layers (config);
      if (!list)
        g_string_append_printf (json, "%u", nf_config_layers (config, 0));
      for (guint t = 0; list && t < config->n_blocks; t++)
        g_string_append_printf (json, "%s%u%s", t ? ", " : "[", nf_config_layers (config, t),
                                t + 1 == config->n_blocks ? "]" : "");
    }
  if (config->family == NF_FAMILY_STARFLOW)
    write_starflow (json, config);
  g_string_append_printf (json, ", \"pixel_layout\": \"%s\", \"basis\": \"%s\", \"noise_type\": \"%s\"}",
                          layout_names[config->layout], basis_names[config->basis],
                          noise_names[config->noise]);
  return g_string_free (g_steal_pointer (&json), FALSE);
}

/* What is written, without numbers of heads that follow from the blocks' width. Digests are of what was told,
 * and stored latents name them: only who compares leaves these out. */
static char *
to_plain_json (const NfConfig *config)
{
  NfConfig plain = *config;
  const gboolean even = (!plain.top_width || plain.top_width == plain.width) && plain.head_dim
                        && plain.width % plain.head_dim == 0;
  const guint heads = plain.n_heads ? plain.n_heads : even ? plain.width / plain.head_dim : 0;
  if (plain.n_kv_heads == heads)
    plain.n_kv_heads = 0;
  if (even && plain.n_heads == plain.width / plain.head_dim)
    plain.n_heads = 0;
  return nf_config_to_json (&plain);
}

gboolean
nf_config_equal (const NfConfig *a, const NfConfig *b)
{
  g_return_val_if_fail (a && b, FALSE);
  /* written out, defaults and sizes that are said in two ways are the same */
  g_autofree char *one = to_plain_json (a), *other = to_plain_json (b);
  return strcmp (one, other) == 0;
}
