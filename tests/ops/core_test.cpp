// Compares every kernel that this processor can run with a plain
// implementation, on random blocks. Prints a line for each; exits with 1 at
// the first difference.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/backbone.hpp"
#include "core/dense_block.hpp"
#include "core/dispatch.hpp"
#include "core/stem.hpp"

namespace {

using namespace mmcdnv2;

struct Random {
  std::mt19937 engine;

  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  }
  std::vector<float> floats(int64_t count, float low, float high) {
    std::uniform_real_distribution<float> distribution(low, high);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(engine);
    return values;
  }
  // For each group `kept` of `columns`, ascending.
  std::vector<int64_t> index(int64_t groups, int64_t kept, int64_t columns) {
    std::vector<int64_t> values;
    for (int64_t j = 0; j < groups; ++j) {
      std::vector<int64_t> all(columns);
      for (int64_t c = 0; c < columns; ++c) all[c] = c;
      std::shuffle(all.begin(), all.end(), engine);
      std::sort(all.begin(), all.begin() + kept);
      values.insert(values.end(), all.begin(), all.begin() + kept);
    }
    return values;
  }
};

Parallel real_threads(int64_t count) {
  return {count, [](int64_t tasks, const Parallel::Task& task) {
            std::vector<std::thread> threads;
            for (int64_t i = 0; i < tasks; ++i) threads.emplace_back(task, i);
            for (std::thread& thread : threads) thread.join();
          }};
}

struct OwnedNorm {
  std::vector<float> weight, bias, mean, var;

  OwnedNorm(Random& random, int64_t channels)
      : weight(random.floats(channels, -1, 2)),
        bias(random.floats(channels, -1, 1)),
        mean(random.floats(channels, -1, 1)),
        var(random.floats(channels, 0.5, 2)) {}

  Norm norm() const {
    return {weight.data(), bias.data(), mean.data(), var.data(), 1e-5};
  }
  double operator()(double x, int64_t c) const {
    return (x - mean[c]) / std::sqrt(var[c] + 1e-5) * weight[c] + bias[c];
  }
};

struct OwnedLayer {
  OwnedNorm lgc_norm, conv_norm, sfr_norm;
  std::vector<float> lgc, conv, squeeze, excite, sfr;
  std::vector<int64_t> lgc_index, sfr_index;
  DenseLayerWeights weights;

  OwnedLayer(Random& random, DenseLayerWeights w)
      : lgc_norm(random, w.in_channels),
        conv_norm(random, w.width),
        sfr_norm(random, w.reactivation && w.reactivation->norm_first
                             ? w.growth_rate
                             : w.in_channels),
        lgc(random.floats(w.width * w.lgc.kept, -0.3f, 0.3f)),
        conv(
            random.floats(w.growth_rate * w.width / w.groups * 9, -0.2f, 0.2f)),
        lgc_index(random.index(w.groups, w.lgc.kept, w.in_channels)),
        weights(w) {
    weights.lgc.norm_before = lgc_norm.norm();
    weights.lgc.norm_after = conv_norm.norm();
    weights.lgc.weight = lgc.data();
    weights.lgc.index = lgc_index.data();
    weights.conv_weight = conv.data();
    if (weights.excitation) {
      ExcitationWeights& se = *weights.excitation;
      squeeze = random.floats(se.squeezed * se.channels, -1, 1);
      excite = random.floats(se.squeezed * se.channels, -1, 1);
      se.squeeze = squeeze.data();
      se.excite = excite.data();
    }
    if (weights.reactivation) {
      ReactivationWeights& r = *weights.reactivation;
      sfr = random.floats(r.kept * r.in_channels, -0.3f, 0.3f);
      sfr_index = random.index(r.groups, r.kept, r.out_channels);
      r.norm = sfr_norm.norm();
      r.weight = sfr.data();
      r.index = sfr_index.data();
    }
  }
};

double activate(Act act, double x) {
  if (act == Act::kReLU) return std::max(x, 0.0);
  if (act == Act::kHSwish)
    return x * std::min(std::max(x + 3.0, 0.0), 6.0) / 6.0;
  return x;
}

using Map = std::vector<std::vector<double>>;  // channels of pixels

