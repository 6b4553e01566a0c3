/* normflow: tests of the tools' media files and training tiles. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-test.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <glib/gstdio.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>

#include "captions.h"
#include "clips.h"
#include "media.h"
#include "media-look.h"
#include "nf-error.h"
#include "nf-random.h"
#include "plot.h"
#include "scan.h"

static char *folder;

static char *
in_folder (const char *name)
{
  return g_build_filename (folder, name, NULL);
}

static int
set_up (void **state)
{
  folder = g_dir_make_tmp ("normflow-media-XXXXXX", NULL);
  return folder ? 0 : -1;
}

static int
tear_down (void **state)
{
  nf_test_remove (folder);
  g_free (folder);
  return 0;
}

/* Smooth in space, moving in time, with a little noise: like video, and no two frames alike. */
static NfPicture *
make_picture (NfPixelLayout layout, guint width, guint height, guint number)
{
  NfPicture *picture = nf_picture_new (layout, width, height);

  for (gsize i = 0; i < picture->size; i++)
    picture->data[i]
        = (guint8)(128 + 90 * sin ((double)i * 0.013 + number * 0.4) + 8 * nf_random_uniform (number, 0, i));
  return picture;
}

static char *
make_video_at (const char *name, NfPixelLayout layout, guint width, guint height, guint n, int rate)
{
  g_autofree char *path = in_folder (name);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaWriter) writer
      = nf_media_writer_open (path, layout, width, height, rate, 1, NULL, &error);

  assert_null (error);
  for (guint i = 0; i < n; i++)
    {
      g_autoptr (NfPicture) picture = make_picture (layout, width, height, i);

      assert_true (nf_media_writer_put (writer, &picture->frame, &error));
    }
  assert_true (nf_media_writer_close (writer, &error));
  return g_steal_pointer (&path);
}

static char *
make_video (const char *name, NfPixelLayout layout, guint width, guint height, guint n)
{
  return make_video_at (name, layout, width, height, n, 30);
}

static void
assert_error (GError *error, int code, const char *part)
{
  assert_non_null (error);
  assert_int_equal (error->domain, NF_ERROR);
  assert_int_equal (error->code, code);
  assert_non_null (strstr (error->message, part));
}

static void
test_round_trip (void **state)
{
  static const NfPixelLayout layouts[] = { NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420 };

  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    for (guint odd = 0; odd < 2; odd++)
      {
        guint width = odd ? 75 : 64, height = odd ? 43 : 48, n = 0;
        g_autofree char *path = make_video ("round.mkv", layouts[l], width, height, 7);
        g_autoptr (GError) error = NULL;
        g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, layouts[l], &error);
        NfPicture *picture;

        assert_null (error);
        assert_int_equal (nf_media_reader_get_info (reader)->width, width);
        assert_int_equal (nf_media_reader_get_info (reader)->height, height);
        while ((picture = nf_media_reader_next (reader, &error)))
          {
            g_autoptr (NfPicture) expected = make_picture (layouts[l], width, height, n);

            assert_int_equal (picture->index, n);
            assert_int_equal (picture->size, nf_frame_samples (layouts[l], width, height));
            assert_memory_equal (picture->data, expected->data, expected->size);
            assert_true (fabs (picture->seconds - n / 30.0) < 2e-3);
            nf_picture_unref (picture);
            n++;
          }
        assert_null (error);
        assert_int_equal (n, 7);
        assert_null (nf_media_reader_describe_damage (reader));
      }
}

static void
check_small (NfPixelLayout layout, guint width, guint height)
{
  g_autofree char *path = make_video ("small.mkv", layout, width, height, 2);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, layout, &error);

  assert_non_null (reader);
  for (guint n = 0; n < 2; n++)
    {
      g_autoptr (NfPicture) expected = make_picture (layout, width, height, n);
      g_autoptr (NfPicture) back = nf_media_reader_next (reader, &error);

      if (!back || memcmp (back->data, expected->data, expected->size))
        fail_msg ("%s of %ux%u: frame %u came back wrong", nf_pixel_layout_name (layout), width, height, n);
    }
}

/* Every size is lossless, however small. */
static void
test_small_frames (void **state)
{
  static const NfPixelLayout layouts[] = { NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420 };
  static const guint long_sides[] = { 31, 32, 33, 64, 353, 720 };

  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    {
      for (guint width = 1; width <= 20; width++)
        for (guint height = 1; height <= 20; height++)
          check_small (layouts[l], width, height);
      for (guint i = 0; i < G_N_ELEMENTS (long_sides); i++)
        for (guint side = 1; side <= 33; side += 4)
          {
            check_small (layouts[l], side, long_sides[i]);
            check_small (layouts[l], long_sides[i], side);
          }

      /* and the coder that models are held against takes them */
      g_autoptr (NfMediaPeers) peers = nf_media_peers_new (layouts[l]);
      for (guint side = 1; side <= 7; side++)
        {
          g_autoptr (NfPicture) picture = make_picture (layouts[l], side, 3, 1);
          g_autoptr (GError) error = NULL;
          NfMediaBits bits;

          assert_true (nf_media_peers_measure (peers, &picture->frame, &bits, &error));
          assert_true (bits.ffv1 > 0);
        }
    }
}

/* NV12-like chroma and RGBx, as elements hand them over. */
static void
test_interleaved_planes (void **state)
{
  static const NfPixelLayout layouts[] = { NF_PIXELS_RGB, NF_PIXELS_YUV420 };

  for (guint l = 0; l < 2; l++)
    {
      g_autoptr (NfPicture) picture = make_picture (layouts[l], 30, 20, 1);
      g_autofree guint8 *bytes = g_malloc0 (4 * 32 * 20);
      g_autofree char *path = in_folder ("interleaved.mkv");
      g_autoptr (GError) error = NULL;
      g_autoptr (NfMediaWriter) writer = NULL;
      g_autoptr (NfMediaReader) reader = NULL;
      g_autoptr (NfPicture) back = NULL;
      NfFrame frame = { 30, 20, { { 0 } } };

      for (guint i = 0; i < 3; i++)
        {
          guint w, h, step = l == 0 ? 4 : i ? 2 : 1;
          guint8 *data = l == 0 ? bytes + i : i ? bytes + 32 * 20 + i - 1 : bytes;
          gint stride = l == 0 ? 4 * 32 : 32;

          nf_picture_extent (layouts[l], i, 30, 20, &w, &h);
          frame.planes[i] = (NfPlane){ data, stride, (gint)step };
          for (guint y = 0; y < h; y++)
            for (guint x = 0; x < w; x++)
              data[y * (guint)stride + x * step] = picture->frame.planes[i].data[y * w + x];
        }
      writer = nf_media_writer_open (path, layouts[l], 30, 20, 25, 1, NULL, &error);
      assert_non_null (writer);
      assert_true (nf_media_writer_put (writer, &frame, &error));
      assert_true (nf_media_writer_close (writer, &error));
      reader = nf_media_reader_open (path, layouts[l], &error);
      assert_non_null (reader);
      back = nf_media_reader_next (reader, &error);
      assert_memory_equal (back->data, picture->data, picture->size);
    }
}

static void
check_seeking (const char *path, guint n)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, NF_PIXELS_YUV420, &error);
  g_autoptr (GPtrArray) frames = g_ptr_array_new_with_free_func ((GDestroyNotify)nf_picture_unref);
  NfPicture *picture;

  assert_non_null (reader);
  while ((picture = nf_media_reader_next (reader, &error)))
    g_ptr_array_add (frames, picture);
  assert_int_equal (frames->len, n);
  assert_true (nf_media_reader_index (reader, &error));
  assert_int_equal (nf_media_reader_get_info (reader)->n_frames, n);
  for (guint i = 0; i < 40; i++)
    {
      guint frame = (guint)(nf_random_uniform (5, 0, i) * n);
      g_autoptr (NfPicture) found = NULL;
      const NfPicture *expected = frames->pdata[frame];

      assert_true (nf_media_reader_seek (reader, frame, &error));
      assert_int_equal (nf_media_reader_get_position (reader), frame);
      found = nf_media_reader_next (reader, &error);
      assert_non_null (found);
      assert_int_equal (found->index, frame);
      assert_memory_equal (found->data, expected->data, expected->size);
    }
  assert_false (nf_media_reader_seek (reader, n, &error));
  assert_error (error, NF_ERROR_ARGUMENT, path);
}

static void
test_seek (void **state)
{
  g_autofree char *mkv = make_video ("seek.mkv", NF_PIXELS_YUV420, 64, 48, 40);
  /* Frames that refer forwards and backwards, a key frame only now and then. */
  g_autofree char *mp4 = make_video ("seek.mp4", NF_PIXELS_YUV420, 64, 48, 300);
  g_autofree char *y4m = make_video ("seek.y4m", NF_PIXELS_YUV420, 64, 48, 20);

  check_seeking (mkv, 40);
  check_seeking (mp4, 300);
  check_seeking (y4m, 20);
}

/* With NORMFLOW_TEST_MEDIA, a file or folder: every frame sought in real videos is the one that reading
 * gives. */
