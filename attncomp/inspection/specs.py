"""Spec files on the command line: the pattern that is meant, and whether examples hold."""

from __future__ import annotations

from typing import Any, Final

import torch

from attncomp.api import CompiledPattern, Library, load
from attncomp.errors import CallError, ExampleError, OptionError
from attncomp.frontend.ast import Expr
from attncomp.frontend.catalog import REQUIRED
from attncomp.frontend.library import SUFFIX
from attncomp.frontend.parser import parse
from attncomp.frontend.specfile import Example
from attncomp.inspection.drawing import as_characters

_LOGITS_RANK: Final = 4  # [B or 1, Hq, Nq, Nk]: what a mask needs beside the tensors of a call


def is_file(spec: str) -> bool:
    """Whether SPEC names a spec file, rather than being a pattern."""
    return spec.endswith(SUFFIX)


def pattern_of(spec: str, library: str | None) -> Expr:
    """The pattern that SPEC is, or the one in the file that it names; `library` is a path.

    Raises PatternError, and OptionError for a file without a pattern, or with several, that need
    no arguments.
    """
    if not is_file(spec):
        return parse(spec, library=None if library is None else load(library))
    if library is not None:
        raise OptionError(subject="--library", expected="a pattern as SPEC", found=f"file {spec}")
    found = load(spec)
    ready = [
        name
        for name in found
        if all(p.default is not REQUIRED for p in found.definition(name).parameters)
    ]
    if len(ready) != 1:
        signatures = ", ".join(map(found.signature, found)) or "none that is not private"
        raise OptionError(
            subject=spec,
            expected="one pattern that needs no arguments, or the pattern as SPEC and this file as "
            "--library",
            found=signatures,
        )
    return found.expand(ready[0], ())


def check_examples(library: Library) -> tuple[str, bool]:
    """A line for each example, with both pictures beside each other where they differ.

    The second part says whether all examples hold. Raises PatternError for an example that has no
    picture at all.
    """
    lines: list[str] = []
    holds = True
    for example in library.examples:
        found = draw_example(example)
        right = found == example.picture
        place = f"{example.span.source.name}:{example.span.line}"
        text = " ".join(example.text.split())
        lines.append(f"{'ok   ' if right else 'wrong'}  {place}  {text}")
        if not right:
            lines += _beside(example.picture, found)
        holds &= right
    if not lines:
        lines.append(f"{library.path} has no examples")
    return "\n".join(lines) + "\n", holds


def draw_example(example: Example) -> tuple[str, ...]:
    """The gates of an example's pattern as rows of characters, for as many heads, queries and keys
    as its picture has. Scores and logits with fewer dimensions are those of one row and head.

    Raises ExampleError for tensors that do not fit.
    """
    pattern = CompiledPattern(example.expand())
    tensors: dict[str, Any] = tensors_of(example, pattern)
    try:
        gates = pattern.mask(*example.sides, heads=example.n_heads, batch=1, **tensors)
    except CallError as error:
        raise ExampleError(example.span, reason=str(error)) from error
    drawn = [as_characters(head) for head in gates[0].expand(example.n_heads, -1, -1)]
    return tuple("\n".join(drawn).rstrip("\n").split("\n"))


def tensors_of(example: Example, pattern: CompiledPattern) -> dict[str, torch.Tensor]:
    """The tensors that an example gives its pattern."""
    ranks = {name: shape.count(",") + 1 for name, shape in pattern.shapes.items()}
    return {
        name: torch.tensor(value).long()
        if name in pattern.integer_tensors
        else _batched(torch.tensor(value, dtype=torch.float64), ranks.get(name, _LOGITS_RANK))
        for name, value in example.tensors.items()
    }


def _batched(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    return tensor.reshape((1,) * (rank - tensor.dim()) + tuple(tensor.shape))


def _beside(expected: tuple[str, ...], found: tuple[str, ...]) -> list[str]:
    """Two pictures of one size, with a mark at the rows that differ."""
    width = max(len("expected"), len(expected[0]))
    lines = [f"       {'expected':{width}}  found"]
    for left, right in zip(expected, found, strict=True):
        mark = "" if left == right else "  <"
        lines.append(f"       {left:{width}}  {right}{mark}".rstrip())
    return lines
