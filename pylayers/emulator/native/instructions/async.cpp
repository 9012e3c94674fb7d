// cp.async: a copy from global to shared memory that is not there before it is waited for. Here it happens at the wait, and what
// it will overwrite becomes undefined at once, so that whoever reads too early is caught.
#include "../memory.h"
#include "../table.h"

namespace pylayers::emulator {
namespace {

void complete(Warp& warp, const Instruction& instruction, const PendingCopy& copy) {
  SharedMemory& shared = warp.block->shared;
  if (const char* problem = shared.write(copy.address, copy.size, who_is(warp, copy.lane, false), copy.bytes))
    warp.fault(instruction, copy.lane, problem);
  std::memcpy(shared.at(copy.address), copy.bytes, copy.size);
}

// Operands: shared address, global address, [bytes to write, [bytes to read; the rest is zero]].
void copy(Warp& warp, const Instruction& instruction, Mask active) {
  const auto* size = values<uint32_t>(std::as_const(warp), instruction.operands[2]);
  const uint32_t bytes = size[__builtin_ctz(active)];
  uint32_t wanted[kLanes];
  Mask reads = 0;
  for_active(active, [&](int lane) {
    wanted[lane] = instruction.count > 3 ? std::min(values<uint32_t>(std::as_const(warp), instruction.operands[3])[lane], bytes) : bytes;
    reads |= Mask(wanted[lane] > 0) << lane;
  });
  Places from{};
  if (reads) from = places(warp, instruction, reads, instruction.operands[1], {Space::kGlobal, bytes});
  places(warp, instruction, active, instruction.operands[0], {Space::kShared, bytes, true});
  for_active(active, [&](int lane) {
    const auto address = static_cast<uint32_t>(address_of(warp, instruction.operands[0], lane));
    PendingCopy pending{address, static_cast<uint8_t>(lane), static_cast<uint8_t>(bytes), warp.groups[lane], {}};
    if (wanted[lane]) std::memcpy(pending.bytes, from.lane[lane], wanted[lane]);
    warp.block->shared.forget(address, bytes);
    warp.copies.push_back(pending);
  });
}

void commit(Warp& warp, const Instruction&, Mask active) {
  for_active(active, [&](int lane) { ++warp.groups[lane]; });
}

// Completes what the active lanes copied, but for the last `keep` groups that each committed.
void wait(Warp& warp, const Instruction& instruction, Mask active, int keep, bool uncommitted) {
  std::vector<PendingCopy> later;
  for (const auto& one : warp.copies) {
    const bool due = active >> one.lane & 1 && (uncommitted || one.group < warp.groups[one.lane] - keep);
    if (due) complete(warp, instruction, one);
    else later.push_back(one);
  }
  warp.copies = std::move(later);
}

void wait_group(Warp& warp, const Instruction& instruction, Mask active) {
  wait(warp, instruction, active, values<int32_t>(std::as_const(warp), instruction.operands[0])[__builtin_ctz(active)], false);
}

void wait_all(Warp& warp, const Instruction& instruction, Mask active) { wait(warp, instruction, active, 0, true); }

}  // namespace

void define_async_copies() {
  define("cp.async.{ca,cg}.shared.global", {copy, {0, 8, 4, 4}, 0, 0, 3});
  define("cp.async.commit_group", {commit, {}});
  define("cp.async.wait_group", {wait_group, {4}});
  define("cp.async.wait_all", {wait_all, {}});
}

}  // namespace pylayers::emulator
