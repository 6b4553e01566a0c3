/* normflow: encode, decode, denoise, gradients. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-model.h"
#include "nf-frame.h"
#include "nf-score.h"
#include "nf-decode-options.h"

G_BEGIN_DECLS

/**
 * NfSession:
 *
 * One user of a model: command queue, work memory and KV caches. A session is used by one thread at a time;
 * sessions of one model are independent. Host arrays are float32, tokens as (B, N, D) in the model's layout
 * and basis; images as (B, C, S, S). N is of a whole sample: of a video it is the tokens of all its frames.
 *
 * Calls return when the work is done. One that fails does not spoil the next, and leaves what it was to write
 * in any state.
 */
#define NF_TYPE_SESSION (nf_session_get_type ())
G_DECLARE_FINAL_TYPE (NfSession, nf_session, NF, SESSION, GObject)

/**
 * nf_session_new:
 * @model: whose flow it runs; the session holds a reference to it
 *
 * Returns: (transfer full): a session, or NULL with device errors.
 */
NfSession *nf_session_new (NfModel *model, GError **error);

/** nf_session_get_model: Returns: (transfer none): the model. */
NfModel *nf_session_get_model (NfSession *self);

/**
 * nf_session_set_cancellable:
 * @cancellable: (nullable): polled between batches of tiles or samples, of which the device then ends two at
 * most, and within decoding between steps; the work then fails with %NF_ERROR_CANCELLED
 */
void nf_session_set_cancellable (NfSession *self, GCancellable *cancellable);

/**
 * nf_session_set_progress:
 * @progress: (nullable) (scope forever): told of decoding ("decode"), about ten times a second, in the thread
 * that decodes; until it is set again, NULL for nobody
 * @data: for @progress
 */
void nf_session_set_progress (NfSession *self, NfProgressFunc progress, gpointer data);

/**
 * NfSessionWork:
 * @NF_SESSION_ENCODE: nf_session_encode_frame()
 * @NF_SESSION_DECODE: nf_session_decode_frame()
 * @NF_SESSION_DENOISE: nf_session_denoise_frame()
 */
typedef enum
{
  NF_SESSION_ENCODE,
  NF_SESSION_DECODE,
  NF_SESSION_DENOISE,
} NfSessionWork;

/**
 * nf_session_prepare:
 * @work: what is going to be asked of the session
 *
 * Takes the memory that the work needs and runs it once on a single empty tile, so that drivers that compile
 * kernels when they first run have done so: the first real frame then takes as long as the others. Statistics
 * do not count it.
 *
 * Returns: FALSE with device errors, %NF_ERROR_CANCELLED, %NF_ERROR_DATA if the model makes no finite numbers
 * of that tile, %NF_ERROR_ARGUMENT if there is no such work, or what else the work's own call fails with,
 * such as %NF_ERROR_UNSUPPORTED for a model of videos.
 */
gboolean nf_session_prepare (NfSession *self, NfSessionWork work, GError **error);

/**
 * NfSessionStats:
 * @frames: frames that were encoded, decoded or denoised since the session was made; calls that failed, and
 * those that work on tokens, do not count
 * @upload_seconds: of all these frames, wall-clock seconds before computing began, as samples take to the
 * device
 * @kernel_seconds: likewise, of computing
 * @download_seconds: likewise, of bringing results back to where the caller wants them
 * @last_frame_seconds: the three together, of the last frame; those of nf_session_decode_frames() have equal
 * shares
 * @device_bytes: bytes that buffers of the device hold now, whoever they belong to, see
 * nf_device_get_allocated()
 *
 * What a session, or a stream, has done, and how long it took.
 */
typedef struct
{
  guint64 frames;
  double upload_seconds;
  double kernel_seconds;
  double download_seconds;
  double last_frame_seconds;
  guint64 device_bytes;
} NfSessionStats;

/** nf_session_get_stats: @stats: (out caller-allocates): up to now. */
void nf_session_get_stats (NfSession *self, NfSessionStats *stats);

/* Frames: encoding and scoring, taking noise away; nf_session_decode_frame() is below */

