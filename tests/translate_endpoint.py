"""A chat endpoint in a process of its own that translates, errs, keeps silent and mangles placeholders by a script; and rows for it.

How a request is met depends on its text and on how often the text was asked for before, so that runs can be compared. It counts what it
has delivered. `python tests/translate_endpoint.py` prints its port.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

THINGS = {"cup": "컵", "chair": "의자", "ball": "공", "box": "상자", "flag": "깃발", "book": "책", "bag": "가방", "hat": "모자"}
PLACES = {
    "window": "창문",
    "table": "탁자",
    "door": "문",
    "wall": "벽",
    "tree": "나무",
    "car": "자동차",
    "river": "강",
    "shop": "가게",
}
COLOURS = {"red": "빨간", "blue": "파란", "green": "초록색", "black": "검은", "white": "하얀", "yellow": "노란"}
PEOPLE = {
    "Anna": "안나",
    "Ben": "벤",
    "Clara": "클라라",
    "David": "데이비드",
    "Emma": "에마",
    "Frank": "프랭크",
    "Grace": "그레이스",
}
PEOPLE |= {"Henry": "헨리", "Irene": "아이린", "Jack": "잭", "Kate": "케이트", "Leo": "리오", "Maria": "마리아", "Nick": "닉"}
PEOPLE |= {"Olivia": "올리비아", "Peter": "피터", "Rose": "로즈", "Sam": "샘", "Tom": "톰", "Vera": "베라", "Will": "윌"}
KINDS = {"old": "오래된", "new": "새", "small": "작은", "large": "큰", "wooden": "나무로 된", "cheap": "값싼"}
ASKED = {
    "What do you see in the picture?": "사진에 무엇이 보입니까?",
    "Please describe this picture.": "이 사진을 설명해 주십시오.",
    "What is near the place in the picture?": "사진 속 장소 근처에는 무엇이 있습니까?",
    "Tell me what the photo shows.": "사진에 담긴 것을 말해 주십시오.",
    "How many things can you count here?": "여기에서 몇 개를 셀 수 있습니까?",
}
BURST = 0.1
_TOLD = re.compile(r"(\w+) has (\S+) (\w+) (\w+) (\w+)s near the (\w+)\.")


def korean(text: str) -> str:
    """The translation of a sentence that `write_rows` writes."""
    if text in ASKED:
        return ASKED[text]
    told = _TOLD.fullmatch(text)
    assert told, text
    who, count, kind, colour, thing, place = told.groups()
    return f"{PEOPLE[who]}에게는 {PLACES[place]} 근처에 {KINDS[kind]} {COLOURS[colour]} {THINGS[thing]} {count}개가 있습니다."


def write_rows(folder: Path, rows: int, shards: int, sentences: int, seed: int = 0) -> int:
    """`rows` captions and conversations in so many shards, their answers among `sentences`; how many sentences there are in them."""
    chance, used = random.Random(seed), set[str]()
    folder.mkdir(parents=True, exist_ok=True)
    words = list(itertools.product(PEOPLE, KINDS, COLOURS, THINGS, PLACES))
    pool = [
        f"{who} has {chance.randint(2, 60)} {kind} {colour} {thing}s near the {place}."
        for who, kind, colour, thing, place in chance.sample(words, sentences)
    ]
    for shard in range(shards):
        lines = []
        for number in range(shard * rows // shards, (shard + 1) * rows // shards):
            asked, told = chance.choice(list(ASKED)), [chance.choice(pool)]
            told += [chance.choice(pool)] if chance.random() < 0.2 else []
            used |= {asked, *told}
            turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": "\n".join(told)}]
            lines.append(json.dumps({"id": number, "image": f"{number:06d}.jpg", "conversations": turns}) + "\n")
        (folder / f"part-{shard:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(used)


class Script:
    """What the endpoint does: a request is answered after `latency` seconds, or later where more than `rate` a second have come (what it
    has not used of the last BURST seconds counts). A silent request takes nothing of that."""

    def __init__(self, latency: float, rate: float, errors: float, silent: float, mangled: float):
        self.latency, self.rate, self.free, self.shares = latency, rate, 0.0, (errors, silent, mangled)
        self.asked, self.good, self.did = Counter[str](), Counter[str](), Counter[str]()
        self.billed: set[tuple[str, bytes]] = set()  # texts, and the keys by which a server tells a request that comes again
        self.spoilt: set[str] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = json.loads(await reader.readexactly(int(length[1]))) if length else None
                if body is None:
                    await self._send(writer, 200, self.counts())
                    continue
                text = body["messages"][-1]["content"]
                act = self._act(text)
                self.did[act] += 1
                if act == "silent":
                    await reader.read(1)  # until the other side gives up
                    break
                now = asyncio.get_running_loop().time()
                self.free = max(self.free, now - BURST) + 1 / self.rate
                await asyncio.sleep(max(self.latency, self.free - now))
                if act in ("500", "429"):
                    await self._send(writer, int(act), {"error": {"message": f"scripted {act}"}})
                    continue
                said = korean(text)
                if act == "mangled":
                    said = said.replace("⟦0⟧", "")
                choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
                await self._send(writer, 200, {"choices": [choice], "usage": {"total_tokens": len(text)}})
                if act == "good":
                    self.good[text] += 1
                    named = re.search(rb"idempotency-key: (\S+)", head, re.IGNORECASE)
                    self.billed.add((text, named[1] if named else b"%d" % self.good[text]))
        writer.close()

    def _act(self, text: str) -> str:
        attempt = self.asked[text]
        self.asked[text] += 1
        chance = int(hashlib.sha256(f"{attempt} {text}".encode()).hexdigest()[:12], 16) / 16**12
        errors, silent, mangled = self.shares
        if chance < errors:
            return "500" if chance < errors / 2 else "429"
        if chance < errors + silent:
            return "silent"
        # A second time would be refused, which depends on how often a killed run has asked.
        if chance < errors + silent + mangled and "⟦0⟧" in text and text not in self.spoilt:
            self.spoilt.add(text)
            return "mangled"
        return "good"

    def counts(self) -> dict:
        doubled = sum(count - 1 for count in self.good.values() if count > 1)
        billed = len(self.billed) - len(self.good)
        return {"did": dict(self.did), "delivered": len(self.good), "doubled": doubled, "billed_twice": billed}

    async def _send(self, writer: asyncio.StreamWriter, status: int, value: dict) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )
        await writer.drain()


class Endpoint:
    """The process, as a context; `url` for a client, `counts()` for a test."""

    def __init__(self, latency=0.03, rate=250.0, errors=0.05, silent=0.02, mangled=0.01):
        self.arguments = [str(value) for value in (latency, rate, errors, silent, mangled)]

    def __enter__(self) -> Endpoint:
        self.process = subprocess.Popen([sys.executable, __file__, *self.arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}/v1"
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    def counts(self) -> dict:
        """`did`: requests by how they were met; `delivered`: texts with a good answer; `doubled`: good answers beyond one a text, and
        `billed_twice`: those of them that a server bills which knows a request again by its Idempotency-Key."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + "/models", timeout=10) as reply:
            return json.loads(reply.read())


async def _serve(*arguments: float) -> None:
    script = Script(*arguments)
    server = await asyncio.start_server(script.answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*map(float, sys.argv[1:])))
