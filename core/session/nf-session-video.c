/* normflow: videos through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"

#include <string.h>

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
      if (!nf_flow_inverse (self->flow, count, &how, given, nf_session_tell_decode, &progress, &self->report,
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
  return TRUE;
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
  g_autoptr (NfBuffer) all = nf_ops_alloc (ops, n);
  if (!all)
    return nf_ops_finish (ops, error);
  nf_ops_write (ops, nf_view (all, 0), x, n * sizeof *x);
  for (guint f = 0; f < shape->N / shape->frame; f++)
    {
      tokens.columns = frames[f].width / tokens.p;
      tokens.rows = frames[f].height / tokens.p;
      if (frames[f].width % tokens.p || frames[f].height % tokens.p
          || (guint64)tokens.columns * tokens.rows != shape->frame)
        {
          g_set_error (
              error, NF_ERROR, NF_ERROR_ARGUMENT,
              "a frame has %ux%u pixels, which are not the %u patches of %ux%u that one of a sample has",
              frames[f].width, frames[f].height, shape->frame, tokens.p, tokens.p);
          return FALSE;
        }
      if (!nf_staging_prepare (&self->staging, ops, config->layout, &frames[f], &planes, error))
        return FALSE;
      planes.tiles_x = 1;
      self->shown.valid = FALSE;
      nf_ops_tokens_to_pixels (ops, nf_view (all, f * frame), &planes, &tokens, 0, 1, NULL);
      if (!nf_staging_download (&self->staging, ops, config->layout, &frames[f], error))
        return FALSE;
    }
  return TRUE;
}
