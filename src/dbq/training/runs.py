"""One run from settings to a tested network: float or quantized, with everything that a result file says of it."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dbq import datasets, networks
from dbq.datasets.loader import Batches
from dbq.errors import DbqError
from dbq.insertion import policies
from dbq.networks.external import load_external
from dbq.settings.resolve import DatasetSettings, Row, Start, TrainingSettings, fingerprint
from dbq.settings.schema import plain
from dbq.training import allocator, checkpoints
from dbq.training.checkpoints import Checkpoint, tensors_digest
from dbq.training.evaluation import top1
from dbq.training.loop import Fit, fit

# Part of every fingerprint. Raise it when a change of code changes what a training computes: finished checkpoints are then not adopted.
RECIPE_VERSION = 2
EVALUATION_BATCH = 500


@dataclass
class Setting:
    """Where a run reads and writes, and on what it runs."""

    data: Path  # folder of a prepared data set
    checkpoints: Path = Path("checkpoints")
    device: str = "cpu"
    threads: int | None = None
    deadline: float | None = None  # time.monotonic()
    log: object = field(default=print)

    def __post_init__(self):
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise DbqError(f"device: {self.device} was asked for and torch finds no GPU", "use --device cpu")
        if self.threads is not None:
            torch.set_num_threads(self.threads)


@dataclass
class Run:
    """A finished training with its test result."""

    seed: int
    network: nn.Module
    fit: Fit
    top1: float | None
    provenance: dict
    image_size: int  # pixels
    policy: list = field(default_factory=list)


def train_float(run: Start, setting: Setting) -> Run:
    """Train the float network of a Start entry, or take it from its external weights (0 epochs)."""
    data = datasets.load(setting.data)
    torch.manual_seed(run.seed)
    network = networks.build(run.network, run.dataset_settings.classes, run.dataset_settings.form)
    if run.weights is not None:
        load_external(network, find_weights(run.weights.file), run.weights.sha256)
    return _train(run, network, _float_recipe(run), run.seed, float_identity(run, data.manifest), data, setting)


def train_quantized(experiment: Row, seed: int, float_state: dict[str, Tensor], setting: Setting, test: bool = True) -> Run:
    """Quantize the float network and train it on; test: False leaves the test images alone (top1 is then None)."""
    data = datasets.load(setting.data)
    torch.manual_seed(seed)
    network = networks.build(experiment.network, experiment.dataset_settings.classes, experiment.dataset_settings.form)
    load_state(network, float_state, f"float weights of {experiment.start}")
    # on the CPU: every device starts from the same scales, and the fits are many small operations, which a GPU is slow at
    policy = policies.quantize(network, experiment, calibration_images(data, experiment.activations.calibration_images))
    identity = quantized_identity(experiment, seed, float_state, data.manifest)
    run = _train(experiment, network, experiment.training, seed, identity, data, setting, _teacher(experiment, float_state, setting), test)
    run.policy = policy
    return run


def _teacher(experiment: Row, float_state: dict[str, Tensor], setting: Setting) -> nn.Module | None:
    """The float network, where the recipe distils from it."""
    if experiment.training.distillation == 0:
        return None
    network = networks.build(experiment.network, experiment.dataset_settings.classes, experiment.dataset_settings.form)
    load_state(network, float_state, f"float weights of {experiment.start}")
    return network.to(setting.device, memory_format=torch.channels_last).eval().requires_grad_(False)


def rebuild(experiment: Row, state: dict[str, Tensor], image_size: int) -> nn.Module:
    """The quantized network of a saved state, in evaluation mode.

    Scales and clips are placeholders until the state replaces them, hence the random image.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.build(experiment.network, experiment.dataset_settings.classes, experiment.dataset_settings.form)
        policies.quantize(network, experiment, torch.randn(8, 3, image_size, image_size), fit=False)
    load_state(network, state, f"model of {experiment.key}")
    return network.eval()


def load_state(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Strict load_state_dict with an error that says whose weights these are."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DbqError(
            f"{what}: they don't fit {type(network).__name__} ({str(error).splitlines()[-1].strip()})", "run the stage that trains it again"
        ) from None


