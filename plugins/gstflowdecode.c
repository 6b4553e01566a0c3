/* normflow: GStreamer element flowdecode. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowdecode
 * @title: flowdecode
 * @short_description: Gaussian latents to video
 *
 * Runs a normalizing flow backwards: float32 latents of flowencode become the very bytes of the video they
 * were made from; latents of flowsample become new video. Latents of another model, or a buffer that is not
 * as large as its caps say, are an error. `class`, `guidance` and the properties after them steer sampling;
 * leave them alone to get encoded video back.
 *
 * With a model of videos decoding begins at a key frame. Frames whose past was lost (they are numbered) are
 * dropped with a warning until the next one, which upstream is asked for.
 *
 * |[
 * gst-launch-1.0 filesrc location=test.gdp ! gdpdepay ! flowdecode ! videoconvert ! autovideosink
 * ]| shows stored latents as video.
 * |[
 * gst-launch-1.0 flowsample seed=7 num-buffers=25 ! video/x-flow-latent,width=128,height=128 ! flowdecode !
 * videoconvert ! autovideosink
 * ]| generates.
 *
 * Since: 0.1
 */

#include "gstflowdecode.h"
#include "gstflowengine.h"
#include "gstflowlatent.h"

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_CLASS = GST_FLOW_ENGINE_PROP_LAST,
  PROP_GUIDANCE,
  PROP_GUIDE,
  PROP_ANNEALED,
  PROP_ATTENTION_TEMPERATURE,
  PROP_METHOD,
  PROP_WINDOW,
  PROP_GUESS,
  PROP_TOLERANCE,
  PROP_MAX_SWEEPS,
  PROP_BUDGET_MS,
  PROP_KEEP_UP,
  PROP_DENOISE,
};

/* A frame that takes longer tells how far it is. */
#define LONG_FRAME G_USEC_PER_SEC

#define LEAST_BUDGET_MS 1e-3
#define MOST_BUDGET_MS 1e6

struct _GstFlowDecode
{
  GstVideoDecoder parent_instance;

  GstFlowEngine engine;

  /* under the object lock */
  gint label;
  NfDecodeOptions options;
  gboolean keep_up;
  NfStreamDenoise denoise;

  /* of the streaming thread */
  GstVideoCodecState *output;
  GstFlowLatentInfo info;
  float *latents; /* one frame, where the buffer cannot be read directly */
  gint64 begun;   /* when the frame in work was */
  gboolean told;  /* and whether its progress was posted */

  /* with a model of videos */
  float *action;
  gboolean drawn; /* and whether the frame's latents were, rather than encoded */
  gboolean lost;  /* frames are dropped until a key frame comes */
};

static GstStaticPadTemplate sink_template
    = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_VIDEO_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowDecode, gst_flow_decode, GST_TYPE_VIDEO_DECODER)
GST_ELEMENT_REGISTER_DEFINE (flowdecode, "flowdecode", GST_RANK_NONE, GST_TYPE_FLOW_DECODE)

GType
gst_flow_guide_get_type (void)
{
  static gsize type;
  static const GFlagsValue values[] = {
    { NF_GUIDE_SCALE, "Log-scale", "scale" },
    { NF_GUIDE_SHIFT, "Shift", "shift" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_flags_register_static ("GstFlowGuide", values));
  return type;
}

GType
gst_flow_decode_method_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_DECODE_AUTO, "Whichever proves fastest", "auto" },
    { NF_DECODE_SEQUENTIAL, "Token by token", "sequential" },
    { NF_DECODE_JACOBI, "Windows of tokens, iterated to their fixed point", "jacobi" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowDecodeMethod", values));
  return type;
}

GType
gst_flow_guess_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_GUESS_LATENT, "The latents", "latent" },
    { NF_GUESS_ZEROS, "Zeros", "zeros" },
    { NF_GUESS_FRAME, "The frame before, in videos", "frame" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowGuess", values));
  return type;
}

GType
gst_flow_stream_denoise_get_type (void)
{
  static gsize type;
  static const GEnumValue values[] = {
    { NF_STREAM_DENOISE_AUTO, "Learned if the model can, else score", "auto" },
    { NF_STREAM_DENOISE_LEARNED, "By the model's learned denoiser", "learned" },
    { NF_STREAM_DENOISE_SCORE, "One step along the gradient of the likelihood", "score" },
    { NF_STREAM_DENOISE_NONE, "As they were drawn", "none" },
    { 0, NULL, NULL },
  };

  if (g_once_init_enter (&type))
    g_once_init_leave (&type, g_enum_register_static ("GstFlowStreamDenoise", values));
  return type;
}