/**
 * nf_session_encode_frame:
 * @frame: 8-bit frame, with sides of 1 to 16384 pixels
 * @latents: (out caller-allocates): (grid_height, grid_width, D) as nf_grid_init() says, standard normal
 * under the prior
 * @score: (out) (optional): the frame's likelihood
 * @score_map: (nullable) (out caller-allocates): bits per dimension of each token, (grid_height, grid_width)
 *
 * With uniform dequantisation each sample gets a fixed offset from a lattice of %NF_LATTICE steps inside its
 * 8-bit bin, by a counter-based random function of its place: the likelihood is that of the real 8-bit data
 * (in expectation over places), and decoding is exact.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (size, planes; text features or actions are of several samples),
 * %NF_ERROR_UNSUPPORTED (a model of videos or of latents; samples have another size, nf_session_set_size();
 * an interlaced frame whose chroma has more rows than its tiles), %NF_ERROR_DATA (what the model makes of
 * @frame is not finite), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_encode_frame (NfSession *self, const NfFrame *frame, float *latents, NfScore *score,
                                  float *score_map, GError **error);

/**
 * nf_session_get_corrections:
 * @corrections: (out caller-allocates): what decoding the last frame that was encoded, as it was, will not
 * find; its items are the session's, and valid until it encodes again
 *
 * Decoding takes them as a part of #NfDecodeOptions.
 */
void nf_session_get_corrections (NfSession *self, NfCorrections *corrections);

/**
 * nf_session_denoise_frame:
 * @in: noisy frame
 * @sigma: standard deviation of its noise, 0 to 2, on the [-1, 1] scale (sigma/2 × 255 in 8-bit steps)
 * @out: of the same size, and interlaced if @in is: its samples are written, as by nf_session_decode_frame();
 * may be the same memory as @in
 *
 * nf_session_denoise() of a frame.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@sigma, or @out is unlike @in), or as nf_session_encode_frame()
 * does.
 */
gboolean nf_session_denoise_frame (NfSession *self, const NfFrame *in, double sigma, const NfFrame *out,
                                   GError **error);

/* Tokens: encoding; nf_session_decode() is below */

/**
 * nf_session_set_size:
 * @rows: height of an image in pixels, a multiple of p, up to 4096
 * @columns: width, likewise
 * @frames: of a video, 1 or more, 0 for an image
 *
 * Samples get this size instead of the configuration's: models with rotary positions take any aspect ratio
 * and length.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT or %NF_ERROR_CONFIG if the model cannot, or device errors; the size
 * then is what it was.
 */
gboolean nf_session_set_size (NfSession *self, guint rows, guint columns, guint frames, GError **error);

/**
 * nf_patchify:
 * @images: (B, C, rows, columns) floats; of videos (B, frames, C, rows, columns)
 * @tokens: (out caller-allocates): (B, N, D), frame by frame, token row·(columns/p)+col, in the model's
 * basis; feature c·p²+i·p+j in a TARFlow, (i·p+j)·C+c in a STARFlow
 *
 * For layouts other than yuv420, which has no such images. B may be any number of images: samples × frames.
 */
void nf_patchify (const NfConfig *config, const float *images, guint B, float *tokens);

/** nf_unpatchify: The inverse of nf_patchify(), from @tokens to @images (out caller-allocates). */
void nf_unpatchify (const NfConfig *config, const float *tokens, guint B, float *images);

/**
 * nf_session_encode:
 * @x: (array): tokens (B, N, D)
 * @labels: (nullable): B class indices, 0 to nf_config_classes() - 1, -1 for none; NULL for none
 * @z: (out caller-allocates): latents (B, N, D)
 * @blocks: (nullable) (out caller-allocates): values after each block, (T, B, N, D)
 * @log_det: (nullable) (out caller-allocates): per token, (B, N), nats: sum over D and blocks of -alpha
 *
 * z = f(x), arXiv 2412.06329, eq. 4 to 6. The same bits whatever B.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (a label is out of range or beside text features; text features or
 * actions are of several samples, and not of B), %NF_ERROR_DATA (@x or @z is not finite), device errors or
 * %NF_ERROR_CANCELLED.
 */
gboolean nf_session_encode (NfSession *self, const float *x, guint B, const gint *labels, float *z,
                            float *blocks, float *log_det, GError **error);

