/* normflow: how to decode. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-decode-options.h"

#include <string.h>

#define MOST_WINDOW 65536 /* tokens that blocks may be told; fewer go through together anyhow */

static const char *const method_names[] = { [NF_DECODE_AUTO] = "auto",
                                            [NF_DECODE_SEQUENTIAL] = "sequential",
                                            [NF_DECODE_JACOBI] = "jacobi",
                                            [NF_DECODE_DRAFT] = "draft" };
static const char *const guess_names[]
    = { [NF_GUESS_LATENT] = "latent", [NF_GUESS_ZEROS] = "zeros", [NF_GUESS_FRAME] = "frame" };
static const char *const denoise_names[] = { [NF_DENOISE_AUTO] = "auto",
                                             [NF_DENOISE_LEARNED] = "learned",
                                             [NF_DENOISE_SCORE] = "score",
                                             [NF_DENOISE_NONE] = "none" };

/* Place of NAME among N, or -1. */
static gint
find_name (const char *name, const char *const *names, guint n)
{
  for (guint i = 0; i < n; i++)
    if (g_strcmp0 (names[i], name) == 0)
      return (gint)i;
  return -1;
}

const char *
nf_decode_method_name (NfDecodeMethod method)
{
  g_return_val_if_fail ((guint)method < G_N_ELEMENTS (method_names), NULL);
  return method_names[method];
}

gboolean
nf_decode_method_from_name (const char *name, NfDecodeMethod *method)
{
  const gint i = find_name (name, method_names, G_N_ELEMENTS (method_names));
  if (i >= 0)
    *method = (NfDecodeMethod)i;
  return i >= 0;
}

const char *
nf_guess_name (NfGuess guess)
{
  g_return_val_if_fail ((guint)guess < G_N_ELEMENTS (guess_names), NULL);
  return guess_names[guess];
}

gboolean
nf_guess_from_name (const char *name, NfGuess *guess)
{
  const gint i = find_name (name, guess_names, G_N_ELEMENTS (guess_names));
  if (i >= 0)
    *guess = (NfGuess)i;
  return i >= 0;
}

gboolean
nf_denoise_from_name (const char *name, NfDenoise *denoise)
{
  const gint i = find_name (name, denoise_names, G_N_ELEMENTS (denoise_names));
  if (i >= 0)
    *denoise = (NfDenoise)i;
  return i >= 0;
}

/* One of the texts that nf_decode_options_set_blocks() takes. */
static gboolean
parse_block (const char *text, NfDecodeBlock *block)
{
  g_auto (GStrv) parts = g_strsplit (text, ":", 4);
  const guint n = g_strv_length (parts);
  guint64 window;
  char *end = NULL;

  *block = (NfDecodeBlock){ 0 };
  if (n < 1 || n > 3 || !g_ascii_string_to_unsigned (g_strstrip (parts[0]), 10, 0, MOST_WINDOW, &window, NULL)
      || (n > 1 && !nf_guess_from_name (g_strstrip (parts[1]), &block->guess)))
    return FALSE;
  block->window = (guint)window;
  if (n < 3)
    return TRUE;
  block->tolerance = g_ascii_strtod (g_strstrip (parts[2]), &end);
  return end != parts[2] && !*end && block->tolerance >= 0 && block->tolerance <= 1;
}

gboolean
nf_decode_options_set_blocks (NfDecodeOptions *options, const char *text, GError **error)
{
  NfDecodeBlock blocks[NF_MAX_BLOCKS];
  g_auto (GStrv) texts = g_strsplit (text ? text : "", ",", -1);
  const guint n = g_strv_length (texts);

  g_return_val_if_fail (options, FALSE);
  if (n > NF_MAX_BLOCKS)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "blocks \"%s\" are %u, models have up to %d", text, n,
                   NF_MAX_BLOCKS);
      return FALSE;
    }
  for (guint t = 0; t < n; t++)
    if (!parse_block (texts[t], &blocks[t]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                     "blocks \"%s\": \"%s\" of block %u is not WINDOW, WINDOW:GUESS or "
                     "WINDOW:GUESS:TOLERANCE, with a window of 0 to %d tokens, a guess of latent, zeros or "
                     "frame, and a tolerance of 0 to 1",
                     text, texts[t], t, MOST_WINDOW);
        return FALSE;
      }
  options->n_blocks = n;
  memset (options->blocks, 0, sizeof options->blocks);
  if (n)
    memcpy (options->blocks, blocks, n * sizeof *blocks);
  return TRUE;
}

/* Whether BLOCKS are as many as the model has, and possible. */
static gboolean
check_blocks (const NfDecodeOptions *options, guint T, GError **error)
{
  if (options->n_blocks && options->n_blocks != T)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "blocks say how %u blocks are decoded, but the model has %u", options->n_blocks, T);
      return FALSE;
    }
  for (guint t = 0; t < options->n_blocks; t++)
    {
      const NfDecodeBlock *block = &options->blocks[t];
      if (!(block->tolerance >= 0 && block->tolerance <= 1e6) || block->guess > NF_GUESS_FRAME)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "block %u: tolerance %g or guess %u is out of range: 0 to 1e6, 0 to %d", t,
                       block->tolerance, (guint)block->guess, NF_GUESS_FRAME);
          return FALSE;
        }
    }
  return TRUE;
}

gboolean
nf_decode_options_check (const NfDecodeOptions *options, const NfConfig *config, GError **error)
{
  g_return_val_if_fail (options && config, FALSE);
  const struct
  {
    const char *name;
    double value, least;
  } numbers[] = { { "guidance", options->guidance, 0 },
                  { "attention temperature", options->attention_temperature, 0 },
                  { "tolerance", options->tolerance, 0 },
                  { "budget", options->budget_ms, 0 } };
  for (guint i = 0; i < G_N_ELEMENTS (numbers); i++)
    if (!(numbers[i].value >= numbers[i].least && numbers[i].value <= 1e6))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s %g is out of range: %g to 1e6", numbers[i].name,
                     numbers[i].value, numbers[i].least);
        return FALSE;
      }
  const struct
  {
    const char *name;
    guint value, most;
  } choices[] = { { "method", options->method, NF_DECODE_DRAFT },
                  { "guide", options->guide, NF_GUIDE_SCALE | NF_GUIDE_SHIFT },
                  { "guess", options->guess, NF_GUESS_FRAME },
                  { "denoise", options->denoise, NF_DENOISE_NONE } };
  for (guint i = 0; i < G_N_ELEMENTS (choices); i++)
    if (choices[i].value > choices[i].most)
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s %u is out of range: 0 to %u", choices[i].name,
                     choices[i].value, choices[i].most);
        return FALSE;
      }
  return check_blocks (options, config->n_blocks, error);
}
