//! Servers that a section names by URL, and their passwords.
//!
//! Promise: a password never stands in config.toml, and never in the URL that messages show. It comes from
//! `HIGHWATER_<SECTION>_PASSWORD`, else from the file that `password_file` names, else from a URL in a variable.

use std::fmt;

use highwater_postgres::{ConfigError, ConnectConfig};
use percent_encoding::percent_decode_str;

use super::place::Placed;
use super::secret::Secret;
use super::section::{Found, Section, Written};

const PASSWORD_KEY: &str = "password";
const PASSWORD_FILE_KEY: &str = "password_file";

/// A server by URL, its password apart. Its text, `Debug` included, is the URL without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    url: String,
    password: Option<Secret>,
}

impl Server {
    /// Returns the URL, which holds no password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the password, if one was given.
    #[must_use]
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }
}

impl Server {
    /// Returns how to reach a PostgreSQL server as this user, under a name that the server shows.
    ///
    /// # Errors
    /// A parameter of the URL that the connector does not know.
    pub fn postgres(&self, application_name: &str) -> Result<ConnectConfig, ConfigError> {
        let config = ConnectConfig::parse(&self.url)?.with_application_name(application_name);
        Ok(match &self.password {
            Some(password) => config.with_password(highwater_postgres::Secret::new(password.expose())),
            None => config,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Section<'_> {
    /// Reads a server's URL with one of the schemes, and the section's password: from a variable or from a file.
    pub fn server(&mut self, key: &str, default: &str, schemes: &[&str]) -> Server {
        let written = self.optional_text(key);
        let password = self.password();
        let server = written.and_then(|written| self.server_at(key, written, schemes));
        let Server { url, password: inside } =
            server.unwrap_or_else(|| Server { url: default.to_owned(), password: None });
        Server { url, password: password.or(inside) }
    }

    /// Reads another server's URL, which has the password of the section's first if it names no other; an empty one names
    /// none.
    pub fn another_server(&mut self, key: &str, schemes: &[&str], password: Option<&Secret>) -> Option<Server> {
        let written = self.optional_text(key).filter(|written| !written.value.is_empty())?;
        let Server { url, password: inside } = self.server_at(key, written, schemes)?;
        Some(Server { url, password: inside.or_else(|| password.cloned()) })
    }

    /// Takes a URL apart into the server and the password inside it.
    fn server_at(&mut self, key: &str, written: Placed<String>, schemes: &[&str]) -> Option<Server> {
        let place = written.place;
        match split_password(&written.value, schemes) {
            Err(expected) => {
                // The text is not shown: it may hold a password in a form that is not known here.
                let message = format!("found a text that is no such URL; expected {expected}");
                self.refuse(place, key, message);
            }
            Ok((_, Some(_))) if place.line > 0 => {
                let remedy = self.password_remedy();
                let message = format!("a URL in this file must not hold a password; {remedy}");
                self.refuse(place, key, message);
            }
            Ok((url, password)) => return Some(Server { url, password }),
        }
        None
    }

    /// Reads the section's secret: the variable `HIGHWATER_<SECTION>_PASSWORD`, else the file named by `password_file`.
    pub fn password(&mut self) -> Option<Secret> {
        let variable = match self.peek(PASSWORD_KEY) {
            Some(Written { found: Found::Variable(text), .. }) => Some(text).filter(|text| !text.is_empty()),
            Some(Written { place, .. }) => {
                let remedy = self.password_remedy();
                let message = format!("a secret must not stand in this file; {remedy}");
                self.refuse(place, PASSWORD_KEY, message);
                None
            }
            None => None,
        };
        self.take_quietly(PASSWORD_KEY);
        let file = self.optional_text(PASSWORD_FILE_KEY);
        if let Some(text) = variable {
            return Some(Secret::new(text.to_owned()));
        }
        self.secret_file(PASSWORD_FILE_KEY, &file?)
    }

    /// Reads the file that `key` names, without the end of its last line.
    pub(super) fn secret_file(&mut self, key: &str, file: &Placed<String>) -> Option<Secret> {
        let name = &file.value;
        let path = if file.place.line > 0 { self.document().resolve(name) } else { name.into() };
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.refuse(file.place.clone(), key, message);
                None
            }
        }
    }

    pub(super) fn password_remedy(&self) -> String {
        let variable = self.variable_of(PASSWORD_KEY);
        format!("set {variable}, or name a file by {PASSWORD_FILE_KEY}")
    }
}

/// Takes the password out of `scheme://user:password@host/…`; the error says what is expected.
fn split_password(url: &str, schemes: &[&str]) -> Result<(String, Option<Secret>), String> {
    let expected = || {
        let forms: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://…")).collect();
        forms.join(" or ")
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
    if !schemes.contains(&scheme) {
        return Err(expected());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        // A password with a raw slash would end the authority early, and its rest would show as part of the URL.
        return Err(format!("{} with /, ?, # and @ percent-encoded", expected()));
    }
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    if query.split('&').any(|pair| pair.starts_with("password=")) {
        return Err(format!("{} without a password among the parameters", expected()));
    }
    let Some((user, hosts)) = authority.rsplit_once('@') else {
        return Ok((url.to_owned(), None));
    };
    let Some((user, password)) = user.split_once(':') else {
        return Ok((url.to_owned(), None));
    };
    let password = percent_decode_str(password).decode_utf8().map_err(|_| "a password in UTF-8".to_owned())?;
    let at = if user.is_empty() { "" } else { "@" };
    let secret = Some(password.into_owned()).filter(|text| !text.is_empty());
    Ok((format!("{scheme}://{user}{at}{hosts}{tail}"), secret.map(Secret::new)))
}
