/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "nf-parameters.h"
#include "nf-checkpoint.h"
#include "nf-random.h"

#include <math.h>
#include <nettle/sha2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The table */

static void
parameter_clear (gpointer data)
{
  g_free (((NfParameter *)data)->name);
}

static void add (NfParameters *self, NfParameterKind kind, guint fan_in, guint64 d0, guint64 d1, guint64 d2,
                 const char *format, ...) G_GNUC_PRINTF (7, 8);

/* d1, d2 of 0 are no dimensions. */
static void
add (NfParameters *self, NfParameterKind kind, guint fan_in, guint64 d0, guint64 d1, guint64 d2,
     const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  NfParameter parameter = {
    .name = g_strdup_vprintf (format, arguments), .kind = kind, .fan_in = fan_in, .dims = { d0, d1, d2 }
  };
  va_end (arguments);

  parameter.n_dims = d2 ? 3 : d1 ? 2 : 1;
  parameter.n = d0 * (d1 ? d1 : 1) * (d2 ? d2 : 1);
  parameter.listed = self->n;
  self->n += parameter.n;
  g_array_append_val (self->list, parameter);
  g_hash_table_insert (self->index, parameter.name, GUINT_TO_POINTER (self->list->len));
}

/* The last one added is a matrix. */
static void
mark_matrix (NfParameters *self)
{
  g_array_index (self->list, NfParameter, self->list->len - 1).matrix = TRUE;
}

static void add_linear (NfParameters *self, gboolean bias, guint n_out, guint n_in, const char *format, ...)
    G_GNUC_PRINTF (5, 6);

static void
add_linear (NfParameters *self, gboolean bias, guint n_out, guint n_in, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *name = g_strdup_vprintf (format, arguments);
  va_end (arguments);

  add (self, NF_PARAMETER_WEIGHT, n_in, n_out, n_in, 0, "%s.weight", name);
  mark_matrix (self);
  if (bias)
    add (self, NF_PARAMETER_BIAS, n_in, n_out, 0, 0, "%s.bias", name);
}

/* LayerNorm has weight 1 and bias 0; RMSNorm scales by 1 + weight. */
static void
add_norm (NfParameters *self, gboolean rms, guint d, const char *prefix, const char *name)
{
  add (self, rms ? NF_PARAMETER_ZERO : NF_PARAMETER_ONE, 0, d, 0, 0, "%s.%s.weight", prefix, name);
  if (!rms)
    add (self, NF_PARAMETER_ZERO, 0, d, 0, 0, "%s.%s.bias", prefix, name);
}

static void
add_layer (NfParameters *self, const NfConfig *config, const char *block, guint l, guint d)
{
  g_autofree char *prefix = g_strdup_printf ("%s.attn_blocks.%u", block, l);
  const gboolean bias = !config->no_bias;
  const guint dh = config->head_dim, H = config->n_heads ? config->n_heads : d / dh,
              Hkv = config->n_kv_heads ? config->n_kv_heads : H, hidden = config->expansion * d;

  add_norm (self, config->rms_norm, d, prefix, "attention.norm");
  add_linear (self, bias, (H + 2 * Hkv) * dh, d, "%s.attention.qkv", prefix);
  add_linear (self, bias, d, H * dh, "%s.attention.proj", prefix);
  if (config->qk_norm)
    {
      add_norm (self, TRUE, dh, prefix, "attention.query_norm");
      add_norm (self, TRUE, dh, prefix, "attention.key_norm");
    }
  if (config->post_norm)
    add_norm (self, TRUE, d, prefix, "attention.post_norm");
  add_norm (self, config->rms_norm, d, prefix, "mlp.norm");
  if (config->post_norm)
    add_norm (self, TRUE, d, prefix, "mlp.post_norm");
  if (config->gated)
    {
      add_linear (self, bias, hidden, d, "%s.mlp.gate_proj", prefix);
      add_linear (self, bias, hidden, d, "%s.mlp.up_proj", prefix);
      add_linear (self, bias, d, hidden, "%s.mlp.down_proj", prefix);
    }
  else
    {
      add_linear (self, bias, hidden, d, "%s.mlp.main.0", prefix);
      add_linear (self, bias, d, hidden, "%s.mlp.main.2", prefix);
    }
}

