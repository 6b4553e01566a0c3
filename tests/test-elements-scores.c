/* normflow: scores, denoised and drawn frames. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elements-fixture.h"

/* Scores */

static void
test_score_messages (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, &bus);
  set_video (harness, &info);
  double sum = 0;
  for (guint n = 0; n < 5; n++)
    {
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, fixture_frame (&info, n, FALSE));
      g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-score");
      assert_non_null (message);
      guint64 timestamp, stream_time, running_time, duration, index;
      double bits, meta_bits;
      assert_true (gst_structure_get (message, "timestamp", G_TYPE_UINT64, &timestamp, "stream-time",
                                      G_TYPE_UINT64, &stream_time, "running-time", G_TYPE_UINT64,
                                      &running_time, "duration", G_TYPE_UINT64, &duration, "bits-per-dim",
                                      G_TYPE_DOUBLE, &bits, "frame-index", G_TYPE_UINT64, &index, NULL));
      assert_int_equal (timestamp, n * 40 * GST_MSECOND);
      assert_int_equal (stream_time, timestamp);
      assert_int_equal (running_time, timestamp);
      assert_int_equal (duration, 40 * GST_MSECOND);
      assert_int_equal (index, n);
      gst_structure_get_double (
          gst_custom_meta_get_structure (gst_buffer_get_custom_meta (out, "GstFlowScoreMeta")),
          "bits-per-dim", &meta_bits);
      assert_true (bits == meta_bits);
      sum += bits;
    }

  /* one message for two frames, and one at the end for what is left */
  g_object_set (harness->element, "message-interval", (guint64)80 * GST_MSECOND, NULL);
  for (guint n = 0; n < 5; n++)
    gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, n, FALSE)));
  gst_harness_push_event (harness, gst_event_new_eos ());
  const guint frames[] = { 2, 2, 1 };
  double mean = 0;
  for (guint i = 0; i < G_N_ELEMENTS (frames); i++)
    {
      g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-score");
      assert_non_null (message);
      guint count;
      guint64 duration;
      double bits;
      gst_structure_get (message, "frames", G_TYPE_UINT, &count, "duration", G_TYPE_UINT64, &duration,
                         "bits-per-dim", G_TYPE_DOUBLE, &bits, NULL);
      assert_int_equal (count, frames[i]);
      assert_int_equal (duration, frames[i] * 40 * GST_MSECOND);
      mean += bits * count;
    }
  assert_float_equal (mean, sum, 1e-9);
  assert_null (fixture_pop_element_message (bus, "flow-score"));
  end_harness (harness, bus);
}

/* A message sums up a stretch of video whichever way it runs, and also where frames do not say how long they
 * are. */
