// Norms and weights in the kernels' layout.

#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/kernels.hpp"

namespace mmcdnv2 {

// Batch norm in evaluation mode.
struct Norm {
  const float* weight;
  const float* bias;
  const float* mean;
  const float* var;
  double eps;
};

// A norm in evaluation mode as y = x * scale + shift.
struct ScaleShift {
  std::vector<float> scale, shift;

  // Without a norm, the identity.
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

// Returns whether a norm can be folded into the weights before it. Weights that
// overflow to infinity would give NaN sums.
inline bool can_fold(const float* weight, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(scale) ||
        (std::isfinite(weight[i]) && !std::isfinite(weight[i] * scale)))
      return false;
  return true;
}

// Calls f(first, size) for the blocks of `count` outputs, in the order of the
// packed weights.
template <class F>
void for_packed_blocks(int64_t count, int64_t max_block, const F& f) {
  for (int64_t first = 0, size = max_block; first < count; first += size) {
    while (size > count - first) size /= 2;
    f(first, size);
  }
}

// An element of the transformed filter of Winograd's convolution, G w G^T, with
// the last row and the last column negated.
inline float winograd_weight(const float* filter, int64_t row, int64_t column) {
  static constexpr double kG[4][3] = {
      {1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, -1}};
  double sum = 0;
  for (int y = 0; y < 3; ++y)
    for (int z = 0; z < 3; ++z)
      sum += kG[row][y] * filter[3 * y + z] * kG[column][z];
  return static_cast<float>(sum);
}

// The weights of WinogradConv3x3; `filters` has shape (groups * members,
// in_members, 3, 3).
inline std::vector<float> pack_winograd(const float* filters, int64_t groups,
                                        int64_t in_members, int64_t members,
                                        int64_t max_block) {
  std::vector<float> packed;
  packed.reserve(groups * members * in_members * 16);
  for (int64_t j = 0; j < groups; ++j)
    for (int64_t column : {1, 2, 0, 3})
      for (int64_t row : {1, 2, 0, 3})
        for_packed_blocks(members, max_block, [&](int64_t first, int64_t size) {
          for (int64_t c = 0; c < in_members; ++c)
            for (int64_t m = first; m < first + size; ++m) {
              const int64_t filter = (j * members + m) * in_members + c;
              packed.push_back(
                  winograd_weight(filters + filter * 9, row, column));
            }
        });
  return packed;
}

}  // namespace mmcdnv2
