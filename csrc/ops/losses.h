// What the losses over classes share, of logits that are given and of logits that are computed on the way.
#pragma once

#include <string_view>
#include <vector>

#include "common.h"

namespace pylayers {

enum class Reduction : int64_t { none, mean, sum, batchmean };
// ValueError for an unknown name. batches: whether the mean over a batch is one.
Reduction reduction_of(const char* op, std::string_view name, bool batches = false);

// What of a loss is neither logits nor target.
struct LossOptions {
  int64_t ignore_index;
  double smoothing, z_loss, softcap;  // a softcap of 0: none
};

inline bool of_probabilities(const Tensor& target) { return target.is_floating_point(); }

// The dimension of the classes in logits, and the sizes of logits without it, which are those of a target of classes.
inline int64_t class_dim(size_t dims) { return dims == 1 ? 0 : 1; }
std::vector<c10::SymInt> rows_shape(c10::SymIntArrayRef logits);

// A sentence for every target, weight or option that does not fit logits of these sizes, which have the dtype and device of `like`.
void check_loss(const char* op, c10::SymIntArrayRef logits, const Tensor& like, const Tensor& target, const Tensor& weight,
                int64_t ignore_index, double smoothing, std::optional<double> softcap);

// On a CPU a target that is no class is an IndexError. A GPU would have to be waited for: there its row is nan.
void check_range(const char* op, const Tensor& target, const c10::SymInt& classes, int64_t ignore_index);

// What plain PyTorch computes, in terms of logits z with the classes last: loss = Σ_c q_c · (lse − z_c) + z_loss · lse², q the weighted
// probabilities of the target.
struct PlainLoss {
  Tensor z, q, share, unasked;  // share: what a row counts in a mean; unasked: classes that a row's loss is not about
  Tensor live, valid;  // of each row, where targets are classes: whether it counts; whether its target is none or a class
  LossOptions options;

  PlainLoss(const char* op, const Tensor& logits, const Tensor& target, const OptionalTensor& weight, const LossOptions& options);
  Tensor loss() const;
  // By the logits, in their dtype. grad: of each row.
  Tensor gradient(const Tensor& grad) const;

 private:
  // Of numbers for each row: 0 for rows that do not count, nan for wrong ones.
  Tensor counted(const Tensor& numbers) const;

  at::ScalarType dtype_;
};

// Of losses and shares for each row, as a differentiable operation of ATen.
Tensor reduced(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype);

// The same below autograd; total: Σ share, where the loss is a mean.
struct Reduced {
  Tensor loss, total;
};
Reduced reduced_with_total(const Tensor& loss, const Tensor& share, Reduction reduction, at::ScalarType dtype);

}  // namespace pylayers
