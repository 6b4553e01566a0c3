/* normflow: drawn streams that keep to the clock, are steered, and are joined. SPDX-License-Identifier:
 * LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <gst/app/gstappsink.h>
#include <gst/app/gstappsrc.h>
#include <gst/controller/gstdirectcontrolbinding.h>
#include <gst/controller/gstinterpolationcontrolsource.h>
#include <gst/video/navigation.h>
#include <gst/video/video-event.h>
#include <malloc.h>
#include <math.h>

#define WIDTH RANDOM_VIDEO_WIDTH
#define HEIGHT RANDOM_VIDEO_HEIGHT
#define ACTIONS RANDOM_VIDEO_ACTIONS
#define BYTES (WIDTH * HEIGHT * 3)
#define FRAME (100 * GST_MSECOND)

static char *video_model, *noisy_model, *ahead_model, *other_model, *controls_model;

static NfConfig
make_config (gboolean noisy, guint ahead)
{
  NfConfig config = random_video_config ();
  if (noisy)
    {
      config.noise = NF_NOISE_GAUSSIAN;
      config.noise_std = 0.1;
      config.denoiser_layers = 1;
      config.width = 64; /* no fewer features than a token has values: it is asked */
      config.temporal_causal = 1 + ahead;
    }
  return config;
}

static void
make_model (char **path, const char *name, gboolean noisy, guint ahead, guint64 seed)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  NfConfig config = make_config (noisy, ahead);
  config.controls = path == &controls_model;
  *path = fixture_path (name);
  random_model_write_scaled (*path, &config, device, seed, RANDOM_VIDEO_SCALE);
}

static GstElement *
get (GstElement *pipeline, const char *name)
{
  GstElement *element = gst_bin_get_by_name (GST_BIN (pipeline), name);
  assert_non_null (element);
  return element;
}

/* The next buffer of the appsink "sink"; NULL at the end. */
static GstBuffer *
pull (GstElement *pipeline)
{
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstSample) sample = gst_app_sink_try_pull_sample (GST_APP_SINK (sink), 30 * GST_SECOND);
  if (sample)
    return gst_buffer_ref (gst_sample_get_buffer (sample));
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  if (message)
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_error (message, &error, NULL);
      fail_msg ("%s", error->message);
    }
  return NULL;
}

/* The same at TIME of CLOCK. */
static GstBuffer *
pull_at (GstElement *pipeline, GstTestClock *clock, GstClockTime time)
{
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstSample) sample = fixture_pull_at (clock, GST_APP_SINK (sink), time);
  return sample ? gst_buffer_ref (gst_sample_get_buffer (sample)) : NULL;
}

static void
assert_waits (GstElement *pipeline, GstTestClock *clock, GstClockTime time)
{
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  fixture_assert_waits (clock, GST_APP_SINK (sink), time);
}

static gboolean
same (GstBuffer *a, GstBuffer *b)
{
  GstMapInfo map;
  gst_buffer_map (b, &map, GST_MAP_READ);
  const gboolean result
      = gst_buffer_get_size (a) == map.size && gst_buffer_memcmp (a, 0, map.data, map.size) == 0;
  gst_buffer_unmap (b, &map);
  return result;
}

/* Warnings with PART, and with OTHER, that are on BUS. */
static void
count_warnings (GstBus *bus, const char *part, guint *n, const char *other, guint *m)
{
  GstMessage *message;
  *n = *m = 0;
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING)))
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_warning (message, &error, NULL);
      *n += strstr (error->message, part) != NULL;
      *m += strstr (error->message, other) != NULL;
      gst_message_unref (message);
    }
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

static guint64
count_dropped (GstElement *element)
{
  g_autoptr (GstStructure) stats = NULL;
  guint64 dropped = G_MAXUINT64;
  g_object_get (element, "stats", &stats, NULL);
  gst_structure_get_uint64 (stats, "dropped", &dropped);
  return dropped;
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

static GstHarness *
decoder_new (const char *model, GstCaps *caps)
{
  GstElement *made = gst_element_factory_make ("flowdecode", NULL);
  g_object_set (made, "model", model, NULL);
  GstHarness *h = gst_harness_new_with_element (made, "sink", "src");
  gst_object_unref (made);
  gst_harness_set_src_caps (h, gst_caps_ref (caps));
  return h;
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

static void
assert_fails (GstElement *pipeline, const char *part)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, 30 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
  g_autoptr (GError) error = NULL;
  assert_non_null (message);
  assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_ERROR);
  gst_message_parse_error (message, &error, NULL);
  if (!strstr (error->message, part))
    fail_msg ("wanted \"%s\", got %s", part, error->message);
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

/* The vector behind the latents of BUFFER. */
static void
read_vector (GstBuffer *buffer, float *vector)
{
  assert_int_equal (gst_buffer_get_size (buffer), (BYTES + ACTIONS) * sizeof (float) + 2 * sizeof (guint32));
  gst_buffer_extract (buffer, BYTES * sizeof (float), vector, ACTIONS * sizeof (float));
}

static void
attach_controls (GstBuffer *buffer, guint n, double first)
{
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, "GstFlowActionMeta");
  g_auto (GValue) array = G_VALUE_INIT;
  g_value_init (&array, GST_TYPE_ARRAY);
  for (guint i = 0; i < n; i++)
    {
      GValue number = G_VALUE_INIT;
      g_value_init (&number, G_TYPE_DOUBLE);
      g_value_set_double (&number, first + i);
      gst_value_array_append_and_take_value (&array, &number);
    }
  gst_structure_set_value (gst_custom_meta_get_structure (meta), "controls", &array);
}

static void
attach_action (GstBuffer *buffer, gint number)
{
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, "GstFlowActionMeta");
  gst_structure_set (gst_custom_meta_get_structure (meta), "action", G_TYPE_INT, number, NULL);
}

