/* normflow: GStreamer plugin, flowsample behind real latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowsplice.h"
#include "gstflowlive.h"
#include "gstflowprior.h"

#include <gst/video/video-event.h>

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_IS_LIVE = GST_FLOW_PRIOR_PROP_LAST,
  PROP_PREDICT,
  PROP_AFTER,
  PROP_HORIZON,
};

struct _GstFlowSplice
{
  GstAggregator parent_instance;

  GstFlowEngine engine;
  GstFlowPrior prior;

  /* under the object lock */
  gboolean predict;
  guint64 after;
  gint64 horizon;
  gboolean ending; /* the application says so: nothing is drawn any more */
  gboolean is_live;
  GstFlowLive live;
  GstCaps *caps;  /* of the latents that come */
  GstEvent *seek; /* that went upstream, until it is made */

  /* of the streaming thread */
  gboolean begun; /* a frame has left, and so have caps and segment */
  GQueue tags;    /* events that wait for that */
  GQueue keys;    /* events of key frames, which wait for the real frame that they are of */
  gboolean predicting;
  gboolean needs_key; /* real frames are dropped until a key frame comes */
  guint64 passed, predicted;
  GstClockTime next_pts, duration;
  GstFlowTimes times; /* of frames that are due, counted from 0 at its base */
  guint64 since;      /* number of the next in times */
  GstClockTime ahead; /* from there to next_pts frames were drawn before real ones came; none if none were */
};

static GstStaticPadTemplate sink_template = GST_STATIC_PAD_TEMPLATE ("sink_%u", GST_PAD_SINK, GST_PAD_REQUEST,
                                                                     GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowSplice, gst_flow_splice, GST_TYPE_AGGREGATOR)

static void
drop_events (GQueue *events)
{
  g_queue_clear_full (events, (GDestroyNotify)gst_event_unref);
}

/* The next frame is due at PTS, and those behind it are counted from there. */
static void
count_from (GstFlowSplice *self, GstClockTime pts)
{
  self->next_pts = pts;
  gst_flow_times_begin (&self->times, 0, pts);
  self->since = 0;
}

/* When the frame is due that comes N after the next one. */
static GstClockTime
get_time_after (const GstFlowSplice *self, guint64 n)
{
  n += self->since;
  if (!GST_CLOCK_TIME_IS_VALID (self->times.base) || !GST_CLOCK_TIME_IS_VALID (self->duration))
    return GST_CLOCK_TIME_NONE;
  return gst_flow_times_get (&self->times, n) + (self->times.fps_n > 0 ? 0 : n * self->duration);
}

/* The next frame is that of the input at PTS. Counting goes on if it was due then, but for how that was
 * rounded. */
static void
come_to (GstFlowSplice *self, GstClockTime pts)
{
  if (!GST_CLOCK_TIME_IS_VALID (self->next_pts) || ABS (GST_CLOCK_DIFF (self->next_pts, pts)) > 1)
    count_from (self, pts);
  self->next_pts = pts;
}

/* N frames have had their times. */
static void
advance (GstFlowSplice *self, guint64 n)
{
  self->next_pts = get_time_after (self, n);
  self->since += n;
}

static void
forget (GstFlowSplice *self)
{
  self->begun = self->predicting = self->needs_key = FALSE;
  self->passed = self->predicted = 0;
  self->duration = self->ahead = GST_CLOCK_TIME_NONE;
  count_from (self, GST_CLOCK_TIME_NONE);
  self->prior.index = 0;
  gst_flow_action_forget (&self->prior.last_action);
  GST_OBJECT_LOCK (self);
  self->ending = FALSE;
  GST_OBJECT_UNLOCK (self);
}

static gboolean
gst_flow_splice_start (GstAggregator *aggregator)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  const GstClockTime latency = gst_flow_engine_get_latency (&self->engine);
  forget (self);
  gst_aggregator_set_latency (aggregator, latency, latency); /* no longer that of an earlier run */
  return gst_flow_prior_start (&self->prior, config ? config->action_dim : 0);
}

static gboolean
gst_flow_splice_stop (GstAggregator *aggregator)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  gst_flow_prior_stop (&self->prior);
  drop_events (&self->tags);
  drop_events (&self->keys);
  GST_OBJECT_LOCK (self);
  gst_clear_caps (&self->caps);
  gst_clear_event (&self->seek);
  GST_OBJECT_UNLOCK (self);
  return TRUE;
}

