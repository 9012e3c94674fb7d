// What losses of a linear map share whose logits exist a chunk of rows at a time: gradients that are summed over the chunks, and that
// lack a factor until the backward brings it.
#pragma once

#include <array>

#include "chunks.h"

namespace pylayers {

using LinearMask = std::array<bool, 3>;  // of the gradients of input, weight and bias

inline Tensor or_nothing(const Tensor& tensor, const Tensor& like) { return tensor.defined() ? tensor : nothing(like); }

// Of an input (inner) or (rows, inner), and of a weight (classes, ..., inner), whose dimensions between are positions.
inline c10::SymInt rows_of_input(const Tensor& input) { return input.dim() == 2 ? input.sym_size(0) : c10::SymInt(1); }
inline c10::SymInt positions_of(const Tensor& w) { return c10::multiply_integers(w.sym_sizes().slice(1, w.dim() - 2)); }

struct LinearSums {
  Tensor dx, dw, db;  // [rows, inner] in the dtype of input, [classes, positions, inner] and [positions, classes] in acc

  LinearSums(const Tensor& input, const Tensor& w, const LinearMask& mask) {
    const auto acc = accumulation_dtype(input.scalar_type());
    const auto rows = rows_of_input(input), classes = w.sym_size(0), positions = positions_of(w), inner = w.sym_size(-1);
    if (mask[0]) dx = allocate(input, {rows, inner}, input.scalar_type());
    if (mask[1]) dw = allocate(w, {classes, positions, inner}, acc);
    if (mask[2]) db = allocate(w, {positions, classes}, acc);
  }
  bool any() const { return dx.defined() || dw.defined() || db.defined(); }
  void clear() const {
    for (const Tensor* sum : {&dx, &dw, &db})
      if (sum->defined()) sum->zero_();
  }
  // Where the gradient by a chunk of rows is summed in acc: in dx itself, or in memory. Undefined if nobody asks for it.
  Tensor rows(Range range, Scratch& memory) const;
  // Adds what the gradients d of the chunk's logits at a position make of its rows, which are summed in own, of the weight and of the bias.
  void add(Chunk& chunk, const Tensor& d, const Tensor& w, int64_t position, const Tensor& own, bool first) const;
  // Takes the rows over from where they were summed.
  void take(Range range, const Tensor& own) const;
};

// to = factor · from, of acc, without a matrix of acc between.
void scale_to(const Tensor& to, const Tensor& from, const Tensor& factor);

}  // namespace pylayers
