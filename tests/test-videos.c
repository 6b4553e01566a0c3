/* normflow: models of videos in pipelines. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <gst/app/gstappsink.h>
#include <gst/app/gstappsrc.h>
#include <gst/video/navigation.h>
#include <gst/video/video-event.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define WIDTH RANDOM_VIDEO_WIDTH
#define HEIGHT RANDOM_VIDEO_HEIGHT
#define ACTIONS RANDOM_VIDEO_ACTIONS
#define LATENTS (WIDTH * HEIGHT * 3)
#define TAIL (ACTIONS * sizeof (float) + 2 * sizeof (guint32))

static char *video_model, *other_model;

static void
make_models (void)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  const NfConfig config = random_video_config ();
  video_model = fixture_path ("video.safetensors");
  other_model = fixture_path ("other-video.safetensors");
  random_model_write_scaled (video_model, &config, device, 5, RANDOM_VIDEO_SCALE);
  random_model_write_scaled (other_model, &config, device, 6, RANDOM_VIDEO_SCALE);
}

static GstHarness *
harness_new_of (const char *element, const char *model, const char *text)
{
  GstElement *made = gst_element_factory_make (element, NULL);
  assert_non_null (made);
  g_object_set (made, "model", model, "text", text, NULL);
  GstHarness *h = gst_harness_new_with_element (made, "sink", "src");
  gst_object_unref (made);
  return h;
}

static GstHarness *
harness_new (const char *element, const char *model)
{
  return harness_new_of (element, model, NULL);
}

static void
set_video_caps (GstHarness *h)
{
  gst_harness_set_src_caps_str (
      h, "video/x-raw, format = (string) RGB, width = (int) " G_STRINGIFY (
             RANDOM_VIDEO_WIDTH) ", height = (int) " G_STRINGIFY (RANDOM_VIDEO_HEIGHT) ", framerate = "
                                                                                       "(fraction) 25/1");
}

static GstBuffer *
frame_new (guint n)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, WIDTH, HEIGHT);
  return fixture_frame (&info, n, FALSE);
}

static void
assert_frame (GstBuffer *buffer, guint n)
{
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, WIDTH, HEIGHT);
  g_autoptr (GstBuffer) expected = frame_new (n);
  assert_same_video (&info, expected, buffer);
}

/* What follows the latents. */
static guint32
read_tail (GstBuffer *buffer, float *action)
{
  guint32 index;
  assert_int_equal (gst_buffer_get_size (buffer), LATENTS * sizeof (float) + TAIL);
  gst_buffer_extract (buffer, LATENTS * sizeof (float), action, ACTIONS * sizeof (float));
  gst_buffer_extract (buffer, LATENTS * sizeof (float) + ACTIONS * sizeof (float), &index, sizeof index);
  return GUINT32_FROM_LE (index);
}

static gboolean
is_key (GstBuffer *buffer)
{
  return !GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT);
}

static GstBuffer *
encode (GstHarness *h, GstBuffer *frame)
{
  assert_int_equal (gst_harness_push (h, frame), GST_FLOW_OK);
  GstBuffer *latents = gst_harness_pull (h);
  assert_non_null (latents);
  return latents;
}

/* CAPS of the encoder to the decoder. */
static void
connect_caps (GstHarness *from, GstHarness *to)
{
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (from->sinkpad);
  assert_non_null (caps);
  gst_harness_set_src_caps (to, gst_caps_ref (caps));
}

/* The same bytes at an address that is no multiple of four, as a depayloader leaves them. */
static GstBuffer *
misalign (GstBuffer *buffer)
{
  const gsize size = gst_buffer_get_size (buffer);
  guint8 *room = g_malloc (size + 2);
  GstBuffer *moved = gst_buffer_new ();
  gst_buffer_extract (buffer, 0, room + 2, size);
  gst_buffer_copy_into (moved, buffer, GST_BUFFER_COPY_FLAGS | GST_BUFFER_COPY_TIMESTAMPS, 0, size);
  gst_buffer_append_memory (moved, gst_memory_new_wrapped (0, room, size + 2, 2, size, room, g_free));
  gst_buffer_unref (buffer);
  return moved;
}

static void
test_misaligned (void **state)
{
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  set_video_caps (encoder);
  for (guint n = 0; n < 5; n++)
    {
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, decoder);
      assert_int_equal (gst_harness_push (decoder, misalign (latents)), GST_FLOW_OK);
      g_autoptr (GstBuffer) frame = gst_harness_pull (decoder);
      assert_frame (frame, n);
    }
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* Every byte, far beyond the window; key frames where they are to be. */
static void
test_round_trip (void **state)
{
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  g_object_set (encoder->element, "key-int-max", 7, NULL);
  set_video_caps (encoder);
  for (guint n = 0; n < 40; n++)
    {
      float action[ACTIONS];
      GstBuffer *latents = encode (encoder, frame_new (n));
      assert_int_equal (is_key (latents), n % 7 == 0);
      assert_int_equal (read_tail (latents, action), n % 7);
      assert_non_null (gst_buffer_get_custom_meta (latents, "GstFlowScoreMeta"));
      if (n == 0)
        {
          gint frames, context, actions;
          connect_caps (encoder, decoder);
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (encoder->sinkpad);
          assert_true (gst_structure_get (gst_caps_get_structure (caps, 0), "frames", G_TYPE_INT, &frames,
                                          "context", G_TYPE_INT, &context, "actions", G_TYPE_INT, &actions,
                                          NULL));
          assert_int_equal (frames, RANDOM_VIDEO_FRAMES);
          assert_int_equal (context, RANDOM_VIDEO_FRAMES / 2);
          assert_int_equal (actions, ACTIONS);
        }
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      g_autoptr (GstBuffer) frame = gst_harness_pull (decoder);
      assert_frame (frame, n);
    }
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* Force-key-unit, a discontinuity and a flush begin anew. */
static void
test_key_frames (void **state)
{
  GstHarness *h = harness_new ("flowencode", video_model);
  float action[ACTIONS];
  set_video_caps (h);
  for (guint n = 0; n < 12; n++)
    {
      GstBuffer *frame = frame_new (n);
      if (n == 3)
        assert_true (gst_harness_push_upstream_event (
            h, gst_video_event_new_upstream_force_key_unit (GST_CLOCK_TIME_NONE, FALSE, 0)));
      if (n == 6)
        GST_BUFFER_FLAG_SET (frame, GST_BUFFER_FLAG_DISCONT);
      if (n == 9)
        {
          GstSegment segment;
          assert_true (gst_harness_push_event (h, gst_event_new_flush_start ()));
          assert_true (gst_harness_push_event (h, gst_event_new_flush_stop (TRUE)));
          gst_segment_init (&segment, GST_FORMAT_TIME);
          assert_true (gst_harness_push_event (h, gst_event_new_segment (&segment)));
        }
      g_autoptr (GstBuffer) latents = encode (h, frame);
      assert_int_equal (read_tail (latents, action), n % 3);
      assert_int_equal (is_key (latents), n % 3 == 0);
    }
  gst_harness_teardown (h);
}

static guint
count_warnings (GstBus *bus, const char *part)
{
  guint n = 0;
  GstMessage *message;
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING)))
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_warning (message, &error, NULL);
      if (!strstr (error->message, part))
        fail_msg ("another warning: %s", error->message);
      n++;
      gst_message_unref (message);
    }
  return n;
}

