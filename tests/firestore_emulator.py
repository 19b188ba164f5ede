"""Google's own Firestore emulator, a process of the tests' own: everything in it is in memory and goes with it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from warm_start import dying_with_us, unmarked

PACKAGE = "google-cloud-cli-firestore-emulator"
JAR = "cloud-firestore-emulator.jar"
MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
STARTED_WITHIN_SECONDS = 60.0
HOST_VARIABLE = "FIRESTORE_EMULATOR_HOST"


class Emulator:
    """One emulator at a port of its own. `start` after `kill` gives an empty one at the same port."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers: its first answer takes seconds."""
        missing, java = what_is_missing(), shutil.which("java")
        assert missing is None, missing
        assert java is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *dying_with_us(),
                    java,
                    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"),
                    *("-cp", str(_jar()), MAIN, "start"),
                    *("--host=127.0.0.1", f"--port={self._port}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=unmarked(),
            )
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not self._answers():
            ended = self._process.poll()
            assert ended is None, f"the emulator ended with {ended}:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"no answer:\n{self._log.read_text()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        """Whether it has stored a document: that warms it up."""
        request = urllib.request.Request(
            f"http://{self.host}/v1/projects/warm-up/databases/(default)/documents/warm",
            data=b'{"fields": {}}',
            headers={"Authorization": "Bearer owner", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def what_is_missing() -> str | None:
    """Say what keeps the emulator from being started here, and how to mend it."""
    if _jar() is None:
        return f"it needs Google's emulator ({PACKAGE}); `make firestore-emulator` says how"
    if shutil.which("java") is None:
        return "its emulator needs java; `make firestore-emulator` says how"
    return None


def _jar() -> Path | None:
    """The emulator as Debian's package, or gcloud, has installed it."""
    roots = [Path("/usr/lib/google-cloud-sdk")]
    if gcloud := shutil.which("gcloud"):
        roots.append(Path(gcloud).resolve().parents[1])
    for root in roots:
        found = root / "platform" / "cloud-firestore-emulator" / JAR
        if found.exists():
            return found
    return None


if __name__ == "__main__":  # for the Makefile: it fails where the emulator is missing
    sys.exit(what_is_missing())
