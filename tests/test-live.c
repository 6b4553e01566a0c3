/* normflow: drawn streams that keep to the clock. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "live-fixture.h"

#include <gst/app/gstappsrc.h>
#include <gst/video/navigation.h>

static void
assert_waits (GstElement *pipeline, GstTestClock *clock, GstClockTime time)
{
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  fixture_assert_waits (clock, GST_APP_SINK (sink), time);
}

/* A key that goes down once a frame is there shows two frames later at most: against the same stream without
 * the key. */
static void
test_key_to_pixel (void **state)
{
  enum
  {
    PRESSED = 4,
    LENGTH = 8
  };
  g_autofree char *reference_line
      = g_strdup_printf ("flowsample model=%s seed=4 action=0 num-buffers=%d ! flowdecode model=%s ! "
                         "appsink name=sink sync=false",
                         noisy_model, LENGTH, noisy_model);
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=4 action=0 action-map=Up=1 is-live=true num-buffers=%d ! "
      "video/x-flow-latent,framerate=10/1 ! flowdecode model=%s ! appsink name=sink sync=false",
      noisy_model, LENGTH, noisy_model);
  g_autoptr (GPtrArray) reference = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  GstElement *pipeline = fixture_launch (reference_line);
  GstBuffer *buffer;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  while ((buffer = pull (pipeline)))
    g_ptr_array_add (reference, buffer);
  fixture_stop (pipeline);
  assert_int_equal (reference->len, LENGTH);

  pipeline = fixture_launch (line);
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  guint changed = 0;
  for (guint n = 0; n < LENGTH && !changed; n++)
    {
      buffer = pull_at (pipeline, clock, n * FRAME);
      assert_non_null (buffer);
      if (!same (buffer, g_ptr_array_index (reference, n)))
        changed = n;
      gst_buffer_unref (buffer);
      if (n + 1 < LENGTH)
        assert_waits (pipeline, clock, (n + 1) * FRAME);
      if (n == PRESSED)
        gst_element_send_event (sink,
                                gst_navigation_event_new_key_press ("Up", GST_NAVIGATION_MODIFIER_NONE));
    }
  fixture_stop (pipeline);
  if (changed <= PRESSED || changed > PRESSED + 2)
    fail_msg ("the key went down at frame %d and showed at frame %u", PRESSED, changed);
}

/* The times of what comes in. */
static GstPadProbeReturn
note_time (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  const GstClockTime pts = GST_BUFFER_PTS (GST_PAD_PROBE_INFO_BUFFER (info));
  g_array_append_val ((GArray *)data, pts);
  return GST_PAD_PROBE_OK;
}

/* Behind a live camera: frames are drawn at the times of real ones, and when the camera ends by the clock.
 * The latency is told; QoS goes to the camera. */
static void
test_behind_live (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc is-live=true pattern=ball num-buffers=8 ! "
      "video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! flowencode name=encode model=%s ! "
      "flowsample name=sample model=%s after=4 horizon=10 ! flowdecode model=%s ! "
      "appsink name=sink sync=false",
      WIDTH, HEIGHT, noisy_model, noisy_model, noisy_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = get (pipeline, "sink"), sample = get (pipeline, "sample");
  g_autoptr (GstElement) encode = get (pipeline, "encode");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, "src"),
                     input = gst_element_get_static_pad (encode, "sink");
  g_autoptr (GArray) times = g_array_new (FALSE, FALSE, sizeof (GstClockTime));
  gst_pad_add_probe (input, GST_PAD_PROBE_TYPE_BUFFER, note_time, times, NULL);
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  GstBuffer *buffer;
  guint n = 0;
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_ASYNC);
  for (; (buffer = pull_at (pipeline, clock, n * FRAME)); n++)
    {
      if (n == 0)
        {
          GstClockTime least, most;
          gboolean live;
          g_autoptr (GstQuery) query = gst_query_new_latency ();
          assert_true (gst_pad_query (pad, query));
          gst_query_parse_latency (query, &live, &least, &most);
          assert_true (live);
          assert_true (least > 0 && GST_CLOCK_TIME_IS_VALID (least));
        }
      if (n < 8)
        assert_int_equal (g_array_index (times, GstClockTime, n), n * FRAME);
      if (GST_BUFFER_PTS (buffer) != n * FRAME)
        fail_msg ("frame %u is at %" G_GUINT64_FORMAT, n, GST_BUFFER_PTS (buffer));
      gst_buffer_unref (buffer);
      /* none before its time, the last ones included, which nothing but the clock paces */
      if (n >= 8 && n < 13)
        assert_waits (pipeline, clock, (n + 1) * FRAME);
      if (n == 6) /* of a frame long past: none that is still to come may be left out because of it */
        assert_true (gst_element_send_event (
            sink, gst_event_new_qos (GST_QOS_TYPE_OVERFLOW, 1.5, 20 * GST_MSECOND, 0)));
    }
  assert_int_equal (n, 14);
  fixture_stop (pipeline);
}

