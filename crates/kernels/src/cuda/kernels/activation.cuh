// Activations of feed-forward blocks other than SwiGLU, as `cpu/activation.rs` has them.
#pragma once
#include "norm.cuh"

enum ActivationKind { SILU, GELU, GELU_TANH, RELU, RELU2, CLAMPED, XIELU };

// Which one, and its constants in the order of the CPU's fields.
struct Activation {
  i64 kind;
  float a, b, c, d;
};

// Value and derivative at x. That of CLAMPED is of the gate alone.
__device__ __forceinline__ float2 activate(const Activation &f, float x) {
  switch (f.kind) {
    case SILU: {
      float s = sigmoid(x);
      return make_float2(x * s, s * (1.f + x * (1.f - s)));
    }
    case GELU: {
      float phi = 0.5f * (1.f + erff(x * 0.70710678f));
      return make_float2(x * phi, phi + x * 0.39894228f * expf(-0.5f * x * x));
    }
    case GELU_TANH: {
      float t = tanhf(0.7978846f * (x + 0.044715f * x * x * x));
      float inner = 0.7978846f * (1.f + 3.f * 0.044715f * x * x);
      return make_float2(0.5f * x * (1.f + t), 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * inner);
    }
    case RELU: return make_float2(fmaxf(x, 0.f), x > 0.f ? 1.f : 0.f);
    case RELU2: return make_float2(fmaxf(x, 0.f) * fmaxf(x, 0.f), 2.f * fmaxf(x, 0.f));
    case CLAMPED: {
      float gate = fminf(x, f.b), s = sigmoid(f.a * gate);
      return make_float2(gate * s, x <= f.b ? s + f.a * gate * s * (1.f - s) : 0.f);
    }
    default: {
      if (x > 0.f) return make_float2(f.a * x * x + f.c * x, 2.f * f.a * x + f.c);
      float by = x <= f.d ? expf(x) : 0.f;
      return make_float2((expm1f(fminf(x, f.d)) - x) * f.b + f.c * x, (by - 1.f) * f.b + f.c);
    }
  }
}
// The factor that the other projection is, and its derivative.
__device__ __forceinline__ float2 factor(const Activation &f, float up) {
  if (f.kind != CLAMPED) return make_float2(up, 1.f);
  return make_float2(fminf(fmaxf(up, -f.b), f.b) + 1.f, fabsf(up) <= f.b ? 1.f : 0.f);
}

// y = act(gate) · factor(up), with the columns of gate and up side by side in x; without a gate y = act(x).
template <typename T, int V>
__device__ void activation(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 inner, i64 gated, Activation f) {
  each(rows, inner, V, [&](i64 r, i64 c) {
    float e[4], u[4];
    get<T, V>(x + r * xp + c, e);
    if (gated) get<T, V>(x + r * xp + inner + c, u);
    for (int j = 0; j < V; j++) e[j] = activate(f, e[j]).x * (gated ? factor(f, u[j]).x : 1.f);
    put<T, V>(y + r * yp + c, e);
  });
}
// x leaves as its gradient.
template <typename T, int V>
__device__ void activation_backward(const T *dy, i64 dp, T *x, i64 xp, i64 rows, i64 inner, i64 gated, Activation f) {
  each(rows, inner, V, [&](i64 r, i64 c) {
    float d[4], e[4], u[4];
    T *p = x + r * xp + c;
    get<T, V>(dy + r * dp + c, d), get<T, V>(p, e);
    if (gated) get<T, V>(p + inner, u);
    for (int j = 0; j < V; j++) {
      float2 value = activate(f, e[j]), by = gated ? factor(f, u[j]) : make_float2(1.f, 0.f);
      e[j] = d[j] * by.x * value.y, u[j] = d[j] * value.x * by.y;
    }
    put<T, V>(p, e);
    if (gated) put<T, V>(p + inner, u);
  });
}
#define ACTIVATION(S, T)                                                                                               \
  extern "C" __global__ void activation_##S(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 inner, i64 gated,          \
                                            i64 kind, float a, float b, float c, float d, i64 vec) {                   \
    Activation f = {kind, a, b, c, d};                                                                                 \
    if (vec) activation<T, 4>(x, xp, y, yp, rows, inner, gated, f);                                                    \
    else activation<T, 1>(x, xp, y, yp, rows, inner, gated, f);                                                        \
  }                                                                                                                    \
  extern "C" __global__ void activation_backward_##S(const T *dy, i64 dp, T *x, i64 xp, i64 rows, i64 inner,           \
                                                     i64 gated, i64 kind, float a, float b, float c, float d,          \
                                                     i64 vec) {                                                        \
    Activation f = {kind, a, b, c, d};                                                                                 \
    if (vec) activation_backward<T, 4>(dy, dp, x, xp, rows, inner, gated, f);                                          \
    else activation_backward<T, 1>(dy, dp, x, xp, rows, inner, gated, f);                                              \
  }
ACTIVATION(f32, float)
ACTIVATION(bf16, bf16)
ACTIVATION(f16, f16)
