/* normflow: the elements, each on its own. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <math.h>

/* An element with MODEL and a bus of its own. PROPERTIES: as in a launch line, or NULL. */
static GstElement *
make_element (const char *factory, guint model, const char *properties, GstBus **bus)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *line
      = g_strdup_printf ("%s model=\"%s\" %s", factory, fixture_model[model], properties ? properties : "");
  GstElement *element = gst_parse_launch_full (line, NULL, GST_PARSE_FLAG_NO_SINGLE_ELEMENT_BINS, &error);
  assert_no_error (error);
  if (bus)
    {
      *bus = gst_bus_new ();
      gst_element_set_bus (element, *bus);
    }
  return element;
}

static GstHarness *
make_harness (const char *factory, guint model, const char *properties, GstBus **bus)
{
  g_autoptr (GstElement) element = make_element (factory, model, properties, bus);
  gst_object_ref_sink (element);
  const gboolean source = g_str_equal (factory, "flowsample");
  return gst_harness_new_with_element (element, source ? NULL : "sink", "src");
}

static void
end_harness (GstHarness *harness, GstBus *bus)
{
  if (bus)
    {
      gst_element_set_bus (harness->element, NULL);
      gst_object_unref (bus);
    }
  gst_harness_teardown (harness);
}

static void
set_video (GstHarness *harness, const GstVideoInfo *info)
{
  gst_harness_set_src_caps (harness, gst_video_info_to_caps (info));
}

static NfSession *
open_session (guint model)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  g_autoptr (NfModel) loaded = nf_model_load (fixture_model[model], device, NULL, NULL, NULL, &error);
  assert_no_error (error);
  NfSession *session = nf_session_new (loaded, &error);
  assert_no_error (error);
  return session;
}

static void
view_frame (const GstVideoFrame *frame, NfFrame *view)
{
  *view = (NfFrame){ .width = GST_VIDEO_FRAME_WIDTH (frame),
                     .height = GST_VIDEO_FRAME_HEIGHT (frame),
                     .interlaced = GST_VIDEO_INFO_IS_INTERLACED (&frame->info) };
  for (guint c = 0; c < GST_VIDEO_FRAME_N_COMPONENTS (frame); c++)
    view->planes[c] = (NfPlane){ GST_VIDEO_FRAME_COMP_DATA (frame, c), GST_VIDEO_FRAME_COMP_STRIDE (frame, c),
                                 GST_VIDEO_FRAME_COMP_PSTRIDE (frame, c) };
}

/* What the library itself makes of a frame. */
static float *
encode_directly (NfSession *session, const GstVideoInfo *info, GstBuffer *buffer, NfScore *score, gsize *n)
{
  g_autoptr (GError) error = NULL;
  GstVideoFrame frame;
  NfFrame view;
  NfGrid grid;
  const NfConfig *config = nf_model_get_config (nf_session_get_model (session));
  assert_true (
      nf_grid_init (&grid, config, GST_VIDEO_INFO_WIDTH (info), GST_VIDEO_INFO_HEIGHT (info), &error));
  *n = nf_grid_latents (&grid);
  float *latents = g_new (float, *n);
  assert_true (gst_video_frame_map (&frame, info, buffer, GST_MAP_READ));
  view_frame (&frame, &view);
  nf_session_encode_frame (session, &view, latents, score, NULL, &error);
  assert_no_error (error);
  gst_video_frame_unmap (&frame);
  return latents;
}

/* Latent caps and one buffer of a flowencode fed with frame 0 of INFO. */
static GstBuffer *
encode_one (guint model, const GstVideoInfo *info, const char *filter, GstCaps **caps)
{
  GstHarness *harness = make_harness ("flowencode", model, NULL, NULL);
  if (filter)
    gst_harness_set_sink_caps_str (harness, filter);
  set_video (harness, info);
  GstBuffer *latents = gst_harness_push_and_pull (harness, fixture_frame (info, 0, FALSE));
  assert_non_null (latents);
  *caps = gst_pad_get_current_caps (harness->sinkpad);
  end_harness (harness, NULL);
  return latents;
}

/* Formats */

static void
check_round_trip (guint model, GstVideoFormat format, GstVideoInterlaceMode mode, guint width, guint height,
                  gboolean padded)
{
  GstVideoInfo info;
  fixture_interlaced_video (&info, format, mode, width, height);
  g_autofree char *line = g_strdup_printf ("flowencode model=\"%s\" ! flowdecode model=\"%s\"",
                                           fixture_model[model], fixture_model[model]);
  GstHarness *harness = gst_harness_new_parse (line);
  set_video (harness, &info);
  for (guint n = 0; n < 2; n++)
    {
      g_autoptr (GstBuffer) in = fixture_frame (&info, n, padded);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_non_null (out);
      assert_int_equal (GST_BUFFER_PTS (out), GST_BUFFER_PTS (in));
      assert_int_equal (GST_BUFFER_DURATION (out), GST_BUFFER_DURATION (in));
      assert_same_video (&info, in, out);
      if (GST_VIDEO_INFO_N_PLANES (&info) == 1 && !padded)
        {
          /* padding bytes of RGBx and so on were 255, and are again */
          g_autoptr (GstBuffer) same = gst_buffer_copy_deep (out);
          GstMapInfo a, b;
          assert_int_equal (gst_buffer_get_size (in), gst_buffer_get_size (same));
          gst_buffer_map (in, &a, GST_MAP_READ);
          gst_buffer_map (same, &b, GST_MAP_READ);
          const gint stride = GST_VIDEO_INFO_PLANE_STRIDE (&info, 0);
          const gint row = GST_VIDEO_INFO_COMP_PSTRIDE (&info, 0) * (gint)width;
          for (guint y = 0; y < height; y++)
            assert_memory_equal (a.data + y * stride, b.data + y * stride, row);
          gst_buffer_unmap (in, &a);
          gst_buffer_unmap (same, &b);
        }
    }
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (harness->sinkpad);
  GstVideoInfo got;
  assert_true (gst_video_info_from_caps (&got, caps));
  assert_int_equal (GST_VIDEO_INFO_FORMAT (&got), format);
  assert_int_equal (GST_VIDEO_INFO_INTERLACE_MODE (&got), mode);
  assert_int_equal (GST_VIDEO_INFO_WIDTH (&got), width);
  assert_int_equal (GST_VIDEO_INFO_HEIGHT (&got), height);
  assert_int_equal (GST_VIDEO_INFO_FPS_N (&got), 25);
  gst_harness_teardown (harness);
}

static void
test_every_format (void **state)
{
  static const struct
  {
    guint model;
    GstVideoFormat format;
  } formats[] = {
    { MODEL_YUV, GST_VIDEO_FORMAT_I420 }, { MODEL_YUV, GST_VIDEO_FORMAT_YV12 },
    { MODEL_YUV, GST_VIDEO_FORMAT_NV12 }, { MODEL_YUV, GST_VIDEO_FORMAT_NV21 },
    { MODEL_RGB, GST_VIDEO_FORMAT_RGB },  { MODEL_RGB, GST_VIDEO_FORMAT_BGR },
    { MODEL_RGB, GST_VIDEO_FORMAT_RGBx }, { MODEL_RGB, GST_VIDEO_FORMAT_BGRx },
    { MODEL_RGB, GST_VIDEO_FORMAT_xRGB }, { MODEL_RGB, GST_VIDEO_FORMAT_xBGR },
    { MODEL_RGB, GST_VIDEO_FORMAT_GBR },  { MODEL_RGB, GST_VIDEO_FORMAT_RGBP },
    { MODEL_RGB, GST_VIDEO_FORMAT_BGRP }, { MODEL_GRAY, GST_VIDEO_FORMAT_GRAY8 },
  };
  static const guint sizes[][2] = { { FIXTURE_SIDE, FIXTURE_SIDE }, { 33, 17 }, { 1, 1 } };

  for (guint f = 0; f < G_N_ELEMENTS (formats); f++)
    for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
      check_round_trip (formats[f].model, formats[f].format, GST_VIDEO_INTERLACE_MODE_PROGRESSIVE,
                        sizes[s][0], sizes[s][1], s == 1);
}

/* Of as many rows of chroma as both fields have, where a field has an odd one. */
static void
test_interlaced (void **state)
{
  static const struct
  {
    GstVideoFormat format;
    GstVideoInterlaceMode mode;
  } forms[] = {
    { GST_VIDEO_FORMAT_I420, GST_VIDEO_INTERLACE_MODE_INTERLEAVED },
    { GST_VIDEO_FORMAT_YV12, GST_VIDEO_INTERLACE_MODE_MIXED },
    { GST_VIDEO_FORMAT_NV12, GST_VIDEO_INTERLACE_MODE_FIELDS },
    { GST_VIDEO_FORMAT_NV21, GST_VIDEO_INTERLACE_MODE_INTERLEAVED },
  };
  static const guint sizes[][2] = { { 16, 18 }, { 13, 9 }, { 1, 1 }, { 16, 12 } };

  for (guint f = 0; f < G_N_ELEMENTS (forms); f++)
    for (guint s = 0; s < G_N_ELEMENTS (sizes); s++)
      check_round_trip (MODEL_YUV, forms[f].format, forms[f].mode, sizes[s][0], sizes[s][1], s == 1);
}

/* Memory that ends with the last row that the height says, as of a picture that is cropped at its top, has no
 * other: none is read. Nor is another plane's, where planes follow each other without room between them. */
static void
test_cropped_interlaced (void **state)
{
  gsize offset[GST_VIDEO_MAX_PLANES] = { 0, 16 * 10, 16 * 10 + 8 * 5 };
  gint stride[GST_VIDEO_MAX_PLANES] = { 16, 8, 8 };
  GstVideoInfo info, progressive;
  fixture_interlaced_video (&info, GST_VIDEO_FORMAT_I420, GST_VIDEO_INTERLACE_MODE_INTERLEAVED, 16, 10);
  fixture_video (&progressive, GST_VIDEO_FORMAT_I420, 16, 10);
  g_autoptr (GstCaps) caps = NULL;
  g_autoptr (GstBuffer) wanted = encode_one (MODEL_YUV, &progressive, NULL, &caps);
  for (guint spare = 0; spare <= 16; spare += 16)
    {
      GstBuffer *in = fixture_frame (&progressive, 0, FALSE);
      assert_int_equal (gst_buffer_get_size (in), offset[2] + 8 * 5);
      if (spare) /* in the same memory */
        {
          GstBuffer *larger = gst_buffer_new_allocate (NULL, offset[2] + 8 * 5 + spare, NULL);
          GstMapInfo samples;
          gst_buffer_memset (larger, 0, 200, offset[2] + 8 * 5 + spare);
          assert_true (gst_buffer_map (in, &samples, GST_MAP_READ));
          gst_buffer_fill (larger, 0, samples.data, samples.size);
          gst_buffer_unmap (in, &samples);
          GST_BUFFER_PTS (larger) = GST_BUFFER_PTS (in);
          gst_buffer_unref (in);
          in = larger;
        }
      gst_buffer_add_video_meta_full (in, GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_FORMAT_I420, 16, 10, 3, offset,
                                      stride);
      GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
      set_video (harness, &info);
      g_autoptr (GstBuffer) latents = gst_harness_push_and_pull (harness, in);
      GstMapInfo map;
      assert_true (gst_buffer_map (wanted, &map, GST_MAP_READ));
      assert_int_equal (gst_buffer_get_size (latents), map.size);
      assert_int_equal (gst_buffer_memcmp (latents, 0, map.data, map.size), 0);
      gst_buffer_unmap (wanted, &map);
      end_harness (harness, NULL);
    }
}

