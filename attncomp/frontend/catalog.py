"""Named patterns: their parameters, how arguments bind to them, and how a call is written."""

from __future__ import annotations

import enum
import keyword
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, cast, get_args

from attncomp.errors import (
    ArgumentFormError,
    ArgumentOrderError,
    ArgumentRangeError,
    ArgumentTypeError,
    MissingArgumentError,
    RepeatedArgumentError,
    Span,
    TooManyArgumentsError,
    UnknownArgumentError,
    cropped,
    quoted,
    suggest,
)

Value: TypeAlias = int | float | str | bool
ValueType: TypeAlias = type[int] | type[float] | type[str] | type[bool]
GateMode: TypeAlias = Literal["key_value", "value", "hard", "straight_through", "logit"]

MAX_INTEGER: Final = 2**31 - 1
_SHOWN_NAMES: Final = 20  # in a hint that lists all that are known
GATE_MODES: Final[tuple[GateMode, ...]] = get_args(GateMode)


class _Required(enum.Enum):
    REQUIRED = "REQUIRED"


REQUIRED: Final = _Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as written: `value`, or `name=value`; spans are None outside of a text.

    computed: the value is the result of what is written, rather than a literal.
    """

    name: str | None
    value: Value
    span: Span | None = None
    name_span: Span | None = None
    value_span: Span | None = None
    computed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a pattern. `minimum` and `maximum` are inclusive, for numbers only.

    above: a limit that is not allowed itself. names_tensor: the value is the name of a keyword
    argument of the call.
    """

    name: str
    type: type[Value]
    default: Value | Literal[_Required.REQUIRED] = REQUIRED
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[Value, ...] = ()
    above: int | float | None = None
    names_tensor: bool = False
    doc: str = ""

    def check(self, pattern: str, argument: Argument) -> Value:
        """The argument's value; ArgumentTypeError or ArgumentRangeError if it does not fit."""
        value = argument.value
        if self.type is float and type(value) is int:
            # An integer beyond the floats is out of range, as 1e999 is.
            fits = abs(value) <= sys.float_info.max
            value = float(value) if fits else math.inf if value > 0 else -math.inf
        if type(value) is not self.type:
            raise ArgumentTypeError(
                argument.value_span or argument.span,
                pattern=pattern,
                argument=quoted(self.name),
                expected=_TYPE_NAMES[self.type],
                found=_found(argument),
                hint=self._type_hint(value),
            )
        expected = self._violated(value)
        if expected is not None:
            raise ArgumentRangeError(
                argument.value_span or argument.span,
                pattern=pattern,
                argument=quoted(self.name),
                expected=expected,
                found=_found(argument),
                hint=self._choice_hint(value),
            )
        return value

    def check_type(self, pattern: str, argument: Argument, found: ValueType) -> None:
        """ArgumentTypeError where no value of another parameter, of type `found`, would fit."""
        if found is not self.type and (self.type, found) != (float, int):
            raise ArgumentTypeError(
                argument.value_span or argument.span,
                pattern=pattern,
                argument=quoted(self.name),
                expected=_TYPE_NAMES[self.type],
                found=f"a parameter of type {found.__name__}",
            )

    def _type_hint(self, value: Value) -> str | None:
        if self.type is int and isinstance(value, float) and value.is_integer():
            return f"did you mean '{int(value)}'?" if abs(value) <= MAX_INTEGER else None
        if self.type is int and isinstance(value, str) and value.isascii() and value.isdigit():
            return f"did you mean {quoted(value)}, without quotes?"
        return None

    def _violated(self, value: Value) -> str | None:
        """What a value of the right type should have been, or None if it is allowed."""
        if self.choices and value not in self.choices:
            return "one of " + ", ".join(value_text(choice) for choice in self.choices)
        if self.names_tensor and not _is_name(value):
            return "a name: letters, digits and _"
        if isinstance(value, float) and not math.isfinite(value):
            return "finite"
        if isinstance(value, int | float):
            if self.minimum is not None and value < self.minimum:
                return f"at least {self.minimum}"
            if self.above is not None and value <= self.above:
                return f"more than {self.above}"
            if self.maximum is not None and value > self.maximum:
                return f"at most {self.maximum}"
        return None

    def _choice_hint(self, value: Value) -> str | None:
        if not isinstance(value, str):
            return None
        close = suggest(value, [choice for choice in self.choices if isinstance(choice, str)])
        return f"did you mean {value_text(close)}?" if close else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A named pattern with its parameters: a primitive, or a definition of a spec file."""

    name: str
    parameters: tuple[Parameter, ...] = ()
    doc: str

    @property
    def forms(self) -> tuple[tuple[Parameter, ...], ...]:
        """The sets of parameters that a call may have: one, but for a primitive with choices."""
        return (self.parameters,)

    @property
    def signature(self) -> str:
        """The call with all parameters, as in `sparsek(k, lag=0, gate="key_value")`."""
        return " or ".join(self._form_text(form) for form in self.forms)

    def _form_text(self, form: tuple[Parameter, ...]) -> str:
        shown = (
            p.name if p.default is REQUIRED else f"{p.name}={cropped(value_text(p.default))}"
            for p in form
        )
        return f"{self.name}({', '.join(shown)})" if form else self.name

    def bind(
        self, arguments: Sequence[Argument] = (), *, missing_span: Span | None = None
    ) -> tuple[tuple[str, Value], ...]:
        """Every parameter with its value, defaults included, in the order of declaration.

        `missing_span` is where an argument that is not given would have stood. Raises the
        argument errors of `attncomp.errors`, each with the span of the argument at fault.
        """
        given = self.match(arguments, missing_span=missing_span)
        return tuple(
            (
                p.name,
                p.check(self.name, given[p.name]) if p.name in given else cast(Value, p.default),
            )
            for p in self.form_of(given)
        )

    def match(
        self, arguments: Sequence[Argument], *, missing_span: Span | None = None
    ) -> dict[str, Argument]:
        """The arguments by the names of their parameters; raises as `bind`, values unchecked."""
        given: dict[str, Argument] = {}
        for index, argument in enumerate(arguments):
            parameter = self._parameter(index, argument, arguments)
            if parameter.name in given:
                raise RepeatedArgumentError(
                    argument.span, pattern=self.name, argument=quoted(parameter.name)
                )
            given[parameter.name] = argument
        for parameter in self.form_of(given):
            if parameter.default is REQUIRED and parameter.name not in given:
                raise MissingArgumentError(
                    missing_span,
                    pattern=self.name,
                    argument=quoted(parameter.name),
                    hint=f"the signature is {self.signature}",
                )
        return given

    def form_of(self, names: Mapping[str, object]) -> tuple[Parameter, ...]:
        """The parameters of a call with arguments of these names; ArgumentFormError if no form
        has them all."""
        for form in self.forms:
            if names.keys() <= {p.name for p in form}:
                return form
        first = next(iter(names))
        form = next(form for form in self.forms if any(p.name == first for p in form))
        other = next(name for name in names if all(p.name != name for p in form))
        argument = names[other]
        raise ArgumentFormError(
            argument.span if isinstance(argument, Argument) else None,
            pattern=self.name,
            argument=quoted(other),
            other=quoted(first),
            hint=f"the signature is {self.signature}",
        )

    def call_text(self, bound: Iterable[tuple[str, Value]]) -> str:
        """The call with values as `bind` gives them, defaults left out."""
        defaults = {p.name: p.default for p in self.parameters}
        written = [f"{name}={value_text(v)}" for name, v in bound if v != defaults[name]]
        return f"{self.name}({', '.join(written)})" if written else self.name

    def _parameter(
        self, index: int, argument: Argument, arguments: Sequence[Argument]
    ) -> Parameter:
        """The parameter that the argument at `index` is for."""
        if argument.name is not None:
            named = {p.name: p for form in self.forms for p in form}
            if argument.name in named:
                return named[argument.name]
            raise UnknownArgumentError(
                argument.name_span or argument.span,
                pattern=self.name,
                argument=quoted(argument.name),
                hint=name_hint(argument.name, named, "arguments"),
            )
        if index > 0 and arguments[index - 1].name is not None:
            raise ArgumentOrderError(
                argument.span, pattern=self.name, hint=f"the signature is {self.signature}"
            )
        if index >= len(self.parameters):
            raise TooManyArgumentsError(
                argument.span,
                pattern=self.name,
                expected=_counted(len(self.parameters)),
                found=len(arguments),
                hint=f"the signature is {self.signature}",
            )
        return self.parameters[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive(Signature):
    """A row of the table. `soft`: its gate may lie between 0 and 1.

    `example` is a call with small arguments, for pictures; empty where the name alone is one.
    `given` are tensors of the picture, scores aside, as nested lists. `choices` are further sets of
    parameters, any one of which may stand in place of `parameters`.
    """

    soft: bool = False
    example: str = ""
    given: Mapping[str, Sequence[object]] = field(default_factory=dict, compare=False)
    choices: tuple[tuple[Parameter, ...], ...] = ()

    @property
    def forms(self) -> tuple[tuple[Parameter, ...], ...]:
        return (self.parameters, *self.choices)

    def call_text(self, bound: Iterable[tuple[str, Value]]) -> str:
        """As written in a pattern: the value alone where the primitive has but one parameter."""
        bound = tuple(bound)
        form = self.form_of(dict(bound))
        defaults = {p.name: p.default for p in form}
        kept = [(name, v) for name, v in bound if v != defaults[name]]
        if form != self.parameters:
            kept = kept or list(bound[:1])  # what tells the forms apart
        if len(kept) == len(form) == 1:
            return f"{self.name}({value_text(kept[0][1])})"
        written = ", ".join(f"{name}={value_text(v)}" for name, v in kept)
        return f"{self.name}({written})" if written else self.name


_TYPE_NAMES: Final[Mapping[type[Value], str]] = MappingProxyType(
    {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
)


def _is_name(value: Value) -> bool:
    """Whether a value can be the keyword of an argument."""
    text = str(value)
    return text.isascii() and text.isidentifier() and not keyword.iskeyword(text)


def value_text(value: Value) -> str:
    """A value as it is written in a pattern; strings in double quotes where possible."""
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    return repr(value)


def _found(argument: Argument) -> str:
    """The value as written or computed, cropped to a length that suits a message."""
    if argument.value_span is None or argument.computed:
        return cropped(value_text(argument.value))
    return cropped(argument.value_span.text)


def _counted(count: int) -> str:
    return {0: "no arguments", 1: "1 argument"}.get(count, f"{count} arguments")


def name_hint(name: str, candidates: Iterable[str], what: str) -> str | None:
    """The candidate that was perhaps meant, or all of them; None if there is none."""
    known = sorted(candidates)
    close = suggest(name, known)
    if close is not None:
        return f"did you mean '{close}'?"
    shown = ", ".join(map(cropped, known[:_SHOWN_NAMES]))
    more = len(known) - _SHOWN_NAMES
    return f"known {what}: {shown}" + (f" and {more} more" if more > 0 else "") if known else None
