/* normflow: controls and actions of streams, and files of them. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "live-fixture.h"

#include <gst/controller/gstdirectcontrolbinding.h>
#include <gst/controller/gstinterpolationcontrolsource.h>
#include <gst/video/navigation.h>
#include <math.h>

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

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_controls_of_video),
    cmocka_unit_test (test_controls_of_samples),
    cmocka_unit_test (test_controlled),
    cmocka_unit_test (test_controlled_by_stream_time),
    cmocka_unit_test (test_keys_of_real_frames),
    cmocka_unit_test (test_controlled_real_frames),
    cmocka_unit_test (test_recorded),
    cmocka_unit_test (test_actions_of_a_file),
    cmocka_unit_test (test_recorded_controls),
    cmocka_unit_test (test_recorded_unknown),
    cmocka_unit_test (test_retold_unknown),
    cmocka_unit_test (test_replayed),
    cmocka_unit_test (test_bad_settings),
    cmocka_unit_test (test_wrong_actions),
  };
  const int status = live_open (&argc, &argv);
  if (status >= 0)
    return status;
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  live_close ();
  return failed;
}
