/* normflow: data that flow through elements: gaps, segments, flushes, latency, lateness.
 * SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elements-fixture.h"

/* Frames, gaps, segments */

/* Frames that are decoded together come out as they would alone, in order, with their times; those that wait
 * when the stream ends, changes or is flushed are not forgotten, nor mixed up. */
static void
test_frames_at_once (void **state)
{
  enum
  {
    FRAMES = 8
  };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  for (guint at_once = 0; at_once <= 3; at_once += 3)
    {
      g_autoptr (GstCaps) caps = NULL;
      g_autofree char *property = g_strdup_printf ("frames-at-once=%u", at_once);
      GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL),
                 *decoder = make_harness ("flowdecode", MODEL_YUV, property, NULL);
      set_video (encoder, &info);
      for (guint i = 0; i < FRAMES; i++)
        {
          GstBuffer *latents = gst_harness_push_and_pull (encoder, fixture_frame (&info, i, FALSE));
          if (i == 0)
            {
              caps = gst_pad_get_current_caps (encoder->sinkpad);
              gst_harness_set_src_caps (decoder, gst_caps_ref (caps));
            }
          if (i == 5)
            {
              /* other settings: what waits is decoded by the old ones */
              g_object_set (decoder->element, "window", 8, NULL);
            }
          assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
          if (at_once)
            assert_int_equal (gst_harness_buffers_received (decoder), i < 5   ? (i + 1) / 3 * 3
                                                                      : i < 7 ? 5
                                                                              : 8);
        }
      assert_true (gst_harness_push_event (decoder, gst_event_new_eos ()));
      assert_int_equal (gst_harness_buffers_received (decoder), FRAMES);
      for (guint i = 0; i < FRAMES; i++)
        {
          g_autoptr (GstBuffer) video = gst_harness_pull (decoder), wanted = fixture_frame (&info, i, FALSE);
          assert_same_video (&info, wanted, video);
          assert_int_equal (GST_BUFFER_PTS (video), GST_BUFFER_PTS (wanted));
        }
      end_harness (encoder, NULL);
      end_harness (decoder, NULL);
    }

  /* two wait, then a flush: only what comes after it is shown */
  g_autoptr (GstCaps) caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, "frames-at-once=3", NULL);
  GstSegment segment;
  gst_harness_set_src_caps (decoder, gst_caps_ref (caps));
  for (guint i = 0; i < 2; i++)
    assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_OK);
  gst_harness_push_event (decoder, gst_event_new_flush_start ());
  gst_harness_push_event (decoder, gst_event_new_flush_stop (TRUE));
  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_harness_push_event (decoder, gst_event_new_segment (&segment));
  assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_OK);
  gst_harness_push_event (decoder, gst_event_new_eos ());
  assert_int_equal (gst_harness_buffers_received (decoder), 1);
  end_harness (decoder, NULL);

  /* two wait, then a gap: it comes behind them, and behind the segment */
  GstEvent *event;
  gboolean has_segment = FALSE, has_gap = FALSE;
  decoder = make_harness ("flowdecode", MODEL_YUV, "frames-at-once=3", NULL);
  gst_harness_set_src_caps (decoder, gst_caps_ref (caps));
  for (guint i = 0; i < 2; i++)
    assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_OK);
  assert_int_equal (gst_harness_buffers_received (decoder), 0);
  assert_true (gst_harness_push_event (decoder, gst_event_new_gap (80 * GST_MSECOND, 40 * GST_MSECOND)));
  assert_int_equal (gst_harness_buffers_received (decoder), 2);
  while ((event = gst_harness_try_pull_event (decoder)))
    {
      has_segment |= GST_EVENT_TYPE (event) == GST_EVENT_SEGMENT;
      has_gap |= GST_EVENT_TYPE (event) == GST_EVENT_GAP;
      assert_true (has_segment || !has_gap);
      gst_event_unref (event);
    }
  assert_true (has_gap);
  end_harness (decoder, NULL);
}

