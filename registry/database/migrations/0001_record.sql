-- The record: who submitted what, what was decided, and the log of it all.
-- Every identity that is a digest is 'sha256:' and 64 hex digits.

CREATE DOMAIN touchstone.digest AS text CHECK (VALUE ~ '^sha256:[0-9a-f]{64}$');
CREATE DOMAIN touchstone.slug AS text CHECK (VALUE ~ '^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$');
-- Free text that ends up in the hash chain: no control characters, so that fields can't run together.
CREATE DOMAIN touchstone.line AS text CHECK (length(VALUE) <= 2000 AND VALUE !~ '[\x01-\x1f\x7f]');

CREATE TABLE touchstone.organisation (
    id          touchstone.slug PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('sme', 'facility', 'hospital')),
    name        touchstone.line NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE touchstone.token (
    id            uuid PRIMARY KEY,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    role          text NOT NULL
                  CHECK (role IN ('innovator', 'steward', 'assessor', 'clinician', 'auditor', 'admin')),
    person        touchstone.line NOT NULL,
    secret_hash   bytea NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

-- A person's signing certificate. The key stays with the person.
CREATE TABLE touchstone.signer (
    key_id        touchstone.digest PRIMARY KEY,
    organisation  touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    person        touchstone.line NOT NULL,
    pem           text NOT NULL,
    enrolled_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE touchstone.cohort (
    id               touchstone.slug NOT NULL,
    version          text NOT NULL,
    root             touchstone.digest NOT NULL UNIQUE,
    manifest_digest  touchstone.digest NOT NULL,
    manifest_path    text NOT NULL,
    title            touchstone.line NOT NULL,
    positives        integer NOT NULL CHECK (positives > 0),
    negatives        integer NOT NULL CHECK (negatives > 0),
    patients         integer NOT NULL CHECK (patients > 0),
    contract_digest  touchstone.digest NOT NULL,
    locked_by        touchstone.line NOT NULL,
    locked_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version)
);

CREATE TABLE touchstone.protocol (
    digest     touchstone.digest PRIMARY KEY,
    id         touchstone.slug NOT NULL,
    version    text NOT NULL,
    body       text NOT NULL,
    attempts   integer NOT NULL CHECK (attempts BETWEEN 1 AND 10),
    locked_by  touchstone.line NOT NULL,
    locked_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (id, version)
);

CREATE TABLE touchstone.submission (
    id                uuid PRIMARY KEY,
    organisation      touchstone.slug NOT NULL REFERENCES touchstone.organisation,
    model_name        text NOT NULL,
    model_version     integer NOT NULL,
    model_digest      touchstone.digest,
    protocol_digest   touchstone.digest NOT NULL REFERENCES touchstone.protocol,
    cohort_id         touchstone.slug NOT NULL,
    cohort_version    text NOT NULL,
    state             text NOT NULL DEFAULT 'registered',
    verdict           text CHECK (verdict IN ('pass', 'conditional', 'fail', 'insufficient_evidence')),
    report_digest     touchstone.digest,
    statement_digest  touchstone.digest,
    certifiable       boolean NOT NULL DEFAULT true,
    failure_code      text,
    failure_message   touchstone.line,
    submitted_by      touchstone.line NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    changed_at        timestamptz NOT NULL DEFAULT now(),
    deadline          timestamptz,
    FOREIGN KEY (cohort_id, cohort_version) REFERENCES touchstone.cohort (id, version),
    CHECK ((verdict IS NULL) = (report_digest IS NULL))
);
CREATE INDEX ON touchstone.submission (organisation, created_at DESC);
CREATE UNIQUE INDEX one_live_submission ON touchstone.submission
    (organisation, model_name, model_version, protocol_digest, cohort_id, cohort_version)
    WHERE state NOT IN ('withdrawn', 'technical_failure', 'not_certified', 'revoked', 'expired');

-- An attempt is spent when the first locked shard is decrypted.
CREATE TABLE touchstone.attempt (
    submission       uuid PRIMARY KEY REFERENCES touchstone.submission,
    family           text NOT NULL,
    cohort_id        touchstone.slug NOT NULL,
    cohort_version   text NOT NULL,
    spent_at         timestamptz NOT NULL DEFAULT now(),
    returned_at      timestamptz,
    returned_reason  touchstone.line
);
CREATE INDEX ON touchstone.attempt (family, cohort_id, cohort_version);

CREATE TABLE touchstone.step (
    submission   uuid NOT NULL REFERENCES touchstone.submission,
    name         text NOT NULL,
    output       jsonb NOT NULL,
    seconds      double precision NOT NULL,
    finished_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (submission, name)
);

CREATE TABLE touchstone.decision (
    submission           uuid NOT NULL REFERENCES touchstone.submission,
    key_id               touchstone.digest NOT NULL REFERENCES touchstone.signer,
    person               touchstone.line NOT NULL,
    outcome              text NOT NULL CHECK (outcome IN ('certify', 'conditional', 'reject')),
    reason               touchstone.line NOT NULL CHECK (reason <> ''),
    report_digest        touchstone.digest NOT NULL,
    envelope             jsonb NOT NULL,
    statement_signature  jsonb,
    decided_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (submission, person),
    UNIQUE (submission, key_id),
    CHECK ((outcome = 'reject') = (statement_signature IS NULL))
);

CREATE TABLE touchstone.certificate (
    submission     uuid PRIMARY KEY REFERENCES touchstone.submission,
    organisation   touchstone.slug NOT NULL,
    model_name     text NOT NULL,
    model_version  integer NOT NULL,
    envelope       jsonb NOT NULL,
    signers        text NOT NULL,
    not_after      timestamptz NOT NULL,
    in_force       boolean NOT NULL DEFAULT true,
    issued_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON touchstone.certificate (model_name) WHERE in_force;

-- What MLflow registered, written by a trigger on its own table (an outbox, not a webhook).
CREATE TABLE touchstone.registration (
    organisation   text NOT NULL,
    model_name     text NOT NULL,
    version        integer NOT NULL,
    source         text NOT NULL,
    registered_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, model_name, version)
);

CREATE TABLE touchstone.event (
    seq           bigint PRIMARY KEY,
    at            timestamptz NOT NULL,
    actor         touchstone.line NOT NULL,
    organisation  text NOT NULL,
    kind          touchstone.slug NOT NULL,
    subject       touchstone.line NOT NULL,
    detail        text NOT NULL CHECK (detail !~ '[\x01-\x1f\x7f]'),
    previous      bytea NOT NULL CHECK (length(previous) = 32),
    hash          bytea NOT NULL UNIQUE CHECK (length(hash) = 32)
);
CREATE INDEX ON touchstone.event (subject, seq);
