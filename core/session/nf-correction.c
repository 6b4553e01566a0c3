/* normflow: what encoding knows that decoding would not find. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-correction-private.h"

#include "nf-error.h"

#include <math.h>
#include <string.h>

/* Corrections that a list has room for at first; of real frames there are none, or a few. */
#define FIRST_ROOM 4096

static gint
compare (gconstpointer a, gconstpointer b)
{
  const NfCorrection *x = a, *y = b;
  if (x->sample != y->sample)
    return x->sample < y->sample ? -1 : 1;
  if (x->block != y->block)
    return x->block < y->block ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

gboolean
nf_corrections_check (const NfCorrections *corrections, const NfConfig *config, guint samples, gsize values,
                      GError **error)
{
  g_return_val_if_fail (corrections && config, FALSE);
  guint blocks = 0;
  for (guint t = 0; t < config->n_blocks; t++)
    blocks += !nf_config_is_identity (config, t);
  for (gsize i = 0; i < corrections->n; i++)
    {
      const NfCorrection *item = &corrections->items[i];
      const char *wrong = item->sample >= samples   ? "there is no such sample"
                          : item->block >= blocks   ? "there is no such block"
                          : item->place >= values   ? "there is no such place"
                          : !isfinite (item->value) ? "its value is not finite"
                          : i > 0 && compare (&corrections->items[i - 1], item) >= 0 ? "they are not in order"
                                                                                     : NULL;
      if (!wrong)
        continue;
      g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                   "correction %" G_GSIZE_FORMAT " of %" G_GSIZE_FORMAT
                   ", of sample %u, block %u, place %u: %s",
                   i, corrections->n, item->sample, item->block, item->place, wrong);
      return FALSE;
    }
  return TRUE;
}

NfCorrections
nf_corrections_of_sample (const NfCorrections *all, guint sample)
{
  gsize first = 0, end = all->n;
  while (first < end)
    {
      const gsize middle = first + (end - first) / 2;
      if (all->items[middle].sample < sample)
        first = middle + 1;
      else
        end = middle;
    }
  for (end = first; end < all->n && all->items[end].sample == sample;)
    end++;
  return (NfCorrections){ all->items + first, end - first };
}

gboolean
nf_corrections_equal (const NfCorrections *a, const NfCorrections *b)
{
  gboolean equal = a->n == b->n;
  for (gsize i = 0; i < a->n && equal; i++)
    equal = a->items[i].block == b->items[i].block && a->items[i].place == b->items[i].place
            && a->items[i].value == b->items[i].value;
  return equal;
}

/* Those that encoding lists */

gboolean
nf_missed_any (const float *misses, gsize tokens)
{
  for (gsize i = 0; i < 2 * tokens; i++)
    if (misses[i] > 0)
      return TRUE;
  return FALSE;
}

void
nf_missed_list_clear (NfMissedList *self)
{
  g_clear_pointer (&self->buffer, nf_buffer_free);
  g_clear_pointer (&self->found, g_array_unref);
}

void
nf_missed_list_begin (NfMissedList *self, NfOps *ops, guint room)
{
  room = MAX (room, MAX (self->room, FIRST_ROOM));
  if (!self->found)
    self->found = g_array_new (FALSE, FALSE, sizeof (NfCorrection));
  g_array_set_size (self->found, 0);
  if (!self->buffer || self->room < room)
    {
      g_clear_pointer (&self->buffer, nf_buffer_free);
      self->buffer = nf_ops_alloc (ops, ((gsize)room + 1) * sizeof (NfCorrection) / sizeof (float));
      self->room = room;
    }
  nf_ops_fill (ops, nf_view (self->buffer, 0), 0.0f, 1);
}

gboolean
nf_missed_list_read (NfMissedList *self, NfOps *ops, gboolean *whole, GError **error)
{
  guint32 head[4];
  if (!nf_ops_read (ops, nf_view (self->buffer, 0), head, sizeof head, error))
    return FALSE;
  if (head[0] > NF_MOST_CORRECTIONS)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
                   "decoding would not find %u values of the frame, and %u is the most that can be listed",
                   head[0], NF_MOST_CORRECTIONS);
      return FALSE;
    }
  *whole = head[0] <= self->room;
  if (!*whole)
    {
      self->room = head[0]; /* the next time there is */
      g_clear_pointer (&self->buffer, nf_buffer_free);
      return TRUE;
    }
  g_array_set_size (self->found, head[0]);
  if (head[0] > 0
      && !nf_ops_read (ops, nf_view (self->buffer, G_N_ELEMENTS (head)), self->found->data,
                       head[0] * sizeof (NfCorrection), error))
    return FALSE;
  g_array_sort (self->found, compare);
  return TRUE;
}

NfMissed
nf_missed_list_of_block (const NfMissedList *self, NfBuffer *counts, guint t, guint first_sample)
{
  return (NfMissed){ .counts = counts,
                     .list = self ? self->buffer : NULL,
                     .room = self && self->buffer ? self->room : 0,
                     .first_sample = first_sample,
                     .block = t };
}

NfCorrections
nf_missed_list_get (const NfMissedList *self)
{
  return (NfCorrections){ self->found ? (const NfCorrection *)(gpointer)self->found->data : NULL,
                          self->found ? self->found->len : 0 };
}

/* Those that decoding goes by */

void
nf_corrected_clear (NfCorrectedBlocks *self)
{
  g_clear_pointer (&self->words, nf_buffer_free);
  self->room = 0;
  self->N = 0;
}

void
nf_corrected_set (NfCorrectedBlocks *self, NfOps *ops, const NfCorrections *samples, guint B, guint T,
                  guint N, guint D)
{
  const gsize tokens = (gsize)B * N, heads = T * (tokens + 1);
  gsize n = 0;
  for (guint b = 0; samples && b < B; b++)
    n += samples[b].n;
  self->N = 0;
  if (n == 0)
    return;

  g_autofree gint32 *words = g_new (gint32, heads + 2 * n);
  g_autofree gsize *at = g_new0 (gsize, B);
  gsize end = heads;
  for (guint t = 0; t < T; t++)
    {
      gint32 *head = words + t * (tokens + 1);
      for (guint b = 0; b < B; b++)
        for (guint i = 0; i < N; i++)
          {
            *head++ = (gint32)end;
            for (; at[b] < samples[b].n; at[b]++)
              {
                const NfCorrection *item = &samples[b].items[at[b]];
                if (item->block != t || item->place / D != i)
                  break;
                words[end++] = (gint32)(item->place % D);
                memcpy (&words[end++], &item->value, sizeof item->value);
              }
          }
      *head = (gint32)end;
    }
  if (self->room < end || !self->words)
    {
      g_clear_pointer (&self->words, nf_buffer_free);
      self->words = nf_ops_alloc (ops, end);
      self->room = end;
    }
  nf_ops_write (ops, nf_view (self->words, 0), words, end * sizeof *words);
  self->N = N;
  self->tokens = tokens;
}

NfCorrected
nf_corrected_block (const NfCorrectedBlocks *self, guint t, guint first)
{
  if (self->N == 0)
    return (NfCorrected){ 0 };
  return (NfCorrected){ nf_view (self->words, t * (self->tokens + 1)), self->N, first };
}
