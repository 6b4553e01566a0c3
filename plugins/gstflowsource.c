/* normflow: GStreamer plugin, flowsample as a source. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowsource.h"
#include "gstflowlive.h"
#include "gstflowprior.h"

#include <gst/video/video-event.h>

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_IS_LIVE = GST_FLOW_PRIOR_PROP_LAST,
};

struct _GstFlowSource
{
  GstPushSrc parent_instance;

  GstFlowEngine engine;
  GstFlowPrior prior;

  /* under the object lock */
  gboolean has_info;
  GstFlowLive live;
  GstClockTime end; /* of the stream, none if there is none */

  /* of the streaming thread */
  guint64 frame_index; /* of the stream, which latents depend on */
  guint64 left_out;    /* times before it for which a world has no frame */
  GstFlowTimes times;  /* of frames and what is left out */
  gboolean begun;      /* a frame was drawn */
  guint64 sent;        /* buffers, over seeks as well */
};

static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowSource, gst_flow_source, GST_TYPE_PUSH_SRC)

static gboolean
gst_flow_source_start (GstBaseSrc *src)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);

  GST_OBJECT_LOCK (self);
  self->has_info = FALSE;
  GST_OBJECT_UNLOCK (self);
  self->frame_index = self->left_out = 0;
  self->times = (GstFlowTimes){ 0 };
  self->sent = 0;
  self->begun = FALSE;
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  return gst_flow_prior_start (&self->prior, config ? config->action_dim : 0);
}

static gboolean
gst_flow_source_stop (GstBaseSrc *src)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  GST_OBJECT_LOCK (self);
  self->has_info = FALSE;
  GST_OBJECT_UNLOCK (self);
  gst_flow_prior_stop (&self->prior);
  return TRUE;
}

/* With what the model decides, once there is one. */
static GstCaps *
gst_flow_source_get_caps (GstBaseSrc *src, GstCaps *filter)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (&self->engine);
  g_autoptr (GstCaps) caps = gst_pad_get_pad_template_caps (GST_BASE_SRC_PAD (src));

  if (config && digest)
    {
      caps = gst_caps_make_writable (caps);
      gst_caps_set_simple (caps, "pixel-layout", G_TYPE_STRING, nf_pixel_layout_name (config->layout),
                           "tile-size", G_TYPE_INT, (gint)config->img_size, "patch-size", G_TYPE_INT,
                           (gint)config->patch_size, "features", G_TYPE_INT,
                           (gint)nf_config_features (config), "model-digest", G_TYPE_STRING, digest, NULL);
    }
  if (config && config->frames)
    {
      g_autoptr (GstCaps) video = gst_caps_new_simple (
          GST_FLOW_LATENT_MIME, "latent-format", G_TYPE_STRING, "F32LE", "width", G_TYPE_INT,
          (gint)nf_config_columns (config), "height", G_TYPE_INT, (gint)nf_config_rows (config), NULL);
      GstCaps *both = gst_caps_intersect (caps, video);
      gst_caps_unref (caps);
      caps = both;
    }
  return filter ? gst_caps_intersect_full (filter, caps, GST_CAPS_INTERSECT_FIRST) : g_steal_pointer (&caps);
}

/* GstBaseSrc would only say that nothing was negotiated. */
static gboolean
gst_flow_source_negotiate (GstBaseSrc *src)
{
  if (GST_BASE_SRC_CLASS (gst_flow_source_parent_class)->negotiate (src))
    return TRUE;
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (&self->engine);
  g_autoptr (GstCaps) drawn = gst_pad_query_caps (GST_BASE_SRC_PAD (src), NULL);
  if (!config || !digest || gst_flow_is_wanted (GST_BASE_SRC_PAD (src), drawn))
    return FALSE;
  gst_flow_engine_refuse_output (&self->engine, NULL, GST_BASE_SRC_PAD (src), drawn);
  return FALSE;
}