static void
test_score_intervals (void **state)
{
  enum
  {
    FRAMES = 5
  };
  const GstClockTime frame = 40 * GST_MSECOND, none = GST_CLOCK_TIME_NONE;
  const struct
  {
    double rate;
    GstClockTime duration;
    guint frames[3];
    GstClockTime begins[3], lasts[3];
  } cases[] = {
    { 1, frame, { 2, 2, 1 }, { 0, 2 * frame, 4 * frame }, { 2 * frame, 2 * frame, frame } },
    { -1, frame, { 2, 2, 1 }, { 3 * frame, frame, 0 }, { 2 * frame, 2 * frame, frame } },
    { 1, none, { 2, 2, 1 }, { 0, 2 * frame, 4 * frame }, { 2 * frame, 2 * frame, none } },
  };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstBus *bus;
      GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "message-interval=80000000", &bus);
      GstSegment segment;
      set_video (harness, &info);
      gst_segment_init (&segment, GST_FORMAT_TIME);
      segment.rate = cases[i].rate;
      if (cases[i].rate < 0)
        segment.stop = FRAMES * frame;
      gst_harness_push_event (harness, gst_event_new_segment (&segment));
      for (guint n = 0; n < FRAMES; n++)
        {
          GstBuffer *buffer = fixture_frame (&info, n, FALSE);
          GST_BUFFER_PTS (buffer) = (cases[i].rate < 0 ? FRAMES - 1 - n : n) * frame;
          GST_BUFFER_DURATION (buffer) = cases[i].duration;
          assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
        }
      gst_harness_push_event (harness, gst_event_new_eos ());
      for (guint k = 0; k < 3; k++)
        {
          g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-score");
          guint frames;
          guint64 timestamp, duration;
          assert_non_null (message);
          gst_structure_get (message, "frames", G_TYPE_UINT, &frames, "timestamp", G_TYPE_UINT64, &timestamp,
                             "duration", G_TYPE_UINT64, &duration, NULL);
          assert_int_equal (frames, cases[i].frames[k]);
          assert_int_equal (timestamp, cases[i].begins[k]);
          assert_int_equal (duration, cases[i].lasts[k]);
        }
      assert_null (fixture_pop_element_message (bus, "flow-score"));

      /* a frame of another segment begins another, too */
      gst_harness_push_event (harness, gst_event_new_flush_start ());
      gst_harness_push_event (harness, gst_event_new_flush_stop (TRUE));
      for (guint n = 0; n < 2; n++)
        {
          GstBuffer *buffer = fixture_frame (&info, n, FALSE);
          gst_segment_init (&segment, GST_FORMAT_TIME);
          segment.base = n * frame;
          segment.start = segment.time = n * GST_SECOND;
          gst_harness_push_event (harness, gst_event_new_segment (&segment));
          GST_BUFFER_PTS (buffer) = n * GST_SECOND;
          GST_BUFFER_DURATION (buffer) = frame;
          assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
        }
      gst_harness_push_event (harness, gst_event_new_eos ());
      for (guint n = 0; n < 2; n++)
        {
          g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-score");
          guint64 stream_time, duration;
          assert_non_null (message);
          gst_structure_get (message, "stream-time", G_TYPE_UINT64, &stream_time, "duration", G_TYPE_UINT64,
                             &duration, NULL);
          assert_int_equal (stream_time, n * GST_SECOND);
          assert_int_equal (duration, frame);
        }
      end_harness (harness, bus);
    }
}

static void
push_scored (GstHarness *harness, const GstVideoInfo *info, GstClockTime pts, guint flags)
{
  GstBuffer *buffer = fixture_frame (info, 0, FALSE);
  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_FLAG_SET (buffer, flags);
  assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
}

/* The only flow-score there is sums up FRAMES frames of 40 ms from BEGIN on. */
static void
assert_scored (GstBus *bus, guint frames, GstClockTime begin)
{
  g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-score");
  guint count;
  guint64 timestamp, duration;
  assert_non_null (message);
  gst_structure_get (message, "frames", G_TYPE_UINT, &count, "timestamp", G_TYPE_UINT64, &timestamp,
                     "duration", G_TYPE_UINT64, &duration, NULL);
  assert_int_equal (count, frames);
  assert_int_equal (timestamp, begin);
  assert_int_equal (duration, frames * 40 * GST_MSECOND);
  assert_null (fixture_pop_element_message (bus, "flow-score"));
}

