/* normflow: GStreamer plugin, frames drawn from the prior. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowprior.h"

#include <gst/video/video-event.h>

#define GST_CAT_DEFAULT gst_flow_debug

#define MOST_CONTROL 1e6
#define FULL_QUALITY 1000000 /* of QoS messages */

static gboolean
is_control (guint id)
{
  return id >= GST_FLOW_PRIOR_PROP_CONTROL_0 && id < GST_FLOW_PRIOR_PROP_CONTROL_0 + GST_FLOW_PRIOR_CONTROLS;
}

void
gst_flow_prior_init (GstFlowPrior *prior, gpointer element)
{
  prior->element = element;
  prior->wanted_seed = prior->seed = -1;
  prior->temperature = 1;
  prior->qos = TRUE;
  gst_flow_prior_forget_qos (prior);
  gst_flow_action_forget (&prior->last_action);
  gst_flow_action_forget (&prior->controls);
  gst_flow_action_input_init (&prior->input);
}

void
gst_flow_prior_clear (GstFlowPrior *prior)
{
  gst_flow_action_input_clear (&prior->input);
  gst_flow_action_forget (&prior->last_action);
  gst_flow_action_forget (&prior->controls);
  g_queue_clear_full (&prior->keys, g_free);
  g_clear_pointer (&prior->vector, g_free);
  g_clear_pointer (&prior->nothing, g_free);
  g_clear_pointer (&prior->latents, g_free);
  g_clear_pointer (&prior->action_map, g_free);
  g_clear_pointer (&prior->record_actions, g_free);
  g_clear_pointer (&prior->record, nf_actions_writer_free);
}