/* A size in pixels that the dimensions of tensors mean, if they are given rather than the size. */
static void
size_from_dimensions (const GstStructure *structure, const NfConfig *config, gint *width, gint *height)
{
  const char *dimensions = gst_structure_get_string (structure, "dimensions");
  guint64 dims[3];
  if (!dimensions || !gst_flow_parse_dimensions (dimensions, dims))
    return;
  *width = (gint)CLAMP (dims[1] * config->patch_size, 1, NF_MAX_SIDE);
  *height = (gint)CLAMP (dims[2] * config->patch_size, 1, NF_MAX_SIDE);
}

static GstCaps *
gst_flow_source_fixate (GstBaseSrc *src, GstCaps *caps)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (&self->engine);
  GstFlowLatentInfo info = { 0 };

  caps = gst_caps_make_writable (gst_caps_truncate (caps));
  if (!config || !digest)
    return GST_BASE_SRC_CLASS (gst_flow_source_parent_class)->fixate (src, caps);

  GstStructure *structure = gst_caps_get_structure (caps, 0);
  gint width = (gint)nf_config_columns (config), height = (gint)nf_config_rows (config);
  if (gst_structure_has_name (structure, GST_FLOW_TENSORS_MIME))
    {
      size_from_dimensions (structure, config, &width, &height);
      if (!gst_structure_has_field (structure, "width"))
        gst_structure_set (structure, "width", G_TYPE_INT, width, NULL);
      if (!gst_structure_has_field (structure, "height"))
        gst_structure_set (structure, "height", G_TYPE_INT, height, NULL);
    }
  gst_structure_fixate_field_nearest_int (structure, "width", width);
  gst_structure_fixate_field_nearest_int (structure, "height", height);
  gst_structure_fixate_field_nearest_fraction (structure, "framerate", 25, 1);
  /* as what scales behind flowdecode says that it could take any */
  if (gst_structure_has_field (structure, "pixel-aspect-ratio"))
    gst_structure_fixate_field_nearest_fraction (structure, "pixel-aspect-ratio", 1, 1);
  caps = GST_BASE_SRC_CLASS (gst_flow_source_parent_class)->fixate (src, caps);

  /* The constants that follow from the size. What downstream wants of them, and they are not, set_caps
   * refuses. */
  structure = gst_caps_get_structure (caps, 0);
  info.tensors = gst_structure_has_name (structure, GST_FLOW_TENSORS_MIME);
  info.half = g_strcmp0 (gst_structure_get_string (structure, info.tensors ? "types" : "latent-format"),
                         info.tensors ? "float16" : "F16LE")
              == 0;
  if (gst_structure_get_int (structure, "width", &width)
      && gst_structure_get_int (structure, "height", &height)
      && gst_structure_get_fraction (structure, "framerate", &info.fps_n, &info.fps_d)
      && nf_grid_init (&info.grid, config, width, height, NULL))
    {
      info.width = width;
      info.height = height;
      info.precision = gst_flow_engine_get_precision (&self->engine);
      g_strlcpy (info.arithmetic, gst_flow_engine_get_arithmetic (&self->engine), sizeof info.arithmetic);
      info.drawn = !config->frames; /* videos tell it of each frame */
      gst_flow_latent_info_set_model (&info, config);
      g_autoptr (GstCaps) full = gst_flow_latent_info_to_caps (&info, config, digest);
      const GstStructure *ours = gst_caps_get_structure (full, 0);
      for (gint i = 0; i < gst_structure_n_fields (ours); i++)
        {
          const char *field = gst_structure_nth_field_name (ours, i);
          if (!gst_structure_has_field (structure, field))
            gst_structure_set_value (structure, field, gst_structure_get_value (ours, field));
        }
    }
  return caps;
}

