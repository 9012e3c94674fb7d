// Arithmetic on numbers of many words: add.cc leaves a carry in each lane, addc takes it.
#include "families.h"

namespace pylayers::emulator {
namespace {

using Exact = unsigned __int128;

template <class T, bool high>
Exact half_of_product(T a, T b) {
  using Signed = std::conditional_t<std::is_signed_v<T>, __int128, Exact>;
  const Exact product = Exact(Signed(a) * Signed(b));
  return std::make_unsigned_t<T>(high ? product >> (8 * sizeof(T)) : product);
}

// `Function` gives the exact result of numbers that count as unsigned and the carry. The bit above T is the next carry.
template <class Function, class T, int sources, bool takes, bool leaves>
void run(Warp& warp, const Instruction& instruction, Mask active) {
  T* result = values<T>(warp, instruction.operands[0]);
  const T* in[3] = {};
  for (int i = 0; i < sources; ++i) in[i] = values<T>(std::as_const(warp), instruction.operands[i + 1]);
  for_active(active, [&](int lane) {
    const T a = in[0][lane], b = in[1][lane], c = sources == 3 ? in[2][lane] : T(0);
    const Exact exact = stateless<Function>()(a, b, c, takes ? warp.carry[lane] : 0);
    result[lane] = T(exact);
    if (leaves) warp.carry[lane] = uint8_t(exact >> (8 * sizeof(T)) & 1);
  });
}

template <class T, int sources, class Function>
void define_chain(const std::string& first, const std::string& next, const std::string& type, const Function&) {
  const std::vector<int> sizes(sources + 1, sizeof(T));
  define(first + ".cc." + type, {&run<Function, T, sources, false, true>, sizes});
  define(next + ".cc." + type, {&run<Function, T, sources, true, true>, sizes});
  define(next + "." + type, {&run<Function, T, sources, true, false>, sizes});
}

template <class T>
void define_type(const std::string& type) {
  using U = std::make_unsigned_t<T>;
  define_chain<T, 2>("add", "addc", type, [](T a, T b, T, int carry) { return Exact(U(a)) + U(b) + carry; });
  define_chain<T, 2>("sub", "subc", type, [](T a, T b, T, int borrow) { return Exact(U(a)) - U(b) - borrow; });
  define_chain<T, 3>("mad.lo", "madc.lo", type, [](T a, T b, T c, int carry) {
    return half_of_product<T, false>(a, b) + U(c) + carry;
  });
  define_chain<T, 3>("mad.hi", "madc.hi", type, [](T a, T b, T c, int carry) {
    return half_of_product<T, true>(a, b) + U(c) + carry;
  });
}

}  // namespace

void define_carries() {
  define_type<uint32_t>("u32");
  define_type<int32_t>("s32");
  define_type<uint64_t>("u64");
  define_type<int64_t>("s64");
}

}  // namespace pylayers::emulator
