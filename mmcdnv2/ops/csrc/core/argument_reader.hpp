// The arguments of an operator after its inputs, and their reader.
//
// The Python modules collect the arguments in the order of this table. `spec`
// describes the modules, `params` are their tensors, `eps` those of the norms.
// The name of a part stands for its rows.
//
//                 spec                          params, eps
//   activation    0 none, 1 ReLU, 2 hard-swish
//   norm                                        weight, bias, mean, var; eps
//   excitation                                  squeeze's weight, excite's
//   reactivation  groups, norm comes first,     norm, weight, index
//                 activation
//   group_conv    groups, norm comes first,     norm, weight, index, or weight,
//                 activation                    index, norm
//   layer         groups, activation of LGC,    norm of LGC, its weight, its
//                 activation of the 3x3         index, norm of the 3x3
//                 convolution, has excitation,  convolution, its weight,
//                 has reactivation,             excitation if any,
//                 reactivation if any           reactivation if any
//
//   dense_block   has an output norm, layers    layers, output norm if any
//   reactivate    reactivation                  reactivation
//   learned_group_conv
//                 group_conv                    group_conv
//   pool_excite                                 excitation
//   stem          has a norm                    weight, norm if any
//   backbone      stem, and for each block:     stem, and for each block:
//                 pools its input, number of    layers, output norm if any
//                 layers, has an output norm,
//                 layers
//
// Arguments that determine the output's shape have names in the operator's
// schema, so that shape inference does not depend on this table.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/backbone.hpp"
#include "core/dense_block.hpp"
#include "core/dense_layer.hpp"
#include "core/excitation.hpp"
#include "core/learned_group_conv.hpp"
#include "core/packing.hpp"
#include "core/reactivation.hpp"
#include "core/stem.hpp"

namespace mmcdnv2 {

inline void append(std::string& text, const std::string& part) { text += part; }
inline void append(std::string& text, int64_t part) {
  text += std::to_string(part);
}

// Throws an Error with the parts as message if `condition` is false.
template <class Error = std::invalid_argument, class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::string text;
  (append(text, parts), ...);
  throw Error(text);
}

enum class ElementType { kFloat, kInt64, kOther };

// Number of elements of a tensor.
inline int64_t product(const std::vector<int64_t>& dims) {
  int64_t size = 1;
  bool fits = true;
  for (const int64_t dim : dims) {
    if (dim == 0) return 0;
    fits = fits && !__builtin_mul_overflow(size, dim, &size);
  }
  // The number of bytes must fit, too.
  check(fits && size <= INT64_MAX / 8, "a tensor is too large");
  return size;
}

// A contiguous tensor of the backend.
struct TensorView {
  const void* data;
  ElementType type;
  std::vector<int64_t> dims;

  int64_t size() const { return product(dims); }
};

// An operator's arguments after its inputs.
struct Arguments {
  std::vector<TensorView> params;
  std::vector<int64_t> spec;
  std::vector<double> eps;
};

// Reads the arguments one by one and checks them.
//
// They may come from an untrusted file: all assumptions of the packing and the
// kernels are checked here. Throws std::invalid_argument, or std::out_of_range
// for an invalid channel index.
class ArgumentReader {
 public:
  explicit ArgumentReader(const Arguments& arguments) : from_(arguments) {}

  // Number of elements of the next parameter.
  int64_t next_size() const {
    check(param_ < from_.params.size(), "too few parameters");
    return from_.params[param_].size();
  }

  Norm norm(int64_t channels) {
    Norm norm = {};
    norm.weight = floats(channels);
    norm.bias = floats(channels);
    norm.mean = floats(channels);
    norm.var = floats(channels);
    check(norm_ < from_.eps.size(), "too few eps");
    norm.eps = from_.eps[norm_++];
    return norm;
  }

  // A convolution's weight, shape (outputs, inputs, size, size).
  const TensorView& conv(int64_t size, const char* what) {
    const TensorView& weight = tensor(ElementType::kFloat);
    check(weight.dims.size() == 4 && weight.dims[0] > 0 && weight.dims[1] > 0 &&
              weight.dims[2] == size && weight.dims[3] == size,
          what, "'s weight does not fit");
    return weight;
  }

  bool flag() {
    const int64_t value = number();
    check(value == 0 || value == 1, "0 or 1 was expected in the spec, got ",
          value);
    return value;
  }

