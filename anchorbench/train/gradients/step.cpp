// The training step of one GPT, fused: forward pass, loss, gradients, clipping, decay and optimizer (see native.py).
//
// One thread works on one member at a time, so members never mix and no thread waits. A batch is processed in chunks of sequences
// whose arrays fit in the L2 cache. Every width is padded to whole tiles with zeros; padding never reaches a gradient. Savings that
// only change rounding:
//   - the last layer answers one position, so its keys and values are never formed: score_j = (W_k q) . x_j, and the mixed x goes
//     through W_v once; a key bias shifts all scores of a softmax equally and cancels;
//   - whatever the first layer computes from (token, position) alone is computed once per distinct pair of the batch;
//   - gain and bias of a pre-LN LayerNorm are folded into the next linear map;
//   - bias gradients are an extra row of the weight gradients, from a column of ones appended to the map's input.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 12
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define TILE 6
#elif defined(__aarch64__)
#define LANES 4
#define TILE 8
#else
#error "no SIMD that this step knows: AVX2 with FMA, AVX-512 or NEON"
#endif

#if defined(__aarch64__)
#define REGISTER "w"
#else
#define REGISTER "x"
#endif
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))

namespace {

constexpr int VL = LANES, MR = TILE, NR = 2 * VL;  // floats per vector; rows and columns of a matmul tile
constexpr int KB = 256;                            // inner products of a tile are split into pieces of this length, which fit in L1
constexpr float EPSILON = 1e-5f;                   // added to the variance in LayerNorm

typedef float vf __attribute__((vector_size(4 * VL)));
typedef float vu __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(4 * VL)));
typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias));

