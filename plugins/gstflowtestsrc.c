/* normflow: GStreamer element flowtestsrc. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowtestsrc
 * @title: flowtestsrc
 * @short_description: worlds whose truth is known
 *
 * A source of video like videotestsrc, of small worlds (NfWorld): a ball under gravity, pong, a map that
 * scrolls. Caps decide size, format and rate; the same `seed` and actions give the same frames on every
 * machine. Keys and the mouse, as navigation events from a video sink, become actions by `action-map`; while
 * nothing is pressed the action is the property `action`, which can be controlled. Action t is read when
 * frame t is sent, and shows in frame t+1.
 *
 * Each buffer has the action (GstFlowActionMeta) and the truth (GstFlowWorldMeta), with the exact entropy of
 * the frame given all frames and actions before it.
 *
 * |[
 * gst-launch-1.0 flowtestsrc pattern=pong is-live=true ! video/x-raw,width=320,height=240 ! videoconvert !
 * autovideosink
 * ]| is a game of pong.
 *
 * Since: 0.1
 */

#include "gstflowtestsrc.h"

#include <math.h>
#include <string.h>

#include "gstflowaction.h"
#include "gstflowengine.h"
#include "gstflowlatent.h"
#include "gstflowlive.h"
#include "gstflowworld.h"

#define GST_CAT_DEFAULT gst_flow_debug

/* Fields that are left open are what frames are drawn as. */
#define VIDEO_CAPS                                                                                           \
  "video/x-raw, format = (string) { RGB, BGR, RGBx, BGRx, xRGB, xBGR, GBR, RGBP, BGRP }, " SIZE_AND_RATE     \
  "; video/x-raw, format = (string) { I420, NV12, YV12, NV21 }, colorimetry = (string) "                     \
  "bt601, " SIZE_AND_RATE "; video/x-raw, format = (string) GRAY8, " SIZE_AND_RATE
#define SIDE "(int) [ 16, " G_STRINGIFY (NF_MAX_SIDE) " ]"
#define SIZE_AND_RATE "width = " SIDE ", height = " SIDE ", framerate = " GST_VIDEO_FPS_RANGE

#define DEFAULT_SIDE 64
#define MOST_FRAMES G_MAXINT32 /* whose actions are remembered, a byte each */

enum
{
  PROP_PATTERN = 1,
  PROP_SEED,
  PROP_IS_LIVE,
  PROP_ACTION,
  PROP_ACTION_MAP,
  PROP_ACTIONS_LOCATION,
  PROP_RECORD_ACTIONS,
  PROP_POST_MESSAGES,
};

struct _GstFlowTestSrc
{
  GstPushSrc parent_instance;

  GstFlowActionInput input;

  /* under the object lock */
  NfWorldPattern wanted_pattern;
  NfWorldPattern pattern; /* in use, from start to stop */
  gint64 wanted_seed;     /* -1: a random one */
  gint64 seed;            /* in use, -1 if not started */
  guint action;
  char *action_map; /* NULL: the pattern's own */
  char *actions_location;
  char *record_actions;
  gboolean post_messages;
  gboolean started;
  GstFlowLive live;
  GstClockTime end; /* of the stream, none if there is none */

  /* of the streaming thread */
  GstVideoInfo info;
  gboolean has_info;
  NfPixelLayout layout;
  NfWorld *world;
  guint64 world_begin; /* frame of the stream that is the world's first */
  guint64 frame_index;
  GstFlowTimes times;  /* of frames */
  gboolean begun;      /* a frame was sent */
  guint64 sent;        /* buffers, over seeks as well */
  guint last_action;   /* of the frame before */
  GByteArray *history; /* action of each frame, for seeking; none if live */
  GArray *replay;      /* actions_location's, or NULL */
  NfActionsWriter *record;
  gboolean warned;
};

static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (VIDEO_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowTestSrc, gst_flow_test_src, GST_TYPE_PUSH_SRC)
GST_ELEMENT_REGISTER_DEFINE (flowtestsrc, "flowtestsrc", GST_RANK_NONE, GST_TYPE_FLOW_TEST_SRC)

