// The pybind11 module _C: the shortest way into the op.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/scaled_tanh.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "The door into the op. Not public: use the functions and modules of the package.";
  py::register_local_exception_translator([](std::exception_ptr error) {
    if (error) torch::translate_exception_to_python(error);
  });
  m.def("scaled_tanh", &pylayers::call_scaled_tanh, py::call_guard<py::gil_scoped_release>(), py::arg("input"), py::arg("weight"),
        py::arg("bias"));
}
