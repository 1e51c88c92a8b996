/* EGE-UNet (Ruan et al., MICCAI 2023) for inference: the C API of the engine.
 *
 * No global state, no allocation, no dependency but the C library. A model is a view of a weights
 * blob that the caller keeps in memory; a call works in memory that the caller gives it. Models
 * may be shared by threads; a workspace belongs to one call at a time.
 *
 * Masks are for research use only: not a medical device, not a diagnosis.
 */
#ifndef EGEUNET_H
#define EGEUNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define EGEUNET_API __declspec(dllexport)
#else
#define EGEUNET_API __attribute__((visibility("default")))
#endif

#define EGEUNET_ALIGNMENT 64 /* bytes, of workspaces */
#define EGEUNET_MAX_SIDE 4096 /* pixels, of the network's input */
#define EGEUNET_MAX_IMAGE_SIDE 65535 /* pixels, of images that are resized */
#define EGEUNET_STAGES 6

typedef enum {
    EGEUNET_OK = 0,
    EGEUNET_BAD_ARGUMENT = 1, /* a null pointer, a size that is not a multiple of 32, alignment */
    EGEUNET_BAD_BLOB = 2,     /* not a weights blob, damaged or truncated */
    EGEUNET_BAD_VERSION = 3,  /* a blob of a later version */
    EGEUNET_NO_MEMORY = 4     /* the workspace is too small */
} egeunet_status;

/* The layers of a model: pointers into the blob, filled by `egeunet_load`. */
typedef struct egeunet_model egeunet_model;

/* Bytes of memory that `egeunet_load` needs for the model of this blob; 0 if the blob is bad. */
EGEUNET_API size_t egeunet_model_size(const void *blob, size_t blob_bytes);

/* Read a weights blob (the layout is in engine.c).
 *
 * memory: At least `egeunet_model_size` bytes, aligned to EGEUNET_ALIGNMENT; it becomes the model.
 * The blob may be freed afterwards.
 */
EGEUNET_API egeunet_status egeunet_load(const void *blob, size_t blob_bytes, void *memory,
                                        size_t memory_bytes, const egeunet_model **model);

/* Height and width that the model was trained with. */
EGEUNET_API void egeunet_native_size(const egeunet_model *model, int *height, int *width);

/* The metadata of a blob, UTF-8 JSON without a terminating zero; NULL if the blob is bad. */
EGEUNET_API const char *egeunet_metadata(const void *blob, size_t blob_bytes, size_t *length);

/* Bytes of workspace that `egeunet_run` needs for inputs of this size; 0 if it is not valid, or
 * too large for a 32-bit machine. The same holds for the other functions that return a size. */
EGEUNET_API size_t egeunet_workspace_size(const egeunet_model *model, int height, int width);

/* Compute the logits of one image.
 *
 * image: float planes (3, height, width) in 0…255, min-max scaled (see `egeunet_prepare`).
 * logits: float (height, width); the probability of the foreground is 1 / (1 + exp(-logit)).
 */
EGEUNET_API egeunet_status egeunet_run(const egeunet_model *model, const float *image, int height,
                                       int width, float *logits, void *workspace,
                                       size_t workspace_bytes);

/* Bytes of workspace that `egeunet_prepare` needs; 0 if a size is not valid. */
EGEUNET_API size_t egeunet_prepare_size(int height, int width, int out_height, int out_width);

/* Make the input of `egeunet_run` from an image: resize it, averaging over the pixels that fall
 * together, and scale its darkest value to 0 and its brightest to 255.
 *
 * rgb: bytes (height, width, 3). image: float planes (3, out_height, out_width).
 */
EGEUNET_API egeunet_status egeunet_prepare(const uint8_t *rgb, int height, int width, float *image,
                                           int out_height, int out_width, void *workspace,
                                           size_t workspace_bytes);

/* Bytes of workspace that `egeunet_resize` needs; 0 if a size is not valid. */
EGEUNET_API size_t egeunet_resize_size(int height, int width, int out_height, int out_width);

/* Resize a map, such as a probability, bilinearly to the size of the image.
 *
 * map: float (height, width). out: float (out_height, out_width).
 */
EGEUNET_API egeunet_status egeunet_resize(const float *map, int height, int width, float *out,
                                          int out_height, int out_width, void *workspace,
                                          size_t workspace_bytes);

/* Bytes of workspace that `egeunet_resize_mask` needs; 0 if a size is not valid. */
EGEUNET_API size_t egeunet_resize_mask_size(int height, int width, int out_height, int out_width);

/* Compute where the map that `egeunet_resize` returns reaches the threshold, without that map.
 *
 * mask: bytes (out_height, out_width), 1 or 0.
 */
EGEUNET_API egeunet_status egeunet_resize_mask(const float *map, int height, int width,
                                               float threshold, uint8_t *mask, int out_height,
                                               int out_width, void *workspace,
                                               size_t workspace_bytes);

/* The instruction set that `egeunet_run` uses here: "avx512", "avx2" or "baseline". */
EGEUNET_API const char *egeunet_instruction_set(void);

#ifdef __cplusplus
}
#endif
#endif
