"""Rows in a table of PostgreSQL, by the same rule as in DynamoDB: the first answer of an event stays.

Address, user and password come from libpq's own variables and files, such as ``PGHOST`` and ``PGPASSFILE``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from inference_runtime.anywhere.json_lines import plain_row
from inference_runtime.errors import StageError
from inference_runtime.stages.sinks import NeverWrittenError, NotWrittenError, SinkTimeoutError
from inference_runtime.timeouts import CONNECT_TIMEOUT, MAX_CONNECTIONS, READ_TIMEOUT

if TYPE_CHECKING:
    from inference_runtime.stages.rows import Attribute

_NAME = re.compile(r"(?:[a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,62}")

SCHEMA = """CREATE TABLE IF NOT EXISTS {table} (
  object text NOT NULL,
  version text NOT NULL,
  sequencer text COLLATE "C" NOT NULL,
  status text NOT NULL,
  reason text NOT NULL,
  expires_at bigint,
  "row" jsonb NOT NULL,
  PRIMARY KEY (object, version)
)"""
"""The table. Sequencers are compared byte by byte, whatever the database's language."""

_WRITE = """INSERT INTO {table} AS known (object, version, sequencer, status, reason, expires_at, "row")
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (object, version) DO UPDATE SET
  sequencer = excluded.sequencer, status = excluded.status, reason = excluded.reason,
  expires_at = excluded.expires_at, "row" = excluded."row"
WHERE known.sequencer < excluded.sequencer
  OR (known.sequencer = excluded.sequencer AND known.status <> 'SUCCEEDED' AND known.reason <> excluded.reason)"""


class PostgresSink:
    """A table of PostgreSQL.

    Parameters
    ----------
    pool
        Connections that commit each statement.
    table
        Its name, perhaps with a schema.
    """

    def __init__(self, pool: ConnectionPool, table: str) -> None:
        self._pool = pool
        self._write = sql.SQL(_WRITE).format(table=_identifier(table))

    def write(self, attributes: dict[str, Attribute]) -> bool:
        """Write a row; see `sinks.ResultSink`."""
        row = plain_row(attributes)
        names = ("object", "version", "sequencer", "status")
        values = [row[name] for name in names]
        values += [row.get("reason", ""), row.get("expires_at"), Jsonb(row)]
        try:
            with self._pool.connection() as connection:
                return connection.execute(self._write, values).rowcount == 1
        except (PoolTimeout, psycopg.errors.QueryCanceled) as error:
            raise SinkTimeoutError(str(error)) from error
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded) as error:
            raise NeverWrittenError(str(error)) from None  # its name says what follows from it
        except psycopg.Error as error:
            raise NotWrittenError(str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def open_postgres(table: str) -> PostgresSink:
    """Connect to the database, and check that the table is there.

    Parameters
    ----------
    table
        Its name in lower case, perhaps with a schema. It is `SCHEMA` with that name; whoever owns the database makes
        it, since the server may only read and write rows.

    Raises
    ------
    StageError
        If the name cannot be one, or there is no such database or table.
    """
    options = f"-c statement_timeout={READ_TIMEOUT * 1000}"
    pool = ConnectionPool(
        kwargs={
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": READ_TIMEOUT * 1000,  # a network that ends without a word would be waited for
            "options": options,
            **_password(),
        },
        min_size=1,
        max_size=MAX_CONNECTIONS,
        timeout=READ_TIMEOUT,
        check=ConnectionPool.check_connection,
        open=True,
    )
    try:
        sink = PostgresSink(pool, table)
        with pool.connection() as connection:
            connection.execute(sql.SQL('SELECT "row" FROM {table} LIMIT 0').format(table=_identifier(table)))
    except (psycopg.Error, PoolTimeout) as error:
        pool.close()
        raise StageError(f"cannot use the table {table}: {error}") from error
    except StageError:
        pool.close()
        raise
    return sink


def _password() -> dict[str, str]:
    """Return the password of the file that `POSTGRES_PASSWORD_FILE` names.

    libpq's own file must be readable by its owner alone, which secrets that Kubernetes mounts are not.
    """
    if (path := os.environ.get("POSTGRES_PASSWORD_FILE")) is None:
        return {}
    try:
        return {"password": Path(path).read_text(encoding="utf-8").rstrip("\n")}
    except (OSError, ValueError) as error:
        raise StageError(f"cannot read POSTGRES_PASSWORD_FILE: {error}") from error


def _identifier(table: str) -> sql.Identifier:
    if not _NAME.fullmatch(table):
        raise StageError(f"RESULTS_TABLE must be the name of a table in lower case, got {table!r:.200}")
    return sql.Identifier(*table.split("."))
