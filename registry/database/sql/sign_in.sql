-- name: sign_in_begin
SELECT touchstone.sign_in_begin(%(nonce)s, %(organisation)s, %(person)s, %(key)s) AS expires_at

-- name: sign_in_enrolments
SELECT * FROM touchstone.sign_in_enrolments()

-- name: sign_in_signers
SELECT * FROM touchstone.sign_in_signers()

-- name: sign_in_make
SELECT * FROM touchstone.sign_in_make(%(nonce)s, %(envelope)s::jsonb, %(secret_hash)s)

-- name: login_confirm
SELECT touchstone.confirm_login(%(subject)s) AS person
