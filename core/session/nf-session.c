/* normflow: encode, decode, score, denoise. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-flow.h"

#include <math.h>
#include <string.h>

#define HALF_LOG_2PI 0.91893853320467274178
#define PROGRESS_INTERVAL (G_USEC_PER_SEC / 10)

struct _NfSession
{
  GObject parent_instance;

  NfModel *model;
  NfFlow *flow;
  GCancellable *cancellable;
  NfProgressFunc progress;
  gpointer progress_data;
  gint64 last_progress;

  /* of the last frame's size */
  guint8 *staging; /* samples, planes one after the other without gaps */
  gsize staging_size;
  NfBuffer *bytes; /* the same on the device */
  NfBuffer *grid;  /* latents of the frame */
  gsize grid_size;
  float *half_square, *log_det; /* per token, tile by tile */
  gsize n_tokens;

  NfSessionStats stats;
};

G_DEFINE_FINAL_TYPE (NfSession, nf_session, G_TYPE_OBJECT)

static void
nf_session_finalize (GObject *object)
{
  NfSession *self = NF_SESSION (object);

  g_clear_pointer (&self->bytes, nf_buffer_free);
  g_clear_pointer (&self->grid, nf_buffer_free);
  g_clear_pointer (&self->flow, nf_flow_free);
  g_free (self->staging);
  g_free (self->half_square);
  g_free (self->log_det);
  g_clear_object (&self->cancellable);
  g_clear_object (&self->model);
  G_OBJECT_CLASS (nf_session_parent_class)->finalize (object);
}

static void
nf_session_class_init (NfSessionClass *class)
{
  G_OBJECT_CLASS (class)->finalize = nf_session_finalize;
}

static void
nf_session_init (NfSession *self)
{
}

NfSession *
nf_session_new (NfModel *model, GError **error)
{
  g_return_val_if_fail (NF_IS_MODEL (model), NULL);
  g_autoptr (NfFlow) flow = nf_flow_new (model, error);
  if (!flow)
    return NULL;

  NfSession *self = g_object_new (NF_TYPE_SESSION, NULL);
  self->model = g_object_ref (model);
  self->flow = g_steal_pointer (&flow);
  return self;
}

NfModel *
nf_session_get_model (NfSession *self)
{
  g_return_val_if_fail (NF_IS_SESSION (self), NULL);
  return self->model;
}

void
nf_session_set_cancellable (NfSession *self, GCancellable *cancellable)
{
  g_return_if_fail (NF_IS_SESSION (self));
  g_set_object (&self->cancellable, cancellable);
}

void
nf_session_set_progress (NfSession *self, NfProgressFunc progress, gpointer data)
{
  g_return_if_fail (NF_IS_SESSION (self));
  self->progress = progress;
  self->progress_data = data;
}

void
nf_session_get_stats (NfSession *self, NfSessionStats *stats)
{
  g_return_if_fail (NF_IS_SESSION (self) && stats);
  *stats = self->stats;
  stats->device_bytes = nf_device_get_allocated (nf_model_get_device (self->model));
}

static gboolean
go_on (NfSession *self, GError **error)
{
  if (!g_cancellable_is_cancelled (self->cancellable))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "the work was cancelled");
  return FALSE;
}

/* Progress of decoding, for nf_flow_inverse(): samples before this batch, in it, and in all. */
typedef struct
{
  NfSession *session;
  guint before, batch, all;
} DecodeProgress;

static gboolean
tell_decode (gpointer data, guint done, guint all)
{
  DecodeProgress *progress = data;
  NfSession *self = progress->session;
  const gint64 now = g_get_monotonic_time ();
  const double fraction = (progress->before + progress->batch * (double)done / all) / progress->all;

  if (self->progress && (now - self->last_progress >= PROGRESS_INTERVAL || fraction >= 1))
    {
      self->last_progress = now;
      self->progress ("decode", fraction, self->progress_data);
    }
  return !g_cancellable_is_cancelled (self->cancellable);
}

