# SPDX-License-Identifier: Apache-2.0
"""The parts of README.md that are made from the code: flow diagrams, state machines, conformance.

``python tests/readme_sections.py`` writes them; ``test_readme.py`` holds them.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pybcast.wire
from pybcast.flows.tables import FLOWS, MACHINES, mermaid, mermaid_flow
from pybcast.messages import Confidence
from pybcast.wire.schema import Table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MARK = re.compile(r"confidence: (likely|guess|own)\b(?:[ ,;]*(?:-|\()?\s*)(.*)")


def flows() -> str:
    """One sequence diagram for each of F1-F6."""
    parts = [f"**{name}**: {FLOWS[name][0]}\n\n```mermaid\n{mermaid_flow(name)}\n```" for name in FLOWS]
    return "\n\n".join(parts)


def machines() -> str:
    """One state diagram for each table."""
    return "\n\n".join(f"**{name}**\n\n```mermaid\n{mermaid(name)}\n```" for name in MACHINES)


def conformance() -> str:
    """Every choice below *sure*: first the fields of the layouts, then the choices in code, each with its place."""
    lines = ["| layout (`pybcast/wire/`) | likely | guess | own |", "|---|---|---|---|"]
    for module, name, table in _tables():
        cells = []
        for level in (Confidence.LIKELY, Confidence.GUESS, Confidence.OWN):
            names = dict.fromkeys(row.name for row in table.rows if row.confidence is level)
            cells.append(", ".join(f"`{n}`" for n in names) or "-")
        if set(cells) != {"-"}:
            lines.append(f"| `{module}.py` {name} | {' | '.join(cells)} |")
    lines += ["", "| choice | confidence | place |", "|---|---|---|"]
    for path, symbol, ground, text in _marks():
        lines.append(f"| {text} | {ground} | `{path}` {symbol} |")
    return "\n".join(lines)


def _tables() -> Iterator[tuple[str, str, Table]]:
    for info in pkgutil.iter_modules(pybcast.wire.__path__):
        module = importlib.import_module(f"pybcast.wire.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, Table) and not _imported(module.__file__, name):
                yield info.name, name.strip("_"), value


def _imported(path: str | None, name: str) -> bool:
    assert path is not None
    return re.search(rf"^{re.escape(name)}\b", Path(path).read_text(encoding="utf-8"), re.M) is None


def _marks() -> Iterator[tuple[str, str, str, str]]:
    for path in sorted((ROOT / "pybcast").rglob("*.py")):
        if path.relative_to(ROOT).parts[1] in ("demo", "testing"):
            continue  # they use the choices, they do not make them
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines = source.splitlines()
        for number, line in enumerate(lines, 1):
            found = MARK.search(line)
            if found is None or "rows marked" in line:
                continue
            symbol, title = _symbol(tree, number)
            text = found.group(2).strip()
            before = re.sub(r"^.*?(#|\"\"\")", "", line[: found.start()]).strip(" -,;(.")
            text = _trim(text)
            choice = text if len(text) > 3 else before or title
            if len(text) > 3 and before and before not in text:
                choice = f"{before}: {text}"
            follow = lines[number].strip() if number < len(lines) else ""
            if line.lstrip().startswith("#") and follow.startswith("# ") and not MARK.search(follow) and text:
                choice += " " + follow[2:].rstrip(".")
            choice = _trim(choice)
            yield str(path.relative_to(ROOT)), f"`{symbol}`" if symbol else "", found.group(1), choice.replace("|", "\\|")


def _trim(text: str) -> str:
    """Without the end of a docstring, a full stop, or a bracket that was opened before the text began."""
    text = text.removesuffix('"""').rstrip(" .")
    while text.endswith(")") and text.count(")") > text.count("("):
        text = text[:-1].rstrip(" .")
    return text.strip()


def _symbol(tree: ast.Module, number: int) -> tuple[str, str]:
    """The innermost definition at a line (or the first one after it, for a comment on top), and its first docstring line."""
    best: tuple[str, str] = ("", "")
    for node in ast.walk(tree):
        if not hasattr(node, "lineno") or not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
            continue
        if node.lineno <= number <= (node.end_lineno or 0):
            best = _name(node)
    if best[0]:
        return best
    later = [n for n in tree.body if n.lineno > number]
    near = [n for n in tree.body if (n.end_lineno or 0) + 1 == number]
    return _name(near[0]) if near and _name(near[0])[0] else _name(later[0]) if later else best


def _name(node: ast.AST) -> tuple[str, str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name, (ast.get_docstring(node) or "").split("\n")[0].rstrip(".")
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
    return (target.id, "") if isinstance(target, ast.Name) else ("", "")


SECTIONS = {"flows": flows, "machines": machines, "conformance": conformance}


def render(text: str) -> str:
    """README text with its generated parts made again."""
    for name, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no place for {name}")
        text = pattern.sub(lambda m, make=make: m.group(1) + make() + "\n" + m.group(2), text)  # type: ignore[misc]
    return text


def linked(text: str) -> str:
    """A page of ``docs/`` whose links to code, [`Class.method`](../path.py#L1), say the line where that is defined now."""

    def line(match: re.Match[str]) -> str:
        name, path = match.groups()
        kind, _, method = name.partition(".")
        for node in ast.walk(ast.parse((ROOT / "docs" / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == kind:
                found = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == method]
                if found:
                    return f"[`{name}`]({path}#L{found[0].lineno})"
        raise SystemExit(f"{path} has no {name}")

    return re.sub(r"\[`([\w.]+)`\]\((\.\./[\w/]+\.py)(?:#L\d+)?\)", line, text)


LINKED = sorted((ROOT / "docs").glob("*.md"))

if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
    for page in LINKED:
        page.write_text(linked(page.read_text(encoding="utf-8")), encoding="utf-8")
