// An image's way through a dense block.
//
// All features of the block live in one buffer, channel by channel: a layer
// reads its inputs by their index, appends its new features and adds the
// reactivation to the old ones in place.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "core/buffer.hpp"
#include "core/dense_layer.hpp"
#include "core/feature_map.hpp"
#include "core/kernels.hpp"
#include "core/layer_pass.hpp"
#include "core/packing.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

class BlockPass {
 public:
  // `target` is where the output goes; without, it stays in the map. `own` is
  // memory for the map, if it needs that.
  BlockPass(const Kernels& kernels, const std::vector<DenseLayer>& layers,
            const std::optional<ScaleShift>& norm, int64_t in_channels,
            int64_t out_channels, int64_t height, int64_t width, float* target,
            float* own, const Parallel& parallel)
      : kernels_(kernels),
        layers_(layers),
        norm_(norm),
        parallel_(parallel),
        in_channels_(in_channels),
        out_channels_(out_channels),
        target_(target),
        map_(height, width, target, own) {}

  const FeatureMap& map() const { return map_; }

  // Takes the input, or averages of 2x2 of its pixels.
  void load(const Plane& input, int64_t width, bool pool) {
    split(parallel_, in_channels_, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        const float* from = input.data + c * input.stride;
        float* row = map_.from(c).data;
        if (pool)
          kernels_.pool2x2(from, width, row, map_.height, map_.width);
        else
          std::memcpy(row, from, map_.pixels * sizeof(float));
      }
    });
    clear_padding();
  }

  // A channel's padding is computed like its pixels.
  void clear_padding() {
    kernels_.clear(map_.features, {0, in_channels_}, {map_.pixels, map_.padded});
  }

  void run() {
    for (const DenseLayer& layer : layers_) {
      if (is_small_for_threads(layer))
        run_by_groups(layer);
      else
        run_by_strips(layer);
    }
    finish();
  }

  // Copies the output to the target, if it is not there.
  void store() {
    if (!target_ || map_.features.data == target_) return;
    split(parallel_, out_channels_, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c)
        std::memcpy(target_ + c * map_.pixels, map_.from(c).data,
                    map_.pixels * sizeof(float));
    });
  }

 private:
  // What a layer still has to do to features that all of its own are needed
  // for, or that other threads read until now.
  struct Pending {
    const DenseLayer* layer;
    std::vector<float> gates, zeros;  // gates are empty without excitation
  };

  // Smaller maps are not cut into ranges of pixels for the threads.
  static constexpr int64_t kHalosPerRange = 4;

  bool is_small_for_threads(const DenseLayer& layer) const {
    return parallel_.threads > 1 &&
           map_.padded <
               kHalosPerRange * halo_of(layer, map_.width) * parallel_.threads;
  }

  // One range of pixels for each thread, in multiples of `unit`.
  std::vector<Range> ranges(int64_t unit) const {
    std::vector<Range> found;
    const int64_t units = (map_.padded + unit - 1) / unit;
    const int64_t parts = std::min(units, parallel_.threads);
    for (int64_t i = 0; i < parts; ++i)
      found.push_back(
          {units * i / parts * unit,
           std::min(units * (i + 1) / parts * unit, map_.padded)});
    return found;
  }

  // What ranges and strips are multiples of: pairs of rows, if a layer is the
  // faster for it and a strip has some.
  int64_t unit_of(const DenseLayer& layer) const {
    const int64_t pairs = std::lcm(2 * map_.width, kAlign);
    const int64_t most = map_.padded / parallel_.threads;
    return layer.winograd && pairs <= std::min(2 * strip_of(layer), most)
               ? pairs
               : kAlign;
  }

  // Pixels of a strip: what a layer touches stays in the cache.
  int64_t strip_of(const DenseLayer& layer) const {
    const int64_t halo = halo_of(layer, map_.width);
    const int64_t channels = layer.in_channels + layer.growth_rate;
    const int64_t spare =
        cached_floats() - channels * halo - layer.width * 2 * halo;
    return std::clamp(spare / (channels + layer.width) / kAlign * kAlign,
                      2 * halo, std::max(map_.padded, 2 * halo));
  }

  // What the layer before has left is done strip by strip, too, but first where
  // another thread reads it.
  void run_by_strips(const DenseLayer& layer) {
    const int64_t halo = halo_of(layer, map_.width);
    const int64_t unit = unit_of(layer);
    const int64_t strip = std::max(strip_of(layer) / unit * unit, unit);
    const std::vector<Range> parts = ranges(unit);
    const int64_t borders = parts.size() - 1;
    const bool at_once = parts.size() == 1 && !layer.excitation;
    if (pending_ && borders)
      parallel_.run(borders, [&](int64_t j) {
        const int64_t border = parts[j].end;
        reactivate_pending({border - halo, border + halo});
      });
    parallel_.run(parts.size(), [&](int64_t j) {
      const Range range = parts[j];
      LayerPass pass(kernels_, map_, layer, strip);
      pass.start(std::max(range.begin - halo, int64_t{0}), range.begin);
      Range own = {j ? range.begin + halo : 0, 0};
      const int64_t last = j < borders ? range.end - halo : map_.padded;
      while (pass.done < range.end) {
        const int64_t to = std::min(pass.done + strip, range.end);
        own.end = std::min(to + halo, last);
        if (own.begin < own.end) {
          reactivate_pending(own);
          own.begin = own.end;
        }
        pass.advance(to, at_once);
      }
    });
    pending_.reset();
    if (at_once) return;
    std::vector<float> mean(layer.growth_rate);
    if (layer.excitation)
      split(parallel_, layer.growth_rate, 1,
            [&](Range channels) { compute_means(layer, channels, mean); });
    leave_pending(layer, mean);
  }

  // A layer of a small map, a few groups on each thread: strips of pixels would
  // compute their halos twice.
  void run_by_groups(const DenseLayer& layer) {
    reactivate_pending();
    const int64_t halo = halo_of(layer, map_.width);
    const int64_t stride = stride_of(map_.padded + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Plane h = {buffer.get(), stride, -halo};
    split(parallel_, layer.lgc.conv.groups, 1, [&](Range groups) {
      const Convolutions convolutions(kernels_, map_, layer, map_.padded);
      convolutions.gather(h, {0, map_.padded}, groups);
      for (int64_t m = 0; m < layer.lgc.conv.members; ++m) {
        const int64_t first = m * layer.lgc.conv.groups;
        const Range channels = {first + groups.begin, first + groups.end};
        kernels_.clear(h, channels, {-halo, 0});
        kernels_.clear(h, channels, {map_.pixels, map_.padded + halo});
      }
    });
    std::vector<float> mean(layer.growth_rate);
    split(parallel_, layer.conv.groups, 1, [&](Range groups) {
      const Convolutions convolutions(kernels_, map_, layer, map_.padded);
      convolutions.convolve3x3(h, {0, map_.padded}, groups);
      const int64_t members = layer.conv.members;
      if (layer.excitation)
        compute_means(layer, {groups.begin * members, groups.end * members},
                      mean);
    });
    leave_pending(layer, mean);
  }

  // Means of new features.
  void compute_means(const DenseLayer& layer, Range channels,
                     std::vector<float>& mean) const {
    kernels_.mean(map_.from(layer.in_channels + channels.begin),
                  channels.end - channels.begin, map_.pixels,
                  &mean[channels.begin]);
  }

  void leave_pending(const DenseLayer& layer, const std::vector<float>& mean) {
    pending_ = Pending{&layer, {}, {}};
    if (!layer.excitation) return;
    pending_->gates = layer.excitation->gates(mean);
    pending_->zeros.resize(layer.growth_rate, 0.0f);
  }

  // Gates the new features and adds what they say about the old ones.
  void reactivate_pending(Range pixels) const {
    if (!pending_) return;
    const DenseLayer& layer = *pending_->layer;
    const Plane features = map_.from(layer.in_channels);
    if (layer.excitation) {
      const Affine scale = {layer.growth_rate, pending_->gates.data(),
                            pending_->zeros.data(), Act::kNone};
      kernels_.affine(scale, features, features, pixels, false);
    }
    if (layer.reactivation)
      layer.reactivation->apply(features, map_.features, pixels);
  }

  void reactivate_pending() {
    if (pending_)
      split(parallel_, map_.padded, kAlign,
            [&](Range pixels) { reactivate_pending(pixels); });
    pending_.reset();
  }

  // What the last layer has left, and the norm.
  void finish() {
    if (!pending_ && !norm_) return;
    const int64_t strip = std::max<int64_t>(
        cached_floats() / out_channels_ / kAlign * kAlign, kAlign);
    split(parallel_, map_.padded, kAlign, [&](Range range) {
      for (int64_t p = range.begin; p < range.end; p += strip) {
        const Range pixels = {p, std::min(p + strip, range.end)};
        reactivate_pending(pixels);
        if (norm_)
          kernels_.affine(norm_->affine(Act::kReLU), map_.features,
                          map_.features, pixels, false);
      }
    });
    pending_.reset();
  }

  const Kernels& kernels_;
  const std::vector<DenseLayer>& layers_;
  const std::optional<ScaleShift>& norm_;
  const Parallel& parallel_;
  int64_t in_channels_, out_channels_;
  float* target_;
  FeatureMap map_;
  std::optional<Pending> pending_;
};

}  // namespace mmcdnv2
