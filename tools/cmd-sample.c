/* normflow sample: pictures from the prior. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "files.h"
#include "output.h"
#include "sample.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_COUNT 1000000
#define MAX_SHEET 4096
#define GAP 2

static void
tell (const char *phase, double fraction, gpointer data)
{
  const NfSample *sample = data;
  const double done = sample->done + sample->batch * fraction;
  const double seconds = (double)(g_get_monotonic_time () - sample->start) / G_USEC_PER_SEC;

  nf_progress_update (sample->command->progress, "%u of %u %s%s, %3.0f %%, %.2f a second", sample->done,
                      sample->count, sample->frames ? "video" : "picture", sample->count == 1 ? "" : "s",
                      100 * done / sample->count, done / MAX (seconds, 1e-6));
}

void
nf_sample_choose_text (NfSession *session, guint index)
{
  if (nf_session_count_texts (session) > 1)
    nf_session_choose_text (session, (gint)index);
}

/* Latents of picture INDEX, as flowsample draws frame INDEX. */
static void
draw (const NfSample *sample, const NfGrid *grid, guint64 index, float *latents)
{
  nf_random_normal (sample->seed, index, nf_grid_latents (grid), sample->temperature, latents);
}

static gboolean
draw_frames (NfSample *sample, NfSession *session, const NfGrid *grid, NfOutput *output, GError **error)
{
  g_autoptr (NfPicture) picture = nf_picture_new (
      nf_model_get_config (nf_session_get_model (session))->layout, sample->width, sample->height);
  g_autofree float *latents = g_new (float, nf_grid_latents (grid));
  for (sample->batch = 1; sample->done < sample->count; sample->done++)
    {
      draw (sample, grid, sample->done, latents);
      nf_sample_choose_text (session, sample->done);
      if (!nf_command_go_on (sample->command, error)
          || !nf_session_decode_frame (session, latents, sample->label, &sample->options, &picture->frame,
                                       error)
          || !nf_output_put (output, &picture->frame, error))
        return FALSE;
      nf_command_keep_residual (sample->command, session, NULL);
    }
  return TRUE;
}

static gboolean
sample_video (NfSample *sample, NfSession *session, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  g_autoptr (NfOutput) output
      = nf_output_open (sample->command, sample->output, NULL, config->layout, sample->width, sample->height,
                        sample->rate_n, sample->rate_d, NULL, error);
  NfGrid grid;

  return output && nf_grid_init (&grid, config, sample->width, sample->height, error)
         && nf_output_end (output, draw_frames (sample, session, &grid, output, error), sample->command,
                           error);
}

NfPicture *
nf_sample_sheet_new (const NfSample *sample, NfPixelLayout layout, guint count, guint *columns,
                     GError **error)
{
  *columns = (guint)ceil (sqrt (count));
  /* Even places, so that chroma samples stay with their pixels. */
  const guint rows = (count + *columns - 1) / *columns;
  const guint64 width = GAP + (guint64)*columns * (sample->width + sample->width % 2 + GAP),
                height = GAP + (guint64)rows * (sample->height + sample->height % 2 + GAP);
  if (width > NF_MAX_SIDE || height > NF_MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%u pictures of %ux%u make a sheet larger than %d pixels; ask for fewer, or for a video",
                   count, sample->width, sample->height, NF_MAX_SIDE);
      return NULL;
    }
  NfPicture *sheet = nf_picture_new (layout, (guint)width, (guint)height);
  memset (sheet->data, 128, sheet->size);
  return sheet;
}

void
nf_sample_place (const NfSample *sample, const NfPicture *picture, guint x, NfPicture *sheet, guint index,
                 guint columns)
{
  for (guint i = 0; i < nf_picture_planes (sheet->layout); i++)
    {
      const NfPlane *from = &picture->frame.planes[i], *to = &sheet->frame.planes[i];
      const guint half = sheet->layout == NF_PIXELS_YUV420 && i > 0 ? 2 : 1;
      const guint to_x = (GAP + index % columns * (sample->width + sample->width % 2 + GAP)) / half,
                  to_y = (GAP + index / columns * (sample->height + sample->height % 2 + GAP)) / half;
      guint w, h;

      nf_picture_extent (sheet->layout, i, sample->width, sample->height, &w, &h);
      for (guint row = 0; row < h; row++)
        memcpy (to->data + (gsize)(to_y + row) * (gsize)to->stride + to_x,
                from->data + (gsize)row * (gsize)from->stride + x / half, w);
    }
}

/* All pictures on one sheet. Those of a row are decoded as one wide frame: tiles know nothing of each other,
 * and a device has more to do at a time. */
