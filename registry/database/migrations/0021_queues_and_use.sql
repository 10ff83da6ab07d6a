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