static GType
pattern_get_type (void)
{
  static const GEnumValue values[] = {
    { NF_WORLD_BOUNCE, "A ball under gravity between four walls, kicked at random; no actions", "bounce" },
    { NF_WORLD_PONG, "A ball and a paddle; actions 1 up, 2 down", "pong" },
    { NF_WORLD_GRIDWORLD, "A map; actions 1 up, 2 down, 3 left, 4 right", "gridworld" },
    { 0, NULL, NULL },
  };
  static gsize type;
  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowTestSrcPattern", values));
  return type;
}

static const char *
default_map (NfWorldPattern pattern)
{
  static const char *const maps[]
      = { "", "Up=1,Down=2,w=1,s=2,ScrollUp=1,ScrollDown=2", "Up=1,Down=2,Left=3,Right=4,w=1,s=2,a=3,d=4" };
  return maps[pattern];
}

/* Starting and stopping */

/* The video goes on without. */
static void
stop_recording (GstFlowTestSrc *self, const GError *error)
{
  GST_ELEMENT_WARNING (self, RESOURCE, WRITE, ("%s; actions are not recorded from here on", error->message),
                       (NULL));
  g_clear_pointer (&self->record, nf_actions_writer_free);
}

static gboolean
gst_flow_test_src_stop (GstBaseSrc *src)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  g_autoptr (GError) error = NULL;

  GST_OBJECT_LOCK (self);
  self->seed = -1;
  self->started = FALSE;
  self->end = GST_CLOCK_TIME_NONE;
  GST_OBJECT_UNLOCK (self);
  if (self->record && !nf_actions_writer_close (self->record, &error))
    stop_recording (self, error);
  g_clear_pointer (&self->record, nf_actions_writer_free);
  g_clear_pointer (&self->replay, g_array_unref);
  g_clear_pointer (&self->history, g_byte_array_unref);
  g_clear_pointer (&self->world, nf_world_free);
  gst_flow_action_input_set_map (&self->input, NULL);
  return TRUE;
}

static gboolean
fail_start (GstFlowTestSrc *self, const GError *error)
{
  gst_flow_post_error (self, error);
  gst_flow_test_src_stop (GST_BASE_SRC (self));
  return FALSE;
}

static gboolean
gst_flow_test_src_start (GstBaseSrc *src)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  g_autoptr (GError) error = NULL;

  GST_OBJECT_LOCK (self);
  self->pattern = self->wanted_pattern;
  /* Non-negative, so that it can be asked for again. */
  self->seed = self->wanted_seed >= 0
                   ? self->wanted_seed
                   : (gint64)((((guint64)g_random_int () << 32) | g_random_int ()) & G_MAXINT64);
  self->started = TRUE;
  g_autofree char *map_text = g_strdup (self->action_map ? self->action_map : default_map (self->pattern));
  g_autofree char *location = g_strdup (self->actions_location);
  g_autofree char *record = g_strdup (self->record_actions);
  GST_OBJECT_UNLOCK (self);
  self->frame_index = self->world_begin = self->sent = 0;
  self->times = (GstFlowTimes){ 0 };
  self->has_info = self->warned = self->begun = FALSE;
  self->last_action = 0;
  g_object_notify (G_OBJECT (self), "seed");

  const guint n_actions = nf_world_pattern_actions (self->pattern);
  GstFlowActionMap *map = gst_flow_action_map_parse (map_text, n_actions, &error);
  if (!map)
    return fail_start (self, error);
  gst_flow_action_input_set_map (&self->input, map);
  if (location && !(self->replay = nf_actions_read_known (location, n_actions, &error)))
    return fail_start (self, error);
  if (record && !(self->record = nf_actions_writer_open (record, &error)))
    return fail_start (self, error);
  if (!gst_base_src_is_live (src))
    self->history = g_byte_array_new ();
  return TRUE;
}

/* Negotiation */

static GstCaps *
gst_flow_test_src_fixate (GstBaseSrc *src, GstCaps *caps)
{
  caps = gst_caps_make_writable (gst_caps_truncate (caps));
  GstStructure *structure = gst_caps_get_structure (caps, 0);
  gst_structure_fixate_field_nearest_int (structure, "width", DEFAULT_SIDE);
  gst_structure_fixate_field_nearest_int (structure, "height", DEFAULT_SIDE);
  gst_structure_fixate_field_nearest_fraction (structure, "framerate", 30, 1);
  if (gst_structure_has_field (structure, "pixel-aspect-ratio"))
    gst_structure_fixate_field_nearest_fraction (structure, "pixel-aspect-ratio", 1, 1);
  return GST_BASE_SRC_CLASS (gst_flow_test_src_parent_class)->fixate (src, caps);
}

