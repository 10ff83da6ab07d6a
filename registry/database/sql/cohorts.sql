-- name: cohort_add
INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path, title, positives,
    negatives, patients, contract_digest, masks, locked_by, until)
VALUES (%(id)s, %(version)s, %(root)s, %(manifest_digest)s, %(manifest_path)s, %(title)s,
    %(positives)s, %(negatives)s, %(patients)s, %(contract_digest)s, %(masks)s, %(locked_by)s, %(until)s)

-- name: cohorts
SELECT *, touchstone.cohort_state(id, version) AS state FROM touchstone.cohort
WHERE %(after_id)s::text IS NULL OR (id::text, locked_at, version)
    > (%(after_id)s, %(after_locked_at)s::timestamptz, %(after_version)s)
ORDER BY id::text, locked_at, version LIMIT %(limit)s

-- name: cohort_latest
-- Without a version the latest that is locked; where none is, the latest.
SELECT c.* FROM (
    SELECT *, touchstone.cohort_state(id, version) AS state FROM touchstone.cohort
    WHERE id = %(id)s AND (%(version)s::text IS NULL OR version = %(version)s)) c
ORDER BY c.state = 'locked' DESC, c.locked_at DESC LIMIT 1

-- name: cohort_signatures
SELECT s.*, g.pem FROM touchstone.cohort_signature s
JOIN touchstone.signer g ON g.key_id = s.key_id
WHERE s.cohort_id = %(id)s AND s.cohort_version = %(version)s
  AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = s.key_id)
ORDER BY s.number

-- name: cohort_signature_add
INSERT INTO touchstone.cohort_signature (cohort_id, cohort_version, payload, key_id, person,
    organisation, envelope)
VALUES (%(id)s, %(version)s, %(payload)s, %(key_id)s, %(person)s, %(organisation)s, %(envelope)s)

-- name: cohort_lock_add
INSERT INTO touchstone.cohort_lock (cohort_id, cohort_version, payload, envelope, record)
VALUES (%(id)s, %(version)s, %(payload)s, %(envelope)s, %(record)s)

-- name: cohort_lock
SELECT * FROM touchstone.cohort_lock WHERE cohort_id = %(id)s AND cohort_version = %(version)s

-- name: cohort_act_add
INSERT INTO touchstone.cohort_act (cohort_id, cohort_version, kind, person, organisation, reason,
    until)
VALUES (%(id)s, %(version)s, %(kind)s, %(person)s, %(organisation)s, %(reason)s, %(until)s)

-- name: cohort_acts
SELECT kind, person, reason, until, at FROM touchstone.cohort_act
WHERE cohort_id = %(id)s AND cohort_version = %(version)s ORDER BY number

-- name: key_release_add
INSERT INTO touchstone.key_release (submission, purpose, expires_at)
VALUES (%(submission)s, %(purpose)s, now() + %(length)s) RETURNING number, expires_at

-- name: cohort_versions
-- The other versions of a cohort, those that were there by a moment where one is given.
SELECT * FROM touchstone.cohort
WHERE id = %(id)s AND version <> %(version)s
AND (%(until)s::timestamptz IS NULL OR locked_at <= %(until)s)
ORDER BY locked_at, version