static GstFlowReturn
gst_flow_splice_flush (GstAggregator *aggregator)
{
  GstFlowPrior *prior = &GST_FLOW_SPLICE (aggregator)->prior;
  forget (GST_FLOW_SPLICE (aggregator));
  drop_events (&GST_FLOW_SPLICE (aggregator)->keys);
  gst_flow_prior_forget_qos (prior);
  gst_flow_prior_forget_key_units (prior, NULL, GST_CLOCK_TIME_NONE);
  return GST_FLOW_OK;
}

/* Of what goes on downstream. */
static GstSegment *
get_segment (GstFlowSplice *self)
{
  return &GST_AGGREGATOR_PAD (GST_AGGREGATOR (self)->srcpad)->segment;
}

/* Caps and events */

/* How long frames are. */
static void
take_rate (GstFlowSplice *self)
{
  if (self->times.fps_n > 0)
    self->duration
        = gst_util_uint64_scale (GST_SECOND, (guint64)self->times.fps_d, (guint64)self->times.fps_n);
}

static gboolean
set_caps (GstFlowSplice *self, GstCaps *caps)
{
  GstFlowLatentInfo info;
  if (!gst_flow_prior_read_caps (&self->engine, caps, &info)
      || gst_flow_engine_take_precision (&self->engine, info.precision, info.arithmetic) != GST_FLOW_OK)
    return FALSE;
  gst_flow_prior_set_info (&self->prior, &info);
  count_from (self, self->next_pts);
  gst_flow_times_set_rate (&self->times, self->since, info.fps_n, info.fps_d);
  take_rate (self);
  self->prior.index = 0; /* as encoders do; decoders forget what was before new caps */
  GST_OBJECT_LOCK (self);
  gst_caps_replace (&self->caps, caps);
  GST_OBJECT_UNLOCK (self);
  gst_aggregator_set_src_caps (GST_AGGREGATOR (self), caps);
  return TRUE;
}

/* Caps that do not say all are let in, so that set_caps() can say what they lack. */
static GstAggregatorPad *
gst_flow_splice_create_new_pad (GstAggregator *aggregator, GstPadTemplate *template, const gchar *name,
                                const GstCaps *caps)
{
  GstAggregatorPad *pad = GST_AGGREGATOR_CLASS (gst_flow_splice_parent_class)
                              ->create_new_pad (aggregator, template, name, caps);
  if (pad)
    GST_PAD_SET_ACCEPT_INTERSECT (pad);
  return pad;
}

/* What comes goes. */
static GstFlowReturn
gst_flow_splice_update_src_caps (GstAggregator *aggregator, GstCaps *downstream, GstCaps **caps)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  GST_OBJECT_LOCK (self);
  *caps = self->caps ? gst_caps_ref (self->caps) : NULL;
  GST_OBJECT_UNLOCK (self);
  return *caps ? GST_FLOW_OK : GST_AGGREGATOR_FLOW_NEED_DATA;
}

/* What is at POSITION of SEGMENT lies elsewhere in the one that follows, at its beginning if it begins later.
 */
static void
move (GstClockTime *position, const GstSegment *segment, const GstSegment *next)
{
  const GstClockTime running = gst_segment_to_running_time (segment, GST_FORMAT_TIME, *position);
  *position = GST_CLOCK_TIME_IS_VALID (running) && running < next->base
                  ? next->start
                  : gst_segment_position_from_running_time (next, GST_FORMAT_TIME, running);
}

/* At the flush of SEQNUM. An input that is at its end already may send no segment after it. */
static void
make_seek (GstFlowSplice *self, guint32 seqnum)
{
  double rate;
  GstFormat format;
  GstSeekFlags flags;
  GstSeekType start_type, stop_type;
  gint64 start, stop;
  GST_OBJECT_LOCK (self);
  if (self->seek && gst_event_get_seqnum (self->seek) == seqnum)
    {
      gst_event_parse_seek (self->seek, &rate, &format, &flags, &start_type, &start, &stop_type, &stop);
      gst_segment_do_seek (get_segment (self), rate, format, flags, start_type, start, stop_type, stop, NULL);
    }
  gst_clear_event (&self->seek);
  GST_OBJECT_UNLOCK (self);
}

