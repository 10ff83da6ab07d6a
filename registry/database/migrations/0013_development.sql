-- The development cohort: a second cohort of a protocol, on which innovators iterate and which decides
-- nothing. A run on it is a submission with `development`; it spends a trial, no attempt.

-- 1. It can't gate, whoever writes.
ALTER TABLE touchstone.submission
    ADD COLUMN development boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT development_decides_nothing CHECK (NOT development OR (
        NOT certifiable AND statement_digest IS NULL AND state IN ('registered', 'intake', 'queued',
            'running', 'assessed', 'tried', 'withdrawn', 'technical_failure'))),
    ADD CONSTRAINT tried_in_development CHECK (development OR state <> 'tried');

INSERT INTO touchstone.arrow VALUES ('assessed', 'tried', ARRAY['touchstone_worker']);

-- {id, version, trials} of a protocol's development cohort; NULL without one.
CREATE FUNCTION touchstone.development_of(body text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN nullif(body::jsonb -> 'development_cohort', 'null');
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END $$;

-- The name of the cohort that gates.
CREATE FUNCTION touchstone.gating_of(body text) RETURNS text LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN body::jsonb -> 'cohort' ->> 'id';
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END $$;

-- 2. A cohort that gates anywhere is for development nowhere: a hundred trials on it under one
--    protocol would be a hundred looks at the test of another.
CREATE FUNCTION touchstone.guard_two_cohorts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gating text := touchstone.gating_of(NEW.body);
    development text := touchstone.development_of(NEW.body) ->> 'id';
    found text;
BEGIN
    PERFORM pg_advisory_xact_lock(7460013);
    SELECT p.id INTO found FROM touchstone.protocol p
        WHERE touchstone.gating_of(p.body) = development
           OR touchstone.development_of(p.body) ->> 'id' = gating LIMIT 1;
    IF gating = development OR found IS NOT NULL THEN
        RAISE EXCEPTION 'a cohort gates or is for development, not both: see the protocol %',
            coalesce(found, NEW.id) USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER two_cohorts BEFORE INSERT ON touchstone.protocol
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_two_cohorts();

-- 3. The submission's guard of this migration, after all others (triggers fire by name).
CREATE FUNCTION touchstone.guard_development() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT touchstone.development_of(p.body) INTO named FROM touchstone.protocol p
            WHERE p.digest = NEW.protocol_digest;
        IF NEW.development THEN
            IF named IS NULL OR named ->> 'id' <> NEW.cohort_id
               OR coalesce(named ->> 'version', NEW.cohort_version) <> NEW.cohort_version THEN
                RAISE EXCEPTION 'the cohort % % is not the development cohort of this protocol',
                    NEW.cohort_id, NEW.cohort_version USING ERRCODE = 'restrict_violation';
            END IF;
            NEW.certifiable := false;
        ELSIF EXISTS (SELECT FROM touchstone.protocol p
                      WHERE touchstone.development_of(p.body) ->> 'id' = NEW.cohort_id) THEN
            RAISE EXCEPTION 'the cohort % is for development: nothing is decided on it',
                NEW.cohort_id USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.development <> OLD.development THEN
        RAISE EXCEPTION 'what a submission binds is never changed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = OLD.state THEN
        RETURN NEW;
    END IF;
    IF NEW.development AND NEW.state NOT IN
            ('intake', 'queued', 'running', 'assessed', 'tried', 'withdrawn', 'technical_failure') THEN
        RAISE EXCEPTION 'a run on the development cohort decides nothing: it is not reviewed'
            USING ERRCODE = 'restrict_violation';
    ELSIF NEW.state = 'tried' THEN
        IF NOT NEW.development OR NOT EXISTS (SELECT FROM touchstone.step s
                WHERE s.submission = NEW.id AND s.name = 'ladder') THEN
            RAISE EXCEPTION 'a run is tried on the development cohort, when its ladder is climbed'
                USING ERRCODE = 'restrict_violation';
        END IF;
        NEW.deadline := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER trial BEFORE INSERT OR UPDATE ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_development();

-- 4. A trial is spent when the first shard is decrypted; no more than the protocol allows a family.
CREATE TABLE touchstone.trial (
    submission      uuid PRIMARY KEY REFERENCES touchstone.submission,
    family          text NOT NULL,
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    spent_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON touchstone.trial (family, cohort_id, cohort_version);

CREATE FUNCTION touchstone.guard_trial() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    spent integer;
BEGIN
    SELECT u.development, u.organisation || '/' || p.id AS family, u.cohort_id, u.cohort_version,
           u.organisation, (touchstone.development_of(p.body) ->> 'trials')::integer AS allowed
        INTO s FROM touchstone.submission u
        JOIN touchstone.protocol p ON p.digest = u.protocol_digest WHERE u.id = NEW.submission;
    IF s.development IS DISTINCT FROM true THEN
        RAISE EXCEPTION 'a run on the locked cohort spends an attempt, no trial'
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.family := s.family;
    NEW.cohort_id := s.cohort_id;
    NEW.cohort_version := s.cohort_version;
    NEW.spent_at := now();
    PERFORM pg_advisory_xact_lock(hashtextextended(
        NEW.family || E'\x1f' || NEW.cohort_id || E'\x1f' || NEW.cohort_version, 7413));
    SELECT count(*) INTO spent FROM touchstone.trial t WHERE t.family = NEW.family
        AND t.cohort_id = NEW.cohort_id AND t.cohort_version = NEW.cohort_version;
    IF spent >= coalesce(s.allowed, 0) THEN
        RAISE EXCEPTION 'all % trials on this development cohort are spent', coalesce(s.allowed, 0)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'trials_left';
    END IF;
    PERFORM touchstone.append_event('touchstone', s.organisation, 'trial-spent',
        NEW.submission::text, json_build_object('family', NEW.family, 'cohort', NEW.cohort_id,
        'version', NEW.cohort_version)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.trial
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_trial();
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.trial
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();

CREATE FUNCTION touchstone.guard_no_trial() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM touchstone.submission s WHERE s.id = NEW.submission AND s.development) THEN
        RAISE EXCEPTION 'a run on the development cohort spends no attempt'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER trial BEFORE INSERT ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_no_trial();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.trial
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.trial
    EXECUTE FUNCTION touchstone.refuse_change();

-- 5. Rows. What a ladder told is the submitter's to read; every other step is the facility's.
ALTER TABLE touchstone.trial ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.trial FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON touchstone.trial TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY worker ON touchstone.trial TO touchstone_worker USING (true) WITH CHECK (true);
CREATE POLICY read ON touchstone.trial FOR SELECT TO touchstone_app USING (
    split_part(family, '/', 1) = (SELECT touchstone.my_organisation())
    OR (SELECT touchstone.sees_all()));
CREATE POLICY read_ladder ON touchstone.step FOR SELECT TO touchstone_app USING (
    name = 'ladder' AND EXISTS (SELECT FROM touchstone.submission s
        WHERE s.id = submission AND s.state = 'tried'
          AND s.organisation = (SELECT touchstone.my_organisation())
          AND (SELECT touchstone.my_role()) = 'innovator'));
GRANT SELECT ON touchstone.trial TO touchstone_app, touchstone_worker;
GRANT INSERT ON touchstone.trial TO touchstone_worker;

REVOKE EXECUTE ON FUNCTION touchstone.development_of, touchstone.gating_of,
    touchstone.guard_two_cohorts, touchstone.guard_development, touchstone.guard_trial,
    touchstone.guard_no_trial FROM PUBLIC;
