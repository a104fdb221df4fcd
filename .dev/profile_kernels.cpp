// Times the kernels' parts in a network that profile_kernels.py has written:
// prints a line of JSON for each operator.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "core/argument_reader.hpp"
#include "core/dispatch.hpp"

namespace {

using namespace mmcdnv2;

double now() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

enum Kind { kLgc, kConv3x3, kSfr, kStem, kAffine, kMean, kLinear, kPool, kKinds };
const char* const kNames[kKinds] = {"lgc",    "conv3x3", "sfr",    "stem",
                                    "affine", "mean",    "linear", "pool"};
double spent[kKinds];
const Kernels* inner;

// Calls a kernel and adds the time that it takes.
template <Kind kind, auto Kernels::* kernel, class... Args>
void timed(Args... args) {
  const double start = now();
  (inner->*kernel)(args...);
  spent[kind] += now() - start;
}

template <Kind kind, auto Kernels::* kernel, class... Args>
void wrap(Kernels& kernels, void (*)(Args...)) {
  kernels.*kernel = timed<kind, kernel, Args...>;
}

Kernels timed_kernels(const Kernels& kernels) {
  inner = &kernels;
  Kernels result = kernels;
  wrap<kLgc, &Kernels::gather_conv>(result, kernels.gather_conv);
  wrap<kConv3x3, &Kernels::group_conv3x3>(result, kernels.group_conv3x3);
  wrap<kSfr, &Kernels::scatter_conv>(result, kernels.scatter_conv);
  wrap<kStem, &Kernels::row_conv>(result, kernels.row_conv);
  wrap<kAffine, &Kernels::affine>(result, kernels.affine);
  wrap<kMean, &Kernels::mean>(result, kernels.mean);
  wrap<kLinear, &Kernels::linear>(result, kernels.linear);
  wrap<kPool, &Kernels::pool2x2>(result, kernels.pool2x2);
  return result;
}

// Reads what the Python side wrote: 64-bit numbers and raw tensors.
class File {
 public:
  explicit File(const char* path) : in_(path, std::ios::binary) {
    in_.exceptions(std::ios::failbit | std::ios::badbit | std::ios::eofbit);
  }
  int64_t number() {
    int64_t value;
    in_.read(reinterpret_cast<char*>(&value), sizeof(value));
    return value;
  }
  std::vector<int64_t> numbers() {
    std::vector<int64_t> values(number());
    for (int64_t& value : values) value = number();
    return values;
  }
  std::vector<double> doubles() {
    std::vector<double> values(number());
    in_.read(reinterpret_cast<char*>(values.data()),
             values.size() * sizeof(double));
    return values;
  }
  std::vector<char> bytes(int64_t size) {
    std::vector<char> values(size);
    in_.read(values.data(), size);
    return values;
  }

 private:
  std::ifstream in_;
};

struct Operator {
  std::variant<Stem, DenseBlock> packed;
  bool pool;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int64_t height = std::atoi(argv[2]), width = std::atoi(argv[3]);
  const int rounds = std::atoi(argv[4]);
  const std::string isa = argv[5];
  const Kernels* chosen = nullptr;
  for (const Kernels* kernels : supported_kernels())
    if (!chosen && (isa.empty() || isa == kernels->name)) chosen = kernels;
  if (!chosen) {
    std::fprintf(stderr, "This processor has no kernels called %s.\n", argv[5]);
    return 2;
  }
  const Kernels timing = timed_kernels(*chosen);

  File file(argv[1]);
  std::vector<Operator> plain, profiled;
  int64_t channels = 0;
  const int64_t count = file.number();
  for (int64_t i = 0; i < count; ++i) {
    const bool pool = file.number();
    Arguments arguments;
    arguments.spec = file.numbers();
    arguments.eps = file.doubles();
    std::vector<std::vector<char>> owners;
    const int64_t params = file.number();
    for (int64_t p = 0; p < params; ++p) {
      const bool is_float = file.number();
      TensorView view = {nullptr,
                         is_float ? ElementType::kFloat : ElementType::kInt64,
                         file.numbers()};
      owners.push_back(file.bytes(view.size() * (is_float ? 4 : 8)));
      view.data = owners.back().data();
      arguments.params.push_back(view);
    }
    for (const bool profile : {false, true}) {
      const Kernels& kernels = profile ? timing : *chosen;
      std::vector<Operator>& to = profile ? profiled : plain;
      if (i == 0) {
        to.push_back({read_stem(kernels, arguments), false});
        channels = std::get<Stem>(to.back().packed).in_channels;
      } else {
        to.push_back({read_dense_block(kernels, arguments), pool});
      }
    }
  }

  std::vector<std::vector<float>> maps = {
      std::vector<float>(channels * height * width)};
  for (size_t i = 0; i < maps[0].size(); ++i)
    maps[0][i] = static_cast<float>(i * 7919 % 255) / 127.f - 1.f;
  struct Shape {
    int64_t height, width;
  };
  std::vector<Shape> shapes = {{height, width}};
  for (const Operator& op : plain) {
    Shape shape = shapes.back();
    int64_t outputs;
    if (const auto* stem = std::get_if<Stem>(&op.packed)) {
      shape = {Stem::halved(shape.height), Stem::halved(shape.width)};
      outputs = stem->out_channels;
    } else {
      if (op.pool) shape = {shape.height / 2, shape.width / 2};
      outputs = std::get<DenseBlock>(op.packed).out_channels;
    }
    shapes.push_back(shape);
    maps.emplace_back(outputs * shape.height * shape.width);
  }
  const auto run = [&](const Operator& op, size_t i) {
    const Shape in = shapes[i];
    const float* x = maps[i].data();
    float* out = maps[i + 1].data();
    if (const auto* stem = std::get_if<Stem>(&op.packed))
      stem->run(x, 1, in.height, in.width, out, Parallel::serial());
    else
      std::get<DenseBlock>(op.packed)
          .run(x, 1, in.height, in.width, op.pool, out, Parallel::serial());
  };

  std::vector<std::vector<double>> totals(plain.size());
  std::vector<std::vector<std::vector<double>>> kinds(
      plain.size(), std::vector<std::vector<double>>(kKinds));
  std::vector<double> whole;
  for (int round = 0; round < rounds; ++round) {
    const double first = now();
    for (size_t i = 0; i < plain.size(); ++i) {
      const double start = now();
      run(plain[i], i);
      totals[i].push_back(now() - start);
    }
    whole.push_back(now() - first);
    for (size_t i = 0; i < profiled.size(); ++i) {
      std::fill(spent, spent + kKinds, 0.0);
      run(profiled[i], i);
      for (int kind = 0; kind < kKinds; ++kind)
        kinds[i][kind].push_back(spent[kind]);
    }
  }
  const auto median = [](std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2,
                     values.end());
    return values[values.size() / 2];
  };
  for (size_t i = 0; i < plain.size(); ++i) {
    std::printf("{\"kernels\": \"%s\", \"ms\": %.4f", chosen->name,
                median(totals[i]));
    for (int kind = 0; kind < kKinds; ++kind)
      std::printf(", \"%s\": %.4f", kNames[kind], median(kinds[i][kind]));
    std::printf("}\n");
  }
  std::printf("{\"kernels\": \"%s\", \"ms\": %.4f, \"best\": %.4f}\n",
              chosen->name, median(whole),
              *std::min_element(whole.begin(), whole.end()));
}
