//! Lines of COPY's text format (PostgreSQL manual, COPY, "Text Format").

use std::fmt::Write as _;

/// Lines of COPY being built.
#[derive(Default)]
pub(super) struct Writer {
    text: String,
    in_line: bool,
}

impl Writer {
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn take(&mut self) -> bytes::Bytes {
        std::mem::take(&mut self.text).into_bytes().into()
    }

    fn separate(&mut self) {
        if self.in_line {
            self.text.push('\t');
        }
        self.in_line = true;
    }

    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.separate();
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                other => self.text.push(other),
            }
        }
        self
    }

    pub(super) fn value(&mut self, value: impl std::fmt::Display) -> &mut Self {
        self.separate();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    pub(super) fn null(&mut self) -> &mut Self {
        self.separate();
        self.text.push_str("\\N");
        self
    }

    pub(super) fn end(&mut self) {
        self.text.push('\n');
        self.in_line = false;
    }
}

/// Returns seconds since 1970 as a timestamp, by the calendar's arithmetic of Howard Hinnant's `civil_from_days`.
pub(super) fn timestamp(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, of_day) = (days.div_euclid(146_097), seconds.rem_euclid(86_400));
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}+00", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_the_calendars() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00+00");
        assert_eq!(timestamp(1_709_210_096), "2024-02-29 12:34:56+00");
    }
}
