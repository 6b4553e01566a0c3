/* normflow: GStreamer element flowencode. SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-flowencode
 * @title: flowencode
 * @short_description: video to Gaussian latents and exact likelihoods
 *
 * Sends each frame through a normalizing flow. A buffer of latents leaves for each frame, with a
 * #GstCustomMeta `GstFlowScoreMeta` that holds the frame's likelihood, and an element message `flow-score`
 * goes to the bus. `threshold` turns scores into messages `flow-anomaly`. flowdecode makes the same bytes of
 * video again from float32 latents; float16 latents take half the room and do not promise that. Latents are a
 * representation, not compression: they take more room than the video.
 *
 * With a model of videos each frame is coded given the frames before it, and the actions that it was told of
 * by `GstFlowActionMeta`: its score is that of p(frame | past). The first frame, one after a discontinuity or
 * a flush, one that downstream asks for (force-key-unit) and every `key-int-max`th are key frames, coded by
 * themselves; all others have the flag DELTA_UNIT.
 *
 * Sink caps are those of the model's pixel layout; put videoconvert before the element for anything else.
 *
 * |[
 * gst-launch-1.0 -m videotestsrc num-buffers=25 ! video/x-raw,width=160,height=120 ! videoconvert !
 * flowencode ! fakesink
 * ]| prints the score of every frame.
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=25 ! flowencode ! video/x-flow-latent,latent-format=F16LE ! gdppay
 * ! filesink location=test.gdp
 * ]| stores latents in half precision.
 *
 * Since: 0.1
 */

#include "gstflowencode.h"
#include "gstflowaction.h"
#include "gstflowengine.h"
#include "gstflowlatent.h"
#include "gstflowscore.h"

#define GST_CAT_DEFAULT gst_flow_debug

enum
{
  PROP_POST_MESSAGES = GST_FLOW_ENGINE_PROP_LAST,
  PROP_MESSAGE_INTERVAL,
  PROP_SCORE_MAP,
  PROP_CORRECTIONS,
  PROP_THRESHOLD,
  PROP_THRESHOLD_HYSTERESIS,
  PROP_SMOOTHING_WINDOW,
  PROP_KEY_INT_MAX,
  PROP_CONTEXT,
  PROP_ACTIONS_LOCATION,
};

struct _GstFlowEncode
{
  GstVideoEncoder parent_instance;

  GstFlowEngine engine;

  /* under the object lock */
  GstFlowScoreSettings settings;
  gboolean score_map, corrections;
  guint key_int_max;
  gint context;
  char *actions_location;

  /* of the streaming thread */
  GstVideoCodecState *input;
  GstFlowLatentInfo info;
  NfConfig *config;
  char *digest;
  guint64 frame_index;
  gboolean segment_sent; /* since it came: with a frame, or before */
  gboolean in_frame;     /* a frame has its buffer, or is about to: their form stays as it is */
  GstFlowScorer *scorer;
  float *latents; /* one frame, where the buffer cannot be written directly */

  /* with a model of videos */
  float *action; /* vector of what was done at the frame before */
  guint32 mark;  /* of its latents */
  GstFlowAction last_action;
  GstFlowActionFile *recorded;
  gboolean warned_action, warned_size, warned_doubtful, warned_recorded;
};

static GstStaticPadTemplate sink_template
    = GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_VIDEO_CAPS));
static GstStaticPadTemplate src_template
    = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (GST_FLOW_LATENT_CAPS));

G_DEFINE_FINAL_TYPE (GstFlowEncode, gst_flow_encode, GST_TYPE_VIDEO_ENCODER)
GST_ELEMENT_REGISTER_DEFINE (flowencode, "flowencode", GST_RANK_NONE, GST_TYPE_FLOW_ENCODE)

static gboolean
gst_flow_encode_start (GstVideoEncoder *encoder)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  self->frame_index = 0;
  self->segment_sent = FALSE;
  self->warned_action = self->warned_size = self->warned_doubtful = self->warned_recorded = FALSE;
  GST_OBJECT_LOCK (self);
  g_autofree char *location = g_strdup (self->actions_location);
  GST_OBJECT_UNLOCK (self);
  g_autoptr (GError) error = NULL;
  if (location && !(self->recorded = gst_flow_action_file_read (location, &error)))
    {
      gst_flow_post_error (self, error);
      return FALSE;
    }
  return TRUE;
}

static gboolean
gst_flow_encode_stop (GstVideoEncoder *encoder)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  gst_flow_scorer_reset (self->scorer, GST_ELEMENT (self));
  g_clear_pointer (&self->input, gst_video_codec_state_unref);
  g_clear_pointer (&self->latents, g_free);
  g_clear_pointer (&self->config, nf_config_free);
  g_clear_pointer (&self->digest, g_free);
  g_clear_pointer (&self->action, g_free);
  gst_flow_action_forget (&self->last_action);
  g_clear_pointer (&self->recorded, gst_flow_action_file_free);
  return TRUE;
}

