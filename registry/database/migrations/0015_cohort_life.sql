-- The life of a cohort: sealed by one steward, locked by two, then retired or burned; and which of
-- its keys was released to which run. Decision record 0025.
--
-- The database holds whose keys are in an envelope and what it says; it knows no ECDSA. The server
-- checks every signature before it calls, and every run again before it opens the cohort.

-- 1. A row of `cohort` is the seal, and never changes; its state follows from the rows below. A row
--    that did not come by the application's role was locked by one steward before this migration, or
--    written by whoever owns the database: it counts as locked, and no run opens it without a record
--    that two stewards signed.
ALTER TABLE touchstone.cohort
    ADD COLUMN locked_alone boolean NOT NULL DEFAULT true,
    ADD COLUMN until date;

CREATE TABLE touchstone.cohort_signature (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    payload         touchstone.digest NOT NULL,
    key_id          touchstone.digest NOT NULL REFERENCES touchstone.signer,
    person          touchstone.line NOT NULL,
    organisation    touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    envelope        jsonb NOT NULL,
    signed_at       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version),
    UNIQUE (cohort_id, cohort_version, payload, key_id)
);
CREATE TABLE touchstone.cohort_lock (
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    payload         touchstone.digest NOT NULL,
    envelope        jsonb NOT NULL,
    record          text NOT NULL,
    locked_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cohort_id, cohort_version),
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version)
);
CREATE TABLE touchstone.cohort_act (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('retire', 'burn', 'keep', 'destroy-keys')),
    person          touchstone.line NOT NULL,
    organisation    touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    reason          touchstone.line NOT NULL CHECK (length(reason) >= 3),
    until           date,
    at              timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version),
    CHECK ((kind = 'keep') = (until IS NOT NULL))
);
CREATE UNIQUE INDEX once ON touchstone.cohort_act (cohort_id, cohort_version, kind)
    WHERE kind <> 'keep';
