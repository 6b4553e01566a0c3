/* normflow: 8-bit frames through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-score-private.h"
#include "nf-session-private.h"

#include <string.h>

static gboolean
refuse_memory (const NfGrid *grid, GError **error)
{
  g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for a frame of %ux%u tiles", grid->tiles_x,
               grid->tiles_y);
  return FALSE;
}

/* In place of what *ROOM was. */
static gboolean
make_room (float **room, gsize n)
{
  g_free (*room);
  *room = g_try_new (float, n);
  return *room != NULL;
}

/* Reserves what a frame of this size needs, and says how it lies on the tiles and in device memory. */
static gboolean
prepare_frame (NfSession *self, const NfFrame *frame, NfGrid *grid, NfPlanes *planes, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  if (config->frames || config->layout == NF_PIXELS_LATENT)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          config->frames
              ? "a model of videos takes frames as a stream (flowencode) or as tokens (nf_session_encode())"
              : "the model is one of another model's latents (pixel_layout latent), not of pictures");
      return FALSE;
    }
  if (!nf_session_check_condition (self, NULL, 1, error)
      || !nf_grid_init (grid, config, frame->width, frame->height, error))
    return FALSE;

  guint rows, columns;
  nf_flow_get_size (self->flow, &rows, &columns);
  if (rows != nf_config_rows (config) || columns != nf_config_columns (config))
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          "pictures are taken in tiles of the model's own size, %ux%u, and the session's samples are "
          "of %ux%u (nf_session_set_size())",
          nf_config_columns (config), nf_config_rows (config), columns, rows);
      return FALSE;
    }

  NfOps *ops = nf_flow_get_ops (self->flow);
  const gsize staged = self->staging.size;
  if (!nf_staging_prepare (&self->staging, ops, config->layout, rows, frame, planes, error))
    return FALSE;
  /* other memory shows nothing */
  self->shown.valid = self->shown.valid && self->staging.size == staged;
  nf_flow_set_on_lattice (self->flow, nf_model_get_tokens (self->model));
  planes->tiles_x = grid->tiles_x;

  const gsize latents = nf_grid_latents (grid), tokens = (gsize)grid->grid_width * grid->grid_height;
  if (latents != self->grid_size || !self->grid)
    {
      g_clear_pointer (&self->grid, nf_buffer_free);
      self->shown.valid = FALSE;
      if (!make_room (&self->shown.latents, latents))
        return refuse_memory (grid, error);
      self->grid_size = latents;
      self->grid = nf_ops_alloc (ops, latents);
    }
  if (tokens != self->n_tokens)
    {
      self->n_tokens = 0;
      if (!make_room (&self->half_square, tokens) || !make_room (&self->log_det, tokens)
          || !make_room (&self->misses, 2 * tokens))
        return refuse_memory (grid, error);
      self->n_tokens = tokens;
    }
  return self->grid || nf_ops_finish (ops, error);
}

double
nf_stats_lap (gint64 *last)
{
  const gint64 now = g_get_monotonic_time ();
  const double seconds = (double)(now - *last) / G_USEC_PER_SEC;
  *last = now;
  return seconds;
}

void
nf_stats_count_frame (NfSessionStats *stats, double upload, double kernels, double download)
{
  stats->frames++;
  stats->upload_seconds += upload;
  stats->kernel_seconds += kernels;
  stats->download_seconds += download;
  stats->last_frame_seconds = upload + kernels + download;
}

/* Bits per dimension of each token, from tile by tile to the grid. */
static void
fill_score_map (NfSession *self, const NfGrid *grid, float *map)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint columns = nf_config_columns (config) / config->patch_size,
              rows = nf_config_rows (config) / config->patch_size, N = rows * columns;

  for (gsize i = 0; i < self->n_tokens; i++)
    {
      const gsize tile = i / N, n = i % N;
      const gsize row = tile / grid->tiles_x * rows + n / columns,
                  column = tile % grid->tiles_x * columns + n % columns;
      map[row * grid->grid_width + column] = nf_score_token (config, self->half_square[i], self->log_det[i]);
    }
}

