-- name: pilot_pulled
SELECT touchstone.pulled_by_me(%(certificate)s) AS submission

-- name: pilot_key
-- The one that was pinned last.
SELECT key_id, pem FROM touchstone.pilot_key WHERE organisation = %(organisation)s
ORDER BY number DESC LIMIT 1

-- name: pilot_key_announce
INSERT INTO touchstone.pilot_key_announced (key_id, organisation, pem, reason, announced_by)
VALUES (%(key_id)s, %(organisation)s, %(pem)s, %(reason)s, %(announced_by)s)

-- name: pilot_key_announced
SELECT n.organisation, n.key_id, n.reason, n.announced_by,
    ARRAY(SELECT a.person::text FROM touchstone.pilot_key_agreed a WHERE a.key_id = n.key_id
          ORDER BY a.agreed_at, a.person) AS agreed_by
FROM touchstone.pilot_key_announced n WHERE n.key_id = %(key_id)s

-- name: pilot_key_agree
INSERT INTO touchstone.pilot_key_agreed (key_id, person) VALUES (%(key_id)s, %(person)s)

-- name: pilot_key_pin
INSERT INTO touchstone.pilot_key (organisation, key_id, pem, pinned_by)
VALUES (%(organisation)s, %(key_id)s, %(pem)s, %(pinned_by)s)

-- name: pilot_report_add
-- What is shown of it the database takes from what was signed.
INSERT INTO touchstone.pilot_report (organisation, submission, key_id, envelope, last_month,
    patients, alarms, received_by)
VALUES (%(organisation)s, %(submission)s, %(key_id)s, %(envelope)s, '', 0, '{}', %(received_by)s)

-- name: pilot_reports
SELECT r.number, r.organisation, r.submission, r.last_month, r.patients, r.alarms, r.received_at,
    r.envelope, c.organisation AS maker, c.model_name, c.model_version, c.in_force
FROM touchstone.pilot_report r JOIN touchstone.certificate c ON c.submission = r.submission
WHERE r.number > %(after)s AND r.submission = coalesce(%(submission)s::uuid, r.submission)
ORDER BY r.number LIMIT %(limit)s

-- name: tell_of_ends
SELECT touchstone.tell_of_ends(%(now)s) AS told
