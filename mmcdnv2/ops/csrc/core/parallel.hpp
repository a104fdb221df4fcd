// Distributes work over the backend's threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "core/kernels.hpp"

namespace mmcdnv2 {

// Runs tasks 0 to count - 1, possibly in parallel, and waits for all.
struct Parallel {
  using Task = std::function<void(int64_t)>;
  int64_t threads;
  std::function<void(int64_t count, const Task&)> run;

  static Parallel serial() {
    return {1, [](int64_t count, const Task& task) {
              for (int64_t i = 0; i < count; ++i) task(i);
            }};
  }
};

// Splits 0 to count - 1 into one range per thread, in multiples of `unit`.
template <class F>
void split(const Parallel& parallel, int64_t count, int64_t unit,
           const F& task) {
  const int64_t units = (count + unit - 1) / unit;
  const int64_t parts = std::min(units, parallel.threads);
  const auto cut = [&](int64_t i) {
    return std::min(count, units * i / parts * unit);
  };
  parallel.run(parts, [&](int64_t i) { task(Range{cut(i), cut(i + 1)}); });
}

// Calls f(image, threads for the image) for each image. Runs images in parallel
// if there are at least as many as threads, otherwise one by one.
template <class F>
void for_images(int64_t count, const Parallel& parallel, const F& f) {
  if (count > 1 && count >= parallel.threads) {
    const Parallel inside = Parallel::serial();
    parallel.run(count, [&](int64_t i) { f(i, inside); });
  } else {
    for (int64_t i = 0; i < count; ++i) f(i, parallel);
  }
}

}  // namespace mmcdnv2
