"""MLflow inside our application: the SME's own client works, and nothing else does.

    >>> prepare_schema(owner_url)                              # registry.mlflow_gate.schema
    >>> app = create_app(mlflow_url=…, artifacts=…, authenticate=…)   # registry.mlflow_gate.app

Rules
-----
1. Deny by default, four times over: the front (`front`, `routes`), MLflow's own web layer
   (`server`), its stores (`registry_store`, `tracking_store`), its files (`write_once`).
2. Behind them stands the database (`registry/database/sql/mlflow_gate.sql`): MLflow's role can't
   set `clinical-pilot`, even where all four layers were walked around.
3. A person's organisation comes from the token alone; whatever the request says is overwritten.
4. What is registered is sealed: no file of it changes afterwards.

Importing this package does not import MLflow, which takes seconds: only `app`, `server`,
`schema`, `write_once` and the stores do.
"""

import os

# Before any `import mlflow` in this process: MLflow sends telemetry unless it is told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
