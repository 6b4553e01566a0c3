/* normflow sample: another model's latents, and videos. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sample.h"

#include "output.h"

#include <string.h>

#define AT_ONCE 8 /* samples that go through the flow together */
/* What the official script has: of windows of 21 frames 5 are new. */
#define DEFAULT_CONTEXT 16

/* Samples as tokens. */
typedef struct
{
  NfSample *sample;
  NfSession *session;
  NfConfig *config; /* the model's, with the size that is asked for */
  gsize n;          /* values of a sample */
  guint frames;     /* of a sample, 1 for an image */
  guint window;     /* frames that go through the flow together */
  guint context;    /* frames that a window begins with, if all frames are several */
  float *given;     /* (count or 1, frames, ...): values of frames that are given, others 0; or NULL */
  guint n_given;    /* samples there */
  guint known;      /* frames that are given */
} Tokens;

static void
tokens_clear (Tokens *self)
{
  g_clear_pointer (&self->config, nf_config_free);
  g_clear_pointer (&self->given, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Tokens, tokens_clear)

static gboolean
no_memory (guint count, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %u samples: ask for fewer", count);
  return FALSE;
}

/* Frames of the file that videos are to begin with, on tokens, with the noise that the model has seen. */
static gboolean
read_given (Tokens *self, GError **error)
{
  const NfSample *sample = self->sample;
  const NfConfig *config = self->config;
  const guint rows = nf_config_rows (config), columns = nf_config_columns (config);
  const gsize frame = self->n / self->frames;
  g_autoptr (NfTensorFile) file = nf_tensor_file_open (sample->given, error);
  if (!file)
    return FALSE;
  const NfTensor *tensor = nf_tensor_file_lookup (file, "given");
  if (!tensor)
    tensor = nf_tensor_file_lookup (file, "samples");
  if (!tensor && nf_tensor_file_count (file) == 1)
    tensor = nf_tensor_file_get (file, 0);
  const guint all = tensor && tensor->n_dims == 5 ? 1 : 0;
  if (!tensor || tensor->n_dims != 4 + all || tensor->dtype > NF_DTYPE_BF16
      || (all && tensor->dims[0] != 1 && tensor->dims[0] != sample->count) || tensor->dims[all] < 1
      || tensor->dims[all + 1] != config->channels || tensor->dims[all + 2] != rows
      || tensor->dims[all + 3] != columns)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_DATA,
          "--given %s: needs a tensor \"given\" of floats (frames, %u, %u, %u), or one such for each video",
          sample->given, config->channels, rows, columns);
      return FALSE;
    }
  if (tensor->dims[all] >= self->window)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--given %s: has %" G_GUINT64_FORMAT " frames, %s have %u: 1 to %u can be given",
                   sample->given, tensor->dims[all],
                   self->window < self->frames ? "the model's samples" : "videos here", self->window,
                   self->window - 1);
      return FALSE;
    }
  /* each video has noise of its own on the frames that it begins with, also where they are the same */
  const guint n_images = all ? (guint)tensor->dims[0] : 1;
  self->n_given = nf_config_is_noisy (config) ? sample->count : n_images;
  self->known = (guint)tensor->dims[all];
  const gsize known = self->known * frame;
  g_autofree float *images = g_try_new (float, tensor->n_elements), *noise = g_try_new (float, known);
  self->given = g_try_new0 (float, self->n_given * self->n);
  if (!images || !noise || !self->given)
    return no_memory (sample->count, error);
  nf_tensor_to_float (tensor, images);
  for (guint i = 0; i < self->n_given; i++)
    {
      float *tokens = self->given + i * self->n;
      nf_patchify (config, images + (n_images > 1 ? i : 0) * known, self->known, tokens);
      /* not of the numbers that samples are drawn from */
      nf_random_normal (sample->seed, G_MAXUINT64 - i, known,
                        nf_config_is_noisy (config) ? config->noise_std : 0, noise);
      for (gsize j = 0; j < known; j++)
        tokens[j] += noise[j];
    }
  return TRUE;
}