/* An encoder of the video model's frames, with what it says on BUS. ACTIONS: of a file, or NULL. */
static GstHarness *
new_encoder (GstBus *bus, const char *actions, GstVideoInfo *info)
{
  GstElement *made = gst_element_factory_make ("flowencode", NULL);
  g_object_set (made, "model", video_model, "actions-location", actions, NULL);
  GstHarness *h = gst_harness_new_with_element (made, "sink", "src");
  gst_object_unref (made);
  gst_element_set_bus (h->element, bus);
  fixture_video (info, GST_VIDEO_FORMAT_RGB, WIDTH, HEIGHT);
  GstCaps *caps = gst_video_info_to_caps (info);
  gst_caps_set_simple (caps, "framerate", GST_TYPE_FRACTION, 25, 1, NULL);
  gst_harness_set_src_caps (h, caps);
  return h;
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

/* Frames of a video that are late are encoded and decoded all the same, since the next ones need them; those
 * that are over once they are decoded do not come out, and are counted. */
static void
test_late_video (void **state)
{
  enum
  {
    LENGTH = 8
  };
  guint over = 0;
  GstVideoInfo info;
  g_autoptr (GstBus) bus = gst_bus_new ();
  GstHarness *encoder = new_encoder (bus, NULL, &info), *in_time = NULL, *late = NULL;
  g_object_set (encoder->element, "qos", TRUE, NULL);
  for (guint n = 0; n < LENGTH; n++)
    {
      GstBuffer *frame = fixture_frame (&info, n, FALSE);
      GST_BUFFER_PTS (frame) = n * 40 * GST_MSECOND;
      GST_BUFFER_DURATION (frame) = 40 * GST_MSECOND;
      if (n == 3)
        gst_harness_push_upstream_event (
            encoder, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 40 * GST_MSECOND, 2 * 40 * GST_MSECOND));
      GstBuffer *latents = gst_harness_push_and_pull (encoder, frame);
      if (n == 0)
        {
          g_autoptr (GstCaps) caps = gst_pad_get_current_caps (encoder->sinkpad);
          in_time = decoder_new (video_model, caps);
          late = decoder_new (video_model, caps);
        }
      if (n == 3) /* frames before 3 + 2 * 1 + 1 are late */
        gst_harness_push_upstream_event (
            late, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, 40 * GST_MSECOND, 2 * 40 * GST_MSECOND));
      assert_int_equal (gst_harness_push (late, gst_buffer_ref (latents)), GST_FLOW_OK);
      g_autoptr (GstBuffer) wanted = gst_harness_push_and_pull (in_time, latents),
                            got = gst_harness_try_pull (late);
      /* newer base classes let frame 4 out, which is not over yet */
      assert_true (got ? n != 3 && same (got, wanted) : n == 3 || n == 4);
      over += got == NULL;
    }
  g_autoptr (GstStructure) stats = NULL;
  guint64 frames = 0, dropped = 0;
  g_object_get (late->element, "stats", &stats, NULL);
  gst_structure_get (stats, "frames", G_TYPE_UINT64, &frames, "dropped", G_TYPE_UINT64, &dropped, NULL);
  assert_int_equal (frames, LENGTH);
  assert_int_equal (dropped, over);
  gst_element_set_bus (encoder->element, NULL);
  gst_harness_teardown (encoder);
  gst_harness_teardown (in_time);
  gst_harness_teardown (late);
}

/* Continuous controls of frame t go with frame t+1; another number of them than the model's is told once. */
static void
test_controls_of_video (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstBus) bus = gst_bus_new ();
  GstHarness *h = new_encoder (bus, NULL, &info);
  for (guint n = 0; n < 6; n++)
    {
      float vector[ACTIONS];
      GstBuffer *frame = fixture_frame (&info, n, FALSE);
      attach_controls (frame, n < 3 ? ACTIONS : ACTIONS + 1, n - 0.25);
      assert_int_equal (gst_harness_push (h, frame), GST_FLOW_OK);
      g_autoptr (GstBuffer) latents = gst_harness_pull (h);
      read_vector (latents, vector);
      for (guint i = 0; i < ACTIONS; i++)
        assert_true (vector[i] == (n >= 1 && n <= 3 ? (float)(n - 1 - 0.25 + i) : 0.0f));
    }
  guint told, other;
  count_warnings (bus, "4 controls: the model takes 3", &told, "another", &other);
  assert_int_equal (told, 1);
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

/* So are controls that are no numbers, and an action below all. */
static void
test_wrong_actions (void **state)
{
  for (guint i = 0; i < 2; i++)
    {
      GstVideoInfo info;
      g_autoptr (GstBus) bus = gst_bus_new ();
      GstHarness *h = new_encoder (bus, NULL, &info);
      for (guint n = 0; n < 3; n++)
        {
          float vector[ACTIONS];
          GstBuffer *frame = fixture_frame (&info, n, FALSE);
          if (i == 0)
            attach_controls (frame, ACTIONS, (double)NAN);
          else
            attach_action (frame, -7);
          assert_int_equal (gst_harness_push (h, frame), GST_FLOW_OK);
          g_autoptr (GstBuffer) latents = gst_harness_pull (h);
          read_vector (latents, vector);
          assert_true (vector[0] == 0 && vector[1] == 0 && vector[2] == 0);
        }
      guint controls_told, action_told;
      count_warnings (bus, "0 controls that are finite numbers", &controls_told, "Action -7", &action_told);
      assert_int_equal (controls_told, i == 0);
      assert_int_equal (action_told, i == 1);
      gst_element_set_bus (h->element, NULL);
      gst_harness_teardown (h);
    }
}

/* Drawn frames are led by the property, or by the pointer. */
static void
test_controls_of_samples (void **state)
{
  for (guint pointer = 0; pointer < 2; pointer++)
    {
      g_autofree char *line = g_strdup_printf (
          "flowsample name=sample model=%s num-buffers=4 controls=\"<0.5,-1,2.25>\" pointer=%s ! "
          "appsink name=sink sync=false max-buffers=1",
          video_model, pointer ? "true" : "false");
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) sink = get (pipeline, "sink"), sample = get (pipeline, "sample");
      g_auto (GValue) value = G_VALUE_INIT;
      g_value_init (&value, GST_TYPE_ARRAY);
      g_object_get_property (G_OBJECT (sample), "controls", &value);
      assert_int_equal (gst_value_array_get_size (&value), 3);
      gst_element_set_state (pipeline, GST_STATE_PAUSED);
      gst_element_get_state (pipeline, NULL, NULL, 20 * GST_SECOND);
      /* a quarter of the way from the left, at the bottom */
      gst_element_send_event (
          sink, gst_navigation_event_new_mouse_move (WIDTH / 4.0, HEIGHT, GST_NAVIGATION_MODIFIER_NONE));
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      GstBuffer *buffer;
      for (guint n = 0; (buffer = pull (pipeline)); n++)
        {
          float vector[ACTIONS];
          GstCustomMeta *meta = gst_buffer_get_custom_meta (buffer, "GstFlowActionMeta");
          const GValue *told = gst_structure_get_value (gst_custom_meta_get_structure (meta), "controls");
          assert_int_equal (gst_value_array_get_size (told), ACTIONS);
          read_vector (buffer, vector);
          gst_buffer_unref (buffer);
          if (n == 0)
            assert_true (vector[0] == 0 && vector[1] == 0 && vector[2] == 0);
          else if (!pointer)
            assert_true (vector[0] == 0.5f && vector[1] == -1.0f && vector[2] == 2.25f);
          else if (n == 3) /* those before were drawn before it moved, perhaps */
            assert_true (vector[0] == -0.5f && vector[1] == 1.0f && vector[2] == 2.25f);
        }
      fixture_stop (pipeline);
    }
}