static void
test_sink_caps_are_the_models (void **state)
{
  static const char *const elements[] = { "flowencode", "flowdenoise" };
  for (guint i = 0; i < G_N_ELEMENTS (elements); i++)
    {
      g_autoptr (GstElement) element
          = gst_object_ref_sink (make_element (elements[i], MODEL_YUV, NULL, NULL));
      g_autoptr (GstPad) pad = gst_element_get_static_pad (element, "sink");
      g_autoptr (GstCaps) rgb
          = gst_caps_from_string ("video/x-raw,format=RGB,width=16,height=16,framerate=25/1");
      g_autoptr (GstCaps) i420
          = gst_caps_from_string ("video/x-raw,format=I420,width=16,height=16,framerate=25/1");
      g_autoptr (GstCaps) before = gst_pad_query_caps (pad, NULL);
      assert_true (gst_caps_can_intersect (before, rgb));
      assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_SUCCESS);
      g_autoptr (GstCaps) after = gst_pad_query_caps (pad, NULL);
      assert_false (gst_caps_can_intersect (after, rgb));
      assert_true (gst_caps_can_intersect (after, i420));

      /* another model is as none until it is open */
      g_object_set (element, "model", fixture_model[MODEL_RGB], NULL);
      g_autoptr (GstCaps) changed = gst_pad_query_caps (pad, NULL);
      assert_true (gst_caps_is_equal (changed, before));
      g_autoptr (GstStructure) stats = NULL;
      g_object_get (element, "stats", &stats, NULL);
      assert_false (gst_structure_has_field (stats, "model-path"));
      assert_false (gst_structure_has_field (stats, "model-digest"));
      gst_element_set_state (element, GST_STATE_PAUSED);
      g_autoptr (GstCaps) opened = gst_pad_query_caps (pad, NULL);
      assert_true (gst_caps_can_intersect (opened, rgb));
      assert_false (gst_caps_can_intersect (opened, i420));
      gst_element_set_state (element, GST_STATE_NULL);
    }
}

/* Runs BEFORE, an element with MODEL_YUV and what comes behind it to the end, or to an error that speaks of
 * PART, if there is one. */
static void
check_layout (const char *before, const char *element, const char *part)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=2 ! video/x-raw,width=32,height=32 ! identity ! %s ! %s ! fakesink", before,
      element);
  GstElement *pipeline = fixture_launch (line), *flow = gst_bin_get_by_name (GST_BIN (pipeline), "flow");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_object_set (flow, "model", fixture_model[MODEL_YUV], NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  if (part)
    {
      assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, part,
                            "put videoconvert before");
      /* once */
      GstMessage *message = fixture_wait (bus, GST_MESSAGE_ERROR);
      assert_true (message->src != GST_OBJECT (flow));
      gst_message_unref (message);
    }
  else
    {
      g_autoptr (GstMessage) message = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
      assert_non_null (message);
      if (GST_MESSAGE_TYPE (message) != GST_MESSAGE_EOS)
        fail_msg ("no end of: %s", line);
    }
  gst_object_unref (flow);
  fixture_stop (pipeline);
}

/* Of video in a layout that is not the model's an error says which is; what can choose does. */
static void
test_layouts (void **state)
{
  static const struct
  {
    const char *before, *part; /* of the error, if there is one */
  } cases[] = { { "video/x-raw,format=RGB", "I420, NV12" },
                { "video/x-raw,format={RGB,GRAY8}", "format RGB" },
                { "video/x-raw,format={RGB,NV12}", NULL },
                { "identity", NULL },
                { "tee", NULL },
                { "video/x-raw,format=RGB ! videoconvert", NULL },
                { "video/x-raw,format=AYUV64 ! videoscale ! videoconvert ! identity", NULL },
                { "video/x-raw,format=GRAY8 ! queue ! videoconvert ! queue", NULL },
                { "videoconvert", NULL } };
  static const char *const elements[]
      = { "flowencode name=flow",
          "flowdenoise name=flow sigma=0.05 ! videoconvert ! video/x-raw,format=RGB" };
  for (guint e = 0; e < G_N_ELEMENTS (elements); e++)
    for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
      check_layout (cases[i].before, elements[e], cases[i].part);
}

static void
test_allocation_offers_video_meta (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 16);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  set_video (harness, &info);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  GstQuery *query = gst_query_new_allocation (caps, TRUE);
  assert_true (gst_pad_peer_query (harness->srcpad, query));
  assert_true (gst_query_find_allocation_meta (query, GST_VIDEO_META_API_TYPE, NULL));
  gst_query_unref (query);
  end_harness (harness, NULL);
}

/* Latents and scores */

static void
test_latents_are_the_sessions (void **state)
{
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  GstVideoInfo info;
  NfScore score;
  gsize n;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 20, 12);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "score-map=true", NULL);
  set_video (harness, &info);
  const char *digest = nf_model_get_digest (nf_session_get_model (session));

  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GstBuffer) in = fixture_frame (&info, i, FALSE);
      g_autofree float *wanted = encode_directly (session, &info, in, &score, &n);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_int_equal (gst_buffer_get_size (out), n * sizeof (float));
      assert_int_equal (gst_buffer_memcmp (out, 0, wanted, n * sizeof (float)), 0);
      assert_false (GST_BUFFER_FLAG_IS_SET (out, GST_BUFFER_FLAG_DELTA_UNIT));

      GstCustomMeta *meta = gst_buffer_get_custom_meta (out, "GstFlowScoreMeta");
      assert_non_null (meta);
      const GstStructure *fields = gst_custom_meta_get_structure (meta);
      double bits, likelihood, prior, det;
      gint64 dims;
      guint64 index;
      g_autoptr (GstBuffer) map = NULL;
      gint width, height;
      assert_true (gst_structure_get (
          fields, "bits-per-dim", G_TYPE_DOUBLE, &bits, "log-likelihood", G_TYPE_DOUBLE, &likelihood,
          "log-prior", G_TYPE_DOUBLE, &prior, "log-det", G_TYPE_DOUBLE, &det, "num-dims", G_TYPE_INT64, &dims,
          "frame-index", G_TYPE_UINT64, &index, "score-map", GST_TYPE_BUFFER, &map, "map-width", G_TYPE_INT,
          &width, "map-height", G_TYPE_INT, &height, NULL));
      assert_true (bits == score.bits_per_dim && likelihood == score.log_likelihood
                   && prior == score.log_prior && det == score.log_det);
      assert_int_equal (dims, 20 * 12 * 3 / 2);
      assert_int_equal (index, i);
      assert_string_equal (gst_structure_get_string (fields, "model-digest"), digest);
      assert_int_equal (width, 6);
      assert_int_equal (height, 4);
      assert_int_equal (gst_buffer_get_size (map), 6 * 4 * sizeof (float));
    }
  end_harness (harness, NULL);
}

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

/* Latent caps */

static void
test_latent_caps (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_NV12, 20, 12);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  static const struct
  {
    const char *field;
    gint value;
  } numbers[]
      = { { "width", 20 },  { "height", 12 },    { "tile-size", 8 },   { "patch-size", 4 }, { "tiles-x", 3 },
          { "tiles-y", 2 }, { "grid-width", 6 }, { "grid-height", 4 }, { "features", 24 } };
  const GstStructure *structure = gst_caps_get_structure (caps, 0);
  assert_string_equal (gst_structure_get_name (structure), "video/x-flow-latent");
  assert_string_equal (gst_structure_get_string (structure, "latent-format"), "F32LE");
  assert_string_equal (gst_structure_get_string (structure, "pixel-layout"), "yuv420");
  assert_string_equal (gst_structure_get_string (structure, "pixel-format"), "NV12");
  assert_int_equal (strlen (gst_structure_get_string (structure, "model-digest")), 64);
  for (guint i = 0; i < G_N_ELEMENTS (numbers); i++)
    {
      gint value = -1;
      gst_structure_get_int (structure, numbers[i].field, &value);
      assert_int_equal (value, numbers[i].value);
    }
}

/* Warnings with PART on BUS. */
static guint
count_warnings (GstBus *bus, const char *part)
{
  GstMessage *message;
  guint n = 0;
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING)))
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_warning (message, &error, NULL);
      n += strstr (error->message, part) != NULL;
      gst_message_unref (message);
    }
  return n;
}

static char *
dup_working_precision (GstElement *element)
{
  g_autoptr (GstStructure) stats = NULL;
  g_object_get (element, "stats", &stats, NULL);
  return g_strdup (gst_structure_get_string (stats, "precision"));
}

/* Latents say in which precision they were made, and are decoded in it unless something else is asked for. */
static void
test_precision_of_latents (void **state)
{
  static const struct
  {
    const char *made, *stated, *asked, *taken;
    gboolean tensors, warned;
  } cases[] = {
    { "bf16", "bf16", NULL, "bf16", FALSE, FALSE },
    { "bf16", "bf16", NULL, "bf16", TRUE, FALSE },
    { "bf16-weights", "bf16-weights", NULL, "bf16-weights", FALSE, FALSE },
    { "int8-weights", "int8-weights", NULL, "int8-weights", FALSE, FALSE },
    { "f32", "f32", NULL, "f32", FALSE, FALSE },
    { "bf16", "bf16", "precision=bf16", "bf16", FALSE, FALSE },
    { "bf16", "bf16", "precision=f32", "f32", FALSE, TRUE },
    { "f32", "f32", "device=auto,precision=bf16", "bf16", FALSE, TRUE },
    { "f32", NULL, NULL, "f32", FALSE, FALSE }, /* as they were before they said it */
    { "bf16", NULL, "precision=bf16", "bf16", FALSE, FALSE },
  };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 33, 22);
  g_unsetenv ("NORMFLOW_PRECISION");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *property = g_strdup_printf ("precision=%s", cases[i].made);
      GstBus *bus;
      GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, property, NULL);
      GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, cases[i].asked, &bus);
      if (cases[i].tensors)
        gst_harness_set_sink_caps_str (encoder, "other/tensors");
      set_video (encoder, &info);
      for (guint n = 0; n < 3; n++)
        {
          g_autoptr (GstBuffer) in = fixture_frame (&info, n, FALSE);
          GstBuffer *latents = gst_harness_push_and_pull (encoder, gst_buffer_ref (in));
          if (n == 0)
            {
              g_autoptr (GstCaps) told = gst_pad_get_current_caps (encoder->sinkpad);
              g_autoptr (GstCaps) caps = gst_caps_copy (told);
              GstStructure *structure = gst_caps_get_structure (caps, 0);
              assert_string_equal (gst_structure_get_string (structure, "precision"), cases[i].made);
              if (!cases[i].stated)
                gst_structure_remove_field (structure, "precision");
              gst_harness_set_src_caps (decoder, g_steal_pointer (&caps));
            }
          g_autoptr (GstBuffer) out = gst_harness_push_and_pull (decoder, latents);
          assert_non_null (out);
          if (strcmp (cases[i].made, cases[i].taken) == 0)
            assert_same_video (&info, in, out);
        }
      g_autofree char *taken = dup_working_precision (decoder->element);
      assert_string_equal (taken, cases[i].taken);
      assert_int_equal (count_warnings (bus, "were made in"), cases[i].warned);
      end_harness (encoder, NULL);
      end_harness (decoder, bus);
    }
}

/* They also say what multiplied, by which they are decoded where the device has it; if it has not, or
 * something else is asked for, a warning says so. */
static void
test_form_of_latents (void **state)
{
  static const struct
  {
    const char *stated, *asked; /* besides int8=fma */
    gboolean warned;
  } cases[] = { { "fma", NULL, FALSE },
                { "fma", "device=auto,int8=fma", FALSE },
                { NULL, "device=auto,int8=fma", FALSE },
                { "fma", "device=auto,int8=madd", TRUE },
                { "abacus", "device=auto,int8=fma", TRUE },
                { "no name, but this", "device=auto,int8=fma", FALSE } };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 33, 22);
  g_unsetenv ("NORMFLOW_PRECISION");
  g_autoptr (NfDevice) madd = nf_device_open ("auto,precision=int8-weights,int8=madd", NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstBus *bus;
      if (!madd && cases[i].asked && strstr (cases[i].asked, "madd"))
        continue;
      GstHarness *encoder
          = make_harness ("flowencode", MODEL_YUV, "precision=int8-weights device=auto,int8=fma", NULL);
      GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, cases[i].asked, &bus);
      set_video (encoder, &info);
      g_autoptr (GstBuffer) in = fixture_frame (&info, 7, FALSE);
      GstBuffer *latents = gst_harness_push_and_pull (encoder, gst_buffer_ref (in));
      g_autoptr (GstCaps) told = gst_pad_get_current_caps (encoder->sinkpad);
      GstCaps *caps = gst_caps_copy (told);
      GstStructure *structure = gst_caps_get_structure (caps, 0);
      assert_true (g_str_has_prefix (gst_structure_get_string (structure, "multiplied-by"), "fma"));
      if (cases[i].stated)
        gst_structure_set (structure, "multiplied-by", G_TYPE_STRING, cases[i].stated, NULL);
      else
        gst_structure_remove_field (structure, "multiplied-by");
      gst_harness_set_src_caps (decoder, caps);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (decoder, latents);
      assert_non_null (out);
      if (!cases[i].asked || strstr (cases[i].asked, "fma"))
        assert_same_video (&info, in, out);
      assert_int_equal (count_warnings (bus, "were made in int8-weights by"), cases[i].warned);
      end_harness (encoder, NULL);
      end_harness (decoder, bus);
    }
}

