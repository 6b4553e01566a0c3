/* normflow: the elements in real pipelines. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gst-fixture.h"

#include <unistd.h>

#define VIDEO "video/x-raw,format=I420,width=45,height=35,framerate=25/1"

static GstElement *
launch (const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *line = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  return fixture_launch (line);
}

/* What is wrong with PIPELINE, if anything. */
static void
assert_running (GstElement *pipeline)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  if (message)
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_error (message, &error, NULL);
      fail_msg ("%s", error->message);
    }
}

/* The next sample of the appsink called NAME, NULL at the end. */
static GstSample *
pull (GstElement *pipeline, const char *name)
{
  g_autoptr (GstElement) sink = gst_bin_get_by_name (GST_BIN (pipeline), name);
  GstSample *sample = NULL;
  g_signal_emit_by_name (sink, "try-pull-sample", (guint64)100 * GST_SECOND, &sample);
  assert_running (pipeline);
  return sample;
}

static GPtrArray *
pull_all (GstElement *pipeline, const char *name)
{
  GPtrArray *samples = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_sample_unref);
  GstSample *sample;
  while ((sample = pull (pipeline, name)))
    g_ptr_array_add (samples, sample);
  return samples;
}

/* Everything that comes out of the appsink "out" of a pipeline. */
static GPtrArray *
run (GstElement *pipeline)
{
  assert_int_not_equal (gst_element_set_state (pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
  GPtrArray *samples = pull_all (pipeline, "out");
  fixture_stop (pipeline);
  return samples;
}

static void
sample_video (GstSample *sample, GstVideoInfo *info)
{
  assert_true (gst_video_info_from_caps (info, gst_sample_get_caps (sample)));
}

/* The same frames at the same times. */
static void
assert_same_samples (GPtrArray *a, GPtrArray *b)
{
  assert_int_equal (a->len, b->len);
  for (guint i = 0; i < a->len; i++)
    {
      GstVideoInfo info, other;
      GstBuffer *first = gst_sample_get_buffer (a->pdata[i]), *second = gst_sample_get_buffer (b->pdata[i]);
      sample_video (a->pdata[i], &info);
      sample_video (b->pdata[i], &other);
      assert_true (gst_video_info_is_equal (&info, &other));
      assert_int_equal (GST_BUFFER_PTS (first), GST_BUFFER_PTS (second));
      assert_int_equal (GST_BUFFER_DURATION (first), GST_BUFFER_DURATION (second));
      assert_same_video (&info, first, second);
    }
}

static GPtrArray *
reference (guint n)
{
  return run (
      launch ("videotestsrc num-buffers=%u pattern=ball ! " VIDEO " ! appsink name=out sync=false", n));
}

static void
wait_for_eos (GstElement *pipeline)
{
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstMessage) message
      = gst_bus_timed_pop_filtered (bus, 60 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  assert_non_null (message);
  assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_EOS);
}

/* Files and networks */

static void
write_latents (const char *path, guint model, const char *filter, guint n)
{
  GstElement *pipeline = launch ("videotestsrc num-buffers=%u pattern=ball ! " VIDEO
                                 " ! flowencode model=\"%s\" ! %s ! gdppay ! filesink location=\"%s\"",
                                 n, fixture_model[model], filter, path);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  wait_for_eos (pipeline);
  fixture_stop (pipeline);
}

static void
test_file (void **state)
{
  static const char *const filters[] = { "video/x-flow-latent", "other/tensors" };
  g_autoptr (GPtrArray) wanted = reference (6);
  g_autofree char *path = fixture_path ("latents.gdp");
  for (guint i = 0; i < G_N_ELEMENTS (filters); i++)
    {
      write_latents (path, MODEL_YUV, filters[i], 6);
      g_autoptr (GPtrArray) got = run (launch (
          "filesrc location=\"%s\" ! gdpdepay ! flowdecode model=\"%s\" ! appsink name=out sync=false", path,
          fixture_model[MODEL_YUV]));
      assert_same_samples (wanted, got);
    }
}

static void
test_file_of_another_model (void **state)
{
  g_autofree char *path = fixture_path ("other.gdp");
  g_autoptr (GError) error = NULL;
  write_latents (path, MODEL_OTHER, "video/x-flow-latent", 1);
  g_autofree char *own = nf_model_digest_of_file (fixture_model[MODEL_YUV], &error);
  g_autofree char *other = nf_model_digest_of_file (fixture_model[MODEL_OTHER], &error);
  assert_no_error (error);
  own[16] = other[16] = 0;
  GstElement *pipeline = launch ("filesrc location=\"%s\" ! gdpdepay ! flowdecode model=\"%s\" ! fakesink",
                                 path, fixture_model[MODEL_YUV]);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, own, other);
  fixture_stop (pipeline);
}

/* A file that was cut off gives the frames that it has. */
static void
test_truncated_file (void **state)
{
  g_autofree char *path = fixture_path ("cut.gdp");
  g_autofree char *bytes = NULL;
  gsize size;
  write_latents (path, MODEL_YUV, "video/x-flow-latent", 4);
  assert_true (g_file_get_contents (path, &bytes, &size, NULL));
  assert_true (g_file_set_contents (path, bytes, size * 5 / 8, NULL));
  g_autoptr (GPtrArray) wanted = reference (4);
  g_autoptr (GPtrArray) got = run (
      launch ("filesrc location=\"%s\" ! gdpdepay ! flowdecode model=\"%s\" ! appsink name=out sync=false",
              path, fixture_model[MODEL_YUV]));
  assert_true (got->len >= 1 && got->len < 4);
  g_ptr_array_set_size (wanted, (gint)got->len);
  assert_same_samples (wanted, got);
}

