/* One round of PFedRec (Zhang et al., IJCAI 2023) as a plain loop over clients, on one thread: what
   `fedjax-rec bench rounds` measures this library's round against. Compiled by `c_loop.py`.

   score(i) = w . q_i + b. For each client: 1 + N examples an interaction, the N drawn outside of
   what the user has; shuffled; for each batch of B a step of SGD on (w, b), then one on the item
   rows of the batch with the new (w, b), at the mean of the batch's gradients; then the rank of
   each part's held-out item among its candidates, by the client's own rows. The server's rows move
   by the mean of the clients' changes. Only rows that a client touches are copied and summed.

   Scores, sigmoids and losses go in loops of their own over a batch, so that they are vectorized. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define D 32
#define B 256

static uint64_t next(uint64_t *s) { /* splitmix64 */
  uint64_t z = (*s += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static uint32_t below(uint64_t *s, uint32_t n) { return (uint32_t)(((next(s) >> 32) * n) >> 32); }

static float dot(const float *x, const float *y) { /* sixteen sums, so that they need no order */
  float sum[16] = {0}, total = 0;
  for (int d = 0; d < D; d += 16)
    for (int j = 0; j < 16; j++) sum[j] += x[d + j] * y[d + j];
  for (int j = 0; j < 8; j++) sum[j] += sum[j + 8];
  for (int j = 0; j < 4; j++) sum[j] += sum[j + 4];
  for (int j = 0; j < 4; j++) total += sum[j];
  return total;
}

/* start, length: of each client's interactions in items. had, had_start, had_length: what is never
   drawn for it. cases: parts x clients x candidates, the held-out item first, -1 where there is
   none. w [clients, D], b [clients], rows [num_items, D] are changed in place. out: the mean loss
   by examples, then HR@10 and NDCG@10 of each part. Returns 0, or 1 without memory. */
int pfedrec_round(int clients, int num_items, int negatives, const int32_t *items,
                  const int32_t *start, const int32_t *length, const int32_t *had,
                  const int32_t *had_start, const int32_t *had_length, int parts, int candidates,
                  const int32_t *cases, float rate, float item_rate, uint64_t seed, float *w,
                  float *b, float *rows, double *out) {
  int longest = 0;
  for (int k = 0; k < clients; k++) longest = length[k] > longest ? length[k] : longest;
  size_t most = (size_t)longest * (1 + negatives) + 1, table = (size_t)num_items * D;
  float *mine = aligned_alloc(64, table * 4), *change = aligned_alloc(64, table * 4);
  int32_t *touched = calloc(num_items, 4), *excluded = calloc(num_items, 4);
  int32_t *item = malloc(most * 4), *list = malloc(most * 4);
  float *label = malloc(most * 4);
  if (!mine || !change || !touched || !item || !list || !excluded || !label) return 1;
  memset(change, 0, table * 4);
  double loss = 0, seen = 0, *measured = calloc(3 * parts, sizeof(double));
  if (!measured) return 1;

  for (int k = 0; k < clients; k++) {
    float *wk = w + (size_t)k * D, bk = b[k];
    int count = 0, n_touched = 0;
    for (int j = 0; j < had_length[k]; j++) excluded[had[had_start[k] + j]] = k + 1;
    for (int j = 0; j < length[k]; j++)
      for (int e = 0; e <= negatives; e++) {
        int32_t i = items[start[k] + j];
        if (e)
          do i = below(&seed, num_items);
          while (excluded[i] == k + 1);
        int at = below(&seed, count + 1); /* a shuffle from inside out */
        item[count] = item[at], label[count] = label[at];
        item[at] = i, label[at] = e == 0;
        count++;
        if (touched[i] != k + 1) {
          touched[i] = k + 1;
          list[n_touched++] = i;
          memcpy(mine + (size_t)i * D, rows + (size_t)i * D, D * 4);
        }
      }

    for (int from = 0; from < count; from += B) {
      int n = count - from < B ? count - from : B;
      const int32_t *of = item + from;
      const float *y = label + from;
      float z[B], g[B], v[B], gw[D] = {0}, gb = 0;
      for (int j = 0; j < n; j++) z[j] = dot(mine + (size_t)of[j] * D, wk) + bk;
      for (int j = 0; j < n; j++) {
        float e = expf(-fabsf(z[j]));
        v[j] = fmaxf(z[j], 0) + logf(1 + e) - y[j] * z[j];
        g[j] = ((z[j] < 0 ? e : 1) / (1 + e) - y[j]) / n;
      }
      for (int j = 0; j < n; j++) {
        const float *q = mine + (size_t)of[j] * D;
        loss += v[j], gb += g[j];
        for (int d = 0; d < D; d++) gw[d] += g[j] * q[d];
      }
      for (int d = 0; d < D; d++) wk[d] -= rate * gw[d];
      bk -= rate * gb;

      for (int j = 0; j < n; j++) z[j] = dot(mine + (size_t)of[j] * D, wk) + bk;
      for (int j = 0; j < n; j++) g[j] = item_rate * (1 / (1 + expf(-z[j])) - y[j]) / n;
      for (int j = 0; j < n; j++) { /* gradients are of the rows before the step: z is done */
        float *q = mine + (size_t)of[j] * D;
        for (int d = 0; d < D; d++) q[d] -= g[j] * wk[d];
      }
    }
    b[k] = bk, seen += count;

    for (int p = 0; p < parts; p++) {
      const int32_t *c = cases + ((size_t)p * clients + k) * candidates;
      if (c[0] < 0) continue;
      float first = 0;
      int rank = 0; /* of the first: ties are against it */
      for (int j = 0; j < candidates; j++) {
        const float *from = touched[c[j]] == k + 1 ? mine : rows;
        float s = dot(from + (size_t)c[j] * D, wk) + bk;
        if (j == 0) first = s;
        rank += s >= first;
      }
      measured[3 * p] += rank <= 10;
      measured[3 * p + 1] += rank <= 10 ? 1 / log2(1 + rank) : 0;
      measured[3 * p + 2] += 1;
    }

    for (int t = 0; t < n_touched; t++) {
      size_t at = (size_t)list[t] * D;
      for (int d = 0; d < D; d++) change[at + d] += mine[at + d] - rows[at + d];
    }
  }

  for (size_t j = 0; j < table; j++) rows[j] += change[j] / clients;
  out[0] = loss / seen;
  for (int p = 0; p < parts; p++)
    for (int m = 0; m < 2; m++) out[1 + 2 * p + m] = measured[3 * p + m] / measured[3 * p + 2];
  free(mine), free(change), free(touched), free(item), free(list), free(excluded);
  free(label), free(measured);
  return 0;
}
