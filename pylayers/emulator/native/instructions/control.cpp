// Branches, exits and barriers: what a basic block ends in. The last operand is the block that follows.
#include "../table.h"

namespace pylayers::emulator {
namespace {

void send(Warp& warp, Mask lanes, const Operand& label) {
  const uint32_t block = label.offset < 0 ? kEnd : static_cast<uint32_t>(label.offset);
  if (lanes == ~Mask(0)) std::fill_n(warp.at, kLanes, block);
  else for_active(lanes, [&](int lane) { warp.at[lane] = block; });
}

const Operand& next(const Instruction& instruction) { return instruction.operands[instruction.count - 1]; }

void go(Warp& warp, const Instruction& instruction, Mask) { send(warp, warp.standing, next(instruction)); }

void branch(Warp& warp, const Instruction& instruction, Mask active) {
  send(warp, warp.standing, next(instruction));
  send(warp, active, instruction.operands[0]);
}

void branch_by_index(Warp& warp, const Instruction& instruction, Mask active) {
  const auto* index = values<uint32_t>(std::as_const(warp), instruction.operands[0]);
  for_active(active, [&](int lane) {
    if (index[lane] + 1 >= instruction.count) warp.fault(instruction, lane, "index of brx.idx is beyond its list of targets");
    send(warp, Mask(1) << lane, instruction.operands[1 + index[lane]]);
  });
}

void leave(Warp& warp, const Instruction& instruction, Mask active) {
  send(warp, warp.standing, next(instruction));
  send(warp, active, Operand{-1, 0, Operand::kLabel});
  warp.live &= ~active;
}

void check_whole_warp(Warp& warp, const Instruction& instruction, Mask active) {
  if (active != warp.live) warp.fault(instruction, __builtin_ctz(active), "barrier divergence: only some lanes of the warp reach the barrier");
}

void arrive(Warp& warp, const Instruction& instruction, Mask active, bool wait) {
  const int first = __builtin_ctz(active);
  const uint32_t barrier = values<uint32_t>(std::as_const(warp), instruction.operands[0])[first];
  const uint32_t expected = values<uint32_t>(std::as_const(warp), instruction.operands[1])[first];
  if (barrier >= kBarriers) warp.fault(instruction, first, "there is no barrier " + std::to_string(barrier));
  if (expected % kLanes) warp.fault(instruction, first, "a barrier expects a multiple of 32 threads, not " + std::to_string(expected));
  ++warp.launch().counts.barriers;
  warp.block->arrived[barrier] += __builtin_popcount(active);
  if (!wait) return;
  warp.waiting |= active;
  for_active(active, [&](int lane) {
    warp.barrier[lane] = barrier;
    warp.expected[lane] = expected;
    warp.waits_at[lane] = instruction.index;
    warp.vote[lane] = 0;
  });
}

template <bool whole_warp>
void synchronise(Warp& warp, const Instruction& instruction, Mask active) {
  send(warp, warp.standing, next(instruction));
  if (!active) return;
  if (whole_warp) check_whole_warp(warp, instruction, active);
  arrive(warp, instruction, active, true);
}

void arrive_only(Warp& warp, const Instruction& instruction, Mask active) { arrive(warp, instruction, active, false); }

template <bool whole_warp, bool negated>
void synchronise_and_vote(Warp& warp, const Instruction& instruction, Mask active) {
  synchronise<whole_warp>(warp, instruction, active);
  const Mask votes = mask_of(values<uint8_t>(std::as_const(warp), instruction.operands[2])) ^ (negated ? ~Mask(0) : 0);
  for_active(active, [&](int lane) { warp.vote[lane] = votes >> lane & 1; });
}

template <class Result, class Count>
void result_of_vote(Warp& warp, const Instruction& instruction, Mask active, const Count& count) {
  for_active(active, [&](int lane) { set_value<Result>(warp, instruction.operands[0], lane, count(*warp.block)); });
}

void cluster_arrive(Warp& warp, const Instruction& instruction, Mask active) {
  if (active & warp.cluster_arrived) warp.fault(instruction, __builtin_ctz(active), "arrives at the cluster barrier twice");
  ++warp.launch().counts.barriers;
  warp.cluster_arrived |= active;
}

void cluster_wait(Warp& warp, const Instruction& instruction, Mask active) {
  send(warp, warp.standing, next(instruction));
  for_active(active, [&](int lane) {
    const Mask bit = Mask(1) << lane;
    if (warp.cluster_released & bit) {
      warp.cluster_released &= ~bit;
      return;
    }
    if (!(warp.cluster_arrived & bit)) warp.fault(instruction, lane, "waits at the cluster barrier without having arrived");
    warp.waiting |= bit;
    warp.barrier[lane] = kClusterBarrier;
    warp.waits_at[lane] = instruction.index;
  });
}

void trap(Warp& warp, const Instruction& instruction, Mask active) { warp.fault(instruction, __builtin_ctz(active), "trap"); }

void failed_assertion(Warp& warp, const Instruction& instruction, Mask active) {
  warp.fault(instruction, __builtin_ctz(active), "assertion failed in the kernel");
}

}  // namespace

void define_control() {
  define("goto", {go, {}});
  define("bra", {branch, {}});
  define("brx.idx", {branch_by_index, {4}, 0, 0, 2});
  define("exit", {leave, {}});
  define("bar.sync", {synchronise<true>, {4, 4}});
  define("barrier.sync", {synchronise<false>, {4, 4}});
  define("{bar,barrier}.arrive", {arrive_only, {4, 4}});
  define("bar.red", {synchronise_and_vote<true, false>, {4, 4, 1}});
  define("bar.red.not", {synchronise_and_vote<true, true>, {4, 4, 1}});
  define("barrier.red", {synchronise_and_vote<false, false>, {4, 4, 1}});
  define("barrier.red.not", {synchronise_and_vote<false, true>, {4, 4, 1}});
  define("bar.result.popc", {[](Warp& w, const Instruction& i, Mask a) { result_of_vote<uint32_t>(w, i, a, [](const Block& b) { return b.votes; }); }, {4}});
  define("bar.result.and", {[](Warp& w, const Instruction& i, Mask a) { result_of_vote<uint8_t>(w, i, a, [](const Block& b) { return uint8_t(b.votes == b.voters); }); }, {1}});
  define("bar.result.or", {[](Warp& w, const Instruction& i, Mask a) { result_of_vote<uint8_t>(w, i, a, [](const Block& b) { return uint8_t(b.votes > 0); }); }, {1}});
  define("barrier.cluster.arrive{,.relaxed}", {cluster_arrive, {}});
  define("barrier.cluster.wait", {cluster_wait, {}});
  define("trap", {trap, {}});
  define("brkpt", {trap, {}});
  define("trap.assert", {failed_assertion, {}});
  define("{membar,fence,nanosleep,griddepcontrol,prefetch,createpolicy,pragma}", {[](Warp&, const Instruction&, Mask) {}, {}});
}

}  // namespace pylayers::emulator
