/* normflow: GStreamer element flowdecode. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowdecode
 * @title: flowdecode
 * @short_description: Gaussian latents to video
 *
 * Runs a normalizing flow backwards: float32 latents of flowencode become the very bytes of the video they
 * were made from; latents of flowsample become new video. Latents of another model are an error; after some
 * of its own they are dropped with a warning until there are such again. A buffer that is not as large as its
 * caps say is an error, unless `max-errors` lets it be dropped. `class`, `guidance` and the properties after
 * them steer sampling; leave them alone to get encoded video back.
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
#include "gstflowsettings.h"

#include <string.h>

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_FRAMES_AT_ONCE = GST_FLOW_SETTINGS_PROP_LAST,
  PROP_LOOK_AHEAD,
};

/* A frame that takes longer tells how far it is. */
#define LONG_FRAME G_USEC_PER_SEC

/* A key frame that was asked for and has not come by then is asked for again. */
#define ASK_AGAIN GST_SECOND

#define LEAST_BUDGET_MS 1e-3

struct _GstFlowDecode
{
  GstVideoDecoder parent_instance;

  GstFlowEngine engine;
  GstFlowSettings settings;
  GstPadChainFunction chain; /* of the base class */

  /* under the object lock */
  guint at_once;
  gint look_ahead;

  /* of the streaming thread */
  GstVideoCodecState *input, *output;
  GstFlowLatentInfo info;
  GPtrArray *waiting;  /* frames that are decoded together, */
  GstFlowDecoding how; /* in this way */
  float *latents;      /* of frames whose buffers cannot be read directly */
  guint room;          /* for so many */
  guint together;      /* frames that go through at once */
  gint64 begun;        /* when the frame in work was */
  gboolean telling;    /* a QoS message of our own goes out */
  gboolean told;       /* and whether its progress was posted */
  gboolean foreign;    /* the latents that come are not the model's, after some that were: they are dropped */
  gboolean negotiating; /* we are, and not the base class in the middle of frames, whose format stays */

  /* with a model of videos */
  GPtrArray *held; /* frames that were decoded and wait for those that they look at */
  float *action;
  gboolean drawn;     /* and whether the frame's latents were, rather than encoded */
  guint32 mark;       /* of the last frame that was not dropped */
  gboolean lost;      /* frames are dropped until a key frame comes */
  GstClockTime asked; /* running time of the frame for which one was asked for, none before that */
};

static GstStaticPadTemplate sink_template
    = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_VIDEO_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowDecode, gst_flow_decode, GST_TYPE_VIDEO_DECODER)
GST_ELEMENT_REGISTER_DEFINE (flowdecode, "flowdecode", GST_RANK_NONE, GST_TYPE_FLOW_DECODE)

static gboolean
gst_flow_decode_stop (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  g_clear_pointer (&self->input, gst_video_codec_state_unref);
  g_clear_pointer (&self->output, gst_video_codec_state_unref);
  g_ptr_array_set_size (self->waiting, 0);
  g_ptr_array_set_size (self->held, 0);
  g_clear_pointer (&self->latents, g_free);
  self->room = 0;
  g_clear_pointer (&self->action, g_free);
  self->foreign = FALSE;
  return TRUE;
}

static GstFlowReturn decode_waiting (GstFlowDecode *self);

static gboolean
accepts (const GstCaps *allowed, const GstFlowLatentInfo *info, GstVideoFormat format)
{
  g_autoptr (GstCaps) caps
      = gst_caps_new_simple ("video/x-raw", "format", G_TYPE_STRING, gst_video_format_to_string (format),
                             "width", G_TYPE_INT, (gint)info->width, "height", G_TYPE_INT, (gint)info->height,
                             "framerate", GST_TYPE_FRACTION, info->fps_n, info->fps_d, NULL);
  return !allowed || gst_caps_can_intersect (allowed, caps);
}

/* The format that the video had, if downstream takes it, else the best of the model's layout that downstream
 * takes, is FORMAT; FALSE if it takes none. */
static gboolean
choose_format (GstFlowDecode *self, const NfConfig *config, const GstFlowLatentInfo *info,
               GstVideoFormat *format)
{
  g_autoptr (GstCaps) allowed = gst_pad_get_allowed_caps (GST_VIDEO_DECODER_SRC_PAD (self));
  guint n;
  const GstVideoFormat *formats = gst_flow_video_formats (config->layout, &n);

  *format = formats[0];
  for (guint i = 0; i < n; i++)
    if (formats[i] == info->pixel_format)
      *format = formats[i];
  gboolean known = accepts (allowed, info, *format);
  for (guint i = 0; i < n && !known; i++)
    if ((known = accepts (allowed, info, formats[i])))
      *format = formats[i];
  return known;
}

/* The time until FRAME has to be shown, as far as the sinks have told, else G_MAXINT64. */
static GstClockTimeDiff
get_time_left (GstFlowDecode *self, GstVideoCodecFrame *frame)
{
  return gst_video_decoder_get_max_decode_time (GST_VIDEO_DECODER (self), frame);
}

static gboolean
wants_qos (GstFlowDecode *self)
{
  gboolean qos;
  g_object_get (self, "qos", &qos, NULL);
  return qos;
}

/* Downstream may want another format than it did, which negotiate_again() sees to before the next frame. The
 * base class asks at other times, too: when a frame has its buffer, when it goes, and before gaps. */
static gboolean
gst_flow_decode_negotiate (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  if (self->negotiating || !self->output)
    return GST_VIDEO_DECODER_CLASS (gst_flow_decode_parent_class)->negotiate (decoder);
  gst_pad_mark_reconfigure (GST_VIDEO_DECODER_SRC_PAD (decoder));
  return TRUE;
}

/* Downstream takes no video that the latents become. */
static gboolean
refuse_output (GstFlowDecode *self)
{
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autoptr (GstCaps) made = gst_caps_copy (self->output->caps), formats = gst_flow_video_caps (config);
  gst_caps_set_value (made, "format",
                      gst_structure_get_value (gst_caps_get_structure (formats, 0), "format"));
  gst_flow_engine_refuse_output (&self->engine, self->input->caps, GST_VIDEO_DECODER_SRC_PAD (self), made);
  return FALSE;
}