void
gst_flow_prior_install_properties (GObjectClass *class)
{
  const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS;
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_SEED,
      g_param_spec_int64 ("seed", "Seed",
                          "Seed of the random numbers, taken up at the state PAUSED; -1 is a random one, "
                          "which can then be read here",
                          -1, G_MAXINT64, -1, flags | GST_FLOW_PARAM_MUTABLE_READY));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_TEMPERATURE,
      g_param_spec_double ("temperature", "Temperature", "Standard deviation of the latents; 1 is the prior",
                           0, 100, 1, flags | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_ACTION,
      g_param_spec_int ("action", "Action",
                        "With a model of videos that takes actions: the action while no key of the map is "
                        "down; it leads to the next frame. -1 is unknown",
                        -1, G_MAXINT, 0, flags | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_ACTION_MAP,
      g_param_spec_string ("action-map", "Action map",
                           "Which keys are which actions, such as Up=1,Down=2,w+a=5; keys come as navigation "
                           "events from a video sink. Unset is none",
                           NULL, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_KEY_INT_MAX,
      g_param_spec_uint ("key-int-max", "Most frames between key frames",
                         "With a model of videos: most frames from one drawn key frame to the next, each of "
                         "which begins a world of its own that a receiver can join; 0 is only when asked for",
                         0, G_MAXUINT, 0, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_CONTROLS,
      gst_param_spec_array (
          "controls", "Controls",
          "With a model of videos that takes continuous controls: those of this moment, in the "
          "place of an action; as many as the model takes, none for an action",
          NULL, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_POINTER,
      g_param_spec_boolean (
          "pointer", "Pointer",
          "The first two controls are where the mouse is in the picture, -1 (left, top) to 1; "
          "it comes as navigation events from a video sink",
          FALSE, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_QOS,
      g_param_spec_boolean ("qos", "QoS",
                            "Draw nothing for a time that sinks say has passed: a world goes on more slowly, "
                            "but its frames are not late",
                            TRUE, flags | GST_PARAM_MUTABLE_PLAYING));
  g_object_class_install_property (
      class, GST_FLOW_PRIOR_PROP_RECORD_ACTIONS,
      g_param_spec_string (
          "record-actions", "Record actions",
          "File that the actions or controls of all frames are written to (NDJSON), a line a "
          "frame",
          NULL, flags | GST_FLOW_PARAM_MUTABLE_READY));
  for (guint i = 0; i < GST_FLOW_PRIOR_CONTROLS; i++)
    {
      g_autofree char *name = g_strdup_printf ("control-%u", i), *nick = g_strdup_printf ("Control %u", i);
      g_object_class_install_property (
          class, GST_FLOW_PRIOR_PROP_CONTROL_0 + i,
          g_param_spec_double (name, nick,
                               "One of the controls by itself, for a control source (bind it with "
                               "gst_direct_control_binding_new_absolute()); those that are not set are 0",
                               -MOST_CONTROL, MOST_CONTROL, 0,
                               G_PARAM_READWRITE | GST_PARAM_MUTABLE_PLAYING | GST_PARAM_CONTROLLABLE));
    }
}

/* One that is set before the start is read then: nobody hears of its errors now. */
static void
set_action_map (GstFlowPrior *prior, const char *text)
{
  g_autoptr (GError) error = NULL;
  GST_OBJECT_LOCK (prior->element);
  const gboolean started = prior->started;
  const guint n_actions = prior->n_actions;
  GST_OBJECT_UNLOCK (prior->element);
  if (started)
    {
      GstFlowActionMap *map = gst_flow_action_map_parse (text ? text : "", n_actions, &error);
      if (!map)
        {
          GST_ELEMENT_WARNING (prior->element, RESOURCE, SETTINGS,
                               ("%s; the one before is kept", error->message), (NULL));
          return;
        }
      gst_flow_action_input_set_map (&prior->input, map);
    }
  GST_OBJECT_LOCK (prior->element);
  g_free (prior->action_map);
  prior->action_map = g_strdup (text);
  GST_OBJECT_UNLOCK (prior->element);
}

gboolean
gst_flow_prior_set_property (GstFlowPrior *prior, guint id, const GValue *value)
{
  if (id == GST_FLOW_PRIOR_PROP_ACTION_MAP)
    {
      set_action_map (prior, g_value_get_string (value));
      return TRUE;
    }
  GST_OBJECT_LOCK (prior->element);
  gboolean done = TRUE, wrong = FALSE;
  switch (id)
    {
    case GST_FLOW_PRIOR_PROP_SEED:
      prior->wanted_seed = g_value_get_int64 (value);
      break;
    case GST_FLOW_PRIOR_PROP_TEMPERATURE:
      prior->temperature = g_value_get_double (value);
      break;
    case GST_FLOW_PRIOR_PROP_ACTION:
      prior->action = g_value_get_int (value);
      break;
    case GST_FLOW_PRIOR_PROP_KEY_INT_MAX:
      prior->key_int_max = g_value_get_uint (value);
      break;
    case GST_FLOW_PRIOR_PROP_CONTROLS:
      wrong = !gst_flow_action_set_value (&prior->controls, value) && gst_value_array_get_size (value) > 0;
      prior->single = FALSE;
      break;
    case GST_FLOW_PRIOR_PROP_POINTER:
      prior->pointer = g_value_get_boolean (value);
      break;
    case GST_FLOW_PRIOR_PROP_QOS:
      prior->qos = g_value_get_boolean (value);
      break;
    case GST_FLOW_PRIOR_PROP_RECORD_ACTIONS:
      g_free (prior->record_actions);
      prior->record_actions = g_value_dup_string (value);
      break;
    default:
      done = is_control (id);
      if (!done)
        break;
      gst_flow_action_set_control (&prior->controls, id - GST_FLOW_PRIOR_PROP_CONTROL_0,
                                   (float)g_value_get_double (value));
      prior->single = TRUE;
    }
  GST_OBJECT_UNLOCK (prior->element);
  if (wrong)
    GST_ELEMENT_WARNING (prior->element, RESOURCE, SETTINGS,
                         ("controls are finite numbers; there are none now"), (NULL));
  return done;
}

/* Under the object lock. */
static double
get_control (const GstFlowPrior *prior, guint i)
{
  const GArray *controls = prior->controls.controls;
  return controls && i < controls->len ? (double)g_array_index (controls, float, i) : 0;
}

gboolean
gst_flow_prior_get_property (GstFlowPrior *prior, guint id, GValue *value)
{
  GST_OBJECT_LOCK (prior->element);
  gboolean done = TRUE;
  switch (id)
    {
    case GST_FLOW_PRIOR_PROP_SEED:
      g_value_set_int64 (value, prior->seed >= 0 ? prior->seed : prior->wanted_seed);
      break;
    case GST_FLOW_PRIOR_PROP_TEMPERATURE:
      g_value_set_double (value, prior->temperature);
      break;
    case GST_FLOW_PRIOR_PROP_ACTION:
      g_value_set_int (value, prior->action);
      break;
    case GST_FLOW_PRIOR_PROP_KEY_INT_MAX:
      g_value_set_uint (value, prior->key_int_max);
      break;
    case GST_FLOW_PRIOR_PROP_CONTROLS:
      gst_flow_action_get_value (&prior->controls, value);
      break;
    case GST_FLOW_PRIOR_PROP_POINTER:
      g_value_set_boolean (value, prior->pointer);
      break;
    case GST_FLOW_PRIOR_PROP_QOS:
      g_value_set_boolean (value, prior->qos);
      break;
    case GST_FLOW_PRIOR_PROP_ACTION_MAP:
      g_value_set_string (value, prior->action_map);
      break;
    case GST_FLOW_PRIOR_PROP_RECORD_ACTIONS:
      g_value_set_string (value, prior->record_actions);
      break;
    default:
      done = is_control (id);
      if (done)
        g_value_set_double (value, get_control (prior, id - GST_FLOW_PRIOR_PROP_CONTROL_0));
    }
  GST_OBJECT_UNLOCK (prior->element);
  return done;
}

/* The stream goes on without. */
static void
stop_recording (GstFlowPrior *prior, const GError *error)
{
  GST_ELEMENT_WARNING (prior->element, RESOURCE, WRITE,
                       ("%s; actions are not recorded from here on", error->message), (NULL));
  g_clear_pointer (&prior->record, nf_actions_writer_free);
}

void
gst_flow_prior_record (GstFlowPrior *prior, GstClockTime pts)
{
  const GstFlowAction *action = &prior->last_action;
  const guint wanted = prior->info.actions;
  const gboolean told = wanted == 0 || gst_flow_action_fits (action, wanted);
  g_autofree float *nothing = NULL;
  g_autoptr (GError) error = NULL;
  guint n = action->controls ? action->controls->len : 0;
  if (!prior->record)
    return;
  /* what a model does not take it takes as unknown: where lines have controls, zeros */
  if (!told)
    n = prior->recorded ? prior->recorded_controls : action->controls || prior->info.controls ? wanted : 0;
  if (!told)
    nothing = g_new0 (float, MAX (n, 1));
  if (n > NF_ACTIONS_MAX_CONTROLS)
    g_set_error (&error, NF_ERROR, NF_ERROR_ARGUMENT, "a frame has %u controls, and there may be %d", n,
                 NF_ACTIONS_MAX_CONTROLS);
  else if (n > 0)
    nf_actions_writer_put_controls (
        prior->record, pts, told ? (const float *)(gpointer)action->controls->data : nothing, n, &error);
  else
    nf_actions_writer_put (prior->record, pts,
                           told && action->number >= 0 ? (guint)action->number : NF_ACTIONS_UNKNOWN, &error);
  if (!prior->recorded)
    prior->recorded_controls = n;
  prior->recorded = TRUE;
  if (error)
    stop_recording (prior, error);
}

gboolean
gst_flow_prior_start (GstFlowPrior *prior, guint n_actions)
{
  g_autoptr (GError) error = NULL;
  GST_OBJECT_LOCK (prior->element);
  g_autofree char *text = g_strdup (prior->action_map ? prior->action_map : ""),
                  *record = g_strdup (prior->record_actions);
  GST_OBJECT_UNLOCK (prior->element);
  GstFlowActionMap *map = gst_flow_action_map_parse (text, n_actions, &error);
  if (!map || (record && !(prior->record = nf_actions_writer_open (record, &error))))
    {
      g_clear_pointer (&map, gst_flow_action_map_free);
      gst_flow_post_error (prior->element, error);
      return FALSE;
    }
  gst_flow_action_input_set_map (&prior->input, map);
  prior->recorded = FALSE;
  GST_OBJECT_LOCK (prior->element);
  prior->started = TRUE;
  prior->n_actions = n_actions;
  /* Non-negative, so that it can be asked for again. */
  prior->seed = prior->wanted_seed >= 0
                    ? prior->wanted_seed
                    : (gint64)((((guint64)g_random_int () << 32) | g_random_int ()) & G_MAXINT64);
  prior->n_drawn = prior->n_left_out = 0;
  GST_OBJECT_UNLOCK (prior->element);
  gst_flow_prior_forget_qos (prior);
  gst_flow_prior_forget_key_units (prior, NULL, GST_CLOCK_TIME_NONE);
  prior->index = 0;
  gst_flow_action_forget (&prior->last_action);
  prior->warned = FALSE;
  g_object_notify (G_OBJECT (prior->element), "seed");
  return TRUE;
}

void
gst_flow_prior_stop (GstFlowPrior *prior)
{
  g_autoptr (GError) error = NULL;
  GST_OBJECT_LOCK (prior->element);
  prior->seed = -1;
  prior->started = FALSE;
  GST_OBJECT_UNLOCK (prior->element);
  if (prior->record && !nf_actions_writer_close (prior->record, &error))
    stop_recording (prior, error);
  g_clear_pointer (&prior->record, nf_actions_writer_free);
  g_clear_pointer (&prior->latents, g_free);
}

gboolean
gst_flow_prior_read_caps (GstFlowEngine *engine, const GstCaps *caps, GstFlowLatentInfo *info)
{
  g_autoptr (NfConfig) config = gst_flow_engine_dup_config (engine);
  g_autofree char *digest = gst_flow_engine_dup_digest (engine);
  g_autofree char *model = gst_flow_engine_describe (engine);
  g_autoptr (GError) error = NULL;
  if (!config || !digest)
    return FALSE;
  if (gst_flow_latent_info_from_caps (info, caps, config, digest, model, &error))
    return TRUE;
  gst_flow_post_error (engine->element, error);
  return FALSE;
}

void
gst_flow_prior_set_info (GstFlowPrior *prior, const GstFlowLatentInfo *info)
{
  prior->info = *info;
  g_free (prior->vector);
  prior->vector = g_new0 (float, MAX (info->actions, 1));
  g_free (prior->nothing);
  prior->nothing = g_new0 (float, MAX (info->actions, 1));
  g_clear_pointer (&prior->latents, g_free);
}

/* X of 0 to SIZE as -1 to 1. */
static float
from_pixels (double x, guint size)
{
  return (float)CLAMP (2 * x / MAX (size, 1) - 1, -1, 1);
}

void
gst_flow_prior_take_action (GstFlowPrior *prior)
{
  const gint pressed = gst_flow_action_input_take (&prior->input);
  GstFlowAction *last = &prior->last_action;
  double x, y;

  GST_OBJECT_LOCK (prior->element);
  const GArray *controls = prior->controls.controls;
  const gboolean pointer = prior->pointer;
  if (controls)
    {
      gst_flow_action_set_controls (last, (const float *)(gpointer)controls->data, controls->len);
      if (prior->single)
        gst_flow_action_reserve_controls (last, prior->info.actions);
    }
  else
    gst_flow_action_set_number (last, pressed >= 0 ? pressed : prior->action);
  GST_OBJECT_UNLOCK (prior->element);
  if (prior->info.controls)
    gst_flow_action_make_controls (last, prior->info.actions);
  if (!pointer || prior->info.actions < 2)
    return;
  if (!last->controls)
    gst_flow_action_set_controls (last, prior->nothing, prior->info.actions);
  if (last->controls->len >= 2 && gst_flow_action_input_get_pointer (&prior->input, &x, &y))
    {
      g_array_index (last->controls, float, 0) = from_pixels (x, prior->info.width);
      g_array_index (last->controls, float, 1) = from_pixels (y, prior->info.height);
    }
}

static void
fill (GstFlowPrior *prior, guint64 number, guint8 *data)
{
  const gsize size = nf_grid_latents (&prior->info.grid);

  GST_OBJECT_LOCK (prior->element);
  const guint64 seed = prior->seed;
  const double temperature = prior->temperature;
  GST_OBJECT_UNLOCK (prior->element);

  if (!prior->info.half)
    {
      nf_random_normal (seed, number, size, temperature, (float *)(gpointer)data);
      return;
    }
  if (!prior->latents)
    prior->latents = g_new (float, size);
  nf_random_normal (seed, number, size, temperature, prior->latents);
  nf_half_from_float (prior->latents, (guint16 *)(gpointer)data, size);
}

GstBuffer *
gst_flow_prior_draw (GstFlowPrior *prior, guint64 number)
{
  const GstFlowLatentInfo *info = &prior->info;
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, gst_flow_latent_info_size (info), NULL);
  GstMapInfo map;
  if (!buffer || !gst_buffer_map (buffer, &map, GST_MAP_WRITE))
    {
      gst_clear_buffer (&buffer);
      GST_ELEMENT_ERROR (prior->element, RESOURCE, NO_SPACE_LEFT,
                         ("No memory for the latents of a frame of %ux%u pixels", info->width, info->height),
                         (NULL));
      return NULL;
    }
  fill (prior, number, map.data);
  GST_OBJECT_LOCK (prior->element);
  prior->n_drawn++;
  GST_OBJECT_UNLOCK (prior->element);
  if (info->frames)
    {
      GST_OBJECT_LOCK (prior->element);
      const guint key_int_max = prior->key_int_max;
      GST_OBJECT_UNLOCK (prior->element);
      if ((key_int_max > 0 && prior->index > 0 && prior->run >= key_int_max) || prior->index == G_MAXUINT32)
        prior->index = 0;
      if (prior->index == 0)
        {
          prior->run = 0;
          gst_flow_action_forget (&prior->last_action);
        }
      gst_flow_action_to_vector (prior->element, &prior->last_action, prior->vector, info->actions,
                                 &prior->warned);
      const GstFlowLatentTail tail = { prior->index, prior->index > 0 ? prior->mark : 0, TRUE };
      gst_flow_latent_write_tail (info, map.data, prior->vector, &tail);
      prior->mark = gst_flow_latent_mark (info, map.data);
      if (prior->index > 0)
        GST_BUFFER_FLAG_SET (buffer, GST_BUFFER_FLAG_DELTA_UNIT);
      prior->index++;
      prior->run++;
    }
  gst_buffer_unmap (buffer, &map);
  if (info->actions)
    {
      gst_flow_prior_take_action (prior);
      gst_flow_action_attach (&prior->last_action, buffer, number);
    }
  else
    gst_flow_action_forget (&prior->last_action);
  GST_BUFFER_OFFSET (buffer) = number;
  GST_BUFFER_OFFSET_END (buffer) = number + 1;
  return buffer;
}

/* Key frames */

typedef struct
{
  GstClockTime running_time; /* from which on it is wanted, none for at once */
  gboolean all_headers;
  guint count;
} GstFlowKeyRequest;

void
gst_flow_prior_note_key_unit (GstFlowPrior *prior, GstEvent *event)
{
  GstFlowKeyRequest *request = g_new (GstFlowKeyRequest, 1);
  if (!gst_video_event_parse_upstream_force_key_unit (event, &request->running_time, &request->all_headers,
                                                      &request->count))
    {
      g_free (request);
      return;
    }
  GST_OBJECT_LOCK (prior->element);
  g_queue_push_tail (&prior->keys, request);
  GST_OBJECT_UNLOCK (prior->element);
}

/* Those that are wanted by the running time RUNNING leave the queue. */
static GQueue *
take_key_units (GstFlowPrior *prior, GstClockTime running)
{
  GQueue *due = g_queue_new ();
  GST_OBJECT_LOCK (prior->element);
  for (GList *link = prior->keys.head, *next; link; link = next)
    {
      const GstFlowKeyRequest *request = link->data;
      next = link->next;
      if (GST_CLOCK_TIME_IS_VALID (request->running_time) && GST_CLOCK_TIME_IS_VALID (running)
          && request->running_time > running)
        continue;
      g_queue_unlink (&prior->keys, link);
      g_queue_push_tail_link (due, link);
    }
  GST_OBJECT_UNLOCK (prior->element);
  return due;
}

static GstPadProbeReturn
send_event (GstPad *pad, GstPadProbeInfo *info, gpointer event)
{
  gst_pad_push_event (pad, gst_event_ref (event));
  return GST_PAD_PROBE_REMOVE;
}

void
gst_flow_prior_send_before_buffer (GstPad *pad, GstEvent *event)
{
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, send_event, event, (GDestroyNotify)gst_event_unref);
}

void
gst_flow_prior_answer_key_units (GstFlowPrior *prior, GstPad *pad, const GstSegment *segment,
                                 GstClockTime pts)
{
  const GstClockTime running = gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts),
                     stream = gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts);
  GQueue *due = take_key_units (prior, running);
  for (GList *link = due->head; link; link = link->next)
    {
      const GstFlowKeyRequest *request = link->data;
      GstEvent *event = gst_video_event_new_downstream_force_key_unit (pts, stream, running,
                                                                       request->all_headers, request->count);
      prior->index = 0;
      gst_flow_prior_send_before_buffer (pad, event);
    }
  g_queue_free_full (due, g_free);
}