static gboolean
find_layout (GstVideoFormat format, NfPixelLayout *layout)
{
  static const NfPixelLayout all[] = { NF_PIXELS_RGB, NF_PIXELS_GRAY, NF_PIXELS_YUV420 };
  for (guint i = 0; i < G_N_ELEMENTS (all); i++)
    {
      guint n;
      const GstVideoFormat *formats = gst_flow_video_formats (all[i], &n);
      for (guint j = 0; j < n; j++)
        if (formats[j] == format)
          {
            *layout = all[i];
            return TRUE;
          }
    }
  return FALSE;
}

/* Where the stream ends, by what is still to be sent. */
static void
set_end (GstFlowTestSrc *self)
{
  const GstClockTime end = gst_flow_times_get_end (&self->times, self->frame_index, self->sent,
                                                   GST_BASE_SRC (self)->num_buffers);
  GST_OBJECT_LOCK (self);
  self->end = end;
  GST_OBJECT_UNLOCK (self);
}

static gboolean
gst_flow_test_src_set_caps (GstBaseSrc *src, GstCaps *caps)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  GstVideoInfo info;
  NfPixelLayout layout;

  if (!gst_video_info_from_caps (&info, caps) || !find_layout (GST_VIDEO_INFO_FORMAT (&info), &layout))
    return FALSE;
  gst_flow_times_set_rate (&self->times, self->frame_index, GST_VIDEO_INFO_FPS_N (&info),
                           GST_VIDEO_INFO_FPS_D (&info));
  /* Another size is another world: of the same actions, where they are remembered. */
  if (self->has_info
      && (GST_VIDEO_INFO_WIDTH (&info) != GST_VIDEO_INFO_WIDTH (&self->info)
          || GST_VIDEO_INFO_HEIGHT (&info) != GST_VIDEO_INFO_HEIGHT (&self->info)))
    {
      g_clear_pointer (&self->world, nf_world_free);
      if (!self->history)
        self->world_begin = self->frame_index;
    }
  self->info = info;
  self->layout = layout;
  /* A seek that came before the frame rate was known. */
  if (!self->has_info)
    self->frame_index = gst_flow_times_frame_at (&self->times, src->segment.position);
  self->has_info = TRUE;
  set_end (self);
  return TRUE;
}

static gboolean
gst_flow_test_src_decide_allocation (GstBaseSrc *src, GstQuery *query)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  g_autoptr (GstBufferPool) pool = NULL;
  guint size = (guint)GST_VIDEO_INFO_SIZE (&self->info), least = 0, most = 0;
  const gboolean offered = gst_query_get_n_allocation_pools (query) > 0;
  GstCaps *caps;

  if (offered)
    {
      guint wanted;
      gst_query_parse_nth_allocation_pool (query, 0, &pool, &wanted, &least, &most);
      size = MAX (size, wanted);
    }
  if (!pool)
    pool = gst_video_buffer_pool_new ();
  GstStructure *config = gst_buffer_pool_get_config (pool);
  gst_query_parse_allocation (query, &caps, NULL);
  gst_buffer_pool_config_set_params (config, caps, size, least, most);
  if (gst_query_find_allocation_meta (query, GST_VIDEO_META_API_TYPE, NULL))
    gst_buffer_pool_config_add_option (config, GST_BUFFER_POOL_OPTION_VIDEO_META);
  if (!gst_buffer_pool_set_config (pool, config))
    GST_DEBUG_OBJECT (self, "the pool has its own opinion");
  if (offered)
    gst_query_set_nth_allocation_pool (query, 0, pool, size, least, most);
  else
    gst_query_add_allocation_pool (query, pool, size, least, most);
  return GST_BASE_SRC_CLASS (gst_flow_test_src_parent_class)->decide_allocation (src, query);
}

/* Actions */

