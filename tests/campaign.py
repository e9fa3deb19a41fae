"""A campaign of random faults, outside the tests: kills, mutated data, damaged checkpoints, random command lines.

    python tests/campaign.py --seed 7 --kills 20 --files 200 --checkpoints 100 --commands 150

Outcomes: *same* as without the fault; *refused* in words; **silent**: exit code 0, another result, and no word;
**unclear**: a traceback, or a job that does not end. Exit code 1 if anything was silent or unclear.

Bytes of best.pth changed together with their checksum are another sound checkpoint, so best.pth is damaged otherwise;
so are weights in half precision, and weights without BatchNorm's number of batches, which predict the same.
"""

import argparse
import copy
import io
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from forks import ROOT, Job
from PIL import Image

sys.path.insert(0, str(ROOT))

import train
from segdistill.dataset import CamVid
from segdistill.network import build_network, load_network
from segdistill.network.weights.checkpoint import export_weights
from segdistill.utils.flags import USER_ERRORS
from segdistill.utils.options import make_parser

SECONDS = 600
CONFIGURATIONS = {
    "alone": [],
    "critic": ["--pi", "--ho"],
    "adapters": ["--cwd", "on=layer2:layer3", "--fitnet", "on=layer3"],
    "mechanics": ["--pi", "--ema", "0.5", "--accumulate", "2", "--clip-norm", "1"],
    "sgd": ["--pa", "--optimizer", "sgd", "--num-labels", "2", "--unlabelled-share", "0.5"],
}


