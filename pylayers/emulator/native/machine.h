// The machine: 32 lanes in a warp, warps in a block, blocks in a cluster, clusters in a launch, and the program they run.
//
// A register holds one value for each lane, side by side, so that an instruction is a loop over 32 neighbours which the compiler
// turns into vector instructions. Lanes of a warp that stand at the same basic block run it together. Of the blocks at which
// lanes stand the first one runs: blocks are numbered so that lanes which part meet again as early as they can.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "counts.h"
#include "shadow.h"

namespace pylayers::emulator {

using Mask = uint32_t;  // bit l: lane l

inline constexpr int kLanes = 32;
inline constexpr int kBarriers = 16;
inline constexpr uint32_t kClusterBarrier = 16;  // in Warp::barrier
inline constexpr uint32_t kEnd = ~0u;            // in Warp::at: the lane has left the program
inline constexpr int kWarps = 32;  // of a block, at most

struct Block;
struct Instruction;
struct Launch;
struct Warp;

struct Fault : std::runtime_error {
  Fault(std::string what, int instruction, std::string where)
      : std::runtime_error(std::move(what)), instruction(instruction), where(std::move(where)) {}
  int instruction;
  std::string where;  // block and thread
};

// Where the 32 values of an operand lie. Immediates are constants of the program.
struct Operand {
  enum Kind : uint8_t { kRegister, kConstant, kLabel };
  int32_t offset = 0;        // bytes from the start of the warp's registers or of the constants; the block of a label
  uint8_t size = 0;          // bytes of one lane's value; predicates have 1
  Kind kind = kRegister;
  int64_t displacement = 0;  // added to an address
};

using Handler = void (*)(Warp& warp, const Instruction& instruction, Mask active);

struct Instruction {
  Handler run = nullptr;
  const Operand* operands = nullptr;
  int32_t guard = -1;        // offset of the predicate register, -1 if there is none
  bool negated = false;
  bool strong = false;       // volatile, relaxed, acquire, release: meant for what other threads do at the same time
  uint8_t count = 0;         // of operands
  uint8_t flops = 0;         // floating-point operations of one lane
  uint8_t space = 0;         // of memory: see memory.h
  int32_t index = 0;         // in the text of the kernel
};

struct Special {
  int32_t offset;  // of the register that holds it
  int32_t id;      // in specials.cpp
};

struct Program {
  std::vector<Instruction> instructions;
  std::vector<Operand> operands;
  std::vector<int32_t> blocks;  // first instruction of each, and the end of the last one
  std::vector<Special> specials;
  std::vector<uint8_t> constants;
  int64_t register_bytes = 0, local_bytes = 0, parameter_bytes = 0;
};

struct PendingCopy {  // of cp.async, by one lane
  uint32_t address;
  uint8_t lane, size;
  int32_t group;
  uint8_t bytes[16];
};

struct Warp {
  Block* block = nullptr;
  const Program* program = nullptr;
  uint8_t* registers = nullptr;
  uint8_t* local = nullptr;  // program->local_bytes of each lane
  int id = 0;                // in the block
  Mask live = 0, waiting = 0;
  Mask standing = 0;         // lanes that run the present basic block
  uint32_t clock = 0;        // warp-wide synchronisations so far
  uint32_t at[kLanes];       // basic block that the lane is to run next
  uint32_t barrier[kLanes], expected[kLanes];  // that a waiting lane waits at, with how many threads (0: all)
  int32_t waits_at[kLanes];  // the instruction
  uint8_t vote[kLanes];      // what a lane brings to barrier.red
  uint8_t carry[kLanes] = {};  // of add.cc and its kind
  uint32_t seen[kWarps];     // clock of each warp up to which its work happened before ours, inside a barrier interval
  int32_t groups[kLanes];    // cp.async groups committed
  std::vector<PendingCopy> copies;
  Mask cluster_arrived = 0, cluster_released = 0;

  Launch& launch() const;
  int thread(int lane) const { return id * kLanes + lane; }
  [[noreturn]] void fault(const Instruction& instruction, int lane, const std::string& what) const;
  // Faults unless every lane of `members` that lives is among the active ones, and `lane` among the members.
  void check_members(const Instruction& instruction, int lane, Mask members, Mask active) const;
};

struct Block {
  Launch* launch = nullptr;
  uint32_t x = 0, y = 0, z = 0, rank = 0;  // rank: in the cluster
  uint64_t number = 0;
  std::vector<Warp> warps;
  std::vector<uint8_t> registers, local;
  SharedMemory shared;
  uint64_t interval = 0;  // tick of the last barrier of all threads
  uint32_t arrived[kBarriers] = {};
  uint32_t votes = 0, voters = 0;  // of the barrier.red that was released last
};

struct Launch {
  const Program* program = nullptr;
  uint32_t grid[3], block[3], cluster[3];
  std::vector<uint8_t> parameters;
  uint32_t static_shared = 0, dynamic_shared = 0;
  GlobalMemory* global = nullptr;
  Counts counts;
  uint32_t order = 0;
  uint64_t step_limit = 0, steps = 0;
  uint64_t tick = 0;              // counts barriers of every kind
  uint64_t cluster_interval = 0;  // tick of the last barrier of the cluster
  uint64_t cluster_start = 0;     // tick at which the cluster began
  std::vector<std::unique_ptr<Block>> blocks;  // of the cluster that runs

  uint32_t threads() const { return block[0] * block[1] * block[2]; }
  uint32_t shared_bytes() const { return static_shared + dynamic_shared; }
};

// Runs every block. Throws Fault.
void run(Launch& launch);

// Values of special registers for one lane.
int special_id(const std::string& name);  // -1: unknown
void set_special(Warp& warp, const Special& special);

inline Launch& Warp::launch() const { return *block->launch; }

template <class T>
const T* values(const Warp& warp, const Operand& operand) {
  const uint8_t* base = operand.kind == Operand::kConstant ? warp.program->constants.data() : warp.registers;
  return reinterpret_cast<const T*>(base + operand.offset);
}

template <class T>
T* values(Warp& warp, const Operand& operand) {
  return reinterpret_cast<T*>(warp.registers + operand.offset);
}

// One lane's value of an operand whose register may be wider than T, as those of ld, st and cvt may.
template <class T>
T value_in(const Warp& warp, const Operand& operand, int lane) {
  T value;
  std::memcpy(&value, values<uint8_t>(warp, operand) + lane * operand.size, sizeof(T));
  return value;
}

// Written to a register that may be wider: extended by its sign if T is signed, else by zeros.
template <class T>
void set_value(Warp& warp, const Operand& operand, int lane, T value) {
  uint8_t* place = values<uint8_t>(warp, operand) + lane * operand.size;
  std::memset(place, std::is_signed_v<T> && value < T(0) ? 0xff : 0, operand.size);
  std::memcpy(place, &value, std::min<size_t>(sizeof(T), operand.size));
}

template <class Body>
void for_active(Mask active, const Body& body) {
  for (; active; active &= active - 1) body(__builtin_ctz(active));
}

// Bit l: predicate of lane l.
inline Mask mask_of(const uint8_t* predicate) {
  Mask mask = 0;
  for (int word = 0; word < 4; ++word) {  // gathers the lowest bit of eight bytes
    uint64_t bytes;
    std::memcpy(&bytes, predicate + 8 * word, 8);
    mask |= Mask((bytes & 0x0101010101010101u) * 0x0102040810204080u >> 56) << (8 * word);
  }
  return mask;
}

}  // namespace pylayers::emulator