/* Control sources drive controls one by one, at the time of each frame; those that none drives are 0. */
static void
test_controlled (void **state)
{
  enum
  {
    LENGTH = 12
  };
  g_autofree char *line = g_strdup_printf ("flowsample name=sample model=%s num-buffers=%d ! "
                                           "video/x-flow-latent,framerate=10/1 ! "
                                           "appsink name=sink sync=false max-buffers=1",
                                           video_model, LENGTH);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  static const char *const names[] = { "control-0", "control-1" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autoptr (GstControlSource) source = gst_interpolation_control_source_new ();
      GstTimedValueControlSource *points = GST_TIMED_VALUE_CONTROL_SOURCE (source);
      g_object_set (source, "mode", GST_INTERPOLATION_MODE_LINEAR, NULL);
      gst_timed_value_control_source_set (points, 0, 0);
      gst_timed_value_control_source_set (points, 10 * FRAME, i ? -5 : 10);
      gst_timed_value_control_source_set (points, 20 * FRAME, i ? -5 : 10);
      assert_true (gst_object_add_control_binding (
          GST_OBJECT (sample),
          gst_direct_control_binding_new_absolute (GST_OBJECT (sample), names[i], source)));
    }
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GstBuffer *buffer;
  guint n = 0;
  for (; (buffer = pull (pipeline)); n++)
    {
      float vector[ACTIONS];
      read_vector (buffer, vector);
      gst_buffer_unref (buffer);
      const float along = n == 0 ? 0 : (float)MIN (n - 1, 10);
      assert_float_equal (vector[0], along, 1e-5);
      assert_float_equal (vector[1], -0.5f * along, 1e-5);
      assert_true (vector[2] == 0);
    }
  assert_int_equal (n, LENGTH);
  double last = 0;
  g_object_get (sample, "control-0", &last, NULL);
  assert_float_equal (last, 10, 1e-5);
  /* one by one from a launch line, too */
  gst_util_set_object_arg (G_OBJECT (sample), "control-2", "-0.25");
  g_auto (GValue) value = G_VALUE_INIT;
  g_value_init (&value, GST_TYPE_ARRAY);
  g_object_get_property (G_OBJECT (sample), "controls", &value);
  assert_int_equal (gst_value_array_get_size (&value), 3);
  assert_float_equal (g_value_get_double (gst_value_array_get_value (&value, 2)), -0.25, 1e-6);
  fixture_stop (pipeline);
}

/* What is done is written down, a line for each frame: of real ones what they bring, then what is done here.
 */
static void
test_recorded (void **state)
{
  g_autofree char *path = fixture_path ("clip.mkv.actions.ndjson");
  for (guint controls = 0; controls < 2; controls++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *line = g_strdup_printf (
          "flowtestsrc pattern=pong action=2 num-buffers=5 ! video/x-raw,format=RGB,width=%d,height=%d,"
          "framerate=10/1 ! videoscale ! flowencode model=%s ! flowsample model=%s horizon=4 action=1 "
          "record-actions=%s ! "
          "appsink name=sink sync=false",
          2 * WIDTH, 2 * HEIGHT, video_model, video_model, path);
      if (controls)
        {
          g_free (line);
          line = g_strdup_printf (
              "flowsample model=%s num-buffers=9 controls=\"<0.5,-1,2.25>\" record-actions=%s ! "
              "video/x-flow-latent,framerate=10/1 ! appsink name=sink sync=false",
              video_model, path);
        }
      GstElement *pipeline = fixture_launch (line);
      GstBuffer *buffer;
      guint n = 0, n_controls = 0;
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      for (; (buffer = pull (pipeline)); n++)
        gst_buffer_unref (buffer);
      assert_int_equal (n, 9);
      fixture_stop (pipeline);
      assert_int_equal (nf_actions_has_controls (path), controls);
      g_autoptr (GArray) read = controls ? nf_actions_read_controls (path, &n_controls, &error)
                                         : nf_actions_read (path, 3, &error);
      assert_no_error (error);
      assert_int_equal (read->len, controls ? 9 * ACTIONS : 9);
      for (guint i = 0; i < 9; i++)
        if (controls)
          assert_true (g_array_index (read, float, i *ACTIONS) == 0.5f
                       && g_array_index (read, float, i *ACTIONS + 2) == 2.25f);
        else
          assert_int_equal (g_array_index (read, guint, i), i < 5 ? 2 : 1);
    }
}

/* Of a file, frame by frame: what an action means to a model of actions, and to one of controls, which rest
 * at 0; with a frame rate and without one. */
static void
test_actions_of_a_file (void **state)
{
  static const guint done[] = { 1, 0, 2, 0, 1, 1 };
  g_autofree char *path = fixture_path ("some.actions.ndjson");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfActionsWriter) writer = nf_actions_writer_open (path, &error);
  for (guint t = 0; t < G_N_ELEMENTS (done); t++)
    assert_true (nf_actions_writer_put (writer, t * FRAME, done[t], &error));
  assert_true (nf_actions_writer_close (writer, &error));
  for (guint i = 0; i < 4; i++)
    {
      const gboolean controls = i % 2;
      g_autofree char *line = g_strdup_printf (
          "videotestsrc num-buffers=6 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! %s "
          "flowencode model=%s actions-location=%s ! appsink name=sink sync=false",
          WIDTH, HEIGHT, i < 2 ? "" : "capssetter caps=video/x-raw,framerate=0/1 !",
          controls ? controls_model : video_model, path);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      guint n = 0;
      for (GstBuffer *buffer; (buffer = pull (pipeline)); n++)
        {
          float vector[ACTIONS];
          read_vector (buffer, vector);
          gst_buffer_unref (buffer);
          for (guint k = 0; k < ACTIONS; k++)
            assert_true (vector[k] == (n > 0 && done[n - 1] == k && (k > 0 || !controls)));
        }
      assert_int_equal (n, 6);
      assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING));
      fixture_stop (pipeline);
    }
}

static GstPadProbeReturn
set_control (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  g_autoptr (GstElement) sample = gst_pad_get_parent_element (pad);
  if (GST_BUFFER_OFFSET (GST_PAD_PROBE_INFO_BUFFER (info)) == 2)
    g_object_set (sample, "control-1", -0.5, NULL);
  return GST_PAD_PROBE_OK;
}

