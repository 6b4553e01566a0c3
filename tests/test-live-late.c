/* normflow: frames of live streams that are late. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "live-fixture.h"

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
    cmocka_unit_test (test_late_frames),    cmocka_unit_test (test_days_late),
    cmocka_unit_test (test_late_video),     cmocka_unit_test (test_slow_sink),
    cmocka_unit_test (test_late_beginning),
  };
  const int status = live_open (&argc, &argv);
  if (status >= 0)
    return status;
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  live_close ();
  return failed;
}
