/* normflow: the configuration of a model. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib-object.h>
#include "nf-error.h"

G_BEGIN_DECLS

/* Letters for sizes, here, in kernels and in the documents:
 *   B batch (images or tiles), N tokens of one image, D features of a token, d width of a transformer, H
 * heads, K layers of a block, T blocks, S side of the model's image in pixels, p side of a patch in pixels, C
 * colour planes. */

/**
 * NfPixelLayout:
 * @NF_PIXELS_RGB: three planes of S×S (official checkpoints)
 * @NF_PIXELS_GRAY: one plane of S×S
 * @NF_PIXELS_YUV420: luma S×S, two chroma planes of S/2×S/2; a token is p² luma, then (p/2)² Cb, then (p/2)²
 * Cr
 * @NF_PIXELS_LATENT: no pixels: C planes of another model's latents, as float images only
 */
typedef enum
{
  NF_PIXELS_RGB,
  NF_PIXELS_GRAY,
  NF_PIXELS_YUV420,
  NF_PIXELS_LATENT,
} NfPixelLayout;

/**
 * NfNoise:
 * @NF_NOISE_UNIFORM: 8-bit value k becomes 2 (k + u)/256 - 1, u uniform in [0, 1): likelihoods of 8-bit data
 * are true bounds
 * @NF_NOISE_GAUSSIAN: k becomes 2 k/255 - 1 plus Gaussian noise of standard deviation noise_std in training;
 * none in encoding
 *
 * How 8-bit samples become real numbers (Ho et al. 2019, arXiv 1902.00275; Zhai et al. 2024, arXiv
 * 2412.06329, section 3).
 */
typedef enum
{
  NF_NOISE_UNIFORM,
  NF_NOISE_GAUSSIAN,
} NfNoise;

/** NF_LATTICE: places inside an 8-bit bin that uniform dequantisation of frames uses; see
 * nf_session_encode_frame(). */
#define NF_LATTICE 32

/**
 * NfBasis:
 * @NF_BASIS_PIXEL: a token's features are its samples (official)
 * @NF_BASIS_DCT: each plane's part of a token goes through the orthonormal two-dimensional DCT-II first;
 * log-determinant 0
 */
typedef enum
{
  NF_BASIS_PIXEL,
  NF_BASIS_DCT,
} NfBasis;

/**
 * NfFamily:
 * @NF_FAMILY_TARFLOW: Zhai et al. 2024, arXiv 2412.06329
 * @NF_FAMILY_STARFLOW: Gu et al. 2025, arXiv 2506.06276 (images), and STARFlow-V, arXiv 2511.20462 (video)
 */
typedef enum
{
  NF_FAMILY_TARFLOW,
  NF_FAMILY_STARFLOW,
} NfFamily;

/** NF_LEAST_LOG_SCALE: least log sigma of a block's step where there is a largest one: about that of the
 * noise of an 8-bit step, whose deviation is 1/(128 √12) = exp(-6.1). */
#define NF_LEAST_LOG_SCALE (-6.0)

/** NF_MAX_BLOCKS: most blocks of a flow. */
#define NF_MAX_BLOCKS 64

