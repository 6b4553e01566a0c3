/* normflow: GStreamer plugin, times of frames and waiting for them. SPDX-License-Identifier:
 * LGPL-2.1-or-later
 */
#include "gstflowlive.h"

guint64
gst_flow_live_frame_from (GstClockTime time, gint fps_n, gint fps_d)
{
  return fps_n > 0 ? gst_util_uint64_scale_ceil (time, (guint64)fps_n, (guint64)fps_d * GST_SECOND) : 0;
}

guint64
gst_flow_live_frame_at (GstClockTime time, gint fps_n, gint fps_d)
{
  return fps_n > 0 ? gst_flow_live_frame_from (time + 1, fps_n, fps_d) - 1 : 0;
}

GstFlowReturn
gst_flow_live_wait (GstFlowLive *live, GstElement *element, GstClockTime running)
{
  g_autoptr (GstClock) clock = gst_element_get_clock (element);

  if (!clock || !GST_CLOCK_TIME_IS_VALID (running))
    return GST_FLOW_OK;
  GST_OBJECT_LOCK (element);
  if (live->unlocked)
    {
      GST_OBJECT_UNLOCK (element);
      return GST_FLOW_FLUSHING;
    }
  const GstClockID id = gst_clock_new_single_shot_id (clock, element->base_time + running);
  live->id = id;
  GST_OBJECT_UNLOCK (element);
  const GstClockReturn result = gst_clock_id_wait (id, NULL);
  GST_OBJECT_LOCK (element);
  live->id = NULL;
  GST_OBJECT_UNLOCK (element);
  gst_clock_id_unref (id);
  return result == GST_CLOCK_UNSCHEDULED ? GST_FLOW_FLUSHING : GST_FLOW_OK;
}

GstFlowReturn
gst_flow_live_wait_for_frame (GstFlowLive *live, GstBaseSrc *src, GstClockTime pts)
{
  if (!gst_base_src_is_live (src))
    return GST_FLOW_OK;
  return gst_flow_live_wait (live, GST_ELEMENT (src),
                             gst_segment_to_running_time (&src->segment, GST_FORMAT_TIME, pts));
}

GstClockTime
gst_flow_live_begin (GstBaseSrc *src)
{
  const GstClockTime now
      = gst_base_src_is_live (src) ? gst_element_get_current_running_time (GST_ELEMENT (src)) : 0;
  return GST_CLOCK_TIME_IS_VALID (now) ? now : 0;
}

gboolean
gst_flow_live_is_unlocked (GstFlowLive *live, GstElement *element)
{
  GST_OBJECT_LOCK (element);
  const gboolean unlocked = live->unlocked;
  GST_OBJECT_UNLOCK (element);
  return unlocked;
}

void
gst_flow_live_set_unlocked (GstFlowLive *live, GstElement *element, gboolean unlocked)
{
  GST_OBJECT_LOCK (element);
  live->unlocked = unlocked;
  if (unlocked && live->id)
    gst_clock_id_unschedule (live->id);
  GST_OBJECT_UNLOCK (element);
}
