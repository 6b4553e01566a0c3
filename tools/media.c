/* normflow: media files through libav. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media.h"
#include "media-look.h"
#include "nf-error.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#define MAX_SIDE 16384
#define MAX_PIXELS (1 << 27)
#define MAX_RATE_TERM 1000000 /* of a rate that is measured, as a fraction */
#define MAX_DEPTH 32
#define READ_PAST 64 /* bytes behind its planes that swscale may read */
/* The same bits everywhere; and pixels of RGB by themselves, not in pairs of one colour, the last of which
 * may lie behind a row. */
#define SWS_EXACT (SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP)
#define SWS_FLAGS (SWS_BICUBIC | SWS_EXACT)

static gboolean
av_fail (GError **error, int code, int status, const char *path, const char *what)
{
  char text[AV_ERROR_MAX_STRING_SIZE] = "";

  av_strerror (status, text, sizeof text);
  g_set_error (error, NF_ERROR, code, "%s: %s: %s", path, what, text);
  return FALSE;
}

/* Errors reach people as GError; libav's own printing would only garble progress lines. */
static void
media_init (void)
{
  static gsize once = 0;

  if (g_once_init_enter (&once))
    {
      av_log_set_level (AV_LOG_QUIET);
      g_once_init_leave (&once, 1);
    }
}

/* Pictures */

guint
nf_picture_planes (NfPixelLayout layout)
{
  return layout == NF_PIXELS_GRAY ? 1 : 3;
}

void
nf_picture_extent (NfPixelLayout layout, guint plane, guint width, guint height, guint *plane_width,
                   guint *plane_height)
{
  gboolean half = layout == NF_PIXELS_YUV420 && plane > 0;

  *plane_width = half ? (width + 1) / 2 : width;
  *plane_height = half ? (height + 1) / 2 : height;
}

static void
picture_clear (gpointer data)
{
  NfPicture *picture = data;

  g_free (picture->data);
}

NfPicture *
nf_picture_new (NfPixelLayout layout, guint width, guint height)
{
  NfPicture *picture = g_atomic_rc_box_new0 (NfPicture);
  gsize offset = 0;

  picture->layout = layout;
  picture->frame.width = width;
  picture->frame.height = height;
  picture->seconds = NAN;
  picture->size = nf_frame_samples (layout, width, height);
  picture->data = g_malloc (picture->size + READ_PAST);
  memset (picture->data + picture->size, 0, READ_PAST);
  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      guint w, h;

      nf_picture_extent (layout, i, width, height, &w, &h);
      picture->frame.planes[i] = (NfPlane){ picture->data + offset, (gint)w, 1 };
      offset += (gsize)w * h;
    }
  return picture;
}

NfPicture *
nf_picture_new_like (const NfPicture *like)
{
  NfPicture *picture = nf_picture_new (like->layout, like->frame.width, like->frame.height);
  picture->matrix = like->matrix;
  picture->full = like->full;
  return picture;
}

NfPicture *
nf_picture_ref (NfPicture *picture)
{
  return g_atomic_rc_box_acquire (picture);
}

void
nf_picture_unref (NfPicture *picture)
{
  if (picture)
    g_atomic_rc_box_release_full (picture, picture_clear);
}

static enum AVPixelFormat
layout_format (NfPixelLayout layout)
{
  switch (layout)
    {
    case NF_PIXELS_YUV420:
      return AV_PIX_FMT_YUV420P;
    case NF_PIXELS_GRAY:
      return AV_PIX_FMT_GRAY8;
    default:
      return AV_PIX_FMT_GBRP;
    }
}

/* libav's order of planes: GBR for what we call RGB. */
static void
frame_pointers (NfPixelLayout layout, const NfFrame *frame, guint8 *data[4], int stride[4])
{
  static const guint gbr[3] = { 1, 2, 0 };

  for (guint i = 0; i < 4; i++)
    {
      data[i] = NULL;
      stride[i] = 0;
    }
  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      const NfPlane *plane = &frame->planes[layout == NF_PIXELS_RGB ? gbr[i] : i];

      data[i] = plane->data;
      stride[i] = plane->stride;
    }
}

static void
copy_rows (guint8 *to, gssize to_stride, const guint8 *from, gssize from_stride, gssize from_step,
           guint width, guint height)
{
  for (guint y = 0; y < height; y++, to += to_stride, from += from_stride)
    {
      if (from_step == 1)
        memcpy (to, from, width);
      else
        for (guint x = 0; x < width; x++)
          to[x] = from[x * from_step];
    }
}

/* swscale writes whole vectors, which may be longer than rows that lie one behind the other. So it writes to
 * a frame of libav's, with room at the ends of its rows, from which they are copied. */
static gboolean
convert (struct SwsContext *sws, const guint8 *const *from, const int *from_stride, int from_height,
         const NfPicture *to)
{
  const NfFrame *frame = &to->frame;
  guint8 *data[4];
  int stride[4];
  AVFrame *padded = av_frame_alloc ();
  gboolean good = padded != NULL;

  if (good)
    {
      padded->format = layout_format (to->layout);
      padded->width = (int)frame->width;
      padded->height = (int)frame->height;
      good = av_frame_get_buffer (padded, 0) >= 0
             && sws_scale (sws, from, from_stride, 0, from_height, padded->data, padded->linesize)
                    == padded->height;
    }
  frame_pointers (to->layout, frame, data, stride);
  if (good)
    av_image_copy (data, stride, (const guint8 **)padded->data, padded->linesize, padded->format,
                   padded->width, padded->height);
  av_frame_free (&padded);
  return good;
}

/* A tightly packed copy of a frame with any steps and strides. */
static NfPicture *
picture_from_frame (NfPixelLayout layout, const NfFrame *frame)
{
  NfPicture *picture = nf_picture_new (layout, frame->width, frame->height);

  for (guint i = 0; i < nf_picture_planes (layout); i++)
    {
      guint w, h;

      nf_picture_extent (layout, i, frame->width, frame->height, &w, &h);
      copy_rows (picture->frame.planes[i].data, picture->frame.planes[i].stride, frame->planes[i].data,
                 frame->planes[i].stride, frame->planes[i].step, w, h);
    }
  return picture;
}

/* How pictures are turned to be shown, one of eight ways: column X and row Y of what is shown are column X
 * and row Y of what is stored, or, if SWAPPED, row X and column Y; columns and rows of what is stored are
 * counted from the other end if they are FLIPPED. */
typedef struct
{
  gboolean swapped;
  gboolean columns_flipped;
  gboolean rows_flipped;
} Turn;

/* MATRIX (libavutil/display.h) is NULL for none; other angles than quarters are left alone. */
static Turn
turn_of_matrix (const gint32 *matrix)
{
  const gint32 nearly_0 = 1 << 8; /* of 1 << 16 */
  gint32 a, b, c, d;

  if (!matrix)
    return (Turn){ FALSE };
  a = matrix[0];
  b = matrix[1];
  c = matrix[3];
  d = matrix[4];
  if (ABS (b) < nearly_0 && ABS (c) < nearly_0)
    return (Turn){ FALSE, a < 0, d < 0 };
  if (ABS (a) < nearly_0 && ABS (d) < nearly_0)
    return (Turn){ TRUE, b < 0, c < 0 };
  return (Turn){ FALSE };
}

static gboolean
turns (Turn turn)
{
  return turn.swapped || turn.columns_flipped || turn.rows_flipped;
}

static NfPicture *
turn_picture (const NfPicture *picture, Turn turn)
{
  NfFrame view = picture->frame;

  if (turn.swapped)
    {
      view.width = picture->frame.height;
      view.height = picture->frame.width;
    }
  for (guint i = 0; i < nf_picture_planes (picture->layout); i++)
    {
      const gint step = view.planes[i].step, stride = (gint)view.planes[i].stride,
                 right = turn.columns_flipped ? -step : step, down = turn.rows_flipped ? -stride : stride;
      guint w, h;

      nf_picture_extent (picture->layout, i, picture->frame.width, picture->frame.height, &w, &h);
      view.planes[i].data
          += (right < 0 ? (gssize)(w - 1) * step : 0) + (down < 0 ? (gssize)(h - 1) * stride : 0);
      view.planes[i].step = turn.swapped ? down : right;
      view.planes[i].stride = turn.swapped ? right : down;
    }
  NfPicture *turned = picture_from_frame (picture->layout, &view);
  turned->matrix = picture->matrix;
  turned->full = picture->full;
  return turned;
}

/* Of COLORSPACE, what swscale converts by. */
static const int *
get_matrix (int colorspace)
{
  return sws_getCoefficients (
      colorspace == AVCOL_SPC_UNSPECIFIED || colorspace == AVCOL_SPC_RGB ? SWS_CS_DEFAULT : colorspace);
}

