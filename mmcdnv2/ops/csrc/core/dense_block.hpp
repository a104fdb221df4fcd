// A block of condensed dense layers.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/block_pass.hpp"
#include "core/buffer.hpp"
#include "core/dense_layer.hpp"
#include "core/feature_map.hpp"
#include "core/kernels.hpp"
#include "core/packing.hpp"
#include "core/parallel.hpp"

namespace mmcdnv2 {

class DenseBlock {
 public:
  // With `norm`, the block ends with it and a ReLU.
  DenseBlock(const Kernels& kernels,
             const std::vector<DenseLayerWeights>& layers, int64_t in_channels,
             const std::optional<Norm>& norm)
      : in_channels(in_channels),
        out_channels(in_channels),
        kernels_(&kernels) {
    for (const DenseLayerWeights& weights : layers) {
      this->layers.emplace_back(kernels, weights);
      out_channels += weights.growth_rate;
    }
    if (norm) out_norm.emplace(*norm, out_channels);
  }

  // x: (count, in_channels, height, width); out: (count, out_channels, height,
  // width), or half of both with `pool`.
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           bool pool, float* out, const Parallel& parallel) const;

  // For one image; see BlockPass.
  BlockPass start(int64_t height, int64_t width, float* target, float* own,
                  const Parallel& parallel) const {
    return BlockPass(*kernels_, layers, out_norm, in_channels, out_channels,
                     height, width, target, own, parallel);
  }

  // Floats of memory that an image needs in addition to `target`.
  int64_t own_floats(int64_t height, int64_t width, const float* target) const {
    if (!FeatureMap::needs_own(height, width, target)) return 0;
    return FeatureMap::own_floats(out_channels, height, width);
  }

  int64_t in_channels, out_channels;
  std::optional<ScaleShift> out_norm;
  std::vector<DenseLayer> layers;

 private:
  const Kernels* kernels_;
};

inline void DenseBlock::run(const float* x, int64_t count, int64_t height,
                            int64_t width, bool pool, float* out,
                            const Parallel& parallel) const {
  const int64_t in_size = in_channels * height * width;
  const int64_t rows = pool ? height / 2 : height;
  const int64_t columns = pool ? width / 2 : width;
  for_images(count, parallel, [&](int64_t i, const Parallel& inside) {
    // The kernels do not write to their input.
    float* source = const_cast<float*>(x) + i * in_size;
    float* target = out + i * out_channels * rows * columns;
    const Buffer own(own_floats(rows, columns, target));
    BlockPass pass = start(rows, columns, target, own.get(), inside);
    pass.load({source, height * width, 0}, width, pool);
    pass.run();
    pass.store();
  });
}

}  // namespace mmcdnv2
