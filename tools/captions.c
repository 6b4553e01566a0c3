/* normflow: text features of training files. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "captions.h"
#include "nf-random.h"

#include <string.h>

#define NULL_TEXT "null_text"

/* Philox stream: which caption of a file a sample is told. */
#define STREAM_CAPTIONS (G_GUINT64_CONSTANT (4) << 56)

struct _NfCaptions
{
  NfTensorFile *file;
  GPtrArray *names;
  const NfConfig *config;
  float *text, *null_text;
};

NfCaptions *
nf_captions_open (const char *path, GError **error)
{
  g_autoptr (NfCaptions) self = g_new0 (NfCaptions, 1);
  self->file = nf_tensor_file_open (path, error);
  return self->file ? g_steal_pointer (&self) : NULL;
}

void
nf_captions_free (NfCaptions *self)
{
  if (!self)
    return;
  g_clear_object (&self->file);
  g_clear_pointer (&self->names, g_ptr_array_unref);
  g_free (self->text);
  g_free (self->null_text);
  g_free (self);
}

void
nf_captions_get_size (NfCaptions *self, NfConfig *config)
{
  for (guint i = 0; i < nf_tensor_file_count (self->file); i++)
    {
      const NfTensor *tensor = nf_tensor_file_get (self->file, i);
      if (tensor->n_dims == 3)
        {
          config->txt_size = (guint)MIN (tensor->dims[1], G_MAXUINT);
          config->txt_dim = (guint)MIN (tensor->dims[2], G_MAXUINT);
          return;
        }
    }
}

/* As nf_text_read() takes it. */
static gboolean
fits (const NfTensor *tensor, const NfConfig *config)
{
  return (tensor->dtype == NF_DTYPE_F64 || tensor->dtype == NF_DTYPE_F32 || tensor->dtype == NF_DTYPE_F16
          || tensor->dtype == NF_DTYPE_BF16)
         && tensor->n_dims == 3 && tensor->dims[0] > 0 && tensor->dims[1] == config->txt_size
         && tensor->dims[2] == config->txt_dim;
}

gboolean
nf_captions_check (NfCaptions *self, GPtrArray *names, const NfConfig *config, GError **error)
{
  const char *path = nf_tensor_file_get_path (self->file);
  guint n;
  self->names = g_ptr_array_ref (names);
  self->config = config;
  for (guint i = 0; i < names->len; i++)
    {
      const char *name = names->pdata[i];
      const NfTensor *tensor = nf_tensor_file_lookup (self->file, name);
      if (!tensor)
        {
          g_autofree char *shown = g_filename_display_name (name);
          g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                       "%s holds no text of %s: it needs a tensor for each file, called as the file is", path,
                       shown);
          return FALSE;
        }
      if (fits (tensor, config))
        continue;
      g_autofree float *none = nf_text_read (self->file, name, config, &n, error);
      return FALSE;
    }
  if (!nf_tensor_file_lookup (self->file, NULL_TEXT))
    return TRUE;
  self->null_text = nf_text_read (self->file, NULL_TEXT, config, &n, error);
  if (self->null_text && n != 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: " NULL_TEXT " is of %u samples; there is one of it",
                   path, n);
      return FALSE;
    }
  return self->null_text != NULL;
}

gboolean
nf_captions_tell (NfCaptions *self, NfTrainBatch *batch, guint64 seed, guint64 first, GError **error)
{
  const gsize one = (gsize)self->config->txt_size * self->config->txt_dim;
  g_free (self->text);
  self->text = g_new0 (float, batch->B *one);
  for (guint i = 0; i < batch->B; i++)
    {
      guint n = 0;
      if (batch->labels[i] < 0)
        continue;
      g_autofree float *all
          = nf_text_read (self->file, self->names->pdata[batch->labels[i]], self->config, &n, error);
      if (!all)
        return FALSE;
      const guint which = (guint)(n * nf_random_uniform (seed, STREAM_CAPTIONS, first + i));
      memcpy (self->text + i * one, all + which * one, one * sizeof *all);
    }
  batch->text = self->text;
  batch->null_text = self->null_text;
  return TRUE;
}
