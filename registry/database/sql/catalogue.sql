-- name: cohort_versions_before
-- Earlier versions of a cohort, the oldest first.
SELECT c.* FROM touchstone.cohort c
JOIN touchstone.cohort t ON t.id = c.id AND t.version = %(version)s
WHERE c.id = %(id)s AND c.version <> %(version)s
  AND (c.locked_at, c.version) < (t.locked_at, t.version)
ORDER BY c.locked_at, c.version

-- name: protocols_on_cohort
-- Every protocol by which a report on a version of this cohort may be released.
SELECT body FROM touchstone.protocol
WHERE body::jsonb -> 'cohort' ->> 'id' = %(id)s
   OR body::jsonb -> 'development_cohort' ->> 'id' = %(id)s
ORDER BY locked_at, digest
