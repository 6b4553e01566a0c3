/* normflow: the training of a run. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "train-job.h"
#include "json.h"
#include "media.h"
#include "progress.h"
#include "train-data.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#define MEASURED_STEPS 20
#define MAX_SKIPPED 100
#define VALIDATION_BYTES (64u << 20)
#define MAX_VALIDATION 4096
#define SHEET_TILES 8
#define NAMED_LEFT_OUT 3

typedef struct
{
  NfTrainRun *run;
  const NfTrainPlaces *places;
  NfCommand *command;
  NfDevice *device;
  NfModel *model;
  NfTrainer *trainer;
  NfTrainData data;
  NfProgress *progress; /* the command's */
  FILE *log;
  GString *held_log; /* its lines before the first step, if its file holds others until then */
  gint64 started;    /* of this process */
  double before;     /* seconds of earlier processes of the run */
  double validation_loss;
  guint n_finite; /* tiles that it is the mean of */
  guint64 first;  /* step that this process goes on from */
} Job;

static void
job_clear (Job *job)
{
  g_clear_object (&job->trainer);
  g_clear_object (&job->model);
  g_clear_object (&job->device);
  nf_train_data_clear (&job->data);
  if (job->log)
    fclose (job->log);
  if (job->held_log)
    g_string_free (job->held_log, TRUE);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Job, job_clear)

static gboolean
interrupted (const Job *job)
{
  return g_cancellable_is_cancelled (job->command->cancellable);
}

static double
job_seconds (const Job *job)
{
  return job->before + (double)(g_get_monotonic_time () - job->started) / G_USEC_PER_SEC;
}

static gboolean
is_uniform (const Job *job)
{
  return job->run->config.noise == NF_NOISE_UNIFORM;
}

/* What people are shown: bits per dimension if there are any, else the loss itself. */
static double
shown (const Job *job, double loss)
{
  return is_uniform (job) ? nf_loss_to_bits_per_dim (loss) : loss;
}

static const char *
unit (const Job *job)
{
  return is_uniform (job) ? "bits/dim" : "nats/dim";
}

static gboolean
write_lines (Job *job, const char *lines, GError **error)
{
  if (fputs (lines, job->log) >= 0 && fflush (job->log) == 0)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s", job->run->log,
               g_strerror (errno));
  return FALSE;
}

static gboolean
write_log (Job *job, JsonBuilder *builder, GError **error)
{
  g_autofree char *text = NULL, *line = NULL;

  json_builder_end_object (builder);
  if (!job->log)
    return TRUE;
  text = nf_json_text (builder, FALSE);
  line = g_strconcat (text, "\n", NULL);
  if (!job->held_log)
    return write_lines (job, line, error);
  g_string_append (job->held_log, line);
  return TRUE;
}

/* With a step done there is something in the place of what the log's file held. */
static gboolean
release_log (Job *job, GError **error)
{
  if (!job->held_log)
    return TRUE;
  g_autofree char *lines = g_string_free (g_steal_pointer (&job->held_log), FALSE);
  if (ftruncate (fileno (job->log), 0) == 0)
    return write_lines (job, lines, error);
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be begun anew: %s", job->run->log,
               g_strerror (errno));
  return FALSE;
}

static JsonBuilder *
begin_log (const char *event, guint64 step)
{
  JsonBuilder *builder = json_builder_new ();

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "event");
  json_builder_add_string_value (builder, event);
  nf_json_add_int (builder, "step", step);
  return builder;
}

static gboolean
make_model (Job *job, GError **error)
{
  NfTrainRun *run = job->run;

  g_clear_object (&job->trainer);
  g_clear_object (&job->model);
  /* a run that goes on has all of it in its checkpoint, so what it began from may be gone */
  job->model
      = run->init && *run->init && !job->places->resume
            ? nf_model_load_unshared (run->init, job->device, nf_progress_model, job->progress, NULL, error)
            : nf_model_new (&run->config, job->device, run->train.seed, error);
  if (!job->model)
    return FALSE;
  job->trainer = nf_trainer_new (job->model, &run->train, error);
  return job->trainer != NULL;
}