static gboolean
gst_flow_splice_sink_event (GstAggregator *aggregator, GstAggregatorPad *pad, GstEvent *event)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  const GstSegment *segment;
  GstCaps *caps;
  switch (GST_EVENT_TYPE (event))
    {
    case GST_EVENT_CAPS:
      gst_event_parse_caps (event, &caps);
      if (!set_caps (self, caps))
        {
          gst_event_unref (event);
          return FALSE;
        }
      break;
    case GST_EVENT_FLUSH_STOP:
      make_seek (self, gst_event_get_seqnum (event));
      G_GNUC_FALLTHROUGH;
    case GST_EVENT_FLUSH_START:
      gst_flow_live_set_unlocked (&self->live, GST_ELEMENT (self),
                                  GST_EVENT_TYPE (event) == GST_EVENT_FLUSH_START);
      break;
    case GST_EVENT_SEGMENT:
      gst_event_parse_segment (event, &segment);
      if (segment->format == GST_FORMAT_TIME)
        {
          /* what is drawn goes on where a file has its end */
          GstSegment open = *segment;
          if (open.rate > 0)
            open.stop = open.duration = GST_CLOCK_TIME_NONE;
          move (&self->next_pts, get_segment (self), &open);
          count_from (self, self->next_pts);
          move (&self->ahead, get_segment (self), &open);
          gst_aggregator_update_segment (aggregator, &open);
        }
      break;
    case GST_EVENT_TAG:
      /* GstAggregator does not know whose to send on; here it is one input's */
      if (self->begun)
        gst_pad_push_event (aggregator->srcpad, gst_event_ref (event));
      else
        g_queue_push_tail (&self->tags, gst_event_ref (event));
      break;
    case GST_EVENT_CUSTOM_DOWNSTREAM:
      if (gst_video_event_is_force_key_unit (event))
        {
          g_queue_push_tail (&self->keys, event);
          return TRUE;
        }
      break;
    default:
      break;
    }
  return GST_AGGREGATOR_CLASS (gst_flow_splice_parent_class)->sink_event (aggregator, pad, event);
}

/* Once the input is at its end nothing but the clock says when the next frame is due. */
static GstFlowReturn
wait_for (GstFlowSplice *self, GstClockTime pts)
{
  const GstClockTime latency = gst_aggregator_get_latency (GST_AGGREGATOR (self));
  if (!GST_CLOCK_TIME_IS_VALID (latency) || !GST_CLOCK_TIME_IS_VALID (pts)) /* it is not live */
    return GST_FLOW_OK;
  return gst_flow_live_wait (&self->live, GST_ELEMENT (self),
                             gst_segment_to_running_time (get_segment (self), GST_FORMAT_TIME, pts));
}

static GstAggregatorPad *
get_sink_pad (GstFlowSplice *self)
{
  GST_OBJECT_LOCK (self);
  GList *pads = GST_ELEMENT (self)->sinkpads;
  GstAggregatorPad *pad = pads ? gst_object_ref (pads->data) : NULL;
  GST_OBJECT_UNLOCK (self);
  return pad;
}

static gboolean
send_upstream (GstFlowSplice *self, GstEvent *event)
{
  g_autoptr (GstAggregatorPad) pad = get_sink_pad (self);
  if (pad)
    return gst_pad_push_event (GST_PAD (pad), event);
  gst_event_unref (event);
  return FALSE;
}

static gboolean
gst_flow_splice_src_event (GstAggregator *aggregator, GstEvent *event)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  if (GST_EVENT_TYPE (event) == GST_EVENT_NAVIGATION)
    {
      /* The real world may want them as well. */
      const gboolean wanted = gst_flow_action_input_event (&self->prior.input, GST_ELEMENT (self), event);
      return send_upstream (self, event) || wanted;
    }
  /* GstAggregator 1.22 stops before it asks, and stays so if it is refused; what upstream flushes stops it,
   * too.
   */
  if (GST_EVENT_TYPE (event) == GST_EVENT_SEEK)
    {
      GST_OBJECT_LOCK (self);
      gst_event_replace (&self->seek, event);
      GST_OBJECT_UNLOCK (self);
      return send_upstream (self, event);
    }
  if (GST_EVENT_TYPE (event) == GST_EVENT_QOS)
    gst_flow_prior_note_qos (&self->prior, event);
  if (gst_video_event_is_force_key_unit (event))
    gst_flow_prior_note_key_unit (&self->prior, event);
  return GST_AGGREGATOR_CLASS (gst_flow_splice_parent_class)->src_event (aggregator, event);
}

