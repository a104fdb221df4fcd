// The features of an image inside a block: one plane for all channels.

#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "core/kernels.hpp"

namespace mmcdnv2 {

// Size and memory of a map.
class FeatureMap {
 public:
  // The map is in `target` if it needs no padding, otherwise in `own`.
  FeatureMap(int64_t height, int64_t width, float* target, float* own)
      : height(height),
        width(width),
        pixels(height * width),
        padded(round_up(pixels)),
        left_(width + kTile),
        right_(width + kTile),
        features(own ? Plane{own, stride_of(padded), 0}
                     : Plane{target, padded, 0}),
        masks{left_.data(), right_.data(), width} {
    for (int64_t i = 0; i < width + kTile; ++i) {
      left_[i] = i % width == 0 ? 0 : -1;
      right_[i] = i % width == width - 1 ? 0 : -1;
    }
  }

  // Returns whether the map cannot be in the backend's memory.
  static bool needs_own(int64_t height, int64_t width, const float* target) {
    return !target || height * width % kAlign;
  }
  static int64_t own_floats(int64_t channels, int64_t height, int64_t width) {
    return channels * stride_of(height * width);
  }

  // The features beginning with a channel.
  Plane from(int64_t channel) const {
    return {features.data + channel * features.stride, features.stride, 0};
  }

  int64_t height, width;
  // Number of pixels per channel, without and with padding.
  int64_t pixels, padded;

 private:
  std::vector<int32_t> left_, right_;

 public:
  Plane features;
  ColumnMasks masks;
};

}  // namespace mmcdnv2
