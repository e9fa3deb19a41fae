"""Translates commands of the original code bases to the equivalent commands of this project.

    python -m segdistill.utils.originals bash exp_cwd.sh channel kl 3 4 False False False v1

``TABLES`` is the one table of their flags: train.py, eval.py and test.py make their error messages from it, and
docs/methods.md shows it.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

Values = Mapping[str, str]  # of flags: {"--lambda-pi": "10"}
TRUE = ("true", "t", "yes", "y", "1")
GPUS = ("--gpu", "--gpu-id", "--gpu-ids")
EXP_CWD = ("--norm-type", "--divergence", "--lambda-cwd", "--temperature", "--kd", "--adv", "--cwd-feat", "--save-name")


@dataclass(frozen=True)
class Row:
    """Flags of theirs, with the values that documentation shows, and ours; in braces, the value of a flag of theirs."""

    theirs: str
    ours: str = ""
    note: str = ""
    convert: Mapping[str, Callable[[str, Values], str]] = field(default_factory=dict)

    @property
    def values(self) -> Values:
        return parse(shlex.split(self.theirs))

    def render(self, values: Values) -> str:
        """Our words for ``values``; what these lack is as in ``theirs``."""
        named = {field_name(flag): value for flag, value in {**self.values, **values}.items()}
        changed = {name: change(named.get(name, ""), named) for name, change in self.convert.items()}
        return self.ours.format(**named | changed)

    def learns(self, values: Values) -> bool:
        """Whether a command has this term: its switch is on, or has none and a weight is given that is not 0."""
        switches = [flag for flag, value in self.values.items() if value == "True"]
        if any((values.get(flag) or "true").lower() not in TRUE for flag in switches):
            return False
        weights = [values[flag] for flag in self.values if "lambda" in flag and flag in values]
        return any(float(value) for value in weights) if weights else any(flag in values for flag in switches)


@dataclass(frozen=True)
class Table:
    """The flags of one kind of command of a code base.

    Attributes:
        name: of the code base.
        script: ours that does the same.
        scripts: theirs, and ours that may be given their flags, each with its defaults.
        options: rows of what is not a distillation term.
        terms: rows of distillation terms.
        default_terms: the flags of a command that names no term.
        same: flags that are called the same here.
        unneeded: flags that have no counterpart and need none.
        always: our words for what is fixed there.
        fits: whether flags are this table's, where another has the same ones.
    """

    name: str
    script: str
    scripts: Mapping[str, str]
    options: tuple[Row, ...]
    terms: tuple[Row, ...] = ()
    default_terms: str = ""
    same: str = ""
    unneeded: str = ""
    always: Callable[[Values], str] = lambda values: ""
    fits: Callable[[Values], bool] = lambda given: True

    @property
    def flags(self) -> set[str]:
        rows = {flag for row in (*self.options, *self.terms) for flag in row.values}
        return rows | {*self.same.split(), *self.unneeded.split()}

    def asked(self, script: str, given: Values) -> Values:
        """``given`` and the defaults of ``script``."""
        values = parse(shlex.split(self.scripts[script])) | dict(given)
        if "--batch-size" not in given and (ids := values.get("--gpu-ids")):  # AKD's batch grows with the devices
            values["--batch-size"] = str(6 * len(ids.split(",")))
        if not any(row.learns(values) for row in self.terms):
            values = parse(self.default_terms.split()) | values
        return values

    def ours(self, script: str, given: Values, mixed: bool = False) -> list[str]:
        """Our words for their ``script`` with the flags ``given``; flags that are not listed stay as they are.

        A ``mixed`` command has flags of ours too and is given no defaults of theirs.
        """
        values = self.asked(script, given)
        shown = given if mixed else values
        terms = [row for row in self.terms if row.learns(shown)]
        options = [row for row in self.options if any(shown.get(flag, "None") != "None" for flag in row.values)]
        words = [] if mixed else self.always(values).split()
        words += [word for row in options for word in row.render(values).split()]
        listed = {flag for row in (*self.options, *self.terms) for flag in row.values} | {*self.unneeded.split()}
        words += [word for flag, value in shown.items() if flag not in listed for word in (flag, *value.split())]
        if self.terms and not terms and "--T_ckpt_path" in words:  # a teacher has no effect without a term
            at = words.index("--T_ckpt_path")
            del words[at : at + 2]
        return words + [word for row in terms for word in row.render(values).split()]


def suggest(script: str, words: Sequence[str], known: Collection[str] = ()) -> str:
    """A message with our command for ``words`` given to ``script``; "" if no word is an original's flag.

    Args:
        known: the flags that ``script`` has.
    """
    given = parse(words)
    table = recognise(script, given)
    if table is None:
        return ""
    switches = {flag for row in table.terms for flag, value in row.values.items() if value == "True"}
    if any("=" in given.get(flag, "") for flag in switches):  # ours: --pi weight=80
        return ""
    theirs = [
        flag
        for flag, value in given.items()
        if flag in table.flags and (flag not in known or value in DATA_SETS or (flag in switches and is_boolean(value)))
    ]
    if not theirs:
        return ""
    mixed = any(flag in known and flag not in table.flags for flag in given)
    return f"flags of {table.name} ({', '.join(theirs)}); here:\n    {command(table, script, given, mixed=mixed)}"


def translate(words: Sequence[str]) -> str:
    """Our command for a whole original command: ``CUDA_VISIBLE_DEVICES=0 python train_kd.py --backbone resnet18``.

    Raises:
        ValueError: no script of an original is in it.
    """
    scripts = {script for table in TABLES for script in table.scripts} | {"exp_cwd.sh"}
    at = next((i for i, word in enumerate(words) if os.path.basename(word) in scripts), None)
    if at is None:
        raise ValueError(f"no script of an original in '{' '.join(words)}'; known: {', '.join(sorted(scripts))}")
    before, script, rest = " ".join(words[:at]), os.path.basename(words[at]), list(words[at + 1 :])
    if script == "exp_cwd.sh":
        script, rest = (
            "train.py",
            ["--cwd", "True", *(word for pair in zip(EXP_CWD, rest, strict=False) for word in pair)],
        )
    given = parse(rest)
    table = recognise(script, given)
    if table is None:
        raise ValueError(f"{script}: none of {' '.join(given)} is an original's")
    processes = re.search(r"--nproc[-_]per[-_]node[= ](\d+)", before)
    devices = re.search(r"CUDA_VISIBLE_DEVICES=\S+ ", before)
    return command(table, script, given, processes and int(processes[1]), devices[0] if devices else "")


def recognise(script: str, given: Values) -> Table | None:
    """The table that has most of the flags; of two equal ones the one that distils."""
    tables = [table for table in TABLES if script in table.scripts and table.fits(given)]
    known = {id(table): len(table.flags & given.keys()) for table in tables}
    learns = {id(table): any(row.learns(table.asked(script, given)) for row in table.terms) for table in tables}
    best = max(tables, key=lambda table: (known[id(table)], learns[id(table)]), default=None)
    return best if best and (known[id(best)] or script not in ("train.py", "eval.py", "test.py")) else None


def command(
    table: Table, script: str, given: Values, processes: int | None = None, devices: str = "", mixed: bool = False
) -> str:
    """The whole line, with the processes of the launcher or of the GPUs that are named."""
    ids = next((given[flag] for flag in GPUS if re.fullmatch(r"\d+(,\d+)*", given.get(flag, ""))), "")
    processes = processes or int(os.environ.get("WORLD_SIZE", 0)) or len(ids.split(","))
    devices = devices or (f"CUDA_VISIBLE_DEVICES={ids} " if ids else "")
    several = processes > 1 and table.script != "test.py"
    start = f"torchrun --nproc_per_node {processes}" if several else "python"
    return f"{devices}{start} {table.script} {' '.join(table.ours(script, given, mixed))}"


def parse(words: Sequence[str]) -> dict[str, str]:
    """Flags and their values, each as one text of quoted words; "" for none."""
    values: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            values[flag] = shlex.quote(value) if equals else ""
        elif flag:
            values[flag] = f"{values[flag]} {shlex.quote(word)}".strip()
    return values


def field_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def is_boolean(value: str) -> bool:
    return value.lower() in (*TRUE, "false", "f", "no", "n", "0")


def markdown() -> str:
    """The tables as docs/methods.md shows them, a row where it comes first."""
    lines, shown = [], set()
    for table in TABLES:
        if not {*map(id, (*table.options, *table.terms))} - shown:
            continue
        defaults = parse(shlex.split(next(iter(table.scripts.values()))))
        theirs = ", ".join(f"`{script}`" for script in table.scripts if script != "train.py") or "`train.py`"
        lines += [f"| {table.name}: {theirs} | `{table.script}` |", "|---|---|"]
        for row in (*table.options, *table.terms):
            if id(row) not in shown:
                ours = f"`{row.render({**defaults, **row.values}).strip()}`" if row.ours else ""
                lines.append(f"| `{row.theirs}` | {'; '.join(filter(None, (ours, row.note)))} |")
                shown.add(id(row))
        for flags, here in ((table.same, "the same"), (table.unneeded, "not needed")):
            if flags and flags not in shown:
                lines.append(f"| {', '.join(f'`{flag}`' for flag in flags.split())} | {here} |")
                shown.add(flags)
        lines.append("")
    return "\n".join(lines)


def named(names: Mapping[str, str]) -> Callable:
    return lambda value, values: names.get(value, value)


def times(factor: float) -> Callable:
    return lambda value, values: f"{float(value) * factor:.4g}"


def times_batch(value: str, values: Values) -> str:
    return f"{float(value) * float(values['batch_size']):.4g}"


def per_class(value: str, values: Values) -> str:
    """Their mean is over the classes as well."""
    return f"{float(value) / (21 if values.get('dataset') == 'pascal' else 19):.4g}"


def scale_steps(value: str, values: Values) -> str:
    """Theirs are 0.7, 0.8 ... 2.1."""
    return f" {value}" if value and value.lower() not in TRUE else " --scale-step 0.1"


def adapter(value: str, values: Values) -> str:
    """That of features, whose rate nothing changes."""
    if values["cwd_feat"].lower() not in TRUE:
        return ""
    return f" adapter=conv_bn_relu adapter_lr={values.get('lr_g', 0.01)}"


def times_temperature(power: int) -> Callable:
    return lambda value, values: f"{float(value) * float(values['contrast_kd_temperature']) ** power:.4g}"


def size(value: str, values: Values) -> str:
    """``512 1024`` or ``513`` to height,width."""
    sides = value.split()
    return f"{sides[0]},{sides[-1]}"


def epochs(images: int, passes: int = 1) -> Callable:
    def steps(value: str, values: Values) -> str:
        number = 10_582 if "use_sbd" in values else images  # SBD's images beside VOC's
        return str(round(int(value) * passes * number / int(values["batch_size"])))

    return steps


def overhaul(values: Values) -> str:
    """AKD's overhaul distillation, for maps of crops of 513x513; its weights have no flag."""
    weights = {"": 22, "on=layer3.pre ": 5.6, "on=layer2.pre ": 5.4, "on=layer1.pre ": 5.3}
    return " ".join(f"--overhaul {on}weight={w:g}" for on, w in weights.items())