static GstBuffer *
empty_gap (guint n)
{
  GstBuffer *buffer = gst_buffer_new ();
  GST_BUFFER_FLAG_SET (buffer, GST_BUFFER_FLAG_GAP);
  GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
  GST_BUFFER_DURATION (buffer) = 40 * GST_MSECOND;
  return buffer;
}

/* Empty buffers that are gaps go on as what they mean, and frames behind them as ever. */
static void
test_empty_gaps (void **state)
{
  static const struct
  {
    const char *element, *properties;
  } cases[] = { { "flowencode", NULL },
                { "flowdecode", NULL },
                { "flowdecode", "frames-at-once=2" },
                { "flowdenoise", "sigma=0.1" },
                { "flowdenoise", NULL } };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const gboolean decodes = g_str_equal (cases[i].element, "flowdecode");
      g_autoptr (GstCaps) caps = NULL;
      g_autoptr (GstBuffer) frame
          = decodes ? encode_one (MODEL_YUV, &info, NULL, &caps) : fixture_frame (&info, 0, FALSE);
      GstBus *bus;
      GstHarness *harness = make_harness (cases[i].element, MODEL_YUV, cases[i].properties, &bus);
      if (decodes)
        gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      else
        set_video (harness, &info);
      for (guint n = 0; n < 6; n++)
        {
          const gboolean gap = n % 3 != 1;
          GstBuffer *buffer = gap ? empty_gap (n) : gst_buffer_copy_deep (frame);
          GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
          assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
        }
      assert_true (gst_harness_push_event (harness, gst_event_new_eos ()));
      GstEvent *event;
      guint gaps = 0;
      while ((event = gst_harness_try_pull_event (harness)))
        {
          GstClockTime time;
          if (GST_EVENT_TYPE (event) == GST_EVENT_GAP)
            {
              gst_event_parse_gap (event, &time, NULL);
              assert_int_equal (time, (gaps + (gaps + 1) / 2) * 40 * GST_MSECOND);
              gaps++;
            }
          gst_event_unref (event);
        }
      assert_int_equal (gaps, 4);
      for (guint n = 0; n < 2; n++)
        {
          g_autoptr (GstBuffer) out = gst_harness_try_pull (harness);
          assert_non_null (out);
          assert_true (gst_buffer_get_size (out) > 0);
          assert_int_equal (GST_BUFFER_PTS (out), (3 * n + 1) * 40 * GST_MSECOND);
        }
      assert_null (gst_harness_try_pull (harness));
      assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
      end_harness (harness, bus);
    }
}

/* The end of a segment comes at once, behind its frames, those that wait among them, and its beginning, which
 * GstVideoDecoder keeps where there are no frames. */
