-- Families of models: whose attempts count together on a cohort version, and that they stop at the
-- first pass. Decision record 0021.
--
-- A family is an organisation's models for one indication (a protocol's id). Families of which two
-- models have almost the same weights are joined on that cohort version, also by way of a third:
-- their attempts count together, and a pass of one is the end for all.

-- 1. What each model's weights look like, and which models of other organisations are alike.
CREATE TABLE touchstone.fingerprint (
    submission  uuid PRIMARY KEY REFERENCES touchstone.submission,
    weights     jsonb NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE touchstone.kinship (
    submission  uuid NOT NULL REFERENCES touchstone.fingerprint,
    other       uuid NOT NULL REFERENCES touchstone.fingerprint,
    share       double precision NOT NULL CHECK (share BETWEEN 0 AND 1),
    same        boolean NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (submission, other)
);
CREATE INDEX ON touchstone.kinship (other);
-- What passed intake before this migration is compared with nothing, and may go on.
INSERT INTO touchstone.fingerprint (submission, weights)
    SELECT id, '{"contents": null, "tensors": [], "complete": false}' FROM touchstone.submission
    WHERE state IN ('queued', 'running', 'assessed');

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['fingerprint', 'kinship'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY worker ON touchstone.%I TO touchstone_worker
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT ON touchstone.%I TO touchstone_worker', name);
    END LOOP;
END $$;
-- Who is like whom is for the facility: it would tell a submitter of another organisation.
GRANT SELECT ON touchstone.kinship TO touchstone_app;
CREATE POLICY read ON touchstone.kinship FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));

-- 2. One lock for all families of an indication on a cohort version. Whoever compares, submits or
--    spends holds it until commit, so that every pair is compared and no count is stale.
CREATE FUNCTION touchstone.hold_families(protocol text, cohort text, version text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(E'\x1f', $1, $2, $3), 750))
$$;