/* The staged frame into the grid, and what is scored of its tokens onto the host. */
static gboolean
encode_tiles (NfSession *self, const NfGrid *grid, const NfPlanes *planes, guint batch, GError **error)
{
  const NfTokens *tokens = nf_model_get_tokens (self->model);
  const gsize N = nf_flow_get_shape (self->flow)->N;
  const NfDequantise mode = tokens->steps ? NF_DEQUANTISE_LATTICE : NF_DEQUANTISE_NONE;
  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint tiles = grid->tiles_x * grid->tiles_y;
  nf_missed_list_begin (&self->missed, ops, 0);
  nf_session_condition (self, NULL, 0, batch, 1);
  for (guint first = 0; first < tiles; first += batch)
    {
      const guint count = MIN (batch, tiles - first);
      if (!nf_session_next_batch (self, error))
        return FALSE;
      nf_ops_pixels_to_tokens (ops, planes, tokens, first, count, mode, 0.0f, 0, 0, NULL,
                               nf_view (nf_flow_get_input (self->flow), 0));
      nf_flow_list_missed (self->flow, &self->missed, first);
      nf_flow_forward (self->flow, count, NULL);
      nf_flow_list_missed (self->flow, NULL, 0);
      nf_flow_standardise (self->flow, count);
      nf_ops_read_later (ops, nf_view (nf_flow_get_half_square (self->flow), 0),
                         self->half_square + first * N, count * N * sizeof (float));
      nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), self->log_det + first * N,
                         count * N * sizeof (float));
      nf_ops_read_later (ops, nf_view (nf_flow_get_misses (self->flow), 0), self->misses + 2 * first * N,
                         2 * count * N * sizeof (float));
      nf_ops_grid (ops, nf_view (nf_flow_get_output (self->flow), 0), self->grid, first, count, grid->tiles_x,
                   tokens, TRUE);
    }
  return nf_ops_finish (ops, error);
}

