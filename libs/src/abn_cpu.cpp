// CPU kernels. Loops over neighbours are written for the compiler to vectorise; results do not depend on the number of
// threads, because each channel, or each fixed share of the rows, is reduced by one.
#include "ops.h"

#include <algorithm>
#include <vector>

namespace abn {
namespace {

constexpr int64_t kChunk = 8192;   // elements of a channel that are still in the cache when read again
constexpr int64_t kBlock = 32768;  // elements of rows, likewise; more of them, for each block ends in C divisions
constexpr int64_t kRows = 512;     // rows at most, lest their sum in single precision lose digits
constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int64_t kShares = 64;    // shares of the rows in a channels_last reduction
constexpr int64_t kSamples = 64;   // rows that tell roughly where the mean is

template <typename F>
void parallel(int64_t tasks, int64_t elements_per_task, const F& f) {
  torch::stable::parallel_for(0, tasks, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task)), f);
}

// Assigning a BFloat16 whole keeps the compiler from vectorising the loop; assigning its bits does not.
template <typename T>
inline void store(T& slot, Real<T> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    slot.x = c10::detail::round_to_nearest_even(value);
  } else {
    slot = value;
  }
}

// A constant that reads like an array: the parameters along a run within one channel.
template <typename R> struct Repeat {
  R value;
  R operator[](int64_t) const { return value; }
};

// Calls f(offset, length, pick) for every run of neighbours; pick(vector) is indexed by position in the run and yields
// that position's channel's value.
template <typename R, typename F>
void for_each_run(Shape s, const F& f) {
  if (s.inner > 1) {
    parallel(s.outer * s.channels, s.inner, [&](int64_t begin, int64_t end) {
      for (int64_t run = begin; run < end; ++run) {
        const int64_t c = run % s.channels;
        f(run * s.inner, s.inner, [c](const std::vector<R>& v) { return Repeat<R>{v[c]}; });
      }
    });
  } else {
    parallel(s.outer, s.channels, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        f(row * s.channels, s.channels, [](const std::vector<R>& v) { return v.data(); });
    });
  }
}

// Moments of n numbers from the sums of their deviations, and of the squares of these, from a pivot near their mean.
Moments<double> moments_about(double pivot, double sum, double squares, double n) {
  return {n, pivot + sum / n, larger(squares - sum * (sum / n), 0.0)};
}

template <typename T>
Moments<double> moments_of_chunk(const T* x, int64_t n) {
  using R = Real<T>;
  R sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += R(x[i]);
  const R mean = sum / n;  // rounded: the deviations from it still have a mean of their own
#pragma omp simd reduction(+ : rest, squares)
  for (int64_t i = 0; i < n; ++i) {
    const R deviation = R(x[i]) - mean;
    rest += deviation;
    squares += deviation * deviation;
  }
  return moments_about(mean, rest, squares, n);
}

template <typename T, Activation A>
Sums<double> sums_of_chunk(const T* y, const T* grad, int64_t n, Real<T> bias, Real<T> param) {
  using R = Real<T>;
  R sum = 0, sum_z = 0;
#pragma omp simd reduction(+ : sum, sum_z)
  for (int64_t i = 0; i < n; ++i) {
    R z = y[i], dz = grad[i];
    invert<A, T>(z, dz, param);
    sum += dz;
    sum_z += dz * (z - bias);
  }
  return {sum, sum_z};
}

// Folds f(offset, length) over one channel of a contiguous map, chunk by chunk.
template <typename Total, typename F>
Total over_channel(Shape s, int64_t c, const F& f) {
  Total total{};
  for (int64_t n = 0; n < s.outer; ++n)
    for (int64_t i = 0; i < s.inner; i += kChunk)
      total.merge(f((n * s.channels + c) * s.inner + i, std::min(kChunk, s.inner - i)));
  return total;
}

// Folds the rows of a channels_last map: f(row, rows, totals) adds a block of rows to one share's totals, per channel.
template <typename Total, typename F>
std::vector<Total> over_rows(Shape s, const F& f) {
  const int64_t block = std::clamp<int64_t>(kBlock / s.channels, 8, kRows);
  const int64_t blocks = (s.outer + block - 1) / block, shares = std::clamp<int64_t>(blocks, 1, kShares);
  std::vector<std::vector<Total>> totals(shares, std::vector<Total>(s.channels, Total{}));
  parallel(shares, s.outer / shares * s.channels, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share)
      for (int64_t b = blocks * share / shares; b < blocks * (share + 1) / shares; ++b)
        f(b * block, std::min(block, s.outer - b * block), totals[share]);
  });
  for (int64_t share = 1; share < shares; ++share)
    for (int64_t c = 0; c < s.channels; ++c) totals[0][c].merge(totals[share][c]);
  return totals[0];
}

struct Cpu {
  template <typename T>
  static void moments(const Tensor&, const T* x, Shape s, Real<T>* mean, Real<T>* var) {
    const auto store = [&](int64_t c, const Moments<double>& total) {
      mean[c] = total.mean;
      var[c] = total.m2 / total.count;
    };
    if (s.inner > 1) {
      parallel(s.channels, s.count(), [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
          store(c, over_channel<Moments<double>>(s, c, [&](int64_t at, int64_t n) { return moments_of_chunk(x + at, n); }));
      });
    } else {
      const auto pivot = pivots(x, s);
      const auto totals = over_rows<Moments<double>>(s, [&](int64_t row, int64_t rows, auto& totals) {
        moments_of_rows(x + row * s.channels, rows, s.channels, pivot, totals);
      });
      for (int64_t c = 0; c < s.channels; ++c) store(c, totals[c]);
    }
  }

