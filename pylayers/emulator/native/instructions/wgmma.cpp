// wgmma: D += A B for four warps, B and perhaps A in shared memory, where a descriptor tells how they lie.
//
// Each warp computes its own 16 of the 64 rows. Done at once: that D is there only after the wait, and that shared memory may not
// change before, is not modelled.
#include "../memory.h"
#include "../numbers.h"
#include "../table.h"

namespace pylayers::emulator {
namespace {

constexpr int kDepth = 16;      // of the sum
constexpr int kWarpRows = 16;   // of D
constexpr int kMostColumns = 256;
constexpr int kElement = 2;     // bytes

// A matrix of 16-bit numbers in shared memory, rows by depth. `row_major`: neighbours in memory are neighbours in depth.
class SharedMatrix {
 public:
  SharedMatrix(uint64_t descriptor, bool row_major)
      : start_((descriptor & 0x3fff) << 4),
        leading_((descriptor >> 16 & 0x3fff) << 4),
        stride_((descriptor >> 32 & 0x3fff) << 4),
        swizzle_(descriptor >> 62 ? 4 - static_cast<int>(descriptor >> 62) : 0),
        row_major_(row_major) {}

  uint32_t address(int row, int depth) const {
    const uint32_t plain = start_ + (row_major_ ? along_depth(row, depth) : along_rows(row, depth));
    return plain ^ ((plain >> 7 & ((1u << swizzle_) - 1)) << 4);
  }

 private:
  uint32_t width() const { return 16u << swizzle_; }  // bytes that lie together before the pattern goes on

  uint32_t along_depth(int row, int depth) const {
    const uint32_t in_row = swizzle_ ? depth * kElement : depth / 8 * leading_ + depth % 8 * kElement;
    return row / 8 * stride_ + row % 8 * width() + in_row;
  }
  uint32_t along_rows(int row, int depth) const {
    const int together = static_cast<int>(width()) / kElement;
    const uint32_t far = swizzle_ ? leading_ : stride_, deep = swizzle_ ? stride_ : leading_;
    return row / together * far + row % together * kElement + depth % 8 * width() + depth / 8 * deep;
  }

  uint32_t start_, leading_, stride_;
  int swizzle_;  // the power of two of 16-byte pieces that are exchanged: 128 bytes 3, 64 bytes 2, 32 bytes 1
  bool row_major_;
};

template <class H>
float read_shared(Warp& warp, const Instruction& instruction, uint32_t address) {
  SharedMemory& shared = warp.block->shared;
  if (const char* problem = shared.read(address, kElement, who_is(warp, 0, false))) warp.fault(instruction, 0, problem);
  H value;
  std::memcpy(&value, shared.at(address), kElement);
  return to_wide(value);
}

template <class H>
void read_rows(Warp& warp, const Instruction& instruction, const SharedMatrix& matrix, int first, int rows, float (*to)[kDepth]) {
  for (int row = 0; row < rows; ++row)
    for (int depth = 0; depth < kDepth; ++depth) to[row][depth] = read_shared<H>(warp, instruction, matrix.address(first + row, depth));
}

template <class H>
void read_registers(const Warp& warp, const Operand* operands, float (*to)[kDepth]) {
  for (int index = 0; index < 4; ++index) {
    const auto* held = values<uint32_t>(warp, operands[index]);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int half = 0; half < 2; ++half)
        to[lane / 4 + 8 * (index % 2)][lane % 4 * 2 + half + 8 * (index / 2)] = to_wide(H{static_cast<uint16_t>(held[lane] >> 16 * half)});
  }
}

int64_t scalar(const Warp& warp, const Operand& operand) { return operand.size == 1 ? value_in<int8_t>(warp, operand, 0) : value_in<int32_t>(warp, operand, 0); }

// Operands: D…, A (a descriptor, or four registers), descriptor of B, whether D counts, sign of A, sign of B, [is A transposed,] is B.
template <class H>
void multiply(Warp& warp, const Instruction& instruction, Mask active) {
  if (active != ~Mask(0)) warp.fault(instruction, __builtin_ctz(active), "wgmma needs all lanes of the warp");
  const bool a_is_shared = instruction.count % 4 == 3;
  const int registers = instruction.count - (a_is_shared ? 7 : 9), columns = 2 * registers;
  const Operand* rest = instruction.operands + registers + (a_is_shared ? 1 : 4);  // from the descriptor of B on
  static thread_local float a[kWarpRows][kDepth], b[kMostColumns][kDepth];
  if (a_is_shared) {
    const SharedMatrix matrix(value_in<uint64_t>(warp, instruction.operands[registers], 0), !scalar(warp, rest[4]));
    read_rows<H>(warp, instruction, matrix, warp.id % 4 * kWarpRows, kWarpRows, a);
  } else {
    read_registers<H>(warp, instruction.operands + registers, a);
  }
  const bool b_is_transposed = scalar(warp, rest[a_is_shared ? 5 : 4]) != 0;
  read_rows<H>(warp, instruction, SharedMatrix(value_in<uint64_t>(warp, rest[0], 0), !b_is_transposed), 0, columns, b);
  const bool adds = scalar(warp, rest[1]) != 0;
  const double sign = static_cast<double>(scalar(warp, rest[2]) * scalar(warp, rest[3]));
  for (int index = 0; index < registers; ++index) {
    auto* sums = values<float>(warp, instruction.operands[index]);
    for (int lane = 0; lane < kLanes; ++lane) {
      const float* row = a[lane / 4 + 8 * (index / 2 % 2)];
      const float* column = b[index / 4 * 8 + lane % 4 * 2 + index % 2];
      double sum = adds ? sums[lane] : 0;
      for (int depth = 0; depth < kDepth; ++depth) sum += sign * row[depth] * column[depth];
      sums[lane] = static_cast<float>(sum);
    }
  }
  warp.launch().counts.matrix_flops += int64_t(2) * kWarpRows * columns * kDepth;
}

}  // namespace

void define_warpgroup_products() {
  for (int columns = 8; columns <= kMostColumns; columns += 8) {
    const std::string shape = "wgmma.mma_async.sync.m64n" + std::to_string(columns) + "k16.f32.";
    define(shape + "bf16.bf16", {multiply<BFloat16>, {}, 0, 0, columns / 2 + 7});
    define(shape + "f16.f16", {multiply<Half>, {}, 0, 0, columns / 2 + 7});
  }
  const auto nothing = [](Warp&, const Instruction&, Mask) {};
  define("wgmma.fence.sync", {nothing, {}});
  define("wgmma.commit_group.sync", {nothing, {}});
  define("wgmma.wait_group.sync", {nothing, {}});
}

}  // namespace pylayers::emulator