static void
test_network (void **state)
{
  g_autoptr (GPtrArray) wanted = reference (5);
  GstElement *sender = launch ("videotestsrc num-buffers=5 pattern=ball ! " VIDEO
                               " ! flowencode model=\"%s\" ! gdppay ! tcpserversink name=server "
                               "host=127.0.0.1 port=0 sync=false",
                               fixture_model[MODEL_YUV]);
  assert_int_not_equal (gst_element_set_state (sender, GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  g_autoptr (GstElement) server = gst_bin_get_by_name (GST_BIN (sender), "server");
  gint port = 0;
  g_object_get (server, "current-port", &port, NULL);

  GstElement *receiver = launch ("tcpclientsrc host=127.0.0.1 port=%d ! gdpdepay ! flowdecode model=\"%s\" ! "
                                 "appsink name=out sync=false",
                                 port, fixture_model[MODEL_YUV]);
  gst_element_set_state (receiver, GST_STATE_PLAYING);
  for (guint handles = 0, tries = 0; handles == 0 && tries < FIXTURE_TRIES; tries++, g_usleep (10000))
    g_object_get (server, "num-handles", &handles, NULL);
  gst_element_set_state (sender, GST_STATE_PLAYING);
  g_autoptr (GPtrArray) got = g_ptr_array_new_with_free_func ((GDestroyNotify)gst_sample_unref);
  for (guint i = 0; i < 5; i++)
    {
      GstSample *sample = pull (receiver, "out");
      assert_non_null (sample);
      g_ptr_array_add (got, sample);
    }
  assert_same_samples (wanted, got);
  fixture_stop (receiver);
  fixture_stop (sender);
}

/* Time */

static GPtrArray *
play_from (GstElement *pipeline, GstClockTime from, GstClockTime to)
{
  assert_int_not_equal (gst_element_set_state (pipeline, GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  assert_int_equal (gst_element_get_state (pipeline, NULL, NULL, 60 * GST_SECOND), GST_STATE_CHANGE_SUCCESS);
  assert_true (gst_element_seek (pipeline, 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_ACCURATE,
                                 GST_SEEK_TYPE_SET, from, GST_SEEK_TYPE_SET, to));
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GPtrArray *samples = pull_all (pipeline, "out");
  fixture_stop (pipeline);
  return samples;
}

static void
test_seek (void **state)
{
  const GstClockTime from = 2 * GST_SECOND, to = 2200 * GST_MSECOND;
  g_autoptr (GPtrArray) wanted = play_from (
      launch ("videotestsrc pattern=ball ! " VIDEO " ! appsink name=out sync=false max-buffers=2"), from, to);
  g_autoptr (GPtrArray) got = play_from (launch ("videotestsrc pattern=ball ! " VIDEO
                                                 " ! flowencode model=\"%s\" ! flowdecode model=\"%s\" ! "
                                                 "appsink name=out sync=false max-buffers=2",
                                                 fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]),
                                         from, to);
  assert_int_equal (got->len, 5);
  assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (got->pdata[0])), from);
  assert_same_samples (wanted, got);
}

static void
test_seek_samples (void **state)
{
  const char *line = "flowsample seed=3 model=\"%s\" num-buffers=%d ! "
                     "video/x-flow-latent,width=16,height=8,framerate=10/1 ! flowdecode model=\"%s\" ! "
                     "appsink name=out sync=false max-buffers=2";
  g_autoptr (GPtrArray) all = run (launch (line, fixture_model[MODEL_YUV], 12, fixture_model[MODEL_YUV]));
  assert_int_equal (all->len, 12);
  g_autoptr (GPtrArray) part
      = play_from (launch (line, fixture_model[MODEL_YUV], -1, fixture_model[MODEL_YUV]), 900 * GST_MSECOND,
                   1200 * GST_MSECOND);
  assert_int_equal (part->len, 3);
  g_ptr_array_remove_range (all, 0, 9);
  assert_same_samples (all, part);
}

/* A seek that comes before anything runs is where it begins. */
static void
test_seek_samples_at_first (void **state)
{
  const char *line = "flowsample name=sample seed=3 model=\"%s\" num-buffers=%d ! "
                     "video/x-flow-latent,width=16,height=8,framerate=10/1 ! flowdecode model=\"%s\" ! "
                     "appsink name=out sync=false max-buffers=2";
  g_autoptr (GPtrArray) all = run (launch (line, fixture_model[MODEL_YUV], 12, fixture_model[MODEL_YUV]));
  GstElement *pipeline = launch (line, fixture_model[MODEL_YUV], -1, fixture_model[MODEL_YUV]);
  g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
  gst_element_set_state (pipeline, GST_STATE_READY);
  assert_false (gst_element_seek (sample, -1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET, 0,
                                  GST_SEEK_TYPE_SET, GST_SECOND));
  assert_true (gst_element_seek (sample, 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                 900 * GST_MSECOND, GST_SEEK_TYPE_SET, 1200 * GST_MSECOND));
  g_autoptr (GPtrArray) part = run (pipeline);
  assert_int_equal (part->len, 3);
  g_ptr_array_remove_range (all, 0, 9);
  assert_same_samples (all, part);
}

/* The time of a frame is rounded down, and yet is that of this frame and not of the one before. */
static void
test_seek_samples_to_times (void **state)
{
  for (guint n = 1; n < 4; n++)
    for (guint ready = 0; ready < 2; ready++)
      {
        const GstClockTime from = gst_util_uint64_scale (n, GST_SECOND, 30);
        GstElement *pipeline = launch ("flowsample name=sample model=\"%s\" ! "
                                       "video/x-flow-latent,width=16,height=8,framerate=30/1 ! "
                                       "appsink name=out sync=false max-buffers=2",
                                       fixture_model[MODEL_YUV]);
        g_autoptr (GstElement) sample = gst_bin_get_by_name (GST_BIN (pipeline), "sample");
        g_autoptr (GPtrArray) got = NULL;
        guint64 first;
        fixture_watch_first (sample, &first);
        if (ready)
          {
            gst_element_set_state (pipeline, GST_STATE_READY);
            assert_true (gst_element_seek (sample, 1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                           from, GST_SEEK_TYPE_SET, from + 40 * GST_MSECOND));
            got = run (pipeline);
          }
        else
          got = play_from (pipeline, from, from + 40 * GST_MSECOND);
        assert_int_equal (first, n);
        assert_int_equal (got->len, 2);
        for (guint i = 0; i < 2; i++)
          {
            GstBuffer *buffer = gst_sample_get_buffer (g_ptr_array_index (got, i));
            assert_int_equal (GST_BUFFER_OFFSET (buffer), n + i);
            assert_int_equal (GST_BUFFER_PTS (buffer), gst_util_uint64_scale (n + i, GST_SECOND, 30));
          }
      }
}

/* What goes on is not disturbed by a seek that cannot be. */
static void
test_seek_samples_backwards (void **state)
{
  GstElement *pipeline = launch ("flowsample seed=3 model=\"%s\" ! video/x-flow-latent,width=16,height=8 ! "
                                 "appsink name=out sync=false max-buffers=2",
                                 fixture_model[MODEL_YUV]);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (guint n = 0; n < 8; n++)
    {
      if (n == 4)
        assert_false (gst_element_seek (pipeline, -1, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SEEK_TYPE_SET,
                                        0, GST_SEEK_TYPE_SET, GST_SECOND));
      g_autoptr (GstSample) sample = pull (pipeline, "out");
      assert_non_null (sample);
      assert_int_equal (GST_BUFFER_PTS (gst_sample_get_buffer (sample)), n * 40 * GST_MSECOND);
    }
  fixture_stop (pipeline);
}

/* Pictures that are drawn from a model of Gaussian noise lose it, unless it is wanted. */
static void
test_drawn_pictures (void **state)
{
  const char *line = "flowsample seed=3 model=normflow-yuv420-32-noisy num-buffers=1 ! "
                     "video/x-flow-latent,width=32,height=32 ! flowdecode model=normflow-yuv420-32-noisy "
                     "denoise=%s ! appsink name=out sync=false";
  static const char *const how[] = { "auto", "none", "score" };
  double rough[G_N_ELEMENTS (how)] = { 0 };
  for (guint i = 0; i < G_N_ELEMENTS (how); i++)
    {
      g_autoptr (GPtrArray) got = run (launch (line, how[i]));
      GstMapInfo map;
      assert_int_equal (got->len, 1);
      assert_true (gst_buffer_map (gst_sample_get_buffer (got->pdata[0]), &map, GST_MAP_READ));
      for (gsize y = 0; y < 32; y++)
        for (gsize x = 1; x < 32; x++)
          {
            const double step = (double)map.data[y * 32 + x] - map.data[y * 32 + x - 1];
            rough[i] += step * step;
          }
      gst_buffer_unmap (gst_sample_get_buffer (got->pdata[0]), &map);
    }
  assert_true (rough[0] == rough[2]);
  assert_true (rough[0] < 0.7 * rough[1]);
}

static double
get_p95_ms (GstElement *pipeline, const char *name)
{
  g_autoptr (GstElement) element = gst_bin_get_by_name (GST_BIN (pipeline), name);
  g_autoptr (GstStructure) stats = NULL;
  double ms = 0;
  g_object_get (element, "stats", &stats, NULL);
  assert_true (gst_structure_get_double (stats, "p95-ms", &ms));
  return ms;
}

static void
test_live_latency (void **state)
{
  GstElement *pipeline
      = launch ("videotestsrc name=s is-live=true num-buffers=12 ! " VIDEO
                " ! flowencode model=\"%s\" name=e ! flowdecode model=\"%s\" name=d ! "
                "flowdenoise model=\"%s\" name=n sigma=0.02 ! fakesink sync=true processing-deadline=0",
                fixture_model[MODEL_YUV], fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  wait_for_eos (pipeline);
  g_autoptr (GstQuery) query = gst_query_new_latency ();
  gboolean live;
  GstClockTime min, max;
  assert_true (gst_element_query (pipeline, query));
  gst_query_parse_latency (query, &live, &min, &max);
  assert_true (live);
  /* each adds what its frames took: up to 1.05 times that, and a change by a quarter is not told */
  g_autoptr (GstElement) source = gst_bin_get_by_name (GST_BIN (pipeline), "s");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (source, "src");
  g_autoptr (GstQuery) before = gst_query_new_latency ();
  GstClockTime least;
  double most_ms = 0;
  assert_true (gst_pad_query (pad, before));
  gst_query_parse_latency (before, NULL, &least, NULL);
  for (const char *name = "edn"; *name; name++)
    most_ms += 1.05 / 0.75 * get_p95_ms (pipeline, (char[]){ *name, 0 });
  assert_true (min > least && (double)(min - least) <= most_ms * GST_MSECOND + 1);
  assert_true (max >= min);
  fixture_stop (pipeline);

  pipeline = launch (
      "flowsample is-live=true num-buffers=4 model=\"%s\" ! flowdecode model=\"%s\" ! fakesink sync=true",
      fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_PAUSED), GST_STATE_CHANGE_NO_PREROLL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  wait_for_eos (pipeline);
  fixture_stop (pipeline);
}

/* Caps */

static void
test_renegotiation (void **state)
{
  GstElement *pipeline
      = launch ("videotestsrc pattern=ball ! capsfilter name=filter caps-change-mode=delayed caps=" VIDEO
                " ! flowencode model=\"%s\" ! "
                "flowdecode model=\"%s\" ! appsink name=out sync=false max-buffers=1",
                fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  g_autoptr (GstElement) filter = gst_bin_get_by_name (GST_BIN (pipeline), "filter");
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  static const gint widths[] = { 45, 24, 70 };
  for (guint i = 0; i < G_N_ELEMENTS (widths); i++)
    {
      g_autoptr (GstCaps) caps = gst_caps_from_string (VIDEO);
      gst_caps_set_simple (caps, "width", G_TYPE_INT, widths[i], NULL);
      g_object_set (filter, "caps", caps, NULL);
      gint width = 0;
      for (guint n = 0; n < 50 && width != widths[i]; n++)
        {
          g_autoptr (GstSample) sample = pull (pipeline, "out");
          GstVideoInfo info;
          assert_non_null (sample);
          sample_video (sample, &info);
          width = GST_VIDEO_INFO_WIDTH (&info);
        }
      assert_int_equal (width, widths[i]);
    }
  fixture_stop (pipeline);
}

static void
test_conversion_is_negotiated (void **state)
{
  GstElement *pipeline = launch (
      "videotestsrc num-buffers=2 ! video/x-raw,format=BGRA,width=20,height=12 ! videoconvert ! flowencode "
      "model=\"%s\" ! "
      "flowdecode model=\"%s\" ! videoconvert ! video/x-raw,format=RGB ! appsink name=out sync=false",
      fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  g_autoptr (GPtrArray) samples = run (pipeline);
  assert_int_equal (samples->len, 2);
}

static void
test_downstream_decides (void **state)
{
  /* the size of generated video, or of what is scaled before, and the format of decoded video */
  static const char *const before[] = { "flowsample num-buffers=1", "flowsample num-buffers=1",
                                        "videotestsrc num-buffers=1 ! videoscale ! flowencode" };
  for (guint i = 0; i < G_N_ELEMENTS (before); i++)
    {
      GstElement *pipeline = launch ("%s model=\"%s\" ! %s ! flowdecode model=\"%s\" ! "
                                     "video/x-raw,format=NV12,width=30,height=22 ! "
                                     "appsink name=out sync=false",
                                     before[i], fixture_model[MODEL_YUV],
                                     i ? "other/tensors" : "video/x-flow-latent", fixture_model[MODEL_YUV]);
      g_autoptr (GPtrArray) samples = run (pipeline);
      assert_int_equal (samples->len, 1);
      GstVideoInfo info;
      sample_video (samples->pdata[0], &info);
      assert_int_equal (GST_VIDEO_INFO_WIDTH (&info), 30);
      assert_int_equal (GST_VIDEO_INFO_HEIGHT (&info), 22);
      assert_int_equal (GST_VIDEO_INFO_FORMAT (&info), GST_VIDEO_FORMAT_NV12);
    }
}

/* Downstream changes its mind while the encoder asks it for memory, in each frame. */
static GstPadProbeReturn
change_mind (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  static const char *const names[]
      = { "video/x-flow-latent,latent-format=F16LE", "video/x-flow-latent,latent-format=F32LE" };
  g_autoptr (GstCaps) caps = NULL;
  guint *asked = g_object_get_data (G_OBJECT (data), "asked");
  if (GST_QUERY_TYPE (GST_PAD_PROBE_INFO_QUERY (info)) == GST_QUERY_ALLOCATION)
    {
      caps = gst_caps_from_string (names[++*asked % 2]);
      g_object_set (data, "caps", caps, NULL);
    }
  return GST_PAD_PROBE_OK;
}

static GstPadProbeReturn
check_size (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  guint *of_half = data;
  g_autoptr (GstCaps) caps = gst_pad_get_current_caps (pad);
  const gboolean half
      = g_str_equal (gst_structure_get_string (gst_caps_get_structure (caps, 0), "latent-format"), "F16LE");
  assert_int_equal (gst_buffer_get_size (GST_PAD_PROBE_INFO_BUFFER (info)), 16 * 8 * 3 / 2 * (half ? 2 : 4));
  of_half[half]++;
  return GST_PAD_PROBE_OK;
}

static void
test_change_of_mind (void **state)
{
  GstElement *pipeline = launch (
      "videotestsrc num-buffers=12 ! video/x-raw,format=I420,width=16,height=8 ! flowencode name=encode "
      "model=\"%s\" ! capsfilter name=filter caps=video/x-flow-latent,latent-format=F32LE ! fakesink",
      fixture_model[MODEL_YUV]);
  g_autoptr (GstElement) filter = gst_bin_get_by_name (GST_BIN (pipeline), "filter"),
                         encode = gst_bin_get_by_name (GST_BIN (pipeline), "encode");
  g_autoptr (GstPad) pad = gst_element_get_static_pad (encode, "src");
  guint asked = 1, of_half[2] = { 0, 0 };
  g_object_set_data (G_OBJECT (filter), "asked", &asked);
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM | GST_PAD_PROBE_TYPE_PUSH, change_mind, filter,
                     NULL);
  gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, check_size, of_half, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  wait_for_eos (pipeline);
  fixture_stop (pipeline);
  assert_int_equal (of_half[FALSE] + of_half[TRUE], 12);
  assert_true (of_half[FALSE] > 2 && of_half[TRUE] > 2);
}

/* Sampling */

static GPtrArray *
generate (const char *model, gint64 seed, const char *decode_properties)
{
  return run (launch ("flowsample seed=%" G_GINT64_FORMAT
                      " num-buffers=3 model=\"%s\" ! video/x-flow-latent,width=24,height=20 ! "
                      "flowdecode model=\"%s\" %s ! appsink name=out sync=false",
                      seed, model, model, decode_properties));
}

static gboolean
same_bytes (GPtrArray *a, GPtrArray *b)
{
  for (guint i = 0; i < a->len; i++)
    {
      GstMapInfo map;
      GstBuffer *other = gst_sample_get_buffer (b->pdata[i]);
      gst_buffer_map (gst_sample_get_buffer (a->pdata[i]), &map, GST_MAP_READ);
      const gboolean same = gst_buffer_memcmp (other, 0, map.data, map.size) == 0;
      gst_buffer_unmap (gst_sample_get_buffer (a->pdata[i]), &map);
      if (!same)
        return FALSE;
    }
  return TRUE;
}

static void
test_seeds (void **state)
{
  g_autoptr (GPtrArray) first = generate (fixture_model[MODEL_RGB], 7, "");
  g_autoptr (GPtrArray) again = generate (fixture_model[MODEL_RGB], 7, "");
  g_autoptr (GPtrArray) other = generate (fixture_model[MODEL_RGB], 8, "");
  assert_int_equal (first->len, 3);
  assert_true (same_bytes (first, again));
  assert_false (same_bytes (first, other));
}

static void
test_guidance (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  g_autofree char *path = fixture_path ("classes.safetensors");
  NfConfig config = random_picture_config (NF_PIXELS_GRAY, FIXTURE_SIDE, FIXTURE_PATCH, 2);
  config.n_classes = 3;
  config.noise = NF_NOISE_UNIFORM;
  random_model_write (path, &config, device, 5);

  static const char *const properties[]
      = { "class=1", "class=1 guidance=9", "class=1 guidance=9 guide=scale",
          "class=1 guidance=9 annealed=true", "guidance=9 attention-temperature=0.2" };
  g_autoptr (GPtrArray) plain = generate (path, 7, "");
  g_autoptr (GPtrArray) seen = g_ptr_array_new_with_free_func ((GDestroyNotify)g_ptr_array_unref);
  g_ptr_array_add (seen, g_ptr_array_ref (plain));
  for (guint i = 0; i < G_N_ELEMENTS (properties); i++)
    {
      GPtrArray *samples = generate (path, 7, properties[i]);
      assert_int_equal (samples->len, 3);
      for (guint k = 0; k < seen->len; k++)
        if (same_bytes (seen->pdata[k], samples))
          fail_msg ("\"%s\" changes nothing", properties[i]);
      g_ptr_array_add (seen, samples);
    }
}

/* Every method gives the same bytes; what was not waited for is told. */
static void
test_decode_methods (void **state)
{
  static const char *const exact[]
      = { "method=sequential", "method=jacobi", "method=jacobi window=3 guess=zeros",
          "method=jacobi window=5", "blocks=\"3:zeros,1\" window=9" };
  g_autoptr (GPtrArray) wanted = reference (4);
  const char *model = fixture_model[MODEL_YUV];

  for (guint i = 0; i < G_N_ELEMENTS (exact); i++)
    {
      GstElement *pipeline = launch ("videotestsrc num-buffers=4 pattern=ball ! " VIDEO
                                     " ! flowencode model=\"%s\" ! flowdecode model=\"%s\" %s ! "
                                     "appsink name=out sync=false",
                                     model, model, exact[i]);
      g_autoptr (GPtrArray) samples = run (pipeline);
      assert_same_samples (wanted, samples);
    }

  GstElement *pipeline
      = launch ("videotestsrc num-buffers=4 pattern=snow ! " VIDEO
                " ! flowencode model=\"%s\" ! flowdecode model=\"%s\" method=jacobi max-sweeps=1 "
                "! fakesink",
                model, model);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gboolean told = FALSE;
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  for (;;)
    {
      g_autoptr (GstMessage) message = gst_bus_timed_pop_filtered (
          bus, 60 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_ELEMENT);
      assert_non_null (message);
      assert_int_not_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_ERROR);
      if (GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS)
        break;
      const GstStructure *structure = gst_message_get_structure (message);
      double residual = 0;
      if (gst_structure_has_name (structure, "flow-residual")
          && gst_structure_get_double (structure, "residual", &residual) && residual > 0)
        told = TRUE;
    }
  fixture_stop (pipeline);
  assert_true (told);
}

/* How blocks are decoded can change while frames come. What says nothing is an error of the start, then a
 * warning; what is another model's is an error once there is a model. */
static void
test_blocks (void **state)
{
  const char *model = fixture_model[MODEL_YUV];
  const char *line = "videotestsrc num-buffers=%d ! " VIDEO " ! flowencode model=\"%s\" ! "
                     "flowdecode name=flow model=\"%s\" blocks=\"%s\" ! fakesink sync=false";
  (void)state;
  GstElement *pipeline = launch (line, 1, model, model, "3x,1");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  g_autoptr (GstElement) flow = gst_bin_get_by_name (GST_BIN (pipeline), "flow");
  g_autofree char *unclear = NULL, *kept = NULL;
  g_object_get (flow, "blocks", &unclear, NULL);
  assert_string_equal (unclear, "3x,1");
  gst_element_set_state (pipeline, GST_STATE_PAUSED);
  assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, "\"3x\" of block 0", NULL);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR));
  gst_element_set_state (pipeline, GST_STATE_NULL);
  g_object_set (flow, "blocks", "3,1", NULL);
  gst_bus_set_flushing (bus, TRUE);
  gst_bus_set_flushing (bus, FALSE);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_object_set (flow, "blocks", "3,1:now", NULL);
  g_autoptr (GstMessage) warning = fixture_wait (bus, GST_MESSAGE_WARNING);
  assert_non_null (warning);
  g_object_get (flow, "blocks", &kept, NULL);
  assert_string_equal (kept, "3,1");
  g_autoptr (GstMessage) end = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  assert_true (end && GST_MESSAGE_TYPE (end) == GST_MESSAGE_EOS);
  fixture_stop (pipeline);

  pipeline = launch (line, 1, model, model, "3");
  g_autoptr (GstBus) other_bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  assert_error_message (other_bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS,
                        "how 1 blocks are decoded", NULL);
  fixture_stop (pipeline);
}

