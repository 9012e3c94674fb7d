// mma: D = A B + C for a warp that holds the matrices in pieces, and movmatrix.
//
// Lane 4 g + t holds parts of row g of each 8 rows of A, C and D, and of column g of B. Of A and B it holds as many neighbours
// as a register has room for, the t-th such group in each stretch of four; of C and D the t-th two of a row. Products are exact
// and sums are of doubles, rounded once: a GPU's sums differ in the last bits.
#include "families.h"

namespace pylayers::emulator {
namespace {

struct TF32 {
  uint32_t bits;
};

constexpr int kColumns = 8;

inline double number(Half x) { return to_wide(x); }
inline double number(BFloat16 x) { return to_wide(x); }
inline double number(TF32 x) { return bits_as<float>(x.bits & 0xffffe000u); }
inline double number(float x) { return x; }
inline double number(double x) { return x; }
inline int64_t number(int8_t x) { return x; }
inline int64_t number(uint8_t x) { return x; }
inline int64_t number(int32_t x) { return x; }

template <class T>
using Sum = decltype(number(T()));

template <class T>
inline constexpr int per_register = sizeof(T) < 4 ? 4 / sizeof(T) : 1;

// Where the elements of an operand's registers belong in its matrix, stored by rows of 8 (B, C, D) or `depth` (A).
template <int count>
struct Places {
  int16_t at[count];
};

template <class T, int registers, class Place>
constexpr Places<registers * kLanes * per_register<T>> places(const Place& place) {
  Places<registers * kLanes * per_register<T>> places = {};
  int next = 0;
  for (int index = 0; index < registers; ++index)
    for (int lane = 0; lane < kLanes; ++lane)
      for (int e = 0; e < per_register<T>; ++e) places.at[next++] = int16_t(place(index, lane / 4, lane % 4, e));
  return places;
}

template <class T, int rows, int depth>
constexpr auto places_in_a = places<T, rows * depth / (kLanes * per_register<T>)>([](int index, int g, int t, int e) {
  const int row = g + 8 * (index % (rows / 8)), column = 4 * per_register<T> * (index / (rows / 8)) + per_register<T> * t + e;
  return row * depth + column;
});
template <class T, int depth>
constexpr auto places_in_b = places<T, depth * kColumns / (kLanes * per_register<T>)>([](int index, int g, int t, int e) {
  const int row = 4 * per_register<T> * index + per_register<T> * t + e;
  return row * kColumns + g;
});
template <class T, int rows>
constexpr auto places_in_c = places<T, rows * kColumns / (kLanes * per_register<T>)>([](int index, int g, int t, int e) {
  const int position = per_register<T> * index + e;
  return (g + 8 * (position / 2)) * kColumns + 2 * t + position % 2;
});

template <class T, int count>
void read(Sum<T>* matrix, const Warp& warp, const Operand* operand, const Places<count>& places) {
  constexpr int width = kLanes * per_register<T>;
  for (int start = 0; start < count; start += width, ++operand) {
    const T* held = values<T>(warp, *operand);
    Sum<T> numbers[width];
    for (int i = 0; i < width; ++i) numbers[i] = number(held[i]);
    for (int i = 0; i < width; ++i) matrix[places.at[start + i]] = numbers[i];
  }
}

typedef double Doubles __attribute__((vector_size(8 * kColumns)));  // one row
typedef int64_t Longs __attribute__((vector_size(8 * kColumns)));
template <class T>
using Row = std::conditional_t<std::is_same_v<Sum<T>, double>, Doubles, Longs>;

template <class T, int rows, int depth>
void accumulate(Row<T> (&c)[rows], const Sum<T> (&a)[rows][depth], const Row<T> (&b)[depth]) {
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < depth; ++k) {
      if constexpr (std::is_same_v<T, double>) {
        for (int column = 0; column < kColumns; ++column) c[row][column] = std::fma(a[row][k], b[k][column], c[row][column]);
      } else {
        c[row] += a[row][k] * b[k];
      }
    }
}

template <class T, bool saturates, class Number>
T result_of(Number sum) {
  if constexpr (std::is_integral_v<T> && saturates)
    return T(std::clamp<Number>(sum, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
  else if constexpr (std::is_integral_v<T>) return T(uint32_t(sum));
  else if constexpr (is_half<T>) return narrowed<T>(sum);
  else return canonical(T(sum));
}

template <class T, bool saturates, int count, class Number>
void write(Warp& warp, const Operand* operand, const Number* matrix, const Places<count>& places) {
  constexpr int width = kLanes * per_register<T>;
  for (int start = 0; start < count; start += width, ++operand) {
    T* result = values<T>(warp, *operand);
    Number sums[width];
    for (int i = 0; i < width; ++i) sums[i] = matrix[places.at[start + i]];
    for (int i = 0; i < width; ++i) result[i] = result_of<T, saturates>(sums[i]);
  }
}

template <class A, class B, class C, int rows, int depth, bool saturates>
struct Product {
  static constexpr int a_registers = rows * depth / (kLanes * per_register<A>);
  static constexpr int b_registers = depth * kColumns / (kLanes * per_register<B>);
  static constexpr int c_registers = rows * kColumns / (kLanes * per_register<C>);

  static void run(Warp& warp, const Instruction& instruction, Mask active) {
    if (active != ~Mask(0)) warp.fault(instruction, __builtin_ctz(active), "mma needs all lanes of the warp");
    const Operand *d_operands = instruction.operands, *a_operands = d_operands + c_registers;
    const Operand *b_operands = a_operands + a_registers, *c_operands = b_operands + b_registers;
    Sum<A> a[rows][depth];
    Row<A> b[depth], c[rows];
    Sum<A>* sums = reinterpret_cast<Sum<A>*>(c);
    read<A>(a[0], warp, a_operands, places_in_a<A, rows, depth>);
    read<B>(reinterpret_cast<Sum<A>*>(b), warp, b_operands, places_in_b<B, depth>);
    read<C>(sums, warp, c_operands, places_in_c<C, rows>);
    accumulate<A>(c, a, b);
    write<C, saturates>(warp, d_operands, sums, places_in_c<C, rows>);
    warp.launch().counts.matrix_flops += 2 * rows * kColumns * depth;
  }
};

template <class A, class B, class C, int rows, int depth, bool saturates = false>
void define_product(const std::string& types, const std::string& modifier = "") {
  using Kind = Product<A, B, C, rows, depth, saturates>;
  const std::string shape = "m" + std::to_string(rows) + "n8k" + std::to_string(depth);
  const std::vector<int> sizes(2 * Kind::c_registers + Kind::a_registers + Kind::b_registers, std::max<int>(sizeof(A), 4));
  define("mma.sync." + shape + ".row.col" + modifier + "." + types, {&Kind::run, sizes});
}

template <class A, class B>
void define_byte_products(const std::string& types) {
  define_product<A, B, int32_t, 8, 16>(types);
  define_product<A, B, int32_t, 16, 16>(types);
  define_product<A, B, int32_t, 16, 32>(types);
  define_product<A, B, int32_t, 8, 16, true>(types, ".satfinite");
  define_product<A, B, int32_t, 16, 16, true>(types, ".satfinite");
  define_product<A, B, int32_t, 16, 32, true>(types, ".satfinite");
}

void define_float_products() {
  define_product<Half, Half, float, 16, 8>("f32.f16.f16.f32");
  define_product<Half, Half, float, 16, 16>("f32.f16.f16.f32");
  define_product<Half, Half, Half, 16, 8>("f16.f16.f16.f16");
  define_product<Half, Half, Half, 16, 16>("f16.f16.f16.f16");
  define_product<BFloat16, BFloat16, float, 16, 8>("f32.bf16.bf16.f32");
  define_product<BFloat16, BFloat16, float, 16, 16>("f32.bf16.bf16.f32");
  define_product<TF32, TF32, float, 16, 4>("f32.tf32.tf32.f32");
  define_product<TF32, TF32, float, 16, 8>("f32.tf32.tf32.f32");
  define_product<double, double, double, 8, 4>("f64.f64.f64.f64");
  define_product<double, double, double, 16, 4>("f64.f64.f64.f64");
  define_product<double, double, double, 16, 8>("f64.f64.f64.f64");
  define_product<double, double, double, 16, 16>("f64.f64.f64.f64");
}

void transpose(Warp& warp, const Instruction& instruction, Mask active) {
  if (active != ~Mask(0)) warp.fault(instruction, __builtin_ctz(active), "movmatrix needs all lanes of the warp");
  uint16_t matrix[8][8];  // lane 4 g + t holds columns 2 t and 2 t + 1 of row g
  std::memcpy(matrix, values<uint32_t>(std::as_const(warp), instruction.operands[1]), sizeof(matrix));
  uint16_t* result = values<uint16_t>(warp, instruction.operands[0]);
  for (int row = 0; row < 8; ++row)
    for (int column = 0; column < 8; ++column) result[8 * row + column] = matrix[column][row];
}

}  // namespace

void define_matrix_products() {
  define_float_products();
  define_byte_products<int8_t, int8_t>("s32.s8.s8.s32");
  define_byte_products<int8_t, uint8_t>("s32.s8.u8.s32");
  define_byte_products<uint8_t, int8_t>("s32.u8.s8.s32");
  define_byte_products<uint8_t, uint8_t>("s32.u8.u8.s32");
  define("movmatrix.sync.m8n8.trans.b16", {&transpose, {4, 4}});
}

}  // namespace pylayers::emulator