/* The layers, and the product that begins as 0 so that a flow starts as the identity but for its shift. */
static void
add_transformer (NfParameters *self, const NfConfig *config, const char *block, guint K, guint d, guint n_out)
{
  for (guint l = 0; l < K; l++)
    add_layer (self, config, block, l, d);
  if (config->final_norm)
    add_norm (self, TRUE, d, block, "final_norm");
  add (self, NF_PARAMETER_ZERO, 0, n_out, d, 0, "%s.proj_out.weight", block);
  mark_matrix (self);
  add (self, NF_PARAMETER_BIAS, d, n_out, 0, 0, "%s.proj_out.bias", block);
}

static void
add_block (NfParameters *self, const NfConfig *config, guint t)
{
  g_autofree char *block = g_strdup_printf ("blocks.%u", t);
  const guint D = nf_config_features (config), d = nf_config_width (config, t);

  if (config->sos)
    add (self, NF_PARAMETER_NORMAL, 0, 1, 1, D, "%s.sos_embed", block);
  add_linear (self, TRUE, d, D, "%s.proj_in", block);
  if (!config->rope)
    add (self, NF_PARAMETER_EMBEDDING, 0, nf_config_tokens (config), d, 0, "%s.pos_embed", block);
  if (config->frame_positions && t + 1 == config->n_blocks)
    add (self, NF_PARAMETER_EMBEDDING, 0, nf_config_tokens (config), d, 0, "%s.frame_embed", block);
  if (config->n_classes > 0)
    add (self, NF_PARAMETER_EMBEDDING, 0, config->n_classes, 1, d, "%s.class_embed", block);
  if (nf_config_has_text (config, t))
    add_linear (self, TRUE, d, config->txt_dim, "%s.proj_txt", block);
  if (config->action_dim && t + 1 == config->n_blocks)
    add_linear (self, TRUE, d, config->action_dim, "%s.proj_action", block);
  add_transformer (self, config, block, nf_config_layers (config, t), d, config->nvp ? 2 * D : D);
}

/* Gives each parameter its place: matrices behind all others. */
static void
place (NfParameters *self)
{
  gsize at = 0;
  for (guint matrix = 0; matrix < 2; matrix++)
    {
      for (guint i = 0; i < self->list->len; i++)
        {
          NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
          if (parameter->matrix != (gboolean)matrix)
            continue;
          parameter->at = at;
          at += parameter->n;
        }
      if (!matrix)
        self->n_kept = at;
    }
}

NfParameters *
nf_parameters_new (const NfConfig *config)
{
  NfParameters *self = g_new0 (NfParameters, 1);
  const guint D = nf_config_features (config), d = config->width;

  self->list = g_array_new (FALSE, FALSE, sizeof (NfParameter));
  g_array_set_clear_func (self->list, parameter_clear);
  self->index = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint t = 0; t < config->n_blocks; t++)
    if (!nf_config_is_identity (config, t))
      add_block (self, config, t);
  if (config->denoiser_layers)
    {
      add_linear (self, TRUE, d, D, NF_DENOISER ".proj_in");
      if (config->denoiser_text && config->txt_size)
        add_linear (self, TRUE, d, config->txt_dim, NF_DENOISER ".proj_txt");
      add_transformer (self, config, NF_DENOISER, config->denoiser_layers, d, D);
    }
  place (self);
  return self;
}

void
nf_parameters_free (NfParameters *self)
{
  g_hash_table_unref (self->index);
  g_array_unref (self->list);
  g_free (self);
}

const NfParameter *
nf_parameters_lookup (const NfParameters *self, const char *name)
{
  const guint place = GPOINTER_TO_UINT (g_hash_table_lookup (self->index, name));
  return place ? &g_array_index (self->list, NfParameter, place - 1) : NULL;
}

