/* normflow: the names, shapes and places of a model's parameters. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "nf-parameters.h"
#include "nf-random.h"

#include <math.h>
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
  parameter.at = self->n;
  self->n += parameter.n;
  g_array_append_val (self->list, parameter);
  g_hash_table_insert (self->index, parameter.name, GUINT_TO_POINTER (self->list->len));
}

static void
add_linear (NfParameters *self, const char *name, guint n_out, guint n_in)
{
  add (self, NF_PARAMETER_WEIGHT, n_in, n_out, n_in, 0, "%s.weight", name);
  add (self, NF_PARAMETER_BIAS, n_in, n_out, 0, 0, "%s.bias", name);
}

static void
add_norm (NfParameters *self, const char *name, guint d)
{
  add (self, NF_PARAMETER_ONE, 0, d, 0, 0, "%s.weight", name);
  add (self, NF_PARAMETER_ZERO, 0, d, 0, 0, "%s.bias", name);
}

static void
add_layer (NfParameters *self, const NfConfig *config, guint t, guint l)
{
  static const char *const parts[]
      = { "attention.norm", "attention.qkv", "attention.proj", "mlp.norm", "mlp.main.0", "mlp.main.2" };
  const guint d = config->width, hidden = config->expansion * d;
  const guint sizes[][2] = { { d, 0 }, { 3 * d, d }, { d, d }, { d, 0 }, { hidden, d }, { d, hidden } };

  for (guint i = 0; i < G_N_ELEMENTS (parts); i++)
    {
      g_autofree char *name = g_strdup_printf ("blocks.%u.attn_blocks.%u.%s", t, l, parts[i]);
      if (sizes[i][1])
        add_linear (self, name, sizes[i][0], sizes[i][1]);
      else
        add_norm (self, name, sizes[i][0]);
    }
}

NfParameters *
nf_parameters_new (const NfConfig *config)
{
  NfParameters *self = g_new0 (NfParameters, 1);
  const guint D = nf_config_features (config), d = config->width, out = config->nvp ? 2 * D : D;

  self->list = g_array_new (FALSE, FALSE, sizeof (NfParameter));
  g_array_set_clear_func (self->list, parameter_clear);
  self->index = g_hash_table_new (g_str_hash, g_str_equal);
  for (guint t = 0; t < config->n_blocks; t++)
    {
      g_autofree char *in = g_strdup_printf ("blocks.%u.proj_in", t);
      add_linear (self, in, d, D);
      add (self, NF_PARAMETER_EMBEDDING, 0, nf_config_tokens (config), d, 0, "blocks.%u.pos_embed", t);
      if (config->n_classes > 0)
        add (self, NF_PARAMETER_EMBEDDING, 0, config->n_classes, 1, d, "blocks.%u.class_embed", t);
      for (guint l = 0; l < config->n_layers; l++)
        add_layer (self, config, t, l);
      /* a flow starts as the identity but for its shift */
      add (self, NF_PARAMETER_ZERO, 0, out, d, 0, "blocks.%u.proj_out.weight", t);
      add (self, NF_PARAMETER_BIAS, d, out, 0, 0, "blocks.%u.proj_out.bias", t);
    }
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

gsize
nf_parameters_at (const NfParameters *self, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *name = g_strdup_vprintf (format, arguments);
  va_end (arguments);

  const NfParameter *parameter = nf_parameters_lookup (self, name);
  g_assert (parameter);
  return parameter->at;
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
          nf_random_normal (seed, i, parameter->n, 0.01, out);
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

NfWeights *
nf_weights_new (const NfConfig *config)
{
  NfWeights *self = g_new0 (NfWeights, 1);
  const gsize n = (gsize)nf_config_tokens (config) * nf_config_features (config);

  self->config = nf_config_copy (config);
  self->parameters = nf_parameters_new (config);
  self->theta = g_try_new0 (float, self->parameters->n);
  self->variance = g_new (float, n);
  for (gsize i = 0; i < n; i++)
    self->variance[i] = 1.0f;
  return self;
}

void
nf_weights_free (NfWeights *self)
{
  nf_config_free (self->config);
  nf_parameters_free (self->parameters);
  g_free (self->theta);
  g_free (self->variance);
  g_free (self);
}

static char *
shape_text (guint n_dims, const guint64 *dims)
{
  g_autoptr (GString) text = g_string_new ("(");
  for (guint i = 0; i < n_dims; i++)
    g_string_append_printf (text, "%s%" G_GUINT64_FORMAT, i ? ", " : "", dims[i]);
  return g_strdup_printf ("%s)", text->str);
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
      g_autofree char *is = shape_text (tensor->n_dims, tensor->dims), *wanted = shape_text (n_dims, dims);
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

/* The causal masks of the official state_dict, which say nothing. */
static gboolean
is_mask (const NfConfig *config, const NfTensor *tensor)
{
  guint t;
  int end = 0;
  return sscanf (tensor->name, "blocks.%u.attn_mask%n", &t, &end) == 1 && end > 0 && tensor->name[end] == '\0'
         && t < config->n_blocks;
}

static gboolean
check_surplus (NfTensorFile *file, const NfWeights *self, GError **error)
{
  for (guint i = 0; i < nf_tensor_file_count (file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (file, i);
      if (nf_parameters_lookup (self->parameters, tensor->name) || strcmp (tensor->name, "var") == 0
          || is_mask (self->config, tensor))
        continue;
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s holds a tensor %s that its configuration has no place for",
                   nf_tensor_file_get_path (file), tensor->name);
      return FALSE;
    }
  return TRUE;
}

static gboolean
read_variance (NfTensorFile *file, NfWeights *self, GError **error)
{
  const guint64 dims[2] = { nf_config_tokens (self->config), nf_config_features (self->config) };
  if (!nf_tensor_file_lookup (file, "var"))
    return TRUE;
  if (!read_tensor (file, "var", 2, dims, self->variance, error))
    return FALSE;
  for (guint64 i = 0; i < dims[0] * dims[1]; i++)
    if (self->variance[i] < 0)
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: tensor var holds the negative variance %g",
                     nf_tensor_file_get_path (file), (double)self->variance[i]);
        return FALSE;
      }
  return TRUE;
}

