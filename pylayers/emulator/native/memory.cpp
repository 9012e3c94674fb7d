#include "memory.h"

#include <algorithm>

namespace pylayers::emulator {
namespace {

struct Addresses {
  uint64_t lane[kLanes];
  bool in_a_row = false;  // all lanes take part, and each accesses what follows the bytes of the lane before it
};

Addresses addresses_of(const Warp& warp, const Operand& operand) {
  Addresses all;
  const auto add = [&](const auto* base) {
    for (int lane = 0; lane < kLanes; ++lane) all.lane[lane] = base[lane] + operand.displacement;
  };
  operand.size == 8 ? add(values<uint64_t>(warp, operand)) : add(values<uint32_t>(warp, operand));
  if (operand.size == 4)  // 32-bit addresses wrap around
    for (auto& address : all.lane) address = static_cast<uint32_t>(address);
  return all;
}

bool in_a_row(Mask active, const Addresses& all, uint32_t bytes) {
  if (active != ~Mask(0)) return false;
  bool yes = true;
  for (int lane = 1; lane < kLanes; ++lane) yes &= all.lane[lane] == all.lane[0] + uint64_t(lane) * bytes;
  return yes;
}

void check_alignment(const Warp& warp, const Instruction& instruction, Mask active, const Addresses& all, const Request& request) {
  if (all.in_a_row && !(all.lane[0] & (request.bytes - 1))) return;
  uint64_t low = 0;
  for_active(active, [&](int lane) { low |= all.lane[lane]; });
  if (!(low & (request.bytes - 1))) return;
  for_active(active, [&](int lane) {
    if (all.lane[lane] & (request.bytes - 1))
      warp.fault(instruction, lane, "address is not a multiple of the " + std::to_string(request.bytes) + " bytes that it accesses");
  });
}

// How many pieces of 2^shift bytes the lanes touch.
int64_t distinct(Mask active, const Addresses& all, int shift, uint32_t bytes) {
  if (all.in_a_row) return ((all.lane[kLanes - 1] + bytes - 1) >> shift) - (all.lane[0] >> shift) + 1;
  uint64_t lines[2 * kLanes];
  int count = 0;
  bool rising = true;
  for_active(active, [&](int lane) {
    const uint64_t first = all.lane[lane] >> shift, last = (all.lane[lane] + bytes - 1) >> shift;
    for (uint64_t line = first; line <= last; ++line) {
      if (count && lines[count - 1] == line) continue;
      rising = rising && (!count || line > lines[count - 1]);
      lines[count++] = line;
    }
  });
  if (rising) return count;
  std::sort(lines, lines + count);
  return std::unique(lines, lines + count) - lines;
}

void count_global(Counts& counts, Mask active, const Addresses& all, const Request& request) {
  Traffic& traffic = request.write ? counts.global_store : counts.global_load;
  traffic.instructions += 1;
  traffic.bytes += int64_t(request.bytes) * __builtin_popcount(active);
  traffic.sectors += distinct(active, all, 5, request.bytes);
  traffic.requests += distinct(active, all, 7, request.bytes);
}

[[noreturn]] void fault_global(const Warp& warp, const Instruction& instruction, int lane, uint64_t address, const char* problem) {
  warp.fault(instruction, lane, std::string(problem) + " (" + warp.launch().global->describe(address) + ")");
}

void check_global(Warp& warp, const Instruction& instruction, Mask active, const Addresses& all, const Request& request) {
  GlobalMemory& memory = *warp.launch().global;
  const bool strong = instruction.strong || request.atomic;
  const auto check = [&](uint64_t address, uint32_t bytes, const uint8_t* next) -> const char* {
    if (!request.write || request.atomic)
      if (const char* problem = memory.read(address, bytes, strong)) return problem;
    return request.write ? memory.write(address, bytes, strong, next) : nullptr;
  };
  if (!strong && all.in_a_row && !check(all.lane[0], request.bytes * kLanes, request.next)) return;
  for_active(active, [&](int lane) {
    const uint8_t* next = request.next ? request.next + lane * request.bytes : nullptr;
    if (const char* problem = check(all.lane[lane], request.bytes, next)) fault_global(warp, instruction, lane, all.lane[lane], problem);
    if (strong) memory.synchronise(all.lane[lane]);
  });
}

Block& owner(const Warp& warp, const Instruction& instruction, int lane, uint64_t address) {
  const uint64_t rank = address >> kRankShift & 0xff;
  if (rank == 0 || rank - 1 == warp.block->rank) return *warp.block;
  const Launch& launch = warp.launch();
  if (rank > launch.blocks.size()) warp.fault(instruction, lane, "shared address names a block that the cluster does not have");
  if (launch.cluster_interval == launch.cluster_start)
    warp.fault(instruction, lane, "shared memory of a block that may not have begun: no barrier of the cluster was before");
  return *launch.blocks[rank - 1];
}

uint8_t* shared_place(Warp& warp, const Instruction& instruction, int lane, uint64_t address, const Request& request) {
  Block& block = owner(warp, instruction, lane, address);
  const uint32_t offset = address & ((1 << kRankShift) - 1);
  const Who who = who_is(warp, lane, request.atomic);
  const char* problem = nullptr;
  if (!request.write || request.atomic) problem = block.shared.read(offset, request.bytes, who);
  if (!problem && request.write)
    problem = block.shared.write(offset, request.bytes, who, request.next ? request.next + lane * request.bytes : nullptr);
  if (problem) warp.fault(instruction, lane, problem);
  return block.shared.at(offset);
}

// Turns that the 32 banks of 4 bytes take beyond the fewest: lanes that want different words of one bank wait for each other.
void count_shared(Counts& counts, Mask active, const Addresses& all, uint32_t bytes) {
  ++counts.shared_accesses;
  const int lanes_at_once = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  for (int first = 0; first < kLanes; first += lanes_at_once) {
    uint64_t words[kLanes];
    int count = 0, banks[32] = {}, most = 0;
    for (int lane = first; lane < first + lanes_at_once; ++lane) {
      if (!(active >> lane & 1)) continue;
      for (uint64_t word = all.lane[lane] / 4; word <= (all.lane[lane] + bytes - 1) / 4; ++word) words[count++] = word;
    }
    std::sort(words, words + count);
    count = static_cast<int>(std::unique(words, words + count) - words);
    for (int i = 0; i < count; ++i) most = std::max(most, ++banks[words[i] % 32]);
    counts.shared_conflicts += std::max(most - 1, 0);
  }
}

uint8_t* local_place(Warp& warp, const Instruction& instruction, int lane, uint64_t address, uint32_t bytes) {
  const auto size = static_cast<uint64_t>(warp.program->local_bytes);
  if (address + bytes > size) warp.fault(instruction, lane, "local memory out of bounds");
  return warp.local + lane * size + address;
}

uint8_t* parameter_place(Warp& warp, const Instruction& instruction, int lane, uint64_t address, const Request& request) {
  auto& parameters = warp.launch().parameters;
  if (request.write || address + request.bytes > parameters.size())
    warp.fault(instruction, lane, request.write ? "writes to a parameter" : "reads a parameter out of bounds");
  return parameters.data() + address;
}

Space window_of(uint64_t address) {
  switch (address >> 60) {
    case 1: return Space::kShared;
    case 2: return Space::kLocal;
    case 3: return Space::kParameter;
    default: return Space::kGlobal;
  }
}

void fill(Places& result, Warp& warp, const Instruction& instruction, Mask active, const Addresses& all, const Request& request) {
  switch (request.space) {
    case Space::kGlobal:
      count_global(warp.launch().counts, active, all, request);
      check_global(warp, instruction, active, all, request);
      for_active(active, [&](int lane) { result.lane[lane] = reinterpret_cast<uint8_t*>(all.lane[lane]); });
      break;
    case Space::kShared:
      count_shared(warp.launch().counts, active, all, request.bytes);
      for_active(active, [&](int lane) { result.lane[lane] = shared_place(warp, instruction, lane, all.lane[lane], request); });
      break;
    case Space::kLocal:
      for_active(active, [&](int lane) { result.lane[lane] = local_place(warp, instruction, lane, all.lane[lane], request.bytes); });
      break;
    default:
      for_active(active, [&](int lane) { result.lane[lane] = parameter_place(warp, instruction, lane, all.lane[lane], request); });
  }
}

}  // namespace

Who who_is(const Warp& warp, int lane, bool atomic) {
  const Launch& launch = warp.launch();
  const Block& own = *warp.block;
  return {static_cast<uint32_t>(launch.tick), static_cast<uint32_t>(own.interval), static_cast<uint32_t>(launch.cluster_interval),
          static_cast<uint32_t>(launch.cluster_start), static_cast<uint16_t>(own.rank << 10 | warp.thread(lane)),
          static_cast<uint16_t>(warp.clock), warp.seen, atomic};
}

uint64_t address_of(const Warp& warp, const Operand& operand, int lane) {
  return addresses_of(warp, operand).lane[lane];
}

Places places(Warp& warp, const Instruction& instruction, Mask active, const Operand& operand, const Request& request) {
  Addresses all = addresses_of(warp, operand);
  Places result;
  all.in_a_row = in_a_row(active, all, request.bytes);
  if (request.aligned) check_alignment(warp, instruction, active, all, request);
  if (request.space != Space::kGeneric) {
    fill(result, warp, instruction, active, all, request);
    return result;
  }
  Mask in[5] = {};
  for_active(active, [&](int lane) {
    const Space space = window_of(all.lane[lane]);
    in[int(space)] |= Mask(1) << lane;
    if (space != Space::kGlobal) all.lane[lane] &= kSharedWindow - 1;
  });
  all.in_a_row = all.in_a_row && in[int(Space::kGlobal)] == active;
  for (const Space space : {Space::kGlobal, Space::kShared, Space::kLocal, Space::kParameter}) {
    if (!in[int(space)]) continue;
    Request one = request;
    one.space = space;
    fill(result, warp, instruction, in[int(space)], all, one);
  }
  return result;
}

}  // namespace pylayers::emulator
