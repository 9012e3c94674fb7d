// Who runs when: lanes of a warp until they wait, warps of a cluster in turn, barriers, clusters one after the other.
#include "machine.h"

namespace pylayers::emulator {
namespace {

// The first basic block at which lanes that may run stand, and which lanes these are.
Mask next_lanes(const Warp& warp, Mask ready, uint32_t& block) {
  block = warp.at[__builtin_ctz(ready)];
  bool uniform = ready == ~Mask(0);
  for (int lane = 0; lane < kLanes; ++lane) uniform &= warp.at[lane] == block;
  if (uniform) return ready;
  for_active(ready, [&](int lane) { block = std::min(block, warp.at[lane]); });
  Mask standing = 0;
  for_active(ready, [&](int lane) { standing |= Mask(warp.at[lane] == block) << lane; });
  return standing;
}

void run_block(Warp& warp, uint32_t block) {
  const Program& program = *warp.program;
  Counts& counts = warp.launch().counts;
  const Instruction* const end = &program.instructions[program.blocks[block + 1]];
  for (const Instruction* it = &program.instructions[program.blocks[block]]; it != end; ++it) {
    Mask active = warp.standing;
    if (it->guard >= 0) {
      const Mask guard = mask_of(warp.registers + it->guard);
      active &= it->negated ? ~guard : guard;
    }
    if (!active && it + 1 != end) continue;  // the last one also sends the lanes on that it leaves alone
    counts.flops += int64_t(it->flops) * __builtin_popcount(active);
    it->run(warp, *it, active);
  }
  counts.instructions += program.blocks[block + 1] - program.blocks[block];
}

void run_until_it_waits(Warp& warp) {
  Launch& launch = warp.launch();
  const auto blocks = static_cast<uint32_t>(warp.program->blocks.size() - 1);
  while (const Mask ready = warp.live & ~warp.waiting) {
    uint32_t block;
    warp.standing = next_lanes(warp, ready, block);
    if (block >= blocks) {
      warp.live &= ~warp.standing;
      continue;
    }
    launch.steps += warp.program->blocks[block + 1] - warp.program->blocks[block];
    if (launch.steps > launch.step_limit)
      warp.fault(warp.program->instructions[warp.program->blocks[block]], __builtin_ctz(warp.standing),
                 "the kernel does not end: more than " + std::to_string(launch.step_limit) + " instructions of warps");
    run_block(warp, block);
  }
}

template <class Body>
void each_waiting(Block& block, uint32_t barrier, const Body& body) {
  for (auto& warp : block.warps)
    for_active(warp.live & warp.waiting, [&](int lane) {
      if (warp.barrier[lane] == barrier) body(warp, lane);
    });
}

uint32_t live_threads(const Block& block) {
  uint32_t count = 0;
  for (const auto& warp : block.warps) count += __builtin_popcount(warp.live);
  return count;
}

[[noreturn]] void fault_at_barrier(const Warp& warp, int lane, const std::string& what) {
  for (const auto& instruction : warp.program->instructions)
    if (instruction.index == warp.waits_at[lane]) warp.fault(instruction, lane, "barrier divergence: " + what);
  throw Fault("barrier divergence: " + what, 0, "");
}

// A barrier of all threads: none has left the kernel, and all came to the same instruction.
void check_everyone(Block& block, uint32_t barrier, uint32_t live) {
  const uint32_t gone = block.launch->threads() - live;
  int32_t first = -1;
  each_waiting(block, barrier, [&](Warp& warp, int lane) {
    if (gone) fault_at_barrier(warp, lane, std::to_string(gone) + " threads of the block left the kernel before it");
    if (first < 0) first = warp.waits_at[lane];
    if (warp.waits_at[lane] != first) fault_at_barrier(warp, lane, "threads of the block wait at different barriers");
  });
}

// What the threads of a barrier did before it happened before what any of them does after it.
void join_clocks(Block& block, Mask warps, bool all) {
  Launch& launch = *block.launch;
  ++launch.tick;
  if (all) {
    block.interval = launch.tick;
    for (auto& warp : block.warps) std::fill_n(warp.seen, kWarps, 0);
    return;
  }
  uint32_t seen[kWarps] = {};
  for_active(warps, [&](int w) {
    Warp& warp = block.warps[w];
    warp.seen[w] = ++warp.clock;
    for (int other = 0; other < kWarps; ++other) seen[other] = std::max(seen[other], warp.seen[other]);
  });
  for_active(warps, [&](int w) { std::copy_n(seen, kWarps, block.warps[w].seen); });
}

bool release(Block& block, uint32_t barrier, uint32_t live) {
  uint32_t waiting = 0, expected = 0;
  Mask warps = 0;
  each_waiting(block, barrier, [&](Warp& warp, int lane) {
    ++waiting;
    expected = warp.expected[lane];
    warps |= Mask(1) << warp.id;
  });
  if (!waiting || block.arrived[barrier] < (expected ? expected : live)) return false;
  if (!expected) check_everyone(block, barrier, live);
  const bool all = block.arrived[barrier] >= live;
  block.arrived[barrier] = 0;
  block.votes = 0;
  block.voters = waiting;
  each_waiting(block, barrier, [&](Warp& warp, int lane) {
    block.votes += warp.vote[lane];
    warp.waiting &= ~(Mask(1) << lane);
  });
  join_clocks(block, warps, all);
  return true;
}

Mask waiting_for_cluster(const Warp& warp) {
  Mask mask = 0;
  for_active(warp.live & warp.waiting, [&](int lane) { mask |= Mask(warp.barrier[lane] == kClusterBarrier) << lane; });
  return mask;
}

bool release_cluster(Launch& launch) {
  Mask waits = 0;
  for (const auto& block : launch.blocks)
    for (const auto& warp : block->warps) {
      if (warp.live & ~warp.cluster_arrived) return false;
      waits |= waiting_for_cluster(warp);
    }
  if (!waits) return false;
  launch.cluster_interval = ++launch.tick;
  for (const auto& block : launch.blocks) {
    block->interval = launch.tick;
    for (auto& warp : block->warps) {
      const Mask waiting = waiting_for_cluster(warp);
      warp.waiting &= ~waiting;
      warp.cluster_released = warp.cluster_arrived & ~waiting;  // they arrived, and are to find it open when they come to wait
      warp.cluster_arrived = 0;
    }
  }
  return true;
}

bool release_some(Launch& launch, bool& anyone_lives) {
  bool any = false;
  anyone_lives = false;
  for (const auto& block : launch.blocks) {
    const uint32_t live = live_threads(*block);
    anyone_lives |= live > 0;
    for (uint32_t barrier = 0; live && barrier < kBarriers; ++barrier) any |= release(*block, barrier, live);
  }
  return any | release_cluster(launch);
}

[[noreturn]] void fault_deadlock(const Launch& launch) {
  for (const auto& block : launch.blocks)
    for (const auto& warp : block->warps)
      if (warp.live) fault_at_barrier(warp, __builtin_ctz(warp.live), "waits for threads that never reach the barrier");
  throw std::logic_error("nobody waits");
}

void start_warp(Warp& warp, uint32_t threads) {
  const uint32_t first = warp.id * kLanes;
  warp.live = threads - first >= kLanes ? ~Mask(0) : (Mask(1) << (threads - first)) - 1;
  warp.waiting = warp.cluster_arrived = warp.cluster_released = 0;
  warp.clock = 1;
  warp.copies.clear();
  for (int lane = 0; lane < kLanes; ++lane) {
    warp.at[lane] = warp.live >> lane & 1 ? 0 : kEnd;
    warp.groups[lane] = 0;
    warp.waits_at[lane] = -1;
  }
  std::fill_n(warp.seen, kWarps, 0);
  for (const auto& special : warp.program->specials) set_special(warp, special);
}

void start_block(Block& block) {
  Launch& launch = *block.launch;
  block.interval = launch.tick;
  std::fill_n(block.arrived, kBarriers, 0);
  block.shared.poison();
  for (auto& warp : block.warps) start_warp(warp, launch.threads());
}

std::unique_ptr<Block> make_block(Launch& launch, uint32_t rank) {
  const Program& program = *launch.program;
  auto block = std::make_unique<Block>();
  block->launch = &launch;
  block->rank = rank;
  block->warps.resize((launch.threads() + kLanes - 1) / kLanes);
  block->registers.resize(block->warps.size() * program.register_bytes + 64);
  block->local.resize(block->warps.size() * kLanes * program.local_bytes);
  block->shared.resize(launch.shared_bytes());
  auto* registers = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(block->registers.data()) + 63) / 64 * 64);
  for (size_t i = 0; i < block->warps.size(); ++i) {
    Warp& warp = block->warps[i];
    warp.block = block.get();
    warp.program = &program;
    warp.id = static_cast<int>(i);
    warp.registers = registers + i * program.register_bytes;
    warp.local = block->local.data() + i * kLanes * program.local_bytes;
  }
  return block;
}

