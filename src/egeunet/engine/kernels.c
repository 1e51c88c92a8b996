/* The parts of a training step that general kernels do badly for few channels, in plain C.
 *
 * Every tensor is float32 in channels-last order (B, H, W, C). Images are independent and shared out
 * among threads; sums over images are added in a fixed order, so results do not depend on their
 * number. `egeunet/models/kernels.py` calls these functions and says what each one computes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS 4
#define PAD 8 /* at least the largest dilation */
#define EPS_BRIDGE 1e-6f
#define RESTRICT __restrict__
#define INLINE static inline __attribute__((always_inline))

/* Runs `call` with C as a constant for the widths of the network, so that the loops over channels
 * become vectors; for any other width as it is. */
#define FOR_WIDTH(width, call)                  \
    switch (width) {                            \
        case 8: { enum { C = 8 }; call; } break;   \
        case 16: { enum { C = 16 }; call; } break; \
        case 24: { enum { C = 24 }; call; } break; \
        case 32: { enum { C = 32 }; call; } break; \
        case 48: { enum { C = 48 }; call; } break; \
        case 64: { enum { C = 64 }; call; } break; \
        default: { int C = width; call; }       \
    }

/* Whether this processor has the instructions that the library was compiled for. */
int kernels_supported(void) {
#if defined(__AVX2__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

static float *scratch(size_t floats) {
    static __thread float *memory;
    static __thread size_t held;
    if (floats > held) {
        free(memory);
        if (posix_memalign((void **)&memory, 64, floats * sizeof(float))) abort();
        held = floats;
    }
    return memory;
}

/* ---- bilinear resizing with the corners kept ------------------------------------------------ */

static void position(int out, int from, int to, int *low, float *weight) {
    float place = to > 1 ? out * ((float)(from - 1) / (to - 1)) : 0;
    *low = (int)place;
    if (*low > from - 2) *low = from > 1 ? from - 2 : 0;
    *weight = from > 1 ? place - *low : 0;
}

/* out (H, W, C) = scale[c] * resized in (h, w, C) + shift[c]; scale may be NULL. */
static void resize_image(const float *RESTRICT in, float *RESTRICT out, int h, int w, int H, int W,
                         int C, const float *scale, const float *shift) {
    float *wide = malloc(sizeof(float) * h * W * C); /* resized along the width alone */
    for (int x = 0; x < W; x++) {
        int low;
        float u;
        position(x, w, W, &low, &u);
        for (int y = 0; y < h; y++) {
            const float *left = in + ((size_t)y * w + low) * C, *right = w > 1 ? left + C : left;
            float *to = wide + ((size_t)y * W + x) * C;
            if (scale)
                for (int c = 0; c < C; c++)
                    to[c] = (left[c] + u * (right[c] - left[c])) * scale[c] + shift[c];
            else
                for (int c = 0; c < C; c++) to[c] = left[c] + u * (right[c] - left[c]);
        }
    }
    for (int y = 0; y < H; y++) {
        int low;
        float v;
        position(y, h, H, &low, &v);
        const float *above = wide + (size_t)low * W * C, *below = h > 1 ? above + W * C : above;
        float *to = out + (size_t)y * W * C;
        for (int i = 0; i < W * C; i++) to[i] = above[i] + v * (below[i] - above[i]);
    }
    free(wide);
}

/* The transpose: in (h, w, C) = gradient of the resized (H, W, C). */
static void resize_image_back(const float *RESTRICT out, float *RESTRICT in, int h, int w, int H,
                              int W, int C) {
    float *wide = calloc((size_t)h * W * C, sizeof(float));
    memset(in, 0, sizeof(float) * h * w * C);
    for (int y = 0; y < H; y++) {
        int low;
        float v;
        position(y, h, H, &low, &v);
        const float *RESTRICT from = out + (size_t)y * W * C;
        float *RESTRICT above = wide + (size_t)low * W * C, *RESTRICT below = above + W * C;
        for (int i = 0; i < W * C; i++) above[i] += (1 - v) * from[i];
        if (h > 1)
            for (int i = 0; i < W * C; i++) below[i] += v * from[i];
    }
    for (int x = 0; x < W; x++) {
        int low;
        float u;
        position(x, w, W, &low, &u);
        for (int y = 0; y < h; y++) {
            const float *from = wide + ((size_t)y * W + x) * C;
            float *left = in + ((size_t)y * w + low) * C;
            for (int c = 0; c < C; c++) left[c] += (1 - u) * from[c];
            if (w > 1)
                for (int c = 0; c < C; c++) left[C + c] += u * from[c];
        }
    }
    free(wide);
}

void resize(const float *in, float *out, int B, int h, int w, int H, int W, int C) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        resize_image(in + (size_t)b * h * w * C, out + (size_t)b * H * W * C, h, w, H, W, C, 0, 0);
}

