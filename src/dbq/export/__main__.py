"""Export a trained experiment, or replay an exported file: python -m dbq.export EXPERIMENT | --verify FILE"""

import argparse
from pathlib import Path

from dbq.errors import DbqError, main_with_errors
from dbq.export import container
from dbq.export.verify import verify, verify_onnx
from dbq.settings import resolve as config


def main():
    parser = argparse.ArgumentParser(prog="python -m dbq.export", description=__doc__)
    parser.add_argument("experiment", nargs="?", help="a key of experiments in params.yaml; with --verify: what the file has to be of")
    parser.add_argument("--params", default="params.yaml", help="params.yaml, or the same tree as JSON")
    parser.add_argument("--profile", help="instead of the profile in params.yaml")
    parser.add_argument("--model", type=Path, help="model file (default runs/PROFILE/models/quantize-EXPERIMENT.pt)")
    parser.add_argument("--data", type=Path, help="prepared data set (default data/prepared/PROFILE/DATASET)")
    parser.add_argument("--out", type=Path, help="folder of the files (default runs/PROFILE/export)")
    parser.add_argument("--without-onnx", action="store_true", help="only the safetensors file, which needs no further package")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="replay this file, .safetensors or .onnx, on the test images")
    arguments = parser.parse_args()
    if arguments.verify is not None:
        replay(arguments)
    elif arguments.experiment is None:
        raise DbqError("neither an experiment nor --verify", "name a key of experiments in params.yaml, or a file")
    else:
        export(arguments)


def replay(arguments) -> None:
    if arguments.verify.suffix == ".onnx":
        found = verify_onnx(arguments.verify, arguments.data)
        print(f"{arguments.verify}: top1 {found['top1']:.2f} % ({found['correct']} of {found['images']} test images) in onnxruntime")
        return
    found = verify(arguments.verify, arguments.data, arguments.experiment)
    metadata = container.load(arguments.verify)[0]
    print(f"{arguments.verify}: {metadata['experiment']} ({metadata['profile']}), {metadata['network']}, seed {metadata['seed']}")
    print(f"top1 {found['top1']:.2f} % ({found['correct']} of {found['images']} test images), as recorded")


def export(arguments) -> None:
    from dbq.export import onnx_graph, trained

    params = config.read(arguments.params)
    experiment = config.experiment(
        params, config.check_profile(arguments.profile or config.lookup(params, "profile")), arguments.experiment
    )
    if not arguments.without_onnx:
        onnx_graph.library()  # before any work
    model = arguments.model or trained.default_model(experiment)
    data = arguments.data or Path("data/prepared") / experiment.profile / experiment.dataset
    out = arguments.out or Path("runs") / experiment.profile / "export"
    found = trained.load(experiment, model, data, config.engine(params))
    path = out / f"{experiment.key}.safetensors"
    container.write(path, found.compiled.program, found.weights, found.metadata)
    sizes, recorded = container.sizes(path), found.metadata["recorded"]
    print(f"{path}: {', '.join(f'{size:,} bytes {name}' for name, size in sizes.items())}")
    print(f"top1 {recorded['top1']:.2f} % of the integers on {recorded['images']} test images")
    if not arguments.without_onnx:
        path = out / f"{experiment.key}.onnx"
        onnx_graph.write(path, found)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