/* Controls that are first set while frames are drawn: before, they rested, for the model and in the file. */
static void
test_recorded_controls (void **state)
{
  g_autofree char *path = fixture_path ("late.actions.ndjson");
  g_autofree char *line
      = g_strdup_printf ("flowsample name=sample model=%s num-buffers=6 record-actions=%s ! "
                         "appsink name=sink sync=false",
                         controls_model, path);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, "src");
  g_autoptr (GError) error = NULL;
  guint n = 0, n_controls = 0;
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, set_control, NULL, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (GstBuffer *buffer; (buffer = pull (pipeline)); n++)
    {
      float vector[ACTIONS];
      read_vector (buffer, vector);
      gst_buffer_unref (buffer);
      assert_true (vector[0] == 0 && vector[1] == (n > 3 ? -0.5f : 0) && vector[2] == 0);
    }
  assert_int_equal (n, 6);
  fixture_stop (pipeline);
  g_autoptr (GArray) read = nf_actions_read_controls (path, &n_controls, &error);
  assert_no_error (error);
  assert_int_equal (n_controls, ACTIONS);
  assert_int_equal (read->len, 6 * ACTIONS);
  for (guint i = 0; i < 6; i++)
    assert_true (g_array_index (read, float, i *ACTIONS + 1) == (i > 2 ? -0.5f : 0));
}

/* What the model does not take is recorded as it is told: as unknown, which controls say as 0. */
static void
test_recorded_unknown (void **state)
{
  static const char *const done[] = { "controls=\"<0.5,-1>\"", "action=7", "action=-1" };
  g_autofree char *path = fixture_path ("unknown.actions.ndjson");
  for (guint i = 0; i < G_N_ELEMENTS (done); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autofree char *line
          = g_strdup_printf ("flowsample model=%s num-buffers=4 %s record-actions=%s ! "
                             "video/x-flow-latent,framerate=10/1 ! appsink name=sink sync=false",
                             video_model, done[i], path);
      GstElement *pipeline = fixture_launch (line);
      GstBuffer *buffer;
      guint n_controls = 0;
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      while ((buffer = pull (pipeline)))
        gst_buffer_unref (buffer);
      fixture_stop (pipeline);
      g_autoptr (GArray) read = i == 0 ? nf_actions_read_controls (path, &n_controls, &error)
                                       : nf_actions_read (path, ACTIONS, &error);
      assert_no_error (error);
      assert_int_equal (n_controls, i == 0 ? ACTIONS : 0);
      assert_int_equal (read->len, i == 0 ? 4 * ACTIONS : 4);
      for (guint k = 0; k < read->len; k++)
        if (i == 0)
          assert_true (g_array_index (read, float, k) == 0);
        else
          assert_int_equal (g_array_index (read, guint, k), NF_ACTIONS_UNKNOWN);
    }
}

/* The frames of PIPELINE, one after the other. */
static GByteArray *
pull_all (GstElement *pipeline)
{
  GByteArray *all = g_byte_array_new ();
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (GstBuffer *buffer; (buffer = pull (pipeline)); gst_buffer_unref (buffer))
    {
      GstMapInfo map;
      assert_true (gst_buffer_map (buffer, &map, GST_MAP_READ));
      g_byte_array_append (all, map.data, (guint)map.size);
      gst_buffer_unmap (buffer, &map);
    }
  fixture_stop (pipeline);
  return all;
}

/* A clip of which nothing is known, and what was recorded of it told with it: the same frames follow. Told
 * that nothing was done, others do. */
static void
test_retold_unknown (void **state)
{
  static const char nothing_done[] = "{\"frame\":0,\"action\":0}\n{\"frame\":1,\"action\":0}\n"
                                     "{\"frame\":2,\"action\":0}\n{\"frame\":3,\"action\":0}\n";
  const guint frame = WIDTH * HEIGHT * 3, n = 7 * frame;
  g_autofree char *path = fixture_path ("retold.actions.ndjson"), *told = g_strdup ("");
  g_autoptr (GPtrArray) runs = g_ptr_array_new_with_free_func ((GDestroyNotify)g_byte_array_unref);
  for (guint i = 0; i < 3; i++)
    {
      g_autofree char *line = g_strdup_printf (
          "videotestsrc pattern=ball num-buffers=4 ! "
          "video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 "
          "! flowencode model=%s %s ! flowsample model=%s seed=1 temperature=0 action=-1 horizon=3 %s%s ! "
          "flowdecode model=%s ! appsink name=sink sync=false",
          WIDTH, HEIGHT, video_model, told, video_model, i ? "" : "record-actions=", i ? "" : path,
          video_model);
      g_ptr_array_add (runs, pull_all (fixture_launch (line)));
      g_free (told);
      told = g_strconcat ("actions-location=", path, NULL);
      if (i == 1)
        assert_true (g_file_set_contents (path, nothing_done, -1, NULL));
    }
  const GByteArray *clip = runs->pdata[0], *unknown = runs->pdata[1], *nothing = runs->pdata[2];
  assert_true (clip->len == n && unknown->len == n && nothing->len == n);
  assert_memory_equal (clip->data, unknown->data, n);
  assert_memory_equal (clip->data, nothing->data, 4 * frame);
  assert_true (memcmp (clip->data, nothing->data, n) != 0);
}

/* Latents of frames FIRST to LAST, with metas of ACTIONS, unless it is NULL, and the file LOCATION of
 * actions. */
static GPtrArray *
encode_played (guint first, guint last, const char *location, const guint *actions)
{
  GPtrArray *latents = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
  GstVideoInfo info;
  g_autoptr (GstBus) bus = gst_bus_new ();
  GstHarness *harness = new_encoder (bus, location, &info);
  for (guint n = first; n <= last; n++)
    {
      GstBuffer *frame = fixture_frame (&info, n, FALSE);
      GST_BUFFER_PTS (frame) = n * GST_SECOND / 25;
      if (actions)
        attach_action (frame, (gint)actions[n]);
      GstBuffer *out = gst_harness_push_and_pull (harness, frame);
      assert_non_null (out);
      g_ptr_array_add (latents, out);
    }
  gst_element_set_bus (harness->element, NULL);
  gst_harness_teardown (harness);
  return latents;
}

/* Which is the first buffer that differs; their number if none does. */
static guint
find_difference (GPtrArray *a, GPtrArray *b)
{
  guint i = 0;
  assert_int_equal (a->len, b->len);
  while (i < a->len && same (g_ptr_array_index (a, i), g_ptr_array_index (b, i)))
    i++;
  return i;
}

/* Actions of a file are those of metas, also if a video is played from its middle; action t conditions frame
 * t + 1; metas go first; what comes after the file's last one is unknown. */
