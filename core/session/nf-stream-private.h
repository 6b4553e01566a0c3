/* normflow: a stream's insides. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-flow-private.h"
#include "nf-staging.h"
#include "nf-stream.h"

/* A window of frames: what the deep block reads, its keys and values, and the actions that led to them. With
 * a learned denoiser also what that reads. Of B streams side by side. */
typedef struct
{
  guint frames;
  gboolean begun; /* the text is in front of what the cache has */
  NfBlockCache *cache;
  NfBuffer *u;       /* (B, F, frame, D), in the deep block's order */
  NfBuffer *actions; /* (B, F, action_dim), or NULL */

  NfBuffer *y;            /* (B, F, frame, D): noisy tokens in natural order, or NULL */
  NfBlockCache *denoiser; /* NULL until a frame of the stream is denoised */
  guint denoised;         /* frames that it holds the keys and values of */
} NfStreamWindow;

/* A frame that waits for those it is to look at. Its noisy tokens are in the window. */
typedef struct
{
  guint64 index;
  gboolean drawn;
} NfStreamHeld;

/* What one step along the score works on, of one stream. */
typedef struct
{
  GPtrArray *buffers;
  NfBlockTape **tapes; /* T */
  NfBlockScratch **scratches;
  NfBuffer **inputs; /* T: of each block, in its order; the deep block's is the window itself */
  NfBuffer *z, *d[2], *log_det, *half_square;
} NfStreamScore;

struct _NfStream
{
  GObject parent_instance;

  NfModel *model;
  NfFlow *flow;
  NfOps *ops; /* the flow's */
  GCancellable *cancellable;

  guint B;          /* streams side by side */
  guint F, N, D, T; /* frames of a window, tokens of a frame */
  guint context;
  guint64 index;
  NfStreamWindow windows[2]; /* the one in use, and the one that comes after it */
  guint current;

  GPtrArray *tapes, *caches;
  NfBlockTape **tape;   /* T - 1: shallow blocks, one frame */
  NfBlockCache **cache; /* T: and the deep block's of the window in use */
  NfBuffer *input;      /* (B, N, D): tokens of the frame in natural order, with their noise */
  NfBuffer *u;          /* (B, N, D): of the frame, as the deep block reads it */
  NfBuffer *text;       /* (B, txt_size, txt_dim), or NULL */
  char *text_digest;
  NfBuffer *between[2], *z, *latents, *log_det, *misses, *half_square, *changes;
  NfStaging *staging;                                   /* B */
  NfPlanes *planes;                                     /* B */
  float *half_square_host, *log_det_host, *misses_host; /* the same on the host, per token, of misses two */
  NfMissedList missed;                                  /* of the last frame encoded; samples are streams */
  float *no_action;

  /* models of Gaussian noise */
  gboolean noisy;
  guint64 noise_seed;
  NfDenoise denoise;
  guint look_ahead;     /* that is wanted, and at most what the context has */
  GArray *held;         /* NfStreamHeld: decoded and not shown yet */
  gboolean shown;       /* whether the last call wrote its frame */
  NfTokens tokens;      /* as the model's, with the lattice of the noisy values */
  NfBuffer *noise;      /* (N, D), in the basis of pixels */
  float *noises;        /* the same on the host */
  float *noise_nats;    /* (N): -log of its density, per token */
  NfStreamScore *score; /* NULL until it is needed */

  NfInverseReport report;
  NfSessionStats stats;
};

static inline const NfFlowBlock *
nf_stream_deep_block (NfStream *self)
{
  return nf_model_get_block (self->model, self->T - 1);
}

static inline const NfBlockSequence *
nf_stream_deep_sequence (NfStream *self)
{
  return &self->flow->sequences[self->T - 1];
}

/* What blocks are conditioned by in a window's frames, from stream B on; the window is NULL for those that
 * see one frame. */
NfCondition nf_stream_condition (NfStream *self, const NfStreamWindow *window, guint b);

/* Tokens of frame F of each stream, in a buffer (B, F, N, D) of a window: rows nf_stream_window_step() apart.
 */
static inline NfView
nf_stream_window_frame (NfStream *self, NfBuffer *buffer, guint f)
{
  return nf_view (buffer, (gsize)f * self->N * self->D);
}

static inline gsize
nf_stream_window_step (NfStream *self)
{
  return (gsize)self->F * self->N * self->D;
}

/* self->latents becomes the best estimate of the clean tokens of the frame at place F of WINDOW, from frames
 * up to this one, and by a learned denoiser from those of its look-ahead among the KNOWN ones of the window.
 * With a denoiser the noisy tokens are read from the window, else from self->input. */
gboolean nf_stream_denoise (NfStream *self, NfStreamWindow *window, guint f, guint known, GError **error);

/* The frame at the next place of WINDOW was copied from FROM: if frames of that are being denoised, it joins
 * what the denoiser remembers. */
void nf_stream_denoiser_follow (NfStream *self, NfStreamWindow *window, const NfStreamWindow *from);

void nf_stream_window_clear_denoiser (NfStreamWindow *window);
void nf_stream_score_free (NfStreamScore *score);
