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

// A number that differs, with a chance of 2^-64 otherwise, if parameters do.
//
// It takes in where each tensor is, autograd's count of its changes and lines of
// its content. Some changes are not counted: those by fused optimisers, by
// collectives, through Tensor.data, and of inference tensors. The lines show
// whatever rewrites a tensor; a tensor that an optimiser may be about to change,
// or that has no count, is read whole.
class Fingerprint {
 public:
  // `kind` tells operators apart.
  Fingerprint(const void* kind, at::TensorList params, at::IntArrayRef spec,
              at::ArrayRef<double> eps) {
    mix(reinterpret_cast<uintptr_t>(kind));
    for (const int64_t value : spec) mix(value);
    for (const double value : eps) mix(bits_of(value));
    for (const at::Tensor& param : params) add(param);
    for (const uint64_t lane : lanes_) mix(lane);
  }

  uint64_t value() const { return value_; }

 private:
  static constexpr size_t kLine = 64, kStep = 16384;
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // odd

  void add(const at::Tensor& param) {
    const bool counts = !param.is_inference();
    const bool whole = !counts || param.unsafeGetTensorImpl()->grad().defined();
    uint64_t place = reinterpret_cast<uintptr_t>(param.const_data_ptr());
    for (const int64_t size : param.sizes()) place = place * kFactor + size;
    for (const int64_t stride : param.strides()) place = place * kFactor + stride;
    mix(place * kFactor + whole);
    mix(counts ? param._version() : -1);
    if (param.is_non_overlapping_and_dense())
      read(param, whole);
    else
      read(param.contiguous(), true);
  }

  void read(const at::Tensor& dense, bool whole) {
    const char* data = static_cast<const char*>(dense.const_data_ptr());
    const size_t size = dense.nbytes();
    for (size_t at = 0; at < size; at += whole ? kLine : kStep)
      add_line(data + at, std::min(kLine, size - at));
  }

  // Odd factors keep a change of a word from getting lost.
  void add_line(const char* data, size_t size) {
    uint64_t line[kLanes] = {};
    if (size == kLine)
      std::memcpy(line, data, kLine);
    else
      std::memcpy(line, data, size);
    for (size_t i = 0; i < kLanes; ++i) lanes_[i] = lanes_[i] * kFactor + line[i];
  }

  static uint64_t bits_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
  }

  void mix(uint64_t value) {
    value_ = (value_ ^ value) * kFactor;
    value_ ^= value_ >> 32;
  }

  static constexpr size_t kLanes = kLine / sizeof(uint64_t);
  uint64_t value_ = 0;
  uint64_t lanes_[kLanes] = {};
};

void* key_of(const at::Tensor& param) { return param.unsafeGetTensorImpl(); }

// Keeps what was packed as long as its parameters live and are unchanged.
class Cache {
 public:
  struct Entry {
    uint64_t fingerprint;
    const Kernels* kernels;
    // Of the first parameter. One of the tensor would keep it from
    // torch.utils.swap_tensors.
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    std::shared_ptr<const void> packed;
  };

  static Cache& instance() {
    // Never destroyed: threads may outlive static objects.
    static Cache* caches = new Cache;
    return *caches;
  }

  std::shared_ptr<const Entry> find(const void* key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = entries_.find(key);
    // Where the storage is gone, another tensor may stand at its address.
    const bool lives = found != entries_.end() && !found->second->storage.expired();
    return lives ? found->second : nullptr;
  }

  void keep(const void* key, std::shared_ptr<const Entry> entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto i = entries_.begin(); i != entries_.end();)
      i = i->second->storage.expired() ? entries_.erase(i) : std::next(i);
    entries_[key] = std::move(entry);
  }

  void forget(const void* key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.erase(key);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const void*, std::shared_ptr<const Entry>> entries_;
};

void forget(const at::Tensor& param) { Cache::instance().forget(key_of(param)); }

// Returns what `pack` makes of the parameters, anew only if they changed.
template <class Packed, class Pack>
std::shared_ptr<const Packed> packed_from(at::TensorList params,
                                          at::IntArrayRef spec,
                                          at::ArrayRef<double> eps,
                                          const Pack& pack) {
  TORCH_CHECK(!params.empty(), "mmcdnv2: parameters are missing");
  static const char kind = 0;
  const Kernels* kernels = chosen_kernels();
  const void* key = key_of(params[0]);
  const uint64_t fingerprint = Fingerprint(&kind, params, spec, eps).value();
  std::shared_ptr<const Cache::Entry> entry = Cache::instance().find(key);
  if (!entry || entry->fingerprint != fingerprint || entry->kernels != kernels) {
    Reader reader(params, spec, eps);
    entry = std::make_shared<const Cache::Entry>(Cache::Entry{
        fingerprint, kernels, params[0].storage().getWeakStorageImpl(),
        pack(*kernels, reader)});
    Cache::instance().keep(key, entry);
  }
  return std::static_pointer_cast<const Packed>(entry->packed);
}

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
  const at::Tensor x = checked(input);
  const auto block = packed_from<DenseBlock>(
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
  const at::Tensor old = checked(old_features);
  const at::Tensor features = checked(new_features);
  TORCH_CHECK(old.size(0) == features.size(0) &&
                  old.size(2) == features.size(2) &&
                  old.size(3) == features.size(3),
              "mmcdnv2: old and new features must be of equal size");
  const auto reactivation = packed_from<Reactivation>(
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
  const at::Tensor x = checked(input);
  const auto stem = packed_from<Stem>(
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
  const at::Tensor x = checked(input);
  const auto excitation = packed_from<Excitation>(
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

// glibc hands free memory at the end of the heap back to the system, so that
// each inference would have its feature maps' pages made anew. The limits from
// which it does so rise with the largest block that was ever freed.
void keep_heap() {
  // Of those that count, at most 32 MiB with what malloc adds.
  void* volatile block = std::malloc(size_t{31} << 20);
  std::free(block);
}

}  // namespace
}  // namespace mmcdnv2

TORCH_LIBRARY(mmcdnv2, library) {
  mmcdnv2::keep_heap();
  library.def("kernel_names() -> str[]", mmcdnv2::kernel_names);
  library.def("choose_kernels(str name) -> ()", mmcdnv2::choose_kernels);
  library.def("forget(Tensor param) -> ()", mmcdnv2::forget);
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
