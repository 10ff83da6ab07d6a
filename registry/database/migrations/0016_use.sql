-- Who may use a cohort: its data use conditions, and the agreements that let a protocol be run on it.
-- Decision record 0026.
--
-- The states of an agreement, and their arrows, are those of the BBMRI-ERIC Negotiator, which EUCAIM
-- uses: a negotiation (under review, approved, declined, paused, concluded, abandoned) around one
-- resource (representative contacted … resource made available).

-- 1. What is declared of a cohort version. The latest counts; nothing is taken back.
CREATE TABLE touchstone.cohort_condition (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    codes           text[] NOT NULL,
    words           touchstone.line NOT NULL DEFAULT '',
    until           date,
    grandfathered   boolean NOT NULL DEFAULT false,
    organisation    touchstone.slug REFERENCES touchstone.organisation,
    declared_by     touchstone.line NOT NULL,
    declared_at     timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version),
    CHECK (grandfathered OR (cardinality(codes) > 0 AND organisation IS NOT NULL)),
    CHECK (array_position(codes, NULL) IS NULL
           AND array_to_string(codes, ' ') ~ '^(DUO:[0-9]{7}( DUO:[0-9]{7})*)?$'),
    -- No restriction stands alone.
    CHECK (NOT 'DUO:0000004' = ANY (codes) OR cardinality(codes) = 1)
);
CREATE INDEX ON touchstone.cohort_condition (cohort_id, cohort_version, number DESC);

CREATE TABLE touchstone.agreement (
    id              uuid PRIMARY KEY,
    organisation    touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    cohort_id       touchstone.slug NOT NULL,
    cohort_version  text NOT NULL,
    protocol_id     touchstone.slug NOT NULL,
    purpose         touchstone.line NOT NULL CHECK (length(purpose) >= 3),
    conditions      bigint NOT NULL REFERENCES touchstone.cohort_condition,
    reference       touchstone.line NOT NULL DEFAULT '',
    valid_from      date NOT NULL,
    valid_until     date NOT NULL CHECK (valid_until >= valid_from),
    state           text NOT NULL DEFAULT 'under_review',
    asked_by        touchstone.line NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version)
);
CREATE INDEX ON touchstone.agreement (cohort_id, cohort_version, protocol_id);

CREATE TABLE touchstone.agreement_arrow (
    source text NOT NULL, target text NOT NULL, PRIMARY KEY (source, target));
INSERT INTO touchstone.agreement_arrow VALUES
    ('under_review', 'approved'), ('under_review', 'declined'),
    ('under_review', 'returned_for_resubmission'), ('returned_for_resubmission', 'under_review'),
    ('approved', 'representative_contacted'), ('approved', 'representative_unreachable'),
    ('representative_unreachable', 'representative_contacted'),
    ('representative_contacted', 'checking_availability'),
    ('representative_contacted', 'resource_unavailable'),
    ('checking_availability', 'resource_unavailable'),
    ('checking_availability', 'resource_available'),
    ('resource_available', 'access_conditions_indicated'),
    ('access_conditions_indicated', 'resource_not_made_available'),
    ('access_conditions_indicated', 'access_conditions_met'),
    ('access_conditions_met', 'resource_made_available'),
    ('resource_made_available', 'paused'), ('paused', 'resource_made_available'),
    ('resource_made_available', 'concluded'), ('paused', 'concluded');
-- Whatever is not at its end can be given up.
INSERT INTO touchstone.agreement_arrow
    SELECT DISTINCT source, 'abandoned' FROM touchstone.agreement_arrow
    WHERE source NOT IN ('resource_made_available', 'paused');

-- What was locked before this migration goes on, and says so.
INSERT INTO touchstone.cohort_condition (cohort_id, cohort_version, codes, words, grandfathered,
    declared_by)
    SELECT id, version, '{}', 'locked before conditions were declared', true, 'touchstone'
    FROM touchstone.cohort;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['cohort_condition', 'agreement', 'agreement_arrow'] LOOP
        EXECUTE format('ALTER TABLE touchstone.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE touchstone.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON touchstone.%I TO touchstone_owner
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.%I
                        EXECUTE FUNCTION touchstone.refuse_change()', name);
        EXECUTE format('GRANT SELECT ON touchstone.%I TO touchstone_app', name);
    END LOOP;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.cohort_condition
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER never_removed BEFORE DELETE ON touchstone.agreement
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();

-- Conditions are known to whoever may list cohorts; agreements to the facility.
CREATE POLICY read ON touchstone.cohort_condition FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.my_role()) IS NOT NULL);
CREATE POLICY declare ON touchstone.cohort_condition FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'steward' AND NOT grandfathered
    AND declared_by = (SELECT touchstone.my_person())
    AND organisation = (SELECT touchstone.my_organisation()));
