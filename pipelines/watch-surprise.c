/* normflow: a world model inside an application. SPDX-License-Identifier: LGPL-2.1-or-later */

/* Draws where and how much a video surprises a model of videos: each patch as a heat map over the picture,
 * the frame's score as a curve underneath; a line of JSON a frame goes to the standard output. It shows what
 * an application that embeds the model has to do: frames and scores come out of one pipeline by appsinks,
 * pictures go into another by an appsrc. Nothing but GStreamer is needed to compile it:
 *
 *   flags=$(pkg-config --cflags --libs gstreamer-app-1.0 gstreamer-video-1.0)
 *   cc watch-surprise.c -o watch-surprise $flags -lm
 *
 *   watch-surprise clip.mp4 MODEL out.mp4 > clip.ndjson
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <gst/app/gstappsink.h>
#include <gst/app/gstappsrc.h>
#include <gst/video/video.h>

#define CURVE 64      /* rows of the curve */
#define SIDE 384      /* least width of the picture */
#define MEMORY 0.02   /* weight of a new value in what is usual */
#define KNOWN 8       /* values, from which on it is known what is usual */
#define LEAST 1e-5    /* of a value and 1: rounding of floats, which is no deviation */
#define FULL_HEAT 8.0 /* standard deviations that are all red */

/* What a value usually is: mean and variance that forget. */
typedef struct
{
  double mean, variance;
  guint64 n;
} Usual;

/* How many standard deviations VALUE is above the usual; then it is part of that. */
static double
surprise (Usual *usual, double value)
{
  const double weight = MAX (MEMORY, 1.0 / (double)(usual->n + 1)), difference = value - usual->mean;
  const double least = LEAST * (1 + fabs (usual->mean));
  const double z = usual->n < KNOWN ? 0 : difference / sqrt (usual->variance + least * least);
  usual->mean += weight * difference;
  usual->variance = (1 - weight) * (usual->variance + weight * difference * difference);
  usual->n++;
  return z;
}

typedef struct
{
  GstElement *reader, *writer;
  GstAppSink *latents, *video;
  GstAppSrc *pictures;
  GstVideoInfo info;
  guint scale, width, height; /* of the pictures */

  guint columns, rows;
  Usual *patches, frame;
  float *heat;
  GArray *scores; /* double */
  gboolean failed;
} Watch;

static GstElement *
launch (const char *line, GError **error)
{
  GstElement *pipeline = gst_parse_launch_full (line, NULL, GST_PARSE_FLAG_FATAL_ERRORS, error);
  return pipeline;
}

/* Prints the warnings on PIPELINE's bus, and the error, if there is one. */
static gboolean
failed (GstElement *pipeline)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gboolean is_error = FALSE;
  GstMessage *message;
  while (!is_error && (message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING)))
    {
      g_autoptr (GError) error = NULL;
      is_error = GST_MESSAGE_TYPE (message) == GST_MESSAGE_ERROR;
      if (is_error)
        gst_message_parse_error (message, &error, NULL);
      else
        gst_message_parse_warning (message, &error, NULL);
      fprintf (stderr, "watch-surprise: %s%s\n", is_error ? "" : "warning: ", error->message);
      gst_message_unref (message);
    }
  return is_error;
}

/* The next sample, NULL at the end and after an error. */
static GstSample *
pull (Watch *watch, GstAppSink *sink)
{
  while (!watch->failed)
    {
      GstSample *sample = gst_app_sink_try_pull_sample (sink, 100 * GST_MSECOND);
      if (sample || gst_app_sink_is_eos (sink))
        return sample;
      watch->failed = failed (watch->reader);
    }
  return NULL;
}

static gboolean
open_reader (Watch *watch, const char *file, const char *model, GError **error)
{
  g_autofree char *uri = gst_uri_is_valid (file) ? g_strdup (file) : gst_filename_to_uri (file, error);
  if (!uri)
    return FALSE;
  watch->reader = launch ("uridecodebin name=source ! videoconvert ! video/x-raw,format={AYUV64,ARGB64} ! "
                          "videoscale method=lanczos envelope=1 ! videoconvert dither=none ! tee name=t "
                          "t. ! queue ! flowencode name=encode score-map=true post-messages=false ! "
                          "appsink name=latents sync=false max-buffers=2 "
                          "t. ! queue max-size-buffers=8 max-size-bytes=0 max-size-time=0 ! videoconvert ! "
                          "video/x-raw,format=RGB ! appsink name=video sync=false max-buffers=2",
                          error);
  if (!watch->reader)
    return FALSE;
  g_autoptr (GstElement) source = gst_bin_get_by_name (GST_BIN (watch->reader), "source"),
                         encode = gst_bin_get_by_name (GST_BIN (watch->reader), "encode");
  g_object_set (source, "uri", uri, NULL);
  g_object_set (encode, "model", model, NULL);
  g_autofree char *actions = g_strconcat (file, ".actions.ndjson", NULL);
  if (g_file_test (actions, G_FILE_TEST_EXISTS))
    g_object_set (encode, "actions-location", actions, NULL);
  watch->latents = GST_APP_SINK (gst_bin_get_by_name (GST_BIN (watch->reader), "latents"));
  watch->video = GST_APP_SINK (gst_bin_get_by_name (GST_BIN (watch->reader), "video"));
  return gst_element_set_state (watch->reader, GST_STATE_PLAYING) != GST_STATE_CHANGE_FAILURE;
}

