"""Whether a device that a user named is there."""

from __future__ import annotations

import torch

from model.data.files import DataError


def check_device(name: str) -> str:
    """The name itself; `DataError` if torch knows no such device or cannot use it here."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise DataError(f"device {name!r} is not known to torch; give cpu or cuda") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DataError(f"device {name}: {count} usable NVIDIA GPUs here; give cpu")
    elif device.type != "cpu":
        raise DataError(f"device {name} has never been tried; give cpu or cuda")
    return name
