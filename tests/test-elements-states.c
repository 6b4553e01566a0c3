/* normflow: states of elements, their models and properties. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elements-fixture.h"

/* What is wrong */

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
    cmocka_unit_test (test_default_model),
    cmocka_unit_test (test_bad_models),
    cmocka_unit_test (test_bad_device),
    cmocka_unit_test (test_bad_precision),
    cmocka_unit_test (test_progress),
    cmocka_unit_test (test_cancelled_loading),
    cmocka_unit_test (test_stopping),
    cmocka_unit_test (test_stopping_half_a_ghost_pad),
    cmocka_unit_test (test_stopping_half_an_element),
    cmocka_unit_test (test_model_of_a_running_element),
    cmocka_unit_test (test_properties_of_running_elements),
    cmocka_unit_test (test_weights_are_shared),
    cmocka_unit_test (test_state_cycles),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
