/* normflow: GStreamer element flowsample. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowsample
 * @title: flowsample
 * @short_description: latents drawn from the prior
 *
 * Gaussian noise in the shape of a model's latents, so that flowdecode after it generates video.
 *
 * Without a sink pad it is a source. Caps decide the size in pixels and the frame rate. Frame number n
 * depends on `seed`, n and `temperature` alone, so the same seed gives the same stream on every machine, and
 * with a model of images a seek to a frame gives that frame.
 *
 * With a sink pad (on request) it continues what comes: latents pass as they are, until the stream ends,
 * `after` frames have passed, or `predict` is set; from then on up to `horizon` frames are drawn. Behind a
 * model of videos that is a real past with a predicted future. While real frames still come, each drawn frame
 * replaces one of them. If `predict` is unset again, real frames go on with the next key frame, which
 * upstream is asked for. An end of the stream that is sent to the element, or to its pipeline, ends drawing.
 *
 * Keys and the mouse, as navigation events from a video sink, become actions by `action-map`; while none is
 * pressed the property `action` counts. The action at one frame leads to the next.
 *
 * No device is used: `device` is there so that one set of properties suits all elements.
 *
 * |[
 * gst-launch-1.0 flowsample seed=7 num-buffers=25 ! video/x-flow-latent,width=128,height=96,framerate=5/1 !
 * flowdecode ! videoconvert ! autovideosink
 * ]| generates 25 frames.
 * |[
 * gst-launch-1.0 filesrc location=clip.mp4 ! decodebin ! videoconvert ! 'video/x-raw,format={AYUV64,ARGB64}'
 * ! videoscale method=lanczos envelope=1 ! videoconvert dither=none ! flowencode model=world.safetensors !
 * flowsample model=world.safetensors horizon=64 ! flowdecode model=world.safetensors ! videoconvert !
 * autovideosink
 * ]| continues a clip by 64 frames.
 *
 * Since: 0.1
 */

#include "gstflowsample.h"
#include "gstflowlatent.h"
#include "gstflowprior.h"
#include "gstflowsource.h"
#include "gstflowsplice.h"

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_IS_LIVE = GST_FLOW_PRIOR_PROP_LAST,
  PROP_NUM_BUFFERS,
  PROP_PREDICT,
  PROP_AFTER,
  PROP_HORIZON,
};

struct _GstFlowSample
{
  GstBin parent_instance;

  GstElement *source, *splice; /* one of the two is inside */
  gboolean spliced;
  GstPad *src, *sink;
};

static GstStaticPadTemplate sink_template
    = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_REQUEST, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowSample, gst_flow_sample, GST_TYPE_BIN)
GST_ELEMENT_REGISTER_DEFINE (flowsample, "flowsample", GST_RANK_NONE, GST_TYPE_FLOW_SAMPLE)

/* Its insides */

static void
use (GstFlowSample *self, gboolean spliced)
{
  GstElement *out = spliced ? self->source : self->splice, *in = spliced ? self->splice : self->source;
  g_autoptr (GstPad) src = gst_element_get_static_pad (in, "src");

  gst_ghost_pad_set_target (GST_GHOST_PAD (self->src), NULL);
  if (GST_OBJECT_PARENT (out) == GST_OBJECT (self))
    {
      gst_bin_remove (GST_BIN (self), out);
      gst_element_set_state (out, GST_STATE_NULL);
    }
  gst_bin_add (GST_BIN (self), in);
  gst_ghost_pad_set_target (GST_GHOST_PAD (self->src), src);
  gst_element_sync_state_with_parent (in);
  self->spliced = spliced;
}

/* Of a pad and the other half of its ghost pad. They stop one after the other, and in between an event is
 * refused; that is no error of its sender. */
static GstFlowReturn
take_event (GstPad *pad, GstObject *parent, GstEvent *event)
{
  g_autoptr (GstProxyPad) other = gst_proxy_pad_get_internal (GST_PROXY_PAD (pad));
  const GstEventType type = GST_EVENT_TYPE (event);
  if (gst_pad_event_default (pad, parent, event))
    return GST_FLOW_OK;
  return gst_flow_refuse_event (type, GST_PAD_IS_FLUSHING (other));
}