static gboolean
sample_sheet (NfSample *sample, NfSession *session, GError **error)
{
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  g_autoptr (NfPicture) sheet = NULL;
  g_autoptr (NfOutput) output = NULL;
  guint columns;
  NfGrid grid;

  if (!nf_grid_init (&grid, config, sample->width, sample->height, error))
    return FALSE;
  /* of what one picture's tiles cover */
  const guint width = grid.tiles_x * nf_config_columns (config),
              height = grid.tiles_y * nf_config_rows (config);
  if (!(sheet = nf_sample_sheet_new (sample, config->layout, sample->count, &columns, error)))
    return FALSE;
  if ((guint64)columns * width > NF_MAX_SIDE)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_ARGUMENT,
          "a row of %u pictures of %ux%u takes tiles for more than %d pixels; ask for fewer, or for a "
          "video",
          columns, sample->width, sample->height, NF_MAX_SIDE);
      return FALSE;
    }
  output = nf_output_open (sample->command, sample->output, NULL, config->layout, sheet->frame.width,
                           sheet->frame.height, 25, 1, NULL, error);
  if (!output)
    return FALSE;

  /* pictures of a strip have one text */
  const guint limit = nf_session_count_texts (session) > 1 ? 1 : columns;
  for (sample->batch = limit; sample->done < sample->count; sample->done += sample->batch)
    {
      g_autoptr (NfPicture) strip = NULL;
      g_autofree float *latents = NULL, *one = g_new (float, nf_grid_latents (&grid));
      const gsize row = (gsize)grid.grid_width * grid.features;

      sample->batch = MIN (limit, sample->count - sample->done);
      nf_sample_choose_text (session, sample->done);
      strip = nf_picture_new (config->layout, sample->batch * width, height);
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
      nf_command_keep_residual (sample->command, session, NULL);
      for (guint i = 0; i < sample->batch; i++)
        nf_sample_place (sample, strip, i * width, sheet, sample->done + i, columns);
    }
  return nf_output_put (output, &sheet->frame, error) && nf_output_close (output, error);
}

/* How many pictures are drawn, or videos, and how long those are: a picture is a frame of a video of
 * unrelated ones. */
static gboolean
settle_count (NfSample *sample, const NfConfig *config, gboolean together, GError **error)
{
  if (config->frames)
    sample->count = MAX (sample->count, 1);
  else if (sample->count && sample->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--count and --frames say the same of a model of pictures: give one of them");
      return FALSE;
    }
  else
    {
      const guint said = MAX (sample->count, sample->frames);
      sample->count = said ? said : together ? 16 : 50;
      sample->frames = 0;
    }
  const guint most = together || config->frames ? MAX_SHEET : MAX_COUNT;
  if (sample->count <= most)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--count is 1 to %u here", most);
  return FALSE;
}

/* The class of that number, or else of that name. Both may be there, of different classes. */
static gboolean
settle_class (NfSample *sample, NfModel *model, GError **error)
{
  const guint classes = nf_config_classes (nf_model_get_config (model));
  const char *names = nf_model_get_metadata (model, "classes");
  g_auto (GStrv) lines = g_strsplit (names ? names : "", "\n", -1);
  const guint n_names = names ? MIN (g_strv_length (lines), classes) : 0;
  gint named = -1;
  if (!sample->class || strcmp (sample->class, "-1") == 0) /* none */
    return TRUE;
  for (guint i = 0; i < n_names && named < 0; i++)
    if (strcmp (lines[i], sample->class) == 0)
      named = (gint)i;
  /* the number of one without a name is that of no class, and says less than a name */
  if (sample->label >= 0 && sample->label < (gint)classes && (named < 0 || sample->label < (gint)n_names))
    {
      if (named >= 0 && named != sample->label && !sample->command->quiet)
        nf_progress_note (
            sample->command->progress,
            "normflow sample: note: --class %d is the number of the class %s; the class that is "
            "called %s has the number %d",
            sample->label, lines[sample->label], sample->class, named);
      return TRUE;
    }
  if (named >= 0)
    {
      sample->label = named;
      return TRUE;
    }
  g_autofree char *list = names ? nf_class_list (names, NF_LISTED_CLASSES) : NULL,
                  *wanted = nf_shorten (sample->class);
  if (!classes)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--class %s: the model has no classes", wanted);
  else if (names)
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--class %s: the model has the classes %s", wanted,
                 list);
  else
    g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--class %s: the model has the classes 0 to %u", wanted,
                 classes - 1);
  return FALSE;
}

