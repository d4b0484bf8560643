//! The two forms of a connection string (libpq manual: Connection Strings), read into one list of settings.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{
    CONNECT_TIMEOUT, ChannelBinding, ConfigError, ConnectConfig, Endpoint, Host, Secret, SslMode, TargetSession,
};

/// What a server listens on where nobody says otherwise.
const PORT: u16 = 5432;

type Settings = Vec<(String, String)>;

fn wrong(message: impl Into<String>) -> ConfigError {
    ConfigError(message.into())
}

/// Reads either form into names and values, in order; of a name that comes twice, the last counts.
pub(super) fn settings(text: &str) -> Result<Settings, ConfigError> {
    let url = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    match url {
        Some(rest) => url_settings(rest),
        None if text.contains("://") => Err(wrong("a database's address starts with postgresql://")),
        None => keyword_settings(text),
    }
}

fn url_settings(rest: &str) -> Result<Settings, ConfigError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut settings = Settings::new();
    let mut add = |name: &str, value: &str| -> Result<(), ConfigError> {
        if !value.is_empty() {
            settings.push((name.to_owned(), decode(name, value)?));
        }
        Ok(())
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    add("user", user)?;
    add("password", password)?;
    let (names, ports) = host_list(hosts)?;
    if names.iter().any(|name| !name.is_empty()) {
        add("host", &names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| wrong("a setting in a database's address lacks its `=`"))?;
        add(&decode("setting", name)?, value)?;
    }
    Ok(settings)
}

/// Splits `a:1,[::1]:2,c` into names and ports.
fn host_list(hosts: &str) -> Result<(Vec<&str>, Vec<&str>), ConfigError> {
    let mut lists = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(inner) => {
                let (name, rest) = inner.split_once(']').ok_or_else(|| wrong("an address in [ ] lacks its `]`"))?;
                (name, rest.strip_prefix(':').unwrap_or(rest))
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        lists.0.push(name);
        lists.1.push(port);
    }
    Ok(lists)
}

fn decode(name: &str, value: &str) -> Result<String, ConfigError> {
    let decoded = percent_decode_str(value).decode_utf8();
    decoded.map(String::from).map_err(|_| wrong(format!("the {name} of a database's address is not UTF-8")))
}

