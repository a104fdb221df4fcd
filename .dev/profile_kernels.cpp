// Times the kernels in a network written by profile_kernels.py. Prints a line
// of JSON for each operator and, last, for the network.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <utility>
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

enum Kind {
  kLgc,
  kConv3x3,
  kSfr,
  kStem,
  kAffine,
  kMean,
  kLinear,
  kPool,
  kKinds
};
const char* const kNames[kKinds] = {"lgc",    "conv3x3", "sfr",    "stem",
                                    "affine", "mean",    "linear", "pool"};
double spent[kKinds];

// The kernels that the packed operators call, with or without timing.
const Kernels* chosen;
Kernels active;

// The overhead of the clock in a measured time.
double clock_cost() {
  double least = 1;
  for (int i = 0; i < 1000; ++i) {
    const double start = now();
    least = std::min(least, now() - start);
  }
  return least;
}
const double clock_ms = clock_cost();

// Calls a kernel and adds its time.
template <Kind kind, auto Kernels::* kernel, class... Args>
void timed(Args... args) {
  const double start = now();
  (chosen->*kernel)(args...);
  spent[kind] += now() - start - clock_ms;
}

template <Kind kind, auto Kernels::* kernel, class... Args>
void wrap(Kernels& kernels, void (*)(Args...)) {
  kernels.*kernel = timed<kind, kernel, Args...>;
}

template <Kind kind, auto Kernels::* kernel>
void wrap(Kernels& kernels) {
  wrap<kind, kernel>(kernels, kernels.*kernel);
}

// Kernels that are not listed here are not timed.
Kernels timed_kernels() {
  Kernels result = *chosen;
  wrap<kLgc, &Kernels::gather_conv>(result);
  wrap<kConv3x3, &Kernels::group_conv3x3>(result);
  wrap<kConv3x3, &Kernels::winograd_conv3x3>(result);
  wrap<kSfr, &Kernels::scatter_conv>(result);
  wrap<kStem, &Kernels::row_conv>(result);
  wrap<kStem, &Kernels::split_columns>(result);
  wrap<kAffine, &Kernels::affine>(result);
  wrap<kMean, &Kernels::mean>(result);
  wrap<kLinear, &Kernels::linear>(result);
  wrap<kPool, &Kernels::pool2x2>(result);
  return result;
}

// Reads the file of the Python script: 64-bit numbers and raw tensors.
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

// An operator's arguments and the memory they refer to.
struct Owned {
  Arguments arguments;
  std::vector<std::vector<char>> tensors;
};

Owned read_arguments(File& file) {
  Owned owned;
  owned.arguments.spec = file.numbers();
  owned.arguments.eps = file.doubles();
  const int64_t params = file.number();
  for (int64_t p = 0; p < params; ++p) {
    const bool is_float = file.number();
    TensorView view = {nullptr,
                       is_float ? ElementType::kFloat : ElementType::kInt64,
                       file.numbers()};
    owned.tensors.push_back(file.bytes(view.size() * (is_float ? 4 : 8)));
    view.data = owned.tensors.back().data();
    owned.arguments.params.push_back(view);
  }
  return owned;
}

struct Operator {
  std::variant<Stem, DenseBlock> packed;
  bool pool;
};

struct Map {
  int64_t channels, height, width;
  std::vector<float> pixels;

  Map(int64_t channels, int64_t height, int64_t width)
      : channels(channels),
        height(height),
        width(width),
        pixels(channels * height * width) {}
};

Map output_of(const Operator& op, const Map& in) {
  if (const auto* stem = std::get_if<Stem>(&op.packed))
    return {stem->out_channels, Stem::halved(in.height),
            Stem::halved(in.width)};
  const int64_t factor = op.pool ? 2 : 1;
  return {std::get<DenseBlock>(op.packed).out_channels, in.height / factor,
          in.width / factor};
}

void run(const Operator& op, const Map& in, Map& out) {
  const Parallel serial = Parallel::serial();
  if (const auto* stem = std::get_if<Stem>(&op.packed))
    stem->run(in.pixels.data(), 1, in.height, in.width, out.pixels.data(),
              serial);
  else
    std::get<DenseBlock>(op.packed).run(in.pixels.data(), 1, in.height,
                                        in.width, op.pool, out.pixels.data(),
                                        serial);
}

// The minimum or the median.
double typical(std::vector<double> values, bool least) {
  const auto place = values.begin() + (least ? 0 : values.size() / 2);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

void profile(const char* path, int64_t height, int64_t width, int rounds,
             bool least) {
  active = *chosen;
  File file(path);
  std::vector<Operator> operators;
  std::vector<Map> maps;
  const int64_t count = file.number();
  for (int64_t i = 0; i < count; ++i) {
    const bool pool = file.number();
    const Owned owned = read_arguments(file);
    if (i == 0) {
      Stem stem = read_stem(active, owned.arguments);
      maps.emplace_back(stem.in_channels, height, width);
      operators.push_back({std::move(stem), false});
    } else {
      operators.push_back({read_dense_block(active, owned.arguments), pool});
    }
    maps.push_back(output_of(operators.back(), maps.back()));
  }
  for (size_t i = 0; i < maps[0].pixels.size(); ++i)
    maps[0].pixels[i] = static_cast<float>(i * 7919 % 255) / 127.f - 1.f;

  // By operator: its time without timing inside, and the time of each kind.
  std::vector<std::vector<double>> totals(count), kinds(count * kKinds);
  std::vector<double> whole;
  const Kernels timing = timed_kernels();
  // The first round is a warm-up.
  for (int round = 0; round <= rounds; ++round) {
    active = *chosen;
    const double first = now();
    for (int64_t i = 0; i < count; ++i) {
      const double start = now();
      run(operators[i], maps[i], maps[i + 1]);
      if (round) totals[i].push_back(now() - start);
    }
    if (round) whole.push_back(now() - first);
    active = timing;
    for (int64_t i = 0; i < count; ++i) {
      std::fill(spent, spent + kKinds, 0.0);
      run(operators[i], maps[i], maps[i + 1]);
      for (int kind = 0; kind < kKinds; ++kind)
        if (round) kinds[i * kKinds + kind].push_back(spent[kind]);
    }
  }

  for (int64_t i = 0; i < count; ++i) {
    std::printf("{\"ms\": %.4f", typical(totals[i], least));
    for (int kind = 0; kind < kKinds; ++kind)
      std::printf(", \"%s\": %.4f", kNames[kind],
                  typical(kinds[i * kKinds + kind], least));
    std::printf("}\n");
  }
  std::printf("{\"ms\": %.4f, \"kernels\": \"%s\"}\n", typical(whole, least),
              chosen->name);
}

}  // namespace

// Arguments: file, height, width, rounds, 1 for minima or 0 for medians, and
// the kernels' name or '' for the best.
int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const std::string name = argv[6];
  for (const Kernels* kernels : supported_kernels())
    if (!chosen && (name.empty() || name == kernels->name)) chosen = kernels;
  if (!chosen) {
    std::fprintf(stderr, "this processor has no kernels called %s", argv[6]);
    return 1;
  }
  try {
    profile(argv[1], std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]),
            std::atoi(argv[5]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s", error.what());
    return 1;
  }
  return 0;
}