static gboolean
check_labels (NfSession *self, const gint *labels, guint B, GError **error)
{
  const gint classes = (gint)nf_model_get_config (self->model)->n_classes;
  for (guint i = 0; labels && i < B; i++)
    if (labels[i] < -1 || labels[i] >= MAX (classes, 0))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                     "class %d is out of range: the model has %d classes (-1 is none)", labels[i], classes);
        return FALSE;
      }
  return TRUE;
}

static gboolean
check_options (const NfDecodeOptions *options, GError **error)
{
  if (!isfinite (options->guidance) || !isfinite (options->attention_temperature)
      || options->attention_temperature < 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "guidance %g and attention temperature %g must be finite, the latter not negative",
                   options->guidance, options->attention_temperature);
      return FALSE;
    }
  return TRUE;
}

static gboolean
check_finite (const char *what, const float *x, gsize n, GError **error)
{
  for (gsize i = 0; i < n; i++)
    if (!isfinite (x[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                     "%s: value %" G_GSIZE_FORMAT " is %g, not a finite number", what, i, (double)x[i]);
        return FALSE;
      }
  return TRUE;
}

/* Tokens */

gboolean
nf_session_encode (NfSession *self, const float *x, guint B, const gint *labels, float *z, float *blocks,
                   float *log_det, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && z, FALSE);
  const NfBlockShape *shape = nf_model_get_shape (self->model);
  const gsize N = shape->N, n = N * shape->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error);
  if (batch == 0 || !check_labels (self, labels, B, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      if (!go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), x + first * n, count * n * sizeof *x);
      nf_flow_set_labels (self->flow, labels ? labels + first : NULL, count, 1);
      nf_flow_forward (self->flow, count, blocks ? blocks + first * n : NULL, B * n);
      if (log_det)
        nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), log_det + first * N,
                           count * N * sizeof *log_det);
      if (!nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), z + first * n,
                        count * n * sizeof *z, error))
        return FALSE;
    }
  return check_finite ("latents", z, B * n, error);
}

gboolean
nf_session_decode (NfSession *self, const float *z, guint B, const gint *labels,
                   const NfDecodeOptions *options, float *x, GError **error)
{
  static const NfDecodeOptions plain = { 0 };
  g_return_val_if_fail (NF_IS_SESSION (self) && x && z, FALSE);
  options = options ? options : &plain;
  const gsize n = (gsize)nf_model_get_shape (self->model)->N * nf_model_get_shape (self->model)->D;
  const gboolean guided = options->guidance != 0;
  if (!check_labels (self, labels, B, error) || !check_options (options, error))
    return FALSE;
  const guint batch = nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error);
  if (batch == 0)
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      DecodeProgress progress = { self, first, count, B };
      if (!go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), z + first * n, count * n * sizeof *z);
      nf_flow_set_labels (self->flow, labels ? labels + first : NULL, count, guided ? 2 : 1);
      if (!nf_flow_inverse (self->flow, count, options, tell_decode, &progress, error)
          || !nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), x + first * n,
                           count * n * sizeof *x, error))
        return FALSE;
    }
  return TRUE;
}

/* dL/dx into GRAD_X for L = g (half squares - log-determinants); adds these sums to SUMS and parameters'
 * gradients to GRADIENTS. */
static gboolean
add_gradients (NfSession *self, const float *x, guint B, const gint *labels, float g, double sums[2],
               float *grad_x, NfBuffer *gradients, GError **error)
{
  const NfBlockShape *shape = nf_model_get_shape (self->model);
  const gsize N = shape->N, n = N * shape->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error);
  if (batch == 0)
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  g_autofree float *half_square = g_new (float, batch *N), *log_det = g_new (float, batch *N);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      if (!go_on (self, error))
        return FALSE;
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), x + first * n, count * n * sizeof *x);
      nf_flow_set_labels (self->flow, labels ? labels + first : NULL, count, 1);
      nf_flow_backward (self->flow, count, g, gradients);
      if (grad_x)
        nf_ops_read_later (ops, nf_view (nf_flow_get_output (self->flow), 0), grad_x + first * n,
                           count * n * sizeof *grad_x);
      nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), log_det,
                         count * N * sizeof *log_det);
      if (!nf_ops_read (ops, nf_view (nf_flow_get_half_square (self->flow), 0), half_square,
                        count * N * sizeof *half_square, error))
        return FALSE;
      for (gsize i = 0; i < count * N; i++)
        {
          sums[0] += (double)half_square[i];
          sums[1] += (double)log_det[i];
        }
    }
  return TRUE;
}

