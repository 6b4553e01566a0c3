/* normflow: what the element tests share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glib/gstdio.h>
#include <gst/app/gstappsink.h>
#include <gst/check/gstharness.h>
#include <gst/check/gsttestclock.h>
#include <gst/gst.h>
#include <gst/video/video.h>
#include <normflow.h>
#include <string.h>

#include "fatal.h"
#include "random-model.h"

#define assert_no_error(error) assert_string_equal ((error) ? (error)->message : "", "")

/* Tiny models with random weights, made once. */
enum
{
  MODEL_YUV,
  MODEL_RGB,
  MODEL_GRAY,
  MODEL_OTHER, /* like MODEL_YUV, other weights */
  MODEL_TALL,  /* of half the width */
  N_MODELS
};

static char *fixture_dir;
static char *fixture_model[N_MODELS];

static const NfPixelLayout fixture_layout[N_MODELS]
    = { NF_PIXELS_YUV420, NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420, NF_PIXELS_GRAY };

#define FIXTURE_SIDE 8
#define FIXTURE_PATCH 4

static inline char *
fixture_path (const char *name)
{
  return g_build_filename (fixture_dir, name, NULL);
}

static inline void
fixture_make_models (NfDevice *device)
{
  static const char *const names[N_MODELS]
      = { "yuv.safetensors", "rgb.safetensors", "gray.safetensors", "other.safetensors", "tall.safetensors" };
  for (guint i = 0; i < N_MODELS; i++)
    {
      const NfPixelLayout layout = fixture_layout[i];
      NfConfig config = random_picture_config (layout, FIXTURE_SIDE, FIXTURE_PATCH, 2);
      config.noise = NF_NOISE_UNIFORM;
      if (i == MODEL_TALL)
        {
          config.family = NF_FAMILY_STARFLOW;
          config.rows = FIXTURE_SIDE;
          config.columns = FIXTURE_SIDE / 2;
        }
      fixture_model[i] = fixture_path (names[i]);
      random_model_write (fixture_model[i], &config, device, 1 + i);
    }
}

/* Before the tests: GStreamer, the plugin, a device, models. Returns an exit status, or -1 to go on. */
static inline int
fixture_open (int *argc, char ***argv)
{
  g_autoptr (GError) error = NULL;
  gst_init (argc, argv);
  g_autoptr (GstPluginFeature) feature
      = gst_registry_find_feature (gst_registry_get (), "flowencode", GST_TYPE_ELEMENT_FACTORY);
  if (!feature)
    {
      g_printerr ("there is no element flowencode: run this by meson test, or with GST_PLUGIN_PATH set\n");
      return 1;
    }
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  if (!device)
    {
      g_printerr ("skipped: %s\n", error->message);
      return 77;
    }
  fixture_dir = g_dir_make_tmp ("normflow-test-XXXXXX", &error);
  assert_no_error (error);
  fixture_make_models (device);
  return -1;
}

static inline void
fixture_close (void)
{
  g_autoptr (GDir) dir = g_dir_open (fixture_dir, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name (dir)))
    {
      g_autofree char *path = fixture_path (name);
      g_remove (path);
    }
  g_rmdir (fixture_dir);
  g_free (fixture_dir);
  for (guint i = 0; i < N_MODELS; i++)
    g_free (fixture_model[i]);
}

/* Scripts */

/* Runs a pipeline to its end, which must come. */
static inline void
run_line (const char *line)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GstElement) pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_EOS);
  gst_element_set_state (pipeline, GST_STATE_NULL);
}

/* A clip of N frames at RATE frames a second. */
static inline char *
make_clip (guint n, guint rate)
{
  char *path = fixture_path ("clip.mkv");
  g_autofree char *line = g_strdup_printf (
      "videotestsrc pattern=ball num-buffers=%u ! video/x-raw,width=48,height=32,framerate=%u/1 ! avenc_ffv1 "
      "! matroskamux ! filesink location=%s",
      n, rate, path);
  run_line (line);
  return path;
}

/* Runs a script of pipelines/; whether it succeeds, and what it says. */
static inline gboolean
try_script (const char *name, const char *const *arguments, char **said, char **errors, GError **error)
{
  g_autoptr (GStrvBuilder) builder = g_strv_builder_new ();
  g_autofree char *path = g_build_filename (g_getenv ("G_TEST_SRCDIR"), "..", "pipelines", name, NULL);
  gint status;
  g_strv_builder_add (builder, path);
  g_strv_builder_addv (builder, (const char **)arguments);
  g_auto (GStrv) line = g_strv_builder_end (builder);
  assert_true (g_spawn_sync (NULL, line, NULL, G_SPAWN_DEFAULT, NULL, NULL, said, errors, &status, error));
  return g_spawn_check_wait_status (status, error);
}

