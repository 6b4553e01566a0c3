/* normflow: small worlds whose truth is known. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-world-private.h"

#include <math.h>
#include <string.h>

#include "nf-random.h"

#define STREAM_BALL 0x6c6c6162u   /* what happens to the ball; the counter is the frame */
#define STREAM_BRANCH 0x6863726eu /* what is hidden, when a world branches */

/* A state that the frames so far allow, with its probability. */
typedef struct
{
  NfBallState state;
  double p;
} NfBelief;

G_DEFINE_BOXED_TYPE (NfWorld, nf_world, nf_world_copy, nf_world_free)

static const char *const pattern_names[] = { "bounce", "pong", "gridworld" };
static const guint pattern_actions[] = { 1, 3, 5 };

const char *
nf_world_pattern_name (NfWorldPattern pattern)
{
  g_return_val_if_fail ((guint)pattern < G_N_ELEMENTS (pattern_names), NULL);
  return pattern_names[pattern];
}

gboolean
nf_world_pattern_from_name (const char *name, NfWorldPattern *pattern)
{
  for (guint i = 0; name && i < G_N_ELEMENTS (pattern_names); i++)
    if (strcmp (name, pattern_names[i]) == 0)
      {
        *pattern = (NfWorldPattern)i;
        return TRUE;
      }
  return FALSE;
}

guint
nf_world_pattern_actions (NfWorldPattern pattern)
{
  g_return_val_if_fail ((guint)pattern < G_N_ELEMENTS (pattern_actions), 1);
  return pattern_actions[pattern];
}

gint
nf_world_scale (gint width, gint height, gint length, gint least)
{
  return MAX (least, (length * MIN (width, height) + 32) / 64);
}

/* What is seen, and what is believed */

static gboolean
same_sight (const NfBallState *a, const NfBallState *b)
{
  return a->x == b->x && a->y == b->y && a->paddle == b->paddle && a->score == b->score;
}

static gboolean
same_state (const NfBallState *a, const NfBallState *b)
{
  return same_sight (a, b) && a->vx == b->vx && a->vy == b->vy;
}

static guint64
total_weight (const GArray *outcomes)
{
  guint64 sum = 0;
  for (guint i = 0; i < outcomes->len; i++)
    sum += g_array_index (outcomes, NfBallOutcome, i).weight;
  return sum;
}

static void
add_outcomes (GArray *belief, const GArray *outcomes, double p)
{
  const double total = (double)total_weight (outcomes);
  for (guint i = 0; i < outcomes->len; i++)
    {
      const NfBallOutcome *outcome = &g_array_index (outcomes, NfBallOutcome, i);
      const NfBelief next = { outcome->state, p * outcome->weight / total };
      g_array_append_val (belief, next);
    }
}

/* The distribution of the next state, before the next frame is seen. */
static GArray *
predict (const NfWorld *self, guint action)
{
  GArray *next = g_array_new (FALSE, FALSE, sizeof (NfBelief));
  g_autoptr (GArray) outcomes = g_array_new (FALSE, FALSE, sizeof (NfBallOutcome));
  for (guint i = 0; i < self->belief->len; i++)
    {
      const NfBelief *belief = &g_array_index (self->belief, NfBelief, i);
      g_array_set_size (outcomes, 0);
      nf_ball_go_on (self, &belief->state, action, outcomes);
      add_outcomes (next, outcomes, belief->p);
    }
  return next;
}

/* Of what will be seen: states that look alike count as one. */
static double
entropy_of (const GArray *belief)
{
  double sum = 0;
  for (guint i = 0; i < belief->len; i++)
    {
      const NfBelief *a = &g_array_index (belief, NfBelief, i);
      gboolean first = TRUE;
      double p = 0;
      for (guint j = 0; j < belief->len && first; j++)
        {
          const NfBelief *b = &g_array_index (belief, NfBelief, j);
          if (!same_sight (&a->state, &b->state))
            continue;
          first = j >= i;
          p += b->p;
        }
      if (first)
        sum -= p * log2 (p);
    }
  return MAX (sum, 0);
}

