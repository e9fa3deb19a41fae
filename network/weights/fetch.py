"""Released weights by name: URL, description and SHA-256."""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from segdistill.libs.download import download

ESPNET = "https://raw.githubusercontent.com/sacmehta/ESPNet/afe71c38edaee3514ca44e0adcafdf36109bf437/pretrained"
SKD = (
    "https://raw.githubusercontent.com/irfanICMLL/structure_knowledge_distillation/"
    "9bc95b90783fabd2a94bb77e675761be999f2a33/checkpoint"
)
CIRKD = "https://github.com/winycg/CIRKD/releases/download"


class Released(NamedTuple):
    """A file: its URL, the SHA-256 of its content or its first digits (None: not known to us), what it is."""

    url: str
    sha256: str | None
    what: str


# Digests were taken from copies of the files.
RELEASED = {
    "espnet_cityscapes_q3": Released(
        f"{ESPNET}/decoder/espnet_p_2_q_3.pth",
        "8f3eb198fb15e5da7fa8d258d5f0fc4a4213e1124f415f6fc54d2772d585a7fc",
        "ESPNet p=2 q=3, Cityscapes and void; MIT",
    ),
    "espnet_cityscapes_q5": Released(
        f"{ESPNET}/decoder/espnet_p_2_q_5.pth",
        "0378be45080ca5edfc416e9ba06b04e74ec5e2ec4baf56597f25a894a8593942",
        "ESPNet p=2 q=5, Cityscapes and void; MIT",
    ),
    "espnet_cityscapes_q8": Released(
        f"{ESPNET}/decoder/espnet_p_2_q_8.pth",
        "343b0e77e8545d36113c4f3efbf1ee349256f25c97c9f9d5ddefe45f2f49763e",
        "ESPNet p=2 q=8, Cityscapes and void; MIT",
    ),
    "espnet_camvid_q8": Released(
        f"{ESPNET}/decoder/espnet_p_2_q_8_camvid.pth",
        "7d354a257170322086dcd4c1e89a482454cf2c9d30b085e70883878dd59301af",
        "ESPNet p=2 q=8, CamVid and void; MIT",
    ),
    "espnet_c_cityscapes_q3": Released(
        f"{ESPNET}/encoder/espnet_p_2_q_3.pth",
        "5101e9bc90dd2a57d8460e70cdfaa743f76317bf806d2d1c4adb635c8d392e77",
        "ESPNet-C p=2 q=3, Cityscapes and void; MIT",
    ),
    "espnet_c_cityscapes_q5": Released(
        f"{ESPNET}/encoder/espnet_p_2_q_5.pth",
        "ec028eb60b08a56583eb9d310f5f4f7c4bc70972009030c25f1414dc48c916d6",
        "ESPNet-C p=2 q=5, Cityscapes and void; MIT",
    ),
    "espnet_c_cityscapes_q8": Released(
        f"{ESPNET}/encoder/espnet_p_2_q_8.pth",
        "836f28a2a31bd4fc8997001ab6b620d1f9b7b274a03b32d9f3a95c17a011b438",
        "ESPNet-C p=2 q=8, Cityscapes and void; MIT",
    ),
    "skd_espnet_camvid_57.8": Released(
        f"{SKD}/Camvid/ESP/base_57.8.pth",
        "75272b19fd7a73204f0bb5c0adfaafb4914d9b204ab553a6811c43b5b43d8e88",
        "ESPNet alone, CamVid; MIT",
    ),
    "skd_espnet_camvid_61.4": Released(
        f"{SKD}/Camvid/ESP/kd+sd+61.4.pth",
        "3b7d3d142f973b9b9d739a68ada84d84c8fa1bc7ab4897ecc3006e428e094ea6",
        "ESPNet distilled, CamVid; MIT",
    ),
    "skd_espnet_camvid_65.1": Released(
        f"{SKD}/Camvid/ESP/SD+KD+CITY_65.1.pth",
        "db8a5ef2a820bd117ee24b05b221be14dbc73f5a1bd04b47a4c235280ba71f84",
        "ESPNet distilled with unlabelled images, CamVid; MIT",
    ),
    "skd_espnet_c_camvid_56.7": Released(
        f"{SKD}/Camvid/esp-c/BASE56.7.pth",
        "4241f9792aac79e66599ac35b483a71a779766ad7c1d37a504d43443f7ff6b55",
        "ESPNet-C alone, CamVid; MIT",
    ),
    "skd_espnet_c_camvid_60.3": Released(
        f"{SKD}/Camvid/esp-c/OURS60.3.pth",
        "96816b2fc96ccc3d4872c76af8a031cb977be658ad616661ab780fd2f62595a5",
        "ESPNet-C distilled, CamVid; MIT",
    ),
    "skd_espnet_c_camvid_64.1": Released(
        f"{SKD}/Camvid/esp-c/KD+CITY+SD_64.1.pth",
        "3e0a47469ebf752161091b318060e8b05f43cc680b690f3654c7d47665bb861f",
        "ESPNet-C distilled with unlabelled images, CamVid; MIT",
    ),
    "skd_espnet_cityscapes_64": Released(
        f"{SKD}/Cityscapes/ESPNet_Ours_64.pth",
        "eb15cd8dc6d1bd5cd31d8e1217fe8d02f45cd32f63c9b69eb91feb39c41bfb61",
        "ESPNet distilled, Cityscapes; MIT",
    ),
    "skd_espnet_c_cityscapes_60": Released(
        f"{SKD}/Cityscapes/ESPNet_C_Ours_60.pth",
        "65ac407b618d18745d37df5961cb0a2900d2b676a5365fce89d186f0e3d71897",
        "ESPNet-C distilled, Cityscapes; MIT",
    ),
    "cirkd_deeplabv3_resnet101_cityscapes": Released(
        f"{CIRKD}/segv0.1/deeplabv3_resnet101_citys_best_model.pth",
        None,
        "DeepLabV3-R101, Cityscapes; licence not given",
    ),
    "cirkd_deeplabv3_resnet101_voc": Released(
        f"{CIRKD}/segv0.1/deeplabv3_resnet101_voc_best_model.pth", None, "DeepLabV3-R101, VOC 2012; licence not given"
    ),
    "cirkd_deeplabv3_resnet101_ade20k": Released(
        f"{CIRKD}/segv0.1/deeplabv3_resnet101_ade20k_best_model.pth", None, "DeepLabV3-R101, ADE20K; licence not given"
    ),
    "cirkd_segformer_b4_cityscapes": Released(
        f"{CIRKD}/segv0.1/segformer_MiT_B4_citys_best_model.pth", None, "SegFormer-B4, Cityscapes; licence not given"
    ),
    "cirkd_deeplabv3_resnet18_cityscapes": Released(
        f"{CIRKD}/segv0.1/kd_deeplabv3_resnet18_citys_best_model.pth",
        None,
        "DeepLabV3-R18 distilled, Cityscapes; licence not given",
    ),
    "resnet18_v1s": Released(
        f"{CIRKD}/backbonev0.1/resnet18-imagenet.pth", None, "backbone, stem of three 3x3, ImageNet; licence not given"
    ),
}
TORCHVISION = ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")


