/* Augmentation of training batches: see `egeunet/data/augmentation/geometry.py` and `color.py`.
 *
 * One thread: a batch takes a millisecond, beside a step of the network that has all cores.
 */
#include <stddef.h>

static void sample(const unsigned char *image, const unsigned char *mask, const int *map, float *out,
                   unsigned char *out_mask, int H, int W) {
    int low = 255, high = 0;
    for (size_t i = 0; i < (size_t)H * W * 3; i++) {
        low = image[i] < low ? image[i] : low;
        high = image[i] > high ? image[i] : high;
    }
    float scaled[256], factor = 255.f / (high > low ? high - low : 1);
    for (int v = 0; v < 256; v++) scaled[v] = (v - low) * factor;
    for (int y = 0; y < H; y++) {
        int place[W];
        for (int x = 0; x < W; x++) {
            int right = 2 * x + 1 - W, down = 2 * y + 1 - H;
            int column = (map[0] * right + map[1] * down + map[2] + (W << 15)) >> 16;
            int row = (map[3] * right + map[4] * down + map[5] + (H << 15)) >> 16;
            int inside = (column >= 0) & (column < W) & (row >= 0) & (row < H);
            place[x] = inside ? row * W + column : -1;
        }
        for (int x = 0; x < W; x++, out += 3, out_mask++) {
            int inside = place[x] >= 0;
            const unsigned char *pixel = image + 3 * (size_t)(inside ? place[x] : 0);
            out[0] = inside ? scaled[pixel[0]] : 0;
            out[1] = inside ? scaled[pixel[1]] : 0;
            out[2] = inside ? scaled[pixel[2]] : 0;
            *out_mask = inside ? mask[place[x]] : 0;
        }
    }
}

void batch(const unsigned char *images, const unsigned char *masks, const int *maps, float *out,
           unsigned char *out_masks, int B, int H, int W) {
    size_t size = (size_t)H * W;
    for (int b = 0; b < B; b++)
        sample(images + b * size * 3, masks + b * size, maps + b * 6, out + b * size * 3,
               out_masks + b * size, H, W);
}

/* ---- colors --------------------------------------------------------------------------------- */

static unsigned char saturate(int gray, int value, int saturation) {
    int moved = gray + ((saturation * (value - gray) + 128) >> 8);
    return moved < 0 ? 0 : moved > 255 ? 255 : moved;
}

/* images and out (B, P, 3), curves (B, 3, 256), saturation (B) in 1/256 */
void recolor(const unsigned char *images, const unsigned char *curves, const int *saturation,
              unsigned char *out, int B, int P) {
    for (int b = 0; b < B; b++, curves += 3 * 256)
        for (int i = 0; i < P; i++, images += 3, out += 3) {
            int red = curves[images[0]], green = curves[256 + images[1]];
            int blue = curves[512 + images[2]];
            int gray = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16;
            out[0] = saturate(gray, red, saturation[b]);
            out[1] = saturate(gray, green, saturation[b]);
            out[2] = saturate(gray, blue, saturation[b]);
        }
}
