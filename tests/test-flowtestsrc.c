/* normflow: flowtestsrc, worlds and actions in pipelines. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <gst/app/gstappsink.h>
#include <gst/controller/gstdirectcontrolbinding.h>
#include <gst/controller/gstinterpolationcontrolsource.h>
#include <gst/video/navigation.h>
#include <math.h>

#define NONE GST_NAVIGATION_MODIFIER_NONE

/* What a frame says of itself. */
typedef struct
{
  guint64 frame, world_frame;
  gint action;
  double entropy, information, next_entropy;
  double ball_x, ball_y, paddle_y;
  gint score, camera_x, camera_y;
} Told;

static Told
read_metas (GstBuffer *buffer)
{
  Told told = { .ball_x = NAN, .ball_y = NAN, .paddle_y = NAN, .score = -1 };
  GstCustomMeta *action = gst_buffer_get_custom_meta (buffer, "GstFlowActionMeta"),
                *world = gst_buffer_get_custom_meta (buffer, "GstFlowWorldMeta");
  assert_non_null (action);
  assert_non_null (world);
  const GstStructure *fields = gst_custom_meta_get_structure (action);
  assert_true (gst_structure_get (fields, "action", G_TYPE_INT, &told.action, "frame-index", G_TYPE_UINT64,
                                  &told.frame, NULL));
  fields = gst_custom_meta_get_structure (world);
  assert_true (gst_structure_get (fields, "frame-index", G_TYPE_UINT64, &told.world_frame, "entropy-bits",
                                  G_TYPE_DOUBLE, &told.entropy, "information-bits", G_TYPE_DOUBLE,
                                  &told.information, "next-entropy-bits", G_TYPE_DOUBLE, &told.next_entropy,
                                  NULL));
  gst_structure_get (fields, "ball-x", G_TYPE_DOUBLE, &told.ball_x, "ball-y", G_TYPE_DOUBLE, &told.ball_y,
                     NULL);
  gst_structure_get (fields, "paddle-y", G_TYPE_DOUBLE, &told.paddle_y, "score", G_TYPE_INT, &told.score,
                     NULL);
  gst_structure_get (fields, "camera-x", G_TYPE_INT, &told.camera_x, "camera-y", G_TYPE_INT, &told.camera_y,
                     NULL);
  assert_int_equal (told.frame, told.world_frame);
  return told;
}

static NfWorld *
world_new (NfWorldPattern pattern, guint width, guint height, guint64 seed)
{
  g_autoptr (GError) error = NULL;
  NfWorld *world = nf_world_new (pattern, width, height, seed, &error);
  assert_no_error (error);
  return world;
}

static void
step (NfWorld *world, guint action)
{
  g_autoptr (GError) error = NULL;
  nf_world_step (world, action, &error);
  assert_no_error (error);
}

#define PERIOD (125 * GST_MSECOND) /* of a live source's frames */

/* A pipeline that ends in an appsink named sink. */
typedef struct
{
  GstElement *pipeline, *src;
  GstAppSink *sink;
  GstBus *bus;
  GstTestClock *clock; /* of a live one; */
  guint64 pulled;      /* frames of it that were pulled */
} Run;

static Run
run_new (const char *src, const char *rest)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *line = g_strdup_printf (
      "flowtestsrc name=src %s ! %s appsink name=sink max-buffers=1 sync=false", src, rest);
  Run run = { .pipeline = gst_parse_launch (line, &error) };
  assert_no_error (error);
  run.src = gst_bin_get_by_name (GST_BIN (run.pipeline), "src");
  run.sink = GST_APP_SINK (gst_bin_get_by_name (GST_BIN (run.pipeline), "sink"));
  run.bus = gst_element_get_bus (run.pipeline);
  if (strstr (src, "is-live=true"))
    run.clock = fixture_use_clock (run.pipeline);
  return run;
}

