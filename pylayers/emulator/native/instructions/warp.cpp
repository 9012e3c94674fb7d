// What the lanes of a warp do together: shuffles, votes, matches, reductions, barriers of a warp.
//
// Each lane names the members that take part. Lanes with the same mask are a group; masks of different groups do not overlap.
#include "families.h"

namespace pylayers::emulator {
namespace {

using Predicate = uint8_t;

// The last operand: every member must be here, with the same mask.
const Mask* checked_members(const Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = values<Mask>(warp, instruction.operands[instruction.count - 1]);
  const int first = __builtin_ctz(active);
  Mask differences = 0;
  for (int lane = 0; lane < kLanes; ++lane) differences |= active >> lane & 1 ? members[lane] ^ members[first] : 0;
  if (!differences && !(active & ~members[first])) {
    warp.check_members(instruction, first, members[first], active);
    return members;
  }
  for_active(active, [&](int lane) {
    warp.check_members(instruction, lane, members[lane], active);
    for_active(members[lane] & active, [&](int other) {
      if (members[other] != members[lane])
        warp.fault(instruction, lane, "member mask differs from that of lane " + std::to_string(other) + ", which it names");
    });
  });
  return members;
}

// body(active lanes of a group, its mask)
template <class Body>
void for_groups(Mask active, const Mask* members, const Body& body) {
  while (active) {
    const Mask mask = members[__builtin_ctz(active)];
    body(mask & active, mask);
    active &= ~mask;
  }
}

enum class Shuffle { kUp, kDown, kXor, kIndex };

// Lanes are in segments; c has the mask of a segment's bits, and the bound of a lane's number inside it.
template <Shuffle shuffle>
int32_t source_of(int32_t lane, uint32_t b, uint32_t c, Predicate& in_range) {
  const int32_t segment = c >> 8 & 31, bound = (lane & segment) | (c & 31 & ~segment), step = b & 31;
  const int32_t source = shuffle == Shuffle::kUp     ? lane - step
                         : shuffle == Shuffle::kDown ? lane + step
                         : shuffle == Shuffle::kXor  ? lane ^ step
                                                     : (lane & segment) | (step & ~segment);
  in_range = shuffle == Shuffle::kUp ? source >= bound : source <= bound;
  return in_range ? source : lane;
}

template <Shuffle shuffle, bool tells_range>
void run_shuffle(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  const Operand* operands = instruction.operands + tells_range;
  const auto words = [&](int i) { return values<uint32_t>(std::as_const(warp), operands[i]); };
  const uint32_t *a = words(1), *b = words(2), *c = words(3);
  int32_t source[kLanes];
  uint32_t result[kLanes];
  Predicate in_range[kLanes], present[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    source[lane] = source_of<shuffle>(lane, b[lane], c[lane], in_range[lane]);
    present[lane] = (active & members[lane]) >> source[lane] & 1;
  }
  for (int lane = 0; lane < kLanes; ++lane) result[lane] = a[source[lane]];
  if (const Mask alone = active & ~mask_of(present))
    warp.fault(instruction, __builtin_ctz(alone), "shfl reads from an inactive lane");
  assign(values<uint32_t>(warp, instruction.operands[0]), result, active);
  if (tells_range) assign(values<Predicate>(warp, instruction.operands[1]), in_range, active);
  ++warp.launch().counts.shuffles;
}

template <Shuffle shuffle>
void define_shuffle(const std::string& name) {
  define("shfl.sync." + name + ".b32", {&run_shuffle<shuffle, false>, {4, 4, 4, 4, 4}});
  define("shfl.sync." + name + ".b32.pred", {&run_shuffle<shuffle, true>, {4, 1, 4, 4, 4, 4}});
}

// Function(group, those of it that vote yes)
template <class Result, class Function>
void run_vote(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  const Mask yes = mask_of(values<Predicate>(std::as_const(warp), instruction.operands[1]));
  Result result[kLanes];
  for_groups(active, members, [&](Mask group, Mask) {
    for_active(group, [&](int lane) { result[lane] = stateless<Function>()(group, yes & group); });
  });
  assign(values<Result>(warp, instruction.operands[0]), result, active);
}

template <class Result, class Function>
void define_vote(const std::string& name, const Function&) {
  define("vote.sync." + name, {&run_vote<Result, Function>, {int(sizeof(Result)), 1, 4}});
}

void define_votes() {
  define_vote<Predicate>("all.pred", [](Mask group, Mask yes) { return yes == group; });
  define_vote<Predicate>("any.pred", [](Mask, Mask yes) { return yes != 0; });
  define_vote<Predicate>("uni.pred", [](Mask group, Mask yes) { return yes == 0 || yes == group; });
  define_vote<Mask>("ballot.b32", [](Mask, Mask yes) { return yes; });
}

template <class T>
Mask lanes_with(T value, const T* in, Mask group) {
  Mask same = 0;
  for (int lane = 0; lane < kLanes; ++lane) same |= Mask(in[lane] == value) << lane;
  return same & group;
}

template <class T>
void match_any(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  const T* in = values<T>(std::as_const(warp), instruction.operands[1]);
  Mask result[kLanes];
  for_active(active, [&](int lane) { result[lane] = lanes_with(in[lane], in, members[lane] & active); });
  assign(values<Mask>(warp, instruction.operands[0]), result, active);
}

template <class T, bool tells>
void match_all(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  const T* in = values<T>(std::as_const(warp), instruction.operands[1 + tells]);
  Mask result[kLanes];
  Predicate all[kLanes];
  for_groups(active, members, [&](Mask group, Mask mask) {
    const bool same = lanes_with(in[__builtin_ctz(group)], in, group) == group;
    for_active(group, [&](int lane) { result[lane] = same ? mask : 0, all[lane] = same; });
  });
  assign(values<Mask>(warp, instruction.operands[0]), result, active);
  if (tells) assign(values<Predicate>(warp, instruction.operands[1]), all, active);
}

template <class T>
void define_matches(const std::string& type) {
  define("match.any.sync." + type, {&match_any<T>, {4, sizeof(T), 4}});
  define("match.all.sync." + type, {&match_all<T, false>, {4, sizeof(T), 4}});
  define("match.all.sync." + type + ".pred", {&match_all<T, true>, {4, 1, sizeof(T), 4}});
}

template <class T, class Function>
void run_reduction(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  const T* in = values<T>(std::as_const(warp), instruction.operands[1]);
  T result[kLanes];
  for_groups(active, members, [&](Mask group, Mask) {
    T total = in[__builtin_ctz(group)];
    for_active(group & (group - 1), [&](int lane) { total = stateless<Function>()(total, in[lane]); });
    for_active(group, [&](int lane) { result[lane] = total; });
  });
  assign(values<T>(warp, instruction.operands[0]), result, active);
}

template <class T, class Function>
void define_reduction(const std::string& names, const Function&) {
  define("redux.sync." + names, {&run_reduction<T, Function>, {4, 4, 4}});
}

template <bool larger>
void define_float_reductions(const std::string& name) {
  define_reduction<float>(name + ".f32", [](float a, float b) { return extreme<larger, false>(a, b); });
  define_reduction<float>(name + ".NaN.f32", [](float a, float b) { return extreme<larger, true>(a, b); });
  define_reduction<float>(name + ".abs.f32", [](float a, float b) {
    return extreme<larger, false>(magnitude(a), magnitude(b));
  });
  define_reduction<float>(name + ".abs.NaN.f32", [](float a, float b) {
    return extreme<larger, true>(magnitude(a), magnitude(b));
  });
}

void define_reductions() {
  define_reduction<uint32_t>("add.{u32,s32}", [](uint32_t a, uint32_t b) { return a + b; });
  define_reduction<uint32_t>("and.b32", [](uint32_t a, uint32_t b) { return a & b; });
  define_reduction<uint32_t>("or.b32", [](uint32_t a, uint32_t b) { return a | b; });
  define_reduction<uint32_t>("xor.b32", [](uint32_t a, uint32_t b) { return a ^ b; });
  define_reduction<uint32_t>("min.u32", [](uint32_t a, uint32_t b) { return std::min(a, b); });
  define_reduction<uint32_t>("max.u32", [](uint32_t a, uint32_t b) { return std::max(a, b); });
  define_reduction<int32_t>("min.s32", [](int32_t a, int32_t b) { return std::min(a, b); });
  define_reduction<int32_t>("max.s32", [](int32_t a, int32_t b) { return std::max(a, b); });
  define_float_reductions<false>("min");
  define_float_reductions<true>("max");
}

void elect(Warp& warp, const Instruction& instruction, Mask active) {
  const Mask* members = checked_members(warp, instruction, active);
  uint32_t leader[kLanes];
  Predicate leads[kLanes];
  for_groups(active, members, [&](Mask group, Mask) {
    for_active(group, [&](int lane) { leader[lane] = __builtin_ctz(group), leads[lane] = lane == __builtin_ctz(group); });
  });
  assign(values<uint32_t>(warp, instruction.operands[0]), leader, active);
  assign(values<Predicate>(warp, instruction.operands[1]), leads, active);
}

void active_mask(Warp& warp, const Instruction& instruction, Mask active) {
  for_active(active, [&](int lane) { values<Mask>(warp, instruction.operands[0])[lane] = active; });
}

void synchronise(Warp& warp, const Instruction& instruction, Mask active) {
  checked_members(warp, instruction, active);
  ++warp.clock;
}

}  // namespace

void define_warp_functions() {
  define_shuffle<Shuffle::kUp>("up");
  define_shuffle<Shuffle::kDown>("down");
  define_shuffle<Shuffle::kXor>("bfly");
  define_shuffle<Shuffle::kIndex>("idx");
  define_votes();
  define_matches<uint32_t>("b32");
  define_matches<uint64_t>("b64");
  define_reductions();
  define("elect.sync.pred", {&elect, {4, 1, 4}});
  define("activemask.b32", {&active_mask, {4}});
  define("bar.warp.sync", {&synchronise, {4}});
}

}  // namespace pylayers::emulator