void place_cluster(Launch& launch, uint64_t number) {
  const uint32_t* grid = launch.grid;
  const uint32_t* cluster = launch.cluster;
  const uint64_t across = grid[0] / cluster[0], down = grid[1] / cluster[1];
  const uint64_t cx = number % across, cy = number / across % down, cz = number / across / down;
  ++launch.tick;
  launch.cluster_start = launch.cluster_interval = launch.tick;
  for (const auto& block : launch.blocks) {
    block->x = cx * cluster[0] + block->rank % cluster[0];
    block->y = cy * cluster[1] + block->rank / cluster[0] % cluster[1];
    block->z = cz * cluster[2] + block->rank / cluster[0] / cluster[1];
    block->number = (uint64_t(block->z) * grid[1] + block->y) * grid[0] + block->x;
    start_block(*block);
  }
}

void run_cluster(Launch& launch, std::mt19937& random) {
  std::vector<Warp*> warps;
  for (const auto& block : launch.blocks)
    for (auto& warp : block->warps) warps.push_back(&warp);
  if (launch.order == 1) std::reverse(warps.begin(), warps.end());
  for (bool anyone_lives = true; anyone_lives;) {
    if (launch.order > 1) std::shuffle(warps.begin(), warps.end(), random);
    for (Warp* warp : warps) {
      if (!(warp->live & ~warp->waiting)) continue;
      launch.global->begin_block(warp->block->number);
      run_until_it_waits(*warp);
    }
    if (!release_some(launch, anyone_lives) && anyone_lives) fault_deadlock(launch);
  }
}

