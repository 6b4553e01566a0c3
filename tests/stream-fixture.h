/* normflow: what tests of streams code. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-test.h"

#include "random-model.h"

#define FRAMES RANDOM_VIDEO_FRAMES
#define WIDTH RANDOM_VIDEO_WIDTH
#define HEIGHT RANDOM_VIDEO_HEIGHT
#define ACTIONS RANDOM_VIDEO_ACTIONS
#define BYTES (WIDTH * HEIGHT * 3)

/* Of random weights of a strength, see random_model_write_scaled(). */
static inline NfModel *
model_new_scaled (const NfConfig *config, const char *kernels, double deviation)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_test_temporary (".safetensors");
  random_model_write_scaled (path, config, nf_test_device (kernels), 5, deviation);
  NfModel *model = nf_model_load (path, nf_test_device (kernels), NULL, NULL, NULL, &error);
  g_unlink (path);
  nf_test_ok (model, error);
  return model;
}

static inline NfModel *
model_new (const NfConfig *config, const char *kernels)
{
  return model_new_scaled (config, kernels, RANDOM_VIDEO_SCALE);
}

/* A picture that changes from frame to frame, with noise. */
static inline void
fill (guint8 *samples, guint n)
{
  for (guint i = 0; i < BYTES; i++)
    {
      guint32 r[4];
      nf_random_u32x4 (n, 1, i, r);
      samples[i] = (guint8)(i + 11 * n + r[0] % 16);
    }
}

/* The action that leads to frame N: none now and then. */
static inline const float *
action_of (guint n)
{
  static const float actions[ACTIONS][ACTIONS] = { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } };
  return n % 7 == 0 ? NULL : actions[n % ACTIONS];
}
