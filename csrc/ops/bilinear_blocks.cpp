// W is a matrix in two ways without a copy: [K · I, J] and [K, I · J]. Either way one of x1, x2 and grad (or y) meets it in a
// product, and the other two as a block of their outer product per row, or as factors of the sums over such a block:
//
//   by K and I:  U = x2 · Wᵀ, y = Σ_i U · x1, dx1 = Σ_k U · grad;  A = grad ⊗ x1, dx2 = A · W, dW = Aᵀ · x2
//   by I and J:  Z = grad · W, dx1 = Σ_j Z · x2, dx2 = Σ_i Z · x1;  dW = gradᵀ · (x1 ⊗ x2)
//
// Every product has 2 · B · I · J · K operations. The second way makes both input gradients of one product, but its blocks have
// B · I · J elements in all instead of B · K · I, which with few outputs costs more than the product itself. For the weight gradient
// there is nothing else between the two.
#include "bilinear_blocks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace pylayers {
namespace {

constexpr int64_t kFewOutputs = 32;

bool by_inputs(int64_t outputs, const Tensor& x2) { return outputs >= std::min(kFewOutputs, x2.size(1)); }

Blocks cut(const Target& target, const Tensor& x1, const Tensor& x2, int64_t outputs, bool inputs) {
  const bool threads = kernels::bilinear_outer.shared_by_threads(target) && kernels::bilinear_contract.shared_by_threads(target);
  const int64_t in1 = x1.size(1), in2 = x2.size(1);
  return {x1, threads, x1.size(0), std::max({in1, in2, outputs}), outputs * in1 * in2, inputs ? outputs : in2};
}

void contract(const Target& target, const Tensor& left_sum, const Tensor& right_sum, bool first, const Tensor& z, const Tensor& left,
              const Tensor& right, const Tensor& bias = {}) {
  kernels::bilinear_contract(target, output(left_sum), output(right_sum), first ? Argument() : input(right_sum), input(z),
                             input(left), input(right), vector(bias));
}

// The rows [a, c] of a pair matrix [A · C, …], cut so that a block is whole rows of C, or part of one.
struct Pairs {
  int64_t left, right, wide, tall;

  Pairs(int64_t left, int64_t right, int64_t columns)
      : left(left), right(right), wide(std::min(right, columns)), tall(std::clamp<int64_t>(columns / right, 1, left)) {}
  int64_t count() const { return pieces(left, tall) * pieces(right, wide); }
  Range a(int64_t index) const { return piece(left, tall, index / pieces(right, wide)); }
  Range c(int64_t index) const { return piece(right, wide, index % pieces(right, wide)); }
};

}  // namespace

void bilinear_output(const Target& target, const Tensor& y, const Tensor& x1, const Tensor& x2, const Tensor& weight,
                     const Tensor& bias) {
  const int64_t outputs = weight.size(0), in1 = weight.size(1);
  const Blocks blocks = cut(target, x1, x2, outputs, false);
  const int64_t tall = std::clamp<int64_t>(blocks.columns / in1, 1, outputs), row_blocks = blocks.row_blocks();
  const Tensor matrix = weight.view({outputs * in1, weight.size(2)});
  const bool direct = y.scalar_type() == blocks.dtype;
  blocks.run(pieces(outputs, tall) * row_blocks, [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(y, blocks.rows, tall * in1);
    Scratch scratch(blocks.dtype);
    Tensor w, b;
    for (int64_t task = begin; task < end; ++task) {
      const Range k = piece(outputs, tall, task / row_blocks), row = blocks.row_block(task % row_blocks);
      if (task == begin || task % row_blocks == 0) {
        w = rows_of(matrix, {k.first * in1, k.last * in1});
        if (row_blocks > 1) w = scratch.load(w);
        if (bias.defined()) b = blocks.load(bias.narrow(0, k.first, k.count()));
      }
      const Tensor t = blocks.load(rows_of(x2, row));
      const Tensor u = columns_of(rows_of(buffer, {0, row.count()}), {0, w.size(0)});
      const int64_t loaded = blocks.loaded(w);
      for (int64_t i = 0; i < pieces(w.size(0), loaded); ++i) {
        const Range columns = piece(w.size(0), loaded, i);
        Tensor part = columns_of(u, columns);
        at::mm_out(part, t, scratch.load(rows_of(w, columns)).t());
      }
      const Tensor to = columns_of(rows_of(y, row), k);
      const Tensor sums = direct ? to : at::empty({row.count(), k.count()}, u.options());
      contract(target, sums, {}, true, u, {}, blocks.load(rows_of(x1, row)), b);
      if (!direct) to.copy_(sums);
    }
  });
}

void bilinear_weight_gradient(const Target& target, const Tensor& dweight, const Tensor& grad, const Tensor& x1, const Tensor& x2) {
  const int64_t outputs = dweight.size(0), in1 = dweight.size(1), in2 = dweight.size(2);
  const bool inputs = outputs > in2;
  const Blocks blocks = cut(target, x1, x2, outputs, inputs);
  const Tensor &left = inputs ? x1 : grad, &right = inputs ? x2 : x1, &third = inputs ? grad : x2;
  // The gradient with the pairs down; by I and J it lies in memory with the pairs across.
  const Tensor matrix = inputs ? dweight.view({outputs, in1 * in2}).t() : dweight.view({outputs * in1, in2});
  const Pairs pairs(left.size(1), right.size(1), blocks.columns);
  const bool direct = dweight.scalar_type() == blocks.dtype;
  blocks.run(pairs.count(), [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(dweight, blocks.rows, pairs.tall * pairs.wide);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const Range a = pairs.a(task), c = pairs.c(task);
      const int64_t first = a.first * pairs.right + c.first, count = a.count() * c.count();
      const Tensor to = rows_of(matrix, {first, first + count}), kept = inputs ? to.t() : to;
      const Tensor sums = direct ? kept : scratch.block(kept, kept.sizes());
      for (int64_t i = 0; i < blocks.row_blocks(); ++i) {
        const Range row = blocks.row_block(i);
        const Tensor z = columns_of(rows_of(buffer, {0, row.count()}), {0, count}), t = blocks.load(rows_of(third, row));
        const Tensor l = blocks.load(columns_of(rows_of(left, row), a)), r = blocks.load(columns_of(rows_of(right, row), c));
        kernels::bilinear_outer(target, output(z), input(l), input(r));
        inputs ? add_product(sums, t.t(), z, i == 0) : add_product(sums, z.t(), t, i == 0);
      }
      if (!direct) kept.copy_(sums);
    }
  });
}