NfPicture *
nf_picture_scale (NfPicture *picture, guint width, guint height, GError **error)
{
  g_autoptr (NfPicture) scaled = NULL;
  struct SwsContext *sws;
  enum AVPixelFormat format = layout_format (picture->layout);
  guint8 *from[4];
  int from_stride[4];
  gboolean good;

  media_init ();
  if (!width || !height || width > MAX_SIDE || height > MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "cannot scale a picture to %u×%u: sides go from 1 to %d", width, height, MAX_SIDE);
      return NULL;
    }
  sws = sws_getContext ((int)picture->frame.width, (int)picture->frame.height, format, (int)width,
                        (int)height, format, SWS_AREA | SWS_EXACT, NULL, NULL, NULL);
  scaled = nf_picture_new (picture->layout, width, height);
  scaled->index = picture->index;
  scaled->seconds = picture->seconds;
  scaled->matrix = picture->matrix;
  scaled->full = picture->full;
  frame_pointers (picture->layout, &picture->frame, from, from_stride);
  good = sws && convert (sws, (const guint8 *const *)from, from_stride, (int)picture->frame.height, scaled);
  sws_freeContext (sws);
  if (!good)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "cannot scale a picture from %u×%u to %u×%u",
                   picture->frame.width, picture->frame.height, width, height);
      return NULL;
    }
  return g_steal_pointer (&scaled);
}

NfPicture *
nf_picture_to_rgb (NfPicture *picture, GError **error)
{
  g_autoptr (NfPicture) rgb = NULL;
  guint width = picture->frame.width, height = picture->frame.height;
  struct SwsContext *sws;
  guint8 *from[4];
  int from_stride[4];
  gboolean good;

  if (picture->layout == NF_PIXELS_RGB)
    return nf_picture_ref (picture);
  rgb = nf_picture_new (NF_PIXELS_RGB, width, height);
  if (picture->layout == NF_PIXELS_GRAY)
    {
      for (guint i = 0; i < 3; i++)
        memcpy (rgb->frame.planes[i].data, picture->data, picture->size);
      return g_steal_pointer (&rgb);
    }
  media_init ();
  sws = sws_getContext ((int)width, (int)height, layout_format (picture->layout), (int)width, (int)height,
                        layout_format (NF_PIXELS_RGB), SWS_FLAGS, NULL, NULL, NULL);
  if (sws)
    {
      const int *matrix = get_matrix (picture->matrix);
      (void)sws_setColorspaceDetails (sws, matrix, picture->full, matrix, 1, 0, 1 << 16, 1 << 16);
    }
  frame_pointers (picture->layout, &picture->frame, from, from_stride);
  good = sws && convert (sws, (const guint8 *const *)from, from_stride, (int)height, rgb);
  sws_freeContext (sws);
  if (!good)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "a picture of %ux%u cannot be converted to RGB",
                   width, height);
      return NULL;
    }
  return g_steal_pointer (&rgb);
}

/* Lists */

static const char *const picture_extensions[]
    = { "png", "jpg", "jpeg", "bmp", "ppm", "pgm", "tif", "tiff", "webp", NULL };
static const char *const video_extensions[]
    = { "mp4", "mkv", "mov", "webm", "avi", "m4v", "mpg", "mpeg", "ts", "m2ts",
        "mts", "ogv", "flv", "wmv",  "3gp", "y4m", "gif", "mxf",  NULL };

static gboolean
has_extension (const char *path, const char *const *extensions)
{
  const char *dot = strrchr (path, '.');
  g_autofree char *lower = NULL;

  if (!dot || strchr (dot, G_DIR_SEPARATOR))
    return FALSE;
  lower = g_ascii_strdown (dot + 1, -1);
  return g_strv_contains (extensions, lower);
}

gboolean
nf_media_has_ending (const char *path, const char *ending)
{
  return has_extension (path, (const char *const[]){ ending, NULL });
}

gboolean
nf_media_is_picture (const char *path)
{
  return has_extension (path, picture_extensions);
}

gboolean
nf_media_is_named (const char *path)
{
  return has_extension (path, video_extensions) || nf_media_is_picture (path);
}

static int
compare_names (gconstpointer a, gconstpointer b)
{
  return strcmp (*(const char *const *)a, *(const char *const *)b);
}

static gboolean
list_folder (const char *folder, guint depth, GPtrArray *files, GError **error)
{
  g_autoptr (GDir) dir = NULL;
  g_autoptr (GError) local = NULL;
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  const char *name;

  if (depth > MAX_DEPTH)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: folders are nested more than %d deep", folder,
                   MAX_DEPTH);
      return FALSE;
    }
  dir = g_dir_open (folder, 0, &local);
  if (!dir)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: the folder cannot be read: %s", folder,
                   local->message);
      return FALSE;
    }
  while ((name = g_dir_read_name (dir)))
    if (name[0] != '.')
      g_ptr_array_add (names, g_build_filename (folder, name, NULL));
  g_ptr_array_sort (names, compare_names);

  for (guint i = 0; i < names->len; i++)
    {
      const char *path = names->pdata[i];

      if (g_file_test (path, G_FILE_TEST_IS_DIR))
        {
          if (!g_file_test (path, G_FILE_TEST_IS_SYMLINK) && !list_folder (path, depth + 1, files, error))
            return FALSE;
        }
      else if (nf_media_is_named (path))
        g_ptr_array_add (files, g_strdup (path));
    }
  return TRUE;
}

GPtrArray *
nf_media_list (const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) files = g_ptr_array_new_with_free_func (g_free);

  for (gsize i = 0; paths && paths[i]; i++)
    {
      guint before = files->len;

      if (!g_file_test (paths[i], G_FILE_TEST_EXISTS))
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "%s: there is no such file or folder", paths[i]);
          return NULL;
        }
      if (!g_file_test (paths[i], G_FILE_TEST_IS_DIR))
        g_ptr_array_add (files, g_strdup (paths[i]));
      else if (!list_folder (paths[i], 0, files, error))
        return NULL;
      if (files->len == before)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "%s: the folder holds no video or picture",
                       paths[i]);
          return NULL;
        }
    }
  return g_steal_pointer (&files);
}

GPtrArray *
nf_media_list_once (const char *const *paths, GError **error)
{
  g_autoptr (GPtrArray) all = nf_media_list (paths, error), files = NULL;
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);

  if (!all)
    return NULL;
  files = g_ptr_array_new_with_free_func (g_free);
  for (guint i = 0; i < all->len; i++)
    {
      g_autofree char *path = g_canonicalize_filename (all->pdata[i], NULL);

      if (g_hash_table_contains (seen, path))
        continue;
      g_hash_table_add (seen, path);
      g_ptr_array_add (files, g_steal_pointer (&path));
    }
  return g_steal_pointer (&files);
}

gboolean
nf_media_is_of_file (const GError *error)
{
  static const int codes[]
      = { NF_ERROR_NOT_FOUND, NF_ERROR_READ, NF_ERROR_FORMAT, NF_ERROR_UNSUPPORTED, NF_ERROR_DATA };

  for (guint i = 0; i < G_N_ELEMENTS (codes); i++)
    if (g_error_matches (error, NF_ERROR, codes[i]))
      return TRUE;
  return FALSE;
}

void
nf_media_left_out_init (NfMediaLeftOut *self, const char *const *paths, const NfMediaInspection *inspection)
{
  self->named = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  for (gsize i = 0; paths && paths[i]; i++)
    g_hash_table_add (self->named, g_canonicalize_filename (paths[i], NULL));
  self->needed = inspection && inspection->needed ? g_hash_table_ref (inspection->needed) : NULL;
  self->reasons = g_ptr_array_new_with_free_func (g_free);
}

void
nf_media_left_out_clear (NfMediaLeftOut *self)
{
  g_clear_pointer (&self->named, g_hash_table_unref);
  g_clear_pointer (&self->needed, g_hash_table_unref);
  g_clear_pointer (&self->reasons, g_ptr_array_unref);
}

static gboolean
is_needed (const NfMediaLeftOut *self, const char *path)
{
  g_autofree char *shown = g_filename_display_name (path);

  return self->needed && g_hash_table_contains (self->needed, shown);
}

gboolean
nf_media_leave_out (NfMediaLeftOut *self, const char *path, GError *wrong, GError **error)
{
  if (!nf_media_is_of_file (wrong) || g_hash_table_contains (self->named, path) || is_needed (self, path))
    {
      g_propagate_error (error, wrong);
      return FALSE;
    }
  g_ptr_array_add (self->reasons, g_strdup (wrong->message));
  g_error_free (wrong);
  return TRUE;
}