gboolean
nf_session_encode_frame (NfSession *self, const NfFrame *frame, float *latents, NfScore *score,
                         float *score_map, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && frame && latents, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize N = nf_flow_get_shape (self->flow)->N;
  NfGrid grid;
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error);
  if (batch == 0 || !prepare_frame (self, frame, &grid, &planes, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  self->shown.valid = FALSE;
  nf_staging_upload (&self->staging, ops, config->layout, frame);
  const double upload = nf_stats_lap (&time);
  /* once more where the list of what will be missed had no room for it */
  for (gboolean whole = FALSE; !whole;)
    {
      if (!encode_tiles (self, &grid, &planes, batch, error))
        return FALSE;
      whole = !nf_missed_any (self->misses, self->n_tokens);
      if (!whole && !nf_missed_list_read (&self->missed, ops, &whole, error))
        return FALSE;
    }
  for (gsize i = 0; i < self->n_tokens; i++)
    self->log_det[i] -= nf_model_get_log_deviations (self->model)[i % N];
  const double kernels = nf_stats_lap (&time);
  if (!nf_ops_read (ops, nf_view (self->grid, 0), latents, self->grid_size * sizeof *latents, error)
      || !nf_session_check_computed (self->model, "latents of the frame", latents, self->grid_size, error))
    return FALSE;
  if (score)
    nf_score_fill (self->model, self->half_square, self->log_det, self->misses, self->n_tokens,
                   self->staging.size, score);
  if (score_map)
    fill_score_map (self, &grid, score_map);
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

void
nf_session_get_corrections (NfSession *self, NfCorrections *corrections)
{
  g_return_if_fail (NF_IS_SESSION (self) && corrections);
  *corrections = nf_missed_list_get (&self->missed);
}

/* A tile that is to be decoded. */
typedef struct
{
  guint frame, tile;
} Work;

/* A frame's latents, and what is known of it besides. */
typedef struct
{
  const float *latents; /* NULL: there is no such frame */
  NfCorrections corrections;
} Coded;

/* Tiles that are other than those of BEFORE; ascending, to WORK. */
static guint
find_new_tiles (const NfConfig *config, const NfGrid *grid, const Coded *coded, const Coded *before,
                guint frame, Work *work)
{
  const float *latents = coded->latents;
  const gsize rows = nf_config_rows (config) / config->patch_size,
              part = (gsize)nf_config_columns (config) / config->patch_size * grid->features,
              row = part * grid->tiles_x;
  guint count = 0;

  for (guint tile = 0; tile < grid->tiles_x * grid->tiles_y; tile++)
    {
      const gsize at = tile / grid->tiles_x * rows * row + tile % grid->tiles_x * part;
      const NfCorrections now = nf_corrections_of_sample (&coded->corrections, tile),
                          then = nf_corrections_of_sample (&before->corrections, tile);
      gboolean same = before->latents && nf_corrections_equal (&now, &then);
      for (gsize y = 0; y < rows && same; y++)
        same = memcmp (latents + at + y * row, before->latents + at + y * row, part * sizeof *latents) == 0;
      if (!same)
        work[count++] = (Work){ frame, tile };
    }
  return count;
}

static gboolean
blocks_alike (const NfDecodeOptions *a, const NfDecodeOptions *b)
{
  gboolean alike = a->n_blocks == b->n_blocks;
  for (guint t = 0; t < a->n_blocks && alike; t++)
    alike = a->blocks[t].window == b->blocks[t].window && a->blocks[t].guess == b->blocks[t].guess
            && a->blocks[t].tolerance == b->blocks[t].tolerance;
  return alike;
}

/* Whether tiles of the same latents come out the same. What was cut short is not remembered: limits of time
 * and sweeps do not matter. */
static gboolean
decode_alike (const NfDecodeOptions *a, const NfDecodeOptions *b)
{
  return a->guidance == b->guidance && a->guide == b->guide && a->annealed == b->annealed
         && a->attention_temperature == b->attention_temperature && a->snap == b->snap
         && a->method == b->method && a->window == b->window && a->guess == b->guess
         && a->tolerance == b->tolerance && blocks_alike (a, b) && a->drawn == b->drawn
         && a->denoise == b->denoise;
}

/* Frames on their way: one's latents are on the device, and one's samples are staged. */
typedef struct
{
  NfSession *session;
  const Coded *coded;
  const NfFrame *frames;
  guint n_frames;
  const NfGrid *grid;
  const NfPlanes *planes;
  gboolean drafts; /* the latents may be decoded by nf_flow_inverse_picture() */
  guint written, staged;
  double downloads; /* seconds */
} Frames;

/* Frames before this one are complete. */
static gboolean
reach_frame (Frames *self, guint frame, GError **error)
{
  NfOps *ops = nf_flow_get_ops (self->session->flow);
  gint64 time;

  if (self->staged < frame && !nf_ops_finish (ops, error))
    return FALSE;
  for (time = g_get_monotonic_time (); self->staged < frame; self->staged++)
    if (!nf_staging_download (&self->session->staging, ops, self->session->model, &self->frames[self->staged],
                              error))
      {
        if (self->n_frames > 1)
          g_prefix_error (error, "frame %u of %u: ", self->staged, self->n_frames);
        return FALSE;
      }
  self->downloads += nf_stats_lap (&time);
  return TRUE;
}

/* How many of COUNT tiles follow on the first in its frame. */
static guint
count_run (const Work *work, guint count)
{
  guint n = 1;
  while (n < count && work[n].frame == work[0].frame && work[n].tile == work[0].tile + n)
    n++;
  return n;
}

/* What samples of 0 are at the places of COUNT tiles, for nf_flow_inverse_picture(). */
static void
fill_places (Frames *self, const Work *work, guint count)
{
  NfSession *session = self->session;
  const NfSampleShape *shape = nf_flow_get_shape (session->flow);
  NfTokens tokens = *nf_model_get_tokens (session->model);
  NfPlanes black = *self->planes;

  tokens.basis = NULL;
  black.bytes = session->black;
  for (guint i = 0; i < G_N_ELEMENTS (black.at); i++)
    {
      black.at[i] = 0;
      black.stride[i] = black.step[i] = 0;
    }
  for (guint i = 0, run; i < count; i += run)
    {
      run = count_run (work + i, count - i);
      nf_ops_pixels_to_tokens (nf_flow_get_ops (session->flow), &black, &tokens, work[i].tile, run,
                               NF_DEQUANTISE_LATTICE, 0.0f, 0, 0, NULL,
                               nf_view (nf_flow_get_places (session->flow), (gsize)i * shape->N * shape->D));
    }
}

/* The flow's input, latents of COUNT tiles, to its output. */
static gboolean
invert_tiles (Frames *self, const Work *work, guint count, const NfDecodeOptions *options,
              NfDecodeProgress *progress, GError **error)
{
  NfSession *session = self->session;
  if (!self->drafts || count > nf_flow_drafts (session->flow))
    return nf_flow_inverse (session->flow, count, options, 0, nf_session_tell_decode, progress,
                            &session->report, error);
  g_autofree guint *tiles = g_new (guint, count);
  for (guint i = 0; i < count; i++)
    tiles[i] = work[i].tile;
  fill_places (self, work, count);
  return nf_flow_inverse_picture (session->flow, count, tiles, options, nf_session_tell_decode, progress,
                                  &session->report, error);
}

/* Latents of COUNT tiles through the flow into the staged samples. */
static gboolean
decode_tiles (Frames *self, const Work *work, guint count, const gint *labels, const NfDecodeOptions *options,
              NfDecodeProgress *progress, GError **error)
{
  NfSession *session = self->session;
  const NfTokens *tokens = nf_model_get_tokens (session->model);
  const NfSampleShape *shape = nf_flow_get_shape (session->flow);
  const gsize n = (gsize)shape->N * shape->D;
  NfOps *ops = nf_flow_get_ops (session->flow);

  for (guint i = 0, run; i < count; i += run)
    {
      run = count_run (work + i, count - i);
      if (self->written != work[i].frame)
        {
          self->written = work[i].frame;
          nf_ops_write (ops, nf_view (session->grid, 0), self->coded[self->written].latents,
                        session->grid_size * sizeof (float));
        }
      nf_ops_grid (ops, nf_view (nf_flow_get_input (session->flow), i * n), session->grid, work[i].tile, run,
                   self->grid->tiles_x, tokens, FALSE);
    }
  g_autofree NfCorrections *corrections = g_new (NfCorrections, count);
  for (guint i = 0; i < count; i++)
    corrections[i] = nf_corrections_of_sample (&self->coded[work[i].frame].corrections, work[i].tile);
  nf_flow_correct (session->flow, corrections, count);
  const gboolean found = invert_tiles (self, work, count, options, progress, error);
  nf_flow_correct (session->flow, NULL, 0);
  if (!found || !nf_session_finish_drawn (session, options, labels, 0, count, error))
    return FALSE;
  for (guint i = 0, run; i < count; i += run)
    {
      run = count_run (work + i, count - i);
      if (!reach_frame (self, work[i].frame, error))
        return FALSE;
      nf_ops_tokens_to_pixels (ops, nf_view (nf_flow_get_output (session->flow), i * n), self->planes, tokens,
                               work[i].tile, run, NULL);
    }
  return TRUE;
}

/* The staged samples show this frame from now on. */
static void
remember (NfSession *self, const NfFrame *frame, const Coded *coded, gint label,
          const NfDecodeOptions *options)
{
  NfShown *shown = &self->shown;
  memcpy (shown->latents, coded->latents, self->grid_size * sizeof *coded->latents);
  g_array_set_size (shown->corrections, 0);
  g_array_append_vals (shown->corrections, coded->corrections.items, (guint)coded->corrections.n);
  shown->generation = nf_model_get_generation (self->model);
  shown->width = frame->width;
  shown->height = frame->height;
  shown->label = label;
  shown->options = *options;
  shown->options.corrections = NULL;
  /* what was cut short might come out otherwise another time */
  shown->valid = !(self->report.residual > 0);
}

guint
nf_session_get_frames_at_once (NfSession *self, guint width, guint height, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), 0);
  NfGrid grid;
  if (!nf_grid_init (&grid, nf_model_get_config (self->model), width, height, error))
    return 0;
  const guint limit = nf_flow_prepare (self->flow, NF_FLOW_DECODE, error);
  return limit ? MAX (limit / (grid.tiles_x * grid.tiles_y), 1) : 0;
}

