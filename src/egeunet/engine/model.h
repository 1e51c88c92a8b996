/* The layers of a model as pointers to packed parameters, in the order in which they are used. */
#ifndef EGEUNET_MODEL_H
#define EGEUNET_MODEL_H

#include "egeunet.h"

#define GROUPS 4     /* channel groups of GHPA, GAB and the group normalization */
#define LEVELS 5     /* decoder levels, from the deepest on */
#define CONV_BLOCK 4 /* output channels whose weights lie together */
#define TENSOR_SIDE 8 /* of the learned tensors of a GHPA */
#define MAX_WIDTH 256 /* channels of a stage */

/* Weights [out / CONV_BLOCK][in][taps][CONV_BLOCK]; outputs that fill no block follow as
 * [out % CONV_BLOCK][in][taps]. */
typedef struct {
    int in, out;
    const float *weight, *bias;
} Conv;

/* Depthwise 3×3: weights [channels][9]. */
typedef struct {
    int channels;
    const float *weight, *bias;
} Depthwise;

typedef struct {
    int channels;
    const float *weight, *bias;
} Norm;

/* A learned tensor that is resized and refined to an attention map. */
typedef struct {
    const float *tensor; /* (C, 8, 8) of the plane, (C, 8) of an axis */
    const float *depthwise, *depthwise_bias; /* 3×3, or 3 for an axis */
    const float *pointwise, *pointwise_bias; /* (C, C) */
} Attention;

typedef struct {
    Norm norm;
    Attention plane, tall, wide;
    Conv local;
    Depthwise local_depthwise;
    Norm mix_norm;
    Depthwise mix_depthwise;
    Conv mix;
} Ghpa;

typedef struct {
    Conv project;
    Norm norm;
    Depthwise depthwise; /* of all four groups */
    Conv tail;           /* its layer normalization is folded in, but for the deviation */
} Gab;

typedef struct {
    int is_ghpa;
    Conv conv;
    Ghpa ghpa;
} Block;

struct egeunet_model {
    int height, width;          /* native size */
    int widths[EGEUNET_STAGES]; /* channels of the stages */
    Block encoder[LEVELS];
    Norm encoder_norm[LEVELS];
    Block bottleneck;
    Block decoder[LEVELS];
    Norm decoder_norm[LEVELS];
    Conv mask_head[LEVELS];
    Gab bridge[LEVELS]; /* the tail of the last one includes the head */
    Conv head;
};

/* Memory that blocks take from and give back in the order of a stack. Without a base it only
 * counts, so that one pass through the network plans the workspace. */
typedef struct {
    float *base;
    uint64_t used, peak; /* floats; more than fit in the memory of a 32-bit machine are counted */
} Arena;

void egeunet_network_avx512(const egeunet_model *, const float *, int, int, float *, Arena *);
void egeunet_network_avx2(const egeunet_model *, const float *, int, int, float *, Arena *);
void egeunet_network_baseline(const egeunet_model *, const float *, int, int, float *, Arena *);

#endif