/* Asks what is inside: a bin's pads pass on that of live streams only. */
static GstClockTime
query_latency (GstElement *bin, gboolean *live)
{
  g_autoptr (GstPad) outside = gst_element_get_static_pad (bin, "src"),
                     pad = gst_ghost_pad_get_target (GST_GHOST_PAD (outside));
  g_autoptr (GstQuery) query = gst_query_new_latency ();
  GstClockTime least;
  assert_true (gst_pad_query (pad, query));
  gst_query_parse_latency (query, live, &least, NULL);
  return least;
}

/* The time that drawing behind others takes is told, and that it is another one now. */
static void
test_latency_of_drawing (void **state)
{
  const char *model = fixture_model[MODEL_YUV];
  g_autofree char *line
      = g_strdup_printf ("flowsample seed=1 num-buffers=3 model=%s ! "
                         "video/x-flow-latent,width=512,height=512,framerate=10/1 ! "
                         "flowsample name=sample seed=2 horizon=3 model=%s ! appsink name=sink sync=false",
                         model, model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  for (guint run = 0; run < 2; run++)
    {
      gboolean told = FALSE;
      GstMessage *message;
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      for (guint n = 0; n < 6; n++)
        {
          g_autoptr (GstBuffer) buffer = pull (pipeline);
          assert_non_null (buffer);
        }
      assert_true (query_latency (sample, NULL) > 0);
      while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_LATENCY)))
        {
          told |= gst_object_has_as_ancestor (GST_MESSAGE_SRC (message), GST_OBJECT (sample));
          gst_message_unref (message);
        }
      assert_true (told);
      gst_element_set_state (pipeline, GST_STATE_NULL);
    }
  fixture_stop (pipeline);
}

/* Forced to be live behind a file, drawn frames keep to the clock, and sinks are told so; not forced, they
 * come as they can. A stop in the middle ends the wait. */
static void
test_forced_live (void **state)
{
  for (guint live = 0; live < 2; live++)
    {
      g_autofree char *line = g_strdup_printf (
          "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! "
          "flowencode model=%s ! flowsample name=sample model=%s is-live=%s horizon=%d ! "
          "appsink name=sink sync=false",
          WIDTH, HEIGHT, video_model, video_model, live ? "true" : "false", live ? 8 : 400);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) sample = get (pipeline, "sample");
      g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
      GstBuffer *buffer;
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      guint n = 0;
      for (; (buffer = pull_at (pipeline, clock, live && n >= 3 ? n * FRAME : 0)); n++)
        {
          gst_buffer_unref (buffer);
          if (live && n >= 2 && n < 10)
            assert_waits (pipeline, clock, (n + 1) * FRAME);
        }
      assert_int_equal (n, live ? 11 : 403);
      gboolean told;
      query_latency (sample, &told);
      assert_int_equal (told, live);
      fixture_stop (pipeline);
    }

  /* nothing but the stop ends this wait: no time passes */
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! flowencode "
      "model=%s ! flowsample model=%s is-live=true ! appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  gst_buffer_unref (pull_at (pipeline, clock, 0));
  assert_waits (pipeline, clock, FRAME);
  fixture_stop (pipeline);
}

/* A source that ends says when. */
static void
test_duration (void **state)
{
  g_autofree char *line = g_strdup_printf ("flowsample model=%s num-buffers=30 ! video/x-flow-latent,"
                                           "framerate=10/1 ! fakesink name=sink",
                                           video_model);
  GstElement *pipeline = fixture_launch (line);
  gint64 time;
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  gst_element_get_state (pipeline, NULL, NULL, GST_CLOCK_TIME_NONE);
  assert_true (gst_element_query_duration (pipeline, GST_FORMAT_TIME, &time));
  assert_int_equal (time, 30 * FRAME);
  fixture_stop (pipeline);
}

