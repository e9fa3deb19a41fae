"""Make a small selection of a folder of golden cases: python tests/golden/trim.py SOURCE TARGET.

The target has the source's format: its index.json lists the cases kept and the files they need, and the archives of
shared inputs hold the arrays that those cases read. Kept are the cases that KEEP names and, of every other function
of a loss, the one with the smallest file.
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

KEEP = (
    "skd_adv_*",
    "skd_discriminator_DI5_mode1_train",
    "skd_discriminator_DI5_mode2_eval",
    "skd_dsn_L11",
    "skd_gp_DI5_mode1_train",
    "skd_ohemdsn_L11_t0.05_k640",
    "skd_ohemdsn_boosted_L11_t0.7_k640",
    "skd_ohemdsn_boosted_L11_t0.7_k100000",
    "skd_pairwise_*",
    "skd_pixelwise_L11",
    "skd_respsp_r18_65x97",
    "skd_respsp_r101_65x97",
    "amir_deeplabv3plus_mobilenet_os16_65x97",
    "amir_deeplabv3plus_resnet18_os8_65x97",
    "amir_deeplabv3plus_xception_os16_65x97",
    "cirkd_deeplabv3_mobilenetv2_65x97",
    "cirkd_deeplabv3_resnet18_vanilla_65x97",
    "cirkd_psp_resnet18_65x97",
    "cirkd_segformer_b0_65x97",
    "cirkd_upernet_lite_resnet18_65x97",
    "dist_deeplabv3_resnet18_65x97",
    "espnet_hashed_dec_test_q3_64x128",
    "espnet_hashed_dec_train_q8_64x128",
    "espnet_hashed_enc_q3_65x97",
    "espnet_hashed_enc_q8_64x128",
    "espnet_camvid_dec_q8_synth",
    "espnet_city_enc_q8_synth",
    "espnet_city_enc_q8_img2",
    "skd_confusion_11",
    "skd_whole_96x120",
    "espnet_camvid_test_confusion",
    "espnet_ioueval_12",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    trim(arguments.source, arguments.target)


def trim(source: Path, target: Path) -> None:
    index = json.loads((source / "index.json").read_text())
    cases = [case for case in index["cases"] if any(fnmatch(case["name"], pattern) for pattern in KEEP)]
    functions = {function_of(case) for case in cases}
    for case in sorted(index["cases"], key=lambda case: (source / case["file"]).stat().st_size):
        if case["kind"] == "loss" and function_of(case) not in functions:
            functions.add(function_of(case))
            cases.append(case)
    shared = defaultdict(set)
    whole = set()
    for case in cases:
        whole |= {case["file"], case.get("state_keys", case["file"])}
        for entry in case.get("inputs", {}).values():
            shared[entry["file"]].add(entry["key"])

    for name in [*whole, *shared]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    for name in whole:
        shutil.copyfile(source / name, target / name)
    for name in shared.keys() - whole:
        with np.load(source / name) as arrays:
            np.savez_compressed(target / name, **{key: arrays[key] for key in sorted(shared[name])})

    index["cases"] = cases
    index["counts"] = dict(Counter(case["kind"] for case in cases))
    index["files"] = {name: describe(target / name) for name in sorted({*whole, *shared})}
    index["total_bytes"] = sum(file["bytes"] for file in index["files"].values())
    (target / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def function_of(case: dict) -> tuple[str, ...]:
    return case["source_repo"], case["source_file"], case["computes"]


def describe(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


if __name__ == "__main__":
    main()
