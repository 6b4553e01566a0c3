/* normflow sample: pictures from the prior. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "output.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_COUNT 1000000
#define MAX_SHEET 4096
#define MAX_SIDE 16384
#define GAP 2
#define AT_ONCE 8 /* samples of another model's latents that go through the flow together */

typedef struct
{
  NfCommand *command;
  const char *output;
  guint count;
  guint width, height; /* 0: the model's own */
  guint64 seed;
  double temperature;
  int label;
  NfDecodeOptions options;
  int rate_n, rate_d;
  guint done;  /* pictures */
  guint batch; /* pictures in work */
  gint64 start;
} Sample;

static void
tell (const char *phase, double fraction, gpointer data)
{
  const Sample *sample = data;
  const double done = sample->done + sample->batch * fraction;
  const double seconds = (double)(g_get_monotonic_time () - sample->start) / G_USEC_PER_SEC;

  nf_progress_update (sample->command->progress, "%u of %u pictures, %3.0f %%, %.2f a second", sample->done,
                      sample->count, 100 * done / sample->count, done / MAX (seconds, 1e-6));
}

/* Pictures to come are of text INDEX, where there is one for each. */
static void
choose_text (NfSession *session, guint index)
{
  if (nf_session_count_texts (session) > 1)
    nf_session_choose_text (session, (gint)index);
}

/* Latents of picture INDEX, as flowsample draws frame INDEX. */
static void
draw (const Sample *sample, const NfGrid *grid, guint64 index, float *latents)
{
  nf_random_normal (sample->seed, index, nf_grid_latents (grid), sample->temperature, latents);
}

static gboolean
sample_video (Sample *sample, NfSession *session, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  g_autoptr (NfPicture) picture = nf_picture_new (config->layout, sample->width, sample->height);
  g_autoptr (NfOutput) output = nf_output_open (sample->output, NULL, config->layout, sample->width,
                                                sample->height, sample->rate_n, sample->rate_d, error);
  g_autofree float *latents = NULL;
  NfGrid grid;

  if (!output || !nf_grid_init (&grid, config, sample->width, sample->height, error))
    return FALSE;
  latents = g_new (float, nf_grid_latents (&grid));
  for (sample->batch = 1; sample->done < sample->count; sample->done++)
    {
      draw (sample, &grid, sample->done, latents);
      choose_text (session, sample->done);
      if (!nf_command_go_on (sample->command, error)
          || !nf_session_decode_frame (session, latents, sample->label, &sample->options, &picture->frame,
                                       error)
          || !nf_output_put (output, &picture->frame, error))
        {
          nf_progress_clear (sample->command->progress);
          nf_output_keep (output, sample->command->name);
          return FALSE;
        }
    }
  return nf_output_close (output, error);
}

/* Samples of a model of another model's latents: a tensor "samples" (count, C, rows, columns), which that
 * model's decoder takes. */
static gboolean
sample_floats (Sample *sample, NfSession *session, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  const gsize n = (gsize)config->channels * nf_config_rows (config) * nf_config_columns (config);
  const guint limit = nf_session_count_texts (session) > 1 ? 1 : AT_ONCE;
  g_autofree float *samples = g_try_new (float, n * sample->count), *z = g_new (float, n *limit),
                   *x = g_new (float, n *limit);
  gint labels[AT_ONCE];
  NfDecodeOptions options = sample->options;

  if (!samples)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %u samples: ask for fewer",
                   sample->count);
      return FALSE;
    }
  options.snap = FALSE; /* these are no 8-bit values */
  for (guint i = 0; i < AT_ONCE; i++)
    labels[i] = sample->label;
  for (; sample->done < sample->count; sample->done += sample->batch)
    {
      sample->batch = MIN (limit, sample->count - sample->done);
      choose_text (session, sample->done);
      for (guint i = 0; i < sample->batch; i++)
        nf_random_normal (sample->seed, sample->done + i, n, sample->temperature, z + i * n);
      if (!nf_command_go_on (sample->command, error)
          || !nf_session_decode (session, z, sample->batch, sample->label < 0 ? NULL : labels, &options, x,
                                 error))
        return FALSE;
      nf_unpatchify (config, x, sample->batch, samples + sample->done * n);
    }
  const NfTensor tensor
      = { .name = (char *)"samples",
          .dtype = NF_DTYPE_F32,
          .n_dims = 4,
          .dims = { sample->count, config->channels, nf_config_rows (config), nf_config_columns (config) },
          .n_elements = n * sample->count,
          .data = (const guint8 *)samples };
  sample->width = nf_config_columns (config);
  sample->height = nf_config_rows (config);
  return nf_tensor_file_write (sample->output, &tensor, 1, NULL, error);
}

