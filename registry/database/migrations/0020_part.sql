-- A run's parts: some shards of the cohort each, answered by whichever worker took them. The class is
-- what computed them: bytes are promised alike within one, so a run is put together of one alone.

CREATE TABLE touchstone.part (
    submission   uuid NOT NULL REFERENCES touchstone.submission,
    run          text NOT NULL CHECK (run ~ '^[a-z0-9_./-]{1,100}$'),
    part         integer NOT NULL CHECK (part >= 0),
    class        touchstone.digest NOT NULL,
    answers      touchstone.digest NOT NULL,
    restarts     integer NOT NULL CHECK (restarts >= 0),
    seconds      double precision NOT NULL CHECK (seconds >= 0),
    worker       text NOT NULL CHECK (length(worker) <= 200),
    finished_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (submission, run, part, class)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.part
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.part
    EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER at_work BEFORE INSERT ON touchstone.part
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_work();

-- No part before a locked shard was paid for, and none once its run was put together.
CREATE FUNCTION touchstone.guard_part() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s touchstone.submission;
BEGIN
    SELECT * INTO s FROM touchstone.submission WHERE id = NEW.submission FOR SHARE;
    IF s.state <> 'running'
       OR EXISTS (SELECT FROM touchstone.step t
                  WHERE t.submission = s.id AND t.name = NEW.run)
       OR NOT (EXISTS (SELECT FROM touchstone.attempt a WHERE a.submission = s.id)
               OR EXISTS (SELECT FROM touchstone.trial t WHERE t.submission = s.id)) THEN
        RAISE EXCEPTION 'a part is of a run under way, whose attempt was spent'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER under_way BEFORE INSERT ON touchstone.part
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_part();

ALTER TABLE touchstone.part ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.part FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON touchstone.part TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY read ON touchstone.part FOR SELECT TO touchstone_app USING (
    (SELECT touchstone.sees_all()));
CREATE POLICY worker ON touchstone.part TO touchstone_worker USING (true) WITH CHECK (true);
GRANT SELECT ON touchstone.part TO touchstone_app;
GRANT SELECT, INSERT ON touchstone.part TO touchstone_worker;
REVOKE EXECUTE ON FUNCTION touchstone.guard_part FROM PUBLIC;
