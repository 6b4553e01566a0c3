/* normflow: the parts of a world. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-world.h"

G_BEGIN_DECLS

/* Balls live on a lattice of an eighth of a pixel. Each pixel of a ball's edge is sampled on that same
 * lattice. */
#define NF_WORLD_LATTICE 8

/* Of a world with a ball, everything: the rest of its future depends on this alone. Ball: centre in lattice
 * units, units a frame; paddle: upper end in pixels. All but the velocity can be seen. */
typedef struct
{
  gint x, y;
  gint vx, vy;
  gint paddle;
  gint score;
} NfBallState;

/* One thing that may happen, with probability weight / sum of weights. The sum is a power of two. */
typedef struct
{
  NfBallState state;
  guint weight;
} NfBallOutcome;

/* Where things are, in pixels; ends are exclusive. */
typedef struct
{
  gint wall;                    /* thickness */
  gint left, right;             /* the court, in which the ball stays */
  gint top, bottom;             /* likewise */
  gint radius;                  /* lattice units */
  gint paddle_left;             /* the paddle ends where the court begins */
  gint paddle_height;           /* pixels */
  gint paddle_step;             /* pixels a frame */
  gint score_top, score_height; /* of the blocks */
  gint score_pitch, score_width;
  gint cell;        /* of the map: side */
  gint scroll;      /* pixels a frame */
  gint marker;      /* side of the square in the middle */
  gint map_columns; /* cells; the map is a torus */
  gint map_rows;
  /* lattice units a frame */
  gint gravity, kick, kick_diagonal, max_vx, max_vy;
} NfWorldGeometry;

#define NF_WORLD_BLOCKS 8

struct _NfWorld
{
  NfWorldPattern pattern;
  gint width, height;
  guint64 seed;
  guint64 frame;
  double entropy, information;
  NfWorldGeometry geometry;
  /* with a ball */
  NfBallState ball;
  GArray *belief; /* NfBelief: what the state may be, given all frames and actions */
  /* with a map */
  guint8 *cells; /* kind of each, NF_WORLD_UNSEEN if it was never in view */
  gint camera_x, camera_y;
  guint8 *canvas; /* RGB, for drawing; made when first needed */
};

/* A length of the 64-pixel world, in pixels of this one. */
gint nf_world_scale (gint width, gint height, gint length, gint least);

/* Dynamics of a ball */
void nf_ball_init_geometry (NfWorldPattern pattern, gint width, gint height, NfWorldGeometry *geometry);
/* Appends NfBallOutcome: how a world may begin. */
void nf_ball_begin (const NfWorld *self, GArray *outcomes);
/* Appends NfBallOutcome: how it may go on from STATE. */
void nf_ball_go_on (const NfWorld *self, const NfBallState *state, guint action, GArray *outcomes);

/* The map. A cell's kind k has probability 2^-bits[k]. */
#define NF_WORLD_KINDS 4
#define NF_WORLD_UNSEEN 255
extern const guint8 nf_map_bits[NF_WORLD_KINDS];
#define NF_WORLD_CELL_ENTROPY 1.75
void nf_map_init_geometry (gint width, gint height, NfWorldGeometry *geometry);
/* Moves the camera of a view at X, Y. */
void nf_map_scroll (const NfWorld *self, guint action, gint *x, gint *y);
/* Cells in view at X, Y that were never seen before. */
guint nf_map_count_unseen (const NfWorld *self, gint x, gint y);
/* Draws the kinds of those in view now. Returns the bits of what was drawn. */
double nf_map_look (NfWorld *self);

G_END_DECLS
