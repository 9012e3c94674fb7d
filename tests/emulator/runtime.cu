// A launcher in the place of rms_norm_forward that asks the CUDA runtime all kinds of things; eps says what.
#include <cuda_runtime.h>

#include <stdexcept>

#include "../kernels.h"

namespace pylayers::cuda {
namespace {

enum Task { kFacts = 1, kMuchShared, kAllowedShared, kWideBlock, kCluster, kMemset, kOutside, kUnknown, kHalf };

__global__ void __launch_bounds__(512) copies(float* y, const float* x, int64_t count) {
  extern __shared__ float staged[];
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= count) return;
  staged[threadIdx.x] = x[index];
  y[index] = staged[threadIdx.x];
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("rms_norm_forward: ") + cudaGetErrorString(status));
}

void tell_facts(Stream stream, float* y) {
  cudaFuncAttributes attributes;
  cudaDeviceProp properties;
  int device, multiprocessors, blocks;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaGetDeviceProperties(&properties, device));
  check(cudaFuncGetAttributes(&attributes, copies));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, copies, 512, 100 << 10));
  const float facts[] = {float(multiprocessors), float(properties.sharedMemPerBlockOptin), float(attributes.maxThreadsPerBlock),
                         float(blocks)};
  check(cudaMemcpyAsync(y, facts, sizeof(facts), cudaMemcpyHostToDevice, stream));
}

void launch_cluster(Stream stream, float* y, const float* x, int64_t count) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {2, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2);
  config.blockDim = dim3(32);
  config.dynamicSmemBytes = 128;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, copies, y, x, count));
}

}  // namespace

void rms_norm_forward(Stream stream, Output out, Output, Input in, Input, double eps, double) {
  auto* y = static_cast<float*>(out.data);
  const auto* x = static_cast<const float*>(in.data);
  const int64_t count = in.rows() * in.dim(), bytes = count * sizeof(float);
  constexpr int most = 64 << 10;
  switch (Task(eps)) {
    case kFacts: return tell_facts(stream, y);
    case kCluster: return launch_cluster(stream, y, x, count);
    case kMemset: return check(cudaMemsetAsync(y, 0, bytes, stream));
    case kOutside: return check(cudaMemsetAsync(y, 0, bytes + 4, stream));
    case kUnknown: return check(cudaFuncSetAttribute(copies, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20));
    case kAllowedShared: check(cudaFuncSetAttribute(copies, cudaFuncAttributeMaxDynamicSharedMemorySize, most)); break;
    default: break;
  }
  const int threads = Task(eps) == kWideBlock ? 1024 : 32;
  const int shared = Task(eps) == kMuchShared || Task(eps) == kAllowedShared ? most : threads * 4;
  copies<<<dim3(unsigned(count / 32 + 1)), threads, shared, stream>>>(y, x, Task(eps) == kHalf ? count / 2 : count);
  check(cudaGetLastError());
}

}  // namespace pylayers::cuda
