#include "product.h"

#include <ATen/Context.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/addmv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>

#include <cstdlib>
#include <string_view>

#include "../activation.h"
#include "blocks.h"

namespace pylayers {
namespace {

constexpr int64_t kLeast = 1 << 24;  // multiplications of float32 that are worth our own product

// By torch.set_float32_matmul_precision("medium") or the setting of oneDNN itself, which are fewer digits for more speed.
bool library_takes_bfloat16() {
  return at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL) == at::Float32Precision::BF16;
}

// Whether the processor wants a kernel of ours, unless the environment says so.
bool wanted(bool by_processor) {
  const char* asked = std::getenv("PYLAYERS_OWN_PRODUCTS");
  return asked ? std::string_view(asked) == "1" : by_processor;
}

#if defined(__x86_64__)
bool is_amd() { return __builtin_cpu_is("amd"); }
bool has_bfloat16_products() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool is_amd() { return false; }
bool has_bfloat16_products() { return false; }
#endif

// MKL leaves the AVX-512 instructions of AMD's processors unused.
bool library_is_slow(const Tensor& like) {
  static const bool slow = wanted(is_amd() && registry::cpu_capability() == "avx512");
  return slow && like.is_cpu() && like.scalar_type() == at::kFloat && !library_takes_bfloat16();
}

bool has_own_product(const Tensor& like) { return kernels::multiply.has(registry::target("linear", like)); }

// For few rows, copying b takes too much of the time.
bool worth_own_product(const Tensor& out, const Tensor& a) {
  return library_is_slow(out) && has_cpu_memory(out) && out.stride(1) == 1 && out.size(0) >= 96 && out.size(1) >= 32 &&
         out.numel() * a.size(1) >= kLeast && has_own_product(out);
}

// With unit stride along its rows; a vector for every row stays one.
Tensor with_unit_stride(const Tensor& added) {
  if (!added.defined() || added.stride(1) == 1) return added;
  return added.stride(0) == 0 ? added.select(0, 0).contiguous().expand_as(added) : added.contiguous();
}

// added: undefined for none, else of the sizes of out. out has unit stride along its rows.
void multiply_ourselves(const Tensor& out, const Tensor& added, const Tensor& a, const Tensor& b) {
  const Tensor before = with_unit_stride(added);
  constexpr int64_t least = 1 << 16, most = 1 << 19;  // numbers of b at a time: 2 MB
  const Tensor panels = allocate(out, {std::clamp(2 * b.numel(), least, most)}, out.scalar_type());
  kernels::multiply(registry::target("linear", out), Argument::output(out, out.sizes(), out.strides()),
                    Argument::output(panels, panels.sizes()), before.defined() ? matrix(before) : Argument(), matrix(a), matrix(b));
}

// out = a · b + beta · added, of other types than out.
void multiply_to_floats(const Tensor& out, const Tensor& a, const Tensor& b, double beta, const Tensor& added) {
  Tensor to = out;
  const Tensor before = beta != 0 ? added : Tensor();
  if (out.numel() && a.numel()) {
    if (out.stride(1) == 1) return multiply_ourselves(out, before, a, b);
    if (out.stride(0) == 1) return multiply_ourselves(out.t(), before.defined() ? before.t() : before, b.t(), a.t());
  }
  at::addmm_out(to, added, a.to(out.scalar_type()), b.to(out.scalar_type()), beta);
}

// A block of a matrix as it is computed with, lying as it does.
Tensor load(Scratch& scratch, const Tensor& block) { return block.stride(0) == 1 ? scratch.load(block.t()).t() : scratch.load(block); }

// In blocks that stay in the caches, summed in float32.
void multiply_converted(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& added) {
  constexpr int64_t size = 256;
  const int64_t row_blocks = pieces(out.size(0), size), depth = a.size(1);
  Scratch left(at::kFloat), right(at::kFloat), sums(at::kFloat);
  for (int64_t task = 0; task < row_blocks * pieces(out.size(1), size); ++task) {
    const Range row = piece(out.size(0), size, task % row_blocks), col = piece(out.size(1), size, task / row_blocks);
    const auto block = [&](const Tensor& matrix) { return columns_of(rows_of(matrix, row), col); };
    Tensor sum = sums.block(out, {row.count(), col.count()});
    if (beta != 0) sum.copy_(block(added));
    for (int64_t i = 0; i < pieces(depth, size); ++i) {
      const Range k = piece(depth, size, i);
      at::addmm_out(sum, sum, load(left, columns_of(rows_of(a, row), k)), load(right, columns_of(rows_of(b, k), col)),
                    /*beta=*/i ? 1 : beta, alpha);
    }
    block(out).copy_(sum);
  }
}

// Whether converting pays: for few rows the library takes the rows of a weight in their order as fast.
bool worth_converting(const Tensor& a, const Tensor& b) {
  constexpr int64_t multiplications = 1 << 17, rows = 24;
  return a.numel() * b.size(1) >= multiplications && a.size(0) >= (b.stride(0) == 1 ? rows : 2);
}

}  // namespace

