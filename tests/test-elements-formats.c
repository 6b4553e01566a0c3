/* normflow: formats and caps of the elements' videos. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elements-fixture.h"

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

/* Changes, and what is chosen */

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

/* What is known of a video */

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

/* What is wrong */

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

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_every_format),
    cmocka_unit_test (test_interlaced),
    cmocka_unit_test (test_cropped_interlaced),
    cmocka_unit_test (test_sink_caps_are_the_models),
    cmocka_unit_test (test_layouts),
    cmocka_unit_test (test_allocation_offers_video_meta),
    cmocka_unit_test (test_larger_meta),
    cmocka_unit_test (test_renegotiation),
    cmocka_unit_test (test_downstream_changes),
    cmocka_unit_test (test_downstream_changes_within_a_frame),
    cmocka_unit_test (test_unwanted_video),
    cmocka_unit_test (test_unwanted_latents),
    cmocka_unit_test (test_choice_of_caps),
    cmocka_unit_test (test_hdr),
    cmocka_unit_test (test_chroma_site),
    cmocka_unit_test (test_streams_of_a_file),
    cmocka_unit_test (test_colours_of_drawn_frames),
    cmocka_unit_test (test_incomplete_latents),
    cmocka_unit_test (test_short_video_buffer),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
