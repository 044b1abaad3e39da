"""What can be told about a file before anything is called: names, arguments, circles, leftovers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attncomp.errors import RecursiveDefinitionError, UnusedNameError, cropped, quoted
from attncomp.frontend.catalog import Argument, Signature, Value
from attncomp.frontend.expand import (
    Definition,
    bound_argument,
    evaluate,
    parameter_names,
    unknown_parameter,
)
from attncomp.frontend.modifiers import lookup_modifier
from attncomp.frontend.names import check_names, free_names
from attncomp.frontend.predicate import Condition
from attncomp.frontend.specfile import SpecFile
from attncomp.frontend.syntax import (
    ArgumentSyntax,
    Arithmetic,
    HeadsSyntax,
    ModifiedSyntax,
    Name,
    ParameterName,
    Reference,
    Syntax,
    WhereSyntax,
    parts_of,
)


def review(file: SpecFile) -> set[str]:
    """Raises PatternError for a mistake that is one whatever the arguments will be.

    The file's scope must be complete. Takes time in proportion to the text. Returns the names of
    definitions and imports that the file uses.
    """
    calls: dict[str, list[Name]] = {}
    used: set[str] = set()
    for name, definition in file.definitions.items():
        calls[name] = [
            call.name
            for call in _checked(
                definition.body, file, {p.name: p.type for p in definition.parameters}
            )
        ]
        used.update(called.text for called in calls[name])
    for example in file.examples:
        used.update(reference.name.text for reference in _checked(example.pattern, file, None))
    _check_circles(calls, file)
    _check_imports(file, used)
    for definition in file.definitions.values():
        _check_parameters(definition)
    return used


def check_private(file: SpecFile, used: set[str]) -> None:
    """UnusedNameError for a private definition that neither its file nor another uses."""
    for definition in file.definitions.values():
        if definition.is_private and definition.name not in used:
            name = quoted(definition.name)
            raise UnusedNameError(definition.span, what="private pattern", name=name)


def _checked(
    body: Syntax, file: SpecFile, types: Mapping[str, type[Value]] | None
) -> Iterator[Reference]:
    """The calls in a body, each checked; types: of the parameters, None in an example."""
    for condition in _conditions(body):
        check_names(condition, types)
    for end in _slice_ends(body):
        _check_end(end, types)
    for reference in _references(body):
        target = file.scope.find(reference.name)
        _check_arguments(reference, target, types)
        yield reference
    for modifier in _modifiers(body):
        row = lookup_modifier(modifier.name.text, modifier.name.span)
        _check_arguments(modifier, row, types)


def _modifiers(body: Syntax) -> Iterator[Reference]:
    if isinstance(body, ModifiedSyntax):
        yield from body.modifiers
    for part in parts_of(body):
        yield from _modifiers(part)


def _references(body: Syntax) -> Iterator[Reference]:
    if isinstance(body, Reference):
        yield body
    for part in parts_of(body):
        yield from _references(part)


def _conditions(body: Syntax) -> Iterator[Condition]:
    if isinstance(body, WhereSyntax):
        yield body.condition
    for part in parts_of(body):
        yield from _conditions(part)


def _slice_ends(body: Syntax) -> Iterator[Arithmetic]:
    if isinstance(body, HeadsSyntax):
        for place, _ in body.groups:
            yield from place.ends
    for part in parts_of(body):
        yield from _slice_ends(part)


def _check_arguments(
    reference: Reference, target: Signature, types: Mapping[str, type[Value]] | None
) -> None:
    """Raises the errors of arithmetic and of `Signature.bind`, save for values not yet known."""
    arguments = [_argument(written, target.name, types) for written in reference.arguments]
    values = {
        id(argument): written.value
        for argument, written in zip(arguments, reference.arguments, strict=True)
    }
    matched = target.match(arguments, missing_span=reference.end)
    for parameter in target.form_of(matched):
        if parameter.name not in matched:
            continue
        argument = matched[parameter.name]
        value = values[id(argument)]
        if isinstance(value, ParameterName) and types is not None:
            parameter.check_type(target.name, argument, types[value.name])
        elif not parameter_names(value):
            parameter.check(target.name, argument)


def _check_end(end: Arithmetic, types: Mapping[str, type[Value]] | None) -> None:
    """UnknownParameterError for a name in a slice of heads that is none, as in arguments."""
    for name in parameter_names(end) if types is not None else ():
        if types is not None and name.name not in types:
            raise unknown_parameter(name, types, None)


def _argument(
    written: ArgumentSyntax, callee: str, types: Mapping[str, type[Value]] | None
) -> Argument:
    """An argument with its value, or 0 where that depends on a parameter.

    Raises UnknownParameterError for a name that is none.
    """
    names = parameter_names(written.value) if types is not None else []
    for name in names:
        if types is not None and name.name not in types:
            raise unknown_parameter(name, types, callee)
    return bound_argument(written, 0 if names else evaluate(written.value, None, callee))


def _check_circles(calls: Mapping[str, list[Name]], file: SpecFile) -> None:
    """RecursiveDefinitionError where a definition calls itself, directly or through others."""
    done: set[str] = set()
    for root in calls:
        # Without recursion: a chain of definitions may be as long as the file.
        path = {root: iter(calls[root])}
        while path:
            current = next(reversed(path))
            following = next(path[current], None)
            if following is None:
                done.add(current)
                del path[current]
            elif following.text in path:
                names = list(path)
                circle = names[names.index(following.text) :]
                raise RecursiveDefinitionError(
                    following.span,
                    name=quoted(following.text),
                    chain=_chain([*circle, following.text]),
                )
            elif following.text in calls and following.text not in done:
                path[following.text] = iter(calls[following.text])


def _chain(names: list[str]) -> str:
    """The names with arrows between them; of many the first and the last."""
    shown = [cropped(name) for name in names]
    if len(shown) > 8:
        shown[4:-3] = ["..."]
    return " -> ".join(shown)


def _check_imports(file: SpecFile, used: set[str]) -> None:
    for name in file.scope.imports.values():
        if name.text not in used:
            raise UnusedNameError(name.span, what="import", name=quoted(name.text))


def _check_parameters(definition: Definition) -> None:
    unused = dict(definition.places)
    for reference in (*_references(definition.body), *_modifiers(definition.body)):
        for argument in reference.arguments:
            for parameter in parameter_names(argument.value):
                unused.pop(parameter.name, None)
    for end in _slice_ends(definition.body):
        for parameter in parameter_names(end):
            unused.pop(parameter.name, None)
    for condition in _conditions(definition.body):
        for variable in free_names(condition):
            unused.pop(variable.name, None)
    for name, span in unused.items():
        raise UnusedNameError(span, what="parameter", name=quoted(name))