/* A video that fits but for its size or its format, or whose latents nobody wants, is let in, so that
 * set_format makes an error of it: upstream would only say that it is not negotiated, and gst-launch-1.0
 * drops a warning that comes just before an error. */
static GstCaps *
gst_flow_encode_getcaps (GstVideoEncoder *encoder, GstCaps *filter)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  g_autoptr (GstCaps) caps = gst_flow_video_caps (config);

  if (config && config->frames && filter && !gst_caps_can_intersect (filter, caps))
    {
      const guint width = nf_config_columns (config), height = nf_config_rows (config);
      config->frames = 0;
      gst_clear_caps (&caps);
      caps = gst_flow_video_caps (config);
      if (!self->warned_size && gst_caps_can_intersect (filter, caps))
        {
          self->warned_size = TRUE;
          GST_ELEMENT_WARNING (
              self, STREAM, FORMAT,
              ("The model of videos takes %ux%u pixels only; put videoscale before", width, height),
              ("%" GST_PTR_FORMAT, filter));
        }
    }
  if (config && filter && !gst_caps_can_intersect (filter, caps))
    {
      gst_clear_caps (&caps);
      caps = gst_flow_video_caps (NULL);
    }
  g_autoptr (GstCaps) wanted = gst_video_encoder_proxy_getcaps (encoder, caps, filter);
  return filter && gst_caps_is_empty (wanted)
             ? gst_caps_intersect_full (filter, caps, GST_CAPS_INTERSECT_FIRST)
             : g_steal_pointer (&wanted);
}

/* The forms that latents have, best first: two names, and two precisions. */
static void
set_form (GstFlowLatentInfo *info, guint form)
{
  info->tensors = form / 2;
  info->half = form % 2;
}

/* Caps of the forms, one structure each; those of a model of videos have but one. */
static GstCaps *
list_outputs (GstFlowEncode *self)
{
  GstCaps *caps = gst_caps_new_empty ();
  GstFlowLatentInfo info = self->info;
  for (guint form = 0; form < (info.frames ? 1 : 4); form++)
    {
      set_form (&info, form);
      gst_caps_append (caps, gst_flow_latent_info_to_caps (&info, self->config, self->digest));
    }
  return caps;
}

static gboolean
find_output (const GstCaps *outputs, const GstCaps *wanted, guint *form)
{
  for (*form = 0; *form < gst_caps_get_size (outputs); (*form)++)
    {
      g_autoptr (GstCaps) output = gst_caps_copy_nth (outputs, *form);
      if (gst_caps_can_intersect (output, wanted))
        return TRUE;
    }
  return FALSE;
}

/* FORM is the best of OUTPUTS that fits what downstream wants first, else one that it lets in to say itself
 * what is wrong; FALSE: it takes none. */
static gboolean
choose_output (GstFlowEncode *self, GstCaps *outputs, guint *form)
{
  GstPad *pad = GST_VIDEO_ENCODER_SRC_PAD (self);
  g_autoptr (GstCaps) wanted = gst_pad_peer_query_caps (pad, NULL),
                      let_in = gst_pad_peer_query_caps (pad, outputs);
  for (guint i = 0; i < gst_caps_get_size (wanted); i++)
    {
      g_autoptr (GstCaps) one = gst_caps_copy_nth (wanted, i);
      if (find_output (outputs, one, form))
        return TRUE;
    }
  return find_output (outputs, let_in, form);
}

/* Latents of INFO leave from now on. */
static void
set_output (GstFlowEncode *self, const GstFlowLatentInfo *info)
{
  self->info = *info;
  g_clear_pointer (&self->latents, g_free);
  GstCaps *caps = gst_flow_latent_info_to_caps (info, self->config, self->digest);
  gst_video_codec_state_unref (
      gst_video_encoder_set_output_state (GST_VIDEO_ENCODER (self), caps, self->input));
}

