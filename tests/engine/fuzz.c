/* Feeds the engine mutated weights blobs and random sizes; a sanitizer reports what goes wrong.
 *
 *     fuzz COUNT SEED
 *
 * Buffers have exactly the size that the engine asks for, so that one byte too many is noticed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine.c" /* for the number of parameters of given widths, and each instruction set */

static uint64_t state;

static uint32_t random_below(uint32_t limit) { /* xorshift64* (Vigna 2016) */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull >> 32) % limit);
}

static int chance(uint32_t one_in) { return random_below(one_in) == 0; }

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

static void *allocate(size_t bytes) {
    void *memory = NULL;
    require(!posix_memalign(&memory, EGEUNET_ALIGNMENT, bytes ? bytes : 1), "out of memory");
    return memory;
}

static float *random_floats(size_t count) {
    float *values = allocate(count * sizeof(float));
    for (size_t i = 0; i < count; i++) values[i] = (float)random_below(256);
    return values;
}

static void put(uint8_t *at, uint32_t value) { /* little-endian, as in the file */
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

/* A valid blob of a model of these widths, without metadata and parameters. */
static uint8_t *make_blob(const int *widths, uint32_t half, size_t *bytes) {
    egeunet_model model = {0};
    memcpy(model.widths, widths, sizeof model.widths);
    static const float nothing[1];
    Cursor cursor = {nothing, 0};
    read_layers(&model, &cursor);
    const uint32_t count = (uint32_t)-cursor.left;
    *bytes = HEADER_BYTES + (size_t)count * (half ? 2 : 4);
    uint8_t *blob = allocate(*bytes);
    memset(blob, 0, HEADER_BYTES);
    memcpy(blob, "EGEU", 4);
    const uint32_t fields[] = {VERSION, half, 256, 256};
    for (int i = 0; i < 4; i++) put(blob + 4 + 4 * i, fields[i]);
    for (int i = 0; i < EGEUNET_STAGES; i++) put(blob + 20 + 4 * i, (uint32_t)widths[i]);
    put(blob + 48, count);
    return blob;
}

/* A blob of the published widths with small parameters. */
static uint8_t *published_blob(size_t *bytes) {
    static const int widths[EGEUNET_STAGES] = {8, 16, 24, 32, 48, 64};
    uint8_t *blob = make_blob(widths, 0, bytes);
    for (size_t at = HEADER_BYTES; at < *bytes; at += 4) {
        const float value = ((float)random_below(2001) - 1000) / 2000;
        memcpy(blob + at, &value, 4);
    }
    return blob;
}

/* A blob of random widths and parameters, some of them infinite or not a number. */
static uint8_t *random_blob(size_t *bytes) {
    int widths[EGEUNET_STAGES];
    for (int i = 0; i < EGEUNET_STAGES; i++)
        widths[i] = GROUPS * (1 + (int)random_below(chance(200) ? MAX_WIDTH / GROUPS : 12));
    uint8_t *blob = make_blob(widths, random_below(2), bytes);
    for (size_t at = HEADER_BYTES; at < *bytes; at++) blob[at] = (uint8_t)random_below(256);
    return blob;
}

static uint8_t *mutate(const uint8_t *blob, size_t *bytes) {
    if (chance(4)) return random_blob(bytes);
    const size_t old = *bytes;
    if (chance(4)) *bytes = random_below((uint32_t)old + 100); /* truncated or prolonged */
    uint8_t *made = allocate(*bytes);
    memset(made, 0, *bytes);
    memcpy(made, blob, old < *bytes ? old : *bytes);
    for (uint32_t left = random_below(8); left && *bytes; left--) {
        const uint32_t limit = chance(2) && *bytes > HEADER_BYTES ? HEADER_BYTES : (uint32_t)*bytes;
        made[random_below(limit)] = (uint8_t)(chance(2) ? random_below(256) : 255 * random_below(2));
    }
    return made;
}

/* The network of any instruction set that this machine has. */
static Network random_network(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vl") && chance(3)) return egeunet_network_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && chance(2))
        return egeunet_network_avx2;
#endif
    return egeunet_network_baseline;
}

static void run_network(const egeunet_model *model) {
    const int h = 32 << random_below(2), w = 32 << random_below(2);
    float *image = random_floats((size_t)3 * h * w), *logits = random_floats((size_t)h * w);
    const size_t bytes = egeunet_workspace_size(model, h, w);
    void *workspace = allocate(bytes);
    require(egeunet_run(model, image, h, w, logits, workspace, bytes - 1) == EGEUNET_NO_MEMORY,
            "a small workspace was accepted");
    require(!egeunet_workspace_size(model, h + 1 + (int)random_below(31), w), "a bad size");
    if (chance(2)) {
        require(!egeunet_run(model, image, h, w, logits, workspace, bytes), "no run");
    } else {
        const Network network = random_network();
        Arena arena = {0};
        network(model, NULL, h, w, NULL, &arena);
        arena = (Arena){.base = allocate(arena.peak * sizeof(float))};
        network(model, image, h, w, logits, &arena);
        free(arena.base);
    }
    free(workspace), free(logits), free(image);
}

static void try_blob(uint8_t *blob, size_t bytes, long *accepted) {
    size_t length;
    const egeunet_model *model;
    const size_t size = egeunet_model_size(blob, bytes);
    const char *metadata = egeunet_metadata(blob, bytes, &length);
    require(!metadata == !size, "metadata and size disagree");
    void *memory = allocate(size);
    const egeunet_status status = egeunet_load(blob, bytes, memory, size, &model);
    require(!status == (size > 0), "size and load disagree");
    if (metadata && length) require(metadata[length - 1] || 1, "unreadable"); /* reads it */
    free(blob);
    if (!status) {
        ++*accepted;
        run_network(model);
    }
    free(memory);
}

static int random_side(void) { return 1 + (int)random_below(chance(500) ? 65535 : 150); }

static void try_images(void) {
    int height = random_side(), width = random_side(), h = random_side(), w = random_side();
    if ((double)height * width + (double)h * w + (double)height * w > 4e6) return;
    const size_t pixels = (size_t)height * width, inner = (size_t)h * w;
    uint8_t *rgb = allocate(3 * pixels);
    for (size_t i = 0; i < 3 * pixels; i++) rgb[i] = (uint8_t)random_below(256);
    float *image = random_floats(3 * inner), *map = random_floats(pixels);
    size_t bytes = egeunet_prepare_size(height, width, h, w);
    void *workspace = allocate(bytes);
    require(!egeunet_prepare(rgb, height, width, image, h, w, workspace, bytes), "no input");
    for (size_t i = 0; i < 3 * inner; i++) require(image[i] >= 0 && image[i] <= 255, "no range");
    free(workspace);
    bytes = egeunet_resize_size(height, width, h, w);
    workspace = allocate(bytes);
    require(!egeunet_resize(map, height, width, image, h, w, workspace, bytes), "no map");
    for (size_t i = 0; i < inner; i++) require(image[i] > -1 && image[i] < 256, "no range");
    free(workspace);
    bytes = egeunet_resize_mask_size(height, width, h, w);
    workspace = allocate(bytes);
    uint8_t *mask = allocate(inner);
    const float threshold = map[random_below(pixels)];
    require(!egeunet_resize_mask(map, height, width, threshold, mask, h, w, workspace, bytes),
            "no mask");
    for (size_t i = 0; i < inner; i++)
        require(mask[i] == (image[i] >= threshold), "the mask is not that of the map");
    free(mask), free(workspace), free(map), free(image), free(rgb);
}

int main(int count, char **words) {
    if (count != 3) return 2;
    state = strtoull(words[2], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
    size_t bytes;
    uint8_t *blob = published_blob(&bytes);
    long accepted = 0, total = atol(words[1]);
    for (long i = 0; i < total; i++) {
        size_t mutated = bytes;
        uint8_t *made = mutate(blob, &mutated);
        try_blob(made, mutated, &accepted);
        try_images();
    }
    free(blob);
    printf("%ld blobs, %ld accepted\n", total, accepted);
    return 0;
}
