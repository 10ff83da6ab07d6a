-- What witnesses of the log co-signed (C2SP cosignature/v1), and how the last question to each went.
-- A line proves itself, so the database keeps no rule about it but that it is never changed: it is
-- checked before it comes here, and again before it is handed out. Decision record 0040.

CREATE TABLE touchstone.cosignature (
    size      bigint NOT NULL CHECK (size > 0),
    witness   text NOT NULL CHECK (length(witness) <= 400),  -- its verifier key, NAME+ID+KEY
    line      text NOT NULL CHECK (length(line) <= 1000),
    seen_at   timestamptz NOT NULL,
    taken_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (size, witness)
);
CREATE INDEX cosignature_of_witness ON touchstone.cosignature (witness, size);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON touchstone.cosignature
    FOR EACH ROW EXECUTE FUNCTION touchstone.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON touchstone.cosignature
    EXECUTE FUNCTION touchstone.refuse_change();

-- No part of the record: the newest answer takes the place of the one before.
CREATE TABLE touchstone.witness_answer (
    witness  text PRIMARY KEY CHECK (length(witness) <= 400),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    trouble  text CHECK (length(trouble) <= 500)  -- none where it co-signed
);

ALTER TABLE touchstone.cosignature ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.cosignature FORCE ROW LEVEL SECURITY;
ALTER TABLE touchstone.witness_answer ENABLE ROW LEVEL SECURITY;
ALTER TABLE touchstone.witness_answer FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON touchstone.cosignature TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY gate ON touchstone.cosignature TO touchstone_gate USING (true) WITH CHECK (true);
CREATE POLICY owner ON touchstone.witness_answer TO touchstone_owner USING (true) WITH CHECK (true);
CREATE POLICY gate ON touchstone.witness_answer TO touchstone_gate USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON touchstone.cosignature TO touchstone_gate;
GRANT SELECT, INSERT, UPDATE (at, trouble) ON touchstone.witness_answer TO touchstone_gate;