-- One key for one step of one submission, until the state's deadline.
CREATE TABLE touchstone.key_release (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    submission   uuid NOT NULL REFERENCES touchstone.submission,
    purpose      text NOT NULL CHECK (purpose IN ('inputs', 'reference')),
    released_at  timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX ON touchstone.key_release (submission);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['cohort_signature', 'cohort_lock', 'cohort_act', 'key_release'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY read ON touchstone.%I FOR SELECT TO touchstone_app USING (
                        (SELECT touchstone.sees_all()))', name);
        EXECUTE format('GRANT SELECT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['cohort_signature', 'cohort_lock', 'cohort_act'] LOOP
        EXECUTE format('CREATE POLICY add ON touchstone.%I FOR INSERT TO touchstone_app WITH CHECK (
                        (SELECT touchstone.sees_all()))', name);
        EXECUTE format('GRANT INSERT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['cohort_lock', 'key_release'] LOOP
        EXECUTE format('CREATE POLICY worker ON touchstone.%I TO touchstone_worker
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT ON touchstone.%I TO touchstone_worker', name);
    END LOOP;
    GRANT INSERT ON touchstone.key_release TO touchstone_worker;
END $$;

CREATE FUNCTION touchstone.cohort_state(cohort text, version text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM touchstone.cohort_act a WHERE a.cohort_id = c.id
                     AND a.cohort_version = c.version AND a.kind = 'burn') THEN 'burned'
        WHEN EXISTS (SELECT FROM touchstone.cohort_act a WHERE a.cohort_id = c.id
                     AND a.cohort_version = c.version AND a.kind = 'retire') THEN 'retired'
        WHEN c.locked_alone OR EXISTS (SELECT FROM touchstone.cohort_lock l
                     WHERE l.cohort_id = c.id AND l.cohort_version = c.version) THEN 'locked'
        ELSE 'sealed' END
    FROM touchstone.cohort c WHERE c.id = $1 AND c.version = $2
$$;

CREATE FUNCTION touchstone.by_the_application() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.locked_alone := session_user <> 'touchstone_app';
    RETURN NEW;
END $$;
CREATE TRIGGER sealed_only BEFORE INSERT ON touchstone.cohort
    FOR EACH ROW EXECUTE FUNCTION touchstone.by_the_application();

-- 2. A signature is the caller's own, by a steward's key that stands, over what the seal's row says.
CREATE FUNCTION touchstone.guard_cohort_signature() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c touchstone.cohort;
    signer touchstone.signer;
    said jsonb;
BEGIN
    SELECT * INTO c FROM touchstone.cohort WHERE id = NEW.cohort_id AND version = NEW.cohort_version
        FOR NO KEY UPDATE;
    IF (NEW.person, NEW.organisation, 'steward') IS DISTINCT FROM (touchstone.my_person(),
            touchstone.my_organisation(), touchstone.my_role()) THEN
        RAISE EXCEPTION 'a steward signs a lock, in nobody else''s name'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM touchstone.cohort_lock l WHERE l.cohort_id = c.id
               AND l.cohort_version = c.version)
       OR touchstone.cohort_state(c.id, c.version) IN ('retired', 'burned') THEN
        RAISE EXCEPTION 'the cohort % % is %: there is no lock to sign', c.id, c.version,
            touchstone.cohort_state(c.id, c.version) USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT * INTO signer FROM touchstone.signer WHERE key_id = NEW.key_id FOR KEY SHARE;
    IF (signer.person, signer.organisation, signer.role) IS DISTINCT FROM
            (NEW.person, NEW.organisation, 'steward')
       OR EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'this key is not enrolled for % as a steward, or was revoked', NEW.person
            USING ERRCODE = 'restrict_violation';
    END IF;
    BEGIN
        said := touchstone.stated(NEW.envelope);
    EXCEPTION WHEN data_exception THEN
        said := NULL;
    END;
    IF (said - 'date') IS DISTINCT FROM jsonb_build_object('cohort', c.id, 'version', c.version,
            'root', c.root, 'manifest', c.manifest_digest, 'contract', c.contract_digest,
            'patients', c.patients, 'positives', c.positives, 'negatives', c.negatives,
            'until', c.until)
       OR jsonb_array_length(NEW.envelope -> 'signatures') <> 1
       OR NEW.envelope -> 'signatures' -> 0 ->> 'keyid' IS DISTINCT FROM NEW.key_id::text
       OR NEW.payload IS DISTINCT FROM touchstone.payload_digest(NEW.envelope) THEN
        RAISE EXCEPTION 'what was signed is not the cohort % % as it was sealed', NEW.cohort_id,
            NEW.cohort_version USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.signed_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.cohort_signature
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_cohort_signature();

-- 3. A lock is two different stewards' signatures on the very same statement. It and both signatures
--    are in the log, in the same commit.
CREATE FUNCTION touchstone.guard_cohort_lock() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[] := ARRAY(SELECT s ->> 'keyid' FROM jsonb_array_elements(NEW.envelope -> 'signatures') s);
    known integer;
    people integer;
BEGIN
    PERFORM FROM touchstone.cohort c WHERE c.id = NEW.cohort_id AND c.version = NEW.cohort_version
        FOR NO KEY UPDATE;
    PERFORM FROM touchstone.signer g WHERE g.key_id::text = ANY (keys) ORDER BY g.key_id FOR KEY SHARE;
    SELECT count(*), count(DISTINCT (g.organisation, touchstone.name_key(g.person)))
        INTO known, people
        FROM touchstone.cohort_signature s JOIN touchstone.signer g ON g.key_id = s.key_id
        WHERE s.cohort_id = NEW.cohort_id AND s.cohort_version = NEW.cohort_version
          AND s.payload = NEW.payload AND g.role = 'steward' AND g.key_id::text = ANY (keys)
          AND NEW.envelope -> 'signatures' @> (s.envelope -> 'signatures')
          AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = g.key_id);
    IF people < 2 OR known <> cardinality(keys)
       OR NEW.payload IS DISTINCT FROM touchstone.payload_digest(NEW.envelope)
       OR (NEW.record::jsonb -> 'lock') IS DISTINCT FROM NEW.envelope THEN
        RAISE EXCEPTION 'a cohort is locked by two different stewards; % so far', people
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.locked_at := now();
    PERFORM touchstone.append_event('touchstone', touchstone.my_organisation(), 'cohort-locked',
        NEW.cohort_id || '/' || NEW.cohort_version,
        json_build_object('lock', NEW.envelope, 'record',
            'sha256:' || encode(sha256(convert_to(NEW.record, 'UTF8')), 'hex'))::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.cohort_lock
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_cohort_lock();

-- Whoever signed a lock decides on nothing that was run on it, though it took two.
CREATE OR REPLACE FUNCTION touchstone.locked_it(submission uuid, person text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.submission s
        JOIN touchstone.cohort c ON c.id = s.cohort_id AND c.version = s.cohort_version
        JOIN touchstone.protocol p ON p.digest = s.protocol_digest
        LEFT JOIN touchstone.cohort_signature g
            ON g.cohort_id = c.id AND g.cohort_version = c.version
        WHERE s.id = $1 AND touchstone.name_key($2) IN (touchstone.name_key(c.locked_by),
              touchstone.name_key(p.locked_by), touchstone.name_key(g.person)))
$$;

-- 4. Retiring and burning take one person: taking away is easier than giving.
CREATE FUNCTION touchstone.guard_cohort_act() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c touchstone.cohort;
    state text;
    kept date;
    role text := touchstone.my_role();
BEGIN
    SELECT * INTO c FROM touchstone.cohort WHERE id = NEW.cohort_id AND version = NEW.cohort_version
        FOR NO KEY UPDATE;
    state := touchstone.cohort_state(c.id, c.version);
    IF (NEW.person, NEW.organisation) IS DISTINCT FROM
            (touchstone.my_person(), touchstone.my_organisation())
       OR touchstone.my_kind() IS DISTINCT FROM 'facility'
       OR NOT (role = 'steward' OR (role = 'assessor' AND NEW.kind = 'burn')) THEN
        RAISE EXCEPTION 'the role % may not % a cohort', role, NEW.kind
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT coalesce(CASE NEW.kind WHEN 'retire' THEN state = 'locked'
                                  WHEN 'burn' THEN state IN ('locked', 'retired')
                                  WHEN 'keep' THEN true
                                  ELSE state IN ('retired', 'burned') END, false) THEN
        RAISE EXCEPTION 'the cohort % % is %: there is nothing to %', NEW.cohort_id,
            NEW.cohort_version, state, NEW.kind USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT max(days.until) INTO kept FROM (SELECT c.until UNION ALL SELECT a.until
        FROM touchstone.cohort_act a WHERE a.cohort_id = c.id AND a.cohort_version = c.version) days;
    IF NEW.kind = 'keep' AND NEW.until <= kept THEN
        RAISE EXCEPTION 'the cohort is kept until %: a later day can be set, no earlier one', kept
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.kind = 'destroy-keys' AND EXISTS (
            SELECT FROM touchstone.submission s
            LEFT JOIN touchstone.certificate t ON t.submission = s.id
            WHERE s.cohort_id = c.id AND s.cohort_version = c.version AND (
                (t.in_force AND t.not_after > now()) OR s.state IN ('registered', 'intake', 'queued',
                'running', 'assessed', 'in_review', 'suspended'))) THEN
        RAISE EXCEPTION 'a certificate in force, or a submission under way, rests on the cohort % %',
            c.id, c.version USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.at := now();
    PERFORM touchstone.append_event('touchstone', NEW.organisation, CASE NEW.kind
            WHEN 'retire' THEN 'cohort-retired' WHEN 'burn' THEN 'cohort-burned'
            WHEN 'keep' THEN 'cohort-kept' ELSE 'cohort-keys-destroyed' END,
        NEW.cohort_id || '/' || NEW.cohort_version,
        json_build_object('reason', NEW.reason, 'until', NEW.until)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.cohort_act
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_cohort_act();

-- 5. What a cohort's state lets be done. Before every other trigger of these tables (by name): the
--    cohort's row is held before the log's lock.
CREATE FUNCTION touchstone.guard_open_cohort() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := to_jsonb(NEW) ->> 'cohort_id';
    number text := to_jsonb(NEW) ->> 'cohort_version';
    found text;
BEGIN
    IF name IS NULL THEN
        SELECT s.cohort_id, s.cohort_version INTO name, number FROM touchstone.submission s
            WHERE s.id = (to_jsonb(NEW) ->> 'submission')::uuid;
    END IF;
    PERFORM FROM touchstone.cohort c WHERE c.id = name AND c.version = number FOR SHARE;
    found := touchstone.cohort_state(name, number);
    IF TG_TABLE_NAME = 'submission' AND found <> 'locked' THEN
        RAISE EXCEPTION 'the cohort % % is %: it takes no submission', name, number, found
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'cohort_open';
    ELSIF found NOT IN ('locked', 'retired') THEN
        RAISE EXCEPTION 'the cohort % % is %: nothing of it is opened any more', name, number, found
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'cohort_open';
    END IF;
    RETURN NEW;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['submission', 'attempt', 'trial', 'key_release'] LOOP
        EXECUTE format('CREATE TRIGGER at_open_cohort BEFORE INSERT ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.guard_open_cohort()', name);
    END LOOP;
END $$;

CREATE FUNCTION touchstone.guard_protocol_cohorts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named jsonb;
BEGIN
    BEGIN
        named := jsonb_build_array(NEW.body::jsonb -> 'cohort', NEW.body::jsonb -> 'development_cohort');
    EXCEPTION WHEN data_exception THEN
        RETURN NEW;
    END;
    FOR named IN SELECT n FROM jsonb_array_elements(named) n WHERE jsonb_typeof(n) = 'object' LOOP
        PERFORM FROM touchstone.cohort c WHERE c.id = named ->> 'id'
            AND c.version = coalesce(named ->> 'version', c.version) ORDER BY c.version FOR SHARE;
        IF FOUND AND NOT EXISTS (SELECT FROM touchstone.cohort c WHERE c.id = named ->> 'id'
                AND c.version = coalesce(named ->> 'version', c.version)
                AND touchstone.cohort_state(c.id, c.version) = 'locked') THEN
            RAISE EXCEPTION 'no version of the cohort % that this protocol may name is locked',
                named ->> 'id' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'cohort_open';
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER at_open_cohort BEFORE INSERT ON touchstone.protocol
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_protocol_cohorts();

-- 6. The inputs' key is released until the reference standard's was (perturbed runs come after the run
--    itself), the reference standard's when there are predictions: no step needs both, and none goes
--    back. A release ends with the state's deadline.
CREATE FUNCTION touchstone.guard_key_release() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    fits boolean;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR SHARE;
    fits := CASE NEW.purpose
        WHEN 'reference' THEN EXISTS (SELECT FROM touchstone.step t
            WHERE t.submission = s.id AND t.name = 'run')
        ELSE NOT EXISTS (SELECT FROM touchstone.key_release k
            WHERE k.submission = s.id AND k.purpose = 'reference') END;
    IF s.state IS DISTINCT FROM 'running' OR s.deadline <= clock_timestamp()
       OR NOT coalesce(fits, false) THEN
        RAISE EXCEPTION 'the key of the % is not released to a submission that is %, % its deadline',
            NEW.purpose, s.state, CASE WHEN s.deadline <= clock_timestamp() THEN 'past' ELSE 'before' END
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.released_at := now();
    NEW.expires_at := s.deadline;
    PERFORM touchstone.append_event('touchstone', s.organisation, 'key-released', s.id::text,
        json_build_object('key', NEW.purpose, 'cohort', s.cohort_id, 'version', s.cohort_version,
        'until', s.deadline)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.key_release
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_key_release();

REVOKE EXECUTE ON FUNCTION touchstone.cohort_state, touchstone.by_the_application,
    touchstone.guard_cohort_signature, touchstone.guard_cohort_lock, touchstone.guard_cohort_act,
    touchstone.guard_open_cohort, touchstone.guard_protocol_cohorts, touchstone.guard_key_release
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.cohort_state TO touchstone_app, touchstone_worker;
GRANT SELECT ON touchstone.cohort_act TO touchstone_worker;
CREATE POLICY worker ON touchstone.cohort_act FOR SELECT TO touchstone_worker USING (true);