static void
test_segment_done (void **state)
{
  static const guint frames[] = { 2, 0, 4 };
  GstVideoInfo info;
  GstSegment segment;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  for (guint decodes = 0; decodes < 2; decodes++)
    {
      g_autofree char *line = g_strdup_printf (
          decodes ? "flowencode model=%s ! flowdecode model=%s frames-at-once=3" : "flowencode model=%s",
          fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
      GstHarness *harness = gst_harness_new_parse (line);
      guint pushed = 0;
      set_video (harness, &info);
      for (guint i = 0; i < G_N_ELEMENTS (frames); i++)
        {
          segment.base = i * GST_SECOND;
          assert_true (gst_harness_push_event (harness, gst_event_new_segment (&segment)));
          for (guint n = 0; n < frames[i]; n++)
            assert_int_equal (gst_harness_push (harness, fixture_frame (&info, n, FALSE)), GST_FLOW_OK);
          pushed += frames[i];
          assert_true (gst_harness_push_event (harness, gst_event_new_segment_done (GST_FORMAT_TIME, 0)));
          assert_int_equal (gst_harness_buffers_received (harness), pushed);
          GstEvent *event;
          GstClockTime base = GST_CLOCK_TIME_NONE;
          gboolean done = FALSE;
          while ((event = gst_harness_try_pull_event (harness)))
            {
              const GstSegment *begun;
              assert_false (done);
              if (GST_EVENT_TYPE (event) == GST_EVENT_SEGMENT)
                {
                  gst_event_parse_segment (event, &begun);
                  base = begun->base;
                }
              done = GST_EVENT_TYPE (event) == GST_EVENT_SEGMENT_DONE;
              gst_event_unref (event);
            }
          assert_true (done);
          if (frames[i] > 0 || !decodes)
            assert_int_equal (base, segment.base);
        }
      gst_harness_teardown (harness);
    }
}

static void
test_end_gap_discontinuity (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autofree char *line = g_strdup_printf ("flowencode model=\"%s\" ! flowdecode model=\"%s\"",
                                           fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  GstHarness *harness = gst_harness_new_parse (line);
  set_video (harness, &info);
  g_autoptr (GstBuffer) first = fixture_frame (&info, 0, FALSE);
  g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (first));
  assert_same_video (&info, first, out);

  assert_true (gst_harness_push_event (harness, gst_event_new_gap (40 * GST_MSECOND, 40 * GST_MSECOND)));
  gboolean gap = FALSE;
  GstEvent *event;
  while ((event = gst_harness_try_pull_event (harness)))
    {
      gap |= GST_EVENT_TYPE (event) == GST_EVENT_GAP;
      gst_event_unref (event);
    }
  assert_true (gap);

  GstBuffer *later = fixture_frame (&info, 2, FALSE);
  GST_BUFFER_FLAG_SET (later, GST_BUFFER_FLAG_DISCONT);
  g_autoptr (GstBuffer) kept = gst_buffer_ref (later);
  g_autoptr (GstBuffer) after = gst_harness_push_and_pull (harness, later);
  assert_same_video (&info, kept, after);
  assert_int_equal (GST_BUFFER_PTS (after), 80 * GST_MSECOND);

  assert_int_equal (gst_harness_push (harness, fixture_frame (&info, 3, FALSE)), GST_FLOW_OK);
  assert_true (gst_harness_push_event (harness, gst_event_new_eos ()));
  gst_buffer_unref (gst_harness_pull (harness));
  gboolean eos = FALSE;
  while ((event = gst_harness_try_pull_event (harness)))
    {
      eos |= GST_EVENT_TYPE (event) == GST_EVENT_EOS;
      gst_event_unref (event);
    }
  assert_true (eos);
  gst_harness_teardown (harness);
}

/* Fields, and that a frame is corrupted, are told by latents, too. */
static void
test_frame_flags (void **state)
{
  static const guint told[] = {
    0,
    GST_VIDEO_BUFFER_FLAG_INTERLACED | GST_VIDEO_BUFFER_FLAG_TFF,
    GST_VIDEO_BUFFER_FLAG_INTERLACED | GST_VIDEO_BUFFER_FLAG_TFF | GST_VIDEO_BUFFER_FLAG_RFF,
    GST_BUFFER_FLAG_CORRUPTED,
    GST_VIDEO_BUFFER_FLAG_INTERLACED | GST_VIDEO_BUFFER_FLAG_ONEFIELD,
    0,
  };
  const guint mask = told[2] | told[3] | told[4];
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL),
             *decoder = make_harness ("flowdecode", MODEL_YUV, "frames-at-once=3", NULL);
  set_video (encoder, &info);
  for (guint i = 0; i < G_N_ELEMENTS (told); i++)
    {
      GstBuffer *in = fixture_frame (&info, i, FALSE);
      GST_BUFFER_FLAG_SET (in, told[i]);
      GstBuffer *latents = gst_harness_push_and_pull (encoder, in);
      assert_int_equal (GST_BUFFER_FLAGS (latents) & mask, told[i]);
      if (i == 0)
        gst_harness_set_src_caps (decoder, gst_pad_get_current_caps (encoder->sinkpad));
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
    }
  for (guint i = 0; i < G_N_ELEMENTS (told); i++)
    {
      g_autoptr (GstBuffer) video = gst_harness_pull (decoder);
      assert_int_equal (GST_BUFFER_FLAGS (video) & mask, told[i]);
    }
  end_harness (encoder, NULL);
  end_harness (decoder, NULL);
}