gboolean
nf_session_gradients (NfSession *self, const float *x, guint B, const gint *labels, double *loss,
                      float *grad_x, float *grad_parameters, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && loss && B > 0, FALSE);
  const NfBlockShape *shape = nf_model_get_shape (self->model);
  const gsize dimensions = (gsize)B * shape->N * shape->D, n = nf_model_count_parameters (self->model);
  NfOps *ops = nf_flow_get_ops (self->flow);
  double sums[2] = { 0, 0 };
  g_autoptr (NfBuffer) gradients = NULL;

  if (!check_labels (self, labels, B, error))
    return FALSE;
  if (grad_parameters)
    {
      gradients = nf_ops_alloc (ops, n);
      if (!gradients)
        return nf_ops_finish (ops, error);
    }
  if (!add_gradients (self, x, B, labels, (float)(1.0 / (double)dimensions), sums, grad_x, gradients, error))
    return FALSE;
  *loss = (sums[0] - sums[1]) / (double)dimensions;
  return !gradients
         || nf_ops_read (ops, nf_view (gradients, 0), grad_parameters, n * sizeof *grad_parameters, error);
}

static gboolean
check_sigma (double sigma, GError **error)
{
  if (sigma >= 0 && sigma <= 2)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "sigma %g is out of range: 0 to 2, on the scale where samples go from -1 to 1", sigma);
  return FALSE;
}

gboolean
nf_session_denoise (NfSession *self, const float *y, guint B, const gint *labels, double sigma, float *x,
                    GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && y && x, FALSE);
  const gsize n = (gsize)B * nf_model_get_shape (self->model)->N * nf_model_get_shape (self->model)->D;
  double sums[2] = { 0, 0 };
  g_autofree float *gradient = g_try_new (float, n);
  if (!gradient)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " gradients", n);
      return FALSE;
    }
  /* g = 1: the gradient of the summed negative log-likelihood, so that samples do not depend on each other */
  if (!check_sigma (sigma, error) || !check_labels (self, labels, B, error)
      || !add_gradients (self, y, B, labels, 1.0f, sums, gradient, NULL, error))
    return FALSE;
  for (gsize i = 0; i < n; i++)
    x[i] = (float)((double)y[i] - sigma * sigma * (double)gradient[i]);
  return check_finite ("denoised tokens", x, n, error);
}

/* Frames */

/* Size of plane I of a frame. */
static void
plane_size (const NfFrame *frame, NfPixelLayout layout, guint i, guint *width, guint *height)
{
  const gboolean half = layout == NF_PIXELS_YUV420 && i > 0;
  *width = half ? (frame->width + 1) / 2 : frame->width;
  *height = half ? (frame->height + 1) / 2 : frame->height;
}

static guint
count_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