static void
test_replayed (void **state)
{
  static const guint done[] = { 0, 1, 2, 2, 1, 0 }, other[] = { 0, 1, 2, 1, 1, 0 };
  const guint n = G_N_ELEMENTS (done);
  g_autofree char *recorded = fixture_path ("play.mkv.actions.ndjson");
  g_autoptr (GError) error = NULL;
  {
    g_autoptr (NfActionsWriter) writer = nf_actions_writer_open (recorded, &error);
    for (guint t = 0; t < n; t++)
      assert_true (nf_actions_writer_put (writer, t * FRAME, done[t], &error));
    assert_true (nf_actions_writer_close (writer, &error));
  }
  for (guint first = 0; first <= 2; first += 2)
    {
      g_autoptr (GPtrArray) metas = encode_played (first, n - 1, NULL, done),
                            file = encode_played (first, n - 1, recorded, NULL),
                            both = encode_played (first, n - 1, recorded, other),
                            none = encode_played (first, n - 1, NULL, NULL);
      assert_int_equal (find_difference (metas, file), n - first);
      assert_int_equal (find_difference (metas, both), 4 - first);
      assert_int_equal (find_difference (metas, none), 1);
    }
  g_autoptr (GPtrArray) longer = encode_played (3, n + 2, recorded, NULL);
  GstCustomMeta *meta = gst_buffer_get_custom_meta (g_ptr_array_index (longer, 1), "GstFlowActionMeta");
  gint action = -1;
  assert_non_null (meta);
  assert_true (gst_structure_get_int (gst_custom_meta_get_structure (meta), "action", &action));
  assert_int_equal (action, done[4]);
  assert_null (gst_buffer_get_custom_meta (g_ptr_array_index (longer, 3), "GstFlowActionMeta"));
}

static GstPadProbeReturn
tap_key (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  guint *frames = data;
  if ((*frames)++ == 1)
    {
      gst_pad_send_event (pad, gst_navigation_event_new_key_press ("Down", GST_NAVIGATION_MODIFIER_NONE));
      gst_pad_send_event (pad, gst_navigation_event_new_key_release ("Down", GST_NAVIGATION_MODIFIER_NONE));
    }
  return GST_PAD_PROBE_OK;
}

/* A key that went down and up while real frames came with actions of their own does nothing to drawn ones. */
static void
test_keys_of_real_frames (void **state)
{
  g_autofree char *recorded = fixture_path ("idle.actions.ndjson");
  g_autoptr (GError) error = NULL;
  g_autoptr (NfActionsWriter) writer = nf_actions_writer_open (recorded, &error);
  for (guint t = 0; t < 6; t++)
    assert_true (nf_actions_writer_put (writer, t * FRAME, 0, &error));
  assert_true (nf_actions_writer_close (writer, &error));
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=6 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! flowencode "
      "model=%s actions-location=%s ! flowsample name=sample model=%s horizon=4 action-map=Down=2 ! appsink "
      "name=sink sync=false",
      WIDTH, HEIGHT, video_model, recorded, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, "src");
  guint frames = 0, n = 0;
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, tap_key, &frames, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (GstBuffer *buffer; (buffer = pull (pipeline)); n++)
    {
      float vector[ACTIONS];
      read_vector (buffer, vector);
      gst_buffer_unref (buffer);
      if (n > 6)
        assert_true (vector[0] == 1 && vector[1] == 0 && vector[2] == 0);
    }
  assert_int_equal (n, 10);
  fixture_stop (pipeline);
}