static void
test_seek_real (void **state)
{
  const char *media = g_getenv ("NORMFLOW_TEST_MEDIA");
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) files = NULL;

  if (!media || !*media)
    skip ();
  files = nf_media_list ((const char *const[]){ media, NULL }, &error);
  assert_null (error);
  for (guint i = 0; i < files->len; i++)
    {
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (files->pdata[i], NF_PIXELS_YUV420, &error);
      g_autoptr (GPtrArray) sums = g_ptr_array_new_with_free_func (g_free);
      NfPicture *picture;

      assert_non_null (reader);
      while ((picture = nf_media_reader_next (reader, &error)))
        {
          g_ptr_array_add (sums, g_compute_checksum_for_data (G_CHECKSUM_MD5, picture->data, picture->size));
          nf_picture_unref (picture);
        }
      assert_null (error);
      for (guint k = 0; k < 40; k++)
        {
          guint frame = (guint)(nf_random_uniform (7, i, k) * sums->len);
          g_autoptr (NfPicture) found = NULL;
          g_autofree char *sum = NULL;

          assert_true (nf_media_reader_seek (reader, frame, &error));
          found = nf_media_reader_next (reader, &error);
          assert_non_null (found);
          sum = g_compute_checksum_for_data (G_CHECKSUM_MD5, found->data, found->size);
          assert_string_equal (sum, sums->pdata[frame]);
        }
    }
}

static void
test_pictures (void **state)
{
  g_autofree char *path = make_video ("one.png", NF_PIXELS_GRAY, 33, 17, 1);
  g_autofree char *odd = in_folder ("a:b %20.png");
  g_autofree char *sequence = make_video ("many-%02d.png", NF_PIXELS_RGB, 16, 16, 3);
  g_autofree char *second = in_folder ("many-02.png");
  g_autoptr (NfPicture) expected = make_picture (NF_PIXELS_GRAY, 33, 17, 0);
  g_autoptr (GError) error = NULL;

  assert_true (nf_media_is_picture (path));
  assert_false (nf_media_is_picture ("x.mkv"));
  assert_true (g_file_test (second, G_FILE_TEST_EXISTS));
  assert_int_equal (g_rename (path, odd), 0);
  {
    g_autoptr (NfMediaReader) reader = nf_media_reader_open (odd, NF_PIXELS_GRAY, &error);
    g_autoptr (NfPicture) first = NULL, again = NULL, none = NULL, luma = NULL;

    assert_null (error);
    first = nf_media_reader_next (reader, &error);
    none = nf_media_reader_next (reader, &error);
    assert_null (none);
    assert_null (error);
    assert_true (nf_media_reader_seek (reader, 0, &error));
    again = nf_media_reader_next (reader, &error);
    assert_int_equal (nf_media_reader_get_info (reader)->n_frames, 1);
    assert_memory_equal (first->data, expected->data, expected->size);
    assert_memory_equal (again->data, expected->data, expected->size);
  }
  {
    /* Grey keeps its values in 4:2:0 too, without colour. */
    g_autoptr (NfMediaReader) reader = nf_media_reader_open (odd, NF_PIXELS_YUV420, &error);
    g_autoptr (NfPicture) yuv = nf_media_reader_next (reader, &error);

    assert_memory_equal (yuv->data, expected->data, expected->size);
    for (gsize i = expected->size; i < yuv->size; i++)
      assert_int_equal (yuv->data[i], 128);
  }
}

static void
test_list (void **state)
{
  g_autofree char *root = in_folder ("list"), *deep = g_build_filename (root, "b", NULL);
  g_autofree char *first = g_build_filename (root, "a.mp4", NULL),
                  *second = g_build_filename (deep, "z.PNG", NULL);
  g_autofree char *text = g_build_filename (root, "notes.txt", NULL),
                  *hidden = g_build_filename (root, ".a.mp4", NULL);
  g_autofree char *loop = g_build_filename (deep, "loop", NULL),
                  *empty = g_build_filename (root, "empty", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) files = NULL;

  assert_int_equal (g_mkdir_with_parents (deep, 0700), 0);
  assert_int_equal (g_mkdir_with_parents (empty, 0700), 0);
  assert_true (g_file_set_contents (first, "x", 1, NULL) && g_file_set_contents (second, "x", 1, NULL));
  assert_true (g_file_set_contents (text, "x", 1, NULL) && g_file_set_contents (hidden, "x", 1, NULL));
  assert_int_equal (symlink (root, loop), 0);

  files = nf_media_list ((const char *const[]){ root, text, NULL }, &error);
  assert_null (error);
  assert_int_equal (files->len, 3);
  assert_string_equal (files->pdata[0], first);
  assert_string_equal (files->pdata[1], second);
  assert_string_equal (files->pdata[2], text);
  assert_null (nf_media_list ((const char *const[]){ empty, NULL }, &error));
  assert_error (error, NF_ERROR_NOT_FOUND, empty);
  g_clear_error (&error);
  assert_null (nf_media_list ((const char *const[]){ "/nowhere/at/all", NULL }, &error));
  assert_error (error, NF_ERROR_NOT_FOUND, "/nowhere/at/all");
}

static void
test_bad_files (void **state)
{
  g_autofree char *good = make_video ("good.mkv", NF_PIXELS_YUV420, 64, 48, 30);
  g_autofree char *bad = in_folder ("bad.mkv");
  g_autofree char *bytes = NULL;
  gsize length = 0;
  g_autoptr (GError) error = NULL;

  assert_null (nf_media_reader_open ("/nowhere/at/all.mp4", NF_PIXELS_RGB, &error));
  assert_error (error, NF_ERROR_NOT_FOUND, "/nowhere/at/all.mp4");
  g_clear_error (&error);
  assert_null (nf_media_reader_open (folder, NF_PIXELS_RGB, &error));
  assert_error (error, NF_ERROR_READ, folder);
  g_clear_error (&error);
  assert_null (nf_media_reader_open (good, NF_PIXELS_LATENT, &error));
  assert_error (error, NF_ERROR_UNSUPPORTED, "pixel_layout latent");
  g_clear_error (&error);
  assert_true (g_file_set_contents (bad, "this is no video, whatever its name says", -1, NULL));
  assert_null (nf_media_reader_open (bad, NF_PIXELS_RGB, &error));
  assert_error (error, NF_ERROR_FORMAT, bad);
  g_clear_error (&error);

  /* A playlist must not lead anywhere. */
  assert_true (g_file_set_contents (
      bad, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", -1, NULL));
  assert_null (nf_media_reader_open (bad, NF_PIXELS_RGB, &error));
  g_clear_error (&error);

  /* Cut off anywhere, or with bytes turned over: an error or fewer frames, nothing worse. */
  assert_true (g_file_get_contents (good, &bytes, &length, NULL));
  for (guint i = 0; i < 24; i++)
    {
      gsize cut = length * i / 24;
      g_autoptr (NfMediaReader) reader = NULL;
      guint n = 0;

      assert_true (g_file_set_contents (bad, bytes, (gssize)cut, NULL));
      reader = nf_media_reader_open (bad, NF_PIXELS_YUV420, &error);
      assert_true (reader || error);
      while (reader)
        {
          g_autoptr (NfPicture) picture = nf_media_reader_next (reader, &error);

          if (!picture)
            break;
          n++;
        }
      assert_true (n <= 30);
      g_clear_error (&error);
    }
  for (guint i = 0; i < 24; i++)
    {
      g_autofree char *broken = g_memdup2 (bytes, length);
      g_autoptr (NfMediaReader) reader = NULL;

      for (guint k = 0; k < 40; k++)
        broken[(gsize)(nf_random_uniform (i, 1, k) * (double)length)]
            ^= (char)(1 + 254 * nf_random_uniform (i, 2, k));
      assert_true (g_file_set_contents (bad, broken, (gssize)length, NULL));
      reader = nf_media_reader_open (bad, NF_PIXELS_YUV420, &error);
      for (guint n = 0; reader && n < 200; n++)
        {
          g_autoptr (NfPicture) picture = nf_media_reader_next (reader, &error);

          if (!picture)
            break;
        }
      g_clear_error (&error);
    }
}

static void
test_writer_errors (void **state)
{
  g_autofree char *unknown = in_folder ("x.docx"), *mkv = in_folder ("x.mkv");
  g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_GRAY, 20, 10, 0);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaWriter) writer = NULL;

  assert_null (nf_media_writer_open (unknown, NF_PIXELS_RGB, 16, 16, 25, 1, NULL, &error));
  assert_error (error, NF_ERROR_ARGUMENT, ".mkv");
  g_clear_error (&error);
  assert_null (nf_media_writer_open ("/nowhere/at/all.mkv", NF_PIXELS_RGB, 16, 16, 25, 1, NULL, &error));
  assert_error (error, NF_ERROR_WRITE, "/nowhere/at/all.mkv");
  g_clear_error (&error);
  assert_null (nf_media_writer_open (mkv, NF_PIXELS_RGB, 0, 16, 25, 1, NULL, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "0x16");
  g_clear_error (&error);
  writer = nf_media_writer_open (mkv, NF_PIXELS_GRAY, 16, 16, 25, 1, NULL, &error);
  assert_non_null (writer);
  assert_false (nf_media_writer_put (writer, &picture->frame, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "20x10");
}

static void
test_peers (void **state)
{
  static const NfPixelLayout layouts[] = { NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420 };

  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    {
      g_autoptr (NfMediaPeers) peers = nf_media_peers_new (layouts[l]);
      g_autoptr (NfPicture) picture = nf_picture_new (layouts[l], 96, 64);
      g_autoptr (GError) error = NULL;
      NfMediaBits flat, noise, again;

      memset (picture->data, 77, picture->size);
      assert_true (nf_media_peers_measure (peers, &picture->frame, &flat, &error));
      for (gsize i = 0; i < picture->size; i++)
        picture->data[i] = (guint8)(256 * nf_random_uniform (1, 0, i));
      assert_true (nf_media_peers_measure (peers, &picture->frame, &noise, &error));
      assert_true (nf_media_peers_measure (peers, &picture->frame, &again, &error));
      /* White noise cannot be made smaller, a flat picture nearly vanishes; frames do not depend on those
       * before. */
      assert_true (noise.png > 8 * picture->size && noise.png < 10 * picture->size);
      assert_true (noise.ffv1 > 8 * picture->size && noise.ffv1 < 12 * picture->size);
      assert_true (flat.png < picture->size && flat.ffv1 < picture->size && flat.ffv1 > 0);
      assert_int_equal (again.png, noise.png);
      assert_int_equal (again.ffv1, noise.ffv1);
    }
}

static void
test_scale_and_filter (void **state)
{
  g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_YUV420, 64, 48, 0);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfPicture) half = nf_picture_scale (picture, 32, 24, &error), filtered = NULL, rgb = NULL;
  g_autoptr (NfMediaFilter) filter = NULL;
  double sum = 0;

  assert_non_null (half);
  assert_int_equal (half->size, 32 * 24 * 3 / 2);
  /* Area averaging by two is the mean of four. */
  for (guint y = 0; y < 24; y++)
    for (guint x = 0; x < 32; x++)
      {
        const guint8 *p = picture->data + 128 * y + 2 * x;

        sum += fabs ((p[0] + p[1] + p[64] + p[65]) / 4.0 - half->data[32 * y + x]);
      }
  assert_true (sum / (32 * 24) < 1);
  assert_null (nf_picture_scale (picture, 0, 24, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "0x24");
  g_clear_error (&error);

  rgb = nf_picture_to_rgb (half, &error);
  assert_non_null (rgb);
  assert_int_equal (rgb->size, 32 * 24 * 3);

  filter = nf_media_filter_new ("negate", NF_PIXELS_YUV420, 64, 48, &error);
  assert_non_null (filter);
  filtered = nf_media_filter_run (filter, &picture->frame, &error);
  assert_non_null (filtered);
  assert_int_equal (filtered->size, picture->size);
  assert_false (nf_media_filter_run (filter, &half->frame, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "32x24");
  g_clear_error (&error);
  assert_null (nf_media_filter_new ("nonsense=1", NF_PIXELS_YUV420, 64, 48, &error));
  assert_error (error, NF_ERROR_UNSUPPORTED, "nonsense");
}

/* Clips: frames of one grey value tell by a tile which frame it was cut from. */

static void
make_flat_video (const char *path, guint first, guint n)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaWriter) writer = nf_media_writer_open (path, NF_PIXELS_GRAY, 40, 36, 25, 1, NULL, &error);

  assert_null (error);
  for (guint i = 0; i < n; i++)
    {
      g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_GRAY, 40, 36);

      memset (picture->data, (int)(first + i), picture->size);
      assert_true (nf_media_writer_put (writer, &picture->frame, &error));
    }
  assert_true (nf_media_writer_close (writer, &error));
}

