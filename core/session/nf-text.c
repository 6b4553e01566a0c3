/* normflow: text features from files. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"
#include "nf-stream.h"

#include <string.h>

#define MAX_SAMPLES 65536
#define DIGEST_LENGTH 16

/* Where features are looked for, the first that there is. */
static const char *const names[] = { "text", "input.text", NULL };
static const char *const null_names[] = { "null_text", NULL };

static const char *
find_name (NfTensorFile *file, const char *const *among)
{
  for (guint i = 0; among[i]; i++)
    if (nf_tensor_file_lookup (file, among[i]))
      return among[i];
  return NULL;
}

static gboolean
is_real (NfDtype dtype)
{
  return dtype == NF_DTYPE_F64 || dtype == NF_DTYPE_F32 || dtype == NF_DTYPE_F16 || dtype == NF_DTYPE_BF16;
}

float *
nf_text_read (NfTensorFile *file, const char *name, const NfConfig *config, guint *B, GError **error)
{
  g_return_val_if_fail (NF_IS_TENSOR_FILE (file) && name && config && B, NULL);
  const NfTensor *tensor = nf_tensor_file_lookup (file, name);
  const char *path = nf_tensor_file_get_path (file);
  g_autofree char *shown = nf_shorten (name);
  if (!tensor)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s holds no tensor %s", path, shown);
      return NULL;
    }
  if (!config->txt_size)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: text features are given, but the model sees no text", path);
      return NULL;
    }
  if (!is_real (tensor->dtype) || tensor->n_dims != 3 || tensor->dims[0] < 1 || tensor->dims[0] > MAX_SAMPLES
      || tensor->dims[1] != config->txt_size || tensor->dims[2] != config->txt_dim)
    {
      g_autofree char *is = nf_shape_to_text (tensor->n_dims, tensor->dims);
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "%s: %s is %s %s; this model needs real numbers (B, %u, %u): samples, tokens, features",
                   path, shown, nf_dtype_name (tensor->dtype), is, config->txt_size, config->txt_dim);
      return NULL;
    }
  g_autofree float *text = g_try_new (float, tensor->n_elements);
  if (!text)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "%s: no memory for %s", path, shown);
      return NULL;
    }
  nf_tensor_to_float (tensor, text);
  *B = (guint)tensor->dims[0];
  return g_steal_pointer (&text);
}

/* NULL text has a row for each sample, or one for all, which is repeated. */
static float *
read_null_text (NfTensorFile *file, const char *name, const NfConfig *config, guint B, GError **error)
{
  guint n = 0;
  g_autofree float *text = nf_text_read (file, name, config, &n, error);
  if (!text || n == B)
    return g_steal_pointer (&text);
  if (n > 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: %s is of %u samples, the text of %u",
                   nf_tensor_file_get_path (file), name, n, B);
      return NULL;
    }
  const gsize row = (gsize)config->txt_size * config->txt_dim;
  float *repeated = g_new (float, B *row);
  for (guint i = 0; i < B; i++)
    memcpy (repeated + i * row, text, row * sizeof *text);
  return repeated;
}

/* What the file at PATH holds for CONFIG; that of no caption only if NULL_TEXT is not NULL. */
static float *
read_texts (const char *path, const NfConfig *config, guint *B, float **null_text, GError **error)
{
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (path, error);
  if (!file)
    return NULL;
  const char *name = find_name (file, names), *null_name = find_name (file, null_names);
  for (guint i = 0;
       !name && i < nf_tensor_file_count (file) && nf_tensor_file_count (file) == (null_name ? 2 : 1); i++)
    if (g_strcmp0 (nf_tensor_file_get (file, i)->name, null_name) != 0)
      name = nf_tensor_file_get (file, i)->name;
  g_autofree float *text = nf_text_read (file, name ? name : names[0], config, B, error);
  if (!text
      || (null_text && null_name && !(*null_text = read_null_text (file, null_name, config, *B, error))))
    return NULL;
  return g_steal_pointer (&text);
}

char *
nf_session_digest_text (const NfConfig *config, const float *text, guint B)
{
  if (!config->txt_size)
    return NULL;
  if (!text)
    return g_strdup (NF_NO_TEXT);
  const gsize n = (gsize)B * config->txt_size * config->txt_dim;
  char *digest = g_compute_checksum_for_data (G_CHECKSUM_SHA256, (const guchar *)text, n * sizeof *text);
  digest[DIGEST_LENGTH] = '\0';
  return digest;
}

gboolean
nf_session_load_text (NfSession *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && path, FALSE);
  guint B = 0;
  g_autofree float *null_text = NULL;
  g_autofree float *text
      = read_texts (path, nf_model_get_config (nf_session_get_model (self)), &B, &null_text, error);
  if (!text)
    return FALSE;
  if (nf_session_set_text (self, text, null_text, B, error))
    {
      self->text_path = g_strdup (path);
      return TRUE;
    }
  g_prefix_error (error, "%s: ", path);
  return FALSE;
}

gboolean
nf_stream_load_text (NfStream *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_STREAM (self) && path, FALSE);
  guint B = 0;
  g_autofree float *text
      = read_texts (path, nf_model_get_config (nf_stream_get_model (self)), &B, NULL, error);
  if (!text)
    return FALSE;
  if (nf_stream_set_text (self, text, B, error))
    return TRUE;
  g_prefix_error (error, "%s: ", path);
  return FALSE;
}
