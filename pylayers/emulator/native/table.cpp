#include "table.h"

#include <stdexcept>
#include <unordered_map>

namespace pylayers::emulator {
namespace {

using Table = std::unordered_map<std::string, Definition>;

Table& table() {
  static Table table;
  return table;
}

// "a{,.b}.c" becomes "a.c" and "a.b.c". Braces do not nest.
void expand(const std::string& names, std::vector<std::string>& expanded) {
  const size_t open = names.find('{'), close = names.find('}');
  if (open == std::string::npos) {
    expanded.push_back(names);
    return;
  }
  for (size_t start = open + 1; start <= close;) {
    const size_t end = std::min(names.find(',', start), close);
    expand(names.substr(0, open) + names.substr(start, end - start) + names.substr(close + 1), expanded);
    start = end + 1;
  }
}

bool define_all() {
  define_moves();
  define_integers();
  define_bit_fields();
  define_carries();
  define_floats();
  define_halves();
  define_conversions();
  define_float_conversions();
  define_packed_conversions();
  define_comparisons();
  define_warp_functions();
  define_matrix_products();
  define_warpgroup_products();
  define_memory();
  define_async_copies();
  define_atomics();
  define_clusters();
  define_control();
  return true;
}

}  // namespace

void define(const std::string& names, Definition definition) {
  if (definition.least < 0) definition.least = static_cast<int>(definition.sizes.size());
  std::vector<std::string> expanded;
  expand(names, expanded);
  for (const std::string& name : expanded)
    if (!table().emplace(name, definition).second) throw std::logic_error("opcode defined twice: " + name);
}

const Definition* find(const std::string& opcode) {
  static const bool defined = define_all();
  (void)defined;
  const auto found = table().find(opcode);
  return found == table().end() ? nullptr : &found->second;
}

}  // namespace pylayers::emulator
