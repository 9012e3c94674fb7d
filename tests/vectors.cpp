// Checks csrc/cpu/vector.h and math.h at the vector width it is compiled for; prints what fails. Run by test_cpu_vectors.py.
#include <cmath>
#include <cstdio>
#include <random>

#include "../csrc/cpu/math.h"

using namespace pylayers::cpu::PYLAYERS_ISA;

int failures = 0;

template <class... Values>
void expect(bool holds, const char* what, Values... values) {
  if (holds || ++failures > 20) return;
  std::printf(what, values...);
  std::printf("\n");
}

float from_bits(uint32_t bits) { return bit_cast<float>(bits); }

// Through memory, as kernels see it; the count form handles tails.
template <class scalar_t>
uint16_t packed(float value) {
  scalar_t memory[kFloats] = {};
  store(memory, splat(value), 1);
  return memory[0].bits;
}

template <class scalar_t>
float unpacked(uint16_t bits) {
  scalar_t memory[kFloats];
  for (auto& one : memory) one.bits = bits;
  return load(memory)[kFloats - 1];
}

float half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(float(fraction), -24)
                                     : std::ldexp(float(fraction | 1024), exponent - 25);
  return bits >> 15 ? -size : size;
}

void check_sixteen_bits() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float wide = from_bits(bits << 16), half = half_value(bits);
    const float got_wide = unpacked<bfloat16>(bits), got_half = unpacked<float16>(bits);
    expect(got_wide == wide || (std::isnan(wide) && std::isnan(got_wide)), "bfloat16 %04x read as %g", bits, got_wide);
    expect(got_half == half || (std::isnan(half) && std::isnan(got_half)), "float16 %04x read as %g", bits, got_half);
    if (std::isnan(half)) {
      expect(std::isnan(half_value(packed<float16>(half))), "float16 nan lost");
    } else {
      expect(packed<float16>(half) == bits, "float16 %04x written as %04x", bits, packed<float16>(half));
    }
    if (std::isnan(wide)) expect(std::isnan(from_bits(packed<bfloat16>(wide) << 16)), "bfloat16 nan %04x lost", bits);
    if (std::isnan(wide) || std::isinf(wide)) continue;
    // Halfway between neighbours goes to the even one, the rest to the nearer.
    const uint16_t even = bits & 1 ? bits + 1 : bits;
    expect(packed<bfloat16>(from_bits(bits << 16 | 0x8000)) == even, "bfloat16 tie after %04x", bits);
    expect(packed<bfloat16>(from_bits(bits << 16 | 0x7fff)) == bits, "bfloat16 below tie after %04x", bits);
    expect(packed<bfloat16>(from_bits(bits << 16 | 0x8001)) == bits + 1, "bfloat16 above tie after %04x", bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float middle = .5f * (half + half_value(bits + 1));
    expect(packed<float16>(middle) == (bits & 1 ? bits + 1 : bits), "float16 tie after %04x", bits);
  }
  expect(packed<float16>(65520.f) == 0x7c00 && packed<float16>(1e30f) == 0x7c00, "float16 overflow");
}

template <class V, class Function, class Exact>
void check_function(const char* name, double low, double high, double ulps, Function function, Exact exact) {
  using acc_t = element_t<V>;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(low, high);
  double worst = 0;
  for (int i = 0; i < 20000; ++i) {
    V x;
    for (int lane = 0; lane < kLanes<acc_t>; ++lane) x[lane] = acc_t(uniform(random));
    const V y = function(x);
    for (int lane = 0; lane < kLanes<acc_t>; ++lane) {
      const long double e = exact(static_cast<long double>(x[lane]));
      const double unit = std::max<double>(std::abs(double(e)), 1e-7) * std::numeric_limits<acc_t>::epsilon();
      worst = std::max(worst, double(std::abs(y[lane] - e)) / unit);
    }
  }
  expect(worst <= ulps, "%s on [%g, %g]: %g units", name, low, high, worst);
}

