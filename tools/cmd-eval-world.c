/* normflow eval world: a world model against a world whose truth is known. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "command.h"
#include "common.h"
#include "media.h"
#include "policy.h"
#include "scan.h"

#include <json-glib/json-glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME "eval world"
#define MAX_WARM_UP 256
#define STREAM_NOISE 0x6e6f6973u
#define STREAM_START 0x73746172u
#define TURN 64          /* frames after which the player changes in a roll-out */
#define PADDLE_ERROR 1.0 /* pixels that a paddle may be beside where its action leads */
#define JUMP 8.0         /* pixels that a ball that jumps does at least */
#define SPEED_BIN 0.25   /* pixels a frame */
#define SPEED_BINS 32
#define EDGE 100      /* frames at either end of a roll-out that drift is measured between */
#define ALTER_EVERY 8 /* frames of a window's half and more between two surprises */

typedef struct
{
  NfCommand *command;
  NfModel *model;
  const NfConfig *config;
  NfWorldPattern pattern;
  guint64 seed;
  guint width, height;
} Eval;

/* The vector of ACTION, or zeros. */
static float *
action_vector (const Eval *eval, guint action)
{
  float *vector = g_new0 (float, MAX (eval->config->action_dim, 1));
  if (action < eval->config->action_dim)
    vector[action] = 1;
  return vector;
}

/* A world that has been going for a while, and who plays in it. */
static NfWorld *
start_world (const Eval *eval, guint64 number, NfPolicy *policy, GError **error)
{
  guint32 random[4];
  nf_random_u32x4 (eval->seed, STREAM_START, number, random);
  const guint64 seed = (guint64)random[0] << 32 | random[1];
  g_autoptr (NfWorld) world = nf_world_new (eval->pattern, eval->width, eval->height, seed, error);
  if (!world)
    return NULL;
  nf_policy_init (policy, "mixed", seed);
  for (guint i = 0; i < random[2] % MAX_WARM_UP; i++)
    if (!nf_world_step (world, nf_policy_act (policy, world), error))
      return NULL;
  return g_steal_pointer (&world);
}

/* Bits */

typedef struct
{
  guint windows, frames; /* frames of a window */
  double *excess;        /* of each place in a window: bits a frame that the model takes, beyond the noise */
  double *entropy;       /* of each place: what the truth has */
} Bits;

static void
bits_clear (Bits *bits)
{
  g_free (bits->excess);
  g_free (bits->entropy);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Bits, bits_clear)

/* Real samples of 8-bit ones with the model's noise; BITS gets what the noise alone takes, as drawn. */
static void
dequantise (const Eval *eval, const NfPicture *picture, guint64 stream, float *image, double *bits)
{
  const gsize n = picture->size;
  const gboolean uniform = eval->config->noise == NF_NOISE_UNIFORM;
  const double sigma = eval->config->noise_std;
  g_autofree float *noise = g_new (float, n);
  double nats = 0;
  if (!uniform)
    nf_random_normal (eval->seed ^ STREAM_NOISE, stream, n, 1, noise);
  for (gsize i = 0; i < n; i++)
    if (uniform)
      {
        image[i] = (float)((picture->data[i] + nf_random_uniform (eval->seed ^ STREAM_NOISE, stream, i)) / 128
                           - 1);
        nats -= 7 * G_LN2;
      }
    else
      {
        image[i] = (float)(picture->data[i] / 127.5 - 1 + sigma * (double)noise[i]);
        nats += (double)noise[i] * (double)noise[i] / 2 + log (sigma) + 0.5 * log (2 * G_PI);
      }
  *bits = nats / G_LN2;
}

/* WINDOWS pieces of the world, each as long as a sample: -log2 p of every frame given those before it, less
 * what the noise that was added takes. Its mean is the entropy of the world and what the model does not know.
 */
