/* normflow: what is counted of a world model's frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <math.h>

#include "world-figures.h"

/* Brightness is that of the samples that say it. */
static void
test_light (void **state)
{
  static const struct
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

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_light),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