/* One stream after the other goes by its own caps; one of an unknown precision is dropped. */
static void
test_precision_changes (void **state)
{
  static const char *const streams[] = { "bf16", NULL, "bf16-weights", "bf16-weights", "f32" };
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_unsetenv ("NORMFLOW_PRECISION");
  g_autoptr (GstCaps) caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  for (guint i = 0; i < G_N_ELEMENTS (streams); i++)
    {
      GstCaps *other = gst_caps_copy (caps);
      GstStructure *structure = gst_caps_get_structure (other, 0);
      if (streams[i])
        gst_structure_set (structure, "precision", G_TYPE_STRING, streams[i], NULL);
      else
        gst_structure_remove_field (structure, "precision");
      gst_harness_set_src_caps (decoder, other);
      gst_buffer_unref (gst_harness_push_and_pull (decoder, gst_buffer_copy (latents)));
      g_autofree char *taken = dup_working_precision (decoder->element);
      assert_string_equal (taken, streams[i] ? streams[i] : "f32");
    }
  assert_int_equal (count_warnings (bus, "were made in"), 0);
  GstCaps *unknown = gst_caps_copy (caps);
  gst_caps_set_simple (unknown, "precision", G_TYPE_STRING, "f8", NULL);
  gst_harness_set_src_caps (decoder, unknown);
  gst_harness_push (decoder, gst_buffer_copy (latents));
  assert_null (gst_harness_try_pull (decoder));
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING);
  g_autoptr (GError) warning = NULL;
  gst_message_parse_warning (message, &warning, NULL);
  assert_true (g_error_matches (warning, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE));
  assert_true (strstr (warning->message, "f8") && strstr (warning->message, "bf16-weights"));
  end_harness (decoder, bus);
}

static void
test_tensors (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL, plain_caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, "other/tensors", &caps);
  g_autoptr (GstBuffer) plain = encode_one (MODEL_YUV, &info, NULL, &plain_caps);
  const GstStructure *structure = gst_caps_get_structure (caps, 0);
  assert_string_equal (gst_structure_get_name (structure), "other/tensors");
  assert_string_equal (gst_structure_get_string (structure, "format"), "static");
  assert_string_equal (gst_structure_get_string (structure, "dimensions"), "24:4:2:1");
  assert_string_equal (gst_structure_get_string (structure, "types"), "float32");

  /* the same bytes under both names */
  GstMapInfo map;
  gst_buffer_map (latents, &map, GST_MAP_READ);
  assert_int_equal (gst_buffer_get_size (plain), map.size);
  assert_int_equal (gst_buffer_memcmp (plain, 0, map.data, map.size), 0);
  gst_buffer_unmap (latents, &map);

  /* back, with our fields and as NNStreamer would hand them on */
  g_autofree char *full = gst_caps_to_string (caps);
  const char *const forms[] = {
    full,
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)25/"
    "1,dimensions=(string)24:4:2:1,types=(string)float32",
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)25/"
    "1,dimensions=(string)24:4:2,types=(string)float32",
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)0/"
    "1,dimensions=(string)24:4:2:1:1:1,types=(string)float32",
  };
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    {
      GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, NULL);
      /* a caps filter before it has nothing to add, also where not all sizes are possible behind it */
      g_autoptr (GstCaps) form = gst_caps_from_string (forms[i]);
      for (guint j = 0; j < 2; j++)
        {
          gst_harness_set_sink_caps_str (harness,
                                         j ? "video/x-raw" : "video/x-raw,width=[1,4096],height=[1,4096]");
          g_autoptr (GstCaps) asked = gst_pad_peer_query_caps (harness->srcpad, form);
          assert_true (gst_caps_is_equal (asked, form));
        }
      gst_harness_set_src_caps_str (harness, forms[i]);
      g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
      assert_non_null (video);
      g_autoptr (GstBuffer) wanted = fixture_frame (&info, 0, FALSE);
      assert_same_video (&info, wanted, video);
      end_harness (harness, NULL);
    }
}

/* Of tiles that are not square, by their dimensions alone. */
static void
test_tensors_of_tall_tiles (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_GRAY8, 12, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_TALL, &info, "other/tensors", &caps);
  assert_string_equal (gst_structure_get_string (gst_caps_get_structure (caps, 0), "dimensions"), "16:3:2:1");
  GstHarness *harness = make_harness ("flowdecode", MODEL_TALL, NULL, NULL);
  gst_harness_set_src_caps_str (harness,
                                "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)"
                                "25/1,dimensions=(string)16:3:2:1,types=(string)float32");
  g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
  g_autoptr (GstBuffer) wanted = fixture_frame (&info, 0, FALSE);
  assert_non_null (video);
  assert_same_video (&info, wanted, video);
  end_harness (harness, NULL);
}

static void
test_half_precision (void **state)
{
  static const char *const filters[]
      = { "video/x-flow-latent,latent-format=F16LE", "other/tensors,types=float16" };
  g_autoptr (NfSession) session = open_session (MODEL_RGB);
  GstVideoInfo info;
  NfScore score;
  gsize n;
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, 13, 9);
  g_autoptr (GstBuffer) frame = fixture_frame (&info, 0, FALSE);
  g_autofree float *wanted = encode_directly (session, &info, frame, &score, &n);
  g_autofree guint16 *halves = g_new (guint16, n);
  nf_half_from_float (wanted, halves, n);

  for (guint i = 0; i < G_N_ELEMENTS (filters); i++)
    {
      g_autoptr (GstCaps) caps = NULL;
      g_autoptr (GstBuffer) latents = encode_one (MODEL_RGB, &info, filters[i], &caps);
      assert_int_equal (gst_buffer_get_size (latents), n * sizeof (guint16));
      assert_int_equal (gst_buffer_memcmp (latents, 0, halves, n * sizeof (guint16)), 0);

      /* at an odd address, as in a file's middle */
      GstBuffer *shifted = gst_buffer_new_allocate (NULL, n * sizeof (guint16) + 1, NULL);
      gst_buffer_fill (shifted, 1, halves, n * sizeof (guint16));
      gst_buffer_resize (shifted, 1, n * sizeof (guint16));
      GstHarness *harness = make_harness ("flowdecode", MODEL_RGB, NULL, NULL);
      gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
      g_autoptr (GstBuffer) again = gst_harness_push_and_pull (harness, shifted);
      assert_non_null (video);
      assert_non_null (again);
      assert_same_video (&info, video, again);
      GstMapInfo a, b;
      double error = 0;
      gst_buffer_map (frame, &a, GST_MAP_READ);
      gst_buffer_map (video, &b, GST_MAP_READ);
      for (guint y = 0; y < 9; y++)
        for (guint x = 0; x < 13 * 3; x++)
          error += pow (a.data[y * GST_VIDEO_INFO_PLANE_STRIDE (&info, 0) + x]
                            - (double)b.data[y * GST_VIDEO_INFO_PLANE_STRIDE (&info, 0) + x],
                        2);
      gst_buffer_unmap (frame, &a);
      gst_buffer_unmap (video, &b);
      assert_true (error / (9 * 13 * 3) < 1);
      end_harness (harness, NULL);
    }
}

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

/* Flow of data */

/* A frame N in a buffer that holds a larger picture, and itself alone in *SMALL: its top left. */
static GstBuffer *
roomy_frame (const GstVideoInfo *info, guint n, GstBuffer **small)
{
  GstVideoInfo large;
  GstVideoFrame from, to;
  fixture_video (&large, GST_VIDEO_INFO_FORMAT (info), 4 * GST_VIDEO_INFO_WIDTH (info) + 10,
                 3 * GST_VIDEO_INFO_HEIGHT (info) + 6);
  GstBuffer *buffer = fixture_frame (&large, n, FALSE);
  gst_buffer_add_video_meta_full (buffer, GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_INFO_FORMAT (&large),
                                  GST_VIDEO_INFO_WIDTH (&large), GST_VIDEO_INFO_HEIGHT (&large),
                                  GST_VIDEO_INFO_N_PLANES (&large), large.offset, large.stride);
  *small = fixture_frame (info, n, FALSE);
  assert_true (gst_video_frame_map (&from, info, buffer, GST_MAP_READ));
  assert_true (gst_video_frame_map (&to, info, *small, GST_MAP_WRITE));
  assert_true (gst_video_frame_copy (&to, &from));
  gst_video_frame_unmap (&from);
  gst_video_frame_unmap (&to);
  return buffer;
}

/* A GstVideoMeta may be of a larger picture than the caps, which is seen in part: at its top left. */
static void
test_larger_meta (void **state)
{
  static const struct
  {
    const char *element, *properties, *filter;
  } cases[] = {
    { "flowencode", "score-map=true", "video/x-flow-latent,latent-format=F32LE" },
    { "flowencode", "score-map=true", "video/x-flow-latent,latent-format=F16LE" },
    { "flowdenoise", "sigma=0.1", NULL },
  };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 20, 12);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstBus *bus;
      GstHarness *harness = make_harness (cases[i].element, MODEL_YUV, cases[i].properties, &bus);
      if (cases[i].filter)
        gst_harness_set_sink_caps_str (harness, cases[i].filter);
      set_video (harness, &info);
      for (guint n = 0; n < 2; n++)
        {
          GstBuffer *small, *large = roomy_frame (&info, n, &small);
          g_autoptr (GstBuffer) wanted = gst_harness_push_and_pull (harness, small);
          g_autoptr (GstBuffer) got = gst_harness_push_and_pull (harness, large);
          assert_non_null (wanted);
          assert_non_null (got);
          if (!cases[i].filter)
            {
              assert_same_video (&info, wanted, got);
              continue;
            }
          GstMapInfo map;
          gst_buffer_map (wanted, &map, GST_MAP_READ);
          assert_int_equal (gst_buffer_get_size (got), map.size);
          assert_int_equal (gst_buffer_memcmp (got, 0, map.data, map.size), 0);
          gst_buffer_unmap (wanted, &map);
        }
      assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
      end_harness (harness, bus);
    }
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

