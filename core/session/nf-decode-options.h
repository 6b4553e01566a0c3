/* normflow: how to decode. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-correction.h"

G_BEGIN_DECLS

/**
 * NfGuide: what guidance acts on.
 */
typedef enum
{
  NF_GUIDE_SCALE = 1 << 0, /* "a": the log-scale alpha */
  NF_GUIDE_SHIFT = 1 << 1, /* "b": the shift mu */
} NfGuide;

/**
 * NfDecodeMethod:
 * @NF_DECODE_AUTO: token by token where many samples are decoded, for then each step is bound by arithmetic;
 * else each block of the flow in the way that proved fastest for it, measured as it goes and again now and
 * then. Frames, decoded with @snap and nothing else asked for, are drafted: found within a tolerance, moved
 * to 8-bit samples, and encoded; if the latents come out bit for bit this is the picture, else it is decoded
 * as before. Hints that speed drafts up are read from a file beside the model ("x.hints.safetensors" of
 * "x.safetensors", nf_session_write_hints()), else from the cache; where there are none they are measured on
 * the second picture of a session, and cached. With a budget nothing is drafted. With a limit of sweeps as
 * %NF_DECODE_JACOBI
 * @NF_DECODE_SEQUENTIAL: token by token
 * @NF_DECODE_JACOBI: windows of tokens are iterated to their fixed point (arXiv 2505.12849, 2505.24791,
 * 2511.20462)
 * @NF_DECODE_DRAFT: %NF_DECODE_AUTO that drafts frames wherever it can, also where that seems slower
 */
typedef enum
{
  NF_DECODE_AUTO,
  NF_DECODE_SEQUENTIAL,
  NF_DECODE_JACOBI,
  NF_DECODE_DRAFT,
} NfDecodeMethod;

/**
 * NfGuess: where Jacobi's iteration starts.
 * @NF_GUESS_LATENT: the latents themselves
 * @NF_GUESS_ZEROS: zeros
 * @NF_GUESS_FRAME: the frame before, in videos from the second one on; elsewhere the latents
 */
typedef enum
{
  NF_GUESS_LATENT,
  NF_GUESS_ZEROS,
  NF_GUESS_FRAME,
} NfGuess;

/**
 * NfDenoise: how a picture that was drawn from a model of Gaussian noise loses the noise that it has.
 * @NF_DENOISE_AUTO: what the learned denoiser says if the model has one of as many features as a token has
 * values, which fewer cannot say, else a step along the score
 * @NF_DENOISE_LEARNED: by the learned denoiser
 * @NF_DENOISE_SCORE: by one step along the gradient of log p (Tweedie): exact, but it takes the flow there
 * and back
 * @NF_DENOISE_NONE: not at all: as it was drawn
 */
typedef enum
{
  NF_DENOISE_AUTO,
  NF_DENOISE_LEARNED,
  NF_DENOISE_SCORE,
  NF_DENOISE_NONE,
} NfDenoise;

/**
 * NfDecodeBlock:
 * @window: tokens of a Jacobi sweep, 1: token by token; 0: as the method chooses. More than memory was taken
 * for count as that
 * @guess: where the iteration starts
 * @tolerance: a token none of whose values changes by more is taken to have settled; 0 to 1e6
 *
 * How one block of the flow is decoded. They differ in how strongly tokens answer to those before them, and
 * so in what serves them (arXiv 2505.12849).
 */
typedef struct
{
  guint window;
  NfGuess guess;
  double tolerance;
} NfDecodeBlock;

