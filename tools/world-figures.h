/* normflow: what a world model is measured by. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"
#include "media.h"

G_BEGIN_DECLS

#define NF_FIGURES_SPEED_BIN 0.25 /* pixels a frame */
#define NF_FIGURES_SPEED_BINS 32
#define NF_FIGURES_EDGE 100   /* frames at either end of a roll-out that drift is measured between */
#define NF_FIGURES_STRETCH 25 /* frames of a roll-out that a point of a curve stands for */
#define NF_FIGURES_COLUMNS 8  /* moments of a roll-out that are kept as pictures */

/* What is measured, and on what. */
typedef struct
{
  NfCommand *command;
  NfModel *model;
  const NfConfig *config;
  NfWorldPattern pattern;
  guint64 seed;
  guint width, height;
  guint side_by_side; /* most streams that are coded together */
  NfDenoise denoise;
} NfFigures;

/* -log2 p of frames, beyond what the noise that was added takes, and the information that the truth has. */
typedef struct
{
  guint windows, frames; /* pieces of the world, and frames of each: those of a sample */
  double *model, *truth; /* means for each place in a piece */
} NfFiguresBits;

gboolean nf_figures_measure_bits (const NfFigures *figures, NfFiguresBits *bits, GError **error);
void nf_figures_bits_clear (NfFiguresBits *bits);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfFiguresBits, nf_figures_bits_clear)

typedef enum
{
  NF_ALTER_JUMP,    /* something moves that cannot: what comes much later */
  NF_ALTER_COLOURS, /* samples are turned around */
  NF_N_ALTERED,
} NfAltered;

/* Scores, bits/dim given the past, of frames as they are, and of altered ones. */
typedef struct
{
  guint events; /* of each kind */
  GArray *usual, *altered[NF_N_ALTERED];
} NfFiguresSurprise;

/* After each altered frame the stream begins anew, and frames count once it has seen half a window again. */
gboolean nf_figures_measure_surprise (const NfFigures *figures, NfFiguresSurprise *surprise, GError **error);
void nf_figures_surprise_clear (NfFiguresSurprise *surprise);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfFiguresSurprise, nf_figures_surprise_clear)

/* Share of pairs in which the altered frame has the higher score: area under the ROC curve. */
double nf_figures_area (const GArray *usual, const GArray *altered);

/* What is seen in frames that follow each other. */
typedef struct
{
  guint64 frames, one_ball, walls, paddles, obeyed, moves;
  double moved;                                         /* pixels in all moves of the ball, without jumps */
  double speeds[NF_FIGURES_SPEED_BINS];                 /* counts; the last one has the jumps too */
  double brightness[2], contrast[2];                    /* sums at the beginning and at the end */
  guint stretches;                                      /* of NF_FIGURES_STRETCH frames */
  double *one_by_time, *walls_by_time, *obeyed_by_time; /* counts of each */
  GPtrArray *pictures;                                  /* NfPicture, NF_FIGURES_COLUMNS a roll-out */
} NfFiguresSeen;

/* For roll-outs of LENGTH frames. */
void nf_figures_seen_init (NfFiguresSeen *seen, guint length);
void nf_figures_seen_clear (NfFiguresSeen *seen);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfFiguresSeen, nf_figures_seen_clear)

/* Counts frame T of a roll-out, in PICTURE, which ACTION led to; READING is that of the frame before, and
 * then this one's. WORLD says how big things are. */
void nf_figures_see (const NfFigures *figures, NfFiguresSeen *seen, const NfWorld *world,
                     const NfPicture *picture, guint t, guint action, NfWorldReading *reading);

/* Adds the mean of PICTURE's samples and their standard deviation: of yuv420 those of luma. */
void nf_figures_add_light (const NfPicture *picture, double *brightness, double *contrast);

typedef struct
{
  guint seeds, length, kept; /* roll-outs, frames of each, and how many of them are kept as pictures */
  guint edge;                /* frames at either end that drift is measured between */
  double temperature;
  guint moments[NF_FIGURES_COLUMNS]; /* frames that are kept, from 1 */
  NfFiguresSeen model, world;
} NfFiguresRollOuts;

/* After one window of real frames the model goes on by itself, and the world beside it, both by turns under a
 * player who follows the ball that is seen and one at random. */
gboolean nf_figures_roll_out (const NfFigures *figures, NfFiguresRollOuts *rolls, GError **error);
void nf_figures_roll_outs_clear (NfFiguresRollOuts *rolls);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfFiguresRollOuts, nf_figures_roll_outs_clear)

/* Pixels a frame of a ball that moves; NAN if none did. */
double nf_figures_mean_speed (const NfFiguresSeen *seen);

/* Half the sum of the differences of two histograms' shares: 0 the same, 1 nothing in common. */
double nf_figures_speed_variation (const NfFiguresSeen *a, const NfFiguresSeen *b);

/* Of FRAMES drawn frames of one stream, after two windows of them. */
typedef struct
{
  guint frames;
  GArray *seconds;     /* double, of each */
  guint64 resident[2]; /* bytes of this process in memory: a tenth of the frames after the start, and at the
                          end */
} NfFiguresTime;

gboolean nf_figures_time_frames (const NfFigures *figures, NfFiguresTime *time, double temperature,
                                 GError **error);
void nf_figures_time_clear (NfFiguresTime *time);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfFiguresTime, nf_figures_time_clear)

G_END_DECLS
