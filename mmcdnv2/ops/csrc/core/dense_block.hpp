// A block of condensed dense layers.
//
// All features of the block live in one buffer, channel by channel: a layer
// reads its inputs by their index, appends its new features and adds the
// reactivation to the old ones in place.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "core/buffer.hpp"
#include "core/dense_layer.hpp"
#include "core/kernels.hpp"
#include "core/packing.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

class DenseBlock {
 public:
  // If there is an `out_norm`, it and ReLU come last.
  DenseBlock(const Kernels& kernels,
             const std::vector<DenseLayerWeights>& layers, int64_t in_channels,
             const std::optional<Norm>& norm)
      : kernels(kernels), in_channels(in_channels), out_channels(in_channels) {
    for (const DenseLayerWeights& weights : layers) {
      this->layers.emplace_back(kernels, weights);
      out_channels += weights.growth_rate;
    }
    if (norm) out_norm.emplace(*norm, out_channels);
  }

  // x: (count, in_channels, height, width); out: (count, out_channels, height,
  // width), or half of both if the input is pooled first.
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           bool pool, float* out, const Parallel& parallel) const;

  const Kernels& kernels;
  int64_t in_channels, out_channels;
  std::optional<ScaleShift> out_norm;
  std::vector<DenseLayer> layers;
};

// One image's way through a block.
class BlockPass {
 public:
  BlockPass(const DenseBlock& block, int64_t height, int64_t width, bool pool,
            const Parallel& parallel)
      : block_(block),
        kernels_(block.kernels),
        parallel_(parallel),
        pool_(pool),
        in_height_(height),
        in_width_(width),
        height_(pool ? height / 2 : height),
        width_(pool ? width / 2 : width),
        pixels_(height_ * width_),
        padded_(round_up(pixels_)),
        left_(width_ + kTile),
        right_(width_ + kTile),
        masks_{left_.data(), right_.data(), width_} {
    for (int64_t i = 0; i < width_ + kTile; ++i) {
      left_[i] = i % width_ == 0 ? 0 : -1;
      right_[i] = i % width_ == width_ - 1 ? 0 : -1;
    }
  }

  void run(const float* x, float* out) {
    // A channel's padding may not show in the output.
    const bool in_place = padded_ == pixels_ && !block_.out_norm;
    Buffer own(in_place ? 0 : block_.out_channels * padded_);
    x_ = {in_place ? out : own.get(), padded_, 0};
    load_input(x);
    for (const DenseLayer& layer : block_.layers) {
      if (parallel_.threads == 1)
        run_layer_serially(layer);
      else
        run_layer_in_parallel(layer);
    }
    if (!in_place) store_output(out);
  }

 private:
  // Maps of fewer pixels are not cut into strips for the threads.
  static constexpr int64_t kHalosPerStrip = 3;

  // Pixels that the 3x3 convolution reads before and behind its own.
  int64_t halo_of(const DenseLayer& layer) const {
    return layer.conv.by_columns ? round_up(width_) + kAlign
                                 : round_up(width_ + 1);
  }

  int64_t strip_of(const DenseLayer& layer) const {
    const int64_t floats =
        layer.in_channels + layer.width + 2 * layer.growth_rate;
    return std::max(round_up(kStripFloats / floats), 2 * halo_of(layer));
  }

  static int64_t sums_of(const DenseLayer& layer, int64_t pixels) {
    return layer.conv.by_columns ? 12 * (pixels + 2 * kAlign) : 0;
  }

  Plane features_of(const DenseLayer& layer) const {
    return {x_.data + layer.in_channels * padded_, padded_, 0};
  }