/**
 * NfDecodeOptions:
 * @guidance: weight w, 0, which is none, to 1e6 (arXiv 2412.06329, section 3.4; STARFlow: arXiv 2506.06276,
 * proposition 2)
 * @guide: #NfGuide flags
 * @annealed: w grows linearly along the sequence
 * @attention_temperature: the unguided branch's attention logits are divided by it (1 is none), up to 1e6;
 * with w > 0 and no labels this is the guidance of unconditional models
 * @snap: decoded samples fall onto the lattice that encoding used, as they are made: 8-bit data come back
 * exactly
 * @method: how tokens are found
 * @window: tokens of a Jacobi sweep, 1 is token by token, 0 for the most that memory was taken for
 * @guess: where the iteration starts
 * @tolerance: a token none of whose values, as the block makes them, changes by more is taken to have
 * settled, once those beside it have, too, so that above 0 a sample depends on what is decoded with it; 0
 * iterates until nothing changes: the same bits as token by token. 0 to 1e6, though 1 is half of all that
 * samples span: nf_decode_options_set_blocks(), the command and flowdecode take 0 to 1
 * @max_sweeps: sweeps of a window after which it is taken as it is, 0 for no limit
 * @budget_ms: milliseconds of a call, up to 1e6, after which each window of what is left is swept once only,
 * 0 for no limit; until then tokens are found as without it. So many tiles or samples that sweeping takes
 * longer than finding what is left (8 for each core, of those that go through together) are found, but by
 * %NF_DECODE_JACOBI. %NF_DECODE_SEQUENTIAL has none
 * @afresh: nf_session_decode_frame() goes by nothing of the frame that it decoded before: every tile is
 * decoded, also those whose latents are, bit for bit, those of that frame
 * @n_blocks: 0, or T, the model's number of blocks: each is decoded as @blocks says, and @window, @guess and
 * @tolerance are not looked at. What @method says, it says of the blocks whose window is 0
 * @blocks: the first @n_blocks are read, block 0 first, which makes the picture and is inverted last
 * @drawn: the latents are drawn from the prior, not those of an encoder: nothing is snapped. With a model
 * that was trained with Gaussian noise what they become is noisy, too, and the noise leaves by @denoise, in
 * floats, before there are pixels (arXiv 2412.06329, eq. 8). Streams are told by their own calls
 * @denoise: see @drawn; the learned one is for videos
 * @corrections: (nullable): of frames, one of each that a call decodes, of streams side by side one for all;
 * NULL for none. nf_session_decode() does not look at it. It is read during the call only
 *
 * Zero-initialise, then set what differs: all zero means plain decoding (attention_temperature 0 counts as 1,
 * guide 0 as both). Guidance of a STARFlow is of both, without annealing and attention temperature.
 */
typedef struct
{
  double guidance;
  guint guide;
  gboolean annealed;
  double attention_temperature;
  gboolean snap;
  NfDecodeMethod method;
  guint window;
  NfGuess guess;
  double tolerance;
  guint max_sweeps;
  double budget_ms;
  gboolean afresh;
  guint n_blocks;
  NfDecodeBlock blocks[NF_MAX_BLOCKS];
  gboolean drawn;
  NfDenoise denoise;
  const NfCorrections *corrections;
} NfDecodeOptions;

/* As text, and checked */

/**
 * nf_decode_options_set_blocks:
 * @text: (nullable): WINDOW, WINDOW:GUESS or WINDOW:GUESS:TOLERANCE of each block, up to %NF_MAX_BLOCKS,
 * separated by commas, block 0 first, such as "16,32:zeros,1,8:latent:1e-4"; windows of 0 to 65536, a
 * #NfGuess by name or "latent", tolerances of 0 to 1 or 0. Empty or %NULL: none
 *
 * Sets @n_blocks and @blocks, which stay as they are if it fails.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if the text says something else.
 */
gboolean nf_decode_options_set_blocks (NfDecodeOptions *options, const char *text, GError **error);

/**
 * nf_decode_options_check:
 * @config: of the model
 *
 * What decoding checks first: that numbers are in the ranges that #NfDecodeOptions gives, choices among those
 * there are, and @blocks as many as the model has, if there are any. What a family of models does not take,
 * and what is lacking for it, decoding itself says.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if not.
 */
gboolean nf_decode_options_check (const NfDecodeOptions *options, const NfConfig *config, GError **error);

/** nf_decode_method_name: Returns: "auto", "sequential", "jacobi" or "draft". */
const char *nf_decode_method_name (NfDecodeMethod method);

/** nf_decode_method_from_name: Returns: FALSE if @name is none of them; @method (out) stays as it is then. */
gboolean nf_decode_method_from_name (const char *name, NfDecodeMethod *method);

/** nf_guess_name: Returns: "latent", "zeros" or "frame". */
const char *nf_guess_name (NfGuess guess);

/** nf_guess_from_name: Returns: FALSE if @name is none of the three; @guess (out) stays as it is then. */
gboolean nf_guess_from_name (const char *name, NfGuess *guess);

/** nf_denoise_from_name: Returns: FALSE if @name is none of "auto", "learned", "score", "none"; @denoise
 * (out) stays as it is then. */
gboolean nf_denoise_from_name (const char *name, NfDenoise *denoise);

G_END_DECLS
