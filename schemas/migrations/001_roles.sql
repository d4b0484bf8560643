-- The roles of a shop with Highwater. Passwords are set by whoever applies the migrations; none stands here.
-- Roles belong to the whole server, so that another database of it may have made them already, or be making them now.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'highwater_owner NOLOGIN',             -- owns the audit log and Highwater's own schema; nobody is it
        'highwater_capture LOGIN REPLICATION', -- reads the log and the captured tables
        'highwater_audit LOGIN',               -- appends to the audit log
        'shop_app LOGIN',                      -- the shop's application
        'shop_read LOGIN'                      -- reads the shop, on replicas for example
    ] LOOP
        BEGIN
            EXECUTE 'CREATE ROLE ' || wanted;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO highwater_capture, highwater_audit, shop_app, shop_read',
                   current_database());
END $$;

-- PostgreSQL before 15 lets everybody create objects there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO highwater_owner, highwater_capture, highwater_audit, shop_app, shop_read;

CREATE SCHEMA IF NOT EXISTS highwater;
GRANT USAGE, CREATE ON SCHEMA highwater TO highwater_owner;
GRANT USAGE ON SCHEMA highwater TO highwater_audit;