/* Mean loss over the validation tiles; each file's share goes to the log. A file whose loss is not finite
 * (nothing like what was trained on) is told of and left out: one such file must not hide how the others
 * fare. */
static gboolean
validate (Job *job, GError **error)
{
  const NfConfig *config = &job->run->config;
  const gsize frames = nf_config_frames (config), sample = frames * nf_config_tile_bytes (config);
  const gsize text = (gsize)config->txt_size * config->txt_dim * sizeof (float);
  /* whatever a step's batch is: each tile has noise by its number in such a group */
  const guint at_once = (guint)CLAMP (VALIDATION_BYTES / (sample + text), 1, MAX_VALIDATION);
  guint64 step = nf_trainer_get_step (job->trainer);
  g_autoptr (JsonBuilder) builder = begin_log ("validation", step);
  double total = 0;
  guint n_finite = 0;

  json_builder_set_member_name (builder, "files");
  json_builder_begin_array (builder);
  for (guint i = 0; i < job->data.validation->len; i++)
    {
      const NfClipsValidation *set = job->data.validation->pdata[i];
      double sum = 0;

      for (guint t = 0; t < set->n_tiles; t += at_once)
        {
          NfTrainBatch batch = {
            .B = MIN (at_once, set->n_tiles - t),
            .tiles = set->tiles + t * sample,
            .labels = set->labels ? set->labels + t : NULL,
            .actions = set->actions ? set->actions + t * frames * config->action_dim : NULL,
          };
          double loss;

          if ((job->data.captions
               && !nf_captions_tell (job->data.captions, &batch, job->run->train.seed, t, error))
              || !nf_trainer_evaluate (job->trainer, &batch, TRUE, &loss, error))
            return FALSE;
          sum += batch.B * loss;
        }
      if (isfinite (sum))
        {
          total += sum;
          n_finite += set->n_tiles;
        }
      else
        nf_progress_note (job->progress,
                          "step %" G_GUINT64_FORMAT ": the loss of %s is not finite; it is left out", step,
                          set->name);
      g_autofree char *name = g_filename_display_name (set->name);
      json_builder_begin_object (builder);
      json_builder_set_member_name (builder, "name");
      json_builder_add_string_value (builder, name);
      json_builder_set_member_name (builder, "unseen");
      json_builder_add_boolean_value (builder, set->unseen);
      nf_json_add_double (builder, "loss", sum / set->n_tiles);
      nf_json_add_double (builder, "bits_per_dim",
                          is_uniform (job) ? nf_loss_to_bits_per_dim (sum / set->n_tiles) : NAN);
      json_builder_end_object (builder);
    }
  json_builder_end_array (builder);
  job->validation_loss = n_finite ? total / n_finite : NAN;
  job->n_finite = n_finite;
  nf_json_add_double (builder, "loss", job->validation_loss);
  nf_json_add_double (builder, "bits_per_dim",
                      is_uniform (job) ? nf_loss_to_bits_per_dim (job->validation_loss) : NAN);
  nf_json_add_double (builder, "seconds", job_seconds (job));
  return write_log (job, builder, error);
}

static guint64
default_validate_every (guint64 steps)
{
  return CLAMP (steps / 50, 25, 2000);
}

/* How many steps, and the validations among them, take SECONDS. */
static double
steps_in (const NfTrainRun *run, double seconds, double per_step, double per_validation)
{
  double steps = seconds / MAX (per_step, 1e-6);

  /* how often is validated depends on the steps; from above, this comes down to where both fit */
  for (guint i = 0; i < 50; i++)
    {
      const guint64 every
          = run->validate_every ? run->validate_every : default_validate_every ((guint64)MIN (steps, 1e12));

      steps = seconds / MAX (per_step + per_validation / (double)every, 1e-6);
    }
  return CLAMP (steps, 1, 1e12);
}

