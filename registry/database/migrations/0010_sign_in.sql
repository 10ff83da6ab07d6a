-- Assessors and stewards sign in with their enrolled key, and nobody is given their token.
-- Decision record 0017.
--
-- What the database checks: that a token in these roles follows a challenge that it made for this
-- person and key, taken once and in time, and that the key is enrolled and not revoked. It can't
-- check ECDSA: the registry does before it calls, and the signed statement is kept, so that a
-- sign-in without a true signature is found.

-- 1. Challenges: minutes old, taken once. Kept is the digest of what was handed out.
CREATE TABLE touchstone.sign_in_challenge (
    nonce         bytea PRIMARY KEY CHECK (length(nonce) = 32),
    organisation  touchstone.line NOT NULL,
    person        touchstone.line NOT NULL,
    key_id        touchstone.digest NOT NULL,
    expires_at    timestamptz NOT NULL
);
CREATE INDEX ON touchstone.sign_in_challenge (expires_at);

CREATE TABLE touchstone.sign_in (
    token     uuid PRIMARY KEY REFERENCES touchstone.token DEFERRABLE INITIALLY DEFERRED,
    key_id    touchstone.digest NOT NULL REFERENCES touchstone.signer,
    envelope  jsonb NOT NULL
);

-- A login at the identity provider that a person said, signed in with a key, is theirs. It holds
-- as long as that key.
CREATE TABLE touchstone.confirmed_login (
    person        uuid NOT NULL REFERENCES touchstone.person,
    key_id        touchstone.digest NOT NULL REFERENCES touchstone.signer,
    confirmed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (person, key_id)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sign_in_challenge', 'sign_in', 'confirmed_login'] LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['sign_in', 'confirmed_login'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('GRANT SELECT ON touchstone.%I TO touchstone_app', name);
        EXECUTE format('CREATE POLICY read ON touchstone.%I FOR SELECT TO touchstone_app USING (
                        (SELECT touchstone.my_role()) = ''auditor'')', name);
    END LOOP;
END $$;

-- 2. Where such a token may come from: a sign-in of this very person, or their confirmed login.
CREATE FUNCTION touchstone.signed_in(token uuid, organisation text, person text, role text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.sign_in i
        JOIN touchstone.signer s ON s.key_id = i.key_id
        WHERE i.token = $1 AND s.organisation = $2 AND s.person = $3 AND s.role = $4)
$$;

-- Names of people are unique (0006), so that a name is one issuer and one subject.
CREATE FUNCTION touchstone.login_confirmed(organisation text, person text, role text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.confirmed_login c
        JOIN touchstone.person p ON p.id = c.person
        JOIN touchstone.signer s ON s.key_id = c.key_id
        WHERE p.name = $2 AND s.organisation = $1 AND s.person = $2 AND s.role = $3
          AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = c.key_id))
$$;

CREATE OR REPLACE FUNCTION touchstone.guard_token() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
BEGIN
    IF NEW.role NOT IN ('assessor', 'steward') THEN
        RETURN NEW;
    END IF;
    IF NOT touchstone.is_enrolled(NEW.organisation, NEW.person, NEW.role) THEN
        RAISE EXCEPTION '% is not enrolled as % of %: two others enrol a key first (touchstone key)',
            NEW.person, NEW.role, NEW.organisation USING ERRCODE = 'restrict_violation';
    END IF;
    IF touchstone.signed_in(NEW.id, NEW.organisation, NEW.person, NEW.role) THEN
        RETURN NEW;
    END IF;
    IF session_user <> 'touchstone_login' THEN
        RAISE EXCEPTION 'a token of an assessor or a steward is given to nobody: % signs in with '
            'the enrolled key (touchstone login --key)', NEW.person
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT touchstone.login_confirmed(NEW.organisation, NEW.person, NEW.role) THEN
        RAISE EXCEPTION 'nobody has said with the key of % that this login is theirs: sign in with '
            'the key (touchstone login --key), then: touchstone person confirm %', NEW.person,
            (SELECT p.subject FROM touchstone.person p WHERE p.name = NEW.person)
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- Those that administrators gave out before are over: they were seen.
UPDATE touchstone.token SET revoked_at = clock_timestamp()
    WHERE role IN ('assessor', 'steward') AND revoked_at IS NULL;

-- Tokens that last hours end every day: `enter` (0004) says what to do then.
DO $$ BEGIN
    EXECUTE replace(pg_get_functiondef('touchstone.enter(bytea)'::regprocedure),
        'ask your administrator', 'log in again, or ask your administrator');
END $$;

-- With a key every token of its holder in that role ends, whichever way it came; with another key
-- they sign in again.
CREATE FUNCTION touchstone.end_tokens_of_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE touchstone.token t SET revoked_at = clock_timestamp()
        FROM touchstone.signer s
        WHERE s.key_id = NEW.key_id AND t.organisation = s.organisation AND t.person = s.person
          AND t.role = s.role AND t.revoked_at IS NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER ends_tokens AFTER INSERT ON touchstone.revoked_key
    FOR EACH ROW EXECUTE FUNCTION touchstone.end_tokens_of_key();

