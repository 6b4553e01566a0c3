/* normflow: streams whose denoiser looks ahead. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "live-fixture.h"

#include <malloc.h>

/* A denoiser that looks ahead has frames come later, each with its own time, real ones in every byte; none is
 * missing before a key frame or at the end. Not to wait is possible, too. */
static void
test_look_ahead (void **state)
{
  enum
  {
    REAL = 5,
    LENGTH = 16
  };
  g_autoptr (GPtrArray) at_once = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  g_autoptr (GPtrArray) later = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  GPtrArray *const shown[] = { at_once, later };
  GstClockTime latency[2] = { 0, 0 };
  for (guint waits = 0; waits < 2; waits++)
    {
      g_autofree char *line = g_strdup_printf (
          "videotestsrc pattern=snow num-buffers=%d ! "
          "video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! "
          "tee name=t t. ! queue ! flowencode model=%s ! "
          "flowsample model=%s seed=2 horizon=%d key-int-max=9 ! flowdecode name=decode model=%s "
          "look-ahead=%d ! appsink name=sink sync=false t. ! queue ! appsink name=real sync=false",
          REAL, WIDTH, HEIGHT, ahead_model, ahead_model, LENGTH - REAL, ahead_model, waits ? -1 : 0);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) decode = get (pipeline, "decode"), real = get (pipeline, "real");
      g_autoptr (GstPad) pad = gst_element_get_static_pad (decode, "src");
      g_autoptr (GstQuery) query = gst_query_new_latency ();
      GstBuffer *buffer;
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      while ((buffer = pull (pipeline)))
        {
          const guint n = shown[waits]->len;
          assert_int_equal (GST_BUFFER_PTS (buffer), n * FRAME);
          if (n < REAL)
            {
              g_autoptr (GstSample) sample
                  = gst_app_sink_try_pull_sample (GST_APP_SINK (real), 10 * GST_SECOND);
              assert_non_null (sample);
              assert_true (same (buffer, gst_sample_get_buffer (sample)));
            }
          g_ptr_array_add (shown[waits], buffer);
        }
      assert_true (gst_pad_query (pad, query));
      gst_query_parse_latency (query, NULL, &latency[waits], NULL);
      assert_int_equal (shown[waits]->len, LENGTH);
      fixture_stop (pipeline);
    }
  /* two frames of a tenth of a second */
  assert_true (latency[1] >= 2 * FRAME);
  guint differ = 0;
  for (guint n = REAL; n < LENGTH; n++)
    differ += !same (g_ptr_array_index (shown[0], n), g_ptr_array_index (shown[1], n));
  /* all but the last ones before a key frame and before the end, which had nothing to wait for */
  assert_true (differ >= LENGTH - REAL - 4);
}

/* Frames that look ahead leave before a gap, and the stream goes on after it; or before a damaged frame,
 * after which nothing comes without a key frame. They leave also before one too MANY, which is an error. */