void resize_back(const float *out, float *in, int B, int h, int w, int H, int W, int C) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        resize_image_back(out + (size_t)b * H * W * C, in + (size_t)b * h * w * C, h, w, H, W, C);
}

/* ---- group normalisation, then pooling or resizing ------------------------------------------ */

/* mean and 1 / deviation of each group of one image of P pixels */
INLINE void group_statistics(const float *RESTRICT x, long P, int C, float eps, float *mean,
                             float *rstd) {
    float sum[C], square[C], total[C], totals[C];
    memset(total, 0, sizeof total), memset(totals, 0, sizeof totals);
    float first[C]; /* sums of differences from one pixel keep their digits */
    memcpy(first, x, sizeof first);
    for (long start = 0; start < P; start += 256) {
        long end = start + 256 < P ? start + 256 : P;
        memset(sum, 0, sizeof sum), memset(square, 0, sizeof square);
        for (long p = start; p < end; p++)
            for (int c = 0; c < C; c++) {
                float d = x[p * C + c] - first[c];
                sum[c] += d, square[c] += d * d;
            }
        for (int c = 0; c < C; c++) total[c] += sum[c], totals[c] += square[c];
    }
    int n = C / GROUPS;
    for (int g = 0; g < GROUPS; g++) {
        double m = 0, s = 0;
        for (int c = g * n; c < (g + 1) * n; c++) m += total[c] / (double)P + first[c];
        m /= n;
        for (int c = g * n; c < (g + 1) * n; c++) {
            double d = first[c] - m; /* Σ (x − m)² = Σ (δ + d)² */
            s += totals[c] + 2 * d * total[c] + P * d * d;
        }
        mean[g] = m, rstd[g] = 1 / sqrt(s / ((double)P * n) + eps);
    }
}

INLINE void affine(int C, const float *mean, const float *rstd, const float *weight,
                   const float *bias, float *scale, float *shift) {
    for (int c = 0; c < C; c++) {
        int g = c / (C / GROUPS);
        scale[c] = rstd[g] * weight[c];
        shift[c] = bias[c] - mean[g] * scale[c];
    }
}

/* From S1 = Σ dy and S2 = Σ dy·x̂ of an image: dx = a·dy + p·x + q, per channel. */
INLINE void group_slopes(int C, long P, const float *mean, const float *rstd, const float *weight,
                         const float *S1, const float *S2, float *p, float *q) {
    int n = C / GROUPS;
    for (int g = 0; g < GROUPS; g++) {
        double m1 = 0, m2 = 0;
        for (int c = g * n; c < (g + 1) * n; c++) m1 += weight[c] * S1[c], m2 += weight[c] * S2[c];
        m1 /= (double)P * n, m2 /= (double)P * n;
        for (int c = g * n; c < (g + 1) * n; c++) {
            p[c] = -rstd[g] * rstd[g] * m2;
            q[c] = -rstd[g] * m1 - p[c] * mean[g];
        }
    }
}

INLINE float larger(float a, float b) { return b > a ? b : a; }

/* The largest of four neighbours, the first of equals: whether it is in the lower row, and whether
 * in the right column of the upper and of the lower row. */
#define WINNER(a, b, c, d) \
    int right_up = b > a, right_low = d > c; \
    float up = right_up ? b : a, low = right_low ? d : c; \
    int lower = low > up;

INLINE void norm_pool_image(const float *RESTRICT in, const float *weight, const float *bias,
                            float eps, float *RESTRICT out, float *mean, float *rstd, int H, int W,
                            int C) {
    float scale[C], shift[C];
    group_statistics(in, (long)H * W, C, eps, mean, rstd);
    affine(C, mean, rstd, weight, bias, scale, shift);
    for (int y = 0; y < H / 2; y++)
        for (int i = 0; i < W / 2; i++) {
            const float *one = in + ((size_t)2 * y * W + 2 * i) * C, *two = one + (size_t)W * C;
            float *RESTRICT to = out + ((size_t)y * (W / 2) + i) * C;
            for (int c = 0; c < C; c++) {
                float s = scale[c];
                float up = larger(one[c] * s, one[C + c] * s);
                float low = larger(two[c] * s, two[C + c] * s);
                to[c] = larger(up, low) + shift[c];
            }
        }
}

