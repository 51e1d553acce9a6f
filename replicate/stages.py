"""When is an output stale? When the hash of everything that went into it differs from the one written beside it.

Time stamps decide nothing, so clones, copies and interrupted builds agree. Light on purpose: no torch, no numpy.
"""

import ast
import functools
import hashlib
import json
import sys
from pathlib import Path

from replicate import paths
from replicate.errors import UserError


@functools.cache
def code_hash(modules: tuple[str, ...]) -> str:
    """Hash of modules (paths below the package) as syntax trees: comments, layout and docstrings do not count."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse((paths.PACKAGE / module).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                body[0].value.value = ""
        digest.update(f"{module}\n{_dumped(tree)}\n".encode())
    return digest.hexdigest()[:16]


def _dumped(tree: ast.AST) -> str:
    """The tree as text, the same in Python 3.11 and later ones: as 3.11 writes it."""
    options = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **options).replace(", type_params=[]", "")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def text_hash(path: Path) -> str:
    """Hash of a file's text, such as a lock file's."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def fingerprint(inputs: dict) -> str:
    """Hash of a JSON-able dict, independent of the order of its keys."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derived_seed(*parts) -> int:
    """A seed (0 to 2^63 - 1) from names and numbers: repeated configurations are trainings of their own."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def write_output(path: Path, hash_: str, content: dict) -> None:
    """Write a stage's output with the hash of what went in and a checksum, atomically. Raises UserError on a full disk."""
    body = json.dumps({"fingerprint": hash_, **content}).removesuffix("}")
    paths.write_text(path, f'{body}, "checksum": "{_checksum(body)}"}}\n')


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def read_output(path: Path, hash_: str | None = None) -> dict | None:
    """A stage's output; None if it is absent or, where `hash_` is given, stale. Raises UserError if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        found, checksum = content["fingerprint"], content.pop("checksum", None)  # older outputs have none
        if checksum is not None and checksum != _checksum(text.rpartition(', "checksum"')[0]):
            raise ValueError("its checksum is another")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}): delete it and run the same command again") from error
    return content if hash_ is None or found == hash_ else None
