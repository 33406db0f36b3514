"""Row tables: every row holds its entry; places are kept."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.row_tables import EMPTY, RowTable, place_rows

NUM_ENTRIES, NUM_ROWS = 4, 6
DROP = st.tuples(st.just("drop"), st.integers(1, NUM_ENTRIES), st.none())
PUT = st.tuples(st.just("put"), st.integers(1, NUM_ENTRIES), st.sets(st.sampled_from("xyz")))
SELECT = st.tuples(
    st.just("select"),
    st.lists(st.integers(EMPTY, NUM_ENTRIES), min_size=1, max_size=NUM_ROWS),
    st.none(),
)
GROW = st.tuples(st.just("grow"), st.sampled_from("xyz"), st.none())


def table_of(*names: str) -> RowTable:
    table = RowTable(NUM_ROWS, torch.float32, torch.device("cpu"))
    table.grow(dict.fromkeys(names, (2,)))
    return table


@given(operations=st.lists(st.one_of(PUT, DROP, SELECT, GROW), max_size=30))
def test_selected_rows_hold_what_their_entries_hold_now(operations: list) -> None:
    table = table_of("x")
    parts, entries = {"x"}, {EMPTY: dict.fromkeys("xyz", 0.0)}
    value = 0.0
    for kind, what, names in operations:
        if kind == "put":
            value += 1
            given_parts = names & parts
            table.put(what, {name: torch.full((2,), value) for name in given_parts})
            entries[what] = {name: value if name in given_parts else 0.0 for name in "xyz"}
        elif kind == "drop":
            table.remove(what)
            entries.pop(what, None)
            assert what not in table.used
        elif kind == "grow":
            assert table.grow({what: (2,)}) == (what not in parts)
            parts.add(what)
        else:
            what = [entry if entry in entries else EMPTY for entry in what]
            table.select(what)
            for name in parts:
                expected = [[entries[entry][name]] * 2 for entry in what]
                assert table.rows(name)[: len(what)].tolist() == expected, name
            assert table.used[: len(what)].tolist() == what


def test_rows_stay_the_same_tensor() -> None:
    table = table_of("x")
    before = table.rows("x")
    table.put(1, {"x": torch.ones(2)})
    table.grow({"y": (3,)})
    table.select([1, 1])
    assert table.rows("x") is before


def test_filled_entries_are_listed_once_and_an_empty_table_gives_the_empty_entry() -> None:
    table = table_of("x")
    assert table.filled == [EMPTY]
    for entry in (3, 1, 3):
        table.put(entry, {"x": torch.ones(2)})
    assert table.filled == [1, 3]
    table.remove(1)
    table.remove(EMPTY)
    assert table.filled == [3]


def test_entries_take_what_they_hold_and_nothing_once_dropped() -> None:
    table = table_of("x")
    table.grow({"y": (1000,)})
    table.put(1, {"x": torch.ones(2)})
    assert table.num_bytes == 2 * 4
    table.put(2, {"y": torch.ones(1000)})
    assert table.num_bytes == 1002 * 4
    table.remove(2)
    assert table.num_bytes == 2 * 4


KEY = st.tuples(st.integers(0, 3), st.integers(0, 2))


@given(data=st.data(), current=st.lists(KEY, min_size=1, max_size=12))
def test_places_are_distinct_and_as_many_as_can_stay(
    data: st.DataObject, current: list[tuple[int, ...]]
) -> None:
    num_places = data.draw(st.integers(1, len(current)))
    keys = data.draw(st.lists(KEY, max_size=num_places))
    places = place_rows(keys, current, num_places)
    assert len(set(places)) == len(keys) == len(places)
    assert all(0 <= place < num_places for place in places)
    kept = sum(current[place] == key for place, key in zip(places, keys, strict=True))
    held = current[:num_places]
    assert kept == sum(min(keys.count(key), held.count(key)) for key in set(keys))