/* Key frames that upstream of H was asked for since the last time. */
static guint
count_asked (GstHarness *h)
{
  guint n = 0;
  GstEvent *event;
  while ((event = gst_harness_try_pull_upstream_event (h)))
    {
      n += gst_video_event_is_force_key_unit (event);
      gst_event_unref (event);
    }
  return n;
}

/* A decoder that lost a frame, or came late, goes on at the next key frame: nothing wrong comes out of it,
 * and it asks for one, once. */
static void
test_loss (void **state)
{
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  g_autoptr (GstBus) bus = gst_bus_new ();
  gst_element_set_bus (decoder->element, bus);
  g_object_set (encoder->element, "key-int-max", 6, NULL);
  set_video_caps (encoder);
  for (guint n = 0; n < 24; n++)
    {
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, decoder);
      if (n < 2 || n == 14)
        {
          gst_buffer_unref (latents);
          continue;
        }
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      if (n == 2) /* it was not there before: nothing is lost */
        assert_int_equal (count_warnings (bus, "waits for the next key frame"), 1);
      const gboolean lost = n < 6 || (n > 14 && n < 18);
      g_autoptr (GstBuffer) frame = gst_harness_try_pull (decoder);
      if (!!frame == lost)
        fail_msg ("frame %u %s", n, lost ? "came although its past was lost" : "is missing");
      if (frame)
        assert_frame (frame, n);
    }
  assert_int_equal (count_warnings (bus, "lost"), 1);
  assert_int_equal (count_asked (decoder), 2);
  gst_element_set_bus (decoder->element, NULL);
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* A request may get lost, too: it is made again when no key frame has come for a second. */
static void
test_asks_again (void **state)
{
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  set_video_caps (encoder);
  for (guint n = 0; n < 13; n++)
    {
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, decoder);
      GST_BUFFER_PTS (latents) = n * 250 * GST_MSECOND;
      if (n == 1)
        gst_buffer_unref (latents);
      else
        assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      assert_int_equal (count_asked (decoder), n == 2 || n == 6 || n == 10);
    }
  assert_int_equal (gst_harness_buffers_received (decoder), 1);
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* Two streams of one model, joined where the numbers of their frames agree: nothing is decoded from a past
 * that is not its own. */
static void
test_joined (void **state)
{
  GstHarness *encoders[2]
      = { harness_new ("flowencode", video_model), harness_new ("flowencode", video_model) },
      *decoder = harness_new ("flowdecode", video_model);
  g_autoptr (GstBus) bus = gst_bus_new ();
  gst_element_set_bus (decoder->element, bus);
  for (guint i = 0; i < 2; i++)
    {
      g_object_set (encoders[i]->element, "key-int-max", 8, NULL);
      set_video_caps (encoders[i]);
    }
  for (guint n = 0; n < 16; n++)
    {
      GstBuffer *latents[2]
          = { encode (encoders[0], frame_new (n)), encode (encoders[1], frame_new (100 + n)) };
      const guint which = n >= 5;
      if (n == 0)
        connect_caps (encoders[0], decoder);
      gst_buffer_unref (latents[!which]);
      assert_int_equal (gst_harness_push (decoder, latents[which]), GST_FLOW_OK);
      g_autoptr (GstBuffer) frame = gst_harness_try_pull (decoder);
      const gboolean lost = n >= 5 && n < 8;
      if (!!frame == lost)
        fail_msg ("frame %u %s", n, lost ? "came although it follows another" : "is missing");
      if (frame)
        assert_frame (frame, which ? 100 + n : n);
    }
  assert_int_equal (count_warnings (bus, "another stream"), 1);
  gst_element_set_bus (decoder->element, NULL);
  for (guint i = 0; i < 2; i++)
    gst_harness_teardown (encoders[i]);
  gst_harness_teardown (decoder);
}

/* A damaged frame is an error unless there may be some; then it is lost, with those that were predicted from
 * it. */
static void
test_damaged (void **state)
{
  for (gint most = 0; most < 2; most++)
    {
      GstHarness *encoder = harness_new ("flowencode", video_model),
                 *decoder = harness_new ("flowdecode", video_model);
      g_autoptr (GstBus) bus = gst_bus_new ();
      gst_element_set_bus (decoder->element, bus);
      g_object_set (encoder->element, "key-int-max", 4, NULL);
      if (most)
        g_object_set (decoder->element, "max-errors", most, NULL);
      set_video_caps (encoder);
      for (guint n = 0; n < 12; n++)
        {
          GstBuffer *latents = encode (encoder, frame_new (n));
          if (n == 0)
            connect_caps (encoder, decoder);
          const gboolean bad = n == 2 || n == 5;
          if (n == 2)
            gst_buffer_resize (latents, 0, (gssize)gst_buffer_get_size (latents) - 4);
          else if (bad)
            gst_buffer_memset (latents, 0, 0xff, 4);
          assert_int_equal (gst_harness_push (decoder, latents), bad && !most ? GST_FLOW_ERROR : GST_FLOW_OK);
          if (bad && !most)
            break;
          g_autoptr (GstBuffer) frame = gst_harness_try_pull (decoder);
          const gboolean lost = n == 2 || n == 3 || (n >= 5 && n < 8);
          if (!!frame == lost)
            fail_msg ("frame %u %s", n, lost ? "came although it is lost" : "is missing");
          if (frame)
            assert_frame (frame, n);
          assert_int_equal (count_asked (decoder), bad);
        }
      assert_int_equal (count_warnings (bus, "until the next key frame"), most ? 2 : 0);
      gst_element_set_bus (decoder->element, NULL);
      gst_harness_teardown (encoder);
      gst_harness_teardown (decoder);
    }
}

static void
attach_action (GstBuffer *buffer, gint action)
{
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, "GstFlowActionMeta");
  gst_structure_set (gst_custom_meta_get_structure (meta), "action", G_TYPE_INT, action, NULL);
}

