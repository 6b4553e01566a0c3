/* normflow: buffers of a device. SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nf-device-private.h"
#include "nf-pages.h"

static void CL_CALLBACK
free_pages (cl_mem mem, void *pages)
{
  (void)mem;
  nf_pages_free (pages);
}

/* A CPU computes in MEMORY of ours: in large pages, if it gets them. */
static cl_mem
new_memory (NfDevice *device, gsize size, void **memory, cl_int *status)
{
  *memory = NULL;
  if (nf_device_get_info (device)->is_gpu)
    return clCreateBuffer (nf_device_get_context (device), CL_MEM_READ_WRITE, size, NULL, status);
  NfPages *pages = nf_pages_new (size);
  *status = CL_MEM_OBJECT_ALLOCATION_FAILURE;
  if (!pages)
    return NULL;
  *memory = nf_pages_get_memory (pages);
  cl_mem mem = clCreateBuffer (nf_device_get_context (device), CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, size,
                               *memory, status);
  if (*status == CL_SUCCESS)
    *status = clSetMemObjectDestructorCallback (mem, free_pages, pages);
  if (*status == CL_SUCCESS)
    return mem;
  if (mem)
    clReleaseMemObject (mem);
  nf_pages_free (pages);
  return NULL;
}

NfBuffer *
nf_buffer_new (NfDevice *device, gsize size, GError **error)
{
  if (!nf_device_reserve (device, size, error))
    return NULL;

  cl_int status;
  void *memory;
  cl_mem mem = new_memory (device, size, &memory, &status);
  if (status != CL_SUCCESS)
    {
      nf_device_unreserve (device, size);
      g_set_error (error, NF_ERROR, NF_ERROR_NO_MEMORY,
                   "%s refuses a buffer of %" G_GSIZE_FORMAT " bytes (OpenCL status %d); " NF_MEMORY_HINT,
                   nf_device_get_info (device)->name, size, status);
      return NULL;
    }

  NfBuffer *buffer = g_new (NfBuffer, 1);
  buffer->mem = mem;
  buffer->size = size;
  buffer->memory = memory;
  buffer->device = g_object_ref (device);
  return buffer;
}

void
nf_buffer_free (NfBuffer *buffer)
{
  clReleaseMemObject (buffer->mem);
  nf_device_unreserve (buffer->device, buffer->size);
  g_object_unref (buffer->device);
  g_free (buffer);
}
