/* normflow: GStreamer plugin, caps of video and latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowlatent.h"

#include <stdlib.h>
#include <string.h>

/* Buffers hold host floats, and the caps promise little-endian ones. */
G_STATIC_ASSERT (G_BYTE_ORDER == G_LITTLE_ENDIAN);

#define MAX_RANK 16 /* of NNStreamer's tensors */

/* Video */

const GstVideoFormat *
gst_flow_video_formats (NfPixelLayout layout, guint *n)
{
  static const GstVideoFormat yuv420[]
      = { GST_VIDEO_FORMAT_I420, GST_VIDEO_FORMAT_NV12, GST_VIDEO_FORMAT_YV12, GST_VIDEO_FORMAT_NV21 };
  static const GstVideoFormat rgb[] = { GST_VIDEO_FORMAT_RGB,  GST_VIDEO_FORMAT_BGR,  GST_VIDEO_FORMAT_RGBx,
                                        GST_VIDEO_FORMAT_BGRx, GST_VIDEO_FORMAT_xRGB, GST_VIDEO_FORMAT_xBGR,
                                        GST_VIDEO_FORMAT_GBR,  GST_VIDEO_FORMAT_RGBP, GST_VIDEO_FORMAT_BGRP };
  static const GstVideoFormat gray[] = { GST_VIDEO_FORMAT_GRAY8 };

  switch (layout)
    {
    case NF_PIXELS_YUV420:
      *n = G_N_ELEMENTS (yuv420);
      return yuv420;
    case NF_PIXELS_GRAY:
      *n = G_N_ELEMENTS (gray);
      return gray;
    default:
      *n = G_N_ELEMENTS (rgb);
      return rgb;
    }
}

GstCaps *
gst_flow_video_caps (const NfConfig *config)
{
  GstCaps *caps = gst_caps_from_string (GST_FLOW_VIDEO_CAPS);
  if (!config)
    return caps;

  guint n;
  const GstVideoFormat *formats = gst_flow_video_formats (config->layout, &n);
  if (config->frames)
    gst_caps_set_simple (caps, "width", G_TYPE_INT, (gint)nf_config_columns (config), "height", G_TYPE_INT,
                         (gint)nf_config_rows (config), NULL);
  if (n == 1)
    {
      gst_caps_set_simple (caps, "format", G_TYPE_STRING, gst_video_format_to_string (formats[0]), NULL);
      return caps;
    }
  g_auto (GValue) list = G_VALUE_INIT;
  gst_value_list_init (&list, n);
  for (guint i = 0; i < n; i++)
    {
      GValue name = G_VALUE_INIT;
      g_value_init (&name, G_TYPE_STRING);
      g_value_set_static_string (&name, gst_video_format_to_string (formats[i]));
      gst_value_list_append_and_take_value (&list, &name);
    }
  gst_caps_set_value (caps, "format", &list);
  return caps;
}

/* Whether WIDTH x HEIGHT samples of component C of FRAME lie in its memory. */
static gboolean
has_samples (const GstVideoFrame *frame, guint c, guint width, guint height)
{
  /* without a GstVideoMeta all of the buffer is mapped at once */
  const GstMapInfo *map = &frame->map[frame->meta ? GST_VIDEO_FORMAT_INFO_PLANE (frame->info.finfo, c) : 0];
  const gssize first = (const guint8 *)GST_VIDEO_FRAME_COMP_DATA (frame, c) - map->data,
               right = (gssize)(width - 1) * GST_VIDEO_FRAME_COMP_PSTRIDE (frame, c),
               down = (gssize)(height - 1) * GST_VIDEO_FRAME_COMP_STRIDE (frame, c);
  /* of RGBx and the like also what is beside the components, which gst_flow_frame_fill_padding() writes */
  const gint step = GST_VIDEO_FRAME_COMP_PSTRIDE (frame, c),
             behind = step == 4 ? step - 1 - GST_VIDEO_FRAME_COMP_POFFSET (frame, c) : 0;
  return first + MIN (down, 0) >= 0 && first + MAX (down, 0) + right + behind < (gssize)map->size;
}

