"""The documentation holds: links lead somewhere, examples are valid, and pages that say so are run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pages
import pytest
from pages import PAGES, ROOT, Block, matches

from featurestore.specs import load_config, load_declarations
from featurestore.specs.documents import read_documents

LINK = re.compile(r"\[[^\]]*\]\(<?([^)>\s]+)")
VARIABLE = re.compile(r"\$\{(\w+)")
CLI = (spec := importlib.util.find_spec("featurestore.cli")) is not None and spec.origin is not None
ADR_SECTIONS = ["Context", "Decision", "Alternatives", "Consequences"]


def name(page: Path) -> str:
    """Return a page's path from the root."""
    return str(page.relative_to(ROOT))


def targets(page: Path) -> list[str]:
    """Return the targets of a page's links that lie within the project."""
    return [target for target in LINK.findall(pages.prose(page)) if not re.match(r"[a-z]+:", target)]


def examples(*languages: str) -> list[Any]:
    """Return a parameter per block in these languages, of all pages."""
    found = [block for page in PAGES for block in pages.blocks(page) if block.language in languages]
    return [pytest.param(block, id=block.where) for block in found]


def runs(page: Path) -> bool:
    """Return whether a page says that it is run."""
    return pages.MARKER in page.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong = []
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if ROOT not in file.parents or not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in pages.anchors(file):
            wrong.append(f"{target}: no such heading")
    assert not wrong, f"{name(page)}: " + "; ".join(wrong)


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = set(), [ROOT / "docs/index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        linked = [(page.parent / target.partition("#")[0]).resolve() for target in targets(page)]
        todo += [file for file in linked if file.suffix == ".md" and file.exists() and file not in reached]
    docs = {page for page in PAGES if ROOT / "docs" in page.parents}
    assert not sorted(map(name, docs - reached)), "no link leads to these pages"


@pytest.mark.parametrize("block", examples("yaml"))
def test_every_yaml_example_is_what_the_loader_takes(block: Block, tmp_path: Path) -> None:
    """Whole declarations and settings are checked as a project's files are; a part of one as YAML."""
    file = tmp_path / "example.yaml"
    file.write_text(block.text, encoding="utf-8")
    values = [document.value for document in read_documents(file)]
    assert values, f"{block.where}: an empty example"
    if any(isinstance(value, dict) and "project" in value for value in values):
        file.rename(tmp_path / "featurestore.yaml")
        load_config(tmp_path, environ=dict.fromkeys(VARIABLE.findall(block.text), "given"))
    elif all(isinstance(value, dict) and "kind" in value and "name" in value for value in values):
        assert len(load_declarations(tmp_path)) == len(values)


@pytest.mark.parametrize("block", examples("python"))
def test_every_python_example_parses_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, block.where)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("featurestore"):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("featurestore"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.where}: {node.module} has no {alias.name}"


@pytest.mark.skipif(not CLI, reason="there is no command yet")
@pytest.mark.parametrize("block", examples("bash", "console"))
def test_every_command_shown_is_a_verb_with_these_options(block: Block) -> None:
    import typer

    from featurestore.cli import command_line

    verbs = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
    for text, _ in pages.commands(block):
        for line in text.replace("\\\n", " ").splitlines():
            if not re.match(r"(\w+=\S+ )*featurestore ", line):
                continue
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if len(words) < 2 or words[0] != "featurestore" or words[1].startswith("-"):
                continue
            assert words[1] in verbs, f"{block.where}: there is no verb '{words[1]}'"
            verb = verbs[words[1]]
            if hasattr(verb, "commands"):
                assert words[2] in verb.commands, f"{block.where}: there is no verb '{' '.join(words[1:3])}'"
                verb = verb.commands[words[2]]
            known = {option for parameter in verb.params for option in parameter.opts}
            known |= {option for parameter in verb.params for option in parameter.secondary_opts}
            given = {word.partition("=")[0] for word in words[2:] if word.startswith("--") and word != "--"}
            assert given <= known | {"--help"}, f"{block.where}: {words[1]} takes no {given - known}"


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name)
def test_a_page_that_is_run_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    if "curl " in page.read_text(encoding="utf-8") and shutil.which("curl") is None:
        pytest.skip("needs curl")
    folder = tmp_path / "work"
    folder.mkdir()
    with pages.Run(folder) as run:
        for block in pages.blocks(page):
            run.block(block)


def test_the_tutorial_is_run() -> None:
    tutorial = ROOT / "docs/tutorial.md"
    assert not tutorial.exists() or runs(tutorial), f"docs/tutorial.md needs this line: {pages.MARKER}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/adr").glob("[0-9]*.md")), ids=name)
def test_a_decision_record_has_its_sections_and_is_listed(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ADR_SECTIONS
    assert page.name in targets(ROOT / "docs/adr/README.md")


def test_output_is_compared_as_the_page_shows_it() -> None:
    assert matches("a\nb\n", "\na  \nb\n\n")
    assert matches("took … s\n", "took 1.25 s\n")
    assert matches("first\n…\nlast\n", "first\n1\n2\nlast\n")
    assert matches("first\n...\nlast\n", "first\nlast\n")
    assert not matches("a\nb\n", "a\n")
    assert not matches("took … s\n", "took 1\n2 s\n")
    assert not matches("a.c\n", "abc\n")


def test_a_run_page_keeps_its_shell_its_names_and_its_files(tmp_path: Path) -> None:
    page = ROOT / "docs/index.md"
    folder = tmp_path / "work"
    folder.mkdir()
    with pages.Run(folder) as run:
        run.block(Block(page, 1, "yaml", "# sub/a.yaml\nx: 1\n"))
        run.block(Block(page, 2, "bash", "cd sub\nsleep 60 &\nNAME=you\n"))
        run.block(Block(page, 3, "console", "$ echo hello $NAME\nhello you\n$ cat a.yaml\n…\nx: 1\n"))
        run.block(Block(page, 4, "python", "from pathlib import Path\ntext = Path('a.yaml').read_text()\n"))
        run.block(Block(page, 5, "python", "print(len(text.splitlines()))\n"))
        run.block(Block(page, 6, "text", "2\n"))
        with pytest.raises(AssertionError, match=r"docs/index\.md:7: the page shows"):
            run.block(Block(page, 7, "console", "$ echo one\ntwo\n"))
        with pytest.raises(AssertionError, match=r"docs/index\.md:8: exit status 3"):
            run.block(Block(page, 8, "bash", "(exit 3)\necho never\n"))
