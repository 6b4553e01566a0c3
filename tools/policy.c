/* normflow: who plays in a world. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "policy.h"

#include <string.h>

#define STREAM_POLICY 0x796c6f70u /* the counter is the frame */
#define MAX_HOLD 12

gboolean
nf_policy_init (NfPolicy *self, const char *name, guint64 seed)
{
  static const char *const names[] = { "none", "random", "follow", "mixed" };
  for (guint i = 0; i < G_N_ELEMENTS (names); i++)
    if (strcmp (name, names[i]) == 0)
      {
        *self = (NfPolicy){ .kind = (NfPolicyKind)i, .seed = seed };
        return TRUE;
      }
  return FALSE;
}

guint
nf_policy_act (NfPolicy *self, const NfWorld *world)
{
  const NfWorldPattern pattern = nf_world_get_pattern (world);
  NfWorldState state;
  guint32 words[4];

  if (self->kind == NF_POLICY_NONE)
    return 0;
  nf_world_get_state (world, &state);
  nf_random_u32x4 (self->seed, STREAM_POLICY, state.frame, words);
  if (self->kind == NF_POLICY_MIXED && self->turn == 0)
    {
      self->following = words[0] % 3 != 0;
      self->turn = 16 + words[1] % 64;
    }
  if (self->turn > 0)
    self->turn--;
  if (self->held == 0)
    {
      self->action = words[2] % nf_world_pattern_actions (pattern);
      self->held = 1 + words[3] % MAX_HOLD;
    }
  self->held--;
  const gboolean follow
      = self->kind == NF_POLICY_FOLLOW || (self->kind == NF_POLICY_MIXED && self->following);
  return follow && pattern == NF_WORLD_PONG ? nf_world_follow (world) : self->action;
}
