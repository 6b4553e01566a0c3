/* normflow: 8-bit frames on their way to the device and back. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-config.h"
#include "nf-frame.h"
#include "nf-ops.h"

/* Not installed. The samples of one frame, planes one after the other without gaps, on the host and the same
 * on the device. Zero-initialise. */
typedef struct
{
  guint8 *bytes;
  gsize size;
  NfBuffer *buffer;
} NfStaging;

/* Reserves what a frame of this size and layout needs, checks its planes, of which tiles of TILE_HEIGHT rows
 * must have room for all, and says how it lies in device memory; planes->tiles_x is left to the caller. */
gboolean nf_staging_prepare (NfStaging *staging, NfOps *ops, NfPixelLayout layout, guint tile_height,
                             const NfFrame *frame, NfPlanes *planes, GError **error);

/* Of a frame that was prepared. */
void nf_staging_upload (NfStaging *staging, NfOps *ops, NfPixelLayout layout, const NfFrame *frame);
gboolean nf_staging_download (NfStaging *staging, NfOps *ops, NfPixelLayout layout, const NfFrame *frame,
                              GError **error);

void nf_staging_clear (NfStaging *staging);
