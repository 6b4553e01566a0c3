/* normflow: the processor that this runs on. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

/* Not installed. What Linux says of the first processor: who made it ("" where that is not said), and its
 * instruction sets by the names that Linux has for them. And how many this process may keep busy, by its
 * affinity and its control group's share of time (cpu.max). Read once and not changed. */
typedef struct
{
  char *maker;
  GStrv flags;
  guint count;
} NfCpu;

/* Without /proc/cpuinfo nothing is known. */
NfCpu *nf_cpu_read (void);
void nf_cpu_free (NfCpu *cpu);

gboolean nf_cpu_has (const NfCpu *cpu, const char *flag);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfCpu, nf_cpu_free)