static void
test_renegotiation (void **state)
{
  static const struct
  {
    GstVideoFormat format;
    guint width, height;
  } forms[] = {
    { GST_VIDEO_FORMAT_I420, 16, 8 }, { GST_VIDEO_FORMAT_I420, 31, 20 }, { GST_VIDEO_FORMAT_NV12, 31, 20 },
    { GST_VIDEO_FORMAT_YV12, 8, 24 }, { GST_VIDEO_FORMAT_I420, 16, 8 },
  };
  g_autofree char *line = g_strdup_printf ("flowencode model=\"%s\" ! flowdecode model=\"%s\"",
                                           fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  GstHarness *harness = gst_harness_new_parse (line);
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    {
      GstVideoInfo info;
      fixture_video (&info, forms[i].format, forms[i].width, forms[i].height);
      set_video (harness, &info);
      g_autoptr (GstBuffer) in = fixture_frame (&info, i, FALSE);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_non_null (out);
      assert_same_video (&info, in, out);
      g_autoptr (GstCaps) caps = gst_pad_get_current_caps (harness->sinkpad);
      GstVideoInfo got;
      assert_true (gst_video_info_from_caps (&got, caps));
      assert_int_equal (GST_VIDEO_INFO_FORMAT (&got), forms[i].format);
      assert_int_equal (GST_VIDEO_INFO_WIDTH (&got), forms[i].width);
    }
  gst_harness_teardown (harness);
}

/* Downstream takes another form from some frame on, and then what it took at first. */
static void
test_downstream_changes (void **state)
{
  static const char *const latents[]
      = { "video/x-flow-latent,latent-format=F32LE", "video/x-flow-latent,latent-format=F16LE",
          "other/tensors", "video/x-flow-latent,latent-format=F32LE" };
  static const GstVideoFormat formats[]
      = { GST_VIDEO_FORMAT_I420, GST_VIDEO_FORMAT_NV12, GST_VIDEO_FORMAT_YV12, GST_VIDEO_FORMAT_I420 };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstCaps) first = NULL;
  g_autoptr (GstBuffer) wanted = encode_one (MODEL_YUV, &info, NULL, &first);
  const gsize size = gst_buffer_get_size (wanted);
  GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (latents); i++)
    {
      gst_harness_set_sink_caps_str (encoder, latents[i]);
      if (i == 0)
        set_video (encoder, &info);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE));
      g_autoptr (GstCaps) caps = gst_pad_get_current_caps (encoder->sinkpad),
                          taken = gst_caps_from_string (latents[i]);
      assert_non_null (out);
      assert_true (gst_caps_is_subset (caps, taken));
      assert_int_equal (gst_buffer_get_size (out), i == 1 ? size / 2 : size);
    }
  end_harness (encoder, NULL);

  /* a frame that waits for another is in the new format, too */
  GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, "frames-at-once=2", NULL);
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    {
      GstVideoInfo other, got;
      fixture_video (&other, formats[i], 16, 8);
      g_autofree char *filter
          = g_strdup_printf ("video/x-raw,format=%s", gst_video_format_to_string (formats[i]));
      g_autoptr (GstBuffer) same = fixture_frame (&other, 0, FALSE);
      if (i == 0)
        {
          gst_harness_set_sink_caps_str (decoder, filter);
          gst_harness_set_src_caps (decoder, gst_caps_ref (first));
        }
      assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (wanted)), GST_FLOW_OK);
      gst_harness_set_sink_caps_str (decoder, filter);
      assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (wanted)), GST_FLOW_OK);
      g_autoptr (GstCaps) caps = gst_pad_get_current_caps (decoder->sinkpad);
      assert_true (gst_video_info_from_caps (&got, caps));
      assert_int_equal (GST_VIDEO_INFO_FORMAT (&got), formats[i]);
      assert_int_equal (gst_harness_buffers_in_queue (decoder), 2);
      for (guint n = 0; n < 2; n++)
        {
          g_autoptr (GstBuffer) video = gst_harness_pull (decoder);
          assert_same_video (&other, same, video);
        }
    }
  end_harness (decoder, NULL);
}

/* Downstream takes another format while a frame is decoded: that frame keeps its own, the next has the new
 * one. One that cannot be made ends the stream. */
static void
test_downstream_changes_within_a_frame (void **state)
{
  static const GstVideoFormat formats[]
      = { GST_VIDEO_FORMAT_NV12, GST_VIDEO_FORMAT_YV12, GST_VIDEO_FORMAT_NV21, GST_VIDEO_FORMAT_I420 };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstCaps) caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstBus *bus;
  GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_harness_set_sink_caps_str (decoder, "video/x-raw,format=I420");
  gst_harness_set_src_caps (decoder, gst_caps_ref (caps));
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    {
      g_autofree char *filter
          = g_strdup_printf ("video/x-raw,format=%s", gst_video_format_to_string (formats[i]));
      fixture_change_within_frame (decoder, filter);
      for (guint n = 0; n < 2; n++)
        {
          g_autoptr (GstBuffer) same = fixture_frame (&info, 0, FALSE),
                                video = gst_harness_push_and_pull (decoder, gst_buffer_ref (latents));
          g_autoptr (GstCaps) now = gst_pad_get_current_caps (decoder->sinkpad);
          GstVideoInfo got;
          assert_non_null (video);
          assert_true (gst_video_info_from_caps (&got, now));
          assert_int_equal (GST_VIDEO_INFO_FORMAT (&got), GST_VIDEO_INFO_FORMAT (&info));
          assert_same_video (&info, same, video);
          fixture_video (&info, formats[i], 16, 8);
        }
    }
  fixture_change_within_frame (decoder, "video/x-raw,format=RGB");
  assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_OK);
  for (guint n = 0; n < 2; n++)
    assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_NOT_NEGOTIATED);
  assert_error_message (bus, GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION, "I420, NV12", "RGB is wanted");
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR));
  gst_harness_set_sink_caps_str (decoder, "video/x-raw,format=I420");
  assert_int_equal (gst_harness_push (decoder, gst_buffer_ref (latents)), GST_FLOW_OK);
  end_harness (decoder, bus);
}

/* Where downstream takes no video of the model's, of its size or rate, flowdecode says in what they differ,
 * and what helps. */
static void
test_unwanted_video (void **state)
{
  static const struct
  {
    const char *after, *part, *other_part;
  } cases[]
      = { { "pngenc", "format I420, NV12, YV12, NV21, but ", "; put videoconvert behind" },
          { "video/x-raw,format=RGB,width=32", "but RGB is wanted, and width 16, but 32 is wanted",
            "; put videoconvert and videoscale behind" },
          { "video/x-raw,width=32", "makes: width 16, but 32 is wanted; put videoscale behind", NULL },
          { "queue ! video/x-raw,framerate=10/1",
            "makes: framerate 25/1, but 10/1 is wanted; put videorate behind", NULL },
          { "video/x-raw,interlace-mode=interleaved",
            "makes: interlace-mode progressive, but interleaved is wanted; change what the caps", NULL } };
  const char *model = fixture_model[MODEL_YUV];
  for (guint i = 0; i < 2 * G_N_ELEMENTS (cases); i++)
    {
      const char *after = cases[i / 2].after;
      g_autofree char *before
          = i % 2 ? g_strdup_printf ("flowsample num-buffers=1 model=%s ! "
                                     "video/x-flow-latent,width=16,height=8,framerate=25/1",
                                     model)
                  : g_strdup_printf ("videotestsrc num-buffers=1 ! "
                                     "video/x-raw,format=I420,width=16,height=8,framerate=25/1 ! "
                                     "flowencode model=%s",
                                     model);
      g_autofree char *line
          = g_strdup_printf ("%s ! flowdecode name=flow model=%s ! %s ! fakesink", before, model, after);
      fixture_assert_unwanted (line, cases[i / 2].part, cases[i / 2].other_part);
    }
}

/* Where downstream takes no latents of the model, or of the video's size, flowencode says in what they differ
 * before it encodes any. */
static void
test_unwanted_latents (void **state)
{
  static const struct
  {
    const char *filter, *part, *other_part;
  } cases[] = { { "video/x-flow-latent,width=32", "makes: width 16, but 32 is wanted; change", NULL },
                { "other/tensors,width=32,height=16", "makes: width 16, but 32 is wanted, and ",
                  "and height 8, but 16 is wanted; change" },
                { "video/x-flow-latent,framerate=5/1", "makes: framerate 10/1, but 5/1 is wanted;", NULL },
                { "video/x-flow-latent,precision=bf16", "makes: precision f32, but bf16 is wanted;", NULL },
                { "video/x-flow-latent,pixel-format=NV12", "pixel-format I420, but NV12 is wanted;", NULL },
                { "video/x-flow-latent,width=32,height=16;video/x-flow-latent,tile-size=16",
                  "makes: tile-size 8, but 16 is wanted;", NULL },
                { "video/x-flow-latent,model-digest=abc", "model-digest ", ", but abc is wanted;" } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *line = g_strdup_printf (
          "videotestsrc num-buffers=1 ! video/x-raw,format=I420,width=16,height=8,framerate=10/1 ! "
          "flowencode name=flow model=%s ! %s ! fakesink",
          fixture_model[MODEL_YUV], cases[i].filter);
      fixture_assert_unwanted (line, cases[i].part, cases[i].other_part);
    }

  /* later, too, and once */
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, &bus);
  gst_harness_set_sink_caps_str (harness, "video/x-flow-latent");
  set_video (harness, &info);
  assert_int_equal (gst_harness_push (harness, fixture_frame (&info, 0, FALSE)), GST_FLOW_OK);
  gst_harness_set_sink_caps_str (harness, "video/x-flow-latent,width=32");
  for (guint n = 1; n < 3; n++)
    assert_int_equal (gst_harness_push (harness, fixture_frame (&info, n, FALSE)), GST_FLOW_NOT_NEGOTIATED);
  assert_error_message (bus, GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION, "width 16, but 32", NULL);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR));
  gst_harness_set_sink_caps_str (harness, "video/x-flow-latent,width=16");
  assert_int_equal (gst_harness_push (harness, fixture_frame (&info, 3, FALSE)), GST_FLOW_OK);
  end_harness (harness, bus);
}

/* Of what downstream takes, the first that the latents can be, and a format that video of their rate has. */
static void
test_choice_of_caps (void **state)
{
  static const char *const cases[][2]
      = { { "video/x-flow-latent,width=32;other/tensors", "other/tensors,types=float32" },
          { "video/x-flow-latent,model-digest=abc;other/tensors,types=float16",
            "other/tensors,types=float16" },
          { "other/tensors;video/x-flow-latent,width=32", "other/tensors,types=float32" },
          { "other/tensors,width=32;video/x-flow-latent,latent-format=F16LE",
            "video/x-flow-latent,latent-format=F16LE" },
          { "other/tensors;video/x-flow-latent", "other/tensors,types=float32" },
          { "video/x-flow-latent,latent-format={F16LE,F32LE}", "video/x-flow-latent,latent-format=F32LE" },
          { "ANY", "video/x-flow-latent,latent-format=F32LE" },
          { "video/x-raw,format=I420,framerate=5/1;video/x-raw,format=NV12", "video/x-raw,format=NV12" } };
  const char *model = fixture_model[MODEL_YUV];
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *decoder = g_str_has_prefix (cases[i][1], "video/x-raw")
                                     ? g_strdup_printf ("model=%s ! flowdecode", model)
                                     : g_strdup (""),
                      *line = g_strdup_printf ("videotestsrc num-buffers=1 ! "
                                               "video/x-raw,format=I420,width=16,height=8,framerate=10/1 ! "
                                               "flowencode %s name=flow model=%s ! capsfilter caps=\"%s\" ! "
                                               "fakesink",
                                               decoder, model, cases[i][0]);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) flow = gst_bin_get_by_name (GST_BIN (pipeline), "flow");
      g_autoptr (GstPad) pad = gst_element_get_static_pad (flow, "src");
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      g_autoptr (GstMessage) end = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
      assert_int_equal (GST_MESSAGE_TYPE (end), GST_MESSAGE_EOS);
      g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad), chosen = gst_caps_from_string (cases[i][1]);
      assert_true (gst_caps_is_subset (caps, chosen));
      fixture_stop (pipeline);
    }
}

/* What is known of HDR video comes back with it. */
static void
test_hdr (void **state)
{
  static const char *const fields[] = { "mastering-display-info", "content-light-level" };
  static const char *const values[]
      = { "35400:14600:8500:39850:6550:2300:15635:16450:10000000:1", "1000:400" };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL),
             *decoder = make_harness ("flowdecode", MODEL_YUV, NULL, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (fields); i++)
    gst_caps_set_simple (caps, fields[i], G_TYPE_STRING, values[i], NULL);
  gst_harness_set_src_caps (encoder, gst_caps_ref (caps));
  GstBuffer *latents = gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE));
  gst_harness_set_src_caps (decoder, gst_pad_get_current_caps (encoder->sinkpad));
  g_autoptr (GstBuffer) video = gst_harness_push_and_pull (decoder, latents);
  g_autoptr (GstCaps) got = gst_pad_get_current_caps (decoder->sinkpad);
  for (guint i = 0; i < G_N_ELEMENTS (fields); i++)
    assert_string_equal (gst_structure_get_string (gst_caps_get_structure (got, 0), fields[i]), values[i]);
  end_harness (encoder, NULL);
  end_harness (decoder, NULL);
}

/* What HARNESS's element says of its output. */
static void
assert_sent (GstHarness *harness, const char *field, const char *wanted)
{
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (harness->sinkpad);
  assert_string_equal (gst_structure_get_string (gst_caps_get_structure (caps, 0), field), wanted);
}

