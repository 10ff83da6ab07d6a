-- What was asked with an Idempotency-Key, and what was answered: asking twice is asking once.
-- Decision record 0015. A row is its token's own; nothing in it is a secret (a secret is never
-- kept: `withheld`).

CREATE TABLE touchstone.request (
    token         uuid NOT NULL REFERENCES touchstone.token,
    key           text NOT NULL CHECK (key ~ '^[A-Za-z0-9_-]{16,128}$'),
    organisation  touchstone.slug NOT NULL,
    person        touchstone.line NOT NULL,
    fingerprint   touchstone.digest NOT NULL,
    holder        uuid,
    held_until    timestamptz,
    acted         boolean NOT NULL DEFAULT false,
    status        integer CHECK (status BETWEEN 200 AND 299),
    media_type    text,
    body          bytea CHECK (length(body) <= 262144),
    withheld      boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    PRIMARY KEY (token, key),
    CHECK ((holder IS NULL) = (held_until IS NULL)),
    CHECK (status IS NULL OR holder IS NULL),
    CHECK (NOT withheld OR (status IS NOT NULL AND body IS NULL))
);
CREATE INDEX ON touchstone.request (expires_at);

-- What was asked stays, what has been answered stays, and an act can't be taken back.
CREATE FUNCTION touchstone.guard_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.acted AND OLD.expires_at > clock_timestamp() THEN
            RAISE EXCEPTION 'a request that was carried out is remembered until it expires'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF (NEW.token, NEW.key, NEW.organisation, NEW.person, NEW.fingerprint, NEW.created_at,
        NEW.expires_at)
       IS DISTINCT FROM
       (OLD.token, OLD.key, OLD.organisation, OLD.person, OLD.fingerprint, OLD.created_at,
        OLD.expires_at) OR OLD.status IS NOT NULL OR (OLD.acted AND NOT NEW.acted) THEN
        RAISE EXCEPTION 'a request and its answer are never changed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON touchstone.request
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_request();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.request
    EXECUTE FUNCTION touchstone.refuse_change();

-- Everybody's expired rows, a few at a time; called by whoever asks next.
CREATE FUNCTION touchstone.forget_expired_requests() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE gone integer;
BEGIN
    DELETE FROM touchstone.request r USING (
        SELECT q.token, q.key FROM touchstone.request q WHERE q.expires_at < clock_timestamp()
        ORDER BY q.expires_at LIMIT 100 FOR UPDATE SKIP LOCKED) old
    WHERE r.token = old.token AND r.key = old.key;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

ALTER TABLE touchstone.request ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.request FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON touchstone.request TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY mine ON touchstone.request TO touchstone_app, touchstone_gate
    USING (token = (SELECT touchstone.my_token()))
    WITH CHECK (token = (SELECT touchstone.my_token())
        AND organisation = (SELECT touchstone.my_organisation())
        AND person = (SELECT touchstone.my_person()));

GRANT SELECT, INSERT, DELETE ON touchstone.request TO touchstone_app;
GRANT UPDATE (holder, held_until, acted, status, media_type, body, withheld)
    ON touchstone.request TO touchstone_app;
-- The gate writes in the name of whoever asked, and says so with the same mark.
GRANT SELECT, UPDATE (acted) ON touchstone.request TO touchstone_gate;
REVOKE EXECUTE ON FUNCTION touchstone.guard_request, touchstone.forget_expired_requests FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.forget_expired_requests TO touchstone_app;

-- Pages are read in these orders (registry/submissions/pages.py).
CREATE INDEX ON touchstone.submission (created_at DESC, id DESC);
