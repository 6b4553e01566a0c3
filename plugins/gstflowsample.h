/* normflow: GStreamer element flowsample. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>

G_BEGIN_DECLS

#define GST_TYPE_FLOW_SAMPLE (gst_flow_sample_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowSample, gst_flow_sample, GST, FLOW_SAMPLE, GstBin)

GST_ELEMENT_REGISTER_DECLARE (flowsample);

G_END_DECLS