/* A base class that is live by force alone does not say so to those who ask for its latency, and none of many
 * inputs says for all whether it can be sought in. */
static gboolean
gst_flow_splice_src_query (GstAggregator *aggregator, GstQuery *query)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  if (GST_QUERY_TYPE (query) == GST_QUERY_SEEKING)
    {
      g_autoptr (GstAggregatorPad) pad = get_sink_pad (self);
      return pad && gst_pad_peer_query (GST_PAD (pad), query);
    }
  if (!GST_AGGREGATOR_CLASS (gst_flow_splice_parent_class)->src_query (aggregator, query))
    return FALSE;
  GST_OBJECT_LOCK (self);
  const gboolean is_live = self->is_live;
  GST_OBJECT_UNLOCK (self);
  if (GST_QUERY_TYPE (query) == GST_QUERY_LATENCY && is_live)
    {
      GstClockTime least, most;
      gst_query_parse_latency (query, NULL, &least, &most);
      gst_query_set_latency (query, TRUE, least, most);
    }
  return TRUE;
}

/* Frames */

/* Under the object lock: whether frames are drawn before the input ends. */
static gboolean
is_told_to_predict (const GstFlowSplice *self)
{
  return self->predict || (self->after > 0 && self->passed >= self->after);
}

/* Before there was a frame it is not known when one is due. While real ones pass nothing is done at their
 * time, but a frame later it may be that they are to be drawn. */
static GstClockTime
gst_flow_splice_get_next_time (GstAggregator *aggregator)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  if (!GST_CLOCK_TIME_IS_VALID (self->next_pts) || !GST_CLOCK_TIME_IS_VALID (self->duration))
    return GST_CLOCK_TIME_NONE;
  const GstClockTime next = gst_segment_to_running_time (get_segment (self), GST_FORMAT_TIME, self->next_pts),
                     now = gst_element_get_current_running_time (GST_ELEMENT (self));
  GST_OBJECT_LOCK (self);
  const gboolean told = is_told_to_predict (self);
  GST_OBJECT_UNLOCK (self);
  return told || !GST_CLOCK_TIME_IS_VALID (now) ? next : MAX (next, now + self->duration);
}

/* The output has come so far. */
static void
reach (GstFlowSplice *self, GstClockTime pts, GstClockTime duration)
{
  if (!GST_CLOCK_TIME_IS_VALID (pts))
    return;
  GST_OBJECT_LOCK (self);
  get_segment (self)->position = pts + (GST_CLOCK_TIME_IS_VALID (duration) ? duration : 0);
  GST_OBJECT_UNLOCK (self);
}

/* EVENTS go on before the next frame. */
static void
send_before_frame (GstFlowSplice *self, GQueue *events)
{
  GstEvent *event;
  while ((event = g_queue_pop_head (events)))
    gst_flow_prior_send_before_buffer (GST_AGGREGATOR (self)->srcpad, event);
}

static GstFlowReturn
finish (GstFlowSplice *self, GstBuffer *buffer)
{
  send_before_frame (self, &self->tags);
  self->begun = TRUE;
  reach (self, GST_BUFFER_PTS (buffer), GST_BUFFER_DURATION (buffer));
  gst_flow_prior_record (&self->prior, GST_BUFFER_PTS (buffer));
  return gst_aggregator_finish_buffer (GST_AGGREGATOR (self), buffer);
}

/* The next frame is due behind the real one at PTS, which counts if it is as long as the rate has it. */
static void
follow (GstFlowSplice *self, GstClockTime pts)
{
  const GstClockTime end = pts + self->duration;
  come_to (self, pts);
  if (ABS (GST_CLOCK_DIFF (end, get_time_after (self, 1))) <= 1)
    advance (self, 1);
  else
    count_from (self, end);
}

