/* normflow: video frame by frame. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-session.h"

G_BEGIN_DECLS

/**
 * NfStream:
 *
 * A stream of 8-bit frames through a model of videos (STARFlow-V, arXiv 2511.20462): p(frame | the frames
 * before it, actions, text), exactly, one frame at a time, for as long as wanted in the same memory and time.
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
 * Models that were trained with Gaussian noise have seen noisy frames only, so those are what is remembered
 * (as in STARFlow-V). A real frame gets noise of the model's deviation that is a function of its number since
 * the last key frame and the sample's place alone: encoder and decoder add the same, and the 8-bit frame
 * comes back exactly. A drawn frame is remembered as it was drawn, and what is shown is its clean estimate
 * (nf_stream_set_denoise()). If the learned denoiser was trained to look ahead, showing waits for as many
 * frames (nf_stream_set_look_ahead()), else for none.
 *
 * A stream may be of B streams side by side, which are coded together and know nothing of each other. All
 * arrays, of frames too, then hold one after the other; what comes out is the same whatever B.
 *
 * One thread at a time; calls return when the work is done.
 */
#define NF_TYPE_STREAM (nf_stream_get_type ())
G_DECLARE_FINAL_TYPE (NfStream, nf_stream, NF, STREAM, GObject)

/**
 * nf_stream_new:
 * @model: of videos of pixels, frame after frame (temporal_causal), with shallow blocks that see one frame
 * (shallow_block_local) and a start token (sos); the stream holds a reference to it
 *
 * Returns: (transfer full): a stream that begins with a key frame, or NULL with %NF_ERROR_UNSUPPORTED
 * (another kind of model) or device errors.
 */
NfStream *nf_stream_new (NfModel *model, GError **error);

/**
 * nf_stream_new_batch:
 * @B: streams side by side, that begin, end and are reset together: 1 to 4096
 *
 * Returns: (transfer full): as nf_stream_new(), or NULL with %NF_ERROR_ARGUMENT (@B), too.
 */
NfStream *nf_stream_new_batch (NfModel *model, guint B, GError **error);

/** nf_stream_get_batch: Returns: B. */
guint nf_stream_get_batch (NfStream *self);

/** nf_stream_get_model: Returns: (transfer none): the model. */
NfModel *nf_stream_get_model (NfStream *self);

/**
 * nf_stream_set_cancellable:
 * @cancellable: (nullable): polled before each frame, and within decoding between steps; the work then fails
 * with %NF_ERROR_CANCELLED
 */
void nf_stream_set_cancellable (NfStream *self, GCancellable *cancellable);

/**
 * nf_stream_set_context:
 * @context: frames that are kept when the window is full, 0 to F - 1; at first F/2. Up to F/2 time per frame
 * is flat. Encoder and decoder must agree
 *
 * Begins anew, as nf_stream_reset() does.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if @context is out of range; nothing changes then.
 */
gboolean nf_stream_set_context (NfStream *self, guint context, GError **error);

/** nf_stream_get_context: Returns: frames that are kept when the window is full. */
guint nf_stream_get_context (NfStream *self);

/**
 * nf_stream_set_noise_seed:
 * @seed: of the noise that real frames get, with a model of Gaussian noise
 *
 * For measuring with more noise than one; encoder and decoder must agree, and elements keep what streams
 * begin with. Begins anew, as nf_stream_reset() does.
 */
void nf_stream_set_noise_seed (NfStream *self, guint64 seed);

/**
 * nf_stream_set_denoise:
 * @denoise: what is shown of drawn frames
 *
 * What is remembered does not depend on it. Any time; models without Gaussian noise do not care.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if there is no such @denoise, or %NF_ERROR_UNSUPPORTED if it is
 * %NF_DENOISE_LEARNED and a model of Gaussian noise has no denoiser.
 */
gboolean nf_stream_set_denoise (NfStream *self, NfDenoise denoise, GError **error);

/**
 * nf_stream_set_look_ahead:
 * @frames: that showing waits for, up to what the learned denoiser was trained with, temporal_causal - 1, or
 * 0 without one; -1, as at first, is just that, but 0 if %NF_DENOISE_AUTO does not ask it. Not more than the
 * context in any case
 *
 * With more than 0 nf_stream_decode() and nf_stream_sample() write the frame of @frames calls ago; the first
 * @frames calls write none (nf_stream_is_shown()). Frames that were held are had by nf_stream_drain(). Begins
 * anew, as nf_stream_reset() does.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if @frames is out of range; nothing changes then.
 */
