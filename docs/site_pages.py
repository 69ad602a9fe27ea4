"""What the site has that docs/ has not: pages from the repository's root, and a page of all public names.

A hook of mkdocs (`make site`), which calls these functions by their names.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FROM_THE_ROOT = {"CONTRIBUTING.md": "developing/contributing.md", "CHANGELOG.md": "developing/changes.md"}
FACE = """# regard

What `import regard` gives, from its docstrings. What each is for, with examples: [Reference](../reference.md).
"""
ENTRY = """
::: regard.{}
    options:
      show_root_heading: true
      show_root_toc_entry: true
"""
LINK = re.compile(r"\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Put the pages of docs/developing before those from the root: what there is first, then how to add to it."""
    (developing,) = (entry["Developing"] for entry in config.nav if "Developing" in entry)
    pages = sorted(Path(config.docs_dir, "developing").glob("*.md"), key=lambda p: (p.name.startswith("add-"), p.name))
    developing[:0] = [page.relative_to(config.docs_dir).as_posix() for page in pages]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from the root, and the page of public names."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in FROM_THE_ROOT.items()}
    names = sorted(public_names(), key=str.swapcase)  # functions, then classes
    made["api/regard.md"] = "\n".join([FACE, *(ENTRY.format(name) for name in names)])
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def public_names() -> list[str]:
    """The keys of the table in `regard/__init__.py`, read without importing it."""
    tree = ast.parse((ROOT / "src" / "regard" / "__init__.py").read_text(encoding="utf-8"))
    (table,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "HOMES")
    return [*ast.literal_eval(table)]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to pages of the site; of a link to another file of the repository keep the words."""
    place = page.file.src_uri
    source = next((name for name, made in FROM_THE_ROOT.items() if made == place), f"docs/{place}")

    def on_the_site(match: re.Match[str]) -> str:
        words, path, anchor = match[1], match[2], match[3] or ""
        if "://" in path or path.startswith("mailto:"):
            return match[0]
        target = os.path.normpath(os.path.join(os.path.dirname(source), path))
        made = FROM_THE_ROOT.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if made is None:
            return words
        return f"[{words}]({os.path.relpath(made, os.path.dirname(place) or '.')}{anchor})"

    return LINK.sub(on_the_site, markdown)
