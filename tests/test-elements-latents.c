/* normflow: latents that elements make and take. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "elements-fixture.h"

#include <math.h>

/* What they say and are */

static void
test_latents_are_the_sessions (void **state)
{
  g_autoptr (NfSession) session = open_session (MODEL_YUV);
  GstVideoInfo info;
  NfScore score;
  gsize n;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 20, 12);
  GstHarness *harness = make_harness ("flowencode", MODEL_YUV, "score-map=true", NULL);
  set_video (harness, &info);
  const char *digest = nf_model_get_digest (nf_session_get_model (session));

  for (guint i = 0; i < 3; i++)
    {
      g_autoptr (GstBuffer) in = fixture_frame (&info, i, FALSE);
      g_autofree float *wanted = encode_directly (session, &info, in, &score, &n);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (harness, gst_buffer_ref (in));
      assert_int_equal (gst_buffer_get_size (out), n * sizeof (float));
      assert_int_equal (gst_buffer_memcmp (out, 0, wanted, n * sizeof (float)), 0);
      assert_false (GST_BUFFER_FLAG_IS_SET (out, GST_BUFFER_FLAG_DELTA_UNIT));

      GstCustomMeta *meta = gst_buffer_get_custom_meta (out, "GstFlowScoreMeta");
      assert_non_null (meta);
      const GstStructure *fields = gst_custom_meta_get_structure (meta);
      double bits, likelihood, prior, det;
      gint64 dims;
      guint64 index;
      g_autoptr (GstBuffer) map = NULL;
      gint width, height;
      assert_true (gst_structure_get (
          fields, "bits-per-dim", G_TYPE_DOUBLE, &bits, "log-likelihood", G_TYPE_DOUBLE, &likelihood,
          "log-prior", G_TYPE_DOUBLE, &prior, "log-det", G_TYPE_DOUBLE, &det, "num-dims", G_TYPE_INT64, &dims,
          "frame-index", G_TYPE_UINT64, &index, "score-map", GST_TYPE_BUFFER, &map, "map-width", G_TYPE_INT,
          &width, "map-height", G_TYPE_INT, &height, NULL));
      assert_true (bits == score.bits_per_dim && likelihood == score.log_likelihood
                   && prior == score.log_prior && det == score.log_det);
      assert_int_equal (dims, 20 * 12 * 3 / 2);
      assert_int_equal (index, i);
      assert_string_equal (gst_structure_get_string (fields, "model-digest"), digest);
      assert_int_equal (width, 6);
      assert_int_equal (height, 4);
      assert_int_equal (gst_buffer_get_size (map), 6 * 4 * sizeof (float));
    }
  end_harness (harness, NULL);
}

static void
test_latent_caps (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_NV12, 20, 12);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  static const struct
  {
    const char *field;
    gint value;
  } numbers[]
      = { { "width", 20 },  { "height", 12 },    { "tile-size", 8 },   { "patch-size", 4 }, { "tiles-x", 3 },
          { "tiles-y", 2 }, { "grid-width", 6 }, { "grid-height", 4 }, { "features", 24 } };
  const GstStructure *structure = gst_caps_get_structure (caps, 0);
  assert_string_equal (gst_structure_get_name (structure), "video/x-flow-latent");
  assert_string_equal (gst_structure_get_string (structure, "latent-format"), "F32LE");
  assert_string_equal (gst_structure_get_string (structure, "pixel-layout"), "yuv420");
  assert_string_equal (gst_structure_get_string (structure, "pixel-format"), "NV12");
  assert_int_equal (strlen (gst_structure_get_string (structure, "model-digest")), 64);
  for (guint i = 0; i < G_N_ELEMENTS (numbers); i++)
    {
      gint value = -1;
      gst_structure_get_int (structure, numbers[i].field, &value);
      assert_int_equal (value, numbers[i].value);
    }
}

/* Warnings with PART on BUS. */
static guint
count_warnings (GstBus *bus, const char *part)
{
  GstMessage *message;
  guint n = 0;
  while ((message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING)))
    {
      g_autoptr (GError) error = NULL;
      gst_message_parse_warning (message, &error, NULL);
      n += strstr (error->message, part) != NULL;
      gst_message_unref (message);
    }
  return n;
}

