/* Chooses the kernels that this processor can run, and hands out tasks to the threads that ask for them. */
#ifdef __linux__
#define _DEFAULT_SOURCE /* declares madvise */
#include <sys/mman.h>
#endif
#include "correlation.h"

#include <stdlib.h>
#include <string.h>

#ifdef CORR_X86
extern const corr_kernels corr_kernels_avx512[2], corr_kernels_avx2[2];
#endif
extern const corr_kernels corr_kernels_baseline[2];

static const struct {
    const char *name;
    const corr_kernels *kernels;
} instruction_sets[] = {
#ifdef CORR_X86
    {"avx512", corr_kernels_avx512},
    {"avx2", corr_kernels_avx2},
#endif
    {"baseline", corr_kernels_baseline},
};

static int is_supported(const char *name) {
#ifdef CORR_X86
    __builtin_cpu_init();
    if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (strcmp(name, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return strcmp(name, "baseline") == 0;
}

/* The fingerprint of the sources it was compiled from. */
const char *corr_sources(void) { return CORR_SOURCES; }

/* The number of instruction sets, best first. */
int corr_num_instruction_sets(void) { return (int)(sizeof instruction_sets / sizeof instruction_sets[0]); }

/* The name of an instruction set when this processor has it, else NULL. */
const char *corr_instruction_set(int index) {
    const char *name = instruction_sets[index].name;
    return is_supported(name) ? name : NULL;
}

/* Asks for pages of 2 MiB where `bytes` of memory hold whole ones. Memory that is new from the system comes page by page
 * as it is written, and 512 times as many of 4 KiB can take longer than the kernels. */
void corr_advise_large_pages(void *memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = (uintptr_t)1 << 21, start = (uintptr_t)memory;
    const uintptr_t first = (start + page - 1) / page * page, end = (start + (uintptr_t)bytes) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE); /* without them it goes on as before */
#else
    (void)memory, (void)bytes;
#endif
}

/* Works on tasks until none is left. Any number of threads may call it for one job. */
void corr_work(corr_job *job) {
    const corr_kernels *kernels = &instruction_sets[job->instruction_set].kernels[job->dtype == CORR_FLOAT64];
    int64_t num_tasks = corr_num_tasks(job), task;
    void *scratch = NULL;
    while ((task = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < num_tasks) {
        if (scratch == NULL) {
            size_t size = ((size_t)kernels->scratch_bytes(job) + 63) / 64 * 64;
            scratch = aligned_alloc(64, size);
            if (scratch == NULL) {
                __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
                return;
            }
            memset(scratch, 0, size);
        }
        kernels->task(job, task, scratch);
    }
    free(scratch);
}

static void work(void *job) { corr_work((corr_job *)job); }

/* Works on a job with the threads of an OpenMP runtime that is loaded already: `parallel` is its GOMP_parallel. */
void corr_work_parallel(corr_job *job, void (*parallel)(void (*)(void *), void *, unsigned, unsigned),
                        unsigned num_threads) {
    parallel(work, job, num_threads, 0);
}
