// Copies, choices and rearrangements of bits.
#include "families.h"

namespace pylayers::emulator {
namespace {

using Bits128 = unsigned __int128;

template <class T>
void define_copies(const std::string& types) {
  define_lanes<T(T)>("mov." + types, [](T a) { return a; });
  define_lanes<T(T, T, uint8_t)>("selp." + types, [](T a, T b, uint8_t chosen) { return chosen ? a : b; });
}

// slct{.ftz}.dtype.f32 takes -0 for positive and NaN for negative.
template <class T>
void define_choices(const std::string& types) {
  define_lanes<T(T, T, int32_t)>("slct." + types + ".s32", [](T a, T b, int32_t c) { return c >= 0 ? a : b; });
  define_lanes<T(T, T, float)>("slct." + types + ".f32", [](T a, T b, float c) { return c >= 0 ? a : b; });
  define_lanes<T(T, T, float)>("slct.ftz." + types + ".f32", [](T a, T b, float c) { return flushed(c) >= 0 ? a : b; });
}

// mov.b64 {a, b}, c and mov.b64 c, {a, b}: Part and Whole are plain numbers, the first part is the lowest.
template <class Whole, class Part, int parts>
void unpack(Warp& warp, const Instruction& instruction, Mask active) {
  Whole whole[kLanes];  // a part may go where the whole is
  Part column[kLanes];
  std::memcpy(whole, values<Whole>(std::as_const(warp), instruction.operands[parts]), sizeof(whole));
  for (int part = 0; part < parts; ++part) {
    for (int lane = 0; lane < kLanes; ++lane) column[lane] = static_cast<Part>(whole[lane] >> (8 * sizeof(Part) * part));
    assign(values<Part>(warp, instruction.operands[part]), column, active);
  }
}

template <class Whole, class Part, int parts>
void pack(Warp& warp, const Instruction& instruction, Mask active) {
  Whole whole[kLanes] = {};
  for (int part = 0; part < parts; ++part) {
    const Part* from = values<Part>(std::as_const(warp), instruction.operands[part + 1]);
    for (int lane = 0; lane < kLanes; ++lane) whole[lane] |= static_cast<Whole>(from[lane]) << (8 * sizeof(Part) * part);
  }
  assign(values<Whole>(warp, instruction.operands[0]), whole, active);
}

template <class Whole, class Part>
void define_packing(const std::string& type) {
  constexpr int parts = sizeof(Whole) / sizeof(Part);
  const std::string name = type + "." + std::to_string(parts);
  std::vector<int> sizes(parts, sizeof(Part));
  sizes.push_back(sizeof(Whole));
  define("unpack." + name, {&unpack<Whole, Part, parts>, sizes});
  sizes.pop_back();
  sizes.insert(sizes.begin(), sizeof(Whole));
  define("pack." + name, {&pack<Whole, Part, parts>, sizes});
}

uint8_t byte_of(uint64_t bytes, uint32_t index) { return uint8_t(bytes >> (8 * (index & 7))); }

// The selector has four bits for each byte of the result: which of eight bytes, and whether its sign is repeated instead.
uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | uint64_t(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i);
    const uint8_t byte = byte_of(bytes, choice);
    result |= uint32_t(choice & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << (8 * i);
  }
  return result;
}

// The other modes: byte i of the result is byte place(i, c) of the eight, where c are the low two bits of the selector.
template <class Place>
void define_permutation(const std::string& mode, const Place&) {
  define_lanes<uint32_t(uint32_t, uint32_t, uint32_t)>("prmt.b32." + mode, [](uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = a | uint64_t(b) << 32;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; ++i) result |= uint32_t(byte_of(bytes, stateless<Place>()(i, selector & 3))) << (8 * i);
    return result;
  });
}

void define_permutations() {
  define_lanes<uint32_t(uint32_t, uint32_t, uint32_t)>("prmt.b32",
                                                     [](uint32_t a, uint32_t b, uint32_t c) { return permuted(a, b, c); });
  define_permutation("f4e", [](uint32_t i, uint32_t c) { return c + i; });
  define_permutation("b4e", [](uint32_t i, uint32_t c) { return c - i; });
  define_permutation("rc8", [](uint32_t, uint32_t c) { return c; });
  define_permutation("ecl", [](uint32_t i, uint32_t c) { return std::max(i, c); });
  define_permutation("ecr", [](uint32_t i, uint32_t c) { return std::min(i, c); });
  define_permutation("rc16", [](uint32_t i, uint32_t c) { return 2 * (c & 1) + (i & 1); });
}

void define_predicate_logic() {
  using Predicate = uint8_t;
  define_lanes<Predicate(Predicate)>("not.pred", [](Predicate a) { return !a; });
  define_lanes<Predicate(Predicate, Predicate)>("and.pred", [](Predicate a, Predicate b) { return a & b; });
  define_lanes<Predicate(Predicate, Predicate)>("or.pred", [](Predicate a, Predicate b) { return a | b; });
  define_lanes<Predicate(Predicate, Predicate)>("xor.pred", [](Predicate a, Predicate b) { return a ^ b; });
}

}  // namespace

void define_moves() {
  define_lanes<uint8_t(uint8_t)>("mov.pred", [](uint8_t a) { return a; });
  define_copies<uint16_t>("{b16,u16,s16,f16,bf16}");
  define_copies<uint32_t>("{b32,u32,s32,f32,f16x2,bf16x2}");
  define_copies<uint64_t>("{b64,u64,s64,f64}");
  define_lanes<Bits128(Bits128)>("mov.b128", [](Bits128 a) { return a; });
  define_choices<uint16_t>("{b16,u16,s16}");
  define_choices<uint32_t>("{b32,u32,s32,f32}");
  define_choices<uint64_t>("{b64,u64,s64,f64}");
  define_packing<uint16_t, uint8_t>("b16");
  define_packing<uint32_t, uint16_t>("b32");
  define_packing<uint32_t, uint8_t>("b32");
  define_packing<uint64_t, uint32_t>("b64");
  define_packing<uint64_t, uint16_t>("b64");
  define_packing<Bits128, uint64_t>("b128");
  define_permutations();
  define_predicate_logic();
}

}  // namespace pylayers::emulator