-- An auditor's token is still an administrator's to give: the database itself says so in the log.
CREATE FUNCTION touchstone.tell_of_auditor() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.role = 'auditor' AND session_user = 'touchstone_app' THEN
        PERFORM touchstone.write_event(touchstone.my_person(), NEW.organisation,
            'auditor-token-given', NEW.id::text, jsonb_build_object('person', NEW.person)::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tells_of_auditor AFTER INSERT ON touchstone.token
    FOR EACH ROW EXECUTE FUNCTION touchstone.tell_of_auditor();

-- 3. What touchstone_login may do besides 0006: these four functions.
CREATE FUNCTION touchstone.sign_in_begin(
    nonce bytea, organisation text, person text, key text) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ends timestamptz := clock_timestamp() + interval '5 minutes';
BEGIN
    DELETE FROM touchstone.sign_in_challenge c WHERE c.expires_at < clock_timestamp();
    IF (SELECT count(*) FROM touchstone.sign_in_challenge) >= 20000 THEN
        RAISE EXCEPTION 'too many are signing in just now; try again in some minutes'
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.sign_in_challenge VALUES (nonce, organisation, person, key, ends);
    RETURN ends;
END $$;

-- What the signatures are checked against: the statements, and the certificates they name.
CREATE FUNCTION touchstone.sign_in_enrolments() RETURNS TABLE (kind text, envelope jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.kind, e.envelope FROM touchstone.enrolment e ORDER BY e.loaded_at, e.digest
$$;
CREATE FUNCTION touchstone.sign_in_signers() RETURNS TABLE (key_id text, pem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.key_id::text, s.pem::text FROM touchstone.signer s ORDER BY s.key_id
$$;

-- The one way to a token from a key. The registry has checked the signature before.
CREATE FUNCTION touchstone.sign_in_make(nonce bytea, envelope jsonb, secret_hash bytea)
RETURNS TABLE (token uuid, organisation text, role text, person text, expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    c touchstone.sign_in_challenge;
    s touchstone.signer;
    said jsonb := touchstone.stated(envelope);
    t uuid := gen_random_uuid();
    ends timestamptz := clock_timestamp() + interval '12 hours';
BEGIN
    DELETE FROM touchstone.sign_in_challenge AS q
        WHERE q.nonce = sign_in_make.nonce AND q.expires_at > clock_timestamp()
        RETURNING q.* INTO c;
    IF c.nonce IS NULL THEN
        RAISE EXCEPTION 'this sign-in is over, was used already or was not begun here; sign in again'
            USING ERRCODE = 'TS401';
    END IF;
    SELECT * INTO s FROM touchstone.signer q WHERE q.key_id = c.key_id FOR KEY SHARE;
    IF s.role IS NULL THEN
        RAISE EXCEPTION 'this key is not enrolled' USING ERRCODE = 'TS401';
    ELSIF EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = s.key_id) THEN
        RAISE EXCEPTION 'this key was revoked; it opens nothing' USING ERRCODE = 'TS401';
    ELSIF (said ->> 'purpose', said ->> 'person', said ->> 'facility', said ->> 'key')
          IS DISTINCT FROM ('sign-in', c.person::text, c.organisation::text, c.key_id::text)
          OR (s.person::text, s.organisation::text) IS DISTINCT FROM
             (c.person::text, c.organisation::text)
          OR sha256(convert_to(said ->> 'nonce', 'UTF8')) IS DISTINCT FROM c.nonce
          OR envelope ->> 'payloadType'
             IS DISTINCT FROM 'application/vnd.touchstone.sign-in.v1+json'
          OR jsonb_array_length(envelope -> 'signatures') <> 1
          OR envelope -> 'signatures' -> 0 ->> 'keyid' IS DISTINCT FROM c.key_id::text THEN
        RAISE EXCEPTION 'this challenge was made for another person or key; sign in again'
            USING ERRCODE = 'TS401';
    END IF;
    INSERT INTO touchstone.sign_in VALUES (t, s.key_id, envelope);
    INSERT INTO touchstone.token AS q (id, organisation, role, person, secret_hash, expires_at)
        VALUES (t, s.organisation, s.role, s.person, secret_hash, ends);
    PERFORM touchstone.write_event(s.person, s.organisation, 'signed-in', t::text,
        jsonb_build_object('key', s.key_id, 'role', s.role,
                           'statement', touchstone.payload_digest(envelope))::text);
    RETURN QUERY SELECT t, s.organisation::text, s.role, s.person::text, ends;
END $$;

-- 4. Whoever is signed in with a key says which login at the provider is theirs.
CREATE FUNCTION touchstone.confirm_login(subject text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    key text := (SELECT i.key_id FROM touchstone.sign_in i WHERE i.token = touchstone.my_token());
    linked uuid := (SELECT p.id FROM touchstone.person p
                    WHERE p.name = touchstone.my_person() AND p.subject = subject);
BEGIN
    IF key IS NULL THEN
        RAISE EXCEPTION 'a login is confirmed by whoever is signed in with the key of its person '
            '(touchstone login --key)' USING ERRCODE = 'restrict_violation';
    END IF;
    IF linked IS NOT NULL THEN
        INSERT INTO touchstone.confirmed_login (person, key_id) VALUES (linked, key)
            ON CONFLICT DO NOTHING;
        PERFORM touchstone.append_event('', touchstone.my_organisation(), 'login-confirmed',
            linked::text, jsonb_build_object('key', key)::text);
    END IF;
    RETURN linked;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.sign_in_begin, touchstone.sign_in_enrolments,
    touchstone.sign_in_signers, touchstone.sign_in_make TO touchstone_login;
GRANT EXECUTE ON FUNCTION touchstone.confirm_login TO touchstone_app;
