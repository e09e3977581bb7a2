"""Keeps what a race or a pruner decided on runs.

A part of `harness.ledger.ledger`, called in its transactions. A decision that was recorded stands: it is never changed.
"""

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from harness.ledger.tables import Decision, Verdict, decisions


def insert_decisions(connection: sa.Connection, new: Sequence[Decision]) -> None:
    """Adds those that are not there yet."""
    decisions.create(connection, checkfirst=True)
    keys = (decisions.c.sweep, decisions.c.run_id, decisions.c.rung)
    known = {tuple(row) for row in connection.execute(sa.select(*keys))}
    rows = [asdict(decision) for decision in new if (decision.sweep, decision.run_id, decision.rung) not in known]
    if rows:
        connection.execute(sa.insert(decisions), rows)


def select_decisions(connection: sa.Connection, sweep: str | None, run_id: str | None) -> list[Decision]:
    """Those of a sweep or a run, rung by rung, the lowest loss first; none of a ledger that never had any."""
    if not sa.inspect(connection).has_table(decisions.name):
        return []
    query = sa.select(decisions).order_by(decisions.c.sweep, decisions.c.rung, decisions.c.rank, decisions.c.run_id)
    if sweep is not None:
        query = query.where(decisions.c.sweep == sweep)
    if run_id is not None:
        query = query.where(decisions.c.run_id == run_id)
    rows = connection.execute(query).all()
    return [Decision(**{**row._mapping, "verdict": Verdict(row.verdict)}) for row in rows]