/* Fixes the number of steps once, from the speed of the first few, so that the schedule depends on nothing
 * but a number that is recorded. */
static gboolean
measure_steps (Job *job, double minutes, GError **error)
{
  NfTrainRun *run = job->run;
  gint64 start = 0;
  double per_step, per_validation = 0;

  if (!make_model (job, error))
    return FALSE;
  /* The first steps build kernels, decode the first frames and warm up; only the rest is measured. */
  for (guint64 i = 0; i < MEASURED_STEPS && !interrupted (job); i++)
    {
      NfTrainBatch batch;
      NfTrainReport report;

      if (i == MEASURED_STEPS / 4)
        start = g_get_monotonic_time ();
      if (!nf_train_data_batch (&job->data, i, &batch, error)
          || !nf_trainer_step (job->trainer, &batch, &report, error))
        return FALSE;
      nf_progress_update (job->progress, "measuring the speed, step %u of %d", (guint)i + 1, MEASURED_STEPS);
    }
  per_step
      = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC / (MEASURED_STEPS - MEASURED_STEPS / 4);
  if (job->data.n_tiles && !interrupted (job))
    {
      start = g_get_monotonic_time ();
      if (!validate (job, error))
        return FALSE;
      per_validation = (double)(g_get_monotonic_time () - start) / G_USEC_PER_SEC;
      job->validation_loss = NAN;
    }
  /* A fiftieth for checkpoints and samples. */
  run->train.steps = (guint64)steps_in (run, 0.98 * minutes * 60, per_step, per_validation);
  nf_progress_note (job->progress,
                    "%.4f s a step, %.4f s a validation: --minutes %g is --steps %" G_GUINT64_FORMAT,
                    per_step, per_validation, minutes, run->train.steps);
  return TRUE;
}

static gboolean
save_model (Job *job, const char *path, GError **error)
{
  const NfTrainRun *run = job->run;
  g_autoptr (GHashTable) metadata = g_hash_table_new_full (g_str_hash, g_str_equal, NULL, g_free);
  g_autoptr (JsonBuilder) builder = json_builder_new ();
  guint64 step = nf_trainer_get_step (job->trainer);

  json_builder_begin_object (builder);
  json_builder_set_member_name (builder, "command");
  json_builder_add_string_value (builder, run->command);
  nf_json_add_int (builder, "seed", run->train.seed);
  nf_json_add_int (builder, "step", step);
  nf_json_add_int (builder, "steps", run->train.steps);
  nf_json_add_int (builder, "tiles", step * run->batch);
  if (job->data.n_tiles)
    {
      nf_json_add_double (builder, "validation_loss", job->validation_loss);
      if (is_uniform (job))
        nf_json_add_double (builder, "validation_bits_per_dim",
                            nf_loss_to_bits_per_dim (job->validation_loss));
    }
  json_builder_set_member_name (builder, "files");
  json_builder_begin_array (builder);
  for (guint i = 0; i < MIN (nf_train_data_count (&job->data), 64); i++)
    {
      g_autofree char *name = g_filename_display_basename (nf_train_data_get_path (&job->data, i));

      json_builder_add_string_value (builder, name);
    }
  json_builder_end_array (builder);
  nf_json_add_int (builder, "n_files", nf_train_data_count (&job->data));
  if (run->world && *run->world)
    {
      json_builder_set_member_name (builder, "world");
      json_builder_add_string_value (builder, run->world);
    }
  json_builder_end_object (builder);
  g_hash_table_insert (metadata, (char *)"training", nf_json_text (builder, FALSE));

  if (run->classes)
    g_hash_table_insert (metadata, (char *)"classes", g_strjoinv ("\n", run->classes));
  return nf_trainer_save_model (job->trainer, path, metadata, error);
}

static gboolean
save_output (Job *job, GError **error)
{
  if (!save_model (job, job->places->output, error))
    return FALSE;
  job->run->other_output = FALSE;
  return TRUE;
}