/* Where any pixel aspect ratio would do, pixels are square. */
static void
test_square_pixels (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=6 num-buffers=1 ! flowdecode model=%s name=decode ! videoscale ! "
      "video/x-raw,width=%d,height=%d,pixel-aspect-ratio=1/1 ! appsink name=sink sync=false",
      video_model, video_model, 2 * WIDTH, 2 * HEIGHT);
  GstElement *pipeline = fixture_launch (line);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  gst_buffer_unref (pull (pipeline));
  g_autoptr (GstElement) decode = get (pipeline, "decode");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (decode, "src");
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
  GstVideoInfo info;
  assert_true (gst_video_info_from_caps (&info, caps));
  assert_int_equal (info.par_n, 1);
  assert_int_equal (info.par_d, 1);
  fixture_stop (pipeline);
}

/* As often as they are asked for there are key frames among drawn frames, not for the real ones before. */
static void
test_keys_after_real_frames (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=7 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! flowencode "
      "model=%s ! flowsample model=%s horizon=8 key-int-max=5 ! appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  GstBuffer *buffer;
  guint n = 0;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (; (buffer = pull (pipeline)); n++)
    {
      assert_int_equal (!GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT), n == 0 || n == 12);
      gst_buffer_unref (buffer);
    }
  assert_int_equal (n, 15);
  fixture_stop (pipeline);
}

/* While all is paused none is drawn, whatever the clock says; then the next one is due as much later. */
static void
test_rests_while_paused (void **state)
{
  const guint first = 4;
  const GstClockTime pause = 7 * FRAME;
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! "
      "flowencode model=%s ! flowsample model=%s is-live=true horizon=5 ! appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  GstBuffer *buffer;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  guint n = 0;
  for (; n < first; n++)
    gst_buffer_unref (pull_at (pipeline, clock, n * FRAME));
  assert_waits (pipeline, clock, first * FRAME);
  assert_true (gst_element_set_state (pipeline, GST_STATE_PAUSED) != GST_STATE_CHANGE_FAILURE);
  gst_test_clock_advance_time (clock, pause);
  for (guint tries = 0; tries < 20; tries++)
    {
      GstClockID id = gst_test_clock_process_next_clock_id (clock);
      g_autoptr (GstSample) early = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 5 * GST_MSECOND);
      g_clear_pointer (&id, gst_clock_id_unref);
      assert_null (early);
    }
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  assert_waits (pipeline, clock, first * FRAME + pause);
  for (; (buffer = pull_at (pipeline, clock, n * FRAME + pause)); n++)
    {
      assert_int_equal (GST_BUFFER_PTS (buffer), n * FRAME);
      gst_buffer_unref (buffer);
    }
  assert_int_equal (n, 7);
  /* a stop in the pause */
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  gst_buffer_unref (pull_at (pipeline, clock, 0));
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  fixture_stop (pipeline);
}

static GstPadProbeReturn
note_event (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  GString *said = data;
  if (GST_IS_BUFFER (GST_PAD_PROBE_INFO_DATA (info)))
    g_string_append_c (said, 'b');
  else if (GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == GST_EVENT_SEGMENT)
    g_string_append_c (said, 's');
  else if (GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == GST_EVENT_TAG)
    g_string_append_c (said, 't');
  return GST_PAD_PROBE_OK;
}

static GstEvent *
title (const char *text)
{
  return gst_event_new_tag (gst_tag_list_new (GST_TAG_TITLE, text, NULL));
}

/* A frame of a source of pictures 0.1 s apart, or an empty gap. */
static GstBuffer *
frame_or_gap (guint n, gboolean gap)
{
  GstBuffer *buffer = gap ? gst_buffer_new () : gst_buffer_new_allocate (NULL, BYTES, NULL);
  if (gap)
    GST_BUFFER_FLAG_SET (buffer, GST_BUFFER_FLAG_GAP);
  else
    gst_buffer_memset (buffer, 0, 100, BYTES);
  GST_BUFFER_PTS (buffer) = n * FRAME;
  GST_BUFFER_DURATION (buffer) = FRAME;
  return buffer;
}

static GstElement *
launch_continuation (const char *model)
{
  g_autofree char *line
      = g_strdup_printf ("appsrc name=source format=time handle-segment-change=true "
                         "caps=video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! "
                         "flowencode model=%s ! flowsample model=%s horizon=3 ! appsink name=sink sync=false",
                         WIDTH, HEIGHT, model, model);
  return fixture_launch (line);
}

