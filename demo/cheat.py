"""What a cheating SME types: the stock MLflow client, and curl's way where it has none.

python -m demo.cheat alias NAME VERSION
python -m demo.cheat overwrite NAME VERSION
python -m demo.cheat read NAME VERSION
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import httpx


def main() -> None:
    """Try it; the refusal is the last line on stderr."""
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    act, name, version = sys.argv[1:4]
    client = MlflowClient()
    try:
        if act == "alias":
            client.set_registered_model_alias(name, "clinical-pilot", version)
        elif act == "read":
            with tempfile.TemporaryDirectory() as folder:
                mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=folder)
        else:
            overwrite(client.get_model_version_download_uri(name, version))
    except MlflowException as error:
        sys.exit(_sentence(str(error)))
    print(json.dumps({"act": act, "worked": True}))


def overwrite(location: str) -> None:
    """PUT another file in the registered one's place, as any HTTP client can try."""
    server, token = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_TRACKING_TOKEN"]
    path = location.partition(":/")[2].lstrip("/")
    answer = httpx.put(
        f"{server}/api/2.0/mlflow-artifacts/artifacts/{path}/model.onnx",
        content=Path(__file__).read_bytes(),
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    if answer.is_error:
        sys.exit(_sentence(answer.text))


def _sentence(text: str) -> str:
    """The one sentence in an MLflow error or a JSON body."""
    try:
        body = json.loads(text)
        return str(body.get("detail") or body.get("message") or text)
    except ValueError:
        return text.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