static void
test_flush (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autofree char *line = g_strdup_printf ("flowencode model=\"%s\" ! flowdecode model=\"%s\"",
                                           fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  GstHarness *harness = gst_harness_new_parse (line);
  set_video (harness, &info);
  for (guint round = 0; round < 3; round++)
    {
      g_autoptr (GstBuffer) in = fixture_frame (&info, round, FALSE);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_same_video (&info, in, out);
      GstSegment segment;
      gst_segment_init (&segment, GST_FORMAT_TIME);
      assert_true (gst_harness_push_event (harness, gst_event_new_flush_start ()));
      assert_int_equal (gst_harness_push (harness, fixture_frame (&info, 9, FALSE)), GST_FLOW_FLUSHING);
      assert_true (gst_harness_push_event (harness, gst_event_new_flush_stop (TRUE)));
      assert_true (gst_harness_push_event (harness, gst_event_new_segment (&segment)));
    }
  gst_harness_teardown (harness);
}

/* Latency and lateness */

static void
test_latency (void **state)
{
  static const char *const elements[] = { "flowencode", "flowdenoise sigma=0.05" };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  for (guint i = 0; i < G_N_ELEMENTS (elements); i++)
    {
      GstHarness *harness = make_harness (i == 0 ? "flowencode" : "flowdenoise", MODEL_YUV,
                                          i == 0 ? NULL : "sigma=0.05", NULL);
      gst_harness_set_upstream_latency (harness, 10 * GST_MSECOND);
      set_video (harness, &info);
      assert_int_equal (gst_harness_query_latency (harness), 10 * GST_MSECOND);
      gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, 0, FALSE)));
      assert_true (gst_harness_query_latency (harness) > 10 * GST_MSECOND);
      end_harness (harness, NULL);
    }
  g_autoptr (GstCaps) caps = NULL;
  GstBuffer *latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, NULL);
  gst_harness_set_src_caps (harness, gst_caps_ref (caps));
  gst_buffer_unref (gst_harness_push_and_pull (harness, latents));
  assert_true (gst_harness_query_latency (harness) > 0);
  end_harness (harness, NULL);
}

/* Frames that wait for each other take as long as their rate says, from its caps on. */
static void
test_latency_of_waiting (void **state)
{
  static const gint rates[] = { 25, 5, 5, 50 };
  GstVideoInfo info;
  GstBus *bus;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  gst_buffer_unref (encode_one (MODEL_YUV, &info, NULL, &caps));
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "frames-at-once=3", &bus);
  for (guint i = 0; i < G_N_ELEMENTS (rates); i++)
    {
      GstCaps *other = gst_caps_copy (caps);
      gst_caps_set_simple (other, "framerate", GST_TYPE_FRACTION, rates[i], 1, NULL);
      gst_harness_set_src_caps (harness, other);
      assert_int_equal (gst_harness_query_latency (harness), 2 * GST_SECOND / rates[i]);
      g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_LATENCY);
      assert_int_equal (message != NULL, i == 0 || rates[i] != rates[i - 1]);
    }
  end_harness (harness, bus);
}

/* What a change of sigma does to the latency is told. */
static void
test_latency_of_sigma (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowdenoise", MODEL_YUV, NULL, &bus);
  set_video (harness, &info);
  static const double sigmas[] = { 0, 0.1, 0, 0, 0.1 };
  static const gboolean told[] = { FALSE, TRUE, TRUE, FALSE, TRUE };
  for (guint n = 0; n < G_N_ELEMENTS (sigmas); n++)
    {
      g_object_set (harness->element, "sigma", sigmas[n], NULL);
      gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, n, FALSE)));
      g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_LATENCY);
      assert_int_equal (message != NULL, told[n]);
      assert_int_equal (gst_harness_query_latency (harness) > 0, sigmas[n] > 0);
      gst_bus_set_flushing (bus, TRUE);
      gst_bus_set_flushing (bus, FALSE);
    }
  end_harness (harness, bus);
}

