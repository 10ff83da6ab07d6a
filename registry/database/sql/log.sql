-- name: log_events
SELECT seq, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, actor,
    organisation, kind, subject, detail, encode(previous, 'hex') AS previous,
    encode(hash, 'hex') AS hash
FROM touchstone.event
WHERE seq > %(after)s AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
ORDER BY seq LIMIT %(limit)s

-- name: log_events_about
SELECT seq, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, actor,
    organisation, kind, subject, detail, encode(previous, 'hex') AS previous,
    encode(hash, 'hex') AS hash
FROM touchstone.event
WHERE (seq = %(seq)s::bigint OR subject = %(subject)s::text)
  AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
ORDER BY seq LIMIT 10000

-- name: certificate_event
SELECT seq, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, actor,
    organisation, kind, subject, detail, encode(previous, 'hex') AS previous
FROM touchstone.certificate_event(%(submission)s)

-- name: log_leaves
SELECT leaves, last FROM touchstone.leaf_hashes(%(after)s, %(most)s)

-- name: log_state
SELECT touchstone.log_size() AS size, c.size AS checkpoint, c.made_at
FROM (SELECT 1) one LEFT JOIN (
    SELECT size, made_at FROM touchstone.checkpoint ORDER BY size DESC LIMIT 1) c ON true

-- name: checkpoint_add
INSERT INTO touchstone.checkpoint (size, root, path) VALUES (%(size)s, %(root)s, %(path)s)
ON CONFLICT DO NOTHING

-- name: checkpoints_indexed
SELECT size, encode(root, 'hex') AS root, path, made_at FROM touchstone.checkpoint
WHERE size > %(after)s ORDER BY size LIMIT %(limit)s
