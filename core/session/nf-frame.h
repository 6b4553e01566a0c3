/* normflow: 8-bit frames as sessions see them. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include "nf-config.h"

G_BEGIN_DECLS

/** NF_MAX_SIDE: Most pixels of a frame's width, and of its height. */
#define NF_MAX_SIDE 16384

/**
 * NfPlane:
 * @data: first sample
 * @stride: bytes from a row to the next, at least the row's extent; negative if the first row is the last in
 * memory
 * @step: bytes from a sample to the next in its row (1 planar, 2 NV12 chroma, 3 RGB, 4 RGBx)
 */
typedef struct
{
  guint8 *data;
  gint stride;
  gint step;
} NfPlane;

/**
 * NfFrame:
 * @width: pixels
 * @height: pixels
 * @planes: R G B (rgb), Y (gray), Y Cb Cr (yuv420; chroma is (width+1)/2 × (height+1)/2, or as @interlaced
 * says); planes may interleave
 * @interlaced: chroma of yuv420 has as many rows as its two fields have, each by itself rounded up:
 * (height+3)/4 × 2, which is one more where height is 1 or 2 above a multiple of 4. So interlaced 4:2:0 lies
 * in GStreamer (GstVideoInfo); in libav such frames have (height+1)/2 rows like others
 *
 * A view of somebody's 8-bit video frame in a model's pixel layout; nothing is owned.
 */
typedef struct
{
  guint width;
  guint height;
  NfPlane planes[3];
  gboolean interlaced;
} NfFrame;

/**
 * NfGrid:
 * @tiles_x: tiles side by side, ceil(width/columns), where a tile has the columns and rows of the model's
 * image, nf_config_columns() and nf_config_rows(): S, mostly
 * @tiles_y: tiles above each other, ceil(height/rows)
 * @grid_width: tokens in a row of the whole grid, tiles_x columns/p
 * @grid_height: rows of tokens, tiles_y rows/p
 * @features: D
 *
 * How a frame of any size lies on a model's tiles. Latents of a frame are float (grid_height, grid_width, D),
 * row-major; the frame is padded to whole tiles by repeating its last row and column.
 */
typedef struct
{
  guint tiles_x;
  guint tiles_y;
  guint grid_width;
  guint grid_height;
  guint features;
} NfGrid;

/** nf_grid_init: Fills @grid for frames of @width × @height pixels. Returns: FALSE with %NF_ERROR_ARGUMENT if
 * a size is 0 or above %NF_MAX_SIDE. */
gboolean nf_grid_init (NfGrid *grid, const NfConfig *config, guint width, guint height, GError **error);

/** nf_grid_latents: Returns: number of latent values of a frame, grid_height × grid_width × D. */
gsize nf_grid_latents (const NfGrid *grid);

/** nf_frame_plane_size: @width (out) and @height (out), in samples, are those of plane @plane, 0 to 2, of
 * @frame in @layout. */
void nf_frame_plane_size (const NfFrame *frame, NfPixelLayout layout, guint plane, guint *width,
                          guint *height);

/** nf_frame_samples: Returns: 8-bit samples of a frame in @layout that is not interlaced: the dimensions that
 * bits per dimension divide by; 0 for latents. */
guint64 nf_frame_samples (NfPixelLayout layout, guint width, guint height);

G_END_DECLS
