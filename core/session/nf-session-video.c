/* normflow: videos through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"

#include <string.h>

/* Whether frames can come after others. */
static gboolean
check_causal (const NfConfig *config, GError **error)
{
  if (!config->frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "only videos can be continued, this is a model of images");
      return FALSE;
    }
  if (!config->temporal_causal)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "videos of this model cannot be continued: it sees later frames (temporal_causal is 0)");
      return FALSE;
    }
  return TRUE;
}

gboolean
nf_session_continue (NfSession *self, const float *x, guint B, guint given, const float *z,
                     const NfDecodeOptions *options, float *y, GError **error)
{
  static const NfDecodeOptions plain = { 0 };
  g_return_val_if_fail (NF_IS_SESSION (self) && x && z && y, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize n = (gsize)shape->N * shape->D, known = (gsize)given * shape->frame * shape->D;
  const guint frames = shape->N / shape->frame;
  options = options ? options : &plain;
  const gboolean guided = options->guidance != 0;
  const gint64 start = g_get_monotonic_time ();
  if (!check_causal (config, error))
    return FALSE;
  if (given < 1 || given >= frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%u frames are given, it must be 1 to %u of %u", given,
                   frames - 1, frames);
      return FALSE;
    }
  if (!nf_session_check_condition (self, NULL, B, error) || !nf_session_check_options (self, options, error)
      || !nf_session_check_finite ("latents", z, B * n, error))
    return FALSE;
  for (guint b = 0; b < B; b++)
    if (!nf_session_check_finite ("frames that are given", x + b * n, known, error))
      return FALSE;
  const guint encode
      = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error),
      decode
      = encode ? nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error) : 0,
      batch = MIN (encode, decode);
  NfDecodeOptions how;
  if (batch == 0 || !nf_session_prepare_drawn (self, options, &how, error))
    return FALSE;
  nf_flow_set_on_lattice (self->flow, NULL);

  NfOps *ops = nf_flow_get_ops (self->flow);
  self->report = (NfInverseReport){ 0 };
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      NfDecodeProgress progress = { self, first, count, B };
      if (!nf_session_go_on (self, error))
        return FALSE;
      nf_session_condition (self, NULL, first, count, guided ? 2 : 1);
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), x + first * n, count * n * sizeof *x);
      nf_flow_forward_known (self->flow, count);
      nf_ops_write (ops, nf_view (nf_flow_get_input (self->flow), 0), z + first * n, count * n * sizeof *z);
      const NfDecodeOptions rest = nf_session_spend (&how, start);
      if (!nf_flow_inverse (self->flow, count, &rest, given, nf_session_tell_decode, &progress, &self->report,
                            error))
        return FALSE;
      for (guint b = 0; b < count; b++)
        nf_ops_write (ops, nf_view (nf_flow_get_output (self->flow), b * n), x + (first + b) * n,
                      known * sizeof *x);
      if (!nf_session_finish_drawn (self, &how, NULL, first, count, error)
          || !nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), y + first * n,
                           count * n * sizeof *y, error))
        return FALSE;
    }
  return nf_session_check_computed (self->model, "decoded tokens", y, B * n, error);
}

/* A video in windows. */
typedef struct
{
  NfSession *session;
  guint B, frames, context, window; /* frames, all but B */
  gsize frame;                      /* floats of one */
  const float *z;
  gint64 start;                           /* monotonic time of the call, whose budget is for all windows */
  NfDecodeOptions options;                /* noise is taken out afterwards: not drawn */
  NfDenoise denoise;                      /* how, and NF_DENOISE_NONE where there is none */
  float *known, *latents, *noisy, *clean; /* (B, window, ...) */
  float *y;
  NfInverseReport report; /* of the windows so far */
} Roll;