/**
 * NfTrace:
 * @blocks: (nullable): values after each block, (T, B, N, D), in natural order
 * @log_scales: (nullable): -log sigma of each value, (T, B, N, D), in the block's own order
 * @log_det: (nullable): per token, (B, N), nats: sum over D and blocks of -log sigma
 *
 * What nf_session_encode_traced() says besides the latents, in arrays of the caller's.
 */
typedef struct
{
  float *blocks;
  float *log_scales;
  float *log_det;
} NfTrace;

/**
 * nf_session_encode_traced:
 * @trace: (nullable): its arrays that are not NULL are filled
 *
 * nf_session_encode() that says more.
 *
 * Returns: FALSE as nf_session_encode() does.
 */
gboolean nf_session_encode_traced (NfSession *self, const float *x, guint B, const gint *labels, float *z,
                                   const NfTrace *trace, GError **error);

/* Decoding */

/**
 * nf_session_decode_frame:
 * @latents: (grid_height, grid_width, D) of a frame of @frame's size
 * @label: class for all tiles, 0 to nf_config_classes() - 1, -1 for none
 * @options: (nullable): NULL means plain with snap
 * @frame: its samples are written; bytes between samples of a row of three planes that interleave (alpha of
 * RGBx, but for the one at an end of the row) are set to 255, row padding is left alone
 *
 * A tile whose latents are those of the last frame, decoded by the same options, has its pixels too and costs
 * nothing. The session remembers them until it encodes, denoises, or decodes a frame of another size.
 *
 * Values of the flow end at 1e16 and -1e16, infinite ones too, which become white and black; what is no
 * number (NaN) is an error.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@label, @options, size, planes; text features or actions are of
 * several samples), %NF_ERROR_UNSUPPORTED (as nf_session_encode_frame(); guidance that a STARFlow does not
 * have; no learned denoiser), %NF_ERROR_DATA (@latents are not finite, or what the model makes of them is no
 * number), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_decode_frame (NfSession *self, const float *latents, gint label,
                                  const NfDecodeOptions *options, const NfFrame *frame, GError **error);

/**
 * nf_session_decode_frames:
 * @latents: (array length=n_frames): of each frame, as of nf_session_decode_frame()
 * @n_frames: 1 or more
 * @label: as of nf_session_decode_frame(), as is @options
 * @frames: (array length=n_frames): of one size, and all interlaced or none
 *
 * nf_session_decode_frame() of one frame after the other, with the same bits, but their tiles go through the
 * flow side by side: a step of decoding that finds one token of many tiles is bound by arithmetic, one of few
 * tiles by reading the weights. A budget is for all of them; the report is of all of them.
 *
 * Returns: FALSE with what nf_session_decode_frame() fails with; then any of the frames may have been
 * written.
 */
gboolean nf_session_decode_frames (NfSession *self, const float *const *latents, guint n_frames, gint label,
                                   const NfDecodeOptions *options, const NfFrame *frames, GError **error);

/**
 * nf_session_get_frames_at_once:
 * @width: of a frame in pixels, 1 to 16384
 * @height: likewise
 *
 * Takes the memory for decoding, which tells.
 *
 * Returns: how many frames of this size nf_session_decode_frames() is best given: more would bring nothing.
 * 0 with %NF_ERROR_ARGUMENT or device errors.
 */
guint nf_session_get_frames_at_once (NfSession *self, guint width, guint height, GError **error);

/**
 * nf_session_decode:
 * @z: latents (B, N, D), standard normal under the prior. Those of nf_session_encode() are that too, but for
 * models with a variance that is not 1, as volume-preserving ones have: their official latents have it still,
 * decoding multiplies by sqrt(var)
 * @labels: (nullable): as of nf_session_encode()
 * @options: (nullable): NULL means plain: all zero, without snap
 * @x: (out caller-allocates): tokens (B, N, D)
 *
 * x = f⁻¹(z), with keys and values kept.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@options, or as nf_session_encode()), %NF_ERROR_UNSUPPORTED
 * (guidance that a STARFlow does not have; no learned denoiser), %NF_ERROR_DATA (@z or @x is not finite),
 * device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_decode (NfSession *self, const float *z, guint B, const gint *labels,
                            const NfDecodeOptions *options, float *x, GError **error);

/**
 * NfDecodeReport:
 * @passes: of any number of rows through the network of a block
 * @rows: rows that went through in all; token by token it is one a token and block
 * @residual: largest change, in the last sweep, of a value that was accepted before it had settled, which it
 * has when it changes by no more than the tolerance; 0 if everything settled, infinite if a value was no
 * number
 * @kept: tiles of a frame that are the last frame's, their latents being the same
 * @drafted: tiles of a frame that were decoded from a draft, which encoding confirmed (%NF_DECODE_AUTO)
 *
 * What the last decoding took.
 */
