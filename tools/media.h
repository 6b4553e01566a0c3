/* normflow: media files through libav. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>
#include "nf-frame.h"

G_BEGIN_DECLS

/* An owned, tightly packed, planar 8-bit picture; reference-counted, shared between threads as long as nobody
 * writes. */
typedef struct
{
  NfPixelLayout layout;
  NfFrame frame;  /* view of the samples below */
  guint64 index;  /* in its file */
  double seconds; /* presentation time, NAN if unknown */
  int matrix;     /* of Y'CbCr, libav's AVColorSpace; 0 is the usual one */
  gboolean full;  /* its range */
  gsize size;     /* bytes */
  guint8 *data;   /* planes one after the other */
} NfPicture;

NfPicture *nf_picture_new (NfPixelLayout layout, guint width, guint height);

/* One of the same layout, size and colours as LIKE, whose samples are not set. */
NfPicture *nf_picture_new_like (const NfPicture *like);

NfPicture *nf_picture_ref (NfPicture *picture);
void nf_picture_unref (NfPicture *picture);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfPicture, nf_picture_unref)

/* Number of planes of a layout; their extent for frames of WIDTH × HEIGHT. */
guint nf_picture_planes (NfPixelLayout layout);
void nf_picture_extent (NfPixelLayout layout, guint plane, guint width, guint height, guint *plane_width,
                        guint *plane_height);

/* A copy resampled to WIDTH × HEIGHT by area averaging, the same bits everywhere. */
NfPicture *nf_picture_scale (NfPicture *picture, guint width, guint height, GError **error);

/* The picture in RGB, for showing: itself, its grey three times, or by its matrix and range. */
NfPicture *nf_picture_to_rgb (NfPicture *picture, GError **error);

/* All files that PATHS name: files as they are, folders searched recursively (symbolic links to folders are
 * not followed) for the usual names of videos and pictures, sorted. (element-type filename) NULL with
 * NF_ERROR_NOT_FOUND if a path is missing or nothing was found. */
GPtrArray *nf_media_list (const char *const *paths, GError **error);

/* The same, canonical, without those that were named before, also by their folder: to train on, no file
 * counts double or is held out in one place only. */
GPtrArray *nf_media_list_once (const char *const *paths, GError **error);

/* Whether a file's name ends in ENDING, or in one of ENDINGS (without the dot), in letters of either case. */
gboolean nf_media_has_ending (const char *path, const char *ending);
gboolean nf_media_has_any_ending (const char *path, const char *const *endings);

/* Whether it is what is in one file that is wrong, so that others can be read. */
gboolean nf_media_is_of_file (const GError *error);

/*
 * NfMediaInspection:
 * needed: (nullable): names, as people see them, of files that a run goes on with: none of these is left out
 * go_on: called with DATA before the first of N files is looked at, the second and so on; an error ends that
 *
 * How files are looked at before they are used.
 */
typedef struct
{
  GHashTable *needed;
  gboolean (*go_on) (guint i, guint n, gpointer data, GError **error);
  gpointer data;
} NfMediaInspection;

/* PATH, and what is wrong with it, which says its name. */
typedef struct
{
  char *path, *reason;
} NfMediaLeftFile;

/*
 * NfMediaLeftOut:
 * named: names of files that stand for themselves, not found in a folder (element-type filename)
 * needed: those of NfMediaInspection, or NULL
 * n: files in all
 * files: those that are left out (element-type NfMediaLeftFile)
 *
 * Which files of a list cannot be used.
 */
typedef struct
{
  GHashTable *named;
  GHashTable *needed;
  guint n;
  GPtrArray *files;
} NfMediaLeftOut;

/* PATHS as for nf_media_list_once(). INSPECTION is nullable. */
void nf_media_left_out_init (NfMediaLeftOut *self, const char *const *paths,
                             const NfMediaInspection *inspection);
void nf_media_left_out_clear (NfMediaLeftOut *self);

/* Leaves out a file of a folder for what is WRONG (transfer full); for any other file, and where it is not
 * the file that is wrong, that is the error, and FALSE. */
gboolean nf_media_leave_out (NfMediaLeftOut *self, const char *path, GError *wrong, GError **error);

/* That not all are: NF_ERROR_DATA. */
gboolean nf_media_check_left (const NfMediaLeftOut *self, GError **error);

/* TRUE if a file's name says that it is a still picture. */
gboolean nf_media_is_picture (const char *path);

/* TRUE if it says that it is one, or a video. */
gboolean nf_media_is_named (const char *path);

/* Width and height are those of the first frame; n_frames is 0 until nf_media_reader_index() if the container
 * does not state it. */
typedef struct
{
  guint width;
  guint height;
  guint64 n_frames;
  int rate_n;
  int rate_d;
  double duration;
  double tick; /* what times of frames are multiples of, in seconds */
  const char *codec;
  const char *pixel_format;
  const char *look; /* how samples are meant: media-look.h */
} NfMediaInfo;

