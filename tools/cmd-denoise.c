/* normflow denoise: one score step for each frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "noise.h"
#include "output.h"
#include "times.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_SIGMA 1.0

typedef struct
{
  NfCommand command;
  const char *input;
  const char *output_path;
  char *noisy_path;
  double sigma;
  double noise; /* to add first, 0 for none */
  guint64 seed;
  guint64 limit; /* frames, 0 for all */

  NfSession *session;
  NfMediaReader *reader;
  NfOutput *output;
  NfOutput *noisy; /* NULL unless wanted */
  guint64 n_frames;
  NfTimes times;
  gint64 start;
  double before, after; /* squared errors */
  double samples;
} Denoise;

static void
denoise_clear (Denoise *denoise)
{
  nf_command_clear (&denoise->command);
  g_clear_object (&denoise->session);
  g_clear_pointer (&denoise->reader, nf_media_reader_free);
  g_clear_pointer (&denoise->output, nf_output_free);
  g_clear_pointer (&denoise->noisy, nf_output_free);
  g_free (denoise->noisy_path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Denoise, denoise_clear)

static double
frames_per_second (const Denoise *denoise)
{
  return (double)denoise->n_frames * G_USEC_PER_SEC
         / (double)MAX (g_get_monotonic_time () - denoise->start, 1);
}

static void
tell (Denoise *denoise)
{
  guint64 total = nf_media_reader_get_info (denoise->reader)->n_frames;
  g_autofree char *of = NULL;
  g_autofree char *gain = NULL, *said = NULL;

  if (!nf_progress_due (denoise->command.progress))
    return;
  if (denoise->limit && (!total || denoise->limit < total))
    total = denoise->limit;
  of = total >= denoise->n_frames ? g_strdup_printf (" of %" G_GUINT64_FORMAT, total) : g_strdup ("");
  gain = nf_words ("%+.2f",
                   nf_psnr (denoise->after, denoise->samples) - nf_psnr (denoise->before, denoise->samples));
  said = denoise->noise > 0 ? g_strdup_printf (", %s dB", gain) : g_strdup ("");
  nf_progress_update (denoise->command.progress, "frame %" G_GUINT64_FORMAT "%s%s, %.2f frames/s",
                      denoise->n_frames, of, said, frames_per_second (denoise));
}

static gboolean
denoise_picture (Denoise *denoise, NfPicture *picture, GError **error)
{
  g_autoptr (NfPicture) noisy = denoise->noise > 0
                                    ? nf_picture_add_noise (picture, denoise->noise, denoise->seed)
                                    : nf_picture_ref (picture);
  g_autoptr (NfPicture) clean = nf_picture_new_like (picture);

  if (!nf_session_denoise_frame (denoise->session, &noisy->frame, denoise->sigma, &clean->frame, error)
      || (denoise->noisy && !nf_output_put (denoise->noisy, &noisy->frame, error))
      || !nf_output_put (denoise->output, &clean->frame, error))
    {
      g_prefix_error (error, "frame %" G_GUINT64_FORMAT ": ", picture->index);
      return FALSE;
    }
  denoise->n_frames++;
  nf_times_watch (&denoise->times, nf_media_reader_get_info (denoise->reader), picture);
  denoise->before += nf_picture_squared_error (picture, noisy);
  denoise->after += nf_picture_squared_error (picture, clean);
  denoise->samples += (double)picture->size;
  return TRUE;
}

static gboolean
denoise_frames (Denoise *denoise, GError **error)
{
  for (denoise->start = g_get_monotonic_time (); !denoise->limit || denoise->n_frames < denoise->limit;)
    {
      g_autoptr (GError) local = NULL;
      g_autoptr (NfPicture) picture = NULL;

      if (!nf_command_go_on (&denoise->command, error))
        return FALSE;
      picture = nf_media_reader_next (denoise->reader, &local);
      if (local)
        {
          g_propagate_error (error, g_steal_pointer (&local));
          return FALSE;
        }
      if (!picture)
        break;
      if (!denoise_picture (denoise, picture, error))
        return FALSE;
      tell (denoise);
    }
  return TRUE;
}

static NfOutput *
open_output (Denoise *denoise, const char *path, GError **error)
{
  const NfMediaInfo *info = nf_media_reader_get_info (denoise->reader);
  const NfConfig *config = nf_model_get_config (nf_session_get_model (denoise->session));

  return nf_output_open (&denoise->command, path, denoise->input, config->layout, info->width, info->height,
                         info->rate_n, info->rate_d, info->look, error);
}

/* Such models know frames whose noise is no wider than an 8-bit step: docs/elements.md, flowdenoise. */
static void
note_noise (Denoise *denoise)
{
  NfModel *model = nf_session_get_model (denoise->session);

  if (denoise->sigma > 0 && !denoise->command.quiet && nf_model_get_config (model)->noise == NF_NOISE_UNIFORM)
    nf_progress_note (
        denoise->command.progress,
        "normflow denoise: note: %s was not trained with Gaussian noise: the step goes beyond the "
        "clean frame, and may be worse than the noise; %s, or a model that was trained "
        "with --noise gaussian, takes it out",
        denoise->command.model, NF_MODEL_NOISY);
}

static gboolean
denoise_file (Denoise *denoise, GError **error)
{
  if (!denoise->command.model)
    denoise->command.model = g_strdup (NF_MODEL_NOISY);
  denoise->session = nf_command_open (&denoise->command, error);
  if (!denoise->session
      || !nf_command_check_pictures (&denoise->command, denoise->session, "denoise", NF_VIDEOS_KEEP_NOISE,
                                     NF_MODEL_NOISY, error))
    return FALSE;
  note_noise (denoise);
  denoise->reader = nf_media_reader_open (
      denoise->input, nf_model_get_config (nf_session_get_model (denoise->session))->layout, error);
  denoise->output = denoise->reader ? open_output (denoise, denoise->output_path, error) : NULL;
  if (!denoise->output)
    return FALSE;
  if (denoise->noisy_path)
    {
      denoise->noisy = open_output (denoise, denoise->noisy_path, error);
      if (!denoise->noisy)
        return FALSE;
    }
  const gboolean done
      = nf_output_end (denoise->output, denoise_frames (denoise, error), &denoise->command, error);
  return denoise->noisy ? nf_output_end (denoise->noisy, done, &denoise->command, error) : done;
}

static void
print_result (Denoise *denoise)
{
  const NfMediaInfo *info = nf_media_reader_get_info (denoise->reader);
  g_autofree char *written = g_strconcat (denoise->output_path, " has", NULL);
  g_autofree char *damage = nf_media_reader_describe_damage (denoise->reader);
  if (damage)
    fprintf (stderr, "normflow denoise: %s: %s\n", denoise->input, damage);
  if (!nf_media_is_picture (denoise->output_path)) /* those have no times */
    nf_times_tell (&denoise->times, &denoise->command, denoise->input, written, info->rate_n, info->rate_d);
  if (denoise->noise > 0)
    {
      const double before = nf_psnr (denoise->before, denoise->samples),
                   after = nf_psnr (denoise->after, denoise->samples);
      g_autofree char *noisy = nf_words ("%.2f", before), *denoised = nf_words ("%.2f", after),
                      *gain = nf_words ("%+.2f", after - before);

      printf ("PSNR with noise of %g: %s dB, denoised: %s dB (%s)\n", denoise->noise, noisy, denoised, gain);
    }
  if (!denoise->command.quiet)
    printf ("%" G_GUINT64_FORMAT " frame%s, %.2f frames/s, in %s\n", denoise->n_frames,
            denoise->n_frames == 1 ? "" : "s", frames_per_second (denoise), denoise->output_path);
}

#define PICTURES_COMPARED 10000 /* of a sequence, at most */

/* What is written to PATH, by whole names. */
static GHashTable *
list_pictures (const char *path)
{
  GHashTable *names = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  const guint n = nf_media_is_sequence (path) ? PICTURES_COMPARED : 1;

  for (guint i = 0; i < n; i++)
    {
      g_autofree char *name = n > 1 ? nf_media_picture_name (path, i) : g_strdup (path);
      g_hash_table_add (names, g_canonicalize_filename (name, NULL));
    }
  return names;
}

/* Whether A and B, of which each may be a sequence of pictures, write the same file. */
static gboolean
meet (const char *a, const char *b)
{
  g_autoptr (GHashTable) of_a = list_pictures (a), of_b = list_pictures (b);
  GHashTableIter names;
  gpointer name;

  g_hash_table_iter_init (&names, of_b);
  while (g_hash_table_iter_next (&names, &name, NULL))
    if (g_hash_table_contains (of_a, name))
      return TRUE;
  return nf_same_file (a, b);
}

int
nf_cmd_denoise (int argc, char **argv)
{
  g_auto (Denoise) denoise = { .sigma = NF_NOT_GIVEN, .noise = NF_NOT_GIVEN };
  g_autoptr (GError) error = NULL;
  gint64 frames = G_MININT64, seed = G_MININT64;
  const GOptionEntry entries[]
      = { { "sigma", 's', 0, G_OPTION_ARG_DOUBLE, &denoise.sigma,
            "Standard deviation of the noise, on the scale where samples go from -1 to 1 (default: that of "
            "--noise)",
            "SIGMA" },
          { "noise", 0, 0, G_OPTION_ARG_DOUBLE, &denoise.noise,
            "For a demonstration: first add Gaussian noise of this SIGMA, then report the gain", "SIGMA" },
          { "noisy", 0, 0, G_OPTION_ARG_FILENAME, &denoise.noisy_path,
            "With --noise: also write the noisy frames", "FILE" },
          { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Seed of --noise (default: 0)", "SEED" },
          { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "At most this many frames (default: all)", "N" },
          { NULL } };

  if (!nf_command_parse (
          &denoise.command, &argc, &argv, entries, NF_COMMAND_MODEL | NF_COMMAND_DEVICE, "IN OUT",
          "Removes Gaussian noise from a video or picture by one exact step along the score.",
          "Sigma 0.05 is a standard deviation of 6.4 of 255. The name of the output says how it is written:\n"
          ".mkv (FFV1, lossless), .y4m (raw), .mp4, .mov, .png (one picture, or a sequence with %d in its "
          "name).",
          2, 2))
    return NF_EXIT_USAGE;
  if (denoise.noise != NF_NOT_GIVEN && !(denoise.noise > 0 && denoise.noise <= MAX_SIGMA))
    return nf_command_usage (&denoise.command, "--noise %g is out of range: above 0, up to %g", denoise.noise,
                             MAX_SIGMA);
  if (denoise.sigma == NF_NOT_GIVEN)
    denoise.sigma = denoise.noise;
  if (denoise.sigma == NF_NOT_GIVEN)
    return nf_command_usage (&denoise.command, "--sigma is missing: how strong is the noise? 0.02 is little, "
                                               "0.1 much");
  if (!(denoise.sigma >= 0 && denoise.sigma <= MAX_SIGMA))
    return nf_command_usage (&denoise.command, "--sigma %g is out of range: 0 to %g", denoise.sigma,
                             MAX_SIGMA);
  if (denoise.noisy_path && denoise.noise == NF_NOT_GIVEN)
    return nf_command_usage (&denoise.command, "--noisy writes what --noise makes: give both");
  if (denoise.noisy_path && meet (denoise.noisy_path, argv[2]))
    return nf_command_usage (&denoise.command, "--noisy and the output are the same file");
  if (seed != G_MININT64 && denoise.noise == NF_NOT_GIVEN)
    return nf_command_usage (&denoise.command, "--seed is that of --noise: give both");
  if (!nf_settle_number (&frames) || (seed < 0 && seed != G_MININT64))
    return nf_command_usage (&denoise.command, "--frames takes 1 or more, --seed no negative number");
  if (!nf_media_check_name (argv[2], &error)
      || (denoise.noisy_path && !nf_media_check_name (denoise.noisy_path, &error)))
    return nf_command_usage (&denoise.command, "%s", error->message);

  denoise.input = argv[1];
  denoise.output_path = argv[2];
  denoise.limit = (guint64)frames;
  denoise.seed = (guint64)MAX (seed, 0);
  if (!denoise_file (&denoise, &error))
    return nf_command_fail (&denoise.command, error);
  nf_progress_clear (denoise.command.progress);
  print_result (&denoise);
  return 0;
}
