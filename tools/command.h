/* normflow: the sub-commands. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* argv[0] is the sub-command's name. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Errors go
 * to stderr as "normflow NAME: message". */
int nf_cmd_bench (int argc, char **argv);
int nf_cmd_bench_decode (int argc, char **argv); /* by nf_cmd_bench() */
int nf_cmd_calibrate (int argc, char **argv);
int nf_cmd_convert (int argc, char **argv);
int nf_cmd_decode (int argc, char **argv);
int nf_cmd_denoise (int argc, char **argv);
int nf_cmd_devices (int argc, char **argv);
int nf_cmd_encode (int argc, char **argv);
int nf_cmd_eval (int argc, char **argv);
int nf_cmd_eval_world (int argc, char **argv); /* by nf_cmd_eval() */
int nf_cmd_hints (int argc, char **argv);
int nf_cmd_info (int argc, char **argv);
int nf_cmd_sample (int argc, char **argv);
int nf_cmd_sheet (int argc, char **argv);
int nf_cmd_train (int argc, char **argv);
int nf_cmd_verify (int argc, char **argv);
int nf_cmd_world (int argc, char **argv);

G_END_DECLS