void norm_pool(const float *x, const float *weight, const float *bias, float eps, float *out,
               float *mean, float *rstd, int B, int H, int W, int channels) {
    size_t size = (size_t)H * W * channels;
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, norm_pool_image(x + b * size, weight, bias, eps, out + b * size / 4,
                                            mean + b * GROUPS, rstd + b * GROUPS, H, W, C))
}

INLINE void norm_pool_back_image(const float *RESTRICT in, const float *weight,
                                 const float *RESTRICT dy, const float *mean, const float *rstd,
                                 float *RESTRICT dx, float *RESTRICT dweight, float *RESTRICT dbias,
                                 int H, int W, int C) {
    float p[C], q[C], a[C], m[C], r[C], S1[C], S2[C];
    for (int c = 0; c < C; c++) {
        m[c] = mean[c / (C / GROUPS)], r[c] = rstd[c / (C / GROUPS)];
        a[c] = r[c] * weight[c], S1[c] = S2[c] = 0;
    }
    for (int y = 0; y < H / 2; y++) {
        float s1[C], s2[C];
        for (int c = 0; c < C; c++) s1[c] = s2[c] = 0;
        for (int i = 0; i < W / 2; i++) {
            const float *one = in + ((size_t)2 * y * W + 2 * i) * C, *two = one + (size_t)W * C;
            const float *g = dy + ((size_t)y * (W / 2) + i) * C;
            for (int c = 0; c < C; c++) {
                /* The largest normalised value is the largest or, of a negative weight, the
                 * smallest value. */
                float s = a[c];
                WINNER(one[c] * s, one[C + c] * s, two[c] * s, two[C + c] * s)
                float above = right_up ? one[C + c] : one[c];
                float below = right_low ? two[C + c] : two[c];
                float v = lower ? below : above;
                s1[c] += g[c], s2[c] += g[c] * (v - m[c]) * r[c];
            }
        }
        for (int c = 0; c < C; c++) S1[c] += s1[c], S2[c] += s2[c];
    }
    group_slopes(C, (long)H * W, mean, rstd, weight, S1, S2, p, q);
    for (int c = 0; c < C; c++) dbias[c] = S1[c], dweight[c] = S2[c];
    for (int y = 0; y < H / 2; y++)
        for (int i = 0; i < W / 2; i++) {
            size_t first = ((size_t)2 * y * W + 2 * i) * C, second = first + (size_t)W * C;
            const float *one = in + first, *two = in + second;
            float *RESTRICT to = dx + first, *RESTRICT too = dx + second;
            const float *slope = dy + ((size_t)y * (W / 2) + i) * C;
            for (int c = 0; c < C; c++) {
                float s = a[c], g = s * slope[c];
                WINNER(one[c] * s, one[C + c] * s, two[c] * s, two[C + c] * s)
                float above = lower ? 0 : g, below = lower ? g : 0;
                to[c] = p[c] * one[c] + q[c] + (right_up ? 0 : above);
                to[C + c] = p[c] * one[C + c] + q[c] + (right_up ? above : 0);
                too[c] = p[c] * two[c] + q[c] + (right_low ? 0 : below);
                too[C + c] = p[c] * two[C + c] + q[c] + (right_low ? below : 0);
            }
        }
}

void norm_pool_back(const float *x, const float *weight, const float *grad, const float *mean,
                    const float *rstd, float *dx, float *dweight, float *dbias, int B, int H,
                    int W, int channels) {
    size_t size = (size_t)H * W * channels;
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, norm_pool_back_image(x + b * size, weight, grad + b * size / 4,
                                                 mean + b * GROUPS, rstd + b * GROUPS,
                                                 dx + b * size, dweight + b * C, dbias + b * C, H,
                                                 W, C))
}

INLINE void norm_resize_image(const float *RESTRICT in, const float *weight, const float *bias,
                              float eps, float *RESTRICT out, float *mean, float *rstd, int h,
                              int w, int H, int W, int C) {
    float scale[C], shift[C];
    group_statistics(in, (long)h * w, C, eps, mean, rstd);
    affine(C, mean, rstd, weight, bias, scale, shift);
    /* Bilinear weights add up to 1, so the affine map may come before or after the resizing. */
    resize_image(in, out, h, w, H, W, C, scale, shift);
}

void norm_resize(const float *x, const float *weight, const float *bias, float eps, float *out,
                 float *mean, float *rstd, int B, int h, int w, int H, int W, int channels) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, norm_resize_image(x + (size_t)b * h * w * C, weight, bias, eps,
                                              out + (size_t)b * H * W * C, mean + b * GROUPS,
                                              rstd + b * GROUPS, h, w, H, W, C))
}

