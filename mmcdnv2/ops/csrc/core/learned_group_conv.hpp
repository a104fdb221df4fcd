// Learned group convolution (LGC).

#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/kernels.hpp"
#include "core/packing.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

// A condensed LGC's weights in the layout of the PyTorch modules: weight
// (out_channels, kept), index (groups, kept). Norm and activation may be before
// it, after it, or both.
struct LearnedGroupConvWeights {
  int64_t in_channels, out_channels, groups, kept;
  std::optional<Norm> norm_before;
  Act act_before;
  const float* weight;
  const int64_t* index;
  std::optional<Norm> norm_after;
  Act act_after;
};

// Learned group convolution with its norms and activations, packed.
class LearnedGroupConv {
 public:
  // Not copyable: a copy would point to the original's weights.
  LearnedGroupConv(LearnedGroupConv&&) = default;
  LearnedGroupConv& operator=(LearnedGroupConv&&) = default;
  LearnedGroupConv(const Kernels& kernels, const LearnedGroupConvWeights& w)
      : in_channels(w.in_channels),
        out_channels(w.out_channels),
        kernels_(&kernels) {
    const int64_t members = w.out_channels / w.groups;
    // Without a norm, in_channels is unchecked and must not size an allocation.
    std::optional<ScaleShift> before;
    if (w.norm_before) before.emplace(w.norm_before, w.in_channels);
    ScaleShift after(w.norm_after, w.out_channels);
    bool folds = true;
    for (int64_t o = 0; o < w.out_channels; ++o)
      folds =
          folds && can_fold(w.weight + o * w.kept, w.kept,
                            after.scale[o % members * w.groups + o / members]);
    if (!folds) {
      late_norm_ = std::move(after);
      late_act_ = w.act_after;
      after = ScaleShift(std::nullopt, w.out_channels);
    }
    weight_.reserve(w.out_channels * w.kept);
    for (int64_t i = 0; i < w.groups * w.kept; ++i) {
      index_.push_back(static_cast<int32_t>(w.index[i]));
      scale_.push_back(before ? before->scale[w.index[i]] : 1.0f);
      shift_.push_back(before ? before->shift[w.index[i]] : 0.0f);
    }
    for (int64_t j = 0; j < w.groups; ++j) {
      for (int64_t m = 0; m < members; ++m)
        out_shift_.push_back(after.shift[m * w.groups + j]);
      for_packed_blocks(
          members, kernels.max_block, [&](int64_t first, int64_t size) {
            for (int64_t k = 0; k < w.kept; ++k)
              for (int64_t m = first; m < first + size; ++m)
                weight_.push_back(w.weight[(j * members + m) * w.kept + k] *
                                  after.scale[m * w.groups + j]);
          });
    }
    conv = {w.groups,          w.kept,
            members,           index_.data(),
            scale_.data(),     shift_.data(),
            w.act_before,      weight_.data(),
            out_shift_.data(), folds ? w.act_after : Act::kNone};
  }

  // Computes the outputs of some groups and pixels. `panel` has room for kTile
  // pixels of each kept input of a group.
  void apply(const Plane& x, const Plane& out, Range pixels, Range groups,
             float* panel) const {
    kernels_->gather_conv(conv, x, out, pixels, groups, panel);
    if (!late_norm_) return;
    for (int64_t m = 0; m < conv.members; ++m)
      for (int64_t j = groups.begin; j < groups.end; ++j) {
        const int64_t o = m * conv.groups + j;
        const Plane channel = {out.data + o * out.stride, out.stride,
                               out.origin};
        kernels_->affine(
            {1, &late_norm_->scale[o], &late_norm_->shift[o], late_act_},
            channel, channel, pixels, false);
      }
  }

  // x: (count, in_channels, pixels); out: (count, out_channels, pixels).
  void run(const float* x, int64_t count, int64_t pixels, float* out,
           const Parallel& parallel) const {
    const int64_t whole = pixels / kAlign * kAlign;
    for (int64_t i = 0; i < count; ++i) {
      const float* from = x + i * in_channels * pixels;
      float* to = out + i * out_channels * pixels;
      // The kernels do not write to their input.
      const Plane source = {const_cast<float*>(from), pixels, 0};
      split(parallel, whole, kAlign, [&](Range range) {
        const Buffer panel(conv.kept * kTile);
        apply(source, {to, pixels, 0}, range, {0, conv.groups}, panel.get());
      });
      if (whole < pixels) run_rest(from, whole, pixels, to);
    }
  }

  int64_t in_channels, out_channels;
  GatherConv conv;

 private:
  // Computes the last pixels of each channel, fewer than kAlign, with padding.
  void run_rest(const float* x, int64_t first, int64_t pixels,
                float* out) const {
    const int64_t rest = pixels - first;
    const Buffer from(in_channels * kAlign), to(out_channels * kAlign);
    for (int64_t c = 0; c < in_channels; ++c) {
      float* row = from.get() + c * kAlign;
      std::copy_n(x + c * pixels + first, rest, row);
      std::fill(row + rest, row + kAlign, 0.0f);
    }
    const Buffer panel(conv.kept * kTile);
    apply({from.get(), kAlign, 0}, {to.get(), kAlign, 0}, {0, kAlign},
          {0, conv.groups}, panel.get());
    for (int64_t c = 0; c < out_channels; ++c)
      std::copy_n(to.get() + c * kAlign, rest, out + c * pixels + first);
  }

  const Kernels* kernels_;
  std::vector<int32_t> index_;
  std::vector<float> scale_, shift_, weight_, out_shift_;
  // The norm after the convolution, if it cannot be folded into the weights.
  std::optional<ScaleShift> late_norm_;
  Act late_act_ = Act::kNone;
};

}  // namespace mmcdnv2