/* Bayes' rule: keeps what looks like SEEN. Returns its probability. */
static double
condition (GArray *belief, const NfBallState *seen)
{
  double sum = 0;
  guint n = 0;
  for (guint i = 0; i < belief->len; i++)
    {
      const NfBelief candidate = g_array_index (belief, NfBelief, i);
      if (!same_sight (&candidate.state, seen))
        continue;
      sum += candidate.p;
      guint same = 0;
      while (same < n && !same_state (&g_array_index (belief, NfBelief, same).state, &candidate.state))
        same++;
      if (same < n)
        g_array_index (belief, NfBelief, same).p += candidate.p;
      else
        g_array_index (belief, NfBelief, n++) = candidate;
    }
  g_array_set_size (belief, n);
  for (guint i = 0; i < n; i++)
    g_array_index (belief, NfBelief, i).p /= sum;
  return sum;
}

/* What happens, exactly with the outcomes' probabilities since their sum is a power of two. */
static void
choose (NfWorld *self, const GArray *outcomes)
{
  const guint64 total = total_weight (outcomes);
  guint32 words[4];
  g_assert (total > 0 && total <= G_MAXUINT32 && (total & (total - 1)) == 0);
  nf_random_u32x4 (self->seed, STREAM_BALL, self->frame, words);
  guint64 at = words[0] * total >> 32;
  guint i = 0;
  while (at >= g_array_index (outcomes, NfBallOutcome, i).weight)
    at -= g_array_index (outcomes, NfBallOutcome, i++).weight;
  self->ball = g_array_index (outcomes, NfBallOutcome, i).state;
}

/* BELIEF (taken) is what was predicted for the present frame. */
static void
see_ball (NfWorld *self, GArray *belief)
{
  self->entropy = entropy_of (belief);
  const double p = condition (belief, &self->ball);
  self->information = p < 1 ? -log2 (p) : 0;
  g_clear_pointer (&self->belief, g_array_unref);
  self->belief = belief;
}

static void
see_map (NfWorld *self)
{
  self->entropy = NF_WORLD_CELL_ENTROPY * nf_map_count_unseen (self, self->camera_x, self->camera_y);
  self->information = nf_map_look (self);
}

/* The world */

NfWorld *
nf_world_new (NfWorldPattern pattern, guint width, guint height, guint64 seed, GError **error)
{
  g_return_val_if_fail ((guint)pattern < G_N_ELEMENTS (pattern_names), NULL);
  if (MIN (width, height) < NF_WORLD_MIN_SIDE || MAX (width, height) > NF_WORLD_MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "a world of %ux%u pixels is not possible; sides are %d to %d", width, height,
                   NF_WORLD_MIN_SIDE, NF_WORLD_MAX_SIDE);
      return NULL;
    }
  NfWorld *self = g_new0 (NfWorld, 1);
  self->pattern = pattern;
  self->width = (gint)width;
  self->height = (gint)height;
  self->seed = seed;
  if (pattern == NF_WORLD_GRIDWORLD)
    {
      nf_map_init_geometry (self->width, self->height, &self->geometry);
      const gsize n = (gsize)self->geometry.map_columns * self->geometry.map_rows;
      self->cells = g_malloc (n);
      memset (self->cells, NF_WORLD_UNSEEN, n);
      see_map (self);
      return self;
    }
  nf_ball_init_geometry (pattern, self->width, self->height, &self->geometry);
  g_autoptr (GArray) outcomes = g_array_new (FALSE, FALSE, sizeof (NfBallOutcome));
  GArray *belief = g_array_new (FALSE, FALSE, sizeof (NfBelief));
  nf_ball_begin (self, outcomes);
  add_outcomes (belief, outcomes, 1);
  choose (self, outcomes);
  see_ball (self, belief);
  return self;
}

NfWorld *
nf_world_copy (const NfWorld *self)
{
  g_return_val_if_fail (self, NULL);
  NfWorld *copy = g_memdup2 (self, sizeof *self);
  copy->canvas = NULL;
  if (self->belief)
    copy->belief = g_array_copy (self->belief);
  if (self->cells)
    copy->cells = g_memdup2 (self->cells, (gsize)self->geometry.map_columns * self->geometry.map_rows);
  return copy;
}

void
nf_world_free (NfWorld *self)
{
  if (!self)
    return;
  g_clear_pointer (&self->belief, g_array_unref);
  g_free (self->cells);
  g_free (self->canvas);
  g_free (self);
}