/* The action of frame t goes with frame t+1; what the model does not know is warned of once. */
static void
test_actions (void **state)
{
  static const gint taken[] = { 1, 2, -1, 0, 7, 9, 1 };
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  g_autoptr (GstBus) bus = gst_bus_new ();
  gst_element_set_bus (encoder->element, bus);
  set_video_caps (encoder);
  for (guint n = 0; n < G_N_ELEMENTS (taken); n++)
    {
      float action[ACTIONS];
      GstBuffer *frame = frame_new (n);
      if (taken[n] >= 0)
        attach_action (frame, taken[n]);
      GstBuffer *latents = encode (encoder, frame);
      read_tail (latents, action);
      for (gint a = 0; a < ACTIONS; a++)
        assert_true (action[a] == (n > 0 && taken[n - 1] == a ? 1.0f : 0.0f));
      if (n == 0)
        connect_caps (encoder, decoder);
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      g_autoptr (GstBuffer) decoded = gst_harness_pull (decoder);
      assert_frame (decoded, n);
      /* and the frame still tells its own */
      assert_int_equal (gst_buffer_get_custom_meta (decoded, "GstFlowActionMeta") != NULL, taken[n] >= 0);
    }
  assert_int_equal (count_warnings (bus, "Action 7"), 1);
  gst_element_set_bus (encoder->element, NULL);
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* The score is of the frame given its past: of a still it falls, of a jump it rises. And it is the library's.
 */
static void
test_scores (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  g_autoptr (NfModel) model = nf_model_load (video_model, device, NULL, NULL, NULL, &error);
  assert_no_error (error);
  g_autoptr (NfStream) stream = nf_stream_new (model, &error);
  assert_no_error (error);
  GstHarness *h = harness_new ("flowencode", video_model);
  set_video_caps (h);
  for (guint n = 0; n < 8; n++)
    {
      float z[LATENTS];
      guint8 samples[LATENTS];
      double bits;
      NfScore score;
      NfFrame view = { .width = WIDTH, .height = HEIGHT };
      GstBuffer *frame = frame_new (n);
      gst_buffer_extract (frame, 0, samples, sizeof samples);
      for (guint i = 0; i < 3; i++)
        view.planes[i] = (NfPlane){ samples + i, 3 * WIDTH, 3 };
      assert_true (nf_stream_encode (stream, &view, NULL, z, &score, NULL, &error));
      g_autoptr (GstBuffer) latents = encode (h, frame);
      GstCustomMeta *meta = gst_buffer_get_custom_meta (latents, "GstFlowScoreMeta");
      assert_true (gst_structure_get_double (gst_custom_meta_get_structure (meta), "bits-per-dim", &bits));
      assert_true (bits == score.bits_per_dim);
      assert_int_equal (gst_buffer_memcmp (latents, 0, z, sizeof z), 0);
    }
  gst_harness_teardown (h);
}

static void
assert_pipeline_fails (const char *line, const char *part)
{
  g_autoptr (GError) error = NULL;
  GstElement *pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
  assert_non_null (message);
  assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_ERROR);
  g_autoptr (GError) said = NULL;
  g_autofree char *debug = NULL;
  gst_message_parse_error (message, &said, &debug);
  if (!strstr (said->message, part))
    fail_msg ("%s: wanted \"%s\", got %s", line, part, said->message);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
}

static void
test_refusals (void **state)
{
  g_autofree char *digest = g_strdup_printf (
      "videotestsrc num-buffers=3 ! video/x-raw,width=%d,height=%d ! videoconvert ! flowencode model=%s ! "
      "flowdecode model=%s ! fakesink",
      WIDTH, HEIGHT, video_model, other_model);
  assert_pipeline_fails (digest, "the latents are of the model");
  static const char *const forms[][2]
      = { { "video/x-flow-latent,latent-format=F16LE", "latent-format F32LE, but F16LE is wanted" },
          { "other/tensors", "video/x-flow-latent, but other/tensors is wanted" } };
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    {
      g_autofree char *form = g_strdup_printf (
          "videotestsrc num-buffers=3 ! video/x-raw,width=%d,height=%d ! videoconvert ! flowencode name=flow "
          "model=%s ! %s ! fakesink",
          WIDTH, HEIGHT, video_model, forms[i][0]);
      fixture_assert_unwanted (form, forms[i][1], "latents that the model makes");
    }
  g_autofree char *denoise = g_strdup_printf (
      "videotestsrc num-buffers=3 ! videoconvert ! flowdenoise sigma=0.1 model=%s ! fakesink", video_model);
  assert_pipeline_fails (denoise, "videos");

  /* another size: a warning that says what to do, and with videoscale it works by itself */
  g_autoptr (GError) error = NULL;
  g_autofree char *size = g_strdup_printf (
      "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! videoconvert ! flowencode model=%s ! "
      "fakesink",
      video_model);
  GstElement *pipeline = gst_parse_launch (size, &error);
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) warning = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_WARNING);
  assert_non_null (warning);
  g_autoptr (GError) said = NULL;
  gst_message_parse_warning (warning, &said, NULL);
  assert_non_null (strstr (said->message, "12x8"));
  g_autoptr (GstMessage) failed = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_ERROR);
  assert_non_null (failed);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);

  g_autofree char *scaled = g_strdup_printf (
      "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! videoconvert ! videoscale ! flowencode "
      "model=%s ! flowdecode model=%s ! fakesink",
      video_model, video_model);
  pipeline = gst_parse_launch (scaled, &error);
  assert_no_error (error);
  g_autoptr (GstBus) other = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) end
      = gst_bus_timed_pop_filtered (other, 60 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
  assert_non_null (end);
  assert_int_equal (GST_MESSAGE_TYPE (end), GST_MESSAGE_EOS);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
}

/* A decoder that is to keep up ends a frame early once a sink says that no time is left for it, and says so.
 */
static void
test_keep_up (void **state)
{
  GstHarness *encoder = harness_new ("flowencode", video_model),
             *decoder = harness_new ("flowdecode", video_model);
  g_autoptr (GstBus) bus = gst_bus_new ();
  gst_element_set_bus (decoder->element, bus);
  g_object_set (decoder->element, "keep-up", TRUE, NULL);
  set_video_caps (encoder);
  for (guint n = 0; n < 6; n++)
    {
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, decoder);
      if (n == 3)
        gst_harness_push_upstream_event (
            decoder, gst_event_new_qos (GST_QOS_TYPE_OVERFLOW, 1, 0, 3 * 40 * GST_MSECOND));
      assert_int_equal (gst_harness_push (decoder, latents), GST_FLOW_OK);
      g_autoptr (GstBuffer) frame = gst_harness_pull (decoder);
      if (n < 3)
        assert_frame (frame, n);
      g_autoptr (GstStructure) told = fixture_pop_element_message (bus, "flow-residual");
      g_autoptr (GstMessage) qos = gst_bus_pop_filtered (bus, GST_MESSAGE_QOS);
      if (n == 3)
        {
          gint quality = 0;
          guint64 processed = 0, dropped = 0;
          assert_non_null (told);
          assert_non_null (qos);
          gst_message_parse_qos_values (qos, NULL, NULL, &quality);
          gst_message_parse_qos_stats (qos, NULL, &processed, &dropped);
          assert_true (quality > 0 && quality < 1000000);
          assert_true (processed == 4 && dropped == 0);
        }
      else if (n < 3)
        assert_true (told == NULL && qos == NULL);
    }
  gst_element_set_bus (decoder->element, NULL);
  gst_harness_teardown (encoder);
  gst_harness_teardown (decoder);
}