gboolean
nf_media_check_left (const NfMediaLeftOut *self, GError **error)
{
  if (self->reasons->len < self->n)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_DATA, "none of the %u files can be used: %s", self->n,
               (const char *)self->reasons->pdata[0]);
  return FALSE;
}

/* Reader */

struct _NfMediaReader
{
  char *path;
  NfPixelLayout layout;
  AVFormatContext *format;
  AVCodecContext *codec;
  AVPacket *packet;
  AVFrame *frame;
  struct SwsContext *sws;
  int stream;
  GArray *times;  /* presentation time of each frame, sorted; NULL until indexed */
  gboolean timed; /* every frame has a time of its own */
  guint64 position;
  gint64 wanted; /* frames before this time are dropped; AV_NOPTS_VALUE if none are */
  gboolean draining;
  gboolean any;
  guint64 damaged;   /* packets */
  guint64 concealed; /* frames of which the decoder made parts up */
  NfPicture *first;  /* decoded by open, for the size */
  char *look;        /* of that one */
  NfMediaInfo info;
};

void
nf_media_reader_free (NfMediaReader *self)
{
  if (!self)
    return;
  nf_picture_unref (self->first);
  sws_freeContext (self->sws);
  av_frame_free (&self->frame);
  av_packet_free (&self->packet);
  avcodec_free_context (&self->codec);
  avformat_close_input (&self->format);
  if (self->times)
    g_array_unref (self->times);
  g_free (self->look);
  g_free (self->path);
  g_free (self);
}

const NfMediaInfo *
nf_media_reader_get_info (NfMediaReader *self)
{
  return &self->info;
}

guint64
nf_media_reader_get_position (NfMediaReader *self)
{
  return self->position;
}

char *
nf_media_reader_describe_damage (NfMediaReader *self)
{
  g_autoptr (GString) text = g_string_new (NULL);
  if (self->damaged)
    g_string_append_printf (text, "%" G_GUINT64_FORMAT " damaged packet%s skipped", self->damaged,
                            self->damaged == 1 ? "" : "s");
  if (self->concealed)
    g_string_append_printf (
        text,
        "%s%" G_GUINT64_FORMAT
        " damaged frame%s: what was lost there, and in frames that go by that, is made up",
        text->len ? "; " : "", self->concealed, self->concealed == 1 ? "" : "s");
  return text->len ? g_string_free (g_steal_pointer (&text), FALSE) : NULL;
}

/* What files may be, by demuxer: forms that hold their pictures themselves. Playlists and scripts, which lead
 * to other files or hosts or wait for more to come, are not among them. */
static const char containers[]
    = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,gxf,nut,ivf,dv,rm,swf,"
      "wtv,yuv4mpegpipe,"
      "h264,hevc,m4v,obu,av1,apng,gif,ico,image2,png_pipe,jpeg_pipe,jpegls_pipe,j2k_pipe,bmp_pipe,ppm_pipe,"
      "pgm_pipe,pam_pipe,"
      "pbm_pipe,pgmyuv_pipe,tiff_pipe,webp_pipe,exr_pipe,dpx_pipe,psd_pipe,sgi_pipe,sunrast_pipe,qoi_pipe";

/* Opens the file and, the first time, its decoder. */
static gboolean
open_format (NfMediaReader *self, GError **error)
{
  /* "file:" keeps names with a colon from being taken for protocols. */
  g_autofree char *url = g_strconcat ("file:", self->path, NULL);
  AVDictionary *options = NULL;
  const AVCodec *codec = NULL;
  int status;

  av_dict_set (&options, "protocol_whitelist", "file", 0);
  av_dict_set (&options, "format_whitelist", containers, 0);
  /* a "%" in the name of a file that is there is none of a sequence */
  if (g_file_test (self->path, G_FILE_TEST_EXISTS))
    av_dict_set (&options, "pattern_type", "none", 0);
  status = avformat_open_input (&self->format, url, NULL, &options);
  av_dict_free (&options);
  if (status == AVERROR (EINVAL)) /* a demuxer that is not among them */
    status = AVERROR_INVALIDDATA;
  if (status < 0)
    return av_fail (error,
                    status == AVERROR (ENOENT)      ? NF_ERROR_NOT_FOUND
                    : status == AVERROR_INVALIDDATA ? NF_ERROR_FORMAT
                                                    : NF_ERROR_READ,
                    status, self->path, "cannot be opened as a video or picture");
  status = avformat_find_stream_info (self->format, NULL);
  if (status < 0)
    return av_fail (error, NF_ERROR_FORMAT, status, self->path, "its streams cannot be understood");
  self->stream = av_find_best_stream (self->format, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
  if (self->stream < 0 || !codec)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: there is no video stream that libav can decode",
                   self->path);
      return FALSE;
    }
  for (guint i = 0; i < self->format->nb_streams; i++)
    if ((int)i != self->stream)
      self->format->streams[i]->discard = AVDISCARD_ALL;

  if (self->codec)
    {
      if (codec != self->codec->codec)
        {
          g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: the file was replaced while it was read",
                       self->path);
          return FALSE;
        }
      avcodec_flush_buffers (self->codec);
      return TRUE;
    }
  self->codec = avcodec_alloc_context3 (codec);
  if (!self->codec)
    return av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), self->path, "decoder");
  status = avcodec_parameters_to_context (self->codec, self->format->streams[self->stream]->codecpar);
  self->codec->thread_count = 1;
  self->codec->max_pixels = MAX_PIXELS;
  self->codec->pkt_timebase = self->format->streams[self->stream]->time_base;
  if (status >= 0)
    status = avcodec_open2 (self->codec, codec, NULL);
  if (status < 0)
    return av_fail (error, NF_ERROR_FORMAT, status, self->path, "its decoder cannot be opened");
  return TRUE;
}

/* libav finds no rates of much more than 1000 frames a second, and says the ticks of the clock instead. Not
 * of what may have no end. */
static gboolean
has_ticks_for_rate (const NfMediaReader *self, const AVStream *stream, AVRational rate)
{
  return self->format->pb && (self->format->pb->seekable & AVIO_SEEKABLE_NORMAL)
         && !stream->avg_frame_rate.num && !av_cmp_q (rate, av_inv_q (stream->time_base));
}

/* By the times of all frames, if they have some. */
static gboolean
measure_rate (NfMediaReader *self, GError **error)
{
  double seconds = 0;
  AVRational rate;

  if (!nf_media_reader_index (self, error))
    return FALSE;
  if (self->times->len > 1 && g_array_index (self->times, gint64, 0) != AV_NOPTS_VALUE)
    seconds = ((double)g_array_index (self->times, gint64, self->times->len - 1)
               - (double)g_array_index (self->times, gint64, 0))
              * av_q2d (self->format->streams[self->stream]->time_base);
  rate = av_d2q (seconds > 0 ? (self->times->len - 1) / seconds : 0, MAX_RATE_TERM);
  if (rate.num > 0 && rate.den > 0)
    {
      self->info.rate_n = rate.num;
      self->info.rate_d = rate.den;
    }
  return TRUE;
}

NfMediaReader *
nf_media_reader_open (const char *path, NfPixelLayout layout, GError **error)
{
  g_autoptr (NfMediaReader) self = g_new0 (NfMediaReader, 1);
  const AVStream *stream;
  AVRational rate;

  media_init ();
  self->path = g_strdup (path);
  self->layout = layout;
  self->wanted = AV_NOPTS_VALUE;
  if (layout == NF_PIXELS_LATENT)
    {
      g_set_error (
          error, NF_ERROR, NF_ERROR_UNSUPPORTED,
          "%s: the model is one of another model's latents (pixel_layout latent), which sees no videos or "
          "pictures",
          path);
      return NULL;
    }
  if (g_file_test (path, G_FILE_TEST_IS_DIR))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: is a folder, not a video or picture", path);
      return NULL;
    }
  if (!open_format (self, error))
    return NULL;
  self->packet = av_packet_alloc ();
  self->frame = av_frame_alloc ();
  if (!self->packet || !self->frame)
    {
      av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), path, "frame");
      return NULL;
    }

  self->first = nf_media_reader_next (self, error);
  if (!self->first)
    {
      if (error && !*error)
        g_set_error (error, NF_ERROR, NF_ERROR_FORMAT, "%s: not a single frame of it can be decoded", path);
      return NULL;
    }
  self->position = 0;

  stream = self->format->streams[self->stream];
  rate = av_guess_frame_rate (self->format, self->format->streams[self->stream], NULL);
  self->info.width = self->first->frame.width;
  self->info.height = self->first->frame.height;
  self->info.n_frames = stream->nb_frames > 0 ? (guint64)stream->nb_frames : 0;
  self->info.rate_n = rate.num > 0 && rate.den > 0 ? rate.num : 25;
  self->info.rate_d = rate.num > 0 && rate.den > 0 ? rate.den : 1;
  self->info.tick = av_q2d (stream->time_base);
  if (stream->duration > 0)
    self->info.duration = stream->duration * av_q2d (stream->time_base);
  else if (self->format->duration > 0)
    self->info.duration = self->format->duration / (double)AV_TIME_BASE;
  self->info.codec = avcodec_get_name (self->codec->codec_id);
  self->info.pixel_format = av_get_pix_fmt_name (self->codec->pix_fmt);
  if (!self->info.pixel_format)
    self->info.pixel_format = "unknown";
  return !has_ticks_for_rate (self, stream, rate) || measure_rate (self, error) ? g_steal_pointer (&self)
                                                                                : NULL;
}

