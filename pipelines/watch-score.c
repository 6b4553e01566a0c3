/* normflow: a flow inside an application. SPDX-License-Identifier: LGPL-2.1-or-later */

/* Watches a video or a camera: prints for each frame how many bits per dimension the model needs for it and
 * which patch surprises it most, and tells when the score stays over a threshold. It shows what an
 * application that embeds the elements has to do: build a pipeline, take latents and scores from an appsink,
 * hear the bus, stop cleanly. Nothing but GStreamer is needed to compile it:
 *
 *   flags=$(pkg-config --cflags --libs gstreamer-app-1.0 gstreamer-video-1.0)
 *   cc watch-score.c -o watch-score $flags -lm
 *
 *   watch-score clip.mp4
 *   watch-score --threshold 2.5 /dev/video0
 */

#include <float.h>
#include <math.h>
#include <stdio.h>

#include <glib-unix.h>
#include <gst/app/gstappsink.h>
#include <gst/gst.h>

typedef struct
{
  GMainLoop *loop;
  GstElement *pipeline;
  gboolean quiet;
  gboolean failed;
  guint64 frames;  /* of the streaming thread until the pipeline has stopped */
  double sum_bits; /* the same */
} Watch;

/* Root mean square of a frame's latents: near 1 for video like that the model learnt from. Float32 because
 * our caps filter asks for it. */
static double
latent_rms (GstBuffer *buffer)
{
  GstMapInfo map;
  double sum = 0;

  if (!gst_buffer_map (buffer, &map, GST_MAP_READ))
    return NAN;
  const float *z = (const float *)(gpointer)map.data;
  const gsize n = map.size / sizeof (float);
  for (gsize i = 0; i < n; i++)
    sum += (double)z[i] * z[i];
  gst_buffer_unmap (buffer, &map);
  return n ? sqrt (sum / (double)n) : NAN;
}

/* Column and row of the patch that takes the most bits. */
static gboolean
worst_patch (const GstStructure *score, int *column, int *row, float *bits)
{
  GstBuffer *buffer = NULL;
  GstMapInfo map;
  int width = 0, height = 0;

  if (!gst_structure_get (score, "score-map", GST_TYPE_BUFFER, &buffer, "map-width", G_TYPE_INT, &width,
                          "map-height", G_TYPE_INT, &height, NULL))
    return FALSE;
  gboolean found = FALSE;
  if (gst_buffer_map (buffer, &map, GST_MAP_READ))
    {
      const float *values = (const float *)(gpointer)map.data;
      *bits = -FLT_MAX;
      for (int i = 0; i < width * height && (gsize)(i + 1) * sizeof (float) <= map.size; i++)
        if (values[i] > *bits)
          {
            *bits = values[i];
            *column = i % width;
            *row = i / width;
            found = TRUE;
          }
      gst_buffer_unmap (buffer, &map);
    }
  gst_buffer_unref (buffer);
  return found;
}

/* A streaming thread hands us the latents of a frame; the score rides on the buffer. */
static GstFlowReturn
on_latents (GstAppSink *sink, gpointer data)
{
  Watch *watch = data;
  g_autoptr (GstSample) sample = gst_app_sink_pull_sample (sink);
  if (!sample)
    return GST_FLOW_EOS;

  GstBuffer *buffer = gst_sample_get_buffer (sample);
  GstCustomMeta *meta = gst_buffer_get_custom_meta (buffer, "GstFlowScoreMeta");
  const GstStructure *score = meta ? gst_custom_meta_get_structure (meta) : NULL;
  double bits = NAN;
  if (!score || !gst_structure_get_double (score, "bits-per-dim", &bits))
    return GST_FLOW_OK;
  watch->frames++;
  watch->sum_bits += bits;
  if (watch->quiet)
    return GST_FLOW_OK;

  int column, row;
  float most;
  g_autofree char *where = worst_patch (score, &column, &row, &most)
                               ? g_strdup_printf (", worst patch %d,%d with %.2f", column, row, most)
                               : g_strdup ("");
  const GstClockTime time = gst_segment_to_stream_time (gst_sample_get_segment (sample), GST_FORMAT_TIME,
                                                        GST_BUFFER_PTS (buffer));
  printf ("%" GST_TIME_FORMAT "  %.4f bits/dim, latents of rms %.3f%s\n", GST_TIME_ARGS (time), bits,
          latent_rms (buffer), where);
  return GST_FLOW_OK;
}

static void
print_anomaly (const GstStructure *anomaly)
{
  guint64 time = GST_CLOCK_TIME_NONE;
  double score = NAN, threshold = NAN;

  gst_structure_get (anomaly, "stream-time", G_TYPE_UINT64, &time, "score", G_TYPE_DOUBLE, &score,
                     "threshold", G_TYPE_DOUBLE, &threshold, NULL);
  printf ("%" GST_TIME_FORMAT "  anomaly: %s (%.4f bits/dim, threshold %.4f)\n", GST_TIME_ARGS (time),
          gst_structure_get_string (anomaly, "state"), score, threshold);
}

/* The main loop's thread hears everything that is not a frame. */
static gboolean
on_message (GstBus *bus, GstMessage *message, gpointer data)
{
  Watch *watch = data;

  switch (GST_MESSAGE_TYPE (message))
    {
    case GST_MESSAGE_ERROR:
      {
        g_autoptr (GError) error = NULL;
        g_autofree char *details = NULL;

        gst_message_parse_error (message, &error, &details);
        fprintf (stderr, "watch-score: %s: %s\n", GST_OBJECT_NAME (GST_MESSAGE_SRC (message)),
                 error->message);
        watch->failed = TRUE;
        g_main_loop_quit (watch->loop);
        break;
      }
    case GST_MESSAGE_EOS:
      g_main_loop_quit (watch->loop);
      break;
    case GST_MESSAGE_PROGRESS:
      {
        GstProgressType type;
        g_autofree char *code = NULL, *text = NULL;

        gst_message_parse_progress (message, &type, &code, &text);
        if (type == GST_PROGRESS_TYPE_START)
          fprintf (stderr, "%s\n", text);
        break;
      }
    case GST_MESSAGE_ELEMENT:
      if (gst_message_has_name (message, "flow-anomaly"))
        print_anomaly (gst_message_get_structure (message));
      break;
    default:
      break;
    }
  return G_SOURCE_CONTINUE;
}

