/* normflow: files of latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "latents.h"
#include "common.h"
#include "files.h"
#include "json.h"

#include <errno.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <glib/gstdio.h>

#define DIGEST_LENGTH 64
#define CORRECTION_WORDS 5

static void
info_clear (NfLatentsInfo *info)
{
  g_clear_pointer (&info->digest, g_free);
  g_clear_pointer (&info->precision, g_free);
  g_clear_pointer (&info->text, g_free);
  g_clear_pointer (&info->arithmetic, g_free);
  g_clear_pointer (&info->model, g_free);
  g_clear_pointer (&info->look, g_free);
}

static guint64
frame_values (const NfLatentsInfo *info)
{
  return (guint64)info->grid_height * info->grid_width * info->features;
}

/* In the file, with its score and action. */
static guint64
bytes_of_frame (const NfLatentsInfo *info)
{
  return frame_values (info) * (info->half ? 2 : 4) + ((guint64)info->action_dim + 1) * 4;
}

/* Writer */

struct _NfLatentsWriter
{
  char *path;
  char *temporary;
  FILE *file;
  NfLatentsInfo info;
  GArray *bits;      /* of float */
  GArray *actions;   /* of float, action_dim a frame */
  FILE *corrections; /* as they will be in the file, until it is closed; it has no name. NULL before the first
                      */
  guint64 n_corrections;
  guint8 *frame; /* as in the file */
  gsize header;  /* bytes that the header takes, its length included */
};

void
nf_latents_writer_free (NfLatentsWriter *self)
{
  if (self->file)
    fclose (self->file);
  if (self->temporary)
    g_unlink (self->temporary);
  g_array_unref (self->bits);
  g_array_unref (self->actions);
  if (self->corrections)
    fclose (self->corrections);
  info_clear (&self->info);
  g_free (self->frame);
  g_free (self->temporary);
  g_free (self->path);
  g_free (self);
}

static void
add_tensor (JsonBuilder *builder, const char *name, const char *dtype, const guint64 *dims, guint n_dims,
            guint64 begin, guint64 end)
{
  json_builder_set_member_name (builder, name);
  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "dtype");
  json_builder_add_string_value (builder, dtype);
  json_builder_set_member_name (builder, "shape");
  json_builder_begin_array (builder);
  for (guint i = 0; i < n_dims; i++)
    json_builder_add_int_value (builder, (gint64)dims[i]);
  json_builder_end_array (builder);
  json_builder_set_member_name (builder, "data_offsets");
  json_builder_begin_array (builder);
  json_builder_add_int_value (builder, (gint64)begin);
  json_builder_add_int_value (builder, (gint64)end);
  json_builder_end_array (builder);
  json_builder_end_object (builder);
}

static char *
make_header (const NfLatentsInfo *info, guint64 n_frames, guint64 n_corrections)
{
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  const guint64 dims[] = { n_frames, info->grid_height, info->grid_width, info->features };
  const guint64 action_dims[] = { n_frames, info->action_dim };
  const guint64 correction_dims[] = { n_corrections, CORRECTION_WORDS };
  const guint64 latents = n_frames * frame_values (info) * (info->half ? 2 : 4),
                bits = latents + n_frames * 4, actions = bits + n_frames * info->action_dim * 4,
                corrections = actions + n_corrections * CORRECTION_WORDS * 4;
  g_autofree char *width = g_strdup_printf ("%u", info->width);
  g_autofree char *height = g_strdup_printf ("%u", info->height);
  g_autofree char *rate = g_strdup_printf ("%d/%d", info->rate_n, info->rate_d);

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "__metadata__");
  json_builder_begin_object (builder);
  nf_json_add_string (builder, "format", NF_LATENTS_FORMAT);
  nf_json_add_string (builder, "model_digest", info->digest);
  nf_json_add_string (builder, "model", info->model);
  nf_json_add_string (builder, "width", width);
  nf_json_add_string (builder, "height", height);
  nf_json_add_string (builder, "pixel_layout", nf_pixel_layout_name (info->layout));
  nf_json_add_string (builder, "frame_rate", rate);
  nf_json_add_string (builder, "precision", info->precision);
  nf_json_add_string (builder, "multiplied_by", info->arithmetic);
  if (info->text)
    nf_json_add_string (builder, "text_digest", info->text);
  if (info->look && *info->look)
    nf_json_add_string (builder, "look", info->look);
  if (info->context >= 0)
    {
      g_autofree char *context = g_strdup_printf ("%d", info->context);
      g_autofree char *key_int_max = g_strdup_printf ("%u", info->key_int_max);

      nf_json_add_string (builder, "context", context);
      nf_json_add_string (builder, "key_int_max", key_int_max);
    }
  json_builder_end_object (builder);
  add_tensor (builder, "latents", info->half ? "F16" : "F32", dims, 4, 0, latents);
  add_tensor (builder, "bits_per_dim", "F32", dims, 1, latents, bits);
  if (info->action_dim)
    add_tensor (builder, "actions", "F32", action_dims, 2, bits, actions);
  if (n_corrections)
    add_tensor (builder, "corrections", "I32", correction_dims, 2, actions, corrections);
  json_builder_end_object (builder);
  return nf_json_text (builder, FALSE);
}