/* What is done at FRAME, at TIME of the stream; keys only for frames that somebody sees. */
static guint
choose_action (GstFlowTestSrc *self, guint64 frame, GstClockTime time, gboolean keys)
{
  const guint n_actions = nf_world_pattern_actions (self->pattern);
  const gint pressed = keys ? gst_flow_action_input_take (&self->input) : -1;

  gst_object_sync_values (GST_OBJECT (self), time);
  if (self->replay && frame < self->replay->len)
    return g_array_index (self->replay, guint, frame);
  if (pressed >= 0)
    return (guint)pressed;
  GST_OBJECT_LOCK (self);
  const guint action = self->action;
  GST_OBJECT_UNLOCK (self);
  if (action < n_actions)
    return action;
  if (!self->warned)
    GST_ELEMENT_WARNING (self, RESOURCE, SETTINGS,
                         ("There is no action %u in %s, only 0 to %u; it counts as 0", action,
                          nf_world_pattern_name (self->pattern), n_actions - 1),
                         (NULL));
  self->warned = TRUE;
  return 0;
}

static void
record_action (GstFlowTestSrc *self, GstClockTime pts, guint action)
{
  g_autoptr (GError) error = NULL;
  if (self->record && !nf_actions_writer_put (self->record, pts, action, &error))
    stop_recording (self, error);
}

static void
remember_action (GstFlowTestSrc *self, guint action)
{
  const guint8 byte = (guint8)action;
  self->last_action = action;
  if (self->history)
    g_byte_array_append (self->history, &byte, 1);
}

/* The world as it is at frame_index. FALSE without an error: it was unlocked, and goes on from there. */
static gboolean
reach_frame (GstFlowTestSrc *self, GError **error)
{
  NfWorldState state = { 0 };
  if (self->history && self->frame_index >= MOST_FRAMES)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "frame %" G_GUINT64_FORMAT " is too far: seek to one before frame %d", self->frame_index,
                   MOST_FRAMES);
      return FALSE;
    }
  if (self->world)
    nf_world_get_state (self->world, &state);
  if (self->world && state.frame + self->world_begin > self->frame_index)
    g_clear_pointer (&self->world, nf_world_free);
  if (!self->world)
    {
      self->world = nf_world_new (self->pattern, GST_VIDEO_INFO_WIDTH (&self->info),
                                  GST_VIDEO_INFO_HEIGHT (&self->info), (guint64)self->seed, error);
      if (!self->world)
        return FALSE;
      state.frame = 0;
    }
  /* Frames that a seek leaps over happen all the same, without keys. */
  for (guint64 n = self->history ? self->history->len : self->frame_index; n < self->frame_index; n++)
    {
      if (gst_flow_live_is_unlocked (&self->live, GST_ELEMENT (self)))
        return FALSE;
      const GstClockTime time = gst_flow_times_get (&self->times, n);
      const guint action = choose_action (self, n, time, FALSE);
      record_action (self, time, action);
      remember_action (self, action);
    }
  for (guint64 n = state.frame + self->world_begin; n < self->frame_index; n++)
    if (gst_flow_live_is_unlocked (&self->live, GST_ELEMENT (self))
        || !nf_world_step (self->world, self->history ? self->history->data[n] : self->last_action, error))
      return FALSE;
  return TRUE;
}

/* Frames */

static gboolean
gst_flow_test_src_unlock (GstBaseSrc *src)
{
  gst_flow_live_set_unlocked (&GST_FLOW_TEST_SRC (src)->live, GST_ELEMENT (src), TRUE);
  return TRUE;
}

static gboolean
gst_flow_test_src_unlock_stop (GstBaseSrc *src)
{
  gst_flow_live_set_unlocked (&GST_FLOW_TEST_SRC (src)->live, GST_ELEMENT (src), FALSE);
  return TRUE;
}

static void
post_step (GstFlowTestSrc *self, GstClockTime pts, guint action, const NfWorldState *state)
{
  const GstSegment *segment = &GST_BASE_SRC (self)->segment;
  GST_OBJECT_LOCK (self);
  const gboolean wanted = self->post_messages;
  GST_OBJECT_UNLOCK (self);
  if (!wanted)
    return;
  GstStructure *structure = gst_structure_new (
      "flow-step", "frame", G_TYPE_UINT64, self->frame_index, "action", G_TYPE_INT, (gint)action, "seed",
      G_TYPE_INT64, self->seed, "timestamp", G_TYPE_UINT64, pts, "stream-time", G_TYPE_UINT64,
      gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts), "running-time", G_TYPE_UINT64,
      gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts), "entropy-bits", G_TYPE_DOUBLE,
      state->entropy, "information-bits", G_TYPE_DOUBLE, state->information, NULL);
  gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), structure));
}