/* Once the size is known. */
static gboolean
open_writer (Watch *watch, const char *out, GError **error)
{
  watch->scale = 2 * MAX (1, SIDE / 2 / watch->info.width);
  watch->width = watch->info.width * watch->scale;
  watch->height = watch->info.height * watch->scale + CURVE;
  watch->writer = launch ("appsrc name=pictures format=time block=true max-buffers=4 ! videoconvert ! "
                          "openh264enc bitrate=4000000 ! h264parse ! mp4mux ! filesink name=file",
                          error);
  if (!watch->writer)
    return FALSE;
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (watch->writer), "file");
  watch->pictures = GST_APP_SRC (gst_bin_get_by_name (GST_BIN (watch->writer), "pictures"));
  g_object_set (sink, "location", out, NULL);
  g_autoptr (GstCaps) caps = gst_caps_new_simple (
      "video/x-raw", "format", G_TYPE_STRING, "RGB", "width", G_TYPE_INT, (gint)watch->width, "height",
      G_TYPE_INT, (gint)watch->height, "framerate", GST_TYPE_FRACTION,
      watch->info.fps_n > 0 ? watch->info.fps_n : 25, watch->info.fps_n > 0 ? watch->info.fps_d : 1,
      "pixel-aspect-ratio", GST_TYPE_FRACTION, watch->info.par_n, watch->info.par_d, NULL);
  gst_app_src_set_caps (watch->pictures, caps);
  return gst_element_set_state (watch->writer, GST_STATE_PLAYING) != GST_STATE_CHANGE_FAILURE;
}

/* The score of LATENTS, and how surprising each patch is, into watch->heat. */
static gboolean
read_score (Watch *watch, GstBuffer *latents, double *bits, guint *worst)
{
  GstCustomMeta *meta = gst_buffer_get_custom_meta (latents, "GstFlowScoreMeta");
  g_autoptr (GstBuffer) map = NULL;
  gint columns, rows;
  GstMapInfo values;
  if (!meta
      || !gst_structure_get (gst_custom_meta_get_structure (meta), "bits-per-dim", G_TYPE_DOUBLE, bits,
                             "score-map", GST_TYPE_BUFFER, &map, "map-width", G_TYPE_INT, &columns,
                             "map-height", G_TYPE_INT, &rows, NULL)
      || !gst_buffer_map (map, &values, GST_MAP_READ))
    return FALSE;
  const guint n = (guint)(columns * rows);
  if (!watch->patches)
    {
      watch->columns = (guint)columns;
      watch->rows = (guint)rows;
      watch->patches = g_new0 (Usual, n);
      watch->heat = g_new0 (float, n);
    }
  *worst = 0;
  for (guint i = 0; i < n; i++)
    {
      watch->heat[i] = (float)surprise (&watch->patches[i], ((const float *)(gpointer)values.data)[i]);
      if (watch->heat[i] > watch->heat[*worst])
        *worst = i;
    }
  gst_buffer_unmap (map, &values);
  return TRUE;
}

static void
draw_curve (const Watch *watch, guint8 *pixels)
{
  const double *scores = (const double *)(gpointer)watch->scores->data;
  const guint shown = MIN (watch->scores->len, watch->width), first = watch->scores->len - shown;
  double low = scores[first], high = low;
  for (guint i = first; i < watch->scores->len; i++)
    {
      low = MIN (low, scores[i]);
      high = MAX (high, scores[i]);
    }
  for (guint x = 0; x < shown; x++)
    {
      const guint top = (guint)((CURVE - 1) * (high - scores[first + x]) / MAX (high - low, 1e-9));
      for (guint y = top; y < CURVE; y++)
        {
          guint8 *pixel = pixels + 3 * ((gsize)y * watch->width + x);
          pixel[0] = pixel[1] = pixel[2] = y == top ? 255 : 96;
        }
    }
}