gboolean nf_stream_set_look_ahead (NfStream *self, gint frames, GError **error);

/** nf_stream_get_look_ahead: Returns: frames that showing waits for, not more than the context. */
guint nf_stream_get_look_ahead (NfStream *self);

/** nf_stream_is_shown: Returns: whether the last nf_stream_decode(), nf_stream_sample() or nf_stream_drain()
 * wrote its frame. */
gboolean nf_stream_is_shown (NfStream *self);

/** nf_stream_get_held: Returns: frames that were decoded and not shown. */
guint nf_stream_get_held (NfStream *self);

/**
 * nf_stream_drain:
 * @frame: (array): B: their samples are written, if a frame was held: the oldest one
 *
 * At the end of a stream, or before a reset: shows a frame with what is known. After an error the stream is
 * reset.
 *
 * Returns: TRUE, also if none was held (nf_stream_is_shown() tells); FALSE with %NF_ERROR_ARGUMENT (size,
 * planes), %NF_ERROR_UNSUPPORTED (as nf_stream_encode()), %NF_ERROR_DATA (what the model makes is no number),
 * device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_drain (NfStream *self, const NfFrame *frame, GError **error);

/**
 * nf_stream_set_text:
 * @text: (nullable) (array): text features (@n, txt_size, txt_dim); NULL, as at first, for
 * what nf_session_set_text() takes for none
 * @n: samples of them: 1 for all streams, or B
 *
 * What the model is to see of text, in all frames to come. Encoder and decoder must agree. Begins anew, as
 * nf_stream_reset() does.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (the model sees no text, @n), %NF_ERROR_DATA (a value is not finite)
 * or device errors.
 */
gboolean nf_stream_set_text (NfStream *self, const float *text, guint n, GError **error);

/**
 * nf_stream_load_text:
 * @path: as of nf_session_load_text(); of the caption that says nothing streams have no use
 *
 * nf_stream_set_text() with what the file holds.
 *
 * Returns: FALSE with what nf_tensor_file_open(), nf_text_read() and nf_stream_set_text() fail with.
 */
gboolean nf_stream_load_text (NfStream *self, const char *path, GError **error);

/** nf_stream_get_text_digest: Returns: (transfer none) (nullable): of this stream's text, as
 * nf_session_get_text_digest() says it. */
const char *nf_stream_get_text_digest (NfStream *self);

/** nf_stream_reset: Forgets all frames: the next one is a key frame, coded by itself. */
void nf_stream_reset (NfStream *self);

/** nf_stream_get_index: Returns: frames since the last reset; 0 if the next one is a key frame. */
guint64 nf_stream_get_index (NfStream *self);

/** nf_stream_get_length: Returns: frames that the next one will be predicted from. */
guint nf_stream_get_length (NfStream *self);

/** nf_stream_count_latents: Returns: number of latents of a frame, of all streams together: B N D. */
gsize nf_stream_count_latents (NfStream *self);

/**
 * nf_stream_encode:
 * @frame: (array): 8-bit frames of the model's size, B
 * @action: (nullable) (array): condition vectors (B, action_dim) that led to these frames: what was done at
 * the ones before; NULL for unknown (zeros)
 * @latents: (out caller-allocates): (B, rows/p, columns/p, D), standard normal under the prior
 * @score: (out) (optional): (array): B: each frame's likelihood given the frames before it and the actions
 * @score_map: (nullable) (out caller-allocates): bits per dimension of each token, (B, rows/p, columns/p)
 *
 * Samples are dequantised as by nf_session_encode_frame(); of models of Gaussian noise they get the noise
 * that is remembered. The score is log p (noisy frame | past) - log q (noise that was added): with uniform
 * noise a bound on the bits of the 8-bit frame, with Gaussian noise the bits of it that the noise does not
 * hide. Either way its mean is the entropy of what can be seen of the frame, and what the model does not
 * know. After an error the stream is reset; but while decoded frames are held, which nf_stream_drain() shows,
 * nothing is encoded and nothing changes.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (size, planes, actions that the model does not take, frames are
 * held), %NF_ERROR_UNSUPPORTED (an interlaced frame whose chroma has more rows than the model's),
 * %NF_ERROR_DATA (actions or latents are not finite), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_encode (NfStream *self, const NfFrame *frame, const float *action, float *latents,
                           NfScore *score, float *score_map, GError **error);

/**
 * nf_stream_get_corrections:
 * @corrections: (out caller-allocates): what decoding the last frame that was encoded, of each stream, will
 * not find; its items are the stream's, and valid until it encodes again
 *
 * nf_stream_decode() takes them as a part of #NfDecodeOptions.
 */
