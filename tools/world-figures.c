/* normflow: what a world model is measured by. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "world-figures.h"
#include "policy.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define MAX_WARM_UP 256
#define STREAM_START 0x73746172u
#define TURN 64       /* frames after which the player changes in a roll-out */
#define JUMP 0.125    /* of the shorter side: what a ball that jumps moves by at least */
#define LATER 8       /* frames of the world that a surprise leaves out at least */
#define ALTER_EVERY 8 /* frames of a window's half and more between two surprises */
#define FIRST_ROLL_OUT 1000000
#define FIRST_SURPRISE 2000000

/* Worlds, each with a player, and the streams that go with them. */
typedef struct
{
  const NfFigures *figures;
  guint B;
  NfStream *stream;
  NfWorld **worlds;
  NfPolicy *policies;
  NfPicture **pictures;
  NfFrame *frames; /* of the pictures */
  float *actions;  /* (B, action_dim), those that led to the frames */
  float *latents;
  guint *done; /* B: the same actions as numbers */
} Batch;

static void
batch_clear (Batch *batch)
{
  for (guint b = 0; b < batch->B; b++)
    {
      g_clear_pointer (&batch->worlds[b], nf_world_free);
      nf_picture_unref (batch->pictures[b]);
    }
  g_clear_object (&batch->stream);
  g_free (batch->worlds);
  g_free (batch->policies);
  g_free (batch->pictures);
  g_free (batch->frames);
  g_free (batch->actions);
  g_free (batch->latents);
  g_free (batch->done);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Batch, batch_clear)

/* A world that has been going for a while, and who plays in it. */
static NfWorld *
start_world (const NfFigures *figures, guint64 number, NfPolicy *policy, GError **error)
{
  guint32 random[4];
  nf_random_u32x4 (figures->seed, STREAM_START, number, random);
  const guint64 seed = (guint64)random[0] << 32 | random[1];
  g_autoptr (NfWorld) world = nf_world_new (figures->pattern, figures->width, figures->height, seed, error);
  if (!world)
    return NULL;
  nf_policy_init (policy, "mixed", seed);
  for (guint i = 0; i < random[2] % MAX_WARM_UP; i++)
    if (!nf_world_step (world, nf_policy_act (policy, world), error))
      return NULL;
  return g_steal_pointer (&world);
}

static gboolean
batch_init (Batch *batch, const NfFigures *figures, guint B, GError **error)
{
  const NfConfig *config = figures->config;
  *batch = (Batch){ .figures = figures, .B = B };
  batch->worlds = g_new0 (NfWorld *, B);
  batch->policies = g_new0 (NfPolicy, B);
  batch->pictures = g_new0 (NfPicture *, B);
  batch->frames = g_new0 (NfFrame, B);
  batch->actions = g_new0 (float, (gsize)B *MAX (config->action_dim, 1));
  batch->done = g_new0 (guint, B);
  for (guint b = 0; b < B; b++)
    {
      batch->pictures[b] = nf_picture_new (config->layout, figures->width, figures->height);
      batch->frames[b] = batch->pictures[b]->frame;
    }
  batch->stream = nf_stream_new_batch (figures->model, B, error);
  /* who plays sees each frame at once */
  if (!batch->stream || !nf_stream_set_denoise (batch->stream, figures->denoise, error)
      || !nf_stream_set_look_ahead (batch->stream, 0, error))
    return FALSE;
  batch->latents = g_new (float, nf_stream_count_latents (batch->stream));
  return TRUE;
}

/* Worlds FIRST and on, from the start. */
static gboolean
batch_start (Batch *batch, guint64 first, GError **error)
{
  for (guint b = 0; b < batch->B; b++)
    {
      g_clear_pointer (&batch->worlds[b], nf_world_free);
      batch->worlds[b] = start_world (batch->figures, first + b, &batch->policies[b], error);
      if (!batch->worlds[b])
        return FALSE;
      batch->done[b] = 0;
    }
  nf_stream_set_noise_seed (batch->stream, batch->figures->seed + first);
  return TRUE;
}

/* The action at what is world b's frame now, which leads to its next one. */
static void
batch_act (Batch *batch, guint b, guint action)
{
  const guint A = batch->figures->config->action_dim;
  batch->done[b] = action;
  memset (batch->actions + (gsize)b * A, 0, A * sizeof *batch->actions);
  if (action < A)
    batch->actions[(gsize)b * A + action] = 1;
}

static const float *
batch_actions (const Batch *batch)
{
  return batch->figures->config->action_dim ? batch->actions : NULL;
}

