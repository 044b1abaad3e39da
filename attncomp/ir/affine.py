"""Integer expressions over the indices of a pair, in a canonical form.

    Affine  :=  constant + sum of coefficient * term
    term    :=  index | Quotient(Affine, divisor) | Remainder(Affine, divisor)
             |  Product(Affine, Affine) | Entry(tensor, Affine, ...), of it or of a table
    index   :=  q | k | h | b | n, of a pair  |  first | last, the ends of a tile  |  n_keys

Equal affine expressions are one value, and so are many equal quotients and remainders: what a
divisor divides has left them. Quotients round down; a remainder is in [0, divisor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from typing_extensions import assert_never

from attncomp.frontend.predicate import VariableName
from attncomp.ir.tables import Drawn as Drawn
from attncomp.ir.tables import Passing as Passing
from attncomp.ir.tables import Table
from attncomp.ir.tables import Top as Top

IndexName: TypeAlias = VariableName | Literal["first", "last", "n_keys"]

# Largest absolute values: positions are below 2^30, heads and rows of a batch below 2^16.
_REACH: Final[Mapping[IndexName, int]] = {
    **dict.fromkeys(("q", "k", "n", "first", "last", "n_keys"), 1 << 30),
    **dict.fromkeys(("h", "b"), 1 << 16),
}
_ENTRY_REACH: Final = (1 << 31) - 1  # entries are 32-bit integers
_ORDER: Final = tuple(_REACH)


@dataclass(frozen=True, slots=True)
class Index:
    """One index of a pair, or of a tile."""

    name: IndexName

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quotient:
    """`value // divisor`, rounded down; the divisor is 2 or more."""

    value: Affine
    divisor: int


@dataclass(frozen=True, slots=True)
class Remainder:
    """`value % divisor` in [0, divisor); the divisor is 2 or more."""

    value: Affine
    divisor: int


@dataclass(frozen=True, slots=True)
class Product:
    """`left * right`, neither of which is constant."""

    left: Affine
    right: Affine


@dataclass(frozen=True, slots=True)
class Entry:
    """`tensor[i, j, ...]`, an entry of an integer tensor given at the call; 0 outside of it.

    table: None for the tensor itself, else what is read in its place, made at the call: `Top` from
    a tensor of scores, `Drawn` from none; `Passing`, from one of thresholds, in the kernels.
    """

    tensor: str
    indices: tuple[Affine, ...]
    table: Table | None = None

    def __str__(self) -> str:
        match self.table:
            case None:
                name = self.tensor
            case Top(count):
                name = f"top{count}({self.tensor})"
            case Drawn(count, _, seed):
                name = f"drawn({count}, seed={seed})"
            case Passing():
                name = f"logit >= {self.tensor}"
            case _:
                assert_never(self.table)
        return f"{name}[{', '.join(map(str, self.indices))}]"

    @property
    def name(self) -> str:
        """What the tensor that kernels read is called; one that is made has dots in its name."""
        match self.table:
            case None | Passing():
                return self.tensor
            case Top(count):
                return f"{self.tensor}.top.{count}"
            case Drawn(count, size, seed):
                return f"drawn.{count}.{size}.{seed}"
            case _:
                assert_never(self.table)


Term: TypeAlias = "Index | Quotient | Remainder | Product | Entry"


@dataclass(frozen=True, slots=True)
class Affine:
    """`constant + sum of coefficient * term`; terms are distinct and sorted, coefficients not 0."""

    terms: tuple[tuple[Term, int], ...] = ()
    constant: int = 0

    def __add__(self, other: Affine) -> Affine:
        return _sum([(self, 1), (other, 1)])

    def __sub__(self, other: Affine) -> Affine:
        return _sum([(self, 1), (other, -1)])

    def __neg__(self) -> Affine:
        return self.scaled(-1)

    def scaled(self, factor: int) -> Affine:
        """Times a constant."""
        return _sum([(self, factor)])

    def times(self, other: Affine) -> Affine:
        """Times another expression."""
        if not self.terms:
            return other.scaled(self.constant)
        if not other.terms:
            return self.scaled(other.constant)
        left, right = sorted((self, other), key=str)
        return term(Product(left, right))

    def quotient(self, divisor: int) -> Affine:
        """`self // divisor` for a divisor other than 0."""
        if divisor < 0:
            return (-self).quotient(-divisor)
        whole = Affine(
            tuple((t, c // divisor) for t, c in self.terms if c % divisor == 0),
            self.constant // divisor,
        )
        rest = Affine(tuple((t, c) for t, c in self.terms if c % divisor), self.constant % divisor)
        return whole + term(Quotient(rest, divisor)) if rest.terms else whole

    def remainder(self, divisor: int) -> Affine:
        """`self % divisor` for a divisor other than 0; it has the divisor's sign."""
        if divisor < 0:
            return -(-self).remainder(-divisor)
        # Coefficients in (-divisor / 2, divisor / 2], so that q - k stays q - k.
        half = (divisor - 1) // 2
        rest = Affine(
            tuple((t, (c + half) % divisor - half) for t, c in self.terms if c % divisor),
            self.constant % divisor,
        )
        return term(Remainder(rest, divisor)) if rest.terms else Affine((), rest.constant)

    @property
    def divisor(self) -> int:
        """The greatest common divisor of all coefficients, 1 without any."""
        return math.gcd(*(c for _, c in self.terms)) if self.terms else 1

    @property
    def magnitude(self) -> int:
        """A number that the absolute value does not exceed, nor that of any partial sum."""
        return abs(self.constant) + sum(abs(c) * _magnitude(t) for t, c in self.terms)

    @property
    def reach(self) -> int:
        """The same for the value and all that is computed on the way to it."""
        inner = (part.reach for t, _ in self.terms for part in _parts(t))
        return max([self.magnitude, *inner])

    @property
    def indices(self) -> frozenset[IndexName]:
        """The indices that the value depends on."""
        names: frozenset[IndexName] = frozenset()
        return names.union(*(_indices(t) for t, _ in self.terms))

    def replace(self, names: Mapping[IndexName, IndexName]) -> Affine:
        """The same expression of other indices."""
        return self.substitute({old: index(new) for old, new in names.items()})

    def substitute(self, values: Mapping[IndexName, Affine]) -> Affine:
        """The expression with expressions in place of indices."""
        return _sum(
            [*((_substituted(t, values), c) for t, c in self.terms), (constant(1), self.constant)]
        )

    @property
    def bare_indices(self) -> frozenset[IndexName]:
        """The indices that the value depends on otherwise than as subscripts."""
        names: frozenset[IndexName] = frozenset()
        for t, _ in self.terms:
            if isinstance(t, Index):
                names |= {t.name}
            elif not isinstance(t, Entry):
                names = names.union(*(part.bare_indices for part in _parts(t)))
        return names

    @property
    def numbers(self) -> tuple[int, ...]:
        """The absolute values of all constants and divisors."""
        found = [abs(self.constant)]
        for t, _ in self.terms:
            found += [t.divisor] if isinstance(t, Quotient | Remainder) else []
            found += [number for part in _parts(t) for number in part.numbers]
        return tuple(found)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of tensors that the value is made of, each once."""
        found: dict[Entry, None] = {}
        for t, _ in self.terms:
            own = [t] if isinstance(t, Entry) else []
            inner = [] if own else [entry for part in _parts(t) for entry in part.entries]
            found.update(dict.fromkeys([*own, *inner]))
        return tuple(found)

    def evaluate(self, values: Mapping[IndexName, int]) -> int:
        """The value for values of the indices; KeyError for one that is missing."""
        return self.constant + sum(c * _evaluated(t, values) for t, c in self.terms)

    def part(self, names: Iterable[IndexName]) -> Affine:
        """The terms that depend on any of these indices, without the constant."""
        wanted = frozenset(names)
        return Affine(tuple((t, c) for t, c in self.terms if _indices(t) & wanted))

    def __str__(self) -> str:
        return self.text(str)

    def text(
        self,
        name: Callable[[Index | Entry], str],
        quotient: str = "{} // {}",
        remainder: str = "{} % {}",
    ) -> str:
        """The expression as text, in Python's spelling of operators unless told otherwise."""

        def part(t: Term, factor: int) -> str:
            match t:
                case Index() | Entry():
                    text = name(t)
                case Quotient(value, divisor):
                    text = quotient.format(operand(value, bare="(" in quotient), divisor)
                case Remainder(value, divisor):
                    text = remainder.format(operand(value, bare="(" in remainder), divisor)
                case Product(left, right):
                    text = f"{operand(left)} * {operand(right)}"
                case _:
                    assert_never(t)
            if factor == 1:
                return text
            divides = isinstance(t, Quotient | Remainder)
            return f"{text} * {factor}" if divides else f"{factor} * {text}"

        def operand(value: Affine, *, bare: bool = False) -> str:
            text = value.text(name, quotient, remainder)
            simple = not value.constant and len(value.terms) == 1 and value.terms[0][1] == 1
            named = simple and isinstance(value.terms[0][0], Index | Entry)
            return text if bare or named else f"({text})"

        text = ""
        for t, c in self.terms:
            # `-q // 2` is (-q) // 2
            bare = text or c > 0 or isinstance(t, Index | Product | Entry)
            shown = part(t, abs(c)) if bare else f"({part(t, abs(c))})"
            text += (" - " if c < 0 else " + ") + shown
        if self.constant or not text:
            text += (" - " if self.constant < 0 else " + ") + str(abs(self.constant))
        return text.removeprefix(" + ") if text.startswith(" + ") else "-" + text[3:]