/* Continuation */

/* What an appsink gets of a pipeline until its end. */
static GPtrArray *
run (GstElement *pipeline)
{
  GPtrArray *buffers = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  GstSample *sample;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  while ((sample = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 60 * GST_SECOND)))
    {
      g_ptr_array_add (buffers, gst_buffer_ref (gst_sample_get_buffer (sample)));
      gst_sample_unref (sample);
    }
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  if (message)
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_error (message, &error, NULL);
      fail_msg ("%s", error->message);
    }
  assert_true (gst_app_sink_is_eos (GST_APP_SINK (sink)));
  gst_element_set_state (pipeline, GST_STATE_NULL);
  return buffers;
}

/* Demuxers of files say where they end. */
static GstPadProbeReturn
end_segment (GstPad *pad, GstPadProbeInfo *info, gpointer frames)
{
  GstEvent *event = GST_PAD_PROBE_INFO_EVENT (info);
  GstSegment segment;
  if (GST_EVENT_TYPE (event) != GST_EVENT_SEGMENT)
    return GST_PAD_PROBE_OK;
  gst_event_copy_segment (event, &segment);
  segment.stop = GPOINTER_TO_UINT (frames) * 40 * GST_MSECOND;
  GST_PAD_PROBE_INFO_DATA (info) = gst_event_new_segment (&segment);
  gst_event_unref (event);
  return GST_PAD_PROBE_OK;
}

/* FRAMES real frames to flowsample with PROPERTIES; what comes out, as video or, if not DECODED, as latents.
 */
static GPtrArray *
splice (guint frames, const char *properties, gboolean decoded)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *line = g_strdup_printf (
      "appsrc name=src format=time caps=video/x-raw,format=RGB,width=%d,height=%d,framerate=25/1 ! "
      "flowencode "
      "model=%s ! flowsample name=sample model=%s %s ! %s%s%s appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model, properties, decoded ? "flowdecode model=" : "",
      decoded ? video_model : "", decoded ? " !" : "");
  g_autoptr (GstElement) pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GstElement) src = gst_bin_get_by_name (GST_BIN (pipeline), "src");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (src, "src");
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, end_segment, GUINT_TO_POINTER (frames), NULL);
  for (guint n = 0; n < frames; n++)
    {
      GstBuffer *frame = frame_new (n);
      attach_action (frame, 1);
      assert_int_equal (gst_app_src_push_buffer (GST_APP_SRC (src), frame), GST_FLOW_OK);
    }
  gst_app_src_end_of_stream (GST_APP_SRC (src));
  return run (pipeline);
}

/* The real past comes back in every byte, then the future that the library draws. */
static void
test_continuation (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  g_autoptr (NfModel) model = nf_model_load (video_model, device, NULL, NULL, NULL, &error);
  assert_no_error (error);
  g_autoptr (NfStream) stream = nf_stream_new (model, &error);
  g_autoptr (GPtrArray) buffers = splice (7, "seed=3 temperature=0.9 horizon=9 action=2", TRUE);

  assert_int_equal (buffers->len, 16);
  for (guint n = 0; n < buffers->len; n++)
    {
      static const float vectors[][ACTIONS] = { { 0, 1, 0 }, { 0, 0, 1 } };
      float z[LATENTS];
      guint8 samples[LATENTS];
      NfFrame view = { .width = WIDTH, .height = HEIGHT };
      GstBuffer *buffer = g_ptr_array_index (buffers, n);
      const float *action = n == 0 ? NULL : vectors[n > 7]; /* what was done at the frame before */
      for (guint i = 0; i < 3; i++)
        view.planes[i] = (NfPlane){ samples + i, 3 * WIDTH, 3 };
      assert_int_equal (GST_BUFFER_PTS (buffer), n * 40 * GST_MSECOND);
      gst_buffer_extract (buffer, 0, samples, sizeof samples);
      if (n < 7)
        {
          assert_frame (buffer, n);
          assert_true (nf_stream_encode (stream, &view, action, z, NULL, NULL, &error));
          continue;
        }
      g_autofree guint8 *got = g_memdup2 (samples, sizeof samples);
      nf_stream_sample (stream, 3, n - 7, 0.9, action, NULL, NULL, &view, &error);
      assert_no_error (error);
      assert_memory_equal (samples, got, sizeof samples);
    }
}

/* The latents: real ones pass as they are, numbers go on, the last real action leads to the first drawn
 * frame.
 */
static void
test_splicing (void **state)
{
  g_autoptr (GPtrArray) plain = splice (6, "horizon=0", FALSE);
  assert_int_equal (plain->len, 6);
  g_autoptr (GPtrArray) buffers = splice (6, "horizon=4 after=3 action=2 seed=1", FALSE);
  assert_int_equal (buffers->len, 7);
  for (guint n = 0; n < buffers->len; n++)
    {
      float action[ACTIONS];
      gint told;
      GstBuffer *buffer = g_ptr_array_index (buffers, n);
      GstMapInfo map;
      assert_int_equal (read_tail (buffer, action), n);
      assert_int_equal (is_key (buffer), n == 0);
      assert_true (action[1] == (n >= 1 && n <= 3 ? 1.0f : 0.0f));
      assert_true (action[2] == (n > 3 ? 1.0f : 0.0f));
      GstCustomMeta *meta = gst_buffer_get_custom_meta (buffer, "GstFlowActionMeta");
      assert_true (gst_structure_get_int (gst_custom_meta_get_structure (meta), "action", &told));
      assert_int_equal (told, n < 3 ? 1 : 2);
      gst_buffer_map (g_ptr_array_index (plain, MIN (n, 5)), &map, GST_MAP_READ);
      assert_int_equal (gst_buffer_memcmp (buffer, 0, map.data, LATENTS * sizeof (float)) == 0, n < 3);
      gst_buffer_unmap (g_ptr_array_index (plain, MIN (n, 5)), &map);
    }
}

static GstPadProbeReturn
note_key_request (GstPad *pad, GstPadProbeInfo *info, gpointer asked)
{
  if (gst_video_event_is_force_key_unit (GST_PAD_PROBE_INFO_EVENT (info)))
    g_atomic_int_inc ((gint *)asked);
  return GST_PAD_PROBE_OK;
}

