"""What a hospital's MLflow client is told of a certified model, and the two files made for it.

    >>> pilot = Pilot(organisation="sme-a", model="nodule-net", version=3, submission="7f1d…")
    >>> pilot.as_version
    '3-unverified'
    >>> pilot.files(["model.onnx"]).keys()
    dict_keys(['MLmodel', 'UNVERIFIED.txt'])

Rules
-----
1. Answers are composed of the certificate and never taken from MLflow's tables: no tag,
   description, run or person of the innovator is in them.
2. The mark is wherever the client keeps or shows something of ours: in the version, in
   description and tags, in `MLmodel`, in a file that is read by people, and in the warning that
   `mlflow.pyfunc.load_model` prints. What it can't reach: `mlflow.onnx.load_model` prints nothing.
3. `MLmodel` is ours, never the innovator's. MLflow runs what that file names (modules, folders of
   code, pickles), and no certificate covers it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from registry.mlflow_gate.naming import CLINICAL_PILOT
from registry.trust.model_files import MODEL_FILE

NOTICE = "UNVERIFIED.txt"
MLMODEL = "MLmodel"
TAG = "touchstone.verified"
MARK = "no: run touchstone pull and touchstone verify"
FOLDER = CLINICAL_PILOT
"""Where the files seem to lie; no workspace's folder begins so."""
# MLflow prints `python_version` where it is not the one that runs: the one text of ours that a
# stock client shows to whoever loads. The file has no Python, so nothing true is lost by it.
_PRINTED = f"none. UNVERIFIED copy, not for use on patients: read {NOTICE} in its folder"


@dataclass(frozen=True)
class Pilot:
    """A certified version as a hospital may see it; `demo`: the facility's root is a demo's."""

    organisation: str
    model: str
    version: int
    submission: str
    demo: bool = False

    @property
    def as_version(self) -> str:
        """The version as the client keeps it. No number: asking by one leads nowhere."""
        return f"{self.version}-unverified"

    @property
    def place(self) -> str:
        """The folder that the client asks for."""
        return f"{FOLDER}/{self.organisation}/{self.model}/{self.submission}"

    @property
    def description(self) -> str:
        """The mark in a sentence."""
        demo = "; certified by a demo, for nobody's patients" if self.demo else ""
        return (
            f"UNVERIFIED copy of {self.organisation}/{self.model} version {self.version}{demo}. "
            f"{TAG} = {MARK}"
        )

    def model_version(self) -> dict[str, Any]:
        """The answer to who asks for the alias."""
        return {
            "model_version": {
                "name": self.model,
                "version": self.as_version,
                "status": "READY",
                "aliases": [CLINICAL_PILOT],
                **self._marked(),
            }
        }

    def registered_model(self) -> dict[str, Any]:
        """The answer to who asks for the model."""
        aliases = [{"alias": CLINICAL_PILOT, "version": self.as_version}]
        return {"registered_model": {"name": self.model, "aliases": aliases, **self._marked()}}

    def download_uri(self) -> dict[str, Any]:
        """The answer to who asks where the files are."""
        return {"artifact_uri": f"mlflow-artifacts:/{self.place}"}

    def files(self, certified: Iterable[str]) -> dict[str, bytes]:
        """The files made here, which lie beside the `certified` ones."""
        names = "".join(f"    {name}\n" for name in sorted(certified))
        return {MLMODEL: self._mlmodel(), NOTICE: self._notice(names)}

    def _marked(self) -> dict[str, Any]:
        return {"description": self.description, "tags": [{"key": TAG, "value": MARK}]}

    def _mlmodel(self) -> bytes:
        """What the loaders of MLflow need, as JSON, which is YAML too."""
        described = {
            "artifact_path": self.description,
            "flavors": {
                "onnx": {"data": MODEL_FILE, "providers": ["CPUExecutionProvider"]},
                "python_function": {
                    "data": MODEL_FILE,
                    "loader_module": "mlflow.onnx",
                    "python_version": _PRINTED,
                },
            },
            "metadata": {TAG: MARK},
        }
        return (json.dumps(described, indent=1, sort_keys=True) + "\n").encode()

    def _notice(self, certified: str) -> bytes:
        whole = f"{self.organisation}/{self.model}"
        demo = (
            "The registry that sent them is a demo: what it certifies is for nobody's patients.\n\n"
            if self.demo
            else ""
        )
        return f"""UNVERIFIED - NOT FOR USE ON PATIENTS

These files came by MLflow: {whole} version {self.version}.
Nothing about them was checked on your side: not who signed the certificate, not
whether it is in force, not whether this is the model that was validated, and not
whether it computes the same on your machine.

{demo}Get the same model and check it:

    touchstone pull {whole} --to DIR
    touchstone verify DIR --root FILE --state STATE

After that the model is DIR/model/{MODEL_FILE}, to be opened with ONNX Runtime, and
`touchstone serve DIR --root FILE --state STATE` runs it as it was certified.
MLflow can't load DIR/model: no certificate covers the file {MLMODEL} that it needs.

The files that the certificate names:
{certified}Made by the registry for MLflow, and named by no certificate:
    {MLMODEL}
    {NOTICE}
""".encode()