static void
batch_render (Batch *batch)
{
  for (guint b = 0; b < batch->B; b++)
    nf_world_render (batch->worlds[b], batch->figures->config->layout, &batch->frames[b]);
}

static gboolean
batch_encode (Batch *batch, NfScore *scores, GError **error)
{
  return nf_command_go_on (batch->figures->command, error)
         && nf_stream_encode (batch->stream, batch->frames, batch_actions (batch), batch->latents, scores,
                              NULL, error);
}

/* Every player acts. */
static gboolean
batch_step (Batch *batch, GError **error)
{
  for (guint b = 0; b < batch->B; b++)
    {
      batch_act (batch, b, nf_policy_act (&batch->policies[b], batch->worlds[b]));
      if (!nf_world_step (batch->worlds[b], batch->done[b], error))
        return FALSE;
    }
  return TRUE;
}

/* Bits */

void
nf_figures_bits_clear (NfFiguresBits *bits)
{
  g_clear_pointer (&bits->model, g_free);
  g_clear_pointer (&bits->truth, g_free);
}

gboolean
nf_figures_measure_bits (const NfFigures *figures, NfFiguresBits *bits, GError **error)
{
  const guint F = figures->config->frames;
  bits->frames = F;
  bits->model = g_new0 (double, F);
  bits->truth = g_new0 (double, F);
  for (guint w = 0, B; w < bits->windows; w += B)
    {
      g_auto (Batch) batch = { 0 };
      B = MIN (figures->side_by_side, bits->windows - w);
      g_autofree NfScore *scores = g_new (NfScore, B);
      if (!batch_init (&batch, figures, B, error) || !batch_start (&batch, w, error))
        return FALSE;
      for (guint f = 0; f < F; f++)
        {
          if (!batch_step (&batch, error))
            return FALSE;
          batch_render (&batch);
          if (!batch_encode (&batch, scores, error))
            return FALSE;
          for (guint b = 0; b < B; b++)
            {
              NfWorldState state;
              nf_world_get_state (batch.worlds[b], &state);
              bits->truth[f] += state.information / bits->windows;
              bits->model[f] -= scores[b].log_likelihood / G_LN2 / bits->windows;
            }
        }
      nf_progress_update (figures->command->progress, "bits: piece %u of %u", w + B, bits->windows);
    }
  return TRUE;
}

/* Surprise */

void
nf_figures_surprise_clear (NfFiguresSurprise *surprise)
{
  g_clear_pointer (&surprise->usual, g_array_unref);
  for (guint i = 0; i < NF_N_ALTERED; i++)
    g_clear_pointer (&surprise->altered[i], g_array_unref);
}

static void
turn_colours (NfPicture *picture)
{
  for (gsize i = 0; i < picture->size; i++)
    picture->data[i] = (guint8)(255 - picture->data[i]);
}

/* From so many pixels on no ball moves but it is put somewhere else. */
static double
jump_length (const NfFigures *figures)
{
  return JUMP * MIN (figures->width, figures->height);
}

/* The frame of WORLD's future in which the ball is somewhere else altogether; the map elsewhere. */
static gboolean
render_jump (const NfFigures *figures, const NfWorld *world, NfFrame *frame, GError **error)
{
  g_autoptr (NfWorld) later = nf_world_copy (world);
  NfWorldState now, then;
  nf_world_get_state (world, &now);
  for (guint i = 0; i < 64; i++)
    {
      const guint action = figures->pattern == NF_WORLD_GRIDWORLD ? 1 + i % 2 * 2 : 0;
      if (!nf_world_step (later, action, error))
        return FALSE;
      nf_world_get_state (later, &then);
      if (i >= LATER
          && (isnan (now.ball_x)
              || hypot (then.ball_x - now.ball_x, then.ball_y - now.ball_y) >= jump_length (figures)))
        break;
    }
  nf_world_render (later, figures->config->layout, frame);
  return TRUE;
}