static void
test_clips_pure (void **state)
{
  g_autofree char *a = make_video ("a.mkv", NF_PIXELS_YUV420, 70, 50, 30);
  g_autofree char *b = make_video ("b.mp4", NF_PIXELS_YUV420, 64, 64, 50);
  const char *const paths[] = { a, b, NULL };
  const double scales[] = { 1, 0.5 };
  NfClipsOptions options = { .layout = NF_PIXELS_YUV420,
                             .width = 16,
                             .height = 16,
                             .batch = 64,
                             .seed = 3,
                             .holdout = 0.1,
                             .scales = scales,
                             .n_scales = 2,
                             .cache = 1 << 24 };
  gsize bytes = 64 * 16 * 16 * 3 / 2;
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) seen = g_ptr_array_new_with_free_func (g_free);

  {
    g_autoptr (NfClips) clips = nf_clips_new (paths, &options, &error);

    assert_null (error);
    assert_int_equal (nf_clips_count (clips), 2);
    assert_int_equal (nf_clips_get_frames (clips), 27 + 45);
    for (guint64 step = 0; step < 140; step++)
      {
        const gint *labels = (const gint *)&options;
        const guint8 *tiles = nf_clips_batch (clips, step, &labels, &error);

        assert_non_null (tiles);
        assert_null (labels);
        g_ptr_array_add (seen, g_memdup2 (tiles, bytes));
      }
    assert_int_equal (nf_clips_get_damaged (clips), 0);
    assert_memory_not_equal (seen->pdata[0], seen->pdata[64], bytes);
  }
  {
    /* Without a cache, from the middle, and back: the same batches. */
    g_autoptr (NfClips) clips = NULL;

    options.cache = 0;
    clips = nf_clips_new (paths, &options, &error);
    assert_memory_equal (nf_clips_batch (clips, 100, NULL, &error), seen->pdata[100], bytes);
    assert_memory_equal (nf_clips_batch (clips, 139, NULL, &error), seen->pdata[139], bytes);
    assert_memory_equal (nf_clips_batch (clips, 5, NULL, &error), seen->pdata[5], bytes);
  }
  {
    g_autoptr (NfClips) clips = NULL;

    options.seed = 4;
    clips = nf_clips_new (paths, &options, &error);
    assert_memory_not_equal (nf_clips_batch (clips, 100, NULL, &error), seen->pdata[100], bytes);
  }
}

/* For showing, colours are those that the file says: with its matrix and in its range. */
static void
test_colours (void **state)
{
  static const struct
  {
    const char *look;
    guint8 rgb[3];
  } cases[] = {
    /* R = Y' + 2 (1 - Kr) Cr and so on, Y'CbCr = 200, 100, 160 in 16 to 235 or in 0 to 255 */
    { "color_range=tv:colorspace=smpte170m", { 255, 199, 158 } },
    { "color_range=tv:colorspace=bt709", { 255, 203, 155 } },
    { "color_range=pc:colorspace=bt709", { 250, 190, 148 } },
  };
  for (guint k = 0; k < G_N_ELEMENTS (cases); k++)
    {
      g_autofree char *path = g_build_filename (folder, "colours.mkv", NULL);
      g_autoptr (GError) error = NULL;
      g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_YUV420, 32, 16);
      static const guint8 values[] = { 200, 100, 160 };
      for (guint i = 0; i < 3; i++)
        memset (picture->frame.planes[i].data, values[i], i ? 16 * 8 : 32 * 16);
      g_autoptr (NfMediaWriter) writer
          = nf_media_writer_open (path, NF_PIXELS_YUV420, 32, 16, 30, 1, cases[k].look, &error);
      assert_non_null (writer);
      assert_true (nf_media_writer_put (writer, &picture->frame, &error));
      assert_true (nf_media_writer_close (writer, &error));
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, NF_PIXELS_YUV420, &error);
      assert_non_null (reader);
      g_autoptr (NfPicture) read = nf_media_reader_next (reader, &error);
      assert_non_null (read);
      g_autoptr (NfPicture) half = nf_picture_scale (read, 16, 8, &error);
      g_autoptr (NfPicture) rgb = nf_picture_to_rgb (half, &error);
      assert_non_null (rgb);
      for (guint i = 0; i < 3; i++)
        if (ABS (rgb->frame.planes[i].data[40] - cases[k].rgb[i]) > 1)
          fail_msg ("%s: %u is %u, not %u", cases[k].look, i, rgb->frame.planes[i].data[40], cases[k].rgb[i]);
    }
}

/* Rows of an odd length end where they do: a red column at the left does not come in at the right. */
static void
test_scale_odd (void **state)
{
  static const guint sizes[][4] = { { 49, 33, 24, 16 }, { 97, 61, 48, 30 }, { 427, 240, 64, 48 } };
  for (guint k = 0; k < G_N_ELEMENTS (sizes); k++)
    {
      const guint from = sizes[k][0], width = sizes[k][2], height = sizes[k][3];
      g_autoptr (GError) error = NULL;
      g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_RGB, from, sizes[k][1]);
      memset (picture->data, 100, picture->size);
      for (guint y = 0; y < sizes[k][1]; y++)
        for (guint i = 0; i < 3; i++)
          picture->frame.planes[i].data[y * from] = i ? 0 : 255;
      g_autoptr (NfPicture) scaled = nf_picture_scale (picture, width, height, &error);
      assert_non_null (scaled);
      for (guint i = 0; i < 3; i++)
        for (guint y = 0; y < height; y++)
          for (guint x = width / 2; x < width; x++)
            assert_true (ABS (scaled->frame.planes[i].data[y * width + x] - 100) <= 1);
    }
}

