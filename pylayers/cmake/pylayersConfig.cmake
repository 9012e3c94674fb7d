# find_package(pylayers) with -DCMAKE_PREFIX_PATH="$(python -m pylayers cmake)" gives
#   pylayers::pylayers   the ops: <ops/ops.h> and the library, with torch's
#   pylayers::torch      torch alone, for programs that load the library themselves
#   pylayers_LIBRARY     the library, which needs no Python
# Torch's own package asks for a CUDA toolkit where torch is a build with CUDA. This one takes torch's libraries as they are.

get_filename_component(_pylayers_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
get_filename_component(_pylayers_root "${_pylayers_folder}" DIRECTORY)

macro(_pylayers_not_found sentence)
  set(pylayers_FOUND FALSE)
  set(pylayers_NOT_FOUND_MESSAGE "pylayers: ${sentence}")
  return()
endmacro()

set(pylayers_LIBRARY "${_pylayers_folder}/_ops.abi3.so")
if(NOT EXISTS "${pylayers_LIBRARY}")
  _pylayers_not_found("the compiled library is not in ${_pylayers_folder}: install the package")
endif()

# The headers are in the package, or beside it in a checkout.
find_path(_pylayers_headers ops/ops.h PATHS "${_pylayers_folder}/csrc" "${_pylayers_root}/csrc" NO_DEFAULT_PATH NO_CACHE)
if(NOT _pylayers_headers)
  _pylayers_not_found("the C++ headers, csrc, are neither in ${_pylayers_folder} nor beside it: install the package again")
endif()

# Torch is where the prefix path has it, or installed beside this package.
find_path(_pylayers_torch_cmake Torch/TorchConfig.cmake PATHS ${CMAKE_PREFIX_PATH} "${_pylayers_root}/torch/share/cmake"
          NO_DEFAULT_PATH NO_CACHE)
if(NOT _pylayers_torch_cmake)
  _pylayers_not_found("torch is neither in CMAKE_PREFIX_PATH nor beside ${_pylayers_folder}: give what `python -m pylayers cmake` prints")
endif()
get_filename_component(_pylayers_torch "${_pylayers_torch_cmake}/../.." ABSOLUTE)

function(_pylayers_minor file pattern result)
  file(STRINGS "${file}" line REGEX "${pattern}")
  string(REGEX MATCH "[0-9]+\\.[0-9]+" minor "${line}")
  set(${result} "${minor}" PARENT_SCOPE)
endfunction()
_pylayers_minor("${_pylayers_folder}/build_info.json" "\"torch\":" _pylayers_built)
_pylayers_minor("${_pylayers_torch_cmake}/Torch/TorchConfigVersion.cmake" "set\\(PACKAGE_VERSION " _pylayers_here)
if(NOT _pylayers_built STREQUAL _pylayers_here)
  _pylayers_not_found("the compiled library was built for torch ${_pylayers_built}, but ${_pylayers_torch} is torch ${_pylayers_here}")
endif()

# Libraries that stay in a program that names no symbol of them: they register ops and devices when they are loaded. Torch's come
# first, since they find CUDA's by paths of their own, and ours then has them. One item each, for CMake leaves out repeated ones.
set(_pylayers_keep "-Wl,--push-state,--no-as-needed")
set(_pylayers_torch_libraries "${_pylayers_keep}")
foreach(name torch torch_cpu c10 torch_cuda c10_cuda)
  if(EXISTS "${_pylayers_torch}/lib/lib${name}.so")
    string(APPEND _pylayers_torch_libraries ",${_pylayers_torch}/lib/lib${name}.so")
  endif()
endforeach()

if(NOT TARGET pylayers::pylayers)
  add_library(pylayers::torch INTERFACE IMPORTED)
  target_compile_features(pylayers::torch INTERFACE cxx_std_20)
  target_include_directories(pylayers::torch INTERFACE "${_pylayers_torch}/include" "${_pylayers_torch}/include/torch/csrc/api/include")
  target_link_options(pylayers::torch INTERFACE LINKER:--allow-shlib-undefined "LINKER:-rpath,${_pylayers_torch}/lib")
  target_link_libraries(pylayers::torch INTERFACE "${_pylayers_torch_libraries},--pop-state")

  add_library(pylayers::pylayers INTERFACE IMPORTED)
  target_include_directories(pylayers::pylayers INTERFACE "${_pylayers_headers}")
  target_link_options(pylayers::pylayers INTERFACE "LINKER:-rpath,${_pylayers_folder}" "-L${_pylayers_folder}")
  target_link_libraries(pylayers::pylayers INTERFACE pylayers::torch "${_pylayers_keep},-l:_ops.abi3.so,--pop-state")
endif()