/* Where samples of chroma lie is kept where nothing is said of colours. */
static void
test_chroma_site (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  gst_structure_remove_field (gst_caps_get_structure (caps, 0), "colorimetry");
  gst_caps_set_simple (caps, "chroma-site", G_TYPE_STRING, "mpeg2", NULL);
  GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  gst_harness_set_src_caps (encoder, g_steal_pointer (&caps));
  gst_buffer_unref (gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE)));
  assert_sent (encoder, "chroma-site", "mpeg2");
  end_harness (encoder, NULL);
}

/* What a demuxer says of a file's streams is not said of latents: it cannot be read back from a file of them.
 */
static void
test_streams_of_a_file (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  g_autoptr (GstStream) stream = gst_stream_new ("one", NULL, GST_STREAM_TYPE_VIDEO, 0);
  GstStreamCollection *collection = gst_stream_collection_new ("all");
  GstEvent *start = gst_event_new_stream_start ("one");
  gst_event_set_stream (start, stream);
  gst_event_set_group_id (start, 77);
  gst_stream_collection_add_stream (collection, gst_object_ref (stream));
  assert_true (gst_harness_push_event (encoder, start));
  assert_true (gst_harness_push_event (encoder, gst_event_new_stream_collection (collection)));
  gst_object_unref (collection);
  set_video (encoder, &info);
  gst_buffer_unref (gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE)));
  gboolean started = FALSE;
  GstEvent *event;
  while ((event = gst_harness_try_pull_event (encoder)))
    {
      guint group = 0;
      assert_true (GST_EVENT_TYPE (event) != GST_EVENT_STREAM_COLLECTION);
      if (GST_EVENT_TYPE (event) == GST_EVENT_STREAM_START && gst_event_parse_group_id (event, &group)
          && group == 77)
        {
          started = TRUE;
          assert_false (gst_structure_has_field (gst_event_get_structure (event), "stream"));
        }
      gst_event_unref (event);
    }
  assert_true (started);
  end_harness (encoder, NULL);
}

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

static GstHarness *
make_sampler (guint model, const char *properties, const char *filter)
{
  GstHarness *harness = make_harness ("flowsample", model, properties, NULL);
  GstBuffer *early;
  /* The harness has started it already, since it can have a sink pad. */
  gst_element_set_state (harness->element, GST_STATE_READY);
  while ((early = gst_harness_try_pull (harness)))
    gst_buffer_unref (early);
  if (filter)
    gst_harness_set_sink_caps_str (harness, filter);
  gst_harness_play (harness);
  return harness;
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

/* Nobody says what the colours of drawn frames are: those of their size. */
static void
test_colours_of_drawn_frames (void **state)
{
  GstHarness *sampler = make_sampler (MODEL_YUV, NULL, "video/x-flow-latent,width=16,height=8"),
             *decoder = make_harness ("flowdecode", MODEL_YUV, NULL, NULL);
  GstBuffer *latents = gst_harness_pull (sampler);
  gst_harness_set_src_caps (decoder, gst_pad_get_current_caps (sampler->sinkpad));
  gst_buffer_unref (gst_harness_push_and_pull (decoder, latents));
  assert_sent (decoder, "colorimetry", "bt601");
  end_harness (sampler, NULL);
  end_harness (decoder, NULL);
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

/* What is wrong */

static void
check_refusal (guint model, const char *caps, gsize bytes, gboolean nan, GQuark domain, gint code,
               const char *part, const char *other_part)
{
  GstBus *bus;
  GstHarness *harness = make_harness ("flowdecode", model, NULL, &bus);
  gst_harness_set_src_caps_str (harness, caps);
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, bytes, NULL);
  gst_buffer_memset (buffer, 0, nan ? 0xff : 0, bytes);
  GST_BUFFER_PTS (buffer) = 0;
  assert_int_not_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
  assert_error_message (bus, domain, code, part, other_part);
  end_harness (harness, bus);
}

static void
test_bad_latents (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL, bad = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  const gsize size = gst_buffer_get_size (latents);
  g_autofree char *good = gst_caps_to_string (caps);
  g_autoptr (GError) error = NULL;
  g_autofree char *own = nf_model_digest_of_file (fixture_model[MODEL_YUV], &error);
  g_autofree char *other = nf_model_digest_of_file (fixture_model[MODEL_OTHER], &error);
  assert_no_error (error);
  own[16] = other[16] = 0;

  check_refusal (MODEL_OTHER, good, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, own, other);
  check_refusal (MODEL_RGB, good, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, own, NULL);
  check_refusal (MODEL_YUV, good, size - 4, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "764", "768");
  check_refusal (MODEL_YUV, good, size + 1, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "769", "768");
  check_refusal (MODEL_YUV, good, 0, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, NULL, "768");
  check_refusal (MODEL_YUV, good, size, TRUE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "finite", NULL);

  static const struct
  {
    const char *field;
    gint value;
  } changes[] = { { "width", 32 },  { "height", 9 },     { "tile-size", 4 },   { "patch-size", 8 },
                  { "tiles-x", 3 }, { "grid-width", 2 }, { "grid-height", 8 }, { "features", 48 } };
  for (guint i = 0; i < G_N_ELEMENTS (changes); i++)
    {
      bad = gst_caps_copy (caps);
      gst_caps_set_simple (bad, changes[i].field, G_TYPE_INT, changes[i].value, NULL);
      g_autofree char *text = gst_caps_to_string (bad);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, "needs",
                     NULL);
      gst_clear_caps (&bad);
    }

  /* what the model has not, or what is of another type */
  static const struct
  {
    const char *field, *text, *part;
  } others[] = { { "frames", "(int)4", "frames 4" },
                 { "actions", "(int)5", "actions 5" },
                 { "context", "(int)3", "context 3" },
                 { "drawn", "(int)5", "drawn 5" },
                 { "precision", "(int)5", "precision 5" },
                 { "precision", "(string)\"\\033[31mred\"", "precision ?[31mred, which" },
                 { "pixel-layout", "(string)\"\\033[31mred\"", "\\033" },
                 { "interlace-mode", "(string)alternate", "interlace-mode alternate" },
                 { "model-digest", "(int)5", "model-digest" } };
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    {
      bad = gst_caps_copy (caps);
      gst_structure_remove_field (gst_caps_get_structure (bad, 0), others[i].field);
      g_autofree char *start = gst_caps_to_string (bad),
                      *text = g_strdup_printf ("%s, %s=%s", start, others[i].field, others[i].text);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE,
                     others[i].part, NULL);
      gst_clear_caps (&bad);
    }

  static const char *const tensors[]
      = { "48:4:2:1", "24:3:2:1",  "24:4:2:2",           "24:4:2:1:1:1:1:1:1:1:1:1:1:1:1:1:1",
          "24:x:2:1", "24:-4:2:1", "24:99999999999:2:1", "24:2000000000:2000000000:1",
          "",         ":::" };
  for (guint i = 0; i < G_N_ELEMENTS (tensors); i++)
    {
      g_autofree char *text
          = g_strdup_printf ("other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)"
                             "25/1,dimensions=(string)\"%s\",types=(string)float32",
                             tensors[i]);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, NULL, NULL);
    }
}

/* Damaged latents among others: none may be, unless max-errors says how many in a row; these are left out,
 * and those that are decoded together with them are not. */
static void
test_damaged_latents (void **state)
{
  static const struct
  {
    const char *properties, *frames; /* . good, s of a wrong size, n no numbers */
    guint shown, warned;
    gboolean fails; /* at the last one */
  } streams[] = {
    { NULL, ".s", 1, 0, TRUE },
    { NULL, ".n", 1, 0, TRUE },
    { "max-errors=1", ".s.n.", 3, 2, FALSE },
    { "max-errors=1", ".sn", 1, 1, TRUE },
    { "max-errors=-1", "snsn.", 1, 4, FALSE },
    { "max-errors=1 frames-at-once=3", "..s.n.", 4, 2, FALSE },
    { "frames-at-once=3", "..n", 2, 0, TRUE },
  };
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) good = encode_one (MODEL_YUV, &info, NULL, &caps),
                        wanted = fixture_frame (&info, 0, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (streams); i++)
    {
      GstBus *bus;
      gint most = -2;
      guint64 dropped;
      GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, streams[i].properties, &bus);
      g_object_get (harness->element, "max-errors", &most, NULL);
      if (!streams[i].properties)
        assert_int_equal (most, 0);
      gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      const char *frames = streams[i].frames;
      for (guint n = 0; frames[n]; n++)
        {
          g_autoptr (GstBuffer) buffer = gst_buffer_copy_deep (good);
          GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
          if (frames[n] == 's')
            gst_buffer_resize (buffer, 0, (gssize)gst_buffer_get_size (buffer) - 4);
          else if (frames[n] == 'n')
            gst_buffer_memset (buffer, 8, 0xff, 4);
          assert_int_equal (gst_harness_push (harness, g_steal_pointer (&buffer)),
                            streams[i].fails && !frames[n + 1] ? GST_FLOW_ERROR : GST_FLOW_OK);
        }
      assert_int_equal (gst_harness_buffers_received (harness), streams[i].shown);
      for (guint n = 0; frames[n]; n++)
        if (frames[n] == '.')
          {
            g_autoptr (GstBuffer) video = gst_harness_pull (harness);
            assert_int_equal (GST_BUFFER_PTS (video), n * 40 * GST_MSECOND);
            assert_same_video (&info, wanted, video);
          }
      g_autoptr (GstStructure) stats = NULL;
      g_object_get (harness->element, "stats", &stats, NULL);
      gst_structure_get_uint64 (stats, "dropped", &dropped);
      assert_int_equal (dropped, strlen (frames) - streams[i].shown);
      if (streams[i].fails)
        assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, NULL, NULL);
      else
        assert_int_equal (count_warnings (bus, "the frame is dropped"), streams[i].warned);
      end_harness (harness, bus);
    }
}

/* Blocks that are not the model's are refused while it plays, as those that say nothing are. */
static void
test_bad_blocks (void **state)
{
  static const char *const bad[] = { "3", "3,1,1", "3,1:now" };
  GstVideoInfo info;
  GstBus *bus;
  GstCaps *caps;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "blocks=3,1", &bus);
  gst_harness_set_src_caps (harness, caps);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autofree char *kept = NULL;
      assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
      g_object_set (harness->element, "blocks", bad[i], NULL);
      assert_int_equal (count_warnings (bus, "the ones before are kept"), 1);
      g_object_get (harness->element, "blocks", &kept, NULL);
      assert_string_equal (kept, "3,1");
    }
  g_object_set (harness->element, "blocks", NULL, NULL);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
  assert_int_equal (gst_harness_buffers_received (harness), 4);
  end_harness (harness, bus);
}

/* Latents of another model in the middle of a stream: one warning, and what is the model's own comes back. */
static void
test_foreign_latents (void **state)
{
  static const guint models[] = { MODEL_YUV, MODEL_OTHER, MODEL_RGB, MODEL_YUV };
  GstVideoInfo info, rgb;
  g_autoptr (GstBus) bus = NULL;
  guint warnings = 0;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  fixture_video (&rgb, GST_VIDEO_FORMAT_RGB, 16, 8);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  for (guint i = 0; i < G_N_ELEMENTS (models); i++)
    {
      GstCaps *caps;
      GstBuffer *latents = encode_one (models[i], models[i] == MODEL_RGB ? &rgb : &info, NULL, &caps);
      g_autoptr (GstBuffer) again = gst_buffer_copy (latents), wanted = fixture_frame (&info, 0, FALSE);
      gst_harness_set_src_caps (harness, caps);
      assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_OK);
      assert_int_equal (gst_harness_push (harness, g_steal_pointer (&again)), GST_FLOW_OK);
      assert_int_equal (gst_harness_buffers_in_queue (harness), models[i] == MODEL_YUV ? 2 : 0);
      for (guint n = gst_harness_buffers_in_queue (harness); n > 0; n--)
        {
          g_autoptr (GstBuffer) out = gst_harness_pull (harness);
          assert_same_video (&info, out, wanted);
        }
    }
  for (GstMessage *message; (message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING | GST_MESSAGE_ERROR));)
    {
      g_autoptr (GError) error = NULL;
      assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_WARNING);
      gst_message_parse_warning (message, &error, NULL);
      assert_true (g_error_matches (error, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE));
      assert_non_null (strstr (error->message, "dropped"));
      gst_message_unref (message);
      warnings++;
    }
  assert_int_equal (warnings, 1);
  end_harness (harness, g_steal_pointer (&bus));
}