DATA_SETS = {
    **{"cityscape": "cityscapes", "city": "cityscapes", "citys": "cityscapes"},
    **{"pascal": "voc2012", "voc": "voc2012", "coco_stuff_164k": "coco_stuff"},
}
NETWORKS = {
    **dict.fromkeys(("deeplabv3", "deeplab_mobile", "deeplabv3_mobilenet_ssseg"), "deeplabv3 --network-options"),
    **dict.fromkeys(("psp", "pspnet", "psp_mobile"), "pspnet --network-options variant=cirkd"),
    "upernet": "upernet --network-options width=512",
    "upernet_lite": "upernet --network-options",
    "segformer": "segformer --network-options",
}
BACKBONES = {f"resnet{depth}": f"resnet{depth}_v1s" for depth in (18, 50, 101)} | {
    f"MiT_B{i}": f"mit_b{i}" for i in range(6)
}
MODEL = {"model": named(NETWORKS), "backbone": named(BACKBONES)}
STUDENT = {f"student_{name}": change for name, change in MODEL.items()}
DATASET = {"dataset": named(DATA_SETS)}
HO = "kind={adv_loss_type} lambda_gp={lambda_gp} lr={lr_d} preprocess={preprocess_GAN_mode}"
CRITIC = "--lambda-gp 10 --lr-d 4e-4 --adv-loss-type wgan-gp --preprocess-GAN-mode 1"
KD_TERM = Row("--kd True --lambda-kd 10", "--kd weight={lambda_kd}", "10 / 19 classes", {"lambda_kd": per_class})
ADV_TERM = Row(
    f"--adv True --lambda-adv 0.001 --lambda-d 0.1 {CRITIC}", f"--ho weight={{lambda_adv}} {HO} optimizer=adam"
)
IFV_TERM = Row("--ifv True --lambda-ifv 200", "--ifvd weight={lambda_ifv}")
FAMILY = (  # SKD, and CWD and IFVD that grew from it
    Row("--data_set cityscape", "--dataset {data_set}", "", {"data_set": named(DATA_SETS)}),
    Row("--random-scale", "--random-scale{random_scale}", "off there unless given", {"random_scale": scale_steps}),
    Row("--random-mirror", "--random-mirror {random_mirror}", "off there unless given"),
    Row("--save_name NAME", "--save-name {save_name}"),
    Row("--save-dir DIR", "--snapshot-dir {save_dir}"),
    Row("--data-listval FILE", "--val-list {data_listval}"),
    Row("--gpu 0,1", "", "`CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 train.py ...`"),
)
SKD_SAME = (
    "--data-dir --data-list --input-size --batch-size --num-steps --lr-g --momentum --power --weight-decay "
    "--snapshot-dir --save-name --T_ckpt_path --S_ckpt_path --student-pretrain-model-imgnet"
)
SKD_UNNEEDED = (
    "--classes_num --num_classes --ignore-label --is-student-load-imgnet --S_resume --D_resume --D_ckpt_path "
    "--last-step --is-training --recurrence --start_epoch --epoch_nums --best-mean-IU --parallel --imsize-for-adv "
    "--adv-conv-dim --save-ckpt-start --save-ckpt-every"
)
SKD_DEFAULTS = "--data_set cityscape --data-dir DIR --random-scale false --random-mirror false --batch-size 8"
CITY_CKPT = "--T_ckpt_path ckpt/teacher_city.pth --student-pretrain-model-imgnet ckpt/resnet18-imagenet.pth"


