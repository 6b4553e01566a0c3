/* normflow: models, sources and sinks of live streams. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "gst-fixture.h"

#include <gst/app/gstappsink.h>

#define WIDTH RANDOM_VIDEO_WIDTH
#define HEIGHT RANDOM_VIDEO_HEIGHT
#define ACTIONS RANDOM_VIDEO_ACTIONS
#define BYTES (WIDTH * HEIGHT * 3)
#define FRAME (100 * GST_MSECOND)

static char *video_model, *noisy_model, *ahead_model, *other_model, *controls_model;

static inline NfConfig
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

static inline void
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

static inline GstElement *
get (GstElement *pipeline, const char *name)
{
  GstElement *element = gst_bin_get_by_name (GST_BIN (pipeline), name);
  assert_non_null (element);
  return element;
}

/* The next buffer of the appsink "sink"; NULL at the end. */
static inline GstBuffer *
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
static inline GstBuffer *
pull_at (GstElement *pipeline, GstTestClock *clock, GstClockTime time)
{
  g_autoptr (GstElement) sink = get (pipeline, "sink");
  g_autoptr (GstSample) sample = fixture_pull_at (clock, GST_APP_SINK (sink), time);
  return sample ? gst_buffer_ref (gst_sample_get_buffer (sample)) : NULL;
}

static inline gboolean
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
static inline void
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

static inline guint64
count_dropped (GstElement *element)
{
  g_autoptr (GstStructure) stats = NULL;
  guint64 dropped = G_MAXUINT64;
  g_object_get (element, "stats", &stats, NULL);
  gst_structure_get_uint64 (stats, "dropped", &dropped);
  return dropped;
}

static inline GstHarness *
decoder_new (const char *model, GstCaps *caps)
{
  GstElement *made = gst_element_factory_make ("flowdecode", NULL);
  g_object_set (made, "model", model, NULL);
  GstHarness *h = gst_harness_new_with_element (made, "sink", "src");
  gst_object_unref (made);
  gst_harness_set_src_caps (h, gst_caps_ref (caps));
  return h;
}

static inline void
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

/* An encoder of the video model's frames, with what it says on BUS. ACTIONS: of a file, or NULL. */
static inline GstHarness *
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

/* Before the tests: fixture_open(), and the models of videos. */
static inline int
live_open (int *argc, char ***argv)
{
  const int status = fixture_open (argc, argv);
  if (status >= 0)
    return status;
  make_model (&video_model, "video.safetensors", FALSE, 0, 5);
  make_model (&controls_model, "controls.safetensors", FALSE, 0, 5);
  make_model (&noisy_model, "noisy.safetensors", TRUE, 0, 5);
  make_model (&ahead_model, "ahead.safetensors", TRUE, 2, 5);
  make_model (&other_model, "other-video.safetensors", FALSE, 0, 6);
  return -1;
}

static inline void
live_close (void)
{
  fixture_close ();
  g_free (video_model);
  g_free (noisy_model);
  g_free (ahead_model);
  g_free (controls_model);
  g_free (other_model);
}
