// Arithmetic of f32 and f64. Instructions with a rounding mode are exact to the bit; approximate ones are nearer to the
// true result than a GPU's.
#include "families.h"

namespace pylayers::emulator {
namespace {

using Unary = float(float);
using Binary = float(float, float);
using Ternary = float(float, float, float);

// Both precisions, each rounding mode, {,.ftz} for f32 and with it {,.sat}.
template <class Single, class Double, class Function>
void define_exact(const std::string& name, const Function& function, int flops) {
  define_rounded<Single>(name, ".f32", modified<false, false>(function), flops);
  define_rounded<Single>(name, ".ftz.f32", modified<true, false>(function), flops);
  define_rounded<Double>(name, ".f64", modified<false, false>(function), flops);
}
template <class Single, class Double, class Function>
void define_arithmetic(const std::string& name, const Function& function, int flops) {
  define_exact<Single, Double>(name, function, flops);
  define_rounded<Single>(name, ".sat.f32", modified<false, true>(function), flops);
  define_rounded<Single>(name, ".ftz.sat.f32", modified<true, true>(function), flops);
}

void define_basic() {
  using Binary64 = double(double, double);
  using Ternary64 = double(double, double, double);
  define_arithmetic<Binary, Binary64>("add", [](auto a, auto b) { return a + b; }, 1);
  define_arithmetic<Binary, Binary64>("sub", [](auto a, auto b) { return a - b; }, 1);
  define_arithmetic<Binary, Binary64>("mul", [](auto a, auto b) { return a * b; }, 1);
  define_arithmetic<Ternary, Ternary64>("fma", [](auto a, auto b, auto c) { return std::fma(a, b, c); }, 2);
  define_arithmetic<Ternary, Ternary64>("mad", [](auto a, auto b, auto c) { return std::fma(a, b, c); }, 2);
  define_exact<Binary, Binary64>("div", [](auto a, auto b) { return a / b; }, 1);
  define_exact<Unary, double(double)>("sqrt", [](auto a) { return std::sqrt(a); }, 1);
  define_exact<Unary, double(double)>("rcp", [](auto a) { return 1 / a; }, 1);
}

void define_pairs() {  // two f32 in a register of 64 bits
  const auto define_both = [](const std::string& name, auto signature, const auto& function, int flops) {
    using Signature = std::remove_pointer_t<decltype(signature)>;
    define_rounded<Signature, 2>(name, ".f32x2", modified<false, false>(function), flops);
    define_rounded<Signature, 2>(name, ".ftz.f32x2", modified<true, false>(function), flops);
  };
  define_both("add", static_cast<Binary*>(nullptr), [](auto a, auto b) { return a + b; }, 1);
  define_both("sub", static_cast<Binary*>(nullptr), [](auto a, auto b) { return a - b; }, 1);
  define_both("mul", static_cast<Binary*>(nullptr), [](auto a, auto b) { return a * b; }, 1);
  define_both("fma", static_cast<Ternary*>(nullptr), [](auto a, auto b, auto c) { return std::fma(a, b, c); }, 2);
}

template <class Signature, class Function>
void define_approximate(const std::string& name, const Function& function) {
  define_lanes<Signature>(name + ".f32", modified<false, false>(function), 1);
  define_lanes<Signature>(name + ".ftz.f32", modified<true, false>(function), 1);
}

double upper_word(double x) { return bits_as<double>(bits_as<uint64_t>(x) & 0xffffffff00000000u); }

void define_approximations() {
  define_approximate<Binary>("div.{approx,full}", [](float a, float b) { return a / b; });
  define_approximate<Unary>("rcp.approx", [](float a) { return 1 / a; });
  define_approximate<Unary>("sqrt.approx", [](float a) { return std::sqrt(a); });
  define_approximate<Unary>("rsqrt.approx", [](float a) { return float(1 / std::sqrt(double(a))); });
  define_approximate<Unary>("ex2.approx", [](float a) { return std::exp2(a); });
  define_approximate<Unary>("lg2.approx", [](float a) { return std::log2(a); });
  define_approximate<Unary>("sin.approx", [](float a) { return std::sin(a); });
  define_approximate<Unary>("cos.approx", [](float a) { return std::cos(a); });
  define_lanes<Unary>("tanh.approx.f32", [](float a) { return canonical(std::tanh(a)); }, 1);
  define_lanes<double(double)>("rsqrt.approx.f64", [](double a) { return 1 / std::sqrt(a); }, 1);
  define_lanes<double(double)>("rcp.approx.ftz.f64", [](double a) { return upper_word(1 / a); }, 1);
  define_lanes<double(double)>("rsqrt.approx.ftz.f64", [](double a) { return upper_word(1 / std::sqrt(a)); }, 1);
}

// min and max take three operands too. `larger` of an operation is that of extreme().
template <bool larger, bool propagates_nan, bool flush, bool absolute>
struct Extreme {
  static float prepared(float x) { return absolute ? magnitude(flushed_if<flush>(x)) : flushed_if<flush>(x); }
  float operator()(float a, float b) const { return extreme<larger, propagates_nan>(prepared(a), prepared(b)); }
  float operator()(float a, float b, float c) const { return (*this)((*this)(a, b), c); }
};

template <class Function>
void run_two_or_three(Warp& warp, const Instruction& instruction, Mask active) {
  if (instruction.count == 4) {
    EachLane<Function, Ternary>::run(warp, instruction, active);
  } else {
    EachLane<Function, Binary>::run(warp, instruction, active);
  }
}

template <bool larger, bool propagates_nan, bool flush>
void define_extreme(const std::string& name) {
  define(name + ".f32", {&run_two_or_three<Extreme<larger, propagates_nan, flush, false>>, {4, 4, 4, 4}, 0, 0, 3});
  define(name + ".abs.f32", {&run_two_or_three<Extreme<larger, propagates_nan, flush, true>>, {4, 4, 4, 4}, 0, 0, 3});
  define_lanes<Binary>(name + ".xorsign.abs.f32", [](float a, float b) {
    const float result = Extreme<larger, propagates_nan, flush, true>()(a, b);
    return result == result ? with_sign(result, bits_as<uint32_t>(a) ^ bits_as<uint32_t>(b)) : result;
  });
}

template <bool larger>
void define_extremes(const std::string& name) {
  define_extreme<larger, false, false>(name);
  define_extreme<larger, true, false>(name + ".NaN");
  define_extreme<larger, false, true>(name + ".ftz");
  define_extreme<larger, true, true>(name + ".ftz.NaN");
  define_lanes<double(double, double)>(name + ".f64", [](double a, double b) { return extreme<larger, false>(a, b); });
}

template <class T>
void define_signs(const std::string& type) {
  define_lanes<T(T)>("abs." + type, [](T a) { return magnitude(a); });
  define_lanes<T(T)>("neg." + type, [](T a) { return negated(a); });
  define_lanes<T(T, T)>("copysign." + type, [](T a, T b) { return with_sign(b, bits_as<Bits<T>>(a)); });
}

template <class T>
void define_tests(const std::string& type) {
  static constexpr T infinity = std::numeric_limits<T>::infinity(), smallest = std::numeric_limits<T>::min();
  define_lanes<uint8_t(T)>("testp.finite." + type, [](T a) { return magnitude(a) < infinity; });
  define_lanes<uint8_t(T)>("testp.infinite." + type, [](T a) { return magnitude(a) == infinity; });
  define_lanes<uint8_t(T)>("testp.number." + type, [](T a) { return a == a; });
  define_lanes<uint8_t(T)>("testp.notanumber." + type, [](T a) { return a != a; });
  define_lanes<uint8_t(T)>("testp.normal." + type, [](T a) { return magnitude(a) < infinity && magnitude(a) >= smallest; });
  define_lanes<uint8_t(T)>("testp.subnormal." + type, [](T a) { return magnitude(a) < smallest && a != 0; });
}

}  // namespace

void define_floats() {
  define_basic();
  define_pairs();
  define_approximations();
  define_extremes<false>("min");
  define_extremes<true>("max");
  define_signs<float>("f32");
  define_signs<double>("f64");
  define_lanes<Unary>("abs.ftz.f32", [](float a) { return magnitude(flushed(a)); });
  define_lanes<Unary>("neg.ftz.f32", [](float a) { return negated(flushed(a)); });
  define_tests<float>("f32");
  define_tests<double>("f64");
}

}  // namespace pylayers::emulator
