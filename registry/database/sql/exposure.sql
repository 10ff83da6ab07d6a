-- name: exposure_uses
-- What each family did on a cohort version, protocol text by protocol text. A pass is one that its
-- submitter was told (0012_families.sql).
SELECT a.family, s.organisation::text AS organisation, p.body,
    count(*) FILTER (WHERE a.returned_at IS NULL) AS attempts,
    count(*) FILTER (WHERE a.returned_at IS NOT NULL) AS returned,
    count(*) FILTER (WHERE a.returned_at IS NULL AND s.verdict IN ('pass', 'conditional')
        AND s.certifiable AND s.state IN ('in_review', 'certified', 'conditional',
            'not_certified', 'suspended', 'revoked', 'expired')) AS passes,
    min(a.spent_at) AS first_at, max(a.spent_at) AS last_at
FROM touchstone.attempt a
JOIN touchstone.submission s ON s.id = a.submission
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
WHERE a.cohort_id = %(cohort_id)s AND a.cohort_version = %(cohort_version)s
GROUP BY a.family, s.organisation, p.digest, p.body
ORDER BY a.family, p.digest

-- name: exposure_trials
SELECT count(*) AS trials, count(DISTINCT family) AS families FROM touchstone.trial
WHERE cohort_id = %(cohort_id)s AND cohort_version = %(cohort_version)s

-- name: exposure_joined
-- Families whose models have almost the same weights: they count as one.
SELECT DISTINCT s.organisation || '/' || p.id AS one, o.organisation || '/' || q.id AS other
FROM touchstone.kinship k
JOIN touchstone.submission s ON s.id = k.submission
JOIN touchstone.submission o ON o.id = k.other
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
JOIN touchstone.protocol q ON q.digest = o.protocol_digest
WHERE k.same AND s.cohort_id = %(cohort_id)s AND s.cohort_version = %(cohort_version)s

-- name: own_standing
SELECT touchstone.attempts_spent(%(organisation)s, %(protocol)s, %(cohort_id)s, %(cohort_version)s)
        AS spent,
    touchstone.attempts_taken(%(organisation)s, %(protocol)s, %(cohort_id)s, %(cohort_version)s)
        AS taken,
    touchstone.family_passed(%(organisation)s, %(protocol)s, %(cohort_id)s, %(cohort_version)s)
        AS passed