/* Means over different files do not compare: a model that has something finite to say of more of them is
 * better. */
static gboolean
is_best (const Job *job)
{
  const guint64 before = MIN (job->run->best_tiles, job->data.n_tiles);

  if (!isfinite (job->validation_loss))
    return FALSE;
  if (!isfinite (job->run->best) || job->n_finite == before)
    return job->validation_loss < job->run->best;
  return job->n_finite > before;
}

/* Validates; the best model so far becomes the output. Without validation, the latest does. */
static gboolean
judge (Job *job, GError **error)
{
  if (!job->data.n_tiles)
    return save_output (job, error);
  if (!validate (job, error))
    return FALSE;
  if (is_best (job))
    {
      job->run->best = job->validation_loss;
      job->run->best_tiles = job->n_finite;
      job->run->best_step = nf_trainer_get_step (job->trainer);
      return save_output (job, error);
    }
  return TRUE;
}

/* Where a run was stopped, at no step of its own for judge(). The whole run would not have validated here, so
 * this is nothing to be better than; but with no model yet there is one to look at. That of another run is
 * not lost to a few steps that were meant to be more. */
static gboolean
judge_stopped (Job *job, GError **error)
{
  if ((job->data.n_tiles && isfinite (job->run->best)) || (job->run->other_output && interrupted (job)))
    return TRUE;
  if (job->data.n_tiles && !validate (job, error))
    return FALSE;
  return (job->data.n_tiles && !isfinite (job->validation_loss)) || save_output (job, error);
}

static gboolean
save_checkpoint (Job *job, GError **error)
{
  job->run->seconds = job_seconds (job);
  return nf_trainer_save (job->trainer, job->places->checkpoint, error)
         && nf_train_save_settings (job->run, job->places->checkpoint, error);
}

/* A sheet of samples from the prior. */
static gboolean
draw_samples (NfModel *model, gpointer data, GError **error)
{
  Job *job = data;
  const NfConfig *config = &job->run->config;
  const NfDecodeOptions options = { .drawn = TRUE };
  const guint columns = nf_config_columns (config), rows = nf_config_rows (config),
              width = columns * CLAMP (4096 / columns, 1, SHEET_TILES),
              height = rows * CLAMP (4096 / rows, 1, SHEET_TILES);
  guint64 step = nf_trainer_get_step (job->trainer);
  g_autofree char *name = g_strdup_printf ("step-%08" G_GUINT64_FORMAT ".png", step);
  g_autofree char *path = g_build_filename (job->run->samples, name, NULL);
  g_autoptr (NfSession) session = NULL;
  g_autoptr (NfPicture) sheet = NULL;
  g_autofree float *latents = NULL;
  NfGrid grid;
  gsize n;

  if (!nf_grid_init (&grid, config, width, height, error))
    return FALSE;
  session = nf_session_new (model, error);
  if (!session)
    return FALSE;
  /* as samples that are told nothing are trained */
  const float *nothing = job->data.captions ? nf_captions_get_nothing (job->data.captions) : NULL;
  if (nothing && !nf_session_set_text (session, nothing, NULL, 1, error))
    return FALSE;
  n = nf_grid_latents (&grid);
  latents = g_new (float, n);
  nf_random_normal (job->run->train.seed, 0, n, 1.0, latents);
  sheet = nf_picture_new (config->layout, width, height);
  return nf_session_decode_frame (session, latents, -1, &options, &sheet->frame, error)
         && nf_media_write_png (path, config->layout, &sheet->frame, error);
}

static gboolean
log_step (Job *job, const NfTrainReport *report, GError **error)
{
  g_autoptr (JsonBuilder) builder = begin_log (report->skipped ? "skipped" : "step", report->step);

  nf_json_add_double (builder, "loss", report->loss);
  nf_json_add_double (builder, "bits_per_dim", report->bits_per_dim);
  if (job->run->config.denoiser_layers)
    nf_json_add_double (builder, "denoiser_loss", report->denoiser_loss);
  nf_json_add_double (builder, "grad_norm", report->grad_norm);
  nf_json_add_double (builder, "lr", report->lr);
  nf_json_add_int (builder, "tiles", report->step * job->run->batch);
  nf_json_add_double (builder, "seconds", job_seconds (job));
  return write_log (job, builder, error);
}