static void
run_start (Run *run)
{
  assert_int_not_equal (gst_element_set_state (run->pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
}

static void
run_end (Run *run)
{
  gst_element_set_state (run->pipeline, GST_STATE_NULL);
  gst_object_unref (run->src);
  gst_object_unref (run->sink);
  gst_object_unref (run->bus);
  gst_object_unref (run->pipeline);
  g_clear_object (&run->clock);
}

/* Live frames come at their time, and none before. */
static GstSample *
run_pull (Run *run)
{
  GstSample *sample = run->clock ? fixture_pull_at (run->clock, run->sink, run->pulled++ * PERIOD)
                                 : gst_app_sink_try_pull_sample (run->sink, 60 * GST_SECOND);
  if (!sample)
    fail_msg ("no frame in a minute");
  if (run->clock)
    fixture_assert_waits (run->clock, run->sink, run->pulled * PERIOD);
  return sample;
}

static Told
run_pull_told (Run *run)
{
  g_autoptr (GstSample) sample = run_pull (run);
  return read_metas (gst_sample_get_buffer (sample));
}

static gboolean
send_key (Run *run, const char *key, gboolean down)
{
  return gst_element_send_event (GST_ELEMENT (run->sink),
                                 down ? gst_navigation_event_new_key_press (key, NONE)
                                      : gst_navigation_event_new_key_release (key, NONE));
}

/* Frames */

static void
check_format (const char *pattern_name, const char *format, NfPixelLayout layout)
{
  NfWorldPattern pattern;
  assert_true (nf_world_pattern_from_name (pattern_name, &pattern));
  g_autofree char *properties = g_strdup_printf ("pattern=%s seed=5 num-buffers=12", pattern_name);
  g_autofree char *filter
      = g_strdup_printf ("video/x-raw,format=%s,width=65,height=47,framerate=10/1 !", format);
  g_autoptr (NfWorld) world = world_new (pattern, 65, 47, 5);
  Run run = run_new (properties, filter);
  run_start (&run);
  for (guint n = 0; n < 12; n++)
    {
      g_autoptr (GstSample) sample = run_pull (&run);
      GstBuffer *buffer = gst_sample_get_buffer (sample);
      g_autoptr (GstBuffer) want = NULL;
      GstVideoInfo info;
      GstVideoFrame frame;
      NfFrame view;
      assert_true (gst_video_info_from_caps (&info, gst_sample_get_caps (sample)));
      want = gst_buffer_new_allocate (NULL, info.size, NULL);
      assert_true (gst_video_frame_map (&frame, &info, want, GST_MAP_WRITE));
      view = (NfFrame){ .width = 65, .height = 47 };
      for (guint c = 0; c < GST_VIDEO_FRAME_N_COMPONENTS (&frame); c++)
        view.planes[c]
            = (NfPlane){ GST_VIDEO_FRAME_COMP_DATA (&frame, c), GST_VIDEO_FRAME_COMP_STRIDE (&frame, c),
                         GST_VIDEO_FRAME_COMP_PSTRIDE (&frame, c) };
      nf_world_render (world, layout, &view);
      gst_video_frame_unmap (&frame);
      assert_same_video (&info, buffer, want);

      assert_int_equal (GST_BUFFER_PTS (buffer), n * 100 * GST_MSECOND);
      assert_int_equal (GST_BUFFER_DURATION (buffer), 100 * GST_MSECOND);
      assert_int_equal (GST_BUFFER_OFFSET (buffer), n);
      NfWorldState state;
      const Told told = read_metas (buffer);
      nf_world_get_state (world, &state);
      assert_int_equal (told.frame, n);
      assert_int_equal (told.action, 0);
      assert_true (told.entropy == state.entropy && told.information == state.information);
      assert_true (told.next_entropy == nf_world_next_entropy (world, 0));
      assert_true (told.ball_x == state.ball_x || (isnan (told.ball_x) && isnan (state.ball_x)));
      assert_true (told.paddle_y == state.paddle_y || (isnan (told.paddle_y) && isnan (state.paddle_y)));
      assert_int_equal (told.score, state.score);
      step (world, 0);
    }
  assert_null (gst_app_sink_try_pull_sample (run.sink, 60 * GST_SECOND));
  assert_true (gst_app_sink_is_eos (run.sink));
  run_end (&run);
}

static void
test_frames_are_the_worlds (void **state)
{
  static const char *const rgb[] = { "RGB", "BGR", "RGBx", "BGRx", "xRGB", "xBGR", "GBR", "RGBP", "BGRP" };
  static const char *const yuv[] = { "I420", "NV12", "YV12", "NV21" };
  for (guint i = 0; i < G_N_ELEMENTS (rgb); i++)
    check_format (i % 2 ? "bounce" : "pong", rgb[i], NF_PIXELS_RGB);
  for (guint i = 0; i < G_N_ELEMENTS (yuv); i++)
    check_format (i % 2 ? "gridworld" : "pong", yuv[i], NF_PIXELS_YUV420);
  check_format ("gridworld", "GRAY8", NF_PIXELS_GRAY);
}

/* Without a filter: 64×64 RGB at 30 frames a second. */
static void
test_default_caps (void **state)
{
  Run run = run_new ("num-buffers=1", "");
  run_start (&run);
  g_autoptr (GstSample) sample = run_pull (&run);
  g_autoptr (GstCaps) want
      = gst_caps_from_string ("video/x-raw,format=RGB,width=64,height=64,framerate=30/1");
  assert_true (gst_caps_is_subset (gst_sample_get_caps (sample), want));
  run_end (&run);
}

static void
test_still (void **state)
{
  Run run = run_new ("", "video/x-raw,framerate=0/1 !");
  run_start (&run);
  gst_sample_unref (run_pull (&run));
  assert_null (gst_app_sink_try_pull_sample (run.sink, 60 * GST_SECOND));
  assert_true (gst_app_sink_is_eos (run.sink));
  run_end (&run);
}

static GstPadProbeReturn
move_faster (GstPad *pad, GstPadProbeInfo *info, gpointer filter)
{
  const gboolean still = GST_BUFFER_OFFSET (GST_PAD_PROBE_INFO_BUFFER (info)) == 0;
  g_autoptr (GstCaps) caps
      = gst_caps_from_string (still ? "video/x-raw,framerate=10/1" : "video/x-raw,framerate=25/1");
  g_object_set (filter, "caps", caps, NULL);
  return still ? GST_PAD_PROBE_OK : GST_PAD_PROBE_REMOVE;
}

/* A still that gets a frame rate is its first frame. The stream ends where its last frame does, whatever the
 * rates before. */
static void
test_still_that_moves (void **state)
{
  static const GstClockTime times[] = { 0, 100 * GST_MSECOND, 200 * GST_MSECOND, 240 * GST_MSECOND };
  gint64 duration;
  Run run = run_new ("num-buffers=4", "capsfilter name=filter caps=video/x-raw,framerate=0/1 !");
  g_autoptr (GstElement) filter = gst_bin_get_by_name (GST_BIN (run.pipeline), "filter");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (run.src, "src");
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, move_faster, filter, NULL);
  run_start (&run);
  for (guint n = 0; n < G_N_ELEMENTS (times); n++)
    {
      g_autoptr (GstSample) sample = run_pull (&run);
      assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (sample)), times[n]);
    }
  assert_true (gst_element_query_duration (run.src, GST_FORMAT_TIME, &duration));
  assert_int_equal (duration, 280 * GST_MSECOND);
  run_end (&run);
}