constexpr long up(long n, long m) { return (n + m - 1) / m * m; }
INLINE vf ld(const float* p) { return *(const vu*)p; }
INLINE void st(float* p, vf v) { *(vu*)p = v; }
INLINE vf all(float s) { return s - (vf){}; }
INLINE vi lanes() {
  vi v;
  for (int i = 0; i < VL; i++) v[i] = i;
  return v;
}
INLINE float sum(vf v) {
#if LANES == 4
  return (v[0] + v[2]) + (v[1] + v[3]);
#else
#if LANES == 16
  v8 h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  v8 h = v;
#endif
  v4 a = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
  a += __builtin_shufflevector(a, a, 2, 3, 0, 1);
  return a[0] + a[1];
#endif
}
// exp for x up to 88, as in Cephes; preserves NaN
INLINE vf exponential(vf x) {
  x = x < -87.f ? all(-87.f) : x;
  vf n = x * 1.44269504f + 12582912.f;
  vi bits = (vi)n;  // its low bits hold round(x / ln 2)
  n -= 12582912.f;
  x = x - n * 0.693359375f + n * 2.12194440e-4f;
  vf y = all(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.f;
  return y * (vf)((bits << 23) + 0x3f800000);
}
// GELU and its derivative; erf by Abramowitz and Stegun 7.1.26, with absolute error below 1.5e-7
INLINE void gelu(vf x, vf& value, vf& slope) {
  vf e = exponential(x * x * -0.5f);
  vf z = (x < 0.f ? -x : x) * 0.70710678f;
  vf t = 1.f / (1.f + 0.3275911f * z);
  vf p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  vf q = 0.5f * p * e;
  vf phi = x < 0.f ? q : 1.f - q;
  value = x * phi;
  slope = phi + x * e * 0.39894228f;
}
INLINE float dot(const float* a, const float* b, int n) {  // n is a multiple of NR
  vf s = {}, t = {};
  for (int c = 0; c < n; c += NR) s += ld(a + c) * ld(b + c), t += ld(a + c + VL) * ld(b + c + VL);
  return sum(s + t);
}
// out = (add ? out : 0) + sum over j < count of weight(j) row(j), all n wide, n a multiple of NR
template <int C, class W, class Row>
INLINE void combine_part(float* out, int c, int count, W weight, Row row, bool add) {
  vf a[C];
#pragma GCC unroll 8
  for (int i = 0; i < C; i++) a[i] = add ? ld(out + c + i * VL) : (vf){};
  for (int j = 0; j < count; j++) {
    const float s = weight(j);
    const float* x = row(j) + c;
#pragma GCC unroll 8
    for (int i = 0; i < C; i++) a[i] += s * ld(x + i * VL);
  }
#pragma GCC unroll 8
  for (int i = 0; i < C; i++) st(out + c + i * VL, a[i]);
}
template <class W, class Row>
INLINE void combine(float* out, int n, int count, W weight, Row row, bool add) {
  int c = 0;
  for (; c + 8 * VL <= n; c += 8 * VL) combine_part<8>(out, c, count, weight, row, add);
  for (; c < n; c += NR) combine_part<2>(out, c, count, weight, row, add);
}

// ---- matmuls ----

struct Store {
  float* c;
  long ldc;
  INLINE void put(float* p, vf x) { st(p, x); }
  void operator()(int r, int n, vf x, vf y) const { put(c + r * ldc + n, x), put(c + r * ldc + n + VL, y); }
};
struct Add {
  float* c;
  long ldc;
  INLINE void put(float* p, vf x) { st(p, ld(p) + x); }
  void operator()(int r, int n, vf x, vf y) const { put(c + r * ldc + n, x), put(c + r * ldc + n + VL, y); }
};
struct Gate {  // multiplies the stored values
  float* c;
  long ldc;
  INLINE void put(float* p, vf x) { st(p, ld(p) * x); }
  void operator()(int r, int n, vf x, vf y) const { put(c + r * ldc + n, x), put(c + r * ldc + n + VL, y); }
};
struct Residual {  // adds row at[r] of another array
  float* c;
  long ldc;
  const float* e;
  const int* at;
  void operator()(int r, int n, vf x, vf y) const {
    const float* from = e + at[r] * ldc + n;
    st(c + r * ldc + n, x + ld(from)), st(c + r * ldc + n + VL, y + ld(from + VL));
  }
};
template <bool RELU>
struct Hidden {  // stores the activation and its derivative
  float *value, *slope;
  long ld_;
  INLINE void put(float* v, float* s, vf x) {
    if (RELU) {
      st(v, x < 0.f ? (vf){} : x), st(s, x <= 0.f ? (vf){} : all(1.f));
    } else {
      vf a, b;
      gelu(x, a, b);
      st(v, a), st(s, b);
    }
  }
  void operator()(int r, int n, vf x, vf y) const {
    const long o = r * ld_ + n;
    put(value + o, slope + o, x), put(value + o + VL, slope + o + VL, y);
  }
};

template <int M, class Then>
INLINE void tile(const float* A, long lda, const float* B, int K, const float* from, long ldf, float* partial, int i, int n, const Then& then) {
  vf x[M], y[M];
#pragma GCC unroll 12
  for (int r = 0; r < M; r++) x[r] = from ? ld(from + r * ldf) : (vf){}, y[r] = from ? ld(from + r * ldf + VL) : (vf){};
#pragma GCC unroll 2
  for (int k = 0; k < K; k++) {
    const vf b0 = ld(B + k * NR), b1 = ld(B + k * NR + VL);
#pragma GCC unroll 12
    for (int r = 0; r < M; r++) {
      const vf a = all(A[r * lda + k]);
      x[r] += a * b0, y[r] += a * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < M; r++) {
    if (partial)
      st(partial + r * NR, x[r]), st(partial + r * NR + VL, y[r]);
    else
      then(i + r, n, x[r], y[r]);
  }
}
template <int M, class Then>
INLINE void tile_of(int m, const float* A, long lda, const float* B, int K, const float* from, long ldf, float* partial, int i, int n, const Then& then) {
  if constexpr (M > 0) {
    if (m == M)
      tile<M>(A, lda, B, K, from, ldf, partial, i, n, then);
    else
      tile_of<M - 1>(m, A, lda, B, K, from, ldf, partial, i, n, then);
  }
}
// Calls then(r, n, ...) with row r of A[rows, K] B + bias, NR columns from column n. B is stored in panels of NR columns, `stride` apart.
template <class Then>
APART void matmul(const float* A, long lda, int rows, const float* B, long stride, int columns, int K, const float* bias, float* partial, const Then then) {
  for (int n = 0; n < columns; n += NR, B += stride)
    for (int k = 0; k < K; k += KB) {
      const int depth = K - k < KB ? K - k : KB;
      const bool last = k + depth == K;
      for (int i = 0; i < rows; i += MR) {
        const int m = rows - i < MR ? rows - i : MR;
        const float* from = k ? partial + i * NR : bias ? bias + n : nullptr;
        tile_of<MR>(m, A + i * lda + k, lda, B + k * NR, depth, from, k ? NR : 0, last ? nullptr : partial + i * NR, i, n, then);
      }
    }
}
template <int M>
INLINE void tile_transposed(const float* A, long lda, const float* Y, long ldy, int rows, float* G, long ldg) {
  vf x[M], y[M];
#pragma GCC unroll 12
  for (int r = 0; r < M; r++) x[r] = ld(G + r * ldg), y[r] = ld(G + r * ldg + VL);
#pragma GCC unroll 2
  for (int m = 0; m < rows; m++) {
    const vf b0 = ld(Y + m * ldy), b1 = ld(Y + m * ldy + VL);
#pragma GCC unroll 12
    for (int r = 0; r < M; r++) {
      const vf a = all(A[m * lda + r]);
      x[r] += a * b0, y[r] += a * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < M; r++) st(G + r * ldg, x[r]), st(G + r * ldg + VL, y[r]);
}
template <int M>
INLINE void tile_transposed_of(int m, const float* A, long lda, const float* Y, long ldy, int rows, float* G, long ldg) {
  if constexpr (M > 0) {
    if (m == M)
      tile_transposed<M>(A, lda, Y, ldy, rows, G, ldg);
    else
      tile_transposed_of<M - 1>(m, A, lda, Y, ldy, rows, G, ldg);
  }
}
// G[K, columns] += A[rows, K]^T Y[rows, columns]
APART void matmul_transposed(const float* A, long lda, int K, const float* Y, long ldy, int columns, int rows, float* G, long ldg) {
  for (int n = 0; n < columns; n += NR)
    for (int k = 0; k < K; k += MR) tile_transposed_of<MR>(K - k < MR ? K - k : MR, A + k, lda, Y + n, ldy, rows, G + k * ldg + n, ldg);
}

// ---- shapes and buffers ----

struct Maps {  // offsets of a layer's parameters in a row; -1 if absent
  long gain_1, bias_1, query, query_bias, key, key_bias, value, value_bias, output, output_bias, gain_2, bias_2, in, in_bias, out, out_bias;
};
struct Shape {
  int32_t width, heads, head_width, hidden, vocab, seq, layers, post, relu, query_norm_only, batch;
};
struct Layer {
  Maps at;
  // weights in panels, of the map and of its transpose, and biases: refilled at each step
  float *qkv, *qkvT, *qkv_bias, *o, *oT, *o_bias, *in, *inT, *in_bias, *out, *outT, *out_bias;
  // their gradients, with a last row for the bias
  float *d_qkv, *d_o, *d_in, *d_out, *d_norms;
  // x: its input stream. n: LayerNorm before gain and bias, r: its reciprocal standard deviation. y: with gain and bias
  float *x, *n1, *r1, *y1, *n2, *r2, *projected, *pattern, *mixed, *act, *slope;
};

struct Work {
  Shape s;
  int D, H, W, F, V, T, TP, S, R, U;  // padded: width, head, all heads, hidden, vocabulary, seq; sequences and rows of a chunk; pairs
  long ldx, ldw, ldq, ldh, ldv;       // rows end with a column of ones
  long token, position, final_gain, final_bias, unembedding, unembedding_bias, size;
  std::vector<Layer> layers;
  std::vector<int> index, identity, last, pair_token, pair_position, seen;
  int pairs;
  float *un, *unT, *un_bias, *d_un, *d_final;
  float *x_out, *n_out, *r_out, *logits, *sums, *partial, *ones;
  float *d_a, *d_b, *d_n, *d_mixed, *d_projected, *pair_d_projected, *pair_d_x, *pair_d_n;
  float *ends, *q, *u, *m, *d_m, *d_u, *d_q, *d_end;
  char* arena = nullptr;

  bool pre() const { return !s.post; }
  bool folded_keys() const { return pre() && !s.query_norm_only; }
  ~Work() { free(arena); }
};

// Sets every pointer, if `base` is not null; returns the total size in bytes.
long lay_out(Work& w, char* base) {
  long used = 0;
  auto take = [&](float*& p, long n) {
    p = (float*)(base + used);
    used += up(4 * n, 64) + 64;  // never a multiple of 4096 apart
  };
  const long D = w.D, W = w.W, F = w.F, V = w.V, R = w.R, S = w.S, U = w.U, T = w.T, heads = w.s.heads;
  for (size_t number = 0; number < w.layers.size(); number++) {
    Layer& l = w.layers[number];
    const bool first = number == 0, last = number + 1 == w.layers.size();
    const long in_rows = first ? U : R, rows = last ? S : R;
    take(l.qkv, D * 3 * W), take(l.qkvT, D * 3 * W), take(l.qkv_bias, 3 * W);
    take(l.o, D * W), take(l.oT, D * W), take(l.o_bias, D);
    take(l.in, D * F), take(l.inT, D * F), take(l.in_bias, F);
    take(l.out, D * F), take(l.outT, D * F), take(l.out_bias, D);
    take(l.d_qkv, (D + 1) * 3 * W), take(l.d_o, (W + 1) * D), take(l.d_in, (D + 1) * F), take(l.d_out, (F + 1) * D), take(l.d_norms, 4 * D);
    take(l.x, in_rows * w.ldx), take(l.n1, (w.pre() ? in_rows : rows) * w.ldx), take(l.r1, w.pre() ? in_rows : rows);
    take(l.y1, w.pre() ? 0 : rows * w.ldx), take(l.n2, rows * w.ldx), take(l.r2, rows);
    take(l.projected, last ? 0 : in_rows * w.ldq), take(l.pattern, (last ? S : S * T) * heads * w.TP), take(l.mixed, rows * w.ldw);
    take(l.act, rows * w.ldh), take(l.slope, rows * w.ldh);
  }
  take(w.un, D * V), take(w.unT, D * V), take(w.un_bias, V), take(w.d_un, (D + 1) * V), take(w.d_final, 2 * D);
  take(w.x_out, S * w.ldx), take(w.n_out, S * w.ldx), take(w.r_out, S), take(w.logits, S * w.ldv);
  take(w.sums, R * w.ldx), take(w.partial, R * NR), take(w.ones, D);
  take(w.d_a, R * w.ldx), take(w.d_b, R * w.ldx), take(w.d_n, R * w.ldx), take(w.d_mixed, R * w.ldw);
  take(w.d_projected, R * w.ldq), take(w.pair_d_projected, U * w.ldq), take(w.pair_d_x, U * w.ldx), take(w.pair_d_n, U * w.ldx);
  take(w.ends, S * w.ldx), take(w.q, S * w.ldw), take(w.d_q, S * w.ldw), take(w.d_end, S * w.ldx);
  take(w.u, S * heads * w.ldx), take(w.d_u, S * heads * w.ldx), take(w.m, S * heads * w.ldx), take(w.d_m, S * heads * w.ldx);
  return used;
}

// ---- LayerNorm ----

// n = (x - mean) / std, without gain and bias; returns 1 / std. Columns beyond `width` are zero and stay it.
INLINE float normalize(const Work& w, const float* x, float* n) {
  const int D = w.D;
  const float share = 1.f / w.s.width;
  vf s = {}, q = {};
  for (int c = 0; c < D; c += VL) s += ld(x + c);
  const float mean = sum(s) * share;
  if (D == w.s.width) {
    for (int c = 0; c < D; c += VL) {
      const vf d = ld(x + c) - mean;
      q += d * d;
    }
    const float r = 1.f / sqrtf(sum(q) * share + EPSILON);
    for (int c = 0; c < D; c += VL) st(n + c, (ld(x + c) - mean) * r);
    return r;
  }
  for (int c = 0; c < D; c += VL) {
    const vf d = (ld(x + c) - mean) * ld(w.ones + c);
    q += d * d;
  }
  const float r = 1.f / sqrtf(sum(q) * share + EPSILON);
  for (int c = 0; c < D; c += VL) st(n + c, (ld(x + c) - mean) * r * ld(w.ones + c));
  return r;
}
// out = add + gradient of x, given that of n
INLINE void normalize_back(const Work& w, const float* n, float r, const float* dn, const float* add, float* out) {
  const int D = w.D;
  vf s = {}, q = {};
  for (int c = 0; c < D; c += VL) {
    const vf d = ld(dn + c);
    s += d, q += d * ld(n + c);
  }
  const float share = 1.f / w.s.width, mean = sum(s) * share, along = sum(q) * share;
  const bool padded = D != w.s.width;
  for (int c = 0; c < D; c += VL) {
    vf v = (ld(dn + c) - mean - ld(n + c) * along) * r;
    if (padded) v *= ld(w.ones + c);
    st(out + c, add ? v + ld(add + c) : v);
  }
}
// y = n * gain + bias, for `rows` normalized rows of x
APART void norm(const Work& w, const float* x, int rows, const float* gain, const float* bias, float* n, float* r, float* y) {
  const int d = w.s.width;
  for (int i = 0; i < rows; i++, x += w.ldx, n += w.ldx, y += w.ldx) {
    r[i] = normalize(w, x, n);
    for (int c = 0; c < d; c++) y[c] = n[c] * gain[c] + bias[c];
  }
}
// dx from dy, in place; adds the gradients of gain and bias to sums[2, D]
APART void norm_back(const Work& w, const float* n, const float* r, int rows, const float* gain, float* d, float* sums) {
  for (int i = 0; i < rows; i++, n += w.ldx, d += w.ldx) {
    for (int c = 0; c < w.s.width; c++) {
      sums[c] += d[c] * n[c], sums[w.D + c] += d[c];
      d[c] *= gain[c];
    }
    normalize_back(w, n, r[i], d, nullptr, d);
  }
}

// ---- weights into panels, gradients out of them ----

INLINE void transpose8(const float* from, long ld_, const float* gain, float* to, long ldt) {
  v8 r[8], t[8];
#pragma GCC unroll 8
  for (int c = 0; c < 8; c++) {
    r[c] = *(const v8u*)(from + c * ld_);
    if (gain) r[c] *= gain[c];
  }
#pragma GCC unroll 4
  for (int c = 0; c < 8; c += 2) {
    t[c] = __builtin_shufflevector(r[c], r[c + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[c + 1] = __builtin_shufflevector(r[c], r[c + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int c = 0; c < 8; c += 4) {
    r[c] = __builtin_shufflevector(t[c], t[c + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[c + 1] = __builtin_shufflevector(t[c], t[c + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[c + 2] = __builtin_shufflevector(t[c + 1], t[c + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[c + 3] = __builtin_shufflevector(t[c + 1], t[c + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    *(v8u*)(to + c * ldt) = __builtin_shufflevector(r[c], r[c + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    *(v8u*)(to + (c + 4) * ldt) = __builtin_shufflevector(r[c], r[c + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
// Writes the block M[K, N] (rows `ldm` apart), times the gain of its rows, to (k0, n0) of the panels of a map [total_k, total_n] and
// of its transpose. k0 and n0 are multiples of NR.
APART void pack(const float* M, long ldm, int K, int N, const float* gain, int k0, int n0, int total_k, int total_n, float* map, float* transposed) {
  int n = 0;
  for (; n + NR <= N; n += NR)
    for (int k = 0; k < K; k++) {
      float* to = map + (long)(n0 + n) * total_k + (k0 + k) * NR;
      const float* from = M + k * ldm + n;
      const float g = gain ? gain[k] : 1.f;
      st(to, ld(from) * g), st(to + VL, ld(from + VL) * g);
    }
  for (; n < N; n++)
    for (int k = 0; k < K; k++) map[(long)(n0 + n / NR * NR) * total_k + (k0 + k) * NR + n % NR] = M[k * ldm + n] * (gain ? gain[k] : 1.f);
  int k = 0;
  for (; k + 8 <= K; k += 8) {
    float* to = transposed + (long)((k0 + k) / NR) * NR * total_n + (long)n0 * NR + k % NR;
    int c = 0;
    for (; c + 8 <= N; c += 8) transpose8(M + k * ldm + c, ldm, gain ? gain + k : nullptr, to + c * NR, NR);
    for (; c < N; c++)
      for (int i = 0; i < 8; i++) to[c * NR + i] = M[(k + i) * ldm + c] * (gain ? gain[k + i] : 1.f);
  }
  for (; k < K; k++) {
    float* to = transposed + (long)((k0 + k) / NR) * NR * total_n + (long)n0 * NR + k % NR;
    for (int c = 0; c < N; c++) to[c * NR] = M[k * ldm + c] * (gain ? gain[k] : 1.f);
  }
}
// Bias of a map that the bias of the preceding LayerNorm is folded into (`norm_bias` is null if there is none)
APART void pack_bias(const float* M, long ldm, int K, int N, const float* norm_bias, const float* bias, float* to) {
  for (int n = 0; n < N; n++) to[n] = bias ? bias[n] : 0.f;
  if (norm_bias)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < N; n++) to[n] += norm_bias[k] * M[k * ldm + n];
}
// Gradients of a block's weights, bias, gain and norm bias, from those of the folded map G (whose bias is row `bias_row`)
APART void unpack(const float* G, long ldg, int bias_row, int k0, int n0, const float* M, long ldm, int K, int N, const float* gain, const float* norm_bias,
                  float* dM, float* d_bias, float* d_gain, float* d_norm_bias) {
  const float* gb = G + bias_row * ldg + n0;
  for (int k = 0; k < K; k++) {
    const float* g = G + (k0 + k) * ldg + n0;
    const float* m = M + k * ldm;
    float* to = dM + k * ldm;
    if (!gain) {
      memcpy(to, g, 4 * N);
      continue;
    }
    vf s = {}, t = {};
    int n = 0;
    for (; n + VL <= N; n += VL) {
      s += ld(g + n) * ld(m + n), t += ld(gb + n) * ld(m + n);
      st(to + n, gain[k] * ld(g + n) + norm_bias[k] * ld(gb + n));
    }
    float a = sum(s), b = sum(t);
    for (; n < N; n++) {
      a += g[n] * m[n], b += gb[n] * m[n];
      to[n] = gain[k] * g[n] + norm_bias[k] * gb[n];
    }
    d_gain[k] += a, d_norm_bias[k] += b;
  }
  if (d_bias) memcpy(d_bias, gb, 4 * N);
}
INLINE const float* at(const float* row, long offset) { return offset < 0 ? nullptr : row + offset; }
INLINE float* at(float* row, long offset) { return offset < 0 ? nullptr : row + offset; }

struct Projection {  // one of query, key and value
  long weight, bias;
  bool folded;
};
INLINE Projection projection(const Work& w, const Layer& l, int which) {
  if (which == 0) return {l.at.query, l.at.query_bias, w.pre()};
  return which == 1 ? Projection{l.at.key, l.at.key_bias, w.folded_keys()} : Projection{l.at.value, l.at.value_bias, w.folded_keys()};
}

APART void prepare(Work& w, const float* P) {
  const int d = w.s.width, h = w.s.head_width, heads = w.s.heads, f = w.s.hidden, D = w.D, H = w.H, W = w.W, F = w.F, V = w.V;
  const bool pre = w.pre();
  for (Layer& l : w.layers) {
    const Maps& a = l.at;
    for (int which = 0; which < 3; which++) {
      const Projection p = projection(w, l, which);
      const float *gain = p.folded ? P + a.gain_1 : nullptr, *shift = p.folded ? P + a.bias_1 : nullptr, *bias = at(P, p.bias);
      for (int head = 0; head < heads; head++) {
        const float* M = P + p.weight + head * h;
        const int n0 = which * W + head * H;
        pack(M, (long)heads * h, d, h, gain, 0, n0, D, 3 * W, l.qkv, l.qkvT);
        pack_bias(M, (long)heads * h, d, h, shift, bias ? bias + head * h : nullptr, l.qkv_bias + n0);
      }
    }
    for (int head = 0; head < heads; head++) pack(P + a.output + (long)head * h * d, d, h, d, nullptr, head * H, 0, W, D, l.o, l.oT);
    pack_bias(nullptr, 0, 0, d, nullptr, at(P, a.output_bias), l.o_bias);
    pack(P + a.in, f, d, f, pre ? P + a.gain_2 : nullptr, 0, 0, D, F, l.in, l.inT);
    pack_bias(P + a.in, f, d, f, pre ? P + a.bias_2 : nullptr, at(P, a.in_bias), l.in_bias);
    pack(P + a.out, d, f, d, nullptr, 0, 0, F, D, l.out, l.outT);
    pack_bias(nullptr, 0, 0, d, nullptr, at(P, a.out_bias), l.out_bias);
  }
  pack(P + w.unembedding, w.s.vocab, d, w.s.vocab, pre ? P + w.final_gain : nullptr, 0, 0, D, V, w.un, w.unT);
  pack_bias(P + w.unembedding, w.s.vocab, d, w.s.vocab, pre ? P + w.final_bias : nullptr, at(P, w.unembedding_bias), w.un_bias);
}
APART void clear_gradients(Work& w) {
  const long D = w.D, W = w.W, F = w.F;
  for (Layer& l : w.layers) {
    memset(l.d_qkv, 0, 4 * (D + 1) * 3 * W), memset(l.d_o, 0, 4 * (W + 1) * D);
    memset(l.d_in, 0, 4 * (D + 1) * F), memset(l.d_out, 0, 4 * (F + 1) * D), memset(l.d_norms, 0, 4 * 4 * D);
  }
  memset(w.d_un, 0, 4 * (D + 1) * w.V), memset(w.d_final, 0, 4 * 2 * D);
}
// Writes the gradients of all maps and norms to G; those of the embeddings are already there.
APART void collect(const Work& w, const float* P, float* G) {
  const int d = w.s.width, h = w.s.head_width, heads = w.s.heads, f = w.s.hidden, D = w.D, H = w.H, W = w.W, F = w.F;
  const bool pre = w.pre();
  for (const Layer& l : w.layers) {
    const Maps& a = l.at;
    for (int which = 0; which < 3; which++) {
      const Projection p = projection(w, l, which);
      float* bias = at(G, p.bias);
      for (int head = 0; head < heads; head++)
        unpack(l.d_qkv, 3 * W, D, 0, which * W + head * H, P + p.weight + head * h, (long)heads * h, d, h, p.folded ? P + a.gain_1 : nullptr,
               P + a.bias_1, G + p.weight + head * h, bias ? bias + head * h : nullptr, G + a.gain_1, G + a.bias_1);
    }
    for (int head = 0; head < heads; head++)
      unpack(l.d_o, D, W, head * H, 0, nullptr, d, h, d, nullptr, nullptr, G + a.output + (long)head * h * d, at(G, a.output_bias), nullptr, nullptr);
    unpack(l.d_in, F, D, 0, 0, P + a.in, f, d, f, pre ? P + a.gain_2 : nullptr, P + a.bias_2, G + a.in, at(G, a.in_bias), G + a.gain_2, G + a.bias_2);
    unpack(l.d_out, D, F, 0, 0, nullptr, d, f, d, nullptr, nullptr, G + a.out, at(G, a.out_bias), nullptr, nullptr);
    if (!pre) {
      memcpy(G + a.gain_1, l.d_norms, 4 * d), memcpy(G + a.bias_1, l.d_norms + D, 4 * d);
      memcpy(G + a.gain_2, l.d_norms + 2 * D, 4 * d), memcpy(G + a.bias_2, l.d_norms + 3 * D, 4 * d);
    }
  }
  unpack(w.d_un, w.V, D, 0, 0, P + w.unembedding, w.s.vocab, d, w.s.vocab, pre ? P + w.final_gain : nullptr, pre ? P + w.final_bias : nullptr,
         G + w.unembedding, at(G, w.unembedding_bias), at(G, w.final_gain), at(G, w.final_bias));
}

// ---- softmax ----

// x[n] -> exp(x - max), zero up to `padded`; returns their sum
INLINE float exponentials(float* x, int n, int padded, float& largest) {
  float m = -INFINITY;
  int c = 0;
  if (n >= VL) {
    vf v = ld(x);
    for (c = VL; c + VL <= n; c += VL) {
      const vf y = ld(x + c);
      v = y > v ? y : v;
    }
    for (int i = 0; i < VL; i++) m = v[i] > m ? v[i] : m;
  }
  for (; c < n; c++) m = x[c] > m ? x[c] : m;
  largest = m;
  vf total = {};
  for (c = 0; c < padded; c += VL) {
    vf e = exponential(ld(x + c) - m);
    if (c + VL > n) e = lanes() + c < n ? e : (vf){};
    total += e;
    st(x + c, e);
  }
  return sum(total);
}
INLINE void softmax(float* x, int n, int padded) {
  float largest;
  const float inverse = 1.f / exponentials(x, n, padded, largest);
  for (int c = 0; c < padded; c += VL) st(x + c, ld(x + c) * inverse);
}

// ---- attention ----

// Attention at all positions of n sequences, from rows at[...] of l.projected
APART void attend(const Work& w, Layer& l, int n, const int* rows) {
  const int T = w.T, H = w.H, W = w.W, TP = w.TP, heads = w.s.heads;
  const float scale = 1.f / sqrtf((float)w.s.head_width);
  for (int s = 0; s < n; s++)
    for (int head = 0; head < heads; head++) {
      const float* base = l.projected + head * H;
      auto row = [&](int j) { return base + rows[s * T + j] * w.ldq; };
      for (int i = 0; i < T; i++) {
        float* p = l.pattern + (long)((s * heads + head) * T + i) * TP;
        const float* q = row(i);
        for (int j = 0; j <= i; j++) p[j] = scale * dot(q, row(j) + W, H);
        softmax(p, i + 1, TP);
        combine(l.mixed + (s * T + i) * w.ldw + head * H, H, i + 1, [&](int j) { return p[j]; }, [&](int j) { return row(j) + 2 * W; }, false);
      }
    }
}
// Adds the gradients of queries, keys and values to rows of d, given that of the mixed values
APART void attend_back(const Work& w, const Layer& l, int n, const int* rows, float* d) {
  const int T = w.T, H = w.H, W = w.W, TP = w.TP, heads = w.s.heads;
  const float scale = 1.f / sqrtf((float)w.s.head_width);
  thread_local std::vector<float> scores;
  scores.resize((size_t)T * T + T);
  float *ds = scores.data(), *dp = ds + T * T;
  for (int s = 0; s < n; s++)
    for (int head = 0; head < heads; head++) {
      auto row = [&](int j) { return l.projected + head * H + rows[s * T + j] * w.ldq; };
      auto into = [&](int j) { return d + head * H + rows[s * T + j] * w.ldq; };
      auto mixed = [&](int i) { return w.d_mixed + (s * T + i) * w.ldw + head * H; };
      const float* p = l.pattern + (long)(s * heads + head) * T * TP;
      for (int i = 0; i < T; i++) {
        float mean = 0;
        for (int j = 0; j <= i; j++) {
          dp[j] = dot(mixed(i), row(j) + 2 * W, H);
          mean += p[i * TP + j] * dp[j];
        }
        for (int j = 0; j <= i; j++) ds[i * T + j] = p[i * TP + j] * (dp[j] - mean) * scale;
        combine(into(i), H, i + 1, [&](int j) { return ds[i * T + j]; }, [&](int j) { return row(j) + W; }, true);
      }
      for (int j = 0; j < T; j++) {
        combine(into(j) + W, H, T - j, [&](int i) { return ds[(i + j) * T + j]; }, [&](int i) { return row(i + j); }, true);
        combine(into(j) + 2 * W, H, T - j, [&](int i) { return p[(i + j) * TP + j]; }, [&](int i) { return mixed(i + j); }, true);
      }
    }
}
// Attention at the last position only; keys and values are never formed
APART void attend_last(const Work& w, Layer& l, int n, const int* rows) {
  const int T = w.T, D = w.D, H = w.H, W = w.W, TP = w.TP, heads = w.s.heads;
  const float scale = 1.f / sqrtf((float)w.s.head_width);
  const float *asked = w.pre() ? l.n1 : l.x, *source = w.folded_keys() ? l.n1 : l.x;
  for (int s = 0; s < n; s++) memcpy(w.ends + s * w.ldx, asked + rows[s * T + T - 1] * w.ldx, 4 * D);
  matmul(w.ends, w.ldx, n, l.qkv, (long)D * NR, W, D, l.qkv_bias, w.partial, Store{w.q, w.ldw});
  for (int head = 0; head < heads; head++)
    matmul(w.q + head * H, w.ldw, n, l.qkvT + (long)(W + head * H) * NR, 3L * W * NR, D, H, nullptr, w.partial, Store{w.u + head * w.ldx, heads * w.ldx});
  for (int s = 0; s < n; s++)
    for (int head = 0; head < heads; head++) {
      float* p = l.pattern + (s * heads + head) * TP;
      auto row = [&](int j) { return source + rows[s * T + j] * w.ldx; };
      for (int j = 0; j < T; j++) p[j] = scale * dot(w.u + (s * heads + head) * w.ldx, row(j), D);
      softmax(p, T, TP);
      combine(w.m + (s * heads + head) * w.ldx, D, T, [&](int j) { return p[j]; }, row, false);
    }
  for (int head = 0; head < heads; head++)
    matmul(w.m + head * w.ldx, heads * w.ldx, n, l.qkv + (long)(2 * W + head * H) * D, (long)D * NR, H, D, l.qkv_bias + 2 * W + head * H, w.partial,
           Store{l.mixed + head * H, w.ldw});
}
// Adds to rows of d_asked (input of queries) and d_source (input of keys and values), given the gradient of the mixed values
APART void attend_last_back(const Work& w, const Layer& l, int n, const int* rows, float* d_asked, float* d_source) {
  const int T = w.T, D = w.D, H = w.H, W = w.W, TP = w.TP, heads = w.s.heads;
  const float scale = 1.f / sqrtf((float)w.s.head_width);
  const float* source = w.folded_keys() ? l.n1 : l.x;
  thread_local std::vector<float> scores;
  scores.resize(T);
  float* ds = scores.data();
  for (int head = 0; head < heads; head++) {
    const int v = 2 * W + head * H;
    matmul_transposed(w.m + head * w.ldx, heads * w.ldx, D + 1, w.d_mixed + head * H, w.ldw, H, n, l.d_qkv + v, 3 * W);
    matmul(w.d_mixed + head * H, w.ldw, n, l.qkvT + (long)v * NR, 3L * W * NR, D, H, nullptr, w.partial, Store{w.d_m + head * w.ldx, heads * w.ldx});
  }
  for (int s = 0; s < n; s++)
    for (int head = 0; head < heads; head++) {
      const float* p = l.pattern + (s * heads + head) * TP;
      const long o = (s * heads + head) * w.ldx;
      auto row = [&](int j) { return source + rows[s * T + j] * w.ldx; };
      float mean = 0;
      for (int j = 0; j < T; j++) {
        ds[j] = dot(w.d_m + o, row(j), D);
        mean += p[j] * ds[j];
      }
      for (int j = 0; j < T; j++) {
        ds[j] = p[j] * (ds[j] - mean) * scale;
        float* to = d_source + rows[s * T + j] * w.ldx;
        const float a = p[j], b = ds[j];
        for (int c = 0; c < D; c += VL) st(to + c, ld(to + c) + a * ld(w.d_m + o + c) + b * ld(w.u + o + c));
      }
      combine(w.d_u + o, D, T, [&](int j) { return ds[j]; }, row, false);
    }
  for (int head = 0; head < heads; head++) {
    const int k = W + head * H;
    matmul(w.d_u + head * w.ldx, heads * w.ldx, n, l.qkv + (long)k * D, (long)D * NR, H, D, nullptr, w.partial, Store{w.d_q + head * H, w.ldw});
    matmul_transposed(w.d_u + head * w.ldx, heads * w.ldx, D, w.q + head * H, w.ldw, H, n, l.d_qkv + k, 3 * W);
  }
  matmul_transposed(w.ends, w.ldx, D + 1, w.d_q, w.ldw, W, n, l.d_qkv, 3 * W);
  matmul(w.d_q, w.ldw, n, l.qkvT, 3L * W * NR, D, W, nullptr, w.partial, Store{w.d_end, w.ldx});
  for (int s = 0; s < n; s++) {
    float *to = d_asked + rows[s * T + T - 1] * w.ldx, *from = w.d_end + s * w.ldx;
    for (int c = 0; c < D; c += VL) st(to + c, ld(to + c) + ld(from + c));
  }
}

// ---- the rest of a layer ----

// Queries, keys and values of `rows` rows of the stream, starting at row `from`
APART void project(const Work& w, Layer& l, int from, int rows) {
  const int D = w.D, W = w.W;
  const long x = from * w.ldx;
  float* to = l.projected + from * w.ldq;
  if (w.folded_keys() || !w.pre()) {
    matmul((w.pre() ? l.n1 : l.x) + x, w.ldx, rows, l.qkv, (long)D * NR, 3 * W, D, l.qkv_bias, w.partial, Store{to, w.ldq});
  } else {
    matmul(l.n1 + x, w.ldx, rows, l.qkv, (long)D * NR, W, D, l.qkv_bias, w.partial, Store{to, w.ldq});
    matmul(l.x + x, w.ldx, rows, l.qkv + (long)W * D, (long)D * NR, 2 * W, D, l.qkv_bias + W, w.partial, Store{to + W, w.ldq});
  }
}
// Adds to d_x (gradient of those rows of the stream) the contributions of queries, keys and values, whose gradients are d
APART void project_back(const Work& w, const Layer& l, int from, int rows, const float* d, float* d_x) {
  const int D = w.D, W = w.W;
  const float *n1 = l.n1 + from * w.ldx, *x = l.x + from * w.ldx;
  if (!w.pre()) {
    matmul_transposed(x, w.ldx, D + 1, d, w.ldq, 3 * W, rows, l.d_qkv, 3 * W);
    matmul(d, w.ldq, rows, l.qkvT, 3L * W * NR, D, 3 * W, nullptr, w.partial, Add{d_x, w.ldx});
    return;
  }
  if (w.folded_keys()) {
    matmul_transposed(n1, w.ldx, D + 1, d, w.ldq, 3 * W, rows, l.d_qkv, 3 * W);
    matmul(d, w.ldq, rows, l.qkvT, 3L * W * NR, D, 3 * W, nullptr, w.partial, Store{w.d_n, w.ldx});
  } else {
    matmul_transposed(n1, w.ldx, D + 1, d, w.ldq, W, rows, l.d_qkv, 3 * W);
    matmul(d, w.ldq, rows, l.qkvT, 3L * W * NR, D, W, nullptr, w.partial, Store{w.d_n, w.ldx});
    matmul_transposed(x, w.ldx, D + 1, d + W, w.ldq, 2 * W, rows, l.d_qkv + W, 3 * W);
    matmul(d + W, w.ldq, rows, l.qkvT + (long)W * NR, 3L * W * NR, D, 2 * W, nullptr, w.partial, Add{d_x, w.ldx});
  }
  for (int r = 0; r < rows; r++) normalize_back(w, n1 + r * w.ldx, l.r1[from + r], w.d_n + r * w.ldx, d_x + r * w.ldx, d_x + r * w.ldx);
}
// The stream after the layer, from the mixed values and the stream before it (its row at[r])
APART void feed(const Work& w, Layer& l, const float* P, int rows, const int* at, float* out) {
  const int D = w.D, W = w.W, F = w.F;
  const float *stream = w.sums, *fed = l.n2;
  matmul(l.mixed, w.ldw, rows, l.o, (long)W * NR, D, W, l.o_bias, w.partial, Residual{w.sums, w.ldx, l.x, at});
  if (w.pre())
    for (int r = 0; r < rows; r++) l.r2[r] = normalize(w, w.sums + r * w.ldx, l.n2 + r * w.ldx);
  else {
    norm(w, w.sums, rows, P + l.at.gain_1, P + l.at.bias_1, l.n1, l.r1, l.y1);
    stream = fed = l.y1;
  }
  if (w.s.relu)
    matmul(fed, w.ldx, rows, l.in, (long)D * NR, F, D, l.in_bias, w.partial, Hidden<true>{l.act, l.slope, w.ldh});
  else
    matmul(fed, w.ldx, rows, l.in, (long)D * NR, F, D, l.in_bias, w.partial, Hidden<false>{l.act, l.slope, w.ldh});
  float* sums = w.pre() ? out : w.d_a;  // d_a is free in the forward pass
  matmul(l.act, w.ldh, rows, l.out, (long)F * NR, D, F, l.out_bias, w.partial, Residual{sums, w.ldx, stream, w.identity.data()});
  if (!w.pre()) norm(w, sums, rows, P + l.at.gain_2, P + l.at.bias_2, l.n2, l.r2, out);
}
// Given d, the gradient of the stream after the layer, computes d_x, that after attention, and w.d_mixed; overwrites d
APART void feed_back(const Work& w, const Layer& l, const float* P, int rows, float* d, float* d_x) {
  const int D = w.D, W = w.W, F = w.F;
  const bool pre = w.pre();
  if (!pre) norm_back(w, l.n2, l.r2, rows, P + l.at.gain_2, d, l.d_norms + 2 * D);
  matmul_transposed(l.act, w.ldh, F + 1, d, w.ldx, D, rows, l.d_out, D);
  matmul(d, w.ldx, rows, l.outT, (long)D * NR, F, D, nullptr, w.partial, Gate{l.slope, w.ldh});
  matmul_transposed(pre ? l.n2 : l.y1, w.ldx, D + 1, l.slope, w.ldh, F, rows, l.d_in, F);
  if (pre) {
    matmul(l.slope, w.ldh, rows, l.inT, (long)F * NR, D, F, nullptr, w.partial, Store{w.d_n, w.ldx});
    for (int r = 0; r < rows; r++) normalize_back(w, l.n2 + r * w.ldx, l.r2[r], w.d_n + r * w.ldx, d + r * w.ldx, d_x + r * w.ldx);
  } else {
    matmul(l.slope, w.ldh, rows, l.inT, (long)F * NR, D, F, nullptr, w.partial, Residual{d_x, w.ldx, d, w.identity.data()});
    norm_back(w, l.n1, l.r1, rows, P + l.at.gain_1, d_x, l.d_norms);
  }
  matmul_transposed(l.mixed, w.ldw, W + 1, d_x, w.ldx, D, rows, l.d_o, D);
  matmul(d_x, w.ldx, rows, l.oT, (long)D * NR, W, D, nullptr, w.partial, Store{w.d_mixed, w.ldw});
}

// ---- the step ----

struct Batch {
  const int16_t *tokens, *labels;  // [size, seq], [size]
  const int64_t* order;            // indices of the examples; null: the first ones
  int count;
  long example(int i) const { return order ? order[i] : i; }
};

// The distinct (token, position) pairs of the batch: their rows of the stream, and what the first layer computes from them alone
APART void embed(Work& w, const float* P, const Batch& batch, bool train) {
  const int T = w.T, d = w.s.width;
  Layer& l = w.layers[0];
  std::fill(w.seen.begin(), w.seen.end(), -1);
  w.pairs = 0;
  for (int i = 0; i < batch.count; i++) {
    const int16_t* tokens = batch.tokens + batch.example(i) * T;
    for (int p = 0; p < T; p++) {
      int& pair = w.seen[tokens[p] * T + p];
      if (pair < 0) w.pair_token[w.pairs] = tokens[p], w.pair_position[w.pairs] = p, pair = w.pairs++;
      w.index[i * T + p] = pair;
    }
  }
  for (int u = 0; u < w.pairs; u++) {
    const float *a = P + w.token + (long)w.pair_token[u] * d, *b = P + w.position + (long)w.pair_position[u] * d;
    float* x = l.x + u * w.ldx;
    for (int c = 0; c < d; c++) x[c] = a[c] + b[c];
    if (w.pre()) l.r1[u] = normalize(w, x, l.n1 + u * w.ldx);
  }
  if (w.s.layers > 1)
    for (int u = 0; u < w.pairs; u += w.R) project(w, l, u, w.pairs - u < w.R ? w.pairs - u : w.R);
  if (!train) return;
  memset(w.pair_d_x, 0, 4 * w.pairs * w.ldx);
  if (w.s.layers > 1)
    memset(w.pair_d_projected, 0, 4 * w.pairs * w.ldq);
  else
    memset(w.pair_d_n, 0, 4 * w.pairs * w.ldx);
}
APART void forward(Work& w, const float* P, int n, const int* index) {
  const int T = w.T, D = w.D, rows = n * T;
  for (int number = 0; number + 1 < w.s.layers; number++) {
    Layer& l = w.layers[number];
    const int* at = number ? w.identity.data() : index;
    if (number) {
      if (w.pre())
        for (int r = 0; r < rows; r++) l.r1[r] = normalize(w, l.x + r * w.ldx, l.n1 + r * w.ldx);
      project(w, l, 0, rows);
    }
    attend(w, l, n, at);
    feed(w, l, P, rows, at, w.layers[number + 1].x);
  }
  Layer& l = w.layers.back();
  const int* at = w.s.layers > 1 ? w.identity.data() : index;
  if (w.s.layers > 1 && w.pre())
    for (int r = 0; r < rows; r++) l.r1[r] = normalize(w, l.x + r * w.ldx, l.n1 + r * w.ldx);
  for (int s = 0; s < n; s++) w.last[s] = at[s * T + T - 1];
  attend_last(w, l, n, at);
  feed(w, l, P, n, w.last.data(), w.x_out);
  if (w.pre())
    for (int r = 0; r < n; r++) w.r_out[r] = normalize(w, w.x_out + r * w.ldx, w.n_out + r * w.ldx);
  matmul(w.pre() ? w.n_out : w.x_out, w.ldx, n, w.un, (long)D * NR, w.V, D, w.un_bias, w.partial, Store{w.logits, w.ldv});
}
// Replaces logits by their gradient; returns the sum of the losses
APART double cross_entropy(Work& w, const Batch& batch, int from, int n) {
  double loss = 0;
  for (int r = 0; r < n; r++) {
    float* x = w.logits + r * w.ldv;
    const int label = batch.labels[batch.example(from + r)];
    const float right = x[label];
    float largest;
    const float total = exponentials(x, w.s.vocab, w.V, largest);
    loss += (double)logf(total) + largest - right;
    const float inverse = 1.f / (total * batch.count);
    for (int c = 0; c < w.V; c += VL) st(x + c, ld(x + c) * inverse);
    x[label] -= 1.f / batch.count;
  }
  return loss;
}
APART void backward(Work& w, const float* P, int n, const int* index) {
  const int T = w.T, D = w.D, rows = n * T;
  matmul_transposed(w.pre() ? w.n_out : w.x_out, w.ldx, D + 1, w.logits, w.ldv, w.V, n, w.d_un, w.V);
  matmul(w.logits, w.ldv, n, w.unT, (long)w.V * NR, D, w.V, nullptr, w.partial, Store{w.d_a, w.ldx});
  if (w.pre())
    for (int r = 0; r < n; r++) normalize_back(w, w.n_out + r * w.ldx, w.r_out[r], w.d_a + r * w.ldx, nullptr, w.d_a + r * w.ldx);

  const Layer& top = w.layers.back();
  feed_back(w, top, P, n, w.d_a, w.d_b);
  const bool deep = w.s.layers > 1;
  const int* at = deep ? w.identity.data() : index;
  float *d_x = deep ? w.d_a : w.pair_d_x, *d_n = deep ? w.d_n : w.pair_d_n;
  if (deep) {
    memset(d_x, 0, 4 * rows * w.ldx);
    if (w.pre()) memset(d_n, 0, 4 * rows * w.ldx);
  }
  for (int s = 0; s < n; s++) {
    float *to = d_x + at[s * T + T - 1] * w.ldx, *from = w.d_b + s * w.ldx;
    for (int c = 0; c < D; c += VL) st(to + c, ld(to + c) + ld(from + c));
  }
  attend_last_back(w, top, n, at, w.pre() ? d_n : d_x, w.folded_keys() ? d_n : d_x);
  if (!deep) return;
  if (w.pre())
    for (int r = 0; r < rows; r++) normalize_back(w, top.n1 + r * w.ldx, top.r1[r], d_n + r * w.ldx, d_x + r * w.ldx, d_x + r * w.ldx);

  for (int number = w.s.layers - 2; number > 0; number--) {
    const Layer& l = w.layers[number];
    feed_back(w, l, P, rows, w.d_a, w.d_b);
    memset(w.d_projected, 0, 4 * rows * w.ldq);
    attend_back(w, l, n, w.identity.data(), w.d_projected);
    project_back(w, l, 0, rows, w.d_projected, w.d_b);
    std::swap(w.d_a, w.d_b);
  }
  feed_back(w, w.layers[0], P, rows, w.d_a, w.d_b);
  for (int r = 0; r < rows; r++) {
    float *to = w.pair_d_x + index[r] * w.ldx, *from = w.d_b + r * w.ldx;
    for (int c = 0; c < D; c += VL) st(to + c, ld(to + c) + ld(from + c));
  }
  attend_back(w, w.layers[0], n, index, w.pair_d_projected);
}
// Gradients of the embeddings, through the first layer's rows of distinct pairs
APART void embed_back(Work& w, float* G) {
  const int d = w.s.width;
  const Layer& l = w.layers[0];
  for (int u = 0; u < w.pairs && w.s.layers > 1; u += w.R)
    project_back(w, l, u, w.pairs - u < w.R ? w.pairs - u : w.R, w.pair_d_projected + u * w.ldq, w.pair_d_x + u * w.ldx);
  for (int u = 0; u < w.pairs; u++) {
    float* x = w.pair_d_x + u * w.ldx;
    if (w.s.layers == 1 && w.pre()) normalize_back(w, l.n1 + u * w.ldx, l.r1[u], w.pair_d_n + u * w.ldx, x, x);
    float *a = G + w.token + (long)w.pair_token[u] * d, *b = G + w.position + (long)w.pair_position[u] * d;
    for (int c = 0; c < d; c++) a[c] += x[c], b[c] += x[c];
  }
}
// Mean loss of the batch at parameters P; writes its gradient to G
float gradient(Work& w, const float* P, float* G, const Batch& batch) {
  prepare(w, P);
  clear_gradients(w);
  memset(G, 0, 4 * w.size);
  embed(w, P, batch, true);
  double loss = 0;
  for (int from = 0; from < batch.count; from += w.S) {
    const int n = batch.count - from < w.S ? batch.count - from : w.S;
    const int* index = w.index.data() + from * w.T;
    forward(w, P, n, index);
    loss += cross_entropy(w, batch, from, n);
    backward(w, P, n, index);
  }
  embed_back(w, G);
  collect(w, P, G);
  return (float)(loss / batch.count);
}
// answers[count]: the token of the largest logit
void answer(Work& w, const float* P, const int16_t* tokens, int count, int16_t* answers) {
  prepare(w, P);
  for (int start = 0; start < count; start += w.s.batch) {
    const Batch batch = {tokens + (long)start * w.T, nullptr, nullptr, count - start < w.s.batch ? count - start : w.s.batch};
    embed(w, P, batch, false);
    for (int from = 0; from < batch.count; from += w.S) {
      const int n = batch.count - from < w.S ? batch.count - from : w.S;
      forward(w, P, n, w.index.data() + from * w.T);
      for (int r = 0; r < n; r++) {
        const float* x = w.logits + r * w.ldv;
        int best = 0;
        for (int v = 1; v < w.s.vocab; v++)
          if (x[v] > x[best] || (x[v] != x[v] && x[best] == x[best])) best = v;  // the first NaN counts as the largest, as in torch
        answers[start + from + r] = (int16_t)best;
      }
    }
  }
}

// ---- optimizers ----

enum Kind : int32_t { NONE, ADAMW, AMSGRAD, SGD, NESTEROV };

struct Rule {  // hyperparameters of one member at one step
  double rate, into_gradient, from_weights, beta1, beta2, eps, clip;
};
// One pass over a row: clipping, decay where `mask` is 1 (null: everywhere), and the optimizer's step `t`
template <Kind KIND>
APART void descend(long n, float* P, const float* G, float* const* state, const float* mask, const Rule& rule, long t) {
  vf s0 = {}, s1 = {};
  for (long i = 0; i < n; i += NR) s0 += ld(G + i) * ld(G + i), s1 += ld(G + i + VL) * ld(G + i + VL);
  float shrink = 1.f;
  if (rule.clip < INFINITY) {
    const float c = (float)rule.clip / (sqrtf(sum(s0 + s1)) + 1e-6f);
    shrink = c > 1.f ? 1.f : c;  // preserves NaN
  }
  const float b1 = (float)rule.beta1, b2 = (float)rule.beta2, c1 = (float)(1 - rule.beta1), c2 = (float)(1 - rule.beta2), eps = (float)rule.eps;
  const float step = (float)(KIND == ADAMW || KIND == AMSGRAD ? rule.rate / (1 - std::pow(rule.beta1, (double)t)) : rule.rate);
  const float root = (float)(1 / std::sqrt(1 - std::pow(rule.beta2, (double)t)));
  const float add = (float)rule.into_gradient, take = (float)rule.from_weights;
  const bool decays = rule.into_gradient != 0 || rule.from_weights != 0;
  for (long i = 0; i < n; i += VL) {
    vf g = ld(G + i) * shrink, p = ld(P + i);
    if (decays) {
      const vf here = mask ? ld(mask + i) : all(1.f);
      g += add * here * p;
      p -= take * here * p;
    }
    if (KIND == ADAMW || KIND == AMSGRAD) {
      const vf m = b1 * ld(state[0] + i) + c1 * g, v = b2 * ld(state[1] + i) + c2 * g * g;
      st(state[0] + i, m), st(state[1] + i, v);
      vf largest = v;
      if (KIND == AMSGRAD) {
        const vf before = ld(state[2] + i);
        largest = v < before ? before : v;
        st(state[2] + i, largest);
      }
      vf deviation;
      for (int c = 0; c < VL; c++) deviation[c] = sqrtf(largest[c]);
      p -= step * m / (deviation * root + eps);
    } else {
      const vf velocity = b1 * ld(state[0] + i) + g;
      st(state[0] + i, velocity);
      p -= step * (KIND == NESTEROV ? g + b1 * velocity : velocity);
    }
    st(P + i, p);
  }
}

}  // namespace

extern "C" {

// All arrays have one entry per member; rows [members, size] are `size` apart.
struct Job {
  float *weights, *gradients, *state[3];
  const float* mask;                        // where decay acts, or null
  const int16_t *const *tokens, *const *labels;
  const int64_t* const* orders;             // each [steps, batch]; null pointers: the first examples
  const double *rates, *into_gradient, *from_weights;  // [steps, members]
  const double *beta1, *beta2, *eps, *clip;
  float* losses;                            // of the last step
  int64_t first;                            // number of the first step, counted from 1
  int32_t members, steps, threads, kind;
};

// offsets: token and position embedding, 16 per layer as in Maps, final gain and bias, unembedding and its bias, and the row's size
void* work_new(const Shape* shape, const int64_t* offsets) {
  Work* w = new (std::nothrow) Work();
  if (!w) return nullptr;
  try {
    const Shape& s = w->s = *shape;
    w->D = up(s.width, NR), w->H = up(s.head_width, NR), w->W = s.heads * w->H, w->F = up(s.hidden, NR), w->V = up(s.vocab, NR);
    w->T = s.seq, w->TP = up(s.seq, VL);
    // Chunks whose widest arrays fit in L2; larger ones for wide models, as each chunk passes over all weights
    const int rows = w->D > 128 ? 288 : 144;
    w->S = s.seq > rows ? 1 : rows / s.seq;
    if (w->S > s.batch) w->S = s.batch;
    w->R = w->S * s.seq;
    const long pairs = (long)s.batch * s.seq, all_pairs = (long)s.vocab * s.seq;
    w->U = pairs < all_pairs ? pairs : all_pairs;
    w->ldx = w->D + 16, w->ldw = w->W + 16, w->ldq = 3 * w->W + 16, w->ldh = w->F + 16, w->ldv = w->V + 16;
    w->layers.resize(s.layers);
    w->token = offsets[0], w->position = offsets[1];
    for (int l = 0; l < s.layers; l++) memcpy(&w->layers[l].at, offsets + 2 + 16 * l, sizeof(Maps));
    const int64_t* tail = offsets + 2 + 16 * s.layers;
    w->final_gain = tail[0], w->final_bias = tail[1], w->unembedding = tail[2], w->unembedding_bias = tail[3], w->size = tail[4];
    w->index.resize((size_t)pairs), w->seen.resize((size_t)all_pairs), w->last.resize(w->S), w->identity.resize(w->R);
    w->pair_token.resize(w->U), w->pair_position.resize(w->U);
    for (int r = 0; r < w->R; r++) w->identity[r] = r;
    const long bytes = up(lay_out(*w, nullptr), 4096);
    w->arena = (char*)aligned_alloc(4096, bytes);
    if (!w->arena) throw std::bad_alloc();
    memset(w->arena, 0, bytes);
    lay_out(*w, w->arena);
  } catch (const std::bad_alloc&) {
    delete w;
    return nullptr;
  }
  auto ones = [](float* x, long rows, long ld_, int column) {
    for (long r = 0; r < rows; r++) x[r * ld_ + column] = 1.f;
  };
  for (size_t number = 0; number < w->layers.size(); number++) {
    Layer& l = w->layers[number];
    const long in_rows = number ? w->R : w->U, rows = number + 1 == w->layers.size() ? w->S : w->R;
    ones(l.x, in_rows, w->ldx, w->D), ones(l.n1, w->pre() ? in_rows : rows, w->ldx, w->D), ones(l.n2, rows, w->ldx, w->D);
    if (!w->pre()) ones(l.y1, rows, w->ldx, w->D);
    ones(l.mixed, rows, w->ldw, w->W), ones(l.act, rows, w->ldh, w->F);
  }
  ones(w->x_out, w->S, w->ldx, w->D), ones(w->n_out, w->S, w->ldx, w->D), ones(w->ends, w->S, w->ldx, w->D);
  ones(w->m, (long)w->S * w->s.heads, w->ldx, w->D);
  for (int c = 0; c < w->s.width; c++) w->ones[c] = 1.f;
  return w;
}
void work_free(void* work) { delete (Work*)work; }

// `steps` steps of every member (kind NONE: gradients only) on `threads` threads, each with its own work. A thread takes the member
// that is furthest behind for a few steps, so that all finish together.
void train(void* const* works, const Job* job) {
  const Job& j = *job;
  const int few = 8;
  std::vector<int> done(j.members, 0);
  std::vector<char> taken(j.members, 0);
  std::mutex lock;
  auto next = [&](int before) {
    const std::lock_guard<std::mutex> hold(lock);
    if (before >= 0) {
      taken[before] = 0;
      done[before] += few;
    }
    int found = -1;
    for (int k = 0; k < j.members; k++)
      if (!taken[k] && done[k] < j.steps && (found < 0 || done[k] < done[found])) found = k;
    if (found >= 0) taken[found] = 1;
    return found;
  };
  auto work = [&](int thread) {
    Work& w = *(Work*)works[thread];
    for (int k = next(-1); k >= 0; k = next(k)) {
      float *P = j.weights + k * w.size, *G = j.gradients + k * w.size;
      float* state[3];
      for (int i = 0; i < 3; i++) state[i] = j.state[i] ? j.state[i] + k * w.size : nullptr;
      const float* mask = j.mask ? j.mask + k * w.size : nullptr;
      for (int step = done[k]; step < j.steps && step < done[k] + few; step++) {
        const int64_t* order = j.orders[k] ? j.orders[k] + (long)step * w.s.batch : nullptr;
        const float loss = gradient(w, P, G, Batch{j.tokens[k], j.labels[k], order, w.s.batch});
        j.losses[k] = loss;
        const long at = (long)step * j.members + k;
        if (j.kind == NONE) continue;
        const Rule rule = {j.rates[at], j.into_gradient[at], j.from_weights[at], j.beta1[k], j.beta2[k], j.eps[k], j.clip[k]};
        switch (j.kind) {
          case ADAMW: descend<ADAMW>(w.size, P, G, state, mask, rule, j.first + step); break;
          case AMSGRAD: descend<AMSGRAD>(w.size, P, G, state, mask, rule, j.first + step); break;
          case SGD: descend<SGD>(w.size, P, G, state, mask, rule, j.first + step); break;
          default: descend<NESTEROV>(w.size, P, G, state, mask, rule, j.first + step);
        }
      }
    }
  };
  std::vector<std::thread> others;
  for (int t = 1; t < j.threads && t < j.members; t++) try {
      others.emplace_back(work, t);
    } catch (const std::system_error&) {  // no more threads available: the others do the work
      break;
    }
  work(0);
  for (std::thread& other : others) other.join();
}

// FLOP/s of `threads` threads that multiply and add in registers, measured for about `seconds`
double peak(int32_t threads, double seconds) {
  using clock = std::chrono::steady_clock;
  std::atomic<long> total{0};
  const auto start = clock::now();
  auto since = [&] { return std::chrono::duration<double>(clock::now() - start).count(); };
  auto work = [&] {
    long rounds = 0;
    vf a[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) a[i] = all(1.f + i);
    const vf b = all(0.999f), c = all(0.001f);
    while (since() < seconds) {
      for (int k = 0; k < 100000; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = a[i] * b + c;
        asm volatile("" : "+" REGISTER (a[0]), "+" REGISTER (a[1]), "+" REGISTER (a[2]));
      }
      rounds += 100000;
    }
    vf end = a[0];
#pragma GCC unroll 12
    for (int i = 1; i < 12; i++) end += a[i];
    asm volatile("" : "+" REGISTER (end));
    total += rounds * 12 * 2 * VL;
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return total / since();
}

// answers[members, count] to tokens[members, count, seq]
void answer_all(void* const* works, const float* weights, const int16_t* tokens, int32_t members, int32_t count, int32_t threads, int16_t* answers) {
  std::atomic<int> next{0};
  auto work = [&](int thread) {
    Work& w = *(Work*)works[thread];
    for (int k; (k = next++) < members;) answer(w, weights + k * w.size, tokens + (long)k * count * w.T, count, answers + (long)k * count);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads && t < members; t++) try {
      others.emplace_back(work, t);
    } catch (const std::system_error&) {
      break;
    }
  work(0);
  for (std::thread& other : others) other.join();
}
}