static gboolean
is_whole (const GstFlowLatentInfo *info, GstBuffer *buffer)
{
  GstMapInfo map;
  if (!gst_buffer_map (buffer, &map, GST_MAP_READ))
    return FALSE;
  const gboolean whole = gst_flow_latent_read_corrections (info, map.data, map.size, NULL);
  gst_buffer_unmap (buffer, &map);
  return whole;
}

/* A real frame. */
static GstFlowReturn
pass (GstFlowSplice *self, GstBuffer *buffer)
{
  const GstFlowLatentInfo *info = &self->prior.info;
  if (!is_whole (info, buffer))
    {
      GST_ELEMENT_ERROR (self, STREAM, DECODE,
                         ("A buffer has %" G_GSIZE_FORMAT " bytes, its caps mean %" G_GSIZE_FORMAT,
                          gst_buffer_get_size (buffer), gst_flow_latent_info_size (info)),
                         (NULL));
      gst_buffer_unref (buffer);
      return GST_FLOW_ERROR;
    }
  if (info->frames)
    {
      GstFlowLatentTail tail = { 0 };
      guint32 mark = 0;
      GstMapInfo map;
      if (gst_buffer_map (buffer, &map, GST_MAP_READ))
        {
          gst_flow_latent_read_tail (info, map.data, NULL, &tail);
          mark = gst_flow_latent_mark (info, map.data);
          gst_buffer_unmap (buffer, &map);
        }
      if (self->needs_key && tail.index != 0)
        {
          gst_flow_engine_count_dropped (&self->engine, 1);
          gst_buffer_unref (buffer);
          return GST_FLOW_OK;
        }
      self->needs_key = FALSE;
      self->prior.index = tail.index + 1;
      self->prior.run = 0;
      self->prior.mark = mark;
      gst_flow_prior_sync (&self->prior, get_segment (self), GST_BUFFER_PTS (buffer));
      gst_flow_action_read (&self->prior.last_action, buffer);
      if (gst_flow_action_is_known (&self->prior.last_action))
        {
          gst_flow_action_input_take (&self->prior.input); /* keys that went up have had their frame */
          if (info->controls)
            gst_flow_action_make_controls (&self->prior.last_action, info->actions);
        }
      else if (info->actions)
        gst_flow_prior_take_action (&self->prior);
    }
  self->ahead = GST_CLOCK_TIME_NONE;
  if (GST_BUFFER_DURATION_IS_VALID (buffer) && GST_BUFFER_DURATION (buffer) > 0)
    self->duration = GST_BUFFER_DURATION (buffer);
  if (!GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT))
    gst_flow_prior_forget_key_units (&self->prior, get_segment (self), GST_BUFFER_PTS (buffer));
  send_before_frame (self, &self->keys);
  if (GST_BUFFER_PTS_IS_VALID (buffer) && GST_CLOCK_TIME_IS_VALID (self->duration))
    follow (self, GST_BUFFER_PTS (buffer));
  self->passed++;
  return finish (self, buffer);
}

/* How many frames from the next one on sinks say it is too late for, MOST at most; they are left out. */
static guint64
leave_out (GstFlowSplice *self, guint64 most)
{
  const GstSegment *segment = get_segment (self);
  const GstClockTime pts = self->next_pts;
  const gboolean live = GST_CLOCK_TIME_IS_VALID (gst_aggregator_get_latency (GST_AGGREGATOR (self)));
  GstClockTime until;
  if (!GST_CLOCK_TIME_IS_VALID (pts) || !GST_CLOCK_TIME_IS_VALID (self->duration)
      || !gst_flow_prior_is_late (&self->prior, segment, pts, &until))
    return 0;
  const guint64 end = gst_flow_times_frame_from (&self->times, until),
                all = self->times.fps_n > 0 ? MAX (end, self->since + 1) - self->since
                                            : (until - pts - 1) / MAX (self->duration, 1) + 1;
  const guint64 n = MIN (all, most);
  gst_flow_prior_leave_out (&self->prior, segment, live, pts, get_time_after (self, n) - pts, n);
  gst_flow_engine_count_dropped (&self->engine, n);
  return n;
}

