/* normflow: making scores. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-model.h"
#include "nf-score.h"

#define NF_HALF_LOG_2PI 0.91893853320467274178 /* nats of a standard normal value beside half its square */
#define NF_SAMPLE_BITS 7 /* of the 8-bit scale: a bin is 1/128 wide on the scale of [-1, 1] */

/* Of TOKENS half squares and log-determinants, and two numbers a token of values that are missed and samples
 * that are lost; NUM_DIMS samples. */
void nf_score_fill (NfModel *model, const float *half_square, const float *log_det, const float *misses,
                    gsize tokens, guint64 num_dims, NfScore *score);

/* Bits per dimension of one token. */
float nf_score_token (const NfConfig *config, float half_square, float log_det);