/* Reserves what a frame of this size needs, and says how it lies on the tiles and in device memory. */
static gboolean
prepare_frame (NfSession *self, const NfFrame *frame, NfGrid *grid, NfPlanes *planes, GError **error)
{
  const NfConfig *config = nf_model_get_config (self->model);
  if (!nf_grid_init (grid, config, frame->width, frame->height, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  gsize at = 0;
  *planes = (NfPlanes){ .width = frame->width, .height = frame->height, .tiles_x = grid->tiles_x };
  for (guint i = 0; i < count_planes (config->layout); i++)
    {
      guint width, height;
      plane_size (frame, config->layout, i, &width, &height);
      const gint64 extent = (gint64)(width - 1) * frame->planes[i].step + 1;
      if (!frame->planes[i].data || frame->planes[i].step < 1
          || ABS ((gint64)frame->planes[i].stride) < extent)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "plane %u of a %ux%u frame has a stride of %d bytes and a step of %d; a row takes "
                       "%" G_GINT64_FORMAT,
                       i, frame->width, frame->height, frame->planes[i].stride, frame->planes[i].step,
                       extent);
          return FALSE;
        }
      planes->at[i] = at;
      planes->stride[i] = (gint)width;
      planes->step[i] = 1;
      at += (gsize)width * height;
    }

  const gsize latents = nf_grid_latents (grid), tokens = (gsize)grid->grid_width * grid->grid_height;
  if (at != self->staging_size || !self->bytes)
    {
      g_clear_pointer (&self->bytes, nf_buffer_free);
      g_free (self->staging);
      self->staging = g_malloc (at);
      self->staging_size = at;
      self->bytes = nf_ops_alloc (ops, (at + 3) / 4);
    }
  if (latents != self->grid_size || !self->grid)
    {
      g_clear_pointer (&self->grid, nf_buffer_free);
      self->grid_size = latents;
      self->grid = nf_ops_alloc (ops, latents);
    }
  if (tokens != self->n_tokens)
    {
      self->n_tokens = tokens;
      self->half_square = g_renew (float, self->half_square, tokens);
      self->log_det = g_renew (float, self->log_det, tokens);
    }
  planes->bytes = self->bytes;
  return (self->bytes && self->grid) || nf_ops_finish (ops, error);
}

/* Samples of the frame to the staging memory and the device. */
static void
upload_frame (NfSession *self, const NfFrame *frame)
{
  const NfPixelLayout layout = nf_model_get_config (self->model)->layout;
  guint8 *to = self->staging;

  for (guint i = 0; i < count_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[i];
      guint width, height;
      plane_size (frame, layout, i, &width, &height);
      for (guint y = 0; y < height; y++, to += width)
        {
          const guint8 *from = plane->data + (gssize)y * plane->stride;
          if (plane->step == 1)
            memcpy (to, from, width);
          else
            for (guint x = 0; x < width; x++)
              to[x] = from[(gsize)x * plane->step];
        }
    }
  nf_ops_write (nf_flow_get_ops (self->flow), nf_view (self->bytes, 0), self->staging, self->staging_size);
}

/* And back. */
static gboolean
download_frame (NfSession *self, const NfFrame *frame, GError **error)
{
  const NfPixelLayout layout = nf_model_get_config (self->model)->layout;
  const guint8 *from = self->staging;

  if (!nf_ops_read (nf_flow_get_ops (self->flow), nf_view (self->bytes, 0), self->staging, self->staging_size,
                    error))
    return FALSE;
  /* what lies between the samples of one plane and belongs to none */
  if (layout == NF_PIXELS_RGB && frame->planes[0].step > 3)
    {
      const guint8 *first = MIN (MIN (frame->planes[0].data, frame->planes[1].data), frame->planes[2].data);
      for (guint y = 0; y < frame->height; y++)
        memset ((guint8 *)first + (gssize)y * frame->planes[0].stride, 255,
                (gsize)(frame->width - 1) * frame->planes[0].step + 3);
    }
  for (guint i = 0; i < count_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[i];
      guint width, height;
      plane_size (frame, layout, i, &width, &height);
      for (guint y = 0; y < height; y++, from += width)
        {
          guint8 *to = plane->data + (gssize)y * plane->stride;
          if (plane->step == 1)
            memcpy (to, from, width);
          else
            for (guint x = 0; x < width; x++)
              to[(gsize)x * plane->step] = from[x];
        }
    }
  return TRUE;
}

/* Seconds since *LAST, which becomes now. */
static double
lap (gint64 *last)
{
  const gint64 now = g_get_monotonic_time ();
  const double seconds = (double)(now - *last) / G_USEC_PER_SEC;
  *last = now;
  return seconds;
}

