// The operators of libs/functions.py on top of a backend's kernels, by the LibTorch stable ABI: one binary serves every
// torch from 2.11 on. The including file defines, for element type T and activation A,
//
//   moments<T>(x, shape, mean, var)
//   forward<T, A>(x, shape, mean, var, weight, bias, eps, param)
//   sums<T, A>(y, grad, shape, weight, bias, param, sums)
//   backward<T, A>(y, grad, shape, var, weight, bias, means, eps, param, grad_x)
//
// as static members of a class, over plain pointers, and registers Operators<that class>.
#pragma once

#include "abn.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <type_traits>

namespace abn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// A dense map as `outer` repetitions of `channels` runs of `inner` neighbours: N, C, H*W of a contiguous one; N*H*W, C, 1
// of a channels_last one.
struct Shape {
  int64_t outer, channels, inner;

  int64_t count() const { return outer * inner; }
};

inline bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (int64_t dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

// x itself if it is contiguous or channels_last, else a contiguous copy.
inline Tensor dense(const Tensor& x) {
  return is_channels_last(x) ? x : torch::stable::contiguous(x);
}

inline Shape shape_of(const Tensor& x) {
  const int64_t area = x.size(2) * x.size(3);
  if (x.is_contiguous() && area > 1) return {x.size(0), x.size(1), area};
  return {x.size(0) * area, x.size(1), 1};
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

// The gradient in the layout of the output, after the checks that keep a kernel inside it.
inline Tensor like(const Tensor& grad, const Tensor& y) {
  STD_TORCH_CHECK(grad.dim() == 4, "expected a gradient (N, C, H, W), got ", grad.dim(), " dimensions");
  STD_TORCH_CHECK(same_device(grad, y), "gradient and output are on different devices");
  for (int64_t dim = 0; dim < 4; ++dim)
    STD_TORCH_CHECK(grad.size(dim) == y.size(dim), "gradient and output differ in size at dimension ", dim);
  STD_TORCH_CHECK(grad.scalar_type() == y.scalar_type(), "gradient and output differ in dtype");
  const auto format = y.is_contiguous() ? torch::headeronly::MemoryFormat::Contiguous
                                        : torch::headeronly::MemoryFormat::ChannelsLast;
  return torch::stable::contiguous(grad, format);
}

template <typename T>
constexpr ScalarType scalar_type() {
  return std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
}

// The data of a per-channel vector, after the checks that keep a kernel inside it.
template <typename R>
R* vector(const Tensor& v, const Tensor& x, int64_t size) {
  STD_TORCH_CHECK(v.scalar_type() == scalar_type<R>(), "per-channel vectors must be float32, or float64 for float64");
  STD_TORCH_CHECK(v.numel() == size && v.is_contiguous(), "expected a contiguous vector of ", size, " values");
  STD_TORCH_CHECK(same_device(v, x), "per-channel vectors must be on the map's device");
  return static_cast<R*>(v.data_ptr());
}

template <typename R>
R* vector(const OptionalTensor& v, const Tensor& x, int64_t size) {
  return v ? vector<R>(*v, x, size) : nullptr;
}

inline void check_affine(const OptionalTensor& weight, const OptionalTensor& bias) {
  STD_TORCH_CHECK(weight.has_value() == bias.has_value(), "expected weight and bias or neither, got one of them");
}

template <typename T>
T* data(const Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

template <typename T> struct Type { using type = T; };
template <Activation A> using Constant = std::integral_constant<Activation, A>;

// Calls f(Type<T>) with T the element type of x.
template <typename F>
auto by_type(const Tensor& x, F f) {
  STD_TORCH_CHECK(x.dim() == 4, "expected a map (N, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.size(1) > 0, "expected a map (N, C, H, W) with channels, got C = 0");
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(Type<float>());
    case ScalarType::Double: return f(Type<double>());
    case ScalarType::Half: return f(Type<c10::Half>());
    case ScalarType::BFloat16: return f(Type<c10::BFloat16>());
    default: STD_TORCH_CHECK(false, "expected a float32, float64, float16 or bfloat16 map");
  }
}

// Calls f(Type<T>, Constant<A>).
template <typename F>
auto by_type_and_activation(const Tensor& x, int64_t activation, F f) {
  return by_type(x, [&](auto type) {
    switch (static_cast<Activation>(activation)) {
      case Activation::identity: return f(type, Constant<Activation::identity>());
      case Activation::leaky_relu: return f(type, Constant<Activation::leaky_relu>());
      case Activation::elu: return f(type, Constant<Activation::elu>());
      default: STD_TORCH_CHECK(false, "unknown activation ", activation);
    }
  });
}

template <typename Backend>
struct Operators {
  static std::tuple<Tensor, Tensor> moments(Tensor x) {
    return by_type(x, [&](auto type) {
      using T = typename decltype(type)::type;
      const Tensor map = dense(x);
      const Shape shape = shape_of(map);
      Tensor mean = torch::stable::new_empty(x, {shape.channels}, scalar_type<Real<T>>());
      Tensor var = torch::stable::new_empty(x, {shape.channels}, scalar_type<Real<T>>());
      Backend::template moments<T>(map, data<T>(map), shape, data<Real<T>>(mean), data<Real<T>>(var));
      return std::make_tuple(mean, var);
    });
  }

  static void forward_(Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias, double eps,
                       int64_t activation, double param) {
    check_affine(weight, bias);
    by_type_and_activation(x, activation, [&](auto type, auto act) {
      using T = typename decltype(type)::type;
      using R = Real<T>;
      Tensor map = dense(x);
      const Shape shape = shape_of(map);
      const int64_t size = shape.channels;
      Backend::template forward<T, act()>(map, data<T>(map), shape, vector<R>(mean, x, size), vector<R>(var, x, size),
                                          vector<R>(weight, x, size), vector<R>(bias, x, size), R(eps), R(param));
      if (map.data_ptr() != x.data_ptr()) torch::stable::copy_(x, map);
    });
  }

  static Tensor sums(Tensor y, Tensor grad, OptionalTensor weight, OptionalTensor bias, int64_t activation,
                     double param) {
    check_affine(weight, bias);
    return by_type_and_activation(y, activation, [&](auto type, auto act) {
      using T = typename decltype(type)::type;
      using R = Real<T>;
      const Tensor map = dense(y), grad_map = like(grad, map);
      const Shape shape = shape_of(map);
      const int64_t size = shape.channels;
      Tensor result = torch::stable::new_empty(y, {2, size}, scalar_type<R>());
      Backend::template sums<T, act()>(map, data<T>(map), data<T>(grad_map), shape, vector<R>(weight, y, size),
                                       vector<R>(bias, y, size), R(param), data<R>(result));
      return result;
    });
  }

  static Tensor backward(Tensor y, Tensor grad, Tensor var, OptionalTensor weight, OptionalTensor bias,
                         OptionalTensor means, double eps, int64_t activation, double param) {
    check_affine(weight, bias);
    return by_type_and_activation(y, activation, [&](auto type, auto act) {
      using T = typename decltype(type)::type;
      using R = Real<T>;
      const Tensor map = dense(y), grad_map = like(grad, map);
      const Shape shape = shape_of(map);
      const int64_t size = shape.channels;
      Tensor result = torch::stable::empty_like(map);
      Backend::template backward<T, act()>(map, data<T>(map), data<T>(grad_map), shape, vector<R>(var, y, size),
                                           vector<R>(weight, y, size), vector<R>(bias, y, size),
                                           vector<R>(means, y, 2 * size), R(eps), R(param), data<T>(result));
      return result;
    });
  }

  static void register_in(torch::stable::detail::StableLibrary& library) {
    library.impl("abn_moments", TORCH_BOX(&moments));
    library.impl("abn_forward_", TORCH_BOX(&forward_));
    library.impl("abn_sums", TORCH_BOX(&sums));
    library.impl("abn_backward", TORCH_BOX(&backward));
  }
};

}  // namespace abn
