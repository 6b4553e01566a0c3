/* normflow: what the sub-commands share. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common.h"
#include "files.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ONLY_WEIGHTS "-weights" /* what ends so has no gradients of parameters */

static int signal_pipe[2] = { -1, -1 };

static volatile sig_atomic_t unread; /* nobody reads what is said any more */

/* Only what a signal handler may: wakes the thread of wait_for_signals(), if there is one. */
static void
on_signal (int number)
{
  const int saved = errno;
  const char byte = (char)number;

  if (number == SIGPIPE)
    unread = TRUE;
  if (signal_pipe[1] >= 0 && write (signal_pipe[1], &byte, 1) != 1)
    _exit (NF_EXIT_INTERRUPTED);
  errno = saved;
}

static const struct sigaction to_hear = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

/* But where whoever started this says that it does not matter, as nohup(1) does. */
static void
hear_politely (int number)
{
  struct sigaction before;
  if (sigaction (number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
    sigaction (number, &to_hear, NULL);
}

void
nf_catch_unread (void)
{
  hear_politely (SIGPIPE);
}

int
nf_flush_output (int status)
{
  if ((fflush (stdout) == 0 && !ferror (stdout)) || status != 0)
    return status;
  if (unread)
    return NF_EXIT_INTERRUPTED;
  fputs ("normflow: standard output cannot be written\n", stderr);
  return NF_EXIT_FAILED;
}

/* What the library warns of is told as the tool's own lines are. */
static void
print_warning (const char *domain, GLogLevelFlags level, const char *message, gpointer data)
{
  NfCommand *self = data;

  if (!(level & G_LOG_LEVEL_WARNING))
    {
      g_log_default_handler (domain, level, message, NULL);
      return;
    }
  nf_progress_clear (self->progress);
  fprintf (stderr, "normflow %s: %s\n", self->name, message);
}

void
nf_command_clear (NfCommand *self)
{
  g_log_set_default_handler (g_log_default_handler, NULL);
  g_clear_pointer (&self->progress, nf_progress_free);
  g_clear_object (&self->cancellable);
  g_clear_pointer (&self->model, g_free);
  g_clear_pointer (&self->config, nf_config_free);
  g_clear_pointer (&self->device, g_free);
  g_clear_pointer (&self->precision, g_free);
  g_clear_pointer (&self->text, g_free);
}

/* What options of decoding say, before it is checked. */
typedef struct
{
  char *method, *guess, *blocks;
  gint window, max_sweeps;
} Decoding;

static void
decoding_clear (Decoding *self)
{
  g_free (self->method);
  g_free (self->guess);
  g_free (self->blocks);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Decoding, decoding_clear)

static gboolean
check_decoding (NfCommand *self, const Decoding *decoding)
{
  NfDecodeOptions *options = &self->decoding;
  g_autoptr (GError) error = NULL;
  const char *of_blocks = decoding->guess          ? "guess"
                          : decoding->window       ? "window"
                          : options->tolerance > 0 ? "tolerance"
                                                   : NULL;
  const char *of_sweeps = of_blocks                ? of_blocks
                          : decoding->max_sweeps   ? "max-sweeps"
                          : options->budget_ms > 0 ? "budget-ms"
                                                   : NULL;
  if (decoding->method && !nf_decode_method_from_name (decoding->method, &options->method))
    nf_command_wrong_choice (self, "--method", decoding->method, nf_method_choices ());
  else if (decoding->guess && !nf_guess_from_name (decoding->guess, &options->guess))
    nf_command_wrong_choice (self, "--guess", decoding->guess, nf_guess_choices ());
  else if (decoding->window < 0 || decoding->max_sweeps < 0)
    nf_command_usage (self, "--window and --max-sweeps take no negative numbers");
  else if (!(options->tolerance >= 0 && options->tolerance <= 1))
    nf_command_usage (self, "--tolerance %g is out of range: 0 to 1", options->tolerance);
  else if (!(options->budget_ms >= 0 && options->budget_ms <= 1e6))
    nf_command_usage (self, "--budget-ms %g is out of range: 0 to 1e6", options->budget_ms);
  else if (decoding->blocks && of_blocks)
    nf_command_usage (self, "--blocks says of each block what --%s says of all: give one of them", of_blocks);
  else if (!nf_decode_options_set_blocks (options, decoding->blocks, &error))
    nf_command_usage (self, "%s", error->message);
  else if (options->method == NF_DECODE_SEQUENTIAL && of_sweeps)
    nf_command_usage (self, "--%s is for sweeps over several tokens: not with --method sequential",
                      of_sweeps);
  else
    {
      self->decodes = decoding->method ? "method" : decoding->blocks ? "blocks" : of_sweeps;
      options->window = (guint)decoding->window;
      options->max_sweeps = (guint)decoding->max_sweeps;
      return TRUE;
    }
  return FALSE;
}

static gboolean
check_precision (NfCommand *self, NfCommandOptions options)
{
  g_autoptr (GString) names = g_string_new (NULL);
  gboolean found = strcmp (self->precision, "auto") == 0;
  for (const char *const *name = nf_device_precisions (); *name; name++)
    if (!(options & NF_COMMAND_GRADIENTS) || !g_str_has_suffix (*name, ONLY_WEIGHTS))
      {
        g_string_append_printf (names, "%s, ", *name);
        found = found || strcmp (self->precision, *name) == 0;
      }
  g_string_append (names, "auto");
  if (!found)
    nf_command_wrong_choice (self, "--precision", self->precision, names->str);
  return found;
}

/* An empty text says nothing, and is no name: most often it is a variable of a script that was never set. */
static gboolean
check_texts (NfCommand *self, const GOptionEntry *entries)
{
  for (; entries && entries->long_name; entries++)
    {
      const gboolean one
          = entries->arg == G_OPTION_ARG_STRING || entries->arg == G_OPTION_ARG_FILENAME,
          several = entries->arg == G_OPTION_ARG_STRING_ARRAY || entries->arg == G_OPTION_ARG_FILENAME_ARRAY;
      const char *const *texts = several ? *(const char *const **)entries->arg_data : NULL;
      const char *text = one ? *(char **)entries->arg_data : NULL;

      if ((text && !*text) || (texts && g_strv_contains (texts, "")))
        {
          nf_command_usage (self, "--%s is empty: give it a value, or leave it out", entries->long_name);
          return FALSE;
        }
    }
  return TRUE;
}

/* Appends KEY and VALUE to the device's specification. */
static void
specify (NfCommand *self, const char *key, const char *value)
{
  char *spec = g_strdup_printf ("%s,%s%s", self->device ? self->device : "", key, value);
  g_free (self->device);
  self->device = spec;
}

/* Ends parsing. GOption's own help would end the process whether it was written or not. */
static gboolean
on_help (const char *name, const char *value, gpointer data, GError **error)
{
  g_set_error_literal (error, NF_ERROR, NF_ERROR_CANCELLED, name);
  return FALSE;
}

static void
print_help (GOptionContext *context)
{
  g_autofree char *text = g_option_context_get_help (context, TRUE, NULL);
  fputs (text, stdout);
}

gboolean
nf_command_parse (NfCommand *self, int *argc, char ***argv, const GOptionEntry *entries,
                  NfCommandOptions options, const char *usage, const char *summary, const char *description,
                  int min_args, int max_args)
{
  const GOptionEntry model[] = { { "model", 'm', 0, G_OPTION_ARG_FILENAME, &self->model,
                                   "A model file or name (default: a bundled one)", "MODEL" },
                                 { NULL } };
  const GOptionEntry device[] = {
    { "device", 'd', 0, G_OPTION_ARG_STRING, &self->device,
      "auto, cpu, gpu, PLATFORM:DEVICE or part of a name (see: normflow devices)", "DEVICE" },
    { "precision", 0, 0, G_OPTION_ARG_STRING, &self->precision,
      options & NF_COMMAND_GRADIENTS
          ? "Precision of matrix products: f32 (default), bf16, or auto: the faster for the kind of device"
          : "Precision of matrix products: f32 (default), bf16, bf16-weights, int8-weights (of weights "
            "alone), or auto: the faster of f32 and bf16 for the kind of device",
      "PRECISION" },
    { NULL }
  };
  const GOptionEntry text[]
      = { { "text", 0, 0, G_OPTION_ARG_FILENAME, &self->text,
            "Text features for the model to see: tensors \"text\" (B, tokens, features) and "
            "optionally \"null_text\", from a file (default: no text, or no class)",
            "FILE" },
          { NULL } };
  g_auto (Decoding) decoding = { 0 };
  const GOptionEntry of_decoding[]
      = { { "method", 0, 0, G_OPTION_ARG_STRING, &decoding.method,
            "How latents are decoded: auto (default), sequential, jacobi or draft", "METHOD" },
          { "window", 0, 0, G_OPTION_ARG_INT, &decoding.window,
            "Tokens of a Jacobi sweep (default: chosen automatically)", "N" },
          { "guess", 0, 0, G_OPTION_ARG_STRING, &decoding.guess,
            "Where sweeps start: latent (default), zeros or, with models of videos, frame (the one before)",
            "GUESS" },
          { "tolerance", 0, 0, G_OPTION_ARG_DOUBLE, &self->decoding.tolerance,
            "Change of a value that counts as no change (default: 0, the same bits as sequential)", "T" },
          { "blocks", 0, 0, G_OPTION_ARG_STRING, &decoding.blocks,
            "Window, guess and tolerance of each block of the flow, block 0 first, such as "
            "16,1,32:zeros,0:latent:1e-4; a window of 1 is token by token, 0 as --method says",
            "W[:G[:T]],…" },
          { "max-sweeps", 0, 0, G_OPTION_ARG_INT, &decoding.max_sweeps,
            "Sweeps after which a window is taken as it is (default: no limit)", "N" },
          { "budget-ms", 0, 0, G_OPTION_ARG_DOUBLE, &self->decoding.budget_ms,
            "Time for a frame, after which the rest of it is swept once (default: no limit)", "MS" },
          { NULL } };
  const GOptionEntry help[]
      = { { "help", 'h', G_OPTION_FLAG_NO_ARG, G_OPTION_ARG_CALLBACK, on_help, "Show this help", NULL },
          /* GLib's own, which scripts may know */
          { "help-all", '?', G_OPTION_FLAG_NO_ARG | G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_CALLBACK, on_help,
            NULL, NULL },
          { NULL } };
  const GOptionEntry quiet[]
      = { { "quiet", 'q', 0, G_OPTION_ARG_NONE, &self->quiet, "Show no progress", NULL }, { NULL } };
  g_autoptr (GOptionContext) context = g_option_context_new (usage);
  g_autoptr (GError) error = NULL;
  g_autofree char *program = NULL;
  int n;

  self->name = (*argv)[0];
  program = g_strdup_printf ("normflow %s", self->name);
  g_set_prgname (program);
  g_option_context_set_summary (context, summary);
  g_option_context_set_description (context, description);
  g_option_context_set_help_enabled (context, FALSE);
  g_option_context_add_main_entries (context, help, NULL);
  if (entries)
    g_option_context_add_main_entries (context, entries, NULL);
  if (options & NF_COMMAND_MODEL)
    g_option_context_add_main_entries (context, model, NULL);
  if (options & NF_COMMAND_DEVICE)
    g_option_context_add_main_entries (context, device, NULL);
  if ((options & NF_COMMAND_MODEL) && (options & NF_COMMAND_DEVICE))
    g_option_context_add_main_entries (context, text, NULL);
  if (options & NF_COMMAND_DECODING)
    g_option_context_add_main_entries (context, of_decoding, NULL);
  g_option_context_add_main_entries (context, quiet, NULL);
  if (!g_option_context_parse (context, argc, argv, &error))
    {
      if (g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED))
        {
          print_help (context);
          g_clear_pointer (&context, g_option_context_free);
          exit (nf_flush_output (0));
        }
      nf_command_usage (self, "%s", error->message);
      return FALSE;
    }
  /* A "--" that ended the options stays where a name followed it. */
  if (*argc > 1 && strcmp ((*argv)[1], "--") == 0)
    {
      memmove (*argv + 1, *argv + 2, (gsize)(*argc - 1) * sizeof **argv);
      --*argc;
    }
  if (!check_texts (self, entries) || !check_texts (self, model) || !check_texts (self, text))
    return FALSE;
  n = *argc - 1;
  if (n < min_args || n > max_args)
    {
      if (n > max_args)
        nf_command_usage (self, "too many arguments: \"%s\"; the arguments are: %s", (*argv)[max_args + 1],
                          max_args ? usage : "none");
      else
        nf_command_usage (self, "arguments are missing; they are: %s", usage);
      return FALSE;
    }
  for (int i = 1; i <= n; i++)
    if (!*(*argv)[i])
      {
        nf_command_usage (self, "an argument is empty; they are: %s", usage);
        return FALSE;
      }
  if ((options & NF_COMMAND_DECODING) && !check_decoding (self, &decoding))
    return FALSE;
  if (self->precision && !check_precision (self, options))
    return FALSE;
  if (self->precision)
    specify (self, "precision=", self->precision);
  if (!nf_device_check (self->device, &error))
    {
      nf_command_usage (self, "%s", error->message);
      return FALSE;
    }
  self->progress = nf_progress_new (self->quiet);
  self->cancellable = g_cancellable_new ();
  g_log_set_default_handler (print_warning, self);
  return TRUE;
}

void
nf_command_prefer (NfCommand *self, const char *precision, const char *arithmetic)
{
  g_autofree char *device = self->device;
  self->device = nf_device_prefer (device, precision, arithmetic);
}

void
nf_command_require (NfCommand *self, const char *key, const char *value)
{
  g_autofree char *is = g_strconcat (key, "=", NULL);
  if (!self->device || !strstr (self->device, is))
    specify (self, is, value);
}

int
nf_command_usage (NfCommand *self, const char *format, ...)
{
  g_autofree char *message = NULL;
  va_list args;

  va_start (args, format);
  message = g_strdup_vprintf (format, args);
  va_end (args);
  fprintf (stderr, "normflow %s: %s\n(normflow %s --help lists the options)\n", self->name, message,
           self->name);
  return NF_EXIT_USAGE;
}

int
nf_command_wrong_choice (NfCommand *self, const char *option, const char *value, const char *choices)
{
  g_autoptr (GError) error = NULL;

  nf_wrong_choice (option, value, choices, &error);
  return nf_command_usage (self, "%s", error->message);
}

int
nf_command_fail (NfCommand *self, const GError *error)
{
  nf_progress_clear (self->progress);
  /* compilers clean up when a signal comes, and miss what they have thrown away */
  const gboolean cancelled = g_error_matches (error, NF_ERROR, NF_ERROR_CANCELLED);
  if ((cancelled && unread)
      || ((cancelled || g_error_matches (error, NF_ERROR, NF_ERROR_BUILD))
          && g_cancellable_is_cancelled (self->cancellable)))
    {
      fprintf (stderr, "normflow %s: interrupted\n", self->name);
      return NF_EXIT_INTERRUPTED;
    }
  fprintf (stderr, "normflow %s: %s\n", self->name, error->message);
  return NF_EXIT_FAILED;
}

/* timeout(1) and others tell the process and then its group: what comes so soon after the first signal is no
 * second one. */
#define SAME_SIGNAL_US (G_USEC_PER_SEC / 2)

/* A thread may do what a signal handler must not. */
static gpointer
wait_for_signals (gpointer data)
{
  g_autoptr (GCancellable) cancellable = data;
  gint64 first = 0;
  char byte;

  for (;;)
    if (read (signal_pipe[0], &byte, 1) == 1)
      {
        /* nobody reads any more, which is no second wish, and comes again with each thing that is said */
        if (byte == SIGPIPE)
          {
            g_cancellable_cancel (cancellable);
            continue;
          }
        const gint64 now = g_get_monotonic_time ();
        if (!first)
          first = now;
        else if (now - first > SAME_SIGNAL_US)
          _exit (NF_EXIT_INTERRUPTED);
        g_cancellable_cancel (cancellable);
      }
  return NULL;
}

void
nf_command_catch_signals (NfCommand *self)
{
  /* Not by blocking signals and waiting for them: libraries start threads before main(), whose masks are
   * open. */
  if (self->catching || pipe (signal_pipe) != 0)
    return;
  self->catching = TRUE;
  g_thread_unref (g_thread_new ("signals", wait_for_signals, g_object_ref (self->cancellable)));
  sigaction (SIGINT, &to_hear, NULL);
  sigaction (SIGTERM, &to_hear, NULL);
  hear_politely (SIGHUP);
  hear_politely (SIGPIPE);
}

gboolean
nf_command_go_on (NfCommand *self, GError **error)
{
  if (!g_cancellable_is_cancelled (self->cancellable))
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_CANCELLED, "interrupted");
  return FALSE;
}

