-- The life of a submission: who takes which arrow, deadlines, turns of the workers, what people
-- do to a submission or a certificate, findings on faults, notices, quotas.

-- 1. Each arrow has its takers. A certificate is revoked from suspension only: the first voice
--    for a revocation suspends, so that nothing stays in use while a second one is asked.
ALTER TABLE touchstone.arrow ADD COLUMN takers text[] NOT NULL DEFAULT '{}';
DELETE FROM touchstone.arrow WHERE source <> 'suspended' AND target = 'revoked';
UPDATE touchstone.arrow SET takers = CASE
    WHEN target IN ('withdrawn', 'not_certified') THEN ARRAY['touchstone_app']
    WHEN target = 'technical_failure' THEN ARRAY['touchstone_worker', 'touchstone_app']
    WHEN target IN ('intake', 'queued', 'running', 'assessed', 'in_review')
        THEN ARRAY['touchstone_worker']
    ELSE ARRAY['touchstone_gate'] END;

-- 2. What a person does to a submission or a certificate, and why. Append-only.
CREATE TABLE touchstone.act (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    submission    uuid NOT NULL REFERENCES touchstone.submission,
    kind          text NOT NULL CHECK (kind IN ('withdraw', 'cancel', 'suspend', 'resume', 'revoke')),
    person        touchstone.line NOT NULL,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    reason        touchstone.line NOT NULL CHECK (length(reason) >= 3),
    key_id        touchstone.digest REFERENCES touchstone.signer,
    envelope      jsonb,
    at            timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'resume') = (key_id IS NOT NULL) AND (key_id IS NULL) = (envelope IS NULL))
);
CREATE INDEX ON touchstone.act (submission, kind, at);

-- 3. A worker's turn at a submission. `ended_at` is written once; a turn without it whose worker
--    no longer holds the claim is closed as died by whoever comes next.
CREATE TABLE touchstone.turn (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    submission    uuid NOT NULL REFERENCES touchstone.submission,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    worker        touchstone.line NOT NULL,
    began_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz,
    state         text,
    outcome       text CHECK (outcome IN ('done', 'again', 'unforeseen', 'died')),
    CHECK ((ended_at IS NULL) = (outcome IS NULL) AND (ended_at IS NULL) = (state IS NULL))
);
CREATE INDEX ON touchstone.turn (submission, began_at);
CREATE INDEX ON touchstone.turn (organisation, began_at);

-- 4. Whose fault a technical failure was. An attempt comes back with a finding against the
--    facility, and without one never.
CREATE TABLE touchstone.finding (
    submission  uuid PRIMARY KEY REFERENCES touchstone.submission,
    code        text NOT NULL,
    party       text NOT NULL CHECK (party IN ('facility', 'model')),
    reason      touchstone.line NOT NULL,
    evidence    jsonb NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);

-- 5. What those concerned are told. One row a reader's organisation and occasion.
CREATE TABLE touchstone.notice (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    submission    uuid NOT NULL REFERENCES touchstone.submission,
    kind          touchstone.slug NOT NULL,
    message       touchstone.line NOT NULL,
    occasion      timestamptz NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation, submission, kind, occasion)
);