/* Latents say in which precision they were made, and are decoded in it unless something else is asked for. */
static void
test_precision_of_latents (void **state)
{
  static const struct
  {
    const char *made, *stated, *asked, *taken;
    gboolean tensors, warned;
  } cases[] = {
    { "bf16", "bf16", NULL, "bf16", FALSE, FALSE },
    { "bf16", "bf16", NULL, "bf16", TRUE, FALSE },
    { "bf16-weights", "bf16-weights", NULL, "bf16-weights", FALSE, FALSE },
    { "int8-weights", "int8-weights", NULL, "int8-weights", FALSE, FALSE },
    { "f32", "f32", NULL, "f32", FALSE, FALSE },
    { "bf16", "bf16", "precision=bf16", "bf16", FALSE, FALSE },
    { "bf16", "bf16", "precision=f32", "f32", FALSE, TRUE },
    { "f32", "f32", "device=auto,precision=bf16", "bf16", FALSE, TRUE },
    { "f32", NULL, NULL, "f32", FALSE, FALSE }, /* as they were before they said it */
    { "bf16", NULL, "precision=bf16", "bf16", FALSE, FALSE },
  };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 33, 22);
  g_unsetenv ("NORMFLOW_PRECISION");
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *property = g_strdup_printf ("precision=%s", cases[i].made);
      GstBus *bus;
      GstHarness *encoder = make_harness ("flowencode", MODEL_YUV, property, NULL);
      GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, cases[i].asked, &bus);
      if (cases[i].tensors)
        gst_harness_set_sink_caps_str (encoder, "other/tensors");
      set_video (encoder, &info);
      for (guint n = 0; n < 3; n++)
        {
          g_autoptr (GstBuffer) in = fixture_frame (&info, n, FALSE);
          GstBuffer *latents = gst_harness_push_and_pull (encoder, gst_buffer_ref (in));
          if (n == 0)
            {
              g_autoptr (GstCaps) told = gst_pad_get_current_caps (encoder->sinkpad);
              g_autoptr (GstCaps) caps = gst_caps_copy (told);
              GstStructure *structure = gst_caps_get_structure (caps, 0);
              assert_string_equal (gst_structure_get_string (structure, "precision"), cases[i].made);
              if (!cases[i].stated)
                gst_structure_remove_field (structure, "precision");
              gst_harness_set_src_caps (decoder, g_steal_pointer (&caps));
            }
          g_autoptr (GstBuffer) out = gst_harness_push_and_pull (decoder, latents);
          assert_non_null (out);
          if (strcmp (cases[i].made, cases[i].taken) == 0)
            assert_same_video (&info, in, out);
        }
      g_autofree char *taken = dup_working_precision (decoder->element);
      assert_string_equal (taken, cases[i].taken);
      assert_int_equal (count_warnings (bus, "were made in"), cases[i].warned);
      end_harness (encoder, NULL);
      end_harness (decoder, bus);
    }
}

/* They also say what multiplied, by which they are decoded where the device has it; if it has not, or
 * something else is asked for, a warning says so. */
static void
test_form_of_latents (void **state)
{
  static const struct
  {
    const char *stated, *asked; /* besides int8=fma */
    gboolean warned;
  } cases[] = { { "fma", NULL, FALSE },
                { "fma", "device=auto,int8=fma", FALSE },
                { NULL, "device=auto,int8=fma", FALSE },
                { "fma", "device=auto,int8=madd", TRUE },
                { "abacus", "device=auto,int8=fma", TRUE },
                { "no name, but this", "device=auto,int8=fma", FALSE } };
  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 33, 22);
  g_unsetenv ("NORMFLOW_PRECISION");
  g_autoptr (NfDevice) madd = nf_device_open ("auto,precision=int8-weights,int8=madd", NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      GstBus *bus;
      if (!madd && cases[i].asked && strstr (cases[i].asked, "madd"))
        continue;
      GstHarness *encoder
          = make_harness ("flowencode", MODEL_YUV, "precision=int8-weights device=auto,int8=fma", NULL);
      GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, cases[i].asked, &bus);
      set_video (encoder, &info);
      g_autoptr (GstBuffer) in = fixture_frame (&info, 7, FALSE);
      GstBuffer *latents = gst_harness_push_and_pull (encoder, gst_buffer_ref (in));
      g_autoptr (GstCaps) told = gst_pad_get_current_caps (encoder->sinkpad);
      GstCaps *caps = gst_caps_copy (told);
      GstStructure *structure = gst_caps_get_structure (caps, 0);
      assert_true (g_str_has_prefix (gst_structure_get_string (structure, "multiplied-by"), "fma"));
      if (cases[i].stated)
        gst_structure_set (structure, "multiplied-by", G_TYPE_STRING, cases[i].stated, NULL);
      else
        gst_structure_remove_field (structure, "multiplied-by");
      gst_harness_set_src_caps (decoder, caps);
      g_autoptr (GstBuffer) out = gst_harness_push_and_pull (decoder, latents);
      assert_non_null (out);
      if (!cases[i].asked || strstr (cases[i].asked, "fma"))
        assert_same_video (&info, in, out);
      assert_int_equal (count_warnings (bus, "were made in int8-weights by"), cases[i].warned);
      end_harness (encoder, NULL);
      end_harness (decoder, bus);
    }
}

