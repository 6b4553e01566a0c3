/* normflow: worlds with a ball, bounce and pong. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-world-private.h"

#define UNIT NF_WORLD_LATTICE

#define KICK_TOTAL 128 /* a kick in each of eight directions has one part, none the rest */
#define SERVES 8       /* heights at which a ball is served in pong */
#define BEGIN_X 16     /* places where bounce begins */
#define BEGIN_Y 8

void
nf_ball_init_geometry (NfWorldPattern pattern, gint width, gint height, NfWorldGeometry *g)
{
#define PIXELS(length, least) nf_world_scale (width, height, length, least)
#define UNITS(length) nf_world_scale (width, height, length, 1)
  *g = (NfWorldGeometry){ .wall = PIXELS (2, 1), .radius = MAX (UNITS (5 * UNIT / 2), UNIT) };
  g->left = g->top = g->wall;
  g->right = width - g->wall;
  g->bottom = height - g->wall;
  if (pattern == NF_WORLD_BOUNCE)
    {
      g->gravity = UNITS (1);
      g->kick = UNITS (UNIT);
      g->kick_diagonal = UNITS (6);
      g->max_vx = UNITS (3 * UNIT);
      g->max_vy = UNITS (4 * UNIT);
      return;
    }
  g->score_top = PIXELS (1, 0);
  g->score_height = PIXELS (3, 1);
  g->score_pitch = width / (NF_WORLD_BLOCKS + 1);
  g->score_width = MAX (g->score_pitch - PIXELS (2, 0), 1);
  g->top += 2 * g->score_top + g->score_height;
  g->paddle_left = PIXELS (2, 1);
  g->left = g->paddle_left + PIXELS (3, 1);
  g->paddle_height = PIXELS (12, 3);
  g->paddle_step = PIXELS (2, 1);
  g->max_vx = g->max_vy = UNITS (3 * UNIT / 2);
#undef PIXELS
#undef UNITS
}

static void
add (GArray *outcomes, const NfBallState *state, guint weight)
{
  const NfBallOutcome outcome = { *state, weight };
  g_array_append_val (outcomes, outcome);
}

/* A coordinate that comes back from walls at LOW and HIGH. */
static void
reflect (gint *at, gint *velocity, gint low, gint high)
{
  if (*at < low)
    {
      *at = 2 * low - *at;
      *velocity = -*velocity;
    }
  else if (*at > high)
    {
      *at = 2 * high - *at;
      *velocity = -*velocity;
    }
}

static void
reflect_x (const NfWorldGeometry *g, NfBallState *state)
{
  reflect (&state->x, &state->vx, g->left * UNIT + g->radius, g->right * UNIT - g->radius);
}

static void
reflect_y (const NfWorldGeometry *g, NfBallState *state)
{
  reflect (&state->y, &state->vy, g->top * UNIT + g->radius, g->bottom * UNIT - g->radius);
}

/* PART of PARTS equal steps between the walls. */
static gint
between (gint low, gint high, gint radius, gint part, gint parts)
{
  low = low * UNIT + radius;
  high = high * UNIT - radius;
  return low + (gint)((gint64)(high - low) * part / parts);
}

/* Bounce */

static void
bounce_begin (const NfWorldGeometry *g, GArray *outcomes)
{
  for (gint i = 0; i < BEGIN_X; i++)
    for (gint j = 0; j < BEGIN_Y; j++)
      for (gint k = -2; k <= 2; k++)
        if (k != 0)
          {
            /* in the upper half, at rest but for going sideways */
            const NfBallState state = { .x = between (g->left, g->right, g->radius, i, BEGIN_X - 1),
                                        .y = between (g->top, g->bottom, g->radius, j, 2 * BEGIN_Y),
                                        .vx = k * g->max_vx / 3 };
            add (outcomes, &state, 1);
          }
}

static void
bounce_go_on (const NfWorldGeometry *g, const NfBallState *from, GArray *outcomes)
{
  for (gint kx = -1; kx <= 1; kx++)
    for (gint ky = -1; ky <= 1; ky++)
      {
        const gboolean none = kx == 0 && ky == 0;
        const gint length = kx != 0 && ky != 0 ? g->kick_diagonal : g->kick;
        NfBallState state = *from;
        state.vx = CLAMP (state.vx + kx * length, -g->max_vx, g->max_vx);
        state.vy = CLAMP (state.vy + ky * length + g->gravity, -g->max_vy, g->max_vy);
        state.x += state.vx;
        state.y += state.vy;
        reflect_x (g, &state);
        reflect_y (g, &state);
        add (outcomes, &state, none ? KICK_TOTAL - 8 : 1);
      }
}

/* Pong */

/* The velocities with which a ball may leave, up or down. */
static void
add_velocities (const NfWorldGeometry *g, const NfBallState *state, gboolean move, GArray *outcomes)
{
  const gint fast = g->max_vy, slow = (g->max_vy + 1) / 2;
  const gint choice[4] = { -fast, -slow, slow, fast };
  for (guint i = 0; i < G_N_ELEMENTS (choice); i++)
    {
      NfBallState next = *state;
      next.vy = choice[i];
      if (move)
        {
          next.y += next.vy;
          reflect_y (g, &next);
        }
      add (outcomes, &next, 1);
    }
}

static void
serve (const NfWorldGeometry *g, const NfBallState *from, GArray *outcomes)
{
  for (gint i = 0; i < SERVES; i++)
    {
      NfBallState state = *from;
      state.x = (g->left + g->right) * UNIT / 2;
      state.y = between (g->top, g->bottom, g->radius, SERVES / 2 + i, 2 * SERVES - 1);
      state.vx = g->max_vx;
      state.score = 0;
      add_velocities (g, &state, FALSE, outcomes);
    }
}

static void
pong_go_on (const NfWorldGeometry *g, const NfBallState *from, guint action, GArray *outcomes)
{
  const gint face = g->left * UNIT + g->radius;
  NfBallState state = *from;

  state.paddle += action == 1 ? -g->paddle_step : action == 2 ? g->paddle_step : 0;
  state.paddle = CLAMP (state.paddle, g->top, g->bottom - g->paddle_height);
  state.x += state.vx;
  if (state.x >= face)
    {
      reflect_x (g, &state);
      state.y += state.vy;
      reflect_y (g, &state);
      add (outcomes, &state, 1);
      return;
    }
  /* At the paddle: any part of the ball beside any part of it is a hit, and off it goes by chance. */
  if (state.y + g->radius > state.paddle * UNIT
      && state.y - g->radius < (state.paddle + g->paddle_height) * UNIT)
    {
      state.x = 2 * face - state.x;
      state.vx = -state.vx;
      state.score = (state.score + 1) % (NF_WORLD_BLOCKS + 1);
      add_velocities (g, &state, TRUE, outcomes);
      return;
    }
  serve (g, &state, outcomes);
}

void
nf_ball_begin (const NfWorld *self, GArray *outcomes)
{
  const NfWorldGeometry *g = &self->geometry;
  if (self->pattern == NF_WORLD_BOUNCE)
    {
      bounce_begin (g, outcomes);
      return;
    }
  const NfBallState middle = { .paddle = (g->top + g->bottom - g->paddle_height) / 2 };
  serve (g, &middle, outcomes);
}

void
nf_ball_go_on (const NfWorld *self, const NfBallState *state, guint action, GArray *outcomes)
{
  if (self->pattern == NF_WORLD_BOUNCE)
    bounce_go_on (&self->geometry, state, outcomes);
  else
    pong_go_on (&self->geometry, state, action, outcomes);
}
