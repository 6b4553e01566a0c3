/* normflow: flowsample behind real latents: when frames are drawn, and what is asked of it.
 * SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <gst/app/gstappsink.h>
#include <gst/check/gstharness.h>
#include <gst/video/video-event.h>

#define FRAME (40 * GST_MSECOND)

static char *video_model;

/* A flowsample with a sink pad, behind a live source by a clock that stands still, and LATENTS for it. Caps
 * have come. */
static GstHarness *
make_splice (const char *properties, GstBuffer **latents)
{
  g_autoptr (GError) error = NULL;
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autofree char *line = g_strdup_printf ("flowencode model=\"%s\"", fixture_model[MODEL_YUV]);
  GstHarness *encoder = gst_harness_new_parse (line);
  gst_harness_set_src_caps (encoder, gst_video_info_to_caps (&info));
  *latents = gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE));
  assert_non_null (*latents);

  GstElement *sample = gst_element_factory_make ("flowsample", NULL);
  gst_object_ref_sink (sample);
  g_object_set (sample, "model", fixture_model[MODEL_YUV], NULL);
  g_auto (GStrv) list = g_strsplit (properties, " ", -1);
  for (guint i = 0; list[i]; i++)
    {
      g_auto (GStrv) pair = g_strsplit (list[i], "=", 2);
      gst_util_set_object_arg (G_OBJECT (sample), pair[0], pair[1]);
    }
  GstHarness *harness = gst_harness_new_with_element (sample, "sink", "src");
  gst_harness_set_src_caps (harness, gst_pad_get_current_caps (encoder->sinkpad));
  gst_object_unref (sample);
  gst_harness_teardown (encoder);
  return harness;
}

static void
push_at (GstHarness *harness, GstBuffer *latents, GstClockTime pts)
{
  GstBuffer *buffer = gst_buffer_copy (latents);
  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_DURATION (buffer) = FRAME;
  assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
}

static void
assert_comes (GstHarness *harness, GstClockTime pts)
{
  g_autoptr (GstBuffer) buffer = gst_harness_pull (harness);
  assert_non_null (buffer);
  assert_int_equal (GST_BUFFER_PTS (buffer), pts);
  assert_int_equal (GST_BUFFER_DURATION (buffer), FRAME);
}

/* Whether somebody waits for the clock to say TIME, or later. */
static gboolean
is_awaited (GstHarness *harness, GstClockTime time)
{
  g_autoptr (GstTestClock) clock = gst_harness_get_testclock (harness);
  GList *ids = NULL;
  if (!gst_test_clock_timed_wait_for_multiple_pending_ids (clock, 1, 5000, &ids))
    return FALSE;
  const gboolean result = gst_clock_id_get_time (ids->data) >= time;
  g_list_free_full (ids, gst_clock_id_unref);
  return result;
}

static void
begin_segment (GstHarness *harness, GstClockTime base, GstClockTime start)
{
  GstSegment segment;
  gst_segment_init (&segment, GST_FORMAT_TIME);
  segment.base = base;
  segment.start = segment.time = start;
  gst_harness_push_event (harness, gst_event_new_segment (&segment));
}

/* Real frames that come once others were drawn at their times are not drawn again. */
static void
test_late_frames (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("after=2 horizon=6", &latents);
  for (guint n = 0; n < 2; n++)
    {
      push_at (harness, latents, n * FRAME);
      assert_comes (harness, n * FRAME);
    }
  for (guint n = 2; n < 4; n++)
    {
      assert_true (gst_harness_crank_single_clock_wait (harness));
      assert_comes (harness, n * FRAME);
    }
  for (guint n = 2; n < 6; n++)
    push_at (harness, latents, n * FRAME + (n % 2 ? 3 : -3) * GST_MSECOND); /* not quite at its time */
  assert_comes (harness, 4 * FRAME - 3 * GST_MSECOND);
  assert_comes (harness, 5 * FRAME + 3 * GST_MSECOND);
  /* time goes on from the last one */
  for (guint n = 6; n < 8; n++)
    {
      assert_true (gst_harness_crank_single_clock_wait (harness));
      assert_comes (harness, n * FRAME + 3 * GST_MSECOND);
    }
  assert_int_equal (gst_harness_buffers_received (harness), 8);
  gst_harness_teardown (harness);
}

