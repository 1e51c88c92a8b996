/* Segment a PPM image with the engine of egeunet:
 *
 *     segment WEIGHTS.egeu IMAGE.ppm MASK.pgm
 *
 * For research use only: not a medical device, not a diagnosis.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "egeunet.h"

#define THRESHOLD 0.5f /* probability from which a pixel belongs to the mask */

static void fail(const char *what, const char *name) {
    fprintf(stderr, "segment: %s %s.\n", what, name);
    exit(1);
}

/* Aligned memory, kept until the program ends. */
static void *allocate(size_t bytes) {
    char *memory = bytes ? malloc(bytes + EGEUNET_ALIGNMENT) : NULL;
    if (!memory) fail("cannot allocate", "memory");
    return memory + EGEUNET_ALIGNMENT - (uintptr_t)memory % EGEUNET_ALIGNMENT;
}

static uint8_t *read_file(const char *name, size_t *bytes) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("cannot read", name);
    const long size = ftell(file);
    if (size <= 0 || fseek(file, 0, SEEK_SET)) fail("cannot read", name);
    uint8_t *data = allocate(*bytes = (size_t)size);
    if (fread(data, 1, *bytes, file) != *bytes) fail("cannot read", name);
    fclose(file);
    return data;
}

static uint8_t *read_ppm(const char *name, int *height, int *width) {
    FILE *file = fopen(name, "rb");
    int most = 0;
    if (!file || fscanf(file, "P6 %d %d %d", width, height, &most) != 3 || most != 255 ||
        *width < 1 || *height < 1 || *width > EGEUNET_MAX_IMAGE_SIDE ||
        *height > EGEUNET_MAX_IMAGE_SIDE)
        fail("not a PPM image (P6, 8 bits, no comments):", name);
    const size_t bytes = (size_t)*height * *width * 3;
    uint8_t *rgb = allocate(bytes);
    fgetc(file); /* the one space after the header */
    if (fread(rgb, 1, bytes, file) != bytes) fail("truncated:", name);
    fclose(file);
    return rgb;
}

static void check(egeunet_status status, const char *name) {
    if (status) fail("the engine refuses", name);
}

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: segment WEIGHTS.egeu IMAGE.ppm MASK.pgm\n");
        return 2;
    }
    size_t bytes;
    uint8_t *blob = read_file(words[1], &bytes);
    size_t size = egeunet_model_size(blob, bytes);
    if (!size) fail("not a weights file:", words[1]);
    const egeunet_model *model;
    void *memory = allocate(size);
    check(egeunet_load(blob, bytes, memory, size, &model), words[1]);

    int height, width, h, w; /* of the image, of the network */
    uint8_t *rgb = read_ppm(words[2], &height, &width);
    egeunet_native_size(model, &h, &w);
    const size_t pixels = (size_t)height * width, inner = (size_t)h * w;

    /* One workspace serves all three calls. */
    size = egeunet_prepare_size(height, width, h, w);
    if (egeunet_workspace_size(model, h, w) > size) size = egeunet_workspace_size(model, h, w);
    if (egeunet_resize_size(h, w, height, width) > size)
        size = egeunet_resize_size(h, w, height, width);
    void *workspace = allocate(size);
    float *input = allocate(3 * inner * sizeof(float)), *map = allocate(inner * sizeof(float));
    float *probability = allocate(pixels * sizeof(float));

    check(egeunet_prepare(rgb, height, width, input, h, w, workspace, size), words[2]);
    check(egeunet_run(model, input, h, w, map, workspace, size), words[2]);
    for (size_t i = 0; i < inner; i++) map[i] = 1 / (1 + expf(-map[i]));
    check(egeunet_resize(map, h, w, probability, height, width, workspace, size), words[2]);

    uint8_t *mask = rgb; /* one byte for three */
    for (size_t i = 0; i < pixels; i++) mask[i] = probability[i] >= THRESHOLD ? 255 : 0;
    FILE *file = fopen(words[3], "wb");
    if (!file) fail("cannot write", words[3]);
    fprintf(file, "P5\n%d %d\n255\n", width, height);
    if (fwrite(mask, 1, pixels, file) != pixels || fclose(file)) fail("cannot write", words[3]);
    return 0;
}