/**
 * NfConfig:
 * @channels: C, planes of float images ("in_channels"); for yuv420 it is 3
 * @img_size: S ("img_size")
 * @patch_size: p ("patch_size")
 * @width: d ("channels")
 * @n_blocks: T ("num_blocks")
 * @n_layers: K, layers of each block ("layers_per_block" as a number); 0 if @layers leaves blocks out
 * @layers: layers of block t where they differ from @n_layers, else 0 ("layers_per_block" as a list)
 * @nvp: non-volume-preserving: blocks scale as well as shift
 * @n_classes: number of classes, 0 for an unconditional model ("num_classes")
 * @head_dim: features of a head
 * @expansion: width of the MLP's hidden layer in units of d
 * @layout: pixel layout ("pixel_layout", ours)
 * @basis: basis of a token ("basis", ours)
 * @noise: noise the model was trained with ("noise_type", ours)
 * @noise_std: its standard deviation if Gaussian ("noise_std", ours), on the [-1, 1] scale
 * @max_log_scale: largest log sigma of a block's step, whatever its network says, and then
 * %NF_LEAST_LOG_SCALE is the least; 0 for any ("max_log_scale", ours, TARFlow alone). They bound what a float
 * latent can lose, and how large latents of frames unlike any that were learnt can become
 * @family: which of the two; what follows is of STARFlow alone and zero in a TARFlow
 * @top_width: width of the deep block, the last one, 0 if it is that of the others ("top_block_channels")
 * @n_heads: query heads, 0 for width/head_dim ("num_heads")
 * @n_kv_heads: key and value heads, 0 for as many ("num_kv_heads")
 * @txt_size: L, text tokens ("txt_size"); 0 for none
 * @txt_dim: features of a text token ("txt_dim")
 * @pt_seq_len: side that image positions are scaled to, 0 for S/p ("pt_seq_len")
 * @rope: rotary positions, else learned ones
 * @half_split_rope: pairs are (i, i + DH/2), not (2i, 2i+1) ("hf_style_rope")
 * @rope_1d: the deep block counts positions along its sequence ("rope_1d", ours; in the official code a
 * property of deep blocks that were language models)
 * @frame_positions: the deep block also adds a learned vector to each of a frame's tokens, the same in every
 * frame ("frame_positions", ours): nothing else says which token of a frame is which
 * @sos: a learned start token; without, a block's output is shifted and token 0 stays
 * @softplus: sigma = softplus(raw + ln(e-1)), else exp(raw) ("use_softplus")
 * @soft_clip: a of raw <- a tanh(raw/a), 0 for none
 * @final_norm: RMSNorm before a block's output ("use_final_norm")
 * @rms_norm: RMSNorm in the layers, else LayerNorm ("norm_type")
 * @qk_norm: RMSNorm of queries and keys ("use_qk_norm")
 * @post_norm: RMSNorm of a sub-layer's output ("use_post_norm")
 * @no_bias: the layers' products have none ("use_bias": false)
 * @gated: MLP down(gelu_tanh(gate x) up x) ("use_swiglu")
 * @cond_top_only: only the deep block sees the text
 * @left_to_right: the deep block of a flow with an even number of blocks runs forward ("seq_order" L2R, else
 * R2L)
 * @temporal_causal: video: tokens are only reversed within a frame; the denoiser looks this many frames less
 * one ahead. 0: the whole video is reversed, and the denoiser sees all of it
 * @shallow_local: video: all blocks but the deep one see one frame each ("shallow_block_local")
 * @denoiser_layers: layers of the learned denoiser ("learnable_self_denoiser": 8), 0 if there is none
 * @denoiser_frames: frames that each of its frames sees, the last of its look-ahead being one of them, 0 for
 * all ("denoiser_window" + 1)
 * @denoiser_text: it sees the text ("conditional_denoiser")
 * @rows: height of an image in pixels, 0 for S ("hw")
 * @columns: width, 0 for S ("hw")
 * @frames: of a video, 0 for images ("frames")
 * @action_dim: width of the condition vector that each next frame is predicted with, 0 for none: one-hot
 * actions or continuous controls
 *   ("action_dim", ours)
 * @controls: they are continuous controls, which rest at 0 ("controls", ours)
 *
 * What a flow is. Names in quotes are the JSON members of `__metadata__.config` where they differ; "ours" are
 * not in official ones.
 */
typedef struct
{
  guint channels;
  guint img_size;
  guint patch_size;
  guint width;
  guint n_blocks;
  guint n_layers;
  gboolean nvp;
  guint n_classes;
  guint head_dim;
  guint expansion;
  NfPixelLayout layout;
  NfBasis basis;
  NfNoise noise;
  double noise_std;
  double max_log_scale;

  NfFamily family;
  guint layers[NF_MAX_BLOCKS];
  guint top_width;
  guint n_heads;
  guint n_kv_heads;
  guint txt_size;
  guint txt_dim;
  guint pt_seq_len;
  gboolean rope;
  gboolean half_split_rope;
  gboolean rope_1d;
  gboolean frame_positions;
  gboolean sos;
  gboolean softplus;
  double soft_clip;
  gboolean final_norm;
  gboolean rms_norm;
  gboolean qk_norm;
  gboolean post_norm;
  gboolean no_bias;
  gboolean gated;
  gboolean cond_top_only;
  gboolean left_to_right;
  guint temporal_causal;
  gboolean shallow_local;
  guint denoiser_layers;
  guint denoiser_frames;
  gboolean denoiser_text;
  guint rows;
  guint columns;
  guint frames;
  guint action_dim;
  gboolean controls;
} NfConfig;

