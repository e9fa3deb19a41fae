// CUDA kernels. A thread owns one channel of a contiguous map, or a few neighbouring ones of a channels_last map, keeps
// their constants in registers and strides over the positions. Reductions go through shared memory and then, in a second
// kernel, over the blocks: no atomics, so that results are the same in every run.
#include <cuda_runtime.h>

#include "ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>

namespace abn {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kReductionBlocks = 2048;
constexpr int64_t kPacksPerThread = 4;  // at least; fewer are not worth a block's start
constexpr int64_t kMaxGridY = 65535;

// What a thread reads at once: V neighbours.
template <typename T, int V> struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

// How a map is cut: packs of V elements, of one channel each or (channels_last) of V channels.
template <typename T, int V, bool ChannelsLast> struct Cut {
  using Element = T;
  static constexpr int pack = V, lanes = ChannelsLast ? V : 1;

  __host__ __device__ static int64_t packs_per_run(Shape s) { return ChannelsLast ? 1 : s.inner / V; }
  __device__ static int lane(int j) { return ChannelsLast ? j : 0; }

  static dim3 block(Shape s) {
    int across = 1;
    if (ChannelsLast)
      while (across < 32 && across * lanes < s.channels) across *= 2;
    return dim3(across, kThreads / across);
  }

  // `most` bounds the number of blocks that share a channel.
  static dim3 grid(Shape s, int64_t most = kMaxGridY) {
    const dim3 threads = block(s);
    const int64_t across = int64_t(threads.x) * lanes, columns = (s.channels + across - 1) / across;
    const int64_t rows = s.outer * packs_per_run(s), per_block = threads.y * kPacksPerThread;
    return dim3(columns, std::max<int64_t>(1, std::min(most, (rows + per_block - 1) / per_block)));
  }

  static dim3 reduction_grid(Shape s) {
    return grid(s, std::min(kMaxGridY, std::max<int64_t>(1, kReductionBlocks / grid(s, 1).x)));
  }
};

// A thread's way through the packs of its channels.
template <typename C> struct Walk {
  const Shape s;
  const int64_t channel;
  int64_t n, i, step_n, step_i;

  __device__ explicit Walk(Shape shape)
      : s(shape), channel((int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * C::lanes) {
    const int64_t per_run = C::packs_per_run(s), stride = int64_t(gridDim.y) * blockDim.y;
    const int64_t start = int64_t(blockIdx.y) * blockDim.y + threadIdx.y;
    n = start / per_run;
    i = start % per_run;
    step_n = stride / per_run;
    step_i = stride % per_run;
  }

  __device__ bool inside() const { return channel < s.channels && n < s.outer; }
  __device__ int64_t offset() const { return (n * s.channels + channel) * s.inner + i * C::pack; }

  __device__ void next() {
    n += step_n;
    i += step_i;
    if (i >= C::packs_per_run(s)) {
      i -= C::packs_per_run(s);
      ++n;
    }
  }
};

template <typename C>
using PackOf = Pack<typename C::Element, C::pack>;

template <typename C>
__device__ PackOf<C> read(const typename C::Element* at) {
  return *reinterpret_cast<const PackOf<C>*>(at);
}

template <typename C>
__device__ void write(typename C::Element* at, const PackOf<C>& pack) {
  *reinterpret_cast<PackOf<C>*>(at) = pack;
}

// Moments of numbers that come one by one, about the first of them, which keeps the squares small. The result's mean is
// relative to `origin`, one for all threads of a channel: rounding the means of numbers far from 0 would drown the
// differences between them.
template <typename R> struct RunningMoments {
  R count = 0, first = 0, sum = 0, squares = 0;

  __device__ void add(R x) {
    if (count == 0) first = x;
    const R deviation = x - first;
    count += 1;
    sum += deviation;
    squares += deviation * deviation;
  }

  __device__ Moments<R> result(R origin) const {
    if (count == 0) return {0, 0, 0};
    return {count, (first - origin) + sum / count, larger(squares - sum * (sum / count), R(0))};
  }
};

// Merges the totals of a block's threads with equal threadIdx.x; the result is thread (x, 0)'s.
template <typename Total>
__device__ Total reduce_block(const Total& mine) {
  __shared__ Total shared[kThreads];
  const int own = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  shared[own] = mine;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) shared[own].merge(shared[own + half * blockDim.x]);
  }
  return shared[own];
}

template <typename C, typename Total>
__device__ void store_partial(const Total& mine, const Walk<C>& walk, int lane, Total* partial) {
  const Total total = reduce_block(mine);
  if (threadIdx.y == 0 && walk.channel < walk.s.channels)
    partial[blockIdx.y * walk.s.channels + walk.channel + lane] = total;
}

// One block per channel: the total over the blocks that shared it, for thread 0.
template <typename Total>
__device__ Total reduce_partial(const Total* partial, int parts, int64_t channels) {
  Total mine{};
  for (int part = threadIdx.y; part < parts; part += blockDim.y) mine.merge(partial[part * channels + blockIdx.x]);
  return reduce_block(mine);
}

