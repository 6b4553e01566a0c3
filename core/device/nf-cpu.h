/* normflow: the processor that this runs on. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* Not installed. What Linux says of the first processor: who made it ("" where that is not said), and its
 * instruction sets by the names that Linux has for them. And how many this process may keep busy, by its
 * affinity and its control group's share of time. Read once and not changed. */
typedef struct
{
  char *maker;
  GStrv flags;
  guint count;
} NfCpu;

/* Without /proc/cpuinfo nothing is known. */
NfCpu *nf_cpu_read (void);
void nf_cpu_free (NfCpu *cpu);

/* The smallest share of time, in whole processors, that the control groups in LIST (as /proc/self/cgroup has
 * them) and those around them allow (cpu.max, or cpu.cfs_quota_us of version 1, in the folder GROUPS);
 * G_MAXUINT if all have no limit. */
guint nf_cpu_read_share (const char *list, const char *groups);

gboolean nf_cpu_has (const NfCpu *cpu, const char *flag);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCpu, nf_cpu_free)
