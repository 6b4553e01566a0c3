/* normflow: drawing worlds, and reading drawn ones. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-world-private.h"

#include <math.h>
#include <string.h>

#define UNIT NF_WORLD_LATTICE
#define SAMPLES (UNIT * UNIT) /* of a pixel */

typedef struct
{
  guint8 r, g, b;
} Colour;

/* Apart in grey too, by more than the samples of a pixel: so each share of the ball in a pixel has its own
 * value. */
static const Colour background = { 20, 24, 44 }, wall = { 112, 116, 128 }, ball = { 252, 236, 96 },
                    paddle = { 88, 204, 252 }, block = { 248, 104, 88 }, marker = { 252, 252, 252 },
                    marker_edge = { 8, 8, 8 };
static const Colour kinds[NF_WORLD_KINDS]
    = { { 44, 92, 52 }, { 188, 160, 92 }, { 28, 44, 120 }, { 128, 128, 136 } };

/* Drawing */

static void
fill (NfWorld *self, gint x0, gint y0, gint x1, gint y1, Colour colour)
{
  x0 = MAX (x0, 0);
  y0 = MAX (y0, 0);
  x1 = MIN (x1, self->width);
  y1 = MIN (y1, self->height);
  for (gint y = y0; y < y1; y++)
    {
      guint8 *pixel = self->canvas + 3 * ((gsize)y * self->width + x0);
      for (gint x = x0; x < x1; x++, pixel += 3)
        {
          pixel[0] = colour.r;
          pixel[1] = colour.g;
          pixel[2] = colour.b;
        }
    }
}

static guint8
mix (guint8 from, guint8 to, guint share)
{
  return (guint8)((from * (SAMPLES - share) + to * share + SAMPLES / 2) / SAMPLES);
}

/* The floor of the square root. */
static gint
root (gint64 value)
{
  gint64 x = (gint64)sqrt ((double)value);
  while (x * x > value)
    x--;
  while ((x + 1) * (x + 1) <= value)
    x++;
  return (gint)x;
}

/* A disc around the ball's centre, of those lattice cells whose middle is inside. */
static void
draw_ball (NfWorld *self)
{
  const gint r = self->geometry.radius, left = (self->ball.x - r) / UNIT, top = (self->ball.y - r) / UNIT;
  const gint columns = (self->ball.x + r + UNIT - 1) / UNIT - left,
             rows = (self->ball.y + r + UNIT - 1) / UNIT - top;
  g_autofree guint *shares = g_new (guint, columns);

  for (gint row = 0; row < rows; row++)
    {
      memset (shares, 0, sizeof *shares * columns);
      for (gint sub = 0; sub < UNIT; sub++)
        {
          /* Twice the distance of the samples' middles from the centre: odd numbers. */
          const gint64 dy = 2 * (gint64)((top + row) * UNIT + sub - self->ball.y) + 1;
          const gint64 rest = 4 * (gint64)r * r - dy * dy;
          if (rest < 1)
            continue;
          const gint half = (root (rest) + 1) / 2; /* samples to either side */
          gint from = self->ball.x - half;
          const gint to = self->ball.x + half;
          while (from < to)
            {
              const gint end = MIN ((from / UNIT + 1) * UNIT, to);
              shares[from / UNIT - left] += end - from;
              from = end;
            }
        }
      guint8 *pixel = self->canvas + 3 * ((gsize)(top + row) * self->width + left);
      for (gint column = 0; column < columns; column++, pixel += 3)
        {
          pixel[0] = mix (pixel[0], ball.r, shares[column]);
          pixel[1] = mix (pixel[1], ball.g, shares[column]);
          pixel[2] = mix (pixel[2], ball.b, shares[column]);
        }
    }
}

static gint
block_left (const NfWorldGeometry *g, gint i)
{
  return g->score_pitch / 2 + i * g->score_pitch;
}

static void
draw_court (NfWorld *self)
{
  const NfWorldGeometry *g = &self->geometry;
  const gboolean pong = self->pattern == NF_WORLD_PONG;

  fill (self, 0, 0, self->width, self->height, background);
  fill (self, 0, g->top - g->wall, self->width, g->top, wall);
  fill (self, 0, g->bottom, self->width, g->bottom + g->wall, wall);
  fill (self, g->right, g->top, g->right + g->wall, g->bottom, wall);
  if (pong)
    {
      for (gint i = 0; i < self->ball.score; i++)
        fill (self, block_left (g, i), g->score_top, block_left (g, i) + g->score_width,
              g->score_top + g->score_height, block);
      fill (self, g->paddle_left, self->ball.paddle, g->left, self->ball.paddle + g->paddle_height, paddle);
    }
  else
    fill (self, 0, g->top, g->left, g->bottom, wall);
  draw_ball (self);
}

