/* normflow: GStreamer plugin, times of frames and waiting for them. SPDX-License-Identifier:
 * LGPL-2.1-or-later
 */
#include "gstflowlive.h"

void
gst_flow_times_begin (GstFlowTimes *times, guint64 frame, GstClockTime base)
{
  times->first = frame;
  times->base = base;
}

void
gst_flow_times_set_rate (GstFlowTimes *times, guint64 next, gint fps_n, gint fps_d)
{
  if (times->fps_n > 0)
    gst_flow_times_begin (times, next, gst_flow_times_get (times, next));
  times->fps_n = fps_n;
  times->fps_d = fps_d;
}

GstClockTime
gst_flow_times_get (const GstFlowTimes *times, guint64 frame)
{
  return times->base
         + (times->fps_n > 0 ? gst_util_uint64_scale (
                frame - times->first, (guint64)times->fps_d * GST_SECOND, (guint64)times->fps_n)
                             : 0);
}

GstClockTime
gst_flow_times_get_end (const GstFlowTimes *times, guint64 next, guint64 sent, gint most)
{
  if (most < 0 || times->fps_n <= 0)
    return GST_CLOCK_TIME_NONE;
  return gst_flow_times_get (times, next + (guint64)most - MIN ((guint64)most, sent));
}

guint64
gst_flow_times_frame_from (const GstFlowTimes *times, GstClockTime time)
{
  return times->first
         + (times->fps_n > 0 ? gst_util_uint64_scale_ceil (time - times->base, (guint64)times->fps_n,
                                                           (guint64)times->fps_d * GST_SECOND)
                             : 0);
}

guint64
gst_flow_times_frame_at (const GstFlowTimes *times, GstClockTime time)
{
  return times->fps_n > 0 ? gst_flow_times_frame_from (times, time + 1) - 1 : times->first;
}

GstFlowReturn
gst_flow_live_wait (GstFlowLive *live, GstElement *element, GstClockTime running)
{
  GstClockReturn result = GST_CLOCK_OK;
  gboolean again;

  if (!GST_CLOCK_TIME_IS_VALID (running))
    return GST_FLOW_OK;
  GST_OBJECT_LOCK (element);
  do
    {
      while (live->paused && !live->unlocked)
        g_cond_wait (&live->resumed, GST_OBJECT_GET_LOCK (element));
      again = FALSE;
      if (live->unlocked)
        result = GST_CLOCK_UNSCHEDULED;
      else if (GST_ELEMENT_CLOCK (element))
        {
          const GstClockID id
              = gst_clock_new_single_shot_id (GST_ELEMENT_CLOCK (element), element->base_time + running);
          live->id = id;
          live->interrupted = FALSE;
          GST_OBJECT_UNLOCK (element);
          result = gst_clock_id_wait (id, NULL);
          GST_OBJECT_LOCK (element);
          live->id = NULL;
          gst_clock_id_unref (id);
          /* by a pause, after which clock and base time are others */
          again = result == GST_CLOCK_UNSCHEDULED && !live->interrupted;
        }
    }
  while (again);
  GST_OBJECT_UNLOCK (element);
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
  live->interrupted |= unlocked;
  if (unlocked && live->id)
    gst_clock_id_unschedule (live->id);
  g_cond_broadcast (&live->resumed);
  GST_OBJECT_UNLOCK (element);
}

void
gst_flow_live_set_paused (GstFlowLive *live, GstElement *element, gboolean paused)
{
  GST_OBJECT_LOCK (element);
  live->paused = paused;
  if (paused && live->id)
    gst_clock_id_unschedule (live->id);
  g_cond_broadcast (&live->resumed);
  GST_OBJECT_UNLOCK (element);
}