typedef struct
{
  guint64 passes;
  guint64 rows;
  double residual;
  guint kept;
  guint drafted;
} NfDecodeReport;

/** nf_session_get_decode_report: @report: (out caller-allocates): of the last call that decoded, frames,
 * tokens or videos. */
void nf_session_get_decode_report (NfSession *self, NfDecodeReport *report);

/* Hints that speed up drafts */

/**
 * nf_session_measure_hints:
 * @frame: a picture like those that will be decoded
 *
 * Drafts (%NF_DECODE_AUTO) of this session go by hints that are measured on all tiles of the frames given so
 * far, in place of others; a tile takes as long as about five take to encode. Hints decide how long decoding
 * takes, never what comes out.
 *
 * Returns: FALSE with %NF_ERROR_UNSUPPORTED if pictures of this model are not drafted or as
 * nf_session_encode_frame() has it, %NF_ERROR_ARGUMENT (likewise), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_measure_hints (NfSession *self, const NfFrame *frame, GError **error);

/**
 * nf_session_write_hints:
 * @path: (nullable): a file to write, replaced atomically; by default beside the model, where sessions look
 * for it
 *
 * Returns: FALSE with %NF_ERROR_WRITE, or with %NF_ERROR_ARGUMENT if there are no hints or the model has no
 * file to be beside of.
 */
gboolean nf_session_write_hints (NfSession *self, const char *path, GError **error);

/**
 * nf_session_read_hints:
 * @path: (nullable): a file of nf_session_write_hints(); NULL: drafts go by no hints
 *
 * Takes these in place of those that the session would find.
 *
 * Returns: FALSE with %NF_ERROR_NOT_FOUND, %NF_ERROR_READ, %NF_ERROR_FORMAT or %NF_ERROR_DATA if it is no
 * file of hints for this model, with %NF_ERROR_UNSUPPORTED as nf_session_measure_hints(), or with device
 * errors.
 */
gboolean nf_session_read_hints (NfSession *self, const char *path, GError **error);

/* What samples are conditioned on */

/**
 * nf_session_set_text:
 * @text: (nullable) (array): text features (B, txt_size, txt_dim) of the samples of calls to come; NULL for
 * zeros, or, of one token, for 1 in the last place: no class
 * @null_text: (nullable) (array): the same of the caption that says nothing, for guidance
 * @B: samples of both; 1 serves any number of samples
 *
 * Kept by value until it is set again; what is refused changes nothing.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if the model sees no text, %NF_ERROR_DATA if a value is not finite.
 */
gboolean nf_session_set_text (NfSession *self, const float *text, const float *null_text, guint B,
                              GError **error);

/**
 * nf_text_read:
 * @file: of tensors
 * @name: one of them, (B, txt_size, txt_dim), of any real type; B is 1 to 65536
 * @config: of the model that is to see it
 * @B: (out): samples
 *
 * Returns: (transfer full): the features of text, to be freed by g_free(), or NULL with %NF_ERROR_DATA (there
 * is no such tensor, or it has another shape), %NF_ERROR_ARGUMENT (the model sees no text) or
 * %NF_ERROR_NO_MEMORY.
 */
float *nf_text_read (NfTensorFile *file, const char *name, const NfConfig *config, guint *B, GError **error);

/**
 * nf_session_load_text:
 * @path: safetensors, or a PyTorch checkpoint, with the tensor "text" (or "input.text", or whatever its only
 * other tensor is called), and optionally "null_text", of as many samples or of one for all
 *
 * nf_session_set_text() with what the file holds.
 *
 * Returns: FALSE with what nf_tensor_file_open(), nf_text_read() and nf_session_set_text() fail with.
 */
gboolean nf_session_load_text (NfSession *self, const char *path, GError **error);

/** What stands for the digest of no text. */
#define NF_NO_TEXT "none"

