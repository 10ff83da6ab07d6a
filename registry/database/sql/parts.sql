-- name: part_done
INSERT INTO touchstone.part (submission, run, part, class, answers, restarts, seconds,
    processor_seconds, worker)
VALUES (%(submission)s, %(run)s, %(part)s, %(class)s, %(answers)s, %(restarts)s, %(seconds)s,
    %(processor_seconds)s, %(worker)s)
ON CONFLICT DO NOTHING

-- name: parts
SELECT part, class, answers, restarts, finished_at FROM touchstone.part
WHERE submission = %(submission)s AND run = %(run)s ORDER BY part

-- name: submissions_running
-- Those whose attempt or trial was spent: what others may help with.
SELECT s.id FROM touchstone.submission s
WHERE s.state = 'running' AND touchstone.queue_of(s.protocol_digest) = ANY(%(queues)s)
    AND (EXISTS (SELECT FROM touchstone.attempt a WHERE a.submission = s.id)
    OR EXISTS (SELECT FROM touchstone.trial t WHERE t.submission = s.id))
ORDER BY s.changed_at

-- name: unclaim
SELECT pg_advisory_unlock(hashtextextended(%(submission)s, 749)) AS ours
