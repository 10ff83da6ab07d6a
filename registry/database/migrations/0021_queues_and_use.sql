-- Which queue a submission is in, and what its runs took.

-- The protocol says what it is to be run on; one that says nothing asks for a processor.
CREATE FUNCTION touchstone.queue_of(protocol text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(p.body::json ->> 'compute', 'cpu') FROM touchstone.protocol p
    WHERE p.digest = protocol
$$;
REVOKE EXECUTE ON FUNCTION touchstone.queue_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.queue_of TO touchstone_app, touchstone_worker;

-- Of the worker and the processes that it started; unknown where a server ran the model.
ALTER TABLE touchstone.part
    ADD COLUMN processor_seconds double precision CHECK (processor_seconds >= 0);

-- What each run of a submission took, as far as the caller may see its parts.
CREATE FUNCTION touchstone.compute_of(whose uuid) RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT json_agg(to_json(u) ORDER BY u.run) FROM (
        SELECT p.run, count(*) AS parts, count(DISTINCT p.worker) AS workers,
            sum(p.seconds) AS seconds,
            (SELECT t.seconds FROM touchstone.step t WHERE t.submission = whose AND t.name = p.run)
                AS lasted,
            CASE WHEN count(*) = count(p.processor_seconds) THEN sum(p.processor_seconds) END
                AS processor_seconds
        FROM touchstone.part p WHERE p.submission = whose GROUP BY p.run) u
$$;
REVOKE EXECUTE ON FUNCTION touchstone.compute_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION touchstone.compute_of TO touchstone_app, touchstone_worker;