static void
draw_map (NfWorld *self)
{
  const NfWorldGeometry *g = &self->geometry;
  const gint x0 = -(self->camera_x % g->cell), y0 = -(self->camera_y % g->cell);
  gint row = self->camera_y / g->cell;

  for (gint y = y0; y < self->height; y += g->cell, row++)
    {
      gint column = self->camera_x / g->cell;
      for (gint x = x0; x < self->width; x += g->cell, column++)
        fill (self, x, y, x + g->cell, y + g->cell,
              kinds[self->cells[(gsize)(row % g->map_rows) * g->map_columns + column % g->map_columns]]);
    }
  const gint x = (self->width - g->marker) / 2, y = (self->height - g->marker) / 2, edge = g->marker / 4;
  fill (self, x, y, x + g->marker, y + g->marker, marker_edge);
  fill (self, x + edge, y + edge, x + g->marker - edge, y + g->marker - edge, marker);
}

/* From the canvas to planes */

static guint8
full_luma (const guint8 *rgb)
{
  return (guint8)((77 * rgb[0] + 150 * rgb[1] + 29 * rgb[2] + 128) >> 8);
}

static guint8
limited_luma (const guint8 *rgb)
{
  return (guint8)(((66 * rgb[0] + 129 * rgb[1] + 25 * rgb[2] + 128) >> 8) + 16);
}

static guint8 *
sample_at (const NfPlane *plane, gint x, gint y)
{
  return plane->data + (gssize)y * plane->stride + (gssize)x * plane->step;
}

/* The mean of a 2×2 square, whose last row and column may be the frame's last once more. */
static void
put_chroma (const NfWorld *self, NfFrame *frame, gint x, gint y)
{
  gint sum[3] = { 0 };
  for (gint dy = 0; dy < 2; dy++)
    for (gint dx = 0; dx < 2; dx++)
      {
        const gsize row = MIN (2 * y + dy, self->height - 1), column = MIN (2 * x + dx, self->width - 1);
        for (gint c = 0; c < 3; c++)
          sum[c] += self->canvas[3 * (row * self->width + column) + c];
      }
  for (gint c = 0; c < 3; c++)
    sum[c] = (sum[c] + 2) / 4;
  /* 32768 keeps what is shifted positive */
  *sample_at (&frame->planes[1], x, y)
      = (guint8)((-38 * sum[0] - 74 * sum[1] + 112 * sum[2] + 128 + 32768) >> 8);
  *sample_at (&frame->planes[2], x, y)
      = (guint8)((112 * sum[0] - 94 * sum[1] - 18 * sum[2] + 128 + 32768) >> 8);
}

void
nf_world_render (NfWorld *self, NfPixelLayout layout, NfFrame *frame)
{
  g_return_if_fail (self && frame);
  g_return_if_fail (frame->width == (guint)self->width && frame->height == (guint)self->height);
  if (!self->canvas)
    self->canvas = g_malloc ((gsize)3 * self->width * self->height);
  if (self->belief)
    draw_court (self);
  else
    draw_map (self);

  for (gint y = 0; y < self->height; y++)
    for (gint x = 0; x < self->width; x++)
      {
        const guint8 *rgb = self->canvas + 3 * ((gsize)y * self->width + x);
        switch (layout)
          {
          case NF_PIXELS_RGB:
            for (guint c = 0; c < 3; c++)
              *sample_at (&frame->planes[c], x, y) = rgb[c];
            break;
          case NF_PIXELS_GRAY:
            *sample_at (&frame->planes[0], x, y) = full_luma (rgb);
            break;
          case NF_PIXELS_YUV420:
            *sample_at (&frame->planes[0], x, y) = limited_luma (rgb);
            break;
          case NF_PIXELS_LATENT:
            g_return_if_reached ();
          }
      }
  if (layout != NF_PIXELS_YUV420)
    return;
  guint width, height;
  nf_frame_plane_size (frame, layout, 1, &width, &height);
  for (guint y = 0; y < height; y++)
    for (guint x = 0; x < width; x++)
      put_chroma (self, frame, (gint)x, (gint)y);
}