bool converts(const Tensor& like) {
  if (!like.is_cpu() || accumulation_dtype(like.scalar_type()) == like.scalar_type()) return false;
#if defined(__x86_64__)
  static const bool bfloat16 = has_bfloat16_products(), half = __builtin_cpu_supports("avx512fp16");
  return like.scalar_type() == at::kBFloat16 ? !bfloat16 : !half;
#else
  return false;
#endif
}

bool sums_bfloat16(const Tensor& like) {
  static const bool instruction = has_bfloat16_products();
  static const bool able = wanted(instruction) && (instruction || registry::cpu_capability() != "avx512");  // whose kernel has it
  return able && like.is_cpu() && like.scalar_type() == at::kBFloat16 && has_own_product(like);
}

bool multiplies_faster(const Tensor& input, const Tensor& weight) {
  if (converts(input) || !library_is_slow(input)) return converts(input);
  const auto multiplications = (input.sym_numel() * weight.sym_size(0)).maybe_as_int();
  return !multiplications || *multiplications >= kLeast;
}

Tensor flat(const Tensor& tensor) {
  // Sizes are given in full: -1 is ambiguous for empty tensors.
  const auto leading = tensor.sym_sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape_symint({c10::multiply_integers(leading), tensor.sym_size(-1)});
}

// Matrix products of 16 bits on a CPU take many times as long for one row as those of vectors.
void multiply_to(const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& added) {
  Tensor to = out;
  const Tensor& other = added.defined() ? added : out;
  const bool plain = alpha == 1 && beta == 0;
  if (out.scalar_type() != a.scalar_type()) return multiply_to_floats(out, a, b, beta, other.expand_as(out));
  const bool narrow = out.is_cpu() && accumulation_dtype(out.scalar_type()) != out.scalar_type() && out.numel() && a.numel();
  if (narrow && plain && a.size(1) == 1) {
    at::mul_out(to, a, b);
  } else if (narrow && a.size(0) == 1 && b.stride(1) == 1) {
    Tensor row = out.select(0, 0);
    at::addmv_out(row, other.expand_as(out).select(0, 0), b.t(), a.select(0, 0), beta, alpha);
  } else if (narrow && converts(out) && worth_converting(a, b)) {
    multiply_converted(out, a, b, alpha, beta, other.expand_as(out));
  } else if (alpha == 1 && (beta == 0 || beta == 1) && worth_own_product(out, a)) {
    multiply_ourselves(out, beta != 0 ? other.expand_as(out) : Tensor(), a, b);
  } else {
    plain ? at::mm_out(to, a, b) : at::addmm_out(to, other, a, b, beta, alpha);
  }
}

Tensor product(const Target& target, const Tensor& a, const Tensor& b, double scale) {
  Tensor y = allocate(a, {a.sym_size(0), b.sym_size(0)}, a.scalar_type());
  if (kernels::linear_forward.has(target) && a.numel() && b.numel()) {
    kernels::linear_forward(target, Argument::output(y, y.sizes()), Argument(), matrix(a), matrix(b), Argument(), scale,
                            static_cast<int64_t>(Activation::none));
    return y;
  }
  multiply_to(y, a, b.t(), scale);
  return y;
}

}  // namespace pylayers