/* Life */

static void
test_two_branches (void **state)
{
  g_autoptr (GPtrArray) wanted = reference (4);
  const char *model = fixture_model[MODEL_YUV];
  GstElement *pipeline = launch (
      "videotestsrc num-buffers=4 pattern=ball ! " VIDEO " ! tee name=t "
      "t. ! queue ! flowencode model=\"%s\" ! flowdecode model=\"%s\" ! appsink name=out sync=false "
      "t. ! queue ! flowencode model=\"%s\" ! queue ! flowdecode model=\"%s\" ! appsink name=second "
      "sync=false",
      model, model, model, model);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GPtrArray) first = pull_all (pipeline, "out");
  g_autoptr (GPtrArray) second = pull_all (pipeline, "second");
  fixture_stop (pipeline);
  assert_same_samples (wanted, first);
  assert_same_samples (wanted, second);
}

static void
test_score_travels_with_video (void **state)
{
  GstElement *pipeline
      = launch ("videotestsrc num-buffers=1 ! " VIDEO
                " ! flowencode model=\"%s\" ! flowdecode model=\"%s\" ! videoconvert ! "
                "video/x-raw,format=RGB ! flowencode model=\"%s\" ! appsink name=out sync=false",
                fixture_model[MODEL_YUV], fixture_model[MODEL_YUV], fixture_model[MODEL_RGB]);
  g_autoptr (GPtrArray) samples = run (pipeline);
  /* the second encoder's own score alone */
  guint count = 0;
  gpointer at = NULL;
  GstMeta *meta;
  g_autoptr (GError) error = NULL;
  g_autofree char *digest = nf_model_digest_of_file (fixture_model[MODEL_RGB], &error);
  assert_int_equal (samples->len, 1);
  while ((meta = gst_buffer_iterate_meta (gst_sample_get_buffer (samples->pdata[0]), &at)))
    if (gst_meta_info_is_custom (meta->info)
        && gst_custom_meta_has_name ((GstCustomMeta *)meta, "GstFlowScoreMeta"))
      {
        count++;
        assert_string_equal (
            gst_structure_get_string (gst_custom_meta_get_structure ((GstCustomMeta *)meta), "model-digest"),
            digest);
      }
  assert_int_equal (count, 1);

  pipeline = launch ("videotestsrc num-buffers=1 ! " VIDEO
                     " ! flowencode model=\"%s\" ! flowdecode model=\"%s\" ! appsink name=out sync=false",
                     fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  g_autoptr (GPtrArray) decoded = run (pipeline);
  assert_non_null (
      gst_buffer_get_custom_meta (gst_sample_get_buffer (decoded->pdata[0]), "GstFlowScoreMeta"));
}

/* The model is loaded and let go each time. */
static void
test_state_cycles (void **state)
{
  GstElement *pipeline
      = launch ("videotestsrc ! video/x-raw,format=I420,width=16,height=8 ! flowencode model=\"%s\" ! "
                "flowdecode model=\"%s\" ! "
                "flowdenoise model=\"%s\" sigma=0.05 ! fakesink",
                fixture_model[MODEL_YUV], fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  for (guint i = 0; i < 100; i++)
    {
      assert_int_not_equal (gst_element_set_state (pipeline, i % 2 ? GST_STATE_PLAYING : GST_STATE_PAUSED),
                            GST_STATE_CHANGE_FAILURE);
      assert_int_equal (gst_element_get_state (pipeline, NULL, NULL, 60 * GST_SECOND),
                        GST_STATE_CHANGE_SUCCESS);
      assert_running (pipeline);
      if (i % 3 == 0)
        gst_element_set_state (pipeline, GST_STATE_READY);
      else
        gst_element_set_state (pipeline, GST_STATE_NULL);
    }
  fixture_stop (pipeline);
}

/* On the streaming thread: the latest word on how a frame gets on. */
static GstBusSyncReply
note_decoding (GstBus *bus, GstMessage *message, gpointer latest)
{
  g_autofree char *code = NULL;
  GstProgressType type;
  if (GST_MESSAGE_TYPE (message) != GST_MESSAGE_PROGRESS)
    return GST_BUS_PASS;
  gst_message_parse_progress (message, &type, &code, NULL);
  if (g_str_equal (code, "flow-decode"))
    g_atomic_int_set ((gint *)latest, type);
  return GST_BUS_PASS;
}

/* Leaving in the middle of a frame that takes long: it is not ended first. */
static void
test_stop_is_quick (void **state)
{
  GstElement *pipeline = launch ("flowsample model=\"%s\" ! video/x-flow-latent,width=4096,height=4096 ! "
                                 "flowdecode model=\"%s\" ! fakesink",
                                 fixture_model[MODEL_YUV], fixture_model[MODEL_YUV]);
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gint latest = -1;
  gst_bus_set_sync_handler (bus, note_decoding, &latest, NULL);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  /* one may just have been done when it is looked at: the next follows */
  gint seen = -1;
  for (guint tries = 0;
       tries < FIXTURE_TRIES && seen != GST_PROGRESS_TYPE_START && seen != GST_PROGRESS_TYPE_CONTINUE;
       tries++)
    {
      g_usleep (10000);
      seen = g_atomic_int_get (&latest);
    }
  assert_true (seen == GST_PROGRESS_TYPE_START || seen == GST_PROGRESS_TYPE_CONTINUE);
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_NULL), GST_STATE_CHANGE_SUCCESS);
  assert_int_equal (latest, GST_PROGRESS_TYPE_CANCELED);
  assert_running (pipeline);
  gst_object_unref (pipeline);
}