/* In a segment after the first one times are others, and what follows goes on where that began. */
static void
test_late_frames_of_two_segments (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("after=1", &latents);
  push_at (harness, latents, 0);
  assert_comes (harness, 0);
  assert_true (gst_harness_crank_single_clock_wait (harness));
  assert_comes (harness, FRAME);
  begin_segment (harness, FRAME, GST_SECOND);
  push_at (harness, latents, GST_SECOND);
  push_at (harness, latents, GST_SECOND + FRAME);
  assert_comes (harness, GST_SECOND + FRAME);
  gst_harness_teardown (harness);
}

/* A segment that begins after the last frame's end: it is gone on with from its beginning, when that is due.
 */
static void
test_segment_after_a_gap (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("after=1", &latents);
  push_at (harness, latents, 0);
  assert_comes (harness, 0);
  assert_true (is_awaited (harness, FRAME));
  begin_segment (harness, 5 * FRAME, GST_SECOND);
  gst_harness_push_event (harness, gst_event_new_eos ());
  g_autoptr (GstTestClock) clock = gst_harness_get_testclock (harness);
  for (guint n = 0; n < 3; n++)
    {
      do
        assert_true (gst_harness_crank_single_clock_wait (harness));
      while (gst_clock_get_time (GST_CLOCK (clock)) < (5 + n) * FRAME);
      assert_comes (harness, GST_SECOND + n * FRAME);
    }
  gst_harness_teardown (harness);
}

/* What comes after a gap is not due before it is over. */
static void
test_waits_for_the_end_of_a_gap (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("after=1", &latents);
  push_at (harness, latents, 0);
  assert_comes (harness, 0);
  gst_harness_push_event (harness, gst_event_new_gap (FRAME, 10 * FRAME));
  for (gboolean gap = FALSE; !gap;)
    {
      g_autoptr (GstEvent) event = gst_harness_pull_event (harness);
      assert_non_null (event);
      gap = GST_EVENT_TYPE (event) == GST_EVENT_GAP;
    }
  assert_true (is_awaited (harness, 11 * FRAME));
  assert_true (gst_harness_crank_single_clock_wait (harness));
  assert_comes (harness, 11 * FRAME);
  gst_harness_teardown (harness);
}

/* A frame that lasts no time is no reason not to wait. */
static void
test_frame_without_length (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("horizon=0", &latents);
  GstBuffer *buffer = gst_buffer_copy (latents);
  GST_BUFFER_PTS (buffer) = 0;
  GST_BUFFER_DURATION (buffer) = 0;
  assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
  gst_buffer_unref (gst_harness_pull (harness));
  for (guint n = 1; n < 4; n++)
    {
      assert_true (is_awaited (harness, n * FRAME));
      assert_true (gst_harness_crank_single_clock_wait (harness));
    }
  gst_harness_teardown (harness);
}

/* Before the first real frame none is drawn, which would have no time. */
static void
test_predicts_from_the_start (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("predict=true", &latents);
  g_usleep (20000);
  assert_int_equal (gst_harness_buffers_received (harness), 0);
  gst_harness_set_time (harness, 300 * GST_MSECOND);
  push_at (harness, latents, 300 * GST_MSECOND);
  assert_comes (harness, 300 * GST_MSECOND);
  gst_harness_teardown (harness);
}

/* An input that ends without a frame is continued from its beginning. */
static void
test_no_real_frame (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("horizon=3", &latents);
  gst_harness_push_event (harness, gst_event_new_eos ());
  for (guint n = 0; n < 3; n++)
    {
      assert_true (gst_harness_crank_single_clock_wait (harness));
      assert_comes (harness, n * FRAME);
    }
  gst_harness_teardown (harness);
}

/* When frame N begins. */
static GstClockTime
begin_of (guint64 n)
{
  return gst_util_uint64_scale (n, 1001 * GST_SECOND, 30000);
}

/* Times do not drift from those of the rate, whatever is left out; durations are what lies between them. */
static void
test_times_by_the_rate (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=2 ! video/x-raw,width=16,height=8,framerate=30000/1001 ! flowencode "
      "model=\"%s\" ! flowsample model=\"%s\" horizon=60 ! appsink name=sink sync=false max-buffers=1",
      fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  guint64 n = 0, shown = 0;
  GstSample *sample;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (; (sample = gst_app_sink_pull_sample (GST_APP_SINK (sink))); shown++)
    {
      const GstBuffer *buffer = gst_sample_get_buffer (sample);
      n = gst_util_uint64_scale_round (GST_BUFFER_PTS (buffer), 30000, 1001 * GST_SECOND);
      assert_int_equal (GST_BUFFER_PTS (buffer), begin_of (n));
      assert_int_equal (GST_BUFFER_DURATION (buffer), begin_of (n + 1) - begin_of (n));
      gst_sample_unref (sample);
      if (shown == 10)
        gst_element_send_event (
            sink, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 10 * FRAME, (GstClockTime)(5 * FRAME)));
    }
  assert_int_equal (n, 61);
  assert_in_range (shown, 40, 58); /* some were left out */
  fixture_stop (pipeline);
}