/* KNOWN: downstream takes the format. A pad keeps caps that its peer refuses, and only the next frame would
 * tell. */
static gboolean
negotiate (GstFlowDecode *self, gboolean known)
{
  if (!known || !gst_flow_is_wanted (GST_VIDEO_DECODER_SRC_PAD (self), self->output->caps))
    return refuse_output (self);
  self->negotiating = TRUE;
  const gboolean done = gst_video_decoder_negotiate (GST_VIDEO_DECODER (self));
  self->negotiating = FALSE;
  if (done)
    gst_flow_engine_accept_caps (&self->engine);
  return done;
}

/* What comes was predicted from what is not there: it is dropped until a key frame comes. */
static void
lose (GstFlowDecode *self, NfStream *stream)
{
  if (self->lost)
    return; /* since the stream began anew nothing was decoded */
  self->asked = GST_CLOCK_TIME_NONE;
  self->lost = TRUE;
  nf_stream_reset (stream);
}

/* FRAME does not go on, and what happens is told already. */
static void
leave_out (GstFlowDecode *self, GstVideoCodecFrame *frame)
{
  gst_flow_engine_count_dropped (&self->engine, 1);
  gst_video_decoder_release_frame (GST_VIDEO_DECODER (self), gst_video_codec_frame_ref (frame));
}

/* FRAME is damaged: it is left out if there may be so many (max-errors). What follows it in a video cannot be
 * decoded either. */
static GstFlowReturn
drop_damaged (GstFlowDecode *self, GstVideoCodecFrame *frame, const GError *error)
{
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  GstFlowReturn ret = GST_FLOW_OK;
  if (stream)
    lose (self, stream);
  GST_VIDEO_DECODER_ERROR (self, 1, STREAM, DECODE, ("%s", error->message), (NULL), ret);
  if (ret != GST_FLOW_OK)
    {
      leave_out (self, frame);
      return ret;
    }
  GST_ELEMENT_WARNING (self, STREAM, DECODE,
                       ("%s; %s", error->message,
                        stream ? "frames are dropped until the next key frame" : "the frame is dropped"),
                       (NULL));
  gst_video_decoder_drop_frame (GST_VIDEO_DECODER (self), gst_video_codec_frame_ref (frame));
  return ret;
}

/* Frames that wait for later ones are shown with what is known: before the stream begins anew, and at its
 * end. Those that the stream has lost to an error are left out. */
static GstFlowReturn
show_held (GstFlowDecode *self)
{
  GstVideoDecoder *decoder = GST_VIDEO_DECODER (self);
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  GstFlowReturn ret = GST_FLOW_OK;
  while (stream && self->held->len > 0 && (ret == GST_FLOW_OK || nf_stream_get_held (stream) == 0))
    {
      g_autoptr (GstVideoCodecFrame) frame = g_ptr_array_steal_index (self->held, 0);
      g_autoptr (GError) error = NULL;
      GstVideoFrame video;
      NfFrame view;
      if (nf_stream_get_held (stream) == 0)
        {
          leave_out (self, frame);
          continue;
        }
      if (!gst_video_frame_map (&video, &self->output->info, frame->output_buffer, GST_MAP_WRITE))
        {
          g_set_error (&error, NF_ERROR, NF_ERROR_NO_MEMORY, "cannot write to an output buffer");
          nf_stream_reset (stream);
        }
      else
        {
          gst_flow_frame_view (&video, &self->output->info, &view);
          gst_flow_frame_fill_padding (&video, &view);
          nf_stream_drain (stream, &view, &error);
          gst_video_frame_unmap (&video);
        }
      if (!error)
        ret = gst_video_decoder_finish_frame (decoder, gst_video_codec_frame_ref (frame));
      else if (g_error_matches (error, NF_ERROR, NF_ERROR_DATA))
        ret = drop_damaged (self, frame, error);
      else
        {
          leave_out (self, frame);
          ret = gst_flow_post_error (self, error);
        }
    }
  return ret;
}

/* CAPS are none of this model's latents. At first nothing can be done; later, others of its own may come
 * again. */
static gboolean
refuse_latents (GstFlowDecode *self, GstCaps *caps, const GError *error)
{
  if (self->output)
    {
      if (!self->foreign)
        GST_ELEMENT_WARNING (
            self, STREAM, WRONG_TYPE,
            ("%s; frames are dropped until there are some of this model again", error->message), (NULL));
      self->foreign = TRUE;
      return TRUE;
    }
  gst_flow_engine_refuse_caps (&self->engine, caps, error);
  return FALSE;
}

/* Frames of FORMAT leave from now on. GstVideoDecoder takes what is known of HDR from the pad's caps, which
 * are still the old ones while new ones are set. */
static void
set_output (GstFlowDecode *self, GstVideoFormat format)
{
  static const char *const fields[] = { "mastering-display-info", "content-light-level" };
  const GstStructure *input = gst_caps_get_structure (self->input->caps, 0);
  g_clear_pointer (&self->output, gst_video_codec_state_unref);
  /* where planes lie depends on the interlacing, too, which set_output_state() would only put on it */
  self->output = gst_video_decoder_set_interlaced_output_state (
      GST_VIDEO_DECODER (self), format, GST_VIDEO_INFO_INTERLACE_MODE (&self->input->info), self->info.width,
      self->info.height, self->input);
  /* of drawn frames nobody said it, and what scales them would go by another size's */
  GstVideoInfo usual;
  if (self->output->info.colorimetry.matrix == GST_VIDEO_COLOR_MATRIX_UNKNOWN
      && gst_video_info_set_format (&usual, format, self->info.width, self->info.height))
    self->output->info.colorimetry = usual.colorimetry;
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&self->output->info);
  for (guint i = 0; i < G_N_ELEMENTS (fields); i++)
    if (gst_structure_has_field (input, fields[i]))
      gst_caps_set_value (caps, fields[i], gst_structure_get_value (input, fields[i]));
  gst_caps_replace (&self->output->caps, caps);
}

