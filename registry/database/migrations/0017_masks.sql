-- Cohorts whose reference standard is masks. A case is positive there if any structure is marked, so
-- a cohort may have no negative case. Decision record 0028.
ALTER TABLE touchstone.cohort ADD COLUMN masks boolean NOT NULL DEFAULT false;
ALTER TABLE touchstone.cohort DROP CONSTRAINT cohort_negatives_check;
ALTER TABLE touchstone.cohort ADD CONSTRAINT cohort_negatives_check
    CHECK (negatives > 0 OR (masks AND negatives = 0));