/* One stream after the other goes by its own caps; one of an unknown precision is dropped. */
static void
test_precision_changes (void **state)
{
  static const char *const streams[] = { "bf16", NULL, "bf16-weights", "bf16-weights", "f32" };
  GstVideoInfo info;
  GstBus *bus;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_unsetenv ("NORMFLOW_PRECISION");
  g_autoptr (GstCaps) caps = NULL;
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *decoder = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  for (guint i = 0; i < G_N_ELEMENTS (streams); i++)
    {
      GstCaps *other = gst_caps_copy (caps);
      GstStructure *structure = gst_caps_get_structure (other, 0);
      if (streams[i])
        gst_structure_set (structure, "precision", G_TYPE_STRING, streams[i], NULL);
      else
        gst_structure_remove_field (structure, "precision");
      gst_harness_set_src_caps (decoder, other);
      gst_buffer_unref (gst_harness_push_and_pull (decoder, gst_buffer_copy (latents)));
      g_autofree char *taken = dup_working_precision (decoder->element);
      assert_string_equal (taken, streams[i] ? streams[i] : "f32");
    }
  assert_int_equal (count_warnings (bus, "were made in"), 0);
  GstCaps *unknown = gst_caps_copy (caps);
  gst_caps_set_simple (unknown, "precision", G_TYPE_STRING, "f8", NULL);
  gst_harness_set_src_caps (decoder, unknown);
  gst_harness_push (decoder, gst_buffer_copy (latents));
  assert_null (gst_harness_try_pull (decoder));
  g_autoptr (GstMessage) message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING);
  g_autoptr (GError) warning = NULL;
  gst_message_parse_warning (message, &warning, NULL);
  assert_true (g_error_matches (warning, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE));
  assert_true (strstr (warning->message, "f8") && strstr (warning->message, "bf16-weights"));
  end_harness (decoder, bus);
}

static void
test_tensors (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL, plain_caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, "other/tensors", &caps);
  g_autoptr (GstBuffer) plain = encode_one (MODEL_YUV, &info, NULL, &plain_caps);
  const GstStructure *structure = gst_caps_get_structure (caps, 0);
  assert_string_equal (gst_structure_get_name (structure), "other/tensors");
  assert_string_equal (gst_structure_get_string (structure, "format"), "static");
  assert_string_equal (gst_structure_get_string (structure, "dimensions"), "24:4:2:1");
  assert_string_equal (gst_structure_get_string (structure, "types"), "float32");

  /* the same bytes under both names */
  GstMapInfo map;
  gst_buffer_map (latents, &map, GST_MAP_READ);
  assert_int_equal (gst_buffer_get_size (plain), map.size);
  assert_int_equal (gst_buffer_memcmp (plain, 0, map.data, map.size), 0);
  gst_buffer_unmap (latents, &map);

  /* back, with our fields and as NNStreamer would hand them on */
  g_autofree char *full = gst_caps_to_string (caps);
  const char *const forms[] = {
    full,
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)25/"
    "1,dimensions=(string)24:4:2:1,types=(string)float32",
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)25/"
    "1,dimensions=(string)24:4:2,types=(string)float32",
    "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)0/"
    "1,dimensions=(string)24:4:2:1:1:1,types=(string)float32",
  };
  for (guint i = 0; i < G_N_ELEMENTS (forms); i++)
    {
      GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, NULL);
      /* a caps filter before it has nothing to add, also where not all sizes are possible behind it */
      g_autoptr (GstCaps) form = gst_caps_from_string (forms[i]);
      for (guint j = 0; j < 2; j++)
        {
          gst_harness_set_sink_caps_str (harness,
                                         j ? "video/x-raw" : "video/x-raw,width=[1,4096],height=[1,4096]");
          g_autoptr (GstCaps) asked = gst_pad_peer_query_caps (harness->srcpad, form);
          assert_true (gst_caps_is_equal (asked, form));
        }
      gst_harness_set_src_caps_str (harness, forms[i]);
      g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
      assert_non_null (video);
      g_autoptr (GstBuffer) wanted = fixture_frame (&info, 0, FALSE);
      assert_same_video (&info, wanted, video);
      end_harness (harness, NULL);
    }
}