/* Frames that a frame has to wait for once it is decoded. */
static guint
get_look_ahead (GstFlowDecode *self)
{
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  return stream ? nf_stream_get_look_ahead (stream) : 0;
}

/* How many frames go through together. With a budget, a model of videos, or backwards each goes alone. */
static guint
choose_at_once (GstFlowDecode *self, NfSession *session, const GstFlowDecoding *how, guint wanted)
{
  if (!session || how->keep_up || how->options.budget_ms > 0
      || GST_VIDEO_DECODER (self)->input_segment.rate < 0)
    return 1;
  /* what is wrong with the size, caps have said */
  return wanted ? wanted
                : MAX (nf_session_get_frames_at_once (session, self->info.width, self->info.height, NULL), 1);
}

/* How long a frame takes: they are computed one after the other, and wait for the last that go through at
 * once and for those that they look at. */
static void
tell_latency (GstFlowDecode *self)
{
  const GstVideoInfo *info = &self->output->info;
  const guint waits = self->together - 1 + get_look_ahead (self);
  GstClockTime latency = gst_flow_engine_get_latency (&self->engine) * self->together, told;
  if (info->fps_n > 0)
    {
      const GstClockTime wait
          = gst_util_uint64_scale (waits * GST_SECOND, (guint64)info->fps_d, (guint64)info->fps_n);
      latency += MIN (wait, (GstClockTime)G_MAXINT64); /* at rates of years a frame */
    }
  gst_video_decoder_get_latency (GST_VIDEO_DECODER (self), &told, NULL);
  if (latency != told)
    gst_video_decoder_set_latency (GST_VIDEO_DECODER (self), latency, latency);
}

/* Latents of INFO that say which text the model saw come back only with the same one; said once of each. */
static void
check_text (GstFlowDecode *self, const GstFlowLatentInfo *info)
{
  g_autofree char *own = gst_flow_engine_dup_text_digest (&self->engine);
  if (!own || !*info->text || g_str_equal (info->text, own)
      || (self->output && g_str_equal (info->text, self->info.text)))
    return;
  GST_ELEMENT_WARNING (self, STREAM, DECODE,
                       ("The latents were made with the text features %s, but those of the property text are "
                        "%s, which give other "
                        "samples back; %s",
                        info->text, own,
                        g_str_equal (info->text, NF_NO_TEXT) ? "leave it unset"
                                                             : "set it to the file that they were made with"),
                       (NULL));
}

/* Where it fails some of what frames go by is that of STATE already. */
static gboolean
set_up (GstFlowDecode *self, GstVideoCodecState *state)
{
  g_autoptr (GError) error = NULL;
  GstFlowLatentInfo info;
  NfSession *session;

  /* frames of the old format */
  if (decode_waiting (self) != GST_FLOW_OK || show_held (self) != GST_FLOW_OK)
    return FALSE;
  if (gst_flow_engine_wait (&self->engine, NULL) != GST_FLOW_OK)
    return FALSE;
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (&self->engine);
  g_autofree char *model = gst_flow_engine_describe (&self->engine);
  if (!gst_flow_latent_info_from_caps (&info, state->caps, config, digest, model, &error))
    return refuse_latents (self, state->caps, error);
  if (gst_flow_engine_take_precision (&self->engine, info.precision, info.arithmetic) != GST_FLOW_OK
      || gst_flow_engine_wait (&self->engine, &session) != GST_FLOW_OK)
    return FALSE;
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  GST_OBJECT_LOCK (self);
  const gint look_ahead = self->look_ahead;
  const guint at_once = self->at_once;
  const GstFlowDecoding how = self->settings.wanted;
  GST_OBJECT_UNLOCK (self);
  if (stream
      && (!nf_stream_set_context (stream, info.context, &error)
          || !nf_stream_set_look_ahead (stream, look_ahead, &error)))
    {
      gst_flow_post_error (self, error);
      return FALSE;
    }
  GstVideoFormat format;
  const gboolean known = choose_format (self, config, &info, &format), first = !self->output;
  check_text (self, &info);
  g_free (self->action);
  self->action = g_new0 (float, MAX (info.actions, 1));
  self->lost = FALSE;
  self->info = info;
  g_clear_pointer (&self->latents, g_free);
  self->room = 0;
  g_clear_pointer (&self->input, gst_video_codec_state_unref);
  self->input = gst_video_codec_state_ref (state);
  set_output (self, format);
  self->together = choose_at_once (self, session, &how, at_once);
  tell_latency (self);
  if (negotiate (self, known))
    {
      self->foreign = FALSE;
      return TRUE;
    }
  /* nothing of the model was shown yet */
  if (first)
    g_clear_pointer (&self->output, gst_video_codec_state_unref);
  return FALSE;
}

static gboolean
gst_flow_decode_set_format (GstVideoDecoder *decoder, GstVideoCodecState *state)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  return gst_flow_engine_note_format (&self->engine, state, set_up (self, state));
}

static gboolean
set_format_again (gpointer element, GstVideoCodecState *format)
{
  GST_VIDEO_DECODER_STREAM_LOCK (element);
  const gboolean done = gst_flow_decode_set_format (element, format);
  GST_VIDEO_DECODER_STREAM_UNLOCK (element);
  return done;
}

/* Downstream may want another format than it did: before frames get their buffers. The pictures that a stream
 * remembers do not depend on it. */
static GstFlowReturn
negotiate_again (GstFlowDecode *self)
{
  GstVideoDecoder *decoder = GST_VIDEO_DECODER (self);
  GstPad *pad = GST_VIDEO_DECODER_SRC_PAD (decoder);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  GstFlowReturn ret = GST_FLOW_OK;

  if (!config || !gst_pad_check_reconfigure (pad))
    return GST_FLOW_OK;
  GstVideoFormat format;
  const gboolean known = choose_format (self, config, &self->info, &format);
  if (known && format != GST_VIDEO_INFO_FORMAT (&self->output->info))
    {
      ret = show_held (self); /* they have buffers of the old format */
      set_output (self, format);
    }
  if (ret == GST_FLOW_OK && negotiate (self, known))
    return GST_FLOW_OK;
  gst_pad_mark_reconfigure (pad);
  if (ret != GST_FLOW_OK)
    return ret;
  return GST_PAD_IS_FLUSHING (pad) ? GST_FLOW_FLUSHING : GST_FLOW_NOT_NEGOTIATED;
}