NfDevice *
nf_command_open_device (NfCommand *self, GError **error)
{
  g_autoptr (GError) local = NULL;
  nf_command_catch_signals (self);
  g_autoptr (NfDevice) device = nf_device_open (self->device, &local);
  /* what a signal broke is not what is wrong */
  if (!nf_command_go_on (self, error))
    return NULL;
  if (!device)
    g_propagate_error (error, g_steal_pointer (&local));
  return g_steal_pointer (&device);
}

static gboolean
guesses_frame (const NfDecodeOptions *options)
{
  gboolean frame = options->guess == NF_GUESS_FRAME;
  for (guint t = 0; t < options->n_blocks; t++)
    frame = frame || options->blocks[t].guess == NF_GUESS_FRAME;
  return frame;
}

NfSession *
nf_command_open (NfCommand *self, GError **error)
{
  g_autoptr (NfDevice) device = NULL;
  g_autoptr (NfModel) model = NULL;
  g_autoptr (NfSession) session = NULL;

  device = nf_command_open_device (self, error);
  if (!device)
    return NULL;
  model = nf_model_load_configured (self->model, self->config, device, nf_progress_model, self->progress,
                                    self->cancellable, error);
  if (!model)
    return NULL;
  if (guesses_frame (&self->decoding) && !nf_model_get_config (model)->frames && !self->quiet)
    nf_progress_note (self->progress,
                      "normflow %s: note: the guess frame is for models of videos; pictures, which no frames "
                      "come before, are begun with latent",
                      self->name);
  session = nf_session_new (model, error);
  if (!session || (self->text && !nf_session_load_text (session, self->text, error)))
    return NULL;
  nf_session_set_cancellable (session, self->cancellable);
  return g_steal_pointer (&session);
}

