// A block of condensed dense layers on the CPU, torch-free.
//
// All features of the block live in one buffer, channel by channel: a layer
// reads its inputs by their index, appends its new features and adds the
// reactivation to the old ones in place.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace mmcdnv2 {

// Batch norm in evaluation. Weight and bias may be null.
struct Norm {
  const float* weight;
  const float* bias;
  const float* mean;
  const float* var;
  double eps;
};

// A condensed SFR's weights, as the PyTorch modules have them: weight (groups *
// kept, in_channels / groups), index (groups, kept).
struct ReactivationWeights {
  int64_t in_channels, out_channels, groups, kept;
  bool norm_first;  // norm-act-conv, else conv-norm-act
  Norm norm;
  Act act;
  const float* weight;
  const int64_t* index;
};

// Squeeze-and-excite with ReLU and sigmoid; weights (squeezed, channels) and
// (channels, squeezed).
struct ExcitationWeights {
  int64_t channels, squeezed;
  const float* squeeze;
  const float* excite;
};

// A condensed dense layer's weights, as the PyTorch modules have them.
struct LayerWeights {
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
  // None if squeeze.squeezed is 0.
  ExcitationWeights squeeze;
  // None if sfr.groups is 0.
  ReactivationWeights sfr;
};

// Runs tasks 0 to count - 1, possibly at the same time, and waits for all.
struct Parallel {
  using Task = std::function<void(int64_t)>;
  int64_t threads;
  std::function<void(int64_t count, const Task&)> run;

  static Parallel serial() {
    return {1, [](int64_t count, const Task& task) {
              for (int64_t i = 0; i < count; ++i) task(i);
            }};
  }
};

inline int64_t round_up(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

// Cuts 0 to count - 1 into one range for each thread, in multiples of `unit`.
template <class F>
void split(const Parallel& parallel, int64_t count, int64_t unit, const F& task) {
  const int64_t units = (count + unit - 1) / unit;
  const int64_t parts = std::min(units, parallel.threads);
  const auto cut = [&](int64_t i) {
    return std::min(count, units * i / parts * unit);
  };
  parallel.run(parts, [&](int64_t i) { task(Range{cut(i), cut(i + 1)}); });
}

// Uninitialised floats at the start of a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<float*>(std::aligned_alloc(
                  64, std::max<int64_t>(round_up(size), kAlign) * sizeof(float))),
              std::free) {
    if (!data_) throw std::bad_alloc();
  }
  float* get() const { return data_.get(); }

 private:
  std::unique_ptr<float, void (*)(void*)> data_;
};

// Norms as what they are in evaluation: y = x * scale + shift.
struct ScaleShift {
  std::vector<float> scale, shift;

  ScaleShift() = default;
  ScaleShift(const Norm& norm, int64_t channels)
      : scale(channels), shift(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double weight = norm.weight ? norm.weight[c] : 1.0;
      const double bias = norm.bias ? norm.bias[c] : 0.0;
      const double s = weight / std::sqrt(norm.var[c] + norm.eps);
      scale[c] = static_cast<float>(s);
      shift[c] = static_cast<float>(bias - norm.mean[c] * s);
    }
  }

  Affine affine(Act act) const {
    return {static_cast<int64_t>(scale.size()), scale.data(), shift.data(),
            act};
  }
};

// Calls f(first, size) for the blocks that the kernels compute `count` outputs
// in: the order of the packed weights.
template <class F>
void for_packed_blocks(int64_t count, int64_t max_block, const F& f) {
  for (int64_t first = 0, size = max_block; first < count; first += size) {
    while (size > count - first) size /= 2;
    f(first, size);
  }
}

// An odd number of cache lines, so that the rows of a plane spread over the
// sets of a cache.
inline int64_t stride_of(int64_t pixels) { return round_up(pixels) | kAlign; }

// Floats that a strip of pixels may take: a good part of a second-level cache.
constexpr int64_t kStripFloats = 96 * 1024;

