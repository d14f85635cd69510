"""The engine that runs models on this machine, on tiny random checkpoints of its families."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from boda.data.translate.engines import EngineGone, open_engine
from boda.errors import BodaError
from tests import tiny
from tests.tiny_build import fast, save_weights

TEXTS = [
    "A dog.",
    "Two cats sit on a table.",
    "Yes",
    "서울 Seoul 2024",
    "The dog and the cat and the bird",
]
CODES = ["eng_Latn", "jpn_Jpan", "kor_Hang"]


def pieces(*specials: str):
    """Vocabulary and merges of a tokenizer whose pieces carry their space; brackets of placeholders are unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", *specials],
        initial_alphabet=list("0123456789[]"),
        show_progress=False,
    )
    trained.train_from_iterator([*tiny.korean_lines(), *TEXTS], trainer)
    return trained


def finish(model, tokenizer, folder: Path, ends: int) -> Path:
    """Saved with so many of the vocabulary's ids as ends, by which a random model comes to one."""
    model.generation_config.eos_token_id = [2, *range(20, 20 + ends)]
    save_weights(model, folder)
    tokenizer.save_pretrained(folder)
    return folder


def nllb(folder: Path, ends: int = 100, lean: float = 0.0) -> Path:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    trained = pieces()
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = NllbTokenizer(vocab=trained.get_vocab(), merges=merges, additional_special_tokens=CODES)
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=256,
        init_std=0.5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = M2M100ForConditionalGeneration(config)
    with torch.no_grad():  # so much likelier is its own end
        model.model.decoder.layer_norm.bias += bool(lean)
        model.model.shared.weight[2] += lean
    return finish(model, tokenizer, folder, ends)