/* Latents whose caps were lost, as in a plain file. */
static void
test_without_caps (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  GstBus *bus;
  GstSegment segment;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_harness_push_event (harness, gst_event_new_stream_start ("no caps"));
  gst_harness_push_event (harness, gst_event_new_segment (&segment));
  assert_int_equal (gst_pad_push (harness->srcpad, latents), GST_FLOW_NOT_NEGOTIATED);
  assert_error_message (bus, GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION, "without caps", "gdpdepay");
  end_harness (harness, bus);
}

/* At the start they are an error, once, however often its caps come. */
static void
test_foreign_from_the_start (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstBus) bus = NULL;
  GstCaps *caps;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_OTHER, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_harness_set_src_caps (harness, caps);
  assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_NOT_NEGOTIATED);
  g_autoptr (GstMessage) first = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR),
                         second = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  assert_non_null (first);
  assert_null (second);
  end_harness (harness, g_steal_pointer (&bus));
}

static void
test_bad_class (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "class=3", &bus);
  gst_harness_set_src_caps (harness, gst_caps_ref (caps));
  assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_ERROR);
  assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, "3", NULL);
  end_harness (harness, bus);
}

/* A class that the model does not have is refused while it plays, as such blocks are. */
static void
test_bad_class_later (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  GstCaps *caps;
  gint kept = 0;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_harness_set_src_caps (harness, caps);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  g_object_set (harness->element, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class 3 is out of range: the model has 0 classes (-1 is none); the "
                                         "one before is kept"),
                    1);
  g_object_get (harness->element, "class", &kept, NULL);
  assert_int_equal (kept, -1);
  /* the same again, with others in between, is not worth another */
  g_object_set (harness->element, "window", 4, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class"), 0);
  g_object_set (harness->element, "class", -1, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class"), 1);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
  end_harness (harness, bus);
}

/* Of caps that do not say all the error says what they lack; what pads say that they take, is complete. */
static void
test_incomplete_latents (void **state)
{
  static const struct
  {
    const char *caps, *lack;
  } cases[] = {
    { "video/x-flow-latent,latent-format=F32LE,width=16,height=8", "the latents lack framerate:" },
    { "video/x-flow-latent,latent-format=F32LE,framerate=25/1", "the latents lack width, height:" },
    { "video/x-flow-latent,width=16,height=8,framerate=25/1", "the latents lack latent-format:" },
    { "other/tensors,format=static,num_tensors=1,dimensions=24:4:2:1,types=float32",
      "the tensors lack framerate:" },
    { "other/tensors,num_tensors=1,framerate=25/1", "the tensors lack format, dimensions, types:" },
  };
  for (guint i = 0; i < 2 * G_N_ELEMENTS (cases); i++)
    {
      const char *factory = i % 2 ? "flowsample" : "flowdecode";
      GstBus *bus;
      GstElement *element = gst_object_ref_sink (make_element (factory, MODEL_YUV, NULL, &bus));
      GstHarness *harness = gst_harness_new_with_element (element, "sink", "src");
      g_autoptr (GstCaps) caps = gst_caps_from_string (cases[i / 2].caps),
                          asked = gst_pad_peer_query_caps (harness->srcpad, NULL);
      for (guint k = 0; k < gst_caps_get_size (asked); k++)
        assert_true (gst_structure_has_field (gst_caps_get_structure (asked, k), "framerate"));
      gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      gst_harness_push (harness, gst_buffer_new_allocate (NULL, 768, NULL));
      assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, cases[i / 2].lack, NULL);
      assert_int_equal (gst_harness_buffers_received (harness), 0);
      gst_object_unref (element);
      end_harness (harness, bus);
    }
}

/* Also one whose GstVideoMeta says more than is there: rows further apart, the other way round, or elsewhere.
 */
static void
test_short_video_buffer (void **state)
{
  static const char *const elements[][2] = { { "flowencode", NULL }, { "flowdenoise", "sigma=0.05" } };
  static const struct
  {
    gsize size, offsets[GST_VIDEO_MAX_PLANES];
    gint strides[GST_VIDEO_MAX_PLANES];
  } buffers[] = { { 100, { 0 }, { 0 } },
                  { 192, { 0, 128, 160 }, { 32, 16, 16 } },
                  { 192, { 0, 128, 160 }, { -16, 8, 8 } },
                  { 192, { 0, 128, 170 }, { 16, 8, 8 } } };
  for (guint i = 0; i < G_N_ELEMENTS (elements) * G_N_ELEMENTS (buffers); i++)
    {
      const char *const *element = elements[i % G_N_ELEMENTS (elements)];
      const guint at = i / G_N_ELEMENTS (elements);
      g_autofree char *size = g_strdup_printf ("%" G_GSIZE_FORMAT " bytes", buffers[at].size);
      GstVideoInfo info;
      GstBus *bus;
      fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
      GstHarness *harness = make_harness (element[0], MODEL_YUV, element[1], &bus);
      set_video (harness, &info);
      GstBuffer *buffer = gst_buffer_new_allocate (NULL, buffers[at].size, NULL);
      gst_buffer_memset (buffer, 0, 128, buffers[at].size);
      if (buffers[at].strides[0])
        gst_buffer_add_video_meta_full (buffer, GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_FORMAT_I420, 16, 8, 3,
                                        (gsize *)buffers[at].offsets, (gint *)buffers[at].strides);
      GST_BUFFER_PTS (buffer) = 0;
      assert_int_equal (gst_harness_push (harness, buffer), GST_FLOW_ERROR);
      assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT, size, "16x8");
      end_harness (harness, bus);
    }
}

static const char *const all_elements[] = { "flowencode", "flowdecode", "flowsample", "flowdenoise" };

/* Every element refuses the model at PATH when it is to become READY, with one error. */
static void
check_bad_model (const char *path, GQuark domain, gint code, const char *part)
{
  for (guint i = 0; i < G_N_ELEMENTS (all_elements); i++)
    {
      g_autoptr (GstElement) element = gst_object_ref_sink (gst_element_factory_make (all_elements[i], NULL));
      g_autoptr (GstBus) bus = gst_bus_new ();
      gst_element_set_bus (element, bus);
      g_object_set (element, "model", path, NULL);
      assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_FAILURE);
      assert_error_message (bus, domain, code, part, NULL);
      assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR));

      /* and works once the model is right */
      g_object_set (element, "model", fixture_model[MODEL_YUV], NULL);
      assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_SUCCESS);
      gst_element_set_state (element, GST_STATE_NULL);
      gst_element_set_bus (element, NULL);
    }
}

static void
test_bad_models (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *bytes = NULL;
  gsize size;
  g_file_get_contents (fixture_model[MODEL_YUV], &bytes, &size, &error);
  assert_no_error (error);

  g_autofree char *missing = fixture_path ("missing.safetensors");
  check_bad_model (missing, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND, missing);
  check_bad_model ("no-such-model", GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND, "no-such-model");

  g_autofree char *truncated = fixture_path ("truncated.safetensors");
  g_file_set_contents (truncated, bytes, size / 2, NULL);
  check_bad_model (truncated, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, truncated);

  g_autofree char *garbage = fixture_path ("garbage.safetensors");
  g_file_set_contents (garbage, "this is not a model at all", -1, NULL);
  check_bad_model (garbage, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, garbage);

  g_autofree char *empty = fixture_path ("empty.safetensors");
  g_file_set_contents (empty, "", 0, NULL);
  check_bad_model (empty, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, empty);

  /* the last value of all is not a number */
  g_autofree char *nan = fixture_path ("nan.safetensors");
  memset (bytes + size - 4, 0xff, 4);
  g_file_set_contents (nan, bytes, size, NULL);
  check_bad_model (nan, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, nan);
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

/* Frames come back with the text that encoded them, and another one is warned of, once; text of another width
 * fails the state change. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autofree char *model = fixture_path ("seeing.safetensors"), *text = fixture_path ("text.safetensors"),
                  *other = fixture_path ("other-text.safetensors"), *wide = fixture_path ("wide.safetensors");
  random_model_write_scaled (model, &config, device, 3, 0.2);
  random_text_write (text, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 1);
  random_text_write (other, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 2);
  random_text_write (wide, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES + 1, 0, 1);

  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 20, 12);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  g_autoptr (GstBuffer) frame = fixture_frame (&info, 1, FALSE);
  g_autoptr (GstCaps) slower = gst_caps_copy (caps);
  gst_caps_set_simple (slower, "framerate", GST_TYPE_FRACTION, 5, 1, NULL);
  const char *const texts[][2] = {
    { text, text }, { text, other }, { text, "" }, { "", text }, { "", "" }
  }; /* made with, shown with */
  GstBus *bus;
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      GstElement *ends[2];
      GstHarness *harness[2];
      const gboolean same = g_str_equal (texts[i][0], texts[i][1]);
      for (guint j = 0; j < 2; j++)
        {
          g_autofree char *properties = *texts[i][j] ? g_strdup_printf ("text=%s", texts[i][j]) : NULL;
          ends[j] = gst_object_ref_sink (
              make_element (j ? "flowdecode" : "flowencode", MODEL_YUV, properties, j ? &bus : NULL));
          g_object_set (ends[j], "model", model, NULL);
          harness[j] = gst_harness_new_with_element (ends[j], "sink", "src");
          gst_object_unref (ends[j]);
        }
      guint warned = 0;
      for (guint n = 0; n < 2; n++)
        {
          gst_harness_set_src_caps (harness[0], gst_caps_ref (n ? slower : caps));
          GstBuffer *latents = gst_harness_push_and_pull (harness[0], gst_buffer_copy (frame));
          gst_harness_set_src_caps (harness[1], gst_pad_get_current_caps (harness[0]->sinkpad));
          g_autoptr (GstBuffer) back = gst_harness_push_and_pull (harness[1], latents);
          assert_non_null (back);
          if (same)
            assert_same_video (&info, frame, back);
          else
            {
              GstMapInfo a;
              assert_true (gst_buffer_map (frame, &a, GST_MAP_READ));
              assert_int_not_equal (gst_buffer_memcmp (back, 0, a.data, a.size), 0);
              gst_buffer_unmap (frame, &a);
            }
          warned += count_warnings (bus, "text features");
        }
      assert_int_equal (warned, !same);
      end_harness (harness[0], NULL);
      end_harness (harness[1], bus);
    }

  g_autofree char *properties = g_strdup_printf ("text=%s", wide);
  g_autoptr (GstElement) element
      = gst_object_ref_sink (make_element ("flowencode", MODEL_YUV, properties, &bus));
  g_object_set (element, "model", model, NULL);
  gst_element_set_state (element, GST_STATE_READY);
  assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "wide.safetensors", "(B, 2, 3)");
  gst_element_set_state (element, GST_STATE_NULL);
  gst_element_set_bus (element, NULL);
  gst_object_unref (bus);
}

static void
test_bad_device (void **state)
{
  GstBus *bus;
  g_autoptr (GstElement) element
      = gst_object_ref_sink (make_element ("flowencode", MODEL_YUV, "device=no-such-device", &bus));
  assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_FAILURE);
  assert_error_message (bus, GST_LIBRARY_ERROR, GST_LIBRARY_ERROR_INIT, "no-such-device", NULL);
  gst_element_set_bus (element, NULL);
  gst_object_unref (bus);
}

/* Also where nothing is multiplied: what is next to it would refuse it. */
static void
test_bad_precision (void **state)
{
  static const struct
  {
    const char *name, *precision;
    gboolean known;
  } cases[] = { { "flowencode", "bf61", FALSE }, { "flowsample", "bf61", FALSE },
                { "flowsample", "F32", FALSE },  { "flowsample", "auto", TRUE },
                { "flowsample", "bf16", TRUE },  { "flowsample", "int8-weights", TRUE } };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *property = g_strdup_printf ("precision=%s", cases[i].precision);
      GstBus *bus;
      g_autoptr (GstElement) element
          = gst_object_ref_sink (make_element (cases[i].name, MODEL_YUV, property, &bus));
      assert_int_equal (gst_element_set_state (element, GST_STATE_READY),
                        cases[i].known ? GST_STATE_CHANGE_SUCCESS : GST_STATE_CHANGE_FAILURE);
      if (!cases[i].known)
        assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, cases[i].precision,
                              "bf16-weights, int8-weights");
      gst_element_set_state (element, GST_STATE_NULL);
      gst_element_set_bus (element, NULL);
      gst_object_unref (bus);
    }
}