NfWorld *
nf_world_branch (const NfWorld *self, guint64 seed)
{
  NfWorld *branch = nf_world_copy (self);
  branch->seed = seed;
  if (branch->belief)
    {
      double at = nf_random_uniform (seed, STREAM_BRANCH, branch->frame);
      guint i = 0;
      while (i + 1 < branch->belief->len && at >= g_array_index (branch->belief, NfBelief, i).p)
        at -= g_array_index (branch->belief, NfBelief, i++).p;
      branch->ball = g_array_index (branch->belief, NfBelief, i).state;
    }
  return branch;
}

NfWorldPattern
nf_world_get_pattern (const NfWorld *self)
{
  g_return_val_if_fail (self, NF_WORLD_BOUNCE);
  return self->pattern;
}

void
nf_world_get_state (const NfWorld *self, NfWorldState *state)
{
  const double pixel = 1.0 / NF_WORLD_LATTICE;
  g_return_if_fail (self && state);
  *state = (NfWorldState){ .frame = self->frame,
                           .ball_x = NAN,
                           .ball_y = NAN,
                           .ball_vx = NAN,
                           .ball_vy = NAN,
                           .paddle_y = NAN,
                           .score = -1,
                           .camera_x = (guint)self->camera_x,
                           .camera_y = (guint)self->camera_y,
                           .entropy = self->entropy,
                           .information = self->information };
  if (!self->belief)
    return;
  state->ball_x = self->ball.x * pixel;
  state->ball_y = self->ball.y * pixel;
  state->ball_vx = self->ball.vx * pixel;
  state->ball_vy = self->ball.vy * pixel;
  if (self->pattern != NF_WORLD_PONG)
    return;
  state->paddle_y = self->ball.paddle + self->geometry.paddle_height / 2.0;
  state->score = self->ball.score;
}

double
nf_world_next_entropy (const NfWorld *self, guint action)
{
  g_return_val_if_fail (self && action < pattern_actions[self->pattern], NAN);
  if (self->belief)
    {
      g_autoptr (GArray) next = predict (self, action);
      return entropy_of (next);
    }
  gint x = self->camera_x, y = self->camera_y;
  nf_map_scroll (self, action, &x, &y);
  return NF_WORLD_CELL_ENTROPY * nf_map_count_unseen (self, x, y);
}

gboolean
nf_world_step (NfWorld *self, guint action, GError **error)
{
  g_return_val_if_fail (self, FALSE);
  if (action >= pattern_actions[self->pattern])
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s has no action %u; its actions are 0 to %u",
                   pattern_names[self->pattern], action, pattern_actions[self->pattern] - 1);
      return FALSE;
    }
  self->frame++;
  if (!self->belief)
    {
      nf_map_scroll (self, action, &self->camera_x, &self->camera_y);
      see_map (self);
      return TRUE;
    }
  GArray *next = predict (self, action);
  g_autoptr (GArray) outcomes = g_array_new (FALSE, FALSE, sizeof (NfBallOutcome));
  nf_ball_go_on (self, &self->ball, action, outcomes);
  choose (self, outcomes);
  see_ball (self, next);
  return TRUE;
}

double
nf_world_expect_paddle (const NfWorld *self, double paddle_y, guint action)
{
  const NfWorldGeometry *g = &self->geometry;
  if (self->pattern != NF_WORLD_PONG)
    return NAN;
  const double half = g->paddle_height / 2.0;
  const double moved = paddle_y + (action == 1 ? -g->paddle_step : action == 2 ? g->paddle_step : 0);
  return CLAMP (moved, g->top + half, g->bottom - half);
}

guint
nf_world_follow (const NfWorld *self)
{
  const NfWorldGeometry *g = &self->geometry;
  g_return_val_if_fail (self, 0);
  if (self->pattern != NF_WORLD_PONG)
    return 0;
  /* Twice the distance of the centres, in lattice units. */
  const gint distance = 2 * self->ball.y - (2 * self->ball.paddle + g->paddle_height) * NF_WORLD_LATTICE;
  if (ABS (distance) <= g->paddle_step * NF_WORLD_LATTICE)
    return 0;
  return distance < 0 ? 1 : 2;
}