static void
test_missing_model (void **state)
{
  GstElement *pipeline = launch ("videotestsrc ! flowencode model=/nowhere/at-all.safetensors ! fakesink");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  assert_int_equal (gst_element_set_state (pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
  assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND, "/nowhere/at-all.safetensors",
                        NULL);
  fixture_stop (pipeline);
}

/* The bundled model */

/* Every frame of SOURCE through WAY, into the flow and back, beside the frame itself; returns how many there
 * were. */
static guint
compare_through (const char *source, const char *way)
{
  GstElement *pipeline = launch ("%s ! tee name=t "
                                 "t. ! queue ! appsink name=before sync=false max-buffers=2 "
                                 "t. ! queue ! %s ! appsink name=after sync=false max-buffers=2",
                                 source, way);
  guint n = 0;
  assert_int_not_equal (gst_element_set_state (pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
  for (;; n++)
    {
      g_autoptr (GstSample) before = pull (pipeline, "before"), after = pull (pipeline, "after");
      GstVideoInfo info, other;
      assert_true (!before == !after);
      if (!before)
        break;
      sample_video (before, &info);
      sample_video (after, &other);
      /* caps before may leave to defaults what those after say */
      assert_int_equal (GST_VIDEO_INFO_FORMAT (&info), GST_VIDEO_INFO_FORMAT (&other));
      assert_int_equal (info.width, other.width);
      assert_int_equal (info.height, other.height);
      assert_same_video (&info, gst_sample_get_buffer (before), gst_sample_get_buffer (after));
    }
  fixture_stop (pipeline);
  return n;
}

static guint
compare_with_itself (const char *source)
{
  return compare_through (source, "flowencode ! queue ! flowdecode");
}

/* From flat to pure noise. */
static void
test_bundled_model (void **state)
{
  static const char *const patterns[]
      = { "pattern=ball",       "pattern=snow",     "pattern=smpte",
          "pattern=checkers-1", "pattern=gradient", "pattern=chroma-zone-plate kx2=20 ky2=20 kt=3" };
  g_autoptr (GError) error = NULL;
  g_autofree char *path = nf_model_find (NULL, &error);
  assert_no_error (error);
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      g_autofree char *source = g_strdup_printf ("videotestsrc num-buffers=4 %s ! " VIDEO, patterns[i]);
      assert_int_equal (compare_with_itself (source), 4);
    }
  /* colours that change from sample to sample, as nowhere in what it has learnt */
  assert_int_equal (compare_with_itself ("videotestsrc num-buffers=2 pattern=checkers-2 ! "
                                         "video/x-raw,format=I420,width=64,height=64"),
                    2);
}

/* Of so many blocks that bfloat16 does not hold all values of a flow of them. (transfer full) */
static char *
write_deep_model (void)
{
  NfConfig config = random_picture_config (NF_PIXELS_RGB, 16, 4, 2);
  config.noise = NF_NOISE_UNIFORM;
  config.n_blocks = 14;
  for (guint t = 0; t < config.n_blocks; t++)
    config.layers[t] = 1;
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  char *path = fixture_path ("many.safetensors");
  random_model_write_scaled (path, &config, device, 5, 0.02);
  return path;
}

/* What decoding would not find comes with the latents, through whatever carries buffers, if it is wanted. */
static void
test_corrections (void **state)
{
  g_autofree char *path = write_deep_model ();
  static const char source[]
      = "videotestsrc num-buffers=4 pattern=snow ! video/x-raw,format=RGB,width=32,height=32";
  g_autofree char *way = g_strdup_printf (
      "flowencode model=\"%s\" precision=bf16 ! gdppay ! gdpdepay ! flowdecode model=\"%s\"", path, path);
  assert_int_equal (compare_through (source, way), 4);

  static const char *const settings[] = { "corrections=true", "corrections=false", "corrections=true" };
  static const char *const caps[] = { "video/x-flow-latent", "video/x-flow-latent", "other/tensors" };
  const gsize size = 32 * 32 * 3 * sizeof (float);
  for (guint i = 0; i < G_N_ELEMENTS (settings); i++)
    {
      GstElement *pipeline
          = launch ("%s ! flowencode model=\"%s\" precision=bf16 %s ! %s ! appsink name=after sync=false",
                    source, path, settings[i], caps[i]);
      assert_int_not_equal (gst_element_set_state (pipeline, GST_STATE_PLAYING), GST_STATE_CHANGE_FAILURE);
      for (guint n = 0; n < 4; n++)
        {
          g_autoptr (GstSample) sample = pull (pipeline, "after");
          const gsize more = gst_buffer_get_size (gst_sample_get_buffer (sample)) - size;
          assert_true (i == 0 ? more > 16 && more % 16 == 0 : more == 0);
        }
      fixture_stop (pipeline);
    }
}

/* What is wrong about the corrections of a buffer. */
typedef enum
{
  DAMAGE_MARK,
  DAMAGE_COUNT,
  DAMAGE_END,
  DAMAGE_SAMPLE,
  DAMAGE_ORDER,
  N_DAMAGES
} Damage;

static GstPadProbeReturn
damage (GstPad *pad, GstPadProbeInfo *info, gpointer data)
{
  const Damage what = (Damage)GPOINTER_TO_UINT (data);
  const gsize latents = 32 * 32 * 3 * sizeof (float);
  GstBuffer *buffer = GST_PAD_PROBE_INFO_BUFFER (info);
  g_autofree guint8 *bytes = NULL;
  gsize size = 0;
  gst_buffer_extract_dup (buffer, 0, G_MAXSIZE, (gpointer *)&bytes, &size);
  assert_true (size >= latents + 3 * 16);
  guint8 *corrections = bytes + latents;
  if (what == DAMAGE_MARK)
    corrections[7]++;
  else if (what == DAMAGE_COUNT)
    memset (corrections + 8, 255, 4);
  else if (what == DAMAGE_SAMPLE)
    corrections[16] = 4; /* the first one's tile, of four */
  else if (what == DAMAGE_ORDER)
    memcpy (corrections + 16, corrections + 32, 16);
  GstBuffer *damaged = gst_buffer_new_memdup (bytes, what == DAMAGE_END ? size - 8 : size);
  gst_buffer_copy_into (damaged, buffer, GST_BUFFER_COPY_METADATA, 0, -1);
  gst_buffer_replace (&buffer, NULL);
  GST_PAD_PROBE_INFO_DATA (info) = damaged;
  return GST_PAD_PROBE_OK;
}

static void
test_damaged_corrections (void **state)
{
  static const char *const errors[N_DAMAGES] = { "but its caps", "but its caps", "but its caps",
                                                 "there is no such sample", "they are not in order" };
  g_autofree char *path = write_deep_model ();
  for (guint i = 0; i < N_DAMAGES; i++)
    {
      GstElement *pipeline = launch (
          "videotestsrc num-buffers=1 pattern=snow ! video/x-raw,format=RGB,width=32,height=32 ! "
          "flowencode name=encoder model=\"%s\" precision=bf16 ! flowdecode model=\"%s\" ! fakesink",
          path, path);
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      g_autoptr (GstElement) encoder = gst_bin_get_by_name (GST_BIN (pipeline), "encoder");
      g_autoptr (GstPad) pad = gst_element_get_static_pad (encoder, "src");
      gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BUFFER, damage, GUINT_TO_POINTER (i), NULL);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, errors[i], NULL);
      fixture_stop (pipeline);
    }
}

