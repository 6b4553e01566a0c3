/* normflow: GStreamer element flowdenoise. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowdenoise
 * @title: flowdenoise
 * @short_description: one exact score step against sensor noise
 *
 * Adds sigma² ∇ log p to each frame, which is the best estimate of the clean one if the noise is Gaussian and
 * the model right (Tweedie's formula). `sigma` is the noise's standard deviation where black is -1 and white
 * 1: noise of s 8-bit steps has sigma s/127.5. At 0 the element passes video through untouched.
 *
 * |[
 * gst-launch-1.0 v4l2src ! videoconvert ! flowdenoise sigma=0.05 ! videoconvert ! autovideosink
 * ]| cleans a camera's picture.
 *
 * Since: 0.1
 */

#include "gstflowdenoise.h"
#include "gstflowengine.h"
#include "gstflowlatent.h"

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_SIGMA = GST_FLOW_ENGINE_PROP_LAST,
  PROP_METHOD,
};

struct _GstFlowDenoise
{
  GstVideoFilter parent_instance;

  GstFlowEngine engine;

  /* under the object lock */
  double sigma;
  GstFlowDenoiseMethod method;
};

static GstStaticPadTemplate sink_template
    = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_VIDEO_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_VIDEO_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowDenoise, gst_flow_denoise, GST_TYPE_VIDEO_FILTER)
GST_ELEMENT_REGISTER_DEFINE (flowdenoise, "flowdenoise", GST_RANK_NONE, GST_TYPE_FLOW_DENOISE)

GType
gst_flow_denoise_method_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { GST_FLOW_DENOISE_SCORE, "One exact step along the gradient of the likelihood", "score" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowDenoiseMethod", values));
  return type;
}

static double
get_sigma (GstFlowDenoise *self)
{
  GST_OBJECT_LOCK (self);
  const double sigma = self->sigma;
  GST_OBJECT_UNLOCK (self);
  return sigma;
}

/* Video that fits but for its format is let in, so that set_info makes an error of it: upstream would only
 * say that it is not negotiated. */
static GstCaps *
gst_flow_denoise_transform_caps (GstBaseTransform *transform, GstPadDirection direction, GstCaps *caps,
                                 GstCaps *filter)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (transform);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autoptr (GstCaps) possible = gst_flow_video_caps (config);
  if (!gst_caps_can_intersect (caps, possible))
    {
      gst_clear_caps (&possible);
      possible = gst_flow_video_caps (NULL);
    }
  g_autoptr (GstCaps) result = gst_caps_intersect_full (caps, possible, GST_CAPS_INTERSECT_FIRST);
  return filter ? gst_caps_intersect_full (filter, result, GST_CAPS_INTERSECT_FIRST)
                : g_steal_pointer (&result);
}

static gboolean
gst_flow_denoise_set_info (GstVideoFilter *filter, GstCaps *in, GstVideoInfo *in_info, GstCaps *out,
                           GstVideoInfo *out_info)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (filter);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autoptr (GError) error = NULL;
  if (gst_flow_check_format (config, GST_VIDEO_INFO_FORMAT (in_info), &error))
    gst_flow_engine_accept_caps (&self->engine);
  else
    gst_flow_engine_refuse_caps (&self->engine, in, error);
  return !error;
}

static void
gst_flow_denoise_before_transform (GstBaseTransform *transform, GstBuffer *buffer)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (transform);
  const GstSegment *segment = &transform->segment;
  /* that of a file of raw video is in bytes */
  const GstClockTime time
      = segment->format == GST_FORMAT_TIME
            ? gst_segment_to_stream_time (segment, GST_FORMAT_TIME, GST_BUFFER_PTS (buffer))
            : GST_CLOCK_TIME_NONE;
  if (GST_CLOCK_TIME_IS_VALID (time))
    gst_object_sync_values (GST_OBJECT (self), time);
  const gboolean passes = get_sigma (self) == 0;
  const gboolean turned = passes != gst_base_transform_is_passthrough (transform);
  gst_base_transform_set_passthrough (transform, passes);
  if (turned && gst_flow_engine_get_latency (&self->engine) > 0)
    gst_element_post_message (GST_ELEMENT (self), gst_message_new_latency (GST_OBJECT (self)));
}

/* GstBaseTransform leaves out what sinks say is late. */
static GstFlowReturn
gst_flow_denoise_submit_input_buffer (GstBaseTransform *transform, gboolean discont, GstBuffer *buffer)
{
  const GstFlowReturn ret = GST_BASE_TRANSFORM_CLASS (gst_flow_denoise_parent_class)
                                ->submit_input_buffer (transform, discont, buffer);
  if (ret == GST_BASE_TRANSFORM_FLOW_DROPPED)
    gst_flow_engine_count_dropped (&GST_FLOW_DENOISE (transform)->engine, 1);
  return ret;
}

static GstFlowReturn
denoise (GstFlowDenoise *self, NfSession *session, GstBuffer *buffer)
{
  const GstVideoInfo *info = &GST_VIDEO_FILTER (self)->in_info;
  g_autoptr (GError) error = NULL;
  GstVideoFrame frame;
  NfFrame view;

  if (!gst_flow_frame_map (GST_ELEMENT (self), &frame, info, buffer, GST_MAP_READWRITE))
    return GST_FLOW_ERROR;
  gst_flow_frame_view (&frame, info, &view);
  gst_flow_frame_fill_padding (&frame, &view);
  const gboolean done = nf_session_denoise_frame (session, &view, get_sigma (self), &view, &error);
  gst_video_frame_unmap (&frame);
  return done ? GST_FLOW_OK : gst_flow_post_error (self, error);
}

