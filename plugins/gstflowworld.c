/* normflow: GStreamer plugin, the truth of a world on buffers. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "gstflowworld.h"

void
gst_flow_world_meta_attach (GstBuffer *buffer, const NfWorld *world, gint64 seed, guint action,
                            guint64 frame_index)
{
  const NfWorldPattern pattern = nf_world_get_pattern (world);
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, GST_FLOW_WORLD_META_NAME);
  NfWorldState state;

  if (!meta)
    return;
  GstStructure *fields = gst_custom_meta_get_structure (meta);
  nf_world_get_state (world, &state);
  gst_structure_set (fields, "pattern", G_TYPE_STRING, nf_world_pattern_name (pattern), "seed", G_TYPE_INT64,
                     seed, "frame-index", G_TYPE_UINT64, frame_index, "entropy-bits", G_TYPE_DOUBLE,
                     state.entropy, "information-bits", G_TYPE_DOUBLE, state.information, "next-entropy-bits",
                     G_TYPE_DOUBLE, nf_world_next_entropy (world, action), NULL);
  if (pattern == NF_WORLD_GRIDWORLD)
    {
      gst_structure_set (fields, "camera-x", G_TYPE_INT, (gint)state.camera_x, "camera-y", G_TYPE_INT,
                         (gint)state.camera_y, NULL);
      return;
    }
  gst_structure_set (fields, "ball-x", G_TYPE_DOUBLE, state.ball_x, "ball-y", G_TYPE_DOUBLE, state.ball_y,
                     "ball-vx", G_TYPE_DOUBLE, state.ball_vx, "ball-vy", G_TYPE_DOUBLE, state.ball_vy, NULL);
  if (pattern == NF_WORLD_PONG)
    gst_structure_set (fields, "paddle-y", G_TYPE_DOUBLE, state.paddle_y, "score", G_TYPE_INT, state.score,
                       NULL);
}