/* A stream that goes without corrections has one warning if its frames are further from what was learnt than
 * latents can keep. */
static void
test_far_frames (void **state)
{
  static const char *const patterns[] = { "ball", "checkers-2", "checkers-2" };
  static const char *const settings[] = { "corrections=false", "corrections=false", "corrections=true" };
  for (guint i = 0; i < G_N_ELEMENTS (patterns); i++)
    {
      GstElement *pipeline
          = launch ("videotestsrc num-buffers=3 pattern=%s ! video/x-raw,format=I420,width=64,height=64 ! "
                    "flowencode %s ! fakesink",
                    patterns[i], settings[i]);
      g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
      gst_element_set_state (pipeline, GST_STATE_PLAYING);
      g_autoptr (GstMessage) end = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_WARNING);
      assert_int_equal (GST_MESSAGE_TYPE (end), i == 1 ? GST_MESSAGE_WARNING : GST_MESSAGE_EOS);
      if (i == 1)
        {
          g_autoptr (GError) warning = NULL;
          gst_message_parse_warning (end, &warning, NULL);
          assert_non_null (
              strstr (warning->message, "may not come back in every byte: it has parts far from all"));
          g_autoptr (GstMessage) next = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_WARNING);
          assert_int_equal (GST_MESSAGE_TYPE (next), GST_MESSAGE_EOS);
        }
      fixture_stop (pipeline);
    }
}