/**
 * nf_session_get_text_digest:
 * @self: the session
 *
 * Returns: (transfer none) (nullable): 16 hexadecimal digits that tell the features of text that were set
 * from others, %NF_NO_TEXT if none were, NULL if the model sees no text; good until text is set again
 */
const char *nf_session_get_text_digest (NfSession *self);

/** nf_session_count_texts: Returns: samples that text features were set for, 0 if none were. */
guint nf_session_count_texts (NfSession *self);

/**
 * nf_session_choose_text:
 * @i: sample of the text features that were set, 0 to nf_session_count_texts() - 1, for all samples of calls
 * to come; -1: each has its own
 *
 * Until text features are set again.
 */
void nf_session_choose_text (NfSession *self, gint i);

/**
 * nf_session_set_actions:
 * @actions: (nullable) (array): condition vectors (B, frames, action_dim): that of frame t leads to frame t.
 * NULL for none (zeros)
 * @B: samples; 1 serves any number of samples
 *
 * Kept by value until they are set again, or the size of samples is; what is refused changes nothing.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT if the model takes no actions, %NF_ERROR_DATA if a value is not
 * finite.
 */
gboolean nf_session_set_actions (NfSession *self, const float *actions, guint B, GError **error);

/* Videos */

/**
 * nf_session_continue:
 * @x: (B, N, D): videos whose first @given frames are known
 * @given: 1 or more, less than the frames of a sample
 * @z: latents (B, N, D); those of the known frames do not matter, but must be finite
 * @options: (nullable): as of nf_session_decode()
 * @y: (out caller-allocates): (B, N, D): the known frames of @x, then frames decoded from @z that continue
 * them
 *
 * The known frames go through the flow and fill the keys and values of each block that sees more than one
 * frame (arXiv 2511.20462, section on image-to-video). For models of videos; one of Gaussian noise has seen
 * noisy frames only, so that @x should have such noise. With latents that are drawn (NfDecodeOptions.drawn)
 * all frames of @y have lost their noise, the known ones, too.
 *
 * Returns: FALSE with %NF_ERROR_UNSUPPORTED (another kind of model, or as nf_session_decode()),
 * %NF_ERROR_ARGUMENT (@given, @options; text features or actions are of several samples, and not of B),
 * %NF_ERROR_DATA (the known frames, @z or @y are not finite), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_continue (NfSession *self, const float *x, guint B, guint given, const float *z,
                              const NfDecodeOptions *options, float *y, GError **error);

/**
 * nf_session_roll:
 * @x: (nullable): (B, frames, tokens of a frame, D): videos whose first @given frames are known; may be NULL
 * if there are none
 * @given: known frames, less than a sample has
 * @frames: of each video, any number; with a model whose positions are learned, a sample's or more
 * @context: frames that a window begins with, the last ones of the window before: 1 or more, less than a
 * sample has
 * @z: latents (B, frames, tokens of a frame, D)
 * @options: (nullable): as of nf_session_decode()
 * @y: (out caller-allocates): (B, frames, tokens of a frame, D)
 *
 * Videos that are longer than a sample (nf_session_set_size()), as nf_session_continue() makes them, window
 * after window: each is a sample that begins with the last frames of the one before (arXiv 2511.20462, long
 * videos). Drawn frames lose their noise when their window has been drawn; those that a learned denoiser
 * would see with frames of the next one, in that. For models of videos without actions.
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@given, @frames, @context), %NF_ERROR_UNSUPPORTED (actions are
 * set), or as nf_session_continue() does
 */
gboolean nf_session_roll (NfSession *self, const float *x, guint B, guint given, guint frames, guint context,
                          const float *z, const NfDecodeOptions *options, float *y, GError **error);

/**
 * nf_session_show_video:
 * @x: (array): tokens (N, D) of one sample, such as of nf_session_decode() or nf_session_continue()
 * @frames: (array): as many as a sample has, of its size: their samples are written
 *
 * The 8-bit samples that these tokens are of. For models of videos of pixels.
 *
 * Returns: FALSE with %NF_ERROR_UNSUPPORTED (another kind of model), %NF_ERROR_ARGUMENT (size, planes),
 * %NF_ERROR_DATA (@x is not finite, or what it becomes is no number) or device errors.
 */
gboolean nf_session_show_video (NfSession *self, const float *x, const NfFrame *frames, GError **error);

/* Gradients, and noise of tokens */

