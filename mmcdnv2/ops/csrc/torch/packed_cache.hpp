// Caches packed parameters until they change.

#pragma once

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "core/fork_lock.hpp"
#include "core/kernels.hpp"

// Included only by operators.cpp. In an unnamed namespace, so that code that
// runs before each call is inlined.
namespace mmcdnv2 {
namespace {

const void* key_of(const at::Tensor& param) {
  return param.unsafeGetTensorImpl();
}

// Keeps packed parameters as long as the parameters live and are unchanged.
class PackedCache {
 public:
  // The first parameter and the operator; a backbone and its stem share the
  // parameter.
  using Key = std::pair<const void*, const void*>;
  struct Entry {
    uint64_t fingerprint;
    const Kernels* kernels;
    // Storage of the first parameter. A reference to the tensor would prevent
    // torch.utils.swap_tensors.
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    std::shared_ptr<const void> packed;
  };

  std::shared_ptr<const Entry> find(const Key& key) {
    const std::lock_guard<std::mutex> lock(fork_lock<PackedCache>);
    const auto found = entries_.find(key);
    // After the storage is freed, another tensor may have its address.
    const bool lives =
        found != entries_.end() && !found->second->storage.expired();
    return lives ? found->second : nullptr;
  }

  void keep(const Key& key, std::shared_ptr<const Entry> entry) {
    const std::lock_guard<std::mutex> lock(fork_lock<PackedCache>);
    for (auto i = entries_.begin(); i != entries_.end();)
      i = i->second->storage.expired() ? entries_.erase(i) : std::next(i);
    entries_[key] = std::move(entry);
  }

  void forget(const void* param) {
    const std::lock_guard<std::mutex> lock(fork_lock<PackedCache>);
    auto i = entries_.lower_bound({param, nullptr});
    while (i != entries_.end() && i->first.first == param)
      i = entries_.erase(i);
  }

 private:
  std::map<Key, std::shared_ptr<const Entry>> entries_;
};

// See core/fork_lock.hpp for its lifetime.
PackedCache& packed_cache = *new PackedCache;

void forget(const at::Tensor& param) { packed_cache.forget(key_of(param)); }

}  // namespace
}  // namespace mmcdnv2