static gboolean
on_interrupt (gpointer data)
{
  Watch *watch = data;

  g_main_loop_quit (watch->loop);
  return G_SOURCE_CONTINUE;
}

/* SOURCE is a file, a URI, or a camera's device node. A camera that is faster than the model loses frames in
 * the leaky queue rather than falling behind. */
static GstElement *
make_pipeline (const char *source, GError **error)
{
  const gboolean camera = g_str_has_prefix (source, "/dev/");
  g_autofree char *description
      = g_strdup_printf ("%s ! %svideoconvert ! flowencode name=flow score-map=true post-messages=false ! "
                         "video/x-flow-latent,latent-format=F32LE ! "
                         "appsink name=latents sync=false max-buffers=4 emit-signals=false",
                         camera ? "v4l2src name=source" : "uridecodebin name=source",
                         camera ? "queue leaky=downstream max-size-buffers=2 ! " : "");
  g_autoptr (GstElement) pipeline
      = gst_parse_launch_full (description, NULL, GST_PARSE_FLAG_FATAL_ERRORS, error);
  if (!pipeline)
    return NULL;
  g_autoptr (GstElement) first = gst_bin_get_by_name (GST_BIN (pipeline), "source");
  if (camera)
    g_object_set (first, "device", source, NULL);
  else
    {
      g_autofree char *uri
          = gst_uri_is_valid (source) ? g_strdup (source) : gst_filename_to_uri (source, error);
      if (!uri)
        return NULL;
      g_object_set (first, "uri", uri, NULL);
    }
  return g_steal_pointer (&pipeline);
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (GOptionContext) context = g_option_context_new ("VIDEO|URI|/dev/videoN");
  g_autofree char *model = NULL, *device = NULL;
  double threshold = DBL_MAX, hysteresis = 0;
  int window = 5;
  Watch watch = { 0 };
  const GOptionEntry entries[]
      = { { "model", 'm', 0, G_OPTION_ARG_FILENAME, &model, "A path or name (default: the bundled model)",
            "MODEL" },
          { "device", 'd', 0, G_OPTION_ARG_STRING, &device,
            "auto, cpu, gpu, PLATFORM:DEVICE or part of a name", "DEVICE" },
          { "threshold", 't', 0, G_OPTION_ARG_DOUBLE, &threshold,
            "Tell when the score exceeds it; normflow calibrate suggests one", "BITS" },
          { "hysteresis", 0, 0, G_OPTION_ARG_DOUBLE, &hysteresis, "How far it must fall again (default: 0)",
            "BITS" },
          { "window", 'w', 0, G_OPTION_ARG_INT, &window, "Frames whose mean is compared (default: 5)", "N" },
          { "quiet", 'q', 0, G_OPTION_ARG_NONE, &watch.quiet, "Anomalies and the mean only", NULL },
          { NULL } };

  g_option_context_set_summary (context,
                                "Prints how likely each frame of a video or camera is under a flow.");
  g_option_context_add_main_entries (context, entries, NULL);
  g_option_context_add_group (context, gst_init_get_option_group ());
  if (!g_option_context_parse (context, &argc, &argv, &error) || argc != 2 || window < 1)
    {
      fprintf (stderr, "watch-score: %s\n",
               error ? error->message : "name one video; --help lists the options");
      return 2;
    }

  watch.pipeline = make_pipeline (argv[1], &error);
  if (!watch.pipeline)
    {
      fprintf (stderr, "watch-score: %s\n", error->message);
      return 1;
    }
  watch.loop = g_main_loop_new (NULL, FALSE);

  GstElement *flow = gst_bin_get_by_name (GST_BIN (watch.pipeline), "flow");
  g_object_set (flow, "model", model, "device", device, "threshold", threshold, "threshold-hysteresis",
                hysteresis, "smoothing-window", (guint)window, NULL);
  gst_object_unref (flow);

  GstElement *sink = gst_bin_get_by_name (GST_BIN (watch.pipeline), "latents");
  GstAppSinkCallbacks callbacks = { .new_sample = on_latents };
  gst_app_sink_set_callbacks (GST_APP_SINK (sink), &callbacks, &watch, NULL);
  gst_object_unref (sink);

  GstBus *bus = gst_element_get_bus (watch.pipeline);
  const guint bus_watch = gst_bus_add_watch (bus, on_message, &watch);
  const guint interrupt = g_unix_signal_add (SIGINT, on_interrupt, &watch);

  /* If this fails, an error message with the reason is on the bus already. */
  gst_element_set_state (watch.pipeline, GST_STATE_PLAYING);
  g_main_loop_run (watch.loop);
  gst_element_set_state (watch.pipeline, GST_STATE_NULL);

  if (watch.frames)
    printf ("%" G_GUINT64_FORMAT " frames, %.4f bits/dim on average\n", watch.frames,
            watch.sum_bits / (double)watch.frames);
  g_source_remove (interrupt);
  g_source_remove (bus_watch);
  gst_object_unref (bus);
  gst_object_unref (watch.pipeline);
  g_main_loop_unref (watch.loop);
  return watch.failed ? 1 : 0;
}
