/* normflow sheet: what a model does to a video, on one page. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "noise.h"
#include "plot.h"
#include "scan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME "sheet"
#define COLUMNS 5
#define COLUMNS_STREAM 3 /* of a model of videos, which takes no noise out of single frames */
#define MAX_ROWS 12
/* 8-bit steps that one standard deviation of a latent is shown as: ±3 of them fill the range. */
#define LATENT_STEPS 42

typedef struct
{
  NfSession *session, *denoiser;
  NfStream *stream, *decoder; /* of a model of videos, which has no denoiser; else NULL */
  double sigma;
  GPtrArray *pictures; /* of NfPicture, in rows */
  GPtrArray *notes;    /* of strings, one a picture */
  guint64 wrong;       /* samples that did not come back */
} Sheet;

static void
sheet_clear (Sheet *sheet)
{
  g_clear_object (&sheet->session);
  g_clear_object (&sheet->denoiser);
  g_clear_object (&sheet->stream);
  g_clear_object (&sheet->decoder);
  g_clear_pointer (&sheet->pictures, g_ptr_array_unref);
  g_clear_pointer (&sheet->notes, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Sheet, sheet_clear)

static void
add_panel (Sheet *sheet, NfPicture *picture, char *note)
{
  g_ptr_array_add (sheet->pictures, picture);
  g_ptr_array_add (sheet->notes, note);
}

/* Where feature I of a token lies: plane, and column and row inside the token's part of that plane. */
static void
locate (const NfConfig *config, guint i, guint *plane, guint *x, guint *y, guint *side)
{
  const guint p = config->patch_size;

  *plane = 0;
  *side = p;
  if (config->family == NF_FAMILY_STARFLOW && config->layout != NF_PIXELS_YUV420)
    {
      *plane = i % config->channels;
      *x = i / config->channels % p;
      *y = i / config->channels / p;
      return;
    }
  if (config->layout == NF_PIXELS_YUV420 && i >= p * p)
    {
      i -= p * p;
      *side = p / 2;
      *plane = 1;
    }
  *plane += i / (*side * *side);
  i %= *side * *side;
  *x = i % *side;
  *y = i / *side;
}

/* Every latent at the place of the sample it stands for, mid-grey for 0; what belongs to padding is left out.
 */
static NfPicture *
paint_latents (const NfConfig *config, const NfScanFrame *frame)
{
  const NfFrame *original = &frame->picture->frame;
  NfPicture *picture = nf_picture_new_like (frame->picture);

  for (guint i = 0; i < frame->grid.features; i++)
    {
      guint plane, x, y, side, width, height;

      locate (config, i, &plane, &x, &y, &side);
      nf_picture_extent (config->layout, plane, original->width, original->height, &width, &height);
      for (guint row = y, gy = 0; row < height; row += side, gy++)
        for (guint column = x, gx = 0; column < width; column += side, gx++)
          {
            double z = frame->latents[((gsize)gy * frame->grid.grid_width + gx) * frame->grid.features + i];

            picture->frame.planes[plane].data[(gsize)row * picture->frame.planes[plane].stride + column]
                = (guint8)CLAMP (floor (128.5 + LATENT_STEPS * z), 0, 255);
          }
    }
  return picture;
}

static char *
describe_latents (const NfScanFrame *frame)
{
  const gsize n = nf_grid_latents (&frame->grid);
  double sum = 0, squares = 0;

  for (gsize i = 0; i < n; i++)
    {
      sum += frame->latents[i];
      squares += (double)frame->latents[i] * frame->latents[i];
    }
  sum /= (double)n;
  return g_strdup_printf ("mean %.2f, deviation %.2f", sum, sqrt (MAX (squares / (double)n - sum * sum, 0)));
}

static double
psnr (const NfPicture *a, const NfPicture *b)
{
  return nf_psnr (nf_picture_squared_error (a, b), (double)a->size);
}

static gboolean
add_row (const NfScanFrame *frame, gpointer data, GError **error)
{
  Sheet *sheet = data;
  NfPicture *clean = frame->picture;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (sheet->session));
  guint64 wrong = 0;

  g_autoptr (NfPicture) decoded = nf_picture_new_like (clean);
  memset (decoded->data, 0, decoded->size);
  const NfDecodeOptions options = { .snap = TRUE, .corrections = &frame->corrections };
  if (sheet->decoder
          ? !nf_stream_decode (sheet->decoder, frame->latents, frame->action, FALSE, &options,
                               &decoded->frame, error)
          : !nf_session_decode_frame (sheet->session, frame->latents, -1, &options, &decoded->frame, error))
    return FALSE;
  if (frame->between)
    return TRUE;
  add_panel (sheet, nf_picture_ref (clean),
             g_strdup_printf ("frame %" G_GUINT64_FORMAT ", %.3f bits/dim", clean->index,
                              frame->score.bits_per_dim));
  add_panel (sheet, paint_latents (config, frame), describe_latents (frame));
  for (gsize i = 0; i < clean->size; i++)
    wrong += clean->data[i] != decoded->data[i];
  sheet->wrong += wrong;
  add_panel (sheet, g_steal_pointer (&decoded),
             wrong ? g_strdup_printf ("%" G_GUINT64_FORMAT " bytes differ", wrong)
                   : g_strdup ("every byte is back"));
  if (!sheet->denoiser)
    return TRUE;

  NfPicture *noisy = nf_picture_add_noise (clean, sheet->sigma, 0);
  g_autofree char *ratio = nf_words ("%.2f", psnr (clean, noisy));
  add_panel (sheet, noisy, g_strdup_printf ("PSNR %s dB", ratio));

  g_autoptr (NfPicture) cleaned = nf_picture_new_like (clean);
  if (!nf_session_denoise_frame (sheet->denoiser, &noisy->frame, sheet->sigma, &cleaned->frame, error))
    return FALSE;
  g_autofree char *after = nf_words ("%.2f", psnr (clean, cleaned)),
                  *gain = nf_words ("%+.2f", psnr (clean, cleaned) - psnr (clean, noisy));
  add_panel (sheet, cleaned, g_strdup_printf ("PSNR %s dB (%s)", after, gain));
  g_steal_pointer (&cleaned);
  return TRUE;
}

