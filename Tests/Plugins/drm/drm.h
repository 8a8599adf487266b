/// The part of the kernel's <drm/drm.h> and <drm/amdgpu_drm.h> that simulated_kfd.c answers to. Debian has these in libdrm-dev, without which
/// <linux/kfd_ioctl.h> does not compile; the tests need no libdrm.
#pragma once
#include <linux/ioctl.h>
#include <linux/types.h>

struct drm_version { int major, minor, patch; __kernel_size_t name_len; char *name; __kernel_size_t date_len; char *date; __kernel_size_t desc_len; char *desc; };
struct drm_gem_close { __u32 handle, pad; };
struct drm_prime_handle { __u32 handle, flags; __s32 fd; };
union drm_amdgpu_gem_create { struct { __u64 bo_size, alignment, domains, domain_flags; } in; struct { __u32 handle, pad; } out; };
union drm_amdgpu_gem_mmap { struct { __u32 handle, pad; } in; struct { __u64 addr_ptr; } out; };
struct drm_amdgpu_gem_userptr { __u64 addr, size; __u32 flags, handle; };
struct drm_amdgpu_gem_va { __u32 handle, pad, operation, flags; __u64 va_address, offset_in_bo, map_size; };
union drm_amdgpu_ctx { struct { __u32 op, flags, ctx_id; __s32 priority; } in; struct { __u32 ctx_id, pad; } out; };
union drm_amdgpu_bo_list { struct { __u32 operation, list_handle, bo_number, bo_info_size; __u64 bo_info_ptr; } in; struct { __u32 list_handle, pad; } out; };
union drm_amdgpu_cs { struct { __u32 ctx_id, bo_list_handle, num_chunks, flags; __u64 chunks; } in; struct { __u64 handle; } out; };
struct drm_amdgpu_cs_chunk { __u32 chunk_id, length_dw; __u64 chunk_data; };
struct drm_amdgpu_cs_chunk_ib { __u32 pad, flags; __u64 va_start; __u32 ib_bytes, ip_type, ip_instance, ring; };
union drm_amdgpu_wait_cs { struct { __u64 handle, timeout; __u32 ip_type, ip_instance, ring, ctx_id; } in; struct { __u64 status; } out; };
struct drm_amdgpu_info { __u64 return_pointer; __u32 return_size, query; __u32 of_query[4]; };

/// The numbers of the calls, which are of type 'd'.
enum {
    DRM_VERSION = 0x00, DRM_GEM_CLOSE = 0x09, DRM_PRIME_FD_TO_HANDLE = 0x2e,
    DRM_AMDGPU_GEM_CREATE = 0x40, DRM_AMDGPU_GEM_MMAP = 0x41, DRM_AMDGPU_CTX = 0x42, DRM_AMDGPU_BO_LIST = 0x43, DRM_AMDGPU_CS = 0x44, DRM_AMDGPU_INFO = 0x45,
    DRM_AMDGPU_GEM_VA = 0x48, DRM_AMDGPU_WAIT_CS = 0x49, DRM_AMDGPU_GEM_USERPTR = 0x51,
};
enum { AMDGPU_VA_OP_MAP = 1, AMDGPU_CHUNK_ID_IB = 1, AMDGPU_HW_IP_DMA = 2, AMDGPU_INFO_ACCEL_WORKING = 0, AMDGPU_INFO_DEV_INFO = 0x16, AMDGPU_FAMILY_AI = 141 };
/// Where struct drm_amdgpu_info_device has what: words of 32 and of 64 bits.
enum {
    INFO_FAMILY = 16, INFO_SHADER_ENGINES = 20, INFO_SHADER_ARRAYS = 24, INFO_ADDRESS_OFFSET = 144, INFO_ADDRESS_MAX = 152, INFO_ADDRESS_ALIGNMENT = 160, INFO_FRAGMENT = 164,
    INFO_GART_PAGE = 168, INFO_HIGH_OFFSET = 336, INFO_HIGH_MAX = 344, INFO_SIZE = 368,
};
