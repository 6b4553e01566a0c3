/* normflow: GStreamer plugin, caps of video and latents. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/video/video.h>
#include <normflow.h>

G_BEGIN_DECLS

#define GST_FLOW_LATENT_MIME "video/x-flow-latent"
#define GST_FLOW_TENSORS_MIME "other/tensors"

#define GST_FLOW_SIDES                                                                                       \
  "width = (int) [ 1, " G_STRINGIFY (NF_MAX_SIDE) " ], height = (int) [ 1, " G_STRINGIFY (NF_MAX_SIDE) " ]"

/* The same bytes under two names: ours, and NNStreamer's. width and height mean pixels, always. */
#define GST_FLOW_LATENT_CAPS                                                                                 \
  GST_FLOW_LATENT_MIME ", latent-format = (string) { F32LE, F16LE }, " GST_FLOW_SIDES                        \
                       ", framerate = " GST_VIDEO_FPS_RANGE "; " GST_FLOW_TENSORS_MIME                       \
                       ", format = (string) static, num_tensors = (int) 1, framerate = " GST_VIDEO_FPS_RANGE \
                       ", types = (string) { float32, float16 }"

/* Every 8-bit format that is some model's own layout, with nothing interpolated or lost. */
#define GST_FLOW_VIDEO_CAPS                                                                                  \
  "video/x-raw, format = (string) { I420, NV12, YV12, NV21, RGB, BGR, RGBx, BGRx, xRGB, xBGR, GBR, RGBP, "   \
  "BGRP, "                                                                                                   \
  "GRAY8 }, " GST_FLOW_SIDES ", framerate = " GST_VIDEO_FPS_RANGE

/**
 * GstFlowLatentInfo:
 * @width: pixels of the video
 * @height: pixels of the video
 * @fps_n: numerator of the frame rate, 0 if variable
 * @fps_d: its denominator
 * @tensors: the caps are `other/tensors` rather than `video/x-flow-latent`
 * @half: values are float16 rather than float32
 * @pixel_format: format that the video had, or unknown
 * @grid: how a frame lies on tiles and tokens
 * @frames: frames of the model's window, 0 for models of images
 * @context: frames that are kept when it is full
 * @actions: values of the vector that tells the action, 0 for none
 * @controls: they are continuous controls
 * @precision: one of nf_device_precisions(), in which the latents were made; NULL: in none, or unknown
 * @arithmetic: what multiplied in that precision, as nf_device_get_arithmetic() says it; empty: unknown
 * @text: digest of the text that the model saw, or NF_NO_TEXT; empty: it sees none, or unknown
 * @drawn: of pictures: they were drawn from the prior, not encoded
 *
 * What latent caps say. A buffer holds the latents of one frame, (grid_height, grid_width, D) row-major,
 * little-endian. With a model of videos the vector of the action that led to the frame (@actions float32)
 * follows, then GstFlowLatentTail: the number (guint32), and the mark with the bit of drawn ones under it
 * (guint32). Last come corrections, if there are any.
 */
typedef struct
{
  guint width;
  guint height;
  gint fps_n;
  gint fps_d;
  gboolean tensors;
  gboolean half;
  GstVideoFormat pixel_format;
  NfGrid grid;
  guint frames, context, actions;
  gboolean controls;
  const char *precision;
  char arithmetic[9], text[17];
  gboolean drawn;
} GstFlowLatentInfo;

/**
 * GstFlowLatentTail:
 * @index: the frame's number since the last key frame: a decoder knows by it whether frames are missing
 * @follows: gst_flow_latent_mark() of the frame before, 0 in a key frame, or if it is not said: a decoder
 * knows by it whether it has seen the frames that this one was predicted from, or those of another stream
 * @drawn: the latents are not those of a frame but were drawn: a decoder knows by it which noise is in the
 * frame
 *
 * What follows latents and action with a model of videos.
 */
typedef struct
{
  guint32 index;
  guint32 follows;
  gboolean drawn;
} GstFlowLatentTail;

/* Of CONFIG; the context is the usual one. */
void gst_flow_latent_info_set_model (GstFlowLatentInfo *info, const NfConfig *config);

/* At DATA, which holds a whole buffer. ACTION: NULL is unknown. */
void gst_flow_latent_write_tail (const GstFlowLatentInfo *info, guint8 *data, const float *action,
                                 const GstFlowLatentTail *tail);
