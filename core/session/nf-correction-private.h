/* normflow: corrections on their way to and from the device. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-correction.h"
#include "nf-ops.h"

/* Those of one sample among ALL, in their memory. */
NfCorrections nf_corrections_of_sample (const NfCorrections *all, guint sample);

/* Of one sample each, which may have another number. */
gboolean nf_corrections_equal (const NfCorrections *a, const NfCorrections *b);

/* Kernels count words of a list in 32 bits. */
#define NF_MOST_CORRECTIONS (1u << 27)

/* Whether decoding will not find something of a frame: MISSES are two numbers a token, as of NfMissed. */
gboolean nf_missed_any (const float *misses, gsize tokens);

/* What encoding lists of a frame, and the host reads in the end. Zero-initialised it is empty. */
typedef struct
{
  NfBuffer *buffer; /* as of NfMissed */
  guint room;
  GArray *found; /* NfCorrection, in order */
} NfMissedList;

void nf_missed_list_clear (NfMissedList *self);

/* Empties the list, which has room for ROOM corrections and more from here on. */
void nf_missed_list_begin (NfMissedList *self, NfOps *ops, guint room);

/* Fills `found`, unless there was no room for all: then WHOLE is FALSE, and there will be, once it began
 * anew. */
gboolean nf_missed_list_read (NfMissedList *self, NfOps *ops, gboolean *whole, GError **error);

/* What block t adds to the list, which may be NULL, and to COUNTS. */
NfMissed nf_missed_list_of_block (const NfMissedList *self, NfBuffer *counts, guint t, guint first_sample);

/* Those that were read last, valid until the list changes. */
NfCorrections nf_missed_list_get (const NfMissedList *self);

/* Corrections of B samples of N tokens, on the device, block by block. Zero-initialised there are none. */
typedef struct
{
  NfBuffer *words;
  gsize room, tokens; /* of words; of all samples */
  guint N;            /* 0: there are none */
} NfCorrectedBlocks;

void nf_corrected_clear (NfCorrectedBlocks *self);

/* SAMPLES: B of them, checked, or NULL for none. */
void nf_corrected_set (NfCorrectedBlocks *self, NfOps *ops, const NfCorrections *samples, guint B, guint T,
                       guint N, guint D);

/* Of block t, whose token FIRST is a sample's first. */
NfCorrected nf_corrected_block (const NfCorrectedBlocks *self, guint t, guint first);
