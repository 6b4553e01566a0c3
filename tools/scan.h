/* normflow: scoring the frames of a file. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

#include "media.h"
#include "progress.h"

G_BEGIN_DECLS

/*
 * NfScan:
 * frames: at most so many, 0 for all
 * every: each so many-th; a stream encodes those between, too
 * holdout: only the last share of the file, as training keeps it away; 0 for the whole. A stream encodes
 * frames before it, too: those that it would predict from had it begun with the first, but for noise by
 * numbers of frames
 * score: encode frames (else they are only read)
 * stream: of a model of videos, which frames are encoded with, each knowing those before it; NULL for one of
 * pictures
 * key_int_max: each so many-th frame the stream encodes by itself; 0: the first alone
 * scale: frames become as large as those of the stream's model, as training makes them
 * may_scale: whoever asks has --scale for that, which the error about frames of another size then names
 * actions: the stream is told the actions in the file of them beside each video (nf-actions.h)
 */
typedef struct
{
  guint64 frames;
  guint64 every;
  double holdout;
  gboolean score;
  NfStream *stream;
  guint key_int_max;
  gboolean scale;
  gboolean may_scale;
  gboolean actions;
} NfScan;

/* One frame; latents, score and map are those of nf_session_encode_frame() or nf_stream_encode(), and
 * corrections belong to them; valid during the call, corrections until anything else is encoded. */
typedef struct
{
  NfMediaReader *reader; /* of the file */
  NfPicture *picture;
  NfGrid grid;
  const float *latents;
  NfScore score;
  const float *map;
  NfCorrections corrections;
  const float *action; /* what led to the frame, NULL if that is not known */
  gboolean between;    /* none of those asked for: a stream predicts others from it */
  double seconds;      /* that encoding took */
} NfScanFrame;

typedef gboolean (*NfScanFunc) (const NfScanFrame *frame, gpointer data, GError **error);

/* First frame of the last HOLDOUT of N_FRAMES. */
guint64 nf_scan_holdout_start (double holdout, guint64 n_frames);

/* Those of the pictures PATHS (element-type filename) that training keeps away: the last HOLDOUT of each
 * folder's, of a single one none. (element-type filename) (transfer container) */
GHashTable *nf_scan_held_pictures (const GPtrArray *paths, double holdout);

/* Calls FUNC for the frames of PATH. Damaged packets are skipped, with a note. NF_ERROR_DATA if there was no
 * frame. */
gboolean nf_scan_file (NfSession *session, const char *path, const NfScan *scan, NfProgress *progress,
                       NfScanFunc func, gpointer data, GError **error);

/* The value that a share Q of N sorted values does not exceed, interpolated. */
double nf_scan_quantile (const double *sorted, guint n, double q);

/* Sorted copy. (transfer full) */
double *nf_scan_sorted (const double *values, guint n);

G_END_DECLS
