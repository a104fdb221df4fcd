// The arguments of an operator besides its inputs, and their reader.
//
// The Python modules collect the arguments in the order of this table, the one
// place that states it. `spec` holds what a module is, `params` its tensors,
// `eps` that of each norm. A part's own rows replace its name.
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
//
// What tells the shape of an operator's output has a name in its schema, so
// that the implementations for fake tensors need none of this.

#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "core/dense_layer.hpp"
#include "core/excitation.hpp"
#include "core/learned_group_conv.hpp"
#include "core/packing.hpp"
#include "core/reactivation.hpp"

// Only for operators.cpp. Unnamed, so that what runs before each call is
// inlined.
namespace mmcdnv2 {
namespace {

// Hands out the arguments one after the other, checked.
class ArgumentReader {
 public:
  ArgumentReader(at::TensorList params, at::IntArrayRef spec,
                 at::ArrayRef<double> eps)
      : params_(params), spec_(spec), eps_(eps) {}

  const at::Tensor& tensor(at::ScalarType type = at::kFloat) {
    TORCH_CHECK(param_ < params_.size(), "mmcdnv2: too few parameters");
    const at::Tensor& tensor = params_[param_++];
    TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == type,
                "mmcdnv2: parameter ", param_ - 1, " must be ", type,
                " on the CPU");
    // A network may be laid out channels last.
    contiguous_.push_back(tensor.contiguous());
    return contiguous_.back();
  }

  const float* floats(int64_t count) {
    const at::Tensor& found = tensor();
    TORCH_CHECK(found.numel() == count, "mmcdnv2: parameter ", param_ - 1,
                " must have ", count, " elements, has ", found.numel());
    return found.data_ptr<float>();
  }

  const int64_t* index(int64_t count, int64_t channels) {
    const at::Tensor& found = tensor(at::kLong);
    TORCH_CHECK(found.numel() == count, "mmcdnv2: an index must have ", count,
                " elements, has ", found.numel());
    const int64_t* values = found.data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i)
      TORCH_CHECK_INDEX(values[i] >= 0 && values[i] < channels,
                        "mmcdnv2: index ", values[i], " of ", channels,
                        " channels");
    return values;
  }

  Norm norm(int64_t channels) {
    Norm norm = {};
    norm.weight = floats(channels);
    norm.bias = floats(channels);
    norm.mean = floats(channels);
    norm.var = floats(channels);
    TORCH_CHECK(norm_ < eps_.size(), "mmcdnv2: too few eps");
    norm.eps = eps_[norm_++];
    return norm;
  }

  int64_t number() {
    TORCH_CHECK(number_ < spec_.size(), "mmcdnv2: the spec is too short");
    return spec_[number_++];
  }

  Act act() {
    const int64_t value = number();
    TORCH_CHECK(value >= 0 && value <= 2, "mmcdnv2: unknown activation ",
                value);
    return static_cast<Act>(value);
  }

  bool more() const { return number_ < spec_.size(); }

  ReactivationWeights reactivation(int64_t in_channels, int64_t out_channels) {
    ReactivationWeights w = {};
    w.in_channels = in_channels;
    w.out_channels = out_channels;
    w.groups = number();
    w.norm_first = number();
    w.act = act();
    TORCH_CHECK(w.groups > 0 && in_channels % w.groups == 0,
                "mmcdnv2: groups must divide ", in_channels);
    w.norm = norm(w.norm_first ? in_channels : out_channels);
    const at::Tensor& weight = tensor();
    TORCH_CHECK(weight.dim() == 4 && weight.size(0) % w.groups == 0 &&
                    weight.size(1) == in_channels / w.groups,
                "mmcdnv2: SFR's weight does not fit");
    w.kept = weight.size(0) / w.groups;
    w.weight = weight.data_ptr<float>();
    w.index = index(w.groups * w.kept, out_channels);
    return w;
  }

  ExcitationWeights excitation(int64_t channels) {
    ExcitationWeights w = {};
    w.channels = channels;
    const at::Tensor& squeeze = tensor();
    w.squeezed = squeeze.size(0);
    TORCH_CHECK(squeeze.numel() == w.squeezed * channels,
                "mmcdnv2: the squeeze does not fit");
    w.squeeze = squeeze.data_ptr<float>();
    w.excite = floats(w.squeezed * channels);
    return w;
  }

  LearnedGroupConvWeights learned_group_conv(int64_t in_channels) {
    LearnedGroupConvWeights w = {};
    w.groups = number();
    const bool norm_first = number();
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
    const bool has_excitation = number();
    const bool has_reactivation = number();
    w.lgc.groups = w.groups;
    w.lgc.norm_before = norm(in_channels);
    w.lgc.act_before = lgc_act;
    read_lgc(w.lgc, in_channels);
    w.width = w.lgc.out_channels;
    w.lgc.norm_after = norm(w.width);
    w.lgc.act_after = conv_act;
    const at::Tensor& conv = tensor();
    TORCH_CHECK(conv.dim() == 4 && conv.size(0) % w.groups == 0 &&
                    conv.size(1) == w.width / w.groups && conv.size(2) == 3 &&
                    conv.size(3) == 3,
                "mmcdnv2: the 3x3 convolution's weight does not fit");
    w.growth_rate = conv.size(0);
    w.conv_weight = conv.data_ptr<float>();
    if (has_excitation) w.excitation = excitation(w.growth_rate);
    if (has_reactivation)
      w.reactivation = reactivation(w.growth_rate, in_channels);
    return w;
  }

 private:
  // Weight and index of an LGC whose groups are known.
  void read_lgc(LearnedGroupConvWeights& w, int64_t in_channels) {
    const at::Tensor& weight = tensor();
    TORCH_CHECK(
        weight.dim() == 4 && w.groups > 0 && weight.size(0) % w.groups == 0,
        "mmcdnv2: LGC's weight does not fit");
    w.in_channels = in_channels;
    w.out_channels = weight.size(0);
    w.kept = weight.size(1);
    w.weight = weight.data_ptr<float>();
    w.index = index(w.groups * w.kept, in_channels);
  }

  at::TensorList params_;
  std::deque<at::Tensor> contiguous_;
  at::IntArrayRef spec_;
  at::ArrayRef<double> eps_;
  size_t param_ = 0, number_ = 0, norm_ = 0;
};

}  // namespace
}  // namespace mmcdnv2
