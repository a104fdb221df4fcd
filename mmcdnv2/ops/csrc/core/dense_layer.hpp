// The weights of a condensed dense layer, as given and as packed.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/excitation.hpp"
#include "core/kernels.hpp"
#include "core/packing.hpp"
#include "core/reactivation.hpp"

namespace mmcdnv2 {

// A condensed dense layer's weights, as the PyTorch modules have them.
struct DenseLayerWeights {
  int64_t in_channels, growth_rate, width, groups;
  // Learned group convolution; weight (width, lgc_kept), index (groups,
  // lgc_kept).
  int64_t lgc_kept;
  Norm lgc_norm;
  Act lgc_act;
  const float* lgc_weight;
  const int64_t* lgc_index;
  // 3x3 convolution; weight (growth_rate, width / groups, 3, 3).
  Norm conv_norm;
  Act conv_act;
  const float* conv_weight;
  std::optional<ExcitationWeights> excitation;
  std::optional<ReactivationWeights> reactivation;
};

// A dense layer with its weights packed.
class DenseLayer {
 public:
  DenseLayer(const Kernels& kernels, const DenseLayerWeights& w)
      : in_channels(w.in_channels), growth_rate(w.growth_rate), width(w.width) {
    pack_lgc(w, kernels.max_block);
    pack_conv(w, kernels.max_block);
    if (w.excitation) excitation.emplace(kernels, *w.excitation);
    if (w.reactivation) reactivation.emplace(kernels, *w.reactivation);
  }

  int64_t in_channels, growth_rate, width;
  GatherConv lgc;
  GroupConv3x3 conv;
  std::optional<Excitation> excitation;
  std::optional<Reactivation> reactivation;

 private:
  void pack_lgc(const DenseLayerWeights& w, int64_t max_block) {
    const int64_t members = w.width / w.groups;
    const ScaleShift before(w.lgc_norm, w.in_channels);
    const ScaleShift after(w.conv_norm, w.width);
    for (int64_t i = 0; i < w.groups * w.lgc_kept; ++i) {
      lgc_index_.push_back(static_cast<int32_t>(w.lgc_index[i]));
      lgc_scale_.push_back(before.scale[w.lgc_index[i]]);
      lgc_shift_.push_back(before.shift[w.lgc_index[i]]);
    }
    for (int64_t j = 0; j < w.groups; ++j) {
      for (int64_t m = 0; m < members; ++m)
        lgc_out_shift_.push_back(after.shift[m * w.groups + j]);
      for_packed_blocks(members, max_block, [&](int64_t first, int64_t size) {
        for (int64_t k = 0; k < w.lgc_kept; ++k)
          for (int64_t m = first; m < first + size; ++m)
            lgc_weight_.push_back(
                w.lgc_weight[(j * members + m) * w.lgc_kept + k] *
                after.scale[m * w.groups + j]);
      });
    }
    lgc = {w.groups,          w.lgc_kept,         members,
           lgc_index_.data(), lgc_scale_.data(),  lgc_shift_.data(),
           w.lgc_act,         lgc_weight_.data(), lgc_out_shift_.data(),
           w.conv_act};
  }

  void pack_conv(const DenseLayerWeights& w, int64_t max_block) {
    const int64_t inputs = w.width / w.groups;
    const int64_t members = w.growth_rate / w.groups;
    const bool by_columns = members % max_block != 0;
    const int64_t largest = by_columns ? 4 : max_block;
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

  std::vector<int32_t> lgc_index_;
  std::vector<float> lgc_scale_, lgc_shift_, lgc_weight_, lgc_out_shift_;
  std::vector<float> conv_weight_;
};

}  // namespace mmcdnv2