const NfParameter *
nf_parameters_find (const NfParameters *self, gsize at)
{
  for (guint i = 0; i < self->list->len; i++)
    if (g_array_index (self->list, NfParameter, i).at == at)
      return &g_array_index (self->list, NfParameter, i);
  g_return_val_if_reached (NULL);
}

void
nf_parameters_list (const NfParameters *self, const float *theta, float *listed)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      memcpy (listed + parameter->listed, theta + parameter->at, parameter->n * sizeof *listed);
    }
}

void
nf_parameters_unlist (const NfParameters *self, const float *listed, float *theta)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      memcpy (theta + parameter->at, listed + parameter->listed, parameter->n * sizeof *listed);
    }
}

void
nf_parameters_initialise (const NfParameters *self, guint64 seed, float *theta)
{
  for (guint i = 0; i < self->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->list, NfParameter, i);
      float *out = theta + parameter->at;
      const double bound = parameter->fan_in ? 1 / sqrt (parameter->fan_in) : 0;
      switch (parameter->kind)
        {
        case NF_PARAMETER_WEIGHT:
        case NF_PARAMETER_BIAS:
          for (gsize j = 0; j < parameter->n; j++)
            out[j] = (float)(bound * (2 * nf_random_uniform (seed, i, j) - 1));
          break;
        case NF_PARAMETER_EMBEDDING:
        case NF_PARAMETER_NORMAL:
          nf_random_normal (seed, i, parameter->n, parameter->kind == NF_PARAMETER_NORMAL ? 1 : 0.01, out);
          break;
        case NF_PARAMETER_ZERO:
        case NF_PARAMETER_ONE:
          for (gsize j = 0; j < parameter->n; j++)
            out[j] = parameter->kind == NF_PARAMETER_ONE ? 1.0f : 0.0f;
          break;
        }
    }
}

/* A model's numbers */

/* Without numbers, and a prior of variance 1. */
static NfWeights *
weights_new (const NfConfig *config)
{
  NfWeights *self = g_new0 (NfWeights, 1);
  self->config = nf_config_copy (config);
  self->parameters = nf_parameters_new (config);
  return self;
}

NfWeights *
nf_weights_new (const NfConfig *config)
{
  NfWeights *self = weights_new (config);
  self->theta = g_try_new0 (float, self->parameters->n);
  return self;
}

static void
fill_ones (float *values, gsize n)
{
  for (gsize i = 0; i < n; i++)
    values[i] = 1.0f;
}

float *
nf_weights_need_variance (NfWeights *self)
{
  const gsize n = (gsize)nf_config_tokens (self->config) * nf_config_features (self->config);
  if (self->variance)
    return self->variance;
  self->variance = g_new (float, n);
  fill_ones (self->variance, n);
  return self->variance;
}

void
nf_weights_free (NfWeights *self)
{
  g_clear_object (&self->file);
  nf_config_free (self->config);
  nf_parameters_free (self->parameters);
  g_free (self->theta);
  g_free (self->variance);
  g_free (self);
}

/* The tensor NAME if it has the right shape and type. */
static const NfTensor *
find_tensor (NfTensorFile *file, const char *name, guint n_dims, const guint64 *dims, GError **error)
{
  const char *path = nf_tensor_file_get_path (file);
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  if (!tensor)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s has no tensor %s, which its configuration needs",
                   path, name);
      return NULL;
    }
  if (tensor->n_dims != n_dims || memcmp (tensor->dims, dims, n_dims * sizeof *dims) != 0)
    {
      g_autofree char *is = nf_shape_to_text (tensor->n_dims, tensor->dims),
                      *wanted = nf_shape_to_text (n_dims, dims);
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "%s: tensor %s is %s, its configuration needs %s", path,
                   name, is, wanted);
      return NULL;
    }
  if (tensor->dtype != NF_DTYPE_F32 && tensor->dtype != NF_DTYPE_F64 && tensor->dtype != NF_DTYPE_F16
      && tensor->dtype != NF_DTYPE_BF16)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s: tensor %s is of type %s, weights are F32, F64, F16 or BF16", path, name,
                   nf_dtype_name (tensor->dtype));
      return NULL;
    }
  return tensor;
}

