// Memory for feature maps.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "core/fork_lock.hpp"
#include "core/kernels.hpp"

namespace mmcdnv2 {

inline int64_t round_up(int64_t n) {
  return (n + kAlign - 1) / kAlign * kAlign;
}

// An odd number of cache lines, so that the channels of a plane spread over the
// sets of a cache.
inline int64_t stride_of(int64_t pixels) { return round_up(pixels) | kAlign; }

// Floats that work on a part of a map may take: a good part of a second-level
// cache.
inline int64_t cached_floats = [] {
  long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  // Where the system does not know it, what most processors have.
  if (bytes <= 0) bytes = 512 << 10;
  const int64_t most = std::clamp<int64_t>(bytes, 256 << 10, 2 << 20);
  return most / static_cast<int64_t>(sizeof(float)) * 3 / 4;
}();

// Keeps large pieces of memory for the next call, because page faults of new
// memory cost more than the computation on it.
class MemoryPool {
 public:
  struct Piece {
    void* data;
    size_t bytes;
  };
  // malloc keeps smaller pieces itself. At most kKept bytes are kept.
  static constexpr size_t kSmallest = 1 << 20, kKept = 256 << 20;

  // At least so many bytes at the start of a cache line; throws std::bad_alloc.
  Piece acquire(size_t bytes) {
    if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
    bytes = std::max(kLine, (bytes + kLine - 1) / kLine * kLine);
    if (bytes >= kSmallest) bytes = rounded(bytes);
    Piece piece = {bytes >= kSmallest ? take(bytes) : nullptr, bytes};
    if (!piece.data) piece.data = std::aligned_alloc(kLine, bytes);
    if (!piece.data) throw std::bad_alloc();
    return piece;
  }

  void release(const Piece& piece) noexcept {
    if (piece.bytes < kSmallest || piece.bytes > kKept)
      return std::free(piece.data);
    const std::lock_guard<std::mutex> lock(fork_lock<MemoryPool>);
    try {
      free_.push_back(piece);
    } catch (const std::bad_alloc&) {
      return std::free(piece.data);
    }
    kept_ += piece.bytes;
    auto last = free_.begin();
    for (; kept_ > kKept; ++last) {
      kept_ -= last->bytes;
      std::free(last->data);
    }
    free_.erase(free_.begin(), last);
  }

 private:
  static constexpr size_t kLine = 64;

  // A power of two or 1.5 times one, so that similar sizes share a piece.
  // Untouched pages are not committed.
  static size_t rounded(size_t bytes) {
    size_t size = kSmallest;
    while (size < bytes && size + size / 2 < bytes) size *= 2;
    return size < bytes ? size + size / 2 : size;
  }

  // Takes the piece released last, which is most likely in a cache.
  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(fork_lock<MemoryPool>);
    for (size_t i = free_.size(); i-- > 0;) {
      if (free_[i].bytes != bytes) continue;
      void* data = free_[i].data;
      free_.erase(free_.begin() + i);
      kept_ -= bytes;
      return data;
    }
    return nullptr;
  }

  // In the order of release.
  std::vector<Piece> free_;
  size_t kept_ = 0;
};

// See fork_lock.hpp for its lifetime.
inline MemoryPool& memory_pool = *new MemoryPool;

// Uninitialised floats at the start of a cache line.
class Buffer {
 public:
  // Null if `size` is 0.
  explicit Buffer(int64_t size = 0) : piece_{nullptr, 0} {
    // Rejects sizes beyond the memory of any machine.
    if (size < 0 || size > INT64_MAX / 8) throw std::bad_alloc();
    if (size) piece_ = memory_pool.acquire(size * sizeof(float));
  }
  Buffer(Buffer&& other) noexcept : piece_(other.piece_) {
    other.piece_.data = nullptr;
  }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~Buffer() {
    if (piece_.data) memory_pool.release(piece_);
  }
  float* get() const { return static_cast<float*>(piece_.data); }

 private:
  MemoryPool::Piece piece_;
};

}  // namespace mmcdnv2
