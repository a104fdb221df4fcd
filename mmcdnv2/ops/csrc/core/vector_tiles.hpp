// Vectors, and loops over blocks of outputs and tiles of pixels. Included only
// by kernels.cpp, which documents the macros.

#pragma once

#include "core/kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace mmcdnv2 {

namespace MMCDNV2_ISA {

constexpr int kLanes = MMCDNV2_LANES;
// Number of accumulators that fit into the registers with a row of inputs and a
// broadcast weight.
constexpr int kAccumulators = MMCDNV2_REGISTERS == 32 ? 24 : 12;
constexpr int kMaxBlock = MMCDNV2_REGISTERS == 32 ? 8 : 4;

typedef float V __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Bits __attribute__((vector_size(kLanes * sizeof(int32_t))));
// Vector types may alias their elements.
typedef float Unaligned
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

inline V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline V broadcast(float s) { return s - V{}; }

// Not a product with 0 or 1, which would keep NaN.
inline V masked(V v, const int32_t* mask) {
  Bits bits;
  __builtin_memcpy(&bits, mask, sizeof(bits));
  return reinterpret_cast<V>(reinterpret_cast<Bits>(v) & bits);
}

// Prevents the compiler from loading a value again instead of keeping it in a
// register, which is slow for loads that straddle cache lines.
inline V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// Maximum and minimum; b if either is NaN. Compilers would generate two
// instructions for a comparison and a selection.
inline V larger(V a, V b) {
#if defined(__x86_64__) && MMCDNV2_LANES == 16
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__x86_64__) && MMCDNV2_LANES == 8
  return _mm256_max_ps(a, b);
#elif defined(__x86_64__)
  return _mm_max_ps(a, b);
#elif defined(__aarch64__)
  return vmaxq_f32(a, b);
#else
  return a > b ? a : b;
#endif
}

inline V smaller(V a, V b) {
#if defined(__x86_64__) && MMCDNV2_LANES == 16
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__x86_64__) && MMCDNV2_LANES == 8
  return _mm256_min_ps(a, b);
#elif defined(__x86_64__)
  return _mm_min_ps(a, b);
#elif defined(__aarch64__)
  return vminq_f32(a, b);
#else
  return a < b ? a : b;
#endif
}

// This order propagates NaN, as in torch.
inline V relu(V v) { return larger(V{}, v); }

inline V hswish(V v) {
  const V gate = v * (1.f / 6.f) + 0.5f;
  return v * smaller(broadcast(1.f), larger(V{}, gate));
}

inline float* at(const Plane& plane, int64_t channel, int64_t pixel) {
  return plane.data + channel * plane.stride + pixel - plane.origin;
}

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls f(Size<M>, first) for blocks of at most Max outputs.
template <int Max, class F>
inline __attribute__((always_inline)) void for_blocks(int64_t count,
                                                      const F& f) {
  int64_t m = 0;
  if (Max >= 8)
    for (; count - m >= 8; m += 8) f(Size<(Max >= 8 ? 8 : 1)>(), m);
  if (Max >= 4)
    for (; count - m >= 4; m += 4) f(Size<(Max >= 4 ? 4 : 1)>(), m);
  for (; count - m >= 2; m += 2) f(Size<2>(), m);
  if (count - m >= 1) f(Size<1>(), m);
}

// Calls f(Size<N>, first pixel) for tiles of at most T vectors.
template <int T, class F>
inline __attribute__((always_inline)) void for_tiles(Range pixels, const F& f) {
  int64_t p = pixels.begin;
  while (p < pixels.end) {
    const int64_t left = (pixels.end - p) / kLanes;
    // Two equal tiles use more accumulators than a full and a small one.
    const int64_t n = left > T && left < 2 * T ? (left + 1) / 2 : left;
    if (n >= T) {
      f(Size<T>(), p);
      p += T * kLanes;
    } else if (T > 6 && n >= 6) {
      f(Size<6>(), p);
      p += 6 * kLanes;
    } else if (T > 4 && n >= 4) {
      f(Size<4>(), p);
      p += 4 * kLanes;
    } else if (T > 3 && n >= 3) {
      f(Size<3>(), p);
      p += 3 * kLanes;
    } else if (n >= 2) {
      f(Size<2>(), p);
      p += 2 * kLanes;
    } else {
      f(Size<1>(), p);
      p += kLanes;
    }
  }
}

// Calls f(Size<T>) with the number of vectors per tile for which the
// accumulators of the largest block of `count` outputs stay in registers.
template <class F>
inline void with_tile(int64_t count, const F& f) {
  if (kMaxBlock >= 8 && count >= 8)
    f(Size<kAccumulators / kMaxBlock>());
  else if (count >= 4)
    f(Size<kAccumulators / 4>());
  else
    f(Size<kAccumulators / 2 < 12 ? kAccumulators / 2 : 12>());
}

// acc[m][v] += input(v) * weight[m]
template <int M, int N, class F>
inline __attribute__((always_inline)) void multiply_loaded(V (&acc)[M][N],
                                                           const float* weight,
                                                           const F& input) {
  // Keeps the shorter side in registers and reads the longer one by one.
  if (M < N) {
    V w[M];
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) w[m] = broadcast(weight[m]);
#pragma GCC unroll 24
    for (int v = 0; v < N; ++v) {
      const V in = in_register(input(v));
#pragma GCC unroll 24
      for (int m = 0; m < M; ++m) acc[m][v] += in * w[m];
    }
  } else {
    V in[N];
#pragma GCC unroll 24
    for (int v = 0; v < N; ++v) in[v] = in_register(input(v));
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) {
      const V w = broadcast(weight[m]);
#pragma GCC unroll 24
      for (int v = 0; v < N; ++v) acc[m][v] += in[v] * w;
    }
  }
}

// acc[m][v] += row[v] * weight[m]
template <int M, int N>
inline __attribute__((always_inline)) void multiply(V (&acc)[M][N],
                                                    const float* row,
                                                    const float* weight) {
  // Weights of wide layers are not in a near cache and are used once.
  if (M == kMaxBlock) __builtin_prefetch(weight + 1024, 0, 2);
  multiply_loaded(acc, weight, [&](int v) { return load(row + v * kLanes); });
}

template <int M, int N, class F>
inline __attribute__((always_inline)) void for_each(V (&acc)[M][N],
                                                    const F& f) {
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 24
    for (int v = 0; v < N; ++v) f(acc[m][v], m, v);
}

template <class F>
inline __attribute__((always_inline)) void with_act(Act act, const F& f) {
  switch (act) {
    case Act::kNone:
      return f([](V v) { return v; });
    case Act::kReLU:
      return f([](V v) { return relu(v); });
    case Act::kHSwish:
      return f([](V v) { return hswish(v); });
  }
}

}  // namespace MMCDNV2_ISA

}  // namespace mmcdnv2