/* Back to the first frame, by opening the file again: seeking to the start loses frames in some containers.
 * The decoder is kept: some streams say only once, at their start, how they must be decoded (x264's build
 * number, which 4:4:4 depends on). */
static gboolean
rewind_stream (NfMediaReader *self, GError **error)
{
  avformat_close_input (&self->format);
  if (!open_format (self, error))
    return FALSE;
  self->damaged = self->concealed = 0;
  self->draining = FALSE;
  self->wanted = AV_NOPTS_VALUE;
  self->position = 0;
  g_clear_pointer (&self->first, nf_picture_unref);
  return TRUE;
}

static int
compare_times (gconstpointer a, gconstpointer b)
{
  gint64 x = *(const gint64 *)a, y = *(const gint64 *)b;

  return (x > y) - (x < y);
}

/* Packets of VP8 may hold a frame that others go by and nobody sees (RFC 6386, section 9.1: show_frame). */
static gboolean
is_shown (enum AVCodecID codec, const AVPacket *packet)
{
  return codec != AV_CODEC_ID_VP8 || packet->size < 1 || (packet->data[0] & 0x10);
}

gboolean
nf_media_reader_index (NfMediaReader *self, GError **error)
{
  g_autoptr (GArray) times = NULL;
  gboolean timed = TRUE;
  gint64 decoded = AV_NOPTS_VALUE;
  int status;

  if (self->times)
    return TRUE;
  if (!rewind_stream (self, error))
    return FALSE;
  times = g_array_new (FALSE, FALSE, sizeof (gint64));
  while ((status = av_read_frame (self->format, self->packet)) >= 0)
    {
      if (self->packet->stream_index == self->stream
          && !(self->packet->flags & (AV_PKT_FLAG_DISCARD | AV_PKT_FLAG_CORRUPT))
          && is_shown (self->codec->codec_id, self->packet))
        {
          /* a clock that is set back, as where files were joined, leads a seek astray */
          timed = timed && self->packet->pts != AV_NOPTS_VALUE
                  && (decoded == AV_NOPTS_VALUE || self->packet->dts == AV_NOPTS_VALUE
                      || self->packet->dts >= decoded);
          if (self->packet->dts != AV_NOPTS_VALUE)
            decoded = self->packet->dts;
          g_array_append_val (times, self->packet->pts);
        }
      av_packet_unref (self->packet);
    }
  g_array_sort (times, compare_times);
  for (guint i = 1; i < times->len && timed; i++)
    timed = g_array_index (times, gint64, i) > g_array_index (times, gint64, i - 1);
  self->timed = timed;
  self->times = g_steal_pointer (&times);
  self->info.n_frames = MAX (self->times->len, 1);
  return rewind_stream (self, error);
}

gboolean
nf_media_reader_seek (NfMediaReader *self, guint64 index, GError **error)
{
  gint64 time;

  if (!nf_media_reader_index (self, error) || (!self->format && !rewind_stream (self, error)))
    return FALSE;
  if (index >= self->info.n_frames)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT,
                   "%s: frame %" G_GUINT64_FORMAT " is past the end: it has %" G_GUINT64_FORMAT " frames",
                   self->path, index, self->info.n_frames);
      return FALSE;
    }
  if (index == self->position)
    return TRUE;
  if (!self->timed || index == 0)
    {
      if ((index < self->position || self->draining) && !rewind_stream (self, error))
        return FALSE;
      while (self->position < index)
        {
          g_autoptr (GError) local = NULL;
          g_autoptr (NfPicture) picture = nf_media_reader_next (self, &local);

          if (!picture)
            {
              if (local)
                g_propagate_error (error, g_steal_pointer (&local));
              else
                g_set_error (error, NF_ERROR, NF_ERROR_READ,
                             "%s: frame %" G_GUINT64_FORMAT " cannot be decoded", self->path, index);
              return FALSE;
            }
        }
      return TRUE;
    }

  time = g_array_index (self->times, gint64, index);
  g_clear_pointer (&self->first, nf_picture_unref);
  /* A short way ahead within the same run of frames, decoding on is cheaper than going back to a key frame.
   */
  if (index < self->position || index - self->position > 16 || self->draining)
    {
      /* A demuxer may seek by decoding time, and land on a key frame that is shown after the frame sought:
       * then try earlier. */
      for (guint attempt = 0;; attempt++)
        {
          guint64 back = attempt == 0                     ? index
                         : index > (guint64)64 << attempt ? index - ((guint64)64 << attempt)
                                                          : 0;

          if (back == 0
              || av_seek_frame (self->format, self->stream, g_array_index (self->times, gint64, back),
                                AVSEEK_FLAG_BACKWARD)
                     < 0)
            {
              if (!rewind_stream (self, error))
                return FALSE;
              break;
            }
          avcodec_flush_buffers (self->codec);
          self->draining = FALSE;
          /* See at which key frame decoding can begin; it is read again if it is early enough. */
          self->wanted = AV_NOPTS_VALUE;
          {
            gint64 landed = AV_NOPTS_VALUE;

            while (av_read_frame (self->format, self->packet) >= 0)
              {
                gboolean ours
                    = self->packet->stream_index == self->stream && (self->packet->flags & AV_PKT_FLAG_KEY);

                landed = ours ? self->packet->pts : AV_NOPTS_VALUE;
                av_packet_unref (self->packet);
                if (ours)
                  break;
              }
            if (landed != AV_NOPTS_VALUE && landed <= time)
              {
                av_seek_frame (self->format, self->stream, g_array_index (self->times, gint64, back),
                               AVSEEK_FLAG_BACKWARD);
                avcodec_flush_buffers (self->codec);
                break;
              }
          }
        }
    }
  self->wanted = time;
  self->position = index;
  return TRUE;
}

/* TRUE if plane 0 of a decoded frame is 8-bit luma or grey as it stands. */
static gboolean
has_luma (enum AVPixelFormat format)
{
  const AVPixFmtDescriptor *d = av_pix_fmt_desc_get (format);

  return d
         && !(d->flags
              & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_HWACCEL
                 | AV_PIX_FMT_FLAG_BITSTREAM))
         && d->comp[0].plane == 0 && d->comp[0].step == 1 && d->comp[0].depth == 8 && d->comp[0].offset == 0;
}

char *
nf_media_reader_describe_loss (NfMediaReader *self)
{
  const AVPixFmtDescriptor *d = av_pix_fmt_desc_get (self->codec->pix_fmt);
  g_autoptr (GPtrArray) losses = g_ptr_array_new_with_free_func (g_free);
  if (!d)
    return NULL;
  const gboolean rgb = nf_look_is_rgb (self->codec->pix_fmt), colour = rgb || d->nb_components > 2;
  if (d->comp[0].depth > 8)
    g_ptr_array_add (losses, g_strdup_printf ("samples of %d bits become 8", d->comp[0].depth));
  if (self->layout == NF_PIXELS_GRAY && colour)
    g_ptr_array_add (losses, g_strdup ("colour is left out"));
  if (self->layout == NF_PIXELS_YUV420 && colour && (rgb || d->log2_chroma_w < 1 || d->log2_chroma_h < 1))
    g_ptr_array_add (losses, g_strdup_printf ("%s becomes 4:2:0", rgb ? "RGB" : "colour"));
  if (self->layout == NF_PIXELS_RGB && colour && !rgb)
    g_ptr_array_add (losses, g_strdup ("Y'CbCr becomes RGB, rounded"));
  if (losses->len == 0)
    return NULL;
  g_ptr_array_add (losses, NULL);
  g_autofree char *all = g_strjoinv (", ", (char **)losses->pdata);
  return g_strdup_printf ("%s: %s", self->info.pixel_format, all);
}