static GstPad *
gst_flow_sample_request_new_pad (GstElement *element, GstPadTemplate *template, const gchar *name,
                                 const GstCaps *caps)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (element);
  if (self->sink || GST_STATE (self) > GST_STATE_READY)
    {
      GST_WARNING_OBJECT (self, "there is one sink pad, and it can be requested in NULL and READY only");
      return NULL;
    }
  use (self, TRUE);
  g_autoptr (GstPad) target = gst_element_request_pad_simple (self->splice, "sink_%u");
  self->sink = gst_ghost_pad_new_from_template ("sink", target, template);
  gst_pad_set_event_full_function (self->sink, take_event);
  GST_PAD_SET_ACCEPT_INTERSECT (self->sink); /* as the one inside, which says what caps lack */
  gst_element_add_pad (element, self->sink);
  return self->sink;
}

static void
gst_flow_sample_release_pad (GstElement *element, GstPad *pad)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (element);
  g_autoptr (GstPad) target = gst_ghost_pad_get_target (GST_GHOST_PAD (pad));
  if (pad != self->sink)
    return;
  self->sink = NULL;
  gst_pad_set_active (pad, FALSE);
  gst_ghost_pad_set_target (GST_GHOST_PAD (pad), NULL);
  gst_element_remove_pad (element, pad);
  if (!self->splice) /* being disposed of */
    return;
  if (target)
    gst_element_release_request_pad (self->splice, target);
  if (GST_STATE (self) <= GST_STATE_READY)
    use (self, FALSE);
}

/* A source again, if the sink pad has gone in the meantime. */
static GstStateChangeReturn
gst_flow_sample_change_state (GstElement *element, GstStateChange transition)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (element);
  const GstStateChangeReturn result
      = GST_ELEMENT_CLASS (gst_flow_sample_parent_class)->change_state (element, transition);
  if (transition == GST_STATE_CHANGE_PAUSED_TO_READY && self->spliced && !self->sink)
    use (self, FALSE);
  return result;
}

/* A bin would look for a sink to send a seek to. The source keeps one that comes before it runs, and begins
 * there. It would look for a source to send an end to, which behind real latents is none. */
static gboolean
gst_flow_sample_send_event (GstElement *element, GstEvent *event)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (element);
  if (self->spliced && GST_EVENT_TYPE (event) == GST_EVENT_EOS)
    return gst_element_send_event (self->splice, event);
  if (self->spliced || GST_EVENT_TYPE (event) != GST_EVENT_SEEK)
    return GST_ELEMENT_CLASS (gst_flow_sample_parent_class)->send_event (element, event);
  if (gst_flow_source_can_seek (self->source, event))
    return gst_element_send_event (self->source, event);
  gst_event_unref (event);
  return FALSE;
}

/* Properties are those of what is inside; what is not is kept the same. */

static gboolean
has_property (GstElement *element, const char *name)
{
  return g_object_class_find_property (G_OBJECT_GET_CLASS (element), name) != NULL;
}

static void
gst_flow_sample_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (object);
  GstElement *inside = self->spliced ? self->splice : self->source,
             *other = self->spliced ? self->source : self->splice;
  g_auto (GValue) now = G_VALUE_INIT;

  if (!gst_flow_can_set (self, value, pspec))
    return;
  g_value_init (&now, G_PARAM_SPEC_VALUE_TYPE (pspec));
  g_value_copy (value, &now);
  if (has_property (inside, pspec->name))
    {
      g_object_set_property (G_OBJECT (inside), pspec->name, value);
      /* it may have been refused */
      g_object_get_property (G_OBJECT (inside), pspec->name, &now);
    }
  if (has_property (other, pspec->name))
    g_object_set_property (G_OBJECT (other), pspec->name, &now);
}

static void
gst_flow_sample_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (object);
  GstElement *inside = self->spliced ? self->splice : self->source,
             *other = self->spliced ? self->source : self->splice;
  g_object_get_property (G_OBJECT (has_property (inside, pspec->name) ? inside : other), pspec->name, value);
}

static void
on_seed (GObject *inside, GParamSpec *pspec, gpointer data)
{
  g_object_notify (G_OBJECT (data), "seed");
}

static void
on_predict (GstFlowSample *self)
{
  g_object_set (self, "predict", TRUE, NULL);
}

