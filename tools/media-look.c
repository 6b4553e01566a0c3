/* normflow: how the samples of a video are meant. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-look.h"

#include <libavutil/parseutils.h>
#include <libavutil/pixdesc.h>
#include <string.h>

#define ASPECT "sample_aspect_ratio"
#define FIELDS "field_order"

gboolean
nf_look_is_rgb (enum AVPixelFormat format)
{
  const AVPixFmtDescriptor *d = av_pix_fmt_desc_get (format);

  return d && (d->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL));
}

/* The "J" formats are the plain ones with full range. */
gboolean
nf_look_is_full (const AVFrame *frame)
{
  switch ((int)frame->format)
    {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ444P:
      return TRUE;
    default:
      return frame->color_range == AVCOL_RANGE_JPEG;
    }
}

static void
add (GString *look, const char *key, const char *value)
{
  if (value)
    g_string_append_printf (look, "%s%s=%s", look->len ? ":" : "", key, value);
}

static const struct
{
  enum AVFieldOrder order;
  const char *name;
} field_orders[]
    = { { AV_FIELD_TT, "tt" }, { AV_FIELD_BB, "bb" }, { AV_FIELD_TB, "tb" }, { AV_FIELD_BT, "bt" } };

/* NULL if there are no fields. */
static const char *
field_order_name (enum AVFieldOrder order)
{
  for (gsize i = 0; i < G_N_ELEMENTS (field_orders); i++)
    if (field_orders[i].order == order)
      return field_orders[i].name;
  return NULL;
}

/* AV_FIELD_UNKNOWN if there is none of that name. */
static enum AVFieldOrder
field_order_from_name (const char *name)
{
  for (gsize i = 0; i < G_N_ELEMENTS (field_orders); i++)
    if (!strcmp (field_orders[i].name, name))
      return field_orders[i].order;
  return AV_FIELD_UNKNOWN;
}

/* Range and matrix of what conversion from RGB makes: that of swscale unless it is told. */
static void
set_usual (int *range, int *matrix)
{
  *range = AVCOL_RANGE_MPEG;
  *matrix = AVCOL_SPC_SMPTE170M;
}

static void
add_aspect (GString *look, AVRational aspect)
{
  g_autofree char *value = g_strdup_printf ("%d/%d", aspect.num, aspect.den);

  if (aspect.num > 0 && aspect.den > 0 && aspect.num != aspect.den)
    add (look, ASPECT, value);
}

char *
nf_look_of_frame (const AVFrame *frame, AVRational aspect, enum AVFieldOrder fields, NfPixelLayout layout)
{
  const AVPixFmtDescriptor *d = av_pix_fmt_desc_get (frame->format);
  const gboolean rgb = nf_look_is_rgb (frame->format), grey = d && d->nb_components < 3,
                 same = d && !rgb && !grey && d->log2_chroma_w == 1 && d->log2_chroma_h == 1;
  GString *look = g_string_new (NULL);
  int range = nf_look_is_full (frame) ? AVCOL_RANGE_JPEG : frame->color_range, matrix = frame->colorspace,
      siting = frame->chroma_location;

  if (rgb && layout == NF_PIXELS_YUV420)
    set_usual (&range, &matrix);
  if (layout != NF_PIXELS_RGB && !(layout == NF_PIXELS_GRAY && rgb) && range != AVCOL_RANGE_UNSPECIFIED)
    add (look, "color_range", av_color_range_name (range));
  if (layout == NF_PIXELS_YUV420 && !grey && matrix != AVCOL_SPC_UNSPECIFIED && matrix != AVCOL_SPC_RGB)
    add (look, "colorspace", av_color_space_name (matrix));
  if (frame->color_primaries != AVCOL_PRI_UNSPECIFIED)
    add (look, "color_primaries", av_color_primaries_name (frame->color_primaries));
  if (frame->color_trc != AVCOL_TRC_UNSPECIFIED)
    add (look, "color_trc", av_color_transfer_name (frame->color_trc));
  if (layout == NF_PIXELS_YUV420 && same && siting != AVCHROMA_LOC_UNSPECIFIED)
    add (look, "chroma_sample_location", av_chroma_location_name (siting));
  add_aspect (look, aspect);
  add (look, FIELDS, field_order_name (fields));
  return g_string_free (look, FALSE);
}

/* One KEY=VALUE. */
static gboolean
set_one (AVCodecContext *codec, const char *key, const char *value)
{
  int number = -1;

  if (!strcmp (key, "color_range"))
    codec->color_range = number = av_color_range_from_name (value);
  else if (!strcmp (key, "colorspace"))
    codec->colorspace = number = av_color_space_from_name (value);
  else if (!strcmp (key, "color_primaries"))
    codec->color_primaries = number = av_color_primaries_from_name (value);
  else if (!strcmp (key, "color_trc"))
    codec->color_trc = number = av_color_transfer_from_name (value);
  else if (!strcmp (key, "chroma_sample_location"))
    codec->chroma_sample_location = number = av_chroma_location_from_name (value);
  else if (!strcmp (key, FIELDS))
    {
      codec->field_order = field_order_from_name (value);
      number = codec->field_order == AV_FIELD_UNKNOWN ? -1 : 0;
    }
  else if (!strcmp (key, ASPECT))
    {
      AVRational *aspect = &codec->sample_aspect_ratio;

      number = av_parse_ratio (aspect, value, G_MAXINT, 0, NULL);
      if (aspect->num <= 0 || aspect->den <= 0)
        number = -1;
    }
  return number >= 0;
}

char *
nf_look_scale (const char *look, guint from_width, guint from_height, guint width, guint height)
{
  g_auto (GStrv) parts = g_strsplit (look ? look : "", ":", -1);
  GString *scaled = g_string_new (NULL);
  AVRational aspect = { 1, 1 };

  for (guint i = 0; parts[i]; i++)
    {
      char *value = strchr (parts[i], '=');

      if (value)
        *value++ = 0;
      if (!strcmp (parts[i], ASPECT) && value)
        (void)av_parse_ratio (&aspect, value, G_MAXINT, 0, NULL);
      else if (strcmp (parts[i], FIELDS) || height == from_height)
        add (scaled, parts[i], value);
    }
  av_reduce (&aspect.num, &aspect.den, (gint64)aspect.num * from_width * height,
             (gint64)aspect.den * from_height * width, G_MAXINT);
  add_aspect (scaled, aspect);
  return g_string_free (scaled, FALSE);
}

gboolean
nf_look_give (const char *look, NfPixelLayout layout, AVCodecContext *codec, GError **error)
{
  g_auto (GStrv) parts = g_strsplit (look ? look : "", ":", -1);

  for (guint i = 0; parts[i]; i++)
    {
      char *value = strchr (parts[i], '=');

      if (value)
        *value++ = 0;
      if (!value || !set_one (codec, parts[i], value))
        {
          g_autofree char *part = g_strconcat (parts[i], value ? "=" : NULL, value, NULL),
                          *shown = nf_shorten (look), *shown_part = nf_shorten (part);

          g_set_error (error, NF_ERROR, NF_ERROR_FORMAT,
                       "the look of the samples is \"%s\", of which \"%s\" is not known", shown, shown_part);
          return FALSE;
        }
    }
  if (layout == NF_PIXELS_RGB && !nf_look_is_rgb (codec->pix_fmt))
    {
      int range, matrix;

      set_usual (&range, &matrix);
      codec->color_range = range;
      codec->colorspace = matrix;
    }
  return TRUE;
}
