/* normflow: pickles of tensors. SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "nf-tensor-file.h"

/* Not installed. A pickle is a program for a small stack machine. This one only knows how to build tensors,
 * dictionaries, lists, tuples, numbers, strings, None and booleans; whatever else a pickle asks for is an
 * error that names it, and nothing is ever called. Its values form a tree or, where it names one value twice,
 * a graph without circles; nesting, numbers of values and memory are bounded. */

typedef enum
{
  NF_PICKLE_NONE,
  NF_PICKLE_BOOL,
  NF_PICKLE_INT,
  NF_PICKLE_LONG, /* a whole number of more than 64 bits */
  NF_PICKLE_FLOAT,
  NF_PICKLE_STRING,
  NF_PICKLE_TUPLE,
  NF_PICKLE_LIST,
  NF_PICKLE_DICT,
  NF_PICKLE_GLOBAL, /* one of the few names that tensors are made with */
  NF_PICKLE_STORAGE,
  NF_PICKLE_TENSOR,
} NfPickleType;

typedef struct NfPickleValue NfPickleValue;

/* Elements that tensors share. */
typedef struct
{
  const char *key;
  NfDtype dtype;
  guint64 n; /* as the pickle claims, not more than G_MAXINT64 bytes */
} NfPickleStorage;

/* A view of a storage, all of it inside of the N elements that the storage claims. */
typedef struct
{
  const NfPickleStorage *storage;
  guint64 offset; /* elements, as are strides */
  guint n_dims;
  guint64 dims[NF_TENSOR_MAX_DIMS];
  guint64 strides[NF_TENSOR_MAX_DIMS];
  guint64 n_elements; /* not more than the storage has */
  const char *mark;   /* what its elements have to go through yet, such as "neg", or NULL */
} NfPickleTensor;

struct NfPickleValue
{
  NfPickleType type;
  guint8 depth; /* 1 more than the deepest of its items */
  guint8 held;  /* in another value, so that it must not change any more */
  union
  {
    gint64 integer; /* also of booleans */
    double real;
    const char *text;
    GBytes *digits;   /* little-endian, two's complement */
    GPtrArray *items; /* of NfPickleValue; a dictionary's are key, value, key, value */
    guint global;
    NfPickleStorage *storage;
    NfPickleTensor *tensor;
  };
};

typedef struct
{
  const NfPickleValue *root;
  GPtrArray *storages; /* of NfPickleStorage, in order of appearance, each key once */
  gsize length;        /* bytes that the pickle took */

  GPtrArray *values; /* owns every value */
  GStringChunk *texts;
} NfPickle;

/* The pickle at the beginning of the SIZE bytes of DATA, or NULL with %NF_ERROR_FORMAT. WHAT says in messages
 * what it is. */
NfPickle *nf_pickle_read (const guint8 *data, gsize size, const char *what, GError **error);
void nf_pickle_free (NfPickle *pickle);
G_DEFINE_AUTOPTR_CLEANUP_FUNC (NfPickle, nf_pickle_free)

/* The value of a dictionary under the string KEY, or NULL. */
const NfPickleValue *nf_pickle_lookup (const NfPickleValue *dict, const char *key);