-- 6. Quotas. NULL in a row, and no row, mean the standard.
CREATE TABLE touchstone.quota (
    organisation      touchstone.slug PRIMARY KEY REFERENCES touchstone.organisation,
    storage_bytes     bigint CHECK (storage_bytes >= 0),
    waiting           integer CHECK (waiting >= 0),
    compute_seconds   bigint CHECK (compute_seconds >= 0),
    set_by            touchstone.line NOT NULL,
    set_at            timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE touchstone.storage_use (
    organisation  touchstone.slug PRIMARY KEY REFERENCES touchstone.organisation,
    bytes         bigint NOT NULL CHECK (bytes >= 0)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['act', 'finding', 'notice'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['turn', 'quota', 'storage_use'] LOOP
        EXECUTE format('CREATE TRIGGER never_removed BEFORE DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['act', 'finding', 'notice', 'turn', 'quota', 'storage_use'] LOOP
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;

-- 7. The submission's guard of this migration, after 0002's own (triggers fire by name).
CREATE FUNCTION touchstone.guard_life() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    final constant text[] := ARRAY['certified', 'conditional', 'not_certified', 'withdrawn',
                                   'technical_failure', 'revoked', 'expired'];
    given touchstone.act;
    voices integer;
    last_day timestamptz;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.deadline := coalesce(NEW.deadline, now() + interval '3 days');
        RETURN NEW;
    END IF;
    IF NEW.state = OLD.state THEN
        NEW.changed_at := OLD.changed_at;
        IF (NEW.deadline, NEW.failure_code, NEW.failure_message) IS DISTINCT FROM
           (OLD.deadline, OLD.failure_code, OLD.failure_message) THEN
            RAISE EXCEPTION 'a deadline and a failure are written when the state changes'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NOT EXISTS (SELECT FROM touchstone.arrow a WHERE a.source = OLD.state
                   AND a.target = NEW.state
                   AND session_user = ANY (a.takers || 'touchstone_owner'::text)) THEN
        RAISE EXCEPTION 'the role % does not take a submission from % to %', session_user,
            OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
    END IF;
    -- Every state that is not final has a deadline, and no final one has.
    NEW.deadline := CASE WHEN NEW.state = ANY (final) THEN NULL
                         ELSE coalesce(NEW.deadline, now() + interval '3 days') END;
    SELECT c.not_after INTO last_day FROM touchstone.certificate c WHERE c.submission = NEW.id;
    IF NEW.state = 'expired' AND last_day > now() THEN
        RAISE EXCEPTION 'the certificate is valid until %', last_day
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = 'withdrawn' OR (NEW.state = 'technical_failure'
                                   AND session_user = 'touchstone_app') THEN
        SELECT a.* INTO given FROM touchstone.act a WHERE a.submission = NEW.id AND a.at = now()
            AND a.kind = CASE NEW.state WHEN 'withdrawn' THEN 'withdraw' ELSE 'cancel' END;
        IF given.number IS NULL THEN
            RAISE EXCEPTION 'a submission is stopped by a person, with a reason'
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF given.kind = 'cancel' THEN
            NEW.failure_code := 'cancelled';
            NEW.failure_message := 'stopped by the facility: ' || left(given.reason, 1900);
        END IF;
    END IF;
    -- Stopping is easy: one person. Starting again, or ending for good, takes two.
    SELECT count(DISTINCT (a.organisation, a.person)) INTO voices FROM touchstone.act a
        WHERE a.submission = NEW.id AND a.at >= OLD.changed_at AND a.kind = ANY (
            CASE NEW.state WHEN 'suspended' THEN ARRAY['suspend', 'revoke']
                           WHEN 'revoked' THEN ARRAY['revoke'] ELSE ARRAY['resume'] END);
    IF NEW.state = 'suspended' AND voices < 1 THEN
        RAISE EXCEPTION 'a certificate is suspended by a person, with a reason'
            USING ERRCODE = 'restrict_violation';
    ELSIF NEW.state = 'revoked' AND voices < 2 THEN
        RAISE EXCEPTION 'a certificate is revoked by two assessors; % so far', voices
            USING ERRCODE = 'restrict_violation';
    ELSIF OLD.state = 'suspended' AND NEW.state IN ('certified', 'conditional') THEN
        IF voices < 2 OR last_day <= now()
           OR NEW.state <> (CASE NEW.verdict WHEN 'pass' THEN 'certified' ELSE 'conditional' END) THEN
            RAISE EXCEPTION 'a certificate is resumed by two assessors, as what it was, until its '
                'last day; % so far', voices USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER life BEFORE INSERT OR UPDATE ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_life();

-- 8. An act is by the person who entered, in a role that may, at a moment when it means something.
CREATE FUNCTION touchstone.guard_act() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    signer touchstone.signer;
    role text := touchstone.my_role();
    mine text := touchstone.my_organisation();
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR UPDATE;
    IF (NEW.person, NEW.organisation) IS DISTINCT FROM (touchstone.my_person(), mine) THEN
        RAISE EXCEPTION 'nobody acts in another''s name' USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.at := now();
    IF NOT coalesce(CASE NEW.kind
            WHEN 'withdraw' THEN role = 'innovator' AND mine = s.organisation
            WHEN 'cancel' THEN role = 'steward'
            WHEN 'suspend' THEN role IN ('steward', 'assessor')
            ELSE role = 'assessor' END, false)
       OR (NEW.kind <> 'withdraw' AND (touchstone.my_kind() <> 'facility'
                                       OR mine = s.organisation)) THEN
        RAISE EXCEPTION 'the role % of % may not % this', role, mine, NEW.kind
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT (CASE
        WHEN NEW.kind IN ('withdraw', 'cancel')
            THEN s.state IN ('registered', 'intake', 'queued', 'running', 'assessed')
        WHEN NEW.kind = 'suspend' THEN s.state IN ('certified', 'conditional')
        WHEN NEW.kind = 'resume' THEN s.state = 'suspended'
        ELSE s.state IN ('certified', 'conditional', 'suspended') END) THEN
        RAISE EXCEPTION 'the submission is %: there is nothing to %', s.state, NEW.kind
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM touchstone.act a WHERE a.submission = s.id AND a.kind = NEW.kind
               AND a.at >= s.changed_at AND (a.organisation, a.person) = (NEW.organisation, NEW.person)
              ) THEN
        RAISE EXCEPTION 'you have said this already; another person is needed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.kind = 'resume' THEN
        SELECT * INTO signer FROM touchstone.signer WHERE key_id = NEW.key_id;
        IF (signer.person, signer.organisation) IS DISTINCT FROM (NEW.person, NEW.organisation) THEN
            RAISE EXCEPTION 'the signing key belongs to another person'
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF signer.role IS DISTINCT FROM 'assessor'
           OR EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = NEW.key_id)
           OR touchstone.locked_it(NEW.submission, NEW.person) THEN
            RAISE EXCEPTION 'a certificate is resumed by assessors with enrolled keys who locked '
                'neither its cohort nor its protocol' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.act
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_act();

-- 9. A certificate is in force, and the alias points at it, only while its submission is certified.
CREATE FUNCTION touchstone.guard_certificate_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'in_force') IS DISTINCT FROM (to_jsonb(OLD) - 'in_force')
       OR (NEW.in_force AND NOT OLD.in_force AND NOT EXISTS (
            SELECT FROM touchstone.submission s WHERE s.id = NEW.submission
              AND s.state IN ('certified', 'conditional') AND s.changed_at = now()
              AND NEW.not_after > now())) THEN
        RAISE EXCEPTION 'a certificate is only ever taken out of force, unless it is resumed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER guard ON touchstone.certificate;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.certificate
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_certificate();
CREATE TRIGGER only_force_changes BEFORE UPDATE ON touchstone.certificate
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_certificate_change();

CREATE FUNCTION touchstone.gate_in_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c touchstone.certificate;
    at_work boolean;
    alias_there boolean := false;
BEGIN
    SELECT * INTO c FROM touchstone.certificate WHERE submission =
        CASE TG_TABLE_NAME WHEN 'certificate' THEN (to_jsonb(NEW) ->> 'submission')::uuid
                           ELSE (to_jsonb(NEW) ->> 'id')::uuid END;
    IF c.submission IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT s.state IN ('in_review', 'certified', 'conditional') INTO at_work
        FROM touchstone.submission s WHERE s.id = c.submission;
    IF c.in_force AND NOT at_work THEN
        RAISE EXCEPTION 'a certificate that was stopped is taken out of force in the same moment'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT c.in_force AND to_regclass('mlflow.registered_model_aliases') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM mlflow.registered_model_aliases a
                 WHERE a.workspace = $1 AND a.name = $2 AND a.version = $3
                   AND a.alias = ''clinical-pilot'')'
            INTO alias_there USING c.organisation, c.model_name, c.model_version;
    END IF;
    IF alias_there THEN
        RAISE EXCEPTION 'clinical-pilot goes in the moment in which its certificate is stopped'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER gate_in_step AFTER UPDATE OF state ON touchstone.submission
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touchstone.gate_in_step();
CREATE CONSTRAINT TRIGGER gate_in_step AFTER UPDATE ON touchstone.certificate
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touchstone.gate_in_step();

