"""The settings that the engine reads on a stand, apart from the checkout's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.engine import SETTINGS, stack_file
from local.paths import write_private


def checkout(place: Path, owner: str) -> Path:
    place.mkdir(exist_ok=True)
    (place / "Pulumi.yaml").write_text("name: shop\n", encoding="utf-8")
    (place / SETTINGS).write_text(f"config:\n  shop:owner: {owner}\n", encoding="utf-8")
    return place


def test_what_the_engine_writes_stays_in_the_copy_while_the_checkout_is_as_it_was(
    tmp_path: Path,
) -> None:
    source = checkout(tmp_path / "clone", "platform")
    copy = stack_file(tmp_path / "home", source)
    assert copy.stat().st_mode & 0o077 == 0
    changed = "config:\n  shop:owner: other\nencryptionsalt: v1:abc\n"
    copy.write_text(changed, encoding="utf-8")
    assert stack_file(tmp_path / "home", source) == copy
    assert copy.read_text(encoding="utf-8") == changed
    assert "salt" not in (source / SETTINGS).read_text(encoding="utf-8")


def test_a_changed_checkout_replaces_the_copy_but_for_its_salt(tmp_path: Path) -> None:
    source = checkout(tmp_path / "clone", "platform")
    copy = stack_file(tmp_path / "home", source)
    copy.write_text("encryptionsalt: v1:abc\nconfig:\n  shop:owner: other\n", encoding="utf-8")
    checkout(source, "search")
    stack_file(tmp_path / "home", source)
    assert copy.read_text(encoding="utf-8") == (
        "config:\n  shop:owner: search\nencryptionsalt: v1:abc\n"
    )


def test_threads_that_write_one_file_at_once_all_end_well(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_private(tmp_path / "file", str(n)), range(500)))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
