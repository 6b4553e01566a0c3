/* normflow: memory in large pages. SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#include "nf-pages.h"

#include <sys/mman.h>

#define PAGE ((gsize)2 << 20)

struct _NfPages
{
  void *mapped, *memory;
  gsize mapped_size;
};

NfPages *
nf_pages_new (gsize size)
{
#ifdef MADV_HUGEPAGE
  /* the last page counts whole, if most of it would be used */
  const gsize room = size % PAGE > PAGE / 2 ? (size / PAGE + 1) * PAGE : size, mapped_size = room + PAGE;
  if (room < PAGE || mapped_size < size)
    return NULL;
  char *mapped = mmap (NULL, mapped_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return NULL;
  NfPages *self = g_new (NfPages, 1);
  self->mapped = mapped;
  self->mapped_size = mapped_size;
  self->memory = mapped + (PAGE - (guintptr)mapped % PAGE) % PAGE;
  /* without them it is memory all the same */
  (void)madvise (self->memory, room, MADV_HUGEPAGE);
  return self;
#else
  return NULL;
#endif
}

void *
nf_pages_get_memory (NfPages *self)
{
  return self->memory;
}

void
nf_pages_free (NfPages *self)
{
  if (!self)
    return;
  munmap (self->mapped, self->mapped_size);
  g_free (self);
}
