"""`chart-ko`: questions on Korean charts and diagrams, answered in a sentence that a judge calls right or wrong.

Items are those of any file with questions and answers that Boda's sources read; each turn is a question of its own. Judge prompts,
and figures without a judge (`metrics`), are the Small Korean VLM's (github.com/AIKU-Official/aiku-25-1-Small-Korean-VLM,
chartqa_eval): BLEU by NLTK's sentence BLEU with method1, METEOR, on words between white space, of the answer's first line. Its
ROUGE-L dropped all Hangul; here ROUGE-L is of the same words. Its accuracy takes everything but a bare "1" for wrong, failed judge
calls too; Boda reads "답: 1" as well, asks again where there is no verdict and leaves out what stays without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from boda.data.sample import IMAGE_MARK, Sample, conversation
from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.metrics.captions import meteor, rouge_l, sentence_bleu
from boda.evaluate.metrics.numbers import relaxed, relaxed_upstream
from boda.evaluate.task import Judging, Row, Task, read_options, summary, version_of
from boda.evaluate.tasks.questions import of_samples, questions

VERSION, SUFFIX, TOKENIZER = "1", " 한 문장으로 대답해주세요.", "whitespace"
RULE = 'Small Korean VLM: share of first replies that are exactly "1", of all questions'
WEIGHTS = ((1.0,), (0.5, 0.5), (0.33, 0.33, 0.33), (0.25,) * 4)  # as published
_VERDICT = re.compile(r"\W*(?:정?답|판정|평가|결과|점수)?\W*([01])\s*점?(?:입니다|이다)?\W*")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `chart-ko:PATH[:prompt=default|strict][:format=F][:images=DIR][:question=TEXT][:answer=TEXT]`."""
    path, given = read_options("chart-ko", option, "prompt", "format", "images", "question", "answer")
    words, prompt = judged.prompts("chart_ko"), given.pop("prompt", "default")
    if not path or prompt not in ("default", "strict"):
        raise BodaError("chart-ko:PATH[:prompt=default|strict] needs a file of questions and answers, and one of these prompts")
    rows = questions(path, data_dir=data_dir, **given).load(None)  # type: ignore[arg-type]
    samples = [single for row in rows for single in _singles(row.value)]

    def requests(row: Row, record: dict) -> dict[str, list[dict]]:
        asked, answer = (message.text for message in row.value.messages)
        return {"verdict": judged.chat(user=words[prompt].format(question=asked, reference=answer, answer=record["raw"]))}

    base = of_samples(samples, list, f"chart-ko:{option}")
    return replace(
        base,
        version=version_of(VERSION, [base.version, words[prompt]]),
        score=lambda row, answer: {"score": None, "gold": row.value.messages[-1].text, "tags": dict(row.value.tags)},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 100},
        note="judged right or wrong; verdicts that cannot be read are left out",
        judging=Judging(("verdict",), requests, read, {"temperature": 0, "max_tokens": 5}),
    )


def _singles(sample: Sample) -> Iterator[Sample]:
    """Each question of a conversation with its answer and all pictures, asked for one sentence."""
    turns = [message.text.strip() for message in sample.messages if message.role != "system"]
    for asked, answer in zip(turns[::2], turns[1::2]):
        question = f"{IMAGE_MARK * len(sample.images)}{asked.removesuffix(SUFFIX)}{SUFFIX}"
        rest = {"images": sample.images, "source": sample.source, "tags": sample.tags}
        yield conversation(("user", question), ("assistant", answer), **rest)  # type: ignore[arg-type]


def read(reply: str) -> dict | None:
    """The verdict of a reply: "1", "1.", "답: 1"; None where it is neither 1 nor 0, or says more."""
    found = _VERDICT.fullmatch(reply)
    return {"score": float(found[1])} if found else None


def summarise(records: Sequence[dict]) -> dict:
    """Share of answers judged right by both rules, and figures of the answers themselves."""

    def published(judgement: dict) -> float:
        return float([reply.strip() for reply in judgement["replies"][:1]] == ["1"])

    lines = judged.lines_of(records, ("verdict",), published, lambda record, _: {"images": record["images"]})
    result = summary([{**line, "score": line["boda"]} for line in lines])
    # An answer that was not to be had counts as wrong: the published sum is divided by the number of questions.
    score = sum(line["upstream"] or 0.0 for line in lines) / len(lines) if lines else None
    result |= {"upstream": {"score": score, "n": len(lines), "rule": RULE}}
    answers = [(record["raw"].strip().split("\n")[0], record["gold"].strip()) for record in records if not record["failed"]]
    return result | ({"metrics": _metrics(answers), "tokenizer": TOKENIZER} if answers else {})


def _metrics(answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Means over (answer, reference), words as they stand between white space."""
    pairs = [(answer.split(), [gold.split()]) for answer, gold in answers]
    lower = [(answer.lower().split(), [gold.lower().split()]) for answer, gold in answers]  # as NLTK's METEOR has them
    found = {f"bleu_{order}": [sentence_bleu(*pair, weights, 1) for pair in pairs] for order, weights in enumerate(WEIGHTS, 1)}
    found |= {"meteor": [meteor(*pair) for pair in lower], "rouge_l": [rouge_l(*pair) for pair in pairs]}
    for name, rule in (("relaxed_accuracy", relaxed), ("relaxed_accuracy_published", relaxed_upstream)):
        found[name] = [float(rule(answer, gold)) for answer, gold in answers]
    return {name: sum(scores) / len(scores) for name, scores in found.items()}