static gboolean
measure_bits (const Eval *eval, Bits *bits, GError **error)
{
  const NfConfig *config = eval->config;
  const guint F = config->frames, N = nf_config_tokens (config), D = nf_config_features (config);
  const gsize frame = (gsize)N * D;
  g_autoptr (NfSession) session = nf_session_new (eval->model, error);
  g_autoptr (NfPicture) picture = nf_picture_new (config->layout, eval->width, eval->height);
  g_autofree float *images = g_new (float, F *frame), *x = g_new (float, F *frame),
                   *z = g_new (float, F *frame), *log_det = g_new (float, F *N), *actions = NULL;
  g_autofree double *noise = g_new (double, F);
  if (!session)
    return FALSE;
  bits->frames = F;
  bits->excess = g_new0 (double, F);
  bits->entropy = g_new0 (double, F);
  actions = g_new (float, (gsize)F *MAX (config->action_dim, 1));
  for (guint w = 0; w < bits->windows; w++)
    {
      NfPolicy policy;
      g_autoptr (NfWorld) world = start_world (eval, w, &policy, error);
      if (!world || !nf_command_go_on (eval->command, error))
        return FALSE;
      for (guint f = 0; f < F; f++)
        {
          const guint action = nf_policy_act (&policy, world);
          g_autofree float *vector = action_vector (eval, action);
          NfWorldState state;
          if (!nf_world_step (world, action, error))
            return FALSE;
          memcpy (actions + (gsize)f * config->action_dim, vector, config->action_dim * sizeof *vector);
          nf_world_get_state (world, &state);
          bits->entropy[f] += state.information / bits->windows;
          nf_world_render (world, config->layout, &picture->frame);
          dequantise (eval, picture, (guint64)w * F + f, images + f * frame, &noise[f]);
        }
      nf_patchify (config, images, F, x);
      if ((config->action_dim && !nf_session_set_actions (session, actions, 1, error))
          || !nf_session_encode (session, x, 1, NULL, z, NULL, log_det, error))
        return FALSE;
      for (guint f = 0; f < F; f++)
        {
          double nats = (double)frame * 0.5 * log (2 * G_PI);
          for (gsize i = f * frame; i < (f + 1) * frame; i++)
            nats += (double)z[i] * (double)z[i] / 2;
          for (guint n = f * N; n < (f + 1) * N; n++)
            nats -= (double)log_det[n];
          bits->excess[f] += (nats / G_LN2 - noise[f]) / bits->windows;
        }
      nf_progress_update (eval->command->progress, "bits: window %u of %u", w + 1, bits->windows);
    }
  return TRUE;
}

/* Mean over the second half of the windows. */
static double
settled (const double *values, guint n)
{
  double sum = 0;
  for (guint i = n / 2; i < n; i++)
    sum += values[i];
  return sum / (n - n / 2);
}

/* Roll-outs */

typedef struct
{
  guint seeds, length;
  double temperature;
  guint64 frames, one_ball, paddles, obeyed;
  double speeds[SPEED_BINS], true_speeds[SPEED_BINS];
  double brightness[2], contrast[2]; /* at the beginning and at the end */
  GArray *seconds;                   /* of each frame */
} RollOuts;

/* Adds the speed between two readings. */
static void
add_speed (double bins[SPEED_BINS], const NfWorldReading *before, const NfWorldReading *now)
{
  if (before->n_balls != 1 || now->n_balls != 1)
    return;
  const double speed = hypot (now->ball_x - before->ball_x, now->ball_y - before->ball_y);
  bins[MIN ((guint)(speed / SPEED_BIN + 0.5), SPEED_BINS - 1)]++;
}

static void
add_light (const NfPicture *picture, double *brightness, double *contrast)
{
  double sum = 0, squares = 0;
  for (gsize i = 0; i < picture->size; i++)
    {
      sum += picture->data[i];
      squares += (double)picture->data[i] * picture->data[i];
    }
  const double mean = sum / (double)picture->size;
  *brightness += mean;
  *contrast += sqrt (MAX (squares / (double)picture->size - mean * mean, 0));
}

/* By turns at random and towards the ball that is seen. */
static guint
choose_action (const Eval *eval, NfPolicy *policy, const NfWorld *world, const NfWorldReading *seen, guint t)
{
  if (eval->pattern == NF_WORLD_PONG && t / TURN % 2 == 0 && seen->n_balls > 0 && seen->has_paddle)
    return seen->ball_y < seen->paddle_y - 1 ? 1 : seen->ball_y > seen->paddle_y + 1 ? 2 : 0;
  return nf_policy_act (policy, world);
}