/* The latents in the SIZE bytes at DATA, of frame I among COUNT, as aligned floats. CORRECTIONS
 * (NfCorrection) get what follows them. */
static const float *
read_latents (GstFlowDecode *self, const guint8 *data, gsize size, guint i, guint count, GArray *corrections,
              GError **error)
{
  const gsize n = nf_grid_latents (&self->info.grid);
  const gboolean aligned = GPOINTER_TO_SIZE (data) % sizeof (float) == 0;
  const float *latents = (const float *)(gconstpointer)data;

  if (!gst_flow_latent_read_corrections (&self->info, data, size, corrections))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "a buffer has %" G_GSIZE_FORMAT
                   " bytes, but its caps (%ux%u pixels, a grid of %ux%u with %u %s each) "
                   "mean %" G_GSIZE_FORMAT,
                   size, self->info.width, self->info.height, self->info.grid.grid_width,
                   self->info.grid.grid_height, self->info.grid.features,
                   self->info.half ? "float16" : "float32", gst_flow_latent_info_size (&self->info));
      return NULL;
    }
  if (!self->info.half && aligned)
    return latents;
  if (self->room < count)
    {
      g_free (self->latents);
      self->latents = g_try_new (float, n *count);
      self->room = self->latents ? count : 0;
    }
  if (!self->latents)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "no memory for the latents of %u frames of %ux%u pixels", count, self->info.width,
                   self->info.height);
      return NULL;
    }
  float *to = self->latents + i * n;
  if (self->info.half && GPOINTER_TO_SIZE (data) % sizeof (guint16) == 0)
    nf_half_to_float ((const guint16 *)(gconstpointer)data, to, n);
  else if (self->info.half)
    {
      g_autofree guint16 *copy = g_memdup2 (data, size);
      nf_half_to_float (copy, to, n);
    }
  else
    memcpy (to, data, n * sizeof (float)); /* what comes behind them is read where it is */
  return to;
}

/* One on its way needs no other, which would only cost: FRAME asks again if that takes too long, since a
 * request may be lost as well. */
static void
ask_for_key (GstFlowDecode *self, GstVideoCodecFrame *frame)
{
  const GstClockTime now = frame->deadline;
  if (GST_CLOCK_TIME_IS_VALID (now) && GST_CLOCK_TIME_IS_VALID (self->asked)
      && ABS (GST_CLOCK_DIFF (self->asked, now)) < ASK_AGAIN)
    return;
  self->asked = now;
  gst_video_decoder_request_sync_point (GST_VIDEO_DECODER (self), frame, 0);
}

/* THERE: whether all that FRAME was predicted from is. If it is a key frame the stream begins anew. */
static GstFlowReturn
find_context (GstFlowDecode *self, NfStream *stream, GstVideoCodecFrame *frame, gboolean *there)
{
  const guint64 next = nf_stream_get_index (stream);
  GstFlowLatentTail tail = { 0 };
  GstMapInfo in;
  guint32 mark = 0;

  *there = TRUE;
  if (!gst_buffer_map (frame->input_buffer, &in, GST_MAP_READ))
    return GST_FLOW_OK; /* decoding will say so */
  if (gst_flow_latent_read_corrections (&self->info, in.data, in.size, NULL))
    {
      gst_flow_latent_read_tail (&self->info, in.data, self->action, &tail);
      mark = gst_flow_latent_mark (&self->info, in.data);
    }
  gst_buffer_unmap (frame->input_buffer, &in);
  self->drawn = tail.drawn;
  const gboolean joined = tail.index == next && tail.follows && tail.follows != self->mark;
  const gboolean goes_on = tail.index > 0 && tail.index == next && !joined && !self->lost;
  const GstFlowReturn ret = goes_on ? GST_FLOW_OK : show_held (self);
  if (ret != GST_FLOW_OK)
    return ret;
  if (tail.index == 0)
    nf_stream_reset (stream);
  if (tail.index == 0 || goes_on)
    {
      self->lost = FALSE;
      self->mark = mark;
      return GST_FLOW_OK;
    }
  if (!self->lost && joined)
    GST_ELEMENT_WARNING (
        self, STREAM, DECODE,
        ("Frame %u after a key frame does not follow the frame that came before it but one of "
         "another stream: frames are dropped until the next key frame",
         tail.index),
        (NULL));
  else if (!self->lost && next == 0)
    GST_ELEMENT_WARNING (
        self, STREAM, DECODE,
        ("The first frame that came is number %u after a key frame: decoding waits for the next key "
         "frame; frames are dropped until then",
         tail.index),
        (NULL));
  else if (!self->lost)
    GST_ELEMENT_WARNING (self, STREAM, DECODE,
                         ("Frame %u after a key frame came, but the one to come was number %" G_GUINT64_FORMAT
                          ": what it was predicted from is lost; frames are dropped until the next key frame",
                          tail.index, next),
                         (NULL));
  lose (self, stream);
  *there = FALSE;
  return GST_FLOW_OK;
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

#define FULL_QUALITY 1000000 /* of QoS messages */

/* FRAME was ended early, values of it being off by RESIDUAL. */
static void
post_quality (GstFlowDecode *self, GstVideoCodecFrame *frame, double residual)
{
  GstVideoDecoder *decoder = GST_VIDEO_DECODER (self);
  const GstSegment *segment = &decoder->input_segment;
  const GstClockTimeDiff left = get_time_left (self, frame);
  gboolean live = FALSE;
  guint64 frames, dropped;
  g_autoptr (GstQuery) query = gst_query_new_latency ();
  if (gst_pad_peer_query (GST_VIDEO_DECODER_SINK_PAD (self), query))
    gst_query_parse_latency (query, &live, NULL, NULL);
  gst_flow_engine_get_counts (&self->engine, &frames, &dropped);
  GstMessage *message = gst_message_new_qos (
      GST_OBJECT (self), live, gst_segment_to_running_time (segment, GST_FORMAT_TIME, frame->pts),
      gst_segment_to_stream_time (segment, GST_FORMAT_TIME, frame->pts), frame->pts, frame->duration);
  gst_message_set_qos_values (message, left == G_MAXINT64 ? 0 : -left,
                              gst_video_decoder_get_qos_proportion (decoder),
                              (gint)(FULL_QUALITY / (1 + residual)));
  gst_message_set_qos_stats (message, GST_FORMAT_BUFFERS, frames + 1, dropped);
  self->telling = TRUE;
  gst_element_post_message (GST_ELEMENT (self), message);
  self->telling = FALSE;
}

/* GstVideoDecoder posts a QoS message of each frame that it drops, be it for us or because it came to be late
 * while it was decoded; of the latter nothing else tells. */
static gboolean
gst_flow_decode_post_message (GstElement *element, GstMessage *message)
{
  GstFlowDecode *self = GST_FLOW_DECODE (element);
  if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_QOS && !self->telling)
    gst_flow_engine_count_dropped (&self->engine, 1);
  return GST_ELEMENT_CLASS (gst_flow_decode_parent_class)->post_message (element, message);
}