static NfPicture *
convert_samples (NfMediaReader *self, GError **error)
{
  const AVFrame *frame = self->frame;
  enum AVPixelFormat format = frame->format, target = layout_format (self->layout);
  g_autoptr (NfPicture) picture = NULL;
  const gboolean full = nf_look_is_full (frame);

  if (frame->width < 1 || frame->height < 1 || frame->width > MAX_SIDE || frame->height > MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: frames of %d×%d are too large: sides may have up to %d pixels", self->path,
                   frame->width, frame->height, MAX_SIDE);
      return NULL;
    }
  picture = nf_picture_new (self->layout, (guint)frame->width, (guint)frame->height);
  picture->matrix = (int)frame->colorspace;
  picture->full = full && !nf_look_is_rgb (format);
  if ((self->layout == NF_PIXELS_YUV420 && (format == AV_PIX_FMT_YUV420P || format == AV_PIX_FMT_YUVJ420P))
      || (self->layout == NF_PIXELS_GRAY && has_luma (format)))
    {
      for (guint i = 0; i < nf_picture_planes (self->layout); i++)
        {
          guint w, h;

          nf_picture_extent (self->layout, i, picture->frame.width, picture->frame.height, &w, &h);
          copy_rows (picture->frame.planes[i].data, picture->frame.planes[i].stride, frame->data[i],
                     frame->linesize[i], 1, w, h);
        }
      return g_steal_pointer (&picture);
    }

  /* Range is said below. */
  switch (format)
    {
    case AV_PIX_FMT_YUVJ420P:
      format = AV_PIX_FMT_YUV420P;
      break;
    case AV_PIX_FMT_YUVJ422P:
      format = AV_PIX_FMT_YUV422P;
      break;
    case AV_PIX_FMT_YUVJ444P:
      format = AV_PIX_FMT_YUV444P;
      break;
    case AV_PIX_FMT_YUVJ440P:
      format = AV_PIX_FMT_YUV440P;
      break;
    default:
      break;
    }
  self->sws = sws_getCachedContext (self->sws, frame->width, frame->height, format, frame->width,
                                    frame->height, target, SWS_FLAGS, NULL, NULL, NULL);
  if (!self->sws)
    {
      const char *name = av_get_pix_fmt_name (format);

      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: no way is known from pixel format %s to the model's %s", self->path,
                   name ? name : "unknown", nf_pixel_layout_name (self->layout));
      return NULL;
    }
  {
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get (format);
    const int *matrix = get_matrix ((int)frame->colorspace);
    gboolean source_rgb = nf_look_is_rgb (format);
    gboolean grey = d && d->nb_components <= 2 && !source_rgb;
    /* The range of YUV and the values of grey stay what they are; from RGB, YUV gets the usual video range.
     */
    int from = full || source_rgb || grey,
        to = self->layout == NF_PIXELS_YUV420 && !grey ? full && !source_rgb : 1;

    /* Where swscale refuses (packed to packed), there is nothing to set. */
    (void)sws_setColorspaceDetails (self->sws, matrix, from, matrix, to, 0, 1 << 16, 1 << 16);
  }
  if (!convert (self->sws, (const guint8 *const *)frame->data, frame->linesize, frame->height, picture))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s: a frame cannot be converted to %s", self->path,
                   nf_pixel_layout_name (self->layout));
      return NULL;
    }
  return g_steal_pointer (&picture);
}

/* What the frame says comes before what its stream says. */
static Turn
find_turn (NfMediaReader *self)
{
  const AVFrameSideData *of_frame = av_frame_get_side_data (self->frame, AV_FRAME_DATA_DISPLAYMATRIX);
  const guint8 *of_stream;
  size_t size = 0;

  if (of_frame && of_frame->size >= 9 * sizeof (gint32))
    return turn_of_matrix ((const gint32 *)(gconstpointer)of_frame->data);
  of_stream = av_stream_get_side_data (self->format->streams[self->stream], AV_PKT_DATA_DISPLAYMATRIX, &size);
  return turn_of_matrix (size >= 9 * sizeof (gint32) ? (const gint32 *)(gconstpointer)of_stream : NULL);
}

/* As the stream says, or else the frame. */
static enum AVFieldOrder
find_fields (NfMediaReader *self)
{
  const enum AVFieldOrder fields = self->format->streams[self->stream]->codecpar->field_order;

  if (fields > AV_FIELD_PROGRESSIVE || !self->frame->interlaced_frame)
    return fields;
  return self->frame->top_field_first ? AV_FIELD_TT : AV_FIELD_BB;
}

static NfPicture *
convert_frame (NfMediaReader *self, GError **error)
{
  const Turn turn = find_turn (self);
  g_autoptr (NfPicture) picture = convert_samples (self, error);

  if (picture && !self->look)
    {
      AVRational aspect
          = av_guess_sample_aspect_ratio (self->format, self->format->streams[self->stream], self->frame);
      enum AVFieldOrder fields = find_fields (self);

      if (turn.swapped)
        aspect = (AVRational){ aspect.den, aspect.num };
      if (turns (turn))
        {
          self->frame->chroma_location = AVCHROMA_LOC_UNSPECIFIED; /* has turned as well */
          fields = AV_FIELD_UNKNOWN;
        }
      self->info.look = self->look = nf_look_of_frame (self->frame, aspect, fields, self->layout);
    }
  return !picture || !turns (turn) ? g_steal_pointer (&picture) : turn_picture (picture, turn);
}

/* Gives the decoder one packet, or the end of the stream. */
static gboolean
feed_decoder (NfMediaReader *self, GError **error)
{
  int status = av_read_frame (self->format, self->packet);

  if (status == AVERROR (EAGAIN))
    return TRUE;
  if (status < 0)
    {
      /* A file that ends in the middle still gives the frames it has. */
      if (status != AVERROR_EOF)
        self->damaged++;
      self->draining = TRUE;
      status = avcodec_send_packet (self->codec, NULL);
      return status >= 0 || status == AVERROR_EOF
             || av_fail (error, NF_ERROR_READ, status, self->path, "the decoder failed at the end");
    }
  if (self->packet->stream_index == self->stream)
    {
      if (self->packet->flags & AV_PKT_FLAG_CORRUPT)
        self->damaged++;
      else
        {
          status = avcodec_send_packet (self->codec, self->packet);
          if (status == AVERROR (ENOMEM))
            {
              av_packet_unref (self->packet);
              return av_fail (error, NF_ERROR_NO_MEMORY, status, self->path, "decoding");
            }
          if (status < 0)
            self->damaged++;
        }
    }
  av_packet_unref (self->packet);
  return TRUE;
}

NfPicture *
nf_media_reader_next (NfMediaReader *self, GError **error)
{
  if (self->first)
    {
      self->position++;
      return g_steal_pointer (&self->first);
    }
  if (!self->format && !rewind_stream (self, error)) /* going back to its beginning failed once */
    return NULL;
  for (;;)
    {
      int status = avcodec_receive_frame (self->codec, self->frame);

      if (status == AVERROR (EAGAIN))
        {
          if (!feed_decoder (self, error))
            return NULL;
        }
      else if (status == AVERROR_EOF)
        return NULL;
      else if (status == AVERROR (ENOMEM))
        {
          av_fail (error, NF_ERROR_NO_MEMORY, status, self->path, "decoding");
          return NULL;
        }
      else if (status < 0)
        {
          self->damaged++;
          if (self->draining)
            return NULL;
        }
      else
        {
          gint64 time = self->frame->best_effort_timestamp;
          g_autoptr (NfPicture) picture = NULL;

          if (self->frame->decode_error_flags || (self->frame->flags & AV_FRAME_FLAG_CORRUPT))
            self->concealed++;
          if (self->wanted != AV_NOPTS_VALUE && time != AV_NOPTS_VALUE && time < self->wanted)
            {
              av_frame_unref (self->frame);
              continue;
            }
          self->wanted = AV_NOPTS_VALUE;
          picture = convert_frame (self, error);
          av_frame_unref (self->frame);
          if (!picture)
            return NULL;
          picture->index = self->position++;
          if (time != AV_NOPTS_VALUE)
            {
              const AVStream *stream = self->format->streams[self->stream];

              if (stream->start_time != AV_NOPTS_VALUE)
                time -= stream->start_time;
              picture->seconds = time * av_q2d (stream->time_base);
            }
          return g_steal_pointer (&picture);
        }
    }
}

/* Encoders */

static gboolean
codec_takes (const AVCodec *codec, enum AVPixelFormat format)
{
  for (const enum AVPixelFormat *f = codec->pix_fmts; f && *f != AV_PIX_FMT_NONE; f++)
    if (*f == format)
      return TRUE;
  return codec->pix_fmts == NULL;
}

