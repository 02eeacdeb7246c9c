/* The kernels for one instruction set: compiled once for each, with its flags, -DVARIANT=name,
 * -DVECTOR_BYTES=bytes of a vector and -DREGISTERS=number of vector registers. Vectors are those of GCC and
 * Clang, so this is the same C for every processor. */
#include "convert.h"
#include "correlation.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
/* Makes the compiler load a value once, where it would repeat the load in each instruction that uses it. */
#ifdef CORR_X86
#define IN_REGISTER(v) __asm__("" : "+x"(v))
#else
#define IN_REGISTER(v)
#endif
#define INLINE static inline __attribute__((always_inline))

/* Under AddressSanitizer every buffer is followed by GUARD elements that must not be touched. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define GUARD 64
#define FORBID(POINTER, BYTES) ASAN_POISON_MEMORY_REGION(POINTER, BYTES)
#else
#define GUARD 0
#define FORBID(POINTER, BYTES) ((void)0)
#endif

/* Rows of a strip, and most displacements along y that are summed at once: ROWS * MAX_TAPS sums and what they are
 * made of have to fit the registers. */
#ifndef ROWS
#define ROWS 2
#endif
#if REGISTERS >= 32
#define MAX_TAPS 7
#define CASES_ABOVE_4(FUNCTION, ...)                                                                                   \
    case 5: FUNCTION(__VA_ARGS__, 5); break;                                                                           \
    case 6: FUNCTION(__VA_ARGS__, 6); break;                                                                           \
    case 7: FUNCTION(__VA_ARGS__, 7); break;
#else
#define MAX_TAPS 4
#define CASES_ABOVE_4(FUNCTION, ...)
#endif

#define REAL float
#define NAME(name) JOIN(name, f32)
#include "kernels.inc"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) JOIN(name, f64)
#include "kernels.inc"

const corr_kernels JOIN(corr_kernels, VARIANT)[2] = {
    {scratch_bytes_f32, run_task_f32},
    {scratch_bytes_f64, run_task_f64},
};