gboolean
nf_figures_measure_surprise (const NfFigures *figures, NfFiguresSurprise *surprise, GError **error)
{
  const guint settle = MAX (figures->config->frames / 2, 2), period = settle + ALTER_EVERY,
              all = surprise->events * NF_N_ALTERED, B = MIN (figures->side_by_side, MAX (all, 1));
  g_auto (Batch) batch = { 0 };
  g_autofree NfScore *scores = g_new (NfScore, B);
  surprise->usual = g_array_new (FALSE, FALSE, sizeof (double));
  for (guint i = 0; i < NF_N_ALTERED; i++)
    surprise->altered[i] = g_array_new (FALSE, FALSE, sizeof (double));
  if (!batch_init (&batch, figures, B, error) || !batch_start (&batch, FIRST_SURPRISE, error))
    return FALSE;
  for (guint event = 0; event < all; event += B)
    {
      nf_stream_set_noise_seed (batch.stream, figures->seed + event);
      for (guint place = 0; place < period; place++)
        {
          const gboolean alter = place + 1 == period;
          batch_render (&batch);
          for (guint b = 0; alter && b < B; b++)
            if ((event + b) % NF_N_ALTERED == NF_ALTER_COLOURS)
              turn_colours (batch.pictures[b]);
            else if (!render_jump (figures, batch.worlds[b], &batch.frames[b], error))
              return FALSE;
          if (!batch_encode (&batch, scores, error))
            return FALSE;
          for (guint b = 0; b < B && event + b < all; b++)
            if (alter || place >= settle)
              g_array_append_val (alter ? surprise->altered[(event + b) % NF_N_ALTERED] : surprise->usual,
                                  scores[b].bits_per_dim);
          if (!batch_step (&batch, error))
            return FALSE;
        }
      nf_progress_update (figures->command->progress, "surprise: event %u of %u", MIN (event + B, all), all);
    }
  return TRUE;
}

double
nf_figures_area (const GArray *usual, const GArray *altered)
{
  double n = 0;
  for (guint i = 0; i < altered->len; i++)
    for (guint j = 0; j < usual->len; j++)
      {
        const double a = g_array_index (altered, double, i), u = g_array_index (usual, double, j);
        n += a > u ? 1 : a == u ? 0.5 : 0;
      }
  return n / MAX ((double)usual->len * altered->len, 1);
}

/* Roll-outs */

void
nf_figures_seen_init (NfFiguresSeen *seen, guint length)
{
  seen->stretches = (length + NF_FIGURES_STRETCH - 1) / NF_FIGURES_STRETCH;
  seen->one_by_time = g_new0 (double, seen->stretches);
  seen->walls_by_time = g_new0 (double, seen->stretches);
  seen->obeyed_by_time = g_new0 (double, seen->stretches);
  seen->pictures = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);
}

void
nf_figures_seen_clear (NfFiguresSeen *seen)
{
  g_clear_pointer (&seen->one_by_time, g_free);
  g_clear_pointer (&seen->walls_by_time, g_free);
  g_clear_pointer (&seen->obeyed_by_time, g_free);
  g_clear_pointer (&seen->pictures, g_ptr_array_unref);
}

void
nf_figures_roll_outs_clear (NfFiguresRollOuts *rolls)
{
  nf_figures_seen_clear (&rolls->model);
  nf_figures_seen_clear (&rolls->world);
}

/* One who plays by what is seen, and what was seen last. */
typedef struct
{
  NfPolicy random;
  NfWorldReading seen;
  guint action;
} Viewer;

void
nf_figures_add_light (const NfPicture *picture, double *brightness, double *contrast)
{
  /* chroma comes after luma and says nothing of it */
  const NfPixelLayout light = picture->layout == NF_PIXELS_YUV420 ? NF_PIXELS_GRAY : picture->layout;
  const guint64 n = nf_frame_samples (light, picture->frame.width, picture->frame.height);
  double sum = 0, squares = 0;
  for (guint64 i = 0; i < n; i++)
    {
      sum += picture->data[i];
      squares += (double)picture->data[i] * picture->data[i];
    }
  const double mean = sum / (double)n;
  *brightness += mean;
  *contrast += sqrt (MAX (squares / (double)n - mean * mean, 0));
}

static void
add_speed (const NfFigures *figures, NfFiguresSeen *seen, const NfWorldReading *before,
           const NfWorldReading *now)
{
  if (before->n_balls != 1 || now->n_balls != 1)
    return;
  const double speed = hypot (now->ball_x - before->ball_x, now->ball_y - before->ball_y);
  seen->speeds[MIN ((guint)(speed / NF_FIGURES_SPEED_BIN + 0.5), NF_FIGURES_SPEED_BINS - 1)]++;
  if (speed >= jump_length (figures)) /* served, or lost and found */
    return;
  seen->moved += speed;
  seen->moves++;
}

static void
keep_picture (NfFiguresSeen *seen, const NfPicture *picture)
{
  NfPicture *copy = nf_picture_new_like (picture);
  memcpy (copy->data, picture->data, picture->size);
  g_ptr_array_add (seen->pictures, copy);
}

/* Half of a step: a paddle no further from where its action leads is nowhere nearer to where another does. */
static double
paddle_error (const NfFigures *figures, const NfWorld *world)
{
  const double middle = figures->height / 2.0;
  return (nf_world_expect_paddle (world, middle, 2) - nf_world_expect_paddle (world, middle, 0)) / 2;
}