/* A frame of many years: what frames wait for each other is no latency that could be told. */
static void
test_slow_frames (void **state)
{
  GstElement *pipeline = launch ("flowsample num-buffers=2 model=normflow-yuv420-32-small ! "
                                 "video/x-flow-latent,width=16,height=16,framerate=1/2147483647 ! "
                                 "flowdecode frames-at-once=20 model=normflow-yuv420-32-small ! fakesink");
  g_autoptr (GstBus) bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  g_autoptr (GstMessage) end = fixture_wait (bus, GST_MESSAGE_EOS | GST_MESSAGE_WARNING);
  assert_int_equal (GST_MESSAGE_TYPE (end), GST_MESSAGE_EOS);
  fixture_stop (pipeline);
}

/* Whole real videos, if NORMFLOW_MEDIA names a folder of them: 96x64 pixels from the middle of every frame.
 */
static void
test_real_videos (void **state)
{
  const char *folder = g_getenv ("NORMFLOW_MEDIA"), *name;
  if (!folder)
    {
      print_message ("NORMFLOW_MEDIA names no folder of videos: only generated ones are tested\n");
      return;
    }
  g_autoptr (GError) error = NULL;
  g_autoptr (GDir) dir = g_dir_open (folder, 0, &error);
  assert_no_error (error);
  guint n = 0;
  while ((name = g_dir_read_name (dir)))
    {
      g_autofree char *source = g_strdup_printf (
          "filesrc location=\"%s/%s\" ! decodebin ! videoconvert ! video/x-raw,format=I420 ! "
          "videobox autocrop=true ! video/x-raw,width=96,height=64",
          folder, name);
      if (!g_str_has_suffix (name, ".mp4") && !g_str_has_suffix (name, ".mkv"))
        continue;
      const guint frames = compare_with_itself (source);
      print_message ("%s: every byte of %u frames\n", name, frames);
      assert_true (frames > 0);
      n++;
    }
  assert_true (n > 0);
}

