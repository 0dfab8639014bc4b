"""Character n-grams with Witten-Bell smoothing: the floor below which a network has learned little.

    p_n(c | h) = (count(h c) + T(h) p_{n-1}(c | h')) / (count(h) + T(h))

h is the last n - 1 characters, h' is h without its first, and T(h) the number of different
characters that followed h (Witten and Bell 1991; Chen and Goodman 1998, section 2.6). Below the
1-gram all characters are alike.
"""
import collections
import math


def nats_per_character(train: str, test: str, n: int) -> float:
    """Return the mean -log p of each character of `test` but the first, after those before it."""
    size = len(set(train))
    following = [collections.defaultdict(collections.Counter) for _ in range(n)]
    for order, counters in enumerate(following):               # after `order` characters
        for i in range(order, len(train)):
            counters[train[i - order:i]][train[i]] += 1
    totals = [{context: counter.total() for context, counter in counters.items()}
              for counters in following]

    def probability(before: str, character: str) -> float:
        p = 1 / size
        for order in range(min(n, len(before) + 1)):
            context = before[len(before) - order:]
            counter = following[order].get(context)
            if counter is None:                                # no longer one was seen either
                break
            kinds = len(counter)
            p = (counter[character] + kinds * p) / (totals[order][context] + kinds)
        return p

    return -sum(math.log(probability(test[max(0, i - n + 1):i], test[i]))
                for i in range(1, len(test))) / (len(test) - 1)
