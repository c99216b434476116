// Decoding.
#include "attention_decode.cuh"
#include "decode_step.cuh"
#include "lora.cuh"
#include "sample.cuh"