/* What is controlled has its value at the last real frame, too, which leads to the first drawn one. */
static void
test_controlled_real_frames (void **state)
{
  g_autofree char *line = g_strdup_printf (
      "videotestsrc num-buffers=6 ! video/x-raw,format=RGB,width=%d,height=%d,framerate=10/1 ! flowencode "
      "model=%s ! flowsample name=sample model=%s horizon=3 ! appsink name=sink sync=false",
      WIDTH, HEIGHT, video_model, video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  g_autoptr (GstControlSource) source = gst_interpolation_control_source_new ();
  g_object_set (source, "mode", GST_INTERPOLATION_MODE_LINEAR, NULL);
  gst_timed_value_control_source_set (GST_TIMED_VALUE_CONTROL_SOURCE (source), 0, 0);
  gst_timed_value_control_source_set (GST_TIMED_VALUE_CONTROL_SOURCE (source), 10 * FRAME, 10);
  assert_true (gst_object_add_control_binding (
      GST_OBJECT (sample),
      gst_direct_control_binding_new_absolute (GST_OBJECT (sample), "control-0", source)));
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  guint n = 0;
  for (GstBuffer *buffer; (buffer = pull (pipeline)); n++)
    {
      float vector[ACTIONS];
      read_vector (buffer, vector);
      gst_buffer_unref (buffer);
      if (n >= 6)
        {
          assert_float_equal (vector[0], (float)n - 1, 1e-5);
          assert_true (vector[1] == 0 && vector[2] == 0);
        }
    }
  assert_int_equal (n, 9);
  fixture_stop (pipeline);
}

/* A map that is none, keys of actions that the model does not have, and files that cannot be written or read
 * are told at the start; a map while playing is a warning. */
static void
test_bad_settings (void **state)
{
  static const char *const settings[][2] = { { "action-map=Up", "\"Up\" is not a key and its action" },
                                             { "action-map=Up=3", "must be a number of 0 to 2" },
                                             { "record-actions=/nowhere/actions", "cannot be written" } };
  for (guint i = 0; i < 2 * G_N_ELEMENTS (settings); i++)
    {
      const char *const *setting = settings[i / 2];
      g_autofree char *input = g_strdup_printf ("appsrc ! flowencode model=%s !", video_model),
                      *line = g_strdup_printf ("%s flowsample model=%s %s ! fakesink", i % 2 ? input : "",
                                               video_model, setting[0]);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      assert_int_equal (gst_element_set_state (pipeline, GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
      g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
      g_autoptr (GError) error = NULL;
      assert_non_null (message);
      gst_message_parse_error (message, &error, NULL);
      if (!strstr (error->message, setting[1]))
        fail_msg ("%s: %s", setting[0], error->message);
      fixture_stop (pipeline);
    }

  /* latents that the model does not draw */
  static const char *const latents[][2]
      = { { "width=13", "makes: width 12, but 13 is wanted" },
          { "latent-format=F16LE", "makes: latent-format F32LE, but F16LE is wanted" } };
  for (guint i = 0; i < G_N_ELEMENTS (latents); i++)
    {
      g_autofree char *line = g_strdup_printf ("flowsample model=%s ! video/x-flow-latent,%s ! fakesink",
                                               video_model, latents[i][0]);
      GstElement *pipeline = fixture_launch (line);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      assert_fails (pipeline, latents[i][1]);
      fixture_stop (pipeline);
    }

  /* what models of images alone have: from the start an error, while playing a warning */
  static const char *const images[][2] = { { "class", "class 1" }, { "guidance", "guidance 1" } };
  for (guint i = 0; i < 2 * G_N_ELEMENTS (images); i++)
    {
      g_autofree char *line = g_strdup_printf ("flowsample model=%s ! flowdecode name=decode model=%s ! "
                                               "appsink name=sink sync=false max-buffers=1",
                                               video_model, video_model);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) decode = get (pipeline, "decode"), sink = get (pipeline, "sink");
      GstBuffer *buffer = NULL;
      if (i % 2)
        {
          gst_element_set_state (pipeline, GST_STATE_PLAYING);
          buffer = pull (pipeline);
          assert_non_null (buffer);
          gst_buffer_unref (buffer);
        }
      gst_util_set_object_arg (G_OBJECT (decode), images[i / 2][0], "1");
      g_object_set (sink, "drop", TRUE, NULL); /* nothing waits for being pulled */
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      if (i % 2)
        {
          g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
          guint warned, kept;
          count_warnings (bus, images[i / 2][1], &warned, "the one before is kept", &kept);
          assert_int_equal (warned, 1);
          assert_int_equal (kept, 1);
          buffer = pull (pipeline);
          assert_non_null (buffer);
          gst_buffer_unref (buffer);
        }
      else
        assert_fails (pipeline, images[i / 2][1]);
      fixture_stop (pipeline);
    }

  /* a size that the model does not have, with and without videoscale */
  for (guint scaled = 0; scaled < 2; scaled++)
    {
      g_autofree char *sizes = g_strdup_printf (
          "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=%d,height=%d ! %s flowencode model=%s ! "
          "fakesink sync=false",
          WIDTH + 16, HEIGHT, scaled ? "videoscale !" : "", video_model);
      GstElement *sized = fixture_launch (sizes);
      gst_element_set_state (sized, GST_STATE_PLAYING);
      if (!scaled)
        assert_fails (sized, "put videoscale before");
      else
        {
          g_autoptr (GstBus) watched = gst_element_get_bus (sized);
          g_autoptr (GstMessage) end
              = gst_bus_timed_pop_filtered (watched, 30 * GST_SECOND, GST_MESSAGE_ERROR | GST_MESSAGE_EOS);
          assert_non_null (end);
          assert_int_equal (GST_MESSAGE_TYPE (end), GST_MESSAGE_EOS);
        }
      fixture_stop (sized);
    }

  /* a model of videos, where only one of images will do */
  g_autofree char *denoise = g_strdup_printf ("videotestsrc ! flowdenoise model=%s ! fakesink", video_model);
  GstElement *denoiser = fixture_launch (denoise);
  assert_int_equal (gst_element_set_state (denoiser, GST_STATE_READY), GST_STATE_CHANGE_FAILURE);
  assert_fails (denoiser, "flowdenoise needs a model of images");
  fixture_stop (denoiser);

  g_autofree char *unread = g_strdup_printf (
      "videotestsrc ! flowencode model=%s actions-location=/nowhere/actions ! fakesink", video_model);
  GstElement *encoder = fixture_launch (unread);
  g_autoptr (GstBus) said = gst_element_get_bus (encoder);
  gst_element_set_state (encoder, GST_STATE_PAUSED);
  g_autoptr (GstMessage) message = gst_bus_timed_pop_filtered (said, 30 * GST_SECOND, GST_MESSAGE_ERROR);
  g_autoptr (GError) error = NULL;
  assert_non_null (message);
  gst_message_parse_error (message, &error, NULL);
  assert_non_null (strstr (error->message, "/nowhere/actions"));
  fixture_stop (encoder);

  g_autofree char *line
      = g_strdup_printf ("flowsample name=sample model=%s action-map=Up=1 ! fakesink", video_model),
      *map = NULL;
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) sample = get (pipeline, "sample");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  guint told, other;
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  g_object_set (sample, "action-map", "Down=7", NULL);
  g_object_get (sample, "action-map", &map, NULL);
  assert_string_equal (map, "Up=1");
  count_warnings (bus, "the one before is kept", &told, "another", &other);
  assert_int_equal (told, 1);
  fixture_stop (pipeline);
}

/* Behind others, too, what drives properties goes by stream time, which segments say. */
static void
test_controlled_by_stream_time (void **state)
{
  const char *model = fixture_model[MODEL_YUV];
  g_autofree char *line = g_strdup_printf (
      "flowencode model=%s ! flowsample name=sample seed=1 predict=true model=%s", model, model);
  GstHarness *h = gst_harness_new_parse (line);
  g_autoptr (GstElement) sample = get (h->element, "sample");
  g_autoptr (GstControlSource) source = gst_interpolation_control_source_new ();
  GstTimedValueControlSource *points = GST_TIMED_VALUE_CONTROL_SOURCE (source);
  GstVideoInfo info;
  GstSegment segment;
  gst_timed_value_control_source_set (points, 0, 0);
  gst_timed_value_control_source_set (points, 80 * GST_MSECOND, 1);
  gst_object_add_control_binding (GST_OBJECT (sample), gst_direct_control_binding_new_absolute (
                                                           GST_OBJECT (sample), "temperature", source));
  fixture_video (&info, GST_VIDEO_FORMAT_I420, WIDTH, HEIGHT);
  gst_harness_set_src_caps (h, gst_video_info_to_caps (&info));
  gst_segment_init (&segment, GST_FORMAT_TIME);
  segment.start = 10 * GST_SECOND;
  assert_true (gst_harness_push_event (h, gst_event_new_segment (&segment)));
  for (guint n = 0; n < 4; n++)
    {
      GstBuffer *frame = fixture_frame (&info, n, FALSE);
      GST_BUFFER_PTS (frame) += segment.start;
      g_autoptr (GstBuffer) drawn = gst_harness_push_and_pull (h, frame);
      assert_non_null (drawn);
      GstMapInfo map;
      assert_true (gst_buffer_map (drawn, &map, GST_MAP_READ));
      for (gsize i = 0; i < map.size / sizeof (float); i++)
        assert_int_equal (((const float *)(gconstpointer)map.data)[i] == 0, n < 2);
      gst_buffer_unmap (drawn, &map);
    }
  gst_harness_teardown (h);
}

/* QoS messages of flowsample, and what the last one counts. */
typedef struct
{
  guint n;
  guint64 processed, dropped;
  GstClockTime duration; /* of all together */
} Qos;

/* On streaming threads; read once these have ended. */
static GstBusSyncReply
note_qos (GstBus *bus, GstMessage *message, gpointer data)
{
  Qos *qos = data;
  g_autofree char *path = gst_object_get_path_string (GST_MESSAGE_SRC (message));
  GstFormat format;
  GstClockTime duration;
  gint64 jitter;
  if (GST_MESSAGE_TYPE (message) != GST_MESSAGE_QOS || !strstr (path, ":sample/"))
    return GST_BUS_PASS;
  gst_message_parse_qos_stats (message, &format, &qos->processed, &qos->dropped);
  gst_message_parse_qos_values (message, &jitter, NULL, NULL);
  assert_int_equal (format, GST_FORMAT_BUFFERS);
  assert_true (jitter > 0);
  gst_message_parse_qos (message, NULL, NULL, NULL, NULL, &duration);
  qos->duration += duration;
  qos->n++;
  return GST_BUS_PASS;
}

static void
watch_qos (GstElement *pipeline, Qos *qos)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  *qos = (Qos){ 0 };
  gst_bus_set_sync_handler (bus, note_qos, qos, NULL);
}

