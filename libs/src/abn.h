// The arithmetic of in-place activated BatchNorm, one element or one channel at a time, for the CPU and CUDA kernels.
// libs/functions.py holds the same in PyTorch, with the formulas explained.
#pragma once

#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>

namespace abn {

enum class Activation : int64_t { identity, leaky_relu, elu };

// Arithmetic is done in double for double and in float for every other element type; with the latter's machine epsilon.
template <typename T> struct Element;
template <> struct Element<double> { using Real = double; static constexpr double epsilon = 0x1p-52; };
template <> struct Element<float> { using Real = float; static constexpr float epsilon = 0x1p-23f; };
template <> struct Element<c10::Half> { using Real = float; static constexpr float epsilon = 0x1p-10f; };
template <> struct Element<c10::BFloat16> { using Real = float; static constexpr float epsilon = 0x1p-7f; };
template <typename T> using Real = typename Element<T>::Real;

// NaN if either is; std::fmax drops one, and with it every sign of a network that has diverged.
template <typename R>
C10_HOST_DEVICE inline R larger(R a, R b) {
  return a > b || a != a ? a : b;
}

template <Activation A, typename R>
C10_HOST_DEVICE inline R activate(R z, R param) {
  if constexpr (A == Activation::leaky_relu) return z > 0 ? z : z * param;
  if constexpr (A == Activation::elu) return z > 0 ? z : param * std::expm1(z);
  return z;
}

// Turns y = activation(z) and the gradient with respect to y into z and the gradient with respect to z.
template <Activation A, typename T>
C10_HOST_DEVICE inline void invert(Real<T>& y, Real<T>& grad, Real<T> param) {
  using R = Real<T>;
  if constexpr (A == Activation::leaky_relu) {
    const R inverse = 1 / param;
    grad = y > 0 ? grad : grad * param;
    y = y > 0 ? y : y * inverse;
  }
  if constexpr (A == Activation::elu) {
    // y rounds to -param for very negative z; the logarithm must stay finite there.
    const R exponential = larger<R>(y / param, Element<T>::epsilon / 2 - 1);
    grad = y > 0 ? grad : grad * (y + param);
    y = y > 0 ? y : std::log1p(exponential);
  }
}

// The weight, its magnitude held where x_hat can be recovered from y.
template <typename T>
C10_HOST_DEVICE inline Real<T> invertible_weight(Real<T> weight, Real<T> bias) {
  using R = Real<T>;
  return std::copysign(larger(std::fabs(weight), R(1e-5) + Element<T>::epsilon * std::fabs(bias)), weight);
}

// One channel's constants. Absent weight and bias are null.
template <typename T> struct Channel {
  using R = Real<T>;
  R weight = 1, bias = 0;

  C10_HOST_DEVICE Channel(const R* weights, const R* biases, int64_t c) {
    if (weights) {
      bias = biases[c];
      weight = invertible_weight<T>(weights[c], bias);
    }
  }
};

// Count, mean and sum of squared deviations of a set of numbers.
template <typename R> struct Moments {
  R count, mean, m2;

  // Chan, Golub, LeVeque (1979).
  C10_HOST_DEVICE void merge(const Moments& other) {
    if (other.count == 0) return;
    const R total = count + other.count, delta = other.mean - mean;
    m2 += other.m2 + delta * delta * (count * (other.count / total));
    mean += delta * (other.count / total);
    count = total;
  }
};

// Sums of dz and of dz * (z - bias).
template <typename R> struct Sums {
  R dz, dz_z;

  C10_HOST_DEVICE void merge(const Sums& other) {
    dz += other.dz;
    dz_z += other.dz_z;
  }
};

}  // namespace abn
