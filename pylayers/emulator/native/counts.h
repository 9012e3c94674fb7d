// What a launch did, added up over all warps.
#pragma once

#include <cstdint>

namespace pylayers::emulator {

struct Traffic {
  int64_t instructions = 0;  // of warps
  int64_t bytes = 0;         // asked for by lanes
  int64_t sectors = 0;       // of 32 bytes, touched by each instruction
  int64_t requests = 0;      // lines of 128 bytes, touched by each instruction
};

struct Counts {
  Traffic global_load, global_store;
  int64_t shared_accesses = 0;   // instructions of warps
  int64_t shared_conflicts = 0;  // extra turns that banks take, beyond the fewest that the bytes need
  int64_t shuffles = 0, barriers = 0, atomics = 0;
  int64_t flops = 0;             // of lanes, fma counts two
  int64_t matrix_flops = 0;      // of mma
  int64_t instructions = 0;      // of warps
};

}  // namespace pylayers::emulator