INLINE void norm_resize_back_image(const float *RESTRICT in, const float *weight,
                                   const float *RESTRICT dy, const float *mean, const float *rstd,
                                   float *RESTRICT dx, float *RESTRICT dweight,
                                   float *RESTRICT dbias, int h, int w, int H, int W, int C) {
    float p[C], q[C], a[C], m[C], r[C], S1[C], S2[C];
    long P = (long)h * w;
    resize_image_back(dy, dx, h, w, H, W, C);
    for (int c = 0; c < C; c++) {
        m[c] = mean[c / (C / GROUPS)], r[c] = rstd[c / (C / GROUPS)];
        a[c] = r[c] * weight[c], S1[c] = S2[c] = 0;
    }
    for (int y = 0; y < h; y++) {
        float s1[C], s2[C];
        for (int c = 0; c < C; c++) s1[c] = s2[c] = 0;
        for (long i = (long)y * w; i < (long)(y + 1) * w; i++)
            for (int c = 0; c < C; c++) {
                float g = dx[i * C + c];
                s1[c] += g, s2[c] += g * (in[i * C + c] - m[c]) * r[c];
            }
        for (int c = 0; c < C; c++) S1[c] += s1[c], S2[c] += s2[c];
    }
    group_slopes(C, P, mean, rstd, weight, S1, S2, p, q);
    for (int c = 0; c < C; c++) dbias[c] = S1[c], dweight[c] = S2[c];
    for (long i = 0; i < P; i++)
        for (int c = 0; c < C; c++)
            dx[i * C + c] = a[c] * dx[i * C + c] + p[c] * in[i * C + c] + q[c];
}

void norm_resize_back(const float *x, const float *weight, const float *grad, const float *mean,
                      const float *rstd, float *dx, float *dweight, float *dbias, int B, int h,
                      int w, int H, int W, int channels) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, norm_resize_back_image(
                                x + (size_t)b * h * w * C, weight, grad + (size_t)b * H * W * C,
                                mean + b * GROUPS, rstd + b * GROUPS, dx + (size_t)b * h * w * C,
                                dweight + b * C, dbias + b * C, h, w, H, W, C))
}

/* ---- layer normalisation over the channels of each pixel ------------------------------------ */

INLINE void channel_norm_image(const float *RESTRICT x, const float *weight, const float *bias,
                               float eps, float *RESTRICT out, long P, int C) {
    for (long i = 0; i < P; i++) {
        const float *in = x + i * C;
        float mean = 0, square = 0;
        for (int c = 0; c < C; c++) mean += in[c];
        mean /= C;
        for (int c = 0; c < C; c++) square += (in[c] - mean) * (in[c] - mean);
        float r = 1 / sqrtf(square / C + eps);
        for (int c = 0; c < C; c++) out[i * C + c] = (in[c] - mean) * r * weight[c] + bias[c];
    }
}

void channel_norm(const float *x, const float *weight, const float *bias, float eps, float *out,
                  int B, long P, int channels) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, channel_norm_image(x + b * P * C, weight, bias, eps, out + b * P * C, P, C))
}

INLINE void channel_norm_back_image(const float *RESTRICT x, const float *weight,
                                    const float *RESTRICT grad, float eps, float *RESTRICT dx,
                                    float *RESTRICT dweight, float *RESTRICT dbias, long P, int C) {
    float dw[C], db[C], hat[C];
    for (int c = 0; c < C; c++) dw[c] = db[c] = 0;
    for (long i = 0; i < P; i++) {
        const float *in = x + i * C, *dy = grad + i * C;
        float mean = 0, square = 0, s1 = 0, s2 = 0;
        for (int c = 0; c < C; c++) mean += in[c];
        mean /= C;
        for (int c = 0; c < C; c++) square += (in[c] - mean) * (in[c] - mean);
        float r = 1 / sqrtf(square / C + eps);
        for (int c = 0; c < C; c++) {
            hat[c] = (in[c] - mean) * r;
            s1 += dy[c] * weight[c], s2 += dy[c] * weight[c] * hat[c];
            dw[c] += dy[c] * hat[c], db[c] += dy[c];
        }
        s1 /= C, s2 /= C;
        for (int c = 0; c < C; c++) dx[i * C + c] = r * (dy[c] * weight[c] - s1 - hat[c] * s2);
    }
    for (int c = 0; c < C; c++) dweight[c] = dw[c], dbias[c] = db[c];
}

void channel_norm_back(const float *x, const float *weight, const float *grad, float eps,
                       float *dx, float *dweight, float *dbias, int B, long P, int channels) {
#pragma omp parallel for
    for (int b = 0; b < B; b++)
        FOR_WIDTH(channels, channel_norm_back_image(x + b * P * C, weight, grad + b * P * C, eps,
                                                    dx + b * P * C, dweight + b * C, dbias + b * C,
                                                    P, C))
}

