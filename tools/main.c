/* normflow: the command. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct
{
  const char *name;
  int (*run) (int argc, char **argv);
  const char *summary;
} SubCommand;

static const SubCommand commands[] = {
  { "devices", nf_cmd_devices, "list the OpenCL devices and what they can do" },
  { "info", nf_cmd_info, "what a model or a latents file is" },
  { "encode", nf_cmd_encode, "video to Gaussian latents and exact scores" },
  { "decode", nf_cmd_decode, "latents back to the same video, byte for byte" },
  { "eval", nf_cmd_eval, "bits per dimension of each frame of a video, curve and map" },
  { "calibrate", nf_cmd_calibrate, "suggest an anomaly threshold from normal footage" },
  { "sample", nf_cmd_sample, "draw pictures or video from the model" },
  { "denoise", nf_cmd_denoise, "one exact score step for noisy video or pictures" },
  { "sheet", nf_cmd_sheet, "frames of a video beside their latents, and decoded, noisy and denoised" },
  { "train", nf_cmd_train, "train a model on videos and pictures" },
  { "world", nf_cmd_world, "videos of small worlds whose truth is known, with their actions" },
  { "convert", nf_cmd_convert, "check a model file and rewrite it, with another type or configuration" },
  { "hints", nf_cmd_hints, "measure hints that speed up decoding single pictures" },
  { "verify", nf_cmd_verify, "compare with what the official implementation computes" },
  { "bench", nf_cmd_bench, "this machine's limits, and how near the flow comes to them" },
};

static const SubCommand *
find_command (const char *name)
{
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    if (strcmp (commands[i].name, name) == 0)
      return &commands[i];
  return NULL;
}

static void
print_overview (FILE *file)
{
  fputs (
      "Usage: normflow COMMAND [OPTION…] [ARGUMENT…]\n\n"
      "Normalizing flows for video, on OpenCL: takes video to Gaussian latents and back without loss, says\n"
      "how likely each frame is, draws new pictures, removes noise, and trains such models.\n\nCommands:\n",
      file);
  for (gsize i = 0; i < G_N_ELEMENTS (commands); i++)
    fprintf (file, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fputs ("\nnormflow COMMAND --help explains a command; normflow --version prints the version.\n"
         "Models are files or names; without --model the bundled one is used.\n\nExamples:\n"
         "  A video through the flow and back, without losing a byte:\n"
         "    normflow encode clip.mp4 clip.safetensors && normflow decode clip.safetensors clip.mkv\n"
         "  Sixteen pictures drawn from the model, on one sheet:\n"
         "    normflow sample --count 16 --seed 1 samples.png\n",
         file);
}

/* Levenshtein's distance. */
static gsize
distance (const char *a, const char *b)
{
  gsize n = strlen (b);
  g_autofree gsize *row = g_new (gsize, n + 1);

  for (gsize j = 0; j <= n; j++)
    row[j] = j;
  for (gsize i = 0; a[i]; i++)
    {
      gsize diagonal = row[0];

      row[0] = i + 1;
      for (gsize j = 0; j < n; j++)
        {
          gsize changed = diagonal + (a[i] != b[j]);

          diagonal = row[j + 1];
          row[j + 1] = MIN (changed, 1 + MIN (row[j], row[j + 1]));
        }
    }
  return row[n];
}

static int
unknown_command (const char *name)
{
  const char *nearest = NULL;
  gsize least = G_MAXSIZE;

  fprintf (stderr, "normflow: there is no command \"%s\"", name);
  for (gsize i = 0; strlen (name) < 64 && i < G_N_ELEMENTS (commands); i++)
    {
      gsize d = g_str_has_prefix (commands[i].name, name) ? 1 : distance (name, commands[i].name);

      if (d < least)
        {
          least = d;
          nearest = commands[i].name;
        }
    }
  if (nearest && least <= MAX (2, strlen (nearest) / 3))
    fprintf (stderr, "; did you mean %s?", nearest);
  fputs ("\n(normflow --help lists the commands)\n", stderr);
  return 2;
}

/* Else what is opened next takes the places of closed ones, and what is said goes there. None can be written,
 * as before. */
static void
fill_standard (void)
{
  for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
    if (fcntl (i, F_GETFD) < 0 && errno == EBADF)
      (void)open ("/dev/null", O_RDONLY); /* the lowest number that is free */
}

int
main (int argc, char **argv)
{
  const SubCommand *command;
  const char *name = argc > 1 ? argv[1] : "--help";
  gboolean help = strcmp (name, "help") == 0;
  char *help_argv[] = { NULL, (char *)"--help", NULL };

  fill_standard ();
  setlocale (LC_ALL, "");
  /* Numbers are read and written alike everywhere. */
  setlocale (LC_NUMERIC, "C");
  nf_catch_unread ();
  /* PoCL ends the process over a folder of no name */
  if (g_strcmp0 (g_getenv ("POCL_CACHE_DIR"), "") == 0)
    g_unsetenv ("POCL_CACHE_DIR");

  if (argc < 2 || strcmp (name, "--help") == 0 || strcmp (name, "-h") == 0 || (help && argc < 3))
    {
      print_overview (stdout);
      return nf_flush_output (0);
    }
  if (strcmp (name, "--version") == 0)
    {
      puts ("normflow " NF_VERSION);
      return nf_flush_output (0);
    }
  if (help)
    name = argv[2];
  command = find_command (name);
  if (!command)
    return unknown_command (name);
  if (help)
    {
      help_argv[0] = (char *)command->name;
      return nf_flush_output (command->run (2, help_argv));
    }
  return nf_flush_output (command->run (argc - 1, argv + 1));
}