/* Packs planes into FRAME, which has the same size, in its own format. */
static gboolean
fill_frame (AVFrame *to, NfPixelLayout layout, const NfFrame *frame, struct SwsContext **sws,
            const char *path, GError **error)
{
  g_autoptr (NfPicture) packed = NULL;
  guint8 *data[4];
  int stride[4];
  int status = av_frame_make_writable (to);

  if (status < 0)
    return av_fail (error, NF_ERROR_NO_MEMORY, status, path, "frame");
  if (to->format == layout_format (layout))
    {
      frame_pointers (layout, frame, data, stride);
      for (guint i = 0; i < nf_picture_planes (layout); i++)
        {
          static const guint gbr[3] = { 1, 2, 0 };
          guint w, h, source = layout == NF_PIXELS_RGB ? gbr[i] : i;

          nf_picture_extent (layout, i, frame->width, frame->height, &w, &h);
          copy_rows (to->data[i], to->linesize[i], data[i], stride[i], frame->planes[source].step, w, h);
        }
      return TRUE;
    }
  packed = picture_from_frame (layout, frame);
  frame_pointers (layout, &packed->frame, data, stride);
  *sws = sws_getCachedContext (*sws, (int)frame->width, (int)frame->height, layout_format (layout), to->width,
                               to->height, to->format, SWS_FLAGS, NULL, NULL, NULL);
  if (!*sws
      || sws_scale (*sws, (const guint8 *const *)data, stride, 0, (int)frame->height, to->data, to->linesize)
             < 0)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s: a %s frame cannot be converted to %s", path,
                   nf_pixel_layout_name (layout), av_get_pix_fmt_name (to->format));
      return FALSE;
    }
  return TRUE;
}

static AVFrame *
new_frame (enum AVPixelFormat format, guint width, guint height)
{
  AVFrame *frame = av_frame_alloc ();

  if (!frame)
    return NULL;
  frame->format = format;
  frame->width = (int)width;
  frame->height = (int)height;
  if (av_frame_get_buffer (frame, 0) < 0)
    av_frame_free (&frame);
  return frame;
}

struct _NfMediaWriter
{
  char *path;
  NfPixelLayout layout;
  guint width;
  guint height;
  AVFormatContext *format; /* NULL for pictures: a packet is a file */
  AVCodecContext *codec;
  AVStream *stream;
  AVFrame *frame;
  AVPacket *packet;
  struct SwsContext *sws;
  guint64 n_pictures; /* written */
  gint64 count;
  gboolean closed;
  gboolean whole; /* with its end */
};

void
nf_media_writer_free (NfMediaWriter *self)
{
  if (!self)
    return;
  sws_freeContext (self->sws);
  av_frame_free (&self->frame);
  av_packet_free (&self->packet);
  avcodec_free_context (&self->codec);
  if (self->format)
    {
      if (self->format->pb && !(self->format->oformat->flags & AVFMT_NOFILE))
        avio_closep (&self->format->pb);
      avformat_free_context (self->format);
    }
  g_free (self->path);
  g_free (self);
}

char *
nf_media_picture_name (const char *path, guint64 index)
{
  const gsize size = strlen (path) + 64;
  g_autofree char *name = g_malloc (size);

  /* libav counts them from 1 */
  return index < G_MAXINT && av_get_frame_filename (name, (int)size, path, (int)index + 1) >= 0
             ? g_steal_pointer (&name)
             : NULL;
}

gboolean
nf_media_is_sequence (const char *path)
{
  g_autofree char *first = nf_media_is_picture (path) ? nf_media_picture_name (path, 0) : NULL;

  return first != NULL;
}

gboolean
nf_media_can_break_off (const char *path)
{
  static const char *const known[] = { "mkv", "y4m", NULL };
  return has_extension (path, known);
}

gboolean
nf_media_check_name (const char *path, GError **error)
{
  static const char *const known[] = { "mkv", "mp4", "mov", "m4v", "y4m", "png", NULL };
  if (has_extension (path, known))
    return TRUE;
  g_set_error (
      error, NF_ERROR, NF_ERROR_ARGUMENT,
      "%s: the file's name must end in .mkv (lossless), .mp4, .mov, .y4m or .png to say how to write it",
      path);
  return FALSE;
}

/* Container, encoder and pixel format by the file's extension. */
static const AVCodec *
choose_encoder (NfMediaWriter *self, const char **container, enum AVPixelFormat *pixels, GError **error)
{
  static const char *const mkv[] = { "mkv", NULL }, *const mp4[] = { "mp4", "mov", "m4v", NULL },
                           *const y4m[] = { "y4m", NULL };
  const AVCodec *codec = NULL;

  if (!nf_media_check_name (self->path, error))
    return NULL;
  if (has_extension (self->path, mkv))
    {
      *container = "matroska";
      codec = avcodec_find_encoder_by_name ("ffv1");
      *pixels = self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_0RGB32 : layout_format (self->layout);
    }
  else if (has_extension (self->path, mp4))
    {
      *container = nf_media_has_ending (self->path, "mov") ? "mov" : "mp4";
      codec = avcodec_find_encoder_by_name ("libx264");
      if (!codec)
        codec = avcodec_find_encoder_by_name ("mpeg4");
      *pixels = AV_PIX_FMT_YUV420P;
    }
  else if (has_extension (self->path, y4m))
    {
      *container = "yuv4mpegpipe";
      codec = avcodec_find_encoder_by_name ("wrapped_avframe");
      *pixels = self->layout == NF_PIXELS_GRAY ? AV_PIX_FMT_GRAY8 : AV_PIX_FMT_YUV420P;
    }
  else
    {
      codec = avcodec_find_encoder_by_name ("png");
      *pixels = self->layout == NF_PIXELS_GRAY ? AV_PIX_FMT_GRAY8 : AV_PIX_FMT_RGB24;
    }
  if (!codec || !codec_takes (codec, *pixels))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "%s: libav was built without an encoder for it",
                   self->path);
      return NULL;
    }
  return codec;
}

/* Y'CbCr becomes RGB by the range and matrix that it has. */
static gboolean
prepare_conversion (NfMediaWriter *self, GError **error)
{
  AVCodecContext *codec = self->codec;
  const int *matrix = sws_getCoefficients (
      codec->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)codec->colorspace);

  if (self->layout != NF_PIXELS_YUV420 || codec->pix_fmt != AV_PIX_FMT_RGB24)
    return TRUE;
  self->sws = sws_getContext (codec->width, codec->height, layout_format (self->layout), codec->width,
                              codec->height, codec->pix_fmt, SWS_FLAGS, NULL, NULL, NULL);
  if (!self->sws)
    return av_fail (error, NF_ERROR_UNSUPPORTED, AVERROR (EINVAL), self->path, "conversion to RGB");
  (void)sws_setColorspaceDetails (self->sws, matrix, codec->color_range == AVCOL_RANGE_JPEG, matrix, 1, 0,
                                  1 << 16, 1 << 16);
  /* the picture itself is RGB */
  codec->color_range = AVCOL_RANGE_UNSPECIFIED;
  codec->colorspace = AVCOL_SPC_UNSPECIFIED;
  codec->chroma_sample_location = AVCHROMA_LOC_UNSPECIFIED;
  return TRUE;
}

const char *
nf_media_writer_describe_loss (const char *path, NfPixelLayout layout)
{
  static const char *const lossy[] = { "mp4", "mov", "m4v", NULL }, *const y4m[] = { "y4m", NULL };

  if (has_extension (path, lossy))
    return layout == NF_PIXELS_RGB ? "RGB becomes 4:2:0, and is coded with loss" : "it is coded with loss";
  if (has_extension (path, y4m) && layout == NF_PIXELS_RGB)
    return "RGB becomes 4:2:0";
  return nf_media_is_picture (path) && layout == NF_PIXELS_YUV420 ? "Y'CbCr becomes RGB, rounded" : NULL;
}

const char *
nf_media_writer_describe_times (const char *path, int rate_n, int rate_d)
{
  static const char *const mkv[] = { "mkv", NULL };

  return has_extension (path, mkv) && rate_n > 1000 * (gint64)rate_d ? "times are whole milliseconds in it"
                                                                     : NULL;
}

gboolean
nf_media_check_look (const char *look, GError **error)
{
  AVCodecContext *codec = avcodec_alloc_context3 (NULL);
  gboolean known;

  if (!codec)
    return av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), "look", "codec");
  codec->pix_fmt = AV_PIX_FMT_YUV420P;
  known = nf_look_give (look, NF_PIXELS_YUV420, codec, error);
  avcodec_free_context (&codec);
  return known;
}

/* FFV1 of level 3 cuts frames into slices, of which those of small frames are empty: they come back wrong or
 * are refused. Level 1 has no slices. */
static int
ffv1_level (guint width, guint height)
{
  return MIN (width, height) < 32 ? 1 : 3;
}