def pspnet(values: Values) -> str:
    return "--network pspnet --network-options backbone=resnet18_v1s"


CIRKD_OPTIONS = (
    Row("--dataset citys", "--dataset {dataset}", "", DATASET),
    Row("--data DIR", "--data-dir {data}"),
    Row("--crop-size 512 1024", "--input-size {crop_size}", "", {"crop_size": size}),
    Row("--lr 0.02", "--lr-g {lr}"),
    Row("--max-iterations 40000", "--num-steps {max_iterations}"),
    Row(
        "--optimizer-type sgd",
        "--optimizer {optimizer_type}",
    ),
    Row("--workers 8", "--num-workers {workers}"),
    Row("--save-dir DIR", "--snapshot-dir {save_dir}"),
    Row("--save-dir-name NAME", "--save-name {save_dir_name}"),
    Row("--resume FILE", "--resume", "from the run's own folder"),
    Row("--save-per-iters 800", "--save-every {save_per_iters}"),
    Row("--val-per-iters 800", "--val-every {val_per_iters}"),
    Row("--log-iter 10", "--log-every {log_iter}"),
    Row("--no-cuda", "--device cpu"),
    Row("--gpu-id 0,1", "", "`CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 train.py ...`"),
)
CIRKD_STUDENT = (
    Row(
        "--student-model deeplabv3 --student-backbone resnet18",
        "--network {student_model} backbone={student_backbone}",
        "",
        STUDENT,
    ),
    Row("--teacher-pretrained FILE", "--T_ckpt_path {teacher_pretrained}"),
    Row("--student-pretrained-base FILE", "--student-pretrain-model-imgnet {student_pretrained_base}"),
    Row(
        "--student-pretrained FILE",
        "{student_pretrained}",
        "of SegFormer a backbone: `--student-pretrain-model-imgnet FILE`",
        {
            "student_pretrained": lambda value, values: (
                ("--student-pretrain-model-imgnet " if values.get("student_model") == "segformer" else "--S_ckpt_path ")
                + value
            )
        },
    ),
)
CIRKD_SAME = "--batch-size --momentum --weight-decay --aux-weight"
CIRKD_UNNEEDED = (
    "--teacher-model --teacher-backbone --teacher-pretrained-base --aux --ignore-label --log-dir --local-rank "
    "--start_epoch --save-epoch --val-epoch --skip-val --dist-url --world-size"
)
CIRKD_DEFAULTS = (
    "--dataset citys --data ./dataset/cityscapes/ --crop-size 512 1024 --batch-size 16 --lr 0.02 "
    "--max-iterations 40000 --weight-decay 1e-4"
)
CIRKD_PAIR = f"{CIRKD_DEFAULTS} --student-model deeplabv3 --student-backbone resnet18 --teacher-pretrained FILE"
CIRKD_PIXELS = "--lambda-kd 1 --lambda-minibatch-pixel 1 --lambda-memory-pixel 0.1 --lambda-memory-region 0.1"
KL_TERM = Row("--lambda-kd 1 --kd-temperature 1", "--kd weight={lambda_kd} temperature={kd_temperature}")
CIRKD_TERMS = (
    KL_TERM,
    Row(
        "--lambda-minibatch-pixel 1 --contrast-temperature 0.1",
        "--cirkd weight={lambda_minibatch_pixel} temperature={contrast_temperature}",
    ),
    Row(
        "--lambda-memory-pixel 0.1 --lambda-memory-region 0.1 --contrast-temperature 0.1 --contrast-kd-temperature 1 "
        "--pixel-memory-size 20000 --region-memory-size 2000 --pixel-contrast-size 4096 --region-contrast-size 1024",
        "--cirkd-memory weight=1 pixel={lambda_memory_pixel} region={lambda_memory_region} "
        "temperature={contrast_temperature} pixel_queue={pixel_memory_size} region_queue={region_memory_size} "
        "pixel_contrast={pixel_contrast_size} region_contrast={region_contrast_size}",
        "with `--contrast-kd-temperature 2` both weights x 4 and the temperature x 2",
        {
            "lambda_memory_pixel": times_temperature(2),
            "lambda_memory_region": times_temperature(2),
            "contrast_temperature": times_temperature(1),
        },
    ),
)