/* Told to predict, and to stop: real frames go on with a key frame, and the one before it is dropped. */
static void
test_told (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *line = g_strdup_printf (
      "appsrc name=src format=time max-buffers=1 block=true "
      "caps=video/x-raw,format=RGB,width=%d,height=%d,framerate=25/1 ! flowencode model=%s ! flowsample "
      "name=sample model=%s horizon=100 ! flowdecode model=%s ! appsink name=sink sync=false max-buffers=1",
      WIDTH, HEIGHT, video_model, video_model, video_model);
  g_autoptr (GstElement) pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GstElement) src = gst_bin_get_by_name (GST_BIN (pipeline), "src");
  g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), "sink");
  GstVideoInfo info;
  enum
  {
    PREDICT = 7, /* from this frame on, */
    REAL = 15,   /* and not from this one on */
    LENGTH = 24
  };
  gint asked = 0;
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, "sink");
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_EVENT_UPSTREAM, note_key_request, &asked, NULL);
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, WIDTH, HEIGHT);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint n = 0; n < LENGTH; n++)
    {
      if (n == PREDICT)
        g_signal_emit_by_name (sample, "predict");
      if (n == REAL)
        g_object_set (sample, "predict", FALSE, NULL);
      assert_int_equal (gst_app_src_push_buffer (GST_APP_SRC (src), frame_new (n)), GST_FLOW_OK);
      if (n == REAL) /* is not sent, since it was predicted from frames that were not */
        {
          for (guint tries = 0; tries < FIXTURE_TRIES && !g_atomic_int_get (&asked); tries++)
            g_usleep (10000);
          assert_int_equal (g_atomic_int_get (&asked), 1);
          continue;
        }
      g_autoptr (GstSample) pulled = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 60 * GST_SECOND);
      assert_non_null (pulled);
      GstBuffer *buffer = gst_sample_get_buffer (pulled);
      assert_int_equal (GST_BUFFER_PTS (buffer), n * 40 * GST_MSECOND);
      g_autoptr (GstBuffer) expected = frame_new (n);
      GstMapInfo map;
      gst_buffer_map (expected, &map, GST_MAP_READ);
      const gboolean same = gst_buffer_memcmp (buffer, 0, map.data, LATENTS) == 0;
      gst_buffer_unmap (expected, &map);
      assert_int_equal (same, n < PREDICT || n > REAL);
    }
  gst_element_set_state (pipeline, GST_STATE_NULL);
}

/* Without a sink pad: a video from nothing, the same each time; keys become actions. */
static void
test_source (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *line = g_strdup_printf (
      "flowsample name=sample model=%s seed=4 num-buffers=12 action-map=Up=1,Down=2 ! flowdecode model=%s ! "
      "appsink name=sink sync=false",
      video_model, video_model);
  g_autoptr (GstElement) first = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GstElement) second = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GPtrArray) a = run (first), b = run (second);
  assert_int_equal (a->len, 12);
  assert_int_equal (b->len, 12);
  for (guint n = 0; n < a->len; n++)
    {
      GstMapInfo map;
      gst_buffer_map (g_ptr_array_index (b, n), &map, GST_MAP_READ);
      assert_int_equal (gst_buffer_memcmp (g_ptr_array_index (a, n), 0, map.data, map.size), 0);
      gst_buffer_unmap (g_ptr_array_index (b, n), &map);
    }
}

/* A key that goes down before frame t is the action of frame t, and leads to frame t+1; it goes to what is
 * upstream as well. */
static void
test_keys (void **state)
{
  GstHarness *h = harness_new ("flowsample", video_model), *encoder = harness_new ("flowencode", video_model);
  g_object_set (h->element, "action-map", "Up=1,Down=2", "predict", FALSE, "after", (guint64)2, NULL);
  set_video_caps (encoder);
  for (guint n = 0; n < 8; n++)
    {
      float action[ACTIONS];
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, h);
      if (n == 4 || n == 5)
        gst_harness_push_upstream_event (
            h, n == 4 ? gst_navigation_event_new_key_press ("Down", GST_NAVIGATION_MODIFIER_NONE)
                      : gst_navigation_event_new_key_release ("Down", GST_NAVIGATION_MODIFIER_NONE));
      assert_int_equal (gst_harness_push (h, latents), GST_FLOW_OK);
      g_autoptr (GstBuffer) out = gst_harness_pull (h);
      assert_int_equal (read_tail (out, action), n);
      /* down at frame 4 alone: let go before frame 5 was */
      assert_true (action[2] == (n == 5 ? 1.0f : 0.0f) || n < 3);
    }
  gboolean forwarded = FALSE;
  GstEvent *event;
  while ((event = gst_harness_try_pull_upstream_event (h)))
    {
      forwarded |= GST_EVENT_TYPE (event) == GST_EVENT_NAVIGATION;
      gst_event_unref (event);
    }
  assert_true (forwarded);
  gst_harness_teardown (h);
  gst_harness_teardown (encoder);
}

/* A gap in what comes is no frame: the event goes on, and the frames after it. */
static void
test_gap (void **state)
{
  GstHarness *h = harness_new ("flowsample", video_model), *encoder = harness_new ("flowencode", video_model);
  guint gaps = 0;
  g_object_set (h->element, "after", (guint64)3, NULL);
  set_video_caps (encoder);
  for (guint n = 0; n < 6; n++)
    {
      float action[ACTIONS];
      GstBuffer *latents = encode (encoder, frame_new (n));
      if (n == 0)
        connect_caps (encoder, h);
      /* before the first, among real frames, and among drawn ones */
      if (n % 2 == 0)
        assert_true (gst_harness_push_event (h, gst_event_new_gap (n * 40 * GST_MSECOND, 0)));
      assert_int_equal (gst_harness_push (h, latents), GST_FLOW_OK);
      g_autoptr (GstBuffer) out = gst_harness_pull (h);
      assert_non_null (out);
      assert_int_equal (read_tail (out, action), n);
    }
  for (GstEvent *event; (event = gst_harness_try_pull_event (h)); gst_event_unref (event))
    gaps += GST_EVENT_TYPE (event) == GST_EVENT_GAP;
  assert_int_equal (gaps, 2);
  gst_harness_teardown (h);
  gst_harness_teardown (encoder);
}

/* Scripts */

/* BUFFER is frame N of a clip at 10 frames a second. */
static void
assert_frame_time (GstBuffer *buffer, guint n)
{
  const GstClockTimeDiff off = GST_CLOCK_DIFF (n * 100 * GST_MSECOND, GST_BUFFER_PTS (buffer));
  if (ABS (off) > 2 * (GstClockTimeDiff)GST_MSECOND)
    fail_msg ("frame %u is at %" GST_TIME_FORMAT, n, GST_TIME_ARGS (GST_BUFFER_PTS (buffer)));
}

/* A receiver that is cut off, and one that comes late, get nothing wrong, and miss no more than up to the
 * next key frame. */
