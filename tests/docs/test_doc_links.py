"""Links lead somewhere, and the documents name no place that is not theirs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import ROOT, pages, prose, shown

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
URL = re.compile(r"\b(?:https?|ftp|git|ssh)://([^\s/:\"'`)]+)")
OURS = {"127.0.0.1", "localhost"}
EACH_DOCUMENT = pytest.mark.parametrize(
    "document", [pytest.param(page, id=shown(page)) for page in pages()]
)


def anchors(page: Path) -> set[str]:
    """The names by which headings and `<a id>` of a page can be linked to."""
    text = prose(page)
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.strip().replace(" ", "-"))
    return found


@EACH_DOCUMENT
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """A link that leads nowhere costs the reader more than none; files move, and headings change."""
    broken = []
    for groups in LINK.findall(prose(document)):
        link = groups[0] or groups[1]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@EACH_DOCUMENT
def test_no_document_names_another_host_or_a_folder_of_its_author(document: Path) -> None:
    """What a document needs is in the repository, and its readers have other folders than its author."""
    text = document.read_text()
    assert set(URL.findall(text)) <= OURS
    assert not re.search(r"(?<![\w.<~…])/(?:home|root|tmp|work|Users)/\w", text)


def test_there_are_documents() -> None:
    """An empty list would pass every test above."""
    assert ROOT / "README.md" in pages()
    assert len(pages()) > 10