static gboolean
fail (NfLatentsWriter *self, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: cannot be written: %s", self->path, g_strerror (errno));
  return FALSE;
}

/* The header for N_FRAMES at the beginning of the file. */
static gboolean
write_header (NfLatentsWriter *self, guint64 n_frames, GError **error)
{
  g_autofree char *json = make_header (&self->info, n_frames, self->n_corrections);
  g_autofree char *padded = g_malloc (self->header);
  const guint64 length = GUINT64_TO_LE (self->header - 8);

  memset (padded, ' ', self->header);
  memcpy (padded, &length, 8);
  memcpy (padded + 8, json, strlen (json));
  if (fseeko (self->file, 0, SEEK_SET) != 0 || fwrite (padded, 1, self->header, self->file) != self->header)
    return fail (self, error);
  return TRUE;
}

NfLatentsWriter *
nf_latents_writer_open (const char *path, NfModel *model, const NfLatentsInfo *info, GError **error)
{
  const NfConfig *config = nf_model_get_config (model);
  g_autoptr (NfLatentsWriter) self = g_new0 (NfLatentsWriter, 1);
  g_autofree char *longest = NULL;
  g_autofree char *base = NULL;
  NfGrid grid;

  self->bits = g_array_new (FALSE, FALSE, sizeof (float));
  self->actions = g_array_new (FALSE, TRUE, sizeof (float));
  self->path = g_strdup (path);
  if (!nf_grid_init (&grid, config, info->width, info->height, error))
    return NULL;
  base = nf_model_get_path (model) ? g_path_get_basename (nf_model_get_path (model)) : g_strdup ("");
  self->info = *info;
  self->info.layout = config->layout;
  self->info.look = g_strdup (info->look);
  self->info.text = g_strdup (info->text);
  self->info.grid_width = grid.grid_width;
  self->info.grid_height = grid.grid_height;
  self->info.features = grid.features;
  self->info.digest = g_strdup (nf_model_get_digest (model));
  self->info.precision = g_strdup (nf_device_get_precision (nf_model_get_device (model)));
  self->info.arithmetic = g_strdup (nf_device_get_arithmetic (nf_model_get_device (model)));
  self->info.model = g_filename_display_name (base);
  self->frame = g_malloc (nf_grid_latents (&grid) * sizeof (float));

  /* Room for as many frames as a file offset can count; rounded so that data are aligned. */
  longest = make_header (&self->info, G_MAXINT64 / bytes_of_frame (&self->info), G_MAXUINT32);
  self->header = (8 + strlen (longest) + 63) / 64 * 64;
  self->temporary = nf_temporary_name (path, error);
  if (!self->temporary)
    return NULL;
  self->file = g_fopen (self->temporary, "wbe");
  if (!self->file)
    {
      fail (self, error);
      return NULL;
    }
  return write_header (self, 0, error) ? g_steal_pointer (&self) : NULL;
}

