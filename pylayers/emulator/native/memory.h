// Accesses of a warp to memory: where each lane's address leads, whether it may go there, and what it costs.
#pragma once

#include "machine.h"

namespace pylayers::emulator {

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParameter };

// As opcodes write them.
inline constexpr std::pair<const char*, Space> kSpaces[] = {
    {"", Space::kGeneric}, {".global", Space::kGlobal}, {".const", Space::kGlobal}, {".shared", Space::kShared},
    {".shared::cluster", Space::kShared}, {".local", Space::kLocal}, {".param", Space::kParameter}, {".param::entry", Space::kParameter}};

inline Space space_of(const Instruction& instruction) { return static_cast<Space>(instruction.space); }

// Generic addresses: global memory is the host's, the other spaces have windows where the host has nothing.
inline constexpr uint64_t kSharedWindow = uint64_t(1) << 60, kLocalWindow = uint64_t(2) << 60, kParameterWindow = uint64_t(3) << 60;
// A shared address names a block of the cluster by 1 + rank in these bits, or the lane's own block by 0.
inline constexpr int kRankShift = 24;

struct Places {
  uint8_t* lane[kLanes];  // where the bytes of each active lane lie
};

struct Request {
  Space space;
  uint32_t bytes;                 // of a lane
  bool write = false;
  bool atomic = false;            // reads and writes
  const uint8_t* next = nullptr;  // what is to be written, [lane][bytes], if known
  bool aligned = true;            // addresses must be multiples of `bytes`
};

// Faults, naming the lane, if an access is not allowed. Counts it too.
Places places(Warp& warp, const Instruction& instruction, Mask active, const Operand& address, const Request& request);

// The lane, as shared memory is to know it.
Who who_is(const Warp& warp, int lane, bool atomic);

uint64_t address_of(const Warp& warp, const Operand& operand, int lane);

}  // namespace pylayers::emulator