/* Of tiles that are not square, by their dimensions alone. */
static void
test_tensors_of_tall_tiles (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_GRAY8, 12, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_TALL, &info, "other/tensors", &caps);
  assert_string_equal (gst_structure_get_string (gst_caps_get_structure (caps, 0), "dimensions"), "16:3:2:1");
  GstHarness *harness = make_harness ("flowdecode", MODEL_TALL, NULL, NULL);
  gst_harness_set_src_caps_str (harness,
                                "other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)"
                                "25/1,dimensions=(string)16:3:2:1,types=(string)float32");
  g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
  g_autoptr (GstBuffer) wanted = fixture_frame (&info, 0, FALSE);
  assert_non_null (video);
  assert_same_video (&info, wanted, video);
  end_harness (harness, NULL);
}

static void
test_half_precision (void **state)
{
  static const char *const filters[]
      = { "video/x-flow-latent,latent-format=F16LE", "other/tensors,types=float16" };
  g_autoptr (NfSession) session = open_session (MODEL_RGB);
  GstVideoInfo info;
  NfScore score;
  gsize n;
  fixture_video (&info, GST_VIDEO_FORMAT_RGB, 13, 9);
  g_autoptr (GstBuffer) frame = fixture_frame (&info, 0, FALSE);
  g_autofree float *wanted = encode_directly (session, &info, frame, &score, &n);
  g_autofree guint16 *halves = g_new (guint16, n);
  nf_half_from_float (wanted, halves, n);

  for (guint i = 0; i < G_N_ELEMENTS (filters); i++)
    {
      g_autoptr (GstCaps) caps = NULL;
      g_autoptr (GstBuffer) latents = encode_one (MODEL_RGB, &info, filters[i], &caps);
      assert_int_equal (gst_buffer_get_size (latents), n * sizeof (guint16));
      assert_int_equal (gst_buffer_memcmp (latents, 0, halves, n * sizeof (guint16)), 0);

      /* at an odd address, as in a file's middle */
      GstBuffer *shifted = gst_buffer_new_allocate (NULL, n * sizeof (guint16) + 1, NULL);
      gst_buffer_fill (shifted, 1, halves, n * sizeof (guint16));
      gst_buffer_resize (shifted, 1, n * sizeof (guint16));
      GstHarness *harness = make_harness ("flowdecode", MODEL_RGB, NULL, NULL);
      gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      g_autoptr (GstBuffer) video = gst_harness_push_and_pull (harness, gst_buffer_ref (latents));
      g_autoptr (GstBuffer) again = gst_harness_push_and_pull (harness, shifted);
      assert_non_null (video);
      assert_non_null (again);
      assert_same_video (&info, video, again);
      GstMapInfo a, b;
      double error = 0;
      gst_buffer_map (frame, &a, GST_MAP_READ);
      gst_buffer_map (video, &b, GST_MAP_READ);
      for (guint y = 0; y < 9; y++)
        for (guint x = 0; x < 13 * 3; x++)
          error += pow (a.data[y * GST_VIDEO_INFO_PLANE_STRIDE (&info, 0) + x]
                            - (double)b.data[y * GST_VIDEO_INFO_PLANE_STRIDE (&info, 0) + x],
                        2);
      gst_buffer_unmap (frame, &a);
      gst_buffer_unmap (video, &b);
      assert_true (error / (9 * 13 * 3) < 1);
      end_harness (harness, NULL);
    }
}

/* What is wrong */