static void
test_messages (void **state)
{
  Run run = run_new ("pattern=pong seed=9 num-buffers=3 action=1", "");
  run_start (&run);
  for (guint n = 0; n < 3; n++)
    {
      gst_sample_unref (run_pull (&run));
      g_autoptr (GstStructure) message = fixture_pop_element_message (run.bus, "flow-step");
      guint64 frame, stream_time;
      gint64 seed;
      gint action;
      double entropy;
      assert_non_null (message);
      assert_true (gst_structure_get (message, "frame", G_TYPE_UINT64, &frame, "action", G_TYPE_INT, &action,
                                      "seed", G_TYPE_INT64, &seed, "stream-time", G_TYPE_UINT64, &stream_time,
                                      "entropy-bits", G_TYPE_DOUBLE, &entropy, NULL));
      assert_int_equal (frame, n);
      assert_int_equal (action, 1);
      assert_int_equal (seed, 9);
      assert_int_equal (stream_time, n * GST_SECOND / 30);
      assert_true (entropy == (n == 0 ? 3 : n == 1 ? 2 : 0));
    }
  run_end (&run);
  run = run_new ("pattern=pong num-buffers=3 post-messages=false", "");
  run_start (&run);
  for (guint n = 0; n < 3; n++)
    gst_sample_unref (run_pull (&run));
  assert_null (fixture_pop_element_message (run.bus, "flow-step"));
  run_end (&run);
}

static void
test_seeds (void **state)
{
  gint64 seeds[2], seed;
  for (guint i = 0; i < 2; i++)
    {
      Run run = run_new ("seed=-1 num-buffers=1", "");
      g_object_get (run.src, "seed", &seed, NULL);
      assert_int_equal (seed, -1);
      run_start (&run);
      const Told told = run_pull_told (&run);
      g_object_get (run.src, "seed", &seeds[i], NULL);
      assert_true (seeds[i] >= 0);
      g_autoptr (NfWorld) world = world_new (NF_WORLD_BOUNCE, 64, 64, (guint64)seeds[i]);
      NfWorldState truth;
      nf_world_get_state (world, &truth);
      assert_true (told.ball_x == truth.ball_x && told.ball_y == truth.ball_y);
      run_end (&run);
    }
  assert_true (seeds[0] != seeds[1]);
}

/* Actions */

/* The action of a frame shows in the next one: in the truth, and in the picture. */
static void
check_consequence (const NfWorld *world, const Told *before, const Told *after, GstSample *sample)
{
  assert_int_equal (after->frame, before->frame + 1);
  assert_true (after->paddle_y == nf_world_expect_paddle (world, before->paddle_y, (guint)before->action));
  GstVideoInfo info;
  GstVideoFrame frame;
  NfWorldReading reading;
  assert_true (gst_video_info_from_caps (&info, gst_sample_get_caps (sample)));
  assert_true (gst_video_frame_map (&frame, &info, gst_sample_get_buffer (sample), GST_MAP_READ));
  NfFrame view = { .width = (guint)info.width, .height = (guint)info.height };
  for (guint c = 0; c < 3; c++)
    view.planes[c]
        = (NfPlane){ GST_VIDEO_FRAME_COMP_DATA (&frame, c), GST_VIDEO_FRAME_COMP_STRIDE (&frame, c),
                     GST_VIDEO_FRAME_COMP_PSTRIDE (&frame, c) };
  nf_world_read_frame (world, NF_PIXELS_RGB, &view, &reading);
  gst_video_frame_unmap (&frame);
  assert_true (reading.has_paddle);
  assert_true (fabs (reading.paddle_y - after->paddle_y) < 0.05);
  assert_int_equal (reading.n_balls, 1);
}