/* While real frames pass, one that is late is waited for, not asked for again and again. */
static void
test_waits_for_real_frames (void **state)
{
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("horizon=0", &latents);
  push_at (harness, latents, 0);
  assert_comes (harness, 0);
  for (guint n = 1; n < 4; n++)
    {
      assert_true (is_awaited (harness, n * FRAME));
      assert_true (gst_harness_crank_single_clock_wait (harness));
    }
  push_at (harness, latents, FRAME);
  assert_comes (harness, FRAME);
  gst_harness_teardown (harness);
}

/* Through flowsample one can seek wherever one can before it. */
static void
test_seeking_query (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=9 ! video/x-raw,width=16,height=8 ! flowencode model=\"%s\" ! flowsample "
      "name=sample model=\"%s\" horizon=2 ! fakesink",
      fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  gst_element_get_state (pipeline, NULL, NULL, GST_CLOCK_TIME_NONE);
  g_autoptr (GstQuery) query = gst_query_new_seeking (GST_FORMAT_TIME);
  gboolean seekable;
  assert_true (gst_element_query (sample, query));
  gst_query_parse_seeking (query, NULL, &seekable, NULL, NULL);
  assert_true (seekable);
  fixture_stop (pipeline);

  /* nobody says so */
  g_autoptr (GstBuffer) latents = NULL;
  GstHarness *harness = make_splice ("horizon=2", &latents);
  assert_false (gst_element_query (harness->element, query));
  gst_harness_teardown (harness);
}

typedef struct
{
  GstElement *pipeline;
  guint frames, ask_at, keys;
  GstClockTime wanted, key; /* running times: for the request, and of the last key frame */
  GstClockTime answered;    /* of the event that said there would be one */
  guint answers, count;     /* as it has it */
} Asked;

static GstPadProbeReturn
watch_keys (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  Asked *asked = data;
  if (GST_IS_EVENT (info->data))
    {
      if (gst_video_event_is_force_key_unit (info->data))
        {
          asked->answers++;
          gst_video_event_parse_downstream_force_key_unit (info->data, NULL, NULL, &asked->answered, NULL,
                                                           &asked->count);
        }
      return GST_PAD_PROBE_OK;
    }
  GstBuffer *buffer = info->data;
  if (!GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT))
    {
      asked->keys++;
      asked->key = GST_BUFFER_PTS (buffer);
    }
  if (asked->frames++ == asked->ask_at)
    gst_pad_push_event (pad, gst_video_event_new_upstream_force_key_unit (asked->wanted, TRUE, 9));
  return GST_PAD_PROBE_OK;
}

/* Key frames come at the time for which they are asked for, and are announced, by whoever makes that frame.
 */