gboolean
gst_flow_frame_map (GstElement *element, GstVideoFrame *frame, const GstVideoInfo *info, GstBuffer *buffer,
                    GstMapFlags flags)
{
  const guint w = GST_VIDEO_INFO_WIDTH (info), h = GST_VIDEO_INFO_HEIGHT (info);
  if (gst_video_frame_map (frame, info, buffer, flags))
    {
      /* a GstVideoMeta may say what its memory does not have */
      gboolean whole = TRUE;
      for (guint c = 0; c < GST_VIDEO_FRAME_N_COMPONENTS (frame) && whole; c++)
        whole = has_samples (frame, c, (guint)GST_VIDEO_FORMAT_INFO_SCALE_WIDTH (info->finfo, c, w),
                             (guint)GST_VIDEO_FORMAT_INFO_SCALE_HEIGHT (info->finfo, c, h));
      if (whole)
        return TRUE;
      gst_video_frame_unmap (frame);
    }
  GST_ELEMENT_ERROR (element, STREAM, FORMAT,
                     ("A buffer of %" G_GSIZE_FORMAT " bytes is not a frame of %ux%u pixels",
                      gst_buffer_get_size (buffer), w, h),
                     ("%" GST_PTR_FORMAT, buffer));
  return FALSE;
}

/* Whether something of row Y of VIEW's plane C, WIDTH samples, lies within the rows of plane OTHER, of which
 * there are HEIGHT. */
static gboolean
lies_in (const NfFrame *view, guint c, guint y, guint width, guint other, guint height)
{
  const NfPlane *plane = &view->planes[c], *in = &view->planes[other];
  const guint8 *row = plane->data + (gssize)y * plane->stride, *first = in->data,
               *last = first + (gssize)(height - 1) * in->stride;
  return row + (gssize)(width - 1) * plane->step >= MIN (first, last)
         && row < MAX (first, last) + ABS (in->stride);
}

/* Whether all of both planes of chroma that VIEW has lies in FRAME's memory, and not in another plane's. */
static gboolean
has_chroma (const GstVideoFrame *frame, const NfFrame *view)
{
  const guint rows = (view->height + 1) / 2;
  gboolean has = TRUE;
  for (guint c = 1; c < 3 && has; c++)
    {
      guint width, height;
      nf_frame_plane_size (view, NF_PIXELS_YUV420, c, &width, &height);
      has = has_samples (frame, c, width, height);
      for (guint y = rows; y < height && has; y++)
        has = !lies_in (view, c, y, width, 0, view->height)
              && (GST_VIDEO_FRAME_COMP_PLANE (frame, 1) == GST_VIDEO_FRAME_COMP_PLANE (frame, 2)
                  || !lies_in (view, c, y, width, 3 - c, rows));
    }
  return has;
}

void
gst_flow_frame_view (const GstVideoFrame *frame, const GstVideoInfo *info, NfFrame *view)
{
  memset (view, 0, sizeof *view);
  /* The frame's own are those of GstVideoMeta, which may be larger; what is made of it has room for these. */
  view->width = GST_VIDEO_INFO_WIDTH (info);
  view->height = GST_VIDEO_INFO_HEIGHT (info);
  /* Components are R G B or Y Cb Cr in this order, however the format lays them out. */
  for (guint i = 0; i < MIN (GST_VIDEO_FRAME_N_COMPONENTS (frame), 3); i++)
    view->planes[i] = (NfPlane){ .data = GST_VIDEO_FRAME_COMP_DATA (frame, i),
                                 .stride = GST_VIDEO_FRAME_COMP_STRIDE (frame, i),
                                 .step = GST_VIDEO_FRAME_COMP_PSTRIDE (frame, i) };
  /* GST_VIDEO_FRAME_COMP_HEIGHT() does not count the row of chroma more that such a frame may have, before
   * which memory that its GstVideoMeta has cropped may end. */
  view->interlaced = GST_VIDEO_INFO_IS_YUV (info) && GST_VIDEO_INFO_IS_INTERLACED (info);
  view->interlaced = view->interlaced && has_chroma (frame, view);
}

void
gst_flow_copy_frame_flags (GstBuffer *to, GstBuffer *from)
{
  const guint mask = (guint)GST_BUFFER_FLAG_CORRUPTED | (guint)GST_VIDEO_BUFFER_FLAG_INTERLACED
                     | (guint)GST_VIDEO_BUFFER_FLAG_TFF | (guint)GST_VIDEO_BUFFER_FLAG_RFF
                     | (guint)GST_VIDEO_BUFFER_FLAG_ONEFIELD;
  GST_BUFFER_FLAG_UNSET (to, mask); /* a pool's buffer may still have another frame's */
  GST_BUFFER_FLAG_SET (to, GST_BUFFER_FLAGS (from) & mask);
}

