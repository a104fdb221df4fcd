// Detects changes of parameters.

#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

// Included only by operators.cpp. In an unnamed namespace, so that code that
// runs before each call is inlined.
namespace mmcdnv2 {
namespace {

// A tensor's storage may have been freed or shrunk.
void check_storage(const at::Tensor& tensor) {
  const size_t needed = at::detail::computeStorageNbytes(
      tensor.sizes(), tensor.strides(), tensor.itemsize(),
      tensor.storage_offset());
  TORCH_CHECK(tensor.unsafeGetTensorImpl()->unsafe_storage().nbytes() >= needed,
              "mmcdnv2: a tensor's storage is too small for it");
}

// A hash that changes with the parameters, except with probability 2^-64.
//
// It covers each tensor's address, autograd's version counter and samples of
// its content. Some changes do not increase the counter: those by fused
// optimizers, by collectives, through Tensor.data, and of inference tensors.
// The samples detect rewritten tensors; tensors that an optimizer may change,
// or that have no counter, are read completely.
class Fingerprint {
 public:
  // `kind` distinguishes operators.
  Fingerprint(const void* kind, at::TensorList params, at::IntArrayRef spec,
              at::ArrayRef<double> eps) {
    mix(reinterpret_cast<uintptr_t>(kind));
    for (const int64_t value : spec) mix(value);
    for (const double value : eps) mix(bits_of(value));
    // The previous forward has evicted them from the caches.
    for (const at::Tensor& param : params) {
      const char* tensor =
          reinterpret_cast<const char*>(param.unsafeGetTensorImpl());
      for (size_t at = 0; at < sizeof(at::TensorImpl); at += kLine)
        __builtin_prefetch(tensor + at);
    }
    for (const at::Tensor& param : params)
      __builtin_prefetch(
          param.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
    for (const at::Tensor& param : params)
      __builtin_prefetch(param.const_data_ptr());
    for (const at::Tensor& param : params) add(param);
    for (const uint64_t lane : lanes_) mix(lane);
  }

  uint64_t value() const { return value_; }

 private:
  static constexpr size_t kLine = 64, kStep = 16384;
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // odd

  void add(const at::Tensor& param) {
    check_storage(param);
    const bool counts = !param.is_inference();
    const bool whole = !counts || param.unsafeGetTensorImpl()->grad().defined();
    uint64_t place = reinterpret_cast<uintptr_t>(param.const_data_ptr());
    for (const int64_t size : param.sizes()) place = place * kFactor + size;
    for (const int64_t stride : param.strides())
      place = place * kFactor + stride;
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

  // Odd factors are invertible, so that no change is lost.
  void add_line(const char* data, size_t size) {
    uint64_t line[kLanes] = {};
    if (size == kLine)
      std::memcpy(line, data, kLine);
    else
      std::memcpy(line, data, size);
    for (size_t i = 0; i < kLanes; ++i)
      lanes_[i] = lanes_[i] * kFactor + line[i];
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

}  // namespace
}  // namespace mmcdnv2