static gboolean
read_tensor (NfTensorFile *file, const char *name, guint n_dims, const guint64 *dims, float *out,
             GError **error)
{
  const NfTensor *tensor = find_tensor (file, name, n_dims, dims, error);
  if (!tensor)
    return FALSE;
  nf_tensor_to_float (tensor, out);
  for (guint64 i = 0; i < tensor->n_elements; i++)
    if (!isfinite (out[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s: tensor %s holds %g at element %" G_GUINT64_FORMAT "; weights must be finite",
                     nf_tensor_file_get_path (file), name, (double)out[i], i);
        return FALSE;
      }
  return TRUE;
}

static gboolean
check_surplus (NfTensorFile *file, const NfWeights *self, GError **error)
{
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      if (nf_parameters_lookup (self->parameters, tensor->name) || strcmp (tensor->name, "var") == 0
          || nf_checkpoint_is_idle (self->config, tensor->name))
        continue;
      g_autofree char *shown = nf_shorten (tensor->name);
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s holds a tensor %s that its configuration has no place for",
                   nf_tensor_file_get_path (file), shown);
      return FALSE;
    }
  return TRUE;
}

/* Shape of the buffers that stand for rotations: a row for each text token, and as many for the image as
 * positions are scaled to; SIDE is that of the image size of training. */
static void
get_rotation_dims (const NfConfig *config, guint64 side, guint64 dims[2])
{
  if (config->pt_seq_len > 0)
    side = config->pt_seq_len;
  dims[0] = side * side + config->txt_size;
  dims[1] = config->head_dim;
}

/* Nothing is read of the rotations, but no other tensor may tell of heads and text. */
static gboolean
check_rotations (NfTensorFile *file, const NfConfig *config, GError **error)
{
  const NfTensor *rope = nf_tensor_file_lookup (file, "feat_rope.freqs_cos"),
                 *var = nf_tensor_file_lookup (file, "var");
  if (config->family != NF_FAMILY_STARFLOW || !config->rope || !rope)
    return TRUE;
  guint64 dims[2];
  const guint64 patches = var && var->n_dims == 2 ? var->dims[0] : 0;
  get_rotation_dims (config, (guint64)sqrt ((double)patches), dims);
  if (patches == 0 && config->pt_seq_len == 0)
    dims[0] = rope->dims[0];
  return find_tensor (file, rope->name, 2, dims, error) != NULL;
}

/* Shape of the buffer "var", where it is written. */
static void
get_variance_dims (const NfConfig *config, guint64 dims[2])
{
  const guint side = config->img_size / config->patch_size;
  dims[0] = config->family == NF_FAMILY_STARFLOW ? side * side : nf_config_tokens (config);
  dims[1] = nf_config_features (config);
}

/* STARFlow has the buffer for the image size of its training, whatever the size of its samples. */
static gboolean
read_variance (NfTensorFile *file, NfWeights *self, GError **error)
{
  const gboolean starflow = self->config->family == NF_FAMILY_STARFLOW;
  const char *path = nf_tensor_file_get_path (file);
  const NfTensor *tensor = nf_tensor_file_lookup (file, "var");
  guint64 dims[2];
  if (!tensor)
    return TRUE;
  get_variance_dims (self->config, dims);
  if (starflow && tensor->n_dims == 2)
    dims[0] = tensor->dims[0];
  if (!find_tensor (file, "var", 2, dims, error))
    return FALSE;
  g_autofree float *variance = g_try_new (float, tensor->n_elements);
  if (!variance)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: tensor var does not fit into memory", path);
      return FALSE;
    }
  if (!read_tensor (file, "var", 2, dims, variance, error))
    return FALSE;
  gboolean deviates = FALSE;
  for (guint64 i = 0; i < tensor->n_elements; i++)
    {
      deviates = deviates || variance[i] != 1;
      if (variance[i] < 0)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: tensor var holds the negative variance %g", path,
                       (double)variance[i]);
          return FALSE;
        }
      if (starflow && variance[i] != 1)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                       "%s: tensor var holds %g; the prior of a STARFlow has variance 1 everywhere", path,
                       (double)variance[i]);
          return FALSE;
        }
    }
  if (deviates)
    self->variance = g_steal_pointer (&variance);
  return TRUE;
}

