/* normflow: memory in large pages. SPDX-License-Identifier: LGPL-2.1-or-later */
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#include "nf-pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE ((gsize)2 << 20)

#define ALIGNMENT 128 /* of the largest vectors of OpenCL */

struct _NfPages
{
  void *memory;
  void *mapped; /* NULL if memory is from malloc() */
  gsize mapped_size;
};

/* NULL where there are no large pages, or SIZE is too small for them. */
static NfPages *
map (gsize size)
{
#ifdef MADV_HUGEPAGE
  /* the last page counts whole, if most of it would be used */
  const gsize room = size % PAGE > PAGE / 2 ? (size / PAGE + 1) * PAGE : size, mapped_size = room + PAGE;
  if (room < PAGE || mapped_size < size)
    return NULL;
  char *mapped = mmap (NULL, mapped_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return NULL;
  NfPages *self = g_new0 (NfPages, 1);
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

NfPages *
nf_pages_new (gsize size)
{
  NfPages *self = map (size);
  void *memory = NULL;
  if (self)
    return self;
  if (size > G_MAXSIZE - ALIGNMENT || posix_memalign (&memory, ALIGNMENT, size) != 0)
    return NULL;
  memset (memory, 0, size);
  self = g_new0 (NfPages, 1);
  self->memory = memory;
  return self;
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
  if (self->mapped)
    munmap (self->mapped, self->mapped_size);
  else
    free (self->memory);
  g_free (self);
}