CREATE FUNCTION touchstone.guard_fingerprint() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    o touchstone.submission;
    indication text;
    facility text;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission;
    SELECT p.id INTO indication FROM touchstone.protocol p WHERE p.digest = s.protocol_digest;
    PERFORM touchstone.hold_families(indication, s.cohort_id, s.cohort_version);
    IF TG_TABLE_NAME = 'kinship' THEN
        SELECT * INTO o FROM touchstone.submission WHERE id = (to_jsonb(NEW) ->> 'other')::uuid;
        IF s.organisation = o.organisation OR NOT EXISTS (
                SELECT FROM touchstone.protocol p
                WHERE p.digest = o.protocol_digest AND p.id = indication
                  AND (o.cohort_id, o.cohort_version) = (s.cohort_id, s.cohort_version)) THEN
            RAISE EXCEPTION 'models of two organisations are compared on one cohort for one indication'
                USING ERRCODE = 'restrict_violation';
        END IF;
        SELECT coalesce(min(f.id), '') INTO facility
            FROM touchstone.organisation f WHERE f.kind = 'facility';
        PERFORM touchstone.append_event('touchstone', facility,
            CASE WHEN (to_jsonb(NEW) ->> 'same')::boolean THEN 'families-joined' ELSE 'models-alike' END,
            NEW.submission::text, json_build_object('other', o.id,
            'share', round((to_jsonb(NEW) ->> 'share')::numeric, 4))::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.fingerprint
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_fingerprint();
CREATE TRIGGER guard BEFORE INSERT ON touchstone.kinship
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_fingerprint();
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.fingerprint
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();

-- 3. Questions about a family. The application asks them of the caller's own, or for the facility.
CREATE FUNCTION touchstone.kin(organisation text, protocol text, cohort text, version text)
RETURNS SETOF text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE joined AS (
        SELECT s.organisation::text AS one, o.organisation::text AS other
        FROM touchstone.kinship k
        JOIN touchstone.submission s ON s.id = k.submission
        JOIN touchstone.submission o ON o.id = k.other
        JOIN touchstone.protocol p ON p.digest = s.protocol_digest
        WHERE k.same AND p.id = $2 AND s.cohort_id = $3 AND s.cohort_version = $4),
    reached (organisation) AS (
        SELECT $1 WHERE session_user <> 'touchstone_app' OR touchstone.sees_all()
            OR $1 = coalesce(touchstone.my_organisation(), '')
        UNION
        SELECT CASE r.organisation WHEN j.one THEN j.other ELSE j.one END
        FROM reached r JOIN joined j ON r.organisation IN (j.one, j.other))
    SELECT r.organisation FROM reached r
$$;

-- The submissions of a family, joined ones included, and whether each has an attempt that counts.
CREATE FUNCTION touchstone.of_family(organisation text, protocol text, cohort text, version text)
RETURNS TABLE (id uuid, state text, passed boolean, spent boolean, tried boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.id, s.state, s.verdict IN ('pass', 'conditional') AND s.certifiable,
        a.submission IS NOT NULL AND a.returned_at IS NULL, a.submission IS NOT NULL
    FROM touchstone.submission s
    JOIN touchstone.protocol p ON p.digest = s.protocol_digest
    LEFT JOIN touchstone.attempt a ON a.submission = s.id
    WHERE s.organisation::text IN (SELECT touchstone.kin($1, $2, $3, $4))
      AND p.id = $2 AND s.cohort_id = $3 AND s.cohort_version = $4
$$;

CREATE FUNCTION touchstone.attempts_spent(
    organisation text, protocol text, cohort text, version text)
RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM touchstone.of_family($1, $2, $3, $4) f WHERE f.spent
$$;

-- Spent, or on the way to be.
CREATE FUNCTION touchstone.attempts_taken(
    organisation text, protocol text, cohort text, version text)
RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM touchstone.of_family($1, $2, $3, $4) f
    WHERE f.spent OR (NOT f.tried AND f.state IN ('registered', 'intake', 'queued', 'running'))
$$;

-- A pass that its submitter was told: in `assessed` it is nobody's yet, and whoever withdrew there,
-- or lost it by a fault of ours, never learns of it. A run without a sandbox proves nothing.
CREATE FUNCTION touchstone.family_passed(
    organisation text, protocol text, cohort text, version text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.of_family($1, $2, $3, $4) f
        WHERE f.passed AND f.state IN ('in_review', 'certified', 'conditional', 'not_certified',
                                       'suspended', 'revoked', 'expired'))
$$;

-- An attempt of the family whose answer is not told yet, be it good or bad.
CREATE FUNCTION touchstone.family_at_work(submission uuid)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.submission s
        JOIN touchstone.protocol p ON p.digest = s.protocol_digest,
        touchstone.of_family(s.organisation, p.id, s.cohort_id, s.cohort_version) f
        WHERE s.id = $1 AND f.id <> s.id AND f.spent AND f.state IN ('running', 'assessed'))
$$;

-- 4. Raise where a submission may not be the family's next attempt.
CREATE FUNCTION touchstone.check_family(submission uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    p touchstone.protocol;
    spent bigint;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = $1;
    SELECT * INTO p FROM touchstone.protocol WHERE digest = s.protocol_digest;
    PERFORM touchstone.hold_families(p.id, s.cohort_id, s.cohort_version);
    IF touchstone.family_passed(s.organisation, p.id, s.cohort_id, s.cohort_version) THEN
        RAISE EXCEPTION 'a model of this family has passed on the cohort % %, so no other attempt on it '
            'is taken: let that model stand, or wait for a new version of the cohort; models with '
            'almost the same weights are one family', s.cohort_id, s.cohort_version
            USING ERRCODE = 'check_violation', CONSTRAINT = 'family_stops_at_pass';
    ELSIF touchstone.family_at_work(s.id) THEN
        RAISE EXCEPTION 'an attempt of this family is under way on the cohort % %; the next waits '
            'for its end', s.cohort_id, s.cohort_version
            USING ERRCODE = 'check_violation', CONSTRAINT = 'family_one_by_one';
    END IF;
    spent := touchstone.attempts_spent(s.organisation, p.id, s.cohort_id, s.cohort_version);
    IF spent >= p.attempts THEN
        RAISE EXCEPTION 'all % attempts of this family on the cohort % % are spent; models with '
            'almost the same weights are one family', p.attempts, s.cohort_id, s.cohort_version
            USING ERRCODE = 'check_violation', CONSTRAINT = 'attempts_left';
    END IF;
END $$;

-- Before 0002's `guard`, which counts an organisation's own (triggers fire by name).
CREATE FUNCTION touchstone.guard_family() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM touchstone.submission s
                   JOIN touchstone.protocol p ON p.digest = s.protocol_digest
                   WHERE s.id = NEW.submission AND NEW.family = s.organisation || '/' || p.id
                     AND (NEW.cohort_id, NEW.cohort_version) = (s.cohort_id, s.cohort_version)) THEN
        RAISE EXCEPTION 'an attempt is of its submission''s own family and cohort'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT EXISTS (SELECT FROM touchstone.fingerprint f WHERE f.submission = NEW.submission) THEN
        RAISE EXCEPTION 'an attempt needs a model whose weights were compared'
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.check_family(NEW.submission);
    RETURN NEW;
END $$;
CREATE TRIGGER family BEFORE INSERT ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_family();

REVOKE EXECUTE ON FUNCTION touchstone.hold_families, touchstone.guard_fingerprint, touchstone.kin,
    touchstone.of_family, touchstone.attempts_spent, touchstone.attempts_taken,
    touchstone.family_passed, touchstone.family_at_work, touchstone.check_family,
    touchstone.guard_family FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.hold_families, touchstone.attempts_spent,
    touchstone.attempts_taken, touchstone.family_passed TO touchstone_app, touchstone_worker;
GRANT EXECUTE ON FUNCTION touchstone.family_at_work, touchstone.check_family TO touchstone_worker;
