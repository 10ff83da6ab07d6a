-- The log's tree and its checkpoints. The chain and its only pen are in 0002 and 0004.

-- 1. No field of an event can run into the next one.
ALTER TABLE touchstone.event ADD CONSTRAINT organisation_is_a_line
    CHECK (length(organisation) <= 200 AND organisation !~ '[\x01-\x1f\x7f]');
CREATE INDEX event_of_organisation ON touchstone.event (organisation, seq);

-- 2. Leaves of the tree (RFC 9162): SHA-256 over 0x00 and the event's canonical JSON, which
--    registry/trust/event.py writes too; a test holds the two together. Hashes alone say nothing
--    about whose events they are, so the gate's role may have those of all.
CREATE FUNCTION touchstone.event_leaf(e touchstone.event) RETURNS bytea LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256('\x00'::bytea || convert_to(
        '{"actor":' || to_json(e.actor::text)::text
        || ',"at":"' || to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","detail":' || to_json(e.detail::text)::text
        || ',"kind":' || to_json(e.kind::text)::text
        || ',"organisation":' || to_json(e.organisation::text)::text
        || ',"previous":"' || encode(e.previous, 'hex')
        || '","seq":' || e.seq::text
        || ',"subject":' || to_json(e.subject::text)::text || '}', 'UTF8'))
$$;

-- The leaf hashes after `after`, joined, at most `most` of them, and the last one's number.
CREATE FUNCTION touchstone.leaf_hashes(after bigint, most integer)
RETURNS TABLE (leaves bytea, last bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(touchstone.event_leaf(e), ''::bytea ORDER BY e.seq), max(e.seq)
    FROM (SELECT * FROM touchstone.event WHERE seq > after ORDER BY seq LIMIT most) e
$$;

CREATE FUNCTION touchstone.log_size() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(seq), 0) FROM touchstone.event
$$;

-- 3. Checkpoints that were signed. The notes themselves lie in the object store, where whoever
--    rewrites this database can't reach them; this is their index.
CREATE TABLE touchstone.checkpoint (
    size     bigint PRIMARY KEY CHECK (size > 0),
    root     bytea NOT NULL CHECK (length(root) = 32),
    path     text NOT NULL UNIQUE,
    made_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.checkpoint
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.checkpoint
    EXECUTE FUNCTION touchstone.refuse_change();

CREATE FUNCTION touchstone.guard_checkpoint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.size > touchstone.log_size() THEN
        RAISE EXCEPTION 'a checkpoint of % events is of a log that has fewer', NEW.size
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.checkpoint
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_checkpoint();

ALTER TABLE touchstone.checkpoint ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.checkpoint FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON touchstone.checkpoint TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY worker ON touchstone.checkpoint FOR SELECT TO touchstone_worker USING (true);
CREATE POLICY gate ON touchstone.checkpoint TO touchstone_gate USING (true) WITH CHECK (true);
-- A checkpoint is for everybody who has business here: two hashes and a number.
CREATE POLICY read ON touchstone.checkpoint FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IS NOT NULL);
GRANT SELECT ON touchstone.checkpoint TO touchstone_app, touchstone_worker, touchstone_gate;
GRANT INSERT ON touchstone.checkpoint TO touchstone_gate;

REVOKE EXECUTE ON FUNCTION touchstone.event_leaf, touchstone.leaf_hashes, touchstone.log_size,
    touchstone.guard_checkpoint FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.leaf_hashes, touchstone.log_size TO touchstone_gate;