static GPtrArray *
check_held (gboolean damaged, gboolean many)
{
  enum
  {
    AHEAD = 2,
    BEFORE = 4,
    LENGTH = 9
  };
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=6 num-buffers=%d ! appsink name=sink sync=false", ahead_model, LENGTH);
  GstElement *pipeline = fixture_launch (line);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GstHarness *decoder = NULL;
  GstBuffer *buffer;
  guint n = 0;
  for (; (buffer = pull (pipeline)); n++)
    {
      if (n == 0)
        {
          g_autoptr (GstElement) sink = get (pipeline, "sink");
          g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
          decoder = decoder_new (ahead_model, caps);
        }
      if (n == BEFORE && damaged)
        {
          g_object_set (decoder->element, "max-errors", many ? 0 : -1, NULL);
          buffer = gst_buffer_make_writable (buffer);
          gst_buffer_memset (buffer, 0, 0xff, sizeof (float));
        }
      if (n == BEFORE && many)
        {
          assert_int_equal (gst_harness_push (decoder, buffer), GST_FLOW_ERROR);
          assert_int_equal (gst_harness_buffers_received (decoder), BEFORE);
          break;
        }
      if (n == BEFORE && !damaged)
        {
          const GstClockTime now = GST_BUFFER_PTS (buffer);
          assert_int_equal (gst_harness_buffers_received (decoder), BEFORE - AHEAD);
          assert_true (gst_harness_push_event (decoder, gst_event_new_gap (now, 0)));
          assert_int_equal (gst_harness_buffers_received (decoder), BEFORE);
        }
      assert_int_equal (gst_harness_push (decoder, buffer), GST_FLOW_OK);
    }
  assert_int_equal (n, many ? BEFORE : LENGTH);
  assert_int_equal (gst_harness_buffers_received (decoder), damaged ? BEFORE : LENGTH - AHEAD);
  gst_harness_push_event (decoder, gst_event_new_eos ());
  assert_int_equal (gst_harness_buffers_received (decoder), damaged ? BEFORE : LENGTH);
  GPtrArray *shown = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  for (guint i = 0; i < BEFORE; i++)
    g_ptr_array_add (shown, gst_harness_pull (decoder));
  gst_harness_teardown (decoder);
  fixture_stop (pipeline);
  return shown;
}

static void
test_look_ahead_and_gap (void **state)
{
  g_ptr_array_unref (check_held (FALSE, FALSE));
}

static void
test_look_ahead_and_damage (void **state)
{
  g_autoptr (GPtrArray) sound = check_held (FALSE, FALSE);
  for (gboolean many = FALSE; many <= TRUE; many++)
    {
      g_autoptr (GPtrArray) shown = check_held (TRUE, many);
      for (guint i = 0; i < shown->len; i++)
        {
          GstMapInfo wanted;
          assert_true (gst_buffer_map (sound->pdata[i], &wanted, GST_MAP_READ));
          assert_int_equal (gst_buffer_memcmp (shown->pdata[i], 0, wanted.data, wanted.size), 0);
          gst_buffer_unmap (sound->pdata[i], &wanted);
        }
    }
}

/* A model that makes numbers of all that is like samples, and none of what is far from them. */
static char *
make_astray_model (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  const NfConfig config = make_config (TRUE, 2);
  char *path = fixture_path ("astray.safetensors");
  random_model_write_part (path, &config, device, 5, "denoiser.proj_in.weight", 1e23);
  return path;
}

/* Frames that look ahead and are no numbers turn out so only when there is nothing more to wait for: before a
 * KEY frame, a gap, another format, or the end. They are left out, and what follows them, if there may be
 * some. */
