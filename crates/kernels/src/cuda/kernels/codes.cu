// Matrices in codes.
#include "codes_product.cuh"
