// Attention of runs of rows, forward and backward, on tensor cores.
#include "attention_mma.cuh"