static void
test_controller (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong num-buffers=60", "video/x-raw,format=RGB,framerate=10/1 !");
  g_autoptr (GstControlSource) source = gst_interpolation_control_source_new ();
  assert_true (gst_object_add_control_binding (
      GST_OBJECT (run.src),
      gst_direct_control_binding_new_absolute (GST_OBJECT (run.src), "action", source)));
  static const gint plan[] = { 0, 1, 1, 0, 2, 2, 2, 1, 0, 0, 2 };
  g_object_set (source, "mode", GST_INTERPOLATION_MODE_NONE, NULL);
  for (guint n = 0; n < 60; n++)
    gst_timed_value_control_source_set (GST_TIMED_VALUE_CONTROL_SOURCE (source), n * 100 * GST_MSECOND,
                                        plan[n % G_N_ELEMENTS (plan)]);
  run_start (&run);
  Told before = { 0 };
  for (guint n = 0; n < 60; n++)
    {
      g_autoptr (GstSample) sample = run_pull (&run);
      const Told told = read_metas (gst_sample_get_buffer (sample));
      assert_int_equal (told.action, plan[n % G_N_ELEMENTS (plan)]);
      if (n > 0)
        check_consequence (world, &before, &told, sample);
      before = told;
    }
  run_end (&run);
}

/* Pulls until an action of WANTED comes, which must be soon. */
static guint
pull_until (Run *run, const NfWorld *world, gint wanted, Told *last)
{
  for (guint n = 1; n <= 12; n++)
    {
      g_autoptr (GstSample) sample = run_pull (run);
      const Told told = read_metas (gst_sample_get_buffer (sample));
      check_consequence (world, last, &told, sample);
      *last = told;
      if (told.action == wanted)
        return n;
    }
  fail_msg ("no action %d in twelve frames", wanted);
  return 0;
}

static void
test_keys (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong", "video/x-raw,format=I420 ! queue max-size-buffers=1 ! videoconvert ! "
                                     "video/x-raw,format=RGB ! queue max-size-buffers=1 !");
  run_start (&run);
  Told last = run_pull_told (&run);
  assert_int_equal (last.action, 0);
  static const struct
  {
    const char *key;
    gboolean down;
    gint action;
  } plan[] = {
    { "Up", TRUE, 1 },    { "Down", TRUE, 2 }, /* the latest wins */
    { "Down", FALSE, 1 }, { "Up", FALSE, 0 },  { "s", TRUE, 2 }, { "S", FALSE, 0 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (plan); i++)
    {
      assert_true (send_key (&run, plan[i].key, plan[i].down));
      pull_until (&run, world, plan[i].action, &last);
      /* And it stays. */
      for (guint n = 0; n < 8; n++)
        {
          g_autoptr (GstSample) sample = run_pull (&run);
          const Told told = read_metas (gst_sample_get_buffer (sample));
          check_consequence (world, &last, &told, sample);
          assert_int_equal (told.action, plan[i].action);
          last = told;
        }
    }
  /* Keys that mean nothing. */
  assert_false (send_key (&run, "q", TRUE));
  assert_false (send_key (&run, "Up", FALSE));
  /* Pressed and released between two frames: one frame of action. */
  assert_true (send_key (&run, "w", TRUE));
  assert_true (send_key (&run, "w", FALSE));
  pull_until (&run, world, 1, &last);
  for (guint n = 0; n < 8; n++)
    assert_int_equal (run_pull_told (&run).action, 0);
  run_end (&run);
}

static void
test_mouse (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong action-map=\"Button1=1, ScrollDown = 2, MoveUp=1 ,MoveDown=2,\"",
                     "video/x-raw,format=RGB !");
  run_start (&run);
  Told last = run_pull_told (&run);
  GstElement *sink = GST_ELEMENT (run.sink);
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_button_press (1, 5, 5, NONE)));
  pull_until (&run, world, 1, &last);
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_button_release (1, 5, 5, NONE)));
  pull_until (&run, world, 0, &last);
  assert_false (gst_element_send_event (sink, gst_navigation_event_new_mouse_button_press (3, 5, 5, NONE)));
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_scroll (5, 5, 0, -1, NONE)));
  pull_until (&run, world, 2, &last);
  pull_until (&run, world, 0, &last);
  /* the wheel, too, in windows of X */
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_button_press (5, 5, 5, NONE)));
  pull_until (&run, world, 2, &last);
  pull_until (&run, world, 0, &last);
  assert_false (gst_element_send_event (sink, gst_navigation_event_new_mouse_button_press (4, 5, 5, NONE)));
  assert_false (gst_element_send_event (sink, gst_navigation_event_new_mouse_move (5, 5, NONE)));
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_move (5, 3, NONE)));
  pull_until (&run, world, 1, &last);
  assert_true (gst_element_send_event (sink, gst_navigation_event_new_mouse_move (5, 9, NONE)));
  pull_until (&run, world, 2, &last);
  pull_until (&run, world, 0, &last);
  run_end (&run);
}

static void
test_combinations (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong action-map=\"w=1,a=1,w+a=2\"", "video/x-raw,format=RGB !");
  run_start (&run);
  Told last = run_pull_told (&run);
  send_key (&run, "a", TRUE);
  pull_until (&run, world, 1, &last);
  send_key (&run, "w", TRUE);
  pull_until (&run, world, 2, &last);
  send_key (&run, "a", FALSE);
  pull_until (&run, world, 1, &last);
  run_end (&run);
}