static gboolean
gst_flow_decode_stop (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  g_clear_pointer (&self->output, gst_video_codec_state_unref);
  g_clear_pointer (&self->latents, g_free);
  g_clear_pointer (&self->action, g_free);
  return TRUE;
}

static gboolean
accepts (const GstCaps *allowed, const GstFlowLatentInfo *info, GstVideoFormat format)
{
  g_autoptr (GstCaps) caps = gst_caps_new_simple (
      "video/x-raw", "format", G_TYPE_STRING, gst_video_format_to_string (format), "width", G_TYPE_INT,
      (gint)info->width, "height", G_TYPE_INT, (gint)info->height, NULL);
  return !allowed || gst_caps_can_intersect (allowed, caps);
}

/* The format that the video had, if downstream takes it, else the best of the model's layout that downstream
 * takes. */
static GstVideoFormat
choose_format (GstFlowDecode *self, const NfConfig *config, const GstFlowLatentInfo *info)
{
  g_autoptr (GstCaps) allowed = gst_pad_get_allowed_caps (GST_VIDEO_DECODER_SRC_PAD (self));
  guint n;
  const GstVideoFormat *formats = gst_flow_video_formats (config->layout, &n);

  for (guint i = 0; i < n; i++)
    if (formats[i] == info->pixel_format && accepts (allowed, info, formats[i]))
      return formats[i];
  for (guint i = 0; i < n; i++)
    if (accepts (allowed, info, formats[i]))
      return formats[i];
  return formats[0]; /* negotiation will say why not */
}

static gboolean
gst_flow_decode_set_format (GstVideoDecoder *decoder, GstVideoCodecState *state)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  g_autoptr (GError) error = NULL;
  GstFlowLatentInfo info;

  if (gst_flow_engine_wait (&self->engine, NULL) != GST_FLOW_OK)
    return FALSE;
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (&self->engine);
  g_autofree char *model = gst_flow_engine_describe (&self->engine);
  if (!gst_flow_latent_info_from_caps (&info, state->caps, config, digest, model, &error))
    {
      gst_flow_post_error (self, error);
      return FALSE;
    }
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  if (stream && !nf_stream_set_context (stream, info.context, &error))
    {
      gst_flow_post_error (self, error);
      return FALSE;
    }
  g_free (self->action);
  self->action = g_new0 (float, MAX (info.actions, 1));
  self->lost = FALSE;
  self->info = info;
  g_clear_pointer (&self->latents, g_free);
  g_clear_pointer (&self->output, gst_video_codec_state_unref);
  self->output = gst_video_decoder_set_output_state (decoder, choose_format (self, config, &info), info.width,
                                                     info.height, state);
  return gst_video_decoder_negotiate (decoder);
}

/* The latents in the SIZE bytes at DATA as aligned floats. */
static const float *
read_latents (GstFlowDecode *self, const guint8 *data, gsize size, GError **error)
{
  const gsize n = nf_grid_latents (&self->info.grid);
  const gboolean aligned = GPOINTER_TO_SIZE (data) % sizeof (float) == 0;
  const float *latents = (const float *)(gconstpointer)data;

  if (size != gst_flow_latent_info_size (&self->info))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "a buffer has %" G_GSIZE_FORMAT
                   " bytes, but its caps (%u×%u pixels, a grid of %u×%u with %u %s each) "
                   "mean %" G_GSIZE_FORMAT,
                   size, self->info.width, self->info.height, self->info.grid.grid_width,
                   self->info.grid.grid_height, self->info.grid.features,
                   self->info.half ? "float16" : "float32", gst_flow_latent_info_size (&self->info));
      return NULL;
    }
  if (self->info.half || !aligned)
    {
      if (!self->latents)
        self->latents = g_try_new (float, n);
      if (!self->latents)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                       "no memory for the latents of a frame of %u×%u pixels", self->info.width,
                       self->info.height);
          return NULL;
        }
      if (self->info.half && GPOINTER_TO_SIZE (data) % sizeof (guint16) == 0)
        nf_half_to_float ((const guint16 *)(gconstpointer)data, self->latents, n);
      else if (self->info.half)
        {
          g_autofree guint16 *copy = g_memdup2 (data, size);
          nf_half_to_float (copy, self->latents, n);
        }
      else
        memcpy (self->latents, data, size);
      latents = self->latents;
    }
  return latents;
}

