"""Translation engines and the endpoint under them: what is asked how often, what comes back, and what is said when nothing does."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boda.data.translate.engines import ENGINES, Engine, EngineGone, open_engine
from boda.data.translate.glossary import Glossary
from boda.data.translate.protect import protect
from boda.endpoint import asked_wait
from boda.errors import BodaError
from tests import translation_servers as servers
from tests.translation_servers import TranslationServer, korean

KEY = "sk-secret-4711"
KEYS = {
    "openai": ("BODA_TRANSLATE_KEY", "OPENAI_API_KEY"),
    "deepl": ("DEEPL_API_KEY",),
    "papago": ("PAPAGO_CLIENT_ID", "PAPAGO_CLIENT_SECRET"),
}
ANSWERS = {"openai": servers.openai, "deepl": servers.deepl, "papago": servers.papago}
SERVICES = sorted(ANSWERS)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for names in KEYS.values():
        for name in names:
            monkeypatch.setenv(name, KEY)
    monkeypatch.delenv("BODA_TRANSLATE_KEY")


def engine_at(server: TranslationServer | str, name: str = "openai", **rest) -> Engine:
    model = rest.pop("model", "m" if name == "openai" else "")
    url = server if isinstance(server, str) else server.url
    return open_engine(name, model, **{"url": url, "wait": 0.01, **rest})


def serving(name: str, *script, **rest) -> TranslationServer:
    """A service that meets its requests as `script` says, one after the other, and all later ones well."""
    acts = dict(enumerate(script))
    return TranslationServer(ANSWERS[name], lambda request, number: acts.get(number, "good"), **rest)


class Waits:
    """Stands where an engine's `stop` is, and remembers how long it was to wait."""

    def __init__(self):
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False

    def is_set(self) -> bool:
        return False


# Asking a server


@pytest.mark.parametrize("name", SERVICES)
def test_texts_come_back_translated_in_their_order(name: str):
    texts = ["A dog.", "Two cats & <b>one</b> dog", "  with spaces around "]
    with serving(name) as server:
        replies = engine_at(server, name).translate(texts)
    assert [reply.text for reply in replies] == [korean(texts[0]), korean(texts[1]), "  옮김 with spaces around "]
    assert not any(reply.error for reply in replies)
    assert [reply.characters for reply in replies] == [len(text.strip()) for text in texts]


def test_connections_are_used_again():
    with serving("openai") as server:
        engine = engine_at(server)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda number: engine.translate([f"text {number}"])[0], range(80)))
        assert [reply.text for reply in replies] == [korean(f"text {number}") for number in range(80)]
        assert len(server.requests) == 80 and server.connections <= 4


def test_a_connection_that_was_closed_meanwhile_costs_no_try():
    with serving("openai", "leaves", "leaves", "leaves") as server:
        engine = engine_at(server, retries=0)
        for number in range(4):
            assert engine.translate([f"text {number}"])[0].text == korean(f"text {number}")
            time.sleep(0.05)
        assert server.connections == len(server.requests) == 4


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("act", [500, 503, 429, "close", "half", {"nothing": "in it"}])
def test_what_comes_and_goes_is_tried_again(name: str, act):
    with serving(name, act, act) as server:
        assert engine_at(server, name).translate(["A dog."])[0].text == korean("A dog.")
        assert len(server.requests) == 3


def test_waits_double_up_to_a_minute_and_a_server_may_ask_for_more():
    with serving("openai", *[500] * 7, (429, 90), (503, 1)) as server:
        engine = engine_at(server, wait=1.0, retries=9)
        engine.stop = waits = Waits()
        assert engine.translate(["A dog."])[0].text
    bounds = [1, 2, 4, 8, 16, 32, 60]
    assert all(bound / 2 <= wait <= bound for bound, wait in zip(bounds, waits.seconds))
    assert waits.seconds[7] == 90 and 30 <= waits.seconds[8] <= 60


