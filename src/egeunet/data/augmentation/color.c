/* Color changes of a batch; see `egeunet/data/augmentation/color.py`. */

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
