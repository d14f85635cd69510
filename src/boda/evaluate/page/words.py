"""What the report's page says, in Korean and English."""

from __future__ import annotations

from boda.errors import BodaError

LANGUAGES = ("ko", "en")

WORDS: dict[str, tuple[str, str]] = {
    "title": ("평가 보고서", "Evaluation report"),
    "contents": ("목차", "Contents"),
    # scores
    "scores": ("점수", "Scores"),
    "scores_about": (
        "점수는 답을 얻은 문항의 평균이고, 구간은 이미지 단위 부트스트랩으로 구한 95% 신뢰구간입니다. "
        "답을 얻지 못한 문항은 실패로 집계하고 채점하지 않습니다.",
        "A score is the mean over the questions that were answered, with its 95 % bootstrap interval over pictures. "
        "Questions without an answer are counted as failed and not scored.",
    ),
    "overlap_about": (
        "‘구간 겹침’은 최고 점수와 95% 신뢰구간이 겹친다는 뜻으로, 점수 차이가 우연일 수 있습니다.",
        "‘interval overlaps’ means that the 95 % interval overlaps that of the highest score: the difference may be chance.",
    ),
    "model": ("모델", "Model"),
    "task": ("과제", "Task"),
    "score": ("점수", "Score"),
    "interval": ("95% 신뢰구간", "95 % interval"),
    "failed": ("실패", "Failed"),
    "wrong": ("틀림", "Wrong"),
    "right": ("맞음", "Right"),
    "apart": ("두 규칙의 채점이 다른 답", "Answers that the two rules score differently"),
    "best": ("최고", "highest"),
    "tied": ("최고, 구간 겹침", "highest, overlaps"),
    "overlaps": ("구간 겹침", "interval overlaps"),
    "scale": ("{low:g}~{high:g}점", "scale {low:g} to {high:g}"),
    "unlike": ("조건이 달라 비교하지 않음: {names}", "not compared, other conditions: {names}"),
    "blind": ("{name} (이미지 없이)", "{name} (blind)"),
    "chance": ("무작위 응답", "chance"),
    "majority": ("최빈 답으로 고정", "majority answer"),
    "train_majority_by_question": ("질문별 최빈 답", "by words alone"),
    "charts_about": ("막대는 점수, 가는 선은 95% 신뢰구간입니다.", "Bars are scores, thin lines their 95 % intervals."),
    # rules
    "upstream": ("원 채점 규칙과 비교", "Published rule and Boda"),
    "upstream_about": (
        "같은 답을 두 규칙으로 채점했습니다. 원 채점 규칙은 벤치마크가 공개한 채점기를 그대로 따르고, "
        "Boda는 한국어 답을 사람이 읽듯이 해석합니다.",
        "The same answers scored by two rules: the published scorer to the letter, and Boda, which reads Korean answers as a person would.",
    ),
    "published_rule": ("원 채점 규칙", "Published rule"),
    "difference": ("차이", "Difference"),
    "points": ("%p", "pp"),
    # answers
    "worst": ("점수가 낮은 답", "Answers that scored low"),
    "worst_about": (
        "점수가 가장 낮은 답 가운데 문항 유형별로 고르게 뽑았습니다. 전체 답은 answers.jsonl에 있습니다.",
        "Drawn from the answers that scored lowest, evenly over the kinds of questions. All answers are in answers.jsonl.",
    ),
    "answer": ("답", "Answer"),
    "reference": ("정답", "Reference"),
    "read_as": ("해석한 답", "Read as"),
    "empty": ("(빈 답)", "(empty)"),
    "reason": ("이유", "Reason"),
    "not_kept": ("이미지가 저장되지 않음", "picture not kept"),
    "picture_of": ("문항 {row}의 이미지", "picture of question {row}"),
    # groups
    "groups": ("세부 항목별 점수", "Scores by group"),
    "group": ("항목", "Group"),
    "metrics": ("그 밖의 지표", "Further metrics"),
    "metric": ("지표", "Metric"),
    "tokenizer": ("토크나이저 {name}", "tokenizer {name}"),
    # boards
    "board": ("순위표", "Board"),
    "rank": ("순위", "Rank"),
    "overlap": ("학습 데이터 중복", "Overlap with training"),
    "overlap_told": (
        "이미지 {images}, 질문 {questions} (학습 샘플 {checked}개와 비교)",
        "pictures {images}, questions {questions} (of {checked} training samples)",
    ),
    "flag": ("비고", "Note"),
    "conditions_of": ("조건", "Conditions"),
    "published": ("외부 발표 점수", "Published elsewhere"),
    "published_about": (
        "다른 곳에서 측정한 값이므로 위 표와 직접 비교할 수 없습니다.",
        "Measured by others, not comparable with the tables above.",
    ),
    "source": ("출처", "Source"),
    "judge": ("심사 모델", "Judge"),
    # speed
    "speed": ("속도와 메모리", "Speed and memory"),
    "speed_about": (
        "이 절의 값은 측정할 때마다 달라지고, 나머지는 답이 같으면 항상 같습니다.",
        "Only this section changes from run to run; the rest follows from the answers.",
    ),
    "run": ("실행", "Run"),
    "started": ("시작 시각", "Started"),
    "answering": ("소요 시간", "Time"),
    "answers_rate": ("답변/초", "Answers/s"),
    "tokens_rate": ("토큰/초", "Tokens/s"),
    "batch": ("배치", "Batch"),
    "prompt_tokens": ("프롬프트 토큰", "Prompt tokens"),
    "new_tokens": ("생성 토큰", "New tokens"),
    "images": ("이미지", "Pictures"),
    "first_token_seconds": ("첫 토큰까지", "First token"),
    "decode_tokens_per_second": ("디코딩 토큰/초", "Decode tokens/s"),
    "seed_tokens_per_second": ("토큰/초 (Small Korean VLM식)", "Tokens/s (as Small Korean VLM)"),
    "images_per_second": ("이미지/초", "Pictures/s"),
    "texts_per_second": ("텍스트/초", "Texts/s"),
    "peak_bytes": ("최대 메모리", "Peak memory"),
    "bandwidth_share": ("대역폭 사용률", "Share of bandwidth"),
    "device": ("장치", "Device"),
    "dtype": ("자료형", "Type"),
    "threads": ("스레드", "Threads"),
    "date": ("측정 시각", "Measured"),
    "bandwidth": ("메모리 대역폭", "Memory bandwidth"),
    "random": ("{name} (무작위 가중치)", "{name} (random weights)"),
    "left_out": ("배치 크기 {batch}: 측정하지 못함 ({why})", "batch size {batch}: not measured ({why})"),
    "definitions": ("정의", "Definitions"),
    # the rest
    "curves": ("학습 곡선", "Training curves"),
    "curve_of": ("{name}: 스텝별 손실과 정확도", "{name}: loss and accuracy over the steps"),
    "remarks": ("참고 사항", "Remarks"),
    "unread": ("선택지를 알아볼 수 없는 답 {n}개", "{n} answers without a readable choice"),
    "conditions": ("평가 조건", "Conditions"),
    "version": ("과제 버전", "Task version"),
    "decoding": ("디코딩", "Decoding"),
    "system": ("시스템 프롬프트", "System prompt"),
    "image_limit": ("이미지 크기 제한", "Image limit"),
    "limit": ("문항 수 제한", "Question limit"),
    "settings": ("모델 설정", "Model settings"),
    "fingerprint": ("모델 해시", "Model hash"),
    "none": ("없음", "none"),
    "unknown": ("알 수 없음", "not known"),
    "seconds": ("{n:,.1f}초", "{n:,.1f} s"),
    "made": ("Boda로 만든 보고서", "Made by Boda"),
}


def words(language: str) -> dict[str, str]:
    """All of them in a language, `lang` among them. Raises BodaError: a language that is not there."""
    if language not in LANGUAGES:
        raise BodaError(f"no language '{language}' for a report; there are {', '.join(LANGUAGES)}")
    place = LANGUAGES.index(language)
    return {"lang": language, **{name: both[place] for name, both in WORDS.items()}}
