/* normflow: models with random weights. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib/gstdio.h>
#include <normflow.h>
#include <string.h>

/* Initial weights, of which those whose names have PART in them become random of a standard deviation
 * DEVIATION. */
static inline void
random_model_write_part (const char *path, const NfConfig *config, NfDevice *device, guint64 seed,
                         const char *part, double deviation)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfModel) model = nf_model_new (config, device, seed, &error);
  if (!model)
    fail_msg ("%s", error->message);
  g_autofree char *plain = g_strconcat (path, ".initial", NULL);
  if (!nf_model_save (model, plain, NULL, &error))
    fail_msg ("%s", error->message);

  g_autoptr (NfTensorFile) file = nf_tensor_file_open (plain, &error);
  if (!file)
    fail_msg ("%s", error->message);
  const guint n = nf_tensor_file_count (file);
  g_autoptr (GPtrArray) data = g_ptr_array_new_with_free_func (g_free);
  g_autofree NfTensor *tensors = g_new0 (NfTensor, n);
  for (guint i = 0; i < n; i++)
    {
      tensors[i] = *nf_tensor_file_get (file, i);
      if (!strstr (tensors[i].name, part))
        continue;
      float *values = g_new (float, tensors[i].n_elements);
      nf_random_normal (seed, i, tensors[i].n_elements, deviation, values);
      g_ptr_array_add (data, values);
      tensors[i].dtype = NF_DTYPE_F32;
      tensors[i].data = (const guint8 *)values;
    }
  g_autoptr (GHashTable) metadata = g_hash_table_new (g_str_hash, g_str_equal);
  g_hash_table_insert (metadata, "config", (gpointer)nf_tensor_file_get_metadata (file, "config"));
  if (!nf_tensor_file_write (path, tensors, n, metadata, &error))
    fail_msg ("%s", error->message);
  g_remove (plain);
}

/* Initial weights have output projections of zero, which would make the flow trivial. */
static inline void
random_model_write_scaled (const char *path, const NfConfig *config, NfDevice *device, guint64 seed,
                           double deviation)
{
  random_model_write_part (path, config, device, seed, "proj_out", deviation);
}

/* Of weights that are finite, but from which nothing is computed that is. */
static inline void
random_model_write_damaged (const char *path, const NfConfig *config, NfDevice *device)
{
  random_model_write_part (path, config, device, 3, "proj_in.weight", 6e37);
}

static inline void
random_model_write (const char *path, const NfConfig *config, NfDevice *device, guint64 seed)
{
  random_model_write_scaled (path, config, device, seed, 0.05);
}

/* Of a small model of pictures in which nothing is switched on. */
static inline NfConfig
random_picture_config (NfPixelLayout layout, guint img_size, guint patch_size, guint n_blocks)
{
  return (NfConfig){ .channels = layout == NF_PIXELS_GRAY ? 1 : 3,
                     .img_size = img_size,
                     .patch_size = patch_size,
                     .width = 32,
                     .n_blocks = n_blocks,
                     .n_layers = 1,
                     .nvp = TRUE,
                     .head_dim = 16,
                     .expansion = 2,
                     .layout = layout };
}

#define RANDOM_VIDEO_FRAMES 5
#define RANDOM_VIDEO_WIDTH 12
#define RANDOM_VIDEO_HEIGHT 8
#define RANDOM_VIDEO_ACTIONS 3
#define RANDOM_VIDEO_SCALE 0.1

/* Of a model of RGB videos; with weights of RANDOM_VIDEO_SCALE they are strong enough that frames matter to
 * each other. */
static inline NfConfig
random_video_config (void)
{
  return (NfConfig){ .family = NF_FAMILY_STARFLOW,
                     .channels = 3,
                     .img_size = 8,
                     .rows = RANDOM_VIDEO_HEIGHT,
                     .columns = RANDOM_VIDEO_WIDTH,
                     .patch_size = 4,
                     .width = 32,
                     .n_blocks = 3,
                     .n_layers = 1,
                     .layers = { 1, 1, 2 },
                     .nvp = TRUE,
                     .head_dim = 32,
                     .expansion = 2,
                     .rope = TRUE,
                     .sos = TRUE,
                     .softplus = TRUE,
                     .soft_clip = 3,
                     .left_to_right = TRUE,
                     .temporal_causal = 1,
                     .shallow_local = TRUE,
                     .frames = RANDOM_VIDEO_FRAMES,
                     .action_dim = RANDOM_VIDEO_ACTIONS };
}

#define RANDOM_TEXT_TOKENS 2
#define RANDOM_TEXT_FEATURES 3

/* CONFIG sees text, in its deep block alone or in all. */
static inline void
random_config_see_text (NfConfig *config, gboolean top_only)
{
  config->txt_size = RANDOM_TEXT_TOKENS;
  config->txt_dim = RANDOM_TEXT_FEATURES;
  config->cond_top_only = top_only;
}

/* Of a model of pictures that sees text of TOKENS tokens. */
static inline NfConfig
random_text_config (guint tokens)
{
  return (NfConfig){ .family = NF_FAMILY_STARFLOW,
                     .channels = 3,
                     .img_size = 8,
                     .patch_size = 4,
                     .width = 32,
                     .n_blocks = 2,
                     .n_layers = 1,
                     .nvp = TRUE,
                     .head_dim = 32,
                     .expansion = 2,
                     .rope = TRUE,
                     .sos = TRUE,
                     .softplus = TRUE,
                     .soft_clip = 3,
                     .left_to_right = TRUE,
                     .layout = NF_PIXELS_YUV420,
                     .txt_size = tokens,
                     .txt_dim = RANDOM_TEXT_FEATURES,
                     .cond_top_only = TRUE };
}

/* A file of random text features (B, TOKENS, FEATURES) of a seed, in a tensor called NAME, and maybe
 * "null_text" of NULLS samples. */
static inline void
random_text_write (const char *path, const char *name, guint B, guint tokens, guint features, guint nulls,
                   guint64 seed)
{
  g_autoptr (GError) error = NULL;
  const guint n[2] = { B, nulls };
  NfTensor tensors[2];
  g_autofree float *values = g_new (float, ((gsize)B + nulls) * tokens * features);
  nf_random_normal (seed, 0, ((gsize)B + nulls) * tokens * features, 1, values);
  for (guint i = 0; i < G_N_ELEMENTS (tensors); i++)
    tensors[i] = (NfTensor){ .name = (char *)(i ? "null_text" : name),
                             .dtype = NF_DTYPE_F32,
                             .n_dims = 3,
                             .dims = { n[i], tokens, features },
                             .n_elements = (guint64)n[i] * tokens * features,
                             .data = (const guint8 *)(values + (i ? (gsize)B * tokens * features : 0)) };
  if (!nf_tensor_file_write (path, tensors, nulls ? 2 : 1, NULL, &error))
    fail_msg ("%s", error->message);
}