/* Live: what is pressed while frame n is shown moves the paddle two frames later at most. */
static void
test_live (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong is-live=true",
                     "video/x-raw,format=RGB,framerate=8/1 ! queue ! videoconvert !");
  g_autoptr (GstQuery) query = gst_query_new_latency ();
  run_start (&run);
  Told last = run_pull_told (&run);
  g_autoptr (GstPad) pad = gst_element_get_static_pad (run.src, "src");
  assert_true (gst_pad_query (pad, query));
  gboolean live;
  GstClockTime least;
  gst_query_parse_latency (query, &live, &least, NULL);
  assert_true (live);
  assert_true (least < PERIOD);
  for (guint i = 0; i < 4; i++)
    {
      const guint64 shown = last.frame;
      const double paddle = last.paddle_y;
      assert_true (send_key (&run, "Up", TRUE));
      pull_until (&run, world, 1, &last);
      assert_true (send_key (&run, "Up", FALSE));
      while (last.paddle_y == paddle)
        {
          g_autoptr (GstSample) sample = run_pull (&run);
          const Told told = read_metas (gst_sample_get_buffer (sample));
          check_consequence (world, &last, &told, sample);
          last = told;
        }
      assert_true (last.frame - shown <= 2);
      pull_until (&run, world, 0, &last);
    }
  /* A pause does not lose or repeat a frame. */
  gst_element_set_state (run.pipeline, GST_STATE_PAUSED);
  gst_element_get_state (run.pipeline, NULL, NULL, GST_SECOND);
  gst_element_set_state (run.pipeline, GST_STATE_PLAYING);
  for (guint n = 0; n < 4; n++)
    {
      g_autoptr (GstSample) sample = run_pull (&run);
      const Told told = read_metas (gst_sample_get_buffer (sample));
      check_consequence (world, &last, &told, sample);
      last = told;
    }
  run_end (&run);
}

/* Bad input */