def constant(value: int) -> Affine:
    """An expression without terms."""
    return Affine((), value)


def index(name: IndexName, offset: int = 0) -> Affine:
    """`name + offset` as an expression."""
    return Affine(((Index(name), 1),), offset)


def term(value: Term) -> Affine:
    """One term as an expression."""
    return Affine(((value, 1),))


def _sum(parts: Iterable[tuple[Affine, int]]) -> Affine:
    total: dict[Term, int] = {}
    offset = 0
    for affine, factor in parts:
        offset += factor * affine.constant
        for t, c in affine.terms:
            total[t] = total.get(t, 0) + factor * c
    kept = sorted(((t, c) for t, c in total.items() if c), key=lambda pair: _order(pair[0]))
    return Affine(tuple(kept), offset)


def _order(t: Term) -> tuple[bool, list[int], str]:
    """Indices before all else, and what depends on q before what depends on k."""
    return not isinstance(t, Index), sorted(map(_ORDER.index, _indices(t))), str(term(t))


def _magnitude(t: Term) -> int:
    match t:
        case Index(name):
            return _REACH[name]
        case Quotient(value, divisor):
            return value.magnitude // divisor + 1
        case Remainder(_, divisor):
            return divisor
        case Product(left, right):
            return left.magnitude * right.magnitude
        case Entry():
            return _ENTRY_REACH
        case _:
            assert_never(t)