static void
roll_clear (Roll *self)
{
  g_clear_pointer (&self->known, g_free);
  g_clear_pointer (&self->latents, g_free);
  g_clear_pointer (&self->noisy, g_free);
  g_clear_pointer (&self->clean, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Roll, roll_clear)

/* COUNT frames of each video from place FROM_PLACE of videos of FROM_FRAMES frames. */
static void
copy_frames (const Roll *self, const float *from, guint from_frames, guint from_place, float *to,
             guint to_frames, guint to_place, guint count)
{
  for (guint b = 0; b < self->B; b++)
    memcpy (to + ((gsize)b * to_frames + to_place) * self->frame,
            from + ((gsize)b * from_frames + from_place) * self->frame, count * self->frame * sizeof *to);
}

/* Frames start .. start+count-1, of which KNOWN are in self->known; those that are what they will be are
 * written, from *DONE on. */
static gboolean
roll_window (Roll *self, guint start, guint count, guint known, guint *done, GError **error)
{
  NfSession *session = self->session;
  const NfConfig *config = nf_model_get_config (session->model);
  const gboolean last = start + count == self->frames;
  const guint ahead = self->denoise == NF_DENOISE_LEARNED ? config->temporal_causal - 1 : 0,
              end = last ? self->frames : start + count - MIN (ahead, self->context);
  const float *shown = self->noisy;
  const NfDecodeOptions options = nf_session_spend (&self->options, self->start);

  copy_frames (self, self->z, self->frames, start, self->latents, count, 0, count);
  if (known ? !nf_session_continue (session, self->known, self->B, known, self->latents, &options,
                                    self->noisy, error)
            : !nf_session_decode (session, self->latents, self->B, NULL, &options, self->noisy, error))
    return FALSE;
  self->report.passes += session->report.passes;
  self->report.rows += session->report.rows;
  self->report.residual = MAX (self->report.residual, session->report.residual);
  if (self->denoise != NF_DENOISE_NONE)
    {
      shown = self->clean;
      if (self->denoise == NF_DENOISE_LEARNED ? !nf_session_denoise_learned (
              session, self->noisy, self->B, config->noise_std, 0, self->clean, error)
                                              : !nf_session_denoise (session, self->noisy, self->B, NULL,
                                                                     config->noise_std, self->clean, error))
        return FALSE;
    }
  copy_frames (self, shown, count, *done - start, self->y, self->frames, *done, end - *done);
  *done = end;
  return TRUE;
}

static gboolean
roll (Roll *self, const float *x, guint given, GError **error)
{
  NfSession *session = self->session;
  guint known = given, done = 0, step;
  if (given)
    copy_frames (self, x, self->frames, 0, self->known, MIN (self->window, self->frames), 0, given);
  for (guint start = 0;; start += step)
    {
      const guint count = MIN (self->window, self->frames - start);
      session->before = (double)(start + known) / self->frames;
      session->share = (double)(count - known) / self->frames;
      if (!nf_flow_set_frames (session->flow, count, error)
          || !roll_window (self, start, count, known, &done, error))
        return FALSE;
      if (start + count == self->frames)
        return TRUE;
      /* a last window that must be whole begins where it ends with the video */
      const guint left = self->frames - start - count;
      step = nf_flow_is_of_one_size (session->flow) ? MIN (count - self->context, left)
                                                    : count - self->context;
      known = count - step;
      copy_frames (self, self->noisy, count, step, self->known, MIN (self->window, known + left), 0, known);
    }
}

gboolean
nf_session_roll (NfSession *self, const float *x, guint B, guint given, guint frames, guint context,
                 const float *z, const NfDecodeOptions *options, float *y, GError **error)
{
  static const NfDecodeOptions plain = { 0 };
  g_return_val_if_fail (NF_IS_SESSION (self) && (x || given == 0) && z && y, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const guint window = shape->N / shape->frame;
  const gsize frame = (gsize)shape->frame * shape->D, n = MAX ((gsize)B * window * frame, 1);
  const gint64 start = g_get_monotonic_time ();
  options = options ? options : &plain;
  if (!check_causal (config, error))
    return FALSE;
  if (frames < 1 || context < 1 || context >= window || given >= MIN (window, frames))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   frames < 1 ? "videos of %u frames are empty"
                   : given >= MIN (window, frames)
                       ? "videos of %u frames in windows of %u: %u are given, it must be fewer than either"
                       : "videos of %u frames in windows of %u, of which %u are the last ones of the window "
                         "before: it must be 1 or more, and fewer than a window has",
                   frames, window, given >= MIN (window, frames) ? given : context);
      return FALSE;
    }
  if (self->n_actions)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "actions are of one sample's frames: a video of several windows has none");
      return FALSE;
    }
  NfDecodeOptions drawn;
  if (!nf_session_prepare_drawn (self, options, &drawn, error))
    return FALSE;
  g_auto (Roll) all = { .session = self,
                        .B = B,
                        .frames = frames,
                        .context = context,
                        .window = window,
                        .frame = frame,
                        .z = z,
                        .start = start,
                        .options = drawn,
                        .denoise = drawn.denoise,
                        .known = g_try_new0 (float, n),
                        .latents = g_try_new (float, n),
                        .noisy = g_try_new (float, n),
                        .clean = g_try_new (float, n),
                        .y = y };
  all.options.drawn = FALSE;
  if (!all.known || !all.latents || !all.noisy || !all.clean)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %u videos of %u frames", B, window);
      return FALSE;
    }
  g_autoptr (NfFlowSize) before = nf_flow_keep_size (self->flow);
  const gboolean made = roll (&all, x, given, error);
  nf_flow_restore_size (self->flow, before);
  self->report = all.report;
  self->before = 0;
  self->share = 1;
  return made;
}

