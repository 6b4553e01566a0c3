/* normflow: whether the frames of a video come evenly. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"
#include "media.h"

G_BEGIN_DECLS

/*
 * NfTimes:
 * n: frames so far
 * last: time of the last one, NAN if unknown
 * uneven: the first frame that comes sooner or later after another than the rate says, or 0
 * gap: how much after it, in seconds
 *
 * When the frames of a video come, for what is written at one rate. All 0 at first.
 */
typedef struct
{
  guint64 n;
  double last;
  guint64 uneven;
  double gap;
} NfTimes;

/* PICTURE comes next in the video of INFO. */
void nf_times_watch (NfTimes *self, const NfMediaInfo *info, const NfPicture *picture);

/* Unless the frames of INPUT came evenly, or nothing but results is to be said, notes that WRITTEN, "decoding
 * writes" or the like, has so many a second. */
void nf_times_tell (const NfTimes *self, NfCommand *command, const char *input, const char *written,
                    int rate_n, int rate_d);

G_END_DECLS
