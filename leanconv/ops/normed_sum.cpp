// The passes over memory of leanconv/ops/normed_sum.py: maps of N images, P pixels and C channels, in channels_last.
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
    uint16_t bits;
};

template <typename T> struct Compute {
    using type = T;
};
template <> struct Compute<bf16> {
    using type = float;
};

inline float read(float x) { return x; }
inline double read(double x) { return x; }
inline float read(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline void write(float *to, float x) { *to = x; }
inline void write(double *to, double x) { *to = x; }
inline void write(bf16 *to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to the nearest, ties to even
    to->bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Sums are kept in the computing type for this many pixels, and in double above, so that large maps stay exact.
constexpr int64_t BLOCK = 128;

// s = sum over pixels of x - pivot, q = sum of (x - pivot)^2; pivot: C; s, q: (N, C).
template <typename T>
void moments(const T *x, const T *pivot, double *s, double *q, int64_t N, int64_t P, int64_t C, int threads) {
    using F = typename Compute<T>::type;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; ++n) {
        std::vector<F> part(3 * C);
        F *ps = part.data(), *pq = ps + C, *middle = pq + C;
        for (int64_t c = 0; c < C; ++c) middle[c] = read(pivot[c]);
        double *to_s = s + n * C, *to_q = q + n * C;
        std::memset(to_s, 0, C * sizeof(double));
        std::memset(to_q, 0, C * sizeof(double));
        for (int64_t start = 0; start < P; start += BLOCK) {
            std::memset(ps, 0, 2 * C * sizeof(F));
            const int64_t end = start + BLOCK < P ? start + BLOCK : P;
            for (int64_t p = start; p < end; ++p) {
                const T *row = x + (n * P + p) * C;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    const F d = read(row[c]) - middle[c];
                    ps[c] += d;
                    pq[c] += d * d;
                }
            }
            for (int64_t c = 0; c < C; ++c) {
                to_s[c] += ps[c];
                to_q[c] += pq[c];
            }
        }
    }
}

// y = fa * a + fb * b + shift; fa, fb, shift: (N, C).
template <typename T, typename F>
void blend(const T *a, const T *b, const F *fa, const F *fb, const F *shift, T *y, int64_t N, int64_t P, int64_t C,
           int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; ++n) {
        const F *ga = fa + n * C, *gb = fb + n * C, *plus = shift + n * C;
        for (int64_t p = 0; p < P; ++p) {
            const int64_t at = (n * P + p) * C;
            const T *ra = a + at, *rb = b + at;
            T *to = y + at;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) write(to + c, ga[c] * F(read(ra[c])) + gb[c] * F(read(rb[c])) + plus[c]);
        }
    }
}

// Sums over pixels of dy, dy * (a - ma) and dy * (b - mb), into sums (3, N, C); ma, mb: C.
template <typename T, typename F>
void products(const T *dy, const T *a, const T *b, const F *ma, const F *mb, double *sums, int64_t N, int64_t P,
              int64_t C, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; ++n) {
        std::vector<F> part(3 * C);
        F *pd = part.data(), *pa = pd + C, *pb = pa + C;
        double *to_d = sums + n * C, *to_a = to_d + N * C, *to_b = to_a + N * C;
        for (double *to : {to_d, to_a, to_b}) std::memset(to, 0, C * sizeof(double));
        for (int64_t start = 0; start < P; start += BLOCK) {
            std::memset(pd, 0, 3 * C * sizeof(F));
            const int64_t end = start + BLOCK < P ? start + BLOCK : P;
            for (int64_t p = start; p < end; ++p) {
                const int64_t at = (n * P + p) * C;
                const T *rd = dy + at, *ra = a + at, *rb = b + at;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    const F d = read(rd[c]);
                    pd[c] += d;
                    pa[c] += d * (F(read(ra[c])) - ma[c]);
                    pb[c] += d * (F(read(rb[c])) - mb[c]);
                }
            }
            for (int64_t c = 0; c < C; ++c) {
                to_d[c] += pd[c];
                to_a[c] += pa[c];
                to_b[c] += pb[c];
            }
        }
    }
}

// da = fa * dy + sa + ra * (a - ma), and likewise db; fa, sa, fb, sb: (N, C); ra, ma, rb, mb: C.
template <typename T, typename F>
void gradients(const T *dy, const T *a, const T *b, const F *fa, const F *sa, const F *ra, const F *ma, const F *fb,
               const F *sb, const F *rb, const F *mb, T *da, T *db, int64_t N, int64_t P, int64_t C, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < N; ++n) {
        const F *ga = fa + n * C, *gb = fb + n * C, *pa = sa + n * C, *pb = sb + n * C;
        for (int64_t p = 0; p < P; ++p) {
            const int64_t at = (n * P + p) * C;
            const T *rd = dy + at, *va = a + at, *vb = b + at;
            T *to_a = da + at, *to_b = db + at;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                const F d = read(rd[c]);
                write(to_a + c, ga[c] * d + (pa[c] + ra[c] * (F(read(va[c])) - ma[c])));
                write(to_b + c, gb[c] * d + (pb[c] + rb[c] * (F(read(vb[c])) - mb[c])));
            }
        }
    }
}

}  // namespace

#define ENTRIES(NAME, T, F)                                                                                            \
    extern "C" void moments_##NAME(const T *x, const T *pivot, double *s, double *q, int64_t N, int64_t P, int64_t C,  \
                                   int threads) {                                                                      \
        moments(x, pivot, s, q, N, P, C, threads);                                                                     \
    }                                                                                                                  \
    extern "C" void blend_##NAME(const T *a, const T *b, const F *fa, const F *fb, const F *shift, T *y, int64_t N,    \
                                 int64_t P, int64_t C, int threads) {                                                  \
        blend(a, b, fa, fb, shift, y, N, P, C, threads);                                                               \
    }                                                                                                                  \
    extern "C" void products_##NAME(const T *dy, const T *a, const T *b, const F *ma, const F *mb, double *sums,       \
                                    int64_t N, int64_t P, int64_t C, int threads) {                                    \
        products(dy, a, b, ma, mb, sums, N, P, C, threads);                                                            \
    }                                                                                                                  \
    extern "C" void gradients_##NAME(const T *dy, const T *a, const T *b, const F *fa, const F *sa, const F *ra,       \
                                     const F *ma, const F *fb, const F *sb, const F *rb, const F *mb, T *da, T *db,    \
                                     int64_t N, int64_t P, int64_t C, int threads) {                                   \
        gradients(dy, a, b, fa, sa, ra, ma, fb, sb, rb, mb, da, db, N, P, C, threads);                                 \
    }

ENTRIES(float32, float, float)
ENTRIES(float64, double, double)
ENTRIES(bfloat16, bf16, float)
