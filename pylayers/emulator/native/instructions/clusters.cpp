// Distributed shared memory: addresses of other blocks of the cluster.
#include "../memory.h"
#include "../table.h"

namespace pylayers::emulator {
namespace {

// Operands: result, address, rank.
template <class T, uint64_t window>
void map_address(Warp& warp, const Instruction& instruction, Mask active) {
  const auto* ranks = values<uint32_t>(std::as_const(warp), instruction.operands[2]);
  for_active(active, [&](int lane) {
    const uint64_t address = value_in<T>(warp, instruction.operands[1], lane) - window;
    if (ranks[lane] >= warp.launch().blocks.size()) warp.fault(instruction, lane, "mapa names a block that the cluster does not have");
    const uint64_t offset = address & ((uint64_t(1) << kRankShift) - 1);
    values<T>(warp, instruction.operands[0])[lane] = static_cast<T>(window + (uint64_t(ranks[lane] + 1) << kRankShift) + offset);
  });
}

template <class T, uint64_t window>
void rank_of_address(Warp& warp, const Instruction& instruction, Mask active) {
  for_active(active, [&](int lane) {
    const uint64_t rank = (value_in<T>(warp, instruction.operands[1], lane) - window) >> kRankShift & 0xff;
    values<uint32_t>(warp, instruction.operands[0])[lane] = rank ? static_cast<uint32_t>(rank - 1) : warp.block->rank;
  });
}

}  // namespace

void define_clusters() {
  define("mapa.{shared,shared::cluster}.u32", {map_address<uint32_t, 0>, {4, 4, 4}});
  define("mapa.{shared,shared::cluster}.u64", {map_address<uint64_t, 0>, {8, 8, 4}});
  define("mapa.u64", {map_address<uint64_t, kSharedWindow>, {8, 8, 4}});
  define("getctarank.{shared,shared::cluster}.u32", {rank_of_address<uint32_t, 0>, {4, 4}});
  define("getctarank.{shared,shared::cluster}.u64", {rank_of_address<uint64_t, 0>, {4, 8}});
  define("getctarank.u64", {rank_of_address<uint64_t, kSharedWindow>, {4, 8}});
}

}  // namespace pylayers::emulator
