/* GRU and LSTM layers on the CPU: the time loop of one direction for a shard of a batch, forward and backward.
 *
 * Everything that does not depend on the previous step is done outside for all steps at once: the products with the input,
 * and the gradients of the weights. What remains is one product and the gates per step, on small buffers that stay in the
 * processor's cache. Arrays are (batch, frames, size), contiguous, float32. Gates and weights are those of torch.nn.GRU
 * (r, z, n) and torch.nn.LSTM (i, f, g, o).
 *
 * A clip is processed within its own length, from its end if `reverse` is set, so padding needs no packing. Outputs and
 * gradients of padding are zero.
 */
#include <stdint.h>
#include <string.h>

#include "../native.h"

/* The tile of a product: as many rows and columns as the registers hold. */
#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 4 };
#endif
enum { ROWS = 6, COLUMNS = LANES * VECTORS };

typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* The number of columns of a weight matrix must be a multiple of this. */
long column_multiple(void) { return COLUMNS; }

static inline __attribute__((always_inline)) void tile(int rows, long n, long k, const float *a, const float *b, float *c) {
    vector sums[ROWS][VECTORS];
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < VECTORS; j++) sums[row][j] = ((const vector *)(c + row * n))[j];
    for (long i = 0; i < k; i++)
        for (int row = 0; row < rows; row++)
            for (int j = 0; j < VECTORS; j++) sums[row][j] += a[row * k + i] * ((const vector *)(b + i * n))[j];
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < VECTORS; j++) ((vector *)(c + row * n))[j] = sums[row][j];
}

/* c (rows, n) += a (rows, k) @ b (k, n), with n a multiple of COLUMNS. */
static void add_product(long rows, long n, long k, const float *a, const float *b, float *c) {
    for (long column = 0; column < n; column += COLUMNS, b += COLUMNS, c += COLUMNS)
        for (long row = 0; row < rows; row += ROWS) {
            const float *x = a + row * k;
            float *y = c + row * n;
            switch (rows - row) { /* a constant number of rows keeps the sums in registers */
            case 1: tile(1, n, k, x, b, y); break;
            case 2: tile(2, n, k, x, b, y); break;
            case 3: tile(3, n, k, x, b, y); break;
            case 4: tile(4, n, k, x, b, y); break;
            case 5: tile(5, n, k, x, b, y); break;
            default: tile(ROWS, n, k, x, b, y);
            }
        }
}

/* exp(x) = 2^k * exp(r) with |r| <= log(2) / 2, and a Taylor polynomial; vectorizable. The relative error is 2e-7. */
static inline float exponential(float x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */
    x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
    float shifted = x * 1.44269504f + round, k = shifted - round;
    float r = x - k * 0.693359375f + k * 2.12194440e-4f; /* log(2) in two parts */
    float y = 1 + r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000; /* 2^k */
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(-x)); }
static inline float hyperbolic_tangent(float x) { return 2 / (1 + exponential(-2 * x)) - 1; }

/* The frame that a clip processes at step t. */
static inline long frame_at(long t, long length, long reverse) { return reverse ? length - 1 - t : t; }

/* Sets a state of padding to zero: in the output and, if training, before that frame. */
static void clear_state(long row, long size, long stride, float *previous, float *output) {
    memset(output + row * stride, 0, size * sizeof(float));
    if (previous) memset(previous + row * size, 0, size * sizeof(float));
}

/* Runs the GRU.
 *
 * weight    (size, columns): transposed recurrent weights, zero in columns from 3 * size on
 * bias_n    (size,): recurrent bias of n
 * lengths   (batch,): number of valid frames, at least 1
 * gates     (batch, frames, 3 * size): product with the input and all other biases -> r, z, n if training
 * hidden_n  (batch, frames, size): -> recurrent part of n if training
 * previous  (batch, frames, size): -> the state before each frame if training, else NULL
 * output    (batch, frames, stride): -> the state of each frame
 * buffer    batch * (size + columns) + 4 * size zeros
 */
void gru_forward(long batch, long frames, long size, long columns, long stride, long reverse, const float *weight,
                 const float *bias_n, const int64_t *lengths, float *gates, float *hidden_n, float *previous, float *output,
                 float *buffer) {
    float *states = buffer, *product = buffer + batch * size, *scratch = product + batch * columns;
    for (long t = 0; t < frames; t++) {
        memset(product, 0, batch * columns * sizeof(float));
        add_product(batch, columns, size, states, weight, product);
        for (long clip = 0; clip < batch; clip++) {
            if (t >= lengths[clip]) {
                clear_state(clip * frames + t, size, stride, previous, output);
                continue;
            }
            long row = clip * frames + frame_at(t, lengths[clip], reverse);
            const float *x = gates + row * 3 * size, *p = product + clip * columns;
            float *r = previous ? gates + row * 3 * size : scratch, *z = r + size, *n = z + size;
            float *hn = previous ? hidden_n + row * size : scratch + 3 * size, *h = states + clip * size;
            if (previous) memcpy(previous + row * size, h, size * sizeof(float));
            EACH(i, size) r[i] = sigmoid(x[i] + p[i]);
            EACH(i, size) z[i] = sigmoid(x[size + i] + p[size + i]);
            EACH(i, size) {
                hn[i] = p[2 * size + i] + bias_n[i];
                n[i] = hyperbolic_tangent(x[2 * size + i] + r[i] * hn[i]);
                h[i] = n[i] + z[i] * (h[i] - n[i]);
            }
            memcpy(output + row * stride, h, size * sizeof(float));
        }
    }
}