  template <typename T, Activation A>
  static void forward(const Tensor&, T* x, Shape s, const Real<T>* mean, const Real<T>* var, const Real<T>* weight,
                      const Real<T>* bias, Real<T> eps, Real<T> param) {
    using R = Real<T>;
    std::vector<R> centre(mean, mean + s.channels), scale(s.channels), shift(s.channels);
    for (int64_t c = 0; c < s.channels; ++c) {
      const Channel<T> channel(weight, bias, c);
      scale[c] = channel.weight / std::sqrt(var[c] + eps);
      shift[c] = channel.bias;
    }
    for_each_run<R>(s, [&](int64_t at, int64_t n, auto pick) {
      const auto m = pick(centre), k = pick(scale), b = pick(shift);
      T* run = x + at;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) store(run[i], activate<A>((R(run[i]) - m[i]) * k[i] + b[i], param));
    });
  }

  template <typename T, Activation A>
  static void sums(const Tensor&, const T* y, const T* grad, Shape s, const Real<T>* weight, const Real<T>* bias,
                   Real<T> param, Real<T>* result) {
    const auto store = [&](int64_t c, const Sums<double>& total) {
      result[c] = total.dz;
      result[s.channels + c] = total.dz_z / Channel<T>(weight, bias, c).weight;
    };
    if (s.inner > 1) {
      parallel(s.channels, s.count(), [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
          const Real<T> b = Channel<T>(weight, bias, c).bias;
          store(c, over_channel<Sums<double>>(s, c, [&](int64_t at, int64_t n) {
                  return sums_of_chunk<T, A>(y + at, grad + at, n, b, param);
                }));
        }
      });
    } else {
      const auto totals = over_rows<Sums<double>>(s, [&](int64_t row, int64_t rows, auto& totals) {
        sums_of_rows<T, A>(y + row * s.channels, grad + row * s.channels, rows, s.channels, bias, param, totals);
      });
      for (int64_t c = 0; c < s.channels; ++c) store(c, totals[c]);
    }
  }

  template <typename T, Activation A>
  static void backward(const Tensor&, const T* y, const T* grad, Shape s, const Real<T>* var, const Real<T>* weight,
                       const Real<T>* bias, const Real<T>* means, Real<T> eps, Real<T> param, T* grad_x) {
    using R = Real<T>;
    // grad_x = scale * (dz - mean_dz) - slope * (z - shift), as weight * x_hat is z - bias; without means there is no
    // second term, not even 0 * infinity.
    std::vector<R> scale(s.channels), mean_dz(s.channels, 0), slope(s.channels, 0), shift(s.channels);
    for (int64_t c = 0; c < s.channels; ++c) {
      const Channel<T> channel(weight, bias, c);
      const R inverse_std = 1 / std::sqrt(var[c] + eps);
      scale[c] = channel.weight * inverse_std;
      shift[c] = channel.bias;
      if (means) {
        mean_dz[c] = means[c];
        slope[c] = means[s.channels + c] * inverse_std;
      }
    }
    for_each_run<R>(s, [&](int64_t at, int64_t n, auto pick) {
      const auto k = pick(scale), m = pick(mean_dz), p = pick(slope), b = pick(shift);
      const T *run_y = y + at, *run_grad = grad + at;
      T* run_x = grad_x + at;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        R z = run_y[i], dz = run_grad[i];
        invert<A, T>(z, dz, param);
        store(run_x[i], k[i] * (dz - m[i]) - (means ? p[i] * (z - b[i]) : 0));
      }
    });
  }

 private:
  // About the mean of each channel: that of a few rows from all over the map.
  template <typename T>
  static std::vector<Real<T>> pivots(const T* x, Shape s) {
    const int64_t rows = std::min(s.outer, kSamples);
    std::vector<Real<T>> mean(s.channels, 0);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t c = 0; c < s.channels; ++c) mean[c] += Real<T>(x[s.outer * row / rows * s.channels + c]) / rows;
    return mean;
  }

  template <typename T>
  static void moments_of_rows(const T* x, int64_t rows, int64_t channels, const std::vector<Real<T>>& pivot,
                              std::vector<Moments<double>>& totals) {
    using R = Real<T>;
    std::vector<R> sum(channels, 0), squares(channels, 0);
    for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const R deviation = R(x[row * channels + c]) - pivot[c];
        sum[c] += deviation;
        squares[c] += deviation * deviation;
      }
    for (int64_t c = 0; c < channels; ++c) totals[c].merge(moments_about(pivot[c], sum[c], squares[c], rows));
  }

  template <typename T, Activation A>
  static void sums_of_rows(const T* y, const T* grad, int64_t rows, int64_t channels, const Real<T>* bias,
                           Real<T> param, std::vector<Sums<double>>& totals) {
    using R = Real<T>;
    std::vector<R> sum(channels, 0), sum_z(channels, 0), shift(channels, 0);
    if (bias) std::copy(bias, bias + channels, shift.begin());
    for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        R z = y[row * channels + c], dz = grad[row * channels + c];
        invert<A, T>(z, dz, param);
        sum[c] += dz;
        sum_z[c] += dz * (z - shift[c]);
      }
    for (int64_t c = 0; c < channels; ++c) totals[c].merge({sum[c], sum_z[c]});
  }
};

}  // namespace
}  // namespace abn

STABLE_TORCH_LIBRARY_IMPL(segdistill, CPU, library) { abn::Operators<abn::Cpu>::register_in(library); }