/* Tags go on, behind caps and segment, also those that come later. What is drawn comes behind gaps. */
static void
test_tags_and_gaps (void **state)
{
  GstElement *pipeline = launch_continuation (video_model);
  g_autoptr (GstElement) source = get (pipeline, "source"), sink = get (pipeline, "sink");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
  g_autoptr (GString) said = g_string_new (NULL);
  GstBuffer *buffer;
  guint n = 0;
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, note_event, said,
                     NULL);
  gst_element_send_event (source, title ("early"));
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint i = 0; i < 4; i++) /* the last two are gaps: what is drawn follows on them */
    {
      assert_int_equal (gst_app_src_push_buffer (GST_APP_SRC (source), frame_or_gap (i, i >= 2)),
                        GST_FLOW_OK);
      if (i == 0)
        {
          gst_buffer_unref (pull (pipeline));
          n++;
          assert_true (gst_element_send_event (source, title ("late")));
        }
    }
  gst_app_src_end_of_stream (GST_APP_SRC (source));
  for (; (buffer = pull (pipeline)); n++)
    {
      assert_int_equal (GST_BUFFER_PTS (buffer), (n < 2 ? n : n + 2) * FRAME);
      gst_buffer_unref (buffer);
    }
  assert_int_equal (n, 5);
  g_autoptr (GstEvent) event = gst_pad_get_sticky_event (pad, GST_EVENT_TAG, 0);
  GstTagList *tags;
  g_autofree char *last = NULL;
  assert_non_null (event);
  gst_event_parse_tag (event, &tags);
  assert_true (gst_tag_list_get_string (tags, GST_TAG_TITLE, &last));
  assert_string_equal (last, "late");
  assert_string_equal (said->str, "stbtbbbb");
  fixture_stop (pipeline);
}

/* Real frames that are not wanted until a key frame comes are dropped, and a prediction that is wanted again
 * before one has come goes on where it was. */
static void
test_predicts_on (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "appsrc name=source format=time caps=video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! "
      "flowencode model=%s ! flowsample name=sample model=%s horizon=9 ! flowdecode model=%s ! "
      "appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) source = get (pipeline, "source"), sample = get (pipeline, "sample");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint i = 0; i < 6; i++)
    {
      const gboolean dropped = i == 3;
      if (i >= 2)
        g_object_set (sample, "predict", !dropped, NULL);
      gst_app_src_push_buffer (GST_APP_SRC (source), frame_or_gap (i, FALSE));
      if (dropped)
        {
          const gint64 end = g_get_monotonic_time () + 30 * G_TIME_SPAN_SECOND;
          while (count_dropped (sample) == 0 && g_get_monotonic_time () < end)
            g_usleep (1000);
          assert_int_equal (count_dropped (sample), 1);
          continue;
        }
      g_autoptr (GstBuffer) buffer = pull (pipeline);
      assert_non_null (buffer);
      assert_int_equal (GST_BUFFER_PTS (buffer), i * FRAME);
    }
  guint refused, other;
  count_warnings (bus, "does not follow", &refused, "key frame", &other);
  assert_int_equal (refused + other, 0);
  fixture_stop (pipeline);
}

/* Played backwards the input's end is its beginning, which nothing follows. */
static void
test_ends_backwards (void **state)
{
  GstElement *pipeline = launch_continuation (video_model);
  g_autoptr (GstElement) source = get (pipeline, "source");
  GstBuffer *buffer;
  GstSegment segment;
  guint n = 0;
  gst_segment_init (&segment, GST_FORMAT_TIME);
  segment.rate = -1;
  segment.stop = 4 * FRAME;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint i = 4; i-- > 0;)
    {
      g_autoptr (GstBuffer) frame = frame_or_gap (i, FALSE);
      g_autoptr (GstSample) sample = gst_sample_new (frame, NULL, &segment, NULL);
      assert_int_equal (gst_app_src_push_sample (GST_APP_SRC (source), sample), GST_FLOW_OK);
    }
  gst_app_src_end_of_stream (GST_APP_SRC (source));
  for (; (buffer = pull (pipeline)); n++)
    {
      assert_int_equal (GST_BUFFER_PTS (buffer), (3 - n) * FRAME);
      gst_buffer_unref (buffer);
    }
  assert_int_equal (n, 4);
  fixture_stop (pipeline);
}

