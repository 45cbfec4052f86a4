"""One training from settings to a tested network: float or quantized, trained here, taken from a checkpoint, or a committed result."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dbq import networks
from dbq.datasets.arrays import load as load_data
from dbq.datasets.arrays import read_manifest
from dbq.datasets.loader import Batches
from dbq.errors import DbqError, NotRun
from dbq.files import read_sealed
from dbq.insertion import policies
from dbq.networks.external import load_external
from dbq.training import allocator, committed
from dbq.training.checkpoints import Checkpoint, load_state, tensors_digest
from dbq.training.evaluation import top1
from dbq.training.loop import Fit, fit
from dbq.validity import identity

if TYPE_CHECKING:
    from dbq.settings import Row, Start

EVALUATION_BATCH = 500


@dataclass
class Place:
    """Where a training reads and writes, and on what it runs."""

    data: Path  # folder of a prepared data set
    checkpoints: Path = Path("checkpoints")
    results: Path | None = None  # committed results of the profile, from which a valid one is taken; None trains anyway
    device: str = "cpu"
    deadline: float | None = None  # time.monotonic()
    log: object = field(default=print)

    def __post_init__(self):
        self.data, self.checkpoints = Path(self.data), Path(self.checkpoints)
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise DbqError(f"device: {self.device!r} is no device of torch", "use cpu, cuda or cuda:1") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise DbqError(f"device: {self.device} was asked for and torch finds no GPU", "use cpu")


@dataclass
class Beginning:
    """The float network that rows begin from. state is None where its result is committed and its weights aren't."""

    key: str
    digest: str
    state: dict[str, Tensor] | None


@dataclass
class Run:
    """A finished training. A committed result has no network, and its summary in `record`."""

    seed: int
    network: nn.Module | None
    fit: Fit | None
    top1: float | None
    identity: dict
    provenance: dict
    image_size: int  # pixels
    policy: list = field(default_factory=list)
    record: dict | None = None
    folder: Path | None = None  # where a committed result is from
    past: list[dict] = field(default_factory=list)  # its recorded epochs


def train_float(start: Start, place: Place, code: str) -> Run:
    """Train a float network, or take it from its external weights (0 epochs). code: the digest of the code that trains it."""
    manifest = read_manifest(place.data, start.dataset, start.profile)
    own = {"settings": identity.of_settings(start), "data": manifest["content_sha256"], "code": code, "start": None}
    checkpoint = Checkpoint(place.checkpoints / start.profile, start.key, start.seed, start.network, own)
    if run := _committed(place, checkpoint, "pretrain", start.key, start.seed, own, manifest):
        return run
    recipe = start.training
    torch.manual_seed(start.seed)
    network = networks.build(start.network, start.dataset_settings.classes, start.dataset_settings.form)
    if start.weights is not None:
        load_external(network, find_weights(start.weights.file), start.weights.sha256)
        recipe = recipe.model_copy(update={"epochs": 0, "warmup_epochs": 0})
    return _train(start, network, recipe, start.seed, checkpoint, place, test=True)


def train_row(row: Row, seed: int, beginning: Beginning, place: Place, code: str) -> Run:
    """Quantize the float network and train it on. The test images are read once, after the last epoch, and only for a row that is judged
    on them."""
    manifest = read_manifest(place.data, row.dataset, row.profile)
    own = {"settings": identity.of_settings(row), "data": manifest["content_sha256"], "code": code, "start": beginning.digest}
    checkpoint = Checkpoint(place.checkpoints / row.profile, row.key, seed, row.network, own)
    if run := _committed(place, checkpoint, "quantize", row.key, seed, own, manifest):
        return run
    if beginning.state is None:
        raise NotRun(
            f"rows.{row.key}: seed {seed} has no valid result, and the weights of its start {row.start} weren't kept",
            f"train it: python -m dbq train {row.start} --profile {row.profile}",
        )
    torch.manual_seed(seed)
    network = networks.build(row.network, row.dataset_settings.classes, row.dataset_settings.form)
    load_state(network, beginning.state, f"float weights of {row.start}")
    # on the CPU: every device starts from the same scales, and the fits are many small operations, which a GPU is slow at
    policy = policies.quantize(network, row, calibration_images(load_data(place.data), row.activations.calibration_images))
    run = _train(row, network, row.training, seed, checkpoint, place, row.judged == "test", _teacher(row, beginning, place))
    run.policy = policy
    return run


