-- The last wall around MLflow's tables: what holds even if MLflow itself is taken over.
-- Run by the owner after MLflow's own migrations, as often as one likes (not a named query).
--
-- Refusals carry SQLSTATE TS403, so that their sentence, and no other, reaches a person.
-- Every trigger is ENABLE ALWAYS: it also fires under session_replication_role = replica.

-- 1. MLflow works on rows of the tables it needs, owns nothing, and can't TRUNCATE.
GRANT USAGE ON SCHEMA mlflow TO touchstone_mlflow, touchstone_gate;
REVOKE ALL ON ALL TABLES IN SCHEMA mlflow FROM PUBLIC, touchstone_mlflow, touchstone_gate;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA mlflow FROM PUBLIC, touchstone_mlflow, touchstone_gate;
GRANT SELECT ON ALL TABLES IN SCHEMA mlflow TO touchstone_mlflow;
GRANT INSERT, UPDATE ON
    mlflow.experiments, mlflow.experiment_tags, mlflow.runs, mlflow.tags, mlflow.params,
    mlflow.metrics, mlflow.latest_metrics, mlflow.datasets, mlflow.inputs, mlflow.input_tags,
    mlflow.logged_models, mlflow.logged_model_tags, mlflow.logged_model_params,
    mlflow.logged_model_metrics, mlflow.registered_models, mlflow.registered_model_tags,
    mlflow.registered_model_aliases, mlflow.model_versions, mlflow.model_version_tags
    TO touchstone_mlflow;
GRANT DELETE ON
    mlflow.tags, mlflow.registered_model_tags, mlflow.registered_model_aliases,
    mlflow.model_version_tags TO touchstone_mlflow;
GRANT INSERT (name, description) ON mlflow.workspaces TO touchstone_mlflow;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA mlflow TO touchstone_mlflow;

GRANT SELECT ON mlflow.model_versions TO touchstone_gate;
GRANT SELECT, INSERT, UPDATE, DELETE ON mlflow.registered_model_aliases TO touchstone_gate;

-- 2. Aliases: `dev-…` for everyone, `clinical-pilot` for the gate's role with a certificate.
CREATE OR REPLACE FUNCTION mlflow.guard_alias() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_gate boolean := current_user = 'touchstone_gate';
    free text COLLATE "C" := '^dev-[a-z0-9-]{1,60}$';
BEGIN
    IF TG_OP <> 'INSERT' AND NOT is_gate AND (OLD.alias COLLATE "C") !~ free THEN
        RAISE EXCEPTION 'the alias % is moved and removed with its certificate alone', OLD.alias
            USING ERRCODE = 'TS403';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND (OLD.workspace, OLD.name, OLD.alias)
                            IS DISTINCT FROM (NEW.workspace, NEW.name, NEW.alias) THEN
        RAISE EXCEPTION 'an alias stays with its model and keeps its name'
            USING ERRCODE = 'TS403';
    END IF;
    IF NOT EXISTS (SELECT FROM mlflow.model_versions v
                   WHERE v.workspace = NEW.workspace AND v.name = NEW.name
                     AND v.version = NEW.version AND v.current_stage = 'None') THEN
        RAISE EXCEPTION 'there is no version % of %', NEW.version, NEW.name
            USING ERRCODE = 'TS403';
    END IF;
    IF is_gate THEN
        -- Locked before it is asked about: a certificate that is being revoked just now is waited
        -- for, and one that opens the gate can't be revoked before the alias is there to remove.
        PERFORM FROM touchstone.certificate c
        WHERE c.organisation = NEW.workspace AND c.model_name = NEW.name
          AND c.model_version = NEW.version FOR SHARE;
        IF NEW.alias = 'clinical-pilot'
           AND touchstone.alias_permitted(NEW.workspace, NEW.name, NEW.version::text) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'version % of % has no certificate in force', NEW.version, NEW.name
            USING ERRCODE = 'TS403';
    END IF;
    IF (NEW.alias COLLATE "C") ~ free THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the alias % is not allowed; only a certificate sets clinical-pilot, all '
        'others begin with dev-', quote_literal(NEW.alias) USING ERRCODE = 'TS403';
END $$;
CREATE OR REPLACE TRIGGER guard_alias
    BEFORE INSERT OR UPDATE OR DELETE ON mlflow.registered_model_aliases
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_alias();
ALTER TABLE mlflow.registered_model_aliases ENABLE ALWAYS TRIGGER guard_alias;

