"""The browser's console, which must stay clean."""

from __future__ import annotations

import re

from playwright.sync_api import ConsoleMessage, WebError


class Console:
    """What the browser complained of. A complaint that a test expects must be allowed by it."""

    def __init__(self) -> None:
        # Nobody is signed in at first, and the page has to ask.
        self.allowed = [r"status of 401 .*/api/session$"]
        self.complaints: list[str] = []

    def allow(self, pattern: str) -> None:
        self.allowed.append(pattern)

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} @ {message.location.get('url', '')}")

    def thrown(self, error: WebError) -> None:
        self.complaints.append(f"uncaught: {error.error}")

    def check(self) -> None:
        unexpected = [c for c in self.complaints if not any(re.search(a, c) for a in self.allowed)]
        assert unexpected == [], f"the browser's console is not clean: {unexpected}"