/* ACTION may be NULL. */
void gst_flow_latent_read_tail (const GstFlowLatentInfo *info, const guint8 *data, float *action,
                                GstFlowLatentTail *tail);

/* Of the whole buffer at DATA, its tail included, so of all frames since the key frame: 31 bits, never 0. */
guint32 gst_flow_latent_mark (const GstFlowLatentInfo *info, const guint8 *data);

/* FALSE, with %NF_ERROR_ARGUMENT, if a model of videos is not of this size. */
gboolean gst_flow_check_size (const NfConfig *config, guint width, guint height, GError **error);

/* FALSE, with %NF_ERROR_ARGUMENT, if FORMAT is none of the model's layout. */
gboolean gst_flow_check_format (const NfConfig *config, GstVideoFormat format, GError **error);

/* Bytes of a buffer, without corrections. */
gsize gst_flow_latent_info_size (const GstFlowLatentInfo *info);

/* Whether corrections may follow: not behind halves, which are rounded anyway, nor in tensors, whose size is
 * their dimensions'. */
gboolean gst_flow_latent_info_has_corrections (const GstFlowLatentInfo *info);

/* They follow in BUFFER, whole but for them. None leave it as it is. */
void gst_flow_latent_append_corrections (GstBuffer *buffer, const NfCorrections *corrections);

/* What follows in the SIZE bytes at DATA; ITEMS (NfCorrection), unless NULL, get it in place of what they
 * are. FALSE if this is no buffer of INFO. */
gboolean gst_flow_latent_read_corrections (const GstFlowLatentInfo *info, const guint8 *data, gsize size,
                                           GArray *items);

/* Fixed caps with every stream constant as a field. */
GstCaps *gst_flow_latent_info_to_caps (const GstFlowLatentInfo *info, const NfConfig *config,
                                       const char *digest);

/* Text that what follows takes none of the caps MADE, which are of video or of latents, but WANTED: in which
 * fields those differ that come nearest, and what to do. */
char *gst_flow_describe_unwanted (const GstCaps *made, const GstCaps *wanted);

/**
 * gst_flow_latent_info_from_caps:
 * @caps: fixed caps from outside
 * @config: model that is to decode
 * @digest: its digest
 * @model: text that names it in messages
 *
 * Nothing that the template of a pad has may be missing, since pads let that in
 * (%GST_PAD_FLAG_ACCEPT_INTERSECT) for the sake of the message. Everything the caps state is checked against
 * the model and against itself. `other/tensors` that lost our own fields on the way are taken by their
 * dimensions alone; the video is then whole tiles.
 *
 * Returns: FALSE with %NF_ERROR_FORMAT naming what the latents are and what the model needs.
 */
gboolean gst_flow_latent_info_from_caps (GstFlowLatentInfo *info, const GstCaps *caps, const NfConfig *config,
                                         const char *digest, const char *model, GError **error);

/* Innermost first, as NNStreamer writes them: features, grid width, grid height. Missing ones are 1. */
gboolean gst_flow_parse_dimensions (const char *text, guint64 dims[3]);

/* The one of nf_device_precisions() that is called NAME (nullable), else NULL. */
const char *gst_flow_find_precision (const char *name);

/* Video caps that CONFIG's layout takes without loss, and of a model of videos' size; NULL: all. */
GstCaps *gst_flow_video_caps (const NfConfig *config);

/* The formats of LAYOUT, best first. */
const GstVideoFormat *gst_flow_video_formats (NfPixelLayout layout, guint *n);

/* Maps BUFFER, which came from outside and may be damaged; FALSE if it is no frame of INFO, of which ELEMENT
 * has then posted an error. */
gboolean gst_flow_frame_map (GstElement *element, GstVideoFrame *frame, const GstVideoInfo *info,
                             GstBuffer *buffer, GstMapFlags flags);

/* FRAME, mapped with INFO, as the library sees it: as large as INFO says. */
void gst_flow_frame_view (const GstVideoFrame *frame, const GstVideoInfo *info, NfFrame *view);

/* What a buffer says of its frame, whether it holds the samples or the latents: its fields, and whether it is
 * corrupted. */
void gst_flow_copy_frame_flags (GstBuffer *to, GstBuffer *from);

/* When the samples of VIEW are written: 255 for what formats like RGBx have beside them, so that no byte is
 * left undefined. */
void gst_flow_frame_fill_padding (GstVideoFrame *frame, const NfFrame *view);

G_END_DECLS
