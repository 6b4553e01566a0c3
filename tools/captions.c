/* normflow: text features of training files. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "captions.h"
#include "nf-random.h"

#include <math.h>
#include <string.h>

#define NULL_TEXT "null_text"

/* Philox stream: which caption of a file a sample is told. */
#define STREAM_CAPTIONS (G_GUINT64_CONSTANT (4) << 56)

struct _NfCaptions
{
  NfTensorFile *file;
  GPtrArray *names;
  const NfConfig *config;
  GChecksum *checksum;
  float *text, *nothing;
};

NfCaptions *
nf_captions_open (const char *path, GPtrArray *names, GError **error)
{
  g_autoptr (NfCaptions) self = g_new0 (NfCaptions, 1);
  self->names = g_ptr_array_ref (names);
  self->checksum = g_checksum_new (G_CHECKSUM_SHA256);
  self->file = nf_tensor_file_open (path, error);
  for (guint i = 0; self->file && i < names->len; i++)
    if (!nf_tensor_file_lookup (self->file, names->pdata[i]))
      {
        g_autofree char *shown = nf_shorten (names->pdata[i]);
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s holds no text of %s: it needs a tensor for each file, called as the file is", path,
                     shown);
        return NULL;
      }
  return self->file ? g_steal_pointer (&self) : NULL;
}

void
nf_captions_free (NfCaptions *self)
{
  if (!self)
    return;
  g_clear_object (&self->file);
  g_ptr_array_unref (self->names);
  g_checksum_free (self->checksum);
  g_free (self->text);
  g_free (self->nothing);
  g_free (self);
}

gboolean
nf_captions_get_size (NfCaptions *self, NfConfig *config, GError **error)
{
  const NfTensor *tensor = nf_tensor_file_lookup (self->file, self->names->pdata[0]);
  if (tensor->n_dims != 3 || tensor->n_elements < 1)
    {
      g_autofree char *shown = nf_shorten (self->names->pdata[0]);
      g_set_error (
          error, NF_ERROR, NF_ERROR_DATA,
          "%s: the tensor %s must be of shape (captions, tokens, features), with one or more of each",
          nf_tensor_file_get_path (self->file), shown);
      return FALSE;
    }
  config->txt_size = (guint)MIN (tensor->dims[1], G_MAXUINT);
  config->txt_dim = (guint)MIN (tensor->dims[2], G_MAXUINT);
  return TRUE;
}

/* All captions of NAME, N of them. */
static float *
read_text (NfCaptions *self, const char *name, guint *n, GError **error)
{
  const gsize one = (gsize)self->config->txt_size * self->config->txt_dim;
  g_autofree float *text = nf_text_read (self->file, name, self->config, n, error);
  for (gsize i = 0; text && i < *n * one; i++)
    if (!isfinite (text[i]))
      {
        g_autofree char *shown = nf_shorten (name);
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: value %" G_GSIZE_FORMAT " of %s is not finite",
                     nf_tensor_file_get_path (self->file), i, shown);
        return NULL;
      }
  return g_steal_pointer (&text);
}

gboolean
nf_captions_check (NfCaptions *self, const NfConfig *config, GError **error)
{
  const gsize one = (gsize)config->txt_size * config->txt_dim;
  guint n;
  self->config = config;
  for (guint i = 0; i < self->names->len; i++)
    {
      g_autofree float *text = read_text (self, self->names->pdata[i], &n, error);
      if (!text)
        return FALSE;
      g_checksum_update (self->checksum, (const guchar *)&n, sizeof n);
      g_checksum_update (self->checksum, (const guchar *)text, (gssize)(n * one * sizeof *text));
    }
  if (!nf_tensor_file_lookup (self->file, NULL_TEXT))
    return TRUE;
  self->nothing = read_text (self, NULL_TEXT, &n, error);
  if (self->nothing && n != 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: " NULL_TEXT " is of %u samples; there is one of it",
                   nf_tensor_file_get_path (self->file), n);
      return FALSE;
    }
  if (self->nothing)
    g_checksum_update (self->checksum, (const guchar *)self->nothing, (gssize)(one * sizeof (float)));
  return self->nothing != NULL;
}

const char *
nf_captions_get_digest (NfCaptions *self)
{
  return g_checksum_get_string (self->checksum);
}

const float *
nf_captions_get_nothing (NfCaptions *self)
{
  return self->nothing;
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
      /* all were found finite, and the trainer looks at what it is told */
      g_autofree float *all
          = nf_text_read (self->file, self->names->pdata[batch->labels[i]], self->config, &n, error);
      if (!all)
        return FALSE;
      const guint which = (guint)(n * nf_random_uniform (seed, STREAM_CAPTIONS, first + i));
      memcpy (self->text + i * one, all + which * one, one * sizeof *all);
    }
  batch->text = self->text;
  batch->null_text = self->nothing;
  return TRUE;
}