static gboolean
roll_out (const Eval *eval, RollOuts *rolls, guint number, GError **error)
{
  const NfConfig *config = eval->config;
  const guint warm_up = MAX (config->frames, 4);
  NfPolicy policy;
  g_autoptr (NfWorld) world = start_world (eval, 1000000 + number, &policy, error);
  g_autoptr (NfStream) stream = world ? nf_stream_new (eval->model, error) : NULL;
  g_autoptr (NfPicture) picture = nf_picture_new (config->layout, eval->width, eval->height);
  NfWorldReading before = { 0 }, now = { 0 }, true_before = { 0 }, true_now = { 0 };
  if (!stream || !nf_stream_prepare (stream, error))
    return FALSE;
  g_autofree float *latents = g_new (float, nf_stream_get_latents (stream));
  guint action = 0;
  for (guint t = 0; t < warm_up; t++)
    {
      g_autofree float *vector = action_vector (eval, action);
      nf_world_render (world, config->layout, &picture->frame);
      if (!nf_stream_encode (stream, &picture->frame, config->action_dim ? vector : NULL, latents, NULL, NULL,
                             error))
        return FALSE;
      nf_world_read_frame (world, config->layout, &picture->frame, &before);
      action = nf_policy_act (&policy, world);
      if (!nf_world_step (world, action, error))
        return FALSE;
    }
  nf_policy_init (&policy, "random", eval->seed + number);
  for (guint t = 0; t < rolls->length; t++)
    {
      const double expected = nf_world_expect_paddle (world, before.paddle_y, action);
      g_autofree float *vector = action_vector (eval, action);
      const gint64 start = g_get_monotonic_time ();
      if (!nf_command_go_on (eval->command, error)
          || !nf_stream_sample (stream, eval->seed + number, t, rolls->temperature,
                                config->action_dim ? vector : NULL, &eval->command->decoding, NULL,
                                &picture->frame, error))
        return FALSE;
      const double seconds = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      g_array_append_val (rolls->seconds, seconds);
      nf_world_read_frame (world, config->layout, &picture->frame, &now);
      rolls->frames++;
      rolls->one_ball += now.n_balls == 1;
      if (eval->pattern == NF_WORLD_PONG)
        {
          rolls->paddles++;
          rolls->obeyed
              += before.has_paddle && now.has_paddle && fabs (now.paddle_y - expected) <= PADDLE_ERROR;
        }
      add_speed (rolls->speeds, &before, &now);
      if (t < EDGE)
        add_light (picture, &rolls->brightness[0], &rolls->contrast[0]);
      if (t + EDGE >= rolls->length)
        add_light (picture, &rolls->brightness[1], &rolls->contrast[1]);
      before = now;
      action = choose_action (eval, &policy, world, &now, t);

      /* the world goes on by itself, for its speeds */
      nf_world_render (world, config->layout, &picture->frame);
      nf_world_read_frame (world, config->layout, &picture->frame, &true_now);
      if (t > 0)
        add_speed (rolls->true_speeds, &true_before, &true_now);
      true_before = true_now;
      if (!nf_world_step (world, nf_world_follow (world), error))
        return FALSE;
      if (t % 16 == 0)
        nf_progress_update (eval->command->progress, "roll-out %u of %u: frame %u of %u, one ball in %.1f %%",
                            number + 1, rolls->seeds, t, rolls->length,
                            100.0 * (double)rolls->one_ball / (double)rolls->frames);
    }
  return TRUE;
}

/* Half the sum of the differences of two histograms' shares: 0 the same, 1 nothing in common. */
static double
total_variation (const double a[SPEED_BINS], const double b[SPEED_BINS])
{
  double sums[2] = { 0, 0 }, distance = 0;
  for (guint i = 0; i < SPEED_BINS; i++)
    {
      sums[0] += a[i];
      sums[1] += b[i];
    }
  for (guint i = 0; i < SPEED_BINS; i++)
    distance += fabs (a[i] / MAX (sums[0], 1) - b[i] / MAX (sums[1], 1)) / 2;
  return distance;
}

static double
mean_speed (const double bins[SPEED_BINS])
{
  double sum = 0, n = 0;
  for (guint i = 0; i < SPEED_BINS; i++)
    {
      sum += i * SPEED_BIN * bins[i];
      n += bins[i];
    }
  return sum / MAX (n, 1);
}

/* Surprise */

typedef enum
{
  ALTER_JUMP,    /* something moves that cannot: what comes much later */
  ALTER_COLOURS, /* samples are turned around */
  N_ALTERED,
} Altered;

typedef struct
{
  guint events; /* of each kind */
  GArray *usual, *altered[N_ALTERED];
} Surprise;

static void
turn_colours (NfPicture *picture)
{
  for (gsize i = 0; i < picture->size; i++)
    picture->data[i] = (guint8)(255 - picture->data[i]);
}