static void
check_bad_start (const char *properties, GQuark domain, gint code, const char *part, const char *other_part)
{
  Run run = run_new (properties, "");
  assert_int_equal (gst_element_set_state (run.pipeline, GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  assert_error_message (run.bus, domain, code, part, other_part);
  /* It works once that is put right. */
  g_object_set (run.src, "action-map", NULL, "actions-location", NULL, "record-actions", NULL, NULL);
  run_start (&run);
  gst_sample_unref (run_pull (&run));
  run_end (&run);
}

static char *
temporary_file (void)
{
  g_autofree char *name = g_strdup_printf ("normflow-test-%08x%s", g_random_int (), NF_ACTIONS_SUFFIX);
  return g_build_filename (g_get_tmp_dir (), name, NULL);
}

static void
test_bad_settings (void **state)
{
  static const char *const maps[][2] = {
    { "Up", "\"Up\" is not a key and its action" },
    { "Up=1,,Down=2", "\"\" is not a key" },
    { "Up=3", "a number of 0 to 2" },
    { "Up=-1", "a number of 0 to 2" },
    { "Up=one", "a number of 0 to 2" },
    { "=1", "lacks the name of a key" },
    { "w+=1", "lacks the name of a key" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (maps); i++)
    {
      g_autofree char *properties = g_strdup_printf ("pattern=pong action-map=\"%s\"", maps[i][0]);
      check_bad_start (properties, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, "action map", maps[i][1]);
    }
  check_bad_start ("pattern=pong actions-location=/nowhere/a.ndjson", GST_RESOURCE_ERROR,
                   GST_RESOURCE_ERROR_NOT_FOUND, "/nowhere/a.ndjson", NULL);
  check_bad_start ("pattern=pong record-actions=/nowhere/a.ndjson", GST_RESOURCE_ERROR,
                   GST_RESOURCE_ERROR_OPEN_WRITE, "/nowhere/a.ndjson", NULL);
  /* a world is to be told what is done */
  g_autofree char *path = temporary_file ();
  g_autofree char *properties = g_strdup_printf ("pattern=pong actions-location=%s", path);
  assert_true (g_file_set_contents (path, "{\"frame\":0,\"action\":null}\n", -1, NULL));
  check_bad_start (properties, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, path,
                   "line 1: \"action\" is null");
  g_unlink (path);
}

static void
test_bad_settings_while_running (void **state)
{
  g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, 64, 64, 0);
  Run run = run_new ("pattern=pong action=7", "video/x-raw,format=RGB !");
  g_autoptr (GError) error = NULL;
  run_start (&run);
  Told last = run_pull_told (&run);
  assert_int_equal (last.action, 0);
  g_autoptr (GstMessage) message = fixture_wait (run.bus, GST_MESSAGE_WARNING);
  assert_non_null (message);
  gst_message_parse_warning (message, &error, NULL);
  assert_non_null (strstr (error->message, "no action 7 in pong, only 0 to 2"));
  for (guint n = 0; n < 5; n++)
    gst_sample_unref (run_pull (&run));
  last = run_pull_told (&run);
  g_autoptr (GstMessage) second = gst_bus_pop_filtered (run.bus, GST_MESSAGE_WARNING);
  assert_null (second);

  g_object_set (run.src, "action-map", "nonsense", NULL);
  g_autoptr (GstMessage) third = fixture_wait (run.bus, GST_MESSAGE_WARNING);
  assert_non_null (third);
  g_clear_error (&error);
  gst_message_parse_warning (third, &error, NULL);
  assert_non_null (strstr (error->message, "nonsense"));
  assert_true (send_key (&run, "Down", TRUE));
  pull_until (&run, world, 2, &last);
  g_object_set (run.src, "action-map", "x=1", NULL);
  assert_false (send_key (&run, "Down", TRUE));
  assert_true (send_key (&run, "x", TRUE));
  pull_until (&run, world, 1, &last);
  run_end (&run);
}

/* Recording, replaying, seeking */

static char *
checksum_of (GstSample *sample)
{
  GstMapInfo map;
  GstBuffer *buffer = gst_sample_get_buffer (sample);
  assert_true (gst_buffer_map (buffer, &map, GST_MAP_READ));
  char *sum = g_compute_checksum_for_data (G_CHECKSUM_SHA256, map.data, map.size);
  gst_buffer_unmap (buffer, &map);
  return sum;
}

static void
test_replay_is_the_same (void **state)
{
  static const char *const patterns[] = { "pong", "gridworld" };
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autofree char *path = temporary_file ();
      g_autoptr (GPtrArray) sums = g_ptr_array_new_with_free_func (g_free);
      g_autofree char *record
          = g_strdup_printf ("pattern=%s seed=3 num-buffers=80 record-actions=%s", patterns[i], path);
      Run run = run_new (record, "");
      run_start (&run);
      gboolean acted = FALSE;
      for (guint n = 0; n < 80; n++)
        {
          g_autoptr (GstSample) sample = run_pull (&run);
          acted |= read_metas (gst_sample_get_buffer (sample)).action != 0;
          g_ptr_array_add (sums, checksum_of (sample));
          if (n % 7 == 3)
            send_key (&run, n % 2 ? "Up" : "Down", TRUE);
          if (n % 11 == 5)
            send_key (&run, n % 2 ? "Down" : "Up", FALSE);
        }
      assert_true (acted);
      run_end (&run);

      g_autofree char *replay
          = g_strdup_printf ("pattern=%s seed=3 num-buffers=90 actions-location=%s", patterns[i], path);
      run = run_new (replay, "");
      run_start (&run);
      for (guint n = 0; n < 90; n++)
        {
          g_autoptr (GstSample) sample = run_pull (&run);
          g_autofree char *sum = checksum_of (sample);
          if (n < 80)
            assert_string_equal (sum, g_ptr_array_index (sums, n));
          else /* the file is over */
            assert_int_equal (read_metas (gst_sample_get_buffer (sample)).action, 0);
          if (n < 70) /* keys are for later */
            {
              send_key (&run, "Up", TRUE);
              send_key (&run, "Up", FALSE);
            }
        }
      run_end (&run);
      g_unlink (path);
    }
}

static void
seek (Run *run, guint64 frame)
{
  assert_true (gst_element_seek_simple (run->pipeline, GST_FORMAT_TIME,
                                        GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_ACCURATE,
                                        (gint64)(frame * 100 * GST_MSECOND)));
}

/* Back to a frame: the same one, whatever was pressed on the way. Forward: as if it had been played. */
static void
test_seek (void **state)
{
  g_autofree char *path = temporary_file ();
  g_autofree char *properties = g_strdup_printf ("pattern=gridworld seed=3 record-actions=%s", path);
  g_autoptr (GPtrArray) sums = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GArray) actions = g_array_new (FALSE, FALSE, sizeof (gint));
  Run run = run_new (properties, "video/x-raw,framerate=10/1 !");
  run_start (&run);
  for (guint n = 0; n < 40; n++)
    {
      g_autoptr (GstSample) sample = run_pull (&run);
      const Told told = read_metas (gst_sample_get_buffer (sample));
      assert_int_equal (told.frame, n);
      g_array_append_val (actions, told.action);
      g_ptr_array_add (sums, checksum_of (sample));
      if (n % 10 == 2)
        send_key (&run, n % 20 == 2 ? "Right" : "Down", TRUE);
      if (n % 10 == 8)
        send_key (&run, n % 20 == 8 ? "Right" : "Down", FALSE);
    }
  static const guint64 places[] = { 30, 11, 0, 10 };
  for (guint i = 0; i < G_N_ELEMENTS (places); i++)
    {
      seek (&run, places[i]);
      g_autoptr (GstSample) sample = run_pull (&run);
      const Told told = read_metas (gst_sample_get_buffer (sample));
      g_autofree char *sum = checksum_of (sample);
      assert_int_equal (told.frame, places[i]);
      assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (sample)), places[i] * 100 * GST_MSECOND);
      if (i < 2) /* before the actions were done otherwise */
        assert_string_equal (sum, g_ptr_array_index (sums, places[i]));
    }
  /* Frames 0 to 9 went by without an action since, and so do 11 to 199. */
  seek (&run, 200);
  const Told told = run_pull_told (&run);
  assert_int_equal (told.frame, 200);
  assert_int_equal (told.camera_x, 0);
  run_end (&run);
  g_autoptr (GError) error = NULL;
  g_autoptr (GArray) recorded = nf_actions_read (path, 5, &error);
  assert_no_error (error);
  assert_true (recorded->len >= 201 && recorded->len <= 204);
  g_unlink (path);
}