/* Runs one that must succeed; what it says. */
static inline char *
run_script (const char *name, const char *const *arguments)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *said = NULL, *errors = NULL;
  if (!try_script (name, arguments, &said, &errors, &error))
    fail_msg ("%s: %s\n%s%s", name, error->message, said, errors);
  return g_steal_pointer (&said);
}

/* Runs one that must fail; what it says of that. */
static inline char *
fail_script (const char *name, const char *const *arguments)
{
  g_autoptr (GError) error = NULL;
  g_autofree char *said = NULL, *errors = NULL;
  if (try_script (name, arguments, &said, &errors, &error))
    fail_msg ("%s did not fail\n%s%s", name, said, errors);
  return g_steal_pointer (&errors);
}

/* Video */

/* Rows of component C: those of chroma that both fields of an interlaced frame have, too. */
static inline gint
fixture_rows (const GstVideoFrame *frame, guint c)
{
  const GstVideoInfo *info = &frame->info;
  return GST_VIDEO_INFO_IS_YUV (info) && GST_VIDEO_INFO_IS_INTERLACED (info) && c > 0
             ? GST_ROUND_UP_2 (GST_VIDEO_FRAME_COMP_HEIGHT (frame, c))
             : GST_VIDEO_FRAME_COMP_HEIGHT (frame, c);
}

/* A frame with the contents number N, somewhat like a picture: slopes with noise on them. PADDED: odd strides
 * and gaps between planes. */
static inline GstBuffer *
fixture_frame (const GstVideoInfo *info, guint n, gboolean padded)
{
  GstBuffer *buffer;
  if (padded)
    {
      gsize offset[GST_VIDEO_MAX_PLANES] = { 0 }, at = 5;
      gint stride[GST_VIDEO_MAX_PLANES] = { 0 };
      for (guint i = 0; i < GST_VIDEO_INFO_N_PLANES (info); i++)
        {
          offset[i] = at;
          stride[i] = GST_VIDEO_INFO_PLANE_STRIDE (info, i) + 7;
          at += (gsize)stride[i] * GST_VIDEO_INFO_HEIGHT (info) + 11;
        }
      buffer = gst_buffer_new_allocate (NULL, at, NULL);
      gst_buffer_memset (buffer, 0, 0xa5, at);
      gst_buffer_add_video_meta_full (buffer, GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_INFO_FORMAT (info),
                                      GST_VIDEO_INFO_WIDTH (info), GST_VIDEO_INFO_HEIGHT (info),
                                      GST_VIDEO_INFO_N_PLANES (info), offset, stride);
    }
  else
    {
      buffer = gst_buffer_new_allocate (NULL, GST_VIDEO_INFO_SIZE (info), NULL);
      gst_buffer_memset (buffer, 0, 0xff, GST_VIDEO_INFO_SIZE (info));
    }

  GstVideoFrame frame;
  assert_true (gst_video_frame_map (&frame, info, buffer, GST_MAP_WRITE));
  for (guint c = 0; c < GST_VIDEO_FRAME_N_COMPONENTS (&frame); c++)
    for (gint y = 0; y < fixture_rows (&frame, c); y++)
      for (gint x = 0; x < GST_VIDEO_FRAME_COMP_WIDTH (&frame, c); x++)
        {
          guint32 r[4];
          nf_random_u32x4 (n, c, (guint64)y << 32 | x, r);
          guint8 *sample = (guint8 *)GST_VIDEO_FRAME_COMP_DATA (&frame, c)
                           + y * GST_VIDEO_FRAME_COMP_STRIDE (&frame, c)
                           + x * GST_VIDEO_FRAME_COMP_PSTRIDE (&frame, c);
          *sample = (40 * c + 3 * x + 5 * y + 17 * n + r[0] % 32) & 0xff;
        }
  gst_video_frame_unmap (&frame);
  GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
  GST_BUFFER_DURATION (buffer) = 40 * GST_MSECOND;
  return buffer;
}

/* Every sample of both is the same, whatever lies between them. */
static inline void
assert_same_video (const GstVideoInfo *info, GstBuffer *a, GstBuffer *b)
{
  GstVideoFrame fa, fb;
  assert_true (gst_video_frame_map (&fa, info, a, GST_MAP_READ));
  assert_true (gst_video_frame_map (&fb, info, b, GST_MAP_READ));
  for (guint c = 0; c < GST_VIDEO_FRAME_N_COMPONENTS (&fa); c++)
    for (gint y = 0; y < fixture_rows (&fa, c); y++)
      for (gint x = 0; x < GST_VIDEO_FRAME_COMP_WIDTH (&fa, c); x++)
        {
          const guint8 *sa = (guint8 *)GST_VIDEO_FRAME_COMP_DATA (&fa, c)
                             + y * GST_VIDEO_FRAME_COMP_STRIDE (&fa, c)
                             + x * GST_VIDEO_FRAME_COMP_PSTRIDE (&fa, c);
          const guint8 *sb = (guint8 *)GST_VIDEO_FRAME_COMP_DATA (&fb, c)
                             + y * GST_VIDEO_FRAME_COMP_STRIDE (&fb, c)
                             + x * GST_VIDEO_FRAME_COMP_PSTRIDE (&fb, c);
          if (*sa != *sb)
            fail_msg ("%s %dx%d: component %u at (%d, %d) was %u and became %u", GST_VIDEO_INFO_NAME (info),
                      GST_VIDEO_INFO_WIDTH (info), GST_VIDEO_INFO_HEIGHT (info), c, x, y, *sa, *sb);
        }
  gst_video_frame_unmap (&fa);
  gst_video_frame_unmap (&fb);
}