-- 10. Work on a submission that was stopped is not taken down, and its attempt not spent.
CREATE FUNCTION touchstone.guard_work() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    SELECT s.state INTO found FROM touchstone.submission s WHERE s.id = NEW.submission FOR SHARE;
    IF found NOT IN ('registered', 'intake', 'queued', 'running', 'assessed') THEN
        RAISE EXCEPTION 'the submission is %: nobody works on it any more', found
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.step
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.turn
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();

CREATE FUNCTION touchstone.guard_return() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM touchstone.finding f JOIN touchstone.submission s ON s.id = f.submission
                   WHERE f.submission = NEW.submission AND f.party = 'facility'
                     AND s.state = 'technical_failure') THEN
        RAISE EXCEPTION 'an attempt is given back for a fault found to be the facility''s, only'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER life BEFORE UPDATE ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_return();

CREATE FUNCTION touchstone.guard_turn() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL
       OR (NEW.submission, NEW.organisation, NEW.worker, NEW.began_at) IS DISTINCT FROM
          (OLD.submission, OLD.organisation, OLD.worker, OLD.began_at) THEN
        RAISE EXCEPTION 'a turn ends once' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON touchstone.turn
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_turn();

-- 11. Notices of what changed: to the submitter, and to each hospital that pulled the model.
CREATE FUNCTION touchstone.tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said text := CASE NEW.state
        WHEN 'suspended' THEN 'suspended: stop using it in the clinical pilot until it is resumed'
        WHEN 'revoked' THEN 'revoked: stop using it; the certificate does not come back'
        WHEN 'expired' THEN 'expired: stop using it; a new validation is needed'
        WHEN 'technical_failure' THEN 'stopped: ' || coalesce(NEW.failure_message, 'see its status')
        WHEN 'in_review' THEN 'assessed: two assessors are reviewing it'
        WHEN 'not_certified' THEN 'not certified'
        ELSE CASE OLD.state WHEN 'suspended' THEN 'resumed: it may be used again'
                            ELSE 'certified for clinical pilot' END END;
    reader text;