/* How many frames go through the flow together: all, or as many as the model was trained with. */
static gboolean
settle_window (Tokens *self, guint trained, GError **error)
{
  const NfSample *sample = self->sample;
  self->window = self->frames;
  if (self->frames <= trained || !self->config->temporal_causal || trained < 2 || sample->context == 0)
    {
      if (sample->context <= 0)
        return TRUE;
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--context %d is for videos that are longer than the model's samples of %u frames, and "
                   "models that see no later frames",
                   sample->context, trained);
      return FALSE;
    }
  self->window = trained;
  self->context = sample->context > 0 ? (guint)sample->context : MIN (DEFAULT_CONTEXT, trained - 1);
  if (self->context < trained && sample->label < 0)
    return TRUE;
  g_set_error (
      error, NF_ERROR, NF_ERROR_ARGUMENT,
      sample->label < 0
          ? "--context %u does not fit the model's samples of %u frames: it is 1 to %u, or 0 for all "
            "frames at once"
          : "--context %u, windows of %u frames: with --class there is no other than 0, all frames "
            "at once",
      self->context, trained, trained - 1);
  return FALSE;
}

static gboolean
tokens_init (Tokens *self, NfSample *sample, NfSession *session, GError **error)
{
  self->sample = sample;
  self->session = session;
  self->config = nf_config_copy (nf_model_get_config (nf_session_get_model (session)));
  if (sample->width)
    {
      self->config->rows = sample->height;
      self->config->columns = sample->width;
    }
  const guint trained = self->config->frames;
  if (sample->frames)
    self->config->frames = sample->frames;
  self->frames = nf_config_frames (self->config);
  if (!settle_window (self, trained, error)
      || ((sample->width || sample->frames)
          && !nf_session_set_size (session, nf_config_rows (self->config), nf_config_columns (self->config),
                                   self->config->frames ? self->window : 0, error)))
    return FALSE;
  sample->width = nf_config_columns (self->config);
  sample->height = nf_config_rows (self->config);
  sample->frames = self->config->frames;
  self->n = (gsize)self->frames * nf_config_tokens (self->config) * nf_config_features (self->config);
  return !sample->given || read_given (self, error);
}

/* The next COUNT samples. */
static gboolean
draw (Tokens *self, guint count, float *x, GError **error)
{
  NfSample *sample = self->sample;
  NfDecodeOptions options = sample->options;
  g_autofree float *z = g_try_new (float, count * self->n), *given = NULL;
  gint labels[AT_ONCE];

  options.snap = FALSE; /* of no 8-bit values */
  if (!z)
    return no_memory (count, error);
  if (!nf_command_go_on (sample->command, error))
    return FALSE;
  nf_sample_choose_text (self->session, sample->done);
  for (guint i = 0; i < count; i++)
    {
      labels[i] = sample->label;
      nf_random_normal (sample->seed, sample->done + i, self->n, sample->temperature, z + i * self->n);
    }
  if (self->given && !(given = g_try_new (float, count * self->n)))
    return no_memory (count, error);
  for (guint i = 0; given && i < count; i++)
    memcpy (given + i * self->n, self->given + (self->n_given > 1 ? (gsize)sample->done + i : 0) * self->n,
            self->n * sizeof *given);
  const gboolean drawn
      = self->window < self->frames ? nf_session_roll (self->session, given, count, self->known, self->frames,
                                                       self->context, z, &options, x, error)
        : given ? nf_session_continue (self->session, given, count, self->known, z, &options, x, error)
                : nf_session_decode (self->session, z, count, sample->label < 0 ? NULL : labels, &options, x,
                                     error);
  if (drawn)
    nf_command_keep_residual (sample->command, self->session, NULL);
  return drawn;
}