static void
check_refusal (guint model, const char *caps, gsize bytes, gboolean nan, GQuark domain, gint code,
               const char *part, const char *other_part)
{
  GstBus *bus;
  GstHarness *harness = make_harness ("flowdecode", model, NULL, &bus);
  gst_harness_set_src_caps_str (harness, caps);
  GstBuffer *buffer = gst_buffer_new_allocate (NULL, bytes, NULL);
  gst_buffer_memset (buffer, 0, nan ? 0xff : 0, bytes);
  GST_BUFFER_PTS (buffer) = 0;
  assert_int_not_equal (gst_harness_push (harness, buffer), GST_FLOW_OK);
  assert_error_message (bus, domain, code, part, other_part);
  end_harness (harness, bus);
}

static void
test_bad_latents (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL, bad = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  const gsize size = gst_buffer_get_size (latents);
  g_autofree char *good = gst_caps_to_string (caps);
  g_autoptr (GError) error = NULL;
  g_autofree char *own = nf_model_digest_of_file (fixture_model[MODEL_YUV], &error);
  g_autofree char *other = nf_model_digest_of_file (fixture_model[MODEL_OTHER], &error);
  assert_no_error (error);
  own[16] = other[16] = 0;

  check_refusal (MODEL_OTHER, good, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, own, other);
  check_refusal (MODEL_RGB, good, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, own, NULL);
  check_refusal (MODEL_YUV, good, size - 4, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "764", "768");
  check_refusal (MODEL_YUV, good, size + 1, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "769", "768");
  check_refusal (MODEL_YUV, good, 0, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, NULL, "768");
  check_refusal (MODEL_YUV, good, size, TRUE, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "finite", NULL);

  static const struct
  {
    const char *field;
    gint value;
  } changes[] = { { "width", 32 },  { "height", 9 },     { "tile-size", 4 },   { "patch-size", 8 },
                  { "tiles-x", 3 }, { "grid-width", 2 }, { "grid-height", 8 }, { "features", 48 } };
  for (guint i = 0; i < G_N_ELEMENTS (changes); i++)
    {
      bad = gst_caps_copy (caps);
      gst_caps_set_simple (bad, changes[i].field, G_TYPE_INT, changes[i].value, NULL);
      g_autofree char *text = gst_caps_to_string (bad);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, "needs",
                     NULL);
      gst_clear_caps (&bad);
    }

  /* what the model has not, or what is of another type */
  static const struct
  {
    const char *field, *text, *part;
  } others[] = { { "frames", "(int)4", "frames 4" },
                 { "actions", "(int)5", "actions 5" },
                 { "context", "(int)3", "context 3" },
                 { "drawn", "(int)5", "drawn 5" },
                 { "precision", "(int)5", "precision 5" },
                 { "precision", "(string)\"\\033[31mred\"", "precision ?[31mred, which" },
                 { "pixel-layout", "(string)\"\\033[31mred\"", "\\033" },
                 { "interlace-mode", "(string)alternate", "interlace-mode alternate" },
                 { "model-digest", "(int)5", "model-digest" } };
  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    {
      bad = gst_caps_copy (caps);
      gst_structure_remove_field (gst_caps_get_structure (bad, 0), others[i].field);
      g_autofree char *start = gst_caps_to_string (bad),
                      *text = g_strdup_printf ("%s, %s=%s", start, others[i].field, others[i].text);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE,
                     others[i].part, NULL);
      gst_clear_caps (&bad);
    }

  static const char *const tensors[]
      = { "48:4:2:1", "24:3:2:1",  "24:4:2:2",           "24:4:2:1:1:1:1:1:1:1:1:1:1:1:1:1:1",
          "24:x:2:1", "24:-4:2:1", "24:99999999999:2:1", "24:2000000000:2000000000:1",
          "",         ":::" };
  for (guint i = 0; i < G_N_ELEMENTS (tensors); i++)
    {
      g_autofree char *text
          = g_strdup_printf ("other/tensors,format=(string)static,num_tensors=(int)1,framerate=(fraction)"
                             "25/1,dimensions=(string)\"%s\",types=(string)float32",
                             tensors[i]);
      check_refusal (MODEL_YUV, text, size, FALSE, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE, NULL, NULL);
    }
}

/* Damaged latents among others: none may be, unless max-errors says how many in a row; these are left out,
 * and those that are decoded together with them are not. */