/**
 * nf_session_denoise:
 * @y: noisy tokens (B, N, D)
 * @labels: (nullable): as of nf_session_encode()
 * @sigma: the noise's standard deviation, 0 to 2, on the [-1, 1] scale
 * @x: (out caller-allocates): (B, N, D): y + sigma² ∇ log p(y) (Tweedie; arXiv 2412.06329, eq. 8)
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@sigma, or as nf_session_encode()), %NF_ERROR_DATA (@y or @x is not
 * finite), device errors or %NF_ERROR_CANCELLED.
 */
gboolean nf_session_denoise (NfSession *self, const float *y, guint B, const gint *labels, double sigma,
                             float *x, GError **error);

/**
 * nf_session_gradients:
 * @x: tokens (B, N, D), B of 1 or more
 * @labels: (nullable): as of nf_session_encode()
 * @loss: (out): L = mean(z²)/2 - mean log-determinant, nats per dimension without the 0.5 log 2π
 * @grad_x: (nullable) (out caller-allocates): dL/dx (B, N, D)
 * @grad_parameters: (nullable) (out caller-allocates): dL/dθ, nf_model_count_parameters() floats;
 * nf_model_get_parameter() finds a name
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (as nf_session_encode()), %NF_ERROR_DATA (@x is not finite),
 * %NF_ERROR_UNSUPPORTED (@grad_parameters, with products in bf16-weights or int8-weights), device errors or
 * %NF_ERROR_CANCELLED. What comes out is not looked at: it may be infinite, or no numbers.
 */
gboolean nf_session_gradients (NfSession *self, const float *x, guint B, const gint *labels, double *loss,
                               float *grad_x, float *grad_parameters, GError **error);

/**
 * nf_session_predict_noise:
 * @x: noisy tokens (B, N, D)
 * @y: (out caller-allocates): (B, N, D): what the learned denoiser says: about sigma²/0.3 times the gradient
 * of the negative log-likelihood (arXiv 2511.20462, flow-score matching)
 *
 * Returns: FALSE with %NF_ERROR_UNSUPPORTED (no denoiser), %NF_ERROR_ARGUMENT (text features or actions are
 * of several samples, and not of B), %NF_ERROR_DATA (@x or @y is not finite), device errors or
 * %NF_ERROR_CANCELLED.
 */
gboolean nf_session_predict_noise (NfSession *self, const float *x, guint B, float *y, GError **error);

/**
 * nf_session_denoise_learned:
 * @x: noisy tokens (B, N, D)
 * @sigma: standard deviation of the noise that @x has, above 0, up to 2, on the [-1, 1] scale
 * @sigma_next: that of the noise that may be left, 0 for none, up to @sigma
 * @y: (out caller-allocates): (B, N, D), other memory than @x: x - 0.3 (sigma - sigma_next)/sigma × what the
 * learned denoiser says
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@sigma, @sigma_next), or as nf_session_predict_noise() does.
 */
gboolean nf_session_denoise_learned (NfSession *self, const float *x, guint B, double sigma,
                                     double sigma_next, float *y, GError **error);

/**
 * nf_session_denoiser_gradients:
 * @x: noisy tokens (B, N, D), B of 1 or more
 * @sigma: standard deviation of the noise that @x has, 0 to 2, on the [-1, 1] scale
 * @target: (nullable) (out caller-allocates): (B, N, D): sigma²/0.3 times the gradient of the negative
 * log-likelihood
 * @loss: (out): mean squared difference of what the denoiser says and the target
 * @grad_parameters: (nullable) (out caller-allocates): dloss/dθ, nf_model_count_parameters() floats; those of
 * the flow are 0
 *
 * Of flow-score matching (arXiv 2511.20462).
 *
 * Returns: FALSE with %NF_ERROR_ARGUMENT (@sigma; text features or actions are of several samples, and not of
 * B), %NF_ERROR_UNSUPPORTED (no denoiser; @grad_parameters as in nf_session_gradients()), %NF_ERROR_DATA (@x
 * is not finite), device errors or %NF_ERROR_CANCELLED. What comes out is not looked at.
 */
gboolean nf_session_denoiser_gradients (NfSession *self, const float *x, guint B, double sigma, float *target,
                                        double *loss, float *grad_parameters, GError **error);

G_END_DECLS