/* ---- the group aggregation bridge, planes of one image in cache ------------------------------ */

typedef struct {
    int h, w, H, W, C, masked, dilation[GROUPS];
    const float *norm_weight, *norm_bias, *conv_weight, *conv_bias, *tail_weight, *tail_bias;
    const float *out_weight, *out_bias;
} Bridge;

typedef struct {
    int G, K, stride;
    size_t plane;             /* floats of a plane with its border of PAD zeros */
    float *hat, *z, *y, *dz;  /* K planes each: x̂ of the first norm, its output, then conv's */
    float *rstd, *rstd_tail;  /* GROUPS planes and one, without border */
    float *wide;              /* (H, W, C): the resized high feature or its gradient */
} Work;

static Work make_work(const Bridge *m, int backward) {
    Work k;
    k.G = m->C / GROUPS * 2 + m->masked, k.K = k.G * GROUPS, k.stride = m->W + 2 * PAD;
    k.plane = (size_t)(m->H + 2 * PAD) * k.stride;
    size_t planes = k.K * k.plane, flat = (size_t)m->H * m->W;
    k.hat = scratch(planes * (backward ? 4 : 3) + flat * (GROUPS + 1 + m->C));
    k.z = k.hat + planes, k.y = k.z + planes, k.dz = k.y + planes;
    k.rstd = k.hat + planes * (backward ? 4 : 3), k.rstd_tail = k.rstd + flat * GROUPS;
    k.wide = k.rstd_tail + flat;
    memset(k.z, 0, planes * sizeof(float));
    if (backward) memset(k.y, 0, planes * sizeof(float));
    return k;
}

#define ROW(array, k, channel, line) \
    ((array) + (channel) * (k).plane + (size_t)((line) + PAD) * (k).stride + PAD)

/* hat and z: the concatenated groups, normalised. */
static void normalise_groups(const Bridge *m, Work k, const float *high, const float *low,
                             const float *mask) {
    int n = m->C / GROUPS, W = m->W;
    resize_image(high, k.wide, m->h, m->w, m->H, W, m->C, 0, 0);
    for (int g = 0; g < GROUPS; g++)
        for (int line = 0; line < m->H; line++) {
            float *r = k.rstd + ((size_t)g * m->H + line) * W, mean[W];
            for (int j = 0; j < n; j++) {
                float *a = ROW(k.hat, k, g * k.G + j, line), *b = ROW(k.hat, k, g * k.G + n + j, line);
                const float *from_a = k.wide + (size_t)line * W * m->C + g * n + j;
                const float *from_b = low + (size_t)line * W * m->C + g * n + j;
                for (int i = 0; i < W; i++) a[i] = from_a[i * m->C], b[i] = from_b[i * m->C];
            }
            if (m->masked)
                memcpy(ROW(k.hat, k, g * k.G + 2 * n, line), mask + (size_t)line * W, W * sizeof *r);
            for (int i = 0; i < W; i++) mean[i] = 0, r[i] = 0;
            for (int j = 0; j < k.G; j++) {
                const float *v = ROW(k.hat, k, g * k.G + j, line);
                for (int i = 0; i < W; i++) mean[i] += v[i];
            }
            for (int i = 0; i < W; i++) mean[i] /= k.G;
            for (int j = 0; j < k.G; j++) {
                const float *v = ROW(k.hat, k, g * k.G + j, line);
                for (int i = 0; i < W; i++) r[i] += (v[i] - mean[i]) * (v[i] - mean[i]);
            }
            for (int i = 0; i < W; i++) r[i] = 1 / sqrtf(r[i] / k.G + EPS_BRIDGE);
            for (int j = 0; j < k.G; j++) {
                int c = g * k.G + j;
                float *v = ROW(k.hat, k, c, line), *z = ROW(k.z, k, c, line);
                for (int i = 0; i < W; i++) {
                    v[i] = (v[i] - mean[i]) * r[i];
                    z[i] = v[i] * m->norm_weight[c] + m->norm_bias[c];
                }
            }
        }
}

