-- name: flow_begin
SELECT touchstone.flow_begin(%(id)s, %(kind)s, %(browser)s, %(nonce)s, %(verifier)s,
    %(device_code)s, %(organisation)s, %(role)s, %(seconds)s)

-- name: flow_take
SELECT * FROM touchstone.flow_take(%(id)s, %(kind)s, %(browser)s)

-- name: flow_look
SELECT * FROM touchstone.flow_look(%(id)s)

-- name: login_standing
SELECT * FROM touchstone.login_standing(%(issuer)s, %(subject)s, %(email)s)

-- name: login_keep
SELECT touchstone.login_keep(%(issuer)s, %(subject)s, %(organisations)s::text[], %(roles)s::text[])
    AS revoked

-- name: login_make
SELECT * FROM touchstone.login_make(%(issuer)s, %(subject)s, %(email)s, %(name)s,
    %(organisation)s, %(role)s, %(secret_hash)s, %(seconds)s)

-- name: person_add
INSERT INTO touchstone.person (id, name, issuer, subject, email, added_by)
VALUES (%(id)s, %(name)s, %(issuer)s, %(subject)s, %(email)s, %(added_by)s)

-- name: person_named
SELECT * FROM touchstone.person WHERE touchstone.name_key(name) = touchstone.name_key(%(name)s)

-- name: person_grant
INSERT INTO touchstone.person_role (person, organisation, role, granted_by)
VALUES (%(person)s, %(organisation)s, %(role)s, %(granted_by)s)

-- name: person_withdraw
UPDATE touchstone.person_role SET withdrawn_at = now(), withdrawn_by = %(withdrawn_by)s
WHERE person = %(person)s AND organisation = %(organisation)s AND role = %(role)s
  AND withdrawn_at IS NULL

-- name: people
SELECT p.id, p.name, p.issuer, p.subject, p.email, p.added_at, p.added_by,
    coalesce(jsonb_agg(jsonb_build_object('organisation', r.organisation, 'role', r.role,
        'granted_by', r.granted_by, 'withdrawn_by', r.withdrawn_by)
        ORDER BY r.granted_at) FILTER (WHERE r.id IS NOT NULL), '[]'::jsonb) AS roles
FROM touchstone.person p LEFT JOIN touchstone.person_role r ON r.person = p.id
WHERE %(after_name)s::text IS NULL OR (p.name::text, p.id) > (%(after_name)s, %(after_id)s::uuid)
GROUP BY p.id ORDER BY p.name::text, p.id LIMIT %(limit)s

-- name: tokens
SELECT id, organisation, role, person, created_at, expires_at, revoked_at, last_used_at
FROM touchstone.token
WHERE (%(everybody)s OR (organisation = %(organisation)s AND person = %(person)s))
  AND (%(after_created_at)s::timestamptz IS NULL
       OR (created_at, id) < (%(after_created_at)s, %(after_id)s::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s

-- name: token_of
SELECT id, organisation, role, person, revoked_at FROM touchstone.token
WHERE id = %(id)s
  AND (%(everybody)s OR (organisation = %(organisation)s AND person = %(person)s))
