/* normflow: compiled kernels, in memory and on disk. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-program-cache.h"
#include "nf-kernels.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <glib/gstdio.h>

#define RESOURCE_PREFIX "/normflow/kernels/"

/* A cache file is a header and the driver's binary. The header, little endian: magic, format (4 bytes),
 * length of the binary (8 bytes), its SHA-256. Raise the format when the layout or the way programs are put
 * together changes. */
#define CACHE_MAGIC "nfclprog"
#define CACHE_MAGIC_SIZE 8
#define CACHE_FORMAT 1
#define DIGEST_SIZE 32
#define HEADER_SIZE (CACHE_MAGIC_SIZE + 4 + 8 + DIGEST_SIZE)
#define MAX_BINARY_SIZE (256u << 20)
#define MIN_ROOM (4u << 20)

struct _NfProgramCache
{
  cl_context context;
  cl_device_id id;
  char *identity;
  char *defines;
  char *directory; /* NULL: nothing on disk */

  GMutex lock; /* held while compiling, so that no program is compiled twice */
  GHashTable *programs;

  GMutex seconds_lock;
  double seconds;
};

static void
release_program (gpointer program)
{
  clReleaseProgram (program);
}

static gboolean
is_pocl (cl_device_id id)
{
  cl_platform_id platform;
  char name[64] = "";

  return clGetDeviceInfo (id, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL) == CL_SUCCESS
         && clGetPlatformInfo (platform, CL_PLATFORM_NAME, sizeof name, name, NULL) == CL_SUCCESS
         && strcmp (name, NF_POCL) == 0;
}

/* PoCL keeps kernels on disk itself, each as it is first launched. For the binary of a program it would have
 * to compile all that are in it, in a general form, and those that are launched once more: three times the
 * work.
 */
static gboolean
driver_keeps_kernels (cl_device_id id)
{
  return is_pocl (id) && g_strcmp0 (g_getenv ("POCL_KERNEL_CACHE"), "0") != 0;
}

const char *
nf_pocl_cache_folder (void)
{
  const char *told = g_getenv ("POCL_CACHE_DIR");
  return told && *told ? told : g_get_user_cache_dir ();
}

/* Where PoCL cannot write, the compiler in it ends the process, or blames the kernels. */
static gboolean
check_room (NfProgramCache *self, GError **error)
{
  const char *folder = nf_pocl_cache_folder ();
  struct statvfs room;
  if (!is_pocl (self->id) || statvfs (folder, &room) != 0)
    return TRUE;
  if (!g_file_test (folder, G_FILE_TEST_IS_DIR))
    {
      g_set_error (error, NF_ERROR, NF_ERROR_BUILD,
                   "kernels cannot be compiled: %s is no folder; set POCL_CACHE_DIR to one", folder);
      return FALSE;
    }
  if (room.f_blocks == 0)
    return TRUE;
  const guint64 left = (guint64)room.f_frsize * (geteuid () == 0 ? room.f_bfree : room.f_bavail);
  if (left >= MIN_ROOM)
    return TRUE;
  g_set_error (error, NF_ERROR, NF_ERROR_BUILD,
               "no room to compile kernels: %s has %" G_GUINT64_FORMAT
               " KiB left, and PoCL needs %u MiB; free "
               "some, or set POCL_CACHE_DIR to a folder elsewhere",
               folder, left >> 10, MIN_ROOM >> 20);
  return FALSE;
}

char *
nf_cache_folder (const char *part)
{
  const char *chosen = g_getenv ("NORMFLOW_CACHE");

  if (g_strcmp0 (chosen, "0") == 0)
    return NULL;
  if (chosen && *chosen)
    return g_strdup (chosen);
  return g_build_filename (g_get_user_cache_dir (), "normflow", part, NULL);
}

static char *
cache_directory (cl_device_id id)
{
  const char *chosen = g_getenv ("NORMFLOW_CACHE");

  return !(chosen && *chosen) && driver_keeps_kernels (id) ? NULL : nf_cache_folder ("cl");
}

