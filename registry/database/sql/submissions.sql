-- name: protocol_add
INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)
VALUES (%(digest)s, %(id)s, %(version)s, %(body)s, %(attempts)s, %(locked_by)s)

-- name: protocols
SELECT digest, id, version, attempts, locked_by, locked_at FROM touchstone.protocol
WHERE %(after_id)s::text IS NULL OR (id::text, locked_at, version)
    > (%(after_id)s, %(after_locked_at)s::timestamptz, %(after_version)s)
ORDER BY id::text, locked_at, version LIMIT %(limit)s

-- name: protocol_latest
SELECT * FROM touchstone.protocol
WHERE (id = %(id)s OR digest = %(id)s) AND (%(version)s::text IS NULL OR version = %(version)s)
ORDER BY locked_at DESC LIMIT 1

-- name: protocol_by_digest
SELECT * FROM touchstone.protocol WHERE digest = %(digest)s

-- name: protocol_exposed
-- The latest version of this protocol under which a locked cohort was opened for a model.
SELECT p.* FROM touchstone.protocol p
WHERE p.id = %(id)s AND EXISTS (
    SELECT FROM touchstone.submission s JOIN touchstone.attempt a ON a.submission = s.id
    WHERE s.protocol_digest = p.digest)
ORDER BY p.locked_at DESC LIMIT 1

-- name: submission_add
INSERT INTO touchstone.submission (id, organisation, model_name, model_version, protocol_digest,
    cohort_id, cohort_version, submitted_by, deadline, development, declaration_digest)
VALUES (%(id)s, %(organisation)s, %(model_name)s, %(model_version)s, %(protocol_digest)s,
    %(cohort_id)s, %(cohort_version)s, %(submitted_by)s, %(deadline)s, %(development)s,
    %(declaration_digest)s)

-- name: submission_by_id
SELECT s.*, p.id AS protocol_id, p.version AS protocol_version, p.attempts, p.body AS protocol_body,
    c.root AS cohort_root, c.manifest_path, c.manifest_digest,
    touchstone.cohort_state(c.id, c.version) AS cohort_state,
    (SELECT count(*) FROM touchstone.decision d WHERE d.submission = s.id
        AND NOT touchstone.is_void(d)) AS decisions,
    (SELECT count(*) FROM touchstone.decision d WHERE d.submission = s.id
        AND touchstone.is_void(d)) AS void_decisions,
    touchstone.attempts_spent(s.organisation, p.id, s.cohort_id, s.cohort_version)
        AS attempts_spent,
    (SELECT count(*) FROM touchstone.trial t WHERE t.family = s.organisation || '/' || p.id
        AND t.cohort_id = s.cohort_id AND t.cohort_version = s.cohort_version) AS trials_spent,
    (SELECT f.party FROM touchstone.finding f WHERE f.submission = s.id) AS fault,
    (SELECT json_agg(json_build_object('submission', o.id, 'organisation', o.organisation,
            'model', o.model_name || ' ' || o.model_version, 'share', k.share,
            'same_family', k.same) ORDER BY k.share DESC, o.id)
        FROM touchstone.kinship k JOIN touchstone.submission o ON o.id IN (k.submission, k.other)
        WHERE s.id IN (k.submission, k.other) AND o.id <> s.id) AS alike,
    touchstone.compute_of(s.id) AS compute
FROM touchstone.submission s
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
JOIN touchstone.cohort c ON c.id = s.cohort_id AND c.version = s.cohort_version
WHERE s.id = %(id)s

-- name: submission_page
SELECT s.*, p.id AS protocol_id, p.version AS protocol_version, p.attempts, p.body AS protocol_body,
    c.root AS cohort_root, c.manifest_path, c.manifest_digest,
    touchstone.cohort_state(c.id, c.version) AS cohort_state,
    (SELECT count(*) FROM touchstone.decision d WHERE d.submission = s.id
        AND NOT touchstone.is_void(d)) AS decisions,
    (SELECT count(*) FROM touchstone.decision d WHERE d.submission = s.id
        AND touchstone.is_void(d)) AS void_decisions,
    touchstone.attempts_spent(s.organisation, p.id, s.cohort_id, s.cohort_version)
        AS attempts_spent,
    (SELECT count(*) FROM touchstone.trial t WHERE t.family = s.organisation || '/' || p.id
        AND t.cohort_id = s.cohort_id AND t.cohort_version = s.cohort_version) AS trials_spent,
    (SELECT f.party FROM touchstone.finding f WHERE f.submission = s.id) AS fault,
    (SELECT json_agg(json_build_object('submission', o.id, 'organisation', o.organisation,
            'model', o.model_name || ' ' || o.model_version, 'share', k.share,
            'same_family', k.same) ORDER BY k.share DESC, o.id)
        FROM touchstone.kinship k JOIN touchstone.submission o ON o.id IN (k.submission, k.other)
        WHERE s.id IN (k.submission, k.other) AND o.id <> s.id) AS alike,
    touchstone.compute_of(s.id) AS compute
FROM touchstone.submission s
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
JOIN touchstone.cohort c ON c.id = s.cohort_id AND c.version = s.cohort_version
WHERE (%(organisation)s::text IS NULL OR s.organisation = %(organisation)s)
  AND (%(after_created_at)s::timestamptz IS NULL
       OR (s.created_at, s.id) < (%(after_created_at)s, %(after_id)s::uuid))