/* Without --model each column has the bundled model that is for it. */
static gboolean
open_all (Sheet *sheet, NfCommand *command, GError **error)
{
  nf_command_catch_signals (command);
  sheet->session = nf_command_open (command, error);
  if (!sheet->session || !nf_command_open_stream (command, sheet->session, &sheet->stream, error))
    return FALSE;
  if (sheet->stream)
    return nf_command_open_decoder (command, sheet->session, &sheet->decoder, error);
  if (command->model)
    sheet->denoiser = g_object_ref (sheet->session);
  else
    {
      command->model = g_strdup (NF_MODEL_NOISY);
      sheet->denoiser = nf_command_open (command, error);
    }
  return sheet->denoiser != NULL;
}

int
nf_cmd_sheet (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Sheet) sheet = { .sigma = 0.05 };
  g_autoptr (GError) error = NULL;
  g_autofree char *title = NULL, *name = NULL, *noisy = NULL;
  gint64 rows = 3, every = 1;
  NfScan scan = { .score = TRUE };
  const GOptionEntry entries[]
      = { { "frames", 'n', 0, G_OPTION_ARG_INT64, &rows, "Rows of the sheet, one frame each (default: 3)",
            "N" },
          { "every", 0, 0, G_OPTION_ARG_INT64, &every, "Every K-th frame (default: 1)", "K" },
          { "sigma", 0, 0, G_OPTION_ARG_DOUBLE, &sheet.sigma,
            "Noise that is added and removed again, on the [-1, 1] scale (default: 0.05)", "SIGMA" },
          { NULL } };

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "VIDEO OUT.png",
          "Draws frames of a video in rows: original, latents as a picture, decoded again, with "
          "noise, and denoised.",
          "A model of videos codes each frame given those before it; its sheet ends with the decoded frames.",
          2, 2))
    return NF_EXIT_USAGE;
  if (rows < 1 || rows > MAX_ROWS || every < 1 || !(sheet.sigma > 0 && sheet.sigma <= 1))
    return nf_command_usage (&command, "--frames takes 1 to %d, --every 1 or more, --sigma above 0, up to 1",
                             MAX_ROWS);
  if (!nf_check_ending (argv[2], "png", &error))
    return nf_command_usage (&command, "%s", error->message);
  if (!nf_check_output (argv[2], argv[1], &error) || !nf_command_check_output (&command, argv[2], &error))
    return nf_command_fail (&command, error);
  scan.frames = (guint64)rows;
  scan.every = (guint64)every;
  sheet.pictures = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);
  sheet.notes = g_ptr_array_new_with_free_func (g_free);

  gboolean done = open_all (&sheet, &command, &error);
  scan.stream = sheet.stream;
  done = done && nf_scan_file (sheet.session, argv[1], &scan, command.progress, add_row, &sheet, &error);
  nf_progress_clear (command.progress);
  if (done)
    {
      noisy = g_strdup_printf ("with noise, sigma %g", sheet.sigma);
      const char *const captions[COLUMNS] = { "original", "latents", "decoded", noisy, "denoised" };

      name = g_filename_display_basename (argv[1]);
      title = g_strdup_printf ("%s through the flow", name);
      const guint columns = sheet.denoiser ? COLUMNS : COLUMNS_STREAM;

      done
          = nf_plot_sheet (argv[2], title, name, captions, columns, (NfPicture *const *)sheet.pictures->pdata,
                           (const char *const *)sheet.notes->pdata, sheet.pictures->len / columns, &error);
    }
  if (!done)
    return nf_command_fail (&command, error);
  if (sheet.wrong)
    fprintf (stderr, "normflow " NAME ": %" G_GUINT64_FORMAT " bytes of the decoded frames differ\n",
             sheet.wrong);
  return sheet.wrong ? NF_EXIT_FAILED : 0;
}
