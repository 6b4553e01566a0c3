/* normflow: GStreamer element flowdecode. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/video/gstvideodecoder.h>

G_BEGIN_DECLS

#define GST_TYPE_FLOW_DECODE (gst_flow_decode_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowDecode, gst_flow_decode, GST, FLOW_DECODE, GstVideoDecoder)

GST_ELEMENT_REGISTER_DECLARE (flowdecode);

G_END_DECLS
