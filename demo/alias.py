"""Ask, with the stock MLflow client, which version `clinical-pilot` names.

python -m demo.alias NAME
"""

import json
import sys


def main() -> None:
    """The last line of output is JSON."""
    from mlflow import MlflowClient

    version = MlflowClient().get_model_version_by_alias(sys.argv[1], "clinical-pilot").version
    print(json.dumps({"version": int(version)}))


if __name__ == "__main__":
    main()