/* States */

static void
test_progress (void **state)
{
  GstBus *bus;
  g_autoptr (GstElement) element = gst_object_ref_sink (make_element ("flowencode", MODEL_YUV, NULL, &bus));
  assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_SUCCESS);
  gboolean loaded = FALSE;
  for (guint tries = 0; tries < FIXTURE_TRIES && !loaded; tries++)
    {
      g_autoptr (GstStructure) stats = NULL;
      g_usleep (10000);
      g_object_get (element, "stats", &stats, NULL);
      loaded = gst_structure_has_field (stats, "device-name");
    }
  assert_true (loaded);
  /* which waits for the thread that loaded, so all messages are there */
  gst_element_set_state (element, GST_STATE_NULL);
  g_autofree char *open = NULL;
  guint completed = 0;
  GstMessage *next;
  while ((next = gst_bus_pop_filtered (bus, GST_MESSAGE_PROGRESS)))
    {
      GstProgressType type;
      g_autofree char *code = NULL;
      g_autoptr (GstMessage) message = next;
      gst_message_parse_progress (message, &type, &code, NULL);
      switch (type)
        {
        case GST_PROGRESS_TYPE_START:
          assert_null (open);
          open = g_steal_pointer (&code);
          break;
        case GST_PROGRESS_TYPE_CONTINUE:
          assert_string_equal (open, code);
          break;
        case GST_PROGRESS_TYPE_COMPLETE:
          assert_string_equal (open, code);
          g_clear_pointer (&open, g_free);
          completed++;
          break;
        default:
          fail_msg ("progress of type %d", type);
        }
    }
  assert_null (open);
  assert_true (completed >= 1);
  gst_element_set_bus (element, NULL);
  gst_object_unref (bus);
}

/* Going back at once, wherever loading is: it ends, without an error. */
static void
test_cancelled_loading (void **state)
{
  GstBus *bus;
  g_autoptr (GstElement) element = gst_object_ref_sink (make_element ("flowdecode", MODEL_RGB, NULL, &bus));
  for (guint i = 0; i < 3; i++)
    {
      assert_int_equal (gst_element_set_state (element, GST_STATE_READY), GST_STATE_CHANGE_SUCCESS);
      assert_int_equal (gst_element_set_state (element, GST_STATE_NULL), GST_STATE_CHANGE_SUCCESS);
      gint open = 0;
      g_autoptr (GstMessage) message = NULL;
      while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_PROGRESS | GST_MESSAGE_ERROR)))
        {
          GstProgressType type;
          assert_int_not_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_ERROR);
          gst_message_parse_progress (message, &type, NULL, NULL);
          open += type == GST_PROGRESS_TYPE_START;
          open -= type == GST_PROGRESS_TYPE_COMPLETE || type == GST_PROGRESS_TYPE_CANCELED;
          g_clear_pointer (&message, gst_message_unref);
        }
      assert_int_equal (open, 0);
    }
  gst_element_set_bus (element, NULL);
  gst_object_unref (bus);
}

static void
assert_no_message_of_error (GstBus *bus, const char *line, guint round)
{
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  g_autoptr (GError) error = NULL;
  g_autofree char *text = NULL;
  if (message)
    gst_message_parse_error (message, &error, &text);
  if (message)
    fail_msg ("%s: round %u: %s (%s)", line, round, error->message, text);
}

/* Likewise on the way to PLAYING and back, while frames wait for the model. */
static void
check_stopping (const char *line)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GstElement) pipeline = gst_object_ref_sink (gst_parse_launch (line, &error));
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  for (guint i = 0; i < 16; i++)
    {
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      g_usleep (i % 8 * 700);
      gst_element_set_state (pipeline, GST_STATE_READY);
      assert_no_message_of_error (bus, line, i);
      gst_element_set_state (pipeline, GST_STATE_NULL);
    }
}

/* Without a caps filter: like all of GstBaseTransform it makes an error of a segment that comes between its
 * pads' stopping, which is just when flowencode lets go of caps that waited for the model. */
static void
test_stopping (void **state)
{
  g_autofree char *encoder
      = g_strdup_printf ("flowtestsrc ! flowencode model=\"%s\" ! fakesink", fixture_model[MODEL_YUV]);
  g_autofree char *decoder = g_strdup_printf ("flowsample model=\"%s\" ! flowdecode model=\"%s\" ! fakesink",
                                              fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  check_stopping (encoder);
  check_stopping (decoder);
}

struct stop
{
  GstPad *pad;
  GstEventType type;
};

/* What gst_pad_set_active() does first. */
static GstPadProbeReturn
stop_pad (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  const struct stop *stop = data;
  if (GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == stop->type)
    GST_PAD_SET_FLUSHING (stop->pad);
  return GST_PAD_PROBE_OK;
}

/* LINE with elements "source" and "sample". An event comes to flowsample's PAD from what SENDER has on its
 * other side, after the half of the pad that sends it on has stopped. */
static void
check_stopping_half (const char *line, const char *pad_name, const char *sender_name, GstEventType type)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GstElement) pipeline = gst_object_ref_sink (gst_parse_launch (line, &error));
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_READY);
  g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
  g_autoptr (GstElement) source = gst_bin_get_by_name (GST_BIN (pipeline), "source");
  g_autoptr (GstElement) sender = gst_bin_get_by_name (GST_BIN (pipeline), sender_name);
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, pad_name);
  g_autoptr (GstPad) source_pad = gst_element_get_static_pad (source, "src");
  g_autoptr (GstPad) sender_pad = gst_element_get_static_pad (sender, "src");
  g_autoptr (GstProxyPad) inside = gst_proxy_pad_get_internal (GST_PROXY_PAD (pad));
  struct stop stop = { GST_PAD_IS_SRC (pad) ? pad : GST_PAD (inside), type };
  gst_pad_add_probe (sender_pad, GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, stop_pad, &stop, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);

  const gint64 most = g_get_monotonic_time () + 60 * G_USEC_PER_SEC;
  GstTaskState task;
  do
    {
      g_usleep (1000);
      if (g_get_monotonic_time () > most)
        fail_msg ("%s: %s goes on", line, GST_OBJECT_NAME (source));
      GST_OBJECT_LOCK (source_pad);
      task = GST_PAD_TASK (source_pad) ? gst_task_get_state (GST_PAD_TASK (source_pad)) : GST_TASK_STARTED;
      GST_OBJECT_UNLOCK (source_pad);
    }
  while (task == GST_TASK_STARTED);
  /* an error is posted after the task was told to stop */
  GST_PAD_STREAM_LOCK (source_pad);
  GST_PAD_STREAM_UNLOCK (source_pad);
  assert_true (GST_PAD_IS_FLUSHING (stop.pad));
  assert_no_message_of_error (bus, line, type);
  gst_element_set_state (pipeline, GST_STATE_NULL);
}

/* A ghost pad stops one half after the other. */
static void
test_stopping_half_a_ghost_pad (void **state)
{
  static const GstEventType types[] = { GST_EVENT_STREAM_START, GST_EVENT_CAPS, GST_EVENT_SEGMENT };
  const char *model = fixture_model[MODEL_YUV];
  g_autofree char *source = g_strdup_printf ("flowsample name=sample model=\"%s\" ! fakesink", model);
  g_autofree char *splice
      = g_strdup_printf ("videotestsrc name=source ! video/x-raw,width=16,height=8 ! flowencode name=encode "
                         "model=\"%s\" ! flowsample name=sample model=\"%s\" ! fakesink",
                         model, model);
  for (guint i = 0; i < G_N_ELEMENTS (types); i++)
    {
      check_stopping_half (source, "src", "source", types[i]);
      check_stopping_half (splice, "src", "splice", types[i]);
      check_stopping_half (splice, "sink", "encode", types[i]);
    }
}

struct half
{
  GstHarness *harness;
  GstEvent *event;
  GstBuffer *buffer;
  GstFlowReturn ret;
};

/* Between the two halves of an element: PAD has stopped and forgets its caps; the pad that takes frames goes
 * on. */
static void
on_half_stopped (GstPad *pad, GParamSpec *pspec, gpointer data)
{
  struct half *half = data;
  if (!GST_PAD_IS_FLUSHING (pad))
    return;
  gst_harness_push_event (half->harness, g_steal_pointer (&half->event));
  half->ret = gst_harness_push (half->harness, g_steal_pointer (&half->buffer));
}

/* What comes then is refused because the element stops, and that is no error of its sender. */
static void
test_stopping_half_an_element (void **state)
{
  static const char *const elements[] = { "flowencode", "flowdecode", "flowdenoise" };
  GstVideoInfo info;
  GstSegment segment;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  g_autoptr (GstBuffer) video = fixture_frame (&info, 0, FALSE);
  g_autoptr (GstCaps) video_caps = gst_video_info_to_caps (&info), latent_caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &latent_caps);
  for (guint i = 0; i < 3 * G_N_ELEMENTS (elements); i++)
    {
      const char *element = elements[i / 3];
      const gboolean decodes = g_str_equal (element, "flowdecode");
      GstBuffer *buffer = decodes ? latents : video;
      g_autoptr (GstCaps) caps = gst_caps_copy (decodes ? latent_caps : video_caps);
      GstHarness *harness = make_harness (element, MODEL_YUV, NULL, NULL);
      gst_harness_set_src_caps (harness, gst_caps_copy (caps));
      gst_buffer_unref (gst_harness_push_and_pull (harness, gst_buffer_ref (buffer)));
      gst_caps_set_simple (caps, "framerate", GST_TYPE_FRACTION, 7, 1, NULL);
      struct half half = { harness,
                           i % 3 == 0   ? gst_event_new_stream_start ("half")
                           : i % 3 == 1 ? gst_event_new_caps (caps)
                                        : gst_event_new_segment (&segment),
                           gst_buffer_copy (buffer), GST_FLOW_OK };
      g_autoptr (GstPad) pad = gst_element_get_static_pad (harness->element, "src");
      g_signal_connect (pad, "notify::caps", G_CALLBACK (on_half_stopped), &half);
      gst_element_set_state (harness->element, GST_STATE_READY);
      assert_null (half.event);
      if (half.ret != GST_FLOW_FLUSHING)
        fail_msg ("%s, event %u: %s", element, i % 3, gst_flow_get_name (half.ret));
      end_harness (harness, NULL);
    }
}

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

static void
test_model_of_a_running_element (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, &bus);
  set_video (harness, &info);
  gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, 0, FALSE)));
  g_object_set (harness->element, "model", fixture_model[MODEL_OTHER], NULL);
  g_autoptr (GstMessage) warning = fixture_wait (bus, GST_MESSAGE_WARNING);
  assert_non_null (warning);
  g_autofree char *model = NULL;
  g_object_get (harness->element, "model", &model, NULL);
  assert_string_equal (model, fixture_model[MODEL_YUV]);
  end_harness (harness, bus);

  /* in READY it may change, and is the new one from PAUSED on */
  g_autoptr (GstElement) element = gst_object_ref_sink (make_element ("flowsample", MODEL_YUV, NULL, NULL));
  g_autoptr (GError) error = NULL;
  g_autofree char *digest = nf_model_digest_of_file (fixture_model[MODEL_OTHER], &error);
  gst_element_set_state (element, GST_STATE_READY);
  g_object_set (element, "model", fixture_model[MODEL_OTHER], NULL);
  gst_element_set_state (element, GST_STATE_PAUSED);
  g_autoptr (GstStructure) stats = NULL;
  g_object_get (element, "stats", &stats, NULL);
  assert_string_equal (gst_structure_get_string (stats, "model-digest"), digest);
  gst_element_set_state (element, GST_STATE_NULL);
}