void
gst_flow_frame_fill_padding (GstVideoFrame *frame, const NfFrame *view)
{
  if (GST_VIDEO_FRAME_COMP_PSTRIDE (frame, 0) != 4)
    return;
  gint at = 0 + 1 + 2 + 3; /* where no component is */
  for (guint i = 0; i < GST_VIDEO_FRAME_N_COMPONENTS (frame); i++)
    at -= GST_VIDEO_FRAME_COMP_POFFSET (frame, i);
  guint8 *row = (guint8 *)GST_VIDEO_FRAME_PLANE_DATA (frame, 0) + at;
  for (guint y = 0; y < view->height; y++, row += GST_VIDEO_FRAME_PLANE_STRIDE (frame, 0))
    for (guint x = 0; x < view->width; x++)
      row[4 * x] = 255;
}

/* Latents */

gsize
gst_flow_latent_info_size (const GstFlowLatentInfo *info)
{
  return nf_grid_latents (&info->grid) * (info->half ? sizeof (guint16) : sizeof (float))
         + (info->frames ? info->actions * sizeof (float) + 2 * sizeof (guint32) : 0);
}

void
gst_flow_latent_info_set_model (GstFlowLatentInfo *info, const NfConfig *config)
{
  info->frames = config->frames;
  info->context = config->frames / 2;
  info->actions = config->action_dim;
  info->controls = config->controls;
}

void
gst_flow_latent_write_tail (const GstFlowLatentInfo *info, guint8 *data, const float *action,
                            const GstFlowLatentTail *tail)
{
  const gsize size = info->actions * sizeof (float);
  data += nf_grid_latents (&info->grid) * sizeof (float);
  if (action)
    memcpy (data, action, size);
  else
    memset (data, 0, size);
  GST_WRITE_UINT32_LE (data + size, tail->index);
  GST_WRITE_UINT32_LE (data + size + sizeof (guint32), tail->follows << 1 | (tail->drawn ? 1 : 0));
}

void
gst_flow_latent_read_tail (const GstFlowLatentInfo *info, const guint8 *data, float *action,
                           GstFlowLatentTail *tail)
{
  const gsize size = info->actions * sizeof (float);
  data += nf_grid_latents (&info->grid) * sizeof (float);
  if (action)
    memcpy (action, data, size);
  const guint32 word = GST_READ_UINT32_LE (data + size + sizeof (guint32));
  *tail = (GstFlowLatentTail){ GST_READ_UINT32_LE (data + size), word >> 1, word & 1 };
}

/* Corrections begin with four words, as each of them has: these two, how many follow, and 0. */
#define CORRECTION_BYTES 16
#define CORRECTIONS_MARK_1 0x636c666eu /* "nflc" */
#define CORRECTIONS_MARK_2 0x3174636fu /* "oct1" */

gboolean
gst_flow_latent_info_has_corrections (const GstFlowLatentInfo *info)
{
  return !info->half && !info->tensors;
}

void
gst_flow_latent_append_corrections (GstBuffer *buffer, const NfCorrections *corrections)
{
  if (corrections->n == 0)
    return;
  const gsize size = (corrections->n + 1) * CORRECTION_BYTES;
  guint8 *data = g_malloc (size), *at = data;
  GST_WRITE_UINT32_LE (at, CORRECTIONS_MARK_1);
  GST_WRITE_UINT32_LE (at + 4, CORRECTIONS_MARK_2);
  GST_WRITE_UINT32_LE (at + 8, (guint32)corrections->n);
  GST_WRITE_UINT32_LE (at + 12, 0);
  for (gsize i = 0; i < corrections->n; i++)
    {
      const NfCorrection *item = &corrections->items[i];
      at += CORRECTION_BYTES;
      GST_WRITE_UINT32_LE (at, item->sample);
      GST_WRITE_UINT32_LE (at + 4, item->block);
      GST_WRITE_UINT32_LE (at + 8, item->place);
      GST_WRITE_FLOAT_LE (at + 12, item->value);
    }
  gst_buffer_append_memory (buffer, gst_memory_new_wrapped (0, data, size, 0, size, data, g_free));
}