static void
to_little_endian (guint8 *data, gsize n, gsize size)
{
  if (G_BYTE_ORDER == G_LITTLE_ENDIAN)
    return;
  for (gsize i = 0; i < n; i++)
    for (gsize j = 0; j < size / 2; j++)
      {
        guint8 byte = data[i * size + j];

        data[i * size + j] = data[i * size + size - 1 - j];
        data[i * size + size - 1 - j] = byte;
      }
}

/* Of the next frame. They wait in a file of their own, since they come behind the latents of all frames. */
static gboolean
put_corrections (NfLatentsWriter *self, const NfCorrections *corrections, GError **error)
{
  if (!self->corrections)
    {
      g_autofree char *path = nf_temporary_name (self->path, error);
      if (!path)
        return FALSE;
      self->corrections = g_fopen (path, "w+be");
      if (!self->corrections)
        return fail (self, error);
      g_unlink (path);
    }
  for (gsize i = 0; i < corrections->n; i++)
    {
      const NfCorrection *item = &corrections->items[i];
      guint32 words[CORRECTION_WORDS] = { self->bits->len, item->sample, item->block, item->place };
      memcpy (&words[4], &item->value, sizeof item->value);
      to_little_endian ((guint8 *)words, CORRECTION_WORDS, 4);
      if (fwrite (words, sizeof words, 1, self->corrections) != 1)
        return fail (self, error);
    }
  self->n_corrections += corrections->n;
  return TRUE;
}

/* Those of all frames to the end of the file. */
static gboolean
append_corrections (NfLatentsWriter *self, GError **error)
{
  guint8 part[1 << 14];
  gsize n;
  if (!self->corrections)
    return TRUE;
  if (fseeko (self->corrections, 0, SEEK_SET) != 0)
    return fail (self, error);
  while ((n = fread (part, 1, sizeof part, self->corrections)) > 0)
    if (fwrite (part, 1, n, self->file) != n)
      return fail (self, error);
  return !ferror (self->corrections) || fail (self, error);
}

gboolean
nf_latents_writer_put (NfLatentsWriter *self, const float *latents, const float *action,
                       const NfCorrections *corrections, double bits_per_dim, GError **error)
{
  const gsize n = frame_values (&self->info), size = self->info.half ? 2 : 4;
  const float bits = (float)bits_per_dim;

  if (self->info.half)
    {
      nf_half_from_float (latents, (guint16 *)(gpointer)self->frame, n);
      for (gsize i = 0; i < n; i++)
        if ((((const guint16 *)(gconstpointer)self->frame)[i] & 0x7c00) == 0x7c00)
          {
            g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                         "frame %u: the latent %g does not fit half precision; write single precision",
                         self->bits->len, (double)latents[i]);
            return FALSE;
          }
    }
  else
    memcpy (self->frame, latents, n * size);
  to_little_endian (self->frame, n, size);
  if (fwrite (self->frame, size, n, self->file) != n)
    return fail (self, error);
  if (corrections && corrections->n > 0 && !self->info.half && !put_corrections (self, corrections, error))
    return FALSE;
  g_array_append_val (self->bits, bits);
  if (action)
    g_array_append_vals (self->actions, action, self->info.action_dim);
  else
    g_array_set_size (self->actions, self->bits->len * self->info.action_dim);
  return TRUE;
}

guint64
nf_latents_writer_get_bytes (NfLatentsWriter *self)
{
  return self->header + self->bits->len * bytes_of_frame (&self->info)
         + self->n_corrections * CORRECTION_WORDS * 4;
}

gboolean
nf_latents_writer_close (NfLatentsWriter *self, GError **error)
{
  FILE *file = self->file;
  const guint n_frames = self->bits->len;
  gboolean closed;

  if (!n_frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: there is no frame to write", self->path);
      return FALSE;
    }
  to_little_endian ((guint8 *)self->bits->data, n_frames, 4);
  to_little_endian ((guint8 *)self->actions->data, self->actions->len, 4);
  if (fwrite (self->bits->data, 4, n_frames, file) != n_frames
      || (self->actions->len
          && fwrite (self->actions->data, 4, self->actions->len, file) != self->actions->len))
    return fail (self, error);
  if (!append_corrections (self, error) || !write_header (self, n_frames, error))
    return FALSE;
  self->file = NULL;
  closed = fclose (file) == 0;
  if (!closed)
    return fail (self, error);
  if (!nf_publish (self->temporary, self->path, error))
    return FALSE;
  g_clear_pointer (&self->temporary, g_free);
  return TRUE;
}