void
gst_flow_prior_forget_key_units (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts)
{
  g_queue_free_full (take_key_units (prior, segment
                                                ? gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts)
                                                : GST_CLOCK_TIME_NONE),
                     g_free);
}

/* QoS */

void
gst_flow_prior_forget_qos (GstFlowPrior *prior)
{
  GST_OBJECT_LOCK (prior->element);
  prior->proportion = 1;
  prior->earliest = GST_CLOCK_TIME_NONE;
  GST_OBJECT_UNLOCK (prior->element);
}

void
gst_flow_prior_note_qos (GstFlowPrior *prior, GstEvent *event)
{
  GstClockTimeDiff diff;
  GstClockTime time;
  double proportion;
  gst_event_parse_qos (event, NULL, &proportion, &diff, &time);
  GST_OBJECT_LOCK (prior->element);
  prior->proportion = proportion;
  if (!GST_CLOCK_TIME_IS_VALID (time) || (diff < 0 && (GstClockTime)-diff > time))
    prior->earliest = GST_CLOCK_TIME_NONE;
  else
    /* what is late will take some time to catch up */
    prior->earliest = time + (diff > 0 ? 2 : 1) * (GstClockTime)diff;
  GST_OBJECT_UNLOCK (prior->element);
}

gboolean
gst_flow_prior_is_late (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts, GstClockTime *until)
{
  const GstClockTime running = gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts);
  GST_OBJECT_LOCK (prior->element);
  const GstClockTime earliest = prior->qos ? prior->earliest : GST_CLOCK_TIME_NONE;
  GST_OBJECT_UNLOCK (prior->element);
  if (!GST_CLOCK_TIME_IS_VALID (running) || !GST_CLOCK_TIME_IS_VALID (earliest))
    return FALSE;
  prior->late = GST_CLOCK_DIFF (running, earliest);
  *until = gst_segment_position_from_running_time (segment, GST_FORMAT_TIME, earliest);
  if (!GST_CLOCK_TIME_IS_VALID (*until))
    *until = GST_CLOCK_TIME_IS_VALID (segment->stop) ? segment->stop + 1 : 0;
  *until = MAX (*until, pts + 1); /* rates round, or go backwards */
  return prior->late > 0;
}

