// Makes the dense blocks known to PyTorch.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "dense_block.hpp"

namespace mmcdnv2 {
namespace {

std::atomic<const Kernels*>& chosen_kernels() {
  static std::atomic<const Kernels*> chosen(supported_kernels().front());
  return chosen;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels())
    names.emplace_back(kernels->name);
  return names;
}

void choose_kernels(const std::string& name) {
  for (const Kernels* kernels : supported_kernels()) {
    if (name == kernels->name) {
      chosen_kernels() = kernels;
      return;
    }
  }
  TORCH_CHECK(false, "This processor has no kernels called ", name,
              "; it has: ", kernel_names());
}

Parallel at_parallel() {
  if (at::in_parallel_region()) return Parallel::serial();
  return {at::get_num_threads(), [](int64_t count, const Parallel::Task& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i);
            });
          }};
}

// Hands out the parameters one after the other, checked.
class Reader {
 public:
  Reader(at::TensorList params, at::IntArrayRef spec, at::ArrayRef<double> eps)
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
    TORCH_CHECK(value >= 0 && value <= 2, "mmcdnv2: unknown activation ", value);
    return static_cast<Act>(value);
  }

  bool more() const { return number_ < spec_.size(); }

  // Numbers: groups, whether the norm comes first, activation.
  ReactivationWeights reactivation(int64_t in_channels, int64_t out_channels) {
    ReactivationWeights w = {};
    w.in_channels = in_channels;
    w.out_channels = out_channels;
    w.groups = number();
    w.norm_first = number();
    w.act = act();
    if (w.groups == 0) return w;
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

  // Numbers: groups, activations of LGC and of the 3x3 convolution, whether
  // there is squeeze-and-excite, and the reactivation's.
  LayerWeights layer(int64_t in_channels) {
    LayerWeights w = {};
    w.in_channels = in_channels;
    w.groups = number();
    w.lgc_act = act();
    w.conv_act = act();
    const bool has_se = number();
    w.lgc_norm = norm(in_channels);
    const at::Tensor& lgc = tensor();
    TORCH_CHECK(lgc.dim() == 4 && w.groups > 0 && lgc.size(0) % w.groups == 0,
                "mmcdnv2: LGC's weight does not fit");
    w.width = lgc.size(0);
    w.lgc_kept = lgc.size(1);
    w.lgc_weight = lgc.data_ptr<float>();
    w.lgc_index = index(w.groups * w.lgc_kept, in_channels);
    w.conv_norm = norm(w.width);
    const at::Tensor& conv = tensor();
    TORCH_CHECK(conv.dim() == 4 && conv.size(0) % w.groups == 0 &&
                    conv.size(1) == w.width / w.groups && conv.size(2) == 3 &&
                    conv.size(3) == 3,
                "mmcdnv2: the 3x3 convolution's weight does not fit");
    w.growth_rate = conv.size(0);
    w.conv_weight = conv.data_ptr<float>();
    if (has_se) w.squeeze = excitation(w.growth_rate);
    w.sfr = reactivation(w.growth_rate, in_channels);
    return w;
  }

 private:
  at::TensorList params_;
  std::deque<at::Tensor> contiguous_;
  at::IntArrayRef spec_;
  at::ArrayRef<double> eps_;
  size_t param_ = 0, number_ = 0, norm_ = 0;
};

// Keeps what was packed as long as its parameters live and are unchanged.
template <class Packed>
class Cache {
 public:
  template <class Pack>
  std::shared_ptr<const Packed> get(at::TensorList params, at::IntArrayRef spec,
                                    at::ArrayRef<double> eps, const Pack& pack) {
    TORCH_CHECK(!params.empty() && !spec.empty(),
                "mmcdnv2: parameters are missing");
    const Kernels* kernels = chosen_kernels();
    const std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = entries_[params[0].unsafeGetTensorImpl()];
    if (!entry.packed || !entry.fits(params, spec, eps, kernels)) {
      // The spec begins with the generation of the weights, which only has to
      // differ.
      Reader reader(params, spec.slice(1), eps);
      entry = Entry(params, spec, eps, kernels, pack(*kernels, reader));
      const std::shared_ptr<const Packed> packed = entry.packed;
      for (auto i = entries_.begin(); i != entries_.end();)
        i = i->second.expired() ? entries_.erase(i) : std::next(i);
      return packed;
    }
    return entry.packed;
  }

