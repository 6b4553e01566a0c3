/* normflow: PyTorch's checkpoints. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-tensor-file.h"

/* Not installed. What torch.save() wrote of a module's or trainer's state: since PyTorch 1.6 a ZIP archive of
 * a pickle and one member for each storage, before that ("legacy") pickles and storages one after the other.
 */

/* TRUE if the SIZE bytes of DATA begin like one. */
gboolean nf_torch_file_is (const guint8 *data, gsize size);

/* Appends to TENSORS (of NfTensor) the weights of the checkpoint in the SIZE bytes of DATA, which must
 * outlive them. A tensor that does not lie row by row in its storage is copied; its bytes go to COPIES, which
 * must outlive them as well. All sizes are checked against SIZE first, so that what a checkpoint claims costs
 * no memory.
 *
 * Weights are a dictionary of names and tensors: the checkpoint itself, or one inside of its dictionaries
 * ("model", "ema", ...); if there are several, STATE must be the name of one. What wrapping a module adds to
 * names ("module.", "_orig_mod.",
 * "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.") is taken away.
 *
 * FALSE with %NF_ERROR_FORMAT, %NF_ERROR_ARGUMENT (STATE is missing or wrong) or %NF_ERROR_NO_MEMORY. */
gboolean nf_torch_file_read (const guint8 *data, gsize size, const char *path, const char *state,
                             GArray *tensors, GPtrArray *copies, GError **error);