/* Names are taken as they are, whatever gst-launch-1.0 would make of them. */
static void
test_names_of_files (void **state)
{
  static const char *const names[] = { "a\\b.mkv", "'a\"b \\\"ü ! c.mkv" };
  g_autofree char *other = fixture_path ("ab.mkv.gdp");
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    {
      g_autofree char *clip = make_clip (1, 10), *path = fixture_path (names[i]);
      g_autofree char *latents = g_strconcat (path, ".gdp", NULL), *again = g_strconcat (path, ".mkv", NULL);
      assert_int_equal (g_rename (clip, path), 0);
      g_free (run_script ("encode-to-file.sh", (const char *[]){ path, latents, NULL }));
      assert_true (g_file_test (latents, G_FILE_TEST_EXISTS));
      g_free (run_script ("decode-file.sh", (const char *[]){ latents, again, NULL }));
      assert_true (g_file_test (again, G_FILE_TEST_EXISTS));
    }
  assert_false (g_file_test (other, G_FILE_TEST_EXISTS));

  /* but for one that it takes for open */
  g_autofree char *open = fixture_path ("open\\"), *out = fixture_path ("open.gdp");
  assert_true (g_file_set_contents (open, "", 0, NULL));
  g_autofree char *errors = fail_script ("encode-to-file.sh", (const char *[]){ open, out, NULL });
  assert_non_null (strstr (errors, "ends in \\"));
}

/* PATH is a file of these words alone. */
static void
assert_words (const char *path, const char *words)
{
  g_autofree char *got = NULL;
  assert_true (g_file_get_contents (path, &got, NULL, NULL));
  assert_string_equal (got, words);
}

