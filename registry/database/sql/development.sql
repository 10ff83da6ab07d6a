-- name: family_lock
SELECT pg_advisory_xact_lock(hashtextextended(%(family)s, 747))

-- name: trial_spend
INSERT INTO touchstone.trial (submission)
SELECT %(submission)s WHERE NOT EXISTS (
    SELECT FROM touchstone.trial WHERE submission = %(submission)s)

-- name: trials_taken
-- Spent, or by a submission under way that has not come to its first shard.
SELECT (SELECT count(*) FROM touchstone.trial t WHERE t.family = %(family)s
            AND t.cohort_id = %(cohort_id)s AND t.cohort_version = %(cohort_version)s)
     + (SELECT count(*) FROM touchstone.submission s
            JOIN touchstone.protocol p ON p.digest = s.protocol_digest
            WHERE s.development AND s.organisation || '/' || p.id = %(family)s
            AND s.cohort_id = %(cohort_id)s AND s.cohort_version = %(cohort_version)s
            AND s.state IN ('registered', 'intake', 'queued', 'running')
            AND NOT EXISTS (SELECT FROM touchstone.trial t WHERE t.submission = s.id)) AS taken

-- name: ladder_before
-- What the ladders of these models, protocol and cohort version last told.
SELECT st.output FROM touchstone.step st JOIN touchstone.submission s ON s.id = st.submission
WHERE st.name = 'ladder' AND s.development AND s.organisation = %(organisation)s
  AND s.protocol_digest = %(protocol_digest)s AND s.cohort_id = %(cohort_id)s
  AND s.cohort_version = %(cohort_version)s
ORDER BY (st.output ->> 'turn')::integer DESC LIMIT 1
