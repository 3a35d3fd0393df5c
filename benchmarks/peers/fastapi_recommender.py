"""The service that one writes first: FastAPI, the same network, one model call per request.

    uv run --with fastapi python -m uvicorn benchmarks.peers.fastapi_recommender:app --workers 2

`PEER_MODEL` names the model folder. One torch thread per worker, uvloop and httptools, no access
log. The handler is a coroutine that computes in place: with one core per worker that is faster
than FastAPI's thread pool, whose threads only take turns. Same weights and same answers as the
bento: every item scored, item links added, seen items left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI  # pyright: ignore[reportMissingImports]  in its own environment only
from pydantic import BaseModel

from model.checkpoint import load_model
from model.packing import pack

torch.set_num_threads(1)
loaded = load_model(Path(os.environ["PEER_MODEL"]))
net, links, fusion = loaded.net, loaded.links, loaded.manifest.fusion
keys = net.keys().detach()
index = {item: number for number, item in enumerate(loaded.items)}
app = FastAPI()


class Ask(BaseModel):
    history: list[str]
    k: int = 10


class Item(BaseModel):
    item_id: str
    score: float


class Answer(BaseModel):
    items: list[Item]
    model_version: str


@app.get("/readyz")
async def ready() -> str:
    return "yes"


@app.post("/recommend")
async def recommend(ask: Ask) -> Answer:
    seen = np.array([index[item] for item in ask.history if item in index], dtype=np.int64)
    with torch.inference_mode():
        batch = pack([seen[-net.config.max_length :]], net.config.max_length)
        state = net.encode(batch, net.rows(batch.items))[batch.ends][0]
        scores = keys @ state
        if links is not None and fusion.weight > 0:
            scores += fusion.weight * links.score([seen], fusion.decay)[0]
        scores[torch.from_numpy(seen)] = float("-inf")
        best = scores.topk(ask.k)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Answer(
        items=[Item(item_id=loaded.items[place], score=score) for place, score in pairs],
        model_version=loaded.manifest.version,
    )