// Learned group convolution; norms may be missing.
Map convolve(const LearnedGroupConvWeights& w, const OwnedNorm* before,
             const OwnedNorm* after, const Map& x, int64_t pixels) {
  const int64_t members = w.out_channels / w.groups;
  Map out(w.out_channels, std::vector<double>(pixels));
  for (int64_t j = 0; j < w.groups; ++j)
    for (int64_t m = 0; m < members; ++m)
      for (int64_t p = 0; p < pixels; ++p) {
        double sum = 0;
        for (int64_t k = 0; k < w.kept; ++k) {
          const int64_t c = w.index[j * w.kept + k];
          sum +=
              w.weight[(j * members + m) * w.kept + k] *
              activate(w.act_before, before ? (*before)(x[c][p], c) : x[c][p]);
        }
        const int64_t o = m * w.groups + j;
        out[o][p] = activate(w.act_after, after ? (*after)(sum, o) : sum);
      }
  return out;
}

void apply(const OwnedLayer& layer, Map& x, int64_t height, int64_t width) {
  const DenseLayerWeights& w = layer.weights;
  const int64_t pixels = height * width;
  const int64_t members = w.width / w.groups;
  const Map h = convolve(w.lgc, &layer.lgc_norm, &layer.conv_norm, x, pixels);
  Map features(w.growth_rate, std::vector<double>(pixels));
  const int64_t outputs = w.growth_rate / w.groups;
  for (int64_t o = 0; o < w.growth_rate; ++o)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t z = 0; z < width; ++z)
        for (int64_t c = 0; c < members; ++c)
          for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t row = y + tap / 3 - 1, column = z + tap % 3 - 1;
            if (row < 0 || row >= height || column < 0 || column >= width)
              continue;
            features[o][y * width + z] +=
                w.conv_weight[(o * members + c) * 9 + tap] *
                h[o / outputs * members + c][row * width + column];
          }
  if (w.excitation) {
    const ExcitationWeights& se = *w.excitation;
    std::vector<double> hidden(se.squeezed);
    for (int64_t s = 0; s < se.squeezed; ++s) {
      for (int64_t o = 0; o < w.growth_rate; ++o)
        for (double value : features[o])
          hidden[s] += se.squeeze[s * w.growth_rate + o] * value / pixels;
      hidden[s] = std::max(hidden[s], 0.0);
    }
    for (int64_t o = 0; o < w.growth_rate; ++o) {
      double sum = 0;
      for (int64_t s = 0; s < se.squeezed; ++s)
        sum += se.excite[o * se.squeezed + s] * hidden[s];
      for (double& value : features[o]) value /= 1 + std::exp(-sum);
    }
  }
  if (w.reactivation) {
    const ReactivationWeights& r = *w.reactivation;
    Map update(w.in_channels, std::vector<double>(pixels));
    const int64_t inputs = w.growth_rate / r.groups;
    for (int64_t i = 0; i < r.groups * r.kept; ++i)
      for (int64_t e = 0; e < inputs; ++e)
        for (int64_t p = 0; p < pixels; ++p) {
          const int64_t c = e * r.groups + i / r.kept;
          const double raw = features[c][p];
          const double input =
              r.norm_first ? activate(r.act, layer.sfr_norm(raw, c)) : raw;
          update[r.index[i]][p] += r.weight[i * inputs + e] * input;
        }
    for (int64_t c = 0; c < w.in_channels; ++c)
      for (int64_t p = 0; p < pixels; ++p)
        x[c][p] += r.norm_first
                       ? update[c][p]
                       : activate(r.act, layer.sfr_norm(update[c][p], c));
  }
  x.insert(x.end(), features.begin(), features.end());
}

std::vector<OwnedLayer> random_layers(Random& random, int64_t groups,
                                      int64_t channels, int64_t depth) {
  const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 12, 16, 24, 32};
  const auto size = [&] { return sizes[random.integer(0, 9)]; };
  std::vector<OwnedLayer> owned;
  owned.reserve(depth);
  for (int64_t i = 0; i < depth; ++i) {
    DenseLayerWeights w = {};
    w.in_channels = channels;
    w.groups = groups;
    w.growth_rate = groups * size();
    w.width = groups * size();
    w.lgc.in_channels = channels;
    w.lgc.out_channels = w.width;
    w.lgc.groups = groups;
    w.lgc.kept = random.integer(1, channels);
    w.lgc.act_before = static_cast<Act>(random.integer(0, 2));
    w.lgc.act_after = static_cast<Act>(random.integer(0, 2));
    if (random.integer(0, 1)) {
      ExcitationWeights& se = w.excitation.emplace();
      se.channels = w.growth_rate;
      se.squeezed = random.integer(1, 40);
    }
    if (random.integer(0, 2)) {
      ReactivationWeights& r = w.reactivation.emplace();
      r.in_channels = w.growth_rate;
      r.out_channels = channels;
      r.groups = groups;
      r.kept = random.integer(1, channels);
      r.norm_first = random.integer(0, 1);
      r.act = static_cast<Act>(random.integer(0, 2));
    }
    owned.emplace_back(random, w);
    channels += w.growth_rate;
  }
  return owned;
}