def test_retry_after_as_a_date_and_as_nonsense():
    assert 25 < asked_wait(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert asked_wait("soon") == asked_wait(None) == asked_wait("-3") == 0 and asked_wait("1e9") == 600


def test_a_slow_reply_is_tried_again():
    with serving("openai", "slow") as server:
        assert engine_at(server, timeout=0.1).translate(["A dog."])[0].text == korean("A dog.")
        assert len(server.requests) == 2


@pytest.mark.parametrize("name", SERVICES)
def test_a_server_that_is_down_for_all_is_gone_and_no_text_is_given_up(name: str):
    with serving(name, "good", *[503] * 6) as server:  # the text, and one that asks whether it is the text's fault
        engine = engine_at(server, name, retries=2)
        assert engine.translate(["A dog."])[0].text
        with pytest.raises(EngineGone, match=r"did not answer in 3 tries \(503: scripted 503\), nor anything else"):
            engine.translate(["A cat."])
        assert engine.translate(["A cat."])[0].text == korean("A cat.")


def test_a_text_that_fails_while_others_are_answered_fails_alone():
    def behave(request, number):
        return 500 if "bad" in request.body["messages"][-1]["content"] else "good"

    with TranslationServer(servers.openai, behave) as server:
        engine = engine_at(server, retries=3, wait=0.05)
        with ThreadPoolExecutor(2) as pool:
            bad = pool.submit(engine.translate, ["bad"])
            while not bad.done():
                assert engine.translate(["A dog."])[0].text
        assert bad.result()[0].error == "the translation server did not answer in 4 tries (500: scripted 500)"


@pytest.mark.parametrize("name", SERVICES)
def test_a_text_that_always_fails_is_at_fault_where_another_is_answered(name: str):
    """Nothing else is being asked, so the engine asks whether the server is still there."""

    def behave(request, number):
        return 500 if "bad" in json.dumps(request.body) else "good"

    with TranslationServer(getattr(servers, name), behave) as server:
        replies = engine_at(server, name, retries=1, wait=0.01).translate(["A dog.", "bad", "A cat."])
        assert [reply.text for reply in replies] == [korean("A dog."), "", korean("A cat.")]
        assert "did not answer in 2 tries (500: scripted 500)" in replies[1].error


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_at_the_address(name: str):
    engine = engine_at(f"http://127.0.0.1:{free_port()}/v1", name, retries=1)
    with pytest.raises(EngineGone, match=r"^no .* at 127\.0\.0\.1:\d+/v1 \(.*refused\)[^\n]*$"):
        engine.translate(["A dog."])
    if name != "papago":  # nothing there is free to ask
        with pytest.raises(EngineGone, match="refused"):
            engine.check()


def test_who_waits_is_woken_and_the_text_is_not_given_up():
    with serving("openai", *[(503, 60)] * 5) as server:
        engine = engine_at(server)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.translate, ["A dog."])
            while not server.requests:
                time.sleep(0.01)
            engine.stop.set()
            with pytest.raises(EngineGone, match="stopped"):
                waiting.result(timeout=5)


# Keys


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_key_is_named_when_it_is_needed_and_not_before(name: str, monkeypatch):
    for variable in KEYS[name]:
        monkeypatch.delenv(variable, raising=False)
    engine = open_engine(name, "m" if name == "openai" else "")
    assert engine.identity and engine.placeholder  # what a dry run needs
    for ask in (engine.check, lambda: engine.translate(["A dog."])):
        with pytest.raises(EngineGone, match=KEYS[name][0]) as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_server_of_ones_own_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving("openai") as server:
        assert engine_at(server).translate(["A dog."])[0].text
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("name", SERVICES)
def test_a_refused_key_stops_at_once_and_is_shown_nowhere(name: str, capfd, caplog, tmp_path: Path):
    caplog.set_level(0)
    with TranslationServer(ANSWERS[name], key="another") as server:
        engine = engine_at(server, name)
        with pytest.raises(EngineGone, match=KEYS[name][-1]) as error:
            engine.translate(["A dog."])
        assert len(server.requests) == 1 and KEY in str(server.requests[0].headers)
        if name != "papago":
            with pytest.raises(EngineGone, match="does not take the key"):
                engine.check()
    shown = "".join(traceback.format_exception(error.value)) + repr(engine) + engine.identity + str(capfd.readouterr())
    assert KEY not in shown + caplog.text and "***" in str(error.value)


def test_words_of_a_server_that_repeat_the_key_lose_it():
    with TranslationServer(servers.openai, lambda request, number: 400 if number else "good") as server:
        server.answer = lambda path, body: servers.openai(path, {"messages": [{"content": f"key {KEY}"}]})
        assert engine_at(server).translate(["A dog."])[0].text == korean("key ***")
        server.behave = lambda request, number: (422, {"error": f"what a key, {KEY}"})
        assert engine_at(server).translate(["A dog."])[0].error.endswith('422: {"error": "what a key, ***"})')


