/* normflow: normalizing flows for video, on OpenCL. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <nf-error.h>
#include <nf-checkpoint.h>
#include <nf-config.h>
#include <nf-decode-options.h>
#include <nf-device.h>
#include <nf-correction.h>
#include <nf-frame.h>
#include <nf-half.h>
#include <nf-model.h>
#include <nf-random.h>
#include <nf-score.h>
#include <nf-session.h>
#include <nf-stream.h>
#include <nf-tensor-file.h>
#include <nf-trainer.h>
#include <nf-actions.h>
#include <nf-world.h>
