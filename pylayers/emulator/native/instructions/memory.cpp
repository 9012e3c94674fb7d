// ld, st, address conversions, ldmatrix, stmatrix.
#include "../memory.h"
#include "../table.h"

namespace pylayers::emulator {
namespace {

// Operands: results…, address.
template <class T, int width>
void load(Warp& warp, const Instruction& instruction, Mask active) {
  const Places from = places(warp, instruction, active, instruction.operands[width], {space_of(instruction), sizeof(T) * width});
  for (int i = 0; i < width; ++i) {
    const Operand& result = instruction.operands[i];
    if (result.size == sizeof(T)) {
      T* out = values<T>(warp, result);
      for_active(active, [&](int lane) { std::memcpy(out + lane, from.lane[lane] + i * sizeof(T), sizeof(T)); });
    } else {
      for_active(active, [&](int lane) {
        T value;
        std::memcpy(&value, from.lane[lane] + i * sizeof(T), sizeof(T));
        set_value<T>(warp, result, lane, value);
      });
    }
  }
}

// Operands: address, values….
template <class T, int width>
void store(Warp& warp, const Instruction& instruction, Mask active) {
  T next[kLanes][width];
  for (int i = 0; i < width; ++i) {
    const Operand& value = instruction.operands[1 + i];
    if (value.size == sizeof(T)) {
      const T* from = values<T>(std::as_const(warp), value);
      for (int lane = 0; lane < kLanes; ++lane) next[lane][i] = from[lane];
    } else {
      for_active(active, [&](int lane) { next[lane][i] = value_in<T>(warp, value, lane); });
    }
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(next);
  const Places to = places(warp, instruction, active, instruction.operands[0], {space_of(instruction), sizeof(T) * width, true, false, bytes});
  for_active(active, [&](int lane) { std::memcpy(to.lane[lane], next[lane], sizeof next[lane]); });
}

template <class T, int width>
void define_width(const std::string& types) {
  const std::string vector = width == 1 ? "" : ".v" + std::to_string(width);
  for (const auto& [place, space] : kSpaces) {
    define("ld" + std::string(place) + vector + types, {load<T, width>, {}, 0, int(space), width + 1});
    define("st" + std::string(place) + vector + types, {store<T, width>, {}, 0, int(space), width + 1});
  }
}

template <class T>
void define_type(const std::string& types) {
  define_width<T, 1>(types);
  define_width<T, 2>(types);
  define_width<T, 4>(types);
  if constexpr (sizeof(T) == 4) define_width<T, 8>(types);
}

template <class T, uint64_t window>
void define_conversion(const std::string& space, const std::string& type) {
  define_lanes<T(T)>("cvta." + space + type, [](T address) { return static_cast<T>(address + static_cast<T>(window)); });
  define_lanes<T(T)>("cvta.to." + space + type, [](T address) { return static_cast<T>(address - static_cast<T>(window)); });
}

template <uint64_t window>
void is_in_space(Warp& warp, const Instruction& instruction, Mask active) {
  for_active(active, [&](int lane) {
    const auto address = value_in<uint64_t>(warp, instruction.operands[1], lane);
    values<uint8_t>(warp, instruction.operands[0])[lane] = (address & (uint64_t(15) << 60)) == window;
  });
}

// Row i of matrix m comes from (goes to) the address of lane 8 m + i. A lane holds two 16-bit values of row lane/4, or of column
// lane/4 if transposed.
struct Matrices {
  uint16_t value[4][8][8];
};

void matrix_element(int lane, int half, bool transposed, int& row, int& column) {
  row = lane / 4;
  column = 2 * (lane % 4) + half;
  if (transposed) std::swap(row, column);
}

template <int count, bool transposed>
void load_matrices(Warp& warp, const Instruction& instruction, Mask active) {
  if (active != ~Mask(0)) warp.fault(instruction, __builtin_ctz(active), "ldmatrix needs all lanes of the warp");
  const Mask rows = count == 4 ? ~Mask(0) : (Mask(1) << (8 * count)) - 1;
  const Places from = places(warp, instruction, rows, instruction.operands[count], {Space::kShared, 16});
  Matrices all;
  for (int i = 0; i < 8 * count; ++i) std::memcpy(all.value[i / 8][i % 8], from.lane[i], 16);
  for (int m = 0; m < count; ++m) {
    auto* out = values<uint32_t>(warp, instruction.operands[m]);
    for (int lane = 0; lane < kLanes; ++lane) {
      uint32_t both = 0;
      for (int half = 0, row, column; half < 2; ++half) {
        matrix_element(lane, half, transposed, row, column);
        both |= uint32_t(all.value[m][row][column]) << 16 * half;
      }
      out[lane] = both;
    }
  }
}

template <int count, bool transposed>
void store_matrices(Warp& warp, const Instruction& instruction, Mask active) {
  if (active != ~Mask(0)) warp.fault(instruction, __builtin_ctz(active), "stmatrix needs all lanes of the warp");
  Matrices all;
  for (int m = 0; m < count; ++m) {
    const auto* in = values<uint32_t>(std::as_const(warp), instruction.operands[1 + m]);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int half = 0, row, column; half < 2; ++half) {
        matrix_element(lane, half, transposed, row, column);
        all.value[m][row][column] = static_cast<uint16_t>(in[lane] >> 16 * half);
      }
  }
  const Mask rows = count == 4 ? ~Mask(0) : (Mask(1) << (8 * count)) - 1;
  const auto* bytes = reinterpret_cast<const uint8_t*>(all.value);
  const Places to = places(warp, instruction, rows, instruction.operands[0], {Space::kShared, 16, true, false, bytes});
  for (int i = 0; i < 8 * count; ++i) std::memcpy(to.lane[i], bytes + 16 * i, 16);
}

template <int count>
void define_matrices() {
  const std::string x = ".sync.m8n8.x" + std::to_string(count);
  define("ldmatrix" + x + ".shared.b16", {load_matrices<count, false>, {}, 0, 0, count + 1});
  define("ldmatrix" + x + ".trans.shared.b16", {load_matrices<count, true>, {}, 0, 0, count + 1});
  define("stmatrix" + x + ".shared.b16", {store_matrices<count, false>, {}, 0, 0, count + 1});
  define("stmatrix" + x + ".trans.shared.b16", {store_matrices<count, true>, {}, 0, 0, count + 1});
}

}  // namespace

void define_memory() {
  define_type<uint8_t>(".{b8,u8}");
  define_type<int8_t>(".s8");
  define_type<uint16_t>(".{b16,u16,f16,bf16}");
  define_type<int16_t>(".s16");
  define_type<uint32_t>(".{b32,u32,f32,f16x2,bf16x2}");
  define_type<int32_t>(".s32");
  define_type<uint64_t>(".{b64,u64,s64,f64}");
  define_conversion<uint64_t, kSharedWindow>("shared", ".u64");
  define_conversion<uint64_t, kLocalWindow>("local", ".u64");
  define_conversion<uint64_t, kParameterWindow>("param", ".u64");
  define_conversion<uint32_t, 0>("shared", ".u32");
  define("isspacep.shared", {is_in_space<kSharedWindow>, {1, 8}});
  define("isspacep.local", {is_in_space<kLocalWindow>, {1, 8}});
  define("isspacep.global", {is_in_space<0>, {1, 8}});
  define_matrices<1>();
  define_matrices<2>();
  define_matrices<4>();
}

}  // namespace pylayers::emulator