/* For a time that a sink says has passed nothing is drawn, which messages count: a world's next frame comes
 * at the next time, of pictures those in between are left out. Alone and behind real frames; or not, if so
 * told. */
static void
test_late_frames (void **state)
{
  static const struct
  {
    const char *before, *properties;
    gboolean video, qos;
  } cases[] = {
    { "", "num-buffers=14", TRUE, TRUE },
    { "", "num-buffers=14", FALSE, TRUE },
    { "", "num-buffers=14 qos=false", TRUE, FALSE },
    { "videotestsrc num-buffers=2 ! video/x-raw,width=12,height=8,framerate=10/1 ! videoconvert ! flowencode "
      "model=%s !",
      "horizon=12", TRUE, TRUE },
  };
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const char *model = cases[i].video ? video_model : fixture_model[MODEL_YUV];
      g_autoptr (GPtrArray) usual = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
      g_autoptr (GPtrArray) hurried = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_buffer_unref);
      GPtrArray *const frames[] = { usual, hurried };
      guint64 slots = 0;
      for (guint late = 0; late < 2; late++)
        {
          g_autofree char *before = g_strdup_printf (cases[i].before, model);
          g_autofree char *line = g_strdup_printf (
              "%s flowsample name=sample seed=4 model=%s %s ! video/x-flow-latent,framerate=10/1 ! "
              "appsink name=sink sync=false max-buffers=1",
              before, model, cases[i].properties);
          GstElement *pipeline = fixture_launch (line);
          g_autoptr (GstElement) sink = get (pipeline, "sink"), sample = get (pipeline, "sample");
          GstBuffer *buffer;
          GstClockTime last = 0;
          guint at = G_MAXUINT;
          Qos qos;
          watch_qos (pipeline, &qos);
          gst_element_set_state (pipeline, GST_STATE_PLAYING);
          while ((buffer = pull (pipeline)))
            {
              const guint n = frames[late]->len;
              if (n > 0 && GST_BUFFER_PTS (buffer) != last + FRAME)
                {
                  assert_true (late && cases[i].qos && at == G_MAXUINT);
                  assert_int_equal (GST_BUFFER_PTS (buffer), 10 * FRAME);
                  slots = (GST_BUFFER_PTS (buffer) - last) / FRAME - 1;
                  at = n;
                }
              last = GST_BUFFER_PTS (buffer);
              g_ptr_array_add (frames[late], buffer);
              /* half a second late at half a second: up to 1.5 s nothing comes in time */
              if (late && n == 3)
                assert_true (gst_element_send_event (
                    sink, gst_event_new_qos (GST_QOS_TYPE_OVERFLOW, 2, 4 * FRAME, 2 * FRAME)));
            }
          assert_int_equal (count_dropped (sample), late && cases[i].qos ? slots : 0);
          fixture_stop (pipeline);
          if (late && cases[i].qos)
            {
              assert_true (at != G_MAXUINT && slots >= 2);
              assert_int_equal (qos.n, 1);
              assert_int_equal (qos.dropped, slots);
              assert_int_equal (qos.duration, slots * FRAME);
              assert_true (qos.processed > 0);
            }
          else
            assert_int_equal (qos.n, 0);
        }
      assert_true (frames[1]->len + (cases[i].video ? 0 : slots) >= 14);
      for (guint n = 0; n < frames[1]->len; n++)
        {
          /* pictures are of their time, frames of a world of what was before */
          GstBuffer *buffer = g_ptr_array_index (frames[1], n);
          const guint like = cases[i].video ? n : (guint)(GST_BUFFER_PTS (buffer) / FRAME);
          if (like < frames[0]->len)
            assert_true (same (buffer, g_ptr_array_index (frames[0], like)));
        }
    }
}

/* What is late by days is left out at once, and told in one message. */
static void
test_days_late (void **state)
{
  static const struct
  {
    const char *before, *properties;
    gboolean video;
    guint64 most; /* frames that can be left out */
  } cases[] = {
    { "", "num-buffers=12", TRUE, G_MAXUINT64 },
    { "", "num-buffers=12", FALSE, G_MAXUINT64 },
    { "videotestsrc num-buffers=2 ! video/x-raw,width=12,height=8,framerate=10/1 ! videoconvert ! flowencode "
      "model=%s !",
      "horizon=12", TRUE, G_MAXUINT64 },
    { "videotestsrc num-buffers=2 ! video/x-raw,width=12,height=8,framerate=10/1 ! videoconvert ! flowencode "
      "model=%s !",
      "horizon=1000", FALSE, 1000 },
  };
  const GstClockTime day = 24 * 3600 * GST_SECOND;
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      const char *model = cases[i].video ? video_model : fixture_model[MODEL_YUV];
      g_autofree char *before = g_strdup_printf (cases[i].before, model);
      g_autofree char *line = g_strdup_printf (
          "%s flowsample name=sample seed=4 model=%s %s ! "
          "video/x-flow-latent,framerate=10/1 ! appsink name=sink sync=false max-buffers=1",
          before, model, cases[i].properties);
      GstElement *pipeline = fixture_launch (line);
      g_autoptr (GstElement) sink = get (pipeline, "sink");
      GstBuffer *buffer;
      GstClockTime last = 0, left_out = 0;
      Qos qos;
      watch_qos (pipeline, &qos);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      for (guint n = 0; (buffer = pull (pipeline)); n++)
        {
          if (n > 0)
            left_out += (GST_BUFFER_PTS (buffer) - last) / FRAME - 1;
          last = GST_BUFFER_PTS (buffer);
          gst_buffer_unref (buffer);
          if (n == 2)
            assert_true (gst_element_send_event (
                sink, gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 2, (GstClockTimeDiff)day, 2 * FRAME)));
        }
      fixture_stop (pipeline);
      assert_int_equal (qos.n, 1);
      assert_int_equal (qos.duration, qos.dropped * FRAME);
      if (cases[i].most == G_MAXUINT64)
        {
          assert_true (last > 2 * day);
          assert_int_equal (qos.dropped, left_out);
        }
      else
        assert_true (qos.dropped > 900 && qos.dropped < cases[i].most);
    }
}

