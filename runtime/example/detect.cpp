// Runs a detector that mmcdnv2 exported on an image, with ONNX Runtime alone.
//
//   detect MODEL.onnx IMAGE.ppm LIBRARY.so [THREADS] [SCORE]
//
// LIBRARY.so is libmmcdnv2_onnxruntime.so of the Python package, where
// `python -c "import mmcdnv2_runtime as m; print(m.library_path())"` shows it,
// and which any wheel of mmcdnv2-runtime holds (unzip it). A file of standard
// operators needs none: give "-". Images are binary PPM or PGM of 8 bits, as
// ImageMagick, ffmpeg or netpbm write them.
//
// It prepares images by the file's metadata, as far as detectors need them:
// they are resized, to the very pixels of OpenCV, and padded.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Image {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> pixels;  // Rows of red, green, blue.
};

// What the network takes, and how much larger it is than the original.
struct Input {
  Image image;
  double scale_x = 1;
  double scale_y = 1;
};

// The next number of a PPM's header; comments begin with '#'.
int header_number(std::istream& stream) {
  while ((stream >> std::ws).peek() == '#') {
    std::string comment;
    std::getline(stream, comment);
  }
  int number = 0;
  if (!(stream >> number) || number < 1 || number > 65535)
    throw std::runtime_error("damaged header");
  return number;
}

Image read_image(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string kind(2, ' ');
  stream.read(&kind[0], 2);
  if (!stream || (kind != "P6" && kind != "P5"))
    throw std::runtime_error("no binary PPM or PGM");
  Image image;
  image.width = header_number(stream);
  image.height = header_number(stream);
  if (header_number(stream) != 255) throw std::runtime_error("not of 8 bits");
  stream.get();
  const size_t count = size_t(image.height) * image.width;
  image.pixels.resize(count * 3);
  std::vector<uint8_t> grey(kind == "P5" ? count : 0);
  std::vector<uint8_t>& target = kind == "P5" ? grey : image.pixels;
  stream.read(reinterpret_cast<char*>(target.data()), target.size());
  if (!stream) throw std::runtime_error("it ends too early");
  for (size_t i = 0; i < grey.size(); ++i)
    std::fill_n(&image.pixels[i * 3], 3, grey[i]);
  return image;
}

// Two neighbours of each pixel of a resized row, with OpenCV's weights.
struct Taps {
  std::vector<int> first, second, first_weight, second_weight;

  Taps(int source, int target) {
    const double scale = static_cast<double>(source) / target;
    for (int i = 0; i < target; ++i) {
      const float position = static_cast<float>((i + 0.5) * scale - 0.5);
      const int left = static_cast<int>(std::floor(position));
      const float offset = position - left;
      first.push_back(std::clamp(left, 0, source - 1));
      second.push_back(std::clamp(left + 1, 0, source - 1));
      first_weight.push_back(std::lrint((1 - offset) * 2048));
      second_weight.push_back(std::lrint(offset * 2048));
    }
  }
};

Image resize(const Image& image, int height, int width) {
  const Taps x(image.width, width), y(image.height, height);
  auto along_row = [&](int row, int column, int channel) {
    const uint8_t* pixels = &image.pixels[size_t(row) * image.width * 3];
    return (pixels[x.first[column] * 3 + channel] * x.first_weight[column] +
            pixels[x.second[column] * 3 + channel] * x.second_weight[column]) >>
           4;
  };
  Image out{height, width, std::vector<uint8_t>(size_t(height) * width * 3)};
  uint8_t* pixel = out.pixels.data();
  for (int row = 0; row < height; ++row) {
    for (int column = 0; column < width; ++column) {
      for (int c = 0; c < 3; ++c) {
        const int above = along_row(y.first[row], column, c);
        const int below = along_row(y.second[row], column, c);
        *pixel++ = (((above * y.first_weight[row]) >> 16) +
                    ((below * y.second_weight[row]) >> 16) + 2) >>
                   2;
      }
    }
  }
  return out;
}

Image pad(const Image& image, int height, int width,
          const std::vector<int>& value) {
  if (height < image.height || width < image.width)
    throw std::runtime_error("the image does not fit into the network's input");
  Image out{height, width, std::vector<uint8_t>(size_t(height) * width * 3)};
  for (size_t i = 0; i < out.pixels.size(); ++i)
    out.pixels[i] = value.at(i % 3);
  for (int row = 0; row < image.height; ++row) {
    const uint8_t* source = &image.pixels[size_t(row) * image.width * 3];
    std::copy_n(source, size_t(image.width) * 3,
                &out.pixels[size_t(row) * width * 3]);
  }
  return out;
}

// The metadata are JSON of a simple kind: what follows a key, as text.
std::string after(const std::string& json, const std::string& key) {
  std::smatch match;
  const std::regex pattern("\"" + key +
                           "\": *(\\[[^\\]]*\\]|\"[^\"]*\"|[^,}]*)");
  if (!std::regex_search(json, match, pattern))
    throw std::runtime_error("the file's metadata have no " + key);
  const std::string text = match[1];
  return text[0] == '"' ? text.substr(1, text.size() - 2) : text;
}

std::vector<std::string> all(const std::string& text, const char* pattern) {
  std::vector<std::string> found;
  const std::regex regex(pattern);
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end;
       ++it)
    found.push_back((*it)[it->size() - 1]);
  return found;
}