static gboolean
draw (GstFlowTestSrc *self, GstBuffer *buffer)
{
  GstVideoFrame frame;
  NfFrame view;
  if (!gst_video_frame_map (&frame, &self->info, buffer, GST_MAP_WRITE))
    return FALSE;
  gst_flow_frame_view (&frame, &self->info, &view);
  gst_flow_frame_fill_padding (&frame, &view);
  nf_world_render (self->world, self->layout, &view);
  gst_video_frame_unmap (&frame);
  return TRUE;
}

static GstFlowReturn
gst_flow_test_src_fill (GstPushSrc *src, GstBuffer *buffer)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  const guint64 n = self->frame_index;
  g_autoptr (GError) error = NULL;
  NfWorldState state;

  if (!self->has_info)
    return GST_FLOW_NOT_NEGOTIATED;
  if (self->times.fps_n == 0 && n > 0) /* a still */
    return GST_FLOW_EOS;
  if (!reach_frame (self, &error))
    return error ? gst_flow_post_error (self, error) : GST_FLOW_FLUSHING;
  if (!draw (self, buffer))
    {
      GST_ELEMENT_ERROR (self, RESOURCE, WRITE, ("A buffer for video cannot be written to"), (NULL));
      return GST_FLOW_ERROR;
    }
  if (!self->begun)
    self->times.base += gst_flow_live_begin (GST_BASE_SRC (src));
  self->begun = TRUE;
  const GstClockTime pts = gst_flow_times_get (&self->times, n);
  /* its action is the one of that moment */
  const GstFlowReturn result = gst_flow_live_wait_for_frame (&self->live, GST_BASE_SRC (src), pts);
  if (result != GST_FLOW_OK)
    return result;

  const guint action = choose_action (self, n, pts, TRUE);
  record_action (self, pts, action);
  remember_action (self, action);
  nf_world_get_state (self->world, &state);
  gst_flow_action_meta_attach (buffer, action, n);
  gst_flow_world_meta_attach (buffer, self->world, self->seed, action, n);
  post_step (self, pts, action, &state);

  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_DTS (buffer) = GST_CLOCK_TIME_NONE;
  GST_BUFFER_DURATION (buffer)
      = self->times.fps_n > 0 ? gst_flow_times_get (&self->times, n + 1) - pts : GST_CLOCK_TIME_NONE;
  GST_BUFFER_OFFSET (buffer) = n;
  GST_BUFFER_OFFSET_END (buffer) = n + 1;
  self->frame_index++;
  self->sent++;
  set_end (self);
  return GST_FLOW_OK;
}

/* Times and seeking */

static gboolean
gst_flow_test_src_is_seekable (GstBaseSrc *src)
{
  return !gst_base_src_is_live (src);
}

/* What was done up to the new place is remembered; what comes after it may be done otherwise. */
static gboolean
gst_flow_test_src_do_seek (GstBaseSrc *src, GstSegment *segment)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  g_autoptr (GError) error = NULL;

  if (segment->rate < 0)
    return FALSE;
  segment->time = segment->start;
  gst_flow_times_begin (&self->times, 0, 0);
  self->frame_index = gst_flow_times_frame_at (&self->times, segment->position);
  set_end (self);
  if (self->history && self->history->len > self->frame_index)
    {
      g_byte_array_set_size (self->history, (guint)self->frame_index);
      if (self->record && !nf_actions_writer_rewind (self->record, self->frame_index, &error))
        stop_recording (self, error);
    }
  return TRUE;
}

static gboolean
gst_flow_test_src_event (GstBaseSrc *src, GstEvent *event)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  if (GST_EVENT_TYPE (event) == GST_EVENT_NAVIGATION)
    return gst_flow_action_input_event (&self->input, GST_ELEMENT (self), event);
  if (GST_EVENT_TYPE (event) == GST_EVENT_SEEK)
    {
      /* Refused before anything is flushed for it. */
      double rate;
      gst_event_parse_seek (event, &rate, NULL, NULL, NULL, NULL, NULL, NULL);
      if (rate < 0)
        return FALSE;
    }
  return GST_BASE_SRC_CLASS (gst_flow_test_src_parent_class)->event (src, event);
}