  bool more() const { return number_ < from_.spec.size(); }

  ReactivationWeights reactivation(int64_t in_channels, int64_t out_channels) {
    ReactivationWeights w = {};
    w.in_channels = in_channels;
    w.out_channels = out_channels;
    w.groups = number();
    w.norm_first = flag();
    w.act = act();
    check(w.groups > 0 && in_channels % w.groups == 0, "groups must divide ",
          in_channels);
    w.norm = norm(w.norm_first ? in_channels : out_channels);
    const TensorView& weight = conv(1, "SFR");
    check(weight.dims[0] % w.groups == 0 &&
              weight.dims[1] == in_channels / w.groups,
          "SFR's weight does not fit");
    w.kept = weight.dims[0] / w.groups;
    w.weight = static_cast<const float*>(weight.data);
    w.index = index(w.groups * w.kept, out_channels);
    return w;
  }

  ExcitationWeights excitation() {
    ExcitationWeights w = {};
    const TensorView& squeeze = conv(1, "the squeeze");
    w.squeezed = squeeze.dims[0];
    w.channels = squeeze.dims[1];
    w.squeeze = static_cast<const float*>(squeeze.data);
    w.excite = floats(w.squeezed * w.channels);
    return w;
  }

  LearnedGroupConvWeights learned_group_conv(int64_t in_channels) {
    LearnedGroupConvWeights w = {};
    w.groups = number();
    const bool norm_first = flag();
    const Act activation = act();
    if (norm_first) w.norm_before = norm(in_channels);
    read_lgc(w, in_channels);
    if (!norm_first) w.norm_after = norm(w.out_channels);
    (norm_first ? w.act_before : w.act_after) = activation;
    return w;
  }

  DenseLayerWeights layer(int64_t in_channels) {
    DenseLayerWeights w = {};
    w.in_channels = in_channels;
    w.groups = number();
    const Act lgc_act = act();
    const Act conv_act = act();
    const bool has_excitation = flag();
    const bool has_reactivation = flag();
    w.lgc.groups = w.groups;
    w.lgc.norm_before = norm(in_channels);
    w.lgc.act_before = lgc_act;
    read_lgc(w.lgc, in_channels);
    w.width = w.lgc.out_channels;
    w.lgc.norm_after = norm(w.width);
    w.lgc.act_after = conv_act;
    const TensorView& weight = conv(3, "the 3x3 convolution");
    check(
        weight.dims[0] % w.groups == 0 && weight.dims[1] == w.width / w.groups,
        "the 3x3 convolution's weight does not fit");
    w.growth_rate = weight.dims[0];
    w.conv_weight = static_cast<const float*>(weight.data);
    if (has_excitation) {
      w.excitation = excitation();
      check(w.excitation->channels == w.growth_rate,
            "the squeeze's weight does not fit");
    }
    if (has_reactivation)
      w.reactivation = reactivation(w.growth_rate, in_channels);
    return w;
  }

  Stem stem(const Kernels& kernels) {
    const bool has_norm = flag();
    const TensorView& weight = conv(3, "the stem");
    std::optional<Norm> packed_norm;
    if (has_norm) packed_norm = norm(weight.dims[0]);
    return Stem(kernels, static_cast<const float*>(weight.data), weight.dims[1],
                weight.dims[0], packed_norm);
  }

  // Layers while `goes_on(number of layers so far)` is true, and an optional
  // norm.
  template <class F>
  DenseBlock block(const Kernels& kernels, int64_t in_channels,
                   bool has_out_norm, const F& goes_on) {
    std::vector<DenseLayerWeights> layers;
    int64_t channels = in_channels;
    while (goes_on(static_cast<int64_t>(layers.size()))) {
      layers.push_back(layer(channels));
      channels += layers.back().growth_rate;
    }
    std::optional<Norm> out_norm;
    if (has_out_norm) out_norm = norm(channels);
    return DenseBlock(kernels, layers, in_channels, out_norm);
  }

  int64_t number() {
    check(more(), "the spec is too short");
    return from_.spec[number_++];
  }

  // Checks that all arguments have been read.
  void finish() const {
    check(!more(), "the spec is too long");
    check(param_ == from_.params.size(), "too many parameters");
    check(norm_ == from_.eps.size(), "too many eps");
  }