int64_t new_channels(const std::vector<OwnedLayer>& owned) {
  int64_t count = 0;
  for (const OwnedLayer& layer : owned) count += layer.weights.growth_rate;
  return count;
}

std::vector<DenseLayerWeights> weights_of(
    const std::vector<OwnedLayer>& owned) {
  std::vector<DenseLayerWeights> weights;
  for (const OwnedLayer& layer : owned) weights.push_back(layer.weights);
  return weights;
}

// Largest difference from the plain implementation, relative to its largest
// value.
double difference(Random& random, const Kernels& kernels, std::string& what) {
  const int64_t groups = random.integer(1, 4);
  const int64_t in_channels = random.integer(1, 40);
  const int64_t count = random.integer(1, 3);
  const int64_t threads = random.integer(1, 4);
  const bool pool = random.integer(0, 1);
  // Sometimes an image with more than one strip.
  const bool large = random.integer(0, 9) == 0;
  const int64_t height = random.integer(pool ? 2 : 1, large ? 200 : 24);
  const int64_t width = random.integer(pool ? 2 : 1, large ? 200 : 24);
  const int64_t depth = random.integer(1, large ? 1 : 3);

  const std::vector<OwnedLayer> owned =
      random_layers(random, groups, in_channels, depth);
  const int64_t channels = in_channels + new_channels(owned);
  const OwnedNorm out_norm(random, channels);
  const bool has_out_norm = random.integer(0, 1);
  const std::vector<float> x =
      random.floats(count * in_channels * height * width, -1, 1);

  std::optional<Norm> norm;
  if (has_out_norm) norm = out_norm.norm();
  const DenseBlock block(kernels, weights_of(owned), in_channels, norm);
  const int64_t out_height = pool ? height / 2 : height;
  const int64_t out_width = pool ? width / 2 : width;
  const int64_t pixels = out_height * out_width;
  std::vector<float> out(count * channels * pixels);
  const Parallel parallel = real_threads(threads);
  block.run(x.data(), count, height, width, pool, out.data(), parallel);

  double largest = 0, worst = 0;
  for (int64_t n = 0; n < count; ++n) {
    Map map(in_channels, std::vector<double>(pixels));
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t p = 0; p < pixels; ++p) {
        const float* image = x.data() + (n * in_channels + c) * height * width;
        const int64_t y = p / out_width, z = p % out_width;
        map[c][p] = pool ? (double(image[2 * y * width + 2 * z]) +
                            image[2 * y * width + 2 * z + 1] +
                            image[(2 * y + 1) * width + 2 * z] +
                            image[(2 * y + 1) * width + 2 * z + 1]) /
                               4
                         : image[p];
      }
    for (const OwnedLayer& layer : owned)
      apply(layer, map, out_height, out_width);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < pixels; ++p) {
        const double expected =
            has_out_norm ? std::max(out_norm(map[c][p], c), 0.0) : map[c][p];
        const double actual = out[(n * channels + c) * pixels + p];
        largest = std::max(largest, std::abs(expected));
        // Not std::max, which would drop NaN.
        const double error = std::abs(expected - actual);
        if (!(error <= worst)) worst = error;
      }
  }
  what = std::to_string(count) + "x" + std::to_string(in_channels) + "x" +
         std::to_string(height) + "x" + std::to_string(width) + ", " +
         std::to_string(depth) + " layers of " + std::to_string(groups) +
         " groups, " + std::to_string(threads) + " threads";
  return worst / std::max(largest, 1e-30);
}

