// Norms and weights in the form that the kernels read.

#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/kernels.hpp"

namespace mmcdnv2 {

// Batch norm in evaluation.
struct Norm {
  const float* weight;
  const float* bias;
  const float* mean;
  const float* var;
  double eps;
};

// Norms as what they are in evaluation: y = x * scale + shift.
struct ScaleShift {
  std::vector<float> scale, shift;

  // Without a norm it changes nothing.
  ScaleShift(const std::optional<Norm>& norm, int64_t channels)
      : scale(channels, 1.0f), shift(channels, 0.0f) {
    if (!norm) return;
    for (int64_t c = 0; c < channels; ++c) {
      const double s = norm->weight[c] / std::sqrt(norm->var[c] + norm->eps);
      scale[c] = static_cast<float>(s);
      shift[c] = static_cast<float>(norm->bias[c] - norm->mean[c] * s);
    }
  }

  Affine affine(Act act) const {
    return {static_cast<int64_t>(scale.size()), scale.data(), shift.data(),
            act};
  }
};

// Calls f(first, size) for the blocks that the kernels compute `count` outputs
// in: the order of the packed weights.
template <class F>
void for_packed_blocks(int64_t count, int64_t max_block, const F& f) {
  for (int64_t first = 0, size = max_block; first < count; first += size) {
    while (size > count - first) size /= 2;
    f(first, size);
  }
}

}  // namespace mmcdnv2
