"""The journal in both of its forms, for who reads it: rows, and what is kept with its run.

A run that one hand began and ended has its entries in `runs.steps`, a JSON array of arrays (see
`pipeline.execute.inline_journal`); all others have rows in `journal`.
"""

# In the place of a table, with the columns of `journal`. A condition on `run_id` reaches both keys.
JOURNAL_OF = """(
    select run_id, generation, position, kind, name, arguments_digest, output, error, attempts,
        recorded_at, began_at, took_ms, arguments
    from journal
    union all
    select r.id, r.generation, e ->> 0, e ->> 1, e ->> 2, decode(e ->> 3, 'hex'),
        e -> 4, null, (e ->> 5)::smallint, r.settled_at,
        r.settled_at - (e ->> 6)::bigint * interval '1 ms', (e ->> 7)::bigint, e ->> 8
    from runs r cross join lateral json_array_elements(r.steps::json) as e
    where r.steps is not null
)"""
