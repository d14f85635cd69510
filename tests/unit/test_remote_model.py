"""Models behind an address: what is sent, what is counted, what fails alone and what ends a run that can go on."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import boda.evaluate
from boda.endpoint import Endpoint
from boda.errors import BodaError
from boda.evaluate.answers import answerer, read_answers
from boda.evaluate.remote import RemoteModel, data_url
from boda.evaluate.task import Row, Task, summary
from boda.evaluate.tasks import make_task
from tests.judge_server import JudgeServer

KEY = "sk-secret-of-a-test"


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """A key, and no waiting between tries."""
    for name in ("BODA_API_KEY", "OPENAI_API_KEY", "BODA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BODA_API_KEY", KEY)
    whole = Endpoint.__init__
    monkeypatch.setattr(Endpoint, "__init__", lambda *given, **named: whole(*given, **{"wait": 0.001, "retries": 3, **named}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Six questions, each on a picture of its own."""
    lines = []
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        messages = [{"role": "user", "content": f"<image>{number}번 색은?"}, {"role": "assistant", "content": "빨강"}]
        lines.append(json.dumps({"messages": messages, "images": [f"{number}.png"]}, ensure_ascii=False))
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(server: JudgeServer | str, file: Path, **rest):
    url = server if isinstance(server, str) else f"{server.url}#some/model"
    out = rest.pop("out", file.parent / "out")
    return next(iter(boda.evaluate.run(url, [f"questions:{file}"], out, quiet=True, **rest).values()))