 private:
  struct Source {
    // Holds on to the address, not to the data: it will not come back as
    // another tensor's.
    c10::weak_intrusive_ptr<at::TensorImpl> tensor;
    const void* data;
    uint32_t version;
  };

  struct Entry {
    Entry() = default;
    Entry(at::TensorList params, at::IntArrayRef spec, at::ArrayRef<double> eps,
          const Kernels* kernels, std::shared_ptr<const Packed> packed)
        : spec(spec.vec()),
          eps(eps.vec()),
          kernels(kernels),
          packed(std::move(packed)) {
      for (const at::Tensor& param : params)
        sources.push_back({c10::weak_intrusive_ptr<at::TensorImpl>(
                               param.getIntrusivePtr()),
                           param.const_data_ptr(), version_of(param)});
    }

    static uint32_t version_of(const at::Tensor& tensor) {
      // Inference tensors have none and cannot be changed outside of it.
      return tensor.is_inference() ? 0 : tensor._version();
    }

    bool fits(at::TensorList params, at::IntArrayRef new_spec,
              at::ArrayRef<double> new_eps, const Kernels* new_kernels) const {
      if (params.size() != sources.size() || new_kernels != kernels ||
          new_spec != at::IntArrayRef(spec) ||
          new_eps != at::ArrayRef<double>(eps))
        return false;
      for (size_t i = 0; i < sources.size(); ++i) {
        const Source& source = sources[i];
        if (source.tensor._unsafe_get_target() !=
                params[i].unsafeGetTensorImpl() ||
            source.data != params[i].const_data_ptr() ||
            source.version != version_of(params[i]))
          return false;
      }
      return true;
    }

    bool expired() const {
      for (const Source& source : sources)
        if (source.tensor.expired()) return true;
      return !packed;
    }

    std::vector<Source> sources;
    std::vector<int64_t> spec;
    std::vector<double> eps;
    const Kernels* kernels = nullptr;
    std::shared_ptr<const Packed> packed;
  };

  std::mutex mutex_;
  std::unordered_map<const at::TensorImpl*, Entry> entries_;
};

at::Tensor checked(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat,
              "mmcdnv2: a float32 tensor (N, C, H, W) was expected");
  return x.contiguous();
}

void check_channels(const at::Tensor& x, int64_t expected) {
  TORCH_CHECK(x.size(1) == expected, "mmcdnv2: ", expected,
              " channels were expected, got ", x.size(1));
}

