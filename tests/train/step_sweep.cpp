// Runs the training step over a sweep of shapes, for the sanitizers. Arrays are exactly as large as the step may touch.
#include "step.cpp"

#include <cstdio>

int main() {
  int shapes = 0;
  unsigned state = 1;
  auto random = [&](int n) { return (int)((state = state * 1664525u + 1013904223u) >> 8) % n; };
  for (int layers = 1; layers <= 3; layers++)
    for (int post = 0; post < 2; post++)
      for (int bias = 0; bias < 2; bias++)
        for (int variant = 0; variant < 8; variant++) {
          Shape s;
          s.layers = layers, s.post = post, s.relu = variant % 2, s.query_norm_only = !post && variant / 2 % 2;
          s.width = 1 + random(40), s.heads = 1 + random(3), s.head_width = 1 + random(20), s.hidden = 1 + random(50);
          s.vocab = 2 + random(40), s.seq = 1 + random(12), s.batch = 1 + random(40);
          std::vector<int64_t> offsets;
          int64_t at = 0;
          auto place = [&](int64_t n, bool there = true) {
            offsets.push_back(there ? at : -1);
            if (there) at += up(n, 32);
          };
          const int64_t d = s.width, w = (int64_t)s.heads * s.head_width, f = s.hidden;
          place(s.vocab * d), place(s.seq * d);
          for (int l = 0; l < layers; l++) {
            place(d), place(d);
            for (int i = 0; i < 3; i++) place(d * w), place(w, bias);
            place(w * d), place(d, bias), place(d), place(d);
            place(d * f), place(f, bias), place(f * d), place(d, bias);
          }
          place(d, !post), place(d, !post), place(d * s.vocab), place(s.vocab, variant >= 4);
          offsets.push_back(at);
          const int members = 2, steps = 2, size = 30;
          std::vector<float> weights(members * at), gradients(members * at), moments[3], losses(members);
          for (auto& m : moments) m.resize(members * at);
          for (float& x : weights) x = (random(2001) - 1000) / 2000.f;
          std::vector<int16_t> tokens((size_t)size * s.seq), labels(size), answers(members * size);
          for (auto& t : tokens) t = random(s.vocab);
          for (auto& t : labels) t = random(s.vocab);
          std::vector<int64_t> order((size_t)steps * s.batch);
          for (auto& o : order) o = random(size);
          void* works[2] = {work_new(&s, offsets.data()), work_new(&s, offsets.data())};
          const int16_t *tp[2] = {tokens.data(), tokens.data()}, *lp[2] = {labels.data(), labels.data()};
          const int64_t* op[2] = {order.data(), order.data()};
          std::vector<double> table(members * steps, 1e-3), rule(members, 0.5);
          Job job = {weights.data(), gradients.data(), {moments[0].data(), moments[1].data(), moments[2].data()}, nullptr, tp, lp, op,
                     table.data(), table.data(), table.data(), rule.data(), rule.data(), rule.data(), rule.data(), losses.data(),
                     1, members, steps, 2, 1 + variant % 4};
          train(works, &job);
          std::vector<int16_t> both(tokens);
          both.insert(both.end(), tokens.begin(), tokens.end());
          answer_all(works, weights.data(), both.data(), members, size, 2, answers.data());
          for (void* work : works) work_free(work);
          for (float loss : losses)
            if (!(loss > 0 && loss < 50)) return std::printf("loss %g\n", (double)loss), 1;
          shapes++;
        }
  std::printf("shapes: %d\n", shapes);
}