/* A sink whose pool has but two buffers. */
static GstPadProbeReturn
offer_two (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  GstQuery *query = GST_PAD_PROBE_INFO_QUERY (info);
  if (GST_QUERY_TYPE (query) != GST_QUERY_ALLOCATION)
    return GST_PAD_PROBE_OK;
  g_autoptr (GstBufferPool) pool = gst_video_buffer_pool_new ();
  gst_query_add_allocation_pool (query, pool, BYTES, 0, 2);
  return GST_PAD_PROBE_HANDLED;
}

/* Frames that wait for those that they look at keep their buffers. */
static void
test_few_buffers (void **state)
{
  g_autofree char *line
      = g_strdup_printf ("flowsample model=%s seed=6 num-buffers=%d ! flowdecode model=%s ! "
                         "appsink name=sink sync=false",
                         ahead_model, 8, ahead_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
  GstBuffer *buffer;
  guint n = 0;
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM | GST_PAD_PROBE_TYPE_PUSH, offer_two, NULL,
                     NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (; (buffer = pull (pipeline)); n++)
    gst_buffer_unref (buffer);
  assert_int_equal (n, 8);
  fixture_stop (pipeline);
}

/* What upstream is told to be late for is later by what decoding takes: mixers only say what time they are
 * at. */
static void
test_time_of_decoding (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=6 num-buffers=3 ! appsink name=sink sync=false", video_model);
  GstElement *pipeline = fixture_launch (line);
  GstHarness *decoder = NULL;
  GstBuffer *buffer;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  while ((buffer = pull (pipeline)))
    {
      if (!decoder)
        {
          g_autoptr (GstElement) sink = get (pipeline, "sink");
          g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
          decoder = decoder_new (video_model, caps);
        }
      assert_int_equal (gst_harness_push (decoder, buffer), GST_FLOW_OK);
    }
  /* the slower of two frames */
  g_autoptr (GstStructure) stats = NULL;
  double last = 0;
  g_object_get (decoder->element, "stats", &stats, NULL);
  assert_true (gst_structure_get_double (stats, "last-ms", &last) && last > 0);
  assert_true (
      gst_harness_push_upstream_event (decoder, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 0.5, 7, 11)));
  for (;;)
    {
      g_autoptr (GstEvent) event = gst_harness_try_pull_upstream_event (decoder);
      GstClockTimeDiff diff;
      GstClockTime time;
      double proportion;
      assert_non_null (event);
      if (GST_EVENT_TYPE (event) != GST_EVENT_QOS)
        continue;
      gst_event_parse_qos (event, NULL, &proportion, &diff, &time);
      assert_true (proportion == 0.5 && diff == 7 && (double)time >= 10 + 1e6 * last);
      break;
    }
  gst_harness_teardown (decoder);
  fixture_stop (pipeline);
}

/* Key frames among drawn ones: a receiver that comes late sees what the first one sees from the next on. */
static void
test_joined (void **state)
{
  g_autofree char *line = g_strdup_printf ("flowsample model=%s seed=6 num-buffers=17 key-int-max=5 ! "
                                           "appsink name=sink sync=false",
                                           noisy_model);
  GstElement *pipeline = fixture_launch (line);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GstHarness *first = NULL, *late = NULL;
  GstBuffer *buffer;
  guint n = 0;
  for (; (buffer = pull (pipeline)); n++)
    {
      if (n == 0)
        {
          g_autoptr (GstElement) sink = get (pipeline, "sink");
          g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
          first = decoder_new (noisy_model, caps);
          late = decoder_new (noisy_model, caps);
        }
      assert_int_equal (!GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT), n % 5 == 0);
      assert_int_equal (gst_harness_push (first, gst_buffer_ref (buffer)), GST_FLOW_OK);
      g_autoptr (GstBuffer) shown = gst_harness_pull (first);
      assert_non_null (shown);
      if (n < 7)
        {
          gst_buffer_unref (buffer);
          continue;
        }
      assert_int_equal (gst_harness_push (late, buffer), GST_FLOW_OK);
      g_autoptr (GstBuffer) joined = gst_harness_try_pull (late);
      assert_int_equal (joined != NULL, n >= 10);
      if (joined)
        assert_true (same (shown, joined));
    }
  assert_int_equal (n, 17);
  gst_harness_teardown (first);
  gst_harness_teardown (late);
  fixture_stop (pipeline);
}

