/* normflow: a model's numbers, from files and into them. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-weights.h"
#include "nf-checkpoint.h"

#include <math.h>
#include <nettle/sha2.h>
#include <string.h>

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
