/* normflow: the world that is a map of cells, gridworld. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-world-private.h"

#include "nf-random.h"

#define STREAM_MAP 0x70616du /* the counter is the cell */
#define LEAST_CELLS 64       /* to a side of the map */

const guint8 nf_map_bits[NF_WORLD_KINDS] = { 1, 2, 3, 3 };

void
nf_map_init_geometry (gint width, gint height, NfWorldGeometry *g)
{
  const gint cell = nf_world_scale (width, height, 8, 2);
  *g = (NfWorldGeometry){ .cell = cell,
                          .scroll = MAX (cell / 4, 1),
                          .marker = cell / 2,
                          /* more than is ever in view, so that no cell is there twice */
                          .map_columns = MAX (LEAST_CELLS, width / cell + 2),
                          .map_rows = MAX (LEAST_CELLS, height / cell + 2) };
}

void
nf_map_scroll (const NfWorld *self, guint action, gint *x, gint *y)
{
  const NfWorldGeometry *g = &self->geometry;
  static const gint dx[] = { 0, 0, 0, -1, 1 }, dy[] = { 0, -1, 1, 0, 0 };
  const gint width = g->map_columns * g->cell, height = g->map_rows * g->cell;
  *x = (*x + dx[action] * g->scroll + width) % width;
  *y = (*y + dy[action] * g->scroll + height) % height;
}

/* The first and last column or row in view, the last one not yet wrapped. */
static void
in_view (const NfWorld *self, gint at, gint extent, gint *first, gint *last)
{
  *first = at / self->geometry.cell;
  *last = (at + extent - 1) / self->geometry.cell;
}

typedef double (*CellFunc) (NfWorld *self, gsize cell);

/* The sum of FUNC over the cells in view at X, Y that were never seen. */
static double
over_unseen (NfWorld *self, gint x, gint y, CellFunc func)
{
  const NfWorldGeometry *g = &self->geometry;
  gint left, right, top, bottom;
  double sum = 0;
  in_view (self, x, self->width, &left, &right);
  in_view (self, y, self->height, &top, &bottom);
  for (gint row = top; row <= bottom; row++)
    for (gint column = left; column <= right; column++)
      {
        const gsize cell = (gsize)(row % g->map_rows) * g->map_columns + column % g->map_columns;
        if (self->cells[cell] == NF_WORLD_UNSEEN)
          sum += func (self, cell);
      }
  return sum;
}

static double
count_cell (NfWorld *self, gsize cell)
{
  return 1;
}

static double
draw_cell (NfWorld *self, gsize cell)
{
  guint32 words[4];
  guint kind = 0;
  nf_random_u32x4 (self->seed, STREAM_MAP, cell, words);
  /* halves: the first is kind 0, half of the rest kind 1, and so on */
  while (kind < NF_WORLD_KINDS - 1 && words[0] >> (31 - kind) & 1)
    kind++;
  self->cells[cell] = (guint8)kind;
  return nf_map_bits[kind];
}

guint
nf_map_count_unseen (const NfWorld *self, gint x, gint y)
{
  return (guint)over_unseen ((NfWorld *)self, x, y, count_cell);
}

double
nf_map_look (NfWorld *self)
{
  return over_unseen (self, self->camera_x, self->camera_y, draw_cell);
}