def madlad(folder: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = fast(pieces("<2ko>"), None, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return finish(T5ForConditionalGeneration(config), tokenizer, folder, 60)


def chat(folder: Path, ends: int = 60) -> Path:
    shutil.copytree(tiny.language_folder("qwen3"), folder, dirs_exist_ok=True)
    path = folder / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(said | {"eos_token_id": [*said["eos_token_id"], *range(100, 100 + ends)]}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    made = {"nllb": nllb, "madlad": madlad, "chat": chat}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in made.items()}


def engine_of(model: Path, **rest):
    return open_engine("local", str(model), **{"source_language": "en", "device": "cpu", **rest})


@pytest.mark.parametrize("name, beams", [("nllb", 1), ("nllb", 3), ("madlad", 3), ("chat", 1)])
def test_a_text_is_translated_alone_as_in_company(name: str, beams: int, models):
    engine = engine_of(models[name], beams=beams, batch_size=3)
    together, alone = engine.translate(TEXTS), [engine.translate([text])[0] for text in TEXTS]
    assert together == alone
    assert len({reply.text for reply in together}) >= 3 and any(reply.error for reply in together)


def test_an_nllb_answers_in_korean_from_the_language_it_was_told(models, monkeypatch):
    from transformers import M2M100ForConditionalGeneration

    seen = []
    generate = M2M100ForConditionalGeneration.generate

    def spy(self, **given):
        made = generate(self, **given)
        seen.append((given["input_ids"], made))
        return made

    monkeypatch.setattr(M2M100ForConditionalGeneration, "generate", spy)
    for language, code in (("en", "eng_Latn"), ("ja", "jpn_Jpan"), ("jpn_Jpan", "jpn_Jpan")):
        engine = engine_of(models["nllb"], source_language=language)
        engine.translate(TEXTS[:2])
        inputs, made = seen.pop()
        ids = engine._tokenizer.convert_tokens_to_ids
        assert (inputs[:, 0] == ids(code)).all() and (made[:, 1] == ids("kor_Hang")).all()


@pytest.mark.parametrize("language", ["auto", "xx"])
def test_a_model_that_must_be_told_the_source_language(language: str, models):
    with pytest.raises(EngineGone, match=f"a source language that it knows; '{language}' is none"):
        engine_of(models["nllb"], source_language=language).translate(["A dog."])
    assert engine_of(models["madlad"], source_language=language).translate(["A dog."])


def test_a_madlad_is_told_the_target_language(models, monkeypatch):
    from transformers import T5ForConditionalGeneration

    seen = []
    generate = T5ForConditionalGeneration.generate
    monkeypatch.setattr(
        T5ForConditionalGeneration, "generate", lambda self, **given: (seen.append(given), generate(self, **given))[1]
    )
    engine = engine_of(models["madlad"])
    engine.translate(["A dog."])
    assert engine._tokenizer.decode(seen[0]["input_ids"][0]).startswith("<2ko>") and "forced_bos_token_id" not in seen[0]


def test_a_chat_model_is_asked_by_the_prompt(models, monkeypatch, tmp_path):
    from transformers import Qwen3ForCausalLM

    seen = []
    generate = Qwen3ForCausalLM.generate
    monkeypatch.setattr(Qwen3ForCausalLM, "generate", lambda self, **given: (seen.append(given), generate(self, **given))[1])
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{source_language}에서 옮겨 주세요.\n---\n{text}", encoding="utf-8")
    engine = engine_of(models["chat"], prompt=prompt)
    engine.translate([" A dog."])
    said = engine._tokenizer.decode(seen[0]["input_ids"][0])
    assert said.startswith(
        "<|im_start|>system\nEnglish에서 옮겨 주세요.<|im_end|>\n<|im_start|>user\nA dog.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert seen[0]["do_sample"] is False


@pytest.mark.parametrize("make", [nllb, chat])
def test_what_does_not_come_to_an_end_is_an_error(make, tmp_path: Path):
    reply = engine_of(make(tmp_path, ends=0)).translate(["A dog."])[0]
    assert reply.text == "" and "cut off after" in reply.error and reply.tokens > 64


@pytest.mark.parametrize("name", ["nllb", "chat"])
def test_a_text_that_is_too_long_is_refused_and_the_others_are_not(name: str, models):
    engine = engine_of(models[name])
    long, short = engine.translate(["dog cat " * 3000, "A dog."])
    assert "tokens are more than" in long.error and short == engine.translate(["A dog."])[0]


def test_placeholders_are_written_so_that_the_model_can(models):
    assert engine_of(models["nllb"]).placeholder == "[[{}]]"  # ⟦ is unknown to it
    assert engine_of(models["chat"]).placeholder == "⟦{}⟧"
    engine = engine_of(models["nllb"])
    ids = engine._tokenizer(f"a {engine.placeholder.format(12)} b").input_ids
    assert engine._tokenizer.unk_token_id not in ids


def test_what_cannot_be_used_is_said(models, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BodaError, match="needs a model"):
        open_engine("local")
    with pytest.raises(EngineGone, match="cannot be loaded"):
        engine_of(tmp_path / "none").check()
    with pytest.raises(EngineGone, match="cannot be loaded"):
        engine_of(m2m100(tmp_path, b"")).check()
    with pytest.raises(EngineGone, match="is no chat model"):
        engine_of(tiny.language_folder("gpt_neox")).translate(["A dog."])


def test_identity(models):
    nllb, chat = (
        (lambda **rest: engine_of(models["nllb"], **rest).identity),
        (lambda **rest: engine_of(models["chat"], **rest).identity),
    )
    assert nllb() == nllb(batch_size=2, concurrency=2)
    assert len({nllb(), nllb(beams=3), nllb(source_language="ja"), chat(), chat(beams=3)}) == 5


def test_training_goes_on_and_the_identity_changes(models, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(models["nllb"], tmp_path / "copy")
    before = engine_of(models["nllb"]).settings()
    assert engine_of(copy).settings() == before
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    assert engine_of(copy).settings() != before


def m2m100(folder: Path, trained) -> Path:
    """The tokenizer in its published files: a sentencepiece model and its vocabulary."""
    (folder / "sentencepiece.bpe.model").write_bytes(trained)
    words = [*"▁ 0 1 2 3 4 5 6 7 8 9".split(), "▁A", "▁dog", "."]
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    settings = {"tokenizer_class": "M2M100Tokenizer", "language_codes": "m2m100", "src_lang": "en"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    torch.manual_seed(0)
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16) | {"encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(vocabulary) + 110, **sizes, **heads))
    save_weights(model, folder)
    return folder


def test_an_m2m100_is_told_both_languages(tmp_path: Path, monkeypatch):
    import sentencepiece
    from transformers import M2M100ForConditionalGeneration

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["A dog."] * 50), model_writer=(model := io.BytesIO()), vocab_size=14, hard_vocab_limit=False
    )
    seen = []
    generate = M2M100ForConditionalGeneration.generate
    monkeypatch.setattr(
        M2M100ForConditionalGeneration, "generate", lambda self, **given: (seen.append(given), generate(self, **given))[1]
    )
    engine = engine_of(m2m100(tmp_path, model.getvalue()))
    engine.translate(["A dog."])
    ids = engine._tokenizer.convert_tokens_to_ids
    assert seen[0]["input_ids"][0, 0] == ids("__en__") and seen[0]["forced_bos_token_id"] == ids("__ko__")
    with pytest.raises(EngineGone, match="'xx' is none"):
        engine_of(tmp_path, source_language="xx").translate(["A dog."])


def test_a_converted_model_without_its_library(models, tmp_path: Path, monkeypatch):
    import builtins

    shutil.copytree(models["nllb"], tmp_path / "converted")
    (tmp_path / "converted/model.bin").write_bytes(b"")
    original = builtins.__import__

    def without(name, *rest):
        if name == "ctranslate2":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineGone, match=r"pip install 'boda\[translate\]'"):
        engine_of(tmp_path / "converted").translate(["A dog."])


def test_a_converted_model_translates_as_the_original(tmp_path: Path):
    from ctranslate2.converters import TransformersConverter

    original = nllb(tmp_path / "original", ends=0, lean=0.2)
    TransformersConverter(str(original)).convert(str(tmp_path / "converted"))
    for file in original.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "converted")
    expected = engine_of(original).translate(TEXTS)
    assert engine_of(tmp_path / "converted").translate(TEXTS) == expected
    assert len({reply.text for reply in expected}) >= 3