/* y = depthwise 3×3 convolution of z, or with flipped taps of a gradient. */
static void convolve(const Bridge *m, Work k, const float *from, float *to, int flip) {
    for (int c = 0; c < k.K; c++) {
        int d = m->dilation[c / k.G];
        float t[9];
        for (int i = 0; i < 9; i++) t[i] = m->conv_weight[c * 9 + (flip ? 8 - i : i)];
        float start = flip ? 0 : m->conv_bias[c];
        for (int line = 0; line < m->H; line++) {
            const float *a = ROW(from, k, c, line - d), *b = ROW(from, k, c, line);
            const float *e = ROW(from, k, c, line + d);
            float *RESTRICT o = ROW(to, k, c, line);
            for (int i = 0; i < m->W; i++)
                o[i] = start + t[0] * a[i - d] + t[1] * a[i] + t[2] * a[i + d] + t[3] * b[i - d] +
                       t[4] * b[i] + t[5] * b[i + d] + t[6] * e[i - d] + t[7] * e[i] + t[8] * e[i + d];
        }
    }
}

/* y becomes ŷ of the second norm. */
static void normalise_all(const Bridge *m, Work k) {
    int W = m->W;
    for (int line = 0; line < m->H; line++) {
        float mean[W], *r = k.rstd_tail + (size_t)line * W;
        for (int i = 0; i < W; i++) mean[i] = 0, r[i] = 0;
        for (int c = 0; c < k.K; c++) {
            const float *v = ROW(k.y, k, c, line);
            for (int i = 0; i < W; i++) mean[i] += v[i];
        }
        for (int i = 0; i < W; i++) mean[i] /= k.K;
        for (int c = 0; c < k.K; c++) {
            const float *v = ROW(k.y, k, c, line);
            for (int i = 0; i < W; i++) r[i] += (v[i] - mean[i]) * (v[i] - mean[i]);
        }
        for (int i = 0; i < W; i++) r[i] = 1 / sqrtf(r[i] / k.K + EPS_BRIDGE);
        for (int c = 0; c < k.K; c++) {
            float *v = ROW(k.y, k, c, line);
            for (int i = 0; i < W; i++) v[i] = (v[i] - mean[i]) * r[i];
        }
    }
}

void bridge(const Bridge *m, const float *high, const float *low, const float *mask, float *out,
            int B) {
    int C = m->C, W = m->W;
#pragma omp parallel for
    for (int b = 0; b < B; b++) {
        Work k = make_work(m, 0);
        size_t pixels = (size_t)m->H * W;
        normalise_groups(m, k, high + (size_t)b * m->h * m->w * C, low + b * pixels * C,
                         mask + b * pixels);
        convolve(m, k, k.z, k.y, 0);
        normalise_all(m, k);
        for (int line = 0; line < m->H; line++)
            for (int o = 0; o < C; o++) {
                float sum[W], start = m->out_bias[o];
                for (int c = 0; c < k.K; c++) start += m->out_weight[o * k.K + c] * m->tail_bias[c];
                for (int i = 0; i < W; i++) sum[i] = start;
                for (int c = 0; c < k.K; c++) {
                    const float *v = ROW(k.y, k, c, line);
                    float t = m->out_weight[o * k.K + c] * m->tail_weight[c];
                    for (int i = 0; i < W; i++) sum[i] += t * v[i];
                }
                float *to = out + (b * pixels + (size_t)line * W) * C + o;
                for (int i = 0; i < W; i++) to[i * C] = sum[i];
            }
    }
}

