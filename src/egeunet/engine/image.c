/* Resizing and scaling of images, equal to Pillow's bilinear filter and to
 * `egeunet.inference.preprocess`, whose tests hold the two together.
 *
 * The filter is a triangle as wide as an output pixel where the image shrinks, so that all pixels
 * that fall together are averaged, and two pixels wide where it grows.
 */
#include <math.h>
#include <string.h>

#include "egeunet.h"

#define PRECISION 22 /* bits after the point of the weights for bytes, as in Pillow */
#define CHUNK 64     /* values that are computed at a time, so that loops become vector code */

/* The inner loops are compiled twice where the loader can choose: SSE2 has no product of 32-bit
 * integers. Without FMA, so that both give the same bits. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* The input pixels of each output pixel of one axis: `first`, `count` and their weights. */
typedef struct {
    int from, to, most; /* sizes, and the largest count */
    int32_t *first, *count;
    double *weight; /* [to][most], normalized */
    int32_t *fixed; /* the same in fixed point */
} Axis;

static size_t align(size_t bytes) {
    return (bytes + EGEUNET_ALIGNMENT - 1) / EGEUNET_ALIGNMENT * EGEUNET_ALIGNMENT;
}

static int most_of(int from, int to) {
    double support = from > to ? (double)from / to : 1;
    return (int)ceil(support) * 2 + 1;
}

static size_t axis_bytes(int from, int to) {
    size_t weights = (size_t)to * most_of(from, to);
    return 2 * align(to * sizeof(int32_t)) + align(weights * sizeof(double)) +
           align(weights * sizeof(int32_t));
}

/* Both axes of an image in a workspace, and the memory behind them. */
typedef struct {
    Axis across, down;
    char *pixels;
} Plan;

/* Plan an axis in `memory`; returns the memory behind it. */
static char *plan_axis(Axis *axis, int from, int to, char *memory) {
    axis->from = from, axis->to = to, axis->most = most_of(from, to);
    size_t weights = (size_t)to * axis->most;
    axis->first = (int32_t *)memory, memory += align(to * sizeof(int32_t));
    axis->count = (int32_t *)memory, memory += align(to * sizeof(int32_t));
    axis->weight = (double *)memory, memory += align(weights * sizeof(double));
    axis->fixed = (int32_t *)memory, memory += align(weights * sizeof(int32_t));
    const double scale = (double)from / to, support = scale > 1 ? scale : 1;
    for (int i = 0; i < to; i++) {
        volatile double center = (i + 0.5) * scale; /* rounded, never fused with what follows */
        int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
        if (low < 0) low = 0;
        if (high > from) high = from;
        double *weight = axis->weight + (size_t)i * axis->most, total = 0;
        for (int k = 0; k < high - low; k++) {
            double distance = fabs((k + low - center + 0.5) * (1 / support));
            weight[k] = distance < 1 ? 1 - distance : 0;
            total += weight[k];
        }
        for (int k = 0; k < high - low; k++) {
            if (total != 0) weight[k] /= total;
            axis->fixed[(size_t)i * axis->most + k] = (int32_t)(weight[k] * (1 << PRECISION) + 0.5);
        }
        int kept = high - low; /* without the zeros at the end */
        while (kept > 1 && weight[kept - 1] == 0) kept--;
        axis->first[i] = low;
        axis->count[i] = kept;
    }
    return memory;
}

