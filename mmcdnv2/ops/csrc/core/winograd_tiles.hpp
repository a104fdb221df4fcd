// Winograd's F(2x2, 3x3). Included only by kernels.cpp.
//
// A tile has 2x2 outputs; vector lanes are tiles. The even and odd rows and
// columns of a group's inputs are first separated into four planes, so that the
// same pixel of successive tiles is contiguous. One range of lanes covers all
// rows of tiles.

#pragma once

#include "core/kernels.hpp"
#include "core/vector_tiles.hpp"

namespace mmcdnv2 {

namespace MMCDNV2_ISA {

#if defined(__clang__)
#define MMCDNV2_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MMCDNV2_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Bits{__VA_ARGS__})
#endif

// Shuffles of two vectors; I are the lanes.
template <int... I>
struct Shuffles {
  static V even(V a, V b) { return MMCDNV2_SHUFFLE(a, b, (2 * I)...); }
  static V odd(V a, V b) { return MMCDNV2_SHUFFLE(a, b, (2 * I + 1)...); }
  // A vector's even lanes followed by its odd ones.
  static V parted(V a) {
    return MMCDNV2_SHUFFLE(a, a, (2 * I % kLanes + 2 * I / kLanes)...);
  }
  // Interleaved lanes of the first halves, and of the second halves.
  static V low(V a, V b) {
    return MMCDNV2_SHUFFLE(a, b, (I / 2 + I % 2 * kLanes)...);
  }
  static V high(V a, V b) {
    return MMCDNV2_SHUFFLE(a, b, ((kLanes + I) / 2 + I % 2 * kLanes)...);
  }
};

template <int N, int... I>
struct CountLanes : CountLanes<N - 1, N - 1, I...> {};
template <int... I>
struct CountLanes<0, I...> {
  using Shuffle = Shuffles<I...>;
};
using Shuffle = CountLanes<kLanes>::Shuffle;

inline void store_high(float* p, V v) {
  typedef float Half __attribute__((vector_size(kLanes / 2 * sizeof(float)),
                                    aligned(4), may_alias));
  *reinterpret_cast<Half*>(p) = reinterpret_cast<const Half*>(&v)[1];
}

// With 16 lanes the products are so fast that the transforms take longer than
// they save.
constexpr int64_t kWinogradMembers = kLanes == 16 ? INT64_MAX : 8;

// The split of a range of image rows into bands, and the layout of the scratch
// memory.
struct WinogradLayout {
  static constexpr int kTiles = kAccumulators / kMaxBlock;  // vectors
  // Floats of transformed inputs that stay in the second-level cache.
  static constexpr int64_t kBandFloats = 64 * 1024;

  int64_t columns;        // tiles in a row
  int64_t stride;         // from one row of tiles to the next
  int64_t rows;           // rows of tiles in a band
  int64_t input, output;  // floats of a plane
  int64_t panel, halves, outputs, size;