std::vector<int> numbers(const std::string& text) {
  std::vector<int> found;
  for (const std::string& number : all(text, "(-?[0-9.]+)"))
    found.push_back(static_cast<int>(std::stod(number)));
  return found;
}

void resize_to(Input* input, int height, int width) {
  const Image& image = input->image;
  if (height < 1 || width < 1)
    throw std::runtime_error("the image is too narrow");
  input->scale_x *= static_cast<double>(width) / image.width;
  input->scale_y *= static_cast<double>(height) / image.height;
  input->image = resize(image, height, width);
}

// Takes the steps of the file's metadata. `bgr` says that they name colours in
// that order.
Input prepare(const Image& original, const std::string& steps, bool bgr) {
  Input input{original};
  for (const std::string& step : all(steps, "\\{([^{}]*)\\}")) {
    const std::string op = after(step, "op");
    const std::string mode = op == "resize" ? after(step, "mode") : "";
    if (op == "resize" && (after(step, "interpolation") != "bilinear" ||
                           after(step, "antialias") != "false"))
      throw std::runtime_error("this example resizes by OpenCV's bilinear");
    const int height = input.image.height, width = input.image.width;
    if (mode == "stretch") {
      const std::vector<int> size = numbers(after(step, "size"));
      resize_to(&input, size.at(0), size.at(1));
    } else if (mode == "fit") {
      const double longer = numbers(after(step, "long")).at(0);
      const double shorter = numbers(after(step, "short")).at(0);
      const double factor = std::min(longer / std::max(height, width),
                                     shorter / std::min(height, width));
      resize_to(&input, static_cast<int>(height * factor + 0.5),
                static_cast<int>(width * factor + 0.5));
    } else if (op == "pad") {
      const std::vector<int> size = numbers(after(step, "size"));
      std::vector<int> value = numbers(after(step, "value"));
      if (bgr) std::swap(value.at(0), value.at(2));
      input.image = pad(input.image, size.at(0), size.at(1), value);
    } else {
      throw std::runtime_error("this example has no step " + op + " " + mode);
    }
  }
  return input;
}

std::string metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::ModelMetadata all = session.GetModelMetadata();
  const auto value = all.LookupCustomMetadataMapAllocated(key, allocator);
  if (!value) throw std::runtime_error("mmcdnv2 did not export this file");
  return value.get();
}

void run(const std::string& model, const std::string& image_path,
         const std::string& library, int threads, float threshold) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "detect");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  if (library != "-") {
    // Read when the library is registered, so it comes first.
    options.AddConfigEntry("mmcdnv2.intra_op_num_threads",
                           std::to_string(threads).c_str());
    options.RegisterCustomOpsLibrary(library.c_str());
  }
  Ort::Session session(env, model.c_str(), options);
  if (metadata(session, "mmcdnv2.task") != "detection" ||
      metadata(session, "mmcdnv2.raw") != "false")
    throw std::runtime_error("a detector with decoded boxes was expected");
  const std::string spec = metadata(session, "mmcdnv2.input");
  const bool bgr = after(spec, "channel_order") == "BGR";
  const bool floats = after(spec, "dtype") == "float32";

  const Input input = prepare(read_image(image_path),
                              metadata(session, "mmcdnv2.preprocess"), bgr);
  const Image& image = input.image;
  const size_t plane = size_t(image.height) * image.width;
  std::vector<uint8_t> bytes(plane * 3);
  for (size_t i = 0; i < plane; ++i) {
    for (size_t c = 0; c < 3; ++c)
      bytes[(bgr ? 2 - c : c) * plane + i] = image.pixels[i * 3 + c];
  }
  std::vector<float> values(bytes.begin(),
                            floats ? bytes.end() : bytes.begin());

  const auto memory =
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const int64_t shape[] = {1, 3, image.height, image.width};
  const Ort::Value tensor =
      floats ? Ort::Value::CreateTensor<float>(memory, values.data(),
                                               values.size(), shape, 4)
             : Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(),
                                                 bytes.size(), shape, 4);
  const char* inputs[] = {"images"};
  const char* outputs[] = {"boxes", "scores", "labels", "counts"};
  const std::vector<Ort::Value> found =
      session.Run(Ort::RunOptions{nullptr}, inputs, &tensor, 1, outputs, 4);

  const float* boxes = found[0].GetTensorData<float>();
  const float* scores = found[1].GetTensorData<float>();
  const int64_t* labels = found[2].GetTensorData<int64_t>();
  const int64_t count = *found[3].GetTensorData<int64_t>();
  const std::vector<std::string> names =
      all(metadata(session, "mmcdnv2.classes"), "\"((?:[^\"\\\\]|\\\\.)*)\"");
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] < threshold) continue;
    const size_t label = labels[i];
    const std::string name =
        label < names.size() ? names[label] : std::to_string(label);
    // Back to the image's pixels. Padding is on the right and at the bottom.
    const float* box = boxes + i * 4;
    const float x = input.scale_x, y = input.scale_y;
    std::printf("%s %.4f %.1f %.1f %.1f %.1f\n", name.c_str(), scores[i],
                box[0] / x, box[1] / y, box[2] / x, box[3] / y);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::fprintf(
        stderr, "usage: %s MODEL.onnx IMAGE.ppm LIBRARY.so [THREADS] [SCORE]\n",
        argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argc > 4 ? std::stoi(argv[4]) : 1,
        argc > 5 ? std::stof(argv[5]) : 0.3f);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
