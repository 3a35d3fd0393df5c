"""Which runs shard their parameters."""

from __future__ import annotations

from model import train
from model.corpus import build
from model.workers import Workers


def test_the_largest_size_is_sharded_by_default_and_others_when_asked() -> None:
    corpus = build([("a", ["1", "2", "3"])])

    def sharded(*flags: str) -> bool:
        given = train.parser().parse_args(["--sequences", "s", "--out", "o", *flags])
        return train.configs(given, corpus, Workers("cpu"))[1].sharded

    assert sharded("--size", "xl")
    assert sharded("--size", "tiny", "--sharded")
    assert not sharded("--size", "base")
