// What Python tells the runtime's stand-in and is asked by it; cuda.py has the same structures.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace emulated {

struct Gpu {
  int32_t major, minor, multiprocessors, threads_per_block, threads_per_multiprocessor, blocks_per_multiprocessor;
  int32_t block_size[3], grid_size[3];
  int32_t registers, warp_size, shared_per_block, shared_per_block_opt_in, shared_per_multiprocessor, l2_bytes;
};

struct Launch {
  const char* kernel;
  uint32_t grid[3], block[3], cluster[3];  // a cluster of 0: as the kernel was compiled
  uint64_t dynamic_shared, granted_shared;
  int32_t large_clusters;
  void** arguments;
};

// What only the kernel's PTX tells.
struct Properties {
  int32_t static_shared, threads_per_block;  // threads: the kernel's own limit, 0 if it has none
};

// Each returns 0, or another number if it has noted what is wrong.
struct Callbacks {
  int (*launch)(const Launch*);
  int (*properties)(const char* kernel, Properties*);
  int (*write)(void* to, const void* from, uint64_t bytes);  // from: null where nothing is read
};

extern Gpu gpu;
extern Callbacks callbacks;

// Notes an error for cudaGetLastError and returns it.
cudaError_t result(cudaError_t error);

}  // namespace emulated