/* What lies before a gap is not summed up with what comes after it, and is told as soon as there is one. */
static void
test_score_gaps (void **state)
{
  enum
  {
    FRAMES = 3,
    EVENT,   /* says that there is a gap */
    DONE,    /* or that the segment is */
    DISCONT, /* or a buffer that it does not follow */
    TIME,    /* or its time alone */
    BACKWARDS,
    WAYS
  };
  const GstClockTime frame = 40 * GST_MSECOND;
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  for (guint way = EVENT; way < WAYS; way++)
    {
      const gboolean event = way == EVENT || way == DONE;
      const GstClockTime before = way == BACKWARDS ? 10 * GST_SECOND : 0,
                         after = way == DISCONT     ? FRAMES * frame
                                 : way == BACKWARDS ? 2 * frame
                                                    : 10 * GST_SECOND;
      GstBus *bus;
      GstSegment segment;
      GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "message-interval=200000000", &bus);
      set_video (harness, &info);
      gst_segment_init (&segment, GST_FORMAT_TIME);
      if (way == BACKWARDS)
        {
          segment.rate = -1;
          segment.stop = before + FRAMES * frame;
        }
      gst_harness_push_event (harness, gst_event_new_segment (&segment));
      for (guint n = 0; n < FRAMES; n++)
        push_scored (harness, &info, before + (way == BACKWARDS ? FRAMES - 1 - n : n) * frame,
                     way == BACKWARDS ? GST_BUFFER_FLAG_DISCONT
                                      : 0); /* as decoders have groups of pictures */
      assert_null (fixture_pop_element_message (bus, "flow-score"));
      if (event)
        {
          gst_harness_push_event (harness, way == EVENT
                                               ? gst_event_new_gap (FRAMES * frame, after - FRAMES * frame)
                                               : gst_event_new_segment_done (GST_FORMAT_TIME, 0));
          assert_scored (bus, FRAMES, before);
        }
      push_scored (harness, &info, after, way == DISCONT ? GST_BUFFER_FLAG_DISCONT : 0);
      if (!event)
        assert_scored (bus, FRAMES, before);
      gst_harness_push_event (harness, gst_event_new_eos ());
      assert_scored (bus, 1, after);
      end_harness (harness, bus);
    }
}

static void
test_no_score_messages (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "post-messages=false", &bus);
  set_video (harness, &info);
  gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, 0, FALSE)));
  assert_null (fixture_pop_element_message (bus, "flow-score"));
  end_harness (harness, bus);
}

/* A flat grey frame, or noise. */
static GstBuffer *
flat_or_noise (const GstVideoInfo *info, guint n, gboolean noise)
{
  GstBuffer *buffer = fixture_frame (info, n, FALSE);
  GstMapInfo map;
  gst_buffer_map (buffer, &map, GST_MAP_WRITE);
  for (gsize i = 0; i < map.size; i++)
    {
      guint32 r[4];
      nf_random_u32x4 (99, n, i, r);
      map.data[i] = noise ? r[0] % 2 * 255 : 128;
    }
  gst_buffer_unmap (buffer, &map);
  return buffer;
}

static void
test_anomalies (void **state)
{
  static const gboolean noise[] = { 0, 0, 1, 1, 1, 0, 0, 0, 1, 1 };
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  GstVideoInfo info;
  GstBus *bus;
  NfScore low, high;
  gsize n;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 16);
  g_autoptr (GstBuffer) flat = flat_or_noise (&info, 0, FALSE);
  g_autoptr (GstBuffer) noisy = flat_or_noise (&info, 2, TRUE);
  g_free (encode_directly (session, &info, flat, &low, &n));
  g_free (encode_directly (session, &info, noisy, &high, &n));
  const double step = high.bits_per_dim - low.bits_per_dim;
  assert_true (step > 0.1);

  /* Means of two frames go 0 0 ½ 1 1 ½ 0 0 ½ 1 between low and high. Over 0.75: enter at frame 3; half way is
   * not under 0.75 - 0.5: leave at frame 6; enter again at 9. */
  GstHarness *harness
      = make_harness ("flowencode", MODEL_YUV, "smoothing-window=2 post-messages=false", &bus);
  g_object_set (harness->element, "threshold", low.bits_per_dim + 0.75 * step, "threshold-hysteresis",
                0.5 * step, NULL);
  set_video (harness, &info);
  for (guint i = 0; i < G_N_ELEMENTS (noise); i++)
    gst_buffer_unref (gst_harness_push_and_pull (harness, flat_or_noise (&info, i, noise[i])));
  const struct
  {
    const char *state;
    guint64 frame;
  } wanted[] = { { "enter", 3 }, { "leave", 6 }, { "enter", 9 } };
  for (guint i = 0; i < G_N_ELEMENTS (wanted); i++)
    {
      g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-anomaly");
      assert_non_null (message);
      guint64 frame, running_time;
      double score, threshold;
      assert_true (gst_structure_get (message, "frame-index", G_TYPE_UINT64, &frame, "running-time",
                                      G_TYPE_UINT64, &running_time, "score", G_TYPE_DOUBLE, &score,
                                      "threshold", G_TYPE_DOUBLE, &threshold, NULL));
      assert_string_equal (gst_structure_get_string (message, "state"), wanted[i].state);
      assert_int_equal (frame, wanted[i].frame);
      assert_int_equal (running_time, frame * 40 * GST_MSECOND);
      assert_true (g_str_equal (wanted[i].state, "enter") == (score > threshold));
    }
  assert_null (fixture_pop_element_message (bus, "flow-anomaly"));
  end_harness (harness, bus);
}