/* Says that a budget or a limit of sweeps ended before everything had settled. */
static void
post_residual (GstFlowDecode *self, NfSession *session, GstVideoCodecFrame *frame,
               const NfDecodeOptions *options)
{
  NfDecodeReport report;

  if (session)
    nf_session_get_decode_report (session, &report);
  else
    nf_stream_get_decode_report (gst_flow_engine_get_stream (&self->engine), &report);
  if (!(report.residual > 0))
    return;
  GstStructure *structure
      = gst_structure_new ("flow-residual", "timestamp", G_TYPE_UINT64, frame->pts, "frame-index",
                           G_TYPE_UINT64, (guint64)frame->system_frame_number, "residual", G_TYPE_DOUBLE,
                           report.residual, "passes", G_TYPE_UINT64, report.passes, NULL);
  gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), structure));
  if (options->budget_ms > 0)
    post_quality (self, frame, report.residual);
}

/* The time that is left for FRAME, as far as the sinks have told, is its budget. */
static void
limit_budget (GstFlowDecode *self, GstVideoCodecFrame *frame, NfDecodeOptions *options)
{
  const GstClockTimeDiff left = get_time_left (self, frame);
  if (left == G_MAXINT64)
    return;
  /* none at all would mean no limit */
  const double ms = CLAMP ((double)left / GST_MSECOND, LEAST_BUDGET_MS, GST_FLOW_MOST_BUDGET_MS);
  options->budget_ms = options->budget_ms > 0 ? MIN (options->budget_ms, ms) : ms;
}

/* A frame with its buffers mapped. */
typedef struct
{
  GstVideoCodecFrame *frame;
  GstMapInfo in;
  GstVideoFrame video;
  gboolean read, written; /* which are */
  GArray *corrections;    /* NfCorrection */
} Mapped;

/* The latents of FRAME, and the picture of INTO. */
static gboolean
map_frame (GstFlowDecode *self, GstVideoCodecFrame *frame, GstVideoCodecFrame *into, Mapped *mapped,
           NfFrame *view, GError **error)
{
  mapped->frame = frame;
  mapped->corrections = g_array_new (FALSE, FALSE, sizeof (NfCorrection));
  mapped->read = gst_buffer_map (frame->input_buffer, &mapped->in, GST_MAP_READ);
  if (!mapped->read)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "a buffer of latents cannot be read");
      return FALSE;
    }
  mapped->written
      = gst_video_frame_map (&mapped->video, &self->output->info, into->output_buffer, GST_MAP_WRITE);
  if (!mapped->written)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY, "cannot write to an output buffer");
      return FALSE;
    }
  gst_flow_frame_view (&mapped->video, &self->output->info, view);
  gst_flow_frame_fill_padding (&mapped->video, view);
  return TRUE;
}

static void
unmap_frame (Mapped *mapped)
{
  if (mapped->read)
    gst_buffer_unmap (mapped->frame->input_buffer, &mapped->in);
  if (mapped->written)
    gst_video_frame_unmap (&mapped->video);
  g_clear_pointer (&mapped->corrections, g_array_unref);
}

/* The output buffers of FRAMES are there. */
static gboolean
decode_frames (GstFlowDecode *self, NfSession *session, const GPtrArray *frames, const GstFlowDecoding *how,
               GError **error)
{
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  const guint n = frames->len;
  g_autofree Mapped *mapped = g_new0 (Mapped, n);
  g_autofree NfFrame *views = g_new (NfFrame, n);
  g_autofree const float **latents = g_new0 (const float *, n);
  g_autofree NfCorrections *corrections = g_new0 (NfCorrections, n);
  GstVideoCodecFrame *first = frames->pdata[0];
  const guint ahead = get_look_ahead (self);
  const gboolean later = ahead > 0 && self->held->len >= ahead;
  NfDecodeOptions options = how->options;
  gboolean done = TRUE;

  options.drawn = self->info.drawn;
  if (how->keep_up)
    limit_budget (self, first, &options);
  options.corrections = corrections;
  for (guint i = 0; i < n && done; i++)
    {
      Mapped *frame = &mapped[i];
      done = map_frame (self, frames->pdata[i], later ? self->held->pdata[0] : frames->pdata[i], frame,
                        &views[i], error)
             && (latents[i]
                 = read_latents (self, frame->in.data, frame->in.size, i, n, frame->corrections, error));
      if (done)
        corrections[i] = (NfCorrections){ (const NfCorrection *)(gpointer)frame->corrections->data,
                                          frame->corrections->len };
    }
  if (done)
    {
      self->begun = g_get_monotonic_time ();
      self->told = FALSE;
      if (session)
        {
          nf_session_set_progress (session, on_progress, self);
          done = nf_session_decode_frames (session, latents, n, how->label, &options, views, error);
          nf_session_set_progress (session, NULL, NULL);
        }
      else if (how->label >= 0)
        done = gst_flow_refuse_class_of_videos (how->label, error);
      else
        done = nf_stream_set_denoise (stream, options.denoise, error)
               && nf_stream_decode (stream, latents[0], self->info.actions ? self->action : NULL, self->drawn,
                                    &options, views, error);
      if (self->told)
        gst_flow_engine_post_progress (&self->engine,
                                       done ? GST_PROGRESS_TYPE_COMPLETE : GST_PROGRESS_TYPE_CANCELED,
                                       "decode", done ? 100 : 0, "Decoding a frame");
      if (done)
        post_residual (self, session, first, &options);
    }
  for (guint i = 0; i < n; i++)
    unmap_frame (&mapped[i]);
  return done;
}

