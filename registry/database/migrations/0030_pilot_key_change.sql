-- A hospital that lost its pilot key reports by another one: its clinician announces it, and two
-- assessors agree, who asked the hospital by another way. Decision record 0037.

ALTER TABLE touchstone.pilot_key DROP CONSTRAINT pilot_key_pkey;
ALTER TABLE touchstone.pilot_key ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;

CREATE TABLE touchstone.pilot_key_announced (
    key_id        touchstone.digest PRIMARY KEY,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    pem           text NOT NULL CHECK (length(pem) <= 4000),
    reason        touchstone.line NOT NULL,
    announced_by  touchstone.line NOT NULL,
    announced_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE touchstone.pilot_key_agreed (
    key_id        touchstone.digest NOT NULL REFERENCES touchstone.pilot_key_announced,
    person        touchstone.line NOT NULL,
    agreed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, person)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['pilot_key_announced', 'pilot_key_agreed'] LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.%I
                        FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('GRANT SELECT, INSERT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
END $$;
CREATE POLICY read ON touchstone.pilot_key_announced FOR SELECT TO touchstone_app USING (
    organisation = (SELECT touchstone.my_organisation()) OR (SELECT touchstone.sees_all()));
CREATE POLICY announce ON touchstone.pilot_key_announced FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'clinician' AND announced_by = (SELECT touchstone.my_person())
    AND organisation = (SELECT touchstone.my_organisation()));
CREATE POLICY read ON touchstone.pilot_key_agreed FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()) OR EXISTS (
        SELECT FROM touchstone.pilot_key_announced n WHERE n.key_id = pilot_key_agreed.key_id
          AND n.organisation = (SELECT touchstone.my_organisation())));
CREATE POLICY agree ON touchstone.pilot_key_agreed FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'assessor' AND (SELECT touchstone.sees_all())
    AND person = (SELECT touchstone.my_person()));

-- The first key of a hospital is pinned by its use; each later one by two assessors.
CREATE OR REPLACE FUNCTION touchstone.guard_pilot_key() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.pinned_at := now();
    PERFORM pg_advisory_xact_lock(hashtextextended('pilot_key ' || NEW.organisation, 0));
    IF NOT EXISTS (SELECT FROM touchstone.organisation o
                   WHERE o.id = NEW.organisation AND o.kind = 'hospital') THEN
        RAISE EXCEPTION 'pilots are reported by hospitals' USING ERRCODE = 'restrict_violation';
    ELSIF EXISTS (SELECT FROM touchstone.pilot_key k WHERE k.organisation = NEW.organisation)
      AND NOT EXISTS (
        SELECT FROM touchstone.pilot_key_announced n WHERE n.key_id = NEW.key_id
          AND n.organisation = NEW.organisation AND n.pem = NEW.pem
          AND (SELECT count(*) FROM touchstone.pilot_key_agreed a WHERE a.key_id = n.key_id) >= 2)
    THEN
        RAISE EXCEPTION 'this hospital has a key: another one is announced, and two assessors agree'
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.append_event(NEW.pinned_by, NEW.organisation, 'pilot-key-pinned',
        NEW.key_id, '{}');
    RETURN NEW;
END $$;

CREATE FUNCTION touchstone.guard_pilot_key_announced() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.announced_at := now();
    IF NOT EXISTS (SELECT FROM touchstone.pilot_key k WHERE k.organisation = NEW.organisation) THEN
        RAISE EXCEPTION 'no key of this hospital is pinned yet: its first report pins one'
            USING ERRCODE = 'restrict_violation';
    ELSIF EXISTS (SELECT FROM touchstone.pilot_key k WHERE k.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'this key was pinned before: make another one'
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM touchstone.append_event(NEW.announced_by, NEW.organisation, 'pilot-key-announced',
        NEW.key_id, json_build_object('reason', NEW.reason)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.pilot_key_announced
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_pilot_key_announced();

CREATE FUNCTION touchstone.guard_pilot_key_agreed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE n touchstone.pilot_key_announced;
BEGIN
    SELECT * INTO n FROM touchstone.pilot_key_announced WHERE key_id = NEW.key_id;
    PERFORM pg_advisory_xact_lock(hashtextextended('pilot_key ' || n.organisation, 0));
    PERFORM touchstone.append_event(NEW.person, n.organisation, 'pilot-key-agreed', NEW.key_id,
        json_build_object('hospital', n.organisation)::text);
    IF (SELECT count(*) FROM touchstone.pilot_key_agreed a WHERE a.key_id = NEW.key_id) = 2 THEN
        INSERT INTO touchstone.pilot_key (organisation, key_id, pem, pinned_by)
        VALUES (n.organisation, n.key_id, n.pem, n.announced_by);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER pin AFTER INSERT ON touchstone.pilot_key_agreed
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_pilot_key_agreed();

-- As in 0024, but that the key is the one which was pinned last.
CREATE OR REPLACE FUNCTION touchstone.guard_pilot_report() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said jsonb := convert_from(decode(NEW.envelope ->> 'payload', 'base64'), 'UTF8')::jsonb;
    s touchstone.submission;
BEGIN
    IF NEW.submission IS DISTINCT FROM touchstone.pulled_by_me(said ->> 'certificate') THEN
        RAISE EXCEPTION 'a pilot is reported by a hospital that pulled the certified model'
            USING ERRCODE = 'restrict_violation';
    ELSIF NEW.key_id IS DISTINCT FROM (
        SELECT k.key_id FROM touchstone.pilot_key k WHERE k.organisation = NEW.organisation
        ORDER BY k.number DESC LIMIT 1)
    THEN
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

REVOKE EXECUTE ON FUNCTION touchstone.guard_pilot_key_announced, touchstone.guard_pilot_key_agreed
    FROM PUBLIC;