/* Where it fails some of what frames go by is that of STATE already. */
static gboolean
set_up (GstFlowEncode *self, GstVideoCodecState *state)
{
  g_autoptr (GError) error = NULL;
  const GstVideoInfo *video = &state->info;
  const char *site = gst_structure_get_string (gst_caps_get_structure (state->caps, 0), "chroma-site");

  /* GstVideoInfo forgets it where caps say nothing of colorimetry */
  if (site)
    state->info.chroma_site = gst_video_chroma_site_from_string (site);
  if (gst_flow_engine_wait (&self->engine, NULL) != GST_FLOW_OK)
    return FALSE;
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (&self->engine);
  GstFlowLatentInfo info = { .width = GST_VIDEO_INFO_WIDTH (video),
                             .height = GST_VIDEO_INFO_HEIGHT (video),
                             .fps_n = GST_VIDEO_INFO_FPS_N (video),
                             .fps_d = GST_VIDEO_INFO_FPS_D (video),
                             .pixel_format = GST_VIDEO_INFO_FORMAT (video),
                             .precision = gst_flow_engine_get_precision (&self->engine) };
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  GST_OBJECT_LOCK (self);
  const gint context = self->context;
  GST_OBJECT_UNLOCK (self);
  gst_flow_latent_info_set_model (&info, config);
  g_autofree char *text = gst_flow_engine_dup_text_digest (&self->engine);
  g_strlcpy (info.arithmetic, gst_flow_engine_get_arithmetic (&self->engine), sizeof info.arithmetic);
  g_strlcpy (info.text, text ? text : "", sizeof info.text);
  if (stream && context >= 0)
    info.context = (guint)context;
  if (!gst_flow_check_format (config, info.pixel_format, &error)
      || !nf_grid_init (&info.grid, config, info.width, info.height, &error)
      || !gst_flow_check_size (config, info.width, info.height, &error)
      || (stream && !nf_stream_set_context (stream, info.context, &error)))
    {
      gst_flow_engine_refuse_caps (&self->engine, state->caps, error);
      return FALSE;
    }
  g_free (self->action);
  self->action = g_new0 (float, MAX (info.actions, 1));
  gst_flow_action_forget (&self->last_action);

  g_free (self->digest);
  self->digest = gst_flow_engine_dup_digest (&self->engine);
  g_clear_pointer (&self->input, gst_video_codec_state_unref);
  self->input = gst_video_codec_state_ref (state);
  g_clear_pointer (&self->config, nf_config_free);
  self->config = g_steal_pointer (&config);
  set_output (self, &info);
  return gst_video_encoder_negotiate (GST_VIDEO_ENCODER (self));
}

static gboolean
gst_flow_encode_set_format (GstVideoEncoder *encoder, GstVideoCodecState *state)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  return gst_flow_engine_note_format (&self->engine, state, set_up (self, state));
}

static gboolean
set_format_again (gpointer element, GstVideoCodecState *format)
{
  GST_VIDEO_ENCODER_STREAM_LOCK (element);
  const gboolean done = gst_flow_encode_set_format (element, format);
  GST_VIDEO_ENCODER_STREAM_UNLOCK (element);
  return done;
}

/* Downstream may want another form than it did, from the next frame on: the base class asks in the middle of
 * one, too, when the buffer has its size. */
static gboolean
gst_flow_encode_negotiate (GstVideoEncoder *encoder)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  GstFlowLatentInfo info = self->info;
  guint form;
  if (!self->input)
    return GST_VIDEO_ENCODER_CLASS (gst_flow_encode_parent_class)->negotiate (encoder);
  if (self->in_frame)
    {
      gst_pad_mark_reconfigure (GST_VIDEO_ENCODER_SRC_PAD (encoder));
      return TRUE;
    }
  g_autoptr (GstCaps) outputs = list_outputs (self);
  if (!choose_output (self, outputs, &form))
    {
      gst_flow_engine_refuse_output (&self->engine, self->input->caps, GST_VIDEO_ENCODER_SRC_PAD (encoder),
                                     outputs);
      return FALSE;
    }
  set_form (&info, form);
  if (info.tensors != self->info.tensors || info.half != self->info.half)
    set_output (self, &info);
  gst_flow_engine_accept_caps (&self->engine);
  return GST_VIDEO_ENCODER_CLASS (gst_flow_encode_parent_class)->negotiate (encoder);
}

/* Before a frame gets its buffer, whose size depends on it. */
static GstFlowReturn
negotiate_again (GstVideoEncoder *encoder)
{
  GstPad *pad = GST_VIDEO_ENCODER_SRC_PAD (encoder);
  if (!gst_pad_check_reconfigure (pad) || gst_video_encoder_negotiate (encoder))
    return GST_FLOW_OK;
  gst_pad_mark_reconfigure (pad);
  return GST_PAD_IS_FLUSHING (pad) ? GST_FLOW_FLUSHING : GST_FLOW_NOT_NEGOTIATED;
}

static gboolean
gst_flow_encode_propose_allocation (GstVideoEncoder *encoder, GstQuery *query)
{
  gst_query_add_allocation_meta (query, GST_VIDEO_META_API_TYPE, NULL);
  return GST_VIDEO_ENCODER_CLASS (gst_flow_encode_parent_class)->propose_allocation (encoder, query);
}

