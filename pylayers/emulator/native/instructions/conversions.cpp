// cvt from and to integers.
#include "conversions.h"

namespace pylayers::emulator {
namespace {

template <class To>
struct Truncated {
  template <class From>
  To operator()(From x) const { return To(x); }
};

template <class To>
struct Saturated {
  template <class From>
  To operator()(From x) const {
    using limits = std::numeric_limits<To>;
    constexpr auto highest = std::make_unsigned_t<To>(limits::max());
    if constexpr (!std::is_signed_v<From>) return x > highest ? limits::max() : To(x);
    else if constexpr (!std::is_signed_v<To>) return x < 0 ? To(0) : (*this)(std::make_unsigned_t<From>(x));
    else return x < limits::min() ? limits::min() : x > limits::max() ? limits::max() : To(x);
  }
};

template <class To, Rounding mode, bool flush>
struct ToInteger {
  template <class From>
  To operator()(From x) const {
    constexpr bool zero = sizeof(From) == 4 && sizeof(To) < 8;  // is what a NaN becomes, else the highest bit
    constexpr To nan = zero ? To(0) : To(uint64_t(1) << (8 * sizeof(To) - 1));
    return to_integer<To>(in_mode(flushed_if<flush>(x), mode), nan);
  }
};

// Rounded to odd, if at all.
template <class Integer>
double to_double(Integer x) {
  if constexpr (sizeof(Integer) < 8) return x;
  else return sum_to_odd(double(x >> 32) * 0x1p32, double(uint32_t(x)));
}

template <class To, Rounding mode>
struct ToFloat {
  template <class From>
  To operator()(From x) const {
    if constexpr (is_half<To>) return narrowed<To, mode>(to_double(x));
    else return To(x);
  }
};

template <class Float, class Integer>
void define_with_float() {
  for_each_mode([](auto constant, const std::string& name) {
    constexpr Rounding mode = decltype(constant)::value;
    constexpr bool towards_zero = mode == Rounding::kDown && std::is_unsigned_v<Integer>;  // never gives -0
    constexpr Rounding scope = is_half<Float> ? Rounding::kNearest : towards_zero ? Rounding::kZero : mode;
    define_conversion<Float, Integer, ToFloat<Float, mode>, scope>(name);
    define_conversion<Integer, Float, ToInteger<Integer, mode, false>>(name + "i{,.sat}");
    if constexpr (std::is_same_v<Float, float>)
      define_conversion<Integer, Float, ToInteger<Integer, mode, true>>(name + "i.ftz{,.sat}");
  });
}

}  // namespace

void define_conversions() {
  for_each_type(Integers(), [](auto integer) {
    using Integer = decltype(integer);
    for_each_type(Integers(), [](auto from) {
      define_conversion<Integer, decltype(from), Truncated<Integer>>("");
      define_conversion<Integer, decltype(from), Saturated<Integer>>(".sat");
    });
    for_each_type(Floats(), [](auto floating) { define_with_float<decltype(floating), Integer>(); });
  });
}

}  // namespace pylayers::emulator