/* What no component of a format like RGBx has is 255 in every pixel of BUFFER. */
static inline void
assert_padding (const GstVideoInfo *info, GstBuffer *buffer)
{
  GstVideoFrame frame;
  assert_true (gst_video_frame_map (&frame, info, buffer, GST_MAP_READ));
  const guint8 *row = GST_VIDEO_FRAME_PLANE_DATA (&frame, 0);
  row += GST_VIDEO_FRAME_COMP_POFFSET (&frame, 0) % 2 ? 0 : 3;
  for (gint y = 0; y < GST_VIDEO_FRAME_HEIGHT (&frame); y++, row += GST_VIDEO_FRAME_PLANE_STRIDE (&frame, 0))
    for (gint x = 0; x < GST_VIDEO_FRAME_WIDTH (&frame); x++)
      if (row[4 * x] != 255)
        fail_msg ("%s: at (%d, %d) there is %u", GST_VIDEO_INFO_NAME (info), x, y, row[4 * x]);
  gst_video_frame_unmap (&frame);
}

static inline void
fixture_interlaced_video (GstVideoInfo *info, GstVideoFormat format, GstVideoInterlaceMode mode, guint width,
                          guint height)
{
  gst_video_info_set_interlaced_format (info, format, mode, width, height);
  GST_VIDEO_INFO_FPS_N (info) = 25;
  GST_VIDEO_INFO_FPS_D (info) = 1;
}

static inline void
fixture_video (GstVideoInfo *info, GstVideoFormat format, guint width, guint height)
{
  fixture_interlaced_video (info, format, GST_VIDEO_INTERLACE_MODE_PROGRESSIVE, width, height);
}

static inline GstElement *
fixture_launch (const char *line)
{
  g_autoptr (GError) error = NULL;
  GstElement *pipeline = gst_parse_launch (line, &error);
  assert_no_error (error);
  return gst_object_ref_sink (pipeline);
}

static inline void
fixture_stop (GstElement *pipeline)
{
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_NULL), GST_STATE_CHANGE_SUCCESS);
  gst_object_unref (pipeline);
}

/* The GST_BUFFER_OFFSET of the first buffer since the latest flush into DATA, a guint64. Sinks leave out what
 * is over before the place that was sought, so only this tells it. */
static inline GstPadProbeReturn
fixture_note_first (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  guint64 *first = data;
  if (!(GST_PAD_PROBE_INFO_TYPE (info) & GST_PAD_PROBE_TYPE_BUFFER))
    *first = GST_EVENT_TYPE (GST_PAD_PROBE_INFO_EVENT (info)) == GST_EVENT_FLUSH_STOP ? G_MAXUINT64 : *first;
  else if (*first == G_MAXUINT64)
    *first = GST_BUFFER_OFFSET (GST_PAD_PROBE_INFO_BUFFER (info));
  return GST_PAD_PROBE_OK;
}

static inline void
fixture_watch_first (GstElement *source, guint64 *first)
{
  g_autoptr (GstPad) pad = gst_element_get_static_pad (source, "src");
  *first = G_MAXUINT64;
  gst_pad_add_probe (
      pad, GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM | GST_PAD_PROBE_TYPE_EVENT_FLUSH,
      fixture_note_first, first, NULL);
}

static inline GstPadProbeReturn
fixture_take_instead (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  if (GST_QUERY_TYPE (GST_PAD_PROBE_INFO_QUERY (info)) != GST_QUERY_ALLOCATION)
    return GST_PAD_PROBE_OK;
  gst_harness_set_sink_caps_str (data, g_object_get_data (G_OBJECT (pad), "taken"));
  return GST_PAD_PROBE_REMOVE;
}

/* What is behind HARNESS's element takes CAPS only from some time within the next frame on. */
static inline void
fixture_change_within_frame (GstHarness *harness, const char *caps)
{
  g_autoptr (GstPad) pad = gst_pad_get_peer (harness->sinkpad);
  g_object_set_data_full (G_OBJECT (pad), "taken", g_strdup (caps), g_free);
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM | GST_PAD_PROBE_TYPE_PUSH, fixture_take_instead,
                     harness, NULL);
  gst_harness_push_upstream_event (harness, gst_event_new_reconfigure ()); /* it asks for memory again */
}