BEGIN
    FOR reader IN
        SELECT NEW.organisation UNION
        SELECT e.organisation FROM touchstone.event e JOIN touchstone.organisation o
            ON o.id = e.organisation
        WHERE e.subject = NEW.id::text AND e.kind = 'bundle-pulled' AND o.kind = 'hospital'
    LOOP
        INSERT INTO touchstone.notice (organisation, submission, kind, message, occasion)
        VALUES (reader, NEW.id, replace(NEW.state, '_', '-'),
                left(NEW.model_name || ' version ' || NEW.model_version || ' is ' || said, 2000),
                now()) ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER UPDATE OF state ON touchstone.submission FOR EACH ROW
    WHEN (NEW.state IS DISTINCT FROM OLD.state AND NEW.state IN ('in_review', 'certified',
        'conditional', 'not_certified', 'technical_failure', 'suspended', 'revoked', 'expired'))
    EXECUTE FUNCTION touchstone.tell();

-- 12. Quotas, under one lock an organisation.
CREATE FUNCTION touchstone.quota_of(whose text)
RETURNS TABLE (storage_bytes bigint, waiting integer, compute_seconds bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(q.storage_bytes), 53687091200), coalesce(max(q.waiting), 20),
           coalesce(max(q.compute_seconds), 360000)
    FROM touchstone.quota q WHERE q.organisation = whose
$$;
CREATE FUNCTION touchstone.use_of(whose text)
RETURNS TABLE (storage_bytes bigint, waiting bigint, compute_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT u.bytes FROM touchstone.storage_use u WHERE u.organisation = whose), 0),
        (SELECT count(*) FROM touchstone.submission s WHERE s.organisation = whose
            AND s.state IN ('registered', 'intake', 'queued', 'running', 'assessed')),
        (SELECT coalesce(sum(extract(epoch FROM coalesce(t.ended_at, clock_timestamp())
                - greatest(t.began_at, now() - interval '30 days'))), 0)::double precision
            FROM touchstone.turn t WHERE t.organisation = whose
            AND coalesce(t.ended_at, now()) > now() - interval '30 days')
$$;

CREATE FUNCTION touchstone.guard_quota() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed record;
    used record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.organisation, 748));
    SELECT * INTO allowed FROM touchstone.quota_of(NEW.organisation);
    SELECT * INTO used FROM touchstone.use_of(NEW.organisation);
    IF used.waiting >= allowed.waiting THEN
        RAISE EXCEPTION '% has % submissions waiting or running, which is all that its quota allows; wait '
            'for one to end, or withdraw one', NEW.organisation, used.waiting
            USING ERRCODE = 'check_violation', CONSTRAINT = 'quota_left';
    ELSIF used.compute_seconds >= allowed.compute_seconds THEN
        RAISE EXCEPTION '% has used its % hours of computing of these 30 days; see `touchstone quota`',
            NEW.organisation, round(allowed.compute_seconds / 3600.0, 1)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'quota_left';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER quota BEFORE INSERT ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_quota();

