/* normflow world: videos of small worlds, with their actions. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "files.h"
#include "output.h"
#include "policy.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <math.h>
#include <stdio.h>

#define MAX_FRAMES 10000000
#define MAX_CLIPS 100000

typedef struct
{
  NfCommand *command;
  NfWorldPattern pattern;
  const char *policy;
  GArray *replay;          /* actions to be done instead, or NULL, */
  const char *replay_path; /* and the file they are from */
  NfPixelLayout layout;
  guint width, height;
  int rate_n, rate_d;
  guint64 frames; /* of a clip */
  guint64 seed;
  /* the sums of what was written */
  guint64 n_frames;
  double entropy, information;
  gint64 start;
} Worlds;

static guint
choose_action (const Worlds *worlds, NfPolicy *policy, const NfWorld *world, guint64 frame)
{
  if (!worlds->replay)
    return nf_policy_act (policy, world);
  return frame < worlds->replay->len ? g_array_index (worlds->replay, guint, frame) : 0;
}

static gboolean
write_frames (Worlds *worlds, guint64 seed, NfOutput *output, NfActionsWriter *actions, GError **error)
{
  g_autoptr (NfWorld) world = nf_world_new (worlds->pattern, worlds->width, worlds->height, seed, error);
  g_autoptr (NfPicture) picture = nf_picture_new (worlds->layout, worlds->width, worlds->height);
  const double period = 1e9 * worlds->rate_d / worlds->rate_n;
  NfPolicy policy;

  if (!world)
    return FALSE;
  nf_policy_init (&policy, worlds->policy, seed);
  for (guint64 n = 0; n < worlds->frames; n++)
    {
      NfWorldState state;
      const guint action = choose_action (worlds, &policy, world, n);
      nf_world_render (world, worlds->layout, &picture->frame);
      if (!nf_command_go_on (worlds->command, error) || !nf_output_put (output, &picture->frame, error)
          || !nf_actions_writer_put (actions, (guint64)llround ((double)n * period), action, error))
        return FALSE;
      nf_world_get_state (world, &state);
      worlds->entropy += state.entropy;
      worlds->information += state.information;
      worlds->n_frames++;
      if (n + 1 < worlds->frames && !nf_world_step (world, action, error))
        return FALSE;
      if (worlds->n_frames % 64 == 0)
        nf_progress_update (worlds->command->progress, "frame %" G_GUINT64_FORMAT ", %.0f frames/s",
                            worlds->n_frames,
                            (double)worlds->n_frames * G_USEC_PER_SEC
                                / (double)MAX (g_get_monotonic_time () - worlds->start, 1));
    }
  return TRUE;
}

/* A video and, beside it, its actions; neither has its name before it is complete. */
static gboolean
write_clip (Worlds *worlds, const char *path, guint64 seed, GError **error)
{
  g_autofree char *actions_path = g_strconcat (path, NF_ACTIONS_SUFFIX, NULL);
  g_autoptr (GError) local = NULL;
  if (!nf_check_output (actions_path, worlds->replay_path, error))
    return FALSE;
  /* of several clips the first notes what is so of all */
  NfCommand *notes = worlds->n_frames ? NULL : worlds->command;
  g_autoptr (NfOutput) output
      = nf_output_open (notes, path, worlds->replay_path, worlds->layout, worlds->width, worlds->height,
                        worlds->rate_n, worlds->rate_d, NULL, error);
  g_autofree char *temporary = output ? nf_temporary_name (actions_path, error) : NULL;
  if (!temporary)
    return FALSE;
  g_autoptr (NfActionsWriter) actions = nf_actions_writer_open (temporary, &local);
  gboolean done
      = actions && write_frames (worlds, seed, output, actions, &local) && nf_output_close (output, &local);
  const char *kept = done      ? path
                     : actions ? nf_output_keep (output, worlds->command, NF_ACTIONS_SUFFIX)
                               : NULL;
  /* what frames there are have their actions */
  g_autofree char *beside = kept ? g_strconcat (kept, NF_ACTIONS_SUFFIX, NULL) : NULL;
  if (beside)
    done = nf_actions_writer_close (actions, local ? NULL : &local)
           && nf_publish (temporary, beside, local ? NULL : &local) && done;
  g_unlink (temporary);
  if (!done)
    {
      nf_error_rename (local, temporary, actions_path);
      g_propagate_error (error, g_steal_pointer (&local));
    }
  return done;
}

/* FOLDER/pong-000000.mkv and on. */
static gboolean
write_folder (Worlds *worlds, const char *folder, guint clips, GError **error)
{
  if (g_mkdir_with_parents (folder, 0777) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "the folder %s cannot be made: %s", folder,
                   g_strerror (errno));
      return FALSE;
    }
  for (guint i = 0; i < clips; i++)
    {
      g_autofree char *name = g_strdup_printf ("%s-%06u.mkv", nf_world_pattern_name (worlds->pattern), i);
      g_autofree char *path = g_build_filename (folder, name, NULL);
      if (!write_clip (worlds, path, worlds->seed + i, error))
        return FALSE;
    }
  return TRUE;
}

