-- name: organisation_add
INSERT INTO touchstone.organisation (id, kind, name) VALUES (%(id)s, %(kind)s, %(name)s)

-- name: organisation_by_id
SELECT * FROM touchstone.organisation WHERE id = %(id)s

-- name: organisations
SELECT * FROM touchstone.organisation ORDER BY id

-- name: token_add
INSERT INTO touchstone.token (id, organisation, role, person, secret_hash, expires_at)
VALUES (%(id)s, %(organisation)s, %(role)s, %(person)s, %(secret_hash)s, %(expires_at)s)

-- name: enter
SELECT * FROM touchstone.enter(%(proof)s)

-- name: token_revoke
UPDATE touchstone.token SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL

-- name: event_add
SELECT touchstone.append_event(%(actor)s, %(organisation)s, %(kind)s, %(subject)s, %(detail)s) AS seq

-- name: events
SELECT *, touchstone.event_hash(previous, seq, at, actor, organisation, kind, subject, detail)
       AS recomputed
FROM touchstone.event WHERE seq > %(after)s ORDER BY seq LIMIT 10000