NfWeights *
nf_weights_read (NfTensorFile *file, GError **error)
{
  const char *path = nf_tensor_file_get_path (file);
  const char *json = nf_tensor_file_get_metadata (file, "config");
  if (!json)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG,
                   "%s has no configuration (\"config\" in its __metadata__); add one with: normflow convert "
                   "--config FILE",
                   path);
      return NULL;
    }
  g_autoptr (NfConfig) config = nf_config_from_json (json, path, error);
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

  g_autoptr (NfWeights) self = nf_weights_new (config);
  if (!self->theta)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for %" G_GSIZE_FORMAT " parameters",
                   path, self->parameters->n);
      return NULL;
    }
  for (guint i = 0; i < self->parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->parameters->list, NfParameter, i);
      if (!read_tensor (file, parameter->name, parameter->n_dims, parameter->dims,
                        self->theta + parameter->at, error))
        return NULL;
    }
  if (!check_surplus (file, self, error) || !read_variance (file, self, error))
    return NULL;
  return g_steal_pointer (&self);
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
  const guint N = nf_config_tokens (self->config);
  const guint64 variance_dims[2] = { N, nf_config_features (self->config) }, mask_dims[2] = { N, N };
  g_autoptr (GArray) tensors = g_array_new (FALSE, FALSE, sizeof (NfTensor));
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; i < self->parameters->list->len; i++)
    {
      const NfParameter *parameter = &g_array_index (self->parameters->list, NfParameter, i);
      NfTensor tensor
          = describe (parameter->name, parameter->n_dims, parameter->dims, self->theta + parameter->at);
      g_array_append_val (tensors, tensor);
    }
  NfTensor variance = describe ((char *)"var", 2, variance_dims, self->variance);
  g_array_append_val (tensors, variance);

  /* The official code's strict loading wants its masks. */
  const gboolean masks = N <= MAX_MASK;
  g_autofree float *mask = g_new0 (float, masks ? (gsize)N *N : 1);
  for (guint i = 0; masks && i < N; i++)
    for (guint j = 0; j <= i; j++)
      mask[(gsize)i * N + j] = 1.0f;
  for (guint t = 0; masks && t < self->config->n_blocks; t++)
    {
      g_ptr_array_add (names, g_strdup_printf ("blocks.%u.attn_mask", t));
      NfTensor tensor = describe (names->pdata[t], 2, mask_dims, mask);
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
nf_weights_digest (const NfWeights *self)
{
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
  g_autofree char *json = nf_config_to_json (self->config);
  const gsize latents = (gsize)nf_config_tokens (self->config) * nf_config_features (self->config);
  const guint8 *theta = (const guint8 *)self->theta;

  g_checksum_update (checksum, (const guchar *)json, strlen (json) + 1);
  /* in parts: a checksum's length is a signed type */
  for (gsize left = self->parameters->n * sizeof (float); left > 0;)
    {
      const gsize part = MIN (left, (gsize)1 << 28);
      g_checksum_update (checksum, theta, (gssize)part);
      theta += part;
      left -= part;
    }
  g_checksum_update (checksum, (const guchar *)self->variance, (gssize)(latents * sizeof (float)));
  return g_strdup (g_checksum_get_string (checksum));
}
