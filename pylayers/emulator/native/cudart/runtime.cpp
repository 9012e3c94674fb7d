// Stands in for the CUDA runtime under launchers that nvcc compiled: kernels are known by name, a launch goes to a callback,
// and questions about the device are answered for the emulated GPU. Everything happens at once, so streams are all the same.
//
// Linked beside the launchers with hidden visibility: a real CUDA runtime in the process neither sees this one nor is seen.
// A call that is not served is an undefined symbol, which the linker names.
#include "runtime.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using namespace emulated;

namespace {

struct Kernel {
  std::string name;
  int granted_shared = 0;
  bool large_clusters = false;
};

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

std::mutex guard;
thread_local std::vector<Configuration> configurations;  // pushed by <<<…>>>, popped by the kernel's stub

// By the address of the host's stub, and by that of the Kernel itself, which is its handle.
std::map<const void*, Kernel*>& kernels() {
  static std::map<const void*, Kernel*> all;
  return all;
}

Kernel* find(const void* handle) {
  const std::lock_guard lock(guard);
  const auto found = kernels().find(handle);
  return found == kernels().end() ? nullptr : found->second;
}

cudaError_t launch(const void* handle, dim3 grid, dim3 block, dim3 cluster, size_t shared, void** arguments) {
  const Kernel* kernel = find(handle);
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  if (!callbacks.launch) return result(cudaErrorNoDevice);
  const Launch asked = {kernel->name.c_str(),
                        {grid.x, grid.y, grid.z},
                        {block.x, block.y, block.z},
                        {cluster.x, cluster.y, cluster.z},
                        shared,
                        uint64_t(kernel->granted_shared),
                        kernel->large_clusters,
                        arguments};
  return result(callbacks.launch(&asked) ? cudaErrorLaunchFailure : cudaSuccess);
}

}  // namespace

extern "C" {

// What nvcc's host code calls when the library is loaded, and around a launch.

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  const std::lock_guard lock(guard);
  auto* kernel = new Kernel{name};
  kernels()[stub] = kernels()[kernel] = kernel;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return result(cudaErrorMissingConfiguration);
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* handle, const void* stub) {
  *handle = reinterpret_cast<cudaKernel_t>(find(stub));
  return result(*handle ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  return launch(kernel, grid, block, dim3(0, 0, 0), shared, arguments);
}

// Launches.

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  return launch(kernel, grid, block, dim3(0, 0, 0), shared, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* asked, const void* kernel, void** arguments) {
  dim3 cluster(0, 0, 0);
  for (unsigned i = 0; i < asked->numAttrs; ++i) {
    const auto& one = asked->attrs[i];
    if (one.id == cudaLaunchAttributeClusterDimension)
      cluster = dim3(one.val.clusterDim.x, one.val.clusterDim.y, one.val.clusterDim.z);
    else if (one.id == cudaLaunchAttributeCooperative && one.val.cooperative)
      return result(cudaErrorNotSupported);  // blocks that wait for each other
  }
  return launch(kernel, asked->gridDim, asked->blockDim, cluster, asked->dynamicSmemBytes, arguments);
}

// Properties of kernels.

cudaError_t cudaFuncSetAttribute(const void* handle, cudaFuncAttribute attribute, int value) {
  Kernel* kernel = find(handle);
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > gpu.shared_per_block_opt_in) return result(cudaErrorInvalidValue);
    kernel->granted_shared = value;
  } else if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    kernel->large_clusters = value != 0;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void* handle) {
  const Kernel* kernel = find(handle);
  Properties known = {};
  if (!kernel || !callbacks.properties || callbacks.properties(kernel->name.c_str(), &known))
    return result(cudaErrorInvalidDeviceFunction);
  *out = {};
  out->sharedSizeBytes = known.static_shared;
  out->maxThreadsPerBlock = known.threads_per_block ? known.threads_per_block : gpu.threads_per_block;
  out->maxDynamicSharedSizeBytes = std::max(kernel->granted_shared, gpu.shared_per_block - known.static_shared);
  out->ptxVersion = out->binaryVersion = 10 * gpu.major + gpu.minor;
  return cudaSuccess;
}

// By threads and shared memory alone: how many registers a thread takes is decided where PTX is made machine code.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel, int threads, size_t shared,
                                                                   unsigned) {
  cudaFuncAttributes known;
  const cudaError_t error = cudaFuncGetAttributes(&known, kernel);
  if (error != cudaSuccess) return error;
  if (threads < 1) return result(cudaErrorInvalidValue);
  constexpr int64_t reserved = 1024, granule = 128;  // of shared memory, for each block
  const int warps = (threads + gpu.warp_size - 1) / gpu.warp_size;
  const int64_t bytes = (int64_t(known.sharedSizeBytes + shared) + granule - 1) / granule * granule + reserved;
  const int64_t fit = std::min<int64_t>(gpu.threads_per_multiprocessor / gpu.warp_size / warps,
                                        gpu.shared_per_multiprocessor / bytes);
  *blocks = threads > known.maxThreadsPerBlock ? 0 : int(std::min<int64_t>(fit, gpu.blocks_per_multiprocessor));
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared, 0);
}

cudaError_t cudaOccupancyMaxPotentialClusterSize(int* blocks, const void* handle, const cudaLaunchConfig_t*) {
  const Kernel* kernel = find(handle);
  if (!kernel) return result(cudaErrorInvalidDeviceFunction);
  *blocks = gpu.major < 9 ? 1 : kernel->large_clusters ? 16 : 8;
  return cudaSuccess;
}

}  // extern "C"
