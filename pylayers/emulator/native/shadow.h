// Memory that remembers who touched it: shared memory of a block, and the global memory that a kernel may use.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pylayers::emulator {

// An access, as far as order between threads goes.
struct Who {
  uint32_t tick;              // barriers of the launch so far
  uint32_t interval;          // tick of the last barrier of the block that owns the memory
  uint32_t cluster_interval;  // tick of the last barrier of the cluster
  uint32_t start;             // tick at which the cluster began: what is older belongs to other blocks
  uint16_t thread;            // rank of the block in its cluster · 1024 + thread
  uint16_t clock;             // warp-wide synchronisations of its warp
  const uint32_t* seen;       // of its warp, see Warp::seen
  bool atomic;
};

class SharedMemory {
 public:
  void resize(uint32_t bytes);
  uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }
  void poison();  // what a block starts with
  // Null, or what is wrong with the access. `next` holds the bytes that a write is going to leave.
  const char* read(uint32_t offset, uint32_t count, const Who& who);
  const char* write(uint32_t offset, uint32_t count, const Who& who, const uint8_t* next);  // writes it too
  void forget(uint32_t offset, uint32_t count);  // the bytes become undefined: a copy into them is under way
  uint8_t* at(uint32_t offset) { return bytes_.data() + offset; }

 private:
  struct Byte {
    uint32_t write_tick = 0, read_tick = 0;
    uint16_t writer = 0, reader = 0;
    uint16_t write_clock = 0, read_clock = 0;
  };
  const char* check_write(const Byte& byte, const Who& who, bool same) const;
  std::vector<uint8_t> bytes_;
  std::vector<Byte> shadow_;
};

class GlobalMemory {
 public:
  enum Flag : uint8_t { kReadable = 1, kWritable = 2, kDefined = 4 };

  // Memory of a view: size and stride (in bytes) of each dimension, the innermost one last.
  void add(uint64_t address, uint32_t element, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, uint8_t flags,
           const std::string& name);
  int64_t undefined(uint64_t address, uint32_t element, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) const;
  void begin_launch();
  void begin_block(uint64_t number);

  // Null, or what is wrong with the access of the block that runs. A strong access is meant for what other blocks do.
  const char* read(uint64_t address, uint32_t count, bool strong);
  const char* write(uint64_t address, uint32_t count, bool strong, const uint8_t* next);
  void synchronise(uint64_t address);  // an atomic or strong access: what its earlier users did happened before what follows
  std::string describe(uint64_t address) const;

  // What a kernel may write and whether it is defined, to run the kernel again.
  std::vector<uint8_t> writable() const;
  void restore(const std::vector<uint8_t>& bytes);

 private:
  struct Segment {
    uint64_t begin, end;
    std::vector<uint8_t> flags;            // of each byte
    std::vector<uint32_t> writer, reader;  // 1 + number of the block that did it last, from launch_ on; kSeveral for many
  };
  struct Name {
    uint64_t begin, end;
    std::string name;
  };
  Segment* find(uint64_t address, uint32_t count);
  Segment& cover(uint64_t begin, uint64_t end);
  bool ordered(uint32_t tag) const;
  bool foreign(const uint32_t* tags, uint32_t count) const;
  const char* check_write(const Segment& segment, size_t at, uint32_t count, const uint8_t* next) const;

  std::vector<Segment> segments_;  // disjoint
  std::vector<Name> names_;
  size_t last_ = 0;
  uint32_t launch_ = 1, block_ = 1, next_launch_ = 1;
  struct Meeting {
    uint64_t address;
    std::vector<uint32_t> blocks;
  };
  std::vector<Meeting> meetings_;   // of blocks at atomics
  std::map<uint32_t, std::vector<uint32_t>> happened_;  // of each block: the blocks whose work happened before its own
};

}  // namespace pylayers::emulator