def text_of(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_pictures_go_as_they_are_and_what_it_took_is_recorded(file: Path):
    with JudgeServer(key=KEY, say=lambda body: "빨강" if "3번" in text_of(body) else "파랑") as server:
        assert run(server, file)["score"] == pytest.approx(1 / 6)
    body = next(body for body in server.bodies if "3번" in text_of(body))
    assert body["model"] == "some/model" and body["temperature"] == 0.0 and body["max_tokens"] == 64
    (message,) = body["messages"]
    kind, _, data = message["content"][0]["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == (file.parent / "3.png").read_bytes()
    records = read_answers(file.parent / "out")
    assert {record["tokens"] for record in records} == {2} and {record["prompt_tokens"] for record in records} == {2}
    assert all(record["seconds"] > 0 for record in records)
    found = json.loads((file.parent / "out/results.json").read_text(encoding="utf-8"))
    assert found["model"] == found["fingerprint"] == f"{server.url}#some/model" and found["settings"] == {}
    (speed,), (conditions,) = found["speed"].values(), found["conditions"].values()
    assert speed["seconds"] == pytest.approx(sum(record["seconds"] for record in records), abs=0.01)
    assert speed["tokens_per_second"] == pytest.approx(2 * speed["answers_per_second"]) and speed["peak_bytes"] is None
    decoding = {"temperature": 0.0, "max_new_tokens": 64}
    version = found["tasks"][f"questions:{file}"]["version"]
    assert conditions == {
        "version": version,
        "decoding": decoding,
        "system": "",
        "image_limit": None,
        "limit": None,
        "judge": None,
    }
    written = [path.read_text(encoding="utf-8") for path in (file.parent / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3 and not any(KEY in text for text in written)


def test_as_many_are_asked_at_the_same_time_as_a_batch_has(file: Path):
    with JudgeServer(lambda number, attempt: "slow", delay=0.2, say=lambda body: "빨강") as server:
        assert run(server, file, batch_size=3)["score"] == 1
    assert server.most_at_once == 3


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_pictures_that_servers_may_see_otherwise_are_written_anew(tmp_path: Path):
    picture = Image.new("RGB", (40, 20), (200, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    picture.save(tmp_path / "plain.jpg")
    picture.save(tmp_path / "plain.bmp")
    picture.save(tmp_path / "plain.webp")
    picture.quantize(4).save(tmp_path / "plain.gif")
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (40, 20), (0, 0, 200))])
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    for name, kind in (("plain.jpg", "jpeg"), ("plain.webp", "webp"), ("plain.gif", "gif")):
        kept = data_url(str(tmp_path / name))
        assert (
            kept.startswith(f"data:image/{kind};")
            and base64.b64decode(kept.partition(",")[2]) == (tmp_path / name).read_bytes()
        )
    upright = decoded(data_url(tmp_path / "turned.jpg"))
    assert upright.format == "PNG" and upright.size == (20, 40)
    assert decoded(data_url(tmp_path / "plain.bmp")).format == "PNG"
    assert decoded(data_url(tmp_path / "glass.png")).getpixel((5, 5)) == (255, 255, 255)
    moving = decoded(data_url(tmp_path / "moving.gif"))
    assert moving.format == "PNG" and moving.convert("L").getpixel((5, 5)) == Image.new("RGB", (1, 1), (200, 0, 0)).convert(
        "L"
    ).getpixel((0, 0))
    written = data_url(picture)
    assert decoded(written).tobytes() == picture.tobytes()
    assert data_url(base64.b64decode(written.partition(",")[2])) == data_url(written) == written


def test_larger_pictures_are_shrunk_and_smaller_ones_are_not(file: Path):
    Image.new("RGB", (20, 10)).save(file.parent / "0.png")
    with JudgeServer(say=lambda body: "빨강") as server:
        run(server, file, image_limit=24)
        with pytest.raises(BodaError, match="image limit was 24 and is 12"):
            run(server, file, image_limit=12)
    sizes = {text_of(body)[0]: decoded(body["messages"][0]["content"][0]["image_url"]["url"]).size for body in server.bodies}
    assert sizes["0"] == (20, 10) and {sizes[str(number)] for number in range(1, 6)} == {(24, 18)}


@pytest.mark.parametrize("first", [500, 429, 408, "close"])
def test_what_comes_and_goes_is_tried_again(first, file: Path):
    with JudgeServer(lambda number, attempt: first if attempt == 0 else "good", say=lambda body: "빨강") as server:
        found = run(server, file)
    assert found["score"] == 1 and found["failed"] == 0 and len(server.bodies) == 12


def test_a_refused_row_and_a_broken_picture_fail_alone_and_are_asked_again(file: Path):
    cut = (file.parent / "4.png").read_bytes()
    (file.parent / "4.png").write_bytes(cut[: len(cut) // 2])
    too_long = (400, "This model's maximum context length is 8192 tokens")
    with JudgeServer(say=lambda body: too_long if "2번" in text_of(body) else "빨강") as server:
        found = run(server, file)
        assert (found["n"], found["failed"], found["score"]) == (4, 2, 1)
        failed = {record["row"]: record["error"] for record in read_answers(file.parent / "out") if record["failed"]}
        assert "maximum context length" in failed["2"] and "4.png is cut off" in failed["4"]
        before, server.say = len(server.bodies), lambda body: "빨강"
        found = run(server, file)
    assert (found["n"], found["failed"]) == (5, 1) and len(server.bodies) == before + 1


@pytest.mark.parametrize(
    "status, words",
    [
        (401, "does not take the key; put the right one into BODA_API_KEY or OPENAI_API_KEY"),
        (403, "does not allow this key"),
        (404, "has no model 'some/model'"),
        (402, "takes no more requests from this account"),
        (307, "sends elsewhere; give the address that it sends to"),
    ],
)
def test_what_no_try_changes_ends_the_run_which_goes_on_as_if_nothing_had_been(status: int, words: str, file: Path):
    with JudgeServer(lambda number, attempt: status if number >= 3 else "good", say=lambda body: "빨강") as server:
        with pytest.raises(BodaError, match=rf"{words}.*3 of 6 answers of .* are saved; the same command goes on"):
            run(server, file, batch_size=1)
        server.behave = lambda number, attempt: "good"
        run(server, file)
        whole = run(server, file, out=file.parent / "whole")
    assert len(server.bodies) == 4 + 3 + 6
    tasks = [
        json.loads((file.parent / name / "results.json").read_text(encoding="utf-8"))["tasks"] for name in ("out", "whole")
    ]
    assert tasks[0] == tasks[1] and tasks[0][f"questions:{file}"]["score"] == whole["score"] == 1


def test_answers_under_way_are_kept_when_the_run_ends(file: Path):
    def behave(number: int, attempt: int):
        return 401 if number == 3 else "slow"

    with JudgeServer(behave, delay=0.3, say=lambda body: "빨강") as server, pytest.raises(BodaError, match="are saved"):
        run(server, file, batch_size=4)
    assert len([record for record in read_answers(file.parent / "out") if not record["failed"]]) == 3


def test_nobody_there_and_a_key_that_is_not_taken_are_said_before_anything_is_asked(file: Path, monkeypatch):
    with pytest.raises(BodaError, match=r"no model at 127.0.0.1:9/v1 .*; start it, or give another address"):
        run("http://127.0.0.1:9/v1#m", file, out=file.parent / "nobody")
    monkeypatch.setenv("BODA_API_KEY", "sk-of-somebody-else")
    with JudgeServer(key=KEY) as server, pytest.raises(BodaError, match="does not take the key") as caught:
        run(server, file, out=file.parent / "out")
    assert "sk-of-somebody-else" not in str(caught.value) and not server.bodies
    assert not (file.parent / "out/answers.jsonl").exists()


def test_an_answer_in_parts_and_one_of_nothing(file: Path):
    parts = [{"type": "thinking", "thinking": "음"}, {"type": "text", "text": "빨"}, {"type": "text", "text": "강"}]
    with JudgeServer(say=lambda body: "" if "2번" in text_of(body) else parts) as server:
        found = run(server, file)
    assert (found["n"], found["failed"], found["score"]) == (6, 0, pytest.approx(5 / 6))


def test_replies_that_are_none_fail_their_row_and_the_first_is_shown(file: Path, capsys):
    with JudgeServer(say=lambda body: 7 if "2번" in text_of(body) else "빨강") as server:
        found = boda.evaluate.run(f"{server.url}#m", [f"questions:{file}"], file.parent / "out")
    assert found[f"questions:{file}"]["failed"] == 1
    assert "1 of 6 could not be answered; the first: the model did not answer in 4 tries" in capsys.readouterr().err


def test_a_server_that_calls_the_limit_otherwise(file: Path):
    def say(body: dict):
        if "max_tokens" in body:
            return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return "빨강" if body["max_completion_tokens"] == 64 else "?"

    with JudgeServer(say=say) as server:
        assert run(server, file, batch_size=1)["score"] == 1
    assert len(server.bodies) == 7  # learnt once


def test_a_system_text_and_blind(file: Path):
    with JudgeServer(say=lambda body: "빨강") as server:
        run(server, file, system="짧게 답하세요.", blind=True)
        with pytest.raises(BodaError, match=r"system was '짧게 답하세요\.' and is ''"):
            run(server, file, system="", blind=True)
    first = server.bodies[0]["messages"]
    assert [message["role"] for message in first] == ["system", "user"] and first[0]["content"] == "짧게 답하세요."
    assert isinstance(first[1]["content"], str) and "번 색은?" in first[1]["content"]
    found = json.loads((file.parent / "out/results.json").read_text(encoding="utf-8"))
    assert found["conditions"][f"questions:{file}"]["system"] == found["system"] == "짧게 답하세요."


def test_turns_of_a_conversation_add_up(file: Path):
    def follow(row: Row, answers: list[str]) -> list[dict]:
        turns = [{"role": "user", "content": "하나"}, {"role": "assistant", "content": answers[0]}]
        return [*turns, {"role": "user", "content": "둘"}]

    task = Task(
        "talk",
        "1",
        lambda limit: [Row("0", None)],
        lambda row: [{"role": "user", "content": "하나"}],
        lambda row, answer: {"score": 1.0},
        summary,
        {"max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9, "stop": ["끝"], "seed": 3, "within_context": True},
        turns=2,
        follow=follow,
    )
    with JudgeServer(say=lambda body: "네" * len(body["messages"])) as server:
        boda.evaluate.run(f"{server.url}#m", [task], file.parent / "out", quiet=True, system="")
    (record,) = read_answers(file.parent / "out")
    assert record["answers"] == ["네", "네네네"] and record["tokens"] == 4
    sent = {name: value for name, value in server.bodies[1].items() if name != "messages"}
    assert sent == {"model": "m", "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "stop": ["끝"], "seed": 3}


def test_a_limit_beyond_the_context_is_what_is_left_of_it(file: Path):
    """Where the task says that it may be; of other tasks, and where no limit helps, the row fails."""

    def say(body: dict):
        if "5번" in text_of(body) or body.get("max_tokens", body.get("max_completion_tokens", 0)) > 100:
            return (
                400,
                "'max_tokens' or 'max_completion_tokens' is too large. This model's maximum context length is 200 tokens",
            )
        return "빨강"

    task = make_task(f"questions:{file}")
    with JudgeServer(say=say) as server:
        for within, answered in ((True, 5), (False, 0)):
            decoding = {"temperature": 0.0, "max_new_tokens": 500, "within_context": within}
            each = replace(task, name=f"within {within}", decoding=decoding)
            found = boda.evaluate.run(f"{server.url}#m", [each], file.parent / "out", quiet=True)
            assert found[each.name]["n"] == answered


def test_stop_strings_of_a_task_come_to_the_models_own():
    with JudgeServer(say=lambda body: "네") as server:
        ask = RemoteModel(f"{server.url}#m", {"stop": ["###"], "top_p": 1.0})
        ask([[{"role": "user", "content": "가"}]], {"max_new_tokens": 4, "stop": ["끝"]})
        ask([[{"role": "user", "content": "나"}]], {"max_new_tokens": 4})
    assert [(body["stop"], body["top_p"]) for body in server.bodies] == [(["###", "끝"], 1.0), (["###"], 1.0)]


@pytest.mark.parametrize(
    "url, rest, why",
    [
        ("https://host/v1", {}, r"which model at host/v1\? name it"),
        ("https://me:pw@host/v1#m", {}, "holds a password"),
        ("https://#m", {}, "no address of a model"),
        ("https://host/v1#m", {"processes": 2}, "an address is asked as it is"),
        ("https://host/v1#m", {"engine": "vllm"}, "an address is asked as it is"),
        ("https://host/v1#m", {"engine": "sglang"}, "no engine 'sglang'; there are transformers, vllm"),
        ("https://host/v1#m", {"image_limit": 0}, "image limit 0: at least 1"),
    ],
)
def test_mistakes_are_named(url: str, rest: dict, why: str, file: Path):
    with pytest.raises(BodaError, match=why):
        run(url, file, **rest)


def test_what_is_measured_asks_no_address(tmp_path: Path):
    with pytest.raises(BodaError, match="an address gives no vectors"):
        boda.evaluate.run("https://host/v1#m", ["drawn-pairs"], tmp_path / "out", quiet=True)


def test_the_name_has_nothing_of_a_query():
    found = answerer("https://host/v1?token=abc#m")
    assert found.name == found.fingerprint == "https://host/v1#m"