/* FFV1 and raw frames keep the order of fields; what others code are whole frames. */
static void
give_fields (NfMediaWriter *self)
{
  AVCodecContext *codec = self->codec;

  if (codec->codec_id != AV_CODEC_ID_FFV1 && codec->codec_id != AV_CODEC_ID_WRAPPED_AVFRAME)
    codec->field_order = AV_FIELD_UNKNOWN;
  self->frame->interlaced_frame = codec->field_order > AV_FIELD_PROGRESSIVE;
  self->frame->top_field_first = codec->field_order == AV_FIELD_TT || codec->field_order == AV_FIELD_BT;
}

static gboolean
open_container (NfMediaWriter *self, const char *container, GError **error)
{
  g_autofree char *url = g_strconcat ("file:", self->path, NULL);
  const int status = avformat_alloc_output_context2 (&self->format, NULL, container, url);

  if (status < 0)
    return av_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
  self->stream = avformat_new_stream (self->format, NULL);
  return self->stream || av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), self->path, "stream");
}

static gboolean
write_header (NfMediaWriter *self, GError **error)
{
  int status = 0;

  avcodec_parameters_from_context (self->stream->codecpar, self->codec);
  self->stream->time_base = self->codec->time_base;
  self->stream->sample_aspect_ratio = self->codec->sample_aspect_ratio;
  self->stream->avg_frame_rate = self->codec->framerate;
  if (!(self->format->oformat->flags & AVFMT_NOFILE))
    status = avio_open (&self->format->pb, self->format->url, AVIO_FLAG_WRITE);
  if (status >= 0)
    status = avformat_write_header (self->format, NULL);
  return status >= 0 || av_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
}

NfMediaWriter *
nf_media_writer_open (const char *path, NfPixelLayout layout, guint width, guint height, int rate_n,
                      int rate_d, const char *look, GError **error)
{
  g_autoptr (NfMediaWriter) self = g_new0 (NfMediaWriter, 1);
  const char *container = NULL; /* pictures have none */
  enum AVPixelFormat pixels = AV_PIX_FMT_NONE;
  const AVCodec *codec;
  int status;

  media_init ();
  self->path = g_strdup (path);
  self->layout = layout;
  self->width = width;
  self->height = height;
  if (!width || !height || width > MAX_SIDE || height > MAX_SIDE || rate_n < 1 || rate_d < 1)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: cannot write frames of %u×%u at %d/%d a second",
                   path, width, height, rate_n, rate_d);
      return NULL;
    }
  codec = choose_encoder (self, &container, &pixels, error);
  if (!codec)
    return NULL;
  if (container && !open_container (self, container, error))
    return NULL;
  self->codec = avcodec_alloc_context3 (codec);
  self->packet = av_packet_alloc ();
  self->frame = new_frame (pixels, width, height);
  if (!self->codec || !self->packet || !self->frame)
    {
      av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), path, "encoder");
      return NULL;
    }
  self->codec->width = (int)width;
  self->codec->height = (int)height;
  self->codec->pix_fmt = pixels;
  self->codec->time_base = (AVRational){ rate_d, rate_n };
  self->codec->framerate = (AVRational){ rate_n, rate_d };
  self->codec->thread_count = 1;
  if (!nf_look_give (look, layout, self->codec, error) || !prepare_conversion (self, error))
    return NULL;
  give_fields (self);
  if (codec->id == AV_CODEC_ID_FFV1)
    {
      self->codec->level = ffv1_level (width, height);
      self->codec->gop_size = 1;
    }
  else if (codec->id == AV_CODEC_ID_H264)
    av_opt_set (self->codec->priv_data, "crf", "16", 0);
  else if (codec->id == AV_CODEC_ID_MPEG4)
    {
      self->codec->flags |= AV_CODEC_FLAG_QSCALE;
      self->codec->global_quality = 2 * FF_QP2LAMBDA;
    }
  if (self->format && self->format->oformat->flags & AVFMT_GLOBALHEADER)
    self->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  status = avcodec_open2 (self->codec, codec, NULL);
  if (status < 0)
    {
      g_autofree char *what = g_strdup_printf ("encoder %s refuses %u×%u (odd sides? .mkv takes any size)",
                                               codec->name, width, height);

      av_fail (error, NF_ERROR_UNSUPPORTED, status, path, what);
      return NULL;
    }
  return !self->format || write_header (self, error) ? g_steal_pointer (&self) : NULL;
}

/* The packet as a file with its name, which has it once it is complete. */
static gboolean
write_picture (NfMediaWriter *self, GError **error)
{
  g_autofree char *next = nf_media_picture_name (self->path, self->n_pictures);
  const char *path = next ? next : self->path;
  g_autoptr (GError) local = NULL;
  const char *why;

  if (g_file_set_contents_full (path, (const char *)self->packet->data, self->packet->size,
                                G_FILE_SET_CONTENTS_CONSISTENT, 0666, &local))
    {
      self->n_pictures++;
      return TRUE;
    }
  /* what comes before speaks of the name that the file has while it is written */
  why = strrchr (local->message, ':');
  g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: cannot be written%s", path, why ? why : "");
  return FALSE;
}

static gboolean
write_packets (NfMediaWriter *self, const AVFrame *frame, GError **error)
{
  int status = avcodec_send_frame (self->codec, frame);

  if (status < 0 && status != AVERROR_EOF)
    return av_fail (error, NF_ERROR_WRITE, status, self->path, "a frame cannot be encoded");
  for (;;)
    {
      status = avcodec_receive_packet (self->codec, self->packet);
      if (status == AVERROR (EAGAIN) || status == AVERROR_EOF)
        return TRUE;
      if (status < 0)
        return av_fail (error, NF_ERROR_WRITE, status, self->path, "a frame cannot be encoded");
      if (!self->format)
        {
          const gboolean written = write_picture (self, error);

          av_packet_unref (self->packet);
          if (!written)
            return FALSE;
          continue;
        }
      if (!self->packet->duration)
        self->packet->duration = 1;
      av_packet_rescale_ts (self->packet, self->codec->time_base, self->stream->time_base);
      self->packet->stream_index = self->stream->index;
      status = av_interleaved_write_frame (self->format, self->packet);
      av_packet_unref (self->packet);
      if (status < 0)
        return av_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be written");
    }
}

gboolean
nf_media_writer_put (NfMediaWriter *self, const NfFrame *frame, GError **error)
{
  if (frame->width != self->width || frame->height != self->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: a frame of %u×%u in a file of %u×%u", self->path,
                   frame->width, frame->height, self->width, self->height);
      return FALSE;
    }
  if (!fill_frame (self->frame, self->layout, frame, &self->sws, self->path, error))
    return FALSE;
  self->frame->pts = self->count++;
  self->frame->quality = self->codec->global_quality;
  return write_packets (self, self->frame, error);
}

gboolean
nf_media_writer_close (NfMediaWriter *self, GError **error)
{
  int status;

  if (self->closed && self->whole)
    return TRUE;
  if (self->closed)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: is not complete", self->path);
      return FALSE;
    }
  self->closed = TRUE;
  if (!write_packets (self, NULL, error))
    return FALSE;
  status = self->format ? av_write_trailer (self->format) : 0;
  if (status >= 0 && self->format && self->format->pb && !(self->format->oformat->flags & AVFMT_NOFILE))
    status = avio_closep (&self->format->pb);
  self->whole = status >= 0;
  return self->whole || av_fail (error, NF_ERROR_WRITE, status, self->path, "cannot be completed");
}

gboolean
nf_media_write_png (const char *path, NfPixelLayout layout, const NfFrame *frame, GError **error)
{
  g_autoptr (NfMediaWriter) writer = NULL;

  if (!nf_media_has_ending (path, "png"))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: the picture's name must end in .png", path);
      return FALSE;
    }
  writer = nf_media_writer_open (path, layout, frame->width, frame->height, 25, 1, NULL, error);
  return writer && nf_media_writer_put (writer, frame, error) && nf_media_writer_close (writer, error);
}

/* Peers */

typedef struct
{
  AVCodecContext *codec;
  AVFrame *frame;
} Coder;

struct _NfMediaPeers
{
  NfPixelLayout layout;
  guint width;
  guint height;
  Coder png[3];
  Coder ffv1[2]; /* small and large context model */
  AVPacket *packet;
  struct SwsContext *sws;
};

static void
coder_clear (Coder *coder)
{
  avcodec_free_context (&coder->codec);
  av_frame_free (&coder->frame);
}

static void
peers_reset (NfMediaPeers *self)
{
  for (guint i = 0; i < G_N_ELEMENTS (self->png); i++)
    coder_clear (&self->png[i]);
  for (guint i = 0; i < G_N_ELEMENTS (self->ffv1); i++)
    coder_clear (&self->ffv1[i]);
  self->width = self->height = 0;
}

