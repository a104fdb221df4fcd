// The ONNX Runtime operators.
//
// No exception leaves the library: functions called by the runtime return a
// status.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/argument_reader.hpp"
#include "core/dispatch.hpp"
#include "core/fork_lock.hpp"
#include "core/parallel.hpp"
#include "onnxruntime/c_api.hpp"

namespace mmcdnv2 {
namespace {

using Dims = std::vector<int64_t>;

// The status of a failed function of the runtime.
struct Failure {
  OrtStatus* status;
};

void require(OrtStatus* status) {
  if (status) throw Failure{status};
}

// Calls f and returns the status of its failure, or null. `where` returns the
// prefix of the message.
template <class F, class Where>
OrtStatus* status_of(const OrtFunctions& ort, const F& f,
                     const Where& where) noexcept {
  try {
    try {
      f();
      return nullptr;
    } catch (const std::logic_error& error) {
      const std::string text = "mmcdnv2: " + where() + error.what();
      return ort.CreateStatus(kInvalidArgument, text.c_str());
    }
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return ort.CreateStatus(kFail, "mmcdnv2: there is not enough memory");
  } catch (...) {
    return ort.CreateStatus(kFail, "mmcdnv2: an unknown error");
  }
}

template <class F>
OrtStatus* status_of(const OrtFunctions& ort, const F& f) noexcept {
  return status_of(ort, f, [] { return std::string(); });
}

// The shared state of the operators of a registration.
struct Host {
  OrtFunctions ort;
  int64_t threads;
  const Kernels* kernels;
};

ElementType element_type(const OrtFunctions& ort,
                         const OrtTensorTypeAndShapeInfo* shape) {
  int type = kUndefined;
  require(ort.GetElementType(shape, &type));
  return type == kFloat   ? ElementType::kFloat
         : type == kInt64 ? ElementType::kInt64
                          : ElementType::kOther;
}

// Unknown sizes are -1; an empty result may mean an unknown number of
// dimensions.
Dims dims_of(const OrtFunctions& ort, const OrtTensorTypeAndShapeInfo* shape) {
  size_t count = 0;
  require(ort.GetDimensionsCount(shape, &count));
  Dims dims(count);
  require(ort.GetDimensions(shape, dims.data(), count));
  return dims;
}

TensorView view_of(const OrtFunctions& ort, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* shape = nullptr;
  require(ort.GetTensorTypeAndShape(value, &shape));
  const auto release = [&](OrtTensorTypeAndShapeInfo* s) {
    ort.ReleaseShape(s);
  };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owner(
      shape, release);
  void* data = nullptr;
  require(ort.GetTensorMutableData(value, &data));
  return {data, element_type(ort, shape), dims_of(ort, shape)};
}

// A node whose kernel is being created.
class Node {
 public:
  Node(const Host& host, const OrtKernelInfo* info)
      : kernels(*host.kernels), ort_(host.ort), info_(info) {}

  // The arguments after the first `inputs` inputs. They live as long as the
  // node.
  Arguments arguments(size_t inputs) const {
    size_t count = 0;
    require(ort_.GetInputCount(info_, &count));
    Arguments arguments = {
        {}, attributes<int64_t>("spec"), attributes<double, float>("eps")};
    for (size_t i = inputs; i < count; ++i) {
      int is_constant = 0;
      const OrtValue* value = nullptr;
      require(ort_.GetConstantInput(info_, i, &is_constant, &value));
      check(is_constant && value, "parameter ", i - inputs,
            " must be an initializer that is no input of the graph");
      arguments.params.push_back(view_of(ort_, value));
    }
    return arguments;
  }

  std::string name() const {
    size_t size = 0;
    require(ort_.GetNodeName(info_, nullptr, &size));
    std::string name(size, 0);
    require(ort_.GetNodeName(info_, &name[0], &size));
    return name.c_str();
  }

  int64_t attribute(const char* name) const {
    int64_t value = 0;
    OrtStatus* status = ort_.GetAttribute(info_, name, &value);
    if (status) ort_.ReleaseStatus(status);
    check(!status, "the attribute ", name, " is missing or no integer");
    return value;
  }