double group_conv_difference(Random& random, const Kernels& kernels,
                             std::string& what) {
  const int64_t count = random.integer(1, 3), threads = random.integer(1, 4);
  const int64_t pixels = random.integer(1, random.integer(0, 9) ? 300 : 3000);
  LearnedGroupConvWeights w = {};
  w.groups = random.integer(1, 8);
  w.in_channels = random.integer(1, 200);
  w.out_channels = w.groups * random.integer(1, 20);
  w.kept = random.integer(1, w.in_channels);
  w.act_before = static_cast<Act>(random.integer(0, 2));
  w.act_after = static_cast<Act>(random.integer(0, 2));
  const std::vector<float> weight =
      random.floats(w.out_channels * w.kept, -0.3f, 0.3f);
  const std::vector<int64_t> index =
      random.index(w.groups, w.kept, w.in_channels);
  w.weight = weight.data();
  w.index = index.data();
  const OwnedNorm before(random, w.in_channels), after(random, w.out_channels);
  const bool has_before = random.integer(0, 1),
             has_after = random.integer(0, 1);
  if (has_before) w.norm_before = before.norm();
  if (has_after) w.norm_after = after.norm();
  const std::vector<float> x =
      random.floats(count * w.in_channels * pixels, -1, 1);
  std::vector<float> out(count * w.out_channels * pixels);
  const LearnedGroupConv conv(kernels, w);
  conv.run(x.data(), count, pixels, out.data(), real_threads(threads));

  double largest = 0, worst = 0;
  for (int64_t n = 0; n < count; ++n) {
    Map map(w.in_channels, std::vector<double>(pixels));
    for (int64_t c = 0; c < w.in_channels; ++c)
      for (int64_t p = 0; p < pixels; ++p)
        map[c][p] = x[(n * w.in_channels + c) * pixels + p];
    const Map expected = convolve(w, has_before ? &before : nullptr,
                                  has_after ? &after : nullptr, map, pixels);
    for (int64_t c = 0; c < w.out_channels; ++c)
      for (int64_t p = 0; p < pixels; ++p) {
        const double actual = out[(n * w.out_channels + c) * pixels + p];
        largest = std::max(largest, std::abs(expected[c][p]));
        const double error = std::abs(expected[c][p] - actual);
        if (!(error <= worst)) worst = error;
      }
  }
  what = "LGC of " + std::to_string(count) + "x" +
         std::to_string(w.in_channels) + "x" + std::to_string(pixels) + ", " +
         std::to_string(w.groups) + " groups of " + std::to_string(w.kept) +
         ", " + std::to_string(threads) + " threads";
  return worst / std::max(largest, 1e-30);
}

double stem_difference(Random& random, const Kernels& kernels,
                       std::string& what) {
  const int64_t count = random.integer(1, 3), threads = random.integer(1, 4);
  const int64_t inputs = random.integer(1, 4), outputs = random.integer(1, 40);
  const int64_t height = random.integer(1, 40), width = random.integer(1, 80);
  const int64_t rows = Stem::halved(height), columns = Stem::halved(width);
  const std::vector<float> x =
      random.floats(count * inputs * height * width, -1, 1);
  const std::vector<float> weight = random.floats(outputs * inputs * 9, -1, 1);
  const OwnedNorm norm(random, outputs);
  const bool has_norm = random.integer(0, 1);
  std::optional<Norm> raw;
  if (has_norm) raw = norm.norm();
  const Stem stem(kernels, weight.data(), inputs, outputs, raw);
  std::vector<float> out(count * outputs * rows * columns);
  stem.run(x.data(), count, height, width, out.data(), real_threads(threads));

  double largest = 0, worst = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
    const int64_t z = i % columns, y = i / columns % rows;
    const int64_t o = i / columns / rows % outputs;
    const int64_t n = i / columns / rows / outputs;
    double sum = 0;
    for (int64_t c = 0; c < inputs; ++c)
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t row = 2 * y + tap / 3 - 1, column = 2 * z + tap % 3 - 1;
        if (row < 0 || row >= height || column < 0 || column >= width) continue;
        sum += weight[(o * inputs + c) * 9 + tap] *
               x[((n * inputs + c) * height + row) * width + column];
      }
    const double expected = has_norm ? norm(sum, o) : sum;
    largest = std::max(largest, std::abs(expected));
    const double error = std::abs(expected - out[i]);
    if (!(error <= worst)) worst = error;
  }
  what = "stem, " + std::to_string(count) + "x" + std::to_string(inputs) + "x" +
         std::to_string(height) + "x" + std::to_string(width) + " to " +
         std::to_string(outputs) + " channels";
  return worst / std::max(largest, 1e-30);
}