gboolean
nf_command_check_pictures (NfCommand *self, NfSession *session, const char *asked, const char *why,
                           const char *instead, GError **error)
{
  if (!nf_model_get_config (nf_session_get_model (session))->frames)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_UNSUPPORTED,
               "%s is a model of videos, which %s: %s needs one of pictures, such as %s",
               self->model ? self->model : "this", why, asked, instead);
  return FALSE;
}

gboolean
nf_command_open_stream (NfCommand *self, NfSession *session, NfStream **stream, GError **error)
{
  NfModel *model = nf_session_get_model (session);
  const NfConfig *config = nf_model_get_config (model);
  g_autoptr (NfStream) made = NULL;

  *stream = NULL;
  if (!config->frames || config->layout == NF_PIXELS_LATENT)
    return TRUE;
  made = nf_stream_new (model, error);
  if (!made || (self->text && !nf_stream_load_text (made, self->text, error)))
    return FALSE;
  nf_stream_set_cancellable (made, self->cancellable);
  *stream = g_steal_pointer (&made);
  return TRUE;
}

gboolean
nf_command_check_stream (NfCommand *self, NfStream *stream, const char *option, GError **error)
{
  if (stream || !option)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "--%s is for models of videos, and %s is one of pictures",
               option, self->model ? self->model : "the bundled model");
  return FALSE;
}