NfWeights *
nf_weights_open (NfTensorFile *file, const NfConfig *config, GError **error)
{
  g_autoptr (NfConfig) own = config ? NULL : nf_checkpoint_config (file, NULL, NULL, error);
  if (!config)
    config = own;
  if (!config)
    return NULL;

  /* Everything claimed must be in the file before memory is taken for it. */
  g_autoptr (NfParameters) parameters = nf_parameters_new (config);
  for (guint i = 0; i < parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (parameters->list, NfParameter, i);
      if (!find_tensor (file, parameter->name, parameter->n_dims, parameter->dims, error))
        return NULL;
    }

  g_autoptr (NfWeights) self = weights_new (config);
  self->file = g_object_ref (file);
  if (!check_surplus (file, self, error) || !check_rotations (file, config, error)
      || !read_variance (file, self, error))
    return NULL;
  return g_steal_pointer (&self);
}

gboolean
nf_weights_get (const NfWeights *self, const NfParameter *parameter, float *out, GError **error)
{
  /* afterwards, too: it may change while it is read */
  if (!self->theta)
    return nf_tensor_file_check_unchanged (self->file, error)
           && read_tensor (self->file, parameter->name, parameter->n_dims, parameter->dims, out, error)
           && nf_tensor_file_check_unchanged (self->file, error);
  memcpy (out, self->theta + parameter->at, parameter->n * sizeof *out);
  return TRUE;
}

static float *
no_memory (const NfWeights *self, gsize n, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for %" G_GSIZE_FORMAT " values",
               self->file ? nf_tensor_file_get_path (self->file) : "new model", n);
  return NULL;
}

float *
nf_weights_get_all (const NfWeights *self, GError **error)
{
  g_autofree float *theta = g_try_new (float, self->parameters->n);
  if (!theta)
    return no_memory (self, self->parameters->n, error);
  for (guint i = 0; i < self->parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->parameters->list, NfParameter, i);
      if (!nf_weights_get (self, parameter, theta + parameter->at, error))
        return NULL;
    }
  return g_steal_pointer (&theta);
}

#define MAX_MASK 4096 /* tokens; masks of longer sequences would be larger than the weights */

static NfTensor
describe (char *name, guint n_dims, const guint64 *dims, const float *data)
{
  NfTensor tensor = {
    .name = name, .dtype = NF_DTYPE_F32, .n_dims = n_dims, .n_elements = 1, .data = (const guint8 *)data
  };
  for (guint i = 0; i < n_dims; i++)
    tensor.n_elements *= tensor.dims[i] = dims[i];
  return tensor;
}

