/* normflow: curves and heat maps, by cairo. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "media.h"

G_BEGIN_DECLS

/* Titles of all pictures: NAME, a part of TITLE, has its middle left out where the picture is not as wide.
 * All text is UTF-8. */

/* One curve: N points, x ascending; MEAN adds a dashed line at the mean of y. */
typedef struct
{
  const char *name;
  const double *x;
  const double *y;
  guint n;
  gboolean mean;
} NfPlotCurve;

/* Writes a PNG with up to six curves over common axes; the y axis begins at 0, or at a
 * round number under the lowest value. */
gboolean nf_plot_curves (const char *path, const char *title, const char *name, const char *x_label,
                         const char *y_label, const NfPlotCurve *curves, guint n_curves, GError **error);

/* Writes a PNG: the picture, beside it MAP (rows of COLUMNS values, one for PATCH×PATCH pixels) in colours
 * over it, and the scale of colours. */
gboolean nf_plot_map (const char *path, const char *title, const char *name, const char *unit,
                      NfPicture *picture, const float *map, guint columns, guint rows, guint patch,
                      GError **error);

/* Writes a PNG with N_ROWS rows of N_COLUMNS pictures, row after row, each with a note under it, and a
 * caption over each column. Pictures are shown in colour, all of one column as wide. */
gboolean nf_plot_sheet (const char *path, const char *title, const char *name, const char *const *captions,
                        guint n_columns, NfPicture *const *pictures, const char *const *notes, guint n_rows,
                        GError **error);

G_END_DECLS