fn keyword_settings(text: &str) -> Result<Settings, ConfigError> {
    let mut settings = Settings::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .ok_or_else(|| wrong("expected postgresql://… or name=value pairs, as in `host=localhost user=shop`"))?;
        let (value, after) = keyword_value(after.trim_start())?;
        settings.push((name.trim_end().to_owned(), value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// Reads a value, in single quotes or up to the next space; a backslash takes the next character as it is.
fn keyword_value(text: &str) -> Result<(String, &str), ConfigError> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(wrong("a quoted value lacks its closing quote")) } else { Ok((value, "")) }
}

/// Builds the configuration, refusing what it does not know.
pub(super) fn build(settings: Settings) -> Result<ConnectConfig, ConfigError> {
    let mut config = ConnectConfig {
        endpoints: Vec::new(),
        user: String::new(),
        database: String::new(),
        password: None,
        application_name: None,
        connect_timeout: CONNECT_TIMEOUT,
        sslmode: SslMode::Prefer,
        root_certificate: None,
        own_certificate: None,
        own_key: None,
        channel_binding: ChannelBinding::Prefer,
        target: TargetSession::Any,
        options: None,
        parameters: Vec::new(),
    };
    let (mut hosts, mut addresses, mut ports) = (String::new(), String::new(), String::new());
    for (name, value) in settings {
        match name.as_str() {
            "host" => hosts = value,
            "hostaddr" => addresses = value,
            "port" => ports = value,
            "user" => config.user = value,
            "dbname" => config.database = value,
            "password" => config.password = Some(Secret::new(value)),
            "application_name" => config.application_name = Some(value),
            "options" => config.options = Some(value),
            "connect_timeout" => config.connect_timeout = seconds(&value)?,
            "sslrootcert" => config.root_certificate = Some(PathBuf::from(value)),
            "sslcert" => config.own_certificate = Some(PathBuf::from(value)),
            "sslkey" => config.own_key = Some(PathBuf::from(value)),
            "sslmode" => config.sslmode = choice(&name, &value, &SSL_MODES)?,
            "channel_binding" => config.channel_binding = choice(&name, &value, &CHANNEL_BINDINGS)?,
            "target_session_attrs" => config.target = choice(&name, &value, &TARGETS)?,
            _ => return Err(wrong(format!("a database's address has the setting `{name}`, which is not known here"))),
        }
    }
    if config.user.is_empty() {
        return Err(wrong("a database's address names no user"));
    }
    if config.database.is_empty() {
        config.database.clone_from(&config.user);
    }
    if config.own_certificate.is_some() != config.own_key.is_some() {
        return Err(wrong("a database's address has one of sslcert and sslkey; they belong together"));
    }
    config.endpoints = endpoints(&hosts, &addresses, &ports)?;
    let text = [&config.user, &config.database].into_iter().chain(&config.application_name).chain(&config.options);
    if text.into_iter().any(|text| text.contains('\0')) {
        return Err(wrong("a database's address holds a NUL"));
    }
    Ok(config)
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Prefer),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const CHANNEL_BINDINGS: [(&str, ChannelBinding); 3] =
    [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

const TARGETS: [(&str, TargetSession); 5] = [
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("primary", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("standby", TargetSession::ReadOnly),
];

fn choice<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T, ConfigError> {
    let found = known.iter().find(|(word, _)| *word == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        wrong(format!("{name} is `{value}`, which is none of {}", words.join(", ")))
    })
}

fn seconds(value: &str) -> Result<Duration, ConfigError> {
    match value.parse::<u32>() {
        // libpq waits for ever at 0; here every wait has a deadline.
        Ok(0) => Ok(CONNECT_TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(u64::from(seconds))),
        Err(_) => Err(wrong(format!("connect_timeout is `{value}`, which is no whole number of seconds"))),
    }
}

/// Pairs hosts, addresses and ports as libpq does: one port can serve all hosts.
fn endpoints(hosts: &str, addresses: &str, ports: &str) -> Result<Vec<Endpoint>, ConfigError> {
    let list = |text: &str| -> Vec<String> {
        if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
    };
    let (hosts, addresses, ports) = (list(hosts), list(addresses), list(ports));
    let count = hosts.len().max(addresses.len()).max(1);
    if !addresses.is_empty() && !hosts.is_empty() && addresses.len() != hosts.len() {
        return Err(wrong(format!("{} values of host, but {} of hostaddr", hosts.len(), addresses.len())));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(wrong(format!("{count} hosts, but {} ports", ports.len())));
    }
    (0..count)
        .map(|i| {
            let port = match ports.get(i).or(ports.first()).map_or("", String::as_str) {
                "" => PORT,
                // Not shown: it may be half of a password with a `/` that should have been written %2F.
                text => text.parse().map_err(|_| wrong("the port of a database's address is no number up to 65535"))?,
            };
            let address = addresses.get(i).filter(|text| !text.is_empty());
            let address = address
                .map(|text| text.parse().map_err(|_| wrong(format!("hostaddr `{text}` is no address"))))
                .transpose()?;
            let name = hosts.get(i).filter(|name| !name.is_empty()).cloned();
            let host = match name {
                Some(name) if name.starts_with('/') => Host::Unix(PathBuf::from(name)),
                Some(name) => Host::Tcp { name, address },
                None => Host::Tcp { name: address.map_or("localhost".to_owned(), |a| a.to_string()), address },
            };
            Ok(Endpoint { host, port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ConnectConfig {
        ConnectConfig::parse(text).unwrap()
    }

    fn shown(text: &str) -> Vec<String> {
        parse(text).endpoints().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let url = parse("postgresql://shop%40x@db.example:6432/catalogue?sslmode=verify-full&sslrootcert=%2Fca.pem");
        let words =
            parse("host=db.example port=6432 user=shop@x dbname = 'catalogue' sslmode=verify-full sslrootcert=/ca.pem");
        assert_eq!(url, words);
        assert_eq!((url.user(), url.database(), url.sslmode()), ("shop@x", "catalogue", SslMode::VerifyFull));
    }

    #[test]
    fn a_folder_of_sockets_can_be_the_host() {
        let path = ["/run/pg/.s.PGSQL.5433"];
        assert_eq!(shown("postgresql://u@%2Frun%2Fpg:5433/d"), path);
        assert_eq!(shown("postgresql://u@/d?host=/run/pg&port=5433"), path);
        assert_eq!(shown("host=/run/pg port=5433 user=u"), path);
        assert!(parse("host=/run/pg user=u").endpoints()[0].is_local_socket());
    }

    #[test]
    fn several_hosts_are_tried_in_turn() {
        assert_eq!(shown("postgresql://u@a:1,[::1]:2,c/d"), ["a:1", "[::1]:2", "c:5432"]);
        assert_eq!(shown("host=a,b port=7 user=u"), ["a:7", "b:7"]);
        let pinned = parse("host=db.example hostaddr=10.0.0.1 user=u");
        let host = Host::Tcp { name: "db.example".into(), address: Some([10, 0, 0, 1].into()) };
        assert_eq!(pinned.endpoints()[0].host, host);
    }

    #[test]
    fn quoted_values_keep_spaces_and_quotes() {
        let config = parse(r"user='it\'s me' application_name='a b' host=x");
        assert_eq!((config.user(), config.application_name()), ("it's me", Some("a b")));
    }

    #[test]
    fn an_allowed_tls_is_a_preferred_one() {
        assert_eq!(parse("postgresql://u@h?sslmode=allow").sslmode(), SslMode::Prefer);
        assert_eq!(parse("postgresql://u@h").sslmode(), SslMode::Prefer);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (text, part) in [
            ("postgresql://u@h/d?sslcompression=1", "sslcompression"),
            ("postgresql://u@h/d?sslmode=maybe", "verify-full"),
            ("postgresql://u@h:99999/d", "65535"),
            ("postgresql://h/d", "user"),
            ("postgresql://u@h/d?connect_timeout=soon", "soon"),
            ("mysql://u@h", "postgresql://"),
            ("user='u", "quote"),
            ("localhost", "name=value"),
            ("host=a,b port=1,2,3 user=u", "3 ports"),
            ("host=a user=u sslcert=/x.crt", "sslkey"),
            ("host=a hostaddr=nowhere user=u", "nowhere"),
        ] {
            let error = ConnectConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_neither_shown_nor_named_in_errors() {
        let config = parse("postgresql://u:hunter2@h/d").with_application_name("x");
        assert!(config.has_password());
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        for text in ["postgresql://u:hunter2@h:x/d", "postgresql://u:hunter2/x@h/d", "postgresql://u:hunter2"] {
            let error = ConnectConfig::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_text_form_stands_above_what_the_caller_sets() {
        let config = parse("postgresql://u@h").with_parameter("DateStyle", "SQL").with_parameter("work_mem", "1MB");
        let last = config.session_settings().filter(|(name, _)| *name == "DateStyle").last();
        assert_eq!(last, Some(("DateStyle", "ISO, YMD")));
        assert!(config.session_settings().any(|setting| setting == ("work_mem", "1MB")));
    }
}
