#include "shadow.h"

#include <algorithm>
#include <cstring>

namespace pylayers::emulator {
namespace {

constexpr uint16_t kSeveralLanes = 0x4000, kSeveralWarps = 0x8000, kThread = 0x3fff;
constexpr uint16_t kAtomic = 0x8000;      // of a writer
constexpr uint32_t kSeveralBlocks = ~0u;  // as the reader of global memory

int rank_of(uint16_t thread) { return (thread & kThread) >> 10; }
int warp_of(uint16_t thread) { return (thread & 1023) >> 5; }
bool same_warp(uint16_t a, uint16_t b) { return ((a ^ b) & kThread) >> 5 == 0; }

enum Relation { kOrdered, kLanes, kWarps, kBlocks };

// How an earlier access relates to one that `who` makes now: in order, or racing lanes, warps or blocks.
Relation relation(uint32_t tick, uint16_t thread, uint16_t clock, const Who& who) {
  if (tick < who.start) return kOrdered;
  if (rank_of(thread) != rank_of(who.thread)) return tick < who.cluster_interval ? kOrdered : kBlocks;
  if (tick < who.interval || (thread & kThread) == who.thread) return kOrdered;
  if (same_warp(thread, who.thread)) return clock < who.clock ? kOrdered : kLanes;
  return clock < who.seen[warp_of(thread)] ? kOrdered : kWarps;
}

const char* sentence(Relation relation, const char* const (&texts)[3]) {
  return relation == kOrdered ? nullptr : texts[relation - 1];
}

const char* const kReadAfterWrite[] = {
    "race in shared memory: reads what another lane of the warp wrote, without __syncwarp in between",
    "race in shared memory: reads what another warp wrote, without a barrier in between",
    "race in shared memory: reads what another block of the cluster wrote, without a cluster barrier in between"};
const char* const kWriteAfterRead[] = {
    "race in shared memory: overwrites what another lane of the warp read, without __syncwarp in between",
    "race in shared memory: overwrites what another warp read, without a barrier in between",
    "race in shared memory: overwrites what another block of the cluster read, without a cluster barrier in between"};
const char* const kWriteAfterWrite[] = {
    "race in shared memory: overwrites what another lane of the warp wrote, without __syncwarp in between",
    "race in shared memory: overwrites what another warp wrote, without a barrier in between",
    "race in shared memory: overwrites what another block of the cluster wrote, without a cluster barrier in between"};

}  // namespace

void SharedMemory::resize(uint32_t bytes) {
  bytes_.resize(bytes);
  shadow_.resize(bytes);
}

void SharedMemory::poison() { std::fill(bytes_.begin(), bytes_.end(), 0xff); }

const char* SharedMemory::read(uint32_t offset, uint32_t count, const Who& who) {
  if (uint64_t(offset) + count > bytes_.size()) return "reads shared memory out of bounds";
  for (Byte* byte = &shadow_[offset]; count > 0; ++byte, --count) {
    if (byte->write_tick < who.start || byte->write_tick == 0) return "reads shared memory that nothing was written to";
    if (!(who.atomic && byte->writer & kAtomic)) {
      const auto found = relation(byte->write_tick, byte->writer, byte->write_clock, who);
      if (found != kOrdered) return sentence(found, kReadAfterWrite);
    }
    uint16_t reader = who.thread;
    if (relation(byte->read_tick, byte->reader, byte->read_clock, who) != kOrdered && byte->read_tick >= who.start)
      reader |= byte->reader & kSeveralWarps || !same_warp(byte->reader, reader) ? kSeveralWarps : kSeveralLanes;
    byte->reader = reader;
    byte->read_clock = who.clock;
    byte->read_tick = who.tick;
  }
  return nullptr;
}

const char* SharedMemory::check_write(const Byte& byte, const Who& who, bool same) const {
  const bool both_atomic = who.atomic && byte.writer & kAtomic;
  if (!same && !both_atomic) {
    const auto found = relation(byte.write_tick, byte.writer, byte.write_clock, who);
    if (found != kOrdered) return sentence(found, kWriteAfterWrite);
  }
  if (byte.read_tick < who.start || both_atomic) return nullptr;
  auto found = relation(byte.read_tick, byte.reader, byte.read_clock, who);
  if (found == kOrdered && byte.read_tick >= who.interval) {  // the last reader is in order, another one may not be
    if (byte.reader & kSeveralWarps) found = kWarps;
    if (byte.reader & kSeveralLanes && byte.read_clock >= who.clock) found = kLanes;
  }
  return sentence(found, kWriteAfterRead);
}

const char* SharedMemory::write(uint32_t offset, uint32_t count, const Who& who, const uint8_t* next) {
  if (uint64_t(offset) + count > bytes_.size()) return "writes shared memory out of bounds";
  for (uint32_t i = 0; i < count; ++i) {
    Byte& byte = shadow_[offset + i];
    const bool same = next && byte.write_tick >= who.start && bytes_[offset + i] == next[i];
    if (const char* problem = check_write(byte, who, same)) return problem;
    if (next) bytes_[offset + i] = next[i];
    byte.writer = who.thread | (who.atomic ? kAtomic : 0);
    byte.write_clock = who.clock;
    byte.write_tick = who.tick;
  }
  return nullptr;
}

void SharedMemory::forget(uint32_t offset, uint32_t count) {
  for (uint32_t i = offset; i < offset + count; ++i) shadow_[i].write_tick = 0;
  std::memset(bytes_.data() + offset, 0xff, count);
}

GlobalMemory::Segment& GlobalMemory::cover(uint64_t begin, uint64_t end) {
  Segment joined{begin, end, {}, {}, {}};
  for (const auto& one : segments_) {
    if (one.begin > joined.end || one.end < joined.begin) continue;
    joined.begin = std::min(joined.begin, one.begin);
    joined.end = std::max(joined.end, one.end);
  }
  const size_t bytes = joined.end - joined.begin;
  joined.flags.resize(bytes);
  joined.writer.resize(bytes);
  joined.reader.resize(bytes);
  std::vector<Segment> others;
  for (auto& one : segments_) {
    if (one.begin > joined.end || one.end < joined.begin) {
      others.push_back(std::move(one));
      continue;
    }
    const size_t at = one.begin - joined.begin;
    std::copy(one.flags.begin(), one.flags.end(), joined.flags.begin() + at);
    std::copy(one.writer.begin(), one.writer.end(), joined.writer.begin() + at);
    std::copy(one.reader.begin(), one.reader.end(), joined.reader.begin() + at);
  }
  others.push_back(std::move(joined));
  segments_ = std::move(others);
  last_ = segments_.size() - 1;
  return segments_.back();
}

namespace {

// body(begin, bytes) for each run of bytes of a view that lies in one piece.
template <class Body>
void each_run(uint64_t address, int64_t bytes, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, size_t axis,
              const Body& body) {
  if (axis == sizes.size()) return body(address, bytes);
  bool dense = true;  // from this axis on
  int64_t expected = bytes;
  for (size_t i = sizes.size(); i-- > axis;) {
    dense = dense && (strides[i] == expected || sizes[i] == 1);
    expected *= sizes[i];
  }
  if (dense) return body(address, expected);
  for (int64_t i = 0; i < (strides[axis] == 0 ? std::min<int64_t>(sizes[axis], 1) : sizes[axis]); ++i)
    each_run(address + i * strides[axis], bytes, sizes, strides, axis + 1, body);
}

}  // namespace

void GlobalMemory::add(uint64_t address, uint32_t element, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                       uint8_t flags, const std::string& name) {
  uint64_t begin = ~uint64_t(0), end = 0;
  each_run(address, element, sizes, strides, 0, [&](uint64_t at, int64_t bytes) {
    begin = std::min(begin, at);
    end = std::max(end, at + bytes);
  });
  if (end <= begin) return;
  names_.push_back({begin, end, name});
  Segment& segment = cover(begin, end);
  each_run(address, element, sizes, strides, 0, [&](uint64_t at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) segment.flags[at - segment.begin + i] |= flags;
  });
}

