-- Why a turn is to be taken again: the code of what was away. At a deadline it tells a model that was
-- slow from one that was kept waiting. Decision record 0031.

ALTER TABLE touchstone.turn
    ADD COLUMN code text CHECK (code IS NULL
        OR (code ~ '^[a-z0-9_]{1,100}$' AND outcome = 'again'));
GRANT UPDATE (code) ON touchstone.turn TO touchstone_worker;