std::string in_parentheses(uint32_t x, uint32_t y, uint32_t z) {
  return "(" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}

}  // namespace

void Warp::fault(const Instruction& instruction, int lane, const std::string& what) const {
  const uint32_t* size = launch().block;
  const uint32_t t = thread(lane);
  throw Fault(what, instruction.index, "block " + in_parentheses(block->x, block->y, block->z) + ", thread " +
                                           in_parentheses(t % size[0], t / size[0] % size[1], t / size[0] / size[1]));
}

void Warp::check_members(const Instruction& instruction, int lane, Mask members, Mask active) const {
  if (!(members >> lane & 1)) fault(instruction, lane, "executes an instruction whose member mask leaves it out");
  if (const Mask missing = members & live & ~active)
    fault(instruction, lane, "member mask names lane " + std::to_string(__builtin_ctz(missing)) + ", which is not here");
}

void run(Launch& launch) {
  const uint64_t of_cluster = uint64_t(launch.cluster[0]) * launch.cluster[1] * launch.cluster[2];
  const uint64_t clusters = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2] / of_cluster;
  for (uint32_t rank = 0; rank < of_cluster; ++rank) launch.blocks.push_back(make_block(launch, rank));
  std::vector<uint64_t> numbers(clusters);
  for (uint64_t i = 0; i < clusters; ++i) numbers[i] = launch.order == 1 ? clusters - 1 - i : i;
  std::mt19937 random(launch.order);
  if (launch.order > 1) std::shuffle(numbers.begin(), numbers.end(), random);
  launch.global->begin_launch();
  for (const uint64_t number : numbers) {
    place_cluster(launch, number);
    run_cluster(launch, random);
  }
}

}  // namespace pylayers::emulator