/* When the next frame is to be shown, and for how long. */
static GstClockTime
get_time (const GstFlowSource *self, GstClockTime *duration)
{
  const guint64 n = self->frame_index + self->left_out;
  const GstClockTime pts = gst_flow_times_get (&self->times, n);
  *duration = self->times.fps_n > 0 ? gst_flow_times_get (&self->times, n + 1) - pts : GST_CLOCK_TIME_NONE;
  return pts;
}

/* Where the stream ends, by what is still to be sent. */
static void
set_end (GstFlowSource *self)
{
  const GstClockTime end = gst_flow_times_get_end (&self->times, self->frame_index + self->left_out,
                                                   self->sent, GST_BASE_SRC (self)->num_buffers);
  GST_OBJECT_LOCK (self);
  self->end = end;
  GST_OBJECT_UNLOCK (self);
}

static gboolean
gst_flow_source_set_caps (GstBaseSrc *src, GstCaps *caps)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  GstFlowLatentInfo info;
  if (!gst_flow_prior_read_caps (&self->engine, caps, &info))
    return FALSE;
  gst_flow_times_set_rate (&self->times, self->frame_index + self->left_out, info.fps_n, info.fps_d);
  gst_flow_prior_set_info (&self->prior, &info);
  /* A seek that came before the frame rate was known. A world has to begin at its beginning. */
  if (!self->has_info && !info.frames)
    self->frame_index = gst_flow_times_frame_at (&self->times, src->segment.position);
  set_end (self);
  GST_OBJECT_LOCK (self);
  self->has_info = TRUE;
  GST_OBJECT_UNLOCK (self);
  return TRUE;
}

static gboolean
gst_flow_source_is_seekable (GstBaseSrc *src)
{
  /* frames of a video depend on those before */
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&GST_FLOW_SOURCE (src)->engine);
  return !gst_base_src_is_live (src) && !(config && config->frames);
}

gboolean
gst_flow_source_can_seek (GstElement *source, GstEvent *event)
{
  double rate;
  gst_event_parse_seek (event, &rate, NULL, NULL, NULL, NULL, NULL, NULL);
  return rate >= 0 && gst_flow_source_is_seekable (GST_BASE_SRC (source));
}

static gboolean
gst_flow_source_do_seek (GstBaseSrc *src, GstSegment *segment)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);

  if (segment->rate < 0)
    return FALSE;
  segment->time = segment->start;
  gst_flow_times_begin (&self->times, 0, 0);
  self->left_out = 0;
  gst_flow_prior_forget_qos (&self->prior);
  gst_flow_prior_forget_key_units (&self->prior, NULL, GST_CLOCK_TIME_NONE);
  self->frame_index = gst_flow_times_frame_at (&self->times, segment->position);
  set_end (self);
  return TRUE;
}

static gboolean
gst_flow_source_query (GstBaseSrc *src, GstQuery *query)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);

  if (GST_QUERY_TYPE (query) == GST_QUERY_LATENCY)
    {
      /* A live frame is sent at its own time, but takes its time to be drawn. */
      const GstClockTime latency = gst_flow_engine_get_latency (&self->engine);
      gst_query_set_latency (query, gst_base_src_is_live (src), latency, GST_CLOCK_TIME_NONE);
      return TRUE;
    }
  if (GST_QUERY_TYPE (query) == GST_QUERY_DURATION)
    {
      GstFormat format;
      gst_query_parse_duration (query, &format, NULL);
      GST_OBJECT_LOCK (self);
      const GstClockTime end = self->has_info ? self->end : GST_CLOCK_TIME_NONE;
      GST_OBJECT_UNLOCK (self);
      if (format == GST_FORMAT_TIME && GST_CLOCK_TIME_IS_VALID (end))
        {
          gst_query_set_duration (query, format, (gint64)end);
          return TRUE;
        }
    }
  return GST_BASE_SRC_CLASS (gst_flow_source_parent_class)->query (src, query);
}