/* FRAME was decoded: it waits, and the one that has waited long enough goes. */
static GstFlowReturn
hold_frame (GstFlowDecode *self, GstVideoCodecFrame *frame, gint64 start)
{
  GstVideoDecoder *decoder = GST_VIDEO_DECODER (self);
  g_ptr_array_add (self->held, gst_video_codec_frame_ref (frame));
  gst_flow_engine_count_frame (&self->engine, start);
  tell_latency (self);
  if (!nf_stream_is_shown (gst_flow_engine_get_stream (&self->engine)))
    return GST_FLOW_OK;
  return gst_video_decoder_finish_frame (decoder, g_ptr_array_steal_index (self->held, 0));
}

/* FRAME cannot be decoded, since it is damaged. */
static GstFlowReturn
drop_undecoded (GstFlowDecode *self, GstVideoCodecFrame *frame, const GError *error)
{
  /* those that are held go before, if the stream still has them: what is finished counts as no error in a row
   */
  GstFlowReturn ret = show_held (self);
  if (ret != GST_FLOW_OK)
    {
      leave_out (self, frame);
      return ret;
    }
  ret = drop_damaged (self, frame, error);
  if (ret == GST_FLOW_OK && self->lost)
    ask_for_key (self, frame);
  return ret;
}

/* FRAMES, which have their buffers, are decoded together and handed on; if that fails they are gone. If there
 * is a damaged one among them each goes alone. */
static GstFlowReturn
decode_together (GstFlowDecode *self, NfSession *session, const GPtrArray *frames, gint64 start)
{
  GstFlowReturn ret = GST_FLOW_OK;
  g_autoptr (GError) error = NULL;
  decode_frames (self, session, frames, &self->how, &error);
  const gboolean damaged = g_error_matches (error, NF_ERROR, NF_ERROR_DATA);
  if (damaged && frames->len == 1)
    return drop_undecoded (self, frames->pdata[0], error);
  if (error && !damaged)
    ret = gst_flow_post_error (self, error);
  if (!error && get_look_ahead (self) > 0)
    return hold_frame (self, frames->pdata[0], start);

  const gint64 each = (g_get_monotonic_time () - start) / frames->len;
  for (guint i = 0; i < frames->len; i++)
    if (ret != GST_FLOW_OK)
      leave_out (self, frames->pdata[i]);
    else if (damaged)
      {
        g_autoptr (GPtrArray) alone = g_ptr_array_new ();
        g_ptr_array_add (alone, frames->pdata[i]);
        ret = decode_together (self, session, alone, g_get_monotonic_time ());
      }
    else
      {
        gst_flow_engine_count_frame (&self->engine, g_get_monotonic_time () - each);
        tell_latency (self);
        ret = gst_video_decoder_finish_frame (GST_VIDEO_DECODER (self),
                                              gst_video_codec_frame_ref (frames->pdata[i]));
      }
  return ret;
}

/* All frames that wait are decoded and handed on; if that fails they are gone. */
static GstFlowReturn
decode_waiting (GstFlowDecode *self)
{
  GstVideoDecoder *decoder = GST_VIDEO_DECODER (self);
  GPtrArray *frames = self->waiting;
  const gint64 start = g_get_monotonic_time ();
  NfSession *session;
  if (frames->len == 0)
    return GST_FLOW_OK;

  GstFlowReturn ret = gst_flow_engine_wait (&self->engine, &session);
  if (ret == GST_FLOW_OK)
    ret = negotiate_again (self);
  if (ret == GST_FLOW_OK && self->lost) /* one that was held turned out to be damaged */
    {
      ask_for_key (self, frames->pdata[0]);
      ret = gst_video_decoder_drop_frame (decoder, g_ptr_array_steal_index (frames, 0));
    }
  for (guint i = 0; i < frames->len && ret == GST_FLOW_OK; i++)
    {
      GstVideoCodecFrame *frame = frames->pdata[i];
      ret = gst_video_decoder_allocate_output_frame (decoder, frame);
      if (ret == GST_FLOW_OK)
        gst_flow_copy_frame_flags (frame->output_buffer, frame->input_buffer);
    }
  if (ret == GST_FLOW_OK && frames->len > 0)
    ret = decode_together (self, session, frames, start);
  else
    for (guint i = 0; i < frames->len; i++)
      leave_out (self, frames->pdata[i]);
  g_ptr_array_set_size (frames, 0);
  return ret;
}

static GstFlowReturn
gst_flow_decode_handle_frame (GstVideoDecoder *decoder, GstVideoCodecFrame *frame)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  NfSession *session;
  GstFlowDecoding how;

  const GstClockTime time = gst_segment_to_stream_time (&decoder->input_segment, GST_FORMAT_TIME, frame->pts);
  if (GST_CLOCK_TIME_IS_VALID (time))
    gst_object_sync_values (GST_OBJECT (self), time);
  GST_OBJECT_LOCK (self);
  const guint wanted = self->at_once;
  how = self->settings.wanted;
  GST_OBJECT_UNLOCK (self);

  GstFlowReturn ret = gst_flow_engine_wait (&self->engine, &session);
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  gboolean there = TRUE;
  if (ret == GST_FLOW_OK && stream && !self->foreign)
    ret = find_context (self, stream, frame, &there);
  if (ret == GST_FLOW_OK && (self->foreign || !there))
    {
      if (!self->foreign)
        ask_for_key (self, frame);
      return gst_video_decoder_drop_frame (decoder, frame);
    }
  /* a picture that is late already would make the next one late as well; a video's are needed by the next */
  if (ret == GST_FLOW_OK && !stream && get_time_left (self, frame) < 0 && (how.keep_up || wants_qos (self)))
    {
      ret = decode_waiting (self);
      if (ret == GST_FLOW_OK)
        return gst_video_decoder_drop_frame (decoder, frame);
    }
  if (ret == GST_FLOW_OK && memcmp (&how, &self->how, sizeof how) != 0)
    ret = decode_waiting (self);
  if (ret != GST_FLOW_OK)
    {
      gst_flow_engine_count_dropped (&self->engine, 1);
      gst_video_decoder_release_frame (decoder, frame);
      return ret;
    }
  self->how = how;
  self->together = choose_at_once (self, session, &how, wanted);
  g_ptr_array_add (self->waiting, frame);
  return self->waiting->len < self->together ? GST_FLOW_OK : decode_waiting (self);
}