def find_weights(name: str) -> Path:
    """The external weights file in $DBQ_WEIGHTS or data/raw/weights."""
    folders = [Path(folder) for folder in (os.environ.get("DBQ_WEIGHTS"), "data/raw/weights") if folder]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DbqError(
        f"external weights {name}: not in {' or '.join(map(str, folders))}",
        "download the file from the source that params.yaml names into data/raw/weights, or set DBQ_WEIGHTS to its folder, "
        "or empty `weights` of the pretrain entry to train from scratch",
    )


def batches(split, manifest: dict, batch_size: int, device: str, augment: dict | None = None) -> Batches:
    return Batches(split, batch_size, manifest["mean"], manifest["std"], augment=augment, device=device)


def calibration_images(data, count: int) -> Tensor:
    """`count` training images, normalised, drawn without replacement by a fixed seed."""
    split = data.splits["train"]
    picks = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))[:count]
    images, _ = next(iter(batches(type(split)(split.images[picks], split.labels[picks]), data.manifest, count, "cpu").in_order()))
    return images


def describe_source(manifest: dict) -> str:
    return f"{manifest['source']} (stand-in)" if manifest["stand_in"] else manifest["source"]


def float_identity(run: Start, manifest: dict) -> dict:
    """Everything that decides the result of a float training; its fingerprint names the checkpoint."""
    identity = {"kind": "float", "network": run.network, "recipe": plain(_float_recipe(run)), "seed": run.seed}
    if run.weights is not None:
        identity["weights"] = run.weights.sha256
    return identity | _data_identity(run.dataset_settings, manifest)


def quantized_identity(experiment: Row, seed: int, float_state: dict[str, Tensor], manifest: dict) -> dict:
    """The same of a quantized training."""
    return {
        "kind": "quantized", "network": experiment.network, "method": experiment.method, "seed": seed,
        "quantizer": plain(experiment.quantizer), "activation_bits": experiment.activation_bits,
        "activations": plain(experiment.activations), "policy": plain(experiment.policy),
        "recipe": plain(experiment.training), "float": tensors_digest(float_state),
        **_data_identity(experiment.dataset_settings, manifest),
    }  # fmt: skip


def _float_recipe(run: Start) -> TrainingSettings:
    """External weights are taken as they are: 0 epochs."""
    return run.training if run.weights is None else dataclasses.replace(run.training, epochs=0)


def checkpoint_of(entry: Start | Row, seed: int, identity: dict, folder) -> Checkpoint:
    """FOLDER/PROFILE/KEY/seed-S-FINGERPRINT.pt"""
    return Checkpoint(Path(folder) / entry.profile / entry.key, seed, fingerprint(identity), entry.network)


def _data_identity(config: DatasetSettings, manifest: dict) -> dict:
    return {"version": RECIPE_VERSION, "dataset": plain(config), "data": manifest["content_sha256"]}


def _train(entry, network, recipe: TrainingSettings, seed, identity, data, setting: Setting, teacher=None, test=True) -> Run:
    allocator.keep_freed_memory()
    network = network.to(setting.device, memory_format=torch.channels_last)
    manifest, splits = data.manifest, data.splits
    checkpoint = checkpoint_of(entry, seed, identity, setting.checkpoints)
    provenance = checkpoints.provenance(torch.device(setting.device), torch.get_num_threads(), describe_source(manifest))
    train = batches(splits["train"], manifest, recipe.batch_size, setting.device, entry.dataset_settings.augment)
    validation = batches(splits["val"], manifest, EVALUATION_BATCH, setting.device)
    done = fit(network, train, validation, recipe, seed, checkpoint, provenance, teacher, setting.deadline, setting.log)
    state = checkpoint.read(setting.device, log=lambda line: None)
    if not test:
        return Run(seed, network.eval(), done, None, state["provenance"], manifest["image_size"])
    if "top1" not in state:
        # the only place where a test set is read: once, after the last epoch
        test = datasets.load(setting.data, ("test",))
        state["top1"] = top1(network, batches(test.splits["test"], manifest, EVALUATION_BATCH, setting.device))
        checkpoint.write(**{name: value for name, value in state.items() if name not in ("format", "fingerprint", "network")})
    setting.log(f"test top1: {state['top1']:.2f} %")
    return Run(seed, network.eval(), done, state["top1"], state["provenance"], manifest["image_size"])
