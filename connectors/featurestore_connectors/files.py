"""Batch sources of files: Parquet, CSV, JSON lines, Delta (see `featurestore.contracts.BatchSource`).

Each file is an input; its digest is the xxh3-128 of its bytes. Files are read by pyarrow, a batch at a
time, in the order of their rows. CSV is read as text, so that "00123" stays itself; the door casts. Empty
unquoted text is null, "" is empty text. JSON comes as raw lines in one binary column, `__payload`: the door
decodes them as it does a stream's records. A line of CSV with too many or too few fields comes last, as
`__payload` beside `__malformed`: it costs only itself.

`options:` — csv: delimiter, quote, escape, header (or `columns:` where the file has none), skip_rows,
encoding, nulls (the texts that mean null; default, the empty one). Compressed files (.gz, .bz2, .zst) are
read as they are.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import xxhash

from featurestore.contracts import BatchInput
from featurestore.errors import OperatorError, SpecError, did_you_mean
from featurestore.rows.dead_letters import MALFORMED, PAYLOAD
from featurestore_connectors.delta_source import DeltaSource
from featurestore_connectors.parquet import read_parquet, slices, unreadable

_SUFFIXES = {"parquet": (".parquet",), "csv": (".csv",), "json": (".json", ".jsonl", ".ndjson")}
_COMPRESSED = ("", ".gz", ".bz2", ".zst")
_BLOCK = 4 << 20
_OPTIONS = {
    "csv": ("delimiter", "quote", "escape", "header", "columns", "skip_rows", "encoding", "nulls", "epoch"),
    "parquet": ("epoch",),
    "json": ("epoch",),
    "delta": ("from_version", "epoch"),
}


class FileSource:
    """The files of a batch half, or of a path that was given."""

    def __init__(self, spec: dict[str, Any], root: Path) -> None:
        """Take the half as written; relative paths begin at `root`. Raises SpecError on unknown options."""
        self.kind: str = spec["kind"]
        self.path: str = spec["path"]
        self.root = Path(root)
        self.options: dict[str, Any] = spec.get("options") or {}
        for name in self.options:
            if name not in _OPTIONS[self.kind]:
                raise SpecError(
                    f"options: '{name}' is no option of {self.kind}.",
                    hint=did_you_mean(name, _OPTIONS[self.kind]),
                )
        if "://" in self.path:
            raise SpecError(f"path: '{self.path}' is no local path.", hint="Mount or copy the files first.")
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._delta: DeltaSource | None = None
        if self.kind == "delta":
            self._delta = DeltaSource(self.root / self.path, self.path, self.options.get("from_version"))

    def inputs(self) -> list[BatchInput]:
        """Return the files there are now, in the order of their paths, with the digests of their bytes."""
        if self._delta is not None:
            return self._delta.inputs()
        return [self._input(path) for path in self._paths()]

    def read(
        self, item: BatchInput, skip: int, batch_rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the file's rows from number `skip` on, columns as stored; only `columns`, where given.

        A file that changed since `inputs` is an OperatorError.
        """
        if self._delta is not None:
            yield from self._delta.read(item, skip, batch_rows, columns)
            return
        path = self.root / item.name
        if self._input(path).digest != item.digest:
            raise OperatorError(f"{path} changed while it was read.", hint="Start the ingest again.")
        read = {"parquet": read_parquet, "csv": self._read_csv, "json": _read_json}[self.kind]
        try:
            yield from read(path, skip, batch_rows, columns)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise unreadable(path, self.kind, error) from error

    def _paths(self) -> list[Path]:
        pattern = str(self.root / self.path)
        if Path(pattern).is_dir():
            found = [
                path
                for suffix in _SUFFIXES[self.kind]
                for packed in _COMPRESSED
                for path in Path(pattern).rglob(f"*{suffix}{packed}")
                if not any(part[0] in "_." for part in path.relative_to(pattern).parts)
            ]
        else:
            found = [Path(path) for path in glob.glob(pattern, recursive=True)]
        files = sorted((path for path in found if path.is_file()), key=lambda path: path.as_posix())
        if not files:
            raise SpecError(f"path: '{self.path}' matches no file.", hint=f"It was looked for as {pattern}.")
        return files

    def _input(self, path: Path) -> BatchInput:
        try:
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
            if key not in self._digests:
                self._digests[key] = digest_file(path)
        except OSError as error:
            raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error
        rows = None
        if self.kind == "parquet":
            try:
                rows = pq.read_metadata(path).num_rows
            except pa.ArrowInvalid as error:
                raise OperatorError(f"{path} is no Parquet file: {error}") from error
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return BatchInput(name.as_posix(), self._digests[key], rows)

    def _read_csv(
        self, path: Path, skip: int, batch_rows: int, columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        options = self.options
        bad: list[str] = []
        reasons: list[str] = []

        def refuse(row: pa_csv.InvalidRow) -> str:
            reasons.append(f"line {row.number} has {row.actual_columns} fields, not {row.expected_columns}")
            bad.append(row.text)
            return "skip"

        names = options.get("columns")
        if names is None and not options.get("header", True):
            raise SpecError("options: header: false needs columns:, the names of the columns.")
        parse = pa_csv.ParseOptions(
            delimiter=options.get("delimiter", ","),
            quote_char=options.get("quote", '"'),
            escape_char=options.get("escape", False),
            newlines_in_values=True,
            invalid_row_handler=refuse,
        )
        reading: dict[str, Any] = {
            "use_threads": False,  # so that the order, and the line of a bad row, are known
            "column_names": names,
            "skip_rows": options.get("skip_rows", 0) + (1 if names and options.get("header", False) else 0),
            "encoding": options.get("encoding", "utf8"),
        }
        head = pa_csv.ReadOptions(block_size=_BLOCK, **reading)
        if not path.stat().st_size:
            return
        with pa_csv.open_csv(path, read_options=head, parse_options=parse) as reader:
            header = reader.schema.names
        bad.clear()
        reasons.clear()
        convert = pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in header},
            null_values=options.get("nulls", [""]),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            include_columns=[name for name in header if columns is None or name in columns],
        )
        with pa_csv.open_csv(path, read_options=head, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                yield from slices(batch, min(skip, batch.num_rows), batch_rows)
                skip -= min(skip, batch.num_rows)
        if len(bad) > skip:
            texts = pa.array([text.encode() for text in bad[skip:]], pa.large_binary())
            yield pa.RecordBatch.from_arrays([texts, pa.array(reasons[skip:])], [PAYLOAD, MALFORMED])


def digest_file(path: Path) -> str:
    """Return the xxh3-128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_json(path: Path, skip: int, batch_rows: int, _: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    lines: list[bytes] = []
    for line in _json_lines(path):
        if skip:
            skip -= 1
            continue
        lines.append(line)
        if len(lines) == batch_rows:
            yield _payloads(lines)
            lines = []
    if lines:
        yield _payloads(lines)


def _payloads(lines: list[bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(lines, pa.large_binary())], [PAYLOAD])


def _json_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines that are not blank. Raises OperatorError on a file that is one JSON array."""
    rest = b""
    begun = False
    with pa.input_stream(str(path), compression="detect") as stream:
        while block := stream.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if stripped := line.strip():
                    begun = begun or _check_lines(path, stripped)
                    yield stripped
    if stripped := rest.strip():
        if not begun:
            _check_lines(path, stripped)
        yield stripped


def _check_lines(path: Path, first: bytes) -> bool:
    if first.startswith(b"["):
        raise OperatorError(
            f"{path} is a JSON array, and json: reads one object a line.", hint="Convert it: jq -c '.[]'."
        )
    return True