/* Copies the picture in cell COLUMN of STRIP, cells of whole tiles, to its place on the sheet. */
static void
place (const Sample *sample, const NfPicture *strip, guint cell, guint column, NfPicture *sheet, guint index,
       guint columns)
{
  for (guint i = 0; i < nf_picture_planes (sheet->layout); i++)
    {
      const NfPlane *from = &strip->frame.planes[i], *to = &sheet->frame.planes[i];
      const guint half = sheet->layout == NF_PIXELS_YUV420 && i > 0 ? 2 : 1;
      const guint from_x = column * cell / half,
                  x = (GAP + index % columns * (sample->width + sample->width % 2 + GAP)) / half,
                  y = (GAP + index / columns * (sample->height + sample->height % 2 + GAP)) / half;
      guint w, h;

      nf_picture_extent (sheet->layout, i, sample->width, sample->height, &w, &h);
      for (guint row = 0; row < h; row++)
        memcpy (to->data + (gsize)(y + row) * (gsize)to->stride + x,
                from->data + (gsize)row * (gsize)from->stride + from_x, w);
    }
}

/* All pictures on one sheet. Those of a row are decoded as one wide frame: tiles know nothing of each other,
 * and a device has more to do at a time. */
static gboolean
sample_sheet (Sample *sample, NfSession *session, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  const guint columns = (guint)ceil (sqrt (sample->count)), rows = (sample->count + columns - 1) / columns;
  /* Even places, so that chroma samples stay with their pixels. */
  const guint64 width = GAP + (guint64)columns * (sample->width + sample->width % 2 + GAP),
                height = GAP + (guint64)rows * (sample->height + sample->height % 2 + GAP);
  g_autoptr (NfPicture) sheet = NULL;
  g_autoptr (NfOutput) output = NULL;
  NfGrid grid;

  if (!nf_grid_init (&grid, config, sample->width, sample->height, error))
    return FALSE;
  if (width > MAX_SIDE || height > MAX_SIDE || (guint64)columns * grid.tiles_x * config->img_size > MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%u pictures of %ux%u make a sheet larger than %d pixels; ask for fewer, or for a video",
                   sample->count, sample->width, sample->height, MAX_SIDE);
      return FALSE;
    }
  output = nf_output_open (sample->output, NULL, config->layout, (guint)width, (guint)height, 25, 1, error);
  if (!output)
    return FALSE;
  sheet = nf_picture_new (config->layout, (guint)width, (guint)height);
  memset (sheet->data, 128, sheet->size);

  /* pictures of a strip have one text */
  const guint limit = nf_session_count_texts (session) > 1 ? 1 : columns;
  for (sample->batch = limit; sample->done < sample->count; sample->done += sample->batch)
    {
      g_autoptr (NfPicture) strip = NULL;
      g_autofree float *latents = NULL, *one = g_new (float, nf_grid_latents (&grid));
      const gsize row = (gsize)grid.grid_width * grid.features;

      sample->batch = MIN (limit, sample->count - sample->done);
      choose_text (session, sample->done);
      strip = nf_picture_new (config->layout, sample->batch * grid.tiles_x * config->img_size,
                              grid.tiles_y * config->img_size);
      latents = g_new (float, sample->batch *nf_grid_latents (&grid));
      for (guint i = 0; i < sample->batch; i++)
        {
          draw (sample, &grid, sample->done + i, one);
          for (guint y = 0; y < grid.grid_height; y++)
            memcpy (latents + (y * (gsize)sample->batch + i) * row, one + y * row, row * sizeof *one);
        }
      if (!nf_command_go_on (sample->command, error)
          || !nf_session_decode_frame (session, latents, sample->label, &sample->options, &strip->frame,
                                       error))
        return FALSE;
      for (guint i = 0; i < sample->batch; i++)
        place (sample, strip, grid.tiles_x * config->img_size, i, sheet, sample->done + i, columns);
    }
  return nf_output_put (output, &sheet->frame, error) && nf_output_close (output, error);
}