static void
show_step (Job *job, const NfTrainReport *report, double smooth, double rate)
{
  guint64 steps = job->run->train.steps;
  g_autofree char *left = nf_progress_duration (rate > 0 ? (double)(steps - report->step) / rate : NAN);
  g_autofree char *held = job->data.n_tiles && isfinite (job->validation_loss)
                              ? g_strdup_printf (" (held out %.4f)", shown (job, job->validation_loss))
                              : g_strdup ("");

  /* What matters most stands first: narrow terminals cut the rest off. */
  nf_progress_update (job->progress,
                      "step %" G_GUINT64_FORMAT "/%" G_GUINT64_FORMAT
                      "  %.4f %s%s  %s left  %.2f steps/s  %.0f tiles/s  |g| %.3g  lr %.2e",
                      report->step, steps, smooth, unit (job), held, left, rate, rate * job->run->batch,
                      report->grad_norm, report->lr);
}

static gboolean
train (Job *job, GError **error)
{
  NfTrainRun *run = job->run;
  const NfTrainPlaces *places = job->places;
  const guint64 last = places->stop_after ? MIN (places->stop_after, run->train.steps) : run->train.steps;
  guint64 first = job->first, judged = G_MAXUINT64, saved = first;
  gint64 last_save = g_get_monotonic_time (), last_step = last_save;
  double smooth = NAN, seconds_per_step = NAN;
  NfTrainReport report = { .step = first };
  guint skipped_in_a_row = 0;

  while (report.step < last && !interrupted (job))
    {
      NfTrainBatch batch;
      gint64 now;

      if (!nf_train_data_batch (&job->data, nf_trainer_get_step (job->trainer), &batch, error)
          || !nf_trainer_step (job->trainer, &batch, &report, error))
        return FALSE;
      if (!release_log (job, error))
        return FALSE;
      now = g_get_monotonic_time ();
      /* The first step also waits for kernels and frames. */
      if (report.step > first + 1)
        {
          double seconds = (double)(now - last_step) / G_USEC_PER_SEC;

          seconds_per_step = isnan (seconds_per_step) ? seconds : 0.95 * seconds_per_step + 0.05 * seconds;
        }
      if (report.skipped)
        {
          run->skipped++;
          if (++skipped_in_a_row >= MAX_SKIPPED)
            {
              g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                           "%d steps in a row had no usable gradient: the run has diverged; use a lower --lr "
                           "or a longer --warmup",
                           MAX_SKIPPED);
              return FALSE;
            }
          /* A long row of them is told now and then. */
          if (skipped_in_a_row <= 3 || skipped_in_a_row % 25 == 0)
            nf_progress_note (job->progress,
                              "step %" G_GUINT64_FORMAT
                              " skipped: loss %g, gradient norm %g (%" G_GUINT64_FORMAT " skipped so far)",
                              report.step, report.loss, report.grad_norm, run->skipped);
        }
      else
        {
          double value = shown (job, report.nll);

          skipped_in_a_row = 0;
          smooth = isnan (smooth) ? value : 0.95 * smooth + 0.05 * value;
        }
      if (isfinite (seconds_per_step))
        show_step (job, &report, smooth, 1 / seconds_per_step);
      if ((report.skipped || report.step % run->log_every == 0) && !log_step (job, &report, error))
        return FALSE;
      if (run->validate_every && report.step % run->validate_every == 0)
        {
          if (!judge (job, error))
            return FALSE;
          judged = report.step;
        }
      if (run->samples && run->sample_every && report.step % run->sample_every == 0)
        {
          g_autoptr (GError) local = NULL;

          /* A picture that cannot be written is no reason to lose a run. */
          if (!nf_trainer_use_model (job->trainer, draw_samples, job, &local))
            nf_progress_note (job->progress, "normflow %s: %s", job->command->name, local->message);
        }
      now = g_get_monotonic_time ();
      if ((double)(now - last_save) / G_USEC_PER_SEC >= places->save_every)
        {
          if (!save_checkpoint (job, error))
            return FALSE;
          last_save = g_get_monotonic_time ();
          saved = report.step;
        }
      last_step = g_get_monotonic_time ();
    }
  /* with nothing done, what there was stays as it is */
  if (report.step == first && !nf_command_go_on (job->command, error))
    return FALSE;
  if (judged != report.step
      && !(report.step < run->train.steps ? judge_stopped (job, error) : judge (job, error)))
    return FALSE;
  if (saved != report.step || report.step == first)
    return save_checkpoint (job, error);
  return TRUE;
}

