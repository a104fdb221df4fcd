// Runs a dense block on an image.
//
// All features of the block are in one buffer, channel by channel: a layer
// reads its inputs by index, appends its new features and adds the
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
  // `target` is the memory of the output; if null, the output stays in the map.
  // `own` is memory for the map if the target cannot be used.
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

  // The output after store().
  Plane output() const {
    return target_ ? Plane{target_, map_.pixels, 0} : map_.features;
  }

  // Copies the input, or pools 2x2 of its pixels.
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

  // Clears the padding, because it is computed like pixels.
  void clear_padding() {
    kernels_.clear(map_.features, {0, in_channels_},
                   {map_.pixels, map_.padded});
  }

  void run() {
    if (is_run_in_bands()) return run_in_bands();
    for (const DenseLayer& layer : layers_) {
      if (is_small_for_threads(layer))
        run_by_groups(layer);
      else
        run_by_strips(layer);
    }
    finish();
  }

  // Copies the output to the target, unless it was computed there.
  void store() {
    if (!target_ || map_.features.data == target_) return;
    split(parallel_, out_channels_, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c)
        std::memcpy(target_ + c * map_.pixels, map_.from(c).data,
                    map_.pixels * sizeof(float));
    });
  }

 private:
  // The rest of a layer after its new features are computed: their gate, which
  // needs the means of all pixels, and the reactivation, which needs the gated
  // features and changes features that other threads were reading.
  struct Pending {
    const DenseLayer* layer;
    std::vector<float> gates, zeros;  // empty without excitation

    Affine gate() const {
      return {layer->growth_rate, gates.data(), zeros.data(), Act::kNone};
    }
  };

  // A thread's pixels, with a halo for its layers, of a map that is small
  // enough for the second-level cache. Cache lines that two processors write in
  // turn cost more than the computation, so each thread has a copy of all
  // features of its band, and only new features are exchanged.
  struct Band {
    Range own, with_halo;
    Buffer memory, new_memory;
    Plane features;
    // New features before the gate, of this layer and of the previous one.
    Plane fresh[2];
    std::vector<float> mean;
  };

  // Smaller maps are not split into ranges of pixels.
  static constexpr int64_t kHalosPerRange = 4;

  bool is_small_for_threads(const DenseLayer& layer) const {
    return parallel_.threads > 1 &&
           map_.padded <
               kHalosPerRange * halo_of(layer, map_.width) * parallel_.threads;
  }

  // One range of pixels per thread, in multiples of `unit`.
  std::vector<Range> ranges(int64_t unit) const {
    std::vector<Range> found;
    const int64_t units = (map_.padded + unit - 1) / unit;
    const int64_t parts = std::min(units, parallel_.threads);
    for (int64_t i = 0; i < parts; ++i)
      found.push_back({units * i / parts * unit,
                       std::min(units * (i + 1) / parts * unit, map_.padded)});
    return found;
  }

  // The unit of ranges and strips: pairs of rows if the layer can use
  // Winograd's convolution and a strip has some, otherwise vectors.
  int64_t unit_of(const DenseLayer& layer) const {
    const int64_t pairs = std::lcm(2 * map_.width, kAlign);
    const int64_t most = map_.padded / parallel_.threads;
    return layer.winograd && pairs <= std::min(2 * strip_of(layer), most)
               ? pairs
               : kAlign;
  }

  // Pixels of a strip, such that a layer's data stays in the cache.
  int64_t strip_of(const DenseLayer& layer) const {
    const int64_t halo = halo_of(layer, map_.width);
    const int64_t channels = layer.in_channels + layer.growth_rate;
    const int64_t spare =
        cached_floats - channels * halo - layer.width * 2 * halo;
    return std::clamp(spare / (channels + layer.width) / kAlign * kAlign,
                      2 * halo, std::max(map_.padded, 2 * halo));
  }

  // Pending work of the previous layer is also done strip by strip, but first
  // where other threads read it.
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
      LayerPass pass(kernels_, map_, map_.features,
                     map_.from(layer.in_channels), layer, strip);
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

  // Runs a layer of a small map with a few groups per thread, because strips
  // would compute their halos twice.
  void run_by_groups(const DenseLayer& layer) {
    reactivate_pending();
    const int64_t halo = halo_of(layer, map_.width);
    const int64_t stride = stride_of(map_.padded + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Plane h = {buffer.get(), stride, -halo};
    split(parallel_, layer.lgc.conv.groups, 1, [&](Range groups) {
      const Convolutions convolutions(kernels_, map_, map_.features, layer,
                                      map_.padded);
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
      const Convolutions convolutions(kernels_, map_, map_.features, layer,
                                      map_.padded);
      convolutions.convolve3x3(h, map_.from(layer.in_channels),
                               {0, map_.padded}, groups);
      const int64_t members = layer.conv.members;
      if (layer.excitation)
        compute_means(layer, {groups.begin * members, groups.end * members},
                      mean);
    });
    leave_pending(layer, mean);
  }

  // Returns whether halos are a large part of a thread's pixels, and all its
  // data fits into its cache.
  bool is_run_in_bands() const {
    for (const DenseLayer& layer : layers_)
      if (is_small_for_threads(layer)) return false;
    return parallel_.threads > 1 &&
           map_.padded < 32 * largest_halo() * parallel_.threads &&
           out_channels_ * map_.padded <= cached_floats * parallel_.threads;
  }

  int64_t largest_halo() const {
    int64_t halo = 0;
    for (const DenseLayer& layer : layers_)
      halo = std::max(halo, halo_of(layer, map_.width));
    return halo;
  }

  void run_in_bands() {
    const int64_t halo = largest_halo();
    int64_t unit = kAlign, growth_rate = 0;
    for (const DenseLayer& layer : layers_) {
      unit = std::max(unit, unit_of(layer));
      growth_rate = std::max(growth_rate, layer.growth_rate);
    }
    const std::vector<Range> parts = ranges(unit);
    std::vector<Band> bands(parts.size());
    for (size_t l = 0; l < layers_.size(); ++l) {
      const DenseLayer& layer = layers_[l];
      parallel_.run(bands.size(), [&](int64_t i) {
        Band& band = bands[i];
        if (l == 0)
          begin_band(band, parts[i], halo, growth_rate);
        else
          settle(bands, i, (l - 1) % 2, band.with_halo);
        const Plane& fresh = band.fresh[l % 2];
        const int64_t strip =
            std::min(strip_of(layer), band.own.end - band.own.begin);
        LayerPass pass(kernels_, map_, band.features, fresh, layer, strip);
        pass.start(std::max(band.own.begin - pass.halo, int64_t{0}),
                   band.own.begin);
        while (pass.done < band.own.end)
          pass.advance(std::min(pass.done + strip, band.own.end), false);
        if (layer.excitation) {
          Plane pixels = fresh;
          pixels.data += band.own.begin - fresh.origin;
          pixels.origin = 0;
          band.mean.resize(layer.growth_rate);
          kernels_.mean(pixels, layer.growth_rate, pixels_of(band),
                        band.mean.data());
        }
      });
      std::vector<float> mean(layer.growth_rate, 0.0f);
      if (layer.excitation)
        for (const Band& band : bands)
          for (int64_t c = 0; c < layer.growth_rate; ++c)
            mean[c] += band.mean[c] * (static_cast<float>(pixels_of(band)) /
                                       static_cast<float>(map_.pixels));
      leave_pending(layer, mean);
    }
    parallel_.run(bands.size(), [&](int64_t i) {
      const Band& band = bands[i];
      settle(bands, i, (layers_.size() - 1) % 2, band.own);
      if (norm_)
        kernels_.affine(norm_->affine(Act::kReLU), band.features, map_.features,
                        band.own, false);
      else
        copy(band.features, map_.features, {0, out_channels_}, band.own);
    });
    pending_.reset();
  }

  int64_t pixels_of(const Band& band) const {
    return std::min(band.own.end, map_.pixels) - band.own.begin;
  }

  void begin_band(Band& band, Range own, int64_t halo,
                  int64_t growth_rate) const {
    band.own = own;
    band.with_halo = {std::max(own.begin - halo, int64_t{0}),
                      std::min(own.end + halo, map_.padded)};
    const int64_t begin = band.with_halo.begin;
    const int64_t stride = stride_of(band.with_halo.end - begin);
    band.memory = Buffer(out_channels_ * stride);
    band.features = {band.memory.get(), stride, begin};
    band.new_memory = Buffer(2 * growth_rate * stride);
    for (const int64_t i : {0, 1})
      band.fresh[i] = {band.new_memory.get() + i * growth_rate * stride, stride,
                       begin};
    copy(map_.features, band.features, {0, in_channels_}, band.with_halo);
  }

  // Copies the previous layer's new features into a band, gates them and
  // applies the reactivation.
  void settle(const std::vector<Band>& bands, int64_t i, int parity,
              Range pixels) const {
    const DenseLayer& layer = *pending_->layer;
    const Band& band = bands[i];
    Plane features = band.features;
    features.data += layer.in_channels * features.stride;
    const auto take = [&](const Band& from, Range range) {
      if (range.begin >= range.end) return;
      if (layer.excitation)
        kernels_.affine(pending_->gate(), from.fresh[parity], features, range,
                        false);
      else
        copy(from.fresh[parity], features, {0, layer.growth_rate}, range);
    };
    if (i > 0) take(bands[i - 1], {pixels.begin, band.own.begin});
    take(band, band.own);
    if (i + 1 < static_cast<int64_t>(bands.size()))
      take(bands[i + 1], {band.own.end, pixels.end});
    if (layer.reactivation)
      layer.reactivation->apply(features, band.features, pixels);
  }

  static void copy(const Plane& from, const Plane& to, Range channels,
                   Range pixels) {
    for (int64_t c = channels.begin; c < channels.end; ++c)
      std::memcpy(to.data + c * to.stride + pixels.begin - to.origin,
                  from.data + c * from.stride + pixels.begin - from.origin,
                  (pixels.end - pixels.begin) * sizeof(float));
  }

  // Computes means of new features.
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

  // Gates the new features and applies the reactivation.
  void reactivate_pending(Range pixels) const {
    if (!pending_) return;
    const DenseLayer& layer = *pending_->layer;
    const Plane features = map_.from(layer.in_channels);
    if (layer.excitation)
      kernels_.affine(pending_->gate(), features, features, pixels, false);
    if (layer.reactivation)
      layer.reactivation->apply(features, map_.features, pixels);
  }

  void reactivate_pending() {
    if (pending_)
      split(parallel_, map_.padded, kAlign,
            [&](Range pixels) { reactivate_pending(pixels); });
    pending_.reset();
  }

  // Does the last layer's pending work and the norm.
  void finish() {
    if (!pending_ && !norm_) return;
    const int64_t strip = std::max<int64_t>(
        cached_floats / out_channels_ / kAlign * kAlign, kAlign);
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