static void
count_frame (NfSession *self, double upload, double kernels, double download)
{
  self->stats.frames++;
  self->stats.upload_seconds += upload;
  self->stats.kernel_seconds += kernels;
  self->stats.download_seconds += download;
  self->stats.last_frame_seconds = upload + kernels + download;
}

/* The constant of the 8-bit scale, nats per sample: a bin is 1/128 wide on the scale of [-1, 1]. */
static double
sample_constant (const NfConfig *config)
{
  return config->noise == NF_NOISE_UNIFORM ? -7 * G_LN2 : 0;
}

static void
fill_score (NfSession *self, const NfFrame *frame, NfScore *score)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const double n = (double)self->grid_size;
  double half_square = 0, log_det = 0;

  for (gsize i = 0; i < self->n_tokens; i++)
    {
      half_square += (double)self->half_square[i];
      log_det += (double)self->log_det[i];
    }
  score->log_prior = -half_square - n * HALF_LOG_2PI;
  score->log_det = log_det;
  score->log_likelihood = score->log_prior + score->log_det + n * sample_constant (config);
  score->num_dims = nf_frame_samples (config->layout, frame->width, frame->height);
  score->bits_per_dim = -score->log_likelihood / ((double)score->num_dims * G_LN2);
}

/* Bits per dimension of each token, from tile by tile to the grid. */
static void
fill_score_map (NfSession *self, const NfGrid *grid, float *map)
{
  const NfConfig *config = nf_model_get_config (self->model);
  const guint side = config->img_size / config->patch_size, N = side * side;

  for (gsize i = 0; i < self->n_tokens; i++)
    {
      const gsize tile = i / N, n = i % N;
      const gsize row = tile / grid->tiles_x * side + n / side,
                  column = tile % grid->tiles_x * side + n % side;
      const double nats = ((double)self->half_square[i] - (double)self->log_det[i]) / grid->features
                          + HALF_LOG_2PI - sample_constant (config);
      map[row * grid->grid_width + column] = (float)(nats / G_LN2);
    }
}