/* Latents of VIDEO into the bytes at DATA. */
static gboolean
encode (GstFlowEncode *self, NfSession *session, const GstVideoFrame *video, guint8 *data, NfScore *score,
        float *score_map, GError **error)
{
  const gsize n = nf_grid_latents (&self->info.grid);
  const gboolean direct = !self->info.half && GPOINTER_TO_SIZE (data) % sizeof (float) == 0;
  GstFlowLatentTail tail = { 0 };
  NfFrame view;

  if (!direct && !self->latents)
    self->latents = g_try_new (float, n);
  if (!direct && !self->latents)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "no memory for the latents of a frame of %ux%u pixels", self->info.width,
                   self->info.height);
      return FALSE;
    }
  gst_flow_frame_view (video, &self->input->info, &view);
  float *latents = direct ? (float *)(gpointer)data : self->latents;
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  if (stream)
    {
      const guint32 index = (guint32)nf_stream_get_index (stream);
      if (index == 0)
        gst_flow_action_forget (&self->last_action);
      gst_flow_action_to_vector (GST_ELEMENT (self), &self->last_action, self->action, self->info.actions,
                                 &self->warned_action);
      if (!nf_stream_encode (stream, &view, self->info.actions ? self->action : NULL, latents, score,
                             score_map, error))
        return FALSE;
      tail = (GstFlowLatentTail){ index, index > 0 ? self->mark : 0, FALSE };
    }
  else if (!nf_session_encode_frame (session, &view, latents, score, score_map, error))
    return FALSE;
  if (self->info.half)
    nf_half_from_float (self->latents, (guint16 *)(gpointer)data, n);
  else if (!direct)
    memcpy (data, self->latents, n * sizeof (float));
  if (stream)
    {
      gst_flow_latent_write_tail (&self->info, data, self->action, &tail);
      self->mark = gst_flow_latent_mark (&self->info, data);
    }
  return TRUE;
}

/* Maps FRAME's buffers and encodes one into the other. */
static GstFlowReturn
encode_frame (GstFlowEncode *self, NfSession *session, GstVideoCodecFrame *frame, NfScore *score,
              float *score_map)
{
  g_autoptr (GError) error = NULL;
  GstVideoFrame video;
  GstMapInfo out;

  if (!gst_flow_frame_map (GST_ELEMENT (self), &video, &self->input->info, frame->input_buffer, GST_MAP_READ))
    return GST_FLOW_ERROR;
  gboolean done = FALSE;
  if (gst_buffer_map (frame->output_buffer, &out, GST_MAP_WRITE))
    {
      done = encode (self, session, &video, out.data, score, score_map, &error);
      gst_buffer_unmap (frame->output_buffer, &out);
    }
  else
    g_set_error (&error, NF_ERROR, NF_ERROR_NO_MEMORY, "cannot write to an output buffer");
  gst_video_frame_unmap (&video);
  return done ? GST_FLOW_OK : gst_flow_post_error (self, error);
}

/* What decoding would not find of the frame that was encoded last follows its latents, if it may. FALSE if it
 * does not. */
static gboolean
append_corrections (GstFlowEncode *self, NfSession *session, GstBuffer *buffer)
{
  NfCorrections corrections;
  GST_OBJECT_LOCK (self);
  const gboolean wanted = self->corrections;
  GST_OBJECT_UNLOCK (self);
  if (!wanted || !gst_flow_latent_info_has_corrections (&self->info))
    return FALSE;
  if (session)
    nf_session_get_corrections (session, &corrections);
  else
    nf_stream_get_corrections (gst_flow_engine_get_stream (&self->engine), &corrections);
  gst_flow_latent_append_corrections (buffer, &corrections);
  return TRUE;
}

static void
check_margin (GstFlowEncode *self, const NfScore *score)
{
  const NfDoubt doubt = nf_score_get_doubt (score);
  if (self->warned_doubtful || doubt == NF_DOUBT_NONE)
    return;
  self->warned_doubtful = TRUE;
  GST_ELEMENT_WARNING (self, STREAM, ENCODE,
                       ("Frame %" G_GUINT64_FORMAT
                        ", at %.4g bits per dimension, may not come back in every byte: it has %s",
                        self->frame_index, score->bits_per_dim, nf_doubt_describe (doubt)),
                       ("%g bits per dimension and more, or %" G_GUINT64_FORMAT
                        " values that decoding misses; said once a stream",
                        NF_SCORE_FAR, score->n_missed));
}

/* Whether FRAME stands by itself; a stream then begins anew. Backwards all do: what comes before is not the
 * past.
 */
