/* normflow: GStreamer plugin, the truth of a world on buffers. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gst/gst.h>
#include <normflow.h>

G_BEGIN_DECLS

/* A GstCustomMeta without tags. Fields: pattern (string), seed (gint64), frame-index (guint64), entropy-bits
 * (double; of this frame given all frames and actions before it), information-bits (double; -log2 of its
 * probability), next-entropy-bits (double; of the next frame, given this one's action too); with a ball
 * ball-x, ball-y, ball-vx, ball-vy (double; pixels, pixels a frame); in pong paddle-y (double; pixels), score
 * (int); of a map camera-x, camera-y (int; pixels). */
#define GST_FLOW_WORLD_META_NAME "GstFlowWorldMeta"

void gst_flow_world_meta_attach (GstBuffer *buffer, const NfWorld *world, gint64 seed, guint action,
                                 guint64 frame_index);

G_END_DECLS