/* Tiles that are not square: luma says the column, chroma the row. */
static void
test_clips_tall (void **state)
{
  enum
  {
    BATCH = 32,
    WIDTH = 8,
    HEIGHT = 24,
    LUMA = WIDTH * HEIGHT
  };
  g_autofree char *path = g_build_filename (folder, "ramps.mkv", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaWriter) writer
      = nf_media_writer_open (path, NF_PIXELS_YUV420, 70, 50, 30, 1, NULL, &error);
  assert_non_null (writer);
  g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_YUV420, 70, 50);
  const NfPlane *planes = picture->frame.planes;
  for (guint y = 0; y < 50; y++)
    for (guint x = 0; x < 70; x++)
      {
        planes[0].data[(gssize)y * planes[0].stride + x] = (guint8)x;
        for (guint i = 1; i < 3; i++)
          planes[i].data[(gssize)(y / 2) * planes[i].stride + x / 2] = (guint8)(y / 2);
      }
  for (guint n = 0; n < 8; n++)
    assert_true (nf_media_writer_put (writer, &picture->frame, &error));
  assert_true (nf_media_writer_close (writer, &error));

  const char *const paths[] = { path, NULL };
  const NfClipsOptions options
      = { .layout = NF_PIXELS_YUV420, .width = WIDTH, .height = HEIGHT, .batch = BATCH, .seed = 3 };
  g_autoptr (NfClips) clips = nf_clips_new (paths, &options, &error);
  assert_non_null (clips);
  const guint8 *tiles = nf_clips_batch (clips, 0, NULL, &error);
  assert_non_null (tiles);
  guint inside = 0;
  for (guint t = 0; t < BATCH; t++, tiles += LUMA * 3 / 2)
    {
      for (guint i = 0; i < LUMA; i++)
        assert_int_equal (tiles[i], tiles[i % WIDTH]);
      const int across = ABS (tiles[WIDTH - 1] - tiles[0]), down = tiles[LUMA * 5 / 4 - 1] - tiles[LUMA];
      for (guint i = 0; i < LUMA / 2; i++)
        assert_int_equal (tiles[LUMA + i], tiles[LUMA + i % (LUMA / 4) / (WIDTH / 2) * (WIDTH / 2)]);
      inside += across == WIDTH - 1 && down == HEIGHT / 2 - 1;
    }
  assert_true (inside > BATCH / 2);
}

static void
test_clips_holdout (void **state)
{
  g_autofree char *path = in_folder ("flat.mkv"), *other = in_folder ("other.mkv");
  const char *const paths[] = { path, NULL }, *const extra[] = { other, NULL };
  NfClipsOptions options
      = { .layout = NF_PIXELS_GRAY, .width = 16, .height = 16, .batch = 128, .seed = 1, .holdout = 0.2 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfClips) clips = NULL;
  g_autoptr (GPtrArray) validation = NULL;
  guint seen[256] = { 0 };

  make_flat_video (path, 10, 100);
  make_flat_video (other, 200, 12);
  clips = nf_clips_new (paths, &options, &error);
  assert_null (error);
  validation = nf_clips_validation (clips, extra, 64, &error);
  assert_null (error);
  assert_int_equal (validation->len, 2);
  for (guint s = 0; s < 2; s++)
    {
      const NfClipsValidation *set = validation->pdata[s];

      assert_int_equal (set->n_tiles, 32);
      assert_int_equal (set->unseen, s);
      assert_string_equal (set->name, s ? "other.mkv" : "flat.mkv");
      for (gsize i = 0; i < 32 * 256; i++)
        assert_true (s ? set->tiles[i] >= 200 && set->tiles[i] < 212
                       : set->tiles[i] >= 90 && set->tiles[i] < 110);
    }
  for (guint64 step = 0; step < 300; step++)
    {
      const guint8 *tiles = nf_clips_batch (clips, step, NULL, &error);

      for (guint t = 0; t < 128; t++)
        {
          for (guint i = 1; i < 256; i++)
            assert_int_equal (tiles[256 * t + i], tiles[256 * t]);
          seen[tiles[256 * t]]++;
        }
    }
  /* Every frame to train on was seen, none of the others. */
  for (guint i = 0; i < 256; i++)
    assert_true ((seen[i] > 0) == (i >= 10 && i < 90));
}

static void
test_clips_classes (void **state)
{
  g_autofree char *root = in_folder ("classes");
  NfClipsOptions options = { .layout = NF_PIXELS_GRAY,
                             .width = 16,
                             .height = 16,
                             .batch = 64,
                             .seed = 1,
                             .holdout = 0.25,
                             .labels = NF_CLIPS_FOLDERS };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfClips) clips = NULL;
  g_autoptr (GPtrArray) validation = NULL;
  const char *const paths[] = { root, NULL };

  for (guint k = 0; k < 2; k++)
    {
      g_autofree char *class_folder = g_build_filename (root, k ? "dogs" : "cats", NULL);

      assert_int_equal (g_mkdir_with_parents (class_folder, 0700), 0);
      for (guint i = 0; i < 4; i++)
        {
          g_autofree char *name = g_strdup_printf ("%u.png", i);
          g_autofree char *path = g_build_filename (class_folder, name, NULL);

          make_flat_video (path, 100 * k + 10 * i, 1);
        }
    }
  clips = nf_clips_new (paths, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_get_classes (clips), 2);
  assert_string_equal (nf_clips_get_class (clips, 0), "cats");
  assert_string_equal (nf_clips_get_class (clips, 1), "dogs");
  assert_int_equal (nf_clips_get_frames (clips), 6);
  validation = nf_clips_validation (clips, NULL, 8, &error);
  assert_int_equal (validation->len, 2);
  for (guint64 step = 0; step < 4; step++)
    {
      const gint *labels = NULL;
      const guint8 *tiles = nf_clips_batch (clips, step, &labels, &error);

      assert_non_null (labels);
      for (guint t = 0; t < 64; t++)
        {
          assert_int_equal (labels[t], tiles[256 * t] >= 100);
          assert_true (tiles[256 * t] % 100 <= 20);
        }
    }

  /* those of a model that knows others, too, keep its numbers */
  static const char *const known[] = { "birds", "dogs", "cats", NULL }, *const unknown[]
                                                                        = { "dogs", "birds", NULL };
  options.classes = known;
  g_autoptr (NfClips) more = nf_clips_new (paths, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_get_classes (more), 3);
  const gint *numbers = NULL;
  const guint8 *tiles_of_more = nf_clips_batch (more, 0, &numbers, &error);
  assert_non_null (tiles_of_more);
  for (guint t = 0; t < options.batch; t++)
    assert_int_equal (numbers[t], tiles_of_more[256 * t] >= 100 ? 1 : 2);
  options.classes = unknown;
  assert_null (nf_clips_new (paths, &options, &error));
  assert_error (error, NF_ERROR_DATA, "folder cats is not one of the classes dogs, birds");
  g_clear_error (&error);
  options.classes = NULL;

  /* files of the same name in two folders are alike */
  options.labels = NF_CLIPS_NAMES;
  g_autoptr (NfClips) named = nf_clips_new (paths, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_get_classes (named), 4);
  assert_string_equal (nf_clips_get_class (named, 2), "2.png");
  const gint *names = NULL;
  const guint8 *named_tiles = nf_clips_batch (named, 0, &names, &error);
  assert_non_null (named_tiles);
  for (guint t = 0; t < options.batch; t++)
    assert_int_equal (names[t], (named_tiles[t * 256] % 100 + 5) / 10);
}

/* Each sample is told what its file's tensor says, one of several captions as another, and -1 nothing. */
static void
test_captions (void **state)
{
  enum
  {
    B = 64,
    TOKENS = 2,
    FEATURES = 3,
    ONE = TOKENS * FEATURES
  };
  g_autofree char *path = in_folder ("captions.safetensors");
  NfConfig config = { .txt_size = 0 };
  float a[2 * ONE], b[ONE], nothing[ONE];
  gint labels[B];
  NfTrainBatch batch = { .B = B, .labels = labels };
  g_autoptr (GError) error = NULL;
  g_autoptr (GPtrArray) names = g_ptr_array_new ();
  for (guint i = 0; i < ONE; i++)
    {
      a[i] = 10 + (float)i;
      a[ONE + i] = 20 + (float)i;
      b[i] = 30 + (float)i;
      nothing[i] = 40 + (float)i;
    }
#define TENSOR(NAME, N, DATA)                                                                                \
  {                                                                                                          \
    .name = (char *)NAME, .dtype = NF_DTYPE_F32, .n_dims = 3, .dims = { N, TOKENS, FEATURES },               \
    .n_elements = N * ONE, .data = (const guint8 *)DATA                                                      \
  }
  const NfTensor tensors[]
      = { TENSOR ("null_text", 1, nothing), TENSOR ("b.png", 1, b), TENSOR ("a.png", 2, a) };
  assert_true (nf_tensor_file_write (path, tensors, G_N_ELEMENTS (tensors), NULL, &error));
  g_ptr_array_add (names, (gpointer) "a.png");
  g_ptr_array_add (names, (gpointer) "b.png");
  g_autoptr (NfCaptions) captions = nf_captions_open (path, names, &error);
  assert_non_null (captions);
  assert_true (nf_captions_get_size (captions, &config, &error));
  assert_int_equal (config.txt_size, TOKENS);
  assert_int_equal (config.txt_dim, FEATURES);
  assert_true (nf_captions_check (captions, &config, &error));
  for (guint i = 0; i < B; i++)
    labels[i] = (gint)(i % 3) - 1;
  guint second = 0;
  assert_true (nf_captions_tell (captions, &batch, 5, 1000, &error));
  assert_memory_equal (batch.null_text, nothing, sizeof nothing);
  for (guint i = 0; i < B; i++)
    {
      const float *told = batch.text + i * ONE;
      second += labels[i] == 0 && told[0] == a[ONE];
      if (labels[i] >= 0)
        assert_memory_equal (told, labels[i] ? b : told[0] == a[0] ? a : a + ONE, sizeof b);
    }
  assert_in_range (second, 4, 18); /* of 22 */

  /* one value that is none */
  a[ONE + 1] = NAN;
  assert_true (nf_tensor_file_write (path, tensors, G_N_ELEMENTS (tensors), NULL, &error));
  g_autoptr (NfCaptions) broken = nf_captions_open (path, names, &error);
  assert_false (nf_captions_check (broken, &config, &error));
  assert_non_null (strstr (error->message, "value 7 of a.png is not finite"));

  /* of no size that text could have */
  const NfTensor flat[] = { { .name = (char *)"a.png",
                              .dtype = NF_DTYPE_F32,
                              .n_dims = 2,
                              .dims = { TOKENS, FEATURES },
                              .n_elements = ONE,
                              .data = (const guint8 *)b },
                            TENSOR ("b.png", 1, b) };
  g_clear_error (&error);
  assert_true (nf_tensor_file_write (path, flat, G_N_ELEMENTS (flat), NULL, &error));
  g_autoptr (NfCaptions) shapeless = nf_captions_open (path, names, &error);
  assert_non_null (shapeless);
  assert_false (nf_captions_get_size (shapeless, &config, &error));
  assert_non_null (
      strstr (error->message, "captions.safetensors: the tensor a.png must be of shape (captions,"));
}

