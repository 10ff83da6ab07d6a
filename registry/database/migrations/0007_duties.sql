-- Separation of duties: whose keys may decide, and that no one hand does two people's work.
--
-- What the database checks: that two others who are enrolled countersigned, by the key ids in the
-- envelope, and that the certificate is the one that the statement names. It can't check ECDSA. The
-- server does before it calls, and every hospital does again from the statements in the bundle, so
-- that rows written past all of this certify nothing (registry/trust/enrolment.py).

-- 1. Statements of enrolment, and the keys that they enrol.
CREATE TABLE touchstone.enrolment (
    digest     touchstone.digest PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('founding', 'enrolment')),
    envelope   jsonb NOT NULL,
    loaded_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_founding ON touchstone.enrolment (kind) WHERE kind = 'founding';
CREATE TABLE touchstone.revoked_key (
    key_id      touchstone.digest PRIMARY KEY REFERENCES touchstone.signer,
    reason      touchstone.line NOT NULL CHECK (reason <> ''),
    revoked_by  touchstone.line NOT NULL,
    revoked_at  timestamptz NOT NULL DEFAULT now()
);
-- A signer of an older version has neither, decides nothing, and is enrolled anew with a new key.
ALTER TABLE touchstone.signer
    ADD COLUMN role text CHECK (role IN ('assessor', 'steward')),
    ADD COLUMN enrolment touchstone.digest REFERENCES touchstone.enrolment,
    ADD CHECK ((role IS NULL) = (enrolment IS NULL));
ALTER TABLE touchstone.certificate ADD COLUMN enrolments text NOT NULL DEFAULT '';

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['enrolment', 'revoked_key'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY read ON touchstone.%I FOR SELECT TO touchstone_app USING (
                        (SELECT touchstone.sees_all())
                        OR (SELECT touchstone.my_role()) = ''admin'')', name);
        EXECUTE format('GRANT SELECT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
END $$;

-- A signer's row is written by the two functions below, and by nobody's INSERT.
REVOKE INSERT ON touchstone.signer FROM touchstone_app;
DROP POLICY add ON touchstone.signer;

CREATE FUNCTION touchstone.stated(envelope jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_from(decode(envelope ->> 'payload', 'base64'), 'UTF8')::jsonb
$$;

CREATE FUNCTION touchstone.payload_digest(envelope jsonb) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sha256:' || encode(sha256(decode(envelope ->> 'payload', 'base64')), 'hex')
$$;

-- The digest of the certificate's DER.
CREATE FUNCTION touchstone.pem_digest(pem text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sha256:' || encode(sha256(decode(
        regexp_replace(pem, '-----[A-Z ]+-----|\s', '', 'g'), 'base64')), 'hex')
$$;

CREATE FUNCTION touchstone.is_enrolled(organisation text, person text, role text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.signer s
        WHERE s.organisation = $1 AND s.person = $2 AND s.role = $3
          AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = s.key_id))
$$;

CREATE FUNCTION touchstone.add_signer(said jsonb, pem text, statement text)
RETURNS void LANGUAGE plpgsql SET search_path = touchstone, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM touchstone.organisation o
                   WHERE o.id = said ->> 'organisation' AND o.kind = 'facility') THEN
        RAISE EXCEPTION 'only people of the facility are enrolled; % belongs to %',
            said ->> 'person', said ->> 'organisation' USING ERRCODE = 'restrict_violation';
    END IF;
    IF touchstone.pem_digest(pem) IS DISTINCT FROM said ->> 'certificate' THEN
        RAISE EXCEPTION 'the certificate is not the one that the statement names'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM touchstone.signer s WHERE s.organisation = said ->> 'organisation'
               AND touchstone.name_key(s.person) = touchstone.name_key(said ->> 'person')
               AND s.role <> said ->> 'role') THEN
        RAISE EXCEPTION '% was enrolled in another role; a person has one role',
            said ->> 'person' USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.signer (key_id, organisation, person, pem, role, enrolment)
        VALUES (said ->> 'key', said ->> 'organisation', said ->> 'person', pem, said ->> 'role',
                statement);
    PERFORM touchstone.append_event('touchstone', said ->> 'organisation', 'key-enrolled',
        said ->> 'key', json_build_object('person', said ->> 'person', 'role', said ->> 'role',
        'statement', statement)::text);
END $$;

