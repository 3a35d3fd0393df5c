"""A BentoML endpoint that does nothing: what the framework itself costs, request to answer.

bentoml serve benchmarks.peers.bare_bento:Bare
"""

from __future__ import annotations

import bentoml


@bentoml.service(name="bare", workers=2, logging={"access": {"enabled": False}})
class Bare:
    """Answers as many numbers as a recommendation has items."""

    @bentoml.api
    async def recommend(self, history: list[str], k: int = 10) -> list[float]:
        return [float(len(history))] * k