def _committed(place: Place, checkpoint: Checkpoint, stage: str, key: str, seed: int, own: dict, manifest: dict) -> Run | None:
    """The committed result of this training, unless its checkpoint is there: weights are worth more."""
    record = None if place.results is None or checkpoint.path.exists() else committed.valid(place.results, stage, key, seed, own)
    if record is None:
        return None
    place.log(f"{key} seed {seed}: taken from {place.results}, measured at commit {record['commit'][:12]} on {record['device']}")
    past = committed.history(place.results, stage, key, seed)
    folder = committed.folder(place.results, stage, key)
    return Run(
        seed, None, None, record["top1"], record["identity"], record, manifest["image_size"], record=record, folder=folder, past=past
    )  # fmt: skip


def _teacher(row: Row, beginning: Beginning, place: Place) -> nn.Module | None:
    """The float network, where the schedule distils from it."""
    if row.training.distillation == 0:
        return None
    network = networks.build(row.network, row.dataset_settings.classes, row.dataset_settings.form)
    load_state(network, beginning.state, f"float weights of {row.start}")
    return network.to(place.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _train(entry, network, recipe, seed: int, checkpoint: Checkpoint, place: Place, test: bool, teacher=None) -> Run:
    allocator.keep_freed_memory()
    torch.set_num_threads(recipe.threads)
    data = load_data(place.data, name=entry.dataset, profile=entry.profile)
    manifest, splits = data.manifest, data.splits
    if test:  # damaged test images are noticed before the training, not after it; none of them is looked at
        load_data(place.data, ("test",))
    network = network.to(place.device, memory_format=torch.channels_last)
    provenance = identity.provenance(place.device, recipe.threads, describe_source(manifest))
    train = batches(splits["train"], manifest, recipe.batch_size, place.device, entry.dataset_settings.augment)
    validation = batches(splits["val"], manifest, EVALUATION_BATCH, place.device)
    done = fit(network, train, validation, recipe, seed, checkpoint, provenance, teacher, place.deadline, place.log)
    state = checkpoint.read(place.device, log=lambda line: None)
    if test and "top1" not in state:
        # the only place where a test set is read: once, after the last epoch
        images = load_data(place.data, ("test",)).splits["test"]
        state["top1"] = top1(network, batches(images, manifest, EVALUATION_BATCH, place.device))
        checkpoint.write(**{name: value for name, value in state.items() if name not in ("format", "fingerprint", "network", "identity")})
    reached = state.get("top1") if test else None
    if test:
        place.log(f"test top1: {reached:.2f} %")
    return Run(seed, network.eval(), done, reached, state["identity"], state["provenance"], manifest["image_size"])


def rebuild(row: Row, state: dict[str, Tensor], image_size: int) -> nn.Module:
    """The quantized network of a saved state, in evaluation mode.

    Scales and clips are placeholders until the state replaces them, hence the random image.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.build(row.network, row.dataset_settings.classes, row.dataset_settings.form)
        policies.quantize(network, row, torch.randn(8, 3, image_size, image_size), fit=False)
    load_state(network, state, f"model of {row.key}")
    return network.eval()


def read_beginning(path, key: str) -> Beginning:
    """The float network in the model file of a pretrain stage."""
    content = read_sealed(path)
    if content.get("key") != key or not isinstance(content.get("state"), dict | None) or "digest" not in content:
        raise DbqError(f"{path}: not the float network {key}", f"run `dvc repro pretrain@{key}`")
    return Beginning(key, content["digest"], content["state"])


def beginning_of(run: Run, key: str) -> Beginning:
    """The float network of a finished run. A committed one's weights weren't kept; its digest was, where it was known."""
    if run.network is None:
        return Beginning(key, run.record["state"], None)
    state = {name: value.cpu() for name, value in run.network.state_dict().items()}
    return Beginning(key, tensors_digest(state), state)


def find_weights(name: str) -> Path:
    """The external weights file in $DBQ_WEIGHTS or data/raw/weights."""
    folders = [Path(folder) for folder in (os.environ.get("DBQ_WEIGHTS"), "data/raw/weights") if folder]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DbqError(
        f"external weights {name}: not in {' or '.join(map(str, folders))}",
        "download the file from the source that params.yaml names into data/raw/weights, or set DBQ_WEIGHTS to its folder, "
        "or take its line out of `weights` of the profile to train from scratch",
    )


def batches(split, manifest: dict, batch_size: int, device: str, augment=None) -> Batches:
    return Batches(split, batch_size, manifest["mean"], manifest["std"], augment=augment, device=device)


def calibration_images(data, count: int) -> Tensor:
    """`count` training images, normalised, drawn without replacement by a fixed seed."""
    split = data.splits["train"]
    picks = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))[:count]
    images, _ = next(iter(batches(type(split)(split.images[picks], split.labels[picks]), data.manifest, count, "cpu").in_order()))
    return images


def describe_source(manifest: dict) -> str:
    return f"{manifest['source']} (stand-in)" if manifest["stand_in"] else manifest["source"]
