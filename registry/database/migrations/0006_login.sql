-- People who log in at an identity provider, and the tokens that a login gives. What decides is the
-- record: a claim of the provider, the file that maps claims, and the application's code are all
-- outside, and none of them makes an assessor.

-- 1. Who is who. A person is known by issuer and subject; an address is good for one introduction.
CREATE FUNCTION touchstone.name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT lower(regexp_replace(btrim(normalize(name, NFKC)), '\s+', ' ', 'g'))
$$;

CREATE TABLE touchstone.person (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name      touchstone.line NOT NULL CHECK (name <> ''),
    issuer    touchstone.line NOT NULL,
    subject   touchstone.line,
    email     touchstone.line,
    added_at  timestamptz NOT NULL DEFAULT now(),
    added_by  touchstone.line NOT NULL,
    UNIQUE (issuer, subject),
    CHECK (subject IS NOT NULL OR email IS NOT NULL)
);
-- Decisions, submissions and the log name people: no two may read alike.
CREATE UNIQUE INDEX person_name ON touchstone.person (touchstone.name_key(name));
CREATE UNIQUE INDEX person_invited ON touchstone.person (issuer, lower(email))
    WHERE subject IS NULL;

-- What our own record grants. A grant is withdrawn, never removed.
CREATE TABLE touchstone.person_role (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    person        uuid NOT NULL REFERENCES touchstone.person,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    role          text NOT NULL CHECK
                  (role IN ('innovator', 'steward', 'assessor', 'clinician', 'auditor', 'admin')),
    granted_at    timestamptz NOT NULL DEFAULT now(),
    granted_by    touchstone.line NOT NULL,
    withdrawn_at  timestamptz,
    withdrawn_by  touchstone.line,
    CHECK ((withdrawn_at IS NULL) = (withdrawn_by IS NULL))
);
CREATE UNIQUE INDEX person_role_live ON touchstone.person_role (person, organisation, role)
    WHERE withdrawn_at IS NULL;

CREATE TABLE touchstone.login_token (
    token   uuid PRIMARY KEY REFERENCES touchstone.token,
    person  uuid NOT NULL REFERENCES touchstone.person
);
CREATE INDEX login_token_person ON touchstone.login_token (person);

-- Logins under way: minutes old, taken once.
CREATE TABLE touchstone.login_flow (
    id            bytea PRIMARY KEY CHECK (length(id) = 32),
    kind          text NOT NULL CHECK (kind IN ('browser', 'device')),
    browser       bytea CHECK (length(browser) = 32),
    nonce         text,
    verifier      text,
    device_code   text,
    organisation  text,
    role          text,
    expires_at    timestamptz NOT NULL,
    CHECK (kind <> 'browser' OR (browser IS NOT NULL AND nonce IS NOT NULL
                                 AND verifier IS NOT NULL)),
    CHECK (kind <> 'device' OR device_code IS NOT NULL)
);
CREATE INDEX login_flow_expires ON touchstone.login_flow (expires_at);

