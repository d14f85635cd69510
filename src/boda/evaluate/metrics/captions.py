"""Scores of captions against several references each, computed from tokens as COCO's evaluation code (pycocoevalcap) does."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from boda.errors import BodaError, explaining

ORDERS = (1, 2, 3, 4)  # lengths of n-grams
LENGTH_SIGMA, RECALL_WEIGHT = 6.0, 1.2
TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap's, so that no match at all scores 0
Tokens = list[str]
Pair = tuple[Tokens, list[Tokens]]  # a caption and its references


def caption_scores(hypotheses: dict[str, str], references: dict[str, list[str]], tokenizer: str = "kiwi") -> dict:
    """`bleu_1` to `bleu_4`, `rouge_l` (0 to 1), `cider` (CIDEr-D, 0 to 10; papers print it times 100) of {picture: caption}.

    `tokenizer`: kiwi (morphemes), whitespace or character. CIDEr weighs n-grams by how few pictures' references have them, so it
    belongs to its set of pictures, and is 0 for one alone. Raises BodaError: a caption without references, or the reverse.
    """
    if not hypotheses or hypotheses.keys() != references.keys() or not all(references.values()):
        odd = hypotheses.keys() ^ references.keys() or {name for name, some in references.items() if not some}
        missing = f"'{min(odd)}' lacks one or the other" if odd else "there are none"
        raise BodaError(f"captions are scored in pairs, each with at least one reference: {missing}")
    split = tokens_by(tokenizer)
    pairs = [(split(caption), [split(text) for text in references[name]]) for name, caption in hypotheses.items()]
    scores = {f"bleu_{order}": score for order, score in zip(ORDERS, bleu(pairs))}
    means = {"rouge_l": [rouge_l(*pair) for pair in pairs], "cider": cider(pairs)}
    return {**scores, **{name: sum(each) / len(each) for name, each in means.items()}, "tokenizer": tokenizer}


@cache
def tokens_by(tokenizer: str) -> Callable[[str], Tokens]:
    """Text -> tokens: Unicode form NFC, lower case, no punctuation around them. Raises BodaError: unknown, or not installed."""
    splits: dict[str, Callable[[str], Sequence[str]]] = {"whitespace": str.split, "character": lambda text: text}
    if tokenizer == "kiwi":
        others = " or ".join(splits)
        with explaining(f"morphemes need kiwipiepy: pip install 'boda[eval]'; or tokenizer={others}", ModuleNotFoundError):
            from kiwipiepy import Kiwi  # type: ignore
        kiwi = Kiwi()
        splits["kiwi"] = lambda text: [token.form for token in kiwi.tokenize(text)]
    elif tokenizer not in splits:
        raise BodaError(f"no tokenizer '{tokenizer}'; there are kiwi, {', '.join(splits)}")

    def split(text: str) -> Tokens:
        found = splits[tokenizer](unicodedata.normalize("NFC", text).lower())
        return [token for each in found if (token := re.sub(r"^\W+|\W+$", "", each))]

    return split


def ngrams(tokens: Tokens) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + order]) for order in ORDERS for start in range(len(tokens) - order + 1))


def bleu(pairs: Sequence[Pair]) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole set; the reference nearest in length counts for brevity, the shorter of two."""
    length = wanted = 0
    right, said = Counter[int](), Counter[int]()
    for tokens, references in pairs:
        length += len(tokens)
        wanted += min((abs(len(each) - len(tokens)), len(each)) for each in references)[1]
        most: Counter[tuple[str, ...]] = Counter()
        for each in references:
            most |= ngrams(each)
        for gram, count in ngrams(tokens).items():
            said[len(gram)] += count
            right[len(gram)] += min(count, most[gram])
    ratio = (length + TINY) / (wanted + SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    precisions = [(right[order] + TINY) / (said[order] + SMALL) for order in ORDERS]
    return [math.prod(precisions[:order]) ** (1 / order) * brevity for order in ORDERS]


def rouge_l(tokens: Tokens, references: Sequence[Tokens]) -> float:
    """F of the longest common subsequence; the best precision and the best recall may come from two references."""
    common = [_longest_common(tokens, each) for each in references]
    precision = max(common) / max(1, len(tokens))
    recall = max(same / max(1, len(each)) for same, each in zip(common, references))
    weight = RECALL_WEIGHT**2
    return (1 + weight) * precision * recall / (recall + weight * precision) if precision and recall else 0.0


def _longest_common(first: Tokens, second: Tokens) -> int:
    lengths = [0] * (len(second) + 1)
    for token in first:
        before = lengths[:]
        for place, other in enumerate(second, 1):
            lengths[place] = before[place - 1] + 1 if token == other else max(before[place], lengths[place - 1])
    return lengths[-1]


def cider(pairs: Sequence[Pair]) -> list[float]:
    """CIDEr-D of each caption, by the frequencies of n-grams in the references of the whole set."""
    counted = [(ngrams(tokens), [ngrams(each) for each in references]) for tokens, references in pairs]
    pictures = Counter(gram for _, references in counted for gram in set().union(*references))
    # What every picture's references have weighs nothing; what none has weighs as if one had it.
    everywhere = math.log(max(1, len(pairs)))

    def weighed(counts: Counter) -> tuple[list[dict], list[float], int]:
        weights: list[dict] = [{} for _ in ORDERS]
        for gram, count in counts.items():
            weights[len(gram) - 1][gram] = count * (everywhere - math.log(max(1, pictures[gram])))
        sizes = [math.sqrt(sum(weight**2 for weight in some.values())) for some in weights]
        return weights, sizes, sum(count for gram, count in counts.items() if len(gram) == 2)  # lengths are told by bigrams

    def likeness(caption: tuple, reference: tuple) -> float:
        total = 0.0
        for ours, theirs, size, other in zip(caption[0], reference[0], caption[1], reference[1]):
            shared = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in ours.items())
            total += shared / (size * other) if size and other else 0.0
        return total * math.exp(-((caption[2] - reference[2]) ** 2) / (2 * LENGTH_SIGMA**2)) / len(ORDERS)

    found = []
    for caption, references in counted:
        own = weighed(caption)
        found.append(10.0 * sum(likeness(own, weighed(each)) for each in references) / len(references))
    return found
