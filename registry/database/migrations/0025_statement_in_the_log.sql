-- The event by which a model is certified names the statement that was signed, so that a hospital
-- can be shown that the log holds this very certificate.

CREATE OR REPLACE FUNCTION touchstone.guard_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    s touchstone.submission;
    agreeing integer;
BEGIN
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
        'version', NEW.model_version, 'not_after', NEW.not_after,
        'statement', touchstone.payload_digest(NEW.envelope))::text);
    RETURN NEW;
END $$;

-- That one event, for the proof that goes with the bundle; of no other has the gate the content.
CREATE FUNCTION touchstone.certificate_event(submission text) RETURNS SETOF touchstone.event
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = touchstone, pg_temp AS $$
    SELECT * FROM touchstone.event e
    WHERE e.subject = submission AND e.kind = 'certificate-issued' ORDER BY e.seq LIMIT 1
$$;
REVOKE EXECUTE ON FUNCTION touchstone.certificate_event FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.certificate_event, touchstone.payload_digest
    TO touchstone_gate;
