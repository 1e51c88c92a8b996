/* The C API: reading a blob, planning the workspace, choosing the instruction set. */
#include <string.h>

#include "model.h"

#define HEADER_BYTES 96
#define VERSION 1

typedef void (*Network)(const egeunet_model *, const float *, int, int, float *, Arena *);

/* Reads the parameters of a blob in their order; `left` is negative when it ran out. */
typedef struct {
    const float *at;
    ptrdiff_t left;
} Cursor;

static const float *take_floats(Cursor *cursor, ptrdiff_t count) {
    const float *here = cursor->at;
    cursor->left -= count;
    if (cursor->left >= 0) cursor->at += count;
    return here;
}

static Conv read_conv(Cursor *cursor, int in, int out, int taps) {
    Conv conv = {.in = in, .out = out};
    conv.weight = take_floats(cursor, (ptrdiff_t)in * out * taps);
    conv.bias = take_floats(cursor, out);
    return conv;
}

static Depthwise read_depthwise(Cursor *cursor, int channels) {
    Depthwise d = {.channels = channels};
    d.weight = take_floats(cursor, (ptrdiff_t)channels * 9);
    d.bias = take_floats(cursor, channels);
    return d;
}

static Norm read_norm(Cursor *cursor, int channels) {
    Norm norm = {.channels = channels};
    norm.weight = take_floats(cursor, channels);
    norm.bias = take_floats(cursor, channels);
    return norm;
}

static Attention read_attention(Cursor *cursor, int channels, int tensor, int taps) {
    Attention a;
    a.tensor = take_floats(cursor, (ptrdiff_t)channels * tensor);
    a.depthwise = take_floats(cursor, (ptrdiff_t)channels * taps);
    a.depthwise_bias = take_floats(cursor, channels);
    a.pointwise = take_floats(cursor, (ptrdiff_t)channels * channels);
    a.pointwise_bias = take_floats(cursor, channels);
    return a;
}

static Block read_block(Cursor *cursor, int is_ghpa, int in, int out) {
    Block block = {.is_ghpa = is_ghpa};
    if (!is_ghpa) {
        block.conv = read_conv(cursor, in, out, 9);
        return block;
    }
    const int group = in / GROUPS;
    Ghpa *g = &block.ghpa;
    g->norm = read_norm(cursor, in);
    g->plane = read_attention(cursor, group, TENSOR_SIDE * TENSOR_SIDE, 9);
    g->tall = read_attention(cursor, group, TENSOR_SIDE, 3);
    g->wide = read_attention(cursor, group, TENSOR_SIDE, 3);
    g->local = read_conv(cursor, group, group, 1);
    g->local_depthwise = read_depthwise(cursor, group);
    g->mix_norm = read_norm(cursor, in);
    g->mix_depthwise = read_depthwise(cursor, in);
    g->mix = read_conv(cursor, in, out, 1);
    return block;
}

/* Fill the layers of `m`, whose widths are set, from parameters in order of use. */
static void read_layers(egeunet_model *m, Cursor *cursor) {
    const int *w = m->widths;
    int channels = 3;
    for (int i = 0; i < LEVELS; i++) {
        m->encoder[i] = read_block(cursor, i >= 3, channels, w[i]);
        m->encoder_norm[i] = read_norm(cursor, w[i]);
        channels = w[i];
    }
    m->bottleneck = read_block(cursor, 1, w[4], w[5]);
    for (int level = 0; level < LEVELS; level++) {
        const int in = w[LEVELS - level], out = w[LEVELS - 1 - level];
        const int group = 2 * (out / GROUPS) + 1, last = level == LEVELS - 1;
        m->decoder[level] = read_block(cursor, level < 3, in, out);
        m->decoder_norm[level] = read_norm(cursor, out);
        m->mask_head[level] = read_conv(cursor, out, 1, 1);
        Gab *bridge = &m->bridge[level];
        bridge->project = read_conv(cursor, in, out, 1);
        bridge->norm = read_norm(cursor, GROUPS * group);
        bridge->depthwise = read_depthwise(cursor, GROUPS * group);
        bridge->tail = read_conv(cursor, GROUPS * group, last ? 1 : out, 1);
    }
    m->head = read_conv(cursor, w[0], 1, 1);
}

/* ---- the blob ------------------------------------------------------------------------------- */

typedef struct {
    uint32_t version, half, height, width, widths[EGEUNET_STAGES], metadata_bytes, parameters;
    const uint8_t *metadata, *values;
} Blob;

