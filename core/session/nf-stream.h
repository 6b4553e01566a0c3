/* normflow: video frame by frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-session.h"

G_BEGIN_DECLS

/**
 * NfStream:
 *
 * A stream of 8-bit frames through a model of videos (STARFlow-V, arXiv 2511.20462): p(frame | the frames
 * before it, actions), exactly, one frame at a time, for as long as wanted in the same memory and time.
 *
 * The model's shallow blocks see one frame each. Its deep block sees a window of frames, whose keys and
 * values are kept on the device. The window holds at most the model's number of frames F. Once it is full it
 * begins anew with the last nf_stream_get_context() of them, numbered from 0: the deep block's keys and
 * values of the new window are made while the old one fills, so that no frame takes longer than another.
 *
 * What a frame is predicted from is a function of the 8-bit frames and actions since the last key frame
 * alone: a decoder puts the frame that it found through the shallow blocks again, and so remembers the very
 * bits that the encoder does. Nothing drifts.
 *
 * One thread at a time.
 */
#define NF_TYPE_STREAM (nf_stream_get_type ())
G_DECLARE_FINAL_TYPE (NfStream, nf_stream, NF, STREAM, GObject)

/**
 * nf_stream_new:
 * @model: of videos, with shallow blocks that see one frame (shallow_block_local), a start token (sos) and no
 * text
 *
 * Returns: (transfer full): a stream that begins with a key frame, or NULL with %NF_ERROR_UNSUPPORTED
 * (another kind of model), %NF_ERROR_DEVICE or %NF_ERROR_NO_MEMORY.
 */
NfStream *nf_stream_new (NfModel *model, GError **error);

NfModel *nf_stream_get_model (NfStream *self);

/**
 * nf_stream_set_cancellable:
 * @cancellable: (nullable): polled between kernels of long work, which then fails with %NF_ERROR_CANCELLED
 */
void nf_stream_set_cancellable (NfStream *self, GCancellable *cancellable);

/**
 * nf_stream_set_context:
 * @context: frames that are kept when the window is full, 0 to F - 1; at first F/2. Up to F/2 time per frame
 * is flat. Encoder and decoder must agree
 *
 * Begins anew, as nf_stream_reset() does.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT.
 */
gboolean nf_stream_set_context (NfStream *self, guint context, GError **error);
guint nf_stream_get_context (NfStream *self);

/** nf_stream_reset: Forgets all frames: the next one is a key frame, coded by itself. */
void nf_stream_reset (NfStream *self);

/** nf_stream_get_index: Returns: frames since the last reset; 0 if the next one is a key frame. */
guint64 nf_stream_get_index (NfStream *self);

/** nf_stream_get_length: Returns: frames that the next one will be predicted from. */
guint nf_stream_get_length (NfStream *self);

/** nf_stream_get_latents: Returns: latent values of a frame, N D. */
gsize nf_stream_get_latents (NfStream *self);

/**
 * nf_stream_encode:
 * @frame: 8-bit frame of the model's size
 * @action: (nullable) (array): condition vector (action_dim) that led to this frame: what was done at the one
 * before; NULL for unknown (zeros)
 * @latents: (out caller-allocates): (rows/p, columns/p, D), standard normal under the prior
 * @score: (out) (optional): the frame's likelihood given the frames before it and the actions
 * @score_map: (nullable) (out caller-allocates): bits per dimension of each token, (rows/p, columns/p)
 *
 * Samples are dequantised as by nf_session_encode_frame(). After an error the stream is reset.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (size, planes, action), %NF_ERROR_DATA (latents are not finite),
 * device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_encode (NfStream *self, const NfFrame *frame, const float *action, float *latents,
                           NfScore *score, float *score_map, GError **error);

/**
 * nf_stream_decode:
 * @latents: (rows/p, columns/p, D)
 * @action: (nullable) (array): the vector that nf_stream_encode() had
 * @options: (nullable): NULL means plain with snap; guidance is not possible
 * @frame: its samples are written, as by nf_session_decode_frame()
 *
 * Latents of nf_stream_encode() become the very bytes they were made from, if the stream since the last reset
 * was the same and the options do not accept what has not settled. Other latents, such as those of
 * nf_random_normal(), become a frame that continues the stream. After an error the stream is reset.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT, %NF_ERROR_UNSUPPORTED (guidance), %NF_ERROR_DATA, device errors or
 * %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_decode (NfStream *self, const float *latents, const float *action,
                           const NfDecodeOptions *options, const NfFrame *frame, GError **error);

/**
 * nf_stream_sample:
 * @seed: of the random numbers
 * @number: which frame of the seed's
 * @temperature: standard deviation of the latents, 0 to 2
 * @latents: (nullable) (out caller-allocates): what was drawn, N D values
 * @frame: its samples are written
 *
 * Draws a next frame from the model's prediction: nf_stream_decode() of nf_random_normal(@seed, @number).
 */
gboolean nf_stream_sample (NfStream *self, guint64 seed, guint64 number, double temperature,
                           const float *action, const NfDecodeOptions *options, float *latents,
                           const NfFrame *frame, GError **error);

/** nf_stream_get_decode_report: @report: (out): of the last nf_stream_decode() or nf_stream_sample(). */
void nf_stream_get_decode_report (NfStream *self, NfDecodeReport *report);

/**
 * nf_stream_prepare:
 *
 * Codes an empty frame both ways, so that drivers that compile kernels when they first run have done so; then
 * resets.
 */
gboolean nf_stream_prepare (NfStream *self, GError **error);

void nf_stream_get_stats (NfStream *self, NfSessionStats *stats);

G_END_DECLS
