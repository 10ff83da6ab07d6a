"""What an SME runs: train on the development half, then the stock MLflow client and a token.

python -m demo.sme a --development DIR --name N --save FILE   # MLFLOW_TRACKING_TOKEN is set
"""

import argparse
import json
import logging
from pathlib import Path

from demo.development import read_development
from demo.models import train
from demo.second_model import train_second


def main() -> None:
    """Train, log, register; the last line of output is JSON."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("who", choices=["a", "a-again", "b"])
    arguments.add_argument("--development", type=Path, required=True)
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--save", type=Path, required=True, help="where to keep the ONNX file")
    given = arguments.parse_args()
    half = read_development(given.development)
    model = train_second(half).onnx() if given.who == "a-again" else train(given.who, half).onnx()
    given.save.write_bytes(model)

    import mlflow
    import onnx

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_experiment("lung nodules")
    with mlflow.start_run():
        mlflow.log_param("cases", len(half.reference))
        mlflow.log_param("inputs", "shape alone" if given.who == "b" else "shape and reading")
        logged = mlflow.onnx.log_model(
            onnx.load_from_string(model),
            name="model",
            registered_model_name=given.name,
            pip_requirements=["onnxruntime"],  # else MLflow starts a Python to find out
        )
    said = f"trained on {len(half.reference)} nodules of the development half"
    print(json.dumps({"version": int(logged.registered_model_version), "said": said}))


if __name__ == "__main__":
    main()
