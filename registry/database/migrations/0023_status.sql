-- The status that hospitals fetch: TUF metadata, one row a version of each part, and the
-- assessors' signatures over the next list of certificates in force.

-- 1. Parts. The present status is the newest version of each; older ones stay, so that whoever
--    fetches while it changes gets one that fits together. `root_version`, of a timestamp: the
--    newest root that belongs to it; later ones wait for the assessors that they name.
CREATE TABLE touchstone.status_file (
    role          text NOT NULL CHECK (role IN ('root', 'endorsement', 'targets', 'downgrade',
                                                'snapshot', 'timestamp')),
    version       integer NOT NULL CHECK (version > 0),
    content       text NOT NULL CHECK (length(content) <= 8388608),
    root_version  integer,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (role, version),
    CHECK ((role = 'timestamp') = (root_version IS NOT NULL)),
    CHECK (role <> 'endorsement' OR version = 1)
);

-- A version is followed by the next, so that no hospital sees one number twice.
CREATE FUNCTION touchstone.guard_status_file() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last integer;
BEGIN
    SELECT coalesce(max(f.version), 0) INTO last FROM touchstone.status_file f
        WHERE f.role = NEW.role;
    IF NEW.version <> last + 1 THEN
        RAISE EXCEPTION 'the status holds version % of its %; the next is %', last, NEW.role,
            last + 1 USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.status_file
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_status_file();

-- 2. Signatures. An assessor signs in their own name, with an enrolled key that stands.
CREATE TABLE touchstone.status_signature (
    version       integer NOT NULL CHECK (version > 0),
    digest        touchstone.digest NOT NULL,
    metadata      text NOT NULL CHECK (length(metadata) <= 8388608),
    key_id        touchstone.digest NOT NULL REFERENCES touchstone.signer,
    signature     text NOT NULL CHECK (length(signature) <= 400 AND signature ~ '^[0-9a-f]+$'),
    person        touchstone.line NOT NULL,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (digest, key_id)
);
CREATE INDEX ON touchstone.status_signature (version);

CREATE FUNCTION touchstone.guard_status_signature() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signer touchstone.signer;
BEGIN
    SELECT * INTO signer FROM touchstone.signer WHERE key_id = NEW.key_id;
    IF touchstone.my_role() IS DISTINCT FROM 'assessor'
       OR touchstone.my_kind() IS DISTINCT FROM 'facility'
       OR (NEW.person, NEW.organisation)
           IS DISTINCT FROM (touchstone.my_person(), touchstone.my_organisation())
       OR (signer.person, signer.organisation) IS DISTINCT FROM (NEW.person, NEW.organisation)
       OR signer.role IS DISTINCT FROM 'assessor'
       OR EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'the status is signed by assessors, each in their own name, with an '
            'enrolled key that stands' USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.status_signature
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_status_signature();

-- 3. Append-only; read and written through the gate's role alone.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['status_file', 'status_signature'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY gate ON touchstone.%I TO touchstone_gate
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT ON touchstone.%I TO touchstone_gate', name);
    END LOOP;
END $$;
CREATE POLICY gate ON touchstone.revoked_key FOR SELECT TO touchstone_gate USING (true);
GRANT SELECT ON touchstone.revoked_key TO touchstone_gate;
REVOKE EXECUTE ON FUNCTION touchstone.guard_status_file, touchstone.guard_status_signature
    FROM PUBLIC;