static void
check_drained_damage (const char *model, gint most, guint key, gboolean gap, gboolean other_format)
{
  enum
  {
    BAD = 1,
    LENGTH = 6
  };
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=6 num-buffers=%d key-int-max=%u ! appsink name=sink sync=false", model,
      key ? LENGTH : BAD + 1, MAX (key, 1 + BAD));
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstBus) bus = gst_bus_new ();
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GstHarness *decoder = NULL;
  GstFlowReturn ret = GST_FLOW_OK;
  gboolean passed = TRUE;
  GstBuffer *buffer;
  for (guint n = 0; (buffer = pull (pipeline)); n++)
    {
      if (n == 0)
        {
          g_autoptr (GstElement) sink = get (pipeline, "sink");
          g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
          decoder = decoder_new (model, caps);
          gst_element_set_bus (decoder->element, bus);
          g_object_set (decoder->element, "max-errors", most, NULL);
        }
      if (n == BAD)
        {
          const float far = 1e30f;
          buffer = gst_buffer_make_writable (buffer);
          gst_buffer_fill (buffer, 0, &far, sizeof far);
        }
      if (n == BAD + 1 && gap)
        passed = gst_harness_push_event (decoder, gst_event_new_gap (GST_BUFFER_PTS (buffer), 0));
      if (n == BAD + 1 && other_format)
        {
          const guint32 drawn = 1; /* and no word of the frame before it, which is another one now */
          buffer = gst_buffer_make_writable (buffer);
          gst_buffer_fill (buffer, gst_buffer_get_size (buffer) - sizeof drawn, &drawn, sizeof drawn);
          gst_harness_set_sink_caps_str (decoder, "video/x-raw,format=BGR");
        }
      if (passed && ret == GST_FLOW_OK)
        ret = gst_harness_push (decoder, buffer);
      else
        gst_buffer_unref (buffer);
    }
  gst_harness_push_event (decoder, gst_event_new_eos ());
  g_autoptr (GError) error = NULL;
  guint warnings = 0;
  for (GstMessage *message; (message = gst_bus_pop (bus)); gst_message_unref (message))
    if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR && !error)
      gst_message_parse_error (message, &error, NULL);
    else if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_WARNING)
      {
        g_autoptr (GError) warning = NULL;
        gst_message_parse_warning (message, &warning, NULL);
        if (!strstr (warning->message, "are not finite") || !strstr (warning->message, "next key frame"))
          fail_msg ("%s", warning->message);
        warnings++;
      }
  if (error && most)
    fail_msg ("%s", error->message);
  if (most == 0)
    {
      assert_non_null (error);
      if (!strstr (error->message, "are not finite"))
        fail_msg ("%s", error->message);
      assert_int_equal (passed, !gap);
      assert_int_equal (ret, key && !gap ? GST_FLOW_ERROR : GST_FLOW_OK);
      assert_int_equal (gst_harness_buffers_received (decoder), 0);
    }
  else
    {
      assert_true (passed && ret == GST_FLOW_OK);
      assert_int_equal (warnings, 1);
      assert_int_equal (gst_harness_buffers_received (decoder), key ? LENGTH - key : 0);
      for (guint n = key; key && n < LENGTH; n++)
        {
          g_autoptr (GstBuffer) shown = gst_harness_pull (decoder);
          assert_int_equal (GST_BUFFER_PTS (shown), n * GST_BUFFER_DURATION (shown));
        }
    }
  gst_element_set_bus (decoder->element, NULL);
  gst_harness_teardown (decoder);
  fixture_stop (pipeline);
}

static void
test_look_ahead_and_drained_damage (void **state)
{
  g_autofree char *model = make_astray_model ();
  for (gint most = -1; most <= 0; most++)
    {
      check_drained_damage (model, most, 2, FALSE, FALSE);
      check_drained_damage (model, most, 4, TRUE, FALSE);
      check_drained_damage (model, most, 4, FALSE, TRUE);
      check_drained_damage (model, most, 0, FALSE, FALSE);
    }
}

static GstPadProbeReturn
note_format (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
  g_string_append_c (data, *gst_structure_get_string (gst_caps_get_structure (caps, 0), "format"));
  return GST_PAD_PROBE_OK;
}

/* Downstream takes another format while a frame is decoded, and then while frames wait for those that they
 * look at: these keep the one they have, the next frame has the new one. */
static void
test_look_ahead_and_new_format (void **state)
{
  enum
  {
    WITHIN = 3,
    WAITING = 6,
    LENGTH = 9
  };
  g_autofree char *line = g_strdup_printf (
      "flowsample model=%s seed=6 num-buffers=%d ! appsink name=sink sync=false", ahead_model, LENGTH);
  GstElement *pipeline = fixture_launch (line);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GString) formats = g_string_new (NULL);
  GstHarness *decoder = NULL;
  GstBuffer *buffer;
  for (guint n = 0; (buffer = pull (pipeline)); n++)
    {
      if (n == 0)
        {
          g_autoptr (GstElement) sink = get (pipeline, "sink");
          g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
          decoder = decoder_new (ahead_model, caps);
          gst_pad_add_probe (decoder->sinkpad, GST_PAD_PROBE_TYPE_BUFFER, note_format, formats, NULL);
        }
      if (n == WITHIN)
        fixture_change_within_frame (decoder, "video/x-raw,format=BGR");
      if (n == WAITING)
        {
          gst_harness_set_sink_caps_str (decoder, "video/x-raw,format=RGB");
          assert_true (gst_harness_push_event (decoder, gst_event_new_gap (GST_BUFFER_PTS (buffer), 0)));
        }
      assert_int_equal (gst_harness_push (decoder, buffer), GST_FLOW_OK);
    }
  gst_harness_push_event (decoder, gst_event_new_eos ());
  assert_string_equal (formats->str, "RRRRBBRRR");
  gst_harness_teardown (decoder);
  fixture_stop (pipeline);
}