static gboolean
sample_file (NfSample *sample, gboolean sheet, gboolean floats, GError **error)
{
  g_autoptr (NfSession) session = nf_command_open (sample->command, error);
  const NfConfig *config;

  if (!session)
    return FALSE;
  config = nf_model_get_config (nf_session_get_model (session));
  if (!settle_count (sample, config, sheet || floats, error))
    return FALSE;
  const guint classes = nf_config_classes (config), texts = nf_session_count_texts (session);
  if (!settle_class (sample, nf_session_get_model (session), error))
    return FALSE;
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
  if (floats != (config->layout == NF_PIXELS_LATENT))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   floats ? "%s: the model is one of pictures, whose name ends in .png, .mkv or so"
                          : "%s: the model is one of another model's latents (pixel_layout latent), not of "
                            "pictures: a name that ends in .safetensors is for them",
                   sample->output);
      return FALSE;
    }
  if (sample->given && !config->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "--given %s: the model is one of pictures, which no frames come before", sample->given);
      return FALSE;
    }
  if (sample->context >= 0 && !config->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "--context %d: the model is one of pictures, which no frames come before",
                   sample->context);
      return FALSE;
    }
  if (sample->given && sample->label >= 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "--class %d with --given: videos are continued under a text only", sample->label);
      return FALSE;
    }
  const guint frames = sample->frames ? sample->frames : config->frames;
  if (sheet && config->frames && frames > 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: is one picture, but videos here have %u frames; put one %%04d into its name for a "
                   "sequence, take .mkv, or ask for --frames 1",
                   sample->output, frames);
      return FALSE;
    }
  nf_session_set_progress (session, tell, sample);
  sample->start = g_get_monotonic_time ();
  if (floats)
    return nf_sample_floats (sample, session, error);
  if (config->frames)
    return nf_sample_videos (sample, session, error);
  if (!sample->width)
    {
      sample->width = nf_config_columns (config);
      sample->height = nf_config_rows (config);
    }
  return sheet ? sample_sheet (sample, session, error) : sample_video (sample, session, error);
}