void check_functions() {
  using real = long double;
  const auto e = [](real x) { return std::exp(x); };
  check_function<Floats>("exp", -80, 80, 2, [](Floats x) { return exp(x); }, e);
  check_function<Floats>("exp", -1, 1, 2, [](Floats x) { return exp(x); }, e);
  check_function<Doubles>("exp", -700, 700, 2, [](Doubles x) { return exp(x); }, e);
  check_function<Floats>("sigmoid", -15, 30, 4, [](Floats x) { return sigmoid(x); }, [](real x) { return 1 / (1 + std::exp(-x)); });
  check_function<Floats>("tanh", -3, 3, 4, [](Floats x) { return tanh(x); }, [](real x) { return std::tanh(x); });
  const auto cdf = [](real x) { return .5L * std::erfc(-x / std::sqrt(2.L)); };
  check_function<Floats>("normal", -.5, 8, 4, [](Floats x) { return normal(x).cdf; }, cdf);
  check_function<Floats>("normal", -4, 0, 60, [](Floats x) { return normal(x).cdf; }, cdf);
  expect(std::isnan(exp(splat(NAN))[0]) && exp(splat(-1e30f))[0] < 1e-37f && exp(splat(1e30f))[0] > 1e38f, "exp at the ends");
}

// The first `count` numbers, wherever they lie: none beside them is read into a vector or written.
template <class scalar_t>
void check_few(const char* name) {
  using packed_t = typename Packed<scalar_t>::type;
  constexpr int size = sizeof(scalar_t), bytes = sizeof(packed_t);
  for (int count = 0; count <= bytes / size; ++count) {
    unsigned char from[bytes + 1], to[bytes + 2], got[bytes], vector[bytes];
    for (int i = 0; i <= bytes; ++i) from[i] = static_cast<unsigned char>(37 * i + 11);
    const packed_t loaded = Few<packed_t, size>::load(from + 1, count);
    std::memcpy(got, &loaded, bytes);
    std::fill(to, to + bytes + 2, 7);
    std::memcpy(vector, from, bytes);
    packed_t packed;
    std::memcpy(&packed, vector, bytes);
    Few<packed_t, size>::store(to + 1, packed, count);
    bool loads = true, stores = to[0] == 7 && to[bytes + 1] == 7;
    for (int i = 0; i < bytes; ++i) {
      loads = loads && got[i] == (i < count * size ? from[i + 1] : 0);
      stores = stores && to[i + 1] == (i < count * size ? vector[i] : 7);
    }
    expect(loads, "%d of %s read", count, name);
    expect(stores, "%d of %s written", count, name);
  }
}

template <class acc_t>
void check_lanes() {
  Vector<acc_t> v;
  for (int i = 0; i < kLanes<acc_t>; ++i) v[i] = acc_t(1 + (i * 5) % kLanes<acc_t>);
  const acc_t all = acc_t(kLanes<acc_t> * (kLanes<acc_t> + 1) / 2);
  expect(sum<acc_t>(v) == all, "a sum of lanes is %g", double(sum<acc_t>(v)));
  const acc_t most = fold<acc_t>(v, [](Vector<acc_t> a, Vector<acc_t> b) { return a < b ? b : a; });
  expect(most == acc_t(kLanes<acc_t>), "the largest lane is %g", double(most));
  for (int count = 0; count <= kLanes<acc_t>; ++count) {
    const auto some = first_or(v, count, acc_t(-1));
    for (int i = 0; i < kLanes<acc_t>; ++i) expect(some[i] == (i < count ? v[i] : acc_t(-1)), "lane %d of the first %d", i, count);
  }
}

int main() {
  check_sixteen_bits();
  check_functions();
  check_few<float>("float");
  check_few<double>("double");
  check_few<bfloat16>("bfloat16");
  check_lanes<float>();
  check_lanes<double>();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
