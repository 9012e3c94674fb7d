// The pybind11 module _C: typed doors into the ops, the kernel table, build information.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/ops.h"
#include "registry.h"

namespace py = pybind11;
using namespace pylayers;

namespace {

py::object to_python(const c10::IValue& argument) {
  if (argument.isTensor()) return py::cast(argument.toTensor());
  if (argument.isDouble()) return py::float_(argument.toDouble());
  if (argument.isInt()) return py::int_(argument.toInt());
  return py::none();
}

void call(PyObject* function, const py::tuple& arguments) {
  if (PyObject* result = PyObject_CallObject(function, arguments.ptr())) {
    Py_DECREF(result);
    return;
  }
  python_error error;  // travels through the dispatcher and the autograd engine as it is
  error.persist();
  throw std::move(error);
}

// A kernel written in Python. The table outlives the interpreter, so the function is never released.
Boxed python_kernel(const py::object& function) {
  PyObject* kernel = py::object(function).release().ptr();
  return [kernel](const std::vector<c10::IValue>& arguments) {
    const py::gil_scoped_acquire gil;
    py::tuple converted(arguments.size());
    for (size_t i = 0; i < arguments.size(); ++i) converted[i] = to_python(arguments[i]);
    call(kernel, converted);
  };
}

// (address, bytes of an element, sizes, strides, whether it is written); None for a scalar and for what is left out.
py::object to_python(const Argument* argument) {
  if (!argument || !argument->view.data) return py::none();
  const auto& view = argument->view;
  const std::vector<int64_t> size(view.size, view.size + view.dims), stride(view.stride, view.stride + view.dims);
  const auto address = reinterpret_cast<uintptr_t>(view.data);
  return py::make_tuple(address, argument->tensor->element_size(), size, stride, argument->written);
}

void observe(const std::vector<std::string>& backends, const py::object& before, const py::object& after) {
  const auto hold = [](const py::object& function) {
    return std::shared_ptr<PyObject>(py::object(function).release().ptr(), [](PyObject* held) {
      const py::gil_scoped_acquire gil;
      Py_DECREF(held);
    });
  };
  std::vector<BackendId> ids;
  for (const auto& name : backends) ids.push_back(registry::find(name));
  registry::observe(ids, {[function = hold(before)](const char* kernel, const std::vector<const Argument*>& arguments) {
                            const py::gil_scoped_acquire gil;
                            py::list converted;
                            for (const auto* argument : arguments) converted.append(to_python(argument));
                            call(function.get(), py::make_tuple(kernel, converted));
                          },
                          [function = hold(after)](const char* kernel, bool failed) {
                            const py::gil_scoped_acquire gil;
                            call(function.get(), py::make_tuple(kernel, failed));
                          }});
}

std::vector<std::string> register_kernels(const std::string& backend, const py::object& kernels,
                                          const std::vector<std::string>& devices) {
  std::vector<std::string> found;
  for (const auto& name : registry::kernels())
    if (py::hasattr(kernels, name.c_str())) found.push_back(name);
  if (found.empty()) return found;
  const auto id = registry::add(backend);
  for (const auto& name : found) registry::set(name, id, python_kernel(kernels.attr(name.c_str())));
  for (const auto& device : devices) registry::serve(id, c10::Device(device).type(), true);
  return found;
}

py::dict backends() {
  py::dict result;
  for (const auto& backend : registry::backends()) {
    py::list devices;
    for (const auto type : {c10::DeviceType::CPU, c10::DeviceType::CUDA})
      if (backend.serves(type)) devices.append(c10::DeviceTypeName(type, true));
    result[py::str(backend.name)] = py::make_tuple(py::tuple(devices), registry::kernels_of(registry::find(backend.name)));
  }
  return result;
}

at::Tensor rms_norm_door(const at::Tensor& input, const std::vector<int64_t>& normalized_shape,
                         const std::optional<at::Tensor>& weight, std::optional<double> eps, double offset) {
  const py::gil_scoped_release no_gil;
  return rms_norm(input, c10::fromIntArrayRefSlow(normalized_shape), weight, eps, offset);
}

at::Tensor layer_norm_door(const at::Tensor& input, const std::vector<int64_t>& normalized_shape,
                           const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias, double eps) {
  const py::gil_scoped_release no_gil;
  return layer_norm(input, c10::fromIntArrayRefSlow(normalized_shape), weight, bias, eps);
}

at::Tensor group_norm_door(const at::Tensor& input, int64_t num_groups, const std::optional<at::Tensor>& weight,
                           const std::optional<at::Tensor>& bias, double eps, std::optional<std::string_view> activation) {
  const py::gil_scoped_release no_gil;
  return group_norm(input, num_groups, weight, bias, eps, activation);
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm_door(const at::Tensor& input, const at::Tensor& residual,
                                                     const std::vector<int64_t>& normalized_shape,
                                                     const std::optional<at::Tensor>& weight, std::optional<double> eps,
                                                     double offset, std::optional<at::ScalarType> residual_dtype) {
  const py::gil_scoped_release no_gil;
  return add_rms_norm(input, residual, c10::fromIntArrayRefSlow(normalized_shape), weight, eps, offset, residual_dtype);
}

std::tuple<at::Tensor, at::Tensor> add_layer_norm_door(const at::Tensor& input, const at::Tensor& residual,
                                                       const std::vector<int64_t>& normalized_shape,
                                                       const std::optional<at::Tensor>& weight,
                                                       const std::optional<at::Tensor>& bias, double eps,
                                                       std::optional<at::ScalarType> residual_dtype) {
  const py::gil_scoped_release no_gil;
  return add_layer_norm(input, residual, c10::fromIntArrayRefSlow(normalized_shape), weight, bias, eps, residual_dtype);
}

at::Tensor linear_door(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       std::optional<std::string_view> activation, double scale) {
  const py::gil_scoped_release no_gil;
  return linear(input, weight, bias, activation, scale);
}

at::Tensor parallel_linear_door(const at::Tensor& input, const std::vector<at::Tensor>& weights,
                                const std::vector<std::optional<at::Tensor>>& biases, std::optional<std::string_view> activation) {
  const py::gil_scoped_release no_gil;
  c10::List<std::optional<at::Tensor>> list;
  for (const auto& bias : biases) list.push_back(bias);
  return parallel_linear(input, weights, list, activation);
}

at::Tensor center_door(const at::Tensor& input, const std::optional<std::vector<int64_t>>& dim) {
  const py::gil_scoped_release no_gil;
  return center(input, dim ? at::OptionalIntArrayRef(*dim) : at::OptionalIntArrayRef());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Doors into the ops of pylayers, and the kernel table. Not public: use pylayers.functional and pylayers.backend.";
  py::register_local_exception_translator([](std::exception_ptr error) {
    if (error) torch::translate_exception_to_python(error);
  });

  using without_gil = py::call_guard<py::gil_scoped_release>;
  m.def("rms_norm", &rms_norm_door, py::arg("input"), py::arg("normalized_shape"), py::arg("weight"), py::arg("eps"),
        py::arg("offset"));
  m.def("layer_norm", &layer_norm_door, py::arg("input"), py::arg("normalized_shape"), py::arg("weight"), py::arg("bias"),
        py::arg("eps"));
  m.def("group_norm", &group_norm_door, py::arg("input"), py::arg("num_groups"), py::arg("weight"), py::arg("bias"), py::arg("eps"),
        py::arg("activation"));
  m.def("add_rms_norm", &add_rms_norm_door, py::arg("input"), py::arg("residual"), py::arg("normalized_shape"), py::arg("weight"),
        py::arg("eps"), py::arg("offset"), py::arg("residual_dtype"));
  m.def("add_layer_norm", &add_layer_norm_door, py::arg("input"), py::arg("residual"), py::arg("normalized_shape"),
        py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("residual_dtype"));
  m.def("swiglu", &swiglu, without_gil(), py::arg("gate"), py::arg("up"));
  m.def("swiglu_packed", &swiglu_packed, without_gil(), py::arg("input"));
  m.def("geglu", &geglu, without_gil(), py::arg("gate"), py::arg("up"), py::arg("approximate"));
  m.def("geglu_packed", &geglu_packed, without_gil(), py::arg("input"), py::arg("approximate"));
  m.def("reglu", &reglu, without_gil(), py::arg("gate"), py::arg("up"));
  m.def("reglu_packed", &reglu_packed, without_gil(), py::arg("input"));
  m.def("relu_squared", &relu_squared, without_gil(), py::arg("input"));
  m.def("softmax", &softmax, without_gil(), py::arg("input"), py::arg("dim"));
  m.def("log_softmax", &log_softmax, without_gil(), py::arg("input"), py::arg("dim"));
  m.def("scaled_masked_softmax", &scaled_masked_softmax, without_gil(), py::arg("input"), py::arg("mask"), py::arg("scale"),
        py::arg("causal"));
  m.def("cross_entropy", &cross_entropy, without_gil(), py::arg("input"), py::arg("target"), py::arg("weight"), py::arg("reduction"),
        py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("z_loss"), py::arg("softcap"), py::arg("dtype") = py::none());
  m.def("linear_cross_entropy", &linear_cross_entropy, without_gil(), py::arg("input"), py::arg("linear_weight"), py::arg("target"),
        py::arg("linear_bias"), py::arg("weight"), py::arg("reduction"), py::arg("ignore_index"), py::arg("label_smoothing"),
        py::arg("z_loss"), py::arg("softcap"), py::arg("chunk_rows"), py::arg("dtype") = py::none());
  m.def("mse_loss", &mse_loss, without_gil(), py::arg("input"), py::arg("target"), py::arg("reduction"), py::arg("weight"));
  m.def("binary_cross_entropy_with_logits", &binary_cross_entropy_with_logits, without_gil(), py::arg("input"), py::arg("target"),
        py::arg("weight"), py::arg("reduction"), py::arg("pos_weight"));
  m.def("kl_div", &kl_div, without_gil(), py::arg("input"), py::arg("target"), py::arg("reduction"), py::arg("log_target"));
  m.def("linear_kl_div", &linear_kl_div, without_gil(), py::arg("student_hidden"), py::arg("student_weight"), py::arg("teacher_hidden"),
        py::arg("teacher_weight"), py::arg("student_bias"), py::arg("teacher_bias"), py::arg("temperature"), py::arg("reduction"),
        py::arg("chunk_rows"), py::arg("dtype") = py::none());
  m.def("bilinear", &bilinear, without_gil(), py::arg("input1"), py::arg("input2"), py::arg("weight"), py::arg("bias"));
  m.def("tensor_reduction", &tensor_reduction, without_gil(), py::arg("input"), py::arg("weight"), py::arg("bias"),
        py::arg("symmetric"));
  m.def("linear", &linear_door, py::arg("input"), py::arg("weight"), py::arg("bias"), py::arg("activation"),
        py::arg("scale"));
  m.def("parallel_linear", &parallel_linear_door, py::arg("input"), py::arg("weights"), py::arg("biases"), py::arg("activation"));
  m.def("leading_fourier", &leading_fourier, without_gil(), py::arg("input"), py::arg("n_coeff"), py::arg("dim"), py::arg("norm"),
        py::arg("onesided"));
  m.def("center", &center_door, py::arg("input"), py::arg("dim"));
  m.def("centered_affine", &centered_affine, without_gil(), py::arg("input"), py::arg("weight"), py::arg("bias"), py::arg("dim"));
  m.def("rotary", &rotary, without_gil(), py::arg("q"), py::arg("k"), py::arg("cos"), py::arg("sin"), py::arg("positions"),
        py::arg("interleaved"), py::arg("heads_first"));
  m.def("halve_until", &halve_until, without_gil(), py::arg("input"), py::arg("threshold"));
  m.def("dropout_add", &dropout_add, without_gil(), py::arg("input"), py::arg("residual"), py::arg("p"), py::arg("training"),
        py::arg("generator"));

  m.def("backends", &backends, "name -> (device types it can serve, kernels it has)");
  m.def("kernels", &registry::kernels, "The names of all kernels.");
  m.def("register_kernels", &register_kernels, py::arg("backend"), py::arg("kernels"), py::arg("devices"),
        "Registers every attribute of `kernels` that has a kernel's name; returns these names.");
  m.def("select", [](std::optional<std::string> name) { registry::select(name ? registry::find(*name) : kDefault); },
        py::arg("backend"), "Serve every call with this backend from now on; None undoes it.");
  m.def("serve", [](const std::string& backend, const std::string& device, bool on) {
    registry::serve(registry::find(backend), c10::Device(device).type(), on);
  }, py::arg("backend"), py::arg("device"), py::arg("on"), "Let a backend serve a device type, or not.");
  m.def("poison_outputs", &registry::poison_outputs, py::arg("on"), "Fill outputs with NaN before every kernel runs.");
  m.def("observe", &observe, py::arg("backends"), py::arg("before"), py::arg("after"),
        "Call before(kernel, arguments) and after(kernel, failed) around kernels that these backends run for CPU tensors.");
  m.def("emulate", [](const std::string& kernel, uintptr_t launcher) {
    registry::emulate(kernel, reinterpret_cast<void*>(launcher));
  }, py::arg("kernel"), py::arg("launcher"), "The launcher that serves CPU tensors on \"cuda\" by its address; 0: none.");
  m.def("cpu_capability", &registry::cpu_capability, "The instruction set in use: baseline, avx2 or avx512.");
}