void nf_stream_get_corrections (NfStream *self, NfCorrections *corrections);

/**
 * nf_stream_decode:
 * @latents: (B, rows/p, columns/p, D)
 * @action: (nullable) (array): the vectors that nf_stream_encode() had
 * @drawn: the latents are not those of nf_stream_encode() but drawn from the prior, such as by
 * nf_random_normal()
 * @options: (nullable): NULL means plain with snap; guidance is not possible; NfDecodeOptions.drawn and
 * NfDecodeOptions.denoise do nothing
 * @frame: (array): B: their samples are written, as by nf_session_decode_frame()
 *
 * Latents of nf_stream_encode() become the very bytes they were made from, if the stream since the last reset
 * was the same and the options do not accept what has not settled. Drawn ones become a frame that continues
 * the stream. @drawn matters to models of Gaussian noise alone: the noise in a frame that was encoded is
 * known, that in a drawn one is estimated. What others draw snaps, if @options say so, as it is the 8-bit
 * frame that is remembered. After an error the stream is reset; but latents that are not finite change
 * nothing while decoded frames are held, which nf_stream_drain() shows. What the model makes is judged when a
 * frame is shown, together for all that were decoded by then: an error takes sound frames that are held, too.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@options, size, planes, actions that the model does not take),
 * %NF_ERROR_UNSUPPORTED (guidance, or as nf_stream_encode()), %NF_ERROR_DATA (@latents or actions are not
 * finite, or what the model makes of them is no number, as nf_session_decode_frame() says), device errors or
 * %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_decode (NfStream *self, const float *latents, const float *action, gboolean drawn,
                           const NfDecodeOptions *options, const NfFrame *frame, GError **error);

/**
 * nf_stream_sample:
 * @seed: of the random numbers; stream b has those of @seed + b
 * @number: which frame of the seed's
 * @temperature: standard deviation of the latents, 0 to 2
 * @action: (nullable) (array): as of nf_stream_decode(), as is @options
 * @latents: (nullable) (out caller-allocates): what was drawn, (B, rows/p, columns/p, D)
 * @frame: (array): B: their samples are written
 *
 * Draws a next frame from the model's prediction: nf_stream_decode() of nf_random_normal(@seed, @number).
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@temperature; the stream is then reset), or as nf_stream_decode()
 * does.
 */
gboolean nf_stream_sample (NfStream *self, guint64 seed, guint64 number, double temperature,
                           const float *action, const NfDecodeOptions *options, float *latents,
                           const NfFrame *frame, GError **error);

/** nf_stream_get_decode_report: @report: (out caller-allocates): of the last nf_stream_decode() or
 * nf_stream_sample(); streams keep and draft no tiles. */
void nf_stream_get_decode_report (NfStream *self, NfDecodeReport *report);

/**
 * nf_stream_prepare:
 *
 * Codes an empty frame both ways, so that drivers that compile kernels when they first run have done so, and
 * takes all the memory that there will ever be need of; then resets. Statistics do not count it.
 *
 * Returns: FALSE with what nf_stream_encode() and nf_stream_decode() fail with: %NF_ERROR_DATA if the model
 * makes no finite numbers of that frame, device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_stream_prepare (NfStream *self, GError **error);

/** nf_stream_get_stats: @stats: (out caller-allocates): up to now; frames of streams side by side count as
 * one, and those that nf_stream_drain() shows not at all. */
void nf_stream_get_stats (NfStream *self, NfSessionStats *stats);

G_END_DECLS