gboolean
nf_command_open_decoder (NfCommand *self, NfSession *session, NfStream **stream, GError **error)
{
  return nf_command_open_stream (self, session, stream, error)
         && (!*stream || nf_stream_set_look_ahead (*stream, 0, error));
}

void
nf_command_keep_residual (NfCommand *self, NfSession *session, NfStream *stream)
{
  NfDecodeReport report;

  if (session)
    nf_session_get_decode_report (session, &report);
  else
    nf_stream_get_decode_report (stream, &report);
  self->residual = MAX (self->residual, report.residual);
}

void
nf_command_tell_residual (const NfCommand *self)
{
  if (self->residual > 0)
    fprintf (stderr, "normflow %s: values that were taken before they had settled were off by up to %.3g\n",
             self->name, self->residual);
}

/* A decimal number of 1 to MAX at *TEXT, which moves behind it. */
static gboolean
parse_number (const char **text, guint64 max, guint64 *value)
{
  const char *start = *text;

  *value = 0;
  while (g_ascii_isdigit (**text) && *value <= max)
    *value = *value * 10 + (guint64)(*(*text)++ - '0');
  return *text > start && *value >= 1 && *value <= max;
}

gboolean
nf_settle_number (gint64 *number)
{
  const gboolean right = *number >= 1 || *number == G_MININT64;
  *number = MAX (*number, 0);
  return right;
}

