"""Where a study is kept: any storage of Optuna's, by its URL. What it raises becomes one sentence."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgeqrl.errors import DataError, EdgeQRLError, MissingToolError, UsageError, named_line

if TYPE_CHECKING:
    import optuna

_DRIVERS = {  # of storages: what to install
    "mysql": "mysqlclient",
    "mysqldb": "mysqlclient",
    "postgresql": "psycopg2-binary",
    "psycopg2": "psycopg2-binary",
    "rediss": "redis",
    "grpc": "grpcio",
}


class Carried(Exception):
    """Carries what our own code raised through Optuna, which is not to blame for it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def import_optuna() -> Any:
    """Return the module, quiet; raise MissingToolError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise MissingToolError("A search needs Optuna: pip install 'edgeqrl[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(storage: str, name: str, **options: Any) -> "optuna.Study":
    """Open or begin a study; `options` as for `optuna.create_study`. Raises UsageError where that fails."""
    optuna = import_optuna()
    with storage_errors(storage), quiet():
        return optuna.create_study(
            storage=_open(storage), study_name=name, load_if_exists=True, direction="minimize", **options
        )


def sqlite_url(file: Path) -> str:
    """Return the URL of a database in a file, whatever characters its path has."""
    import_optuna()
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn whatever a storage raises into one sentence; errors of ours go through.

    MissingToolError where its driver is not installed, DataError for a file that is damaged or no study, and
    UsageError for the rest.
    """
    try:
        yield
    except (EdgeQRLError, Carried):
        raise
    except ImportError as error:
        raise MissingToolError(
            f"The study's storage '{shown_url(url)}' needs a driver that is not installed: pip install "
            f"{_driver(url)}."
        ) from error
    except Exception as error:
        if _is_damage(url, error):
            raise DataError(
                f"'{_file(url)}' is no study of Optuna: it is damaged, or something else. Delete it, or "
                "choose another place with -o or --storage."
            ) from error
        reason = named_line(error).partition(" (Background on this error")[0].rstrip(" .")
        password = _password(url)
        if password:
            reason = reason.replace(password, "***")
        raise UsageError(
            f"The study's storage '{shown_url(url)}' fails ({reason}). Check --storage: a URL such as "
            "sqlite:///study.db, mysql://USER:PASSWORD@HOST/NAME, journal:FILE, or redis://HOST."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings: Optuna's of what it calls experimental, and those that each candidate repeats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shown_url(url: str) -> str:
    """Return the URL without its password."""
    password = _password(url)
    return url.replace(f":{password}@", ":***@") if password else url


def _open(url: str) -> Any:
    storages = import_optuna().storages
    if not re.match(r"[A-Za-z][\w+.-]*:", url):
        raise ValueError("it is no URL")
    if url.startswith("journal:"):
        file = url.removeprefix("journal:")
        return storages.JournalStorage(storages.journal.JournalFileBackend(file))
    if url.startswith(("redis:", "rediss:")):
        return storages.JournalStorage(storages.journal.JournalRedisBackend(url))
    if url.startswith("grpc:"):
        place = urlsplit(url)
        return storages.GrpcStorageProxy(host=place.hostname or "localhost", port=place.port or 13000)
    return storages.RDBStorage(url)


def _driver(url: str) -> str:
    """Return what to install for a storage."""
    dialect, _, driver = url.partition(":")[0].lower().partition("+")
    name = driver or dialect
    return _DRIVERS.get(name, name)


def _is_damage(url: str, error: Exception) -> bool:
    """Tell whether it is the content of a file that made a storage fail."""
    if url.startswith("journal:"):
        return (
            isinstance(error, AssertionError | LookupError | TypeError | ValueError)
            and Path(_file(url)).is_file()
        )
    causes = [error, error.__cause__]
    is_damaged = any(
        type(cause).__name__ == "DatabaseError" for cause in causes
    )  # and none of its subclasses
    return url.startswith("sqlite:") and (is_damaged or "no such column" in str(error.__cause__))


def _file(url: str) -> str:
    """Return the file of a storage that is one."""
    if url.startswith("journal:"):
        return url.removeprefix("journal:")
    from sqlalchemy import make_url

    return make_url(url).database or url


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
