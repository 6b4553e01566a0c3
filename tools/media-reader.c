/* normflow: media files are read. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "media-libav.h"
#include "media-look.h"
#include "nf-error.h"

#include <errno.h>
#include <libavformat/avformat.h>
#include <libavutil/pixdesc.h>
#include <string.h>

#define MAX_PIXELS (1 << 27)
#define MAX_RATE_TERM 1000000 /* of a rate that is measured, as a fraction */

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
  NfPicture *turned = nf_libav_pack (picture->layout, &view);
  turned->matrix = picture->matrix;
  turned->full = picture->full;
  return turned;
}

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
  guint first_picture; /* of a sequence: its number, */
  guint n_pictures;    /* how many are there; 0 for other files, */
  guint n_read;        /* and up to which they were read */
  guint64 damaged;     /* packets */
  guint64 concealed;   /* frames of which the decoder made parts up */
  NfPicture *first;    /* decoded by open, for the size */
  char *look;          /* of that one */
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
  /* a "%" in the name of a file that is there is none of a sequence; libav looks for the first picture of one
   * at five numbers alone */
  if (g_file_test (self->path, G_FILE_TEST_EXISTS))
    av_dict_set (&options, "pattern_type", "none", 0);
  else
    av_dict_set_int (&options, "start_number", self->first_picture, 0);
  status = avformat_open_input (&self->format, url, NULL, &options);
  av_dict_free (&options);
  if (status == AVERROR (EINVAL)) /* a demuxer that is not among them */
    status = AVERROR_INVALIDDATA;
  if (status < 0)
    return nf_libav_fail (error,
                          status == AVERROR (ENOENT)      ? NF_ERROR_NOT_FOUND
                          : status == AVERROR_INVALIDDATA ? NF_ERROR_FORMAT
                                                          : NF_ERROR_READ,
                          status, self->path, "cannot be opened as a video or picture");
  status = avformat_find_stream_info (self->format, NULL);
  if (status < 0)
    return nf_libav_fail (error, NF_ERROR_FORMAT, status, self->path, "its streams cannot be understood");
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
    return nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), self->path, "decoder");
  status = avcodec_parameters_to_context (self->codec, self->format->streams[self->stream]->codecpar);
  self->codec->thread_count = 1;
  self->codec->max_pixels = MAX_PIXELS;
  self->codec->pkt_timebase = self->format->streams[self->stream]->time_base;
  if (status >= 0)
    status = avcodec_open2 (self->codec, codec, NULL);
  if (status < 0)
    return nf_libav_fail (error, NF_ERROR_FORMAT, status, self->path, "its decoder cannot be opened");
  return TRUE;
}

/* Picture NUMBER of the sequence PATH, which libav takes for one. (transfer full) */
static char *
name_picture (const char *path, guint number)
{
  const gsize size = strlen (path) + 64;
  char *name = g_malloc (size);

  if (av_get_frame_filename (name, (int)size, path, (int)number) < 0)
    g_clear_pointer (&name, g_free);
  return name;
}

static int
compare_numbers (gconstpointer a, gconstpointer b)
{
  const guint x = *(const guint *)a, y = *(const guint *)b;

  return (x > y) - (x < y);
}

/* The number of the picture that is the file NAME in the folder of the sequence PATH, after which SUFFIX
 * letters come. */
static gboolean
find_number (const char *path, const char *name, gsize suffix, guint *number)
{
  const gsize length = strlen (name);
  guint place = 1;

  *number = 0;
  for (gsize i = 0; suffix + i < length && i < 9; i++, place *= 10)
    {
      const char digit = name[length - suffix - i - 1];
      if (!g_ascii_isdigit (digit))
        return FALSE;
      *number += (guint)g_ascii_digit_value (digit) * place;
      g_autofree char *made = name_picture (path, *number);
      if (made && g_str_has_suffix (made, name)
          && (strlen (made) == length || G_IS_DIR_SEPARATOR (made[strlen (made) - length - 1])))
        return TRUE;
    }
  return FALSE;
}

/* Which pictures of the sequence PATH its folder has, sorted; NULL if it has them in many folders, or cannot
 * be listed. (element-type guint) */
static GArray *
list_pictures (const char *path)
{
  g_autofree char *folder = g_path_get_dirname (path), *one = name_picture (path, 1),
                  *two = name_picture (path, 2);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;
  gsize end;
  guint number;

  if (!dir || !one || !two)
    return NULL;
  /* their last digit is where they differ */
  for (end = strlen (one); end > 0 && one[end - 1] == two[end - 1];)
    end--;
  if (strchr (one + end, G_DIR_SEPARATOR))
    return NULL;
  GArray *numbers = g_array_new (FALSE, FALSE, sizeof (guint));
  while ((name = g_dir_read_name (dir)))
    if (find_number (path, name, strlen (one + end), &number))
      g_array_append_val (numbers, number);
  g_array_sort (numbers, compare_numbers);
  return numbers;
}

