//! Wall-clock time: all servers of a stack stand on one machine, so that commit times and arrivals compare.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Reads an event's `time`, which always has six digits and Z, as microseconds since 1970.
#[must_use]
pub fn event_time_us(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    if text.len() != 27 || !text.ends_with('Z') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days from the civil calendar, after Howard Hinnant: years begin in March.
    let year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468;
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    Some(seconds * 1_000_000 + number(20, 26)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_time_is_the_calendars() {
        assert_eq!(event_time_us("1970-01-01T00:00:00.000001Z"), Some(1));
        assert_eq!(event_time_us("2024-02-29T12:34:56.000000Z"), Some(1_709_210_096_000_000));
        assert_eq!(event_time_us("2024-02-29T12:34:56Z"), None);
        assert_eq!(event_time_us("äääääääääääääZ"), None);
    }
}
