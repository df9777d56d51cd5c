"""Rows and tokens on disk: they read as a list does, and memory does not grow with them."""

import gc
import random
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.core.tables.arrow_file import ROWS_AT_ONCE, Cells
from finetune.core.tables.files import read_table, write_table
from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens

ROWS = [{"text": f"text {n}", "label": "pn"[n % 2]} for n in range(2 * ROWS_AT_ONCE + 7)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_cells_are_taken_in_any_order_across_batches(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path / f"t{suffix}", ROWS)
    table = read_table(tmp_path / f"t{suffix}")
    assert table.rows == ROWS and table.rows[-1] == ROWS[-1] and len(table.rows) == len(ROWS)
    cells = table.column("text")
    assert isinstance(cells, Cells) and cells != [row["text"] for row in ROWS[1:]]
    order = random.Random(0).sample(range(len(ROWS)), 500)
    taken = cells.take(order)
    assert list(taken) == [ROWS[index]["text"] for index in order]
    assert taken.take([3, 3, 0])[1:] == [ROWS[order[3]]["text"], ROWS[order[0]]["text"]]
    both = Cells.joined([taken, cells.decoded(len).take([5])])
    assert (len(both), both[500], both[499]) == (501, len("text 5"), ROWS[order[499]]["text"])


def test_cells_outlive_the_table_they_were_read_from(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS)
    cells = read_table(tmp_path / "t.csv").column("text")
    (tmp_path / "t.csv").unlink()
    gc.collect()
    assert cells[-1] == ROWS[-1]["text"]


def test_tokens_on_disk_are_those_of_the_encoder(tiny_base: Path) -> None:
    encoder = TextEncoder.load(tiny_base, {}, max_length=16)
    texts = ["good film " * (1 + n % 9) for n in range(ROWS_AT_ONCE + 3)]
    pairs = ["bad " * (n % 4) for n in range(len(texts))]
    tokens, rows = Tokens(texts, pairs, encoder), encoder(texts, pairs)
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    assert tokens.truncated.tolist() == [row.truncated for row in rows] and 0 < tokens.truncated.mean() < 1
    for index in (0, 8, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, -1):
        row, wanted = tokens[index], rows[index]
        assert [row.ids.tolist(), row.type_ids.tolist(), row.segments.tolist()] == [
            list(wanted.ids),
            list(wanted.type_ids),
            list(wanted.segments),
        ]
    with pytest.raises(IndexError):
        tokens[len(texts)]


READING = """
import resource, sys
from finetune.config.data import DataConfig
from finetune.data.load import load_splits
from finetune.core.tokenization import TextEncoder
from finetune.data.tokenized import Tokens

def anonymous_mb():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

encoder = TextEncoder.load(sys.argv[1], {}, max_length=64)
splits = load_splits(DataConfig(train=(sys.argv[2],)), seed=0)
tokens = Tokens(splits.train.texts, None, encoder)
print(len(tokens), anonymous_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc, which this system does not have")
def test_memory_hardly_grows_with_the_table(tiny_base: Path, tmp_path: Path) -> None:
    def read(rows: int) -> tuple[int, int, int]:
        lines = (f"{n} {'good film about a bad day ' * 40},{'pn'[n % 2]}\n" for n in range(rows))
        with (tmp_path / "t.csv").open("w") as stream:
            stream.writelines(["text,label\n", *lines])
        command = [sys.executable, "-c", READING, str(tiny_base), str(tmp_path / "t.csv")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, anonymous_mb = map(int, done.stdout.split())
        return count, anonymous_mb, (tmp_path / "t.csv").stat().st_size >> 20

    small_rows, before_mb, small_mb = read(10_000)
    large_rows, after_mb, large_mb = read(80_000)
    assert (small_rows, large_rows) == (9_000, 72_000)
    assert after_mb - before_mb < (large_mb - small_mb) / 2  # as lists of Python objects it was three times the file