gboolean
nf_session_encode_frame (NfSession *self, const NfFrame *frame, float *latents, NfScore *score,
                         float *score_map, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && frame && latents, FALSE);
  const NfTokens *tokens = nf_model_get_tokens (self->model);
  const gsize N = nf_model_get_shape (self->model)->N;
  const NfDequantise mode = tokens->steps ? NF_DEQUANTISE_LATTICE : NF_DEQUANTISE_NONE;
  NfGrid grid;
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error);
  if (batch == 0 || !prepare_frame (self, frame, &grid, &planes, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint tiles = grid.tiles_x * grid.tiles_y;
  upload_frame (self, frame);
  const double upload = lap (&time);
  nf_flow_set_labels (self->flow, NULL, batch, 1);
  for (guint first = 0; first < tiles; first += batch)
    {
      const guint count = MIN (batch, tiles - first);
      if (!go_on (self, error))
        {
          nf_ops_finish (ops, NULL);
          return FALSE;
        }
      nf_ops_pixels_to_tokens (ops, &planes, tokens, first, count, mode, 0.0f, 0, 0,
                               nf_view (nf_flow_get_input (self->flow), 0));
      nf_flow_forward (self->flow, count, NULL, 0);
      nf_flow_standardise (self->flow, count);
      nf_ops_read_later (ops, nf_view (nf_flow_get_half_square (self->flow), 0),
                         self->half_square + first * N, count * N * sizeof (float));
      nf_ops_read_later (ops, nf_view (nf_flow_get_log_det (self->flow), 0), self->log_det + first * N,
                         count * N * sizeof (float));
      nf_ops_grid (ops, nf_view (nf_flow_get_output (self->flow), 0), self->grid, first, count, grid.tiles_x,
                   tokens->side, tokens->D, TRUE);
    }
  if (!nf_ops_finish (ops, error))
    return FALSE;
  for (gsize i = 0; i < self->n_tokens; i++)
    self->log_det[i] -= nf_model_get_log_deviations (self->model)[i % N];
  const double kernels = lap (&time);
  if (!nf_ops_read (ops, nf_view (self->grid, 0), latents, self->grid_size * sizeof *latents, error)
      || !check_finite ("latents", latents, self->grid_size, error))
    return FALSE;
  if (score)
    fill_score (self, frame, score);
  if (score_map)
    fill_score_map (self, &grid, score_map);
  count_frame (self, upload, kernels, lap (&time));
  return TRUE;
}

gboolean
nf_session_decode_frame (NfSession *self, const float *latents, gint label, const NfDecodeOptions *options,
                         const NfFrame *frame, GError **error)
{
  static const NfDecodeOptions lossless = { .snap = TRUE };
  g_return_val_if_fail (NF_IS_SESSION (self) && latents && frame, FALSE);
  options = options ? options : &lossless;
  const NfTokens *tokens = nf_model_get_tokens (self->model);
  const gboolean guided = options->guidance != 0;
  NfGrid grid;
  NfPlanes planes;
  gint64 time = g_get_monotonic_time ();
  if (!check_labels (self, &label, 1, error) || !check_options (options, error))
    return FALSE;
  const guint batch = nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error);
  if (batch == 0 || !prepare_frame (self, frame, &grid, &planes, error)
      || !check_finite ("latents", latents, self->grid_size, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint tiles = grid.tiles_x * grid.tiles_y;
  g_autofree gint *labels = g_new (gint, batch);
  for (guint i = 0; i < batch; i++)
    labels[i] = label;
  nf_ops_write (ops, nf_view (self->grid, 0), latents, self->grid_size * sizeof *latents);
  const double upload = lap (&time);
  for (guint first = 0; first < tiles; first += batch)
    {
      const guint count = MIN (batch, tiles - first);
      DecodeProgress progress = { self, first, count, tiles };
      nf_ops_grid (ops, nf_view (nf_flow_get_input (self->flow), 0), self->grid, first, count, grid.tiles_x,
                   tokens->side, tokens->D, FALSE);
      nf_flow_set_labels (self->flow, labels, count, guided ? 2 : 1);
      if (!nf_flow_inverse (self->flow, count, options, tell_decode, &progress, error))
        return FALSE;
      nf_ops_tokens_to_pixels (ops, nf_view (nf_flow_get_output (self->flow), 0), &planes, tokens, first,
                               count);
    }
  if (!nf_ops_finish (ops, error))
    return FALSE;
  const double kernels = lap (&time);
  if (!download_frame (self, frame, error))
    return FALSE;
  count_frame (self, upload, kernels, lap (&time));
  return TRUE;
}

gboolean
nf_session_denoise_frame (NfSession *self, const NfFrame *in, double sigma, const NfFrame *out,
                          GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && in && out, FALSE);
  const gsize n = (gsize)nf_model_get_shape (self->model)->N * nf_model_get_shape (self->model)->D;
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
  if (!check_sigma (sigma, error))
    return FALSE;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_GRADIENTS, error);
  if (batch == 0 || !prepare_frame (self, out, &grid, &planes, error)
      || !prepare_frame (self, in, &grid, &planes, error))
    return FALSE;

  NfOps *ops = nf_flow_get_ops (self->flow);
  const guint tiles = grid.tiles_x * grid.tiles_y;
  tokens.steps = MIN (tokens.steps, 1);
  upload_frame (self, in);
  const double upload = lap (&time);
  nf_flow_set_labels (self->flow, NULL, batch, 1);
  for (guint first = 0; first < tiles; first += batch)
    {
      const guint count = MIN (batch, tiles - first);
      const NfView y = nf_view (nf_flow_get_input (self->flow), 0),
                   gradient = nf_view (nf_flow_get_output (self->flow), 0);
      if (!go_on (self, error))
        {
          nf_ops_finish (ops, NULL);
          return FALSE;
        }
      nf_ops_pixels_to_tokens (ops, &planes, &tokens, first, count, mode, 0.0f, 0, 0, y);
      nf_flow_backward (self->flow, count, 1.0f, NULL);
      nf_ops_denoise (ops, y, gradient, gradient, (float)(sigma * sigma), count * n);
      nf_ops_tokens_to_pixels (ops, gradient, &planes, &tokens, first, count);
    }
  if (!nf_ops_finish (ops, error))
    return FALSE;
  const double kernels = lap (&time);
  if (!download_frame (self, out, error))
    return FALSE;
  count_frame (self, upload, kernels, lap (&time));
  return TRUE;
}

