/* normflow: curves and heat maps, by cairo. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plot.h"
#include "files.h"
#include "nf-error.h"

#include <cairo.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include <glib/gstdio.h>

#define WIDTH 1280
#define HEIGHT 560
#define LEFT 84
#define RIGHT 28
#define TOP 64
#define BOTTOM 66
#define LEGEND_ROW 20
#define LEGEND_GAP 24
#define LEGEND_MARK 30
#define MAX_CURVES 6
#define TITLE_SIZE 18
#define PANEL_WIDTH 800
#define SIZE_LIMIT 8192
#define SHEET_PANEL 320
#define SHEET_GAP 12
#define SHEET_NOTE 30

typedef struct
{
  double r;
  double g;
  double b;
} Colour;

/* Distinct for colour-blind eyes too (Okabe and Ito 2008). */
static const Colour curve_colours[MAX_CURVES]
    = { { 0.00, 0.45, 0.70 }, { 0.84, 0.37, 0.00 }, { 0.00, 0.62, 0.45 },
        { 0.80, 0.47, 0.65 }, { 0.34, 0.71, 0.91 }, { 0.35, 0.35, 0.35 } };
/* Dark to bright with even steps of lightness. */
static const Colour heat_colours[]
    = { { 0.02, 0.02, 0.10 }, { 0.27, 0.05, 0.41 }, { 0.55, 0.13, 0.42 }, { 0.82, 0.26, 0.29 },
        { 0.96, 0.49, 0.08 }, { 0.98, 0.76, 0.20 }, { 0.99, 0.99, 0.75 } };

static void
set_colour (cairo_t *cr, Colour c)
{
  cairo_set_source_rgb (cr, c.r, c.g, c.b);
}

static Colour
heat (double t)
{
  double at = CLAMP (t, 0, 1) * (G_N_ELEMENTS (heat_colours) - 1);
  guint i = MIN ((guint)at, G_N_ELEMENTS (heat_colours) - 2);
  double f = at - i;
  Colour a = heat_colours[i], b = heat_colours[i + 1];

  return (Colour){ a.r + f * (b.r - a.r), a.g + f * (b.g - a.g), a.b + f * (b.b - a.b) };
}

/* A step of 1, 2 or 5 times a power of ten that divides RANGE into at most N. */
static double
nice_step (double range, guint n)
{
  double rough = range / n, power = pow (10, floor (log10 (rough))), unit = rough / power;

  return power * (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10);
}

static void
tick_text (char *text, gsize size, double value, double step)
{
  int decimals = step >= 1 ? 0 : (int)ceil (-log10 (step) - 1e-9);

  g_snprintf (text, size, "%.*f", decimals, value);
}

/* ALIGN_X, ALIGN_Y: share of the text's extent left of and above (X, Y). */
static void
draw_text (cairo_t *cr, const char *text, double x, double y, double align_x, double align_y, double size)
{
  cairo_text_extents_t extents;
  cairo_font_extents_t font;

  cairo_set_font_size (cr, size);
  cairo_text_extents (cr, text, &extents);
  cairo_font_extents (cr, &font);
  cairo_move_to (cr, x - align_x * extents.x_advance,
                 y + font.ascent - align_y * (font.ascent + font.descent));
  cairo_show_text (cr, text);
}

static double
text_width (cairo_t *cr, const char *text, double size)
{
  cairo_text_extents_t extents;

  cairo_set_font_size (cr, size);
  cairo_text_extents (cr, text, &extents);
  return extents.x_advance;
}

/* NAME with KEEP of its characters, the middle left out. */
static char *
without_middle (const char *name, glong keep)
{
  const glong head = (keep + 1) / 2, tail = keep - head;
  const char *end = g_utf8_offset_to_pointer (name, head),
             *rest = g_utf8_offset_to_pointer (name, g_utf8_strlen (name, -1) - tail);

  return g_strdup_printf ("%.*s…%s", (int)(end - name), name, rest);
}

/* Where TITLE is wider than the picture, NAME, which is part of it, loses its middle; smaller letters are
 * what is left if that does not do. */