static GstFlowReturn
gst_flow_decode_drain (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  const GstFlowReturn ret = decode_waiting (self);
  return ret == GST_FLOW_OK ? show_held (self) : ret;
}

/* Frames that are decoded together need their buffers together, and those that wait for others keep theirs: a
 * pool with a limit might not have as many. */
static gboolean
gst_flow_decode_decide_allocation (GstVideoDecoder *decoder, GstQuery *query)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  guint size, least, most = 0;
  const gboolean holds = get_look_ahead (self) > 0;

  GST_OBJECT_LOCK (self);
  const gboolean together = self->at_once != 1;
  GST_OBJECT_UNLOCK (self);
  if ((together || holds) && gst_query_get_n_allocation_pools (query) > 0)
    gst_query_parse_nth_allocation_pool (query, 0, NULL, &size, &least, &most);
  if (most > 0)
    gst_query_set_nth_allocation_pool (query, 0, NULL, size, least, 0);
  return GST_VIDEO_DECODER_CLASS (gst_flow_decode_parent_class)->decide_allocation (decoder, query);
}

static gboolean
gst_flow_decode_flush (GstVideoDecoder *decoder)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  g_ptr_array_set_size (self->waiting, 0);
  g_ptr_array_set_size (self->held, 0);
  if (stream)
    nf_stream_reset (stream);
  self->lost = FALSE;
  return TRUE;
}