int
nf_cmd_world (int argc, char **argv)
{
  g_auto (NfCommand) command = { 0 };
  Worlds worlds = { .command = &command, .width = 64, .height = 64 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfWorld) first = NULL;
  g_autofree char *size = NULL, *rate = NULL, *policy = NULL, *layout = NULL, *replay = NULL;
  gint64 frames = 1000, seed = 0, clips = G_MININT64;
  NfPolicy unused;
  const GOptionEntry entries[] = {
    { "frames", 'n', 0, G_OPTION_ARG_INT64, &frames, "Frames of a video (default: 1000)", "N" },
    { "clips", 'c', 0, G_OPTION_ARG_INT64, &clips,
      "Videos in a folder, with the seeds SEED, SEED+1, … (default: OUT is one video)", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "The same seed gives the same video (default: 0)", "SEED" },
    { "policy", 'p', 0, G_OPTION_ARG_STRING, &policy,
      "Who plays: none; random, which holds each action for 1 to 12 frames; follow, which plays pong well; "
      "mixed, by turns (default: mixed)",
      "P" },
    { "actions", 'a', 0, G_OPTION_ARG_FILENAME, &replay, "Take the actions of this file instead, then none",
      "FILE" },
    { "size", 's', 0, G_OPTION_ARG_STRING, &size, "Size of a frame (default: 64x64)", "WxH" },
    { "rate", 'r', 0, G_OPTION_ARG_STRING, &rate, "Frames per second (default: 30)", "N[/D]" },
    { "layout", 'l', 0, G_OPTION_ARG_STRING, &layout, "Layout of the samples (default: rgb)",
      "rgb|gray|yuv420" },
    { NULL }
  };
  g_autofree char *description = g_strdup_printf (
      "PATTERN is one of %s. OUT.mkv is written with FFV1, lossless; beside it\n"
      "OUT.mkv.actions.ndjson has a line for each frame: {\"frame\":0,\"pts\":0,\"action\":1}. Action t "
      "shows in frame t+1.\n"
      "With --clips OUT is a folder. At the end the true entropy of a frame, given those before it, is "
      "reported.",
      nf_world_choices ());

  if (!nf_command_parse (
          &command, &argc, &argv, entries, 0, "PATTERN OUT",
          "Writes videos of small worlds whose truth is known, with their actions, to train on.", description,
          2, 2))
    return NF_EXIT_USAGE;
  if (!nf_world_pattern_from_name (argv[1], &worlds.pattern))
    return nf_command_wrong_choice (&command, "PATTERN", argv[1], nf_world_choices ());
  if (frames < 1 || frames > MAX_FRAMES)
    return nf_command_usage (&command, "--frames is 1 to %d", MAX_FRAMES);
  if (!nf_settle_number (&clips) || clips > MAX_CLIPS)
    return nf_command_usage (&command, "--clips is 1 to %d", MAX_CLIPS);
  if (seed < 0)
    return nf_command_usage (&command, "--seed takes no negative number");
  if (size && !nf_parse_size (size, &worlds.width, &worlds.height))
    return nf_command_usage (&command, "--size \"%s\" is not WxH in pixels, such as 64x48", size);
  if (!nf_parse_rate (rate ? rate : "30", &worlds.rate_n, &worlds.rate_d))
    return nf_command_usage (&command, "--rate \"%s\" is not N or N/D, such as 30 or 30000/1001", rate);
  if (!nf_pixel_layout_from_name (layout ? layout : "rgb", &worlds.layout))
    return nf_command_wrong_choice (&command, "--layout", layout, nf_layout_choices ());
  first = nf_world_new (worlds.pattern, worlds.width, worlds.height, 0, &error);
  if (!first)
    return nf_command_usage (&command, "--size: %s", error->message);
  worlds.policy = policy ? policy : "mixed";
  if (!nf_policy_init (&unused, worlds.policy, 0))
    return nf_command_wrong_choice (&command, "--policy", policy, "none, random, follow, mixed");
  if (policy && replay)
    return nf_command_usage (&command, "--policy chooses actions, and --actions has them: give one of them");
  if (!clips && !nf_media_check_name (argv[2], &error))
    return nf_command_usage (&command, "%s", error->message);
  worlds.frames = (guint64)frames;
  worlds.seed = (guint64)seed;
  worlds.replay_path = replay;
  if (replay
      && !(worlds.replay = nf_actions_read_known (replay, nf_world_pattern_actions (worlds.pattern), &error)))
    return nf_command_fail (&command, error);

  nf_command_catch_signals (&command);
  worlds.start = g_get_monotonic_time ();
  const gboolean done = clips ? write_folder (&worlds, argv[2], (guint)clips, &error)
                              : write_clip (&worlds, argv[2], worlds.seed, &error);
  g_clear_pointer (&worlds.replay, g_array_unref);
  if (!done)
    return nf_command_fail (&command, error);
  nf_progress_clear (command.progress);
  if (!command.quiet)
    printf ("%s, %" G_GUINT64_FORMAT " frame%s of %ux%u in %s: entropy %.4f bits a frame, information %.4f\n",
            argv[1], worlds.n_frames, worlds.n_frames == 1 ? "" : "s", worlds.width, worlds.height, argv[2],
            worlds.entropy / (double)worlds.n_frames, worlds.information / (double)worlds.n_frames);
  return 0;
}
