/* normflow: GStreamer plugin, waiting for the time of a live frame. SPDX-License-Identifier:
 * LGPL-2.1-or-later
 */
#include "gstflowlive.h"

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

void
gst_flow_live_get_times (GstBaseSrc *src, GstBuffer *buffer, GstClockTime *start, GstClockTime *end)
{
  *start = *end = GST_CLOCK_TIME_NONE;
  if (!gst_base_src_is_live (src) || !GST_BUFFER_PTS_IS_VALID (buffer))
    return;
  *start = GST_BUFFER_PTS (buffer);
  if (GST_BUFFER_DURATION_IS_VALID (buffer))
    *end = *start + GST_BUFFER_DURATION (buffer);
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
