/* normflow: videos through a session. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"

#include <math.h>
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
  if (!nf_session_check_condition (self, NULL, B, error) || !nf_session_check_options (self, options, error))
    return FALSE;
  const guint encode
      = nf_flow_prepare (self->flow, NF_FLOW_ENCODE, error),
      decode
      = encode ? nf_flow_prepare (self->flow, guided ? NF_FLOW_DECODE_GUIDED : NF_FLOW_DECODE, error) : 0,
      batch = MIN (encode, decode);
  if (batch == 0)
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
      if (!nf_flow_inverse (self->flow, count, options, given, nf_session_tell_decode, &progress,
                            &self->report, error)
          || !nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), y + first * n,
                           count * n * sizeof *y, error))
        return FALSE;
    }
  for (guint b = 0; b < B; b++)
    memmove (y + b * n, x + b * n, known * sizeof *y);
  return TRUE;
}

/* Samples first .. first+count-1 through the learned denoiser; the output stays on the device. */
static void
run_denoiser (NfSession *self, const float *x, guint first, guint count)
{
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  nf_ops_write (nf_flow_get_ops (self->flow), nf_view (nf_flow_get_input (self->flow), 0), x + first * n,
                count * n * sizeof *x);
  nf_session_condition (self, NULL, first, count, 1);
  nf_flow_denoiser (self->flow, count);
}

gboolean
nf_session_predict_noise (NfSession *self, const float *x, guint B, float *y, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && y, FALSE);
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_DENOISER, error);
  if (batch == 0 || !nf_session_check_condition (self, NULL, B, error))
    return FALSE;

  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      if (!nf_session_go_on (self, error))
        return FALSE;
      run_denoiser (self, x, first, count);
      if (!nf_ops_read (nf_flow_get_ops (self->flow), nf_view (nf_flow_get_output (self->flow), 0),
                        y + first * n, count * n * sizeof *y, error))
        return FALSE;
    }
  return nf_session_check_finite ("the denoiser's output", y, B * n, error);
}

gboolean
nf_session_denoise_learned (NfSession *self, const float *x, guint B, double sigma, double sigma_next,
                            float *y, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && y, FALSE);
  const gsize n = (gsize)B * nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  if (!(sigma > 0 && sigma <= 2 && sigma_next >= 0 && sigma_next <= sigma))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "noise of %g cannot become %g: sigma must be above 0 and at most 2, what is left not more",
                   sigma, sigma_next);
      return FALSE;
    }
  if (!nf_session_predict_noise (self, x, B, y, error))
    return FALSE;
  const double step = NF_FLOW_DENOISER_CONSTANT * (sigma - sigma_next) / sigma;
  for (gsize i = 0; i < n; i++)
    y[i] = (float)((double)x[i] - step * (double)y[i]);
  return TRUE;
}

gboolean
nf_session_denoiser_gradients (NfSession *self, const float *x, guint B, double sigma, float *target,
                               double *loss, float *grad_parameters, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && loss && B > 0, FALSE);
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D, all = B * n,
              n_parameters = nf_model_count_parameters (self->model);
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_DENOISER, error);
  NfOps *ops = nf_flow_get_ops (self->flow);
  g_autofree float *wanted = g_new (float, all), *said = g_new (float, all);
  g_autoptr (NfBuffer) gradients = NULL;
  double sums[2] = { 0, 0 }, squares = 0;

  if (batch == 0 || !nf_session_check_sigma (sigma, error)
      || !nf_session_check_condition (self, NULL, B, error)
      || (grad_parameters && !nf_model_check_gradients (self->model, error))
      || !nf_session_add_gradients (self, x, B, NULL, 1.0f, sums, wanted, NULL, error))
    return FALSE;
  if (grad_parameters && !(gradients = nf_ops_alloc (ops, n_parameters)))
    return nf_ops_finish (ops, error);
  for (gsize i = 0; i < all; i++)
    wanted[i] = (float)(sigma * sigma / NF_FLOW_DENOISER_CONSTANT * (double)wanted[i]);
  for (guint first = 0; first < B; first += batch)
    {
      const guint count = MIN (batch, B - first);
      float *part = said + first * n;
      if (!nf_session_go_on (self, error))
        return FALSE;
      run_denoiser (self, x, first, count);
      if (!nf_ops_read (ops, nf_view (nf_flow_get_output (self->flow), 0), part, count * n * sizeof *part,
                        error))
        return FALSE;
      for (gsize i = 0; i < count * n; i++)
        {
          const double difference = (double)part[i] - (double)wanted[first * n + i];
          squares += difference * difference;
          part[i] = (float)(2 * difference / (double)all);
        }
      if (!gradients)
        continue;
      nf_ops_write (ops, nf_view (nf_flow_get_output (self->flow), 0), part, count * n * sizeof *part);
      nf_flow_denoiser_backward (self->flow, count, gradients);
    }
  *loss = squares / (double)all;
  if (target)
    memcpy (target, wanted, all * sizeof *target);
  return !gradients || nf_session_read_gradients (self, gradients, grad_parameters, error);
}