/* The next flow-anomaly has STATE and is of frame FRAME. */
static void
assert_anomaly (GstBus *bus, const char *state, guint64 frame)
{
  g_autoptr (GstStructure) message = fixture_pop_element_message (bus, "flow-anomaly");
  guint64 index, timestamp;
  double score, threshold;
  assert_non_null (message);
  assert_true (gst_structure_get (message, "frame-index", G_TYPE_UINT64, &index, "timestamp", G_TYPE_UINT64,
                                  &timestamp, "score", G_TYPE_DOUBLE, &score, "threshold", G_TYPE_DOUBLE,
                                  &threshold, NULL));
  assert_string_equal (gst_structure_get_string (message, "state"), state);
  assert_int_equal (index, frame);
  assert_int_equal (timestamp, frame * 40 * GST_MSECOND);
  assert_true (score > threshold);
}

/* One that is still open is left with the stream: by a flush, at the end, and by stopping. */
static void
test_open_anomalies (void **state)
{
  GstVideoInfo info;
  GstSegment segment;
  GstBus *bus;
  guint64 n = 0;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "post-messages=false threshold=0", &bus);
  set_video (harness, &info);
  for (guint i = 0; i < 3; i++)
    {
      const guint64 first = n;
      for (; n < first + 2; n++)
        assert_int_equal (gst_harness_push (harness, fixture_frame (&info, n, FALSE)), GST_FLOW_OK);
      assert_anomaly (bus, "enter", first);
      assert_null (fixture_pop_element_message (bus, "flow-anomaly"));
      if (i == 1)
        {
          gst_harness_push_event (harness, gst_event_new_eos ());
          assert_anomaly (bus, "leave", n - 1);
        }
      if (i == 2)
        gst_element_set_state (harness->element, GST_STATE_NULL);
      else
        {
          gst_harness_push_event (harness, gst_event_new_flush_start ());
          gst_harness_push_event (harness, gst_event_new_flush_stop (TRUE));
          gst_harness_push_event (harness, gst_event_new_segment (&segment));
        }
      if (i != 1)
        assert_anomaly (bus, "leave", n - 1);
      assert_null (fixture_pop_element_message (bus, "flow-anomaly"));
    }
  end_harness (harness, bus);
}

/* Times */

static void
test_stats (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  set_video (harness, &info);
  for (guint n = 0; n < 3; n++)
    gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, n, FALSE)));
  g_autoptr (GstStructure) stats = NULL;
  guint64 frames, bytes;
  double average, p95, kernels;
  g_object_get (harness->element, "stats", &stats, NULL);
  assert_true (gst_structure_has_name (stats, "flow-stats"));
  assert_true (gst_structure_get (stats, "frames", G_TYPE_UINT64, &frames, "device-bytes", G_TYPE_UINT64,
                                  &bytes, "avg-ms", G_TYPE_DOUBLE, &average, "p95-ms", G_TYPE_DOUBLE, &p95,
                                  "kernel-ms", G_TYPE_DOUBLE, &kernels, NULL));
  assert_int_equal (frames, 3);
  assert_true (bytes > 0 && average > 0 && p95 > 0 && kernels > 0);
  assert_non_null (gst_structure_get_string (stats, "device-name"));
  end_harness (harness, NULL);
}

/* Denoising */