/* Reading: how much of a colour is in a pixel, between the background's and the colour's own */

typedef struct
{
  const NfFrame *frame;
  guint channels; /* three, or luma alone */
  double from[3];
  double direction[3]; /* over its square */
} Gauge;

static void
gauge_init (Gauge *gauge, NfPixelLayout layout, const NfFrame *frame, Colour colour)
{
  const guint8 a[3] = { background.r, background.g, background.b }, b[3] = { colour.r, colour.g, colour.b };
  double square = 0;
  *gauge = (Gauge){ .frame = frame, .channels = layout == NF_PIXELS_RGB ? 3 : 1 };
  for (guint c = 0; c < gauge->channels; c++)
    {
      const gboolean limited = layout == NF_PIXELS_YUV420;
      gauge->from[c] = gauge->channels == 3 ? a[c] : limited ? limited_luma (a) : full_luma (a);
      gauge->direction[c] = (gauge->channels == 3 ? b[c]
                             : limited            ? limited_luma (b)
                                                  : full_luma (b))
                            - gauge->from[c];
      square += gauge->direction[c] * gauge->direction[c];
    }
  for (guint c = 0; c < gauge->channels; c++)
    gauge->direction[c] /= square;
}

static double
gauge_at (const Gauge *gauge, gint x, gint y)
{
  double share = 0;
  for (guint c = 0; c < gauge->channels; c++)
    share += (*sample_at (&gauge->frame->planes[c], x, y) - gauge->from[c]) * gauge->direction[c];
  return CLAMP (share, 0, 1);
}

static double
gauge_mean (const Gauge *gauge, gint x0, gint y0, gint x1, gint y1)
{
  double sum = 0;
  for (gint y = y0; y < y1; y++)
    for (gint x = x0; x < x1; x++)
      sum += gauge_at (gauge, x, y);
  return sum / ((double)(x1 - x0) * (y1 - y0));
}

#define GROW 0.3  /* and from which it is, beside one that is */
#define SEEN 0.5  /* share from which a pixel is the ball's */
#define EDGE 0.15 /* and from which it counts for the centre */
#define SPECK 0.4 /* of a ball's area: less is none */

/* The sum of shares of the blob that X, Y is in, whose pixels are marked in DONE; COLUMNS wide court. */
static double
take_blob (const double *shares, gint columns, gint rows, guint8 *done, gint x, gint y, GArray *stack)
{
  double sum = 0;
  gint at = y * columns + x;
  done[at] = 1;
  g_array_set_size (stack, 0);
  g_array_append_val (stack, at);
  while (stack->len > 0)
    {
      at = g_array_index (stack, gint, stack->len - 1);
      g_array_set_size (stack, stack->len - 1);
      sum += shares[at];
      for (gint dy = -1; dy <= 1; dy++)
        for (gint dx = -1; dx <= 1; dx++)
          {
            const gint nx = at % columns + dx, ny = at / columns + dy, next = ny * columns + nx;
            if (nx < 0 || ny < 0 || nx >= columns || ny >= rows || done[next] || shares[next] < GROW)
              continue;
            done[next] = 1;
            g_array_append_val (stack, next);
          }
    }
  return sum;
}

/* The centre of gravity around a first guess, with the smooth edge. */
static void
centre (const double *shares, gint columns, gint rows, double reach, double *cx, double *cy)
{
  for (guint pass = 0; pass < 3; pass++)
    {
      double sum = 0, sx = 0, sy = 0;
      for (gint y = MAX (0, (gint)(*cy - reach)); y < MIN (rows, *cy + reach); y++)
        for (gint x = MAX (0, (gint)(*cx - reach)); x < MIN (columns, *cx + reach); x++)
          {
            const double share = shares[y * columns + x];
            const double dx = x + 0.5 - *cx, dy = y + 0.5 - *cy;
            if (share < EDGE || dx * dx + dy * dy > reach * reach)
              continue;
            sum += share;
            sx += share * (x + 0.5);
            sy += share * (y + 0.5);
          }
      if (sum <= 0)
        return;
      *cx = sx / sum;
      *cy = sy / sum;
    }
}

