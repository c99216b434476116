// All kernels in one module.
#include "attention_mma.cuh"
#include "attention_simt.cuh"
#include "dropout.cuh"
#include "elementwise.cuh"
#include "nf4.cuh"
#include "norm.cuh"
#include "reduce.cuh"
