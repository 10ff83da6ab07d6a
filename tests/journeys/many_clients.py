"""Many SMEs at once, each a process of its own with the stock MLflow client and its own token.

    python -m tests.journeys.many_clients '{"url": …, "tokens": {"sme-0": …}, "versions": 2}'

Prints one JSON object: what each client was told, and what went wrong for it. MLflow is imported
once and the clients are forked from it, so that twenty of them fit on a small machine.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any


def client(url: str, organisation: str, token: str, versions: int, number: int) -> dict[str, Any]:
    """What this SME was told: {"told": [{version, model_id, digest}], "failed": [sentences]}."""
    import mlflow
    import mlflow.onnx

    from tests.registry.mlflow_server import network

    os.environ["MLFLOW_TRACKING_TOKEN"] = token
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    told, failed = [], []
    for version in range(versions):
        model = network(seed=1000 * number + version)
        digest = hashlib.sha256(model.SerializeToString()).hexdigest()
        for _ in range(3):  # what a person does whose command failed
            try:
                with mlflow.start_run() as run:
                    mlflow.log_param("secret_of", organisation)
                    info = mlflow.onnx.log_model(
                        model, name="net", registered_model_name=f"net-{organisation}",
                        save_as_external_data=False, pip_requirements=["onnx"],
                    )  # fmt: skip
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
                with contextlib.suppress(Exception):
                    mlflow.end_run()
            else:
                told.append(
                    {"version": int(info.registered_model_version), "model_id": info.model_id,
                     "run_id": run.info.run_id, "experiment_id": run.info.experiment_id,
                     "digest": digest}
                )  # fmt: skip
                break
    return {"organisation": organisation, "told": told, "failed": failed}


def main() -> None:
    """Fork one client for each token, wait for all, print what they were told."""
    asked = json.loads(sys.argv[1])
    import mlflow.onnx  # noqa: F401  once, before the clients are forked

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    jobs = [
        (asked["url"], organisation, token, asked["versions"], number)
        for number, (organisation, token) in enumerate(sorted(asked["tokens"].items()))
    ]
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stderr(nothing),
        multiprocessing.get_context("fork").Pool(len(jobs), maxtasksperchild=1) as pool,
    ):
        said = pool.starmap(client, jobs, chunksize=1)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
