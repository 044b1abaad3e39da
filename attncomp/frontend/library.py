"""Libraries of definitions: files with their imports resolved, and the library that is shipped."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import Self

from attncomp.errors import (
    CyclicImportError,
    NestingError,
    NoDefinitionsError,
    Note,
    PatternError,
    Source,
    Span,
    UnknownImportError,
    UnknownModuleError,
    UnknownPatternError,
    UnreadableFileError,
    printable,
    quoted,
    suggest,
)
from attncomp.frontend import primitives
from attncomp.frontend.ast import Expr
from attncomp.frontend.catalog import Argument, Primitive, name_hint
from attncomp.frontend.expand import Definition, expand_call
from attncomp.frontend.limits import MAX_CHARACTERS, MAX_NESTING
from attncomp.frontend.modifiers import modifier_hint
from attncomp.frontend.review import check_private, review
from attncomp.frontend.specfile import Example, SpecFile, duplicate, parse_file
from attncomp.frontend.syntax import Import, Name

SUFFIX: Final = ".attn"

_MAX_SHOWN: Final = 500  # characters of a path

_shipped: Library | None = None
_shipped_lock = threading.Lock()


class Library:
    """The definitions of files under their names; those that begin with `_` are left out.

    Two libraries are equal only if they are the same object. `names` are in the order of the files.
    """

    def __init__(self, path: Path, files: Sequence[SpecFile]) -> None:
        self.path = path
        self.files = tuple(files)
        self._definitions: dict[str, Definition] = {}
        for file in files:
            for name, definition in file.exported.items():
                known = self._definitions.get(name)
                if known is not None:
                    raise duplicate(Name(name, definition.span), known.span)
                self._definitions[name] = definition

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The library of one file and what it imports.

        Raises PatternError, with the place, for a mistake in the file or in one that it imports,
        UnreadableFileError if there is none, and TypeError for what is no path.
        """
        file = os.fspath(path)
        if not isinstance(file, str):
            raise TypeError(f"expected the path of a spec file, found {type(file).__name__}")
        return cls(Path(file), _Loader().read([(Path(file), file)]))

    @classmethod
    def of(cls, source: Source) -> Self:
        """The library of a text that is no file; its imports are relative to the source's name."""
        return cls(Path(source.name), _Loader().read([(Path(source.name), source)]))

    @property
    def names(self) -> tuple[str, ...]:
        """What `compile` finds here."""
        return tuple(self._definitions)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples of all files, in the order of the text."""
        return tuple(example for file in self.files for example in file.examples)

    def find(self, name: str) -> Definition | None:
        """The definition of that name, or None."""
        return self._definitions.get(name)

    def definition(self, name: str) -> Definition:
        """The definition of that name; UnknownPatternError if there is none."""
        found = self.find(name)
        if found is None:
            hint = name_hint(name, self._definitions, "patterns")
            raise UnknownPatternError(None, name=quoted(name), hint=hint)
        return found

    def signature(self, name: str) -> str:
        """A call with all parameters and their defaults, as in `longformer(w=512, g=64)`."""
        return self.definition(name).signature

    def doc(self, name: str) -> str:
        """What the file says about a definition; empty if it says nothing."""
        return self.definition(name).doc

    def expand(self, name: str, arguments: Sequence[Argument], span: Span | None = None) -> Expr:
        """The tree of a call, made of primitives. Raises PatternError for arguments that do not fit
        and for calls inside of the definition that fail with them."""
        return expand_call(self.definition(name), arguments, span=span, missing_span=span)

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)

    def __repr__(self) -> str:
        return f"<attncomp.Library {str(self.path)!r}: {', '.join(self._definitions)}>"


@dataclass(frozen=True, slots=True)
class TextScope:
    """The names in a text: primitives, then those of the library, then the shipped ones."""

    library: Library | None

    def find(self, name: Name) -> Primitive | Definition:
        """The pattern of that name; UnknownPatternError if there is none."""
        found: Primitive | Definition | None = primitives.PRIMITIVES.get(name.text)
        if found is None and self.library is not None:
            found = self.library.find(name.text)
        found = found or shipped().find(name.text)
        if found is None:
            raise UnknownPatternError(name.span, name=quoted(name.text), hint=self._hint(name.text))
        return found

    def _hint(self, name: str) -> str | None:
        own = [*primitives.PRIMITIVES, *(self.library or ())]
        hint = modifier_hint(name)
        if hint is not None:
            return hint
        for file in () if self.library is None else self.library.files:
            if name in file.definitions:
                return f"{quoted(name)} is private to {printable(file.source.name)}"
        close = suggest(name, [*own, *shipped()])
        return f"did you mean '{close}'?" if close is not None else name_hint(name, own, "patterns")


def shipped() -> Library:
    """The definitions that come with this package, read when first needed, once for all threads."""
    global _shipped
    with _shipped_lock:
        if _shipped is None:
            folder = shipped_folder()
            paths = sorted(folder.rglob("*" + SUFFIX))
            files = _Loader().read([(path, _shipped_name(path, folder)) for path in paths])
            _shipped = Library(folder, files)
        return _shipped


def shipped_folder() -> Path:
    """Where the shipped files are: in the package once installed, at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "specs"
    return inside if inside.is_dir() else package.parent / "specs"


