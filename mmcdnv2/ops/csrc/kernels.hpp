// The inner loops of condensed dense layers, torch-free.
//
// This file is compiled once for each instruction set (see kernels.cpp), so it
// must not instantiate anything from the standard library: the linker would be
// free to keep the copy that was compiled for the newest processor.
//
// Pixels are the vector dimension. A channel is a row of pixels in one flat
// array, so that tiles ignore the borders of image rows; what the 3x3
// convolution reads across a border is masked. All channel strides and all
// ranges of pixels are multiples of kAlign: there are no remainder loops.

#pragma once

#include <cstdint>

namespace mmcdnv2 {

// Pixels in the widest vector.
constexpr int64_t kAlign = 16;

// Pixels in the largest tile.
constexpr int64_t kTile = 12 * kAlign;

enum class Act : int64_t { kNone = 0, kReLU = 1, kHSwish = 2 };

// From `begin` up to but without `end`.
struct Range {
  int64_t begin, end;
};

// Channel c's pixel p stands at data[c * stride + p - origin].
struct Plane {
  float* data;
  int64_t stride;
  int64_t origin;
};

// Learned group convolution with what stands around it: norm and activation
// of the gathered inputs, and norm (in weight and shift) and activation of the
// outputs, which the 3x3 convolution reads.
struct GatherConv {
  int64_t groups, kept, members;  // inputs and outputs of a group
  const int32_t* index;           // (groups, kept), channels to read
  const float* scale;             // (groups, kept), norm before, as gathered
  const float* shift;
  Act act;
  // (groups, blocks of members, kept, members of the block)
  const float* weight;
  const float* out_shift;  // (groups, members)
  Act out_act;
};

// 3x3 group convolution, stride 1, zeros around the image.
struct GroupConv3x3 {
  int64_t groups, in_members, members;
  // For few outputs, or many with some left over. Weights are packed (groups,
  // blocks of at most 4 members, in_members, row and column of the tap, members
  // of the block), otherwise (groups, blocks of max_block members, column of
  // the tap: left, right, middle, in_members, row of the tap, members of the
  // block).
  bool by_columns;
  const float* weight;
};

// Sparse feature reactivation of activated features.
struct ScatterConv {
  int64_t groups, kept, members;  // outputs and inputs of a group
  const int32_t* index;           // (groups, kept), channels to update
  // (groups, blocks of kept, members, outputs of the block)
  const float* weight;
};

// Bits that are zero where a column of the image has no left or right
// neighbour and one elsewhere. Both are periodic, of width + kTile entries:
// entry i is about column i % width.
struct ColumnMasks {
  const int32_t* left;
  const int32_t* right;
  int64_t width;
};

// Any convolution of few inputs, each tap of each channel a row of pixels.
struct RowConv {
  int64_t inputs, outputs;
  const float* weight;  // (blocks of outputs, inputs, members of the block)
  const float* shift;
};

// act(x * scale + shift), channel by channel.
struct Affine {
  int64_t channels;
  const float* scale;
  const float* shift;
  Act act;
};

// Outputs are computed in blocks of 8, 4, 2 and 1 of a group, the largest
// first, up to `max_block`; weights are packed in that order.
struct Kernels {
  const char* name;
  int64_t max_block;
  void (*gather_conv)(const GatherConv&, const Plane& x, const Plane& h,
                      Range pixels, Range groups, float* panel);
  // `sums` has room for 12 rows of the pixels and kAlign before and behind.
  void (*group_conv3x3)(const GroupConv3x3&, const ColumnMasks&, const Plane& h,
                        const Plane& out, Range pixels, Range groups,
                        float* sums);
  void (*scatter_conv)(const ScatterConv&, const Plane& x, const Plane& out,
                       Range pixels);
  void (*row_conv)(const RowConv&, const float* const* rows, const Plane& out,
                   Range pixels);
  // dst = affine(src), or dst += affine(src).
  void (*affine)(const Affine&, const Plane& src, const Plane& dst,
                 Range pixels, bool accumulate);
  // mean[c] of the first `count` pixels of each channel.
  void (*mean)(const Plane& src, int64_t channels, int64_t count, float* mean);
  // out = weight^T x, the weight of shape (inputs, outputs), outputs a multiple
  // of kAlign.
  void (*linear)(const float* weight, const float* x, int64_t inputs,
                 int64_t outputs, float* out);
  // Averages 2x2 pixels of a channel; height and width are the output's.
  void (*pool2x2)(const float* src, int64_t src_width, float* dst,
                  int64_t height, int64_t width);
};

}  // namespace mmcdnv2

#ifdef MMCDNV2_ISA

