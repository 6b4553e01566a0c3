/* normflow: what tests of elements, each on its own, share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "gst-fixture.h"

/* An element with MODEL and a bus of its own. PROPERTIES: as in a launch line, or NULL. */
static inline GstElement *
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

static inline GstHarness *
make_harness (const char *factory, guint model, const char *properties, GstBus **bus)
{
  g_autoptr (GstElement) element = make_element (factory, model, properties, bus);
  gst_object_ref_sink (element);
  const gboolean source = g_str_equal (factory, "flowsample");
  return gst_harness_new_with_element (element, source ? NULL : "sink", "src");
}

static inline void
end_harness (GstHarness *harness, GstBus *bus)
{
  if (bus)
    {
      gst_element_set_bus (harness->element, NULL);
      gst_object_unref (bus);
    }
  gst_harness_teardown (harness);
}

static inline void
set_video (GstHarness *harness, const GstVideoInfo *info)
{
  gst_harness_set_src_caps (harness, gst_video_info_to_caps (info));
}

static inline NfSession *
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

static inline void
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
static inline float *
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
static inline GstBuffer *
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

static inline char *
dup_working_precision (GstElement *element)
{
  g_autoptr (GstStructure) stats = NULL;
  g_object_get (element, "stats", &stats, NULL);
  return g_strdup (gst_structure_get_string (stats, "precision"));
}

static inline GstHarness *
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
