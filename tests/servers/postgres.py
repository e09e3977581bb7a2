"""An empty PostgreSQL database for a test, where HARNESS_TEST_POSTGRES_URL names a server: a schema of its own."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

POSTGRES_URL = os.environ.get("HARNESS_TEST_POSTGRES_URL")


@contextmanager
def postgres_schema() -> Iterator[str]:
    """Its URL; the schema goes when the test ends. Skips where there is no server."""
    if POSTGRES_URL is None:
        pytest.skip("HARNESS_TEST_POSTGRES_URL names no PostgreSQL server")
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(sa.make_url(POSTGRES_URL).set(drivername="postgresql+psycopg"))
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    of_schema = sa.make_url(POSTGRES_URL).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield of_schema.render_as_string(hide_password=False)
    finally:
        with server.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        server.dispose()
