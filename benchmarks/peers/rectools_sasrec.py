# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false
# The peer's packages live in the environment that `benchmarks.model` makes, not in ours.
"""RecTools' SASRec on a sequence file: predictions in our format, or its training speed.

    uv run --no-project --with "rectools[torch]" python benchmarks/peers/rectools_sasrec.py \
        --train train.txt.gz --out pred.tsv --width 64 --blocks 2 --heads 1 --dropout 0.1

As its authors document it: constant learning rate, each user's last training item held out, early
stopping on recall@10 of it, the best epoch's weights, no further fit. With `--state`, a run that
was killed goes on after its last whole epoch. Speed runs train with the library's own code; the
others work out the same losses in less time (`Sparing`). The last line on stdout is a JSON record.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pandas as pd
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.ligr import LiGRLayers


def read(path: Path) -> Any:
    """Events of a sequence file; the day number is the place in the sequence."""
    users: list[str] = []
    items: list[str] = []
    places: list[int] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as stream:
        for line in stream:
            user, *events = line.split()
            users += [user] * len(events)
            items += events
            places += range(len(events))
    days = pd.Timestamp("2000-01-01") + pd.to_timedelta(places, unit="D")
    return pd.DataFrame(
        {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: days}
    )


def last_of_each(events: Any) -> Any:
    """Mask of each user's last event: what is held out for early stopping."""
    rank = events.groupby(Columns.User)[Columns.Datetime].rank(method="first", ascending=False)
    return (rank <= 1).to_numpy()


class NextItem(torch.autograd.Function):
    """Cross-entropy of states (n, W) over all keys (V, W), or over target and negatives (n, m).

    Some rows at a time, each with its gradient at once: never more than `ROWS` rows of logits.
    """

    ROWS = 1024

    @staticmethod
    def forward(ctx: Any, states: Any, keys: Any, targets: Any, negatives: Any) -> Any:
        to_states, to_keys, total = torch.empty_like(states), torch.zeros_like(keys), 0.0
        for first in range(0, len(targets), NextItem.ROWS):
            rows = slice(first, first + NextItem.ROWS)
            logits = states[rows] @ keys.T
            chosen = targets[rows, None]
            if negatives is None:
                log_chance = logits.log_softmax(1)
                total -= log_chance.gather(1, chosen).sum().item()
                by_logit = log_chance.exp_()
                by_logit.scatter_add_(1, chosen, torch.full_like(by_logit[:, :1], -1))
            else:
                chosen = torch.cat([chosen, negatives[rows]], 1)
                log_chance = logits.gather(1, chosen).log_softmax(1)
                total -= log_chance[:, 0].sum().item()
                by_chosen = log_chance.exp_()
                by_chosen[:, 0] -= 1
                by_logit = torch.zeros_like(logits).scatter_add_(1, chosen, by_chosen)
            to_states[rows] = by_logit @ keys
            to_keys.addmm_(by_logit.T, states[rows])
        ctx.save_for_backward(to_states / len(targets), to_keys / len(targets))
        return states.new_tensor(total / len(targets))

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        to_states, to_keys = ctx.saved_tensors
        return slopes[0] * to_states, slopes[0] * to_keys, None, None