// Where the means of a channel are counted from: its first element.
template <typename R, typename T>
__device__ R origin_of(const T* x, Shape s, int64_t channel, R count) {
  return count > 0 ? R(x[channel * s.inner]) : R(0);
}

template <typename C>
__global__ void moments_kernel(const typename C::Element* x, Shape s, Moments<Real<typename C::Element>>* partial) {
  using R = Real<typename C::Element>;
  Walk<C> walk(s);
  RunningMoments<R> moments[C::lanes];
  for (; walk.inside(); walk.next()) {
    const auto pack = read<C>(x + walk.offset());
#pragma unroll
    for (int j = 0; j < C::pack; ++j) moments[C::lane(j)].add(pack.values[j]);
  }
#pragma unroll
  for (int lane = 0; lane < C::lanes; ++lane) {
    const R origin = origin_of(x, s, walk.channel + lane, moments[lane].count);
    store_partial(moments[lane].result(origin), walk, lane, partial);
  }
}

template <typename T, typename R = Real<T>>
__global__ void finish_moments_kernel(const T* x, Shape s, const Moments<R>* partial, int parts, R* mean, R* var) {
  const Moments<R> total = reduce_partial(partial, parts, s.channels);
  if (threadIdx.y == 0) {
    mean[blockIdx.x] = origin_of(x, s, blockIdx.x, total.count) + total.mean;
    var[blockIdx.x] = total.m2 / total.count;
  }
}

template <typename C, Activation A, typename T = typename C::Element, typename R = Real<T>>
__global__ void forward_kernel(T* x, Shape s, const R* mean, const R* var, const R* weight, const R* bias, R eps,
                               R param) {
  Walk<C> walk(s);
  if (!walk.inside()) return;
  R centre[C::lanes], scale[C::lanes], shift[C::lanes];
#pragma unroll
  for (int lane = 0; lane < C::lanes; ++lane) {
    const int64_t c = walk.channel + lane;
    const Channel<T> channel(weight, bias, c);
    centre[lane] = mean[c];
    scale[lane] = channel.weight / std::sqrt(var[c] + eps);
    shift[lane] = channel.bias;
  }
  for (; walk.inside(); walk.next()) {
    auto pack = read<C>(x + walk.offset());
#pragma unroll
    for (int j = 0; j < C::pack; ++j) {
      const int lane = C::lane(j);
      pack.values[j] = activate<A>((R(pack.values[j]) - centre[lane]) * scale[lane] + shift[lane], param);
    }
    write<C>(x + walk.offset(), pack);
  }
}

template <typename C, Activation A, typename T = typename C::Element, typename R = Real<T>>
__global__ void sums_kernel(const T* y, const T* grad, Shape s, const R* weight, const R* bias, R param,
                            Sums<R>* partial) {
  Walk<C> walk(s);
  Sums<R> sums[C::lanes] = {};
  R shift[C::lanes] = {};
  if (walk.inside())
#pragma unroll
    for (int lane = 0; lane < C::lanes; ++lane) shift[lane] = Channel<T>(weight, bias, walk.channel + lane).bias;
  for (; walk.inside(); walk.next()) {
    const auto pack = read<C>(y + walk.offset()), grad_pack = read<C>(grad + walk.offset());
#pragma unroll
    for (int j = 0; j < C::pack; ++j) {
      R z = pack.values[j], dz = grad_pack.values[j];
      invert<A, T>(z, dz, param);
      sums[C::lane(j)].merge({dz, dz * (z - shift[C::lane(j)])});
    }
  }
#pragma unroll
  for (int lane = 0; lane < C::lanes; ++lane) store_partial(sums[lane], walk, lane, partial);
}

template <typename T, typename R = Real<T>>
__global__ void finish_sums_kernel(const Sums<R>* partial, int parts, int64_t channels, const R* weight, const R* bias,
                                   R* result) {
  const Sums<R> total = reduce_partial(partial, parts, channels);
  if (threadIdx.y == 0) {
    result[blockIdx.x] = total.dz;
    result[channels + blockIdx.x] = total.dz_z / Channel<T>(weight, bias, blockIdx.x).weight;
  }
}