static void
test_damaged_latents (void **state)
{
  static const struct
  {
    const char *properties, *frames; /* . good, s of a wrong size, n no numbers */
    guint shown, warned;
    gboolean fails; /* at the last one */
  } streams[] = {
    { NULL, ".s", 1, 0, TRUE },
    { NULL, ".n", 1, 0, TRUE },
    { "max-errors=1", ".s.n.", 3, 2, FALSE },
    { "max-errors=1", ".sn", 1, 1, TRUE },
    { "max-errors=-1", "snsn.", 1, 4, FALSE },
    { "max-errors=1 frames-at-once=3", "..s.n.", 4, 2, FALSE },
    { "frames-at-once=3", "..n", 2, 0, TRUE },
  };
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) good = encode_one (MODEL_YUV, &info, NULL, &caps),
                        wanted = fixture_frame (&info, 0, FALSE);
  for (guint i = 0; i < G_N_ELEMENTS (streams); i++)
    {
      GstBus *bus;
      gint most = -2;
      guint64 dropped;
      GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, streams[i].properties, &bus);
      g_object_get (harness->element, "max-errors", &most, NULL);
      if (!streams[i].properties)
        assert_int_equal (most, 0);
      gst_harness_set_src_caps (harness, gst_caps_ref (caps));
      const char *frames = streams[i].frames;
      for (guint n = 0; frames[n]; n++)
        {
          g_autoptr (GstBuffer) buffer = gst_buffer_copy_deep (good);
          GST_BUFFER_PTS (buffer) = n * 40 * GST_MSECOND;
          if (frames[n] == 's')
            gst_buffer_resize (buffer, 0, (gssize)gst_buffer_get_size (buffer) - 4);
          else if (frames[n] == 'n')
            gst_buffer_memset (buffer, 8, 0xff, 4);
          assert_int_equal (gst_harness_push (harness, g_steal_pointer (&buffer)),
                            streams[i].fails && !frames[n + 1] ? GST_FLOW_ERROR : GST_FLOW_OK);
        }
      assert_int_equal (gst_harness_buffers_received (harness), streams[i].shown);
      for (guint n = 0; frames[n]; n++)
        if (frames[n] == '.')
          {
            g_autoptr (GstBuffer) video = gst_harness_pull (harness);
            assert_int_equal (GST_BUFFER_PTS (video), n * 40 * GST_MSECOND);
            assert_same_video (&info, wanted, video);
          }
      g_autoptr (GstStructure) stats = NULL;
      g_object_get (harness->element, "stats", &stats, NULL);
      gst_structure_get_uint64 (stats, "dropped", &dropped);
      assert_int_equal (dropped, strlen (frames) - streams[i].shown);
      if (streams[i].fails)
        assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, NULL, NULL);
      else
        assert_int_equal (count_warnings (bus, "the frame is dropped"), streams[i].warned);
      end_harness (harness, bus);
    }
}

/* Blocks that are not the model's are refused while it plays, as those that say nothing are. */
static void
test_bad_blocks (void **state)
{
  static const char *const bad[] = { "3", "3,1,1", "3,1:now" };
  GstVideoInfo info;
  GstBus *bus;
  GstCaps *caps;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "blocks=3,1", &bus);
  gst_harness_set_src_caps (harness, caps);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++)
    {
      g_autofree char *kept = NULL;
      assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
      g_object_set (harness->element, "blocks", bad[i], NULL);
      assert_int_equal (count_warnings (bus, "the ones before are kept"), 1);
      g_object_get (harness->element, "blocks", &kept, NULL);
      assert_string_equal (kept, "3,1");
    }
  g_object_set (harness->element, "blocks", NULL, NULL);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
  assert_int_equal (gst_harness_buffers_received (harness), 4);
  end_harness (harness, bus);
}