/* Reader */

struct _NfLatentsReader
{
  NfTensorFile *file;
  const NfTensor *latents;
  const NfTensor *bits;
  const NfTensor *actions;     /* NULL without any */
  const NfTensor *corrections; /* likewise */
  NfLatentsInfo info;
};

void
nf_latents_reader_free (NfLatentsReader *self)
{
  g_clear_object (&self->file);
  info_clear (&self->info);
  g_free (self);
}

gboolean
nf_latents_is_file (NfTensorFile *file)
{
  return g_strcmp0 (nf_tensor_file_get_metadata (file, "format"), NF_LATENTS_FORMAT) == 0;
}

static gboolean
wrong (NfLatentsReader *self, GError **error, const char *what, const char *value)
{
  g_autofree char *shown = value ? nf_shorten (value) : NULL;

  g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: %s is %s%s%s; normflow encode writes it anew",
               nf_tensor_file_get_path (self->file), what, value ? "\"" : "missing", value ? shown : "",
               value ? "\", which is not possible" : "");
  return FALSE;
}

static gboolean
read_strings (NfLatentsReader *self, GError **error)
{
  const char *digest = nf_tensor_file_get_metadata (self->file, "model_digest");
  const char *model = nf_tensor_file_get_metadata (self->file, "model");
  const char *width = nf_tensor_file_get_metadata (self->file, "width");
  const char *height = nf_tensor_file_get_metadata (self->file, "height");
  const char *layout = nf_tensor_file_get_metadata (self->file, "pixel_layout");
  const char *rate = nf_tensor_file_get_metadata (self->file, "frame_rate");
  const char *precision = nf_tensor_file_get_metadata (self->file, "precision");
  const char *arithmetic = nf_tensor_file_get_metadata (self->file, "multiplied_by");
  const char *text = nf_tensor_file_get_metadata (self->file, "text_digest");
  const char *context = nf_tensor_file_get_metadata (self->file, "context");
  const char *keys = nf_tensor_file_get_metadata (self->file, "key_int_max");
  g_autofree char *size = g_strdup_printf ("%sx%s", width ? width : "", height ? height : "");
  guint64 kept = 0, key_int_max = 0;

  if (!digest || strlen (digest) != DIGEST_LENGTH || strspn (digest, "0123456789abcdef") != DIGEST_LENGTH)
    return wrong (self, error, "model_digest", digest);
  if (!nf_parse_size (size, &self->info.width, &self->info.height))
    return wrong (self, error, "the size (width and height)", size);
  if (!layout || !nf_pixel_layout_from_name (layout, &self->info.layout))
    return wrong (self, error, "pixel_layout", layout);
  if (!rate || !nf_parse_rate (rate, &self->info.rate_n, &self->info.rate_d))
    return wrong (self, error, "frame_rate", rate);
  if (precision && !g_strv_contains (nf_device_precisions (), precision))
    return wrong (self, error, "precision", precision);
  if (arithmetic && !nf_is_word (arithmetic))
    return wrong (self, error, "multiplied_by", arithmetic);
  if (text && !nf_is_word (text))
    return wrong (self, error, "text_digest", text);
  if (context && !g_ascii_string_to_unsigned (context, 10, 0, G_MAXINT, &kept, NULL))
    return wrong (self, error, "context", context);
  if (context && (!keys || !g_ascii_string_to_unsigned (keys, 10, 0, G_MAXINT, &key_int_max, NULL)))
    return wrong (self, error, "key_int_max", keys);
  self->info.context = context ? (int)kept : -1;
  self->info.key_int_max = (guint)key_int_max;
  self->info.precision = g_strdup (precision);
  self->info.arithmetic = g_strdup (arithmetic);
  self->info.text = g_strdup (text);
  self->info.look = g_strdup (nf_tensor_file_get_metadata (self->file, "look"));
  self->info.digest = g_strdup (digest);
  self->info.model = g_strdup (model ? model : "");
  return TRUE;
}