static void
read_balls (const NfWorldGeometry *g, NfPixelLayout layout, const NfFrame *frame, NfWorldReading *reading)
{
  const gint columns = g->right - g->left, rows = g->bottom - g->top;
  const double r = (double)g->radius / UNIT, area = G_PI * r * r;
  g_autofree double *shares = g_new (double, (gsize)columns *rows);
  g_autofree guint8 *done = g_malloc0 ((gsize)columns * rows);
  g_autoptr (GArray) stack = g_array_new (FALSE, FALSE, sizeof (gint));
  double largest = 0;
  Gauge gauge;

  gauge_init (&gauge, layout, frame, ball);
  for (gint y = 0; y < rows; y++)
    for (gint x = 0; x < columns; x++)
      shares[y * columns + x] = gauge_at (&gauge, g->left + x, g->top + y);
  for (gint y = 0; y < rows; y++)
    for (gint x = 0; x < columns; x++)
      {
        if (done[y * columns + x] || shares[y * columns + x] < SEEN)
          continue;
        const double size = take_blob (shares, columns, rows, done, x, y, stack) / area;
        if (size < SPECK)
          continue;
        reading->n_balls += (guint)MAX (1, size + 0.5);
        if (size <= largest)
          continue;
        largest = size;
        /* The first pixel met is at its top; its middle is a radius below. */
        reading->ball_x = x + 0.5;
        reading->ball_y = y + r;
      }
  if (reading->n_balls == 0)
    return;
  centre (shares, columns, rows, r + 1.5, &reading->ball_x, &reading->ball_y);
  reading->ball_x += g->left;
  reading->ball_y += g->top;
}

static void
read_paddle (const NfWorldGeometry *g, NfPixelLayout layout, const NfFrame *frame, NfWorldReading *reading)
{
  double sum = 0, moment = 0;
  Gauge gauge;

  gauge_init (&gauge, layout, frame, paddle);
  for (gint y = g->top; y < g->bottom; y++)
    {
      const double share = gauge_mean (&gauge, g->paddle_left, y, g->left, y + 1);
      if (share < SEEN)
        continue;
      sum += share;
      moment += share * (y + 0.5);
    }
  reading->has_paddle = sum >= 0.6 * g->paddle_height && sum <= 1.5 * g->paddle_height;
  if (reading->has_paddle)
    reading->paddle_y = moment / sum;
}

#define IN_PLACE 0.75 /* of a wall, so much of its colour is there */
#define CLEAR 0.25    /* of a row or column inside, where the ball may be: a patch of wall is more */

static void
read_walls (const NfWorld *self, NfPixelLayout layout, const NfFrame *frame, NfWorldReading *reading)
{
  const NfWorldGeometry *g = &self->geometry;
  Gauge gauge;

  gauge_init (&gauge, layout, frame, wall);
  reading->has_walls
      = gauge_mean (&gauge, 0, g->top - g->wall, self->width, g->top) >= IN_PLACE
        && gauge_mean (&gauge, 0, g->bottom, self->width, g->bottom + g->wall) >= IN_PLACE
        && gauge_mean (&gauge, g->right, g->top, g->right + g->wall, g->bottom) >= IN_PLACE
        && (self->pattern == NF_WORLD_PONG || gauge_mean (&gauge, 0, g->top, g->left, g->bottom) >= IN_PLACE);
  for (gint y = g->top; y < g->bottom; y++)
    reading->has_walls = reading->has_walls && gauge_mean (&gauge, g->left, y, g->right, y + 1) < CLEAR;
  for (gint x = g->left; x < g->right; x++)
    reading->has_walls = reading->has_walls && gauge_mean (&gauge, x, g->top, x + 1, g->bottom) < CLEAR;
}

void
nf_world_read_frame (const NfWorld *self, NfPixelLayout layout, const NfFrame *frame, NfWorldReading *reading)
{
  const NfWorldGeometry *g = &self->geometry;
  Gauge gauge;

  g_return_if_fail (self && frame && reading);
  g_return_if_fail (frame->width == (guint)self->width && frame->height == (guint)self->height);
  *reading = (NfWorldReading){ .ball_x = NAN, .ball_y = NAN, .paddle_y = NAN, .score = -1 };
  if (!self->belief)
    return;
  read_balls (g, layout, frame, reading);
  read_walls (self, layout, frame, reading);
  if (self->pattern != NF_WORLD_PONG)
    return;
  read_paddle (g, layout, frame, reading);
  reading->score = 0;
  gauge_init (&gauge, layout, frame, block);
  for (gint i = 0; i < NF_WORLD_BLOCKS; i++)
    reading->score += gauge_mean (&gauge, block_left (g, i), g->score_top, block_left (g, i) + g->score_width,
                                  g->score_top + g->score_height)
                      >= SEEN;
}