  // Number of channels of an input (N, C, H, W).
  int64_t channels(size_t input) const {
    OrtTypeInfo* type = nullptr;
    require(ort_.GetInputTypeInfo(info_, input, &type));
    const auto release = [&](OrtTypeInfo* t) { ort_.ReleaseTypeInfo(t); };
    const std::unique_ptr<OrtTypeInfo, decltype(release)> owner(type, release);
    const OrtTensorTypeAndShapeInfo* shape = nullptr;
    require(ort_.CastTypeInfoToTensorInfo(type, &shape));
    const Dims dims = shape ? dims_of(ort_, shape) : Dims();
    check(dims.size() == 4 && dims[1] > 0,
          "the graph must tell how many "
          "channels input ",
          input, " has");
    return dims[1];
  }

  const Kernels& kernels;

 private:
  // Empty if the attribute is missing or has another type.
  template <class T, class Stored = T>
  std::vector<T> attributes(const char* name) const {
    size_t size = 0;
    Stored* nothing = nullptr;
    if (OrtStatus* status = ort_.GetAttributes(info_, name, nothing, &size)) {
      ort_.ReleaseStatus(status);
      return {};
    }
    std::vector<Stored> values(size);
    require(ort_.GetAttributes(info_, name, values.data(), &size));
    return std::vector<T>(values.begin(), values.end());
  }

  const OrtFunctions& ort_;
  const OrtKernelInfo* info_;
};

// An input of an operator.
struct Images {
  const float* data;
  int64_t count, channels, height, width;

  int64_t pixels() const { return product({height, width}); }
};

// A call of an operator.
class Call {
 public:
  Call(const Host& host, OrtKernelContext* context)
      : host_(host), context_(context) {}

  Images images(size_t index, int64_t channels) const {
    const OrtValue* value = nullptr;
    require(host_.ort.GetInput(context_, index, &value));
    check(value, "input ", index, " is missing");
    const TensorView x = view_of(host_.ort, value);
    check(x.type == ElementType::kFloat && x.dims.size() == 4,
          "a float32 tensor (N, C, H, W) was expected");
    check(x.dims[1] == channels, channels, " channels were expected, got ",
          x.dims[1]);
    return {static_cast<const float*>(x.data), x.dims[0], x.dims[1], x.dims[2],
            x.dims[3]};
  }

  // Null if the output is empty.
  float* output(const Dims& dims) const {
    OrtValue* value = nullptr;
    require(host_.ort.GetOutput(context_, 0, dims.data(), dims.size(), &value));
    void* data = nullptr;
    require(host_.ort.GetTensorMutableData(value, &data));
    for (const int64_t dim : dims)
      if (dim == 0) return nullptr;
    return static_cast<float*>(data);
  }

  Parallel parallel() const {
    if (host_.threads == 1) return Parallel::serial();
    return {host_.threads, [this](int64_t count, const Parallel::Task& task) {
              run(count, task);
            }};
  }

 private:
  struct Loop {
    const Parallel::Task& task;
    std::atomic<bool> failed;
    std::exception_ptr error;

    static void step(void* data, size_t i) noexcept {
      Loop& loop = *static_cast<Loop*>(data);
      try {
        loop.task(static_cast<int64_t>(i));
      } catch (...) {
        if (!loop.failed.exchange(true)) loop.error = std::current_exception();
      }
    }
  };

  void run(int64_t count, const Parallel::Task& task) const {
    if (count == 1) return task(0);
    Loop loop = {task, {false}, nullptr};
    require(host_.ort.ParallelFor(context_, Loop::step,
                                  static_cast<size_t>(count), 0, &loop));
    if (loop.error) std::rethrow_exception(loop.error);
  }

  const Host& host_;
  OrtKernelContext* context_;
};

// A size, -1 if unknown. Equal names mean equal sizes.
struct Dim {
  int64_t size;
  std::string name;
};

Dim halved(const Dim& dim, bool rounded_up) {
  if (dim.size >= 0)
    return {dim.size / 2 + (rounded_up ? dim.size % 2 : 0), ""};
  if (dim.name.empty()) return dim;
  return {-1, (rounded_up ? "ceil(" : "floor(") + dim.name + " / 2)"};
}

// A node whose output shape is being inferred.
class Inference {
 public:
  using Shape = std::vector<Dim>;

