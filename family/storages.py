"""Where a search that several hosts share keeps its study: a database, or Optuna's gRPC proxy before one.

Optuna owns the coordination; here its storage is opened by URL, waits while the server is away, and is named without
its password in whatever is said.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, get_storage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from family.errors import RunFailed, mistake
from family.suggest import did_you_mean, list_names

AWAY_S = 300.0  # how long a server that was there may be away before a worker gives up
CONNECT_S = 10  # how long the first answer may take
WHERE = "search.storage"
POSTGRES = {"psycopg2": "postgresql+psycopg2", "psycopg": "postgresql+psycopg"}  # driver → SQLAlchemy's name


def open_storage(url: str) -> Patient:
    """The storage at `url`, once it has answered. Raises Mistakes (scheme, driver missing); RunFailed (no answer)."""
    check_url(url)
    return Patient(OPENERS[scheme_of(url)](url), hide_password(url))


def check_url(url: str) -> None:
    """Raises Mistakes where no storage can be opened by `url`, whatever the server says."""
    scheme = scheme_of(url)
    if scheme == "sqlite":
        raise mistake(
            WHERE,
            "must be reachable from every host; SQLite's locks do not hold between hosts. On one machine leave storage "
            f"out: the workers share a journal in the run folder. Got {hide_password(url)!r}.",
        )
    if scheme not in OPENERS:
        forms = list_names(["postgresql://user@host/database", "grpc://host:port"])
        raise mistake(WHERE, f"must be {forms}. Got {hide_password(url)!r}.{did_you_mean(scheme, OPENERS)}")
    parts = urlsplit(url)
    try:
        whole = scheme != "grpc" or (parts.hostname and parts.port)
    except ValueError:
        whole = False
    if not whole:
        raise mistake(WHERE, f"must name host and port: grpc://host:port. Got {hide_password(url)!r}.")


def scheme_of(url: str) -> str:
    """postgresql of postgresql+psycopg://…; postgres is another word for it."""
    scheme = url.partition("://")[0].partition("+")[0].lower()
    return "postgresql" if scheme == "postgres" else scheme


def hide_password(text: str) -> str:
    """The same with *** for the password of any URL in it."""
    hidden = re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&\s]+", r"\1***", hidden)


def open_database(url: str) -> BaseStorage:
    """Optuna's tables there, made on the first use."""
    there = [name for name in POSTGRES if find_spec(name)]
    named = url.partition("://")[0].partition("+")[2]
    if (named and named not in there) or not there:
        raise mistake(WHERE, "needs a driver for PostgreSQL: pip install 'student-family[postgres]'.")
    address = f"{POSTGRES[named or there[0]]}://{url.partition('://')[2]}"
    # a worker asks from one thread and sends its beats from another: two connections at most, one mostly
    pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 1, "connect_args": {"connect_timeout": CONNECT_S}}
    for left in range(5, -1, -1):
        try:
            from optuna.storages import RDBStorage

            return get_storage(RDBStorage(address, engine_kwargs=pool))
        except (SQLAlchemyError, StorageInternalError) as problem:
            lost = is_away(problem)
            if lost or not left:  # two workers that make the tables at once disturb each other
                raise RunFailed(explain_away(url, problem)) from None
            time.sleep(0.3 + random.random())
    raise AssertionError


def open_proxy(url: str) -> BaseStorage:
    """Optuna's gRPC proxy, which another process serves."""
    if not find_spec("grpc"):
        raise mistake(WHERE, "needs gRPC: pip install 'student-family[grpc]'.")
    import warnings

    from optuna.storages import GrpcStorageProxy

    parts = urlsplit(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=str(parts.hostname), port=int(parts.port or 0))
    try:
        proxy.wait_server_ready(timeout=CONNECT_S)
    except ConnectionError as problem:
        raise RunFailed(explain_away(url, problem)) from None
    return proxy


OPENERS: dict[str, Callable[[str], BaseStorage]] = {"postgresql": open_database, "grpc": open_proxy}


def explain_away(url: str, problem: BaseException) -> str:
    """One line: which server, and what the driver says of it."""
    said = [one for one in (line.strip() for line in str(deepest(problem)).splitlines()) if one]
    why = f": {hide_password(said[0]).rstrip('.')}" if said else ""
    return f"{WHERE} cannot be reached at {hide_password(url)}{why}. Is the server running, and may this host connect?"


def deepest(problem: BaseException) -> BaseException:
    while (cause := problem.__cause__ or (problem.orig if isinstance(problem, DBAPIError) else None)) is not None:
        problem = cause
    return problem


def is_away(problem: BaseException | None) -> bool:
    """Whether an error of a storage says that its server is away, or refuses just now."""
    while problem is not None:
        if isinstance(problem, OperationalError | InterfaceError):
            return True
        if isinstance(problem, DBAPIError) and problem.connection_invalidated:
            return True
        code = getattr(problem, "code", None)
        if type(problem).__module__.startswith("grpc") and callable(code):
            # the proxy answers "unknown" where its own database is away
            return code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL")
        problem = problem.__cause__
    return False


def repeating(name: str) -> Callable[..., Any]:
    def call(self: Patient, *given: Any, **named: Any) -> Any:
        return self.repeat(name, *given, **named)

    return call


Repeating: Any = type("Repeating", (BaseStorage,), {name: repeating(name) for name in BaseStorage.__abstractmethods__})


class Patient(Repeating):
    """A storage whose calls are repeated, at growing intervals, while its server is away; RunFailed after AWAY_S.

    A call whose answer was lost may have been followed: a trial that was made so is a running one that nobody works
    on, and is taken up like those of a dead worker.
    """

    def __init__(self, storage: BaseStorage, name: str, away_s: float = AWAY_S):
        self.storage, self.name, self.away_s = storage, name, away_s
        self.back = 0.0  # when the server was there again (monotonic seconds); silence before that means nothing

    def repeat(self, method: str, *given: Any, **named: Any) -> Any:
        begin, pause = time.monotonic(), 0.5
        while True:
            try:
                answer = getattr(self.storage, method)(*given, **named)
            except Exception as problem:
                if not is_away(problem):
                    raise
                if time.monotonic() - begin > self.away_s:
                    raise RunFailed(
                        f"The search's storage {self.name} has not answered for {self.away_s:g} s. What was told is "
                        "kept there; the same command goes on."
                    ) from None
                self.back = time.monotonic()
                time.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, 10.0)
            else:
                if pause > 0.5:
                    self.back = time.monotonic()
                return answer

    def remove_session(self) -> None:
        self.storage.remove_session()
