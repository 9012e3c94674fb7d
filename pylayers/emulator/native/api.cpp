// What Python calls, through ctypes: programs, memory, launches.
#include <cstdio>
#include <unordered_map>

#include "table.h"

#define API extern "C" __attribute__((visibility("default")))

namespace pylayers::emulator {
namespace {

constexpr int kSinkBytes = 8 * kLanes;  // the first registers, where results go that nobody wants

struct InstructionRecord {
  int32_t opcode, guard, negated, first_operand, operands, strong, index, unused;
};

struct OperandRecord {
  int64_t kind, value, size, displacement;
};

struct ProgramDescription {
  int64_t instruction_count;
  const InstructionRecord* instructions;
  int64_t operand_count;
  const OperandRecord* operands;
  int64_t block_count;
  const int32_t* blocks;
  int64_t special_count;
  const int32_t* specials;
  int64_t register_bytes, local_bytes;
};

struct LaunchDescription {
  const Program* program;
  GlobalMemory* memory;
  uint32_t grid[3], block[3], cluster[3];
  uint32_t static_shared, dynamic_shared, order;
  uint64_t step_limit;
  const uint8_t* parameters;
  uint64_t parameter_bytes;
};

struct LaunchResult {
  Counts counts;
  int32_t instruction;  // at which it failed
  char where[200];
  char what[800];
};

std::vector<const Definition*>& opcodes() {
  static std::vector<const Definition*> list;
  return list;
}

// Immediates lie among the constants once for each value and size.
class Constants {
 public:
  explicit Constants(Program& program) : program_(program) {}

  int32_t offset(uint64_t value, int size) {
    const auto [place, fresh] = offsets_.emplace(std::make_pair(value, size), static_cast<int32_t>(program_.constants.size()));
    if (fresh)
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
        program_.constants.insert(program_.constants.end(), bytes, bytes + size);
      }
    return place->second;
  }

 private:
  struct Hash {
    size_t operator()(const std::pair<uint64_t, int>& key) const { return std::hash<uint64_t>()(key.first * 31 + key.second); }
  };
  Program& program_;
  std::unordered_map<std::pair<uint64_t, int>, int32_t, Hash> offsets_;
};

Operand operand_from(const OperandRecord& record, int wanted, Constants& constants) {
  Operand operand;
  operand.displacement = record.displacement;
  operand.kind = static_cast<Operand::Kind>(record.kind);
  operand.offset = static_cast<int32_t>(record.value);
  operand.size = static_cast<uint8_t>(record.size ? record.size : wanted ? wanted : 8);
  if (operand.kind == Operand::kConstant) operand.offset = constants.offset(static_cast<uint64_t>(record.value), operand.size);
  return operand;
}

void check_count(const Definition& definition, int count, int instruction) {
  if (count < definition.least)
    throw Fault(std::to_string(count) + " operands where the instruction takes " + std::to_string(definition.least), instruction, "");
}

// Operands that are narrower or wider than the handler takes them for would be read wrongly: refused here.
void check_size(const Operand& operand, int wanted, int instruction) {
  if (operand.kind == Operand::kLabel || wanted == kAnySize || operand.size == wanted) return;
  throw Fault("operand of " + std::to_string(operand.size) + " bytes where the instruction takes " + std::to_string(wanted), instruction, "");
}

void add_instruction(Program& program, const InstructionRecord& record, const OperandRecord* operands, Constants& constants) {
  const Definition& definition = *opcodes().at(record.opcode);
  check_count(definition, record.operands, record.index);
  Instruction instruction;
  instruction.run = definition.run;
  instruction.guard = record.guard;
  instruction.negated = record.negated;
  instruction.strong = record.strong;
  instruction.count = static_cast<uint8_t>(record.operands);
  instruction.flops = static_cast<uint8_t>(definition.flops);
  instruction.space = static_cast<uint8_t>(definition.space);
  instruction.index = record.index;
  for (int i = 0; i < record.operands; ++i) {
    const int wanted = i < static_cast<int>(definition.sizes.size()) ? definition.sizes[i] : kAnySize;
    program.operands.push_back(operand_from(operands[record.first_operand + i], wanted, constants));
    check_size(program.operands.back(), wanted, record.index);
  }
  program.instructions.push_back(instruction);
}

std::unique_ptr<Program> assemble(const ProgramDescription& description) {
  auto program = std::make_unique<Program>();
  Constants constants(*program);
  program->operands.reserve(description.operand_count);
  for (int64_t i = 0; i < description.instruction_count; ++i)
    add_instruction(*program, description.instructions[i], description.operands, constants);
  const Operand* next = program->operands.data();
  for (auto& instruction : program->instructions) {
    instruction.operands = next;
    next += instruction.count;
  }
  program->blocks.assign(description.blocks, description.blocks + description.block_count + 1);
  for (int64_t i = 0; i < description.special_count; ++i)
    program->specials.push_back({description.specials[2 * i], description.specials[2 * i + 1]});
  program->register_bytes = std::max<int64_t>(description.register_bytes, kSinkBytes);
  program->local_bytes = description.local_bytes;
  return program;
}

void tell(LaunchResult& result, const Fault& fault) {
  result.instruction = fault.instruction;
  snprintf(result.what, sizeof result.what, "%s", fault.what());
  snprintf(result.where, sizeof result.where, "%s", fault.where.c_str());
}

}  // namespace