gboolean
nf_sample_floats (NfSample *sample, NfSession *session, GError **error)
{
  const guint limit = nf_session_count_texts (session) > 1 ? 1 : AT_ONCE;
  g_auto (Tokens) tokens = { 0 };
  if (!tokens_init (&tokens, sample, session, error))
    return FALSE;

  const NfConfig *config = tokens.config;
  const gsize n = tokens.n;
  g_autofree float *samples = g_try_new (float, n * sample->count),
                   *x = g_try_new (float, n *MIN (limit, sample->count));
  if (!samples || !x)
    return no_memory (sample->count, error);
  for (; sample->done < sample->count; sample->done += sample->batch)
    {
      sample->batch = MIN (limit, sample->count - sample->done);
      if (!draw (&tokens, sample->batch, x, error))
        return FALSE;
      nf_unpatchify (config, x, sample->batch * tokens.frames, samples + sample->done * n);
    }
  NfTensor tensor = { .name = (char *)"samples",
                      .dtype = NF_DTYPE_F32,
                      .n_elements = n * sample->count,
                      .data = (const guint8 *)samples };
  tensor.dims[tensor.n_dims++] = sample->count;
  if (config->frames)
    tensor.dims[tensor.n_dims++] = tokens.frames;
  tensor.dims[tensor.n_dims++] = config->channels;
  tensor.dims[tensor.n_dims++] = sample->height;
  tensor.dims[tensor.n_dims++] = sample->width;
  return nf_tensor_file_write (sample->output, &tensor, 1, NULL, error);
}

/* Videos of pixels, side by side */

typedef struct
{
  NfSample *sample;
  NfOutput *output;
  NfPicture *sheet; /* NULL for one video */
  guint columns;    /* of the sheet */
  guint written;    /* frames */
} Videos;

static void
videos_clear (Videos *self)
{
  g_clear_pointer (&self->output, nf_output_free);
  g_clear_pointer (&self->sheet, nf_picture_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Videos, videos_clear)

static gboolean
videos_init (Videos *self, NfSample *sample, NfPixelLayout layout, GError **error)
{
  self->sample = sample;
  if (sample->count > 1
      && !(self->sheet = nf_sample_sheet_new (sample, layout, sample->count, &self->columns, error)))
    return FALSE;
  const guint width = self->sheet ? self->sheet->frame.width : sample->width,
              height = self->sheet ? self->sheet->frame.height : sample->height;
  self->output = nf_output_open (sample->command, sample->output, NULL, layout, width, height, sample->rate_n,
                                 sample->rate_d, NULL, error);
  return self->output != NULL;
}

/* The next frame of each video. */
static gboolean
put (Videos *self, NfPicture *const *pictures, GError **error)
{
  for (guint i = 0; self->sheet && i < self->sample->count; i++)
    nf_sample_place (self->sample, pictures[i], 0, self->sheet, i, self->columns);
  if (!nf_output_put (self->output, self->sheet ? &self->sheet->frame : &pictures[0]->frame, error))
    return FALSE;
  self->written++;
  return TRUE;
}

static GPtrArray *
new_pictures (const NfSample *sample, NfPixelLayout layout, gsize n, NfFrame *frames)
{
  GPtrArray *pictures = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);
  for (gsize i = 0; i < n; i++)
    {
      NfPicture *picture = nf_picture_new (layout, sample->width, sample->height);
      frames[i] = picture->frame;
      g_ptr_array_add (pictures, picture);
    }
  return pictures;
}

static gboolean
draw_stream (NfSample *sample, NfStream *stream, Videos *videos, GError **error)
{
  const NfPixelLayout layout = nf_model_get_config (nf_stream_get_model (stream))->layout;
  g_autofree NfFrame *frames = g_new0 (NfFrame, sample->count);
  g_autoptr (GPtrArray) pictures = new_pictures (sample, layout, sample->count, frames);
  NfPicture **all = (NfPicture **)pictures->pdata;

  for (guint drawn = 0; videos->written < sample->frames;)
    {
      const gboolean done = drawn < sample->frames
                                ? nf_stream_sample (stream, sample->seed, drawn++, sample->temperature, NULL,
                                                    &sample->options, NULL, frames, error)
                                : nf_stream_drain (stream, frames, error);
      if (!done || (nf_stream_is_shown (stream) && !put (videos, all, error)))
        return FALSE;
      nf_command_keep_residual (sample->command, NULL, stream);
      nf_progress_update (sample->command->progress, "frame %u of %u", videos->written, sample->frames);
    }
  return TRUE;
}