static gboolean
gst_flow_source_event (GstBaseSrc *src, GstEvent *event)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  if (GST_EVENT_TYPE (event) == GST_EVENT_NAVIGATION)
    return gst_flow_action_input_event (&self->prior.input, GST_ELEMENT (self), event);
  /* Refused before anything is flushed for it. */
  if (GST_EVENT_TYPE (event) == GST_EVENT_SEEK && !gst_flow_source_can_seek (GST_ELEMENT (src), event))
    return FALSE;
  if (GST_EVENT_TYPE (event) == GST_EVENT_QOS)
    gst_flow_prior_note_qos (&self->prior, event);
  if (gst_video_event_is_force_key_unit (event))
    {
      gst_flow_prior_note_key_unit (&self->prior, event);
      return TRUE;
    }
  return GST_BASE_SRC_CLASS (gst_flow_source_parent_class)->event (src, event);
}

static gboolean
gst_flow_source_unlock (GstBaseSrc *src)
{
  gst_flow_live_set_unlocked (&GST_FLOW_SOURCE (src)->live, GST_ELEMENT (src), TRUE);
  return TRUE;
}

static gboolean
gst_flow_source_unlock_stop (GstBaseSrc *src)
{
  gst_flow_live_set_unlocked (&GST_FLOW_SOURCE (src)->live, GST_ELEMENT (src), FALSE);
  return TRUE;
}

/* Times that are over by the one at PTS: pictures are left out, a world has none for them. */
static void
leave_out (GstFlowSource *self, GstClockTime pts)
{
  const GstFlowLatentInfo *info = &self->prior.info;
  const GstSegment *segment = &GST_BASE_SRC (self)->segment;
  GstClockTime until, duration;
  if (self->times.fps_n == 0 || !gst_flow_prior_is_late (&self->prior, segment, pts, &until))
    return;
  const guint64 n = gst_flow_times_frame_from (&self->times, until) - (self->frame_index + self->left_out);
  if (info->frames)
    self->left_out += n;
  else
    self->frame_index += n;
  gst_flow_prior_leave_out (&self->prior, segment, gst_base_src_is_live (GST_BASE_SRC (self)), pts,
                            get_time (self, &duration) - pts, n);
  gst_flow_engine_count_dropped (&self->engine, n);
}

static GstFlowReturn
gst_flow_source_create (GstPushSrc *src, GstBuffer **out)
{
  GstFlowSource *self = GST_FLOW_SOURCE (src);
  GstClockTime duration;

  if (!self->has_info)
    return GST_FLOW_NOT_NEGOTIATED;
  if (self->times.fps_n == 0 && self->frame_index > 0) /* a still */
    return GST_FLOW_EOS;

  if (!self->begun)
    self->times.base += gst_flow_live_begin (GST_BASE_SRC (src));
  self->begun = TRUE;
  leave_out (self, get_time (self, &duration));
  const GstClockTime pts = get_time (self, &duration);
  /* its action is the one of that moment */
  const GstFlowReturn result = gst_flow_live_wait_for_frame (&self->live, GST_BASE_SRC (src), pts);
  if (result != GST_FLOW_OK)
    return result;
  const gint64 start = g_get_monotonic_time ();
  gst_flow_prior_sync (&self->prior, &GST_BASE_SRC (src)->segment, pts);
  gst_flow_prior_answer_key_units (&self->prior, GST_BASE_SRC_PAD (src), &GST_BASE_SRC (src)->segment, pts);
  GstBuffer *buffer = gst_flow_prior_draw (&self->prior, self->frame_index);
  if (!buffer)
    return GST_FLOW_ERROR;

  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_DURATION (buffer) = duration;
  gst_flow_prior_record (&self->prior, pts);
  self->frame_index++;
  self->sent++;
  set_end (self);
  *out = buffer;
  if (gst_flow_engine_count_frame (&self->engine, start) && gst_base_src_is_live (GST_BASE_SRC (src)))
    gst_element_post_message (GST_ELEMENT (self), gst_message_new_latency (GST_OBJECT (self)));
  return GST_FLOW_OK;
}