-- The first people: once. `pems` is {key: certificate}.
CREATE FUNCTION touchstone.load_founding(envelope jsonb, pems jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    said jsonb := touchstone.stated(envelope);
    first jsonb;
BEGIN
    IF session_user <> 'touchstone_owner' AND coalesce(touchstone.my_role(), '') <> 'admin' THEN
        RAISE EXCEPTION 'an administrator loads the founding statement'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (SELECT FROM touchstone.enrolment WHERE kind = 'founding') THEN
        RAISE EXCEPTION 'the founding statement is loaded once; enrol further keys by two others'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (SELECT count(DISTINCT p ->> 'person') FROM jsonb_array_elements(said -> 'people') p) < 2
       OR EXISTS (SELECT FROM jsonb_array_elements(said -> 'people') p
                  WHERE p ->> 'organisation' IS DISTINCT FROM said ->> 'facility') THEN
        RAISE EXCEPTION 'a founding statement names two people of the facility, or more'
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.enrolment (digest, kind, envelope)
        VALUES (touchstone.payload_digest(envelope), 'founding', envelope);
    FOR first IN SELECT p FROM jsonb_array_elements(said -> 'people') p LOOP
        PERFORM touchstone.add_signer(first, pems ->> (first ->> 'key'),
            touchstone.payload_digest(envelope));
    END LOOP;
END $$;

-- Everybody after them: by two others.
CREATE FUNCTION touchstone.enrol(envelope jsonb, pem text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    said jsonb := touchstone.stated(envelope);
    keys text[] := ARRAY(SELECT DISTINCT s ->> 'keyid'
                         FROM jsonb_array_elements(envelope -> 'signatures') s);
    others integer;
BEGIN
    IF coalesce(touchstone.my_kind(), '') <> 'facility'
       OR touchstone.my_role() NOT IN ('admin', 'steward', 'assessor') THEN
        RAISE EXCEPTION 'people of the facility hand in an enrolment'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM FROM touchstone.signer s WHERE s.key_id::text = ANY (keys)
        ORDER BY s.key_id FOR KEY SHARE;
    IF EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id::text = ANY (keys)) THEN
        RAISE EXCEPTION 'a key that approves was revoked' USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM touchstone.signer s WHERE s.key_id::text = ANY (keys)
               AND touchstone.name_key(s.person) = touchstone.name_key(said ->> 'person')
               AND s.organisation = said ->> 'organisation') THEN
        RAISE EXCEPTION '% can''t approve their own key', said ->> 'person'
            USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT count(DISTINCT (s.organisation, touchstone.name_key(s.person))) INTO others FROM touchstone.signer s
        JOIN touchstone.organisation o ON o.id = s.organisation AND o.kind = 'facility'
        WHERE s.key_id::text = ANY (keys) AND s.role IS NOT NULL;
    IF others < 2 OR cardinality(keys) <> (
            SELECT count(*) FROM touchstone.signer s
            WHERE s.key_id::text = ANY (keys) AND s.role IS NOT NULL) THEN
        RAISE EXCEPTION 'a key is enrolled by two others who are enrolled themselves'
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.enrolment (digest, kind, envelope)
        VALUES (touchstone.payload_digest(envelope), 'enrolment', envelope);
    PERFORM touchstone.add_signer(said, pem, touchstone.payload_digest(envelope));
END $$;

-- Taking away needs one person of the facility. Their tokens in that role end with the last key.
CREATE FUNCTION touchstone.revoke_key(key text, why text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    s touchstone.signer;
BEGIN
    IF coalesce(touchstone.my_kind(), '') <> 'facility'
       OR touchstone.my_role() NOT IN ('admin', 'steward', 'assessor') THEN
        RAISE EXCEPTION 'people of the facility revoke a key'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO s FROM touchstone.signer WHERE key_id = key FOR UPDATE;
    IF s.key_id IS NULL THEN
        RAISE EXCEPTION 'no such key is enrolled' USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.revoked_key (key_id, reason, revoked_by)
        VALUES (key, why, touchstone.my_person());
    IF NOT touchstone.is_enrolled(s.organisation, s.person, s.role) THEN
        UPDATE touchstone.token SET revoked_at = now() WHERE organisation = s.organisation
            AND person = s.person AND role = s.role AND revoked_at IS NULL;
    END IF;
    PERFORM touchstone.append_event('touchstone', s.organisation, 'key-revoked', key,
        json_build_object('person', s.person)::text);
END $$;

-- 2. A token for an assessor or a steward is for somebody whose key two others enrolled. So neither
--    an administrator nor a group claim makes one.
CREATE FUNCTION touchstone.guard_token() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = touchstone, pg_temp AS $$
BEGIN
    IF NEW.role IN ('assessor', 'steward')
       AND NOT touchstone.is_enrolled(NEW.organisation, NEW.person, NEW.role) THEN
        RAISE EXCEPTION '% is not enrolled as % of %: two others enrol a key first (touchstone key)',
            NEW.person, NEW.role, NEW.organisation USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER enrolled_first BEFORE INSERT OR UPDATE OF role, person, organisation
    ON touchstone.token FOR EACH ROW EXECUTE FUNCTION touchstone.guard_token();

-- 3. Whoever locked the cohort or the protocol is not one of the two who decide on it.
CREATE FUNCTION touchstone.locked_it(submission uuid, person text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.submission s
        JOIN touchstone.cohort c ON c.id = s.cohort_id AND c.version = s.cohort_version
        JOIN touchstone.protocol p ON p.digest = s.protocol_digest
        WHERE s.id = $1 AND touchstone.name_key($2) IN
              (touchstone.name_key(c.locked_by), touchstone.name_key(p.locked_by)))
$$;

DROP POLICY decide ON touchstone.decision;
CREATE POLICY decide ON touchstone.decision FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'assessor' AND person = (SELECT touchstone.my_person())
    AND EXISTS (SELECT FROM touchstone.signer s WHERE s.key_id = decision.key_id
                AND s.organisation = (SELECT touchstone.my_organisation())));