/* Frame by frame, as many as are wanted. */
static gboolean
sample_stream (NfSample *sample, NfStream *stream, GError **error)
{
  g_auto (Videos) videos = { 0 };

  if (!videos_init (&videos, sample, nf_model_get_config (nf_stream_get_model (stream))->layout, error)
      || !nf_stream_set_denoise (stream, sample->options.denoise, error))
    return FALSE;
  nf_stream_set_cancellable (stream, sample->command->cancellable);
  return nf_output_end (videos.output, draw_stream (sample, stream, &videos, error), sample->command, error);
}

/* Those of all frames of all videos, one video after the other. */
static gboolean
put_all (Videos *self, NfPicture *const *pictures, guint frames, GError **error)
{
  g_autofree NfPicture **now = g_new (NfPicture *, self->sample->count);
  for (guint f = 0; f < frames; f++)
    {
      for (guint i = 0; i < self->sample->count; i++)
        now[i] = pictures[(gsize)i * frames + f];
      if (!put (self, now, error))
        return FALSE;
    }
  return TRUE;
}

/* Whole videos, one after the other. */
static gboolean
draw_whole (NfSample *sample, NfSession *session, GError **error)
{
  g_auto (Tokens) tokens = { 0 };
  g_auto (Videos) videos = { 0 };
  if (!tokens_init (&tokens, sample, session, error)
      || !videos_init (&videos, sample, tokens.config->layout, error))
    return FALSE;

  g_autofree NfFrame *frames = g_new0 (NfFrame, (gsize)sample->count * tokens.frames);
  g_autoptr (GPtrArray) pictures
      = new_pictures (sample, tokens.config->layout, (gsize)sample->count * tokens.frames, frames);
  g_autofree float *x = g_try_new (float, tokens.n);
  if (!x)
    return no_memory (1, error);
  const gsize n = tokens.n / tokens.frames; /* of a frame */
  for (sample->batch = 1; sample->done < sample->count; sample->done++)
    {
      NfFrame *all = frames + (gsize)sample->done * tokens.frames;
      if (!draw (&tokens, 1, x, error))
        return FALSE;
      for (guint f = 0; f < tokens.frames; f += tokens.window)
        {
          const guint first = MIN (f, tokens.frames - tokens.window);
          if (!nf_session_show_video (session, x + first * n, all + first, error))
            return FALSE;
        }
    }
  const gboolean written = put_all (&videos, (NfPicture *const *)pictures->pdata, tokens.frames, error);
  return nf_output_end (videos.output, written, sample->command, error);
}

gboolean
nf_sample_videos (NfSample *sample, NfSession *session, GError **error)
{
  NfModel *model = nf_session_get_model (session);
  const NfConfig *config = nf_model_get_config (model);
  g_autoptr (NfStream) stream = NULL;
  g_autoptr (GError) local = NULL;
  if (sample->given)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "--given is for models of another model's latents; flowsample continues videos of pixels");
      return FALSE;
    }
  if (!sample->width && sample->options.guidance == 0 && sample->label < 0)
    stream = nf_stream_new_batch (model, sample->count, &local);
  if (!stream && local && !g_error_matches (local, NF_ERROR, NF_ERROR_UNSUPPORTED))
    {
      g_propagate_error (error, g_steal_pointer (&local));
      return FALSE;
    }
  if (!stream)
    return draw_whole (sample, session, error);
  if (sample->context == 0 || sample->context >= (gint)config->frames)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "--context %d: videos of this model are drawn frame by frame, in windows of %u; it is 1 to %u",
          sample->context, config->frames, config->frames - 1);
      return FALSE;
    }
  if (sample->context > 0 && !nf_stream_set_context (stream, (guint)sample->context, error))
    return FALSE;
  if (sample->command->text && !nf_stream_load_text (stream, sample->command->text, error))
    return FALSE;
  sample->width = nf_config_columns (config);
  sample->height = nf_config_rows (config);
  sample->frames = sample->frames ? sample->frames : config->frames;
  return sample_stream (sample, stream, error);
}