/* Whether all that FRAME was predicted from is there. If it is a key frame the stream begins anew. */
static gboolean
has_context (GstFlowDecode *self, NfStream *stream, GstVideoCodecFrame *frame)
{
  const guint64 next = nf_stream_get_index (stream);
  GstMapInfo in;
  guint32 index = 0;

  if (!gst_buffer_map (frame->input_buffer, &in, GST_MAP_READ))
    return TRUE; /* decoding will say so */
  if (in.size == gst_flow_latent_info_size (&self->info))
    gst_flow_latent_read_tail (&self->info, in.data, self->action, &index, &self->drawn);
  gst_buffer_unmap (frame->input_buffer, &in);
  if (index == 0)
    {
      nf_stream_reset (stream);
      self->lost = FALSE;
      return TRUE;
    }
  if (index == next && !self->lost)
    return TRUE;
  if (!self->lost)
    GST_ELEMENT_WARNING (self, STREAM, DECODE,
                         ("Frame %u after a key frame came, but the one to come was number %" G_GUINT64_FORMAT
                          ": what it was predicted from is lost; frames are dropped until the next key frame",
                          index, next),
                         (NULL));
  self->lost = TRUE;
  nf_stream_reset (stream);
  return FALSE;
}

/* Of a frame, in the thread that decodes it. */
static void
on_progress (const char *phase, double fraction, gpointer data)
{
  GstFlowDecode *self = data;

  if (!self->told && g_get_monotonic_time () - self->begun < LONG_FRAME)
    return;
  gst_flow_engine_post_progress (&self->engine,
                                 fraction >= 1 ? GST_PROGRESS_TYPE_COMPLETE
                                 : self->told  ? GST_PROGRESS_TYPE_CONTINUE
                                               : GST_PROGRESS_TYPE_START,
                                 phase, (gint)(100 * CLAMP (fraction, 0, 1)), "Decoding a frame");
  self->told = fraction < 1;
}

/* Says that a budget or a limit of sweeps ended before everything had settled. */
static void
post_residual (GstFlowDecode *self, NfSession *session, const GstVideoCodecFrame *frame,
               const NfDecodeOptions *options)
{
  NfDecodeReport report;

  if (session)
    nf_session_get_decode_report (session, &report);
  else
    nf_stream_get_decode_report (gst_flow_engine_get_stream (&self->engine), &report);
  if (report.residual <= options->tolerance)
    return;
  GstStructure *structure
      = gst_structure_new ("flow-residual", "timestamp", G_TYPE_UINT64, frame->pts, "frame-index",
                           G_TYPE_UINT64, (guint64)frame->system_frame_number, "residual", G_TYPE_DOUBLE,
                           report.residual, "passes", G_TYPE_UINT64, report.passes, NULL);
  gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), structure));
}

/* The time that is left for FRAME, as far as the sinks have told, is its budget. */
static void
limit_budget (GstFlowDecode *self, GstVideoCodecFrame *frame, NfDecodeOptions *options)
{
  const GstClockTimeDiff left = gst_video_decoder_get_max_decode_time (GST_VIDEO_DECODER (self), frame);
  if (left == G_MAXINT64)
    return;
  /* none at all would mean no limit */
  const double ms = CLAMP ((double)left / GST_MSECOND, LEAST_BUDGET_MS, MOST_BUDGET_MS);
  options->budget_ms = options->budget_ms > 0 ? MIN (options->budget_ms, ms) : ms;
}