/* The frame of WORLD's future in which the ball is somewhere else altogether; the map elsewhere. */
static gboolean
render_jump (const Eval *eval, const NfWorld *world, NfPicture *picture, GError **error)
{
  g_autoptr (NfWorld) later = nf_world_copy (world);
  NfWorldState now, then;
  nf_world_get_state (world, &now);
  for (guint i = 0; i < 64; i++)
    {
      const guint action = eval->pattern == NF_WORLD_GRIDWORLD ? 1 + i % 2 * 2 : 0;
      if (!nf_world_step (later, action, error))
        return FALSE;
      nf_world_get_state (later, &then);
      if (i >= JUMP
          && (isnan (now.ball_x) || hypot (then.ball_x - now.ball_x, then.ball_y - now.ball_y) >= JUMP))
        break;
    }
  nf_world_render (later, eval->config->layout, &picture->frame);
  return TRUE;
}

/* Scores of frames as they are, and of altered ones: after each the stream begins anew, and frames count once
 * it has seen half a window again. */
static gboolean
measure_surprise (const Eval *eval, Surprise *surprise, GError **error)
{
  const NfConfig *config = eval->config;
  NfPolicy policy;
  g_autoptr (NfWorld) world = start_world (eval, 2000000, &policy, error);
  g_autoptr (NfStream) stream = world ? nf_stream_new (eval->model, error) : NULL;
  g_autoptr (NfPicture) picture = nf_picture_new (config->layout, eval->width, eval->height);
  const guint settle = MAX (config->frames / 2, 2), period = settle + ALTER_EVERY;
  guint action = 0;
  if (!stream)
    return FALSE;
  g_autofree float *latents = g_new (float, nf_stream_get_latents (stream));
  for (guint64 t = 0; t < (guint64)surprise->events * N_ALTERED * period; t++)
    {
      g_autofree float *vector = action_vector (eval, action);
      const guint place = (guint)(t % period);
      const Altered kind = (Altered)(t / period % N_ALTERED);
      const gboolean alter = place + 1 == period;
      NfScore score;
      nf_world_render (world, config->layout, &picture->frame);
      if (alter && kind == ALTER_JUMP && !render_jump (eval, world, picture, error))
        return FALSE;
      if (alter && kind == ALTER_COLOURS)
        turn_colours (picture);
      if (!nf_command_go_on (eval->command, error)
          || !nf_stream_encode (stream, &picture->frame, config->action_dim ? vector : NULL, latents, &score,
                                NULL, error))
        return FALSE;
      if (alter)
        g_array_append_val (surprise->altered[kind], score.bits_per_dim);
      else if (place >= settle)
        g_array_append_val (surprise->usual, score.bits_per_dim);
      if (alter)
        nf_stream_reset (stream);
      action = nf_policy_act (&policy, world);
      if (!nf_world_step (world, action, error))
        return FALSE;
      nf_progress_update (eval->command->progress, "surprise: frame %" G_GUINT64_FORMAT, t);
    }
  return TRUE;
}

/* Share of pairs in which the altered frame has the higher score: area under the ROC curve. */
static double
area (const GArray *usual, const GArray *altered)
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

/* Results */

static void
put (JsonBuilder *builder, const char *name, double value)
{
  json_builder_set_member_name (builder, name);
  if (isfinite (value))
    json_builder_add_double_value (builder, value);
  else
    json_builder_add_null_value (builder);
}

static void
report_bits (const Bits *bits, JsonBuilder *builder)
{
  const double model = settled (bits->excess, bits->frames), truth = settled (bits->entropy, bits->frames);
  printf ("bits a frame, given half a window and more: model %.1f, truth %.2f, gap %.1f (%u windows)\n",
          model, truth, model - truth, bits->windows);
  json_builder_set_member_name (builder, "bits");
  json_builder_begin_object (builder);
  put (builder, "model", model);
  put (builder, "entropy", truth);
  put (builder, "gap", model - truth);
  json_builder_set_member_name (builder, "by_place");
  json_builder_begin_array (builder);
  for (guint f = 0; f < bits->frames; f++)
    json_builder_add_double_value (builder, bits->excess[f]);
  json_builder_end_array (builder);
  json_builder_end_object (builder);
}