/* N pictures of one value from FIRST on. */
static void
make_pictures (const char *parent, const char *name, guint n, guint first)
{
  g_autofree char *path = g_build_filename (parent, name, NULL);

  assert_int_equal (g_mkdir_with_parents (path, 0700), 0);
  for (guint i = 0; i < n; i++)
    {
      g_autofree char *number = g_strdup_printf ("%02u.png", i),
                      *file = g_build_filename (path, number, NULL);

      make_flat_video (file, first + i, 1);
    }
}

/* More held-out pictures than tiles: each folder has its share, and what was named for it is there. */
static void
test_clips_spread (void **state)
{
  g_autofree char *root = in_folder ("spread"), *other = in_folder ("unseen.mkv"), *many = in_folder ("many");
  NfClipsOptions options
      = { .layout = NF_PIXELS_GRAY, .width = 16, .height = 16, .batch = 16, .seed = 1, .holdout = 0.5 };
  const char *const paths[] = { root, NULL }, *const one[] = { other, NULL }, *const all[] = { many, NULL };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfClips) clips = NULL;
  guint seen[3] = { 0 }, unseen = 0;

  make_pictures (root, "a", 16, 0);
  make_pictures (root, "b", 16, 100);
  make_pictures (root, "c", 16, 200);
  make_pictures (many, ".", 12, 50);
  make_flat_video (other, 70, 4);
  clips = nf_clips_new (paths, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_get_frames (clips), 24);

  g_autoptr (GPtrArray) few = nf_clips_validation (clips, one, 7, &error);
  assert_null (error);
  assert_int_equal (few->len, 7);
  for (guint i = 0; i < 7; i++)
    {
      const NfClipsValidation *set = few->pdata[i];

      assert_int_equal (set->n_tiles, 1);
      unseen += set->unseen;
      if (!set->unseen)
        seen[set->tiles[0] / 100]++;
    }
  assert_int_equal (unseen, 1);
  for (guint k = 0; k < 3; k++)
    assert_int_equal (seen[k], 2);

  /* neither takes the place of the other */
  g_autoptr (GPtrArray) half = nf_clips_validation (clips, all, 8, &error);
  assert_int_equal (half->len, 8);
  for (guint i = 0; i < 8; i++)
    assert_int_equal (((NfClipsValidation *)half->pdata[i])->unseen, i >= 4);
}

/* Videos between pictures of a folder keep none from being held out; what is named twice is taken once. */
static void
test_clips_mixed (void **state)
{
  g_autofree char *root = in_folder ("mixed"), *picture = g_build_filename (root, ".", "p03.png", NULL),
                  *video = g_build_filename (root, "p03.png.mkv", NULL);
  const char *const alone[] = { root, NULL }, *const paths[] = { picture, root, video, NULL };
  NfClipsOptions options
      = { .layout = NF_PIXELS_GRAY, .width = 16, .height = 16, .batch = 64, .seed = 1, .holdout = 0.25 };
  g_autoptr (GError) error = NULL;

  assert_int_equal (g_mkdir_with_parents (root, 0700), 0);
  for (guint i = 0; i < 8; i++)
    {
      g_autofree char *name = g_strdup_printf ("p%02u.png", i), *png = g_build_filename (root, name, NULL),
                      *mkv = g_strconcat (png, ".mkv", NULL);

      make_flat_video (png, 10 * i, 1);
      make_flat_video (mkv, 100 + 10 * i, 4);
    }
  g_autoptr (NfClips) clips = nf_clips_new (alone, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_count (clips), 16);
  assert_int_equal (nf_clips_get_frames (clips), 6 + 8 * 3);
  g_autoptr (NfClips) again = nf_clips_new (paths, &options, &error);
  assert_null (error);
  assert_int_equal (nf_clips_count (again), 16);
  assert_int_equal (nf_clips_get_frames (again), 6 + 8 * 3);
}

static void
test_clips_errors (void **state)
{
  g_autofree char *bad = in_folder ("broken.mp4"), *png = in_folder ("broken.png");
  NfClipsOptions options = { .layout = NF_PIXELS_GRAY, .width = 16, .height = 16, .batch = 64 };
  g_autoptr (GError) error = NULL;
  g_autoptr (NfClips) clips = NULL;

  assert_true (g_file_set_contents (bad, "no video", -1, NULL)
               && g_file_set_contents (png, "no picture", -1, NULL));
  assert_null (nf_clips_new ((const char *const[]){ bad, NULL }, &options, &error));
  assert_error (error, NF_ERROR_FORMAT, "broken.mp4");
  g_clear_error (&error);
  assert_null (nf_clips_new ((const char *const[]){ NULL }, &options, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "no file");
  g_clear_error (&error);
  options.holdout = 1;
  assert_null (nf_clips_new ((const char *const[]){ bad, NULL }, &options, &error));
  assert_error (error, NF_ERROR_ARGUMENT, "held-out");
  g_clear_error (&error);
  options.holdout = 0;
  /* A picture is looked at when it is its turn: if there is nothing else, that is an error. */
  clips = nf_clips_new ((const char *const[]){ png, NULL }, &options, &error);
  assert_non_null (clips);
  assert_null (nf_clips_batch (clips, 0, NULL, &error));
  assert_error (error, NF_ERROR_FORMAT, "broken.png");
}

/* Rows shorter than swscale's vectors: what lies behind them, other planes and other memory, stays as it is.
 */
static void
test_narrow (void **state)
{
  static const guint8 values[] = { 200, 60, 130 };
  for (guint width = 1; width <= 40; width++)
    for (guint height = 1; height <= 9; height += 4)
      {
        g_autoptr (GError) error = NULL;
        g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_YUV420, width, height);
        guint8 *at = picture->data;
        for (guint i = 0; i < 3; i++)
          {
            guint w, h;
            nf_picture_extent (NF_PIXELS_YUV420, i, width, height, &w, &h);
            memset (at, values[i], (gsize)w * h);
            at += (gsize)w * h;
          }
        g_autoptr (NfPicture) scaled = nf_picture_scale (picture, 41 - width, height, &error);
        assert_non_null (scaled);
        at = scaled->data;
        for (guint i = 0; i < 3; i++)
          {
            guint w, h;
            nf_picture_extent (NF_PIXELS_YUV420, i, 41 - width, height, &w, &h);
            for (gsize n = (gsize)w * h; n > 0; n--)
              assert_int_equal (*at++, values[i]);
          }
        g_autoptr (NfPicture) rgb = nf_picture_to_rgb (picture, &error);
        assert_non_null (rgb);
        for (gsize i = 0; i < rgb->size; i++)
          assert_int_equal (rgb->data[i], rgb->data[i / (rgb->size / 3) * (rgb->size / 3)]);
      }
}

/* A copy of the video PATH of which most of packet NUMBER is turned over, or all of it. */
static char *
spoil (const char *path, const char *name, guint number, gboolean whole)
{
  g_autofree char *copy = in_folder (name), *bytes = NULL;
  AVFormatContext *in = NULL;
  AVPacket *packet = av_packet_alloc ();
  gsize length;
  assert_true (g_file_get_contents (path, &bytes, &length, NULL));
  assert_true (avformat_open_input (&in, path, NULL, NULL) >= 0);
  for (guint i = 0; i <= number; i++)
    {
      av_packet_unref (packet);
      assert_true (av_read_frame (in, packet) >= 0);
    }
  for (int i = whole ? 0 : packet->size / 8; i < packet->size; i++)
    bytes[packet->pos + i] ^= (char)0xff;
  av_packet_free (&packet);
  avformat_close_input (&in);
  assert_true (g_file_set_contents (copy, bytes, (gssize)length, NULL));
  return g_steal_pointer (&copy);
}

static guint
count_frames (NfMediaReader *reader)
{
  g_autoptr (GError) error = NULL;
  NfPicture *picture;
  guint n = 0;
  for (; (picture = nf_media_reader_next (reader, &error)); n++)
    nf_picture_unref (picture);
  assert_null (error);
  return n;
}