static GstFlowReturn
decode_frame (GstFlowDecode *self, NfSession *session, GstVideoCodecFrame *frame)
{
  g_autoptr (GError) error = NULL;
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  GstVideoFrame video;
  GstMapInfo in;
  NfFrame view;

  if (!gst_buffer_map (frame->input_buffer, &in, GST_MAP_READ))
    {
      GST_ELEMENT_ERROR (self, RESOURCE, READ, ("A buffer of latents cannot be read"), (NULL));
      return GST_FLOW_ERROR;
    }
  GST_OBJECT_LOCK (self);
  NfDecodeOptions options = self->options;
  const gint label = self->label;
  const gboolean keep_up = self->keep_up;
  const NfStreamDenoise denoise = self->denoise;
  GST_OBJECT_UNLOCK (self);
  if (keep_up)
    limit_budget (self, frame, &options);

  gboolean done = FALSE;
  const float *latents = read_latents (self, in.data, in.size, &error);
  if (latents && !gst_video_frame_map (&video, &self->output->info, frame->output_buffer, GST_MAP_WRITE))
    g_set_error (&error, NF_ERROR, NF_ERROR_NO_MEMORY, "cannot write to an output buffer");
  else if (latents)
    {
      gst_flow_frame_view (&video, &view);
      gst_flow_frame_fill_padding (&video);
      self->begun = g_get_monotonic_time ();
      self->told = FALSE;
      if (session)
        {
          nf_session_set_progress (session, on_progress, self);
          done = nf_session_decode_frame (session, latents, label, &options, &view, &error);
          nf_session_set_progress (session, NULL, NULL);
        }
      else
        done = nf_stream_set_denoise (stream, denoise, &error)
               && nf_stream_decode (stream, latents, self->info.actions ? self->action : NULL, self->drawn,
                                    &options, &view, &error);
      if (self->told)
        gst_flow_engine_post_progress (&self->engine,
                                       done ? GST_PROGRESS_TYPE_COMPLETE : GST_PROGRESS_TYPE_CANCELED,
                                       "decode", done ? 100 : 0, "Decoding a frame");
      if (done)
        post_residual (self, session, frame, &options);
      gst_video_frame_unmap (&video);
    }
  gst_buffer_unmap (frame->input_buffer, &in);
  return done ? GST_FLOW_OK : gst_flow_post_error (self, error);
}

static GstFlowReturn
gst_flow_decode_handle_frame (GstVideoDecoder *decoder, GstVideoCodecFrame *frame)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  NfSession *session;
  GstClockTime latency;

  const GstClockTime time = gst_segment_to_stream_time (&decoder->input_segment, GST_FORMAT_TIME, frame->pts);
  if (GST_CLOCK_TIME_IS_VALID (time))
    gst_object_sync_values (GST_OBJECT (self), time);
  GstFlowReturn ret = gst_flow_engine_wait (&self->engine, &session);
  const gint64 start = g_get_monotonic_time ();
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  if (ret == GST_FLOW_OK && stream && !has_context (self, stream, frame))
    {
      gst_flow_engine_count_dropped (&self->engine);
      gst_video_decoder_request_sync_point (decoder, frame, 0);
      return gst_video_decoder_drop_frame (decoder, frame);
    }
  if (ret == GST_FLOW_OK)
    ret = gst_video_decoder_allocate_output_frame (decoder, frame);
  if (ret == GST_FLOW_OK)
    ret = decode_frame (self, session, frame);
  if (ret != GST_FLOW_OK)
    {
      gst_flow_engine_count_dropped (&self->engine);
      gst_video_decoder_release_frame (decoder, frame);
      return ret;
    }
  if (gst_flow_engine_count_frame (&self->engine, start, &latency))
    gst_video_decoder_set_latency (decoder, latency, latency);
  return gst_video_decoder_finish_frame (decoder, frame);
}

static gboolean
gst_flow_decode_flush (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  if (stream)
    nf_stream_reset (stream);
  self->lost = FALSE;
  return TRUE;
}

static gboolean
gst_flow_decode_sink_event (GstVideoDecoder *decoder, GstEvent *event)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  GstCaps *caps;

  switch (GST_EVENT_TYPE (event))
    {
    case GST_EVENT_FLUSH_START:
      gst_flow_engine_set_flushing (&self->engine, TRUE);
      break;
    case GST_EVENT_FLUSH_STOP:
      gst_flow_engine_set_flushing (&self->engine, FALSE);
      break;
    case GST_EVENT_CAPS:
      gst_event_parse_caps (event, &caps);
      if (gst_structure_has_name (gst_caps_get_structure (caps, 0), GST_FLOW_TENSORS_MIME))
        {
          /* GstVideoDecoder 1.22 knows nothing but video and images. */
          g_autoptr (GstCaps) renamed = gst_caps_copy (caps);
          gst_structure_set_name (gst_caps_get_structure (renamed, 0), GST_FLOW_LATENT_MIME);
          GstEvent *other = gst_event_new_caps (renamed);
          gst_event_set_seqnum (other, gst_event_get_seqnum (event));
          gst_event_unref (event);
          event = other;
        }
      break;
    default:
      break;
    }
  return GST_VIDEO_DECODER_CLASS (gst_flow_decode_parent_class)->sink_event (decoder, event);
}