def test_a_word_in_place_of_a_key_is_no_secret_that_is_struck_out_of_translations(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with serving("openai", choice("⟦0⟧은 EMPTY입니다.")) as server:
        assert engine_at(server).translate(["⟦0⟧ is EMPTY."])[0].text == "⟦0⟧은 EMPTY입니다."


@pytest.mark.parametrize(
    "url", ["http://host:abc/v1", "http://host:70000/v1", "http://[::1/v1", "http://host/한국", "http://a b/v1"]
)
def test_an_address_that_is_none_is_said_at_once(url: str):
    engine = open_engine("openai", "m", url=url)
    for ask in (engine.check, lambda: engine.translate(["A dog."])):
        with pytest.raises(BodaError, match="is no address of a translation server"):
            ask()


def test_the_key_follows_no_redirect():
    with serving("openai", 302) as server:
        with pytest.raises(EngineGone, match=r"sends elsewhere; give the address that it sends to \(302"):
            engine_at(server).translate(["A dog."])
        assert len(server.requests) == 1


def test_boda_s_own_key_comes_first(monkeypatch):
    monkeypatch.setenv("BODA_TRANSLATE_KEY", "mine")
    with serving("openai") as server:
        engine_at(server).translate(["A dog."])
        assert server.requests[0].headers["authorization"] == "Bearer mine"


def test_a_proxy_is_asked_for_the_whole_address(monkeypatch):
    with serving("openai") as server:
        monkeypatch.setenv("http_proxy", f"http://me:pass%20word@127.0.0.1:{server.port}")
        assert engine_at("http://translate.example/v1").translate(["A dog."])[0].text
        assert server.requests[0].path == "http://translate.example/v1/chat/completions"
        assert server.requests[0].headers["proxy-authorization"] == "Basic bWU6cGFzcyB3b3Jk"


def test_a_proxy_is_asked_for_a_tunnel_and_not_told_the_key(monkeypatch):
    with TranslationServer(servers.openai, lambda request, number: 502) as server:
        monkeypatch.setenv("https_proxy", f"http://me:word@127.0.0.1:{server.port}")
        with pytest.raises(EngineGone, match="502"):
            engine_at("https://translate.example/v1", retries=0).translate(["A dog."])
        assert (server.requests[0].method, server.requests[0].path) == ("CONNECT", "translate.example:443")
        assert "proxy-authorization" in server.requests[0].headers and KEY not in str(server.requests[0].headers)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls_connections_stay_open_and_certificates_are_checked(tmp_path: Path, monkeypatch):
    names = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving("openai") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.port}/v1"
        with pytest.raises(EngineGone, match=r"^no translation server at localhost.*certificate verify failed"):
            engine_at(url).translate(["A dog."])
        assert not server.requests  # and no key went out
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        engine = engine_at(url)
        for number in range(20):
            assert engine.translate([f"text {number}"])[0].text == korean(f"text {number}")
        assert server.connections == 1


@pytest.mark.parametrize(
    "name, act, said",
    [
        ("openai", (429, {"error": {"message": "You exceeded", "code": "insufficient_quota"}}), "takes no more requests"),
        ("openai", 402, "takes no more requests"),
        ("openai", 404, "has no model 'm'"),
        ("openai", 403, "does not allow this key to use 'm'"),
        ("deepl", (456, {"message": "Quota Exceeded"}), "no characters left.*456: Quota Exceeded"),
        ("papago", (429, {"error": {"errorCode": "400", "message": "Quota Exceeded"}}), "takes no more requests"),
    ],
)
def test_a_quota_that_is_used_up_stops_at_once(name: str, act, said: str):
    with serving(name, act) as server:
        with pytest.raises(EngineGone, match=said):
            engine_at(server, name).translate(["A dog."])
        assert len(server.requests) == 1


# OpenAI-compatible endpoints


def choice(text, finish: str | None = "stop") -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": {"total_tokens": 9}}


@pytest.mark.parametrize(
    "reply, error",
    [
        (choice("개가 한", "length"), "cut off after"),
        (choice("개가", "content_filter"), "content_filter"),
        (choice(None), "empty"),
        (choice(" \n "), "empty"),
        (choice("번역:\n개 한 마리."), "2 lines for one"),
    ],
)
def test_what_is_no_whole_translation_is_an_error_and_was_paid(reply: dict, error: str):
    with serving("openai", reply) as server:
        found = engine_at(server).translate(["A dog."])[0]
    assert error in found.error and found.text == "" and found.characters == 6 and found.tokens == 9


