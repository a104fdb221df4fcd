// The part of ONNX Runtime's C API that the operators use. Its layout is stable
// across versions. No Python package contains its headers.
//
// Functions are addressed by their position in a table that only grows. All
// used functions are in version 1.17.

#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtOpAttr;

// Contains only function pointers.
struct OrtApi;

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version) noexcept;
  const char* (*GetVersionString)() noexcept;
};

// The runtime's interface of an operator.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*,
                        const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*,
                               const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShape)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  // Members of versions after kOrtVersion.
  void* later[4];
};

}  // extern "C"

static_assert(offsetof(OrtCustomOp, GetInputCharacteristic) ==
                  10 * sizeof(void*),
              "as in version 1.17");
static_assert(offsetof(OrtCustomOp, KernelComputeV2) == 18 * sizeof(void*),
              "as in version 1.17");
static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void*), "as in version 1.17");

namespace mmcdnv2 {

constexpr uint32_t kOrtVersion = 17;

enum OrtErrorCode { kFail = 1, kInvalidArgument = 2 };
enum OrtElementType { kUndefined = 0, kFloat = 1, kInt64 = 7 };
enum OrtCharacteristic { kRequired = 0, kVariadic = 2 };
enum OrtAttributeType { kInt = 1 };

// The functions by name. Functions that can fail return a status that the
// caller owns, null on success.
class OrtFunctions {
 public:
  using Status = OrtStatus*;
  using Shape = OrtTensorTypeAndShapeInfo;

  explicit OrtFunctions(const OrtApi* api)
      : table_(reinterpret_cast<void (*const*)()>(api)) {}

  bool operator<(const OrtFunctions& other) const {
    return table_ < other.table_;
  }

  // Status.
  Status CreateStatus(OrtErrorCode code, const char* message) const {
    return call<0, Status>(static_cast<int>(code), message);
  }
  void ReleaseStatus(Status status) const { call<93, void>(status); }

  // Registration.
  Status CreateCustomOpDomain(const char* name, OrtCustomOpDomain** out) const {
    return call<26, Status>(name, out);
  }
  Status CustomOpDomainAdd(OrtCustomOpDomain* domain,
                           const OrtCustomOp* op) const {
    return call<27, Status>(domain, op);
  }
  Status AddCustomOpDomain(OrtSessionOptions* options,
                           OrtCustomOpDomain* domain) const {
    return call<28, Status>(options, domain);
  }
  Status HasSessionConfigEntry(const OrtSessionOptions* options,
                               const char* key, int* out) const {
    return call<237, Status>(options, key, out);
  }
  // With a null `value` returns the size, including the terminating zero.
  Status GetSessionConfigEntry(const OrtSessionOptions* options,
                               const char* key, char* value,
                               size_t* size) const {
    return call<238, Status>(options, key, value, size);
  }

  // Tensors.
  Status GetTensorMutableData(const OrtValue* value, void** out) const {
    return call<51, Status>(value, out);
  }
  Status GetTensorTypeAndShape(const OrtValue* value, Shape** out) const {
    return call<65, Status>(value, out);
  }
  Status CastTypeInfoToTensorInfo(const OrtTypeInfo* type,
                                  const Shape** borrowed) const {
    return call<55, Status>(type, borrowed);
  }
  void ReleaseTypeInfo(OrtTypeInfo* type) const { call<98, void>(type); }
  Status CreateShape(Shape** out) const { return call<57, Status>(out); }
  void ReleaseShape(Shape* shape) const { call<99, void>(shape); }
  Status SetElementType(Shape* shape, OrtElementType type) const {
    return call<58, Status>(shape, static_cast<int>(type));
  }
  Status SetDimensions(Shape* shape, const int64_t* dims, size_t count) const {
    return call<59, Status>(shape, dims, count);
  }
  Status GetElementType(const Shape* shape, int* out) const {
    return call<60, Status>(shape, out);
  }
  Status GetDimensionsCount(const Shape* shape, size_t* out) const {
    return call<61, Status>(shape, out);
  }
  Status GetDimensions(const Shape* shape, int64_t* dims, size_t count) const {
    return call<62, Status>(shape, dims, count);
  }
  Status GetSymbolicDimensions(const Shape* shape, const char** borrowed,
                               size_t count) const {
    return call<63, Status>(shape, borrowed, count);
  }
  // After SetDimensions.
  Status SetSymbolicDimensions(Shape* shape, const char** names,
                               size_t count) const {
    return call<271, Status>(shape, names, count);
  }

  // A node, when its kernel is created.
  Status GetAttribute(const OrtKernelInfo* info, const char* name,
                      int64_t* out) const {
    return call<86, Status>(info, name, out);
  }
  // With a null `out` they return the size.
  Status GetAttributes(const OrtKernelInfo* info, const char* name, float* out,
                       size_t* size) const {
    return call<162, Status>(info, name, out, size);
  }
  Status GetAttributes(const OrtKernelInfo* info, const char* name,
                       int64_t* out, size_t* size) const {
    return call<163, Status>(info, name, out, size);
  }
  Status GetInputCount(const OrtKernelInfo* info, size_t* out) const {
    return call<230, Status>(info, out);
  }
  Status GetInputTypeInfo(const OrtKernelInfo* info, size_t index,
                          OrtTypeInfo** out) const {
    return call<234, Status>(info, index, out);
  }
  // With a null `name` returns the size, including the terminating zero.
  Status GetNodeName(const OrtKernelInfo* info, char* name,
                     size_t* size) const {
    return call<244, Status>(info, name, size);
  }
  Status GetConstantInput(const OrtKernelInfo* info, size_t index,
                          int* is_constant, const OrtValue** borrowed) const {
    return call<249, Status>(info, index, is_constant, borrowed);
  }

  // A node, when it runs.
  Status GetInput(const OrtKernelContext* context, size_t index,
                  const OrtValue** borrowed) const {
    return call<90, Status>(context, index, borrowed);
  }
  Status GetOutput(OrtKernelContext* context, size_t index, const int64_t* dims,
                   size_t count, OrtValue** borrowed) const {
    return call<91, Status>(context, index, dims, count, borrowed);
  }
  // With 0 `batches` the runtime chooses the number of calls per thread.
  Status ParallelFor(const OrtKernelContext* context,
                     void (*function)(void* data, size_t i), size_t count,
                     size_t batches, void* data) const {
    return call<274, Status>(context, function, count, batches, data);
  }

  // A node, when shapes are inferred.
  Status GetInputShape(const OrtShapeInferContext* context, size_t index,
                       Shape** borrowed) const {
    return call<268, Status>(context, index, borrowed);
  }
  Status GetAttribute(const OrtShapeInferContext* context, const char* name,
                      const OrtOpAttr** borrowed) const {
    return call<269, Status>(context, name, borrowed);
  }
  Status ReadAttribute(const OrtOpAttr* attribute, int64_t* out) const {
    size_t size = 0;
    return call<272, Status>(attribute, static_cast<int>(kInt),
                             static_cast<void*>(out), sizeof(*out), &size);
  }
  Status SetOutputShape(OrtShapeInferContext* context, size_t index,
                        const Shape* shape) const {
    return call<270, Status>(context, index, shape);
  }

 private:
  // The wrappers' parameters have the types of the C API.
  template <size_t position, class Result, class... Args>
  Result call(Args... args) const {
    return reinterpret_cast<Result (*)(Args...)>(table_[position])(args...);
  }

  void (*const* table_)();
};

}  // namespace mmcdnv2