// Winograd's convolution of some rows and groups, called directly, because
// blocks call it only where it is faster. Memory that it must not read is NaN,
// memory that it must not write must not change.
double winograd_difference(Random& random, const Kernels& kernels,
                           std::string& what) {
  const int64_t sizes[] = {1, 2, 3, 5, 8, 12, 16, 20};
  const int64_t groups = random.integer(1, 3);
  const int64_t inputs = random.integer(1, 40);
  const int64_t members = sizes[random.integer(0, 7)];
  // Sometimes a map that is split into bands.
  const bool large = random.integer(0, 9) == 0;
  const bool thin = random.integer(0, 3) == 0, upright = random.integer(0, 1);
  const int64_t height =
      thin && !upright ? 1 : random.integer(1, large ? 150 : 24);
  const int64_t width =
      thin && upright ? 1 : random.integer(1, large ? 150 : 40);
  const int64_t pixels = height * width, padded = round_up(pixels);
  const int64_t begin = 2 * random.integer(0, (height - 1) / 2);
  const int64_t end =
      std::min(height, begin + 2 * random.integer(1, (height + 1) / 2));
  const int64_t first = random.integer(0, groups - 1);
  const int64_t last = random.integer(first + 1, groups);
  const float scales[] = {1e-30f, 1, 1e30f};
  const float scale = scales[random.integer(0, 2)];
  const float missing = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const float untouched = 12345;

  const int64_t top = std::max<int64_t>(begin - 1, 0);
  const int64_t bottom = std::min(end + 1, height);
  const int64_t stride = (bottom - top) * width + kAlign;
  std::vector<float> h(groups * inputs * stride, missing);
  for (int64_t c = first * inputs; c < last * inputs; ++c) {
    const std::vector<float> row =
        random.floats((bottom - top) * width, -scale, scale);
    std::copy(row.begin(), row.end(), h.begin() + c * stride);
  }
  // Outputs of other tiles may not see an infinite input.
  const int64_t spot = random.integer(0, 3) == 0
                           ? random.integer(top * width, bottom * width - 1)
                           : -1;
  if (spot >= 0)
    h[random.integer(first, last - 1) * inputs * stride + spot - top * width] =
        infinity;
  const std::vector<float> filters =
      random.floats(groups * members * inputs * 9, -0.3f, 0.3f);
  const std::vector<float> packed =
      pack_winograd(filters.data(), groups, inputs, members, kernels.max_block);
  const WinogradConv3x3 conv = {groups, inputs, members, packed.data()};
  std::vector<float> out(groups * members * padded, untouched);
  std::vector<float> scratch(kernels.winograd_scratch(conv, width, end - begin),
                             missing);
  kernels.winograd_conv3x3(conv, height, width, {h.data(), stride, top * width},
                           {out.data(), padded, 0}, {begin, end}, {first, last},
                           scratch.data());

  double largest = 0, worst = 0;
  for (int64_t o = 0; o < groups * members; ++o)
    for (int64_t p = 0; p < padded; ++p) {
      const float actual = out[o * padded + p];
      const int64_t group = o / members, y = p / width, z = p % width;
      if (group < first || group >= last || y < begin ||
          (y >= end && (p < pixels || end < height))) {
        if (actual != untouched) worst = infinity;
        continue;
      }
      double sum = 0;
      bool mixed = false;
      for (int64_t c = 0; c < inputs && p < pixels; ++c)
        for (int64_t row = y / 2 * 2 - 1; row <= y / 2 * 2 + 2; ++row)
          for (int64_t column = z / 2 * 2 - 1; column <= z / 2 * 2 + 2;
               ++column) {
            if (row < 0 || row >= height || column < 0 || column >= width)
              continue;
            const float value =
                h[(group * inputs + c) * stride + (row - top) * width + column];
            const int64_t tap = (row - y + 1) * 3 + column - z + 1;
            if (std::abs(row - y) <= 1 && std::abs(column - z) <= 1)
              sum += filters[(o * inputs + c) * 9 + tap] * double(value);
            else
              mixed = mixed || value == infinity;
          }
      if (!std::isfinite(sum)) {
        if (std::isfinite(actual)) worst = infinity;
      } else if (!mixed) {
        largest = std::max(largest, std::abs(sum));
        const double error = std::abs(sum - actual);
        if (!(error <= worst)) worst = error;
      }
    }
  what = "Winograd, rows " + std::to_string(begin) + " to " +
         std::to_string(end) + " of " + std::to_string(height) + "x" +
         std::to_string(width) + ", groups " + std::to_string(first) + " to " +
         std::to_string(last) + " of " + std::to_string(inputs) + " to " +
         std::to_string(members);
  return worst / std::max(largest, 1e-30 * scale);
}