def scaled_up(values: Values) -> str:
    return "--random-scale --scale-range 0.5 2 --scale-step 0.1 --random-mirror"


AKD_OPTIONS = (
    Row("--dataset pascal", "--dataset {dataset}", "", DATASET),
    Row(
        "--backbone resnet18 --out-stride 16",
        "--network deeplabv3plus --network-options backbone={backbone} output_stride={out_stride}",
        "",
        {"backbone": named({"mobilenet": "mobilenetv2"})},
    ),
    Row("--crop-size 513", "--input-size {crop_size}", "", {"crop_size": size}),
    Row("--lr 0.007", "--lr-g {lr} --lr-factor head=10"),
    Row(
        "--base-size 513",
        "--short-side {base_size}",
        "half of it to twice",
        {"base_size": lambda value, values: f"{int(value) // 2} {int(value) * 2}"},
    ),
    Row("--epochs 50", "--num-steps {epochs}", "at a batch of 6", {"epochs": epochs(1464)}),
    Row("--workers 4", "--num-workers {workers}"),
    Row("--checkname NAME", "--save-name {checkname}"),
    Row("--sync-bn", "--norm sync_batch_norm"),
    Row("--resume FILE", "--resume", "from the run's own folder"),
    Row("--no-cuda", "--device cpu"),
    Row("--gpu-ids 0,1", "", "`CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 train.py ...`, a batch of 6 each"),
)
AKD_TEACHER = Row("--teacher_path FILE", "--T_ckpt_path {teacher_path}")
AKD_SAME = "--batch-size --momentum --weight-decay --seed"
AKD_UNNEEDED = (
    "--use-sbd --nesterov --freeze-bn --loss-type --start_epoch --test-batch-size --use-balanced-weights "
    "--lr-scheduler --ft --eval-interval --no-val"
)
AKD_DEFAULTS = (
    "--dataset pascal --backbone resnet18 --base-size 513 --crop-size 513 --batch-size 6 --lr 0.007 --epochs 50"
)
AKD_FILE = f"{AKD_DEFAULTS} --teacher_path pretrained/deeplab-resnet.pth.tar"