/* Whether nothing but the encoded picture is asked for: the way there is free. */
static gboolean
may_draft (const NfDecodeOptions *options, gint label)
{
  return (options->method == NF_DECODE_AUTO || options->method == NF_DECODE_DRAFT) && options->snap
         && options->guidance == 0 && label == -1 && options->tolerance == 0 && options->max_sweeps == 0
         && options->budget_ms == 0 && options->window == 0 && options->n_blocks == 0;
}

static gboolean
prepare_drafts (NfSession *self, GError **error)
{
  NfOps *ops = nf_flow_get_ops (self->flow);
  if (!nf_flow_prepare_draft (self->flow, error))
    return FALSE;
  if (!nf_flow_drafts (self->flow) || self->black)
    return TRUE; /* for every frame but the first: waiting for the device takes time */
  if ((self->black = nf_ops_alloc (ops, 1)))
    nf_ops_fill (ops, nf_view (self->black, 0), 0.0f, 1);
  return nf_ops_finish (ops, error);
}

gboolean
nf_session_decode_frames (NfSession *self, const float *const *latents, guint n_frames, gint label,
                          const NfDecodeOptions *options, const NfFrame *frames, GError **error)
{
  static const NfDecodeOptions lossless = { .snap = TRUE };
  g_return_val_if_fail (NF_IS_SESSION (self) && latents && frames && n_frames > 0, FALSE);
  options = options ? options : &lossless;
  const gboolean guided = options->guidance != 0;
  NfDecodeOptions how;
  NfShown *shown = &self->shown;
  NfGrid grid;
  NfPlanes planes;
  const gint64 start = g_get_monotonic_time ();
  gint64 time = start;
  if (!nf_session_check_labels (self, &label, 1, error) || !nf_session_check_options (self, options, error))
    return FALSE;
  const guint limit = nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error);
  if (limit == 0 || !nf_session_prepare_drawn (self, options, &how, error))
    return FALSE;
  const gsize values = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  g_autofree Coded *coded = g_new0 (Coded, n_frames);
  for (guint i = 0; i < n_frames; i++)
    {
      coded[i].latents = latents[i];
      if (options->corrections)
        coded[i].corrections = options->corrections[i];
      if (!frames[i].interlaced != !frames[0].interlaced)
        {
          g_set_error (
              error, NF_ERROR, NF_ERROR_ARGUMENT,
              "frame %u of %u is %sinterlaced, unlike the first: frames that are decoded at once have "
              "one layout",
              i, n_frames, frames[i].interlaced ? "" : "not ");
          return FALSE;
        }
      if (frames[i].width != frames[0].width || frames[i].height != frames[0].height)
        {
          g_set_error (
              error, NF_ERROR, NF_ERROR_ARGUMENT,
              "frame %u of %u is of %ux%u, the first of %ux%u: frames that are decoded at once have one "
              "size",
              i, n_frames, frames[i].width, frames[i].height, frames[0].width, frames[0].height);
          return FALSE;
        }
      if (!prepare_frame (self, &frames[i], &grid, &planes, error)
          || !nf_session_check_finite ("latents", latents[i], self->grid_size, error)
          || !nf_corrections_check (&coded[i].corrections, nf_model_get_config (self->model),
                                    grid.tiles_x * grid.tiles_y, values, error))
        return FALSE;
    }

  nf_flow_set_on_lattice (self->flow, how.snap ? nf_model_get_tokens (self->model) : NULL);
  const gboolean drafts = may_draft (&how, label);
  if (drafts && !prepare_drafts (self, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  const NfConfig *config = nf_model_get_config (self->model);
  const guint tiles = grid.tiles_x * grid.tiles_y;
  const gboolean known = shown->valid && shown->generation == nf_model_get_generation (self->model)
                         && !options->afresh && shown->width == frames->width
                         && shown->height == frames->height && shown->label == label
                         && decode_alike (&shown->options, options),
                 /* within these frames something may be cut short */
      repeat = !options->afresh && options->budget_ms == 0 && options->max_sweeps == 0;
  g_autofree Work *work = g_try_new (Work, (gsize)n_frames * tiles);
  if (!work)
    return refuse_memory (&grid, error);
  const Coded last
      = { shown->latents,
          { (const NfCorrection *)(gpointer)shown->corrections->data, shown->corrections->len } };
  const Coded none = { 0 };
  guint count = 0;
  for (guint i = 0; i < n_frames; i++)
    count += find_new_tiles (config, &grid, &coded[i],
                             i > 0   ? (repeat ? &coded[i - 1] : &none)
                             : known ? &last
                                     : &none,
                             i, work + count);
  const guint batch = nf_session_share (count, limit);
  if (!shown->valid)
    nf_staging_forget (&self->staging, ops);
  shown->valid = FALSE; /* until all of it is there */
  self->report = (NfInverseReport){ 0 };
  self->kept = n_frames * tiles - count;

  g_autofree gint *labels = g_new (gint, batch);
  for (guint i = 0; i < batch; i++)
    labels[i] = label;
  Frames all = { self, coded, frames, n_frames, &grid, &planes, .drafts = drafts, .written = n_frames };
  const double upload = nf_stats_lap (&time);
  for (guint first = 0; first < count; first += batch)
    {
      const guint n = MIN (batch, count - first);
      NfDecodeProgress progress = { self, first, n, count };
      nf_session_condition (self, labels, 0, n, guided ? 2 : 1);
      const NfDecodeOptions rest = nf_session_spend (&how, start);
      if (!decode_tiles (&all, work + first, n, labels, &rest, &progress, error))
        return FALSE;
    }
  if (!reach_frame (&all, n_frames, error) || !nf_ops_finish (ops, error))
    return FALSE;
  remember (self, &frames[n_frames - 1], &coded[n_frames - 1], label, options);
  const double kernels = nf_stats_lap (&time) - all.downloads;
  for (guint i = 0; i < n_frames; i++)
    nf_stats_count_frame (&self->stats, upload / n_frames, kernels / n_frames, all.downloads / n_frames);
  return TRUE;
}

gboolean
nf_session_decode_frame (NfSession *self, const float *latents, gint label, const NfDecodeOptions *options,
                         const NfFrame *frame, GError **error)
{
  g_return_val_if_fail (latents, FALSE);
  return nf_session_decode_frames (self, &latents, 1, label, options, frame, error);
}

/* What drafts work with, for models that have them. */
static gboolean
need_drafts (NfSession *self, GError **error)
{
  if (!nf_flow_prepare (self->flow, NF_FLOW_DECODE, error) || !prepare_drafts (self, error))
    return FALSE;
  if (nf_flow_drafts (self->flow))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "pictures of this model are not drafted, so hints would be of no use");
  return FALSE;
}

