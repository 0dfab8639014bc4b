"""Flip one bit of a prepared data set, open it, and compare what a training would get.

    python experiments/faults/bits.py            # 60 bits a file, 3 of the digits: 4 minutes
    python experiments/faults/bits.py --quick

Four sets are prepared: the embedded digits, images, texts, and a folder of pictures. Each bit of
each kind of file is flipped in a whole set of its own. An outcome is one of

    same        the same rows, classes and tokenizer
    made again  the same, and the damaged file was replaced
    one line    an error of one line
    another     other rows, classes or another tokenizer: never
    traceback   never

Bits of records fall on the part of a file that is not padding. The rows of the log with "as":
"large" are of records as in a set of over 64 MB, which no start reads whole, and those with
"without" of sets without their manifest, as before karpjax had one.
"""
import argparse
import collections
import contextlib
import io
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT)]

import karpjax as kj  # noqa: E402
from karpjax.core.errors import UserError  # noqa: E402
from karpjax.datasets import content  # noqa: E402
from karpjax.datasets.formats import prepare  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

SPLITS = dict(train="train", batch_size=4, on_device="yes")
WRONG = ("another", "traceback")


def make_sets(raw: pathlib.Path, data_dir: pathlib.Path) -> dict:
    """Prepare the sets, and return {name: () -> its source}."""
    from PIL import Image
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 5, 3), np.uint8)
    np.savez(raw / "images.npz", x_train=images, y_train=np.arange(40) % 3)
    prepare("npz", raw / "images.npz", "images", str(data_dir), classes=["cat", "dog", "emu"])
    (raw / "texts").mkdir()
    rows = [{"text": f"The {i}th of the texts, in {i % 7} words.", "label": "ab"[i % 2]}
            for i in range(40)]
    (raw / "texts" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare("text", raw / "texts", "texts", str(data_dir), length=24, vocabulary=300)
    for i in range(12):
        folder = raw / "folder" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{i}.png")
    place = dict(data_dir=str(data_dir), **SPLITS)
    return {"digits": lambda: kj.sources.images(dict(name="digits", **place)),
            "images": lambda: kj.sources.images(dict(name="images", **place)),
            "texts": lambda: kj.sources.text(kj.config(data=dict(name="texts", **place)).data),
            "folder": lambda: kj.sources.images(dict(dir=str(raw / "folder"), **place))}


def learned(open_set, kind: str) -> str:
    """Open a set, and return the hash of all that a training gets: the spec and every row."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        source = open_set()
    rows = content.RowHash()
    rows.add(source.data["train"])
    # Without a manifest the names, sizes and files of a set stand for its content.
    spec = {key: value for key, value in source.spec.items()
            if key != "content" or kind != "without"}
    return content.hash_of([spec, rows.hexdigest()])


def outcome(open_set, kind: str, expected: str, file, damaged: bytes) -> tuple[str, str]:
    """Open a set with a damaged file, and return the outcome and the error."""
    try:
        same = learned(open_set, kind) == expected
    except UserError as error:
        return ("traceback" if "\n" in str(error) else "one line"), str(error)
    except Exception as error:  # the fault that is looked for
        return "traceback", f"{type(error).__name__}: {error}"
    if not same:
        return "another", ""
    return ("same" if file.exists() and file.read_bytes() == damaged else "made again"), ""


def flip(data: bytes, chance) -> bytes:
    """Flip one random bit, in the part of a file before its padding of zeros."""
    bit = chance.randrange(8 * len(data.rstrip(b"\0")))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def kinds_of_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a set, one split's records for all."""
    return sorted(path for path in folder.rglob("*") if path.is_file()
                  and ("array_record" not in path.name or "-train." in path.name))


def cases(data_dir: pathlib.Path, sets: dict):
    """Yield (as, set, file, whether a set keeps its manifest) of each case."""
    folders = {name: data_dir / name for name in sets}
    folders["folder"] = next(path for path in data_dir.glob("folder_*") if path.is_dir())
    for name, folder in folders.items():
        files = kinds_of_files(folder)
        files += [path for path in data_dir.glob(".folder_*") if name == "folder"]
        yield from (("whole", name, file) for file in files)
        yield from (("large", name, file) for file in files if "array_record" in file.name)
        if name in ("images", "texts"):
            yield from (("without", name, file) for file in files if file.name != content.MANIFEST)


def study(bits: int, log) -> bool:
    """Flip so many bits of every kind of file, and return whether no outcome was wrong."""
    right, chance, small = True, random.Random(0), content.READ_AT_START
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data_dir, sound = folder / "sets", folder / "sound"
        (folder / "raw").mkdir()
        sets = make_sets(folder / "raw", data_dir)
        expected = {(kind, name): learned(open_set, kind) for name, open_set in sets.items()
                    for kind in ("whole", "large", "without")}
        shutil.copytree(data_dir, sound)
        for kind, name, file in cases(data_dir, sets):
            counts, errors, start = collections.Counter(), [], time.process_time()
            flips = max(bits // 20, 1) if name == "digits" else bits  # made again in seconds
            for _ in range(flips):
                content.READ_AT_START = 0 if kind == "large" else small
                if kind == "without":
                    (file.parent / content.MANIFEST).unlink()
                damaged = flip(file.read_bytes(), chance)
                file.write_bytes(damaged)
                result, error = outcome(sets[name], kind, expected[kind, name], file, damaged)
                counts[result] += 1
                errors += [error[:160]] if result in WRONG else []
                shutil.rmtree(data_dir)
                shutil.copytree(sound, data_dir)
            right = right and (kind == "without" or not any(counts[each] for each in WRONG))
            log({"as": kind, "set": name, "file": file.name, "bits": flips, **counts,
                 "errors": sorted(set(errors))[:3],
                 "seconds": round(time.process_time() - start, 1)})
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="one bit a file")
    parser.add_argument("--log", default=str(pathlib.Path(__file__).parent / "bits.jsonl"))
    options = parser.parse_args()
    with open(options.log, "w") as file:
        def log(row: dict) -> None:
            print(json.dumps(row), file=file, flush=True)
            print(json.dumps(row), flush=True)
        log({"versions": versions()})
        right = study(1 if options.quick else options.bits, log)
    sys.exit(not right)


if __name__ == "__main__":
    main()
