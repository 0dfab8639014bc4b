"""Documents in files: a line of JSONL each, or paragraphs of plain text, in files of their splits.

    DIR/train.jsonl     {"text": "...", "label": "..."} a line, the label a text, an integer, a bool
    DIR/train.txt       paragraphs; or DIR/train/*.txt and *.jsonl
"""
import codecs
import dataclasses
import gzip
import json
import pathlib
import zlib

from karpjax.core.errors import UserError
from karpjax.datasets.account import Account
from karpjax.datasets.images import first_names

SUFFIXES = (".txt", ".jsonl")


@dataclasses.dataclass
class Document:
    """A text and its label."""
    text: str
    label: str = ""  # "": none


def documents_in_folder(folder: pathlib.Path, account: Account) -> dict[str, list[Document]]:
    """Read {"train": documents, ...} from the files of a folder."""
    return {split: [each for file in files for each in read_documents(file, account)]
            for split, files in files_by_split(folder, account).items()}


def files_by_split(source: pathlib.Path,
                   account: Account | None = None) -> dict[str, list[pathlib.Path]]:
    """Return {"train": files, ...}: files go by their own name, or by their folder's.

    All others are left out, by their kind: hidden ones, which editors and systems leave, texts in
    deeper folders, such as those of classes, and files that are no texts.
    """
    account = Account() if account is None else account
    files = {}
    for path in sorted(source.iterdir()):
        is_folder = path.is_dir() and not path.name.startswith(".")
        for each in sorted(path.iterdir()) if is_folder else [path]:
            if kind := kind_left_out(each):
                names = [each.name] if each.name.startswith(".") or not each.is_dir() else \
                    [below.relative_to(source) for below in texts_below(each)]
                account.leave_out(kind, *names)
            else:
                files.setdefault(path.name if is_folder else path.stem, []).append(each)
    if "train" not in files:
        raise UserError(f"--from={source}: expected train.jsonl, train.txt, or such files in "
                        f"{source / 'train'}; found {first_names(source)}")
    return files


def kind_left_out(path: pathlib.Path) -> str:
    """Return why a file or folder is left out, "" for a text."""
    if path.name.startswith("."):
        return "hidden files or folders are left out"
    if path.is_dir():
        return "texts in folders below a split's, as of classes, are left out (a label stands in " \
            "JSONL)"
    if path.is_symlink() and not path.exists():
        return "links that lead nowhere are left out"
    if path.suffix.lower() not in SUFFIXES:
        return f"files that are no texts ({', '.join(SUFFIXES)}) are left out"
    return ""


def texts_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the texts at any depth below a folder."""
    return sorted(path for path in folder.rglob("*")
                  if path.suffix.lower() in SUFFIXES and path.is_file())


def read_documents(file: pathlib.Path, account: Account | None = None) -> list[Document]:
    """Read the documents of one file, or raise a UserError with the line of the fault.

    account   takes the keys of JSONL that are not read
    """
    account = Account() if account is None else account
    decoded = read_lines(file)
    if file.suffix.lower() == ".jsonl":
        documents = [parse_document(line, f"{file}, line {i}", account)
                     for i, line in enumerate(decoded, 1) if line.strip()]
    else:
        paragraphs = "\n".join(map(str.rstrip, decoded)).split("\n\n")
        documents = [Document(each.strip()) for each in paragraphs if each.strip()]
    if not documents:
        raise UserError(f"{file}: no document in it; expected text, found "
                        f"{'nothing' if decoded == [''] else 'empty lines'}")
    return documents


def read_lines(file: pathlib.Path) -> list[str]:
    """Return the lines of a file, which may be compressed (.gz).

    A UserError names the line that is not UTF-8. After a last line end there is one more, empty.
    """
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', '') or error})") \
            from error
    decoded = []
    # a byte-order mark, as editors on Windows write it, is no text
    for i, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, line {i}: not UTF-8 (byte {error.object[error.start]:#x} at "
                            f"{error.start}); store the file as UTF-8") from error
    return decoded


def parse_document(line: str, where: str, account: Account) -> Document:
    """Return the document of a line of JSONL, whose origin `where` is for errors."""
    row = parse_object(line, where, ("text",))
    label = row.get("label", "")
    if not isinstance(label, (str, int, type(None))):   # 1.0 would be a class beside 1, NaN one too
        raise UserError(f"{where}: expected a label of text, an integer, true, false or null, "
                        f"found {str(label)[:60]}")
    account.leave_out("values by other names than text and label are not read",
                      *(name for name in row if name not in ("text", "label")))
    unlabelled = label is None or isinstance(label, int) and label < 0
    return Document(row["text"], "" if unlabelled else str(label))


def parse_object(line: str, where: str, texts: tuple[str, ...]) -> dict:
    """Return the object of a line of JSONL, whose values by these names must be texts."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at {error.pos}); expected a line "
                        f"{{\"{texts[0]}\": ...}}") from error
    for name in texts:
        if not isinstance(row, dict) or not isinstance(row.get(name), str):
            raise UserError(f"{where}: expected an object with a {name}, {{\"{name}\": \"...\"}}, "
                            f"found {line[:60]}")
        try:
            row[name].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: half of a surrogate pair (character {error.start} of the "
                            f"{name}), which is no character; leave it out") from error
    return row
