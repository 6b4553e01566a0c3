/* normflow: whether the frames of a video come evenly. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "times.h"

#include <math.h>

/* Even times that a container rounded to its ticks are less than one of these off. */
void
nf_times_watch (NfTimes *self, const NfMediaInfo *info, const NfPicture *picture)
{
  const double step = (double)info->rate_d / info->rate_n,
               gap = self->n ? picture->seconds - self->last : NAN;

  if (!self->uneven && isfinite (gap) && fabs (gap - step) > MAX (step / 4, info->tick * 0.999))
    {
      self->uneven = picture->index;
      self->gap = gap;
    }
  self->last = picture->seconds;
  self->n++;
}

void
nf_times_tell (const NfTimes *self, NfCommand *command, const char *input, const char *written, int rate_n,
               int rate_d)
{
  if (self->uneven && !command->quiet)
    nf_progress_note (command->progress,
                      "normflow %s: note: the frames of %s come at uneven times (frame %" G_GUINT64_FORMAT
                      " %.3g s after the one before); %s %.6g a second",
                      command->name, input, self->uneven, self->gap, written, (double)rate_n / rate_d);
}