// Largest difference between a backbone and its parts run one by one, relative
// to the largest value.
double backbone_difference(Random& random, const Kernels& kernels,
                           std::string& what) {
  const int64_t groups = random.integer(1, 2);
  const int64_t count = random.integer(1, 2), threads = random.integer(1, 4);
  const int64_t height = random.integer(8, 90), width = random.integer(8, 90);
  // In most cases the first block can run in bands of rows.
  const bool in_bands = random.integer(0, 3);
  const int64_t depth = random.integer(in_bands ? 2 : 1, 3);
  const std::vector<float> stem_weight = random.floats(5 * 3 * 9, -1, 1);
  const OwnedNorm stem_norm(random, 5);
  std::vector<std::vector<OwnedLayer>> owned;
  std::vector<OwnedNorm> norms;
  std::vector<DenseBlock> blocks;
  std::vector<bool> pools;
  int64_t channels = 5;
  for (int64_t b = 0; b < depth; ++b) {
    owned.push_back(random_layers(random, groups, channels, b ? 1 : 2));
    if (in_bands && b == 0)
      for (OwnedLayer& layer : owned[0]) layer.weights.excitation.reset();
    const int64_t in_channels = channels;
    channels += new_channels(owned.back());
    norms.emplace_back(random, channels);
    std::optional<Norm> norm;
    if (b == depth - 1 && random.integer(0, 1)) norm = norms.back().norm();
    blocks.emplace_back(kernels, weights_of(owned.back()), in_channels, norm);
    pools.push_back(b == 1 ? in_bands : b && random.integer(0, 1));
  }
  const auto make_stem = [&] {
    return Stem(kernels, stem_weight.data(), 3, 5, stem_norm.norm());
  };
  const Backbone backbone(kernels, make_stem(), std::move(blocks), pools);
  const std::vector<float> x = random.floats(count * 3 * height * width, -1, 1);
  const auto sizes = backbone.sizes(height, width);
  std::vector<std::vector<float>> outs(depth);
  std::vector<float*> targets(depth, nullptr);
  for (int64_t b = 0; b < depth; ++b) {
    if (b + 1 < depth && (b == 0 ? in_bands : random.integer(0, 1))) continue;
    outs[b].resize(count * backbone.blocks()[b].out_channels * sizes[b].height *
                   sizes[b].width);
    targets[b] = outs[b].data();
  }
  backbone.run(x.data(), count, height, width, targets, real_threads(threads));

  double largest = 0, worst = 0;
  int64_t rows = Stem::halved(height), columns = Stem::halved(width);
  std::vector<float> map(count * 5 * rows * columns);
  make_stem().run(x.data(), count, height, width, map.data(),
                  Parallel::serial());
  for (int64_t b = 0; b < depth; ++b) {
    const DenseBlock& block = backbone.blocks()[b];
    std::vector<float> next(count * block.out_channels * sizes[b].height *
                            sizes[b].width);
    block.run(map.data(), count, rows, columns, pools[b], next.data(),
              Parallel::serial());
    map = std::move(next);
    rows = sizes[b].height;
    columns = sizes[b].width;
    for (size_t i = 0; i < outs[b].size(); ++i) {
      largest = std::max<double>(largest, std::abs(map[i]));
      const double error = std::abs(double(map[i]) - outs[b][i]);
      if (!(error <= worst)) worst = error;
    }
  }
  what = "backbone of " + std::to_string(depth) + " blocks, " +
         std::to_string(count) + "x3x" + std::to_string(height) + "x" +
         std::to_string(width) + ", " + std::to_string(threads) + " threads";
  return worst / std::max(largest, 1e-30);
}