  Inference(const Host& host, OrtShapeInferContext* context)
      : ort_(host.ort), context_(context) {}

  // Always four dimensions, possibly unknown.
  Shape input(size_t index) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    require(ort_.GetInputShape(context_, index, &info));
    const Dims dims = dims_of(ort_, info);
    Shape shape(4, {-1, ""});
    if (dims.size() != shape.size()) return shape;
    std::vector<const char*> names(dims.size());
    require(ort_.GetSymbolicDimensions(info, names.data(), names.size()));
    for (size_t i = 0; i < dims.size(); ++i) shape[i] = {dims[i], names[i]};
    return shape;
  }

  int64_t attribute(const char* name) const {
    const OrtOpAttr* attribute = nullptr;
    require(ort_.GetAttribute(context_, name, &attribute));
    check(attribute, name, " is missing");
    int64_t value = 0;
    require(ort_.ReadAttribute(attribute, &value));
    // The kernel checks it against the parameters.
    check(value >= 0 && value <= INT32_MAX, name, " is out of range");
    return value;
  }

  void set_output(Shape shape) const {
    Dims dims;
    std::vector<const char*> names;
    for (Dim& dim : shape) {
      // The runtime would treat -1 without a name as a size.
      if (dim.size < 0 && dim.name.empty()) dim.name = new_name();
      dims.push_back(dim.size);
      names.push_back(dim.name.c_str());
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    require(ort_.CreateShape(&info));
    const auto release = [&](OrtTensorTypeAndShapeInfo* shape_info) {
      ort_.ReleaseShape(shape_info);
    };
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owner(
        info, release);
    require(ort_.SetElementType(info, kFloat));
    require(ort_.SetDimensions(info, dims.data(), dims.size()));
    require(ort_.SetSymbolicDimensions(info, names.data(), names.size()));
    require(ort_.SetOutputShape(context_, 0, info));
  }

 private:
  static std::string new_name() {
    static std::atomic<int64_t> count{0};
    return "mmcdnv2_" + std::to_string(count++);
  }

  const OrtFunctions& ort_;
  OrtShapeInferContext* context_;
};

// Checks that the parameters give the number of channels stated in the graph.
void check_output(int64_t channels, int64_t stated) {
  check(channels == stated, "the parameters give ", channels,
        " channels, not the stated ", stated);
}

class StemKernel {
 public:
  static constexpr const char* kName = "Stem";
  static constexpr size_t kInputs = 1;

  explicit StemKernel(const Node& node)
      : stem_(read_stem(node.kernels, node.arguments(kInputs))) {
    check_output(stem_.out_channels, node.attribute("out_channels"));
  }

  void compute(const Call& call) const {
    const Images x = call.images(0, stem_.in_channels);
    float* out = call.output({x.count, stem_.out_channels,
                              Stem::halved(x.height), Stem::halved(x.width)});
    if (out)
      stem_.run(x.data, x.count, x.height, x.width, out, call.parallel());
  }

  static Inference::Shape infer(const Inference& node) {
    const Inference::Shape shape = node.input(0);
    return {shape[0],
            {node.attribute("out_channels"), ""},
            halved(shape[2], true),
            halved(shape[3], true)};
  }

 private:
  Stem stem_;
};

class DenseBlockKernel {
 public:
  static constexpr const char* kName = "DenseBlock";
  static constexpr size_t kInputs = 1;

  explicit DenseBlockKernel(const Node& node)
      : block_(read_dense_block(node.kernels, node.arguments(kInputs))),
        pool_(node.attribute("pool")) {
    check_output(block_.out_channels - block_.in_channels,
                 node.attribute("new_channels"));
  }

  void compute(const Call& call) const {
    const Images x = call.images(0, block_.in_channels);
    const int64_t shrink = pool_ ? 2 : 1;
    check(x.height >= shrink && x.width >= shrink, "an input of ", x.height,
          " x ", x.width, " pixels is too small for this block");
    float* out = call.output(
        {x.count, block_.out_channels, x.height / shrink, x.width / shrink});
    if (out)
      block_.run(x.data, x.count, x.height, x.width, pool_, out,
                 call.parallel());
  }