-- 3. Versions: made from a model logged here by the same organisation; what one is never changes.
CREATE OR REPLACE FUNCTION mlflow.guard_new_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.current_stage IS DISTINCT FROM 'None' OR NEW.version < 1
       OR (NEW.source COLLATE "C") !~ '^models:/m-[0-9a-f]{32}$'
       OR NOT EXISTS (
            SELECT FROM mlflow.logged_models l
            JOIN mlflow.experiments e ON e.experiment_id = l.experiment_id
            WHERE l.model_id = substr(NEW.source, 9) AND e.workspace = NEW.workspace
              AND l.artifact_location = NEW.storage_location
              AND l.artifact_location = 'mlflow-artifacts:/workspaces/' || NEW.workspace || '/'
                  || e.experiment_id || '/models/' || l.model_id || '/artifacts') THEN
        RAISE EXCEPTION 'a version is registered from a model that the organisation logged here'
            USING ERRCODE = 'TS403';
    END IF;
    -- Once only, also when a client asks twice at the same moment.
    PERFORM pg_advisory_xact_lock(hashtextextended(
        NEW.workspace || '/' || NEW.name || '/' || NEW.source, 7460003));
    IF EXISTS (SELECT FROM mlflow.model_versions v
               WHERE v.workspace = NEW.workspace AND v.name = NEW.name AND v.source = NEW.source
                 AND v.current_stage = 'None') THEN
        RAISE EXCEPTION 'this logged model is a version of % already', NEW.name
            USING ERRCODE = 'TS403';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard_new_version BEFORE INSERT ON mlflow.model_versions
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_new_version();
ALTER TABLE mlflow.model_versions ENABLE ALWAYS TRIGGER guard_new_version;

CREATE OR REPLACE FUNCTION mlflow.guard_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'version % of % stays on record', OLD.version, OLD.name
            USING ERRCODE = 'TS403';
    END IF;
    IF OLD.current_stage = 'None' AND NEW.current_stage = 'Deleted_Internal'
       AND (OLD.workspace, OLD.name, OLD.version, OLD.storage_location)
           IS NOT DISTINCT FROM (NEW.workspace, NEW.name, NEW.version, NEW.storage_location) THEN
        -- MLflow's way of deleting: the row stays, its source is blanked.
        IF touchstone.version_is_bound(OLD.workspace, OLD.name, OLD.version::text) THEN
            RAISE EXCEPTION 'version % of % was submitted and stays on record',
                OLD.version, OLD.name USING ERRCODE = 'TS403';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.current_stage IS DISTINCT FROM 'None'
       OR (OLD.workspace, OLD.name, OLD.version, OLD.creation_time, OLD.source,
           OLD.storage_location, OLD.run_id, OLD.current_stage)
          IS DISTINCT FROM
          (NEW.workspace, NEW.name, NEW.version, NEW.creation_time, NEW.source,
           NEW.storage_location, NEW.run_id, NEW.current_stage) THEN
        RAISE EXCEPTION 'version % of % is what it was registered as; register a new version',
            OLD.version, OLD.name USING ERRCODE = 'TS403';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard_version BEFORE UPDATE OR DELETE ON mlflow.model_versions
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_version();
ALTER TABLE mlflow.model_versions ENABLE ALWAYS TRIGGER guard_version;

-- A version that was deleted is not submitted: its certificate could never be shown. The row is
-- locked, so that of a deletion and a submission at the same moment one is refused.
CREATE OR REPLACE FUNCTION mlflow.guard_submission() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM mlflow.model_versions v
    WHERE v.workspace = NEW.organisation AND v.name = NEW.model_name
      AND v.version = NEW.model_version AND v.current_stage = 'None' FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no version % of %; register it first',
            NEW.model_version, NEW.model_name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
DO $$
BEGIN
    IF to_regclass('touchstone.submission') IS NOT NULL THEN
        CREATE OR REPLACE TRIGGER guard_submission BEFORE INSERT ON touchstone.submission
            FOR EACH ROW EXECUTE FUNCTION mlflow.guard_submission();
        ALTER TABLE touchstone.submission ENABLE ALWAYS TRIGGER guard_submission;
    END IF;
END $$;

-- 4. A registered model keeps its name and stays: submissions and certificates name it.
CREATE OR REPLACE FUNCTION mlflow.guard_model() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.workspace, OLD.name) IS NOT DISTINCT FROM
                            (NEW.workspace, NEW.name) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the registered model % keeps its name and stays on record', OLD.name
        USING ERRCODE = 'TS403';
END $$;
CREATE OR REPLACE TRIGGER guard_model BEFORE UPDATE OR DELETE ON mlflow.registered_models
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_model();
ALTER TABLE mlflow.registered_models ENABLE ALWAYS TRIGGER guard_model;

-- 5. Where things lie: the place of a logged model, and whose experiment it is, are fixed.
CREATE OR REPLACE FUNCTION mlflow.guard_logged_model() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (OLD.model_id, OLD.experiment_id, OLD.artifact_location) IS DISTINCT FROM
       (NEW.model_id, NEW.experiment_id, NEW.artifact_location) THEN
        RAISE EXCEPTION 'a logged model stays where it is' USING ERRCODE = 'TS403';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard_logged_model BEFORE UPDATE ON mlflow.logged_models
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_logged_model();
ALTER TABLE mlflow.logged_models ENABLE ALWAYS TRIGGER guard_logged_model;