// Sparse feature reactivation with its norm and activation.
class Reactivation {
 public:
  Reactivation() = default;
  // A copy would point to the other's weights.
  Reactivation(Reactivation&&) = default;
  Reactivation& operator=(Reactivation&&) = default;
  Reactivation(const Kernels& kernels, const ReactivationWeights& w)
      : in_channels(w.in_channels),
        out_channels(w.out_channels),
        kernels_(&kernels),
        norm_first_(w.norm_first),
        norm_(w.norm, w.norm_first ? w.in_channels : w.out_channels),
        act_(w.act),
        index_(w.index, w.index + w.groups * w.kept) {
    const int64_t members = w.in_channels / w.groups;
    for (int64_t j = 0; j < w.groups; ++j)
      for_packed_blocks(w.kept, kernels.max_block, [&](int64_t first, int64_t size) {
        for (int64_t e = 0; e < members; ++e)
          for (int64_t o = first; o < first + size; ++o)
            weight_.push_back(w.weight[(j * w.kept + o) * members + e]);
      });
    conv_ = {w.groups, w.kept, members, index_.data(), weight_.data()};
  }

  // old: (count, out_channels, pixels), features: (count, in_channels, pixels),
  // out: like old, which may be the same.
  void run(const float* old, const float* features, int64_t count,
           int64_t pixels, float* out, const Parallel& parallel) const;

  // Adds to the old features what the new ones say about them.
  void apply(const Plane& features, const Plane& old, Range pixels) const {
    const Affine norm = norm_.affine(act_);
    const int64_t strip =
        std::min(round_up(kStripFloats / (in_channels + out_channels)),
                 pixels.end - pixels.begin);
    const int64_t stride = stride_of(strip);
    const Buffer buffer(norm.channels * stride);
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += strip) {
      const Range range = {begin, std::min(begin + strip, pixels.end)};
      const Plane between = {buffer.get(), stride, begin};
      if (norm_first_) {
        kernels_->affine(norm, features, between, range, false);
        kernels_->scatter_conv(conv_, between, old, range);
      } else {
        std::fill(buffer.get(), buffer.get() + norm.channels * stride, 0.0f);
        kernels_->scatter_conv(conv_, features, between, range);
        kernels_->affine(norm, between, old, range, true);
      }
    }
  }

  int64_t in_channels = 0, out_channels = 0;

 private:
  const Kernels* kernels_ = nullptr;
  bool norm_first_ = true;
  ScaleShift norm_;
  Act act_ = Act::kNone;
  std::vector<int32_t> index_;
  std::vector<float> weight_;
  ScatterConv conv_ = {};
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
    split(parallel, padded, kAlign, [&](Range range) { apply(source, target, range); });
    if (!in_place)
      for (int64_t c = 0; c < out_channels; ++c)
        std::copy(y.get() + c * padded, y.get() + c * padded + pixels,
                  to + c * pixels);
  }
}

class Excitation {
 public:
  Excitation() = default;
  Excitation(const Kernels& kernels, const ExcitationWeights& w)
      : channels(w.channels),
        kernels_(&kernels),
        squeezed_(w.squeezed),
        squeeze_(transposed(w.squeeze, w.squeezed, w.channels)),
        excite_(transposed(w.excite, w.channels, w.squeezed)) {}

  // From the mean of each channel its gate.
  std::vector<float> operator()(const std::vector<float>& mean) const {
    std::vector<float> hidden(round_up(squeezed_)), gate(round_up(channels));
    kernels_->linear(squeeze_.data(), mean.data(), channels,
                     round_up(squeezed_), hidden.data());
    // In this order NaN passes.
    for (float& value : hidden) value = 0.0f > value ? 0.0f : value;
    kernels_->linear(excite_.data(), hidden.data(), squeezed_,
                     round_up(channels), gate.data());
    for (float& value : gate) value = 1.0f / (1.0f + std::exp(-value));
    return gate;
  }

