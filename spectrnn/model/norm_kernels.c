/* Batch normalization over the valid rows of clips, followed by ReLU, on the CPU: each pass reads every value once.
 *
 * Arrays are (clips, rows, channels), contiguous, float32; `valid` (clips,) is the number of rows that are no padding. The
 * sums (2, channels) are float64, and are added to.
 */
#include <stdint.h>
#include <string.h>

#include "../native.h"

enum { BLOCK = 32 }; /* rows that are summed in float32 */

static void flush(long channels, float *partial, double *sums) {
    EACH(i, 2 * channels) sums[i] += partial[i];
    memset(partial, 0, 2 * channels * sizeof(float));
}

/* sums += x, x^2 */
void norm_sums(long clips, long rows, long channels, const int64_t *valid, const float *x, double *sums) {
    float partial[2 * channels], *squares = partial + channels;
    memset(partial, 0, sizeof partial);
    for (long clip = 0; clip < clips; clip++, x += rows * channels) {
        for (long row = 0; row < valid[clip]; row++) {
            const float *v = x + row * channels;
            EACH(i, channels) {
                partial[i] += v[i];
                squares[i] += v[i] * v[i];
            }
            if (row % BLOCK == BLOCK - 1) flush(channels, partial, sums);
        }
        flush(channels, partial, sums);
    }
}

/* y = relu(x * scale + shift), zero in padding */
void norm_forward(long clips, long rows, long channels, const int64_t *valid, const float *x, const float *scale,
                  const float *shift, float *y) {
    for (long clip = 0; clip < clips; clip++, x += rows * channels, y += rows * channels) {
        for (long row = 0; row < valid[clip]; row++) {
            const float *v = x + row * channels;
            float *w = y + row * channels;
            EACH(i, channels) {
                float value = v[i] * scale[i] + shift[i];
                w[i] = value < 0 ? 0 : value; /* NaN stays NaN */
            }
        }
        memset(y + valid[clip] * channels, 0, (rows - valid[clip]) * channels * sizeof(float));
    }
}

/* sums += g, g * x, where g is the gradient of x * scale + shift: that of y where y is positive */
void norm_grad_sums(long clips, long rows, long channels, const int64_t *valid, const float *x, const float *y,
                    const float *grad, double *sums) {
    float partial[2 * channels], *products = partial + channels;
    memset(partial, 0, sizeof partial);
    for (long clip = 0; clip < clips; clip++, x += rows * channels, y += rows * channels, grad += rows * channels) {
        for (long row = 0; row < valid[clip]; row++) {
            const float *v = x + row * channels, *w = y + row * channels, *d = grad + row * channels;
            EACH(i, channels) {
                float g = w[i] > 0 ? d[i] : 0;
                partial[i] += g;
                products[i] += g * v[i];
            }
            if (row % BLOCK == BLOCK - 1) flush(channels, partial, sums);
        }
        flush(channels, partial, sums);
    }
}

/* grad_x = g * scale + x * slope + offset, zero in padding */
void norm_backward(long clips, long rows, long channels, const int64_t *valid, const float *x, const float *y,
                   const float *grad, const float *scale, const float *slope, const float *offset, float *grad_x) {
    for (long clip = 0; clip < clips; clip++) {
        for (long row = 0; row < valid[clip]; row++) {
            long start = (clip * rows + row) * channels;
            const float *v = x + start, *w = y + start, *d = grad + start;
            float *u = grad_x + start;
            EACH(i, channels) u[i] = (w[i] > 0 ? d[i] : 0) * scale[i] + v[i] * slope[i] + offset[i];
        }
        memset(grad_x + (clip * rows + valid[clip]) * channels, 0, (rows - valid[clip]) * channels * sizeof(float));
    }
}
