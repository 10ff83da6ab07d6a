-- Pilots: what hospitals report of a certified model, and notices before a certificate ends.
-- Decision record 0037.

-- 1. The digest that names a certificate: that of the statement which its signers signed.
CREATE FUNCTION touchstone.statement_digest(envelope jsonb) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'sha256:' || encode(sha256(decode(envelope ->> 'payload', 'base64')), 'hex')
$$;

-- The submission behind a certificate that the hospital which entered has pulled, in force or not.
CREATE FUNCTION touchstone.pulled_by_me(certificate text) RETURNS uuid LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.submission FROM touchstone.certificate c
    WHERE touchstone.statement_digest(c.envelope) = certificate
      AND touchstone.my_kind() = 'hospital'
      AND EXISTS (SELECT FROM touchstone.event e WHERE e.subject = c.submission::text
                  AND e.kind = 'bundle-pulled' AND e.organisation = touchstone.my_organisation())
    LIMIT 1
$$;

-- 2. A hospital's key, pinned when its account first uses it; and what it signed.
CREATE TABLE touchstone.pilot_key (
    organisation  touchstone.slug PRIMARY KEY REFERENCES touchstone.organisation,
    key_id        touchstone.digest NOT NULL UNIQUE,
    pem           text NOT NULL CHECK (length(pem) <= 4000),
    pinned_by     touchstone.line NOT NULL,
    pinned_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE touchstone.pilot_report (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    submission    uuid NOT NULL REFERENCES touchstone.submission,
    key_id        touchstone.digest NOT NULL REFERENCES touchstone.pilot_key (key_id),
    envelope      jsonb NOT NULL,
    last_month    text NOT NULL,
    patients      integer NOT NULL,
    alarms        text[] NOT NULL,
    received_by   touchstone.line NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation, submission, last_month)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['pilot_key', 'pilot_report'] LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE POLICY read ON touchstone.%I FOR SELECT TO touchstone_app USING (
            organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()))',
            name);
        EXECUTE format('GRANT SELECT, INSERT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
END $$;
CREATE POLICY pin ON touchstone.pilot_key FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'clinician' AND pinned_by = (SELECT touchstone.my_person())
    AND organisation = (SELECT touchstone.my_organisation()));
CREATE POLICY report ON touchstone.pilot_report FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'clinician' AND received_by = (SELECT touchstone.my_person())
    AND organisation = (SELECT touchstone.my_organisation()));

CREATE FUNCTION touchstone.guard_pilot_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.pinned_at := now();
    IF NOT EXISTS (SELECT FROM touchstone.organisation o
                   WHERE o.id = NEW.organisation AND o.kind = 'hospital') THEN
        RAISE EXCEPTION 'pilots are reported by hospitals' USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.append_event(NEW.pinned_by, NEW.organisation, 'pilot-key-pinned',
        NEW.key_id, '{}');
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.pilot_key
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_pilot_key();

-- What is shown of a report comes from what was signed, and of a model that was pulled.
CREATE FUNCTION touchstone.guard_pilot_report() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said jsonb := convert_from(decode(NEW.envelope ->> 'payload', 'base64'), 'UTF8')::jsonb;
    s touchstone.submission;
BEGIN
    IF NEW.submission IS DISTINCT FROM touchstone.pulled_by_me(said ->> 'certificate') THEN
        RAISE EXCEPTION 'a pilot is reported by a hospital that pulled the certified model'
            USING ERRCODE = 'restrict_violation';
    ELSIF NOT EXISTS (SELECT FROM touchstone.pilot_key k
                      WHERE k.organisation = NEW.organisation AND k.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'the report is signed by another key than this hospital''s'
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.received_at := now();
    NEW.last_month := said ->> 'last_month';
    NEW.patients := (said ->> 'patients')::integer;
    NEW.alarms := ARRAY(SELECT w ->> 'question' FROM jsonb_array_elements(said -> 'watched') w
                        WHERE w ->> 'alarm' IS NOT NULL ORDER BY 1);
    PERFORM touchstone.append_event(NEW.received_by, NEW.organisation, 'pilot-reported',
        NEW.submission::text, json_build_object('last_month', NEW.last_month, 'alarms', NEW.alarms,
        'report', touchstone.statement_digest(NEW.envelope))::text);
    IF cardinality(NEW.alarms) > 0 THEN
        SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission;
        INSERT INTO touchstone.notice (organisation, submission, kind, message, occasion)
        VALUES (s.organisation, s.id, 'pilot-alarm', left(s.model_name || ' version '
            || s.model_version || ': the pilot of a hospital gives an alarm ('
            || array_to_string(NEW.alarms, ', ') || ')', 2000), clock_timestamp());
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.pilot_report
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_pilot_report();

-- 3. Notices before a certificate ends, once each: to the submitter and to who pulled the model. Of
--    the three only the one that is due now is written, so a late start tells once, not thrice.
CREATE FUNCTION touchstone.tell_of_ends(seen_at timestamptz) RETURNS bigint LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH ending AS (
        SELECT s.id, s.organisation, s.model_name, s.model_version, c.not_after,
            (SELECT min(d) FROM unnest(ARRAY[7, 30, 60]) AS d
             WHERE c.not_after <= seen_at + make_interval(days => d)) AS days
        FROM touchstone.submission s JOIN touchstone.certificate c ON c.submission = s.id
        WHERE s.state IN ('certified', 'conditional', 'suspended')
          AND c.not_after > seen_at AND c.not_after <= seen_at + interval '60 days'),
    told AS (
        INSERT INTO touchstone.notice (organisation, submission, kind, message, occasion)
        SELECT reader.id, e.id, 'ends-within-' || e.days || '-days', left(e.model_name || ' version '
            || e.model_version || ': its certificate ends on '
            || to_char(e.not_after AT TIME ZONE 'UTC', 'YYYY-MM-DD') || ', within ' || e.days
            || ' days; after that it may not be used, unless a new version is certified', 2000),
            e.not_after
        FROM ending e CROSS JOIN LATERAL (
            SELECT e.organisation AS id UNION
            SELECT v.organisation FROM touchstone.event v JOIN touchstone.organisation o
                ON o.id = v.organisation
            WHERE v.subject = e.id::text AND v.kind = 'bundle-pulled' AND o.kind = 'hospital'
        ) AS reader
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT count(*) FROM told
$$;

REVOKE EXECUTE ON FUNCTION touchstone.statement_digest, touchstone.pulled_by_me,
    touchstone.guard_pilot_key, touchstone.guard_pilot_report, touchstone.tell_of_ends FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.statement_digest, touchstone.pulled_by_me TO touchstone_app;
GRANT EXECUTE ON FUNCTION touchstone.tell_of_ends TO touchstone_worker;