int64_t GlobalMemory::undefined(uint64_t address, uint32_t element, const std::vector<int64_t>& sizes,
                                const std::vector<int64_t>& strides) const {
  int64_t count = 0;
  each_run(address, element, sizes, strides, 0, [&](uint64_t at, int64_t bytes) {
    for (const auto& one : segments_)
      if (at >= one.begin && at < one.end)
        for (int64_t i = 0; i < bytes; ++i) count += !(one.flags[at - one.begin + i] & kDefined);
  });
  return count;
}

void GlobalMemory::begin_launch() {
  launch_ = next_launch_;
  meetings_.clear();
  happened_.clear();
}

void GlobalMemory::begin_block(uint64_t number) {
  block_ = launch_ + static_cast<uint32_t>(number);
  next_launch_ = std::max(next_launch_, block_ + 1);
}

inline GlobalMemory::Segment* GlobalMemory::find(uint64_t address, uint32_t count) {
  const auto holds = [&](const Segment& one) { return address >= one.begin && address + count <= one.end; };
  if (last_ < segments_.size() && holds(segments_[last_])) return &segments_[last_];
  for (size_t i = 0; i < segments_.size(); ++i)
    if (holds(segments_[i])) return &segments_[last_ = i];
  return nullptr;
}

// True if what the block behind `tag` did is known to have happened before.
bool GlobalMemory::ordered(uint32_t tag) const {
  if (tag < launch_ || tag == block_) return true;
  const auto known = happened_.find(block_);
  return tag != kSeveralBlocks && known != happened_.end() && std::count(known->second.begin(), known->second.end(), tag) > 0;
}

// True if any of the tags is of another block of this launch, without asking whether that came before.
bool GlobalMemory::foreign(const uint32_t* tags, uint32_t count) const {
  const uint32_t launch = launch_, block = block_;
  uint32_t any = 0;
  for (uint32_t i = 0; i < count; ++i) any |= uint32_t(tags[i] >= launch) & uint32_t(tags[i] != block);
  return any;
}

