//! One transaction: the context, the work, the note of what it changed.

use anyhow::Result;
use rand::Rng;
use tokio_postgres::Error;

use super::context::{self, Context};
use super::plan::{Planner, Stock, Work};
use super::session::Session;
use super::{NEVER, Outcome};

const CLAIM: &str = "SELECT pg_logical_emit_message(true, 'highwater.context', $1::text)::text";
const NOTE: &str = "INSERT INTO demo.writes (xid, request_id, changes)
                    VALUES (pg_current_xact_id()::text::bigint & 4294967295, $1, $2)";

/// What the work changed; zero changes are a conflict.
#[derive(Default)]
struct Changed {
    rows: u64,
    stock: Vec<(i64, i32)>,
}

impl Changed {
    fn rows(rows: u64) -> Self {
        Self { rows, stock: Vec::new() }
    }
}

/// Runs one transaction. An error leaves the connection in an unknown state.
pub(super) async fn transaction(
    session: &mut Session,
    stock: &Stock,
    planner: &mut Planner,
    work: &Work,
) -> Result<Outcome> {
    match attempt(session, planner, work).await {
        Ok((outcome, part)) => {
            match (&outcome, work, part) {
                (Outcome::Committed { .. }, Work::Add { .. }, Some(part)) => stock.note_added(part),
                (Outcome::Committed { .. }, Work::Remove { part }, _) => stock.note_removed(*part),
                _ => {}
            }
            Ok(outcome)
        }
        Err(error) if met_another(&error) => {
            session.run("ROLLBACK").await?;
            Ok(Outcome::Conflict)
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells whether another transaction was in the way: a deadlock (class 40), or a key that came or went (class 23).
fn met_another(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("40") || code.code().starts_with("23"))
}

async fn attempt(session: &mut Session, planner: &mut Planner, work: &Work) -> Result<(Outcome, Option<i64>), Error> {
    let abandoned = matches!(work, Work::Abandon { .. });
    session.run("BEGIN").await?;
    // Some writes come from a console, and nobody claims them.
    let context = (abandoned || planner.dice.random_ratio(9, 10))
        .then(|| context::invent(&mut planner.dice, abandoned.then_some(NEVER)));
    if let Some(Context { message, .. }) = &context {
        session.query(CLAIM, &[message]).await?;
    }
    let (changed, part) = match work {
        Work::Add { id } => add(session, planner, *id).await?,
        other => (change(session, planner, other, context.as_ref()).await?, None),
    };
    if abandoned || changed.rows == 0 {
        session.run("ROLLBACK").await?;
        return Ok((if abandoned { Outcome::RolledBack } else { Outcome::Conflict }, None));
    }
    let rows = i32::try_from(changed.rows).unwrap_or(i32::MAX);
    session.execute(NOTE, &[&context.map(|context| context.request_id), &rows]).await?;
    session.run("COMMIT").await?;
    Ok((Outcome::Committed { changes: changed.rows, stock: changed.stock }, part))
}

async fn change(
    session: &mut Session,
    planner: &mut Planner,
    work: &Work,
    context: Option<&Context>,
) -> Result<Changed, Error> {
    let number = planner.dice.random_range(1..1000);
    match work {
        Work::Stock { part, by } => move_stock(session, *part, *by).await,
        Work::Abandon { part } => move_stock(session, *part, 1).await,
        Work::Savepoint { parts } => with_savepoint(session, planner, *parts, context).await,
        Work::Order { parts } => reserve(session, parts).await,
        Work::Delivery { parts } => {
            let rows = session
                .query(
                    "WITH chosen AS (SELECT id FROM stock_levels WHERE part_id = ANY ($1) ORDER BY part_id FOR UPDATE)
                     UPDATE stock_levels SET current_stock = current_stock + 10, version = version + 1
                     FROM chosen WHERE stock_levels.id = chosen.id RETURNING part_id, version",
                    &[parts],
                )
                .await?;
            Ok(moved(&rows))
        }
        Work::Price { part, permille } => move_prices(session, *part, *permille).await,
        Work::Rename { part } => rename(session, *part, number).await,
        Work::Describe { part } => {
            let text = format!("Revised on request {number}.\nNow with \"quotes\", a \\ and a tab:\t| – µ ✓");
            let statement =
                "UPDATE parts SET description = part_name || '. ' || $2, version = version + 1 WHERE id = $1";
            Ok(Changed::rows(session.execute(statement, &[part, &text]).await?))
        }
        Work::Specification { part } => {
            let value = format!("{}.{}", number, number % 10);
            let statement = "UPDATE part_specifications SET spec_value = $2 WHERE part_id = $1 AND sort_order = 0";
            Ok(Changed::rows(session.execute(statement, &[part, &value]).await?))
        }
        Work::AddImage { part } => {
            let url = format!("/media/parts/{part}/extra-{number}.webp");
            let statement = "INSERT INTO part_images (part_id, url, alt_text, sort_order)
                             SELECT id, $2, 'detail', 9 FROM parts WHERE id = $1";
            Ok(Changed::rows(session.execute(statement, &[part, &url]).await?))
        }
        Work::DropImage { part } => {
            let statement = "DELETE FROM part_images WHERE id = (SELECT max(id) FROM part_images
                             WHERE part_id = $1 AND NOT is_primary)";
            Ok(Changed::rows(session.execute(statement, &[part]).await?))
        }
        Work::MoveImage { from, to } => {
            let statement = "UPDATE part_images SET part_id = $2 WHERE id = (SELECT max(id) FROM part_images
                             WHERE part_id = $1 AND NOT is_primary)";
            Ok(Changed::rows(session.execute(statement, &[from, to]).await?))
        }
        Work::Remove { part } => remove(session, *part).await,
        Work::Touch { part } => {
            let statement = "UPDATE stock_levels SET min_stock_level = min_stock_level WHERE part_id = $1";
            Ok(Changed::rows(session.execute(statement, &[part]).await?))
        }
        Work::Category { id } => {
            let text = format!("Everything in stock, list {number}.");
            let statement = "UPDATE categories SET description = $2 WHERE id = $1";
            Ok(Changed::rows(session.execute(statement, &[id, &text]).await?))
        }
        Work::Add { .. } => Ok(Changed::default()),
    }
}