static uint32_t u32(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static int valid_side(uint32_t side) {
    return side >= 32 && side <= EGEUNET_MAX_SIDE && side % 32 == 0;
}

static egeunet_status open_blob(const void *data, size_t bytes, Blob *blob) {
    const uint8_t *at = data;
    if (!data || bytes < HEADER_BYTES || memcmp(at, "EGEU", 4)) return EGEUNET_BAD_BLOB;
    blob->version = u32(at + 4);
    if (blob->version != VERSION) return EGEUNET_BAD_VERSION;
    blob->half = u32(at + 8);
    blob->height = u32(at + 12);
    blob->width = u32(at + 16);
    for (int i = 0; i < EGEUNET_STAGES; i++) {
        blob->widths[i] = u32(at + 20 + 4 * i);
        if (blob->widths[i] < GROUPS || blob->widths[i] > MAX_WIDTH || blob->widths[i] % GROUPS)
            return EGEUNET_BAD_BLOB;
    }
    blob->metadata_bytes = u32(at + 44);
    blob->parameters = u32(at + 48);
    if (blob->half > 1 || !valid_side(blob->height) || !valid_side(blob->width))
        return EGEUNET_BAD_BLOB;
    const uint64_t each = blob->half ? 2 : 4;
    if ((uint64_t)bytes != HEADER_BYTES + blob->metadata_bytes + each * blob->parameters)
        return EGEUNET_BAD_BLOB;
    blob->metadata = at + HEADER_BYTES;
    blob->values = blob->metadata + blob->metadata_bytes;

    egeunet_model model = {0};
    for (int i = 0; i < EGEUNET_STAGES; i++) model.widths[i] = (int)blob->widths[i];
    Cursor cursor = {NULL, 0};
    static const float nothing[1];
    cursor.at = nothing;
    read_layers(&model, &cursor);
    return -cursor.left == (ptrdiff_t)blob->parameters ? EGEUNET_OK : EGEUNET_BAD_BLOB;
}

static float from_half(uint32_t h) {
    const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
    uint32_t bits = (h & 0x8000) << 16;
    float value;
    if (exponent == 31) {
        bits |= 0x7f800000 | fraction << 13;
    } else if (exponent) {
        bits |= (exponent + 112) << 23 | fraction << 13;
    } else { /* zero or subnormal */
        value = (float)fraction * (1.0f / 16777216);
        return h & 0x8000 ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static size_t align(size_t bytes) {
    return (bytes + EGEUNET_ALIGNMENT - 1) / EGEUNET_ALIGNMENT * EGEUNET_ALIGNMENT;
}

size_t egeunet_model_size(const void *data, size_t bytes) {
    Blob blob;
    if (open_blob(data, bytes, &blob)) return 0;
    return align(sizeof(egeunet_model)) + align(blob.parameters * sizeof(float));
}

egeunet_status egeunet_load(const void *data, size_t bytes, void *memory, size_t memory_bytes,
                            const egeunet_model **model) {
    Blob blob;
    if (!memory || !model || (uintptr_t)memory % EGEUNET_ALIGNMENT) return EGEUNET_BAD_ARGUMENT;
    egeunet_status status = open_blob(data, bytes, &blob);
    if (status) return status;
    if (memory_bytes < egeunet_model_size(data, bytes)) return EGEUNET_NO_MEMORY;
    egeunet_model *m = memory;
    float *values = (float *)((char *)memory + align(sizeof *m));
    memset(m, 0, sizeof *m);
    m->height = (int)blob.height;
    m->width = (int)blob.width;
    for (int i = 0; i < EGEUNET_STAGES; i++) m->widths[i] = (int)blob.widths[i];
    for (uint32_t i = 0; i < blob.parameters; i++) {
        if (blob.half) {
            values[i] = from_half(blob.values[2 * i] | (uint32_t)blob.values[2 * i + 1] << 8);
        } else {
            const uint32_t word = u32(blob.values + 4 * (size_t)i);
            memcpy(&values[i], &word, sizeof word);
        }
    }
    Cursor cursor = {values, (ptrdiff_t)blob.parameters};
    read_layers(m, &cursor);
    *model = m;
    return EGEUNET_OK;
}

const char *egeunet_metadata(const void *data, size_t bytes, size_t *length) {
    Blob blob;
    if (!length || open_blob(data, bytes, &blob)) return NULL;
    *length = blob.metadata_bytes;
    return (const char *)blob.metadata;
}

void egeunet_native_size(const egeunet_model *model, int *height, int *width) {
    *height = model->height;
    *width = model->width;
}

/* ---- running -------------------------------------------------------------------------------- */

static Network choose(const char **name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
        *name = "avx512";
        return egeunet_network_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        *name = "avx2";
        return egeunet_network_avx2;
    }
#endif
    *name = "baseline";
    return egeunet_network_baseline;
}

const char *egeunet_instruction_set(void) {
    const char *name;
    choose(&name);
    return name;
}

size_t egeunet_workspace_size(const egeunet_model *model, int height, int width) {
    if (!model || height < 0 || width < 0 || !valid_side(height) || !valid_side(width)) return 0;
    const char *name;
    Arena arena = {0};
    choose(&name)(model, NULL, height, width, NULL, &arena);
    return arena.peak > SIZE_MAX / sizeof(float) ? 0 : (size_t)arena.peak * sizeof(float);
}

egeunet_status egeunet_run(const egeunet_model *model, const float *image, int height, int width,
                           float *logits, void *workspace, size_t workspace_bytes) {
    if (!image || !logits || !workspace || (uintptr_t)workspace % EGEUNET_ALIGNMENT)
        return EGEUNET_BAD_ARGUMENT;
    const size_t needed = egeunet_workspace_size(model, height, width);
    if (!needed) return EGEUNET_BAD_ARGUMENT;
    if (workspace_bytes < needed) return EGEUNET_NO_MEMORY;
    const char *name;
    Arena arena = {.base = workspace};
    choose(&name)(model, image, height, width, logits, &arena);
    return EGEUNET_OK;
}