/* Any other value than GValue VALUE has. */
static void
change_value (GParamSpec *pspec, GValue *value)
{
  if (G_VALUE_HOLDS_STRING (value))
    g_value_set_static_string (value, "other");
  else if (G_VALUE_HOLDS_BOOLEAN (value))
    g_value_set_boolean (value, !g_value_get_boolean (value));
  else if (G_VALUE_HOLDS_ENUM (value))
    g_value_set_enum (value, g_value_get_enum (value) + 1);
  else if (G_VALUE_HOLDS_INT (value))
    g_value_set_int (value, g_value_get_int (value) + 1);
  else if (G_VALUE_HOLDS_UINT (value))
    g_value_set_uint (value, g_value_get_uint (value) + 1);
  else if (G_VALUE_HOLDS_INT64 (value))
    g_value_set_int64 (value, g_value_get_int64 (value) + 1);
  else
    fail_msg ("%s is a %s", pspec->name, G_VALUE_TYPE_NAME (value));
}

static void
on_notify (GObject *object, GParamSpec *pspec, gpointer data)
{
  ++*(guint *)data;
}

/* Sets PSPEC of ELEMENT to VALUE: whether that is what it is then, and others are told; if not, and VALUE is
 * another one, a warning says so. */
static void
check_set (GstElement *element, GstBus *bus, GParamSpec *pspec, const GValue *value, gboolean changes,
           gboolean warns)
{
  g_auto (GValue) before = G_VALUE_INIT, after = G_VALUE_INIT;
  g_autofree char *signal = g_strdup_printf ("notify::%s", pspec->name),
                  *name = gst_element_get_name (element);
  guint told = 0;
  g_object_get_property (G_OBJECT (element), pspec->name, g_value_init (&before, pspec->value_type));
  const gulong id = g_signal_connect (element, signal, G_CALLBACK (on_notify), &told);
  g_object_set_property (G_OBJECT (element), pspec->name, value);
  g_signal_handler_disconnect (element, id);
  g_object_get_property (G_OBJECT (element), pspec->name, g_value_init (&after, pspec->value_type));
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING);
  g_autoptr (GError) error = NULL;
  if (message)
    gst_message_parse_warning (message, &error, NULL);
  if (g_param_values_cmp (pspec, &after, changes ? value : &before) != 0 || told != (guint)changes
      || !!message != warns || (message && !strstr (error->message, pspec->name))
      || (message && message->src != GST_OBJECT (element)))
    fail_msg ("%s: %s was notified %u times: %s", name, pspec->name, told,
              message ? error->message : "no warning");
}

/* What can change in NULL and READY only says so elsewhere, and stays. */
static void
test_properties_of_running_elements (void **state)
{
  static const struct
  {
    const char *name;
    guint properties; /* of those */
  } elements[] = {
    { "flowencode", 6 }, { "flowdecode", 6 }, { "flowdenoise", 4 }, { "flowsample", 7 }, { "flowtestsrc", 5 }
  };
  for (guint i = 0; i < G_N_ELEMENTS (elements); i++)
    {
      g_autoptr (GstElement) element
          = gst_object_ref_sink (gst_element_factory_make (elements[i].name, NULL));
      g_autoptr (GstBus) bus = gst_bus_new ();
      guint n, found = 0;
      g_autofree GParamSpec **all = g_object_class_list_properties (G_OBJECT_GET_CLASS (element), &n);
      gst_element_set_bus (element, bus);
      if (g_object_class_find_property (G_OBJECT_GET_CLASS (element), "model"))
        g_object_set (element, "model", fixture_model[MODEL_YUV], NULL);
      gst_element_set_state (element, GST_STATE_PAUSED);
      for (GstState in = GST_STATE_PAUSED; in >= GST_STATE_READY; in--)
        {
          gst_element_set_state (element, in);
          for (guint p = 0; p < n; p++)
            {
              g_auto (GValue) present = G_VALUE_INIT, other = G_VALUE_INIT;
              if (!(all[p]->flags & GST_PARAM_MUTABLE_READY) || all[p]->owner_type != G_OBJECT_TYPE (element))
                continue;
              found++;
              g_object_get_property (G_OBJECT (element), all[p]->name,
                                     g_value_init (&present, all[p]->value_type));
              g_value_init (&other, all[p]->value_type);
              g_value_copy (&present, &other);
              change_value (all[p], &other);
              check_set (element, bus, all[p], &present, FALSE, FALSE);
              check_set (element, bus, all[p], &other, in == GST_STATE_READY, in == GST_STATE_PAUSED);
            }
        }
      assert_int_equal (found, 2 * elements[i].properties);
      gst_element_set_state (element, GST_STATE_NULL);
      gst_element_set_bus (element, NULL);
    }
}

static void
test_weights_are_shared (void **state)
{
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  NfDevice *device = nf_model_get_device (nf_session_get_model (session));
  GstVideoInfo info;
  guint64 bytes[3];
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstHarness *harness[2];
  bytes[0] = nf_device_get_allocated (device);
  for (guint i = 0; i < 2; i++)
    {
      harness[i] = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
      set_video (harness[i], &info);
      gst_buffer_unref (gst_harness_push_and_pull (harness[i], fixture_frame (&info, 0, FALSE)));
      bytes[i + 1] = nf_device_get_allocated (device);
    }
  /* both on the same device as our own session, and each with the same small state of its own */
  assert_true (bytes[1] > bytes[0]);
  assert_int_equal (bytes[2] - bytes[1], bytes[1] - bytes[0]);
  for (guint i = 0; i < 2; i++)
    end_harness (harness[i], NULL);
  assert_int_equal (nf_device_get_allocated (device), bytes[0]);
}

static void
test_state_cycles (void **state)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  /* the model stays loaded in between, so that this counts sessions */
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  NfDevice *device = nf_model_get_device (nf_session_get_model (session));
  const guint64 bytes = nf_device_get_allocated (device);

  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, NULL, NULL);
  GstElement *element = gst_object_ref (harness->element);
  for (guint i = 0; i < 100; i++)
    {
      gst_element_set_state (element, GST_STATE_NULL);
      assert_int_equal (nf_device_get_allocated (device), bytes);
      assert_int_equal (gst_element_set_state (element, GST_STATE_PLAYING), GST_STATE_CHANGE_SUCCESS);
      set_video (harness, &info);
      gst_buffer_unref (gst_harness_push_and_pull (harness, fixture_frame (&info, i, FALSE)));
    }
  end_harness (harness, NULL);
  gst_object_unref (element);
  assert_int_equal (nf_device_get_allocated (device), bytes);
}

/* What gst-inspect-1.0 says is the model of an element that is given none. */
static void
test_default_model (void **state)
{
  for (guint i = 0; i < G_N_ELEMENTS (all_elements); i++)
    {
      g_autoptr (GstElement) element
          = gst_object_ref_sink (make_element (all_elements[i], MODEL_YUV, NULL, NULL));
      GParamSpec *spec = g_object_class_find_property (G_OBJECT_GET_CLASS (element), "model");
      const gboolean noisy = strstr (g_param_spec_get_blurb (spec), NF_MODEL_NOISY) != NULL;
      assert_int_equal (noisy, g_str_equal (all_elements[i], "flowdenoise"));
    }
}

/* Making and asking elements must not look for a device. */
static void
test_no_device_before_ready (void **state)
{
  g_autofree char *device = g_strdup (g_getenv ("NORMFLOW_DEVICE"));
  g_setenv ("NORMFLOW_DEVICE", "no-such-device", TRUE);
  for (guint i = 0; i < G_N_ELEMENTS (all_elements); i++)
    {
      GstBus *bus;
      g_autoptr (GstElement) element
          = gst_object_ref_sink (make_element (all_elements[i], MODEL_YUV, NULL, &bus));
      g_autoptr (GstPad) pad = gst_element_get_static_pad (element, "src");
      g_autoptr (GstCaps) caps = gst_pad_query_caps (pad, NULL);
      g_autoptr (GstStructure) stats = NULL;
      g_object_get (element, "stats", &stats, NULL);
      assert_non_null (stats);
      assert_false (gst_caps_is_empty (caps));
      assert_false (gst_bus_have_pending (bus));
      gst_element_set_bus (element, NULL);
      gst_object_unref (bus);
    }
  if (device)
    g_setenv ("NORMFLOW_DEVICE", device, TRUE);
  else
    g_unsetenv ("NORMFLOW_DEVICE");
}

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_no_device_before_ready),
    cmocka_unit_test (test_every_format),
    cmocka_unit_test (test_interlaced),
    cmocka_unit_test (test_cropped_interlaced),
    cmocka_unit_test (test_sink_caps_are_the_models),
    cmocka_unit_test (test_layouts),
    cmocka_unit_test (test_allocation_offers_video_meta),
    cmocka_unit_test (test_latents_are_the_sessions),
    cmocka_unit_test (test_score_messages),
    cmocka_unit_test (test_score_intervals),
    cmocka_unit_test (test_score_gaps),
    cmocka_unit_test (test_no_score_messages),
    cmocka_unit_test (test_anomalies),
    cmocka_unit_test (test_open_anomalies),
    cmocka_unit_test (test_latent_caps),
    cmocka_unit_test (test_precision_of_latents),
    cmocka_unit_test (test_form_of_latents),
    cmocka_unit_test (test_precision_changes),
    cmocka_unit_test (test_tensors),
    cmocka_unit_test (test_tensors_of_tall_tiles),
    cmocka_unit_test (test_half_precision),
    cmocka_unit_test (test_frames_at_once),
    cmocka_unit_test (test_larger_meta),
    cmocka_unit_test (test_empty_gaps),
    cmocka_unit_test (test_segment_done),
    cmocka_unit_test (test_end_gap_discontinuity),
    cmocka_unit_test (test_frame_flags),
    cmocka_unit_test (test_flush),
    cmocka_unit_test (test_renegotiation),
    cmocka_unit_test (test_downstream_changes),
    cmocka_unit_test (test_downstream_changes_within_a_frame),
    cmocka_unit_test (test_unwanted_video),
    cmocka_unit_test (test_unwanted_latents),
    cmocka_unit_test (test_choice_of_caps),
    cmocka_unit_test (test_hdr),
    cmocka_unit_test (test_chroma_site),
    cmocka_unit_test (test_streams_of_a_file),
    cmocka_unit_test (test_latency),
    cmocka_unit_test (test_latency_of_waiting),
    cmocka_unit_test (test_latency_of_sigma),
    cmocka_unit_test (test_stats),
    cmocka_unit_test (test_denoise),
    cmocka_unit_test (test_denoise_without_times),
    cmocka_unit_test (test_denoise_padding),
    cmocka_unit_test (test_sample_latents),
    cmocka_unit_test (test_sample_caps),
    cmocka_unit_test (test_colours_of_drawn_frames),
    cmocka_unit_test (test_sample_seeds),
    cmocka_unit_test (test_bad_latents),
    cmocka_unit_test (test_damaged_latents),
    cmocka_unit_test (test_bad_blocks),
    cmocka_unit_test (test_foreign_latents),
    cmocka_unit_test (test_foreign_from_the_start),
    cmocka_unit_test (test_without_caps),
    cmocka_unit_test (test_default_model),
    cmocka_unit_test (test_bad_class),
    cmocka_unit_test (test_bad_class_later),
    cmocka_unit_test (test_incomplete_latents),
    cmocka_unit_test (test_short_video_buffer),
    cmocka_unit_test (test_bad_models),
    cmocka_unit_test (test_keep_up),
    cmocka_unit_test (test_late_pictures),
    cmocka_unit_test (test_late_video),
    cmocka_unit_test (test_text),
    cmocka_unit_test (test_bad_device),
    cmocka_unit_test (test_bad_precision),
    cmocka_unit_test (test_progress),
    cmocka_unit_test (test_cancelled_loading),
    cmocka_unit_test (test_stopping),
    cmocka_unit_test (test_stopping_half_a_ghost_pad),
    cmocka_unit_test (test_stopping_half_an_element),
    cmocka_unit_test (test_flushed_caps),
    cmocka_unit_test (test_flushed_negotiation),
    cmocka_unit_test (test_flushed_precision),
    cmocka_unit_test (test_old_caps_after_unwanted_ones),
    cmocka_unit_test (test_model_of_a_running_element),
    cmocka_unit_test (test_properties_of_running_elements),
    cmocka_unit_test (test_weights_are_shared),
    cmocka_unit_test (test_state_cycles),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