/* What was there stays as it is unless something whole takes its place, and nothing else comes to be. */
static void
test_failed_scripts (void **state)
{
  g_autofree char *folder = fixture_path ("results"), *clip = make_clip (2, 10);
  g_autofree char *video = g_build_filename (folder, "video.mkv", NULL),
                  *link = g_build_filename (folder, "link.mkv", NULL),
                  *uri = g_strconcat ("file://", video, NULL),
                  *words = g_build_filename (folder, "words.mkv", NULL),
                  *kept = g_build_filename (folder, "kept.mkv", NULL),
                  *sound = g_build_filename (folder, "sound.wav", NULL),
                  *none = g_build_filename (folder, "none.mkv", NULL),
                  *other = g_build_filename (folder, "other.mp4", NULL),
                  *nowhere = g_build_filename (folder, "nowhere", "none.mkv", NULL);
  const struct
  {
    const char *script, *arguments[4], *said;
  } cases[] = {
    { "denoise.sh", { video, "0.05", video }, "video.mkv is read" },
    { "denoise.sh", { uri, "0.05", link }, "link.mkv is read" },
    { "encode-to-file.sh", { video, video }, "video.mkv is read" },
    { "encode-to-file.sh", { video, folder }, "results is a folder" },
    { "encode-to-file.sh", { video, nowhere }, "no folder" },
    { "encode-to-file.sh", { words, kept }, "no video in " },
    { "denoise.sh", { words, "0.05", none }, "words.mkv" },
    { "encode-to-file.sh", { sound, kept }, "sound.wav" },
    { "denoise.sh", { video, "0.05", other }, "other.mp4 is not called .mkv" },
    { "generate.sh", { "1", "1x1", kept }, "kept.mkv is not called .png" },
  };
  g_autoptr (GError) error = NULL;
  g_autofree char *before = NULL, *after = NULL;
  gsize size, now;
  guint n = 0;
  assert_int_equal (g_mkdir (folder, 0700), 0);
  assert_int_equal (g_rename (clip, video), 0);
  assert_int_equal (symlink (video, link), 0);
  assert_true (g_file_get_contents (video, &before, &size, NULL));
  assert_true (g_file_set_contents (words, "words", -1, NULL));
  assert_true (g_file_set_contents (kept, "kept", -1, NULL));
  GstElement *pipeline = launch ("audiotestsrc num-buffers=1 ! wavenc ! filesink location=\"%s\"", sound);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  wait_for_eos (pipeline);
  fixture_stop (pipeline);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *errors = fail_script (cases[i].script, cases[i].arguments);
      if (!strstr (errors, cases[i].said))
        fail_msg ("case %u said: %s", i, errors);
    }
  assert_true (g_file_get_contents (video, &after, &now, NULL));
  assert_memory_equal (after, before, size);
  assert_int_equal (now, size);
  assert_words (words, "words");
  assert_words (kept, "kept");

  /* what is whole takes the place of what a link is to */
  g_remove (link);
  assert_int_equal (symlink (kept, link), 0);
  g_free (run_script ("denoise.sh", (const char *[]){ video, "0.05", link, NULL }));
  assert_true (g_file_test (link, G_FILE_TEST_IS_SYMLINK));
  g_autofree char *result = NULL;
  assert_true (g_file_get_contents (kept, &result, &now, NULL));
  assert_memory_equal (result, "\x1a\x45\xdf\xa3", 4);

  g_autoptr (GDir) dir = g_dir_open (folder, 0, &error);
  assert_no_error (error);
  for (const char *name; (name = g_dir_read_name (dir)); n++)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);
      assert_int_equal (g_remove (path), 0);
    }
  assert_int_equal (n, 5);
  g_remove (folder);
}

/* Latents that were cut off: whole frames come out, and what is missing is told. */
static void
test_decoding_a_part (void **state)
{
  const struct
  {
    gsize of[2]; /* this part of the file */
    guint frames;
    const char *said;
  } cases[] = { { { 1, 2 }, 1, "whole frames came out, 1 of them" }, { { 1, 8 }, 0, "no whole frame" } };
  g_autofree char *clip = make_clip (3, 10), *latents = fixture_path ("whole.gdp"),
                  *part = fixture_path ("part.gdp"), *out = fixture_path ("part.mkv"), *bytes = NULL;
  gsize size;
  g_free (run_script ("encode-to-file.sh", (const char *[]){ clip, latents, NULL }));
  assert_true (g_file_get_contents (latents, &bytes, &size, NULL));
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      assert_true (g_file_set_contents (part, bytes, (gssize)(size * cases[i].of[0] / cases[i].of[1]), NULL));
      g_remove (out);
      g_autofree char *errors = fail_script ("decode-file.sh", (const char *[]){ part, out, NULL });
      if (!strstr (errors, cases[i].said))
        fail_msg ("case %u said: %s", i, errors);
      assert_int_equal (g_file_test (out, G_FILE_TEST_EXISTS), cases[i].frames > 0);
      if (cases[i].frames)
        {
          g_autoptr (GPtrArray) got = run (launch (
              "filesrc location=\"%s\" ! matroskademux ! avdec_ffv1 ! appsink name=out sync=false", out));
          assert_int_equal (got->len, cases[i].frames);
        }
    }
}

/* What it reads is not among what it removes at first. */
static void
test_demo_of_its_results (void **state)
{
  g_autofree char *clip = make_clip (2, 10), *decoded = fixture_path ("decoded.mkv");
  assert_int_equal (g_rename (clip, decoded), 0);
  g_autofree char *errors
      = fail_script ("demo.sh", (const char *[]){ "--no-play", "--output", fixture_dir, decoded, NULL });
  assert_non_null (strstr (errors, "decoded.mkv"));
  assert_true (g_file_test (decoded, G_FILE_TEST_EXISTS));
}

/* The last line is of all frames. */
static void
test_steady (void **state)
{
  g_autofree char *said = run_script ("steady.sh", (const char *[]){ "20", fixture_model[MODEL_YUV], NULL });
  const char *last = strrchr (g_strchomp (said), '\n');
  char *rest = NULL;
  assert_non_null (last);
  assert_int_equal (g_ascii_strtoull (last, &rest, 10), 20);
  assert_true (*rest == ' ');
}

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_file),
    cmocka_unit_test (test_file_of_another_model),
    cmocka_unit_test (test_truncated_file),
    cmocka_unit_test (test_network),
    cmocka_unit_test (test_seek),
    cmocka_unit_test (test_seek_samples),
    cmocka_unit_test (test_seek_samples_at_first),
    cmocka_unit_test (test_seek_samples_to_times),
    cmocka_unit_test (test_seek_samples_backwards),
    cmocka_unit_test (test_drawn_pictures),
    cmocka_unit_test (test_live_latency),
    cmocka_unit_test (test_renegotiation),
    cmocka_unit_test (test_conversion_is_negotiated),
    cmocka_unit_test (test_downstream_decides),
    cmocka_unit_test (test_change_of_mind),
    cmocka_unit_test (test_seeds),
    cmocka_unit_test (test_guidance),
    cmocka_unit_test (test_decode_methods),
    cmocka_unit_test (test_blocks),
    cmocka_unit_test (test_two_branches),
    cmocka_unit_test (test_score_travels_with_video),
    cmocka_unit_test (test_state_cycles),
    cmocka_unit_test (test_stop_is_quick),
    cmocka_unit_test (test_missing_model),
    cmocka_unit_test (test_bundled_model),
    cmocka_unit_test (test_corrections),
    cmocka_unit_test (test_damaged_corrections),
    cmocka_unit_test (test_far_frames),
    cmocka_unit_test (test_slow_frames),
    cmocka_unit_test (test_real_videos),
    cmocka_unit_test (test_names_of_files),
    cmocka_unit_test (test_failed_scripts),
    cmocka_unit_test (test_decoding_a_part),
    cmocka_unit_test (test_demo_of_its_results),
    cmocka_unit_test (test_steady),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
