// The PyTorch operators.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>
#include <torch/version.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/argument_reader.hpp"
#include "core/backbone.hpp"
#include "core/dense_block.hpp"
#include "core/dispatch.hpp"
#include "core/excitation.hpp"
#include "core/learned_group_conv.hpp"
#include "core/reactivation.hpp"
#include "core/stem.hpp"
#include "fingerprint.hpp"
#include "packed_cache.hpp"

namespace mmcdnv2 {
namespace {

std::atomic<const Kernels*> chosen_kernels(supported_kernels().front());

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels())
    names.emplace_back(kernels->name);
  return names;
}

void choose_kernels(const std::string& name) {
  for (const Kernels* kernels : supported_kernels()) {
    if (name == kernels->name) {
      chosen_kernels = kernels;
      return;
    }
  }
  TORCH_CHECK(false, "This processor has no kernels called ", name,
              "; it has: ", kernel_names());
}

// Allocates tensors from the memory pool.
class PooledAllocator final : public c10::Allocator {
 public:
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 3
  c10::DataPtr allocate(size_t bytes) const override { return pooled(bytes); }
#else
  c10::DataPtr allocate(size_t bytes) override { return pooled(bytes); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
#endif

 private:
  static c10::DataPtr pooled(size_t bytes) {
    auto piece =
        std::make_unique<MemoryPool::Piece>(memory_pool.acquire(bytes));
    void* data = piece->data;
    return {data, piece.release(), release, c10::Device(c10::kCPU)};
  }

  static void release(void* context) {
    const std::unique_ptr<MemoryPool::Piece> piece(
        static_cast<MemoryPool::Piece*>(context));
    memory_pool.release(*piece);
  }
};

// See core/fork_lock.hpp for its lifetime.
PooledAllocator& pooled_allocator = *new PooledAllocator;

Parallel at_parallel() {
  if (at::in_parallel_region()) return Parallel::serial();
  return {at::get_num_threads(), [](int64_t count, const Parallel::Task& task) {
            at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i);
            });
          }};
}

// Returns the operator that `read` packs from the parameters.
template <class Packed, class Read>
std::shared_ptr<const Packed> packed(const Kernels& kernels,
                                     at::TensorList params,
                                     at::IntArrayRef spec,
                                     at::ArrayRef<double> eps,
                                     const Read& read) {
  Arguments arguments = {{}, spec.vec(), eps.vec()};
  std::vector<at::Tensor> owners;
  for (const at::Tensor& param : params) {
    TORCH_CHECK(param.is_cpu(), "mmcdnv2: a parameter is not on the CPU");
    // Weights may be in the channels-last format.
    owners.push_back(param.contiguous());
    const at::ScalarType type = param.scalar_type();
    arguments.params.push_back({owners.back().const_data_ptr(),
                                type == at::kFloat  ? ElementType::kFloat
                                : type == at::kLong ? ElementType::kInt64
                                                    : ElementType::kOther,
                                param.sizes().vec()});
  }
  try {
    return std::make_shared<const Packed>(read(kernels, arguments));
  } catch (const std::out_of_range& error) {
    TORCH_CHECK_INDEX(false, "mmcdnv2: ", error.what());
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK(false, "mmcdnv2: ", error.what());
  }
}

// Returns the packed operator, and packs again only if the parameters changed.
template <class Packed, class Read>
std::shared_ptr<const Packed> packed_from(at::TensorList params,
                                          at::IntArrayRef spec,
                                          at::ArrayRef<double> eps,
                                          const Read& read) {
  TORCH_CHECK(!params.empty(), "mmcdnv2: parameters are missing");
  static const char kind = 0;
  const Kernels* kernels = chosen_kernels;
  const PackedCache::Key key = {key_of(params[0]), &kind};
  const uint64_t fingerprint = Fingerprint(&kind, params, spec, eps).value();
  std::shared_ptr<const PackedCache::Entry> entry = packed_cache.find(key);
  if (!entry || entry->fingerprint != fingerprint ||
      entry->kernels != kernels) {
    entry = std::make_shared<const PackedCache::Entry>(PackedCache::Entry{
        fingerprint, kernels, params[0].storage().getWeakStorageImpl(),
        packed<Packed>(*kernels, params, spec, eps, read)});
    packed_cache.keep(key, entry);
  }
  return std::static_pointer_cast<const Packed>(entry->packed);
}