static void
test_key_units (void **state)
{
  static const struct
  {
    guint real, after, drawn, ask_at;
    GstClockTime wanted, key;
  } cases[] = {
    { 0, 0, 12, 3, 320 * GST_MSECOND, 320 * GST_MSECOND },
    { 0, 0, 12, 3, 330 * GST_MSECOND, 360 * GST_MSECOND },
    { 0, 0, 12, 3, GST_CLOCK_TIME_NONE, 160 * GST_MSECOND },
    { 4, 0, 8, 1, 320 * GST_MSECOND, 320 * GST_MSECOND },
    { 4, 0, 8, 6, 400 * GST_MSECOND, 400 * GST_MSECOND },
    { 12, 0, 2, 1, 320 * GST_MSECOND, 320 * GST_MSECOND },
    { 12, 4, 8, 1, 160 * GST_MSECOND, 160 * GST_MSECOND }, /* the first that replaces a real one */
    { 12, 5, 7, 1, 160 * GST_MSECOND, 160 * GST_MSECOND },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const guint real = cases[i].real, drawn = cases[i].drawn;
      g_autofree char *input
          = g_strdup_printf ("videotestsrc num-buffers=%u ! video/x-raw,format=RGB,width=%d,height=%d,"
                             "framerate=25/1 ! flowencode model=\"%s\" !",
                             real, RANDOM_VIDEO_WIDTH, RANDOM_VIDEO_HEIGHT, video_model);
      g_autofree char *line = g_strdup_printf (
          "%s flowsample model=\"%s\" after=%u %s=%u ! fakesink name=sink", real ? input : "", video_model,
          cases[i].after, real ? "horizon" : "num-buffers", drawn);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
      g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      Asked asked = { .ask_at = cases[i].ask_at, .wanted = cases[i].wanted };
      gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, watch_keys,
                         &asked, NULL);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      g_autoptr (GstMessage) message = fixture_wait (bus, GST_MESSAGE_EOS);
      assert_non_null (message);
      assert_int_equal (asked.frames, (cases[i].after ? cases[i].after : real) + drawn);
      assert_int_equal (asked.keys, 2);
      assert_int_equal (asked.key, cases[i].key);
      assert_int_equal (asked.answers, 1);
      assert_int_equal (asked.answered, cases[i].key);
      assert_int_equal (asked.count, 9);
      fixture_stop (pipeline);
    }
}

/* New caps begin anew, for drawn frames as for real ones. */
static void
test_new_rate (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "concat name=c ! flowencode model=\"%s\" ! flowsample model=\"%s\" after=2 horizon=9 ! flowdecode "
      "model=\"%s\" ! fakesink "
      "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! c. "
      "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=5/1 ! c.",
      video_model, video_model, video_model, RANDOM_VIDEO_WIDTH, RANDOM_VIDEO_HEIGHT, RANDOM_VIDEO_WIDTH,
      RANDOM_VIDEO_HEIGHT);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, 30 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_WARNING);
  assert_non_null (message);
  assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_EOS);
  fixture_stop (pipeline);
}

/* Without its sink pad it is a source again, from READY on. */
static void
test_released_while_playing (void **state)
{
  g_autofree char *line = g_strdup_printf ("flowsample name=sample model=\"%s\" num-buffers=5 ! appsink "
                                           "name=sink sync=false",
                                           fixture_model[MODEL_YUV]);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  GstPad *pad = gst_element_request_pad_simple (sample, "sink");
  assert_non_null (pad);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  gst_element_release_request_pad (sample, pad);
  gst_object_unref (pad);
  gst_element_set_state (pipeline, GST_STATE_READY);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint n = 0; n < 5; n++)
    {
      g_autoptr (GstSample) frame = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND);
      assert_non_null (frame);
    }
  assert_null (gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND));
  assert_true (gst_app_sink_is_eos (GST_APP_SINK (sink)));
  fixture_stop (pipeline);
}

/* A seek that upstream refuses is told so, and the stream goes on; others are made. */
static void
test_refused_seek (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "flowtestsrc ! video/x-raw,format=RGB,width=16,height=16,framerate=25/1 ! flowencode model=\"%s\" ! "
      "flowsample name=sample model=\"%s\" ! appsink name=sink sync=false max-buffers=1",
      fixture_model[MODEL_RGB], fixture_model[MODEL_RGB]);
  static const gboolean refused[] = { TRUE, FALSE, TRUE, TRUE, FALSE };
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  GstClockTime next = 0;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      for (guint n = 0; n < 3; n++, next += FRAME)
        {
          g_autoptr (GstSample) sample = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND);
          assert_non_null (sample);
          assert_true (GST_BUFFER_PTS (gst_sample_get_buffer (sample)) >= next); /* some are lost */
          next = GST_BUFFER_PTS (gst_sample_get_buffer (sample));
        }
      assert_int_equal (gst_element_seek (pipeline, refused[i] ? -1 : 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH,
                                          GST_SEEK_TYPE_SET, i * GST_SECOND, GST_SEEK_TYPE_NONE,
                                          GST_CLOCK_TIME_NONE),
                        !refused[i]);
      if (!refused[i])
        next = i * GST_SECOND;
    }
  fixture_stop (pipeline);
}

