// The first convolution.

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

// 3x3 convolution of stride 2 with an optional norm.
class Stem {
 public:
  // weight: (out_channels, in_channels, 3, 3).
  Stem(const Kernels& kernels, const float* weight, int64_t in_channels,
       int64_t out_channels, const std::optional<Norm>& norm)
      : in_channels(in_channels),
        out_channels(out_channels),
        kernels_(&kernels) {
    ScaleShift packed(norm, out_channels);
    const int64_t inputs = 9 * in_channels;
    bool folds = true;
    for (int64_t o = 0; o < out_channels; ++o)
      folds = folds && can_fold(weight + o * inputs, inputs, packed.scale[o]);
    if (!folds) {
      late_norm_ = std::move(packed);
      packed = ScaleShift(std::nullopt, out_channels);
    }
    shift_ = packed.shift;
    for_packed_blocks(
        out_channels, kernels.max_block, [&](int64_t first, int64_t size) {
          for (int64_t k = 0; k < inputs; ++k)
            for (int64_t o = first; o < first + size; ++o)
              weight_.push_back(weight[o * inputs + k] * packed.scale[o]);
        });
  }

  static int64_t halved(int64_t size) { return size / 2 + size % 2; }

  // x: (count, in_channels, height, width); out: (count, out_channels,
  // halved(height), halved(width)).
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           float* out, const Parallel& parallel) const {
    const int64_t rows = halved(height), pixels = rows * halved(width);
    split(parallel, count * rows, 1, [&](Range range) {
      Rows buffer(*this, height, width);
      for (int64_t i = range.begin; i < range.end; ++i) {
        const int64_t image = i / rows, row = i % rows;
        buffer.convolve(x + image * in_channels * height * width, row,
                        {out + image * out_channels * pixels, pixels, 0});
      }
    });
  }

  // Computes some rows of an image's output; out begins with the first of them.
  void run_rows(const float* x, int64_t height, int64_t width, Range rows,
                Plane out) const {
    Rows buffer(*this, height, width);
    out.origin = rows.begin * halved(width);
    for (int64_t row = rows.begin; row < rows.end; ++row)
      buffer.convolve(x, row, out);
  }

  int64_t in_channels, out_channels;

 private:
  // The input rows of an output row, with even and odd columns separated.
  class Rows {
   public:
    Rows(const Stem& stem, int64_t height, int64_t width)
        : stem_(stem),
          height_(height),
          width_(width),
          out_width_(halved(width)),
          padded_(round_up(out_width_)),
          // A zero precedes the odd columns.
          stride_(2 * padded_ + 2 * kAlign),
          columns_(3 * stem.in_channels * stride_),
          out_(stem.out_channels * padded_) {
      std::fill(columns_.get(), columns_.get() + 3 * stem.in_channels * stride_,
                0.0f);
    }

    // Computes a row of `out` from the image `x`.
    void convolve(const float* x, int64_t row, const Plane& out) {
      std::vector<const float*> taps;
      for (int64_t c = 0; c < stem_.in_channels; ++c) {
        const float* channel = x + c * height_ * width_;
        for (int64_t tap = 0; tap < 3; ++tap) {
          float* even = columns_.get() + (c * 3 + tap) * stride_;
          float* odd = even + padded_ + kAlign;
          const int64_t from = 2 * row + tap - 1;
          if (from >= 0 && from < height_) {
            separate(channel + from * width_, even, odd);
          } else {
            std::fill(even, even + padded_, 0.0f);
            std::fill(odd, odd + padded_, 0.0f);
          }
          taps.insert(taps.end(), {odd - 1, even, odd});
        }
      }
      const RowConv conv = {9 * stem_.in_channels, stem_.out_channels,
                            stem_.weight_.data(), stem_.shift_.data()};
      float* target = out.data + row * out_width_ - out.origin;
      const bool in_place = padded_ == out_width_;
      const Plane place = in_place ? Plane{target, out.stride, 0}
                                   : Plane{out_.get(), padded_, 0};
      const Range pixels = {0, padded_};
      stem_.kernels_->row_conv(conv, taps.data(), place, pixels);
      if (stem_.late_norm_)
        stem_.kernels_->affine(stem_.late_norm_->affine(Act::kNone), place,
                               place, pixels, false);
      if (in_place) return;
      for (int64_t c = 0; c < stem_.out_channels; ++c)
        std::copy_n(out_.get() + c * padded_, out_width_,
                    target + c * out.stride);
    }

   private:
    void separate(const float* row, float* even, float* odd) const {
      const int64_t pairs = width_ / 2;
      stem_.kernels_->split_columns(row, pairs, even, odd);
      if (width_ % 2) {
        even[pairs] = row[width_ - 1];
        odd[pairs] = 0.0f;
      }
    }

    const Stem& stem_;
    int64_t height_, width_, out_width_, padded_, stride_;
    Buffer columns_, out_;
  };

  const Kernels* kernels_;
  std::vector<float> shift_, weight_;
  // The norm, if it cannot be folded into the weights.
  std::optional<ScaleShift> late_norm_;
};

}  // namespace mmcdnv2