/* Frames that are damaged, or missing, are told; what wants one that is missing takes the one before. */
static void
test_damage (void **state)
{
  g_autofree char *good = make_video ("damage.mp4", NF_PIXELS_YUV420, 128, 96, 40),
                  *missing = spoil (good, "missing.mp4", 39, TRUE),
                  *damaged = spoil (good, "damaged.mp4", 20, FALSE);
  const char *const paths[] = { missing, NULL };
  NfClipsOptions options
      = { .layout = NF_PIXELS_YUV420, .width = 16, .height = 16, .batch = 8, .seed = 1, .holdout = 0.1 };
  g_autoptr (GError) error = NULL;
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (NfMediaReader) reader
          = nf_media_reader_open (i ? damaged : missing, NF_PIXELS_YUV420, &error);
      assert_null (error);
      assert_true (nf_media_reader_index (reader, &error));
      assert_int_equal (nf_media_reader_get_info (reader)->n_frames, 40);
      const guint n = count_frames (reader);
      g_autofree char *damage = nf_media_reader_describe_damage (reader);
      assert_int_equal (n, i ? 40 : 39);
      assert_non_null (damage);
      assert_non_null (strstr (damage, i ? "1 damaged frame: " : "1 damaged packet skipped"));
    }

  g_autoptr (NfClips) clips = nf_clips_new (paths, &options, &error);
  assert_null (error);
  g_autoptr (GPtrArray) validation = nf_clips_validation (clips, NULL, 16, &error);
  assert_null (error);
  assert_int_equal (validation->len, 1);
  assert_int_equal (nf_clips_get_damaged (clips), 1);
  g_autofree char *damage = nf_clips_describe_damage (clips), *said = g_strdup_printf ("1, of %s", missing);
  assert_string_equal (damage, said);

  /* one that is missing first */
  g_autofree char *begin = spoil (good, "begin.mp4", 36, TRUE);
  const char *const others[] = { begin, NULL };
  g_autoptr (NfClips) beginning = nf_clips_new (others, &options, &error);
  assert_null (error);
  g_autoptr (GPtrArray) more = nf_clips_validation (beginning, NULL, 16, &error);
  assert_null (error);
  assert_int_equal (more->len, 1);
}

/* A "%" in the name of a picture that is there stands for nothing. */
static void
test_percent (void **state)
{
  g_autofree char *numbered = in_folder ("n1.png"), *percent = in_folder ("n%d.png");
  g_autoptr (GError) error = NULL;
  for (guint i = 0; i < 2; i++)
    {
      g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_RGB, 16 + i, 16, i);
      assert_true (nf_media_write_png (i ? percent : numbered, NF_PIXELS_RGB, &picture->frame, &error));
    }
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (percent, NF_PIXELS_RGB, &error);
  assert_null (error);
  assert_int_equal (nf_media_reader_get_info (reader)->width, 17);
  assert_int_equal (count_frames (reader), 1);
}

/* Pictures FIRST to LAST of a sequence, each of its own grey. */
static void
make_sequence (const char *pattern, guint first, guint last)
{
  g_autoptr (GError) error = NULL;
  for (guint i = first; i <= last; i++)
    {
      g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_RGB, 16, 16, i);
      g_autofree char *name = nf_media_picture_name (pattern, i - 1);
      assert_true (nf_media_write_png (name, NF_PIXELS_RGB, &picture->frame, &error));
    }
}

static void
assert_sequence (const char *pattern, guint frames)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (pattern, NF_PIXELS_RGB, &error);
  assert_null (error);
  assert_int_equal (count_frames (reader), frames);
  g_autofree char *damage = nf_media_reader_describe_damage (reader);
  assert_null (damage);
  assert_true (nf_media_reader_index (reader, &error));
  assert_int_equal (nf_media_reader_get_info (reader)->n_frames, frames);
  assert_true (nf_media_reader_seek (reader, frames - 1, &error));
  assert_int_equal (count_frames (reader), 1);
}

static void
assert_gap (const char *pattern, const char *missing, const char *more)
{
  g_autoptr (GError) error = NULL;
  assert_null (nf_media_reader_open (pattern, NF_PIXELS_RGB, &error));
  assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_NOT_FOUND));
  if (!strstr (error->message, missing) || !strstr (error->message, more))
    fail_msg ("wanted \"%s\" and \"%s\" in: %s", missing, more, error->message);
}

/* A sequence of pictures ends with its last one, not at a gap or at one that is nothing. */
static void
test_gaps (void **state)
{
  g_autofree char *pattern = in_folder ("of2%%4-%04dx7.png"), *short_one = in_folder ("of2%%-%d.png"),
                  *late = in_folder ("late%%-%03d.png"), *fourth = in_folder ("of2%4-0004x7.png"),
                  *fifth = in_folder ("of2%4-0005x7.png"), *seventh = in_folder ("of2%4-0007x7.png"),
                  *other = in_folder ("of2%4-00012x7.png");
  g_autoptr (GError) error = NULL;
  make_sequence (pattern, 1, 10);
  make_sequence (short_one, 3, 13);
  make_sequence (late, 998, 1003);
  assert_true (g_file_set_contents (other, "", 0, NULL));
  assert_sequence (pattern, 10);
  assert_sequence (short_one, 11);
  assert_sequence (late, 6);
  assert_true (g_file_set_contents (seventh, "", 0, NULL));
  {
    g_autoptr (NfMediaReader) reader = nf_media_reader_open (pattern, NF_PIXELS_RGB, &error);
    assert_null (error);
    for (guint i = 0; i < 7; i++)
      {
        g_autoptr (NfPicture) picture = nf_media_reader_next (reader, &error);
        assert_true ((picture != NULL) == (i < 6));
      }
    assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_READ));
    assert_non_null (strstr (error->message, "0007x7.png cannot be read"));
  }
  assert_int_equal (g_unlink (fourth), 0);
  assert_gap (pattern, "of2%4-0004x7.png is missing", "6 pictures from ");
  make_sequence (pattern, 4, 4);
  /* where libav takes it for the end */
  assert_int_equal (g_unlink (fifth), 0);
  assert_gap (pattern, "of2%4-0005x7.png is missing", "5 pictures from ");
}

/* FROM as it is, in another CONTAINER, which says by MATRIX, if it is not NULL, how it is shown. */
static void
copy_packets (const char *from, const char *to, const char *container, const gint32 *matrix)
{
  AVFormatContext *in = NULL, *out = NULL;
  AVPacket *packet = av_packet_alloc ();
  assert_true (avformat_open_input (&in, from, NULL, NULL) >= 0);
  assert_true (avformat_find_stream_info (in, NULL) >= 0);
  assert_true (avformat_alloc_output_context2 (&out, NULL, container, to) >= 0);
  AVStream *stream = avformat_new_stream (out, NULL);
  stream->time_base = in->streams[0]->time_base;
  assert_true (avcodec_parameters_copy (stream->codecpar, in->streams[0]->codecpar) >= 0);
  stream->codecpar->codec_tag
      = stream->codecpar->codec_id == AV_CODEC_ID_RAWVIDEO ? MKTAG ('I', '4', '2', '0') : 0;
  stream->sample_aspect_ratio = stream->codecpar->sample_aspect_ratio = in->streams[0]->sample_aspect_ratio;
  if (matrix)
    {
      guint8 *side = av_stream_new_side_data (stream, AV_PKT_DATA_DISPLAYMATRIX, 9 * sizeof *matrix);
      assert_non_null (side);
      memcpy (side, matrix, 9 * sizeof *matrix);
    }
  assert_true (avio_open (&out->pb, to, AVIO_FLAG_WRITE) >= 0);
  assert_true (avformat_write_header (out, NULL) >= 0);
  while (av_read_frame (in, packet) >= 0)
    {
      av_packet_rescale_ts (packet, in->streams[0]->time_base, stream->time_base);
      assert_true (av_interleaved_write_frame (out, packet) >= 0);
    }
  assert_true (av_write_trailer (out) >= 0);
  avio_closep (&out->pb);
  avformat_free_context (out);
  avformat_close_input (&in);
  av_packet_free (&packet);
}

/* libav takes the ticks of a clock for the rate that it does not know. */
static void
test_rates (void **state)
{
  static const int rates[] = { 25, 4000 };
  for (guint i = 0; i < G_N_ELEMENTS (rates); i++)
    {
      g_autofree char *plain = make_video_at ("fast.y4m", NF_PIXELS_YUV420, 32, 32, 6, rates[i]),
                      *copy = in_folder ("fast.nut");
      copy_packets (plain, copy, "nut", NULL);
      const char *const paths[] = { plain, copy };
      for (guint j = 0; j < G_N_ELEMENTS (paths); j++)
        {
          g_autoptr (GError) error = NULL;
          g_autoptr (NfMediaReader) reader = nf_media_reader_open (paths[j], NF_PIXELS_YUV420, &error);
          nf_test_ok (reader, error);
          assert_int_equal (nf_media_reader_get_info (reader)->rate_n, rates[i]);
          assert_int_equal (nf_media_reader_get_info (reader)->rate_d, 1);
          for (guint n = 0; n < 6; n++)
            {
              g_autoptr (NfPicture) picture = nf_media_reader_next (reader, &error);
              assert_non_null (picture);
              assert_int_equal (picture->index, n);
              assert_true (fabs (picture->seconds - (double)n / rates[i]) < 1e-6);
            }
        }
    }
  assert_non_null (nf_media_writer_describe_times ("fast.mkv", 4000, 1));
  assert_null (nf_media_writer_describe_times ("fast.mp4", 4000, 1));
  assert_null (nf_media_writer_describe_times ("slow.mkv", 1000, 1));
  assert_null (nf_media_writer_describe_times ("slow.mkv", 30000, 1001));
}