namespace mmcdnv2 {
namespace MMCDNV2_ISA {

constexpr int kLanes = MMCDNV2_LANES;
// Accumulators that fit beside a row of inputs and a broadcast weight.
constexpr int kAccumulators = MMCDNV2_REGISTERS == 32 ? 24 : 12;
constexpr int kMaxBlock = MMCDNV2_REGISTERS == 32 ? 8 : 4;

typedef float V __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Bits __attribute__((vector_size(kLanes * sizeof(int32_t))));
// Compilers let a vector alias its elements.
typedef float Unaligned
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

inline V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline V broadcast(float s) { return s - V{}; }

// Not a product with 0 or 1: that would keep NaN.
inline V masked(V v, const int32_t* mask) {
  Bits bits;
  __builtin_memcpy(&bits, mask, sizeof(bits));
  return reinterpret_cast<V>(reinterpret_cast<Bits>(v) & bits);
}

// Keeps the compiler from reading memory again instead of a register, which
// costs most where a load straddles two cache lines.
inline V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// Comparisons in this order let NaN pass, as torch does.
inline V relu(V v) { return V{} > v ? V{} : v; }

inline V hswish(V v) {
  const V zero = {}, one = broadcast(1.f);
  V gate = v * (1.f / 6.f) + 0.5f;
  gate = zero > gate ? zero : gate;
  gate = one < gate ? one : gate;
  return v * gate;
}

inline float* at(const Plane& plane, int64_t channel, int64_t pixel) {
  return plane.data + channel * plane.stride + pixel - plane.origin;
}

template <int N>
struct Size {
  static constexpr int value = N;
};

// Calls f(Size<M>, first) for blocks of outputs, at most Max each.
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
    // Two even tiles keep more accumulators busy than a full and a small one.
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

// Calls f(Size<T>) with the vectors of a tile that leave the accumulators of
// the largest block of `count` outputs in registers.
template <class F>
inline void with_tile(int64_t count, const F& f) {
  if (kMaxBlock >= 8 && count >= 8)
    f(Size<kAccumulators / kMaxBlock>());
  else if (count >= 4)
    f(Size<kAccumulators / 4>());
  else
    f(Size<kAccumulators / 2 < 12 ? kAccumulators / 2 : 12>());
}

// acc[m][v] += row[v] * weight[m]
template <int M, int N>
inline __attribute__((always_inline)) void multiply(V (&acc)[M][N],
                                                    const float* row,
                                                    const float* weight) {
  // Weights of wide layers come from afar and are used once.
  if (M == kMaxBlock) __builtin_prefetch(weight + 1024, 0, 2);
  // The shorter side is kept in registers, the longer one read in turn.
  if (M < N) {
    V w[M];
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) w[m] = broadcast(weight[m]);
#pragma GCC unroll 24
    for (int v = 0; v < N; ++v) {
      const V in = in_register(load(row + v * kLanes));
#pragma GCC unroll 24
      for (int m = 0; m < M; ++m) acc[m][v] += in * w[m];
    }
  } else {
    V in[N];
#pragma GCC unroll 24
    for (int v = 0; v < N; ++v) in[v] = in_register(load(row + v * kLanes));
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) {
      const V w = broadcast(weight[m]);
#pragma GCC unroll 24
      for (int v = 0; v < N; ++v) acc[m][v] += in[v] * w;
    }
  }
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

template <int T>
void gather_conv_tiled(const GatherConv& g, const Plane& x, const Plane& h,
                       Range pixels, Range groups, float* panel) {
  for (int64_t j = groups.begin; j < groups.end; ++j) {
    const int64_t first = j * g.kept;
    const float* weights = g.weight + first * g.members;
    for_tiles<T>(pixels, [&](auto tile, int64_t p) {
      constexpr int N = decltype(tile)::value;
      with_act(g.act, [&](auto activated) {
        for (int64_t k = 0; k < g.kept; ++k) {
          const float* src = at(x, g.index[first + k], p);
          const V scale = broadcast(g.scale[first + k]);
          const V shift = broadcast(g.shift[first + k]);
          for (int v = 0; v < N; ++v)
            store(panel + (k * N + v) * kLanes,
                  activated(load(src + v * kLanes) * scale + shift));
        }
      });
      for_blocks<kAccumulators / T>(g.members, [&](auto block, int64_t m) {
        constexpr int M = decltype(block)::value;
        V acc[M][N];
        for_each(acc, [&](V& a, int i, int) {
          a = broadcast(g.out_shift[j * g.members + m + i]);
        });
        const float* row = panel;
        const float* weight = weights + m * g.kept;
        for (int64_t k = 0; k < g.kept; ++k, row += N * kLanes, weight += M)
          multiply(acc, row, weight);
        // Output channels interleave the groups: this is the shuffle.
        with_act(g.out_act, [&](auto activated) {
          for_each(acc, [&](V& a, int i, int v) {
            store(at(h, (m + i) * g.groups + j, p + v * kLanes), activated(a));
          });
        });
      });
    });
  }
}

void gather_conv(const GatherConv& g, const Plane& x, const Plane& h,
                 Range pixels, Range groups, float* panel) {
  with_tile(g.members, [&](auto tile) {
    gather_conv_tiled<decltype(tile)::value>(g, x, h, pixels, groups, panel);
  });
}

// Sums the taps of one column of the kernel after the other.
void group_conv3x3_by_taps(const GroupConv3x3& g, const ColumnMasks& masks,
                           const Plane& h, const Plane& out, Range pixels,
                           Range groups) {
  constexpr int M = kMaxBlock;
  const int64_t width = masks.width;
  for (int64_t j = groups.begin; j < groups.end; ++j) {
    for (int64_t m = 0; m < g.members; m += M) {
      const float* weights = g.weight + (j * g.members + m) * 9 * g.in_members;
      for_tiles<kAccumulators / M>(pixels, [&](auto tile, int64_t p) {
        constexpr int N = decltype(tile)::value;
        V acc[M][N], left[M][N];
        const float* weight = weights;
        const auto add_taps = [&](int64_t column) {
          for (int64_t c = 0; c < g.in_members; ++c) {
            const float* row = at(h, j * g.in_members + c, p + column);
            multiply(acc, row - width, weight);
            multiply(acc, row, weight + M);
            multiply(acc, row + width, weight + 2 * M);
            weight += 3 * M;
          }
        };
        const int32_t* mask = masks.left + p % width;
        for_each(acc, [](V& a, int, int) { a = V{}; });
        add_taps(-1);
        for_each(acc, [&](V& a, int i, int v) {
          left[i][v] = masked(a, mask + v * kLanes);
          a = V{};
        });
        add_taps(1);
        mask = masks.right + p % width;
        for_each(acc, [&](V& a, int i, int v) {
          a = masked(a, mask + v * kLanes) + left[i][v];
        });
        add_taps(0);
        for_each(acc, [&](V& a, int i, int v) {
          store(at(out, j * g.members + m + i, p + v * kLanes), a);
        });
      });
    }
  }
}

// Reads a row of inputs once for the three taps of a kernel's row, which go to
// three sums; they are shifted against each other when they are added. Loads
// that straddle cache lines are what bounds few outputs.
void group_conv3x3_by_columns(const GroupConv3x3& g, const ColumnMasks& masks,
                              const Plane& h, const Plane& out, Range pixels,
                              Range groups, float* sums) {
  const int64_t width = masks.width;
  const int64_t stride = pixels.end - pixels.begin + 2 * kAlign;
  const Range wider = {pixels.begin - kAlign, pixels.end + kAlign};
  const Plane s = {sums, stride, wider.begin};
  for (int64_t j = groups.begin; j < groups.end; ++j) {
    for_blocks<4>(g.members, [&](auto block, int64_t m) {
      constexpr int M = decltype(block)::value;
      const float* weights = g.weight + (j * g.members + m) * 9 * g.in_members;
      for_tiles<kAccumulators / (3 * M)>(wider, [&](auto tile, int64_t p) {
        constexpr int N = decltype(tile)::value;
        V acc[3 * M][N];
        for_each(acc, [](V& a, int, int) { a = V{}; });
        const float* weight = weights;
        for (int64_t c = 0; c < g.in_members; ++c) {
          const float* row = at(h, j * g.in_members + c, p);
          multiply(acc, row - width, weight);
          multiply(acc, row, weight + 3 * M);
          multiply(acc, row + width, weight + 6 * M);
          weight += 9 * M;
        }
        for_each(acc, [&](V& a, int i, int v) {
          store(at(s, i, p + v * kLanes), a);
        });
      });
      for (int i = 0; i < M; ++i) {
        const float* middle = at(s, M + i, pixels.begin);
        const float* left = at(s, i, pixels.begin) - 1;
        const float* right = at(s, 2 * M + i, pixels.begin) + 1;
        float* dst = at(out, j * g.members + m + i, pixels.begin);
        int64_t column = pixels.begin % width;
        for (int64_t p = 0; p < pixels.end - pixels.begin; p += kLanes) {
          store(dst + p, load(middle + p) +
                             masked(load(left + p), masks.left + column) +
                             masked(load(right + p), masks.right + column));
          column += kLanes;
          while (column >= width) column -= width;
        }
      }
    });
  }
}

void group_conv3x3(const GroupConv3x3& g, const ColumnMasks& masks,
                   const Plane& h, const Plane& out, Range pixels,
                   Range groups, float* sums) {
  if (g.by_columns)
    group_conv3x3_by_columns(g, masks, h, out, pixels, groups, sums);
  else
    group_conv3x3_by_taps(g, masks, h, out, pixels, groups);
}

template <int T>
void scatter_conv_tiled(const ScatterConv& g, const Plane& x, const Plane& out,
                        Range pixels) {
  for (int64_t j = 0; j < g.groups; ++j) {
    for_blocks<kAccumulators / T>(g.kept, [&](auto block, int64_t m) {
      constexpr int M = decltype(block)::value;
      const float* weights = g.weight + (j * g.kept + m) * g.members;
      float* rows[M];
      for (int i = 0; i < M; ++i)
        rows[i] = at(out, g.index[j * g.kept + m + i], 0);
      for_tiles<T>(pixels, [&](auto tile, int64_t p) {
        constexpr int N = decltype(tile)::value;
        V acc[M][N];
        for_each(acc, [&](V& a, int i, int v) {
          a = load(rows[i] + p + v * kLanes);
        });
        // Input channels interleave the groups.
        const float* row = at(x, j, p);
        const float* weight = weights;
        for (int64_t e = 0; e < g.members; ++e) {
          multiply(acc, row, weight);
          row += g.groups * x.stride;
          weight += M;
        }
        for_each(acc, [&](V& a, int i, int v) {
          store(rows[i] + p + v * kLanes, a);
        });
      });
    });
  }
}

void scatter_conv(const ScatterConv& g, const Plane& x, const Plane& out,
                  Range pixels) {
  with_tile(g.kept, [&](auto tile) {
    scatter_conv_tiled<decltype(tile)::value>(g, x, out, pixels);
  });
}

void row_conv(const RowConv& g, const float* const* rows, const Plane& out,
              Range pixels) {
  for_blocks<kMaxBlock>(g.outputs, [&](auto block, int64_t m) {
    constexpr int M = decltype(block)::value;
    for_tiles<kAccumulators / kMaxBlock>(pixels, [&](auto tile, int64_t p) {
      constexpr int N = decltype(tile)::value;
      V acc[M][N];
      for_each(acc, [&](V& a, int i, int) { a = broadcast(g.shift[m + i]); });
      for (int64_t k = 0; k < g.inputs; ++k)
        multiply(acc, rows[k] + p, g.weight + m * g.inputs + k * M);
      for_each(acc, [&](V& a, int i, int v) {
        store(at(out, m + i, p + v * kLanes), a);
      });
    });
  });
}

void affine(const Affine& a, const Plane& src, const Plane& dst, Range pixels,
            bool accumulate) {
  for (int64_t c = 0; c < a.channels; ++c) {
    const float* from = at(src, c, 0);
    float* to = at(dst, c, 0);
    with_act(a.act, [&](auto activated) {
      for (int64_t p = pixels.begin; p < pixels.end; p += kLanes) {
        V v = activated(load(from + p) * a.scale[c] + a.shift[c]);
        store(to + p, accumulate ? load(to + p) + v : v);
      }
    });
  }
}

void mean(const Plane& src, int64_t channels, int64_t count, float* out) {
  for (int64_t c = 0; c < channels; ++c) {
    const float* row = at(src, c, 0);
    V sums[4] = {};
    int64_t p = 0;
    for (; p + 4 * kLanes <= count; p += 4 * kLanes)
      for (int v = 0; v < 4; ++v) sums[v] += load(row + p + v * kLanes);
    for (; p + kLanes <= count; p += kLanes) sums[0] += load(row + p);
    const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float lanes[kLanes];
    store(lanes, sum);
    for (int half = kLanes / 2; half; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    float total = lanes[0];
    for (; p < count; ++p) total += row[p];
    out[c] = total / static_cast<float>(count);
  }
}

void linear(const float* weight, const float* x, int64_t inputs,
            int64_t outputs, float* out) {
  for (int64_t o = 0; o < outputs; o += kLanes) {
    V sums[2] = {};
    for (int64_t i = 0; i < inputs; ++i)
      sums[i % 2] += load(weight + i * outputs + o) * x[i];
    store(out + o, sums[0] + sums[1]);
  }
}

void pool2x2(const float* src, int64_t src_width, float* dst, int64_t height,
             int64_t width) {
  for (int64_t y = 0; y < height; ++y) {
    const float* upper = src + 2 * y * src_width;
    const float* lower = upper + src_width;
    for (int64_t i = 0; i < width; ++i)
      dst[y * width + i] = 0.25f * ((upper[2 * i] + upper[2 * i + 1]) +
                                    (lower[2 * i] + lower[2 * i + 1]));
  }
}

extern const Kernels kernels;
const Kernels kernels = {MMCDNV2_STRING(MMCDNV2_ISA),
                         kMaxBlock,
                         gather_conv,
                         group_conv3x3,
                         scatter_conv,
                         row_conv,
                         affine,
                         mean,
                         linear,
                         pool2x2};

}  // namespace MMCDNV2_ISA
}  // namespace mmcdnv2

#endif
