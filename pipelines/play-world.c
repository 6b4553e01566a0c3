/* normflow: a world and a model of it, side by side. SPDX-License-Identifier: LGPL-2.1-or-later */

/* The true world of flowtestsrc on the left, the model's on the right, driven by the same keys. The model
 * sees the first frames of the true one, and goes on by itself. Return shows them to it again, q or Escape
 * ends.
 *
 *   play-world MODEL [PATTERN [ACTIONS.ndjson]]
 *
 * compositor keeps key events to itself; here a probe before it hands them to the flowsample, which passes
 * them on to the flowtestsrc. */

#include <stdio.h>
#include <stdlib.h>

#include <glib-unix.h>
#include <gst/gst.h>
#include <gst/video/navigation.h>

#define SHOWN_MS 1000 /* of the true world that the model sees */

typedef struct
{
  GMainLoop *loop;
  GstElement *pipeline, *world, *dream;
  const char *map; /* keys of both */
  GstPad *keys;    /* which wants the events */
  guint timer;
  gboolean failed;
} Play;

static gboolean
let_go (gpointer data)
{
  Play *play = data;
  play->timer = 0;
  g_object_set (play->dream, "predict", TRUE, NULL);
  return G_SOURCE_REMOVE;
}

/* Nothing is down: a key that was let go of in another window would be for ever. */
static void
release_keys (Play *play)
{
  g_object_set (play->world, "action-map", play->map, NULL);
  g_object_set (play->dream, "action-map", play->map, NULL);
}

/* The model sees the true world, for a while. On the main thread. */
static gboolean
show (gpointer data)
{
  Play *play = data;
  release_keys (play);
  g_clear_handle_id (&play->timer, g_source_remove);
  g_object_set (play->dream, "predict", FALSE, NULL);
  play->timer = g_timeout_add (SHOWN_MS, let_go, play);
  return G_SOURCE_REMOVE;
}

static gboolean
quit (gpointer data)
{
  g_main_loop_quit (((Play *)data)->loop);
  return G_SOURCE_CONTINUE;
}

static GstPadProbeReturn
on_event (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  Play *play = data;
  GstEvent *event = GST_PAD_PROBE_INFO_EVENT (info);
  const char *key;

  if (GST_EVENT_TYPE (event) != GST_EVENT_NAVIGATION)
    return GST_PAD_PROBE_OK;
  GSourceFunc what = NULL; /* keys that are no worlds' */
  if (gst_navigation_event_get_type (event) == GST_NAVIGATION_EVENT_KEY_PRESS
      && gst_navigation_event_parse_key_event (event, &key))
    what = g_str_equal (key, "Return")                             ? show
           : g_str_equal (key, "q") || g_str_equal (key, "Escape") ? quit
                                                                   : NULL;
  if (what)
    g_idle_add (what, play);
  else
    gst_pad_send_event (play->keys, gst_event_ref (event));
  return GST_PAD_PROBE_DROP;
}

static gboolean
on_message (GstBus *bus, GstMessage *message, gpointer data)
{
  Play *play = data;
  g_autoptr (GError) error = NULL;
  switch (GST_MESSAGE_TYPE (message))
    {
    case GST_MESSAGE_ERROR:
      gst_message_parse_error (message, &error, NULL);
      fprintf (stderr, "play-world: %s\n", error->message);
      play->failed = !strstr (error->message, "Output window was closed");
      g_main_loop_quit (play->loop);
      break;
    case GST_MESSAGE_WARNING:
      gst_message_parse_warning (message, &error, NULL);
      fprintf (stderr, "play-world: %s\n", error->message);
      break;
    case GST_MESSAGE_LATENCY:
      gst_bin_recalculate_latency (GST_BIN (play->pipeline));
      break;
    case GST_MESSAGE_EOS:
      g_main_loop_quit (play->loop);
      break;
    default:
      break;
    }
  return G_SOURCE_CONTINUE;
}