/* Videos come as they are to be shown, each of eight ways; at other angles they stay. */
static void
test_turned (void **state)
{
  static const gint32 one = 1 << 16;
  const struct
  {
    gint32 a, b, c, d; /* shown at (a x + c y, b x + d y), moved to where there are no negative numbers */
  } ways[] = { { one, 0, 0, one },   { -one, 0, 0, one },  { one, 0, 0, -one },
               { -one, 0, 0, -one }, { 0, one, one, 0 },   { 0, -one, one, 0 },
               { 0, one, -one, 0 },  { 0, -one, -one, 0 }, { 46341, 46341, -46341, 46341 } };
  static const NfPixelLayout layouts[] = { NF_PIXELS_YUV420, NF_PIXELS_RGB, NF_PIXELS_GRAY };
  const guint W = 22, H = 11;
  for (guint l = 0; l < G_N_ELEMENTS (layouts); l++)
    for (guint i = 0; i < G_N_ELEMENTS (ways); i++)
      {
        g_autoptr (GError) error = NULL;
        g_autofree char *plain = in_folder ("plain.mkv"), *turned = in_folder ("turned.mov");
        g_autoptr (NfPicture) picture = make_picture (layouts[l], W, H, 3);
        NfMediaWriter *writer
            = nf_media_writer_open (plain, layouts[l], W, H, 25, 1, "sample_aspect_ratio=2/1", &error);
        assert_non_null (writer);
        assert_true (nf_media_writer_put (writer, &picture->frame, &error));
        assert_true (nf_media_writer_close (writer, &error));
        nf_media_writer_free (writer);
        const gint32 matrix[9] = { ways[i].a, ways[i].b, 0, ways[i].c, ways[i].d, 0, 0, 0, 1 << 30 };
        copy_packets (plain, turned, "mov", matrix);

        g_autoptr (NfMediaReader) reader = nf_media_reader_open (turned, layouts[l], &error);
        assert_non_null (reader);
        g_autoptr (NfPicture) shown = nf_media_reader_next (reader, &error);
        assert_non_null (shown);
        const gboolean quarter = ways[i].a == 0;
        assert_int_equal (shown->frame.width, quarter ? H : W);
        assert_int_equal (shown->frame.height, quarter ? W : H);
        assert_int_equal (nf_media_reader_get_info (reader)->width, shown->frame.width);
        const char *look = nf_media_reader_get_info (reader)->look;
        assert_non_null (strstr (look, quarter ? "sample_aspect_ratio=1/2" : "sample_aspect_ratio=2/1"));
        for (guint p = 0; p < nf_picture_planes (layouts[l]); p++)
          {
            guint w, h;
            nf_picture_extent (layouts[l], p, W, H, &w, &h);
            const gboolean angle = ABS (ways[i].a) == 46341;
            const gint a = angle ? 1 : ways[i].a / one, b = angle ? 0 : ways[i].b / one,
                       c = angle ? 0 : ways[i].c / one, d = angle ? 1 : ways[i].d / one;
            for (gint y = 0; y < (gint)h; y++)
              for (gint x = 0; x < (gint)w; x++)
                {
                  const gint X = a * x + c * y + (a < 0 ? (gint)w - 1 : 0) + (c < 0 ? (gint)h - 1 : 0),
                             Y = b * x + d * y + (b < 0 ? (gint)w - 1 : 0) + (d < 0 ? (gint)h - 1 : 0);
                  assert_int_equal (
                      shown->frame.planes[p]
                          .data[Y * shown->frame.planes[p].stride + X * shown->frame.planes[p].step],
                      picture->frame.planes[p]
                          .data[y * picture->frame.planes[p].stride + x * picture->frame.planes[p].step]);
                }
          }
        g_unlink (plain);
        g_unlink (turned);
      }
}

/* How samples are meant stays with them. */
static void
test_look (void **state)
{
  static const struct
  {
    NfPixelLayout layout;
    const char *suffix, *given, *kept;
  } cases[] = {
    { NF_PIXELS_YUV420, ".mkv",
      "color_range=pc:colorspace=bt709:color_primaries=bt709:color_trc=bt709:chroma_sample_location=left:"
      "sample_aspect_ratio=4/3",
      "color_range=pc:colorspace=bt709:color_primaries=bt709:color_trc=bt709:chroma_sample_location=left:"
      "sample_aspect_ratio=4/3" },
    { NF_PIXELS_YUV420, ".mp4", "color_range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709",
      "color_range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709:chroma_sample_location=left" },
    { NF_PIXELS_YUV420, ".y4m", "color_range=pc:chroma_sample_location=left",
      "color_range=pc:chroma_sample_location=left" },
    { NF_PIXELS_GRAY, ".y4m", "color_range=pc", "color_range=pc" },
    { NF_PIXELS_YUV420, ".mkv", "field_order=tt", "field_order=tt" },
    { NF_PIXELS_RGB, ".mkv", "field_order=bt", "field_order=bt" },
    { NF_PIXELS_YUV420, ".y4m", "chroma_sample_location=left:field_order=bb",
      "chroma_sample_location=left:field_order=bb" },
    /* frames are coded whole */
    { NF_PIXELS_YUV420, ".mp4", "field_order=tt", "chroma_sample_location=left" },
    { NF_PIXELS_RGB, ".mkv", "color_primaries=bt709:color_trc=bt709",
      "color_primaries=bt709:color_trc=bt709" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *name = g_strconcat ("look", cases[i].suffix, NULL), *path = in_folder (name);
      g_autoptr (NfPicture) picture = make_picture (cases[i].layout, 32, 16, 0);
      NfMediaWriter *writer
          = nf_media_writer_open (path, cases[i].layout, 32, 16, 25, 1, cases[i].given, &error);
      assert_non_null (writer);
      assert_true (nf_media_writer_put (writer, &picture->frame, &error));
      assert_true (nf_media_writer_close (writer, &error));
      nf_media_writer_free (writer);
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, cases[i].layout, &error);
      assert_non_null (reader);
      assert_string_equal (nf_media_reader_get_info (reader)->look, cases[i].kept);
      g_unlink (path);
    }

  static const char *const wrong[] = { "x",
                                       "color_range",
                                       "color_range=",
                                       "color_range=red",
                                       "threads=9",
                                       "sample_aspect_ratio=a/b",
                                       "sample_aspect_ratio=-4/3",
                                       "sample_aspect_ratio=1/0",
                                       "color_range=tv:",
                                       "field_order=progressive",
                                       "colorspace=bt709:x=y" };
  for (guint i = 0; i < G_N_ELEMENTS (wrong); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = in_folder ("look.mkv");
      assert_null (nf_media_writer_open (path, NF_PIXELS_RGB, 16, 16, 25, 1, wrong[i], &error));
      assert_true (g_error_matches (error, NF_ERROR, NF_ERROR_FORMAT));
      g_unlink (path);
    }

  /* scaled frames are shown in the shape that they had, and have no fields if their lines are others */
  static const struct
  {
    const char *look, *scaled;
    guint height;
  } sizes[] = { { "color_range=tv:sample_aspect_ratio=4/3:field_order=tt",
                  "color_range=tv:sample_aspect_ratio=5/3", 64 },
                { "field_order=tt", "field_order=tt:sample_aspect_ratio=45/4", 576 },
                { "sample_aspect_ratio=4/5", "", 64 },
                { NULL, "sample_aspect_ratio=5/4", 64 } };
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    {
      g_autofree char *scaled = nf_look_scale (sizes[i].look, 720, 576, 64, sizes[i].height);
      assert_string_equal (scaled, sizes[i].scaled);
    }
}

/* Colours of a picture are made by the matrix and range that its samples have. */
static void
test_look_of_pictures (void **state)
{
  static const struct
  {
    const char *look;
    double wanted[3];
  } cases[] = {
    { NULL, { 219.4, 125.8, 43.5 } },
    { "colorspace=bt709", { 228.6, 130.0, 38.8 } },
    { "color_range=pc:colorspace=bt709", { 214.0, 127.4, 47.2 } },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *path = in_folder ("look.png");
      g_autoptr (NfPicture) picture = nf_picture_new (NF_PIXELS_YUV420, 16, 16);
      memset (picture->data, 140, 256);
      memset (picture->data + 256, 78, 64);
      memset (picture->data + 320, 175, 64);
      NfMediaWriter *writer
          = nf_media_writer_open (path, NF_PIXELS_YUV420, 16, 16, 25, 1, cases[i].look, &error);
      assert_non_null (writer);
      assert_true (nf_media_writer_put (writer, &picture->frame, &error));
      assert_true (nf_media_writer_close (writer, &error));
      nf_media_writer_free (writer);
      g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, NF_PIXELS_RGB, &error);
      g_autoptr (NfPicture) shown = reader ? nf_media_reader_next (reader, &error) : NULL;
      assert_non_null (shown);
      for (guint c = 0; c < 3; c++)
        assert_true (fabs (shown->frame.planes[c]
                               .data[5 * shown->frame.planes[c].stride + 5 * shown->frame.planes[c].step]
                           - cases[i].wanted[c])
                     < 2);
      g_unlink (path);
    }
}