def akd(values: Values) -> str:
    """They divide the mean of cross-entropy by the batch size once more."""
    batch = int(values.get("--batch-size", "6"))
    return f"--data-dir DIR --batch-size {batch} --task-weight {1 / batch:.6g} --random-mirror --augment blur=0.5"


def is_aicsd(given: Values) -> bool:
    return bool({"--ALW", "--lo_lambda", "--ic_lambda"} & given.keys()) or float(given.get("--pa_lambda", 0)) >= 1000


def fade(word: str) -> Callable:
    return lambda value, values: "" if value == "False" else f" {word}=1"


CHECKPOINT = (
    Row("--pretrained FILE", "--checkpoint {pretrained}", "the network is read from the file"),
    Row("--dataset citys", "--dataset {dataset}", "", DATASET),
    Row("--data DIR", "--data-dir {data}"),
    Row("--flip-eval", "--flip"),
    Row("--no-cuda", "--device cpu"),
)
CHECKPOINT_UNNEEDED = "--model --backbone --method --crop-size --aux --ignore-label --gpu-id --local-rank"
CHECKPOINT_DEFAULTS = "--dataset citys --data ./dataset/cityscapes/ --pretrained FILE"
ESPNET_SIZE = Row("--inWidth 1024 --inHeight 512", "--input-size {inHeight},{inWidth}")

