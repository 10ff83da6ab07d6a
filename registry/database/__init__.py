"""PostgreSQL through psycopg 3: migrations, roles, queries. The only place that writes SQL."""