fn moved(rows: &[tokio_postgres::Row]) -> Changed {
    Changed { rows: rows.len() as u64, stock: rows.iter().map(|row| (row.get(0), row.get(1))).collect() }
}

/// Moves a stock level as the admin panel does: read, then update only if nobody else did in between.
async fn move_stock(session: &mut Session, part: i64, by: i32) -> Result<Changed, Error> {
    let read =
        session.query("SELECT version, (part_id % 15 + 1) FROM stock_levels WHERE part_id = $1", &[&part]).await?;
    let Some(row) = read.first() else {
        return Ok(Changed::default());
    };
    let (version, user): (i32, i64) = (row.get(0), row.get(1));
    let rows = session
        .query(
            "UPDATE stock_levels SET current_stock = greatest(0, current_stock + $3), version = version + 1,
                                     last_updated_by = $4
             WHERE part_id = $1 AND version = $2 RETURNING part_id, version",
            &[&part, &version, &by, &user],
        )
        .await?;
    Ok(moved(&rows))
}

async fn with_savepoint(
    session: &mut Session,
    planner: &mut Planner,
    [first, second, third]: [i64; 3],
    context: Option<&Context>,
) -> Result<Changed, Error> {
    let mut changed = move_stock(session, first, 1).await?;
    session.run("SAVEPOINT attempt").await?;
    if context.is_some() {
        let never = context::invent(&mut planner.dice, Some(NEVER));
        session.query(CLAIM, &[&never.message]).await?;
    }
    move_stock(session, second, 100).await?;
    session.run("ROLLBACK TO SAVEPOINT attempt").await?;
    let last = move_stock(session, third, 2).await?;
    changed.rows += last.rows;
    changed.stock.extend(last.stock);
    Ok(changed)
}

async fn reserve(session: &mut Session, parts: &[i64]) -> Result<Changed, Error> {
    let mut changed = Changed::default();
    for part in parts {
        let rows = session
            .query(
                "UPDATE stock_levels
                 SET reserved_quantity = CASE WHEN reserved_quantity < current_stock THEN reserved_quantity + 1 ELSE 0 END,
                     version = version + 1
                 WHERE part_id = $1 RETURNING part_id, version",
                &[part],
            )
            .await?;
        let one = moved(&rows);
        changed.rows += one.rows;
        changed.stock.extend(one.stock);
    }
    Ok(changed)
}

/// Moves the prices by a factor. What is cheap only rises and what is dear only falls, so that hours of writing stay believable.
async fn move_prices(session: &mut Session, part: i64, permille: i32) -> Result<Changed, Error> {
    let new = session
        .execute(
            "UPDATE part_prices
             SET price = round(price * CASE WHEN price < 15 THEN greatest($2::int, 1000)
                                            WHEN price > 900 THEN least($2::int, 1000) ELSE $2::int END / 1000, 2)
             WHERE part_id = $1 AND is_active",
            &[&part, &permille],
        )
        .await?;
    let old = session
        .execute(
            "UPDATE prices SET price = (SELECT p.price FROM part_prices p WHERE p.part_id = $1 AND price_type = 'retail'
                                        ORDER BY id LIMIT 1)
             WHERE part_id = $1 AND EXISTS (SELECT FROM part_prices p WHERE p.part_id = $1 AND price_type = 'retail')",
            &[&part],
        )
        .await?;
    Ok(Changed::rows(new + old))
}

