-- A decision that became void gives way: its signer, or another assessor, decides anew, and the void
-- one stays in the record. Decision record 0013. And the order that the lists are read in.

-- 1. Void is: signed by a key that was revoked before the review ended, or on another report or statement than the ones that
--    stand, by its row or by what was signed. (Whether the signature is good is the server's and the
--    hospital's question: an envelope that can't be read is void once its key is revoked.)
CREATE FUNCTION touchstone.is_void(d touchstone.decision) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    said jsonb;
    ended timestamptz;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = d.submission;
    SELECT coalesce(
        (SELECT c.issued_at FROM touchstone.certificate c WHERE c.submission = s.id),
        CASE s.state WHEN 'in_review' THEN 'infinity' ELSE s.changed_at END) INTO ended;
    BEGIN
        said := touchstone.stated(d.envelope);
    EXCEPTION WHEN data_exception THEN
        said := NULL;
    END;
    RETURN EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = d.key_id
                   AND r.revoked_at < ended)
        OR d.report_digest IS DISTINCT FROM s.report_digest
        OR coalesce(said ->> 'report', s.report_digest) IS DISTINCT FROM s.report_digest
        OR coalesce(said ->> 'statement', s.statement_digest) IS DISTINCT FROM s.statement_digest;
END $$;

-- 2. One decision of a person that stands, not one for good.
ALTER TABLE touchstone.decision
    DROP CONSTRAINT decision_pkey,
    DROP CONSTRAINT decision_submission_key_id_key,
    ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
CREATE INDEX ON touchstone.decision (submission);

-- 0002's `guard` holds the submission's row: two at once come one after the other. Asked after the
-- policies, so that it tells nobody what is there who may not decide.
CREATE FUNCTION touchstone.one_voice() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM touchstone.decision d
        JOIN touchstone.signer was ON was.key_id = d.key_id
        JOIN touchstone.signer new_one ON new_one.key_id = NEW.key_id
        WHERE d.submission = NEW.submission AND d.number <> NEW.number
          AND was.organisation = new_one.organisation
          AND touchstone.name_key(d.person) = touchstone.name_key(NEW.person)
          AND NOT touchstone.is_void(d)) THEN
        RAISE EXCEPTION '% has decided on this submission already', NEW.person
            USING ERRCODE = 'unique_violation', TABLE = 'decision', SCHEMA = 'touchstone';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER voice AFTER INSERT ON touchstone.decision
    FOR EACH ROW EXECUTE FUNCTION touchstone.one_voice();

-- 3. 0007's count, without what is void.
CREATE OR REPLACE FUNCTION touchstone.agreeing(submission uuid, outcome text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT count(DISTINCT (g.organisation, touchstone.name_key(g.person)))::integer
    FROM touchstone.submission s
    JOIN touchstone.decision d ON d.submission = s.id
    JOIN touchstone.signer g ON g.key_id = d.key_id AND g.person = d.person
    JOIN touchstone.organisation o ON o.id = g.organisation AND o.kind = 'facility'
    WHERE s.id = $1 AND d.outcome = $2 AND g.role = 'assessor' AND g.organisation <> s.organisation
      AND NOT touchstone.is_void(d) AND NOT touchstone.locked_it(s.id, d.person)
$$;

-- 4. Lists. A notice gets its number when it is its turn to commit (the log's own lock), so that
--    whoever asks for those beyond a number misses none that was still being written.
CREATE FUNCTION touchstone.notices_in_turn() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7460001);
    RETURN NULL;
END $$;
CREATE TRIGGER in_turn BEFORE INSERT ON touchstone.notice
    FOR EACH STATEMENT EXECUTE FUNCTION touchstone.notices_in_turn();
CREATE INDEX ON touchstone.token (created_at DESC, id DESC);

REVOKE EXECUTE ON FUNCTION touchstone.is_void, touchstone.one_voice, touchstone.notices_in_turn
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.is_void TO touchstone_app, touchstone_worker, touchstone_gate;