/* Of the pictures NUMBERS (nullable), if they are a sequence. libav takes the first one that is missing for
 * the end, or fails there: which of them depends on how many came before. */
static gboolean
check_sequence (NfMediaReader *self, const GArray *numbers, GError **error)
{
  if (strcmp (self->format->iformat->name, "image2") != 0 || !numbers)
    return TRUE;
  self->n_pictures = numbers->len;
  for (guint i = 1; i < numbers->len; i++)
    if (g_array_index (numbers, guint, i) != self->first_picture + i)
      {
        g_autofree char *missing = name_picture (self->path, self->first_picture + i),
                        *next = name_picture (self->path, g_array_index (numbers, guint, i));
        const guint more = numbers->len - i;

        g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND,
                     "%s: %s is missing, but %u picture%s from %s on %s there: a sequence has no gaps",
                     self->path, missing, more, more == 1 ? "" : "s", next, more == 1 ? "is" : "are");
        return FALSE;
      }
  return TRUE;
}

/* At its end. */
static gboolean
check_all_read (const NfMediaReader *self, GError **error)
{
  if (self->n_read >= self->n_pictures)
    return TRUE;
  g_autofree char *name = name_picture (self->path, self->first_picture + self->n_read);
  g_set_error (error, NF_ERROR, NF_ERROR_READ, "%s: %s cannot be read, or is empty: there is no going on",
               self->path, name);
  return FALSE;
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
  g_autoptr (GArray) numbers = NULL;
  const AVStream *stream;
  AVRational rate;

  nf_libav_init ();
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
  numbers = g_file_test (path, G_FILE_TEST_EXISTS) ? NULL : list_pictures (path);
  if (numbers && numbers->len > 0)
    self->first_picture = g_array_index (numbers, guint, 0);
  if (!open_format (self, error) || !check_sequence (self, numbers, error))
    return NULL;
  self->packet = av_packet_alloc ();
  self->frame = av_frame_alloc ();
  if (!self->packet || !self->frame)
    {
      nf_libav_fail (error, NF_ERROR_NO_MEMORY, AVERROR (ENOMEM), path, "frame");
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
  self->n_read = 0;
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
  enum AVPixelFormat format = frame->format, target = nf_libav_format (self->layout);
  g_autoptr (NfPicture) picture = NULL;
  const gboolean full = nf_look_is_full (frame);

  if (frame->width < 1 || frame->height < 1 || frame->width > NF_MAX_SIDE || frame->height > NF_MAX_SIDE)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "%s: frames of %dx%d are too large: sides may have up to %d pixels", self->path,
                   frame->width, frame->height, NF_MAX_SIDE);
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
          nf_libav_copy_rows (picture->frame.planes[i].data, picture->frame.planes[i].stride, frame->data[i],
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
                                    frame->height, target, NF_LIBAV_SWS_FLAGS, NULL, NULL, NULL);
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
    const int *matrix = nf_libav_matrix ((int)frame->colorspace);
    gboolean source_rgb = nf_look_is_rgb (format);
    gboolean grey = d && d->nb_components <= 2 && !source_rgb;
    /* The range of YUV and the values of grey stay what they are; from RGB, YUV gets the usual video range.
     */
    int from = full || source_rgb || grey,
        to = self->layout == NF_PIXELS_YUV420 && !grey ? full && !source_rgb : 1;

    /* Where swscale refuses (packed to packed), there is nothing to set. */
    (void)sws_setColorspaceDetails (self->sws, matrix, from, matrix, to, 0, 1 << 16, 1 << 16);
  }
  if (!nf_libav_convert (self->sws, (const guint8 *const *)frame->data, frame->linesize, frame->height,
                         picture))
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
  if (status < 0 && !check_all_read (self, error))
    return FALSE;
  if (status < 0)
    {
      /* A file that ends in the middle still gives the frames it has. */
      if (status != AVERROR_EOF)
        self->damaged++;
      self->draining = TRUE;
      status = avcodec_send_packet (self->codec, NULL);
      return status >= 0 || status == AVERROR_EOF
             || nf_libav_fail (error, NF_ERROR_READ, status, self->path, "the decoder failed at the end");
    }
  if (self->packet->stream_index == self->stream)
    {
      if (self->packet->pts != AV_NOPTS_VALUE)
        self->n_read = (guint)CLAMP (self->packet->pts + 1, 0, G_MAXUINT);
      if (self->packet->flags & AV_PKT_FLAG_CORRUPT)
        self->damaged++;
      else
        {
          status = avcodec_send_packet (self->codec, self->packet);
          if (status == AVERROR (ENOMEM))
            {
              av_packet_unref (self->packet);
              return nf_libav_fail (error, NF_ERROR_NO_MEMORY, status, self->path, "decoding");
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
          nf_libav_fail (error, NF_ERROR_NO_MEMORY, status, self->path, "decoding");
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
