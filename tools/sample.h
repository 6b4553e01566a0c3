/* normflow: what drawing pictures and drawing videos share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"
#include "media.h"

G_BEGIN_DECLS

typedef struct
{
  NfCommand *command;
  const char *output;
  const char *given;   /* frames that videos begin with, or NULL */
  guint count;         /* pictures, or videos; 0: not said */
  guint frames;        /* of a video; 0: the model's own */
  int context;         /* frames that windows begin with; 0: all frames are one; -1: not said */
  guint width, height; /* 0: the model's own */
  guint64 seed;
  double temperature;
  const char *class; /* its number or name, by which label is found; NULL: none */
  int label;
  NfDecodeOptions options;
  int rate_n, rate_d;
  guint done;  /* pictures, or videos */
  guint batch; /* in work */
  gint64 start;
} NfSample;

/* Pictures to come are of text INDEX, where there is one for each. */
void nf_sample_choose_text (NfSession *session, guint index);

/* A sheet for COUNT pictures of the size, gray, and how many stand in a row; NULL with a GError that says
 * what else to ask for if it would be too large. */
NfPicture *nf_sample_sheet_new (const NfSample *sample, NfPixelLayout layout, guint count, guint *columns,
                                GError **error);

/* Copies PICTURE, from column X of it on, to place INDEX of a sheet. */
void nf_sample_place (const NfSample *sample, const NfPicture *picture, guint x, NfPicture *sheet,
                      guint index, guint columns);

/* Samples of a model of another model's latents: a tensor "samples" (count, C, rows, columns), of videos
 * (count, frames, C, rows, columns), which that model's decoder takes. */
gboolean nf_sample_floats (NfSample *sample, NfSession *session, GError **error);

/* A video of a model of videos of pixels; COUNT of them side by side. */
gboolean nf_sample_videos (NfSample *sample, NfSession *session, GError **error);

G_END_DECLS
