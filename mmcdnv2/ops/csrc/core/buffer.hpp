// Memory for rows of pixels.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/kernels.hpp"

namespace mmcdnv2 {

inline int64_t round_up(int64_t n) {
  return (n + kAlign - 1) / kAlign * kAlign;
}

// An odd number of cache lines, so that the rows of a plane spread over the
// sets of a cache.
inline int64_t stride_of(int64_t pixels) { return round_up(pixels) | kAlign; }

// Floats that a strip of pixels may take: a good part of a second-level cache.
constexpr int64_t kStripFloats = 96 * 1024;

// Uninitialised floats at the start of a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(
            static_cast<float*>(std::aligned_alloc(
                64, std::max<int64_t>(round_up(size), kAlign) * sizeof(float))),
            std::free) {
    if (!data_) throw std::bad_alloc();
  }
  float* get() const { return data_.get(); }

 private:
  std::unique_ptr<float, void (*)(void*)> data_;
};

}  // namespace mmcdnv2