  static Inference::Shape infer(const Inference& node) {
    Inference::Shape shape = node.input(0);
    const int64_t channels = shape[1].size;
    const int64_t added = node.attribute("new_channels");
    check(channels <= INT32_MAX, "the input has too many channels");
    shape[1] = {channels < 0 ? -1 : channels + added, ""};
    if (!node.attribute("pool")) return shape;
    return {shape[0], shape[1], halved(shape[2], false),
            halved(shape[3], false)};
  }

 private:
  DenseBlock block_;
  bool pool_;
};

class ReactivateKernel {
 public:
  static constexpr const char* kName = "Reactivate";
  static constexpr size_t kInputs = 2;

  explicit ReactivateKernel(const Node& node)
      : reactivation_(read_reactivation(node.kernels, node.arguments(kInputs),
                                        node.channels(1), node.channels(0))) {}

  void compute(const Call& call) const {
    const Images old = call.images(0, reactivation_.out_channels);
    const Images features = call.images(1, reactivation_.in_channels);
    check(old.count == features.count && old.height == features.height &&
              old.width == features.width,
          "old and new features must be of equal size");
    float* out = call.output({old.count, old.channels, old.height, old.width});
    if (out)
      reactivation_.run(old.data, features.data, old.count, old.pixels(), out,
                        call.parallel());
  }

  static Inference::Shape infer(const Inference& node) { return node.input(0); }

 private:
  Reactivation reactivation_;
};

class LearnedGroupConvKernel {
 public:
  static constexpr const char* kName = "LearnedGroupConv";
  static constexpr size_t kInputs = 1;

  explicit LearnedGroupConvKernel(const Node& node)
      : conv_(read_learned_group_conv(node.kernels, node.arguments(kInputs),
                                      node.channels(0))) {
    check_output(conv_.out_channels, node.attribute("out_channels"));
  }

  void compute(const Call& call) const {
    const Images x = call.images(0, conv_.in_channels);
    float* out = call.output({x.count, conv_.out_channels, x.height, x.width});
    if (out) conv_.run(x.data, x.count, x.pixels(), out, call.parallel());
  }

  static Inference::Shape infer(const Inference& node) {
    Inference::Shape shape = node.input(0);
    shape[1] = {node.attribute("out_channels"), ""};
    return shape;
  }

 private:
  LearnedGroupConv conv_;
};

class PoolExciteKernel {
 public:
  static constexpr const char* kName = "PoolExcite";
  static constexpr size_t kInputs = 1;

  explicit PoolExciteKernel(const Node& node)
      : excitation_(read_excitation(node.kernels, node.arguments(kInputs))) {}

  void compute(const Call& call) const {
    const Images x = call.images(0, excitation_.channels);
    check(x.pixels() > 0, "the map has no pixels");
    float* out = call.output({x.count, x.channels});
    if (out)
      excitation_.pool_and_gate(x.data, x.count, x.pixels(), out,
                                call.parallel());
  }

  static Inference::Shape infer(const Inference& node) {
    const Inference::Shape shape = node.input(0);
    return {shape[0], shape[1]};
  }

