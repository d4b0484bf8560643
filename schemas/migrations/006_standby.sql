-- Where the log is read from a standby ([source] standby), a new slot there waits for what this function logs.

DO $$
BEGIN
    IF to_regprocedure('pg_catalog.pg_log_standby_snapshot()') IS NOT NULL THEN -- PostgreSQL 16 and newer
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() TO highwater_capture;
    END IF;
END $$;