#define NF_TYPE_CONFIG (nf_config_get_type ())
GType nf_config_get_type (void);

/** nf_config_copy: Returns: (transfer full): the same, to be freed by nf_config_free(). */
NfConfig *nf_config_copy (const NfConfig *config);

/** nf_config_free: @config: (nullable) (transfer full): what is freed. */
void nf_config_free (NfConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfConfig, nf_config_free)

/**
 * nf_config_from_json:
 * @json: text of a JSON object, up to 64 KiB
 * @origin: file or option it came from, for messages
 * @error: return location
 *
 * Unknown members are refused by name, missing ones get the official default where there is one.
 *
 * Returns: (transfer full): the checked configuration, or NULL with %NF_ERROR_FORMAT (not JSON, or too long),
 * %NF_ERROR_CONFIG (impossible values or missing members), %NF_ERROR_UNSUPPORTED (another family, or a member
 * we do not know).
 */
NfConfig *nf_config_from_json (const char *json, const char *origin, GError **error);

/** nf_config_to_json: Returns: (transfer full): one line of JSON that nf_config_from_json() reads back. */
char *nf_config_to_json (const NfConfig *config);

/** nf_config_equal: Returns: whether both describe the same model, however they came about. */
gboolean nf_config_equal (const NfConfig *a, const NfConfig *b);

/**
 * nf_config_check:
 * @origin: file or option it came from, for the message
 *
 * Returns: TRUE if the configuration is possible, else FALSE with %NF_ERROR_CONFIG naming member and value.
 */
gboolean nf_config_check (const NfConfig *config, const char *origin, GError **error);

/** nf_config_rows: Returns: height of an image, or of a frame of a video, in pixels. */
guint nf_config_rows (const NfConfig *config);

/** nf_config_columns: Returns: width of an image, or of a frame of a video, in pixels. */
guint nf_config_columns (const NfConfig *config);

/** nf_config_tokens: Returns: N, tokens of one image or of one frame of a video, (rows/p) (columns/p). */
guint nf_config_tokens (const NfConfig *config);

/** nf_config_frames: Returns: frames of a sample: those of a video, 1 for images. */
guint nf_config_frames (const NfConfig *config);

/** nf_config_layers: Returns: layers of block @t, 0 to T - 1, here and below. */
guint nf_config_layers (const NfConfig *config, guint t);

/** nf_config_lists_layers: Returns: whether the numbers of blocks' layers differ. */
gboolean nf_config_lists_layers (const NfConfig *config);

/** nf_config_is_identity: Returns: whether block @t has no layers and changes nothing; only blocks of a
 * STARFlow before its last one. */
gboolean nf_config_is_identity (const NfConfig *config, guint t);

/** nf_config_width: Returns: width of block @t. */
guint nf_config_width (const NfConfig *config, guint t);

/** nf_config_has_text: Returns: whether block @t sees the text. */
gboolean nf_config_has_text (const NfConfig *config, guint t);

/** nf_config_is_noisy: Returns: whether the model was trained with Gaussian noise, which what is drawn from
 * it then has, too. */
gboolean nf_config_is_noisy (const NfConfig *config);

/** nf_config_classes: Returns: classes that samples may have: those of a TARFlow, or of a STARFlow the
 * features of a text of one token, the last of which stands for no class; else 0. */
guint nf_config_classes (const NfConfig *config);

/** nf_config_check_class: Returns: FALSE with %NF_ERROR_ARGUMENT if @label is neither -1, which is none, nor
 * one of nf_config_classes(). */
gboolean nf_config_check_class (const NfConfig *config, gint label, GError **error);

/** nf_config_features: Returns: D = C p² (rgb, gray, latent), 3 p²/2 (yuv420). */
guint nf_config_features (const NfConfig *config);

/** nf_config_tile_bytes: Returns: 8-bit samples of one image, or of one frame of a video, in the model's
 * layout, N D. */
guint nf_config_tile_bytes (const NfConfig *config);

/** nf_pixel_layout_name: Returns: "rgb", "gray", "yuv420" or "latent". */
const char *nf_pixel_layout_name (NfPixelLayout layout);

/** nf_pixel_layout_from_name: Returns: FALSE if @name is none of these; @layout (out) stays as it is then. */
gboolean nf_pixel_layout_from_name (const char *name, NfPixelLayout *layout);

G_END_DECLS
