/* normflow: GStreamer element flowtestsrc. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/base/gstpushsrc.h>

G_BEGIN_DECLS

#define GST_TYPE_FLOW_TEST_SRC (gst_flow_test_src_get_type ())
G_DECLARE_FINAL_TYPE (GstFlowTestSrc, gst_flow_test_src, GST, FLOW_TEST_SRC, GstPushSrc)

GST_ELEMENT_REGISTER_DECLARE (flowtestsrc);

G_END_DECLS
