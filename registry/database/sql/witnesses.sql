-- name: cosignature_add
INSERT INTO touchstone.cosignature (size, witness, line, seen_at)
VALUES (%(size)s, %(witness)s, %(line)s, %(seen_at)s)
ON CONFLICT DO NOTHING

-- name: cosignatures
SELECT witness, line FROM touchstone.cosignature WHERE size = %(size)s ORDER BY seen_at, witness

-- name: cosigned_last
SELECT DISTINCT ON (witness) witness, size, seen_at FROM touchstone.cosignature
ORDER BY witness, size DESC

-- name: cosigned_from
SELECT size, count(*) AS witnesses, min(seen_at) AS seen_at
FROM touchstone.cosignature WHERE size >= %(size)s GROUP BY size ORDER BY size LIMIT 500

-- name: cosigned_enough
SELECT size FROM touchstone.cosignature WHERE size >= %(size)s AND witness = ANY(%(witnesses)s)
GROUP BY size HAVING count(*) >= %(needed)s ORDER BY size LIMIT 1

-- name: checkpoint_made
SELECT made_at FROM touchstone.checkpoint WHERE size = %(size)s

-- name: witness_answered
INSERT INTO touchstone.witness_answer (witness, trouble) VALUES (%(witness)s, %(trouble)s)
ON CONFLICT (witness) DO UPDATE SET at = clock_timestamp(), trouble = EXCLUDED.trouble

-- name: witness_answers
SELECT witness, at, trouble FROM touchstone.witness_answer
