// Squeeze-and-excite.

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/kernels.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

// Squeeze-and-excite with ReLU and sigmoid; weights (squeezed, channels) and
// (channels, squeezed).
struct ExcitationWeights {
  int64_t channels, squeezed;
  const float* squeeze;
  const float* excite;
};

// Squeeze-and-excite with packed weights.
class Excitation {
 public:
  Excitation(const Kernels& kernels, const ExcitationWeights& w)
      : channels(w.channels),
        kernels_(&kernels),
        squeezed_(w.squeezed),
        squeeze_(packed(w.squeeze, w.squeezed, w.channels)),
        excite_(packed(w.excite, w.channels, w.squeezed)) {}

  // The gate of each channel, computed from the channels' means.
  std::vector<float> gates(const std::vector<float>& mean) const {
    std::vector<float> hidden(blocks(squeezed_)), gate(blocks(channels));
    kernels_->linear(squeeze_.data(), mean.data(), channels, blocks(squeezed_),
                     hidden.data());
    // This order propagates NaN.
    for (float& value : hidden) value = 0.0f > value ? 0.0f : value;
    kernels_->linear(excite_.data(), hidden.data(), squeezed_, blocks(channels),
                     gate.data());
    for (float& value : gate) value = 1.0f / (1.0f + std::exp(-value));
    return gate;
  }

  // x: (count, channels, pixels); out: (count, channels), gated means.
  void pool_and_gate(const float* x, int64_t count, int64_t pixels, float* out,
                     const Parallel& parallel) const {
    parallel.run(count, [&](int64_t i) {
      // The kernels do not write to their input.
      const Plane image = {const_cast<float*>(x) + i * channels * pixels,
                           pixels, 0};
      std::vector<float> mean(channels);
      kernels_->mean(image, channels, pixels, mean.data());
      const std::vector<float> gate = gates(mean);
      for (int64_t c = 0; c < channels; ++c)
        out[i * channels + c] = mean[c] * gate[c];
    });
  }

  int64_t channels;

 private:
  // Number of outputs with padding.
  static int64_t blocks(int64_t outputs) {
    return (outputs + kLinearBlock - 1) / kLinearBlock * kLinearBlock;
  }

  static std::vector<float> packed(const float* weight, int64_t outputs,
                                   int64_t inputs) {
    std::vector<float> values(inputs * blocks(outputs));
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i)
        values[(o / kLinearBlock * inputs + i) * kLinearBlock +
               o % kLinearBlock] = weight[o * inputs + i];
    return values;
  }

  const Kernels* kernels_;
  int64_t squeezed_;
  std::vector<float> squeeze_, excite_;
};

}  // namespace mmcdnv2
