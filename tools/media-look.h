/* normflow: how the samples of a video are meant. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <libavcodec/avcodec.h>
#include <normflow.h>

G_BEGIN_DECLS

/*
 * A look says what a player needs beside samples to show them as they were: range, matrix, primaries,
 * transfer function and chroma siting by libav's names, the shape of a pixel, and, of interlaced video alone,
 * the order of fields (tt, bb, tb or bt), such as
 *
 *   color_range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709:chroma_sample_location=left
 *
 * What is not known is left out; all of it may be.
 */

gboolean nf_look_is_rgb (enum AVPixelFormat format);

/* Whether FRAME's Y'CbCr has full range. */
gboolean nf_look_is_full (const AVFrame *frame);

/* The look of FRAME, whose pixels are of ASPECT and whose lines are of FIELDS, in samples of LAYOUT.
 * (transfer full) */
char *nf_look_of_frame (const AVFrame *frame, AVRational aspect, enum AVFieldOrder fields,
                        NfPixelLayout layout);

/* LOOK (nullable) of frames that were scaled from one size to another: pixels are of another shape, and lines
 * that were made of others are of no field. (transfer full) */
char *nf_look_scale (const char *look, guint from_width, guint from_height, guint width, guint height);

/* Gives CODEC, which is to encode samples of LAYOUT in pixels of its pix_fmt, this look (nullable).
 * NF_ERROR_FORMAT if LOOK is none. */
gboolean nf_look_give (const char *look, NfPixelLayout layout, AVCodecContext *codec, GError **error);

G_END_DECLS
