"""Documents in files: a line of JSONL each, or paragraphs of plain text, in files of their splits.

    DIR/train.jsonl     {"text": "...", "label": "..."} a line, the label a text, an integer, a bool
    DIR/train.txt       paragraphs; or DIR/train/*.txt and *.jsonl
"""
import codecs
import dataclasses
import json
import pathlib

from karpjax.core.errors import UserError
from karpjax.datasets.images import first_names

SUFFIXES = (".txt", ".jsonl")


@dataclasses.dataclass
class Document:
    """A text and its label."""
    text: str
    label: str = ""  # "": none


def documents_in_folder(folder: pathlib.Path) -> dict[str, list[Document]]:
    """Read {"train": documents, ...} from the files of a folder."""
    return {split: [each for file in files for each in read_documents(file)]
            for split, files in files_by_split(folder).items()}


def files_by_split(source: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Return {"train": files, ...}: files go by their own name, or by their folder's.

    Hidden ones, which editors and systems leave, are left out and named.
    """
    files, hidden = {}, []

    def visible(folder):
        paths = sorted(folder.iterdir())
        hidden.extend(path.name for path in paths if path.name.startswith("."))
        return [path for path in paths if not path.name.startswith(".")]
    for path in visible(source):
        inside = visible(path) if path.is_dir() else []
        texts = [each for each in inside if each.suffix in SUFFIXES]
        if texts:
            files.setdefault(path.name, []).extend(texts)
        elif path.suffix in SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    if hidden:
        print(f"{source}: {len(hidden)} hidden files or folders are left out: "
              f"{', '.join(sorted(hidden)[:5])}")
    if "train" not in files:
        raise UserError(f"--from={source}: expected train.jsonl, train.txt, or such files in "
                        f"{source / 'train'}; found {first_names(source)}")
    return files


def read_documents(file: pathlib.Path) -> list[Document]:
    """Read the documents of one file, or raise a UserError with the line of the fault."""
    try:
        # a byte-order mark, as editors on Windows write it, is no text
        lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    decoded = []
    for i, line in enumerate(lines, 1):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, line {i}: not UTF-8 (byte {error.object[error.start]:#x} at "
                            f"{error.start}); store the file as UTF-8") from error
    if file.suffix == ".jsonl":
        documents = [parse_document(line, f"{file}, line {i}")
                     for i, line in enumerate(decoded, 1) if line.strip()]
    else:
        paragraphs = "\n".join(map(str.rstrip, decoded)).split("\n\n")
        documents = [Document(each.strip()) for each in paragraphs if each.strip()]
    if not documents:
        raise UserError(f"{file}: no document in it; expected text, found "
                        f"{'nothing' if lines == [b''] else 'empty lines'}")
    return documents


def parse_document(line: str, where: str) -> Document:
    """Return the document of a line of JSONL, whose origin `where` is for errors."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at {error.pos}); expected a line "
                        "{\"text\": ...}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f"{where}: expected an object with a text, {{\"text\": \"...\"}}, found "
                        f"{line[:60]}")
    try:
        row["text"].encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half of a surrogate pair (character {error.start} of the text),"
                        " which is no character; leave it out") from error
    label = row.get("label", "")
    if not isinstance(label, (str, int, type(None))):   # 1.0 would be a class beside 1, NaN one too
        raise UserError(f"{where}: expected a label of text, an integer, true, false or null, "
                        f"found {str(label)[:60]}")
    unlabelled = label is None or isinstance(label, int) and label < 0
    return Document(row["text"], "" if unlabelled else str(label))