static gboolean
begin_frame (GstFlowEncode *self, GstVideoCodecFrame *frame)
{
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  if (!stream)
    return TRUE;
  GST_OBJECT_LOCK (self);
  const guint key_int_max = self->key_int_max;
  GST_OBJECT_UNLOCK (self);
  const guint64 index = nf_stream_get_index (stream);
  if (GST_VIDEO_ENCODER (self)->input_segment.rate < 0 || GST_VIDEO_CODEC_FRAME_IS_FORCE_KEYFRAME (frame)
      || GST_BUFFER_FLAG_IS_SET (frame->input_buffer, GST_BUFFER_FLAG_DISCONT)
      || (key_int_max > 0 && index >= key_int_max) || index == G_MAXUINT32)
    nf_stream_reset (stream);
  return nf_stream_get_index (stream) == 0;
}

/* The number of FRAME in the recorded video: of a constant rate by its time, which is right after a seek and
 * a gap, too. */
static guint64
find_recorded_frame (GstFlowEncode *self, GstVideoCodecFrame *frame)
{
  const GstSegment *segment = &GST_VIDEO_ENCODER (self)->input_segment;
  const guint64 time = gst_segment_to_stream_time (segment, GST_FORMAT_TIME, frame->pts);
  if (!GST_CLOCK_TIME_IS_VALID (time) || self->info.fps_n <= 0)
    return self->frame_index;
  return gst_util_uint64_scale_round (time, (guint64)self->info.fps_n,
                                      (guint64)self->info.fps_d * GST_SECOND);
}

/* As it was recorded of FRAME, which those behind are told of, too. */
static void
take_recorded_action (GstFlowEncode *self, GstVideoCodecFrame *frame)
{
  const guint64 number = find_recorded_frame (self, frame);
  if (gst_flow_action_file_get (self->recorded, number, &self->last_action))
    gst_flow_action_attach (&self->last_action, frame->output_buffer, number);
  else if (!self->warned_recorded)
    {
      self->warned_recorded = TRUE;
      GST_ELEMENT_WARNING (self, STREAM, ENCODE,
                           ("There are no recorded actions of frame %" G_GUINT64_FORMAT
                            " and what follows: they count as unknown",
                            number),
                           (NULL));
    }
}

/* What was done at FRAME: as its meta tells, else as it was recorded. */
static void
take_action (GstFlowEncode *self, GstVideoCodecFrame *frame)
{
  gst_flow_action_read (&self->last_action, frame->input_buffer);
  if (self->recorded && !gst_flow_action_is_known (&self->last_action))
    take_recorded_action (self, frame);
  if (self->info.controls)
    gst_flow_action_make_controls (&self->last_action, self->info.actions);
}

/* A picture that sinks say is late already would make the next one late as well; a video's are needed by the
 * next. */
static gboolean
is_late (GstVideoEncoder *encoder, NfSession *session, GstVideoCodecFrame *frame)
{
  return session && gst_video_encoder_is_qos_enabled (encoder)
         && gst_video_encoder_get_max_encode_time (encoder, frame) < 0;
}

static GstFlowReturn
gst_flow_encode_handle_frame (GstVideoEncoder *encoder, GstVideoCodecFrame *frame)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  const gsize n_tokens = (gsize)self->info.grid.grid_width * self->info.grid.grid_height;
  NfSession *session;
  NfScore score;
  gboolean key = TRUE;

  GST_OBJECT_LOCK (self);
  const GstFlowScoreSettings settings = self->settings;
  const gboolean wants_map = self->score_map;
  GST_OBJECT_UNLOCK (self);

  g_autofree float *map = wants_map ? g_new (float, n_tokens) : NULL;
  GstFlowReturn ret = gst_flow_engine_wait (&self->engine, &session);
  if (ret == GST_FLOW_OK && is_late (encoder, session, frame))
    {
      gst_flow_engine_count_dropped (&self->engine, 1);
      return gst_video_encoder_finish_frame (encoder, frame); /* without a buffer: it is left out */
    }
  const gint64 start = g_get_monotonic_time ();
  if (ret == GST_FLOW_OK)
    ret = negotiate_again (encoder);
  self->in_frame = TRUE;
  if (ret == GST_FLOW_OK)
    ret = gst_video_encoder_allocate_output_frame (encoder, frame, gst_flow_latent_info_size (&self->info));
  if (ret == GST_FLOW_OK)
    {
      gst_flow_copy_frame_flags (frame->output_buffer, frame->input_buffer);
      key = begin_frame (self, frame);
      ret = encode_frame (self, session, frame, &score, map);
    }
  if (ret != GST_FLOW_OK)
    {
      gst_clear_buffer (&frame->output_buffer);
      gst_flow_engine_count_dropped (&self->engine, 1);
      gst_video_encoder_finish_frame (encoder, frame);
      self->in_frame = FALSE;
      return ret;
    }

  GstBuffer *map_buffer
      = map ? gst_buffer_new_wrapped (g_steal_pointer (&map), n_tokens * sizeof (float)) : NULL;
  gst_flow_score_meta_attach (frame->output_buffer, &score, self->digest, self->frame_index, map_buffer,
                              &self->info.grid);
  /* backwards it is only where a decoder's group of pictures begins */
  if (GST_BUFFER_FLAG_IS_SET (frame->input_buffer, GST_BUFFER_FLAG_DISCONT)
      && encoder->input_segment.rate > 0)
    gst_flow_scorer_finish (self->scorer, GST_ELEMENT (self));
  gst_flow_scorer_add (self->scorer, GST_ELEMENT (self), &settings, &encoder->input_segment, frame->pts,
                       frame->duration, self->frame_index, &score);
  if (!append_corrections (self, session, frame->output_buffer))
    check_margin (self, &score);
  take_action (self, frame);
  self->frame_index++;
  if (key)
    GST_VIDEO_CODEC_FRAME_SET_SYNC_POINT (frame);
  /* Backwards a decoder waits for a discontinuity and turns round what came before it, but these are in
   * order. */
  if (encoder->input_segment.rate < 0)
    GST_BUFFER_FLAG_SET (frame->output_buffer, GST_BUFFER_FLAG_DISCONT);
  if (gst_flow_engine_count_frame (&self->engine, start))
    {
      const GstClockTime latency = gst_flow_engine_get_latency (&self->engine);
      gst_video_encoder_set_latency (encoder, latency, latency);
    }
  self->segment_sent = TRUE;
  ret = gst_video_encoder_finish_frame (encoder, frame);
  self->in_frame = FALSE;
  return ret;
}