static void
gst_flow_sample_dispose (GObject *object)
{
  GstFlowSample *self = GST_FLOW_SAMPLE (object);
  if (self->source)
    g_signal_handlers_disconnect_by_data (self->source, self);
  if (self->splice)
    g_signal_handlers_disconnect_by_data (self->splice, self);
  g_clear_object (&self->source);
  g_clear_object (&self->splice);
  G_OBJECT_CLASS (gst_flow_sample_parent_class)->dispose (object);
}

static void
gst_flow_sample_class_init (GstFlowSampleClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS;

  object_class->set_property = gst_flow_sample_set_property;
  object_class->get_property = gst_flow_sample_get_property;
  object_class->dispose = gst_flow_sample_dispose;
  element_class->request_new_pad = GST_DEBUG_FUNCPTR (gst_flow_sample_request_new_pad);
  element_class->release_pad = GST_DEBUG_FUNCPTR (gst_flow_sample_release_pad);
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_sample_change_state);
  element_class->send_event = GST_DEBUG_FUNCPTR (gst_flow_sample_send_event);

  gst_flow_engine_install_properties (object_class, GST_FLOW_ENGINE_NO_WORK);
  gst_flow_prior_install_properties (object_class);
  g_object_class_install_property (
      object_class, PROP_IS_LIVE,
      g_param_spec_boolean ("is-live", "Is live",
                            "Send each frame at its time by the clock, as always behind a live source", FALSE,
                            flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      object_class, PROP_NUM_BUFFERS,
      g_param_spec_int (
          "num-buffers", "Number of buffers",
          "Without a sink pad: frames that are drawn before the end of the stream; -1 is no end", -1,
          G_MAXINT, -1, flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      object_class, PROP_PREDICT,
      g_param_spec_boolean ("predict", "Predict", "With a sink pad: draw frames instead of passing real ones",
                            FALSE, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      object_class, PROP_AFTER,
      g_param_spec_uint64 ("after", "After",
                           "With a sink pad: real frames that pass before frames are drawn; 0 is all", 0,
                           G_MAXUINT64, 0, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      object_class, PROP_HORIZON,
      g_param_spec_int64 ("horizon", "Horizon",
                          "With a sink pad: frames that are drawn before the end of the stream; -1 is no end",
                          -1, G_MAXINT64, -1, flags | GST_PARAM_MUTABLE_PLAYING));
  /**
   * GstFlowSample::predict:
   *
   * Action signal: sets the property predict.
   */
  g_signal_new_class_handler ("predict", G_TYPE_FROM_CLASS (class), G_SIGNAL_RUN_LAST | G_SIGNAL_ACTION,
                              G_CALLBACK (on_predict), NULL, NULL, NULL, G_TYPE_NONE, 0);

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow sampler", "Source/Video",
                                         "Draws latents of a normalizing flow from its prior",
                                         "the normflow authors");
}

static void
gst_flow_sample_init (GstFlowSample *self)
{
  g_autoptr (GstPadTemplate) template = gst_static_pad_template_get (&src_template);
  /* with a sink pad, too: it draws on when its input has ended, so the pipeline's end must come to it */
  gst_bin_set_suppressed_flags (GST_BIN (self), GST_ELEMENT_FLAG_SOURCE);
  GST_OBJECT_FLAG_SET (self, GST_ELEMENT_FLAG_SOURCE);
  self->source = gst_object_ref_sink (g_object_new (GST_TYPE_FLOW_SOURCE, "name", "source", NULL));
  self->splice = gst_object_ref_sink (g_object_new (GST_TYPE_FLOW_SPLICE, "name", "splice", NULL));
  g_signal_connect (self->source, "notify::seed", G_CALLBACK (on_seed), self);
  g_signal_connect (self->splice, "notify::seed", G_CALLBACK (on_seed), self);
  self->src = gst_ghost_pad_new_no_target_from_template ("src", template);
  g_autoptr (GstProxyPad) inside = gst_proxy_pad_get_internal (GST_PROXY_PAD (self->src));
  gst_pad_set_event_full_function (GST_PAD (inside), take_event);
  gst_element_add_pad (GST_ELEMENT (self), self->src);
  use (self, FALSE);
}