// Threads that call one backbone concurrently, with memory from the shared
// pool. Returns whether all get the output of a single thread.
bool can_share(const Kernels& kernels) {
  Random random{std::mt19937(0)};
  const std::vector<float> stem_weight = random.floats(8 * 3 * 9, -1, 1);
  std::vector<std::vector<OwnedLayer>> owned;
  std::vector<DenseBlock> blocks;
  int64_t channels = 8;
  for (int64_t b = 0; b < 2; ++b) {
    owned.push_back(random_layers(random, 2, channels, 2));
    blocks.emplace_back(kernels, weights_of(owned.back()), channels,
                        std::nullopt);
    channels += new_channels(owned.back());
  }
  const Backbone backbone(kernels,
                          Stem(kernels, stem_weight.data(), 3, 8, std::nullopt),
                          std::move(blocks), {false, true});
  const int64_t height = 160, width = 208, count = 3;
  const auto sizes = backbone.sizes(height, width);
  const int64_t size =
      backbone.blocks()[1].out_channels * sizes[1].height * sizes[1].width;
  const std::vector<float> x = random.floats(count * 3 * height * width, -1, 1);
  const auto run = [&](int64_t i, const Parallel& parallel) {
    // At least as large as the smallest piece of the pool.
    const Buffer out(std::max<int64_t>(size, MemoryPool::kSmallest));
    backbone.run(x.data() + i * 3 * height * width, 1, height, width,
                 {nullptr, out.get()}, parallel);
    return std::vector<float>(out.get(), out.get() + size);
  };
  std::vector<std::vector<float>> expected;
  for (int64_t i = 0; i < count; ++i)
    expected.push_back(run(i, Parallel::serial()));
  std::atomic<bool> same(true);
  real_threads(4).run(4, [&](int64_t thread) {
    for (int64_t i = 0; i < 6; ++i) {
      const int64_t image = (thread + i) % count;
      // With threads of its own, which sum in another order.
      const bool alone = i % 2 == 0;
      const auto out = run(image, alone ? Parallel::serial() : real_threads(2));
      for (int64_t p = 0; p < size; ++p) {
        const float wanted = expected[image][p];
        const float most = alone ? 0 : 1e-3f * (1 + std::abs(wanted));
        if (!(std::abs(out[p] - wanted) <= most)) same = false;
      }
    }
  });
  return same;
}

// Forks while other threads use the memory pool. Returns whether all children
// can use it, too.
bool can_fork() {
  std::atomic<bool> stop(false);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!stop) const Buffer buffer(1 << 20);
    });
  bool can = true;
  for (int i = 0; i < 200 && can; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(300);  // of a child that hangs
      {
        const Buffer buffer(1 << 20);
      }
      _exit(0);
    }
    int status = 1;
    can = child > 0 && waitpid(child, &status, 0) == child && status == 0;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  return can;
}

}  // namespace

int main(int argc, char** argv) {
  const int blocks = argc > 1 ? std::atoi(argv[1]) : 200;
  for (const Kernels* kernels : supported_kernels()) {
    double worst = 0;
    for (int seed = 0; seed < blocks; ++seed) {
      Random random{std::mt19937(seed)};
      std::string what;
      // Maps of many strips and of one.
      cached_floats = seed % 2 ? 1 << 18 : 1 << seed % 16;
      const auto& differ = seed % 6 == 0   ? stem_difference
                           : seed % 6 == 1 ? group_conv_difference
                           : seed % 6 == 2 ? winograd_difference
                           : seed % 6 == 3 ? backbone_difference
                                           : difference;
      const double error = differ(random, *kernels, what);
      if (!(error < 1e-5)) {
        std::printf("%s: block %d (%s) is off by %.1e\n", kernels->name, seed,
                    what.c_str(), error);
        return 1;
      }
      worst = std::max(worst, error);
    }
    std::printf("%s: %d random blocks, largest relative difference %.1e\n",
                kernels->name, blocks, worst);
    if (!can_share(*kernels)) {
      std::printf("%s: threads disturb each other\n", kernels->name);
      return 1;
    }
  }
#ifndef __SANITIZE_THREAD__  // not supported in a forked child
  if (!can_fork()) {
    std::printf("a forked process cannot go on\n");
    return 1;
  }
#endif
}
