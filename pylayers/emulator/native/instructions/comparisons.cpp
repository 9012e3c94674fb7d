// setp and set: comparisons, joined with a predicate if there is one, in predicates and in registers.
#include "families.h"

namespace pylayers::emulator {
namespace {

using Predicate = uint8_t;

enum class Comparator { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };
enum class Joint { kNone, kAnd, kOr, kXor };
enum class Output { kPredicate, kTwoPredicates, kMask32, kFloat, kMask16, kHalf, kBFloat16 };

template <Comparator comparator, class T>
bool holds(T a, T b) {
  const bool unordered = a != a || b != b;
  switch (comparator) {
    case Comparator::kEq: return a == b;
    case Comparator::kNe: return !unordered && a != b;
    case Comparator::kLt: return a < b;
    case Comparator::kLe: return a <= b;
    case Comparator::kGt: return a > b;
    case Comparator::kGe: return a >= b;
    case Comparator::kEqu: return unordered || a == b;
    case Comparator::kNeu: return a != b;
    case Comparator::kLtu: return !(a >= b);
    case Comparator::kLeu: return !(a > b);
    case Comparator::kGtu: return !(a <= b);
    case Comparator::kGeu: return !(a < b);
    case Comparator::kNum: return !unordered;
    default: return unordered;
  }
}

template <class T>
auto comparable(T x) {
  if constexpr (std::is_integral_v<T>) return x;
  else return to_wide(x);
}

// A comparison of what the table calls T, with `per_lane` of them in a register.
template <Comparator comparator, class T, bool flush, int per_lane>
struct Compared {
  static constexpr int size = int(sizeof(T)) * per_lane, count = per_lane;