gboolean
nf_session_measure_hints (NfSession *self, const NfFrame *frame, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && frame, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  NfOps *ops = nf_flow_get_ops (self->flow);
  NfGrid grid;
  NfPlanes planes;
  if (!need_drafts (self, error) || !prepare_frame (self, frame, &grid, &planes, error))
    return FALSE;

  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  g_autofree float *x = g_new (float, n);
  self->shown.valid = FALSE;
  nf_staging_upload (&self->staging, ops, config->layout, frame);
  for (guint tile = 0; tile < grid.tiles_x * grid.tiles_y; tile++)
    {
      nf_ops_pixels_to_tokens (ops, &planes, nf_model_get_tokens (self->model), tile, 1,
                               NF_DEQUANTISE_LATTICE, 0.0f, 0, 0, NULL,
                               nf_view (nf_flow_get_input (self->flow), 0));
      if (!nf_session_go_on (self, error)
          || !nf_ops_read (ops, nf_view (nf_flow_get_input (self->flow), 0), x, n * sizeof *x, error)
          || !nf_flow_measure_hints (self->flow, x, error))
        return FALSE;
    }
  return TRUE;
}

gboolean
nf_session_read_hints (NfSession *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), FALSE);
  return need_drafts (self, error) && nf_flow_read_hints (self->flow, path, error);
}