static GstFlowReturn
gst_flow_encode_finish (GstVideoEncoder *encoder)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  gst_flow_scorer_finish (self->scorer, GST_ELEMENT (self));
  return GST_FLOW_OK;
}

static gboolean
gst_flow_encode_flush (GstVideoEncoder *encoder)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  NfStream *stream = gst_flow_engine_get_stream (&self->engine);
  gst_flow_scorer_reset (self->scorer, GST_ELEMENT (self));
  if (stream)
    nf_stream_reset (stream);
  return TRUE;
}

/* What GstVideoEncoder keeps of the segment goes on with the next frame, once more. FALSE: not even caps have
 * left. */
static gboolean
send_segment (GstFlowEncode *self, guint32 seqnum)
{
  GstVideoEncoder *encoder = GST_VIDEO_ENCODER (self);
  if (!self->segment_sent && gst_pad_has_current_caps (GST_VIDEO_ENCODER_SRC_PAD (encoder)))
    {
      GstEvent *event = gst_event_new_segment (&encoder->input_segment);
      gst_event_set_seqnum (event, seqnum);
      self->segment_sent = gst_pad_push_event (GST_VIDEO_ENCODER_SRC_PAD (encoder), event);
    }
  return self->segment_sent;
}

static gboolean
gst_flow_encode_sink_event (GstVideoEncoder *encoder, GstEvent *event)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (encoder);
  switch (GST_EVENT_TYPE (event))
    {
    case GST_EVENT_FLUSH_START:
      gst_flow_engine_set_flushing (&self->engine, TRUE);
      break;
    case GST_EVENT_FLUSH_STOP:
      gst_flow_engine_set_flushing (&self->engine, FALSE);
      break;
    case GST_EVENT_SEGMENT:
      self->segment_sent = FALSE;
      break;
    /* of the file that the video is from, and gdppay writes what gdpdepay cannot read of them */
    case GST_EVENT_STREAM_COLLECTION:
      gst_event_unref (event);
      return TRUE;
    case GST_EVENT_STREAM_START:
      event = gst_event_make_writable (event);
      gst_structure_remove_field (gst_event_writable_structure (event), "stream");
      break;
    case GST_EVENT_EOS:
      gst_flow_scorer_finish (self->scorer, GST_ELEMENT (self));
      gst_flow_scorer_reset (self->scorer, GST_ELEMENT (self));
      break;
    case GST_EVENT_GAP:
    case GST_EVENT_SEGMENT_DONE:
      gst_flow_scorer_finish (self->scorer, GST_ELEMENT (self));
      /* GstVideoEncoder would keep it until the next frame; but no frame waits in here. */
      if (send_segment (self, gst_event_get_seqnum (event)))
        return gst_pad_push_event (GST_VIDEO_ENCODER_SRC_PAD (encoder), event);
      break;
    default:
      break;
    }
  return GST_VIDEO_ENCODER_CLASS (gst_flow_encode_parent_class)->sink_event (encoder, event);
}