static gboolean
check_output (const NfSample *sample, GError **error)
{
  return nf_check_output (sample->output, sample->given, error)
         && nf_command_check_output (sample->command, sample->output, error);
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
  NfSample sample = { .command = &command, .temperature = 1, .label = -1, .context = -1 };
  g_autoptr (GError) error = NULL;
  g_autofree char *size = NULL, *guide = NULL, *rate = NULL, *denoise = NULL, *given = NULL, *class = NULL;
  gint64 label, count = G_MININT64, frames = G_MININT64, seed = 0;
  int context = G_MININT;
  gboolean sheet, floats;
  const GOptionEntry entries[] = {
    { "count", 'n', 0, G_OPTION_ARG_INT64, &count,
      "How many pictures (default: 16 on a sheet, 50 frames of a video), or videos (default: 1)", "N" },
    { "frames", 0, 0, G_OPTION_ARG_INT64, &frames,
      "The same; with a model of videos, the length of each (default: the model's own)", "N" },
    { "size", 's', 0, G_OPTION_ARG_STRING, &size,
      "Size of a picture, or of latents in places (default: the model's own)", "WxH" },
    { "denoise", 0, 0, G_OPTION_ARG_STRING, &denoise,
      "With a model that was trained with Gaussian noise: how that noise is removed: auto, learned, score or "
      "none (default: auto: learned if the model has a denoiser as wide as a token, else a step along the "
      "score)",
      "HOW" },
    { "given", 0, 0, G_OPTION_ARG_FILENAME, &given,
      "Latents of frames that videos begin with: a tensor \"given\" of (frames, C, rows, columns) or "
      "(videos, frames, C, rows, columns)",
      "FILE" },
    { "context", 0, 0, G_OPTION_ARG_INT, &context,
      "For a video longer than the model's window: frames that each window begins with, drawn in the one "
      "before; 0: all frames at once (default: 16, or all but one; half of the window where frames are drawn "
      "one by one)",
      "C" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "The same seed gives the same pictures (default: 0)", "SEED" },
    { "temperature", 't', 0, G_OPTION_ARG_DOUBLE, &sample.temperature,
      "Standard deviation of the latents; less is calmer (default: 1)", "T" },
    { "class", 'c', 0, G_OPTION_ARG_FILENAME, &class,
      "Class of a conditional model: its number, or its name as info lists it (default: none)", "C" },
    { "guidance", 'g', 0, G_OPTION_ARG_DOUBLE, &command.decoding.guidance, "Weight of guidance (default: 0)",
      "W" },
    { "guide", 0, 0, G_OPTION_ARG_STRING, &guide,
      "What guidance acts on: a (scale), b (shift) or ab (default: ab)", "a|b|ab" },
    { "annealed", 0, 0, G_OPTION_ARG_NONE, &command.decoding.annealed,
      "Let guidance grow from token to token", NULL },
    { "attention-temperature", 0, 0, G_OPTION_ARG_DOUBLE, &command.decoding.attention_temperature,
      "Attention temperature of the branch that guidance leads away from, for models without classes "
      "(default: 1)",
      "T" },
    { "rate", 'r', 0, G_OPTION_ARG_STRING, &rate, "Frames per second of a video (default: 25)", "N[/D]" },
    { NULL }
  };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE | NF_COMMAND_DECODING, "OUT",
          "Draws pictures from the model: Gaussian latents through the inverse flow.",
          "OUT.png is a sheet of all pictures, or of one frame of videos; OUT-%03d.png is one picture\n"
          "each; OUT.mkv (FFV1, lossless), .y4m, .mp4 and .mov are videos; with a model of pictures their\n"
          "frames have nothing to do with each other, with one of videos there are --count of them side by\n"
          "side. OUT.safetensors is for models of another model's latents.",
          1, 1))
    return NF_EXIT_USAGE;
  floats = nf_media_has_ending (argv[1], "safetensors");
  if (!floats && !nf_media_check_name (argv[1], &error))
    return nf_command_usage (&command, "%s", error->message);
  sample.options = command.decoding;
  sample.options.drawn = TRUE;
  sheet = nf_media_has_ending (argv[1], "png") && !nf_media_is_sequence (argv[1]);
  if (!nf_settle_number (&count) || count > MAX_COUNT)
    return nf_command_usage (&command, "--count is 1 to %d", MAX_COUNT);
  if (!nf_settle_number (&frames) || frames > MAX_COUNT)
    return nf_command_usage (&command, "--frames is 1 to %d", MAX_COUNT);
  if (floats && rate)
    return nf_command_usage (&command, "--rate is for pictures and videos");
  if (denoise && !nf_denoise_from_name (denoise, &sample.options.denoise))
    return nf_command_wrong_choice (&command, "--denoise", denoise, NF_DENOISE_CHOICES);
  if (size && !nf_parse_size (size, &sample.width, &sample.height))
    return nf_command_usage (&command, "--size \"%s\" is not WxH in pixels, such as 64x48; sides go to %d",
                             size, NF_MAX_SIDE);
  if (context != G_MININT && context < 0)
    return nf_command_usage (&command, "--context takes no negative number");
  if (seed < 0)
    return nf_command_usage (&command, "--seed takes no negative number");
  if (!(sample.temperature >= 0 && sample.temperature <= 100))
    return nf_command_usage (&command, "--temperature %g is out of range: 0 to 100", sample.temperature);
  sample.class = class;
  if (class && g_ascii_string_to_signed (class, 10, G_MININT, G_MAXINT, &label, NULL))
    sample.label = (int)label;
  if (sample.label < -1)
    return nf_command_usage (&command, "--class %d: classes are counted from 0", sample.label);
  if (!isfinite (sample.options.guidance))
    return nf_command_usage (&command, "--guidance must be a finite number");
  if (!(sample.options.attention_temperature > 0 && sample.options.attention_temperature <= 1000))
    return nf_command_usage (&command, "--attention-temperature %g is out of range: above 0, up to 1000",
                             sample.options.attention_temperature);
  if (!parse_guide (guide, &sample.options.guide))
    return nf_command_wrong_choice (&command, "--guide", guide, "a, b, ab");
  if (sample.options.guidance == 0 && (guide || sample.options.annealed))
    return nf_command_usage (&command, "%s says how --guidance works: give its weight",
                             guide ? "--guide" : "--annealed");
  if (sample.options.guidance == 0 && sample.options.attention_temperature != 1)
    return nf_command_usage (&command, "--attention-temperature says what --guidance leads away from: give "
                                       "its weight");
  if (sheet && rate)
    return nf_command_usage (&command, "--rate is for videos; %s is a picture", argv[1]);
  if (!nf_parse_rate (rate ? rate : "25", &sample.rate_n, &sample.rate_d))
    return nf_command_usage (&command, "--rate \"%s\" is not N or N/D, such as 30 or 30000/1001", rate);

  sample.output = argv[1];
  sample.context = MAX (context, -1);
  sample.given = given;
  sample.count = (guint)count;
  sample.frames = (guint)frames;
  sample.seed = (guint64)seed;
  if (!check_output (&sample, &error) || !sample_file (&sample, sheet, floats, &error))
    return nf_command_fail (&command, error);
  nf_progress_clear (command.progress);
  if (!command.quiet && sample.frames)
    printf ("%u video%s of %u frame%s of %ux%u in %s\n", sample.count, sample.count == 1 ? "" : "s",
            sample.frames, sample.frames == 1 ? "" : "s", sample.width, sample.height, sample.output);
  else if (!command.quiet)
    printf ("%u %s%s of %ux%u in %s\n", sample.count, floats ? "sample" : "picture",
            sample.count == 1 ? "" : "s", sample.width, sample.height, sample.output);
  nf_command_tell_residual (&command);
  return 0;
}