API int emulator_opcode(const char* name) {
  static std::unordered_map<std::string, int> ids;
  const auto known = ids.find(name);
  if (known != ids.end()) return known->second;
  const Definition* definition = find(name);
  if (!definition) return -1;
  opcodes().push_back(definition);
  return ids[name] = static_cast<int>(opcodes().size()) - 1;
}

API int emulator_special(const char* name) { return special_id(name); }

API Program* emulator_program(const ProgramDescription* description, LaunchResult* result) {
  try {
    return assemble(*description).release();
  } catch (const Fault& fault) {
    tell(*result, fault);
    return nullptr;
  }
}
API void emulator_free_program(Program* program) { delete program; }

API GlobalMemory* emulator_memory() { return new GlobalMemory; }
API void emulator_free_memory(GlobalMemory* memory) { delete memory; }

API void emulator_add(GlobalMemory* memory, uint64_t address, uint32_t element, int dims, const int64_t* sizes, const int64_t* strides,
                      uint8_t flags, const char* name) {
  memory->add(address, element, {sizes, sizes + dims}, {strides, strides + dims}, flags, name);
}

API int64_t emulator_undefined(const GlobalMemory* memory, uint64_t address, uint32_t element, int dims, const int64_t* sizes,
                               const int64_t* strides) {
  return memory->undefined(address, element, {sizes, sizes + dims}, {strides, strides + dims});
}

// What a kernel may write: size first (with bytes null), then the bytes.
API int64_t emulator_save(const GlobalMemory* memory, uint8_t* bytes) {
  const auto saved = memory->writable();
  if (bytes) std::copy(saved.begin(), saved.end(), bytes);
  return static_cast<int64_t>(saved.size());
}

API void emulator_restore(GlobalMemory* memory, const uint8_t* bytes, int64_t count) { memory->restore({bytes, bytes + count}); }

API int emulator_launch(const LaunchDescription* description, LaunchResult* result) {
  Launch launch;
  launch.program = description->program;
  launch.global = description->memory;
  for (int axis = 0; axis < 3; ++axis) {
    launch.grid[axis] = description->grid[axis];
    launch.block[axis] = description->block[axis];
    launch.cluster[axis] = description->cluster[axis];
  }
  launch.static_shared = description->static_shared;
  launch.dynamic_shared = description->dynamic_shared;
  launch.order = description->order;
  launch.step_limit = description->step_limit;
  launch.parameters.assign(description->parameters, description->parameters + description->parameter_bytes);
  try {
    run(launch);
    result->counts = launch.counts;
    return 0;
  } catch (const Fault& fault) {
    tell(*result, fault);
    return 1;
  }
}

}  // namespace pylayers::emulator
