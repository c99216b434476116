// Decoding.
#include "attention_decode.cuh"
#include "decode_step.cuh"
#include "few.cuh"
#include "lora.cuh"
#include "sample.cuh"
