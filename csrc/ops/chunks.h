// Matrix products of a chunk of rows beside which a whole product does not exist, as linear layers with a loss behind them take them:
// logits, what their gradient makes of the weight and of the rows. All results have the dtype acc.
#pragma once

#include "blocks.h"

namespace pylayers {

// How many of the rows have their logits, and `matrices` − 1 matrices like them, in memory at once. `asked`: by the caller, or 0. `sums`:
// there is a gradient of the weight, of `inner` columns: its memory, taken when the logits are gone, is free for them.
int64_t rows_at_once(const Tensor& like, int64_t rows, int64_t classes, int64_t inner, bool sums, int64_t asked, int64_t matrices = 1);

class Chunk {
 public:
  // x [rows, inner]; logits of as many rows and `most` classes at most are in memory at a time.
  Chunk(const Tensor& like, int64_t rows, int64_t most, int64_t inner);

  // Goes to these rows.
  void take(const Tensor& x);

  // x · wᵀ + bias of w [classes, inner], with rows anywhere, and of bias [classes] in acc, if any. It lives until the next one.
  Tensor logits(const Tensor& w, const Tensor& bias);

  // From d, which has the memory of the logits: dx += d · w, if there is a dx, and dw += dᵀ · x, if there is a dw, whose first terms these
  // are where it says so. dw may lie as w does.
  void add_gradients(const Tensor& d, const Tensor& w, const Tensor& dx, bool first_of_dx, const Tensor& dw, bool first_of_dw);

 private:
  // body(range of classes, their rows of w as they are computed with)
  template <class Body>
  void for_blocks(const Tensor& w, const Body& body);

  at::ScalarType acc_;
  bool sums_, converts_, mixes_;  // 16-bit operands: a kernel of ours or (mixes) the library sums them in acc, or they become acc
  Scratch rows_, weights_, gradients_, memory_;
  Tensor x_;
};

}  // namespace pylayers