-- After 0002's `guard`, which holds the submission's row.
CREATE FUNCTION touchstone.separate_decision() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = touchstone, pg_temp AS $$
DECLARE
    signer touchstone.signer;
BEGIN
    SELECT * INTO signer FROM touchstone.signer WHERE key_id = NEW.key_id FOR KEY SHARE;
    IF signer.role IS DISTINCT FROM 'assessor' THEN
        RAISE EXCEPTION 'this key was not enrolled for an assessor by two others'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'this key was revoked' USING ERRCODE = 'restrict_violation';
    END IF;
    IF touchstone.locked_it(NEW.submission, NEW.person) THEN
        RAISE EXCEPTION '% locked the cohort or the protocol and can''t decide on it',
            NEW.person USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER separation BEFORE INSERT ON touchstone.decision
    FOR EACH ROW EXECUTE FUNCTION touchstone.separate_decision();

-- How many different enrolled assessors, none of whom locked anything here, chose this outcome.
CREATE FUNCTION touchstone.agreeing(submission uuid, outcome text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT count(DISTINCT (g.organisation, touchstone.name_key(g.person)))::integer
    FROM touchstone.submission s
    JOIN touchstone.decision d ON d.submission = s.id AND d.report_digest = s.report_digest
    JOIN touchstone.signer g ON g.key_id = d.key_id AND g.person = d.person
    JOIN touchstone.organisation o ON o.id = g.organisation AND o.kind = 'facility'
    WHERE s.id = $1 AND d.outcome = $2 AND g.role = 'assessor' AND g.organisation <> s.organisation
      AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = g.key_id)
      AND NOT touchstone.locked_it(s.id, d.person)
$$;

-- After 0002's `guard`, which holds the submission's row.
CREATE FUNCTION touchstone.separate_certificate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = touchstone, pg_temp AS $$
DECLARE
    s touchstone.submission;
    said jsonb;
    due timestamptz;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission;
    PERFORM FROM touchstone.signer g JOIN touchstone.decision d ON d.key_id = g.key_id
        WHERE d.submission = NEW.submission ORDER BY g.key_id FOR KEY SHARE OF g;
    IF touchstone.agreeing(NEW.submission, CASE s.verdict WHEN 'pass' THEN 'certify'
                                           WHEN 'conditional' THEN 'conditional' END) < 2 THEN
        RAISE EXCEPTION 'no certificate: two assessors are needed whose keys are enrolled, who are '
            'two people, and of whom neither locked the cohort or the protocol'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF s.verdict = 'conditional' THEN
        BEGIN
            said := touchstone.stated(NEW.envelope) -> 'predicate';
            due := said ->> 'conditions_due';
            IF jsonb_array_length(said -> 'conditions') = 0 THEN
                due := NULL;
            END IF;
        EXCEPTION WHEN data_exception THEN
            due := NULL;
        END;
        IF said -> 'conditions' IS NULL OR due IS NULL OR NEW.not_after > due THEN
            RAISE EXCEPTION 'a conditional certificate states its conditions, and ends when they '
                'are due' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER separation BEFORE INSERT ON touchstone.certificate
    FOR EACH ROW EXECUTE FUNCTION touchstone.separate_certificate();

-- 4. `conditional` is a verdict only where the locked protocol lets a gating rule be so; and a
--    review ends against the submitter only by two who rejected.
CREATE FUNCTION touchstone.allows_conditional(body text) RETURNS boolean LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM jsonb_array_elements(
            coalesce(body::jsonb -> 'endpoints', '[]') || coalesce(body::jsonb -> 'subgroups', '[]')
        ) r WHERE r ->> 'if_insufficient' = 'conditional' AND r ->> 'rule' = 'gating')
$$;

CREATE FUNCTION touchstone.separate_submission() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = touchstone, pg_temp AS $$
BEGIN
    IF NEW.verdict = 'conditional' AND OLD.verdict IS DISTINCT FROM 'conditional'
       AND NOT (SELECT touchstone.allows_conditional(p.body) FROM touchstone.protocol p
                WHERE p.digest = NEW.protocol_digest) THEN
        RAISE EXCEPTION 'the locked protocol lets no rule be conditional'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = 'not_certified' AND OLD.state <> 'not_certified'
       AND touchstone.agreeing(NEW.id, 'reject') < 2 THEN
        RAISE EXCEPTION 'a review ends in not certified when two assessors have rejected'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER separation BEFORE UPDATE ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.separate_submission();

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.load_founding, touchstone.enrol, touchstone.revoke_key
    TO touchstone_app;
GRANT EXECUTE ON FUNCTION touchstone.is_enrolled, touchstone.locked_it
    TO touchstone_app, touchstone_login;