static void
report_roll_outs (const RollOuts *rolls, JsonBuilder *builder)
{
  g_autofree double *seconds
      = nf_scan_sorted ((const double *)(gpointer)rolls->seconds->data, rolls->seconds->len);
  const double edge = (double)MIN (EDGE, rolls->length) * rolls->seeds, n = (double)rolls->frames,
               one = (double)rolls->one_ball / n,
               obeyed = rolls->paddles ? (double)rolls->obeyed / (double)rolls->paddles : (double)NAN,
               variation = total_variation (rolls->speeds, rolls->true_speeds),
               brightness = (rolls->brightness[1] - rolls->brightness[0]) / edge,
               contrast = (rolls->contrast[1] - rolls->contrast[0]) / edge,
               median = nf_scan_quantile (seconds, rolls->seconds->len, 0.5),
               slow = nf_scan_quantile (seconds, rolls->seconds->len, 0.99);
  printf ("roll-outs: %u of %u frames, temperature %g\n", rolls->seeds, rolls->length, rolls->temperature);
  printf ("  one ball in %.2f %% of frames", 100 * one);
  if (rolls->paddles)
    printf (", paddle where the action leads in %.2f %%", 100 * obeyed);
  printf ("\n  speed %.3f pixels a frame, world %.3f; distributions differ by %.3f (total variation)\n",
          mean_speed (rolls->speeds), mean_speed (rolls->true_speeds), variation);
  printf ("  drift from first to last %u frames: brightness %+.2f, contrast %+.2f 8-bit steps\n",
          MIN (EDGE, rolls->length), brightness, contrast);
  printf ("  time of a frame: median %.1f ms, 99th percentile %.1f ms\n", median * 1e3, slow * 1e3);
  json_builder_set_member_name (builder, "roll_outs");
  json_builder_begin_object (builder);
  put (builder, "seeds", rolls->seeds);
  put (builder, "length", rolls->length);
  put (builder, "temperature", rolls->temperature);
  put (builder, "one_ball", one);
  put (builder, "paddle_obeys", obeyed);
  put (builder, "speed", mean_speed (rolls->speeds));
  put (builder, "world_speed", mean_speed (rolls->true_speeds));
  put (builder, "speed_total_variation", variation);
  put (builder, "brightness_drift", brightness);
  put (builder, "contrast_drift", contrast);
  put (builder, "median_ms", median * 1e3);
  put (builder, "p99_ms", slow * 1e3);
  json_builder_end_object (builder);
}

static void
report_surprise (const Surprise *surprise, JsonBuilder *builder)
{
  const double jump = area (surprise->usual, surprise->altered[ALTER_JUMP]),
               colours = area (surprise->usual, surprise->altered[ALTER_COLOURS]);
  printf ("surprise, area under the ROC curve: %s %.4f, colours %.4f (%u frames of each, %u usual ones)\n",
          "jump", jump, colours, surprise->events, surprise->usual->len);
  json_builder_set_member_name (builder, "surprise");
  json_builder_begin_object (builder);
  put (builder, "jump", jump);
  put (builder, "colours", colours);
  put (builder, "events", surprise->events);
  put (builder, "usual", surprise->usual->len);
  json_builder_end_object (builder);
}

static gboolean
check_model (const Eval *eval, GError **error)
{
  const NfConfig *config = eval->config;
  const guint actions = nf_world_pattern_actions (eval->pattern);
  if (!config->frames || !config->shallow_local || config->layout == NF_PIXELS_LATENT
      || config->layout == NF_PIXELS_YUV420)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          "the model is not a world model: it must be one of videos in rgb or gray whose shallow blocks see "
          "one frame");
      return FALSE;
    }
  if (config->action_dim && config->action_dim != actions)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_CONFIG, "the model has action_dim %u, %s has %u actions",
                   config->action_dim, nf_world_pattern_name (eval->pattern), actions);
      return FALSE;
    }
  return TRUE;
}

static gboolean
evaluate (Eval *eval, Bits *bits, RollOuts *rolls, Surprise *surprise, JsonBuilder *builder, GError **error)
{
  if (bits->windows)
    {
      if (!measure_bits (eval, bits, error))
        return FALSE;
      nf_progress_clear (eval->command->progress);
      report_bits (bits, builder);
    }
  if (surprise->events)
    {
      if (!measure_surprise (eval, surprise, error))
        return FALSE;
      nf_progress_clear (eval->command->progress);
      report_surprise (surprise, builder);
    }
  for (guint i = 0; i < rolls->seeds; i++)
    if (!roll_out (eval, rolls, i, error))
      return FALSE;
  nf_progress_clear (eval->command->progress);
  if (rolls->seeds)
    report_roll_outs (rolls, builder);
  return TRUE;
}