static gboolean
open_pipeline (Play *play, const char *model, const char *pattern, const char *actions, GError **error)
{
  /* nearest: small worlds have hard edges */
  play->pipeline = gst_parse_launch (
      "flowtestsrc name=world is-live=true post-messages=false ! videoconvert ! tee name=t "
      "t. ! queue ! videoconvert ! c.sink_0 "
      "t. ! queue ! flowencode name=encode post-messages=false ! flowsample name=dream "
      "! flowdecode name=decode ! queue ! videoconvert ! c.sink_1 "
      "compositor name=c background=black sink_0::width=320 sink_0::height=320 "
      "sink_0::sizing-policy=keep-aspect-ratio sink_1::xpos=328 sink_1::width=320 sink_1::height=320 "
      "sink_1::sizing-policy=keep-aspect-ratio ! video/x-raw,width=648,height=320 "
      "! videoconvert ! ximagesink name=sink sync=false",
      error);
  if (!play->pipeline)
    return FALSE;
  static const char *const users[] = { "encode", "dream", "decode" };
  for (guint i = 0; i < G_N_ELEMENTS (users); i++)
    {
      g_autoptr (GstElement) element = gst_bin_get_by_name (GST_BIN (play->pipeline), users[i]);
      g_object_set (element, "model", model, NULL);
    }
  g_autoptr (GstElement) mixer = gst_bin_get_by_name (GST_BIN (play->pipeline), "c");
  g_autoptr (GstPad) out = gst_element_get_static_pad (mixer, "src");
  play->world = gst_bin_get_by_name (GST_BIN (play->pipeline), "world");
  play->dream = gst_bin_get_by_name (GST_BIN (play->pipeline), "dream");
  play->keys = gst_element_get_static_pad (play->dream, "src");
  GParamSpec *property = g_object_class_find_property (G_OBJECT_GET_CLASS (play->world), "pattern");
  g_auto (GValue) value = G_VALUE_INIT;
  g_value_init (&value, property->value_type);
  if (!gst_value_deserialize_with_pspec (&value, pattern, property))
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                   "there is no world %s; gst-inspect-1.0 flowtestsrc lists them (pattern)", pattern);
      return FALSE;
    }
  g_object_set_property (G_OBJECT (play->world), "pattern", &value);
  g_object_set (play->world, "seed", (gint64)-1, "record-actions", actions, NULL);
  play->map = g_str_equal (pattern, "gridworld") ? "Up=1,Down=2,Left=3,Right=4,w=1,s=2,a=3,d=4"
              : g_str_equal (pattern, "pong")    ? "Up=1,Down=2,w=1,s=2,ScrollUp=1,ScrollDown=2"
                                                 : "";
  release_keys (play);
  gst_pad_add_probe (out, GST_PAD_PROBE_TYPE_EVENT_UPSTREAM, on_event, play, NULL);
  return TRUE;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  Play play = { 0 };

  gst_init (&argc, &argv);
  if (argc < 2 || argc > 4 || *argv[1] == '-')
    {
      fprintf (stderr, "play-world MODEL [PATTERN [ACTIONS.ndjson]]\n");
      return 2;
    }
  if (!open_pipeline (&play, argv[1], argc > 2 ? argv[2] : "pong", argc > 3 ? argv[3] : NULL, &error))
    {
      fprintf (stderr, "play-world: %s\n", error->message);
      return EXIT_FAILURE;
    }
  play.loop = g_main_loop_new (NULL, FALSE);
  g_autoptr (GstBus) bus = gst_element_get_bus (play.pipeline);
  gst_bus_add_watch (bus, on_message, &play);
  g_unix_signal_add (SIGINT, quit, &play);
  g_unix_signal_add (SIGTERM, quit, &play);
  if (gst_element_set_state (play.pipeline, GST_STATE_PLAYING) == GST_STATE_CHANGE_FAILURE)
    play.failed = TRUE;
  show (&play);
  g_main_loop_run (play.loop);
  gst_element_set_state (play.pipeline, GST_STATE_NULL);

  g_clear_handle_id (&play.timer, g_source_remove);
  gst_bus_remove_watch (bus);
  g_clear_object (&play.keys);
  g_clear_object (&play.world);
  g_clear_object (&play.dream);
  g_clear_object (&play.pipeline);
  g_main_loop_unref (play.loop);
  return play.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
