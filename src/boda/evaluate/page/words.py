"""What the report's page says, in Korean and English."""

from __future__ import annotations

LANGUAGES = ("ko", "en")

WORDS: dict[str, tuple[str, str]] = {
    "title": ("평가 보고서", "Evaluation report"),
    "models": ("모델", "models"),
    "tasks": ("과제", "tasks"),
    "contents": ("차례", "Contents"),
    # scores
    "scores": ("점수", "Scores"),
    "scores_about": (
        "점수는 답을 얻은 문항의 평균이고, 구간은 사진을 다시 뽑아 얻은 95 % 부트스트랩 구간입니다. "
        "답을 얻지 못한 문항은 실패로 세고 채점하지 않습니다.",
        "A score is the mean over the questions that were answered, with its 95 % bootstrap interval over pictures. "
        "Questions without an answer are counted as failed and not scored.",
    ),
    "overlap_about": (
        "‘구간 겹침’은 가장 높은 점수와 95 % 구간이 겹친다는 뜻입니다. 그 차이는 우연일 수 있습니다.",
        "‘interval overlaps’ means that the 95 % interval overlaps that of the highest score: the difference may be chance.",
    ),
    "model": ("모델", "Model"),
    "task": ("과제", "Task"),
    "score": ("점수", "Score"),
    "interval": ("95 % 구간", "95 % interval"),
    "failed": ("실패", "Failed"),
    "wrong": ("오답", "Wrong"),
    "right": ("맞음", "Right"),
    "apart": ("두 규칙이 다르게 채점한 답", "Answers that the two rules score differently"),
    "best": ("가장 높음", "highest"),
    "tied": ("가장 높음, 겹침", "highest, overlaps"),
    "overlaps": ("구간 겹침", "interval overlaps"),
    "scale": ("{low:g}~{high:g}점", "scale {low:g} to {high:g}"),
    "unlike": ("조건이 달라 비교하지 않음: {names}", "not compared, other conditions: {names}"),
    "blind": ("{name}, 그림 없이", "{name}, blind"),
    "chance": ("무작위로 답할 때", "chance"),
    "majority": ("가장 흔한 답만 할 때", "majority answer"),
    "train_majority_by_question": ("질문의 말만 볼 때", "by words alone"),
    "charts_about": ("막대는 점수, 가는 선은 95 % 구간입니다.", "Bars are scores, thin lines their 95 % intervals."),
    # rules
    "upstream": ("발표된 규칙과 Boda", "Published rule and Boda"),
    "upstream_about": (
        "같은 답을 두 규칙으로 채점했습니다. 발표된 규칙은 원래 채점기를 글자 그대로 따르고, Boda는 사람이 읽듯이 한국어 답을 읽습니다.",
        "The same answers scored by two rules: the published scorer to the letter, and Boda, which reads Korean answers as a person would.",
    ),
    "rule": ("규칙", "Rule"),
    "published_rule": ("발표된 규칙", "Published rule"),
    "difference": ("차이", "Difference"),
    "points": ("%p", "pp"),
    # answers
    "worst": ("가장 나쁜 답", "Worst answers"),
    "worst_about": (
        "점수가 가장 낮은 답에서 문항 종류마다 고르게 뽑았습니다. 모든 답은 answers.jsonl에 있습니다.",
        "Drawn from the answers that scored lowest, evenly over the kinds of questions. All answers are in answers.jsonl.",
    ),
    "question": ("질문", "Question"),
    "answer": ("답", "Answer"),
    "reference": ("정답", "Reference"),
    "read_as": ("읽은 답", "Read as"),
    "empty": ("(빈 답)", "(empty)"),
    "reason": ("이유", "Reason"),
    "no_picture": ("그림 없음", "no picture"),
    "not_kept": ("그림이 저장되지 않음", "picture not kept"),
    "picture_of": ("문항 {row}의 그림", "picture of question {row}"),
    # groups
    "groups": ("갈래별 점수", "Scores by group"),
    "group": ("갈래", "Group"),
    "metrics": ("그 밖의 측정값", "Further metrics"),
    "metric": ("측정값", "Metric"),
    "tokenizer": ("토크나이저 {name}", "tokenizer {name}"),
    # boards
    "board": ("순위표", "Board"),
    "rank": ("순위", "Rank"),
    "overlap": ("학습 자료와 겹침", "Overlap with training"),
    "overlap_told": (
        "그림 {images}, 질문 {questions} (학습 표본 {checked}개와 비교)",
        "pictures {images}, questions {questions} (of {checked} training samples)",
    ),
    "flag": ("표시", "Flag"),
    "conditions_of": ("조건", "Conditions"),
    "published": ("따로 발표된 점수", "Published elsewhere"),
    "published_about": (
        "다른 곳에서 잰 값이라 위의 표와 견줄 수 없습니다.",
        "Measured by others, not comparable with the tables above.",
    ),
    "source": ("출처", "Source"),
    "judge": ("심판", "Judge"),
    # speed
    "speed": ("속도와 메모리", "Speed and memory"),
    "speed_about": (
        "이 절만 잴 때마다 달라집니다. 나머지는 같은 답에서 늘 같습니다.",
        "Only this section changes from run to run; the rest follows from the answers.",
    ),
    "run": ("실행", "Run"),
    "started": ("시작", "Started"),
    "answering": ("답한 시간", "Answering"),
    "answers_rate": ("답/초", "Answers/s"),
    "tokens_rate": ("토큰/초", "Tokens/s"),
    "batch": ("배치", "Batch"),
    "tokens": ("토큰", "tokens"),
    "prompt_tokens": ("프롬프트 토큰", "Prompt tokens"),
    "new_tokens": ("새 토큰", "New tokens"),
    "images": ("그림", "Pictures"),
    "first_token_seconds": ("첫 토큰", "First token"),
    "decode_tokens_per_second": ("토큰/초", "Decode tokens/s"),
    "seed_tokens_per_second": ("토큰/초 (발표된 정의)", "Tokens/s (seed's definition)"),
    "images_per_second": ("그림/초", "Pictures/s"),
    "texts_per_second": ("글/초", "Texts/s"),
    "peak_bytes": ("최대 메모리", "Peak memory"),
    "bandwidth_share": ("대역폭 사용률", "Share of bandwidth"),
    "definitions": ("정의", "Definitions"),
    # the rest
    "curves": ("학습 곡선", "Training curves"),
    "curve_of": ("{name}: 단계마다의 손실과 정확도", "{name}: loss and accuracy over the steps"),
    "remarks": ("덧붙이는 말", "Remarks"),
    "unread": ("읽을 수 있는 선택이 없는 답 {n}개", "{n} answers without a readable choice"),
    "conditions": ("조건", "Conditions"),
    "version": ("판", "Version"),
    "decoding": ("디코딩", "Decoding"),
    "system": ("시스템 글", "System text"),
    "image_limit": ("그림 한도", "Image limit"),
    "limit": ("문항 한도", "Question limit"),
    "settings": ("모델의 설정", "The model's settings"),
    "fingerprint": ("지문", "Fingerprint"),
    "own": ("모델의 것", "the model's own"),
    "none": ("없음", "none"),
    "unknown": ("모름", "not known"),
    "seconds": ("{n:,.1f}초", "{n:,.1f} s"),
    "made": ("Boda가 만든 보고서", "Made by Boda"),
}


def words(language: str) -> dict[str, str]:
    """All of them in a language, `lang` among them."""
    place = LANGUAGES.index(language)
    return {"lang": language, **{name: both[place] for name, both in WORDS.items()}}