-- 2. Rules that hold whoever writes.
CREATE FUNCTION touchstone.kind_of_role(role text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE role WHEN 'innovator' THEN 'sme' WHEN 'clinician' THEN 'hospital' ELSE 'facility' END
$$;

CREATE FUNCTION touchstone.check_person_role() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k text := (SELECT o.kind FROM touchstone.organisation o WHERE o.id = NEW.organisation);
    s text := (SELECT p.subject FROM touchstone.person p WHERE p.id = NEW.person);
BEGIN
    IF k IS DISTINCT FROM touchstone.kind_of_role(NEW.role) THEN
        RAISE EXCEPTION '% is not a role of a %', NEW.role, coalesce(k, 'missing organisation')
            USING ERRCODE = 'restrict_violation';
    ELSIF s IS NULL AND NEW.role NOT IN ('innovator', 'clinician') THEN
        RAISE EXCEPTION 'an address introduces an innovator or a clinician; link this person by '
            'the subject that the identity provider gives' USING ERRCODE = 'restrict_violation';
    ELSIF NEW.withdrawn_at IS NOT NULL THEN
        RAISE EXCEPTION 'a grant begins in force' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER granted BEFORE INSERT ON touchstone.person_role
    FOR EACH ROW EXECUTE FUNCTION touchstone.check_person_role();

-- A withdrawn grant ends the logins that stood on it, in the same transaction.
CREATE FUNCTION touchstone.end_person_role() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.withdrawn_at IS NOT NULL OR NEW.withdrawn_at IS NULL
       OR (NEW.id, NEW.person, NEW.organisation, NEW.role, NEW.granted_at, NEW.granted_by)
          IS DISTINCT FROM
          (OLD.id, OLD.person, OLD.organisation, OLD.role, OLD.granted_at, OLD.granted_by) THEN
        RAISE EXCEPTION 'a grant is withdrawn once, and otherwise stays as it is'
            USING ERRCODE = 'restrict_violation';
    END IF;
    UPDATE touchstone.token t SET revoked_at = clock_timestamp()
        FROM touchstone.login_token l
        WHERE l.token = t.id AND l.person = NEW.person AND t.organisation = NEW.organisation
          AND t.role = NEW.role AND t.revoked_at IS NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER withdrawn BEFORE UPDATE ON touchstone.person_role
    FOR EACH ROW EXECUTE FUNCTION touchstone.end_person_role();

CREATE FUNCTION touchstone.keep_person() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.subject IS NOT NULL OR NEW.subject IS NULL
       OR (NEW.id, NEW.name, NEW.issuer, NEW.email, NEW.added_at, NEW.added_by) IS DISTINCT FROM
          (OLD.id, OLD.name, OLD.issuer, OLD.email, OLD.added_at, OLD.added_by) THEN
        RAISE EXCEPTION 'a person''s subject is bound once, and the rest stays as it is'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER bound_once BEFORE UPDATE ON touchstone.person
    FOR EACH ROW EXECUTE FUNCTION touchstone.keep_person();

CREATE FUNCTION touchstone.keep_revoked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at THEN
        RAISE EXCEPTION 'a revoked token stays revoked' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER stays_revoked BEFORE UPDATE OF revoked_at ON touchstone.token
    FOR EACH ROW EXECUTE FUNCTION touchstone.keep_revoked();

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['person', 'person_role', 'login_token'] LOOP
        EXECUTE format('CREATE TRIGGER never_removed BEFORE DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['person', 'person_role', 'login_token', 'login_flow'] LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;

-- 3. What touchstone_login may do: these functions and nothing else. No table is granted to it.
CREATE FUNCTION touchstone.flow_begin(
    id bytea, kind text, browser bytea, nonce text, verifier text, device_code text,
    organisation text, role text, seconds integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM touchstone.login_flow f WHERE f.expires_at < clock_timestamp();
    IF (SELECT count(*) FROM touchstone.login_flow) >= 20000 THEN
        RAISE EXCEPTION 'too many logins are under way; try again in some minutes'
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO touchstone.login_flow VALUES (id, kind, browser, nonce, verifier, device_code,
        organisation, role, clock_timestamp() + make_interval(secs => least(seconds, 1800)));
END $$;

-- A browser's flow is taken by the browser that began it; whoever took it has used it up.
CREATE FUNCTION touchstone.flow_take(id bytea, kind text, browser bytea)
RETURNS SETOF touchstone.login_flow LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM touchstone.login_flow f
    WHERE f.id = $1 AND f.kind = $2 AND f.browser IS NOT DISTINCT FROM $3
      AND f.expires_at > clock_timestamp() RETURNING f.*
$$;

CREATE FUNCTION touchstone.flow_look(id bytea)
RETURNS SETOF touchstone.login_flow LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM touchstone.login_flow f
    WHERE f.id = $1 AND f.kind = 'device' AND f.expires_at > clock_timestamp()
$$;

CREATE FUNCTION touchstone.person_known(issuer text, subject text, email text)
RETURNS touchstone.person LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM touchstone.person p
    WHERE p.issuer = $1
      AND (p.subject = $2 OR (p.subject IS NULL AND lower(p.email) = lower($3)))
    ORDER BY p.subject IS NULL LIMIT 1  -- by subject before by address
$$;

CREATE FUNCTION touchstone.login_standing(issuer text, subject text, email text)
RETURNS TABLE (person uuid, organisation text, role text, in_force boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, r.organisation::text, r.role, r.withdrawn_at IS NULL
    FROM touchstone.person_known($1, $2, $3) p
    LEFT JOIN touchstone.person_role r ON r.person = p.id WHERE p.id IS NOT NULL
$$;

-- Revoke the live tokens of this person's logins that are not among what is still allowed.
CREATE FUNCTION touchstone.login_keep(
    issuer text, subject text, organisations text[], roles text[])
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p touchstone.person := touchstone.person_known(issuer, subject, NULL);
    lost record;
    many integer := 0;
BEGIN
    FOR lost IN
        UPDATE touchstone.token t SET revoked_at = clock_timestamp()
        FROM touchstone.login_token l
        WHERE l.token = t.id AND l.person = p.id AND t.revoked_at IS NULL
          AND t.expires_at > clock_timestamp()
          AND NOT EXISTS (SELECT FROM unnest(organisations, roles) AS a(o, r)
                          WHERE a.o = t.organisation AND a.r = t.role)
        RETURNING t.id, t.organisation, t.role
    LOOP
        many := many + 1;
        PERFORM touchstone.write_event(p.name, lost.organisation, 'token-revoked', lost.id::text,
            jsonb_build_object('reason', 'claim lost', 'role', lost.role)::text);
    END LOOP;
    RETURN many;
END $$;

-- The only way to a login's token. The claims and the mapping have had their say before; what
-- they can't grant is asked of the record here.
CREATE FUNCTION touchstone.login_make(
    issuer text, subject text, email text, name text, organisation text, role text,
    secret_hash bytea, seconds integer)
RETURNS TABLE (token uuid, person text, kind text, expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    p touchstone.person := touchstone.person_known(issuer, subject, email);
    t uuid := gen_random_uuid();
    k text := (SELECT o.kind FROM touchstone.organisation o WHERE o.id = organisation);
    ends timestamptz := clock_timestamp() + make_interval(secs => seconds);
    granted boolean;
BEGIN
    IF coalesce(subject, '') = '' OR coalesce(issuer, '') = '' THEN
        RAISE EXCEPTION 'a login names its issuer and subject' USING ERRCODE = 'restrict_violation';
    ELSIF seconds NOT BETWEEN 60 AND 43200 THEN
        RAISE EXCEPTION 'a login lasts between a minute and twelve hours'
            USING ERRCODE = 'restrict_violation';
    ELSIF k IS DISTINCT FROM touchstone.kind_of_role(role) THEN
        RAISE EXCEPTION '% is not a role of %', role, organisation
            USING ERRCODE = 'restrict_violation';
    END IF;
    granted := EXISTS (SELECT FROM touchstone.person_role r WHERE r.person = p.id
        AND r.organisation = organisation AND r.role = role AND r.withdrawn_at IS NULL);
    IF NOT granted AND role NOT IN ('innovator', 'clinician') THEN
        RAISE EXCEPTION 'the role % is granted in our own record or not at all; no login brings it',
            role USING ERRCODE = 'restrict_violation';
    ELSIF NOT granted AND EXISTS (SELECT FROM touchstone.person_role r WHERE r.person = p.id
        AND r.organisation = organisation AND r.role = role) THEN
        RAISE EXCEPTION 'the role % of % was withdrawn from this person', role, organisation
            USING ERRCODE = 'restrict_violation';
    ELSIF role = 'assessor' AND NOT EXISTS (SELECT FROM touchstone.signer s
        WHERE s.organisation = organisation AND s.person = p.name) THEN
        RAISE EXCEPTION 'an assessor signs with a key of their own, and none is enrolled for %',
            p.name USING ERRCODE = 'restrict_violation';
    END IF;
    IF p.id IS NULL THEN
        PERFORM pg_advisory_xact_lock(7460006);  -- two first logins of one name, one at a time
        -- Somebody else's name is taken already: told apart by a mark made of the subject.
        IF coalesce(btrim(name), '') = '' OR EXISTS (SELECT FROM touchstone.person q
                WHERE touchstone.name_key(q.name) = touchstone.name_key(name))
           OR EXISTS (SELECT FROM touchstone.token q
                WHERE touchstone.name_key(q.person) = touchstone.name_key(name)) THEN
            name := btrim(concat(left(name, 200), ' (', left(encode(sha256(convert_to(
                issuer || E'\x1f' || subject, 'UTF8')), 'hex'), 12), ')'));
        END IF;
        INSERT INTO touchstone.person AS q (name, issuer, subject, email, added_by)
            VALUES (name, issuer, subject, email, 'login') RETURNING q.* INTO p;
        PERFORM touchstone.write_event(p.name, organisation, 'person-added', p.id::text,
            jsonb_build_object('by', 'claim', 'issuer', issuer)::text);
    ELSIF p.subject IS NULL THEN
        UPDATE touchstone.person AS q SET subject = login_make.subject WHERE q.id = p.id;
        PERFORM touchstone.write_event(p.name, organisation, 'person-bound', p.id::text,
            jsonb_build_object('by', 'address', 'issuer', issuer)::text);
    END IF;
    INSERT INTO touchstone.token AS q (id, organisation, role, person, secret_hash, expires_at)
        VALUES (t, organisation, role, p.name, secret_hash, ends);
    INSERT INTO touchstone.login_token VALUES (t, p.id);
    PERFORM touchstone.write_event(p.name, organisation, 'login', t::text,
        jsonb_build_object('issuer', issuer, 'person', p.id, 'role', role)::text);
    RETURN QUERY SELECT t, p.name::text, k, ends;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA touchstone FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.flow_begin, touchstone.flow_take, touchstone.flow_look,
    touchstone.login_standing, touchstone.login_keep, touchstone.login_make TO touchstone_login;

-- 4. What an administrator may do with people, and an auditor read.
GRANT SELECT ON touchstone.person, touchstone.person_role TO touchstone_app;
GRANT INSERT (id, name, issuer, subject, email, added_by) ON touchstone.person TO touchstone_app;
GRANT INSERT (person, organisation, role, granted_by) ON touchstone.person_role TO touchstone_app;
GRANT UPDATE (withdrawn_at, withdrawn_by) ON touchstone.person_role TO touchstone_app;
GRANT EXECUTE ON FUNCTION touchstone.name_key TO touchstone_app;

CREATE POLICY read ON touchstone.person FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IN ('admin', 'auditor'));
CREATE POLICY add ON touchstone.person FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin' AND added_by = (SELECT touchstone.my_person()));
CREATE POLICY read ON touchstone.person_role FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IN ('admin', 'auditor'));
CREATE POLICY grant_role ON touchstone.person_role FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'admin' AND granted_by = (SELECT touchstone.my_person()));
CREATE POLICY withdraw ON touchstone.person_role FOR UPDATE TO touchstone_app
    USING ((SELECT touchstone.my_role()) = 'admin')
    WITH CHECK (withdrawn_by = (SELECT touchstone.my_person()));