/* Word WORD of correction I, which need not be aligned. */
static gint32
correction_word (const NfLatentsReader *self, guint64 i, guint word)
{
  gint32 value;
  memcpy (&value, self->corrections->data + (i * CORRECTION_WORDS + word) * sizeof value, sizeof value);
  return GINT32_FROM_LE (value);
}

/* Which frames they are of; the rest is checked when they are decoded. */
static gboolean
check_corrections (NfLatentsReader *self, GError **error)
{
  const NfTensor *tensor = self->corrections;
  const guint64 n_frames = self->latents->dims[0];
  gboolean sound
      = tensor->n_dims == 2 && tensor->dims[1] == CORRECTION_WORDS && tensor->dtype == NF_DTYPE_I32;
  for (guint64 i = 0; sound && i < tensor->dims[0]; i++)
    {
      const gint32 frame = correction_word (self, i, 0);
      sound
          = frame >= 0 && (guint64)frame < n_frames && (i == 0 || correction_word (self, i - 1, 0) <= frame);
    }
  if (!sound)
    g_set_error (
        error, NF_ERROR, NF_ERROR_FORMAT,
        "%s: the tensor corrections must be of (corrections, %d), I32, frame after frame; normflow encode "
        "writes it anew",
        nf_tensor_file_get_path (self->file), CORRECTION_WORDS);
  return sound;
}

NfLatentsReader *
nf_latents_reader_open (NfTensorFile *file, GError **error)
{
  g_autoptr (NfLatentsReader) self = g_new0 (NfLatentsReader, 1);
  const char *path = nf_tensor_file_get_path (file);

  self->file = g_object_ref (file);
  if (!nf_latents_is_file (file))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: is not a file of latents; normflow encode makes them%s", path,
                   nf_tensor_file_get_metadata (file, "config") ? " (this looks like a model)" : "");
      return NULL;
    }
  self->latents = nf_tensor_file_lookup (file, "latents");
  self->bits = nf_tensor_file_lookup (file, "bits_per_dim");
  if (!self->latents || self->latents->n_dims != 4 || !self->latents->n_elements
      || (self->latents->dtype != NF_DTYPE_F32 && self->latents->dtype != NF_DTYPE_F16))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: needs a tensor latents of (frames, rows, columns, features), F32 or F16", path);
      return NULL;
    }
  if (!self->bits || self->bits->n_dims != 1 || self->bits->dims[0] != self->latents->dims[0]
      || self->bits->dtype != NF_DTYPE_F32)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: needs a tensor bits_per_dim of (%" G_GUINT64_FORMAT "), F32, as many as frames", path,
                   self->latents->dims[0]);
      return NULL;
    }
  self->actions = nf_tensor_file_lookup (file, "actions");
  if (self->actions
      && (self->actions->n_dims != 2 || self->actions->dims[0] != self->latents->dims[0]
          || self->actions->dims[1] > G_MAXINT32 || self->actions->dtype != NF_DTYPE_F32))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: the tensor actions must be of (%" G_GUINT64_FORMAT
                   ", features), F32, as many as frames",
                   path, self->latents->dims[0]);
      return NULL;
    }
  self->corrections = nf_tensor_file_lookup (file, "corrections");
  if (self->corrections && !check_corrections (self, error))
    return NULL;
  self->info.n_corrections = self->corrections ? self->corrections->dims[0] : 0;
  for (guint i = 1; i < 4; i++)
    if (self->latents->dims[i] > G_MAXINT32)
      {
        g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: dimension %u of latents is %" G_GUINT64_FORMAT,
                     path, i, self->latents->dims[i]);
        return NULL;
      }
  self->info.n_frames = self->latents->dims[0];
  self->info.grid_height = (guint)self->latents->dims[1];
  self->info.grid_width = (guint)self->latents->dims[2];
  self->info.features = (guint)self->latents->dims[3];
  self->info.action_dim = self->actions ? (guint)self->actions->dims[1] : 0;
  self->info.half = self->latents->dtype == NF_DTYPE_F16;
  return read_strings (self, error) ? g_steal_pointer (&self) : NULL;
}