static void
draw_title (cairo_t *cr, const char *title, const char *name, double x, double y, double margin)
{
  const double room = cairo_image_surface_get_width (cairo_get_target (cr)) - x - margin;
  const char *at = strstr (title, name);
  g_autofree char *shown = g_strdup (title);
  double width;

  cairo_set_source_rgb (cr, 0.10, 0.10, 0.10);
  cairo_select_font_face (cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_BOLD);
  width = text_width (cr, shown, TITLE_SIZE);
  for (glong keep = g_utf8_strlen (name, -1) - 2; at && width > room && keep >= 4; keep--)
    {
      g_autofree char *part = without_middle (name, keep);

      g_free (shown);
      shown = g_strdup_printf ("%.*s%s%s", (int)(at - title), title, part, at + strlen (name));
      width = text_width (cr, shown, TITLE_SIZE);
    }
  draw_text (cr, shown, x, y, 0, 0, width > room ? TITLE_SIZE * room / width : TITLE_SIZE);
  cairo_select_font_face (cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
}

/* A plain file has its name once it is complete, so that what fails leaves what there was. */
static gboolean
write_surface (cairo_t *cr, const char *path, GError **error)
{
  cairo_status_t status = cairo_status (cr);
  GStatBuf there;
  const gboolean plain = g_stat (path, &there) != 0 || S_ISREG (there.st_mode);
  g_autofree char *temporary = plain ? nf_temporary_name (path, error) : g_strdup (path);

  if (!temporary)
    return FALSE;
  errno = 0;
  if (status == CAIRO_STATUS_SUCCESS)
    status = cairo_surface_write_to_png (cairo_get_target (cr), temporary);
  if (status != CAIRO_STATUS_SUCCESS)
    g_set_error (error, NF_ERROR, NF_ERROR_WRITE, "%s: the picture cannot be written: %s", path,
                 status == CAIRO_STATUS_WRITE_ERROR && errno ? g_strerror (errno)
                                                             : cairo_status_to_string (status));
  else if (!plain || nf_publish (temporary, path, error))
    return TRUE;
  if (plain)
    g_unlink (temporary);
  return FALSE;
}

static cairo_t *
new_canvas (int width, int height)
{
  cairo_surface_t *surface = cairo_image_surface_create (CAIRO_FORMAT_RGB24, width, height);
  cairo_t *cr = cairo_create (surface);

  cairo_surface_destroy (surface);
  cairo_set_source_rgb (cr, 1, 1, 1);
  cairo_paint (cr);
  cairo_select_font_face (cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
  return cr;
}

typedef struct
{
  double x0;
  double x1;
  double y0;
  double y1;
  double y_step;
  double left;
  double width;
  double bottom;
  double height;
} Axes;

static double
to_x (const Axes *axes, double x)
{
  return axes->left + (x - axes->x0) / (axes->x1 - axes->x0) * axes->width;
}

static double
to_y (const Axes *axes, double y)
{
  return axes->bottom - (y - axes->y0) / (axes->y1 - axes->y0) * axes->height;
}

static void
draw_axes (cairo_t *cr, const Axes *axes, const char *x_label, const char *y_label)
{
  double x_step = nice_step (axes->x1 - axes->x0, 12), y_step = axes->y_step;
  char text[64];

  cairo_set_line_width (cr, 1);
  for (double y = axes->y0; y <= axes->y1 + y_step * 1e-6; y += y_step)
    {
      double at = floor (to_y (axes, y)) + 0.5;

      cairo_set_source_rgb (cr, 0.90, 0.90, 0.90);
      cairo_move_to (cr, axes->left, at);
      cairo_rel_line_to (cr, axes->width, 0);
      cairo_stroke (cr);
      cairo_set_source_rgb (cr, 0.25, 0.25, 0.25);
      tick_text (text, sizeof text, fabs (y) < y_step * 1e-6 ? 0 : y, y_step);
      draw_text (cr, text, axes->left - 8, at, 1, 0.5, 14);
    }
  for (double x = ceil (axes->x0 / x_step - 1e-9) * x_step; x <= axes->x1 + x_step * 1e-9; x += x_step)
    {
      double at = floor (to_x (axes, x)) + 0.5;

      cairo_set_source_rgb (cr, 0.93, 0.93, 0.93);
      cairo_move_to (cr, at, axes->bottom);
      cairo_rel_line_to (cr, 0, -axes->height);
      cairo_stroke (cr);
      cairo_set_source_rgb (cr, 0.25, 0.25, 0.25);
      tick_text (text, sizeof text, fabs (x) < x_step * 1e-6 ? 0 : x, x_step);
      draw_text (cr, text, at, axes->bottom + 7, 0.5, 0, 14);
    }
  cairo_set_source_rgb (cr, 0.25, 0.25, 0.25);
  cairo_move_to (cr, axes->left, floor (to_y (axes, 0)) + 0.5);
  cairo_rel_line_to (cr, axes->width, 0);
  cairo_stroke (cr);
  draw_text (cr, x_label, axes->left + axes->width / 2, HEIGHT - 12, 0.5, 1, 15);
  cairo_save (cr);
  cairo_translate (cr, 14, axes->bottom - axes->height / 2);
  cairo_rotate (cr, -G_PI / 2);
  draw_text (cr, y_label, 0, 0, 0.5, 0, 15);
  cairo_restore (cr);
}

static double
curve_mean (const NfPlotCurve *curve)
{
  double sum = 0;

  for (guint i = 0; i < curve->n; i++)
    sum += curve->y[i];
  return curve->n ? sum / curve->n : 0;
}

/* Curves of many points are drawn as their mean per pixel over a lighter band from lowest to highest. */
static void
draw_curve (cairo_t *cr, const Axes *axes, const NfPlotCurve *curve, Colour colour)
{
  cairo_new_path (cr); /* text leaves a current point */
  cairo_set_line_join (cr, CAIRO_LINE_JOIN_ROUND);
  cairo_set_line_width (cr, 1.8);
  set_colour (cr, colour);
  if (curve->n == 1)
    {
      cairo_arc (cr, to_x (axes, curve->x[0]), to_y (axes, curve->y[0]), 3.5, 0, 2 * G_PI);
      cairo_fill (cr);
      return;
    }
  if (curve->n <= 2 * axes->width)
    {
      for (guint i = 0; i < curve->n; i++)
        cairo_line_to (cr, to_x (axes, curve->x[i]), to_y (axes, curve->y[i]));
      cairo_stroke (cr);
      return;
    }
  for (guint pass = 0; pass < 2; pass++)
    {
      for (guint i = 0; i < curve->n;)
        {
          double column = floor (to_x (axes, curve->x[i])), low = curve->y[i], high = low, sum = 0;
          guint first = i;

          for (; i < curve->n && floor (to_x (axes, curve->x[i])) == column; i++)
            {
              low = MIN (low, curve->y[i]);
              high = MAX (high, curve->y[i]);
              sum += curve->y[i];
            }
          if (pass == 0)
            cairo_rectangle (cr, column, to_y (axes, high), 1, MAX (to_y (axes, low) - to_y (axes, high), 1));
          else
            cairo_line_to (cr, column + 0.5, to_y (axes, sum / (i - first)));
        }
      if (pass == 0)
        {
          cairo_set_source_rgba (cr, colour.r, colour.g, colour.b, 0.25);
          cairo_fill (cr);
          set_colour (cr, colour);
        }
      else
        cairo_stroke (cr);
    }
}

/* The legend stands in rows under the title, where no curve can pass, and as far to the right as it goes. */
typedef struct
{
  char *texts[MAX_CURVES];
  double widths[MAX_CURVES];
  guint rows[MAX_CURVES], n, n_rows;
} Legend;

static void
legend_clear (Legend *legend)
{
  for (guint c = 0; c < legend->n; c++)
    g_free (legend->texts[c]);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Legend, legend_clear)

static void
legend_init (Legend *legend, cairo_t *cr, const NfPlotCurve *curves, guint n)
{
  double used = 0;

  legend->n = n;
  legend->n_rows = 1;
  for (guint c = 0; c < n; c++)
    {
      legend->texts[c] = g_strdup_printf ("%s (mean %.3f)", curves[c].name, curve_mean (&curves[c]));
      legend->widths[c] = LEGEND_MARK + text_width (cr, legend->texts[c], 14);
      if (used > 0 && used + LEGEND_GAP + legend->widths[c] > WIDTH - LEFT - RIGHT)
        {
          legend->n_rows++;
          used = 0;
        }
      used += (used > 0 ? LEGEND_GAP : 0) + legend->widths[c];
      legend->rows[c] = legend->n_rows - 1;
    }
}

static void
draw_legend (cairo_t *cr, const Legend *legend)
{
  double x = WIDTH - RIGHT;

  for (guint c = legend->n; c-- > 0;)
    {
      const double y = 50 + legend->rows[c] * LEGEND_ROW;

      if (c + 1 < legend->n && legend->rows[c] != legend->rows[c + 1])
        x = WIDTH - RIGHT;
      x -= legend->widths[c];
      cairo_set_source_rgb (cr, 0.20, 0.20, 0.20);
      draw_text (cr, legend->texts[c], x + LEGEND_MARK, y, 0, 0.5, 14);
      set_colour (cr, curve_colours[c]);
      cairo_rectangle (cr, x, y - 1.5, 22, 4);
      cairo_fill (cr);
      x -= LEGEND_GAP;
    }
}

gboolean
nf_plot_curves (const char *path, const char *title, const char *name, const char *x_label,
                const char *y_label, const NfPlotCurve *curves, guint n_curves, GError **error)
{
  g_auto (Legend) legend = { 0 };
  Axes axes = { .x0 = INFINITY,
                .x1 = -INFINITY,
                .left = LEFT,
                .width = WIDTH - LEFT - RIGHT,
                .bottom = HEIGHT - BOTTOM,
                .height = HEIGHT - TOP - BOTTOM };
  cairo_t *cr;
  gboolean written;

  g_return_val_if_fail (n_curves <= MAX_CURVES, FALSE);
  for (guint c = 0; c < n_curves; c++)
    for (guint i = 0; i < curves[c].n; i++)
      {
        if (!isfinite (curves[c].x[i]) || !isfinite (curves[c].y[i]))
          {
            g_set_error (error, NF_ERROR, NF_ERROR_DATA,
                         "%s: the curve \"%s\" has values that are not finite", path, curves[c].name);
            return FALSE;
          }
        axes.x0 = MIN (axes.x0, curves[c].x[i]);
        axes.x1 = MAX (axes.x1, curves[c].x[i]);
        axes.y0 = MIN (axes.y0, curves[c].y[i]);
        axes.y1 = MAX (axes.y1, curves[c].y[i]);
      }
  if (!isfinite (axes.x0))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: there is nothing to plot", path);
      return FALSE;
    }
  if (axes.x1 <= axes.x0)
    axes.x1 = axes.x0 + 1;
  if (axes.y1 <= axes.y0)
    axes.y1 = 1;
  axes.y_step = nice_step (axes.y1 - axes.y0, 8);
  axes.y0 = floor (axes.y0 / axes.y_step + 1e-9) * axes.y_step;
  axes.y1 = ceil (axes.y1 / axes.y_step - 1e-9) * axes.y_step;

  cr = new_canvas (WIDTH, HEIGHT);
  draw_title (cr, title, name, LEFT, 14, RIGHT);
  legend_init (&legend, cr, curves, n_curves);
  axes.height -= (legend.n_rows - 1) * LEGEND_ROW;
  draw_axes (cr, &axes, x_label, y_label);

  for (guint c = n_curves; c-- > 0;)
    {
      draw_curve (cr, &axes, &curves[c], curve_colours[c]);
      if (curves[c].mean && curves[c].n > 1)
        {
          static const double dashes[] = { 7, 5 };
          double y = to_y (&axes, curve_mean (&curves[c]));

          cairo_save (cr);
          cairo_set_source_rgba (cr, curve_colours[c].r, curve_colours[c].g, curve_colours[c].b, 0.8);
          cairo_set_dash (cr, dashes, 2, 0);
          cairo_set_line_width (cr, 1.2);
          cairo_move_to (cr, axes.left, y);
          cairo_rel_line_to (cr, axes.width, 0);
          cairo_stroke (cr);
          cairo_restore (cr);
        }
    }
  draw_legend (cr, &legend);
  written = write_surface (cr, path, error);
  cairo_destroy (cr);
  return written;
}

static cairo_surface_t *
picture_surface (NfPicture *rgb)
{
  guint width = rgb->frame.width, height = rgb->frame.height;
  cairo_surface_t *surface = cairo_image_surface_create (CAIRO_FORMAT_RGB24, (int)width, (int)height);
  guint8 *data = cairo_image_surface_get_data (surface);
  int stride = cairo_image_surface_get_stride (surface);

  cairo_surface_flush (surface);
  for (guint y = 0; data && y < height; y++)
    {
      guint32 *row = (guint32 *)(gpointer)(data + (gsize)y * stride);
      gsize at = (gsize)y * width;

      for (guint x = 0; x < width; x++, at++)
        row[x] = (guint32)rgb->frame.planes[0].data[at] << 16 | (guint32)rgb->frame.planes[1].data[at] << 8
                 | rgb->frame.planes[2].data[at];
    }
  cairo_surface_mark_dirty (surface);
  return surface;
}

static void
draw_scale (cairo_t *cr, double x, double y, double height, double low, double high, const char *unit)
{
  double step = nice_step (high - low, 6);
  char text[64];

  for (guint i = 0; i < (guint)height; i++)
    {
      set_colour (cr, heat (1 - i / height));
      cairo_rectangle (cr, x, y + i, 18, 1.5);
      cairo_fill (cr);
    }
  cairo_set_source_rgb (cr, 0.25, 0.25, 0.25);
  for (double v = ceil (low / step - 1e-9) * step; v <= high + step * 1e-9; v += step)
    {
      double at = y + height * (1 - (v - low) / (high - low));

      cairo_set_line_width (cr, 1);
      cairo_move_to (cr, x + 18, at);
      cairo_rel_line_to (cr, 5, 0);
      cairo_stroke (cr);
      tick_text (text, sizeof text, fabs (v) < step * 1e-6 ? 0 : v, step);
      draw_text (cr, text, x + 28, at, 0, 0.5, 13);
    }
  cairo_save (cr);
  cairo_translate (cr, x + 78, y + height / 2);
  cairo_rotate (cr, -G_PI / 2);
  draw_text (cr, unit, 0, 0, 0.5, 0.5, 14);
  cairo_restore (cr);
}

static int
compare_floats (gconstpointer a, gconstpointer b)
{
  float x = *(const float *)a, y = *(const float *)b;

  return (x > y) - (x < y);
}

gboolean
nf_plot_map (const char *path, const char *title, const char *name, const char *unit, NfPicture *picture,
             const float *map, guint columns, guint rows, guint patch, GError **error)
{
  g_autoptr (NfPicture) rgb = nf_picture_to_rgb (picture, error);
  g_autofree float *sorted = g_memdup2 (map, (gsize)columns * rows * sizeof (float));
  gsize n = (gsize)columns * rows;
  double scale, width, height, low, high;
  cairo_surface_t *frame;
  cairo_t *cr;
  gboolean written;

  if (!rgb)
    return FALSE;
  for (gsize i = 0; i < n; i++)
    if (!isfinite (map[i]))
      {
        g_set_error (error, NF_ERROR, NF_ERROR_DATA, "%s: the map has values that are not finite", path);
        return FALSE;
      }
  /* A few extreme tokens must not leave the rest one colour. */
  qsort (sorted, n, sizeof *sorted, compare_floats);
  low = sorted[n / 200];
  high = sorted[n - 1 - n / 200];
  if (high - low < 1e-3)
    high = low + 1e-3;

  scale = (double)PANEL_WIDTH / rgb->frame.width;
  width = PANEL_WIDTH;
  height = MAX (ceil (rgb->frame.height * scale), 1);
  if (height > SIZE_LIMIT)
    {
      scale *= SIZE_LIMIT / height;
      width = MAX (ceil (rgb->frame.width * scale), 1);
      height = SIZE_LIMIT;
    }
  cr = new_canvas ((int)(2 * width + 160), (int)(MAX (height, 160) + 86));
  draw_title (cr, title, name, 24, 16, 24);

  frame = picture_surface (rgb);
  for (guint panel = 0; panel < 2; panel++)
    {
      cairo_save (cr);
      cairo_translate (cr, 24 + panel * (width + 16), 56);
      cairo_rectangle (cr, 0, 0, width, height);
      cairo_clip (cr);
      cairo_scale (cr, scale, scale);
      cairo_set_source_surface (cr, frame, 0, 0);
      cairo_pattern_set_filter (cairo_get_source (cr), CAIRO_FILTER_GOOD);
      cairo_paint (cr);
      if (panel == 1)
        {
          cairo_set_antialias (cr, CAIRO_ANTIALIAS_NONE);
          for (guint r = 0; r < rows; r++)
            for (guint c = 0; c < columns; c++)
              {
                Colour colour = heat ((map[(gsize)r * columns + c] - low) / (high - low));

                cairo_set_source_rgba (cr, colour.r, colour.g, colour.b, 0.88);
                cairo_rectangle (cr, (double)c * patch, (double)r * patch, patch, patch);
                cairo_fill (cr);
              }
        }
      cairo_restore (cr);
    }
  cairo_surface_destroy (frame);
  draw_scale (cr, 2 * width + 58, 56, MAX (height, 120), low, high, unit);
  written = write_surface (cr, path, error);
  cairo_destroy (cr);
  return written;
}

gboolean
nf_plot_sheet (const char *path, const char *title, const char *name, const char *const *captions,
               guint n_columns, NfPicture *const *pictures, const char *const *notes, guint n_rows,
               GError **error)
{
  const double pitch = SHEET_PANEL + SHEET_GAP;
  double height = 0;
  cairo_t *cr;
  gboolean written;

  g_return_val_if_fail (n_columns > 0 && n_rows > 0, FALSE);
  for (guint i = 0; i < n_columns * n_rows; i++)
    height = MAX (height, ceil ((double)SHEET_PANEL * pictures[i]->frame.height / pictures[i]->frame.width));
  height = MIN (height, SIZE_LIMIT / n_rows);

  cr = new_canvas ((int)(n_columns * pitch + SHEET_GAP), (int)(80 + n_rows * (height + SHEET_NOTE)));
  draw_title (cr, title, name, SHEET_GAP, 14, SHEET_GAP);
  cairo_select_font_face (cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_BOLD);
  for (guint c = 0; c < n_columns; c++)
    draw_text (cr, captions[c], SHEET_GAP + c * pitch, 50, 0, 0, 15);
  cairo_select_font_face (cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);

  for (guint i = 0; i < n_columns * n_rows; i++)
    {
      const double x = SHEET_GAP + i % n_columns * pitch, y = 74 + i / n_columns * (height + SHEET_NOTE);
      g_autoptr (NfPicture) rgb = nf_picture_to_rgb (pictures[i], error);
      if (!rgb)
        {
          cairo_destroy (cr);
          return FALSE;
        }
      const double scale = MIN ((double)SHEET_PANEL / rgb->frame.width, height / rgb->frame.height);
      cairo_surface_t *frame = picture_surface (rgb);

      cairo_save (cr);
      cairo_translate (cr, x, y);
      cairo_scale (cr, scale, scale);
      cairo_set_source_surface (cr, frame, 0, 0);
      cairo_pattern_set_filter (cairo_get_source (cr), scale < 1 ? CAIRO_FILTER_GOOD : CAIRO_FILTER_NEAREST);
      cairo_paint (cr);
      cairo_restore (cr);
      cairo_surface_destroy (frame);
      cairo_set_source_rgb (cr, 0.30, 0.30, 0.30);
      draw_text (cr, notes[i], x, y + height + 5, 0, 0, 13);
    }
  written = write_surface (cr, path, error);
  cairo_destroy (cr);
  return written;
}
