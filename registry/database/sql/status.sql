-- name: status_lock
SELECT pg_advisory_xact_lock(7463001) IS NULL AS locked

-- name: status_newest
SELECT DISTINCT ON (role) role, version, content, root_version, at FROM touchstone.status_file
WHERE role <> 'root' ORDER BY role, version DESC

-- name: status_roots
SELECT version, content FROM touchstone.status_file WHERE role = 'root' ORDER BY version

-- name: status_one
SELECT f.content FROM touchstone.status_file f
WHERE f.role = %(role)s AND f.version = %(version)s
  AND (f.role <> 'root' OR f.version <= (
    SELECT t.root_version FROM touchstone.status_file t WHERE t.role = 'timestamp'
    ORDER BY t.version DESC LIMIT 1))

-- name: status_present
SELECT f.content FROM touchstone.status_file f WHERE f.role = 'timestamp'
ORDER BY f.version DESC LIMIT 1

-- name: status_add
INSERT INTO touchstone.status_file (role, version, content, root_version)
VALUES (%(role)s, %(version)s, %(content)s, %(root_version)s)

-- name: status_certificates
SELECT c.submission, c.organisation, c.model_name, c.model_version, c.envelope, c.in_force AND c.not_after > now() AS in_force, s.state,
    s.changed_at, a.reason
FROM touchstone.certificate c JOIN touchstone.submission s ON s.id = c.submission
LEFT JOIN LATERAL (
    SELECT a.reason FROM touchstone.act a
    WHERE a.submission = c.submission AND a.kind IN ('suspend', 'revoke')
    ORDER BY a.number DESC LIMIT 1) a ON true
ORDER BY c.submission

-- name: status_signatures
SELECT g.digest, g.metadata, g.key_id, g.signature, g.person, g.organisation
FROM touchstone.status_signature g WHERE g.version = %(version)s
  AND NOT EXISTS (SELECT FROM touchstone.revoked_key r WHERE r.key_id = g.key_id)
ORDER BY g.at, g.key_id

-- name: status_signature_add
INSERT INTO touchstone.status_signature (version, digest, metadata, key_id, signature, person,
    organisation)
VALUES (%(version)s, %(digest)s, %(metadata)s, %(key_id)s, %(signature)s, %(person)s,
    %(organisation)s) ON CONFLICT DO NOTHING

-- name: status_vouched_for
SELECT s.id, s.statement_digest FROM touchstone.submission s
WHERE s.statement_digest IS NOT NULL AND (
    (s.state = 'in_review' AND EXISTS (
        SELECT FROM touchstone.decision d JOIN touchstone.signer g ON g.key_id = d.key_id
        WHERE d.submission = s.id AND d.outcome IN ('certify', 'conditional')
          AND NOT touchstone.is_void(d)
          AND g.person = %(person)s AND g.organisation = %(organisation)s))
    OR (s.state = 'suspended' AND EXISTS (
        SELECT FROM touchstone.act a
        WHERE a.submission = s.id AND a.kind = 'resume' AND a.at >= s.changed_at
          AND a.person = %(person)s AND a.organisation = %(organisation)s)))