/* Gradients of the parameters come per image: (B, size) in the order of `Bridge`. */
void bridge_back(const Bridge *m, const float *high, const float *low, const float *mask,
                 const float *grad, float *dhigh, float *dlow, float *dmask, float *dnorm_weight,
                 float *dnorm_bias, float *dconv_weight, float *dconv_bias, float *dtail_weight,
                 float *dtail_bias, float *dout_weight, float *dout_bias, int B) {
    int C = m->C, W = m->W, n = C / GROUPS;
#pragma omp parallel for
    for (int b = 0; b < B; b++) {
        Work k = make_work(m, 1);
        int K = k.K;
        size_t pixels = (size_t)m->H * W;
        normalise_groups(m, k, high + (size_t)b * m->h * m->w * C, low + b * pixels * C,
                         mask + b * pixels);
        convolve(m, k, k.z, k.y, 0);
        normalise_all(m, k);

        float *gw = dtail_weight + b * K, *gb = dtail_bias + b * K;
        float *ow = dout_weight + (size_t)b * C * K, *ob = dout_bias + b * C;
        memset(ob, 0, C * sizeof *ob), memset(ow, 0, (size_t)C * K * sizeof *ow);
        memset(gb, 0, K * sizeof *gb);
        /* y: from ŷ to the gradient of the convolution's output */
        for (int line = 0; line < m->H; line++) {
            float dy[C][W], mean[W], slope[W], part[W];
            const float *from = grad + (b * pixels + (size_t)line * W) * C;
            for (int o = 0; o < C; o++) {
                float s = 0;
                for (int i = 0; i < W; i++) dy[o][i] = from[i * C + o], s += dy[o][i];
                ob[o] += s;
            }
            for (int i = 0; i < W; i++) mean[i] = slope[i] = 0;
            for (int c = 0; c < K; c++) {
                const float *v = ROW(k.y, k, c, line);
                float *g = ROW(k.dz, k, c, line); /* for now the gradient of ŷ */
                for (int i = 0; i < W; i++) part[i] = 0;
                for (int o = 0; o < C; o++) {
                    float t = m->out_weight[o * K + c], s = 0;
                    for (int i = 0; i < W; i++) part[i] += t * dy[o][i], s += dy[o][i] * v[i];
                    ow[o * K + c] += s; /* Σ dy ŷ; the norm's affine is applied below */
                }
                float t = m->tail_weight[c];
                for (int i = 0; i < W; i++) {
                    g[i] = part[i] * t;
                    mean[i] += g[i], slope[i] += g[i] * v[i];
                }
            }
            const float *r = k.rstd_tail + (size_t)line * W;
            for (int i = 0; i < W; i++) mean[i] /= K, slope[i] /= K;
            for (int c = 0; c < K; c++) {
                float *v = ROW(k.y, k, c, line);
                const float *g = ROW(k.dz, k, c, line);
                for (int i = 0; i < W; i++) v[i] = r[i] * (g[i] - mean[i] - v[i] * slope[i]);
            }
        }
        for (int c = 0; c < K; c++) {
            gw[c] = 0;
            for (int o = 0; o < C; o++) {
                float s = ow[o * K + c];
                gw[c] += m->out_weight[o * K + c] * s;
                gb[c] += m->out_weight[o * K + c] * ob[o];
                ow[o * K + c] = s * m->tail_weight[c] + ob[o] * m->tail_bias[c];
            }
        }

        /* the convolution: its taps, then dz */
        for (int c = 0; c < K; c++) {
            int d = m->dilation[c / k.G];
            float *w = dconv_weight + ((size_t)b * K + c) * 9, bias = 0, taps[9] = {0};
            for (int line = 0; line < m->H; line++) {
                const float *a = ROW(k.z, k, c, line - d), *z = ROW(k.z, k, c, line);
                const float *e = ROW(k.z, k, c, line + d), *g = ROW(k.y, k, c, line);
                float s = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0, t5 = 0, t6 = 0, t7 = 0, t8 = 0;
                for (int i = 0; i < W; i++) {
                    float v = g[i];
                    s += v;
                    t0 += v * a[i - d], t1 += v * a[i], t2 += v * a[i + d];
                    t3 += v * z[i - d], t4 += v * z[i], t5 += v * z[i + d];
                    t6 += v * e[i - d], t7 += v * e[i], t8 += v * e[i + d];
                }
                bias += s;
                taps[0] += t0, taps[1] += t1, taps[2] += t2, taps[3] += t3, taps[4] += t4;
                taps[5] += t5, taps[6] += t6, taps[7] += t7, taps[8] += t8;
            }
            memcpy(w, taps, sizeof taps);
            dconv_bias[b * K + c] = bias;
        }
        convolve(m, k, k.y, k.dz, 1);

        /* the first norm, and out to the three inputs */
        float *nw = dnorm_weight + b * K, *nb = dnorm_bias + b * K;
        memset(nw, 0, K * sizeof *nw), memset(nb, 0, K * sizeof *nb);
        float *to_low = dlow + b * pixels * C, *to_mask = dmask + b * pixels;
        if (m->masked) memset(to_mask, 0, pixels * sizeof(float));
        for (int g = 0; g < GROUPS; g++)
            for (int line = 0; line < m->H; line++) {
                float mean[W], slope[W];
                const float *r = k.rstd + ((size_t)g * m->H + line) * W;
                for (int i = 0; i < W; i++) mean[i] = slope[i] = 0;
                for (int c = g * k.G; c < (g + 1) * k.G; c++) {
                    const float *v = ROW(k.hat, k, c, line), *dz = ROW(k.dz, k, c, line);
                    float t = m->norm_weight[c], s0 = 0, s1 = 0;
                    for (int i = 0; i < W; i++) {
                        s0 += dz[i], s1 += dz[i] * v[i];
                        mean[i] += t * dz[i], slope[i] += t * dz[i] * v[i];
                    }
                    nb[c] += s0, nw[c] += s1;
                }
                for (int i = 0; i < W; i++) mean[i] /= k.G, slope[i] /= k.G;
                for (int j = 0; j < k.G; j++) {
                    int c = g * k.G + j;
                    const float *v = ROW(k.hat, k, c, line);
                    float *dz = ROW(k.dz, k, c, line), t = m->norm_weight[c];
                    for (int i = 0; i < W; i++)
                        dz[i] = r[i] * (t * dz[i] - mean[i] - v[i] * slope[i]);
                    if (j == 2 * n) {
                        float *o = to_mask + (size_t)line * W;
                        for (int i = 0; i < W; i++) o[i] += dz[i];
                        continue;
                    }
                    float *o = (j < n ? k.wide : to_low) + (size_t)line * W * C + g * n + j % n;
                    for (int i = 0; i < W; i++) o[i * C] = dz[i];
                }
            }
        resize_image_back(k.wide, dhigh + (size_t)b * m->h * m->w * C, m->h, m->w, m->H, W, C);
    }
}

