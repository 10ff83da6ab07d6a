-- A key is released for as long as the step asked, and never beyond the state's deadline; and nobody
-- makes a cohort available to what they asked for themselves. Decision records 0025 and 0026.

-- 1. A release may be shorter than the state, so that one that ended can be followed by another.
CREATE OR REPLACE FUNCTION touchstone.guard_key_release() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
    fits boolean;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR SHARE;
    fits := CASE NEW.purpose
        WHEN 'reference' THEN EXISTS (SELECT FROM touchstone.step t
            WHERE t.submission = s.id AND t.name = 'run')
        ELSE NOT EXISTS (SELECT FROM touchstone.key_release k
            WHERE k.submission = s.id AND k.purpose = 'reference') END;
    IF s.state IS DISTINCT FROM 'running' OR s.deadline <= clock_timestamp()
       OR NOT coalesce(fits, false) THEN
        RAISE EXCEPTION 'the key of the % is not released to a submission that is %, % its deadline',
            NEW.purpose, s.state, CASE WHEN s.deadline <= clock_timestamp() THEN 'past' ELSE 'before' END
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.released_at := now();
    NEW.expires_at := least(NEW.expires_at, s.deadline);
    PERFORM touchstone.append_event('touchstone', s.organisation, 'key-released', s.id::text,
        json_build_object('key', NEW.purpose, 'cohort', s.cohort_id, 'version', s.cohort_version,
        'until', NEW.expires_at)::text);
    RETURN NEW;
END $$;

-- 2. Four eyes: who asked for the use of a cohort does not make it available, nor again after a pause.
--    Agreements that are in force stay.
CREATE FUNCTION touchstone.guard_made_available() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF touchstone.my_person() IS NULL
       OR touchstone.name_key(touchstone.my_person()) = touchstone.name_key(OLD.asked_by) THEN
        RAISE EXCEPTION '% asked for this agreement: another steward makes the cohort available',
            OLD.asked_by USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER made_available_by_another BEFORE UPDATE OF state ON touchstone.agreement
    FOR EACH ROW WHEN (NEW.state = 'resource_made_available')
    EXECUTE FUNCTION touchstone.guard_made_available();
REVOKE EXECUTE ON FUNCTION touchstone.guard_made_available FROM PUBLIC;