static void
tell_left_out (Job *job)
{
  const NfMediaLeftOut *left_out = nf_train_data_get_left_out (&job->data);
  const guint n = left_out->files ? left_out->files->len : 0, named = MIN (n, NAMED_LEFT_OUT);
  g_autoptr (GString) text = g_string_new (NULL);

  if (!n)
    return;
  for (guint i = 0; i < named; i++)
    g_string_append_printf (text, "%s%s", i ? "; " : "",
                            ((const NfMediaLeftFile *)left_out->files->pdata[i])->reason);
  if (n > named)
    g_string_append_printf (text, "; and %u more", n - named);
  nf_progress_note (job->progress, "normflow %s: note: left out, %u of %u files: %s", job->command->name, n,
                    left_out->n, text->str);
}

static void
describe (Job *job)
{
  const NfConfig *config = &job->run->config;
  g_autofree char *text = nf_config_to_json (config);

  nf_progress_note (job->progress, "model: %" G_GUINT64_FORMAT " parameters, %.3f GFLOP a tile, %s",
                    nf_model_count_parameters (job->model), nf_model_get_flops (job->model) * 1e-9, text);
  if (job->data.reels && !nf_reels_count (job->data.reels))
    nf_progress_note (job->progress, "data: the world %s, %u samples held out", job->run->world,
                      job->data.n_tiles);
  else
    nf_progress_note (
        job->progress, "data: %u files, %" G_GUINT64_FORMAT " frames to train on, %u %s held out",
        nf_train_data_count (&job->data),
        job->data.reels ? nf_reels_get_frames (job->data.reels) : nf_clips_get_frames (job->data.clips),
        job->data.n_tiles, job->data.reels ? "samples" : "tiles");
  nf_progress_note (job->progress, "device: %s; %" G_GUINT64_FORMAT " steps of %u tiles",
                    nf_device_get_info (job->device)->name, job->run->train.steps, job->run->batch);
}

static gint64
step_of (JsonObject *line)
{
  JsonNode *node = json_object_get_member (line, "step");
  return node && JSON_NODE_HOLDS_VALUE (node) ? json_node_get_int (node) : 0;
}

/* Lines of steps after STEP are those of a run that was killed before it saved them: they come again. */
static gboolean
cut_log (const char *path, guint64 step, GError **error)
{
  g_autofree char *text = NULL;
  g_autoptr (GError) local = NULL;
  g_autoptr (GString) kept = NULL;
  gsize length;

  if (!g_file_test (path, G_FILE_TEST_IS_REGULAR) || !g_file_get_contents (path, &text, &length, NULL))
    return TRUE;
  kept = g_string_sized_new (length + 1);
  /* a disk that was full may have left zeros in it */
  for (const char *at = text, *stop; at < text + length; at = stop + 1)
    {
      const char *end = memchr (at, '\n', (gsize)(text + length - at));
      stop = end ? end : text + length;
      g_autofree char *copy = g_strndup (at, (gsize)(stop - at));
      g_autoptr (JsonObject) line = nf_json_members (copy);

      /* nor is the line kept that it was writing */
      if ((!line && !end) || (line && step_of (line) > (gint64)step))
        continue;
      g_string_append_len (kept, at, stop - at);
      g_string_append_c (kept, '\n');
    }
  if (kept->len == length || g_file_set_contents (path, kept->str, (gssize)kept->len, &local))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s; --log names another",
               path, local->message);
  return FALSE;
}