static void
test_stream_script (void **state)
{
  enum
  {
    LENGTH = 160 /* at 25 a second: time to join in */
  };
  g_autofree char *clip = make_clip (LENGTH, 10),
                  *port = g_strdup_printf ("%d", 20000 + g_random_int_range (0, 20000));
  g_autofree char *said = run_script ("stream.sh", (const char *[]){ clip, video_model, port, NULL });
  guint sent, first, again, late;
  const char *at = strstr (said, "again: ");
  assert_non_null (at);
  assert_int_equal (sscanf (said, "sent: %u frames\nfirst: %u", &sent, &first), 2);
  assert_int_equal (sscanf (at, "again: %u", &again), 1);
  at = strstr (said, "late: ");
  assert_non_null (at);
  assert_int_equal (sscanf (at, "late: %u", &late), 1);
  assert_int_equal (sent, LENGTH);
  assert_true (first > 0 && again >= 8 && late >= 8 && late <= again);
  /* from a key frame on, to the end */
  assert_int_equal (again % 8, 0);
  assert_int_equal (late % 8, 0);
  assert_non_null (strstr (said, "every frame that arrived is the one that was sent"));
  g_remove (clip);
}

/* A model of pictures continues nothing. */
static void
test_continue_pictures (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *clip = make_clip (4, 10), *out = fixture_path ("pictures.mp4"), *said = NULL,
                  *errors = NULL;
  assert_false (try_script ("continue.sh",
                            (const char *[]){ clip, "normflow-yuv420-32-small", out, "2", NULL }, &said,
                            &errors, &error));
  assert_non_null (strstr (errors, "normflow-yuv420-32-small is a model of pictures"));
  assert_false (g_file_test (out, G_FILE_TEST_EXISTS));
  g_remove (clip);
}

static void
test_continue_script (void **state)
{
  g_autoptr (GError) error = NULL;
  /* names as gst-launch-1.0 would read them otherwise */
  g_autofree char *plain = make_clip (12, 10), *clip = fixture_path ("cl\\i\"p !.mkv"),
                  *actions = g_strconcat (clip, ".actions.ndjson", NULL),
                  *out = fixture_path ("continued.mp4"), *model = fixture_path ("m\\o\"del !.safetensors");
  assert_int_equal (g_rename (plain, clip), 0);
  assert_int_equal (symlink (video_model, model), 0);
  assert_true (g_file_set_contents (actions, "{\"frame\":0,\"pts\":0,\"action\":1}\n", -1, NULL));
  g_autofree char *said = run_script ("continue.sh", (const char *[]){ clip, model, out, "9", NULL });
  assert_non_null (strstr (said, "12 real frames and 9 drawn ones"));

  g_autofree char *line = g_strdup_printf ("filesrc location=%s ! decodebin ! videoconvert ! "
                                           "video/x-raw,format=RGB ! appsink name=sink sync=false",
                                           out);
  g_autoptr (GstElement) pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GPtrArray) frames = run (pipeline);
  /* compositor may end with the last but one */
  assert_in_range (frames->len, 20, 21);
  for (guint n = 0; n < frames->len; n++)
    {
      GstMapInfo map;
      guint64 difference = 0;
      gst_buffer_map (g_ptr_array_index (frames, n), &map, GST_MAP_READ);
      assert_int_equal (map.size, 512 * 608 * 3);
      assert_frame_time (g_ptr_array_index (frames, n), n);
      for (guint y = 0; y < 256; y++)
        for (guint x = 0; x < 256 * 3; x++)
          difference += ABS (map.data[y * 512 * 3 + x] - map.data[y * 512 * 3 + 256 * 3 + x]);
      gst_buffer_unmap (g_ptr_array_index (frames, n), &map);
      /* one past, then futures that differ */
      const double mean = (double)difference / (256 * 256 * 3);
      if (n != 12 && (n < 12 ? mean > 6 : mean < 12))
        fail_msg ("frame %u: two futures differ by %g steps", n, mean);
    }
  g_remove (clip);
}

/* At the rate of the video, whose frames last 33 ms in Matroska; a still picture has none. */
static void
test_continue_rate (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *clip = make_clip (30, 30), *out = fixture_path ("rate.mp4"),
                  *still = fixture_path ("still.png");
  g_free (run_script ("continue.sh", (const char *[]){ clip, video_model, out, "30", NULL }));
  g_autofree char *line = g_strdup_printf ("filesrc location=%s ! decodebin ! videoconvert ! "
                                           "video/x-raw,format=RGB ! appsink name=sink sync=false",
                                           out);
  g_autoptr (GstElement) pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GPtrArray) frames = run (pipeline);
  assert_in_range (frames->len, 59, 60);

  g_autofree char *draw = g_strdup_printf (
      "videotestsrc num-buffers=1 ! video/x-raw,width=48,height=32 ! pngenc ! filesink name=sink location=%s",
      still);
  g_autoptr (GstElement) drawer = gst_parse_launch (draw, &error);
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (drawer);
  gst_element_set_state (drawer, GST_STATE_PLAYING);
  gst_message_unref (fixture_wait (bus, GST_MESSAGE_EOS));
  gst_element_set_state (drawer, GST_STATE_NULL);
  g_remove (out);
  g_autofree char *errors
      = fail_script ("continue.sh", (const char *[]){ still, video_model, out, "2", NULL });
  if (!strstr (errors, "still.png is a still picture"))
    fail_msg ("a still picture: %s", errors);
  assert_false (g_file_test (out, G_FILE_TEST_EXISTS));
}

/* What is read is not written to, and a file has what its name tells. */
static void
test_scripts_of_one_file (void **state)
{
  g_autofree char *clip = make_clip (2, 10), *video = fixture_path ("same.mp4"),
                  *actions = fixture_path ("same.mp4.actions.ndjson"),
                  *lines = fixture_path ("same.mp4.actions.mp4"), *avi = fixture_path ("other.avi"),
                  *none = fixture_path ("none.mp4");
  const struct
  {
    const char *script, *arguments[4], *said;
  } cases[] = {
    { "continue.sh", { video, video_model, video }, "same.mp4 is read" },
    { "continue.sh", { video, video_model, avi }, "other.avi is not called .mp4" },
    { "surprise.sh", { video, video_model, video }, "same.mp4 is read" },
    { "surprise.sh", { video, video_model, lines }, "same.mp4.actions.ndjson is read" },
    { "surprise.sh", { video_model, video_model, none }, "no video in" },
    { "surprise.sh", { video, video_model, avi }, "other.avi is not called .mp4" },
  };
  g_autofree char *before = NULL, *after = NULL;
  gsize size, now;
  assert_int_equal (g_rename (clip, video), 0);
  assert_true (g_file_get_contents (video, &before, &size, NULL));
  assert_true (g_file_set_contents (actions, "{\"frame\":0,\"pts\":0,\"action\":1}\n", -1, NULL));
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *errors = fail_script (cases[i].script, cases[i].arguments);
      if (!strstr (errors, cases[i].said))
        fail_msg ("case %u said: %s", i, errors);
    }
  assert_true (g_file_get_contents (video, &after, &now, NULL));
  assert_int_equal (now, size);
  assert_memory_equal (after, before, size);
  assert_false (g_file_test (lines, G_FILE_TEST_EXISTS) || g_file_test (avi, G_FILE_TEST_EXISTS)
                || g_file_test (none, G_FILE_TEST_EXISTS));
}