const NfLatentsInfo *
nf_latents_reader_get_info (NfLatentsReader *self)
{
  return &self->info;
}

gboolean
nf_latents_reader_check_model (NfLatentsReader *self, NfModel *model, GError **error)
{
  const NfLatentsInfo *info = &self->info;
  const NfConfig *config = nf_model_get_config (model);
  const char *path = nf_tensor_file_get_path (self->file);
  NfGrid grid;

  if (strcmp (info->digest, nf_model_get_digest (model)) != 0)
    {
      const char *name = nf_model_get_path (model);
      g_autofree char *shown = nf_shorten (info->model);

      g_set_error (
          error, NF_ERROR, NF_ERROR_DATA,
          "%s: these latents are of model %s%swith digest %s, but %s has digest %s; give their model "
          "with --model",
          path, shown, *shown ? " " : "", info->digest, name ? name : "the model",
          nf_model_get_digest (model));
      return FALSE;
    }
  if ((info->context >= 0) != (config->frames > 0)
      || (info->action_dim && (info->context < 0 || info->action_dim != config->action_dim)))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: latents of %s with %u features of actions, but the model is one of %s with %u", path,
                   info->context < 0 ? "pictures" : "a stream", info->action_dim,
                   config->frames ? "videos" : "pictures", config->action_dim);
      return FALSE;
    }
  if (config->frames
      && (info->width != nf_config_columns (config) || info->height != nf_config_rows (config)))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: latents of frames of %ux%u, but the model of videos takes %ux%u only", path,
                   info->width, info->height, nf_config_columns (config), nf_config_rows (config));
      return FALSE;
    }
  if (!nf_grid_init (&grid, config, info->width, info->height, error))
    return FALSE;
  if (info->layout != config->layout || info->grid_width != grid.grid_width
      || info->grid_height != grid.grid_height || info->features != grid.features)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                   "%s: latents of (%u, %u, %u) in %s, but the model makes (%u, %u, %u) in %s of a frame of "
                   "%ux%u",
                   path, info->grid_height, info->grid_width, info->features,
                   nf_pixel_layout_name (info->layout), grid.grid_height, grid.grid_width, grid.features,
                   nf_pixel_layout_name (config->layout), info->width, info->height);
      return FALSE;
    }
  return TRUE;
}

gboolean
nf_latents_reader_get (NfLatentsReader *self, guint64 index, float *latents, GError **error)
{
  const guint64 n = frame_values (&self->info);
  return nf_tensor_file_read (self->file, self->latents, index * n, n, latents, error);
}

gboolean
nf_latents_reader_get_action (NfLatentsReader *self, guint64 index, float *action, GError **error)
{
  const guint64 n = self->info.action_dim;
  return !self->actions || nf_tensor_file_read (self->file, self->actions, index * n, n, action, error);
}

NfCorrections
nf_latents_reader_get_corrections (NfLatentsReader *self, guint64 index, GArray *items)
{
  const guint64 n = self->info.n_corrections;
  guint64 first = 0;

  g_array_set_size (items, 0);
  for (guint64 end = n; first < end;)
    {
      const guint64 middle = first + (end - first) / 2;
      if ((guint64)correction_word (self, middle, 0) < index)
        first = middle + 1;
      else
        end = middle;
    }
  for (guint64 i = first; i < n && (guint64)correction_word (self, i, 0) == index; i++)
    {
      const gint32 bits = correction_word (self, i, 4);
      NfCorrection item = { (guint32)correction_word (self, i, 1), (guint32)correction_word (self, i, 2),
                            (guint32)correction_word (self, i, 3), 0 };
      memcpy (&item.value, &bits, sizeof bits);
      g_array_append_val (items, item);
    }
  return (NfCorrections){ (const NfCorrection *)(gpointer)items->data, items->len };
}

float
nf_latents_reader_get_bits_per_dim (NfLatentsReader *self, guint64 index)
{
  NfTensor part = *self->bits;
  float bits;

  part.n_elements = 1;
  part.data += index * nf_dtype_size (part.dtype);
  nf_tensor_to_float (&part, &bits);
  return bits;
}
