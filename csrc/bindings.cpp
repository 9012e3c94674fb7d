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

// A kernel written in Python. The table outlives the interpreter, so the function is never released.
Boxed python_kernel(const py::object& function) {
  PyObject* kernel = py::object(function).release().ptr();
  return [kernel](const std::vector<c10::IValue>& arguments) {
    const py::gil_scoped_acquire gil;
    py::tuple converted(arguments.size());
    for (size_t i = 0; i < arguments.size(); ++i) converted[i] = to_python(arguments[i]);
    if (PyObject* result = PyObject_CallObject(kernel, converted.ptr())) {
      Py_DECREF(result);
      return;
    }
    python_error error;  // travels through the dispatcher and the autograd engine as it is
    error.persist();
    throw std::move(error);
  };
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

at::Tensor linear_door(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       std::optional<std::string_view> activation) {
  const py::gil_scoped_release no_gil;
  return linear(input, weight, bias, activation);
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
  m.def("swiglu", &swiglu, without_gil(), py::arg("gate"), py::arg("up"));
  m.def("swiglu_packed", &swiglu_packed, without_gil(), py::arg("input"));
  m.def("linear", &linear_door, py::arg("input"), py::arg("weight"), py::arg("bias"), py::arg("activation"));

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
  m.def("cpu_capability", &registry::cpu_capability, "The instruction set in use: baseline, avx2 or avx512.");
}
