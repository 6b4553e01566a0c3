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
 */
typedef enum
{
  NF_PIXELS_RGB,
  NF_PIXELS_GRAY,
  NF_PIXELS_YUV420,
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
 * NfConfig:
 * @channels: C, planes of float images ("in_channels"); for yuv420 it is 3
 * @img_size: S ("img_size")
 * @patch_size: p ("patch_size")
 * @width: d ("channels")
 * @n_blocks: T ("num_blocks")
 * @n_layers: K, layers of each block ("layers_per_block")
 * @nvp: non-volume-preserving: blocks scale as well as shift
 * @n_classes: number of classes, 0 for an unconditional model ("num_classes")
 * @head_dim: features of a head
 * @expansion: width of the MLP's hidden layer in units of d
 * @layout: pixel layout ("pixel_layout", ours)
 * @basis: basis of a token ("basis", ours)
 * @noise: noise the model was trained with ("noise_type", ours)
 * @noise_std: its standard deviation if Gaussian ("noise_std", ours), on the [-1, 1] scale
 *
 * What a TARFlow is (Zhai et al. 2024, arXiv 2412.06329). Names in quotes are the JSON members of
 * `__metadata__.config`.
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
} NfConfig;

#define NF_TYPE_CONFIG (nf_config_get_type ())
GType nf_config_get_type (void);
NfConfig *nf_config_copy (const NfConfig *config);
void nf_config_free (NfConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfConfig, nf_config_free)

/**
 * nf_config_from_json:
 * @json: text of a JSON object
 * @origin: file or option it came from, for messages
 * @error: return location
 *
 * Unknown members are refused by name, missing ones get the official default where there is one.
 *
 * Returns: (transfer full): the checked configuration, or NULL with %NF_ERROR_FORMAT (not JSON),
 * %NF_ERROR_CONFIG (impossible values or missing members), %NF_ERROR_UNSUPPORTED (another family, or a member
 * we do not know).
 */
NfConfig *nf_config_from_json (const char *json, const char *origin, GError **error);

/** nf_config_to_json: Returns: (transfer full): one line of JSON that nf_config_from_json() reads back. */
char *nf_config_to_json (const NfConfig *config);

/**
 * nf_config_check:
 *
 * Returns: TRUE if the configuration is possible, else FALSE with %NF_ERROR_CONFIG naming member and value.
 */
gboolean nf_config_check (const NfConfig *config, const char *origin, GError **error);

/** nf_config_tokens: Returns: N = (S/p)². */
guint nf_config_tokens (const NfConfig *config);

/** nf_config_features: Returns: D = C p² (rgb, gray), 3 p²/2 (yuv420). */
guint nf_config_features (const NfConfig *config);

/** nf_config_tile_bytes: Returns: 8-bit samples of one S×S image in the model's layout, N D. */
guint nf_config_tile_bytes (const NfConfig *config);

/** nf_pixel_layout_name: Returns: "rgb", "gray" or "yuv420". */
const char *nf_pixel_layout_name (NfPixelLayout layout);

/** nf_pixel_layout_from_name: Returns: FALSE if @name is none of the three. */
gboolean nf_pixel_layout_from_name (const char *name, NfPixelLayout *layout);

G_END_DECLS
