/* normflow: taking noise away. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-session-private.h"

#include <math.h>

/* By a step along the score */

gboolean
nf_session_check_sigma (double sigma, GError **error)
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
  const gsize n = (gsize)B * nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  double sums[2] = { 0, 0 };
  g_autofree float *gradient = g_try_new (float, MAX (n, 1));
  if (!gradient)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "no memory for %" G_GSIZE_FORMAT " gradients", n);
      return FALSE;
    }
  /* g = 1: the gradient of the summed negative log-likelihood, so that samples do not depend on each other */
  if (!nf_session_check_sigma (sigma, error) || !nf_session_check_condition (self, labels, B, error)
      || !nf_session_check_finite ("tokens", y, n, error)
      || !nf_session_add_gradients (self, y, B, labels, 1.0f, sums, gradient, NULL, error))
    return FALSE;
  for (gsize i = 0; i < n; i++)
    x[i] = (float)((double)y[i] - sigma * sigma * (double)gradient[i]);
  return nf_session_check_computed (self->model, "denoised tokens", x, n, error);
}

/* By the learned denoiser */

/* Samples first .. first+count-1 through the learned denoiser; the output stays on the device. */
static void
run_denoiser (NfSession *self, const float *x, guint first, guint count)
{
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  nf_ops_write (nf_flow_get_ops (self->flow), nf_view (nf_flow_get_input (self->flow), 0), x + first * n,
                count * n * sizeof *x);
  nf_session_condition (self, NULL, first, count, 1);
  nf_flow_run_denoiser (self->flow, count);
}

gboolean
nf_session_predict_noise (NfSession *self, const float *x, guint B, float *y, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && y, FALSE);
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_DENOISER, error);
  if (batch == 0 || !nf_session_check_condition (self, NULL, B, error)
      || !nf_session_check_finite ("tokens", x, B * n, error))
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
  return nf_session_check_computed (self->model, "the denoiser's values", y, B * n, error);
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
  return nf_session_check_computed (self->model, "denoised tokens", y, n, error);
}

gboolean
nf_session_denoiser_gradients (NfSession *self, const float *x, guint B, double sigma, float *target,
                               double *loss, float *grad_parameters, GError **error)
{
  g_return_val_if_fail (NF_IS_SESSION (self) && x && loss && B > 0, FALSE);
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D, all = B * n,
              n_parameters = nf_model_count_parameters (self->model);
  const guint batch = nf_flow_prepare (self->flow, NF_FLOW_DENOISER_GRADIENTS, error);
  NfOps *ops = nf_flow_get_ops (self->flow);
  g_autofree float *wanted = g_new (float, all), *said = g_new (float, all);
  g_autoptr (NfBuffer) gradients = NULL;
  double sums[2] = { 0, 0 }, squares = 0;

  if (batch == 0 || !nf_session_check_sigma (sigma, error)
      || !nf_session_check_condition (self, NULL, B, error)
      || (grad_parameters && !nf_model_check_gradients (self->model, error))
      || !nf_session_check_finite ("tokens", x, all, error)
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

/* Of what was drawn */

/* Samples at a time; takes their memory when it is first asked. */
static guint
prepare_denoise (NfSession *self, NfDenoise how, GError **error)
{
  return nf_flow_prepare (self->flow, how == NF_DENOISE_LEARNED ? NF_FLOW_DENOISER : NF_FLOW_GRADIENTS,
                          error);
}

gboolean
nf_session_prepare_drawn (NfSession *self, const NfDecodeOptions *options, NfDecodeOptions *drawn,
                          GError **error)
{
  *drawn = *options;
  drawn->denoise = NF_DENOISE_NONE;
  if (!options->drawn)
    return TRUE;
  drawn->snap = FALSE; /* it lies on no lattice: a token that was moved onto it would change those after it */
  if (!nf_config_is_noisy (nf_model_get_config (self->model)))
    return TRUE;
  if (!nf_flow_check_denoise (self->flow, options->denoise, error))
    return FALSE;
  drawn->denoise = nf_flow_choose_denoise (self->flow, options->denoise);
  return drawn->denoise == NF_DENOISE_NONE || prepare_denoise (self, drawn->denoise, error) > 0;
}

gboolean
nf_session_finish_drawn (NfSession *self, const NfDecodeOptions *drawn, const gint *labels, guint first,
                         guint count, GError **error)
{
  const gsize n = (gsize)nf_flow_get_shape (self->flow)->N * nf_flow_get_shape (self->flow)->D;
  NfOps *ops = nf_flow_get_ops (self->flow);
  if (drawn->denoise == NF_DENOISE_NONE)
    return TRUE;
  const guint batch = prepare_denoise (self, drawn->denoise, error);
  if (batch == 0)
    return FALSE;
  if (self->n_drawn < count * n)
    {
      g_clear_pointer (&self->drawn, nf_buffer_free);
      self->n_drawn = count * n;
      self->drawn = nf_ops_alloc (ops, self->n_drawn);
      if (!self->drawn)
        {
          self->n_drawn = 0;
          return nf_ops_finish (ops, error);
        }
    }
  const NfView all = nf_view (self->drawn, 0);
  nf_ops_copy (ops, nf_view (nf_flow_get_output (self->flow), 0), all, count * n);
  for (guint i = 0; i < count; i += batch)
    {
      const guint part = MIN (batch, count - i);
      if (!nf_session_next_batch (self, error))
        return FALSE;
      nf_ops_copy (ops, nf_view_add (all, i * n), nf_view (nf_flow_get_input (self->flow), 0), part * n);
      nf_session_condition (self, labels, first + i, part, 1);
      nf_flow_denoise (self->flow, drawn->denoise, part);
      nf_ops_copy (ops, nf_view (nf_flow_get_output (self->flow), 0), nf_view_add (all, i * n), part * n);
    }
  nf_ops_copy (ops, all, nf_view (nf_flow_get_output (self->flow), 0), count * n);
  return TRUE;
}