 private:
  Excitation excitation_;
};

// Exposes a kernel class to the runtime.
template <class Kernel>
class Operator : public OrtCustomOp {
 public:
  explicit Operator(const Host& host) : OrtCustomOp(), host_(host) {
    version = kOrtVersion;
    GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) {
      return "CPUExecutionProvider";
    };
    // Parameters have different types; the kernel checks them.
    GetInputType = [](const OrtCustomOp*, size_t index) -> int {
      return index < Kernel::kInputs ? kFloat : kUndefined;
    };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kInputs + 1; };
    GetOutputType = [](const OrtCustomOp*, size_t) -> int { return kFloat; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) -> int {
      return index < Kernel::kInputs ? kRequired : kVariadic;
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) -> int {
      return kRequired;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*,
                        const OrtKernelInfo* info, void** kernel) {
      const Host& host = host_of(op);
      const Node node(host, info);
      return status_of(
          host.ort, [&] { *kernel = new Instance{host, Kernel(node)}; },
          [&] {
            return std::string(Kernel::kName) + " '" + node.name() + "': ";
          });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const Instance& instance = *static_cast<const Instance*>(kernel);
      return status_of(instance.host.ort, [&] {
        instance.kernel.compute(Call(instance.host, context));
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
    InferOutputShape = [](const OrtCustomOp* op,
                          OrtShapeInferContext* context) {
      const Host& host = host_of(op);
      return status_of(host.ort, [&] {
        const Inference node(host, context);
        node.set_output(Kernel::infer(node));
      });
    };
  }

 private:
  struct Instance {
    const Host& host;
    Kernel kernel;
  };

  static const Host& host_of(const OrtCustomOp* op) {
    return static_cast<const Operator*>(op)->host_;
  }

  const Host& host_;
};

// All operators, for sessions with a given number of threads.
class Domain {
 public:
  explicit Domain(const Host& host)
      : host_(host),
        stem_(host_),
        dense_block_(host_),
        reactivate_(host_),
        learned_group_conv_(host_),
        pool_excite_(host_) {
    require(host_.ort.CreateCustomOpDomain("mmcdnv2", &domain_));
    for (const OrtCustomOp* op :
         {static_cast<const OrtCustomOp*>(&stem_),
          static_cast<const OrtCustomOp*>(&dense_block_),
          static_cast<const OrtCustomOp*>(&reactivate_),
          static_cast<const OrtCustomOp*>(&learned_group_conv_),
          static_cast<const OrtCustomOp*>(&pool_excite_)})
      require(host_.ort.CustomOpDomainAdd(domain_, op));
  }

  void add_to(OrtSessionOptions* options) const {
    require(host_.ort.AddCustomOpDomain(options, domain_));
  }

 private:
  const Host host_;
  const Operator<StemKernel> stem_;
  const Operator<DenseBlockKernel> dense_block_;
  const Operator<ReactivateKernel> reactivate_;
  const Operator<LearnedGroupConvKernel> learned_group_conv_;
  const Operator<PoolExciteKernel> pool_excite_;
  OrtCustomOpDomain* domain_ = nullptr;
};

// The runtime asks that a domain outlives all sessions, and does not tell when
// the last one ends. So each is made once and kept.
auto& domains =
    *new std::map<std::pair<OrtFunctions, int64_t>, std::unique_ptr<Domain>>;

const Domain& domain_for(const OrtFunctions& ort, int64_t threads) {
  const std::lock_guard<std::mutex> lock(fork_lock<Domain>);
  std::unique_ptr<Domain>& domain = domains[{ort, threads}];
  if (!domain)
    domain = std::make_unique<Domain>(
        Host{ort, threads, supported_kernels().front()});
  return *domain;
}

constexpr const char* kThreads = "mmcdnv2.intra_op_num_threads";

// The number of threads from the session's options, as the runtime does not
// expose it. Defaults to the number of processors: splitting work for too many
// threads costs a few percent, not splitting it costs a factor of the number of
// threads.
int64_t threads_of(const OrtFunctions& ort, const OrtSessionOptions* options) {
  int is_set = 0;
  require(ort.HasSessionConfigEntry(options, kThreads, &is_set));
  if (!is_set) return std::max(1u, std::thread::hardware_concurrency());
  size_t size = 0;
  require(ort.GetSessionConfigEntry(options, kThreads, nullptr, &size));
  std::vector<char> text(size + 1);
  require(ort.GetSessionConfigEntry(options, kThreads, text.data(), &size));
  char* end = nullptr;
  const long threads = std::strtol(text.data(), &end, 10);
  check(end != text.data() && *end == 0 && threads > 0 && threads <= 1024,
        kThreads, " must be a positive number, not '", text.data(), "'");
  return threads;
}

}  // namespace
}  // namespace mmcdnv2

// libstdc++ reads this variable, which glibc has only from 2.32 on. False is
// always safe: reference counts are then changed atomically.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;

// The library's entry point.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace mmcdnv2;
  const OrtApi* api = base->GetApi(kOrtVersion);
  if (!api) {
    const OrtFunctions oldest(base->GetApi(1));
    return status_of(oldest, [&] {
      check(false, "the operators need ONNX Runtime 1.17 or newer, not ",
            base->GetVersionString());
    });
  }
  const OrtFunctions ort(api);
  return status_of(
      ort, [&] { domain_for(ort, threads_of(ort, options)).add_to(options); });
}