static gboolean
gst_flow_test_src_query (GstBaseSrc *src, GstQuery *query)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (src);
  GstFormat format;
  GstClockTime end;

  switch (GST_QUERY_TYPE (query))
    {
    case GST_QUERY_LATENCY:
      /* A live frame is drawn before its time and sent at it. */
      gst_query_set_latency (query, gst_base_src_is_live (src), 0, GST_CLOCK_TIME_NONE);
      return TRUE;
    case GST_QUERY_DURATION:
      gst_query_parse_duration (query, &format, NULL);
      GST_OBJECT_LOCK (self);
      end = self->end;
      GST_OBJECT_UNLOCK (self);
      if (format != GST_FORMAT_TIME || !GST_CLOCK_TIME_IS_VALID (end))
        break;
      gst_query_set_duration (query, format, (gint64)end);
      return TRUE;
    default:
      break;
    }
  return GST_BASE_SRC_CLASS (gst_flow_test_src_parent_class)->query (src, query);
}

/* Properties */

/* While running a wrong map changes nothing; before, it fails the start. */
static void
set_action_map (GstFlowTestSrc *self, const char *text)
{
  g_autoptr (GError) error = NULL;
  GST_OBJECT_LOCK (self);
  const gboolean started = self->started;
  const NfWorldPattern pattern = self->pattern;
  GST_OBJECT_UNLOCK (self);
  if (started)
    {
      GstFlowActionMap *map = gst_flow_action_map_parse (text ? text : default_map (pattern),
                                                         nf_world_pattern_actions (pattern), &error);
      if (!map)
        {
          GST_ELEMENT_WARNING (self, RESOURCE, SETTINGS, ("%s; the one before is kept", error->message),
                               (NULL));
          return;
        }
      gst_flow_action_input_set_map (&self->input, map);
    }
  GST_OBJECT_LOCK (self);
  g_free (self->action_map);
  self->action_map = g_strdup (text);
  GST_OBJECT_UNLOCK (self);
}

