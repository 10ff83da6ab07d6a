-- name: condition_add
INSERT INTO touchstone.cohort_condition (cohort_id, cohort_version, codes, words, until,
    organisation, declared_by)
VALUES (%(cohort_id)s, %(cohort_version)s, %(codes)s, %(words)s, %(until)s, %(organisation)s,
    %(declared_by)s)

-- name: condition_latest
SELECT number, codes, words, until, grandfathered, settled, declared_by, declared_at
FROM touchstone.cohort_condition
WHERE cohort_id = %(cohort_id)s AND cohort_version = %(cohort_version)s
ORDER BY number DESC LIMIT 1

-- name: agreement_add
INSERT INTO touchstone.agreement (id, organisation, cohort_id, cohort_version, protocol_id, purpose,
    conditions, reference, valid_from, valid_until, asked_by)
VALUES (%(id)s, %(organisation)s, %(cohort_id)s, %(cohort_version)s, %(protocol_id)s, %(purpose)s,
    %(conditions)s, %(reference)s, %(valid_from)s, %(valid_until)s, %(asked_by)s)

-- name: agreement_by_id
SELECT a.*, touchstone.use_refused(a.cohort_id, a.cohort_version, a.protocol_id) IS NULL AS usable
FROM touchstone.agreement a WHERE a.id = %(id)s

-- name: agreements
SELECT a.*, touchstone.use_refused(a.cohort_id, a.cohort_version, a.protocol_id) IS NULL AS usable
FROM touchstone.agreement a
WHERE a.cohort_id = %(cohort_id)s
  AND (%(cohort_version)s::text IS NULL OR a.cohort_version = %(cohort_version)s)
  AND (%(after_created_at)s::timestamptz IS NULL
       OR (a.created_at, a.id) > (%(after_created_at)s, %(after_id)s::uuid))
ORDER BY a.created_at, a.id LIMIT %(limit)s

-- name: agreement_move
UPDATE touchstone.agreement SET state = %(state)s WHERE id = %(id)s

-- name: agreement_targets
SELECT target FROM touchstone.agreement_arrow WHERE source = %(source)s ORDER BY target