NfProgramCache *
nf_program_cache_new (cl_context context, cl_device_id id, const char *identity, const char *defines)
{
  NfProgramCache *self = g_new0 (NfProgramCache, 1);

  self->context = context;
  self->id = id;
  self->identity = g_strdup (identity);
  self->defines = g_strdup (defines);
  self->directory = cache_directory (id);
  self->programs = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, release_program);
  g_mutex_init (&self->lock);
  g_mutex_init (&self->seconds_lock);
  return self;
}

void
nf_program_cache_free (NfProgramCache *self)
{
  g_hash_table_unref (self->programs);
  g_mutex_clear (&self->lock);
  g_mutex_clear (&self->seconds_lock);
  g_free (self->identity);
  g_free (self->defines);
  g_free (self->directory);
  g_free (self);
}

const char *
nf_program_cache_get_defines (NfProgramCache *self)
{
  return self->defines;
}

double
nf_program_cache_get_seconds (NfProgramCache *self)
{
  g_mutex_lock (&self->seconds_lock);
  double seconds = self->seconds;
  g_mutex_unlock (&self->seconds_lock);
  return seconds;
}

/* Source */

static gboolean
append_file (GString *source, const char *name, GError **error)
{
  g_autofree char *path = g_strconcat (RESOURCE_PREFIX, name, NULL);
  g_autoptr (GError) lookup_error = NULL;
  g_autoptr (GBytes) bytes = g_resources_lookup_data (path, G_RESOURCE_LOOKUP_FLAGS_NONE, &lookup_error);
  if (!bytes)
    {
      g_set_error (error, NF_ERROR, NF_ERROR_NOT_FOUND, "kernel file %s is not in this library: %s", name,
                   lookup_error->message);
      return FALSE;
    }

  gsize size;
  const char *text = g_bytes_get_data (bytes, &size);
  g_string_append_printf (source, "#line 1 \"%s\"\n", name);
  g_string_append_len (source, text, size);
  g_string_append_c (source, '\n');
  return TRUE;
}

static char *
collect_source (const char *const *files, GError **error)
{
  g_autoptr (GString) source = g_string_new (NULL);

  /* Registers the resource too, even where a static library's constructors were left out by the linker. */
  nf_kernels_get_resource ();

  if (!append_file (source, "launch.h", error) || !append_file (source, "common.cl", error))
    return NULL;
  for (; *files; files++)
    if (strcmp (*files, "common.cl") != 0 && !append_file (source, *files, error))
      return NULL;
  return g_string_free (g_steal_pointer (&source), FALSE);
}

/* Files */

static void
digest (const guint8 *data, gsize size, guint8 result[DIGEST_SIZE])
{
  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
  gsize length = DIGEST_SIZE;

  g_checksum_update (checksum, data, size);
  g_checksum_get_digest (checksum, result, &length);
}

static char *
cache_path (NfProgramCache *self, const char *source, const char *options)
{
  if (!self->directory)
    return NULL;

  g_autoptr (GChecksum) checksum = g_checksum_new (G_CHECKSUM_SHA256);
  g_autofree char *format = g_strdup_printf ("%d", CACHE_FORMAT);
  const char *const parts[] = { source, options, self->identity, NF_VERSION, format };
  /* The terminating zeros go in as separators. */
  for (gsize i = 0; i < G_N_ELEMENTS (parts); i++)
    g_checksum_update (checksum, (const guchar *)parts[i], strlen (parts[i]) + 1);

  g_autofree char *name = g_strconcat (g_checksum_get_string (checksum), ".bin", NULL);
  return g_build_filename (self->directory, name, NULL);
}

