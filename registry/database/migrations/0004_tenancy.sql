-- Whose rows are whose. The database knows a caller by the token, not by the application's word:
-- whoever holds only a role's password, without somebody's token, reads and writes nothing.

-- 1. Entering. The proof is sha256(secret); what is stored is sha256(proof): neither the table nor
--    a statement that a server logged opens the API's door.
UPDATE touchstone.token SET secret_hash = sha256(secret_hash);

CREATE TABLE touchstone.seal (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), key bytea NOT NULL);
INSERT INTO touchstone.seal (key) SELECT sha256(convert_to(string_agg(gen_random_uuid()::text, ''),
    'UTF8')) FROM generate_series(1, 4);

-- What was entered holds for this transaction of this connection alone.
CREATE FUNCTION touchstone.sealed(fields text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(sha256(s.key || sha256(s.key || convert_to(concat_ws(E'\x1f',
        pg_backend_pid()::text, extract(epoch FROM transaction_timestamp())::text, fields), 'UTF8'))),
        'hex') FROM touchstone.seal s
$$;

CREATE FUNCTION touchstone.enter(proof bytea)
RETURNS TABLE (token uuid, organisation text, kind text, role text, person text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    t touchstone.token;
    k text;
    fields text;
BEGIN
    SELECT * INTO t FROM touchstone.token WHERE secret_hash = sha256(proof);
    IF t.id IS NULL THEN
        RAISE EXCEPTION 'this token is not known here; check TOUCHSTONE_TOKEN'
            USING ERRCODE = 'TS401';
    ELSIF t.revoked_at IS NOT NULL THEN
        RAISE EXCEPTION 'this token was revoked; ask your administrator for a new one'
            USING ERRCODE = 'TS401';
    ELSIF t.expires_at <= clock_timestamp() THEN
        RAISE EXCEPTION 'this token expired on %; ask your administrator for a new one',
            to_char(t.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') USING ERRCODE = 'TS401';
    END IF;
    SELECT o.kind INTO k FROM touchstone.organisation o WHERE o.id = t.organisation;
    IF t.last_used_at IS NULL OR t.last_used_at < clock_timestamp() - interval '1 minute' THEN
        UPDATE touchstone.token SET last_used_at = clock_timestamp() WHERE id = (
            SELECT u.id FROM touchstone.token u WHERE u.id = t.id FOR UPDATE SKIP LOCKED);
    END IF;
    fields := concat_ws(E'\x1f', t.organisation, k, t.role, t.person, t.id);
    PERFORM set_config('touchstone.entered', touchstone.sealed(fields) || fields, true);
    RETURN QUERY SELECT t.id, t.organisation::text, k, t.role, t.person::text;
END $$;

-- (organisation, kind, role, person, token) of who entered; NULL for nobody.
CREATE FUNCTION touchstone.entered() RETURNS text[] LANGUAGE plpgsql STABLE SECURITY DEFINER
PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given text := current_setting('touchstone.entered', true);
BEGIN
    IF given IS NULL OR given = '' THEN
        RETURN NULL;
    END IF;
    IF left(given, 64) IS DISTINCT FROM touchstone.sealed(substr(given, 65)) THEN
        RAISE EXCEPTION 'nobody entered this transaction' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN string_to_array(substr(given, 65), E'\x1f');
END $$;

CREATE FUNCTION touchstone.my_organisation() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED
    AS 'SELECT (touchstone.entered())[1]';
CREATE FUNCTION touchstone.my_kind() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED
    AS 'SELECT (touchstone.entered())[2]';
CREATE FUNCTION touchstone.my_role() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED
    AS 'SELECT (touchstone.entered())[3]';
CREATE FUNCTION touchstone.my_person() RETURNS text LANGUAGE sql STABLE PARALLEL RESTRICTED
    AS 'SELECT (touchstone.entered())[4]';
CREATE FUNCTION touchstone.my_token() RETURNS uuid LANGUAGE sql STABLE PARALLEL RESTRICTED
    AS 'SELECT (touchstone.entered())[5]::uuid';
-- The facility's own people, who work on everybody's submissions.
CREATE FUNCTION touchstone.sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL RESTRICTED AS $$
    SELECT coalesce(touchstone.my_kind() = 'facility'
        AND touchstone.my_role() IN ('steward', 'assessor', 'auditor'), false)
$$;

-- 2. Nobody writes the log in another's name: whoever entered is the actor.
CREATE FUNCTION touchstone.write_event(
    actor text, organisation text, kind text, subject text, detail text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    last touchstone.event;
    next_seq bigint;
    next_previous bytea;
    next_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(7460001);  -- one pen at a time, held until commit
    next_at := clock_timestamp();  -- under the lock, so that the times of the rows rise too
    SELECT * INTO last FROM touchstone.event ORDER BY seq DESC LIMIT 1;
    next_seq := coalesce(last.seq, 0) + 1;
    next_previous := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    INSERT INTO touchstone.event VALUES (next_seq, next_at, actor, organisation, kind, subject,
        detail, next_previous, touchstone.event_hash(next_previous, next_seq, next_at, actor,
        organisation, kind, subject, detail));
    RETURN next_seq;
END $$;

CREATE OR REPLACE FUNCTION touchstone.append_event(
    actor text, organisation text, kind text, subject text, detail text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    who text[] := touchstone.entered();
BEGIN
    IF who IS NOT NULL THEN
        actor := who[4];
    ELSIF session_user = 'touchstone_app' THEN
        RAISE EXCEPTION 'the log names who acts, and nobody entered'
            USING ERRCODE = 'insufficient_privilege';
    ELSIF session_user <> 'touchstone_owner' THEN
        actor := 'touchstone';
    END IF;
    RETURN touchstone.write_event(actor, organisation, kind, subject, detail);
END $$;

-- 3. Who carries submissions on: the worker's role, which decides and issues nothing.
GRANT USAGE ON SCHEMA touchstone TO touchstone_worker, touchstone_login;
GRANT SELECT ON touchstone.migration TO touchstone_app, touchstone_worker, touchstone_gate,
    touchstone_login;
REVOKE INSERT ON touchstone.attempt, touchstone.step FROM touchstone_app;
REVOKE UPDATE (returned_at, returned_reason) ON touchstone.attempt FROM touchstone_app;
REVOKE UPDATE (model_digest, verdict, report_digest, statement_digest, certifiable, failure_code,
    failure_message) ON touchstone.submission FROM touchstone_app;
GRANT SELECT ON touchstone.organisation, touchstone.cohort, touchstone.protocol,
    touchstone.submission, touchstone.attempt, touchstone.step, touchstone.decision,
    touchstone.certificate, touchstone.registration, touchstone.event, touchstone.arrow
    TO touchstone_worker;
GRANT INSERT ON touchstone.attempt, touchstone.step TO touchstone_worker;
GRANT UPDATE (returned_at, returned_reason) ON touchstone.attempt TO touchstone_worker;
GRANT UPDATE (state, model_digest, verdict, report_digest, statement_digest, certifiable,
    failure_code, failure_message, changed_at, deadline) ON touchstone.submission
    TO touchstone_worker;
-- A token's hash is compared by `enter` and read by nobody.
REVOKE SELECT ON touchstone.token FROM touchstone_app;
GRANT SELECT (id, organisation, role, person, created_at, expires_at, revoked_at, last_used_at)
    ON touchstone.token TO touchstone_app;
REVOKE UPDATE (last_used_at) ON touchstone.token FROM touchstone_app;
REVOKE SELECT ON touchstone.seal FROM touchstone_app;

-- 4. Rows. FORCE holds for the owner too; its policy is there for the functions it defines.
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT c.relname FROM pg_class c
                WHERE c.relnamespace = 'touchstone'::regnamespace AND c.relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['organisation', 'cohort', 'protocol', 'submission', 'attempt',
                                'step', 'decision', 'certificate', 'registration', 'event'] LOOP
        EXECUTE format('CREATE POLICY worker ON touchstone.%I TO touchstone_worker
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['submission', 'decision', 'certificate', 'signer'] LOOP
        EXECUTE format('CREATE POLICY gate ON touchstone.%I TO touchstone_gate
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
CREATE POLICY everyone ON touchstone.arrow FOR SELECT USING (true);
CREATE POLICY everyone ON touchstone.migration FOR SELECT USING (true);

CREATE POLICY read ON touchstone.organisation FOR SELECT TO touchstone_app USING (
    id = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all())
    OR (SELECT touchstone.my_role()) = 'admin');
CREATE POLICY add ON touchstone.organisation FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin');

CREATE POLICY read ON touchstone.token FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IN ('admin', 'auditor')
    OR (organisation = (SELECT touchstone.my_organisation())
        AND person = (SELECT touchstone.my_person())));
CREATE POLICY add ON touchstone.token FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin');
CREATE POLICY revoke ON touchstone.token FOR UPDATE TO touchstone_app USING (
    (SELECT touchstone.my_role()) = 'admin'
    OR (organisation = (SELECT touchstone.my_organisation())
        AND person = (SELECT touchstone.my_person())));

CREATE POLICY read ON touchstone.signer FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()) OR (SELECT touchstone.my_role()) = 'admin');
CREATE POLICY add ON touchstone.signer FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin');

CREATE POLICY read ON touchstone.cohort FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IS NOT NULL);
CREATE POLICY lock ON touchstone.cohort FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'steward' AND locked_by = (SELECT touchstone.my_person()));
CREATE POLICY read ON touchstone.protocol FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IS NOT NULL);
CREATE POLICY lock ON touchstone.protocol FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'steward' AND locked_by = (SELECT touchstone.my_person()));