  // x: (count, channels, pixels); out: (count, channels), gated means.
  void pool(const float* x, int64_t count, int64_t pixels, float* out,
            const Parallel& parallel) const {
    parallel.run(count, [&](int64_t i) {
      // The kernels do not write to their input.
      const Plane image = {const_cast<float*>(x) + i * channels * pixels,
                           pixels, 0};
      std::vector<float> mean(channels);
      kernels_->mean(image, channels, pixels, mean.data());
      const std::vector<float> gate = (*this)(mean);
      for (int64_t c = 0; c < channels; ++c)
        out[i * channels + c] = mean[c] * gate[c];
    });
  }

  int64_t channels = 0;

 private:
  static std::vector<float> transposed(const float* weight, int64_t outputs,
                                       int64_t inputs) {
    std::vector<float> packed(inputs * round_up(outputs));
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i)
        packed[i * round_up(outputs) + o] = weight[o * inputs + i];
    return packed;
  }

  const Kernels* kernels_ = nullptr;
  int64_t squeezed_ = 0;
  std::vector<float> squeeze_, excite_;
};

class Layer {
 public:
  Layer(const Kernels& kernels, const LayerWeights& w)
      : in_channels(w.in_channels),
        growth_rate(w.growth_rate),
        width(w.width),
        has_se(w.squeeze.squeezed > 0),
        has_sfr(w.sfr.groups > 0) {
    pack_lgc(w, kernels.max_block);
    pack_conv(w, kernels.max_block);
    if (w.squeeze.squeezed) gate = Excitation(kernels, w.squeeze);
    if (has_sfr) sfr = Reactivation(kernels, w.sfr);
  }

  int64_t in_channels, growth_rate, width;
  bool has_se, has_sfr;
  GatherConv lgc;
  GroupConv3x3 conv;
  Excitation gate;
  Reactivation sfr;

 private:
  void pack_lgc(const LayerWeights& w, int64_t max_block) {
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
    lgc = {w.groups,          w.lgc_kept,        members,
           lgc_index_.data(), lgc_scale_.data(), lgc_shift_.data(),
           w.lgc_act,         lgc_weight_.data(), lgc_out_shift_.data(),
           w.conv_act};
  }

  void pack_conv(const LayerWeights& w, int64_t max_block) {
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

class DenseBlock {
 public:
  // If the block pools, it halves the input's height and width first; if there
  // is an `out_norm`, it and ReLU come last.
  DenseBlock(const Kernels& kernels, const std::vector<LayerWeights>& layers,
             int64_t in_channels, bool pool, const Norm* out_norm)
      : kernels(kernels),
        in_channels(in_channels),
        out_channels(in_channels),
        pool(pool) {
    for (const LayerWeights& weights : layers) {
      this->layers.emplace_back(kernels, weights);
      out_channels += weights.growth_rate;
    }
    if (out_norm) this->out_norm = ScaleShift(*out_norm, out_channels);
  }

  // x: (count, in_channels, height, width); out: (count, out_channels, height,
  // width), or half of both if the block pools.
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           float* out, const Parallel& parallel) const;

  const Kernels& kernels;
  int64_t in_channels, out_channels;
  bool pool;
  ScaleShift out_norm;
  std::vector<Layer> layers;
};

// One image's way through a block.
class Pass {
 public:
  Pass(const DenseBlock& block, int64_t height, int64_t width,
       const Parallel& parallel)
      : block_(block),
        kernels_(block.kernels),
        parallel_(parallel),
        in_height_(height),
        in_width_(width),
        height_(block.pool ? height / 2 : height),
        width_(block.pool ? width / 2 : width),
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
    const bool in_place =
        padded_ == pixels_ && block_.out_norm.scale.empty();
    Buffer own(in_place ? 0 : block_.out_channels * padded_);
    x_ = {in_place ? out : own.get(), padded_, 0};
    enter(x);
    for (const Layer& layer : block_.layers) {
      if (parallel_.threads == 1)
        alone(layer);
      else
        together(layer);
    }
    if (!in_place) leave(out);
  }

