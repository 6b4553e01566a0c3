/* normflow: GStreamer element flowdecode. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/video/gstvideodecoder.h>

G_BEGIN_DECLS

/**
 * GstFlowGuide:
 *
 * What guidance acts on: #NfGuide as a type of its own.
 */
#define GST_TYPE_FLOW_GUIDE (gst_flow_guide_get_type ())
GType gst_flow_guide_get_type (void);

/**
 * GstFlowDecodeMethod:
 *
 * How latents become pixels: #NfDecodeMethod as a type of its own.
 */
#define GST_TYPE_FLOW_DECODE_METHOD (gst_flow_decode_method_get_type ())
GType gst_flow_decode_method_get_type (void);

/**
 * GstFlowGuess:
 *
 * Where Jacobi's iteration starts: #NfGuess as a type of its own.
 */
#define GST_TYPE_FLOW_GUESS (gst_flow_guess_get_type ())
GType gst_flow_guess_get_type (void);

/**
 * GstFlowStreamDenoise:
 *
 * What is shown of drawn frames: #NfDenoise as a type of its own.
 */
#define GST_TYPE_FLOW_STREAM_DENOISE (gst_flow_stream_denoise_get_type ())
GType gst_flow_stream_denoise_get_type (void);

#define GST_TYPE_FLOW_DECODE (gst_flow_decode_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowDecode, gst_flow_decode, GST, FLOW_DECODE, GstVideoDecoder)

GST_ELEMENT_REGISTER_DECLARE (flowdecode);

G_END_DECLS