/* Latents of another model in the middle of a stream: one warning, and what is the model's own comes back. */
static void
test_foreign_latents (void **state)
{
  static const guint models[] = { MODEL_YUV, MODEL_OTHER, MODEL_RGB, MODEL_YUV };
  GstVideoInfo info, rgb;
  g_autoptr (GstBus) bus = NULL;
  guint warnings = 0;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  fixture_video (&rgb, GST_VIDEO_FORMAT_RGB, 16, 8);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  for (guint i = 0; i < G_N_ELEMENTS (models); i++)
    {
      GstCaps *caps;
      GstBuffer *latents = encode_one (models[i], models[i] == MODEL_RGB ? &rgb : &info, NULL, &caps);
      g_autoptr (GstBuffer) again = gst_buffer_copy (latents), wanted = fixture_frame (&info, 0, FALSE);
      gst_harness_set_src_caps (harness, caps);
      assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_OK);
      assert_int_equal (gst_harness_push (harness, g_steal_pointer (&again)), GST_FLOW_OK);
      assert_int_equal (gst_harness_buffers_in_queue (harness), models[i] == MODEL_YUV ? 2 : 0);
      for (guint n = gst_harness_buffers_in_queue (harness); n > 0; n--)
        {
          g_autoptr (GstBuffer) out = gst_harness_pull (harness);
          assert_same_video (&info, out, wanted);
        }
    }
  for (GstMessage *message; (message = gst_bus_pop_filtered (bus, GST_MESSAGE_WARNING | GST_MESSAGE_ERROR));)
    {
      g_autoptr (GError) error = NULL;
      assert_int_equal (GST_MESSAGE_TYPE (message), GST_MESSAGE_WARNING);
      gst_message_parse_warning (message, &error, NULL);
      assert_true (g_error_matches (error, GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE));
      assert_non_null (strstr (error->message, "dropped"));
      gst_message_unref (message);
      warnings++;
    }
  assert_int_equal (warnings, 1);
  end_harness (harness, g_steal_pointer (&bus));
}

/* Latents whose caps were lost, as in a plain file. */
static void
test_without_caps (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstCaps) caps = NULL;
  GstBus *bus;
  GstSegment segment;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_segment_init (&segment, GST_FORMAT_TIME);
  gst_harness_push_event (harness, gst_event_new_stream_start ("no caps"));
  gst_harness_push_event (harness, gst_event_new_segment (&segment));
  assert_int_equal (gst_pad_push (harness->srcpad, latents), GST_FLOW_NOT_NEGOTIATED);
  assert_error_message (bus, GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION, "without caps", "gdpdepay");
  end_harness (harness, bus);
}

/* At the start they are an error, once, however often its caps come. */
static void
test_foreign_from_the_start (void **state)
{
  GstVideoInfo info;
  g_autoptr (GstBus) bus = NULL;
  GstCaps *caps;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_OTHER, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_harness_set_src_caps (harness, caps);
  assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_NOT_NEGOTIATED);
  g_autoptr (GstMessage) first = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR),
                         second = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
  assert_non_null (first);
  assert_null (second);
  end_harness (harness, g_steal_pointer (&bus));
}

static void
test_bad_class (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  g_autoptr (GstCaps) caps = NULL;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  GstBuffer *latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, "class=3", &bus);
  gst_harness_set_src_caps (harness, gst_caps_ref (caps));
  assert_int_equal (gst_harness_push (harness, latents), GST_FLOW_ERROR);
  assert_error_message (bus, GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS, "3", NULL);
  end_harness (harness, bus);
}

/* A class that the model does not have is refused while it plays, as such blocks are. */
static void
test_bad_class_later (void **state)
{
  GstVideoInfo info;
  GstBus *bus;
  GstCaps *caps;
  gint kept = 0;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 16, 8);
  g_autoptr (GstBuffer) latents = encode_one (MODEL_YUV, &info, NULL, &caps);
  GstHarness *harness = make_harness ("flowdecode", MODEL_YUV, NULL, &bus);
  gst_harness_set_src_caps (harness, caps);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  g_object_set (harness->element, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class 3 is out of range: the model has 0 classes (-1 is none); the "
                                         "one before is kept"),
                    1);
  g_object_get (harness->element, "class", &kept, NULL);
  assert_int_equal (kept, -1);
  /* the same again, with others in between, is not worth another */
  g_object_set (harness->element, "window", 4, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class"), 0);
  g_object_set (harness->element, "class", -1, "class", 3, NULL);
  assert_int_equal (count_warnings (bus, "class"), 1);
  assert_int_equal (gst_harness_push (harness, gst_buffer_copy (latents)), GST_FLOW_OK);
  assert_null (gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR | GST_MESSAGE_WARNING));
  end_harness (harness, bus);
}

/* Text */

/* Frames come back with the text that encoded them, and another one is warned of, once; text of another width
 * fails the state change. */