-- Take room for an upload before its body is stored; give it back when nothing was stored.
CREATE FUNCTION touchstone.storage_take(bytes bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose text := touchstone.my_organisation();
    allowed bigint;
BEGIN
    IF whose IS NULL OR bytes IS NULL THEN
        RAISE EXCEPTION 'nobody entered this transaction' USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT q.storage_bytes INTO allowed FROM touchstone.quota_of(whose) q;
    INSERT INTO touchstone.storage_use AS u VALUES (whose, 0) ON CONFLICT DO NOTHING;
    UPDATE touchstone.storage_use u SET bytes = greatest(0, u.bytes + storage_take.bytes)
        WHERE u.organisation = whose
          AND (storage_take.bytes <= 0 OR u.bytes + storage_take.bytes <= allowed);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this would be more than the % that % may store; ask the facility for more',
            pg_size_pretty(allowed), whose
            USING ERRCODE = 'check_violation', CONSTRAINT = 'storage_left';
    END IF;
END $$;

-- What a person may know of quotas: their own organisation's, or all in the facility.
CREATE FUNCTION touchstone.quota_shown(whose text)
RETURNS TABLE (storage_allowed bigint, storage_used bigint, waiting_allowed integer,
               waiting_used bigint, compute_allowed bigint, compute_used double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT q.storage_bytes, u.storage_bytes, q.waiting, u.waiting, q.compute_seconds,
           u.compute_seconds
    FROM touchstone.organisation o, touchstone.quota_of(o.id) q, touchstone.use_of(o.id) u
    WHERE o.id = whose AND (whose = touchstone.my_organisation() OR touchstone.sees_all()
                            OR touchstone.my_role() = 'admin')
$$;

-- 13. Grants and rows.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT SELECT, INSERT ON touchstone.act TO touchstone_app, touchstone_gate;
GRANT SELECT, INSERT, UPDATE (ended_at, state, outcome) ON touchstone.turn TO touchstone_worker;
GRANT SELECT, INSERT ON touchstone.finding, touchstone.notice TO touchstone_worker;
GRANT SELECT ON touchstone.turn, touchstone.finding, touchstone.notice, touchstone.quota
    TO touchstone_app;
GRANT INSERT, UPDATE ON touchstone.quota TO touchstone_app;
GRANT UPDATE (deadline) ON touchstone.submission TO touchstone_gate;
GRANT EXECUTE ON FUNCTION touchstone.storage_take, touchstone.quota_shown TO touchstone_app;
GRANT EXECUTE ON FUNCTION touchstone.entered, touchstone.my_organisation, touchstone.my_kind,
    touchstone.my_role, touchstone.my_person, touchstone.sees_all TO touchstone_gate;

CREATE POLICY gate ON touchstone.act FOR SELECT TO touchstone_gate USING (true);
CREATE POLICY gate_add ON touchstone.act FOR INSERT TO touchstone_gate WITH CHECK (
    person = (SELECT touchstone.my_person()) AND kind IN ('suspend', 'resume', 'revoke'));
CREATE POLICY add ON touchstone.act FOR INSERT TO touchstone_app WITH CHECK (
    person = (SELECT touchstone.my_person()) AND kind IN ('withdraw', 'cancel'));
CREATE POLICY cancel ON touchstone.submission FOR UPDATE TO touchstone_app USING (
    (SELECT touchstone.my_role()) = 'steward');
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['act', 'finding'] LOOP
        EXECUTE format('CREATE POLICY read ON touchstone.%I FOR SELECT TO touchstone_app USING (
            (SELECT touchstone.sees_all()) OR EXISTS (SELECT FROM touchstone.submission s
                WHERE s.id = submission AND s.organisation = (SELECT touchstone.my_organisation())))',
            name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['turn', 'finding', 'notice'] LOOP
        EXECUTE format('CREATE POLICY worker ON touchstone.%I TO touchstone_worker
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
CREATE POLICY read ON touchstone.turn FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));
CREATE POLICY read ON touchstone.notice FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()));
CREATE POLICY read ON touchstone.quota FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all())
    OR (SELECT touchstone.my_role()) = 'admin');
CREATE POLICY add ON touchstone.quota FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin' AND set_by = (SELECT touchstone.my_person()));
CREATE POLICY change ON touchstone.quota FOR UPDATE TO touchstone_app USING (
    (SELECT touchstone.my_role()) = 'admin') WITH CHECK (set_by = (SELECT touchstone.my_person()));