/* A decoder that is to keep up leaves out pictures that are late already, says so, and goes on in time. */
static void
test_keep_up (void **state)
{
  GstVideoInfo info;
  GstCaps *caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 16);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstBus *bus;
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "keep-up=true", &bus);
  gst_harness_set_src_caps (harness, caps);
  for (guint n = 0; n < 8; n++)
    {
      GstBuffer *buffer = gst_buffer_copy (latents);
      GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
      GST_BUFFER_DURATION (buffer) = 40 * GST_MSECOND;
      if (n == 3) /* frames before 3 + 2 * 1 + 1 are late */
        gst_harness_push_upstream_event (
            harness, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 40 * GST_MSECOND, 2 * 40 * GST_MSECOND));
      assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
      g_autoptr (GstBuffer) frame = gst_harness_try_pull (harness);
      g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_QOS);
      const gboolean late = n == 3 || n == 4;
      assert_true ((frame == NULL) == late);
      if (late)
        {
          guint64 processed = 0, dropped = 0;
          assert_non_null (message);
          gst_message_parse_qos_stats (message, NULL, &processed, &dropped);
          assert_int_equal (dropped, n - 2);
        }
      else if (n < 3)
        assert_null (message);
    }
  gst_harness_teardown (harness);
  gst_object_unref (bus);
}

static guint64
get_count (GstElement *element, const char *name)
{
  g_autoptr (GstStructure) stats = NULL;
  guint64 count = 0;
  g_object_get (element, "stats", &stats, NULL);
  assert_true (gst_structure_get_uint64 (stats, name, &count));
  return count;
}

/* A frame of BUFFER at 25 frames a second; whether one came out. */
static gboolean
push_timed (GstHarness *harness, GstBuffer *buffer, guint n)
{
  buffer = gst_buffer_copy (buffer);
  GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
  GST_BUFFER_DURATION (buffer) = 40 * GST_MSECOND;
  assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
  g_autoptr (GstBuffer) out = gst_harness_try_pull (harness);
  return out != NULL;
}

/* Frames 0 to 7, of which those before 5 are late once 3 have gone: COUNT of them are decoded, DROPPED do not
 * come out. */
static void
check_late (const char *properties, GstBuffer *latents, GstCaps *caps, guint count, guint dropped)
{
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, properties, NULL);
  guint shown = 0;
  gst_harness_set_src_caps (harness, gst_caps_ref (caps));
  for (guint n = 0; n < 8; n++)
    {
      if (n == 3)
        gst_harness_push_upstream_event (
            harness, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 40 * GST_MSECOND, 2 * 40 * GST_MSECOND));
      shown += push_timed (harness, latents, n);
    }
  assert_int_equal (get_count (harness->element, "frames"), count);
  assert_int_equal (get_count (harness->element, "dropped"), dropped);
  assert_int_equal (shown, 8 - dropped);
  end_harness (harness, NULL);
}

static void
test_late_pictures (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 16);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  check_late (NULL, latents, caps, 6, 2);
  check_late ("qos=true", latents, caps, 6, 2);
  check_late ("qos=false", latents, caps, 8, 0);
  check_late ("qos=false keep-up=true", latents, caps, 6, 2);
}