gboolean
gst_flow_latent_read_corrections (const GstFlowLatentInfo *info, const guint8 *data, gsize size,
                                  GArray *items)
{
  const gsize latents = gst_flow_latent_info_size (info);
  if (items)
    g_array_set_size (items, 0);
  if (size == latents)
    return TRUE;
  if (!gst_flow_latent_info_has_corrections (info) || size < latents + CORRECTION_BYTES)
    return FALSE;
  const guint8 *at = data + latents;
  const gsize n = GST_READ_UINT32_LE (at + 8);
  if (GST_READ_UINT32_LE (at) != CORRECTIONS_MARK_1 || GST_READ_UINT32_LE (at + 4) != CORRECTIONS_MARK_2
      || size != latents + (n + 1) * CORRECTION_BYTES)
    return FALSE;
  for (gsize i = 0; items && i < n; i++)
    {
      at += CORRECTION_BYTES;
      const NfCorrection item = { GST_READ_UINT32_LE (at), GST_READ_UINT32_LE (at + 4),
                                  GST_READ_UINT32_LE (at + 8), GST_READ_FLOAT_LE (at + 12) };
      g_array_append_val (items, item);
    }
  return TRUE;
}

guint32
gst_flow_latent_mark (const GstFlowLatentInfo *info, const guint8 *data)
{
  const gsize size = gst_flow_latent_info_size (info);
  guint64 hash = size;
  for (gsize at = 0; at + sizeof (guint32) <= size; at += sizeof (guint32))
    {
      /* as of splitmix64 */
      hash = (hash ^ GST_READ_UINT32_LE (data + at)) * G_GUINT64_CONSTANT (0xbf58476d1ce4e5b9);
      hash ^= hash >> 29;
    }
  return MAX ((guint32)(hash >> 33), 1);
}

gboolean
gst_flow_check_size (const NfConfig *config, guint width, guint height, GError **error)
{
  if (!config->frames || (width == nf_config_columns (config) && height == nf_config_rows (config)))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "a video of %ux%u pixels does not fit the model of videos, which takes %ux%u only; put "
               "videoscale before",
               width, height, nf_config_columns (config), nf_config_rows (config));
  return FALSE;
}

/* Of a field that is there. */
static char *
describe_field (const GstStructure *structure, const char *field)
{
  const GValue *value = gst_structure_get_value (structure, field);
  const gboolean list = GST_VALUE_HOLDS_LIST (value);
  g_autoptr (GString) text = g_string_new (NULL);
  for (guint i = 0; i < (list ? gst_value_list_get_size (value) : 1); i++)
    {
      g_autofree char *part = gst_value_serialize (list ? gst_value_list_get_value (value, i) : value);
      g_string_append_printf (text, "%s%s", i ? ", " : "", part ? part : "unreadable");
    }
  return nf_shorten (text->str);
}

gboolean
gst_flow_check_format (const NfConfig *config, GstVideoFormat format, GError **error)
{
  guint n;
  const GstVideoFormat *formats = gst_flow_video_formats (config->layout, &n);
  for (guint i = 0; i < n; i++)
    if (formats[i] == format)
      return TRUE;
  g_autoptr (GstCaps) caps = gst_flow_video_caps (config);
  g_autofree char *names = describe_field (gst_caps_get_structure (caps, 0), "format");
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
               "video of format %s does not fit the model, which takes %s only; put videoconvert before",
               gst_video_format_to_string (format), names);
  return FALSE;
}

/* The media type at I of CAPS, with the memory that it is in unless that is the usual one. */
static char *
describe_type (const GstCaps *caps, guint i)
{
  const GstCapsFeatures *features = gst_caps_get_features (caps, i);
  const char *name = gst_structure_get_name (gst_caps_get_structure (caps, i));
  if (gst_caps_features_is_equal (features, GST_CAPS_FEATURES_MEMORY_SYSTEM_MEMORY))
    return g_strdup (name);
  g_autofree char *memory = gst_caps_features_to_string (features);
  return g_strdup_printf ("%s(%s)", name, memory);
}

/* The names of fields without a value that both have. */
static GStrv
list_differences (const GstStructure *made, const GstStructure *wanted)
{
  g_autoptr (GStrvBuilder) names = g_strv_builder_new ();
  for (gint i = 0; i < gst_structure_n_fields (made); i++)
    {
      const char *name = gst_structure_nth_field_name (made, (guint)i);
      const GValue *other = gst_structure_get_value (wanted, name);
      if (other && !gst_value_intersect (NULL, gst_structure_get_value (made, name), other))
        g_strv_builder_add (names, name);
    }
  return g_strv_builder_end (names);
}

