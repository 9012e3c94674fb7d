// The instruction table: which handler runs an opcode, and how wide its operands are.
//
// An opcode is the name of an instruction as the front end writes it: the PTX name without what changes nothing here (cache
// hints, weak, and so on, see opcodes.py). A new instruction is one define() in the file of instructions/ where its kind lives.
#pragma once

#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "machine.h"

namespace pylayers::emulator {

inline constexpr int kAnySize = 0;  // of an operand whose handler looks at Operand::size

struct Definition {
  Handler run = nullptr;
  std::vector<int> sizes;  // bytes of each operand; what goes on beyond the end is of any size
  int flops = 0;
  int space = 0;           // of an access to memory: a Space
  int least = -1;          // operands that it must have; -1: one for each of `sizes`
};

// `names` is an opcode with alternatives in braces: "add{,.rn}.f32" defines add.f32 and add.rn.f32.
void define(const std::string& names, Definition definition);

// A function object without state, which needs no place: the handlers know functions by their type only.
template <class Function>
const Function& stateless() {
  static_assert(std::is_empty_v<Function>, "a handler keeps no state");
  static const char place = 0;
  return reinterpret_cast<const Function&>(place);
}

// What comes after it are loops whose turns do not depend on one another.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed"  // a loop that it does not vectorise all the same
#define PYLAYERS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define PYLAYERS_INDEPENDENT _Pragma("GCC ivdep")
#endif

// The function object with signature Result(Arguments...) on each active lane: operand 0 is the result, the others follow.
// A lane may hold several values, which are treated alike.
template <class Function, class Signature, int per_lane = 1>
struct EachLane;

template <class Function, class Result, class... Arguments, int per_lane>
struct EachLane<Function, Result(Arguments...), per_lane> {
  static void run(Warp& warp, const Instruction& instruction, Mask active) {
    run(warp, instruction, active, std::index_sequence_for<Arguments...>());
  }

 private:
  template <size_t... i>
  static void run(Warp& warp, const Instruction& instruction, Mask active, std::index_sequence<i...>) {
    const Function& function = stateless<Function>();
    Result* result = values<Result>(warp, instruction.operands[0]);
    std::tuple<const Arguments*...> in{values<Arguments>(std::as_const(warp), instruction.operands[i + 1])...};
    if (active == ~Mask(0)) {
      PYLAYERS_INDEPENDENT
      for (int at = 0; at < kLanes * per_lane; ++at) result[at] = function(std::get<i>(in)[at]...);
    } else {
      for_active(active, [&](int lane) {
        for (int at = lane * per_lane; at < (lane + 1) * per_lane; ++at) result[at] = function(std::get<i>(in)[at]...);
      });
    }
  }
};

// define_lanes<float(float, float)>("add{,.rn}.f32", [](float a, float b) { return a + b; }, 1)
template <class Signature, int per_lane = 1>
struct Lanes;
template <class Result, class... Arguments, int per_lane>
struct Lanes<Result(Arguments...), per_lane> {
  template <class Function>
  static constexpr Handler handler = &EachLane<Function, Result(Arguments...), per_lane>::run;

  static void define(const std::string& names, Handler run, int flops) {
    emulator::define(names, {run, {int(sizeof(Result)) * per_lane, int(sizeof(Arguments)) * per_lane...}, flops * per_lane});
  }
};

template <class Signature, int per_lane = 1, class Function>
void define_lanes(const std::string& names, const Function&, int flops = 0) {
  Lanes<Signature, per_lane>::define(names, Lanes<Signature, per_lane>::template handler<Function>, flops);
}

// Each file of instructions/ has one of these; table.cpp calls them all.
void define_moves();
void define_integers();
void define_bit_fields();
void define_carries();
void define_floats();
void define_halves();
void define_conversions();
void define_float_conversions();
void define_packed_conversions();
void define_comparisons();
void define_warp_functions();
void define_matrix_products();
void define_warpgroup_products();
void define_memory();
void define_async_copies();
void define_atomics();
void define_clusters();
void define_control();

const Definition* find(const std::string& opcode);

}  // namespace pylayers::emulator