TABLES: tuple[Table, ...] = (
    Table(
        "IFVD",
        "train.py",
        {"train.py": f"{SKD_DEFAULTS} {CITY_CKPT}"},
        FAMILY,
        (KD_TERM, ADV_TERM, IFV_TERM),
        "--kd True --adv True --ifv True",
        SKD_SAME,
        SKD_UNNEEDED,
        pspnet,
    ),
    Table(
        "SKD",
        "train.py",
        dict.fromkeys(
            ("train_and_eval.py", "train.py"),
            f"{SKD_DEFAULTS} --weight-decay 1e-4 --T_ckpt_path ckpt/Teacher/CS_scenes_38413_0.7832174615268139.pth",
        ),
        FAMILY,
        (
            Row("--pi True --lambda-pi 10", "--pi weight={lambda_pi}", "10 x batch of 8", {"lambda_pi": times_batch}),
            Row("--pa True --lambda-pa 0.5 --pool-scale 0.5", "--pa weight={lambda_pa} pool_scale={pool_scale}"),
            Row(
                f"--ho True --lambda-d 0.1 {CRITIC} --weight-decay 5e-4",
                f"--ho weight={{lambda_d}} {HO} weight_decay={{weight_decay}}",
            ),
        ),
        "--pi True --pa True --lambda-pa 1 --ho True",
        SKD_SAME,
        SKD_UNNEEDED,
        pspnet,
    ),
    Table(
        "CWD",
        "train.py",
        {"train.py": f"{SKD_DEFAULTS} {CITY_CKPT}"},
        FAMILY,
        (
            Row(
                "--cwd True --cwd-feat False --lambda-cwd 3 --temperature 4 --norm-type channel --divergence kl",
                "--cwd on={cwd_feat} weight={lambda_cwd} temperature={temperature} norm={norm_type} "
                "divergence={divergence}{adapter}",
                "`--cwd-feat True`: `on=context adapter=conv_bn_relu adapter_lr=0.01`, the `--lr-g`",
                {
                    "cwd_feat": lambda value, values: "context" if value.lower() in TRUE else "logits",
                    "adapter": adapter,
                },
            ),
            KD_TERM,
            ADV_TERM,
            IFV_TERM,
        ),
        "--kd True --cwd True",
        SKD_SAME,
        SKD_UNNEEDED,
        pspnet,
    ),
    Table(
        "SKD, CWD, IFVD",
        "eval.py",
        dict.fromkeys(("val.py", "eval.py"), "--data-dir DIR"),
        (Row("--restore-from FILE", "--checkpoint {restore_from}"), Row("--data-dir DIR", "--data-dir {data_dir}")),
        same="--data-list",
        unneeded="--num_classes --gpu",
        always=lambda values: "--dataset cityscapes",
    ),
    Table(
        "SKD, CWD, IFVD",
        "test.py",
        {"test.py": "--data-dir DIR"},
        (
            Row("--resume-from FILE", "--checkpoint {resume_from}"),
            Row("--restore-from FILE", "--checkpoint {restore_from}"),
            Row("--data-dir DIR", "--data-dir {data_dir}"),
        ),
        same="--data-list",
        unneeded="--num_classes --gpu",
        always=lambda values: "--dataset cityscapes --output outputs --submission outputs/cityscapes.zip",
    ),
    Table(
        "CIRKD",
        "train.py",
        dict.fromkeys(("train_kd.py", "train_kd_segformer.py", "train.py"), CIRKD_PAIR),
        CIRKD_OPTIONS + CIRKD_STUDENT,
        (
            KL_TERM,
            Row("--lambda-skd 10", "--pa weight={lambda_skd} window=2"),
            Row(
                "--lambda-adv 0.001 --lambda-d 0.1",
                "--ho weight={lambda_adv} kind=hinge optimizer=adam power=0",
            ),
            Row("--lambda-ifv 20", "--ifvd weight={lambda_ifv}"),
            Row(
                "--lambda-cwd-fea 50",
                "--cwd on=context weight={lambda_cwd_fea} temperature=4",
                "where widths differ they divide by the student's channels, so that 50 is 100 from 128 to 256",
            ),
            Row("--lambda-cwd-logit 3", "--cwd weight={lambda_cwd_logit} temperature=4"),
            Row("--lambda-fitnet 10", "--fitnet weight={lambda_fitnet}"),
            Row("--lambda-at 10000", "--at weight={lambda_at}"),
            Row(
                "--lambda-psd 1000",
                "--psd weight={lambda_psd}",
                "without an auxiliary head theirs has the logits twice: `--psd on=context+logits weight=667`",
            ),
            Row("--lambda-csd 10", "--csd weight={lambda_csd}"),
        ),
        "",
        CIRKD_SAME,
        CIRKD_UNNEEDED,
        scaled_up,
    ),
    Table(
        "CIRKD",
        "train.py",
        dict.fromkeys(("train_cirkd.py", "train_cirkd_segformer.py", "train.py"), f"{CIRKD_PAIR} {CIRKD_PIXELS}"),
        CIRKD_OPTIONS + CIRKD_STUDENT,
        CIRKD_TERMS,
        "",
        CIRKD_SAME,
        CIRKD_UNNEEDED,
        scaled_up,
    ),
    Table(
        "CIRKDv2",
        "train.py",
        dict.fromkeys(
            ("train_cirkdv2.py", "train_cirkdv2_segformer.py", "train.py"),
            f"{CIRKD_PAIR} {CIRKD_PIXELS} --lambda-minibatch-channel 1 --lambda-memory-channel 0.1",
        ),
        CIRKD_OPTIONS + CIRKD_STUDENT,
        (
            *CIRKD_TERMS,
            Row(
                "--lambda-minibatch-channel 1 --lambda-memory-channel 0.1 --lambda-channel-kd 0 "
                "--channel-memory-size 10000 --channel-contrast-size 2048",
                "--cirkd-channel batch={lambda_minibatch_channel} memory={lambda_memory_channel} "
                "mse={lambda_channel_kd} queue={channel_memory_size} contrast={channel_contrast_size}",
            ),
            Row(
                "--lambda-fitnet 10",
                "--fitnet {graph}weight={lambda_fitnet}",
                "their later terms see the map after that graph block, ours the network's; SegFormer has none",
                {"graph": lambda value, values: "" if values["student_model"] == "segformer" else "graph=true "},
            ),
        ),
        "",
        CIRKD_SAME,
        CIRKD_UNNEEDED,
        scaled_up,
    ),
    Table(
        "CIRKD, DIST: a student alone",
        "train.py",
        dict.fromkeys(
            ("train_baseline.py", "train_baseline_segformer.py", "train.py"),
            f"{CIRKD_DEFAULTS} --model deeplabv3 --backbone resnet18",
        ),
        (
            *CIRKD_OPTIONS,
            Row("--model deeplabv3 --backbone resnet18", "--network {model} backbone={backbone}", "", MODEL),
            Row("--pretrained-base FILE", "--student-pretrain-model-imgnet {pretrained_base}"),
            Row("--pretrained FILE", "--S_ckpt_path {pretrained}"),
        ),
        same=CIRKD_SAME,
        unneeded=CIRKD_UNNEEDED,
        always=scaled_up,
    ),
    Table(
        "DIST",
        "train.py",
        dict.fromkeys(("train_kd.py", "train.py"), CIRKD_PAIR.replace("--weight-decay 1e-4", "--weight-decay 5e-4")),
        CIRKD_OPTIONS + CIRKD_STUDENT,
        (
            Row(
                "--lambda-kd 1",
                "--dist weight={lambda_kd} --dist on=aux_logits weight={aux_kd}",
                "",
                {"aux_kd": lambda value, values: times(0.4)(values["lambda_kd"], values)},
            ),
        ),
        "--lambda-kd 1",
        CIRKD_SAME,
        CIRKD_UNNEEDED,
        lambda values: f"{scaled_up(values)} --min-lr 1e-4",
    ),
    Table(
        "CIRKD, DIST",
        "eval.py",
        dict.fromkeys(("eval.py", "eval_segformer.py"), CHECKPOINT_DEFAULTS),
        (
            *CHECKPOINT,
            Row("--workers 8", "--num-workers {workers}"),
            Row("--save-dir DIR", "--output {save_dir}/evaluation.json"),
        ),
        same="--data-list --scales",
        unneeded=CHECKPOINT_UNNEEDED,
        fits=lambda given: "--save-pred" not in given,
    ),
    Table(
        "CIRKD, DIST: predictions of the validation split",
        "test.py",
        dict.fromkeys(("eval.py", "eval_segformer.py"), f"{CHECKPOINT_DEFAULTS} --save-dir predictions"),
        (
            *CHECKPOINT,
            Row("--save-dir DIR", "--output {save_dir}"),
            Row("--save-pred --blend", "--split val --save colours overlays"),
        ),
        same="--data-list --scales",
        unneeded=f"{CHECKPOINT_UNNEEDED} --workers",
        fits=lambda given: "--save-pred" in given,
    ),
    Table(
        "CIRKD, DIST",
        "test.py",
        dict.fromkeys(("test.py", "test_segformer.py"), f"{CHECKPOINT_DEFAULTS} --save-dir predictions"),
        (*CHECKPOINT, Row("--save-dir DIR", "--output {save_dir}")),
        same="--data-list --scales",
        unneeded=f"{CHECKPOINT_UNNEEDED} --workers --save-pred",
    ),
    Table(
        "AKD",
        "train.py",
        dict.fromkeys(("train_kd.py", "train.py"), AKD_FILE),
        (*AKD_OPTIONS, AKD_TEACHER),
        (
            Row(
                "--pi_lambda 100",
                "--at over=column on=context.pre weight={pi_lambda}",
                "suits its 129x129 positions",
            ),
            Row("--pa_lambda 1", "--pa on=aspp.pre weight={pa_lambda}"),
        ),
        "",
        AKD_SAME.removeprefix("--batch-size "),
        f"{AKD_UNNEEDED} --batch-size",
        akd,
        lambda given: not is_aicsd(given),
    ),
    Table(
        "AICSD",
        "train.py",
        dict.fromkeys(("train_kd.py", "train.py"), f"{AKD_FILE} --ALW False"),
        (*AKD_OPTIONS, AKD_TEACHER),
        (
            Row(
                "--pi_lambda 10 --ALW",
                "--kd grid=image weight={pi_lambda}{ALW}",
                "/ 21 classes",
                {"pi_lambda": per_class, "ALW": fade("decay")},
            ),
            Row(
                "--lo_lambda 9500 --ALW",
                "--aicsd weight={lo_lambda}{ALW}",
                "about",
                {"lo_lambda": times(1.5 / 9500), "ALW": fade("warmup")},
            ),
            Row(
                "--pa_lambda 9500 --ALW",
                "--aicsd weight={pa_lambda}{ALW}",
                "its README's name of `--lo_lambda`",
                {"pa_lambda": times(1.5 / 9500), "ALW": fade("warmup")},
            ),
            Row(
                "--ic_lambda 1",
                "--aicsd similarity=gram weight={ic_lambda}",
            ),
        ),
        "",
        AKD_SAME.removeprefix("--batch-size "),
        f"{AKD_UNNEEDED} --batch-size",
        akd,
        is_aicsd,
    ),
    Table(
        "AKD: overhaul distillation",
        "train.py",
        {"train_with_distillation.py": AKD_FILE},
        (*AKD_OPTIONS, AKD_TEACHER),
        same=AKD_SAME.removeprefix("--batch-size "),
        unneeded=f"{AKD_UNNEEDED} --batch-size",
        always=lambda values: f"{akd(values)} {overhaul(values)}",
    ),
    Table(
        "ESPNet",
        "train.py",
        dict.fromkeys(
            ("main.py", "train.py"),
            "--data_dir ./city --scaleIn 8 --p 2 --q 8 --inWidth 1024 --inHeight 512 --batch_size 12 --lr 5e-4 "
            "--max_epochs 300",
        ),
        (
            Row("--data_dir DIR", "--data-dir {data_dir}"),
            Row(
                "--scaleIn 8 --p 2 --q 8",
                "--network {scaleIn} --network-options p={p} q={q}",
                "`--scaleIn 1`: `espnet`",
                {"scaleIn": named({"8": "espnet_c", "1": "espnet"})},
            ),
            ESPNET_SIZE,
            Row("--batch_size 12", "--batch-size {batch_size}"),
            Row("--lr 5e-4", "--lr-g {lr}"),
            Row("--max_epochs 300", "--num-steps {max_epochs}", "5 passes each", {"max_epochs": epochs(2975, 5)}),
            Row("--num_workers 4", "--num-workers {num_workers}"),
            Row("--savedir DIR", "--snapshot-dir {savedir}"),
            Row("--resume True", "--resume {resume}"),
        ),
        unneeded="--model --decoder --pretrained --step_loss --visualizeNet --classes --cached_data_file --logFile "
        "--onGPU",
        always=lambda values: "--dataset cityscapes --optimizer adam --weight-decay 5e-4",
    ),
    Table(
        "ESPNet",
        "test.py",
        dict.fromkeys(
            ("VisualizeResults.py", "test.py"),
            "--data_dir ./data --weightsDir ../pretrained --modelType 1 --p 2 --q 8 --savedir ./results",
        ),
        (
            Row("--data_dir DIR", "--images {data_dir}"),
            Row(
                "--weightsDir ../pretrained --modelType 1 --p 2 --q 8",
                "--checkpoint {weightsDir}/{modelType}/espnet_p_{p}_q_{q}.pth",
                "`--modelType 2`: `encoder`",
                {"modelType": named({"1": "decoder", "2": "encoder"})},
            ),
            Row("--savedir DIR", "--output {savedir}"),
            Row("--inWidth 1024 --inHeight 512", "--input-size {inHeight} {inWidth}"),
        ),
        unneeded="--model --img_extn --scaleIn --gpu --decoder --cityFormat --colored --overlay --classes",
        always=lambda values: "--dataset cityscapes --save labels colours overlays",
    ),
)


def main() -> None:
    try:
        print(translate(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"originals: {error}")


if __name__ == "__main__":
    main()