static void
check_denoise (GstVideoInterlaceMode mode)
{
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  g_autoptr (GError) error = NULL;
  GstVideoInfo info;
  fixture_interlaced_video (&info, GST_VIDEO_FORMAT_I420, mode, 21, 13);
  GstHarness *harness = make_harness ("flowdenoise", MODEL_YUV, NULL, NULL);
  set_video (harness, &info);

  GstBuffer *untouched = fixture_frame (&info, 0, FALSE);
  g_autoptr (GstBuffer) same = gst_harness_push_and_pull (harness, untouched);
  assert_ptr_equal (same, untouched);

  g_object_set (harness->element, "sigma", 0.1, NULL);
  for (guint n = 0; n < 2; n++)
    {
      g_autoptr (GstBuffer) in = fixture_frame (&info, n, n == 1);
      g_autoptr (GstBuffer) wanted = gst_buffer_copy_deep (in);
      GstVideoFrame frame;
      NfFrame view;
      assert_true (gst_video_frame_map (&frame, &info, wanted, GST_MAP_READWRITE));
      view_frame (&frame, &view);
      nf_session_denoise_frame (session, &view, 0.1, &view, &error);
      assert_no_error (error);
      gst_video_frame_unmap (&frame);
      g_autoptr (GstBuffer) before = gst_buffer_copy_deep (in);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_same_video (&info, wanted, out);
      assert_same_video (&info, before, in); /* somebody else's buffer is not written to */
    }

  g_object_set (harness->element, "sigma", 0.0, NULL);
  GstBuffer *again = fixture_frame (&info, 3, FALSE);
  g_autoptr (GstBuffer) passed = gst_harness_push_and_pull (harness, again);
  assert_ptr_equal (passed, again);
  end_harness (harness, NULL);
}

static void
test_denoise (void **state)
{
  check_denoise (GST_VIDEO_INTERLACE_MODE_PROGRESSIVE);
  check_denoise (GST_VIDEO_INTERLACE_MODE_INTERLEAVED);
}

/* Behind a segment in bytes, as of a file of raw video, frames have no time. */
static void
test_denoise_without_times (void **state)
{
  GstVideoInfo info;
  GstSegment segment;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowdenoise", MODEL_YUV, "sigma=0.1", NULL);
  set_video (harness, &info);
  gst_segment_init (&segment, GST_FORMAT_BYTES);
  assert_true (gst_harness_push_event (harness, gst_event_new_segment (&segment)));
  for (guint n = 0; n < 2; n++)
    {
      GstBuffer *frame = fixture_frame (&info, n, FALSE);
      GST_BUFFER_PTS (frame) = n ? GST_CLOCK_TIME_NONE : 0;
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, frame);
      assert_non_null (out);
    }
  end_harness (harness, NULL);
}

/* Pixels of formats like RGBx are whole, whatever came in. */
static void
test_denoise_padding (void **state)
{
  static const GstVideoFormat formats[] = { GST_VIDEO_FORMAT_RGBx, GST_VIDEO_FORMAT_xBGR };
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    {
      GstVideoInfo info;
      fixture_video (&info, formats[i], 13, 9);
      GstHarness *harness = make_harness ("flowdenoise", MODEL_RGB, "sigma=0.1", NULL);
      set_video (harness, &info);
      GstBuffer *in = fixture_frame (&info, 0, FALSE);
      gst_buffer_memset (in, 0, 77, GST_VIDEO_INFO_SIZE (&info));
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, in);
      assert_padding (&info, out);
      end_harness (harness, NULL);
    }
}

/* Sampling */

static GstBuffer *
pull_sample (GstHarness *harness, guint n)
{
  for (guint i = 0; i < n; i++)
    gst_buffer_unref (gst_harness_pull (harness));
  return gst_harness_pull (harness);
}

