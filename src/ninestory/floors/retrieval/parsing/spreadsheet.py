"""Workbooks by calamine: a heading and a table for each sheet."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ninestory.core.errors import Damaged, Unsupported
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.archive import check_sizes
from ninestory.floors.retrieval.parsing.delimited import rows_as_text


def parse(path: Path) -> Document:
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive.infolist())
    builder = DocumentBuilder()
    try:
        with path.open("rb") as file:  # by its content: an upload's path has no ending
            workbook = CalamineWorkbook.from_filelike(file)
            for number, name in enumerate(workbook.sheet_names, 1):
                rows = workbook.get_sheet_by_name(name).to_python()
                if table := rows_as_text(rows):
                    builder.add(name, "heading", level=1, page=number)
                    builder.add(table, "table", page=number)
    except PasswordError as error:
        raise Unsupported("The workbook is encrypted.", code="encrypted_document") from error
    except (CalamineError, OSError, ValueError) as error:
        raise Damaged(f"It is no workbook: {error}.", code="damaged_table") from error
    return builder.build()