void
nf_figures_see (const NfFigures *figures, NfFiguresSeen *seen, const NfWorld *world, const NfPicture *picture,
                guint t, guint action, NfWorldReading *reading)
{
  const guint stretch = t / NF_FIGURES_STRETCH;
  NfWorldReading now;
  nf_world_read_frame (world, picture->layout, &picture->frame, &now);
  seen->frames++;
  seen->one_ball += now.n_balls == 1;
  seen->one_by_time[stretch] += now.n_balls == 1;
  seen->walls += now.has_walls;
  seen->walls_by_time[stretch] += now.has_walls;
  if (figures->pattern == NF_WORLD_PONG)
    {
      const double expected = nf_world_expect_paddle (world, reading->paddle_y, action);
      const gboolean obeyed = reading->has_paddle && now.has_paddle
                              && fabs (now.paddle_y - expected) <= paddle_error (figures, world);
      seen->paddles++;
      seen->obeyed += obeyed;
      seen->obeyed_by_time[stretch] += obeyed;
    }
  add_speed (figures, seen, reading, &now);
  *reading = now;
}

/* Frame T of roll-out NUMBER in PICTURE, which VIEWER's action led to; it then acts again. */
static void
look (const NfFigures *figures, const NfFiguresRollOuts *rolls, NfFiguresSeen *seen, Viewer *viewer,
      const NfWorld *world, const NfPicture *picture, guint number, guint t)
{
  NfWorldReading *now = &viewer->seen;
  nf_figures_see (figures, seen, world, picture, t, viewer->action, now);
  for (guint end = 0; end < 2; end++)
    if (end ? t + rolls->edge >= rolls->length : t < rolls->edge)
      nf_figures_add_light (picture, &seen->brightness[end], &seen->contrast[end]);
  for (guint i = 0; number < rolls->kept && i < NF_FIGURES_COLUMNS; i++)
    if (rolls->moments[i] == t + 1)
      keep_picture (seen, picture);
  /* by turns at random and towards the ball */
  viewer->action = nf_policy_act (&viewer->random, world);
  if (figures->pattern == NF_WORLD_PONG && t / TURN % 2 == 0 && now->n_balls > 0 && now->has_paddle)
    viewer->action = now->ball_y < now->paddle_y - 1 ? 1 : now->ball_y > now->paddle_y + 1 ? 2 : 0;
}

/* Roll-outs FIRST .. FIRST+B-1, side by side. */
static gboolean
roll_out_batch (const NfFigures *figures, NfFiguresRollOuts *rolls, guint first, guint B, GError **error)
{
  const guint warm_up = MAX (figures->config->frames, 4);
  g_auto (Batch) batch = { 0 };
  g_autofree Viewer *of_model = g_new0 (Viewer, B), *of_world = g_new0 (Viewer, B);
  if (!batch_init (&batch, figures, B, error) || !batch_start (&batch, FIRST_ROLL_OUT + first, error))
    return FALSE;
  for (guint t = 0; t < warm_up; t++)
    {
      batch_render (&batch);
      if (!batch_encode (&batch, NULL, error))
        return FALSE;
      for (guint b = 0; t + 1 == warm_up && b < B; b++)
        nf_world_read_frame (batch.worlds[b], figures->config->layout, &batch.frames[b], &of_world[b].seen);
      if (!batch_step (&batch, error))
        return FALSE;
    }
  for (guint b = 0; b < B; b++)
    {
      nf_policy_init (&of_world[b].random, "random", figures->seed + first + b);
      of_world[b].action = batch.done[b];
      of_model[b] = of_world[b];
    }
  for (guint t = 0; t < rolls->length; t++)
    {
      /* the world, which has taken its step */
      batch_render (&batch);
      for (guint b = 0; b < B; b++)
        {
          look (figures, rolls, &rolls->world, &of_world[b], batch.worlds[b], batch.pictures[b], first + b,
                t);
          batch_act (&batch, b, of_model[b].action);
        }
      if (!nf_command_go_on (figures->command, error)
          || !nf_stream_sample (batch.stream, figures->seed + first, t, rolls->temperature,
                                batch_actions (&batch), &figures->command->decoding, batch.latents,
                                batch.frames, error))
        return FALSE;
      nf_command_keep_residual (figures->command, NULL, batch.stream);
      for (guint b = 0; b < B; b++)
        {
          look (figures, rolls, &rolls->model, &of_model[b], batch.worlds[b], batch.pictures[b], first + b,
                t);
          if (!nf_world_step (batch.worlds[b], of_world[b].action, error))
            return FALSE;
        }
      if (t % 16 == 0)
        {
          g_autofree char *balls
              = figures->pattern == NF_WORLD_GRIDWORLD
                    ? g_strdup ("") /* a map has none */
                    : g_strdup_printf (", one ball in %.1f %%",
                                       100.0 * (double)rolls->model.one_ball / (double)rolls->model.frames);
          nf_progress_update (figures->command->progress, "roll-outs %u to %u of %u: frame %u of %u%s",
                              first + 1, first + B, rolls->seeds, t, rolls->length, balls);
        }
    }
  return TRUE;
}