at::Tensor checked(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat,
              "mmcdnv2: a float32 tensor (N, C, H, W) was expected");
  check_storage(x);
  return x.contiguous();
}

void check_channels(const at::Tensor& x, int64_t expected) {
  TORCH_CHECK(x.size(1) == expected, "mmcdnv2: ", expected,
              " channels were expected, got ", x.size(1));
}

// Fake tensors have the number of channels that the caller states.
void check_output(int64_t channels, int64_t stated) {
  TORCH_CHECK(channels == stated, "mmcdnv2: the parameters give ", channels,
              " channels, not the stated ", stated);
}

// An uninitialised tensor. Large ones come from the memory pool, which avoids
// page faults in each call.
at::Tensor empty_like_input(const at::Tensor& x, at::IntArrayRef sizes) {
  const size_t bytes = product(sizes.vec()) * sizeof(float);
  if (bytes < MemoryPool::kSmallest) return at::empty(sizes, x.options());
  return at::detail::empty_generic(sizes, &pooled_allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   at::kFloat, {});
}

at::Tensor dense_block(const at::Tensor& input, at::TensorList params,
                       at::IntArrayRef spec, at::ArrayRef<double> eps,
                       bool pool, int64_t new_channels) {
  const at::Tensor x = checked(input);
  const auto block =
      packed_from<DenseBlock>(params, spec, eps, read_dense_block);
  check_channels(x, block->in_channels);
  TORCH_CHECK(new_channels >= 0 && new_channels <= block->out_channels,
              "mmcdnv2: the parameters do not give ", new_channels,
              " new channels");
  check_output(block->out_channels, x.size(1) + new_channels);
  const int64_t shrink = pool ? 2 : 1;
  TORCH_CHECK(x.size(2) >= shrink && x.size(3) >= shrink,
              "mmcdnv2: an input of ", x.size(2), " x ", x.size(3),
              " pixels is too small for this block");
  at::Tensor out = empty_like_input(
      x,
      {x.size(0), block->out_channels, x.size(2) / shrink, x.size(3) / shrink});
  if (out.numel())
    block->run(x.data_ptr<float>(), x.size(0), x.size(2), x.size(3), pool,
               out.data_ptr<float>(), at_parallel());
  return out;
}

