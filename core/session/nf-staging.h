/* normflow: 8-bit frames on their way to the device and back. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-config.h"
#include "nf-frame.h"
#include "nf-model.h"
#include "nf-ops.h"

/* Not installed. The samples of one frame, planes one after the other without gaps, on the host and the same
 * on the device. The next whole word of both says whether a sample was no finite number. Zero-initialise. */
typedef struct
{
  guint8 *bytes;
  gsize size; /* without that word */
  NfBuffer *buffer;
} NfStaging;

/* Reserves what a frame of this size and layout needs, checks its planes, of which tiles of TILE_HEIGHT rows
 * must have room for all, and says how it lies in device memory; planes->tiles_x is left to the caller. */
gboolean nf_staging_prepare (NfStaging *staging, NfOps *ops, NfPixelLayout layout, guint tile_height,
                             const NfFrame *frame, NfPlanes *planes, GError **error);

/* Of a frame that was prepared. */
void nf_staging_upload (NfStaging *staging, NfOps *ops, NfPixelLayout layout, const NfFrame *frame);

/* Refuses, with %NF_ERROR_DATA, samples of which MODEL computed one that is no finite number. */
gboolean nf_staging_download (NfStaging *staging, NfOps *ops, NfModel *model, const NfFrame *frame,
                              GError **error);

/* Forgets what samples are that were never downloaded. */
void nf_staging_forget (NfStaging *staging, NfOps *ops);

void nf_staging_clear (NfStaging *staging);