static gboolean
gst_flow_decode_sink_event (GstVideoDecoder *decoder, GstEvent *event)
{
  GstFlowDecode *self = GST_FLOW_DECODE (decoder);
  GstFlowReturn ret;
  GstCaps *caps;

  switch (GST_EVENT_TYPE (event))
    {
    case GST_EVENT_FLUSH_START:
      gst_flow_engine_set_flushing (&self->engine, TRUE);
      break;
    case GST_EVENT_FLUSH_STOP:
      gst_flow_engine_set_flushing (&self->engine, FALSE);
      break;
    case GST_EVENT_GAP:
      /* GstVideoDecoder passes it on at once, before frames that wait and the segment that waits with them.
       */
      GST_VIDEO_DECODER_STREAM_LOCK (decoder);
      ret = gst_flow_decode_drain (decoder);
      GST_VIDEO_DECODER_STREAM_UNLOCK (decoder);
      if (ret != GST_FLOW_OK)
        {
          gst_event_unref (event);
          return FALSE;
        }
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

/* Of latents without caps GstVideoDecoder says no more than that they were not negotiated. */
static GstFlowReturn
gst_flow_decode_chain (GstPad *pad, GstObject *parent, GstBuffer *buffer)
{
  GstFlowDecode *self = GST_FLOW_DECODE (parent);
  if (gst_pad_has_current_caps (pad))
    return self->chain (pad, parent, buffer);
  GST_ELEMENT_ERROR (
      self, CORE, NEGOTIATION,
      ("Latents came without caps, which say what they are: store them by gdppay and read them "
       "by gdpdepay, or put a caps filter before"),
      (NULL));
  gst_buffer_unref (buffer);
  return GST_FLOW_NOT_NEGOTIATED;
}

static GstStateChangeReturn
gst_flow_decode_change_state (GstElement *element, GstStateChange transition)
{
  GstFlowDecode *self = GST_FLOW_DECODE (element);
  if (transition == GST_STATE_CHANGE_READY_TO_PAUSED && !gst_flow_settings_start (&self->settings))
    return GST_STATE_CHANGE_FAILURE;
  return gst_flow_engine_change_state (&self->engine, GST_ELEMENT_CLASS (gst_flow_decode_parent_class),
                                       transition);
}

static void
gst_flow_decode_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowDecode *self = GST_FLOW_DECODE (object);

  if (!gst_flow_can_set (self, value, pspec) || gst_flow_engine_set_property (&self->engine, id, value)
      || gst_flow_settings_set_property (&self->settings, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_FRAMES_AT_ONCE:
      self->at_once = g_value_get_uint (value);
      break;
    case PROP_LOOK_AHEAD:
      self->look_ahead = g_value_get_int (value);
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

  if (gst_flow_engine_get_property (&self->engine, id, value)
      || gst_flow_settings_get_property (&self->settings, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_FRAMES_AT_ONCE:
      g_value_set_uint (value, self->at_once);
      break;
    case PROP_LOOK_AHEAD:
      g_value_set_int (value, self->look_ahead);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_decode_finalize (GObject *object)
{
  GstFlowDecode *self = GST_FLOW_DECODE (object);
  g_ptr_array_unref (self->waiting);
  g_ptr_array_unref (self->held);
  gst_flow_settings_clear (&self->settings);
  gst_flow_engine_clear (&self->engine);
  G_OBJECT_CLASS (gst_flow_decode_parent_class)->finalize (object);
}

/* Tensors that have lost our fields on their way have no size of a video, and none is asked of them unless
 * what comes behind wants a certain one. Latents that become no video that it takes are let in, so that
 * set_format makes an error of them: upstream would only say that they are not negotiated. */
static GstCaps *
gst_flow_decode_getcaps (GstVideoDecoder *decoder, GstCaps *filter)
{
  static const char *const fields[] = { "width", "height", "pixel-aspect-ratio" };
  g_autoptr (GstCaps) caps = gst_caps_make_writable (gst_video_decoder_proxy_getcaps (decoder, NULL, NULL));
  for (guint i = 0; i < gst_caps_get_size (caps); i++)
    {
      GstStructure *structure = gst_caps_get_structure (caps, i);
      if (!gst_structure_has_name (structure, GST_FLOW_TENSORS_MIME))
        continue;
      for (guint f = 0; f < G_N_ELEMENTS (fields); f++)
        {
          const GValue *value = gst_structure_get_value (structure, fields[f]);
          if (value && !gst_value_is_fixed (value))
            gst_structure_remove_field (structure, fields[f]);
        }
    }
  if (filter && !gst_caps_can_intersect (filter, caps))
    {
      gst_clear_caps (&caps);
      caps = gst_pad_get_pad_template_caps (GST_VIDEO_DECODER_SINK_PAD (decoder));
    }
  return filter ? gst_caps_intersect_full (filter, caps, GST_CAPS_INTERSECT_FIRST) : g_steal_pointer (&caps);
}

static void
gst_flow_decode_class_init (GstFlowDecodeClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstVideoDecoderClass *decoder_class = GST_VIDEO_DECODER_CLASS (class);

  object_class->set_property = gst_flow_decode_set_property;
  object_class->get_property = gst_flow_decode_get_property;
  object_class->finalize = gst_flow_decode_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_decode_change_state);
  element_class->post_message = GST_DEBUG_FUNCPTR (gst_flow_decode_post_message);
  decoder_class->stop = GST_DEBUG_FUNCPTR (gst_flow_decode_stop);
  decoder_class->set_format = GST_DEBUG_FUNCPTR (gst_flow_decode_set_format);
  decoder_class->negotiate = GST_DEBUG_FUNCPTR (gst_flow_decode_negotiate);
  decoder_class->getcaps = GST_DEBUG_FUNCPTR (gst_flow_decode_getcaps);
  decoder_class->handle_frame = GST_DEBUG_FUNCPTR (gst_flow_decode_handle_frame);
  decoder_class->drain = GST_DEBUG_FUNCPTR (gst_flow_decode_drain);
  decoder_class->finish = GST_DEBUG_FUNCPTR (gst_flow_decode_drain);
  decoder_class->flush = GST_DEBUG_FUNCPTR (gst_flow_decode_flush);
  decoder_class->decide_allocation = GST_DEBUG_FUNCPTR (gst_flow_decode_decide_allocation);
  decoder_class->sink_event = GST_DEBUG_FUNCPTR (gst_flow_decode_sink_event);

  gst_flow_engine_install_properties (object_class, NF_SESSION_DECODE);
  gst_flow_settings_install_properties (object_class);
  g_object_class_install_property (
      object_class, PROP_LOOK_AHEAD,
      g_param_spec_int ("look-ahead", "Look ahead",
                        "Frames that showing waits for, with a model of videos whose learned denoiser looks "
                        "ahead; -1 is as many as it was trained with",
                        -1, 65536, -1,
                        G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY));

  g_object_class_install_property (
      object_class, PROP_FRAMES_AT_ONCE,
      g_param_spec_uint (
          "frames-at-once", "Frames at once",
          "Frames that are decoded together, which is faster where frames are small, and each "
          "waits for the last of them; 0 is as many as bring something. With a model of videos, "
          "a budget or keep-up each goes alone",
          0, 1024, 1, G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY));

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class, "Flow decoder", "Codec/Decoder/Video",
                                         "Turns Gaussian latents into video by a normalizing flow",
                                         "the normflow authors");
}

/* What upstream makes for a time is shown later by what decoding takes. Mixers say of each frame that it is
 * in time, whatever came too late for it. */
static GstPadProbeReturn
add_own_time (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  GstFlowDecode *self = GST_FLOW_DECODE (GST_PAD_PARENT (pad));
  GstEvent *event = GST_PAD_PROBE_INFO_EVENT (info);
  GstQOSType type;
  double proportion;
  GstClockTimeDiff diff;
  GstClockTime time;
  if (GST_EVENT_TYPE (event) != GST_EVENT_QOS)
    return GST_PAD_PROBE_OK;
  gst_event_parse_qos (event, &type, &proportion, &diff, &time);
  if (!GST_CLOCK_TIME_IS_VALID (time))
    return GST_PAD_PROBE_OK;
  GstEvent *later
      = gst_event_new_qos (type, proportion, diff, time + gst_flow_engine_get_last (&self->engine));
  gst_event_set_seqnum (later, gst_event_get_seqnum (event));
  gst_event_unref (event);
  GST_PAD_PROBE_INFO_DATA (info) = later;
  return GST_PAD_PROBE_OK;
}

static void
gst_flow_decode_init (GstFlowDecode *self)
{
  gst_flow_engine_init (&self->engine, self, NF_SESSION_DECODE);
  gst_flow_settings_init (&self->settings, &self->engine);
  gst_flow_engine_watch_events (&self->engine, GST_VIDEO_DECODER_SINK_PAD (self), set_format_again);
  self->waiting = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_video_codec_frame_unref);
  self->held = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_video_codec_frame_unref);
  self->at_once = self->together = 1;
  self->look_ahead = -1;
  gst_video_decoder_set_packetized (GST_VIDEO_DECODER (self), TRUE);
  gst_video_decoder_set_max_errors (GST_VIDEO_DECODER (self), 0);
  gst_video_decoder_set_needs_format (GST_VIDEO_DECODER (self), TRUE);
  /* What the caps say of the model, and whether they say all, is checked when they arrive, so that a refusal
   * can say why. */
  gst_video_decoder_set_use_default_pad_acceptcaps (GST_VIDEO_DECODER (self), TRUE);
  GstPad *pad = GST_VIDEO_DECODER_SINK_PAD (self);
  GST_PAD_SET_ACCEPT_TEMPLATE (pad);
  GST_PAD_SET_ACCEPT_INTERSECT (pad);
  self->chain = GST_PAD_CHAINFUNC (pad);
  gst_pad_set_chain_function (pad, GST_DEBUG_FUNCPTR (gst_flow_decode_chain));
  gst_flow_engine_watch_gaps (&self->engine, pad);
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_EVENT_UPSTREAM, add_own_time, NULL, NULL);
}