static void
test_sample_latents (void **state)
{
  const gsize n = 24 * 6 * 4;
  g_autofree float *wanted = g_new (float, n);
  for (guint i = 0; i < 2; i++)
    {
      GstHarness *harness = make_sampler (MODEL_YUV, "seed=1234 temperature=0.5",
                                          "video/x-flow-latent,width=20,height=12,framerate=10/1");
      g_autoptr (GstBuffer) buffer = pull_sample (harness, 2);
      assert_int_equal (gst_buffer_get_size (buffer), n * sizeof (float));
      nf_random_normal (1234, 2, n, 0.5, wanted);
      assert_int_equal (gst_buffer_memcmp (buffer, 0, wanted, n * sizeof (float)), 0);
      assert_int_equal (GST_BUFFER_PTS (buffer), 200 * GST_MSECOND);
      assert_int_equal (GST_BUFFER_DURATION (buffer), 100 * GST_MSECOND);
      end_harness (harness, NULL);
    }
}

static void
test_sample_caps (void **state)
{
  static const struct
  {
    const char *filter;
    gint width, height;
    const char *dimensions;
    gsize bytes;
  } cases[] = {
    { "video/x-flow-latent", 8, 8, NULL, 24 * 2 * 2 * 4 },
    { "video/x-flow-latent,width=17,height=9", 17, 9, NULL, 24 * 6 * 4 * 4 },
    { "video/x-flow-latent,latent-format=F16LE,width=17,height=9", 17, 9, NULL, 24 * 6 * 4 * 2 },
    { "other/tensors,width=16,height=8", 16, 8, "24:4:2:1", 24 * 4 * 2 * 4 },
    { "other/tensors,dimensions=(string)24:6:4:1,types=float16", 24, 16, "24:6:4:1", 24 * 6 * 4 * 2 },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstHarness *harness = make_sampler (MODEL_YUV, NULL, cases[i].filter);
      g_autoptr (GstBuffer) buffer = gst_harness_pull (harness);
      g_autoptr (GstCaps) caps = gst_pad_get_current_caps (harness->sinkpad);
      const GstStructure *structure = gst_caps_get_structure (caps, 0);
      gint width, height;
      assert_true (
          gst_structure_get (structure, "width", G_TYPE_INT, &width, "height", G_TYPE_INT, &height, NULL));
      assert_int_equal (width, cases[i].width);
      assert_int_equal (height, cases[i].height);
      assert_int_equal (gst_buffer_get_size (buffer), cases[i].bytes);
      if (cases[i].dimensions)
        assert_string_equal (gst_structure_get_string (structure, "dimensions"), cases[i].dimensions);
      end_harness (harness, NULL);
    }
}

static void
test_sample_seeds (void **state)
{
  GstHarness *harness = make_sampler (MODEL_YUV, NULL, NULL);
  g_autoptr (GstBuffer) first = gst_harness_pull (harness);
  gint64 seed = -1;
  g_object_get (harness->element, "seed", &seed, NULL);
  assert_true (seed >= 0);
  end_harness (harness, NULL);

  g_autofree char *properties = g_strdup_printf ("seed=%" G_GINT64_FORMAT, seed);
  harness = make_sampler (MODEL_YUV, properties, NULL);
  g_autoptr (GstBuffer) again = gst_harness_pull (harness);
  GstMapInfo map;
  gst_buffer_map (first, &map, GST_MAP_READ);
  assert_int_equal (gst_buffer_memcmp (again, 0, map.data, map.size), 0);
  gst_buffer_unmap (first, &map);
  end_harness (harness, NULL);
}

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_score_messages),
    cmocka_unit_test (test_score_intervals),
    cmocka_unit_test (test_score_gaps),
    cmocka_unit_test (test_no_score_messages),
    cmocka_unit_test (test_anomalies),
    cmocka_unit_test (test_open_anomalies),
    cmocka_unit_test (test_stats),
    cmocka_unit_test (test_denoise),
    cmocka_unit_test (test_denoise_without_times),
    cmocka_unit_test (test_denoise_padding),
    cmocka_unit_test (test_sample_latents),
    cmocka_unit_test (test_sample_caps),
    cmocka_unit_test (test_sample_seeds),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
