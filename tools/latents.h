/* normflow: files of latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

G_BEGIN_DECLS

/*
 * A latents file is a safetensors file of two tensors,
 *
 *   latents       F32 or F16 (frames, grid_height, grid_width, D), as nf_session_encode_frame() or
 *                 nf_stream_encode() gives them
 *   bits_per_dim  F32 (frames), the score of each frame
 *
 * and these strings in __metadata__: format "normflow-latents", model_digest, model (its name, for people),
 * width and height in pixels, pixel_layout, frame_rate "N/D", precision and multiplied_by (of matrix
 * products; files of before do not say), text_digest (where the model sees text), look (how samples are
 * meant, media-look.h, if anything is known). Latents of a model of videos also have context and key_int_max,
 * as numbers, and if the model was told what was done a third tensor,
 *
 *   actions       F32 (frames, action_dim), what led to each frame
 *
 * and where decoding would not find some values without being told (nf-correction.h), but not with F16,
 *
 *   corrections   I32 (corrections, 5): number of the frame, sample, block, place, and the bits of the value
 * as a float; in this order
 *
 * The header ends in spaces, because the number of frames is only known, and filled in, at the end.
 */
#define NF_LATENTS_FORMAT "normflow-latents"

/*
 * NfLatentsInfo:
 * width, height: of the video, pixels
 * layout: of the model
 * rate_n, rate_d: frames a second
 * grid_width, grid_height, features: of the latents of a frame
 * half: F16
 * n_frames, n_corrections: in the file
 * digest: of the model
 * model: its name
 * precision: in which they were made, as nf_device_get_precision() says it; NULL: not known
 * arithmetic: what multiplied, as nf_device_get_arithmetic() says it; NULL: not known
 * text: nf_session_get_text_digest() of what the model saw; NULL: it sees none, or not known
 * context: of a model of videos: frames that stayed when its window was full; -1 of one of pictures
 * key_int_max: likewise: each so many-th frame is coded by itself; 0: the first alone
 * action_dim: of the actions, 0 without any
 * look: how samples are meant (media-look.h), NULL: not known
 */
typedef struct
{
  guint width;
  guint height;
  NfPixelLayout layout;
  int rate_n;
  int rate_d;
  guint grid_width;
  guint grid_height;
  guint features;
  gboolean half;
  guint64 n_frames, n_corrections;
  char *digest;
  char *model;
  char *precision;
  char *text;
  char *arithmetic;
  int context;
  guint key_int_max;
  guint action_dim;
  char *look;
} NfLatentsInfo;

typedef struct _NfLatentsWriter NfLatentsWriter;

/* A file for MODEL's latents of frames of INFO's size, rate, type, look, context, key frames and actions; the
 * rest of INFO is not read. Written under another name until it is closed, so that PATH never holds half a
 * file.
 */
NfLatentsWriter *nf_latents_writer_open (const char *path, NfModel *model, const NfLatentsInfo *info,
                                         GError **error);

/* One frame, what led to it (nullable), and its corrections (nullable). NF_ERROR_DATA if a value is too large
 * for F16. */
gboolean nf_latents_writer_put (NfLatentsWriter *self, const float *latents, const float *action,
                                const NfCorrections *corrections, double bits_per_dim, GError **error);

guint64 nf_latents_writer_get_bytes (NfLatentsWriter *self);

/* Completes the file and gives it its name. */
gboolean nf_latents_writer_close (NfLatentsWriter *self, GError **error);

/* Nothing stays of a file that was not closed. */
void nf_latents_writer_free (NfLatentsWriter *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfLatentsWriter, nf_latents_writer_free)

typedef struct _NfLatentsReader NfLatentsReader;

/* TRUE if the file says that it is one of latents. */
gboolean nf_latents_is_file (NfTensorFile *file);

/* Checks everything that the file states. */
NfLatentsReader *nf_latents_reader_open (NfTensorFile *file, GError **error);
void nf_latents_reader_free (NfLatentsReader *self);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfLatentsReader, nf_latents_reader_free)

const NfLatentsInfo *nf_latents_reader_get_info (NfLatentsReader *self);

/* Whether MODEL made these latents; the error names both. */
gboolean nf_latents_reader_check_model (NfLatentsReader *self, NfModel *model, GError **error);

/* Latents of frame INDEX. */
gboolean nf_latents_reader_get (NfLatentsReader *self, guint64 index, float *latents, GError **error);

/* What led to frame INDEX, action_dim numbers. */
gboolean nf_latents_reader_get_action (NfLatentsReader *self, guint64 index, float *action, GError **error);

/* What is known of frame INDEX besides its latents, replaces what is in ITEMS (NfCorrection). */
NfCorrections nf_latents_reader_get_corrections (NfLatentsReader *self, guint64 index, GArray *items);

float nf_latents_reader_get_bits_per_dim (NfLatentsReader *self, guint64 index);

G_END_DECLS