 private:
  const TensorView& tensor(ElementType type) {
    check(param_ < from_.params.size(), "too few parameters");
    const TensorView& tensor = from_.params[param_++];
    check(tensor.type == type, "parameter ", param_ - 1, " must be ",
          type == ElementType::kFloat ? "float32" : "int64");
    return tensor;
  }

  const float* floats(int64_t count) {
    const TensorView& found = tensor(ElementType::kFloat);
    check(found.size() == count, "parameter ", param_ - 1, " must have ", count,
          " elements, has ", found.size());
    return static_cast<const float*>(found.data);
  }

  const int64_t* index(int64_t count, int64_t channels) {
    const TensorView& found = tensor(ElementType::kInt64);
    check(found.size() == count, "an index must have ", count,
          " elements, has ", found.size());
    // Indices are packed as 32 bits.
    check(channels <= INT32_MAX, channels, " channels are too many");
    const int64_t* values = static_cast<const int64_t*>(found.data);
    for (int64_t i = 0; i < count; ++i)
      check<std::out_of_range>(values[i] >= 0 && values[i] < channels, "index ",
                               values[i], " of ", channels, " channels");
    return values;
  }

  Act act() {
    const int64_t value = number();
    check(value >= 0 && value <= 2, "unknown activation ", value);
    return static_cast<Act>(value);
  }

  // Weight and index of an LGC whose `groups` is set.
  void read_lgc(LearnedGroupConvWeights& w, int64_t in_channels) {
    const TensorView& weight = conv(1, "LGC");
    check(w.groups > 0 && weight.dims[0] % w.groups == 0,
          "LGC's weight does not fit");
    w.in_channels = in_channels;
    w.out_channels = weight.dims[0];
    w.kept = weight.dims[1];
    w.weight = static_cast<const float*>(weight.data);
    w.index = index(w.groups * w.kept, in_channels);
  }

  const Arguments& from_;
  size_t param_ = 0, number_ = 0, norm_ = 0;
};

// Functions that read and pack operators. An operator or block is read
// completely before it is packed.

inline DenseBlock read_dense_block(const Kernels& kernels,
                                   const Arguments& arguments) {
  ArgumentReader reader(arguments);
  const bool has_out_norm = reader.flag();
  // Every block begins with a norm of all inputs.
  DenseBlock block = reader.block(kernels, reader.next_size(), has_out_norm,
                                  [&](int64_t) { return reader.more(); });
  reader.finish();
  return block;
}

inline Backbone read_backbone(const Kernels& kernels,
                              const Arguments& arguments) {
  ArgumentReader reader(arguments);
  Stem stem = reader.stem(kernels);
  std::vector<DenseBlock> blocks;
  std::vector<bool> pools;
  int64_t channels = stem.out_channels;
  while (reader.more()) {
    pools.push_back(reader.flag());
    const int64_t depth = reader.number();
    check(depth > 0, "a block has no layers");
    const bool has_out_norm = reader.flag();
    blocks.push_back(
        reader.block(kernels, channels, has_out_norm,
                     [&](int64_t layers) { return layers < depth; }));
    channels = blocks.back().out_channels;
  }
  reader.finish();
  check(!pools.empty() && !pools[0], "the first block may not pool its input");
  return Backbone(kernels, std::move(stem), std::move(blocks), pools);
}

inline Reactivation read_reactivation(const Kernels& kernels,
                                      const Arguments& arguments,
                                      int64_t in_channels,
                                      int64_t out_channels) {
  ArgumentReader reader(arguments);
  const ReactivationWeights weights =
      reader.reactivation(in_channels, out_channels);
  reader.finish();
  return Reactivation(kernels, weights);
}

inline LearnedGroupConv read_learned_group_conv(const Kernels& kernels,
                                                const Arguments& arguments,
                                                int64_t in_channels) {
  ArgumentReader reader(arguments);
  const LearnedGroupConvWeights weights =
      reader.learned_group_conv(in_channels);
  reader.finish();
  return LearnedGroupConv(kernels, weights);
}

inline Excitation read_excitation(const Kernels& kernels,
                                  const Arguments& arguments) {
  ArgumentReader reader(arguments);
  const ExcitationWeights weights = reader.excitation();
  reader.finish();
  return Excitation(kernels, weights);
}

inline Stem read_stem(const Kernels& kernels, const Arguments& arguments) {
  ArgumentReader reader(arguments);
  Stem stem = reader.stem(kernels);
  reader.finish();
  return stem;
}

}  // namespace mmcdnv2
