/* normflow: how likely a frame is, and whether it comes back. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-score-private.h"
#include "nf-device-private.h"

#include <string.h>

/* Nats per sample. */
static double
sample_constant (const NfConfig *config)
{
  return config->noise == NF_NOISE_UNIFORM ? -NF_SAMPLE_BITS * G_LN2 : 0;
}

void
nf_score_fill (NfModel *model, const float *half_square, const float *log_det, const float *misses,
               gsize tokens, guint64 num_dims, NfScore *score)
{
  const NfConfig *config = nf_model_get_config (model);
  const double n = (double)tokens * nf_config_features (config);
  double squares = 0, determinants = 0;

  memset (score, 0, sizeof *score); /* scores are compared as bytes */
  for (gsize i = 0; i < tokens; i++)
    {
      squares += (double)half_square[i];
      determinants += (double)log_det[i];
      score->n_missed += (guint64)misses[2 * i];
      score->n_lost += (guint64)misses[2 * i + 1];
    }
  score->rounded = nf_device_rounds_factors (nf_model_get_device (model));
  score->limited = config->max_log_scale > 0;
  score->log_prior = -squares - n * NF_HALF_LOG_2PI;
  score->log_det = determinants;
  score->log_likelihood = score->log_prior + score->log_det + n * sample_constant (config);
  score->num_dims = num_dims;
  score->bits_per_dim = -score->log_likelihood / ((double)score->num_dims * G_LN2);
}

NfDoubt
nf_score_get_doubt (const NfScore *score)
{
  g_return_val_if_fail (score, NF_DOUBT_NONE);
  if (!(score->bits_per_dim < NF_SCORE_FAR))
    return NF_DOUBT_FAR;
  if (score->n_missed == 0 && score->n_lost == 0)
    return NF_DOUBT_NONE;
  return score->rounded                        ? NF_DOUBT_PRECISION
         : score->limited || score->n_lost > 0 ? NF_DOUBT_FAR
                                               : NF_DOUBT_NONE;
}

const char *
nf_doubt_describe (NfDoubt doubt)
{
  static const char *const texts[]
      = { NULL, "parts far from all that the model has learnt",
          "values that so few bits do not hold (precision f32 and bf16-weights have more)" };
  g_return_val_if_fail (doubt < G_N_ELEMENTS (texts), NULL);
  return texts[doubt];
}

float
nf_score_token (const NfConfig *config, float half_square, float log_det)
{
  const double nats = ((double)half_square - (double)log_det) / nf_config_features (config) + NF_HALF_LOG_2PI
                      - sample_constant (config);
  return (float)(nats / G_LN2);
}
