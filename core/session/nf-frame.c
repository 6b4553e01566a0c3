/* normflow: 8-bit frames as sessions see them. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-frame.h"

gboolean
nf_grid_init (NfGrid *grid, const NfConfig *config, guint width, guint height, GError **error)
{
  g_return_val_if_fail (grid && config, FALSE);
  if (width == 0 || height == 0 || width > NF_MAX_SIDE || height > NF_MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a frame of %ux%u is not possible; sides are 1 to %d pixels", width, height, NF_MAX_SIDE);
      return FALSE;
    }
  const guint columns = nf_config_columns (config), rows = nf_config_rows (config);
  grid->tiles_x = (width + columns - 1) / columns;
  grid->tiles_y = (height + rows - 1) / rows;
  grid->grid_width = grid->tiles_x * (columns / config->patch_size);
  grid->grid_height = grid->tiles_y * (rows / config->patch_size);
  grid->features = nf_config_features (config);
  return TRUE;
}

gsize
nf_grid_latents (const NfGrid *grid)
{
  return (gsize)grid->grid_height * grid->grid_width * grid->features;
}

void
nf_frame_plane_size (const NfFrame *frame, NfPixelLayout layout, guint plane, guint *width, guint *height)
{
  const gboolean half = layout == NF_PIXELS_YUV420 && plane > 0;
  *width = half ? (frame->width + 1) / 2 : frame->width;
  *height = !half ? frame->height : frame->interlaced ? (frame->height + 3) / 4 * 2 : (frame->height + 1) / 2;
}

guint64
nf_frame_samples (NfPixelLayout layout, guint width, guint height)
{
  const guint64 pixels = (guint64)width * height,
                chroma = ((guint64)width + 1) / 2 * (((guint64)height + 1) / 2);

  switch (layout)
    {
    case NF_PIXELS_RGB:
      return 3 * pixels;
    case NF_PIXELS_GRAY:
      return pixels;
    case NF_PIXELS_YUV420:
      return pixels + 2 * chroma;
    case NF_PIXELS_LATENT:
      return 0;
    }
  g_return_val_if_reached (0);
}