/* What changes FIELD of raw video, if an element does. */
static const char *
find_converter (const char *field)
{
  static const char *const converters[][2] = {
    { "format", "videoconvert" }, { "colorimetry", "videoconvert" }, { "chroma-site", "videoconvert" },
    { "width", "videoscale" },    { "height", "videoscale" },        { "pixel-aspect-ratio", "videoscale" },
    { "framerate", "videorate" },
  };
  for (guint i = 0; i < G_N_ELEMENTS (converters); i++)
    if (g_str_equal (field, converters[i][0]))
      return converters[i][1];
  return NULL;
}

char *
gst_flow_describe_unwanted (const GstCaps *made, const GstCaps *wanted)
{
  g_autofree char *type = describe_type (made, 0), *other_type = NULL;
  g_auto (GStrv) fields = NULL;
  const GstStructure *ours = NULL, *theirs = NULL;
  gboolean same_type = FALSE;

  /* those of either that are nearest to each other */
  for (guint w = 0; w < gst_caps_get_size (wanted); w++)
    for (guint m = 0; m < gst_caps_get_size (made); m++)
      {
        g_autofree char *a = describe_type (made, m), *b = describe_type (wanted, w);
        const GstStructure *from = gst_caps_get_structure (made, m), *to = gst_caps_get_structure (wanted, w);
        if (!g_str_equal (a, b))
          {
            if (!other_type)
              other_type = g_steal_pointer (&b);
            continue;
          }
        same_type = TRUE;
        g_auto (GStrv) names = list_differences (from, to);
        if (*names && (!fields || g_strv_length (names) < g_strv_length (fields)))
          {
            g_strfreev (fields);
            fields = g_steal_pointer (&names);
            ours = from;
            theirs = to;
          }
      }

  const gboolean video = g_str_has_prefix (type, "video/x-raw");
  gboolean others = !fields || !video;
  g_autoptr (GString) advice = g_string_new (NULL);
  GString *text = g_string_new (NULL);
  g_string_printf (text,
                   "What follows does not take the %s that the model makes: ", video ? "video" : "latents");
  for (guint i = 0; fields && fields[i]; i++)
    {
      g_autofree char *value = describe_field (ours, fields[i]), *other = describe_field (theirs, fields[i]);
      g_string_append_printf (text, "%s%s %s, but %s is wanted", i ? ", and " : "", fields[i], value, other);
      const char *element = find_converter (fields[i]);
      others |= !element;
      if (video && element && !strstr (advice->str, element))
        g_string_append_printf (advice, "%s%s", advice->len ? " and " : "", element);
    }
  if (!same_type && other_type)
    g_string_append_printf (text, "%s, but %s is wanted", type, other_type);
  else if (!fields)
    g_string_append (text, gst_caps_is_empty (wanted)
                               ? "it takes nothing at all, as branches that want different things do"
                               : "it does not say what it wants");
  if (advice->len)
    g_string_append_printf (text, "; put %s behind", advice->str);
  if (others)
    g_string_append (text, "; change what the caps before the next element ask for");
  return g_string_free (text, FALSE);
}

