//! Properties of a client library, `name=value`, of which some are secrets.
//!
//! Promise: what may be a secret stands in no configuration in clear and in no message; its value is the content of a file that
//! `name=@path` names.

use super::document::Value;
use super::place::Placed;
use super::secret::Secret;
use super::section::{Found, Section, Written};

/// The property that a section's password is for.
const PASSWORD: &str = "sasl.password";

impl Section<'_> {
    /// Reads properties of a client. No value is shown, since names that nobody knows here may be misspelt secrets.
    pub fn client_properties(&mut self, key: &str) -> Vec<(String, Secret)> {
        if matches!(self.peek(key), Some(Written { found: Found::Toml(Value::Text(_)), .. })) {
            self.error(key, "found a text; expected a list of texts, \"name=value\" each");
            self.take_quietly(key);
            return Vec::new();
        }
        let written = self.optional_list(key).unwrap_or_default();
        written.into_iter().filter_map(|item| self.client_property(key, &item)).collect()
    }

    fn client_property(&mut self, key: &str, item: &Placed<String>) -> Option<(String, Secret)> {
        let Some((name, value)) = item.value.split_once('=') else {
            let message = "an entry without `=`; expected \"name=value\", such as \"security.protocol=ssl\"";
            self.refuse(item.place.clone(), key, message.to_owned());
            return None;
        };
        let (name, value) = (name.trim(), value.trim());
        if let Some(path) = value.strip_prefix('@') {
            let file = Placed { value: path.to_owned(), place: item.place.clone() };
            return Some((name.to_owned(), self.secret_file(key, &file)?));
        }
        if is_secret(name) {
            let mut message =
                format!("`{name}` may be a secret: name a file that holds it, \"{name}=@/run/secrets/…\"");
            if name == PASSWORD {
                message = format!("`{name}` is a secret: {}", self.password_remedy());
            }
            self.refuse(item.place.clone(), key, message);
            return None;
        }
        Some((name.to_owned(), Secret::new(value.to_owned())))
    }
}

/// Whether a property's value may be a secret. An address of where to fetch one is none.
fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    let words = ["password", "passphrase", "secret", "jaas", "token"];
    last == "pem" || (words.iter().any(|word| name.contains(word)) && last != "url")
}
