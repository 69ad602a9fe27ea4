"""While testing, types of annotated functions are checked when they are called (beartype), and shapes where arrays say theirs
(jaxtyping, which costs fifty times as much: it is asked where there are shapes alone).

Functions are wrapped when their module has been imported. A table that a module makes of its own functions holds them as they
were; functions inside functions, and what a decorator has made of a function, are left alone.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.abc
import importlib.machinery
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped

SHAPE = re.compile(r"\b(Float|Int|Bool|Num|Shaped)\[")


class Checked(importlib.machinery.SourceFileLoader):
    """Imports a module, and wraps its functions."""

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        known = imported_for_types(Path(self.path))
        for name, found in vars(module).copy().items():
            if getattr(found, "__module__", None) != module.__name__:
                continue
            if isinstance(found, types.FunctionType):
                setattr(module, name, wrapped(found, known))
            elif isinstance(found, type):
                check_methods(found, known)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules of some packages as everybody does, to be imported by `Checked`."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not any(name == p or name.startswith(f"{p}.") for p in self.packages):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Checked(spec.loader.name, spec.loader.path)
        return spec


def check(*packages: str) -> None:
    """From now on, modules of these packages are checked; none of them may have been imported."""
    early = [m for m in sys.modules if any(m == p or m.startswith(f"{p}.") for p in packages)]
    assert not early, f"imported before their types could be checked: {early}"
    sys.meta_path.insert(0, Finder(packages))


def imported_for_types(source: Path) -> set[str]:
    """Names that a module imports `if TYPE_CHECKING` alone: they are not there when it runs."""
    blocks = [n for n in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(n, ast.If)]
    imports = [
        i for b in blocks if ast.unparse(b.test) == "TYPE_CHECKING" for i in b.body if isinstance(i, ast.ImportFrom)
    ]
    return {a.asname or a.name for i in imports for a in i.names}


def wrapped(function: Callable[..., Any], away: set[str]) -> Callable[..., Any]:
    """A function that checks what it is given and gives back; not where the type has a name that is `away`."""
    if hasattr(function, "__wrapped__"):
        return function
    whole = function.__annotations__
    there = {k: a for k, a in whole.items() if not away & set(re.findall(r"\w+", str(a)))}
    named = [repr(function.__globals__.get(word)) for a in there.values() for word in re.findall(r"\w+", str(a))]
    shaped = any(SHAPE.search(said) for said in [*map(str, there.values()), *named])
    function.__annotations__ = there
    try:
        return jaxtyped(function, typechecker=beartype) if shaped else beartype(function)
    finally:
        function.__annotations__ = whole


def check_methods(cls: type, away: set[str]) -> None:
    """The same for the functions of a class."""
    if dataclasses.is_dataclass(cls) and any(dataclasses.is_dataclass(base) for base in cls.__bases__):
        with_types_of_its_bases(cls)
    for name, found in vars(cls).copy().items():
        if isinstance(found, types.FunctionType) and found.__module__ == cls.__module__:
            setattr(cls, name, wrapped(found, away))
        elif isinstance(found, classmethod | staticmethod) and found.__func__.__module__ == cls.__module__:
            setattr(cls, name, type(found)(wrapped(found.__func__, away)))
        elif isinstance(found, property) and found.fget is not None:
            setattr(cls, name, property(wrapped(found.fget, away), found.fset, found.fdel, found.__doc__))
        elif isinstance(found, cached_property):
            again = cached_property(wrapped(found.func, away))
            again.__set_name__(cls, name)
            setattr(cls, name, again)


def with_types_of_its_bases(cls: type) -> None:
    """A dataclass's `__init__` has the types of inherited fields as text, whose names only the base's module knows."""
    known = typing.get_type_hints(cls)
    made = cls.__init__
    made.__annotations__ = {name: known.get(name, said) for name, said in made.__annotations__.items()}
