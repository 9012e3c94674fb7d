// The rest of the CUDA runtime's stand-in: the device, errors, memory. Everything happens at once, so streams are all the same.
#include <algorithm>
#include <cstring>
#include <map>

#include "runtime.h"

namespace emulated {

Gpu gpu;
Callbacks callbacks;

namespace {

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t write(void* to, const void* from, size_t bytes, int value) {
  if (callbacks.write && callbacks.write(to, from, bytes)) return result(cudaErrorIllegalAddress);
  from ? std::memmove(to, from, bytes) : std::memset(to, value, bytes);
  return cudaSuccess;
}

}  // namespace

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace emulated

using namespace emulated;

extern "C" {

__attribute__((visibility("default"))) void emulator_set_gpu(const Gpu* chosen) {
  gpu = *chosen;
  last_error = cudaSuccess;  // of another GPU
}
__attribute__((visibility("default"))) void emulator_set_callbacks(const Callbacks* chosen) { callbacks = *chosen; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  const std::map<int, int> values = {
      {cudaDevAttrMaxThreadsPerBlock, gpu.threads_per_block},
      {cudaDevAttrMaxBlockDimX, gpu.block_size[0]},
      {cudaDevAttrMaxBlockDimY, gpu.block_size[1]},
      {cudaDevAttrMaxBlockDimZ, gpu.block_size[2]},
      {cudaDevAttrMaxGridDimX, gpu.grid_size[0]},
      {cudaDevAttrMaxGridDimY, gpu.grid_size[1]},
      {cudaDevAttrMaxGridDimZ, gpu.grid_size[2]},
      {cudaDevAttrMaxSharedMemoryPerBlock, gpu.shared_per_block},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu.shared_per_block_opt_in},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, gpu.shared_per_multiprocessor},
      {cudaDevAttrReservedSharedMemoryPerBlock, 1024},
      {cudaDevAttrMaxRegistersPerBlock, gpu.registers},
      {cudaDevAttrMaxRegistersPerMultiprocessor, gpu.registers},
      {cudaDevAttrMaxThreadsPerMultiProcessor, gpu.threads_per_multiprocessor},
      {cudaDevAttrMaxBlocksPerMultiprocessor, gpu.blocks_per_multiprocessor},
      {cudaDevAttrMultiProcessorCount, gpu.multiprocessors},
      {cudaDevAttrWarpSize, gpu.warp_size},
      {cudaDevAttrL2CacheSize, gpu.l2_bytes},
      {cudaDevAttrComputeCapabilityMajor, gpu.major},
      {cudaDevAttrComputeCapabilityMinor, gpu.minor},
      {cudaDevAttrClusterLaunch, gpu.major >= 9},
      {cudaDevAttrCooperativeLaunch, 0},
  };
  const auto found = values.find(attribute);
  if (found == values.end()) return result(cudaErrorInvalidValue);
  *value = found->second;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  *out = {};
  std::strcpy(out->name, "emulated");
  out->major = gpu.major;
  out->minor = gpu.minor;
  out->multiProcessorCount = gpu.multiprocessors;
  out->warpSize = gpu.warp_size;
  out->maxThreadsPerBlock = gpu.threads_per_block;
  out->maxThreadsPerMultiProcessor = gpu.threads_per_multiprocessor;
  out->maxBlocksPerMultiProcessor = gpu.blocks_per_multiprocessor;
  out->regsPerBlock = out->regsPerMultiprocessor = gpu.registers;
  out->sharedMemPerBlock = gpu.shared_per_block;
  out->sharedMemPerBlockOptin = gpu.shared_per_block_opt_in;
  out->sharedMemPerMultiprocessor = gpu.shared_per_multiprocessor;
  out->l2CacheSize = gpu.l2_bytes;
  std::copy(gpu.block_size, gpu.block_size + 3, out->maxThreadsDim);
  std::copy(gpu.grid_size, gpu.grid_size + 3, out->maxGridSize);
  return cudaSuccess;
}

// Errors, as long as they are not asked for, stay.

cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorLaunchFailure: return "the emulator refused the launch or found a fault";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidDeviceFunction: return "the kernel is not known";
    case cudaErrorNotSupported: return "not emulated";
    case cudaErrorNoDevice: return "no emulated device is on";
    case cudaErrorIllegalAddress: return "memory that the call was not given";
    default: return "error of the emulated runtime";
  }
}

// Memory and streams.

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return write(to, nullptr, bytes, value); }
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return write(to, nullptr, bytes, value); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return write(to, from, bytes, 0);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return write(to, from, bytes, 0); }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

}  // extern "C"