/* GstVideoFilter would let a buffer that is no frame pass as it is. */
static GstFlowReturn
gst_flow_denoise_transform_ip (GstBaseTransform *transform, GstBuffer *buffer)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (transform);
  NfSession *session;

  GstFlowReturn ret = gst_flow_engine_wait (&self->engine, &session);
  const gint64 start = g_get_monotonic_time ();
  if (ret != GST_FLOW_OK)
    return ret;
  ret = denoise (self, session, buffer);
  if (ret != GST_FLOW_OK)
    {
      gst_flow_engine_count_dropped (&self->engine, 1);
      return ret;
    }
  if (gst_flow_engine_count_frame (&self->engine, start))
    gst_element_post_message (GST_ELEMENT (self), gst_message_new_latency (GST_OBJECT (self)));
  return GST_FLOW_OK;
}

static gboolean
gst_flow_denoise_sink_event (GstBaseTransform *transform, GstEvent *event)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (transform);
  if (GST_EVENT_TYPE (event) == GST_EVENT_FLUSH_START)
    gst_flow_engine_set_flushing (&self->engine, TRUE);
  else if (GST_EVENT_TYPE (event) == GST_EVENT_FLUSH_STOP)
    gst_flow_engine_set_flushing (&self->engine, FALSE);
  return GST_BASE_TRANSFORM_CLASS (gst_flow_denoise_parent_class)->sink_event (transform, event);
}

static gboolean
gst_flow_denoise_query (GstBaseTransform *transform, GstPadDirection direction, GstQuery *query)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (transform);
  if (!GST_BASE_TRANSFORM_CLASS (gst_flow_denoise_parent_class)->query (transform, direction, query))
    return FALSE;
  if (GST_QUERY_TYPE (query) == GST_QUERY_LATENCY && direction == GST_PAD_SRC && get_sigma (self) != 0)
    {
      const GstClockTime own = gst_flow_engine_get_latency (&self->engine);
      GstClockTime min, max;
      gboolean live;
      gst_query_parse_latency (query, &live, &min, &max);
      gst_query_set_latency (query, live, min + own, GST_CLOCK_TIME_IS_VALID (max) ? max + own : max);
    }
  return TRUE;
}

static GstStateChangeReturn
gst_flow_denoise_change_state (GstElement *element, GstStateChange transition)
{
  return gst_flow_engine_change_state (&GST_FLOW_DENOISE (element)->engine,
                                       GST_ELEMENT_CLASS (gst_flow_denoise_parent_class), transition);
}

static void
gst_flow_denoise_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (object);

  if (!gst_flow_can_set (self, value, pspec) || gst_flow_engine_set_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_SIGMA:
      self->sigma = g_value_get_double (value);
      break;
    case PROP_METHOD:
      self->method = g_value_get_enum (value);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_denoise_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowDenoise *self = GST_FLOW_DENOISE (object);

  if (gst_flow_engine_get_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_SIGMA:
      g_value_set_double (value, self->sigma);
      break;
    case PROP_METHOD:
      g_value_set_enum (value, self->method);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_denoise_finalize (GObject *object)
{
  gst_flow_engine_clear (&GST_FLOW_DENOISE (object)->engine);
  G_OBJECT_CLASS (gst_flow_denoise_parent_class)->finalize (object);
}

static void
gst_flow_denoise_class_init (GstFlowDenoiseClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstBaseTransformClass *transform_class = GST_BASE_TRANSFORM_CLASS (class);

  object_class->set_property = gst_flow_denoise_set_property;
  object_class->get_property = gst_flow_denoise_get_property;
  object_class->finalize = gst_flow_denoise_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_denoise_change_state);
  transform_class->transform_caps = GST_DEBUG_FUNCPTR (gst_flow_denoise_transform_caps);
  transform_class->before_transform = GST_DEBUG_FUNCPTR (gst_flow_denoise_before_transform);
  transform_class->submit_input_buffer = GST_DEBUG_FUNCPTR (gst_flow_denoise_submit_input_buffer);
  transform_class->sink_event = GST_DEBUG_FUNCPTR (gst_flow_denoise_sink_event);
  transform_class->query = GST_DEBUG_FUNCPTR (gst_flow_denoise_query);
  transform_class->transform_ip = GST_DEBUG_FUNCPTR (gst_flow_denoise_transform_ip);
  transform_class->transform_ip_on_passthrough = FALSE;
  GST_VIDEO_FILTER_CLASS (class)->set_info = GST_DEBUG_FUNCPTR (gst_flow_denoise_set_info);

  gst_flow_engine_install_properties (object_class, NF_SESSION_DENOISE);
  g_object_class_install_property (
      object_class, PROP_SIGMA,
      g_param_spec_double (
          "sigma", "Sigma",
          "Standard deviation of the noise, on a scale from -1 (black) to 1 (white); 0 passes video through",
          0, 1, 0,
          G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE));
  g_object_class_install_property (
      object_class, PROP_METHOD,
      g_param_spec_enum ("method", "Method", "How to denoise", GST_TYPE_FLOW_DENOISE_METHOD,
                         GST_FLOW_DENOISE_SCORE,
                         G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING));

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow denoiser", "Filter/Effect/Video",
                                         "Removes noise by one exact score step of a normalizing flow",
                                         "the normflow authors");
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_DENOISE_METHOD, 0);
}

static void
gst_flow_denoise_init (GstFlowDenoise *self)
{
  gst_flow_engine_init (&self->engine, self, NF_SESSION_DENOISE);
  gst_flow_engine_watch_events (&self->engine, GST_BASE_TRANSFORM_SINK_PAD (self), NULL);
  gst_flow_engine_watch_gaps (&self->engine, GST_BASE_TRANSFORM_SINK_PAD (self));
}
