/* normflow: what all that is done with libav needs. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "media.h"
#include <libavcodec/avcodec.h>
#include <libswscale/swscale.h>

G_BEGIN_DECLS

/* The same bits everywhere; and pixels of RGB by themselves, not in pairs of one colour, the last of which
 * may lie behind a row. */
#define NF_LIBAV_SWS_EXACT (SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP)
#define NF_LIBAV_SWS_FLAGS (SWS_BICUBIC | NF_LIBAV_SWS_EXACT)

gboolean nf_libav_fail (GError **error, int code, int status, const char *path, const char *what);

/* Errors reach people as GError; libav's own printing would only garble progress lines. */
void nf_libav_init (void);

enum AVPixelFormat nf_libav_format (NfPixelLayout layout);

/* libav's order of planes: GBR for what we call RGB. */
void nf_libav_planes (NfPixelLayout layout, const NfFrame *frame, guint8 *data[4], int stride[4]);

void nf_libav_copy_rows (guint8 *to, gssize to_stride, const guint8 *from, gssize from_stride,
                         gssize from_step, guint width, guint height);

/* A tightly packed copy of a frame with any steps and strides. */
NfPicture *nf_libav_pack (NfPixelLayout layout, const NfFrame *frame);

/* swscale writes whole vectors, which may be longer than rows that lie one behind the other. So it writes to
 * a frame of libav's, with room at the ends of its rows, from which they are copied. */
gboolean nf_libav_convert (struct SwsContext *sws, const guint8 *const *from, const int *from_stride,
                           int from_height, const NfPicture *to);

/* Of COLORSPACE, what swscale converts by. */
const int *nf_libav_matrix (int colorspace);

gboolean nf_libav_takes (const AVCodec *codec, enum AVPixelFormat format);

/* Packs planes of FRAME into TO, which has the same size, in its own format. */
gboolean nf_libav_fill (AVFrame *to, NfPixelLayout layout, const NfFrame *frame, struct SwsContext **sws,
                        const char *path, GError **error);

AVFrame *nf_libav_frame_new (enum AVPixelFormat format, guint width, guint height);

/* FFV1 of level 3 cuts frames into slices, of which those of small frames are empty: they come back wrong or
 * are refused. Level 1 has no slices. */
int nf_libav_ffv1_level (guint width, guint height);

G_END_DECLS