/* Times of frames are rounded to nanoseconds: the one at a time is the last that begins by then. */
static void
test_seek_to_times (void **state)
{
  static const gint rates[][2] = { { 30, 1 }, { 24000, 1001 }, { 7, 3 }, { 25, 1 } };
  static const guint64 frames[] = { 2, 1, 31, 30, 100 };
  for (guint i = 0; i < G_N_ELEMENTS (rates); i++)
    for (guint ready = 0; ready < 2; ready++)
      {
        const guint64 second = rates[i][1] * GST_SECOND, rate = rates[i][0];
        g_autofree char *path = temporary_file ();
        g_autofree char *properties = g_strdup_printf ("pattern=pong record-actions=%s", path);
        g_autofree char *caps = g_strdup_printf ("video/x-raw,framerate=%d/%d !", rates[i][0], rates[i][1]);
        Run run = run_new (properties, caps);
        guint64 first;
        fixture_watch_first (run.src, &first);
        gst_element_set_state (run.pipeline, GST_STATE_READY);
        if (!ready)
          run_start (&run);
        if (!ready)
          gst_sample_unref (run_pull (&run));
        for (guint k = 0; k < (ready ? 1 : G_N_ELEMENTS (frames)); k++)
          for (gint off = ready ? 0 : -1; off <= (ready ? 0 : 1); off++)
            {
              const GstClockTime time = gst_util_uint64_scale (frames[k], second, rate) + off;
              const guint64 wanted = frames[k] - (off < 0 ? 1 : 0);
              assert_true (gst_element_seek_simple (ready ? run.src : run.pipeline, GST_FORMAT_TIME,
                                                    GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_ACCURATE,
                                                    (gint64)time));
              run_start (&run);
              g_autoptr (GstSample) sample = run_pull (&run);
              assert_int_equal (first, wanted);
              assert_int_equal (read_metas (gst_sample_get_buffer (sample)).frame, wanted);
              assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (sample)),
                                gst_util_uint64_scale (wanted, second, rate));
            }
        run_end (&run);
        g_unlink (path);
      }
}

/* All that happens before a frame far away takes long, but not longer than anybody waits for it; what is too
 * far is an error. */
static void
test_seek_far (void **state)
{
  static const guint64 places[] = { 1000000000, 5000000000 };
  for (guint i = 0; i < G_N_ELEMENTS (places); i++)
    {
      Run run = run_new ("pattern=pong", "video/x-raw,framerate=10/1 !");
      run_start (&run);
      gst_sample_unref (run_pull (&run));
      seek (&run, places[i]);
      assert_null (gst_app_sink_try_pull_sample (run.sink, i ? 60 * GST_SECOND : 20 * GST_MSECOND));
      if (i)
        {
          g_autoptr (GstMessage) message
              = gst_bus_timed_pop_filtered (run.bus, 60 * GST_SECOND, GST_MESSAGE_ERROR);
          g_autoptr (GError) error = NULL;
          assert_non_null (message);
          gst_message_parse_error (message, &error, NULL);
          assert_non_null (strstr (error->message, "5000000000"));
        }
      else
        {
          seek (&run, 3);
          assert_int_equal (run_pull_told (&run).frame, 3);
          seek (&run, places[i]);
        }
      run_end (&run);
    }
}

/* A stop of the segment, and no playing backwards. */
static void
test_segments (void **state)
{
  Run run = run_new ("pattern=pong", "video/x-raw,framerate=10/1 !");
  gst_element_set_state (run.pipeline, GST_STATE_PAUSED);
  assert_int_equal (gst_element_get_state (run.pipeline, NULL, NULL, 60 * GST_SECOND),
                    GST_STATE_CHANGE_SUCCESS);
  assert_true (gst_element_seek (run.pipeline, 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                 500 * GST_MSECOND, GST_SEEK_TYPE_SET, 900 * GST_MSECOND));
  run_start (&run);
  for (guint n = 5; n < 9; n++)
    assert_int_equal (run_pull_told (&run).frame, n);
  assert_null (gst_app_sink_try_pull_sample (run.sink, 60 * GST_SECOND));
  assert_true (gst_app_sink_is_eos (run.sink));
  assert_false (gst_element_seek (run.pipeline, -1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                  0, GST_SEEK_TYPE_SET, 900 * GST_MSECOND));
  run_end (&run);
}

/* In mid-stream: another format is the same world, another size the same actions in another world, and times
 * go on. */
