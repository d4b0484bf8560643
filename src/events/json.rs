//! JSON written from the text that PostgreSQL sent: copied through where it is already valid, escaped where not.
//!
//! Promise: what is written parses, whatever the bytes; no serde on the publish path.

/// A text that is short in nearly all events, so that it needs no allocation then.
pub type ShortText = smallvec::SmallVec<[u8; 128]>;

/// How a column's text becomes a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// smallint, integer, bigint, oid: the digits themselves.
    Number,
    /// boolean: `t` and `f` become `true` and `false`.
    Boolean,
    /// json and jsonb: the text itself.
    Json,
    /// A timestamp with time zone in a field that its event type declares as time: RFC 3339 where it has such a form.
    Time,
    /// Everything else: a string of PostgreSQL's own text.
    Text,
}

impl Encoding {
    /// Returns the encoding of a base type by its OID (PostgreSQL: `pg_type.dat`, fixed for built-in types).
    #[must_use]
    pub fn of_type(oid: u32) -> Self {
        match oid {
            20 | 21 | 23 | 26 => Self::Number,
            16 => Self::Boolean,
            114 | 3802 => Self::Json,
            _ => Self::Text,
        }
    }

    /// Appends one value.
    pub fn write(self, out: &mut Vec<u8>, text: &[u8]) {
        match self {
            Self::Number => out.extend_from_slice(text),
            Self::Boolean => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
            Self::Json => write_json(out, text),
            Self::Time => write_time(out, text),
            Self::Text => write_string(out, text),
        }
    }
}

/// Bytes that a JSON string cannot hold as they are (RFC 8259 §7).
static ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Appends a JSON string, quotes included.
///
/// Bytes that are not UTF-8, which only a database of encoding `SQL_ASCII` sends, become U+FFFD.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// Appends what stands between the quotes of a JSON string.
pub fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(_) => escape(out, text),
        Err(_) => escape(out, String::from_utf8_lossy(text).as_bytes()),
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean = 0;
    for (at, &byte) in text.iter().enumerate() {
        if !ESCAPED[usize::from(byte)] {
            continue;
        }
        out.extend_from_slice(&text[clean..at]);
        clean = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
                out.push(b"0123456789abcdef"[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text[clean..]);
}

/// PostgreSQL has checked the value; only a `SQL_ASCII` database can hand out one that is not UTF-8.
fn write_json(out: &mut Vec<u8>, text: &[u8]) {
    if std::str::from_utf8(text).is_ok() {
        out.extend_from_slice(text);
    } else {
        out.extend_from_slice(String::from_utf8_lossy(text).as_bytes());
    }
}

/// `2026-11-21 10:00:00.5+00`, as sent under TimeZone UTC, becomes `2026-11-21T10:00:00.5Z`; what has another form
/// (infinity, BC, years past 9999) stays the string that PostgreSQL sent.
fn write_time(out: &mut Vec<u8>, text: &[u8]) {
    let four_digit_year = text.len() >= 22 && text[4] == b'-' && text[10] == b' ';
    match text.strip_suffix(b"+00") {
        Some(local) if four_digit_year => {
            out.push(b'"');
            out.extend_from_slice(&local[..10]);
            out.push(b'T');
            out.extend_from_slice(&local[11..]);
            out.extend_from_slice(b"Z\"");
        }
        _ => write_string(out, text),
    }
}

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A commit time as RFC 3339 with six digits and Z.
pub type TimeText = [u8; 27];

/// Returns a commit time, given in microseconds since 2000-01-01, as text.
#[must_use]
pub fn commit_time(postgres_us: i64) -> TimeText {
    let unix_us = postgres_us.saturating_add(POSTGRES_EPOCH_US);
    let (seconds, micros) = (unix_us.div_euclid(1_000_000), unix_us.rem_euclid(1_000_000));
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut text[..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second_of_day / 3600);
    digits(&mut text[14..16], second_of_day / 60 % 60);
    digits(&mut text[17..19], second_of_day % 60);
    digits(&mut text[20..26], micros);
    text
}

/// Returns year, month and day of a day number counted from 1970-01-01 in the Gregorian calendar
/// (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn digits(places: &mut [u8], mut value: i64) {
    for place in places.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Appends a number.
pub fn write_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(encoding: Encoding, text: &str) -> String {
        let mut out = Vec::new();
        encoding.write(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn any_text_parses_back_to_itself(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&written(Encoding::Text, &text)).unwrap(), text);
        }

        #[test]
        fn any_bytes_parse(bytes in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            write_string(&mut out, &bytes);
            prop_assert!(serde_json::from_slice::<String>(&out).is_ok());
        }

        #[test]
        fn any_time_text_parses(text in any::<String>()) {
            prop_assert!(serde_json::from_str::<String>(&written(Encoding::Time, &text)).is_ok());
        }
    }

    #[test]
    fn a_time_without_an_rfc_3339_form_keeps_its_own_text() {
        assert_eq!(written(Encoding::Time, "2026-11-21 10:00:00.5+00"), r#""2026-11-21T10:00:00.5Z""#);
        for odd in ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "294276-12-31 23:59:59.999999+00"] {
            assert_eq!(written(Encoding::Time, odd), format!("\"{odd}\""));
        }
    }

    #[test]
    fn a_commit_time_has_six_digits_and_the_right_day() {
        assert_eq!(&commit_time(0), b"2000-01-01T00:00:00.000000Z");
        assert_eq!(&commit_time(848_484_000_123_456), b"2026-11-20T10:00:00.123456Z");
        assert_eq!(&commit_time(5_097_600_000_000 - 1), b"2000-02-28T23:59:59.999999Z");
        assert_eq!(&commit_time(5_097_600_000_000), b"2000-02-29T00:00:00.000000Z");
    }
}
