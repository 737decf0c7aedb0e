// How the warps of a block share its memory, and the blocks of a launch the tiles.
#pragma once

#include <cstdint>
#include <limits>

#include "common/hopper.cuh"
#include "text_attention/text_attention.h"

namespace humo_rt::text {

constexpr int kHead = kTextHeadDim, kKeys = kMostTextKeys;
constexpr int kTile = 64;                 // queries
constexpr int kPlaces = 9;                // for tiles
constexpr int kGroup = 128;               // threads of a warp group
constexpr int kSides = 3;                 // groups that attend
constexpr int kSlots = kPlaces + kSides;  // for what is told of tiles: see exchange.cuh
constexpr int kAttending = kSides * kGroup, kHelping = 2 * kGroup, kThreads = kAttending + kHelping;
constexpr int kHalf = kHead / 2, kLine = kHalf * 2;  // channels and bytes of a row that the copy engine swizzles
constexpr int kTileBytes = kTile * kHead * 2, kHalfTileBytes = kTileBytes / 2;
constexpr int kMatrixBytes = kKeys * kHead * 2, kHalfKeysBytes = kMatrixBytes / 2;

constexpr float kLog2E = 1.4426950408889634f, kInfinity = std::numeric_limits<float>::infinity();

struct __align__(1024) Shared {
  uint8_t tiles[kPlaces][kTileBytes];  // two halves of the channels, each of rows of 128 bytes
  uint8_t results[kTileBytes];         // of a tile, likewise
  uint8_t keys[kMatrixBytes];
  uint8_t values[kMatrixBytes];
  float bias[kKeys];
  uint64_t arrived[kPlaces];           // a tile
  uint64_t freed[kPlaces];             // by those who read the tile
  uint64_t done;                       // results
  volatile int written;                // tiles whose results left
  volatile int reached;                // the last tile that had arrived
};
static_assert(sizeof(Shared) <= 227 * 1024);  // what a block of Hopper may have

// What the blocks of a launch share out. Tile n is tile n % tiles of branch n / tiles.
struct Plan {
  int tiles;  // of a branch
  int all;    // of all branches
  int teams;
};

#if HUMO_RT_HOPPER

// The tiles of a team.
struct Tiles {
  int begin, count;
  __device__ __forceinline__ Tiles(const Plan& plan, int team)
      : begin(static_cast<int>(static_cast<int64_t>(plan.all) * team / plan.teams)),
        count(static_cast<int>(static_cast<int64_t>(plan.all) * (team + 1) / plan.teams) - begin) {}
  __device__ __forceinline__ int operator[](int i) const { return begin + i; }
};

// Where in shared memory the i-th of them is, and the parity of the phase of its place's barriers that is about it. Who
// waits for a phase must have waited for the one before, or that of two before would pass for it.
__device__ __forceinline__ int place_of(int i) { return i % kPlaces; }
__device__ __forceinline__ uint32_t parity_of(int i) { return i / kPlaces % 2; }

// Where 16 bytes of a row are, of those that the copy engine swizzles.
__device__ __forceinline__ int swizzled(int row, int vector) { return row * kLine + ((vector ^ row % 8) << 4); }

#endif  // HUMO_RT_HOPPER

}  // namespace humo_rt::text