static gboolean
sample_file (Sample *sample, gboolean sheet, gboolean floats, GError **error)
{
  g_autoptr (NfSession) session = nf_command_open (sample->command, error);
  const NfConfig *config;

  if (!session)
    return FALSE;
  config = nf_model_get_config (nf_session_get_model (session));
  const guint classes = nf_config_classes (config), texts = nf_session_count_texts (session);
  if (sample->label >= (int)classes)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   classes ? "--class %d: the model has the classes 0 to %u"
                           : "--class %d: the model has no classes",
                   sample->label, classes - 1);
      return FALSE;
    }
  if (texts > 1 && texts != sample->count)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--text %s is of %u samples, but %u pictures are drawn: one of each, or one for all",
                   sample->command->text, texts, sample->count);
      return FALSE;
    }
  if (sample->options.guidance != 0 && sample->label < 0 && texts == 0
      && (sample->options.attention_temperature == 1 || config->family == NF_FAMILY_STARFLOW))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--guidance %g needs something to lead away from: %s",
                   sample->options.guidance,
                   config->family == NF_FAMILY_STARFLOW ? (classes            ? "--class or --text"
                                                           : config->txt_size ? "--text"
                                                                              : "this model has no condition")
                   : classes                            ? "--class, or --attention-temperature other than 1"
                                                        : "--attention-temperature other than 1");
      return FALSE;
    }
  if (floats != (config->layout == NF_PIXELS_LATENT) || (floats && config->frames))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   config->frames ? "the model is one of videos: flowsample draws them"
                   : floats       ? "%s: the model is one of pictures, whose name ends in .png, .mkv or so"
                            : "%s: the model is one of another model's latents (pixel_layout latent), not of "
                              "pictures: a name that ends in .safetensors is for them",
                   sample->output);
      return FALSE;
    }
  if (!sample->width)
    sample->width = sample->height = config->img_size;
  nf_session_set_progress (session, tell, sample);
  sample->start = g_get_monotonic_time ();
  return floats  ? sample_floats (sample, session, error)
         : sheet ? sample_sheet (sample, session, error)
                 : sample_video (sample, session, error);
}

static gboolean
parse_guide (const char *text, guint *guide)
{
  *guide = 0;
  if (!text || strcmp (text, "ab") == 0)
    *guide = NF_GUIDE_SCALE | NF_GUIDE_SHIFT;
  else if (strcmp (text, "a") == 0)
    *guide = NF_GUIDE_SCALE;
  else if (strcmp (text, "b") == 0)
    *guide = NF_GUIDE_SHIFT;
  return *guide != 0;
}