NfMediaPeers *
nf_media_peers_new (NfPixelLayout layout)
{
  NfMediaPeers *self = g_new0 (NfMediaPeers, 1);

  media_init ();
  self->layout = layout;
  return self;
}

void
nf_media_peers_free (NfMediaPeers *self)
{
  if (!self)
    return;
  peers_reset (self);
  av_packet_free (&self->packet);
  sws_freeContext (self->sws);
  g_free (self);
}

static gboolean
coder_open (Coder *coder, const char *name, enum AVPixelFormat pixels, guint width, guint height,
            const char *context, GError **error)
{
  const AVCodec *codec = avcodec_find_encoder_by_name (name);
  AVDictionary *options = NULL;
  int status;

  if (!codec || !codec_takes (codec, pixels))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED, "libav was built without the encoder %s for %s",
                   name, av_get_pix_fmt_name (pixels));
      return FALSE;
    }
  coder->codec = avcodec_alloc_context3 (codec);
  coder->frame = new_frame (pixels, width, height);
  if (!coder->codec || !coder->frame)
    return av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), name, "encoder");
  coder->frame->pts = 0;
  coder->codec->width = (int)width;
  coder->codec->height = (int)height;
  coder->codec->pix_fmt = pixels;
  coder->codec->time_base = (AVRational){ 1, 25 };
  coder->codec->thread_count = 1;
  coder->codec->gop_size = 1;
  if (codec->id == AV_CODEC_ID_PNG)
    {
      coder->codec->compression_level = 9;
      av_dict_set (&options, "pred", "mixed", 0);
    }
  else
    {
      coder->codec->level = ffv1_level (width, height);
      av_dict_set (&options, "coder", "range_def", 0);
      av_dict_set (&options, "context", context, 0);
      av_dict_set (&options, "slicecrc", "0", 0);
    }
  status = avcodec_open2 (coder->codec, codec, &options);
  av_dict_free (&options);
  return status >= 0 || av_fail (error, NF_ERROR_UNSUPPORTED, status, name, "the encoder cannot be opened");
}

static gboolean
coder_measure (NfMediaPeers *self, Coder *coder, guint64 *bits, GError **error)
{
  int status;

  coder->frame->pts++;
  status = avcodec_send_frame (coder->codec, coder->frame);
  while (status >= 0)
    {
      status = avcodec_receive_packet (coder->codec, self->packet);
      if (status >= 0)
        {
          *bits += 8 * (guint64)self->packet->size;
          av_packet_unref (self->packet);
        }
    }
  return status == AVERROR (EAGAIN)
         || av_fail (error, NF_ERROR_UNSUPPORTED, status, coder->codec->codec->name,
                     "a frame cannot be encoded");
}

gboolean
nf_media_peers_measure (NfMediaPeers *self, const NfFrame *frame, NfMediaBits *bits, GError **error)
{
  guint n_png = self->layout == NF_PIXELS_YUV420 ? 3 : 1;
  guint64 ffv1[2] = { 0, 0 };

  *bits = (NfMediaBits){ 0 };
  if (!self->packet)
    self->packet = av_packet_alloc ();
  if (frame->width != self->width || frame->height != self->height)
    {
      peers_reset (self);
      for (guint i = 0; i < n_png; i++)
        {
          guint w, h;

          nf_picture_extent (self->layout, i, frame->width, frame->height, &w, &h);
          if (!coder_open (&self->png[i], "png",
                           self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_RGB24 : AV_PIX_FMT_GRAY8, w, h, NULL,
                           error))
            return FALSE;
        }
      for (guint i = 0; i < 2; i++)
        if (!coder_open (&self->ffv1[i], "ffv1",
                         self->layout == NF_PIXELS_RGB ? AV_PIX_FMT_0RGB32 : layout_format (self->layout),
                         frame->width, frame->height, i ? "1" : "0", error))
          return FALSE;
      self->width = frame->width;
      self->height = frame->height;
    }

  for (guint i = 0; i < n_png; i++)
    {
      NfFrame plane = *frame;

      if (self->layout != NF_PIXELS_RGB)
        {
          nf_picture_extent (self->layout, i, frame->width, frame->height, &plane.width, &plane.height);
          plane.planes[0] = frame->planes[i];
        }
      if (!fill_frame (self->png[i].frame, self->layout == NF_PIXELS_RGB ? NF_PIXELS_RGB : NF_PIXELS_GRAY,
                       &plane, &self->sws, "png", error)
          || !coder_measure (self, &self->png[i], &bits->png, error))
        return FALSE;
    }
  for (guint i = 0; i < 2; i++)
    if (!fill_frame (self->ffv1[i].frame, self->layout, frame, &self->sws, "ffv1", error)
        || !coder_measure (self, &self->ffv1[i], &ffv1[i], error))
      return FALSE;
  bits->ffv1 = MIN (ffv1[0], ffv1[1]);
  return TRUE;
}

/* Filters */

struct _NfMediaFilter
{
  char *filters;
  NfPixelLayout layout;
  guint width;
  guint height;
  AVFilterGraph *graph;
  AVFilterContext *source;
  AVFilterContext *sink;
  AVFrame *in;
  AVFrame *out;
  struct SwsContext *sws;
  gint64 count;
};

void
nf_media_filter_free (NfMediaFilter *self)
{
  if (!self)
    return;
  avfilter_graph_free (&self->graph);
  av_frame_free (&self->in);
  av_frame_free (&self->out);
  sws_freeContext (self->sws);
  g_free (self->filters);
  g_free (self);
}

NfMediaFilter *
nf_media_filter_new (const char *filters, NfPixelLayout layout, guint width, guint height, GError **error)
{
  g_autoptr (NfMediaFilter) self = g_new0 (NfMediaFilter, 1);
  g_autofree char *source = NULL, *chain = NULL;
  AVFilterInOut *inputs = NULL, *outputs = NULL;
  const char *pixels = av_get_pix_fmt_name (layout_format (layout));
  int status;

  media_init ();
  self->filters = g_strdup (filters);
  self->layout = layout;
  self->width = width;
  self->height = height;
  self->graph = avfilter_graph_alloc ();
  self->in = new_frame (layout_format (layout), width, height);
  self->out = av_frame_alloc ();
  if (!self->graph || !self->in || !self->out)
    {
      av_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), filters, "filter");
      return NULL;
    }
  self->graph->nb_threads = 1;
  source = g_strdup_printf ("buffer=video_size=%ux%u:pix_fmt=%s:time_base=1/25 [in]; [in] ", width, height,
                            pixels);
  chain = g_strconcat (source, filters, ", format=", pixels, ", buffersink", NULL);
  status = avfilter_graph_parse2 (self->graph, chain, &inputs, &outputs);
  avfilter_inout_free (&inputs);
  avfilter_inout_free (&outputs);
  if (status >= 0)
    status = avfilter_graph_config (self->graph, NULL);
  if (status < 0)
    {
      av_fail (error, NF_ERROR_UNSUPPORTED, status, filters, "libavfilter refuses the filter");
      return NULL;
    }
  for (guint i = 0; i < self->graph->nb_filters; i++)
    {
      AVFilterContext *filter = self->graph->filters[i];

      if (!strcmp (filter->filter->name, "buffer"))
        self->source = filter;
      else if (!strcmp (filter->filter->name, "buffersink"))
        self->sink = filter;
    }
  return g_steal_pointer (&self);
}

NfPicture *
nf_media_filter_run (NfMediaFilter *self, const NfFrame *frame, GError **error)
{
  g_autoptr (NfPicture) picture = NULL;
  guint8 *data[4];
  int stride[4], status;

  if (frame->width != self->width || frame->height != self->height)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s: a frame of %u×%u in a filter for %u×%u",
                   self->filters, frame->width, frame->height, self->width, self->height);
      return NULL;
    }
  if (!fill_frame (self->in, self->layout, frame, &self->sws, self->filters, error))
    return NULL;
  self->in->pts = self->count++;
  status = av_buffersrc_add_frame_flags (self->source, self->in, AV_BUFFERSRC_FLAG_KEEP_REF);
  if (status >= 0)
    status = av_buffersink_get_frame (self->sink, self->out);
  if (status < 0)
    {
      av_fail (error, NF_ERROR_UNSUPPORTED, status, self->filters, "the filter gave no frame");
      return NULL;
    }
  picture = nf_picture_new (self->layout, self->width, self->height);
  frame_pointers (self->layout, &picture->frame, data, stride);
  av_image_copy (data, stride, (const guint8 **)self->out->data, self->out->linesize,
                 layout_format (self->layout), (int)self->width, (int)self->height);
  av_frame_unref (self->out);
  return g_steal_pointer (&picture);
}