gboolean
nf_session_prepare (NfSession *self, NfSessionWork work, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self), FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const gint S = (gint)config->img_size;
  const NfSessionStats stats = self->stats;
  g_autofree guint8 *samples = g_malloc0 ((gsize)S * S);
  g_autofree float *latents = g_new0 (float, nf_config_tile_bytes (config));
  NfFrame frame = { .width = (guint)S, .height = (guint)S };
  gboolean done = FALSE;

  for (guint i = 0; i < G_N_ELEMENTS (frame.planes); i++)
    frame.planes[i] = (NfPlane){ samples, S, 1 };
  switch (work)
    {
    case NF_SESSION_ENCODE:
      done = nf_session_encode_frame (self, &frame, latents, NULL, NULL, error);
      break;
    case NF_SESSION_DECODE:
      done = nf_session_decode_frame (self, latents, -1, NULL, &frame, error);
      break;
    case NF_SESSION_DENOISE:
      done = nf_session_denoise_frame (self, &frame, 0.1, &frame, error);
      break;
    }
  self->stats = stats;
  return done;
}

/* Images of floats */

/* Moves images to tokens or back, in the order of features that the official unfold has. */
static void
move_patches (const NfConfig *config, float *images, guint B, float *tokens, gboolean to_tokens)
{
  const gsize S = config->img_size, p = config->patch_size, C = config->channels, side = S / p,
              D = nf_config_features (config);

  for (gsize b = 0; b < B; b++)
    for (gsize n = 0; n < side * side; n++)
      for (gsize f = 0; f < D; f++)
        {
          const gsize c = f / (p * p), y = n / side * p + f % (p * p) / p, x = n % side * p + f % p;
          float *pixel = images + ((b * C + c) * S + y) * S + x,
                *value = tokens + (b * side * side + n) * D + f;
          if (to_tokens)
            *value = *pixel;
          else
            *pixel = *value;
        }
}

/* Tokens into the model's basis, or out of it. */
static void
change_basis (const NfConfig *config, float *tokens, guint B, gboolean out)
{
  if (config->basis == NF_BASIS_PIXEL)
    return;
  const gsize D = nf_config_features (config), n = (gsize)B * nf_config_tokens (config);
  g_autofree float *basis = g_new (float, D *D), *token = g_new (float, D);

  nf_model_fill_basis (config, basis);
  for (gsize i = 0; i < n; i++, tokens += D)
    {
      memcpy (token, tokens, D * sizeof *token);
      for (gsize a = 0; a < D; a++)
        {
          double sum = 0;
          for (gsize b = 0; b < D; b++)
            sum += (double)basis[out ? b * D + a : a * D + b] * (double)token[b];
          tokens[a] = (float)sum;
        }
    }
}

void
nf_patchify (const NfConfig *config, const float *images, guint B, float *tokens)
{
  g_return_if_fail (config && images && tokens && config->layout != NF_PIXELS_YUV420);
  move_patches (config, (float *)images, B, tokens, TRUE);
  change_basis (config, tokens, B, FALSE);
}

void
nf_unpatchify (const NfConfig *config, const float *tokens, guint B, float *images)
{
  g_return_if_fail (config && images && tokens && config->layout != NF_PIXELS_YUV420);
  const gsize n = (gsize)B * nf_config_tokens (config) * nf_config_features (config);
  g_autofree float *copy = g_memdup2 (tokens, n * sizeof *copy);
  change_basis (config, copy, B, TRUE);
  move_patches (config, images, B, copy, FALSE);
}
