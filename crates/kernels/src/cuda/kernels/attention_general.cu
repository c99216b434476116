// Attention for all types and widths.
#include "attention_simt.cuh"