static void
set_string (GstFlowTestSrc *self, char **at, const GValue *value)
{
  GST_OBJECT_LOCK (self);
  g_free (*at);
  *at = g_value_dup_string (value);
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_test_src_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (object);

  if (!gst_flow_can_set (self, value, pspec))
    return;
  switch (id)
    {
    case PROP_PATTERN:
      GST_OBJECT_LOCK (self);
      self->wanted_pattern = (NfWorldPattern)g_value_get_enum (value);
      GST_OBJECT_UNLOCK (self);
      break;
    case PROP_SEED:
      GST_OBJECT_LOCK (self);
      self->wanted_seed = g_value_get_int64 (value);
      GST_OBJECT_UNLOCK (self);
      break;
    case PROP_IS_LIVE:
      gst_base_src_set_live (GST_BASE_SRC (self), g_value_get_boolean (value));
      break;
    case PROP_ACTION:
      GST_OBJECT_LOCK (self);
      self->action = (guint)g_value_get_int (value);
      GST_OBJECT_UNLOCK (self);
      break;
    case PROP_ACTION_MAP:
      set_action_map (self, g_value_get_string (value));
      break;
    case PROP_ACTIONS_LOCATION:
      set_string (self, &self->actions_location, value);
      break;
    case PROP_RECORD_ACTIONS:
      set_string (self, &self->record_actions, value);
      break;
    case PROP_POST_MESSAGES:
      GST_OBJECT_LOCK (self);
      self->post_messages = g_value_get_boolean (value);
      GST_OBJECT_UNLOCK (self);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
gst_flow_test_src_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (object);

  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_PATTERN:
      g_value_set_enum (value, self->wanted_pattern);
      break;
    case PROP_SEED:
      g_value_set_int64 (value, self->seed >= 0 ? self->seed : self->wanted_seed);
      break;
    case PROP_IS_LIVE:
      g_value_set_boolean (value, GST_BASE_SRC (self)->is_live);
      break;
    case PROP_ACTION:
      g_value_set_int (value, (gint)self->action);
      break;
    case PROP_ACTION_MAP:
      g_value_set_string (value, self->action_map);
      break;
    case PROP_ACTIONS_LOCATION:
      g_value_set_string (value, self->actions_location);
      break;
    case PROP_RECORD_ACTIONS:
      g_value_set_string (value, self->record_actions);
      break;
    case PROP_POST_MESSAGES:
      g_value_set_boolean (value, self->post_messages);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_test_src_finalize (GObject *object)
{
  GstFlowTestSrc *self = GST_FLOW_TEST_SRC (object);
  gst_flow_action_input_clear (&self->input);
  g_free (self->action_map);
  g_free (self->actions_location);
  g_free (self->record_actions);
  G_OBJECT_CLASS (gst_flow_test_src_parent_class)->finalize (object);
}

static void
install_properties (GObjectClass *class)
{
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS;
  g_object_class_install_property (class, PROP_PATTERN,
                                   g_param_spec_enum ("pattern", "Pattern", "Which world",
                                                      pattern_get_type (), NF_WORLD_BOUNCE,
                                                      flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      class, PROP_SEED,
      g_param_spec_int64 ("seed", "Seed",
                          "Seed of the random numbers, taken up at the state PAUSED; -1 is a random one, "
                          "which can then be read here",
                          -1, G_MAXINT64, 0, flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (class, PROP_IS_LIVE,
                                   g_param_spec_boolean ("is-live", "Is live",
                                                         "Send each frame at its time by the clock", FALSE,
                                                         flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      class, PROP_ACTION,
      g_param_spec_int ("action", "Action",
                        "Action while no key of the map is down; it leads to the next frame", 0, G_MAXINT, 0,
                        flags | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE));
  g_object_class_install_property (
      class, PROP_ACTION_MAP,
      g_param_spec_string ("action-map", "Action map",
                           "Which keys are which actions, such as Up=1,Down=2,w+a=5; keys come as navigation "
                           "events from a video sink. Unset is what fits the pattern",
                           NULL, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, PROP_ACTIONS_LOCATION,
      g_param_spec_string (
          "actions-location", "Actions location",
          "File of recorded actions (NDJSON) that are done again; keys and action count once it is over",
          NULL, flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (class, PROP_RECORD_ACTIONS,
                                   g_param_spec_string ("record-actions", "Record actions",
                                                        "File that actions are written to (NDJSON), a line a "
                                                        "frame",
                                                        NULL, flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (class, PROP_POST_MESSAGES,
                                   g_param_spec_boolean ("post-messages", "Post messages",
                                                         "Post an element message flow-step for each frame",
                                                         TRUE, flags | GST_PARAM_MUTABLE_PLAYING));
}

static void
gst_flow_test_src_class_init (GstFlowTestSrcClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstBaseSrcClass *src_class = GST_BASE_SRC_CLASS (class);

  object_class->set_property = gst_flow_test_src_set_property;
  object_class->get_property = gst_flow_test_src_get_property;
  object_class->finalize = gst_flow_test_src_finalize;
  src_class->start = GST_DEBUG_FUNCPTR (gst_flow_test_src_start);
  src_class->stop = GST_DEBUG_FUNCPTR (gst_flow_test_src_stop);
  src_class->fixate = GST_DEBUG_FUNCPTR (gst_flow_test_src_fixate);
  src_class->set_caps = GST_DEBUG_FUNCPTR (gst_flow_test_src_set_caps);
  src_class->decide_allocation = GST_DEBUG_FUNCPTR (gst_flow_test_src_decide_allocation);
  src_class->is_seekable = GST_DEBUG_FUNCPTR (gst_flow_test_src_is_seekable);
  src_class->do_seek = GST_DEBUG_FUNCPTR (gst_flow_test_src_do_seek);
  src_class->event = GST_DEBUG_FUNCPTR (gst_flow_test_src_event);
  src_class->query = GST_DEBUG_FUNCPTR (gst_flow_test_src_query);
  src_class->unlock = GST_DEBUG_FUNCPTR (gst_flow_test_src_unlock);
  src_class->unlock_stop = GST_DEBUG_FUNCPTR (gst_flow_test_src_unlock_stop);
  GST_PUSH_SRC_CLASS (class)->fill = GST_DEBUG_FUNCPTR (gst_flow_test_src_fill);

  install_properties (object_class);
  gst_type_mark_as_plugin_api (pattern_get_type (), 0);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow test source", "Source/Video",
                                         "Small worlds whose truth and entropy are known",
                                         "the normflow authors");
}

static void
gst_flow_test_src_init (GstFlowTestSrc *self)
{
  gst_flow_action_input_init (&self->input);
  self->seed = -1;
  self->end = GST_CLOCK_TIME_NONE;
  self->post_messages = TRUE;
  gst_base_src_set_format (GST_BASE_SRC (self), GST_FORMAT_TIME);
}