static GstStateChangeReturn
gst_flow_source_change_state (GstElement *element, GstStateChange transition)
{
  return gst_flow_engine_change_state (&GST_FLOW_SOURCE (element)->engine,
                                       GST_ELEMENT_CLASS (gst_flow_source_parent_class), transition);
}

static void
gst_flow_source_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowSource *self = GST_FLOW_SOURCE (object);

  if (!gst_flow_can_set (self, value, pspec) || gst_flow_engine_set_property (&self->engine, id, value)
      || gst_flow_prior_set_property (&self->prior, id, value))
    return;
  switch (id)
    {
    case PROP_IS_LIVE:
      gst_base_src_set_live (GST_BASE_SRC (self), g_value_get_boolean (value));
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
gst_flow_source_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowSource *self = GST_FLOW_SOURCE (object);

  if (gst_flow_engine_get_property (&self->engine, id, value)
      || gst_flow_prior_get_property (&self->prior, id, value))
    return;
  switch (id)
    {
    case PROP_IS_LIVE:
      g_value_set_boolean (value, gst_base_src_is_live (GST_BASE_SRC (self)));
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
gst_flow_source_finalize (GObject *object)
{
  gst_flow_engine_clear (&GST_FLOW_SOURCE (object)->engine);
  gst_flow_prior_clear (&GST_FLOW_SOURCE (object)->prior);
  G_OBJECT_CLASS (gst_flow_source_parent_class)->finalize (object);
}

static void
gst_flow_source_class_init (GstFlowSourceClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstBaseSrcClass *src_class = GST_BASE_SRC_CLASS (class);

  object_class->set_property = gst_flow_source_set_property;
  object_class->get_property = gst_flow_source_get_property;
  object_class->finalize = gst_flow_source_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_source_change_state);
  src_class->start = GST_DEBUG_FUNCPTR (gst_flow_source_start);
  src_class->stop = GST_DEBUG_FUNCPTR (gst_flow_source_stop);
  src_class->get_caps = GST_DEBUG_FUNCPTR (gst_flow_source_get_caps);
  src_class->negotiate = GST_DEBUG_FUNCPTR (gst_flow_source_negotiate);
  src_class->fixate = GST_DEBUG_FUNCPTR (gst_flow_source_fixate);
  src_class->set_caps = GST_DEBUG_FUNCPTR (gst_flow_source_set_caps);
  src_class->is_seekable = GST_DEBUG_FUNCPTR (gst_flow_source_is_seekable);
  src_class->do_seek = GST_DEBUG_FUNCPTR (gst_flow_source_do_seek);
  src_class->unlock = GST_DEBUG_FUNCPTR (gst_flow_source_unlock);
  src_class->unlock_stop = GST_DEBUG_FUNCPTR (gst_flow_source_unlock_stop);
  src_class->event = GST_DEBUG_FUNCPTR (gst_flow_source_event);
  src_class->query = GST_DEBUG_FUNCPTR (gst_flow_source_query);
  GST_PUSH_SRC_CLASS (class)->create = GST_DEBUG_FUNCPTR (gst_flow_source_create);

  gst_flow_engine_install_properties (object_class, GST_FLOW_ENGINE_NO_WORK);
  gst_flow_prior_install_properties (object_class);
  g_object_class_install_property (
      object_class, PROP_IS_LIVE,
      g_param_spec_boolean ("is-live", "Is live", "Send each frame at its time by the clock", FALSE,
                            G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY));

  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow sampler", "Source/Video",
                                         "Draws latents of a normalizing flow from its prior",
                                         "the normflow authors");
}

static void
gst_flow_source_init (GstFlowSource *self)
{
  gst_flow_engine_init (&self->engine, self, GST_FLOW_ENGINE_NO_WORK);
  gst_flow_prior_init (&self->prior, self);
  gst_base_src_set_format (GST_BASE_SRC (self), GST_FORMAT_TIME);
}
