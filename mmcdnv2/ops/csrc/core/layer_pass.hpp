// Runs a dense layer on the pixels of a map.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/buffer.hpp"
#include "core/dense_layer.hpp"
#include "core/feature_map.hpp"
#include "core/kernels.hpp"

namespace mmcdnv2 {

// Pixels that the 3x3 convolution reads before and after its range.
inline int64_t halo_of(const DenseLayer& layer, int64_t width) {
  return layer.conv.by_columns ? round_up(width) + kAlign : round_up(width + 1);
}

// A layer's two convolutions, with one thread's scratch memory.
class Convolutions {
 public:
  // For parts of the map of at most `pixels` pixels. `features` are the inputs.
  Convolutions(const Kernels& kernels, const FeatureMap& map,
               const Plane& features, const DenseLayer& layer, int64_t pixels)
      : kernels_(&kernels),
        map_(&map),
        features_(features),
        layer_(&layer),
        panel_(layer.lgc.conv.kept * kTile),
        sums_(12 * (kSummedPixels + 2 * kAlign)),
        winograd_(layer.winograd
                      ? kernels.winograd_scratch(*layer.winograd, map.width,
                                                 pixels / map.width + 2)
                      : 0) {}

  void gather(const Plane& h, Range pixels, Range groups) const {
    layer_->lgc.apply(features_, h, pixels, groups, panel_.get());
  }

  void convolve3x3(const Plane& h, const Plane& out, Range pixels,
                   Range groups) const {
    if (layer_->winograd && is_cut_at_rows(pixels))
      convolve_by_winograd(h, out, pixels, groups);
    else
      convolve_by_taps(h, out, pixels, groups);
  }

 private:
  void convolve_by_winograd(const Plane& h, const Plane& out, Range pixels,
                            Range groups) const {
    const bool is_last = pixels.end == map_->padded;
    kernels_->winograd_conv3x3(
        *layer_->winograd, map_->height, map_->width, h, out,
        {pixels.begin / map_->width,
         is_last ? map_->height : pixels.end / map_->width},
        groups, winograd_.get());
    // Infinite or NaN inputs have spread too far: compute these groups again.
    for (int64_t j = groups.begin; j < groups.end; ++j)
      if (!kernels_->is_finite(out, j * layer_->conv.members, pixels))
        convolve_by_taps(h, out, pixels, {j, j + 1});
  }

  void convolve_by_taps(const Plane& h, const Plane& out, Range pixels,
                        Range groups) const {
    kernels_->group_conv3x3(layer_->conv, map_->masks, h, out, pixels, groups,
                            sums_.get());
  }

  // Winograd's convolution computes two rows at a time.
  bool is_cut_at_rows(Range pixels) const {
    const int64_t pair = 2 * map_->width;
    return pixels.begin % pair == 0 &&
           (pixels.end % pair == 0 || pixels.end == map_->padded);
  }

  const Kernels* kernels_;
  const FeatureMap* map_;
  Plane features_;
  const DenseLayer* layer_;
  Buffer panel_, sums_, winograd_;
};

// Computes a layer's new features strip by strip. The features between LGC and
// the 3x3 convolution are stored only around the current strip.
class LayerPass {
 public:
  // From `features` to `out`, in strips of at most `strip` pixels.
  LayerPass(const Kernels& kernels, const FeatureMap& map,
            const Plane& features, const Plane& out, const DenseLayer& layer,
            int64_t strip)
      : halo(halo_of(layer, map.width)),
        kernels_(&kernels),
        map_(&map),
        features_(features),
        out_(out),
        layer_(&layer),
        convolutions_(kernels, map, features, layer, strip),
        buffer_(layer.width * stride_of(strip + 2 * halo)),
        h_{buffer_.get(), stride_of(strip + 2 * halo), 0} {}

  // Starts with the new features of pixel `first`. LGC's inputs are available
  // from pixel `available` on.
  void start(int64_t available, int64_t first) {
    gathered_ = available;
    done = first;
    h_.origin = first - halo;
    kernels_->clear(h_, {0, layer_->width},
                    {h_.origin, std::min(available, int64_t{0})});
  }

  // Computes the strip up to `end`; LGC's inputs must be available up to `end`
  // + halo. With `reactivates` the strip is also reactivated, which requires
  // that nothing reads its old features any more.
  void advance(int64_t end, bool reactivates) {
    gather(end + halo);
    convolutions_.convolve3x3(h_, out_, {done, end}, {0, layer_->conv.groups});
    if (reactivates && layer_->reactivation)
      layer_->reactivation->apply(out_, features_, {done, end});
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
  // New features are computed up to this pixel.
  int64_t done = 0;

 private:
  void gather(int64_t to) {
    const Range channels = {0, layer_->width};
    const int64_t inside = std::min(to, map_->padded);
    if (gathered_ < inside) {
      convolutions_.gather(h_, {gathered_, inside},
                           {0, layer_->lgc.conv.groups});
      gathered_ = inside;
    }
    kernels_->clear(h_, channels, {map_->pixels, to});
  }

  const Kernels* kernels_;
  const FeatureMap* map_;
  Plane features_, out_;
  const DenseLayer* layer_;
  Convolutions convolutions_;
  Buffer buffer_;
  Plane h_;
  // LGC's outputs are computed up to this pixel.
  int64_t gathered_ = 0;
};

}  // namespace mmcdnv2