def released(name: str) -> Released:
    """A file by its name here, or torchvision's default weights of the network of that name.

    Raises:
        ValueError: an unknown name; says the nearest known.
    """
    if name in RELEASED:
        return RELEASED[name]
    if name in TORCHVISION:
        from torchvision.models import get_model_weights  # slow to import

        url = get_model_weights(name).DEFAULT.url
        digits = re.search(r"-([0-9a-f]{8})\.pth$", url)
        return Released(url, digits and digits[1], "backbone, ImageNet; torchvision's, BSD-3-Clause")
    near = difflib.get_close_matches(name, [*RELEASED, *TORCHVISION], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`fetch` without a name lists them"
    raise ValueError(f"no released file {name!r}; {hint}")


def fetch(name: str, folder: str | Path = "ckpt") -> Path:
    """Fetch a released file to ``folder/name.pth``. Raises: as ``released`` and ``segdistill.libs.download``."""
    file = released(name)
    return download(file.url, Path(folder) / f"{name}.pth", file.sha256)


def describe_files() -> str:
    """The released files by name, a line each."""
    files = {name: released(name) for name in (*TORCHVISION, *RELEASED)}
    width = max(map(len, files))
    return "\n".join(
        f"{name:{width}}  {file.what}{'' if file.sha256 else '; digest not known'}" for name, file in files.items()
    )
