"""SmolLM2-135M behind an OpenAI-compatible endpoint on loopback: chat and completions, requests answered in batches.

python serve.py [command …] serves while the command runs; without one until Ctrl-C. FAIL_ONE_IN=3 in its environment
makes every third request fail, which is counted and said at the end.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

DATA = Path(__file__).parent / "data"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
PORT = 8135
AT_ONCE = 16
LONGEST = 1024  # tokens of a prompt


@dataclass
class Job:
    ids: list[int]
    temperature: float
    most: int
    seed: int
    answer: Future[list[int]] = field(default_factory=Future)


class Writer(threading.Thread):
    """Takes up to AT_ONCE jobs that wait and answers them together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(DATA, gguf_file=GGUF)
        self.model = AutoModelForCausalLM.from_pretrained(DATA, gguf_file=GGUF, dtype=torch.float32).eval()
        ends = (self.tokenizer.eos_token, "<|im_end|>", "<|endoftext|>")
        self.ends = {self.tokenizer.convert_tokens_to_ids(token) for token in ends if token}
        self.waiting: queue.Queue[Job] = queue.Queue()
        self.known: tuple[list[int], DynamicCache] = [], DynamicCache()

    def run(self) -> None:
        while True:
            jobs = [self.waiting.get()]
            time.sleep(0.01)  # others may be on their way
            while len(jobs) < AT_ONCE and not self.waiting.empty():
                jobs.append(self.waiting.get())
            try:
                for job, told in zip(jobs, self.write(jobs), strict=True):
                    job.answer.set_result(told)
            except Exception as problem:  # noqa: BLE001  told to those who asked
                for job in jobs:
                    job.answer.set_exception(problem)

    @torch.inference_mode()
    def write(self, jobs: list[Job]) -> list[list[int]]:
        """Token by token; after what all prompts begin with they are padded to one length."""
        begin, past = self.begin_alike(jobs)
        own = [job.ids[begin:] for job in jobs]
        gaps = [max(map(len, own)) - len(ids) for ids in own]
        ids = torch.tensor([[0] * gap + one for gap, one in zip(gaps, own, strict=True)])
        mask = torch.tensor([[1] * begin + [0] * gap + [1] * len(one) for gap, one in zip(gaps, own, strict=True)])
        chances = [torch.Generator().manual_seed(job.seed) for job in jobs]
        told: list[list[int]] = [[] for _ in jobs]
        ended = [False] * len(jobs)
        for _ in range(max(job.most for job in jobs)):
            places = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
            out = self.model(ids, attention_mask=mask, position_ids=places, past_key_values=past, use_cache=True)
            past = out.past_key_values
            each = zip(out.logits[:, -1], jobs, chances, strict=True)
            picked = [pick(logits, job.temperature, chance) for logits, job, chance in each]
            for i, token in enumerate(picked):
                ended[i] = ended[i] or token in self.ends or len(told[i]) >= jobs[i].most
                told[i] += [] if ended[i] else [token]
            if all(ended):
                break
            ids = torch.tensor(picked)[:, None]
            mask = torch.cat([mask, torch.ones(len(jobs), 1, dtype=mask.dtype)], 1)
        return told

    def begin_alike(self, jobs: list[Job]) -> tuple[int, DynamicCache]:
        """How many tokens all prompts begin with, and keys and values of them: those of before where they serve."""
        ids, rest = self.known
        if not ids or any(job.ids[: len(ids)] != ids or len(job.ids) == len(ids) for job in jobs):
            shortest = min((job.ids for job in jobs), key=len)
            ids, rest = shortest[:-1], DynamicCache()
            while any(job.ids[: len(ids)] != ids for job in jobs):
                ids = ids[:-1]
            if ids:
                self.model(torch.tensor([ids]), past_key_values=rest, use_cache=True)
            self.known = ids, rest
        mine = copy.deepcopy(rest)
        if ids:
            mine.batch_repeat_interleave(len(jobs))
        return len(ids), mine

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the API gives. Raises ValueError for what it cannot take."""
        chat = path.endswith("/chat/completions")
        try:
            if chat:
                given = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            else:
                given = body["prompt"]
            ids = self.tokenizer(given, add_special_tokens=False)["input_ids"]
            numbers = float(body.get("temperature", 1.0)), int(body.get("max_tokens", 16)), int(body.get("seed", 0))
        except (KeyError, TypeError) as problem:
            raise ValueError(f"the request lacks something: {problem}") from problem
        if not 0 < len(ids) <= LONGEST:
            raise ValueError(f"a prompt must have 1 to {LONGEST} tokens; this one has {len(ids)}")
        job = Job(ids, *numbers)
        self.waiting.put(job)
        told = job.answer.result()
        text = self.tokenizer.decode(told)
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(told)}
        finish = "length" if len(told) >= job.most else "stop"
        return {"model": NAME, "choices": [{"index": 0, **choice, "finish_reason": finish}], "usage": usage}


def pick(logits: torch.Tensor, temperature: float, chance: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=chance))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.count_failing():
            self.reply(500, {"error": {"message": "as asked by FAIL_ONE_IN"}})
            return
        try:
            told = self.server.writer.ask(self.path, json.loads(sent))
        except ValueError as problem:
            self.reply(400, {"error": {"message": str(problem), "code": "invalid_request"}})
            return
        self.reply(200, told)

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked may be gone
            self.wfile.write(data)

    def log_message(self, *given: Any) -> None:
        """Requests hold prompts, and are not logged."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", PORT), Handler)
        self.fail_one_in = int(os.environ.get("FAIL_ONE_IN", "0"))
        self.requests = self.failed = 0
        self.lock = threading.Lock()
        self.writer = Writer()
        self.writer.start()

    def count_failing(self) -> bool:
        """Count a request; whether it is to fail."""
        with self.lock:
            self.requests += 1
            fails = self.fail_one_in > 0 and self.requests % self.fail_one_in == 0
            self.failed += fails
        return fails


def serve(command: list[str]) -> int:
    """Serve on PORT while `command` runs; its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{NAME} at http://127.0.0.1:{PORT}/v1", file=sys.stderr, flush=True)
        try:
            return subprocess.run(command, check=False).returncode if command else wait()
        finally:
            server.shutdown()
            print(f"served {server.requests} requests, of which {server.failed} failed", file=sys.stderr, flush=True)


def wait() -> int:
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