/* A drawn one, at the time of the real one that it replaces, if there is one. */
static GstFlowReturn
predict (GstFlowSplice *self, GstBuffer *replaced, gint64 horizon, gboolean ended)
{
  const GstFlowLatentInfo *info = &self->prior.info;
  if (replaced && GST_BUFFER_PTS_IS_VALID (replaced))
    come_to (self, GST_BUFFER_PTS (replaced));
  const GstClockTime pts = self->next_pts;

  if (replaced || ended)
    self->ahead = GST_CLOCK_TIME_NONE;
  else if (!GST_CLOCK_TIME_IS_VALID (self->ahead))
    self->ahead = pts;
  gst_clear_buffer (&replaced);
  drop_events (&self->keys);
  if (horizon >= 0 && self->predicted >= (guint64)horizon)
    return GST_FLOW_EOS;
  take_rate (self);
  /* real frames that are still to come are left out one by one */
  const guint64 most = !ended ? 1 : horizon < 0 || info->frames ? G_MAXUINT64 : horizon - self->predicted;
  const guint64 late = leave_out (self, most);
  advance (self, MAX (late, 1));
  if (late > 0)
    {
      reach (self, self->next_pts, 0);
      /* pictures are left out, a world has none for that time */
      self->predicted += info->frames ? 0 : late;
      return GST_FLOW_OK;
    }
  const GstFlowReturn result = ended ? wait_for (self, pts) : GST_FLOW_OK;
  if (result != GST_FLOW_OK)
    return result;
  const gint64 start = g_get_monotonic_time ();
  gst_flow_prior_sync (&self->prior, get_segment (self), pts);
  gst_flow_prior_answer_key_units (&self->prior, GST_AGGREGATOR (self)->srcpad, get_segment (self), pts);
  GstBuffer *buffer = gst_flow_prior_draw (&self->prior, self->predicted++);
  if (!buffer)
    return GST_FLOW_ERROR;
  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_DURATION (buffer)
      = GST_CLOCK_TIME_IS_VALID (self->next_pts) ? self->next_pts - pts : self->duration;
  if (gst_flow_engine_count_frame (&self->engine, start))
    {
      const GstClockTime latency = gst_flow_engine_get_latency (&self->engine);
      gst_aggregator_set_latency (GST_AGGREGATOR (self), latency, latency);
    }
  return finish (self, buffer);
}

static void
ask_for_key (GstFlowSplice *self)
{
  g_autoptr (GstAggregatorPad) pad = get_sink_pad (self);
  if (pad)
    gst_pad_push_event (GST_PAD (pad),
                        gst_video_event_new_upstream_force_key_unit (GST_CLOCK_TIME_NONE, FALSE, 0));
}

/* GstAggregator makes an empty buffer of a gap event, such as demuxers send where a track has nothing. */
static gboolean
take_gap (GstFlowSplice *self, GstBuffer **buffer)
{
  g_autoptr (GstBuffer) gap = NULL;
  if (!*buffer || gst_buffer_get_size (*buffer) > 0 || !GST_BUFFER_FLAG_IS_SET (*buffer, GST_BUFFER_FLAG_GAP))
    return FALSE;
  gap = g_steal_pointer (buffer);
  if (GST_BUFFER_PTS_IS_VALID (gap) && GST_BUFFER_DURATION_IS_VALID (gap))
    count_from (self, GST_BUFFER_PTS (gap) + GST_BUFFER_DURATION (gap));
  if (self->begun && GST_BUFFER_PTS_IS_VALID (gap))
    gst_pad_push_event (GST_AGGREGATOR (self)->srcpad,
                        gst_event_new_gap (GST_BUFFER_PTS (gap), GST_BUFFER_DURATION (gap)));
  return TRUE;
}

/* Of a live input: a frame was drawn at the time of BUFFER already, when it had not come. */
static gboolean
came_late (const GstFlowSplice *self, GstBuffer *buffer)
{
  const GstClockTime middle = GST_BUFFER_PTS (buffer) + self->duration / 2;
  return GST_BUFFER_PTS_IS_VALID (buffer) && GST_CLOCK_TIME_IS_VALID (self->ahead)
         && GST_CLOCK_TIME_IS_VALID (self->duration) && GST_CLOCK_TIME_IS_VALID (self->next_pts)
         && middle >= self->ahead && middle < self->next_pts;
}