/* The binary in the file PATH, or NULL if there is none or it is damaged. */
static GBytes *
read_binary (const char *path)
{
  GStatBuf status;
  if (g_stat (path, &status) != 0)
    return NULL;
  if (!S_ISREG (status.st_mode) || status.st_size < HEADER_SIZE
      || status.st_size > HEADER_SIZE + (goffset)MAX_BINARY_SIZE)
    {
      g_debug ("kernel cache: %s is not a cache file", path);
      return NULL;
    }

  g_autofree char *contents = NULL;
  gsize size;
  g_autoptr (GError) error = NULL;
  if (!g_file_get_contents (path, &contents, &size, &error))
    {
      g_debug ("kernel cache: %s", error->message);
      return NULL;
    }

  guint32 format;
  guint64 length;
  const guint8 *header = (const guint8 *)contents;
  const guint8 *stored = header + CACHE_MAGIC_SIZE + sizeof format + sizeof length;
  const guint8 *payload = header + HEADER_SIZE;
  guint8 computed[DIGEST_SIZE];
  gboolean good = size > HEADER_SIZE && memcmp (header, CACHE_MAGIC, CACHE_MAGIC_SIZE) == 0;
  if (good)
    {
      memcpy (&format, header + CACHE_MAGIC_SIZE, sizeof format);
      memcpy (&length, header + CACHE_MAGIC_SIZE + sizeof format, sizeof length);
      good = GUINT32_FROM_LE (format) == CACHE_FORMAT && GUINT64_FROM_LE (length) == size - HEADER_SIZE;
    }
  if (good)
    {
      digest (payload, size - HEADER_SIZE, computed);
      good = memcmp (stored, computed, DIGEST_SIZE) == 0;
    }
  if (!good)
    {
      g_debug ("kernel cache: %s is damaged", path);
      return NULL;
    }
  return g_bytes_new (payload, size - HEADER_SIZE);
}

/* A cache that cannot be written costs time, not correctness: never an error. */
static void
write_binary (const char *path, const guint8 *binary, gsize size)
{
  g_autofree char *directory = g_path_get_dirname (path);
  if (g_mkdir_with_parents (directory, 0700) != 0)
    {
      g_debug ("kernel cache: cannot create %s: %s", directory, g_strerror (errno));
      return;
    }

  guint32 format = GUINT32_TO_LE (CACHE_FORMAT);
  guint64 length = GUINT64_TO_LE ((guint64)size);
  guint8 hash[DIGEST_SIZE];
  digest (binary, size, hash);
  g_autoptr (GByteArray) contents = g_byte_array_sized_new (HEADER_SIZE + size);
  g_byte_array_append (contents, (const guint8 *)CACHE_MAGIC, CACHE_MAGIC_SIZE);
  g_byte_array_append (contents, (const guint8 *)&format, sizeof format);
  g_byte_array_append (contents, (const guint8 *)&length, sizeof length);
  g_byte_array_append (contents, hash, DIGEST_SIZE);
  g_byte_array_append (contents, binary, size);

  g_autoptr (GError) error = NULL;
  if (!g_file_set_contents (path, (const char *)contents->data, contents->len, &error))
    g_debug ("kernel cache: %s", error->message);
}

/* Programs */

/* Creates and drops every kernel: proof that the program is whole, and it makes drivers compile that would
 * otherwise wait until then. */
static cl_int
create_all_kernels (cl_program program)
{
  cl_uint n = 0;
  cl_int status = clCreateKernelsInProgram (program, 0, NULL, &n);
  if (status != CL_SUCCESS)
    return status;
  if (n == 0)
    return CL_INVALID_PROGRAM_EXECUTABLE;

  g_autofree cl_kernel *kernels = g_new0 (cl_kernel, n);
  status = clCreateKernelsInProgram (program, n, kernels, NULL);
  if (status != CL_SUCCESS)
    return status;
  for (cl_uint i = 0; i < n; i++)
    clReleaseKernel (kernels[i]);
  return CL_SUCCESS;
}

static cl_program
load_program (NfProgramCache *self, const char *path, const char *options)
{
  g_autoptr (GBytes) binary = read_binary (path);
  if (!binary)
    return NULL;

  gsize size;
  const unsigned char *data = g_bytes_get_data (binary, &size);
  cl_int status, binary_status = CL_SUCCESS;
  cl_program program
      = clCreateProgramWithBinary (self->context, 1, &self->id, &size, &data, &binary_status, &status);
  if (status == CL_SUCCESS)
    status = binary_status;
  if (status == CL_SUCCESS)
    status = clBuildProgram (program, 1, &self->id, options, NULL, NULL);
  if (status == CL_SUCCESS)
    status = create_all_kernels (program);
  if (status == CL_SUCCESS)
    return program;

  g_debug ("kernel cache: the driver refuses %s (%d)", path, status);
  if (program)
    clReleaseProgram (program);
  return NULL;
}

