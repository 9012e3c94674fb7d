// Continues a text with a model that package.py packed: generate MODEL.pt2 [--prompt "def "] [--bytes 100] [--ops LIBRARY]
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string_view>

#include "arguments.h"

namespace {

namespace fs = std::filesystem;
using torch::inductor::AOTIModelPackageLoader;

const std::string kMinor = std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) + ".";

// The record beside the library names the torch that it was built for. One of another torch would be refused for a missing symbol.
void load_ops(const fs::path& library) {
  std::ifstream record(library.parent_path() / "build_info.json");
  const std::string text{std::istreambuf_iterator<char>(record), {}};
  const std::string key = "\"torch\": \"";
  const auto found = text.find(key);
  if (found != std::string::npos && text.compare(found + key.size(), kMinor.size(), kMinor) != 0) {
    const auto start = found + key.size();
    throw std::runtime_error(library.string() + " was built for torch " + text.substr(start, text.find('"', start) - start) +
                             ", but this program for torch " TORCH_VERSION);
  }
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(std::string("cannot load the ops: ") + dlerror());
}

uint32_t crc32(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> made;
    for (uint32_t i = 0; i < made.size(); ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (const unsigned char byte : bytes) crc = crc >> 8 ^ table[(crc ^ byte) & 255];
  return ~crc;
}

// A package is code, and torch loads it as it is. This one ends with a checksum, so that no damaged code is run.
void check_seal(const std::string& package) {
  if (!fs::is_regular_file(package)) throw std::runtime_error("there is no file " + package);
  std::ifstream file(package, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t digits = 8, end = bytes.size() < digits ? 0 : bytes.size() - digits;
  char sealed[digits + 1];
  std::snprintf(sealed, sizeof(sealed), "%08x", crc32(std::string_view(bytes).substr(0, end)));
  if (bytes.substr(end) != sealed) throw std::runtime_error(package + " is damaged, or was not made by package.py");
}

// How many bytes the model reads at most. Asked before the code of the package is loaded.
int64_t window_of(const std::string& package) {
  check_seal(package);
  auto said = AOTIModelPackageLoader::load_metadata_from_package(package, "model");
  if (said["pylayers.torch"].rfind(kMinor, 0) != 0)
    throw std::runtime_error(package + " was made with torch " + said["pylayers.torch"] + ", but this program is built for torch " TORCH_VERSION);
#ifdef __x86_64__
  const std::string& vectors = said["AOTI_CPU_ISA"];
  if ((vectors.find("AVX512") != std::string::npos && !__builtin_cpu_supports("avx512f")) ||
      (vectors.find("AVX2") != std::string::npos && !__builtin_cpu_supports("avx2")))
    throw std::runtime_error(package + " was made for a processor with " + vectors + ": make it on this one");
#endif
  return std::stoll(said["pylayers.window"]);
}

uint8_t likeliest(AOTIModelPackageLoader& model, const std::string& text, int64_t window) {
  const auto length = std::min<int64_t>(text.size(), window);
  auto tokens = at::empty({1, length}, at::kLong);
  std::copy_n(reinterpret_cast<const uint8_t*>(text.data()) + text.size() - length, length, tokens.mutable_data_ptr<int64_t>());
  const auto scores = model.run({tokens}).at(0).contiguous();
  const float* first = scores.const_data_ptr<float>();
  return std::max_element(first, first + scores.numel()) - first;
}

void generate(std::vector<std::string> arguments) {
  std::string text = option(arguments, "--prompt", "def ");
  const int count = number(arguments, "--bytes", 100, 1'000'000);
  const std::string library = option(arguments, "--ops", PYLAYERS_LIBRARY);
  if (arguments.size() != 1 || arguments[0].rfind("--", 0) == 0)
    throw std::invalid_argument("needs one package: generate MODEL.pt2 [--prompt TEXT] [--bytes COUNT] [--ops LIBRARY]");
  if (text.empty()) throw std::invalid_argument("--prompt must not be empty");
  load_ops(library);
  const int64_t window = window_of(arguments[0]);
  const at::NoGradGuard guard;
  AOTIModelPackageLoader model(arguments[0], "model", /*run_single_threaded=*/true);
  likeliest(model, text, window);  // the first call takes longer
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) text.push_back(static_cast<char>(likeliest(model, text, window)));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::cout << text << std::endl;
  std::cerr << count / taken.count() << " bytes/s\n";
}

}  // namespace

int main(int count, char** given) { return run("generate", count, given, generate); }
