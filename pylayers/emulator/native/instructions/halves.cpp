// Arithmetic of f16 and bf16, and of two of them in a register. Each result is the exact one, rounded once.
#include "families.h"

namespace pylayers::emulator {
namespace {

enum class Clamp { kNone, kSaturate, kRelu };

// `Function` computes with floats, or doubles where a float would round twice.
template <class Function, class T, bool flush, Clamp clamp>
struct InWide : Function {
  explicit InWide(const Function& function) : Function(function) {}

  template <class... Arguments>
  T operator()(Arguments... arguments) const {
    auto wide = Function::operator()(to_wide(flushed_if<flush>(arguments))...);
    if constexpr (clamp == Clamp::kSaturate) wide = saturated(wide);
    if constexpr (clamp == Clamp::kRelu) wide = relu(wide);
    return flushed_if<flush>(narrowed<T>(wide));
  }
};

template <class T>
inline constexpr const char* name_of = std::is_same_v<T, Half> ? "f16" : "bf16";

template <class Signature, class T, bool flush = false, Clamp clamp = Clamp::kNone, class Function>
void define_one(const std::string& names, const Function& function, int flops) {
  const InWide<Function, T, flush, clamp> in_wide(function);
  define_lanes<Signature>(names + "." + name_of<T>, in_wide, flops);
  define_lanes<Signature, 2>(names + "." + name_of<T> + "x2", in_wide, flops);
}

template <class Signature, class T, class Function>
void define_arithmetic(const std::string& name, const Function& function, int flops) {
  define_one<Signature, T>(name, function, flops);
  if constexpr (std::is_same_v<T, Half>) {
    define_one<Signature, T, true>(name + ".ftz", function, flops);
    define_one<Signature, T, false, Clamp::kSaturate>(name + ".sat", function, flops);
    define_one<Signature, T, true, Clamp::kSaturate>(name + ".ftz.sat", function, flops);
  }
}

template <class T>
void define_basic() {
  const auto fma = [](double a, double b, double c) { return sum_to_odd(a * b, c); };
  define_arithmetic<T(T, T), T>("add{,.rn}", [](float a, float b) { return a + b; }, 1);
  define_arithmetic<T(T, T), T>("sub{,.rn}", [](float a, float b) { return a - b; }, 1);
  define_arithmetic<T(T, T), T>("mul{,.rn}", [](float a, float b) { return a * b; }, 1);
  define_arithmetic<T(T, T, T), T>("fma.rn", fma, 2);
  define_one<T(T, T, T), T, false, Clamp::kRelu>("fma.rn.relu", fma, 2);
  if constexpr (std::is_same_v<T, Half>) define_one<T(T, T, T), T, true, Clamp::kRelu>("fma.rn.ftz.relu", fma, 2);
}

// f32 arithmetic with f16 or bf16 operands, rounded once to f32.
template <bool saturates>
float finished(float x) {
  return canonical(saturates ? saturated(x) : x);
}

template <class T, bool saturates>
void define_mixed(const std::string& modifier) {
  const std::string rest = modifier + ".f32." + name_of<T>;
  const auto add = [](T a, float b) { return finished<saturates>(to_wide(a) + b); };
  const auto subtract = [](T a, float b) { return finished<saturates>(to_wide(a) - b); };
  const auto fma = [](T a, T b, float c) { return finished<saturates>(std::fma(to_wide(a), to_wide(b), c)); };
  define_rounded<float(T, float)>("add", rest, add, 1);
  define_rounded<float(T, float)>("sub", rest, subtract, 1);
  define_rounded<float(T, T, float)>("fma", rest, fma, 2);
}

template <class T, bool larger, bool propagates_nan, bool flush>
void define_extreme(const std::string& name) {
  const auto function = [](float a, float b) { return extreme<larger, propagates_nan>(a, b); };
  const auto with_signs = [](float a, float b) {
    const float result = extreme<larger, propagates_nan>(magnitude(a), magnitude(b));
    return result == result ? with_sign(result, bits_as<uint32_t>(a) ^ bits_as<uint32_t>(b)) : result;
  };
  define_one<T(T, T), T, flush>(name, function, 0);
  define_one<T(T, T), T, flush>(name + ".xorsign.abs", with_signs, 0);
}

template <class T, bool larger>
void define_extremes(const std::string& name) {
  define_extreme<T, larger, false, false>(name);
  define_extreme<T, larger, true, false>(name + ".NaN");
  if constexpr (std::is_same_v<T, Half>) {
    define_extreme<T, larger, false, true>(name + ".ftz");
    define_extreme<T, larger, true, true>(name + ".ftz.NaN");
  }
}

template <class T, int per_lane>
void define_signs(const std::string& type) {
  define_lanes<T(T), per_lane>("abs." + type, [](T a) { return magnitude(a); });
  define_lanes<T(T), per_lane>("neg." + type, [](T a) { return negated(a); });
  if constexpr (std::is_same_v<T, Half>) {
    define_lanes<T(T), per_lane>("abs.ftz." + type, [](T a) { return magnitude(flushed(a)); });
    define_lanes<T(T), per_lane>("neg.ftz." + type, [](T a) { return negated(flushed(a)); });
  }
}

template <class T>
void define_type() {
  const std::string type = name_of<T>;
  define_basic<T>();
  define_mixed<T, false>("");
  define_mixed<T, true>(".sat");
  define_extremes<T, false>("min");
  define_extremes<T, true>("max");
  define_signs<T, 1>(type);
  define_signs<T, 2>(type + "x2");
  define_one<T(T), T>("tanh.approx", [](float a) { return std::tanh(a); }, 1);
}

}  // namespace

void define_halves() {
  define_type<Half>();
  define_type<BFloat16>();
  define_one<Half(Half), Half>("ex2.approx", [](float a) { return std::exp2(a); }, 1);
  define_one<BFloat16(BFloat16), BFloat16, true>("ex2.approx.ftz", [](float a) { return std::exp2(a); }, 1);
}

}  // namespace pylayers::emulator