/* Time that only a test moves, so that nothing depends on how busy the machine is */

#define FIXTURE_TRIES 6000 /* of 10 ms, before something counts as not coming */

/* In the state NULL: PIPELINE's clock from now on, at 0. */
static inline GstTestClock *
fixture_use_clock (GstElement *pipeline)
{
  GstTestClock *clock = GST_TEST_CLOCK (gst_test_clock_new ());
  gst_pipeline_use_clock (GST_PIPELINE (pipeline), GST_CLOCK (clock));
  return clock;
}

/* Nothing comes to SINK before TIME: whatever would send it waits for the clock to say so. */
static inline void
fixture_assert_waits (GstTestClock *clock, GstAppSink *sink, GstClockTime time)
{
  GstClockTime next = GST_CLOCK_TIME_NONE;
  for (guint tries = 0; tries < FIXTURE_TRIES; tries++)
    {
      GstClockID id = NULL;
      if (gst_test_clock_peek_next_pending_id (clock, &id))
        next = gst_clock_id_get_time (id);
      g_clear_pointer (&id, gst_clock_id_unref);
      g_autoptr (GstSample) early = gst_app_sink_try_pull_sample (sink, next == time ? 0 : 10 * GST_MSECOND);
      if (early)
        fail_msg ("a frame came before %" G_GUINT64_FORMAT, time);
      if (next == time)
        return;
    }
  fail_msg ("%" G_GUINT64_FORMAT " was waited for rather than %" G_GUINT64_FORMAT, next, time);
}

/* At TIME, or now if that is later: the next sample, NULL at the end. */
static inline GstSample *
fixture_pull_at (GstTestClock *clock, GstAppSink *sink, GstClockTime time)
{
  if (gst_clock_get_time (GST_CLOCK (clock)) < time)
    gst_test_clock_set_time (clock, time);
  for (guint tries = 0; tries < FIXTURE_TRIES && !gst_app_sink_is_eos (sink); tries++)
    {
      GstClockID id;
      while ((id = gst_test_clock_process_next_clock_id (clock)))
        gst_clock_id_unref (id);
      GstSample *sample = gst_app_sink_try_pull_sample (sink, 10 * GST_MSECOND);
      if (sample)
        return sample;
    }
  assert_true (gst_app_sink_is_eos (sink));
  return NULL;
}

/* Reading the bus */

/* The next message of TYPE, NULL after a minute. */
static inline GstMessage *
fixture_wait (GstBus *bus, GstMessageType type)
{
  return gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, type);
}

static inline void
assert_error_message (GstBus *bus, GQuark domain, gint code, const char *part, const char *other_part)
{
  g_autoptr (GstMessage) message = fixture_wait (bus, GST_MESSAGE_ERROR);
  g_autoptr (GError) error = NULL;
  assert_non_null (message);
  gst_message_parse_error (message, &error, NULL);
  if (error->domain != domain || error->code != code || (part && !strstr (error->message, part))
      || (other_part && !strstr (error->message, other_part)))
    fail_msg ("wanted %s %d with \"%s\" and \"%s\", got %s %d: %s", g_quark_to_string (domain), code,
              part ? part : "", other_part ? other_part : "", g_quark_to_string (error->domain), error->code,
              error->message);
}

/* What follows the element "flow" of LINE takes nothing that it makes: that is its one error, and says both
 * parts. */
static inline void
fixture_assert_unwanted (const char *line, const char *part, const char *other_part)
{
  GstElement *pipeline = fixture_launch (line);
  g_autoptr (GstElement) flow = gst_bin_get_by_name (GST_BIN (pipeline), "flow");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  assert_error_message (bus, GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION, part, other_part);
  g_autoptr (GstMessage) second = fixture_wait (bus, GST_MESSAGE_ERROR);
  assert_true (second->src != GST_OBJECT (flow));
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_READY), GST_STATE_CHANGE_SUCCESS);
  for (GstMessage *more; (more = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR)); gst_message_unref (more))
    assert_true (more->src != GST_OBJECT (flow));
  fixture_stop (pipeline);
}

/* The next element message called NAME within what is there. */
static inline GstStructure *
fixture_pop_element_message (GstBus *bus, const char *name)
{
  GstMessage *message;
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_ELEMENT)))
    {
      const GstStructure *structure = gst_message_get_structure (message);
      GstStructure *copy = gst_structure_has_name (structure, name) ? gst_structure_copy (structure) : NULL;
      gst_message_unref (message);
      if (copy)
        return copy;
    }
  return NULL;
}
