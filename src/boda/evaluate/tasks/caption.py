"""`caption-ko`: pictures described in a Korean sentence, scored against several references by CIDEr-D.

Read are AI Hub 261's captions of COCO ({file_path, caption_ko: [5]}) and any captions file that Boda's sources read. The question is
that of the Small Korean VLM, whose figure, the mean over pictures of NLTK's sentence BLEU-4 (method4), stands beside as `upstream`;
its tokens were MeCab's, here they are those of the tokenizer that is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boda.data.sample import Sample
from boda.data.sources import read, resolve_data
from boda.errors import BodaError
from boda.evaluate.metrics.captions import bleu, cider, count, meteor, rouge_l, sentence_bleu
from boda.evaluate.metrics.likeness import similarities
from boda.evaluate.metrics.tokens import tokenize
from boda.evaluate.task import Row, Task, read_options, summary
from boda.evaluate.tasks.questions import of_samples
from boda.evaluate.tasks.retrieval import id_of, listed_photos

VERSION = "1"
QUESTION = "이미지를 한 문장으로 자세히 한국어로 설명해줘"
RULE = "Small Korean VLM: mean of NLTK's sentence BLEU-4 with smoothing method4, on tokens by {} (there MeCab's)"


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `caption-ko:PATH[:images=DIR][:ids=FILE][:tokenizer=kiwi][:similarity=MODEL]`.

    ids: the test photos, as `coco-ko` takes them. similarity: a sentence-transformers model, whose cosine is one more metric.
    Raises BodaError: no such file, photos without captions, or an unknown tokenizer.
    """
    path, given = read_options("caption-ko", option, "images", "ids", "tokenizer", "similarity")
    if not path:
        raise BodaError("caption-ko needs captions: --tasks caption-ko:MSCOCO_train_val_Korean.json:images=DIR:ids=FILE")
    images = resolve_data(given["images"], data_dir) if "images" in given else None
    samples = read(resolve_data(path, data_dir), "captions", images=images, question=QUESTION, probe=False)
    chosen = [*samples]
    if "ids" in given:
        listed = set(listed_photos(given["ids"], data_dir))
        numbers = [id_of(str(sample.images[0])) for sample in chosen]
        if missing := sorted(listed - set(numbers)):
            raise BodaError(
                f"caption-ko: {path} has no captions of {len(missing)} of {len(listed)} photos, the first {missing[0]}"
            )
        chosen = [sample for sample, number in zip(chosen, numbers) if number in listed]
    # A metric more or less asks nothing anew.
    named = [f"{name}={value}" for name, value in given.items() if name != "similarity"]
    return replace(
        captioning(chosen, given.get("tokenizer", "kiwi"), given.get("similarity", "")),
        name=":".join(["caption-ko", path, *named]),
        decoding={"temperature": 0.0, "max_new_tokens": 100},
    )


def captioning(samples: Sequence[Sample], tokenizer: str, similarity: str = "") -> Task:
    """The task of captioning: a row for each picture and question, its references all that samples answer to both.

    similarity: a sentence-transformers model for one more metric. Raises BodaError: an unknown tokenizer, or one not installed.
    """
    tokenize([], tokenizer)  # said before anything is read
    references: dict[tuple, list[str]] = defaultdict(list)
    first: dict[tuple, Sample] = {}
    for sample in samples:
        references[_question(sample)].append(sample.messages[-1].text)
        first.setdefault(_question(sample), sample)

    def score(row: Row, answer: str) -> dict:
        known = references[_question(row.value)]
        tokens, *others = tokenize([answer, *known], tokenizer)
        facts = {"extracted": answer.strip(), "gold": known[0], "references": known, "tags": dict(row.value.tags)}
        return {"score": rouge_l(tokens, others), "upstream": sentence_bleu(tokens, others), **facts}

    def pairs_of(answered: Sequence[dict]) -> list[tuple]:
        """(answer, references) by their tokens."""
        texts = [text for record in answered for text in (record["raw"], *record["references"])]
        split = iter(tokenize(texts, tokenizer))
        return [(next(split), [next(split) for _ in record["references"]]) for record in answered]

    def counted(records: Sequence[dict]) -> dict[str, float]:
        answered = [record for record in records if not record["failed"]]
        return {record["row"]: score for record, score in zip(answered, cider(count(pairs_of(answered))))} if answered else {}

    def summarise(records: list[dict]) -> dict:
        answered = [record for record in records if not record["failed"]]
        if not answered:
            return {**summary(records), "scale": [0, 10], "tokenizer": tokenizer}
        pairs = pairs_of(answered)
        known = count(pairs)
        scores = iter(cider(known))
        result = summary([record if record["failed"] else {**record, "score": next(scores)} for record in records])
        metrics = {f"bleu_{order}": value for order, value in enumerate(bleu(known), 1)}
        metrics["rouge_l"] = sum(record["score"] for record in answered) / len(answered)
        metrics["meteor"] = sum(meteor(*pair) for pair in pairs) / len(pairs)
        if similarity:
            said, given = ([record[name] for record in answered] for name in ("raw", "references"))
            metrics["similarity"] = sum(similarities(said, given, similarity)) / len(answered)
        upstream = {"score": sum(record["upstream"] for record in answered) / len(answered), "n": len(answered)}
        upstream |= {"rule": RULE.format(tokenizer), "measure": "sentence BLEU-4"}
        named = f"BLEU-4 {metrics['bleu_4']:.3f}, ROUGE-L {metrics['rouge_l']:.3f}, METEOR {metrics['meteor']:.3f}"
        remarks = [f"CIDEr-D {result['score']:.3f}, {named}, tokens by {tokenizer}"]
        result |= {"scale": [0, 10], "tokenizer": tokenizer, "upstream": upstream}
        return {**result, "metrics": metrics, "remarks": remarks}

    note = "CIDEr-D (0 to 10; papers print it times 100); a record's own score is ROUGE-L"
    return replace(of_samples([*first.values()], list, ""), score=score, summarise=summarise, counted=counted, note=note)


def _question(sample: Sample) -> tuple:
    return sample.messages[:-1], tuple(image.key for image in sample.images)