gboolean
nf_session_write_hints (NfSession *self, const char *path, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), FALSE);
  const char *model = nf_model_get_path (self->model);
  NfHints *hints = nf_flow_get_hints (self->flow);
  g_autofree char *beside = model ? nf_hints_path_beside (model) : NULL;
  if (!hints || !(path || beside))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   hints ? "the model has no file that hints could be beside of: name one"
                         : "there are no hints yet: measure them on a picture first");
      return FALSE;
    }
  return nf_hints_write (hints, path ? path : beside, nf_model_get_digest (self->model), error);
}

gboolean
nf_session_denoise_frame (NfSession *self, const NfFrame *in, double sigma, const NfFrame *out,
                          GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && in && out, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  /* A noisy sample says nothing finer than its bin: it stands for the middle. */
  NfTokens tokens = *nf_model_get_tokens (self->model);
  const NfDequantise mode = tokens.steps ? NF_DEQUANTISE_LATTICE : NF_DEQUANTISE_NONE;
  NfGrid grid;
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  if (in->width != out->width || in->height != out->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "a %ux%u frame cannot be denoised into one of %ux%u",
                   in->width, in->height, out->width, out->height);
      return FALSE;
    }
  if (!in->interlaced != !out->interlaced)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "an interlaced frame cannot be denoised into one that is not, nor the other way round");
      return FALSE;
    }
  if (!nf_session_check_sigma (sigma, error))
    return FALSE;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error);
  if (batch == 0 || !prepare_frame (self, out, &grid, &planes, error)
      || !prepare_frame (self, in, &grid, &planes, error))
    return FALSE;
  nf_flow_set_on_lattice (self->flow, NULL);

  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint tiles = grid.tiles_x * grid.tiles_y;
  tokens.steps = MIN (tokens.steps, 1);
  self->shown.valid = FALSE;
  nf_staging_forget (&self->staging, ops);
  nf_staging_upload (&self->staging, ops, config->layout, in);
  const double upload = nf_stats_lap (&time);
  nf_session_condition (self, NULL, 0, batch, 1);
  for (guint first = 0; first < tiles; first += batch)
    {
      const guint count = MIN (batch, tiles - first);
      const NfView y = nf_view (nf_flow_get_input (self->flow), 0);
      if (!nf_session_next_batch (self, error))
        return FALSE;
      nf_ops_pixels_to_tokens (ops, &planes, &tokens, first, count, mode, 0.0f, 0, 0, NULL, y);
      nf_flow_backward (self->flow, count, 1.0f, NULL, NULL);
      const NfView gradient = nf_view (nf_flow_get_output (self->flow), 0);
      nf_ops_denoise (ops, y, gradient, gradient, (float)(sigma * sigma), count * n);
      nf_ops_tokens_to_pixels (ops, gradient, &planes, &tokens, first, count, NULL);
    }
  if (!nf_ops_finish (ops, error))
    return FALSE;
  const double kernels = nf_stats_lap (&time);
  if (!nf_staging_download (&self->staging, ops, self->model, out, error))
    return FALSE;
  nf_stats_count_frame (&self->stats, upload, kernels, nf_stats_lap (&time));
  return TRUE;
}

