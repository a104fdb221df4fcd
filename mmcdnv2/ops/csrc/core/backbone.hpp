// A stem followed by blocks of condensed dense layers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/buffer.hpp"
#include "core/dense_block.hpp"
#include "core/kernels.hpp"
#include "core/parallel.hpp"
#include "core/stem.hpp"

namespace mmcdnv2 {

// Running the backbone as a whole saves copies between blocks, and maps that
// are not returned need not be stored completely.
class Backbone {
 public:
  struct Size {
    int64_t height, width;
  };

  Backbone(const Kernels& kernels, Stem stem, std::vector<DenseBlock> blocks,
           std::vector<bool> pools)
      : stem_(std::move(stem)),
        blocks_(std::move(blocks)),
        pools_(std::move(pools)),
        kernels_(&kernels) {}

  int64_t in_channels() const { return stem_.in_channels; }
  const std::vector<DenseBlock>& blocks() const { return blocks_; }

  // Returns whether a block begins with 2x2 average pooling.
  bool pools(size_t block) const { return pools_[block]; }

  // Sizes of the blocks' outputs.
  std::vector<Size> sizes(int64_t height, int64_t width) const {
    std::vector<Size> sizes;
    Size size = {Stem::halved(height), Stem::halved(width)};
    for (const bool pool : pools_) {
      if (pool) size = {size.height / 2, size.width / 2};
      sizes.push_back(size);
    }
    return sizes;
  }

  // x: (count, in_channels, height, width); outs: for each block (count,
  // out_channels, its height, its width), or null.
  void run(const float* x, int64_t count, int64_t height, int64_t width,
           const std::vector<float*>& outs, const Parallel& parallel) const {
    const std::vector<Size> sizes = this->sizes(height, width);
    for_images(count, parallel, [&](int64_t i, const Parallel& inside) {
      std::vector<float*> targets(outs);
      for (size_t b = 0; b < outs.size(); ++b)
        if (outs[b])
          targets[b] +=
              i * blocks_[b].out_channels * sizes[b].height * sizes[b].width;
      run_image({x + i * stem_.in_channels * height * width, height, width},
                sizes, targets, inside);
    });
  }

 private:
  struct Image {
    const float* pixels;
    int64_t height, width;
  };

  // Floats of a band of the first block's map, if it runs in bands.
  static constexpr int64_t kBandFloats = 2 << 20;

  void run_image(const Image& image, const std::vector<Size>& sizes,
                 const std::vector<float*>& targets,
                 const Parallel& parallel) const {
    // Maps that are not returned alternate between the two ends of the memory,
    // because each is read until the next one is loaded.
    const bool in_bands = is_run_in_bands(targets);
    std::vector<int64_t> own;
    int64_t most = 0;
    for (size_t b = 0; b < blocks_.size(); ++b) {
      const Size size = sizes[b];
      own.push_back(
          b == 0 && in_bands
              ? 0
              : blocks_[b].own_floats(size.height, size.width, targets[b]));
      const bool is_read = b > 0 && !targets[b - 1];
      most = std::max(most, own[b] + (is_read ? own[b - 1] : 0));
    }
    const Buffer memory(most);
    const auto start = [&](size_t b) {
      float* place = b % 2 ? memory.get() + most - own[b] : memory.get();
      return blocks_[b].start(sizes[b].height, sizes[b].width, targets[b],
                              own[b] ? place : nullptr, parallel);
    };
    std::optional<BlockPass> last;
    for (size_t b = in_bands ? 1 : 0; b < blocks_.size(); ++b) {
      BlockPass pass = start(b);
      if (b == 0) {
        split(parallel, sizes[0].height, 1, [&](Range rows) {
          Plane place = pass.map().features;
          place.data += rows.begin * sizes[0].width;
          stem_.run_rows(image.pixels, image.height, image.width, rows, place);
        });
        pass.clear_padding();
      } else if (b == 1 && in_bands) {
        run_bands(image, sizes[0], pass.map(), parallel);
        pass.clear_padding();
      } else {
        pass.load(last->output(), sizes[b - 1].width, pools_[b]);
      }
      pass.run();
      pass.store();
      last.emplace(std::move(pass));
    }
  }

  // Returns whether the first block's map is only needed as the second block's
  // pooled input.
  bool is_run_in_bands(const std::vector<float*>& targets) const {
    return blocks_.size() > 1 && pools_[1] && !targets[0] &&
           !blocks_[0].out_norm &&
           std::none_of(
               blocks_[0].layers.begin(), blocks_[0].layers.end(),
               [](const DenseLayer& layer) { return layer.excitation; });
  }

  // Runs the stem and the first block in bands of rows and pools them into the
  // second block's map. Errors at a band's borders spread by one row per layer,
  // so that many additional rows are computed on both sides.
  void run_bands(const Image& image, Size size, const FeatureMap& to,
                 const Parallel& parallel) const {
    const DenseBlock& block = blocks_[0];
    const int64_t margin = block.layers.size();
    const int64_t by_memory =
        block.out_channels * size.height * size.width / kBandFloats + 1;
    const int64_t bands = std::clamp<int64_t>(
        (by_memory + parallel.threads - 1) / parallel.threads *
            parallel.threads,
        1, std::max<int64_t>(1, size.height / (8 * margin)));
    parallel.run(bands, [&](int64_t i) {
      const Range pooled = {to.height * i / bands, to.height * (i + 1) / bands};
      const Range rows = {std::max<int64_t>(2 * pooled.begin - margin, 0),
                          std::min(2 * pooled.end + margin, size.height)};
      const int64_t height = rows.end - rows.begin;
      const Buffer own(block.own_floats(height, size.width, nullptr));
      const Parallel serial = Parallel::serial();
      BlockPass pass =
          block.start(height, size.width, nullptr, own.get(), serial);
      const Plane features = pass.map().features;
      stem_.run_rows(image.pixels, image.height, image.width, rows, features);
      pass.clear_padding();
      pass.run();
      for (int64_t c = 0; c < block.out_channels; ++c)
        kernels_->pool2x2(features.data + c * features.stride +
                              (2 * pooled.begin - rows.begin) * size.width,
                          size.width, to.from(c).data + pooled.begin * to.width,
                          pooled.end - pooled.begin, to.width);
    });
  }

  Stem stem_;
  std::vector<DenseBlock> blocks_;
  std::vector<bool> pools_;
  const Kernels* kernels_;
};

}  // namespace mmcdnv2
