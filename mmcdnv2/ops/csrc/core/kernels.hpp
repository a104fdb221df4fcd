// The interface of the inner loops of condensed dense layers.
//
// Vectors are over pixels. A channel is one flat row of pixels, so that tiles
// ignore the borders of image rows; the 3x3 convolution masks pixels that it
// reads across a border. All channel strides and ranges of pixels are multiples
// of kAlign, so there are no remainder loops.

#pragma once

#include <cstdint>

namespace mmcdnv2 {

// Pixels in the widest vector.
constexpr int64_t kAlign = 16;

// Pixels in the largest tile.
constexpr int64_t kTile = 12 * kAlign;

// Pixels whose sums the 3x3 convolution by columns stores at a time.
constexpr int64_t kSummedPixels = 512;

// Pixels that the reactivation processes at a time.
constexpr int64_t kScatteredPixels = 384;

// Outputs of a linear layer that are computed together.
constexpr int64_t kLinearBlock = 4 * kAlign;

enum class Act : int64_t { kNone = 0, kReLU = 1, kHSwish = 2 };

// From `begin` up to, but not including, `end`.
struct Range {
  int64_t begin, end;
};

// Channel c's pixel p is at data[c * stride + p - origin].
struct Plane {
  float* data;
  int64_t stride;
  int64_t origin;
};

// Learned group convolution with norm and activation of the gathered inputs,
// and norm (folded into weight and shift) and activation of the outputs, which
// the 3x3 convolution reads.
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
  // True if the number of outputs is not a multiple of max_block. Weights are
  // then packed (groups, blocks of at most 4 members, in_members, row and
  // column of the tap, members of the block), otherwise (groups, blocks of
  // max_block members, column of the tap: left, right, middle, in_members, row
  // of the tap, members of the block).
  bool by_columns;
  const float* weight;
};

// The same with Winograd's F(2x2, 3x3): 16 products for four outputs, not 36.
// The inputs of a 4x4 window are mixed, so an infinite or NaN input spreads to
// all outputs of its 2x2 tile, and values near the largest float overflow
// earlier. Such sums never become finite again: if a group's first output is
// finite, all its inputs were.
struct WinogradConv3x3 {
  int64_t groups, in_members, members;
  // Transformed, G w G^T, with the last row and the last column negated:
  // (groups, columns 1, 2, 0, 3, rows 1, 2, 0, 3, blocks of members,
  // in_members, members of the block).
  const float* weight;
};

// Sparse feature reactivation with norm and activation of its inputs.
struct ScatterConv {
  int64_t groups, kept, members;  // outputs and inputs of a group
  const float* scale;             // (groups * members), norm before
  const float* shift;
  Act act;
  const int32_t* index;  // (groups, kept), channels to update
  // (groups, blocks of kept, members, outputs of the block)
  const float* weight;
};

// Bit masks that are zero where a column of the image has no left or right
// neighbour, otherwise all ones. Both have width + kTile entries; entry i is
// for column i % width.
struct ColumnMasks {
  const int32_t* left;
  const int32_t* right;
  int64_t width;
};

// Any convolution with few inputs; each tap of each channel is a row of pixels.
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

// A group's outputs are computed in blocks of 8, 4, 2 and 1, the largest first,
// up to `max_block`; weights are packed in this order.
struct Kernels {
  const char* name;
  int64_t max_block;
  // Outputs per group from which on Winograd's convolution is faster.
  int64_t winograd_members;
  void (*gather_conv)(const GatherConv&, const Plane& x, const Plane& h,
                      Range pixels, Range groups, float* panel);
  // `sums` has room for 12 rows of kSummedPixels and kAlign before and after.
  void (*group_conv3x3)(const GroupConv3x3&, const ColumnMasks&, const Plane& h,
                        const Plane& out, Range pixels, Range groups,
                        float* sums);
  // `rows` of the image begin at an even row and end at an even row or the last
  // one. Reads one more row of h before and after them where the image has one
  // (no zero padding is needed) and fewer than kAlign pixels more, whose
  // content does not matter. Writes zeros after the image's last row up to a
  // multiple of kAlign.
  void (*winograd_conv3x3)(const WinogradConv3x3&, int64_t height,
                           int64_t width, const Plane& h, const Plane& out,
                           Range rows, Range groups, float* scratch);
  // Floats of scratch memory for at most `rows` image rows.
  int64_t (*winograd_scratch)(const WinogradConv3x3&, int64_t width,
                              int64_t rows);
  // Adds to `out`. `panel` has room for kScatteredPixels per member.
  void (*scatter_conv)(const ScatterConv&, const Plane& x, const Plane& out,
                       Range pixels, float* panel);
  void (*row_conv)(const RowConv&, const float* const* rows, const Plane& out,
                   Range pixels);
  // Returns whether all pixels of a channel in any range are finite.
  bool (*is_finite)(const Plane&, int64_t channel, Range pixels);
  // dst = affine(src), or dst += affine(src).
  void (*affine)(const Affine&, const Plane& src, const Plane& dst,
                 Range pixels, bool accumulate);
  // Sets pixels in any range to zero.
  void (*clear)(const Plane&, Range channels, Range pixels);
  // mean[c] of the first `count` pixels of each channel.
  void (*mean)(const Plane& src, int64_t channels, int64_t count, float* mean);
  // out = weight x, the weight packed (blocks of outputs, inputs,
  // kLinearBlock), outputs a multiple of kLinearBlock.
  void (*linear)(const float* weight, const float* x, int64_t inputs,
                 int64_t outputs, float* out);
  // Separates the even and odd columns of a row.
  void (*split_columns)(const float* src, int64_t pairs, float* even,
                        float* odd);
  // Averages 2x2 pixels of a channel; height and width are the output's.
  void (*pool2x2)(const float* src, int64_t src_width, float* dst,
                  int64_t height, int64_t width);
};

}  // namespace mmcdnv2
