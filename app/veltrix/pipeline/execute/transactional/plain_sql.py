"""What a statement of an author may leave in its session, told by its text alone.

PLAIN    reads or changes rows, and nothing else
UNSURE   reads or changes rows, with a function that may do more: clean the session after it
ODD      anything else that the end of its transaction, or a savepoint, undoes
CONTROL  may end the transaction: it must not be sent where others share it

In doubt it is the later one. What functions of the database itself do, triggers above all, no text
tells: see `veltrix.pipeline.execute.transactional.hidden_code`.
"""

import re
from enum import IntEnum

from psycopg.sql import Composable


class StatementKind(IntEnum):
    """What is to be thought of a statement; the later, the worse."""

    PLAIN = 0
    UNSURE = 1
    ODD = 2
    CONTROL = 3


_KEPT_MAX, _KEPT_CHARS_MAX = 1_000, 4_000  # kinds kept, and of texts of what length
_VERBS = frozenset({"select", "insert", "update", "delete", "with", "values"})
_ENDS = frozenset({"commit", "end", "rollback", "abort"})
# Where the server sees no word: comments (whoever nests them is believed), literals, quoted names.
_UNSAID = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?<!\w)(\$(?:[a-z_]\w*)?\$).*?\1"""
    r"""|\be'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""",
    re.IGNORECASE | re.DOTALL,
)
_TO_SAVEPOINT = r"rollback\s+(?:(?:work|transaction)\s+)?to\b"
_IS_TO_SAVEPOINT = re.compile(rf"\s*{_TO_SAVEPOINT}")
_IS_END = re.compile(
    rf"\s*(?!{_TO_SAVEPOINT})(?:commit|end|abort|rollback|prepare\s+transaction)\b", re.IGNORECASE
)
_MAY_BE_END = re.compile(r"\b(?:commit|end|abort|rollback|prepare)\b", re.IGNORECASE)
# Where a text may hide something from the expressions below: comments, dollars, escapes.
_HIDES = re.compile(r"--|/\*|\$|\\|u&", re.IGNORECASE)
# What is quoted, in the order of the text: a name may hold the quote of a literal.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_WORD = re.compile(r"[a-z_]\w*")
_TABLE = re.compile(r'\binsert\s+into\s+[\w."]+\s*\(')
_CALL = re.compile(r'([\w."]+)\s*\(')
# They tell which numbers another step took from a sequence, or set what an update does not show.
_TELLS = re.compile(r"currval|lastval|pg_temp|pg_settings", re.IGNORECASE)
# What stands before a parenthesis and is no function: words of statements, and types.
_WORDS = """
all and any array as between bigint bit bpchar by case char character conflict decimal distinct
else except exists filter float from group having ilike imp_sen in int integer intersect interval
is join lateral like limit materialized not numeric offset on only or order over partition
returning row select set some then time timestamp timestamptz union using values varchar varying
when where with within
"""
# Functions of PostgreSQL that leave nothing.
_FUNCTIONS = """
abs age any_value array_agg array_append array_cat array_length array_position array_remove
array_to_string avg bool_and bool_or btrim cardinality cast ceil ceiling char_length
clock_timestamp coalesce concat concat_ws count cume_dist date_part date_trunc decode dense_rank
encode every exp extract first_value floor format gen_random_uuid generate_series greatest initcap
json_agg json_array_elements json_array_length json_build_array json_build_object json_object_agg
jsonb_agg jsonb_array_elements jsonb_array_length jsonb_build_array jsonb_build_object
jsonb_extract_path jsonb_extract_path_text jsonb_object_agg jsonb_set jsonb_strip_nulls lag
last_value lead least left length ln log lower lpad ltrim make_date make_interval max md5 min mod
nextval now ntile nullif overlay percent_rank position pow power rank regexp_match regexp_matches
regexp_replace repeat replace reverse right round row_number row_to_json rpad rtrim sign
split_part sqrt starts_with statement_timestamp string_agg string_to_array strpos substr substring
sum to_char to_date to_json to_jsonb to_number to_timestamp transaction_timestamp translate trim
trunc unnest upper width_bucket
"""
_HARMLESS = frozenset(f"{_WORDS} {_FUNCTIONS}".split())
_known: dict[str, StatementKind] = {}


def kind_of(statement: str) -> StatementKind:
    """Its kind; kept, since programs have few statements and say them often."""
    found = _known.get(statement)
    if found is None:
        found = _found(statement)
        if len(statement) <= _KEPT_CHARS_MAX:
            if len(_known) >= _KEPT_MAX:
                _known.clear()
            _known[statement] = found
    return found


def ends_it(statement: object) -> bool:
    """The transaction is over after it, or after one of them if they are several.

    In doubt it is not: who is alone in a transaction harms nobody else.
    """
    if isinstance(statement, Composable):
        statement = statement.as_string()
    if isinstance(statement, bytes):
        statement = statement.decode(errors="replace")
    if not isinstance(statement, str) or not _MAY_BE_END.search(statement):
        return False
    text = _UNSAID.sub(lambda found: " " if found[0][0] in "-/" else " 0 ", statement)
    return "*/" not in text and any(_IS_END.match(one) for one in text.split(";"))


def _found(statement: str) -> StatementKind:
    text = _QUOTED.sub(_unquoted, statement).lower()
    is_hiding = _HIDES.search(statement) is not None or "'" in text or text.count('"') % 2 == 1
    if is_hiding:
        text = statement.lower()
    words = _WORD.findall(text)
    if ";" in (text if is_hiding else text.rstrip().removesuffix(";")):
        return StatementKind.CONTROL  # several statements, perhaps
    is_end = bool(words) and words[0] in _ENDS and not _IS_TO_SAVEPOINT.match(text)
    if not words or is_end or words[:2] == ["prepare", "transaction"]:
        return StatementKind.CONTROL
    if is_hiding:
        is_safe = (_ENDS | {"transaction"}).isdisjoint(words)
        return StatementKind.ODD if is_safe else StatementKind.CONTROL
    if words[0] not in _VERBS or _TELLS.search(statement):
        return StatementKind.ODD
    if words.count("into") != len(re.findall(r"\binsert\s+into\b", text)):
        return StatementKind.ODD  # makes a table
    for name in _CALL.findall(_TABLE.sub("(", text)):
        if name.removeprefix("pg_catalog.") not in _HARMLESS:
            return StatementKind.UNSURE
    return StatementKind.PLAIN


def _unquoted(found: re.Match[str]) -> str:
    """A literal is a number; a name stays, quoted, if it is one like others."""
    quoted = found[0]
    if quoted[0] == "'":
        return " 0 "
    return quoted if quoted[1:-1].isidentifier() else '"?"'