/* A still picture that changes: a line for each frame, and the change stands out. */
static void
test_surprise_script (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *clip = fixture_path ("change.mkv"), *out = fixture_path ("surprise.mp4"),
                  *lines = fixture_path ("surprise.ndjson"), *text = NULL;
  g_autofree char *line
      = g_strdup_printf ("concat name=c ! avenc_ffv1 ! matroskamux ! filesink name=sink location=%s "
                         "videotestsrc pattern=smpte num-buffers=30 ! "
                         "video/x-raw,width=48,height=32,framerate=10/1,pixel-aspect-ratio=2/1 ! c. "
                         "videotestsrc pattern=checkers-8 num-buffers=5 ! "
                         "video/x-raw,width=48,height=32,framerate=10/1,pixel-aspect-ratio=2/1 ! c.",
                         clip);
  run_line (line);

  g_autofree char *labels = fixture_path ("labels");
  assert_true (g_file_set_contents (labels, "# seen\nsurprising 30 31\nusual 12 29\n", -1, NULL));
  g_autofree char *said
      = run_script ("surprise.sh", (const char *[]){ clip, video_model, out, labels, NULL });
  assert_non_null (strstr (said, "35 frames"));
  g_file_get_contents (lines, &text, NULL, &error);
  assert_no_error (error);
  g_auto (GStrv) each = g_strsplit (text, "\n", -1);
  double largest = 0, scores[35], area = 0;
  guint at = 0;
  assert_int_equal (g_strv_length (each), 36);
  for (guint n = 0; n < 35; n++)
    {
      guint frame;
      double time, bits, z;
      assert_int_equal (sscanf (each[n],
                                "{\"frame\": %u, \"time\": %lf, \"bits_per_dim\": %lf, \"surprise\": %lf",
                                &frame, &time, &bits, &z),
                        4);
      assert_int_equal (frame, n);
      assert_true (ABS (time - n * 0.1) < 0.01);
      if (n >= 12 && ABS (z) > largest)
        {
          largest = ABS (z);
          at = n;
        }
      scores[n] = bits;
    }
  for (guint high = 30; high < 32; high++)
    for (guint low = 12; low < 30; low++)
      area += (scores[high] > scores[low] ? 1 : scores[high] == scores[low] ? 0.5 : 0) / 36;
  g_autofree char *told
      = g_strdup_printf ("area under the ROC curve: %.4f (2 surprising frames, 18 usual ones)", area);
  if (!strstr (said, told))
    fail_msg ("wanted \"%s\", got %s", told, said);
  assert_int_equal (at, 30);
  assert_true (largest > 3);

  g_autofree char *read
      = g_strdup_printf ("filesrc location=%s ! decodebin ! videoconvert ! "
                         "video/x-raw,format=RGB,pixel-aspect-ratio=2/1 ! appsink name=sink sync=false",
                         out);
  g_autoptr (GstElement) reader = gst_parse_launch (read, &error);
  assert_no_error (error);
  g_autoptr (GPtrArray) frames = run (reader);
  assert_int_equal (frames->len, 35);
  for (guint n = 0; n < frames->len; n++)
    assert_frame_time (g_ptr_array_index (frames, n), n);

  /* what the elements warn of is told */
  g_autofree char *actions = g_strconcat (clip, ".actions.ndjson", NULL), *output = NULL, *warnings = NULL;
  const char *const arguments[] = { clip, video_model, out, NULL };
  assert_true (g_file_set_contents (actions, "{\"frame\":0,\"pts\":0,\"action\":9}\n", -1, NULL));
  assert_true (try_script ("surprise.sh", arguments, &output, &warnings, &error));
  assert_non_null (strstr (warnings, "Action 9: the model knows 0 to"));
  assert_non_null (strstr (warnings, "no recorded actions of frame 1 "));
  g_unlink (actions);

  /* a file that is no video is an error, and soon */
  g_autofree char *program = g_find_program_in_path ("watch-surprise"), *errors = NULL, *nothing = NULL;
  gint status;
  assert_non_null (program);
  assert_true (g_spawn_sync (NULL, (char *[]){ program, video_model, video_model, out, NULL }, NULL,
                             G_SPAWN_DEFAULT, NULL, NULL, &nothing, &errors, &status, &error));
  assert_false (g_spawn_check_wait_status (status, NULL));
  assert_string_equal (nothing, "");
  assert_non_null (strstr (errors, "watch-surprise: "));
  g_autofree char *script
      = g_build_filename (g_getenv ("G_TEST_SRCDIR"), "..", "pipelines", "surprise.sh", NULL),
      *failure = NULL;
  g_unlink (lines);
  assert_true (g_spawn_sync (NULL, (char *[]){ script, video_model, video_model, out, NULL }, NULL,
                             G_SPAWN_DEFAULT, NULL, NULL, NULL, &failure, &status, &error));
  assert_false (g_spawn_check_wait_status (status, NULL));
  assert_false (g_file_test (lines, G_FILE_TEST_EXISTS));
}

/* Scores that hardly differ are as many deviations apart as others: what is said is that of the bits. */
static void
test_surprise_of_small_scores (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *clip = fixture_path ("small.mkv"), *out = fixture_path ("small.mp4"), *text = NULL;
  g_autofree char *line = g_strdup_printf (
      "flowtestsrc pattern=bounce seed=5 num-buffers=40 ! "
      "video/x-raw,format=RGB,width=64,height=64 ! videoconvert ! avenc_ffv1 ! matroskamux ! "
      "filesink name=sink location=%s",
      clip);
  g_autofree char *program = g_find_program_in_path ("watch-surprise"), *warnings = NULL;
  gint status;
  run_line (line);
  assert_non_null (program);
  assert_true (g_spawn_sync (NULL, (char *[]){ program, clip, "normflow-bounce-64", out, NULL }, NULL,
                             G_SPAWN_DEFAULT, NULL, NULL, &text, &warnings, &status, &error));
  if (!g_spawn_check_wait_status (status, &error))
    fail_msg ("%s: %s", error->message, warnings);
  g_auto (GStrv) each = g_strsplit (text, "\n", -1);
  double mean = 0, variance = 0;
  assert_int_equal (g_strv_length (each), 41);
  for (guint n = 0; n < 40; n++)
    {
      double bits, z;
      assert_int_equal (sscanf (each[n],
                                "{\"frame\": %*u, \"time\": %*f, \"bits_per_dim\": %lf, \"surprise\": %lf",
                                &bits, &z),
                        2);
      const double weight = MAX (0.02, 1.0 / (n + 1)), difference = bits - mean;
      const double wanted = n < 8 ? 0 : difference / sqrt (variance);
      if (!(ABS (z - wanted) <= 0.01 * (1 + ABS (wanted))))
        fail_msg ("frame %u: %g deviations, and %g are said", n, wanted, z);
      mean += weight * difference;
      variance = (1 - weight) * (variance + weight * difference * difference);
    }
  assert_true (variance < 1e-4); /* those that this is about */
}