int
nf_cmd_eval_world (int argc, char **argv)
{
  g_auto (NfCommand) command = { .name = NAME };
  g_auto (Bits) bits = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfSession) session = NULL;
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  g_autofree char *world = NULL, *json = NULL;
  int windows = 64, seeds = 20, length = 1000, events = 50;
  gint64 seed = 0;
  double temperature = 1;
  Eval eval = { .command = &command };
  RollOuts rolls = { 0 };
  Surprise surprise = { 0 };
  const GOptionEntry entries[]
      = { { "world", 'w', 0, G_OPTION_ARG_STRING, &world, "pong, bounce or gridworld", "WORLD" },
          { "windows", 0, 0, G_OPTION_ARG_INT, &windows,
            "Pieces that bits are measured on, 0 for none (default: 64)", "N" },
          { "events", 0, 0, G_OPTION_ARG_INT, &events, "Surprises of each kind, 0 for none (default: 50)",
            "N" },
          { "seeds", 0, 0, G_OPTION_ARG_INT, &seeds, "Roll-outs, 0 for none (default: 20)", "N" },
          { "frames", 'n', 0, G_OPTION_ARG_INT, &length, "Frames of a roll-out (default: 1000)", "N" },
          { "temperature", 't', 0, G_OPTION_ARG_DOUBLE, &temperature,
            "Standard deviation of a roll-out's latents (default: 1)", "T" },
          { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "Of worlds and noise (default: 0)", "SEED" },
          { "json", 0, 0, G_OPTION_ARG_FILENAME, &json, "The figures as JSON, too", "FILE" },
          { NULL } };
  int status = NF_EXIT_FAILED;

  if (!nf_command_parse (
          &command, &argc, &argv, entries, NF_COMMAND_DEVICE | NF_COMMAND_DECODING, "MODEL",
          "Holds a model against a world whose truth is known: bits a frame against the true entropy, "
          "surprise, roll-outs.",
          NULL, 1, 1))
    return NF_EXIT_USAGE;
  if (!world || !nf_world_pattern_from_name (world, &eval.pattern))
    return nf_command_usage (&command, "--world is one of pong, bounce, gridworld");
  if (windows < 0 || seeds < 0 || events < 0 || length < 1 || seed < 0
      || !(temperature >= 0 && temperature <= 2))
    return nf_command_usage (&command,
                             "--windows, --seeds, --events and --seed take no negative numbers, --frames 1 "
                             "or more, --temperature 0 to 2");
  command.model = g_strdup (argv[1]);
  bits.windows = (guint)windows;
  rolls = (RollOuts){ .seeds = (guint)seeds,
                      .length = (guint)length,
                      .temperature = temperature,
                      .seconds = g_array_new (FALSE, FALSE, sizeof (double)) };
  surprise.events = (guint)events;
  surprise.usual = g_array_new (FALSE, FALSE, sizeof (double));
  for (guint i = 0; i < N_ALTERED; i++)
    surprise.altered[i] = g_array_new (FALSE, FALSE, sizeof (double));

  nf_command_catch_signals (&command);
  session = nf_command_open (&command, &error);
  if (session)
    {
      eval.model = nf_session_get_model (session);
      eval.config = nf_model_get_config (eval.model);
      eval.seed = (guint64)seed;
      eval.width = nf_config_columns (eval.config);
      eval.height = nf_config_rows (eval.config);
      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "world");
      json_builder_add_string_value (builder, world);
      if (check_model (&eval, &error) && evaluate (&eval, &bits, &rolls, &surprise, builder, &error))
        status = 0;
    }
  if (status == 0 && json)
    {
      g_autoptr (JsonGenerator) generator = json_generator_new ();
      json_builder_end_object (builder);
      g_autoptr (JsonNode) root = json_builder_get_root (builder);
      json_generator_set_pretty (generator, TRUE);
      json_generator_set_root (generator, root);
      if (!json_generator_to_file (generator, json, &error))
        status = NF_EXIT_FAILED;
    }
  if (status != 0)
    status = nf_command_fail (&command, error);
  g_array_unref (rolls.seconds);
  g_array_unref (surprise.usual);
  for (guint i = 0; i < N_ALTERED; i++)
    g_array_unref (surprise.altered[i]);
  return status;
}