static GstStateChangeReturn
gst_flow_decode_change_state (GstElement *element, GstStateChange transition)
{
  return gst_flow_engine_change_state (&GST_FLOW_DECODE (element)->engine,
                                       GST_ELEMENT_CLASS (gst_flow_decode_parent_class), transition);
}

static void
gst_flow_decode_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowDecode *self = GST_FLOW_DECODE (object);

  if (gst_flow_engine_set_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_CLASS:
      self->label = g_value_get_int (value);
      break;
    case PROP_GUIDANCE:
      self->options.guidance = g_value_get_double (value);
      break;
    case PROP_GUIDE:
      self->options.guide = g_value_get_flags (value);
      break;
    case PROP_ANNEALED:
      self->options.annealed = g_value_get_boolean (value);
      break;
    case PROP_ATTENTION_TEMPERATURE:
      self->options.attention_temperature = g_value_get_double (value);
      break;
    case PROP_METHOD:
      self->options.method = g_value_get_enum (value);
      break;
    case PROP_WINDOW:
      self->options.window = g_value_get_uint (value);
      break;
    case PROP_GUESS:
      self->options.guess = g_value_get_enum (value);
      break;
    case PROP_TOLERANCE:
      self->options.tolerance = g_value_get_double (value);
      break;
    case PROP_MAX_SWEEPS:
      self->options.max_sweeps = g_value_get_uint (value);
      break;
    case PROP_BUDGET_MS:
      self->options.budget_ms = g_value_get_double (value);
      break;
    case PROP_KEEP_UP:
      self->keep_up = g_value_get_boolean (value);
      break;
    case PROP_DENOISE:
      self->denoise = g_value_get_enum (value);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_decode_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowDecode *self = GST_FLOW_DECODE (object);

  if (gst_flow_engine_get_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_CLASS:
      g_value_set_int (value, self->label);
      break;
    case PROP_GUIDANCE:
      g_value_set_double (value, self->options.guidance);
      break;
    case PROP_GUIDE:
      g_value_set_flags (value, self->options.guide);
      break;
    case PROP_ANNEALED:
      g_value_set_boolean (value, self->options.annealed);
      break;
    case PROP_ATTENTION_TEMPERATURE:
      g_value_set_double (value, self->options.attention_temperature);
      break;
    case PROP_METHOD:
      g_value_set_enum (value, self->options.method);
      break;
    case PROP_WINDOW:
      g_value_set_uint (value, self->options.window);
      break;
    case PROP_GUESS:
      g_value_set_enum (value, self->options.guess);
      break;
    case PROP_TOLERANCE:
      g_value_set_double (value, self->options.tolerance);
      break;
    case PROP_MAX_SWEEPS:
      g_value_set_uint (value, self->options.max_sweeps);
      break;
    case PROP_BUDGET_MS:
      g_value_set_double (value, self->options.budget_ms);
      break;
    case PROP_KEEP_UP:
      g_value_set_boolean (value, self->keep_up);
      break;
    case PROP_DENOISE:
      g_value_set_enum (value, self->denoise);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_decode_finalize (GObject *object)
{
  gst_flow_engine_clear (&GST_FLOW_DECODE (object)->engine);
  G_OBJECT_CLASS (gst_flow_decode_parent_class)->finalize (object);
}

static void
gst_flow_decode_class_init (GstFlowDecodeClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstVideoDecoderClass *decoder_class = GST_VIDEO_DECODER_CLASS (class);
  const GParamFlags flags
      = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE;

  object_class->set_property = gst_flow_decode_set_property;
  object_class->get_property = gst_flow_decode_get_property;
  object_class->finalize = gst_flow_decode_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_decode_change_state);
  decoder_class->stop = GST_DEBUG_FUNCPTR (gst_flow_decode_stop);
  decoder_class->set_format = GST_DEBUG_FUNCPTR (gst_flow_decode_set_format);
  decoder_class->handle_frame = GST_DEBUG_FUNCPTR (gst_flow_decode_handle_frame);
  decoder_class->flush = GST_DEBUG_FUNCPTR (gst_flow_decode_flush);
  decoder_class->sink_event = GST_DEBUG_FUNCPTR (gst_flow_decode_sink_event);

  gst_flow_engine_install_properties (object_class);
  g_object_class_install_property (object_class, PROP_CLASS,
                                   g_param_spec_int ("class", "Class",
                                                     "Class to sample, for models with classes; -1 is none",
                                                     -1, G_MAXINT, -1, flags));
  g_object_class_install_property (
      object_class, PROP_GUIDANCE,
      g_param_spec_double ("guidance", "Guidance", "Weight of guidance; 0 is none", 0, 1e6, 0, flags));
  g_object_class_install_property (object_class, PROP_GUIDE,
                                   g_param_spec_flags ("guide", "Guide", "What guidance acts on",
                                                       GST_TYPE_FLOW_GUIDE, NF_GUIDE_SCALE | NF_GUIDE_SHIFT,
                                                       flags));
  g_object_class_install_property (object_class, PROP_ANNEALED,
                                   g_param_spec_boolean ("annealed", "Annealed",
                                                         "Let guidance grow along the sequence of patches",
                                                         FALSE, flags));
  g_object_class_install_property (
      object_class, PROP_ATTENTION_TEMPERATURE,
      g_param_spec_double (
          "attention-temperature", "Attention temperature",
          "What the unguided branch divides its attention logits by; with guidance and no class this "
          "guides unconditional models",
          1e-3, 1e6, 1, flags));
  g_object_class_install_property (object_class, PROP_METHOD,
                                   g_param_spec_enum ("method", "Method",
                                                      "How latents become pixels; the result is the same",
                                                      GST_TYPE_FLOW_DECODE_METHOD, NF_DECODE_AUTO, flags));
  g_object_class_install_property (
      object_class, PROP_WINDOW,
      g_param_spec_uint ("window", "Window",
                         "Tokens of a sweep of method jacobi; 0 is the most there is "
                         "memory for",
                         0, 65536, 0, flags));
  g_object_class_install_property (object_class, PROP_GUESS,
                                   g_param_spec_enum ("guess", "Guess", "Where sweeps start",
                                                      GST_TYPE_FLOW_GUESS, NF_GUESS_LATENT, flags));
  g_object_class_install_property (
      object_class, PROP_TOLERANCE,
      g_param_spec_double ("tolerance", "Tolerance",
                           "Change of a value between sweeps that counts as none; 0 gives the same bits as "
                           "token by token",
                           0, 1, 0, flags));
  g_object_class_install_property (
      object_class, PROP_MAX_SWEEPS,
      g_param_spec_uint ("max-sweeps", "Most sweeps",
                         "Sweeps after which a window is taken as it is; 0 is no limit", 0, G_MAXINT, 0,
                         flags));
  g_object_class_install_property (
      object_class, PROP_BUDGET_MS,
      g_param_spec_double ("budget-ms", "Budget",
                           "Milliseconds for a frame, after which windows are swept once only; 0 is no limit",
                           0, 1e6, 0, flags));

  g_object_class_install_property (
      object_class, PROP_KEEP_UP,
      g_param_spec_boolean ("keep-up", "Keep up",
                            "Rather end a frame early, as budget-ms does, than let it be late: its budget is "
                            "the time that sinks say is left (QoS)",
                            FALSE, flags));
  g_object_class_install_property (
      object_class, PROP_DENOISE,
      g_param_spec_enum ("denoise", "Denoise",
                         "What is shown of drawn frames, with a model of videos that was trained with "
                         "Gaussian noise; frames that were encoded come back as they were",
                         GST_TYPE_FLOW_STREAM_DENOISE, NF_STREAM_DENOISE_AUTO, flags));

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow decoder", "Codec/Decoder/Video",
                                         "Turns Gaussian latents into video by a normalizing flow",
                                         "the normflow authors");
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_GUIDE, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_DECODE_METHOD, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_GUESS, 0);
  gst_type_mark_as_plugin_api (GST_TYPE_FLOW_STREAM_DENOISE, 0);
}

static void
gst_flow_decode_init (GstFlowDecode *self)
{
  gst_flow_engine_init (&self->engine, self, NF_SESSION_DECODE);
  self->label = -1;
  self->options = (NfDecodeOptions){ .guide = NF_GUIDE_SCALE | NF_GUIDE_SHIFT,
                                     .attention_temperature = 1,
                                     .snap = TRUE };
  gst_video_decoder_set_packetized (GST_VIDEO_DECODER (self), TRUE);
  gst_video_decoder_set_needs_format (GST_VIDEO_DECODER (self), TRUE);
  /* What the caps say of the model is checked when they arrive, so that a refusal can say why. */
  gst_video_decoder_set_use_default_pad_acceptcaps (GST_VIDEO_DECODER (self), TRUE);
  GST_PAD_SET_ACCEPT_TEMPLATE (GST_VIDEO_DECODER_SINK_PAD (self));
}