#define DEFINE_CHOICES(function, Type, last, name_of)                                                        \
  const char *function (void)                                                                                \
  {                                                                                                          \
    g_autoptr (GString) names = g_string_new (NULL);                                                         \
    for (guint i = 0; i <= (guint)(last); i++)                                                               \
      g_string_append_printf (names, "%s%s", i ? ", " : "", name_of ((Type)i));                              \
    return g_intern_string (names->str);                                                                     \
  }
DEFINE_CHOICES (nf_world_choices, NfWorldPattern, NF_WORLD_GRIDWORLD, nf_world_pattern_name)
DEFINE_CHOICES (nf_layout_choices, NfPixelLayout, NF_PIXELS_YUV420, nf_pixel_layout_name)
DEFINE_CHOICES (nf_method_choices, NfDecodeMethod, NF_DECODE_DRAFT, nf_decode_method_name)
DEFINE_CHOICES (nf_guess_choices, NfGuess, NF_GUESS_FRAME, nf_guess_name)

const char *
nf_world_help (const char *text)
{
  g_autofree char *help = g_strdup_printf ("%s: %s", text, nf_world_choices ());
  return g_intern_string (help);
}

gboolean
nf_wrong_choice (const char *option, const char *value, const char *choices, GError **error)
{
  g_autofree char *shown = nf_shorten (value);

  g_set_error (error, NF_ERROR, NF_ERROR_ARGUMENT, "%s \"%s\" is not one of: %s", option, shown, choices);
  return FALSE;
}

