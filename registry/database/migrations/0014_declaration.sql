-- What a model's maker declares with a submission, and what holds a model for review.

-- 1. The declaration lies in the store under its digest. It is bound when the submission is made.
--    A finding that holds a model for review is written with the verdict. Both stay as they are.
ALTER TABLE touchstone.submission
    ADD COLUMN declaration_digest touchstone.digest,
    ADD COLUMN held_for_review touchstone.line CHECK (held_for_review <> '');
GRANT UPDATE (held_for_review) ON touchstone.submission TO touchstone_worker;

CREATE FUNCTION touchstone.guard_declared() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.held_for_review IS NOT NULL THEN
            RAISE EXCEPTION 'a submission begins without a finding'
                USING ERRCODE = 'restrict_violation';
        END IF;
    ELSIF NEW.declaration_digest IS DISTINCT FROM OLD.declaration_digest THEN
        RAISE EXCEPTION 'what a submission binds is never changed'
            USING ERRCODE = 'restrict_violation';
    ELSIF NEW.held_for_review IS DISTINCT FROM OLD.held_for_review AND OLD.verdict IS NOT NULL THEN
        RAISE EXCEPTION 'what holds a model for review is written with its verdict'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER declared BEFORE INSERT OR UPDATE ON touchstone.submission
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_declared();

-- 2. Nobody certifies a model that is held for review without saying what was looked at.
CREATE FUNCTION touchstone.guard_held() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.outcome <> 'reject'
       AND length(regexp_replace(btrim(NEW.reason), '\s+', ' ', 'g')) < 20
       AND EXISTS (SELECT FROM touchstone.submission s
                   WHERE s.id = NEW.submission AND s.held_for_review IS NOT NULL) THEN
        RAISE EXCEPTION 'this model is held for review: say in the reason what was looked at'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'held_for_review';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER held BEFORE INSERT ON touchstone.decision
    FOR EACH ROW EXECUTE FUNCTION touchstone.guard_held();

REVOKE EXECUTE ON FUNCTION touchstone.guard_declared, touchstone.guard_held FROM PUBLIC;