CREATE POLICY read ON touchstone.submission FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()));
CREATE POLICY add ON touchstone.submission FOR INSERT TO touchstone_app WITH CHECK (
    organisation = (SELECT touchstone.my_organisation())
    AND (SELECT touchstone.my_role()) = 'innovator'
    AND submitted_by = (SELECT touchstone.my_person()));
CREATE POLICY move ON touchstone.submission FOR UPDATE TO touchstone_app USING (
    (SELECT touchstone.my_role()) = 'assessor'
    OR (organisation = (SELECT touchstone.my_organisation())
        AND (SELECT touchstone.my_role()) = 'innovator'));
CREATE POLICY read ON touchstone.attempt FOR SELECT TO touchstone_app USING (
    split_part(family, '/', 1) = (SELECT touchstone.my_organisation())
    OR (SELECT touchstone.sees_all()));
CREATE POLICY read ON touchstone.step FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));
CREATE POLICY read ON touchstone.registration FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()));

CREATE POLICY read ON touchstone.decision FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));
CREATE POLICY decide ON touchstone.decision FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'assessor' AND person = (SELECT touchstone.my_person()));
CREATE POLICY read ON touchstone.certificate FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all())
    OR (SELECT touchstone.my_role()) = 'clinician');
CREATE POLICY read ON touchstone.event FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()));

-- 5. Functions: none for everyone; the questions that policies ask are asked by every role.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.entered, touchstone.my_organisation, touchstone.my_kind,
    touchstone.my_role, touchstone.my_person, touchstone.my_token, touchstone.sees_all
    TO touchstone_app, touchstone_worker, touchstone_gate, touchstone_login;
GRANT EXECUTE ON FUNCTION touchstone.enter TO touchstone_app, touchstone_gate;
GRANT EXECUTE ON FUNCTION touchstone.append_event, touchstone.event_hash TO touchstone_worker;
GRANT EXECUTE ON FUNCTION touchstone.alias_permitted, touchstone.version_is_bound
    TO touchstone_worker;
