/* normflow: what is counted of a world model's frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#include "world-figures.h"

/* Brightness is that of the samples that say it. */
static void
test_light (void **state)
{
  const struct
  {
    NfPixelLayout layout;
    double brightness, contrast;
  } cases[] = { { NF_PIXELS_YUV420, 100, 0 },
                { NF_PIXELS_GRAY, 100, 0 },
                { NF_PIXELS_RGB, (100 + 200 + 30) / 3.0, sqrt (14600 / 3.0) } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (NfPicture) picture = nf_picture_new (cases[i].layout, 18, 17);
      static const guint8 values[] = { 100, 200, 30 };
      double brightness = 1, contrast = 2;
      for (guint p = 0; p < nf_picture_planes (cases[i].layout); p++)
        {
          guint width, height;
          nf_picture_extent (cases[i].layout, p, 18, 17, &width, &height);
          memset (picture->frame.planes[p].data, values[p], (gsize)width * height);
        }
      nf_figures_add_light (picture, &brightness, &contrast);
      assert_true (fabs (brightness - 1 - cases[i].brightness) < 1e-9);
      assert_true (fabs (contrast - 2 - cases[i].contrast) < 1e-6);
    }
}

/* Frames of a world itself, so many; that NAMED led to each is believed where TAKEN did. */
static void
watch (NfWorldPattern pattern, guint side, guint frames, guint taken, guint named, NfFiguresSeen *seen,
       double *speed)
{
  const NfFigures figures = { .pattern = pattern, .width = side, .height = side };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfWorld) world = nf_world_new (pattern, side, side, 7, &error);
  g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_RGB, side, side);
  NfWorldReading reading;
  NfWorldState before, now;
  double sum = 0, n = 0;
  nf_test_ok (world, error);
  nf_figures_seen_init (seen, frames);
  nf_world_render (world, NF_PIXELS_RGB, &picture->frame);
  nf_world_read_frame (world, NF_PIXELS_RGB, &picture->frame, &reading);
  nf_world_get_state (world, &before);
  for (guint t = 0; t < frames; t++)
    {
      nf_test_ok (nf_world_step (world, taken, &error), error);
      nf_world_render (world, NF_PIXELS_RGB, &picture->frame);
      nf_figures_see (&figures, seen, world, picture, t, named, &reading);
      nf_world_get_state (world, &now);
      const double moved = hypot (now.ball_x - before.ball_x, now.ball_y - before.ball_y);
      before = now;
      if (moved > side / 4.0) /* served: from the paddle to the middle of the court */
        continue;
      sum += moved;
      n++;
    }
  *speed = sum / n;
  assert_true (pattern != NF_WORLD_PONG || n < frames);
}

/* The mean is that of what the ball really moves by, and a serve is no move. */
static void
test_speed (void **state)
{
  static const guint sides[] = { 32, 64, 128 };
  static const NfWorldPattern patterns[] = { NF_WORLD_PONG, NF_WORLD_BOUNCE };
  for (guint i = 0; i < G_N_ELEMENTS (sides) * G_N_ELEMENTS (patterns); i++)
    {
      g_auto (NfFiguresSeen) seen = { 0 };
      double speed;
      watch (patterns[i % 2], sides[i / 2], 500, 0, 0, &seen, &speed);
      const double mean = nf_figures_mean_speed (&seen);
      if (!(fabs (mean - speed) < 0.01 * speed))
        fail_msg ("%s of %u pixels: the ball moves by %g pixels, %g were measured",
                  nf_world_pattern_name (patterns[i % 2]), sides[i / 2], speed, mean);
    }
}

/* A paddle that stands still does not obey one who moves it, nor the other way, at any size. */
static void
test_paddle (void **state)
{
  static const guint sides[] = { 16, 32, 48, 64, 128 };
  for (guint i = 0; i < G_N_ELEMENTS (sides); i++)
    for (guint named = 0; named < 3; named++)
      {
        g_auto (NfFiguresSeen) seen = { 0 };
        double speed;
        watch (NF_WORLD_PONG, sides[i], 100, 0, named, &seen, &speed);
        assert_int_equal (seen.paddles, 100);
        if (seen.obeyed != (named ? 0 : 100))
          fail_msg ("%u pixels, action %u: %u of 100 obeyed", sides[i], named, (guint)seen.obeyed);
      }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_light),
    cmocka_unit_test (test_speed),
    cmocka_unit_test (test_paddle),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