/* What flowdenoise and flowencode leave out of late frames, and tell of. */
static void
test_late_video (void **state)
{
  static const struct
  {
    const char *element, *properties;
    gboolean leaves_out;
  } cases[] = { { "flowdenoise", "sigma=0.1 qos=true", TRUE },
                { "flowencode", "qos=true", TRUE },
                { "flowencode", NULL, FALSE } };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 16);
  g_autoptr (GstBuffer) video = fixture_frame (&info, 0, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstBus *bus;
      GstHarness *harness = make_harness (cases[i].element, MODEL_YUV, cases[i].properties, &bus);
      guint shown = 0, told = 0;
      GstMessage *message;
      set_video (harness, &info);
      for (guint n = 0; n < 8; n++)
        {
          if (n == 3)
            gst_harness_push_upstream_event (
                harness,
                gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 40 * GST_MSECOND, 2 * 40 * GST_MSECOND));
          shown += push_timed (harness, video, n);
        }
      assert_int_equal (shown < 8, cases[i].leaves_out);
      assert_int_equal (get_count (harness->element, "frames"), shown);
      assert_int_equal (get_count (harness->element, "dropped"), 8 - shown);
      for (; (message = gst_bus_pop_filtered (bus, GST_MESSAGE_QOS)); told++)
        gst_message_unref (message);
      assert_int_equal (told, 8 - shown);
      end_harness (harness, bus);
    }
}

/* Flushes */

/* Caps that come while frames are flushed are no refusal: they come again with the first frame that is not.
 */
static void
test_flushed_caps (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) video = fixture_frame (&info, 0, FALSE);
  g_autoptr (GstCaps) video_caps = gst_video_info_to_caps (&info), latent_caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &latent_caps);
  for (guint i = 0; i < 2; i++)
    {
      GstHarness *harness = make_harness (i ? "flowdecode" : "flowencode", MODEL_YUV, NULL, &bus);
      GstPad *pad = harness->element->sinkpads->data;
      GstSegment segment;
      gst_segment_init (&segment, GST_FORMAT_TIME);
      gst_harness_push_event (harness, gst_event_new_stream_start ("flushed"));
      gst_harness_push_event (harness, gst_event_new_flush_start ());
      /* as those do that were on their way */
      GST_PAD_UNSET_FLUSHING (pad);
      GST_PAD_UNSET_FLUSHING (harness->srcpad);
      gst_harness_push_event (harness, gst_event_new_caps (i ? latent_caps : video_caps));
      gst_harness_push_event (harness, gst_event_new_segment (&segment));
      assert_int_equal (gst_harness_push (harness, gst_buffer_ref (i ? latents : video)), GST_FLOW_FLUSHING);
      gst_harness_push_event (harness, gst_event_new_flush_stop (TRUE));
      gst_harness_push_event (harness, gst_event_new_segment (&segment));
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (i ? latents : video));
      assert_non_null (out);
      if (i)
        assert_same_video (&info, out, video);
      assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR));
      end_harness (harness, bus);
    }
}

/* Two kinds of input of an element: caps and a frame each, and what becomes of the first by themselves. */
typedef struct
{
  const char *factory, *properties;
  GstCaps *caps[2];
  GstBuffer *frames[2], *wanted;
} Inputs;

static void
clear_inputs (Inputs *inputs)
{
  for (guint i = 0; i < 2; i++)
    {
      gst_clear_caps (&inputs->caps[i]);
      gst_clear_buffer (&inputs->frames[i]);
    }
  gst_clear_buffer (&inputs->wanted);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Inputs, clear_inputs)

static GstHarness *
begin_input (const Inputs *inputs, GstBus **bus)
{
  GstHarness *harness = make_harness (inputs->factory, MODEL_YUV, inputs->properties, bus);
  gst_harness_set_src_caps (harness, gst_caps_ref (inputs->caps[0]));
  return harness;
}

