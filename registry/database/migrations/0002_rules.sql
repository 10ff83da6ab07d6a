-- The rules that must not be broken, whoever writes: they hold for the application's own role too.

-- 1. Append-only things stay as they are.
CREATE FUNCTION touchstone.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['event', 'decision', 'protocol', 'cohort', 'signer', 'step'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['submission', 'attempt', 'certificate', 'organisation'] LOOP
        EXECUTE format('CREATE TRIGGER never_removed BEFORE DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
    END LOOP;
END $$;

-- 2. The log is a hash chain, and this function is its only pen.
--    hash = sha256(previous || seq US at US actor US organisation US kind US subject US detail)
CREATE FUNCTION touchstone.event_hash(
    previous bytea, seq bigint, at timestamptz, actor text, organisation text, kind text,
    subject text, detail text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(previous || convert_to(concat_ws(E'\x1f', seq::text,
        to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        actor, organisation, kind, subject, detail), 'UTF8'))
$$;

CREATE FUNCTION touchstone.append_event(
    actor text, organisation text, kind text, subject text, detail text)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
DECLARE
    last touchstone.event;
    next_seq bigint;
    next_previous bytea;
    next_at timestamptz := clock_timestamp();
BEGIN
    PERFORM pg_advisory_xact_lock(7460001);  -- one pen at a time, held until commit
    SELECT * INTO last FROM touchstone.event ORDER BY seq DESC LIMIT 1;
    next_seq := coalesce(last.seq, 0) + 1;
    next_previous := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    INSERT INTO touchstone.event VALUES (next_seq, next_at, actor, organisation, kind, subject,
        detail, next_previous, touchstone.event_hash(next_previous, next_seq, next_at, actor,
        organisation, kind, subject, detail));
    RETURN next_seq;
END $$;

-- 3. A submission moves along ARCHITECTURE's arrows only, and each move is an event.
CREATE TABLE touchstone.arrow (source text, target text, PRIMARY KEY (source, target));
INSERT INTO touchstone.arrow VALUES
    ('registered', 'intake'), ('intake', 'queued'), ('queued', 'running'),
    ('running', 'assessed'), ('assessed', 'in_review'),
    ('in_review', 'certified'), ('in_review', 'conditional'), ('in_review', 'not_certified'),
    ('registered', 'withdrawn'), ('intake', 'withdrawn'), ('queued', 'withdrawn'),
    ('running', 'withdrawn'), ('assessed', 'withdrawn'),
    ('registered', 'technical_failure'), ('intake', 'technical_failure'),
    ('queued', 'technical_failure'), ('running', 'technical_failure'),
    ('assessed', 'technical_failure'),
    ('certified', 'suspended'), ('certified', 'revoked'), ('certified', 'expired'),
    ('conditional', 'suspended'), ('conditional', 'revoked'), ('conditional', 'expired'),
    ('suspended', 'certified'), ('suspended', 'conditional'), ('suspended', 'revoked'),
    ('suspended', 'expired');

CREATE FUNCTION touchstone.guard_submission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.organisation, NEW.model_name, NEW.model_version, NEW.protocol_digest,
        NEW.cohort_id, NEW.cohort_version, NEW.submitted_by, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.organisation, OLD.model_name, OLD.model_version, OLD.protocol_digest,
        OLD.cohort_id, OLD.cohort_version, OLD.submitted_by, OLD.created_at) THEN
        RAISE EXCEPTION 'what a submission binds is never changed' USING ERRCODE = 'restrict_violation';
    END IF;
    -- Write-once: a digest or a verdict that stands stays.
    IF (OLD.model_digest IS NOT NULL AND NEW.model_digest IS DISTINCT FROM OLD.model_digest)
       OR (OLD.verdict IS NOT NULL AND NEW.verdict IS DISTINCT FROM OLD.verdict)
       OR (OLD.report_digest IS NOT NULL AND NEW.report_digest IS DISTINCT FROM OLD.report_digest)
       OR (OLD.statement_digest IS NOT NULL
           AND NEW.statement_digest IS DISTINCT FROM OLD.statement_digest)
       OR (NOT OLD.certifiable AND NEW.certifiable) THEN
        RAISE EXCEPTION 'a computed verdict and the digests it names are never changed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state THEN
        IF NOT EXISTS (SELECT FROM touchstone.arrow a
                       WHERE a.source = OLD.state AND a.target = NEW.state) THEN
            RAISE EXCEPTION 'a submission can''t go from % to %', OLD.state, NEW.state
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF NEW.state IN ('certified', 'conditional') AND NOT EXISTS (
               SELECT FROM touchstone.certificate c WHERE c.submission = NEW.id) THEN
            RAISE EXCEPTION 'a submission is % by its certificate only', NEW.state
                USING ERRCODE = 'restrict_violation';
        END IF;
        PERFORM touchstone.append_event(
            coalesce(nullif(current_setting('touchstone.actor', true), ''), 'touchstone'),
            NEW.organisation, 'submission-' || replace(NEW.state, '_', '-'), NEW.id::text,
            json_build_object('from', OLD.state)::text);
        NEW.changed_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_submission();

CREATE FUNCTION touchstone.begin_submission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'registered' OR NEW.verdict IS NOT NULL OR NEW.model_digest IS NOT NULL THEN
        RAISE EXCEPTION 'a submission begins as registered, without a verdict'
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.append_event(NEW.submitted_by, NEW.organisation, 'submission-registered',
        NEW.id::text, json_build_object('model', NEW.model_name, 'version', NEW.model_version,
        'protocol', NEW.protocol_digest, 'cohort', NEW.cohort_id)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER begin_registered BEFORE INSERT ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.begin_submission();

-- 4. A decision is on the report that stands, by an enrolled assessor of a facility, and can't be
--    better than the verdict.
CREATE FUNCTION touchstone.guard_decision() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    s touchstone.submission;
    signer touchstone.signer;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR UPDATE;
    SELECT * INTO signer FROM touchstone.signer WHERE key_id = NEW.key_id;
    IF s.state <> 'in_review' THEN
        RAISE EXCEPTION 'a decision needs a submission in review; this one is %', s.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.report_digest <> s.report_digest THEN
        RAISE EXCEPTION 'the decision is on another report than the one that stands'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF signer.person <> NEW.person OR signer.organisation = s.organisation THEN
        RAISE EXCEPTION 'the signing key belongs to another person or to the submitter'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT EXISTS (SELECT FROM touchstone.organisation o
                   WHERE o.id = signer.organisation AND o.kind = 'facility') THEN
        RAISE EXCEPTION 'only a facility''s assessor decides' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.outcome <> 'reject' AND (NOT s.certifiable
        OR (NEW.outcome = 'certify' AND s.verdict <> 'pass')
        OR (NEW.outcome = 'conditional' AND s.verdict <> 'conditional')) THEN
        RAISE EXCEPTION 'a verdict of % can''t be turned into %', s.verdict, NEW.outcome
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.decision
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_decision();

-- 5. A certificate needs the verdict and two people's decisions on the report that stands.
CREATE FUNCTION touchstone.guard_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    s touchstone.submission;
    agreeing integer;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.submission, NEW.organisation, NEW.model_name, NEW.model_version, NEW.envelope,
            NEW.signers, NEW.not_after, NEW.issued_at) IS DISTINCT FROM
           (OLD.submission, OLD.organisation, OLD.model_name, OLD.model_version, OLD.envelope,
            OLD.signers, OLD.not_after, OLD.issued_at) OR (NEW.in_force AND NOT OLD.in_force) THEN
            RAISE EXCEPTION 'a certificate is only ever taken out of force'
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR UPDATE;
    SELECT count(DISTINCT d.person) INTO agreeing FROM touchstone.decision d
        WHERE d.submission = NEW.submission AND d.report_digest = s.report_digest
          AND d.outcome = CASE s.verdict WHEN 'pass' THEN 'certify'
                                         WHEN 'conditional' THEN 'conditional' END;
    IF s.verdict IS NULL OR s.verdict NOT IN ('pass', 'conditional') OR NOT s.certifiable
       OR s.state <> 'in_review' OR agreeing < 2
       OR (NEW.organisation, NEW.model_name, NEW.model_version)
          IS DISTINCT FROM (s.organisation::text, s.model_name, s.model_version) THEN
        RAISE EXCEPTION 'no certificate: verdict %, state %, % agreeing assessors (2 needed)',
            s.verdict, s.state, agreeing USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.append_event('touchstone', NEW.organisation, 'certificate-issued',
        NEW.submission::text, json_build_object('model', NEW.model_name,
        'version', NEW.model_version, 'not_after', NEW.not_after)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON touchstone.certificate
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_certificate();

-- 6. Attempts: no more than the protocol allows, whoever asks at the same time.
CREATE FUNCTION touchstone.guard_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed integer;
    spent integer;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.submission, NEW.family, NEW.cohort_id, NEW.cohort_version, NEW.spent_at)
           IS DISTINCT FROM
           (OLD.submission, OLD.family, OLD.cohort_id, OLD.cohort_version, OLD.spent_at)
           OR OLD.returned_at IS NOT NULL OR NEW.returned_reason IS NULL THEN
            RAISE EXCEPTION 'an attempt can only be given back, once, with a reason'
                USING ERRCODE = 'restrict_violation';
        END IF;
    ELSE
        PERFORM pg_advisory_xact_lock(hashtextextended(
            NEW.family || E'\x1f' || NEW.cohort_id || E'\x1f' || NEW.cohort_version, 746));
        SELECT p.attempts INTO allowed FROM touchstone.submission s
            JOIN touchstone.protocol p ON p.digest = s.protocol_digest WHERE s.id = NEW.submission;
        SELECT count(*) INTO spent FROM touchstone.attempt a
            WHERE a.family = NEW.family AND a.cohort_id = NEW.cohort_id
              AND a.cohort_version = NEW.cohort_version AND a.returned_at IS NULL;
        IF spent >= allowed THEN
            RAISE EXCEPTION 'all % attempts on this cohort are spent', allowed
                USING ERRCODE = 'check_violation', CONSTRAINT = 'attempts_left';
        END IF;
    END IF;
    PERFORM touchstone.append_event('touchstone', split_part(NEW.family, '/', 1),
        CASE WHEN NEW.returned_at IS NULL THEN 'attempt-spent' ELSE 'attempt-returned' END,
        NEW.submission::text, json_build_object('family', NEW.family, 'cohort', NEW.cohort_id,
        'version', NEW.cohort_version)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_attempt();

-- 7. What MLflow's tables ask (triggers on them: see the gate).
CREATE FUNCTION touchstone.alias_permitted(organisation text, model_name text, model_version text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.certificate c
        WHERE c.organisation = $1 AND c.model_name = $2 AND c.model_version::text = $3
          AND c.in_force AND c.not_after > now())
$$;

CREATE FUNCTION touchstone.version_is_bound(organisation text, model_name text, model_version text)
RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT EXISTS (SELECT FROM touchstone.submission s
        WHERE s.organisation = $1 AND s.model_name = $2 AND s.model_version::text = $3)
$$;