/// Renames under optimistic locking, and keeps the content's version.
async fn rename(session: &mut Session, part: i64, number: i32) -> Result<Changed, Error> {
    let rows = session.query("SELECT version, part_name FROM parts WHERE id = $1", &[&part]).await?;
    let Some(row) = rows.first() else {
        return Ok(Changed::default());
    };
    let (version, name): (i32, &str) = (row.get(0), row.get(1));
    let (stem, _) = name.rsplit_once(' ').unwrap_or((name, ""));
    let name = format!("{stem} {number}");
    let statement = "UPDATE parts SET part_name = $3, version = version + 1 WHERE id = $1 AND version = $2";
    let changed = session.execute(statement, &[&part, &version, &name]).await?;
    if changed > 0 {
        session
            .execute(
                "INSERT INTO part_content_versions (part_id, version_number, content_snapshot, change_summary, created_by)
                 SELECT id, version, to_jsonb(parts), 'renamed', id % 15 + 1 FROM parts WHERE id = $1
                 ON CONFLICT (part_id, version_number) DO NOTHING",
                &[&part],
            )
            .await?;
    }
    Ok(Changed::rows(changed))
}

/// Adds a part with all of its rows, each copied from a part that is there.
async fn add(session: &mut Session, planner: &mut Planner, id: Option<i64>) -> Result<(Changed, Option<i64>), Error> {
    let tag = format!("{:012x}", planner.dice.random_range(0..1_u64 << 48));
    let model = i64::from(planner.dice.random_range(1..200));
    let rows = if let Some(id) = id {
        let statement = "INSERT INTO parts (id, category_id, sku, part_name, brand, description)
                         SELECT $3, category_id, 'NEW-' || $1, part_name, brand, description
                         FROM parts WHERE id >= $2 ORDER BY id LIMIT 1 RETURNING id";
        session.query(statement, &[&tag, &model, &id]).await?
    } else {
        let statement = "INSERT INTO parts (category_id, sku, part_name, brand, description)
                         SELECT category_id, 'NEW-' || $1, part_name, brand, description
                         FROM parts WHERE id >= $2 ORDER BY id LIMIT 1 RETURNING id";
        session.query(statement, &[&tag, &model]).await?
    };
    let Some(row) = rows.first() else {
        return Ok((Changed::default(), None));
    };
    let part: i64 = row.get(0);
    let mut count = 1;
    for statement in [
        "INSERT INTO stock_levels (part_id, current_stock, min_stock_level) VALUES ($1, 25, 5)",
        "INSERT INTO part_prices (part_id, price_type, price) VALUES ($1, 'retail', 49.90), ($1, 'wholesale', 39.90)",
        "INSERT INTO prices (part_id, price) VALUES ($1, 49.90)",
        "INSERT INTO part_images (part_id, url, is_primary) VALUES ($1, '/media/parts/new.webp', true)",
        "INSERT INTO part_specifications (part_id, spec_name, spec_value, unit) VALUES ($1, 'Length', '12.5', 'mm')",
    ] {
        count += session.execute(statement, &[&part]).await?;
    }
    Ok((Changed::rows(count), Some(part)))
}

/// Removes a part; its rows go by their foreign keys, and its variants lose their head.
async fn remove(session: &mut Session, part: i64) -> Result<Changed, Error> {
    // With the row locked nobody can add to it between the count and the delete.
    session.query("SELECT FROM parts WHERE id = $1 FOR UPDATE", &[&part]).await?;
    let count = "SELECT (SELECT count(*) FROM stock_levels WHERE part_id = $1)
                      + (SELECT count(*) FROM part_prices WHERE part_id = $1)
                      + (SELECT count(*) FROM prices WHERE part_id = $1)
                      + (SELECT count(*) FROM part_images WHERE part_id = $1)
                      + (SELECT count(*) FROM part_specifications WHERE part_id = $1)
                      + (SELECT count(*) FROM parts WHERE parent_id = $1)";
    let rows = session.query(count, &[&part]).await?;
    let others: i64 = rows.first().map_or(0, |row| row.get(0));
    let removed = session.execute("DELETE FROM parts WHERE id = $1", &[&part]).await?;
    Ok(Changed::rows(removed * (1 + u64::try_from(others).unwrap_or(0))))
}
