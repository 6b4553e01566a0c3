/* normflow: small worlds whose truth is known. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib-object.h>
#include "nf-error.h"
#include "nf-frame.h"

G_BEGIN_DECLS

/* A world is a Markov chain on integers that is drawn as 8-bit frames, made to hold models of video against:
 * where everything is can be read, and so can the exact entropy of each next frame given the frames and
 * actions before it. docs/worlds.md derives that. Action t is what happens between frame t and frame t+1;
 * action 0 is none. */

/**
 * NfWorldPattern:
 * @NF_WORLD_BOUNCE: a ball under gravity between four walls, kicked at random; no actions
 * @NF_WORLD_PONG: a ball, a paddle at the left that actions 1 (up) and 2 (down) move, a score of blocks at
 * the top
 * @NF_WORLD_GRIDWORLD: a map of coloured cells scrolled by actions 1 (up), 2 (down), 3 (left), 4 (right)
 */
typedef enum
{
  NF_WORLD_BOUNCE,
  NF_WORLD_PONG,
  NF_WORLD_GRIDWORLD,
} NfWorldPattern;

/** NF_WORLD_MIN_SIDE: least width and height of a world in pixels. */
#define NF_WORLD_MIN_SIDE 16

/** NF_WORLD_MAX_SIDE: largest width and height of a world in pixels. */
#define NF_WORLD_MAX_SIDE NF_MAX_SIDE

/**
 * NfWorldState:
 * @frame: number of the present frame, from 0
 * @ball_x: centre of the ball in pixels, 0 is the left edge of the leftmost pixel; NAN without a ball
 * @ball_y: likewise from the top
 * @ball_vx: velocity that it will have but for what happens next, pixels a frame; NAN without a ball
 * @ball_vy: likewise, downwards
 * @paddle_y: centre of the paddle in pixels; NAN without one
 * @score: hits since the last miss, 0 to 8; -1 without a score
 * @camera_x: left edge of the view on the map, pixels; 0 without a map
 * @camera_y: its upper edge
 * @entropy: H(this frame | all frames and actions before it), bits
 * @information: -log2 p(this frame | all frames and actions before it), bits; its mean over many frames is
 * that of @entropy
 *
 * The truth of the present frame.
 */
typedef struct
{
  guint64 frame;
  double ball_x, ball_y;
  double ball_vx, ball_vy;
  double paddle_y;
  gint score;
  guint camera_x, camera_y;
  double entropy;
  double information;
} NfWorldState;

/**
 * NfWorldReading:
 * @n_balls: balls inside the court; a blob as large as two counts as two, specks below 0.4 of a ball as none
 * @ball_x: centre of the largest one in pixels, NAN without one
 * @ball_y: likewise
 * @has_paddle: there is one paddle of about the right height
 * @paddle_y: its centre, NAN without one
 * @score: blocks lit at the top; -1 without a score
 * @has_walls: the walls are where they belong, and there is nothing of the kind inside the court
 *
 * What can be seen in a frame, by somebody who knows nothing but the frame.
 */
typedef struct
{
  guint n_balls;
  double ball_x, ball_y;
  gboolean has_paddle;
  double paddle_y;
  gint score;
  gboolean has_walls;
} NfWorldReading;

/** nf_world_pattern_name: Returns: "bounce", "pong" or "gridworld". */
const char *nf_world_pattern_name (NfWorldPattern pattern);

/** nf_world_pattern_from_name: Returns: FALSE if @name (nullable) is none of the three; @pattern (out) stays
 * as it is then. */
gboolean nf_world_pattern_from_name (const char *name, NfWorldPattern *pattern);

/** nf_world_pattern_actions: Returns: how many actions there are, with action 0: 1 for bounce, 3 for pong, 5
 * for gridworld. */
guint nf_world_pattern_actions (NfWorldPattern pattern);

/**
 * NfWorld:
 *
 * One world at its present frame. One thread at a time.
 */
#define NF_TYPE_WORLD (nf_world_get_type ())
typedef struct _NfWorld NfWorld;
GType nf_world_get_type (void);

/**
 * nf_world_new:
 * @width: pixels, %NF_WORLD_MIN_SIDE to %NF_WORLD_MAX_SIDE; lengths and speeds are in proportion to the
 * shorter side
 * @height: pixels
 * @seed: of everything random; the same numbers make the same world on every machine
 *
 * Returns: (transfer full): the world at frame 0; NULL with %NF_ERROR_ARGUMENT for an impossible size.
 */
NfWorld *nf_world_new (NfWorldPattern pattern, guint width, guint height, guint64 seed, GError **error);

/** nf_world_copy: Returns: (transfer full): the same world, with the same future. */
NfWorld *nf_world_copy (const NfWorld *self);

/** nf_world_free: @self: (nullable) (transfer full): what is freed. */
void nf_world_free (NfWorld *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfWorld, nf_world_free)

/**
 * nf_world_branch:
 * @seed: of the new future
 *
 * Returns: (transfer full): a world with the same frames so far and another future: what the frames do not
 * show is drawn anew from its distribution given all of them, and everything that comes is drawn from @seed.
 */
NfWorld *nf_world_branch (const NfWorld *self, guint64 seed);

/** nf_world_get_pattern: Returns: the pattern. */
NfWorldPattern nf_world_get_pattern (const NfWorld *self);

/** nf_world_get_state: @state: (out caller-allocates): the truth of the present frame. */
void nf_world_get_state (const NfWorld *self, NfWorldState *state);

/**
 * nf_world_next_entropy:
 * @action: below nf_world_pattern_actions()
 *
 * Returns: H(next frame | all frames up to this one and their actions, @action now), bits.
 */
double nf_world_next_entropy (const NfWorld *self, guint action);

/** nf_world_step: Goes on to the next frame; FALSE with %NF_ERROR_ARGUMENT, and no step, if there is no such
 * @action. */
gboolean nf_world_step (NfWorld *self, guint action, GError **error);

/**
 * nf_world_render:
 * @layout: what the planes of @frame are: full-range R G B, full-range grey, or Y Cb Cr after BT.601 in
 * limited range
 * @frame: of the world's size; its samples are written
 *
 * Draws the present frame, in integers: the same bytes on every machine. The ball's edge is smooth, sampled
 * 8×8 times a pixel.
 */
void nf_world_render (NfWorld *self, NfPixelLayout layout, NfFrame *frame);

/**
 * nf_world_read_frame:
 * @layout: as in nf_world_render()
 * @frame: of the world's size: rendered, decoded or generated
 * @reading: (out caller-allocates): what can be seen in it
 *
 * Finds ball, paddle, score and walls in @frame by their colours and places. @self only says how big things
 * are. In `gridworld` there is none of them.
 */
void nf_world_read_frame (const NfWorld *self, NfPixelLayout layout, const NfFrame *frame,
                          NfWorldReading *reading);

/** nf_world_expect_paddle: Returns: where a paddle centred at @paddle_y, in pixels, is a frame later, after
 * @action; NAN if the world has none. */
double nf_world_expect_paddle (const NfWorld *self, double paddle_y, guint action);

/** nf_world_follow: Returns: the action of one who plays well: the paddle goes where the ball is; 0 where
 * there is no paddle. */
guint nf_world_follow (const NfWorld *self);

G_END_DECLS