/* A score that came with the video is of other latents than ours. */
static gboolean
gst_flow_encode_transform_meta (GstVideoEncoder *encoder, GstVideoCodecFrame *frame, GstMeta *meta)
{
  if (gst_flow_score_meta_is (meta))
    return FALSE;
  return GST_VIDEO_ENCODER_CLASS (gst_flow_encode_parent_class)->transform_meta (encoder, frame, meta);
}

static GstStateChangeReturn
gst_flow_encode_change_state (GstElement *element, GstStateChange transition)
{
  return gst_flow_engine_change_state (&GST_FLOW_ENCODE (element)->engine,
                                       GST_ELEMENT_CLASS (gst_flow_encode_parent_class), transition);
}

static void
gst_flow_encode_set_property (GObject *object, guint id, const GValue *value, GParamSpec *pspec)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (object);

  if (!gst_flow_can_set (self, value, pspec) || gst_flow_engine_set_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_POST_MESSAGES:
      self->settings.post_messages = g_value_get_boolean (value);
      break;
    case PROP_MESSAGE_INTERVAL:
      self->settings.interval = g_value_get_uint64 (value);
      break;
    case PROP_SCORE_MAP:
      self->score_map = g_value_get_boolean (value);
      break;
    case PROP_CORRECTIONS:
      self->corrections = g_value_get_boolean (value);
      break;
    case PROP_THRESHOLD:
      self->settings.threshold = g_value_get_double (value);
      break;
    case PROP_THRESHOLD_HYSTERESIS:
      self->settings.hysteresis = g_value_get_double (value);
      break;
    case PROP_SMOOTHING_WINDOW:
      self->settings.window = g_value_get_uint (value);
      break;
    case PROP_KEY_INT_MAX:
      self->key_int_max = g_value_get_uint (value);
      break;
    case PROP_CONTEXT:
      self->context = g_value_get_int (value);
      break;
    case PROP_ACTIONS_LOCATION:
      g_free (self->actions_location);
      self->actions_location = g_value_dup_string (value);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_encode_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (object);

  if (gst_flow_engine_get_property (&self->engine, id, value))
    return;
  GST_OBJECT_LOCK (self);
  switch (id)
    {
    case PROP_POST_MESSAGES:
      g_value_set_boolean (value, self->settings.post_messages);
      break;
    case PROP_MESSAGE_INTERVAL:
      g_value_set_uint64 (value, self->settings.interval);
      break;
    case PROP_SCORE_MAP:
      g_value_set_boolean (value, self->score_map);
      break;
    case PROP_CORRECTIONS:
      g_value_set_boolean (value, self->corrections);
      break;
    case PROP_THRESHOLD:
      g_value_set_double (value, self->settings.threshold);
      break;
    case PROP_THRESHOLD_HYSTERESIS:
      g_value_set_double (value, self->settings.hysteresis);
      break;
    case PROP_SMOOTHING_WINDOW:
      g_value_set_uint (value, self->settings.window);
      break;
    case PROP_KEY_INT_MAX:
      g_value_set_uint (value, self->key_int_max);
      break;
    case PROP_CONTEXT:
      g_value_set_int (value, self->context);
      break;
    case PROP_ACTIONS_LOCATION:
      g_value_set_string (value, self->actions_location);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
  GST_OBJECT_UNLOCK (self);
}

static void
gst_flow_encode_finalize (GObject *object)
{
  GstFlowEncode *self = GST_FLOW_ENCODE (object);
  gst_flow_engine_clear (&self->engine);
  gst_flow_scorer_free (self->scorer);
  g_free (self->actions_location);
  G_OBJECT_CLASS (gst_flow_encode_parent_class)->finalize (object);
}

static void
gst_flow_encode_class_init (GstFlowEncodeClass *class)
{
  GObjectClass *object_class = G_OBJECT_CLASS (class);
  GstElementClass *element_class = GST_ELEMENT_CLASS (class);
  GstVideoEncoderClass *encoder_class = GST_VIDEO_ENCODER_CLASS (class);
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING;

  object_class->set_property = gst_flow_encode_set_property;
  object_class->get_property = gst_flow_encode_get_property;
  object_class->finalize = gst_flow_encode_finalize;
  element_class->change_state = GST_DEBUG_FUNCPTR (gst_flow_encode_change_state);
  encoder_class->start = GST_DEBUG_FUNCPTR (gst_flow_encode_start);
  encoder_class->stop = GST_DEBUG_FUNCPTR (gst_flow_encode_stop);
  encoder_class->getcaps = GST_DEBUG_FUNCPTR (gst_flow_encode_getcaps);
  encoder_class->set_format = GST_DEBUG_FUNCPTR (gst_flow_encode_set_format);
  encoder_class->negotiate = GST_DEBUG_FUNCPTR (gst_flow_encode_negotiate);
  encoder_class->propose_allocation = GST_DEBUG_FUNCPTR (gst_flow_encode_propose_allocation);
  encoder_class->handle_frame = GST_DEBUG_FUNCPTR (gst_flow_encode_handle_frame);
  encoder_class->finish = GST_DEBUG_FUNCPTR (gst_flow_encode_finish);
  encoder_class->flush = GST_DEBUG_FUNCPTR (gst_flow_encode_flush);
  encoder_class->sink_event = GST_DEBUG_FUNCPTR (gst_flow_encode_sink_event);
  encoder_class->transform_meta = GST_DEBUG_FUNCPTR (gst_flow_encode_transform_meta);

  gst_flow_engine_install_properties (object_class, NF_SESSION_ENCODE);
  g_object_class_install_property (
      object_class, PROP_POST_MESSAGES,
      g_param_spec_boolean ("post-messages", "Post messages",
                            "Post element messages flow-score with the frames' likelihoods; those of the "
                            "threshold, flow-anomaly, are posted in any case",
                            TRUE, flags));
  g_object_class_install_property (
      object_class, PROP_MESSAGE_INTERVAL,
      g_param_spec_uint64 (
          "message-interval", "Message interval",
          "Nanoseconds of video whose mean score one flow-score message gives; 0 is a message per frame", 0,
          G_MAXUINT64, 0, flags));
  g_object_class_install_property (
      object_class, PROP_SCORE_MAP,
      g_param_spec_boolean ("score-map", "Score map",
                            "Add a map of bits per dimension, one float32 per patch, to GstFlowScoreMeta",
                            FALSE, flags));
  g_object_class_install_property (
      object_class, PROP_CORRECTIONS,
      g_param_spec_boolean (
          "corrections", "Corrections",
          "Append to float32 latents the values that decoding would not find, where there are any, "
          "so that every byte comes back; without, buffers are of one size",
          TRUE, flags));
  g_object_class_install_property (
      object_class, PROP_THRESHOLD,
      g_param_spec_double (
          "threshold", "Threshold",
          "Bits per dimension above which flow-anomaly (state enter) is posted; the largest double is off",
          -G_MAXDOUBLE, G_MAXDOUBLE, GST_FLOW_SCORE_OFF, flags));
  g_object_class_install_property (
      object_class, PROP_THRESHOLD_HYSTERESIS,
      g_param_spec_double (
          "threshold-hysteresis", "Threshold hysteresis",
          "Bits per dimension that the score must fall under the threshold for flow-anomaly (state leave)", 0,
          G_MAXDOUBLE, 0, flags));
  g_object_class_install_property (
      object_class, PROP_SMOOTHING_WINDOW,
      g_param_spec_uint ("smoothing-window", "Smoothing window",
                         "Frames whose mean score is compared with the threshold", 1,
                         GST_FLOW_SCORE_MAX_WINDOW, 1, flags));

  g_object_class_install_property (
      object_class, PROP_KEY_INT_MAX,
      g_param_spec_uint ("key-int-max", "Most frames between key frames",
                         "With a model of videos: most frames from one key frame, which is coded by itself, "
                         "to the next; 0 is only when needed",
                         0, G_MAXUINT, 0, flags));
  g_object_class_install_property (
      object_class, PROP_CONTEXT,
      g_param_spec_int ("context", "Context",
                        "With a model of videos: frames that are kept when its window is full; -1 is half of "
                        "them",
                        -1, G_MAXINT, -1,
                        G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      object_class, PROP_ACTIONS_LOCATION,
      g_param_spec_string ("actions-location", "Actions location",
                           "With a model of videos: file of the actions of a recorded video (NDJSON), for "
                           "frames whose metas do not tell them",
                           NULL, G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_FLOW_PARAM_MUTABLE_READY));

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (
      element_class, "Flow encoder", "Codec/Encoder/Video",
      "Turns video into Gaussian latents with exact likelihoods by a normalizing flow",
      "the normflow authors");
}

static void
gst_flow_encode_init (GstFlowEncode *self)
{
  gst_flow_engine_init (&self->engine, self, NF_SESSION_ENCODE);
  gst_flow_engine_watch_events (&self->engine, GST_VIDEO_ENCODER_SINK_PAD (self), set_format_again);
  gst_flow_engine_watch_gaps (&self->engine, GST_VIDEO_ENCODER_SINK_PAD (self));
  self->scorer = gst_flow_scorer_new ();
  self->context = -1;
  self->corrections = TRUE;
  self->settings
      = (GstFlowScoreSettings){ .post_messages = TRUE, .threshold = GST_FLOW_SCORE_OFF, .window = 1 };
}