static gboolean
open_log (Job *job, GError **error)
{
  g_autoptr (JsonBuilder) builder = NULL;
  struct stat file;

  if (!job->run->log || !*job->run->log)
    return TRUE;
  if (job->places->resume && !job->places->other_log
      && !cut_log (job->run->log, nf_trainer_get_step (job->trainer), error))
    return FALSE;
  job->log = g_fopen (job->run->log, "a");
  if (!job->log)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the log cannot be written: %s; --log names another",
                   job->run->log, g_strerror (errno));
      return FALSE;
    }
  if (!job->places->resume && fstat (fileno (job->log), &file) == 0 && S_ISREG (file.st_mode)
      && file.st_size > 0)
    job->held_log = g_string_new (NULL);
  builder = begin_log (job->places->resume ? "resume" : "start", nf_trainer_get_step (job->trainer));
  json_builder_set_member_name (builder, "command");
  json_builder_add_string_value (builder, job->run->command);
  nf_json_add_int (builder, "steps", job->run->train.steps);
  nf_json_add_int (builder, "batch", job->run->batch);
  nf_json_add_int (builder, "parameters", nf_model_count_parameters (job->model));
  json_builder_set_member_name (builder, "device");
  json_builder_add_string_value (builder, nf_device_get_info (job->device)->name);
  return write_log (job, builder, error);
}

/* A run goes on in the precision that it began in, whatever the environment says by now, and by what
 * multiplied where that is at hand. */
static gboolean
open_device (Job *job, GError **error)
{
  NfTrainRun *run = job->run;
  if (run->precision)
    nf_command_require (job->command, "precision", run->precision);
  /* a run that begins, of floats: training has many rows, and nothing is decoded as it was encoded */
  nf_command_prefer (job->command, run->precision ? run->precision : "f32",
                     run->arithmetic ? run->arithmetic : "auto");
  job->device = nf_command_open_device (job->command, error);
  if (!job->device)
    return FALSE;
  const char *precision = nf_device_get_precision (job->device);
  if (run->precision && strcmp (run->precision, precision) != 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "--resume goes on in the precision of the run, %s, not in %s: leave it out, or start "
                   "another run from the model with --init",
                   run->precision, precision);
      return FALSE;
    }
  if (!run->precision)
    run->precision = g_strdup (precision);
  /* it may go on where there is no such thing */
  const char *arithmetic = nf_device_get_arithmetic (job->device);
  if (run->arithmetic && strcmp (run->arithmetic, arithmetic) != 0)
    nf_progress_note (
        job->progress,
        "products were made by %s so far and are by %s from here on: the run is not bit for bit "
        "what it would have been",
        run->arithmetic, arithmetic);
  g_free (run->arithmetic);
  run->arithmetic = g_strdup (arithmetic);
  return TRUE;
}

