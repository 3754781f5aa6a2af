"""The directive `public-names`: the reference of every public name of a package, by module."""

import re
from importlib import import_module
from inspect import isclass, isroutine
from itertools import groupby
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class PublicNames(SphinxDirective):
    """Sections with the docstrings of all names that a package gives, from the package itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections, in the order of the modules that the names live in."""
        package = import_module(self.arguments[0])
        homes = sorted(homes_of_names(package).items(), key=lambda each: (each[1], each[0]))
        text = [
            section(package, home, [name for name, _ in names])
            for home, names in groupby(homes, key=lambda each: each[1])
        ]
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def homes_of_names(package: ModuleType) -> dict[str, str]:
    """The module of each public name: as the package's own table has it, or as the objects say."""
    if hasattr(package, "_HOMES"):
        return dict(package._HOMES)
    return {name: home_of(package, name) for name in package.__all__}


def home_of(package: ModuleType, name: str) -> str:
    """Module of an object without the package before it; constants belong to the first module."""
    module = getattr(getattr(package, name), "__module__", f"{package.__name__}.loading")
    return str(module).removeprefix(f"{package.__name__}.")


def section(package: ModuleType, home: str, names: list[str]) -> str:
    """Markdown of one module: what it is for, and each name."""
    module = import_module(f"{package.__name__}.{home}")
    purpose = (module.__doc__ or "").strip().partition("\n")[0]
    floor, _, is_lower = home.partition(".")
    if is_lower:
        listed = ", ".join(f"`{name}`" for name in names)
        return f"## {home}\n\n{purpose}\n\n{listed}: see [interp.{floor}](api-{floor}.md).\n"
    entries = "\n\n".join(entry(package, module, name) for name in names)
    return f"## {home}\n\n{purpose}\n\n```{{eval-rst}}\n{entries}\n```\n"


def entry(package: ModuleType, module: ModuleType, name: str) -> str:
    """The autodoc directive of one name, at the path from which it is imported."""
    found, path = getattr(package, name), f"{package.__name__}.{name}"
    if isinstance(found, ModuleType):
        return "\n\n".join(entry(found, found, each) for each in names_of_module(found))
    if isclass(found):
        return f".. autoclass:: {path}\n   :members:"
    if isroutine(found):
        return f".. autofunction:: {path}"
    return f".. autodata:: {module.__name__}.{name}\n   :no-value:"


def names_of_module(module: ModuleType) -> list[str]:
    """What a module says is public, or else its own functions without an underscore."""
    own = [name for name, each in vars(module).items() if is_own(each, module)]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def is_own(each: object, module: ModuleType) -> bool:
    """Whether a function was written in this module and not imported."""
    return isroutine(each) and each.__module__ == module.__name__


INLINE = re.compile(r"``[^`]+``|`(?P<code>[^`]+)`|(?<![\w/])docs/(?P<page>[\w-]+)\.md\b")
"""What stands between backticks, perhaps over two lines, and names of pages outside of them."""


def literal(found: re.Match[str]) -> str:
    """Two backticks around code, and a link in the place of the name of a page."""
    if found["page"]:
        return f":doc:`{found['page']}`"
    return f"``{found['code']}``" if found["code"] else found[0]


AS_WRITTEN: dict[str, list[str]] = {}
"""Lines of attributes, which napoleon would take apart at their first colon."""


def as_rst(
    _app: Sphinx, what: str, name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Docstrings here are plain: single backticks are code, and indented blocks are formulas."""
    plain, before = INLINE.sub(literal, "\n".join(lines)).split("\n"), ""
    lines.clear()
    for index, line in enumerate(plain):
        is_block = line.startswith("    ") and index > 0 and not plain[index - 1].strip()
        if is_block and before and not before.startswith((" ", "-")):
            lines.extend(["::", ""])
        lines.append(line)
        before = line if line.strip() else before
    if what in ("attribute", "data", "property"):
        AS_WRITTEN[name] = list(lines)


def as_written(
    _app: Sphinx, _what: str, name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """After napoleon: the lines of an attribute as they were before."""
    lines[:] = AS_WRITTEN.pop(name, lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and the reading of docstrings before and after napoleon's."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", as_rst, priority=400)
    app.connect("autodoc-process-docstring", as_written, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
