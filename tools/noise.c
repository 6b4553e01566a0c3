/* normflow: noise to remove again, and what is left of it. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "noise.h"
#include "nf-random.h"

#include <math.h>

NfPicture *
nf_picture_add_noise (const NfPicture *picture, double sigma, guint64 seed)
{
  NfPicture *noisy = nf_picture_new_like (picture);
  g_autofree float *noise = g_new (float, picture->size);

  /* 255 steps of 8 bits are 2 on the [-1, 1] scale. */
  nf_random_normal (seed, picture->index, picture->size, sigma * 127.5, noise);
  for (gsize i = 0; i < picture->size; i++)
    noisy->data[i] = (guint8)CLAMP (floor (picture->data[i] + (double)noise[i] + 0.5), 0, 255);
  noisy->index = picture->index;
  noisy->seconds = picture->seconds;
  return noisy;
}

double
nf_picture_squared_error (const NfPicture *a, const NfPicture *b)
{
  guint64 sum = 0;

  g_return_val_if_fail (a->size == b->size, 0);
  for (gsize i = 0; i < a->size; i++)
    {
      int difference = a->data[i] - b->data[i];

      sum += (guint64)(difference * difference);
    }
  return (double)sum;
}

double
nf_psnr (double squared_error, double samples)
{
  return 10 * log10 (255.0 * 255.0 * samples / squared_error);
}
