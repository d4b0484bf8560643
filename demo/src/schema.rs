//! Brings a database to the schema of the shop: the migrations in order, each once, and the passwords of the login roles.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Every migration with its name, in the order of application.
pub const MIGRATIONS: [(&str, &str); 6] = [
    ("001_roles", include_str!("../../schemas/migrations/001_roles.sql")),
    ("002_catalogue", include_str!("../../schemas/migrations/002_catalogue.sql")),
    ("003_audit", include_str!("../../schemas/migrations/003_audit.sql")),
    ("004_privileges", include_str!("../../schemas/migrations/004_privileges.sql")),
    ("005_publication", include_str!("../../schemas/migrations/005_publication.sql")),
    ("006_standby", include_str!("../../schemas/migrations/006_standby.sql")),
];

/// The tables that the publication holds.
pub const CAPTURED_TABLES: [&str; 7] =
    ["categories", "parts", "stock_levels", "part_prices", "prices", "part_images", "part_specifications"];

/// The roles that log in.
pub const LOGIN_ROLES: [&str; 4] = ["highwater_capture", "highwater_audit", "shop_app", "shop_read"];

const BOOKKEEPING: &str = "
    CREATE SCHEMA IF NOT EXISTS highwater;
    CREATE TABLE IF NOT EXISTS highwater.migrations (
        name       text PRIMARY KEY,
        digest     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";

/// Applies the migrations that the database does not have yet, and returns their names. Others who do the same at the
/// same time wait.
///
/// # Errors
/// What PostgreSQL said of a migration, or one that was edited after it had been applied.
pub async fn apply(client: &mut Client) -> Result<Vec<&'static str>> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtext('highwater.migrations'))", &[]).await?;
    transaction.batch_execute(BOOKKEEPING).await?;
    let mut applied = Vec::new();
    for (name, text) in MIGRATIONS {
        let known = transaction
            .query_opt("SELECT digest = md5($2) FROM highwater.migrations WHERE name = $1", &[&name, &text])
            .await?;
        match known.map(|row| row.get::<_, bool>(0)) {
            Some(true) => continue,
            Some(false) => {
                bail!("migration {name} was edited after this database had applied it: add a new one instead")
            }
            None => {}
        }
        transaction.batch_execute(text).await.with_context(|| format!("migration {name} failed"))?;
        transaction
            .execute("INSERT INTO highwater.migrations (name, digest) VALUES ($1, md5($2))", &[&name, &text])
            .await?;
        applied.push(name);
    }
    transaction.commit().await?;
    Ok(applied)
}

/// Gives every login role the password. Roles belong to the whole server, so that two databases may do it at once.
///
/// # Errors
/// What PostgreSQL said.
pub async fn set_passwords(client: &Client, password: &str) -> Result<()> {
    for role in LOGIN_ROLES {
        let row = client
            .query_one("SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", &[&role, &password])
            .await?;
        let statement: String = row.get(0);
        let mut attempts = 0;
        while let Err(error) = client.batch_execute(&statement).await {
            attempts += 1;
            // "tuple concurrently updated": another database's start does the same to the same role.
            if error.code() != Some(&SqlState::INTERNAL_ERROR) || attempts == 20 {
                return Err(error).with_context(|| format!("cannot set the password of {role}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_stand_in_the_order_of_their_names() {
        assert!(MIGRATIONS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn no_migration_holds_a_password() {
        assert!(MIGRATIONS.iter().all(|(_, text)| !text.to_uppercase().contains(" PASSWORD '")));
    }
}
