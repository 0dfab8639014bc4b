"""Translations that no network makes: the source as it is, and the most similar training caption's.

Both tell how much of a score comes for free in captions of photographs, which are much alike.
"""
import collections
import math
import re


def neighbours(train: list[str], references: list[str], sources: list[str]) -> list[str]:
    """Return, for each source, the reference of the training source that is most like it.

    Likeness is the cosine of TF-IDF vectors of lowercased words, weighed log(N / documents).
    """
    documents = [collections.Counter(words(text)) for text in train]
    found_in = collections.Counter(word for counts in documents for word in counts)
    weight = {word: math.log(len(train) / n) for word, n in found_in.items()}
    lists = collections.defaultdict(list)                       # word -> (training row, value)
    for row, counts in enumerate(documents):
        for word, value in unit(counts, weight).items():
            lists[word].append((row, value))

    def nearest(text: str) -> int:
        likeness = collections.Counter()
        for word, value in unit(collections.Counter(words(text)), weight).items():
            for row, other in lists[word]:
                likeness[row] += value * other
        return max(likeness, key=lambda row: (likeness[row], -row), default=0)
    return [references[nearest(text)] for text in sources]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def unit(counts: dict, weight: dict) -> dict:
    """Return the TF-IDF vector of length 1, {word: value}, without words that are not known."""
    values = {word: n * weight[word] for word, n in counts.items() if weight.get(word)}
    length = math.sqrt(sum(value * value for value in values.values()))
    return {word: value / length for word, value in values.items()}