static GstFlowReturn
gst_flow_splice_aggregate (GstAggregator *aggregator, gboolean timeout)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (aggregator);
  g_autoptr (GstAggregatorPad) pad = get_sink_pad (self);
  if (!pad)
    return GST_FLOW_EOS;
  const gboolean ended = gst_aggregator_pad_is_eos (pad);
  GstBuffer *buffer = gst_aggregator_pad_pop_buffer (pad);

  if (take_gap (self, &buffer))
    return GST_FLOW_OK;
  GST_OBJECT_LOCK (self);
  const gboolean told = is_told_to_predict (self), known = self->caps != NULL;
  const gint64 horizon = self->ending ? 0 : self->horizon;
  GST_OBJECT_UNLOCK (self);
  const gboolean was = self->predicting;
  self->predicting = (ended && !buffer) || told;
  if (!known)
    {
      gst_clear_buffer (&buffer);
      return ended ? GST_FLOW_EOS : GST_AGGREGATOR_FLOW_NEED_DATA;
    }
  /* backwards the end is where all began, and before that there was nothing */
  if (ended && !buffer && get_segment (self)->rate < 0)
    return GST_FLOW_EOS;
  if (ended && !buffer && !self->begun && !GST_CLOCK_TIME_IS_VALID (self->next_pts) && self->times.fps_n > 0)
    count_from (self, get_segment (self)->start);
  if (was && !self->predicting && self->prior.info.frames)
    {
      /* What real frames were predicted from is not what went downstream. */
      self->needs_key = TRUE;
      ask_for_key (self);
    }
  if (buffer && came_late (self, buffer))
    {
      gst_clear_buffer (&buffer);
      drop_events (&self->keys);
      if (self->needs_key && !self->predicting) /* it may have been that */
        ask_for_key (self);
      return GST_FLOW_OK;
    }
  if (!self->predicting && buffer)
    return pass (self, buffer);
  if (!self->predicting || (!buffer && !ended && !timeout))
    return GST_AGGREGATOR_FLOW_NEED_DATA;
  return predict (self, buffer, horizon, ended && !buffer);
}

static GstStateChangeReturn
gst_flow_splice_change_state (GstElement *element, GstStateChange transition)
{
  GstFlowLive *live = &GST_FLOW_SPLICE (element)->live;
  gst_flow_live_set_paused (live, element, GST_STATE_TRANSITION_NEXT (transition) != GST_STATE_PLAYING);
  if (transition == GST_STATE_CHANGE_READY_TO_PAUSED || transition == GST_STATE_CHANGE_PAUSED_TO_READY)
    gst_flow_live_set_unlocked (live, element, transition == GST_STATE_CHANGE_PAUSED_TO_READY);
  return gst_flow_engine_change_state (&GST_FLOW_SPLICE (element)->engine,
                                       GST_ELEMENT_CLASS (gst_flow_splice_parent_class), transition);
}

/* Of an application. Another end than that of the input, which is where drawing begins. */
static gboolean
gst_flow_splice_send_event (GstElement *element, GstEvent *event)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (element);
  if (GST_EVENT_TYPE (event) != GST_EVENT_EOS)
    return GST_ELEMENT_CLASS (gst_flow_splice_parent_class)->send_event (element, event);
  GST_OBJECT_LOCK (self);
  self->ending = TRUE;
  GST_OBJECT_UNLOCK (self);
  gst_event_unref (event);
  return TRUE;
}

/* Properties */

