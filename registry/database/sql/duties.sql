-- name: founding_load
SELECT touchstone.load_founding(%(envelope)s::jsonb, %(pems)s::jsonb)

-- name: key_enrol
SELECT touchstone.enrol(%(envelope)s::jsonb, %(pem)s)

-- name: key_revoke
SELECT touchstone.revoke_key(%(key)s, %(reason)s)

-- name: enrolments
SELECT kind, envelope FROM touchstone.enrolment ORDER BY loaded_at, digest

-- name: signers
SELECT s.key_id, s.organisation, s.person, s.role, s.pem, s.enrolled_at, r.revoked_at, r.reason
FROM touchstone.signer s LEFT JOIN touchstone.revoked_key r ON r.key_id = s.key_id
ORDER BY s.organisation, s.person, s.enrolled_at

-- name: signer_page
SELECT s.key_id, s.organisation, s.person, s.role, s.enrolled_at, r.revoked_at
FROM touchstone.signer s LEFT JOIN touchstone.revoked_key r ON r.key_id = s.key_id
WHERE %(after_organisation)s::text IS NULL
   OR (s.organisation::text, s.person::text, s.enrolled_at, s.key_id::text) > (
        %(after_organisation)s, %(after_person)s, %(after_enrolled_at)s::timestamptz,
        %(after_key)s)
ORDER BY s.organisation::text, s.person::text, s.enrolled_at, s.key_id::text LIMIT %(limit)s

-- name: signer_by_key
SELECT s.*, r.revoked_at FROM touchstone.signer s
LEFT JOIN touchstone.revoked_key r ON r.key_id = s.key_id WHERE s.key_id = %(key_id)s

-- name: locked_it
SELECT touchstone.locked_it(%(submission)s::uuid, %(person)s) AS locked