/* Reads the best video stream of a file, one decoder thread, in LAYOUT: samples of planar 4:2:0 files reach
 * yuv420 unchanged, the luma of 8-bit YUV files reaches gray unchanged, the rest goes through swscale. Sample
 * ranges are kept, not stretched, but for RGB. Pictures that are to be shown turned by quarters or mirrored
 * come so. */
typedef struct _NfMediaReader NfMediaReader;

NfMediaReader *nf_media_reader_open (const char *path, NfPixelLayout layout, GError **error);
void nf_media_reader_free (NfMediaReader *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfMediaReader, nf_media_reader_free)

const NfMediaInfo *nf_media_reader_get_info (NfMediaReader *self);

/* What of the file's samples the layout does not hold, in words, or NULL if it holds them all: only what is
 * left comes back from latents. (transfer full) */
char *nf_media_reader_describe_loss (NfMediaReader *self);

/* Reads all packets once, without decoding, for the number of frames and the time of each. Damaged files may
 * have fewer. */
gboolean nf_media_reader_index (NfMediaReader *self, GError **error);

/* The next nf_media_reader_next() returns frame INDEX, counted in order of presentation. */
gboolean nf_media_reader_seek (NfMediaReader *self, guint64 index, GError **error);

/* The next frame, in order of presentation; NULL without error at the end. Damaged packets are skipped. */
NfPicture *nf_media_reader_next (NfMediaReader *self, GError **error);

/* Number of the frame that nf_media_reader_next() returns next. */
guint64 nf_media_reader_get_position (NfMediaReader *self);

/* What was damaged of all that was read so far, in words, or NULL. (transfer full) */
char *nf_media_reader_describe_damage (NfMediaReader *self);

/* Writes frames to a file whose extension chooses the form: .mkv FFV1 (lossless), .mp4 and .mov H.264 if
 * libav has an encoder, else MPEG-4; .y4m raw; .png one picture, or a sequence, nf_media_is_sequence(). */
typedef struct _NfMediaWriter NfMediaWriter;

/* Whether PATH's extension is one of these. */
gboolean nf_media_check_name (const char *path, GError **error);

/* The file that picture INDEX, from 0, of the sequence PATH ("%04d.png") is written to, or NULL if it names
 * none. */
char *nf_media_picture_name (const char *path, guint64 index);

/* Whether PATH names a sequence of pictures: one number, %d or %04d, and no other % but %%. */
gboolean nf_media_is_sequence (const char *path);

/* Whether a video of that name can be read though its end is missing. */
gboolean nf_media_can_break_off (const char *path);

/* What the file PATH, which is written from samples of LAYOUT, does not keep of them, or NULL: it is
 * lossless. */
const char *nf_media_writer_describe_loss (const char *path, NfPixelLayout layout);

/* Why PATH does not keep the times of so many frames a second, or NULL: it does. */
const char *nf_media_writer_describe_times (const char *path, int rate_n, int rate_d);

/* Whether LOOK (nullable) is one, NF_ERROR_FORMAT. */
gboolean nf_media_check_look (const char *look, GError **error);

/* LOOK (nullable): how samples are meant, media-look.h. */
NfMediaWriter *nf_media_writer_open (const char *path, NfPixelLayout layout, guint width, guint height,
                                     int rate_n, int rate_d, const char *look, GError **error);
gboolean nf_media_writer_put (NfMediaWriter *self, const NfFrame *frame, GError **error);

/* Flushes and closes; without it the file is incomplete. */
gboolean nf_media_writer_close (NfMediaWriter *self, GError **error);
void nf_media_writer_free (NfMediaWriter *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfMediaWriter, nf_media_writer_free)

/* One picture to a PNG. */
gboolean nf_media_write_png (const char *path, NfPixelLayout layout, const NfFrame *frame, GError **error);

/* What lossless coders take for a frame, in bits. */
typedef struct
{
  guint64 png;  /* yuv420: three grey PNGs; gray: one; rgb: one RGB PNG; level 9, filter chosen row by row */
  guint64 ffv1; /* intra, version 3, range coder, the better of the small and the large context model */
} NfMediaBits;

typedef struct _NfMediaPeers NfMediaPeers;
NfMediaPeers *nf_media_peers_new (NfPixelLayout layout);
void nf_media_peers_free (NfMediaPeers *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfMediaPeers, nf_media_peers_free)
gboolean nf_media_peers_measure (NfMediaPeers *self, const NfFrame *frame, NfMediaBits *bits, GError **error);

/* Runs frames of one size through a chain of libavfilter filters ("hqdn3d=4:3:6:4.5"); each frame gives one
 * frame. */
typedef struct _NfMediaFilter NfMediaFilter;
NfMediaFilter *nf_media_filter_new (const char *filters, NfPixelLayout layout, guint width, guint height,
                                    GError **error);
void nf_media_filter_free (NfMediaFilter *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfMediaFilter, nf_media_filter_free)
NfPicture *nf_media_filter_run (NfMediaFilter *self, const NfFrame *frame, GError **error);

G_END_DECLS
