/* normflow: what the sub-commands share. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <normflow.h>

#include "progress.h"

G_BEGIN_DECLS

#define NF_EXIT_FAILED 1
#define NF_EXIT_USAGE 2
#define NF_EXIT_INTERRUPTED 130

/* Of a number among the options, which may not be NaN: one can be given. */
#define NF_NOT_GIVEN (-G_MAXDOUBLE)

/*
 * NfCommand:
 * name: of the sub-command, for messages
 * model, device, text, quiet: options of the same names
 * config: that of the model; NULL: what it says of itself
 * progress: line on stderr
 * cancellable: cancelled by the signals of nf_command_catch_signals()
 * catching: signals are caught
 * decoding: how latents are decoded (--method, --window, --guess, --tolerance, --max-sweeps, --budget-ms)
 * decodes: one of these options that was given, without its dashes; NULL: none
 * residual: by how much values were off that were taken before they had settled, the largest so far
 *
 * One run of a sub-command that works with a model.
 */
typedef struct
{
  const char *name;
  char *model;
  NfConfig *config;
  char *device; /* with what --precision says appended */
  char *precision;
  char *text;
  gboolean quiet;
  NfProgress *progress;
  GCancellable *cancellable;
  gboolean catching;
  NfDecodeOptions decoding;
  const char *decodes;
  double residual;
} NfCommand;

void nf_command_clear (NfCommand *self);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (NfCommand, nf_command_clear)

typedef enum
{
  NF_COMMAND_MODEL = 1 << 0,
  NF_COMMAND_DEVICE = 1 << 1,
  NF_COMMAND_DECODING = 1 << 2,
  NF_COMMAND_GRADIENTS = 1 << 3,
} NfCommandOptions;

/* From here on that nobody reads what is said any more, SIGPIPE, is remembered and ends nothing at once,
 * unless whoever started this ignores it. */
void nf_catch_unread (void);

/* What stays in the buffer of standard output until the end must reach its file, too. Returns: STATUS, or if
 * that is 0 and not all could be written NF_EXIT_INTERRUPTED (nobody reads it) or NF_EXIT_FAILED. */
int nf_flush_output (int status);

/* Parses --help, which ends the process, ENTRIES and --quiet, with OPTIONS also --model, --device, with both
 * --text, and those of decoding; with NF_COMMAND_GRADIENTS --precision takes only what models can be trained
 * in. USAGE names the arguments, of which there must be MIN_ARGS to MAX_ARGS (argv[1] and on). DESCRIPTION
 * (nullable) ends the help text. Prints what is wrong; FALSE means NF_EXIT_USAGE. */
gboolean nf_command_parse (NfCommand *self, int *argc, char ***argv, const GOptionEntry *entries,
                           NfCommandOptions options, const char *usage, const char *summary,
                           const char *description, int min_args, int max_args);

/* nf_device_prefer() of the device that is opened: options and the environment come before it. */
void nf_command_prefer (NfCommand *self, const char *precision, const char *arithmetic);

/* What a device's specification says of KEY whatever the environment does; options come before it. */
void nf_command_require (NfCommand *self, const char *key, const char *value);

/* "normflow NAME: message" on stderr. Returns NF_EXIT_USAGE. */
int nf_command_usage (NfCommand *self, const char *format, ...) G_GNUC_PRINTF (2, 3);

/* nf_command_usage() with what nf_wrong_choice() says. */
int nf_command_wrong_choice (NfCommand *self, const char *option, const char *value, const char *choices);

/* The same of ERROR. Returns NF_EXIT_INTERRUPTED if it is that the work was cancelled, or that nobody reads
 * what is said (NF_ERROR_CANCELLED, too), else NF_EXIT_FAILED. */
int nf_command_fail (NfCommand *self, const GError *error);

/* From here on SIGINT, SIGTERM and SIGHUP cancel, a second one ends the process at once; so does SIGPIPE, any
 * number of times, so that what is under way ends as it should where Ctrl-C ended the reader, too. Where
 * whoever started this ignores SIGHUP or SIGPIPE, so does this. */
void nf_command_catch_signals (NfCommand *self);

/* NF_ERROR_CANCELLED once that happened. */
gboolean nf_command_go_on (NfCommand *self, GError **error);

/* Opens the device; hears signals from before that on. */
NfDevice *nf_command_open_device (NfCommand *self, GError **error);

/* Opens the device, loads the model and makes a session that hears signals and knows the text. */
NfSession *nf_command_open (NfCommand *self, GError **error);

/* Refuses a model of videos, which does not do what is ASKED for: WHY ends "a model of videos, which ...",
 * INSTEAD is one that does. */
gboolean nf_command_check_pictures (NfCommand *self, NfSession *session, const char *asked, const char *why,
                                    const char *instead, GError **error);

/* If the model of SESSION is one of videos of pixels, a stream of it that hears signals and knows the text,
 * else NULL in *STREAM. */
gboolean nf_command_open_stream (NfCommand *self, NfSession *session, NfStream **stream, GError **error);

/* Refuses OPTION (without its dashes; nullable), which is for models of videos, where there is no STREAM. */
gboolean nf_command_check_stream (NfCommand *self, NfStream *stream, const char *option, GError **error);

/* nf_command_open_stream() to decode frames that were encoded: each is shown when it is decoded. */
gboolean nf_command_open_decoder (NfCommand *self, NfSession *session, NfStream **stream, GError **error);

/* Keeps the residual of what SESSION, or STREAM if that is NULL, decoded last, if it is the largest. */
void nf_command_keep_residual (NfCommand *self, NfSession *session, NfStream *stream);

/* Says it on stderr, if there is any. */
void nf_command_tell_residual (const NfCommand *self);

/* The number of an option that takes 1 or more, or, not given, has G_MININT64, which becomes 0; FALSE if it
 * is out of range. */
gboolean nf_settle_number (gint64 *number);

/* All names of each kind, "a, b". */
const char *nf_world_choices (void);
const char *nf_layout_choices (void); /* of pixels */
const char *nf_method_choices (void);
const char *nf_guess_choices (void);
#define NF_DENOISE_CHOICES "auto, learned, score, none"

/* Help that names all worlds: "TEXT: a, b". */
const char *nf_world_help (const char *text);

/* The error that VALUE of OPTION, with its dashes, is not one of CHOICES, "a, b"; FALSE. */
gboolean nf_wrong_choice (const char *option, const char *value, const char *choices, GError **error);

/* "WxH" to sides of 1 to NF_MAX_SIDE. */
gboolean nf_parse_size (const char *text, guint *width, guint *height);

/* "N/D" or "N" to a rate; each 1 to 2^31-1. */
gboolean nf_parse_rate (const char *text, int *rate_n, int *rate_d);

/* nf_check_output() where the inputs are the model of SELF, the default one if it names none, and its text
 * features. */
gboolean nf_command_check_output (const NfCommand *self, const char *path, GError **error);

/* nf_check_outputs() where these are among the inputs, besides INPUTS. */
gboolean nf_command_check_outputs (const NfCommand *self, const char *stream, const GPtrArray *files,
                                   const GPtrArray *inputs, GError **error);

#define NF_LISTED_CLASSES 32 /* names of classes in a line of text */

/* NAMES of a model's classes ("classes" of its metadata, a line each), the first MOST of them, with their
 * numbers: "0 cats, 1 dogs". (transfer full) */
char *nf_class_list (const char *names, guint most);

/* VALUE for people: by FORMAT, and "-" if it is not a finite number. (transfer full) */
char *nf_words (const char *format, double value) G_GNUC_PRINTF (1, 0);

G_END_DECLS