def _parts(t: Term) -> tuple[Affine, ...]:
    match t:
        case Index():
            return ()
        case Quotient(value) | Remainder(value):
            return (value,)
        case Product(left, right):
            return left, right
        case Entry(_, indices):
            return indices
        case _:
            assert_never(t)


def _indices(t: Term) -> frozenset[IndexName]:
    if isinstance(t, Index):
        return frozenset({t.name})
    names: frozenset[IndexName] = frozenset()
    if isinstance(t, Entry) and isinstance(t.table, Passing):
        names = frozenset({"b", "q", "k"})  # those of the logit, beside the head
    return names.union(*(part.indices for part in _parts(t)))


def _evaluated(t: Term, values: Mapping[IndexName, int]) -> int:
    match t:
        case Index(name):
            return values[name]
        case Quotient(value, divisor):
            return value.evaluate(values) // divisor
        case Remainder(value, divisor):
            return value.evaluate(values) % divisor
        case Product(left, right):
            return left.evaluate(values) * right.evaluate(values)
        case Entry():
            raise ValueError(f"expected an expression of indices alone, found {t}")
        case _:
            assert_never(t)


def _substituted(t: Term, values: Mapping[IndexName, Affine]) -> Affine:
    match t:
        case Index(name):
            return values[name] if name in values else index(name)
        case Quotient(value, divisor):
            return value.substitute(values).quotient(divisor)
        case Remainder(value, divisor):
            return value.substitute(values).remainder(divisor)
        case Product(left, right):
            return left.substitute(values).times(right.substitute(values))
        case Entry(tensor, indices, table):
            return term(Entry(tensor, tuple(i.substitute(values) for i in indices), table))
        case _:
            assert_never(t)