GstCaps *
gst_flow_latent_info_to_caps (const GstFlowLatentInfo *info, const NfConfig *config, const char *digest)
{
  const NfGrid *grid = &info->grid;
  GstCaps *caps;

  if (info->tensors)
    {
      /* Four dimensions, always: NNStreamer compares the text. */
      g_autofree char *dimensions
          = g_strdup_printf ("%u:%u:%u:1", grid->features, grid->grid_width, grid->grid_height);
      caps = gst_caps_new_simple (GST_FLOW_TENSORS_MIME, "format", G_TYPE_STRING, "static", "num_tensors",
                                  G_TYPE_INT, 1, "framerate", GST_TYPE_FRACTION, info->fps_n, info->fps_d,
                                  "dimensions", G_TYPE_STRING, dimensions, "types", G_TYPE_STRING,
                                  info->half ? "float16" : "float32", NULL);
    }
  else
    caps = gst_caps_new_simple (GST_FLOW_LATENT_MIME, "latent-format", G_TYPE_STRING,
                                info->half ? "F16LE" : "F32LE", "framerate", GST_TYPE_FRACTION, info->fps_n,
                                info->fps_d, NULL);

  gst_caps_set_simple (caps, "width", G_TYPE_INT, (gint)info->width, "height", G_TYPE_INT, (gint)info->height,
                       "pixel-layout", G_TYPE_STRING, nf_pixel_layout_name (config->layout), "tile-size",
                       G_TYPE_INT, (gint)config->img_size, "patch-size", G_TYPE_INT, (gint)config->patch_size,
                       "tiles-x", G_TYPE_INT, (gint)grid->tiles_x, "tiles-y", G_TYPE_INT, (gint)grid->tiles_y,
                       "grid-width", G_TYPE_INT, (gint)grid->grid_width, "grid-height", G_TYPE_INT,
                       (gint)grid->grid_height, "features", G_TYPE_INT, (gint)grid->features, "model-digest",
                       G_TYPE_STRING, digest, NULL);
  if (info->frames)
    gst_caps_set_simple (caps, "frames", G_TYPE_INT, (gint)info->frames, "context", G_TYPE_INT,
                         (gint)info->context, "actions", G_TYPE_INT, (gint)info->actions, NULL);
  if (info->precision)
    gst_caps_set_simple (caps, "precision", G_TYPE_STRING, info->precision, NULL);
  if (info->precision && *info->arithmetic)
    gst_caps_set_simple (caps, "multiplied-by", G_TYPE_STRING, info->arithmetic, NULL);
  if (*info->text)
    gst_caps_set_simple (caps, "text-digest", G_TYPE_STRING, info->text, NULL);
  if (info->drawn)
    gst_caps_set_simple (caps, "drawn", G_TYPE_BOOLEAN, TRUE, NULL);
  if (info->pixel_format != GST_VIDEO_FORMAT_UNKNOWN)
    gst_caps_set_simple (caps, "pixel-format", G_TYPE_STRING, gst_video_format_to_string (info->pixel_format),
                         NULL);
  return caps;
}

const char *
gst_flow_find_precision (const char *name)
{
  const char *const *known = nf_device_precisions ();
  while (*known && g_strcmp0 (*known, name) != 0)
    known++;
  return *known;
}

gboolean
gst_flow_parse_dimensions (const char *text, guint64 dims[3])
{
  g_auto (GStrv) parts = g_strsplit (text, ":", MAX_RANK + 1);
  const guint rank = g_strv_length (parts);

  dims[0] = dims[1] = dims[2] = 1;
  if (rank == 0 || rank > MAX_RANK)
    return FALSE;
  for (guint i = 0; i < rank; i++)
    {
      guint64 value;
      if (!g_ascii_string_to_unsigned (parts[i], 10, 1, G_MAXINT32, &value, NULL) || (i > 2 && value != 1))
        return FALSE;
      if (i < 3)
        dims[i] = value;
    }
  return TRUE;
}

/* Reading latent caps */

/* Returns FALSE, with %NF_ERROR_FORMAT. */
static gboolean G_GNUC_PRINTF (2, 3) refuse (GError **error, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  g_autofree char *text = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error_literal (error, NF_ERROR, NF_ERROR_FORMAT, text);
  return FALSE;
}

static gboolean
read_tensors (const GstStructure *structure, const NfConfig *config, GstFlowLatentInfo *info,
              const char *model, GError **error)
{
  const char *dimensions = gst_structure_get_string (structure, "dimensions");
  const char *types = gst_structure_get_string (structure, "types");
  const guint columns = nf_config_columns (config) / config->patch_size,
              rows = nf_config_rows (config) / config->patch_size;
  guint64 dims[3];
  gint n;

  if (!dimensions || !types || !gst_structure_get_int (structure, "num_tensors", &n) || n != 1)
    return refuse (error, "the tensors of %s need num_tensors=1, dimensions and types in their caps", model);
  if (!g_str_equal (types, "float32") && !g_str_equal (types, "float16"))
    {
      g_autofree char *shown = nf_shorten (types);
      return refuse (error, "latents are tensors of float32 or float16, not %s", shown);
    }
  if (!gst_flow_parse_dimensions (dimensions, dims))
    {
      g_autofree char *shown = nf_shorten (dimensions);
      return refuse (error,
                     "\"%s\" are not the dimensions of latents, which are FEATURES:GRID-WIDTH:GRID-HEIGHT:1",
                     shown);
    }
  if (dims[0] != nf_config_features (config) || dims[1] % columns != 0 || dims[2] % rows != 0)
    return refuse (
        error,
        "tensors of %s do not fit the model %s, which needs %u features and a grid in multiples of %ux%u",
        dimensions, model, nf_config_features (config), columns, rows);
  info->half = g_str_equal (types, "float16");
  info->width = (guint)MIN (dims[1] * config->patch_size, G_MAXINT);
  info->height = (guint)MIN (dims[2] * config->patch_size, G_MAXINT);
  return TRUE;
}

