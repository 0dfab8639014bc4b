"""Tokens of Marian's translators: pieces of two SentencePiece models (Kudo & Richardson 2018).

Beside the weights lie source.spm and target.spm, which cut texts of either language into pieces,
and vocab.json, which numbers the pieces of both. They become one JSON, which travels with a
checkpoint as a tokenizer's does.
"""
import base64
import dataclasses
import functools
import json
import pathlib

from karpjax.core.errors import UserError
from karpjax.core.trees import first_line
from karpjax.datasets.tokenizer import Vocabulary, check_unicode

FILES = {"source": "source.spm", "target": "target.spm", "numbers": "vocab.json"}
END, UNKNOWN, PAD = "</s>", "<unk>", "<pad>"


@dataclasses.dataclass(frozen=True)
class Pieces(Vocabulary):
    """The vocabulary of a translator: texts to translate have ids, and ids become translations.

    numbers   {piece: id}. The decoder begins with the padding, so `cls` is `pad`
    """
    numbers: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)

    def ids(self, texts, masks=False):
        """Return the ids of texts to translate. A text may begin with its target's >>language<<.
        """
        check_unicode(texts)
        return [self._ids_of(text) for text in texts]

    def target_ids(self, texts):
        check_unicode(texts)
        return [self._numbers_of(self._models["target"].encode(text, out_type=str))
                for text in texts]

    def _ids_of(self, text: str) -> list[int]:
        code, mark, rest = text.partition("<<")
        coded = mark and code.startswith(">>")
        pieces = self._models["source"].encode(rest if coded else text, out_type=str)
        return self._numbers_of([code + mark] * bool(coded) + pieces)

    def _numbers_of(self, pieces: list[str]) -> list[int]:
        unknown = self.numbers[UNKNOWN]
        return [self.numbers.get(piece, unknown) for piece in pieces]

    def decode(self, tokens):
        """Return the translation of one row of ids, without end, padding and unknown pieces."""
        left_out = (self.pad, self.sep, self.numbers[UNKNOWN])
        pieces = [self._pieces[int(token)] for token in tokens if int(token) not in left_out]
        return self._models["target"].decode(pieces).strip()

    @functools.cached_property
    def _pieces(self) -> dict[int, str]:
        return {number: piece for piece, number in self.numbers.items()}

    @functools.cached_property
    def _models(self) -> dict:
        values = json.loads(self.json)
        return {side: load_model(base64.b64decode(values[side])) for side in ("source", "target")}


def pieces_beside(file) -> str:
    """Return the JSON of the three files beside a file of weights."""
    folder = pathlib.Path(file).parent
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: a Marian translator's tokens need {', '.join(FILES.values())} "
                        f"beside the weights, found no {', '.join(missing)}; get them too")
    contents = {part: (folder / name).read_bytes() for part, name in FILES.items()}
    for side in ("source", "target"):
        load_model(contents[side], folder / FILES[side])
        contents[side] = base64.b64encode(contents[side]).decode()
    try:
        numbers = json.loads(contents["numbers"])
    except ValueError as error:
        raise UserError(f"{folder / FILES['numbers']}: expected JSON, found none "
                        f"({first_line(error)}); get it again") from error
    text = json.dumps({**contents, "numbers": numbers})
    read_pieces(text)
    return text


def read_pieces(text: str) -> Pieces:
    """Return the vocabulary of a JSON that `pieces_beside` made."""
    numbers = json.loads(text)["numbers"]
    numbers = numbers if isinstance(numbers, dict) else {}
    last = len(numbers) - 1
    ids = sorted(i for i in numbers.values() if type(i) is int)  # JSON may hold anything
    lacking = [piece for piece in (END, UNKNOWN, PAD) if piece not in numbers]
    if lacking or ids != list(range(last + 1)) or numbers[PAD] != last:
        raise UserError(f"{FILES['numbers']}: expected {{piece: id}} with ids 0 to "
                        f"{max(last, 0)}, each once, {END}, {UNKNOWN}, and {PAD} the last, "
                        f"found {'none of ' + ', '.join(lacking) if lacking else 'others'}; take "
                        "the file as it was published")
    return Pieces(size=len(ids), mask=-1, ordinary=(0, last), pad=last, cls=last,
                  sep=numbers[END], json=text, numbers=numbers)


def load_model(content: bytes, where="the tokenizer"):
    """Return the SentencePiece model of a file's content."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError("Marian's tokens need the package sentencepiece; "
                        'pip install "karpjax[translate]"') from error
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise UserError(f"{where}: expected a SentencePiece model, found none "
                        f"({first_line(error)}); get the file again") from error
