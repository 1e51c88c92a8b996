/* The network compiled for AVX512; see network.inc. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx2,fma")
#endif
#define LANES 16
#define NETWORK egeunet_network_avx512
#include "network.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
