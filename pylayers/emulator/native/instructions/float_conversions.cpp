// cvt between f16, bf16, f32 and f64, and rounding to integral values.
#include "conversions.h"

namespace pylayers::emulator {
namespace {

enum class Clamp { kNone, kSaturate, kRelu };

// What is read is flushed, computed with, rounded once, and flushed.
template <class To, Rounding mode, bool to_integral, bool flush_in, bool flush_out, Clamp clamp>
struct Converted {
  template <class From>
  To operator()(From x) const {
    From value = flushed_if<flush_in>(x);
    if constexpr (to_integral) value = in_mode(value, mode);
    if constexpr (clamp == Clamp::kSaturate) value = saturated(value);
    if constexpr (clamp == Clamp::kRelu) value = relu(value);
    const To result = narrowed<To, to_integral ? Rounding::kNearest : mode>(value);
    if constexpr (std::is_same_v<To, float>) return canonical(flushed_if<flush_out>(result));
    else return result;
  }
};

template <class To, class From, Rounding mode, bool to_integral, bool flush, Clamp clamp>
void define_variant(const std::string& modifiers) {
  constexpr bool flush_in = flush && std::is_same_v<From, float>, flush_out = flush && std::is_same_v<To, float>;
  constexpr bool by_hardware = std::is_same_v<From, double> && std::is_same_v<To, float>;
  define_conversion<To, From, Converted<To, mode, to_integral, flush_in, flush_out, clamp>,
                    by_hardware ? mode : Rounding::kNearest>(modifiers);
}

template <class To, class From, Rounding mode, bool to_integral>
void define_variants(const std::string& name) {
  constexpr bool flushable = std::is_same_v<From, float> || std::is_same_v<To, float>;
  define_variant<To, From, mode, to_integral, false, Clamp::kNone>(name);
  define_variant<To, From, mode, to_integral, false, Clamp::kSaturate>(name + ".sat");
  if constexpr (flushable) {
    define_variant<To, From, mode, to_integral, true, Clamp::kNone>(name + ".ftz");
    define_variant<To, From, mode, to_integral, true, Clamp::kSaturate>(name + ".ftz.sat");
  }
  if constexpr (is_half<To> && std::is_same_v<From, float>)
    define_variant<To, From, mode, to_integral, false, Clamp::kRelu>(name + ".relu");
}

template <class To, class From>
void define_pair() {
  constexpr bool same = std::is_same_v<To, From>, narrows = !same && sizeof(To) <= sizeof(From);
  if constexpr (!narrows) define_variants<To, From, Rounding::kNearest, false>("");
  for_each_mode([](auto constant, const std::string& name) {
    constexpr Rounding mode = decltype(constant)::value;
    if constexpr (narrows) define_variants<To, From, mode, false>(name);
    if constexpr (same) define_variants<To, From, mode, true>(name + "i");
  });
}

}  // namespace

void define_float_conversions() {
  for_each_type(Floats(), [](auto to) {
    for_each_type(Floats(), [](auto from) { define_pair<decltype(to), decltype(from)>(); });
  });
}

}  // namespace pylayers::emulator