int
nf_cmd_sample (int argc, char **argv)
{
  g_auto (NfCommand) command = { .decoding = { .snap = TRUE, .attention_temperature = 1 } };
  Sample sample = { .command = &command, .temperature = 1, .label = -1 };
  g_autoptr (GError) error = NULL;
  g_autofree char *size = NULL, *guide = NULL, *rate = NULL;
  gint64 count = 0, seed = 0;
  gboolean sheet, floats;
  const GOptionEntry entries[] = {
    { "count", 'n', 0, G_OPTION_ARG_INT64, &count,
      "How many pictures (default: 16 on a sheet, 50 frames of a video)", "N" },
    { "frames", 0, 0, G_OPTION_ARG_INT64, &count, "The same", "N" },
    { "size", 's', 0, G_OPTION_ARG_STRING, &size, "Of a picture (default: the model's own)", "WxH" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "The same seed gives the same pictures (default: 0)", "SEED" },
    { "temperature", 't', 0, G_OPTION_ARG_DOUBLE, &sample.temperature,
      "Standard deviation of the latents; less is calmer (default: 1)", "T" },
    { "class", 'c', 0, G_OPTION_ARG_INT, &sample.label, "Class of a conditional model (default: none)", "C" },
    { "guidance", 'g', 0, G_OPTION_ARG_DOUBLE, &command.decoding.guidance, "Weight of guidance (default: 0)",
      "W" },
    { "guide", 0, 0, G_OPTION_ARG_STRING, &guide,
      "What guidance acts on: a (scale), b (shift) or ab (default: ab)", "a|b|ab" },
    { "annealed", 0, 0, G_OPTION_ARG_NONE, &command.decoding.annealed, "Guidance grows from token to token",
      NULL },
    { "attention-temperature", 0, 0, G_OPTION_ARG_DOUBLE, &command.decoding.attention_temperature,
      "Of the branch that guidance leads away from; for models without classes (default: 1)", "T" },
    { "rate", 'r', 0, G_OPTION_ARG_STRING, &rate, "Frames a second of a video (default: 25)", "N[/D]" },
    { NULL }
  };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING, "OUT",
          "Draws pictures from the model: Gaussian latents through the inverse flow.",
          "OUT.png is a sheet of all pictures; OUT-%03d.png is a picture each; OUT.mkv (FFV1, "
          "lossless), .y4m,\n"
          ".mp4 and .mov are videos, whose frames know nothing of each other. OUT.safetensors is for "
          "models of another\nmodel's latents.",
          1, 1))
    return NF_EXIT_USAGE;
  floats = g_str_has_suffix (argv[1], ".safetensors");
  if (!floats && !nf_media_check_name (argv[1], &error))
    return nf_command_usage (&command, "%s", error->message);
  sample.options = command.decoding;
  sheet = g_str_has_suffix (argv[1], ".png") && !strchr (argv[1], '%');
  if (!count)
    count = sheet || floats ? 16 : 50;
  if (count < 1 || count > (sheet || floats ? MAX_SHEET : MAX_COUNT))
    return nf_command_usage (&command, "--count is 1 to %d here", sheet || floats ? MAX_SHEET : MAX_COUNT);
  if (floats && (size || rate))
    return nf_command_usage (&command, "--size and --rate are for pictures and videos");
  if (size && !nf_parse_size (size, &sample.width, &sample.height))
    return nf_command_usage (&command, "--size \"%s\" is not WxH in pixels, such as 64x48; sides go to %d",
                             size, MAX_SIDE);
  if (seed < 0)
    return nf_command_usage (&command, "--seed takes no negative number");
  if (!(sample.temperature >= 0 && sample.temperature <= 100))
    return nf_command_usage (&command, "--temperature %g is out of range: 0 to 100", sample.temperature);
  if (sample.label < -1)
    return nf_command_usage (&command, "--class %d: classes are counted from 0", sample.label);
  if (!isfinite (sample.options.guidance))
    return nf_command_usage (&command, "--guidance must be a finite number");
  if (!(sample.options.attention_temperature > 0 && sample.options.attention_temperature <= 1000))
    return nf_command_usage (&command, "--attention-temperature %g is out of range: above 0, up to 1000",
                             sample.options.attention_temperature);
  if (!parse_guide (guide, &sample.options.guide))
    return nf_command_usage (&command, "--guide \"%s\" is none of a, b, ab", guide);
  if (sample.options.guidance == 0 && (guide || sample.options.annealed))
    return nf_command_usage (&command, "%s says how --guidance works: give its weight",
                             guide ? "--guide" : "--annealed");
  if (sheet && rate)
    return nf_command_usage (&command, "--rate is for videos; %s is a picture", argv[1]);
  if (!nf_parse_rate (rate ? rate : "25", &sample.rate_n, &sample.rate_d))
    return nf_command_usage (&command, "--rate \"%s\" is not N or N/D, such as 30 or 30000/1001", rate);

  sample.output = argv[1];
  sample.count = (guint)count;
  sample.seed = (guint64)seed;
  if (!sample_file (&sample, sheet, floats, &error))
    return nf_command_fail (&command, error);
  nf_progress_clear (command.progress);
  if (!command.quiet)
    printf ("%u %s of %ux%u in %s\n", sample.count, floats ? "samples" : "pictures", sample.width,
            sample.height, sample.output);
  return 0;
}
