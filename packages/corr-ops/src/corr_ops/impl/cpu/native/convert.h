/* Values of the four dtypes to and from the type that sums are held in; written so that compilers vectorize it. */
#ifndef CORR_OPS_CONVERT_H
#define CORR_OPS_CONVERT_H

#include <stdint.h>
#include <string.h>

static inline float corr_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t corr_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float corr_from_bfloat16(uint16_t half) { return corr_from_bits((uint32_t)half << 16); }

static inline uint16_t corr_to_bfloat16(float value) {
    uint32_t bits = corr_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16; /* to nearest, ties to even */
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

static inline float corr_from_float16(uint16_t half) {
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    /* The exponent is rebiased by a product, which also normalizes what is subnormal. */
    uint32_t bits = corr_to_bits(corr_from_bits(magnitude) * 0x1p112f);
    bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits; /* infinite or not a number */
    return corr_from_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

static inline uint16_t corr_to_float16(float value) {
    uint32_t bits = corr_to_bits(value), magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + (magnitude >> 13 & 1u)) >> 13;
    /* Adding 0.5 makes the processor round a subnormal result at its last bit. */
    uint32_t subnormal = corr_to_bits(corr_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? 0x7c00u : half; /* 65536 and more; rounding up to it is in `normal` */
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

#endif
