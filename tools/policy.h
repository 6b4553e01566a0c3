/* normflow: who plays in a world. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

G_BEGIN_DECLS

typedef enum
{
  NF_POLICY_NONE,   /* action 0 */
  NF_POLICY_RANDOM, /* any action, held for 1 to 12 frames */
  NF_POLICY_FOLLOW, /* plays well; where there is nothing to follow, random */
  NF_POLICY_MIXED,  /* follow and random by turns of 16 to 79 frames, follow twice as often */
} NfPolicyKind;

/* A player; everything random is of SEED. */
typedef struct
{
  NfPolicyKind kind;
  guint64 seed;
  guint action; /* that is being held */
  guint held;   /* frames that it still is */
  gboolean following;
  guint turn; /* frames that this still lasts */
} NfPolicy;

/* FALSE if NAME is none of "none", "random", "follow", "mixed". */
gboolean nf_policy_init (NfPolicy *self, const char *name, guint64 seed);

/* The action at the world's present frame; to be asked once a frame. */
guint nf_policy_act (NfPolicy *self, const NfWorld *world);

G_END_DECLS
