"""The Python in the documents is real: it loads, and what the README shows runs."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from doc_pages import ROOT, WAIT_SECONDS, blocks, pages, running, shown

from sluicegate.core.job import JobStatus
from sluicegate.core.job_manager import RunRequest
from sluicegate.registry import load

BLOCKS = list(
    chain.from_iterable(
        [(shown(page), number, code) for number, code in enumerate(blocks(page, "python"), 1)]
        for page in pages()
    )
)
SMALLEST = (ROOT / "examples" / "smallest.py").read_text()
README = [(number, code) for name, number, code in BLOCKS if name == "README.md"]


@pytest.mark.parametrize(
    ("document", "code"), [pytest.param(p, c, id=f"{p}-{n}") for p, n, c in BLOCKS]
)
def test_every_block_is_a_file_that_loads(document: str, code: str, tmp_path: Path) -> None:
    """Readers copy blocks; one that lacks an import or uses an option that is gone fails in their hands."""
    file = tmp_path / "shown.py"
    file.write_text(code)
    if "@bronze" in code or "@silver" in code or "@gold" in code:
        assert load(str(file)).pipelines, document
    else:
        exec(compile(code, f"{document} (block)", "exec"), {"__name__": "shown"})


@pytest.mark.parametrize("code", [pytest.param(c, id=f"README-{n}") for n, c in README])
def test_the_blocks_of_the_readme_run(code: str, tmp_path: Path) -> None:
    """The first thing that a reader tries must work as shown."""
    file = tmp_path / "shown.py"
    file.write_text(code)
    with running(tmp_path, file) as service:
        job, _ = service.manager.create(RunRequest(), user_id="reader")
        assert service.wait(job.job_id, WAIT_SECONDS).status is JobStatus.SUCCESS
        if code == SMALLEST:
            table = service.tables.describe("gold.cups_by_item", limit=10, version=None)
            assert table["preview"] == [{"item": "coffee", "cups": 1}, {"item": "tea", "cups": 5}]


def test_the_readme_shows_the_smallest_example_as_it_is() -> None:
    """It says that the block is that file; so running the one is running the other."""
    assert SMALLEST in [code for _, code in README]