class Sparing(TransformerLightningModule):
    """The library's softmax losses where there is a target, not at every padded place.

    The first step of a run compares loss and gradients with the library's own and stops if they
    differ. Validation gives the loss at the last place alone and recall@10 without seen items.
    """

    compared = False

    def on_train_start(self) -> None:
        """The library draws new weights here, also over those of a run that goes on."""
        if self.trainer.current_epoch == 0:
            super().on_train_start()

    def training_step(self, batch: Any, *_: Any) -> Any:
        """One batch of x, y, yw (B, L) and, for sampled losses, negatives (B, L, m)."""
        keys = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, keys)
        if not self.compared:
            self.compare(batch, states[:4].detach(), keys.detach())
        loss = self.next_item(batch, states, keys)
        self.log(self.train_loss_name, loss, on_step=False, on_epoch=True)
        return loss

    def next_item(self, batch: Any, states: Any, keys: Any) -> Any:
        """Our form of the loss over the first `len(states)` sequences."""
        targets, negatives = batch["y"][: len(states)], batch.get("negatives")
        real = targets != 0
        drawn = None if negatives is None else negatives[: len(states)][real]
        return NextItem.apply(states[real], keys, targets[real], drawn)

    def compare(self, batch: Any, states: Any, keys: Any) -> None:
        """Raise if the library's own loss or a gradient of it is another."""
        count, both = len(states), []
        drawn = batch.get("negatives")
        targets = batch["y"][:count]
        among = None if drawn is None else torch.cat([targets[..., None], drawn[:count]], -1)
        for own in (True, False):
            given = [states.clone().requires_grad_(), keys.clone().requires_grad_()]
            if own:
                logits = self.torch_model.similarity_module(*given, among) / self.logits_t
                loss = self.loss_calculator(logits, targets, batch["yw"][:count])
            else:
                loss = self.next_item(batch, *given)
            both.append([loss, *torch.autograd.grad(loss, given)])
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
        self.compared = True

    def validation_step(self, batch: Any, *_: Any) -> Any:
        """Loss and recall@10 of the one held-out item, y (B, 1)."""
        keys = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, keys)[:, -1:]
        loss = self.next_item(batch, states, keys)
        scores = (states[:, 0] @ keys.T).scatter(1, batch["x"], float("-inf"))
        found = (scores.topk(10).indices == batch["y"]).any(1).float().mean()
        size = len(states)
        self.log(self.val_loss_name, loss, on_step=False, on_epoch=True, batch_size=size)
        self.log("recall@10", found, on_step=False, on_epoch=True, batch_size=size)
        return {"loss": loss}


