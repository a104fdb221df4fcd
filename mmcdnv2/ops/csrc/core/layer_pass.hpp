// A dense layer's way over the pixels of a map.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/buffer.hpp"
#include "core/dense_layer.hpp"
#include "core/feature_map.hpp"
#include "core/kernels.hpp"

namespace mmcdnv2 {

// Pixels that the 3x3 convolution reads before and behind its own.
inline int64_t halo_of(const DenseLayer& layer, int64_t width) {
  return layer.conv.by_columns ? round_up(width) + kAlign
                               : round_up(width + 1);
}

// What the kernels need between their loops; one for each thread.
class Scratch {
 public:
  explicit Scratch(const DenseLayer& layer)
      : panel(layer.lgc.conv.kept * kTile),
        sums(12 * (kSummedPixels + 2 * kAlign)) {}

  Buffer panel, sums;
};

// Computes a layer's new features from front to back, strip by strip, and what
// is between LGC and the 3x3 convolution only around the current one.
class LayerPass {
 public:
  LayerPass(const Kernels& kernels, const FeatureMap& map,
            const DenseLayer& layer, int64_t strip)
      : halo(halo_of(layer, map.width)),
        kernels_(&kernels),
        map_(&map),
        layer_(&layer),
        buffer_(layer.width * stride_of(strip + 2 * halo)),
        h_{buffer_.get(), stride_of(strip + 2 * halo), 0} {}

  // The first new features will be those of pixel `first`. LGC's inputs are
  // there from `available` on.
  void start(int64_t available, int64_t first) {
    gathered_ = available;
    done = first;
    h_.origin = first - halo;
    kernels_->clear(h_, {0, layer_->width}, {h_.origin, std::min(available, int64_t{0})});
  }

  // Computes a strip, which ends at `end`; LGC's inputs are there up to `end` +
  // halo. With `reactivates` the strip is reactivated, too: nothing reads its
  // old features any more.
  void advance(int64_t end, bool reactivates, Scratch& scratch) {
    gather(end + halo, scratch);
    const Plane features = map_->from(layer_->in_channels);
    kernels_->group_conv3x3(layer_->conv, map_->masks, h_, features,
                            {done, end}, {0, layer_->conv.groups},
                            scratch.sums.get());
    if (reactivates && layer_->reactivation)
      layer_->reactivation->apply(features, map_->features, {done, end});
    done = end;
    if (end == map_->padded) return;
    const int64_t kept = end - halo - h_.origin;
    for (int64_t c = 0; c < layer_->width; ++c) {
      float* first = h_.data + c * h_.stride;
      std::memmove(first, first + kept, 2 * halo * sizeof(float));
    }
    h_.origin = end - halo;
  }

  int64_t halo;
  // Pixels up to this one have their new features.
  int64_t done = 0;

 private:
  void gather(int64_t to, Scratch& scratch) {
    const Range channels = {0, layer_->width};
    const int64_t inside = std::min(to, map_->padded);
    if (gathered_ < inside) {
      kernels_->gather_conv(layer_->lgc.conv, map_->features, h_,
                            {gathered_, inside}, {0, layer_->lgc.conv.groups},
                            scratch.panel.get());
      gathered_ = inside;
    }
    kernels_->clear(h_, channels, {map_->pixels, to});
  }

  const Kernels* kernels_;
  const FeatureMap* map_;
  const DenseLayer* layer_;
  Buffer buffer_;
  Plane h_;
  // LGC's outputs are there up to this pixel.
  int64_t gathered_ = 0;
};

}  // namespace mmcdnv2