gboolean
nf_weights_write (const NfWeights *self, const char *path, GHashTable *metadata, GError **error)
{
  const gboolean starflow = self->config->family == NF_FAMILY_STARFLOW;
  guint64 variance_dims[2];
  get_variance_dims (self->config, variance_dims);
  const guint64 N = variance_dims[0] + (starflow ? self->config->txt_size : 0), mask_dims[2] = { N, N };
  const gsize n_variance = variance_dims[0] * variance_dims[1];
  const gboolean deviates = self->variance && !starflow, masks = N <= MAX_MASK;
  guint64 rope_dims[2];
  get_rotation_dims (self->config, self->config->img_size / self->config->patch_size, rope_dims);
  const gsize n_rope = starflow && self->config->rope ? rope_dims[0] * rope_dims[1] : 0;
  g_autofree float *ones = g_try_new (float, deviates ? 1 : n_variance),
                   *mask = g_try_new0 (float, masks ? (gsize)N *N : 1),
                   *zeros = g_try_new0 (float, MAX (n_rope, 1));
  if (!ones || !mask || !zeros)
    {
      no_memory (self, n_variance + N * N + n_rope, error);
      return FALSE;
    }
  g_autoptr (GArray) tensors = g_array_new (FALSE, FALSE, sizeof (NfTensor));
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < self->parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->parameters->list, NfParameter, i);
      NfTensor tensor
          = describe (parameter->name, parameter->n_dims, parameter->dims, self->theta + parameter->at);
      g_array_append_val (tensors, tensor);
    }
  if (!deviates)
    fill_ones (ones, n_variance);
  NfTensor variance = describe ((char *)"var", 2, variance_dims, deviates ? self->variance : ones);
  g_array_append_val (tensors, variance);

  /* The official code's strict loading wants its masks. */
  for (guint64 i = 0; masks && i < N; i++)
    for (guint64 j = 0; j <= i; j++)
      mask[i * N + j] = 1.0f;
  for (guint t = 0; masks && t < self->config->n_blocks; t++)
    if (!nf_config_is_identity (self->config, t))
      {
        char *name = g_strdup_printf ("blocks.%u.attn_mask", t);
        g_ptr_array_add (names, name);
        NfTensor tensor = describe (name, 2, mask_dims, mask);
        g_array_append_val (tensors, tensor);
      }
  static const char *const rope_names[] = { "feat_rope.freqs_cos", "feat_rope.freqs_sin" };
  for (guint i = 0; n_rope && i < G_N_ELEMENTS (rope_names); i++)
    {
      NfTensor tensor = describe ((char *)rope_names[i], 2, rope_dims, zeros);
      g_array_append_val (tensors, tensor);
    }

  g_autoptr (GHashTable) strings = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  if (metadata)
    {
      GHashTableIter iter;
      gpointer key, value;
      g_hash_table_iter_init (&iter, metadata);
      while (g_hash_table_iter_next (&iter, &key, &value))
        g_hash_table_insert (strings, g_strdup (key), g_strdup (value));
    }
  g_hash_table_insert (strings, g_strdup ("config"), nf_config_to_json (self->config));
  return nf_tensor_file_write (path, (const NfTensor *)(gpointer)tensors->data, tensors->len, strings, error);
}

char *
nf_weights_digest (const NfWeights *self, NfWeightsStep step, gpointer data, GError **error)
{
  /* by a CPU's own instructions, which GLib's takes six times as long as */
  struct sha256_ctx checksum;
  guint8 digest[SHA256_DIGEST_SIZE];
  g_autoptr (GString) text = g_string_new (NULL);
  g_autofree char *json = nf_config_to_json (self->config);
  const gsize latents = (gsize)nf_config_tokens (self->config) * nf_config_features (self->config);
  gsize largest = 0, done = 0;

  for (guint i = 0; i < self->parameters->list->len; i++)
    largest = MAX (largest, g_array_index (self->parameters->list, NfParameter, i).n);
  g_autofree float *values = g_try_new (float, largest);
  if (!values)
    {
      no_memory (self, largest, error);
      return NULL;
    }
  sha256_init (&checksum);
  sha256_update (&checksum, strlen (json) + 1, (const guint8 *)json);
  for (guint i = 0; i < self->parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->parameters->list, NfParameter, i);
      if (!nf_weights_get (self, parameter, values, error))
        return NULL;
      sha256_update (&checksum, parameter->n * sizeof *values, (const guint8 *)values);
      done += parameter->n;
      if (step && !step ((double)done / (double)self->parameters->n, data, error))
        return NULL;
    }
  /* where there is none it is as if all of it were there */
  if (!self->variance)
    fill_ones (values, largest);
  for (gsize i = 0, n; i < latents; i += n)
    {
      n = self->variance ? latents : MIN (largest, latents - i);
      sha256_update (&checksum, n * sizeof (float),
                     (const guint8 *)(self->variance ? self->variance : values));
    }
  sha256_digest (&checksum, sizeof digest, digest);
  for (guint i = 0; i < sizeof digest; i++)
    g_string_append_printf (text, "%02x", digest[i]);
  return g_string_free (g_steal_pointer (&text), FALSE);
}