at::Tensor dense_block(const at::Tensor& input, at::TensorList params,
                       at::IntArrayRef spec, at::ArrayRef<double> eps) {
  static Cache<DenseBlock> cache;
  const at::Tensor x = checked(input);
  const auto block = cache.get(
      params, spec, eps, [&](const Kernels& kernels, Reader& reader) {
        const bool pool = reader.number();
        const bool has_out_norm = reader.number();
        std::vector<LayerWeights> layers;
        int64_t channels = x.size(1);
        while (reader.more()) {
          layers.push_back(reader.layer(channels));
          channels += layers.back().growth_rate;
        }
        const Norm norm = has_out_norm ? reader.norm(channels) : Norm{};
        return std::make_shared<const DenseBlock>(
            kernels, layers, x.size(1), pool, has_out_norm ? &norm : nullptr);
      });
  check_channels(x, block->in_channels);
  const int64_t shrink = block->pool ? 2 : 1;
  TORCH_CHECK(x.size(2) >= shrink && x.size(3) >= shrink,
              "mmcdnv2: an input of ", x.size(2), " x ", x.size(3),
              " pixels is too small for this block");
  at::Tensor out = at::empty({x.size(0), block->out_channels,
                              x.size(2) / shrink, x.size(3) / shrink},
                             x.options());
  if (out.numel())
    block->run(x.data_ptr<float>(), x.size(0), x.size(2), x.size(3),
               out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor reactivate(const at::Tensor& old_features,
                      const at::Tensor& new_features, at::TensorList params,
                      at::IntArrayRef spec, at::ArrayRef<double> eps) {
  static Cache<Reactivation> cache;
  const at::Tensor old = checked(old_features);
  const at::Tensor features = checked(new_features);
  TORCH_CHECK(old.size(0) == features.size(0) &&
                  old.size(2) == features.size(2) &&
                  old.size(3) == features.size(3),
              "mmcdnv2: old and new features must be of equal size");
  const auto reactivation = cache.get(
      params, spec, eps, [&](const Kernels& kernels, Reader& reader) {
        return std::make_shared<const Reactivation>(
            kernels, reader.reactivation(features.size(1), old.size(1)));
      });
  check_channels(old, reactivation->out_channels);
  check_channels(features, reactivation->in_channels);
  at::Tensor out = at::empty_like(old);
  reactivation->run(old.data_ptr<float>(), features.data_ptr<float>(),
                    old.size(0), old.size(2) * old.size(3),
                    out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor stem(const at::Tensor& input, at::TensorList params,
                at::IntArrayRef spec, at::ArrayRef<double> eps) {
  static Cache<Stem> cache;
  const at::Tensor x = checked(input);
  const auto stem = cache.get(
      params, spec, eps, [&](const Kernels& kernels, Reader& reader) {
        const bool has_norm = reader.number();
        const at::Tensor& weight = reader.tensor();
        TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 &&
                        weight.size(3) == 3,
                    "mmcdnv2: the stem's weight does not fit");
        const Norm norm = has_norm ? reader.norm(weight.size(0)) : Norm{};
        return std::make_shared<const Stem>(kernels, weight.data_ptr<float>(),
                                            weight.size(1), weight.size(0),
                                            has_norm ? &norm : nullptr);
      });
  check_channels(x, stem->in_channels);
  at::Tensor out =
      at::empty({x.size(0), stem->out_channels, Stem::halved(x.size(2)),
                 Stem::halved(x.size(3))},
                x.options());
  if (out.numel())
    stem->run(x.data_ptr<float>(), x.size(0), x.size(2), x.size(3),
              out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor pool_excite(const at::Tensor& input, at::TensorList params,
                       at::IntArrayRef spec, at::ArrayRef<double> eps) {
  static Cache<Excitation> cache;
  const at::Tensor x = checked(input);
  const auto excitation = cache.get(
      params, spec, eps, [&](const Kernels& kernels, Reader& reader) {
        return std::make_shared<const Excitation>(kernels,
                                                  reader.excitation(x.size(1)));
      });
  check_channels(x, excitation->channels);
  TORCH_CHECK(x.size(2) * x.size(3) > 0, "mmcdnv2: the map has no pixels");
  at::Tensor out = at::empty({x.size(0), x.size(1)}, x.options());
  excitation->pool(x.data_ptr<float>(), x.size(0), x.size(2) * x.size(3),
                   out.data_ptr<float>(), at_parallel());
  return out;
}

}  // namespace
}  // namespace mmcdnv2

TORCH_LIBRARY(mmcdnv2, library) {
  library.def("kernel_names() -> str[]", mmcdnv2::kernel_names);
  library.def("choose_kernels(str name) -> ()", mmcdnv2::choose_kernels);
  library.def(
      "dense_block(Tensor x, Tensor[] params, int[] spec, float[] eps) -> "
      "Tensor");
  library.def(
      "reactivate(Tensor old, Tensor new, Tensor[] params, int[] spec, "
      "float[] eps) -> Tensor");
  library.def(
      "pool_excite(Tensor x, Tensor[] params, int[] spec, float[] eps) -> "
      "Tensor");
  library.def(
      "stem(Tensor x, Tensor[] params, int[] spec, float[] eps) -> Tensor");
}

TORCH_LIBRARY_IMPL(mmcdnv2, CPU, library) {
  library.impl("dense_block", mmcdnv2::dense_block);
  library.impl("reactivate", mmcdnv2::reactivate);
  library.impl("pool_excite", mmcdnv2::pool_excite);
  library.impl("stem", mmcdnv2::stem);
}
