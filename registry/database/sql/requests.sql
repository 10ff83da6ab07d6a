-- name: requests_forget
SELECT touchstone.forget_expired_requests() AS gone

-- name: request_claim
INSERT INTO touchstone.request (token, organisation, person, key, fingerprint, holder, held_until)
VALUES (touchstone.my_token(), touchstone.my_organisation(), touchstone.my_person(), %(key)s,
    %(fingerprint)s, %(holder)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (token, key) DO NOTHING

-- name: request_find
SELECT fingerprint, acted, status, media_type, body, withheld,
    coalesce(held_until > clock_timestamp(), false) AS held
FROM touchstone.request WHERE token = touchstone.my_token() AND key = %(key)s FOR UPDATE

-- name: request_hold
UPDATE touchstone.request SET holder = %(holder)s,
    held_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE token = touchstone.my_token() AND key = %(key)s

-- name: request_renew
UPDATE touchstone.request SET held_until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE token = touchstone.my_token() AND key = %(key)s AND holder = %(holder)s

-- name: request_acted
UPDATE touchstone.request SET acted = true
WHERE token = touchstone.my_token() AND key = %(key)s AND holder = %(holder)s

-- name: request_answered
UPDATE touchstone.request SET holder = NULL, held_until = NULL, acted = true, status = %(status)s,
    media_type = %(media_type)s, body = %(body)s, withheld = %(withheld)s
WHERE token = touchstone.my_token() AND key = %(key)s AND holder = %(holder)s

-- name: request_release
UPDATE touchstone.request SET holder = NULL, held_until = NULL
WHERE token = touchstone.my_token() AND key = %(key)s AND holder = %(holder)s AND acted

-- name: request_drop
DELETE FROM touchstone.request
WHERE token = touchstone.my_token() AND key = %(key)s AND holder = %(holder)s AND NOT acted

-- name: is_migrated
SELECT name FROM touchstone.migration LIMIT 1
