/* normflow: GStreamer element flowencode. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/video/gstvideoencoder.h>

G_BEGIN_DECLS

#define GST_TYPE_FLOW_ENCODE (gst_flow_encode_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowEncode, gst_flow_encode, GST, FLOW_ENCODE, GstVideoEncoder)

GST_ELEMENT_REGISTER_DECLARE (flowencode);

G_END_DECLS