void
gst_flow_prior_leave_out (GstFlowPrior *prior, const GstSegment *segment, gboolean live, GstClockTime pts,
                          GstClockTime duration, guint64 n)
{
  GST_OBJECT_LOCK (prior->element);
  prior->n_left_out += n;
  const double proportion = prior->proportion;
  const guint64 drawn = prior->n_drawn, left_out = prior->n_left_out;
  GST_OBJECT_UNLOCK (prior->element);
  GstMessage *message = gst_message_new_qos (
      GST_OBJECT (prior->element), live, gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts),
      gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts), pts, duration);
  gst_message_set_qos_values (message, prior->late, proportion, FULL_QUALITY);
  gst_message_set_qos_stats (message, GST_FORMAT_BUFFERS, drawn, left_out);
  gst_element_post_message (prior->element, message);
}

void
gst_flow_prior_sync (GstFlowPrior *prior, const GstSegment *segment, GstClockTime pts)
{
  const GstClockTime time = gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts);
  g_autoptr (GstObject) parent = gst_object_get_parent (GST_OBJECT (prior->element));
  if (!GST_CLOCK_TIME_IS_VALID (time))
    return;
  gst_object_sync_values (GST_OBJECT (prior->element), time);
  if (parent)
    gst_object_sync_values (parent, time);
}