namespace {

// dx1 and dx2 of Z = grad · W, by I and J.
void gradients_by_inputs(const Target& target, const Blocks& blocks, const Tensor& dx1, const Tensor& dx2, const Tensor& grad,
                         const Tensor& x1, const Tensor& x2, const Tensor& weight) {
  const int64_t outputs = weight.size(0), in1 = weight.size(1), in2 = weight.size(2), row_blocks = blocks.row_blocks();
  const Tensor matrix = weight.view({outputs, in1 * in2});
  const int64_t tall = std::clamp<int64_t>(blocks.columns / in2, 1, in1), count = pieces(in1, tall), parts = blocks.parts(count);
  const Total total = dx2.defined() ? Total(dx2, parts) : Total();
  const bool direct = grad.scalar_type() == blocks.dtype;
  blocks.run(parts * row_blocks, [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(grad, blocks.rows, tall * in2);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / row_blocks, start = count * part / parts;
      const Range row = blocks.row_block(task % row_blocks);
      const Tensor g = blocks.load(rows_of(grad, row)), l = blocks.load(rows_of(x1, row)), r = blocks.load(rows_of(x2, row));
      const Tensor right_sum = dx2.defined() ? total.rows(part, row) : Tensor();
      for (int64_t index = start; index < count * (part + 1) / parts; ++index) {
        const Range i = piece(in1, tall, index);
        Tensor z = columns_of(rows_of(buffer, {0, row.count()}), {0, i.count() * in2});
        at::mm_out(z, g, scratch.load(columns_of(matrix, {i.first * in2, i.last * in2})));
        const Tensor to = dx1.defined() ? columns_of(rows_of(dx1, row), i) : Tensor();
        const Tensor left_sum = direct || !dx1.defined() ? to : at::empty({row.count(), i.count()}, z.options());
        contract(target, left_sum, right_sum, index == start, z, dx2.defined() ? columns_of(l, i) : Tensor(),
                 dx1.defined() ? r : Tensor());
        if (!direct && dx1.defined()) to.copy_(left_sum);
      }
    }
  });
  total.finish();
}

// dx1 of U = x2 · Wᵀ and dx2 = (grad ⊗ x1) · W, by K and I.
void gradients_by_outputs(const Target& target, const Blocks& blocks, const Tensor& dx1, const Tensor& dx2, const Tensor& grad,
                          const Tensor& x1, const Tensor& x2, const Tensor& weight) {
  const int64_t outputs = weight.size(0), in1 = weight.size(1), row_blocks = blocks.row_blocks();
  const Tensor matrix = weight.view({outputs * in1, weight.size(2)});
  const int64_t tall = std::clamp<int64_t>(blocks.columns / in1, 1, outputs);
  const int64_t count = pieces(outputs, tall), parts = blocks.parts(count);
  const Total total1 = dx1.defined() ? Total(dx1, parts) : Total(), total2 = dx2.defined() ? Total(dx2, parts) : Total();
  blocks.run(parts * row_blocks, [&](int64_t begin, int64_t end) {
    const Tensor buffer = blocks.buffer(grad, blocks.rows, tall * in1);
    Scratch scratch(blocks.dtype);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / row_blocks, start = count * part / parts;
      const Range row = blocks.row_block(task % row_blocks);
      const Tensor l = blocks.load(rows_of(grad, row)), r = blocks.load(rows_of(x1, row)), t = blocks.load(rows_of(x2, row));
      for (int64_t index = start; index < count * (part + 1) / parts; ++index) {
        const Range k = piece(outputs, tall, index);
        const Tensor w = scratch.load(rows_of(matrix, {k.first * in1, k.last * in1})), factor = columns_of(l, k);
        Tensor block = columns_of(rows_of(buffer, {0, row.count()}), {0, k.count() * in1});
        if (dx1.defined()) {
          at::mm_out(block, t, w.t());
          contract(target, {}, total1.rows(part, row), index == start, block, factor, {});
        }
        if (dx2.defined()) {
          kernels::bilinear_outer(target, output(block), input(factor), input(r));
          add_product(total2.rows(part, row), block, w, index == start);
        }
      }
    }
  });
  total1.finish();
  total2.finish();
}

}  // namespace

void bilinear_input_gradients(const Target& target, const Tensor& dx1, const Tensor& dx2, const Tensor& grad, const Tensor& x1,
                              const Tensor& x2, const Tensor& weight) {
  const bool inputs = by_inputs(weight.size(0), x2);
  const auto gradients = inputs ? gradients_by_inputs : gradients_by_outputs;
  gradients(target, cut(target, x1, x2, weight.size(0), inputs), dx1, dx2, grad, x1, x2, weight);
}

}  // namespace pylayers