template <typename C, Activation A, typename T = typename C::Element, typename R = Real<T>>
__global__ void backward_kernel(const T* y, const T* grad, Shape s, const R* var, const R* weight, const R* bias,
                                const R* means, R eps, R param, T* grad_x) {
  Walk<C> walk(s);
  if (!walk.inside()) return;
  // grad_x = scale * (dz - mean_dz) - slope * (z - shift), as weight * x_hat is z - bias; without means there is no
  // second term, not even 0 * infinity.
  R scale[C::lanes], mean_dz[C::lanes], slope[C::lanes], shift[C::lanes];
#pragma unroll
  for (int lane = 0; lane < C::lanes; ++lane) {
    const int64_t c = walk.channel + lane;
    const Channel<T> channel(weight, bias, c);
    const R inverse_std = 1 / std::sqrt(var[c] + eps);
    scale[lane] = channel.weight * inverse_std;
    shift[lane] = channel.bias;
    mean_dz[lane] = means ? means[c] : R(0);
    slope[lane] = means ? means[s.channels + c] * inverse_std : R(0);
  }
  for (; walk.inside(); walk.next()) {
    const auto pack = read<C>(y + walk.offset()), grad_pack = read<C>(grad + walk.offset());
    PackOf<C> result;
#pragma unroll
    for (int j = 0; j < C::pack; ++j) {
      const int lane = C::lane(j);
      R z = pack.values[j], dz = grad_pack.values[j];
      invert<A, T>(z, dz, param);
      result.values[j] = scale[lane] * (dz - mean_dz[lane]) - (means ? slope[lane] * (z - shift[lane]) : R(0));
    }
    write<C>(grad_x + walk.offset(), result);
  }
}

// Calls f(Cut) with the widest cut that the sizes and the addresses allow.
template <typename T, typename F, typename... Pointers>
void with_cut(Shape s, const F& f, const Pointers*... maps) {
  constexpr int wide = 16 / sizeof(T);
  const bool aligned = ((reinterpret_cast<uintptr_t>(maps) % 16 == 0) && ...);
  if (s.inner > 1) {
    if (aligned && s.inner % wide == 0) f(Cut<T, wide, false>());
    else f(Cut<T, 1, false>());
  } else {
    if (aligned && s.channels % wide == 0) f(Cut<T, wide, true>());
    else f(Cut<T, 1, true>());
  }
}

// Makes the map's device current and holds the stream to launch on.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Launch(const Tensor& x) : guard(x.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

// Room for one Total per channel and block, as `fields` numbers each.
template <typename R>
Tensor workspace(const Tensor& like, int64_t parts, Shape s, int64_t fields) {
  return torch::stable::new_empty(like, {parts * s.channels * fields}, scalar_type<R>());
}

struct Cuda {
  template <typename T>
  static void moments(const Tensor& map, const T* x, Shape s, Real<T>* mean, Real<T>* var) {
    using R = Real<T>;
    const Launch launch(map);
    with_cut<T>(s, [&](auto cut) {
      using C = decltype(cut);
      const dim3 grid = C::reduction_grid(s);
      const Tensor room = workspace<R>(map, grid.y, s, 3);
      auto* partial = static_cast<Moments<R>*>(room.data_ptr());
      moments_kernel<C><<<grid, C::block(s), 0, launch.stream>>>(x, s, partial);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      finish_moments_kernel<T><<<s.channels, dim3(1, kThreads), 0, launch.stream>>>(x, s, partial, grid.y, mean, var);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }, x);
  }

  template <typename T, Activation A>
  static void forward(const Tensor& map, T* x, Shape s, const Real<T>* mean, const Real<T>* var, const Real<T>* weight,
                      const Real<T>* bias, Real<T> eps, Real<T> param) {
    const Launch launch(map);
    with_cut<T>(s, [&](auto cut) {
      using C = decltype(cut);
      forward_kernel<C, A><<<C::grid(s), C::block(s), 0, launch.stream>>>(x, s, mean, var, weight, bias, eps, param);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }, x);
  }

  template <typename T, Activation A>
  static void sums(const Tensor& map, const T* y, const T* grad, Shape s, const Real<T>* weight, const Real<T>* bias,
                   Real<T> param, Real<T>* result) {
    using R = Real<T>;
    const Launch launch(map);
    with_cut<T>(s, [&](auto cut) {
      using C = decltype(cut);
      const dim3 grid = C::reduction_grid(s);
      const Tensor room = workspace<R>(map, grid.y, s, 2);
      auto* partial = static_cast<Sums<R>*>(room.data_ptr());
      sums_kernel<C, A><<<grid, C::block(s), 0, launch.stream>>>(y, grad, s, weight, bias, param, partial);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      finish_sums_kernel<T><<<s.channels, dim3(1, kThreads), 0, launch.stream>>>(partial, grid.y, s.channels, weight, bias, result);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }, y, grad);
  }

  template <typename T, Activation A>
  static void backward(const Tensor& map, const T* y, const T* grad, Shape s, const Real<T>* var, const Real<T>* weight,
                       const Real<T>* bias, const Real<T>* means, Real<T> eps, Real<T> param, T* grad_x) {
    const Launch launch(map);
    with_cut<T>(s, [&](auto cut) {
      using C = decltype(cut);
      backward_kernel<C, A><<<C::grid(s), C::block(s), 0, launch.stream>>>(y, grad, s, var, weight, bias, means, eps, param, grad_x);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }, y, grad, grad_x);
  }
};

}  // namespace
}  // namespace abn

STABLE_TORCH_LIBRARY_IMPL(segdistill, CUDA, library) { abn::Operators<abn::Cuda>::register_in(library); }