gboolean
nf_session_prepare (NfSession *self, NfSessionWork work, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const guint width = nf_config_columns (config), height = nf_config_rows (config);
  const NfSessionStats stats = self->stats;
  g_autofree guint8 *samples = g_malloc0 ((gsize)width * height);
  g_autofree float *latents = g_new0 (float, nf_config_tile_bytes (config));
  NfFrame frame = { .width = width, .height = height };
  gboolean done = FALSE;

  for (guint i = 0; i < G_N_ELEMENTS (frame.planes); i++)
    frame.planes[i] = (NfPlane){ samples, (gint)width, 1 };
  switch (work)
    {
    case NF_SESSION_ENCODE:
      done = nf_session_encode_frame (self, &frame, latents, NULL, NULL, error);
      break;
    case NF_SESSION_DECODE:
      /* latents of a picture, since others are decoded in another way */
      done = nf_session_encode_frame (self, &frame, latents, NULL, NULL, error)
             && nf_session_decode_frame (self, latents, -1, NULL, &frame, error);
      break;
    case NF_SESSION_DENOISE:
      done = nf_session_denoise_frame (self, &frame, 0.1, &frame, error);
      break;
    default:
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "work %d of a session: there are 0 to %d", (gint)work,
                   NF_SESSION_DENOISE);
    }
  self->stats = stats;
  return done;
}