static void
store_program (cl_program program, const char *path)
{
  size_t size = 0;
  if (clGetProgramInfo (program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) != CL_SUCCESS || size == 0
      || size > MAX_BINARY_SIZE)
    {
      g_debug ("kernel cache: the driver has no binary to store");
      return;
    }

  g_autofree unsigned char *binary = g_try_malloc (size);
  if (!binary || clGetProgramInfo (program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) != CL_SUCCESS)
    {
      g_debug ("kernel cache: the driver does not hand out its binary");
      return;
    }
  write_binary (path, binary, size);
}

static char *
get_build_log (NfProgramCache *self, cl_program program)
{
  size_t size = 0;
  if (clGetProgramBuildInfo (program, self->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) != CL_SUCCESS
      || size == 0)
    return g_strdup ("(the driver gives no build log)");

  g_autofree char *log = g_malloc0 (size + 1);
  if (clGetProgramBuildInfo (program, self->id, CL_PROGRAM_BUILD_LOG, size, log, NULL) != CL_SUCCESS)
    return g_strdup ("(the driver gives no build log)");
  return g_strchomp (g_utf8_make_valid (log, -1));
}

static cl_program
compile_program (NfProgramCache *self, const char *names, const char *source, const char *options,
                 GError **error)
{
  if (!check_room (self, error))
    return NULL;

  cl_int status;
  cl_program program = clCreateProgramWithSource (self->context, 1, &source, NULL, &status);
  if (status != CL_SUCCESS)
    {
      nf_cl_error (error, status, "cannot create a program of the kernels in %s", names);
      return NULL;
    }

  status = clBuildProgram (program, 1, &self->id, options, NULL, NULL);
  if (status == CL_SUCCESS)
    {
      status = create_all_kernels (program);
      if (status == CL_SUCCESS)
        return program;
      nf_cl_error (error, status, "cannot create the kernels in %s", names);
    }
  else if (status == CL_BUILD_PROGRAM_FAILURE)
    {
      g_autofree char *log = get_build_log (self, program);
      g_set_error (error, NF_ERROR, NF_ERROR_BUILD,
                   "cannot compile the kernels in %s with options \"%s\":\n%s", names, options, log);
    }
  else
    nf_cl_error (error, status, "cannot compile the kernels in %s with options \"%s\"", names, options);
  clReleaseProgram (program);
  return NULL;
}

cl_program
nf_program_cache_get (NfProgramCache *self, const char *const *files, const char *options, GError **error)
{
  g_autofree char *names = g_strjoinv (" ", (char **)files);
  /* PoCL would count warnings on stderr, such as loops that clang did not unroll */
  g_autofree char *all_options
      = g_strjoin (" ", "-cl-std=CL1.2 -w", self->defines, options && *options ? options : NULL, NULL);
  g_autofree char *key = g_strconcat (names, "\n", all_options, NULL);
  g_autoptr (GMutexLocker) locker = g_mutex_locker_new (&self->lock);

  cl_program program = g_hash_table_lookup (self->programs, key);
  if (program)
    return program;

  gint64 start = g_get_monotonic_time ();
  g_autofree char *source = collect_source (files, error);
  if (!source)
    return NULL;
  g_autofree char *path = cache_path (self, source, all_options);
  if (path)
    program = load_program (self, path, all_options);
  gboolean cached = program != NULL;
  if (!cached)
    {
      /* a signal has clang in the driver remove its files: what is right compiles the second time */
      program = compile_program (self, names, source, all_options, NULL);
      if (!program)
        program = compile_program (self, names, source, all_options, error);
      if (program && path)
        store_program (program, path);
    }

  double seconds = (g_get_monotonic_time () - start) / (double)G_USEC_PER_SEC;
  g_mutex_lock (&self->seconds_lock);
  self->seconds += seconds;
  g_mutex_unlock (&self->seconds_lock);
  if (!program)
    return NULL;

  g_debug ("kernels in %s: %s in %.3f s", names, cached ? "loaded" : "compiled", seconds);
  g_hash_table_insert (self->programs, g_steal_pointer (&key), program);
  return program;
}
