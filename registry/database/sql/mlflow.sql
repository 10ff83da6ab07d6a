-- name: mlflow_is_there
SELECT 1 AS there WHERE to_regclass('mlflow.alembic_version') IS NOT NULL

-- name: mlflow_revision
SELECT version_num FROM mlflow.alembic_version

-- name: workspace_add
INSERT INTO mlflow.workspaces (name) VALUES (%(organisation)s) ON CONFLICT DO NOTHING

-- name: version_by_name
SELECT v.workspace, v.name, v.version, v.source, v.storage_location, v.creation_time,
    ARRAY(SELECT a.alias FROM mlflow.registered_model_aliases a
          WHERE a.workspace = v.workspace AND a.name = v.name AND a.version = v.version
          ORDER BY a.alias) AS aliases
FROM mlflow.model_versions v
WHERE v.workspace = %(organisation)s AND v.name = %(model_name)s AND v.version = %(version)s
  AND v.current_stage = 'None'

-- name: version_latest
SELECT max(version) AS version FROM mlflow.model_versions
WHERE workspace = %(organisation)s AND name = %(model_name)s AND current_stage = 'None'

-- name: pilot_set
INSERT INTO mlflow.registered_model_aliases (workspace, name, alias, version)
VALUES (%(organisation)s, %(model_name)s, 'clinical-pilot', %(version)s)
ON CONFLICT (workspace, name, alias) DO UPDATE SET version = excluded.version

-- name: pilot_remove
DELETE FROM mlflow.registered_model_aliases
WHERE workspace = %(organisation)s AND name = %(model_name)s AND alias = 'clinical-pilot'
  AND version = %(version)s

-- name: pilot_restore
INSERT INTO mlflow.registered_model_aliases (workspace, name, alias, version)
VALUES (%(organisation)s, %(model_name)s, 'clinical-pilot', %(version)s)
ON CONFLICT (workspace, name, alias) DO NOTHING