  void load_input(const float* x) {
    const int64_t source = in_height_ * in_width_;
    split(parallel_, block_.in_channels, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        float* row = x_.data + c * padded_;
        if (pool_)
          kernels_.pool2x2(x + c * source, in_width_, row, height_, width_);
        else
          std::memcpy(row, x + c * source, pixels_ * sizeof(float));
        std::fill(row + pixels_, row + padded_, 0.0f);
      }
    });
  }

  void store_output(float* out) {
    split(parallel_, block_.out_channels, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        const Plane channel = {x_.data + c * padded_, padded_, 0};
        if (block_.out_norm) {
          const Affine norm = {1, &block_.out_norm->scale[c],
                               &block_.out_norm->shift[c], Act::kReLU};
          kernels_.affine(norm, channel, channel, {0, padded_}, false);
        }
        std::memcpy(out + c * pixels_, channel.data, pixels_ * sizeof(float));
      }
    });
  }

  void run_layer_serially(const DenseLayer& layer) {
    const bool at_once = layer.reactivation && !layer.excitation;
    compute_features(layer, {0, padded_}, at_once);
    if (at_once) return;
    std::vector<float> mean(layer.growth_rate);
    compute_means(layer, {0, layer.growth_rate}, mean);
    gate_and_reactivate(layer, {0, padded_}, gates_of(layer, mean));
  }

  void run_layer_in_parallel(const DenseLayer& layer) {
    std::vector<float> mean(layer.growth_rate);
    // Strips of pixels compute their halos twice; groups do not, but need
    // everything between LGC and the 3x3 convolution at hand.
    if (padded_ < kHalosPerStrip * halo_of(layer) * parallel_.threads) {
      compute_features_by_groups(layer, mean);
    } else {
      split(parallel_, padded_, kAlign,
            [&](Range pixels) { compute_features(layer, pixels, false); });
      split(parallel_, layer.excitation ? layer.growth_rate : 0, 1,
            [&](Range channels) { compute_means(layer, channels, mean); });
    }
    const std::vector<float> gates = gates_of(layer, mean);
    if (layer.reactivation || layer.excitation)
      split(parallel_, padded_, kAlign,
            [&](Range pixels) { gate_and_reactivate(layer, pixels, gates); });
  }

  // Means of new features, if the layer needs them.
  void compute_means(const DenseLayer& layer, Range channels,
                     std::vector<float>& mean) const {
    if (!layer.excitation) return;
    Plane features = features_of(layer);
    features.data += channels.begin * padded_;
    kernels_.mean(features, channels.end - channels.begin, pixels_,
                  &mean[channels.begin]);
  }

  // Gate of each new feature; empty without squeeze-and-excite.
  static std::vector<float> gates_of(const DenseLayer& layer,
                                     const std::vector<float>& mean) {
    return layer.excitation ? layer.excitation->gates(mean)
                            : std::vector<float>();
  }

  // New features of a range of pixels, strip by strip. With `at_once` a strip
  // is reactivated as soon as nothing reads its old features any more.
  void compute_features(const DenseLayer& layer, Range pixels, bool at_once) {
    const int64_t halo = halo_of(layer);
    const int64_t strip = std::min(strip_of(layer), pixels.end - pixels.begin);
    const int64_t stride = stride_of(strip + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Buffer panel(layer.lgc.conv.kept * kTile);
    const Buffer sums(sums_of(layer, strip));
    const Range all_groups = {0, layer.lgc.conv.groups};
    Plane h = {buffer.get(), stride, pixels.begin - halo};
    int64_t done = std::max<int64_t>(h.origin, 0);
    clear(h, {0, layer.width}, {h.origin, done});
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += strip) {
      const int64_t end = std::min(begin + strip, pixels.end);
      const int64_t needed = std::min(end + halo, padded_);
      kernels_.gather_conv(layer.lgc.conv, x_, h, {done, needed}, all_groups,
                           panel.get());
      if (end + halo > pixels_)
        clear(h, {0, layer.width}, {pixels_, end + halo});
      done = needed;
      kernels_.group_conv3x3(layer.conv, masks_, h, features_of(layer),
                             {begin, end}, all_groups, sums.get());
      if (at_once)
        layer.reactivation->apply(features_of(layer), x_, {begin, end});
      if (end < pixels.end) {
        const int64_t kept = end - halo - h.origin;
        for (int64_t c = 0; c < layer.width; ++c) {
          float* row = buffer.get() + c * stride;
          std::memmove(row, row + kept, (done - end + halo) * sizeof(float));
        }
        h.origin = end - halo;
      }
    }
  }

  // New features of the whole image, a few groups on each thread.
  void compute_features_by_groups(const DenseLayer& layer,
                                  std::vector<float>& mean) {
    const int64_t halo = halo_of(layer);
    const int64_t stride = stride_of(padded_ + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Plane h = {buffer.get(), stride, -halo};
    split(parallel_, layer.lgc.conv.groups, 1, [&](Range groups) {
      const Buffer panel(layer.lgc.conv.kept * kTile);
      kernels_.gather_conv(layer.lgc.conv, x_, h, {0, padded_}, groups,
                           panel.get());
      for (int64_t m = 0; m < layer.lgc.conv.members; ++m) {
        const int64_t first = m * layer.lgc.conv.groups;
        clear(h, {first + groups.begin, first + groups.end}, {-halo, 0});
        clear(h, {first + groups.begin, first + groups.end},
              {pixels_, padded_ + halo});
      }
    });
    split(parallel_, layer.conv.groups, 1, [&](Range groups) {
      const Buffer sums(sums_of(layer, padded_));
      kernels_.group_conv3x3(layer.conv, masks_, h, features_of(layer),
                             {0, padded_}, groups, sums.get());
      const int64_t members = layer.conv.members;
      compute_means(layer, {groups.begin * members, groups.end * members},
                    mean);
    });
  }

  // Zeros outside of the image, which the 3x3 convolution reads.
  static void clear(const Plane& h, Range channels, Range pixels) {
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      float* row = h.data + c * h.stride - h.origin;
      std::fill(row + pixels.begin, row + pixels.end, 0.0f);
    }
  }

  // Gates the new features and adds what they say about the old ones.
  void gate_and_reactivate(const DenseLayer& layer, Range pixels,
                           const std::vector<float>& gates) const {
    const Plane features = features_of(layer);
    if (layer.excitation) {
      const std::vector<float> zeros(layer.growth_rate, 0.0f);
      const Affine scale = {layer.growth_rate, gates.data(), zeros.data(),
                            Act::kNone};
      kernels_.affine(scale, features, features, pixels, false);
    }
    if (layer.reactivation) layer.reactivation->apply(features, x_, pixels);
  }

  const DenseBlock& block_;
  const Kernels& kernels_;
  const Parallel& parallel_;
  bool pool_;
  int64_t in_height_, in_width_, height_, width_;
  // Pixels of a channel, without and with padding.
  int64_t pixels_, padded_;
  std::vector<int32_t> left_, right_;
  ColumnMasks masks_;
  Plane x_;
};

inline void DenseBlock::run(const float* x, int64_t count, int64_t height,
                            int64_t width, bool pool, float* out,
                            const Parallel& parallel) const {
  const int64_t in_size = in_channels * height * width;
  const int64_t out_size =
      out_channels * (pool ? (height / 2) * (width / 2) : height * width);
  const auto image = [&](int64_t i, const Parallel& inside) {
    BlockPass(*this, height, width, pool, inside)
        .run(x + i * in_size, out + i * out_size);
  };
  if (count > 1 && count >= parallel.threads) {
    const Parallel inside = Parallel::serial();
    parallel.run(count, [&](int64_t i) { image(i, inside); });
  } else {
    for (int64_t i = 0; i < count; ++i) image(i, parallel);
  }
}

}  // namespace mmcdnv2
