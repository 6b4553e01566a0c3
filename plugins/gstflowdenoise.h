/* normflow: GStreamer element flowdenoise. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/video/gstvideofilter.h>

G_BEGIN_DECLS

/**
 * GstFlowDenoiseMethod:
 * @GST_FLOW_DENOISE_SCORE: y + sigma² ∇ log p(y), one exact step along the model's score
 */
typedef enum
{
  GST_FLOW_DENOISE_SCORE,
} GstFlowDenoiseMethod;

#define GST_TYPE_FLOW_DENOISE_METHOD (gst_flow_denoise_method_get_type ())
GType gst_flow_denoise_method_get_type (void);

#define GST_TYPE_FLOW_DENOISE (gst_flow_denoise_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowDenoise, gst_flow_denoise, GST, FLOW_DENOISE, GstVideoFilter)

GST_ELEMENT_REGISTER_DECLARE (flowdenoise);

G_END_DECLS