 private:
  // Maps of fewer pixels are not cut into strips for the threads.
  static constexpr int64_t kHalosPerStrip = 3;

  // Pixels that the 3x3 convolution reads before and behind its own.
  int64_t halo_of(const Layer& layer) const {
    return layer.conv.by_columns ? round_up(width_) + kAlign
                                 : round_up(width_ + 1);
  }

  int64_t strip_of(const Layer& layer) const {
    const int64_t floats = layer.in_channels + layer.width + 2 * layer.growth_rate;
    return std::max(round_up(kStripFloats / floats), 2 * halo_of(layer));
  }

  static int64_t sums_of(const Layer& layer, int64_t pixels) {
    return layer.conv.by_columns ? 12 * (pixels + 2 * kAlign) : 0;
  }

  Plane features_of(const Layer& layer) const {
    return {x_.data + layer.in_channels * padded_, padded_, 0};
  }

  void enter(const float* x) {
    const int64_t source = in_height_ * in_width_;
    split(parallel_, block_.in_channels, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        float* row = x_.data + c * padded_;
        if (block_.pool)
          kernels_.pool2x2(x + c * source, in_width_, row, height_, width_);
        else
          std::memcpy(row, x + c * source, pixels_ * sizeof(float));
        std::fill(row + pixels_, row + padded_, 0.0f);
      }
    });
  }

  void leave(float* out) {
    split(parallel_, block_.out_channels, 1, [&](Range channels) {
      for (int64_t c = channels.begin; c < channels.end; ++c) {
        const Plane channel = {x_.data + c * padded_, padded_, 0};
        if (!block_.out_norm.scale.empty()) {
          const Affine norm = {1, &block_.out_norm.scale[c],
                               &block_.out_norm.shift[c], Act::kReLU};
          kernels_.affine(norm, channel, channel, {0, padded_}, false);
        }
        std::memcpy(out + c * pixels_, channel.data, pixels_ * sizeof(float));
      }
    });
  }

  void alone(const Layer& layer) {
    const bool at_once = layer.has_sfr && !layer.has_se;
    compute(layer, {0, padded_}, at_once);
    if (at_once) return;
    std::vector<float> mean(layer.growth_rate);
    average(layer, {0, layer.growth_rate}, mean);
    react(layer, {0, padded_}, gate_of(layer, mean));
  }

  void together(const Layer& layer) {
    std::vector<float> mean(layer.growth_rate);
    // Strips of pixels compute their halos twice; groups do not, but need
    // everything between LGC and the 3x3 convolution at hand.
    if (padded_ < kHalosPerStrip * halo_of(layer) * parallel_.threads) {
      compute_by_groups(layer, mean);
    } else {
      split(parallel_, padded_, kAlign,
            [&](Range pixels) { compute(layer, pixels, false); });
      split(parallel_, layer.has_se ? layer.growth_rate : 0, 1,
            [&](Range channels) { average(layer, channels, mean); });
    }
    const std::vector<float> gate = gate_of(layer, mean);
    if (layer.has_sfr || layer.has_se)
      split(parallel_, padded_, kAlign,
            [&](Range pixels) { react(layer, pixels, gate); });
  }

  // Means of new features, if the layer needs them.
  void average(const Layer& layer, Range channels,
               std::vector<float>& mean) const {
    if (!layer.has_se) return;
    Plane features = features_of(layer);
    features.data += channels.begin * padded_;
    kernels_.mean(features, channels.end - channels.begin, pixels_,
                  &mean[channels.begin]);
  }

  // Gate of each new feature; none if the layer has no squeeze-and-excite.
  static std::vector<float> gate_of(const Layer& layer,
                                    const std::vector<float>& mean) {
    return layer.has_se ? layer.gate(mean) : std::vector<float>();
  }

  // New features of a range of pixels, strip by strip. With `at_once` a strip
  // is reactivated as soon as nothing reads its old features any more.
  void compute(const Layer& layer, Range pixels, bool at_once) {
    const int64_t halo = halo_of(layer);
    const int64_t strip =
        std::min(strip_of(layer), pixels.end - pixels.begin);
    const int64_t stride = stride_of(strip + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Buffer panel(layer.lgc.kept * kTile);
    const Buffer sums(sums_of(layer, strip));
    const Range all_groups = {0, layer.lgc.groups};
    Plane h = {buffer.get(), stride, pixels.begin - halo};
    int64_t done = std::max<int64_t>(h.origin, 0);
    clear(h, {0, layer.width}, {h.origin, done});
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += strip) {
      const int64_t end = std::min(begin + strip, pixels.end);
      const int64_t needed = std::min(end + halo, padded_);
      kernels_.gather_conv(layer.lgc, x_, h, {done, needed}, all_groups,
                           panel.get());
      if (end + halo > pixels_) clear(h, {0, layer.width}, {pixels_, end + halo});
      done = needed;
      kernels_.group_conv3x3(layer.conv, masks_, h, features_of(layer),
                             {begin, end}, all_groups, sums.get());
      if (at_once) layer.sfr.apply(features_of(layer), x_, {begin, end});
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
  void compute_by_groups(const Layer& layer, std::vector<float>& mean) {
    const int64_t halo = halo_of(layer);
    const int64_t stride = stride_of(padded_ + 2 * halo);
    const Buffer buffer(layer.width * stride);
    const Plane h = {buffer.get(), stride, -halo};
    split(parallel_, layer.lgc.groups, 1, [&](Range groups) {
      const Buffer panel(layer.lgc.kept * kTile);
      kernels_.gather_conv(layer.lgc, x_, h, {0, padded_}, groups, panel.get());
      for (int64_t m = 0; m < layer.lgc.members; ++m) {
        const int64_t first = m * layer.lgc.groups;
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
      average(layer, {groups.begin * members, groups.end * members}, mean);
    });
  }

  // Zeros outside of the image, which the 3x3 convolution reads.
  static void clear(const Plane& h, Range channels, Range pixels) {
    for (int64_t c = channels.begin; c < channels.end; ++c) {
      float* row = h.data + c * h.stride - h.origin;
      std::fill(row + pixels.begin, row + pixels.end, 0.0f);
    }
  }

  // Gate the new features and add what they say about the old ones.
  void react(const Layer& layer, Range pixels,
             const std::vector<float>& gate) const {
    const Plane features = features_of(layer);
    if (layer.has_se) {
      const std::vector<float> zeros(layer.growth_rate, 0.0f);
      const Affine scale = {layer.growth_rate, gate.data(), zeros.data(),
                            Act::kNone};
      kernels_.affine(scale, features, features, pixels, false);
    }
    if (layer.has_sfr) layer.sfr.apply(features, x_, pixels);
  }

  const DenseBlock& block_;
  const Kernels& kernels_;
  const Parallel& parallel_;
  int64_t in_height_, in_width_, height_, width_;
  // Pixels of a channel, without and with padding.
  int64_t pixels_, padded_;
  std::vector<int32_t> left_, right_;
  ColumnMasks masks_;
  Plane x_;
};

inline void DenseBlock::run(const float* x, int64_t count, int64_t height,
                            int64_t width, float* out,
                            const Parallel& parallel) const {
  const int64_t in_size = in_channels * height * width;
  const int64_t out_size =
      out_channels * (pool ? (height / 2) * (width / 2) : height * width);
  const auto image = [&](int64_t i, const Parallel& inside) {
    Pass(*this, height, width, inside).run(x + i * in_size, out + i * out_size);
  };
  if (count > 1 && count >= parallel.threads) {
    const Parallel inside = Parallel::serial();
    parallel.run(count, [&](int64_t i) { image(i, inside); });
  } else {
    for (int64_t i = 0; i < count; ++i) image(i, parallel);
  }
}

// 3x3 convolution of stride 2 and its norm, if there is one.
class Stem {
 public:
  // weight: (out_channels, in_channels, 3, 3).
  Stem(const Kernels& kernels, const float* weight, int64_t in_channels,
       int64_t out_channels, const Norm* norm)
      : in_channels(in_channels),
        out_channels(out_channels),
        kernels_(&kernels),
        shift_(out_channels) {
    std::vector<float> scale(out_channels, 1.0f);
    if (norm) {
      ScaleShift both(*norm, out_channels);
      scale = both.scale;
      shift_ = both.shift;
    }
    const int64_t inputs = 9 * in_channels;
    for_packed_blocks(out_channels, kernels.max_block, [&](int64_t first, int64_t size) {
      for (int64_t k = 0; k < inputs; ++k)
        for (int64_t o = first; o < first + size; ++o)
          weight_.push_back(weight[o * inputs + k] * scale[o]);
    });
  }

  static int64_t halved(int64_t size) { return (size + 1) / 2; }

  // x: (count, in_channels, height, width); out: (count, out_channels,
  // halved(height), halved(width)).
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           float* out, const Parallel& parallel) const {
    const int64_t rows = halved(height);
    split(parallel, count * rows, 1, [&](Range range) {
      Rows buffer(*this, height, width);
      for (int64_t i = range.begin; i < range.end; ++i)
        buffer.convolve(x, i / rows, i % rows, out);
    });
  }

  int64_t in_channels, out_channels;

 private:
  // The input's rows that an output's row reads, even and odd columns apart.
  class Rows {
   public:
    Rows(const Stem& stem, int64_t height, int64_t width)
        : stem_(stem),
          height_(height),
          width_(width),
          out_width_(halved(width)),
          padded_(round_up(out_width_)),
          // A zero stands before the odd columns.
          stride_(2 * padded_ + 2 * kAlign),
          columns_(3 * stem.in_channels * stride_),
          out_(stem.out_channels * padded_) {
      std::fill(columns_.get(), columns_.get() + 3 * stem.in_channels * stride_,
                0.0f);
    }

    void convolve(const float* x, int64_t image, int64_t row, float* out) {
      std::vector<const float*> taps;
      for (int64_t c = 0; c < stem_.in_channels; ++c) {
        const float* channel =
            x + (image * stem_.in_channels + c) * height_ * width_;
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
      const int64_t rows = halved(height_);
      float* target = out + (image * stem_.out_channels * rows + row) * out_width_;
      const RowConv conv = {9 * stem_.in_channels, stem_.out_channels,
                            stem_.weight_.data(), stem_.shift_.data()};
      if (padded_ == out_width_) {
        stem_.kernels_->row_conv(conv, taps.data(),
                                 {target, rows * out_width_, 0}, {0, padded_});
        return;
      }
      stem_.kernels_->row_conv(conv, taps.data(), {out_.get(), padded_, 0},
                               {0, padded_});
      for (int64_t c = 0; c < stem_.out_channels; ++c)
        std::copy(out_.get() + c * padded_,
                  out_.get() + c * padded_ + out_width_,
                  target + c * rows * out_width_);
    }

   private:
    void separate(const float* row, float* even, float* odd) const {
      const int64_t pairs = width_ / 2;
      for (int64_t i = 0; i < pairs; ++i) {
        even[i] = row[2 * i];
        odd[i] = row[2 * i + 1];
      }
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
};

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#endif
namespace baseline {
extern const Kernels kernels;
}

// Kernels that this processor can run, the fastest first.
inline std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(&avx512::kernels);
  if (fma) found.push_back(&avx2::kernels);
#endif
  found.push_back(&baseline::kernels);
  return found;
}

}  // namespace mmcdnv2
