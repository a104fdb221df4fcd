// What the example uses of ONNX Runtime's C++ interface, for machines without
// its headers. Only tests are built with it: functions are called by their
// position in the table of version 1.17, without any check of their arguments.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

struct OrtApiBase {
  void (*const* (*GetApi)(uint32_t version))();
};
extern "C" const OrtApiBase* OrtGetApiBase();

namespace Ort {

template <class Result, class... Args>
Result call(size_t position, Args... args) {
  static const auto table = OrtGetApiBase()->GetApi(17);
  return reinterpret_cast<Result (*)(Args...)>(table[position])(args...);
}

// For functions that return a status.
template <class... Args>
void check(size_t position, Args... args) {
  void* status = call<void*>(position, args...);
  if (!status) return;
  const std::runtime_error error(call<const char*>(2, status));
  call<void>(93, status);
  throw error;
}

// An object of the runtime, and where in the table its release is.
template <size_t release>
struct Owned {
  struct Release {
    void operator()(void* object) const { call<void>(release, object); }
  };
  std::unique_ptr<void, Release> owned;

  template <class... Args>
  void make(size_t position, Args... args) {
    void* object = nullptr;
    check(position, args..., &object);
    owned.reset(object);
  }
  void* get() const { return owned.get(); }
};

struct Env : Owned<92> {
  Env(OrtLoggingLevel level, const char* name) {
    make(3, static_cast<int>(level), name);
  }
};

struct SessionOptions : Owned<100> {
  SessionOptions() { make(10); }
  void SetIntraOpNumThreads(int threads) { check(24, get(), threads); }
  void AddConfigEntry(const char* key, const char* value) {
    check(130, get(), key, value);
  }
  void RegisterCustomOpsLibrary(const char* path) { check(228, get(), path); }
};

struct AllocatorWithDefaultOptions {
  void* allocator = nullptr;
  AllocatorWithDefaultOptions() { check(78, &allocator); }
};

struct ModelMetadata : Owned<118> {
  struct Free {
    void* allocator;
    void operator()(void* text) const { check(76, allocator, text); }
  };
  std::unique_ptr<char, Free> LookupCustomMetadataMapAllocated(
      const char* key, const AllocatorWithDefaultOptions& allocator) const {
    char* text = nullptr;
    check(116, get(), allocator.allocator, key, &text);
    return {text, Free{allocator.allocator}};
  }
};

struct MemoryInfo : Owned<94> {
  static MemoryInfo CreateCpu(OrtAllocatorType allocator, OrtMemType type) {
    MemoryInfo info;
    info.make(69, static_cast<int>(allocator), static_cast<int>(type));
    return info;
  }
};

template <class T>
constexpr int kElementType = 0;
template <>
constexpr int kElementType<float> = 1;
template <>
constexpr int kElementType<uint8_t> = 2;

struct Value : Owned<96> {
  template <class T>
  static Value CreateTensor(const MemoryInfo& info, T* data, size_t count,
                            const int64_t* shape, size_t rank) {
    Value value;
    value.make(49, info.get(), static_cast<void*>(data), count * sizeof(T),
               shape, rank, kElementType<T>);
    return value;
  }
  template <class T>
  const T* GetTensorData() const {
    void* data = nullptr;
    check(51, get(), &data);
    return static_cast<const T*>(data);
  }
};

struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};

struct Session : Owned<95> {
  Session(const Env& env, const char* path, const SessionOptions& options) {
    make(7, env.get(), path, options.get());
  }
  ModelMetadata GetModelMetadata() const {
    ModelMetadata metadata;
    metadata.make(111, get());
    return metadata;
  }
  // Of one input.
  std::vector<Value> Run(const RunOptions&, const char* const* inputs,
                         const Value* value, size_t count,
                         const char* const* outputs, size_t output_count) {
    const void* input = value->get();
    std::vector<void*> objects(output_count, nullptr);
    check(9, get(), static_cast<void*>(nullptr), inputs, &input, count, outputs,
          output_count, objects.data());
    std::vector<Value> values(output_count);
    for (size_t i = 0; i < output_count; ++i) values[i].owned.reset(objects[i]);
    return values;
  }
};

}  // namespace Ort
