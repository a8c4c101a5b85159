"""SmolLM2-135M behind an OpenAI-compatible endpoint on loopback: chat and completions, requests answered in batches.

python serve.py [port] says "ready" once it answers; it stops on SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).parent / "data"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
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
        """Token by token, prompts padded on the left."""
        length = max(len(job.ids) for job in jobs)
        ids = torch.tensor([[0] * (length - len(job.ids)) + job.ids for job in jobs])
        mask = torch.tensor([[0] * (length - len(job.ids)) + [1] * len(job.ids) for job in jobs])
        chances = [torch.Generator().manual_seed(job.seed) for job in jobs]
        told: list[list[int]] = [[] for _ in jobs]
        ended, past = [False] * len(jobs), None
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
    writer: Writer

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            told = self.writer.ask(self.path, body)
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
        self.wfile.write(data)

    def log_message(self, *given: Any) -> None:
        """Requests hold prompts, and are not logged."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Handler.writer = Writer()
    Handler.writer.start()
    with Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8135), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()
