-- name: act_add
INSERT INTO touchstone.act (submission, kind, person, organisation, reason, key_id, envelope)
VALUES (%(submission)s, %(kind)s, %(person)s, %(organisation)s, %(reason)s, %(key_id)s,
    %(envelope)s)

-- name: submission_state
SELECT state FROM touchstone.submission WHERE id = %(id)s

-- name: submission_lock
SELECT state, verdict, organisation, model_name, model_version, changed_at
FROM touchstone.submission WHERE id = %(id)s FOR UPDATE

-- name: submission_stop
UPDATE touchstone.submission SET state = %(state)s, deadline = NULL
WHERE id = %(id)s AND state IN ('registered', 'intake', 'queued', 'running', 'assessed')

-- name: certified_stop
UPDATE touchstone.submission SET state = %(state)s, deadline = %(deadline)s
WHERE id = %(id)s AND state IN ('certified', 'conditional', 'suspended')

-- name: certificate_out_of_force
UPDATE touchstone.certificate SET in_force = false WHERE submission = %(submission)s AND in_force

-- name: certificate_in_force_again
UPDATE touchstone.certificate SET in_force = true WHERE submission = %(submission)s

-- name: acts_since
SELECT a.kind, a.person, a.organisation, a.envelope, s.pem
FROM touchstone.act a LEFT JOIN touchstone.signer s ON s.key_id = a.key_id
WHERE a.submission = %(submission)s AND a.at >= %(since)s ORDER BY a.number

-- name: overdue
SELECT s.id, s.state, s.organisation, s.deadline, s.changed_at, c.not_after,
    touchstone.queue_of(s.protocol_digest) AS queue
FROM touchstone.submission s LEFT JOIN touchstone.certificate c ON c.submission = s.id
WHERE s.deadline <= %(now)s
   OR (s.state IN ('certified', 'conditional', 'suspended') AND c.not_after <= %(now)s)
ORDER BY s.deadline

-- name: worked_on
-- since: when its state began; away: codes of what no model can bring about. answered_at: the last
-- that came of the work. away_at: when, after it, a turn first ended for such a code; back_at: when,
-- after the last such turn, another one began.
WITH t AS (
    SELECT began_at, ended_at, coalesce(code = ANY(%(away)s), false) AS away FROM touchstone.turn
    WHERE submission = %(submission)s AND coalesce(ended_at, 'infinity') >= %(since)s
), a AS (
    SELECT greatest(%(since)s::timestamptz,
        (SELECT max(finished_at) FROM touchstone.part WHERE submission = %(submission)s),
        (SELECT max(finished_at) FROM touchstone.step WHERE submission = %(submission)s)
    ) AS answered_at
), w AS (
    SELECT min(ended_at) AS away_at, max(ended_at) AS last FROM t, a
    WHERE away AND ended_at > answered_at
)
SELECT EXISTS (SELECT FROM t) AS worked_on, answered_at, away_at,
    (SELECT min(began_at) FROM t WHERE NOT away AND began_at >= w.last) AS back_at
FROM a, w

-- name: finding_add
INSERT INTO touchstone.finding (submission, code, party, reason, evidence)
VALUES (%(submission)s, %(code)s, %(party)s, %(reason)s, %(evidence)s)

-- name: notice_add
INSERT INTO touchstone.notice (organisation, submission, kind, message, occasion)
VALUES (%(organisation)s, %(submission)s, %(kind)s, %(message)s, %(occasion)s)
ON CONFLICT DO NOTHING

-- name: notices
SELECT number, organisation, submission, kind, message, at FROM touchstone.notice
WHERE number > %(after)s ORDER BY number LIMIT %(limit)s

-- name: choosing
SELECT pg_advisory_xact_lock(7460008)

-- name: candidates
SELECT s.id, s.organisation, s.state, s.changed_at FROM touchstone.submission s
WHERE s.state IN ('registered', 'intake', 'queued', 'running', 'assessed')
  AND touchstone.queue_of(s.protocol_digest) = ANY(%(queues)s)
  -- the next attempt of a family waits, unseen by workers, until the one under way is answered
  AND NOT (s.state IN ('queued', 'running') AND touchstone.family_at_work(s.id)
           AND NOT EXISTS (SELECT FROM touchstone.attempt a WHERE a.submission = s.id))
ORDER BY (SELECT max(t.began_at) FROM touchstone.turn t WHERE t.organisation = s.organisation)
        NULLS FIRST,
    (SELECT max(t.began_at) FROM touchstone.turn t WHERE t.submission = s.id) NULLS FIRST,
    s.created_at

-- name: turns_died
-- Its claim is free. A database that was down since the turn began has let go of it: the worker may
-- be alive. (PostgreSQL throws its counters away when it recovers, also where only a session was
-- killed and the server itself went on.)
UPDATE touchstone.turn t SET ended_at = clock_timestamp(), state = s.state,
    outcome = CASE WHEN t.began_at > up.since THEN 'died' ELSE 'again' END,
    code = CASE WHEN t.began_at > up.since THEN NULL ELSE 'database_lost' END
FROM touchstone.submission s, (
    SELECT greatest(pg_postmaster_start_time(), stats_reset) AS since FROM pg_stat_bgwriter) up
WHERE s.id = t.submission AND t.submission = %(submission)s AND t.ended_at IS NULL

-- name: turn_begin
INSERT INTO touchstone.turn (submission, organisation, worker)
VALUES (%(submission)s, %(organisation)s, %(worker)s) RETURNING number

-- name: turn_end
UPDATE touchstone.turn t SET ended_at = clock_timestamp(), outcome = %(outcome)s, code = %(code)s,
    state = s.state
FROM touchstone.submission s
WHERE s.id = t.submission AND t.number = %(number)s AND t.ended_at IS NULL

-- name: turns_lost
SELECT count(*) FILTER (WHERE outcome = 'died') AS died,
    count(*) FILTER (WHERE outcome = 'unforeseen') AS unforeseen
FROM touchstone.turn WHERE submission = %(submission)s AND state = %(state)s

-- name: storage_take
SELECT touchstone.storage_take(%(bytes)s)

-- name: quota_shown
SELECT * FROM touchstone.quota_shown(%(organisation)s)

-- name: quota_set
INSERT INTO touchstone.quota (organisation, storage_bytes, waiting, compute_seconds, set_by)
VALUES (%(organisation)s, %(storage_bytes)s, %(waiting)s, %(compute_seconds)s, %(set_by)s)
ON CONFLICT (organisation) DO UPDATE SET
    storage_bytes = coalesce(excluded.storage_bytes, touchstone.quota.storage_bytes),
    waiting = coalesce(excluded.waiting, touchstone.quota.waiting),
    compute_seconds = coalesce(excluded.compute_seconds, touchstone.quota.compute_seconds),
    set_by = excluded.set_by, set_at = now()

-- name: claim
SELECT pg_try_advisory_lock(hashtextextended(%(submission)s, 749)) AS mine