gboolean
nf_train_job (NfCommand *command, NfTrainRun *run, const NfTrainPlaces *places, GError **error)
{
  g_auto (Job) job = { .command = command,
                       .progress = command->progress,
                       .run = run,
                       .places = places,
                       .data = { .run = run, .places = places, .command = command },
                       .validation_loss = NAN,
                       .before = run->seconds };
  g_autofree char *duration = NULL;
  gboolean trained, whole;

  job.started = g_get_monotonic_time ();
  if (!open_device (&job, error))
    return FALSE;
  /* With given weights, their configuration is the one. */
  if (run->init && *run->init && !places->resume)
    {
      job.model
          = nf_model_load_unshared (run->init, job.device, nf_progress_model, job.progress, NULL, error);
      if (!job.model)
        return FALSE;
      run->config = *nf_model_get_config (job.model);
      const char *classes = nf_model_get_metadata (job.model, "classes");
      /* a class is one thing before and after */
      if (classes)
        run->classes = g_strsplit (classes, "\n", -1);
    }

  if (!nf_train_data_open (&job.data, error))
    return FALSE;
  tell_left_out (&job);

  if (places->minutes > 0 && !places->resume && !measure_steps (&job, places->minutes, error))
    return FALSE;
  if (run->train.warmup == G_MAXUINT64)
    run->train.warmup = CLAMP (run->train.steps / 50, 1, 2000);
  if (!run->validate_every)
    run->validate_every = default_validate_every (run->train.steps);
  if (!make_model (&job, error))
    return FALSE;
  if (places->resume && !nf_trainer_restore (job.trainer, places->checkpoint, error))
    return FALSE;
  describe (&job);
  if (places->resume)
    nf_progress_note (job.progress, "resuming after step %" G_GUINT64_FORMAT,
                      nf_trainer_get_step (job.trainer));
  if (places->resume && isfinite (run->best) && !g_file_test (places->output, G_FILE_TEST_EXISTS))
    {
      nf_progress_note (job.progress,
                        "%s is not there: it will be the best model from here on, not that of step "
                        "%" G_GUINT64_FORMAT,
                        places->output, run->best_step);
      run->best = INFINITY;
      run->best_tiles = run->best_step = 0;
    }
  if (!open_log (&job, error))
    return FALSE;

  job.first = nf_trainer_get_step (job.trainer);
  run->other_output
      = (run->other_output || !places->resume) && g_file_test (places->output, G_FILE_TEST_EXISTS);
  trained = train (&job, error);
  if (!trained && nf_trainer_get_step (job.trainer) > job.first)
    {
      g_autoptr (GError) local = NULL;

      /* Whatever stopped it, what was learnt is kept. */
      if (save_checkpoint (&job, &local))
        nf_progress_note (job.progress, "checkpoint saved: %s", places->checkpoint);
      else
        nf_progress_note (job.progress, "no checkpoint was saved: %s", local->message);
    }
  if (!trained)
    return FALSE;

  if (job.data.n_tiles && !isfinite (run->best) && !isfinite (job.validation_loss)
      && !(run->other_output && interrupted (&job)))
    {
      g_set_error_literal (error, NF_ERROR, NF_ERROR_DATA,
                           "no finite loss on the held-out tiles, so no model was written: the run has "
                           "diverged; use a lower --lr "
                           "or a longer --warmup");
      return FALSE;
    }
  duration = nf_progress_duration (job_seconds (&job));
  whole = nf_trainer_get_step (job.trainer) >= run->train.steps;
  nf_progress_note (job.progress, "%s after step %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " and %s%s",
                    whole ? "done" : "stopped", nf_trainer_get_step (job.trainer), run->train.steps, duration,
                    whole ? job.first < run->train.steps ? "" : "; --resume --steps N goes on to step N"
                          : "; --resume goes on");
  if (job.data.n_tiles && isfinite (run->best))
    nf_progress_note (job.progress, "best held-out %s: %.4f at step %" G_GUINT64_FORMAT, unit (&job),
                      shown (&job, run->best), run->best_step);
  if (run->skipped)
    nf_progress_note (job.progress, "steps skipped: %" G_GUINT64_FORMAT, run->skipped);
  if (job.data.clips && nf_clips_get_damaged (job.data.clips))
    {
      g_autofree char *damage = nf_clips_describe_damage (job.data.clips);

      nf_progress_note (job.progress, "frames that could not be decoded and were replaced: %s", damage);
    }
  if (run->other_output)
    nf_progress_note (job.progress, "%s is still the model that was there before", places->output);
  else if (g_file_test (places->output, G_FILE_TEST_EXISTS))
    nf_progress_note (job.progress, "model: %s", places->output);
  return TRUE;
}