static GstBuffer *
draw (const Watch *watch, GstBuffer *frame, GstClockTime time)
{
  const gsize size = 3 * (gsize)watch->width * watch->height;
  GstBuffer *picture = gst_buffer_new_allocate (NULL, size, NULL);
  GstVideoFrame from;
  GstMapInfo to;
  if (!gst_video_frame_map (&from, &watch->info, frame, GST_MAP_READ))
    {
      gst_buffer_unref (picture);
      return NULL;
    }
  gst_buffer_map (picture, &to, GST_MAP_WRITE);
  memset (to.data, 0, size);
  for (guint y = 0; y < watch->height - CURVE; y++)
    for (guint x = 0; x < watch->width; x++)
      {
        const guint row = y / watch->scale, column = x / watch->scale;
        const guint patch = row * watch->rows / watch->info.height * watch->columns
                            + column * watch->columns / watch->info.width;
        const double heat = 0.8 * CLAMP ((double)watch->heat[patch] / FULL_HEAT, 0, 1);
        const guint8 *in = (const guint8 *)GST_VIDEO_FRAME_PLANE_DATA (&from, 0)
                           + row * GST_VIDEO_FRAME_PLANE_STRIDE (&from, 0) + 3 * column;
        guint8 *out = to.data + 3 * ((gsize)y * watch->width + x);
        for (guint c = 0; c < 3; c++)
          out[c] = (guint8)((1 - heat) * in[c] + heat * (c == 0 ? 255 : 0));
      }
  draw_curve (watch, to.data + 3 * (gsize)watch->width * (watch->height - CURVE));
  gst_buffer_unmap (picture, &to);
  gst_video_frame_unmap (&from);
  GST_BUFFER_PTS (picture) = time;
  GST_BUFFER_DURATION (picture) = GST_BUFFER_DURATION (frame);
  return picture;
}

/* One frame after the other, to the end. */
static gboolean
work (Watch *watch, const char *out, GError **error)
{
  for (guint64 n = 0;; n++)
    {
      g_autoptr (GstSample) latents = pull (watch, watch->latents);
      g_autoptr (GstSample) video = latents ? pull (watch, watch->video) : NULL;
      double bits;
      guint worst;
      if (!video)
        return n > 0;
      if (n == 0
          && (!gst_video_info_from_caps (&watch->info, gst_sample_get_caps (video))
              || !open_writer (watch, out, error)))
        return FALSE;
      if (!read_score (watch, gst_sample_get_buffer (latents), &bits, &worst))
        {
          fprintf (stderr, "watch-surprise: frame %" G_GUINT64_FORMAT " has no score\n", n);
          return FALSE;
        }
      g_array_append_val (watch->scores, bits);
      GstBuffer *frame = gst_sample_get_buffer (video);
      /* files of pictures out of order may begin later than at 0 */
      const GstClockTime time = gst_segment_to_stream_time (gst_sample_get_segment (video), GST_FORMAT_TIME,
                                                            GST_BUFFER_PTS (frame));
      GstBuffer *picture = draw (watch, frame, time);
      if (!picture || gst_app_src_push_buffer (watch->pictures, picture) != GST_FLOW_OK)
        return FALSE;
      printf ("{\"frame\": %" G_GUINT64_FORMAT
              ", \"time\": %.6f, \"bits_per_dim\": %.6f, \"surprise\": %.3f, "
              "\"patch\": [%u, %u], \"patch_surprise\": %.3f}\n",
              n, (double)time / GST_SECOND, bits, surprise (&watch->frame, bits), worst % watch->columns,
              worst / watch->columns, (double)watch->heat[worst]);
    }
}

/* The file is complete once the end has reached it. */
static gboolean
close_writer (Watch *watch)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (watch->writer);
  gst_app_src_end_of_stream (watch->pictures);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, GST_CLOCK_TIME_NONE, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  g_autoptr (GError) error = NULL;
  if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS)
    return TRUE;
  gst_message_parse_error (message, &error, NULL);
  fprintf (stderr, "watch-surprise: %s\n", error->message);
  return FALSE;
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  Watch watch = { 0 };
  gboolean done = FALSE;

  gst_init (&argc, &argv);
  if (argc != 4)
    {
      fprintf (stderr, "watch-surprise VIDEO MODEL OUT.mp4 > OUT.ndjson\n");
      return 2;
    }
  watch.scores = g_array_new (FALSE, FALSE, sizeof (double));
  if (open_reader (&watch, argv[1], argv[2], &error))
    done = work (&watch, argv[3], &error);
  if (error)
    fprintf (stderr, "watch-surprise: %s\n", error->message);
  if (watch.failed || (watch.reader && failed (watch.reader)))
    done = FALSE;
  if (watch.writer && watch.pictures)
    done = close_writer (&watch) && done;

  for (guint i = 0; i < 2; i++)
    {
      GstElement *pipeline = i ? watch.writer : watch.reader;
      if (pipeline)
        gst_element_set_state (pipeline, GST_STATE_NULL);
      g_clear_object (&pipeline);
    }
  g_clear_object (&watch.latents);
  g_clear_object (&watch.video);
  g_clear_object (&watch.pictures);
  g_free (watch.patches);
  g_free (watch.heat);
  g_array_unref (watch.scores);
  return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
