"""Checkpoints: plain tensors and numbers only, written whole or not at all, read without executing anything."""

import hashlib
import io
import pickle
import zipfile
import zlib
from pathlib import Path

import torch

from replicate import paths
from replicate.errors import UserError


def save(path: Path, state: dict) -> None:
    """Write a dict of tensors, numbers, strings and dicts of them. Raises UserError where the disk does not take it."""
    buffer = io.BytesIO()  # so that a full disk is an OSError here and not an abort inside torch's writer
    torch.save(state, buffer)
    with paths.atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(path: Path, device: str = "cpu") -> dict:
    """Read a checkpoint under weights_only=True. Raises UserError for one that is damaged or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save wrote
            if damaged := archive.testzip():
                raise ValueError(f"checksum of {damaged}")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, NotImplementedError, pickle.UnpicklingError,
            zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path}: damaged checkpoint ({reason}): delete it and run again") from error


def sha256(path: Path) -> str | None:
    """Hex digest of a checkpoint file; None where there is none."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