/* Latents of another model are not continued: at once, and when they come in the middle. */
static void
test_other_models (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d ! flowencode model=%s ! "
      "flowsample model=%s horizon=3 ! flowdecode model=%s ! fakesink",
      WIDTH, HEIGHT, video_model, other_model, other_model);
  GstElement *pipeline = fixture_launch (line);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  assert_fails (pipeline, "the latents are of the model");
  fixture_stop (pipeline);

  /* two streams, one after the other */
  g_autofree char *both = g_strdup_printf (
      "concat name=c ! flowsample model=%s horizon=3 ! flowdecode model=%s ! fakesink "
      "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d ! flowencode model=%s ! c. "
      "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=%d,height=%d ! flowencode model=%s ! c.",
      video_model, video_model, WIDTH, HEIGHT, video_model, WIDTH, HEIGHT, other_model);
  pipeline = fixture_launch (both);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  assert_fails (pipeline, "the latents are of the model");
  fixture_stop (pipeline);
}

/* What the model or the map does not know is told once, and the stream goes on. */
static void
test_unknown (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "flowsample name=sample model=%s seed=1 action=9 num-buffers=6 action-map=Up=1,Down=2 ! flowdecode "
      "model=%s ! appsink name=sink sync=false",
      video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  GstBuffer *buffer;
  guint n = 0;
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  gst_element_get_state (pipeline, NULL, NULL, 20 * GST_SECOND);
  static const char *const keys[] = { "x", "x", "Up", "F7" };
  for (guint i = 0; i < G_N_ELEMENTS (keys); i++)
    gst_element_send_event (sink, gst_navigation_event_new_key_press (keys[i], GST_NAVIGATION_MODIFIER_NONE));
  gst_element_send_event (sink, gst_navigation_event_new_key_release ("Up", GST_NAVIGATION_MODIFIER_NONE));
  gst_element_send_event (sink, gst_navigation_event_new_mouse_move (1, 2, GST_NAVIGATION_MODIFIER_NONE));
  gst_element_send_event (sink, gst_navigation_event_new_mouse_move (3, 4, GST_NAVIGATION_MODIFIER_NONE));
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (; n < 6 && (buffer = pull (pipeline)); n++)
    gst_buffer_unref (buffer);
  assert_int_equal (n, 6);
  guint keys_told, actions_told;
  count_warnings (bus, "The key ", &keys_told, "Action 9", &actions_told);
  assert_int_equal (keys_told, 2); /* x and F7, each once */
  assert_int_equal (actions_told, 1);
  fixture_stop (pipeline);
}

/* The precision of real frames goes with their latents, past flowsample too, to the decoder. */
static void
test_precision_of_real_frames (void **state)
{
  enum
  {
    REAL = 4,
    LENGTH = 7
  };
  g_autofree char *video = g_strdup_printf ("videotestsrc pattern=snow num-buffers=%d ! "
                                            "video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1",
                                            REAL, WIDTH, HEIGHT);
  g_autofree char *plain = g_strdup_printf ("%s ! appsink name=sink sync=false", video);
  g_autofree char *line
      = g_strdup_printf ("%s ! flowencode model=%s precision=bf16 ! flowsample model=%s horizon=%d ! "
                         "flowdecode name=decode model=%s ! appsink name=sink sync=false",
                         video, video_model, video_model, LENGTH - REAL, video_model);
  g_unsetenv ("NORMFLOW_PRECISION");
  GstElement *real = fixture_launch (plain), *pipeline = fixture_launch (line);
  GstBuffer *buffer;
  guint n = 0;
  gst_element_set_state (real, GST_STATE_PLAYING);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (; (buffer = pull (pipeline)); n++)
    {
      g_autoptr (GstBuffer) expected = n < REAL ? pull (real) : NULL;
      if (expected)
        assert_true (same (buffer, expected));
      gst_buffer_unref (buffer);
    }
  assert_int_equal (n, LENGTH);
  g_autoptr (GstElement) decode = get (pipeline, "decode");
  g_autoptr (GstStructure) stats = NULL;
  g_object_get (decode, "stats", &stats, NULL);
  assert_string_equal (gst_structure_get_string (stats, "precision"), "bf16");
  fixture_stop (real);
  fixture_stop (pipeline);
}