static void
test_renegotiation (void **state)
{
  Run run = run_new ("pattern=pong seed=4 action=1",
                     "capsfilter name=filter caps=video/x-raw,format=RGB,framerate=10/1 !");
  g_autoptr (GstElement) filter = gst_bin_get_by_name (GST_BIN (run.pipeline), "filter");
  static const char *const caps[] = { "video/x-raw,format=I420,framerate=10/1",
                                      "video/x-raw,format=RGB,width=96,height=80,framerate=10/1",
                                      "video/x-raw,format=RGB,width=96,height=80,framerate=20/1" };
  run_start (&run);
  gst_sample_unref (run_pull (&run));
  for (guint i = 0; i < G_N_ELEMENTS (caps); i++)
    {
      g_autoptr (GstCaps) wanted = gst_caps_from_string (caps[i]);
      g_object_set (filter, "caps", wanted, NULL);
      guint64 frame = 0;
      GstClockTime end = GST_CLOCK_TIME_NONE;
      for (guint n = 0, after = 0; after < 3; n++)
        {
          g_autoptr (GstSample) sample = run_pull (&run);
          GstBuffer *buffer = gst_sample_get_buffer (sample);
          GstVideoInfo info;
          assert_true (n < 20);
          const Told told = read_metas (buffer);
          assert_true (n == 0 || told.frame == frame + 1);
          assert_true (n == 0 || GST_BUFFER_PTS (buffer) == end);
          frame = told.frame;
          end = GST_BUFFER_PTS (buffer) + GST_BUFFER_DURATION (buffer);
          if (!gst_caps_is_subset (gst_sample_get_caps (sample), wanted))
            continue;
          after++;
          assert_true (gst_video_info_from_caps (&info, gst_sample_get_caps (sample)));
          g_autoptr (NfWorld) world = world_new (NF_WORLD_PONG, (guint)info.width, (guint)info.height, 4);
          NfWorldState truth;
          for (guint k = 0; k < told.frame; k++)
            step (world, 1);
          nf_world_get_state (world, &truth);
          assert_true (truth.ball_x == told.ball_x && truth.ball_y == told.ball_y
                       && truth.paddle_y == told.paddle_y);
        }
    }
  run_end (&run);
}

static void
test_queries (void **state)
{
  Run run = run_new ("num-buffers=25", "video/x-raw,framerate=25/1 !");
  gst_element_set_state (run.pipeline, GST_STATE_PAUSED);
  assert_int_equal (gst_element_get_state (run.pipeline, NULL, NULL, 60 * GST_SECOND),
                    GST_STATE_CHANGE_SUCCESS);
  gint64 duration;
  assert_true (gst_element_query_duration (run.pipeline, GST_FORMAT_TIME, &duration));
  assert_int_equal (duration, GST_SECOND);
  g_autoptr (GstQuery) query = gst_query_new_latency ();
  gboolean live = TRUE;
  assert_true (gst_element_query (run.src, query));
  gst_query_parse_latency (query, &live, NULL, NULL);
  assert_false (live);
  run_end (&run);
}

static void
test_state_cycles (void **state)
{
  Run run = run_new ("pattern=pong seed=4 action=2", "");
  g_autofree char *first = NULL;
  for (guint i = 0; i < 100; i++)
    {
      run_start (&run);
      /* An appsink may still hold a frame from before READY. */
      while (run_pull_told (&run).frame != 0)
        ;
      gst_sample_unref (run_pull (&run));
      g_autoptr (GstSample) sample = run_pull (&run);
      assert_int_equal (read_metas (gst_sample_get_buffer (sample)).frame, 2);
      g_autofree char *sum = checksum_of (sample);
      if (!first)
        first = g_strdup (sum);
      assert_string_equal (sum, first);
      gst_element_set_state (run.pipeline, i % 3 ? GST_STATE_READY : GST_STATE_NULL);
    }
  run_end (&run);
}

/* Both metas live through elements that change the picture. */
static void
test_metas_survive (void **state)
{
  Run run = run_new ("pattern=pong num-buffers=5",
                     "queue ! videoscale ! video/x-raw,width=100,height=100 ! videoconvert ! "
                     "video/x-raw,format=I420 ! videoflip method=rotate-180 !");
  run_start (&run);
  for (guint n = 0; n < 5; n++)
    assert_int_equal (run_pull_told (&run).frame, n);
  run_end (&run);
}

int
main (int argc, char **argv)
{
  gst_init (&argc, &argv);
  g_autoptr (GstPluginFeature) feature
      = gst_registry_find_feature (gst_registry_get (), "flowtestsrc", GST_TYPE_ELEMENT_FACTORY);
  if (!feature)
    {
      g_printerr ("there is no element flowtestsrc: run this by meson test, or with GST_PLUGIN_PATH set\n");
      return 1;
    }
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_frames_are_the_worlds),
    cmocka_unit_test (test_default_caps),
    cmocka_unit_test (test_still),
    cmocka_unit_test (test_still_that_moves),
    cmocka_unit_test (test_messages),
    cmocka_unit_test (test_seeds),
    cmocka_unit_test (test_controller),
    cmocka_unit_test (test_keys),
    cmocka_unit_test (test_mouse),
    cmocka_unit_test (test_combinations),
    cmocka_unit_test (test_live),
    cmocka_unit_test (test_bad_settings),
    cmocka_unit_test (test_bad_settings_while_running),
    cmocka_unit_test (test_replay_is_the_same),
    cmocka_unit_test (test_seek),
    cmocka_unit_test (test_seek_to_times),
    cmocka_unit_test (test_seek_far),
    cmocka_unit_test (test_segments),
    cmocka_unit_test (test_renegotiation),
    cmocka_unit_test (test_queries),
    cmocka_unit_test (test_state_cycles),
    cmocka_unit_test (test_metas_survive),
  };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
