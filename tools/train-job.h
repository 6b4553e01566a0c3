/* normflow: the training of a run. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "common.h"
#include "train-run.h"

G_BEGIN_DECLS

/* Trains until the last step, or until COMMAND is cancelled, with validation, log, samples, checkpoints and
 * the best model. What was learnt is kept, whatever stops it. */
gboolean nf_train_job (NfCommand *command, NfTrainRun *run, const NfTrainPlaces *places, GError **error);

G_END_DECLS
