// Special registers: %tid.x and its like.
#include "machine.h"

namespace pylayers::emulator {
namespace {

struct Definition {
  const char* name;
  int size;
  uint64_t (*value)(const Warp& warp, int lane);
};

uint64_t tid(const Warp& warp, int lane, int axis) {
  const uint32_t* size = warp.launch().block;
  const uint32_t thread = warp.thread(lane);
  return axis == 0 ? thread % size[0] : axis == 1 ? thread / size[0] % size[1] : thread / size[0] / size[1];
}

uint64_t ctaid(const Warp& warp, int axis) {
  const Block& block = *warp.block;
  return axis == 0 ? block.x : axis == 1 ? block.y : block.z;
}

uint64_t clusters(const Warp& warp, int axis) { return warp.launch().grid[axis] / warp.launch().cluster[axis]; }
uint64_t cluster_size(const Warp& warp) {
  const uint32_t* cluster = warp.launch().cluster;
  return uint64_t(cluster[0]) * cluster[1] * cluster[2];
}

#define AXES(name, ...)                                                         \
  {name ".x", 4, [](const Warp& w, int l) -> uint64_t { constexpr int axis = 0; (void)w, (void)l; return __VA_ARGS__; }}, \
  {name ".y", 4, [](const Warp& w, int l) -> uint64_t { constexpr int axis = 1; (void)w, (void)l; return __VA_ARGS__; }}, \
  {name ".z", 4, [](const Warp& w, int l) -> uint64_t { constexpr int axis = 2; (void)w, (void)l; return __VA_ARGS__; }}
#define ONE(name, size, ...) {name, size, [](const Warp& w, int l) -> uint64_t { (void)w, (void)l; return __VA_ARGS__; }}

const Definition kSpecials[] = {
    AXES("%tid", tid(w, l, axis)),
    AXES("%ntid", w.launch().block[axis]),
    AXES("%ctaid", ctaid(w, axis)),
    AXES("%nctaid", w.launch().grid[axis]),
    AXES("%clusterid", ctaid(w, axis) / w.launch().cluster[axis]),
    AXES("%nclusterid", clusters(w, axis)),
    AXES("%cluster_ctaid", ctaid(w, axis) % w.launch().cluster[axis]),
    AXES("%cluster_nctaid", w.launch().cluster[axis]),
    ONE("%cluster_ctarank", 4, w.block->rank),
    ONE("%cluster_nctarank", 4, cluster_size(w)),
    ONE("%is_explicit_cluster", 1, cluster_size(w) > 1),
    ONE("%laneid", 4, l),
    ONE("%warpid", 4, w.id),
    ONE("%nwarpid", 4, w.block->warps.size()),
    ONE("%lanemask_eq", 4, uint64_t(1) << l),
    ONE("%lanemask_lt", 4, (uint64_t(1) << l) - 1),
    ONE("%lanemask_le", 4, (uint64_t(2) << l) - 1),
    ONE("%lanemask_ge", 4, ~((uint64_t(1) << l) - 1)),
    ONE("%lanemask_gt", 4, ~((uint64_t(2) << l) - 1)),
    ONE("%dynamic_smem_size", 4, w.launch().dynamic_shared),
    ONE("%total_smem_size", 4, w.launch().shared_bytes()),
    ONE("%smid", 4, 0),
    ONE("%nsmid", 4, 1),
    ONE("%gridid", 8, 1),
    ONE("%clock", 4, w.launch().steps),  // time is not modelled: instructions so far
    ONE("%clock_hi", 4, 0),
    ONE("%clock64", 8, w.launch().steps),
    ONE("%globaltimer", 8, w.launch().steps),
    ONE("%globaltimer_lo", 4, w.launch().steps),
    ONE("%globaltimer_hi", 4, 0),
};
#undef AXES
#undef ONE

}  // namespace

int special_id(const std::string& name) {
  for (size_t i = 0; i < std::size(kSpecials); ++i)
    if (name == kSpecials[i].name) return static_cast<int>(i);
  return -1;
}

void set_special(Warp& warp, const Special& special) {
  const Definition& definition = kSpecials[special.id];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t value = definition.value(warp, lane);
    std::memcpy(warp.registers + special.offset + lane * definition.size, &value, definition.size);
  }
}

}  // namespace pylayers::emulator