class Clock(Callback):
    """Targets and seconds of training, batches made included, after the first `skip` steps."""

    def __init__(self, skip: int) -> None:
        self.skip, self.targets, self.steps = skip, 0, 0
        self.wall = self.cpu = 0.0
        self._from = (0.0, 0.0)
        self._before = (0.0, 0.0)
        self._began = (time.perf_counter(), time.process_time())

    @property
    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds of the whole fit, runs that were killed included."""
        now = (time.perf_counter(), time.process_time())
        return tuple(b + n - f for b, n, f in zip(self._before, now, self._began, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Part of a checkpoint."""
        return {"spent": self.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._before = state_dict["spent"]

    def on_train_batch_end(self, *step: Any) -> None:
        """Lightning gives trainer, module, outputs, batch and its number."""
        now = (time.perf_counter(), time.process_time())
        if self.skip > 0:
            self.skip -= 1
            self._from = now
            return
        self.wall, self.cpu = now[0] - self._from[0], now[1] - self._from[1]
        self.targets += int((step[3]["y"] != 0).sum())
        self.steps += 1


class Resuming(lightning.Trainer):
    """Goes on from the last whole epoch in `state`, if there is one."""

    def __init__(self, state: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.last = state / "last.ckpt"

    def fit(self, *args: Any, **settings: Any) -> None:
        """Like `Trainer.fit`."""
        super().fit(*args, ckpt_path=self.last if self.last.exists() else None, **settings)


class Say(Callback):
    """One line an epoch on stderr."""

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        told = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        print(f"peer epoch {trainer.current_epoch + 1}: {told}", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    flag = argparse.ArgumentParser(description=__doc__)
    flag.add_argument("--train", type=Path, required=True)
    flag.add_argument("--out", type=Path, help="predictions; without it only speed is measured")
    flag.add_argument("--k", type=int, default=100)
    flag.add_argument("--width", type=int, required=True)
    flag.add_argument("--blocks", type=int, required=True)
    flag.add_argument("--heads", type=int, required=True)
    flag.add_argument("--dropout", type=float, required=True)
    flag.add_argument("--length", type=int, required=True)
    flag.add_argument("--loss", choices=["softmax", "sampled_softmax"], default="softmax")
    flag.add_argument("--negatives", type=int, default=256)
    flag.add_argument("--epochs", type=int, default=100)
    flag.add_argument("--patience", type=int, default=50)
    flag.add_argument("--batch", type=int, default=128)
    flag.add_argument("--seed", type=int, default=0)
    flag.add_argument("--ligr", type=int, default=0, help="gated layers, SwiGLU of so many widths")
    flag.add_argument("--steps", type=int, default=20, help="steps of a speed run")
    flag.add_argument("--threads", type=int)
    flag.add_argument("--state", type=Path, help="folder of an unfinished run")
    args = flag.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    speed = args.out is None
    folder = args.state or Path(tempfile.mkdtemp())
    last = folder / "last.ckpt"
    # a run that goes on must not draw what its first epochs drew
    ready = torch.load(last, weights_only=False)["epoch"] + 1 if last.exists() else 0
    lightning.seed_everything(args.seed + 1000 * ready, verbose=False)
    clock = Clock(5)
    best = ModelCheckpoint(folder, monitor="recall@10", mode="max")
    latest = ModelCheckpoint(folder, filename="last", enable_version_counter=False)

    def trainer() -> Any:
        watch = [clock] if speed else [
            clock, Say(), EarlyStopping("recall@10", patience=args.patience, mode="max"),
            best, latest,
        ]  # fmt: skip
        return Resuming(
            folder, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=not speed,
            max_epochs=args.epochs, max_steps=args.steps + 5 if speed else -1, callbacks=watch,
        )  # fmt: skip

    # a speed run has our architecture, the others that of the authors' settings
    how: dict[str, Any] = {} if speed else {"lightning_module_type": Sparing}
    if args.ligr:
        how |= {
            "transformer_layers_type": LiGRLayers,
            "transformer_layers_kwargs": {"ff_factors_multiplier": args.ligr, "bias_in_ff": speed},
            "use_key_padding_mask": not speed,
        }
    model = SASRecModel(
        n_factors=args.width, n_blocks=args.blocks, n_heads=args.heads, dropout_rate=args.dropout,
        session_max_len=args.length, loss=args.loss, n_negatives=args.negatives, lr=1e-3,
        batch_size=args.batch, get_trainer_func=trainer,
        get_val_mask_func=None if speed else last_of_each, **how,
    )  # fmt: skip
    events = read(args.train)
    model.fit(Dataset.construct(events))
    # the library fits with a copy of the trainer
    used = model.fit_trainer.callbacks
    clock = next(one for one in used if isinstance(one, Clock))
    wall, cpu = clock.spent
    record: dict[str, Any] = {
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "steps": clock.steps,
        "targets": clock.targets,
        "items_per_second": clock.targets / max(clock.wall, 1e-9),
        "items_per_cpu_second": clock.targets / max(clock.cpu, 1e-9),
        "parameters": sum(p.numel() for p in model.torch_model.parameters()),
        "torch": torch.__version__,
    }
    if not speed:
        kept = (one for one in used if isinstance(one, ModelCheckpoint))
        path = Path(next(one.best_model_path for one in kept if one.monitor == "recall@10"))
        model.lightning_model.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
        record["epoch"] = int(path.stem.split("=")[1].split("-")[0]) + 1
        users = list(dict.fromkeys(events[Columns.User]))
        lists = model.recommend(
            users,
            Dataset.construct(events),
            k=args.k,
            filter_viewed=True,
            on_unsupported_targets="warn",
        )
        with args.out.open("w", encoding="utf-8") as stream:
            for user, rows in lists.groupby(Columns.User, sort=False):
                stream.write(f"{user}\t{' '.join(map(str, rows[Columns.Item]))}\n")
    if args.state is None:
        shutil.rmtree(folder)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