/* Of frames that differ in their format, or for flowdecode in their shape. */
static void
make_inputs (Inputs *inputs, const char *factory)
{
  const gboolean decodes = g_str_equal (factory, "flowdecode");
  *inputs = (Inputs){ .factory = factory,
                      .properties = g_str_equal (factory, "flowdenoise") ? "sigma=0.05" : NULL };
  for (guint i = 0; i < 2; i++)
    {
      GstVideoInfo info;
      fixture_video (&info, i && !decodes ? GST_VIDEO_FORMAT_NV12 : GST_VIDEO_FORMAT_I420,
                     i && decodes ? 8 : 16, i && decodes ? 16 : 8);
      if (decodes)
        inputs->frames[i] = encode_one (MODEL_YUV, &info, NULL, &inputs->caps[i]);
      else
        {
          inputs->caps[i] = gst_video_info_to_caps (&info);
          inputs->frames[i] = fixture_frame (&info, 0, FALSE);
        }
    }
  GstHarness *harness = begin_input (inputs, NULL);
  inputs->wanted = gst_harness_push_and_pull (harness, gst_buffer_copy_deep (inputs->frames[0]));
  end_harness (harness, NULL);
}

/* The first of INPUTS, that HARNESS had before, comes again, and becomes what it did. */
static void
assert_input_again (const Inputs *inputs, GstHarness *harness)
{
  GstSegment segment;
  GstMapInfo a, b;
  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_harness_push_event (harness, gst_event_new_caps (inputs->caps[0]));
  gst_harness_push_event (harness, gst_event_new_segment (&segment));
  for (guint n = 0; n < 2; n++)
    {
      GstBuffer *frame = gst_buffer_copy_deep (inputs->frames[0]);
      const GstFlowReturn ret = gst_harness_push (harness, frame);
      if (ret != GST_FLOW_OK)
        fail_msg ("%s: %s", inputs->factory, gst_flow_get_name (ret));
      g_autoptr (GstBuffer) out = gst_harness_try_pull (harness);
      assert_non_null (out);
      gst_buffer_map (out, &a, GST_MAP_READ);
      gst_buffer_map (inputs->wanted, &b, GST_MAP_READ);
      assert_int_equal (a.size, b.size);
      if (memcmp (a.data, b.data, a.size) != 0)
        fail_msg ("%s: what became of frame %u is another", inputs->factory, n);
      gst_buffer_unmap (out, &a);
      gst_buffer_unmap (inputs->wanted, &b);
    }
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (harness->element->sinkpads->data);
  assert_true (gst_caps_is_equal (caps, inputs->caps[0]));
}

static void
end_flush (GstHarness *harness)
{
  gst_harness_push_event (harness, gst_event_new_flush_stop (TRUE));
}

struct flush
{
  GstHarness *harness;
  gint left; /* queries before the one with which it comes; negative if it came */
};

static GstPadProbeReturn
flush_at_query (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  struct flush *flush = data;
  if (flush->left-- == 0)
    gst_harness_push_event (flush->harness, gst_event_new_flush_start ());
  return GST_PAD_PROBE_OK;
}

/* Frames are flushed while new caps are negotiated, with whichever of its queries; then the old ones go on.
 */
static void
test_flushed_negotiation (void **state)
{
  static const char *const elements[] = { "flowencode", "flowdecode", "flowdenoise" };
  for (guint i = 0; i < G_N_ELEMENTS (elements); i++)
    {
      g_auto (Inputs) inputs;
      gboolean flushed = TRUE;
      make_inputs (&inputs, elements[i]);
      for (gint n = 0; flushed; n++)
        {
          GstBus *bus;
          GstHarness *harness = begin_input (&inputs, &bus);
          struct flush flush = { harness, n };
          gst_buffer_unref (gst_harness_push_and_pull (harness, gst_buffer_copy_deep (inputs.frames[0])));
          const gulong probe = gst_pad_add_probe (
              harness->sinkpad, GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM | GST_PAD_PROBE_TYPE_PUSH, flush_at_query,
              &flush, NULL);
          gst_harness_push_event (harness, gst_event_new_caps (inputs.caps[1]));
          gst_pad_remove_probe (harness->sinkpad, probe);
          flushed = flush.left < 0;
          assert_true (flushed || n > 0);
          if (flushed)
            end_flush (harness);
          assert_input_again (&inputs, harness);
          assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
          end_harness (harness, bus);
        }
    }
}

