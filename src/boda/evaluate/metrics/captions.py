"""Scores of captions against several references each, computed from tokens as COCO's evaluation code (pycocoevalcap) and NLTK do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from boda.errors import BodaError
from boda.evaluate.metrics.tokens import Tokens, tokenize

ORDERS = (1, 2, 3, 4)  # lengths of n-grams
LENGTH_SIGMA, RECALL_WEIGHT = 6.0, 1.2
TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap's, so that no match at all scores 0
Pair = tuple[Tokens, list[Tokens]]  # a caption and its references


def caption_scores(hypotheses: dict[str, str], references: dict[str, list[str]], tokenizer: str = "kiwi") -> dict:
    """`bleu_1` to `bleu_4`, `rouge_l`, `meteor` (0 to 1), `cider` (CIDEr-D) and `cider_original` (0 to 10; papers print them times
    100) of {picture: caption}, and the name of the `tokenizer`: kiwi, mecab (morphemes), whitespace, character or jamo.

    CIDEr weighs n-grams by how few pictures' references have them, so it belongs to its set of pictures, and is 0 for one alone.
    Raises BodaError: a caption without references, or the reverse.
    """
    if not hypotheses or hypotheses.keys() != references.keys() or not all(references.values()):
        odd = hypotheses.keys() ^ references.keys() or {name for name, some in references.items() if not some}
        missing = f"'{min(odd)}' lacks one or the other" if odd else "there are none"
        raise BodaError(f"captions are scored in pairs, each with at least one reference: {missing}")
    split = iter(tokenize([text for name, caption in hypotheses.items() for text in (caption, *references[name])], tokenizer))
    pairs = [(next(split), [next(split) for _ in references[name]]) for name in hypotheses]
    counted = count(pairs)
    scores = {f"bleu_{order}": score for order, score in zip(ORDERS, bleu(counted))}
    means = {"rouge_l": [rouge_l(*pair) for pair in pairs], "meteor": [meteor(*pair) for pair in pairs]}
    means |= {"cider": cider(counted), "cider_original": cider(counted, clipped=False)}
    return {**scores, **{name: sum(each) / len(each) for name, each in means.items()}, "tokenizer": tokenizer}


class Counts(NamedTuple):
    """N-grams of all captions and references as a table: a row for each different one of each text. Texts stand picture by
    picture, the caption first; n-grams are numbered, those of one length together."""

    text: np.ndarray  # (rows,) which text
    gram: np.ndarray  # (rows,) which n-gram
    number: np.ndarray  # (rows,) how often it is there
    order: np.ndarray  # (rows,) its length - 1
    picture: np.ndarray  # (texts,) which picture a text is of
    caption: np.ndarray  # (texts,) the text that is the caption of the same picture
    length: np.ndarray  # (texts,) in tokens
    match: np.ndarray  # (rows,) the row of the same n-gram in the caption, -1 where the caption does not have it


def count(pairs: Sequence[Pair]) -> Counts:
    """The table that `bleu` and `cider` are computed from."""
    texts = [text for tokens, references in pairs for text in (tokens, *references)]
    sizes = np.array([1 + len(references) for _, references in pairs], np.int64)
    picture = np.repeat(np.arange(len(pairs)), sizes)
    length = np.array([len(text) for text in texts], np.int64)
    vocabulary: dict[str, int] = {}
    tokens = np.array([vocabulary.setdefault(token, len(vocabulary)) for token in chain.from_iterable(texts)], np.int64)
    left = np.repeat(np.cumsum(length), length) - np.arange(len(tokens))  # tokens from here to the end of the text
    start, gram, first = np.arange(len(tokens)), tokens, 0
    columns = []
    for order in range(len(ORDERS)):
        if order:
            longer = left[start] > order
            start = start[longer]
            gram = gram[longer] * len(vocabulary) + tokens[start + order]
        different, gram = np.unique(gram, return_inverse=True)  # so that the numbers stay small
        text = np.repeat(np.arange(len(texts)), np.maximum(length - order, 0))
        rows, number = np.unique(text * max(1, len(different)) + gram, return_counts=True)
        text, grams = np.divmod(rows, max(1, len(different)))
        columns.append((text, grams + first, number, np.full(len(rows), order)))
        first += len(different)
    text, grams, number, orders = (np.concatenate(column) for column in zip(*columns))
    caption = (np.cumsum(sizes) - sizes)[picture]
    # Rows of captions by (picture, n-gram): all rows find theirs in this sorted list.
    key = picture[text] * first + grams
    own = np.flatnonzero(caption[text] == text)
    own = own[np.argsort(key[own])]
    place = np.minimum(np.searchsorted(key[own], key), max(0, len(own) - 1))
    match = np.where(key[own][place] == key, own[place], -1) if len(own) else np.full(len(key), -1)
    return Counts(text, grams, number, orders, picture, caption, length, match)


def bleu(counted: Counts) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole set; the reference nearest in length counts for brevity, the shorter of two."""
    text, _, number, order, picture, caption, length, match = counted
    own, others = caption[text] == text, caption != np.arange(len(caption))
    # By how far a reference is from the caption's length, then by its own.
    apart = abs(length - length[caption]) * (length.max(initial=0) + 1) + length
    nearest = np.full(picture.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(nearest, picture[others], apart[others])
    wanted = int((nearest % (length.max(initial=0) + 1)).sum())
    said = np.bincount(order[own], number[own], len(ORDERS))
    most = np.zeros_like(number)  # of each n-gram of a caption, in a reference
    shared = ~own & (match >= 0)
    np.maximum.at(most, match[shared], number[shared])
    right = np.bincount(order[own], np.minimum(number, most)[own], len(ORDERS))
    ratio = (int(length[~others].sum()) + TINY) / (wanted + SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    precisions = ((right + TINY) / (said + SMALL)).tolist()
    return [math.prod(precisions[:order]) ** (1 / order) * brevity for order in ORDERS]


def cider(counted: Counts, clipped: bool = True) -> list[float]:
    """CIDEr-D of each caption (Vedantam et al., 2015, and pycocoevalcap's code), by the frequencies of n-grams in the references of
    the whole set. Lengths are told by bigrams, as that code does.

    Not `clipped`: CIDEr as the paper first defines it (section 5), cosines of n-gram vectors, of whatever lengths and repetitions;
    times 10, as its authors' code has it for both. Words are taken as they come, where the paper stems English ones.
    """
    text, gram, number, order, picture, caption, length, match = counted
    texts, orders = len(picture), len(ORDERS)
    reference = caption[text] != text
    # What every picture's references have weighs nothing; what none has weighs as if one had it.
    grams, pictures = gram.max(initial=0) + 1, picture.max(initial=0) + 1
    pair = np.sort(picture[text][reference] * grams + gram[reference])  # several times as fast as np.unique, which hashes
    where = pair[np.diff(pair, prepend=-1) > 0] % grams
    logs = np.array([math.log(max(1, each)) for each in range(pictures + 1)])
    rarity = logs[pictures] - logs[np.bincount(where, minlength=grams)]
    weight = number * rarity[gram]
    vector = text * orders + order  # a text has one for each length of n-grams
    size = np.sqrt(np.bincount(vector, weight**2, texts * orders)).reshape(texts, orders)
    shared = reference & (match >= 0)
    ours, theirs = weight[match[shared]], weight[shared]
    product = (np.minimum(ours, theirs) if clipped else ours) * theirs
    cosine = np.bincount(vector[shared], product, texts * orders).reshape(texts, orders)
    sizes = size * size[caption]
    likeness = np.divide(cosine, sizes, out=np.zeros_like(sizes), where=sizes > 0).mean(1)
    if clipped:
        bigrams = np.maximum(0, length - 1)
        likeness *= np.exp(-((bigrams - bigrams[caption]) ** 2) / (2 * LENGTH_SIGMA**2))
    likeness[caption == np.arange(texts)] = 0  # a caption is not its own reference
    return (10 * np.bincount(picture, likeness) / (np.bincount(picture) - 1)).tolist()


def rouge_l(tokens: Tokens, references: Sequence[Tokens]) -> float:
    """F of the longest common subsequence; the best precision and the best recall may come from two references."""
    common = _longest_common(tokens, references)
    precision = max(common) / max(1, len(tokens))
    recall = max(same / max(1, len(each)) for same, each in zip(common, references))
    weight = RECALL_WEIGHT**2
    return (1 + weight) * precision * recall / (recall + weight * precision) if precision and recall else 0.0


def _longest_common(tokens: Tokens, references: Sequence[Tokens]) -> list[int]:
    """Lengths, a bit for each token (Hyyrö, 2004): a bit turns 0 where the common subsequence grows."""
    places: dict[str, int] = {}
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    found, everywhere = [], (1 << len(tokens)) - 1
    for each in references:
        row = everywhere
        for token in each:
            if matches := row & places.get(token, 0):
                row = (row + matches | row - matches) & everywhere
        found.append(len(tokens) - row.bit_count())
    return found


def meteor(tokens: Tokens, references: Sequence[Tokens]) -> float:
    """NLTK's METEOR (Lavie and Agarwal, 2007), the best over the references, of tokens that match exactly.

    NLTK's further stages, the Porter stemmer and WordNet, know English only and change nothing in Hangul; English words in a
    caption match here only if they are the same. The Java METEOR aligns and weighs otherwise: its figures are other figures.
    """
    return max(_meteor(tokens, each) for each in references)


def _meteor(tokens: Tokens, reference: Tokens) -> float:
    places: dict[str, list[int]] = {}
    for place, token in enumerate(reference):
        places.setdefault(token, []).append(place)
    matched = chunks = 0
    after = (-1, -1)
    for place in range(len(tokens) - 1, -1, -1):  # each from the end takes the last of its kind
        if free := places.get(tokens[place]):
            here = (place, free.pop())
            matched += 1
            chunks += after != (here[0] + 1, here[1] + 1)  # a chunk: matches that stand side by side in both
            after = here
    if not matched:
        return 0.0
    precision, recall = matched / len(tokens), matched / len(reference)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return (1 - 0.5 * (chunks / matched) ** 3) * mean


def sentence_bleu(
    tokens: Tokens, references: Sequence[Tokens], weights: Sequence[float] = (0.25,) * 4, smoothing: int = 4
) -> float:
    """NLTK's BLEU of a single caption, by which the Small Korean VLM's captions (its `method4`) and answers on charts (`method1`, for
    BLEU-3 weights of .33) were scored. A mean of it is no BLEU of a set.

    `smoothing`: 1 or 4, of Chen and Cherry's (2014) methods, as NLTK computes them.
    """
    assert smoothing in (1, 4), smoothing
    precisions, zeros = [], 0
    for order in range(1, len(weights) + 1):
        counts, *others = (Counter(zip(*(each[start:] for start in range(order)))) for each in (tokens, *references))
        right = sum(min(number, max(other[gram] for other in others)) for gram, number in counts.items())
        said = max(1, counts.total())
        if order == 1 and not right:
            return 0.0
        if right:
            precisions.append(right / said)
        elif smoothing == 1:
            precisions.append(0.1 / said)
        elif len(tokens) > 1:
            zeros += 1
            precisions.append(math.log(len(tokens)) / (2**zeros * 5) / said)
        else:  # left out
            precisions.append(1.0)
    nearest = min((abs(len(each) - len(tokens)), len(each)) for each in references)[1]
    brevity = min(1.0, math.exp(1 - nearest / len(tokens)))
    return brevity * math.exp(math.fsum(weight * math.log(each) for weight, each in zip(weights, precisions)))