CREATE POLICY read ON touchstone.agreement FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));
CREATE POLICY ask ON touchstone.agreement FOR INSERT TO touchstone_app WITH CHECK (
    (SELECT touchstone.my_role()) = 'steward' AND asked_by = (SELECT touchstone.my_person())
    AND organisation = (SELECT touchstone.my_organisation()));
CREATE POLICY move ON touchstone.agreement FOR UPDATE TO touchstone_app USING (
    (SELECT touchstone.my_role()) = 'steward'
    AND organisation = (SELECT touchstone.my_organisation()));
CREATE POLICY everyone ON touchstone.agreement_arrow FOR SELECT USING (true);
GRANT INSERT ON touchstone.cohort_condition, touchstone.agreement TO touchstone_app;
GRANT UPDATE (state) ON touchstone.agreement TO touchstone_app;

-- 2. Each statement and each move is in the log.
CREATE FUNCTION touchstone.guard_condition() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.declared_at := now();
    IF NEW.grandfathered THEN
        RETURN NEW;
    END IF;
    PERFORM touchstone.append_event('touchstone', NEW.organisation, 'conditions-declared',
        NEW.cohort_id || '/' || NEW.cohort_version, json_build_object('codes', NEW.codes,
        'words', NEW.words, 'until', NEW.until)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON touchstone.cohort_condition
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_condition();

-- A cohort that does not come by the application's role (whoever owns the database writes it) is as
-- one that was locked before.
CREATE FUNCTION touchstone.grandfather_cohort() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user <> 'touchstone_app' THEN
        INSERT INTO touchstone.cohort_condition (cohort_id, cohort_version, codes, words,
            grandfathered, declared_by)
            VALUES (NEW.id, NEW.version, '{}', 'not locked by the application', true, 'touchstone');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER grandfathered AFTER INSERT ON touchstone.cohort
    FOR EACH ROW EXECUTE FUNCTION touchstone.grandfather_cohort();

CREATE FUNCTION touchstone.latest_condition(cohort text, version text)
RETURNS touchstone.cohort_condition LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT d FROM touchstone.cohort_condition d WHERE d.cohort_id = $1 AND d.cohort_version = $2
    ORDER BY d.number DESC LIMIT 1
$$;

CREATE FUNCTION touchstone.guard_agreement() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d touchstone.cohort_condition;
BEGIN
    d := touchstone.latest_condition(NEW.cohort_id, NEW.cohort_version);
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'under_review' THEN
            RAISE EXCEPTION 'an agreement begins under review' USING ERRCODE = 'restrict_violation';
        ELSIF NOT EXISTS (SELECT FROM touchstone.organisation o
                          WHERE o.id = NEW.organisation AND o.kind = 'facility') THEN
            RAISE EXCEPTION 'an agreement is the facility''s' USING ERRCODE = 'restrict_violation';
        END IF;
    ELSIF (to_jsonb(NEW) - 'state' - 'changed_at') <> (to_jsonb(OLD) - 'state' - 'changed_at') THEN
        RAISE EXCEPTION 'only the state of an agreement changes; ask for another one'
            USING ERRCODE = 'restrict_violation';
    ELSIF NOT EXISTS (SELECT FROM touchstone.agreement_arrow a
                      WHERE a.source = OLD.state AND a.target = NEW.state) THEN
        RAISE EXCEPTION 'an agreement can''t go from % to %', OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (TG_OP = 'INSERT' OR NEW.state = 'resource_made_available')
       AND NEW.conditions IS DISTINCT FROM d.number THEN
        RAISE EXCEPTION 'the agreement is under other conditions than those that are declared of % % '
            'now; ask for another one', NEW.cohort_id, NEW.cohort_version
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.changed_at := now();
    PERFORM touchstone.append_event('touchstone', NEW.organisation,
        'agreement-' || replace(NEW.state, '_', '-'), NEW.id::text,
        json_build_object('cohort', NEW.cohort_id, 'version', NEW.cohort_version,
        'protocol', NEW.protocol_id, 'from', NEW.valid_from, 'until', NEW.valid_until,
        'conditions', NEW.conditions)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON touchstone.agreement
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_agreement();

-- 3. May a protocol use a cohort version today? NULL, or why not.
CREATE FUNCTION touchstone.use_refused(cohort text, version text, protocol text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d touchstone.cohort_condition := touchstone.latest_condition(cohort, version);
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF d.number IS NULL THEN
        RETURN format('nobody has declared what the cohort %s %s may be used for: a steward does, or '
            'says that there are no conditions (touchstone cohort conditions)', cohort, version);
    ELSIF d.until < today THEN
        RETURN format('the cohort %s %s could be used until %s', cohort, version, d.until);
    ELSIF d.grandfathered OR d.codes = '{DUO:0000004}' THEN
        RETURN NULL;
    ELSIF EXISTS (SELECT FROM touchstone.agreement a
                  WHERE a.cohort_id = use_refused.cohort AND a.cohort_version = use_refused.version
                    AND a.protocol_id = use_refused.protocol AND a.conditions = d.number
                    AND a.state = 'resource_made_available'
                    AND today BETWEEN a.valid_from AND a.valid_until) THEN
        RETURN NULL;
    END IF;
    RETURN format('no agreement in force lets the protocol %s use the cohort %s %s (touchstone '
        'cohort agreement)', protocol, cohort, version);
END $$;

CREATE FUNCTION touchstone.refuse_use(cohort text, version text, protocol text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    why text := touchstone.use_refused(cohort, version, protocol);
BEGIN
    IF why IS NOT NULL THEN
        RAISE EXCEPTION '%', why
            USING ERRCODE = 'check_violation', CONSTRAINT = 'agreement_in_force';
    END IF;
END $$;

-- 4. It is asked when a protocol is locked (for each cohort that it names, in the version that it
--    would be run on), when a submission comes, when it begins to run, and in the moment before the
--    first shard is decrypted. After the other triggers (by name).
CREATE FUNCTION touchstone.guard_protocol_use() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named jsonb;
    c record;
BEGIN
    BEGIN
        named := jsonb_build_array(NEW.body::jsonb -> 'cohort', NEW.body::jsonb -> 'development_cohort');
    EXCEPTION WHEN data_exception THEN
        RETURN NEW;  -- a text that is no protocol: no submission can name a cohort by it
    END;
    FOR named IN SELECT n FROM jsonb_array_elements(named) n WHERE jsonb_typeof(n) = 'object' LOOP
        SELECT t.id, t.version INTO c FROM touchstone.cohort t WHERE t.id = named ->> 'id'
            AND t.version = coalesce(named ->> 'version', t.version)
            ORDER BY t.locked_at DESC LIMIT 1;
        IF c.id IS NOT NULL THEN
            PERFORM touchstone.refuse_use(c.id, c.version, NEW.id);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER use_permitted BEFORE INSERT ON touchstone.protocol
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_protocol_use();

CREATE FUNCTION touchstone.guard_use() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    submission uuid := coalesce(to_jsonb(NEW) ->> 'submission', to_jsonb(NEW) ->> 'id')::uuid;
    s record;
BEGIN
    IF TG_TABLE_NAME = 'submission' THEN
        SELECT (to_jsonb(NEW) ->> 'cohort_id') AS cohort_id,
               (to_jsonb(NEW) ->> 'cohort_version') AS cohort_version, p.id AS protocol INTO s
            FROM touchstone.protocol p WHERE p.digest = to_jsonb(NEW) ->> 'protocol_digest';
    ELSE
        SELECT t.cohort_id, t.cohort_version, p.id AS protocol INTO s FROM touchstone.submission t
            JOIN touchstone.protocol p ON p.digest = t.protocol_digest WHERE t.id = submission;
    END IF;
    IF s.cohort_id IS NOT NULL THEN
        PERFORM touchstone.refuse_use(s.cohort_id, s.cohort_version, s.protocol);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER use_permitted BEFORE INSERT ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_use();
CREATE TRIGGER use_permitted_still BEFORE UPDATE OF state ON touchstone.submission
    FOR EACH ROW WHEN (NEW.state = 'running' AND OLD.state <> 'running')
    EXECUTE FUNCTION touchstone.guard_use();
CREATE TRIGGER use_permitted BEFORE INSERT ON touchstone.attempt
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_use();
CREATE TRIGGER use_permitted BEFORE INSERT ON touchstone.trial
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_use();

REVOKE EXECUTE ON FUNCTION touchstone.guard_condition, touchstone.grandfather_cohort,
    touchstone.latest_condition,
    touchstone.guard_agreement, touchstone.use_refused, touchstone.refuse_use,
    touchstone.guard_protocol_use, touchstone.guard_use FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.use_refused TO touchstone_app, touchstone_worker;