#define SHOWING (230 * GST_MSECOND) /* takes a slow sink so long */

/* Caps take their time, once all are playing. */
static GstPadProbeReturn
begin_late (GstPad *pad, GstPadProbeInfo *info, gpointer clock)
{
  g_autoptr (GstElement) sample = gst_pad_get_parent_element (pad);
  if (GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) != GST_EVENT_CAPS)
    return GST_PAD_PROBE_OK;
  for (guint tries = 0; tries < FIXTURE_TRIES && GST_STATE (sample) != GST_STATE_PLAYING; tries++)
    g_usleep (10000);
  gst_test_clock_advance_time (clock, 3 * FRAME);
  return GST_PAD_PROBE_OK;
}

/* A live stream whose beginning took a while begins then; what a sink says of frames that come in time leaves
 * none out. */
static void
test_late_beginning (void **state)
{
  g_autofree char *line
      = g_strdup_printf ("flowsample name=sample model=%s is-live=true num-buffers=6 ! "
                         "video/x-flow-latent,framerate=10/1 ! appsink name=sink sync=false",
                         video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  g_autoptr (GstElement) sink = get (pipeline, "sink"), sample = get (pipeline, "sample");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sample, "src");
  Qos qos;
  watch_qos (pipeline, &qos);
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM, begin_late, clock, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint n = 0; n < 6; n++)
    {
      g_autoptr (GstBuffer) buffer = pull_at (pipeline, clock, n ? (3 + n) * FRAME : 0);
      assert_non_null (buffer);
      assert_int_equal (GST_BUFFER_PTS (buffer), (3 + n) * FRAME);
      gst_element_send_event (sink,
                              gst_event_new_qos (GST_QOS_TYPE_UNDERFLOW, 0.5, -(GstClockTimeDiff)FRAME / 5,
                                                 GST_BUFFER_PTS (buffer)));
    }
  fixture_stop (pipeline);
  assert_int_equal (qos.n, 0);
}

/* A frame takes its time on the way to the sink. */
static GstPadProbeReturn
take_time (GstPad *pad, GstPadProbeInfo *info, gpointer clock)
{
  gst_test_clock_advance_time (clock, SHOWING);
  return GST_PAD_PROBE_OK;
}

/* Behind a sink that takes longer than a frame lasts, frames are left out, and the others are not ever later.
 */
static void
test_slow_sink (void **state)
{
  g_autofree char *line = g_strdup_printf ("flowsample name=sample model=%s is-live=true num-buffers=12 ! "
                                           "video/x-flow-latent,framerate=10/1 ! "
                                           "fakesink name=sink sync=true qos=true max-lateness=-1",
                                           video_model);
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstTestClock) clock = fixture_use_clock (pipeline);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (sink, "sink");
  g_autoptr (GstMessage) end = NULL;
  Qos qos;
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, take_time, clock, NULL);
  watch_qos (pipeline, &qos);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint tries = 0; tries < FIXTURE_TRIES && !end; tries++)
    {
      /* source and sink wait in one thread: for one time at most */
      if (gst_test_clock_timed_wait_for_multiple_pending_ids (clock, 1, 10, NULL))
        gst_test_clock_crank (clock);
      end = gst_bus_pop_filtered (bus, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
    }
  assert_non_null (end);
  assert_int_equal (GST_MESSAGE_TYPE (end), GST_MESSAGE_EOS);
  const GstClockTime took = gst_clock_get_time (GST_CLOCK (clock)) - gst_element_get_base_time (pipeline);
  gint64 position = 0;
  assert_true (gst_element_query_position (sink, GST_FORMAT_TIME, &position));
  assert_true (qos.n > 1 && qos.n <= qos.dropped && qos.dropped > 4);
  assert_int_equal (qos.duration, qos.dropped * FRAME);
  assert_true (qos.processed <= 12);
  /* 12 frames alone would have been 1.6 s behind at the end */
  assert_true (took < (GstClockTime)position + 1300 * GST_MSECOND);
  fixture_stop (pipeline);
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
    cmocka_unit_test (test_look_ahead),
    cmocka_unit_test (test_look_ahead_and_gap),
    cmocka_unit_test (test_look_ahead_and_damage),
    cmocka_unit_test (test_look_ahead_and_drained_damage),
    cmocka_unit_test (test_look_ahead_and_new_format),
    cmocka_unit_test (test_look_ahead_latency),
    cmocka_unit_test (test_look_ahead_padding),
    cmocka_unit_test (test_precision_of_real_frames),
    cmocka_unit_test (test_other_models),
    cmocka_unit_test (test_unknown),
    cmocka_unit_test (test_controls_of_video),
    cmocka_unit_test (test_backwards),
    cmocka_unit_test (test_controls_of_samples),
    cmocka_unit_test (test_controlled),
    cmocka_unit_test (test_controlled_by_stream_time),
    cmocka_unit_test (test_keys_of_real_frames),
    cmocka_unit_test (test_controlled_real_frames),
    cmocka_unit_test (test_gap_and_discontinuity),
    cmocka_unit_test (test_late_frames),
    cmocka_unit_test (test_days_late),
    cmocka_unit_test (test_late_video),
    cmocka_unit_test (test_slow_sink),
    cmocka_unit_test (test_recorded),
    cmocka_unit_test (test_actions_of_a_file),
    cmocka_unit_test (test_recorded_controls),
    cmocka_unit_test (test_recorded_unknown),
    cmocka_unit_test (test_retold_unknown),
    cmocka_unit_test (test_replayed),
    cmocka_unit_test (test_bad_settings),
    cmocka_unit_test (test_late_beginning),
    cmocka_unit_test (test_wrong_actions),
  };
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  make_model (&video_model, "video.safetensors", FALSE, 0, 5);
  make_model (&controls_model, "controls.safetensors", FALSE, 0, 5);
  make_model (&noisy_model, "noisy.safetensors", TRUE, 0, 5);
  make_model (&ahead_model, "ahead.safetensors", TRUE, 2, 5);
  make_model (&other_model, "other-video.safetensors", FALSE, 0, 6);
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  g_free (video_model);
  g_free (noisy_model);
  g_free (ahead_model);
  g_free (controls_model);
  g_free (other_model);
  return failed;
}