/* Computes the gradients of the gates.
 *
 * weight    (3 * size, columns): recurrent weights, zero in columns from size on
 * grad      (batch, frames, stride): gradient of the output
 * gates     -> gradients with respect to the recurrent product: r, z, hidden part of n
 * hidden_n  -> gradient with respect to the sum within the tanh of n
 * buffer    batch * (3 * size + columns) zeros
 */
void gru_backward(long batch, long frames, long size, long columns, long stride, long reverse, const float *weight,
                  const int64_t *lengths, const float *previous, const float *grad, float *gates, float *hidden_n,
                  float *buffer) {
    float *step = buffer, *carry = buffer + batch * 3 * size;
    for (long t = frames - 1; t >= 0; t--) {
        for (long clip = 0; clip < batch; clip++) {
            if (t >= lengths[clip]) {
                memset(gates + (clip * frames + t) * 3 * size, 0, 3 * size * sizeof(float));
                memset(hidden_n + (clip * frames + t) * size, 0, size * sizeof(float));
                continue;
            }
            long row = clip * frames + frame_at(t, lengths[clip], reverse);
            float *r = gates + row * 3 * size, *z = r + size, *n = z + size;
            float *hn = hidden_n + row * size, *d = carry + clip * columns;
            const float *h = previous + row * size, *g = grad + row * stride;
            EACH(i, size) {
                float dh = d[i] + g[i], dn = dh * (1 - z[i]) * (1 - n[i] * n[i]);
                float dz = dh * (h[i] - n[i]) * z[i] * (1 - z[i]);
                d[i] = dh * z[i];
                n[i] = dn * r[i];
                r[i] = dn * hn[i] * r[i] * (1 - r[i]);
                z[i] = dz;
                hn[i] = dn;
            }
            memcpy(step + clip * 3 * size, r, 3 * size * sizeof(float));
        }
        add_product(batch, columns, 3 * size, step, weight, carry);
    }
}

/* Runs the LSTM; arguments as for the GRU, with 4 * size gates, all biases in them, and
 *
 * cells     (batch, frames, size): -> the cell state of each frame if training
 * buffer    batch * (2 * size + columns) + 4 * size zeros
 */
void lstm_forward(long batch, long frames, long size, long columns, long stride, long reverse, const float *weight,
                  const int64_t *lengths, float *gates, float *cells, float *previous, float *output, float *buffer) {
    float *states = buffer, *memory = buffer + batch * size, *product = memory + batch * size;
    float *scratch = product + batch * columns;
    for (long t = 0; t < frames; t++) {
        memset(product, 0, batch * columns * sizeof(float));
        add_product(batch, columns, size, states, weight, product);
        for (long clip = 0; clip < batch; clip++) {
            if (t >= lengths[clip]) {
                clear_state(clip * frames + t, size, stride, previous, output);
                continue;
            }
            long row = clip * frames + frame_at(t, lengths[clip], reverse);
            const float *x = gates + row * 4 * size, *p = product + clip * columns;
            float *in = previous ? gates + row * 4 * size : scratch, *forget = in + size, *g = forget + size;
            float *out = g + size, *h = states + clip * size, *c = memory + clip * size;
            if (previous) memcpy(previous + row * size, h, size * sizeof(float));
            EACH(i, 2 * size) in[i] = sigmoid(x[i] + p[i]);
            EACH(i, size) g[i] = hyperbolic_tangent(x[2 * size + i] + p[2 * size + i]);
            EACH(i, size) out[i] = sigmoid(x[3 * size + i] + p[3 * size + i]);
            EACH(i, size) {
                c[i] = forget[i] * c[i] + in[i] * g[i];
                h[i] = out[i] * hyperbolic_tangent(c[i]);
            }
            if (previous) memcpy(cells + row * size, c, size * sizeof(float));
            memcpy(output + row * stride, h, size * sizeof(float));
        }
    }
}

/* Computes the gradients of the gates, with buffer batch * (5 * size + columns) zeros. */
void lstm_backward(long batch, long frames, long size, long columns, long stride, long reverse, const float *weight,
                   const int64_t *lengths, const float *grad, const float *cells, float *gates, float *buffer) {
    float *step = buffer, *memory = buffer + batch * 4 * size, *carry = memory + batch * size;
    for (long t = frames - 1; t >= 0; t--) {
        for (long clip = 0; clip < batch; clip++) {
            if (t >= lengths[clip]) {
                memset(gates + (clip * frames + t) * 4 * size, 0, 4 * size * sizeof(float));
                continue;
            }
            long row = clip * frames + frame_at(t, lengths[clip], reverse);
            float *in = gates + row * 4 * size, *forget = in + size, *g = forget + size;
            float *out = g + size, *d = carry + clip * columns, *dc = memory + clip * size;
            const float *y = grad + row * stride, *c = cells + row * size;
            const float *before = t ? c + (reverse ? size : -size) : NULL;
            EACH(i, size) {
                float dh = d[i] + y[i], a = hyperbolic_tangent(c[i]);
                float cell = dc[i] + dh * out[i] * (1 - a * a), last = before ? before[i] : 0;
                dc[i] = cell * forget[i];
                d[i] = 0;
                out[i] = dh * a * out[i] * (1 - out[i]);
                forget[i] = cell * last * forget[i] * (1 - forget[i]);
                float di = cell * g[i] * in[i] * (1 - in[i]);
                g[i] = cell * in[i] * (1 - g[i] * g[i]);
                in[i] = di;
            }
            memcpy(step + clip * 4 * size, in, 4 * size * sizeof(float));
        }
        add_product(batch, columns, 4 * size, step, weight, carry);
    }
}
