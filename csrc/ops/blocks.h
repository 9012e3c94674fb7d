// How ops with a weight of three dimensions are cut: matrix products of the library over blocks, kernels of ours between them.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "common.h"

namespace pylayers {

struct Range {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

inline int64_t pieces(int64_t total, int64_t size) { return (total + size - 1) / size; }
inline Range piece(int64_t total, int64_t size, int64_t index) { return {index * size, std::min(total, (index + 1) * size)}; }

// Sizes of blocks come from sizes alone, so that results do not depend on the number of threads.
struct Blocks {
  bool threads;     // they share the tasks, and a product runs on one of them
  int64_t batch;    // rows in all
  int64_t rows;     // rows of a block
  int64_t columns;  // of a block, about
  at::ScalarType dtype;  // blocks are computed in: on a CPU products of 16-bit numbers are slower than of float32

  // `widest`: the longest row that the op reads or writes; `weights`: elements of the weight; `third`: of them that belong to one
  // column of a block.
  Blocks(const Tensor& like, bool threads, int64_t batch, int64_t widest, int64_t weights, int64_t third);

  int64_t row_blocks() const { return pieces(batch, rows); }
  Range row_block(int64_t index) const { return piece(batch, rows, index); }
  // Into how many parts a sum is to be split, at most, for as many tasks as are worth threads.
  int64_t parts(int64_t most) const { return threads ? std::clamp<int64_t>(kTasks / row_blocks(), 1, most) : 1; }
  // A block of a tensor as it is computed with.
  Tensor load(const Tensor& block) const { return block.scalar_type() == dtype ? block : block.to(dtype); }
  // How many rows of a matrix are loaded at a time: all of them where that is no copy.
  int64_t loaded(const Tensor& matrix) const;
  // Uninitialised, with rows that begin where wide accesses may.
  Tensor buffer(const Tensor& like, int64_t rows, int64_t columns) const;

  // body(begin, end) for ranges of tasks.
  template <class Body>
  void run(int64_t tasks, const Body& body) const {
    if (!threads) return body(int64_t{0}, tasks);
    at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView guard;  // what is excluded for this thread, others do not know
      body(begin, end);
    });
  }

 private:
  static constexpr int64_t kTasks = 8;
};

// Memory that one thread keeps over its tasks: larger blocks, malloc gives back to the system and fetches again page by page.
class Scratch {
 public:
  explicit Scratch(at::ScalarType dtype) : dtype_(dtype) {}  // that blocks are computed in
  // Uninitialised; it shares memory with what was asked for before.
  Tensor block(const Tensor& like, at::IntArrayRef sizes);
  // A block of a tensor as it is computed with.
  Tensor load(const Tensor& block) { return block.scalar_type() == dtype_ ? block : this->block(block, block.sizes()).copy_(block); }

 private:
  at::ScalarType dtype_;
  Tensor memory_;
};

// A sum over blocks in dtype acc: the output itself where it has that dtype and is one part.
struct Total {
  Tensor output, parts;  // [batch, dim], [parts, batch, dim]; undefined where nobody asks

  Total() = default;
  Total(const Tensor& output, int64_t count);
  Tensor rows(int64_t part, Range range) const { return parts.select(0, part).narrow(0, range.first, range.count()); }
  void finish() const;
};

// total = a · b, or total += a · b; a total of another dtype than the product's is added to.
void add_product(const Tensor& total, const Tensor& a, const Tensor& b, bool first);

// [rows, dim] with unit stride along dim.
Tensor as_matrix(const Tensor& tensor);
inline Tensor rows_of(const Tensor& matrix, Range range) { return matrix.narrow(0, range.first, range.count()); }
inline Tensor columns_of(const Tensor& matrix, Range range) { return matrix.narrow(1, range.first, range.count()); }
inline Argument input(const Tensor& matrix) {
  return matrix.defined() ? Argument::input(matrix, matrix.sizes(), matrix.strides()) : Argument();
}
inline Argument output(const Tensor& matrix) {
  return matrix.defined() ? Argument::output(matrix, matrix.sizes(), matrix.strides()) : Argument();
}

}  // namespace pylayers