class Campaign:
    """Counts outcomes, and keeps the words of those that should not be."""

    def __init__(self):
        self.counts: dict[str, Counter] = {}
        self.found: list[str] = []

    def note(self, kind: str, outcome: str, words: str) -> None:
        self.counts.setdefault(kind, Counter())[outcome] += 1
        if outcome in ("silent", "unclear"):
            self.found.append(f"{outcome}: {kind}: {words}")
            print(self.found[-1], flush=True)

    def table(self) -> str:
        outcomes = ("same", "refused", "silent", "unclear")
        rows = [("fault", *outcomes)]
        rows += [(kind, *(str(counts[outcome]) for outcome in outcomes)) for kind, counts in self.counts.items()]
        return "\n".join(f"{row[0]:36}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


# ----------------------------------------------------------------------------------------------------- data and runs


def make_data(folder: Path) -> Path:
    """camvid/ of 4 / 2 / 2 pictures of 64x64 that a small teacher labelled, and teacher.pth."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    teacher = build_network("espnet_c", len(CamVid.CLASSES), p=1, q=1).eval()
    torch.save(export_weights(teacher, CamVid.NORMALIZATION, classes=CamVid.CLASSES), folder / "teacher.pth")
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        for kind in ("", "annot"):
            (folder / "camvid" / f"{split}{kind}").mkdir(parents=True)
        for index in range(number):
            coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            image = np.array(coarse.resize((64, 64), Image.Resampling.BICUBIC))
            with torch.no_grad():
                logits = teacher(CamVid.NORMALIZATION(torch.from_numpy(image).permute(2, 0, 1)[None])).logits
            label = torch.nn.functional.interpolate(logits, (64, 64)).argmax(1)[0].numpy().astype(np.uint8)
            Image.fromarray(image).save(folder / "camvid" / split / f"{index}.png")
            Image.fromarray(label).save(folder / "camvid" / f"{split}annot" / f"{index}.png")
    return folder


def words_of(data: Path, folder: Path, name: str, more: list[str], steps: int = 6) -> list[str]:
    methods = any(word.startswith(("--pi", "--ho", "--pa", "--cwd", "--fitnet")) for word in more)
    return [
        *("--dataset", "camvid", "--data-dir", str(data / "camvid"), "--network", "espnet_c"),
        *("--network-options", "p=1", "q=1", "--input-size", "64,64", "--batch-size", "4", "--num-steps", str(steps)),
        *("--num-workers", "0", "--log-every", "1", "--val-every", "4", "--save-every", "1", "--device", "cpu"),
        *("--snapshot-dir", str(folder), "--save-name", name),
        *(("--T_ckpt_path", str(data / "teacher.pth")) if methods else ()),
        *more,
    ]


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def essence(weights: dict) -> dict:
    """What two sound files of the same weights share: all but counters, in half precision."""
    return {name: value.half() for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def load(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def outcome_of(call, same) -> tuple[str, str]:
    """The outcome of ``call()``, "same" if ``same`` says so of what it returns, and its words.

    In a process of its own, which is ended after SECONDS: decoders crash, and some files describe endless work.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(SECONDS)
            os.write(writer, json.dumps(attempt(call, same)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as source:
        answer = source.read()
    status = os.waitpid(pid, 0)[1]
    return tuple(json.loads(answer)) if answer else ("unclear", f"the process ended ({status})")


def attempt(call, same) -> tuple[str, str]:
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call()
            return ("same", "") if same(result) else ("silent", "another result")
    except USER_ERRORS as error:
        words = str(error)[:1000]
        return ("refused" if words and "Traceback" not in words else "unclear"), words
    except SystemExit as end:
        words = said.getvalue()[:1000]
        return ("same" if end.code in (0, None) else "refused" if "error:" in words else "unclear"), words
    except Exception as error:  # a traceback
        return "unclear", f"{type(error).__name__}: {error}"[:1000]


# ------------------------------------------------------------------------------------------------------------- kills


def kill_runs(campaign: Campaign, data: Path, folder: Path, chance: random.Random, number: int) -> None:
    """Kills at random instants, spread over the configurations; then each run ends and is compared with a whole one."""
    for place, (name, more) in enumerate(CONFIGURATIONS.items()):
        kills = number // len(CONFIGURATIONS) + (place < number % len(CONFIGURATIONS))
        if not kills:
            continue
        log = folder / f"{name}.log"
        with Job(words_of(data, folder, f"{name}-whole", more), log) as job:
            started = time.monotonic()
            if job.wait(SECONDS):
                campaign.note("kills", "unclear", f"{name}: the whole run failed: {log.read_text()[-300:]}")
                continue
        seconds, killed = time.monotonic() - started, words_of(data, folder, f"{name}-killed", [*more, "--resume"])
        for _ in range(kills):
            with Job(killed, log) as job:  # killed where the block ends
                time.sleep(chance.uniform(0, seconds))
        with Job(killed, log) as job:
            code = job.wait(SECONDS)
        pairs = [
            [folder / f"{name}-{kind}" / file for kind in ("whole", "killed")] for file in ("last.pth", "best.pth")
        ]
        outcome = "unclear" if code else "same" if all(equal(*map(load, pair)) for pair in pairs) else "silent"
        for _ in range(kills):
            campaign.note("kills", outcome, f"{name}: {log.read_text()[-300:]}")


# ------------------------------------------------------------------------------------------------------------- files


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks with right checksums."""
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        file += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return file


def with_stream(data: bytes, change) -> bytes:
    """A PNG whose pixel stream went through ``change``."""
    chunks = chunks_of(data)
    stream = change(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    kept = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    return png_of([*kept[:-1], (b"IDAT", stream), kept[-1]])


def flip(data: bytes, chance: random.Random, start: int = 0) -> bytes:
    place = chance.randrange(start, len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def palette(data: bytes, chance: random.Random) -> bytes:
    image = Image.fromarray(np.array(Image.open(io.BytesIO(data)).convert("L")), "L").convert("P")
    image.putpalette([chance.randrange(256) for _ in range(768)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def resized(data: bytes, chance: random.Random) -> bytes:
    pixels = np.array(Image.open(io.BytesIO(data)))
    return encoded(pixels[: chance.randrange(1, 60), : chance.randrange(1, 60)], "PNG")


def strange_values(data: bytes, chance: random.Random) -> bytes:
    pixels = np.array(Image.open(io.BytesIO(data)))
    pixels[chance.randrange(64), chance.randrange(64)] = chance.randrange(12, 256)
    return encoded(pixels, "PNG")


def jpeg_cut(data: bytes, chance: random.Random) -> bytes:
    whole = encoded(np.array(Image.open(io.BytesIO(data)).convert("RGB")), "JPEG")
    return whole[: chance.randrange(20, len(whole) - 20)]


def shorter(stream: bytes, chance: random.Random) -> bytes:
    """Fewer rows, as a stream that is sound by itself."""
    rows = zlib.decompress(stream)
    return zlib.compress(rows[: chance.randrange(len(rows) - 1)])


# Of (bytes of a PNG, chance); all but the first have right checksums. Those of LABELS are for label files.
MUTATIONS = {
    "a byte": lambda data, chance: flip(data, chance),
    "a cut": lambda data, chance: data[: chance.randrange(len(data))],
    "a stream that is cut": lambda data, chance: with_stream(data, lambda s: s[: chance.randrange(len(s) - 5)]),
    "a stream with a flipped bit": lambda data, chance: with_stream(data, lambda s: flip(s, chance, 2)),
    "a stream of fewer rows": lambda data, chance: with_stream(data, lambda s: shorter(s, chance)),
    "another size": resized,
    "a header of another height": lambda data, chance: png_of(
        [
            (kind, body[:4] + struct.pack(">I", chance.randrange(65, 99)) + body[8:] if kind == b"IHDR" else body)
            for kind, body in chunks_of(data)
        ]
    ),
    "a JPEG that is cut": jpeg_cut,
}
LABELS = {"other values": strange_values, "another palette": palette}


def mutate_files(campaign: Campaign, data: Path, folder: Path, chance: random.Random, number: int) -> None:
    """Read a mutated image or label: the pixels are those of the sound file, or it is refused."""
    for _ in range(number):
        label = chance.random() < 0.5
        name, change = chance.choice([*MUTATIONS.items(), *(LABELS.items() if label else ())])
        root = folder / "mutated"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(data / "camvid", root)
        path = root / ("trainannot" if label else "train") / "1.png"
        sound = CamVid(root, "train")[1]
        path.write_bytes(change(path.read_bytes(), chance))
        outcome, words = outcome_of(
            lambda: CamVid(root, "train")[1],  # noqa: B023
            lambda sample: all(map(torch.equal, sample[:2], sound[:2])),  # noqa: B023
        )
        if outcome == "refused" and path.name not in words:
            outcome = "unclear"
        campaign.note(f"{'label' if label else 'image'}: {name}", outcome, words)


# ------------------------------------------------------------------------------------------------------- checkpoints


def places_in(content: object, path: tuple = ()) -> list[tuple]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in [(*path, key), *places_in(content[key], (*path, key))]]


def altered(content: dict, chance: random.Random) -> tuple[str, dict]:
    """A deep copy with one entry dropped, renamed or retyped, or a tensor disturbed."""
    content = copy.deepcopy(content)
    path = chance.choice(places_in(content))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key, value = path[-1], parent[path[-1]]
    ways = ["drop", "text", "none", "number", "list"]
    ways += ["rename"] if isinstance(parent, dict) else []
    ways += ["half", "integer", "shape"] if isinstance(value, torch.Tensor) else []
    way = chance.choice(ways)
    if way == "drop":
        del parent[key]
    elif way == "rename":
        parent[f"{key}_"] = parent.pop(key)
    else:
        parent[key] = {
            **{"text": "text", "none": None, "number": 7, "list": [value]},
            **({"half": value.half(), "integer": value.int(), "shape": value[None]} if len(ways) > 6 else {}),
        }[way]
    return f"{way} {'/'.join(map(str, path))}", content


def flip_fixed(path: Path, chance: random.Random) -> str:
    """Flip a bit in a record of a zip, and write it anew, so that its checksum is right."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    name = chance.choice([name for name, content in records.items() if content])
    records[name] = flip(records[name], chance)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    return f"a bit of {name}"


def damage_checkpoints(campaign: Campaign, data: Path, folder: Path, chance: random.Random, number: int) -> None:
    """Continue a run from a damaged last.pth, or load a damaged best.pth."""
    words = words_of(data, folder, "run", ["--pi", "--ho"])
    outcome, said = outcome_of(lambda: train.main(words), lambda code: code == 0)
    assert outcome == "same", said
    sound, damaged = folder / "run", folder / "damaged"
    last, best = load(sound / "last.pth"), load(sound / "best.pth")
    for _ in range(number):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(sound, damaged)
        name = chance.choice(["last.pth", "best.pth"])
        path = damaged / name
        kind = chance.choice(["flip", "entry", "cut"] if name == "best.pth" else ["flip", "fixed flip", "entry", "cut"])
        if kind == "flip":
            path.write_bytes(flip(path.read_bytes(), chance))
            what = "a bit"
        elif kind == "fixed flip":
            what = flip_fixed(path, chance)
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
            what = "cut"
        else:
            what, content = altered(last if name == "last.pth" else best, chance)
            torch.save(content, path)
        again = words_of(data, folder, "damaged", ["--pi", "--ho", "--resume"])
        if name == "last.pth":
            outcome, said = outcome_of(
                lambda: train.main(again),  # noqa: B023
                lambda code: code == 0 and equal(load(path), last),  # noqa: B023
            )
        else:
            outcome, said = outcome_of(
                lambda: dict(load_network(path)[0].state_dict()),  # noqa: B023
                lambda weights: equal(essence(weights), essence(best["state_dict"])),
            )
        campaign.note(f"{name}: {kind}", outcome, f"{what}: {said}")


# ---------------------------------------------------------------------------------------------------------- commands

NUMBERS = ("0", "1", "2", "-1", "0.5", "1e9", "nan", "18446744073709551616")
VALUES = (*NUMBERS, "", "true", "false", "nowhere", "7,7", "a=b", "é")


def random_words(chance: random.Random) -> list[str]:
    """A few of the parser's own flags with values that they take, or do not."""
    words = []
    flags = [action for action in make_parser()._actions if action.option_strings and action.dest != "help"]
    for action in chance.sample(flags, chance.randint(1, 3)):
        words.append(chance.choice(action.option_strings))
        choices = [str(choice) for choice in action.choices or ()]
        least = {None: 1, "+": 1}.get(action.nargs, action.nargs if isinstance(action.nargs, int) else 0)
        number = least + (chance.random() < 0.3)
        words += [chance.choice([*VALUES, *choices, *choices]) for _ in range(number)]
    return words


def try_commands(campaign: Campaign, data: Path, folder: Path, chance: random.Random, number: int) -> None:
    """Random command lines under --check: refused in one line, or accepted."""
    before = Path.cwd()
    for index in range(number):
        place = folder / f"command{index}"
        place.mkdir()
        os.chdir(place)
        words = random_words(chance)
        more = ["--check"] if chance.random() < 0.5 else ["--check", "--pi"]
        command = [*words_of(data, place, "run", more), *words]
        outcome, said = outcome_of(lambda: train.main(command), lambda code: code == 0)  # noqa: B023
        os.chdir(before)
        campaign.note("commands", outcome, f"{' '.join(words)}: {said}")
        shutil.rmtree(place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    for name, number in (("kills", 20), ("files", 200), ("checkpoints", 100), ("commands", 150)):
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=f"({number})")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    torch.set_num_threads(1)
    campaign = Campaign()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = make_data(folder)
        parts = {
            "kills": kill_runs,
            "files": mutate_files,
            "checkpoints": damage_checkpoints,
            "commands": try_commands,
        }
        for name, part in parts.items():
            # Each part has a stream of its own, so that one can be repeated without the others.
            chance = random.Random(f"{options.seed} {name}")
            if getattr(options, name):
                (folder / name).mkdir()
                part(campaign, data, folder / name, chance, getattr(options, name))
    print(f"\nseed {options.seed}\n{campaign.table()}")
    return int(bool(campaign.found))


if __name__ == "__main__":
    sys.exit(main())