  // `even` splits the rows into bands of equal size; otherwise the layout is
  // the largest for this or any smaller number of rows.
  WinogradLayout(const WinogradConv3x3& g, int64_t width, int64_t image_rows,
                 bool even = true) {
    columns = (width + 1) / 2;
    // Even widths need a column of zeros between two rows; odd ones have it in
    // the last tile.
    stride = width / 2 + 1;
    const int64_t total = (image_rows + 1) / 2;
    const int64_t most = kBandFloats / (4 * g.in_members * stride) - 1;
    rows = most < 2 ? 1 : most < total ? most : total;
    if (even) {
      const int64_t bands = (total + rows - 1) / rows;
      rows = (total + bands - 1) / bands;
    }
    // Complete vectors are stored, so each plane is followed by one.
    output = (rows * stride + 2 * kAlign) / kAlign * kAlign;
    input = (((rows + 1) * stride + 2 * kAlign) / kAlign * kAlign) | kAlign;
    panel = 4 * g.in_members * input;
    halves = panel + 4 * g.in_members * kTiles * kLanes;
    outputs = halves + 2 * g.members * kTiles * kLanes;
    size = outputs + 4 * g.members * output;
  }
};

int64_t winograd_scratch(const WinogradConv3x3& g, int64_t width,
                         int64_t image_rows) {
  return WinogradLayout(g, width, image_rows, false).size;
}

// Separates the pixels of even and odd columns.
inline void split_row(const float* row, int64_t columns, float* even,
                      float* odd) {
  int64_t t = 0;
  for (; 2 * (columns - t) > kLanes; t += kLanes) {
    const V a = load(row + 2 * t), b = load(row + 2 * t + kLanes);
    store(even + t, Shuffle::even(a, b));
    store(odd + t, Shuffle::odd(a, b));
  }
  if (t >= columns) return;
  const V both = Shuffle::parted(load(row + 2 * t));
  store(even + t, both);
  store_high(odd + t, both);
}

// Separates the rows that a band reads by parity: for each input the odd rows,
// beginning with the one before the band, and the even rows, each with even and
// odd columns. Rows and columns outside the image are zeros.
inline void split_band(const WinogradConv3x3& g, const WinogradLayout& w,
                       int64_t height, int64_t width, const Plane& h,
                       int64_t group, Range tile_rows, float* dst) {
  const int64_t first = 2 * tile_rows.begin - 1, last = 2 * tile_rows.end;
  for (int64_t c = 0; c < g.in_members; ++c) {
    const float* row = at(h, group * g.in_members + c, first * width);
    float* to = dst + 4 * c * w.input;
    float* other = to + 2 * w.input;
    to[w.input - 1] = other[w.input - 1] = 0;
    for (int64_t y = first; y <= last; ++y, row += width) {
      if (y < 0 || y >= height) {
        for (int64_t t = 0; t < w.stride; t += kLanes) {
          store(to + t, V{});
          store(to + w.input + t, V{});
        }
      } else {
        __builtin_prefetch(row + h.stride);
        split_row(row, w.columns, to, to + w.input);
        if (width % 2 == 0) to[width / 2] = 0;
        to[w.input + width / 2] = 0;
      }
      float* next = to + w.stride;
      to = other;
      other = next;
    }
  }
}

// A row of the transformed columns.
template <int Column>
inline V transformed(const float* even, const float* odd) {
  if (Column == 1) return load(even) + load(odd);
  if (Column == 2) return load(odd) - load(even);
  if (Column == 0) return load(odd - 1) - load(odd);
  return load(even) - load(even + 1);
}

// Transforms the inputs of a tile of N vectors for one column of each window:
// row by row of the window, each with all inputs.
template <int N, int Column>
inline void transform_inputs(const WinogradConv3x3& g, const WinogradLayout& w,
                             const float* inputs, float* panel) {
  const int64_t part = g.in_members * N * kLanes;
  for (int64_t c = 0; c < g.in_members; ++c, inputs += 4 * w.input) {
    for (int v = 0; v < N; ++v, panel += kLanes) {
      const auto row = [&](int i) {
        const float* even =
            inputs + i % 2 * 2 * w.input + i / 2 * w.stride + v * kLanes;
        return transformed<Column>(even, even + w.input);
      };
      const V r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
      store(panel, r1 + r2);
      store(panel + part, r2 - r1);
      store(panel + 2 * part, r0 - r2);
      store(panel + 3 * part, r1 - r3);
    }
  }
}

// Multiplies a tile of N vectors with all weights of a group. The transform of
// the outputs is the sum and the difference of the second and third transformed
// row, plus the first and the (negated) fourth; then the same with columns.
// Rows and columns are therefore in this order, and sums start from stored
// values.
template <int N>
inline void winograd_products(const WinogradConv3x3& g, const WinogradLayout& w,
                              const float* weight, const float* inputs,
                              float* panel, float* halves, float* outputs) {
  constexpr int kFloats = N * kLanes;
  const int64_t part = g.in_members * kFloats;
  for (int column = 0; column < 4; ++column) {
    if (column == 0)
      transform_inputs<N, 1>(g, w, inputs, panel);
    else if (column == 1)
      transform_inputs<N, 2>(g, w, inputs, panel);
    else if (column == 2)
      transform_inputs<N, 0>(g, w, inputs, panel);
    else
      transform_inputs<N, 3>(g, w, inputs, panel);
    for (int row = 0; row < 4; ++row) {
      for_blocks<kMaxBlock>(g.members, [&](auto block, int64_t m) {
        constexpr int M = decltype(block)::value;
        // For output m + i: the half of row 0 or 1, and the row's two columns.
        const auto half = [&](int r, int i, int v) {
          return halves + (r * g.members + m + i) * kFloats + v * kLanes;
        };
        const auto out = [&](int i, int v, int c) {
          return outputs + (4 * (m + i) + 2 * (row - 2) + c) * w.output +
                 v * kLanes;
        };
        V acc[M][N];
        for_each(acc, [&](V& s, int i, int v) {
          s = row < 2 ? V{} : load(half(row - 2, i, v));
          if (row >= 2 && column >= 2) s += load(out(i, v, column - 2));
        });
        const float* in = panel + row * part;
        for (int64_t c = 0; c < g.in_members; ++c, in += kFloats, weight += M)
          multiply(acc, in, weight);
        for_each(acc, [&](V& s, int i, int v) {
          if (row == 0) {
            store(half(0, i, v), s);
          } else if (row == 1) {
            const V t = load(half(0, i, v));
            store(half(0, i, v), t + s);
            store(half(1, i, v), t - s);
          } else if (column == 1) {
            const V t = load(out(i, v, 0));
            store(out(i, v, 0), t + s);
            store(out(i, v, 1), t - s);
          } else {
            store(out(i, v, column == 3), s);
          }
        });
      });
    }
  }
}

// Stores a few floats one by one; compilers would replace the loop by a slower
// call of memcpy or memset.
inline void store_some(float* dst, V v, int64_t count) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) {
    dst[i] = lanes[i];
    asm volatile("" : : : "memory");
  }
}

