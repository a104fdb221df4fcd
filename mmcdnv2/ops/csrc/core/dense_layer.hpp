// The weights of a condensed dense layer, unpacked and packed.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/excitation.hpp"
#include "core/kernels.hpp"
#include "core/learned_group_conv.hpp"
#include "core/packing.hpp"
#include "core/reactivation.hpp"

namespace mmcdnv2 {

// A condensed dense layer's weights in the layout of the PyTorch modules.
struct DenseLayerWeights {
  int64_t in_channels, growth_rate, width, groups;
  // Includes the norm and the activation of the 3x3 convolution.
  LearnedGroupConvWeights lgc;
  // 3x3 convolution; weight (growth_rate, width / groups, 3, 3).
  const float* conv_weight;
  std::optional<ExcitationWeights> excitation;
  std::optional<ReactivationWeights> reactivation;
};

// A dense layer with its weights packed.
class DenseLayer {
 public:
  DenseLayer(const Kernels& kernels, const DenseLayerWeights& w)
      : in_channels(w.in_channels),
        growth_rate(w.growth_rate),
        width(w.width),
        lgc(kernels, w.lgc) {
    pack_conv(w, kernels.max_block);
    // Winograd's convolution would spread infinite or NaN weights.
    if (conv.members >= kernels.winograd_members &&
        std::all_of(conv_weight_.begin(), conv_weight_.end(),
                    [](float weight) { return std::isfinite(weight); })) {
      winograd_weight_ =
          pack_winograd(w.conv_weight, conv.groups, conv.in_members,
                        conv.members, kernels.max_block);
      winograd = {conv.groups, conv.in_members, conv.members,
                  winograd_weight_.data()};
    }
    if (w.excitation) excitation.emplace(kernels, *w.excitation);
    if (w.reactivation) reactivation.emplace(kernels, *w.reactivation);
  }

  int64_t in_channels, growth_rate, width;
  LearnedGroupConv lgc;
  GroupConv3x3 conv;
  // The same convolution for complete rows, if it is faster.
  std::optional<WinogradConv3x3> winograd;
  std::optional<Excitation> excitation;
  std::optional<Reactivation> reactivation;

 private:
  void pack_conv(const DenseLayerWeights& w, int64_t max_block) {
    const int64_t inputs = w.width / w.groups;
    const int64_t members = w.growth_rate / w.groups;
    const bool by_columns = members % max_block != 0;
    const int64_t largest = by_columns ? 4 : max_block;
    conv_weight_.reserve(w.growth_rate * inputs * 9);
    for (int64_t j = 0; j < w.groups; ++j)
      for_packed_blocks(members, largest, [&](int64_t first, int64_t size) {
        const auto push = [&](int64_t c, int64_t row, int64_t column) {
          for (int64_t m = first; m < first + size; ++m)
            conv_weight_.push_back(
                w.conv_weight[((j * members + m) * inputs + c) * 9 + row * 3 +
                              column]);
        };
        if (by_columns) {
          for (int64_t c = 0; c < inputs; ++c)
            for (int64_t row : {0, 1, 2})
              for (int64_t column : {0, 1, 2}) push(c, row, column);
        } else {
          for (int64_t column : {0, 2, 1})
            for (int64_t c = 0; c < inputs; ++c)
              for (int64_t row : {0, 1, 2}) push(c, row, column);
        }
      });
    conv = {w.groups, inputs, members, by_columns, conv_weight_.data()};
  }

  std::vector<float> conv_weight_, winograd_weight_;
};

}  // namespace mmcdnv2