def test_a_request_as_sent():
    with serving("openai") as server:
        engine_at(server, source_language="ja").translate(["犬が一匹。" * 50])
        asked = server.requests[0].body
    assert asked["model"] == "m" and asked["temperature"] == 0.0 and asked["max_tokens"] >= 1000
    system, user = asked["messages"]
    assert system["role"] == "system" and "from Japanese into Korean" in system["content"] and "{" not in system["content"]
    assert user == {"role": "user", "content": "犬が一匹。" * 50}


def test_a_newer_name_for_the_limit_is_learnt_once():
    def behave(request, number):
        said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return (400, {"error": {"message": said}}) if "max_tokens" in request.body else "good"

    with TranslationServer(servers.openai, behave) as server:
        engine = engine_at(server, temperature=None)
        assert all(reply.text for reply in engine.translate(["A dog.", "A cat."]))
        assert len(server.requests) == 3 and "temperature" not in server.requests[0].body


def test_requests_that_are_under_way_when_it_is_learnt_are_asked_again():
    both = threading.Barrier(2)

    def behave(request, number):
        said = "Use 'max_completion_tokens' instead of 'max_tokens'."
        return (400, {"error": {"message": said}}) if "max_tokens" in request.body else "good"

    with TranslationServer(servers.openai, behave) as server, ThreadPoolExecutor(2) as pool:
        engine = engine_at(server)
        ask = engine.ask

        def ask_together(path, body, *rest):
            if "max_tokens" in body:
                both.wait(5)
            return ask(path, body, *rest)

        engine.ask = ask_together
        replies = list(pool.map(lambda text: engine.translate([text])[0], ["A dog.", "A cat."]))
    assert [reply.text for reply in replies] == [korean("A dog."), korean("A cat.")]


def test_a_retry_carries_the_same_key_and_another_question_another():
    with serving("openai", 500, "close") as server:
        engine = engine_at(server)
        engine.translate(["A dog."])
        engine.translate(["A cat."])
        engine.translate(["A dog."])  # the first answer was of no use
        sent = [request.headers["idempotency-key"] for request in server.requests]
    with serving("openai") as server:
        engine_at(server).translate(["A dog."])  # another process
        assert server.requests[0].headers["idempotency-key"] == sent[0]
    assert sent[0] == sent[1] == sent[2] and len(set(sent)) == 3


def test_a_prompt_of_ones_own(tmp_path: Path):
    path = tmp_path / "prompt.txt"
    path.write_text("{source_language}에서 옮겨 주세요.\n용어: {glossary}\n\n---\n\n글: {text}\n", encoding="utf-8")
    words = Glossary([("mask", "마스크"), ("Han River", "한강")])
    with serving("openai") as server:
        engine = engine_at(server, prompt=path, glossary=words, source_language="en")
        engine.translate(["Masks off.", "A dog {glossary}{text}."])
        first, second = (request.body["messages"] for request in server.requests)
    assert first[0]["content"] == "English에서 옮겨 주세요.\n용어: mask → 마스크" and first[1]["content"] == "글: Masks off."
    assert second[0]["content"] == "English에서 옮겨 주세요." and second[1]["content"] == "글: A dog {glossary}{text}."
    path.write_text("옮겨 주세요: {text}", encoding="utf-8")
    with serving("openai") as server:
        engine_at(server, prompt=path).translate(["A dog."])
        assert server.requests[0].body["messages"] == [{"role": "user", "content": "옮겨 주세요: A dog."}]
    path.write_text("옮겨 주세요", encoding="utf-8")
    for prompt, why in ((path, r"write \{text\}"), (tmp_path / "none.txt", "cannot be read: No such file")):
        with pytest.raises(BodaError, match=why):
            open_engine("openai", "m", prompt=prompt)


# DeepL


def test_deepl_takes_fifty_texts_and_128_kib_a_request():
    texts = [f"text {number}" for number in range(120)] + ["犬" * 4000 + str(number) for number in range(20)]
    with serving("deepl") as server:
        replies = engine_at(server, "deepl").translate(texts)
        assert [reply.text for reply in replies] == list(map(korean, texts))
        assert max(len(request.body["text"]) for request in server.requests) == 50
        assert 60_000 < max(request.size for request in server.requests) <= 128 * 1024
        before = len(server.requests)
        long, short = engine_at(server, "deepl").translate(["犬" * 30_000, "A dog."])
        assert "longer than the 128 KiB" in long.error and short.text == korean("A dog.")
        assert len(server.requests) == before + 1
    engine = open_engine("deepl")
    assert engine.texts_a_request == 50 and engine.characters_a_request * 6 < 128 * 1024