/* That what pads ask of caps is there: they let in caps without it, so that these are refused with a reason.
 */
static gboolean
check_complete (const GstStructure *structure, const GstFlowLatentInfo *info, GError **error)
{
  static const char *const latents[] = { "latent-format", "width", "height", "framerate", NULL },
                           *const tensors[]
                           = { "format", "num_tensors", "dimensions", "types", "framerate", NULL };
  g_autoptr (GStrvBuilder) lacking = g_strv_builder_new ();
  for (const char *const *field = info->tensors ? tensors : latents; *field; field++)
    if (!gst_structure_has_field (structure, *field))
      g_strv_builder_add (lacking, *field);
  g_auto (GStrv) names = g_strv_builder_end (lacking);
  if (!*names)
    return TRUE;
  g_autofree char *list = g_strjoinv (", ", names);
  return refuse (error, "the caps of the %s lack %s: add what is missing where they are set%s",
                 info->tensors ? "tensors" : "latents", list,
                 gst_structure_has_field (structure, "framerate") ? ""
                                                                  : " (framerate=0/1 is a variable one)");
}

/* In which form the numbers are, and that they are the model's. */
static gboolean
read_format (const GstStructure *structure, const NfConfig *config, const char *digest, const char *model,
             GstFlowLatentInfo *info, GError **error)
{
  const char *format = gst_structure_get_string (structure, "latent-format");
  const char *stated = gst_structure_get_string (structure, "model-digest");

  info->tensors = !format
                  && (gst_structure_has_field (structure, "dimensions")
                      || gst_structure_has_field (structure, "num_tensors")
                      || gst_structure_has_field (structure, "types"));
  if (!check_complete (structure, info, error))
    return FALSE;
  if (stated && !g_str_equal (stated, digest))
    {
      g_autofree char *shown = nf_shorten (stated);
      return refuse (error,
                     "the latents are of the model %.16s, but this element has the model %s; load the one "
                     "that made them",
                     shown, model);
    }
  if (info->tensors)
    return read_tensors (structure, config, info, model, error);
  if (!format || (!g_str_equal (format, "F32LE") && !g_str_equal (format, "F16LE")))
    {
      g_autofree char *shown = describe_field (structure, "latent-format");
      return refuse (error, "latent caps need latent-format F32LE or F16LE, not %s", shown);
    }
  if (!stated)
    return refuse (error, "latent caps without model-digest: nothing says which model made them");
  info->half = g_str_equal (format, "F16LE");
  return TRUE;
}

/* What a model of videos has more, after read_format(). */
static gboolean
read_window (const GstStructure *structure, const NfConfig *config, const char *model,
             GstFlowLatentInfo *info, GError **error)
{
  gint context;
  gst_flow_latent_info_set_model (info, config);
  if (info->frames && (info->tensors || info->half))
    return refuse (error,
                   "the latents of the model of videos %s are " GST_FLOW_LATENT_MIME
                   " of latent-format F32LE: what is not exact would be lost by the next frames, too",
                   model);
  if (!info->frames || !gst_structure_get_int (structure, "context", &context))
    return TRUE;
  if (context < 0 || context >= (gint)info->frames)
    return refuse (error, "the latents have a context of %d frames, the model %s has %u", context, model,
                   info->frames);
  info->context = context;
  return TRUE;
}

/* The size and rate of the video. Tensors without a size keep the one that read_tensors() found. */
static gboolean
read_video (const GstStructure *structure, const NfConfig *config, GstFlowLatentInfo *info, GError **error)
{
  g_autoptr (GError) size_error = NULL;
  gint width = info->width, height = info->height;
  gst_structure_get_int (structure, "width", &width);
  gst_structure_get_int (structure, "height", &height);
  info->width = MAX (width, 0);
  info->height = MAX (height, 0);
  if (!nf_grid_init (&info->grid, config, info->width, info->height, &size_error)
      || !gst_flow_check_size (config, info->width, info->height, &size_error))
    return refuse (error, "the caps of the latents are wrong: %s", size_error->message);
  if (g_strcmp0 (gst_structure_get_string (structure, "interlace-mode"), "alternate") == 0)
    return refuse (error, "the latents have interlace-mode alternate, fields in buffers of their own; "
                          "each buffer of latents is of a whole frame");
  if (!gst_structure_get_fraction (structure, "framerate", &info->fps_n, &info->fps_d))
    info->fps_d = 1;
  const char *format = gst_structure_get_string (structure, "pixel-format");
  info->pixel_format = format ? gst_video_format_from_string (format) : GST_VIDEO_FORMAT_UNKNOWN;
  return TRUE;
}