/* Moments that are kept: soon, later and at the end, about evenly on a logarithmic scale. */
static void
choose_moments (NfFiguresRollOuts *rolls)
{
  for (guint i = 0; i < NF_FIGURES_COLUMNS; i++)
    {
      const double at = pow (rolls->length, (double)i / (NF_FIGURES_COLUMNS - 1));
      rolls->moments[i] = MAX ((guint)lround (at), i ? rolls->moments[i - 1] + 1 : 1);
    }
}

gboolean
nf_figures_roll_out (const NfFigures *figures, NfFiguresRollOuts *rolls, GError **error)
{
  choose_moments (rolls);
  rolls->edge = MIN (NF_FIGURES_EDGE, (rolls->length + 1) / 2);
  nf_figures_seen_init (&rolls->model, rolls->length);
  nf_figures_seen_init (&rolls->world, rolls->length);
  for (guint first = 0, B; first < rolls->seeds; first += B)
    {
      B = MIN (figures->side_by_side, rolls->seeds - first);
      if (!roll_out_batch (figures, rolls, first, B, error))
        return FALSE;
    }
  return TRUE;
}

double
nf_figures_mean_speed (const NfFiguresSeen *seen)
{
  return seen->moves ? seen->moved / (double)seen->moves : (double)NAN;
}

double
nf_figures_speed_variation (const NfFiguresSeen *a, const NfFiguresSeen *b)
{
  double sums[2] = { 0, 0 }, distance = 0;
  for (guint i = 0; i < NF_FIGURES_SPEED_BINS; i++)
    {
      sums[0] += a->speeds[i];
      sums[1] += b->speeds[i];
    }
  if (sums[0] == 0 || sums[1] == 0)
    return (double)NAN;
  for (guint i = 0; i < NF_FIGURES_SPEED_BINS; i++)
    distance += fabs (a->speeds[i] / sums[0] - b->speeds[i] / sums[1]) / 2;
  return distance;
}

/* Time */

/* Bytes of this process that are in memory, 0 if nothing says so. */
static guint64
resident (void)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) words = NULL;
  if (!g_file_get_contents ("/proc/self/statm", &text, NULL, NULL))
    return 0;
  words = g_strsplit (text, " ", 3);
  return words[0] && words[1] ? g_ascii_strtoull (words[1], NULL, 10) * (guint64)sysconf (_SC_PAGESIZE) : 0;
}

void
nf_figures_time_clear (NfFiguresTime *time)
{
  g_clear_pointer (&time->seconds, g_array_unref);
}

gboolean
nf_figures_time_frames (const NfFigures *figures, NfFiguresTime *time, double temperature, GError **error)
{
  const guint warm_up = 2 * figures->config->frames, actions = nf_world_pattern_actions (figures->pattern);
  g_auto (Batch) batch = { 0 };
  time->seconds = g_array_sized_new (FALSE, FALSE, sizeof (double), time->frames);
  if (!batch_init (&batch, figures, 1, error) || !nf_stream_prepare (batch.stream, error))
    return FALSE;
  for (guint t = 0; t < warm_up + time->frames; t++)
    {
      const gint64 start = g_get_monotonic_time ();
      batch_act (&batch, 0, t / 8 % actions);
      if (!nf_command_go_on (figures->command, error)
          || !nf_stream_sample (batch.stream, figures->seed, t, temperature, batch_actions (&batch),
                                &figures->command->decoding, batch.latents, batch.frames, error))
        return FALSE;
      nf_command_keep_residual (figures->command, NULL, batch.stream);
      const double taken = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      if (t >= warm_up)
        g_array_append_val (time->seconds, taken);
      if (t == warm_up + time->frames / 10)
        time->resident[0] = resident ();
      if (t % 16 == 0)
        nf_progress_update (figures->command->progress, "time: frame %u of %u", t, warm_up + time->frames);
    }
  time->resident[1] = resident ();
  return TRUE;
}