def test_deepl_s_request():
    with serving("deepl") as server:
        engine_at(server, "deepl", source_language="en", model="latency_optimized").translate(["A dog <b> & cat"])
        asked = server.requests[0]
    assert asked.path == "/v1/translate" and asked.headers["authorization"] == f"DeepL-Auth-Key {KEY}"
    assert asked.body["text"] == ["A dog &lt;b&gt; &amp; cat"] and asked.body["model_type"] == "latency_optimized"
    assert asked.body["target_lang"] == "KO" and asked.body["source_lang"] == "EN"
    assert asked.body["tag_handling"] == "xml" and asked.body["ignore_tags"] == ["x"]


@pytest.mark.parametrize("key, host", [(f"{KEY}:fx", "api-free.deepl.com/v2"), (KEY, "api.deepl.com/v2")])
def test_deepl_s_free_keys_have_a_host_of_their_own(key: str, host: str, monkeypatch):
    monkeypatch.setenv("DEEPL_API_KEY", key)
    assert open_engine("deepl").endpoint.place == host


def test_deepl_tells_what_is_left_and_what_it_bills():
    billed = {"translations": [{"text": "개.", "billed_characters": 4}]}
    with serving("deepl", "good", billed) as server:
        engine = engine_at(server, "deepl")
        assert engine.left() == 100
        assert engine.translate(['A <x id="0"/>.'])[0].characters == 4
        assert engine.translate(['A <x id="0"/>.'])[0].characters == 3
    assert open_engine("dictionary", words={"a": "한"}).left() is None


def test_deepl_s_bad_text_fails_alone():
    def behave(request, number):
        bad = any("bad" in text for text in request.body["text"])
        return (400, {"message": "Tag handling parsing failed"}) if bad else "good"

    texts = [f"text {number}" for number in range(20)]
    texts[7] = "bad"
    with TranslationServer(servers.deepl, behave) as server:
        replies = engine_at(server, "deepl").translate(texts)
    assert "parsing failed" in replies[7].error
    assert [reply.text for place, reply in enumerate(replies) if place != 7] == [
        korean(text) for text in texts if text != "bad"
    ]


@pytest.fixture(scope="module")
def deepl_server():
    with serving("deepl") as server:
        yield server


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])), min_size=1, max_size=5))
def test_any_text_survives_deepl_s_xml(deepl_server: TranslationServer, texts: list[str]):
    texts = [f"x{text}x".replace("\uffff", "").replace("\ufffe", "") for text in texts]
    engine = engine_at(deepl_server, "deepl")
    kept = [protect(text, engine.placeholder) for text in texts]
    replies = engine.translate([each.text for each in kept])
    assert [each.restore(reply.text) for each, reply in zip(kept, replies)] == [korean(text) for text in texts]


@pytest.mark.parametrize("written", ['<x id="0"/>', '<x id="0"></x>', '<x id="0" />', '<x id="0"> </x>'])
def test_deepl_s_ways_to_write_an_empty_element(written: str):
    with serving("deepl", {"translations": [{"text": f"개 {written}마리 &lt;b&gt; &amp;amp;"}]}) as server:
        found = engine_at(server, "deepl").translate(['<x id="0"/> dogs'])[0]
    assert found.text == '개 <x id="0"/>마리 <b> &amp;'


# Papago


def test_papago_s_request():
    with serving("papago") as server:
        engine = engine_at(server, "papago", source_language="zh")
        assert engine.translate(["一只狗"])[0].text == korean("一只狗")
        asked = server.requests[0]
    assert asked.path == "/v1/translation" and asked.headers["x-ncp-apigw-api-key-id"] == KEY
    assert asked.body == {"source": "zh-CN", "target": "ko", "text": "一只狗"}
    assert open_engine("papago").url == "https://papago.apigw.ntruss.com/nmt/v1"
    with pytest.raises(BodaError, match="no model"):
        open_engine("papago", "nmt")


def test_papago_takes_5_000_characters():
    with serving("papago") as server:
        long, most = engine_at(server, "papago").translate(["x" * 5001, "x" * 5000])
        assert "5,001 characters" in long.error and most.text and len(server.requests) == 1
    assert open_engine("papago").characters_a_request == 5000


