// What instructions and requests to the L1 cache cost, in cycles: a JSON object a line. Stage `probe` builds and runs it.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

constexpr int ROUNDS = 512;
constexpr int UNROLLED = 8;
constexpr int BYTES_A_WARP = 4096;
constexpr int MAX_WARPS = 16;

__device__ uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product;
  asm volatile("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

__device__ uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm volatile("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}

__device__ void matrix_k16(float (&sum)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ void matrix_k8(float (&sum)[4], const uint32_t* a, uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Repeats so many instructions of each kind; matrix instructions take what the multiplications before them made. In a
// kernel without matrix instructions the assembler turns half of the bf16 arithmetic into HFMA2.MMA, which has another
// pipe. One matrix instruction at the END, after the clock, keeps it to what kernels with such instructions have.
template <int MULTIPLY, int MULTIPLY_ADD, int K16, int K8, bool END = false>
__global__ void instructions(uint32_t* sink, long long* cycles, uint32_t seed) {
  float sums[UNROLLED][4] = {};
  uint32_t factors[8], values[8];
  for (int i = 0; i < 8; i++) factors[i] = values[i] = seed * (i + 1) + threadIdx.x;
  const uint32_t other = seed ^ threadIdx.x;
  __syncthreads();
  const long long start = clock64();
#pragma unroll 1
  for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
    for (int u = 0; u < UNROLLED; u++) {
      uint32_t* const some = values + u % 2 * 4;
      // Before a matrix instruction products are new ones, for the assembler computes equal ones but once.
      const uint32_t* const from = K16 + K8 ? factors + u % 2 * 4 : some;
      const uint32_t by = K16 + K8 ? other + round * UNROLLED + u / 2 : other;
      for (int i = 0; i < MULTIPLY; i++) some[i] = multiply(from[i], by);
      for (int i = 0; i < MULTIPLY_ADD; i++) some[i] = multiply_add(some[i], other, factors[i]);
      for (int i = 0; i < K16; i++) matrix_k16(sums[u], some, factors[u], other);
      for (int i = 0; i < K8; i++) matrix_k8(sums[(u + i * UNROLLED / 2) % UNROLLED], some + 2 * i, other);
    }
  }
  __syncthreads();
  const long long stop = clock64();
  if (END) matrix_k16(sums[0], values, other, other);
  uint32_t used = 0;
  for (int i = 0; i < 8; i++) used += values[i];
  for (auto& sum : sums)
    for (float value : sum) used += __float_as_uint(value);
  sink[blockIdx.x * blockDim.x + threadIdx.x] = used;
  if (threadIdx.x == 0) cycles[blockIdx.x] = stop - start;
}

// A warp goes to 8 positions, 4 threads each: `row` bytes from position to position, `thread` from thread to thread and
// `step` from request to request. BYTES is what a thread loads or stores.
template <int BYTES, bool STORES>
__global__ void requests(char* memory, uint32_t* sink, long long* cycles, int row, int thread, int step) {
  const int warp = blockIdx.x * MAX_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  char* const place = memory + static_cast<size_t>(warp) * BYTES_A_WARP + lane / 4 * row + lane % 4 * thread;
  uint32_t used = threadIdx.x;
  __syncthreads();
  const long long start = clock64();
#pragma unroll 1
  for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
    for (int u = 0; u < UNROLLED; u++) {
      char* const at = place + u * step;
      uint32_t w[4] = {};
      if constexpr (STORES) {
        asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"(static_cast<uint16_t>(used)) : "memory");
      } else if constexpr (BYTES == 2) {
        uint16_t half;
        asm volatile("ld.global.u16 %0, [%1];" : "=h"(half) : "l"(at));
        w[0] = half;
      } else if constexpr (BYTES == 8) {
        asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(at));
      } else {
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "l"(at));
      }
      used ^= w[0] ^ w[1] ^ w[2] ^ w[3];
    }
  }
  __syncthreads();
  const long long stop = clock64();
  sink[blockIdx.x * blockDim.x + threadIdx.x] = used;
  if (threadIdx.x == 0) cycles[blockIdx.x] = stop - start;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

int main() {
  int count;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  char* memory;
  uint32_t* sink;
  long long* cycles;
  check(cudaMalloc(&memory, static_cast<size_t>(count) * MAX_WARPS * BYTES_A_WARP));
  check(cudaMemset(memory, 1, static_cast<size_t>(count) * MAX_WARPS * BYTES_A_WARP));
  check(cudaMalloc(&sink, static_cast<size_t>(count) * MAX_WARPS * 32 * sizeof *sink));
  check(cudaMalloc(&cycles, count * sizeof *cycles));

  // One block on each multiprocessor, twice; the first time warms up.
  const auto time = [&](auto launch) {
    long long taken;
    for (int i = 0; i < 2; i++) {
      launch();
      check(cudaGetLastError());
      check(cudaMemcpy(&taken, cycles, sizeof taken, cudaMemcpyDeviceToHost));
    }
    return static_cast<double>(taken) / (ROUNDS * UNROLLED);
  };
  const auto row = [](const char* table, const char* what, int warps, double taken) {
    std::printf("{\"table\": \"%s\", \"what\": \"%s\", \"warps\": %d, \"cycles\": %.3f}\n", table, what, warps, taken);
  };
  // Cycles of one of the four schedulers, for `each` of them in a turn.
  const auto instruction = [&](const char* what, auto kernel, int each) {
    for (int warps : {4, 8, 12, 16}) {
      const double taken = time([&] { kernel<<<count, warps * 32>>>(sink, cycles, 3); });
      row("instruction", what, warps, taken / each / (warps / 4));
    }
  };
  // Cycles of a multiprocessor for the request of one warp.
  const auto request = [&](const char* what, auto kernel, int distance, int thread, int step) {
    for (int warps : {8, 16}) {
      const double taken = time([&] { kernel<<<count, warps * 32>>>(memory, sink, cycles, distance, thread, step); });
      row("request", what, warps, taken / warps);
    }
  };
  instruction("mma.m16n8k16.bf16", instructions<0, 0, 1, 0>, 1);
  instruction("mma.m16n8k8.bf16", instructions<0, 0, 0, 1>, 1);
  instruction("mul.bf16x2", instructions<4, 0, 0, 0>, 4);
  instruction("fma.bf16x2", instructions<0, 4, 0, 0>, 4);
  instruction("mul.bf16x2, HMUL2 alone", instructions<4, 0, 0, 0, true>, 4);
  instruction("fma.bf16x2, HFMA2 alone", instructions<0, 4, 0, 0, true>, 4);
  instruction("4 mul.bf16x2 and mma.m16n8k16.bf16", instructions<4, 0, 1, 0>, 1);
  instruction("4 mul.bf16x2 and 2 mma.m16n8k8.bf16", instructions<4, 0, 0, 2>, 1);
  request("2-byte load, 8 rows of 98 channels", requests<2, false>, 196, 0, 2);
  request("8-byte load, 8 rows of 112 channels", requests<8, false>, 224, 0, 32);
  request("16-byte load, 512 bytes in a row", requests<16, false>, 64, 16, 64);
  request("2-byte store, 8 rows of 98 channels", requests<2, true>, 196, 4, 14);
  return 0;
}