/* Real frames come again after a seek, whether frames are drawn already or not yet. */
static void
test_seek_while_drawing (void **state)
{
  enum
  {
    REAL = 5
  };
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=%d ! video/x-raw,format=RGB,width=16,height=16,framerate=25/1 ! flowencode "
      "model=\"%s\" ! flowsample model=\"%s\" ! appsink name=sink sync=false max-buffers=1",
      REAL, fixture_model[MODEL_RGB], fixture_model[MODEL_RGB]);
  for (guint pulled = 2; pulled < 3 * REAL; pulled += REAL)
    {
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      for (guint seek = 0; seek < 3; seek++)
        {
          for (guint n = 0; n < pulled; n++)
            {
              g_autoptr (GstSample) sample
                  = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND);
              assert_non_null (sample);
              assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (sample)),
                                seek * GST_SECOND + n * FRAME);
            }
          assert_true (gst_element_seek (pipeline, 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                         (seek + 1) * GST_SECOND, GST_SEEK_TYPE_NONE, GST_CLOCK_TIME_NONE));
        }
      fixture_stop (pipeline);
    }
}

/* How many of COUNT frames come to SINK before the end. */
static guint
count_frames (GstElement *sink, guint count)
{
  guint n = 0;
  for (; n < count; n++)
    {
      g_autoptr (GstSample) sample = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND);
      if (!sample)
        break;
    }
  return n;
}

/* An end that the application sends, to the pipeline or to the element, ends drawing; what the input brings
 * until then is not lost. After a seek all begins anew. */
static void
test_told_to_end (void **state)
{
  enum
  {
    REAL = 5,
    MANY = 50
  };
  static const struct
  {
    gint real;
    gboolean predict;
    guint first; /* frames before the end is sent */
    guint all;   /* 0: at most MANY */
  } cases[] = { { REAL, FALSE, REAL + 3, 0 }, { REAL, FALSE, 2, REAL }, { -1, TRUE, 3, 0 } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    for (guint to_element = 0; to_element < 2; to_element++)
      {
        g_autofree char *line = g_strdup_printf (
            "videotestsrc num-buffers=%d ! video/x-raw,format=RGB,width=16,height=16,framerate=25/1 ! "
            "flowencode "
            "model=\"%s\" ! flowsample name=sample predict=%d model=\"%s\" ! appsink name=sink sync=false "
            "max-buffers=1",
            cases[i].real, fixture_model[MODEL_RGB], cases[i].predict, fixture_model[MODEL_RGB]);
        GstElement *pipeline = fixture_launch (line);
        g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink"),
                               sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
        gst_element_set_state (pipeline, GST_STATE_PLAYING);
        assert_int_equal (count_frames (sink, cases[i].first), cases[i].first);
        assert_true (gst_element_send_event (to_element ? sample : pipeline, gst_event_new_eos ()));
        const guint rest = count_frames (sink, MANY);
        assert_true (gst_app_sink_is_eos (GST_APP_SINK (sink)));
        /* the source may end before it has made all */
        if (cases[i].all > 0 && to_element)
          assert_int_equal (cases[i].first + rest, cases[i].all);
        else
          assert_true (cases[i].first + rest <= (cases[i].all > 0 ? cases[i].all : cases[i].first + 4));
        assert_true (gst_element_seek_simple (pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SECOND));
        assert_int_equal (count_frames (sink, 2 * REAL), 2 * REAL);
        fixture_stop (pipeline);
      }
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_late_frames),
    cmocka_unit_test (test_late_frames_of_two_segments),
    cmocka_unit_test (test_segment_after_a_gap),
    cmocka_unit_test (test_waits_for_the_end_of_a_gap),
    cmocka_unit_test (test_frame_without_length),
    cmocka_unit_test (test_predicts_from_the_start),
    cmocka_unit_test (test_no_real_frame),
    cmocka_unit_test (test_waits_for_real_frames),
    cmocka_unit_test (test_seeking_query),
    cmocka_unit_test (test_key_units),
    cmocka_unit_test (test_times_by_the_rate),
    cmocka_unit_test (test_new_rate),
    cmocka_unit_test (test_released_while_playing),
    cmocka_unit_test (test_refused_seek),
    cmocka_unit_test (test_seek_while_drawing),
    cmocka_unit_test (test_told_to_end),
  };
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  const NfConfig config = random_video_config ();
  video_model = fixture_path ("video.safetensors");
  random_model_write_scaled (video_model, &config, device, 5, RANDOM_VIDEO_SCALE);
  const int failed = cmocka_run_group_tests_name ("splice", tests, NULL, NULL);
  g_free (video_model);
  fixture_close ();
  return failed;
}