@pytest.mark.parametrize("number, kind", [("410", "Throttle Limited"), ("420", "Rate Limited")])
def test_papago_s_pace_passes(number: str, kind: str):
    with serving("papago", (429, {"error": {"errorCode": number, "message": kind}})) as server:
        assert engine_at(server, "papago").translate(["A dog."])[0].text and len(server.requests) == 2


def test_papago_s_refusal_of_a_text():
    said = {"errorMessage": "unsupported target language", "errorCode": "N2MT04"}
    with serving("papago", (400, said)) as server:
        found = engine_at(server, "papago").translate(["A dog."])[0]
    assert found.error == "the Papago API refused the request (400: unsupported target language (N2MT04))"


# All of them


def test_engines_and_settings_are_named():
    with pytest.raises(BodaError, match="no translation engine 'deepl2'; there are openai, deepl"):
        open_engine("deepl2")
    with pytest.raises(BodaError, match="deepl has no setting 'prompt'; it has source_language, glossary"):
        open_engine("deepl", prompt="p.txt")
    with pytest.raises(BodaError, match="timeout is a number, not 'long'"):
        open_engine("deepl", timeout="long")
    with pytest.raises(BodaError, match="retries is a whole number, not"):
        open_engine("deepl", retries=1.5)
    with pytest.raises(BodaError, match="concurrency of at least 1"):
        open_engine("deepl", concurrency=0)
    with pytest.raises(BodaError, match="no address of a DeepL API"):
        open_engine("deepl", url="host/v2").translate(["A dog."])
    with pytest.raises(BodaError, match="needs a model"):
        open_engine("openai")
    assert set(ENGINES) == {"openai", "deepl", "papago", "local", "dictionary"}


def test_identity_is_that_of_the_translations(tmp_path: Path, monkeypatch):
    prompt, words = tmp_path / "prompt.txt", tmp_path / "words.csv"
    prompt.write_text("{text}", encoding="utf-8")
    words.write_text("source,target\nHan River,한강\n", encoding="utf-8")

    def identity(name: str = "openai", model: str = "m", **rest) -> str:
        return open_engine(name, model, **rest).identity

    same = {identity(), identity(url="http://host/v1"), identity(price=3.0, concurrency=2, timeout=5.0, retries=1)}
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    assert same == {identity()} and identity(glossary="") == identity()
    others = [
        identity(model="n"),
        identity(prompt=prompt),
        identity(glossary=words),
        identity(temperature=0.5),
        identity(source_language="en"),
        identity("deepl", ""),
        identity("papago", ""),
        identity("dictionary", words={"a": "한"}, model=""),
        identity("dictionary", words={"a": "한번"}, model=""),
    ]
    assert len({*same, *others}) == 1 + len(others)


def test_price():
    engine = open_engine("deepl", price=25.0)
    assert engine.price_of(2_000_000) == 50.0 and open_engine("deepl").price_of(10**9) == 0


def test_dictionary_word_by_word(tmp_path: Path):
    path = tmp_path / "words.tsv"
    path.write_text("source\ttarget\ndog\t개\nfire-truck\t소방차\n", encoding="utf-8")
    engine = open_engine("dictionary", str(path))
    assert [reply.text for reply in engine.translate(["A Dog, ⟦0⟧ dogs", "a fire-truck's"])] == [
        "A 개, ⟦0⟧ dogs",
        "a fire-truck's",
    ]
    assert (
        engine.translate(["One fire-truck."])[0].text == "One 소방차."
        and engine.identity == open_engine("dictionary", path).identity
    )
    with pytest.raises(BodaError, match="needs a file of words"):
        open_engine("dictionary")


def test_many_threads_get_their_own_answers():
    script = Counter()
    lock = threading.Lock()

    def behave(request, number):
        with lock:
            text = request.body["messages"][-1]["content"]
            script[text] += 1
            return [500, "close", "half", "good"][int(text[5:]) % 4] if script[text] == 1 else "good"

    with TranslationServer(servers.openai, behave) as server:
        engine = engine_at(server)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda number: engine.translate([f"text {number}"])[0], range(100)))
    assert [reply.text for reply in replies] == [korean(f"text {number}") for number in range(100)]
    assert len(server.requests) == 175 and json.dumps([reply.tokens for reply in replies]) == str([7] * 100)