static void
test_text (void **state)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (NfDevice) device = nf_device_open (NULL, &error);
  assert_no_error (error);
  const NfConfig config = random_text_config (RANDOM_TEXT_TOKENS);
  g_autofree char *model = fixture_path ("seeing.safetensors"), *text = fixture_path ("text.safetensors"),
                  *other = fixture_path ("other-text.safetensors"), *wide = fixture_path ("wide.safetensors");
  random_model_write_scaled (model, &config, device, 3, 0.2);
  random_text_write (text, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 1);
  random_text_write (other, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES, 0, 2);
  random_text_write (wide, "text", 1, RANDOM_TEXT_TOKENS, RANDOM_TEXT_FEATURES + 1, 0, 1);

  GstVideoInfo info;
  fixture_video (&info, GST_VIDEO_FORMAT_I420, 20, 12);
  g_autoptr (GstCaps) caps = gst_video_info_to_caps (&info);
  g_autoptr (GstBuffer) frame = fixture_frame (&info, 1, FALSE);
  g_autoptr (GstCaps) slower = gst_caps_copy (caps);
  gst_caps_set_simple (slower, "framerate", GST_TYPE_FRACTION, 5, 1, NULL);
  const char *const texts[][2] = {
    { text, text }, { text, other }, { text, "" }, { "", text }, { "", "" }
  }; /* made with, shown with */
  GstBus *bus;
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      GstElement *ends[2];
      GstHarness *harness[2];
      const gboolean same = g_str_equal (texts[i][0], texts[i][1]);
      for (guint j = 0; j < 2; j++)
        {
          g_autofree char *properties = *texts[i][j] ? g_strdup_printf ("text=%s", texts[i][j]) : NULL;
          ends[j] = gst_object_ref_sink (
              make_element (j ? "flowdecode" : "flowencode", MODEL_YUV, properties, j ? &bus : NULL));
          g_object_set (ends[j], "model", model, NULL);
          harness[j] = gst_harness_new_with_element (ends[j], "sink", "src");
          gst_object_unref (ends[j]);
        }
      guint warned = 0;
      for (guint n = 0; n < 2; n++)
        {
          gst_harness_set_src_caps (harness[0], gst_caps_ref (n ? slower : caps));
          GstBuffer *latents = gst_harness_push_and_pull (harness[0], gst_buffer_copy (frame));
          gst_harness_set_src_caps (harness[1], gst_pad_get_current_caps (harness[0]->sinkpad));
          g_autoptr (GstBuffer) back = gst_harness_push_and_pull (harness[1], latents);
          assert_non_null (back);
          if (same)
            assert_same_video (&info, frame, back);
          else
            {
              GstMapInfo a;
              assert_true (gst_buffer_map (frame, &a, GST_MAP_READ));
              assert_int_not_equal (gst_buffer_memcmp (back, 0, a.data, a.size), 0);
              gst_buffer_unmap (frame, &a);
            }
          warned += count_warnings (bus, "text features");
        }
      assert_int_equal (warned, !same);
      end_harness (harness[0], NULL);
      end_harness (harness[1], bus);
    }

  g_autofree char *properties = g_strdup_printf ("text=%s", wide);
  g_autoptr (GstElement) element
      = gst_object_ref_sink (make_element ("flowencode", MODEL_YUV, properties, &bus));
  g_object_set (element, "model", model, NULL);
  gst_element_set_state (element, GST_STATE_READY);
  assert_error_message (bus, GST_STREAM_ERROR, GST_STREAM_ERROR_DECODE, "wide.safetensors", "(B, 2, 3)");
  gst_element_set_state (element, GST_STATE_NULL);
  gst_element_set_bus (element, NULL);
  gst_object_unref (bus);
}

int
main (int argc, char **argv)
{
  const int status = fixture_open (&argc, &argv);
  if (status >= 0)
    return status;
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_latents_are_the_sessions),
    cmocka_unit_test (test_latent_caps),
    cmocka_unit_test (test_precision_of_latents),
    cmocka_unit_test (test_form_of_latents),
    cmocka_unit_test (test_precision_changes),
    cmocka_unit_test (test_tensors),
    cmocka_unit_test (test_tensors_of_tall_tiles),
    cmocka_unit_test (test_half_precision),
    cmocka_unit_test (test_bad_latents),
    cmocka_unit_test (test_damaged_latents),
    cmocka_unit_test (test_bad_blocks),
    cmocka_unit_test (test_foreign_latents),
    cmocka_unit_test (test_foreign_from_the_start),
    cmocka_unit_test (test_without_caps),
    cmocka_unit_test (test_bad_class),
    cmocka_unit_test (test_bad_class_later),
    cmocka_unit_test (test_text),
  };
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  fixture_close ();
  return failed ? 1 : 0;
}