/* ---- BCE + Dice of logits --------------------------------------------------------------------- */

/* exp(−x) for x ≥ 0, within 2 units of the last place; loops over it become vector code. */
INLINE float exp_minus(float x) {
    x = x > 87.0f ? 87.0f : x;
    int n = (int)(x * 1.44269504f + 0.5f);
    float r = n * 0.693359375f - x - n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f, p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    int bits = (127 - n) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* log(1 + x) for x in 0…1: 2 artanh(x / (2 + x)), its series to 1e-7. */
INLINE float log_one_plus(float x) {
    float s = x / (2 + x), q = s * s;
    float p = 1.0f / 15;
    p = p * q + 1.0f / 13, p = p * q + 1.0f / 11, p = p * q + 1.0f / 9, p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5, p = p * q + 1.0f / 3;
    return 2 * s + 2 * s * q * p;
}

/* sums (B, 4): Σ cross-entropy, Σ p·y, Σ p, Σ y of each image of P pixels */
void mask_sums(const float *logits, const float *target, float *sums, int B, long P) {
#pragma omp parallel for
    for (int b = 0; b < B; b++) {
        const float *x = logits + b * P, *y = target + b * P;
        double total[4] = {0, 0, 0, 0};
        for (long start = 0; start < P; start += 1024) {
            long end = start + 1024 < P ? start + 1024 : P;
            float e = 0, py = 0, sp = 0, sy = 0;
            for (long i = start; i < end; i++) {
                float size = fabsf(x[i]), t = exp_minus(size);
                float p = 0.5f + 0.5f * copysignf((1 - t) / (1 + t), x[i]);
                e += 0.5f * (x[i] + size) - x[i] * y[i] + log_one_plus(t);
                py += p * y[i], sp += p, sy += y[i];
            }
            total[0] += e, total[1] += py, total[2] += sp, total[3] += sy;
        }
        for (int i = 0; i < 4; i++) sums[b * 4 + i] = total[i];
    }
}

/* d loss / d logits = (p − y)·entropy[b] + p (1 − p) (y·overlap[b] + whole[b]) */
void mask_sums_back(const float *logits, const float *target, const float *entropy,
                    const float *overlap, const float *whole, float *grad, int B, long P) {
#pragma omp parallel for
    for (int b = 0; b < B; b++) {
        const float *x = logits + b * P, *y = target + b * P;
        float *g = grad + b * P;
        for (long i = 0; i < P; i++) {
            float t = exp_minus(fabsf(x[i]));
            float p = 0.5f + 0.5f * copysignf((1 - t) / (1 + t), x[i]);
            g[i] = (p - y[i]) * entropy[b] + p * (1 - p) * (y[i] * overlap[b] + whole[b]);
        }
    }
}

/* ---- GELU ------------------------------------------------------------------------------------- */

/* The share Φ(x) of the normal distribution below x, to 1e-7 (Abramowitz & Stegun 7.1.26), and
 * exp(−x²/2), which it takes anyway. */
INLINE float normal_share(float x, float *power) {
    float t = 1 / (1 + 0.23164189f * fabsf(x));
    float p = 1.061405429f;
    p = p * t - 1.453152027f, p = p * t + 1.421413741f;
    p = p * t - 0.284496736f, p = p * t + 0.254829592f;
    *power = exp_minus(0.5f * x * x);
    float tail = 0.5f * p * t * *power;
    return x > 0 ? 1 - tail : tail;
}

void gelu(const float *x, float *out, long N) {
#pragma omp parallel for
    for (long i = 0; i < N; i++) {
        float power;
        out[i] = x[i] * normal_share(x[i], &power);
    }
}

void gelu_back(const float *x, const float *grad, float *dx, long N) {
#pragma omp parallel for
    for (long i = 0; i < N; i++) {
        float power, share = normal_share(x[i], &power);
        dx[i] = grad[i] * (share + 0.39894228f * x[i] * power);
    }
}