// Interleaves even and odd columns. Complete vectors may overwrite the
// beginning of the next row, which is stored later, but not memory after `end`.
inline void store_row(const float* even, const float* odd, int64_t width,
                      float* dst, const float* end) {
  const auto put = [&](V v, int64_t p) {
    if (end - (dst + p) >= kLanes)
      store(dst + p, v);
    else
      store_some(dst + p, v, width - p < kLanes ? width - p : kLanes);
  };
  for (int64_t p = 0; p < width; p += 2 * kLanes) {
    const V a = load(even + p / 2), b = load(odd + p / 2);
    put(Shuffle::low(a, b), p);
    if (p + kLanes < width) put(Shuffle::high(a, b), p + kLanes);
  }
}

void winograd_conv3x3(const WinogradConv3x3& g, int64_t height, int64_t width,
                      const Plane& h, const Plane& out, Range rows,
                      Range groups, float* scratch) {
  const WinogradLayout w(g, width, rows.end - rows.begin);
  float* inputs = scratch;
  float* panel = scratch + w.panel;
  float* halves = scratch + w.halves;
  float* outputs = scratch + w.outputs;
  const int64_t end = (rows.end + 1) / 2;
  for (int64_t j = groups.begin; j < groups.end; ++j) {
    const float* weight = g.weight + j * g.members * g.in_members * 16;
    Range band = {rows.begin / 2, 0};
    for (; band.begin < end; band.begin = band.end) {
      band.end = end - band.begin < w.rows ? end : band.begin + w.rows;
      split_band(g, w, height, width, h, j, band, inputs);
      const int64_t tiles = (band.end - band.begin) * w.stride;
      const Range lanes = {0, (tiles + kLanes - 1) / kLanes * kLanes};
      for_tiles<WinogradLayout::kTiles>(lanes, [&](auto tile, int64_t t) {
        winograd_products<decltype(tile)::value>(g, w, weight, inputs + t,
                                                 panel, halves, outputs + t);
      });
      for (int64_t m = 0; m < g.members; ++m) {
        float* image = at(out, j * g.members + m, 0);
        const float* last = image + rows.end * width;
        for (int64_t y = 2 * band.begin; y < 2 * band.end && y < rows.end;
             ++y) {
          const float* even = outputs + (4 * m + 2 * (y % 2)) * w.output +
                              (y / 2 - band.begin) * w.stride;
          store_row(even, even + w.output, width, image + y * width, last);
        }
      }
    }
    if (rows.end < height) continue;
    // The next layer computes with the padding, so it must be zero.
    const int64_t pixels = height * width;
    for (int64_t m = 0; m < g.members; ++m)
      for (int64_t p = pixels; p % kAlign; ++p)
        store_some(at(out, j * g.members + m, p), V{}, 1);
  }
}

}  // namespace MMCDNV2_ISA

}  // namespace mmcdnv2
