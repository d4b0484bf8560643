-- What the log shows of the catalogue: whole old rows too, so that every change can tell what it replaced.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['categories', 'parts', 'stock_levels', 'part_prices', 'prices', 'part_images',
                                'part_specifications'] LOOP
        EXECUTE format('ALTER TABLE public.%I REPLICA IDENTITY FULL', name);
    END LOOP;
END $$;

CREATE PUBLICATION highwater
    FOR TABLE categories, parts, stock_levels, part_prices, prices, part_images, part_specifications;