/* Nothing, which is unknown, in the place of what cannot be meant. */
static void
copy_word (char *to, gsize size, const char *text)
{
  g_strlcpy (to, nf_is_word (text) && strlen (text) < size ? text : "", size);
}

/* How the latents were made, as far as it is said. */
static gboolean
read_making (const GstStructure *structure, GstFlowLatentInfo *info, GError **error)
{
  if (gst_structure_has_field (structure, "drawn")
      && !gst_structure_get_boolean (structure, "drawn", &info->drawn))
    {
      g_autofree char *shown = describe_field (structure, "drawn");
      return refuse (error, "the latents have drawn %s, which is true or false", shown);
    }
  const char *precision = gst_structure_get_string (structure, "precision");
  info->precision = gst_flow_find_precision (precision);
  if (gst_structure_has_field (structure, "precision") && !info->precision)
    {
      g_autofree char *known = g_strjoinv (", ", (char **)nf_device_precisions ()),
                      *shown = precision ? nf_shorten (precision) : describe_field (structure, "precision");
      return refuse (error, "the latents have precision %s, which is unknown; there are: %s", shown, known);
    }
  copy_word (info->arithmetic, sizeof info->arithmetic,
             gst_structure_get_string (structure, "multiplied-by"));
  copy_word (info->text, sizeof info->text, gst_structure_get_string (structure, "text-digest"));
  return TRUE;
}

/* A field that is there must say what we would write ourselves. */
static gboolean
check_field (const GstStructure *stated, const GstStructure *ours, const char *field, const char *model,
             GError **error)
{
  const GValue *a = gst_structure_get_value (stated, field), *b = gst_structure_get_value (ours, field);
  if (!a || (b && gst_value_compare (a, b) == GST_VALUE_EQUAL))
    return TRUE;
  g_autofree char *was = describe_field (stated, field);
  g_autofree char *needed = b ? gst_value_serialize (b) : NULL;
  return refuse (error, "the latents have %s %s, but the model %s needs %s", field, was, model,
                 needed ? needed : "none, being one of pictures");
}

/* What follows from all the rest, which INFO has. */
static gboolean
check_rest (const GstStructure *structure, const GstFlowLatentInfo *info, const NfConfig *config,
            const char *digest, const char *model, GError **error)
{
  static const char *const fields[]
      = { "pixel-layout", "tile-size", "patch-size", "tiles-x", "tiles-y", "grid-width",
          "grid-height",  "features",  "frames",     "actions", "context" };
  g_autoptr (GstCaps) own = gst_flow_latent_info_to_caps (info, config, digest);
  const GstStructure *ours = gst_caps_get_structure (own, 0);
  for (guint i = 0; i < G_N_ELEMENTS (fields); i++)
    if (!check_field (structure, ours, fields[i], model, error))
      return FALSE;

  if (!info->tensors)
    return TRUE;
  const char *dimensions = gst_structure_get_string (structure, "dimensions");
  guint64 dims[3];
  gst_flow_parse_dimensions (dimensions, dims);
  return (dims[1] == info->grid.grid_width && dims[2] == info->grid.grid_height)
         || refuse (
             error, "tensors of %s disagree with a video of %ux%u, whose grid is %ux%u for the model %s",
             dimensions, info->width, info->height, info->grid.grid_width, info->grid.grid_height, model);
}

gboolean
gst_flow_latent_info_from_caps (GstFlowLatentInfo *info, const GstCaps *caps, const NfConfig *config,
                                const char *digest, const char *model, GError **error)
{
  const GstStructure *structure = gst_caps_get_structure (caps, 0);
  memset (info, 0, sizeof *info);
  return read_format (structure, config, digest, model, info, error)
         && read_window (structure, config, model, info, error) && read_video (structure, config, info, error)
         && read_making (structure, info, error)
         && check_rest (structure, info, config, digest, model, error);
}