/* On a screen that nobody sees: keys reach the true world, and both worlds are drawn. */
static void
test_play_script (void **state)
{
  static const char *const needed[] = { "Xvfb", "xdotool" };
  g_autoptr (GError) error = NULL;
  for (guint i = 0; i < G_N_ELEMENTS (needed); i++)
    {
      g_autofree char *found = g_find_program_in_path (needed[i]);
      if (!found)
        skip ();
    }
  g_autoptr (GstElementFactory) window = gst_element_factory_find ("ximagesink");
  if (!window)
    skip ();

  /* flowtestsrc's least size */
  NfConfig config = random_video_config ();
  config.img_size = config.rows = config.columns = 16;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  g_autofree char *model = fixture_path ("play.safetensors"), *actions = fixture_path ("actions.ndjson"),
                  *shot = fixture_path ("shot.rgb"), *text = NULL, *pixels = NULL;
  random_model_write_scaled (model, &config, device, 5, RANDOM_VIDEO_SCALE);
  g_autofree char *script = g_build_filename (g_getenv ("G_TEST_SRCDIR"), "..", "pipelines", "play.sh", NULL);
  g_autofree char *said
      = run_script ("../tests/play.sh", (const char *[]){ script, model, actions, shot, NULL });

  /* each key for twenty frames at least, one after the other */
  guint counts[3] = { 0 }, last = 0;
  g_file_get_contents (actions, &text, NULL, &error);
  assert_no_error (error);
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  for (guint i = 0; lines[i] && *lines[i]; i++)
    {
      const char *at = strstr (lines[i], "\"action\":");
      assert_non_null (at);
      const guint action = (guint)g_ascii_strtoull (at + strlen ("\"action\":"), NULL, 10);
      assert_in_range (action, 0, 2);
      counts[action]++;
      if (action > 0)
        {
          assert_true (action >= last);
          last = action;
        }
    }
  assert_true (counts[1] >= 20 && counts[2] >= 20);

  /* left and right something, that is not the same; nothing between and below */
  gsize size;
  g_file_get_contents (shot, &pixels, &size, &error);
  assert_no_error (error);
  assert_int_equal (size, 800 * 600 * 3);
  guint64 left = 0, right = 0, difference = 0;
  for (guint y = 0; y < 320; y++)
    for (guint x = 0; x < 320 * 3; x++)
      {
        const guint8 a = (guint8)pixels[y * 2400 + x], b = (guint8)pixels[y * 2400 + 328 * 3 + x];
        left += a;
        right += b;
        difference += (guint64)ABS ((gint)a - (gint)b);
      }
  assert_true (left > 320 * 320 * 3 * 5 && right > 320 * 320 * 3 * 5 && difference > 320 * 320 * 3 * 20);
  assert_int_equal (pixels[100 * 2400 + 324 * 3], 0);
}

/* Latents are those of the text, and frames come back with it. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  NfConfig config = random_video_config ();
  random_config_see_text (&config, FALSE);
  g_autofree char *model = fixture_path ("seeing-video.safetensors"),
                  *first = fixture_path ("first.safetensors"), *second = fixture_path ("second.safetensors");
  random_model_write_scaled (model, &config, device, 5, RANDOM_VIDEO_SCALE);
  random_text_write (first, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 1);
  random_text_write (second, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 2);
  const char *const texts[] = { first, second, NULL };
  GstHarness *encoders[G_N_ELEMENTS (texts)], *decoders[G_N_ELEMENTS (texts)];
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      encoders[i] = harness_new_of ("flowencode", model, texts[i]);
      decoders[i] = harness_new_of ("flowdecode", model, texts[i]);
      set_video_caps (encoders[i]);
    }
  for (guint n = 0; n < RANDOM_VIDEO_FRAMES + 2; n++)
    {
      GstMapInfo before = GST_MAP_INFO_INIT;
      g_autoptr (GstBuffer) last = NULL;
      for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
        {
          GstBuffer *latents = encode (encoders[i], frame_new (n));
          if (n == 0)
            connect_caps (encoders[i], decoders[i]);
          if (last)
            {
              assert_true (gst_buffer_map (last, &before, GST_MAP_READ));
              assert_true (gst_buffer_memcmp (latents, 0, before.data, LATENTS * sizeof (float)) != 0);
              gst_buffer_unmap (last, &before);
            }
          gst_buffer_replace (&last, latents);
          assert_int_equal (gst_harness_push (decoders[i], latents), GST_FLOW_OK);
          g_autoptr (GstBuffer) got = gst_harness_pull (decoders[i]);
          assert_frame (got, n);
        }
    }
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      gst_harness_teardown (encoders[i]);
      gst_harness_teardown (decoders[i]);
    }
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_round_trip),
    cmocka_unit_test (test_misaligned),
    cmocka_unit_test (test_key_frames),
    cmocka_unit_test (test_loss),
    cmocka_unit_test (test_asks_again),
    cmocka_unit_test (test_text),
    cmocka_unit_test (test_actions),
    cmocka_unit_test (test_scores),
    cmocka_unit_test (test_refusals),
    cmocka_unit_test (test_keep_up),
    cmocka_unit_test (test_continuation),
    cmocka_unit_test (test_splicing),
    cmocka_unit_test (test_told),
    cmocka_unit_test (test_source),
    cmocka_unit_test (test_keys),
    cmocka_unit_test (test_gap),
    cmocka_unit_test (test_joined),
    cmocka_unit_test (test_damaged),
    cmocka_unit_test (test_stream_script),
    cmocka_unit_test (test_continue_script),
    cmocka_unit_test (test_continue_pictures),
    cmocka_unit_test (test_continue_rate),
    cmocka_unit_test (test_scripts_of_one_file),
    cmocka_unit_test (test_surprise_script),
    cmocka_unit_test (test_surprise_of_small_scores),
    cmocka_unit_test (test_play_script),
  };
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  make_models ();
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  g_free (video_model);
  g_free (other_model);
  return failed;
}