  bool operator()(T a, T b) const {
    return holds<comparator>(comparable(flushed_if<flush>(a)), comparable(flushed_if<flush>(b)));
  }
  __attribute__((noinline)) static void run(Predicate* result, const Warp& warp, const Operand* operands) {
    const T *a = values<T>(warp, operands[0]), *b = values<T>(warp, operands[1]);
    for (int at = 0; at < kLanes * per_lane; ++at) result[at] = Compared()(a[at], b[at]);
  }
};

// Joins every `stride`-th of what was compared with the predicate that comes after the sources.
void join(Predicate* result, const Predicate* compared, int stride, bool inverted, Joint joint, const Predicate* other) {
  for (int lane = 0; lane < kLanes; ++lane) result[lane] = compared[lane * stride] ^ Predicate(inverted);
  if (joint == Joint::kAnd) {
    for (int lane = 0; lane < kLanes; ++lane) result[lane] &= other[lane];
  } else if (joint == Joint::kOr) {
    for (int lane = 0; lane < kLanes; ++lane) result[lane] |= other[lane];
  } else if (joint == Joint::kXor) {
    for (int lane = 0; lane < kLanes; ++lane) result[lane] ^= other[lane];
  }
}

// What a lane's register gets where a comparison holds. With `count` comparisons in a register each has its part of the bits.
uint32_t bits_of(Output output) {
  switch (output) {
    case Output::kMask32: return ~0u;
    case Output::kFloat: return 0x3f800000u;
    case Output::kMask16: return 0xffffu;
    case Output::kHalf: return 0x3c00u;
    default: return 0x3f80u;
  }
}

using Compare = void (*)(Predicate* result, const Warp& warp, const Operand* operands);

void set_values(Warp& warp, const Operand& result, const Predicate (*joined)[kLanes], int count, uint32_t yes, Mask active) {
  uint32_t wide[kLanes];
  uint16_t narrow[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    wide[lane] = (joined[0][lane] ? yes : 0) | (count == 2 && joined[1][lane] ? yes << 16 : 0);
    narrow[lane] = uint16_t(wide[lane]);
  }
  if (result.size == 2) assign(values<uint16_t>(warp, result), narrow, active);
  else assign(values<uint32_t>(warp, result), wide, active);
}

// setp d|p: p is of the inverted comparison, or of the upper one of two.
void execute(Warp& warp, const Instruction& instruction, Mask active, Compare compare, int count, Joint joint, Output output) {
  const int results = output == Output::kTwoPredicates ? 2 : 1;
  const Operand* sources = instruction.operands + results;
  Predicate compared[2 * kLanes], joined[2][kLanes];
  compare(compared, warp, sources);
  const Predicate* other = joint == Joint::kNone ? nullptr : values<Predicate>(std::as_const(warp), sources[2]);
  join(joined[0], compared, count, false, joint, other);
  if (count == 2) join(joined[1], compared + 1, count, false, joint, other);
  else if (results == 2) join(joined[1], compared, count, true, joint, other);
  if (output != Output::kPredicate && output != Output::kTwoPredicates)
    return set_values(warp, instruction.operands[0], joined, count, bits_of(output), active);
  for (int i = 0; i < results; ++i) assign(values<Predicate>(warp, instruction.operands[i]), joined[i], active);
}

template <class Comparison, Joint joint, Output output>
void run(Warp& warp, const Instruction& instruction, Mask active) {
  if (joint == Joint::kNone && output == Output::kPredicate && active == ~Mask(0)) {  // nearly all there are
    Comparison::run(values<Predicate>(warp, instruction.operands[0]), warp, instruction.operands + 1);
  } else {
    execute(warp, instruction, active, &Comparison::run, Comparison::count, joint, output);
  }
}

struct Names {
  std::string comparators, modifiers, type;
};

struct Outputs {  // what a comparison can write, by handlers; null where it cannot
  int size, count;
  Handler predicates[4], two_predicates[4];  // of each joint
  Handler mask32, mask16, single, own;       // own: 1 in the type that is compared
};

template <class Comparison, Output output>
constexpr Handler plain = &run<Comparison, Joint::kNone, output>;

template <class Comparison, class T>
constexpr Outputs outputs() {
  constexpr Output two = Output::kTwoPredicates, one = Output::kPredicate;
  constexpr Output own = std::is_same_v<T, Half> ? Output::kHalf : Output::kBFloat16;
  Outputs outputs = {Comparison::size, Comparison::count, {}, {}, nullptr, nullptr, nullptr, nullptr};
  outputs.two_predicates[0] = plain<Comparison, two>;
  outputs.two_predicates[1] = &run<Comparison, Joint::kAnd, two>;
  outputs.two_predicates[2] = &run<Comparison, Joint::kOr, two>;
  outputs.two_predicates[3] = &run<Comparison, Joint::kXor, two>;
  if constexpr (Comparison::count == 1) {
    outputs.predicates[0] = plain<Comparison, one>;
    outputs.predicates[1] = &run<Comparison, Joint::kAnd, one>;
    outputs.predicates[2] = &run<Comparison, Joint::kOr, one>;
    outputs.predicates[3] = &run<Comparison, Joint::kXor, one>;
    outputs.mask32 = plain<Comparison, Output::kMask32>;
    outputs.single = plain<Comparison, Output::kFloat>;
  }
  if constexpr (is_half<T>) {
    outputs.mask16 = plain<Comparison, Output::kMask16>;
    outputs.own = plain<Comparison, own>;
  }
  return outputs;
}

void define_setp(const Names& names, const std::string& end, int results, int size, const Handler (&handlers)[4]) {
  if (!handlers[0]) return;
  std::vector<int> sizes(results, 1);
  sizes.insert(sizes.end(), 2, size);
  const std::string joints[] = {"", ".and", ".or", ".xor"};
  for (int i = 0; i < 4; ++i) {
    if (i == 1) sizes.push_back(1);
    define("setp." + names.comparators + joints[i] + names.modifiers + "." + names.type + end, {handlers[i], sizes});
  }
}

void define_set(const Names& names, const std::string& types, int result, int size, Handler handler) {
  if (handler)
    define("set." + names.comparators + names.modifiers + "." + types + "." + names.type, {handler, {result, size, size}});
}

void define_outputs(const Names& names, const Outputs& outputs) {
  const int size = outputs.size;
  define_setp(names, "", 1, size, outputs.predicates);
  define_setp(names, ".pred", 2, size, outputs.two_predicates);
  define_set(names, "{u32,s32}", 4, size, outputs.mask32);
  define_set(names, "f32", 4, size, outputs.single);
  define_set(names, outputs.count == 2 ? "{u32,s32}" : "{u16,s16}", size, size, outputs.mask16);
  define_set(names, names.type, size, size, outputs.own);
}

template <Comparator comparator, class T, bool flush, int per_lane>
void define_comparison(const Names& names) {
  define_outputs(names, outputs<Compared<comparator, T, flush, per_lane>, T>());
}

template <class T>
void define_order(const std::string& type, bool is_unsigned) {
  define_comparison<Comparator::kLt, T, false, 1>({is_unsigned ? "{lt,lo}" : "lt", "", type});
  define_comparison<Comparator::kLe, T, false, 1>({is_unsigned ? "{le,ls}" : "le", "", type});
  define_comparison<Comparator::kGt, T, false, 1>({is_unsigned ? "{gt,hi}" : "gt", "", type});
  define_comparison<Comparator::kGe, T, false, 1>({is_unsigned ? "{ge,hs}" : "ge", "", type});
}

template <class T>
void define_integers_of(const std::string& width) {
  const std::string types = "{b" + width + ",u" + width + ",s" + width + "}";
  define_comparison<Comparator::kEq, T, false, 1>({"eq", "", types});
  define_comparison<Comparator::kNe, T, false, 1>({"ne", "", types});
  define_order<T>("u" + width, true);
  define_order<std::make_signed_t<T>>("s" + width, false);
}

template <class T, bool flush, int per_lane = 1>
void define_floats_of(const std::string& type) {
  const std::string modifiers = flush ? ".ftz" : "";
  define_comparison<Comparator::kEq, T, flush, per_lane>({"eq", modifiers, type});
  define_comparison<Comparator::kNe, T, flush, per_lane>({"ne", modifiers, type});
  define_comparison<Comparator::kLt, T, flush, per_lane>({"lt", modifiers, type});
  define_comparison<Comparator::kLe, T, flush, per_lane>({"le", modifiers, type});
  define_comparison<Comparator::kGt, T, flush, per_lane>({"gt", modifiers, type});
  define_comparison<Comparator::kGe, T, flush, per_lane>({"ge", modifiers, type});
  define_comparison<Comparator::kEqu, T, flush, per_lane>({"equ", modifiers, type});
  define_comparison<Comparator::kNeu, T, flush, per_lane>({"neu", modifiers, type});
  define_comparison<Comparator::kLtu, T, flush, per_lane>({"ltu", modifiers, type});
  define_comparison<Comparator::kLeu, T, flush, per_lane>({"leu", modifiers, type});
  define_comparison<Comparator::kGtu, T, flush, per_lane>({"gtu", modifiers, type});
  define_comparison<Comparator::kGeu, T, flush, per_lane>({"geu", modifiers, type});
  define_comparison<Comparator::kNum, T, flush, per_lane>({"num", modifiers, type});
  define_comparison<Comparator::kNan, T, flush, per_lane>({"nan", modifiers, type});
}

}  // namespace

void define_comparisons() {
  define_integers_of<uint16_t>("16");
  define_integers_of<uint32_t>("32");
  define_integers_of<uint64_t>("64");
  define_floats_of<float, false>("f32");
  define_floats_of<float, true>("f32");
  define_floats_of<double, false>("f64");
  define_floats_of<Half, false>("f16");
  define_floats_of<Half, true>("f16");
  define_floats_of<BFloat16, false>("bf16");
  define_floats_of<Half, false, 2>("f16x2");
  define_floats_of<Half, true, 2>("f16x2");
  define_floats_of<BFloat16, false, 2>("bf16x2");
}

}  // namespace pylayers::emulator