/* Pixels of formats like RGBx are whole in frames that waited, and in those that had nothing more to wait
 * for. */
static void
test_look_ahead_padding (void **state)
{
  enum
  {
    LENGTH = 6
  };
  static const GstVideoFormat formats[] = { GST_VIDEO_FORMAT_BGRx, GST_VIDEO_FORMAT_xRGB };
  mallopt (M_PERTURB, 77); /* no memory is 255 by chance */
  for (guint i = 0; i < G_N_ELEMENTS (formats); i++)
    {
      GstVideoInfo info;
      GstBuffer *buffer;
      g_autoptr (GPtrArray) kept = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
      fixture_video (&info, formats[i], WIDTH, HEIGHT);
      g_autofree char *line = g_strdup_printf (
          "flowsample model=%s num-buffers=%d ! flowdecode model=%s ! video/x-raw,format=%s ! appsink "
          "name=sink sync=false",
          ahead_model, LENGTH, ahead_model, GST_VIDEO_INFO_NAME (&info));
      GstElement *pipeline = fixture_launch (line);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      while ((buffer = pull (pipeline)))
        {
          assert_padding (&info, buffer);
          g_ptr_array_add (kept, buffer); /* or another frame would get it */
        }
      assert_int_equal (kept->len, LENGTH);
      fixture_stop (pipeline);
    }
  mallopt (M_PERTURB, 0);
}

/* The latency is that of the rate and the context that caps say. */
static void
test_look_ahead_latency (void **state)
{
  enum
  {
    AHEAD = 2
  };
  static const struct
  {
    gint rate, context, ahead;
  } cases[] = { { 10, 2, AHEAD }, { 2, 2, AHEAD }, { 2, 1, 1 }, { 0, 2, 0 } };
  g_autofree char *line = g_strdup_printf ("flowencode model=%s", ahead_model);
  GstHarness *encoder = gst_harness_new_parse (line);
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, WIDTH, HEIGHT);
  gst_harness_set_src_caps (encoder, gst_video_info_to_caps (&info));
  g_autoptr (GstBuffer) latents = gst_harness_push_and_pull (encoder, fixture_frame (&info, 0, FALSE));
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (encoder->sinkpad);
  GstHarness *decoder = decoder_new (ahead_model, caps);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstCaps *other = gst_caps_copy (caps);
      gst_caps_set_simple (other, "framerate", GST_TYPE_FRACTION, cases[i].rate, 1, "context", G_TYPE_INT,
                           cases[i].context, NULL);
      gst_harness_set_src_caps (decoder, other);
      const GstClockTime latency = gst_harness_query_latency (decoder),
                         waits = cases[i].rate ? cases[i].ahead * GST_SECOND / cases[i].rate : 0;
      assert_int_equal (latency, waits);
    }
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_look_ahead),
    cmocka_unit_test (test_look_ahead_and_gap),
    cmocka_unit_test (test_look_ahead_and_damage),
    cmocka_unit_test (test_look_ahead_and_drained_damage),
    cmocka_unit_test (test_look_ahead_and_new_format),
    cmocka_unit_test (test_look_ahead_latency),
    cmocka_unit_test (test_look_ahead_padding),
  };
  const int status = live_open (&argc, &argv);
  if (status >= 0)
    return status;
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  live_close ();
  return failed;
}