gboolean
nf_parse_size (const char *text, guint *width, guint *height)
{
  guint64 w, h;

  if (!parse_number (&text, NF_MAX_SIDE, &w) || (*text != 'x' && *text != 'X'))
    return FALSE;
  text++;
  if (!parse_number (&text, NF_MAX_SIDE, &h) || *text)
    return FALSE;
  *width = (guint)w;
  *height = (guint)h;
  return TRUE;
}

gboolean
nf_parse_rate (const char *text, int *rate_n, int *rate_d)
{
  guint64 n, d = 1;

  if (!parse_number (&text, G_MAXINT32, &n))
    return FALSE;
  if (*text == '/')
    {
      text++;
      if (!parse_number (&text, G_MAXINT32, &d))
        return FALSE;
    }
  if (*text)
    return FALSE;
  *rate_n = (int)n;
  *rate_d = (int)d;
  return TRUE;
}

gboolean
nf_command_check_output (const NfCommand *self, const char *path, GError **error)
{
  g_autofree char *model = nf_model_find (self->model, NULL);
  return nf_check_output (path, model, error) && nf_check_output (path, self->text, error);
}

gboolean
nf_command_check_outputs (const NfCommand *self, const char *stream, const GPtrArray *files,
                          const GPtrArray *inputs, GError **error)
{
  g_autofree char *model = nf_model_find (self->model, NULL);
  g_autoptr (GPtrArray) all = g_ptr_array_new ();

  g_ptr_array_add (all, model);
  g_ptr_array_add (all, self->text);
  for (guint i = 0; i < inputs->len; i++)
    g_ptr_array_add (all, inputs->pdata[i]);
  return nf_check_outputs (stream, files, all, error);
}

char *
nf_class_list (const char *names, guint most)
{
  g_auto (GStrv) lines = g_strsplit (names, "\n", -1);
  GString *list = g_string_new (NULL);
  for (guint i = 0; lines[i] && i < most; i++)
    {
      g_autofree char *name = nf_shorten (lines[i]);
      g_string_append_printf (list, "%s%u %s", i ? ", " : "", i, name);
    }
  if (g_strv_length (lines) > most)
    g_string_append (list, ", …");
  return g_string_free (list, FALSE);
}

char *
nf_words (const char *format, double value)
{
  return isfinite (value) ? g_strdup_printf (format, value) : g_strdup ("-");
}
