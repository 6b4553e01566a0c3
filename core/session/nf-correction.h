/* normflow: what encoding knows that decoding would not find. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-config.h"

G_BEGIN_DECLS

/**
 * NfCorrection:
 * @sample: the tile, row by row, of a frame; of streams side by side the stream
 * @block: of the flow's blocks, but for those that change nothing, 0 being the one that reads the picture
 * @place: of the value in what the block reads: token, in the block's own order, times D, plus feature
 * @value: what it is to be
 *
 * Decoding multiplies and adds what encoding subtracted and divided, and rounds to a lattice what comes of it
 * (docs/architecture.md, "Why every byte comes back"). Where a block divides by a large scale, the lattice of
 * what it leaves is too coarse to tell some values from their neighbours. Encoding does as decoding will, and
 * so knows which: a correction is one of them, and decoding puts it in the place of what it finds. With the
 * corrections of a frame, and the same device and precision, every byte comes back, whatever the model and
 * the frame, as long as all values are finite.
 */
typedef struct
{
  guint32 sample, block, place;
  float value;
} NfCorrection;

/**
 * NfCorrections:
 * @items: (array length=n): in ascending order of sample, block and place, each of them once
 * @n: mostly 0
 *
 * Those of a frame.
 */
typedef struct
{
  const NfCorrection *items;
  gsize n;
} NfCorrections;

/**
 * nf_corrections_check:
 * @corrections: of a frame
 * @config: of the model
 * @samples: tiles of the frame, or streams
 * @values: of a tile, or a frame of a stream: tokens times D
 *
 * Whether there are such samples, blocks and places, in order, and all values are finite.
 *
 * Returns: FALSE with %NF_ERROR_DATA if not.
 */
gboolean nf_corrections_check (const NfCorrections *corrections, const NfConfig *config, guint samples,
                               gsize values, GError **error);

G_END_DECLS
