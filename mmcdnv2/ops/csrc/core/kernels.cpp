// The inner loops, compiled once per instruction set with these macros on the
// command line: MMCDNV2_ISA (the namespace), MMCDNV2_LANES (floats per vector)
// and MMCDNV2_REGISTERS (number of vector registers).
//
// This file and its includes must not instantiate anything from the standard
// library: the linker could keep the copy compiled for the newest processor.

#include "core/kernels.hpp"

#include "core/vector_tiles.hpp"
#include "core/winograd_tiles.hpp"

namespace mmcdnv2 {

#define MMCDNV2_TO_STRING(x) #x
#define MMCDNV2_STRING(x) MMCDNV2_TO_STRING(x)

namespace MMCDNV2_ISA {

// For groups whose outputs are one block; their inputs need no panel.
template <int M>
void gather_conv_block(const GatherConv& g, const Plane& x, const Plane& h,
                       Range pixels, Range groups) {
  for (int64_t j = groups.begin; j < groups.end; ++j) {
    const int64_t first = j * g.kept;
    with_act(g.act, [&](auto activated) {
      with_act(g.out_act, [&](auto out_activated) {
        for_tiles<kAccumulators / M>(pixels, [&](auto tile, int64_t p) {
          constexpr int N = decltype(tile)::value;
          V acc[M][N];
          for_each(acc, [&](V& a, int i, int) {
            a = broadcast(g.out_shift[j * M + i]);
          });
          const float* weight = g.weight + first * M;
          for (int64_t k = 0; k < g.kept; ++k, weight += M) {
            const float* src = at(x, g.index[first + k], p);
            const V scale = broadcast(g.scale[first + k]);
            const V shift = broadcast(g.shift[first + k]);
            multiply_loaded(acc, weight, [&](int v) {
              return activated(load(src + v * kLanes) * scale + shift);
            });
          }
          for_each(acc, [&](V& a, int i, int v) {
            store(at(h, i * g.groups + j, p + v * kLanes), out_activated(a));
          });
        });
      });
    });
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
        // Output channels interleave the groups: this does the shuffle.
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
  if (kMaxBlock == 8 && g.members == 8)
    return gather_conv_block<kMaxBlock>(g, x, h, pixels, groups);
  if (g.members == 4) return gather_conv_block<4>(g, x, h, pixels, groups);
  with_tile(g.members, [&](auto tile) {
    gather_conv_tiled<decltype(tile)::value>(g, x, h, pixels, groups, panel);
  });
}

// Sums the taps column by column of the kernel.
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

// Reads a row of inputs once for the three taps of a kernel's row, which are
// summed separately and shifted when added. With few outputs, loads that
// straddle cache lines are the bottleneck.
void group_conv3x3_by_columns(const GroupConv3x3& g, const ColumnMasks& masks,
                              const Plane& h, const Plane& out, Range pixels,
                              Range groups, float* sums) {
  // Keeps the sums in the first-level cache.
  for (; pixels.end - pixels.begin > kSummedPixels;
       pixels.begin += kSummedPixels)
    group_conv3x3_by_columns(g, masks, h, out,
                             {pixels.begin, pixels.begin + kSummedPixels},
                             groups, sums);
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
                   const Plane& h, const Plane& out, Range pixels, Range groups,
                   float* sums) {
  if (g.by_columns)
    group_conv3x3_by_columns(g, masks, h, out, pixels, groups, sums);
  else
    group_conv3x3_by_taps(g, masks, h, out, pixels, groups);
}

template <int T>
void scatter_conv_tiled(const ScatterConv& g, const Plane& x, const Plane& out,
                        Range pixels, float* panel) {
  for (int64_t j = 0; j < g.groups; ++j) {
    with_act(g.act, [&](auto activated) {
      for (int64_t e = 0; e < g.members; ++e) {
        // Input channels interleave the groups.
        const int64_t channel = e * g.groups + j;
        const float* src = at(x, channel, 0);
        const V scale = broadcast(g.scale[channel]);
        const V shift = broadcast(g.shift[channel]);
        float* dst = panel + e * kScatteredPixels - pixels.begin;
        for (int64_t p = pixels.begin; p < pixels.end; p += kLanes)
          store(dst + p, activated(load(src + p) * scale + shift));
      }
    });
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
        const float* row = panel + p - pixels.begin;
        const float* weight = weights;
        for (int64_t e = 0; e < g.members; ++e) {
          multiply(acc, row, weight);
          row += kScatteredPixels;
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
                  Range pixels, float* panel) {
  with_tile(g.kept, [&](auto tile) {
    for (int64_t p = pixels.begin; p < pixels.end; p += kScatteredPixels) {
      const int64_t end = p + kScatteredPixels;
      scatter_conv_tiled<decltype(tile)::value>(
          g, x, out, {p, end < pixels.end ? end : pixels.end}, panel);
    }
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

bool is_finite(const Plane& plane, int64_t channel, Range pixels) {
  const float* row = at(plane, channel, 0);
  // A product with zero is NaN if the pixel is not finite.
  V sums[4] = {};
  int64_t p = pixels.begin;
  for (; p + 4 * kLanes <= pixels.end; p += 4 * kLanes)
    for (int v = 0; v < 4; ++v) sums[v] += load(row + p + v * kLanes) * 0.0f;
  for (; p + kLanes <= pixels.end; p += kLanes) sums[0] += load(row + p) * 0.0f;
  float lanes[kLanes];
  store(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  for (; p < pixels.end; ++p) total += row[p] * 0.0f;
  return total == 0.0f;
}

void clear(const Plane& plane, Range channels, Range pixels) {
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    float* row = at(plane, c, 0);
    int64_t p = pixels.begin;
    for (; p + kLanes <= pixels.end; p += kLanes) store(row + p, V{});
    for (; p < pixels.end; ++p) row[p] = 0.0f;
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
  constexpr int N = kLinearBlock / kLanes;
  for (int64_t o = 0; o < outputs; o += kLinearBlock) {
    V sums[N] = {};
    for (int64_t i = 0; i < inputs; ++i, weight += kLinearBlock) {
      __builtin_prefetch(weight + 16 * kLinearBlock);
      for (int v = 0; v < N; ++v) sums[v] += load(weight + v * kLanes) * x[i];
    }
    for (int v = 0; v < N; ++v) store(out + o + v * kLanes, sums[v]);
  }
}

// Separates even and odd columns.
void split_columns(const float* src, int64_t pairs, float* __restrict even,
                   float* __restrict odd) {
  for (int64_t i = 0; i < pairs; ++i) {
    even[i] = src[2 * i];
    odd[i] = src[2 * i + 1];
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
                         kWinogradMembers,
                         gather_conv,
                         group_conv3x3,
                         winograd_conv3x3,
                         winograd_scratch,
                         scatter_conv,
                         row_conv,
                         is_finite,
                         affine,
                         clear,
                         mean,
                         linear,
                         split_columns,
                         pool2x2};

}  // namespace MMCDNV2_ISA

}  // namespace mmcdnv2
