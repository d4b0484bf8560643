-- Who may do what: no more than each role needs.

GRANT SELECT ON categories, parts, stock_levels, part_prices, prices, part_images, part_specifications
    TO highwater_capture;

-- Append only. It sees the unique columns, which ON CONFLICT needs, and nothing else of the log.
GRANT INSERT, SELECT (position, changed_at) ON data_change_logs TO highwater_audit;
GRANT SELECT, INSERT, UPDATE ON highwater.audit_progress TO highwater_audit;
GRANT EXECUTE ON FUNCTION highwater.make_audit_day(date) TO highwater_audit;

GRANT SELECT, INSERT, UPDATE, DELETE
    ON users, categories, parts, stock_levels, part_prices, prices, part_images, part_specifications,
       part_content_versions
    TO shop_app;

GRANT SELECT
    ON users, categories, parts, stock_levels, part_prices, prices, part_images, part_specifications,
       part_content_versions
    TO shop_read;
