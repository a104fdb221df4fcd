// Sparse feature reactivation (SFR).

#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/buffer.hpp"
#include "core/kernels.hpp"
#include "core/packing.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

// A condensed SFR's weights in the layout of the PyTorch modules: weight
// (groups * kept, in_channels / groups), index (groups, kept).
struct ReactivationWeights {
  int64_t in_channels, out_channels, groups, kept;
  bool norm_first;  // norm-act-conv, else conv-norm-act
  Norm norm;
  Act act;
  const float* weight;
  const int64_t* index;
};

// Sparse feature reactivation with its norm and activation.
class Reactivation {
 public:
  // Not copyable: a copy would point to the original's weights.
  Reactivation(Reactivation&&) = default;
  Reactivation& operator=(Reactivation&&) = default;
  Reactivation(const Kernels& kernels, const ReactivationWeights& w)
      : in_channels(w.in_channels),
        out_channels(w.out_channels),
        kernels_(&kernels),
        norm_first_(w.norm_first),
        norm_(w.norm, w.norm_first ? w.in_channels : w.out_channels),
        unchanged_(std::nullopt, w.in_channels),
        act_(w.act),
        index_(w.index, w.index + w.groups * w.kept) {
    const int64_t members = w.in_channels / w.groups;
    weight_.reserve(w.kept * w.in_channels);
    for (int64_t j = 0; j < w.groups; ++j)
      for_packed_blocks(
          w.kept, kernels.max_block, [&](int64_t first, int64_t size) {
            for (int64_t e = 0; e < members; ++e)
              for (int64_t o = first; o < first + size; ++o)
                weight_.push_back(w.weight[(j * w.kept + o) * members + e]);
          });
    const ScaleShift& before = norm_first_ ? norm_ : unchanged_;
    conv_ = {w.groups,
             w.kept,
             members,
             before.scale.data(),
             before.shift.data(),
             norm_first_ ? act_ : Act::kNone,
             index_.data(),
             weight_.data()};
  }

  // old: (count, out_channels, pixels), features: (count, in_channels, pixels),
  // out: same shape as old, and possibly the same memory.
  void run(const float* old, const float* features, int64_t count,
           int64_t pixels, float* out, const Parallel& parallel) const;

  // Adds the reactivation by the new features to the old ones.
  void apply(const Plane& features, const Plane& old, Range pixels) const {
    const Buffer panel(conv_.members * kScatteredPixels);
    if (norm_first_) {
      kernels_->scatter_conv(conv_, features, old, pixels, panel.get());
      return;
    }
    const int64_t strip =
        std::min(round_up(1 + cached_floats / 4 / out_channels),
                 pixels.end - pixels.begin);
    const int64_t stride = stride_of(strip);
    const Buffer buffer(out_channels * stride);
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += strip) {
      const Range range = {begin, std::min(begin + strip, pixels.end)};
      const Plane between = {buffer.get(), stride, begin};
      std::fill(buffer.get(), buffer.get() + out_channels * stride, 0.0f);
      kernels_->scatter_conv(conv_, features, between, range, panel.get());
      kernels_->affine(norm_.affine(act_), between, old, range, true);
    }
  }

  int64_t in_channels, out_channels;

 private:
  const Kernels* kernels_;
  bool norm_first_;
  ScaleShift norm_, unchanged_;
  Act act_;
  std::vector<int32_t> index_;
  std::vector<float> weight_;
  ScatterConv conv_;
};

inline void Reactivation::run(const float* old, const float* features,
                              int64_t count, int64_t pixels, float* out,
                              const Parallel& parallel) const {
  const int64_t padded = round_up(pixels);
  const auto pad = [&](const float* from, int64_t channels, float* to) {
    for (int64_t c = 0; c < channels; ++c) {
      std::copy(from + c * pixels, from + (c + 1) * pixels, to + c * padded);
      std::fill(to + c * padded + pixels, to + (c + 1) * padded, 0.0f);
    }
  };
  const bool in_place = padded == pixels;
  const Buffer x(in_place ? 0 : in_channels * padded);
  const Buffer y(in_place ? 0 : out_channels * padded);
  for (int64_t i = 0; i < count; ++i) {
    const float* from = old + i * out_channels * pixels;
    float* to = out + i * out_channels * pixels;
    // The kernels do not write to their input.
    Plane source = {const_cast<float*>(features) + i * in_channels * pixels,
                    padded, 0};
    Plane target = {to, padded, 0};
    if (in_place) {
      std::copy(from, from + out_channels * pixels, to);
    } else {
      pad(source.data, in_channels, x.get());
      pad(from, out_channels, y.get());
      source.data = x.get();
      target.data = y.get();
    }
    split(parallel, padded, kAlign,
          [&](Range range) { apply(source, target, range); });
    if (!in_place)
      for (int64_t c = 0; c < out_channels; ++c)
        std::copy(y.get() + c * padded, y.get() + c * padded + pixels,
                  to + c * pixels);
  }
}

}  // namespace mmcdnv2
