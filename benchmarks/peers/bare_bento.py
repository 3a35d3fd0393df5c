"""BentoML endpoints without anything of ours around them: what the framework itself costs.

    bentoml serve benchmarks.peers.bare_bento:Bare      # does nothing
    bentoml serve benchmarks.peers.bare_bento:Model     # the same model, called in place

`PEER_MODEL` names the second one's model folder.
"""

from __future__ import annotations

import os

import bentoml
from pydantic import BaseModel


@bentoml.service(name="bare", workers=2, logging={"access": {"enabled": False}})
class Bare:
    """Answers as many numbers as a recommendation has items."""

    @bentoml.api
    async def recommend(self, history: list[str], k: int = 10) -> list[float]:
        return [float(len(history))] * k


class Item(BaseModel):
    item_id: str
    score: float


@bentoml.service(name="model", workers=2, logging={"access": {"enabled": False}})
class Model:
    """Answers with the model's own items."""

    def __init__(self) -> None:
        from model.predictor import Predictor

        self.predictor = Predictor.load(os.environ["PEER_MODEL"], threads=1)

    @bentoml.api
    async def recommend(self, history: list[str], k: int = 10) -> list[Item]:
        (best,) = self.predictor.recommend([history], k)
        return [Item(item_id=one.item, score=one.score) for one in best]
