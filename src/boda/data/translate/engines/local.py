"""A model on this machine: NLLB, MADLAD, M2M100, mBART, OPUS, any other sequence-to-sequence model, or a chat model asked by a prompt."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from boda.data.translate.engines import Engine, EngineGone, Reply, checked
from boda.data.translate.engines.prompt import Prompt
from boda.errors import BodaError

# Codes as FLORES and NLLB write them, and mBART's; others are given as the model has them.
_FLORES = (
    "ar=arb_Arab de=deu_Latn en=eng_Latn es=spa_Latn fr=fra_Latn id=ind_Latn it=ita_Latn ja=jpn_Jpan pt=por_Latn "
    "ru=rus_Cyrl th=tha_Thai vi=vie_Latn zh=zho_Hans"
)
_MBART = "ar=ar_AR de=de_DE en=en_XX es=es_XX fr=fr_XX id=id_ID it=it_IT ja=ja_XX pt=pt_XX ru=ru_RU th=th_TH vi=vi_VN zh=zh_CN"
# The token that a Korean translation starts with, by which a family is known -> its names of languages, and its tokens of them.
_STARTS: dict[str, tuple[str, str]] = {"kor_Hang": (_FLORES, "{}"), "__ko__": ("", "__{}__"), "ko_KR": (_MBART, "{}")}
_PREFIXES = ("<2ko>", ">>kor<<", ">>kor_Hang<<", ">>ko<<")  # ... or that goes before the text
_SAMPLED = 1 << 20  # bytes
_PLACEHOLDERS = ("⟦{}⟧", "[[{}]]", "<{}>", "({})", "#{}#")


@dataclass
class Translator(Engine):
    """`model` is a folder, a hub id or a folder that CTranslate2 converted; `beams` are those of its search; `prompt` is for chat models.

    `device` and `dtype` are torch's; None: the GPU in bf16 if there is one, else the CPU in fp32. Without remote code.
    """

    name: ClassVar[str] = "local"
    texts_a_request: ClassVar[int] = 64

    concurrency: int = 1
    prompt: str | Path = ""
    beams: int = 1
    batch_size: int = 16
    device: Any = None
    dtype: Any = None

    def __post_init__(self):
        super().__post_init__()
        if not self.model or self.beams < 1 or self.batch_size < 1:
            raise BodaError("the engine local needs a model (a folder or a hub id), and beams and a batch size of at least 1")
        self._prompt = Prompt(self.prompt)
        self._lock = threading.RLock()
        self._is_converted = (Path(self.model) / "model.bin").is_file()

    def settings(self) -> dict[str, Any]:
        prompt = "" if self._is_seq2seq else self._prompt.text
        return {"beams": self.beams, "prompt": prompt, "weights": _fingerprint(Path(self.model))}

    @cached_property
    def placeholder(self) -> str:  # type: ignore[override]
        """One whose letters the model knows: what is unknown to it is lost on the way."""
        for known in _PLACEHOLDERS if self._is_seq2seq else ():  # the prompt explains the first to others
            said = known.format(12)
            ids = self._tokenizer(f"a {said} b", add_special_tokens=False).input_ids
            if said in self._tokenizer.decode(ids, skip_special_tokens=True).replace(" ", ""):
                return known
        return _PLACEHOLDERS[0]

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._loaded(AutoConfig)

    @property
    def _is_seq2seq(self) -> bool:
        return self._is_converted or bool(self._config.is_encoder_decoder)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        found = self._loaded(AutoTokenizer)
        if not self._is_seq2seq and not found.chat_template:
            raise EngineGone(f"{self.model} is no chat model: its tokenizer has no template for messages")
        if found.pad_token is None:
            found.pad_token = found.eos_token
        return found

    def _loaded(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self.model, **options)
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineGone(f"the model {self.model} cannot be loaded: {why}") from error

    def _id(self, token: str) -> int | None:
        found = self._tokenizer.convert_tokens_to_ids(token)
        return None if found == self._tokenizer.unk_token_id else found

    @cached_property
    def _start(self) -> int | None:
        """The token that makes the answer Korean, the tokenizer having been told the source language; None: it needs none."""
        for token, (names, written) in _STARTS.items():
            if (found := self._id(token)) is None:
                continue
            code = dict(pair.split("=") for pair in names.split()).get(self.source_language, self.source_language)
            if self._id(written.format(code)) is None:
                raise EngineGone(
                    f"{self.model} has to be told a source language that it knows; '{self.source_language}' is none"
                )
            self._tokenizer.src_lang = code
            return found
        return None

    @cached_property
    def _prefix(self) -> str:
        known = next((token for token in _PREFIXES if self._id(token) is not None), "")
        return known and f"{known} "

    @cached_property
    def _runner(self) -> _Torch | _Converted:
        return _Converted(self) if self._is_converted else _Torch(self)

    def check(self) -> None:
        with self._lock:
            self._ids("a")  # whether it can be asked, before the weights are read
            self._runner  # noqa: B018

    def translate(self, texts: list[str]) -> list[Reply]:
        with self._lock:
            run, rows = self._runner, [self._ids(text) for text in texts]
            replies: dict[int, Reply] = {}
            order = sorted(range(len(texts)), key=lambda place: (len(rows[place]), place))
            fitting = [place for place in order if len(rows[place]) + self._limit(texts[place]) * run.is_causal <= run.most]
            for first in range(0, len(fitting), self.batch_size):
                places = fitting[first : first + self.batch_size]
                limits = [min(self._limit(texts[place]), run.most - 1) for place in places]
                for place, limit, made in zip(places, limits, run([rows[place] for place in places], max(limits))):
                    tokens = len(rows[place]) + min(len(made), limit)
                    is_whole = bool(made) and made[-1] in run.ends and len(made) <= limit
                    if is_whole:  # ... in this company as alone, where the limit is its own
                        text = self._tokenizer.decode(made, skip_special_tokens=True)
                        replies[place] = checked(texts[place], text, len(texts[place]), tokens)
                    else:
                        replies[place] = Reply(error=f"the translation was cut off after {limit} tokens", tokens=tokens)
            said = f"tokens are more than {self.model} reads at once ({run.most})"
            return [replies.get(place) or Reply(error=f"{len(rows[place])} {said}") for place in range(len(texts))]

    def _limit(self, text: str) -> int:
        """Tokens that no translation of a text needs: a longer one has run into a circle."""
        return 3 * len(self._tokenizer(text, add_special_tokens=False).input_ids) + 64

    def _ids(self, text: str) -> list[int]:
        if self._is_seq2seq:
            self._start  # noqa: B018  before the text: it tells the tokenizer the source language
            return self._tokenizer(self._prefix + text.strip()).input_ids
        messages = self._prompt.messages(text.strip(), self.source_language, self.glossary)
        # Models that think before they answer are told not to; others do not look at it.
        said = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return self._tokenizer(said, add_special_tokens=False).input_ids


class _Torch:
    """A transformers model: rows of ids -> what it made of each, up to its end token if it came to one."""

    def __init__(self, engine: Translator):
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        on_gpu = torch.cuda.is_available()
        device = engine.device or ("cuda" if on_gpu else "cpu")
        half = on_gpu and str(device) != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False)
        kind = AutoModelForSeq2SeqLM if engine._is_seq2seq else AutoModelForCausalLM
        self.model = engine._loaded(kind, dtype=engine.dtype or (torch.bfloat16 if half else torch.float32)).to(device).eval()
        self.engine, self.is_causal = engine, not engine._is_seq2seq
        self.most = getattr(engine._config, "max_position_embeddings", None) or 1 << 30
        ends = self.model.generation_config.eos_token_id
        ends = engine._tokenizer.eos_token_id if ends is None else ends
        self.ends = {ends} if isinstance(ends, int) else set(ends)

    def __call__(self, rows: Sequence[list[int]], limit: int) -> list[list[int]]:
        import torch

        engine = self.engine
        side = "left" if self.is_causal else "right"
        inputs = engine._tokenizer.pad({"input_ids": list(rows)}, padding_side=side, return_tensors="pt").to(self.model.device)
        options = {"do_sample": False, "num_beams": engine.beams, "max_new_tokens": limit, "eos_token_id": sorted(self.ends)}
        if not self.is_causal and engine._start is not None:
            options["forced_bos_token_id"] = engine._start
        with torch.inference_mode():
            made = self.model.generate(**inputs, pad_token_id=engine._tokenizer.pad_token_id, **options)
        skipped = inputs["input_ids"].shape[1] if self.is_causal else 1
        return [_to_end(row[skipped:], self.ends) for row in made.tolist()]


class _Converted:
    """A folder that CTranslate2 converted, its tokenizer copied into it; as _Torch."""

    is_causal, most = False, 1 << 30

    def __init__(self, engine: Translator):
        try:
            import ctranslate2
        except ImportError:
            why = "is a CTranslate2 model, for which ctranslate2 is needed: pip install 'boda[translate]'"
            raise EngineGone(f"{engine.model} {why}") from None
        self.engine, self.ends = engine, {engine._tokenizer.eos_token_id}
        device = str(engine.device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu"))
        try:
            self.model = ctranslate2.Translator(engine.model, device=device)
        except (RuntimeError, ValueError) as error:
            raise EngineGone(f"the model {engine.model} cannot be loaded: {str(error).splitlines()[0]}") from error

    def __call__(self, rows: Sequence[list[int]], limit: int) -> list[list[int]]:
        engine, tokenizer = self.engine, self.engine._tokenizer
        start = [] if engine._start is None else [tokenizer.convert_ids_to_tokens(engine._start)]
        made = self.model.translate_batch(
            [tokenizer.convert_ids_to_tokens(row) for row in rows],
            target_prefix=[start] * len(rows) if start else None,
            beam_size=engine.beams,
            max_decoding_length=limit,
            max_input_length=0,
            return_end_token=True,
        )
        return [_to_end(tokenizer.convert_tokens_to_ids(each.hypotheses[0]), self.ends) for each in made]


def _fingerprint(folder: Path) -> str:
    """The same for copies of a folder, another after training went on: both ends of its weights. "" for a hub id."""
    found = hashlib.sha256()
    files = sorted(each for each in folder.glob("*") if each.suffix in (".safetensors", ".bin"))
    for file in files:
        with file.open("rb") as stream:
            found.update(f"{file.name} {file.stat().st_size} ".encode() + stream.read(_SAMPLED))
            stream.seek(max(0, file.stat().st_size - _SAMPLED))
            found.update(stream.read())
    return found.hexdigest()[:16] if files else ""


def _to_end(ids: list[int], ends: set[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    return ids if end is None else ids[: end + 1]