def _shipped_name(path: Path, folder: Path) -> str:
    """`specs/a.attn` wherever the package is, since generated kernels name their origin."""
    return Path("specs", path.relative_to(folder)).as_posix()


def read_source(path: Path, name: str, span: Span | None = None) -> Source:
    """The text of a file under a name; UnreadableFileError, at the place of an import, if it has
    none, and a text that is too long for any file if it is too large."""
    reason: str
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                content = file.read(4 * MAX_CHARACTERS + 1)
            return Source(name, content.decode("utf-8"))
        reason = "Is a directory" if stat.S_ISDIR(mode) else "it is no regular file"
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 at byte {error.start}"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError as error:  # a null byte in the path
        reason = str(error)
    raise UnreadableFileError(span, path=_shown(name), reason=reason)


class _Loader:
    """Reads files, each once, and the files that they import before them."""

    def __init__(self) -> None:
        self._done: dict[str, SpecFile] = {}
        self._open: dict[str, str] = {}  # what is being read now, outermost first: path -> name
        self._used: dict[str, set[str]] = {}  # by path: definitions that some file uses

    def read(self, paths: Iterable[tuple[Path, str | Source]]) -> list[SpecFile]:
        """The files at paths, each with the name to show for it, or with its text."""
        files = [self._load(path, name, None) for path, name in paths]
        for key, file in self._done.items():
            check_private(file, self._used[key])
        return files

    def _load(self, path: Path, text: str | Source, span: Span | None) -> SpecFile:
        """A file with its scope complete; text: its name or all of it; span: of its import."""
        name = text.name if isinstance(text, Source) else text
        key = _key(path)
        if key in self._done:
            return self._done[key]
        if key in self._open:
            files = list(self._open.values())
            circle = files[list(self._open).index(key) :]
            raise CyclicImportError(span, chain=printable(" -> ".join([*circle, name])))
        if len(self._open) >= MAX_NESTING:
            raise NestingError(span, limit=MAX_NESTING)
        self._open[key] = name
        source = text if isinstance(text, Source) else read_source(path, text, span)
        file = parse_file(source)
        if not file.definitions:
            raise NoDefinitionsError(Span(file.source, 0, 0))
        if shipped_folder() not in Path(key).parents:
            file.scope.elsewhere = _import_hint
        for item in file.imports:
            self._resolve(item, path, file)
        self._used[key] = review(file)
        del self._open[key]
        self._done[key] = file
        return file

    def _resolve(self, item: Import, path: Path, file: SpecFile) -> None:
        """Brings the names of an import into the scope of the file at `path`."""
        if item.level > MAX_NESTING:
            raise NestingError(item.module_span, limit=MAX_NESTING)
        module = "." * item.level + ".".join(item.module)
        if item.level:
            folder = _parent(path.parent, item.level - 1)
            shown = os.path.normpath(_parent(Path(file.source.name).parent, item.level - 1))
        else:
            folder, shown = shipped_folder(), "specs"
        target = folder.joinpath(*item.module).with_suffix(SUFFIX)
        name = Path(shown, *item.module).with_suffix(SUFFIX).as_posix()
        if not os.path.exists(target):  # False as well for a path that no system takes
            hint = _module_hint(item, path.parent, target)
            raise UnknownModuleError(
                item.module_span, module=quoted(module), path=_shown(name), hint=hint
            )
        try:
            imported = self._load(target, name, item.module_span)
        except PatternError as error:
            if error.span is not item.module_span:
                error.notes += (Note("imported here", item.module_span),)
            raise
        for word in item.names:
            definition = imported.definitions.get(word.text)
            if definition is None:
                hint = name_hint(word.text, imported.definitions, "patterns")
                raise UnknownImportError(
                    word.span, name=quoted(word.text), module=quoted(module), hint=hint
                )
            file.scope.imported[word.text] = definition
            self._used[_key(target)].add(word.text)


def _shown(path: str) -> str:
    """A path for a message; of one too long for any system the end."""
    return printable(path if len(path) <= _MAX_SHOWN else "..." + path[-_MAX_SHOWN:])


def _key(path: Path) -> str:
    """What two paths of one file have in common."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a null byte, which `read_source` complains about
        return str(path)


def _import_hint(name: str) -> str | None:
    """For a name that a file does not see: the import that would bring it from a shipped file."""
    definition = shipped().find(name)
    if definition is None:
        return None
    module = Path(definition.span.source.name).relative_to("specs").with_suffix("")
    return f"add 'from {'.'.join(module.parts)} import {name}'"


def _parent(folder: Path, levels: int) -> Path:
    return folder.joinpath(*[".."] * levels)


def _module_hint(item: Import, folder: Path, target: Path) -> str | None:
    """A file of that name beside the importing one, or a file with a similar name."""
    beside = folder.joinpath(*item.module).with_suffix(SUFFIX)
    if item.level == 0 and os.path.exists(beside):
        return f"did you mean '.{'.'.join(item.module)}'?"
    close = suggest(target.stem, _stems(target.parent))
    if close is None:
        return None
    return f"did you mean '{'.' * item.level}{'.'.join([*item.module[:-1], close])}'?"


def _stems(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # suggestions are for folders that can be read
        return []
    return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
