/* normflow: noise to remove again, and what is left of it. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "media.h"

G_BEGIN_DECLS

/* Why a model of videos denoises nothing, for nf_command_check_pictures(). */
#define NF_VIDEOS_KEEP_NOISE "takes no noise out of single frames"

/* A copy with Gaussian noise of standard deviation SIGMA on the [-1, 1] scale, rounded and clipped: a pure
 * function of samples, the picture's index and SEED. */
NfPicture *nf_picture_add_noise (const NfPicture *picture, double sigma, guint64 seed);

/* Sum of squared differences of two pictures of the same layout and size. */
double nf_picture_squared_error (const NfPicture *a, const NfPicture *b);

/* Peak signal-to-noise ratio in dB of 8-bit samples. */
double nf_psnr (double squared_error, double samples);

G_END_DECLS
