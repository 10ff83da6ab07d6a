-- name: families_hold
SELECT touchstone.hold_families(%(protocol)s, %(cohort_id)s, %(cohort_version)s)

-- name: family_standing
SELECT touchstone.attempts_taken(%(organisation)s, %(protocol)s, %(cohort_id)s, %(cohort_version)s)
        AS taken,
    touchstone.family_passed(%(organisation)s, %(protocol)s, %(cohort_id)s, %(cohort_version)s)
        AS passed

-- name: family_check
SELECT touchstone.check_family(%(submission)s)

-- name: fingerprint
SELECT weights FROM touchstone.fingerprint WHERE submission = %(submission)s

-- name: fingerprint_add
INSERT INTO touchstone.fingerprint (submission, weights)
VALUES (%(submission)s, %(weights)s)

-- name: fingerprints_of_others
-- Of other organisations, for the same indication on the same cohort version.
SELECT f.submission, f.weights FROM touchstone.fingerprint f
JOIN touchstone.submission o ON o.id = f.submission
JOIN touchstone.protocol q ON q.digest = o.protocol_digest
JOIN touchstone.submission s ON s.id = %(submission)s
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
WHERE o.organisation <> s.organisation AND q.id = p.id AND o.cohort_id = s.cohort_id
  AND o.cohort_version = s.cohort_version
ORDER BY f.at, f.submission

-- name: kinship_add
INSERT INTO touchstone.kinship (submission, other, share, same)
VALUES (%(submission)s, %(other)s, %(share)s, %(same)s)
