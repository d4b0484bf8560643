-- The audit log and Highwater's own bookkeeping. Both belong to a role that nobody can log in as.

-- One row for every change of a captured table, in the order of the commits. `position` sorts as text (COLLATE "C").
CREATE TABLE data_change_logs (
    position        text COLLATE "C" NOT NULL CHECK (length(position) = 34),
    changed_at      timestamptz      NOT NULL, -- when the transaction committed
    table_name      varchar(100)     NOT NULL,
    record_id       text             NOT NULL, -- keys can be anything; `*` for a truncation
    operation       varchar(20)      NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')),
    old_values      jsonb,
    new_values      jsonb,
    changed_columns text[],                    -- of an update; null where the history does not tell
    changed_by      text,                      -- who the application said it was; null: no application claimed the change
    attributed      boolean          NOT NULL DEFAULT false,
    ip_address      varchar(45),
    user_agent      text,
    request_id      text,
    reason          text,
    xid             bigint,
    recorded_at     timestamptz      NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (position, changed_at)
) PARTITION BY RANGE (changed_at);
CREATE INDEX data_change_logs_record ON data_change_logs (table_name, record_id);
CREATE INDEX data_change_logs_changed_at ON data_change_logs (changed_at);
ALTER TABLE data_change_logs OWNER TO highwater_owner;

-- How far the audit worker is; moved in the transaction that appends the rows.
CREATE TABLE highwater.audit_progress (
    topic       text             NOT NULL,
    partition   integer          NOT NULL,
    next_offset bigint           NOT NULL CHECK (next_offset >= 0),
    position    text COLLATE "C" NOT NULL CHECK (length(position) = 34), -- an exclusive bound
    updated_at  timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
);
ALTER TABLE highwater.audit_progress OWNER TO highwater_owner;

-- Makes the partition of one UTC day if it is missing, and tells whether it was. It is attached rather than created in
-- place, because that takes a lock which readers and writers of the other days do not feel.
CREATE FUNCTION highwater.make_audit_day(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    partition text := 'data_change_logs_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(format('highwater.%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('highwater.make_audit_day'));
    -- Another may have made it while this one waited; to_regclass could still answer from before the wait.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = 'highwater'::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE highwater.%I (LIKE public.data_change_logs INCLUDING ALL)', partition);
    EXECUTE format('ALTER TABLE public.data_change_logs ATTACH PARTITION highwater.%I FOR VALUES FROM (%L) TO (%L)',
                   partition, day::timestamptz, (day + 1)::timestamptz);
    RETURN true;
END $$;
ALTER FUNCTION highwater.make_audit_day(date) OWNER TO highwater_owner;
REVOKE ALL ON FUNCTION highwater.make_audit_day(date) FROM PUBLIC;