static void
gst_flow_splice_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (object);

  if (!gst_flow_can_set (self, value, pspec) || gst_flow_engine_set_property (&self->engine, id, value)
      || gst_flow_prior_set_property (&self->prior, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_IS_LIVE:
      self->is_live = g_value_get_boolean (value);
      break;
    case PROP_PREDICT:
      self->predict = g_value_get_boolean (value);
      break;
    case PROP_AFTER:
      self->after = g_value_get_uint64 (value);
      break;
    case PROP_HORIZON:
      self->horizon = g_value_get_int64 (value);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
  if (id == PROP_IS_LIVE)
    gst_aggregator_set_force_live (GST_AGGREGATOR (self), g_value_get_boolean (value));
}

static void
gst_flow_splice_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowSplice *self = GST_FLOW_SPLICE (object);

  if (gst_flow_engine_get_property (&self->engine, id, value)
      || gst_flow_prior_get_property (&self->prior, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_IS_LIVE:
      g_value_set_boolean (value, self->is_live);
      break;
    case PROP_PREDICT:
      g_value_set_boolean (value, self->predict);
      break;
    case PROP_AFTER:
      g_value_set_uint64 (value, self->after);
      break;
    case PROP_HORIZON:
      g_value_set_int64 (value, self->horizon);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_splice_finalize (GObject *object)
{
  gst_flow_engine_clear (&GST_FLOW_SPLICE (object)->engine);
  gst_flow_prior_clear (&GST_FLOW_SPLICE (object)->prior);
  g_cond_clear (&GST_FLOW_SPLICE (object)->live.resumed);
  G_OBJECT_CLASS (gst_flow_splice_parent_class)->finalize (object);
}

static void
gst_flow_splice_class_init (GstFlowSpliceClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstAggregatorClass *aggregator_class = GST_AGGREGATOR_CLASS (class);
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS;

  object_class->set_property = gst_flow_splice_set_property;
  object_class->get_property = gst_flow_splice_get_property;
  object_class->finalize = gst_flow_splice_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_splice_change_state);
  element_class->send_event = GST_DEBUG_FUNCPTR (gst_flow_splice_send_event);
  aggregator_class->start = GST_DEBUG_FUNCPTR (gst_flow_splice_start);
  aggregator_class->stop = GST_DEBUG_FUNCPTR (gst_flow_splice_stop);
  aggregator_class->create_new_pad = GST_DEBUG_FUNCPTR (gst_flow_splice_create_new_pad);
  aggregator_class->flush = GST_DEBUG_FUNCPTR (gst_flow_splice_flush);
  aggregator_class->sink_event = GST_DEBUG_FUNCPTR (gst_flow_splice_sink_event);
  aggregator_class->src_event = GST_DEBUG_FUNCPTR (gst_flow_splice_src_event);
  aggregator_class->src_query = GST_DEBUG_FUNCPTR (gst_flow_splice_src_query);
  aggregator_class->update_src_caps = GST_DEBUG_FUNCPTR (gst_flow_splice_update_src_caps);
  aggregator_class->get_next_time = GST_DEBUG_FUNCPTR (gst_flow_splice_get_next_time);
  aggregator_class->aggregate = GST_DEBUG_FUNCPTR (gst_flow_splice_aggregate);

  gst_flow_engine_install_properties (object_class, GST_FLOW_ENGINE_NO_WORK);
  gst_flow_prior_install_properties (object_class);
  g_object_class_install_property (object_class, PROP_IS_LIVE,
                                   g_param_spec_boolean ("is-live", "Is live",
                                                         "Keep to the clock even if upstream does not", FALSE,
                                                         flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (object_class, PROP_PREDICT,
                                   g_param_spec_boolean ("predict", "Predict", "Draw frames from now on",
                                                         FALSE, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (object_class, PROP_AFTER,
                                   g_param_spec_uint64 ("after", "After",
                                                        "Real frames after which to draw; 0 is all", 0,
                                                        G_MAXUINT64, 0, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (object_class, PROP_HORIZON,
                                   g_param_spec_int64 ("horizon", "Horizon",
                                                       "Frames to draw before the end; -1 is no end", -1,
                                                       G_MAXINT64, -1, flags | GST_PARAM_MUTABLE_PLAYING));

  gst_element_class_add_static_pad_template_with_gtype (element_class, &sink_template,
                                                        GST_TYPE_AGGREGATOR_PAD);
  gst_element_class_add_static_pad_template_with_gtype (element_class, &src_template,
                                                        GST_TYPE_AGGREGATOR_PAD);
  gst_element_class_set_static_metadata (element_class, "Flow continuation", "Filter/Video",
                                         "Continues latents of a normalizing flow", "the normflow authors");
}

static void
gst_flow_splice_init (GstFlowSplice *self)
{
  gst_flow_engine_init (&self->engine, self, GST_FLOW_ENGINE_NO_WORK);
  gst_flow_prior_init (&self->prior, self);
  g_cond_init (&self->live.resumed);
  self->horizon = -1;
  forget (self);
}