/* How many pixels of the PNG are of a colour, and the first and last column and row of them. */
typedef struct
{
  guint n, left, right, top, bottom;
} Spot;

/* COLOUR (0xRRGGBB) within the rows from TOP to before BOTTOM. */
static Spot
find_colour (const char *path, guint32 colour, guint top, guint bottom)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfMediaReader) reader = nf_media_reader_open (path, NF_PIXELS_RGB, &error);
  g_autoptr (NfPicture) picture = reader ? nf_media_reader_next (reader, &error) : NULL;
  Spot spot = { .left = G_MAXUINT, .top = G_MAXUINT };

  assert_null (error);
  assert_non_null (picture);
  for (guint y = top; y < MIN (bottom, picture->frame.height); y++)
    for (guint x = 0; x < picture->frame.width; x++)
      {
        gboolean same = TRUE;

        for (guint p = 0; p < 3; p++)
          {
            const NfPlane *plane = &picture->frame.planes[p];
            const int here = plane->data[(gsize)y * plane->stride + (gsize)x * plane->step],
                      wanted = (int)(colour >> (16 - 8 * p) & 0xff);

            same = same && ABS (here - wanted) <= 40; /* edges are smooth */
          }
        if (!same)
          continue;
        spot.n++;
        spot.left = MIN (spot.left, x);
        spot.right = MAX (spot.right, x);
        spot.top = MIN (spot.top, y);
        spot.bottom = MAX (spot.bottom, y);
      }
  return spot;
}

#define FIRST_CURVE 0x0073b3
#define PLOT_TOP 66
#define PLOT_BOTTOM 494

/* Curves are seen whatever their signs. */
static void
test_plot_axis (void **state)
{
  static const double x[] = { 0, 1, 2 },
                      ys[][3]
                      = { { -2.4, -2.4, -2.4 }, { -1, 0.5, 1 }, { 3, 2, 3 }, { 0, 0, 0 }, { -1e-3, 0, 0 } };
  g_autofree char *path = in_folder ("curve.png");
  g_autoptr (GError) error = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (ys); i++)
    {
      const NfPlotCurve curve = { "flow", x, ys[i], 3, FALSE };

      assert_true (nf_plot_curves (path, "title", "title", "x", "y", &curve, 1, &error));
      const Spot spot = find_colour (path, FIRST_CURVE, PLOT_TOP - 3, PLOT_BOTTOM + 2);
      assert_true (spot.n >= 1000);
      assert_true (spot.left <= 86 && spot.right >= 1249);
    }
}

/* What ends at a round number, as shares do, needs no axis beyond it. */
static void
test_plot_shares (void **state)
{
  static const double x[] = { 0, 1 }, y[] = { 100, 100 };
  const NfPlotCurve curve = { "share", x, y, 2, FALSE };
  g_autofree char *path = in_folder ("shares.png");
  g_autoptr (GError) error = NULL;

  assert_true (nf_plot_curves (path, "title", "title", "x", "y", &curve, 1, &error));
  const Spot spot = find_colour (path, FIRST_CURVE, PLOT_TOP - 3, PLOT_BOTTOM);
  assert_true (spot.n >= 1000 && spot.bottom <= PLOT_TOP);
}

/* As many entries as are wider than the picture go on in another row, and curves stay under them. */
static void
test_plot_legend (void **state)
{
  static const double x[] = { 0, 1 }, y[] = { 1, 2 };
  const NfPlotCurve one = { "exactly one ball, in the world itself", x, y, 2, FALSE },
                    all[] = { one, one, one, one };
  g_autofree char *path = in_folder ("legend.png");
  g_autoptr (GError) error = NULL;

  assert_true (nf_plot_curves (path, "title", "title", "x", "y", all, G_N_ELEMENTS (all), &error));
  const Spot mark = find_colour (path, FIRST_CURVE, 40, 60);
  assert_true (mark.n == 22 * 3);
  assert_true (mark.left >= 84);
}

#define TITLE 0x1a1a1a

/* Names as long as files have, with letters of several bytes: what is around them is seen. */
static void
test_plot_titles (void **state)
{
  static const double x[] = { 0, 1 }, y[] = { 1, 2 };
  const NfPlotCurve curve = { "flow", x, y, 2, FALSE };
  const float map[] = { 1 };
  g_autoptr (GString) name = g_string_new (NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_RGB, 16, 16, 0);
  const char *const text = "";

  while (name->len < 250)
    g_string_append (name, "Wörter");
  g_autofree char *curves = in_folder ("curves.png"), *mapped = in_folder ("map.png"),
                  *sheet = in_folder ("sheet.png"),
                  *title = g_strdup_printf ("%s, frame 12: 3.456 bits/dim", name->str);
  assert_true (nf_plot_curves (curves, title, name->str, "x", "y", &curve, 1, &error));
  assert_true (nf_plot_map (mapped, title, name->str, "bits", picture, map, 1, 1, 16, &error));
  assert_true (nf_plot_sheet (sheet, title, name->str, &text, 1, &picture, &text, 1, &error));
  const char *const paths[] = { curves, mapped, sheet };
  const guint widths[] = { 1280, 1760, 344 };
  for (guint i = 0; i < G_N_ELEMENTS (paths); i++)
    {
      const Spot spot = find_colour (paths[i], TITLE, 10, 40);
      assert_true (spot.n > 100);
      assert_true (spot.right < widths[i] - 5 && spot.right > widths[i] - 100);
    }
}

static guint
count_files (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  guint n = 0;

  while (g_dir_read_name (dir))
    n++;
  return n;
}

/* Pictures that cannot be completed leave what there was, and nothing else. */
static void
test_without_room (void **state)
{
  static const double x[] = { 0, 1 }, y[] = { 1, 2 };
  const NfPlotCurve curve = { "flow", x, y, 2, FALSE };
  g_autofree char *rooms = in_folder ("rooms"), *path = g_build_filename (rooms, "1.png", NULL),
                  *sequence = g_build_filename (rooms, "%d.png", NULL), *now = NULL;
  g_autoptr (NfPicture) picture = make_picture (NF_PIXELS_RGB, 64, 64, 0);
  struct rlimit before, tight;
  void (*handler) (int) = signal (SIGXFSZ, SIG_IGN);

  assert_int_equal (g_mkdir (rooms, 0777), 0);
  assert_true (g_file_set_contents (path, "old", -1, NULL));
  assert_int_equal (getrlimit (RLIMIT_FSIZE, &before), 0);
  tight = before;
  tight.rlim_cur = 1024;
  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (NfMediaWriter) writer = NULL;
      gboolean done;

      assert_int_equal (setrlimit (RLIMIT_FSIZE, &tight), 0);
      if (i == 0)
        done = nf_plot_curves (path, "title", "title", "x", "y", &curve, 1, &error);
      else
        {
          writer
              = nf_media_writer_open (i == 1 ? path : sequence, NF_PIXELS_RGB, 64, 64, 25, 1, NULL, &error);
          done = writer && nf_media_writer_put (writer, &picture->frame, &error)
                 && nf_media_writer_close (writer, &error);
        }
      assert_int_equal (setrlimit (RLIMIT_FSIZE, &before), 0);
      assert_false (done);
      assert_error (error, NF_ERROR_WRITE, g_strerror (EFBIG));
      assert_error (error, NF_ERROR_WRITE, "/1.png: ");
      assert_int_equal (count_files (rooms), 1);
      assert_true (g_file_get_contents (path, &now, NULL, NULL));
      assert_string_equal (now, "old");
      g_clear_pointer (&now, g_free);
    }
  signal (SIGXFSZ, handler);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_rates),
    cmocka_unit_test (test_turned),
    cmocka_unit_test (test_damage),
    cmocka_unit_test (test_percent),
    cmocka_unit_test (test_gaps),
    cmocka_unit_test (test_look),
    cmocka_unit_test (test_look_of_pictures),
    cmocka_unit_test (test_small_frames),
    cmocka_unit_test (test_round_trip),
    cmocka_unit_test (test_interleaved_planes),
    cmocka_unit_test (test_seek),
    cmocka_unit_test (test_seek_real),
    cmocka_unit_test (test_pictures),
    cmocka_unit_test (test_list),
    cmocka_unit_test (test_bad_files),
    cmocka_unit_test (test_writer_errors),
    cmocka_unit_test (test_peers),
    cmocka_unit_test (test_scale_and_filter),
    cmocka_unit_test (test_narrow),
    cmocka_unit_test (test_clips_pure),
    cmocka_unit_test (test_colours),
    cmocka_unit_test (test_scale_odd),
    cmocka_unit_test (test_clips_tall),
    cmocka_unit_test (test_clips_holdout),
    cmocka_unit_test (test_clips_classes),
    cmocka_unit_test (test_captions),
    cmocka_unit_test (test_clips_spread),
    cmocka_unit_test (test_clips_mixed),
    cmocka_unit_test (test_clips_errors),
    cmocka_unit_test (test_plot_axis),
    cmocka_unit_test (test_plot_shares),
    cmocka_unit_test (test_plot_legend),
    cmocka_unit_test (test_plot_titles),
    cmocka_unit_test (test_without_room),
  };

  return cmocka_run_group_tests_name ("media", tests, set_up, tear_down);
}