std::vector<at::Tensor> backbone(const at::Tensor& input, at::TensorList params,
                                 at::IntArrayRef spec, at::ArrayRef<double> eps,
                                 at::IntArrayRef pools,
                                 at::IntArrayRef channels,
                                 at::IntArrayRef out_indices) {
  const at::Tensor x = checked(input);
  const auto backbone = packed_from<Backbone>(params, spec, eps, read_backbone);
  check_channels(x, backbone->in_channels());
  const size_t count = backbone->blocks().size();
  TORCH_CHECK(pools.size() == count && channels.size() == count,
              "mmcdnv2: pools and channels were expected of ", count,
              " blocks");
  const auto sizes = backbone->sizes(x.size(2), x.size(3));
  std::vector<float*> outs(count, nullptr);
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < count; ++i) {
    TORCH_CHECK(backbone->pools(i) == pools[i],
                "mmcdnv2: the spec and pools differ");
    check_output(backbone->blocks()[i].out_channels, channels[i]);
    TORCH_CHECK(sizes[i].height && sizes[i].width, "mmcdnv2: an input of ",
                x.size(2), " x ", x.size(3),
                " pixels is too small for this backbone");
  }
  for (const int64_t i : out_indices) {
    TORCH_CHECK_INDEX(i >= 0 && i < static_cast<int64_t>(count) && !outs[i],
                      "mmcdnv2: index ", i, " of ", count, " blocks");
    tensors.push_back(empty_like_input(
        x, {x.size(0), channels[i], sizes[i].height, sizes[i].width}));
    outs[i] = tensors.back().data_ptr<float>();
  }
  if (x.numel())
    backbone->run(x.data_ptr<float>(), x.size(0), x.size(2), x.size(3), outs,
                  at_parallel());
  return tensors;
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
      params, spec, eps,
      [&](const Kernels& kernels, const Arguments& arguments) {
        return read_reactivation(kernels, arguments, features.size(1),
                                 old.size(1));
      });
  check_channels(old, reactivation->out_channels);
  check_channels(features, reactivation->in_channels);
  at::Tensor out = empty_like_input(old, old.sizes());
  if (out.numel())
    reactivation->run(old.data_ptr<float>(), features.data_ptr<float>(),
                      old.size(0), old.size(2) * old.size(3),
                      out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor learned_group_conv(const at::Tensor& input, at::TensorList params,
                              at::IntArrayRef spec, at::ArrayRef<double> eps,
                              int64_t out_channels) {
  const at::Tensor x = checked(input);
  const auto conv = packed_from<LearnedGroupConv>(
      params, spec, eps,
      [&](const Kernels& kernels, const Arguments& arguments) {
        return read_learned_group_conv(kernels, arguments, x.size(1));
      });
  check_channels(x, conv->in_channels);
  check_output(conv->out_channels, out_channels);
  at::Tensor out = empty_like_input(
      x, {x.size(0), conv->out_channels, x.size(2), x.size(3)});
  if (out.numel())
    conv->run(x.data_ptr<float>(), x.size(0), x.size(2) * x.size(3),
              out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor stem(const at::Tensor& input, at::TensorList params,
                at::IntArrayRef spec, at::ArrayRef<double> eps,
                int64_t out_channels) {
  const at::Tensor x = checked(input);
  const auto stem = packed_from<Stem>(params, spec, eps, read_stem);
  check_channels(x, stem->in_channels);
  check_output(stem->out_channels, out_channels);
  at::Tensor out =
      empty_like_input(x, {x.size(0), stem->out_channels,
                           Stem::halved(x.size(2)), Stem::halved(x.size(3))});
  if (out.numel())
    stem->run(x.data_ptr<float>(), x.size(0), x.size(2), x.size(3),
              out.data_ptr<float>(), at_parallel());
  return out;
}

at::Tensor pool_excite(const at::Tensor& input, at::TensorList params,
                       at::IntArrayRef spec, at::ArrayRef<double> eps) {
  const at::Tensor x = checked(input);
  const auto excitation =
      packed_from<Excitation>(params, spec, eps, read_excitation);
  check_channels(x, excitation->channels);
  TORCH_CHECK(x.size(2) > 0 && x.size(3) > 0, "mmcdnv2: the map has no pixels");
  at::Tensor out = at::empty({x.size(0), x.size(1)}, x.options());
  if (out.numel())
    excitation->pool_and_gate(x.data_ptr<float>(), x.size(0),
                              x.size(2) * x.size(3), out.data_ptr<float>(),
                              at_parallel());
  return out;
}

// glibc returns free memory at the end of the heap to the system, which would
// cause page faults in each inference. Its thresholds rise with the largest
// block that was ever freed.
void keep_heap() {
  // The largest block that counts is 32 MiB, including malloc's overhead.
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
      "dense_block(Tensor x, Tensor[] params, int[] spec, float[] eps, "
      "bool pool, int new_channels) -> Tensor");
  library.def(
      "backbone(Tensor x, Tensor[] params, int[] spec, float[] eps, "
      "int[] pools, int[] channels, int[] out_indices) -> Tensor[]");
  library.def(
      "reactivate(Tensor old, Tensor new, Tensor[] params, int[] spec, "
      "float[] eps) -> Tensor");
  library.def(
      "pool_excite(Tensor x, Tensor[] params, int[] spec, float[] eps) -> "
      "Tensor");
  library.def(
      "learned_group_conv(Tensor x, Tensor[] params, int[] spec, float[] eps, "
      "int out_channels) -> Tensor");
  library.def(
      "stem(Tensor x, Tensor[] params, int[] spec, float[] eps, "
      "int out_channels) -> Tensor");
}

TORCH_LIBRARY_IMPL(mmcdnv2, CPU, library) {
  library.impl("backbone", mmcdnv2::backbone);
  library.impl("dense_block", mmcdnv2::dense_block);
  library.impl("reactivate", mmcdnv2::reactivate);
  library.impl("pool_excite", mmcdnv2::pool_excite);
  library.impl("learned_group_conv", mmcdnv2::learned_group_conv);
  library.impl("stem", mmcdnv2::stem);
}
