// With Z = the packed triangle of x ⊗ x: y = Z · Pᵀ, dP = gradᵀ · Z, and dx = Σ_j over both places of j in the triangle of
// (grad · P) · x. Every product has B · I · (I + 1) · K operations, half of those of the full weight.
#include "tensor_reduction_blocks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <vector>

namespace pylayers {
namespace {

constexpr int64_t kLeastOutputs = 64;  // of a task: the block of Z is made anew for each

// The triangle in blocks of whole rows, about as many columns as are wanted.
struct Triangle {
  std::vector<Range> rows;
  int64_t dim, widest = 0;

  Triangle(int64_t dim, int64_t columns) : dim(dim) {
    for (int64_t first = 0, last = 1; first < dim; first = last++) {
      while (last < dim && triangle_row(dim, last + 1) - triangle_row(dim, first) <= columns) ++last;
      rows.push_back({first, last});
      widest = std::max(widest, columns_of_block(rows.back()).count());
    }
  }
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
  Range columns_of_block(Range i) const { return {triangle_row(dim, i.first), triangle_row(dim, i.last)}; }
};

Blocks cut(const Target& target, const Tensor& x, const Tensor& packed) {
  const bool threads = kernels::tensor_reduction_outer.shared_by_threads(target) &&
                       kernels::tensor_reduction_contract.shared_by_threads(target);
  return {x, threads, x.size(0), std::max(x.size(1), packed.size(0)), packed.numel(), packed.size(0)};
}

Tensor block_of(const Tensor& buffer, int64_t rows, int64_t columns) { return columns_of(rows_of(buffer, {0, rows}), {0, columns}); }

}  // namespace

void triangle_output(const Target& target, const Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias) {
  const int64_t outputs = packed.size(0);
  const Blocks blocks = cut(target, x, packed);
  const Triangle triangle(x.size(1), blocks.columns);
  const int64_t row_blocks = blocks.row_blocks();
  const int64_t wide = pieces(outputs, blocks.parts(std::max<int64_t>(outputs / kLeastOutputs, 1)));
  const auto dtype = accumulation_dtype(y.scalar_type());
  const bool direct = y.scalar_type() == dtype;
  blocks.run(pieces(outputs, wide) * row_blocks, [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(x, blocks.rows, triangle.widest);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const Range k = piece(outputs, wide, task / row_blocks), row = blocks.row_block(task % row_blocks);
      const Tensor from = blocks.load(rows_of(x, row)), to = columns_of(rows_of(y, row), k);
      const Tensor sums = direct ? to : at::empty({row.count(), k.count()}, y.options().dtype(dtype));
      if (bias.defined()) sums.copy_(bias.narrow(0, k.first, k.count()).expand(sums.sizes()));
      for (const Range i : triangle.rows) {
        const Range columns = triangle.columns_of_block(i);
        const Tensor z = block_of(buffer, row.count(), columns.count());
        kernels::tensor_reduction_outer(target, output(z), input(from), i.first, i.last);
        const Tensor w = scratch.load(columns_of(rows_of(packed, k), columns));
        add_product(sums, z, w.t(), i.first == 0 && !bias.defined());
      }
      if (!direct) to.copy_(sums);
    }
  });
}

void triangle_weight_gradient(const Target& target, const Tensor& dpacked, const Tensor& grad, const Tensor& x) {
  const Blocks blocks = cut(target, x, dpacked);
  const Triangle triangle(x.size(1), blocks.columns);
  const bool direct = dpacked.scalar_type() == blocks.dtype;
  blocks.run(triangle.count(), [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(x, blocks.rows, triangle.widest);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const Range columns = triangle.columns_of_block(triangle.rows[task]);
      const Tensor to = columns_of(dpacked, columns);
      const Tensor sums = direct ? to : scratch.block(to, to.sizes());
      for (int64_t i = 0; i < blocks.row_blocks(); ++i) {
        const Range row = blocks.row_block(i);
        const Tensor z = block_of(buffer, row.count(), columns.count()), from = blocks.load(rows_of(x, row));
        kernels::tensor_reduction_outer(target, output(z), input(from), triangle.rows[task].first, triangle.rows[task].last);
        add_product(sums, blocks.load(rows_of(grad, row)).t(), z, i == 0);
      }
      if (!direct) to.copy_(sums);
    }
  });
}

void triangle_input_gradient(const Target& target, const Tensor& dx, const Tensor& grad, const Tensor& x, const Tensor& packed) {
  const Blocks blocks = cut(target, x, packed);
  const Triangle triangle(x.size(1), blocks.columns);
  const int64_t row_blocks = blocks.row_blocks(), count = triangle.count(), parts = blocks.parts(count);
  const Total total(dx, parts);
  blocks.run(parts * row_blocks, [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(x, blocks.rows, triangle.widest);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / row_blocks, start = count * part / parts;
      const Range row = blocks.row_block(task % row_blocks);
      const Tensor g = blocks.load(rows_of(grad, row)), from = blocks.load(rows_of(x, row)), sums = total.rows(part, row);
      for (int64_t index = start; index < count * (part + 1) / parts; ++index) {
        const Range i = triangle.rows[index], columns = triangle.columns_of_block(i);
        Tensor z = block_of(buffer, row.count(), columns.count());
        at::mm_out(z, g, scratch.load(columns_of(packed, columns)));
        kernels::tensor_reduction_contract(target, output(sums), index == start ? Argument() : input(sums), input(z), input(from),
                                           i.first, i.last);
      }
    }
  });
  total.finish();
}

}  // namespace pylayers