static uint8_t to_byte(int32_t sum) {
    sum >>= PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* Resize rows of RGB bytes, (height, from, 3) to (height, to, 3), rounded as in Pillow. */
static CLONES void resize_rows(const uint8_t *rgb, int height, const Axis *across, uint8_t *out) {
    for (int y = 0; y < height; y++)
        for (int x = 0; x < across->to; x++, out += 3) {
            const uint8_t *in = rgb + ((size_t)y * across->from + across->first[x]) * 3;
            const int32_t *weight = across->fixed + (size_t)x * across->most;
            int32_t r = 1 << (PRECISION - 1), g = r, b = r;
            for (int k = 0; k < across->count[x]; k++, in += 3) {
                r += in[0] * weight[k];
                g += in[1] * weight[k];
                b += in[2] * weight[k];
            }
            out[0] = to_byte(r), out[1] = to_byte(g), out[2] = to_byte(b);
        }
}

/* A row of bytes of the resized image: the weighted sum of `count` rows that lie `row` apart. */
static CLONES void mix_bytes(const uint8_t *rows, size_t row, int count, const int32_t *weight,
                             uint8_t *out) {
    for (size_t x = 0; x < row; x += CHUNK) {
        const size_t length = row - x < CHUNK ? row - x : CHUNK;
        int32_t sum[CHUNK];
        for (int i = 0; i < CHUNK; i++) sum[i] = 1 << (PRECISION - 1);
        for (int k = 0; k < count; k++) {
            const uint8_t *in = rows + k * row + x;
            for (size_t i = 0; i < length; i++) sum[i] += in[i] * weight[k];
        }
        for (size_t i = 0; i < length; i++) out[x + i] = to_byte(sum[i]);
    }
}

/* The same of floats, and of the first `width` of a row. */
static CLONES void mix_floats(const float *rows, size_t row, int count, const double *weight,
                              size_t width, float *out) {
    for (size_t x = 0; x < width; x += CHUNK) {
        const size_t length = width - x < CHUNK ? width - x : CHUNK;
        double sum[CHUNK] = {0};
        for (int k = 0; k < count; k++) {
            const float *in = rows + k * row + x;
            for (size_t i = 0; i < length; i++) sum[i] += in[i] * weight[k];
        }
        for (size_t i = 0; i < length; i++) out[x + i] = (float)sum[i];
    }
}

/* Resize the rows of a map, (height, from) to (height, to). */
static void widen(const float *map, int height, const Axis *across, float *out) {
    for (int y = 0; y < height; y++, map += across->from)
        for (int x = 0; x < across->to; x++) {
            const float *in = map + across->first[x];
            const double *weight = across->weight + (size_t)x * across->most;
            double sum = 0;
            for (int k = 0; k < across->count[x]; k++) sum += in[k] * weight[k];
            *out++ = (float)sum;
        }
}

/* Scale bytes (pixels, 3) to floats (3, pixels), the darkest to 0 and the brightest to 255. */
static CLONES void scale(const uint8_t *rgb, size_t pixels, float *image) {
    uint8_t low = 255, high = 0;
    for (size_t i = 0; i < 3 * pixels; i++) {
        low = rgb[i] < low ? rgb[i] : low;
        high = rgb[i] > high ? rgb[i] : high;
    }
    const float span = (float)(high > low ? high - low : 1);
    for (int c = 0; c < 3; c++)
        for (size_t i = 0; i < pixels; i++)
            *image++ = (float)(rgb[3 * i + c] - low) / span * 255.0f;
}

static int valid(int side) { return side > 0 && side <= EGEUNET_MAX_IMAGE_SIDE; }

/* Bytes of a plan and of two images behind it; 0 if a size is not valid or the sum has no room in
 * size_t. */
static size_t plan_bytes(int height, int width, int out_height, int out_width, uint64_t first,
                         uint64_t second) {
    if (!valid(height) || !valid(width) || !valid(out_height) || !valid(out_width)) return 0;
    const size_t axes = axis_bytes(width, out_width) + axis_bytes(height, out_height);
    if (axes + first + second > SIZE_MAX - 2 * EGEUNET_ALIGNMENT) return 0;
    return axes + align((size_t)first) + align((size_t)second);
}

static egeunet_status make_plan(Plan *plan, int height, int width, int out_height, int out_width,
                                void *workspace, size_t workspace_bytes, size_t needed) {
    if (!workspace || (uintptr_t)workspace % EGEUNET_ALIGNMENT || !needed)
        return EGEUNET_BAD_ARGUMENT;
    if (workspace_bytes < needed) return EGEUNET_NO_MEMORY;
    char *memory = plan_axis(&plan->across, width, out_width, workspace);
    plan->pixels = plan_axis(&plan->down, height, out_height, memory);
    return EGEUNET_OK;
}

size_t egeunet_prepare_size(int height, int width, int out_height, int out_width) {
    return plan_bytes(height, width, out_height, out_width, (uint64_t)height * out_width * 3,
                      (uint64_t)out_height * out_width * 3);
}

egeunet_status egeunet_prepare(const uint8_t *rgb, int height, int width, float *image,
                               int out_height, int out_width, void *workspace,
                               size_t workspace_bytes) {
    if (!rgb || !image) return EGEUNET_BAD_ARGUMENT;
    Plan plan;
    const size_t needed = egeunet_prepare_size(height, width, out_height, out_width);
    const egeunet_status status = make_plan(&plan, height, width, out_height, out_width, workspace,
                                            workspace_bytes, needed);
    if (status) return status;
    const Axis *across = &plan.across, *down = &plan.down;
    const size_t row = (size_t)out_width * 3;
    const uint8_t *from = rgb;
    if (width != out_width) { /* rows first, rounded to bytes, as in Pillow */
        uint8_t *narrow = (uint8_t *)plan.pixels;
        resize_rows(rgb, height, across, narrow);
        from = narrow;
    }
    if (height != out_height) {
        uint8_t *small = (uint8_t *)plan.pixels + align((size_t)height * row);
        for (int y = 0; y < out_height; y++)
            mix_bytes(from + (size_t)down->first[y] * row, row, down->count[y],
                      down->fixed + (size_t)y * down->most, small + (size_t)y * row);
        from = small;
    }
    scale(from, (size_t)out_height * out_width, image);
    return EGEUNET_OK;
}

size_t egeunet_resize_size(int height, int width, int out_height, int out_width) {
    return plan_bytes(height, width, out_height, out_width,
                      (uint64_t)height * out_width * sizeof(float), 0);
}

egeunet_status egeunet_resize(const float *map, int height, int width, float *out, int out_height,
                              int out_width, void *workspace, size_t workspace_bytes) {
    if (!map || !out) return EGEUNET_BAD_ARGUMENT;
    Plan plan;
    const size_t needed = egeunet_resize_size(height, width, out_height, out_width);
    const egeunet_status status = make_plan(&plan, height, width, out_height, out_width, workspace,
                                            workspace_bytes, needed);
    if (status) return status;
    const Axis *down = &plan.down;
    float *wide = (float *)plan.pixels;
    widen(map, height, &plan.across, wide);
    for (int y = 0; y < out_height; y++)
        mix_floats(wide + (size_t)down->first[y] * out_width, out_width, down->count[y],
                   down->weight + (size_t)y * down->most, out_width, out + (size_t)y * out_width);
    return EGEUNET_OK;
}

size_t egeunet_resize_mask_size(int height, int width, int out_height, int out_width) {
    const uint64_t wide = (uint64_t)height * out_width;
    return plan_bytes(height, width, out_height, out_width, wide * sizeof(float), wide);
}

egeunet_status egeunet_resize_mask(const float *map, int height, int width, float threshold,
                                   uint8_t *mask, int out_height, int out_width, void *workspace,
                                   size_t workspace_bytes) {
    if (!map || !mask) return EGEUNET_BAD_ARGUMENT;
    Plan plan;
    const size_t needed = egeunet_resize_mask_size(height, width, out_height, out_width);
    const egeunet_status status = make_plan(&plan, height, width, out_height, out_width, workspace,
                                            workspace_bytes, needed);
    if (status) return status;
    const Axis *down = &plan.down;
    const size_t row = out_width, values = (size_t)height * row;
    float *wide = (float *)plan.pixels;
    uint8_t *above = (uint8_t *)plan.pixels + align(values * sizeof(float));
    widen(map, height, &plan.across, wide);
    for (size_t i = 0; i < values; i++) above[i] = wide[i] >= threshold;
    for (int y = 0; y < out_height; y++) {
        const uint8_t *sides = above + down->first[y] * row;
        for (size_t x = 0; x < row; x += CHUNK) {
            const size_t length = row - x < CHUNK ? row - x : CHUNK;
            uint8_t *out = mask + y * row + x;
            int same = 1; /* a mean of values on one side of the threshold is on that side */
            for (int k = 1; k < down->count[y] && same; k++)
                same = !memcmp(sides + x, sides + k * row + x, length);
            if (same) {
                memcpy(out, sides + x, length);
            } else {
                float mixed[CHUNK];
                mix_floats(wide + down->first[y] * row + x, row, down->count[y],
                           down->weight + (size_t)y * down->most, length, mixed);
                for (size_t i = 0; i < length; i++) out[i] = mixed[i] >= threshold;
            }
        }
    }
    return EGEUNET_OK;
}