const char* GlobalMemory::read(uint64_t address, uint32_t count, bool strong) {
  Segment* segment = find(address, count);
  if (!segment) return "reads global memory out of bounds";
  const size_t at = address - segment->begin;
  const uint8_t* flags = &segment->flags[at];
  uint8_t all = 0xff, any = 0;
  for (uint32_t i = 0; i < count; ++i) all &= flags[i], any |= flags[i];
  if (!(all & kReadable)) return "reads global memory out of bounds";
  if (!(all & kDefined)) return "reads global memory that nothing was written to";
  if (!(any & kWritable) || strong) return nullptr;
  const uint32_t* writer = &segment->writer[at];
  if (foreign(writer, count) && !std::all_of(writer, writer + count, [this](uint32_t tag) { return ordered(tag); }))
    return "race in global memory: reads what another block wrote in this launch";
  uint32_t* reader = &segment->reader[at];
  const uint32_t launch = launch_, block = block_;
  for (uint32_t i = 0; i < count; ++i) reader[i] = ((reader[i] >= launch) & (reader[i] != block)) ? kSeveralBlocks : block;
  return nullptr;
}

const char* GlobalMemory::check_write(const Segment& segment, size_t at, uint32_t count, const uint8_t* next) const {
  const uint32_t *writer = &segment.writer[at], *reader = &segment.reader[at];
  if (!foreign(writer, count) && !foreign(reader, count)) return nullptr;
  const auto* old = reinterpret_cast<const uint8_t*>(segment.begin + at);
  for (uint32_t i = 0; i < count; ++i) {
    if (next && segment.flags[at + i] & kDefined && old[i] == next[i]) continue;  // the same value twice does no harm
    if (!ordered(writer[i])) return "race in global memory: overwrites what another block wrote in this launch";
    if (!ordered(reader[i])) return "race in global memory: overwrites what another block read in this launch";
  }
  return nullptr;
}

const char* GlobalMemory::write(uint64_t address, uint32_t count, bool strong, const uint8_t* next) {
  Segment* segment = find(address, count);
  if (!segment) return "writes global memory out of bounds";
  const size_t at = address - segment->begin;
  uint8_t* flags = &segment->flags[at];
  uint8_t all = 0xff;
  for (uint32_t i = 0; i < count; ++i) all &= flags[i];
  if (!(all & kWritable)) return all & kReadable ? "writes to an input" : "writes global memory out of bounds";
  if (!strong)
    if (const char* problem = check_write(*segment, at, count, next)) return problem;
  std::fill_n(&segment->writer[at], count, strong ? 0 : block_);
  if (all & kDefined) return nullptr;
  for (uint32_t i = 0; i < count; ++i) flags[i] |= kDefined;
  return nullptr;
}

void GlobalMemory::synchronise(uint64_t address) {
  auto found = std::find_if(meetings_.begin(), meetings_.end(), [&](const Meeting& one) { return one.address == address; });
  if (found == meetings_.end()) found = meetings_.insert(meetings_.end(), {address, {}});
  auto& happened = happened_[block_];
  for (const uint32_t block : found->blocks)
    if (block != block_ && std::find(happened.begin(), happened.end(), block) == happened.end()) happened.push_back(block);
  if (std::find(found->blocks.begin(), found->blocks.end(), block_) == found->blocks.end()) found->blocks.push_back(block_);
}

std::string GlobalMemory::describe(uint64_t address) const {
  const Name* nearest = nullptr;
  const auto distance = [&](const Name& one) { return address < one.begin ? one.begin - address : address < one.end ? 0 : address - one.end + 1; };
  for (const auto& one : names_)
    if (!nearest || distance(one) < distance(*nearest)) nearest = &one;
  if (!nearest || distance(*nearest) > 1 << 20) return "far from every tensor that was passed";
  const std::string& name = nearest->name.empty() ? "a tensor that was passed" : nearest->name;
  if (address < nearest->begin) return std::to_string(nearest->begin - address) + " bytes before " + name;
  if (address < nearest->end) return "byte " + std::to_string(address - nearest->begin) + " of " + name;
  return std::to_string(address - nearest->end) + " bytes behind " + name;
}

std::vector<uint8_t> GlobalMemory::writable() const {
  std::vector<uint8_t> bytes;
  for (const auto& one : segments_) {
    for (uint64_t i = 0; i < one.end - one.begin; ++i) {
      if (!(one.flags[i] & kWritable)) continue;
      bytes.push_back(*reinterpret_cast<const uint8_t*>(one.begin + i));
      bytes.push_back(one.flags[i]);
    }
  }
  return bytes;
}

void GlobalMemory::restore(const std::vector<uint8_t>& bytes) {
  size_t at = 0;
  for (auto& one : segments_) {
    for (uint64_t i = 0; i < one.end - one.begin; ++i) {
      if (!(one.flags[i] & kWritable)) continue;
      *reinterpret_cast<uint8_t*>(one.begin + i) = bytes[at];
      one.flags[i] = bytes[at + 1];
      at += 2;
    }
  }
}

}  // namespace pylayers::emulator
