//! Where the servers of a stack are: the environment, or the file that the stack wrote.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

/// The addresses of one stack, and the names under which Highwater publishes there.
#[derive(Clone)]
pub struct Endpoints {
    /// The shop's database as its superuser: migrations, ground truth.
    pub admin_database: String,
    /// The shop's database as its application: the writes.
    pub shop_database: String,
    /// `host:port` of the Kafka broker.
    pub brokers: String,
    /// `redis://host:port` of the cache.
    pub cache: String,
    /// `http://host:port` of the storefront gateway.
    pub storefront: String,
    /// `http://host:port` of the pipeline's own metrics and readiness.
    pub operate: String,
    /// Prefix of the topics.
    pub topic_prefix: String,
    /// Password of the login roles, if the stack made one.
    pub password: Option<String>,
    /// Every variable of the stack, for the environment of child processes.
    pub variables: HashMap<String, String>,
}

impl Endpoints {
    /// Reads the addresses from the file that the stack wrote, overridden by the environment.
    ///
    /// # Errors
    /// A file that cannot be read, or an address that neither names.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let mut variables = match file {
            Some(path) => parse(
                &std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}; is the stack up?", path.display()))?,
            ),
            None => HashMap::new(),
        };
        let ours =
            |name: &str| name.starts_with("HIGHWATER_") || name.ends_with("_DATABASE") || name.ends_with("_PORT");
        variables.extend(std::env::vars().filter(|(name, _)| ours(name)));
        Self::from_variables(variables)
    }

    /// Takes the addresses from variables as the stack names them.
    ///
    /// # Errors
    /// An address that is missing, by the variable's name.
    pub fn from_variables(variables: HashMap<String, String>) -> Result<Self> {
        let required = |name: &str| {
            variables
                .get(name)
                .cloned()
                .ok_or_else(|| anyhow!("{name} is not set: start the stack, or name its `env` file with --env"))
        };
        let listen = |name: &str, default: &str| {
            let address = variables.get(name).map_or(default, String::as_str);
            format!("http://{address}")
        };
        Ok(Self {
            admin_database: required("ADMIN_DATABASE")?,
            shop_database: required("SHOP_DATABASE")?,
            brokers: required("HIGHWATER_TOPICS_BROKERS")?,
            cache: required("HIGHWATER_CACHE_SERVER")?,
            storefront: listen("HIGHWATER_STOREFRONT_LISTEN", "127.0.0.1:8080"),
            operate: listen("HIGHWATER_OPERATE_LISTEN", "127.0.0.1:9187"),
            topic_prefix: variables.get("HIGHWATER_SOURCE_TOPIC_PREFIX").map_or("catalog", String::as_str).to_owned(),
            password: variables.get("HIGHWATER_PASSWORD").cloned(),
            variables,
        })
    }

    /// Returns the full name of a topic: `catalog.stock` for `stock`.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.topic_prefix)
    }

    /// Opens an ordinary connection; its driver ends with the client.
    ///
    /// # Errors
    /// What PostgreSQL or the network said, with the server's address and never its password.
    pub async fn connect(url: &str) -> Result<tokio_postgres::Client> {
        let config: tokio_postgres::Config = url.parse().context("not a PostgreSQL address")?;
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.with_context(|| {
            format!("cannot connect to PostgreSQL at {:?} {:?}", config.get_hosts(), config.get_ports())
        })?;
        // The driver's error reaches whoever uses the client; it needs no second report.
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Reads `KEY=VALUE` lines; quotes around a value are the shell's, and go.
fn parse(text: &str) -> HashMap<String, String> {
    text.lines()
        .map(|line| line.trim().trim_start_matches("export "))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stacks_file_is_read_as_a_shell_would() {
        let read = parse("# made by the stack\nexport A='1'\nB=postgresql://u:p@h:1/shop?x=y\n\nnot a line\n");
        assert_eq!(read["A"], "1");
        assert_eq!(read["B"], "postgresql://u:p@h:1/shop?x=y");
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn a_missing_address_is_named() {
        let error = Endpoints::from_variables(HashMap::new()).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("ADMIN_DATABASE")));
    }
}
