// The arguments of a program, and its faults: each a sentence.
#pragma once

#include <c10/util/Exception.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

// "--name value" from the arguments, which lose it; `otherwise` if it is not there.
inline std::string option(std::vector<std::string>& arguments, const std::string& name, const std::string& otherwise) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] != name) continue;
    if (i + 1 == arguments.size()) throw std::invalid_argument(name + " needs a value");
    const std::string value = arguments[i + 1];
    arguments.erase(arguments.begin() + i, arguments.begin() + i + 2);
    return value;
  }
  return otherwise;
}

inline int number(std::vector<std::string>& arguments, const std::string& name, int otherwise, int most) {
  const std::string text = option(arguments, name, std::to_string(otherwise));
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most)
    throw std::invalid_argument(name + " must be a number between 1 and " + std::to_string(most) + ", got \"" + text + "\"");
  return value;
}

// What main returns: 1 after a fault, which is told in its first line.
template <class Program>
int run(const char* name, int count, char** given, Program program) {
  std::string fault;
  try {
    program(std::vector<std::string>(given + 1, given + count));
    return 0;
  } catch (const c10::Error& error) {
    fault = error.what_without_backtrace();
  } catch (const std::exception& error) {
    fault = error.what();
  }
  std::fprintf(stderr, "%s: %s\n", name, fault.substr(0, fault.find('\n')).c_str());
  return 1;
}