ORDER BY s.created_at DESC, s.id DESC LIMIT %(limit)s

-- name: submission_move
UPDATE touchstone.submission SET state = %(state)s, deadline = %(deadline)s WHERE id = %(id)s

-- name: submission_model
UPDATE touchstone.submission SET model_digest = %(model_digest)s WHERE id = %(id)s

-- name: submission_uncertifiable
UPDATE touchstone.submission SET certifiable = false WHERE id = %(id)s

-- name: submission_assessed
UPDATE touchstone.submission SET state = 'assessed', verdict = %(verdict)s,
    report_digest = %(report_digest)s, held_for_review = %(held_for_review)s,
    deadline = %(deadline)s WHERE id = %(id)s

-- name: submission_in_review
UPDATE touchstone.submission SET state = 'in_review', statement_digest = %(statement_digest)s,
    deadline = %(deadline)s WHERE id = %(id)s

-- name: submission_failed
UPDATE touchstone.submission SET state = 'technical_failure', failure_code = %(code)s,
    failure_message = %(message)s, deadline = NULL WHERE id = %(id)s AND state = %(state)s

-- name: submissions_unfinished
SELECT id, touchstone.queue_of(protocol_digest) AS queue FROM touchstone.submission
WHERE state IN ('registered', 'intake', 'queued', 'running', 'assessed') ORDER BY created_at

-- name: attempt_spend
INSERT INTO touchstone.attempt (submission, family, cohort_id, cohort_version)
SELECT %(submission)s, %(family)s, %(cohort_id)s, %(cohort_version)s
WHERE NOT EXISTS (SELECT FROM touchstone.attempt WHERE submission = %(submission)s)

-- name: attempt_return
UPDATE touchstone.attempt SET returned_at = now(), returned_reason = %(reason)s
WHERE submission = %(submission)s AND returned_at IS NULL

-- name: step_done
INSERT INTO touchstone.step (submission, name, output, seconds)
VALUES (%(submission)s, %(name)s, %(output)s, %(seconds)s) ON CONFLICT DO NOTHING

-- name: comparator_run
-- The first submission of a model that was run on this cohort version, and what its run wrote down.
SELECT s.id, t.output FROM touchstone.submission s
JOIN touchstone.step t ON t.submission = s.id AND t.name = 'run'
WHERE s.model_digest = %(model)s AND s.cohort_id = %(cohort_id)s
  AND s.cohort_version = %(cohort_version)s
  AND s.state IN ('assessed', 'in_review', 'certified', 'conditional', 'not_certified',
                  'suspended', 'revoked', 'expired')
ORDER BY s.created_at, s.id LIMIT 1

-- name: certified_before
-- The newest certificate in force of the same model, for another version or by another protocol,
-- and what its run wrote down.
SELECT s.id, s.model_version, s.model_digest, s.protocol_digest, s.cohort_id, s.cohort_version,
    p.body AS protocol_body, c.envelope, t.output
FROM touchstone.certificate c
JOIN touchstone.submission s ON s.id = c.submission
JOIN touchstone.protocol p ON p.digest = s.protocol_digest
LEFT JOIN touchstone.step t ON t.submission = s.id AND t.name = 'run'
WHERE c.organisation = %(organisation)s AND c.model_name = %(model_name)s
  AND c.in_force AND c.not_after > now() AND s.state IN ('certified', 'conditional')
  AND (s.model_version, s.protocol_digest::text) <> (%(version)s, %(protocol)s)
ORDER BY c.issued_at DESC, s.id LIMIT 1

-- name: step_output
SELECT output FROM touchstone.step WHERE submission = %(submission)s AND name = %(name)s

-- name: decision_add
INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason, report_digest,
    envelope, statement_signature)
VALUES (%(submission)s, %(key_id)s, %(person)s, %(outcome)s, %(reason)s, %(report_digest)s,
    %(envelope)s, %(statement_signature)s)

-- name: submission_hold
SELECT state FROM touchstone.submission WHERE id = %(id)s FOR UPDATE

-- name: decisions
SELECT d.*, s.pem, s.organisation, touchstone.is_void(d) AS void FROM touchstone.decision d
JOIN touchstone.signer s ON s.key_id = d.key_id
WHERE d.submission = %(submission)s ORDER BY d.number

-- name: certificate_add
INSERT INTO touchstone.certificate (submission, organisation, model_name, model_version, envelope,
    signers, enrolments, not_after)
VALUES (%(submission)s, %(organisation)s, %(model_name)s, %(model_version)s, %(envelope)s,
    %(signers)s, %(enrolments)s, %(not_after)s)

-- name: certified_move
UPDATE touchstone.submission SET state = %(state)s WHERE id = %(id)s

-- name: certificates_in_force
SELECT * FROM touchstone.certificate
WHERE model_name = %(model_name)s AND in_force AND not_after > now()
  AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
ORDER BY issued_at DESC

-- name: bundle_was_pulled
SELECT EXISTS (SELECT FROM touchstone.event WHERE subject = %(submission)s
    AND kind = 'bundle-pulled' AND organisation = %(organisation)s) AS pulled

-- name: registered_version
SELECT * FROM touchstone.registration
WHERE organisation = %(organisation)s AND model_name = %(model_name)s AND version = %(version)s