CREATE OR REPLACE FUNCTION mlflow.guard_experiment() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(NEW.artifact_location, '') NOT IN ('',
           'mlflow-artifacts:/workspaces/' || NEW.workspace || '/' || NEW.experiment_id)
       OR (TG_OP = 'UPDATE' AND (OLD.workspace, OLD.experiment_id) IS DISTINCT FROM
                                (NEW.workspace, NEW.experiment_id)) THEN
        RAISE EXCEPTION 'an experiment lies in its organisation''s own place'
            USING ERRCODE = 'TS403';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard_experiment BEFORE INSERT OR UPDATE ON mlflow.experiments
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_experiment();
ALTER TABLE mlflow.experiments ENABLE ALWAYS TRIGGER guard_experiment;

-- 6. Tags that begin with `touchstone` are ours, and none is spelled so that it only looks so.
CREATE OR REPLACE FUNCTION mlflow.guard_tag() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.key COLLATE "C") ~ '[^ -~]'
       OR regexp_replace(lower(NEW.key COLLATE "C"), '[^a-z0-9]', '', 'g') ^@ 'touchstone' THEN
        RAISE EXCEPTION 'tags that begin with touchstone are reserved' USING ERRCODE = 'TS403';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard_tag BEFORE INSERT OR UPDATE ON mlflow.registered_model_tags
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_tag();
CREATE OR REPLACE TRIGGER guard_tag BEFORE INSERT OR UPDATE ON mlflow.model_version_tags
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_tag();
ALTER TABLE mlflow.registered_model_tags ENABLE ALWAYS TRIGGER guard_tag;
ALTER TABLE mlflow.model_version_tags ENABLE ALWAYS TRIGGER guard_tag;

-- 7. What a run says about a logged model: both belong to one organisation. (MLflow writes these
--    rows by ids that a client names, whosever they are.)
CREATE OR REPLACE FUNCTION mlflow.workspace_of_run(run text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.workspace FROM mlflow.runs r JOIN mlflow.experiments e USING (experiment_id)
    WHERE r.run_uuid = run
$$;
CREATE OR REPLACE FUNCTION mlflow.workspace_of_model(model text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.workspace FROM mlflow.logged_models l JOIN mlflow.experiments e USING (experiment_id)
    WHERE l.model_id = model
$$;
CREATE OR REPLACE FUNCTION mlflow.guard_link() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run text;
    model text;
BEGIN
    IF TG_TABLE_NAME = 'logged_model_metrics' THEN
        run := NEW.run_id;
        model := NEW.model_id;
    ELSIF NEW.source_type IN ('RUN_INPUT', 'RUN_OUTPUT') THEN
        run := NEW.source_id;
        model := NEW.destination_id;
    ELSE
        RETURN NEW;
    END IF;
    IF mlflow.workspace_of_run(run) = mlflow.workspace_of_model(model) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the logged model % is not there', model USING ERRCODE = 'TS403';
END $$;
CREATE OR REPLACE TRIGGER guard_link BEFORE INSERT OR UPDATE ON mlflow.logged_model_metrics
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_link();
CREATE OR REPLACE TRIGGER guard_link BEFORE INSERT OR UPDATE ON mlflow.inputs
    FOR EACH ROW EXECUTE FUNCTION mlflow.guard_link();
ALTER TABLE mlflow.logged_model_metrics ENABLE ALWAYS TRIGGER guard_link;
ALTER TABLE mlflow.inputs ENABLE ALWAYS TRIGGER guard_link;

-- 8. The outbox: who registered what, in the same transaction (MLflow's webhooks get lost).
--    SECURITY DEFINER, so that MLflow's role needs no right on our tables and can't forge a row.
CREATE OR REPLACE FUNCTION mlflow.announce_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO touchstone.registration (organisation, model_name, version, source)
    VALUES (NEW.workspace, NEW.name, NEW.version, NEW.source);
    RETURN NULL;
END $$;
DO $$
BEGIN
    IF to_regclass('touchstone.registration') IS NOT NULL THEN
        CREATE OR REPLACE TRIGGER announce_version AFTER INSERT ON mlflow.model_versions
            FOR EACH ROW EXECUTE FUNCTION mlflow.announce_version();
        ALTER TABLE mlflow.model_versions ENABLE ALWAYS TRIGGER announce_version;
    END IF;
END $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA mlflow FROM PUBLIC;
-- Triggers run as whoever writes, and ask these.
GRANT EXECUTE ON FUNCTION mlflow.workspace_of_run, mlflow.workspace_of_model
    TO touchstone_mlflow;
