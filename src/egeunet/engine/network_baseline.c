/* The network compiled for what every machine has: SSE2, NEON, SIMD128 or plain C. */
#define LANES 4
#define NETWORK egeunet_network_baseline
#include "network.inc"
