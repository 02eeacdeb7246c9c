/* Interface between the library and its kernels; `corr_ops/impl/cpu/library.py` mirrors `corr_job`. */
#ifndef CORR_OPS_CORRELATION_H
#define CORR_OPS_CORRELATION_H

#include <stdint.h>

enum { CORR_FLOAT32, CORR_FLOAT64, CORR_BFLOAT16, CORR_FLOAT16 };
enum { CORR_FORWARD, CORR_BACKWARD };

/* One call of the operator. Strides are in elements; a pointer that is not needed is NULL.
 *
 *   frames       base, search and their gradients   n c l y x
 *   matches      out and its gradient               n q i j l y x   (q: group, i j: displacement)
 *   filters      weight                             l c i j         (stride 0 for l: shared by all frames)
 *   grad_weight  a contiguous partial sum [bands, n, l, c, i, j] in the dtype that sums are held in
 *
 * For output frame l, base is read from frame l (lag -1: from frame max(l - 1, 0)), search from frame l
 * (lag 1: from frame max(l - 1, 0)). When `shared` is set base and search are one tensor, and grad_base
 * receives the sum of both gradients. */
typedef struct {
    const void *base, *search, *weight, *grad;
    void *out, *grad_base, *grad_search, *grad_weight;
    int64_t base_strides[5], search_strides[5], weight_strides[4], match_strides[7];
    int64_t grad_base_strides[5], grad_search_strides[5];
    int64_t num_clips, channels, num_frames, height, width, groups;
    int64_t kernel[2], dilation[2], lag, shared;
    int64_t bands;     /* parts of a frame's rows that are tasks of their own */
    int64_t dtype;     /* of all tensors but grad_weight */
    int64_t direction; /* CORR_FORWARD or CORR_BACKWARD */
    int64_t instruction_set; /* index, see corr_instruction_set */
    int64_t next;      /* the next task to take; 0 at the start */
    int64_t failed;    /* set when memory ran out */
} corr_job;

/* Kernels of one instruction set and one type of sums. */
typedef struct {
    int64_t (*scratch_bytes)(const corr_job *job);
    void (*task)(const corr_job *job, int64_t task, void *scratch);
} corr_kernels;

static inline int64_t corr_num_tasks(const corr_job *job) {
    return job->num_clips * job->num_frames * job->groups * job->bands;
}

#endif