/* A discontinuity that an empty gap tells of is one of the frame behind it, which is coded by itself. */
static void
test_gap_and_discontinuity (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstBus) bus = gst_bus_new ();
  GstHarness *h = new_encoder (bus, NULL, &info);
  for (guint n = 0; n < 5; n++)
    {
      GstBuffer *frame = n % 2 ? gst_buffer_new () : fixture_frame (&info, n, FALSE);
      GST_BUFFER_PTS (frame) = n * 40 * GST_MSECOND;
      GST_BUFFER_DURATION (frame) = 40 * GST_MSECOND;
      if (n % 2)
        GST_BUFFER_FLAG_SET (frame, GST_BUFFER_FLAG_GAP);
      if (n == 3)
        GST_BUFFER_FLAG_SET (frame, GST_BUFFER_FLAG_DISCONT);
      else
        GST_BUFFER_FLAG_UNSET (frame, GST_BUFFER_FLAG_DISCONT);
      assert_int_equal (gst_harness_push (h, frame), GST_FLOW_OK);
      g_autoptr (GstBuffer) latents = gst_harness_try_pull (h);
      assert_int_equal (latents != NULL, n % 2 == 0);
      if (latents)
        assert_int_equal (GST_BUFFER_FLAG_IS_SET (latents, GST_BUFFER_FLAG_DELTA_UNIT), n == 2);
    }
  gst_element_set_bus (h->element, NULL);
  gst_harness_teardown (h);
}

/* Backwards each frame is coded by itself, and they are shown in the order in which they come, at once. */
static void
test_backwards (void **state)
{
  enum
  {
    LENGTH = 6
  };
  GstVideoInfo info;
  GstSegment segment;
  g_autoptr (GstBus) bus = gst_bus_new ();
  GstHarness *encoder = new_encoder (bus, NULL, &info), *decoder = NULL;
  gst_segment_init (&segment, GST_FORMAT_TIME);
  segment.rate = -1;
  segment.start = 0;
  segment.position = segment.stop = LENGTH * FRAME;
  gst_harness_push_event (encoder, gst_event_new_segment (&segment));
  for (guint n = 0; n < LENGTH; n++)
    {
      GstBuffer *frame = fixture_frame (&info, LENGTH - 1 - n, FALSE);
      if (n == 0)
        GST_BUFFER_FLAG_SET (frame, GST_BUFFER_FLAG_DISCONT);
      assert_int_equal (gst_harness_push (encoder, frame), GST_FLOW_OK);
      GstBuffer *latents = gst_harness_pull (encoder);
      assert_false (GST_BUFFER_FLAG_IS_SET (latents, GST_BUFFER_FLAG_DELTA_UNIT));
      if (!decoder)
        {
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (encoder->sinkpad);
          decoder = decoder_new (video_model, caps);
          gst_harness_push_event (decoder, gst_event_new_segment (&segment));
        }
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      assert_int_equal (gst_harness_buffers_received (decoder), n);
    }
  gst_harness_push_event (decoder, gst_event_new_eos ());
  for (guint n = 0; n < LENGTH; n++)
    {
      g_autoptr (GstBuffer) wanted = fixture_frame (&info, LENGTH - 1 - n, FALSE),
                            shown = gst_harness_try_pull (decoder);
      assert_non_null (shown);
      assert_int_equal (GST_BUFFER_PTS (shown), GST_BUFFER_PTS (wanted));
      assert_same_video (&info, wanted, shown);
    }
  gst_element_set_bus (encoder->element, NULL);
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_key_to_pixel),
    cmocka_unit_test (test_behind_live),
    cmocka_unit_test (test_latency_of_drawing),
    cmocka_unit_test (test_forced_live),
    cmocka_unit_test (test_duration),
    cmocka_unit_test (test_square_pixels),
    cmocka_unit_test (test_keys_after_real_frames),
    cmocka_unit_test (test_rests_while_paused),
    cmocka_unit_test (test_tags_and_gaps),
    cmocka_unit_test (test_ends_backwards),
    cmocka_unit_test (test_predicts_on),
    cmocka_unit_test (test_few_buffers),
    cmocka_unit_test (test_joined),
    cmocka_unit_test (test_time_of_decoding),
    cmocka_unit_test (test_precision_of_real_frames),
    cmocka_unit_test (test_other_models),
    cmocka_unit_test (test_unknown),
    cmocka_unit_test (test_backwards),
    cmocka_unit_test (test_gap_and_discontinuity),
  };
  const int status = live_open (&argc, &argv);
  if (status >= 0)
    return status;
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  live_close ();
  return failed;
}
