-- "No restriction" needs no agreement, and so would go around the four eyes of agreements: it counts
-- once another steward has said the same. Decision record 0026.

-- What stands already goes on; of a new statement the trigger says whether it counts by itself.
ALTER TABLE touchstone.cohort_condition ADD COLUMN settled boolean NOT NULL DEFAULT true;
ALTER TABLE touchstone.cohort_condition ALTER COLUMN settled SET DEFAULT false;

CREATE OR REPLACE FUNCTION touchstone.guard_condition() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d touchstone.cohort_condition;
BEGIN
    NEW.declared_at := now();
    NEW.settled := NEW.grandfathered OR NEW.codes <> '{DUO:0000004}';
    IF NEW.grandfathered THEN
        RETURN NEW;
    END IF;
    IF NOT NEW.settled THEN
        -- One after the other, so that each sees what the one before it said.
        PERFORM pg_advisory_xact_lock(hashtextextended(
            NEW.cohort_id || E'\x1f' || NEW.cohort_version, 747));
        d := touchstone.latest_condition(NEW.cohort_id, NEW.cohort_version);
        NEW.settled := coalesce(NOT d.grandfathered AND d.codes = NEW.codes
            AND d.words = NEW.words AND d.until IS NOT DISTINCT FROM NEW.until
            AND touchstone.my_person() IS NOT NULL
            AND touchstone.name_key(d.declared_by) <> touchstone.name_key(NEW.declared_by)
            AND touchstone.name_key(touchstone.my_person()) = touchstone.name_key(NEW.declared_by),
            false);
    END IF;
    PERFORM touchstone.append_event('touchstone', NEW.organisation, 'conditions-declared',
        NEW.cohort_id || '/' || NEW.cohort_version, json_build_object('codes', NEW.codes,
        'words', NEW.words, 'until', NEW.until, 'settled', NEW.settled)::text);
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION touchstone.use_refused(cohort text, version text, protocol text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d touchstone.cohort_condition := touchstone.latest_condition(cohort, version);
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF d.number IS NULL THEN
        RETURN format('nobody has declared what the cohort %s %s may be used for: a steward does, or '
            'says that there are no conditions (touchstone cohort conditions)', cohort, version);
    ELSIF d.until < today THEN
        RETURN format('the cohort %s %s could be used until %s', cohort, version, d.until);
    ELSIF d.grandfathered OR (d.codes = '{DUO:0000004}' AND d.settled) THEN
        RETURN NULL;
    ELSIF EXISTS (SELECT FROM touchstone.agreement a
                  WHERE a.cohort_id = use_refused.cohort AND a.cohort_version = use_refused.version
                    AND a.protocol_id = use_refused.protocol AND a.conditions = d.number
                    AND a.state = 'resource_made_available'
                    AND today BETWEEN a.valid_from AND a.valid_until) THEN
        RETURN NULL;
    ELSIF d.codes = '{DUO:0000004}' THEN
        RETURN format('%s alone said that the cohort %s %s has no conditions: another steward confirms '
            'it (touchstone cohort conditions %s --confirm)', d.declared_by, cohort, version, cohort);
    END IF;
    RETURN format('no agreement in force lets the protocol %s use the cohort %s %s (touchstone '
        'cohort agreement)', protocol, cohort, version);
END $$;
