/* normflow bench decode: what it measures, and how it prints it. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#pragma once

#include "common.h"
#include "media.h"

#include "nf-ops.h"

G_BEGIN_DECLS

/* What is decoded, and how long each way may take. */
typedef struct
{
  NfCommand *command;
  NfSession *session;
  const char *video; /* NULL: what is decoded is drawn from the model */
  gint64 frame;      /* of it */
  guint frames;      /* of a video, 0: as many as the model sees at a time */
  double seconds;    /* for each row */
  gboolean profile;
} NfBenchDecode;

/* One way to decode. Zero-initialise. */
typedef struct
{
  double seconds; /* median */
  NfDecodeReport report;
  gboolean unchanged; /* what is decoded is what was decoded before it: there is no speed to tell */
  guint64 differing;  /* 8-bit values */
  guint largest;      /* of their differences */
  GPtrArray *times;   /* of commands of one more run, NULL without a profile */
  double profiled;    /* seconds of that run */
} NfBenchRow;

/* Does it once, and says what it took; with TIMES profiled, by nf_ops_start_profile(). */
typedef gboolean (*NfBenchRun) (gpointer data, NfDecodeReport *report, double *seconds, GPtrArray **times,
                                GError **error);

/* RUNs several times, before that once more if it is to be WARM, and with a profile if BENCH wants one. */
gboolean nf_bench_row_measure (NfBenchRow *row, const NfBenchDecode *bench, gboolean warm, NfBenchRun run,
                               gpointer data, GError **error);

/* Counts the values of GOT that are not WANTED's. */
void nf_bench_row_compare (NfBenchRow *row, const NfPicture *wanted, const NfPicture *got);

/* The table's first line; COUNTS is of what a row has a number. */
void nf_bench_print_header (const char *counts);

/* A line of N; SEQUENTIAL and ENCODING are the seconds of those. */
void nf_bench_row_print (const NfBenchRow *row, const NfBenchDecode *bench, guint n, const char *name,
                         double sequential, double encoding);

/* The profile, if there is one, under WHAT; and frees it. */
void nf_bench_row_print_profile (NfBenchRow *row, const char *what);

/* Tiles of WIDTH x HEIGHT of a picture, in reading order, side by side. They begin again where it has too
 * few. */
NfPicture *nf_bench_line_up (const NfPicture *from, guint width, guint height, guint tiles);

/* The reader's next picture, which must have a tile of the model's size; BENCH's video in errors. */
NfPicture *nf_bench_read (const NfBenchDecode *bench, NfMediaReader *reader, GError **error);

/* The same for a model of videos: frames one after another. */
gboolean nf_bench_decode_video (NfBenchDecode *bench, GError **error);

G_END_DECLS
