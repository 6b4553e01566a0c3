/* normflow: options that make the configuration of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "train-config.h"
#include "common.h"
#include "json.h"

#include <string.h>

void
nf_train_shape_clear (NfTrainShape *shape)
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

gboolean
nf_train_make_config (NfConfig *config, const NfTrainShape *shape, GError **error)
{
  if (shape->family)
    {
      if (strcmp (shape->family, "tarflow") && strcmp (shape->family, "starflow"))
        return nf_wrong_choice ("--family", shape->family, "tarflow, starflow", error);
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
        return nf_wrong_choice ("--layout", shape->layout, nf_layout_choices (), error);
      config->channels = config->layout == NF_PIXELS_GRAY ? 1 : 3;
    }
  if (shape->basis)
    {
      if (strcmp (shape->basis, "pixel") && strcmp (shape->basis, "dct"))
        return nf_wrong_choice ("--basis", shape->basis, "pixel, dct", error);
      config->basis = strcmp (shape->basis, "dct") ? NF_BASIS_PIXEL : NF_BASIS_DCT;
    }
  if (shape->noise)
    {
      if (strcmp (shape->noise, "uniform") && strcmp (shape->noise, "gaussian"))
        return nf_wrong_choice ("--noise", shape->noise, "uniform, gaussian", error);
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
complete_config (const NfTrainShape *shape, JsonObject *given, GError **error)
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
  NfTrainShape options = *shape;
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
  if (!nf_train_make_config (&base, &options, error))
    return NULL;
  g_autofree char *json = nf_config_to_json (&base);
  g_autoptr (JsonObject) members = nf_json_members (json);
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

gboolean
nf_train_read_config (NfConfig *config, NfTrainShape *shape, GError **error)
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
  shape->members = nf_json_members (json);
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

gboolean
nf_train_shape_given (const NfTrainShape *shape)
{
  const int sizes[] = { shape->patch,  shape->width,    shape->top_width, shape->blocks,
                        shape->frames, shape->denoiser, shape->head_dim };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    if (sizes[i] != -1)
      return TRUE;
  return shape->config || shape->layout || shape->basis || shape->noise || shape->family || shape->size
         || shape->layers || shape->vp || shape->noise_std != NF_NOT_GIVEN;
}