gboolean
nf_session_show_video (NfSession *self, const float *x, const NfFrame *frames, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && frames, FALSE);
  const NfConfig *config = nf_model_get_config (self->model);
  const NfSampleShape *shape = nf_flow_get_shape (self->flow);
  const gsize frame = (gsize)shape->frame * shape->D, n = (gsize)shape->N * shape->D;
  NfTokens tokens = *nf_model_get_tokens (self->model);
  NfOps *ops = nf_flow_get_ops (self->flow);
  NfPlanes planes;
  if (!config->frames || config->layout == NF_PIXELS_LATENT)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   config->frames
                       ? "the model is one of another model's latents (pixel_layout latent), not of pictures"
                       : "the model is one of images, videos are not possible");
      return FALSE;
    }
  if (!nf_session_check_finite ("tokens", x, n, error))
    return FALSE;
  guint rows, columns;
  nf_flow_get_size (self->flow, &rows, &columns);
  tokens.columns = columns / tokens.p;
  tokens.rows = rows / tokens.p;
  g_autoptr (NfBuffer) all = nf_ops_alloc (ops, n);
  if (!all)
    return nf_ops_finish (ops, error);
  nf_ops_write (ops, nf_view (all, 0), x, n * sizeof *x);
  for (guint f = 0; f < shape->N / shape->frame; f++)
    {
      if (frames[f].width != columns || frames[f].height != rows)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                       "frame %u has %ux%u pixels, one of a sample has %ux%u", f, frames[f].width,
                       frames[f].height, columns, rows);
          return FALSE;
        }
      if (!nf_staging_prepare (&self->staging, ops, config->layout, rows, &frames[f], &planes, error))
        return FALSE;
      planes.tiles_x = 1;
      self->shown.valid = FALSE;
      nf_staging_forget (&self->staging, ops);
      nf_ops_tokens_to_pixels (ops, nf_view (all, f * frame), &planes, &tokens, 0, 1, NULL);
      if (!nf_staging_download (&self->staging, ops, self->model, &frames[f], error))
        {
          g_prefix_error (error, "frame %u: ", f);
          return FALSE;
        }
    }
  return TRUE;
}