static GstBusSyncReply
flush_at_load (GstBus *bus, GstMessage *message, gpointer data)
{
  struct flush *flush = data;
  GstProgressType type;
  if (GST_MESSAGE_TYPE (message) != GST_MESSAGE_PROGRESS)
    return GST_BUS_PASS;
  gst_message_parse_progress (message, &type, NULL, NULL);
  if (type == GST_PROGRESS_TYPE_START && flush->left-- == 0)
    gst_harness_push_event (flush->harness, gst_event_new_flush_start ());
  return GST_BUS_PASS;
}

/* Likewise while the model is loaded in the precision of the new caps. */
static void
test_flushed_precision (void **state)
{
  g_auto (Inputs) inputs;
  GstBus *bus;
  g_unsetenv ("NORMFLOW_PRECISION");
  make_inputs (&inputs, "flowdecode");
  g_autoptr (GstCaps) other = gst_caps_copy (inputs.caps[0]);
  gst_caps_set_simple (other, "precision", G_TYPE_STRING, "bf16", NULL);
  GstHarness *harness = begin_input (&inputs, &bus);
  gst_buffer_unref (gst_harness_push_and_pull (harness, gst_buffer_copy (inputs.frames[0])));
  struct flush flush = { harness, 0 };
  gst_bus_set_sync_handler (bus, flush_at_load, &flush, NULL);
  gst_harness_push_event (harness, gst_event_new_caps (other));
  assert_true (flush.left < 0);
  end_flush (harness);
  assert_input_again (&inputs, harness);
  g_autofree char *taken = dup_working_precision (harness->element);
  assert_string_equal (taken, "f32");
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
  gst_bus_set_sync_handler (bus, NULL, NULL, NULL);
  end_harness (harness, bus);
}

/* Downstream takes nothing of new caps; then the old ones, of which it does, or others that mean the same, go
 * on. */
static void
test_old_caps_after_unwanted_ones (void **state)
{
  static const struct
  {
    const char *element, *taken;
  } cases[] = { { "flowencode", "video/x-flow-latent,pixel-format=I420" },
                { "flowdecode", "video/x-raw,width=16" },
                { "flowdenoise", "video/x-raw,format=I420" } };
  for (guint i = 0; i < 2 * G_N_ELEMENTS (cases); i++)
    {
      g_auto (Inputs) inputs;
      make_inputs (&inputs, cases[i / 2].element);
      GstHarness *harness = begin_input (&inputs, NULL);
      gst_buffer_unref (gst_harness_push_and_pull (harness, gst_buffer_copy_deep (inputs.frames[0])));
      gst_harness_set_sink_caps_str (harness, cases[i / 2].taken);
      gst_harness_push_event (harness, gst_event_new_caps (inputs.caps[1]));
      assert_int_equal (gst_harness_push (harness, gst_buffer_copy_deep (inputs.frames[1])),
                        GST_FLOW_NOT_NEGOTIATED);
      inputs.caps[0] = gst_caps_make_writable (inputs.caps[0]);
      if (i % 2)
        gst_caps_set_simple (inputs.caps[0], "comment", G_TYPE_STRING, "the same", NULL);
      assert_input_again (&inputs, harness);
      end_harness (harness, NULL);
    }
}

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_frames_at_once),    cmocka_unit_test (test_empty_gaps),
    cmocka_unit_test (test_segment_done),      cmocka_unit_test (test_end_gap_discontinuity),
    cmocka_unit_test (test_frame_flags),       cmocka_unit_test (test_flush),
    cmocka_unit_test (test_latency),           cmocka_unit_test (test_latency_of_waiting),
    cmocka_unit_test (test_latency_of_sigma),  cmocka_unit_test (test_keep_up),
    cmocka_unit_test (test_late_pictures),     cmocka_unit_test (test_late_video),
    cmocka_unit_test (test_flushed_caps),      cmocka_unit_test (test_flushed_negotiation),
    cmocka_unit_test (test_flushed_precision), cmocka_unit_test (test_old_caps_after_unwanted_ones),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
